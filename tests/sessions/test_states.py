"""The table of session states: what it must allow, and what it must not."""

from __future__ import annotations

import pytest

from peergram.sessions.states import TRANSITIONS, SessionCause, SessionState


def reachable(start: SessionState) -> set[SessionState]:
    found = {start}
    while more := {after for (before, _), after in TRANSITIONS.items() if before in found} - found:
        found |= more
    return found


@pytest.mark.parametrize("state", SessionState)
def test_every_state_is_reachable_from_every_other(state: SessionState) -> None:
    assert reachable(state) == set(SessionState)


@pytest.mark.parametrize("cause", SessionCause)
def test_every_cause_moves_something(cause: SessionCause) -> None:
    assert any(moves == cause for _, moves in TRANSITIONS)


def test_nothing_is_connected_that_was_not_connecting() -> None:
    assert [before for (before, _), after in TRANSITIONS.items() if after == SessionState.CONNECTED] == [SessionState.CONNECTING]


def test_an_ending_leaves_no_live_state() -> None:
    for (_, cause), after in TRANSITIONS.items():
        if cause in (SessionCause.BROKE, SessionCause.FADED):
            assert after in (SessionState.FAILED, SessionState.IDLE)


def test_every_live_state_can_end_both_ways() -> None:
    for state in (SessionState.REQUESTED, SessionState.CONNECTING, SessionState.CONNECTED):
        assert (state, SessionCause.BROKE) in TRANSITIONS
        assert (state, SessionCause.FADED) in TRANSITIONS
