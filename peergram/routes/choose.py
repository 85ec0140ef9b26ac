"""Which of the pairs that work carries the data now: a pure function with named thresholds.

A pair that stopped answering is left as soon as another one answers. Back to a better kind (relayed, direct, same subnet) it goes
at once when that pair never failed, else when it has answered for a while, longer after each failure. Between pairs of one kind
the agreed preference decides while a connection comes up; later only a clearly smaller round trip is worth a change.
"""

from __future__ import annotations

from collections.abc import Iterable

from peergram.config import (
    ICE_PROVE_ANSWERS,
    ICE_PROVE_MAX_US,
    ICE_PROVE_US,
    ICE_RTT_GAIN_PERCENT,
    ICE_RTT_GAIN_US,
    ICE_RTT_SAMPLES,
)
from peergram.routes.pairs import CandidatePair
from peergram.timing import NEVER


def choose(
    pairs: Iterable[CandidatePair], current: CandidatePair | None, now_us: int, *, is_settling: bool
) -> CandidatePair | None:
    """The pair to use from now on; `current` when no other is better by enough, None when none may be used."""
    usable = [pair for pair in pairs if pair.is_usable(now_us)]
    if current is None or not current.is_usable(now_us):
        return max(usable, key=_hope, default=None)
    others = [pair for pair in usable if pair is not current]
    if current.failing_since_us != NEVER:
        answering = [pair for pair in others if pair.answered_at_us >= current.failing_since_us]
        return max(answering, key=_hope, default=current)
    better = [pair for pair in others if is_better(pair, current, now_us, is_settling=is_settling)]
    return max(better, key=lambda pair: (kind_rank(pair), -pair.rtt_us, pair.preference), default=current)


def _hope(pair: CandidatePair) -> tuple[bool, tuple[int, tuple[bool, int]]]:
    """What to try first when the pair in use is gone."""
    return pair.failing_since_us == NEVER, kind_and_preference(pair)


def is_better(pair: CandidatePair, current: CandidatePair, now_us: int, *, is_settling: bool) -> bool:
    """Whether it is worth moving from a pair that works."""
    if pair.failing_since_us != NEVER or not is_proven(pair, now_us):
        return False
    ranks = kind_rank(pair), kind_rank(current)
    if ranks[0] != ranks[1]:
        return ranks[0] > ranks[1]
    if is_settling and not pair.failures:
        return pair.preference > current.preference
    return is_clearly_faster(pair, current)


def is_proven(pair: CandidatePair, now_us: int) -> bool:
    """Whether a pair that failed before has answered for long enough since."""
    if not pair.failures:
        return True
    return pair.answers_in_row >= ICE_PROVE_ANSWERS and now_us >= pair.proving_since_us + prove_time_us(pair)


def prove_time_us(pair: CandidatePair) -> int:
    """How long it must answer before it is preferred again: twice as long after each failure."""
    return min(ICE_PROVE_US << min(pair.failures - 1, 16), ICE_PROVE_MAX_US)


def is_clearly_faster(pair: CandidatePair, current: CandidatePair) -> bool:
    """Whether the round trip is smaller by more than chance explains."""
    if min(pair.rtt_samples, current.rtt_samples) < ICE_RTT_SAMPLES:
        return False
    gain_us = current.rtt_us - pair.rtt_us
    return gain_us >= ICE_RTT_GAIN_US and gain_us * 100 >= current.rtt_us * ICE_RTT_GAIN_PERCENT


def kind_rank(pair: CandidatePair) -> int:
    """Relayed 0, direct 1, same subnet 2."""
    if pair.is_relayed:
        return 0
    return 2 if pair.is_local else 1


def kind_and_preference(pair: CandidatePair) -> tuple[int, tuple[bool, int]]:
    """The order in which pairs are preferred when nothing else tells them apart."""
    return kind_rank(pair), pair.preference
