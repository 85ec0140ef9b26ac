"""SNP frames against 949 recorded payloads and 221 hand-made ones, and there and back for everything legal."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peergram.errors import UsageError, WireError
from peergram.wire.frames import (
    ACK_COUNT_MAX,
    ACK_DELAY_MAX_US,
    EXPLICIT_SIZE_MAX,
    MESSAGE_NUMBER_MAX,
    Ack,
    AckOfUnsent,
    DecodeContext,
    Forms,
    Frame,
    FrameReader,
    LaneSelected,
    ReliableSegment,
    SegmentEncoder,
    StopWaiting,
    TooManySegments,
    UnreliableSegment,
    decode_frames,
    encode_ack,
    encode_frames,
    encode_select_lane,
    encode_stop_waiting,
    expand_position,
)
from peergram.wire.varint import nearest

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent.parent / "vectors" / "02-snp.json").read_text())
PACKETS: list[dict[str, Any]] = VECTORS["packets"]
FLOWS: list[dict[str, Any]] = VECTORS["flows"]
RECEIVER_STEPS_ENDED_BY_STATE = {
    "pkt 7 reduce to 3",
    "pkt 20000",
    "pkt 90002 64bit raw 20003 -> 69998 (reduced)",
    "rel hdr high bit",
    "rel hdr num jump 1000001",
    "rel hdr num jump 10001",
    "rel size 524289",
}
"""Violations that only the receiver's state shows; the frames themselves are sound."""


@dataclass(slots=True)
class Receiver:
    """What one receiver has seen, as far as short forms refer to it."""

    next_packet_number: int = 2
    highest: dict[int, int] = field(default_factory=dict)
    expected: dict[int, int] = field(default_factory=dict)
    segments_max: int = 1300

    def context(self, packet_number: int) -> DecodeContext:
        return DecodeContext(
            packet_number,
            self.next_packet_number,
            lambda lane: self.highest.get(lane, 0),
            lambda lane: self.expected.get(lane, 1),
            self.segments_max,
        )

    def apply(self, frames: list[Frame]) -> None:
        for frame in frames:
            if isinstance(frame, UnreliableSegment):
                self.highest[frame.lane] = max(self.highest.get(frame.lane, 0), frame.message_number)
            elif isinstance(frame, ReliableSegment) and frame.data:
                end = frame.position + len(frame.data)
                self.expected[frame.lane] = max(self.expected.get(frame.lane, 1), end)


def decode(payload: str, packet_number: int = 2, receiver: Receiver | None = None) -> list[Frame]:
    return decode_frames(bytes.fromhex(payload), (receiver or Receiver()).context(packet_number))


# --- the vectors' description of a frame: values from the frame, forms from its lead byte and what came before it ---


class Describer:
    """Describes frames as the vector file does."""

    def __init__(self, payload: bytes, context: DecodeContext) -> None:
        self.payload = payload
        self.reader = FrameReader(payload, context)
        self.packet_number = context.packet_number
        self.number_known = False
        self.position: int | None = None

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while self.reader.at < len(self.payload):
            at = self.reader.at
            frame = self.reader.read()
            yield {"at": at, "lead": self.payload[at], **DESCRIBERS[type(frame)](self, frame, at)}

    def stop_waiting(self, frame: StopWaiting, at: int) -> dict[str, Any]:
        raw = int.from_bytes(self.payload[at + 1 : self.reader.at], "little")
        return {"t": "stop_waiting", "bits": 8 * (self.reader.at - at - 1), "raw": raw, "value": frame.value}

    def ack(self, frame: Ack, at: int) -> dict[str, Any]:
        lead = self.payload[at]
        latest_bytes = 2 if lead & 8 else 4
        delay_at = at + 1 + latest_bytes
        return {
            "t": "ack",
            "bits": 8 * latest_bytes,
            "latest_raw": int.from_bytes(self.payload[at + 1 : delay_at], "little"),
            "latest": frame.latest,
            "delay_raw": int.from_bytes(self.payload[delay_at : delay_at + 2], "little"),
            "delay_usec": frame.delay_us,
            "count_form": "byte" if lead & 7 == 7 else "inline",
            "blocks": [list(block) for block in frame.blocks],
            "ranges": [list(block) for block in frame.ranges()],
            "implicit_acked_below": frame.implicit_end(),
        }

    def lane(self, frame: LaneSelected, at: int) -> dict[str, Any]:
        self.number_known = False
        self.position = None
        return {"t": "select_lane", "lane": frame.lane, "form": "varint" if self.payload[at] & 7 == 7 else "inline"}

    def unreliable(self, frame: UnreliableSegment, at: int) -> dict[str, Any]:
        long_form = bool(self.payload[at] & 0x10)
        first, following = ("abs32", "step") if long_form else ("abs16", "next")
        form = following if self.number_known else first
        self.number_known = True
        return {
            "t": "unreliable",
            "lane": frame.lane,
            "num": frame.message_number,
            "num_form": form,
            "offset": frame.offset,
            "last": frame.last,
            **self.size(frame.data, at),
        }

    def reliable(self, frame: ReliableSegment, at: int) -> dict[str, Any]:
        form = self.payload[at] >> 3 & 3
        delta = None if self.position is None else frame.position - self.position
        self.position = frame.position + len(frame.data)
        return {
            "t": "reliable",
            "lane": frame.lane,
            "pos": frame.position,
            "pos_form": ("abs24", "abs32", "abs48")[form] if delta is None else ("rel0", "rel8", "rel16", "rel32")[form],
            "pos_delta": delta,
            **self.size(frame.data, at),
        }

    def size(self, data: bytes, at: int) -> dict[str, Any]:
        size_form = "rest" if self.payload[at] & 7 == 7 else "explicit"
        return {"size_form": size_form, "size": len(data), "data_at": self.reader.at - len(data)}


