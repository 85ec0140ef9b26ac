"""Whose word counts about the pair in use, and how the other side is told (RFC 8445 section 8; 03, chapters 10.4, 10.5, 13).

The controlling side nominates the first pair that works, and again when it moves. Between own peers the latest nomination wins,
whoever made it: the side that noticed that a path died takes the other one along. A reference peer, and one that nominates every
pair it checks, is followed as the reference follows: only upwards. It in turn follows us downwards only if our PRIORITY says so.
"""

from __future__ import annotations

from typing import Final

from peergram.routes.candidates import PRIORITY_MAX
from peergram.routes.pairs import CandidatePair
from peergram.timing import NEVER

_LOW_STEERING_FIRST: Final = 100_000
"""Above all low priorities, below all that the reference uses for itself."""


def follows(current: CandidatePair | None, nominated: CandidatePair, *, own_peer: bool) -> bool:
    """Whether the peer's nomination moves us."""
    if current is None or own_peer or not current.is_nominated or current.failing_since_us != NEVER:
        return True
    return nominated.preference >= current.preference


class Steering:
    """Numbers for PRIORITY that move a reference peer to a pair it would not prefer."""

    __slots__ = ("_low", "_next", "nominated")

    def __init__(self, *, low: bool) -> None:
        self._low = low
        self._next = _LOW_STEERING_FIRST
        self.nominated: CandidatePair | None = None
        """The pair that the peer uses, as far as we know."""

    def aim_at(self, pair: CandidatePair) -> None:
        """Make the checks of this pair say that it is to be preferred, if the peer would not do so by itself."""
        if self.nominated is None or self.nominated is pair:
            return
        if pair.preference > self.nominated.preference and not self.nominated.raised_priority:
            return
        pair.raised_priority = self._next if self._low else PRIORITY_MAX
        self._next += 1
