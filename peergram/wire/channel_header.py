"""The five bytes before each message of the messages API: `u8 flags, i32 channel`.

The flags are written as 1 and not looked at; every channel number is valid, negative ones too. Reference:
csteamnetworkingmessages.cpp; our description: 03, chapter 15.1.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Final

from peergram.config import CHANNELS_PER_SESSION_MAX
from peergram.errors import UsageError, WireError
from peergram.wire.varint import Buffer

CHANNEL_HEADER_BYTES: Final = 5

_HEADER: Final = struct.Struct("<Bi")
_FLAGS: Final = 1


@lru_cache(maxsize=CHANNELS_PER_SESSION_MAX)
def encode_channel_header(channel: int) -> bytes:
    """The header for messages on `channel`, a signed 32-bit number."""
    if not -(1 << 31) <= channel < 1 << 31:
        raise UsageError(f"a channel is a number from -2147483648 to 2147483647, not {channel}")
    return _HEADER.pack(_FLAGS, channel)


def decode_channel_header(message: Buffer) -> int:
    """The channel of `message`, whose payload begins at `CHANNEL_HEADER_BYTES`; `WireError` when it is shorter than that."""
    if len(message) < CHANNEL_HEADER_BYTES:
        raise WireError(f"message of {len(message)} bytes has no channel")
    channel: int = _HEADER.unpack_from(message)[1]
    return channel
