"""What each call does, over real loopback sockets: the rows of docs/semantics.md that virtual time shows first.

The figures of the rows (ten seconds, three minutes) are made small by the configuration, never waited for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from peergram import Config, ConnectionState, EndReason, InfoFlags, Message, Messages, Result, SendFlags, SessionFailed
from peergram.drivers.signaling.in_process import InProcessHub, InProcessSignaling

RELIABLE = SendFlags.RELIABLE
UNRELIABLE = SendFlags.UNRELIABLE
Start = Callable[..., Messages]


@pytest.fixture
def start() -> Iterator[Start]:
    """Makes `Messages` that are closed after the test."""
    with ExitStack() as stack:
        yield lambda *args, **options: stack.enter_context(Messages(*args, signaling=None, **options))


class Talk:
    """Alice, who dials, and Bob, who accepts unless told otherwise."""

    def __init__(self, start: Start, config: Config | None = None, *, accepts: bool = True) -> None:
        self.bob = start("bob", listen=("127.0.0.1", 0), config=config)
        self.alice = start("alice", config=config)
        self.port = self.bob.local_addresses[0][1]
        self.to_bob = f"ip:127.0.0.1:{self.port}"
        self.requests: list[str] = []
        self.failures: list[SessionFailed] = []
        self.at_bob: list[Message] = []
        self.accepts = accepts
        self.reads = True
        self.bob.on_session_request = lambda request: self._ask(request.identity.text)
        self.alice.on_session_failed = self.failures.append

    def _ask(self, identity: str) -> None:
        self.requests.append(identity)
        if self.accepts:
            self.bob.accept_session_with_user(identity)

    def connect(self) -> Talk:
        _, receipt = self.alice.send_with_receipt(self.to_bob, b"hello")
        assert receipt is not None
        self.until(lambda: self.at_bob and receipt.state == "delivered")
        self.at_bob.clear()
        return self

    def run(self) -> None:
        self.bob.run_callbacks()
        self.alice.run_callbacks()
        for channel in (0, -1, 7) if self.reads else ():
            self.at_bob += self.bob.receive_messages_on_channel(channel, 100)

    def until(self, condition: Callable[[], object], timeout_s: float = 5.0) -> None:
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline_s, "did not happen in time"
            self.run()
            time.sleep(0.001)

    def state(self) -> ConnectionState:
        return self.alice.get_session_connection_info(self.to_bob).state


def test_the_first_send_to_a_stranger_connects(start: Start) -> None:
    """Row: first send to a stranger; messages sent before Connected keep their kind."""
    talk = Talk(start)
    assert talk.alice.send_message_to_user(talk.to_bob, b"reliable", RELIABLE) == Result.OK
    assert talk.alice.send_message_to_user(talk.to_bob, b"not", UNRELIABLE) == Result.OK
    assert talk.state() == ConnectionState.CONNECTING
    assert talk.alice.send_message_to_user(talk.to_bob, b"now", SendFlags.UNRELIABLE_NO_DELAY) == Result.IGNORED
    talk.until(lambda: len(talk.at_bob) == 2)
    assert {message.payload: message.reliable for message in talk.at_bob} == {b"reliable": True, b"not": False}
    assert talk.state() == ConnectionState.CONNECTED


def test_parameters_that_are_refused(start: Start) -> None:
    """Row: more than 524288 bytes; Reliable + NoDelay; 524284 bytes while the peer's kind is unknown."""
    talk = Talk(start)
    assert talk.alice.send_message_to_user(talk.to_bob, bytes(524_289), RELIABLE) == Result.INVALID_PARAM
    assert talk.alice.send_message_to_user(talk.to_bob, b"x", RELIABLE | SendFlags.NO_DELAY) == Result.INVALID_PARAM
    assert talk.alice.send_message_to_user(talk.to_bob, bytes(524_284), RELIABLE) == Result.LIMIT_EXCEEDED
    assert talk.state() == ConnectionState.NONE


