"""What a send does: one test per row of the semantics table, part "Sending", on direct UDP sessions.

The rows that are not here, with the work that builds it:

| row | built with |
| --- | --- |
| large unreliable messages: the receipt says so | receipts (`on_delivered`) |
| the asyncio dress waits when the send buffer is full | `aio` |
| send from several threads at once | `tests/test_messages.py`, over real sockets |
"""

from __future__ import annotations

import contextlib

import pytest

from peergram.config import BURST_PACKETS, Config
from peergram.errors import EndReason, Result, UsageError
from peergram.events import ConnectionState, InfoFlags, SendFlags
from peergram.identity import INVALID, Identity
from peergram.io_requests import OpenSocket
from tests.endpoint.world import (
    AUTO_RESTART,
    NO_DELAY,
    NO_NAGLE,
    RELIABLE,
    SECOND_US,
    UNRELIABLE,
    Host,
    World,
    connected,
    steady,
)

NOWHERE = Identity.ip(("10.9.9.9", 7_000))


def test_the_first_send_to_a_stranger_opens_a_session() -> None:
    """Row: first send to a stranger."""
    world = World()
    alice, bob = world.add("alice"), world.add("bob")
    assert alice.send(bob, b"hello") == Result.OK
    info = alice.info(bob)
    assert info is not None
    assert info.state == ConnectionState.CONNECTING
    world.run_until(lambda: bob.received)
    assert bob.payloads() == [b"hello"]


def test_too_large_a_message_is_refused_and_makes_no_session() -> None:
    """Row: invalid identity, or more than 524288 bytes."""
    world = World()
    alice, bob = world.add("alice"), world.add("bob")
    assert alice.send(bob, bytes(524_289)) == Result.INVALID_PARAM
    assert alice.info(bob) is None
    world.run(SECOND_US)
    assert not bob.requests


def test_an_invalid_identity_is_refused_and_makes_no_session() -> None:
    """Row: invalid identity, or more than 524288 bytes."""
    world = World()
    alice = world.add("alice")
    assert alice.send(INVALID, b"x") == Result.INVALID_PARAM
    assert alice.endpoint.known_peers == []


def test_an_identity_that_nobody_can_dial_fails_and_makes_no_session() -> None:
    """Row: first send to a stranger; without signaling there is no way to a name."""
    world = World()
    alice = world.add("alice")
    for who in (Identity.of("bob"), Identity.ip(("10.0.0.9", 0))):
        assert alice.send(who, b"x") == Result.FAIL
        assert alice.info(who) is None


def test_too_large_a_message_does_not_let_a_stranger_in() -> None:
    """Row: invalid identity, or more than 524288 bytes."""
    world = World()
    alice, bob = world.add("alice"), world.add("bob", accepts=False)
    alice.send(bob, b"let me in")
    world.run_until(lambda: bob.requests)
    assert bob.send(alice.identity, bytes(524_289)) == Result.INVALID_PARAM
    info = bob.info(alice.identity)
    assert info is not None
    assert info.state == ConnectionState.CONNECTING, "his request still waits"


@pytest.mark.parametrize("size", [524_284, 524_288])
@pytest.mark.parametrize("flags", [RELIABLE, UNRELIABLE])
def test_the_largest_messages_pass_between_own_peers(size: int, flags: int) -> None:
    """Row: 524284 to 524288 bytes, own peers."""
    world, alice, bob = connected()
    message = bytes(range(256)) * 2_048
    assert alice.send(bob, message[:size], flags) == Result.OK
    world.run_until(lambda: bob.received)
    assert bob.payloads() == [message[:size]]


def test_the_largest_messages_are_refused_while_the_peers_kind_is_unknown() -> None:
    """Row: 524284 to 524288 bytes, kind unknown."""
    world = World()
    alice, bob = world.add("alice"), world.add("bob")
    assert alice.send(bob, bytes(524_284)) == Result.LIMIT_EXCEEDED
    assert alice.send(bob, bytes(524_283)) == Result.OK
    world.run_until(lambda: bob.received)
    assert alice.send(bob, bytes(524_288)) == Result.OK


@pytest.mark.usefixtures("reference_rules")
def test_the_largest_messages_are_refused_toward_a_reference_peer() -> None:
    """Row: 524284 to 524288 bytes, to a reference peer: never a dead session."""
    world, alice, bob = connected()
    info = alice.info(bob)
    assert info is not None
    assert not info.own_peer
    assert alice.send(bob, bytes(524_284)) == Result.LIMIT_EXCEEDED
    assert alice.send(bob, bytes(524_283)) == Result.OK
    world.run_until(lambda: bob.received)
    assert not alice.failures


