"""What waits to be sent: messages by lane, and who goes next.

Each lane has its own message numbers and its own reliable stream. Reliable messages become one run of stream bytes (framing
header and payload), of which segments of any size are cut; so small neighbours share a segment and large ones fill their
packets. A lower priority number goes first, strictly; inside a priority, lanes share bytes by weight (start-time fair
queueing). Protocol part 2, sections 5, 8, 10.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Sequence
from functools import lru_cache
from operator import attrgetter
from typing import Final

from peergram.config import DATAGRAM_BYTES_MAX, MESSAGE_NUMBER_STEP_MAX, STREAM_SPAN_MAX
from peergram.timing import NEVER
from peergram.wire.frames import EXPLICIT_SIZE_MAX
from peergram.wire.reliable_framing import encode_message_header
from peergram.wire.varint import decode_varint, encode_varint

IN_FLIGHT: Final = 0
TO_RETRANSMIT: Final = 1
ACKED: Final = 2


_UNRELIABLE_FIRST: Final = struct.Struct("<BI")
REPORTS_MARGIN_BYTES: Final = 26
"""Room beside a packet's unreliable messages for the reports that it may owe."""
BUNDLE_BYTES_MAX: Final = DATAGRAM_BYTES_MAX - 7 - 16 - REPORTS_MARGIN_BYTES
_BUNDLE_MESSAGES_MAX: Final = 500
"""In one bundle at most: below what a receiver looks at in a packet."""
_ACKED_APART_MAX: Final = 8
"""Confirmed segments kept apart at least: to join them costs a look at each."""
_WHOLE_BYTES_END: Final = EXPLICIT_SIZE_MAX + 1
_NUMBER_FOLLOWS: Final = 0x10
"""Bit of a header's lead byte that says so."""
_FIRST_HEADER_BYTES: Final = 6
_NEXT_HEADER_BYTES: Final = 2
_HEADER_BYTES_MAX: Final = 12
_NEXT_HEADERS: Final = [bytes((0x20 | size >> 8, size & 255)) for size in range(EXPLICIT_SIZE_MAX + 1)]
"""Header of a whole unreliable message whose number follows the one before, by size."""

_begin_of: Final = attrgetter("begin")
_message_header: Final = lru_cache(maxsize=4096)(encode_message_header)


class Segment:
    """Stream bytes that went out, in one state: of one packet or of a whole burst, cut up as reports tell its parts apart."""

    __slots__ = ("begin", "data", "end", "lane", "losses", "state")

    def __init__(self, lane: SendLane, begin: int, data: bytes) -> None:
        self.lane = lane
        self.begin = begin
        self.data = data
        self.end = begin + len(data)
        self.state = IN_FLIGHT
        self.losses = 0
        """How often the peer reported it missing."""


StreamRange = tuple["SendLane", int, int]
"""A lane and the positions `[begin, end)` of its stream: what a packet carries, whatever became of the segments meanwhile."""


class Bundle:
    """Frames of whole unreliable messages that go into one packet together, made as the messages are queued."""

    __slots__ = ("deadline_us", "first_number", "frames", "frames_bytes", "last_number", "message_bytes", "numbers_end")

    def __init__(self, number: int, deadline_us: int, data: bytes) -> None:
        self.deadline_us = deadline_us
        """Nagle deadline of the first message, which is the earliest."""
        self.frames = [encode_whole_unreliable(number, 0, len(data)), data]
        self.frames_bytes = len(self.frames[0]) + len(data)
        self.message_bytes = len(data)
        self.first_number = self.last_number = number
        self.numbers_end = number + _BUNDLE_MESSAGES_MAX
        """Messages of this number and above go into another bundle."""

    def messages(self) -> list[tuple[int, bytes]]:
        """(number, payload) of each message."""
        number = self.first_number
        found = [(number, self.frames[1])]
        for at in range(2, len(self.frames), 2):
            header = self.frames[at]
            number += decode_varint(header, 1)[0] if header[0] & _NUMBER_FOLLOWS else 1
            found.append((number, self.frames[at + 1]))
        return found

    def follow(self, previous: int) -> None:
        """Go behind message `previous` in the same packet: only the first number of a lane is written in full."""
        header = encode_whole_unreliable(self.first_number, previous, len(self.frames[1]))
        self.frames_bytes += len(header) - len(self.frames[0])
        self.frames[0] = header

    def add(self, number: int, data: bytes) -> None:
        """One more message; the caller has looked whether it fits."""
        header = encode_whole_unreliable(number, self.last_number, len(data))
        self.frames += (header, data)
        self.frames_bytes += len(header) + len(data)
        self.message_bytes += len(data)
        self.last_number = number


