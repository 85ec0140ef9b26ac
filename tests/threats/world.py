"""Endpoints in virtual time, with an attacker who can put any datagram in front of them; and ways to see what it did.

Small on purpose: hosts, a network that a test may bend, and three instruments. `digest` sums up a state, so that "nothing
changed" is one comparison; `operations` counts the interpreter's steps, so that work is compared without a clock; `held_bytes`
says what memory an action left behind. `full_or` chooses between the figures of the threat table (PEERGRAM_SOAK=1, which
tools/soak sets) and shorter ones.
"""

from __future__ import annotations

import gc
import hashlib
import heapq
import os
import sys
import tracemalloc
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from random import Random
from types import FrameType
from typing import Any

import pytest

from peergram import COMPILED
from peergram.address import Address
from peergram.config import Config
from peergram.connection.connection import Connection
from peergram.connection.flow import Flow
from peergram.endpoint.endpoint import Endpoint
from peergram.endpoint.link import Link
from peergram.errors import Result
from peergram.events import ConnectionState, Message, SendFlags, SessionFailed, SessionRequested
from peergram.identity import Identity
from peergram.io_requests import OpenSocket

SOAK = os.environ.get("PEERGRAM_SOAK") == "1"
START_US = 1_000_000_000
PORT = 7_000

Network = Callable[[Address, Address, bytes, int], list[int]]
"""(source, destination, packet, now) to the delays in us with which copies of it arrive; [] loses it."""


def full_or(full: int, short: int) -> int:
    """The figure of the threat table in a soak, else one that takes a second."""
    return full if SOAK else short


# --- the world ---


class Host:
    """One endpoint with the sockets and the application a driver and a game would give it."""

    def __init__(self, world: World, name: str, ip: str, config: Config | None) -> None:
        self.world = world
        self.name = name
        self.address: Address = (ip, PORT)
        self.identity = Identity.of(name)
        self.accepts = True
        self.reads = True
        self.messages: list[Message] = []
        self.failures: list[SessionFailed] = []
        self.requests = 0
        self.datagrams_sent = 0
        self.bytes_sent = 0
        self.endpoint = Endpoint(self.identity, config=config, entropy=Random(name).randbytes)
        self.sockets: dict[int, Address] = {}
        self.listening = self.endpoint.listen(self.address)
        self.drain()

    # What a driver does

    def handle(self, source: Address, datagram: bytes, segment_bytes: int | None = None) -> None:
        """Put a datagram (or a batch of them) in front of the endpoint, and let it answer."""
        size = len(datagram) if segment_bytes is None else segment_bytes
        self.endpoint.handle_datagrams(self.listening, source, datagram, size, self.world.now_us)
        self.drain()

    def drain(self) -> None:
        """Open sockets, send, hear events, read."""
        endpoint, now_us = self.endpoint, self.world.now_us
        while (request := endpoint.poll_socket_request()) is not None:
            if isinstance(request, OpenSocket):
                port = request.bind[1] or 40_000 + request.socket_id
                self.sockets[request.socket_id] = (self.address[0], port)
                endpoint.handle_socket_opened(request.socket_id, self.sockets[request.socket_id], now_us)
        for _ in range(10_000):
            transmit = endpoint.poll_transmit(now_us)
            if transmit is None:
                break
            for packet in transmit.packets:
                self.datagrams_sent += 1
                self.bytes_sent += len(packet)
                self.world.send(self.sockets[transmit.socket_id], transmit.remote, packet)
        else:
            raise AssertionError(f"{self.name} never stops sending")
        while (event := endpoint.poll_event()) is not None:
            if isinstance(event, SessionFailed):
                self.failures.append(event)
            elif isinstance(event, SessionRequested):
                self.requests += 1
                if self.accepts:
                    endpoint.accept_session(event.identity, now_us)
                    self.drain()
        if self.reads and endpoint.unread_messages:
            self.messages += endpoint.receive_messages(0, 100_000, now_us)

    def send(self, to: Host, data: bytes, *, reliable: bool = True, no_nagle: bool = True) -> Result:
        """Send to another host by its address."""
        flags = (SendFlags.RELIABLE if reliable else SendFlags.UNRELIABLE) | (SendFlags.NO_NAGLE if no_nagle else 0)
        result = self.endpoint.send_message(Identity.ip(to.address), data, flags, 0, self.world.now_us)
        self.drain()
        return result

    # What a test may look at

    def link_to(self, other: Host) -> Link:
        """The link of the session with another host."""
        peers = self.endpoint._peers
        peer = peers.get(Identity.ip(other.address)) or peers.get(other.identity)
        assert peer is not None, f"{self.name} has no session with {other.name}"
        assert peer.link is not None, f"{self.name} has no connection with {other.name}"
        return peer.link

    def connection_to(self, other: Host) -> Connection:
        """The connection of that link."""
        return self.link_to(other).connection

    def flow_to(self, other: Host) -> Flow:
        """Its state behind the handshake."""
        flow = self.connection_to(other).flow
        assert flow is not None
        return flow

    def is_connected_to(self, other: Host) -> bool:
        """Whether the session with another host is up."""
        peers = self.endpoint._peers
        peer = peers.get(Identity.ip(other.address)) or peers.get(other.identity)
        return peer is not None and peer.link is not None and peer.link.connection.state == ConnectionState.CONNECTED

    @property
    def table_sizes(self) -> dict[str, int]:
        """How many entries each table of the endpoint and of its parts has; answers and timers on their way are not tables."""
        parts: list[tuple[str, object]] = [("endpoint", self.endpoint)]
        for name in _attributes(self.endpoint):
            part = getattr(self.endpoint, name)
            if type(part).__module__.startswith("peergram.endpoint"):
                parts.append((name, part))
        sizes = {}
        for part_name, part in parts:
            for name in _attributes(part):
                table = getattr(part, name)
                if isinstance(table, dict | set) and name not in _UNSTEADY_TABLES:
                    sizes[f"{part_name}.{name}"] = len(table)
        return sizes


