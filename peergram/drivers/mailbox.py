"""Where other threads leave work for a driver: signals that arrived, names that were looked up.

Whoever leaves something never waits, not even for the driver's lock: a service may deliver from inside its own lock while the
driver, inside its lock, hands that service a signal.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

Work = Callable[[int], None]
"""What the driver shall do with its lock held; takes now_us."""


class Mailbox:
    """A queue with a bell; `put` may be called from any thread. How much may wait is for whoever puts to see to."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self.works: deque[Work] = deque()
        """What waits, oldest first; the driver takes it from here."""
        self.has_rung = False
        """Whether somebody has rung since the driver last put this down; it does so before it looks, so nothing is missed."""
        self._ring = ring

    def put(self, work: Work) -> None:
        """Leave `work`, and see that the driver has a turn."""
        self.works.append(work)
        self.call_driver()

    def call_driver(self) -> None:
        """Have a turn of the driver's, once until it looks."""
        if not self.has_rung:
            self.has_rung = True
            self._ring()
