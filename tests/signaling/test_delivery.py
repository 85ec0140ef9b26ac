"""Numbered entries over a channel that loses, doubles and delays."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peergram.config import (
    SIGNAL_BYTES_MAX,
    SIGNAL_RELIABLE_BYTES_MAX,
    SIGNAL_RELIABLE_MAX,
    SIGNAL_RELIABLE_QUEUED_MAX,
    SIGNAL_REPEAT_US,
)
from peergram.signaling.delivery import SignalInbox, SignalKind, SignalOutbox
from peergram.timing import NEVER
from peergram.wire.signals import ReliableSignal, Signal, decode_signal, encode_signal

MS = 1_000
KINDS: tuple[SignalKind, ...] = ("request", "ok", "other")
NOTHING: tuple[None, list[ReliableSignal]] = (None, [])


def entry(number: int) -> ReliableSignal:
    return ReliableSignal(b"candidate %d" % number)


def entries(first: int, last: int) -> list[ReliableSignal]:
    return [entry(number) for number in range(first, last + 1)]


def outbox(count: int, now_us: int = 0) -> SignalOutbox:
    """Holds entries 1 to `count`, all due."""
    box = SignalOutbox()
    for number in range(1, count + 1):
        assert box.queue(entry(number), now_us)
    return box


# Sending


def test_an_empty_outbox_has_nothing_to_send_and_no_time_for_it() -> None:
    box = SignalOutbox()
    assert box.next_due_us == NEVER
    for kind in KINDS:
        assert box.take(kind, 0) == NOTHING


def test_numbers_begin_at_one_and_go_on_after_acknowledgements() -> None:
    box = outbox(3)
    assert box.take("request", 0) == (1, entries(1, 3))
    box.ack(2)
    assert len(box) == 1
    assert box.queue(entry(4), 5)
    assert box.take("ok", 5) == (3, entries(3, 4))
    box.ack(4)
    assert box.take("request", 6) == NOTHING
    assert box.next_due_us == NEVER


@pytest.mark.parametrize("kind", ["request", "ok"])
def test_a_hello_carries_all_that_is_not_acknowledged_due_or_not(kind: SignalKind) -> None:
    box = outbox(2)
    assert box.take(kind, 0) == (1, entries(1, 2))
    assert box.take(kind, 1) == (1, entries(1, 2))


def test_an_entry_is_due_at_once_and_again_a_second_after_it_was_sent() -> None:
    box = outbox(2, now_us=50)
    assert box.next_due_us == 50
    assert box.take("other", 70) == (1, entries(1, 2))
    again_us = 70 + SIGNAL_REPEAT_US
    assert box.next_due_us == again_us
    assert box.take("other", again_us - 1) == NOTHING
    assert box.take("other", again_us) == (1, entries(1, 2))
    assert box.next_due_us == again_us + SIGNAL_REPEAT_US


def test_a_hello_puts_the_repetition_off() -> None:
    box = outbox(1)
    box.take("other", 0)
    box.take("request", 500 * MS)
    assert box.next_due_us == 500 * MS + SIGNAL_REPEAT_US


def test_news_takes_along_what_was_sent_before_and_may_be_lost() -> None:
    box = outbox(1)
    box.take("other", 0)
    box.queue(entry(2), 300 * MS)
    assert box.next_due_us == 300 * MS
    assert box.take("other", 300 * MS) == (1, entries(1, 2))


def test_old_and_repeated_acknowledgements_change_nothing() -> None:
    box = outbox(3)
    box.take("request", 0)
    box.ack(2)
    box.ack(2)
    box.ack(0)
    assert box.take("request", 1) == (3, [entry(3)])


def test_what_was_never_sent_cannot_be_acknowledged() -> None:
    box = outbox(2)
    box.ack(0xFFFF_FFFF)
    assert box.take("request", 0) == (1, entries(1, 2))
    box.queue(entry(3), 1)
    box.ack(0xFFFF_FFFF)
    assert box.take("other", 1) == (3, [entry(3)])


def test_everything_goes_again_at_once_when_the_peer_took_nothing() -> None:
    box = outbox(2)
    box.take("request", 0)
    box.resend_all(10)
    assert box.next_due_us == 10
    assert box.take("other", 10) == (1, entries(1, 2))


def test_a_cleared_outbox_is_silent_and_does_not_use_a_number_twice() -> None:
    box = outbox(2)
    box.take("request", 0)
    box.clear()
    assert (len(box), box.next_due_us) == (0, NEVER)
    box.queue(entry(3), 5)
    assert box.take("other", 5) == (3, [entry(3)])


def test_a_signal_holds_so_many_entries_and_the_rest_waits_for_their_acknowledgement() -> None:
    box = outbox(SIGNAL_RELIABLE_MAX + 5)
    assert box.take("request", 0) == (1, entries(1, SIGNAL_RELIABLE_MAX))
    assert box.next_due_us == SIGNAL_REPEAT_US
    box.ack(SIGNAL_RELIABLE_MAX)
    assert box.next_due_us == 0
    assert box.take("other", 20) == (SIGNAL_RELIABLE_MAX + 1, entries(SIGNAL_RELIABLE_MAX + 1, SIGNAL_RELIABLE_MAX + 5))


def test_a_signal_holds_so_many_bytes_of_entries() -> None:
    box = SignalOutbox()
    for _ in range(20):
        box.queue(ReliableSignal(bytes(400)), 0)
    first, carried = box.take("ok", 0)
    assert first == 1
    blob = encode_signal(Signal(first_reliable=first, reliable=carried))
    assert SIGNAL_RELIABLE_BYTES_MAX - 450 < len(blob) <= SIGNAL_RELIABLE_BYTES_MAX + 2
    assert len(blob) < SIGNAL_BYTES_MAX
    assert decode_signal(blob).reliable == carried


def test_an_entry_larger_than_that_still_goes_by_itself() -> None:
    box = SignalOutbox()
    for _ in range(2):
        box.queue(ReliableSignal(bytes(SIGNAL_RELIABLE_BYTES_MAX)), 0)
    assert box.take("other", 0) == (1, [ReliableSignal(bytes(SIGNAL_RELIABLE_BYTES_MAX))])


def test_so_many_entries_wait_for_a_peer_who_acknowledges_nothing() -> None:
    box = outbox(SIGNAL_RELIABLE_QUEUED_MAX)
    assert not box.queue(entry(0), 0)
    assert len(box) == SIGNAL_RELIABLE_QUEUED_MAX
    box.take("request", 0)
    box.ack(1)
    assert box.queue(entry(0), 0)


# Receiving


def test_entries_are_taken_in_order_and_once() -> None:
    box = SignalInbox()
    assert box.take(1, entries(1, 3)) == entries(1, 3)
    assert box.take(1, entries(1, 3)) == []
    assert box.take(2, entries(2, 5)) == entries(4, 5)
    assert box.last == 5


def test_nothing_is_taken_behind_a_gap() -> None:
    box = SignalInbox()
    assert box.take(3, entries(3, 4)) == []
    assert box.last == 0
    assert box.take(1, entries(1, 1)) == entries(1, 1)
    assert box.take(3, entries(3, 4)) == []
    assert box.take(2, entries(2, 4)) == entries(2, 4)


def test_an_acknowledgement_is_wanted_whenever_entries_were_numbered_even_behind_a_gap() -> None:
    box = SignalInbox()
    wanted = []
    for first in (None, 9, 1, 1, None):
        box.ack_wanted = False
        box.take(first, entries(1, 2))
        wanted.append(box.ack_wanted)
    assert wanted == [False, True, True, True, False]
    assert box.last == 2


def test_senseless_numbers_do_no_harm() -> None:
    box = SignalInbox()
    assert box.take(0, [entry(0), entry(1)]) == [entry(1)]
    assert box.take(0xFFFF_FFFF, [entry(9)]) == []
    assert box.take(1, []) == []
    assert box.take(0, []) == []
    assert box.last == 1


# Both


@given(st.integers(0, 2**32), st.floats(0, 0.7), st.floats(0, 0.7), st.integers(0, 3_000))
def test_everything_arrives_once_and_in_order_whatever_the_channel_does(
    seed: int, loss: float, duplication: float, delay_ms: int
) -> None:
    rng = random.Random(seed)
    out, inbox = SignalOutbox(), SignalInbox()
    total = rng.randint(1, 100)
    arrived: list[ReliableSignal] = []
    # (when, acknowledgement) and (when, first, entries)
    forward: list[tuple[int, int | None, list[ReliableSignal]]] = []
    back: list[tuple[int, int]] = []
    queued = 0
    for now_us in range(0, 120_000 * MS, 50 * MS):
        if queued < total and rng.random() < 0.2:
            queued += 1
            assert out.queue(entry(queued), now_us)
        if out.next_due_us <= now_us:
            first, carried = out.take(rng.choice(KINDS), now_us)
            assert carried
            for _ in range(2 if rng.random() < duplication else 1):
                if rng.random() >= loss:
                    forward.append((now_us + rng.randint(0, delay_ms) * MS, first, carried))
        for packet in [packet for packet in forward if packet[0] <= now_us]:
            forward.remove(packet)
            arrived += inbox.take(packet[1], packet[2])
        if inbox.ack_wanted:
            inbox.ack_wanted = False
            if rng.random() >= loss:
                back.append((now_us + rng.randint(0, delay_ms) * MS, inbox.last))
        for ack in [ack for ack in back if ack[0] <= now_us]:
            back.remove(ack)
            out.ack(ack[1])
        if queued == total and not len(out):
            break
    assert arrived == entries(1, total)
    assert len(out) == 0
