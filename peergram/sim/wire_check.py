"""A strict look at every packet our side emits (V18), written from the format alone.

`01-transport-and-crypto.md`, chapters 2, 3 and 11, say what a datagram may be; what a lenient receiver would take is refused
here: bits that should be 0, padding that is not zeros, fields out of order. It shares no code with `peergram.wire`, so that
both must be right.
"""

from __future__ import annotations

from dataclasses import dataclass

from peergram.config import DATAGRAM_BYTES_MAX, DATAGRAM_BYTES_MIN, DATAGRAM_BYTES_OWN_PEER_MAX, PADDED_BYTES_MIN

CHALLENGE_REQUEST, CHALLENGE_REPLY, CONNECT_REQUEST, CONNECT_OK, CONNECTION_CLOSED, NO_CONNECTION = range(0x20, 0x26)
DATA = 0x80

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_PADDED = {CHALLENGE_REQUEST, CONNECTION_CLOSED}
_FIELDS: dict[int, dict[int, int]] = {
    CHALLENGE_REQUEST: {1: _FIXED32, 3: _FIXED64, 4: _VARINT},
    CHALLENGE_REPLY: {1: _FIXED32, 2: _FIXED64, 3: _FIXED64, 4: _VARINT},
    CONNECT_REQUEST: {
        1: _FIXED32,
        2: _FIXED64,
        3: _FIXED64,
        4: _BYTES,
        5: _FIXED64,
        6: _VARINT,
        7: _BYTES,
        9: _BYTES,
        10: _BYTES,
    },
    CONNECT_OK: {1: _FIXED32, 2: _FIXED64, 3: _FIXED64, 4: _VARINT, 5: _FIXED32, 7: _BYTES, 8: _BYTES, 10: _BYTES, 11: _BYTES},
    CONNECTION_CLOSED: {2: _BYTES, 3: _VARINT, 4: _FIXED32, 5: _FIXED32},
    NO_CONNECTION: {2: _FIXED32, 3: _FIXED32},
}
_REQUIRED: dict[int, set[int]] = {
    CHALLENGE_REQUEST: {1, 3, 4},
    CHALLENGE_REPLY: {1, 2, 3, 4},
    CONNECT_REQUEST: {1, 2, 4, 7},
    CONNECT_OK: {1, 5, 7, 8},
    CONNECTION_CLOSED: set(),
    NO_CONNECTION: set(),
}
_STATS_FIELDS = {1: _BYTES, 3: _VARINT}
_VARINT_BYTES_MAX = 10


class StrictError(Exception):
    """A packet is not exactly what the format says."""


@dataclass(slots=True)
class DataPacket:
    """The open part of a data packet."""

    connection_id: int
    number16: int
    payload: bytes


def check_packet(packet: bytes) -> DataPacket | None:
    """The head of a data packet, or None for a control packet; raises `StrictError` for anything not as written."""
    largest = DATAGRAM_BYTES_OWN_PEER_MAX if packet and packet[0] & DATA else DATAGRAM_BYTES_MAX
    if not DATAGRAM_BYTES_MIN <= len(packet) <= largest:
        raise StrictError(f"datagram of {len(packet)} bytes")
    lead = packet[0]
    if lead & DATA:
        return _check_data(packet)
    if lead not in _FIELDS:
        raise StrictError(f"lead byte {lead:#04x}")
    body = _padded_body(packet) if lead in _PADDED else packet[1:]
    found = _check_message(body, _FIELDS[lead])
    if not _REQUIRED[lead] <= found:
        raise StrictError(f"packet {lead:#04x} lacks fields {sorted(_REQUIRED[lead] - found)}")
    return None


def connect_ok_ids(packet: bytes) -> tuple[int, int] | None:
    """The client's and the server's connection id in a ConnectOK; None for any other packet."""
    if packet[:1] != bytes((CONNECT_OK,)):
        return None
    at, ids = 1, {1: 0, 5: 0}
    while at < len(packet):
        tag, at = _varint(packet, at)
        number, kind = tag >> 3, tag & 7
        if kind == _FIXED32 and number in ids:
            ids[number] = int.from_bytes(packet[at : at + 4], "little")
        at = _skip(packet, at, kind)
    return ids[1], ids[5]


def _check_data(packet: bytes) -> DataPacket:
    flags, at = packet[0] & 0x7F, 7
    if flags & ~0x03:
        raise StrictError(f"reserved flags {flags:#04x}")
    if len(packet) < at:
        raise StrictError("data packet without a whole header")
    if flags & 0x01:
        size, at = _varint(packet, at)
        if at + size > len(packet):
            raise StrictError("statistics record beyond the packet")
        _check_message(packet[at : at + size], _STATS_FIELDS)
        at += size
    at += 2 if flags & 0x02 else 0
    if at >= len(packet):
        raise StrictError("data packet without a payload")
    return DataPacket(int.from_bytes(packet[1:5], "little"), int.from_bytes(packet[5:7], "little"), packet[at:])


def _padded_body(packet: bytes) -> bytes:
    size = int.from_bytes(packet[1:3], "little")
    end = 3 + size
    if len(packet) != max(PADDED_BYTES_MIN, end) or size == 0:
        raise StrictError(f"padded packet of {len(packet)} bytes around {size}")
    if any(packet[end:]):
        raise StrictError("padding that is not zeros")
    return packet[3:end]


def _check_message(body: bytes, fields: dict[int, int]) -> set[int]:
    """The field numbers of a protobuf message; they must be known, rise, and have their own wire type."""
    at, last, found = 0, 0, set()
    while at < len(body):
        tag, at = _varint(body, at)
        number, kind = tag >> 3, tag & 7
        if fields.get(number) != kind:
            raise StrictError(f"field {number} of wire type {kind}")
        if number <= last:
            raise StrictError(f"field {number} after field {last}")
        last = number
        found.add(number)
        at = _skip(body, at, kind)
    if at != len(body):
        raise StrictError("field beyond the message")
    return found


def _skip(body: bytes, at: int, kind: int) -> int:
    """Where the field value that begins at `at` ends."""
    if kind == _VARINT:
        return _varint(body, at)[1]
    if kind == _BYTES:
        size, at = _varint(body, at)
        return at + size
    return at + (8 if kind == _FIXED64 else 4)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 7 * _VARINT_BYTES_MAX, 7):
        if at >= len(data):
            raise StrictError("varint cut off")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if byte == 0 and shift:
                raise StrictError("varint longer than needed")
            return value, at
    raise StrictError("varint too long")
