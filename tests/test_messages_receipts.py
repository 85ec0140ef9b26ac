"""Receipts over real loopback sockets, with the callback and the ways to wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from peergram import ClosedError, Config, Delivered, EndReason, Messages, Receipt, Result, SendFlags

RELIABLE = SendFlags.RELIABLE
Start = Callable[..., Messages]


@pytest.fixture
def start() -> Iterator[Start]:
    """Makes `Messages` that are closed after the test."""
    with ExitStack() as stack:
        yield lambda *args, **options: stack.enter_context(Messages(*args, signaling=None, **options))


class Talk:
    """Alice, who sends, and Bob, who lets everybody in."""

    def __init__(self, start: Start, config: Config | None = None) -> None:
        self.bob = start("bob", listen=("127.0.0.1", 0))
        self.bob.on_session_request = lambda request: self.bob.accept_session_with_user(request.identity)
        self.alice = start("alice", config=config)
        self.to_bob = f"ip:127.0.0.1:{self.bob.local_addresses[0][1]}"

    def send(self, data: bytes = b"hello") -> Receipt:
        result, receipt = self.alice.send_with_receipt(self.to_bob, data)
        assert result == Result.OK
        assert receipt is not None
        return receipt

    def until(self, condition: Callable[[], object], timeout_s: float = 5.0) -> None:
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline_s, "did not happen in time"
            self.bob.run_callbacks()
            self.alice.run_callbacks()
            time.sleep(0.001)


def test_a_receipt_says_that_the_message_arrived(start: Start) -> None:
    """Row: return value vs. fate."""
    talk = Talk(start)
    receipt = talk.send()
    assert receipt.state == "pending"
    talk.until(lambda: receipt.state == "delivered")


def test_the_handler_is_called_once_for_each_receipt_in_order(start: Start) -> None:
    """Row: return value vs. fate."""
    talk = Talk(start)
    told: list[Delivered] = []
    talk.alice.on_delivered = told.append
    receipts = [talk.send(b"%d" % number) for number in range(100)]
    talk.until(lambda: len(told) >= 100)
    assert [event.receipt for event in told] == receipts
    assert {event.receipt.state for event in told} == {"delivered"}
    assert {event.identity.text for event in told} == {talk.to_bob}


def test_a_handler_that_raises_costs_no_receipt(start: Start) -> None:
    """M8: the others are told in the next call."""
    talk = Talk(start)
    told: list[Receipt] = []

    def handle(event: Delivered) -> None:
        told.append(event.receipt)
        raise LookupError("a mistake of the program")

    talk.alice.on_delivered = handle
    receipts = [talk.send() for _ in range(3)]
    talk.bob.on_session_request = lambda request: talk.bob.accept_session_with_user(request.identity)
    deadline_s = time.monotonic() + 5
    while len(told) < 3 and time.monotonic() < deadline_s:
        talk.bob.run_callbacks()
        try:
            talk.alice.run_callbacks()
        except LookupError:
            continue
    assert told == receipts


def test_waiting_ends_when_a_receipt_is_settled(start: Start) -> None:
    """Row: callbacks; the descriptor is readable too."""
    talk = Talk(start)
    talk.bob.wait(0)
    first = talk.send()
    talk.until(lambda: first.state == "delivered")
    told: list[Delivered] = []
    talk.alice.on_delivered = told.append
    talk.send()
    assert talk.alice.wait(5.0)
    talk.alice.run_callbacks()
    assert len(told) == 1


def test_closing_settles_every_receipt_and_the_handler_hears_of_it_afterwards(start: Start) -> None:
    """Row: close_session; nothing stays open."""
    talk = Talk(start, Config(linger_us=0))
    told: list[Delivered] = []
    talk.alice.on_delivered = told.append
    receipt = talk.send()
    talk.alice.close()
    assert receipt.state == "unconfirmed"
    assert receipt.reason == EndReason.SESSION_CLOSED
    talk.alice.run_callbacks()
    assert [event.receipt for event in told] == [receipt]
    with pytest.raises(ClosedError):
        talk.alice.send_with_receipt(talk.to_bob, b"too late")


def test_a_message_sent_just_before_closing_is_delivered(start: Start) -> None:
    """Row: close_session; what is sent is flushed for a while."""
    talk = Talk(start)
    first = talk.send()
    talk.until(lambda: first.state == "delivered")
    receipt = talk.send(bytes(100_000))
    talk.alice.close()
    assert receipt.state == "delivered"


def test_without_a_handler_nothing_is_kept(start: Start) -> None:
    """A handler that is taken away hears nothing later."""
    talk = Talk(start)
    told: list[Delivered] = []
    talk.alice.on_delivered = told.append
    assert talk.alice.on_delivered is not None
    talk.alice.on_delivered = None
    receipt = talk.send()
    talk.until(lambda: receipt.state == "delivered")
    talk.alice.on_delivered = told.append
    talk.alice.run_callbacks()
    assert not told


def test_to_oneself_and_unreliably(start: Start) -> None:
    """Row: to oneself; large unreliable."""
    alice = start("alice")
    result, receipt = alice.send_with_receipt("alice", b"note")
    assert (result, receipt and receipt.state) == (Result.OK, "delivered")
    assert alice.send_with_receipt("alice", b"note", SendFlags.UNRELIABLE) == (Result.OK, None)
