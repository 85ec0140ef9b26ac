"""The cursor reads what is there and nothing beyond."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peergram.errors import WireError
from peergram.wire.cursor import Cursor


def test_fields_are_read_one_after_the_other() -> None:
    cursor = Cursor(b"\xff\x01\x02\x03\x04abc", at=1)
    assert cursor.integer(2) == 0x0201
    assert cursor.integer(2, "big") == 0x0304
    assert cursor.left == 3
    assert cursor.take(2) == b"ab"
    assert cursor.rest() == b"c"
    assert cursor.rest() == b""


@given(st.binary(max_size=20), st.integers(-5, 30))
def test_a_read_past_the_end_is_a_wire_error_and_moves_nothing(data: bytes, size: int) -> None:
    cursor = Cursor(data)
    if 0 <= size <= len(data):
        assert cursor.take(size) == data[:size]
        return
    with pytest.raises(WireError):
        cursor.take(size)
    assert cursor.rest() == data
