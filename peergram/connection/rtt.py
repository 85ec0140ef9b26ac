"""Round trip: RFC 6298 in microseconds for our timers, and the reference's smoothed ping for what the API reports.

Protocol part 2, section 13.1; improvement G6: variance, backoff and microseconds instead of `3 * ping_ms + 60 ms`.
"""

from __future__ import annotations

from typing import Final

from peergram.config import PING_MS_MAX, RTO_INITIAL_US, RTO_MAX_US, RTO_MIN_US

_PING_SPACING_US: Final = 100_000


class RoundTrip:
    """Estimates of one connection."""

    __slots__ = ("_ping_added_at_us", "_recent_ping_ms", "latest_us", "min_us", "ping_samples", "smoothed_us", "variation_us")

    def __init__(self) -> None:
        self.smoothed_us = 0
        """0 while unknown."""
        self.variation_us = 0
        self.latest_us = 0
        self.min_us = 0
        self.ping_samples = 0
        self._recent_ping_ms: list[int] = []
        self._ping_added_at_us = 0

    @property
    def is_known(self) -> bool:
        """Whether there was a sample."""
        return self.ping_samples > 0

    def add_sample(self, sample_us: int, now_us: int) -> int | None:
        """Take one measured round trip, the peer's delay subtracted; the ping in ms if it was a plausible one."""
        if sample_us < -1_000 or sample_us > PING_MS_MAX * 1_000:
            return None
        sample_us = max(sample_us, 0)
        self.latest_us = sample_us
        if not self.ping_samples:
            self.smoothed_us = self.min_us = sample_us
            self.variation_us = sample_us // 2
        else:
            self.min_us = min(self.min_us, sample_us)
            self.variation_us += (abs(self.smoothed_us - sample_us) - self.variation_us) >> 2
            self.smoothed_us += (sample_us - self.smoothed_us) >> 3
        self.ping_samples += 1
        self._add_ping(sample_us // 1_000, now_us)
        return sample_us // 1_000

    def _add_ping(self, ping_ms: int, now_us: int) -> None:
        recent = self._recent_ping_ms
        if len(recent) == 3 and now_us - self._ping_added_at_us < _PING_SPACING_US:
            recent[-1] = min(recent[-1], ping_ms)
        else:
            recent.append(ping_ms)
            del recent[:-3]
        self._ping_added_at_us = now_us

    @property
    def ping_ms(self) -> int | None:
        """Smoothed as the reference does: the mean of the two smallest of the last three; None while unknown."""
        recent = sorted(self._recent_ping_ms)
        if not recent:
            return None
        return recent[0] if len(recent) < 3 else (recent[0] + recent[1]) // 2

    @property
    def worst_recent_ping_ms(self) -> int | None:
        """The largest of the last three samples; None while unknown."""
        return max(self._recent_ping_ms, default=None)

    def timeout_us(self, peer_ack_delay_us: int) -> int:
        """When to worry about a packet that nobody reported on (RFC 6298 with the peer's ack delay, RFC 9002 section 6.2.1)."""
        if not self.ping_samples:
            return RTO_INITIAL_US
        timeout_us = self.smoothed_us + max(4 * self.variation_us, 1_000)
        return min(max(timeout_us, RTO_MIN_US) + peer_ack_delay_us, RTO_MAX_US)