@pytest.mark.parametrize("channel", [0, -1, -(1 << 31), (1 << 31) - 1])
@pytest.mark.parametrize("flags", [RELIABLE, UNRELIABLE])
def test_empty_messages_and_negative_channels_pass(channel: int, flags: int) -> None:
    """Row: empty message; negative channel."""
    world, alice, bob = connected()
    assert alice.send(bob, b"", flags, channel) == Result.OK
    world.run_until(lambda: bob.received)
    assert [(message.payload, message.channel) for message in bob.received] == [(b"", channel)]


@pytest.mark.parametrize("channel", [1 << 31, -(1 << 31) - 1])
def test_a_channel_that_does_not_fit_the_wire_is_a_usage_error(channel: int) -> None:
    """Row: empty message; negative channel. The channel is a signed 32-bit number."""
    _, alice, bob = connected()
    with pytest.raises(UsageError, match="number from -2147483648 to 2147483647"):
        alice.send(bob, b"x", RELIABLE, channel)


@pytest.mark.parametrize("flags", [RELIABLE, RELIABLE | NO_DELAY])
def test_wrong_arguments_to_a_stranger_make_no_session(flags: int) -> None:
    """Rows: Reliable + NoDelay; negative channel. What is refused has no effect."""
    world = World()
    alice, bob = world.add("alice"), world.add("bob")
    with contextlib.suppress(UsageError):
        alice.send(bob, b"x", flags, 0 if flags & NO_DELAY else 1 << 31)
    assert alice.info(bob) is None


def test_messages_sent_before_connected_keep_order_and_kind() -> None:
    """Row: messages sent before Connected."""
    world = World()
    alice, bob = world.add("alice"), world.add("bob")
    for number in range(20):
        assert alice.send(bob, b"u%d" % number, UNRELIABLE) == Result.OK
        assert alice.send(bob, b"r%d" % number, RELIABLE) == Result.OK
    world.run_until(lambda: len(bob.received) == 40)
    for kind, reliable in ((b"u", False), (b"r", True)):
        assert [m.payload for m in bob.received if m.reliable == reliable] == [kind + b"%d" % number for number in range(20)]


def test_no_delay_messages_sent_before_connected_are_ignored() -> None:
    """Row: messages sent before Connected, NoDelay."""
    world = World()
    alice, bob = world.add("alice"), world.add("bob")
    assert alice.send(bob, b"now or never", NO_DELAY) == Result.IGNORED
    assert alice.send(bob, b"later", RELIABLE) == Result.OK
    world.run_until(lambda: bob.received)
    world.run(SECOND_US)
    assert bob.payloads() == [b"later"]


def test_what_waits_for_a_connection_is_bounded() -> None:
    """Rows: messages sent before Connected; send buffer full."""
    world = World()
    alice, bob = world.add("alice"), world.add("bob", accepts=False)
    results = [alice.send(bob, bytes(1_000)) for _ in range(600)]
    assert results == [Result.OK] * 521 + [Result.LIMIT_EXCEEDED] * 79
    bob.accepts = True
    world.run_until(lambda: bob.requests)
    world.run_until(lambda: len(bob.received) == 521)


@pytest.mark.parametrize("to_stranger", [True, False])
def test_reliable_and_no_delay_together_are_refused(to_stranger: bool) -> None:
    """Row: Reliable + NoDelay."""
    world, alice, bob = connected()
    to = world.add("carol") if to_stranger else bob
    assert alice.send(to, b"x", RELIABLE | NO_DELAY) == Result.INVALID_PARAM


def test_no_delay_messages_are_dropped_while_more_than_200_ms_is_queued() -> None:
    """Row: NoDelay while more than 200 ms is queued."""
    config = Config(rate="fixed", send_rate_bytes=100_000)
    world, alice, bob = connected(config)
    assert alice.send(bob, b"free way", UNRELIABLE | NO_DELAY) == Result.OK
    assert alice.send(bob, bytes(15_000), RELIABLE) == Result.OK
    assert alice.send(bob, b"150 ms", UNRELIABLE | NO_DELAY) == Result.OK
    assert alice.send(bob, bytes(15_000), RELIABLE) == Result.OK
    assert alice.send(bob, b"300 ms", UNRELIABLE | NO_DELAY) == Result.IGNORED
    world.run(SECOND_US)
    assert alice.send(bob, b"free again", UNRELIABLE | NO_DELAY) == Result.OK
    world.run(SECOND_US)
    small = [message.payload for message in bob.received if not message.reliable]
    assert small == [b"free way", b"150 ms", b"free again"]


