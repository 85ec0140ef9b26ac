from __future__ import annotations

import time
from random import Random
from typing import Any

import pytest

from peergram.config import PACKETS_PER_TRANSMIT_MAX
from peergram.drivers.fake_network import PACKETS_HELD_MAX, EndpointBehindFakeNetwork, FakeNetwork
from peergram.drivers.system import monotonic_us
from peergram.drivers.thread_driver import ThreadDriver
from peergram.errors import UsageError
from peergram.identity import Identity
from peergram.timing import NEVER

from .fake_endpoint import FakeEndpoint, numbered, numbers, until

REMOTE, OTHER = ("192.0.2.1", 1), ("192.0.2.2", 2)
MS = 1_000


def behind(seed: int = 1, **conditions: Any) -> tuple[FakeEndpoint, EndpointBehindFakeNetwork]:
    endpoint = FakeEndpoint()
    return endpoint, EndpointBehindFakeNetwork(endpoint, FakeNetwork(rng=Random(seed), **conditions))


def send(network: EndpointBehindFakeNetwork, endpoint: FakeEndpoint, count: int, now_us: int = 0, start: int = 0) -> None:
    for number, packet in enumerate(numbered(start, count)):
        endpoint.send(REMOTE if number % 2 else OTHER, [packet], now_us)


def leaving(network: EndpointBehindFakeNetwork, now_us: int) -> list[int]:
    packets: list[bytes] = []
    while (transmit := network.poll_transmit(now_us)) is not None:
        packets += transmit.packets
    return numbers(packets)


def arrive(network: EndpointBehindFakeNetwork, count: int, now_us: int = 0) -> None:
    network.handle_datagrams(1, REMOTE, b"".join(numbered(0, count)), 64, now_us)


def all_that_leaves(network: EndpointBehindFakeNetwork) -> list[tuple[int, int]]:
    """(time, number) of every datagram, going from deadline to deadline."""
    seen = [(0, number) for number in leaving(network, 0)]
    while (deadline := network.poll_timeout()) is not None:
        network.handle_timeout(deadline.at_us)
        seen += [(deadline.at_us, number) for number in leaving(network, deadline.at_us)]
    return seen


def test_a_good_network_passes_everything_at_once_and_in_order() -> None:
    endpoint, network = behind()
    send(network, endpoint, 50)
    assert leaving(network, 0) == list(range(50))
    arrive(network, 50)
    assert numbers(endpoint.receive()) == list(range(50))
    assert network.poll_timeout() is None


def test_lag_holds_outgoing_datagrams_until_they_are_due_and_says_when() -> None:
    endpoint, network = behind(lag_send_ms=40)
    send(network, endpoint, 3)
    assert leaving(network, 0) == []
    assert network.poll_timeout() == (40 * MS, "fake network")
    assert leaving(network, 40 * MS - 1) == []
    assert leaving(network, 40 * MS) == [0, 1, 2]


def test_lag_holds_arriving_datagrams_and_they_arrive_at_the_later_time() -> None:
    endpoint, network = behind(lag_recv_ms=25)
    arrive(network, 3)
    assert endpoint.receive() == []
    assert network.poll_timeout() == (25 * MS, "fake network")
    network.handle_timeout(25 * MS)
    assert numbers(endpoint.receive()) == [0, 1, 2]
    assert endpoint.broken_promises == []


@pytest.mark.parametrize("percent", [0, 5, 60, 100])
def test_the_share_that_is_lost_is_the_percentage_each_way(percent: float) -> None:
    endpoint, network = behind(loss_send=percent, loss_recv=percent)
    send(network, endpoint, 10_000)
    lost_sending = 10_000 - len(leaving(network, 0))
    arrive(network, 10_000)
    lost_receiving = 10_000 - len(endpoint.receive())
    for lost, counts in (lost_sending, network.network.sent), (lost_receiving, network.network.received):
        assert lost == counts.lost == 10_000 - counts.passed
        assert abs(lost - percent * 100) < 200
    assert lost_sending != lost_receiving or percent in (0, 100)


def test_the_same_seed_loses_the_same_datagrams() -> None:
    runs = []
    for seed in (7, 7, 8):
        endpoint, network = behind(seed, loss_send=30)
        send(network, endpoint, 200)
        runs.append(leaving(network, 0))
    assert runs[0] == runs[1] != runs[2]


def test_jitter_delays_but_keeps_the_order() -> None:
    endpoint, network = behind(lag_send_ms=10, jitter_send_avg_ms=20, jitter_send_max_ms=60)
    send(network, endpoint, 300)
    seen = all_that_leaves(network)
    assert [number for _, number in seen] == list(range(300))
    assert seen[0][0] >= 10 * MS
    assert len({at_us for at_us, _ in seen}) > 10
    assert seen[-1][0] <= 70 * MS + 300


def test_reordered_datagrams_come_later_by_the_given_time() -> None:
    endpoint, network = behind(reorder_send=10, reorder_ms=15)
    send(network, endpoint, 1_000)
    seen = all_that_leaves(network)
    assert sorted(number for _, number in seen) == list(range(1_000))
    late = [at_us for at_us, _ in seen if at_us]
    assert set(late) == {15 * MS}
    assert len(late) == network.network.sent.reordered
    assert 50 < len(late) < 150


