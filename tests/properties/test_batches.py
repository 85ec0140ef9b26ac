"""A batch of packets is its packets one after another, only quicker: same messages, same answers, same state.

Two receivers get the same batches; one takes plain packets that follow each other together, the other each by itself and by the
careful way. What they would send back is compared too.
"""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from peergram.config import Config
from peergram.connection.flow import Flow
from peergram.connection.receive import ConnectionViolated
from peergram.wire.data_packet import decode_data_header
from tests.connection.flows import delivered_messages
from tests.properties.test_straight_path import End, crafted
from tests.threats.world import SOAK, UNSTEADY, digest


def state_of(flow: Flow) -> tuple[str, list[bytes]]:
    """Everything a flow holds; stream bytes that wait for more count as they follow each other, not as they came."""
    streams = [lane.reliable for lane in flow.receive_lanes.values()]
    waiting = [b"".join(stream._pieces)[stream._front_at :] for stream in streams]
    return digest(flow, without=UNSTEADY | {"_pieces", "_front_at"}), waiting


class Pair:
    """One that takes batches together, and one that does not."""

    def __init__(self, config: Config, *, own_peer: bool) -> None:
        self.now_us = 2_000_000
        self.quick = End(config, own_peer=own_peer, straight=True)
        self.careful = End(config, own_peer=own_peer, straight=False)
        self.is_over = False
        self.taken = 0

    def deliver(self, payloads: list[bytes]) -> None:
        """Hand consecutive packets to both and compare."""
        first = self.quick.flow.replay.highest + 1
        outcomes = [self._take(end, payloads, first) for end in (self.quick, self.careful)]
        assert outcomes[0] == outcomes[1]
        quick, careful = self.quick.flow.delivered, self.careful.flow.delivered
        assert delivered_messages(quick) == delivered_messages(careful)
        assert sum(batch[4] for batch in quick) == sum(batch[4] for batch in careful)
        self.is_over = outcomes[0]
        self.taken += len(delivered_messages(quick))
        quick.clear()
        careful.clear()
        if not self.is_over:
            assert state_of(self.quick.flow) == state_of(self.careful.flow)

    def _take(self, end: End, payloads: list[bytes], first: int) -> bool:
        try:
            end.receiver.handle_payloads(payloads, first, self.now_us)
        except ConnectionViolated:
            return True
        return False

    def read(self) -> None:
        """Both applications take everything, and may find the same framing broken."""
        broken = self.quick.read()
        assert broken == self.careful.read()
        self.is_over = self.is_over or broken is not None

    def answers(self) -> list[bytes]:
        """What both say."""
        quick = self.quick.poll(self.now_us)
        assert quick == self.careful.poll(self.now_us)
        return quick


@settings(max_examples=5_000 if SOAK else 60)
@given(seed=st.integers(0, (1 << 32) - 1))
def test_a_burst_is_its_packets_one_by_one(seed: int) -> None:
    """What a real sender makes, in bursts of any length, with rooms of any size on the other side."""
    rng = Random(seed)
    own_peer = rng.random() < 0.5
    config = Config(recv_buffer_messages=rng.choice((1_000, 7)), recv_buffer_bytes=rng.choice((1_048_576, 9_000)))
    pair = Pair(config, own_peer=own_peer)
    sender = End(Config(), own_peer=own_peer, straight=True)
    lanes = rng.choice(([0], [0], [3], [0, 1, 2]))
    for _ in range(12):
        pair.now_us += rng.choice((200, 200, 12_000))
        reliable = rng.random() < 0.5
        for _ in range(rng.choice((1, 3, 40))):
            sender.queue(rng.choice(lanes), reliable, rng.randbytes(rng.choice((0, 20, 100, 1_200, 6_000))), pair.now_us)
        packets = sender.poll(pair.now_us)
        if rng.random() < 0.15:
            sender.flow.in_flight.give_up_oldest() if len(sender.flow.in_flight) else None
        pair.deliver([packet[decode_data_header(packet).payload_at :] for packet in packets])
        if rng.random() < 0.7:
            pair.read()
        if pair.is_over:
            break
        for packet in pair.answers():
            sender.receiver.handle_packet(packet, pair.now_us)


@settings(max_examples=10_000 if SOAK else 60)
@given(seed=st.integers(0, (1 << 32) - 1))
def test_a_batch_of_anything_is_its_packets_one_by_one(seed: int) -> None:
    """Payloads that are nearly plain, or have one thing about them that is not."""
    rng = Random(seed)
    pair = Pair(Config(recv_segments_per_packet_max=rng.choice((1_300, 3))), own_peer=rng.random() < 0.5)
    for _ in range(6):
        pair.now_us += rng.choice((100, 20_000, 2_200_000))
        payloads = []
        for at in range(rng.randrange(6)):
            payloads.append(crafted(rng, pair.careful.flow, pair.careful.flow.replay.highest + 1 + at))
        pair.deliver(payloads)
        if pair.is_over:
            return
        pair.read()
        pair.answers()
