"""How fast to send: a token bucket that paces, and a controller that sets its rate and the window of bytes in flight.

`FixedRate` is the reference's rule: a rate from the configuration, whatever happens. `AutoRate` finds the rate: the delivery
rate and the smallest round trip are measured, and the window is kept near their product, so that neither a random loss nor a
deep queue steers (the model of BBR, draft-cardwell-iccrg-bbr-congestion-control, reduced to start-up and bandwidth probing).
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from peergram.config import DATAGRAM_BYTES_MAX
from peergram.connection.in_flight import SentPacket
from peergram.connection.rtt import RoundTrip
from peergram.timing import NEVER

_UNLIMITED = 1 << 40
_BURST_US = 2_000
_START_WINDOW = 32 * DATAGRAM_BYTES_MAX
_WINDOW_MIN = 8 * DATAGRAM_BYTES_MAX
_WINDOW_MAX = 8_000 * DATAGRAM_BYTES_MAX
_RATE_MIN = 16 * 1024
_STARTUP_GAIN = 2.885
_PROBE_CYCLE = ((1.25, 2.0), (0.75, 1.0), (1.0, 1.5), (1.0, 1.5), (1.0, 1.5), (1.0, 1.5), (1.0, 1.5), (1.0, 1.5))
"""(pacing, window) gains by round trip: ask for more, let the queue this made drain, then cruise."""
_DRAIN_GAINS = (0.5, 1.0)
_FULL_ROUNDS = 3
_RATE_ROUNDS = 10
_MIN_RTT_AGE_US = 10_000_000
_HEAVY_LOSS_SHARE = 0.25
"""Random loss up to here is no sign of a queue; above it the window yields."""


class TokenBucket:
    """Paces: a packet may go while the bucket is not in debt, and may put it into debt once."""

    __slots__ = ("_filled_at_us", "tokens")

    def __init__(self, now_us: int) -> None:
        self.tokens = 2.0 * DATAGRAM_BYTES_MAX
        self._filled_at_us = now_us

    def fill(self, rate_bytes_per_s: int, now_us: int) -> None:
        """Add what the rate allows since last time, up to 2 ms worth or two packets."""
        elapsed_us = now_us - self._filled_at_us
        if elapsed_us > 0:
            self._filled_at_us = now_us
            burst = max(2 * DATAGRAM_BYTES_MAX, rate_bytes_per_s * _BURST_US // 1_000_000)
            self.tokens = min(self.tokens + rate_bytes_per_s * elapsed_us / 1_000_000, burst)

    def ready_at_us(self, rate_bytes_per_s: int, now_us: int) -> int:
        """When the next packet may go."""
        if self.tokens >= 0:
            return now_us
        return now_us + int(-self.tokens * 1_000_000 / rate_bytes_per_s) + 1


class RateController(Protocol):
    """Decides rate and window from what acks report."""

    rate_bytes_per_s: int
    """Pacing rate."""
    window_bytes: int
    """Bytes that may be in flight."""

    def handle_acked(
        self, acked_bytes: int, lost_bytes: int, newest: SentPacket | None, round_trip: RoundTrip, now_us: int
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

    __slots__ = ("delivered", "rate_bytes_per_s", "window_bytes")

    def __init__(self, rate_bytes_per_s: int) -> None:
        self.rate_bytes_per_s = rate_bytes_per_s
        self.window_bytes = _UNLIMITED
        self.delivered = (0, 0)

    def handle_acked(
        self, acked_bytes: int, lost_bytes: int, newest: SentPacket | None, round_trip: RoundTrip, now_us: int
    ) -> None:
        """Steers nothing."""

    def handle_idle(self, in_flight_bytes: int) -> None:
        """Steers nothing."""

    def handle_timeout(self) -> None:
        """Steers nothing."""


class AutoRate:
    """Rate and window from measured delivery rate and smallest round trip."""

    __slots__ = (
        "_app_limited_until",
        "_best_rate",
        "_delivered_at_us",
        "_delivered_bytes",
        "_drain_until_round",
        "_full_rounds",
        "_min_rtt_at_us",
        "_min_rtt_us",
        "_peer_ack_delay_us",
        "_rates",
        "_round",
        "_round_acked",
        "_round_lost",
        "_round_mark",
        "_starting",
        "rate_bytes_per_s",
        "window_bytes",
    )

    def __init__(self, peer_ack_delay_us: int, now_us: int) -> None:
        self._peer_ack_delay_us = peer_ack_delay_us
        self.window_bytes = _START_WINDOW
        self.rate_bytes_per_s = _START_WINDOW * 100
        self._delivered_bytes = 0
        self._delivered_at_us = now_us
        self._app_limited_until = 0
        self._starting = True
        self._drain_until_round = 0
        self._best_rate = 0
        self._full_rounds = 0
        self._rates: deque[tuple[int, int]] = deque()
        self._round = 0
        self._round_mark = 0
        self._round_acked = 0
        self._round_lost = 0
        self._min_rtt_us = NEVER
        self._min_rtt_at_us = now_us

    @property
    def delivered(self) -> tuple[int, int]:
        """(bytes confirmed so far, when last)."""
        return self._delivered_bytes, self._delivered_at_us

    def handle_acked(
        self, acked_bytes: int, lost_bytes: int, newest: SentPacket | None, round_trip: RoundTrip, now_us: int
    ) -> None:
        """Measure, and set rate and window anew."""
        self._delivered_bytes += acked_bytes
        self._round_acked += acked_bytes
        self._round_lost += lost_bytes
        if acked_bytes:
            self._delivered_at_us = now_us
        if newest is None or not round_trip.is_known:
            return
        self._note_round_trip(round_trip, now_us)
        self._note_rate(newest, now_us)
        if newest.delivered_bytes >= self._round_mark:
            self._end_round()
        self._steer(acked_bytes)

    def _note_round_trip(self, round_trip: RoundTrip, now_us: int) -> None:
        if round_trip.latest_us <= self._min_rtt_us or now_us - self._min_rtt_at_us > _MIN_RTT_AGE_US:
            self._min_rtt_us = max(round_trip.latest_us, 100)
            self._min_rtt_at_us = now_us

    def _note_rate(self, newest: SentPacket, now_us: int) -> None:
        elapsed_us = max(now_us - newest.delivered_at_us, self._min_rtt_us, 1)
        rate = (self._delivered_bytes - newest.delivered_bytes) * 1_000_000 // elapsed_us
        if newest.delivered_bytes < self._app_limited_until and rate < self._delivery_rate:
            return
        while self._rates and self._rates[-1][1] <= rate:
            self._rates.pop()
        self._rates.append((self._round, rate))

    @property
    def _delivery_rate(self) -> int:
        return self._rates[0][1] if self._rates else 0

    def _end_round(self) -> None:
        self._round += 1
        self._round_mark = self._delivered_bytes
        while len(self._rates) > 1 and self._rates[0][0] < self._round - _RATE_ROUNDS:
            self._rates.popleft()
        heavy_loss = self._round_lost > _HEAVY_LOSS_SHARE * (self._round_acked + self._round_lost)
        self._round_acked = self._round_lost = 0
        if heavy_loss:
            self._rates = deque((number, rate * 4 // 5) for number, rate in self._rates)
            self._starting = False
        elif self._delivered_bytes > self._app_limited_until:
            self._check_pipe_full()

    def _check_pipe_full(self) -> None:
        if self._delivery_rate > self._best_rate * 5 // 4:
            # Found by probing, a much better rate starts the search anew: a path may have become faster.
            self._best_rate = self._delivery_rate
            self._full_rounds = 0 if self._starting else _FULL_ROUNDS - 1
            self._starting = True
            return
        if not self._starting:
            self._best_rate = min(self._best_rate, self._delivery_rate)
            return
        self._full_rounds += 1
        if self._full_rounds >= _FULL_ROUNDS:
            self._starting = False
            self._drain_until_round = self._round + 2

    def _steer(self, acked_bytes: int) -> None:
        path_us = self._min_rtt_us + self._peer_ack_delay_us
        if self._starting:
            self.window_bytes = min(max(self.window_bytes + acked_bytes, _START_WINDOW), _WINDOW_MAX)
            self.rate_bytes_per_s = max(
                int(self._delivery_rate * _STARTUP_GAIN), self.window_bytes * 1_000_000 // path_us, _RATE_MIN
            )
            return
        drains = self._round <= self._drain_until_round
        rate_gain, window_gain = _DRAIN_GAINS if drains else _PROBE_CYCLE[self._round % len(_PROBE_CYCLE)]
        window_us = self._min_rtt_us * window_gain + self._peer_ack_delay_us
        self.window_bytes = min(max(int(self._delivery_rate * window_us) // 1_000_000, _WINDOW_MIN), _WINDOW_MAX)
        self.rate_bytes_per_s = max(int(self._delivery_rate * rate_gain), _RATE_MIN)

    def handle_idle(self, in_flight_bytes: int) -> None:
        """Mark the bytes in flight as limited by the application."""
        self._app_limited_until = self._delivered_bytes + in_flight_bytes

    def handle_timeout(self) -> None:
        """Nothing heard for a whole time-out: start over carefully."""
        self.window_bytes = max(self.window_bytes // 2, _WINDOW_MIN)
