"""The relay network for a program: how it stands, where we are in it, and what pings follow. The same object in every dress.

Nothing is measured before somebody needs it: a call to a peer, `start`, or `is_up_to_date`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from peergram.drivers.opening import RelayMapSource, RelayTicketSource, relay_options
from peergram.endpoint.endpoint import Endpoint
from peergram.errors import UsageError
from peergram.events import Availability, RelayNetworkStatus
from peergram.routes.ping_location import PingLocation, parse_ping_location
from peergram.routes.relay_map import PointOfPresence, pop_code, pop_id
from peergram.routes.relay_network import RelayNetwork

T = TypeVar("T")


class Call(Protocol):
    """Runs a command in the driver's turn."""

    def __call__(self, command: Callable[[int], T]) -> T: ...


_NO_SIGNALING = RelayNetworkStatus(
    Availability.CANNOT_TRY, False, Availability.CANNOT_TRY, Availability.CANNOT_TRY, "without signaling no relay is of use"
)


class RelayView:
    """Made by `Messages` and `aio`; locations are given as values or as their text."""

    def __init__(self, endpoint: Endpoint, call: Call) -> None:
        self._endpoint = endpoint
        self._call = call

    def start(self) -> None:
        """Measure the pings to points of presence, and keep them up to date for ten minutes from the last use."""
        self._call(lambda now_us: self._endpoint.want_relay_pings(now_us))

    def replace(self, relay_map: RelayMapSource | None = None, tickets: RelayTicketSource | None = None) -> None:
        """Another map or other tickets, such as those of a file that was renewed; None leaves what there is. Relays in use go on.
        Raises UsageError; then nothing changes."""
        options = relay_options(relay_map, tickets)
        self._call(lambda now_us: self._endpoint.give_relays(options, now_us))

    @property
    def status(self) -> RelayNetworkStatus:
        """How the network stands."""
        return self._look(lambda network, now_us: network.status(), _NO_SIGNALING)

    @property
    def places(self) -> tuple[PointOfPresence, ...]:
        """The points of presence on the map."""
        return self._look(lambda network, now_us: network.relays.pops, ())

    def location(self) -> tuple[PingLocation, float] | None:
        """Where we are, and how many seconds ago that was measured; None before the first measurement, or in another network."""

        def look(network: RelayNetwork, now_us: int) -> tuple[PingLocation, float] | None:
            age_us = network.pings.age_us(now_us)
            return None if age_us is None else (network.pings.location(), age_us / 1e6)

        return self._look(look, None)

    def is_up_to_date(self, max_age_s: float) -> bool:
        """Whether the pings are younger than that; if not, they are being measured from now on."""
        if not max_age_s >= 0:
            raise UsageError(f"max_age_s: give seconds from 0 on, not {max_age_s!r}")
        max_age_us = int(min(max_age_s, 1e9) * 1e6)
        return self._call(lambda now_us: self._endpoint.refresh_relay_pings(max_age_us, now_us))

    def estimate_ms_between(self, one: PingLocation | str, other: PingLocation | str) -> int | None:
        """The ping between two locations over the relay network, which a direct way may beat; None if nothing can be told."""
        ends = _location(one), _location(other)
        return self._look(lambda network, now_us: network.estimate_ms(*ends), None)

    def estimate_ms_to(self, other: PingLocation | str) -> int | None:
        """The same from here."""
        there = _location(other)
        return self._look(lambda network, now_us: network.estimate_ms(network.pings.location(), there), None)

    def direct_ms_to(self, code: str) -> int | None:
        """The ping to the relays of a place; None while unknown."""
        return self._look(lambda network, now_us: network.pings.location().ms_to(code), None)

    def ms_to(self, code: str) -> tuple[int, str] | None:
        """The ping to a place by the best way, and the code of the place that this leads through (empty: none); None while
        unknown."""
        return self._look(lambda network, now_us: network.ping_to_pop(code), None)

    @staticmethod
    def parse(location: str | bytes) -> PingLocation:
        """Read the text of a location. Raises UsageError."""
        return parse_ping_location(location)

    @staticmethod
    def number_of(code: str) -> int:
        """A place's code as the number that the reference makes of it; 0 for no code."""
        return pop_id(code) if code else 0

    @staticmethod
    def code_of(number: int) -> str:
        """The code behind such a number. Raises UsageError."""
        return pop_code(number)

    def _look(self, look: Callable[[RelayNetwork, int], T], without: T) -> T:
        network = self._endpoint.relay_network
        if network is None:
            return without
        return self._call(lambda now_us: look(network, now_us))


def _location(given: PingLocation | str) -> PingLocation:
    return given if isinstance(given, PingLocation) else parse_ping_location(given)
