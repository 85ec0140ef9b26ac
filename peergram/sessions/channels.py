"""Channels: which are open in a session, and on which lane each travels.

A channel is open once it was used in either direction. The first eight channels get a lane each, so that a large message on one
does not delay the others; later ones share by number, and a channel keeps its lane for good. Only lane numbers below eight are
safe toward a reference peer (G1).
"""

from __future__ import annotations

from peergram.config import CHANNELS_PER_SESSION_MAX, LANES_SEND_MAX


class Channels:
    """The channels of one session. Memory is bounded: beyond 4096 channels, further ones are used but not remembered (M2)."""

    __slots__ = ("_lanes", "_open")

    def __init__(self) -> None:
        self._open: set[int] = set()
        self._lanes: dict[int, int] = {}

    def note_used(self, channel: int) -> None:
        """A message travelled on it."""
        if channel not in self._open and len(self._open) < CHANNELS_PER_SESSION_MAX:
            self._open.add(channel)

    def lane_of(self, channel: int) -> int:
        """The lane this channel's messages go on."""
        lane = self._lanes.get(channel)
        if lane is None:
            if len(self._lanes) >= LANES_SEND_MAX:
                return channel % LANES_SEND_MAX
            lane = self._lanes[channel] = len(self._lanes)
        return lane

    def close(self, channel: int) -> bool:
        """Forget it; whether it was open."""
        if channel not in self._open:
            return False
        self._open.discard(channel)
        return True

    @property
    def any_open(self) -> bool:
        """Whether a channel is still open."""
        return bool(self._open)