def test_the_largest_message_an_empty_one_and_a_negative_channel(start: Start) -> None:
    """Row: 524284 to 524288 bytes; empty message, negative channel."""
    talk = Talk(start).connect()
    assert talk.alice.send_message_to_user(talk.to_bob, bytes(524_288), RELIABLE, 7) == Result.OK
    talk.until(lambda: [message.size for message in talk.at_bob] == [524_288])
    assert talk.alice.send_message_to_user(talk.to_bob, b"", RELIABLE, -1) == Result.OK
    talk.until(lambda: len(talk.at_bob) == 2)
    assert (talk.at_bob[1].payload, talk.at_bob[1].channel) == (b"", -1)


def test_a_large_unreliable_message_arrives_reliably(start: Start) -> None:
    """Row: large unreliable."""
    talk = Talk(start).connect()
    talk.alice.send_message_to_user(talk.to_bob, bytes(20_000), UNRELIABLE)
    talk.until(lambda: talk.at_bob)
    assert talk.at_bob[0].reliable


def test_a_full_send_buffer_and_a_long_queue(start: Start) -> None:
    """Row: send buffer full; NoDelay while more than 200 ms is queued."""
    talk = Talk(start, Config(rate="fixed", send_rate_bytes=10_000, send_buffer_bytes=20_000)).connect()
    results = [talk.alice.send_message_to_user(talk.to_bob, bytes(4_000), RELIABLE) for _ in range(12)]
    assert results[0] == Result.OK
    assert results[-1] == Result.LIMIT_EXCEEDED
    assert talk.alice.send_message_to_user(talk.to_bob, b"now", SendFlags.UNRELIABLE_NO_DELAY) == Result.IGNORED
    status = talk.alice.get_session_connection_info(talk.to_bob).status
    assert status is not None
    assert status.queue_time_us is not None
    assert status.queue_time_us > 200_000
    assert status.pending_reliable_bytes > 0


def test_after_the_peers_close_the_next_send_opens_a_new_session(start: Start) -> None:
    """Row: send to a session whose peer closed it; peer closes, nothing in flight; closing tells the peer."""
    talk = Talk(start).connect()
    assert talk.bob.close_session_with_user("alice")
    talk.until(lambda: talk.state() == ConnectionState.NONE)
    assert not talk.failures
    assert talk.alice.send_message_to_user(talk.to_bob, b"again", RELIABLE) == Result.OK
    talk.until(lambda: talk.at_bob)
    assert talk.requests == ["str:alice", "str:alice"]


def test_a_session_that_failed_refuses_until_it_is_restarted_or_closed(start: Start) -> None:
    """Row: send to a session that failed by time-out; AutoRestart; an ignored request; failure callback; info after the end."""
    talk = Talk(start, Config(timeout_initial_us=200_000), accepts=False)
    talk.alice.send_message_to_user(talk.to_bob, b"one", RELIABLE)
    talk.until(lambda: talk.failures)
    (failure,) = talk.failures
    assert (failure.reason, failure.unconfirmed.messages) == (EndReason.MISC_TIMEOUT, 1)
    assert "accepts the session" in failure.debug
    info = talk.alice.get_session_connection_info(talk.to_bob)
    assert info.connection is not None
    assert (info.state, info.connection.end_reason) == (ConnectionState.PROBLEM_DETECTED_LOCALLY, EndReason.MISC_TIMEOUT)
    assert talk.alice.send_message_to_user(talk.to_bob, b"two", RELIABLE) == Result.CONNECT_FAILED
    flags = RELIABLE | SendFlags.AUTO_RESTART_BROKEN_SESSION
    assert talk.alice.send_message_to_user(talk.to_bob, b"three", flags) == Result.OK
    # He was announced a moment ago, and is not announced again so soon.
    talk.until(lambda: talk.bob.accept_session_with_user("alice") and talk.at_bob)
    assert [message.payload for message in talk.at_bob] == [b"three"]


def test_accepting(start: Start) -> None:
    """Row: accept without any session; accept of a live session; send to a user whose request is pending."""
    talk = Talk(start, accepts=False)
    assert not talk.bob.accept_session_with_user("alice")
    talk.alice.send_message_to_user(talk.to_bob, b"hello", RELIABLE)
    talk.until(lambda: talk.requests)
    assert talk.bob.send_message_to_user("alice", b"come in", RELIABLE) == Result.OK
    talk.until(lambda: talk.at_bob)
    assert talk.bob.accept_session_with_user("alice")
    assert talk.alice.accept_session_with_user(talk.to_bob)
    assert talk.requests == ["str:alice"]


