"""Worlds of two peers behind NATs, drawn from seeds, with a small endpoint in place of the real one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest

from peergram.config import Config
from peergram.identity import Identity
from peergram.io_requests import InterfaceAddress
from peergram.sim.hub import SignalModel
from peergram.sim.link import LinkModel
from peergram.sim.nat import NAT_KINDS, NatKind, NatModel
from peergram.sim.p2p_scenario import (
    FAULT_KINDS,
    Fault,
    P2PScenario,
    PeerPlan,
    ServerList,
    check_p2p_replay,
    draw_p2p,
    has_direct_way,
    run_p2p,
)
from peergram.sim.swarm import SeedResult
from peergram.sim.world import EndpointLike, MakeEndpoint
from tests.sim.rendezvous_endpoint import RendezvousEndpoint, make_rendezvous

SEEDS = 2_000 if os.environ.get("PEERGRAM_SOAK") == "1" else 12
SECOND_US = 1_000_000


def run(scenario: P2PScenario, *, trace: bool = False) -> SeedResult:
    return run_p2p(scenario, make=make_rendezvous, trace=trace)


def a_scenario(one: NatKind, other: NatKind, **options: object) -> P2PScenario:
    peers = [PeerPlan(NatModel(kind=kind), link=LinkModel(delay_us=5_000)) for kind in (one, other)]
    scenario = P2PScenario(1, peers, SignalModel(), True, [], "a", Fault("none"))
    return replace(scenario, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("first", range(0, SEEDS, 4))
def test_every_promise_holds_in_worlds_drawn_from(first: int) -> None:
    for seed in range(first, first + 4):
        result = run(draw_p2p(seed))
        assert result.ok, result.report()


def test_the_same_seed_gives_the_same_run() -> None:
    for seed in (0, 11):
        result = check_p2p_replay(draw_p2p(seed), make=make_rendezvous)
        assert result.ok, result.report()


def test_a_run_that_differs_from_the_one_before_is_found() -> None:
    """An endpoint whose chance is not the world's."""
    made = 0

    def make(servers: ServerList) -> MakeEndpoint:
        def make_endpoint(
            identity: Identity, config: Config, entropy: Callable[[int], bytes], key_seed: bytes | None
        ) -> EndpointLike:
            nonlocal made
            made += 1
            start = made
            return RendezvousEndpoint(identity, config=config, entropy=lambda n: entropy(n + start)[start:], servers=servers)

        return make_endpoint

    result = check_p2p_replay(a_scenario(NatKind.NONE, NatKind.FULL_CONE), make=make)
    assert [violation.name for violation in result.violations] == ["V17"]
    assert "run_p2p(draw_p2p(1)" in result.report()


PAIRS = [(one, other) for at, one in enumerate(NAT_KINDS) for other in NAT_KINDS[at:]]


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_peers_meet_exactly_where_a_way_is_said_to_exist(one: NatKind, other: NatKind) -> None:
    """Both ways round: what is said to be impossible must also be so."""
    scenario = a_scenario(one, other)
    assert scenario.has_way is has_direct_way(one, other, stun=True)
    result = run(scenario)
    assert result.ok, result.report()
    assert ("a way" in result.marks) is scenario.has_way
    assert ("a message came through" in result.marks) is scenario.has_way


@pytest.mark.parametrize("turn", ["udp", "tcp"])
@pytest.mark.parametrize("kind", [NatKind.SYMMETRIC, NatKind.UDP_BLOCKED])
def test_relays_help_where_nothing_else_does(kind: NatKind, turn: str) -> None:
    scenario = a_scenario(kind, kind, turn=[turn])
    assert scenario.has_way is (turn == "tcp" or kind == NatKind.SYMMETRIC)
    result = run(scenario)
    assert result.ok, result.report()
    assert ("a message came through" in result.marks) is scenario.has_way


