"""Waiting before the next connection to a service."""

from __future__ import annotations

from itertools import pairwise

import pytest

from peergram.config import SIGNALING_RECONNECT_MAX_US, SIGNALING_RECONNECT_MIN_US, SIGNALING_STEADY_US
from peergram.signaling.reconnect import Reconnect


def longest_waits(reconnect: Reconnect, count: int) -> list[int]:
    return [reconnect.handle_lost(0, 1.0) for _ in range(count)]


@pytest.mark.parametrize("failures", [1, 2, 5, 50, 10_000])
def test_every_wait_is_between_the_shortest_and_the_longest(failures: int) -> None:
    for chance in (0.0, 0.5, 0.999_999):
        reconnect = Reconnect()
        for _ in range(failures):
            wait_us = reconnect.handle_lost(0, chance)
            assert SIGNALING_RECONNECT_MIN_US <= wait_us <= SIGNALING_RECONNECT_MAX_US


def test_waits_grow_up_to_the_longest() -> None:
    waits = longest_waits(Reconnect(), 8)
    assert waits[:3] == [2 * SIGNALING_RECONNECT_MIN_US, 4 * SIGNALING_RECONNECT_MIN_US, 8 * SIGNALING_RECONNECT_MIN_US]
    assert waits == sorted(waits)
    assert waits[-1] == SIGNALING_RECONNECT_MAX_US


def test_chance_spreads_clients_over_the_whole_time() -> None:
    reconnect = Reconnect()
    longest_waits(reconnect, 10)
    waits = [reconnect.handle_lost(0, step / 10) for step in range(10)]
    assert waits[0] == SIGNALING_RECONNECT_MIN_US
    gaps = [later - earlier for earlier, later in pairwise(waits)]
    assert max(gaps) - min(gaps) <= 1


def test_a_connection_that_held_makes_the_next_wait_short_again_and_one_that_did_not_does_not() -> None:
    reconnect = Reconnect()
    longest_waits(reconnect, 4)
    reconnect.handle_connected(0)
    assert reconnect.handle_lost(SIGNALING_STEADY_US - 1, 1.0) > 2 * SIGNALING_RECONNECT_MIN_US
    reconnect.handle_connected(0)
    assert reconnect.handle_lost(SIGNALING_STEADY_US, 1.0) == 2 * SIGNALING_RECONNECT_MIN_US
    assert reconnect.handle_lost(SIGNALING_STEADY_US * 2, 1.0) == 4 * SIGNALING_RECONNECT_MIN_US
