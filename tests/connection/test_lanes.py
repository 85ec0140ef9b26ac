"""What waits to be sent: streams cut anywhere, priorities strict, weights fair."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peergram.config import MESSAGE_NUMBER_STEP_MAX
from peergram.connection.lanes import ACKED, IN_FLIGHT, TO_RETRANSMIT, Lanes, Segment, SendLane
from peergram.wire.reliable_framing import encode_message_header
from tests.threats.world import SOAK


@settings(max_examples=2_000 if SOAK else 80)
@given(
    messages=st.lists(st.binary(max_size=200), min_size=1, max_size=20),
    cuts=st.lists(st.integers(1, 300), min_size=1, max_size=10),
)
def test_segments_of_any_size_make_up_the_stream(messages: list[bytes], cuts: list[int]) -> None:
    lane = SendLane(0)
    queued = sum(lane.queue_reliable(message, 0) for message in messages)
    assert lane.reliable_bytes == queued
    segments: list[Segment] = []
    while lane.has_data:
        segment = lane.cut_segment(cuts[len(segments) % len(cuts)])
        assert 0 < len(segment.data) <= cuts[len(segments) % len(cuts)]
        assert segment.begin == (segments[-1].end if segments else 1)
        segments.append(segment)
    assert b"".join(segment.data for segment in segments) == b"".join(
        encode_message_header(1, len(message)) + message for message in messages
    )
    assert lane.reliable_bytes == 0
    assert lane.unacked_bytes == queued


@settings(max_examples=2_000 if SOAK else 80)
@given(seed=st.integers(0, 1 << 32))
def test_messages_are_confirmed_when_every_byte_of_them_is(seed: int) -> None:
    """Segments are lost, cut in two and acknowledged in any order; sums and what is unconfirmed agree with a plain model."""
    rng = Random(seed)
    lane = SendLane(0)
    sizes = [rng.randrange(60) for _ in range(rng.randrange(1, 12))]
    for size in sizes:
        lane.queue_reliable(bytes(size), 0)
    segments: list[Segment] = []
    while lane.has_data:
        segments.append(lane.cut_segment(rng.randint(1, 80)))
    end = segments[-1].end
    confirmed: set[int] = set()
    while segments:
        segment = segments.pop(rng.randrange(len(segments)))
        if segment.state == IN_FLIGHT and rng.random() < 0.3:
            segment.state = TO_RETRANSMIT
            lane.unacked_bytes -= len(segment.data)
            if len(segment.data) > 1 and rng.random() < 0.5:
                segments.append(lane.split(segment, rng.randrange(1, len(segment.data))))
            segments.append(segment)
            continue
        lane.handle_acked(segment)
        confirmed |= set(range(segment.begin, segment.end))
        in_order = next((at for at in range(1, end + 1) if at not in confirmed), end)
        assert [message for message in lane.messages_unacked or () if message[0] <= in_order] == []
        assert lane.unacked_bytes == sum(len(other.data) for other in segments if other.state == IN_FLIGHT)
    assert not lane.messages_unacked
    assert not lane.segments
    assert lane.unacked_bytes == 0


def content(lane: SendLane) -> object:
    bundles = [(type(b), b.frames, b.frames_bytes, b.message_bytes, b.first_number, b.last_number) for b in lane.unreliable or ()]
    sums = (lane.reliable_bytes, lane.reliable_number, lane.unreliable_bytes, lane.message_number)
    return bundles, sums, b"".join(entry[2] for entry in lane.reliable or ()), list(lane.messages_unacked or ())


@settings(max_examples=5_000 if SOAK else 100)
@given(seed=st.integers(0, 1 << 32))
def test_a_run_of_messages_is_queued_as_one_by_one(seed: int) -> None:
    rng = Random(seed)
    bundle_bytes_max = rng.choice((1_200, 60_000))
    quick, plain = SendLane(0, bundle_bytes_max=bundle_bytes_max), SendLane(0, bundle_bytes_max=bundle_bytes_max)
    for _ in range(rng.randrange(1, 8)):
        size_max = rng.choice((0, 4, 40, 1_300, 3_000))
        messages = [rng.randbytes(rng.randint(0, size_max)) for _ in range(rng.choice((1, 2, 30, 700)))]
        if rng.random() < 0.4:
            assert quick.queue_reliable_run(messages, 7) == sum(plain.queue_reliable(data, 7) for data in messages)
        else:
            assert quick.queue_unreliable_run(messages, 7) == sum(plain.queue_unreliable(data, 7) for data in messages)
        if rng.random() < 0.2:
            for lane in (quick, plain):
                lane.message_number += 40_000
        assert content(quick) == content(plain)


def test_confirmed_segments_behind_a_lost_one_take_little() -> None:
    lane = SendLane(0)
    lane.queue_reliable(bytes(1_000_000), 0)
    segments = [lane.cut_segment(1_000) for _ in range(1_000)]
    for segment in segments[1:500] + segments[501:]:
        lane.handle_acked(segment)
    assert lane.segments is not None
    assert len(lane.segments) < 200
    assert sum(len(segment.data) for segment in lane.segments) == 2_000
    assert lane.overlapping(1, 1_000_001) == [segments[0], segments[500]]
    assert lane.unacked_bytes == 2_000
    lane.handle_acked(segments[0])
    assert lane.segments[0] is segments[500]
    lane.handle_acked(segments[500])
    lane.handle_acked(lane.cut_segment(1_000_000))
    assert not lane.segments
    assert not lane.messages_unacked


def test_an_acked_segment_stays_acked() -> None:
    lane = SendLane(0)
    lane.queue_reliable(b"x", 0)
    segment = lane.cut_segment(10)
    lane.handle_acked(segment)
    lane.handle_acked(segment)
    assert segment.state == ACKED
    assert lane.unacked_bytes == 0


@pytest.mark.parametrize("unreliable_between", [0, 9_999, 10_000, 50_000])
def test_no_step_of_a_number_is_larger_than_a_reference_peer_takes(unreliable_between: int) -> None:
    """P7."""
    lane = SendLane(0)
    for _ in range(3):
        lane.message_number += unreliable_between
        before = lane.reliable_number
        lane.queue_reliable(b"", 0)
        assert 1 <= lane.reliable_number - before <= MESSAGE_NUMBER_STEP_MAX


def serve(lanes: Lanes, rounds: int, size: int) -> Counter[int]:
    """Bytes by lane while every lane always has data."""
    served: Counter[int] = Counter()
    for _ in range(rounds):
        lane = lanes.next_lane()
        assert lane is not None
        served[lane.index] += size
        lanes.charge(lane, size)
    return served


@pytest.mark.parametrize("weights", [(1, 1), (1, 3), (1, 2, 5), (65_535, 1)])
def test_lanes_of_one_priority_share_by_weight(weights: tuple[int, ...]) -> None:
    """M10: within a tenth."""
    lanes = Lanes()
    for index, weight in enumerate(weights):
        lanes.configure(index, priority=0, weight=weight)
        lanes.lane(index).queue_unreliable(b"x", 0)
    served = serve(lanes, 40_000 if max(weights) < 100 else 140_000, 1_000)
    total = sum(served.values())
    for index, weight in enumerate(weights):
        assert served[index] == pytest.approx(total * weight / sum(weights), rel=0.1, abs=2_000)


def test_a_lower_priority_number_goes_first_strictly() -> None:
    lanes = Lanes()
    for index, priority in ((0, 5), (1, 0), (2, 0)):
        lanes.configure(index, priority=priority, weight=1)
        lanes.lane(index).queue_unreliable(b"x", 0)
    assert set(serve(lanes, 100, 1_000)) == {1, 2}
    for index in (1, 2):
        lanes.lane(index).unreliable = None
    assert set(serve(lanes, 10, 1_000)) == {0}


def test_a_lane_that_was_idle_has_saved_up_nothing() -> None:
    lanes = Lanes()
    busy, idle = lanes.lane(0), lanes.lane(1)
    busy.queue_unreliable(b"x", 0)
    serve(lanes, 1_000, 1_000)
    lanes.wake(idle)
    idle.queue_unreliable(b"x", 0)
    served = serve(lanes, 100, 1_000)
    assert abs(served[0] - served[1]) <= 2_000
