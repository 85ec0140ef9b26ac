"""Requests, accepting and closing: one test per row of that part of the semantics table, on direct UDP sessions.

The rows that are not here, with the work that builds it:

| row | built with |
| --- | --- |
| closing tells the peer: a closing signal, repeated until answered | signaling |
| silence: route-lost event, FindingRoute, the resume window of 60 s | routes |
| both send first at the same moment; an incoming attempt during a live session | `test_crossing.py`, `test_restart.py` |
"""

from __future__ import annotations

import pytest

from peergram.config import Config
from peergram.crypto.policy import Trust
from peergram.errors import End, EndReason, Result
from peergram.events import ConnectionState
from peergram.identity import Identity
from tests.endpoint.world import NO_NAGLE, RELIABLE, SECOND_US, UNRELIABLE, Host, World, connected, steady


def state_of(host: Host, who: Host | Identity) -> ConnectionState:
    info = host.info(who)
    return ConnectionState.NONE if info is None else info.state


def asked(config: Config | None = None, *, polls: bool = True) -> tuple[World, Host, Host]:
    """Alice asked Bob, who has not answered."""
    world = World()
    alice, bob = world.add("alice"), world.add("bob", config, accepts=False)
    bob.polls = polls
    alice.send(bob, b"let me in")
    world.run(100_000)
    return world, alice, bob


# --- requests ---


def test_a_request_says_who_how_proven_which_key_and_from_where() -> None:
    """Row: request callback; it carries identity, how it was proven, key fingerprint."""
    _, alice, bob = asked()
    (request,) = bob.requests
    assert request.identity == alice.identity
    assert request.proven_by == "nothing"
    info = bob.info(alice.identity)
    assert info is not None
    assert request.key_fingerprint == info.key_fingerprint
    assert request.key_fingerprint.startswith("SHA256:")
    assert request.address == "10.0.0.0:7000"


def test_an_identity_that_is_a_key_is_proven_by_it() -> None:
    """Row: request callback; how it was proven."""
    world = World()
    key, name = world.add(""), world.add("just a name")
    bob = world.add("bob", accepts=False, trust=Trust("key"))
    key.send(bob, b"hello")
    name.send(bob, b"hello")
    world.run(SECOND_US)
    assert [(request.identity, request.proven_by) for request in bob.requests] == [(key.identity, "key")]


def test_a_request_comes_once_per_attempt() -> None:
    """Row: request callback, however often he sends meanwhile."""
    world, alice, bob = asked()
    for number in range(20):
        alice.send(bob, b"%d" % number)
        world.run(300_000)
    assert len(bob.requests) == 1


def test_a_request_is_kept_until_somebody_asks() -> None:
    """Row: request callback, kept until a handler exists."""
    world, alice, bob = asked(polls=False)
    world.run(5 * SECOND_US)
    bob.polls = bob.accepts = True
    bob.drain()
    world.run_until(lambda: bob.received)
    assert bob.requests[0].identity == alice.identity


def test_a_request_is_kept_no_longer_than_the_attempt() -> None:
    """Row: request callback, kept until the attempt ends."""
    world, _, bob = asked(polls=False)
    world.run(30 * SECOND_US)
    bob.polls = True
    bob.drain()
    assert not bob.requests


def test_an_answered_request_is_not_reported_later() -> None:
    """Row: request callback; sending to him answered it already."""
    world, alice, bob = asked(polls=False)
    assert bob.send(alice.identity, b"come in") == Result.OK
    bob.polls = True
    bob.drain()
    assert not bob.requests
    world.run_until(lambda: alice.received)


def test_a_stranger_who_tries_again_is_announced_again() -> None:
    """Row: request callback; "again while he keeps trying"."""
    world, alice, bob = asked()
    world.run_until(lambda: alice.failures)
    alice.close_session(bob)
    alice.send(bob, b"please")
    world.run(SECOND_US)
    assert len(bob.requests) == 2


def test_a_stranger_who_retries_quickly_is_not_announced_each_time() -> None:
    """Row: request callback; repeats at most every few seconds per peer."""
    world, alice, bob = asked()
    for _ in range(20):
        alice.close_session(bob)
        alice.send(bob, b"please")
        world.run(100_000)
    assert len(bob.requests) <= 2


def test_a_second_attempt_soon_after_the_first_is_announced_as_well() -> None:
    """Row: request callback; a pause between two must not swallow one, for the application could never accept him."""
    world, alice, bob = asked()
    alice.close_session(bob)
    world.run(100_000)
    alice.send(bob, b"please")
    world.run(5 * SECOND_US)
    assert len(bob.requests) == 2


