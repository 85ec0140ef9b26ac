"""Agents joined through scripted networks, in virtual time.

A site is a network with hosts, perhaps behind an address translator; relays stand in the open. Packets take a fixed time, may be
dropped by a rule, and are all recorded. What must hold in every run is asserted on the way: checks at least 20 ms apart, none to
an address that may not be used, no deadline that stands still.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from peergram.address import Address
from peergram.config import ICE_CHECK_INTERVAL_US, Config
from peergram.routes.candidates import (
    Base,
    Candidate,
    CandidateKind,
    LocalCandidate,
    decode_candidate,
    encode_candidate,
    foundation_of,
    is_usable,
    priority_of,
)
from peergram.routes.ice_agent import IceAgent
from peergram.routes.ice_events import Found, IceEvent, Lost, Selected
from peergram.wire.stun import Class, StunMessage, decode_stun

MS = 1_000
SECOND = 1_000_000


@dataclass(slots=True)
class Packet:
    """One datagram, with the addresses that its receiver would see."""

    at_us: int
    sender: Peer | None
    base: Base
    source: Address
    destination: Address
    data: bytes

    @property
    def message(self) -> StunMessage:
        """What it says."""
        return decode_stun(self.data)

    @property
    def is_check(self) -> bool:
        """Whether it is a request."""
        return self.message.message_class == Class.REQUEST


class Site:
    """A network. `nat`: None for public addresses, else "full", "address", "port" or "symmetric"."""

    def __init__(self, nat: str | None = None, outside_host: str = "") -> None:
        self.nat = nat
        self.outside_host = outside_host
        self._ports = count(20_000)
        self._outside: dict[tuple[Address, Address | None], Address] = {}
        self._inside: dict[Address, Address] = {}
        self._opened: set[tuple[Address, Address]] = set()

    def translate(self, inside: Address, destination: Address) -> Address:
        """The source address that the world sees; opens the filter."""
        if self.nat is None:
            return inside
        key = (inside, destination if self.nat == "symmetric" else None)
        if key not in self._outside:
            self._outside[key] = (self.outside_host, next(self._ports))
            self._inside[self._outside[key]] = inside
        outside = self._outside[key]
        self._opened.add((outside, destination))
        return outside

    def admit(self, outside: Address, source: Address) -> Address | None:
        """The inside address that a packet from the world is for."""
        inside = self._inside.get(outside)
        if inside is None or self.nat == "full":
            return inside
        opened = {destination for mapped, destination in self._opened if mapped == outside}
        if self.nat == "address":
            return inside if source[0] in {host for host, _ in opened} else None
        return inside if source in opened else None

    def forget_mappings(self) -> None:
        """The translator was restarted: new ports for all."""
        self._outside.clear()
        self._inside.clear()
        self._opened.clear()


@dataclass(slots=True)
class Port:
    """An address that a base of a peer receives at."""

    peer: Peer
    base: Base
    address: Address
    site: Site


@dataclass(slots=True)
class Peer:
    """One side: its agent, and what happened there."""

    name: str
    agent: IceAgent
    lab: Lab
    ufrag: bytes
    password: bytes
    locals: list[LocalCandidate] = field(default_factory=list)
    events: list[tuple[int, IceEvent]] = field(default_factory=list)
    sent: list[Packet] = field(default_factory=list)
    other: Peer | None = None
    last_check_at_us: int = -SECOND

    def host(self, site: Site, address: Address, *, prefix_bits: int | None = 24, told: bool = True) -> Base:
        """Open a socket at this address and tell the other side of it."""
        base = Base(self.lab.new_id())
        return self._open(
            site, LocalCandidate(self._candidate(CandidateKind.HOST, address), base, address, self._rank(), prefix_bits), told
        )

    def reflexive(self, base: Base) -> None:
        """Tell the other side how a server sees this socket."""
        port = self.lab.port_of(base)
        seen = port.site.translate(port.address, ("192.0.2.200", 3478))
        local = next(local for local in self.locals if local.base == base)
        reflexive = LocalCandidate(
            self._candidate(CandidateKind.SERVER_REFLEXIVE, seen), base, local.base_address, local.local_preference
        )
        self._tell(reflexive, told=True)

    def relay(self, address: Address) -> Base:
        """Allocate at a relay in the open."""
        base = Base(self.lab.new_id(), relay_id=1)
        relayed = LocalCandidate(self._candidate(CandidateKind.RELAYED, address), base, address, self._rank())
        return self._open(Site(), relayed, told=True)

    def close(self, base: Base) -> None:
        """The socket is gone."""
        self.lab.ports.remove(self.lab.port_of(base))
        self.locals = [local for local in self.locals if local.base != base]
        self.do(lambda agent, now_us: agent.remove_base(base, now_us))

    def do(self, action: Callable[[IceAgent, int], Any]) -> None:
        """Call the agent, and take what it has to say."""
        action(self.agent, self.lab.now_us)
        self.lab.drain(self)

    @property
    def checks(self) -> list[Packet]:
        """Requests sent."""
        return [packet for packet in self.sent if packet.is_check]

    def first(self, kind: type[IceEvent]) -> int | None:
        """When an event of this kind first came."""
        return next((at_us for at_us, event in self.events if isinstance(event, kind)), None)

    def selections(self) -> list[tuple[int, Base, Address]]:
        """Every change of the pair in use."""
        return [(at_us, event.pair.base, event.pair.remote) for at_us, event in self.events if isinstance(event, Selected)]

    def lost(self) -> list[int]:
        """When no way was left."""
        return [at_us for at_us, event in self.events if isinstance(event, Lost)]

    @property
    def route(self) -> tuple[Base, Address] | None:
        """The way data goes now."""
        selected = self.agent.selected
        return (selected.base, selected.remote) if selected else None

    def _rank(self) -> int:
        return 65_535 - len({local.base for local in self.locals})

    def _candidate(self, kind: CandidateKind, address: Address) -> Candidate:
        return Candidate(kind, address, priority_of(kind, self._rank()), foundation_of(kind, address, None))

    def _open(self, site: Site, local: LocalCandidate, told: bool) -> Base:
        self.lab.ports.append(Port(self, local.base, local.base_address, site))
        self._tell(local, told=told)
        return local.base

    def _tell(self, local: LocalCandidate, *, told: bool) -> None:
        self.locals.append(local)
        self.do(lambda agent, now_us: agent.add_local(local, now_us))
        if told and self.other is not None:
            self.lab.signal(self, local)


class Lab:
    """The world. `one_way_us`: how long every packet takes, and every signal."""

    def __init__(self, *, one_way_us: int = 25 * MS, seed: int = 1) -> None:
        self.now_us = SECOND
        self.one_way_us = one_way_us
        self.signal_us = one_way_us
        self.peers: list[Peer] = []
        self.ports: list[Port] = []
        self.packets: list[Packet] = []
        self.drops: Callable[[Packet], bool] = lambda packet: False
        self.delay_us: Callable[[Packet], int] = lambda packet: self.one_way_us
        self.random = random.Random(seed)
        self._ids = count(1)
        self._queue: list[tuple[int, int, Callable[[], None]]] = []

    def new_id(self) -> int:
        """For sockets, and to order what happens at one time."""
        return next(self._ids)

    def peer(self, name: str, *, controlling: bool, own_peer: bool = True, **options: Any) -> Peer:
        """A side with an agent and no addresses yet."""
        ufrag, password = name.encode().ljust(5, b"+")[:5], f"password of {name}".encode().ljust(22, b".")
        agent = IceAgent(
            local_ufrag=ufrag,
            local_password=password,
            controlling=controlling,
            entropy=options.pop("entropy", self.random.randbytes),
            now_us=self.now_us,
            own_peer=own_peer,
            config=options.pop("config", Config()),
            **options,
        )
        peer = Peer(name, agent, self, ufrag, password)
        self.peers.append(peer)
        return peer

    def pair(self, *, own_peer: bool = True, **options: Any) -> tuple[Peer, Peer]:
        """Two sides that know each other's passwords; the first one controls."""
        one = self.peer("one", controlling=True, own_peer=own_peer, **options)
        two = self.peer("two", controlling=False, own_peer=own_peer, **options)
        self.introduce(one, two)
        return one, two

    def introduce(self, one: Peer, two: Peer) -> None:
        """Exchange names and passwords."""
        one.other, two.other = two, one
        one.do(lambda agent, now_us: agent.set_remote(two.ufrag, two.password, now_us))
        two.do(lambda agent, now_us: agent.set_remote(one.ufrag, one.password, now_us))

    def signal(self, sender: Peer, local: LocalCandidate) -> None:
        """Tell the other side of a candidate, in its text form."""
        text = encode_candidate(sender.agent.announced(local))
        other = sender.other
        assert other is not None
        self.at(
            self.now_us + self.signal_us, lambda: other.do(lambda agent, now_us: agent.add_remote(decode_candidate(text), now_us))
        )

    def at(self, at_us: int, action: Callable[[], None]) -> None:
        """Do something later."""
        heapq.heappush(self._queue, (at_us, self.new_id(), action))

    def run(self, us: int) -> None:
        """Let so much time pass."""
        end_us = self.now_us + us
        idle_turns = 0
        while (next_us := self._next_us()) <= end_us:
            idle_turns = idle_turns + 1 if next_us <= self.now_us else 0
            assert idle_turns < 1_000, "time stands still"
            self.now_us = max(self.now_us, next_us)
            self._turn()
        self.now_us = end_us

    def run_until(self, done: Callable[[], bool], limit_us: int = 30 * SECOND) -> int:
        """Let time pass until something holds; returns how much did."""
        start_us = self.now_us
        while not done():
            next_us = self._next_us()
            assert next_us <= start_us + limit_us, "it did not happen"
            self.now_us = max(self.now_us, next_us)
            self._turn()
        return self.now_us - start_us

    def drain(self, peer: Peer) -> None:
        """Take what an agent has to send and to tell."""
        while (transmit := peer.agent.poll_transmit(self.now_us)) is not None:
            self._send(peer, *transmit)
        while (event := peer.agent.poll_event()) is not None:
            peer.events.append((self.now_us, event))

    def port_of(self, base: Base) -> Port:
        """Where a base receives."""
        return next(port for port in self.ports if port.base == base)

    def arrives_at(self, base: Base, remote: Address) -> Base | None:
        """Where data from this base to that address comes in."""
        port = self._target(Packet(self.now_us, None, base, ("", 0), remote, b""), base)
        return port.base if port is not None else None

    def deliver(self, peer: Peer, base: Base, source: Address, data: bytes) -> None:
        """Put a datagram into a base, from wherever it may come."""
        peer.do(lambda agent, now_us: agent.handle_stun(base, source, decode_stun(data), data, now_us))

    def _next_us(self) -> int:
        times = [deadline.at_us for peer in self.peers if (deadline := peer.agent.poll_timeout()) is not None]
        return min([*times, *(item[0] for item in self._queue[:1])], default=1 << 62)

    def _turn(self) -> None:
        if self._queue and self._queue[0][0] <= self.now_us:
            heapq.heappop(self._queue)[2]()
            return
        for peer in self.peers:
            deadline = peer.agent.poll_timeout()
            if deadline is not None and deadline.at_us <= self.now_us:
                peer.do(lambda agent, now_us: agent.handle_timeout(now_us))

    def _send(self, peer: Peer, base: Base, remote: Address, data: bytes) -> None:
        packet = Packet(self.now_us, peer, base, ("", 0), remote, data)
        peer.sent.append(packet)
        if packet.is_check:
            assert self.now_us >= peer.last_check_at_us + ICE_CHECK_INTERVAL_US, "checks too close together"
            peer.last_check_at_us = self.now_us
        assert is_usable(remote, allow_loopback=any(local.base_address[0].startswith("127.") for local in peer.locals))
        self.packets.append(packet)
        port = self._target(packet, base)
        if port is not None and not self.drops(packet):
            self.at(self.now_us + self.delay_us(packet), lambda: self._arrive(port, packet.source, data))

    def _target(self, packet: Packet, base: Base) -> Port | None:
        """The port that the packet gets to, if any; fills in the source that is seen there."""
        sender = next((port for port in self.ports if port.base == base), None)
        if sender is None:
            return None
        packet.source = sender.address
        for port in self.ports:
            if port.site is sender.site and port.address == packet.destination:
                return port
        packet.source = sender.site.translate(sender.address, packet.destination)
        for port in self.ports:
            if port.site.nat is None and port.address == packet.destination:
                return port
            if port.site.nat is not None and port.site.outside_host == packet.destination[0]:
                inside = port.site.admit(packet.destination, packet.source)
                if inside == port.address:
                    return port
        return None

    def _arrive(self, port: Port, source: Address, data: bytes) -> None:
        if port in self.ports:
            self.deliver(port.peer, port.base, source, data)


def found_at(peer: Peer) -> int | None:
    """When the first pair worked."""
    return peer.first(Found)
