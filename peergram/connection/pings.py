"""Round trips that the application asks for: questions that the peer's library answers at once, on its own.

They travel as any question for an immediate ack, so a reference peer answers them too, and nothing reaches its application. Pings
are numbered from 1; the packet that asks carries its number in its record (`SentPacket.carries`), and the ack that reports on it
is the answer.
"""

from __future__ import annotations

from peergram.config import PING_ANSWERS_KEPT
from peergram.connection.in_flight import PING_UNIT
from peergram.events import PingAnswer


class Pings:
    """Which pings of one connection were asked, and what was answered lately."""

    __slots__ = ("_recent", "asked", "is_waiting")

    def __init__(self) -> None:
        self.asked = 0
        """How many there were; the number of the newest."""
        self.is_waiting = False
        """Whether the newest still waits for a packet to take it."""
        self._recent: list[PingAnswer] = []

    def ask(self) -> None:
        """One more, to go with the next question; one that still waits is given up for it."""
        self.asked += 1
        self.is_waiting = True

    def take(self) -> int:
        """What the packet that asks now notes in `carries`: 0 if no ping waits."""
        if not self.is_waiting:
            return 0
        self.is_waiting = False
        return self.asked * PING_UNIT

    def handle_answer(self, carries: int, round_trip_us: int) -> None:
        """The packet that noted this was acknowledged."""
        self._recent.append(PingAnswer(carries // PING_UNIT, max(round_trip_us, 0)))
        del self._recent[:-PING_ANSWERS_KEPT]

    @property
    def answers(self) -> tuple[PingAnswer, ...]:
        """The latest ones, oldest first."""
        return tuple(self._recent)
