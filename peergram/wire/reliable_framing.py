"""Headers of the messages inside a lane's reliable stream, `0mssssss [number step] [size high]`.

Messages stand back to back in the stream. A message without a step (`m` = 0) has the number after the lane's previous reliable
one; sizes of 32 and more continue in a varint. Which steps and sizes are acceptable is the receiver's decision: it knows the
lane. Reference: SNP_WIRE_FORMAT.md, "reliable stream"; our description: 02, section 5.
"""

from __future__ import annotations

from typing import Final

from peergram.errors import UsageError, WireError
from peergram.wire.varint import Buffer, encode_varint, read_varint

MESSAGE_HEADER_BYTES_MAX: Final = 21
"""A lead byte and two varints of ten bytes; a receiver never waits for more (G21)."""

_STEP_FOLLOWS: Final = 0x40
_SIZE_FOLLOWS: Final = 0x20
_SIZE_LOW: Final = 0x1F
_SIZE_LOW_BITS: Final = 5


def encode_message_header(step: int, size: int) -> bytes:
    """The header of a message of `size` bytes whose number is `step` above the lane's previous reliable one."""
    if step < 0 or size < 0:
        raise UsageError(f"step and size of a message count from 0, not {step} and {size}")
    lead = size & _SIZE_LOW
    tail = b""
    if step != 1:
        lead |= _STEP_FOLLOWS
        tail = encode_varint(step)
    if size > _SIZE_LOW:
        lead |= _SIZE_FOLLOWS
        tail += encode_varint(size >> _SIZE_LOW_BITS)
    return bytes((lead,)) + tail


def parse_message_header(buffer: Buffer, at: int = 0, end: int | None = None) -> tuple[int | None, int, int] | None:
    """The header at `at`: number step (None: not written, which means 1), message size and header size in bytes.

    None when the bytes up to `end` (default: all; give the first hole of the stream) hold only a part of it. `WireError` when
    it can never become a header: the lead byte has bit 7, or a varint goes on after ten bytes or exceeds 64 bits.
    """
    limit = len(buffer) if end is None else min(end, len(buffer))
    if at >= limit:
        return None
    lead = buffer[at]
    if lead & 0x80:
        raise WireError(f"reliable message begins with {lead:#04x}")
    step: int | None = None
    size = lead & _SIZE_LOW
    after = at + 1
    if lead & _STEP_FOLLOWS:
        found = read_varint(buffer, after, 64, limit)
        if found is None:
            return None
        step, after = found
    if lead & _SIZE_FOLLOWS:
        found = read_varint(buffer, after, 64, limit)
        if found is None:
            return None
        size |= found[0] << _SIZE_LOW_BITS
        after = found[1]
    return step, size, after - at
