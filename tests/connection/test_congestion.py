"""Congestion control over a simulated bottleneck: the figures promised, in virtual time, for the real controller and pacing.

docs/congestion.md has the whole table; the daily form runs shorter than that and holds the same bounds.
"""

from __future__ import annotations

from random import Random

import pytest

from peergram.config import DATAGRAM_BYTES_MAX
from peergram.connection.auto_rate import AutoRate
from peergram.connection.rate import FixedRate
from peergram.sim.bottleneck import SECOND_US, Bottleneck, CubicFlow, OwnFlow, jain
from tests.threats.world import SOAK

MBIT = 125_000
RATE = 20 * MBIT
RTT_US = 50_000
BDP = RATE * RTT_US // SECOND_US
FAIR_S = 60 if SOAK else 12
WORLDS = range(20) if SOAK else range(1)
"""Each with a link, a start and luck of its own, so that nothing is tuned to one of them."""


def bottleneck(*, rate: int = RATE, buffer_bdp: float = 1.0, loss: float = 0.0, rtt_us: int = RTT_US) -> Bottleneck:
    size = max(int(buffer_bdp * rate * rtt_us / SECOND_US), 6_500)
    return Bottleneck(rate_bytes_per_s=rate, buffer_bytes=size, loss=loss)


def queue_ms(link: Bottleneck, begin_s: float, share: float) -> float:
    """The queueing delay that this share of the time did not exceed, from `begin_s` on."""
    values = sorted(link.queue_delays_us[int(begin_s * 100) :])
    return values[int(share * (len(values) - 1))] / 1_000


def competes(flow: OwnFlow) -> bool:
    assert isinstance(flow.rate, AutoRate)
    return flow.rate.competes


class World:
    """A link near the usual one."""

    def __init__(self, number: int, *, buffer_bdp: float, loss: float = 0.0) -> None:
        self.rng = Random(number)
        self.rate = int(RATE * self.rng.uniform(0.5, 2))
        self.rtt_us = int(RTT_US * self.rng.uniform(0.5, 2))
        self.loss = loss
        size = int(buffer_bdp * self.rate * self.rtt_us / SECOND_US)
        self.link = Bottleneck(rate_bytes_per_s=self.rate, buffer_bytes=size, loss=loss, seed=number)

    def add_flow(self, after_s: float = 0.0) -> OwnFlow:
        start_us = int(after_s * SECOND_US) + self.rng.randrange(100_000)
        return OwnFlow(self.link, AutoRate, rtt_us=self.rtt_us, start_us=start_us, ack_loss=self.loss)


@pytest.mark.parametrize("number", WORLDS)
def test_a_lossy_link_is_filled_whatever_it_is_like(number: int) -> None:
    world = World(number, buffer_bdp=1, loss=0.01)
    flow = world.add_flow()
    world.link.run(12 * SECOND_US)
    assert flow.sink.rate(4, 12) >= 0.9 * world.rate


@pytest.mark.parametrize("number", WORLDS)
def test_a_deep_buffer_stays_nearly_empty_whatever_the_link_is_like(number: int) -> None:
    world = World(number, buffer_bdp=10)
    flow = world.add_flow()
    world.link.run(12 * SECOND_US)
    assert flow.sink.rate(4, 12) >= 0.9 * world.rate
    assert queue_ms(world.link, 4, 0.95) < 50


@pytest.mark.parametrize("number", WORLDS)
def test_four_flows_share_fairly_whatever_the_link_is_like(number: int) -> None:
    world = World(number, buffer_bdp=4)
    flows = [world.add_flow(at * world.rng.choice((0, 1))) for at in range(4)]
    world.link.run((13 + FAIR_S) * SECOND_US)
    rates = [flow.sink.rate(13, 13 + FAIR_S) for flow in flows]
    assert jain(rates) >= 0.95
    assert sum(rates) >= 0.9 * world.rate
    assert queue_ms(world.link, 13, 0.95) < 60


@pytest.mark.parametrize("rtt_us", [50_000, 100_000])
def test_one_flow_fills_a_link_that_loses_one_packet_in_a_hundred(rtt_us: int) -> None:
    link = bottleneck(loss=0.01, rtt_us=rtt_us)
    flow = OwnFlow(link, AutoRate, rtt_us=rtt_us, ack_loss=0.01)
    link.run(12 * SECOND_US)
    assert flow.sink.rate(2, 12) >= 0.9 * RATE