DESCRIBERS: dict[type, Callable[[Describer, Any, int], dict[str, Any]]] = {
    StopWaiting: Describer.stop_waiting,
    Ack: Describer.ack,
    LaneSelected: Describer.lane,
    UnreliableSegment: Describer.unreliable,
    ReliableSegment: Describer.reliable,
}


# --- recorded payloads ----------------------------------------------------------------------------


def test_the_vector_file_is_complete() -> None:
    assert len(PACKETS) == 365
    assert sum(event[0] == "tx" for flow in FLOWS for event in flow["events"]) == 584


@pytest.mark.parametrize("packet", PACKETS, ids=lambda packet: packet["id"])
def test_a_recorded_payload_decodes_to_the_listed_fields_and_is_rebuilt(packet: dict[str, Any]) -> None:
    payload = bytes.fromhex(packet["payload"])
    receiver = Receiver(next_packet_number=packet["ack_ref"])
    context = receiver.context(packet["pkt"])
    assert list(Describer(payload, context)) == packet["frames"]
    assert encode_frames(decode_frames(payload, context), packet["pkt"]) == payload


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow["name"])
def test_every_payload_of_a_flow_decodes_where_it_arrives_and_is_rebuilt(flow: dict[str, Any]) -> None:
    receivers = {"A": Receiver(), "B": Receiver()}
    on_the_way: dict[tuple[str, int], bytes] = {}
    for event in flow["events"]:
        if event[0] == "tx":
            _, side, _, packet_number, text = event
            payload = bytes.fromhex(text)
            on_the_way[side, packet_number] = payload
            frames = decode_frames(payload, receivers["B" if side == "A" else "A"].context(packet_number))
            assert encode_frames(frames, packet_number) == payload
            receivers[side].next_packet_number = packet_number + 1
        elif event[0] == "rx":
            _, side, _, packet_number = event
            receiver = receivers[side]
            payload = on_the_way["B" if side == "A" else "A", packet_number]
            frames = decode_frames(payload, receiver.context(packet_number))
            assert encode_frames(frames, packet_number) == payload
            receiver.apply(frames)


@pytest.mark.parametrize("case", VECTORS["receiver_cases"], ids=lambda case: case["steps"][0]["what"])
def test_hand_made_payloads_are_taken_or_refused_as_by_the_reference(case: dict[str, Any]) -> None:
    receiver = Receiver(segments_max=2 if case["steps"][0]["what"].startswith("max 2 segs") else 1300)
    for step in case["steps"]:
        if step["result"].startswith("duplicate"):
            continue
        if step["result"].startswith("connection ended") and step["what"] not in RECEIVER_STEPS_ENDED_BY_STATE:
            with pytest.raises(WireError):
                decode(step["payload"], step["pkt"], receiver)
            continue
        frames = decode(step["payload"], step["pkt"], receiver)
        assert (AckOfUnsent() in frames) == step["result"].startswith("rest of packet discarded")
        if not step["result"].startswith("connection ended"):
            assert_whole_messages_are_delivered(frames, step["delivered"])
        if step["result"] == "ok":
            receiver.apply(frames)


