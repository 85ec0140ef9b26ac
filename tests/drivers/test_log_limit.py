"""Log lines: one per kind and second, and nothing is left out without a word. What drivers log is in their own tests."""

from __future__ import annotations

import logging

import pytest

from peergram.config import LOG_INTERVAL_US
from peergram.drivers.log_limit import LogLimit
from peergram.drivers.pump import Pump
from peergram.drivers.thread_driver import ThreadDriver
from tests.drivers.fake_endpoint import FakeEndpoint

ATTACK_US = 10_000_000


def lines(limit: LogLimit, kinds: tuple[str, ...], spacing_us: int) -> list[tuple[str, str]]:
    """(kind, note) of the lines that may be written while something happens this often."""
    written = []
    for now_us in range(0, ATTACK_US, spacing_us):
        for kind in kinds:
            note = limit.note(kind, now_us)
            if note is not None:
                written.append((kind, note))
    return written


def test_a_kind_gets_one_line_a_second_whatever_the_others_do() -> None:
    written = lines(LogLimit(), ("one", "other"), 1_000)
    assert [kind for kind, _ in written] == ["one", "other"] * (ATTACK_US // LOG_INTERVAL_US)


def test_a_line_says_how_many_were_left_out_before_it() -> None:
    notes = [note for _, note in lines(LogLimit(), ("one",), 1_000)]
    assert notes[0] == ""
    assert set(notes[1:]) == {" (999 more like this were not logged)"}


def test_what_happens_seldom_is_logged_each_time() -> None:
    written = lines(LogLimit(), ("one",), LOG_INTERVAL_US)
    assert len(written) == ATTACK_US // LOG_INTERVAL_US
    assert {note for _, note in written} == {""}


def test_defects_that_datagrams_provoke_write_a_line_a_second(caplog: pytest.LogCaptureFixture) -> None:
    """Ten seconds of timers that raise every millisecond, by the clock the pump is given."""
    endpoint = FakeEndpoint()
    pump = Pump(endpoint)
    endpoint.always_due = True

    def fail() -> None:
        raise RuntimeError("a defect")

    endpoint.on_timeout = fail
    with caplog.at_level(logging.DEBUG):
        for now_us in range(1_000_000, 1_000_000 + ATTACK_US, 1_000):
            pump.handle_due(now_us)
    assert pump.defects == ATTACK_US // 1_000
    assert len(caplog.records) <= ATTACK_US // LOG_INTERVAL_US


def test_a_callback_that_raises_at_each_packet_writes_a_line_a_second(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def notify() -> None:
        raise RuntimeError("the application's")

    driver = ThreadDriver(FakeEndpoint(), notify=notify)
    with caplog.at_level(logging.DEBUG):
        for now_us in range(5_000_000, 5_000_000 + ATTACK_US, 1_000):
            monkeypatch.setattr("peergram.drivers.thread_driver.monotonic_us", lambda now_us=now_us: now_us)
            driver._call_notify(notify)
    monkeypatch.undo()
    driver.close()
    assert len(caplog.records) == ATTACK_US // LOG_INTERVAL_US
    assert "999 more" in caplog.records[-1].message
