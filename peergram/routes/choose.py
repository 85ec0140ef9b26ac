"""Which of the pairs that work carries the data now: a pure function with named thresholds.

A pair that stopped answering is left as soon as another one answers. Back to a better kind (relayed, direct, same subnet) it goes
at once when that pair never failed, else when it has answered for a while, longer after each failure. Between pairs of one kind
the agreed preference decides while a connection comes up; later only a clearly smaller round trip is worth a change.

Pairs that were measured side by side (`contest.py`) are judged by their costs instead: a worse kind must be clearly cheaper to be
moved to, and is left again once it is so no longer by half as much. Between pairs of one kind the cheaper one wins while
a connection comes up, and later one that is clearly cheaper.
"""

from __future__ import annotations

from collections.abc import Iterable

from peergram.config import (
    ICE_CONTEST_EARLY_GAIN_PERCENT,
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
    pairs: Iterable[CandidatePair],
    current: CandidatePair | None,
    now_us: int,
    *,
    is_settling: bool,
    is_early: bool = False,
    may_compare: bool = True,
) -> CandidatePair | None:
    """The pair to use from now on; `current` when no other is better by enough, None when none may be used.

    `is_early`: the best way may still be about to be found; `may_compare`: whether costs are reason enough to move.
    """
    usable = [pair for pair in pairs if pair.is_usable(now_us)]
    if current is None or not current.is_usable(now_us):
        return max(usable, key=_hope, default=None)
    others = [pair for pair in usable if pair is not current]
    if current.failing_since_us != NEVER:
        answering = [pair for pair in others if pair.answered_at_us >= current.failing_since_us]
        return max(answering, key=_hope, default=current)
    better = []
    for pair in others:
        if pair.cost_us and current.cost_us:
            if may_compare and is_in_order(pair, now_us) and is_worth_a_move(pair, current, is_early=is_early):
                better.append(pair)
        elif is_better(pair, current, now_us, is_settling=is_settling):
            better.append(pair)
    if better and all(pair.cost_us for pair in better):
        return min(better, key=lambda pair: (weight_us(pair), pair.rtt_us))
    return max(better, key=lambda pair: (kind_rank(pair), -pair.rtt_us, pair.preference), default=current)


def _hope(pair: CandidatePair) -> tuple[bool, tuple[int, tuple[bool, int]]]:
    """What to try first when the pair in use is gone."""
    return pair.failing_since_us == NEVER, kind_and_preference(pair)


def is_better(pair: CandidatePair, current: CandidatePair, now_us: int, *, is_settling: bool) -> bool:
    """Whether it is worth moving from a pair that works."""
    if not is_in_order(pair, now_us):
        return False
    ranks = kind_rank(pair), kind_rank(current)
    if ranks[0] != ranks[1]:
        # A way that won a comparison is left for one that has been in none only if that is no worse at first sight.
        return ranks[0] > ranks[1] and (not current.cost_us or pair.rtt_us <= current.cost_us + ICE_RTT_GAIN_US)
    if is_settling and not pair.failures:
        return pair.preference > current.preference
    return is_clearly_faster(pair, current)


def is_in_order(pair: CandidatePair, now_us: int) -> bool:
    """Whether nothing is known against it."""
    return pair.failing_since_us == NEVER and is_proven(pair, now_us)


def is_worth_a_move(pair: CandidatePair, current: CandidatePair, *, is_early: bool) -> bool:
    """Whether costs say so."""
    ranks = kind_rank(pair), kind_rank(current)
    if ranks[0] > ranks[1]:
        return not _is_cheaper(current, pair, ICE_RTT_GAIN_US // 2, ICE_RTT_GAIN_PERCENT // 2)
    if ranks[0] == ranks[1] and is_early:
        return _is_cheaper(pair, current, 0, ICE_CONTEST_EARLY_GAIN_PERCENT)
    return _is_cheaper(pair, current, ICE_RTT_GAIN_US, ICE_RTT_GAIN_PERCENT)


def _is_cheaper(pair: CandidatePair, other: CandidatePair, gain_us: int, gain_percent: int) -> bool:
    gained_us = other.cost_us - pair.cost_us
    return gained_us >= gain_us and gained_us * 100 >= other.cost_us * gain_percent


def weight_us(pair: CandidatePair) -> int:
    """The cost at which a direct way would be as good."""
    if kind_rank(pair):
        return pair.cost_us
    return max(pair.cost_us + ICE_RTT_GAIN_US, pair.cost_us * 100 // (100 - ICE_RTT_GAIN_PERCENT))


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
