"""Every packet our transmitter builds says exactly what was queued, fits its limit, and avoids the pitfalls of the protocol.

The strict decoder of `wire.frames` reads each packet; a receiver with the reference's limits takes it in; and the pitfalls P1 to
P7 of protocol part 2, section 18 are checked one by one. The network loses packets, so that what must go again is among them.
"""

from __future__ import annotations

from collections import defaultdict
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peergram.address import Address
from peergram.config import (
    DATAGRAM_BYTES_MAX,
    LANES_SEND_MAX,
    MESSAGE_NUMBER_STEP_MAX,
    STATS_LIFETIME_FORCED_US,
    UNRELIABLE_SEND_BYTES_MAX,
    Config,
)
from peergram.connection.flow import Flow
from peergram.connection.limits import REFERENCE
from peergram.connection.receive import OK, REFUSED, Receiver
from peergram.connection.reports import fill_report
from peergram.connection.transmit import Transmitter
from peergram.errors import Result
from peergram.events import SendFlags
from peergram.identity import Identity
from peergram.wire.control import LEAD_CONNECT_OK
from peergram.wire.data_packet import decode_data_header, expand_packet_number
from peergram.wire.frames import (
    Ack,
    AckOfUnsent,
    DecodeContext,
    Frame,
    LaneSelected,
    ReliableSegment,
    StopWaiting,
    TooManySegments,
    UnreliableSegment,
    decode_frames,
    encode_ack,
)
from peergram.wire.reliable_framing import parse_message_header
from tests.connection.flows import delivered_messages, make_flow
from tests.threats.world import SOAK, World

SIZES = (0, 1, 31, 32, 100, 1_000, 1_135, 1_200, 1_230, 1_250, 1_270, 1_277, 1_280, 2_500, 16_500, 20_000)
DATAGRAM_BYTES = (200, 300, 576, 1_300, 9_000, 65_000)
"""Up to the protocol's size, and above it what a path between own peers may carry."""


class Sender:
    """A transmitter with its state, and what was queued in it."""

    def __init__(self, datagram_bytes: int, *, own_peer: bool) -> None:
        self.flow: Flow = make_flow(Config(datagram_bytes=min(datagram_bytes, DATAGRAM_BYTES_MAX)), own_peer=own_peer)
        self.flow.set_datagram_bytes(datagram_bytes)
        self.receiver = Receiver(self.flow, lambda _record, _now_us: None)
        self.transmitter = Transmitter(self.flow, fill_report)
        self.reliable: dict[int, list[tuple[int, bytes]]] = defaultdict(list)
        self.unreliable: dict[tuple[int, int], bytes] = {}

    def queue(self, lane_index: int, reliable: bool, data: bytes, now_us: int) -> None:
        flow = self.flow
        lane = flow.lanes.lane(lane_index)
        if reliable or len(data) > UNRELIABLE_SEND_BYTES_MAX:
            flow.queued_bytes += lane.queue_reliable(data, now_us)
            self.reliable[lane_index].append((lane.reliable_number, data))
        else:
            flow.queued_bytes += lane.queue_unreliable(data, now_us)
            self.unreliable[lane_index, lane.message_number] = data
        flow.flush_at_us = now_us


