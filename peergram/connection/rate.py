"""How fast to send: what a rate controller is, and the reference's.

`FixedRate` is the reference's rule: a rate from the configuration, whatever happens. The default is `auto_rate.AutoRate`.
"""

from __future__ import annotations

from typing import Final, Protocol

from peergram.config import DATAGRAM_BYTES_MAX
from peergram.connection.rtt import RoundTrip

_UNLIMITED: Final = 1 << 40


class SentRecord(Protocol):
    """What a controller asks about a packet that was sent."""

    @property
    def sent_at_us(self) -> int:
        """When it was sent."""

    @property
    def delivered_bytes(self) -> int:
        """Bytes confirmed at that time."""

    @property
    def delivered_at_us(self) -> int:
        """When the last of them were confirmed, or that time if nothing was in flight."""


class RateController(Protocol):
    """Decides rate and window from what acks report."""

    rate_bytes_per_s: int
    """Pacing rate."""
    window_bytes: int
    """Bytes that may be in flight."""
    datagram_bytes: int
    """Length of a full packet, as the path now carries it."""

    def handle_acked(
        self, acked_bytes: int, lost_bytes: int, newest: SentRecord | None, round_trip: RoundTrip, now_us: int
    ) -> None:
        """An ack frame settled packets."""

    def handle_idle(self, in_flight_bytes: int) -> None:
        """Nothing was left to send: samples from now on tell about the application, not the path."""

    def handle_timeout(self) -> None:
        """Nothing was heard for a whole time-out."""

    @property
    def delivered(self) -> tuple[int, int]:
        """(bytes confirmed so far, when last), for the records of packets being sent."""


class FixedRate:
    """The reference's rule: the configured rate, no window."""

    __slots__ = ("datagram_bytes", "delivered", "rate_bytes_per_s", "window_bytes")

    def __init__(self, rate_bytes_per_s: int) -> None:
        self.rate_bytes_per_s = rate_bytes_per_s
        self.window_bytes = _UNLIMITED
        self.datagram_bytes = DATAGRAM_BYTES_MAX
        self.delivered = (0, 0)

    def handle_acked(
        self, acked_bytes: int, lost_bytes: int, newest: SentRecord | None, round_trip: RoundTrip, now_us: int
    ) -> None:
        """Steers nothing."""

    def handle_idle(self, in_flight_bytes: int) -> None:
        """Steers nothing."""

    def handle_timeout(self) -> None:
        """Steers nothing."""
