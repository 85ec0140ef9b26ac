"""The reliable stream's receiving side against a plain byte array: any boundaries, any order, any overlap."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peergram.config import MESSAGE_CHARGE_BYTES_MIN
from peergram.connection.limits import OWN, ReceiveLimits
from peergram.connection.reliable import ReliableReceiver
from peergram.errors import WireError
from peergram.wire.reliable_framing import encode_message_header, parse_message_header
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
    return receiver.take_ready(receiver.message_number, NO_ROOM_LIMIT, NO_ROOM_LIMIT)[1]


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
    assert receiver.take_ready(0, 1, NO_ROOM_LIMIT) == ([1], [b"a" * 10], 256)
    assert receiver.is_ready
    assert receiver.take_ready(1, 9, 299) == ([], [], 0)
    assert receiver.take_ready(1, 9, 300 + 256) == ([2, 3], [b"b" * 300, b"c"], 556)
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


def read_singly(stream: bytes, seen: int, messages_max: int, bytes_max: int, takes_any: bool) -> list[tuple[int, bytes]]:
    """The messages at the front of a stream of consecutive numbers that find room, each looked at for itself."""
    found: list[tuple[int, bytes]] = []
    at = charged = 0
    while len(found) < messages_max and (header := parse_message_header(stream, at)) is not None:
        step, size, header_bytes = header
        end = at + header_bytes + size
        charge = max(size, MESSAGE_CHARGE_BYTES_MIN)
        if end > len(stream) or (charged + charge > bytes_max and not (takes_any and not found)):
            break
        seen += 1 if step is None else step
        charged += charge
        found.append((seen, stream[at + header_bytes : end]))
        at = end
    return found


@settings(max_examples=5_000 if SOAK else 200)
@given(seed=st.integers(0, 1 << 32))
def test_runs_of_one_size_are_read_as_message_by_message(seed: int) -> None:
    rng = Random(seed)
    receiver = receiver_of()
    stream = b""
    number = 0
    for _ in range(rng.randrange(1, 6)):
        size = rng.choice((0, 1, 31, 32, 33, 100, 4_095, 4_096))
        for _ in range(rng.choice((1, 2, 3, 20))):
            step = 1 if rng.random() < 0.97 else rng.randrange(2, 5)
            number += step
            stream += encode_message_header(step, size) + rng.choice((bytes(size), rng.randbytes(size)))
    whole = stream
    at = 0
    while at < len(whole) or receiver.is_ready:
        end = min(len(whole), at + rng.choice((1, 700, 5_000, 60_000)))
        if end > at:
            assert receiver.add(at + 1, whole[at:end])
        at = end
        room = rng.choice((1, 3, 1_000)), rng.choice((0, 256, 1_000, 100_000)), rng.random() < 0.5
        held = whole[receiver.consumed_position - 1 : at]
        expected = read_singly(held, receiver.message_number, *room)
        numbers, payloads, charge = receiver.take_ready(number, room[0], room[1], takes_any=room[2])
        assert list(zip(numbers, payloads, strict=True)) == expected
        assert charge == sum(max(len(data), MESSAGE_CHARGE_BYTES_MIN) for _, data in expected)
    assert receiver.message_number == number
    assert not receiver.buffered_bytes