_UNSTEADY_TABLES = frozenset({"_quiet_until_us"})


class World:
    """A clock, hosts and what is under way between them."""

    def __init__(self) -> None:
        self.now_us = START_US
        self.hosts: dict[Address, Host] = {}
        self.network: Network = lambda _source, _destination, _packet, _now_us: [5_000]
        self.tap: Callable[[Address, Address, bytes], None] | None = None
        """Called with (source, destination, packet) for everything that hosts send."""
        self.to_strangers: deque[tuple[Address, bytes]] = deque(maxlen=32)
        """The newest answers to addresses where no host is."""
        self.bytes_to_strangers = 0
        self.datagrams_to_strangers = 0
        self._in_transit: list[tuple[int, int, Address, Address, bytes]] = []
        self._order = 0

    def host(self, name: str, config: Config | None = None) -> Host:
        """A new host that listens on port 7000."""
        host = Host(self, name, f"10.0.0.{len(self.hosts) + 1}", config)
        self.hosts[host.address] = host
        return host

    def send(self, source: Address, destination: Address, packet: bytes) -> None:
        """Put a datagram on the network."""
        if self.tap is not None:
            self.tap(source, destination, packet)
        if destination not in self.hosts:
            self.to_strangers.append((destination, packet))
            self.bytes_to_strangers += len(packet)
            self.datagrams_to_strangers += 1
            return
        for delay_us in self.network(source, destination, packet, self.now_us):
            self.send_as(source, destination, packet, delay_us)

    def send_as(self, source: Address, destination: Address, packet: bytes, delay_us: int = 5_000) -> None:
        """Let a datagram arrive after some time, whoever made it and whatever the network does to others."""
        self._order += 1
        heapq.heappush(self._in_transit, (self.now_us + delay_us, self._order, source, destination, packet))

    def run(self, duration_us: int) -> None:
        """Let this much virtual time pass."""
        self.run_until(lambda: False, duration_us, must=False)

    def run_until(self, done: Callable[[], bool], limit_us: int = 30_000_000, *, must: bool = True) -> None:
        """Run until something holds; fails the test if it does not within the limit."""
        until_us = self.now_us + limit_us
        for _ in range(2_000_000):
            if done():
                return
            at_us = self._next_at_us()
            if at_us > until_us:
                self.now_us = until_us
                break
            self.now_us = max(self.now_us, at_us)
            self._deliver()
            for host in list(self.hosts.values()):
                host.endpoint.handle_timeout(self.now_us)
                host.drain()
        else:
            raise AssertionError("livelock: two million turns")
        assert not must or done(), "did not happen in time"

    def _next_at_us(self) -> int:
        times = [self._in_transit[0][0]] if self._in_transit else []
        for host in self.hosts.values():
            deadline = host.endpoint.poll_timeout()
            if deadline is not None:
                times.append(deadline.at_us)
        return min(times, default=1 << 62)

    def _deliver(self) -> None:
        while self._in_transit and self._in_transit[0][0] <= self.now_us:
            _, _, source, destination, packet = heapq.heappop(self._in_transit)
            host = self.hosts.get(destination)
            if host is not None:
                host.handle(source, packet)