def test_no_delay_messages_are_dropped_while_nothing_can_go() -> None:
    """Row: NoDelay; a path that is cut holds up more than any rate does."""
    world, alice, bob = connected()
    world.cut.add(frozenset((alice, bob)))
    results = []
    for _ in range(300):
        results.append(alice.send(bob, bytes(1_000), UNRELIABLE | NO_DELAY | NO_NAGLE))
        world.run(10_000)
    assert results[-50:] == [Result.IGNORED] * 50
    status = alice.status(bob)
    assert status is not None
    assert (status.queue_time_us or 0) > 200_000
    world.cut.clear()
    world.run(2 * SECOND_US)
    assert alice.send(bob, b"free again", UNRELIABLE | NO_DELAY | NO_NAGLE) == Result.OK


def test_a_full_send_buffer_refuses_and_takes_again_later() -> None:
    """Row: send buffer full."""
    world, alice, bob = connected(Config(rate="fixed", send_rate_bytes=1_000_000, send_buffer_bytes=100_000))
    results = [alice.send(bob, b"%05d" % number + bytes(9_995)) for number in range(20)]
    assert Result.LIMIT_EXCEEDED in results
    accepted = [b"%05d" % number for number in range(20) if results[number] == Result.OK]
    assert set(results) == {Result.OK, Result.LIMIT_EXCEEDED}
    assert 9 <= len(accepted) <= 12
    world.run(SECOND_US)
    assert alice.send(bob, b"again") == Result.OK
    world.run(SECOND_US)
    assert [payload[:5] for payload in bob.payloads()] == [*accepted, b"again"]


@pytest.mark.parametrize(("size", "reliable"), [(16_000, False), (16_496, True), (100_000, True)])
def test_a_large_unreliable_message_becomes_reliable(size: int, reliable: bool) -> None:
    """Row: large unreliable (above 16500 bytes with its header)."""
    world, alice, bob = connected()
    assert alice.send(bob, bytes(size), UNRELIABLE) == Result.OK
    world.run_until(lambda: bob.received)
    assert [message.reliable for message in bob.received] == [reliable]


def test_a_send_after_the_peers_close_opens_a_new_session() -> None:
    """Row: send to a session whose peer closed it."""
    world, alice, bob = connected()
    assert bob.close_session(alice.identity)
    world.run(SECOND_US)
    assert not alice.failures, "nothing was in flight"
    assert alice.send(bob, b"second session") == Result.OK
    world.run_until(lambda: bob.received)
    assert [request.identity for request in bob.requests] == [alice.identity]


def test_the_acceptor_cannot_dial_a_name_after_the_peers_close() -> None:
    """Row: send to a session whose peer closed it; a name without a way to it fails."""
    world, alice, bob = connected()
    assert alice.close_session(bob)
    world.run(SECOND_US)
    assert bob.send(alice.identity, b"hello?") == Result.FAIL
    assert not bob.failures


def test_what_the_peers_close_cut_off_is_reported_and_the_next_send_goes_on() -> None:
    """Rows: send to a session whose peer closed it; session_failed after a close by the peer."""
    world, alice, bob = connected(network=steady(50_000))
    bob.close_session(alice.identity)
    assert alice.send(bob, b"too late") == Result.OK, "we have not heard of the close"
    world.run(SECOND_US)
    (failure,) = alice.failures
    assert failure.unconfirmed.messages == 1
    assert failure.reason == EndReason.SESSION_CLOSED
    assert failure.state == ConnectionState.CLOSED_BY_PEER
    assert alice.send(bob, b"new session") == Result.OK
    world.run(SECOND_US)
    assert bob.payloads() == [b"new session"], "what was reported is never sent twice"


def test_what_the_peers_close_says_it_took_is_not_reported() -> None:
    """Row: send to a session whose peer closed it, unless an own peer's close said what it had taken."""
    world, alice, bob = connected(network=steady(50_000))
    alice.send(bob, b"in time", RELIABLE | NO_NAGLE)
    world.run_until(lambda: bob.received)
    bob.close_session(alice.identity)
    world.run(SECOND_US)
    assert bob.payloads() == [b"in time"]
    assert not alice.failures, "the close carried the acknowledgement"


