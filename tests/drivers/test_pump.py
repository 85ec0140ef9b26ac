from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest

from peergram.config import KNOWN_PEERS_LOOK_US
from peergram.drivers.pump import OVERDUE_HOLD_US, READS_PER_TURN, TRANSMITS_PER_DRAIN, Pump
from peergram.drivers.sockets import BACKLOG_PACKETS_MAX, FRUITLESS_MAX, DriverSocket
from peergram.drivers.system import monotonic_us
from peergram.drivers.udp_batch import UdpSocket
from peergram.errors import AddressInUseError
from peergram.identity import Identity
from peergram.timing import NEVER
from peergram.wire.certificates import SignedCertificate, encode_signed_certificate

from .fake_endpoint import FakeEndpoint, faulty_sockets, numbered, numbers, until

LOCK = nullcontext()


class Valve(socket.socket):
    """Sends while `room` lasts."""

    room = 1_000_000

    def _take(self) -> None:
        if Valve.room <= 0:
            raise BlockingIOError(errno.EAGAIN, "full")
        Valve.room -= 1

    def sendto(self, *arguments: Any) -> int:
        self._take()
        return super().sendto(*arguments)

    def sendmsg(self, *arguments: Any) -> int:
        self._take()
        return super().sendmsg(*arguments)


@pytest.fixture
def make() -> Iterator[Callable[..., Pump]]:
    Valve.room = 1_000_000
    pumps: list[Pump] = []

    def make(endpoint: FakeEndpoint, **options: Any) -> Pump:
        pumps.append(Pump(endpoint, **options))
        pumps[-1].drain(monotonic_us())
        return pumps[-1]

    yield make
    for each in pumps:
        each.abandon()


def read_all(pump: Pump, endpoint: FakeEndpoint, count: int) -> list[int]:
    read_until(pump, lambda: endpoint.received >= count)
    return numbers(endpoint.receive())


def read_until(pump: Pump, condition: Callable[[], bool]) -> None:
    def done() -> bool:
        pump.read(pump.sockets[1], READS_PER_TURN, LOCK)
        return condition()

    assert until(done)


def test_sockets_are_opened_and_closed_as_the_endpoint_asks(make: Callable[..., Pump]) -> None:
    endpoint = FakeEndpoint()
    pump = make(endpoint)
    host, port = endpoint.local
    assert (host, port > 0) == ("127.0.0.1", True)
    endpoint.close_socket(1)
    pump.drain(monotonic_us())
    assert (list(pump.sockets), [entry.fileno() > 0 for entry in pump.closing]) == ([], [True])


def test_a_port_in_use_is_told_to_the_endpoint_and_kept_for_who_asked(make: Callable[..., Pump]) -> None:
    first = FakeEndpoint()
    make(first)
    second = FakeEndpoint(bind=first.local)
    pump = make(second)
    assert "is in use" in second.failures[1]
    assert isinstance(pump.take_failure(any_port=False), AddressInUseError)
    assert pump.take_failure(any_port=True) is None


def test_without_descriptors_the_endpoint_is_told_and_later_sockets_work(make: Callable[..., Pump]) -> None:
    starved = [True]

    def make_socket(family: int, kind: int) -> socket.socket:
        if starved[0]:
            raise OSError(errno.EMFILE, "Too many open files")
        return socket.socket(family, kind)

    endpoint = FakeEndpoint(bind=None)
    pump = make(endpoint, make_socket=make_socket)
    for _ in range(100):
        endpoint.listen(("127.0.0.1", 0))
    pump.drain(monotonic_us())
    assert len(endpoint.failures) == 100
    assert pump.take_failure(any_port=False) is None
    starved[0] = False
    socket_id = endpoint.listen(("127.0.0.1", 0))
    pump.drain(monotonic_us())
    assert list(pump.sockets) == [socket_id]


def test_datagrams_for_a_closed_socket_are_dropped(make: Callable[..., Pump]) -> None:
    endpoint = FakeEndpoint()
    pump = make(endpoint)
    now_us = monotonic_us()
    endpoint.send(endpoint.local, numbered(0, 3), now_us, socket_id=99)
    pump.drain(now_us)
    assert not pump.unfinished


