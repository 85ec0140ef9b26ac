"""The counts in `session_failed`: exactly the reliable messages that were accepted and whose arrival nobody confirmed.

Each ending is met with some messages confirmed, some under way and some still queued.
"""

from __future__ import annotations

from random import Random

import pytest

from peergram.config import Config
from peergram.endpoint.event_queue import EventQueue
from peergram.errors import EndReason, Result
from peergram.events import ConnectionState, SessionFailed, Unconfirmed
from peergram.identity import Identity
from tests.endpoint.world import NO_NAGLE, RELIABLE, SECOND_US, UNRELIABLE, Host, World, connected, rough, steady

HEADER = "Unconfirmed.bytes counts the five header bytes of each message too (messages_unacked and _held hold framed data)"


def send_numbers(alice: Host, to: Host | Identity, count: int, size: int = 100) -> int:
    """How many of them were accepted."""
    return sum(alice.send(to, b"%06d" % number + bytes(size - 6)) == Result.OK for number in range(count))


def test_a_peer_that_was_killed() -> None:
    """Promise 2: what was confirmed before does not count, what was not does."""
    world, alice, bob = connected(network=steady(20_000))
    send_numbers(alice, bob, 5)
    world.run(SECOND_US)
    assert len(bob.received) == 5
    bob.kill()
    send_numbers(alice, bob, 7)
    world.run(30 * SECOND_US)
    assert [failure.unconfirmed.messages for failure in alice.failures] == [7]


def test_bytes_are_those_of_the_application() -> None:
    """Promise 2: messages and bytes as they were handed in."""
    world, alice, bob = connected()
    bob.kill()
    send_numbers(alice, bob, 7, size=100)
    world.run(30 * SECOND_US)
    assert alice.lost == Unconfirmed(7, 700)


def test_bytes_of_messages_that_waited_for_a_connection_are_those_of_the_application() -> None:
    """Promise 2, never connected."""
    world = World()
    alice, bob = world.add("alice"), world.add("bob", starts=False)
    send_numbers(alice, bob, 3, size=50)
    world.run(11 * SECOND_US)
    assert alice.lost == Unconfirmed(3, 150)


def test_a_dial_that_timed_out() -> None:
    """Promise 2: nothing of what waited for the connection arrived."""
    world = World()
    alice, bob = world.add("alice"), world.add("bob", starts=False)
    send_numbers(alice, bob, 3)
    alice.send(bob, b"not counted", UNRELIABLE)
    world.run(11 * SECOND_US)
    assert alice.lost.messages == 3


def test_large_unreliable_messages_count_before_they_are_connected_as_they_do_later() -> None:
    """Row: large unreliable messages become reliable."""
    world, alice, bob = connected()
    bob.kill()
    alice.send(bob, bytes(100_000), UNRELIABLE)
    world.run(30 * SECOND_US)
    assert alice.lost.messages == 1
    carol = world.add("carol", starts=False)
    alice.send(carol, bytes(100_000), UNRELIABLE)
    world.run(30 * SECOND_US)
    assert alice.lost.messages == 2


@pytest.mark.parametrize("seed", range(30))
def test_our_own_close(seed: int) -> None:
    """Promise 2: delivered and unconfirmed together are what was accepted; a report never names too few."""
    rng = Random(seed)
    config = Config(linger_us=rng.choice((0, 50_000, 500_000)))
    world, alice, bob = connected(config, rough(rng, loss=0.2, delay_us=(5_000, 40_000)), seed=seed)
    accepted = send_numbers(alice, bob, 40, size=rng.choice((10, 500, 3_000)))
    world.run(rng.randrange(200_000))
    alice.close_session(bob)
    world.run(10 * SECOND_US)
    delivered = len(bob.received)
    assert bob.payloads() == sorted(bob.payloads())
    assert accepted - alice.lost.messages <= delivered <= accepted


def closed_by_the_peer(seed: int, *, delay_us: tuple[int, int]) -> tuple[int, int]:
    """(messages that did not arrive, messages reported as unconfirmed) when the receiver closes in the middle."""
    rng = Random(seed)
    world, alice, bob = connected(Config(linger_us=0), rough(rng, loss=0.1, delay_us=delay_us), seed=seed)
    accepted = send_numbers(alice, bob, 40, size=rng.choice((10, 500, 3_000)))
    world.run(rng.randrange(200_000))
    missing = accepted - len(bob.received)
    bob.close_session(alice.identity)
    world.run(10 * SECOND_US)
    assert len(bob.received) == accepted - missing
    return missing, alice.lost.messages


@pytest.mark.parametrize("seed", range(30))
def test_the_peers_close_is_exact(seed: int) -> None:
    """Row: an own peer's close says what it had taken, so that the count is exact."""
    missing, reported = closed_by_the_peer(seed, delay_us=(20_000, 20_000))
    assert reported == missing


@pytest.mark.parametrize("seed", range(30))
def test_the_peers_close_never_reports_too_few(seed: int) -> None:
    """Promise 2, where packets overtake each other."""
    missing, reported = closed_by_the_peer(seed, delay_us=(5_000, 40_000))
    assert reported >= missing


def test_the_peers_close_is_exact_where_packets_overtake_each_other() -> None:
    """Row: an own peer's close says what it had taken, so that the count is exact."""
    for seed in range(30):
        missing, reported = closed_by_the_peer(seed, delay_us=(5_000, 40_000))
        assert reported == missing


LINGER = "_take_reliable acknowledges what it throws away while it lingers (accepts_reliable), so the sender hears of no loss"


