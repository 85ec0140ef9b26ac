"""Two peers who know each other by name only, drawn from a seed: which NATs they are behind, how bad the signaling is, which
servers there are, who sends first, and one fault.

`draw_p2p(seed)` says what will be; `run_p2p(scenario, make=...)` lets it happen. `make` turns the list of servers into a function
that makes endpoints, as `World` wants it. What must hold:

* phase 1 (`faults`): the promises of the checkers. Where no fault was drawn, a way exists (`has_way`) and signaling is honest, a
  message each way arrives within `first_bound_us`, however much the signaling loses and delays.
* phase 2 (`calm`): no more faults, good and honest signaling, all servers up, everybody where he is. If a way exists, a message
  each way arrives, at the third try at the latest, and everything that was sent is settled; if none does, whoever sends is told.

The application here sends only to names, so that everything goes through rendezvous; NATs stay what they are to the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random
from typing import Any, Literal

from peergram.config import Config
from peergram.errors import Result
from peergram.events import SendFlags
from peergram.sim.checkers import V1, V2, V3, V4, V8, V10, V16, V20, Checker
from peergram.sim.hub import SignalHub, SignalModel
from peergram.sim.ledger import Sent
from peergram.sim.link import LinkModel
from peergram.sim.nat import NAT_KINDS, NatKind, NatModel
from peergram.sim.outside import Outside
from peergram.sim.p2p_checkers import V11, TimersOnly, WireOrRelay
from peergram.sim.player import Player
from peergram.sim.scenario import SECOND_US, HostPlan, log_uniform
from peergram.sim.servers import STUN_PORT, Server
from peergram.sim.swarm import SeedResult, compare_runs
from peergram.sim.topology import Interface, Router, Topology, V6Kind
from peergram.sim.turn_server import TurnModel
from peergram.sim.world import Host, HostOptions, MakeEndpoint, World

USERNAME, PASSWORD = b"user", b"password"
ROUTE_US = 15 * SECOND_US
"""For finding a way when signals go through at once: checks of all pairs, relays of the last resort."""
ROUND_TRIPS = 3
"""Of signaling, that a rendezvous needs."""
BAD_LUCK = 1e-6
"""So improbable is it that a signal is lost every time within the bound."""
RESEND_US = 2 * SECOND_US
"""A lost signal is sent again after this time at the latest."""
FAULTS_AFTER_US = 20 * SECOND_US
SETTLE_US = 10 * SECOND_US
LIVENESS_US = 90 * SECOND_US
PROBE_TRIES = 3
TIMEOUT_INITIAL_US = 120 * SECOND_US
"""Of these endpoints: a rendezvous over signals that take 5 s each way and are lost half of the time must not give up early."""
ROAM_GAP_US_MAX = 5 * SECOND_US
"""For longer than this nobody is between two networks: then the gap is none."""
FAULT_KINDS = ("none", "roam", "rebind", "new address", "relay crash", "cut", "restart", "hub outage")

FaultKind = Literal["none", "roam", "rebind", "new address", "relay crash", "cut", "restart", "hub outage"]
Transport = Literal["udp", "tcp"]
First = Literal["a", "b", "both"]
_RANK = {kind: rank for rank, kind in enumerate(NAT_KINDS)}


@dataclass(frozen=True, slots=True)
class ServerList:
    """What endpoints are told of servers: name or numeric host, and port; for relays also transport, user name and password."""

    stun: list[tuple[str, int]]
    turn: list[tuple[str, int, Transport, bytes, bytes]]


MakeRendezvousEndpoint = Callable[[ServerList], MakeEndpoint]


@dataclass(slots=True)
class PeerPlan:
    """Where one peer is."""

    nat: NatModel
    carrier: NatModel | None = None
    """Of the provider, in front of the home's own."""
    lan: str | None = None
    """A private prefix, if there is a NAT."""
    v6: V6Kind = "off"
    link: LinkModel = field(default_factory=LinkModel)
    has_second_interface: bool = False
    """Also plugged into the internet by itself."""

    @property
    def kind(self) -> NatKind:
        """What both boxes together are like."""
        kinds = [self.nat.kind] + ([self.carrier.kind] if self.carrier else [])
        return max(kinds, key=lambda kind: _RANK[kind])

    @property
    def kind_v6(self) -> NatKind:
        """What there is for IPv6, in the same words: a firewall filters as a port-restricted NAT does."""
        if self.v6 == "open":
            return NatKind.NONE
        return NatKind.SYMMETRIC if self.v6 == "nat66" and self.nat.kind == NatKind.SYMMETRIC else NatKind.PORT_RESTRICTED


