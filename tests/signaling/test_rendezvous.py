"""Two `Rendezvous` that exchange signals in virtual time, and one that gets what it should not."""

from __future__ import annotations

from peergram.config import (
    SIGNAL_ACK_US,
    SIGNAL_CLOSE_REPEATS_US,
    SIGNAL_DISTANCE_US,
    SIGNAL_REQUEST_QUICK_US,
    SIGNAL_REQUEST_RETRY_US,
    SIGNAL_REQUESTS_QUICK,
)
from peergram.signaling.rendezvous import MESSAGES_VIRTUAL_PORT, NO_CONNECTION, Phase, Rendezvous, rejection
from peergram.wire.certificates import SignedCertificate, SignedCryptInfo
from peergram.wire.signals import ReliableSignal, Signal, decode_signal

CERT = SignedCertificate(b"certificate")
CRYPT = SignedCryptInfo(b"crypt info", b"s" * 64)
ALICE, BOB = 0x11112222, 0x33334444
T0 = 1_000_000


def caller() -> Rendezvous:
    rendezvous = Rendezvous(b"str:alice", b"str:bob", ALICE)
    rendezvous.call(CERT, CRYPT, T0)
    return rendezvous


def called() -> Rendezvous:
    rendezvous = Rendezvous(b"str:bob", b"str:alice", BOB)
    rendezvous.ring(ALICE)
    return rendezvous


def said(rendezvous: Rendezvous, now_us: int) -> Signal:
    blob = rendezvous.poll_signal(now_us)
    assert blob is not None
    return decode_signal(blob)


def test_a_request_goes_at_once_with_all_that_is_known_and_never_names_the_peers_connection() -> None:
    alice = caller()
    alice.queue(ReliableSignal(password=b"secret"), T0)
    alice.queue(ReliableSignal(candidate=b"candidate:1 0 udp 5 10.0.0.1 1 typ host"), T0)
    signal = said(alice, T0)
    assert signal.connect_request is not None
    assert signal.connect_request.to_virtual_port == signal.connect_request.from_virtual_port == MESSAGES_VIRTUAL_PORT
    assert signal.to_connection_id is None
    assert (signal.from_identity, signal.to_identity, signal.from_connection_id) == (b"str:alice", b"str:bob", ALICE)
    assert signal.ice_enabled
    assert (signal.first_reliable, len(signal.reliable), signal.ack_reliable) == (1, 2, 0)
    assert alice.poll_signal(T0) is None


def test_a_request_is_repeated_soon_at_first_until_it_is_answered() -> None:
    alice = caller()
    said(alice, T0)
    at_us = T0
    for number in range(1, SIGNAL_REQUESTS_QUICK + 4):
        at_us += SIGNAL_REQUEST_QUICK_US if number <= SIGNAL_REQUESTS_QUICK else SIGNAL_REQUEST_RETRY_US
        assert alice.poll_signal(at_us - 1) is None
        assert said(alice, at_us).connect_request is not None
    alice.handle_answered(BOB)
    assert alice.poll_signal(at_us + 10 * SIGNAL_REQUEST_RETRY_US) is None
    assert alice.poll_timeout() is None


def test_what_is_found_a_moment_later_waits_only_for_the_distance_of_two_signals() -> None:
    alice = caller()
    said(alice, T0)
    alice.queue(ReliableSignal(candidate=b"c"), T0 + 1)
    assert alice.poll_signal(T0 + 1) is None
    assert said(alice, T0 + SIGNAL_DISTANCE_US).reliable == [ReliableSignal(candidate=b"c")]


def test_the_called_side_says_nothing_before_it_accepts_and_then_everything() -> None:
    alice, bob = caller(), called()
    alice.queue(ReliableSignal(password=b"secret"), T0)
    assert bob.handle_signal(said(alice, T0), T0).entries == [ReliableSignal(password=b"secret")]
    assert bob.poll_signal(T0 + 5_000_000) is None
    bob.accept(CERT, CRYPT, T0)
    bob.queue(ReliableSignal(password=b"his"), T0)
    signal = said(bob, T0)
    assert signal.connect_ok is not None
    assert signal.to_connection_id == ALICE
    assert signal.ack_reliable == 1
    heard = alice.handle_signal(signal, T0)
    assert heard.connect_ok is not None
    assert heard.entries == [ReliableSignal(password=b"his")]


def test_an_acknowledgement_waits_a_moment_for_company() -> None:
    alice, bob = caller(), called()
    bob.handle_signal(said(alice, T0), T0)
    bob.accept(CERT, CRYPT, T0)
    bob.queue(ReliableSignal(password=b"his"), T0)
    at_us = T0 + 100_000
    alice.handle_signal(said(bob, T0), at_us)
    alice.handle_answered(BOB)
    assert alice.poll_signal(at_us + SIGNAL_ACK_US - 1) is None
    assert said(alice, at_us + SIGNAL_ACK_US).ack_reliable == 1
    assert alice.poll_signal(at_us + 400_000) is None


