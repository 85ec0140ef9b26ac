"""Passwords and candidates arrive once and in order, although signals are lost, doubled and late (chapter 7 of the P2P protocol).

Entries are numbered from 1, each direction for itself. A signal carries a run of them and says the number of the first; the
receiver takes what continues the row and acknowledges the last number it has. What is not acknowledged goes again.

Where the reference begins with the first entry that is due, ours begins with the oldest that is not acknowledged, in signals of
every kind: whichever signal arrives then closes the gap that a lost one has left, and nobody waits for the repetition.
"""

from __future__ import annotations

from typing import Literal

from peergram.config import SIGNAL_RELIABLE_BYTES_MAX, SIGNAL_RELIABLE_MAX, SIGNAL_RELIABLE_QUEUED_MAX, SIGNAL_REPEAT_US
from peergram.timing import NEVER
from peergram.wire.signals import ReliableSignal

SignalKind = Literal["request", "ok", "other"]
"""A connect request, a ConnectOK, or a signal that only brings news. A close carries no entries."""

_ENTRY_HEAD_BYTES = 16


class _Queued:
    __slots__ = ("due_us", "entry", "was_sent")

    def __init__(self, entry: ReliableSignal, due_us: int) -> None:
        self.entry = entry
        self.due_us = due_us
        self.was_sent = False


class SignalOutbox:
    """Our entries until the peer has them. After every call, `next_due_us` says when a signal should go for their sake."""

    __slots__ = ("_first", "_queued")

    def __init__(self) -> None:
        self._first = 1
        self._queued: list[_Queued] = []

    def __len__(self) -> int:
        return len(self._queued)

    @property
    def acked(self) -> int:
        """Number of the last entry that the peer has; 0 if he has none."""
        return self._first - 1

    def queue(self, entry: ReliableSignal, now_us: int) -> int | None:
        """Give `entry` the next number; it is due at once. None, and nothing done, if too many wait already."""
        if len(self._queued) >= SIGNAL_RELIABLE_QUEUED_MAX:
            return None
        self._queued.append(_Queued(entry, now_us))
        return self.acked + len(self._queued)

    def take(self, kind: SignalKind, now_us: int) -> tuple[int | None, list[ReliableSignal]]:
        """`first_reliable` and `reliable` of the signal that goes now; (None, []) if it carries none.

        Requests and answers carry all that is not acknowledged, others the same if any of it is due; in every case only as much
        as a signal should hold.
        """
        if not self._queued or (kind == "other" and self.next_due_us > now_us):
            return None, []
        carried = self._next_run()
        for queued in carried:
            queued.was_sent = True
            queued.due_us = now_us + SIGNAL_REPEAT_US
        return self._first, [queued.entry for queued in carried]

    def ack(self, number: int) -> None:
        """The peer has everything up to `number`. What was never sent cannot be acknowledged."""
        while self._queued and self._queued[0].was_sent and self._first <= number:
            self._queued.pop(0)
            self._first += 1

    def resend_all(self, now_us: int) -> None:
        """Everything is due now: the peer has shown that it took nothing of what it was sent."""
        for queued in self._queued:
            queued.due_us = now_us

    def clear(self) -> None:
        """The connection is over: nothing is due any more."""
        self._first += len(self._queued)
        self._queued.clear()

    @property
    def next_due_us(self) -> int:
        """When an entry is due; `NEVER` if none waits."""
        return min((queued.due_us for queued in self._next_run()), default=NEVER)

    def _next_run(self) -> list[_Queued]:
        """As many of the oldest as one signal holds; those behind them wait for acknowledgements, not for the clock."""
        run: list[_Queued] = []
        room_bytes = SIGNAL_RELIABLE_BYTES_MAX
        for queued in self._queued:
            room_bytes -= _entry_bytes(queued.entry)
            if run and (room_bytes < 0 or len(run) == SIGNAL_RELIABLE_MAX):
                break
            run.append(queued)
        return run


class SignalInbox:
    """The peer's entries as they arrive."""

    __slots__ = ("ack_wanted", "last")

    def __init__(self) -> None:
        self.last = 0
        """Number of the last entry taken: `ack_reliable` of every signal we send that does not close."""
        self.ack_wanted = False
        """Whether a signal should go soon to acknowledge; for the sender of signals to put back when one has gone."""

    def take(self, first: int | None, entries: list[ReliableSignal]) -> list[ReliableSignal]:
        """Those entries that are new and continue the row; none if there is a gap before them, which the peer will fill."""
        if first is None:
            return []
        self.ack_wanted = True
        if first > self.last + 1:
            return []
        fresh = entries[self.last + 1 - first :]
        self.last += len(fresh)
        return fresh


def _entry_bytes(entry: ReliableSignal) -> int:
    """About what it takes of a signal, rounded up."""
    return _ENTRY_HEAD_BYTES + len(entry.candidate or b"") + len(entry.password or b"")