@dataclass(slots=True)
class Fault:
    """What happens to whom."""

    kind: FaultKind
    at_us: int = 0
    for_us: int = 0
    host: int = 0


@dataclass(slots=True)
class P2PScenario:
    """Everything drawn."""

    seed: int
    peers: list[PeerPlan]
    signals: SignalModel
    stun: bool
    turn: list[Transport]
    first: First
    fault: Fault
    same_home: bool = False
    """Both behind the router of the first."""
    sends: list[tuple[int, int, int, bool]] = field(default_factory=list)
    """Further messages of phase 1: when, who, how many bytes, whether reliably."""
    first_bound_override_us: int = 0
    """For the first message, in microseconds, instead of what follows from the signaling."""

    @property
    def has_way(self) -> bool:
        """Whether the peers can reach each other at all."""
        one, other = self.peers
        blocked = [peer.kind == NatKind.UDP_BLOCKED and not peer.has_second_interface for peer in self.peers]
        if self.same_home:
            return True
        if "tcp" in self.turn:
            return True
        if any(blocked):
            return False
        if "udp" in self.turn or any(peer.has_second_interface for peer in self.peers):
            return True
        if has_direct_way(one.kind, other.kind, stun=self.stun):
            return True
        if "off" in (one.v6, other.v6):
            return False
        return {one.v6, other.v6} == {"firewall"} or has_direct_way(one.kind_v6, other.kind_v6, stun=self.stun)

    def server_list(self) -> ServerList:
        """What endpoints are told; names, so that looking them up is part of it."""
        stun: list[tuple[str, int]] = [("stun.example", STUN_PORT)] if self.stun else []
        return ServerList(stun, [("turn.example", STUN_PORT, transport, USERNAME, PASSWORD) for transport in self.turn])

    @property
    def first_bound_us(self) -> int:
        """How long the first message may take where nothing but the signaling is bad."""
        if self.first_bound_override_us:
            return self.first_bound_override_us
        delay_us = self.signals.delay_us + self.signals.jitter_us
        loss = self.signals.loss
        tries = math.ceil(math.log(BAD_LUCK, loss)) if loss else 1
        return ROUTE_US + ROUND_TRIPS * (2 * delay_us + tries * RESEND_US)

    def story(self) -> list[str]:
        """What this seed is about."""
        lines = [f"seed {self.seed}: {self.first} first, {'one home, ' if self.same_home else ''}fault {self.fault}"]
        for name, peer in zip("ab", self.peers, strict=True):
            carrier = f" behind {peer.carrier}" if peer.carrier else ""
            second = ", second interface" if peer.has_second_interface else ""
            lines.append(f"{name}: {peer.nat}{carrier}, v6 {peer.v6}{second}, {peer.link}")
        lines.append(
            f"{self.signals}, stun {self.stun}, turn {' '.join(self.turn) or 'none'}: {'a' if self.has_way else 'no'} way"
        )
        return lines


def has_direct_way(one: NatKind, other: NatKind, *, stun: bool) -> bool:
    """Whether hole punching gets through between two kinds; without a STUN server only peers without NAT can be found."""
    kinds = {one, other}
    if NatKind.UDP_BLOCKED in kinds:
        return False
    if NatKind.NONE in kinds:
        return True
    return stun and not (NatKind.SYMMETRIC in kinds and kinds <= {NatKind.SYMMETRIC, NatKind.PORT_RESTRICTED})


