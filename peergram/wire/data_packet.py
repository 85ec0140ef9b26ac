"""The unencrypted part in front of a data packet's payload.

`u8 0x80|flags, u32 connection id, u16 number, [varint size, statistics record], [u16 time]`; bits 2 to 6 of the flags are
written 0 and not looked at. Record and time are not authenticated: they are hints (G19). Only the low 16 bits of the packet
number travel; the receiver finds the rest. Reference: steamnetworkingsockets_udp.cpp; our description: 01, chapters 11 and 12,
and 02, section 1.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from peergram.errors import UsageError, WireError
from peergram.wire.varint import decode_varint, encode_varint, nearest

DATA_HEADER_BYTES: Final = 7
"""Size without the optional parts."""
TIME_SINCE_PREVIOUS_MAX_US: Final = 0xFFFF << 4 | 0xF
"""Longest time that fits the field; the reference does not write more than 250 000."""

_FIXED: Final = struct.Struct("<BIH")
_TIME: Final = struct.Struct("<H")
_IS_DATA: Final = 0x80
_HAS_STATS: Final = 0x01
_HAS_TIME: Final = 0x02
_TIME_UNIT_BITS: Final = 4


@dataclass(slots=True)
class DataHeader:
    """What precedes the payload, which begins at `payload_at`; `number16` is for `expand_packet_number`."""

    connection_id: int
    number16: int
    stats_blob: bytes | None
    time_since_previous_us: int | None
    payload_at: int


def decode_data_header(datagram: bytes) -> DataHeader:
    """The header of a data packet; `WireError` when it is not one or is cut off."""
    if len(datagram) < DATA_HEADER_BYTES:
        raise WireError(f"data packet of {len(datagram)} bytes")
    lead, connection_id, number16 = _FIXED.unpack_from(datagram)
    if not lead & _IS_DATA:
        raise WireError(f"data packet begins with {lead:#04x}")
    at = DATA_HEADER_BYTES
    stats_blob: bytes | None = None
    time_since_previous_us: int | None = None
    if lead & _HAS_STATS:
        stats_blob, at = _decode_stats_blob(datagram, at)
    if lead & _HAS_TIME:
        time_since_previous_us, at = _decode_time(datagram, at)
    return DataHeader(connection_id, number16, stats_blob, time_since_previous_us, at)


def encode_data_header(
    connection_id: int, packet_number: int, *, stats_blob: bytes | None = None, time_since_previous_us: int | None = None
) -> bytes:
    """The header of packet `packet_number` (any size; its low 16 bits are written) to the peer that chose `connection_id`.

    The time is rounded down to 16 us.
    """
    if not 0 <= connection_id < 1 << 32 or packet_number < 0:
        raise UsageError(f"connection id (32 bits) or packet number out of range: {connection_id}, {packet_number}")
    lead = _IS_DATA
    tail = b""
    if stats_blob is not None:
        lead |= _HAS_STATS
        tail = encode_varint(len(stats_blob)) + stats_blob
    if time_since_previous_us is not None:
        if not 0 <= time_since_previous_us <= TIME_SINCE_PREVIOUS_MAX_US:
            raise UsageError(
                f"time since the previous packet is 0 to {TIME_SINCE_PREVIOUS_MAX_US} us, not {time_since_previous_us}"
            )
        lead |= _HAS_TIME
        tail += _TIME.pack(time_since_previous_us >> _TIME_UNIT_BITS)
    return _FIXED.pack(lead, connection_id, packet_number & 0xFFFF) + tail


def expand_packet_number(wire: int, highest: int) -> int:
    """The packet number meant by the 16 bits `wire`: the one nearest to `highest`, the highest processed so far.

    It is at most 32767 above and 32768 below `highest`, and so may be negative: then the packet is too old.
    """
    return nearest(wire, 16, highest)


def _decode_stats_blob(datagram: bytes, at: int) -> tuple[bytes, int]:
    size, begin = decode_varint(datagram, at, 32)
    end = begin + size
    if end > len(datagram):
        raise WireError(f"statistics record of {size} bytes does not fit the packet")
    return datagram[begin:end], end


def _decode_time(datagram: bytes, at: int) -> tuple[int, int]:
    if at + _TIME.size > len(datagram):
        raise WireError("no room for the time since the previous packet")
    raw: int = _TIME.unpack_from(datagram, at)[0]
    return raw << _TIME_UNIT_BITS, at + _TIME.size
