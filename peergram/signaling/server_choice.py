"""Which of several servers a client goes to, and when: any of them, and another one at once when one is lost.

Each server has its own way of being tried ever less often, so one that is gone for good does not keep a client from the others,
and nobody goes anywhere without a moment's wait drawn at random: the clients of a server that has died do not come all at once.
"""

from __future__ import annotations

from peergram.config import SIGNALING_RECONNECT_MIN_US
from peergram.signaling.reconnect import Reconnect


class ServerChoice:
    """Of `count` servers, the numbers from 0; `chance`, drawn evenly from 0 to 1, says which is the first."""

    def __init__(self, count: int, chance: float) -> None:
        self.current = min(int(chance * count), count - 1)
        """Where to connect."""
        self._reconnects = [Reconnect() for _ in range(count)]
        self._free_at_us = [0] * count

    def handle_connected(self, now_us: int) -> None:
        """The current one has let us in."""
        self._reconnects[self.current].handle_connected(now_us)

    def handle_lost(self, now_us: int, chance: float, pause_us: int = 0) -> int:
        """A connection or an attempt there has failed: how many microseconds to wait before the one that is current now.

        `chance` is drawn evenly from 0 to 1; `pause_us` is how long the one that failed is to be left alone at least.
        """
        lost, count = self.current, len(self._free_at_us)
        self._free_at_us[lost] = now_us + max(pause_us, self._reconnects[lost].handle_lost(now_us, chance))
        # The next ones in the circle come first where several are free.
        order = [(lost + step) % count for step in range(1, count + 1)]
        self.current = min(order, key=lambda each: max(self._free_at_us[each], now_us))
        if self.current == lost:
            return self._free_at_us[lost] - now_us
        at_least_us = int(SIGNALING_RECONNECT_MIN_US * (1 + chance))
        return max(at_least_us, self._free_at_us[self.current] - now_us)