def test_a_stranger_who_starts_over_while_his_request_waits_can_be_let_in() -> None:
    """Row: accept; his newer request takes the place of the older one, under the same name."""
    world, alice, bob = asked()
    alice.kill()
    alice.start()
    alice.send(bob, b"let me in, again")
    world.run(100_000)
    assert bob.endpoint.known_peers == [alice.identity]
    assert bob.accept(alice.identity)
    world.run_until(lambda: bob.payloads() == [b"let me in, again"])


def test_an_ignored_request_times_out_on_the_other_side() -> None:
    """Row: ignoring a request."""
    world, alice, bob = asked()
    world.run(11 * SECOND_US)
    (failure,) = alice.failures
    assert failure.reason == EndReason.MISC_TIMEOUT
    assert failure.unconfirmed.messages == 1
    assert "accepts the session" in failure.debug
    assert state_of(bob, alice.identity) == ConnectionState.NONE
    assert not bob.failures, "a session we never answered is no failure of ours"


def test_nothing_of_an_ignored_stranger_is_left_after_the_idle_time() -> None:
    """Row: ignoring a request; memory is bounded."""
    world, _, bob = asked()
    world.run(200 * SECOND_US)
    assert bob.endpoint.known_peers == []
    assert not bob.links


def test_the_oldest_ignored_stranger_goes_first() -> None:
    """Row: ignoring a request; memory of ignored strangers is bounded and old ones go first."""
    world = World()
    bob = world.add("bob", Config(pending_requests_max=3), accepts=False)
    strangers = [world.add(f"stranger-{number}") for number in range(5)]
    for stranger in strangers:
        stranger.send(bob, b"hello")
        world.run(50_000)
    states = [state_of(bob, stranger.identity) for stranger in strangers]
    assert states == [ConnectionState.NONE] * 2 + [ConnectionState.CONNECTING] * 3
    assert bob.accept(strangers[4].identity)
    world.run_until(lambda: bob.received)


def test_answered_requests_do_not_count_as_waiting_ones() -> None:
    """Row: ignoring a request; what is bounded is the ignored ones."""
    world = World()
    bob = world.add("bob", Config(pending_requests_max=3), accepts=False)
    ignored = world.add("ignored")
    ignored.send(bob, b"hello")
    world.run(50_000)
    for number in range(6):
        friend = world.add(f"friend-{number}")
        friend.send(bob, b"hello")
        world.run(50_000)
        bob.accept(friend.identity)
    assert state_of(bob, ignored.identity) == ConnectionState.CONNECTING


# --- accepting ---


def test_there_is_nothing_to_accept_without_a_session() -> None:
    """Row: accept without any session."""
    world = World()
    alice = world.add("alice")
    assert not alice.accept(Identity.of("bob"))
    assert not alice.accept(Identity.ip(("10.0.0.9", 7_000)))


def test_accepting_a_live_session_is_true_for_ours_and_theirs() -> None:
    """Row: accept of a live session, ours or theirs."""
    world, alice, bob = connected()
    assert alice.accept(bob)
    assert bob.accept(alice.identity)
    carol = world.add("carol", starts=False)
    alice.send(carol, b"hello?")
    assert alice.accept(carol), "connecting counts"


def test_accepting_a_session_that_ended_is_false() -> None:
    """Row: accept without any session."""
    world, alice, bob = connected()
    alice.close_session(bob)
    world.run(SECOND_US)
    assert not alice.accept(bob)
    assert not bob.accept(alice.identity)


def test_sending_to_a_stranger_accepts_his_request() -> None:
    """Row: send to a user whose request is pending."""
    world, alice, bob = asked()
    assert bob.send(alice.identity, b"come in") == Result.OK
    world.run(SECOND_US)
    assert bob.payloads() == [b"let me in"]
    assert alice.payloads() == [b"come in"]


def test_accepting_late_brings_everything_that_waited() -> None:
    """Row: ignoring a request; the application may take up to 10 s."""
    world, alice, bob = asked()
    world.run(9 * SECOND_US)
    alice.send(bob, b"still here")
    assert bob.accept(alice.identity)
    world.run(SECOND_US)
    assert bob.payloads() == [b"let me in", b"still here"]
    assert not alice.failures


def test_accepting_too_late_is_false() -> None:
    """Row: accept without any session."""
    world, alice, bob = asked()
    world.run(11 * SECOND_US)
    assert not bob.accept(alice.identity)


# --- closing ---


