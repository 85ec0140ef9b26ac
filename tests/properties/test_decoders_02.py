"""The decoders of the data protocol on arbitrary, cut and damaged bytes: values or `WireError`, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fuzz import fuzz_data_packet, fuzz_frames, fuzz_reliable_framing
from peergram.errors import WireError
from peergram.wire.channel_header import decode_channel_header
from peergram.wire.frames import DecodeContext, Frame, decode_frames
from peergram.wire.varint import decode_varint, encode_varint, nearest, read_varint, varint_bytes

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent.parent / "vectors" / "02-snp.json").read_text())
PAYLOADS = [bytes.fromhex(packet["payload"]) for packet in VECTORS["packets"]]
PAYLOADS += [bytes.fromhex(step["payload"]) for case in VECTORS["receiver_cases"] for step in case["steps"]]
HEADERS = [bytes.fromhex(row["header"]) for row in VECTORS["udp_headers"]]
LEADS = [0x20, 0x27, 0x2F, 0x30, 0x38, 0x40, 0x47, 0x48, 0x50, 0x58, 0x80, 0x81, 0x88, 0x8F, 0x90, 0x98, 0x9F]

context_heads = st.binary(min_size=fuzz_frames.CONTEXT_BYTES, max_size=fuzz_frames.CONTEXT_BYTES)
framelike = st.lists(st.sampled_from(LEADS).map(lambda lead: bytes((lead,))) | st.binary(max_size=6), max_size=30).map(b"".join)


@st.composite
def damaged(draw: st.DrawFn, samples: list[bytes]) -> bytes:
    """A recorded piece with a few bytes changed, cut out or put in."""
    data = bytearray(draw(st.sampled_from(samples)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(data)


def decode(payload: bytes) -> list[Frame] | None:
    try:
        return decode_frames(payload, DecodeContext(1 << 40, 1 << 40, lambda lane: 1 << 31, lambda lane: 1 << 31))
    except WireError:
        return None


@given(context_heads, st.binary(max_size=60) | framelike | damaged(PAYLOADS))
def test_frames_hold_their_invariant(head: bytes, payload: bytes) -> None:
    fuzz_frames.fuzz_one(head + payload)


@given(st.sampled_from(PAYLOADS), st.data())
def test_a_cut_payload_is_refused_or_shows_the_same_frames_before_the_cut(payload: bytes, data: st.DataObject) -> None:
    whole = decode(payload)
    part = decode(payload[: data.draw(st.integers(0, len(payload)))])
    if whole is not None and part is not None:
        assert part[:-1] == whole[: max(0, len(part) - 1)]


@given(st.binary(max_size=40) | damaged(HEADERS))
def test_data_headers_hold_their_invariant(datagram: bytes) -> None:
    fuzz_data_packet.fuzz_one(datagram)


@given(
    st.binary(max_size=60) | st.lists(st.sampled_from([b"\x40", b"\x60", b"\x80", b"\xff", b"\x01"]), max_size=30).map(b"".join)
)
def test_reliable_headers_hold_their_invariant(stream: bytes) -> None:
    fuzz_reliable_framing.fuzz_one(stream)


@given(st.binary(max_size=10))
def test_a_message_has_a_channel_or_is_refused(message: bytes) -> None:
    try:
        channel = decode_channel_header(message)
    except WireError:
        assert len(message) < 5
    else:
        assert channel == int.from_bytes(message[1:5], "little", signed=True)


@given(st.integers(0, (1 << 64) - 1), st.binary(max_size=3))
def test_a_varint_is_read_back_and_its_parts_are_cut_off(value: int, after: bytes) -> None:
    encoded = encode_varint(value)
    assert len(encoded) == varint_bytes(value)
    assert decode_varint(encoded + after, 0) == (value, len(encoded))
    for cut in range(len(encoded)):
        assert read_varint(encoded, 0, end=cut) is None


@given(st.binary(max_size=12), st.sampled_from((32, 64)))
def test_varints_never_exceed_their_field(data: bytes, bits: int) -> None:
    try:
        value, after = decode_varint(data, 0, bits)
    except WireError:
        return
    assert value < 1 << bits
    assert after <= (bits + 6) // 7
    assert value == sum((byte & 0x7F) << 7 * index for index, byte in enumerate(data[:after]))


@given(st.integers(-(1 << 40), 1 << 40), st.sampled_from((16, 32)), st.data())
def test_the_nearest_number_has_the_low_bits_and_is_within_half_the_range(reference: int, bits: int, data: st.DataObject) -> None:
    low = data.draw(st.integers(0, (1 << bits) - 1))
    found = nearest(low, bits, reference)
    assert found % (1 << bits) == low
    assert -(1 << bits - 1) <= found - reference < 1 << bits - 1