def test_a_failed_session_refuses_until_it_is_closed() -> None:
    """Row: send to a session that failed by time-out, without AutoRestart."""
    world = World()
    alice = world.add("alice")
    alice.send(NOWHERE, b"anybody?")
    world.run(11 * SECOND_US)
    (failure,) = alice.failures
    assert (failure.reason, failure.state) == (EndReason.MISC_TIMEOUT, ConnectionState.PROBLEM_DETECTED_LOCALLY)
    assert alice.send(NOWHERE, b"again") == Result.CONNECT_FAILED
    assert alice.send(NOWHERE, b"again", UNRELIABLE) == Result.CONNECT_FAILED
    assert alice.close_session(NOWHERE)
    assert alice.send(NOWHERE, b"again") == Result.OK


def test_a_failed_session_refuses_until_the_idle_time_is_over() -> None:
    """Row: send to a session that failed by time-out, until the idle time."""
    world = World()
    alice = world.add("alice")
    alice.send(NOWHERE, b"anybody?")
    world.run(179 * SECOND_US)
    assert alice.send(NOWHERE, b"again") == Result.CONNECT_FAILED
    world.run(2 * SECOND_US)
    assert alice.info(NOWHERE) is None
    assert alice.send(NOWHERE, b"again") == Result.OK


def test_auto_restart_opens_a_failed_session_again() -> None:
    """Row: with AutoRestart."""
    world = World()
    alice, bob = world.add("alice"), world.add("bob", starts=False)
    alice.send(bob, b"nobody hears")
    world.run_until(lambda: alice.failures)
    assert alice.lost.messages == 1, "reported before anything goes on"
    bob.start()
    assert alice.send(bob, b"again", RELIABLE | AUTO_RESTART) == Result.OK
    world.run_until(lambda: bob.received)
    assert bob.payloads() == [b"again"]
    assert alice.send(bob, b"and on") == Result.OK


def test_auto_restart_changes_nothing_in_a_session_that_works() -> None:
    """Row: with AutoRestart."""
    world, alice, bob = connected()
    assert alice.send(bob, b"x", RELIABLE | AUTO_RESTART) == Result.OK
    world.run_until(lambda: bob.received)
    assert not bob.requests


def test_a_message_to_oneself_is_there_at_once() -> None:
    """Row: to oneself."""
    world = World()
    alice = world.add("alice", reads=False)
    assert alice.send(alice.identity, b"note", RELIABLE, 3) == Result.OK
    assert alice.send(alice.identity, b"", UNRELIABLE, 3) == Result.OK
    messages = alice.read(3)
    assert [(m.identity, m.payload, m.reliable, m.channel) for m in messages] == [
        (alice.identity, b"note", True, 3),
        (alice.identity, b"", False, 3),
    ]
    world.run(SECOND_US)
    assert not alice.requests
    assert not alice.failures
    info = alice.info(alice.identity)
    assert info is not None
    assert info.flags & InfoFlags.LOOPBACK_BUFFERS
    assert info.state == ConnectionState.CONNECTED


def test_messages_to_oneself_are_bounded_and_checked() -> None:
    """Rows: to oneself; send buffer full; invalid arguments."""
    world = World()
    alice = world.add("alice", Config(recv_buffer_messages=10), reads=False)
    assert alice.send(alice.identity, bytes(524_289)) == Result.INVALID_PARAM
    assert alice.send(alice.identity, b"x", RELIABLE | NO_DELAY) == Result.INVALID_PARAM
    assert [alice.send(alice.identity, b"x") for _ in range(11)] == [Result.OK] * 10 + [Result.LIMIT_EXCEEDED]
    assert len(alice.read()) == 10
    assert alice.send(alice.identity, b"x") == Result.OK


def test_messages_to_oneself_are_bounded_in_bytes() -> None:
    """Row: to oneself; unread messages of one peer are at most 1 MiB."""
    world = World()
    alice = world.add("alice", reads=False)
    results = [alice.send(alice.identity, bytes(500_000)) for _ in range(10)]
    assert results.count(Result.OK) <= 3


def test_a_message_to_oneself_needs_a_channel_of_32_bits() -> None:
    """Row: empty message; negative channel."""
    alice = World().add("alice")
    with pytest.raises(UsageError, match="channel"):
        alice.send(alice.identity, b"x", RELIABLE, 1 << 31)


