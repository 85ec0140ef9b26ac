"""Receipts: each reliable message sent with one ends as delivered or as unconfirmed, and as what `session_failed` counts.

A message counts as delivered once the peer's library has acknowledged every byte of it, or said so when it closed.
"""

from __future__ import annotations

from random import Random

import pytest

from peergram.config import Config
from peergram.errors import EndReason, Result
from peergram.events import Receipt
from tests.endpoint.by_identity import World as WorldByIdentity
from tests.endpoint.world import NO_NAGLE, RELIABLE, SECOND_US, UNRELIABLE, Host, World, connected, rough, steady


def sent(host: Host, to: Host, data: bytes = b"with a receipt", flags: int = RELIABLE, channel: int = 0) -> Receipt:
    result, receipt = host.send_with_receipt(to, data, flags, channel)
    assert result == Result.OK
    assert receipt is not None
    return receipt


def states(receipts: list[Receipt]) -> list[str]:
    return [receipt.state for receipt in receipts]


def test_a_receipt_is_delivered_once_the_peers_library_has_the_message() -> None:
    """Row: return value vs. fate. The peer's program need not have read it."""
    world, alice, bob = connected(network=steady(50_000))
    bob.reads = False
    receipt = sent(alice, bob)
    world.run(90_000)
    assert receipt.state == "pending"
    world.run(60_000)
    assert receipt.state == "delivered"
    assert (receipt.identity, receipt.channel, receipt.reason, receipt.debug) == (bob.dialed, 0, 0, "")


def test_a_large_message_is_delivered_when_its_last_byte_is() -> None:
    """Row: return value vs. fate."""
    world, alice, bob = connected(Config(rate="fixed", send_rate_bytes=100_000))
    first, large, last = sent(alice, bob), sent(alice, bob, bytes(400_000)), sent(alice, bob)
    world.run(2 * SECOND_US)
    assert states([first, large, last]) == ["delivered", "pending", "pending"]
    world.run(5 * SECOND_US)
    assert states([large, last]) == ["delivered", "delivered"]


def test_a_message_that_waits_for_the_handshake_has_a_receipt_too() -> None:
    """Row: messages sent before Connected."""
    world = World()
    alice, bob = world.add("alice"), world.add("bob", accepts=False)
    receipts = [sent(alice, bob, b"%d" % number, channel=number) for number in range(3)]
    world.run(SECOND_US)
    assert states(receipts) == ["pending"] * 3
    bob.accept(alice.identity)
    world.run(SECOND_US)
    assert states(receipts) == ["delivered"] * 3


def test_a_dial_that_fails_leaves_receipts_unconfirmed_with_the_reason() -> None:
    """Row: send to a session that failed by time-out; what waited did not arrive, and says why."""
    world = World()
    alice, bob = world.add("alice"), world.add("bob", starts=False)
    receipt = sent(alice, bob)
    world.run(11 * SECOND_US)
    assert receipt.state == "unconfirmed"
    (failure,) = alice.failures
    assert (receipt.reason, receipt.debug) == (failure.reason, failure.debug)


def test_receipts_and_counts_agree_when_the_peer_dies() -> None:
    """Row: peer dies, reliable data in flight."""
    world, alice, bob = connected()
    before = [sent(alice, bob) for _ in range(5)]
    world.run(SECOND_US)
    bob.kill()
    after = [sent(alice, bob) for _ in range(7)]
    world.run(30 * SECOND_US)
    assert states(before) == ["delivered"] * 5
    assert states(after) == ["unconfirmed"] * 7
    assert alice.lost.messages == 7
    assert {receipt.debug for receipt in after} == {alice.failures[0].debug}


