"""Packet numbers received: which are new, and what to tell the peer about them.

Two records are kept as runs of consecutive numbers, newest last. `ReplayWindow` knows every number that was processed, so that
none is processed twice. `AcksOwed` knows those the peer may forget about, when each run and each hole must be reported, and
writes the blocks of an ack frame. A packet that was refused ("treated as lost") is in the first record only, and the peer sends
its content again.

Rules: protocol part 2, sections 1, 6.6 and 7; improvements G3 (a hole has a timer of its own) and E13 (work never grows with a
gap).
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

from peergram.config import ACK_GAPS_MAX, NACK_DELAY_MAX_US, NACK_DELAY_US, REPLAY_RANGES_MAX
from peergram.connection.limits import OWN, ReceiveLimits
from peergram.timing import NEVER

_HOLES_REMEMBERED: Final = 32


class ReplayWindow:
    """Every packet number is processed at most once; numbers too far back are refused unseen."""

    __slots__ = ("_begins", "_ends", "_jump_forgets", "_reach", "floor", "highest")

    def __init__(self, highest: int, limits: ReceiveLimits = OWN) -> None:
        self.highest = highest
        self.floor = highest + 1
        """Numbers below this count as received."""
        self._begins = [0]
        self._ends = [highest + 1]
        self._reach = limits.replay_reach_packets
        self._jump_forgets = limits.replay_jump_forgets

    def is_new(self, number: int) -> bool:
        """Whether a packet of this number may be processed."""
        if number > self.highest:
            return True
        if number < self.floor:
            return False
        at = bisect_right(self._begins, number) - 1
        return at < 0 or number >= self._ends[at]

    def add(self, number: int) -> None:
        """Record a number that `is_new` allowed and that was decrypted."""
        jump = number - self.highest
        if jump == 1:
            self.highest = number
            self._ends[-1] = number + 1
            if not number & 1023:
                self._raise_floor()
        elif jump > 1:
            self._add_ahead(number, jump)
        else:
            self._add_late(number)

    def add_run(self, last: int) -> None:
        """Record the numbers that follow the highest one, up to `last`."""
        before = self.highest
        self.highest = last
        self._ends[-1] = last + 1
        if before >> 10 != last >> 10:
            self._raise_floor()

    def _add_ahead(self, number: int, jump: int) -> None:
        self.highest = number
        if self._jump_forgets and jump >= self._jump_forgets:
            self._begins, self._ends = [0], [number + 1]
            self.floor = number + 1
            return
        self._begins.append(number)
        self._ends.append(number + 1)
        self._raise_floor()

    def _add_late(self, number: int) -> None:
        begins, ends = self._begins, self._ends
        at = bisect_right(begins, number)
        joins_lower = at > 0 and ends[at - 1] == number
        joins_upper = at < len(begins) and begins[at] == number + 1
        if joins_lower and joins_upper:
            ends[at - 1] = ends[at]
            del begins[at], ends[at]
        elif joins_lower:
            ends[at - 1] = number + 1
        elif joins_upper:
            begins[at] = number
        else:
            begins.insert(at, number)
            ends.insert(at, number + 1)

    def _raise_floor(self) -> None:
        """Forget what lies out of reach, and the oldest runs when there are too many."""
        self.floor = max(self.floor, (self.highest & ~63) - self._reach)
        while len(self._begins) > 1 and (self._ends[0] <= self.floor or len(self._begins) > REPLAY_RANGES_MAX):
            self.floor = max(self.floor, self._ends[0])
            del self._begins[0], self._ends[0]


class Run:
    """Consecutive packets to acknowledge, `[begin, end)`, and the hole below them."""

    __slots__ = ("begin", "end", "end_at_us", "hole_at_us", "hole_noticed_at_us", "hole_reported")

    def __init__(self, begin: int, end: int, end_at_us: int, hole_at_us: int, hole_noticed_at_us: int) -> None:
        self.begin = begin
        self.end = end
        self.end_at_us = end_at_us
        """When packet `end - 1` arrived."""
        self.hole_at_us = hole_at_us
        """From when on the packets just below `begin` count as missing rather than late."""
        self.hole_noticed_at_us = hole_noticed_at_us
        self.hole_reported = False


class AckReport:
    """The values of one ack frame."""

    __slots__ = ("blocks", "delay_us", "latest")

    def __init__(self, latest: int, delay_us: int | None, blocks: list[tuple[int, int]]) -> None:
        self.latest = latest
        self.delay_us = delay_us
        self.blocks = blocks
        """(received, missing) pairs, newest first."""


class AcksOwed:
    """What the peer should hear about its packets, and by when."""

    __slots__ = (
        "_holes_given_up",
        "_runs",
        "_stop_waiting_said",
        "_stop_waiting_set_by",
        "due_at_us",
        "nack_delay_us",
        "packets_unreported",
        "stop_waiting",
    )

    def __init__(self, highest: int) -> None:
        self._runs = [Run(0, highest + 1, -1, 0, 0)]
        self._holes_given_up: list[tuple[int, int, int]] = []
        """(begin, end, when noticed) of holes the peer no longer wants to hear about."""
        self.nack_delay_us = NACK_DELAY_US
        """How long a missing packet may merely be late; grows where packets overtake each other."""
        self.stop_waiting = 0
        """The peer no longer wants to hear about numbers below this."""
        self._stop_waiting_said = (0, 0)
        self._stop_waiting_set_by = 0
        self.due_at_us = NEVER
        """When the next ack frame must go."""
        self.packets_unreported = 0
        """Packets worth an ack that came since the last ack frame."""

    @property
    def top(self) -> int:
        """Highest packet number we will report."""
        return self._runs[-1].end - 1

    def schedule(self, at_us: int) -> None:
        """Have an ack frame sent by `at_us`; deadlines only move earlier."""
        if at_us < self.due_at_us:
            self.due_at_us = at_us

    def add(self, number: int, now_us: int) -> None:
        """Record a packet whose content was taken."""
        last = self._runs[-1]
        if number == last.end:
            last.end = number + 1
            last.end_at_us = now_us
        elif number > last.end:
            self._runs.append(Run(number, number + 1, now_us, now_us + self.nack_delay_us, now_us))
            self.schedule(now_us + self.nack_delay_us)
            if len(self._runs) > ACK_GAPS_MAX:
                # The packets of the oldest run are then reported missing: sent twice, never lost.
                del self._runs[0]
        elif number >= self.stop_waiting:
            self._add_late(number, now_us)
        else:
            self._learn_from_late(number, now_us)

    def add_run(self, first: int, last: int, now_us: int) -> None:
        """Record packets of consecutive numbers whose content was taken."""
        self.add(first, now_us)
        newest = self._runs[-1]
        if newest.end == first + 1:
            newest.end = last + 1
            newest.end_at_us = now_us

    def _learn_from_late(self, number: int, now_us: int) -> None:
        """A packet came after the peer gave it up, told by us that it was missing."""
        for begin, end, noticed_at_us in self._holes_given_up:
            if begin <= number < end:
                self._be_patient(now_us - noticed_at_us)

    def _be_patient(self, lateness_us: int) -> None:
        """A packet reported missing was only late: report the next ones later."""
        self.nack_delay_us = min(max(self.nack_delay_us, lateness_us * 5 // 4), NACK_DELAY_MAX_US)

    def _add_late(self, number: int, now_us: int) -> None:
        runs = self._runs
        at = len(runs)
        while at > 0 and runs[at - 1].begin > number:
            at -= 1
        lower = runs[at - 1] if at > 0 else None
        upper = runs[at] if at < len(runs) else None
        if lower is not None and number < lower.end:
            return
        if upper is not None and upper.hole_reported:
            self._be_patient(now_us - upper.hole_noticed_at_us)
        if lower is not None and lower.end == number:
            lower.end, lower.end_at_us = number + 1, now_us
            if upper is not None and upper.begin == lower.end:
                upper.begin, upper.hole_at_us, upper.hole_reported = lower.begin, lower.hole_at_us, lower.hole_reported
                upper.hole_noticed_at_us = lower.hole_noticed_at_us
                del runs[at - 1]
        elif upper is not None and upper.begin == number + 1:
            upper.begin = number
        elif len(runs) < ACK_GAPS_MAX:
            hole_at_us = upper.hole_at_us if upper else now_us
            noticed_at_us = upper.hole_noticed_at_us if upper else now_us
            runs.insert(at, Run(number, number + 1, now_us, hole_at_us, noticed_at_us))

    def handle_stop_waiting(self, value: int, packet_number: int) -> bool:
        """Take the peer's newest limit; False if it went down, which ends the connection.

        Of one above `top` only what is below counts at first, as with the reference, and the rest after `catch_up`.
        """
        self._stop_waiting_said = max(self._stop_waiting_said, (value, packet_number))
        value = min(value, self.top)
        if value <= self.stop_waiting:
            return value == self.stop_waiting or packet_number < self._stop_waiting_set_by
        self.stop_waiting = value
        self._stop_waiting_set_by = packet_number
        while len(self._runs) > 1 and self._runs[0].end <= value:
            upper = self._runs[1]
            self._holes_given_up.append((self._runs[0].end, upper.begin, upper.hole_noticed_at_us))
            del self._holes_given_up[:-_HOLES_REMEMBERED]
            # Patience wears off as holes turn out to be losses.
            self.nack_delay_us -= (self.nack_delay_us - NACK_DELAY_US) >> 6
            del self._runs[0]
        return True

    def catch_up(self) -> None:
        """Packets are acknowledged again, after so many that found no room: the limit that the peer named meanwhile counts."""
        self.handle_stop_waiting(*self._stop_waiting_said)

    def report(self, now_us: int, blocks_max: int = ACK_GAPS_MAX) -> AckReport:
        """The ack frame for now. A hole that may still be only late hides what lies above it, until its 3 ms are over."""
        runs = self._runs
        shown = self._count_shown(now_us, blocks_max)
        blocks: list[tuple[int, int]] = []
        for at in range(shown - 1, 0, -1):
            blocks.append((runs[at].end - runs[at].begin, runs[at].begin - runs[at - 1].end))
            runs[at].hole_reported = True
        oldest = runs[0]
        if oldest.begin > self.stop_waiting:
            blocks.append((oldest.end - oldest.begin, oldest.begin - self.stop_waiting))
        newest = runs[shown - 1]
        delay_us = max(now_us - newest.end_at_us, 0) if newest.end_at_us >= 0 else None
        self.packets_unreported = 0
        self.due_at_us = NEVER
        if shown < len(runs):
            # Holes that found no room in this frame wait for the next one, not for the same moment.
            self.due_at_us = max(runs[shown].hole_at_us, now_us + NACK_DELAY_US)
        return AckReport(newest.end - 1, delay_us, blocks)

    def _count_shown(self, now_us: int, blocks_max: int) -> int:
        runs = self._runs
        if len(runs) == 1:
            return 1
        shown = 1
        while shown < len(runs) and shown < blocks_max and runs[shown].hole_at_us <= now_us:
            shown += 1
        return shown