def test_copies_of_duplicated_datagrams_come_within_the_given_time() -> None:
    endpoint, network = behind(duplicate_send=20, duplicate_ms_max=10)
    send(network, endpoint, 1_000)
    seen = all_that_leaves(network)
    assert len(seen) == 1_000 + network.network.sent.duplicated
    assert 120 < network.network.sent.duplicated < 280
    assert {number for _, number in seen} == set(range(1_000))
    assert max(at_us for at_us, _ in seen) <= 10 * MS + 1


def test_what_is_due_for_one_place_leaves_together() -> None:
    endpoint, network = behind(lag_send_ms=1)
    endpoint.send(REMOTE, numbered(0, 60), 0)
    assert network.poll_transmit(0) is None
    batches = [network.poll_transmit(1 * MS), network.poll_transmit(1 * MS)]
    assert [len(batch.packets) for batch in batches if batch] == [PACKETS_PER_TRANSMIT_MAX, 60 - PACKETS_PER_TRANSMIT_MAX]


def test_more_than_the_limit_under_way_is_lost() -> None:
    endpoint, network = behind(lag_send_ms=1)
    endpoint.send(REMOTE, numbered(0, PACKETS_HELD_MAX + 10), 0)
    assert network.poll_transmit(0) is None
    assert network.network.sent.overflowed == 10
    assert leaving(network, 1 * MS) == list(range(PACKETS_HELD_MAX))


def test_at_the_end_everything_under_way_goes_at_once() -> None:
    endpoint, network = behind(lag_send_ms=500)
    send(network, endpoint, 3)
    assert leaving(network, 0) == []
    endpoint.farewell_to = REMOTE
    network.close(1)
    transmits = [network.poll_transmit(1) for _ in range(4)]
    assert sum(len(transmit.packets) for transmit in transmits if transmit) == 4
    assert network.poll_timeout() is None


def test_conditions_may_change_while_in_use() -> None:
    endpoint, network = behind()
    network.network.loss_send = 100
    send(network, endpoint, 5)
    assert leaving(network, 0) == []
    network.network.loss_send = 0
    send(network, endpoint, 5, start=5)
    assert leaving(network, 0) == [5, 6, 7, 8, 9]


def test_the_timers_of_the_endpoint_run_at_their_own_time() -> None:
    endpoint, network = behind(lag_send_ms=1)
    endpoint.send(REMOTE, numbered(0, 1), 0)
    endpoint.send(REMOTE, numbered(1, 1), 0, delay_us=5 * MS)
    assert [at_us for at_us, _ in all_that_leaves(network)] == [1 * MS, 6 * MS]
    assert endpoint.broken_promises == []


@pytest.mark.parametrize("wrong", [{"loss_send": 101}, {"loss_recv": -1}, {"lag_send_ms": 5_001}, {"reorder_ms": "15"}])
def test_values_out_of_range_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        FakeNetwork(**wrong)


def test_a_driver_wakes_when_a_datagram_is_due() -> None:
    receiver = FakeEndpoint()
    sender, network = behind(lag_send_ms=30)
    drivers = [ThreadDriver(network), ThreadDriver(receiver)]
    for driver in drivers:
        driver.start()
    try:
        sent_at_us = monotonic_us()
        drivers[0].call(lambda now_us: sender.send(receiver.local, numbered(0, 3), now_us))
        assert until(lambda: receiver.received == 3)
        assert 30 * MS <= monotonic_us() - sent_at_us < 1_000 * MS
        time.sleep(0.01)
        assert drivers[0].wakeups < 20
        assert (network.poll_timeout() or (NEVER,))[0] == NEVER
    finally:
        for driver in drivers:
            driver.close()


def test_streams_are_spared_since_tcp_hides_a_bad_network() -> None:
    endpoint, network = behind(loss_send=100, lag_send_ms=50)
    stream_id = endpoint.open_stream(("192.0.2.3", 443))
    while network.poll_socket_request() is not None:
        pass
    for number in range(5):
        endpoint.send(REMOTE, numbered(number, 1), 0, socket_id=stream_id)
        endpoint.send(REMOTE, numbered(100 + number, 1), 0)
    assert leaving(network, 0) == list(range(5))


def test_what_is_no_datagram_passes_as_it_is() -> None:
    endpoint, network = behind(loss_send=100, loss_recv=100)
    stream_id = endpoint.open_stream(("192.0.2.3", 443))
    network.handle_stream_opened(stream_id, 1)
    network.handle_stream_data(stream_id, b"data", 2)
    network.handle_stream_closed(stream_id, "over", 3)
    network.handle_name_resolved("name.example", ["192.0.2.1"], 4)
    network.handle_interfaces([], 5)
    network.handle_signal(None, b"signal", 6)
    endpoint.signals_to_send.append((Identity.of("bob"), b"answer"))
    assert endpoint.streams[stream_id] == ["opened", "closed: over"]
    assert endpoint.arrived[stream_id] == b"data"
    assert (endpoint.resolved, endpoint.interfaces) == ([("name.example", ["192.0.2.1"])], [[]])
    assert (endpoint.signals, network.poll_signal()) == ([(None, b"signal")], (Identity.of("bob"), b"answer"))
    assert network.poll_signal() is None
