"""Two of our own peers that dial each other: one session, whatever the network does in between, and every message arrives once.

Interleavings are drawn: one-way delays from 1 to 400 ms for each packet, so that packets overtake each other; the second side
starts 0 to 300 ms after the first; which dial has the larger connection id follows from the seed.
"""

from __future__ import annotations

import os
from random import Random

import pytest

from peergram.errors import Result
from peergram.events import ConnectionState
from tests.endpoint.world import AUTO_RESTART, NO_NAGLE, RELIABLE, SECOND_US, UNRELIABLE, Host, World, rough, steady

SEEDS = 20_000 if os.environ.get("PEERGRAM_SOAK") else 60
PER_TEST = 20
MESSAGES = 3


class Crossing:
    """Both sides send at about the same time."""

    def __init__(self, seed: int, world: World, head_start_us: int, *, polls: bool = True) -> None:
        self.world = world
        self.alice, self.bob = world.add("alice"), world.add("bob")
        self.first, self.second = (self.alice, self.bob) if seed % 2 else (self.bob, self.alice)
        for host in (self.alice, self.bob):
            host.accepts, host.polls = polls, polls
        self._send(self.first, self.second)
        world.run(head_start_us)
        self._send(self.second, self.first)
        world.run(15 * SECOND_US)

    @staticmethod
    def _send(sender: Host, receiver: Host) -> None:
        for number in range(MESSAGES):
            sender.send(receiver, b"%d" % number, RELIABLE | NO_NAGLE)

    def check_messages(self) -> None:
        """Every message arrived once, in order, and nobody was told of a failure."""
        for host in (self.alice, self.bob):
            assert host.payloads() == [b"%d" % number for number in range(MESSAGES)]
            assert not host.failures

    def check_one_session(self) -> None:
        """One live connection on either side, and under the dialed name a session that is connected."""
        for host, other in ((self.alice, self.bob), (self.bob, self.alice)):
            assert len(host.live) == 1
            info = host.info(other)
            assert info is not None
            assert info.state == ConnectionState.CONNECTED
            assert info.identity == other.identity


def in_order(seed: int) -> Crossing:
    """No packet overtakes another."""
    rng = Random(seed)
    return Crossing(seed, World(steady(rng.choice((1_000, 20_000, 150_000))), seed=seed), rng.randrange(0, 300_000))


def overtaking(seed: int, *, loss: float = 0.0, again: float = 0.0) -> Crossing:
    rng = Random(seed)
    network = rough(rng, delay_us=(1_000, rng.choice((50_000, 400_000))), loss=loss, again=again)
    return Crossing(seed, World(network, seed=seed), rng.choice((0, 0, rng.randrange(300_000))))


BATCHES = [range(first, first + PER_TEST) for first in range(0, SEEDS, PER_TEST)]


@pytest.mark.parametrize("seeds", BATCHES, ids=str)
def test_crossing_dials_become_one_session(seeds: range) -> None:
    """Row: both send first at the same moment."""
    for seed in seeds:
        crossing = in_order(seed)
        crossing.check_messages()
        crossing.check_one_session()


@pytest.mark.parametrize("seeds", BATCHES, ids=str)
@pytest.mark.parametrize("loss", [0.0, 0.2], ids=["without loss", "with loss"])
def test_crossing_dials_become_one_session_when_packets_overtake_each_other(seeds: range, loss: float) -> None:
    """Row: both send first at the same moment; nothing is lost or doubled."""
    for seed in seeds:
        crossing = overtaking(seed, loss=loss, again=loss)
        crossing.check_messages()
        crossing.check_one_session()


def test_a_late_request_of_a_crossed_dial_is_no_request() -> None:
    """Row: both send first at the same moment; no application is asked about somebody whom it talks to already."""
    for seed in range(20):
        world = World(seed=seed)
        alice, bob = world.add("alice"), world.add("bob")
        held: list[bytes] = []

        def network(sender: Host, receiver: Host, packet: bytes, late: Host = bob, kept: list[bytes] = held) -> list[int]:
            if sender is late and packet[0] == 34:
                kept.append(packet)
                return [300_000]
            return [10_000]

        world.network = network
        alice.send(bob, b"a")
        bob.send(alice, b"b")
        world.run(5 * SECOND_US)
        assert alice.payloads() == [b"b"]
        assert not alice.requests


