"""The designs that were measured and not chosen: Copa (NSDI 2018), and the model of BBR with the bounds of its later versions."""

from __future__ import annotations

from collections import deque
from math import sqrt

from peergram.config import DATAGRAM_BYTES_MAX
from peergram.connection.rate import SentRecord
from peergram.connection.rtt import RoundTrip
from peergram.timing import NEVER

_P = DATAGRAM_BYTES_MAX
_WINDOW_MAX = 8_000 * _P


class Copa:
    """Window toward 1 / (delta * queueing delay), with the competitive mode of the paper; bytes acknowledged late are allowed."""

    def __init__(self, peer_ack_delay_us: int, now_us: int) -> None:
        self._ack_delay_us = peer_ack_delay_us
        self.delivered = (0, now_us)
        self.datagram_bytes = _P
        self._window = 32.0
        self.window_bytes = 32 * _P
        self.rate_bytes_per_s = 3_200 * _P
        self._samples: deque[tuple[int, int]] = deque()
        self._base_us = NEVER
        self._base_at_us = now_us
        self._velocity = 1.0
        self._direction = 0
        self._same_rounds = 0
        self._round_at_us = now_us
        self._round_window = 32.0
        self._starting = True
        self._inverse_delta = 2.0
        self._empty_at_us = now_us
        self._longest_us = 0
        self._lost = False
        self._idle_until = 0

    def handle_idle(self, in_flight_bytes: int) -> None:
        self._idle_until = self.delivered[0] + in_flight_bytes

    def handle_timeout(self) -> None:
        self._window = max(self._window / 2, 2.0)

    def handle_acked(
        self, acked_bytes: int, lost_bytes: int, newest: SentRecord | None, round_trip: RoundTrip, now_us: int
    ) -> None:
        if acked_bytes:
            self.delivered = (self.delivered[0] + acked_bytes, now_us)
        self._lost |= lost_bytes > 0
        if newest is None or not round_trip.is_known:
            return
        sample, smoothed = max(round_trip.latest_us, 20), max(round_trip.smoothed_us, 20)
        if sample <= self._base_us or now_us - self._base_at_us > 10_000_000:
            self._base_us, self._base_at_us = sample, now_us
        samples = self._samples
        samples.append((now_us, sample))
        while samples[0][0] < now_us - smoothed // 2:
            samples.popleft()
        standing = min(value for _, value in samples)
        queue = max(standing - self._base_us, 1)
        self._longest_us = max(self._longest_us - (self._longest_us >> 9), sample - self._base_us)
        if queue < max(0.1 * self._longest_us, 1_000):
            self._empty_at_us = now_us
        if now_us - self._empty_at_us < 5 * smoothed:
            self._inverse_delta = 2.0
        if now_us - self._round_at_us > smoothed:
            self._end_round(now_us, smoothed)
        wanted = self._inverse_delta * 1e6 / queue
        up = self._window * 1e6 / standing <= wanted
        if self._starting:
            if up:
                self._window += acked_bytes / _P
            else:
                self._starting = False
        elif newest.delivered_bytes >= self._idle_until or not up:
            change = self._velocity * self._inverse_delta * acked_bytes / _P / self._window
            change = min(change, acked_bytes / _P)
            self._window += change if up else -change
        self._window = min(max(self._window, 2.0), 8_000.0)
        rate = self._window * _P * 1e6 / standing
        self.rate_bytes_per_s = int(max(2 * rate, 16_384))
        held = self._window * _P + rate * min(self._ack_delay_us, 64 * _P * 1e6 / rate) / 1e6
        self.window_bytes = int(min(max(held, 4 * _P), _WINDOW_MAX))

    def _end_round(self, now_us: int, smoothed: int) -> None:
        self._round_at_us = now_us
        direction = 1 if self._window > self._round_window else -1
        self._same_rounds = self._same_rounds + 1 if direction == self._direction else 0
        self._velocity = 1.0 if direction != self._direction else self._velocity * (2.0 if self._same_rounds >= 3 else 1.0)
        self._direction, self._round_window = direction, self._window
        if now_us - self._empty_at_us >= 5 * smoothed:
            self._inverse_delta = max(self._inverse_delta / 2, 2.0) if self._lost else self._inverse_delta + 1
        self._lost = False


