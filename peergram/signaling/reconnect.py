"""When a client of a service tries again: soon at first, then ever less often, never in step with others."""

from __future__ import annotations

from peergram.config import SIGNALING_RECONNECT_MAX_US, SIGNALING_RECONNECT_MIN_US, SIGNALING_STEADY_US

_DOUBLINGS_MAX = 16


class Reconnect:
    """Counts failures and says how long to wait; one for each client."""

    __slots__ = ("_connected_us", "_failures")

    def __init__(self) -> None:
        self._failures = 0
        self._connected_us: int | None = None

    def handle_connected(self, now_us: int) -> None:
        """There is a connection; whether it is any good its age will tell."""
        self._connected_us = now_us

    def handle_lost(self, now_us: int, chance: float) -> int:
        """A connection, or an attempt, has failed: how many microseconds to wait. `chance` is drawn evenly from 0 to 1."""
        if self._connected_us is not None and now_us - self._connected_us >= SIGNALING_STEADY_US:
            self._failures = 0
        self._connected_us = None
        longest_us = min(SIGNALING_RECONNECT_MIN_US << (1 + min(self._failures, _DOUBLINGS_MAX)), SIGNALING_RECONNECT_MAX_US)
        self._failures += 1
        return SIGNALING_RECONNECT_MIN_US + int(chance * (longest_us - SIGNALING_RECONNECT_MIN_US))
