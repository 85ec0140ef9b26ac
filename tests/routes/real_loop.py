"""Gatherers with real sockets and a real clock, for tests against servers of other people."""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from itertools import count

from peergram.address import Address
from peergram.config import Config
from peergram.drivers.system import secure_entropy
from peergram.io_requests import (
    CloseSocket,
    CloseStream,
    InterfaceAddress,
    OpenSocket,
    OpenStream,
    ResolveName,
    WatchInterfaces,
)
from peergram.routes.candidates import Base, CandidateKind, LocalCandidate
from peergram.routes.gather import CandidatePolicy, Gatherer
from peergram.routes.ice_servers import IceServers
from peergram.wire.stun import decode_stun, looks_like_stun


def now_us() -> int:
    return time.monotonic_ns() // 1_000


class RealGatherer:
    """One gatherer; blocking connects, for all is on this machine."""

    def __init__(self, urls: Sequence[str], interfaces: list[InterfaceAddress], policy: CandidatePolicy) -> None:
        ids = count(1)
        self.gatherer = Gatherer(
            servers=IceServers.of(*urls), policy=policy, entropy=secure_entropy, next_id=lambda: next(ids), config=Config()
        )
        self.sockets: dict[int, socket.socket] = {}
        self.inner: list[tuple[Base, Address, bytes]] = []
        self.wire_bytes: list[int] = []
        """Sizes of what was sent to relays as data."""
        self._interfaces = interfaces
        self.gatherer.want(now_us())

    def relays(self) -> list[LocalCandidate]:
        return [local for local in self.gatherer.candidates if local.candidate.kind is CandidateKind.RELAYED]

    def send(self, base: Base, remote: Address, *packets: bytes) -> bool:
        wrapped = self.gatherer.wrap(base, remote, list(packets), now_us())
        for datagram in wrapped[2] if wrapped is not None else []:
            self.wire_bytes.append(len(datagram))
            assert wrapped is not None
            self._send(wrapped[0], wrapped[1], datagram)
        return wrapped is not None

    def turn(self, wait_s: float) -> None:
        """Once through everything there is."""
        while (request := self.gatherer.poll_request()) is not None:
            self._do(request)
        while (transmit := self.gatherer.poll_transmit(now_us())) is not None:
            self._send(*transmit)
        while self.gatherer.poll_event() is not None:
            pass
        readable, _, _ = select.select(list(self.sockets.values()), [], [], wait_s)
        for number, sock in list(self.sockets.items()):
            if sock in readable:
                self._receive(number, sock)
        deadline = self.gatherer.poll_timeout()
        if deadline is not None and deadline.at_us <= now_us():
            self.gatherer.handle_timeout(now_us())

    def close(self) -> None:
        self.gatherer.close(now_us())
        end_us = now_us() + 3_000_000
        while not self.gatherer.is_closed and now_us() < end_us:
            self.turn(0.02)
        self.turn(0)
        for sock in self.sockets.values():
            sock.close()
        assert self.gatherer.is_closed

    def _do(self, request: object) -> None:
        if isinstance(request, OpenSocket):
            sock = socket.socket(socket.AF_INET6 if request.family == 6 else socket.AF_INET, socket.SOCK_DGRAM)
            sock.bind(request.bind)
            self.sockets[request.socket_id] = sock
            host, port = sock.getsockname()[:2]
            self.gatherer.handle_socket_opened(request.socket_id, (host, port), now_us())
        elif isinstance(request, OpenStream):
            try:
                stream = socket.create_connection(request.remote, 5)
            except OSError as error:
                self.gatherer.handle_stream_closed(request.stream_id, str(error), now_us())
                return
            if request.tls_name is not None:
                context = ssl.create_default_context()
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
                stream = context.wrap_socket(stream, server_hostname=request.tls_name)
            stream.settimeout(5)
            self.sockets[request.stream_id] = stream
            self.gatherer.handle_stream_opened(request.stream_id, now_us())
        elif isinstance(request, CloseSocket):
            self.sockets.pop(request.socket_id).close()
        elif isinstance(request, CloseStream):
            gone = self.sockets.pop(request.stream_id, None)
            if gone is not None:
                gone.close()
        elif isinstance(request, ResolveName):
            self.gatherer.handle_name_resolved(request.name, [socket.gethostbyname(request.name)], now_us())
        elif isinstance(request, WatchInterfaces) and request.on:
            self.gatherer.set_interfaces(self._interfaces, now_us())

    def _send(self, number: int, remote: Address, datagram: bytes) -> None:
        sock = self.sockets[number]
        if sock.type == socket.SOCK_DGRAM:
            sock.sendto(datagram, remote)
        else:
            sock.sendall(datagram)

    def _receive(self, number: int, sock: socket.socket) -> None:
        if sock.type != socket.SOCK_DGRAM:
            try:
                data = sock.recv(65_536)
            except ConnectionResetError:
                data = b""
            if isinstance(sock, ssl.SSLSocket):
                data += sock.recv(sock.pending()) if sock.pending() else b""
            if data:
                self.inner += self.gatherer.handle_stream_data(number, data, now_us())
            else:
                del self.sockets[number]
                sock.close()
                self.gatherer.handle_stream_closed(number, "end of stream", now_us())
            return
        datagram, source = sock.recvfrom(65_536)
        remote = (source[0], source[1])
        found = self.gatherer.unwrap(number, remote, datagram, now_us())
        if found is not None:
            self.inner.append(found)
        elif looks_like_stun(datagram):
            self.gatherer.handle_stun(number, remote, decode_stun(datagram), datagram, now_us())
        else:
            self.gatherer.handle_router(number, remote, datagram, now_us())


def run_until(done: Callable[[], bool], *gatherers: RealGatherer, seconds: float = 5) -> None:
    """Turn all until `done`; a failure if that takes longer than `seconds`."""
    end_us = now_us() + round(seconds * 1_000_000)
    while not done():
        assert now_us() < end_us, "it takes too long"
        for gatherer in gatherers:
            gatherer.turn(0.005)