@pytest.mark.parametrize("batching", [True, False])
def test_a_flood_is_read_in_portions_and_timers_run_in_between(make: Callable[..., Pump], batching: bool) -> None:
    endpoint = FakeEndpoint()
    pump = make(endpoint, batching=batching)
    flood = UdpSocket(("127.0.0.1", 0), batching=False)
    for start in range(0, 500, 50):
        flood.send_batch(numbered(start, 50), endpoint.local)
    flood.close()
    pump.read(pump.sockets[1], READS_PER_TURN, LOCK)
    assert endpoint.received == READS_PER_TURN
    assert read_all(pump, endpoint, 500) == list(range(500))


def test_a_sender_without_end_is_drained_in_portions(make: Callable[..., Pump]) -> None:
    endpoint = FakeEndpoint()
    pump = make(endpoint)
    now_us = monotonic_us()
    for number in range(TRANSMITS_PER_DRAIN + 1):
        endpoint.send(endpoint.local, numbered(number, 1), now_us)
    pump.drain(now_us)
    unfinished = [pump.unfinished]
    pump.handle_due(now_us)
    assert [*unfinished, pump.unfinished] == [True, False]
    assert read_all(pump, endpoint, TRANSMITS_PER_DRAIN + 1) == list(range(TRANSMITS_PER_DRAIN + 1))


def test_timers_run_when_due_and_not_before(make: Callable[..., Pump]) -> None:
    endpoint = FakeEndpoint()
    pump = make(endpoint)
    now_us = monotonic_us()
    endpoint.send(endpoint.local, numbered(0, 1), now_us, delay_us=5_000)
    assert pump.wake_at_us() == now_us + 5_000
    pump.handle_due(now_us + 4_999)
    assert endpoint.timeouts == 0
    pump.handle_due(now_us + 5_000)
    assert (endpoint.timeouts, pump.wake_at_us()) == (1, NEVER)


def test_an_endpoint_that_is_always_due_gets_a_pause(make: Callable[..., Pump]) -> None:
    endpoint = FakeEndpoint()
    pump = make(endpoint)
    endpoint.always_due = True
    now_us = monotonic_us()
    pump.handle_due(now_us)
    tries = endpoint.timeouts
    pump.handle_due(now_us + 1)
    assert endpoint.timeouts == tries
    assert pump.wake_at_us() == now_us + OVERDUE_HOLD_US


def test_a_defect_of_the_endpoint_is_counted_and_the_rest_goes_on(
    make: Callable[..., Pump], caplog: pytest.LogCaptureFixture
) -> None:
    endpoint = FakeEndpoint()
    pump = make(endpoint)
    for defect in range(3):
        endpoint.raise_in_handlers = 1
        endpoint.send(endpoint.local, numbered(defect, 1), monotonic_us())
        pump.drain(monotonic_us())
        read_until(pump, lambda: not endpoint.raise_in_handlers)
    endpoint.send(endpoint.local, numbered(7, 1), monotonic_us())
    pump.drain(monotonic_us())
    assert read_all(pump, endpoint, 1) == [7]
    assert pump.defects == 3
    assert len(caplog.records) == 1


class Keeper:
    """A file of known peers that people edit."""

    def __init__(self) -> None:
        self.entries: list[tuple[Identity, str]] = []
        self.is_changed = False

    def add(self, identity: Identity, fingerprint: str) -> bool:
        self.entries.append((identity, fingerprint))
        return True

    def reload_if_changed(self) -> bool:
        was_changed, self.is_changed = self.is_changed, False
        return was_changed


def test_peers_that_were_met_are_kept_and_changes_by_people_seen_within_a_second(make: Callable[..., Pump]) -> None:
    endpoint, keeper = FakeEndpoint(), Keeper()
    pump = make(endpoint, keeper=keeper)
    now_us = monotonic_us() + KNOWN_PEERS_LOOK_US
    endpoint.met.append((Identity.of("alice"), "SHA256:a"))
    pump.drain(now_us)
    assert keeper.entries == [(Identity.of("alice"), "SHA256:a")]
    keeper.entries, keeper.is_changed = [(Identity.of("bob"), "SHA256:b")], True
    pump.drain(now_us + KNOWN_PEERS_LOOK_US - 1)
    assert not endpoint.known
    pump.drain(now_us + KNOWN_PEERS_LOOK_US)
    assert endpoint.known == [(Identity.of("bob"), "SHA256:b")]
    endpoint.met.append((Identity.of("carol"), "SHA256:c"))
    pump.close(now_us + KNOWN_PEERS_LOOK_US)
    assert keeper.entries[-1] == (Identity.of("carol"), "SHA256:c")