def test_closing_without_a_session_is_false() -> None:
    """Row: close_session."""
    world = World()
    alice = world.add("alice")
    assert not alice.close_session(Identity.of("bob"))
    assert not alice.close_channel(Identity.of("bob"), 0)


def test_closing_ends_the_state_at_once_and_tells_the_peer_why() -> None:
    """Rows: close_session; closing tells the peer."""
    world, alice, bob = connected()
    assert alice.close_session(bob)
    assert alice.info(bob) is None
    assert not alice.close_session(bob)
    world.run(20_000)
    assert state_of(bob, alice.identity) == ConnectionState.NONE
    assert [link.connection.end for link in bob.links] == [End(EndReason.SESSION_CLOSED, "CloseSessionWithUser", by_peer=True)]
    assert not alice.failures
    assert not bob.failures


def test_closing_throws_away_what_is_unread() -> None:
    """Row: close_session."""
    world, alice, bob = connected()
    bob.reads = False
    for channel in (0, 5):
        alice.send(bob, b"unread", RELIABLE, channel)
    world.run(SECOND_US)
    assert bob.endpoint.unread_messages == 2
    bob.close_session(alice.identity)
    assert bob.endpoint.unread_messages == 0
    assert bob.read(0) == bob.read(5) == []


def test_closing_keeps_what_is_unread_of_others() -> None:
    """Row: close_session; only that peer's messages go."""
    world, alice, bob = connected()
    carol = world.add("carol")
    bob.reads = False
    alice.send(bob, b"from alice")
    carol.send(bob, b"from carol")
    world.run(SECOND_US)
    bob.close_session(alice.identity)
    assert [message.payload for message in bob.read()] == [b"from carol"]


def test_closing_lets_reliable_data_arrive_within_the_linger_time() -> None:
    """Row: close_session, flushed in the background."""
    world, alice, bob = connected(network=steady(20_000))
    for number in range(50):
        alice.send(bob, b"%02d" % number + bytes(2_000))
    alice.close_session(bob)
    assert alice.info(bob) is None
    world.run(SECOND_US)
    assert [payload[:2] for payload in bob.payloads()] == [b"%02d" % number for number in range(50)]
    assert not alice.failures
    assert state_of(bob, alice.identity) == ConnectionState.NONE


def test_without_linger_what_is_unsent_is_reported_at_once() -> None:
    """Row: close_session, linger 0."""
    world, alice, bob = connected(Config(linger_us=0))
    alice.send(bob, bytes(2_000))
    alice.close_session(bob)
    world.run(SECOND_US)
    (failure,) = alice.failures
    assert failure.unconfirmed.messages == 1
    assert failure.reason == EndReason.SESSION_CLOSED


def test_what_the_linger_time_did_not_suffice_for_is_reported() -> None:
    """Row: close_session; what is unconfirmed after the linger time is reported."""
    world, alice, bob = connected(Config(linger_us=300_000))
    world.cut.add(frozenset((alice, bob)))
    for _ in range(3):
        alice.send(bob, bytes(100))
    alice.close_session(bob)
    world.run(200_000)
    assert not alice.failures
    world.run(200_000)
    (failure,) = alice.failures
    assert failure.identity == bob.dialed
    assert failure.unconfirmed.messages == 3


def test_closing_a_session_that_opens_lets_its_messages_arrive() -> None:
    """Row: close_session; reliable data already handed to us is flushed in the background."""
    world = World()
    alice, bob = world.add("alice"), world.add("bob")
    alice.send(bob, b"last words")
    alice.close_session(bob)
    world.run(SECOND_US)
    assert bob.payloads() == [b"last words"]


def test_closing_a_session_that_opens_reports_what_was_lost() -> None:
    """Row: close_session; nothing is lost silently."""
    world = World()
    alice, bob = world.add("alice", Config(linger_us=0)), world.add("bob")
    alice.send(bob, b"last words")
    alice.close_session(bob)
    world.run(SECOND_US)
    assert alice.lost.messages == 1
    assert not bob.received


def test_an_endpoint_that_closes_ends_lingering_sessions_and_says_so() -> None:
    """Rows: close_session; closing tells the peer."""
    world, alice, bob = connected(network=steady(50_000))
    alice.send(bob, bytes(100_000))
    alice.close_session(bob)
    alice.close()
    world.run(SECOND_US)
    assert alice.lost.messages == 1
    assert state_of(bob, alice.identity) == ConnectionState.NONE, "it heard of the end"


