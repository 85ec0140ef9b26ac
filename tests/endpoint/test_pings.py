"""Pings open a session as a send does, and leave nothing in anybody's inbox."""

from __future__ import annotations

from peergram.config import Config
from peergram.errors import Result
from peergram.events import ConnectionState, PingAnswer, RealTimeStatus, SessionRequested
from tests.endpoint.by_identity import Host, World


def ping(host: Host, peer: Host) -> Result:
    result = host.endpoint.ping(peer.identity, host.world.now_us)
    host.drain()
    return result


def status(host: Host, peer: Host) -> RealTimeStatus:
    known = host.endpoint.real_time_status(peer.identity, host.world.now_us)
    assert known is not None
    return known


def test_a_ping_asks_to_be_let_in_and_is_answered_by_the_library() -> None:
    world = World("alice", "bob")
    alice, bob = world.hosts["alice"], world.hosts["bob"]
    assert ping(alice, bob) == Result.OK
    assert world.run(1_000_000, lambda: any(isinstance(event, SessionRequested) for event in bob.events))
    assert status(alice, bob).pings_asked == 0
    assert bob.accept(alice)
    world.run(2_000_000)
    for _ in range(3):
        assert ping(alice, bob) == Result.OK
        world.run(100_000)
    assert status(alice, bob).pings_asked == 3
    assert status(alice, bob).ping_answers == tuple(PingAnswer(number, 2 * world.latency_us) for number in (1, 2, 3))
    assert bob.endpoint.unread_messages == alice.endpoint.unread_messages == 0


def test_a_ping_of_somebody_who_asks_lets_him_in() -> None:
    world = World("alice", "bob")
    alice, bob = world.hosts["alice"], world.hosts["bob"]
    alice.send(bob)
    assert world.run(1_000_000, lambda: bool(bob.events))
    assert ping(bob, alice) == Result.OK
    assert world.run(2_000_000, lambda: bob.endpoint.unread_messages == 1)


def test_who_pings_uses_the_session() -> None:
    """On his side: for the other one it is not in use until there are messages."""
    world = World("bob")
    alice, bob = world.add("alice", "192.168.1.20", Config(session_idle_us=10_000_000)), world.hosts["bob"]
    ping(alice, bob)
    world.run(1_000_000, lambda: bool(bob.events))
    bob.accept(alice)
    for _ in range(4):
        world.run(5_000_000)
        ping(alice, bob)
    assert status(alice, bob).state == ConnectionState.CONNECTED
    world.run(11_000_000)
    assert alice.endpoint.connection_info(bob.identity, world.now_us) is None


def test_who_cannot_be_pinged_is_told_from_who_does_not_answer() -> None:
    world = World("alice")
    alice = world.hosts["alice"]
    assert alice.endpoint.ping(alice.identity, world.now_us) == Result.INVALID_STATE
    ping(alice, alice)
    assert alice.endpoint.known_peers == []
