"""An endpoint small enough to see through, and sockets that fail on purpose.

A datagram is 8 bytes of number and any text. A `FakeEndpoint` keeps every one it gets, or sends it back if it is an echo. It
checks what drivers promise: one call at a time, time never goes back, no timer before its time.
"""

from __future__ import annotations

import errno
import random
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from peergram.address import Address
from peergram.errors import UsageError
from peergram.identity import Identity
from peergram.io_requests import CallNote, CloseSocket, InterfaceAddress, IoRequest, OpenSocket, OpenStream, Transmit
from peergram.timing import NEVER, Deadline
from peergram.wire.certificates import SignedCertificate
from peergram.wire.relay_news import RelayNews, Tickets

if TYPE_CHECKING:
    from peergram.events import Event

LOOPBACK: Address = ("127.0.0.1", 0)


class FakeEndpoint:
    """Sends what it is told, at once or later; keeps or echoes what arrives."""

    def __init__(self, *, echo: bool = False, bind: Address | None = LOOPBACK) -> None:
        self.echo = echo
        self.locals: dict[int, Address] = {}
        self.failures: dict[int, str] = {}
        self.inbox: deque[bytes] = deque()
        self.received = 0
        self.timeouts = 0
        self.closed = 0
        self.raise_in_handlers = 0
        self.always_due = False
        self.on_timeout: Callable[[], object] | None = None
        self.farewell_to: Address | None = None
        self.broken_promises: list[str] = []
        self.streams: dict[int, list[str]] = {}
        """What became of each stream: "opened", "closed: " and why."""
        self.arrived: dict[int, bytearray] = {}
        """All bytes of each stream."""
        self.resolved: list[tuple[str, list[str]]] = []
        self.interfaces: list[list[InterfaceAddress]] = []
        self.signals: list[tuple[Identity | None, bytes]] = []
        self.met: deque[tuple[Identity, str]] = deque()
        """Whom it met for the first time."""
        self.known: list[tuple[Identity, str]] = []
        self.certificates: list[SignedCertificate] = []
        self.relays: list[RelayNews | Tickets] = []
        self.signals_to_send: deque[tuple[Identity, bytes]] = deque()
        self._inside: int | None = None
        self._last_us = 0
        self._requests: deque[IoRequest] = deque()
        self._transmits: deque[Transmit] = deque()
        self._later: list[tuple[int, Transmit]] = []
        self._events: deque[Any] = deque()
        self._next_id = 1
        if bind is not None:
            self.listen(bind)

    # What tests ask of it

    def listen(self, bind: Address) -> int:
        socket_id, self._next_id = self._next_id, self._next_id + 1
        family: Literal[4, 6] = 6 if ":" in bind[0] else 4
        self._requests.append(OpenSocket(socket_id, family, bind))
        return socket_id

    def close_socket(self, socket_id: int, now_us: int = 0) -> None:
        self._requests.append(CloseSocket(socket_id))

    def send(self, remote: Address, packets: list[bytes], now_us: int, *, delay_us: int = 0, socket_id: int = 1) -> None:
        with self._alone(now_us):
            transmit = Transmit(socket_id, remote, packets)
            if delay_us:
                self._later.append((now_us + delay_us, transmit))
            else:
                self._transmits.append(transmit)

    def ask(self, request: IoRequest) -> None:
        self._requests.append(request)

    def open_stream(self, remote: Address, *, tls_name: str | None = None, tls_fingerprint: str | None = None) -> int:
        stream_id, self._next_id = self._next_id, self._next_id + 1
        self.streams[stream_id], self.arrived[stream_id] = [], bytearray()
        self.ask(OpenStream(stream_id, remote, tls_name, tls_fingerprint))
        return stream_id

    def tell(self, event: object) -> None:
        self._events.append(event)

    def receive(self) -> list[bytes]:
        messages = list(self.inbox)
        self.inbox.clear()
        return messages

    @property
    def local(self) -> Address:
        return self.locals[1]

    # The interface of drivers

    @property
    def unread_messages(self) -> int:
        return len(self.inbox)

    def poll_socket_request(self) -> IoRequest | None:
        return self._requests.popleft() if self._requests else None

    def handle_stream_opened(self, stream_id: int, now_us: int) -> None:
        with self._alone(now_us):
            self.streams[stream_id].append("opened")

    def handle_stream_data(self, stream_id: int, data: bytes, now_us: int) -> None:
        with self._alone(now_us):
            if not data or self.streams[stream_id] != ["opened"]:
                self.broken_promises.append("data of a stream that is not open")
            self.arrived[stream_id] += data

    def handle_stream_closed(self, stream_id: int, text: str, now_us: int) -> None:
        with self._alone(now_us):
            self.streams[stream_id].append(f"closed: {text}")

    def handle_name_resolved(self, name: str, addresses: list[str], now_us: int) -> None:
        with self._alone(now_us):
            self.resolved.append((name, addresses))

    def handle_interfaces(self, addresses: list[InterfaceAddress], now_us: int) -> None:
        with self._alone(now_us):
            self.interfaces.append(addresses)

    def handle_signal(self, sender: Identity | None, signal: bytes, now_us: int) -> None:
        with self._alone(now_us):
            if self.raise_in_handlers:
                self.raise_in_handlers -= 1
                raise RuntimeError("a defect in handle_signal")
            self.signals.append((sender, signal))

    def poll_memory(self) -> CallNote | None:
        return None

    def handle_relays(self, message: RelayNews | Tickets, now_us: int) -> None:
        if isinstance(message, RelayNews) and message.map_text == b"none":
            raise UsageError("relay map: it is no JSON")
        self.relays.append(message)

    def renew_certificate(self, certificate: SignedCertificate) -> None:
        if not certificate.ca_signature:
            raise UsageError("certificate: no authority has signed it")
        self.certificates.append(certificate)

    def poll_known_peer(self) -> tuple[Identity, str] | None:
        return self.met.popleft() if self.met else None

    def handle_known_peers(self, entries: Iterable[tuple[Identity, str]]) -> None:
        self.known = list(entries)

    def poll_signal(self) -> tuple[Identity, bytes] | None:
        return self.signals_to_send.popleft() if self.signals_to_send else None

    def handle_socket_opened(self, socket_id: int, local: Address, now_us: int) -> None:
        with self._alone(now_us):
            self.locals[socket_id] = local

    def handle_socket_failed(self, socket_id: int, text: str, now_us: int) -> None:
        with self._alone(now_us):
            self.failures[socket_id] = text

    def handle_datagrams(self, socket_id: int, remote: Address, data: bytes, segment_bytes: int, now_us: int) -> None:
        with self._alone(now_us):
            if self.raise_in_handlers:
                self.raise_in_handlers -= 1
                raise RuntimeError("a defect in handle_datagrams")
            packets = [data[start : start + segment_bytes] for start in range(0, len(data), segment_bytes)]
            self.received += len(packets)
            if self.echo:
                self._transmits.append(Transmit(socket_id, remote, packets))
            else:
                self.inbox.extend(packets)

    def handle_timeout(self, now_us: int) -> None:
        with self._alone(now_us):
            self.timeouts += 1
            if self.on_timeout is not None:
                self.on_timeout()
            if not self.always_due and now_us < self._next_at_us():
                self.broken_promises.append("a timer ran before its time")
            self._transmits.extend(transmit for at_us, transmit in self._later if at_us <= now_us)
            self._later = [entry for entry in self._later if entry[0] > now_us]

    def poll_transmit(self, now_us: int) -> Transmit | None:
        with self._alone(now_us):
            return self._transmits.popleft() if self._transmits else None

    def poll_timeout(self) -> Deadline | None:
        at_us = self._next_at_us()
        return None if at_us == NEVER else Deadline(at_us, "later")

    def poll_event(self) -> Event | None:
        return self._events.popleft() if self._events else None

    def close(self, now_us: int) -> None:
        with self._alone(now_us):
            self.closed += 1
            if self.farewell_to is not None:
                self._transmits.append(Transmit(1, self.farewell_to, [b"farewell"]))

    def _next_at_us(self) -> int:
        if self.always_due:
            return 0
        return min((at_us for at_us, _ in self._later), default=NEVER)

    @contextmanager
    def _alone(self, now_us: int) -> Iterator[None]:
        if self._inside is not None:
            self.broken_promises.append("two calls at once")
        if now_us < self._last_us:
            self.broken_promises.append("time went back")
        self._inside = threading.get_ident()
        self._last_us = now_us
        try:
            yield
        finally:
            self._inside = None


