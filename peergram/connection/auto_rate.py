"""Congestion control: a window that grows until a queue stands, gives the queue back, and holds out against who fills it.

Alone and among its like, the window grows by a packet per round trip, faster the longer nothing happened (H-TCP,
draft-leith-tcp-htcp), and once the queue stood above a target through a whole round, it shrinks by just what stands there. All
flows of a bottleneck see the same queue, so they shrink together: additive increase and multiplicative decrease make their
shares equal, the queue empties in each cycle, and the base round trip stays known. A random loss says nothing then.

If the queue does not go away, again and again, somebody else fills it: from then on the window follows CUBIC (RFC 9438), with a
steeper curve, and shrinks on losses that come with a long queue. Now and then, after a loss, it tries whether the queue empties
again. The rate is the window per round trip: packets are paced, and the limit of bytes in flight is only a bound above it.

docs/congestion.md compares designs and gives figures.
"""

from __future__ import annotations

from math import sqrt
from typing import Final

from peergram.config import DATAGRAM_BYTES_MAX, PACKETS_IN_FLIGHT_MAX
from peergram.connection.path_estimate import ROUND_MIN_US, ROUND_TRIP_MIN_US, PathEstimate
from peergram.connection.rate import SentRecord
from peergram.connection.rtt import RoundTrip

_PACKET: Final = float(DATAGRAM_BYTES_MAX)
_START_WINDOW: Final = 32 * _PACKET
_WINDOW_MIN: Final = 2 * _PACKET
_WINDOW_MAX: Final = PACKETS_IN_FLIGHT_MAX * _PACKET
_IN_FLIGHT_MIN: Final = 8 * DATAGRAM_BYTES_MAX
_RATE_MIN: Final = 16 * 1024
_RATE_MAX: Final = 1 << 31
_STARTUP_GAIN: Final = 1.5
_ACK_GAP_SLACK_US: Final = 2_000
"""An ack may come so much later than the peer's ack delay allows."""
_FULL_ROUNDS: Final = 3
_QUEUE_ACKS: Final = 3

_QUEUE_US: Final = 10_000
_QUEUE_JITTER_MAX_US: Final = 20_000
_QUEUE_PACKETS: Final = 1
_QUEUE_SLOW_MAX_US: Final = 100_000
"""Target of the queue, the same for all who share it; on a slow path, the time that a packet takes; and more where round trips
vary by themselves."""
_LEFT_IN_QUEUE_US: Final = 1_500
"""Left in the queue when it is given back, so that a path of a short round trip does not run dry."""
_HARMLESS_US: Final = 4_000
"""A round trip of this length is no worse than a shorter one: within a host or a room, the queue may make up the difference."""
_SHRINK_MIN: Final = 0.4
_SHRINK_MAX: Final = 0.95
_QUIET_US: Final = 1_000_000
"""After this long without a queue, growth gets faster."""
_STEP_US: Final = 50_000
_STEP_SHARE_MIN: Final = 0.4
_STEP_SHARE_MAX: Final = 2.0
"""A packet per round trip of this length; more on longer ones, with the root, since they shrink less often and by less."""
_CALM_ROUNDS: Final = 8
"""After so many rounds without a queue, the next step may be larger than is good for a queue."""
_DRAIN_ROUNDS: Final = 4
_FAILED_DRAINS_MAX: Final = 3
_QUIET_ROUNDS: Final = 8
_QUIET_ROUNDS_DEEP: Final = 2
"""So long without a queue, and nobody fills it; a short buffer runs empty after each loss of those who do."""
_BETA: Final = 0.75
_CUBIC_SCALE: Final = 1.6
"""Four times TCP's: what we lose by trying whether the queue empties must be won back."""
_TRY_INTERVAL_US: Final = 10_000_000
_TRY_LATEST_US: Final = 15_000_000
"""A try comes with the first loss after the interval, since flows that lose together try together; without one, later."""
_DOUBT_US: Final = 3_000_000
"""So long without sending less, and losses that were taken for the path's are put to the test."""
_LOSSY: Final = 0.005
"""A path that loses this share without a queue loses anyway: there, only a round that loses more than usual says something."""