class LargeMessage(Bundle):
    """An unreliable message that needs several packets; nothing fits beside it."""

    __slots__ = ("data", "number", "offset")

    def __init__(self, number: int, deadline_us: int, data: bytes) -> None:
        super().__init__(number, deadline_us, b"")
        self.frames_bytes = NEVER
        self.number = number
        self.data = data
        self.offset = 0
        """Bytes already sent."""


class SendLane:
    """One lane's queues. Byte counts include framing headers, as the reference's do."""

    __slots__ = (
        "_acked_behind",
        "_join_above",
        "bundle_bytes_max",
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
        "weight",
    )

    def __init__(self, index: int, priority: int = 0, weight: int = 1, bundle_bytes_max: int = BUNDLE_BYTES_MAX) -> None:
        self.index = index
        self.bundle_bytes_max = bundle_bytes_max
        """Frames of unreliable messages put into one packet."""
        self.priority = priority
        self.weight = weight
        self.served = 0.0
        """Bytes sent divided by weight: the lane with the least of its priority goes next."""
        self.message_number = 0
        self.reliable: deque[tuple[int, int, bytes]] | None = None
        """(message number, Nagle deadline, framed bytes) of reliable messages not wholly sent. An empty deque takes more than
        half a kilobyte, so an idle lane has none: here, and below. Those handed over together are one
        entry, with the last number."""
        self.reliable_offset = 0
        """Bytes of the first one already sent."""
        self.reliable_bytes = 0
        self.reliable_number = 0
        self.next_position = 1
        self.unreliable: deque[Bundle] | None = None
        self.unreliable_bytes = 0
        """Bytes of messages not sent yet."""
        self.segments: deque[Segment] | None = None
        """Segments in stream order, from the oldest unconfirmed one."""
        self._acked_behind = 0
        """Confirmed ones among them."""
        self._join_above = _ACKED_APART_MAX
        self.messages_unacked: deque[tuple[int, int, int]] | None = None
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
            head = self.unreliable[0]
            begun = isinstance(head, LargeMessage) and head.offset > 0
            deadline_us = min(deadline_us, 0 if begun else head.deadline_us)
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
        if self.reliable is None:
            self.reliable = deque()
        if self.messages_unacked is None:
            self.messages_unacked = deque()
        self.reliable.append((number, deadline_us, framed))
        self.reliable_bytes += len(framed)
        self.messages_unacked.append((self.next_position + self.reliable_bytes, number, len(data)))
        return len(framed)

    def queue_unreliable(self, data: bytes, deadline_us: int) -> int:
        """Queue an unreliable message; its bytes."""
        number = self.message_number = self.message_number + 1
        size = len(data)
        self.unreliable_bytes += size
        queue = self.unreliable
        if queue and size < _WHOLE_BYTES_END:
            bundle = queue[-1]
            used = bundle.frames_bytes + size + _NEXT_HEADER_BYTES
            if used <= self.bundle_bytes_max and number == bundle.last_number + 1 and number < bundle.numbers_end:
                bundle.last_number = number
                bundle.frames_bytes = used
                bundle.message_bytes += size
                bundle.frames += (_NEXT_HEADERS[size], data)
                return size
        self._bundle(number, data, deadline_us)
        return size

    def queue_reliable_run(self, messages: Sequence[bytes], deadline_us: int) -> int:
        """What `queue_reliable` does with each of these, only quicker; the stream bytes of all."""
        before = self.reliable_bytes
        position, number, reliable_number = self.next_position, self.message_number, self.reliable_number
        queued_bytes = before
        pieces: list[bytes] = []
        unacked = self.messages_unacked = self.messages_unacked or deque()
        for data in messages:
            number += 1
            size = len(data)
            step = number - reliable_number
            if step > MESSAGE_NUMBER_STEP_MAX:
                step = MESSAGE_NUMBER_STEP_MAX
            reliable_number += step
            header = _message_header(step, size)
            pieces += (header, data)
            queued_bytes += len(header) + size
            unacked.append((position + queued_bytes, number, size))
        queue = self.reliable = self.reliable or deque()
        queue.append((number, deadline_us, b"".join(pieces)))
        self.message_number, self.reliable_number = number, reliable_number
        self.reliable_bytes = queued_bytes
        return queued_bytes - before

    def queue_unreliable_run(self, messages: Sequence[bytes], deadline_us: int) -> int:
        """What `queue_unreliable` does with each of these, only quicker; the bytes of all."""
        before = self.unreliable_bytes
        at, count = 0, len(messages)
        while at < count:
            self.queue_unreliable(messages[at], deadline_us)
            assert self.unreliable is not None
            at += 1
            bundle = self.unreliable[-1]
            frames, used = bundle.frames, bundle.frames_bytes
            end = min(count, at + bundle.numbers_end - 1 - bundle.last_number)
            begin = at
            for data in messages[at:end]:
                size = len(data)
                used += size + _NEXT_HEADER_BYTES
                if used > self.bundle_bytes_max or size >= _WHOLE_BYTES_END:
                    used -= size + _NEXT_HEADER_BYTES
                    break
                frames += (_NEXT_HEADERS[size], data)
                at += 1
            added_bytes = used - bundle.frames_bytes - (at - begin) * _NEXT_HEADER_BYTES
            bundle.frames_bytes = used
            bundle.message_bytes += added_bytes
            bundle.last_number += at - begin
            self.message_number += at - begin
            self.unreliable_bytes += added_bytes
        return self.unreliable_bytes - before

    def _bundle(self, number: int, data: bytes, deadline_us: int) -> None:
        """Put a message where it fits: into the last bundle, or into one of its own."""
        size = len(data)
        if self.unreliable is None:
            self.unreliable = deque()
        queue = self.unreliable
        if size > min(self.bundle_bytes_max, EXPLICIT_SIZE_MAX) - _FIRST_HEADER_BYTES:
            queue.append(LargeMessage(number, deadline_us, data))
        elif (
            queue
            and queue[-1].frames_bytes + size + _HEADER_BYTES_MAX <= self.bundle_bytes_max
            and number < queue[-1].numbers_end
        ):
            queue[-1].add(number, data)
        else:
            queue.append(Bundle(number, deadline_us, data))

    def rebundle(self) -> None:
        """Packets have become smaller: put queued messages into bundles that fit."""
        queued = self.unreliable
        if not queued:
            return
        self.unreliable = kept = deque[Bundle]()
        for head in queued:
            if isinstance(head, LargeMessage) or head.frames_bytes <= self.bundle_bytes_max:
                kept.append(head)
                continue
            for number, data in head.messages():
                self._bundle(number, data, head.deadline_us)

    def shed(self) -> None:
        """Give back the memory of empty queues."""
        self.reliable = self.reliable or None
        self.unreliable = self.unreliable or None
        self.segments = self.segments or None
        self.messages_unacked = self.messages_unacked or None

    def cut_segment(self, bytes_max: int) -> Segment:
        """The next stream bytes, at most `bytes_max` (> 0) of them, across message borders."""
        queue = self.reliable
        assert queue
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
        if self.segments is None:
            self.segments = deque()
        self.segments.append(segment)
        self.unacked_bytes += len(data)
        return segment

    def _cut_across(self, bytes_max: int) -> bytes:
        queue = self.reliable
        assert queue
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
        if self.segments is not None:
            self.segments.insert(bisect_left(self.segments, segment.begin, key=_begin_of) + 1, tail)
        return tail

    def overlapping(self, begin: int, end: int) -> list[Segment]:
        """Segments not confirmed yet that share bytes with `[begin, end)`, in stream order."""
        segments = self.segments
        if not segments:
            return []
        at = 0 if segments[0].begin >= begin else bisect_right(segments, begin, key=_begin_of) - 1
        found: list[Segment] = []
        while at < len(segments) and (segment := segments[at]).begin < end:
            if segment.end > begin and segment.state != ACKED:
                found.append(segment)
            at += 1
        return found

    def handle_acked(self, segment: Segment) -> None:
        """All of this segment arrived."""
        if segment.state == IN_FLIGHT:
            self.unacked_bytes -= len(segment.data)
        self.missing -= segment.losses > 0
        self._acked_behind += segment.state != ACKED
        segment.state = ACKED
        # It may stand in the row for long, behind one that is lost again and again.
        segment.data = b""
        segments = self.segments
        while segments and segments[0].state == ACKED:
            segments.popleft()
            self._acked_behind -= 1
        if self._acked_behind > self._join_above:
            self._join_acked()
        confirmed = segments[0].begin if segments else self.next_position
        messages = self.messages_unacked
        while messages and messages[0][0] <= confirmed:
            messages.popleft()

    def _join_acked(self) -> None:
        """Make one of confirmed segments that stand side by side behind one that is not."""
        joined: deque[Segment] = deque()
        for segment in self.segments or ():
            if joined and segment.state == ACKED == joined[-1].state:
                joined[-1].end = segment.end
            else:
                joined.append(segment)
        self.segments = joined
        self._acked_behind = sum(segment.state == ACKED for segment in joined)
        # Twice as many as could not be joined: the work stays in proportion to what is confirmed.
        self._join_above = _ACKED_APART_MAX + 2 * self._acked_behind

    def handle_taken(self, position: int) -> None:
        """The peer says that he took everything below this position."""
        messages = self.messages_unacked
        while messages and messages[0][0] <= min(position, self.next_position):
            messages.popleft()


