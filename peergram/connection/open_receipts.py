"""Receipts of messages that are under way in one connection.

A message counts as delivered by the same rule by which it does not count as unconfirmed: it left `SendLane.messages_unacked`.
So a send without a receipt costs nothing, and receipts and counts cannot differ.
"""

from __future__ import annotations

from collections import deque

from peergram.connection.lanes import SendLane
from peergram.events import Receipt


class OpenReceipts:
    """By lane, in the order of the stream."""

    __slots__ = ("_confirmed", "_lanes")

    def __init__(self) -> None:
        self._confirmed: list[Receipt] = []
        """Those that nobody took yet."""
        self._lanes: dict[int, tuple[SendLane, deque[tuple[int, Receipt]]]] = {}

    def add(self, lane: SendLane, receipt: Receipt) -> None:
        """For the reliable message that was queued last on this lane."""
        assert lane.messages_unacked
        if lane.index not in self._lanes:
            self._lanes[lane.index] = (lane, deque())
        self._lanes[lane.index][1].append((lane.messages_unacked[-1][0], receipt))

    @property
    def is_empty(self) -> bool:
        """Whether none is open any more."""
        return not self._lanes and not self._confirmed

    def take_confirmed(self) -> list[Receipt]:
        """Those whose messages the peer has."""
        confirmed, self._confirmed = self._confirmed, []
        for lane, waiting in list(self._lanes.values()):
            unacked = lane.messages_unacked
            while waiting and not (unacked and unacked[0][0] <= waiting[0][0]):
                confirmed.append(waiting.popleft()[1])
            if not waiting:
                del self._lanes[lane.index]
        return confirmed

    def take_lost(self) -> list[Receipt]:
        """It is over: all those whose messages nobody confirmed. Those that somebody did are there for `take_confirmed`."""
        self._confirmed = self.take_confirmed()
        receipts = [receipt for _, waiting in self._lanes.values() for _, receipt in waiting]
        self._lanes.clear()
        return receipts
