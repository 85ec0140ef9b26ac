"""Agents in networks drawn at random, with faults and without: what is used has consent, both sides agree when the faults end,
and calm comes back. PEERGRAM_SOAK=1 draws many more."""

from __future__ import annotations

import os
import random

import pytest

from peergram.config import ICE_CONSENT_EXPIRY_US, ICE_CONTEST_PROBES
from peergram.routes.candidates import Base
from tests.routes.lab import MS, SECOND, Lab, Packet, Peer, Site

SEEDS = 3_000 if os.environ.get("PEERGRAM_SOAK") else 25
NATS = [None, "full", "address", "port", "symmetric"]


class World:
    """Two sides with one to three addresses each, most with a relay, and what can go wrong between them."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.lab = Lab(one_way_us=self.chance.choice([1, 10, 40, 120]) * MS, seed=seed)
        self.lab.signal_us = self.chance.choice([0, 1, 4]) * self.lab.one_way_us
        self.numbers = iter(range(1, 250))
        roles = self.chance.choice([(True, False)] * 6 + [(True, True), (False, False)])
        self.own_peers = roles[0] == roles[1] or self.chance.random() < 0.7
        self.peers = [
            self.lab.peer(name, controlling=role, own_peer=self.own_peers)
            for name, role in zip(("one", "two"), roles, strict=True)
        ]
        self.lab.introduce(*self.peers)
        self.jitter_us = self.chance.choice([0, 0, 5, 60]) * MS
        self.loss = self.chance.choice([0, 0, 0.02, 0.15, 0.3])
        self.cut: set[Base] = set()
        self.lab.delay_us = lambda packet: self.lab.one_way_us + self.lab.random.randrange(self.jitter_us + 1)
        self.lab.drops = self._drops
        for peer in self.peers:
            for _ in range(self.chance.randint(1, 3)):
                self.open(peer)
            if self.chance.random() < 0.8:
                peer.relay(("192.0.2." + str(next(self.numbers)), 7777))

    def open(self, peer: Peer) -> None:
        """Another network of this side."""
        nat, number = self.chance.choice(NATS), next(self.numbers)
        if nat is None:
            peer.host(Site(), (f"203.{number}.113.1", 1000))
        else:
            peer.reflexive(peer.host(Site(nat, f"198.{number}.100.1"), (f"10.{number}.0.2", 1000)))

    def trouble(self) -> None:
        """Something happens."""
        peer = self.chance.choice(self.peers)
        kind = self.chance.randrange(6)
        hosts = [local.base for local in peer.locals if not local.base.relay_id]
        if kind == 0 and peer.agent.selected is not None:
            self.cut.add(peer.agent.selected.base)
        elif kind == 1 and self.cut:
            self.cut.pop()
        elif kind == 2 and len(set(hosts)) > 1:
            peer.close(self.chance.choice(hosts))
        elif kind == 3:
            self.open(peer)
        elif kind == 4:
            for port in self.lab.ports:
                if port.peer is peer:
                    port.site.forget_mappings()
        elif kind == 5:
            peer.do(lambda agent, now_us: agent.network_changed(now_us))
        if self.chance.random() < 0.5:
            peer.do(lambda agent, now_us: agent.note_silent(now_us))

    def heal(self) -> None:
        """Faults end."""
        self.cut.clear()
        self.loss = 0
        for peer in self.peers:
            peer.do(lambda agent, now_us: agent.network_changed(now_us))

    def _drops(self, packet: Packet) -> bool:
        if self.lab.random.random() < self.loss:
            return True
        target = {port.base for port in self.lab.ports if port.address == packet.destination}
        return packet.base in self.cut or bool(target & self.cut)


def assert_consent(peer: Peer) -> None:
    selected = peer.agent.selected
    if selected is not None:
        assert selected.base in {local.base for local in peer.locals}
        assert selected.answered_at_us > peer.lab.now_us - ICE_CONSENT_EXPIRY_US


def agree(one: Peer, two: Peer) -> bool:
    """Whether each side sends to where the other one sends from."""
    used = one.agent.selected, two.agent.selected
    if used[0] is None or used[1] is None:
        return False
    there = one.lab.arrives_at(used[0].base, used[0].remote)
    back = one.lab.arrives_at(used[1].base, used[1].remote)
    return (there, back) == (used[1].base, used[0].base)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_whatever_happens_both_sides_find_each_other_again(seed: int) -> None:
    world = World(seed)
    for _ in range(world.chance.randrange(12)):
        world.lab.run(world.chance.choice([50 * MS, SECOND, 5 * SECOND, 20 * SECOND]))
        for peer in world.peers:
            assert_consent(peer)
        world.trouble()
    world.heal()
    world.lab.run(20 * SECOND)
    reachable = bool([port for port in world.lab.ports if port.base.relay_id])
    if reachable:
        assert all(peer.route is not None for peer in world.peers)
    moves = [len(peer.events) for peer in world.peers]
    sent = len(world.lab.packets)
    world.lab.run(60 * SECOND)
    for peer in world.peers:
        assert_consent(peer)
    if all(peer.route is not None for peer in world.peers):
        assert agree(*world.peers) or not world.own_peers
        assert sum(len(peer.events) for peer in world.peers) - sum(moves) <= 4
        # One comparison a minute, of six pairs at most, is on top of the upkeep.
        assert len(world.lab.packets) - sent <= 60 * 12 + 6 * 2 * ICE_CONTEST_PROBES