def assert_whole_messages_are_delivered(frames: list[Frame], delivered: list[list[Any]]) -> None:
    for frame in frames:
        if isinstance(frame, UnreliableSegment) and frame.last and not frame.offset:
            assert [frame.lane, frame.message_number, "unr", len(frame.data), frame.data[:12].hex()] in delivered


# --- forms and rules ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "packet_number", "value"),
    [("8001", 2, 0), ("81a603", 2822, 1887), ("82307500", 70000, 39999), ("83204e000000000000", 90000, 69999)],
)
def test_stop_waiting_is_read_in_all_widths(payload: str, packet_number: int, value: int) -> None:
    assert decode(payload, packet_number) == [StopWaiting(value)]
    width = 8 * (len(payload) // 2 - 1)
    assert encode_stop_waiting(value, packet_number, bits=width).hex() == payload


def test_ack_blocks_run_from_new_to_old_and_leave_the_rest_implicit() -> None:
    (frame,) = decode("9e4100250021213131" + "4122", 4, Receiver(next_packet_number=66))
    assert isinstance(frame, Ack)
    assert (frame.latest, frame.delay_us) == (65, 0x25 * 32)
    assert frame.blocks == [(2, 1), (2, 1), (3, 1), (3, 1), (4, 1), (2, 2)]
    assert frame.ranges()[0] == (64, 66, 63, 64)
    assert frame.ranges()[-1] == (45, 47, 43, 45)
    assert frame.implicit_end() == 43


def test_an_ack_number_is_expanded_to_the_nearest_below_what_we_send_next() -> None:
    for bits in (16, 32):
        for latest in (0, 65_535, 65_536, 70_000, (1 << 32) + 5):
            payload = encode_ack(latest, None, [], wide=bits == 32)
            assert decode_frames(payload, Receiver(next_packet_number=latest + 1).context(2)) == [Ack(latest, None, [])]
            assert decode_frames(payload, Receiver(next_packet_number=latest + 30_000).context(2)) == [Ack(latest, None, [])]


def test_an_ack_has_16_bits_of_the_number_or_32() -> None:
    assert encode_ack(1, None, [], wide=True).hex() == "9001000000ffff"
    assert encode_ack(1, None, []).hex() == "980100ffff"


def test_an_ack_delay_is_rounded_down_and_too_long_ones_are_left_out() -> None:
    for delay_us, read_us in ((0, 0), (31, 0), (32, 32), (ACK_DELAY_MAX_US, ACK_DELAY_MAX_US), (ACK_DELAY_MAX_US + 1, None)):
        assert decode_frames(encode_ack(1, delay_us, []), Receiver().context(2)) == [Ack(1, read_us, [])]


def test_what_stands_before_an_ack_of_an_unsent_packet_is_kept_and_the_rest_is_not_read() -> None:
    assert decode("2001000161" + "980200ffff" + "ff") == [UnreliableSegment(0, 1, 0, True, b"a"), AckOfUnsent()]


def test_segments_above_the_limit_are_not_read() -> None:
    receiver = Receiver(segments_max=2)
    frames = decode("2001000161" + "470100000161", receiver=receiver)
    assert len(frames) == 2
    frames = decode("2001000161" + "40010000020161" + "88" + "2763", receiver=receiver)
    assert frames[2:] == [LaneSelected(1), TooManySegments()]
    assert decode("2001000161" + "200163" + "470100000161", receiver=receiver)[2:] == [TooManySegments()]


def test_a_message_number_after_a_reliable_segment_skips_one() -> None:
    frames = decode("2001000161" + "400100000201" + "62" + "2763")
    assert [frame.message_number for frame in frames if isinstance(frame, UnreliableSegment)] == [1, 3]


def test_selecting_the_current_lane_starts_numbers_and_positions_anew() -> None:
    frames = decode("30640000000161" + "8f00" + "270500" + "62", receiver=Receiver())
    assert frames == [UnreliableSegment(0, 100, 0, True, b"a"), LaneSelected(0), UnreliableSegment(0, 5, 0, True, b"b")]


def test_within_a_payload_short_numbers_refer_to_the_numbers_read_before() -> None:
    frames = decode("30ffff00000161" + "8f00" + "270100" + "62")
    assert frames[-1] == UnreliableSegment(0, 0x10001, 0, True, b"b")


def test_within_a_payload_short_positions_refer_to_the_data_read_before() -> None:
    receiver = Receiver(expected={0: 0xFFFFFF})
    frames = decode("48ffffff000261" + "62" + "8f00" + "47010000" + "63", receiver=receiver)
    assert frames[-1] == ReliableSegment(0, 0x1000001, b"c")


def test_old_numbers_and_data_and_empty_segments_do_not_move_what_short_forms_refer_to() -> None:
    old_number = decode("30010000000161" + "8f00" + "27a18662", receiver=Receiver(highest={0: 100_000}))
    assert old_number[-1] == UnreliableSegment(0, 100_001, 0, True, b"b")
    old_data = decode("500500000000000161" + "8f00" + "4702000062", receiver=Receiver(expected={0: 0x1000001}))
    assert old_data[-1] == ReliableSegment(0, 0x1000002, b"b")
    empty = decode("5001008001000000" + "8f00" + "4701000062")
    assert empty == [ReliableSegment(0, 0x1800001, b""), LaneSelected(0), ReliableSegment(0, 1, b"b")]


def test_pieces_of_one_message_may_share_a_payload() -> None:
    pieces: list[Frame] = [UnreliableSegment(0, 7, 0, False, b"ab"), UnreliableSegment(0, 7, 2, True, b"c")]
    assert decode_frames(encode_frames(pieces, 2), Receiver().context(2)) == pieces


def test_stop_waiting_goes_down_to_0_and_not_below() -> None:
    assert decode("8001", 2) == [StopWaiting(0)]
    with pytest.raises(WireError):
        decode("8002", 2)


def test_ack_counts_go_up_to_their_limit_and_not_above() -> None:
    latest = 2 * ACK_COUNT_MAX
    receiver = Receiver(next_packet_number=latest + 1)
    payload = encode_ack(latest, 0, [(ACK_COUNT_MAX, 1)], wide=True)
    assert decode_frames(payload, receiver.context(2)) == [Ack(latest, 0, [(ACK_COUNT_MAX, 1)])]
    with pytest.raises(WireError):
        decode_frames(payload[:-3] + bytes.fromhex("a18d06"), receiver.context(2))


def test_short_positions_are_never_corrected_downwards() -> None:
    assert expand_position(0xFFFFFF, 24, 0x1000001) == 0x1FFFFFF
    assert expand_position(1, 24, 0xFFFFFF) == 0x1000001
    assert expand_position(1, 48, 1) == 1
    assert expand_position(1, 24, 0x800000) == 1
    assert expand_position(0, 24, 0x800000) == 0x1000000


def test_lead_bytes_without_a_frame_are_refused() -> None:
    invalid = [*range(0x60, 0x80), *range(0x84, 0x88), *range(0xA0, 0x100)]
    invalid += [lead for lead in range(0x60) if lead & 7 in (5, 6)]
    for lead in invalid:
        with pytest.raises(WireError):
            decode_frames(bytes((lead,)) + bytes(20), Receiver().context(100))


@pytest.mark.parametrize(
    "payload",
    [
        "2f0100ffffffff1f61",  # an offset above 32 bits
        "8f808080801000",  # a lane above 32 bits, which must not become lane 0
        "2001000161" + "37" + "ff" * 9 + "01",  # a step that would go below zero in 64 bits
        "2001000161" + "37" + "ff" * 10 + "01",  # a varint of 11 bytes
        "990100ffff" + "80" + "ff" * 9 + "7f",  # an ack count above 64 bits
    ],
)
def test_numbers_too_large_for_their_field_are_refused(payload: str) -> None:
    with pytest.raises(WireError):
        decode(payload)


def test_the_highest_message_number_is_bounded() -> None:
    first = UnreliableSegment(0, 1, 0, True, b"")
    top = UnreliableSegment(0, MESSAGE_NUMBER_MAX, 0, True, b"")
    payload = encode_frames([first, top], 2, Forms(rest_size=False))
    assert decode_frames(payload, Receiver().context(2)) == [first, top]
    with pytest.raises(WireError):
        decode_frames(payload + b"\x20\x00", Receiver().context(2))


def test_lanes_from_8_on_are_written_with_their_number() -> None:
    assert [encode_select_lane(lane).hex() for lane in (0, 1, 7, 8, 255)] == ["8f00", "88", "8e", "8f08", "8fff01"]


def test_header_sizes_can_be_asked_for_without_writing() -> None:
    encoder = SegmentEncoder()
    for number, offset, position in ((1, 0, 1), (2, 300, 11), (9, 70_000, 21 + 200), (10_000, 1, 70_000), (10_002, 0, 1 << 20)):
        expected = encoder.unreliable_field_bytes(number, offset)
        assert len(encoder.unreliable_header(number, offset, True, 10)) == expected + 1
        expected = encoder.reliable_field_bytes(position)
        assert len(encoder.reliable_header(position, 10, rest=True)) == expected


def test_large_segments_are_written_last_or_not_at_all() -> None:
    large = ReliableSegment(0, 1, bytes(EXPLICIT_SIZE_MAX + 1))
    assert decode_frames(encode_frames([large], 2), Receiver().context(2)) == [large]
    with pytest.raises(UsageError):
        encode_frames([large, LaneSelected(1)], 2)


@pytest.mark.parametrize(
    "frames",
    [
        [StopWaiting(2)],
        [StopWaiting(-1)],
        [Ack(-1, None, [])],
        [Ack(1, -1, [])],
        [Ack(1, None, [(ACK_COUNT_MAX + 1, 0)])],
        [Ack(1, None, [(0, 0)] * 256)],
        [LaneSelected(256)],
        [UnreliableSegment(1, 1, 0, True, b"")],
        [UnreliableSegment(0, 0, 0, True, b"")],
        [UnreliableSegment(0, 1, 1 << 32, True, b"")],
        [UnreliableSegment(0, 2, 0, True, b""), UnreliableSegment(0, 1, 0, True, b"")],
        [ReliableSegment(0, 0, b"")],
        [ReliableSegment(0, 5, b"ab"), ReliableSegment(0, 6, b"")],
        [AckOfUnsent()],
        [TooManySegments()],
    ],
    ids=str,
)
def test_frames_that_cannot_be_written_are_a_usage_error(frames: list[Frame]) -> None:
    with pytest.raises(UsageError):
        encode_frames(frames, 2)


# --- cost -----------------------------------------------------------------------------------------


def cost_s(payload: bytes, receiver: Receiver) -> float:
    """Best of several runs, so that a busy machine does not decide."""

    def once() -> float:
        begin = time.perf_counter()
        frames = decode_frames(payload, receiver.context(1 << 40))
        for frame in frames:
            if isinstance(frame, Ack):
                frame.ranges()
        return time.perf_counter() - begin

    return min(once() for _ in range(7))


@pytest.mark.parametrize("tiny", ["88", "8f00"])
def test_a_packet_of_tiny_frames_is_cheap(tiny: str) -> None:
    """E9"""
    frame = bytes.fromhex(tiny)
    assert cost_s(frame * (1248 // len(frame)), Receiver()) < 0.005


def test_a_packet_of_tiny_segments_is_cheap_and_counted() -> None:
    """E9"""
    payload = bytes.fromhex("20010000") + bytes.fromhex("2000") * 622
    assert len(decode_frames(payload, Receiver().context(2))) == 623
    assert cost_s(payload, Receiver()) < 0.005


def test_ack_ranges_cost_by_their_bytes_and_not_by_their_width() -> None:
    """E10"""
    receiver = Receiver(next_packet_number=1 << 40)
    latest = receiver.next_packet_number - 1
    costs = [
        cost_s(encode_ack(latest, 0, [(count, count)] * 255, wide=True), receiver)
        for count in (ACK_COUNT_MAX // 100, ACK_COUNT_MAX // 10, ACK_COUNT_MAX)
    ]
    assert max(costs) < 0.002
    assert costs[2] < 3 * costs[0]


# --- there and back -------------------------------------------------------------------------------

uint16s = st.integers(0, (1 << 16) - 1)
uint32s = st.integers(0, (1 << 32) - 1)
small_data = st.binary(max_size=20)
every_forms = st.builds(
    Forms,
    number_bits=st.sampled_from((16, 32)),
    position_bits=st.sampled_from((24, 32, 48)),
    ack_bits=st.sampled_from((16, 32)),
    stop_waiting_bits=st.sampled_from((0, 8, 16, 24, 64)),
    lane_varint=st.booleans(),
    rest_size=st.booleans(),
)


class LegalPayload:
    """Draws frames that a sender could put in one payload, beside a model of what their reader knows."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.forms = draw(every_forms)
        self.packet_number = draw(st.integers(1, 1 << 48))
        lanes = (0, 1, 7, 8, 255)
        self.receiver = Receiver(
            next_packet_number=draw(st.integers(1, 1 << 48)),
            highest={lane: draw(st.integers(0, 1 << 40)) for lane in lanes},
            expected={lane: draw(st.integers(1, 1 << 50)) for lane in lanes},
        )
        self.begin = Receiver(self.receiver.next_packet_number, dict(self.receiver.highest), dict(self.receiver.expected))
        self.lanes = lanes
        self.lane = 0
        self.number: int | None = None
        self.position: int | None = None
        kinds = draw(
            st.lists(st.sampled_from((self.stop_waiting, self.ack, self.select, self.unreliable, self.reliable)), max_size=10)
        )
        self.frames: list[Frame] = []
        for kind in kinds:
            frame = kind()
            self.receiver.apply([frame])
            self.frames.append(frame)

    def stop_waiting(self) -> Frame:
        return StopWaiting(self.draw(st.integers(0, self.packet_number - 1)))

    def ack(self) -> Frame:
        ahead_max = 1 << (self.forms.ack_bits - 1)
        next_number = self.receiver.next_packet_number
        latest = self.draw(st.integers(max(0, next_number - ahead_max), next_number - 1))
        delay_us = self.draw(st.none() | st.integers(0, 0xFFFE).map(lambda units: units * 32))
        blocks: list[tuple[int, int]] = []
        left = latest + 1
        for _ in range(self.draw(st.integers(0, 10))):
            received = self.draw(st.integers(0, min(left, ACK_COUNT_MAX)))
            missing = self.draw(st.integers(0, min(left - received, ACK_COUNT_MAX)))
            left -= received + missing
            blocks.append((received, missing))
        return Ack(latest, delay_us, blocks)

    def select(self) -> Frame:
        self.lane = self.draw(st.sampled_from(self.lanes))
        self.number = self.position = None
        return LaneSelected(self.lane)

    def unreliable(self) -> Frame:
        if self.number is None:
            low = self.draw(st.integers(0, (1 << self.forms.number_bits) - 1))
            self.number = max(1, nearest(low, self.forms.number_bits, self.receiver.highest[self.lane]))
        else:
            self.number += self.draw(st.sampled_from((0, 1, 1)) | st.integers(0, 1 << 20))
        offset = self.draw(st.just(0) | uint32s)
        return UnreliableSegment(self.lane, self.number, offset, self.draw(st.booleans()), self.draw(small_data))

    def reliable(self) -> Frame:
        if self.position is None:
            bits = self.forms.position_bits
            low = self.draw(st.integers(1, (1 << bits) - 1))
            position = expand_position(low, bits, self.receiver.expected[self.lane])
        else:
            position = self.position + self.draw(st.just(0) | st.integers(0, 300) | uint16s | uint32s)
        data = self.draw(small_data)
        self.position = position + len(data)
        if self.number is not None:
            self.number += 1
        return ReliableSegment(self.lane, position, data)


legal_payloads = st.composite(LegalPayload)()


@given(legal_payloads)
def test_whatever_may_be_sent_is_read_back(sent: LegalPayload) -> None:
    payload = encode_frames(sent.frames, sent.packet_number, sent.forms)
    assert decode_frames(payload, sent.begin.context(sent.packet_number)) == sent.frames


@given(legal_payloads)
def test_an_ack_covers_each_number_once_and_in_order(sent: LegalPayload) -> None:
    for frame in sent.frames:
        if isinstance(frame, Ack):
            edges = [frame.latest + 1]
            for received_begin, received_end, missing_begin, missing_end in frame.ranges():
                assert received_end == edges[-1]
                assert missing_end == received_begin
                edges += received_begin, missing_begin
            assert edges == sorted(edges, reverse=True)
            assert edges[-1] == frame.implicit_end() >= 0
