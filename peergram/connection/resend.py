"""Segments that must go once more: of each lane what the peer misses first; of the lanes, the one that was refused least.

A peer whose room is full takes only what completes the message he waits for (`ReceiveRoom.takes`): what lies behind a hole in the
same lane would be refused, and so may be everything of the other lanes. Each refusal sends a lane further back, so that the one
he takes is found soon and then goes on undisturbed, and the others have their turn when it is done.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heappop, heappush

from peergram.connection.lanes import TO_RETRANSMIT, Segment


class ResendQueue:
    """A heap for each lane. A segment that was confirmed meanwhile is passed over."""

    __slots__ = ("_heaps", "_order", "_turn")

    def __init__(self) -> None:
        self._heaps: dict[int, list[tuple[int, int, Segment]]] = {}
        """(position, order of arrival, segment) by lane, the lane served last at the end."""
        self._order = 0
        self._turn = 0
        """The lane of `first()`."""

    def __bool__(self) -> bool:
        return bool(self._heaps)

    def push(self, segment: Segment) -> None:
        """Add a segment."""
        self._order += 1
        heappush(self._heaps.setdefault(segment.lane.index, []), (segment.begin, self._order, segment))

    def first(self) -> Segment | None:
        """What goes next."""
        best: Segment | None = None
        for index, heap in list(self._heaps.items()):
            while heap and heap[0][2].state != TO_RETRANSMIT:
                heappop(heap)
            if not heap:
                del self._heaps[index]
            elif best is None or heap[0][2].losses < best.losses:
                best, self._turn = heap[0][2], index
        return best

    def pop(self) -> None:
        """Take `first()` out."""
        heappop(self._heaps[self._turn])

    def end_turn(self, served: Iterable[int]) -> None:
        """A packet is full: among lanes refused equally often, those in it go last from now on."""
        for index in served:
            heap = self._heaps.pop(index, None)
            if heap:
                self._heaps[index] = heap
