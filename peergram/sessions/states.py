"""The states of a session, as a table: a missing entry is an error.

A session is what the application knows: who it talks to. Connections come and go below it. Semantics: `SessionState` says what
the next send does (protocol part 3, chapter 15.2, with our rows on lost data).
"""

from __future__ import annotations

from enum import Enum, auto


class SessionState(Enum):
    """What the application has with one identity."""

    IDLE = auto()
    """Nothing; a send opens."""
    REQUESTED = auto()
    """He asks; accepting or sending lets him in."""
    CONNECTING = auto()
    """We ask."""
    CONNECTED = auto()
    FAILED = auto()
    """It broke, and sends say so until it is closed, restarted or forgotten."""


class SessionCause(Enum):
    """What moves a session from state to state."""

    WE_DIAL = auto()
    HE_ASKS = auto()
    WE_ACCEPT = auto()
    OPENED = auto()
    BROKE = auto()
    FADED = auto()
    """Ended in a way the application need not clear: the next send opens a new one."""


_S, _C = SessionState, SessionCause
TRANSITIONS: dict[tuple[SessionState, SessionCause], SessionState] = {
    (_S.IDLE, _C.WE_DIAL): _S.CONNECTING,
    (_S.IDLE, _C.HE_ASKS): _S.REQUESTED,
    (_S.FAILED, _C.WE_DIAL): _S.CONNECTING,
    (_S.FAILED, _C.HE_ASKS): _S.REQUESTED,
    (_S.REQUESTED, _C.WE_ACCEPT): _S.CONNECTING,
    (_S.REQUESTED, _C.FADED): _S.IDLE,
    (_S.REQUESTED, _C.BROKE): _S.FAILED,
    (_S.CONNECTING, _C.OPENED): _S.CONNECTED,
    (_S.CONNECTING, _C.BROKE): _S.FAILED,
    (_S.CONNECTING, _C.FADED): _S.IDLE,
    (_S.CONNECTED, _C.BROKE): _S.FAILED,
    (_S.CONNECTED, _C.FADED): _S.IDLE,
}
