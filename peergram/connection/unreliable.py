"""One lane's unreliable messages, receiving side: pieces joined, or dropped when they grow old or too many.

Rules: protocol part 2, section 6.3; improvement G23: the store is bounded by bytes really received, by pieces and by age (E8),
and a message is never delivered twice by a duplicated piece.
"""

from __future__ import annotations

from peergram.config import MESSAGE_CHARGE_BYTES_MIN, UNRELIABLE_RECV_BYTES_MAX, UNRELIABLE_SEGMENT_BYTES_MAX
from peergram.connection.limits import OWN, ReceiveLimits
from peergram.connection.room import ReceiveRoom

_ANY = 1 << 60


class _Partial:
    """An unfinished message: its pieces by offset."""

    __slots__ = ("begun_at_us", "bytes", "last_end", "pieces")

    def __init__(self, begun_at_us: int) -> None:
        self.begun_at_us = begun_at_us
        self.pieces: dict[int, bytes] = {}
        self.bytes = 0
        self.last_end: int | None = None


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
        if offset in partial.pieces:
            return None
        partial.pieces[offset] = data
        partial.bytes += len(data)
        if last:
            partial.last_end = offset + len(data)
        self.stored_segments += 1
        self.stored_bytes += len(data)
        self._room.stream_bytes += len(data) + MESSAGE_CHARGE_BYTES_MIN
        whole = _join(partial)
        if whole is not None:
            self._forget(number)
        return whole

    def _make_room(self, size: int, now_us: int) -> None:
        oldest_at_us = now_us - self._limits.unreliable_age_us
        while self._partials and (
            self.stored_segments >= self._limits.unreliable_segments_max
            or self.stored_bytes + size > self._limits.unreliable_bytes_max
            or next(iter(self._partials.values())).begun_at_us < oldest_at_us
        ):
            lowest = self._limits.unreliable_evicts_lowest
            self._drop(min(self._partials) if lowest else next(iter(self._partials)))

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


def _join(partial: _Partial) -> bytes | None:
    """The message if its pieces cover it from 0 to the end of a last piece; where pieces overlap, the one further up counts."""
    if partial.last_end is None or 0 not in partial.pieces:
        return None
    covered = 0
    whole = bytearray()
    for offset in sorted(partial.pieces):
        if offset > covered:
            return None
        data = partial.pieces[offset]
        whole[offset : offset + len(data)] = data
        covered = max(covered, offset + len(data))
        if offset + len(data) == partial.last_end:
            return bytes(whole[: max(covered, partial.last_end)])
    return None
