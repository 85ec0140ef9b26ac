"""What a program is told about the way in use: its kind, the reference's flags, and the peer's address (03, chapter 11.5)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from peergram.address import Address
from peergram.routes.pairs import CandidatePair

FLAG_FAST: Final = 8
FLAG_RELAYED: Final = 16


class RouteKind(Enum):
    """How packets get to the peer."""

    DIRECT = "direct"
    LOCAL = "local"
    RELAYED = "relayed"


@dataclass(frozen=True, slots=True)
class Route:
    """`flags` as in the reference's connection info; `remote` is None where a relay hides the peer's address."""

    kind: RouteKind
    flags: int
    remote: Address | None
    rtt_us: int


def route_of(pair: CandidatePair) -> Route:
    """Describe a pair."""
    if pair.is_relayed:
        return Route(RouteKind.RELAYED, FLAG_RELAYED, None, pair.rtt_us)
    if pair.is_local:
        return Route(RouteKind.LOCAL, FLAG_FAST, pair.remote, pair.rtt_us)
    return Route(RouteKind.DIRECT, 0, pair.remote, pair.rtt_us)
