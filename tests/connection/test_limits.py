"""Limits of one connection that no other test reaches: packet numbers, holes, spans, delays of acks, the time after the end."""

from __future__ import annotations

import pytest

from peergram.config import (
    ACK_DELAY_OWN_PEER_US,
    ACK_DELAY_US,
    ACK_EVERY_PACKETS,
    ACK_GAPS_MAX,
    CLOSE_DEBUG_BYTES_MAX,
    FIN_WAIT_US,
    LOST_PACKETS_KEPT,
    MESSAGE_CHARGE_BYTES_MIN,
    MESSAGE_HEADROOM_BYTES,
    PACKET_NUMBER_MAX,
    PACKETS_PER_TRANSMIT_MAX,
    PACKETS_UNREPORTED_MAX,
    PIECE_CHARGE_BYTES,
    RELIABLE_GAPS_MAX,
    REPLAY_RANGES_MAX,
    REPLAY_REACH_PACKETS,
    SEGMENTS_PER_PACKET_MAX,
    STREAM_SPAN_MAX,
    UNRELIABLE_SEGMENT_BYTES_MAX,
    UNRELIABLE_STORE_AGE_US,
    UNRELIABLE_STORE_BYTES_MAX,
    UNRELIABLE_STORE_SEGMENTS_MAX,
    Config,
)
from peergram.connection.connection import Ended
from peergram.connection.flow import Flow
from peergram.connection.in_flight import PacketsInFlight, SentPacket
from peergram.connection.lanes import SendLane
from peergram.connection.receive import OK, REFUSED, ConnectionViolated, Receiver
from peergram.connection.received import AcksOwed, ReplayWindow
from peergram.connection.reliable import ReliableReceiver
from peergram.connection.reports import fill_report
from peergram.connection.room import ReceiveRoom
from peergram.connection.transmit import Transmitter
from peergram.connection.unreliable import UnreliableReceiver
from peergram.errors import EndReason, Result
from peergram.events import ConnectionState, SendFlags
from peergram.wire.frames import UnreliableSegment, encode_frames
from tests.connection.flows import make_flow
from tests.connection.pair import Pair

NOW_US = 2_000_000


def test_a_connection_whose_packet_numbers_are_used_up_ends_before_one_repeats() -> None:
    """C6."""
    pair = Pair()
    flow = pair.client.flow
    assert flow is not None
    flow.in_flight = PacketsInFlight(PACKET_NUMBER_MAX - 1)
    pair.client.handle_timeout(pair.now_us)
    assert pair.client.state == ConnectionState.CONNECTED
    flow.in_flight.next_number = PACKET_NUMBER_MAX
    pair.client.handle_timeout(pair.now_us)
    assert pair.client.end is not None
    assert pair.client.end.reason == EndReason.MISC_INTERNAL_ERROR
    sent = len(pair.sent_packets)
    pair.run(10_000_000)
    assert not [packet for _, from_client, packet in pair.sent_packets[sent:] if from_client and packet[0] >= 0x80]


@pytest.mark.parametrize("from_above", [True, False])
def test_a_stream_has_so_many_holes_and_no_more(from_above: bool) -> None:
    """E8: by data beyond the end, and by data that splits a hole."""
    stream = ReliableReceiver(buffer_bytes_max=1 << 20, message_bytes_max=1 << 20)
    places = [3 + 2 * at for at in range(RELIABLE_GAPS_MAX + 1)]
    taken = [stream.add(position, b"x") for position in (reversed(places) if from_above else places)]
    assert taken == [True] * RELIABLE_GAPS_MAX + [False]


def test_a_late_packet_is_taken_within_reach_and_not_below() -> None:
    window = ReplayWindow(1)
    top = 64 * 1_000
    window.add(top)
    assert window.is_new(top - REPLAY_REACH_PACKETS)
    assert not window.is_new(top - REPLAY_REACH_PACKETS - 1)


def test_an_ack_reports_so_many_runs_and_no_more() -> None:
    """E13."""
    acks = AcksOwed(0)
    for number in range(2, 2 + 2 * ACK_GAPS_MAX, 2):
        acks.add(number, NOW_US)
    assert len(acks.report(NOW_US + 1_000_000).blocks) == ACK_GAPS_MAX


def test_a_late_report_confirms_only_the_packets_that_are_remembered() -> None:
    """E10."""
    flight = PacketsInFlight(0)
    count = LOST_PACKETS_KEPT + 1
    for number in range(count + 1):
        flight.add(SentPacket(NOW_US, number, [], True, 0, NOW_US, 0))
    assert len(flight.settle(count, [(1, count)]).lost) == count
    flight.may_revive = True
    assert [packet.size_bytes for packet in flight.settle(count, [(count + 1, 0)]).revived] == list(range(1, count))


