"""Channel numbers: one peer at a time, and a rest in between."""

from __future__ import annotations

from peergram.config import TURN_CHANNEL_REST_US, TURN_CHANNELS_MAX
from peergram.routes.channel_numbers import ChannelNumbers


def test_only_so_many_numbers_are_in_use() -> None:
    numbers = ChannelNumbers()
    assert [numbers.take(0) for _ in range(TURN_CHANNELS_MAX + 1)] == [*range(0x4000, 0x4000 + TURN_CHANNELS_MAX), None]
    numbers.give_back(0x4005, 0)
    assert numbers.take(0) == 0x4000 + TURN_CHANNELS_MAX


def test_a_number_rests_before_another_peer_gets_it() -> None:
    numbers = ChannelNumbers()
    for number in range(0x4000, 0x5000):
        assert numbers.take(number) == number
        numbers.give_back(number, number)
    assert numbers.take(0x5000) is None
    assert numbers.take(0x4000 + TURN_CHANNEL_REST_US - 1) is None
    assert numbers.take(0x4000 + TURN_CHANNEL_REST_US) == 0x4000
    assert numbers.take(0x4000 + TURN_CHANNEL_REST_US) is None
