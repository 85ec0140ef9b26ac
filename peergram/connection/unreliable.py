"""One lane's unreliable messages, receiving side: pieces joined, or dropped when they grow old or too many.

Rules: protocol part 2, section 6.3; improvement G23: the store is bounded by bytes really received, by pieces and by age (E8),
and a message is never delivered twice by a duplicated piece.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

from peergram.config import MESSAGE_CHARGE_BYTES_MIN, UNRELIABLE_RECV_BYTES_MAX, UNRELIABLE_SEGMENT_BYTES_MAX
from peergram.connection.limits import OWN, ReceiveLimits
from peergram.connection.room import ReceiveRoom

_ANY: Final = 1 << 60


class _Partial:
    """An unfinished message: its pieces, in order of their offsets."""

    __slots__ = ("_offsets", "_reached", "begun_at_us", "bytes", "covered", "last_offset", "pieces")

    def __init__(self, begun_at_us: int) -> None:
        self.begun_at_us = begun_at_us
        self.pieces: list[bytes] = []
        self.bytes = 0
        self.covered = 0
        """Bytes there are from 0 on without a hole."""
        self.last_offset: int | None = None
        """Of the piece that ends the message."""
        self._offsets: list[int] = []
        self._reached = 0
        """How many pieces begin within what is covered: each is passed once, whatever order they come in (E8)."""

    def add(self, offset: int, data: bytes) -> bool:
        """Keep a piece; False if there is one of this offset already."""
        offsets = self._offsets
        at = bisect_left(offsets, offset)
        if at < len(offsets) and offsets[at] == offset:
            return False
        offsets.insert(at, offset)
        self.pieces.insert(at, data)
        self.bytes += len(data)
        if offset <= self.covered:
            self.covered = max(self.covered, offset + len(data))
            self._reached += 1
            while self._reached < len(offsets) and offsets[self._reached] <= self.covered:
                self.covered = max(self.covered, offsets[self._reached] + len(self.pieces[self._reached]))
                self._reached += 1
        return True

    def joined(self) -> bytes | None:
        """The message if its pieces cover it up to the last one; where pieces overlap, the one further up counts."""
        if self.last_offset is None or self.last_offset > self.covered:
            return None
        whole = bytearray()
        for offset, data in zip(self._offsets, self.pieces, strict=True):
            whole[offset : offset + len(data)] = data
            if offset == self.last_offset:
                break
        return bytes(whole)


class UnreliableReceiver:
    """Joins the pieces of messages that did not fit one packet."""

    __slots__ = ("_limits", "_partials", "_room", "pieces_dropped", "stored_bytes", "stored_segments")

    def __init__(self, limits: ReceiveLimits = OWN, room: ReceiveRoom | None = None) -> None:
        self._limits = limits
        self._room = room or ReceiveRoom(messages_max=_ANY, bytes_max=_ANY)
        self._partials: dict[int, _Partial] = {}
        self.stored_segments = 0
        self.stored_bytes = 0
        self.pieces_dropped = 0
        """Pieces thrown away with messages that were never finished."""

    @property
    def charged_bytes(self) -> int:
        """What is stored takes this of the room."""
        return self.stored_bytes + self.stored_segments * MESSAGE_CHARGE_BYTES_MIN

    def add(self, number: int, offset: int, data: bytes, last: bool, now_us: int) -> bytes | None:
        """Take one segment; the whole message if it is complete now."""
        if offset + len(data) > UNRELIABLE_RECV_BYTES_MAX or len(data) > UNRELIABLE_SEGMENT_BYTES_MAX:
            return None
        if last and not offset:
            return data
        self._make_room(len(data), now_us)
        if not self._room.takes(self, len(data) + MESSAGE_CHARGE_BYTES_MIN, finishes_front=False):
            self.pieces_dropped += 1
            return None
        partial = self._partials.get(number)
        if partial is None:
            partial = self._partials[number] = _Partial(now_us)
        if not partial.add(offset, data):
            return None
        if last:
            partial.last_offset = offset
        self.stored_segments += 1
        self.stored_bytes += len(data)
        self._room.stream_bytes += len(data) + MESSAGE_CHARGE_BYTES_MIN
        whole = partial.joined()
        if whole is not None:
            self._forget(number)
        return whole

    def _make_room(self, size: int, now_us: int) -> None:
        self.give_up_old(now_us)
        while self._partials and (
            self.stored_segments >= self._limits.unreliable_segments_max
            or self.stored_bytes + size > self._limits.unreliable_bytes_max
        ):
            lowest = self._limits.unreliable_evicts_lowest
            self._drop(min(self._partials) if lowest else next(iter(self._partials)))

    def give_up_old(self, now_us: int) -> None:
        """Drop messages whose rest does not come any more, since the room they take is wanted by others (G23)."""
        oldest_at_us = now_us - self._limits.unreliable_age_us
        while self._partials and self._partials[number := next(iter(self._partials))].begun_at_us < oldest_at_us:
            self._drop(number)

    def _drop(self, number: int) -> None:
        self.pieces_dropped += len(self._partials[number].pieces)
        self._forget(number)

    def _forget(self, number: int) -> None:
        partial = self._partials.pop(number)
        self.stored_segments -= len(partial.pieces)
        self.stored_bytes -= partial.bytes
        self._room.stream_bytes -= partial.bytes + len(partial.pieces) * MESSAGE_CHARGE_BYTES_MIN

    def discard(self) -> None:
        """Give up every unfinished message."""
        for number in list(self._partials):
            self._drop(number)