class Stream:
    """The bytes of one lane's reliable stream that were said so far."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.known = bytearray()

    def put(self, position: int, data: bytes) -> None:
        begin, end = position - 1, position - 1 + len(data)
        self.data.extend(bytes(max(end - len(self.data), 0)))
        self.known.extend(bytes(max(end - len(self.known), 0)))
        if all(self.known[begin:end]):
            assert self.data[begin:end] == data, "said again, and differently"
        else:
            assert not any(self.known[begin:end]), "segments keep their boundaries, or are cut where nothing was said"
        self.data[begin:end] = data
        self.known[begin:end] = bytes([1]) * len(data)


class Reader:
    """Takes packets apart by the written format alone, and keeps what it learned."""

    def __init__(self, sender: Sender) -> None:
        self.sender = sender
        self.highest = 1
        self.stop_waiting = 0
        self.streams: dict[int, Stream] = defaultdict(Stream)
        self.pieces: dict[tuple[int, int], dict[int, bytes]] = defaultdict(dict)
        self.lasts: dict[tuple[int, int], int] = {}
        self._numbers: dict[int, int] = defaultdict(int)

    def read(self, packet: bytes, peer_next_number: int) -> None:
        """Check one packet; `peer_next_number` is what its receiver would send next."""
        flow = self.sender.flow
        assert len(packet) <= flow.datagram_bytes
        header = decode_data_header(packet)
        number = expand_packet_number(header.number16, self.highest)
        assert number == self.highest + 1
        self.highest = number
        context = DecodeContext(number, peer_next_number, self._numbers.__getitem__, self._end_of)
        payload = packet[header.payload_at :]
        frames = decode_frames(payload, context)
        assert not any(isinstance(frame, AckOfUnsent | TooManySegments) for frame in frames)
        self._check_reports(frames, flow)
        self._check_lanes(frames)
        self._check_first_forms(payload, frames)
        for frame in frames:
            if isinstance(frame, ReliableSegment):
                self.streams[frame.lane].put(frame.position, frame.data)
            elif isinstance(frame, UnreliableSegment):
                self._take_piece(frame)

    def _end_of(self, lane: int) -> int:
        return len(self.streams[lane].data) + 1

    def _check_reports(self, frames: list[Frame], flow: Flow) -> None:
        for frame in frames:
            if isinstance(frame, StopWaiting):
                assert frame.value >= self.stop_waiting, "P1: stop waiting went down"
                assert frame.value < self.highest
                self.stop_waiting = frame.value
            elif isinstance(frame, Ack):
                assert frame.latest <= flow.replay.highest, "P1: ack of a packet nobody sent"
        assert flow.in_flight.next_number - flow.in_flight.reported < 1 << 15, "P2: more packets unreported than 16 bits tell"

    @staticmethod
    def _check_lanes(frames: list[Frame]) -> None:
        sections: list[bool] = [False]
        lanes = [0]
        for frame in frames:
            if isinstance(frame, LaneSelected):
                assert frame.lane < LANES_SEND_MAX, "G1: a reference peer's logs break above"
                sections.append(False)
                lanes.append(frame.lane)
            elif isinstance(frame, ReliableSegment):
                sections[-1] = True
        assert not any(sections) or sections[-1], "P6: the last lane section has no reliable segment although another one has"
        assert len(set(lanes[1:])) == len(lanes[1:]), "one section a lane"

    @staticmethod
    def _check_first_forms(payload: bytes, frames: list[Frame]) -> None:
        """P4: where a section begins, a position has 48 bits and a number 32; found by the bytes that must be there."""
        first = True
        for frame in frames:
            if isinstance(frame, LaneSelected):
                first = True
            elif isinstance(frame, ReliableSegment) and first:
                assert any(
                    payload[at] & 0xF8 == 0x50 and payload[at + 1 : at + 7] == frame.position.to_bytes(6, "little")
                    for at in range(len(payload) - 6)
                ), "P4: short form of a first stream position"
                first = False
            elif isinstance(frame, UnreliableSegment):
                # The position of a reliable segment behind it is still a first one.
                continue

    def _take_piece(self, frame: UnreliableSegment) -> None:
        key = frame.lane, frame.message_number
        self._numbers[frame.lane] = max(self._numbers[frame.lane], frame.message_number)
        assert frame.offset not in self.pieces[key], "an unreliable piece goes once"
        self.pieces[key][frame.offset] = frame.data
        if frame.last:
            self.lasts[key] = frame.offset + len(frame.data)

    # --- at the end ---

    def check_content(self) -> None:
        """Everything queued was said, and nothing else."""
        for lane, expected in self.sender.reliable.items():
            stream = self.streams[lane]
            assert all(stream.known)
            assert _messages_of(bytes(stream.data)) == expected
        assert set(self.pieces) == set(self.sender.unreliable)
        for key, data in self.sender.unreliable.items():
            assert b"".join(self.pieces[key][at] for at in sorted(self.pieces[key])) == data
            assert self.lasts[key] == len(data)


def _messages_of(stream: bytes) -> list[tuple[int, bytes]]:
    messages = []
    at = number = 0
    while at < len(stream):
        header = parse_message_header(stream, at)
        assert header is not None
        step, size, header_bytes = header
        assert step is None or step <= MESSAGE_NUMBER_STEP_MAX, "P7: the number leaps"
        number += 1 if step is None else step
        at += header_bytes + size
        assert at <= len(stream)
        messages.append((number, stream[at - size : at]))
    return messages


def exchange(rng: Random, sender: Sender, *, lanes: int, loss: float, sends: int) -> None:
    """Queue random messages, deliver what is not lost to a receiver with the reference's limits, and bring its acks back."""
    reader = Reader(sender)
    peer = make_flow(Config(), REFERENCE)
    peer.payload_bytes_max = sender.flow.datagram_bytes
    taker = Receiver(peer, lambda _record, _now_us: None)
    answers = Transmitter(peer, fill_report)
    now_us = 2_000_000
    for turn in range(4_000):
        now_us += rng.choice((50, 1_000, 30_000))
        if turn < sends:
            data = rng.randbytes(rng.choice(SIZES))
            sender.queue(rng.randrange(lanes), rng.random() < 0.5, data, now_us)
        sender.transmitter.handle_timeout(now_us)
        for packet in sender.transmitter.poll(now_us, 4):
            reader.read(packet, peer.in_flight.next_number)
            if rng.random() >= loss:
                taker.handle_packet(packet, now_us)
        peer.delivered.clear()
        peer.room.unread_messages = peer.room.unread_bytes = 0
        taker.resume()
        answers.handle_timeout(now_us)
        for packet in answers.poll(now_us, 4):
            if rng.random() >= loss:
                sender.receiver.handle_packet(packet, now_us)
        if turn >= sends and not sender.flow.owes_reliable and sender.flow.lanes.next_lane() is None:
            break
    reader.check_content()


