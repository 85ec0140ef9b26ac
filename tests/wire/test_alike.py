"""Stretches of records that begin alike are found as by looking at each."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from peergram.wire.alike import count_alike
from tests.threats.world import SOAK


def counted_singly(buffer: bytes, at: int, header_bytes: int, stride: int) -> int:
    count = 0
    while at + (count + 1) * stride <= len(buffer):
        begin = at + count * stride
        if buffer[begin : begin + header_bytes] != buffer[at : at + header_bytes]:
            break
        count += 1
    return count if count > 1 else 0


@settings(max_examples=20_000 if SOAK else 300)
@given(
    buffer=st.lists(st.sampled_from([b"\0", b"\1", b"\x20\3", b"\x20\3\1\1\1"]), max_size=60).map(b"".join),
    at=st.integers(0, 20),
    header_bytes=st.integers(1, 3),
    content_bytes=st.integers(0, 6),
)
def test_as_many_are_found_as_by_looking_at_each(buffer: bytes, at: int, header_bytes: int, content_bytes: int) -> None:
    stride = header_bytes + content_bytes
    assert count_alike(buffer, at, header_bytes, stride) == counted_singly(buffer, at, header_bytes, stride)


def test_what_follows_the_last_one_does_not_matter() -> None:
    records = b"\x05abcde" * 4
    assert count_alike(records, 0, 1, 6) == 4
    assert count_alike(records + b"\x05ab", 0, 1, 6) == 4
    assert count_alike(records[:-1], 0, 1, 6) == 3
