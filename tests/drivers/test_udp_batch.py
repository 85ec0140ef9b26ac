from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest

from peergram.address import Address
from peergram.drivers.ipv6 import address_from_ipv6, ipv6_from_address
from peergram.drivers.system import has_family
from peergram.drivers.udp_batch import RECEIVE_ERRORS_MAX, Batch, UdpSocket
from peergram.errors import AddressInUseError, PeergramError, UsageError

from .fake_endpoint import LOOPBACK, faulty_sockets, numbered, numbers, until

LINUX = sys.platform.startswith("linux")
LOST_ERRNOS = [errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EPERM, errno.ENOBUFS]
REFUSED_ERRNOS = [errno.EIO, errno.ENOPROTOOPT, errno.EOPNOTSUPP]
ROUTE_ERRNOS = [errno.EINVAL, errno.EMSGSIZE]


@pytest.fixture(params=[True, False], ids=["batched", "plain"])
def batching(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def make() -> Iterator[Callable[..., UdpSocket]]:
    opened: list[UdpSocket] = []

    def make(bind: Address = LOOPBACK, family: Literal[4, 6] = 4, **options: Any) -> UdpSocket:
        opened.append(UdpSocket(bind, family, **options))
        return opened[-1]

    yield make
    for each in opened:
        each.close()


def split(batches: list[Batch]) -> list[bytes]:
    return [data[at : at + size] for data, size, _ in batches for at in range(0, len(data), size)]


def receive_packets(receiver: UdpSocket, count: int) -> list[bytes]:
    packets: list[bytes] = []

    def enough() -> bool:
        packets.extend(split(receiver.receive()[0]))
        return len(packets) >= count

    until(enough)
    return packets


@pytest.mark.parametrize(
    "sizes",
    [
        [1],
        [1272] * 44,
        [1272] * 43 + [5],
        [1272] * 120,
        [100] * 130,
        [5] + [1272] * 3,
        [1272, 700, 1272, 1272, 700, 700, 9, 1300],
        [1300, 1272, 1200, 1100],
        [65_507],
        [40_000, 40_000],
    ],
    ids=str,
)
def test_datagrams_arrive_whole_and_in_order_whatever_their_sizes(
    make: Callable[..., UdpSocket], batching: bool, sizes: list[int]
) -> None:
    sender, receiver = make(batching=batching), make(batching=batching)
    packets = [bytes([index % 251]) * size for index, size in enumerate(sizes)]
    assert sender.send_batch(packets, receiver.local) == len(packets)
    assert receive_packets(receiver, len(packets)) == packets
    assert sender.counters.datagrams_sent == len(packets)
    assert sender.counters.bytes_sent == receiver.counters.bytes_received == sum(sizes)


@pytest.mark.parametrize("sender_batching", [True, False])
@pytest.mark.parametrize("receiver_batching", [True, False])
def test_batched_and_plain_sockets_understand_each_other(
    make: Callable[..., UdpSocket], sender_batching: bool, receiver_batching: bool
) -> None:
    sender, receiver = make(batching=sender_batching), make(batching=receiver_batching)
    packets = numbered(0, 44, 1272)
    sender.send_batch(packets, receiver.local)
    assert receive_packets(receiver, 44) == packets


@pytest.mark.skipif(not LINUX, reason="UDP_SEGMENT is Linux")
def test_a_run_of_equal_datagrams_costs_one_call_on_either_side(make: Callable[..., UdpSocket]) -> None:
    sender, receiver = make(), make()
    if not (sender.sends_batches and receiver.receives_batches):
        pytest.skip("this kernel has no UDP_SEGMENT or UDP_GRO")
    sender.send_batch(numbered(0, 44, 1272), receiver.local)
    batches, _ = receiver.receive()
    assert sender.counters.send_calls == 1
    assert [(len(data), size) for data, size, _ in batches] == [(44 * 1272, 1272)]


def test_plain_mode_never_batches(make: Callable[..., UdpSocket]) -> None:
    plain = make(batching=False)
    assert not plain.sends_batches
    assert not plain.receives_batches
    plain.send_batch(numbered(0, 10), plain.local)
    assert plain.counters.send_calls == 10


def test_the_source_is_the_canonical_address_of_the_sender(make: Callable[..., UdpSocket], batching: bool) -> None:
    sender, receiver = make(batching=batching), make(batching=batching)
    sender.send_batch([b"x"], receiver.local)
    assert receiver.receive()[0] == [(b"x", 1, sender.local)]


@pytest.mark.skipif(not has_family(6), reason="no IPv6 here")
def test_ipv6_addresses_are_two_tuples_both_ways(make: Callable[..., UdpSocket], batching: bool) -> None:
    sender, receiver = make(("::1", 0), 6, batching=batching), make(("::1", 0), 6, batching=batching)
    packets = numbered(0, 20, 1272)
    sender.send_batch(packets, receiver.local)
    batches, _ = receiver.receive()
    assert split(batches) == packets
    assert {source for _, _, source in batches} == {sender.local}
    assert sender.local[0] == "::1"


@pytest.mark.skipif(not has_family(6), reason="no IPv6 here")
def test_an_ipv6_socket_leaves_the_ipv4_port_alone(make: Callable[..., UdpSocket]) -> None:
    port = make(("::", 0), 6).local[1]
    assert make(("127.0.0.1", port), 4).local == ("127.0.0.1", port)


def test_link_local_addresses_keep_their_zone_both_ways() -> None:
    for index, name in socket.if_nameindex():
        raw = ("fe80::1", 5, 0, index)
        address = address_from_ipv6(raw)
        assert address == (f"fe80::1%{index if sys.platform == 'win32' else name}", 5)
        assert ipv6_from_address(address) == ipv6_from_address((f"fe80::1%{index}", 5)) == raw


def test_a_read_takes_no_more_calls_than_it_is_given(make: Callable[..., UdpSocket]) -> None:
    plain = make(batching=False)
    plain.send_batch(numbered(0, 10), plain.local)
    first, left_first = plain.receive(4)
    second, left_second = plain.receive(64)
    assert (len(first), left_first) == (4, 0)
    assert (len(second), left_second) == (6, 0)
    assert plain.receive(64) == ([], 0)


def test_a_read_stops_early_when_it_holds_enough_bytes(make: Callable[..., UdpSocket]) -> None:
    plain = make(batching=False)
    plain.send_batch(numbered(0, 10, 1000), plain.local)
    batches, left = plain.receive(64, bytes_max=2500)
    assert (len(batches), left) == (3, 61)


def test_empty_datagrams_are_counted_against_the_budget_and_dropped(make: Callable[..., UdpSocket], batching: bool) -> None:
    receiver = make(batching=batching)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        for _ in range(10):
            stranger.sendto(b"", receiver.local)
        stranger.sendto(b"x", receiver.local)
    assert receiver.receive(10) == ([], 0)
    assert receiver.counters.empty_received == 10
    assert split(receiver.receive(10)[0]) == [b"x"]


def test_an_empty_packet_among_others_goes_alone(make: Callable[..., UdpSocket], batching: bool) -> None:
    sender, receiver = make(batching=batching), make(batching=batching)
    assert sender.send_batch([b"aa", b"", b"bb", b"", b""], receiver.local) == 5
    assert split(receiver.receive()[0]) == [b"aa", b"bb"]
    assert receiver.counters.empty_received == 3


def test_a_port_in_use_is_told_with_a_remedy(make: Callable[..., UdpSocket]) -> None:
    port = make().local[1]
    with pytest.raises(AddressInUseError, match=f"UDP port {port} .* choose another port, or 0") as raised:
        make(("127.0.0.1", port))
    assert raised.value.errno == errno.EADDRINUSE


@pytest.mark.parametrize("host", ["192.0.2.200", "example", ""])
def test_an_address_that_cannot_be_bound_is_the_callers_mistake(host: str) -> None:
    if host:
        with pytest.raises(UsageError, match=host):
            UdpSocket((host, 0))
    else:
        with pytest.raises(UsageError):
            UdpSocket(("::1", 0), 4)


def test_running_out_of_descriptors_is_told_with_a_remedy() -> None:
    with pytest.raises(PeergramError, match="no file descriptors left"):
        UdpSocket(LOOPBACK, make_socket=lambda *_: (_ for _ in ()).throw(OSError(errno.EMFILE, "Too many open files")))


@pytest.mark.parametrize("code", LOST_ERRNOS + REFUSED_ERRNOS + ROUTE_ERRNOS, ids=errno.errorcode.get)
def test_network_errors_are_counted_and_never_raised(make: Callable[..., UdpSocket], batching: bool, code: int) -> None:
    sender = make(batching=batching, make_socket=faulty_sockets([code], 0.1, seed=code))
    receiver = make(batching=batching)
    arrived = 0
    for start in range(0, 4000, 20):
        assert sender.send_batch(numbered(start, 20, 200), receiver.local) == 20
        arrived += len(split(receiver.receive()[0]))
    assert sender.counters.send_errors[errno.errorcode[code]] > 0
    assert arrived == sender.counters.datagrams_sent == 4000 - sender.counters.datagrams_lost
    assert arrived > 3000


@pytest.mark.skipif(not LINUX, reason="UDP_SEGMENT is Linux")
@pytest.mark.parametrize("code", REFUSED_ERRNOS + ROUTE_ERRNOS, ids=errno.errorcode.get)
def test_a_refused_batch_is_sent_singly_and_batching_ends_as_far_as_the_error_says(
    make: Callable[..., UdpSocket], code: int
) -> None:
    class RefusesBatches(socket.socket):
        def sendmsg(self, *arguments: Any) -> int:
            if arguments[3] == refused.local:
                raise OSError(code, errno.errorcode[code])
            return super().sendmsg(*arguments)

    sender, refused, fine = make(make_socket=RefusesBatches), make(), make()
    for start in (0, 10):
        assert sender.send_batch(numbered(start, 10), refused.local) == 10
    assert numbers(receive_packets(refused, 20)) == list(range(20))
    assert sender.counters.send_errors == {errno.errorcode[code]: 1}
    assert sender.sends_batches is (code in ROUTE_ERRNOS)
    calls = sender.counters.send_calls
    sender.send_batch(numbered(0, 10), fine.local)
    assert sender.counters.send_calls - calls == (1 if code in ROUTE_ERRNOS else 10)


def test_a_full_kernel_buffer_ends_the_send_and_says_how_far_it_came(make: Callable[..., UdpSocket], batching: bool) -> None:
    class Full(socket.socket):
        room = 3

        def _take(self) -> None:
            if Full.room == 0:
                raise BlockingIOError(errno.EAGAIN, "full")
            Full.room -= 1

        def sendto(self, *arguments: Any) -> int:
            self._take()
            return super().sendto(*arguments)

        def sendmsg(self, *arguments: Any) -> int:
            self._take()
            return super().sendmsg(*arguments)

    sender, receiver = make(batching=batching, make_socket=Full), make()
    packets = [packet for size in (900, 1000, 1100, 1200, 1300) for packet in numbered(0, 2, size)]
    expected = 6 if sender.sends_batches else 3
    assert sender.send_batch(packets, receiver.local) == expected
    assert sender.send_batch(packets[expected:], receiver.local) == 0
    assert sender.counters.sends_blocked == 2
    Full.room = 100
    assert sender.send_batch(packets[expected:], receiver.local) == len(packets) - expected
    assert receive_packets(receiver, len(packets)) == packets


def test_read_errors_are_counted_and_a_socket_that_only_errs_is_broken(make: Callable[..., UdpSocket], batching: bool) -> None:
    some = make(batching=batching, make_socket=faulty_sockets([errno.ECONNREFUSED], 0.1, seed=1))
    for _ in range(100):
        some.send_batch([b"x"], some.local)
        some.receive()
    assert some.counters.receive_errors["ECONNREFUSED"] > 0
    assert not some.broken
    only = make(batching=batching, make_socket=faulty_sockets([errno.ENETDOWN], 1.0, seed=1))
    for _ in range(RECEIVE_ERRORS_MAX // 50):
        assert not only.broken
        assert only.receive(50) == ([], 0)
    assert only.broken


def test_destinations_nobody_can_reach_are_counted(make: Callable[..., UdpSocket], batching: bool) -> None:
    sender = make(batching=batching)
    for remote in (("127.0.0.1", 0), ("255.255.255.255", 9), ("::1", 9)):
        assert sender.send_batch(numbered(0, 3), remote) == 3
    assert sender.counters.datagrams_lost == 9
    assert sender.counters.datagrams_sent == 0
    assert sender.counters.send_errors


def test_large_kernel_buffers_are_asked_for(make: Callable[..., UdpSocket]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as untouched:
        before = untouched.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    with socket.socket(fileno=socket.dup(make().fileno())) as ours:
        assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) >= before
