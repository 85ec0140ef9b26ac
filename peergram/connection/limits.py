"""How much one peer may make a connection keep and remember.

`OWN` is what we use; `REFERENCE` repeats the reference's smaller figures, so that its recorded decisions can be replayed step
by step.
"""

from __future__ import annotations

from dataclasses import dataclass

from peergram.config import (
    MESSAGE_BYTES_MAX,
    RELIABLE_GAPS_MAX,
    REPLAY_REACH_PACKETS,
    STREAM_MESSAGE_BYTES_MAX,
    UNRELIABLE_STORE_AGE_US,
    UNRELIABLE_STORE_BYTES_MAX,
    UNRELIABLE_STORE_SEGMENTS_MAX,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiveLimits:
    """Bounds of one connection's receiving side."""

    gaps_append_max: int = RELIABLE_GAPS_MAX
    """Holes in a reliable stream above which data beyond the end is refused (each costs one island of at least a byte)."""
    gaps_split_max: int = RELIABLE_GAPS_MAX
    """Holes above which a segment may not split one more."""
    unreliable_segments_max: int = UNRELIABLE_STORE_SEGMENTS_MAX
    unreliable_bytes_max: int = UNRELIABLE_STORE_BYTES_MAX
    unreliable_age_us: int = UNRELIABLE_STORE_AGE_US
    unreliable_evicts_lowest: bool = False
    """Which unfinished message gives way when there are too many: the one with the lowest number, or the one begun first."""
    number_step_max: int = 1 << 61
    """Largest step between reliable message numbers of a lane; the reference ends the connection above a million (G26)."""
    number_lead_max: int = 1 << 61
    """How far a reliable message number may lie above all seen on its lane; the reference: ten thousand (P7, G26)."""
    message_slack_bytes: int = STREAM_MESSAGE_BYTES_MAX - MESSAGE_BYTES_MAX
    """How much larger than the limit a message in the stream may be: room for the header of the messages layer (G18)."""
    replay_reach_packets: int = REPLAY_REACH_PACKETS
    replay_jump_forgets: int = 0
    """A forward jump this large makes every lower number count as received; 0: never."""


OWN = ReceiveLimits()
REFERENCE = ReceiveLimits(
    gaps_append_max=30,
    gaps_split_max=20,
    unreliable_segments_max=21,
    unreliable_age_us=1 << 60,
    unreliable_evicts_lowest=True,
    message_slack_bytes=0,
    number_step_max=1_000_000,
    number_lead_max=10_000,
    replay_reach_packets=64,
    replay_jump_forgets=100,
)