class AutoRate:
    """Rate and window by delay, and by loss while others fill the queue."""

    __slots__ = (
        "_ack_gap_max_us",
        "_calm_rounds",
        "_competes",
        "_cubic_max",
        "_cubic_turn_s",
        "_drain_rounds",
        "_epoch_before_trial_us",
        "_epoch_us",
        "_failed_drains",
        "_full_rate",
        "_full_rounds",
        "_path",
        "_previous_queue_us",
        "_queue_acks",
        "_queue_since_us",
        "_quiet_rounds",
        "_reno",
        "_shrunk_at_us",
        "_started_before_trial",
        "_starting",
        "_target_us",
        "_tried_at_us",
        "_window",
        "_window_after_drain",
        "_window_before_drains",
        "_window_before_trial",
        "_yields_from",
        "datagram_bytes",
        "rate_bytes_per_s",
        "window_bytes",
    )

    def __init__(self, peer_ack_delay_us: int, now_us: int, *, delivered_bytes: int = 0) -> None:
        """`delivered_bytes`: confirmed before, by another way; packets still on their way there name no larger number."""
        self._path = PathEstimate(peer_ack_delay_us, now_us)
        self._path.delivered_bytes = delivered_bytes
        self._ack_gap_max_us = peer_ack_delay_us + _ACK_GAP_SLACK_US
        self.datagram_bytes = DATAGRAM_BYTES_MAX
        self._window = _START_WINDOW
        """Bytes that the path holds, and its queue."""
        self.window_bytes = int(_START_WINDOW)
        self.rate_bytes_per_s = int(_START_WINDOW) * 100
        self._target_us = float(_QUEUE_US)
        self._starting = True
        self._full_rate = 0
        self._full_rounds = 0
        self._queue_acks = 0
        self._queue_since_us = now_us
        self._epoch_us = now_us
        """When the window shrank last."""
        self._shrunk_at_us = now_us
        self._started_before_trial = False
        self._epoch_before_trial_us = now_us
        self._window_before_trial = 0.0
        """To go back to, if less was sent and the losses stayed."""
        self._yields_from = 0
        """Losses of packets sent before so much was delivered were answered already."""
        self._drain_rounds = 0
        """Rounds left for the queue to go away; 0 while growing."""
        self._failed_drains = 0
        self._window_before_drains = 0.0
        self._window_after_drain = 0.0
        self._competes = False
        self._tried_at_us = now_us
        self._quiet_rounds = 0
        self._calm_rounds = 0
        self._previous_queue_us = 0
        self._cubic_max = 0.0
        self._cubic_turn_s = 0.0
        self._reno = 0.0

    @property
    def delivered(self) -> tuple[int, int]:
        """(bytes confirmed so far, when last)."""
        return self._path.delivered_bytes, self._path.delivered_at_us

    @property
    def competes(self) -> bool:
        """Whether others fill the queue."""
        return self._competes

    def handle_idle(self, in_flight_bytes: int) -> None:
        """Mark the bytes in flight as limited by the application."""
        self._path.app_limited_until = self._path.delivered_bytes + in_flight_bytes

    def handle_timeout(self) -> None:
        """Nothing heard for a whole time-out: less, carefully; and once something is heard, what the path carries is looked for
        from the beginning."""
        self._starting = True
        self._full_rate = 0
        self._full_rounds = 0
        self._drain_rounds = 0
        self._window = max(self._window / 2, _WINDOW_MIN)
        self.window_bytes = max(self.window_bytes // 2, _IN_FLIGHT_MIN)

    def handle_acked(
        self, acked_bytes: int, lost_bytes: int, newest: SentRecord | None, round_trip: RoundTrip, now_us: int
    ) -> None:
        """Measure, and set rate and window anew."""
        path = self._path
        if not path.handle_acked(acked_bytes, lost_bytes, newest, round_trip, now_us) or newest is None:
            return
        if lost_bytes and not self._drain_rounds and newest.delivered_bytes >= self._yields_from:
            self._handle_loss(now_us)
        if self._starting:
            self._look_for_queue(now_us)
        if path.ends_round(newest, now_us):
            path.end_round(self._target_us / 3, now_us)
            self._end_round(now_us)
        if path.is_limited_by_application:
            self._epoch_us = now_us
        elif acked_bytes:
            self._grow(acked_bytes, round_trip.smoothed_us, now_us)
        self._steer(round_trip)

    def _steer(self, round_trip: RoundTrip) -> None:
        """Conditions rather than `min` and `max`, which would be half of what an ack costs."""
        path = self._path
        window = self._window * _STARTUP_GAIN if self._starting else self._window
        smoothed_us = round_trip.smoothed_us
        if smoothed_us < ROUND_TRIP_MIN_US:
            smoothed_us = ROUND_TRIP_MIN_US
        per_us = path.base_us + path.round_queue_us
        if smoothed_us < per_us:
            per_us = smoothed_us
        if round_trip.latest_us < per_us:
            per_us = round_trip.latest_us
        rate = window * 1e6 / (per_us if per_us > ROUND_TRIP_MIN_US else ROUND_TRIP_MIN_US)
        self.rate_bytes_per_s = int(rate) if _RATE_MIN <= rate <= _RATE_MAX else _RATE_MIN if rate < _RATE_MIN else _RATE_MAX
        # A pause longer than a round trip and an ack's delay is one of the application's.
        gap_us = path.ack_gap_us
        if gap_us > smoothed_us and gap_us > self._ack_gap_max_us:
            gap_us = max(smoothed_us, self._ack_gap_max_us)
        held = window + window * 2 * gap_us / smoothed_us
        self.window_bytes = int(held) if _IN_FLIGHT_MIN <= held <= _WINDOW_MAX else self._bounded(held)

    @staticmethod
    def _bounded(window: float) -> int:
        return int(min(max(window, _IN_FLIGHT_MIN), _WINDOW_MAX))

    # Growing

    def _grow(self, acked_bytes: int, smoothed_us: int, now_us: int) -> None:
        if self._starting:
            self._window += acked_bytes
        elif self._drain_rounds:
            return
        elif self._competes:
            self._grow_as_cubic(acked_bytes, smoothed_us, now_us)
        else:
            self._grow_evenly(acked_bytes, smoothed_us, now_us)
        if self._window > _WINDOW_MAX:
            self._window = _WINDOW_MAX

    def _grow_evenly(self, acked_bytes: int, smoothed_us: int, now_us: int) -> None:
        packet = sqrt(smoothed_us / _STEP_US) * self.datagram_bytes
        if packet < _STEP_SHARE_MIN * self.datagram_bytes:
            packet = _STEP_SHARE_MIN * self.datagram_bytes
        elif packet > _STEP_SHARE_MAX * self.datagram_bytes:
            packet = _STEP_SHARE_MAX * self.datagram_bytes
        rate = self._path.rate
        queue = rate * self._target_us
        # No more in one round than a quarter of the queue that is wanted, or of the window if none comes.
        room = queue / 4e6 if smoothed_us >= ROUND_MIN_US else queue / 4e6 * (smoothed_us / ROUND_MIN_US)
        if self._calm_rounds > _CALM_ROUNDS:
            room = min(room * 2 ** min((self._calm_rounds - _CALM_ROUNDS) / 2, 16), max(room, self._window / 8))
        # A packet may go unless it is much at this rate: else flows of small rates would never grow alike.
        single = rate * _QUEUE_US / 2e6
        if packet < single:
            single = packet
        if room < single:
            room = single
        if room < _PACKET / 4:
            room = _PACKET / 4
        step = packet
        quiet_s = (now_us - self._epoch_us - _QUIET_US) / 1e6
        if quiet_s > 0:
            step *= 1 + 10 * quiet_s + (quiet_s / 2) ** 2
        self._window += (step if step < room else room) * acked_bytes / self._window

    def _grow_as_cubic(self, acked_bytes: int, smoothed_us: int, now_us: int) -> None:
        """RFC 9438 sections 4.2 and 4.3; windows in packets."""
        window = self._window / _PACKET
        at_s = (now_us - self._epoch_us + smoothed_us) / 1e6 - self._cubic_turn_s
        target = min(max(_CUBIC_SCALE * at_s**3 + self._cubic_max, window), 1.5 * window)
        share = acked_bytes / self._window
        self._reno += 1.5 * (1 - _BETA) / (1 + _BETA) * share
        self._window = max(window + (target - window) * share, self._reno) * _PACKET

    def _look_for_queue(self, now_us: int) -> None:
        """Start-up ends when a queue has stood for three acks and a while."""
        path = self._path
        if path.queue_us <= (self._target_us + path.spread_us) / 2:
            self._queue_acks = 0
            return
        if not self._queue_acks:
            self._queue_since_us = now_us
        self._queue_acks += 1
        if self._queue_acks >= _QUEUE_ACKS and now_us - self._queue_since_us >= path.base_us >> 3:
            self._end_startup(now_us)

    def _end_startup(self, now_us: int) -> None:
        self._starting = False
        self._drain(self._path.queue_us, now_us)

    # Rounds

    def _end_round(self, now_us: int) -> None:
        path = self._path
        packets_us = _QUEUE_PACKETS * _PACKET * 1e6 / max(path.rate_peak, 1)
        jitter_us = min(max(path.spread_us - _QUEUE_US, 0), _QUEUE_JITTER_MAX_US)
        self._target_us = max(_QUEUE_US, min(packets_us, _QUEUE_SLOW_MAX_US)) + jitter_us
        self._calm_rounds = self._calm_rounds + 1 if path.round_queue_us < self._target_us / 4 else 0
        if path.trial_confirmed and self._window_before_trial:
            self._end_trial()
        if not self._drain_rounds and not self._starting:
            doubts = path.usual_loss > _LOSSY and not self._competes and now_us - self._shrunk_at_us > _DOUBT_US
            if path.excess_loss or doubts:
                self._yield_to_loss(now_us)
        elif path.excess_loss and self._starting:
            self._yield_to_loss(now_us)
        if self._starting:
            self._check_full(now_us)
        elif self._drain_rounds:
            self._check_drain(now_us)
        elif self._competes:
            self._quiet_rounds = self._quiet_rounds + 1 if path.round_queue_us < self._target_us / 3 else 0
            if self._quiet_rounds >= (_QUIET_ROUNDS_DEEP if self._is_deep else _QUIET_ROUNDS):
                self._stop_competing(now_us)
            elif now_us - self._tried_at_us > _TRY_LATEST_US:
                self._try_to_drain(now_us)
        else:
            standing_us = path.round_queue_us
            if path.round_paused:
                # A host that stood still for a moment has a round of late acks.
                standing_us = min(standing_us, self._previous_queue_us)
            if standing_us > self._target_us and self._uses_window:
                self._drain(standing_us, now_us)
        self._previous_queue_us = path.round_queue_us

    @property
    def _is_deep(self) -> bool:
        """Whether the queue can get long."""
        return self._path.queue_peak_us > 3 * self._target_us

    @property
    def _uses_window(self) -> bool:
        """Whether the queue can be ours: not if the application asks for much less than the window."""
        path = self._path
        return not path.is_limited_by_application or path.rate * (path.base_us + path.queue_us) * 2 > self._window * 1e6

    def _check_full(self, now_us: int) -> None:
        """Start-up ends too when the delivery rate no longer grows."""
        path = self._path
        if path.is_limited_by_application:
            return
        if path.rate > self._full_rate * 5 // 4:
            self._full_rate = path.rate
            self._full_rounds = 0
            return
        self._full_rounds += 1
        if self._full_rounds >= _FULL_ROUNDS:
            self._end_startup(now_us)

    # Shrinking

    def _drain(self, queue_us: int, now_us: int) -> None:
        """Give back what stands in the queue, and see whether it goes away."""
        path = self._path
        if not self._failed_drains:
            self._window_before_drains = self._window
        # After start-up, the window may have doubled since this queue was made.
        window = min(self._window, path.rate * (path.base_us + queue_us) / 1e6) if path.rate else self._window
        left_us = max(min(self._target_us / 4, _LEFT_IN_QUEUE_US), _HARMLESS_US - path.base_us)
        factor = (path.base_us * 0.97 + left_us) / (path.base_us + queue_us)
        window = max(window * min(max(factor, _SHRINK_MIN), _SHRINK_MAX), _WINDOW_MIN)
        self._window_after_drain = window
        # With the base not seen for long, what is left in the queue may have become part of it.
        self._window = window / 2 if path.is_base_stale(now_us) else window
        self._await_drain(now_us)

    def _await_drain(self, now_us: int) -> None:
        self._drain_rounds = _DRAIN_ROUNDS
        self._calm_rounds = 0
        self._window_before_trial = 0.0
        self._shrunk_at_us = now_us
        self._epoch_us = now_us
        self._yields_from = self._path.delivered_bytes
        self._path.handle_shrunk()

    def _check_drain(self, now_us: int) -> None:
        self._drain_rounds -= 1
        if self._path.round_queue_us < self._target_us / 2:
            self._drain_rounds = 0
            self._window = max(self._window, self._window_after_drain)
            self._stop_competing(now_us)
        elif not self._drain_rounds:
            self._window = max(self._window, self._window_after_drain)
            if self._competes:
                self._start_cubic_epoch(now_us)
                return
            self._failed_drains += 1
            if self._failed_drains < _FAILED_DRAINS_MAX:
                self._drain(self._path.round_queue_us, now_us)
            else:
                self._compete(now_us)

    def _stop_competing(self, now_us: int) -> None:
        self._competes = False
        self._failed_drains = 0
        self._quiet_rounds = 0
        self._epoch_us = now_us

    def _compete(self, now_us: int) -> None:
        """Somebody else fills the queue: take back what was given up for nothing."""
        self._competes = True
        self._failed_drains = 0
        self._quiet_rounds = 0
        self._tried_at_us = now_us
        self._window = self._window_before_drains
        self._cubic_max = self._window / _PACKET
        self._start_cubic_epoch(now_us)

    def _start_cubic_epoch(self, now_us: int) -> None:
        self._epoch_us = now_us
        self._reno = self._window / _PACKET
        self._cubic_max = max(self._cubic_max, self._reno)
        self._cubic_turn_s = ((self._cubic_max - self._reno) / _CUBIC_SCALE) ** (1 / 3)

    def _handle_loss(self, now_us: int) -> None:
        """Losses with a queue come from it, as a rule; giving the queue back costs nothing if not."""
        path = self._path
        # With the base not seen for long, what looks like the path's losses may be a queue that is always full.
        is_lossy = path.usual_loss > _LOSSY and not path.is_base_stale(now_us)
        if self._competes:
            if path.queue_us > path.queue_peak_us // 2 and not is_lossy:
                self._yield_to_loss(now_us)
        elif not self._starting:
            queue_us = min(path.queue_us, path.round_queue_us)
            if queue_us > self._target_us / (1 if is_lossy else 2):
                self._drain(queue_us, now_us)

    def _yield_to_loss(self, now_us: int) -> None:
        if self._competes:
            self._window_before_trial = 0.0
        elif not self._window_before_trial:
            self._window_before_trial = self._window
            self._started_before_trial = self._starting
            self._epoch_before_trial_us = self._epoch_us
        self._starting = False
        self._cubic_max = self._window / _PACKET
        self._shrunk_at_us = now_us
        self._yields_from = self._path.delivered_bytes
        self._path.handle_shrunk()
        self._window = max(self._window * _BETA, _WINDOW_MIN)
        self._epoch_us = now_us
        if self._competes:
            self._start_cubic_epoch(now_us)
            if now_us - self._tried_at_us > _TRY_INTERVAL_US:
                self._try_to_drain(now_us)

    def _end_trial(self) -> None:
        """Less was sent, and as much was lost as before: that was for nothing."""
        self._window = max(self._window, self._window_before_trial)
        self._window_before_trial = 0.0
        self._starting = self._started_before_trial
        self._epoch_us = self._epoch_before_trial_us

    def _try_to_drain(self, now_us: int) -> None:
        """Are the others still there? Not worth asking where the queue cannot get long."""
        self._tried_at_us = now_us
        if self._is_deep:
            self._window_after_drain = self._window
            self._window = max(self._window / 2, _WINDOW_MIN)
            self._await_drain(now_us)