def test_the_session_with_oneself_is_live_and_can_be_closed() -> None:
    """Rows: to oneself; accept of a live session; close_session."""
    world = World()
    alice = world.add("alice", reads=False)
    alice.send(alice.identity, b"unread")
    assert alice.accept(alice.identity)
    status = alice.status(alice.identity)
    assert status is not None
    assert status.state == ConnectionState.CONNECTED
    assert alice.close_session(alice.identity)
    assert alice.read() == []
    assert alice.info(alice.identity) is None


def test_dialing_ones_own_address_says_what_is_wrong() -> None:
    """Row: to oneself, by address."""
    world = World()
    alice = world.add("alice")
    alice.send(alice, b"hello?")
    world.run_until(lambda: alice.failures)
    assert "identities of their own" in alice.failures[0].debug


def test_ok_says_nothing_about_arrival_and_nothing_more_comes() -> None:
    """Row: return value vs. fate."""
    world, alice, bob = connected()
    world.cut.add(frozenset((alice, bob)))
    assert alice.send(bob, b"lost", UNRELIABLE) == Result.OK
    world.run(5 * SECOND_US)
    assert not alice.failures


def test_no_nagle_goes_at_once_and_others_wait_for_company() -> None:
    """Header: NoNagle."""
    world, alice, bob = connected(network=steady(1_000))
    world.records = True
    alice.send(bob, b"slow", RELIABLE)
    assert not [packet for *_, packet in world.sent if packet[0] >= 0x80]
    world.sent.clear()
    alice.send(bob, b"fast", RELIABLE | NO_NAGLE)
    assert [packet for *_, packet in world.sent if packet[0] >= 0x80]
    world.run(2_000)
    assert bob.payloads() == [b"slow", b"fast"], "earlier ones ride along"


def test_small_messages_go_at_once_when_they_fill_a_burst() -> None:
    """Header: Nagle; they wait for company, but not for longer than one call can carry."""
    world, alice, bob = connected(network=steady(1_000))
    world.records = True
    flow, waited_bytes = alice.flow, 0
    while not data_sent(world):
        waited_bytes = flow.queued_bytes
        alice.send(bob, bytes(95))
    assert BURST_PACKETS * flow.full_bytes - 200 < waited_bytes < BURST_PACKETS * flow.full_bytes


def data_sent(world: World) -> list[bytes]:
    return [packet for *_, packet in world.sent if packet[0] >= 0x80]


def test_flush_sends_what_waits_for_company() -> None:
    """Header: FlushMessagesOnConnection."""
    world, alice, bob = connected(network=steady(1_000))
    alice.send(bob, b"one")
    alice.endpoint.flush(bob.dialed)
    alice.drain()
    world.run(1_500)
    assert bob.payloads() == [b"one"]


def test_raw_framing_sends_the_payload_alone_on_channel_0() -> None:
    """Config `framing`: for reference programs that use plain connections."""
    world = World()
    alice, bob = world.add("alice", Config(framing="raw", unencrypted=3)), world.add("bob", Config(framing="raw", unencrypted=3))
    world.records = True
    alice.send(bob, b"nothing but this", UNRELIABLE)
    world.run_until(lambda: bob.received)
    assert bob.payloads() == [b"nothing but this"]
    packets = [packet for *_, packet in world.sent if b"nothing but this" in packet]
    assert packets
    assert all(b"\x01\0\0\0\0nothing" not in packet for packet in packets)
    with pytest.raises(UsageError, match="0 with raw framing"):
        alice.send(bob, b"x", RELIABLE, 1)


def test_framing_can_be_chosen_for_one_identity() -> None:
    """`set_framing`, from the next session on."""
    world = World()
    alice, bob, carol = world.add("alice"), world.add("bob", Config(framing="raw")), world.add("carol")
    alice.endpoint.set_framing(bob.dialed, "raw")
    alice.send(bob, b"raw")
    alice.send(carol, b"framed", RELIABLE, 7)
    world.run(SECOND_US)
    assert bob.payloads() == [b"raw"]
    assert carol.payloads(7) == [b"framed"]
    with pytest.raises(UsageError, match="'messages' or 'raw'"):
        alice.endpoint.set_framing(bob.dialed, "none")


