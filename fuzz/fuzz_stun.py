"""STUN messages, ChannelData, and the stream that carries both."""

from __future__ import annotations

from dataclasses import replace

from fuzz.run import load_vectors, run
from peergram.errors import WireError
from peergram.wire.stun import (
    StunStream,
    decode_channel_data,
    decode_stun,
    encode_channel_data,
    encode_stun,
    integrity_holds,
    looks_like_stun,
)


def fuzz_one(data: bytes) -> None:
    """A message is refused with WireError, or reads the same after being written again; so does ChannelData. What a stream gives
    out is one of the two."""
    try:
        message = decode_stun(data)
    except WireError:
        pass
    else:
        assert looks_like_stun(data)
        message = replace(message, unknown_required=[], has_integrity=False, has_fingerprint=False)
        assert decode_stun(encode_stun(message, fingerprint=False)) == message
    assert not integrity_holds(data, b"another key")
    try:
        channel, payload = decode_channel_data(data)
    except WireError:
        pass
    else:
        assert decode_channel_data(encode_channel_data(channel, payload)) == (channel, payload)
    stream = StunStream()
    try:
        for at in range(0, len(data), 7):
            for frame in stream.handle_data(data[at : at + 7]):
                assert looks_like_stun(frame) or decode_channel_data(frame)
    except WireError:
        return


def seeds() -> list[bytes]:
    """Recorded messages, and one inside ChannelData."""
    messages = [bytes.fromhex(row["hex"]) for row in load_vectors("03-stun")["stun"]]
    return [*messages, encode_channel_data(0x4000, messages[0], padded=True) + messages[1]]


if __name__ == "__main__":
    run(fuzz_one, seeds())
