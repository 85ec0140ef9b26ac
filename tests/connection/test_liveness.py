"""When a silent peer is asked, how long an answer may take, and when he is given up."""

from __future__ import annotations

import pytest

from peergram.config import (
    KEEPALIVE_SLOT_US,
    KEEPALIVE_US,
    REPLY_FAILURES_MIN,
    REPLY_TIMEOUT_DELAYED_US,
    REPLY_TIMEOUT_MARGIN_US,
    REPLY_TIMEOUT_MAX_US,
    URGENT_PING_US,
)
from peergram.connection.liveness import Liveness
from peergram.connection.rtt import RoundTrip
from peergram.timing import Deadline

START_US = 5_000_000
TIMEOUT_US = 10_000_000


def watched() -> Liveness:
    return Liveness(TIMEOUT_US, START_US)


def round_trip(ping_ms: int | None) -> RoundTrip:
    known = RoundTrip()
    if ping_ms is not None:
        known.add_sample(ping_ms * 1_000, START_US)
    return known


def test_a_silent_peer_is_asked_for_a_sign_of_life_and_not_before() -> None:
    liveness = watched()
    assert not liveness.wants_keepalive(START_US + KEEPALIVE_US - 1)
    assert liveness.wants_keepalive(START_US + KEEPALIVE_US)
    assert liveness.poll_timeout() == Deadline(START_US + KEEPALIVE_US, "keepalive")


def test_questions_to_silent_peers_wait_for_one_another() -> None:
    """Sessions last heard at different times are asked together, none early, none later than a slot."""
    liveness = watched()
    asked_at_us = set()
    for heard_us in range(START_US + 1, START_US + KEEPALIVE_SLOT_US, 777):
        liveness.heard(heard_us)
        due = liveness.poll_timeout()
        assert heard_us + KEEPALIVE_US <= due.at_us < heard_us + KEEPALIVE_US + KEEPALIVE_SLOT_US
        assert not liveness.wants_keepalive(due.at_us - 1)
        assert liveness.wants_keepalive(due.at_us)
        asked_at_us.add(due.at_us)
    assert len(asked_at_us) == 1


@pytest.mark.parametrize(
    ("ping_ms", "wait_us"),
    [
        (None, REPLY_TIMEOUT_MAX_US),
        (0, REPLY_TIMEOUT_MARGIN_US),
        (50, 100_000 + REPLY_TIMEOUT_MARGIN_US),
        (499, 998_000 + REPLY_TIMEOUT_MARGIN_US),
        (501, REPLY_TIMEOUT_MAX_US),
        (2_000, REPLY_TIMEOUT_MAX_US),
    ],
)
@pytest.mark.parametrize(("may_be_delayed", "more_us"), [(False, 0), (True, REPLY_TIMEOUT_DELAYED_US)])
def test_an_answer_is_missing_after_two_pings_and_a_margin(
    ping_ms: int | None, wait_us: int, may_be_delayed: bool, more_us: int
) -> None:
    liveness = watched()
    liveness.expect_reply(round_trip(ping_ms), START_US, may_be_delayed=may_be_delayed)
    due_us = START_US + wait_us + more_us
    assert liveness.poll_timeout() == Deadline(due_us, "reply missing")
    liveness.handle_timeout(due_us - 1)
    assert liveness.failures == 0
    liveness.handle_timeout(due_us)
    assert liveness.failures == 1


def test_urgent_pings_go_out_five_times_a_second_while_an_answer_is_missing() -> None:
    liveness = watched()
    assert not liveness.wants_urgent_ping(START_US)
    liveness.expect_reply(round_trip(0), START_US, may_be_delayed=False)
    liveness.handle_timeout(START_US + REPLY_TIMEOUT_MARGIN_US)
    asked_at_us = [at_us for at_us in range(START_US, START_US + 1_450_000, 1_000) if ping_if_wanted(liveness, at_us)]
    assert asked_at_us == [START_US + REPLY_TIMEOUT_MARGIN_US + URGENT_PING_US * count for count in range(6)]
    liveness.heard(START_US + 1_450_000)
    assert not liveness.wants_urgent_ping(START_US + 9_000_000)


def ping_if_wanted(liveness: Liveness, now_us: int) -> bool:
    wanted = liveness.wants_urgent_ping(now_us)
    if wanted:
        liveness.pinged(now_us)
    return wanted


def fail(liveness: Liveness, times: int) -> int:
    """Let so many questions go unanswered, one after the other; when the last one was due."""
    now_us = START_US
    for _ in range(times):
        liveness.expect_reply(round_trip(0), now_us, may_be_delayed=False)
        now_us += REPLY_TIMEOUT_MARGIN_US
        liveness.handle_timeout(now_us)
    return now_us


def test_silence_alone_ends_nothing_until_enough_questions_went_unanswered() -> None:
    few, enough = watched(), watched()
    fail(few, REPLY_FAILURES_MIN - 1)
    fail(enough, REPLY_FAILURES_MIN)
    assert not few.is_lost(START_US + 3_600_000_000)
    lost_at_us = START_US + REPLY_TIMEOUT_MARGIN_US + TIMEOUT_US
    assert not enough.is_lost(lost_at_us - 1)
    assert enough.is_lost(lost_at_us)
    enough.heard(lost_at_us)
    assert not enough.is_lost(lost_at_us + TIMEOUT_US)
