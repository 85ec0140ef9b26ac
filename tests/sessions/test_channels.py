"""Channels against simple models: what is open, and which lane a channel keeps."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from peergram.config import CHANNELS_PER_SESSION_MAX, LANES_SEND_MAX
from peergram.sessions.channels import Channels

NUMBERS = st.integers(-(1 << 31), (1 << 31) - 1)


@given(st.lists(st.tuples(st.booleans(), st.integers(-3, 3))))
def test_a_channel_is_open_from_its_first_use_until_it_is_closed(steps: list[tuple[bool, int]]) -> None:
    channels, model = Channels(), set[int]()
    for uses, channel in steps:
        if uses:
            channels.note_used(channel)
            model.add(channel)
        else:
            assert channels.close(channel) == (channel in model)
            model.discard(channel)
        assert channels.any_open == bool(model)


@given(st.lists(NUMBERS))
def test_a_channel_keeps_its_lane_and_the_first_eight_share_none(used: list[int]) -> None:
    channels = Channels()
    lanes: dict[int, int] = {}
    for channel in used:
        lane = channels.lane_of(channel)
        assert 0 <= lane < LANES_SEND_MAX
        assert lanes.setdefault(channel, lane) == lane
    first = list(lanes.values())[:LANES_SEND_MAX]
    assert first == list(range(len(first)))


def test_a_closed_channel_keeps_its_lane() -> None:
    channels = Channels()
    lanes = [channels.lane_of(channel) for channel in range(20)]
    for channel in range(20):
        channels.note_used(channel)
        channels.close(channel)
    assert [channels.lane_of(channel) for channel in range(20)] == lanes


def test_no_more_than_4096_channels_are_remembered() -> None:
    """M2."""
    channels = Channels()
    for channel in range(CHANNELS_PER_SESSION_MAX + 100):
        channels.note_used(channel)
        channels.lane_of(channel)
    assert channels.close(CHANNELS_PER_SESSION_MAX - 1)
    assert not channels.close(CHANNELS_PER_SESSION_MAX)
    assert len(channels._open) < CHANNELS_PER_SESSION_MAX
    assert len(channels._lanes) == LANES_SEND_MAX
