"""A token bucket that paces: packets leave evenly at a rate instead of in bursts that would fill a queue."""

from __future__ import annotations

from typing import Final

from peergram.config import DATAGRAM_BYTES_MAX

_BURST_US: Final = 2_000
_BURST_MAX_US: Final = 10_000
"""Two packets may go at once even if they are more than the usual burst, as long as the rate carries them in this time."""


class TokenBucket:
    """Paces: a packet may go while the bucket is not in debt, and may put it into debt once."""

    __slots__ = ("_filled_at_us", "datagram_bytes", "tokens")

    def __init__(self, now_us: int) -> None:
        self.tokens = 2.0 * DATAGRAM_BYTES_MAX
        self.datagram_bytes = DATAGRAM_BYTES_MAX
        """Length of a full packet, as the path now carries it."""
        self._filled_at_us = now_us

    def fill(self, rate_bytes_per_s: int, now_us: int) -> None:
        """Add what the rate allows since last time, up to 2 ms worth or two packets."""
        elapsed_us = now_us - self._filled_at_us
        if elapsed_us > 0:
            self._filled_at_us = now_us
            burst = max(2 * DATAGRAM_BYTES_MAX, rate_bytes_per_s * _BURST_US // 1_000_000)
            if burst < 2 * self.datagram_bytes:
                burst = max(burst, min(2 * self.datagram_bytes, rate_bytes_per_s * _BURST_MAX_US // 1_000_000))
            self.tokens = min(self.tokens + rate_bytes_per_s * elapsed_us / 1_000_000, burst)

    def ready_at_us(self, rate_bytes_per_s: int, now_us: int) -> int:
        """When the next packet may go."""
        if self.tokens >= 0:
            return now_us
        return now_us + int(-self.tokens * 1_000_000 / rate_bytes_per_s) + 1
