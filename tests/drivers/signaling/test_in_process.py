"""Signaling inside one process."""

from __future__ import annotations

import threading

import pytest

from peergram.config import IN_PROCESS_SIGNALS_MAX
from peergram.drivers.signaling.in_process import InProcessHub, bad_weather
from peergram.errors import ClosedError, UsageError
from peergram.identity import Identity

from .mailbox import WAIT_S, Join, Mailbox, party

ALICE, BOB, CAROL = (Identity.string(name) for name in ("alice", "bob", "carol"))


def test_signals_arrive_in_order_with_their_sender(join: Join) -> None:
    hub = InProcessHub()
    alice, bob = hub.service(), hub.service()
    join(alice, "alice")
    mail = join(bob, "bob")
    for number in range(100):
        alice.send(BOB, bytes((number,)))
    assert [mail.get() for _ in range(100)] == [(ALICE, bytes((number,))) for number in range(100)]
    assert alice.status == "connected inside this process"


def test_whoever_is_not_there_gets_nothing_and_nobody_is_told(join: Join) -> None:
    hub = InProcessHub()
    alice, bob = hub.service(), hub.service()
    join(alice, "alice")
    alice.send(BOB, b"too early")
    alice.send(ALICE, b"to myself")
    mail = join(bob, "bob")
    alice.send(CAROL, b"nobody")
    alice.send(BOB, b"now")
    first = mail.get()
    assert first in ((ALICE, b"too early"), (ALICE, b"now"))
    assert first == (ALICE, b"now") or mail.get() == (ALICE, b"now")
    assert mail.is_empty


def test_nothing_is_delivered_after_close_has_returned(join: Join) -> None:
    hub = InProcessHub()
    alice, bob = hub.service(), hub.service()
    mail_of_alice = join(alice, "alice")
    entered, leave = threading.Event(), threading.Event()

    def slow(_sender: Identity | None, _signal: bytes) -> None:
        entered.set()
        leave.wait(WAIT_S)

    bob.start(party("bob"), slow)
    alice.send(BOB, b"1")
    alice.send(BOB, b"2")
    assert entered.wait(WAIT_S)
    closing = threading.Thread(target=bob.close)
    closing.start()
    assert closing.is_alive()
    entered.clear()
    leave.set()
    closing.join(WAIT_S)
    alice.send(ALICE, b"3")
    assert mail_of_alice.get() == (ALICE, b"3")
    assert not entered.is_set()
    assert bob.status == "closed"
    bob.send(ALICE, b"4")
    bob.close()
    with pytest.raises(ClosedError):
        bob.start(party("bob"), Mailbox())


def test_a_service_may_be_closed_from_inside_a_delivery() -> None:
    hub = InProcessHub()
    alice = hub.service()
    done = threading.Event()

    def deliver(_sender: Identity | None, _signal: bytes) -> None:
        alice.close()
        done.set()

    alice.start(party("alice"), deliver)
    alice.send(ALICE, b"x")
    assert done.wait(WAIT_S)


def test_a_receiver_that_raises_ends_nothing(join: Join, caplog: pytest.LogCaptureFixture) -> None:
    hub = InProcessHub()
    alice, bob = hub.service(), hub.service()
    mail = join(alice, "alice")

    def broken(_sender: Identity | None, _signal: bytes) -> None:
        raise RuntimeError("broken")

    bob.start(party("bob"), broken)
    for _ in range(5):
        alice.send(BOB, b"x")
    alice.send(ALICE, b"y")
    assert mail.get() == (ALICE, b"y")
    assert len(caplog.records) == 1
    bob.close()


def test_the_name_belongs_to_whoever_joined_last(join: Join) -> None:
    hub = InProcessHub()
    old, new, alice = hub.service(), hub.service(), hub.service()
    old_mail = join(old, "bob")
    new_mail = join(new, "bob")
    join(alice, "alice")
    old.close()
    alice.send(BOB, b"x")
    assert new_mail.get() == (ALICE, b"x")
    assert old_mail.is_empty


def test_a_service_serves_one_endpoint(join: Join) -> None:
    service = InProcessHub().service()
    assert service.status == "not started"
    service.send(BOB, b"before it was started")
    join(service, "alice")
    with pytest.raises(UsageError):
        service.start(party("alice"), Mailbox())


def test_a_hub_that_everybody_has_left_can_be_used_again(join: Join) -> None:
    hub = InProcessHub()
    for _ in range(3):
        service = hub.service()
        mail = join(service, "alice")
        service.send(ALICE, b"x")
        assert mail.get() == (ALICE, b"x")
        service.close()


def test_fate_may_lose_double_and_delay(join: Join) -> None:
    fates = {b"lost": [], b"twice": [0, 0], b"late": [30_000], b"last": [60_000]}
    hub = InProcessHub(lambda sender, receiver, signal: fates[signal])
    alice = hub.service()
    mail = join(alice, "alice")
    for signal in (b"last", b"late", b"lost", b"twice"):
        alice.send(ALICE, signal)
    assert [mail.get()[1] for _ in range(4)] == [b"twice", b"twice", b"late", b"last"]


def test_bad_weather_repeats_from_its_seed_and_keeps_its_odds() -> None:
    def copies(seed: int) -> list[list[int]]:
        fate = bad_weather(seed, loss=0.3, duplication=0.5, delay_us_max=1_000)
        return [fate(ALICE, BOB, b"") for _ in range(2_000)]

    drawn = copies(7)
    assert drawn == copies(7) != copies(8)
    counts = [len(each) for each in drawn]
    assert 0.25 < counts.count(0) / 2_000 < 0.35
    assert 0.30 < counts.count(2) / 2_000 < 0.40
    delays = [delay for each in drawn for delay in each]
    assert min(delays) >= 0
    assert 900 < max(delays) <= 1_000


def test_so_many_signals_are_under_way_and_no_more(join: Join) -> None:
    hour_us = 3_600_000_000
    hub = InProcessHub(lambda sender, receiver, signal: [0 if signal == b"now" else hour_us])
    alice = hub.service()
    mail = join(alice, "alice")
    for _ in range(IN_PROCESS_SIGNALS_MAX - 1):
        alice.send(ALICE, b"late")
    alice.send(ALICE, b"now")
    assert mail.get() == (ALICE, b"now")
    alice.send(ALICE, b"late")
    alice.send(ALICE, b"now")
    assert mail.is_empty
    assert hub.under_way == IN_PROCESS_SIGNALS_MAX