def test_what_a_lingering_peer_throws_away_is_unconfirmed() -> None:
    """Promise 2: whoever closed takes no more data, and must not say that it did."""
    world, alice, bob = connected(network=steady(50_000))
    alice.send(bob, bytes(200_000))
    alice.close_session(bob)
    bob.send(alice.identity, b"too late", RELIABLE | NO_NAGLE)
    world.run(5 * SECOND_US)
    assert not alice.received
    assert bob.lost.messages == 1


def test_both_close_at_once() -> None:
    """Promise 2: neither side claims what the other did not get."""
    for seed in range(30):
        rng = Random(seed)
        config = Config(linger_us=rng.choice((0, 500_000)))
        world, alice, bob = connected(config, rough(rng, loss=0.1, delay_us=(5_000, 40_000)), seed=seed)
        for number in range(20):
            alice.send(bob, b"%06d" % number)
            bob.send(alice.identity, b"%06d" % number)
        world.run(rng.randrange(60_000))
        alice.close_session(bob)
        world.run(rng.randrange(30_000))
        bob.close_session(alice.identity)
        world.run(10 * SECOND_US)
        assert 20 - alice.lost.messages <= len(bob.received) <= 20
        assert 20 - bob.lost.messages <= len(alice.received) <= 20


def test_a_protocol_violation_ends_the_session_on_both_sides() -> None:
    """Row: failure callback; the side that saw it says 5002, the other hears it with its own count."""
    world = World(steady(20_000))
    alice, bob = world.add("alice"), world.add("bob", Config(recv_message_bytes_max=64))
    send_numbers(alice, bob, 3, size=20)
    world.run(SECOND_US)
    bob.send(alice.identity, b"crosses it")
    send_numbers(alice, bob, 2, size=1_000)
    world.run(SECOND_US)
    assert len(bob.received) == 3
    (seen,) = bob.failures
    assert (seen.reason, seen.state) == (EndReason.MISC_INTERNAL_ERROR, ConnectionState.PROBLEM_DETECTED_LOCALLY)
    (heard,) = alice.failures
    assert (heard.reason, heard.state) == (EndReason.MISC_INTERNAL_ERROR, ConnectionState.CLOSED_BY_PEER)
    assert heard.unconfirmed.messages == 2
    assert alice.send(bob, b"next") == Result.OK
    assert bob.send(alice.identity, b"next") == Result.CONNECT_FAILED


def test_a_large_message_that_arrived_in_part_counts_as_one() -> None:
    """Promise 2: a message is confirmed when all of it is."""
    world, alice, bob = connected(Config(rate="fixed", send_rate_bytes=100_000))
    alice.send(bob, b"first" + bytes(95))
    alice.send(bob, bytes(400_000))
    alice.send(bob, b"last" + bytes(96))
    world.run(SECOND_US)
    bob.kill()
    world.run(30 * SECOND_US)
    assert alice.lost.messages == 2


def test_silence_after_everything_was_confirmed_reports_nothing() -> None:
    """Row: peer dies, nothing in flight."""
    world, alice, bob = connected()
    send_numbers(alice, bob, 5)
    world.run(SECOND_US)
    bob.kill()
    world.run(40 * SECOND_US)
    assert not alice.failures


def test_the_end_of_an_endpoint_reports_what_is_open() -> None:
    """Promise 2: the program ends, and can still ask what was lost."""
    world, alice, bob = connected()
    carol = world.add("carol", starts=False)
    world.cut.add(frozenset((alice, bob)))
    send_numbers(alice, bob, 4)
    send_numbers(alice, carol, 2)
    alice.close()
    assert {failure.identity: failure.unconfirmed.messages for failure in alice.failures} == {bob.dialed: 4, carol.dialed: 2}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["closed first", "failed first"])
def test_a_report_after_closing_and_a_failure_told_as_one_remain_a_failure(order: tuple[int, int]) -> None:
    """Nobody looked in between: the losses are added up, and the failure is not hidden."""
    peer = Identity.of("bob")
    reports = (
        SessionFailed(peer, EndReason.SESSION_CLOSED, ConnectionState.NONE, "closed", Unconfirmed(2, 20)),
        SessionFailed(peer, EndReason.MISC_TIMEOUT, ConnectionState.PROBLEM_DETECTED_LOCALLY, "timed out", Unconfirmed(1, 5)),
    )
    events = EventQueue()
    for at in order:
        events.tell(reports[at])
    expected = SessionFailed(
        peer, EndReason.MISC_TIMEOUT, ConnectionState.PROBLEM_DETECTED_LOCALLY, "timed out", Unconfirmed(3, 25)
    )
    assert events.poll() == expected


def test_a_restart_of_the_peer_is_reported_once_with_cause_and_counts_and_the_session_in_its_place_goes_on() -> None:
    """Row: loss report. It is no end: the next send needs no restart, and uses the session that replaced the old one."""
    world, alice, bob = connected()
    alice.kill()
    assert send_numbers(bob, alice.identity, 3, size=100) == 3
    world.run(200_000)
    alice.start()
    alice.send(bob, b"I am back")
    world.run(2 * SECOND_US)
    [failure] = bob.failures
    assert failure.identity == alice.identity
    assert failure.unconfirmed == Unconfirmed(3, 300)
    assert failure.reason == EndReason.MISC_GENERIC
    assert "opened a new session" in failure.debug
    alice.received.clear()
    assert bob.send(alice.identity, b"welcome") == Result.OK
    world.run(SECOND_US)
    assert alice.payloads() == [b"welcome"]
    assert len(bob.failures) == 1
