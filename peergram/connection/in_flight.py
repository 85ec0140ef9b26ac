"""Packets sent and not yet reported on by the peer.

An ack frame decides the fate of every packet up to its `latest`, so the open ones are always the consecutive numbers above the
newest `latest` (`reported`): a list, cut at its beginning, and the cost of an ack is the number of packets it settles (E10).
Packets of one burst that are alike share one record, so that bulk data costs a record per burst rather than per packet; a report
that parts them parts the record. Packets reported missing are kept for a while, since a late report may still confirm them.
Protocol part 2, section 11.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final, NamedTuple

from peergram.config import LOST_PACKETS_KEPT
from peergram.connection.lanes import StreamRange

PATH_PROBE: Final = 4
"""In `SentPacket.carries`, beside the kinds of statistics report: a probe of the path's MTU."""
REPORTS: Final = 3
"""The bits of the kinds of statistics report."""
PING_UNIT: Final = 8
"""Above those bits stands the number of the application's ping that the packet asks, 0 for none."""


class SentPacket(NamedTuple):
    """One packet in flight, or several of consecutive numbers that are alike; a tuple, because so many are made."""

    sent_at_us: int
    size_bytes: int
    """Of each."""
    ranges: list[StreamRange]
    """Reliable content; of several packets there is at most one range, which they share evenly and in order."""
    eliciting: bool
    """Whether the peer should answer it with an ack."""
    delivered_bytes: int
    """Bytes confirmed when it was sent (for the delivery rate)."""
    delivered_at_us: int
    carries: int
    """Kinds of statistics report it carries, whether it is a path probe, and which ping it asks, in bits."""
    packets: int = 1
    """How many packets this is."""

    def split(self, count: int) -> tuple[SentPacket, SentPacket]:
        """The first `count` packets, and the others."""
        first, rest = self.ranges, self.ranges
        if self.ranges:
            lane, begin, end = self.ranges[0]
            border = begin + (end - begin) // self.packets * count
            first, rest = [(lane, begin, border)], [(lane, border, end)]
        return self._replace(ranges=first, packets=count), self._replace(ranges=rest, packets=self.packets - count)


class Settled(NamedTuple):
    """What an ack frame decided."""

    acked: list[SentPacket]
    lost: list[SentPacket]
    revived: list[SentPacket]
    """Reported missing before, arrived after all."""
    newest: SentPacket | None
    """Packet `latest` itself, or those it was sent with, if it was still open: its time gives a round trip."""


_NOTHING_NEW: Final = Settled([], [], [], None)


class PacketsInFlight:
    """Packet numbers, what they carried, and what became of them."""

    __slots__ = (
        "_lost",
        "_open",
        "_open_count",
        "bytes",
        "eliciting_count",
        "may_revive",
        "next_number",
        "open_bytes",
        "reported",
    )

    def __init__(self, first_number: int) -> None:
        self.next_number = first_number
        self.reported = first_number - 1
        """Highest number any ack frame reported on; what stop-waiting frames tell the peer."""
        self._open: list[SentPacket] = []
        self._open_count = 0
        self._lost: dict[int, SentPacket] = {}
        self.bytes = 0
        """Bytes of open packets that elicit acks: what congestion control counts."""
        self.open_bytes = 0
        """Bytes of all open packets."""
        self.eliciting_count = 0
        self.may_revive = True
        """Whether the next ack frame may look for late reports; the owner sets it now and then, so that a packet full of acks
        stays cheap (E10)."""

    def __len__(self) -> int:
        return self._open_count

    @property
    def oldest(self) -> SentPacket | None:
        """The open packet sent first."""
        return self._open[0] if self._open else None

    def open_packets(self) -> list[SentPacket]:
        """Records of open packets, oldest first; not to be changed."""
        return self._open

    def add(self, packet: SentPacket) -> None:
        """Record packet `next_number`, and those that follow it in the same record, as sent."""
        count = packet.packets
        size = packet.size_bytes * count
        self.next_number += count
        self._open.append(packet)
        self._open_count += count
        self.open_bytes += size
        if packet.eliciting:
            self.bytes += size
            self.eliciting_count += count

    def settle(self, latest: int, blocks: list[tuple[int, int]]) -> Settled:
        """Apply an ack frame; `latest` must be below `next_number`."""
        if latest <= self.reported and not blocks:
            return _NOTHING_NEW
        acked: list[SentPacket] = []
        lost: list[SentPacket] = []
        newest = self._record_of(latest)
        if newest is not None:
            for begin, end in _missing_ranges(latest, blocks, self.reported) if blocks else ():
                self._take(begin - 1, acked)
                first = len(lost)
                self._take(end - 1, lost)
                self._remember_lost(begin, lost, first)
            self._take(latest, acked)
        settled = Settled(acked, lost, [], newest)
        if self._lost and blocks and self.may_revive:
            self.may_revive = False
            self._revive(latest, blocks, settled.revived)
        return settled

    def give_up_oldest(self) -> SentPacket:
        """Stop waiting for a report on the oldest open packet; the caller sends its content again."""
        given_up: list[SentPacket] = []
        self._take(self.reported + 1, given_up)
        return given_up[0]

    def _record_of(self, number: int) -> SentPacket | None:
        """The record that holds an open packet; None if `number` was reported on before."""
        begin = self.reported + 1
        if number < begin:
            return None
        if number == self.next_number - 1:
            return self._open[-1]
        for packet in self._open:
            begin += packet.packets
            if number < begin:
                return packet
        return None

    def _take(self, upto: int, taken: list[SentPacket]) -> None:
        """Close every open packet up to this number."""
        records = self._open
        wanted = upto - self.reported
        if wanted <= 0:
            return
        self.reported = upto
        self._open_count -= wanted
        count = 0
        while wanted:
            packet = records[count]
            if packet.packets > wanted:
                packet, records[count] = packet.split(wanted)
            else:
                count += 1
            wanted -= packet.packets
            size = packet.size_bytes * packet.packets
            self.open_bytes -= size
            if packet.eliciting:
                self.bytes -= size
                self.eliciting_count -= packet.packets
            taken.append(packet)
        del records[:count]

    def _remember_lost(self, number: int, lost: list[SentPacket], first: int) -> None:
        """Keep what was just reported missing, packet by packet, from `lost[first]` on, which has this number."""
        for packet in lost[first:]:
            rest = packet
            while rest.packets > 1:
                one, rest = rest.split(1)
                self._lost[number] = one
                number += 1
            self._lost[number] = rest
            number += 1
        while len(self._lost) > LOST_PACKETS_KEPT:
            del self._lost[next(iter(self._lost))]

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
