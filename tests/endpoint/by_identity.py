"""Endpoints that know each other by identity only: one flat network, one signaling service, virtual time."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from peergram.address import Address
from peergram.config import Config
from peergram.crypto.keys import SigningKey
from peergram.crypto.policy import Trust
from peergram.endpoint.endpoint import Endpoint
from peergram.events import Event, Message, SendFlags
from peergram.identity import Identity
from peergram.io_requests import CloseSocket, InterfaceAddress, OpenSocket, WatchInterfaces
from peergram.routes.ice_servers import IceServers
from peergram.wire.certificates import SignedCertificate

START_US = 1_000_000_000
RELIABLE = SendFlags.RELIABLE


@dataclass
class Host:
    """A machine with one address, and the endpoint on it."""

    world: World
    name: str
    address: str
    endpoint: Endpoint
    identity: Identity
    sockets: dict[int, Address] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    signals_sent: int = 0
    packets_sent: int = 0
    port: int = 40_000
    gateway: str | None = None

    def drain(self) -> None:
        """What a driver does after every call."""
        now_us = self.world.now_us
        for _ in range(1_000):
            while (request := self.endpoint.poll_socket_request()) is not None:
                if isinstance(request, OpenSocket):
                    self.port += 1
                    self.sockets[request.socket_id] = (request.bind[0], request.bind[1] or self.port)
                    self.endpoint.handle_socket_opened(request.socket_id, self.sockets[request.socket_id], now_us)
                elif isinstance(request, CloseSocket):
                    self.sockets.pop(request.socket_id, None)
                elif isinstance(request, WatchInterfaces) and request.on:
                    self.tell_address()
            transmit = self.endpoint.poll_transmit(now_us)
            if transmit is None:
                break
            for packet in transmit.packets:
                self.packets_sent += 1
                source = self.sockets.get(transmit.socket_id)
                if source is not None:
                    self.world.carry(source, transmit.remote, packet)
        while (signal := self.endpoint.poll_signal()) is not None:
            self.signals_sent += 1
            self.world.carry_signal(self, *signal)
        while (event := self.endpoint.poll_event()) is not None:
            self.events.append(event)

    def tell_address(self) -> None:
        """What a driver does when asked, and after a change."""
        addresses = [InterfaceAddress(self.address, 24, "eth0", False, self.gateway)]
        self.endpoint.handle_interfaces(addresses, self.world.now_us)

    def move(self, address: str) -> None:
        """Another address from now on."""
        self.address = address
        self.tell_address()
        self.drain()

    def send(self, to: Host, data: bytes = b"hello", flags: int = RELIABLE, channel: int = 0) -> int:
        """Send, and let go out what that causes."""
        result = self.endpoint.send_message(to.identity, data, flags, channel, self.world.now_us)
        self.drain()
        return int(result)

    def accept(self, peer: Host) -> bool:
        """Let him in."""
        accepted = self.endpoint.accept_session(peer.identity, self.world.now_us)
        self.drain()
        return accepted

    def received(self, channel: int = 0) -> list[Message]:
        """Everything unread."""
        return self.endpoint.receive_messages(channel, 1_000, self.world.now_us)


class World:
    """Hosts by name; `run` goes on until something is so, or nothing more happens in time."""

    def __init__(
        self, *names: str, latency_us: int = 10_000, signal_us: int = 5_000, seed: int = 1, config: Config | None = None
    ):
        self.now_us = START_US
        self.latency_us = latency_us
        self.signal_us = signal_us
        self.loses_signal: Callable[[Host, Identity, bytes], bool] = lambda _host, _to, _blob: False
        self.loses_packet: Callable[[Address, Address, bytes], bool] = lambda _source, _to, _packet: False
        self.random = Random(seed)
        self.wall_offset_us = 0
        """Unix time less our clock."""
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._order = 0
        self.hosts: dict[str, Host] = {}
        for index, name in enumerate(names):
            self.add(name, f"192.168.1.{index + 10}", config)

    def add(
        self,
        name: str,
        address: str,
        config: Config | None = None,
        key: SigningKey | None = None,
        *,
        remembered: Sequence[tuple[Identity, int]] = (),
        trust: Trust | None = None,
        certificate: SignedCertificate | None = None,
    ) -> Host:
        """A (new) host of that name, with a new key if none is given; without `trust` it believes anyone."""
        identity = Identity.of(name)
        endpoint = Endpoint(
            identity,
            config=config,
            entropy=self.random.randbytes,
            key=key or SigningKey.generate(self.random.randbytes),
            ice_servers=IceServers(),
            remembered=remembered,
            trust=trust,
            certificate=certificate,
            wall_offset_us=self.wall_offset_us,
        )
        host = self.hosts[name] = Host(self, name, address, endpoint, identity)
        host.drain()
        return host

    def lose_signals(self, share: float) -> None:
        """From now on."""
        self.loses_signal = lambda _host, _to, _blob: self.random.random() < share

    def catch_signals(self, *, loses: bool) -> list[bytes]:
        """A list of those that are sent from now on; whether they get lost."""
        caught: list[bytes] = []

        def take(_host: Host, _to: Identity, blob: bytes) -> bool:
            caught.append(blob)
            return loses

        self.loses_signal = take
        return caught

    def catch_packets(self) -> list[Address]:
        """Where packets go from now on; none arrives."""
        caught: list[Address] = []

        def take(_source: Address, to: Address, _packet: bytes) -> bool:
            caught.append(to)
            return True

        self.loses_packet = take
        return caught

    def at(self, after_us: int, action: Callable[[], None]) -> None:
        """Do that later."""
        self._order += 1
        heapq.heappush(self._heap, (self.now_us + after_us, self._order, action))

    def forget_packets(self) -> None:
        """Whatever is on its way is lost."""
        self._heap.clear()

    def carry(self, source: Address, destination: Address, packet: bytes) -> None:
        """A datagram on its way."""
        if self.loses_packet(source, destination, packet):
            return
        self.at(self.latency_us, lambda: self._arrive(source, destination, packet))

    def _arrive(self, source: Address, destination: Address, packet: bytes) -> None:
        for host in self.hosts.values():
            for socket_id, local in list(host.sockets.items()):
                if local == destination:
                    host.endpoint.handle_datagrams(socket_id, source, packet, len(packet), self.now_us)
                    host.drain()

    def carry_signal(self, sender: Host, to: Identity, blob: bytes) -> None:
        """A signal on its way."""
        if self.loses_signal(sender, to, blob):
            return
        self.at(self.signal_us, lambda: self.deliver_signal(sender.identity, to, blob))

    def deliver_signal(self, sender: Identity | None, to: Identity, blob: bytes) -> None:
        """A signal arrives."""
        for host in self.hosts.values():
            if host.identity == to:
                host.endpoint.handle_signal(sender, blob, self.now_us)
                host.drain()

    def run(self, for_us: int, until: Callable[[], bool] = lambda: False) -> bool:
        """Let that much time pass, or less if `until` holds; whether it does."""
        end_us = self.now_us + for_us
        while not until():
            at_us = self._heap[0][0] if self._heap else end_us + 1
            timers = [(deadline.at_us, host) for host in self.hosts.values() if (deadline := host.endpoint.poll_timeout())]
            due_us = min((at for at, _ in timers), default=end_us + 1)
            if min(at_us, due_us) > end_us:
                self.now_us = end_us
                return until()
            self.now_us = max(self.now_us, min(at_us, due_us))
            if at_us <= due_us:
                heapq.heappop(self._heap)[2]()
            else:
                for at, host in timers:
                    if at <= self.now_us:
                        host.endpoint.handle_timeout(self.now_us)
                        host.drain()
        return True