@pytest.mark.parametrize("seed", range(20))
def test_receipts_and_counts_agree_when_the_peer_closes(seed: int) -> None:
    """Row: an own peer's close says what it had taken; that counts as delivered."""
    rng = Random(seed)
    world, alice, bob = connected(Config(linger_us=0), rough(rng, loss=0.1, delay_us=(5_000, 40_000)), seed=seed)
    receipts = [sent(alice, bob, bytes(rng.choice((10, 500, 3_000))), channel=rng.randrange(4)) for _ in range(40)]
    world.run(rng.randrange(200_000))
    arrived = len(bob.received)
    bob.close_session(alice.identity)
    world.run(10 * SECOND_US)
    assert states(receipts).count("delivered") == arrived
    assert states(receipts).count("unconfirmed") == alice.lost.messages == 40 - arrived


def test_after_our_own_close_receipts_are_settled_when_the_flushing_ends() -> None:
    """Row: close_session; reliable data already handed over is flushed in the background."""
    world, alice, bob = connected(Config(rate="fixed", send_rate_bytes=100_000), steady(20_000))
    soon, late = sent(alice, bob, bytes(10_000)), sent(alice, bob, bytes(300_000))
    alice.close_session(bob)
    assert states([soon, late]) == ["pending", "pending"]
    world.run(5 * SECOND_US)
    assert states([soon, late]) == ["delivered", "unconfirmed"]
    assert (late.reason, late.debug) == (EndReason.SESSION_CLOSED, "CloseSessionWithUser")


def test_a_session_closed_while_it_opens_still_settles_its_receipts() -> None:
    """Row: close_session; the peer accepts within the linger time, or does not."""
    for answers in (True, False):
        world = World()
        alice, bob = world.add("alice"), world.add("bob", starts=answers)
        receipt = sent(alice, bob)
        alice.close_session(bob)
        world.run(5 * SECOND_US)
        assert receipt.state == ("delivered" if answers else "unconfirmed")


@pytest.mark.parametrize("seed", range(40))
def test_receipts_survive_dials_that_cross(seed: int) -> None:
    """Row: both send first at the same moment."""
    rng = Random(seed)
    world = World(rough(rng, delay_us=(1_000, 200_000), loss=0.1), seed=seed)
    alice, bob = world.add("alice"), world.add("bob")
    receipts = [sent(alice, bob, b"%d" % number, RELIABLE | NO_NAGLE) for number in range(3)]
    world.run(rng.randrange(300_000))
    receipts += [sent(bob, alice, b"%d" % number, RELIABLE | NO_NAGLE) for number in range(3)]
    world.run(15 * SECOND_US)
    assert states(receipts) == ["delivered"] * 6


@pytest.mark.parametrize("seed", range(20))
def test_receipts_survive_calls_that_cross(seed: int) -> None:
    """Row: both send first at the same moment; by identity."""
    world = WorldByIdentity("alice", "bob", seed=seed)
    alice, bob = world.hosts["alice"], world.hosts["bob"]
    receipts: list[Receipt] = []
    for sender, receiver in ((alice, bob), (bob, alice)):
        _, receipt = sender.endpoint.send_with_receipt(receiver.identity, b"crosses", RELIABLE, 0, world.now_us)
        sender.drain()
        assert receipt is not None
        receipts.append(receipt)
    world.run(5_000_000)
    assert states(receipts) == ["delivered", "delivered"]


def test_a_restart_of_the_peer_settles_what_was_under_way_and_the_next_session_settles_its_own() -> None:
    """Row: session_failed after a restart by the peer."""
    world, alice, bob = connected()
    alice.kill()
    _, old = bob.send_with_receipt(alice.identity, b"never confirmed")
    world.run(200_000)
    alice.start()
    alice.send(bob, b"I am back")
    world.run(2 * SECOND_US)
    assert old is not None
    assert old.state == "unconfirmed"
    _, new = bob.send_with_receipt(alice.identity, b"welcome")
    world.run(SECOND_US)
    assert new is not None
    assert new.state == "delivered"
    assert bob.lost.messages == 1


def test_the_end_of_an_endpoint_settles_everything() -> None:
    """Row: return value vs. fate; none is left open."""
    world, alice, bob = connected()
    carol = world.add("carol", starts=False)
    world.cut.add(frozenset((alice, bob)))
    receipts = [sent(alice, bob), sent(alice, carol)]
    alice.close()
    assert states(receipts) == ["unconfirmed"] * 2
    assert {receipt.reason for receipt in receipts} == {EndReason.SESSION_CLOSED}


