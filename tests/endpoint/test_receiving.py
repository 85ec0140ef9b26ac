"""What arrives and how: one test per row of the semantics table, part "Receiving", on direct UDP sessions.

The rows that are not here, with the work that builds it:

| row | built with |
| --- | --- |
| max_messages <= 0 in the GodotSteam dress: an empty list | `adapters.godot_steam` |
| fields: connection hidden (0), sender user data | `adapters.godot_steam` |
"""

from __future__ import annotations

from functools import partial
from random import Random

import pytest

from peergram.config import EVENTS_MAX, Config
from peergram.errors import Result, UsageError
from peergram.events import ConnectionState
from peergram.identity import Identity
from tests.endpoint.world import NO_NAGLE, RELIABLE, SECOND_US, UNRELIABLE, Host, World, connected, rough, steady

MIB = 1 << 20


def held_bytes(host: Host) -> int:
    """What a host holds for its peer: unread messages at their charge, and pieces of messages to come."""
    room = host.flow.room
    return room.unread_bytes + room.stream_bytes


def has_read(host: Host, count: int) -> bool:
    return len(host.payloads(0)) == count


@pytest.mark.parametrize("seed", range(5))
def test_each_channel_is_exactly_once_and_in_order(seed: int) -> None:
    """Row: order, on a network that loses, doubles and reorders."""
    rng = Random(seed)
    world, alice, bob = connected(network=rough(rng, loss=0.1, delay_us=(5_000, 60_000), again=0.2), seed=seed)
    sent: dict[int, list[bytes]] = {}
    for number in range(200):
        channel = rng.choice((0, 1, -7, 1 << 20))
        payload = b"%d " % number + bytes(rng.choice((0, 10, 3_000)))
        sent.setdefault(channel, []).append(payload)
        assert alice.send(bob, payload, RELIABLE, channel) == Result.OK
        world.run(rng.choice((0, 0, 20_000)))
    world.run_until(lambda: len(bob.received) == 200)
    world.run(5 * SECOND_US)
    for channel, payloads in sent.items():
        assert bob.payloads(channel) == payloads


def test_a_large_message_delays_no_other_channel() -> None:
    """Row: order; channels are spread over lanes."""
    config = Config(rate="fixed", send_rate_bytes=1_000_000)
    world, alice, bob = connected(config, steady(10_000))
    alice.send(bob, bytes(500_000), RELIABLE, 9)
    world.run(50_000)
    for number in range(5):
        sent_at_us = world.now_us
        alice.send(bob, b"%d" % number, RELIABLE | NO_NAGLE, 0)
        world.run_until(partial(has_read, bob, number + 1))
        assert world.now_us - sent_at_us < 20_000, "10 ms under way, and a few packets of the large one"
    assert not bob.payloads(9)
    world.run_until(lambda: bob.payloads(9))


@pytest.mark.parametrize("count", [0, -1])
def test_asking_for_no_messages_is_a_usage_error(count: int) -> None:
    """Row: max_messages <= 0."""
    alice = World().add("alice")
    with pytest.raises(UsageError, match="at least 1"):
        alice.read(0, count)
    with pytest.raises(ValueError):
        alice.read(0, count)


def test_reading_takes_the_oldest_of_all_peers_first() -> None:
    """Row: fields; ReceiveMessagesOnChannel: all peers, in order of arrival."""
    world, alice, bob = connected()
    carol = world.add("carol")
    bob.reads = False
    for number in range(4):
        (alice, carol)[number % 2].send(bob, b"%d" % number)
        world.run(SECOND_US)
    assert [message.payload for message in bob.read(0, 3)] == [b"0", b"1", b"2"]
    assert [message.payload for message in bob.read(0, 3)] == [b"3"]
    assert bob.read(0, 3) == []


def test_a_message_says_who_where_which_and_when() -> None:
    """Row: fields."""
    world, alice, bob = connected()
    alice.send(bob, b"hello", RELIABLE, 6)
    alice.send(bob, b"world", UNRELIABLE, 6)
    world.run(SECOND_US)
    first, second = sorted(bob.received, key=lambda message: message.message_number)
    assert (first.identity, first.channel, first.payload, first.size) == (alice.identity, 6, b"hello", 5)
    assert (first.reliable, int(first.flags), int(second.flags)) == (True, 8, 0)
    assert second.message_number == first.message_number + 1
    assert world.now_us - SECOND_US < first.received_at_us <= world.now_us
    assert "reliable #" in repr(first)


def test_the_dialer_reads_the_dialed_name() -> None:
    """Row: fields; whoever dialed an address knows its peer by it."""
    world, alice, bob = connected()
    bob.send(alice.identity, b"hello")
    world.run(SECOND_US)
    assert alice.received[0].identity == bob.dialed


@pytest.mark.parametrize("size", [1, 2_000])
def test_reliable_messages_wait_at_the_sender_while_nobody_reads(size: int) -> None:
    """Row: unread messages of an accepted peer; back-pressure, never a closed session."""
    world, alice, bob = connected()
    bob.reads = False
    sent = 0
    for _ in range(60):
        while sent < 5_000 and alice.send(bob, b"%05d" % sent + bytes(size)) == Result.OK:
            sent += 1
        world.run(SECOND_US)
        assert bob.endpoint.unread_messages <= 1_000
        assert bob.flow.room.unread_bytes <= MIB
        assert held_bytes(bob) <= 2 * MIB + 524_304
    assert bob.endpoint.unread_messages > 400
    bob.reads = True
    bob.drain()
    world.run_until(lambda: len(bob.received) == sent)
    assert [payload[:5] for payload in bob.payloads()] == [b"%05d" % number for number in range(sent)]
    assert not alice.failures