def test_closing_declines_a_request_and_the_other_side_hears_it() -> None:
    """Row: close_session of a request that waits."""
    world, alice, bob = asked()
    assert bob.close_session(alice.identity)
    world.run(SECOND_US)
    (failure,) = alice.failures
    assert (failure.reason, failure.state) == (EndReason.SESSION_CLOSED, ConnectionState.CLOSED_BY_PEER)
    assert alice.send(bob, b"please") == Result.CONNECT_FAILED


def test_a_channel_is_open_once_used_in_either_direction() -> None:
    """Row: close_channel."""
    world, alice, bob = connected()
    alice.send(bob, b"x", RELIABLE, 4)
    world.run(SECOND_US)
    assert not alice.close_channel(bob, 5)
    assert alice.close_channel(bob, 4)
    assert not alice.close_channel(bob, 4)
    assert bob.close_channel(alice.identity, 4)
    assert state_of(alice, bob) == state_of(bob, alice.identity) == ConnectionState.CONNECTED


def test_a_closed_channel_throws_away_its_unread_messages_and_no_others() -> None:
    """Row: close_channel."""
    world, alice, bob = connected()
    bob.reads = False
    for channel in (1, 2, 1, 2):
        alice.send(bob, b"%d" % channel, RELIABLE, channel)
    world.run(SECOND_US)
    assert bob.close_channel(alice.identity, 1)
    assert bob.read(1) == []
    assert [message.payload for message in bob.read(2)] == [b"2", b"2"]


def test_a_closed_channel_opens_again_with_the_next_message() -> None:
    """Row: close_channel."""
    world, alice, bob = connected()
    alice.send(bob, b"one", RELIABLE, 3)
    world.run(SECOND_US)
    alice.close_channel(bob, 3)
    bob.close_channel(alice.identity, 3)
    alice.send(bob, b"two", RELIABLE, 3)
    world.run(SECOND_US)
    assert bob.payloads(3) == [b"one", b"two"]
    assert alice.close_channel(bob, 3)


def test_closing_the_last_channel_closes_the_session() -> None:
    """Row: close_channel."""
    world, alice, bob = connected()
    assert alice.close_channel(bob, 0)
    assert alice.info(bob) is None
    world.run(SECOND_US)
    assert state_of(bob, alice.identity) == ConnectionState.NONE


@pytest.mark.parametrize("lost", range(1, 4))
def test_a_close_is_repeated_until_it_is_heard(lost: int) -> None:
    """Row: closing tells the peer, repeated until answered."""
    world, alice, bob = connected()
    goodbyes = 0

    def network(sender: Host, receiver: Host, packet: bytes) -> list[int]:
        nonlocal goodbyes
        goodbyes += sender is alice
        return [] if sender is alice and goodbyes <= lost else [5_000]

    world.network = network
    alice.close_session(bob)
    world.run(2 * SECOND_US)
    assert state_of(bob, alice.identity) == ConnectionState.NONE


@pytest.mark.usefixtures("reference_rules")
def test_a_reference_peer_is_told_by_connection_closed() -> None:
    """Row: closing tells the peer; a reference peer honours ConnectionClosed."""
    world, alice, bob = connected()
    world.records = True
    alice.close_session(bob)
    assert [packet[0] for *_, packet in world.sent] == [36]
    world.run(SECOND_US)
    assert state_of(bob, alice.identity) == ConnectionState.NONE


def test_a_close_with_nothing_in_flight_is_silent_and_the_next_send_opens_again() -> None:
    """Row: peer closes, nothing in flight."""
    world, alice, bob = connected()
    bob.close_session(alice.identity)
    world.run(SECOND_US)
    assert not alice.failures
    assert state_of(alice, bob) == ConnectionState.NONE
    alice.send(bob, b"again")
    world.run(SECOND_US)
    assert len(bob.requests) == 1
    assert bob.payloads() == [b"again"]


# --- ends ---


@pytest.mark.parametrize("messages", [1, 7])
def test_a_dead_peer_with_data_in_flight_is_a_failure_with_counts(messages: int) -> None:
    """Rows: peer dies, reliable data in flight; failure callback."""
    world, alice, bob = connected()
    bob.kill()
    for _ in range(messages):
        alice.send(bob, b"x")
    alice.send(bob, b"not counted", UNRELIABLE)
    world.run(20 * SECOND_US)
    (failure,) = alice.failures
    assert failure.reason in (EndReason.MISC_TIMEOUT, EndReason.REMOTE_TIMEOUT)
    assert failure.state == ConnectionState.PROBLEM_DETECTED_LOCALLY
    assert failure.unconfirmed.messages == messages
    assert "check" in failure.debug, "a remedy"
    assert state_of(alice, bob) == ConnectionState.PROBLEM_DETECTED_LOCALLY
    info = alice.info(bob)
    assert info is not None
    assert (info.end_reason, info.identity, info.address) == (failure.reason, bob.identity, "10.0.0.1:7000")