def test_to_oneself_it_is_delivered_at_once() -> None:
    """Row: to oneself."""
    world = World()
    alice = world.add("alice", reads=False)
    alice.endpoint.tell_receipts(tells=True)
    _, receipt = alice.send_with_receipt(alice.identity, b"note")
    assert receipt is not None
    assert receipt.state == "delivered"
    assert alice.told == [receipt]
    assert alice.send_with_receipt(alice.identity, bytes(20_000), UNRELIABLE) == (Result.OK, None)


def test_unreliable_messages_have_none_unless_they_are_so_large_that_they_go_reliably() -> None:
    """Row: large unreliable; the receipt says so. The limit of 16500 bytes includes our header."""
    world, alice, bob = connected()
    assert alice.send_with_receipt(bob, b"small", UNRELIABLE) == (Result.OK, None)
    assert alice.send_with_receipt(bob, bytes(16_495), UNRELIABLE) == (Result.OK, None)
    assert sent(alice, bob, bytes(16_496), UNRELIABLE).state == "pending"
    carol = world.add("carol")
    held = sent(alice, carol, bytes(16_496), UNRELIABLE)
    world.run(2 * SECOND_US)
    assert held.state == "delivered"


def test_what_is_refused_has_none() -> None:
    """Row: send buffer full; invalid parameters."""
    world = World()
    alice, bob = world.add("alice", Config(send_buffer_bytes=4_096)), world.add("bob", starts=False)
    assert alice.send_with_receipt(bob, bytes(600_000)) == (Result.INVALID_PARAM, None)
    assert sent(alice, bob, bytes(3_000)).state == "pending"
    assert alice.send_with_receipt(bob, bytes(3_000)) == (Result.LIMIT_EXCEEDED, None)
    world.run(SECOND_US)


def test_receipts_are_bounded_and_none_is_dropped() -> None:
    """M4: a program that does not look at its events is told to wait, rather than losing some."""
    world, alice, bob = connected(Config(receipts_max=4))
    alice.endpoint.tell_receipts(tells=True)
    alice.polls = False
    receipts = [sent(alice, bob) for _ in range(4)]
    assert not alice.endpoint.has_room(bob.dialed)
    assert alice.send_with_receipt(bob, b"one more") == (Result.LIMIT_EXCEEDED, None)
    assert alice.send(bob, b"without one") == Result.OK
    world.run(SECOND_US)
    assert alice.endpoint.has_room(bob.dialed)
    assert alice.send_with_receipt(bob, b"one more") == (Result.LIMIT_EXCEEDED, None)
    alice.polls = True
    alice.drain()
    assert alice.told == receipts
    assert sent(alice, bob).state == "pending"


def test_without_a_listener_nothing_waits_to_be_told() -> None:
    """M4: receipts may also be looked at."""
    world, alice, bob = connected(Config(receipts_max=4))
    for _ in range(3):
        receipts = [sent(alice, bob) for _ in range(4)]
        world.run(SECOND_US)
        assert states(receipts) == ["delivered"] * 4
    alice.endpoint.tell_receipts(tells=True)
    assert not alice.told
    receipt = sent(alice, bob)
    alice.endpoint.tell_receipts(tells=False)
    world.run(SECOND_US)
    assert receipt.state == "delivered"
    assert not alice.told


def test_a_receipt_shows_what_it_is() -> None:
    """For those who print it."""
    world, alice, bob = connected()
    receipt = sent(alice, bob, channel=7)
    assert repr(receipt) == f"<Receipt pending, to {bob.dialed} on channel 7>"
    alice.close()
    assert repr(receipt).startswith("<Receipt unconfirmed, to ")
    assert repr(receipt).endswith("on channel 7: The program closed its endpoint>")
    world.run(SECOND_US)
