"""What acks tell about the path: base round trip, queue, delivery rate, pauses between acks, and the loss it has anyway.

A round lasts until a packet sent after its beginning is confirmed, and long enough to hold a few acks: on a fast path, where a
round trip has one or two, their delays are those of busy hosts. The smallest round trip of a round, less the base, is the queue
that stood through all of it; single late packets and late acks do not count.
"""

from __future__ import annotations

from math import sqrt
from typing import Final

from peergram.config import DATAGRAM_BYTES_MAX
from peergram.connection.rate import SentRecord
from peergram.connection.rtt import RoundTrip
from peergram.timing import NEVER

ROUND_TRIP_MIN_US: Final = 20
_BASE_SPAN_US: Final = 10_000_000
"""The base is the smallest round trip of the last two to three spans: a path that became longer is believed after that time."""
_BASE_SEEN_US: Final = 5_000_000
_PACKET_US_PER_S: Final = DATAGRAM_BYTES_MAX * 1_000_000
"""A queue of no more than one packet is none."""
_SPREAD_FACTOR: Final = 3
"""From the mean distance of one round trip from the next to that of the farthest; a queue changes little from one to the next."""
_GAP_MAX_US: Final = 100_000
ROUND_MIN_US: Final = 20_000
_ROUND_ACKS: Final = 4
_ROUND_SPARSE_US: Final = 60_000
"""A round takes at least so long, and has so many acks unless they come so seldom that it would take this long."""
_BATCH_PACKETS: Final = 100
"""Losses are looked at once so many packets were reported on, or a round if that has more."""
_EXCESS_SHARE: Final = 0.03
_EXCESS_PACKETS: Final = 2
"""Losses of a batch beyond what is usual, three standard deviations, and this, are a sign of a queue that overflows."""
_CLEAR_LOSS: Final = 0.05
_SAME_LOSS: Final = 0.85
"""An overflowing queue loses much less once we send less; a path that loses packets anyway, the same share."""


