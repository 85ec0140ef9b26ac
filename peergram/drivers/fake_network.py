"""A bad network on purpose, for demonstrations and tests with real sockets: loss, delay, jitter, reordering, repeats.

Names, units, defaults and the order of the steps are those of the reference's FakePacket* settings (protocol part 2, chapter 17):
each datagram passes loss, lag, reordering, jitter and duplication, on its way out and on its way in. Between a driver and its
endpoint, so that every driver can use it: what is under way is one more reason for a deadline. For virtual time there is
`peergram.sim`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from peergram.address import Address
from peergram.config import PACKETS_PER_TRANSMIT_MAX
from peergram.drivers.driven_endpoint import DrivenEndpoint
from peergram.errors import UsageError
from peergram.identity import Identity
from peergram.io_requests import CallNote, CloseStream, InterfaceAddress, IoRequest, OpenStream, Transmit
from peergram.timing import NEVER, Deadline
from peergram.wire.certificates import SignedCertificate
from peergram.wire.relay_news import RelayNews, Tickets

if TYPE_CHECKING:
    from peergram.events import Event

PACKETS_HELD_MAX = 16_384
"""Datagrams under way in one direction; more are lost, as in a full queue: at most 21 MB."""


@dataclass(slots=True)
class FakeNetworkCounts:
    """What became of the datagrams of one direction, of all endpoints behind one `FakeNetwork`."""

    passed: int = 0
    lost: int = 0
    reordered: int = 0
    duplicated: int = 0
    overflowed: int = 0
    """Lost because too many were under way."""


@dataclass(slots=True, kw_only=True)
class FakeNetwork:
    """How bad it is: percent (5 means 5 %) and milliseconds. The fields may be changed while it is in use.

    Raises UsageError for values out of range. The same `rng` state and the same traffic give the same losses.
    """

    rng: Random = field(default_factory=Random, repr=False)
    loss_send: float = 0.0
    loss_recv: float = 0.0
    lag_send_ms: float = 0
    lag_recv_ms: float = 0
    jitter_send: float = 75.0
    """Percent of datagrams that are delayed by `jitter_send_avg_ms` on average (exponentially), without a change of order."""
    jitter_recv: float = 75.0
    jitter_send_avg_ms: float = 0
    jitter_recv_avg_ms: float = 0
    jitter_send_max_ms: float = 100
    jitter_recv_max_ms: float = 100
    reorder_send: float = 0.0
    reorder_recv: float = 0.0
    reorder_ms: float = 15
    """How much later a reordered datagram arrives."""
    duplicate_send: float = 0.0
    duplicate_recv: float = 0.0
    duplicate_ms_max: float = 10
    """How much later its copy arrives, at most."""
    sent: FakeNetworkCounts = field(default_factory=FakeNetworkCounts, init=False)
    received: FakeNetworkCounts = field(default_factory=FakeNetworkCounts, init=False)

    def __post_init__(self) -> None:
        for names, high in (_PERCENTAGES, 100), (_TIMES_MS, 5_000):
            for name in names:
                value = getattr(self, name)
                if not isinstance(value, int | float) or not 0 <= value <= high:
                    raise UsageError(f"fake network: {name} must be a number from 0 to {high}, not {value!r}")

    @property
    def sending(self) -> Conditions:
        """What outgoing datagrams meet."""
        jitter = (self.jitter_send, self.jitter_send_avg_ms, self.jitter_send_max_ms)
        return Conditions(self.loss_send, self.lag_send_ms, *jitter, self.reorder_send, self.duplicate_send)

    @property
    def receiving(self) -> Conditions:
        """What arriving datagrams meet."""
        jitter = (self.jitter_recv, self.jitter_recv_avg_ms, self.jitter_recv_max_ms)
        return Conditions(self.loss_recv, self.lag_recv_ms, *jitter, self.reorder_recv, self.duplicate_recv)


_PERCENTAGES = ["loss_send", "loss_recv", "jitter_send", "jitter_recv"]
_PERCENTAGES += ["reorder_send", "reorder_recv", "duplicate_send", "duplicate_recv"]
_TIMES_MS = ["lag_send_ms", "lag_recv_ms", "jitter_send_avg_ms", "jitter_recv_avg_ms", "jitter_send_max_ms", "jitter_recv_max_ms"]
_TIMES_MS += ["reorder_ms", "duplicate_ms_max"]


class Conditions(NamedTuple):
    """The settings of one direction; percent and milliseconds."""

    loss: float
    lag_ms: float
    jitter: float
    jitter_avg_ms: float
    jitter_max_ms: float
    reorder: float
    duplicate: float


class Passenger(NamedTuple):
    """One datagram under way: soonest first, and in the order they came."""

    at_us: int
    serial: int
    socket_id: int
    remote: Address
    data: bytes


class _Path:
    """One direction, with what is under way in it."""

    def __init__(self, network: FakeNetwork, counts: FakeNetworkCounts) -> None:
        self._network = network
        self._counts = counts
        self._under_way: list[Passenger] = []
        self._serial = 0
        self._jitter_until_us = -1

    @property
    def next_at_us(self) -> int:
        return self._under_way[0].at_us if self._under_way else NEVER

    def enter(self, conditions: Conditions, socket_id: int, remote: Address, data: bytes, now_us: int) -> None:
        network, rng = self._network, self._network.rng
        if _happens(conditions.loss, rng):
            self._counts.lost += 1
            return
        self._counts.passed += 1
        at_us = self._in_order(now_us + int(conditions.lag_ms * 1_000), conditions)
        if _happens(conditions.reorder, rng):
            self._counts.reordered += 1
            at_us += int(network.reorder_ms * 1_000)
        self._hold(at_us, socket_id, remote, data)
        if _happens(conditions.duplicate, rng):
            self._counts.duplicated += 1
            self._hold(at_us + 1 + int(rng.random() * network.duplicate_ms_max * 1_000), socket_id, remote, data)

    def leave(self, now_us: int) -> Passenger | None:
        """The next datagram whose time has come."""
        return heappop(self._under_way) if self._under_way and self._under_way[0].at_us <= now_us else None

    def leave_together(self, now_us: int) -> Transmit | None:
        """The same, with those that follow it to the same place."""
        first = self.leave(now_us)
        if first is None:
            return None
        packets = [first.data]
        while self._under_way and self._under_way[0][2:4] == first[2:4] and len(packets) < PACKETS_PER_TRANSMIT_MAX:
            following = self.leave(now_us)
            if following is None:
                break
            packets.append(following.data)
        return Transmit(first.socket_id, first.remote, packets)

    def hurry(self, now_us: int) -> None:
        """Everything under way arrives now, in its order."""
        self._under_way = [passenger._replace(at_us=now_us, serial=n) for n, passenger in enumerate(sorted(self._under_way))]

    def _in_order(self, at_us: int, conditions: Conditions) -> int:
        rng = self._network.rng
        if conditions.jitter_avg_ms > 0 and conditions.jitter_max_ms > 0 and _happens(conditions.jitter, rng):
            at_us += int(min(rng.expovariate(1 / conditions.jitter_avg_ms), conditions.jitter_max_ms) * 1_000)
            at_us = self._jitter_until_us = max(at_us, self._jitter_until_us + 1)
        elif at_us <= self._jitter_until_us:
            at_us = self._jitter_until_us = self._jitter_until_us + 1
        return at_us

    def _hold(self, at_us: int, socket_id: int, remote: Address, data: bytes) -> None:
        if len(self._under_way) >= PACKETS_HELD_MAX:
            self._counts.overflowed += 1
            return
        self._serial += 1
        heappush(self._under_way, Passenger(at_us, self._serial, socket_id, remote, data))


def _happens(percent: float, rng: Random) -> bool:
    return percent > 0 and rng.random() * 100 < percent


class EndpointBehindFakeNetwork:
    """An endpoint and the bad network before it; to a driver it looks like the endpoint."""

    def __init__(self, endpoint: DrivenEndpoint, network: FakeNetwork) -> None:
        self.endpoint = endpoint
        self.network = network
        self._out = _Path(network, network.sent)
        self._in = _Path(network, network.received)
        self._streams: set[int] = set()
        self._is_closed = False

    # What passes through the network

    def handle_datagrams(self, socket_id: int, remote: Address, data: bytes, segment_bytes: int, now_us: int) -> None:
        conditions = self.network.receiving
        for begin in range(0, len(data), max(1, segment_bytes)):
            self._in.enter(conditions, socket_id, remote, data[begin : begin + segment_bytes], now_us)
        self._deliver(now_us)

    def poll_transmit(self, now_us: int) -> Transmit | None:
        conditions = self.network.sending
        while self._out.next_at_us > now_us and (transmit := self.endpoint.poll_transmit(now_us)) is not None:
            if transmit.is_probe:
                # The bad network is one of ordinary frames.
                continue
            if transmit.socket_id in self._streams:
                # TCP hides all of this from those who use it.
                return transmit
            for packet in transmit.packets:
                self._out.enter(conditions, transmit.socket_id, transmit.remote, packet, now_us)
        if self._is_closed:
            # Nobody would be there to send them when their time comes.
            self._out.hurry(now_us)
        return self._out.leave_together(now_us)

    def handle_timeout(self, now_us: int) -> None:
        self._deliver(now_us)
        deadline = self.endpoint.poll_timeout()
        if deadline is not None and deadline.at_us <= now_us:
            self.endpoint.handle_timeout(now_us)

    def poll_timeout(self) -> Deadline | None:
        deadline = self.endpoint.poll_timeout()
        under_way_at_us = min(self._out.next_at_us, self._in.next_at_us)
        if under_way_at_us < (NEVER if deadline is None else deadline.at_us):
            return Deadline(under_way_at_us, "fake network")
        return deadline

    def close(self, now_us: int) -> None:
        self._is_closed = True
        self.endpoint.close(now_us)

    def _deliver(self, now_us: int) -> None:
        while (arrived := self._in.leave(now_us)) is not None:
            self.endpoint.handle_datagrams(arrived.socket_id, arrived.remote, arrived.data, len(arrived.data), now_us)

    # What does not

    @property
    def unread_messages(self) -> int:
        return self.endpoint.unread_messages

    def poll_socket_request(self) -> IoRequest | None:
        request = self.endpoint.poll_socket_request()
        if isinstance(request, OpenStream):
            self._streams.add(request.stream_id)
        elif isinstance(request, CloseStream):
            self._streams.discard(request.stream_id)
        return request

    def handle_socket_opened(self, socket_id: int, local: Address, now_us: int) -> None:
        self.endpoint.handle_socket_opened(socket_id, local, now_us)

    def handle_socket_failed(self, socket_id: int, text: str, now_us: int) -> None:
        self.endpoint.handle_socket_failed(socket_id, text, now_us)

    def handle_stream_opened(self, stream_id: int, now_us: int) -> None:
        self.endpoint.handle_stream_opened(stream_id, now_us)

    def handle_stream_data(self, stream_id: int, data: bytes, now_us: int) -> None:
        self.endpoint.handle_stream_data(stream_id, data, now_us)

    def handle_stream_closed(self, stream_id: int, text: str, now_us: int) -> None:
        self._streams.discard(stream_id)
        self.endpoint.handle_stream_closed(stream_id, text, now_us)

    def handle_name_resolved(self, name: str, addresses: list[str], now_us: int) -> None:
        self.endpoint.handle_name_resolved(name, addresses, now_us)

    def handle_interfaces(self, addresses: list[InterfaceAddress], now_us: int) -> None:
        self.endpoint.handle_interfaces(addresses, now_us)

    def handle_signal(self, sender: Identity | None, signal: bytes, now_us: int) -> None:
        self.endpoint.handle_signal(sender, signal, now_us)

    def poll_memory(self) -> CallNote | None:
        return self.endpoint.poll_memory()

    def handle_relays(self, message: RelayNews | Tickets, now_us: int) -> None:
        self.endpoint.handle_relays(message, now_us)

    def renew_certificate(self, certificate: SignedCertificate) -> None:
        self.endpoint.renew_certificate(certificate)

    def poll_known_peer(self) -> tuple[Identity, str] | None:
        return self.endpoint.poll_known_peer()

    def handle_known_peers(self, entries: Iterable[tuple[Identity, str]]) -> None:
        self.endpoint.handle_known_peers(entries)

    def poll_signal(self) -> tuple[Identity, bytes] | None:
        return self.endpoint.poll_signal()

    def poll_event(self) -> Event | None:
        return self.endpoint.poll_event()