def test_closing_throws_away_what_is_unread_and_flushes_what_was_sent(start: Start) -> None:
    """Row: close_session; close_channel."""
    talk = Talk(start).connect()
    talk.reads = False
    for channel in (0, 7):
        talk.alice.send_message_to_user(talk.to_bob, b"unread", RELIABLE, channel)
    talk.until(lambda: talk.bob.wait(0))
    talk.alice.send_message_to_user(talk.to_bob, bytes(100_000), RELIABLE, -1)
    assert talk.alice.close_session_with_user(talk.to_bob)
    assert talk.state() == ConnectionState.NONE
    assert not talk.alice.close_session_with_user(talk.to_bob)
    large: list[Message] = []

    def came() -> bool:
        large.extend(talk.bob.receive_messages_on_channel(-1, 1))
        return bool(large)

    talk.until(came)
    assert talk.bob.receive_messages_on_channel(0, 1)[0].payload == b"unread"
    talk.bob.close_session_with_user("alice")
    assert talk.bob.receive_messages_on_channel(7, 1) == []


def test_a_dead_peer_is_noticed_and_what_was_under_way_is_counted(start: Start) -> None:
    """Row: silence; peer dies, reliable data in flight."""
    talk = Talk(start, Config(timeout_connected_us=300_000, linger_us=0)).connect()
    with talk.bob._driver.lock:
        for _ in range(3):
            talk.alice.send_message_to_user(talk.to_bob, b"lost", RELIABLE)
        deadline_s = time.monotonic() + 10
        while not talk.failures and time.monotonic() < deadline_s:
            talk.alice.run_callbacks()
            time.sleep(0.005)
    assert [failure.unconfirmed.messages for failure in talk.failures] == [3]
    assert talk.failures[0].reason == EndReason.MISC_TIMEOUT


def test_an_idle_session_ends_without_a_word(start: Start) -> None:
    """Row: idle time."""
    talk = Talk(start, Config(session_idle_us=1_000_000)).connect()
    talk.until(lambda: talk.state() == ConnectionState.NONE)
    assert not talk.failures


def test_reliable_messages_that_nobody_reads_wait_at_the_sender(start: Start) -> None:
    """Row: unread messages of an accepted peer; order; fields."""
    talk = Talk(start, Config(recv_buffer_messages=10)).connect()
    talk.reads = False
    for number in range(50):
        talk.alice.send_message_to_user(talk.to_bob, b"%d" % number, RELIABLE)
    talk.until(lambda: talk.bob.wait(0))
    talk.reads = True
    talk.until(lambda: len(talk.at_bob) == 50)
    assert [message.payload for message in talk.at_bob] == [b"%d" % number for number in range(50)]
    first = talk.at_bob[0]
    assert (first.identity.text, first.channel, first.flags, first.size) == ("str:alice", 0, RELIABLE, 1)
    assert talk.state() == ConnectionState.CONNECTED


def test_what_is_known_of_a_session(start: Start) -> None:
    """Row: no session; values while unknown; flags; rates."""
    talk = Talk(start, accepts=False)
    nothing = talk.alice.get_session_connection_info("str:nobody")
    assert (nothing.state, nothing.connection, nothing.status) == (ConnectionState.NONE, None, None)
    talk.alice.send_message_to_user(talk.to_bob, b"hello", RELIABLE)
    unknown = talk.alice.get_session_connection_info(talk.to_bob)
    assert unknown.status is not None
    assert (unknown.status.ping_ms, unknown.status.quality_local, unknown.status.queue_time_us) == (None, None, None)
    assert unknown.connection is not None
    assert unknown.connection.flags == InfoFlags.UNAUTHENTICATED | InfoFlags.UNENCRYPTED
    talk.until(lambda: talk.requests)
    talk.bob.accept_session_with_user("alice")
    talk.until(lambda: talk.at_bob)
    known = talk.alice.get_session_connection_info(talk.to_bob)
    assert known.connection is not None
    assert known.status is not None
    assert InfoFlags.FAST in known.connection.flags
    assert InfoFlags.UNENCRYPTED not in known.connection.flags
    assert known.status.ping_ms is not None


