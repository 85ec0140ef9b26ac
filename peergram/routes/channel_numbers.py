"""Which channel numbers of an allocation are free: a server refuses to bind one to another peer until it forgot the first."""

from __future__ import annotations

from collections import deque

from peergram.config import TURN_CHANNEL_REST_US, TURN_CHANNELS_MAX
from peergram.wire.stun import CHANNEL_MAX, CHANNEL_MIN


class ChannelNumbers:
    """Gives out numbers, each to one peer at a time, with a rest of `TURN_CHANNEL_REST_US` in between."""

    __slots__ = ("_in_use", "_never_used", "_resting")

    def __init__(self) -> None:
        self._in_use: set[int] = set()
        self._never_used = CHANNEL_MIN
        self._resting: deque[tuple[int, int]] = deque()
        """Until when, and which."""

    def take(self, now_us: int) -> int | None:
        """A free number, None if there is none now."""
        if len(self._in_use) >= TURN_CHANNELS_MAX:
            return None
        if self._resting and self._resting[0][0] <= now_us:
            number = self._resting.popleft()[1]
        elif self._never_used <= CHANNEL_MAX:
            number = self._never_used
            self._never_used += 1
        else:
            return None
        self._in_use.add(number)
        return number

    def give_back(self, number: int, now_us: int) -> None:
        """Its peer needs it no more."""
        self._in_use.remove(number)
        self._resting.append((now_us + TURN_CHANNEL_REST_US, number))
