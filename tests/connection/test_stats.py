"""When the peer is told how the connection is doing: with traffic, without, and how often the quality is noted."""

from __future__ import annotations

import pytest

from peergram.config import (
    STATS_INSTANT_FORCED_US,
    STATS_INSTANT_US,
    STATS_INTERVAL_US,
    STATS_LIFETIME_FORCED_US,
    STATS_LIFETIME_US,
)
from peergram.connection.stats import REPORT_INSTANT, REPORT_LIFETIME, Stats

START_US = 7_000_000


def busy() -> Stats:
    stats = Stats(START_US)
    stats.packets_sent = 1_000
    stats.sequenced = 1_000
    return stats


@pytest.mark.parametrize(("own_peer", "interval_us"), [(True, STATS_INTERVAL_US), (False, STATS_INSTANT_US)])
def test_a_report_rides_along_once_its_interval_is_over(own_peer: bool, interval_us: int) -> None:
    assert busy().report_due(START_US + interval_us - 1, own_peer=own_peer) == 0
    assert busy().report_due(START_US + interval_us, own_peer=own_peer) == REPORT_INSTANT


def test_the_report_of_the_whole_lifetime_rides_along_every_two_minutes() -> None:
    assert not busy().report_due(START_US + STATS_LIFETIME_US - 1, own_peer=False) & REPORT_LIFETIME
    assert busy().report_due(START_US + STATS_LIFETIME_US, own_peer=False) & REPORT_LIFETIME


def test_without_a_packet_to_ride_on_a_report_waits_longer() -> None:
    stats = busy()
    assert stats.forced_at_us == START_US + STATS_INSTANT_FORCED_US
    assert stats.report_forced(START_US + STATS_INSTANT_FORCED_US - 1) == 0
    assert stats.report_forced(START_US + STATS_INSTANT_FORCED_US) == REPORT_INSTANT
    assert not stats.report_forced(START_US + STATS_LIFETIME_FORCED_US - 1) & REPORT_LIFETIME
    assert stats.report_forced(START_US + STATS_LIFETIME_FORCED_US) & REPORT_LIFETIME


def test_an_idle_connection_reports_nothing() -> None:
    stats = Stats(START_US)
    assert stats.report_due(START_US + STATS_LIFETIME_FORCED_US, own_peer=True) == 0
    assert stats.report_forced(START_US + STATS_LIFETIME_FORCED_US) == 0


def test_quality_is_noted_once_in_an_interval() -> None:
    stats = busy()
    for at_us in range(START_US, START_US + 4 * STATS_INTERVAL_US + 1, 100_000):
        stats.sequenced += 10
        stats.sample_quality(at_us)
    assert sum(stats.quality_histogram) == 4
