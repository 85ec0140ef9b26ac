"""Which pair to use: thresholds one by one."""

from __future__ import annotations

import pytest

from peergram.config import (
    ICE_CONSENT_EXPIRY_US,
    ICE_PROVE_ANSWERS,
    ICE_PROVE_MAX_US,
    ICE_PROVE_US,
    ICE_RTT_GAIN_PERCENT,
    ICE_RTT_GAIN_US,
    ICE_RTT_SAMPLES,
)
from peergram.routes.choose import choose, is_proven, prove_time_us
from peergram.routes.pairs import CandidatePair, PairEvent
from tests.routes.test_pairs import a_pair

NOW = 100_000_000


def working(
    *, rtt_us: int = 50_000, samples: int = ICE_RTT_SAMPLES, at_us: int = NOW, local: bool = False, relayed: bool = False
) -> CandidatePair:
    pair = a_pair(("10.0.0.1", 1), ("10.0.0.2", 1)) if local else a_pair(relay_id=int(relayed))
    pair.enter(PairEvent.REPLY_MATCHED)
    for _ in range(samples):
        pair.answered(at_us - rtt_us, at_us, is_exact=True)
    return pair


def chosen(
    pairs: list[CandidatePair], current: CandidatePair | None, now_us: int = NOW, *, is_settling: bool = False
) -> CandidatePair | None:
    return choose(pairs, current, now_us, is_settling=is_settling)


def test_nothing_is_chosen_where_nothing_works() -> None:
    assert chosen([a_pair()], None) is None
    assert chosen([working(at_us=NOW - ICE_CONSENT_EXPIRY_US)], None) is None


def test_the_best_of_what_works_is_chosen_when_the_pair_in_use_is_gone() -> None:
    relayed, direct, local = working(relayed=True), working(), working(local=True)
    assert chosen([relayed, direct, local], None) is local
    assert chosen([relayed, direct], None) is direct
    gone = working(at_us=NOW - ICE_CONSENT_EXPIRY_US)
    assert chosen([gone, relayed], gone) is relayed
    assert chosen([gone], gone) is None


def test_a_failing_pair_is_left_for_one_that_answered_since_and_for_no_other() -> None:
    current = working(local=True)
    relayed = working(relayed=True, at_us=NOW - 2)
    current.failing_since_us = NOW - 1
    assert chosen([current, relayed], current) is current
    relayed.answered(NOW - 10, NOW, is_exact=True)
    assert chosen([current, relayed], current) is relayed


def test_a_better_kind_takes_over_at_once_when_it_never_failed() -> None:
    relayed, direct, local = working(relayed=True, rtt_us=1_000), working(rtt_us=900_000), working(local=True, rtt_us=950_000)
    assert chosen([relayed, direct], relayed) is direct
    assert chosen([relayed, direct, local], direct) is local
    assert chosen([relayed, direct, local], local) is local


def test_a_better_kind_that_failed_before_has_to_prove_itself() -> None:
    relayed, direct = working(relayed=True), working(samples=1, at_us=NOW - 1)
    direct.lapsed(NOW)
    for answers in range(1, ICE_PROVE_ANSWERS + 1):
        direct.answered(NOW - 1, NOW, is_exact=True)
        assert direct.answers_in_row == answers
        assert chosen([relayed, direct], relayed, NOW + ICE_PROVE_US - 1) is relayed
    assert chosen([relayed, direct], relayed, NOW + ICE_PROVE_US) is direct
    direct.answers_in_row = ICE_PROVE_ANSWERS - 1
    assert chosen([relayed, direct], relayed, NOW + ICE_PROVE_US) is relayed


def test_each_failure_doubles_the_time_of_proof_up_to_its_bound() -> None:
    pair = working()
    times = []
    for _ in range(8):
        pair.lapsed(NOW)
        pair.answered(NOW, NOW, is_exact=True)
        times.append(prove_time_us(pair))
        assert not is_proven(pair, NOW + times[-1])
    assert times[0] == ICE_PROVE_US
    assert times[1] == 2 * ICE_PROVE_US
    assert times[-1] == ICE_PROVE_MAX_US


@pytest.mark.parametrize(("settling", "moves"), [(True, True), (False, False)])
def test_priority_moves_us_between_equals_only_while_a_connection_comes_up(settling: bool, moves: bool) -> None:
    current, other = working(), working()
    other.preference = (False, current.preference[1] + 1)
    assert (chosen([current, other], current, is_settling=settling) is other) is moves


def test_a_clearly_smaller_round_trip_moves_us_between_equals() -> None:
    slow = working(rtt_us=ICE_RTT_GAIN_US * 2)
    assert chosen([slow, fast := working(rtt_us=ICE_RTT_GAIN_US)], slow) is fast
    assert chosen([slow, working(rtt_us=ICE_RTT_GAIN_US + 1)], slow) is slow
    assert chosen([slow, working(rtt_us=1_000, samples=ICE_RTT_SAMPLES - 1)], slow) is slow
    very_slow = working(rtt_us=1_000_000)
    enough_us = 1_000_000 * (100 - ICE_RTT_GAIN_PERCENT) // 100
    assert chosen([very_slow, fast := working(rtt_us=enough_us)], very_slow) is fast
    assert chosen([very_slow, working(rtt_us=enough_us + 1)], very_slow) is very_slow


def test_a_faster_relay_does_not_beat_a_direct_way() -> None:
    direct = working(rtt_us=900_000)
    assert chosen([direct, working(relayed=True, rtt_us=10_000)], direct, is_settling=True) is direct
