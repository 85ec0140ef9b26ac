"""One session: what the application has with one identity, and what it must be told when that ends.

It decides; it does not act: the owner dials, accepts and closes connections, and tells the session what became of them. Rules:
protocol part 3, chapter 15.2; where lost data is concerned, the promise that none is lost silently.
"""

from __future__ import annotations

from typing import Final

from peergram.errors import End, EndReason, Result
from peergram.events import ConnectionState, SessionFailed, Unconfirmed
from peergram.identity import Identity
from peergram.sessions.channels import Channels
from peergram.sessions.states import TRANSITIONS, SessionCause, SessionState

_REMEDIES: Final[dict[int, str]] = {
    EndReason.MISC_TIMEOUT: "check that the peer is running, that its address and port are right and that it accepts the session",
    EndReason.REMOTE_TIMEOUT: "the peer stopped hearing us; check the path between both",
    EndReason.REMOTE_BAD_CERT: "compare the identities and trust settings of both sides",
    EndReason.REMOTE_BAD_CRYPT: "compare the encryption settings and versions of both sides",
    EndReason.REMOTE_BAD_PROTOCOL_VERSION: "update the older of both programs",
    EndReason.LOCAL_NETWORK_CONFIG: "check this machine's network and the port in use",
}
_SILENCE: Final = (EndReason.MISC_TIMEOUT, EndReason.MISC_P2P_RENDEZVOUS)
"""He was not heard any more, or, of a connection that took the place of another by itself, never."""


class Session:
    """State, channels and idle time of one session."""

    __slots__ = ("_idle_us", "channels", "failed_end", "failed_state", "identity", "last_used_us", "state", "was_connected")

    def __init__(self, identity: Identity, *, idle_us: int, now_us: int) -> None:
        self.identity = identity
        self.state = SessionState.IDLE
        self.channels = Channels()
        self.was_connected = False
        """Whether the present or last connection ever came up."""
        self.last_used_us = now_us
        self.failed_end: End | None = None
        """Why it failed, while it counts as failed."""
        self.failed_state = ConnectionState.NONE
        self._idle_us = idle_us

    @property
    def idle_at_us(self) -> int:
        """When it ends for want of messages, either way."""
        return self.last_used_us + self._idle_us

    def refusal(self, *, restarts: bool) -> Result | None:
        """What a send returns without being tried, or None; `restarts` is the AutoRestart flag."""
        if self.state == SessionState.FAILED and not restarts:
            return Result.CONNECT_FAILED
        return None

    def handle_dialed(self, now_us: int) -> None:
        """A connection is being opened by us."""
        self._enter(SessionCause.WE_DIAL)
        self._start(now_us)

    def handle_requested(self, now_us: int) -> None:
        """A stranger asks to talk."""
        self._enter(SessionCause.HE_ASKS)
        self._start(now_us)

    def handle_accepted(self, now_us: int) -> None:
        """We let him in."""
        self._enter(SessionCause.WE_ACCEPT)
        self.last_used_us = now_us

    def handle_opened(self, now_us: int) -> None:
        """The connection is up."""
        self._enter(SessionCause.OPENED)
        self.was_connected = True
        self.last_used_us = now_us

    def handle_ended(self, end: End, state: ConnectionState, unconfirmed: Unconfirmed) -> SessionFailed | None:
        """The connection is over, and not by our own close; what the application must be told, if anything."""
        if self.state in (SessionState.IDLE, SessionState.FAILED):
            return None
        lost_something = unconfirmed.messages > 0
        cause = self._cause_of(end, lost_something)
        tell = cause == SessionCause.BROKE or (lost_something and self.state != SessionState.REQUESTED)
        self._enter(cause)
        if cause == SessionCause.BROKE:
            self.failed_end, self.failed_state = end, state
        if not tell:
            return None
        return SessionFailed(self.identity, end.reason, state, explain(end), unconfirmed)

    def _cause_of(self, end: End, lost_something: bool) -> SessionCause:
        if self.state == SessionState.REQUESTED:
            return SessionCause.FADED
        if self.state == SessionState.CONNECTING:
            forgotten = end.by_peer and end.reason == EndReason.MISC_PEER_SENT_NO_CONNECTION
            return SessionCause.FADED if forgotten else SessionCause.BROKE
        if end.by_peer:
            return SessionCause.FADED
        quiet = end.reason in _SILENCE and not lost_something
        return SessionCause.FADED if quiet else SessionCause.BROKE

    def _start(self, now_us: int) -> None:
        self.was_connected = False
        self.failed_end = None
        self.failed_state = ConnectionState.NONE
        self.last_used_us = now_us

    def _enter(self, cause: SessionCause) -> None:
        self.state = TRANSITIONS[self.state, cause]


def explain(end: End) -> str:
    """The sentence for an end: what happened, and what may help."""
    remedy = _REMEDIES.get(end.reason)
    return f"{end.debug} ({remedy})" if remedy and not end.by_peer else end.debug