def draw_p2p(seed: int) -> P2PScenario:
    """The scenario of that seed."""
    rng = Random(f"{seed}/p2p")
    peers = [_peer(Random(f"{seed}/p2p/peer/{index}")) for index in range(2)]
    if rng.random() < 0.3:
        peers[0].lan = peers[1].lan = "192.168.1"
    if rng.random() < 0.5:
        for peer in peers:
            peer.v6 = "off"
    scenario = P2PScenario(
        seed,
        peers,
        _signals(Random(f"{seed}/p2p/signals")),
        stun=rng.random() < 0.8,
        turn=_turn(rng),
        first=rng.choice(("a", "b", "both")),
        fault=_fault(Random(f"{seed}/p2p/fault")),
        same_home=rng.random() < 0.15,
    )
    rng = Random(f"{seed}/p2p/sends")
    until_us = FAULTS_AFTER_US + scenario.first_bound_us
    scenario.sends = sorted(
        (rng.randrange(until_us), rng.randrange(2), rng.choice((1, 30, 500, 3_000)), rng.random() < 0.7)
        for _ in range(rng.randrange(20))
    )
    return scenario


def _turn(rng: Random) -> list[Transport]:
    choices: list[list[Transport]] = [[], [], ["udp"], ["tcp"], ["udp", "tcp"]]
    return rng.choice(choices)


def _peer(rng: Random) -> PeerPlan:
    peer = PeerPlan(_nat(rng))
    if rng.random() < 0.2:
        peer.carrier = replace(_nat(rng), hairpin=False)
    peer.v6 = rng.choice(("off", "open", "firewall", "nat66"))
    peer.link = LinkModel(delay_us=log_uniform(rng, 500, 100_000))
    if rng.random() < 0.5:
        peer.link.jitter_us = log_uniform(rng, 100, 30_000)
    if rng.random() < 0.5:
        peer.link.loss = rng.uniform(0, 0.1)
    if rng.random() < 0.3:
        peer.link.duplicate, peer.link.reorder = rng.uniform(0, 0.2), rng.uniform(0, 0.1)
    peer.has_second_interface = rng.random() < 0.1
    return peer


def _nat(rng: Random) -> NatModel:
    kind = rng.choice(NAT_KINDS)
    hairpin = kind in (NatKind.FULL_CONE, NatKind.ADDRESS_RESTRICTED) and rng.random() < 0.5
    timeout_us = rng.choice((30, 60, 120)) * SECOND_US
    return NatModel(
        kind=kind, ports=rng.choice(("preserve", "random")), timeout_us=timeout_us, hairpin=hairpin,
        inbound_refreshes=rng.random() < 0.5,
    )  # fmt: skip


def _signals(rng: Random) -> SignalModel:
    model = SignalModel(delay_us=log_uniform(rng, 1_000, 5 * SECOND_US))
    if rng.random() < 0.5:
        model.jitter_us = min(log_uniform(rng, 1_000, 5 * SECOND_US), 5 * SECOND_US - model.delay_us)
    if rng.random() < 0.6:
        model.loss = rng.uniform(0, 0.5)
    if rng.random() < 0.5:
        model.duplicate = rng.uniform(0, 0.5)
    if rng.random() < 0.3:
        model.names_sender = False
    if rng.random() < 0.2:
        model.wrong_sender, model.altered_candidates, model.replay = (rng.choice((0.0, 0.3)) for _ in range(3))
    return model


