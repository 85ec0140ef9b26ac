"""Is the peer still there? Questions that expect an answer, keepalive, and the time-out of a connection that was up.

Protocol part 1, chapter 13 and part 2, section 13: whatever expects a reply starts one timer; anything valid from the peer
stops it; while answers are missing, urgent pings go out; several failures and long silence together end the connection.
"""

from __future__ import annotations

from peergram.config import (
    KEEPALIVE_SLOT_US,
    KEEPALIVE_US,
    REPLY_FAILURES_MIN,
    REPLY_TIMEOUT_DELAYED_US,
    REPLY_TIMEOUT_MARGIN_US,
    REPLY_TIMEOUT_MAX_US,
    URGENT_PING_US,
)
from peergram.connection.rtt import RoundTrip
from peergram.timing import NEVER, Deadline


class Liveness:
    """Watches one connection's silence."""

    __slots__ = (
        "_failing_since_us",
        "_keepalive_us",
        "_reply_due_us",
        "_timeout_us",
        "_urgent_at_us",
        "failures",
        "last_heard_us",
    )

    def __init__(self, timeout_us: int, now_us: int, keepalive_us: int = KEEPALIVE_US) -> None:
        self._timeout_us = timeout_us
        self._keepalive_us = keepalive_us
        self.last_heard_us = now_us
        self.failures = 0
        self._failing_since_us = now_us
        self._reply_due_us = NEVER
        self._urgent_at_us = now_us

    def heard(self, now_us: int) -> None:
        """Something valid came from the peer."""
        self.last_heard_us = now_us
        self._reply_due_us = NEVER
        self.failures = 0

    def expect_reply(self, round_trip: RoundTrip, now_us: int, *, may_be_delayed: bool) -> None:
        """Something was sent that the peer must answer; has no effect while an answer is awaited already."""
        if self._reply_due_us != NEVER:
            return
        worst_ms = round_trip.worst_recent_ping_ms
        wait_us = REPLY_TIMEOUT_MAX_US
        if worst_ms is not None:
            wait_us = min(2_000 * worst_ms + REPLY_TIMEOUT_MARGIN_US, REPLY_TIMEOUT_MAX_US)
        self._reply_due_us = now_us + wait_us + (REPLY_TIMEOUT_DELAYED_US if may_be_delayed else 0)

    def handle_timeout(self, now_us: int) -> None:
        """Count a missing answer."""
        if now_us >= self._reply_due_us:
            self._reply_due_us = NEVER
            self.failures += 1
            if self.failures == 1:
                self._failing_since_us = now_us
                self._urgent_at_us = now_us

    def is_lost(self, now_us: int) -> bool:
        """Whether the peer must be taken for gone."""
        return self.failures >= REPLY_FAILURES_MIN and now_us >= self._lost_at_us

    @property
    def silent_at_us(self) -> int:
        """When the peer has been silent for as long as he may be, asked or not."""
        return self.last_heard_us + self._timeout_us

    @property
    def _keepalive_at_us(self) -> int:
        """When a silent peer is asked, all in a slot together."""
        return -(-(self.last_heard_us + self._keepalive_us) // KEEPALIVE_SLOT_US) * KEEPALIVE_SLOT_US

    @property
    def _lost_at_us(self) -> int:
        return max(self._failing_since_us, self.last_heard_us) + self._timeout_us

    def wants_urgent_ping(self, now_us: int) -> bool:
        """Whether a question for an immediate answer is due."""
        return self.failures > 0 and now_us >= self._urgent_at_us

    def wants_keepalive(self, now_us: int) -> bool:
        """Whether the peer was silent for so long that we ask for a sign of life."""
        return (
            self._reply_due_us == NEVER and now_us >= self.last_heard_us + self._keepalive_us and now_us >= self._keepalive_at_us
        )

    @property
    def asks_at_us(self) -> int:
        """From when on `wants_urgent_ping` or `wants_keepalive` is true."""
        if self._reply_due_us != NEVER:
            return self._urgent_at_us if self.failures else NEVER
        return min(self._keepalive_at_us, self._urgent_at_us) if self.failures else self._keepalive_at_us

    def pinged(self, now_us: int) -> None:
        """A question for an immediate answer was sent."""
        self._urgent_at_us = now_us + URGENT_PING_US

    def poll_timeout(self, *, ends: bool = True) -> Deadline:
        """The earliest of: answer missing, urgent ping, keepalive, and the end if there is to be one."""
        if self._reply_due_us == NEVER:
            deadline = Deadline(self._keepalive_at_us, "keepalive")
        else:
            deadline = Deadline(self._reply_due_us, "reply missing")
        if self.failures > 0:
            deadline = min(deadline, Deadline(self._urgent_at_us, "urgent ping"))
            if ends and self.failures >= REPLY_FAILURES_MIN:
                deadline = min(deadline, Deadline(self._lost_at_us, "peer lost"))
        return deadline
