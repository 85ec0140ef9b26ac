"""How own peers say that a connection is over: inside the encryption, together with a last ack.

A payload that begins with 0xA0 (an invalid lead byte in the protocol, so it goes to own peers only): reason u16, text length
u8, text, and then ordinary frames. So a close cannot be forged, and both sides know the same of what arrived.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from peergram.config import CLOSE_DEBUG_BYTES_MAX
from peergram.errors import WireError

GOODBYE_LEAD: Final = 0xA0
_HEAD: Final = struct.Struct("<BHB")
_LANE: Final = struct.Struct("<BIH")
_LANES_MAX: Final = 32
"""Lanes told about, the highest positions first; an own peer uses eight."""


@dataclass(frozen=True, slots=True)
class Goodbye:
    """The peer ended the connection."""

    reason: int
    debug: str
    taken: tuple[tuple[int, int], ...] = ()
    """(lane, position): the peer took our reliable stream of that lane up to this position, and will deliver it."""


def encode_goodbye(goodbye: Goodbye) -> bytes:
    """The frame; the text is cut to 127 bytes."""
    text = goodbye.debug.encode("utf-8", "surrogateescape")[:CLOSE_DEBUG_BYTES_MAX]
    taken = goodbye.taken[:_LANES_MAX]
    lanes = b"".join(_LANE.pack(lane, position & 0xFFFFFFFF, position >> 32 & 0xFFFF) for lane, position in taken)
    return _HEAD.pack(GOODBYE_LEAD, goodbye.reason & 0xFFFF, len(text)) + text + bytes((len(taken),)) + lanes


def decode_goodbye(payload: bytes) -> tuple[Goodbye, bytes]:
    """The frame at the front of a payload, and the frames behind it; raises `WireError`."""
    if len(payload) < _HEAD.size:
        raise WireError("goodbye cut short")
    _, reason, size = _HEAD.unpack_from(payload)
    lanes_at = _HEAD.size + size + 1
    if lanes_at > len(payload):
        raise WireError("goodbye cut short")
    end = lanes_at + payload[lanes_at - 1] * _LANE.size
    if end > len(payload):
        raise WireError("goodbye cut short")
    debug = payload[_HEAD.size : lanes_at - 1].decode("utf-8", "replace")
    rows = [_LANE.unpack_from(payload, at) for at in range(lanes_at, end, _LANE.size)]
    return Goodbye(reason, debug, tuple((lane, low | high << 32) for lane, low, high in rows)), payload[end:]
