"""GodotSteam's functions about the relay network, over ours: same names, keys and numbers.

A location is a PackedByteArray there: bytes that only these functions read. Here they are its text.
"""

from __future__ import annotations

from typing import Any, Final

from peergram.errors import UsageError
from peergram.events import RelayNetworkStatus
from peergram.messages import Messages

_PING_UNKNOWN: Final = -2
_NO_AGE: Final = -1.0


class RelayFunctions:
    """A part of `Steam`, which has `messages`."""

    _messages: Messages

    def initRelayNetworkAccess(self) -> None:
        """Measure the pings to points of presence, and keep them up to date for a while."""
        self._messages.relay_network.start()

    def getRelayNetworkStatus(self) -> int:
        """One of `NetworkingAvailability`; the signal `relay_network_status` tells more, when it changes."""
        return int(self._messages.relay_network.status.availability)

    def getLocalPingLocation(self) -> dict[str, Any]:
        """`location` as bytes and its `age` in seconds, -1 and nothing while unknown."""
        found = self._messages.relay_network.location()
        if found is None:
            return {"location": b"", "age": _NO_AGE}
        location, age_s = found
        return {"location": str(location).encode(), "age": age_s}

    def checkPingDataUpToDate(self, max_age_in_seconds: float) -> bool:
        """Whether the pings are younger than that; if not, they are being measured from now on."""
        return self._messages.relay_network.is_up_to_date(max(0.0, float(max_age_in_seconds)))

    def convertPingLocationToString(self, location: bytes) -> str:
        """Text that travels; empty for what is no location."""
        try:
            return str(self._messages.relay_network.parse(location))
        except UsageError:
            return ""

    def parsePingLocationString(self, location_string: str) -> dict[str, Any]:
        """`success`, and the `ping_location` as bytes."""
        try:
            return {"success": True, "ping_location": str(self._messages.relay_network.parse(location_string)).encode()}
        except UsageError:
            return {"success": False, "ping_location": b""}

    def estimatePingTimeBetweenTwoLocations(self, location1: bytes, location2: bytes) -> int:
        """Milliseconds over the relay network; -2 if nothing can be told."""
        relays = self._messages.relay_network
        try:
            return _ping(relays.estimate_ms_between(relays.parse(location1), relays.parse(location2)))
        except UsageError:
            return _PING_UNKNOWN

    def estimatePingTimeFromLocalHost(self, location: bytes) -> int:
        """The same from here."""
        relays = self._messages.relay_network
        try:
            return _ping(relays.estimate_ms_to(relays.parse(location)))
        except UsageError:
            return _PING_UNKNOWN

    def getPingToDataCenter(self, pop_id: int) -> dict[str, int]:
        """`ping` by the best way, and the `pop_relay` that this leads through (0: none)."""
        relays = self._messages.relay_network
        try:
            found = relays.ms_to(relays.code_of(pop_id))
        except UsageError:
            found = None
        if found is None:
            return {"pop_relay": 0, "ping": _PING_UNKNOWN}
        return {"pop_relay": relays.number_of(found[1]), "ping": found[0]}

    def getDirectPingToPOP(self, pop_id: int) -> int:
        """The ping to the relays of that place; -2 while unknown."""
        relays = self._messages.relay_network
        try:
            return _ping(relays.direct_ms_to(relays.code_of(pop_id)))
        except UsageError:
            return _PING_UNKNOWN

    def getPOPCount(self) -> int:
        """How many places are on the relay map."""
        return len(self._messages.relay_network.places)

    def getPOPList(self) -> list[int]:
        """Their numbers."""
        relays = self._messages.relay_network
        return [relays.number_of(pop.code) for pop in relays.places]


def status_arguments(status: RelayNetworkStatus) -> tuple[int, int, int, int, str]:
    """Of the signal: available, ping_measurement, available_config, available_relay, debug_message."""
    return (
        int(status.availability),
        int(status.is_measuring),
        int(status.config),
        int(status.any_relay),
        status.debug,
    )


def _ping(ms: int | None) -> int:
    return _PING_UNKNOWN if ms is None else ms
