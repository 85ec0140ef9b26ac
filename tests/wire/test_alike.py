"""Stretches of records that begin alike are found as by looking at each."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from peergram.wire.alike import count_alike
from tests.threats.world import SOAK

ANY_NUMBER = 1_000_000


class Counting(bytes):
    """Knows how many bytes of it were looked at."""

    looked_at = 0

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        self.looked_at += len(found)
        return found


def counted_singly(buffer: bytes, at: int, header_bytes: int, stride: int, count_max: int) -> int:
    count = 0
    while count < count_max and at + (count + 1) * stride <= len(buffer):
        begin = at + count * stride
        if buffer[begin : begin + header_bytes] != buffer[at : at + header_bytes]:
            break
        count += 1
    return count if count > 1 else 0


@settings(max_examples=20_000 if SOAK else 300)
@given(
    buffer=st.lists(
        st.sampled_from([b"\0", b"\1", b"\x20\3", b"\x20\3\1\1\1", b"\0" * 90, b"\x20\3\1\1\1" * 40]), max_size=60
    ).map(b"".join),
    at=st.integers(0, 20),
    header_bytes=st.integers(1, 3),
    content_bytes=st.integers(0, 6),
    count_max=st.sampled_from([0, 1, 2, 3, 15, 16, 17, 100, ANY_NUMBER]),
)
def test_as_many_are_found_as_by_looking_at_each(
    buffer: bytes, at: int, header_bytes: int, content_bytes: int, count_max: int
) -> None:
    stride = header_bytes + content_bytes
    found = count_alike(buffer, at, header_bytes, stride, count_max)
    assert found == counted_singly(buffer, at, header_bytes, stride, count_max)


def test_what_follows_the_last_one_does_not_matter() -> None:
    records = b"\x05abcde" * 4
    assert count_alike(records, 0, 1, 6, ANY_NUMBER) == 4
    assert count_alike(records + b"\x05ab", 0, 1, 6, ANY_NUMBER) == 4
    assert count_alike(records[:-1], 0, 1, 6, ANY_NUMBER) == 3


def test_it_looks_no_further_than_a_few_times_what_it_finds() -> None:
    for alike in (2, 10, 20, 100, 1_000, 20_000):
        records = Counting(b"\0" * alike + b"\1" * 100_000)
        assert count_alike(records, 0, 1, 1, ANY_NUMBER) == alike
        assert records.looked_at <= 20 + 10 * alike


def test_it_looks_at_no_more_than_it_is_asked_for() -> None:
    records = Counting(b"\0" * 100_000)
    assert count_alike(records, 0, 1, 1, 50) == 50
    assert records.looked_at <= 100