class Model:
    """Delivery rate times smallest round trip; probing up every eighth round, down every 5 s to see the base, losses bounded."""

    _GAINS = (1.25, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)

    def __init__(self, peer_ack_delay_us: int, now_us: int) -> None:
        self._ack_delay_us = peer_ack_delay_us
        self.delivered = (0, now_us)
        self.datagram_bytes = _P
        self.window_bytes = 32 * _P
        self.rate_bytes_per_s = 3_200 * _P
        self._idle_until = 0
        self._rates: deque[tuple[int, int]] = deque()
        self._round = self._mark = self._acked = self._lost = 0
        self._starting, self._best, self._full = True, 0, 0
        self._base_us, self._base_at_us = NEVER, now_us
        self._look_until_us = 0
        self._limit = float(_WINDOW_MAX)
        self._floor = 0.0

    def handle_idle(self, in_flight_bytes: int) -> None:
        self._idle_until = self.delivered[0] + in_flight_bytes

    def handle_timeout(self) -> None:
        self.window_bytes = max(self.window_bytes // 2, 4 * _P)

    def handle_acked(
        self, acked_bytes: int, lost_bytes: int, newest: SentRecord | None, round_trip: RoundTrip, now_us: int
    ) -> None:
        if acked_bytes:
            self.delivered = (self.delivered[0] + acked_bytes, now_us)
        self._acked += acked_bytes
        self._lost += lost_bytes
        if newest is None or not round_trip.is_known:
            return
        sample = max(round_trip.latest_us, 20)
        if sample <= self._base_us or (self._look_until_us and now_us > self._look_until_us):
            if self._look_until_us:
                self._base_us = min(sample, self._base_us * 2)
            self._base_us, self._base_at_us, self._look_until_us = min(self._base_us, sample), now_us, 0
        elif now_us - self._base_at_us > 5_000_000 and not self._look_until_us:
            self._look_until_us = now_us + max(200_000, 2 * round_trip.smoothed_us)
        elapsed = max(now_us - newest.delivered_at_us, self._base_us, 1)
        rate = (self.delivered[0] - newest.delivered_bytes) * 1_000_000 // elapsed
        if newest.delivered_bytes >= self._idle_until or rate > self._bandwidth:
            while self._rates and self._rates[-1][1] <= rate:
                self._rates.pop()
            self._rates.append((self._round, rate))
        if newest.delivered_bytes >= self._mark:
            self._end_round()
        self._steer(acked_bytes, now_us)

    @property
    def _bandwidth(self) -> int:
        return self._rates[0][1] if self._rates else 0

    def _end_round(self) -> None:
        self._round += 1
        self._mark = self.delivered[0]
        while len(self._rates) > 1 and self._rates[0][0] < self._round - 10:
            self._rates.popleft()
        total = max((self._acked + self._lost) / _P, 1)
        lost = self._lost / _P
        if lost > self._floor * total + 3 * sqrt(self._floor * total) + 0.02 * total + 2:
            self._starting = False
            self._limit = 0.85 * min(self._limit, self.window_bytes)
        else:
            self._limit = min(self._limit * 1.02 + _P, _WINDOW_MAX)
        self._floor += (lost / total - self._floor) / 8
        self._acked = self._lost = 0
        if self._starting:
            if self._bandwidth > self._best * 5 // 4:
                self._best, self._full = self._bandwidth, 0
            else:
                self._full += 1
                self._starting = self._full < 3

    def _steer(self, acked_bytes: int, now_us: int) -> None:
        bandwidth = self._bandwidth
        if self._starting:
            self.window_bytes = min(self.window_bytes + acked_bytes, _WINDOW_MAX)
            self.rate_bytes_per_s = max(int(bandwidth * 2.885), self.window_bytes * 1_000_000 // (self._base_us + 10_000))
            return
        gain = self._GAINS[self._round % 8]
        held = bandwidth * self._base_us / 1e6
        late = min(bandwidth * self._ack_delay_us / 1e6, 64.0 * _P)
        window = 0.5 * held if self._look_until_us else min(2 * held, self._limit)
        self.window_bytes = int(min(max(window + late, 4 * _P), _WINDOW_MAX))
        self.rate_bytes_per_s = max(int(bandwidth * gain), 16_384)
