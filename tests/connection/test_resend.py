"""What goes again first: within a lane what the peer misses first, among lanes what he refused least."""

from __future__ import annotations

from peergram.connection.lanes import ACKED, TO_RETRANSMIT, Segment, SendLane
from peergram.connection.resend import ResendQueue


def lost(lane: SendLane, begin: int, losses: int = 1) -> Segment:
    segment = Segment(lane, begin, bytes(10))
    segment.state, segment.losses = TO_RETRANSMIT, losses
    return segment


def drained(queue: ResendQueue, *, packets: bool = False) -> list[Segment]:
    order: list[Segment] = []
    while (segment := queue.first()) is not None:
        queue.pop()
        order.append(segment)
        if packets:
            queue.end_turn({segment.lane.index})
    return order


def test_within_a_lane_the_lowest_position_goes_first() -> None:
    lane, queue = SendLane(0), ResendQueue()
    segments = [lost(lane, begin) for begin in (31, 1, 11)]
    for segment in segments:
        queue.push(segment)
    assert drained(queue) == [segments[1], segments[2], segments[0]]
    assert not queue


def test_lanes_that_were_refused_equally_often_take_turns_by_packet() -> None:
    first, second = SendLane(0), SendLane(1)
    queue = ResendQueue()
    segments = [lost(lane, begin) for lane in (first, second) for begin in (1, 11)]
    for segment in segments:
        queue.push(segment)
    assert drained(queue, packets=True) == [segments[0], segments[2], segments[1], segments[3]]


def test_a_lane_that_is_refused_again_and_again_lets_the_others_go_first() -> None:
    refused, other = SendLane(0), SendLane(1)
    queue = ResendQueue()
    stubborn, lucky = lost(refused, 1, losses=3), lost(other, 5_001)
    queue.push(stubborn)
    queue.push(lucky)
    assert drained(queue) == [lucky, stubborn]


def test_what_was_confirmed_meanwhile_is_passed_over() -> None:
    lane, queue = SendLane(0), ResendQueue()
    gone, there = lost(lane, 1), lost(lane, 11)
    queue.push(gone)
    queue.push(there)
    gone.state = ACKED
    assert drained(queue) == [there]
    assert queue.first() is None