@pytest.mark.parametrize(("seed", "loss"), [(1219, 0.2), (1517, 0.0), (1597, 0.2)])
def test_no_late_request_of_a_crossed_dial_ends_the_session(seed: int, loss: float) -> None:
    """Row: both send first at the same moment; found among 2400 interleavings."""
    crossing = overtaking(seed, loss=loss, again=loss)
    crossing.check_messages()
    crossing.check_one_session()


def test_a_request_that_waits_is_accepted_by_dialing_its_address() -> None:
    """Row: send to a user whose request is pending; named by address."""
    world = World()
    alice, bob = world.add("alice"), world.add("bob", accepts=False)
    alice.send(bob, b"hello")
    world.run_until(lambda: bob.requests)
    bob.send(alice, b"by address")
    world.run(SECOND_US)
    assert alice.payloads() == [b"by address"]
    assert bob.payloads() == [b"hello"]
    assert bob.info(alice) == bob.info(alice.identity)


def test_dialing_the_address_of_somebody_connected_uses_his_session() -> None:
    """Row: both send first; V6, one session per pair."""
    world = World()
    alice, bob = world.add("alice"), world.add("bob")
    alice.send(bob, b"hello")
    world.run(SECOND_US)
    bob.send(alice, b"by address")
    bob.send(alice.identity, b"by name", UNRELIABLE)
    world.run(SECOND_US)
    assert sorted(alice.payloads()) == [b"by address", b"by name"]
    assert len(bob.links) == len(alice.links) == 1
    assert bob.close_session(alice)
    assert bob.info(alice.identity) is None, "both names are one session"


def test_crossing_dials_meet_after_one_that_nobody_answered() -> None:
    """Row: both send first at the same moment; one of them was down before."""
    for seed in range(10):
        world = World(steady(10_000), seed=seed)
        alice, bob = world.add("alice"), world.add("bob", starts=False)
        alice.send(bob, b"anybody?")
        world.run(11 * SECOND_US)
        bob.start()
        alice.send(bob, b"a", RELIABLE | AUTO_RESTART)
        bob.send(alice, b"b")
        world.run(15 * SECOND_US)
        assert (alice.payloads(), bob.payloads()) == ([b"b"], [b"a"])
        assert len(alice.live) == len(bob.live) == 1


@pytest.mark.parametrize("later", ["alice", "bob"])
def test_crossing_dials_work_again_after_a_close(later: str) -> None:
    """Row: both send first at the same moment, for the second time."""
    for seed in range(20):
        world = World(steady(10_000), seed=seed)
        alice, bob = world.add("alice"), world.add("bob")
        alice.send(bob, b"0")
        world.run(SECOND_US)
        (alice if later == "alice" else bob).close_session(bob if later == "alice" else alice.identity)
        world.run(SECOND_US)
        alice.send(bob, b"1")
        bob.send(alice, b"1")
        world.run(5 * SECOND_US)
        assert bob.payloads() == [b"0", b"1"]
        assert alice.payloads() == [b"1"]
        assert not alice.failures
        assert not bob.failures


def test_after_crossing_dials_both_names_lead_to_the_session() -> None:
    """Row: both send first at the same moment, for the second time; names of before stay good."""
    for seed in range(20):
        world = World(steady(10_000), seed=seed)
        alice, bob = world.add("alice"), world.add("bob")
        alice.send(bob, b"0")
        world.run(SECOND_US)
        alice.close_session(bob)
        world.run(SECOND_US)
        alice.send(bob, b"1")
        bob.send(alice, b"1")
        world.run(5 * SECOND_US)
        info = bob.info(alice)
        assert info is not None
        assert info.state == ConnectionState.CONNECTED
        if not bob.live[0].is_client:
            assert bob.send(alice.identity, b"by name") == Result.OK
