"""Challenges live for a few seconds, for one client at one address, and cost us nothing to keep."""

from __future__ import annotations

import itertools
import random
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peergram.config import CHALLENGE_TICK_US
from peergram.crypto.cookie import ChallengeCookies

REMOTE = ("203.0.113.9", 4000)
NOW_US = 3_000_000_000_000


def cookies(seed: int = 1) -> ChallengeCookies:
    return ChallengeCookies(random.Random(seed).randbytes)


@given(st.integers(0, 2**50), st.integers(0, 3_000_000))
def test_a_challenge_is_good_for_three_seconds_at_any_time(now_us: int, later_us: int) -> None:
    jar = cookies()
    challenge = jar.make(REMOTE, 77, now_us)
    assert jar.check(challenge, REMOTE, 77, now_us + later_us)


@given(st.integers(0, 2**50), st.integers(4 * CHALLENGE_TICK_US, 2**45))
def test_a_challenge_is_dead_after_four_ticks_and_stays_dead(now_us: int, later_us: int) -> None:
    jar = cookies()
    challenge = jar.make(REMOTE, 77, now_us)
    assert not jar.check(challenge, REMOTE, 77, now_us + later_us)


def test_a_challenge_does_not_revive_when_its_sixteen_bits_of_time_come_round() -> None:
    jar = cookies()
    challenge = jar.make(REMOTE, 77, NOW_US)
    for rounds in range(1, 5):
        assert not jar.check(challenge, REMOTE, 77, NOW_US + rounds * CHALLENGE_TICK_US * 2**16)


@pytest.mark.parametrize(
    ("remote", "connection_id"),
    [(("203.0.113.8", 4000), 77), (("203.0.113.9", 4001), 77), (("::1", 4000), 77), (REMOTE, 78), (("203.0.113.94", 0), 77)],
)
def test_a_challenge_is_for_one_address_one_port_and_one_connection(remote: tuple[str, int], connection_id: int) -> None:
    jar = cookies()
    assert not jar.check(jar.make(REMOTE, 77, NOW_US), remote, connection_id, NOW_US)


def test_another_endpoints_challenge_is_refused() -> None:
    assert not cookies(2).check(cookies(1).make(REMOTE, 77, NOW_US), REMOTE, 77, NOW_US)


def test_every_flipped_bit_is_noticed() -> None:
    jar = cookies()
    challenge = jar.make(REMOTE, 77, NOW_US)
    assert not any(jar.check(challenge ^ 1 << bit, REMOTE, 77, NOW_US) for bit in range(64))


def test_the_low_sixteen_bits_are_coarse_time() -> None:
    assert cookies().make(REMOTE, 77, NOW_US) & 0xFFFF == (NOW_US >> 20) & 0xFFFF


def test_secrets_are_replaced_and_the_previous_one_serves_across_the_change() -> None:
    asked = itertools.count()
    jar = ChallengeCookies(lambda count: bytes([next(asked) + 1]) * count)
    period_us = CHALLENGE_TICK_US << 12
    for period in range(20):
        challenge = jar.make(REMOTE, 77, period * period_us - 1)
        assert jar.check(challenge, REMOTE, 77, period * period_us + 1_000_000)
        assert not jar.check(challenge, REMOTE, 77, (period + 2) * period_us)
    assert 20 <= next(asked) <= 23


def test_asking_about_the_time_before_the_first_challenge_forgets_nothing() -> None:
    jar = cookies()
    start_us = CHALLENGE_TICK_US << 12
    challenge = jar.make(REMOTE, 77, start_us)
    jar.check((start_us // CHALLENGE_TICK_US - 1) & 0xFFFF, REMOTE, 77, start_us)
    assert jar.check(challenge, REMOTE, 77, start_us)


def test_a_flood_from_thirty_thousand_addresses_leaves_nothing_behind() -> None:
    jar = cookies()
    jar.make(REMOTE, 77, NOW_US)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for number in range(30_000):
        remote = (f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 1 + number % 65_535)
        assert not jar.check(number << 16 | (NOW_US >> 20) & 0xFFFF, remote, number, NOW_US)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 10_000


def test_secrets_never_show() -> None:
    assert repr(cookies()) == "<ChallengeCookies>"