def faulty_sockets(codes: list[int], share: float, seed: int) -> Callable[[int, int], socket.socket]:
    """Makes sockets of which `share` of all calls raise one of `codes`, receiving included."""
    rng = random.Random(seed)

    def fault() -> None:
        if rng.random() < share:
            code = rng.choice(codes)
            raise OSError(code, errno.errorcode[code])

    class FaultySocket(socket.socket):
        def sendto(self, *arguments: Any) -> int:
            fault()
            return super().sendto(*arguments)

        def sendmsg(self, *arguments: Any) -> int:
            fault()
            return super().sendmsg(*arguments)

        def recvmsg(self, *arguments: Any) -> tuple[bytes, list[tuple[int, int, bytes]], int, Any]:
            fault()
            return super().recvmsg(*arguments)

        def recvfrom(self, *arguments: Any) -> tuple[bytes, Any]:
            fault()
            return super().recvfrom(*arguments)

    return FaultySocket


def numbered(start: int, count: int, size: int = 64) -> list[bytes]:
    """Datagrams that carry the numbers from `start` on."""
    return [number.to_bytes(8, "big").ljust(size, b".") for number in range(start, start + count)]


def numbers(packets: list[bytes]) -> list[int]:
    return [int.from_bytes(packet[:8], "big") for packet in packets]


def until(condition: Callable[[], object], timeout_s: float = 5.0) -> bool:
    """Wait for another thread: whether the condition came true in time."""
    give_up_at_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > give_up_at_s:
            return False
        time.sleep(0.001)
    return True


def until_is(read: Callable[[], object], wanted: object) -> bool:
    """Wait for another thread: whether `read()` gave the wanted value in time."""
    return until(lambda: read() == wanted)
