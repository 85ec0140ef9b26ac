"""A gatherer in virtual time: the driver's answers, the servers it may reach, and what it announces."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Protocol

from peergram.address import Address
from peergram.config import Config
from peergram.io_requests import (
    CloseSocket,
    CloseStream,
    InterfaceAddress,
    OpenSocket,
    OpenStream,
    ResolveName,
    WatchInterfaces,
)
from peergram.routes.candidates import Base, CandidateKind
from peergram.routes.gather import CandidateAdded, CandidatePolicy, CandidateRemoved, Gatherer, GatheringDone
from peergram.routes.ice_servers import IceServers
from peergram.wire.stun import decode_stun, looks_like_stun
from tests.routes.servers import Replies, counting_entropy

SECOND = 1_000_000


class Server(Protocol):
    def handle(self, source: Address, data: bytes, now_us: int) -> Replies: ...


def interface(address: str, *, prefix_bits: int = 24, loopback: bool = False, gateway: str | None = None) -> InterfaceAddress:
    return InterfaceAddress(address, prefix_bits, "lo" if loopback else "eth0", loopback, gateway)


@dataclass
class Lab:
    """Runs one gatherer; `servers` by address answer what is sent there by UDP or over a stream."""

    servers: dict[Address, Server] = field(default_factory=dict)
    urls: Sequence[str] = ()
    policy: CandidatePolicy = field(default_factory=CandidatePolicy)
    interfaces: list[InterfaceAddress] = field(default_factory=lambda: [interface("10.0.0.5")])
    names: dict[str, list[str] | None] = field(default_factory=dict)
    """None: the answer never comes."""
    udp_works: bool = True
    allow_redirect: bool = False
    rewrite_source: Callable[[Address], Address] = lambda source: source
    """The NAT in front of us."""

    def __post_init__(self) -> None:
        self.now_us = SECOND
        ids = count(1)
        self.gatherer = Gatherer(
            servers=IceServers.of(*self.urls, allow_redirect=self.allow_redirect),
            policy=self.policy,
            entropy=counting_entropy(),
            next_id=lambda: next(ids),
            config=Config(),
        )
        self.sockets: dict[int, Address] = {}
        self.streams: dict[int, Address] = {}
        self.refused_binds: set[str] = set()
        self._closed_streams: set[int] = set()
        self.asked_names: list[str] = []
        self.watching = False
        self.sent: list[tuple[int, Address, bytes]] = []
        self.events: list[object] = []
        self.inner: list[tuple[Base, Address, bytes]] = []
        self._ports = count(40_000)
        self._later: list[tuple[int, int, Callable[[], None]]] = []
        self._order = count()

    # Commands.

    def want(self) -> None:
        self.gatherer.want(self.now_us)
        self.drain()

    def set_interfaces(self, interfaces: list[InterfaceAddress]) -> None:
        self.interfaces = interfaces
        self.gatherer.set_interfaces(interfaces, self.now_us)
        self.drain()

    def send(self, base: Base, remote: Address, *packets: bytes) -> bool:
        wrapped = self.gatherer.wrap(base, remote, list(packets), self.now_us)
        if wrapped is None:
            return False
        for datagram in wrapped[2]:
            self.transmit(wrapped[0], wrapped[1], datagram)
        self.drain()
        return True

    def deliver(self, socket_id: int, source: Address, datagram: bytes) -> None:
        """As an endpoint does it: relayed data first, then STUN."""
        inner = self.gatherer.unwrap(socket_id, source, datagram, self.now_us)
        if inner is not None:
            self.inner.append(inner)
        elif looks_like_stun(datagram):
            self.gatherer.handle_stun(socket_id, source, decode_stun(datagram), datagram, self.now_us)
        else:
            self.gatherer.handle_router(socket_id, source, datagram, self.now_us)
        self.drain()

    def run(self, seconds: float) -> None:
        end_us = self.now_us + round(seconds * SECOND)
        self.drain()
        while True:
            deadline = self.gatherer.poll_timeout()
            next_us = min(
                self._later[0][0] if self._later else end_us, deadline.at_us if deadline is not None else end_us, end_us
            )
            stood_still = next_us <= self.now_us
            self.now_us = max(self.now_us, next_us)
            while self._later and self._later[0][0] <= self.now_us:
                heapq.heappop(self._later)[2]()
                stood_still = False
            if deadline is not None and deadline.at_us <= self.now_us:
                self.gatherer.handle_timeout(self.now_us)
                self.drain()
                after = self.gatherer.poll_timeout()
                assert after is None or after.at_us > self.now_us, f"it would spin: {after}"
            self.drain()
            if self.now_us >= end_us and (stood_still or not self._later or self._later[0][0] > end_us):
                return

    # What there is to see.

    @property
    def addresses(self) -> dict[Address, CandidateKind]:
        return {local.candidate.address: local.candidate.kind for local in self.gatherer.candidates}

    def of_kind(self, kind: CandidateKind) -> list[Address]:
        return [address for address, each in self.addresses.items() if each is kind]

    def base_of(self, address: Address) -> Base:
        return next(local.base for local in self.gatherer.candidates if local.candidate.address == address)

    def is_closed(self) -> bool:
        return self.gatherer.is_closed

    @property
    def done(self) -> int:
        return sum(isinstance(event, GatheringDone) for event in self.events)

    # Inside.

    def later(self, delay_s: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._later, (self.now_us + round(delay_s * SECOND), next(self._order), action))

    def drain(self) -> None:
        while (request := self.gatherer.poll_request()) is not None:
            self._answer(request)
        while (transmit := self.gatherer.poll_transmit(self.now_us)) is not None:
            self.transmit(*transmit)
        while (event := self.gatherer.poll_event()) is not None:
            self.events.append(event)
            if isinstance(event, CandidateAdded):
                assert event.local in self.gatherer.candidates or any(
                    isinstance(each, CandidateRemoved) for each in self.events
                ), "what is announced is there"

    def transmit(self, path_id: int, remote: Address, datagram: bytes) -> None:
        self.sent.append((path_id, remote, datagram))
        server = self.servers.get(remote)
        if path_id in self.streams:
            assert self.streams[path_id] == remote
            source = ("192.0.2.250", path_id)
        else:
            source = self.rewrite_source(self.sockets[path_id])
        if server is None or (path_id in self.sockets and not self.udp_works):
            return
        for delay_s, reply in server.handle(source, datagram, self.now_us):
            self.later(delay_s, partial(self._arrive, path_id, remote, reply))

    def _arrive(self, path_id: int, remote: Address, datagram: bytes) -> None:
        if path_id in self.streams:
            self.inner += self.gatherer.handle_stream_data(path_id, datagram, self.now_us)
            self.drain()
        elif path_id in self.sockets:
            self.deliver(path_id, remote, datagram)

    def _answer(self, request: object) -> None:
        if isinstance(request, OpenSocket):
            self.later(0, partial(self._open, request))
        elif isinstance(request, CloseSocket):
            self.sockets.pop(request.socket_id, None)
        elif isinstance(request, OpenStream):
            self.later(0.02, partial(self._connect, request))
        elif isinstance(request, CloseStream):
            self.streams.pop(request.stream_id, None)
            self._closed_streams.add(request.stream_id)
        elif isinstance(request, ResolveName):
            self.asked_names.append(request.name)
            hosts = self.names.get(request.name, [])
            if hosts is not None:
                self.later(0.05, partial(self._resolved, request.name, hosts))
        elif isinstance(request, WatchInterfaces):
            self.watching = request.on
            if request.on:
                self.later(0, self._tell_interfaces)

    def _open(self, request: OpenSocket) -> None:
        if request.bind[0] in self.refused_binds:
            self.gatherer.handle_socket_failed(request.socket_id, "cannot assign", self.now_us)
        else:
            local = (request.bind[0], next(self._ports))
            self.sockets[request.socket_id] = local
            self.gatherer.handle_socket_opened(request.socket_id, local, self.now_us)
        self.drain()

    def _tell_interfaces(self) -> None:
        self.set_interfaces(self.interfaces)

    def _connect(self, request: OpenStream) -> None:
        if request.remote in self.servers and request.stream_id not in self._closed_streams:
            self.streams[request.stream_id] = request.remote
            self.gatherer.handle_stream_opened(request.stream_id, self.now_us)
        self.drain()

    def _resolved(self, name: str, hosts: list[str]) -> None:
        self.gatherer.handle_name_resolved(name, hosts, self.now_us)
        self.drain()