def test_a_dead_peer_with_nothing_in_flight_is_not_reported() -> None:
    """Row: peer dies, nothing in flight."""
    world, alice, bob = connected()
    bob.kill()
    world.run(60 * SECOND_US)
    assert not alice.failures
    assert state_of(alice, bob) == ConnectionState.NONE
    assert alice.send(bob, b"again") == Result.OK


def test_a_failure_is_reported_once() -> None:
    """Row: failure callback, once per failed session."""
    world, alice, bob = connected()
    bob.kill()
    alice.send(bob, b"x")
    world.run(20 * SECOND_US)
    for _ in range(3):
        alice.send(bob, b"x")
        world.run(SECOND_US)
    alice.close_session(bob)
    world.run(300 * SECOND_US)
    assert len(alice.failures) == 1


def test_failures_are_kept_until_somebody_asks_and_add_up() -> None:
    """Row: callbacks, kept; promise 2."""
    world, alice, bob = connected()
    alice.polls = False
    for _ in range(2):
        bob.kill()
        alice.send(bob, b"x", RELIABLE | 32)
        world.run(20 * SECOND_US)
        bob.start()
    alice.polls = True
    alice.drain()
    (failure,) = alice.failures
    assert failure.unconfirmed.messages == 2


def test_a_session_ends_after_three_minutes_without_messages() -> None:
    """Row: idle time."""
    world, alice, bob = connected()
    world.run(179 * SECOND_US)
    assert state_of(alice, bob) == ConnectionState.CONNECTED
    world.run(2 * SECOND_US)
    assert alice.info(bob) is None
    world.run(2 * SECOND_US)
    assert state_of(bob, alice.identity) == ConnectionState.NONE
    assert not alice.failures
    assert not bob.failures


@pytest.mark.parametrize("sender", ["alice", "bob"])
def test_a_message_either_way_keeps_the_session(sender: str) -> None:
    """Row: idle time; a stream in one direction is enough."""
    world, alice, bob = connected()
    for number in range(10):
        world.run(100 * SECOND_US)
        if sender == "alice":
            alice.send(bob, b"%d" % number, UNRELIABLE)
        else:
            bob.send(alice.identity, b"%d" % number, UNRELIABLE)
    world.run(SECOND_US)
    assert state_of(alice, bob) == state_of(bob, alice.identity) == ConnectionState.CONNECTED
    assert len((bob if sender == "alice" else alice).received) == 10


def test_the_idle_time_can_be_set_and_ends_with_1002() -> None:
    """Row: idle time; configurable; 1002."""
    world = World()
    alice, bob = world.add("alice", Config(session_idle_us=5 * SECOND_US)), world.add("bob")
    alice.send(bob, b"hello")
    world.run(7 * SECOND_US)
    assert alice.info(bob) is None
    assert [link.connection.end for link in bob.links] == [End(EndReason.SESSION_IDLE, "Session Idle Timeout", by_peer=True)]


def test_an_idle_end_does_not_cut_off_what_is_under_way() -> None:
    """Row: idle time; unacknowledged data of ours goes first."""
    world = World()
    alice = world.add("alice", Config(session_idle_us=2 * SECOND_US, timeout_connected_us=60 * SECOND_US))
    bob = world.add("bob", Config(timeout_connected_us=60 * SECOND_US))
    alice.send(bob, b"hello")
    world.run(SECOND_US)
    world.cut.add(frozenset((alice, bob)))
    alice.send(bob, b"takes its time", RELIABLE | NO_NAGLE)
    world.run(8 * SECOND_US)
    world.cut.clear()
    world.run(8 * SECOND_US)
    assert bob.payloads() == [b"hello", b"takes its time"]
    assert not alice.failures


def test_a_stranger_who_claims_to_be_an_address_elsewhere_gets_nothing_meant_for_it() -> None:
    world = World()
    bob = world.add("bob", accepts=False)
    server = Identity.of("ip:10.9.9.9:100")
    bob.send(server, b"secret")
    thief = world.add("ip:10.9.9.9:100")
    thief.send(Identity.ip(bob.address), b"it is me")
    world.run(SECOND_US)
    bob.send(server, b"another secret")
    world.run(SECOND_US)
    assert not bob.requests
    assert not bob.failures
    assert not thief.received
    info = bob.info(server)
    assert info is not None
    assert info.address == "10.9.9.9:100"
