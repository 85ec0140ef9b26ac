"""Round trips: bounds of the time-out, and the ping as the reference smooths it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from peergram.config import RTO_INITIAL_US, RTO_MAX_US, RTO_MIN_US
from peergram.connection.rtt import RoundTrip

SAMPLES = st.lists(st.tuples(st.integers(-5_000, 3_000_000), st.integers(0, 300_000)), max_size=60)


def fed(samples: list[tuple[int, int]]) -> RoundTrip:
    round_trip = RoundTrip()
    now_us = 0
    for sample_us, after_us in samples:
        now_us += after_us
        round_trip.add_sample(sample_us, now_us)
    return round_trip


@given(SAMPLES, st.sampled_from([0, 10_000, 50_000]))
def test_the_time_out_stays_within_its_bounds(samples: list[tuple[int, int]], ack_delay_us: int) -> None:
    round_trip = fed(samples)
    timeout_us = round_trip.timeout_us(ack_delay_us)
    if round_trip.is_known:
        assert RTO_MIN_US + ack_delay_us <= timeout_us <= RTO_MAX_US
        assert timeout_us >= min(round_trip.smoothed_us, RTO_MAX_US)
    else:
        assert timeout_us == RTO_INITIAL_US


@given(SAMPLES)
def test_implausible_samples_are_not_taken(samples: list[tuple[int, int]]) -> None:
    """-1 ms to 2 s, and what is negative becomes 0."""
    plausible = [max(sample_us, 0) for sample_us, _ in samples if -1_000 <= sample_us <= 2_000_000]
    round_trip = fed(samples)
    assert round_trip.ping_samples == len(plausible)
    if plausible:
        assert round_trip.latest_us == plausible[-1]
        assert round_trip.min_us == min(plausible)
        assert min(plausible) - 8 <= round_trip.smoothed_us <= max(plausible)
        assert round_trip.variation_us >= 0
    else:
        assert round_trip.ping_ms is None
        assert round_trip.worst_recent_ping_ms is None


def test_the_ping_is_the_mean_of_the_two_smallest_of_the_last_three() -> None:
    """Protocol part 2, 13.1."""
    round_trip = RoundTrip()
    seen = []
    for at, ping_ms in enumerate((50, 30, 80, 40, 90)):
        round_trip.add_sample(ping_ms * 1_000, at * 200_000)
        seen.append(round_trip.ping_ms)
    assert seen == [50, 30, 40, 35, 60]


def test_a_sample_soon_after_another_only_counts_if_it_is_smaller() -> None:
    round_trip = RoundTrip()
    for at, ping_ms in enumerate((10, 20, 30)):
        round_trip.add_sample(ping_ms * 1_000, at * 200_000)
    round_trip.add_sample(99_000, 400_001)
    assert round_trip.worst_recent_ping_ms == 30
    round_trip.add_sample(5_000, 400_002)
    assert round_trip.ping_ms == (5 + 10) // 2


def test_a_steady_path_is_learned() -> None:
    round_trip = fed([(40_000, 10_000)] * 60)
    assert round_trip.smoothed_us == 40_000
    assert round_trip.variation_us < 100