def test_unreliable_messages_that_find_no_room_are_dropped_and_counted() -> None:
    """Row: unread messages of an accepted peer."""
    world, alice, bob = connected()
    bob.reads = False
    for number in range(1_500):
        alice.send(bob, b"%d" % number, UNRELIABLE)
        world.run(1_000)
    world.run(SECOND_US)
    assert bob.endpoint.unread_messages == 1_000
    assert bob.flow.unreliable_dropped == 500
    assert [message.payload for message in bob.read()] == [b"%d" % number for number in range(1_000)], "the newest go"
    alice.send(bob, b"room again", UNRELIABLE)
    world.run(SECOND_US)
    assert [message.payload for message in bob.read()] == [b"room again"]


def test_one_peer_that_nobody_reads_does_not_hold_up_another() -> None:
    """Row: unread messages of an accepted peer; limits are per peer."""
    world, alice, bob = connected()
    carol = world.add("carol")
    bob.reads = False
    for _ in range(1_200):
        alice.send(bob, b"a", RELIABLE, 1)
    world.run(5 * SECOND_US)
    carol.send(bob, b"c", RELIABLE, 2)
    world.run(SECOND_US)
    assert [message.payload for message in bob.read(2)] == [b"c"]


@pytest.mark.parametrize(
    "framing",
    [
        "messages",
        pytest.param("raw"),
    ],
)
def test_reading_everything_frees_exactly_what_was_taken(framing: str) -> None:
    """Row: unread messages of an accepted peer; the account balances."""
    config = Config(framing="raw" if framing == "raw" else "messages")
    world, alice, bob = connected(config)
    for size in (0, 1, 250, 251, 252, 256, 257, 1_000, 20_000):
        alice.send(bob, bytes(size), RELIABLE)
        alice.send(bob, bytes(min(size, 10_000)), UNRELIABLE)
    world.run(SECOND_US)
    assert len(bob.received) == 18
    room = bob.flow.room
    assert (room.unread_messages, room.unread_bytes, room.stream_bytes) == (0, 0, 0)


def test_a_small_receive_buffer_still_takes_large_messages() -> None:
    """Row: unread messages of an accepted peer; an empty queue takes any one message."""
    config = Config(recv_buffer_bytes=600_000, recv_buffer_messages=2)
    world, alice, bob = connected(config)
    bob.reads = False
    for number in range(3):
        alice.send(bob, b"%d" % number + bytes(150_000))
    for number in range(3):
        world.run(5 * SECOND_US)
        (message,) = bob.read(0, 1)
        assert message.payload[:1] == b"%d" % number


def test_a_stranger_who_is_not_accepted_delivers_nothing() -> None:
    """Row: unread messages of an accepted peer; others have none."""
    world = World()
    alice, bob = world.add("alice"), world.add("bob", accepts=False)
    alice.send(bob, b"x")
    alice.send(bob, b"x", UNRELIABLE)
    world.run(8 * SECOND_US)
    assert bob.endpoint.unread_messages == 0


def test_callbacks_wait_in_bounded_number() -> None:
    """Row: callbacks, kept, bounded, newest state wins per peer."""
    world = World()
    bob = world.add("bob", Config(timeout_initial_us=SECOND_US))
    bob.polls = False
    for number in range(EVENTS_MAX + 50):
        bob.send(Identity.ip((f"10.20.{number >> 8}.{number % 256}", 7_000)), b"x")
    world.run(5 * SECOND_US)
    bob.polls = True
    bob.drain()
    assert len(bob.failures) == EVENTS_MAX


def test_a_request_and_a_failure_of_one_peer_both_wait() -> None:
    """Row: callbacks; the newest of a kind wins, kinds do not replace each other."""
    world, alice, bob = connected()
    bob.polls = False
    bob.accepts = False
    bob.send(alice.identity, b"lost")
    alice.kill()
    world.run(100_000)
    alice.start(new_key=True)
    alice.send(bob, b"hello")
    world.run(SECOND_US)
    bob.polls = True
    bob.drain()
    assert len(bob.failures) == len(bob.requests) == 1
    info = bob.info(alice.identity)
    assert info is not None
    assert info.state == ConnectionState.CONNECTING


@pytest.mark.parametrize("loss", [0.0, 0.05])
def test_large_messages_on_all_lanes_at_once_arrive_although_their_halves_find_no_room_together(loss: float) -> None:
    """V12: eight halves fill the room, and only one lane may go beyond it; the sender must find out which, and go on there."""
    world, alice, bob = connected(Config(send_buffer_bytes=4_000_000))
    world.network = rough(Random(1), delay_us=(20_000, 20_000), loss=loss)
    for channel in range(8):
        assert alice.send(bob, bytes([channel]) * 400_000, RELIABLE, channel) == Result.OK
    world.run_until(lambda: len(bob.received) == 8, 30 * SECOND_US)
    assert sorted(message.payload[0] for message in bob.received) == list(range(8))


def test_what_an_ended_connection_still_owes_is_read_before_what_the_next_one_brings() -> None:
    """Row: order; a restart while nobody reads, with a large message that finds no room and a small one that would."""
    config = Config(recv_buffer_bytes=20_000)
    world, alice, bob = connected(config)
    bob.reads = False
    for at in range(4):
        alice.send(bob, bytes((at,)) * 9_000, RELIABLE)
    world.run(SECOND_US)
    alice.kill()
    alice.start()
    alice.send(bob, b"\x09", RELIABLE)
    world.run(20 * SECOND_US)
    bob.reads = True
    world.run(SECOND_US)
    order = [message.payload[0] for message in bob.received]
    assert order == sorted(order)
    assert order[-1] == 9
