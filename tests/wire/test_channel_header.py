"""The channel in front of each message."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peergram.config import CHANNELS_PER_SESSION_MAX
from peergram.errors import UsageError, WireError
from peergram.wire.channel_header import CHANNEL_HEADER_BYTES, decode_channel_header, encode_channel_header


def test_the_described_example_is_written_and_read() -> None:
    message = bytes.fromhex("010200000070696e67")
    assert encode_channel_header(2) + b"ping" == message
    assert decode_channel_header(message) == 2


@given(st.integers(-(1 << 31), (1 << 31) - 1), st.binary(max_size=10))
def test_every_channel_is_read_back(channel: int, payload: bytes) -> None:
    message = encode_channel_header(channel) + payload
    assert decode_channel_header(message) == channel
    assert decode_channel_header(memoryview(message)) == channel
    assert message[CHANNEL_HEADER_BYTES:] == payload


@given(st.integers(0, 255))
def test_the_flags_do_not_matter(flags: int) -> None:
    assert decode_channel_header(bytes((flags,)) + b"\xff\xff\xff\xff") == -1


@pytest.mark.parametrize("size", range(CHANNEL_HEADER_BYTES))
def test_shorter_messages_have_no_channel(size: int) -> None:
    with pytest.raises(WireError):
        decode_channel_header(bytes(size))


@pytest.mark.parametrize("channel", [1 << 31, -(1 << 31) - 1])
def test_a_channel_of_more_than_32_bits_is_a_usage_error(channel: int) -> None:
    with pytest.raises(UsageError):
        encode_channel_header(channel)


def test_remembered_headers_are_bounded() -> None:
    for channel in range(CHANNELS_PER_SESSION_MAX + 100):
        encode_channel_header(channel)
    assert encode_channel_header.cache_info().currsize == CHANNELS_PER_SESSION_MAX
