"""E10 to E13: acks that claim too much, too little or nothing; packet numbers that leap."""

from __future__ import annotations

import time
from contextlib import suppress
from random import Random

import pytest

from peergram.address import Address
from peergram.config import (
    ACK_GAPS_MAX,
    DATAGRAM_BYTES_MAX,
    PACKET_NUMBER_JUMP_MAX,
    PACKETS_IN_FLIGHT_MAX,
    REPLAY_RANGES_MAX,
    Config,
)
from peergram.connection.flow import Flow
from peergram.connection.goodbye import Goodbye, decode_goodbye, encode_goodbye
from peergram.connection.in_flight import PacketsInFlight, SentPacket
from peergram.connection.receive import DISCARDED, OK, REFUSED, ConnectionViolated, Receiver
from peergram.connection.received import ReplayWindow
from peergram.connection.reports import fill_report
from peergram.connection.transmit import Transmitter
from peergram.errors import EndReason, Result
from peergram.wire.data_packet import decode_data_header, encode_data_header, expand_packet_number
from peergram.wire.frames import (
    WIDE_ACK_VERSION_MIN,
    Ack,
    DecodeContext,
    StopWaiting,
    decode_frames,
    encode_ack,
    encode_ack_block,
    encode_stop_waiting,
)
from tests.connection.flows import make_flow
from tests.threats.world import SOAK, Host, World, assert_session_works, friends, full_or, held_bytes, operations

NOW_US = 2_000_000
SEGMENT = bytes.fromhex("57 01 00 00 00 00 00 01 41")
"""The first message of the stream, of one byte."""


def context(next_packet_number: int) -> DecodeContext:
    """How one who sends that packet next reads what comes."""
    return DecodeContext(2, next_packet_number, lambda _lane: 0, lambda _lane: 1)


class Node:
    """One end below the encryption."""

    def __init__(self, config: Config | None = None, *, own_peer: bool = False) -> None:
        self.flow: Flow = make_flow(config, own_peer=own_peer)
        self.receiver = Receiver(self.flow, lambda _record, _now_us: None)
        self.transmitter = Transmitter(self.flow, fill_report)

    def take(self, payload: bytes, number: int, now_us: int = NOW_US) -> int:
        """One authentic packet arrives."""
        self.flow.replay.add(number)
        return self.receiver.handle_payload(payload, number, now_us)

    def send_packets(self, count: int, now_us: int = NOW_US) -> None:
        """That many packets are in flight, with a segment in every tenth."""
        flow = self.flow
        lane = flow.lanes.lane(0)
        for at in range(count):
            segments = []
            if at % 10 == 0:
                lane.queue_reliable(b"segment", 0)
                segment = lane.cut_segment(1_000)
                segments.append((lane, segment.begin, segment.end))
            flow.in_flight.add(SentPacket(now_us, DATAGRAM_BYTES_MAX, segments, True, 0, now_us, 0))


# --- E10 ---