class PathEstimate:
    """Measures one path; all times in microseconds, rates in bytes per second."""

    __slots__ = (
        "_base_seen_at_us",
        "_base_spans",
        "_base_turn_us",
        "_batch_acked_bytes",
        "_batch_lost_bytes",
        "_batch_mark",
        "_best_rate",
        "_heard_at_us",
        "_is_calm",
        "_is_trial",
        "_longest_gap_us",
        "_loss_before",
        "_loss_share",
        "_peer_ack_delay_us",
        "_previous_best_rate",
        "_round_acks",
        "_round_began_us",
        "_round_mark",
        "_round_min_us",
        "_sample_us",
        "ack_gap_us",
        "app_limited_until",
        "base_us",
        "delivered_at_us",
        "delivered_bytes",
        "excess_loss",
        "is_limited_by_application",
        "queue_peak_us",
        "queue_us",
        "rate",
        "rate_peak",
        "round_paused",
        "round_queue_us",
        "spread_us",
        "trial_confirmed",
        "usual_loss",
    )

    def __init__(self, peer_ack_delay_us: int, now_us: int) -> None:
        self.delivered_bytes = 0
        self.delivered_at_us = now_us
        self.app_limited_until = 0
        """Bytes delivered up to here tell about the application, not the path."""
        self.is_limited_by_application = False
        self.base_us = NEVER
        """Round trip without a queue."""
        self._base_spans = [NEVER, NEVER, NEVER]
        self._base_turn_us = now_us
        self._base_seen_at_us = now_us
        self.queue_us = 0
        """Queueing delay of the newest packet confirmed."""
        self.round_queue_us = 0
        """Smallest one of the last whole round."""
        self.queue_peak_us = 0
        """Largest one seen; fades slowly."""
        self.ack_gap_us = peer_ack_delay_us
        """The longest recent pause between acks."""
        self._heard_at_us = now_us
        self._peer_ack_delay_us = peer_ack_delay_us
        self._longest_gap_us = 0
        self.round_paused = False
        """Whether acks of the last whole round came much later than the peer's ack delay and the path explain."""
        self.rate = 0
        """Best delivery rate of this round and the one before."""
        self.rate_peak = 0
        """Best delivery rate seen, fading in a thousand rounds: what the path carries, whoever has it now."""
        self._best_rate = 0
        self._previous_best_rate = 0
        self._round_mark = 0
        self._round_began_us = now_us
        self._round_acks = 0
        self._round_min_us = NEVER
        self.spread_us = 0
        """How far round trips lie apart without a queue's doing: jitter, ours or the network's."""
        self._sample_us = 0
        self._batch_acked_bytes = 0
        self._batch_lost_bytes = 0
        self._batch_mark = 0
        """Packets sent before so much was delivered do not count."""
        self._is_trial = False
        """Whether this batch is the first after the window shrank."""
        self._loss_share = 0.0
        """Of the last batch, and of the one before the window shrank."""
        self._loss_before = 0.0
        self.trial_confirmed = False
        """Whether the batch after the window shrank lost as much as before."""
        self._is_calm = True
        self.usual_loss = 0.0
        """Share of packets lost while no queue stands, however much is sent."""
        self.excess_loss = False
        """Whether clearly more than that was lost, at the end of this round."""

    def handle_acked(
        self, acked_bytes: int, lost_bytes: int, newest: SentRecord | None, round_trip: RoundTrip, now_us: int
    ) -> bool:
        """Take an ack; whether there was anything to measure."""
        if newest is not None and newest.delivered_bytes >= self._batch_mark:
            self._batch_acked_bytes += acked_bytes
            self._batch_lost_bytes += lost_bytes
        if acked_bytes:
            self.delivered_bytes += acked_bytes
            self.delivered_at_us = now_us
            gap_us = now_us - self._heard_at_us
            self._heard_at_us = now_us
            if gap_us > _GAP_MAX_US:
                gap_us = _GAP_MAX_US
            if gap_us > self._longest_gap_us:
                self._longest_gap_us = gap_us
            faded_us = self.ack_gap_us - (self.ack_gap_us >> 5)
            self.ack_gap_us = gap_us if gap_us > faded_us else faded_us
        if newest is None or not round_trip.ping_samples:
            return False
        sample_us = round_trip.latest_us
        if sample_us < ROUND_TRIP_MIN_US:
            sample_us = ROUND_TRIP_MIN_US
        if sample_us < self._base_spans[0] or now_us - self._base_turn_us > _BASE_SPAN_US:
            self._note_base(sample_us, now_us)
        base_us = self.base_us
        self._round_acks += 1
        if sample_us < self._round_min_us:
            self._round_min_us = sample_us
        if self._sample_us:
            spread_us = _SPREAD_FACTOR * abs(sample_us - self._sample_us)
            self.spread_us = self.spread_us + (spread_us - self.spread_us >> 4) if self.spread_us else spread_us
        self._sample_us = sample_us
        self.queue_us = queue_us = sample_us - base_us
        if queue_us <= base_us >> 5 or queue_us * self.rate_peak <= _PACKET_US_PER_S:
            self._base_seen_at_us = now_us
        if queue_us > self.queue_peak_us:
            self.queue_peak_us = queue_us
        elapsed_us = now_us - newest.delivered_at_us
        sent_at_bytes = newest.delivered_bytes
        rate = (self.delivered_bytes - sent_at_bytes) * 1_000_000 // (elapsed_us if elapsed_us > base_us else base_us)
        if rate > self._best_rate:
            self._best_rate = rate
            self.rate = max(rate, self._previous_best_rate)
            if rate > self.rate_peak:
                self.rate_peak = rate
        self.is_limited_by_application = sent_at_bytes < self.app_limited_until
        return True

    def _note_base(self, sample_us: int, now_us: int) -> None:
        spans = self._base_spans
        if now_us - self._base_turn_us > _BASE_SPAN_US:
            self._base_turn_us = now_us
            spans[:] = [sample_us, *spans[:2]]
            self.base_us = min(spans)
        else:
            spans[0] = sample_us
            self.base_us = min(self.base_us, sample_us)

    def is_base_stale(self, now_us: int) -> bool:
        """Whether the base was not seen for a while."""
        return now_us - self._base_seen_at_us > _BASE_SEEN_US

    def ends_round(self, newest: SentRecord, now_us: int) -> bool:
        """Whether this packet was sent after the round began, and the round has enough to tell."""
        if newest.delivered_bytes < self._round_mark:
            return False
        took_us = now_us - self._round_began_us
        return took_us >= ROUND_MIN_US and (self._round_acks >= _ROUND_ACKS or took_us >= _ROUND_SPARSE_US)

    def end_round(self, calm_us: float, now_us: int) -> None:
        """Sum up the round, and begin another; a queue below `calm_us` counts as none."""
        self._round_mark = self.delivered_bytes
        self._round_began_us = now_us
        self._round_acks = 0
        self.round_queue_us = self._round_min_us - self.base_us
        self.round_paused = self._longest_gap_us > 2 * self._peer_ack_delay_us + self.base_us // 2
        self._longest_gap_us = 0
        self._round_min_us = NEVER
        self.queue_peak_us -= self.queue_peak_us >> 7
        self.rate_peak -= self.rate_peak >> 10
        self._previous_best_rate, self._best_rate = self._best_rate, 0
        self.rate = self._previous_best_rate
        was_calm, self._is_calm = self._is_calm, self.round_queue_us < calm_us
        self.excess_loss = self.trial_confirmed = False
        # What an overflowing queue lost is reported up to a round later.
        if self._batch_acked_bytes + self._batch_lost_bytes >= _BATCH_PACKETS * DATAGRAM_BYTES_MAX:
            self._judge_losses(was_calm and self._is_calm and not self.is_base_stale(now_us))

    def _judge_losses(self, is_calm: bool) -> None:
        packets = (self._batch_acked_bytes + self._batch_lost_bytes) / DATAGRAM_BYTES_MAX
        lost = self._batch_lost_bytes / DATAGRAM_BYTES_MAX
        self._batch_acked_bytes = self._batch_lost_bytes = 0
        expected = self.usual_loss * packets
        self.excess_loss = lost > expected + 3 * sqrt(expected) + _EXCESS_SHARE * packets + _EXCESS_PACKETS
        self._loss_share = lost / packets
        change = self._loss_share - self.usual_loss
        if change < 0:
            self.usual_loss += change / 8
        elif self._is_trial:
            self._judge_trial(packets, is_calm)
        elif is_calm and self._loss_share < _CLEAR_LOSS:
            self.usual_loss += change / 8
        self._is_trial = False

    def _judge_trial(self, packets: float, is_calm: bool) -> None:
        """Less was sent: what is lost now that was lost before is the path's doing, if no queue stands."""
        share, before = self._loss_share, self._loss_before
        stayed = share >= max(_SAME_LOSS * before - 2 * sqrt(before / packets), before / 3)
        if is_calm and (stayed or share < _CLEAR_LOSS):
            self.usual_loss += (share - self.usual_loss) * (0.5 if share > 2 * self.usual_loss else 0.125)
            self.trial_confirmed = stayed
            self.excess_loss = False
        elif not stayed:
            self.usual_loss /= 2

    def handle_shrunk(self) -> None:
        """We send less from now on: will less be lost?"""
        if not self._is_trial:
            self._loss_before = self._loss_share
        self._is_trial = True
        self._batch_acked_bytes = self._batch_lost_bytes = 0
        self._batch_mark = self.delivered_bytes
