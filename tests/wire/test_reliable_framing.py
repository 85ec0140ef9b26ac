"""Message headers of reliable streams, against the streams of recorded flows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peergram.errors import UsageError, WireError
from peergram.wire.frames import DecodeContext, ReliableSegment, decode_frames
from peergram.wire.reliable_framing import MESSAGE_HEADER_BYTES_MAX, encode_message_header, parse_message_header

FLOWS: list[dict[str, Any]] = json.loads((Path(__file__).parent.parent / "vectors" / "02-snp.json").read_text())["flows"]
RELIABLE = 8

steps = st.integers(0, (1 << 64) - 1)
sizes = st.integers(0, (1 << 64) - 1)


def message_bytes(tag: int, size: int) -> bytes:
    return bytes((tag * 31 + i * 7 + (i >> 8) * 13) & 255 for i in range(size))


def reliable_streams(flow: dict[str, Any]) -> dict[tuple[str, int], bytearray]:
    """Every lane's stream as its sender wrote it, by (side, lane)."""
    streams: dict[tuple[str, int], bytearray] = {}
    for event in flow["events"]:
        if event[0] == "tx":
            context = DecodeContext(event[3], 1 << 15, lambda lane: 0, lambda lane: 1)
            for frame in decode_frames(bytes.fromhex(event[4]), context):
                if isinstance(frame, ReliableSegment):
                    stream = streams.setdefault((event[1], frame.lane), bytearray())
                    begin = frame.position - 1
                    stream.extend(bytes(max(0, begin + len(frame.data) - len(stream))))
                    stream[begin : begin + len(frame.data)] = frame.data
    return streams


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow["name"])
def test_recorded_streams_hold_the_messages_that_were_sent(flow: dict[str, Any]) -> None:
    sent: dict[tuple[str, int], list[tuple[int, bytes]]] = {}
    for event in flow["events"]:
        if event[0] == "send" and event[5] & RELIABLE:
            _, side, _, lane, number, _, size, tag = event
            sent.setdefault((side, lane), []).append((number, message_bytes(tag, size)))
    streams = reliable_streams(flow)
    assert streams.keys() == sent.keys()
    for key, stream in streams.items():
        assert messages_of(bytes(stream)) == sent[key]


def messages_of(stream: bytes) -> list[tuple[int, bytes]]:
    """Messages of a whole stream; its headers must be written as we write them."""
    messages = []
    at = number = 0
    while at < len(stream):
        header = parse_message_header(stream, at)
        assert header is not None
        step, size, header_bytes = header
        assert encode_message_header(step or 1, size) == stream[at : at + header_bytes]
        number += step or 1
        at += header_bytes
        messages.append((number, stream[at : at + size]))
        at += size
    return messages


@pytest.mark.parametrize(
    ("text", "step", "size"),
    [("4013", 19, 0), ("03", None, 3), ("610201", 2, 33), ("3427", None, 1268), ("4000", 0, 0), ("20808001", None, 524_288)],
)
def test_examples_read_as_described(text: str, step: int | None, size: int) -> None:
    assert parse_message_header(bytes.fromhex(text)) == (step, size, len(text) // 2)
    assert encode_message_header(1 if step is None else step, size).hex() == text


@given(steps, sizes, st.binary(max_size=5), st.sampled_from((bytes, bytearray, memoryview)))
def test_a_header_is_read_back_and_each_part_of_it_waits_for_more(step: int, size: int, before: bytes, buffer_type: Any) -> None:
    header = encode_message_header(step, size)
    assert len(header) <= MESSAGE_HEADER_BYTES_MAX
    expected = (None if step == 1 else step, size, len(header))
    assert parse_message_header(buffer_type(before + header + b"x"), len(before)) == expected
    for cut in range(len(header)):
        assert parse_message_header(buffer_type(before + header[:cut]), len(before)) is None
        assert parse_message_header(buffer_type(before + header), len(before), len(before) + cut) is None


def test_over_long_varints_inside_the_limit_are_read() -> None:
    assert parse_message_header(b"\x41" + b"\x80" * 8 + b"\x00") == (0, 1, 10)


@pytest.mark.parametrize(
    "text",
    [
        "80",
        "ff",
        "40" + "80" * 10,  # the reference waits for ever (G21)
        "20" + "80" * 10,
        "60" + "00" + "ff" * 10,
        "40" + "ff" * 9 + "02",  # 65 bits
    ],
)
def test_what_can_never_become_a_header_is_refused_at_once(text: str) -> None:
    with pytest.raises(WireError):
        parse_message_header(bytes.fromhex(text))


@pytest.mark.parametrize(("step", "size"), [(-1, 0), (1, -1), (1 << 64, 0)])
def test_headers_that_cannot_be_written_are_a_usage_error(step: int, size: int) -> None:
    with pytest.raises(UsageError):
        encode_message_header(step, size)