def encode_whole_unreliable(number: int, previous: int, size: int) -> bytes:
    """Header of a whole unreliable message: the first of its packet and lane (`previous` 0), or one after `previous`."""
    if not previous:
        return _UNRELIABLE_FIRST.pack(0x30 | size >> 8, number & 0xFFFFFFFF) + bytes((size & 255,))
    if number == previous + 1:
        return _NEXT_HEADERS[size]
    return bytes((0x30 | size >> 8,)) + encode_varint(number - previous) + bytes((size & 255,))


class Lanes:
    """All lanes of a connection, and the order in which they are served."""

    __slots__ = ("by_index",)

    def __init__(self) -> None:
        self.by_index: dict[int, SendLane] = {0: SendLane(0)}
        """Every lane used so far."""

    @property
    def count(self) -> int:
        """How many lanes were used so far."""
        return len(self.by_index)

    def all(self) -> list[SendLane]:
        """Every lane used so far."""
        return list(self.by_index.values())

    def lane(self, index: int) -> SendLane:
        """Lane `index`, made on first use."""
        lane = self.by_index.get(index)
        if lane is None:
            lane = self.by_index[index] = SendLane(index, bundle_bytes_max=self.by_index[0].bundle_bytes_max)
            lane.served = self._served_of(lane)
        return lane

    def shed(self) -> None:
        """Nothing was sent for a while: give back the memory of empty queues."""
        for lane in self.by_index.values():
            lane.shed()

    def set_bundle_bytes_max(self, size: int) -> None:
        """How many bytes of unreliable frames a packet holds, on every lane; what is queued already is put together anew."""
        for lane in self.by_index.values():
            if size < lane.bundle_bytes_max:
                lane.bundle_bytes_max = size
                lane.rebundle()
            lane.bundle_bytes_max = size

    def handle_taken(self, index: int, position: int) -> None:
        """What the peer says in his goodbye of one lane."""
        lane = self.by_index.get(index)
        if lane is not None:
            lane.handle_taken(position)

    def configure(self, index: int, *, priority: int, weight: int) -> None:
        """Set a lane's priority (lower goes first) and weight (share of bytes inside its priority)."""
        lane = self.lane(index)
        lane.priority = priority
        lane.weight = weight

    def wake(self, lane: SendLane) -> None:
        """Call before an idle lane gets data again: idling saves up nothing."""
        if len(self.by_index) > 1:
            lane.served = max(lane.served, self._served_of(lane))

    def _served_of(self, idle: SendLane) -> float:
        busy = [lane.served for lane in self.by_index.values() if lane.has_data and lane.priority == idle.priority]
        return min(busy, default=idle.served)

    @property
    def any_waiting(self) -> bool:
        """Whether anything is queued, sendable now or not."""
        return any(lane.has_data for lane in self.by_index.values())

    def next_lane(self, taken: set[int] | tuple[()] = ()) -> SendLane | None:
        """Who goes next among the lanes with data that may be sent, those in `taken` aside."""
        best: SendLane | None = None
        for lane in self.by_index.values():
            if not (lane.unreliable or lane.may_cut) or lane.index in taken:
                continue
            if best is None or (lane.priority, lane.served) < (best.priority, best.served):
                best = lane
        return best

    def only_ready(self) -> SendLane | None:
        """The lane with data that may be sent, if there is just one."""
        found: SendLane | None = None
        for lane in self.by_index.values():
            if lane.unreliable or lane.may_cut:
                if found is not None:
                    return None
                found = lane
        return found

    def charge(self, lane: SendLane, size: int) -> None:
        """Account for bytes of new data sent."""
        lane.served += size / lane.weight