def _fault(rng: Random) -> Fault:
    kind: FaultKind = rng.choice(FAULT_KINDS)  # type: ignore[arg-type]
    for_us = log_uniform(rng, SECOND_US // 2, 40 * SECOND_US)
    return Fault(kind, rng.randrange(FAULTS_AFTER_US), for_us, rng.randrange(2))


P2P_CHECKERS: tuple[type[Checker], ...] = (V1, V2, V3, V4, V8, V10, TimersOnly, V16, V20)
"""Those that hold for any endpoint in such a world: they do not take for granted that every packet is the protocol's own, between
two addresses that stay what they are."""
P2P_WIRE_CHECKERS = (*P2P_CHECKERS, V11, WireOrRelay)
"""For endpoints that speak STUN to one another, and the protocol."""


def run_p2p(
    scenario: P2PScenario,
    *,
    make: MakeRendezvousEndpoint,
    checkers: Sequence[type[Checker]] = P2P_CHECKERS,
    config: Config | None = None,
    trace: bool = False,
) -> SeedResult:
    """Let it happen, and say what was found."""
    run = P2PRun(scenario, make, [checker() for checker in checkers], config, trace)
    run.run()
    world = run.world
    return SeedResult(
        seed=scenario.seed,
        ok=not world.violations,
        violations=world.violations,
        trace_hash=world.trace.digest(),
        events=world.event_count,
        packets=world.packet_count,
        marks=frozenset(world.marks),
        virtual_us=world.now_us,
        story=scenario.story(),
        trace=world.trace.lines,
        command=f"run_p2p(draw_p2p({scenario.seed}), make=..., trace=True)",
    )


def check_p2p_replay(scenario: P2PScenario, *, make: MakeRendezvousEndpoint, **options: Any) -> SeedResult:
    """Run it twice; V17 is broken when the traces differ. Options are those of `run_p2p`."""
    first, second = (run_p2p(scenario, make=make, **{**options, "trace": True}) for _ in range(2))
    return compare_runs(first, second)


class P2PRun:
    """The world of one scenario; tests may also take it apart."""

    def __init__(
        self, scenario: P2PScenario, make: MakeRendezvousEndpoint, checkers: list[Checker], config: Config | None, trace: bool
    ) -> None:
        self.scenario = scenario
        self.servers: list[Server] = []
        self.routers: list[Router] = []
        make_endpoint = make(scenario.server_list())
        self.world = World(f"{scenario.seed}/p2p", make_endpoint=make_endpoint, checkers=checkers, trace=trace)
        self.topology = Topology(self.world)
        self.hub = SignalHub(self.world, scenario.signals)
        self.players: list[Player] = []
        self._build_servers()
        config = config or replace(Config(), timeout_initial_us=TIMEOUT_INITIAL_US)
        for index in range(2):
            self._build_peer(index, config)

    @property
    def hosts(self) -> list[Host]:
        """a and b."""
        return self.world.hosts

    def run(self) -> None:
        """Both phases."""
        for part in (self._faults, self._calm, self._prove_liveness, self._end):
            part()
            if self.world.stopped:
                break

    # Building

    def _build_servers(self) -> None:
        if self.scenario.stun:
            self._serve("stun", None)
        if self.scenario.turn:
            self._serve("turn", TurnModel(users={USERNAME: PASSWORD}))

    def _serve(self, name: str, turn: TurnModel | None) -> None:
        server = Server(self.topology, name, turn, v6=True)
        self.servers.append(server)
        self.topology.names[f"{name}.example"] = list(server.interface.hosts.values())

    def _build_peer(self, index: int, config: Config) -> None:
        plan, world = self.scenario.peers[index], self.world
        if index == 0 or not self.scenario.same_home:
            carrier = None
            if plan.carrier is not None:
                carrier = self.topology.add_router(f"carrier-{index}", plan.carrier, lan=f"100.64.{index}", v6=_carrier_v6(plan))
            lan = plan.lan if plan.nat.kind != NatKind.NONE else None
            self.routers.append(self.topology.add_router(f"home-{index}", plan.nat, uplink=carrier, lan=lan, v6=plan.v6))
        router = self.routers[-1]
        host = world.add_host(f"str:peer-{'ab'[index]}", config=config, options=HostOptions(listens=False), start=False)
        outside = Outside(host, self.topology)
        outside.attach(router, v6=router.v6 != "off", link=plan.link)
        if plan.has_second_interface:
            outside.attach(None, name="eth1", link=plan.link)
        player = Player(host, HostPlan(host.identity.text), world.seeded(f"player/{index}"))
        host.application = player
        self.players.append(player)
        host.start()

    # Phase 1

    def _faults(self) -> None:
        scenario, world = self.scenario, self.world
        world.enter("faults")
        if scenario.fault.kind != "none":
            world.at(scenario.fault.at_us, self._fault)
        for at_us, index, size, reliable in scenario.sends:
            world.at(at_us, partial(self._send, index, size, reliable))
        firsts = [index for index, name in enumerate("ab") if scenario.first in (name, "both")]
        records = [self._send(index, 100, True) for index in firsts]
        if scenario.fault.kind != "none" or scenario.signals.lies or not scenario.has_way:
            world.run_for(FAULTS_AFTER_US + scenario.first_bound_us)
            return
        self._prove_first([record for record in records if record is not None], firsts)

    def _prove_first(self, records: list[Sent], firsts: list[int]) -> None:
        """What was sent first arrives within its bound, and an answer soon after."""
        world = self.world
        world.run_for(self.scenario.first_bound_us)
        for record in records:
            if not record.is_delivered:
                world.violate("V12", world.hosts[record.sender].name, f"the first message took more than {world.now_us} us")
        answers = [self._send(1 - index, 100, True) for index in firsts]
        world.run_for(FAULTS_AFTER_US)
        for answer in answers:
            if answer is None or not answer.is_delivered:
                world.violate("V12", "world", f"an answer took more than {FAULTS_AFTER_US} us")

    def _send(self, index: int, size: int, reliable: bool) -> Sent | None:
        """None if it was refused, or nobody was there to send it."""
        host, before = self.hosts[index], len(self.world.ledger.records)
        if host.is_alive and not host.is_paused:
            flags = SendFlags.NO_NAGLE | (SendFlags.AUTO_RESTART_BROKEN_SESSION if self.world.phase == "faults" else 0)
            self.players[index].send(self.hosts[1 - index].dial_name, size, channel=0, reliable=reliable, flags=flags)
        records = self.world.ledger.records
        return records[before] if len(records) > before else None

    def _fault(self) -> None:
        fault = self.scenario.fault
        self.world.mark(f"fault: {fault.kind}")
        _FAULTS[fault.kind](self, fault, self.hosts[fault.host])

    def _roam(self, fault: Fault, host: Host) -> None:
        """To another network, behind a router of the kind that was there; on some seeds without a gap."""
        router = self.topology.add_router(f"cafe-{fault.host}", NatModel(kind=self.scenario.peers[fault.host].kind))
        gap_us = fault.for_us if fault.for_us < ROAM_GAP_US_MAX else 0
        self.topology.roam(self.interface(host), router, gap_us=gap_us)

    def _rebind(self, fault: Fault, host: Host) -> None:
        self.topology.rebind(self.router_of(fault.host), new_address=fault.kind == "new address")

    def _relay_crash(self, fault: Fault, host: Host) -> None:
        for server in self.servers:
            if server.model is not None:
                server.crash(fault.for_us)

    def _cut(self, fault: Fault, host: Host) -> None:
        self.topology.cut(self.interface(host), fault.for_us)

    def _restart(self, fault: Fault, host: Host) -> None:
        host.crash()
        self.world.after(fault.for_us, lambda: None if host.is_alive else host.start())

    def _hub_outage(self, fault: Fault, host: Host) -> None:
        self.hub.outage(fault.for_us)

    def interface(self, host: Host) -> Interface:
        """The first one of a host."""
        assert host.outside is not None, "hosts of this world have an outside"
        return host.outside.interfaces[0]

    def router_of(self, index: int) -> Router:
        """The home router of a peer."""
        return self.routers[0 if self.scenario.same_home else index]

    # Phase 2

    def _calm(self) -> None:
        world = self.world
        world.enter("calm")
        self.hub.calm()
        for server in self.servers:
            if not server.is_alive:
                server.start()
        for host, player in zip(self.hosts, self.players, strict=True):
            self.topology.restore(self.interface(host))
            player.is_calm = True
            if not host.is_alive:
                host.start()
            else:
                player.calm()
        world.run_for(SETTLE_US)

    def _prove_liveness(self) -> None:
        world, has_way = self.world, self.still_has_way
        probes = [_Probe(self, index) for index in range(2)]
        until_us = world.now_us + LIVENESS_US + (0 if has_way else TIMEOUT_INITIAL_US)
        while world.now_us < until_us and not world.stopped:
            for probe in probes:
                probe.advance()
            if all(probe.is_over for probe in probes) and not world.ledger.unsettled():
                break
            world.run_for(SECOND_US // 4)
        for probe in probes:
            name = self.hosts[probe.index].name
            if has_way and not probe.is_done:
                world.violate("V12", name, f"no message came through after {probe.tries} tries")
            elif not probe.is_over:
                world.violate("V12", name, "nobody was told that no message comes through")
        world.mark("a way" if has_way else "no way")
        if any(record.is_delivered for record in world.ledger.records):
            world.mark("a message came through")
        world.enter("settled")

    @property
    def still_has_way(self) -> bool:
        """After a fault: who roamed out of the common home, or off his second interface, is where his plan's NAT puts him."""
        scenario = self.scenario
        if scenario.fault.kind != "roam":
            return scenario.has_way
        peers = [replace(peer) for peer in scenario.peers]
        if scenario.same_home:
            peers[1] = replace(peers[0], has_second_interface=peers[1].has_second_interface)
        moved = peers[scenario.fault.host]
        moved.nat, moved.carrier, moved.v6 = NatModel(kind=scenario.peers[scenario.fault.host].kind), None, "off"
        return replace(scenario, peers=peers, same_home=False).has_way

    def _end(self) -> None:
        for host in self.hosts:
            host.when_running(host.close)
        self.world.run_for(SETTLE_US)
        self.world.enter("ended")


class _Probe:
    """A reliable message from one to the other; sent again when a failure was reported."""

    def __init__(self, run: P2PRun, index: int) -> None:
        self.run = run
        self.index = index
        self.tries = 0
        self.is_done = False
        self._tries_max = PROBE_TRIES if run.still_has_way else 1
        self._record: Sent | None = None
        self._failures = 0

    @property
    def is_over(self) -> bool:
        """Delivered, or given up with a failure for every try."""
        return self.is_done or (self.tries >= self._tries_max and self._failure_count() > self._failures)

    def advance(self) -> None:
        """Look what became of the last try."""
        if self.is_over:
            return
        if self._record is not None:
            self.is_done = self._record.is_delivered
            if self.is_done or self._failure_count() == self._failures:
                return
        host, peer = self.run.hosts[self.index], self.run.hosts[1 - self.index]
        result = host.send(peer.dial_name, 100, flags=SendFlags.NO_NAGLE)
        if result == Result.OK:
            self.tries += 1
            self._record, self._failures = self.run.world.ledger.records[-1], self._failure_count()
        elif result == Result.CONNECT_FAILED:
            host.close_session(peer.dial_name)

    def _failure_count(self) -> int:
        host = self.run.hosts[self.index]
        return self.run.world.ledger.failure_count(host.index, host.run, 1 - self.index)


def _carrier_v6(plan: PeerPlan) -> V6Kind:
    """Carriers pass IPv6 on as it is, where the home has it."""
    return "off" if plan.v6 == "off" else "open"


_FAULTS: dict[str, Callable[[P2PRun, Fault, Host], None]] = {
    "roam": P2PRun._roam,
    "rebind": P2PRun._rebind,
    "new address": P2PRun._rebind,
    "relay crash": P2PRun._relay_crash,
    "cut": P2PRun._cut,
    "restart": P2PRun._restart,
    "hub outage": P2PRun._hub_outage,
}
