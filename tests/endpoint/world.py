"""A few endpoints in virtual time, with a network between them that a test can bend.

The fixture of the tests in `tests/endpoint` and `tests/scenarios`: every host has one address, one process at a time, and an
application that accepts and reads unless told otherwise. Whatever reaches a host was sent by another one, or given to `deliver`.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from random import Random

from peergram.address import Address
from peergram.config import Config
from peergram.connection.connection import Connection
from peergram.connection.flow import Flow
from peergram.crypto.keys import SigningKey
from peergram.crypto.policy import Trust
from peergram.endpoint.endpoint import Endpoint
from peergram.endpoint.link import Link
from peergram.errors import Result
from peergram.events import (
    ConnectionInfo,
    Delivered,
    Event,
    Message,
    PeerRefused,
    RealTimeStatus,
    Receipt,
    SendFlags,
    SessionFailed,
    SessionRequested,
    Unconfirmed,
)
from peergram.identity import Identity
from peergram.io_requests import CloseSocket, OpenSocket
from peergram.timing import NEVER
from peergram.wire.certificates import SignedCertificate

RELIABLE = int(SendFlags.RELIABLE)
UNRELIABLE = int(SendFlags.UNRELIABLE)
NO_NAGLE = int(SendFlags.NO_NAGLE)
NO_DELAY = int(SendFlags.NO_DELAY)
AUTO_RESTART = int(SendFlags.AUTO_RESTART_BROKEN_SESSION)
SECOND_US = 1_000_000
PORT = 7_000
_STEPS_MAX = 3_000_000
_STEPS_AT_ONCE_MAX = 10_000

Network = Callable[["Host", "Host", bytes], list[int]]
"""(from, to, packet) -> the delays in us with which it arrives; [] loses it."""


def steady(delay_us: int = 5_000) -> Network:
    """Everything arrives, after the same time."""
    return lambda sender, receiver, packet: [delay_us]


def rough(rng: Random, *, loss: float = 0.0, delay_us: tuple[int, int] = (5_000, 5_000), again: float = 0.0) -> Network:
    """Random delays (so packets overtake each other), loss and duplicates."""

    def network(sender: Host, receiver: Host, packet: bytes) -> list[int]:
        copies = 0 if rng.random() < loss else 2 if rng.random() < again else 1
        return [rng.randint(*delay_us) for _ in range(copies)]

    return network


class Host:
    """A machine with one address and at most one process, which listens on port 7000 unless `listens` is off."""

    def __init__(self, world: World, name: str, ip: str, config: Config, *, listens: bool) -> None:
        self.world = world
        self._name = name
        self._key_number = 0
        self._runs = 0
        self.identity = Identity.of(name) if name else Identity.generic_bytes(self._key().public_bytes)
        self.ip = ip
        self.address: Address = (ip, PORT)
        self.dialed = Identity.ip(self.address)
        """The name by which others reach it."""
        self.config = config
        self.listens = listens
        self.trust: Trust | None = None
        """Whom it believes, from its next start on; None is anyone."""
        self.certificate: SignedCertificate | None = None
        self.refused: list[PeerRefused] = []
        self.accepts = True
        self.reads = True
        self.polls = True
        """Whether the application looks at events at all."""
        self.running: Endpoint | None = None
        self.sockets: dict[int, Address] = {}
        self.requests: list[SessionRequested] = []
        self.failures: list[SessionFailed] = []
        self.told: list[Receipt] = []
        """Receipts of which an event said that they are settled."""
        self.received: list[Message] = []
        """What the application read by itself, oldest first."""
        self.armed_at_us = NEVER

    def _key(self) -> SigningKey:
        return SigningKey.generate(Random(f"{self._name} key {self._key_number}").randbytes)

    @property
    def key(self) -> SigningKey:
        """What it signs with."""
        return self._key()

    @property
    def endpoint(self) -> Endpoint:
        """The process's endpoint."""
        assert self.running is not None, "the host does not run"
        return self.running

    def start(self, *, new_key: bool = False) -> None:
        """A new process, with the key of the one before unless told otherwise."""
        self._key_number += new_key
        self._runs += 1
        entropy = Random(f"{self.world.seed} {self.ip} run {self._runs}").randbytes
        self.running = Endpoint(
            self.identity,
            config=self.config,
            entropy=entropy,
            key=self.key,
            certificate=self.certificate,
            trust=self.trust,
            wall_offset_us=self.world.wall_offset_us,
        )
        if self.listens:
            self.running.listen(self.address)
        self.drain()

    def kill(self) -> None:
        """The process is gone and tells nobody."""
        self.running = None
        self.armed_at_us = NEVER
        for address in self.sockets.values():
            del self.world.bound[address]
        self.sockets.clear()

    # --- what an application does ---

    def send(self, to: Host | Identity, data: bytes, flags: int = RELIABLE, channel: int = 0) -> Result:
        self.world.channels.setdefault(channel)
        result = self.endpoint.send_message(_name(to), data, flags, channel, self.world.now_us)
        self.drain()
        return result

    def send_with_receipt(
        self, to: Host | Identity, data: bytes, flags: int = RELIABLE, channel: int = 0
    ) -> tuple[Result, Receipt | None]:
        self.world.channels.setdefault(channel)
        answer = self.endpoint.send_with_receipt(_name(to), data, flags, channel, self.world.now_us)
        self.drain()
        return answer

    def read(self, channel: int = 0, messages_max: int = 1_000_000) -> list[Message]:
        messages = self.endpoint.receive_messages(channel, messages_max, self.world.now_us)
        self.drain()
        return messages

    def accept(self, who: Host | Identity) -> bool:
        accepted = self.endpoint.accept_session(_name(who), self.world.now_us)
        self.drain()
        return accepted

    def close_session(self, who: Host | Identity) -> bool:
        closed = self.endpoint.close_session(_name(who), self.world.now_us)
        self.drain()
        return closed

    def close_channel(self, who: Host | Identity, channel: int) -> bool:
        closed = self.endpoint.close_channel(_name(who), channel, self.world.now_us)
        self.drain()
        return closed

    def close(self) -> None:
        """The process ends in good order."""
        self.endpoint.close(self.world.now_us)
        self.drain()

    def info(self, who: Host | Identity) -> ConnectionInfo | None:
        return self.endpoint.connection_info(_name(who), self.world.now_us)

    def status(self, who: Host | Identity) -> RealTimeStatus | None:
        return self.endpoint.real_time_status(_name(who), self.world.now_us)

    def payloads(self, channel: int = 0) -> list[bytes]:
        """What was read so far on a channel."""
        return [message.payload for message in self.received if message.channel == channel]

    @property
    def lost(self) -> Unconfirmed:
        """What all failures reported as unconfirmed."""
        return Unconfirmed(
            sum(failure.unconfirmed.messages for failure in self.failures),
            sum(failure.unconfirmed.bytes for failure in self.failures),
        )

    # --- what no application can see ---

    @property
    def links(self) -> list[Link]:
        """Every connection, ended ones that still answer included."""
        return list(self.endpoint._links)

    @property
    def live(self) -> list[Connection]:
        """Connections that may still carry data."""
        return [link.connection for link in self.links if link.connection.is_live]

    @property
    def flow(self) -> Flow:
        """Of the one live connection."""
        (connection,) = self.live
        assert connection.flow is not None
        return connection.flow

    # --- what a driver does ---

    def drain(self) -> None:
        """Sockets, transmits, the alarm; then events and messages, whose answers may call for more of each."""
        endpoint = self.endpoint
        busy = True
        while busy:
            while (request := endpoint.poll_socket_request()) is not None:
                assert isinstance(request, OpenSocket | CloseSocket)
                self._serve(request)
            while (transmit := endpoint.poll_transmit(self.world.now_us)) is not None:
                self.world.carry(self, self.sockets[transmit.socket_id], transmit.remote, transmit.packets)
            deadline = endpoint.poll_timeout()
            while self.polls and (event := endpoint.poll_event()) is not None:
                self._note(event)
            busy = (self.reads and self._read_all()) or endpoint.needs_service
        self.armed_at_us = NEVER if deadline is None else deadline.at_us

    def _serve(self, request: OpenSocket | CloseSocket) -> None:
        if isinstance(request, CloseSocket):
            del self.world.bound[self.sockets.pop(request.socket_id)]
            return
        local = (self.ip, request.bind[1] or self.world.free_port())
        if local in self.world.bound:
            self.endpoint.handle_socket_failed(request.socket_id, "the port is taken", self.world.now_us)
            return
        self.world.bound[local] = (self, request.socket_id)
        self.sockets[request.socket_id] = local
        self.endpoint.handle_socket_opened(request.socket_id, local, self.world.now_us)

    def _note(self, event: Event) -> None:
        if isinstance(event, SessionFailed):
            self.failures.append(event)
            return
        if isinstance(event, PeerRefused):
            self.refused.append(event)
            return
        if isinstance(event, Delivered):
            self.told.append(event.receipt)
            return
        assert isinstance(event, SessionRequested)
        self.requests.append(event)
        if self.accepts:
            self.endpoint.accept_session(event.identity, self.world.now_us)

    def _read_all(self) -> bool:
        if not self.endpoint.unread_messages:
            return False
        before = len(self.received)
        for channel in self.world.channels:
            self.received += self.endpoint.receive_messages(channel, 1_000_000, self.world.now_us)
        return len(self.received) > before


