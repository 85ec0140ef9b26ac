"""The states of a pair, its priority, and what its answers say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peergram.address import Address
from peergram.config import ICE_CONSENT_EXPIRY_US, ICE_RTO_INITIAL_US, ICE_RTO_MAX_US, ICE_RTO_MIN_US
from peergram.routes.candidates import Base, Candidate, CandidateKind, LocalCandidate, priority_of
from peergram.routes.pairs import LONG_AGO, TRANSITIONS, CandidatePair, PairEvent, PairState, pair_priority
from peergram.timing import NEVER

priorities = st.integers(0, (1 << 31) - 1)


def a_pair(
    own: Address = ("203.0.113.1", 1), peers: Address = ("198.51.100.2", 2), *, relay_id: int = 0, kind: str = "host"
) -> CandidatePair:
    own_kind = CandidateKind.RELAYED if relay_id else CandidateKind.HOST
    local = LocalCandidate(Candidate(own_kind, own, 1, "1"), Base(1, relay_id), own, 65_535, 24)
    remote_kind = CandidateKind(kind)
    return CandidatePair(local, Candidate(remote_kind, peers, priority_of(remote_kind, 65_535), "1"), controlling=True)


def test_from_every_state_a_pair_can_still_succeed() -> None:
    for state in PairState:
        assert TRANSITIONS[state, PairEvent.REPLY_MATCHED] is PairState.SUCCEEDED


def test_what_is_not_in_the_table_is_a_defect() -> None:
    pair = a_pair()
    with pytest.raises(KeyError):
        pair.enter(PairEvent.CONSENT_LOST)
    assert pair.state is PairState.WAITING


@given(priorities, priorities)
def test_both_sides_give_a_pair_the_same_priority(one: int, two: int) -> None:
    assert pair_priority(one, two, controlling=True) == pair_priority(two, one, controlling=False)


@given(priorities, priorities, priorities)
def test_the_smaller_number_decides_first(one: int, two: int, other: int) -> None:
    if min(one, two) > min(one, other):
        assert pair_priority(one, two, controlling=True) > pair_priority(one, other, controlling=True)


def test_of_two_equal_pairs_the_one_with_the_larger_controlled_number_is_ahead() -> None:
    assert pair_priority(5, 9, controlling=True) == pair_priority(9, 5, controlling=True) + 1


def test_relayed_means_a_relay_on_either_side() -> None:
    assert not a_pair().is_relayed
    assert a_pair(relay_id=1).is_relayed
    assert a_pair(relay_id=1).local_kind is CandidateKind.RELAYED
    assert a_pair(kind="relay").is_relayed
    assert a_pair(("10.0.0.1", 1), ("10.0.0.2", 1)).is_local
    assert not a_pair(("10.0.0.1", 1), ("10.0.0.2", 1), kind="relay").is_local


def test_only_an_answer_gives_consent_and_words_prolong_it() -> None:
    pair = a_pair()
    pair.heard_at_us = 5
    assert pair.consent_until_us == LONG_AGO
    pair.enter(PairEvent.REPLY_MATCHED)
    assert not pair.is_usable(5)
    pair.answered(0, 10, is_exact=True)
    assert pair.consent_until_us == 10 + ICE_CONSENT_EXPIRY_US
    assert pair.is_usable(9 + ICE_CONSENT_EXPIRY_US)
    assert not pair.is_usable(10 + ICE_CONSENT_EXPIRY_US)
    pair.heard_at_us = 20
    assert pair.is_usable(10 + ICE_CONSENT_EXPIRY_US)


def test_the_round_trip_is_taken_from_checks_that_were_sent_once() -> None:
    pair = a_pair()
    pair.answered(0, 900_000, is_exact=False)
    assert (pair.rtt_us, pair.rtt_samples) == (900_000, 0)
    pair.answered(1_000_000, 1_100_000, is_exact=True)
    assert (pair.rtt_us, pair.rtt_samples) == (100_000, 1)
    pair.answered(2_000_000, 2_200_000, is_exact=True)
    assert (pair.rtt_us, pair.rtt_samples) == (125_000, 2)
    pair.answered(3_000_000, 9_000_000, is_exact=False)
    assert (pair.rtt_us, pair.rtt_samples) == (125_000, 2)


def test_the_wait_for_an_answer_follows_the_round_trip_within_bounds() -> None:
    pair = a_pair()
    assert pair.reply_wait_us() == ICE_RTO_INITIAL_US
    for rtt_us, wait_us in ((1_000, ICE_RTO_MIN_US), (300_000, 600_000), (5_000_000, ICE_RTO_MAX_US)):
        pair = a_pair()
        pair.answered(0, rtt_us, is_exact=True)
        assert pair.reply_wait_us() == wait_us


def test_a_failure_is_counted_once_until_the_pair_works_again() -> None:
    pair = a_pair()
    pair.lapsed(1)
    assert pair.failures == 0
    pair.answered(1, 2, is_exact=True)
    pair.lapsed(3)
    pair.lapsed(4)
    assert (pair.failures, pair.lapsed_at_us, pair.proving_since_us) == (1, 3, NEVER)