@pytest.mark.parametrize("ack_delay_us", [10_000, 50_000])
def test_the_queue_of_a_clean_link_with_a_deep_buffer_stays_short(ack_delay_us: int) -> None:
    link = bottleneck(buffer_bdp=10)
    flow = OwnFlow(link, AutoRate, rtt_us=RTT_US, ack_delay_us=ack_delay_us)
    link.run(12 * SECOND_US)
    assert queue_ms(link, 2, 0.5) < 15
    assert queue_ms(link, 2, 1.0) < 50
    assert flow.sink.rate(2, 12) >= 0.95 * RATE
    assert link.overflowed == 0


@pytest.mark.parametrize("loss", [0.0, 0.01])
def test_four_flows_share_fairly_and_keep_the_queue_short(loss: float) -> None:
    link = bottleneck(buffer_bdp=4, loss=loss)
    flows = [OwnFlow(link, AutoRate, rtt_us=RTT_US, start_us=at * SECOND_US, ack_loss=loss) for at in range(4)]
    link.run((10 + FAIR_S) * SECOND_US)
    rates = [flow.sink.rate(10, 10 + FAIR_S) for flow in flows]
    assert jain(rates) >= 0.95
    assert sum(rates) >= 0.9 * RATE
    assert queue_ms(link, 10, 0.95) < 50


def test_a_late_joiner_gets_its_share() -> None:
    link = bottleneck(buffer_bdp=4)
    first = OwnFlow(link, AutoRate, rtt_us=RTT_US)
    late = OwnFlow(link, AutoRate, rtt_us=RTT_US, start_us=8 * SECOND_US)
    link.run(18 * SECOND_US)
    assert jain([first.sink.rate(12, 18), late.sink.rate(12, 18)]) >= 0.95


@pytest.mark.parametrize("buffer_bdp", [0.5, 1, 2, 4])
def test_neither_we_nor_cubic_starve(buffer_bdp: float) -> None:
    link = bottleneck(buffer_bdp=buffer_bdp)
    own = OwnFlow(link, AutoRate, rtt_us=RTT_US)
    cubic = CubicFlow(link, rtt_us=RTT_US, start_us=3 * SECOND_US)
    until_s = 60 if SOAK else 30
    link.run(until_s * SECOND_US)
    rates = [own.sink.rate(10, until_s), cubic.sink.rate(10, until_s)]
    assert min(rates) >= 0.25 * sum(rates)
    assert sum(rates) >= 0.95 * RATE


def test_once_cubic_is_gone_the_queue_is_short_again() -> None:
    link = bottleneck(buffer_bdp=2)
    flow = OwnFlow(link, AutoRate, rtt_us=RTT_US)
    cubic = CubicFlow(link, rtt_us=RTT_US, start_us=2 * SECOND_US)
    link.run(12 * SECOND_US)
    assert competes(flow)
    cubic.stop()
    link.run(40 * SECOND_US)
    assert not competes(flow)
    assert queue_ms(link, 30, 0.95) < 50


@pytest.mark.parametrize(("loss", "share"), [(0.35, 0.7), (0.6, 0.4)])
def test_heavy_loss_does_not_stop_the_flow(loss: float, share: float) -> None:
    link = bottleneck(loss=loss)
    flow = OwnFlow(link, AutoRate, rtt_us=RTT_US, ack_loss=loss)
    link.run(15 * SECOND_US)
    assert flow.sink.rate(5, 15) >= share * (1 - loss) * RATE


@pytest.mark.parametrize(("before", "after"), [(20 * MBIT, 5 * MBIT), (5 * MBIT, 20 * MBIT)])
def test_a_rate_that_changes_is_followed(before: int, after: int) -> None:
    link = Bottleneck(rate_bytes_per_s=before, buffer_bytes=4 * BDP)
    flow = OwnFlow(link, AutoRate, rtt_us=RTT_US)
    link.run(8 * SECOND_US)
    link.set_rate(after)
    link.run(18 * SECOND_US)
    assert flow.sink.rate(11, 18) >= 0.9 * after
    assert queue_ms(link, 11, 0.95) < 50


def test_a_small_link_is_filled_without_a_long_queue() -> None:
    link = Bottleneck(rate_bytes_per_s=32_000, buffer_bytes=64_000)
    flow = OwnFlow(link, AutoRate, rtt_us=RTT_US)
    link.run(30 * SECOND_US)
    assert flow.sink.rate(5, 30) >= 0.9 * 32_000
    assert queue_ms(link, 5, 0.5) < 200, "five packets of this link"