@settings(max_examples=2_000 if SOAK else 60)
@given(
    seed=st.integers(0, (1 << 32) - 1),
    datagram_bytes=st.sampled_from(DATAGRAM_BYTES),
    own_peer=st.booleans(),
    lanes=st.sampled_from((1, 2, 8)),
    loss=st.sampled_from((0.0, 0.05, 0.3)),
)
def test_packets_say_what_was_queued_and_nothing_else(
    seed: int, datagram_bytes: int, own_peer: bool, lanes: int, loss: float
) -> None:
    exchange(Random(seed), Sender(datagram_bytes, own_peer=own_peer), lanes=lanes, loss=loss, sends=20)


def owe_everything(sender: Sender, holes: int, now_us: int) -> None:
    """Have the sender owe reports on many holes with long runs between them, and a full statistics record."""
    number = sender.flow.replay.highest
    for _ in range(holes):
        number += 2_000
        for _ in range(9):
            number += 1
            sender.flow.replay.add(number)
            sender.receiver.handle_payload(b"", number, now_us)
    stats = sender.flow.stats
    stats.sequenced = stats.packets_sent = stats.packets_received = stats.dropped = stats.lurch = 1_000_000
    for histogram in (stats.quality_histogram, stats.ping_histogram, stats.jitter_histogram):
        histogram[:] = [100_000] * len(histogram)


@pytest.mark.parametrize("datagram_bytes", DATAGRAM_BYTES)
def test_a_packet_with_every_report_there_is_keeps_its_size(datagram_bytes: int) -> None:
    sender = Sender(datagram_bytes, own_peer=False)
    owe_everything(sender, 60, 2_000_000)
    sender.queue(0, True, bytes(5_000), 200_000_000)
    for packet in sender.transmitter.poll(200_000_000, 4):
        assert len(packet) <= datagram_bytes


def test_a_number_that_lags_a_million_behind_is_caught_up_in_steps_a_reference_peer_takes() -> None:
    """P7, G26."""
    sender = Sender(1_300, own_peer=False)
    lane = sender.flow.lanes.lane(0)
    lane.message_number = 2_000_000
    for at in range(5):
        sender.queue(0, True, bytes((at,)), 2_000_000)
    reader = Reader(sender)
    peer = make_flow(Config(), REFERENCE)
    peer.payload_bytes_max = sender.flow.datagram_bytes
    taker = Receiver(peer, lambda _record, _now_us: None)
    for packet in sender.transmitter.poll(2_000_000):
        reader.read(packet, 2)
        assert taker.handle_packet(packet, 2_000_000)
    reader.check_content()
    assert [message[3] for message in delivered_messages(peer.delivered)] == [bytes((at,)) for at in range(5)]