class World:
    """Hosts, one clock, and what is under way between them."""

    def __init__(self, network: Network | None = None, *, seed: int = 1) -> None:
        self.seed = seed
        self.now_us = 10 * SECOND_US
        self.wall_offset_us = 0
        """Unix time less our clock."""
        self.network = network or steady()
        self.hosts: list[Host] = []
        self.bound: dict[Address, tuple[Host, int]] = {}
        self.channels: dict[int, None] = {}
        """Every channel anybody sent on."""
        self.cut: set[frozenset[Host]] = set()
        """Pairs of hosts that cannot reach each other now."""
        self.sent: list[tuple[int, Address, Address, bytes]] = []
        """(time, from, to, datagram) of everything sent, if `records` is on."""
        self.records = False
        self._under_way: list[tuple[int, int, Address, Address, bytes, int]] = []
        self._order = 0
        self._port = 40_000

    def add(
        self,
        name: str,
        config: Config | None = None,
        *,
        listens: bool = True,
        accepts: bool = True,
        reads: bool = True,
        starts: bool = True,
        trust: Trust | None = None,
        certificate: SignedCertificate | None = None,
    ) -> Host:
        """One more host, running unless told otherwise; without a name its identity is its key."""
        host = Host(self, name, f"10.0.{len(self.hosts) >> 8}.{len(self.hosts) % 256}", config or Config(), listens=listens)
        host.accepts, host.reads, host.trust, host.certificate = accepts, reads, trust, certificate
        self.hosts.append(host)
        if starts:
            host.start()
        return host

    def free_port(self) -> int:
        self._port += 1
        return self._port

    def carry(self, sender: Host, source: Address, destination: Address, packets: list[bytes]) -> None:
        """Take what a host sends; neighbours of one size that travel equally long arrive as one batch."""
        if self.records:
            self.sent += [(self.now_us, source, destination, packet) for packet in packets]
        bound = self.bound.get(destination)
        if bound is None or frozenset((sender, bound[0])) in self.cut:
            return
        batch: list[bytes] = []
        batch_delay_us = 0
        for packet in packets:
            for delay_us in self.network(sender, bound[0], packet):
                joins = batch and delay_us == batch_delay_us and len(packet) <= len(batch[0]) == len(batch[-1])
                if batch and not joins:
                    self.deliver(source, destination, b"".join(batch), len(batch[0]), batch_delay_us)
                    batch = []
                batch.append(packet)
                batch_delay_us = delay_us
        if batch:
            self.deliver(source, destination, b"".join(batch), len(batch[0]), batch_delay_us)

    def deliver(self, source: Address, destination: Address, data: bytes, segment_bytes: int = 0, delay_us: int = 0) -> None:
        """Put datagrams under way, whoever sent them."""
        self._order += 1
        entry = (self.now_us + delay_us, self._order, source, destination, data, segment_bytes or len(data))
        heapq.heappush(self._under_way, entry)

    def run(self, duration_us: int) -> None:
        """Let this much virtual time pass."""
        self._run(lambda: False, duration_us)

    def run_until(self, done: Callable[[], object], limit_us: int = 30 * SECOND_US) -> None:
        """Run until something holds; fails the test if it does not within the limit."""
        assert self._run(done, limit_us), "did not happen in time"

    def _run(self, done: Callable[[], object], limit_us: int) -> bool:
        until_us = self.now_us + limit_us
        at_once = 0
        for _ in range(_STEPS_MAX):
            if done():
                return True
            before_us = self.now_us
            at_us = min([host.armed_at_us for host in self.hosts])
            if self._under_way:
                at_us = min(at_us, self._under_way[0][0])
            if at_us > until_us:
                self.now_us = until_us
                return bool(done())
            self.now_us = max(self.now_us, at_us)
            self._arrive()
            for host in self.hosts:
                if host.armed_at_us <= self.now_us:
                    host.endpoint.handle_timeout(self.now_us)
                    host.drain()
            at_once = at_once + 1 if self.now_us == before_us else 0
            assert at_once < _STEPS_AT_ONCE_MAX, "livelock: time stands still"
        raise AssertionError("livelock: too many steps")

    def _arrive(self) -> None:
        while self._under_way and self._under_way[0][0] <= self.now_us:
            _, _, source, destination, data, segment_bytes = heapq.heappop(self._under_way)
            bound = self.bound.get(destination)
            if bound is not None:
                host, socket_id = bound
                host.endpoint.handle_datagrams(socket_id, source, data, segment_bytes, self.now_us)
                host.drain()


def _name(who: Host | Identity) -> Identity:
    return who.dialed if isinstance(who, Host) else who


def connected(config: Config | None = None, network: Network | None = None, *, seed: int = 1) -> tuple[World, Host, Host]:
    """Alice, who dialed Bob, and Bob, who accepted: one message went each way and was read."""
    world = World(network, seed=seed)
    alice, bob = world.add("alice", config), world.add("bob", config)
    alice.send(bob, b"first")
    world.run_until(lambda: bob.received)
    bob.send(alice.identity, b"answer")
    world.run_until(lambda: alice.received)
    world.run(100_000)
    alice.received.clear()
    bob.received.clear()
    bob.requests.clear()
    return world, alice, bob
