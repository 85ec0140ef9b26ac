"""Peers by identity: two endpoints, a signaling service, no addresses given."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from peergram.address import Address
from peergram.config import (
    CLAIM_WAIT_SIGNALED_US,
    ICE_BUDGETS_KEPT_MAX,
    ICE_BUDGETS_KEPT_US,
    ICE_CHECK_INTERVAL_US,
    ICE_RTO_INITIAL_US,
    ICE_TRANSACTIONS_KEPT,
    ICE_UNANSWERED_PACKETS_MAX,
    SIGNAL_DENIAL_KEYS_MAX,
    SIGNAL_DENIALS_ALL_BURST,
    SIGNAL_DENIALS_ALL_PER_S,
    SIGNAL_DENIALS_BURST,
    SIGNAL_DENIALS_PER_S,
    SIGNAL_TELL_AGAIN_MAX_US,
    SIGNALS_QUEUED_MAX,
    Config,
)
from peergram.crypto.keys import SigningKey
from peergram.endpoint.call import Call
from peergram.errors import Result
from peergram.events import ConnectionState, SessionFailed, SessionRequested
from peergram.identity import Identity
from peergram.io_requests import OpenSocket
from peergram.routes.candidates import Base
from peergram.signaling.rendezvous import Rendezvous
from peergram.timing import NEVER
from peergram.wire.certificates import SignedCryptInfo
from peergram.wire.control import ConnectionClosed, encode_control
from peergram.wire.signals import Signal, SignalClosed, decode_signal, encode_signal
from tests.endpoint.by_identity import RELIABLE, Host, World


def both_have_unread(one: Host, other: Host) -> Callable[[], bool]:
    """Until both got something."""
    return lambda: one.endpoint.unread_messages > 0 and other.endpoint.unread_messages > 0


def test_the_first_message_opens_a_session_and_arrives_once_it_is_accepted() -> None:
    world = World("alice", "bob")
    alice, bob = world.hosts["alice"], world.hosts["bob"]
    assert alice.send(bob) == 1
    assert world.run(1_000_000, lambda: any(isinstance(event, SessionRequested) for event in bob.events))
    assert bob.accept(alice)
    began_us = world.now_us
    assert world.run(2_000_000, lambda: bob.endpoint.unread_messages > 0)
    [message] = bob.received()
    assert message.payload == b"hello"
    assert message.identity == alice.identity
    assert world.now_us - began_us <= 5 * world.latency_us + 2 * world.signal_us


@pytest.mark.parametrize("flags", [RELIABLE, 0])
def test_until_there_is_a_way_a_full_send_buffer_counts_as_full(flags: int) -> None:
    """Who waits for room would ask again and again otherwise, or be told that his message fits no buffer."""
    world = World("alice", "bob", config=Config(send_buffer_bytes=65_536))
    alice, bob = world.hosts["alice"], world.hosts["bob"]
    message = bytes(15_000)
    while alice.send(bob, message, flags) == Result.OK:
        pass
    refused, began_us = 0, world.now_us
    while not bob.endpoint.unread_messages:
        if alice.send(bob, message, flags) == Result.LIMIT_EXCEEDED:
            refused += 1
            assert alice.endpoint.may_fit_later(bob.identity)
            assert not alice.endpoint.has_room_for(bob.identity, len(message))
        world.run(1_000)
        for event in bob.events:
            if isinstance(event, SessionRequested):
                bob.accept(alice)
        assert world.now_us < began_us + 5_000_000
    assert refused > 10


def test_an_answer_goes_back_over_the_same_session() -> None:
    world = World("alice", "bob")
    alice, bob = world.hosts["alice"], world.hosts["bob"]
    alice.send(bob, b"ping")
    world.run(1_000_000, lambda: bool(bob.events))
    bob.send(alice, b"pong")
    assert world.run(2_000_000, both_have_unread(alice, bob))
    assert alice.received()[0].payload == b"pong"
    info = alice.endpoint.connection_info(bob.identity, world.now_us)
    assert info is not None
    assert info.state == ConnectionState.CONNECTED


def test_two_who_call_at_once_share_one_session() -> None:
    for seed in range(20):
        world = World("alice", "bob", seed=seed)
        alice, bob = world.hosts["alice"], world.hosts["bob"]
        alice.send(bob, b"from alice")
        bob.send(alice, b"from bob")
        assert world.run(200_000, both_have_unread(alice, bob)), seed
        world.run(15_000_000)
        assert [message.payload for message in alice.received()] == [b"from bob"]
        assert [message.payload for message in bob.received()] == [b"from alice"]
        assert not [event for event in alice.events + bob.events if isinstance(event, SessionFailed)]


def test_nothing_is_sent_to_a_stranger_before_he_is_accepted() -> None:
    world = World("alice", "bob")
    alice, bob = world.hosts["alice"], world.hosts["bob"]
    alice.send(bob)
    world.run(9_000_000)
    assert bob.packets_sent == 0
    assert bob.signals_sent == 0


def test_a_call_that_nobody_answers_fails_with_a_reason() -> None:
    world = World("alice")
    alice = world.hosts["alice"]
    ghost = world.add("ghost", "192.168.1.99")
    del world.hosts["ghost"]
    alice.send(ghost)
    world.run(15_000_000)
    [failed] = [event for event in alice.events if isinstance(event, SessionFailed)]
    assert failed.reason == 5003


def test_closing_tells_the_peer_at_once() -> None:
    world = World("alice", "bob")
    alice, bob = world.hosts["alice"], world.hosts["bob"]
    alice.send(bob)
    world.run(1_000_000, lambda: bool(bob.events))
    bob.accept(alice)
    world.run(1_000_000)
    alice.endpoint.close_session(bob.identity, world.now_us)
    alice.drain()
    world.run(100_000)
    info = bob.endpoint.connection_info(alice.identity, world.now_us)
    assert info is None or info.state == ConnectionState.NONE


def test_a_lossy_service_still_brings_both_together() -> None:
    for seed in range(20):
        world = World("alice", "bob", seed=seed)
        alice, bob = world.hosts["alice"], world.hosts["bob"]
        world.lose_signals(0.4)
        alice.send(bob)
        bob.send(alice)
        assert world.run(9_000_000, both_have_unread(alice, bob)), seed


def test_a_peer_that_started_over_gets_a_new_session() -> None:
    world = World("alice", "bob")
    alice, bob = world.hosts["alice"], world.hosts["bob"]
    alice.send(bob)
    world.run(1_000_000, lambda: bool(bob.events))
    bob.accept(alice)
    world.run(1_000_000)
    again = world.add("alice", "192.168.1.10")
    began_us = world.now_us
    again.send(bob, b"it is me again")
    bob.events.clear()
    assert world.run(3_000_000, lambda: any(isinstance(event, SessionRequested) for event in bob.events))
    bob.accept(again)
    assert world.run(2_000_000, lambda: bob.endpoint.unread_messages > 1)
    assert world.now_us - began_us < 1_500_000


def connected(world: World) -> tuple[Host, Host]:
    """Alice and bob, in a session that alice began."""
    alice, bob = world.hosts["alice"], world.hosts["bob"]
    alice.send(bob)
    world.run(1_000_000, lambda: bool(bob.events))
    bob.accept(alice)
    assert world.run(1_000_000, lambda: bob.endpoint.unread_messages > 0)
    bob.received()
    world.run(500_000)
    return alice, bob


def state_of(host: Host, peer: Host) -> ConnectionState | None:
    info = host.endpoint.connection_info(peer.identity, host.world.now_us)
    return None if info is None else info.state


def test_a_session_outlives_half_a_minute_of_silence_and_loses_nothing() -> None:
    world = World("alice", "bob")
    alice, bob = connected(world)
    world.loses_packet = lambda _source, _to, _packet: True
    for number in range(5):
        alice.send(bob, f"message {number}".encode())
    world.run(30_000_000)
    assert state_of(alice, bob) == ConnectionState.FINDING_ROUTE
    world.loses_packet = lambda _source, _to, _packet: False
    assert world.run(12_000_000, lambda: bob.endpoint.unread_messages == 5)
    assert [message.payload for message in bob.received()] == [f"message {number}".encode() for number in range(5)]
    assert state_of(alice, bob) == ConnectionState.CONNECTED
    assert not [event for event in alice.events + bob.events if isinstance(event, SessionFailed)]


def test_silence_beyond_the_resume_window_ends_it_with_a_report() -> None:
    world = World("alice", "bob", config=Config(resume_window_us=20_000_000))
    alice, bob = connected(world)
    world.loses_packet = lambda _source, _to, _packet: True
    alice.send(bob, b"lost")
    world.run(18_000_000)
    assert state_of(alice, bob) == ConnectionState.FINDING_ROUTE
    world.run(10_000_000)
    [failed] = [event for event in alice.events if isinstance(event, SessionFailed)]
    assert failed.unconfirmed.messages == 1


def test_who_closes_while_he_looks_for_a_way_takes_no_more_and_the_sender_is_told() -> None:
    """What he owes still goes out once there is a way; what comes in then nobody would read."""
    world = World("alice", "bob", config=Config(linger_us=5_000_000))
    alice, bob = connected(world)
    world.loses_packet = lambda _source, _to, _packet: True
    bob.send(alice, b"the last word")
    world.run(15_000_000)
    assert state_of(bob, alice) == ConnectionState.FINDING_ROUTE
    assert bob.endpoint.close_session(alice.identity, world.now_us)
    result, receipt = alice.endpoint.send_with_receipt(bob.identity, b"too late", RELIABLE, 0, world.now_us)
    assert result == 1
    assert receipt is not None
    world.loses_packet = lambda _source, _to, _packet: False
    assert world.run(5_000_000, lambda: receipt.state != "pending")
    assert receipt.state == "unconfirmed"
    assert [message.payload for message in alice.received()] == [b"the last word"]
    [failed] = [event for event in alice.events if isinstance(event, SessionFailed)]
    assert failed.unconfirmed.messages == 1


def test_a_call_that_is_forgotten_while_it_waits_for_its_turn_wakes_nobody() -> None:
    world = World("alice", "bob")
    alice, bob = world.hosts["alice"], world.hosts["bob"]
    world.loses_packet = lambda _source, _to, _packet: True
    alice.send(bob)
    world.run(1_000_000)
    bob.accept(alice)
    calls = alice.endpoint._calls
    assert calls is not None
    [call] = calls._calls.values()
    assert world.run(5_000_000, lambda: call.tell_again_at_us != NEVER)
    calls.touch(call)
    calls.forget(call, world.now_us)
    alice.drain()
    assert call.armed_at_us == NEVER


def test_without_a_resume_window_silence_is_the_end() -> None:
    world = World("alice", "bob", config=Config(resume_window_us=0))
    alice, bob = connected(world)
    world.loses_packet = lambda _source, _to, _packet: True
    alice.send(bob, b"lost")
    world.run(15_000_000)
    assert [event for event in alice.events if isinstance(event, SessionFailed)]


def test_who_moves_to_another_address_goes_on_within_three_seconds() -> None:
    world = World("alice", "bob")
    alice, bob = connected(world)
    alice.move("192.168.1.77")
    alice.send(bob, b"from elsewhere")
    assert world.run(3_000_000, lambda: bob.endpoint.unread_messages > 0)
    bob.send(alice, b"found you")
    assert world.run(3_000_000, lambda: alice.endpoint.unread_messages > 0)
    info = bob.endpoint.connection_info(alice.identity, world.now_us)
    assert info is not None
    assert info.address.startswith("192.168.1.77:")


def test_a_signal_of_somebody_else_says_nothing_about_a_session() -> None:
    """The service names the sender; whatever the signal claims, others cannot speak for him (D21)."""
    world = World("alice", "bob", "mallory")
    alice, bob = connected(world)
    mallory = world.hosts["mallory"]
    call = next(iter(bob.endpoint._calls._calls.values()))  # type: ignore[union-attr]
    closed = Signal(
        to_connection_id=call.rendezvous.connection_id,
        from_connection_id=call.rendezvous.peer_connection_id,
        from_identity=alice.identity.text_bytes,
        connection_closed=SignalClosed(1001, "forged"),
    )
    for sender in (mallory.identity, None):
        world.deliver_signal(sender, bob.identity, encode_signal(closed))
        world.run(5_000_000)
        assert state_of(bob, alice) == ConnectionState.CONNECTED


@pytest.mark.parametrize("who", ["alice", "bob"])
def test_addresses_that_a_service_changed_are_told_again(who: str) -> None:
    """They were taken and acknowledged, so that nobody would notice: without any way, all is told once more."""
    world = World("alice", "bob", config=Config(timeout_initial_us=60_000_000))
    alice, bob = world.hosts["alice"], world.hosts["bob"]
    lies_until_us = world.now_us + 20_000_000

    def moves(host: Host, to: Identity, blob: bytes) -> bool:
        if host.name == who and world.now_us < lies_until_us and b"candidate:" in blob:
            other = re.sub(rb"192\.168\.1\.1\d", b"192.168.1.99", blob)
            world.at(world.signal_us, lambda: world.deliver_signal(host.identity, to, other))
            return True
        return False

    world.loses_signal = moves
    opened = set()

    def filters(source: Address, to: Address, _packet: bytes) -> bool:
        """The other side lets in only what it has sent something to: no check shows it the right address."""
        opened.add((source[0], to[0]))
        return source[0] == world.hosts[who].address and (to[0], source[0]) not in opened

    world.loses_packet = filters
    alice.send(bob)
    world.run(1_000_000, lambda: bool(bob.events))
    bob.accept(alice)
    assert not world.run(20_000_000, lambda: bob.endpoint.unread_messages > 0)
    signals_before = alice.signals_sent + bob.signals_sent
    assert signals_before < 40
    assert world.run(SIGNAL_TELL_AGAIN_MAX_US, lambda: bob.endpoint.unread_messages > 0)
    world.run(60_000_000)
    assert alice.signals_sent + bob.signals_sent <= signals_before + 8, "who has a way says nothing more"


def test_garbage_from_the_service_is_counted_and_dropped() -> None:
    world = World("alice", "bob")
    bob = world.hosts["bob"]
    for blob in (b"", b"\xff" * 40, b"\x42\x03abc", world.random.randbytes(20_000)):
        world.deliver_signal(None, bob.identity, blob)
    assert bob.endpoint.dropped.malformed == 4
    assert bob.endpoint.known_peers == []


def test_a_stranger_whose_certificate_does_not_hold_is_rejected_with_a_reason() -> None:
    world = World("alice", "bob")
    alice, bob = world.hosts["alice"], world.hosts["bob"]
    caught = world.catch_signals(loses=True)
    alice.send(bob)
    signal = decode_signal(caught[0])
    assert signal.connect_request is not None
    assert signal.connect_request.crypt is not None
    signature = bytearray(signal.connect_request.crypt.signature)
    signature[5] ^= 1
    signal.connect_request.crypt = SignedCryptInfo(signal.connect_request.crypt.info, bytes(signature))
    caught.clear()
    world.deliver_signal(alice.identity, bob.identity, encode_signal(signal))
    assert bob.endpoint.known_peers == []
    [answer] = map(decode_signal, caught)
    assert answer.connection_closed is not None
    assert answer.connection_closed.reason == 5001
    assert "Invalid signature" in answer.connection_closed.debug


def test_very_many_strangers_cost_no_more_than_the_requests_that_may_wait() -> None:
    """M4, with fewer of them: what counts is that the table ends."""
    world = World("bob", config=Config(pending_requests_max=16))
    bob = world.hosts["bob"]
    for number in range(40):
        stranger = world.add(f"stranger{number}", f"192.168.2.{number + 1}")
        stranger.send(bob)
        world.run(20_000)
    assert len(bob.endpoint.known_peers) <= 16
    friend = world.add("friend", "192.168.1.5")
    friend.send(bob, b"let me in")
    bob.events.clear()
    assert world.run(2_000_000, lambda: any(event.identity == friend.identity for event in bob.events))
    bob.accept(friend)
    assert world.run(2_000_000, lambda: bob.endpoint.unread_messages > 0)


def signals_waiting(host: Host) -> int:
    """How many signals its driver would be given."""
    waiting = 0
    while host.endpoint.poll_signal() is not None:
        waiting += 1
    return waiting


def test_who_makes_up_requests_gets_few_answers() -> None:
    world = World("alice", "bob")
    bob = world.hosts["bob"]
    calls = bob.endpoint._calls
    assert calls is not None
    names = [Identity.of(f"str:stranger{number}") for number in range(SIGNAL_DENIALS_ALL_BURST + 10)]
    about = Signal(to_connection_id=0x10001, from_connection_id=0x20002)
    for number in range(SIGNAL_DENIALS_BURST + 10):
        calls.reject(names[0], number, 5001, "no", world.now_us)
        calls.deny(names[0], about, world.now_us)
    assert signals_waiting(bob) == SIGNAL_DENIALS_BURST
    for name in names:
        calls.reject(name, 1, 5001, "no", world.now_us)
    assert signals_waiting(bob) == SIGNAL_DENIALS_ALL_BURST - SIGNAL_DENIALS_BURST
    for _ in range(2 * SIGNAL_DENIALS_ALL_PER_S):
        calls.deny(names[0], about, world.now_us + 1_000_000)
    assert signals_waiting(bob) == SIGNAL_DENIALS_PER_S
    for number in range(2 * SIGNAL_DENIAL_KEYS_MAX):
        calls.reject(Identity.of(f"str:another{number}"), 1, 5001, "no", world.now_us + 2_000_000 + number * 20_000)
    assert len(calls._denials) <= SIGNAL_DENIAL_KEYS_MAX


def test_signals_and_checks_that_nobody_takes_are_bounded() -> None:
    world = World("alice")
    alice = world.hosts["alice"]
    calls = alice.endpoint._calls
    assert calls is not None
    for number in range(SIGNALS_QUEUED_MAX + 10):
        calls.reject(alice.identity, number, 5001, "no", world.now_us + number * 1_000_000)
    assert signals_waiting(alice) == SIGNALS_QUEUED_MAX
    call = Call(None, Rendezvous(b"str:alice", b"str:bob", 0x10001), alice.identity)  # type: ignore[arg-type]
    for number in range(ICE_TRANSACTIONS_KEPT + 10):
        calls._note_transaction(call, b"\x00\x01" + bytes(6) + number.to_bytes(12, "big"))
    assert len(calls._transactions) == ICE_TRANSACTIONS_KEPT


def test_with_relays_only_no_address_of_ours_is_told_or_used() -> None:
    """I8, without a relay: then there is no way at all, and none is invented."""
    world = World("alice", "bob", config=Config(candidates="relay"))
    alice, bob = world.hosts["alice"], world.hosts["bob"]
    told = world.catch_signals(loses=False)
    alice.send(bob)
    world.run(1_000_000, lambda: bool(bob.events))
    bob.accept(alice)
    world.run(15_000_000)
    assert not [entry for blob in told for entry in decode_signal(blob).reliable if entry.candidate is not None]
    assert alice.packets_sent == bob.packets_sent == 0
    [failed] = [event for event in alice.events if isinstance(event, SessionFailed)]
    assert failed.reason == 5008


def test_the_router_is_asked_for_a_port_only_if_that_is_wanted() -> None:
    for wanted in (True, False):
        world = World("alice", "bob", config=Config(port_mapping=wanted))
        alice, bob = world.hosts["alice"], world.hosts["bob"]
        for host in (alice, bob):
            host.gateway = "192.168.1.1"
        asked = world.catch_packets()
        alice.send(bob)
        world.run(100_000)
        assert (("192.168.1.1", 5351) in asked) == wanted


def test_two_who_call_at_once_share_one_session_although_a_driver_is_slow_to_drain() -> None:
    """The call that gives way has not even been sent when the other one comes in."""
    for seed in range(10):
        world = World("alice", "bob", seed=seed)
        alice, bob = world.hosts["alice"], world.hosts["bob"]
        caught = world.catch_signals(loses=True)
        alice.send(bob, b"from alice")
        world.loses_signal = lambda _host, _to, _blob: False
        bob.endpoint.send_message(alice.identity, b"from bob", RELIABLE, 0, world.now_us)
        bob.endpoint.handle_signal(alice.identity, caught[0], world.now_us)
        bob.drain()
        assert world.run(2_000_000, both_have_unread(alice, bob)), seed
        world.run(15_000_000)
        assert state_of(alice, bob) == state_of(bob, alice) == ConnectionState.CONNECTED
        assert not [event for event in alice.events + bob.events if isinstance(event, SessionFailed)]


def test_who_closes_while_the_way_is_lost_is_done_as_soon_as_the_rest_has_arrived() -> None:
    world = World("alice", "bob")
    alice, bob = connected(world)
    world.loses_packet = lambda _source, _to, _packet: True
    alice.send(bob, b"last words")
    world.run(15_000_000)
    alice.endpoint.close_session(bob.identity, world.now_us)
    alice.drain()
    world.loses_packet = lambda _source, _to, _packet: False
    assert world.run(3_000_000, lambda: bob.endpoint.unread_messages > 0)
    world.run(200_000)
    assert not alice.endpoint.is_flushing
    assert state_of(bob, alice) == ConnectionState.NONE


def test_a_machine_that_loses_every_address_notices_that_the_peer_is_gone() -> None:
    world = World("alice", "bob")
    alice, bob = connected(world)
    del world.hosts["bob"]
    alice.endpoint.handle_interfaces([], world.now_us)
    alice.drain()
    alice.send(bob, b"lost")
    world.run(20_000_000)
    assert state_of(alice, bob) == ConnectionState.FINDING_ROUTE
    world.run(50_000_000)
    [failed] = [event for event in alice.events if isinstance(event, SessionFailed)]
    assert failed.unconfirmed.messages == 1


def test_closing_the_endpoint_tells_the_peer_by_packet_too() -> None:
    world = World("alice", "bob")
    alice, bob = connected(world)
    world.lose_signals(1)
    alice.endpoint.close(world.now_us)
    alice.drain()
    world.run(100_000)
    assert state_of(bob, alice) == ConnectionState.NONE


def test_a_peer_that_starts_over_and_is_gone_again_is_no_failure_if_nothing_was_owed() -> None:
    world = World("alice")
    alice = world.hosts["alice"]
    key = SigningKey.generate(world.random.randbytes)
    bob = world.add("bob", "192.168.1.11", key=key)
    alice.send(bob)
    world.run(1_000_000, lambda: bool(bob.events))
    bob.accept(alice)
    world.run(1_000_000)
    world.add("bob", "192.168.1.11", key=key).send(alice)
    del world.hosts["bob"]
    world.run(60_000_000)
    assert state_of(alice, bob) == ConnectionState.NONE
    assert alice.events == []


def test_nobody_calls_under_an_address_as_his_name() -> None:
    """What waits for that address would be sent to whoever claims it, and a dial to it would end."""
    world = World("bob")
    bob = world.hosts["bob"]
    server = Identity.of("ip:10.0.0.5:100")
    bob.endpoint.send_message(server, b"secret", RELIABLE, 0, world.now_us)
    world.add("ip:10.0.0.5:100", "192.168.1.66").send(bob)
    world.run(1_000_000)
    assert bob.events == []
    info = bob.endpoint.connection_info(server, world.now_us)
    assert info is not None
    assert info.state == ConnectionState.CONNECTING
    assert bob.endpoint.dropped.refused > 0


def test_who_sees_the_checks_cannot_spoil_them_by_answering_first() -> None:
    world = World("alice", "bob")
    alice, bob = world.hosts["alice"], world.hosts["bob"]

    def forge(source: Address, to: Address, packet: bytes) -> bool:
        if packet[:2] == b"\x00\x01":
            world.at(1, lambda: world.carry(to, source, b"\x01\x01\x00\x00" + packet[4:20]))
        return False

    world.loses_packet = forge
    alice.send(bob)
    world.run(1_000_000, lambda: bool(bob.events))
    bob.accept(alice)
    assert world.run(2_000_000, lambda: bob.endpoint.unread_messages > 0)


def test_two_who_let_in_requests_of_former_runs_find_out_soon() -> None:
    """A service that brings old requests again has each of them wait for somebody who is not there any more."""
    world = World("alice", "bob")
    caught = world.catch_signals(loses=True)
    for one, other in (("alice", "bob"), ("bob", "alice")):
        world.hosts[one].send(world.hosts[other])
    requests = list(caught[:2])
    alice, bob = world.add("alice", "192.168.1.10"), world.add("bob", "192.168.1.11")
    world.loses_signal = lambda _host, _to, _blob: False
    for sender, receiver, request in ((alice, bob, requests[0]), (bob, alice, requests[1])):
        world.deliver_signal(sender.identity, receiver.identity, request)
        receiver.accept(sender)
    world.run(CLAIM_WAIT_SIGNALED_US + 200_000)
    assert state_of(alice, bob) == state_of(bob, alice) == ConnectionState.NONE
    alice.events.clear()
    bob.events.clear()
    alice.send(bob, b"anew")
    assert world.run(1_000_000, lambda: bool(bob.events))
    bob.accept(alice)
    assert world.run(1_000_000, lambda: bob.endpoint.unread_messages > 0)


def test_where_no_packet_gets_through_the_end_says_what_would_help() -> None:
    """D27: the reference says 5008, whatever the cause."""
    world = World("alice", "bob")
    alice, bob = world.hosts["alice"], world.hosts["bob"]
    world.loses_packet = lambda _source, _to, _packet: True
    alice.send(bob)
    world.run(1_000_000, lambda: bool(bob.events))
    bob.accept(alice)
    world.run(12_000_000)
    [failed] = [event for event in alice.events if isinstance(event, SessionFailed)]
    assert failed.reason == 5008
    assert "nothing got through" in failed.debug
    assert "TURN" in failed.debug


def test_no_candidate_is_said_twice_although_a_driver_is_slow_to_drain() -> None:
    world = World("alice", "bob", "carol")
    alice, _ = connected(world)
    alice.address = "192.168.1.77"
    alice.tell_address()
    while (request := alice.endpoint.poll_socket_request()) is not None:
        if isinstance(request, OpenSocket):
            alice.sockets[request.socket_id] = (request.bind[0], 40_500)
            alice.endpoint.handle_socket_opened(request.socket_id, alice.sockets[request.socket_id], world.now_us)
    told = world.catch_signals(loses=True)
    alice.endpoint.send_message(world.hosts["carol"].identity, b"hello", RELIABLE, 0, world.now_us)
    alice.drain()
    world.run(100_000)
    signals = [decode_signal(blob) for blob in told]
    said = [entry.candidate for signal in signals if signal.connect_request for entry in signal.reliable if entry.candidate]
    assert said
    assert len(said) == len(set(said))


def test_a_goodbye_is_heard_through_a_relay_too() -> None:
    """A reference peer that closed says so in the clear to whoever still sends, and to strangers we answer nothing from there."""
    world = World("alice", "bob")
    alice, bob = connected(world)
    calls = bob.endpoint._calls
    assert calls is not None
    [call] = calls._calls.values()
    world.loses_packet = lambda _source, _to, _packet: True
    world.lose_signals(1.0)
    relay, remote = Base(next(iter(bob.sockets)), 1), ("203.0.113.5", 50_000)
    own_id, peer_id = call.rendezvous.connection_id, call.rendezvous.peer_connection_id
    sent = bob.packets_sent
    bob.endpoint._handle_relayed(calls, relay, remote, encode_control(ConnectionClosed(77, 78, 1001, "no")), world.now_us)
    bob.drain()
    assert bob.packets_sent == sent
    bob.endpoint._handle_relayed(
        calls, relay, remote, encode_control(ConnectionClosed(own_id, peer_id, 1001, "bye")), world.now_us
    )
    bob.drain()
    world.run(5_000_000)
    assert state_of(bob, alice) == ConnectionState.NONE


def test_a_reference_peer_that_takes_the_path_late_is_not_left_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts no packet and says nothing before its own check of the nominated path is answered, and begins to check when our
    answer has come to it by signaling, which may be slower than the path."""
    monkeypatch.setattr("peergram.endpoint.calls._is_own_peer", lambda _connection: False)
    world = World("alice", "bob")
    alice, bob = world.hosts["alice"], world.hosts["bob"]
    bob.send(alice, b"hello")
    world.run(1_000_000, lambda: bool(alice.events))
    checks_from_us = world.now_us + 100_000
    has_path = is_counted = False

    def loses(source: Address, _to: Address, packet: bytes) -> bool:
        nonlocal has_path, is_counted
        is_from_bob = source[0] == bob.address
        if packet[0] & 0x80:
            is_counted = is_counted or (not is_from_bob and has_path)
            return not (is_counted if is_from_bob else has_path)
        if packet[:2] == b"\x00\x01":
            return is_from_bob and world.now_us < checks_from_us
        # An answer of alice to a check of bob.
        has_path = has_path or not is_from_bob
        return False

    world.loses_packet = loses
    alice.accept(bob)
    assert world.run(5_000_000, lambda: alice.endpoint.unread_messages > 0)
    first_check_us = ICE_RTO_INITIAL_US + ICE_CHECK_INTERVAL_US
    assert world.now_us <= checks_from_us + first_check_us + 6 * world.latency_us