@pytest.mark.parametrize("kind", [kind for kind in FAULT_KINDS if kind != "none"])
def test_peers_meet_again_after_a_fault(kind: str) -> None:
    fault = Fault(kind, 5 * SECOND_US, 8 * SECOND_US, 0)  # type: ignore[arg-type]
    result = run(a_scenario(NatKind.SYMMETRIC, NatKind.SYMMETRIC, turn=["udp"], fault=fault))
    assert result.ok, result.report()
    assert f"fault: {kind}" in result.marks


def test_neighbours_need_no_server() -> None:
    result = run(a_scenario(NatKind.UDP_BLOCKED, NatKind.UDP_BLOCKED, stun=False, same_home=True))
    assert result.ok, result.report()


def test_a_peer_that_never_hears_signals_breaks_the_promise_of_a_first_message() -> None:
    """The bound is there to be missed."""
    scenario = a_scenario(NatKind.FULL_CONE, NatKind.FULL_CONE)
    scenario.signals.loss = 1.0
    scenario.first_bound_override_us = 30 * SECOND_US
    result = run(scenario)
    assert [violation.name for violation in result.violations][:1] == ["V12"]


class Deaf(RendezvousEndpoint):
    """Hears of its addresses once."""

    def handle_interfaces(self, addresses: list[InterfaceAddress], now_us: int) -> None:
        if not self.told_interfaces:
            super().handle_interfaces(addresses, now_us)


def test_an_endpoint_that_does_not_notice_that_it_moved_is_found() -> None:
    def make(servers: ServerList) -> MakeEndpoint:
        return lambda identity, config, entropy, key_seed: Deaf(identity, config=config, entropy=entropy, servers=servers)

    scenario = a_scenario(NatKind.FULL_CONE, NatKind.FULL_CONE, fault=Fault("roam", 5 * SECOND_US))
    assert run(scenario).ok
    assert [violation.name for violation in run_p2p(scenario, make=make).violations][:1] == ["V12"]


def test_seeds_draw_every_kind_of_nat_fault_and_server() -> None:
    drawn = [draw_p2p(seed) for seed in range(200)]
    assert {peer.nat.kind for scenario in drawn for peer in scenario.peers} == set(NAT_KINDS)
    assert {scenario.fault.kind for scenario in drawn} == set(FAULT_KINDS)
    assert {tuple(scenario.turn) for scenario in drawn} == {(), ("udp",), ("tcp",), ("udp", "tcp")}
    assert {scenario.first for scenario in drawn} == {"a", "b", "both"}
    assert {peer.v6 for scenario in drawn for peer in scenario.peers} == {"off", "open", "firewall", "nat66"}
    for seen in (
        [scenario.stun for scenario in drawn],
        [scenario.same_home for scenario in drawn],
        [scenario.signals.lies for scenario in drawn],
        [scenario.has_way for scenario in drawn],
        [any(peer.carrier for peer in scenario.peers) for scenario in drawn],
        [scenario.peers[0].lan == scenario.peers[1].lan == "192.168.1" for scenario in drawn],
        [scenario.signals.loss > 0.25 for scenario in drawn],
        [scenario.signals.delay_us > SECOND_US for scenario in drawn],
    ):
        assert 5 < sum(seen) < 195
    assert all(scenario.signals.loss <= 0.5 for scenario in drawn)
    assert all(scenario.signals.delay_us + scenario.signals.jitter_us <= 5 * SECOND_US for scenario in drawn)


def test_a_story_says_what_a_seed_is_about() -> None:
    story = "\n".join(draw_p2p(3).story())
    assert "seed 3" in story
    assert "NatModel" in story


def test_the_run_does_not_depend_on_the_hash_seed_of_the_process() -> None:
    code = "from peergram.sim.p2p_scenario import draw_p2p, run_p2p; from tests.sim.rendezvous_endpoint import make_rendezvous; "
    code += "print([run_p2p(draw_p2p(seed), make=make_rendezvous).trace_hash for seed in (5, 11)])"

    def hashes(seed: str) -> str:
        environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(path for path in sys.path if path)}
        return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True).stdout

    assert hashes("1") == hashes("2") != ""
