"""Unreliable messages in pieces: whole or not at all, once, and within bounds."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from peergram.config import UNRELIABLE_RECV_BYTES_MAX, UNRELIABLE_STORE_BYTES_MAX, UNRELIABLE_STORE_SEGMENTS_MAX
from peergram.connection.limits import REFERENCE, ReceiveLimits
from peergram.connection.unreliable import UnreliableReceiver
from tests.threats.world import SOAK

Piece = tuple[int, int, bytes, bool]


def pieces_of(number: int, message: bytes, sizes: list[int]) -> list[Piece]:
    """(number, offset, data, last) of a message cut at these sizes, the rest in one."""
    pieces = []
    offset = 0
    for size in [*sizes, len(message)]:
        data = message[offset : offset + size]
        pieces.append((number, offset, data, offset + len(data) == len(message)))
        offset += len(data)
        if offset == len(message):
            break
    return pieces


@settings(max_examples=3_000 if SOAK else 80)
@given(
    messages=st.lists(st.tuples(st.binary(min_size=2, max_size=300), st.lists(st.integers(1, 100), max_size=4)), max_size=8),
    seed=st.integers(0, 1 << 32),
)
def test_pieces_in_any_order_and_twice_give_each_message_whole(messages: list[tuple[bytes, list[int]]], seed: int) -> None:
    rng = Random(seed)
    receiver = UnreliableReceiver()
    pieces = [piece for number, (message, sizes) in enumerate(messages, 1) for piece in pieces_of(number, message, sizes)]
    rng.shuffle(pieces)
    delivered: dict[int, list[bytes]] = {}
    for number, offset, data, last in pieces:
        for _ in range(1 + (rng.random() < 0.2 and not (last and not offset))):
            whole = receiver.add(number, offset, data, last, 1_000)
            if whole is not None:
                delivered.setdefault(number, []).append(whole)
    for number, (message, _) in enumerate(messages, 1):
        assert delivered[number][0] == message
        assert len(delivered[number]) == 1


@settings(max_examples=2_000 if SOAK else 60)
@given(
    st.lists(
        st.tuples(st.integers(1, 6), st.integers(0, 27_000), st.integers(0, 1_400), st.booleans()),
        max_size=400,
    )
)
def test_whatever_comes_the_store_stays_within_its_bounds(segments: list[tuple[int, int, int, bool]]) -> None:
    receiver = UnreliableReceiver(ReceiveLimits(unreliable_segments_max=10, unreliable_bytes_max=5_000))
    for at, (number, offset, size, last) in enumerate(segments):
        whole = receiver.add(number, offset, bytes(size), last, at * 1_000)
        assert whole is None or len(whole) <= UNRELIABLE_RECV_BYTES_MAX
        assert receiver.stored_segments <= 10
        assert receiver.stored_bytes <= 5_000
        assert receiver.stored_segments == sum(len(partial.pieces) for partial in receiver._partials.values())
        assert receiver.stored_bytes == sum(partial.bytes for partial in receiver._partials.values())


def test_a_message_that_grows_old_is_given_up() -> None:
    receiver = UnreliableReceiver(ReceiveLimits(unreliable_age_us=1_000))
    assert receiver.add(1, 0, b"begin", False, 0) is None
    assert receiver.add(2, 0, b"begin", False, 2_000) is None
    assert receiver.pieces_dropped == 1
    assert receiver.add(1, 5, b"end", True, 2_000) is None
    assert receiver.add(2, 5, b"end", True, 2_000) == b"beginend"


def test_the_lowest_message_gives_way_as_in_the_reference() -> None:
    receiver = UnreliableReceiver(REFERENCE)
    for number in range(1, 22):
        assert receiver.add(number, 1, b"x", False, 0) is None
    assert receiver.stored_segments == 21
    assert receiver.add(30, 1, b"x", False, 0) is None
    assert min(receiver._partials) == 2


def test_the_limits_are_those_of_the_configuration() -> None:
    assert UnreliableReceiver()._limits.unreliable_segments_max == UNRELIABLE_STORE_SEGMENTS_MAX
    assert UnreliableReceiver()._limits.unreliable_bytes_max == UNRELIABLE_STORE_BYTES_MAX