def test_a_certificate_that_was_issued_to_us_is_taken_over_and_one_of_no_use_is_logged(
    make: Callable[..., Pump], caplog: pytest.LogCaptureFixture
) -> None:
    endpoint = FakeEndpoint()
    pump = make(endpoint)
    good = SignedCertificate(b"certificate", 7, bytes(64))
    for issued in (encode_signed_certificate(good), encode_signed_certificate(SignedCertificate(b"unsigned")), b"\xff"):
        pump.post_certificate(issued)
    pump.handle_due(monotonic_us())
    assert endpoint.certificates == [good]
    assert "is of no use: certificate: no authority has signed it" in caplog.text
    assert pump.defects == 0


def test_events_stay_within_the_endpoint_but_for_one(make: Callable[..., Pump]) -> None:
    endpoint = FakeEndpoint()
    pump = make(endpoint)
    had_events = [pump.has_events]
    for event in "abc":
        endpoint.tell(event)
    pump.drain(monotonic_us())
    pump.drain(monotonic_us())
    had_events.append(pump.has_events)
    assert list(endpoint._events) == ["b", "c"]
    assert list[object](pump.take_events()) == ["a", "b", "c"]
    assert [*had_events, pump.has_events] == [False, True, False]


def test_a_broken_socket_is_given_up_and_the_endpoint_told(make: Callable[..., Pump]) -> None:
    endpoint = FakeEndpoint()
    pump = make(endpoint, make_socket=faulty_sockets([errno.ENETDOWN], 1.0, seed=1))
    turns = 0
    while pump.sockets and turns < 1_000:
        pump.read(pump.sockets[1], READS_PER_TURN, LOCK)
        turns += 1
    assert "ENETDOWN" in endpoint.failures[1]
    assert len(pump.closing) == 1


@pytest.mark.parametrize("batching", [True, False])
def test_what_the_kernel_does_not_take_goes_later_and_in_order(make: Callable[..., Pump], batching: bool) -> None:
    endpoint = FakeEndpoint()
    pump = make(endpoint, batching=batching, make_socket=Valve)
    entry = pump.sockets[1]
    Valve.room = 2
    for start in range(0, 60, 10):
        endpoint.send(endpoint.local, numbered(start, 10), monotonic_us())
    pump.drain(monotonic_us())
    assert pump.sockets_changed
    blocked = [entry.blocked]
    for Valve.room in (1, 1_000):
        pump.handle_writable(entry)
        blocked.append(entry.blocked)
    assert blocked == [True, True, False]
    assert read_all(pump, endpoint, 60) == list(range(60))


def test_the_backlog_is_bounded_and_gives_up_the_oldest() -> None:
    Valve.room = 0
    entry = DriverSocket(1, UdpSocket(("127.0.0.1", 0), make_socket=Valve))
    total = BACKLOG_PACKETS_MAX + 100
    for start in range(0, total, 4):
        entry.send(numbered(start, 4), entry.udp.local)
    assert entry.udp.counters.backlog_dropped == 100
    Valve.room = 1_000_000
    entry.handle_writable()
    received: list[int] = []
    for _ in range(2 * total):
        batches, _ = entry.udp.receive()
        received += [int.from_bytes(data[at : at + 8], "big") for data, size, _ in batches for at in range(0, len(data), size)]
        if len(received) >= BACKLOG_PACKETS_MAX:
            break
    entry.udp.close()
    assert received == list(range(100, total))


def test_waiting_for_a_socket_that_is_writable_but_takes_nothing_ends() -> None:
    Valve.room = 0
    entry = DriverSocket(1, UdpSocket(("127.0.0.1", 0), make_socket=Valve))
    for start in range(0, 40, 4):
        entry.send(numbered(start, 4), entry.udp.local)
    calls = 0
    while entry.blocked:
        entry.handle_writable()
        calls += 1
        assert calls <= 10 + FRUITLESS_MAX
    entry.udp.close()
    assert entry.udp.counters.backlog_dropped == 40


def test_closing_sends_the_last_datagrams_and_gives_the_port_back(make: Callable[..., Pump]) -> None:
    endpoint, other = FakeEndpoint(), FakeEndpoint()
    pump, other_pump = make(endpoint), make(other)
    endpoint.send(other.local, numbered(5, 1), monotonic_us())
    pump.close(monotonic_us())
    assert endpoint.closed == 1
    assert read_all(other_pump, other, 1) == [5]
    assert make(FakeEndpoint(bind=endpoint.local)).sockets
