"""Whom we follow, and how a reference peer is made to follow us."""

from __future__ import annotations

from peergram.routes.candidates import PRIORITY_MAX
from peergram.routes.nomination import Steering, follows
from peergram.routes.pairs import CandidatePair
from tests.routes.test_pairs import a_pair


def ranked(priority: int, *, nominated: bool = False) -> CandidatePair:
    pair = a_pair()
    pair.preference = (False, priority)
    pair.is_nominated = nominated
    return pair


def test_an_own_peer_is_followed_anywhere() -> None:
    assert follows(ranked(9, nominated=True), ranked(1), own_peer=True)


def test_others_are_followed_upwards_only() -> None:
    current = ranked(5, nominated=True)
    assert not follows(current, ranked(4), own_peer=False)
    assert follows(current, ranked(5), own_peer=False)
    assert follows(current, ranked(6), own_peer=False)


def test_others_are_followed_from_a_pair_that_nobody_nominated_or_that_is_failing() -> None:
    assert follows(None, ranked(1), own_peer=False)
    assert follows(ranked(5), ranked(1), own_peer=False)
    failing = ranked(5, nominated=True)
    failing.failing_since_us = 1
    assert follows(failing, ranked(1), own_peer=False)


def test_upwards_a_reference_follows_by_itself() -> None:
    steering = Steering(low=False)
    pair, better = ranked(5), ranked(6)
    steering.aim_at(pair)
    steering.nominated = pair
    steering.aim_at(pair)
    steering.aim_at(better)
    assert pair.raised_priority == better.raised_priority == 0


def test_downwards_it_is_given_the_largest_priority() -> None:
    steering = Steering(low=False)
    steering.nominated = ranked(6)
    worse = ranked(5)
    steering.aim_at(worse)
    assert worse.raised_priority == PRIORITY_MAX


def test_under_low_priorities_each_move_has_a_larger_one() -> None:
    steering = Steering(low=True)
    best, other = ranked(6), ranked(5)
    steering.nominated = best
    steering.aim_at(other)
    assert other.raised_priority == 100_000
    steering.nominated = other
    steering.aim_at(best)
    assert best.raised_priority == 100_001
    steering.nominated = best
    steering.aim_at(other)
    assert other.raised_priority == 100_002
