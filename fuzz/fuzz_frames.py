"""Fuzz target: SNP frames of a decrypted payload."""

from __future__ import annotations

from peergram.errors import WireError
from peergram.wire.frames import AckOfUnsent, DecodeContext, Forms, Frame, TooManySegments, decode_frames, encode_frames

CONTEXT_BYTES = 16
WIDE_FORMS = Forms(ack_bits=32)


def fuzz_one(data: bytes) -> None:
    """Any payload gives frames or `WireError`; frames are not more than bytes, and written again they read the same."""
    context = context_of(data[:CONTEXT_BYTES].ljust(CONTEXT_BYTES, b"\0"))
    payload = data[CONTEXT_BYTES:]
    try:
        frames = decode_frames(payload, context)
    except WireError:
        return
    assert len(frames) <= len(payload)
    sendable = without_marker(frames)
    again = encode_frames(sendable, context.packet_number, WIDE_FORMS)
    assert decode_frames(again, context) == sendable


def context_of(head: bytes) -> DecodeContext:
    """A reader's state in six numbers; the shifts reach values beyond 32 bits."""
    shift = head[0] & 31
    highest = int.from_bytes(head[1:5], "little") << shift & (1 << 48) - 1
    expected = 1 + (int.from_bytes(head[5:9], "little") << shift & (1 << 48) - 1)
    packet_number = 1 + (int.from_bytes(head[9:12], "little") << shift)
    next_packet_number = 1 + (int.from_bytes(head[12:15], "little") << shift)
    return DecodeContext(
        packet_number, next_packet_number, lambda lane: highest + lane, lambda lane: expected + lane, 1 + head[15]
    )


def without_marker(frames: list[Frame]) -> list[Frame]:
    return frames[:-1] if frames and isinstance(frames[-1], AckOfUnsent | TooManySegments) else frames


if __name__ == "__main__":
    from fuzz.run import load_vectors, run

    payloads = [bytes.fromhex(packet["payload"]) for packet in load_vectors("02-snp")["packets"]]
    run(fuzz_one, [bytes(CONTEXT_BYTES) + payload for payload in payloads])
