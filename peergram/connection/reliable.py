"""One lane's reliable stream, receiving side: segments in, whole messages out, in order and once.

In order is the common case: pieces are kept in a list and joined only when the parser has enough for the next message, so a
message of many segments is copied once. What comes early is kept as islands, sorted and disjoint; bytes already held are never
replaced. Rules: protocol part 2, sections 5 and 6.4. Refused data is not acknowledged, and the peer sends it again.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

from peergram.config import MESSAGE_CHARGE_BYTES_MIN, PIECE_CHARGE_BYTES
from peergram.connection.limits import OWN, ReceiveLimits
from peergram.connection.room import ReceiveRoom
from peergram.errors import WireError
from peergram.wire.alike import count_alike
from peergram.wire.reliable_framing import parse_message_header

_ANY: Final = 1 << 60
_SHORT_BYTES: Final = 256
_JOINED_BYTES_MAX: Final = 4_096
_FRONT_SPENT_BYTES_MAX: Final = 65_536
"""Delivered bytes kept at the front at least, since to cut them off is to copy the rest; not more than there is of the rest."""


class _Taking:
    """Messages being taken, and how many more find room."""

    __slots__ = (
        "charged",
        "has_room",
        "messages",
        "need_bytes",
        "number",
        "number_seen",
        "numbers",
        "room_bytes",
        "room_messages",
        "takes_any",
    )

    def __init__(self, number: int, number_seen: int, room_messages: int, room_bytes: int, takes_any: bool) -> None:
        self.number = number
        """Of the last message taken."""
        self.number_seen = number_seen
        self.room_messages = room_messages
        self.room_bytes = room_bytes
        self.takes_any = takes_any
        self.numbers: list[int] = []
        self.messages: list[bytes] = []
        self.charged = 0
        self.has_room = True
        """False once a whole message found none."""
        self.need_bytes = 1
        """Bytes there must be from where reading ended before there is a message more."""

    def admits(self, size: int, step: int) -> bool:
        """Whether the next message, `step` numbers on, finds room; it is counted then, and the caller adds its bytes."""
        charge = size if size > MESSAGE_CHARGE_BYTES_MIN else MESSAGE_CHARGE_BYTES_MIN
        count = len(self.numbers)
        if count >= self.room_messages or (self.charged + charge > self.room_bytes and (count or not self.takes_any)):
            self.has_room = False
            return False
        self.charged += charge
        self.number += step
        self.numbers.append(self.number)
        return True

    def take_alike(self, buffer: bytes, at: int, header_bytes: int, stride: int) -> int:
        """Take the messages from `at` on that are as long as the one before and next in number; where they end."""
        size = stride - header_bytes
        charge = size if size > MESSAGE_CHARGE_BYTES_MIN else MESSAGE_CHARGE_BYTES_MIN
        room = min(self.room_messages - len(self.messages), (self.room_bytes - self.charged) // charge)
        alike = count_alike(buffer, at, header_bytes, stride, room) if room > 1 else 0
        if not alike:
            return at
        end = at + alike * stride
        self.messages += [buffer[begin : begin + size] for begin in range(at + header_bytes, end + 1, stride)]
        self.numbers += range(self.number + 1, self.number + 1 + alike)
        self.number += alike
        self.charged += alike * charge
        return end


class ReliableReceiver:
    """Positions count bytes of the stream; the first byte is at 1."""

    __slots__ = (
        "_buffer_max",
        "_front_at",
        "_island_begins",
        "_islands",
        "_limits",
        "_message_max",
        "_need_bytes",
        "_pieces",
        "_pieces_bytes",
        "_room",
        "consumed_position",
        "holes",
        "island_bytes",
        "message_number",
    )

    def __init__(
        self, *, buffer_bytes_max: int, message_bytes_max: int, limits: ReceiveLimits = OWN, room: ReceiveRoom | None = None
    ) -> None:
        self._room = room or ReceiveRoom(messages_max=_ANY, bytes_max=_ANY)
        self._buffer_max = buffer_bytes_max
        self._message_max = message_bytes_max
        self._limits = limits
        self.consumed_position = 1
        """P of the protocol text: first byte not yet part of a delivered message."""
        self.message_number = 0
        self._pieces: list[bytes] = []
        self._front_at = 0
        """Where in the first of them the bytes begin that are not delivered yet."""
        self._pieces_bytes = 0
        self._need_bytes = 1
        """Bytes the parser must see before it can go on; spares it useless tries."""
        self._islands: list[bytes] = []
        self._island_begins: list[int] = []
        self.island_bytes = 0
        self.holes = 0
        """Gaps below and between islands."""

    @property
    def in_order_position(self) -> int:
        """End of the gapless bytes: where the next segment starts if nothing is missing."""
        return self.consumed_position + self._pieces_bytes

    @property
    def end_position(self) -> int:
        """E of the protocol text: end of the highest byte held, islands included."""
        if self._islands:
            return self._island_begins[-1] + len(self._islands[-1])
        return self.consumed_position + self._pieces_bytes

    @property
    def buffered_bytes(self) -> int:
        """Bytes held that are not delivered yet."""
        return self._pieces_bytes + self.island_bytes

    @property
    def charged_bytes(self) -> int:
        """What that takes of the room, bookkeeping of islands included."""
        return self.buffered_bytes + len(self._islands) * PIECE_CHARGE_BYTES

    def add(self, position: int, data: bytes) -> bool:
        """Take one segment; False if there is no room for it (the packet then counts as lost). Then call `take_ready`."""
        size = len(data)
        end = position + size
        expected = self.consumed_position + self._pieces_bytes
        if not size or end <= expected:
            return True
        if end - self.consumed_position > self._buffer_max or not self._has_room(position, size, expected):
            return False
        if position <= expected and not self._islands:
            self._append(data if position == expected else data[expected - position :])
            return True
        return self._add_among_islands(max(position, expected), data[max(expected - position, 0) :])

    def add_run(self, pieces: list[bytes], size: int) -> bool:
        """Take segments that continue the gapless bytes, `size` bytes in all; False, with nothing taken, where `add` must look
        at each of them."""
        held = self._pieces_bytes + size
        room = self._room
        if self._islands or held > self._buffer_max or room.stream_bytes + size > room.bytes_max:
            return False
        room.stream_bytes += size
        self._pieces_bytes = held
        self._pieces += pieces if size >= _SHORT_BYTES * len(pieces) else [b"".join(pieces)]
        return True

    def _has_room(self, position: int, size: int, expected: int) -> bool:
        finishes_front = position <= expected and self._pieces_bytes < self._need_bytes
        charge = size if position <= expected else size + PIECE_CHARGE_BYTES
        return self._room.takes(self, charge, finishes_front=finishes_front)

    def _append(self, data: bytes) -> None:
        """In-order bytes; short pieces are put together, since each object costs more than its bytes."""
        size = len(data)
        self._room.stream_bytes += size
        self._pieces_bytes += size
        pieces = self._pieces
        if size < _SHORT_BYTES and pieces and len(pieces[-1]) < _JOINED_BYTES_MAX:
            pieces[-1] += data
        else:
            pieces.append(data)

    def _add_among_islands(self, position: int, data: bytes) -> bool:
        end = position + len(data)
        top = self.end_position
        if position > top:
            if self.holes >= self._limits.gaps_append_max:
                return False
        elif end < top and self._splits_hole(position, end) and self.holes >= self._limits.gaps_split_max:
            return False
        for begin, stop in self._missing_within(position, end):
            self._insert_island(begin, data[begin - position : stop - position])
        self._drain_islands()
        return True

    def _splits_hole(self, position: int, end: int) -> bool:
        """Whether `[position, end)` lies strictly inside one hole, touching nothing held."""
        at = bisect_left(self._island_begins, position)
        above = self._island_begins[at] if at < len(self._islands) else None
        return self._end_below(at) < position and (above is None or end < above)

    def _end_below(self, at: int) -> int:
        """Where the bytes held below island `at` end."""
        if at == 0:
            return self.in_order_position
        return self._island_begins[at - 1] + len(self._islands[at - 1])

    def _missing_within(self, position: int, end: int) -> list[tuple[int, int]]:
        """The parts of `[position, end)` that are not held yet."""
        parts: list[tuple[int, int]] = []
        at = max(bisect_left(self._island_begins, position) - 1, 0)
        while at < len(self._islands) and position < end:
            begin = self._island_begins[at]
            if begin >= end:
                break
            if position < begin:
                parts.append((position, begin))
            position = max(position, begin + len(self._islands[at]))
            at += 1
        if position < end:
            parts.append((position, end))
        return parts

    def _insert_island(self, begin: int, data: bytes) -> None:
        """Insert bytes nobody holds. Neighbours stay apart unless one is short, so that no segment costs more than itself."""
        size = len(data)
        at = bisect_left(self._island_begins, begin)
        touches_lower = self._end_below(at) == begin
        touches_upper = at < len(self._islands) and begin + size == self._island_begins[at]
        self.holes += 1 - touches_lower - touches_upper
        self.island_bytes += size
        if touches_lower and at > 0 and len(self._islands[at - 1]) + size <= _JOINED_BYTES_MAX:
            self._islands[at - 1] += data
            self._room.stream_bytes += size
            return
        self._island_begins.insert(at, begin)
        self._islands.insert(at, data)
        self._room.stream_bytes += size + PIECE_CHARGE_BYTES

    def _drain_islands(self) -> None:
        """Islands that the in-order bytes have reached are islands no longer."""
        count = 0
        for begin, island in zip(self._island_begins, self._islands, strict=True):
            if begin != self.in_order_position:
                break
            self.island_bytes -= len(island)
            self._room.stream_bytes -= len(island) + PIECE_CHARGE_BYTES
            self._append(island)
            count += 1
        del self._island_begins[:count], self._islands[:count]

    @property
    def is_ready(self) -> bool:
        """Whether `take_ready` could make progress."""
        return self._pieces_bytes >= self._need_bytes

    def take_ready(
        self, number_seen: int, room_messages: int, room_bytes: int, *, takes_any: bool = False
    ) -> tuple[list[int], list[bytes], int]:
        """The complete messages at the front that find room: numbers, payloads, and what they charge to it.

        `takes_any`: the first one finds room whatever its size. `number_seen` is the highest number seen on the lane. Raises
        `WireError` for framing that ends the connection.
        """
        taking = _Taking(self.message_number, number_seen, room_messages, room_bytes, takes_any)
        at = self._front_at
        taken = 0
        while self._pieces:
            front = self._pieces[0]
            end = self._read_front(front, at, taking)
            taken += end - at
            at = end
            if not taking.has_room or len(self._pieces) < 2 or self._pieces_bytes - taken < taking.need_bytes:
                break
            # What is left of the front piece, and all behind it, so that each byte is copied once, however little room there is.
            self._pieces = [b"".join([front[at:], *self._pieces[1:]])]
            at = 0
        self.message_number = taking.number
        self._keep_rest(at, taken, taking.need_bytes)
        return taking.numbers, taking.messages, taking.charged

    def _read_front(self, front: bytes, at: int, taking: _Taking) -> int:
        """Take whole messages of one piece from `at` on, as many as find room; where they end."""
        total = len(front)
        size_max = min(self._message_max, self._buffer_max)
        taking.need_bytes = 1
        while at < total:
            lead = front[at]
            if lead < 0x40 and (lead < 0x20 or (at + 1 < total and front[at + 1] < 0x80)):
                # The next number, and a size in one or two bytes: nearly every message.
                if lead < 0x20:
                    size, begin = lead, at + 1
                else:
                    size, begin = lead & 0x1F | front[at + 1] << 5, at + 2
                step = 1
            else:
                header = parse_message_header(front, at)
                if header is None:
                    taking.need_bytes = total - at + 1
                    break
                begin, size = at + header[2], header[1]
                step = self._check_step(header[0], max(taking.number_seen - taking.number, 0))
            if size > size_max:
                raise WireError(f"Reliable message size too large: {size} bytes")
            end = begin + size
            if end > total:
                taking.need_bytes = end - at
                break
            if not taking.admits(size, step):
                break
            taking.messages.append(front[begin:end])
            if lead < 0x40 and end < total and front[end] == lead:
                end = taking.take_alike(front, end, begin - at, end - at)
            at = end
        return at

    def _check_step(self, step: int | None, numbers_seen_above: int) -> int:
        if step is None:
            return 1
        if step > self._limits.number_step_max or step > numbers_seen_above + self._limits.number_lead_max:
            raise WireError(f"Reliable message number lurch: {step} ahead")
        return step

    def _keep_rest(self, front_at: int, taken: int, need: int) -> None:
        pieces = self._pieces
        if pieces and front_at == len(pieces[0]):
            del pieces[0]
            front_at = 0
        elif front_at > _FRONT_SPENT_BYTES_MAX and front_at * 2 > len(pieces[0]):
            pieces[0] = pieces[0][front_at:]
            front_at = 0
        self._front_at = front_at
        self._pieces_bytes -= taken
        self.consumed_position += taken
        self._need_bytes = need
        self._room.stream_bytes -= taken
        if taken:
            self._room.finished(self)

    def discard(self) -> None:
        """Give back the room of everything that is held; the stream is of no use afterwards."""
        self._room.stream_bytes -= self.charged_bytes
        self._room.finished(self)
        self._pieces, self._front_at, self._pieces_bytes, self._need_bytes = [], 0, 0, 1
        self._islands, self._island_begins, self.island_bytes, self.holes = [], [], 0, 0
