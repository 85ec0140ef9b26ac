"""Token buckets: the rate, the burst, and how little they remember."""

from __future__ import annotations

import pytest

from peergram import config
from peergram.signaling.rates import TokenBuckets

SECOND = 1_000_000


def test_a_burst_and_then_the_rate() -> None:
    buckets = TokenBuckets(10, 20, 8)
    assert sum(buckets.take("alice", 0) for _ in range(100)) == 20
    taken = sum(buckets.take("alice", now_us) for now_us in range(0, 10 * SECOND, 1_000))
    assert 99 <= taken <= 100


def test_what_was_not_used_fills_up_to_the_burst_and_no_further() -> None:
    buckets = TokenBuckets(10, 20, 8)
    assert sum(buckets.take("alice", 0) for _ in range(20)) == 20
    assert sum(buckets.take("alice", SECOND) for _ in range(100)) == 10
    assert sum(buckets.take("alice", 3_600 * SECOND) for _ in range(100)) == 20


def test_a_refused_request_costs_nothing() -> None:
    buckets = TokenBuckets(1, 1, 8)
    assert buckets.take("alice", 0)
    for now_us in range(1, SECOND, 1_000):
        assert not buckets.take("alice", now_us)
    assert buckets.take("alice", SECOND)


def test_keys_do_not_share() -> None:
    buckets = TokenBuckets(1, 1, 8)
    assert buckets.take("alice", 0)
    assert buckets.take("bob", 0)
    assert not buckets.take("alice", 0)


def test_full_buckets_are_forgotten_by_and_by() -> None:
    buckets = TokenBuckets(10, 20, 1_000)
    for key in range(500):
        buckets.take(key, 0)
    assert len(buckets) == 500
    for step in range(300):
        buckets.take("alice", SECOND + step * SECOND)
    assert len(buckets) == 1


def test_a_sweep_forgets_them_at_once_and_keeps_the_others() -> None:
    buckets = TokenBuckets(10, 20, 1_000)
    for key in range(500):
        buckets.take(key, 0)
    buckets.take("alice", SECOND)
    buckets.sweep(SECOND)
    assert len(buckets) == 1


@pytest.mark.parametrize("limit", [config.SIGNAL_RATE_KEYS_MAX, config.SERVER_HOSTS_WATCHED_MAX, 100])
def test_there_are_never_more_than_the_limit_and_the_oldest_goes(limit: int) -> None:
    buckets = TokenBuckets(1, 1, limit)
    for key in range(limit):
        assert buckets.take(key, 0)
    assert buckets.take("one more", 0)
    assert len(buckets) == limit
    assert not buckets.take(1, 0)
    assert buckets.take(0, 0)


def test_a_token_that_is_given_back_can_be_taken_again_and_no_others() -> None:
    buckets = TokenBuckets(1, 2, 10)
    assert [buckets.take("alice", 0) for _ in range(3)] == [True, True, False]
    buckets.give_back("alice")
    buckets.give_back("nobody")
    assert [buckets.take("alice", 0) for _ in range(2)] == [True, False]
    assert len(buckets) == 1