def test_who_calls_again_and_again_has_us_send_no_more_to_others_than_who_calls_once() -> None:
    world = World("alice", "bob", config=Config(linger_us=0))
    alice, bob = world.hosts["alice"], world.hosts["bob"]
    own, victim = bob.address.encode(), b"192.168.1.99"
    to_victim: list[int] = []

    def is_moved(host: Host, _to: Identity, blob: bytes) -> bool:
        """Bob says that he is where the victim is, which never answers."""
        signal = decode_signal(blob)
        if host is not bob or not signal.reliable:
            return False
        moved = [replace(entry, candidate=entry.candidate and entry.candidate.replace(own, victim)) for entry in signal.reliable]
        changed = encode_signal(replace(signal, reliable=moved))
        world.at(world.signal_us, lambda: world.deliver_signal(bob.identity, alice.identity, changed))
        return True

    def is_for_victim(source: Address, to: Address, _packet: bytes) -> bool:
        if to[0] == victim.decode():
            to_victim.append(world.now_us)
        return source[0] == bob.address or to[0] != bob.address

    world.loses_signal, world.loses_packet = is_moved, is_for_victim

    def call() -> None:
        alice.events.clear()
        bob.send(alice)
        assert world.run(2_000_000, lambda: any(isinstance(event, SessionRequested) for event in alice.events))
        alice.accept(bob)
        world.run(4_000_000)
        for host, peer in ((bob, alice), (alice, bob)):
            host.endpoint.close_session(peer.identity, world.now_us)
            host.drain()
        world.run(1_000_000)

    call()
    assert to_victim, "the first call is taken at its word"
    for _ in range(60):
        call()
    assert len(to_victim) == ICE_UNANSWERED_PACKETS_MAX
    world.run(ICE_BUDGETS_KEPT_US)
    call()
    assert len(to_victim) > ICE_UNANSWERED_PACKETS_MAX, "and after a while again"


def test_of_very_many_peers_only_so_many_keep_their_share() -> None:
    world = World("alice")
    calls = world.hosts["alice"].endpoint._calls
    assert calls is not None
    for number in range(ICE_BUDGETS_KEPT_MAX + 10):
        calls._budgets_of(Identity.of(f"peer{number}"), world.now_us)
    assert len(calls._budgets) == ICE_BUDGETS_KEPT_MAX
