"""The short way through the receiver is the careful way, only quicker: same outcome, messages and state after every packet.

Two receivers get every payload, one with its short way open and one with it closed. The payloads come from a real transmitter
under a random workload; the network loses, repeats and reorders them, and some are cut, changed or spliced as a hostile peer
would. What the receivers answer goes back, so that acks, holes and retransmissions are among what is compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from random import Random
from typing import NamedTuple

from hypothesis import example, given, settings
from hypothesis import strategies as st

from peergram.config import UNRELIABLE_SEND_BYTES_MAX, Config
from peergram.connection.flow import Flow
from peergram.connection.receive import DISCARDED, OK, REFUSED, ConnectionViolated, Receiver
from peergram.connection.reports import fill_report
from peergram.connection.transmit import Transmitter
from peergram.wire.data_packet import decode_data_header, expand_packet_number
from tests.connection.flows import delivered_messages, make_flow
from tests.threats.world import SOAK, digest

VIOLATED = 3
OUTCOMES = {OK: "ok", REFUSED: "refused", DISCARDED: "discarded", VIOLATED: "violated"}


class End:
    """One end: state, receiver, transmitter."""

    def __init__(self, config: Config, *, own_peer: bool, straight: bool) -> None:
        self.flow: Flow = make_flow(config, own_peer=own_peer)
        self.receiver = Receiver(self.flow, lambda _record, _now_us: None)
        self.receiver.straight = straight
        self.transmitter = Transmitter(self.flow, fill_report)

    def queue(self, lane_index: int, reliable: bool, data: bytes, now_us: int) -> None:
        flow = self.flow
        lane = flow.lanes.lane(lane_index)
        reliable = reliable or len(data) > UNRELIABLE_SEND_BYTES_MAX
        flow.queued_bytes += lane.queue_reliable(data, now_us) if reliable else lane.queue_unreliable(data, now_us)
        flow.flush_at_us = now_us

    def poll(self, now_us: int) -> list[bytes]:
        self.transmitter.handle_timeout(now_us)
        return self.transmitter.poll(now_us, 8)

    def take(self, number: int, payload: bytes, now_us: int) -> int:
        """What becomes of one payload, as `Receiver.handle_packet` would decide after decryption."""
        if not self.flow.replay.is_new(number):
            return -1
        self.flow.replay.add(number)
        try:
            return self.receiver.handle_payload(payload, number, now_us)
        except ConnectionViolated:
            return VIOLATED

    def read(self) -> str | None:
        """The application takes everything: what its reading found broken among the bytes that had waited for room, if so."""
        self.flow.room.unread_messages = self.flow.room.unread_bytes = 0
        try:
            self.receiver.resume()
        except ConnectionViolated as violation:
            return str(violation)
        return None


class Twins:
    """A sender, and two receivers that must not differ."""

    def __init__(self, config: Config, *, own_peer: bool) -> None:
        self.now_us = 2_000_000
        self.sender = End(Config(), own_peer=own_peer, straight=True)
        self.quick = End(config, own_peer=own_peer, straight=True)
        self.careful = End(config, own_peer=own_peer, straight=False)
        self.under_way: list[tuple[int, bytes]] = []
        self.is_over = False
        self.outcomes: list[int] = []
        self._sender_highest = 1

    def collect(self) -> None:
        """What the sender has for them now."""
        for packet in self.sender.poll(self.now_us):
            header = decode_data_header(packet)
            self._sender_highest = expand_packet_number(header.number16, self._sender_highest)
            self.under_way.append((self._sender_highest, packet[header.payload_at :]))

    def deliver(self, number: int, payload: bytes) -> None:
        """Hand one payload to both, compare, and let the answers go back."""
        quick = self.quick.take(number, payload, self.now_us)
        careful = self.careful.take(number, payload, self.now_us)
        assert quick == careful
        self.compare_delivered()
        self.outcomes.append(quick)
        self.is_over = quick == VIOLATED
        if self.is_over:
            return
        assert digest(self.quick.flow) == digest(self.careful.flow)
        self.read()

    def read(self) -> None:
        """Both applications take everything, and may find the same framing broken."""
        broken = self.quick.read()
        assert broken == self.careful.read()
        self.is_over = broken is not None
        self.compare_delivered()

    def compare_delivered(self) -> None:
        """Messages and what they charge; how they are batched is no difference."""
        quick, careful = self.quick.flow.delivered, self.careful.flow.delivered
        assert delivered_messages(quick) == delivered_messages(careful)
        assert sum(batch[4] for batch in quick) == sum(batch[4] for batch in careful)
        quick.clear()
        careful.clear()

    def answer(self) -> None:
        """Both say the same, and the sender hears it."""
        answers = self.quick.poll(self.now_us)
        assert answers == self.careful.poll(self.now_us)
        for packet in answers:
            self.sender.receiver.handle_packet(packet, self.now_us)


class Send(NamedTuple):
    lane: int
    reliable: bool
    size: int
    back: bool


class Network(NamedTuple):
    what: str
    place: int
    value: int


CONTENT = bytes(range(256)) * 80
SENDS = st.builds(
    Send,
    st.integers(0, 7),
    st.booleans(),
    st.one_of(st.integers(0, 40), st.integers(1_100, 1_300), st.integers(0, 5_000)),
    st.sampled_from([False, False, False, True]),
)
WHAT = ["pass", "pass", "pass", "wait", "lose", "repeat", "swap", "cut", "change", "flip", "insert", "splice"]
NETWORK = st.builds(Network, st.sampled_from(WHAT), st.integers(0, 1 << 16), st.integers(0, 255))


def changed(twins: Twins, step: Network) -> None:
    """One step of a network with a hostile peer behind it, on the oldest payload under way."""
    if step.what == "wait" or not twins.under_way:
        twins.now_us += step.place % 40_000
        return
    number, payload = twins.under_way.pop(0)
    at = step.place % (len(payload) + 1)
    if step.what == "lose":
        return
    if step.what == "repeat":
        twins.deliver(number, payload)
    elif step.what == "swap" and twins.under_way:
        twins.under_way.insert(min(1 + step.value % 4, len(twins.under_way)), (number, payload))
        number, payload = twins.under_way.pop(0)
    elif step.what == "cut":
        payload = payload[:at]
    elif step.what == "change" and payload:
        at %= len(payload)
        payload = payload[:at] + bytes((step.value,)) + payload[at + 1 :]
    elif step.what == "flip" and payload:
        at %= min(len(payload), 12)
        payload = payload[:at] + bytes((payload[at] ^ 1 << step.value % 8,)) + payload[at + 1 :]
    elif step.what == "insert":
        payload = payload[:at] + bytes((step.value,)) + payload[at:]
    elif step.what == "splice" and twins.under_way:
        payload = payload[:at] + twins.under_way[0][1][at:]
    if not twins.is_over:
        twins.deliver(number, payload)


def run(steps: Iterable[Send | Network], twins: Twins) -> None:
    """A whole workload, until the peer goes too far."""
    for step in steps:
        twins.now_us += 500
        if isinstance(step, Send):
            for end in [twins.quick, twins.careful] if step.back else [twins.sender]:
                end.queue(step.lane, step.reliable, CONTENT[: step.size], twins.now_us)
        else:
            changed(twins, step)
        if twins.is_over:
            return
        twins.answer()
        twins.collect()


def drawn_steps(rng: Random) -> Iterator[Send | Network]:
    """A long workload in phases: few lanes at a time, runs of one kind of message, hostility now and then."""
    for _ in range(12):
        lanes, back = rng.choices(range(8), k=rng.choice((1, 1, 2))), rng.random() < 0.3
        reliable, size_max = rng.random(), rng.choice((0, 8, 30, 1_300, 5_000))
        size_min = size_max if rng.random() < 0.4 else 0
        hostile = WHAT[3:] if rng.random() < 0.7 else WHAT[:2]
        for _ in range(rng.choice((rng.randrange(25), rng.randrange(25), 90))):
            if rng.random() < 0.5:
                yield Send(
                    rng.choice(lanes), rng.random() < reliable, rng.randint(size_min, size_max), back and rng.random() < 0.5
                )
            else:
                what = rng.choice(hostile) if rng.random() < 0.3 else "pass"
                yield Network(what, rng.randrange(1 << 16), rng.randrange(256))


@settings(max_examples=5_000 if SOAK else 20)
@given(seed=st.integers(0, (1 << 32) - 1))
@example(seed=764121)  # A reading finds broken framing among the bytes that had waited for room.
def test_both_ways_agree_under_long_workloads(seed: int) -> None:
    rng = Random(seed)
    config = Config(
        recv_segments_per_packet_max=rng.choice((1_300, 1_300, 3)), recv_buffer_messages=rng.choice((1_000, 1_000, 3))
    )
    run(drawn_steps(rng), Twins(config, own_peer=rng.random() < 0.5))


@settings(max_examples=2_000 if SOAK else 40)
@given(
    steps=st.lists(st.one_of(SENDS, NETWORK), min_size=4, max_size=30),
    own_peer=st.booleans(),
    segments_max=st.sampled_from([1300, 2, 1]),
    messages_max=st.sampled_from([1_000, 3]),
)
def test_both_ways_through_the_receiver_agree_after_every_packet(
    steps: list[Send | Network], own_peer: bool, segments_max: int, messages_max: int
) -> None:
    config = Config(recv_segments_per_packet_max=segments_max, recv_buffer_messages=messages_max)
    run(steps, Twins(config, own_peer=own_peer))


def crafted(rng: Random, flow: Flow, number: int) -> bytes:
    """A payload of simple shape, or with one thing about it that is not."""
    parts = []
    if rng.random() < 0.5:
        value = rng.randint(flow.acks.stop_waiting, number - 1) if rng.random() < 0.97 else rng.randrange(-1, number)
        offset = number - value - 1
        parts.append(rng.choice((b"\x80" + bytes((offset,)), b"\x81" + offset.to_bytes(2, "little"))))
    if rng.random() < 0.5:
        latest = max(flow.in_flight.next_number - rng.choice((1, 1, 1, 1, 2, 3, 0)), 0)
        delay = rng.choice((0xFFFF, 0, 5, 0x0600))
        parts.append(
            bytes((0x98 if rng.random() < 0.95 else 0x99,))
            + (latest & 0xFFFF).to_bytes(2, "little")
            + delay.to_bytes(2, "little")
        )
    lane = rng.choice((0, 0, 1, 2))
    known = flow.receive_lanes.get(lane)
    if lane or rng.random() < 0.1:
        parts.append(bytes((rng.choice((0x87 + lane, 0x87 + lane, 0x88)),)))
    if rng.random() < 0.4:
        position = (known.reliable.end_position if known else 1) + rng.choice((0, 0, 0, 1, -1, 700))
        stream = b"".join(bytes((size,)) + bytes(size) for size in rng.choices(range(8), k=rng.randrange(5)))
        lead = 0x57 if rng.random() < 0.9 else rng.choice((0x50, 0x47))
        parts.append(bytes((lead,)) + max(position, 0).to_bytes(6, "little") + stream)
    else:
        first = (known.message_number if known else 0) + rng.choice((1, 1, 1, 0, 5))
        for at in range(rng.randrange(6)):
            size = rng.choice((0, 1, 3, 20, 300, 1_200))
            odd = rng.random() < 0.05
            lead = (
                rng.choice((0x00, 0x30, 0x28)) if at and odd else rng.choice((0x20, 0x10, 0x38)) if odd else 0x20 if at else 0x30
            )
            lead |= size >> 8
            number_field = b"" if at else first.to_bytes(4, "little")
            parts.append(bytes((lead,)) + number_field + bytes((size & 255,)) + bytes(size))
    payload = b"".join(parts)
    return payload if rng.random() < 0.97 else payload[: rng.randrange(len(payload) + 1)]


@settings(max_examples=20_000 if SOAK else 60)
@given(seed=st.integers(0, (1 << 32) - 1))
def test_both_ways_agree_on_payloads_of_nearly_simple_shape(seed: int) -> None:
    rng = Random(seed)
    twins = Twins(Config(recv_segments_per_packet_max=rng.choice((1_300, 1_300, 3))), own_peer=rng.random() < 0.5)
    number = 1
    for _ in range(20):
        number += rng.choice((1, 1, 1, 2))
        twins.now_us += rng.choice((100, 100, 20_000, 2_200_000))
        twins.deliver(number, crafted(rng, twins.careful.flow, number))
        if twins.is_over:
            return
        twins.answer()


def whole_unreliable(*messages: bytes) -> bytes:
    """A payload of the simplest shape: whole messages in lane 0, numbered from 1."""
    parts = []
    for at, message in enumerate(messages):
        lead = (0x20 if at else 0x30) | len(message) >> 8
        parts.append(bytes((lead,)) + (b"" if at else b"\x01\0\0\0") + bytes((len(message) & 255,)) + message)
    return b"".join(parts)


def outcome_of(straight: bool, payload: bytes, config: Config, unread_bytes: int = 0) -> tuple[int, list[int], int]:
    """(outcome, sizes delivered, messages dropped) of one payload, with some bytes unread before."""
    end = End(config, own_peer=False, straight=straight)
    end.flow.room.unread_messages, end.flow.room.unread_bytes = int(unread_bytes > 0), unread_bytes
    outcome = end.take(2, payload, 2_000_000)
    return outcome, [len(message[3]) for message in delivered_messages(end.flow.delivered)], end.flow.unreliable_dropped


def test_both_ways_refuse_an_unreliable_message_above_the_limit() -> None:
    config = Config(recv_message_bytes_max=64)
    payload = whole_unreliable(bytes(100))
    assert outcome_of(False, payload, config)[0] == VIOLATED
    assert outcome_of(True, payload, config) == outcome_of(False, payload, config)


def test_both_ways_fill_the_receive_buffer_to_the_same_byte() -> None:
    config = Config(recv_buffer_bytes=4_096)
    payload = whole_unreliable(*[b"x"] * 100)
    assert len(outcome_of(False, payload, config)[1]) == 4_096 // 256
    assert outcome_of(True, payload, config) == outcome_of(False, payload, config)


def test_both_ways_let_a_small_message_in_after_one_that_found_no_room() -> None:
    config = Config(recv_buffer_bytes=4_096)
    payload = whole_unreliable(bytes(1_000), b"small")
    assert outcome_of(False, payload, config, 3_500)[1] == [5]
    assert outcome_of(True, payload, config, 3_500) == outcome_of(False, payload, config, 3_500)


def test_the_workload_takes_both_ways_and_reaches_every_outcome() -> None:
    """The property above would prove nothing if its packets never had a simple shape, or always."""
    config = Config()
    assert outcome_of(True, whole_unreliable(b"a", b"b"), config) == outcome_of(False, whole_unreliable(b"a", b"b"), config)
    twins = Twins(config, own_peer=False)
    for size in (10, 3_000):
        for reliable in (True, False):
            twins.sender.queue(0, reliable, CONTENT[:size], twins.now_us)
            twins.collect()
    simple = 0
    for number, payload in twins.under_way:
        probe = End(config, own_peer=False, straight=True)
        simple += probe.receiver._read_straight(payload, number, twins.now_us) is not None
    assert 0 < simple < len(twins.under_way)