def test_a_socket_that_cannot_be_had_fails_the_session_with_a_reason() -> None:
    """Header: ProblemDetectedLocally; internal states never leave the library."""
    world = World()
    alice = world.add("alice", listens=False)
    alice.endpoint.send_message(NOWHERE, b"x", RELIABLE, 0, world.now_us)
    request = alice.endpoint.poll_socket_request()
    assert isinstance(request, OpenSocket)
    alice.endpoint.handle_socket_failed(request.socket_id, "no sockets left", world.now_us)
    alice.drain()
    (failure,) = alice.failures
    assert failure.reason == EndReason.LOCAL_NETWORK_CONFIG
    assert failure.unconfirmed.messages == 1
    assert failure.state == ConnectionState.PROBLEM_DETECTED_LOCALLY
    assert alice.send(NOWHERE, b"x", RELIABLE | SendFlags.AUTO_RESTART_BROKEN_SESSION) == Result.OK


# --- several messages at once ---


def send_several(world: World, sender: Host, to: Host, messages: list[bytes], flags: int, channel: int = 0) -> tuple[int, Result]:
    world.channels.setdefault(channel)
    outcome = sender.endpoint.send_messages(to.dialed, messages, flags, channel, world.now_us)
    sender.drain()
    return outcome


@pytest.mark.parametrize("flags", [RELIABLE, UNRELIABLE, UNRELIABLE | NO_NAGLE])
def test_several_messages_at_once_arrive_as_if_sent_singly(flags: int) -> None:
    world, alice, bob = connected(Config(), network=steady())
    messages = [b"%d" % number * (number % 50) for number in range(1_000)] + [bytes(20_000), b"", bytes(1_500)] + [b"end"] * 70
    assert send_several(world, alice, bob, messages, flags) == (len(messages), Result.OK)
    world.run_until(lambda: len(bob.received) == len(messages))
    assert sorted(bob.payloads()) == sorted(messages)
    if flags == RELIABLE:
        assert bob.payloads() == messages


def test_several_messages_at_once_open_a_session() -> None:
    world = World()
    alice, bob = world.add("alice"), world.add("bob")
    assert send_several(world, alice, bob, [b"1", b"2", b"3"], RELIABLE) == (3, Result.OK)
    world.run_until(lambda: len(bob.received) == 3)
    assert bob.payloads() == [b"1", b"2", b"3"]


def test_of_several_messages_as_many_are_taken_as_the_send_buffer_holds() -> None:
    counts = []
    for at_once in (True, False):
        world, alice, bob = connected(Config(rate="fixed", send_rate_bytes=1_000_000, send_buffer_bytes=100_000))
        messages = [bytes(300)] * 1_000
        if at_once:
            sent, result = send_several(world, alice, bob, messages, RELIABLE)
        else:
            sent, result = 0, Result.OK
            while result == Result.OK:
                result = alice.endpoint.send_message(bob.dialed, messages[0], RELIABLE, 0, world.now_us)
                sent += result == Result.OK
        assert result == Result.LIMIT_EXCEEDED
        counts.append(sent)
        alice.drain()
        world.run_until(lambda bob=bob, sent=sent: len(bob.received) == sent)  # type: ignore[misc]
    assert counts[0] == counts[1] > 300


def test_the_first_message_that_is_refused_ends_a_run() -> None:
    world, alice, bob = connected(Config())
    messages = [b"1", b"2", bytes(524_289), b"3"]
    assert send_several(world, alice, bob, messages, RELIABLE) == (2, Result.INVALID_PARAM)
    world.run(SECOND_US)
    assert bob.payloads() == [b"1", b"2"]
    assert send_several(world, alice, bob, [], RELIABLE) == (0, Result.OK)
    assert send_several(world, alice, bob, [b"x"] * 3, RELIABLE | NO_DELAY) == (0, Result.INVALID_PARAM)


def test_messages_that_find_no_room_together_are_not_copied_for_it() -> None:
    world, alice, bob = connected(Config())
    copied = 0

    class Payload(bytes):
        def __radd__(self, prefix: bytes) -> bytes:
            nonlocal copied
            copied += len(self)
            return prefix + bytes(self)

    messages = [Payload(200_000) for _ in range(200)]
    assert send_several(world, alice, bob, list(messages), RELIABLE) == (2, Result.LIMIT_EXCEEDED)
    assert copied <= 600_000


def test_several_messages_to_oneself_arrive() -> None:
    world = World()
    alice = world.add("alice")
    outcome = alice.endpoint.send_messages(alice.identity, [b"1", b"2"], RELIABLE, 0, world.now_us)
    assert outcome == (2, Result.OK)
    assert [message.payload for message in alice.read()] == [b"1", b"2"]
