"""Pacing and the rate: never above the bucket's promise, always within the controller's bounds."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peergram.config import DATAGRAM_BYTES_MAX, PACKETS_IN_FLIGHT_MAX
from peergram.connection.auto_rate import AutoRate
from peergram.connection.in_flight import SentPacket
from peergram.connection.pacing import TokenBucket
from peergram.connection.rate import FixedRate
from peergram.connection.rtt import RoundTrip
from peergram.sim.bottleneck import Bottleneck, OwnFlow
from tests.threats.world import SOAK

BURST_BYTES_MIN = 2 * DATAGRAM_BYTES_MAX


@settings(max_examples=2_000 if SOAK else 80)
@given(
    seed=st.integers(0, 1 << 32),
    rate=st.integers(1_024, 200_000_000),
    datagram_bytes=st.sampled_from([DATAGRAM_BYTES_MAX, 8_000, 65_000]),
)
def test_over_any_time_no_more_goes_than_the_rate_a_burst_and_one_packet(seed: int, rate: int, datagram_bytes: int) -> None:
    """V14."""
    rng = Random(seed)
    now_us = 1_000_000
    bucket = TokenBucket(now_us)
    bucket.datagram_bytes = datagram_bytes
    two_packets = min(2 * datagram_bytes, rate * 10_000 // 1_000_000)
    burst = max(BURST_BYTES_MIN, rate * 2_000 // 1_000_000, two_packets)
    sent: list[tuple[int, int]] = []
    for _ in range(300):
        now_us = bucket.ready_at_us(rate, now_us) if rng.random() < 0.5 else now_us + rng.choice((0, 1, 100, 10_000, 5_000_000))
        bucket.fill(rate, now_us)
        while bucket.tokens >= 0 and rng.random() < 0.9:
            size = rng.randint(20, datagram_bytes)
            bucket.tokens -= size
            sent.append((now_us, size))
    for _ in range(100):
        first, last = sorted(rng.choices(range(len(sent)), k=2)) if sent else (0, -1)
        elapsed_us = sent[last][0] - sent[first][0] if sent else 0
        assert sum(size for _, size in sent[first : last + 1]) <= burst + rate * elapsed_us / 1e6 + datagram_bytes + 1


@given(st.integers(1_024, 200_000_000), st.integers(1, DATAGRAM_BYTES_MAX))
def test_when_the_bucket_says_ready_it_is(rate: int, debt: int) -> None:
    bucket = TokenBucket(0)
    bucket.tokens = -debt
    ready_at_us = bucket.ready_at_us(rate, 0)
    assert ready_at_us > 0
    bucket.fill(rate, ready_at_us)
    assert bucket.tokens >= 0


def test_a_clock_that_stands_still_or_goes_back_fills_nothing() -> None:
    bucket = TokenBucket(1_000_000)
    bucket.tokens = 0
    bucket.fill(1_000_000, 1_000_000)
    bucket.fill(1_000_000, 500_000)
    assert bucket.tokens == 0


def test_the_fixed_rate_is_what_was_configured_whatever_happens() -> None:
    rate = FixedRate(262_144)
    rate.handle_acked(0, 1_000_000, None, RoundTrip(), 1)
    rate.handle_timeout()
    rate.handle_idle(0)
    assert rate.rate_bytes_per_s == 262_144


@settings(max_examples=500 if SOAK else 40)
@given(seed=st.integers(0, 1 << 32))
def test_whatever_acks_say_rate_and_window_stay_within_bounds(seed: int) -> None:
    """E11, as far as one side can see: a hostile receiver steers within the limits."""
    rng = Random(seed)
    now_us = 1_000_000
    rate = AutoRate(10_000, now_us)
    round_trip = RoundTrip()
    for _ in range(400):
        now_us += rng.choice((1, 100, 10_000, 1_000_000))
        if rng.random() < 0.7:
            round_trip.add_sample(rng.choice((0, 100, 20_000, 1_900_000)), now_us)
        delivered, at_us = rate.delivered
        newest = SentPacket(now_us - 1, 1_300, [], True, rng.randint(0, delivered), min(at_us, now_us), 0)
        acked, lost = rng.choice((0, 1_300, 2_000_000)), rng.choice((0, 0, 1_300, 2_000_000))
        rate.handle_acked(acked, lost, newest if rng.random() < 0.9 else None, round_trip, now_us)
        if rng.random() < 0.1:
            rate.handle_timeout()
        if rng.random() < 0.1:
            rate.handle_idle(rng.randrange(100_000))
        assert 8 * DATAGRAM_BYTES_MAX <= rate.window_bytes <= PACKETS_IN_FLIGHT_MAX * DATAGRAM_BYTES_MAX
        assert rate.rate_bytes_per_s >= 16 * 1_024


@pytest.mark.parametrize("loss", [0.0, 0.02])
@pytest.mark.parametrize(("capacity", "rtt_us"), [(250_000, 40_000), (2_500_000, 20_000)])
def test_the_rate_found_is_near_what_the_path_carries(capacity: int, rtt_us: int, loss: float) -> None:
    link = Bottleneck(rate_bytes_per_s=capacity, buffer_bytes=capacity * rtt_us // 1_000_000, loss=loss)
    flow = OwnFlow(link, AutoRate, rtt_us=rtt_us, ack_loss=loss)
    seconds = 6 if SOAK else 3
    link.run(seconds * 1_000_000)
    assert 0.8 * capacity <= flow.sink.rate(0, seconds)
    assert flow.rate.rate_bytes_per_s <= 2 * capacity
