"""Who has something to send, and who must be woken when.

Links with something to send take turns, one batch each. Timers are a heap with lazy deletion: an entry counts only if it is the
time its owner is armed for, so re-arming costs one push and ten thousand sleeping sessions cost nothing.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import Final, Protocol

from peergram.endpoint.link import Link
from peergram.timing import NEVER, Deadline

_HEAP_MIN: Final = 256


class Armed(Protocol):
    """Whoever can be woken."""

    armed_at_us: int


class Schedule:
    """Ready links in turn, and all timers of an endpoint."""

    __slots__ = ("_heap", "_heap_max", "_order", "_ready", "is_touched")

    def __init__(self) -> None:
        self._ready: deque[Link] = deque()
        self._heap: list[tuple[int, int, Armed, str]] = []
        self._heap_max = _HEAP_MIN
        """Above this size, entries that no longer count are swept out."""
        self._order = 0
        self.is_touched = False
        """Whether anything became ready or was armed since everything was drained."""

    def make_ready(self, link: Link) -> None:
        """This link may have something to send."""
        if not link.is_ready:
            link.is_ready = True
            self.is_touched = True
            self._ready.append(link)

    def next_ready(self) -> Link | None:
        """The link whose turn it is; it leaves the row."""
        if not self._ready:
            return None
        link = self._ready.popleft()
        link.is_ready = False
        return link

    def arm(self, owner: Armed, deadline: Deadline | None) -> None:
        """Wake `owner` then, and not at the time it was armed for before."""
        if deadline is None:
            owner.armed_at_us = NEVER
            return
        if deadline.at_us == owner.armed_at_us:
            return
        owner.armed_at_us = deadline.at_us
        self.is_touched = True
        self._order += 1
        heapq.heappush(self._heap, (deadline.at_us, self._order, owner, deadline.reason))
        if len(self._heap) > self._heap_max:
            self._sweep()

    def _sweep(self) -> None:
        self._heap = [entry for entry in self._heap if entry[2].armed_at_us == entry[0]]
        heapq.heapify(self._heap)
        self._heap_max = max(2 * len(self._heap), _HEAP_MIN)

    def poll_timeout(self) -> Deadline | None:
        """The earliest time anybody is armed for."""
        heap = self._heap
        while heap:
            at_us, _, owner, reason = heap[0]
            if owner.armed_at_us == at_us:
                return Deadline(at_us, reason)
            heapq.heappop(heap)
        return None

    def pop_due(self, now_us: int) -> Armed | None:
        """The next owner whose time has come, disarmed; None when there is none."""
        heap = self._heap
        while heap and heap[0][0] <= now_us:
            at_us, _, owner, _ = heapq.heappop(heap)
            if owner.armed_at_us == at_us:
                owner.armed_at_us = NEVER
                return owner
        return None
