"""The reliable stream's receiving side against a plain byte array: any boundaries, any order, any overlap."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peergram.connection.limits import OWN, ReceiveLimits
from peergram.connection.reliable import ReliableReceiver
from peergram.errors import WireError
from peergram.wire.reliable_framing import encode_message_header
from tests.threats.world import SOAK

NO_ROOM_LIMIT = 1 << 40


def stream_of(messages: list[bytes]) -> bytes:
    return b"".join(encode_message_header(1, len(message)) + message for message in messages)


def receiver_of(buffer_bytes: int = 1 << 20, limits: ReceiveLimits = OWN) -> ReliableReceiver:
    return ReliableReceiver(buffer_bytes_max=buffer_bytes, message_bytes_max=buffer_bytes, limits=limits)


def take_all(receiver: ReliableReceiver) -> list[bytes]:
    """Everything that is whole."""
    if not receiver.is_ready:
        return []
    return [data for _, data in receiver.take_ready(receiver.message_number, NO_ROOM_LIMIT, NO_ROOM_LIMIT)[0]]


@settings(max_examples=5_000 if SOAK else 80)
@given(
    messages=st.lists(st.binary(max_size=90), min_size=1, max_size=12),
    cuts=st.lists(st.tuples(st.integers(0, 1_200), st.integers(0, 60)), max_size=60),
    seed=st.integers(0, 1 << 32),
)
def test_pieces_with_any_boundaries_in_any_order_give_the_messages_once(
    messages: list[bytes], cuts: list[tuple[int, int]], seed: int
) -> None:
    stream = stream_of(messages)
    receiver = receiver_of()
    held = bytearray(len(stream))
    delivered: list[bytes] = []
    pieces = [(begin % (len(stream) + 1), size) for begin, size in cuts]
    rest = [(begin, 40) for begin in range(0, len(stream), 40)]
    Random(seed).shuffle(rest)
    for begin, size in pieces + rest:
        data = stream[begin : begin + size]
        assert receiver.add(1 + begin, data)
        held[begin : begin + len(data)] = bytes([1]) * len(data)
        delivered += take_all(receiver)
        gapless = held.find(0) if 0 in held else len(held)
        assert receiver.in_order_position == 1 + gapless
        assert receiver.end_position == 1 + (held.rfind(1) + 1)
        assert receiver.buffered_bytes == sum(held) - (receiver.consumed_position - 1)
        assert delivered == messages[: len(delivered)]
    assert delivered == messages
    assert receiver.buffered_bytes == 0


@settings(max_examples=2_000 if SOAK else 50)
@given(st.lists(st.tuples(st.integers(1, 400), st.binary(min_size=1, max_size=60)), max_size=40))
def test_bytes_that_are_held_are_never_replaced(segments: list[tuple[int, bytes]]) -> None:
    """A hostile peer sends overlapping pieces that disagree: the first one counts."""
    receiver = receiver_of()
    # A header that never ends keeps everything in the buffer.
    model: dict[int, int] = dict(enumerate(encode_message_header(1, 5_000), 1))
    assert receiver.add(1, encode_message_header(1, 5_000))
    for position, data in segments:
        receiver.add(position, data)
        for at, byte in enumerate(data, position):
            model.setdefault(at, byte)
    assert receiver.add(1, bytes(1_000))
    body = bytes(model.get(at, 0) for at in range(1, 1_001))
    assert receiver.in_order_position == 1_001
    assert b"".join(receiver._pieces) == body


@pytest.mark.parametrize("seed", range(20))
def test_refused_data_is_not_there_and_accepted_data_is(seed: int) -> None:
    """With the smallest limits there are, everything still arrives if what was refused is sent again."""
    rng = Random(seed)
    limits = ReceiveLimits(gaps_append_max=2, gaps_split_max=1)
    messages = [rng.randbytes(rng.randrange(80)) for _ in range(30)]
    stream = stream_of(messages)
    receiver = receiver_of(256, limits)
    missing = [(begin, begin + 20) for begin in range(0, len(stream), 20)]
    delivered: list[bytes] = []
    for _ in range(20_000):
        if not missing:
            break
        at = rng.randrange(min(len(missing), 6))
        begin, end = missing[at]
        if receiver.add(1 + begin, stream[begin:end]):
            del missing[at]
        assert receiver.buffered_bytes <= 256
        assert receiver.holes <= 2
        delivered += take_all(receiver)
    assert delivered == messages


def test_messages_wait_for_room_and_keep_their_order() -> None:
    receiver = receiver_of()
    assert receiver.add(1, stream_of([b"a" * 10, b"b" * 300, b"c"]))
    assert receiver.take_ready(0, 1, NO_ROOM_LIMIT) == ([(1, b"a" * 10)], 256)
    assert receiver.is_ready
    assert receiver.take_ready(1, 9, 299) == ([], 0)
    assert receiver.take_ready(1, 9, 300 + 256) == ([(2, b"b" * 300), (3, b"c")], 556)
    assert not receiver.is_ready


def test_a_large_message_is_tried_once_and_not_with_every_piece() -> None:
    receiver = receiver_of()
    stream = stream_of([bytes(10_000)])
    ready = 0
    for begin in range(0, len(stream), 100):
        assert receiver.add(1 + begin, stream[begin : begin + 100])
        if receiver.is_ready:
            ready += 1
            take_all(receiver)
    assert ready == 2


@pytest.mark.parametrize("header", [b"\x80", b"\xff\xff", b"\x40" + b"\xff" * 11, b"\x20" + b"\x80" * 11])
def test_a_header_that_can_never_end_is_a_violation(header: bytes) -> None:
    """G21."""
    receiver = receiver_of()
    assert receiver.add(1, header)
    with pytest.raises(WireError):
        take_all(receiver)
