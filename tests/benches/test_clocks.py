"""The windows that contestants are measured in, with a clock that the test sets."""

from __future__ import annotations

import pytest

from benches import cases
from benches.cases import CASES, HoldClock, PingClock, ReceiveClock, SendClock


class Clock:
    """Stands for the module `time`."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.cpu_s = 0.0

    def perf_counter(self) -> float:
        return self.now_s

    def process_time(self) -> float:
        return self.cpu_s

    def advance(self, seconds: float) -> None:
        """Half of the time is spent computing."""
        self.now_s += seconds
        self.cpu_s += seconds / 2


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(cases, "time", made)
    return made


def test_a_sender_goes_on_beyond_its_window_which_alone_is_accounted(clock: Clock) -> None:
    sending = SendClock(1.0, _start_s=clock.now_s, _start_cpu_s=clock.cpu_s)
    clock.advance(0.5)
    assert sending.is_running(40)
    clock.advance(0.6)
    assert sending.is_running(90)
    clock.advance(0.3)
    assert not sending.is_running(120)
    account = sending.account(120)
    assert (account.messages, account.window_messages) == (120, 90)
    assert account.cpu_s == pytest.approx(0.55)


def test_a_receiver_counts_from_after_its_first_batch_and_returns_after_silence(clock: Clock) -> None:
    receiving = ReceiveClock(1.0)
    clock.advance(5.0)
    assert not receiving.note(0)
    assert not receiving.note(10)
    clock.advance(1.0)
    assert not receiving.note(110)
    clock.advance(0.2)
    assert not receiving.note(130)
    clock.advance(0.31)
    assert receiving.note(130)
    account = receiving.account()
    assert (account.messages, account.messages_total) == (100, 130)
    assert account.elapsed_s == pytest.approx(1.0)
    assert account.cpu_s == pytest.approx(0.5)


def test_a_receiver_that_hears_nothing_gives_up(clock: Clock) -> None:
    receiving = ReceiveClock(1.0)
    assert not receiving.note(0)
    clock.advance(cases.FIRST_MESSAGE_TIMEOUT_S + 0.1)
    assert receiving.note(0)
    assert receiving.account().messages == 0


def test_round_trips_of_the_warm_up_do_not_count(clock: Clock) -> None:
    pinging = PingClock(1.0)
    for _ in range(cases.WARM_UP_ROUND_TRIPS):
        clock.advance(1.0)
        assert pinging.is_running()
        pinging.note(1e6)
    for trip_us in range(1, 101):
        pinging.note(trip_us)
    pinging.note_lost()
    clock.advance(1.0)
    assert not pinging.is_running()
    account = pinging.account()
    assert (account.round_trips, account.lost, account.p50_us, account.p99_us) == (100, 1, 50, 99)
    assert account.cpu_s == pytest.approx(0.5)


def test_a_holder_waits_for_all_lets_them_settle_and_then_measures(clock: Clock) -> None:
    holding = HoldClock(10, 2.0)
    for connections, seconds in ((0, 3.0), (9, 1.0), (10, 0.9), (10, 0.2), (10, 1.9)):
        assert not holding.note(connections)
        clock.advance(seconds)
    assert not holding.note(10)
    clock.advance(0.2)
    assert holding.note(10)
    account = holding.account()
    assert account.elapsed_s == pytest.approx(2.1)
    assert account.cpu_s == pytest.approx(1.05)
    assert account.memory_bytes > 1_000_000


def test_a_connection_that_goes_again_ends_the_run(clock: Clock) -> None:
    holding = HoldClock(10, 2.0)
    holding.note(10)
    with pytest.raises(TimeoutError, match="only 9 of 10 connections are there"):
        holding.note(9)


def test_a_crowd_that_does_not_gather_ends_the_run(clock: Clock) -> None:
    holding = HoldClock(10, 2.0)
    assert not holding.note(9)
    clock.advance(cases.IDLE_CONNECT_TIMEOUT_S + 1)
    with pytest.raises(TimeoutError, match="only 9 of 10"):
        holding.note(9)


def test_a_flow_over_the_bad_link_is_told_as_a_share_of_its_rate() -> None:
    case = CASES["lossy_link"]
    assert case.rate(cases.LINK_BYTES_PER_S / case.message_bytes, 2.0) == pytest.approx(50.0)
