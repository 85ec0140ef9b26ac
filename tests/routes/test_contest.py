"""Bad direct ways against good relays: agents in virtual time, each way with its own delay and loss."""

from __future__ import annotations

from random import Random

import pytest

from peergram.address import Address
from peergram.config import ICE_CONTEST_INTERVAL_US, ICE_CONTEST_REST_US, ICE_RTT_GAIN_PERCENT, ICE_RTT_GAIN_US
from peergram.routes.candidates import Base
from peergram.routes.contest import cost_us
from tests.routes.lab import MS, SECOND, Lab, Packet, Peer, Site
from tests.threats.world import full_or

ONE: Address = ("198.51.100.1", 1_000)
TWO: Address = ("198.51.100.2", 2_000)
RELAYS: list[Address] = [(f"203.0.113.{index}", 3_000) for index in (1, 2, 3)]


class World:
    """One and two in the open, and relays of one; each way has its round trip."""

    def __init__(self, direct_ms: int, relays_ms: list[int], *, loss: float = 0.0, jitter_ms: int = 0, seed: int = 1) -> None:
        self.lab = Lab(seed=seed)
        self.lab.delay_us = self._delay_us
        self.lab.drops = self._drops
        self.direct_ms, self.relays_ms, self.loss, self.jitter_ms = direct_ms, relays_ms, loss, jitter_ms
        self._rng = Random(seed)
        self.one, self.two = self.lab.pair()
        self.relays = {}
        self.direct = self.one.host(Site(), ONE)
        self.two.host(Site(), TWO)
        for address in RELAYS[: len(relays_ms)]:
            self.relays[self.one.relay(address)] = address

    def _index(self, packet: Packet) -> int | None:
        """Which relay it passes; None: none."""
        for address in (packet.source, packet.destination):
            if address in RELAYS:
                return RELAYS.index(address)
        return None

    def _delay_us(self, packet: Packet) -> int:
        index = self._index(packet)
        round_trip_ms = self.direct_ms if index is None else self.relays_ms[index]
        return round_trip_ms * MS // 2 + self._rng.randrange(self.jitter_ms * MS + 1)

    def _drops(self, packet: Packet) -> bool:
        return self._index(packet) is None and self._rng.random() < self.loss

    def run(self, seconds: float) -> None:
        self.lab.run(round(seconds * SECOND))

    @property
    def ways(self) -> tuple[str, str]:
        """What both sides use: `direct`, or the number of the relay."""
        return self._way(self.one), self._way(self.two)

    def _way(self, peer: Peer) -> str:
        assert peer.route is not None
        base, remote = peer.route
        for index, address in enumerate(RELAYS):
            if address in (remote, self.relays.get(base)):
                return f"relay {index}"
        return "direct"

    @property
    def moves(self) -> int:
        return max(len(self.one.selections()), len(self.two.selections()))


@pytest.mark.parametrize("relays_ms", [[60, 90, 130], [90, 60, 130], [130, 90, 60], [62, 60, 68]])
@pytest.mark.parametrize("jitter_ms", [0, 4])
def test_the_best_relay_beats_a_bad_direct_way_on_both_sides(relays_ms: list[int], jitter_ms: int) -> None:
    world = World(200, relays_ms, jitter_ms=jitter_ms)
    world.run(15)
    chosen = world.ways[0]
    assert world.ways[1] == chosen
    assert chosen.startswith("relay")
    assert relays_ms[int(chosen[-1])] <= 1.1 * min(relays_ms)


@pytest.mark.parametrize(("direct_ms", "relay_ms"), [(60, 55), (60, 49), (200, 165), (40, 31), (9, 1), (50, 50)])
def test_a_relay_that_is_not_clearly_better_does_not_carry_data(direct_ms: int, relay_ms: int) -> None:
    assert direct_ms - relay_ms < max(ICE_RTT_GAIN_US / MS, direct_ms * ICE_RTT_GAIN_PERCENT / 100)
    world = World(direct_ms, [relay_ms])
    world.run(100)
    assert world.ways == ("direct", "direct")


@pytest.mark.parametrize("loss", [0.1, 0.2])
def test_a_lossy_direct_way_loses_to_a_relay_that_is_a_little_slower(loss: float) -> None:
    moved = 0
    for seed in range(full_or(30, 5)):
        world = World(50, [60], loss=loss, seed=seed)
        world.run(140)
        moved += world.ways == ("relay 0", "relay 0")
    assert moved >= full_or(27, 4)


def test_a_little_loss_moves_nobody() -> None:
    for seed in range(full_or(20, 2)):
        world = World(50, [60], loss=0.01, seed=seed)
        world.run(300)
        assert world.ways == ("direct", "direct")


def test_two_ways_that_are_alike_do_not_take_turns() -> None:
    """Direct 60 ms and relayed 48 ms, each more by up to 20 ms: at the threshold, with much noise."""
    for seed in range(full_or(20, 1)):
        world = World(60, [48], jitter_ms=20, seed=seed)
        world.run(1_800)
        assert world.moves <= 8


def test_a_direct_way_that_gets_better_is_taken_again_and_one_that_gets_worse_is_left() -> None:
    world = World(200, [60])
    world.run(20)
    assert world.ways == ("relay 0", "relay 0")
    world.direct_ms = 62
    world.run(ICE_CONTEST_INTERVAL_US / SECOND + 5)
    assert world.ways == ("direct", "direct")
    moves = world.moves
    world.direct_ms = 200
    world.run((ICE_CONTEST_INTERVAL_US + 2 * ICE_CONTEST_REST_US) / SECOND + 60)
    assert world.ways == ("relay 0", "relay 0")
    assert world.moves == moves + 1


def test_a_relay_that_dies_leaves_the_direct_way() -> None:
    world = World(200, [60])
    world.run(20)
    base: Base = next(iter(world.relays))
    world.one.close(base)
    world.run(3)
    assert world.ways == ("direct", "direct")
    assert world.one.lost() == []


def test_near_ways_are_not_compared_at_all() -> None:
    world = World(6, [30])
    world.run(5)
    checks = len(world.one.checks)
    world.run(120)
    assert len(world.one.checks) - checks < 60


def test_the_cost_of_loss() -> None:
    assert cost_us(50_000, 0, 16) == cost_us(50_000, 1, 16) == 50_000
    assert 70_000 < cost_us(50_000, 2.6, 16) < 100_000
    assert cost_us(50_000, 16, 16) > cost_us(50_000, 8, 16) > 200_000
