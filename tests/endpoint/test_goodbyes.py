"""A goodbye that comes before what was sent before it: by signal, or by a packet that overtook others."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from peergram.address import Address
from peergram.config import GOODBYE_WAIT_US, Config
from peergram.events import ConnectionState, SendFlags, SessionFailed, SessionRequested
from peergram.wire.signals import decode_signal
from tests.endpoint.by_identity import Host, World
from tests.endpoint.test_calls import connected, state_of

UNRELIABLE = int(SendFlags.UNRELIABLE_NO_NAGLE)
SLOW_US = 100_000
FAST_US = 1_000


def has_lost(host: Host, peer: Host) -> Callable[[], bool]:
    """Whether the session is over."""
    return lambda: state_of(host, peer) != ConnectionState.CONNECTED


def payloads(host: Host) -> list[bytes]:
    return [message.payload for message in host.received()]


def close(host: Host, peer: Host) -> bool:
    closed = host.endpoint.close_session(peer.identity, host.world.now_us)
    host.drain()
    return closed


def parted(world: World, *words: bytes, flags: int = UNRELIABLE) -> tuple[Host, Host]:
    """Alice says a last word and closes, and bob has heard that she closed, but not the word: signals are faster than packets."""
    alice, bob = connected(world)
    world.latency_us, world.signal_us = SLOW_US, FAST_US
    bob.events.clear()
    for word in words or (b"the last word",):
        assert alice.send(bob, word, flags) > 0
    close(alice, bob)
    assert world.run(FAST_US, has_lost(bob, alice))
    return alice, bob


@pytest.mark.parametrize("size", [13, 5_000])
def test_what_was_sent_before_a_goodbye_that_overtook_it_is_received(size: int) -> None:
    world = World("alice", "bob")
    _, bob = parted(world, b"w" * size)
    assert not bob.endpoint.unread_messages
    world.run(SLOW_US)
    assert payloads(bob) == [b"w" * size]
    world.run(10_000_000)
    assert not bob.events
    assert bob.endpoint._peers[world.hosts["alice"].identity].late is None


def test_what_comes_long_after_a_goodbye_is_not_received() -> None:
    world = World("alice", "bob")
    alice, bob = connected(world)
    world.latency_us, world.signal_us = GOODBYE_WAIT_US + 2 * FAST_US, FAST_US
    alice.send(bob, b"late", UNRELIABLE)
    close(alice, bob)
    world.run(1_000_000)
    assert not payloads(bob)


def test_a_reliable_message_that_its_sender_gave_up_is_not_received_late() -> None:
    world = World("alice", "bob", config=Config(linger_us=0))
    alice, bob = parted(world, b"given up", flags=int(SendFlags.RELIABLE_NO_NAGLE))
    assert [event.unconfirmed.messages for event in alice.events if isinstance(event, SessionFailed)] == [1]
    world.run(SLOW_US)
    assert not payloads(bob)


def test_who_closes_as_well_receives_nothing_late() -> None:
    world = World("alice", "bob")
    alice, bob = parted(world)
    assert not close(bob, alice)
    world.run(SLOW_US)
    assert not payloads(bob)
    assert not bob.endpoint.unread_messages


def test_late_messages_that_find_no_room_are_dropped_and_keep_none() -> None:
    world = World("alice", "bob", config=Config(recv_buffer_messages=2))
    _, bob = parted(world, b"one", b"two", b"three")
    world.run(SLOW_US)
    assert payloads(bob) == [b"one", b"two"]
    assert not bob.endpoint._peers[world.hosts["alice"].identity].room.unread_messages


def stored_bytes(host: Host, peer: Host) -> int:
    """What waits at this host for the rest of it."""
    return host.endpoint._peers[peer.identity].room.stream_bytes


def with_halves_under_way(world: World) -> tuple[Host, Host]:
    """As `parted`, and half of what alice said last is lost."""
    alice, bob = connected(world)
    is_first = True

    def loses(source: Address, _to: Address, packet: bytes) -> bool:
        nonlocal is_first
        is_lost = source[0] == alice.address and len(packet) > 1_000 and is_first
        is_first = is_first and not is_lost
        return is_lost

    world.loses_packet = loses
    assert alice.send(bob, bytes(5_000), UNRELIABLE) > 0
    close(alice, bob)
    return alice, bob


def test_what_waits_for_its_rest_is_thrown_away_when_no_more_is_waited_for() -> None:
    world = World("alice", "bob")
    alice, bob = with_halves_under_way(world)
    world.run(world.latency_us)
    assert stored_bytes(bob, alice) > 1_000
    world.run(GOODBYE_WAIT_US)
    assert not stored_bytes(bob, alice)
    assert bob.endpoint._peers[alice.identity].late is None


def test_who_closes_as_well_stores_nothing_that_comes_late() -> None:
    world = World("alice", "bob")
    alice, bob = with_halves_under_way(world)
    world.run(world.signal_us)
    assert not close(bob, alice)
    world.run(world.latency_us)
    assert not stored_bytes(bob, alice)


def test_reading_what_waited_does_not_harm_what_comes_late() -> None:
    world = World("alice", "bob", config=Config(recv_buffer_messages=2))
    alice, bob = connected(world)
    for word in (b"one", b"two", b"three"):
        alice.send(bob, word)
    world.run(100_000)
    world.signal_us = FAST_US
    is_first = True

    def delays(source: Address, _to: Address, packet: bytes) -> bool:
        nonlocal is_first
        if source[0] == alice.address and len(packet) > 500:
            world.latency_us, is_first = (SLOW_US // 2 if is_first else SLOW_US), False
        return False

    world.loses_packet = delays
    assert alice.send(bob, bytes(2_400), UNRELIABLE) > 0
    close(alice, bob)
    world.run(SLOW_US * 3 // 4)
    assert payloads(bob) + payloads(bob) == [b"one", b"two", b"three"]
    world.run(SLOW_US)
    assert payloads(bob) == [bytes(2_400)]


def test_a_request_that_goes_away_does_not_take_along_what_comes_late() -> None:
    world = World("alice", "bob")
    alice, bob = parted(world)
    alice.send(bob, b"me again")
    world.run(2 * FAST_US)
    close(alice, bob)
    world.run(2 * FAST_US)
    alice.send(bob, b"and again")
    world.run(SLOW_US)
    assert payloads(bob) == [b"the last word"]


def test_the_newest_of_two_requests_counts_that_a_goodbye_comes_between() -> None:
    """The first was accepted in place of a session that was there still, and not proven yet when that ended."""
    world = World("alice", "bob", config=Config(linger_us=0))
    alice, bob = connected(world)
    world.loses_packet = lambda _source, _to, _packet: True
    closes: list[bytes] = []

    def holds_closes(_host: Host, _to: object, blob: bytes) -> bool:
        is_close = decode_signal(blob).connection_closed is not None
        if is_close:
            closes.append(blob)
        return is_close

    world.loses_signal = holds_closes
    close(alice, bob)
    alice.send(bob, b"two")
    world.run(20_000)
    for blob in closes:
        world.deliver_signal(alice.identity, bob.identity, blob)
    count = len(closes)
    close(alice, bob)
    alice.send(bob, b"three")
    world.run(20_000)
    for blob in closes[count:]:
        world.deliver_signal(alice.identity, bob.identity, blob)
    world.loses_packet = lambda _source, _to, _packet: False
    world.loses_signal = lambda _host, _to, _blob: False
    assert world.run(10_000_000, lambda: bob.endpoint.unread_messages > 0 or bool(bob.accept(alice)))
    assert world.run(10_000_000, lambda: bob.endpoint.unread_messages > 0)
    assert payloads(bob) == [b"three"]


def test_a_peer_who_took_leave_and_calls_anew_is_asked_about_at_once() -> None:
    world = World("alice", "bob")
    alice, bob = parted(world)
    assert alice.send(bob, b"me again") > 0
    assert world.run(SLOW_US // 2, lambda: bool(bob.events))
    [event] = bob.events
    assert isinstance(event, SessionRequested)
    bob.accept(alice)
    assert world.run(3_000_000, lambda: bob.endpoint.unread_messages == 2)
    assert payloads(bob) == [b"the last word", b"me again"]
    assert state_of(bob, alice) == ConnectionState.CONNECTED


def test_what_we_send_after_a_goodbye_opens_a_new_session() -> None:
    world = World("alice", "bob")
    alice, bob = parted(world)
    assert bob.send(alice, b"wait!", UNRELIABLE) > 0
    assert world.run(SLOW_US // 2, lambda: any(isinstance(event, SessionRequested) for event in alice.events))
    alice.accept(bob)
    assert world.run(3_000_000, lambda: alice.endpoint.unread_messages > 0)
    assert payloads(alice) == [b"wait!"]
    assert payloads(bob) == [b"the last word"]


def test_a_goodbye_while_the_way_is_looked_for_ends_the_search() -> None:
    world = World("alice", "bob", config=Config(timeout_initial_us=60_000_000))
    alice, bob = world.hosts["alice"], world.hosts["bob"]
    alice.send(bob, b"hello", UNRELIABLE)
    assert world.run(1_000_000, lambda: bool(bob.events))
    world.loses_packet = lambda _source, _to, _packet: True
    bob.accept(alice)
    world.run(500_000)
    close(bob, alice)
    assert world.run(world.signal_us, lambda: bool(alice.events))
    [failed] = alice.events
    assert isinstance(failed, SessionFailed)


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
    close(alice, bob)
    world.loses_packet = lambda _source, _to, _packet: False
    assert len(packets) > 3
    for packet in packets if order == "as sent" else reversed(packets):
        world.carry(*packet)
    assert world.run(world.latency_us, has_lost(bob, alice))
    world.run(world.latency_us)
    assert set(payloads(bob)) == {b"one", b"two", b"three"}
