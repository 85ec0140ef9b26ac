"""Numbers of the wire that are not plain fixed fields: varints, and numbers of which only the low bits are sent.

A varint holds 7 bits per byte, the least significant group first; a set high bit says that another byte follows. A reader takes
at most 5 bytes for a 32-bit field and 10 for a 64-bit one, and accepts over-long forms inside that limit, as the reference
does. A value with more bits than the field is an error (E2).
"""

from __future__ import annotations

from peergram.errors import UsageError, WireError

Buffer = bytes | bytearray | memoryview


def encode_varint(value: int) -> bytes:
    """The shortest form of `value`, which is 0 to 2^64 - 1."""
    if not 0 <= value < 1 << 64:
        raise UsageError(f"a varint holds 0 to 2^64 - 1, not {value}")
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def varint_bytes(value: int) -> int:
    """How long `encode_varint(value)` is."""
    return max(1, (value.bit_length() + 6) // 7)


def read_varint(data: Buffer, at: int, bits: int = 64, end: int | None = None) -> tuple[int, int] | None:
    """The value at `at` and the position after it, or None when the bytes up to `end` (default: all) stop inside it.

    Raises `WireError` when the value is longer than the field allows or has more than `bits` bits.
    """
    bytes_max = (bits + 6) // 7
    limit = len(data) if end is None else min(end, len(data))
    value = 0
    for index in range(bytes_max):
        if at + index >= limit:
            return None
        byte = data[at + index]
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            if value >> bits:
                raise WireError(f"varint does not fit {bits} bits")
            return value, at + index + 1
    raise WireError(f"varint of more than {bytes_max} bytes")


def decode_varint(data: Buffer, at: int, bits: int = 64) -> tuple[int, int]:
    """The value at `at` and the position after it; `WireError` when it is cut off, too long or too large."""
    found = read_varint(data, at, bits)
    if found is None:
        raise WireError("varint is cut off")
    return found


def nearest(low: int, bits: int, reference: int) -> int:
    """The number closest to `reference` whose lowest `bits` bits are `low`; it may be below zero.

    Of two equally close ones the lower is meant.
    """
    half = 1 << bits - 1
    return reference + ((low - reference + half) & (2 * half - 1)) - half