def test_a_peer_that_never_gives_up_on_old_packets_is_ended() -> None:
    """E10, E13."""
    receiver, flow = receiver_of()
    for number in (PACKETS_UNREPORTED_MAX, PACKETS_UNREPORTED_MAX + 1):
        flow.replay.highest = number - 1
        flow.acks._runs[-1].end = number
        if number == PACKETS_UNREPORTED_MAX:
            assert receiver.handle_payload(b"", number, NOW_US) == OK
            continue
        with pytest.raises(ConnectionViolated, match="never gives up"):
            receiver.handle_payload(b"", number, NOW_US)


def receiver_of(config: Config | None = None, *, own_peer: bool = False) -> tuple[Receiver, Flow]:
    flow = make_flow(config, own_peer=own_peer)
    return Receiver(flow, lambda _record, _now_us: None), flow


def test_as_many_segments_as_fit_a_packet_are_read() -> None:
    """E9: an option lowers the limit and cannot raise it."""
    receiver, _ = receiver_of()
    assert receiver._segments_max == SEGMENTS_PER_PACKET_MAX
    receiver, _ = receiver_of(Config(recv_segments_per_packet_max=3))
    assert receiver.handle_payload(segments(3), 2, NOW_US) == OK
    assert receiver.handle_payload(segments(4), 3, NOW_US) == REFUSED


def segments(count: int) -> bytes:
    """That many whole unreliable messages of one byte."""
    return encode_frames([UnreliableSegment(0, number, 0, True, b"x") for number in range(1, count + 1)], 2)


def test_an_unreliable_segment_is_no_longer_than_a_packet_can_be() -> None:
    receiver = UnreliableReceiver()
    longest = bytes(UNRELIABLE_SEGMENT_BYTES_MAX)
    assert receiver.add(1, 0, longest, True, NOW_US) == longest
    assert receiver.add(2, 0, longest + b"x", True, NOW_US) is None


def test_behind_a_hole_only_what_the_peer_has_room_for_is_sent() -> None:
    lane = SendLane(0)
    for _ in range(4):
        lane.queue_reliable(bytes(400_000), 0)
    lane.missing = 1
    while lane.may_cut:
        lane.cut_segment(1_000)
    assert STREAM_SPAN_MAX <= lane.next_position - 1 < STREAM_SPAN_MAX + 1_100
    lane.missing = 0
    assert lane.may_cut


@pytest.mark.parametrize(("own_peer", "delay_us"), [(True, ACK_DELAY_OWN_PEER_US), (False, ACK_DELAY_US)])
def test_data_is_acknowledged_after_its_delay_or_at_once_when_much_came(own_peer: bool, delay_us: int) -> None:
    receiver, flow = receiver_of(own_peer=own_peer)
    for number in range(2, 2 + ACK_EVERY_PACKETS - 1):
        receiver.handle_payload(whole_message(number - 1), number, NOW_US + number)
    assert flow.acks.due_at_us == NOW_US + 2 + delay_us
    receiver.handle_payload(whole_message(ACK_EVERY_PACKETS), 1 + ACK_EVERY_PACKETS, NOW_US + 500)
    assert flow.acks.due_at_us == NOW_US + 500


def whole_message(number: int) -> bytes:
    """An unreliable message of one byte."""
    return b"\x37" + number.to_bytes(4, "little") + b"x"


@pytest.mark.parametrize("asked", [True, False])
def test_a_reference_peer_hears_the_time_since_the_packet_before_only_if_asked_for(asked: bool) -> None:
    flow = make_flow(Config(send_time_since_previous=asked))
    transmitter = Transmitter(flow, fill_report)
    packets = []
    for at in range(3):
        flow.probe_wanted = True
        packets += transmitter.poll(NOW_US + 2_000_000 + at * 100_000)
    assert any(packet[0] & 2 for packet in packets) is asked


def test_an_ended_connection_answers_for_five_seconds() -> None:
    pair = Pair()
    ended_at_us = pair.now_us
    pair.client.close(EndReason.SESSION_CLOSED, "enough", pair.now_us)
    pair.run(FIN_WAIT_US - 1)
    assert pair.client.state == ConnectionState.FIN_WAIT
    pair.run(1)
    assert (pair.client.state, pair.now_us) == (ConnectionState.DEAD, ended_at_us + FIN_WAIT_US)


