"""Channels do not hold each other up: a large transfer on one adds next to nothing to the delay of messages on another.

Two endpoints, encryption and all, over a simulated link of 20 Mbit/s. What counts is the delay beyond the link's own: packets of
one direction share one queue, and that part is congestion control's. PEERGRAM_SOAK=1 transfers 50 MB.
"""

from __future__ import annotations

import os

import pytest

from peergram.errors import Result
from peergram.sim.bottleneck import Bottleneck
from tests.endpoint.world import NO_NAGLE, RELIABLE, Host, World

SOAK = bool(os.environ.get("PEERGRAM_SOAK"))
RATE = 2_500_000
WAY_US = 25_000
BULK_BYTES = 50_000_000 if SOAK else 7_000_000
CHUNK_BYTES = 32_768
BULK_CHANNEL, QUICK_CHANNEL = 9, 0
EVERY_US = 16_667
"""A frame of 60 a second."""
OWN_DELAY_US_MAX = 10_000


class Link:
    """20 Mbit/s one way, with a queue of its own; what waits in it when is written down."""

    def __init__(self, buffer_bytes: int, loss: float) -> None:
        self.link = Bottleneck(rate_bytes_per_s=RATE, buffer_bytes=buffer_bytes, loss=loss)
        self.world = World(self.carry)
        self.sender, self.receiver = self.world.add("sender"), self.world.add("receiver")
        self.delays_us: list[int] = []
        """Of each packet in the queue, oldest first."""

    def carry(self, sender: Host, receiver: Host, packet: bytes) -> list[int]:
        if len(packet) > 1_472:
            return []
        if sender is not self.sender:
            return [WAY_US]
        self.link.run(self.world.now_us)
        delay_us = self.link.enter(len(packet))
        if delay_us is None:
            return []
        self.delays_us.append(delay_us)
        return [delay_us + WAY_US]


def p99_us(values: list[int]) -> int:
    """What 99 % of them do not exceed."""
    return sorted(values)[int(0.99 * (len(values) - 1))]


def measure(buffer_bytes: int, loss: float, flags: int, quick_channel: int = QUICK_CHANNEL) -> tuple[int, int]:
    """p99 of the quick messages' delay beyond the way itself, and of the link's queue."""
    link = Link(buffer_bytes, loss)
    world, sender, receiver = link.world, link.sender, link.receiver
    sent_at_us: dict[bytes, int] = {}
    delays: list[int] = []
    bulk_bytes = taken = number = next_us = 0
    # Until the sender has found the rate of the link.
    warm_bytes = BULK_BYTES // 4
    while bulk_bytes < BULK_BYTES:
        while sender.endpoint.has_room(receiver.dialed):
            assert sender.send(receiver, bytes(CHUNK_BYTES), RELIABLE, BULK_CHANNEL) is Result.OK
        is_warm = bulk_bytes >= warm_bytes
        if not is_warm:
            link.delays_us.clear()
        elif world.now_us >= next_us:
            next_us = world.now_us + EVERY_US
            number += 1
            data = number.to_bytes(8) * 4
            assert sender.send(receiver, data, flags, quick_channel) is Result.OK
            sent_at_us[data] = world.now_us
        world.run(1_000)
        for message in receiver.received[taken:]:
            if message.payload in sent_at_us:
                delays.append(message.received_at_us - sent_at_us.pop(message.payload) - WAY_US)
            else:
                bulk_bytes += len(message.payload)
        taken = len(receiver.received)
    assert len(delays) >= 100
    return p99_us(delays), p99_us(link.delays_us)


@pytest.mark.parametrize("flags", [RELIABLE | NO_NAGLE, NO_NAGLE], ids=["reliable", "unreliable"])
@pytest.mark.parametrize("buffer_bytes", [125_000, 1_250_000], ids=["50 ms of queue", "500 ms of queue"])
def test_a_large_transfer_adds_next_to_nothing_to_another_channels_delay(buffer_bytes: int, flags: int) -> None:
    delay_us, queue_us = measure(buffer_bytes, 0.0, flags)
    print(f"p99 {delay_us / 1_000:.1f} ms beyond the way, of which the link's queue {queue_us / 1_000:.1f} ms")
    assert delay_us - queue_us < OWN_DELAY_US_MAX


def test_a_quick_unreliable_message_does_not_wait_for_what_the_transfer_lost() -> None:
    delay_us, queue_us = measure(125_000, 0.01, NO_NAGLE)
    assert delay_us - queue_us < OWN_DELAY_US_MAX


def test_the_same_message_on_the_channel_of_the_transfer_waits_behind_it() -> None:
    delay_us, queue_us = measure(125_000, 0.0, RELIABLE | NO_NAGLE, BULK_CHANNEL)
    assert delay_us - queue_us > 5 * OWN_DELAY_US_MAX