def test_what_is_reported_missing_goes_again_at_once_and_waits_for_no_second_report() -> None:
    """P3, G4: the stop-waiting value passes the hole with the same packet, so nobody will ever say that it was filled."""
    sender = Sender(1_300, own_peer=False)
    now_us = 2_000_000
    for number in range(4):
        sender.queue(0, True, bytes((number,)) * 1_000, now_us)
    reader = Reader(sender)
    sent = sender.transmitter.poll(now_us)
    first = sender.flow.in_flight.next_number - len(sent)
    assert len(sent) == 4
    for packet in sent:
        reader.read(packet, 2)
    before = len(reader.streams[0].data)
    latest = sender.flow.in_flight.next_number - 1
    assert sender.receiver.handle_payload(encode_ack(latest, 0, [(2, 1), (1, 0)]), 2, now_us + 10_000) == OK
    again = [frame for packet in sender.transmitter.poll(now_us + 10_000) for frame in frames_of(packet, latest + 1, before)]
    missing = [frame for frame in frames_of(sent[1], first + 1, before) if isinstance(frame, ReliableSegment)]
    repeated = [frame for frame in again if isinstance(frame, ReliableSegment)]
    assert b"".join(frame.data for frame in repeated) == missing[0].data
    assert [frame.value for frame in again if isinstance(frame, StopWaiting)] == [latest]
    assert latest > first + 1


def frames_of(packet: bytes, number: int, expected_position: int) -> list[Frame]:
    """A packet of one lane, read by the format alone."""
    context = DecodeContext(number, 3, lambda _lane: 0, lambda _lane: expected_position)
    return decode_frames(packet[decode_data_header(packet).payload_at :], context)


@pytest.mark.parametrize("connect_oks_lost", [0, 1, 3])
@pytest.mark.parametrize("flags", [SendFlags.UNRELIABLE, SendFlags.UNRELIABLE_NO_NAGLE, SendFlags.RELIABLE_NO_NAGLE])
def test_no_data_leaves_before_the_other_side_is_known_to_be_connected_or_was_told(flags: int, connect_oks_lost: int) -> None:
    """P5: the dialing side holds everything until it has the ConnectOK; the side called says ConnectOK before anything else."""
    world = World()
    alice, bob = world.host("alice"), world.host("bob")
    left: list[tuple[str, int, bool]] = []
    lost = 0

    def network(source: Address, _destination: Address, packet: bytes, _now_us: int) -> list[int]:
        nonlocal lost
        left.append(("alice" if source == alice.address else "bob", packet[0], alice.is_connected_to(bob)))
        if packet[0] == LEAD_CONNECT_OK and lost < connect_oks_lost:
            lost += 1
            return []
        return [5_000]

    world.network = network
    dialed = Identity.ip(bob.address)
    for at in range(5):
        assert alice.endpoint.send_message(dialed, b"%d" % at, flags, 0, world.now_us) == Result.OK
    alice.drain()
    world.run_until(lambda: alice.is_connected_to(bob))
    assert lost == connect_oks_lost
    world.run_until(lambda: len(bob.messages) == 5)
    assert bob.endpoint.send_message(alice.identity, b"hello", SendFlags.UNRELIABLE_NO_NAGLE, 0, world.now_us) == Result.OK
    bob.drain()
    world.run_until(lambda: len(alice.messages) == 1)
    assert all(connected for who, lead, connected in left if who == "alice" and lead >= 0x80)
    assert any(who == "alice" and lead >= 0x80 for who, lead, _ in left)
    leads = [lead for who, lead, _ in left if who == "bob"]
    assert leads.index(LEAD_CONNECT_OK) < next(at for at, lead in enumerate(leads) if lead >= 0x80)


def test_unreliable_data_that_comes_when_no_data_is_taken_is_not_acknowledged() -> None:
    """P5, the receiving end of it: the packet counts as lost, and what it carried reliably comes again."""
    flow = make_flow()
    receiver = Receiver(flow, lambda _record, _now_us: None)
    flow.refuse_data()
    assert receiver.handle_payload(b"\x37\x01\x00\x00\x00late", 2, 2_000_000) == REFUSED
    assert flow.acks.top == 1
    assert not flow.delivered


@pytest.mark.parametrize("datagram_bytes", DATAGRAM_BYTES)
def test_a_statistics_report_makes_no_packet_too_long(datagram_bytes: int) -> None:
    """G20: after billions of packets, with every counter at its longest; and what does not fit is not tried for ever."""
    sender = Sender(datagram_bytes, own_peer=True)
    stats = sender.flow.stats
    stats.packets_sent = stats.bytes_sent = stats.packets_received = stats.bytes_received = stats.sequenced = 1 << 45
    stats.dropped = stats.out_of_order = stats.duplicate = stats.lurch = 1 << 45
    for histogram in (stats.ping_histogram, stats.jitter_histogram, stats.quality_histogram):
        histogram[:] = [1 << 31] * len(histogram)
    packets = sender.transmitter.poll(1_000_000 + STATS_LIFETIME_FORCED_US)
    assert len(packets) == 1
    assert len(packets[0]) <= datagram_bytes
