"""Signals that wait for the connection to a server: a few, for a few seconds."""

from __future__ import annotations

from collections import deque

from peergram.config import SIGNALING_UNSENT_AGE_US, SIGNALING_UNSENT_MAX
from peergram.identity import Identity


class Unsent:
    """A queue that the oldest leave when there are too many, or when they are too old. Threads may put while one takes."""

    def __init__(self) -> None:
        self._signals: deque[tuple[int, Identity, bytes]] = deque(maxlen=SIGNALING_UNSENT_MAX)

    def __len__(self) -> int:
        return len(self._signals)

    def put(self, to: Identity, signal: bytes, now_us: int) -> None:
        """One more."""
        self._signals.append((now_us, to, signal))

    def take(self, now_us: int) -> tuple[Identity, bytes] | None:
        """The oldest that is still worth sending; None when there is none."""
        while self._signals:
            put_at_us, to, signal = self._signals.popleft()
            if now_us - put_at_us <= SIGNALING_UNSENT_AGE_US:
                return to, signal
        return None
