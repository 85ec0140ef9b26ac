"""What waits to be sent: messages by lane, and who goes next.

Each lane has its own message numbers and its own reliable stream. Reliable messages become one run of stream bytes (framing
header and payload), of which segments of any size are cut; so small neighbours share a segment and large ones fill their
packets. A lower priority number goes first, strictly; inside a priority, lanes share bytes by weight (start-time fair
queueing). Protocol part 2, sections 5, 8, 10.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from functools import lru_cache
from operator import attrgetter

from peergram.config import MESSAGE_NUMBER_STEP_MAX, STREAM_SPAN_MAX
from peergram.timing import NEVER
from peergram.wire.reliable_framing import encode_message_header

IN_FLIGHT = 0
TO_RETRANSMIT = 1
ACKED = 2


_begin_of = attrgetter("begin")
_message_header = lru_cache(maxsize=4096)(encode_message_header)


class Segment:
    """Stream bytes that went out once and are not confirmed yet; packets that carry them again refer to the same segment."""

    __slots__ = ("begin", "data", "end", "lane", "losses", "state")

    def __init__(self, lane: SendLane, begin: int, data: bytes) -> None:
        self.lane = lane
        self.begin = begin
        self.data = data
        self.end = begin + len(data)
        self.state = IN_FLIGHT
        self.losses = 0
        """How often the peer reported it missing."""


class SendLane:
    """One lane's queues. Byte counts include framing headers, as the reference's do."""

    __slots__ = (
        "index",
        "message_number",
        "messages_unacked",
        "missing",
        "next_position",
        "priority",
        "reliable",
        "reliable_bytes",
        "reliable_number",
        "reliable_offset",
        "segments",
        "served",
        "unacked_bytes",
        "unreliable",
        "unreliable_bytes",
        "unreliable_offset",
        "weight",
    )

    def __init__(self, index: int, priority: int = 0, weight: int = 1) -> None:
        self.index = index
        self.priority = priority
        self.weight = weight
        self.served = 0.0
        """Bytes sent divided by weight: the lane with the least of its priority goes next."""
        self.message_number = 0
        self.reliable: deque[tuple[int, int, bytes]] = deque()
        """(message number, Nagle deadline, framed bytes) of each reliable message not wholly sent."""
        self.reliable_offset = 0
        """Bytes of the first one already sent."""
        self.reliable_bytes = 0
        self.reliable_number = 0
        self.next_position = 1
        self.unreliable: deque[tuple[int, int, bytes]] = deque()
        self.unreliable_offset = 0
        self.unreliable_bytes = 0
        self.segments: deque[Segment] = deque()
        """Segments in stream order, from the oldest unconfirmed one."""
        self.messages_unacked: deque[tuple[int, int, int]] = deque()
        """(end position, message number, payload bytes) of each reliable message not wholly confirmed."""
        self.missing = 0
        """Segments that were lost once and are not confirmed yet: holes in what the peer has."""
        self.unacked_bytes = 0
        """Stream bytes in flight, those waiting to go again not counted."""

    @property
    def has_data(self) -> bool:
        """Whether anything waits to be sent for the first time."""
        return bool(self.reliable) or bool(self.unreliable)

    @property
    def may_cut(self) -> bool:
        """Whether new stream bytes may go. Behind a hole the peer must keep what comes, and has room for so much only."""
        if not self.reliable:
            return False
        if not self.missing or not self.messages_unacked:
            return True
        end, _, size = self.messages_unacked[0]
        return self.next_position - (end - size) < STREAM_SPAN_MAX

    @property
    def head_deadline_us(self) -> int:
        """When the oldest waiting message must go; 0 once it was begun."""
        deadline_us = NEVER
        if self.reliable:
            deadline_us = 0 if self.reliable_offset else self.reliable[0][1]
        if self.unreliable:
            deadline_us = min(deadline_us, 0 if self.unreliable_offset else self.unreliable[0][1])
        return deadline_us

    def queue_reliable(self, data: bytes, deadline_us: int) -> int:
        """Queue a reliable message; how many stream bytes it takes."""
        number = self.message_number = self.message_number + 1
        step = number - self.reliable_number
        if step > MESSAGE_NUMBER_STEP_MAX:
            # The receiver ends the connection over a larger step (P7); the number only serves to sort.
            step = MESSAGE_NUMBER_STEP_MAX
        self.reliable_number += step
        framed = _message_header(step, len(data)) + data
        self.reliable.append((number, deadline_us, framed))
        self.reliable_bytes += len(framed)
        self.messages_unacked.append((self.next_position + self.reliable_bytes, number, len(data)))
        return len(framed)

    def queue_unreliable(self, data: bytes, deadline_us: int) -> int:
        """Queue an unreliable message; its bytes."""
        number = self.message_number = self.message_number + 1
        self.unreliable.append((number, deadline_us, data))
        self.unreliable_bytes += len(data)
        return len(data)

    def cut_segment(self, bytes_max: int) -> Segment:
        """The next stream bytes, at most `bytes_max` (> 0) of them, across message borders."""
        queue = self.reliable
        offset = self.reliable_offset
        head = queue[0][2]
        if len(head) - offset > bytes_max:
            data = head[offset : offset + bytes_max]
            self.reliable_offset = offset + bytes_max
        else:
            data = self._cut_across(bytes_max)
        self.reliable_bytes -= len(data)
        segment = Segment(self, self.next_position, data)
        self.next_position = segment.end
        self.segments.append(segment)
        self.unacked_bytes += len(data)
        return segment

    def _cut_across(self, bytes_max: int) -> bytes:
        queue = self.reliable
        first = queue.popleft()[2]
        pieces = [first[self.reliable_offset :] if self.reliable_offset else first]
        left = bytes_max - len(pieces[0])
        while queue and left > 0:
            framed = queue[0][2]
            if len(framed) > left:
                pieces.append(framed[:left])
                self.reliable_offset = left
                return b"".join(pieces)
            pieces.append(framed)
            left -= len(framed)
            queue.popleft()
        self.reliable_offset = 0
        return b"".join(pieces) if len(pieces) > 1 else pieces[0]

    def split(self, segment: Segment, size: int) -> Segment:
        """Cut a segment that must go again down to `size` bytes; the rest is a segment of its own, in the same state."""
        tail = Segment(self, segment.begin + size, segment.data[size:])
        tail.state = segment.state
        segment.data = segment.data[:size]
        segment.end = tail.begin
        tail.losses = segment.losses
        self.missing += tail.losses > 0
        self.segments.insert(bisect_left(self.segments, segment.begin, key=_begin_of) + 1, tail)
        return tail

    def handle_acked(self, segment: Segment) -> None:
        """A packet with this segment arrived."""
        if segment.state == IN_FLIGHT:
            self.unacked_bytes -= len(segment.data)
        self.missing -= segment.losses > 0
        segment.state = ACKED
        segments = self.segments
        while segments and segments[0].state == ACKED:
            segments.popleft()
        confirmed = segments[0].begin if segments else self.next_position
        messages = self.messages_unacked
        while messages and messages[0][0] <= confirmed:
            messages.popleft()

    def handle_taken(self, position: int) -> None:
        """The peer says that he took everything below this position."""
        messages = self.messages_unacked
        while messages and messages[0][0] <= min(position, self.next_position):
            messages.popleft()


class Lanes:
    """All lanes of a connection, and the order in which they are served."""

    __slots__ = ("_lanes",)

    def __init__(self) -> None:
        self._lanes: dict[int, SendLane] = {0: SendLane(0)}

    @property
    def count(self) -> int:
        """How many lanes were used so far."""
        return len(self._lanes)

    def all(self) -> list[SendLane]:
        """Every lane used so far."""
        return list(self._lanes.values())

    def lane(self, index: int) -> SendLane:
        """Lane `index`, made on first use."""
        lane = self._lanes.get(index)
        if lane is None:
            lane = self._lanes[index] = SendLane(index)
            lane.served = self._served_of(lane)
        return lane

    def handle_taken(self, index: int, position: int) -> None:
        """What the peer says in his goodbye of one lane."""
        lane = self._lanes.get(index)
        if lane is not None:
            lane.handle_taken(position)

    def configure(self, index: int, *, priority: int, weight: int) -> None:
        """Set a lane's priority (lower goes first) and weight (share of bytes inside its priority)."""
        lane = self.lane(index)
        lane.priority = priority
        lane.weight = weight

    def wake(self, lane: SendLane) -> None:
        """Call before an idle lane gets data again: idling saves up nothing."""
        lane.served = max(lane.served, self._served_of(lane))

    def _served_of(self, idle: SendLane) -> float:
        busy = [lane.served for lane in self._lanes.values() if lane.has_data and lane.priority == idle.priority]
        return min(busy, default=idle.served)

    @property
    def any_waiting(self) -> bool:
        """Whether anything is queued, sendable now or not."""
        return any(lane.has_data for lane in self._lanes.values())

    def next_lane(self, taken: set[int] | tuple[()] = ()) -> SendLane | None:
        """Who goes next among the lanes with data that may be sent, those in `taken` aside."""
        best: SendLane | None = None
        for lane in self._lanes.values():
            if not (lane.unreliable or lane.may_cut) or lane.index in taken:
                continue
            if best is None or (lane.priority, lane.served) < (best.priority, best.served):
                best = lane
        return best

    def charge(self, lane: SendLane, size: int) -> None:
        """Account for bytes of new data sent."""
        lane.served += size / lane.weight
