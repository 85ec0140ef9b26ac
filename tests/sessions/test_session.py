"""One session without any connection: what each end means for the application, and when it ends for want of messages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from peergram.errors import End, EndReason, Result
from peergram.events import ConnectionState, Unconfirmed
from peergram.identity import Identity
from peergram.sessions.session import Session, explain
from peergram.sessions.states import SessionState

BOB = Identity.of("bob")
LOST = Unconfirmed(2, 20)
NOTHING = Unconfirmed()
TIMEOUT = End(EndReason.MISC_TIMEOUT, "Connection dropped")
CLOSED = End(EndReason.SESSION_CLOSED, "bye", by_peer=True)
VIOLATED = End(EndReason.MISC_INTERNAL_ERROR, "nonsense")
LOCAL, REMOTE = ConnectionState.PROBLEM_DETECTED_LOCALLY, ConnectionState.CLOSED_BY_PEER


def session() -> Session:
    return Session(BOB, idle_us=180, now_us=1_000)


def connecting() -> Session:
    one = session()
    one.handle_dialed(1_000)
    return one


def connected() -> Session:
    one = connecting()
    one.handle_opened(1_001)
    return one


@pytest.mark.parametrize(
    ("end", "state", "lost", "told", "after"),
    [
        (TIMEOUT, LOCAL, NOTHING, False, SessionState.IDLE),
        (TIMEOUT, LOCAL, LOST, True, SessionState.FAILED),
        (CLOSED, REMOTE, NOTHING, False, SessionState.IDLE),
        (CLOSED, REMOTE, LOST, True, SessionState.IDLE),
        (VIOLATED, LOCAL, NOTHING, True, SessionState.FAILED),
        (VIOLATED, LOCAL, LOST, True, SessionState.FAILED),
    ],
)
def test_the_end_of_a_connected_session(
    end: End, state: ConnectionState, lost: Unconfirmed, told: bool, after: SessionState
) -> None:
    one = connected()
    failure = one.handle_ended(end, state, lost)
    assert (failure is not None) == told
    assert one.state == after
    if failure is not None:
        assert (failure.identity, failure.reason, failure.state, failure.unconfirmed) == (BOB, end.reason, state, lost)


@pytest.mark.parametrize("end", [TIMEOUT, CLOSED, VIOLATED])
@pytest.mark.parametrize("lost", [NOTHING, LOST])
def test_a_session_that_never_came_up_has_failed_whatever_the_reason(end: End, lost: Unconfirmed) -> None:
    one = connecting()
    assert one.handle_ended(end, LOCAL, lost) is not None
    assert one.state == SessionState.FAILED
    assert one.failed_state == LOCAL


@pytest.mark.parametrize("end", [TIMEOUT, CLOSED, VIOLATED])
def test_a_request_that_ends_is_nobodys_failure(end: End) -> None:
    one = session()
    one.handle_requested(1_000)
    assert one.handle_ended(end, LOCAL, NOTHING) is None
    assert one.state == SessionState.IDLE


def test_only_a_failed_session_refuses_and_only_without_auto_restart() -> None:
    one = connecting()
    assert one.refusal(restarts=False) is None
    one.handle_ended(TIMEOUT, LOCAL, LOST)
    assert one.refusal(restarts=False) == Result.CONNECT_FAILED
    assert one.refusal(restarts=True) is None


def test_a_new_start_forgets_the_failure() -> None:
    for begin in (Session.handle_dialed, Session.handle_requested):
        one = connected()
        one.handle_ended(VIOLATED, LOCAL, LOST)
        begin(one, 2_000)
        assert (one.failed_end, one.failed_state, one.was_connected) == (None, ConnectionState.NONE, False)


def test_an_end_of_what_ended_is_told_once() -> None:
    one = connected()
    one.handle_ended(VIOLATED, LOCAL, LOST)
    assert one.handle_ended(TIMEOUT, LOCAL, LOST) is None


def test_opening_and_accepting_put_the_idle_time_off() -> None:
    one = session()
    one.handle_requested(1_010)
    assert one.idle_at_us == 1_190
    one.handle_accepted(1_020)
    assert one.idle_at_us == 1_200
    one.handle_opened(1_030)
    assert one.idle_at_us == 1_210


@pytest.mark.parametrize("reason", [4001, 4002, 4003, 4006, 5003, 3004])
def test_our_own_reasons_come_with_a_remedy(reason: int) -> None:
    assert explain(End(reason, "what happened")).startswith("what happened (")


def test_the_peers_words_stay_as_they_are() -> None:
    assert explain(End(EndReason.MISC_TIMEOUT, "his words", by_peer=True)) == "his words"


class SessionModel(RuleBasedStateMachine):
    """Whatever the owner does in an order that makes sense: no missing table entry, and every loss is told."""

    def __init__(self) -> None:
        super().__init__()
        self.session = session()
        self.now_us = 1_000

    @precondition(lambda self: self.session.state in (SessionState.IDLE, SessionState.FAILED))
    @rule(dials=st.booleans())
    def start(self, dials: bool) -> None:
        self.now_us += 1
        (self.session.handle_dialed if dials else self.session.handle_requested)(self.now_us)

    @precondition(lambda self: self.session.state == SessionState.REQUESTED)
    @rule()
    def accept(self) -> None:
        self.session.handle_accepted(self.now_us)

    @precondition(lambda self: self.session.state == SessionState.CONNECTING)
    @rule()
    def open(self) -> None:
        self.session.handle_opened(self.now_us)

    @rule(end=st.sampled_from([TIMEOUT, CLOSED, VIOLATED]), lost=st.sampled_from([NOTHING, LOST]))
    def end(self, end: End, lost: Unconfirmed) -> None:
        before = self.session.state
        failure = self.session.handle_ended(end, LOCAL, lost)
        if before in (SessionState.CONNECTING, SessionState.CONNECTED) and lost.messages:
            assert failure is not None
            assert failure.unconfirmed == lost
        if before in (SessionState.IDLE, SessionState.FAILED):
            assert self.session.state == before

    @invariant()
    def a_failure_is_known_exactly_while_it_lasts(self) -> None:
        assert (self.session.failed_end is not None) == (self.session.state == SessionState.FAILED)


TestSessionModel = SessionModel.TestCase


@given(st.integers(0, 65_535), st.text(max_size=40))
def test_any_reason_can_be_explained(reason: int, debug: str) -> None:
    assert explain(End(reason, debug)).startswith(debug)