def test_a_request_that_comes_again_is_answered_again() -> None:
    alice, bob = caller(), called()
    first = said(alice, T0)
    bob.handle_signal(first, T0)
    bob.accept(CERT, CRYPT, T0)
    said(bob, T0)
    bob.handle_signal(first, T0 + SIGNAL_REQUEST_RETRY_US)
    assert said(bob, T0 + SIGNAL_REQUEST_RETRY_US).connect_ok is not None


def test_an_answer_is_repeated_until_the_caller_speaks_of_the_connection() -> None:
    """Requests that ask for it again may be as lost as it is itself (S8)."""
    bob = called()
    bob.accept(CERT, CRYPT, T0)
    said(bob, T0)
    at_us = T0
    for _ in range(4):
        at_us += SIGNAL_REQUEST_RETRY_US
        assert bob.poll_signal(at_us - 1) is None
        assert said(bob, at_us).connect_ok is not None
    at_us += 2 * SIGNAL_DISTANCE_US
    bob.queue(ReliableSignal(password=b"secret"), at_us)
    assert said(bob, at_us).connect_ok is not None, "what goes anyway takes it along"
    bob.handle_signal(Signal(to_connection_id=BOB, from_connection_id=ALICE, ack_reliable=1), at_us)
    assert bob.poll_timeout() is None


def test_an_answer_that_has_nothing_of_ours_makes_all_of_it_go_again_at_once() -> None:
    """D6: a reference peer that changed its role has lost what our request carried."""
    alice, bob = caller(), called()
    alice.queue(ReliableSignal(password=b"secret"), T0)
    said(alice, T0)
    bob.accept(CERT, CRYPT, T0)
    alice.handle_signal(said(bob, T0), T0 + 20_000)
    alice.handle_answered(BOB)
    assert said(alice, T0 + 20_000).reliable == [ReliableSignal(password=b"secret")]


def test_a_close_is_repeated_until_it_is_confirmed() -> None:
    alice, bob = caller(), called()
    bob.handle_signal(said(alice, T0), T0)
    bob.accept(CERT, CRYPT, T0)
    alice.handle_signal(said(bob, T0), T0)
    alice.handle_answered(BOB)
    at_us = T0 + 1_000_000
    alice.close(1001, "enough", at_us)
    for wait_us in (0, *SIGNAL_CLOSE_REPEATS_US):
        at_us += wait_us
        assert alice.poll_signal(at_us - 1) is None
        signal = said(alice, at_us)
        assert signal.connection_closed is not None
        assert signal.connection_closed.reason == 1001
    assert alice.poll_timeout() is None
    heard = bob.handle_signal(signal, at_us)
    assert heard.closed is not None
    bob.end_by_peer(at_us)
    confirmed = said(bob, at_us)
    assert confirmed.connection_closed is not None
    assert confirmed.connection_closed.reason == NO_CONNECTION
    alice.handle_signal(confirmed, at_us)
    assert alice.phase == Phase.OVER
    assert alice.poll_signal(at_us + 60_000_000) is None


def test_who_asks_about_a_connection_that_we_closed_is_told_again() -> None:
    alice = caller()
    said(alice, T0)
    alice.close(1001, "enough", T0 + 100_000)
    at_us = T0 + 100_000
    for wait_us in (0, *SIGNAL_CLOSE_REPEATS_US):
        at_us += wait_us
        said(alice, at_us)
    late = Signal(to_connection_id=ALICE, from_connection_id=BOB, from_identity=b"str:bob", ice_enabled=True, ack_reliable=0)
    alice.handle_signal(late, at_us + 50_000)
    assert said(alice, at_us + 50_000).connection_closed is not None


def test_no_connection_is_never_answered() -> None:
    alice = caller()
    said(alice, T0)
    alice.close(1001, "enough", T0 + 20_000)
    said(alice, T0 + 20_000)
    alice.handle_signal(decode_signal(rejection(ALICE, b"str:alice", NO_CONNECTION, "")), T0 + 30_000)
    assert alice.poll_signal(T0 + 60_000_000) is None


def test_a_close_of_a_live_connection_is_for_the_owner_to_believe() -> None:
    """D21: nobody signed it."""
    alice, bob = caller(), called()
    bob.handle_signal(said(alice, T0), T0)
    bob.accept(CERT, CRYPT, T0)
    heard = bob.handle_signal(decode_signal(rejection(BOB, b"str:bob", 1001, "forged")), T0)
    assert heard.closed is not None
    assert bob.phase == Phase.TALKING
