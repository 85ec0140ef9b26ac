"""Is the way in use still good, and are its stand-ins? (RFC 7675, and faster.)

The pair in use is asked every 4 to 6 s. When an answer is missing, or the connection suspects the path, it is asked every 150 ms;
if it answers none of these for about a second it counts as failing, and whatever answered meanwhile takes over. A few other
pairs are kept warm for that with a check every 15 s: of another base or to another address if there are any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from peergram.config import (
    ICE_CONSENT_MAX_US,
    ICE_CONSENT_MIN_US,
    ICE_PATIENCE_MARGIN_US,
    ICE_PATIENCE_MAX_US,
    ICE_PATIENCE_MIN_US,
    ICE_PROBE_INTERVAL_US,
    ICE_PROBE_SLOW_US,
    ICE_PROVE_INTERVAL_US,
    ICE_SPARE_INTERVAL_US,
)
from peergram.routes.choose import is_proven, kind_and_preference, kind_rank
from peergram.routes.pairs import CandidatePair
from peergram.timing import NEVER

_SCALE = 1 << 16


class Watch:
    """Asks the pair in use, and says when it is failing."""

    __slots__ = ("_entropy", "_next_at_us", "_reply_due_us", "pair", "suspicious_since_us")

    def __init__(self, entropy: Callable[[int], bytes]) -> None:
        self._entropy = entropy
        self.pair: CandidatePair | None = None
        self.suspicious_since_us = NEVER
        """Since when the pair is asked quickly; NEVER while all is well."""
        self._next_at_us = NEVER
        self._reply_due_us = NEVER

    @property
    def is_suspicious(self) -> bool:
        """Whether the pair is being asked quickly."""
        return self.suspicious_since_us != NEVER

    def follow(self, pair: CandidatePair | None, now_us: int) -> None:
        """Another pair is in use; it has just worked."""
        self.pair = pair
        self._calm(now_us)

    def suspect(self, now_us: int) -> None:
        """Ask at once, and quickly from now on.

        An answer that has just come puts it off: a connection may miss acknowledgements for long on a way that works.
        """
        if self.pair is not None and not self.is_suspicious:
            self.suspicious_since_us = now_us
            self._next_at_us = max(now_us, self.pair.answered_at_us + ICE_PROBE_INTERVAL_US)
            self._reply_due_us = NEVER

    def answered(self, pair: CandidatePair, sent_at_us: int, now_us: int) -> None:
        """A check of this pair was answered; one sent before the suspicion arose does not dispel it."""
        if pair is self.pair and (not self.is_suspicious or sent_at_us >= self.suspicious_since_us):
            self._calm(now_us)

    def ask_at_us(self) -> int:
        """When to ask next."""
        return self._next_at_us if self.pair is not None else NEVER

    def asked(self, now_us: int) -> None:
        """A probe of the pair was sent."""
        assert self.pair is not None, "nobody asks without a pair"
        if self.is_suspicious:
            is_quick = now_us < self.suspicious_since_us + ICE_PATIENCE_MAX_US
            self._next_at_us = now_us + (ICE_PROBE_INTERVAL_US if is_quick else ICE_PROBE_SLOW_US)
        else:
            self._next_at_us = NEVER
            self._reply_due_us = now_us + self.pair.reply_wait_us()

    def handle_timeout(self, now_us: int) -> bool:
        """Notice missing answers; True when the pair has just become a failing one."""
        if self.pair is None:
            return False
        if now_us >= self._reply_due_us:
            self.suspect(now_us)
        if self.pair.failing_since_us == NEVER and now_us >= self._verdict_at_us():
            self.pair.failing_since_us = self.suspicious_since_us
            return True
        return False

    def poll_at_us(self) -> int:
        """When `handle_timeout` has something to notice."""
        if self.pair is None:
            return NEVER
        verdict_at_us = self._verdict_at_us() if self.pair.failing_since_us == NEVER else NEVER
        return min(self._reply_due_us, verdict_at_us)

    def _verdict_at_us(self) -> int:
        if self.pair is None or not self.is_suspicious:
            return NEVER
        return self.suspicious_since_us + patience_us(self.pair)

    def _calm(self, now_us: int) -> None:
        self.suspicious_since_us = NEVER
        self._reply_due_us = NEVER
        share = int.from_bytes(self._entropy(2), "big")
        self._next_at_us = now_us + ICE_CONSENT_MIN_US + (ICE_CONSENT_MAX_US - ICE_CONSENT_MIN_US) * share // _SCALE


def patience_us(pair: CandidatePair) -> int:
    """How long a pair may leave quick probes unanswered: several round trips, about a second."""
    return min(max(3 * pair.rtt_us + ICE_PATIENCE_MARGIN_US, ICE_PATIENCE_MIN_US), ICE_PATIENCE_MAX_US)


def spares_of(selected: CandidatePair | None, pairs: Iterable[CandidatePair], now_us: int) -> list[CandidatePair]:
    """The stand-ins: as different from the pair in use as there are, then by cost and preference."""
    if selected is None:
        return []
    others = [pair for pair in pairs if pair is not selected and pair.is_usable(now_us)]
    others.sort(key=lambda pair: (_difference(pair, selected), *_known_cost(pair), kind_and_preference(pair)), reverse=True)
    return others


def _known_cost(pair: CandidatePair) -> tuple[bool, int]:
    return pair.cost_us > 0, -pair.cost_us


def _difference(pair: CandidatePair, selected: CandidatePair) -> int:
    return (pair.base != selected.base) + (pair.remote[0] != selected.remote[0])


def returning(selected: CandidatePair | None, pairs: Iterable[CandidatePair], now_us: int) -> list[CandidatePair]:
    """Pairs of a better kind that failed and answer again: they are watched until they have proven themselves."""
    if selected is None:
        return []
    rank = kind_rank(selected)
    found = [pair for pair in pairs if pair.is_usable(now_us) and kind_rank(pair) > rank and not is_proven(pair, now_us)]
    return sorted(found, key=kind_and_preference, reverse=True)


def warm_at_us(pair: CandidatePair, watch: Watch, *, is_returning: bool) -> int:
    """When a pair that is kept warm is to be checked next."""
    if watch.is_suspicious and pair.answered_at_us < watch.suspicious_since_us:
        return max(watch.suspicious_since_us, pair.probed_at_us + 2 * ICE_PROBE_INTERVAL_US)
    if pair.unanswered_probes:
        return pair.probed_at_us + max(pair.reply_wait_us(), ICE_PROVE_INTERVAL_US)
    if is_returning:
        return max(pair.probed_at_us, pair.answered_at_us) + ICE_PROVE_INTERVAL_US
    return max(pair.probed_at_us, pair.answered_at_us) + ICE_SPARE_INTERVAL_US