def test_a_close_says_no_more_than_its_limit() -> None:
    pair = Pair()
    pair.client.send_message(b"hello", int(SendFlags.RELIABLE), 0, pair.now_us)
    pair.client.close(EndReason.SESSION_CLOSED, "x" * 500, pair.now_us)
    pair.run(1_000_000)
    (ended,) = [event for event in pair.events[False] if isinstance(event, Ended)]
    assert ended.end.debug == "x" * CLOSE_DEBUG_BYTES_MAX


def test_a_window_full_of_holes_forgets_its_oldest_run() -> None:
    """E6, E13."""
    window = ReplayWindow(0)
    numbers = [2 * at for at in range(1, REPLAY_RANGES_MAX + 2)]
    for number in numbers[:-1]:
        window.add(number)
    assert window.is_new(1)
    window.add(numbers[-1])
    assert not window.is_new(1)
    assert window.is_new(3)


def test_messages_that_wait_for_a_connection_cost_their_bookkeeping_too() -> None:
    """M1."""
    pair = Pair(start=False)
    results = [pair.client.send_message(b"", int(SendFlags.RELIABLE), 0, pair.now_us) for _ in range(3_000)]
    assert results.count(Result.OK) == (Config().send_buffer_bytes + MESSAGE_HEADROOM_BYTES) // MESSAGE_CHARGE_BYTES_MIN
    assert results[-1] == Result.LIMIT_EXCEEDED


def test_the_store_of_unfinished_messages_is_bounded() -> None:
    """E8: by the number of pieces, and by their bytes."""
    small, large = UnreliableReceiver(), UnreliableReceiver()
    for number in range(1, 2 * UNRELIABLE_STORE_SEGMENTS_MAX):
        small.add(number, 1, b"x", False, NOW_US)
        large.add(number, 1, bytes(UNRELIABLE_SEGMENT_BYTES_MAX), False, NOW_US)
    assert small.stored_segments == UNRELIABLE_STORE_SEGMENTS_MAX
    assert 0 <= UNRELIABLE_STORE_BYTES_MAX - large.stored_bytes < UNRELIABLE_SEGMENT_BYTES_MAX


def test_a_piece_by_itself_costs_its_bookkeeping_too() -> None:
    """E8: tiny islands fill the room of a peer long before their bytes do."""
    room = ReceiveRoom(messages_max=1_000, bytes_max=10 * (PIECE_CHARGE_BYTES + 1))
    stream = ReliableReceiver(buffer_bytes_max=1 << 20, message_bytes_max=1 << 20, room=room)
    assert [stream.add(3 + 2 * at, b"x") for at in range(11)] == [True] * 10 + [False]


def test_no_more_packets_come_at_once_than_one_call_carries() -> None:
    pair = Pair(client_config=Config(path_mtu_bytes_max=0))
    flow = pair.client.flow
    assert flow is not None
    flow.bucket.tokens = 1e9
    flow.rate.window_bytes = 1 << 30
    for _ in range(100):
        pair.client.send_message(bytes(1_200), int(SendFlags.UNRELIABLE_NO_NAGLE), 0, pair.now_us)
    assert len(pair.client.poll_transmit(pair.now_us)) == PACKETS_PER_TRANSMIT_MAX


@pytest.mark.parametrize("nagle_us", [0, 5_000, 20_000])
def test_a_small_message_waits_for_company_as_long_as_configured(nagle_us: int) -> None:
    pair = Pair(client_config=Config(nagle_us=nagle_us), network=lambda _from_client, _packet, _now_us: [1_000])
    pair.run(2_000_000)
    sent_at_us = pair.now_us
    pair.client.send_message(b"alone", int(SendFlags.UNRELIABLE), 0, sent_at_us)
    pair.run_until(lambda: bool(pair.delivered[False]))
    assert pair.now_us - sent_at_us == nagle_us + 1_000


def test_an_unfinished_message_is_kept_for_so_long() -> None:
    """G23."""
    receiver = UnreliableReceiver()
    receiver.add(1, 0, b"be", False, NOW_US)
    receiver.add(2, 1, b"x", False, NOW_US + UNRELIABLE_STORE_AGE_US)
    assert receiver.add(1, 2, b"gun", True, NOW_US + UNRELIABLE_STORE_AGE_US) == b"begun"
    receiver = UnreliableReceiver()
    receiver.add(3, 0, b"be", False, NOW_US)
    receiver.add(4, 1, b"x", False, NOW_US + UNRELIABLE_STORE_AGE_US + 1)
    assert receiver.add(3, 2, b"gun", True, NOW_US + UNRELIABLE_STORE_AGE_US + 1) is None
