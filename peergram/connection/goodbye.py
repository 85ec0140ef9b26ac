"""How own peers say that a connection is over: inside the encryption, together with a last ack.

A payload that begins with 0xA0 (an invalid lead byte in the protocol, so it goes to own peers only): reason u16, text length
u8, text, and then ordinary frames. So a close cannot be forged, and both sides know the same of what arrived.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from peergram.config import CLOSE_DEBUG_BYTES_MAX
from peergram.errors import WireError

GOODBYE_LEAD = 0xA0
_HEAD = struct.Struct("<BHB")


@dataclass(frozen=True, slots=True)
class Goodbye:
    """The peer ended the connection."""

    reason: int
    debug: str


def encode_goodbye(reason: int, debug: str) -> bytes:
    """The frame; the text is cut to 127 bytes."""
    text = debug.encode("utf-8", "surrogateescape")[:CLOSE_DEBUG_BYTES_MAX]
    return _HEAD.pack(GOODBYE_LEAD, reason & 0xFFFF, len(text)) + text


def decode_goodbye(payload: bytes) -> tuple[Goodbye, bytes]:
    """The frame at the front of a payload, and the frames behind it; raises `WireError`."""
    if len(payload) < _HEAD.size:
        raise WireError("goodbye cut short")
    _, reason, size = _HEAD.unpack_from(payload)
    end = _HEAD.size + size
    if end > len(payload):
        raise WireError("goodbye cut short")
    return Goodbye(reason, payload[_HEAD.size : end].decode("utf-8", "replace")), payload[end:]