def test_a_dead_peer_to_whom_nothing_was_under_way_is_not_reported(start: Start) -> None:
    """Row: peer dies, nothing in flight."""
    talk = Talk(start, Config(timeout_connected_us=300_000)).connect()
    with talk.bob._driver.lock:
        # So that it is noticed before the next keep-alive; a ping is nothing that could be lost.
        talk.alice.ping_user(talk.to_bob)
        deadline_s = time.monotonic() + 15
        while talk.state() == ConnectionState.CONNECTED and time.monotonic() < deadline_s:
            talk.alice.run_callbacks()
            time.sleep(0.005)
    assert talk.state() == ConnectionState.NONE
    assert not talk.failures


def test_who_is_silent_for_a_while_gets_everything_once_he_is_back(start: Start) -> None:
    """Row: silence, between peers by identity: the route is lost, looked for, and found; nothing is lost and nobody told."""
    hub = InProcessHub()
    config = Config(timeout_connected_us=300_000, resume_window_us=60_000_000)
    failures: list[SessionFailed] = []
    with (
        Messages("alice", signaling=InProcessSignaling(hub), config=config, state=False) as alice,
        Messages("bob", signaling=InProcessSignaling(hub), config=config, state=False) as bob,
    ):
        bob.on_session_request = lambda request: bob.accept_session_with_user(request.identity)
        alice.on_session_failed = bob.on_session_failed = failures.append
        alice.send_message_to_user("str:bob", b"hello", RELIABLE)
        read: list[bytes] = []

        def run_until(condition: Callable[[], object]) -> None:
            deadline_s = time.monotonic() + 20
            while not condition():
                assert time.monotonic() < deadline_s, "did not happen in time"
                alice.run_callbacks()
                time.sleep(0.005)

        def read_at_bob(count: int) -> bool:
            bob.run_callbacks()
            read.extend(message.payload for message in bob.receive_messages_on_channel(0, 100))
            return len(read) >= count

        run_until(lambda: read_at_bob(1))
        with bob._driver.lock:
            for number in range(3):
                alice.send_message_to_user("str:bob", b"%d" % number, RELIABLE)
            run_until(lambda: _state(alice, "str:bob") == ConnectionState.FINDING_ROUTE)
            alice.send_message_to_user("str:bob", b"3", RELIABLE)
        run_until(lambda: read_at_bob(5))
        run_until(lambda: _state(alice, "str:bob") == ConnectionState.CONNECTED)
    assert read == [b"hello", b"0", b"1", b"2", b"3"]
    assert not failures


def _state(net: Messages, user: str) -> ConnectionState:
    return net.get_session_connection_info(user).state


def test_a_close_by_the_peer_is_reported_with_what_it_cost(start: Start) -> None:
    """Row: loss report. Bob has room for little, reads nothing, and closes: what he had not taken is counted, and told why."""
    talk = Talk(start, Config(recv_buffer_bytes=20_000, recv_message_bytes_max=20_000, linger_us=0)).connect()
    talk.reads = False
    tickets = [talk.alice.send_with_receipt(talk.to_bob, bytes(15_000))[1] for _ in range(20)]
    talk.until(lambda: talk.bob.wait(0))
    talk.bob.close_session_with_user("str:alice")
    talk.until(lambda: talk.failures)
    [failure] = talk.failures
    lost = [ticket for ticket in tickets if ticket is not None and ticket.state == "unconfirmed"]
    assert 0 < failure.unconfirmed.messages == len(lost) <= 20
    assert failure.unconfirmed.bytes == 15_000 * len(lost)
    assert failure.reason == EndReason.SESSION_CLOSED
    assert failure.debug
    assert all(ticket.debug for ticket in lost)
    talk.reads = True
    assert talk.alice.send_message_to_user(talk.to_bob, b"once more", RELIABLE) == Result.OK
    talk.until(lambda: any(message.payload == b"once more" for message in talk.at_bob))
