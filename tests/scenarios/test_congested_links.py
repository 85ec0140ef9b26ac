"""Congestion control with whole endpoints, encryption and all, over one simulated bottleneck that several pairs share."""

from __future__ import annotations

import pytest

from peergram.config import Config
from peergram.errors import Result
from peergram.sim.bottleneck import Bottleneck, jain
from tests.endpoint.world import SECOND_US, Host, World

RATE = 2_500_000
WAY_US = 25_000
MESSAGE_BYTES = 100_000
ETHERNET_BYTES = 1_472
"""What the path carries of a UDP payload."""


class SharedLink:
    """The way from any sender to any receiver leads through one bottleneck; the way back is free."""

    def __init__(self, buffer_bytes: int, loss: float = 0.0) -> None:
        self.link = Bottleneck(rate_bytes_per_s=RATE, buffer_bytes=buffer_bytes, loss=loss)
        self.world = World(self.carry)
        self.pairs: list[tuple[Host, Host]] = []

    def carry(self, sender: Host, receiver: Host, packet: bytes) -> list[int]:
        if len(packet) > ETHERNET_BYTES:
            return []
        if not any(sender is pair[0] for pair in self.pairs):
            return [WAY_US]
        self.link.run(self.world.now_us)
        delay_us = self.link.enter(len(packet))
        return [] if delay_us is None else [delay_us + WAY_US]

    def add_pair(self) -> None:
        number = len(self.pairs)
        config = Config(recv_buffer_bytes=1 << 24)
        self.pairs.append((self.world.add(f"sender{number}", config), self.world.add(f"receiver{number}", config)))

    def run(self, seconds: int) -> list[int]:
        """Keep every sender's buffer full for so long; bytes of messages that each receiver read meanwhile."""
        before = [self.read(receiver) for _, receiver in self.pairs]
        for _ in range(seconds * 20):
            for sender, receiver in self.pairs:
                while sender.send(receiver, bytes(MESSAGE_BYTES)) == Result.OK:
                    pass
            self.world.run(SECOND_US // 20)
        return [self.read(receiver) - was for (_, receiver), was in zip(self.pairs, before, strict=True)]

    @staticmethod
    def read(receiver: Host) -> int:
        return sum(len(message.payload) for message in receiver.received)

    def queue_ms(self, seconds: int) -> float:
        """The queueing delay that 95 % of the last samples did not exceed."""
        values = sorted(self.link.queue_delays_us[-100 * seconds :])
        return values[int(0.95 * (len(values) - 1))] / 1_000


@pytest.mark.parametrize(("loss", "buffer_bytes"), [(0.01, 125_000), (0.0, 1_250_000)])
def test_a_session_fills_its_link_and_not_its_queue(loss: float, buffer_bytes: int) -> None:
    shared = SharedLink(buffer_bytes, loss)
    shared.add_pair()
    shared.run(2)
    taken = shared.run(5)
    assert taken[0] >= 0.9 * RATE * 5
    assert shared.queue_ms(5) < 50


def test_four_sessions_share_their_link() -> None:
    shared = SharedLink(500_000)
    for _ in range(4):
        shared.add_pair()
        shared.run(1)
    shared.run(2)
    taken = shared.run(8)
    assert jain([float(each) for each in taken]) >= 0.95
    assert sum(taken) >= 0.9 * RATE * 8
    assert shared.queue_ms(8) < 50
