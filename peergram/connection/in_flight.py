"""Packets sent and not yet reported on by the peer.

An ack frame decides the fate of every packet up to its `latest`, so the open ones are always the consecutive numbers above the
newest `latest` (`reported`): a deque, popped from the left, and the cost of an ack is the number of packets it settles (E10).
Packets reported missing are kept for a while, since a late report may still confirm them. Protocol part 2, section 11.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from typing import NamedTuple

from peergram.config import LOST_PACKETS_KEPT
from peergram.connection.lanes import Segment


class SentPacket(NamedTuple):
    """One packet in flight; a tuple, because one is made for each packet sent."""

    sent_at_us: int
    size_bytes: int
    segments: list[Segment]
    """Reliable content."""
    eliciting: bool
    """Whether the peer should answer it with an ack."""
    delivered_bytes: int
    """Bytes confirmed when it was sent (for the delivery rate)."""
    delivered_at_us: int
    carries_stats: int
    """Kinds of statistics report it carries, a bit mask."""


class Settled(NamedTuple):
    """What an ack frame decided."""

    acked: list[SentPacket]
    lost: list[SentPacket]
    revived: list[SentPacket]
    """Reported missing before, arrived after all."""
    newest: SentPacket | None
    """The packet `latest` itself if it was still open: its time gives a round trip."""


class PacketsInFlight:
    """Packet numbers, what they carried, and what became of them."""

    __slots__ = ("_lost", "_open", "bytes", "eliciting_count", "may_revive", "next_number", "open_bytes", "reported")

    def __init__(self, first_number: int) -> None:
        self.next_number = first_number
        self.reported = first_number - 1
        """Highest number any ack frame reported on; what stop-waiting frames tell the peer."""
        self._open: deque[SentPacket] = deque()
        self._lost: dict[int, SentPacket] = {}
        self.bytes = 0
        """Bytes of open packets that elicit acks: what congestion control counts."""
        self.open_bytes = 0
        """Bytes of all open packets."""
        self.eliciting_count = 0
        self.may_revive = True
        """Whether the next ack frame may look for late reports; once per packet, so that a packet full of acks stays cheap
        (E10)."""

    def __len__(self) -> int:
        return len(self._open)

    @property
    def oldest(self) -> SentPacket | None:
        """The open packet sent first."""
        return self._open[0] if self._open else None

    def open_packets(self) -> deque[SentPacket]:
        """Open packets, oldest first; not to be changed."""
        return self._open

    def add(self, packet: SentPacket) -> None:
        """Record packet `next_number` as sent."""
        self.next_number += 1
        self._open.append(packet)
        self.open_bytes += packet.size_bytes
        if packet.eliciting:
            self.bytes += packet.size_bytes
            self.eliciting_count += 1

    def settle(self, latest: int, blocks: list[tuple[int, int]]) -> Settled:
        """Apply an ack frame; `latest` must be below `next_number`."""
        settled = Settled([], [], [], self._packet_at(latest))
        if latest > self.reported:
            missing = _missing_ranges(latest, blocks, self.reported) if blocks else []
            self._settle_open(latest, missing, settled)
        if self._lost and blocks and self.may_revive:
            self.may_revive = False
            self._revive(latest, blocks, settled.revived)
        return settled

    def give_up_oldest(self) -> SentPacket:
        """Stop waiting for a report on the oldest open packet; the caller sends its content again."""
        packet = self._open.popleft()
        self._close(packet)
        self.reported += 1
        return packet

    def _packet_at(self, number: int) -> SentPacket | None:
        at = number - self.reported - 1
        return self._open[at] if 0 <= at < len(self._open) else None

    def _settle_open(self, latest: int, missing: list[tuple[int, int]], settled: Settled) -> None:
        pop = self._open.popleft
        number = self.reported
        for begin, end in [*missing, (latest + 1, latest + 1)]:
            while number + 1 < begin:
                number += 1
                packet = pop()
                settled.acked.append(packet)
                self._close(packet)
            while number + 1 < end:
                number += 1
                packet = pop()
                settled.lost.append(packet)
                self._lost[number] = packet
                if len(self._lost) > LOST_PACKETS_KEPT:
                    del self._lost[next(iter(self._lost))]
                self._close(packet)
        self.reported = latest

    def _close(self, packet: SentPacket) -> None:
        self.open_bytes -= packet.size_bytes
        if packet.eliciting:
            self.bytes -= packet.size_bytes
            self.eliciting_count -= 1

    def _revive(self, latest: int, blocks: list[tuple[int, int]], revived: list[SentPacket]) -> None:
        begins: list[int] = []
        ends: list[int] = []
        end = latest + 1
        for acked, missing in blocks:
            begins.append(end - acked)
            ends.append(end)
            end -= acked + missing
        begins.reverse()
        ends.reverse()
        for number in list(self._lost):
            at = bisect_right(begins, number) - 1
            if at >= 0 and number < ends[at]:
                revived.append(self._lost.pop(number))

    def forget_lost(self, sent_before_us: int) -> None:
        """Give up waiting for late reports on packets sent before that time."""
        while self._lost:
            number = next(iter(self._lost))
            if self._lost[number].sent_at_us >= sent_before_us:
                return
            del self._lost[number]


def _missing_ranges(latest: int, blocks: list[tuple[int, int]], above: int) -> list[tuple[int, int]]:
    """Half-open ranges of missing numbers greater than `above`, ascending."""
    ranges: list[tuple[int, int]] = []
    end = latest + 1
    for acked, missing in blocks:
        hole_end = end - acked
        end = hole_end - missing
        if hole_end <= above + 1:
            break
        if missing:
            ranges.append((max(end, above + 1), hole_end))
    ranges.reverse()
    return ranges
