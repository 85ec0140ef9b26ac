"""A goodbye that comes before what was sent before it: by signal, or by a packet that overtook others."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from peergram.address import Address
from peergram.config import GOODBYE_WAIT_US
from peergram.events import ConnectionState, SendFlags, SessionRequested
from peergram.wire.signals import decode_signal
from tests.endpoint.by_identity import Host, World
from tests.endpoint.test_calls import connected, state_of

UNRELIABLE = int(SendFlags.UNRELIABLE_NO_NAGLE)
SLOW_US = 100_000
FAST_US = 1_000


def has_lost(host: Host, peer: Host) -> Callable[[], bool]:
    """Whether the session is over."""
    return lambda: state_of(host, peer) != ConnectionState.CONNECTED


def parted(world: World) -> tuple[Host, Host]:
    """Bob has a session with alice, who sends something more and closes. Packets are slow, signals are not."""
    alice, bob = connected(world)
    world.latency_us, world.signal_us = SLOW_US, FAST_US
    bob.events.clear()
    assert alice.send(bob, b"the last word", UNRELIABLE) > 0
    alice.endpoint.close_session(bob.identity, world.now_us)
    alice.drain()
    return alice, bob


def test_what_was_sent_before_a_goodbye_that_overtook_it_is_received() -> None:
    world = World("alice", "bob")
    alice, bob = parted(world)
    assert world.run(SLOW_US + 1_000, has_lost(bob, alice))
    assert [message.payload for message in bob.received()] == [b"the last word"]


def test_a_goodbye_that_follows_all_that_was_sent_counts_at_once() -> None:
    world = World("alice", "bob")
    alice, bob = connected(world)
    alice.endpoint.close_session(bob.identity, world.now_us)
    alice.drain()
    assert world.run(world.latency_us, has_lost(bob, alice))


def test_what_is_lost_is_not_waited_for_long() -> None:
    world = World("alice", "bob")
    alice, bob = connected(world)
    world.loses_packet = lambda _source, _to, packet: True
    assert alice.send(bob, b"lost", UNRELIABLE) > 0
    alice.endpoint.close_session(bob.identity, world.now_us)
    alice.drain()
    assert not world.run(GOODBYE_WAIT_US - FAST_US, has_lost(bob, alice))
    assert world.run(2 * FAST_US + world.signal_us, has_lost(bob, alice))
    assert not bob.received()


def test_what_was_lost_long_before_is_not_waited_for() -> None:
    world = World("alice", "bob")
    alice, bob = connected(world)
    world.loses_packet = lambda source, _to, _packet: source[0] == alice.address
    alice.send(bob, b"lost", UNRELIABLE)
    world.run(FAST_US)
    world.loses_packet = lambda _source, _to, _packet: False
    alice.send(bob, b"arrives", UNRELIABLE)
    world.run(GOODBYE_WAIT_US + 2 * world.latency_us)
    alice.endpoint.close_session(bob.identity, world.now_us)
    alice.drain()
    assert world.run(world.latency_us, has_lost(bob, alice))


def test_a_peer_who_took_leave_and_calls_anew_is_asked_about_at_once() -> None:
    world = World("alice", "bob")
    alice, bob = parted(world)
    assert alice.send(bob, b"me again") > 0
    assert world.run(SLOW_US // 2, lambda: bool(bob.events))
    [event] = bob.events
    assert isinstance(event, SessionRequested)
    bob.accept(alice)
    assert world.run(3_000_000, lambda: bob.endpoint.unread_messages > 0)
    assert state_of(bob, alice) == ConnectionState.CONNECTED


@pytest.mark.parametrize("order", ["as sent", "turned round"])
def test_packets_that_overtake_each_other_at_the_end_lose_nothing(order: str) -> None:
    world = World("alice", "bob")
    alice, bob = connected(world)
    packets: list[tuple[Address, Address, bytes]] = []

    def catches(source: Address, to: Address, packet: bytes) -> bool:
        if source[0] == alice.address:
            packets.append((source, to, packet))
        return source[0] == alice.address

    world.loses_packet = catches
    world.loses_signal = lambda _host, _to, blob: decode_signal(blob).connection_closed is not None
    for word in (b"one", b"two", b"three"):
        alice.send(bob, word, UNRELIABLE)
    alice.endpoint.close_session(bob.identity, world.now_us)
    alice.drain()
    world.loses_packet = lambda _source, _to, _packet: False
    assert len(packets) > 3
    for packet in packets if order == "as sent" else reversed(packets):
        world.carry(*packet)
    assert world.run(world.latency_us, has_lost(bob, alice))
    assert {message.payload for message in bob.received()} == {b"one", b"two", b"three"}