@pytest.mark.parametrize("coalesce_us", [0, 2_000])
def test_a_fast_local_network_is_filled_though_acks_come_in_bursts(coalesce_us: int) -> None:
    link = Bottleneck(rate_bytes_per_s=1_000 * MBIT, buffer_bytes=1 << 20)
    flow = OwnFlow(link, AutoRate, rtt_us=200, coalesce_us=coalesce_us)
    link.run(SECOND_US * 3 // 5)
    assert flow.sink.rate(0.2, 0.6) >= 0.95 * 1_000 * MBIT


@pytest.mark.parametrize("number", WORLDS)
@pytest.mark.parametrize("rate", [60_000_000, 250_000_000])
def test_hosts_that_stand_still_for_moments_are_no_queue(rate: int, number: int) -> None:
    link = Bottleneck(rate_bytes_per_s=rate, buffer_bytes=1 << 22, seed=number)
    flow = OwnFlow(link, AutoRate, rtt_us=200, stall_us=10_000, packet_bytes=65_000)
    link.run(SECOND_US * 3)
    assert flow.sink.rate(0.5, 3) >= 0.85 * rate


def test_who_joins_at_a_full_short_queue_takes_its_losses_for_what_they_are() -> None:
    """The newcomer never saw the path without a queue: it must not push on against losses that it makes itself."""
    link = Bottleneck(rate_bytes_per_s=1_562_500, buffer_bytes=20_300)
    flows = [OwnFlow(link, AutoRate, rtt_us=19_000, start_us=start_us) for start_us in (80_000, 0, 95_000)]
    link.run(20 * SECOND_US)
    lost_before = link.overflowed
    link.run(30 * SECOND_US)
    rates = [flow.sink.rate(20, 30) for flow in flows]
    assert min(rates) >= 0.15 * sum(rates)
    assert link.overflowed - lost_before < 0.1 * sum(rates) * 10 / DATAGRAM_BYTES_MAX


def test_flows_of_different_round_trips_share_alike() -> None:
    link = bottleneck(buffer_bdp=4)
    flows = [OwnFlow(link, AutoRate, rtt_us=rtt_us) for rtt_us in (20_000, 80_000)]
    link.run(30 * SECOND_US)
    assert jain([flow.sink.rate(10, 30) for flow in flows]) >= 0.9


def test_a_reader_that_comes_back_is_soon_served_at_full_rate() -> None:
    link = bottleneck()
    flow = OwnFlow(link, AutoRate, rtt_us=RTT_US)
    link.run(5 * SECOND_US)
    flow.is_deaf = True
    link.run(15 * SECOND_US)
    flow.is_deaf = False
    link.run(25 * SECOND_US)
    again = next(at for at in range(150, 250) if flow.sink.bins[at]) / 10
    assert again < 17.5, "the pause between two questions at most"
    assert flow.sink.rate(again + 2, again + 4) >= 0.9 * RATE


@pytest.mark.parametrize("loss", [0.0, 0.01])
def test_acks_that_come_at_odd_times_do_not_stop_the_flow(loss: float) -> None:
    link = bottleneck(loss=loss)
    flow = OwnFlow(link, AutoRate, rtt_us=RTT_US, ack_loss=loss, jitter_us=30_000)
    link.run(15 * SECOND_US)
    assert flow.sink.rate(5, 15) >= 0.8 * RATE


def test_an_application_that_sends_little_is_not_held_back_and_finds_room_later() -> None:
    link = bottleneck()
    flow = OwnFlow(link, AutoRate, rtt_us=RTT_US, app_rate=2 * MBIT)
    link.run(5 * SECOND_US)
    assert flow.sink.rate(1, 5) >= 0.97 * 2 * MBIT
    assert queue_ms(link, 1, 1.0) < 10
    flow.app_rate = 15 * MBIT
    link.run(10 * SECOND_US)
    assert flow.sink.rate(7, 10) >= 0.97 * 15 * MBIT


def test_a_peer_that_acknowledges_late_never_has_eight_thousand_packets_in_flight() -> None:
    link = Bottleneck(rate_bytes_per_s=1_000 * MBIT, buffer_bytes=1 << 26)
    flow = OwnFlow(link, lambda _, __: FixedRate(250 * MBIT), rtt_us=600_000, ack_delay_us=50_000)
    link.run(SECOND_US * 3 // 2)
    assert 7_000 < flow.in_flight_max < 8_000