def worst_payload(latest: int, block: bytes) -> bytes:
    """Ack frames of 255 equal blocks each, as many as fit a packet."""
    frame = b"\x9f" + (latest & 0xFFFF).to_bytes(2, "little") + b"\xff\xff\xff" + block * 255
    return frame * (DATAGRAM_BYTES_MAX // len(frame))


@pytest.mark.parametrize("in_flight", [0, 1_000])
def test_the_work_for_an_ack_does_not_grow_with_the_range_it_names(in_flight: int) -> None:
    """E10: at 1, 10 and 100 times the range, within half as much again."""
    costs = []
    for scale in (1, 10, 100):
        node = Node()
        node.flow.in_flight = PacketsInFlight(400_000_000)
        node.send_packets(in_flight)
        latest = node.flow.in_flight.next_number - 1
        payload = encode_ack(latest, None, [(2_000 * scale, 2_000 * scale)] * 150)
        costs.append(operations(lambda node=node, payload=payload: node.take(payload, 2)))  # type: ignore[misc]
    assert max(costs) <= 1.5 * min(costs)


def test_the_work_for_an_ack_does_not_grow_with_the_packets_lost_before() -> None:
    """E10: a peer that reports everything missing first and then sends blocks about nothing."""
    costs = []
    for lost in (20, 300):
        node = Node()
        node.send_packets(lost)
        latest = node.flow.in_flight.next_number - 1
        node.take(encode_ack(latest, None, [(0, lost)]), 2)
        costs.append(operations(lambda node=node, latest=latest: node.take(worst_payload(latest, b"\0"), 3)))  # type: ignore[misc]
    assert costs[1] <= 1.5 * costs[0]


@pytest.mark.skipif(not SOAK, reason="measures time: set PEERGRAM_SOAK=1")
@pytest.mark.parametrize("lost_before", [False, pytest.param(True)])
@pytest.mark.parametrize("in_flight", [0, PACKETS_IN_FLIGHT_MAX])
@pytest.mark.parametrize("block", [b"\0", b"\x10", b"\x01", b"\x11"])
def test_the_worst_ack_packet_costs_at_most_2_ms(in_flight: int, block: bytes, lost_before: bool) -> None:
    """E10."""
    costs = []
    for _ in range(5):
        node = Node()
        node.flow.in_flight = PacketsInFlight(10_000)
        node.send_packets(in_flight)
        latest = node.flow.in_flight.next_number - 1
        if lost_before:
            node.take(encode_ack(latest, None, [(0, in_flight)]), 2)
        payload = worst_payload(latest, block)
        begin = time.process_time()
        node.take(payload, 3)
        costs.append(time.process_time() - begin)
    settled_s = in_flight * 2e-6
    assert min(costs) <= 2e-3 + (0 if lost_before else settled_s)


def test_overlapping_and_repeated_acks_settle_each_packet_once() -> None:
    """E10."""
    node = Node()
    node.send_packets(200)
    first = node.flow.in_flight.next_number - 200
    rng = Random(4)
    for number in range(2, 400):
        latest = first + rng.randrange(200)
        blocks = [(rng.randrange(9), rng.randrange(9)) for _ in range(rng.randrange(8))]
        while sum(received + missing for received, missing in blocks) > latest:
            blocks.pop()
        node.take(encode_stop_waiting(0, number) + encode_ack(latest, 0, blocks), number)
        flow = node.flow
        open_packets = list(flow.in_flight.open_packets())
        assert flow.in_flight.bytes == sum(packet.size_bytes for packet in open_packets)
        assert flow.in_flight.eliciting_count == len(open_packets)
        assert flow.unacked_reliable_bytes >= 0
        assert flow.retransmit_bytes >= 0


def test_an_ack_below_packet_0_or_of_a_hundred_thousand_ends_the_connection() -> None:
    """E10: descending ranges and 2^60 wide ones are violations."""
    for payload in (
        encode_ack(1, None, [(2, 9)]),
        encode_ack(1, None, [(1, 0), (1, 0), (1, 0)]),
        b"\x99\x01\x00\xff\xff\x80" + b"\xff" * 8 + b"\x0f",
        b"\x99\x01\x00\xff\xff\x08" + b"\xff" * 9 + b"\x01",
    ):
        with pytest.raises(ConnectionViolated):
            Node().take(payload, 2)


# --- E11 ---


def test_an_ack_of_a_packet_never_sent_discards_the_packet_and_steers_nothing() -> None:
    """E11, as the reference does: the rest is not looked at, nothing is acknowledged, and the connection goes on."""
    node = Node()
    node.send_packets(20)
    flow = node.flow
    rate, window, next_number = flow.rate.rate_bytes_per_s, flow.rate.window_bytes, flow.in_flight.next_number
    for above in (0, 1, 100, 30_000):
        payload = encode_ack(next_number + above, 0, []) + b"\x57" + (1).to_bytes(6, "little") + b"\x02hi"
        assert node.take(payload, flow.replay.highest + 1) == DISCARDED
    assert len(flow.in_flight) == 20
    assert (flow.rate.rate_bytes_per_s, flow.rate.window_bytes) == (rate, window)
    assert not flow.delivered
    assert flow.acks.top == 1
    assert node.take(encode_ack(next_number - 1, 0, []), flow.replay.highest + 1) == OK
    assert len(flow.in_flight) == 0


# --- E12 ---


def silence(world: World) -> None:
    """Nothing arrives anywhere from now on."""
    world.network = lambda _source, _destination, _packet, _now_us: []


def test_a_peer_that_falls_silent_costs_a_send_buffer_and_a_few_packets_a_second_until_the_time_is_up() -> None:
    """E12."""
    config = Config(send_buffer_bytes=65_536)
    world, alice, bob = friends(config)
    silence(world)
    times: list[int] = []
    world.tap = lambda source, _destination, _packet: times.append(world.now_us) if source == alice.address else None
    results = []

    def overfill() -> None:
        for _ in range(400):
            results.append(alice.send(bob, bytes(1_000)))

    held = held_bytes(overfill)
    flow = alice.flow_to(bob)
    assert results[-1] == Result.LIMIT_EXCEEDED
    window_bytes = flow.rate.window_bytes
    assert held <= 1.1 * config.send_buffer_bytes + 2 * window_bytes
    begin_us = world.now_us
    world.run_until(lambda: bool(alice.failures))
    assert alice.failures[0].reason == EndReason.MISC_TIMEOUT
    assert alice.failures[0].unconfirmed.messages == results.count(Result.OK)
    assert 10_000_000 <= world.now_us - begin_us <= 21_000_000
    # The protocol's urgent pings are five a second; beside them there is next to nothing, and at the end the close.
    last_two_seconds = [at_us for at_us in times if at_us > world.now_us - 2_000_000]
    assert len(last_two_seconds) <= 2 * 8


def stand_in_for(world: World, alice: Host, bob: Host, acked_of_50: int) -> None:
    """From now on every packet of Alice's is answered by an authentic one that keeps the session alive, in place of all that Bob
    says; of fifty packets it reports so many as received and the rest as lost, and with 0 it reports nothing."""
    hers, his = alice.flow_to(bob), bob.flow_to(alice)
    alice_id = alice.connection_to(bob).connection_id
    number = his.in_flight.next_number
    heard = 0

    def answer(source: Address, _destination: Address, packet: bytes, _now_us: int) -> list[int]:
        nonlocal number, heard
        if source == alice.address and packet[0] >= 0x80:
            heard += 1
            payload = b""
            if acked_of_50 and heard % 50 == 0:
                latest = expand_packet_number(decode_data_header(packet).number16, hers.in_flight.next_number)
                payload = encode_ack(latest, 0, [(acked_of_50, 50 - acked_of_50)])
            world.send_as(
                bob.address, alice.address, encode_data_header(alice_id, number) + his.send_cipher.seal(number, payload)
            )
            number += 1
        return []

    world.network = answer


@pytest.mark.parametrize(("acked_of_50", "packets_per_1000_s"), [(0, 1_000), (1, 1_000)])
def test_a_peer_that_lives_and_does_not_acknowledge_costs_a_send_buffer_and_a_packet_a_second(
    acked_of_50: int, packets_per_1000_s: int
) -> None:
    """E12: for an hour, while the application fills the buffer whenever there is room."""
    world, alice, bob = friends()
    said = bytearray()
    world.tap = lambda source, _destination, _packet: said.append(0) if source == alice.address else None
    window_bytes = alice.flow_to(bob).rate.window_bytes
    stand_in_for(world, alice, bob, acked_of_50)
    refused = 0
    size = 10_000

    def attack() -> None:
        nonlocal refused
        for _ in range(full_or(3_600, 300)):
            while alice.send(bob, bytes(size)) == Result.OK:
                pass
            refused += 1
            world.run(1_000_000)

    held = held_bytes(attack)
    flow = alice.flow_to(bob)
    assert refused == full_or(3_600, 300), "the application hears that the buffer is full"
    # What was in flight when the acks stopped is beside the send buffer, as the reference counts; the message that is being cut
    # into segments is held whole.
    bytes_max = Config().send_buffer_bytes + window_bytes
    assert flow.queued_bytes + flow.retransmit_bytes + flow.unacked_reliable_bytes <= bytes_max
    assert held <= 1.1 * (bytes_max + size)
    before = len(said)
    world.run(1_000_000_000)
    assert 500 <= len(said) - before <= packets_per_1000_s
    world.network = lambda _source, _destination, _packet, _now_us: []
    world.run_until(lambda: bool(alice.failures))
    assert alice.failures[0].reason == EndReason.MISC_TIMEOUT


def never_acks(node: Node, packets: int, spacing_us: int) -> None:
    """An authentic peer asks for an answer with every packet, and acknowledges none."""
    for at in range(packets):
        now_us = NOW_US + at * spacing_us
        number = node.flow.replay.highest + 1
        node.receiver.handle_packet(encode_data_header(0x00010001, number, stats_blob=b"\x18\x06"), now_us)
        node.transmitter.handle_timeout(now_us)
        node.transmitter.poll(now_us)


def test_a_peer_that_talks_and_never_acknowledges_is_remembered_up_to_a_limit() -> None:
    """E12, E14: our answers must not pile up in the record of packets in flight."""
    node = Node(own_peer=True)
    never_acks(node, 9_500, 1_000)
    assert len(node.flow.in_flight) <= PACKETS_IN_FLIGHT_MAX


@pytest.mark.parametrize("version", [WIDE_ACK_VERSION_MIN - 1, WIDE_ACK_VERSION_MIN])
@pytest.mark.parametrize("behind", [0, 8_192, 8_193, 30_000, 40_000, 65_536, 65_537, 1_000_000])
def test_an_ack_names_the_packet_it_means_however_many_came_after_it(behind: int, version: int) -> None:
    """P2: while nothing finds room here, nothing is acknowledged, and what 16 bits tell of the newest one would name another."""
    node = Node()
    node.flow.peer_version = version
    node.take(SEGMENT, 5)
    node.flow.replay.add(5 + behind)
    [packet] = node.transmitter.poll(NOW_US + 1_000_000)
    payload = packet[decode_data_header(packet).payload_at :]
    for under_way in (0, 8_000):
        acks = [
            frame for frame in decode_frames(payload, context(5 + behind + under_way + 1)) if not isinstance(frame, StopWaiting)
        ]
        if behind > 8_192 and version < WIDE_ACK_VERSION_MIN:
            assert not acks
        else:
            assert [(frame.latest, frame.blocks) for frame in acks if isinstance(frame, Ack)] == [(5, [(1, 3)])]


def test_a_goodbye_names_the_packets_it_means_too() -> None:
    node = Node(own_peer=True)
    node.take(SEGMENT, 5)
    node.flow.replay.add(100_000)
    packet = node.transmitter.seal_goodbye(encode_goodbye(Goodbye(1_000, "", ())))
    _, frames = decode_goodbye(packet[decode_data_header(packet).payload_at :])
    assert decode_frames(frames, context(100_001)) == [Ack(5, None, [(1, 3)])]


def test_a_reader_who_pauses_for_a_million_packets_keeps_the_session() -> None:
    """None of them found room, so that none was acknowledged, and the limit of the sender lies far above the newest that was."""
    node = Node()
    node.take(SEGMENT, 2)
    node.flow.replay.add(1_000_000)
    assert node.take(encode_stop_waiting(999_990, 1_000_001) + SEGMENT, 1_000_001) == OK
    [packet] = node.transmitter.poll(NOW_US + 1_000_000)
    frames = decode_frames(packet[decode_data_header(packet).payload_at :], context(1_000_002))
    assert [frame for frame in frames if isinstance(frame, Ack)] == [Ack(1_000_001, 1_000_000, [(1, 11)])]


def test_packets_that_overtake_each_other_when_the_reader_goes_on_do_not_end_the_session() -> None:
    """Each says the limit of its time: the one that found no room the highest, and those that were late lower ones."""
    node = Node()
    node.take(SEGMENT, 2)
    node.flow.replay.add(1_000_000)
    node.flow.accepts_reliable = False
    assert node.take(encode_stop_waiting(999_900, 1_000_005) + SEGMENT, 1_000_005) == REFUSED
    node.flow.accepts_reliable = True
    assert node.take(encode_stop_waiting(999_896, 1_000_001) + SEGMENT, 1_000_001) == OK
    assert node.take(encode_stop_waiting(999_898, 1_000_003) + SEGMENT, 1_000_003) == OK


def test_a_statistics_report_that_was_given_up_is_not_waited_for() -> None:
    """E12: after a peer that acknowledges nothing, reports go on as before."""
    node = Node(own_peer=True)
    never_acks(node, PACKETS_IN_FLIGHT_MAX + 8_000, 1_000)
    assert any(packet.carries for packet in node.flow.in_flight.open_packets())


def test_one_who_only_receives_can_still_send() -> None:
    """E12: nobody acknowledges bare acks, so that their record fills up unless we ask."""
    node = Node(own_peer=True)
    flow = node.flow
    for at in range(PACKETS_IN_FLIGHT_MAX):
        now_us = NOW_US + at * 500
        flow.acks.schedule(now_us)
        for packet in node.transmitter.poll(now_us):
            number = flow.in_flight.next_number - 1
            if packet[0] & 1:
                node.take(encode_ack(number, 0, []), flow.replay.highest + 1, now_us)
    assert len(flow.in_flight) < PACKETS_IN_FLIGHT_MAX // 2


def test_a_peer_that_acknowledges_one_packet_in_fifty_gets_everything_in_the_end() -> None:
    """E12: a collapsed window is slow, not stuck."""
    world, alice, bob = friends()
    heard = 0

    def one_in_fifty(source: tuple[str, int], _destination: tuple[str, int], _packet: bytes, _now_us: int) -> list[int]:
        nonlocal heard
        heard += source == bob.address
        return [5_000] if source == alice.address or heard % 50 == 0 else []

    world.network = one_in_fifty
    for _ in range(20):
        assert alice.send(bob, bytes(5_000)) == Result.OK
    world.run_until(lambda: len(bob.messages) == 20, 60_000_000)
    world.network = lambda _source, _destination, _packet, _now_us: [5_000]
    assert_session_works(world, alice, bob)


# --- E13 ---


def test_leaping_packet_numbers_cost_the_same_whatever_the_leap_and_fill_no_table() -> None:
    """E13."""
    rng = Random(5)
    node = Node()
    number = 1
    for at in range(full_or(100_000, 3_000)):
        number += rng.choice((1, 2, 100, PACKET_NUMBER_JUMP_MAX - 1))
        now_us = NOW_US + at * 100
        node.take(encode_stop_waiting(max(number - 50_000, 0), number), number, now_us)
        late = number - rng.randrange(20_000)
        if node.flow.replay.is_new(late):
            node.take(b"", late, now_us)
        assert len(node.flow.acks._runs) <= ACK_GAPS_MAX
        assert len(node.flow.replay._begins) <= REPLAY_RANGES_MAX + 1
    costs = []
    for jump in (2, PACKET_NUMBER_JUMP_MAX):
        number += jump
        costs.append(operations(lambda number=number: node.take(b"", number)))  # type: ignore[misc]
    assert max(costs) <= 2 * min(costs)


def test_a_leap_beyond_the_limit_ends_the_connection() -> None:
    """E13: nobody loses sixteen thousand packets in a row."""
    node = Node()
    packet = encode_data_header(0x00010001, 1 + PACKET_NUMBER_JUMP_MAX + 1)
    with pytest.raises(ConnectionViolated) as violation:
        node.receiver.handle_packet(packet, NOW_US)
    assert violation.value.reason == EndReason.MISC_GENERIC
    allowed = Node()
    assert allowed.receiver.handle_packet(encode_data_header(0x00010001, 1 + PACKET_NUMBER_JUMP_MAX), NOW_US)


def test_holes_that_add_up_beyond_what_a_block_can_say_end_the_connection_or_are_reported() -> None:
    """E10, E13: a peer that leaps and never gives up on old packets must not make our sender raise."""
    node = Node()
    with suppress(ConnectionViolated):
        for at in range(130):
            number = node.flow.replay.highest + PACKET_NUMBER_JUMP_MAX
            node.take(b"", number, NOW_US + at * 10_000)
            node.transmitter.poll(NOW_US + at * 10_000 + 5_000)


def test_a_hole_of_three_hundred_million_packets_ends_the_connection_or_is_reported() -> None:
    """E10, E13: 20,000 leaps are a second's work for a hostile peer; cutting the hole into blocks only moves the limit."""
    node = Node()
    with suppress(ConnectionViolated):
        for at in range(20_000):
            node.take(b"", node.flow.replay.highest + PACKET_NUMBER_JUMP_MAX, NOW_US + at * 50)
        for packet in node.transmitter.poll(NOW_US + 10_000_000):
            assert len(packet) <= DATAGRAM_BYTES_MAX


def test_a_run_longer_than_a_block_can_say_ends_the_connection_or_is_reported() -> None:
    """E10: a peer that never says stop waiting, and sends 800,008 packets above one hole."""
    node = Node()
    node.take(b"", 3)
    node.flow.acks._runs[-1].end = node.flow.replay._ends[-1] = 3 + 800_008
    node.flow.replay.highest = 3 + 800_007
    with suppress(ConnectionViolated):
        node.take(b"", 3 + 800_008)
        node.transmitter.poll(NOW_US + 1_000_000)


def test_more_holes_than_fit_a_small_packet_make_one_ack_not_a_stream_of_them() -> None:
    """E13, V13: an ack that cannot tell everything is no reason for the next one at the same moment."""
    node = Node(Config(datagram_bytes=200))
    for at in range(40):
        node.take(b"", 3 + 2 * at, NOW_US + at * 100)
    packets = node.transmitter.poll(NOW_US + 100_000)
    assert len(packets) <= 2
    assert node.transmitter.poll(NOW_US + 100_001) == []


def test_the_largest_block_is_written_and_a_larger_one_would_not_be() -> None:
    """E10: the figure the two tests above rest on."""
    assert encode_ack_block(800_007, 800_007)


def test_numbers_that_go_backwards_are_refused_without_a_trace() -> None:
    """E13."""
    window = ReplayWindow(100_000)
    assert not any(window.is_new(number) for number in (-70_000, -1, 0, 1, 99_999, 100_000))
    assert held_bytes(lambda: [window.is_new(number) for number in range(-50_000, 100_001, 7)] and None) < 10_000
