"""What the agent of one peer tells its owner."""

from __future__ import annotations

from dataclasses import dataclass

from peergram.routes.pairs import CandidatePair


@dataclass(frozen=True, slots=True)
class Found:
    """The first pair that works; said once."""

    pair: CandidatePair


@dataclass(frozen=True, slots=True)
class Selected:
    """From now on data goes this way."""

    pair: CandidatePair


@dataclass(frozen=True, slots=True)
class Lost:
    """No way to the peer works; checks go on, and `Selected` says when one does again."""


IceEvent = Found | Selected | Lost
