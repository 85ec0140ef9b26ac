"""Where somebody is in the relay network: his pings to points of presence, as text that travels, and what two of them tell.

    fra=25+2,ams=31

The ping to `fra` is 25 ms, and half of the samples lay 2 ms or more above that; to `ams` it is 31. The text names no address, and
two hosts in one building have the same.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from peergram.config import (
    PING_LOCATION_BYTES_MAX,
    PING_LOCATION_MS_MAX,
    RELAY_POP_KEEP_GAIN_PERCENT,
    RELAY_POP_KEEP_GAIN_US,
    RELAY_POPS_MAX,
)
from peergram.errors import UsageError
from peergram.routes.relay_map import PointOfPresence, RelayMap

_ENTRY: Final = re.compile(r"([a-z0-9]{3,4})=([0-9]{1,5})(?:\+([0-9]{1,5}))?")
_EARTH_RADIUS_KM: Final = 6_371
_KM_PER_MS: Final = 66
"""Of round trips between two places: light in glass makes 100, on cables that run as the crow flies; real ones take about half as
long again."""
_BETWEEN_POPS_MS: Final = 1
"""Between two places at one and the same point."""


@dataclass(frozen=True, slots=True)
class PopPing:
    """The ping to one point of presence: the smallest seen, and by how much half of the samples exceeded it."""

    code: str
    ms: int
    spread_ms: int = 0


@dataclass(frozen=True, slots=True)
class PingLocation:
    """Pings, the nearest first; each code once."""

    pings: tuple[PopPing, ...] = ()

    @staticmethod
    def of(pings: Iterable[PopPing]) -> PingLocation:
        """Put in order; the farthest are left out where the text would be too long."""
        kept = sorted(pings, key=lambda each: (each.ms, each.code))
        while len(str(PingLocation(tuple(kept)))) > PING_LOCATION_BYTES_MAX:
            kept.pop()
        return PingLocation(tuple(kept))

    def ms_to(self, code: str) -> int | None:
        """The ping to that place, if it is known."""
        return next((ping.ms for ping in self.pings if ping.code == code), None)

    def is_like(self, other: PingLocation) -> bool:
        """Whether chance explains what is different: the same places, and nearly the same pings."""
        pings = {ping.code: ping.ms for ping in other.pings}
        return pings.keys() == {ping.code for ping in self.pings} and all(
            abs(ping.ms - pings[ping.code]) * 1_000 < RELAY_POP_KEEP_GAIN_US
            or abs(ping.ms - pings[ping.code]) * 100 < max(ping.ms, pings[ping.code]) * RELAY_POP_KEEP_GAIN_PERCENT
            for ping in self.pings
        )

    @property
    def nearest(self) -> str:
        """The code of the nearest place; empty if none is known."""
        return self.pings[0].code if self.pings else ""

    def __str__(self) -> str:
        return ",".join(f"{p.code}={p.ms}+{p.spread_ms}" if p.spread_ms else f"{p.code}={p.ms}" for p in self.pings)


def parse_ping_location(text: str | bytes) -> PingLocation:
    """Read the text of a location. Raises UsageError."""
    if len(text) > PING_LOCATION_BYTES_MAX:
        raise UsageError(f"a ping location has at most {PING_LOCATION_BYTES_MAX} characters")
    if isinstance(text, bytes):
        text = text.decode("latin-1")
    words = text.split(",") if text else []
    if len(words) > RELAY_POPS_MAX:
        raise UsageError(f"a ping location names at most {RELAY_POPS_MAX} places")
    pings = []
    for word in words:
        match = _ENTRY.fullmatch(word)
        if match is None:
            raise UsageError("a ping location is written as 'fra=25+2,ams=31'")
        ping = PopPing(match[1], int(match[2]), int(match[3] or 0))
        if max(ping.ms, ping.spread_ms) > PING_LOCATION_MS_MAX:
            raise UsageError(f"a ping is at most {PING_LOCATION_MS_MAX} ms")
        pings.append(ping)
    if len({ping.code for ping in pings}) != len(pings):
        raise UsageError("a ping location names each place once")
    return PingLocation.of(pings)


@dataclass(frozen=True, slots=True)
class RelayPath:
    """From one location through the relay `near` it, and the one near the other (the same: one relay), to the other."""

    ms: int
    near: str
    far: str


def paths_between(one: PingLocation, other: PingLocation, relays: RelayMap) -> list[RelayPath]:
    """Every way through one or two places, the shortest estimate first."""
    pops = {pop.code: pop for pop in relays.pops}
    found = []
    for near in one.pings:
        for far in other.pings:
            between_ms = 0 if near.code == far.code else between_pops_ms(near.code, far.code, pops)
            if between_ms is not None:
                found.append(RelayPath(near.ms + between_ms + far.ms, near.code, far.code))
    # Of equals the one with a single relay.
    return sorted(found, key=lambda path: (path.ms, path.near != path.far, path.near, path.far))


def estimate_ping_ms(one: PingLocation, other: PingLocation, relays: RelayMap) -> int | None:
    """The ping between two hosts over the relay network; None where no way can be told."""
    paths = paths_between(one, other, relays)
    return paths[0].ms if paths else None


def between_pops_ms(one: str, other: str, pops: Mapping[str, PointOfPresence]) -> int | None:
    """The round trip between two places by their coordinates; None for one that is not on the map."""
    if one not in pops or other not in pops:
        return None
    return _BETWEEN_POPS_MS + round(_distance_km(pops[one], pops[other]) / _KM_PER_MS)


def _distance_km(one: PointOfPresence, other: PointOfPresence) -> float:
    """Along a great circle."""
    lat_1, lat_2 = math.radians(one.latitude), math.radians(other.latitude)
    turn = math.radians(other.longitude - one.longitude)
    half = math.sin((lat_2 - lat_1) / 2) ** 2 + math.cos(lat_1) * math.cos(lat_2) * math.sin(turn / 2) ** 2
    return 2 * _EARTH_RADIUS_KM * math.asin(min(1.0, math.sqrt(half)))
