"""E7, E8, E9: pieces of messages that claim the impossible, never end, overlap or come one byte at a time."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import pytest

from peergram.config import (
    UNRELIABLE_RECV_BYTES_MAX,
    UNRELIABLE_STORE_BYTES_MAX,
    UNRELIABLE_STORE_SEGMENTS_MAX,
    Config,
)
from peergram.connection.limits import OWN
from peergram.connection.receive import ConnectionViolated, Receiver
from peergram.wire.reliable_framing import encode_message_header
from peergram.wire.varint import encode_varint
from tests.compiled import REPLACES
from tests.connection.flows import delivered_messages, make_flow
from tests.threats.world import SOAK, full_or, held_bytes

NOW_US = 2_000_000
EDGES = (0, 1, 127, 1_279, 1_300, 25_999, 26_000, 65_535, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)
NUMBERS = (0, 1, 2, 0x7FFF, 0x8000, 0xFFFF, 0x10000, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 10_000, 10_001)
LEADS = (0x00, 0x08, 0x10, 0x18, 0x20, 0x28, 0x30, 0x38, 0x40, 0x48, 0x50, 0x58)
SIZES = (
    *(bytes((size >> 8, size & 255)) for size in (0, 1, 127, 255, 256, 512, 1_023, 1_024, 1_279)),
    b"\x05\x05",
    b"\x06\xff",
    b"\x07",
)
"""Size code and, where the code asks for one, size byte: explicit sizes, the two codes without a meaning, "the rest"."""
SESSION_BYTES_MAX = 3 << 19
"""1.5 MiB: what one hostile session may cost."""


def receiver_of(config: Config | None = None) -> Receiver:
    return Receiver(make_flow(config), lambda _record, _now_us: None)


def segment(lead: int, number: int, offset: int, size: bytes) -> bytes:
    """The header of a segment of either kind from raw fields."""
    if lead < 0x40:
        number_field = (number & 0xFFFFFFFF).to_bytes(4, "little") if lead & 0x10 else (number & 0xFFFF).to_bytes(2, "little")
        fields = number_field + (encode_varint(offset) if lead & 0x08 else b"")
    else:
        fields = (
            (offset * 65_537 + number & (1 << 48) - 1).to_bytes((3, 4, 6, 6)[lead >> 3 & 3], "little")
            if lead >= 0x50
            else ((offset & 0xFFFFFF).to_bytes(3, "little") if lead == 0x40 else (offset & 0xFFFFFFFF).to_bytes(4, "little"))
        )
    return bytes((lead | size[0],)) + fields + size[1:]


# --- E7 ---


@pytest.mark.parametrize("lead", LEADS, ids=hex)
def test_every_combination_of_edge_values_is_dropped_or_ends_the_connection(lead: int) -> None:
    """E7: offset x size x message number x flags, 12 edge values each; nothing is held that did not arrive.

    Each combination comes with too little, with enough and with no data behind it.
    """
    assert len(LEADS) * len(NUMBERS) * len(EDGES) * len(SIZES) == 20_736
    for number, offset, size in itertools.product(NUMBERS, EDGES, SIZES):
        receiver = receiver_of()
        flow = receiver._flow
        for payload_number, data in ((2, b"hello"), (3, bytes(1_280)), (4, b"")):
            try:
                receiver.handle_payload(segment(lead, number, offset, size) + data, payload_number, NOW_US)
            except ConnectionViolated:
                break
        assert flow.buffered_bytes + sum(len(message[3]) for message in delivered_messages(flow.delivered)) <= 3 * 1_300


@pytest.mark.parametrize("size", [524_305, 1 << 24, (1 << 31) - 1, 1 << 31, 1 << 63, (1 << 64) - 1])
def test_a_reliable_message_that_claims_too_much_ends_the_connection_before_it_costs_anything(size: int) -> None:
    """E7."""
    receiver = receiver_of()
    payload = b"\x57" + (1).to_bytes(6, "little") + encode_message_header(1, size) + b"some"
    with pytest.raises(ConnectionViolated, match="too large"):
        receiver.handle_payload(payload, 2, NOW_US)


@pytest.mark.parametrize("step", [(1 << 61) + 1, (1 << 63), (1 << 64) - 1])
def test_a_reliable_message_number_beyond_all_bounds_ends_the_connection(step: int) -> None:
    """E7, E18: numbers stay below what is safe as a key."""
    receiver = receiver_of()
    payload = b"\x57" + (1).to_bytes(6, "little") + encode_message_header(step, 1) + b"x"
    with pytest.raises(ConnectionViolated, match="lurch"):
        receiver.handle_payload(payload, 2, NOW_US)


# --- E8 ---


def piece(number: int, offset: int, data: bytes, *, last: bool = False, lane: int = 0) -> bytes:
    """A payload of one unreliable segment."""
    lead = 0x10 | 0x20 * last | 0x08 * (offset > 0) | 7
    select = b"" if not lane else b"\x8f" + encode_varint(lane)
    return select + bytes((lead,)) + number.to_bytes(4, "little") + (encode_varint(offset) if offset else b"") + data


def stream_piece(position: int, data: bytes, lane: int = 0) -> bytes:
    """A payload of one reliable segment."""
    select = b"" if not lane else b"\x8f" + encode_varint(lane)
    return select + b"\x57" + position.to_bytes(6, "little") + data


def test_a_million_messages_that_are_only_begun_hold_a_bounded_store() -> None:
    """E8: one piece each, and each claims to be large."""
    receiver = receiver_of()
    lane = receiver._flow.receive_lane(0)

    def attack() -> None:
        first = lane.message_number
        for at in range(full_or(1_000_000, 4_000)):
            receiver.handle_payload(piece(first + at + 1, 1_000, bytes(1_200)), 2, NOW_US + at)
            assert lane.unreliable.stored_segments <= UNRELIABLE_STORE_SEGMENTS_MAX
            assert lane.unreliable.stored_bytes <= UNRELIABLE_STORE_BYTES_MAX

    assert held_bytes(attack) <= UNRELIABLE_STORE_BYTES_MAX + (128 << 10)


def test_pieces_of_nothing_are_counted_too() -> None:
    """E8, E9: an empty piece costs its bookkeeping."""
    receiver = receiver_of()

    def attack() -> None:
        for at in range(full_or(100_000, 4_000)):
            receiver.handle_payload(piece(1 + at % 3, 1 + at % 25_000, b""), 2, NOW_US + at)

    assert held_bytes(attack) <= 128 << 10


def test_a_message_is_never_larger_than_its_pieces_may_reach() -> None:
    """E8: offset and size together stay below the limit of unreliable messages."""
    receiver = receiver_of()
    receiver.handle_payload(piece(1, UNRELIABLE_RECV_BYTES_MAX - 10, bytes(11), last=True), 2, NOW_US)
    receiver.handle_payload(piece(1, UNRELIABLE_RECV_BYTES_MAX, b"", last=True), 3, NOW_US)
    for number, offset in enumerate(range(0, UNRELIABLE_RECV_BYTES_MAX, 1_000), 4):
        receiver.handle_payload(piece(1, offset, bytes(1_000)), number, NOW_US)
    assert all(len(message[3]) <= UNRELIABLE_RECV_BYTES_MAX for message in delivered_messages(receiver._flow.delivered))
    assert receiver._flow.buffered_bytes <= 27_000


def test_streams_full_of_holes_stop_growing_at_the_receive_buffer() -> None:
    """E8: an island beyond a hole is acknowledged only while there is room."""
    receiver = receiver_of()

    def attack() -> None:
        for at in range(3_000):
            receiver.handle_payload(stream_piece(2 + 700 * at, bytes(600)), 2 + at, NOW_US)

    held = held_bytes(attack)
    assert receiver._flow.buffered_bytes <= Config().recv_buffer_bytes
    assert held <= SESSION_BYTES_MAX
    assert len(receiver._flow.receive_lane(0).reliable._islands) <= OWN.gaps_append_max


def test_256_lanes_share_one_receive_buffer() -> None:
    """E8: the limit is the session's, not the lane's."""
    receiver = receiver_of()

    def attack() -> None:
        number = 2
        for lane in range(256):
            for at in range(12):
                receiver.handle_payload(stream_piece(50 + 1_200 * at, bytes(1_200), lane), number, NOW_US)
                receiver.handle_payload(piece(1 + at, 1_000, bytes(1_200), lane=lane), number + 1, NOW_US)
                number += 2

    held = held_bytes(attack)
    assert receiver._flow.buffered_bytes <= Config().recv_buffer_bytes
    assert held <= SESSION_BYTES_MAX


def holes_on_every_lane(receiver: Receiver) -> None:
    """A byte here and there in many streams."""
    number = 2
    for lane in range(full_or(256, 40)):
        for at in range(4):
            begin = b"\x8f" + encode_varint(lane) + b"\x50" + (10 + at * 512).to_bytes(6, "little") + b"\x01a"
            receiver.handle_payload(begin + b"\x48\x01\x01a" * 255, number, NOW_US)
            number += 1


def beginnings_on_every_lane(receiver: Receiver) -> None:
    """A byte each of 256 messages on many lanes."""
    for lane in range(full_or(256, 40)):
        begin = b"\x8f" + encode_varint(lane) + b"\x18\x01\0\0\0\x01\x01a"
        receiver.handle_payload(begin + b"\x08\x01\x01a" * 255, 2 + lane, NOW_US)


@pytest.mark.parametrize("attack", [holes_on_every_lane, beginnings_on_every_lane])
def test_tiny_holes_and_pieces_on_all_lanes_together_stay_within_a_session_s_memory(attack: Callable[[Receiver], None]) -> None:
    """E8: at most 1.5 MiB, bookkeeping included."""
    receiver = receiver_of()
    assert held_bytes(lambda: attack(receiver)) <= SESSION_BYTES_MAX


def test_a_large_message_in_pieces_of_two_bytes_holds_little_more_than_its_bytes() -> None:
    """E8: the claim of 500,000 bytes is legal, so are the pieces; 35 bytes of bookkeeping for 2 are not."""
    receiver = receiver_of()
    header = encode_message_header(1, 500_000)
    receiver.handle_payload(stream_piece(1, header), 2, NOW_US)

    def attack() -> None:
        position = 1 + len(header)
        for number in range(3, 203):
            first = b"\x50" + position.to_bytes(6, "little") + b"\x02ab"
            receiver.handle_payload(first + b"\x40\x02cd" * 300, number, NOW_US)
            position += 602

    held = held_bytes(attack)
    assert receiver._flow.buffered_bytes >= 120_000
    assert held <= 4 * receiver._flow.buffered_bytes


@REPLACES
def test_a_stream_that_waits_for_the_application_is_not_parsed_anew_for_each_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    """E9, V8: what arrives meanwhile is kept, without a copy of a megabyte each time."""
    receiver = receiver_of(Config(recv_buffer_messages=2))
    lane = receiver._flow.receive_lane(0)
    message = encode_message_header(1, 1_000) + bytes(1_000)
    position = 1
    for number in range(2, 52):
        receiver.handle_payload(stream_piece(position, message), number, NOW_US)
        position += len(message)
    assert receiver._flow.blocked_lanes == [0]
    tries = 0
    inner = type(lane.reliable).take_ready

    def counted(*arguments: object) -> object:
        nonlocal tries
        tries += 1
        return inner(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(type(lane.reliable), "take_ready", counted)
    receiver.handle_payload(b"\x50" + position.to_bytes(6, "little") + b"\x01\x01" + b"\x40\x01\x01" * 300, 60, NOW_US)
    assert tries <= 1


@pytest.mark.skipif(not SOAK, reason="measures time: set PEERGRAM_SOAK=1")
def test_a_byte_added_to_a_large_island_costs_no_more_than_to_a_small_one() -> None:
    """E9, V8: 400 segments of a byte behind a hole, at 10 kB and at 1 MB already there."""
    costs = []
    for size in (10_000, 1_000_000):
        best = 1.0
        for _ in range(5):
            receiver = receiver_of()
            position = 100
            for number in range(2, 2 + size // 1_200):
                receiver.handle_payload(stream_piece(position, bytes(1_200)), number, NOW_US)
                position += 1_200
            payload = b"\x50" + position.to_bytes(6, "little") + b"\x01a" + b"\x40\x01a" * 400
            begin = time.process_time()
            receiver.handle_payload(payload, 10_000, NOW_US)
            best = min(best, time.process_time() - begin)
        costs.append(best)
    assert costs[1] <= 2 * costs[0]