def friends(config: Config | None = None, alice_config: Config | None = None) -> tuple[World, Host, Host]:
    """Alice has called Bob, and both are idle: the session that attacks must not hurt."""
    world = World()
    alice, bob = world.host("alice", alice_config or config), world.host("bob", config)
    assert alice.send(bob, b"hello") == Result.OK
    world.run_until(lambda: len(bob.messages) == 1)
    assert bob.endpoint.send_message(alice.identity, b"hello yourself", SendFlags.RELIABLE_NO_NAGLE, 0, world.now_us) == Result.OK
    bob.drain()
    world.run(2_000_000)
    assert [message.payload for message in alice.messages] == [b"hello yourself"]
    alice.messages.clear()
    bob.messages.clear()
    return world, alice, bob


def assert_session_works(world: World, alice: Host, bob: Host) -> None:
    """A reliable message goes through both ways within a second."""
    there, back = len(bob.messages), len(alice.messages)
    assert alice.send(bob, b"are you there?") == Result.OK
    assert bob.endpoint.send_message(alice.identity, b"I am", SendFlags.RELIABLE_NO_NAGLE, 0, world.now_us) == Result.OK
    bob.drain()
    world.run_until(lambda: len(bob.messages) > there and len(alice.messages) > back, 1_000_000)
    assert not alice.failures
    assert not bob.failures


# --- instruments ---

UNSTEADY = frozenset(
    {
        *("packets_received", "bytes_received", "duplicate", "lurch", "datagrams_dropped", "_datagrams_dropped"),
        *("tokens", "_filled_at_us"),
    }
)
"""What any datagram may change: counters that are shown and steer nothing, and a token bucket that time fills anyway."""


def digest(*roots: object, without: frozenset[str] = UNSTEADY) -> str:
    """A sum over everything reachable from some objects, the attributes named in `without` left out."""
    summed = hashlib.sha256()
    seen: dict[int, int] = {}
    for root in roots:
        _add_to(summed.update, root, seen, without)
    return summed.hexdigest()


def _add_to(put: Callable[[bytes], None], value: Any, seen: dict[int, int], without: frozenset[str]) -> None:
    if value is None or isinstance(value, bool | int | float | str | bytes | Enum):
        put(repr(value).encode())
        return
    if id(value) in seen:
        put(b"<%d>" % seen[id(value)])
        return
    seen[id(value)] = len(seen)
    put(type(value).__name__.encode())
    if isinstance(value, Mapping):
        children: Iterable[object] = [child for item in value.items() for child in item]
    elif isinstance(value, list | tuple | deque):
        children = value
    elif isinstance(value, set | frozenset):
        children = sorted(value, key=repr)
    elif callable(value) or type(value).__module__.split(".")[0] != "peergram":
        return
    else:
        children = [part for name in _attributes(value) if name not in without for part in (name, getattr(value, name, None))]
    for child in children:
        _add_to(put, child, seen, without)


def _attributes(value: object) -> list[str]:
    # Compiled classes have no slots by that name.
    kinds = [vars(kind) for kind in type(value).__mro__]
    names = [name for kind in kinds for listed in ("__slots__", "__mypyc_attrs__") for name in kind.get(listed, ())]
    return sorted({*names, *getattr(value, "__dict__", ())} - {"__weakref__", "__dict__"})


def operations(action: Callable[[], object]) -> int:
    """Steps of the interpreter that an action takes: the same in every run, whatever the machine is busy with."""
    if COMPILED:
        pytest.skip("the library is compiled here: it takes no steps of the interpreter to count")
    count = 0

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        if event == "opcode":
            count += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(before)
    return count


def held_bytes(action: Callable[[], object]) -> int:
    """Memory that an action leaves behind, Python's own figure."""
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        kept = action()
        gc.collect()
        after = tracemalloc.get_traced_memory()[0]
        del kept
    finally:
        tracemalloc.stop()
    return after - before
