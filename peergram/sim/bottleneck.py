"""Flows over one bottleneck, in virtual time: what congestion control is measured and tested with.

One queue with a rate, a length in bytes and random loss is shared by `OwnFlow`s, which drive a real `RateController` with the
real pacing and the real acknowledgement rules (`AcksOwed`) but neither encryption nor frames, and by `CubicFlow`s, a model of
TCP: slow start, CUBIC (RFC 9438), an ack for each packet, loss by three later packets. Every packet has one size. A run of one
virtual minute at 20 Mbit/s takes a second or two, and replays exactly.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from itertools import count
from random import Random
from typing import NamedTuple

from peergram.config import ACK_DELAY_OWN_PEER_US, ACK_EVERY_PACKETS, DATAGRAM_BYTES_MAX, PACKETS_IN_FLIGHT_MAX
from peergram.connection.pacing import TokenBucket
from peergram.connection.rate import RateController
from peergram.connection.received import AcksOwed
from peergram.connection.rtt import RoundTrip

PACKET_BYTES = DATAGRAM_BYTES_MAX
SECOND_US = 1_000_000
BIN_US = 100_000
"""Bytes received are counted in bins of this length."""
SAMPLE_US = 10_000
"""How often the queue is looked at."""
MakeController = Callable[[int, int], RateController]
"""(the peer's ack delay, now) -> what is to be measured."""


class Record(NamedTuple):
    """A packet in flight, with what a controller asks about it."""

    sent_at_us: int
    size_bytes: int
    delivered_bytes: int
    delivered_at_us: int


class Bottleneck:
    """A clock with things to happen, and the queue that all flows share."""

    def __init__(self, *, rate_bytes_per_s: int, buffer_bytes: int, loss: float = 0.0, seed: int = 1) -> None:
        self.rate_bytes_per_s = rate_bytes_per_s
        self.buffer_bytes = buffer_bytes
        self.loss = loss
        self.now_us = 0
        self.overflowed = 0
        self.queue_delays_us: list[int] = []
        """One value for each `SAMPLE_US`."""
        self.rng = Random(seed)
        self._queued_bytes = 0.0
        self._counted_at_us = 0
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._order = count()
        self.after(0, self._sample)

    def after(self, delay_us: int, action: Callable[[], None]) -> None:
        """Let `action` happen later."""
        heapq.heappush(self._heap, (self.now_us + delay_us, next(self._order), action))

    def run(self, until_us: int) -> None:
        """Let everything up to that time happen."""
        heap = self._heap
        while heap and heap[0][0] <= until_us:
            self.now_us, _, action = heapq.heappop(heap)
            action()
        self.now_us = until_us

    def set_rate(self, rate_bytes_per_s: int) -> None:
        """From now on the queue drains this fast; packets already in it leave as they were to."""
        self._drain()
        self.rate_bytes_per_s = rate_bytes_per_s

    def enter(self, size_bytes: int) -> int | None:
        """How long a packet takes to leave the queue; None if it is lost."""
        self._drain()
        if self._queued_bytes + size_bytes > self.buffer_bytes:
            self.overflowed += 1
            return None
        self._queued_bytes += size_bytes
        if self.loss and self.rng.random() < self.loss:
            return None
        return self._delay_us()

    def _drain(self) -> None:
        drained = self.rate_bytes_per_s * (self.now_us - self._counted_at_us) / SECOND_US
        self._queued_bytes = max(self._queued_bytes - drained, 0.0)
        self._counted_at_us = self.now_us

    def _delay_us(self) -> int:
        return int(self._queued_bytes * SECOND_US / self.rate_bytes_per_s)

    def _sample(self) -> None:
        self._drain()
        self.queue_delays_us.append(self._delay_us())
        self.after(SAMPLE_US, self._sample)


class Sink:
    """What arrived of one flow."""

    def __init__(self, link: Bottleneck) -> None:
        self._link = link
        self.bins: list[int] = []

    def add(self, size_bytes: int) -> None:
        """Count bytes that arrived now."""
        at = self._link.now_us // BIN_US
        if at >= len(self.bins):
            self.bins += [0] * (at + 1 - len(self.bins))
        self.bins[at] += size_bytes

    def rate(self, begin_s: float, end_s: float) -> float:
        """Mean bytes per second between two times."""
        bins = self.bins[int(begin_s * SECOND_US) // BIN_US : int(end_s * SECOND_US) // BIN_US]
        return sum(bins) / (end_s - begin_s)


class OwnFlow:
    """One of our senders and its receiver; what is lost goes again, so every packet that arrives counts."""

    def __init__(
        self,
        link: Bottleneck,
        make: MakeController,
        *,
        rtt_us: int,
        start_us: int = 0,
        ack_delay_us: int = ACK_DELAY_OWN_PEER_US,
        ack_loss: float = 0.0,
        app_rate: int = 0,
        coalesce_us: int = 0,
        jitter_us: int = 0,
        stall_us: int = 0,
        packet_bytes: int = PACKET_BYTES,
    ) -> None:
        """`app_rate`: bytes per second the application has to send, 0 for more than ever goes; `coalesce_us`: acks are read this
        seldom; `jitter_us`: and come up to so much later, in order; `stall_us`: either host does nothing for up to so long, every
        now and then."""
        self.link = link
        self.sink = Sink(link)
        self.round_trip = RoundTrip()
        self.lost = 0
        self.in_flight_max = 0
        self._make = make
        self._ack_delay_us = ack_delay_us
        self._way_us = rtt_us // 2
        self._ack_loss = ack_loss
        self._coalesce_us = coalesce_us
        self._jitter_us = jitter_us
        self._stall_us = stall_us
        self._sender_free_us = self._receiver_free_us = 0
        self._packet_bytes = packet_bytes
        self._window_bytes_min = 4 * packet_bytes if packet_bytes > PACKET_BYTES else 0
        self.is_deaf = False
        """Whether the receiver refuses whatever comes: its application reads nothing."""
        self._ack_came_us = 0
        self.app_rate = app_rate
        self._offered_bytes = 0
        self._acks = AcksOwed(0)
        self._ack_planned_us = -1
        self._open: deque[Record] = deque()
        self._in_flight_bytes = 0
        self._number = 1
        self._reported = 0
        self._wake_planned_us = -1
        self._backoff = 0
        self._last_sent_us = start_us
        self._start_us = start_us
        link.after(start_us, self._start)

    # the sender

    def _start(self) -> None:
        now_us = self.link.now_us
        self.round_trip.add_sample(2 * self._way_us, now_us)
        self.rate = self._make(self._ack_delay_us, now_us)
        self.bucket = TokenBucket(now_us)
        self.rate.datagram_bytes = self.bucket.datagram_bytes = self._packet_bytes
        if self._stall_us:
            self._stall()
        self._check_timeout()
        if self.app_rate:
            self._offer()
        self._send()

    def _offer(self) -> None:
        self._offered_bytes += self.app_rate // 50
        self.link.after(20_000, self._offer)
        self._send()

    def _stall(self) -> None:
        rng, now_us = self.link.rng, self.link.now_us
        if rng.random() < 0.5:
            self._sender_free_us = now_us + rng.randrange(self._stall_us)
        else:
            self._receiver_free_us = now_us + rng.randrange(self._stall_us)
        self.link.after(rng.randrange(2 * self._stall_us), self._stall)

    @property
    def _has_data(self) -> bool:
        return not self.app_rate or self._offered_bytes >= self._packet_bytes

    def _send(self) -> None:
        now_us, rate, bucket = self.link.now_us, self.rate, self.bucket
        if now_us < self._sender_free_us:
            self.link.after(self._sender_free_us - now_us, self._send)
            return
        bucket.fill(rate.rate_bytes_per_s, now_us)
        while (
            self._has_data
            and bucket.tokens >= 0
            and self._in_flight_bytes + self._packet_bytes <= max(rate.window_bytes, self._window_bytes_min)
            and len(self._open) < PACKETS_IN_FLIGHT_MAX
        ):
            self._send_packet()
        if not self._has_data:
            rate.handle_idle(self._in_flight_bytes)
        elif bucket.tokens < 0 and self._in_flight_bytes + self._packet_bytes <= max(rate.window_bytes, self._window_bytes_min):
            at_us = bucket.ready_at_us(rate.rate_bytes_per_s, now_us)
            if not now_us < self._wake_planned_us <= at_us:
                self._wake_planned_us = at_us
                self.link.after(at_us - now_us, lambda: self._wake(at_us))

    def _wake(self, at_us: int) -> None:
        if at_us == self._wake_planned_us:
            self._wake_planned_us = -1
            self._send()

    def _send_packet(self) -> None:
        now_us = self.link.now_us
        delivered_bytes, delivered_at_us = self.rate.delivered
        if not self._in_flight_bytes:
            delivered_at_us = now_us
        self._open.append(Record(now_us, self._packet_bytes, delivered_bytes, delivered_at_us))
        self._in_flight_bytes += self._packet_bytes
        self.in_flight_max = max(self.in_flight_max, len(self._open))
        self.bucket.tokens -= self._packet_bytes
        self._offered_bytes -= self._packet_bytes
        self._last_sent_us = now_us
        number, self._number, reported = self._number, self._number + 1, self._reported
        delay_us = self.link.enter(self._packet_bytes)
        if delay_us is not None:
            self.link.after(delay_us + self._way_us, lambda: self._arrived(number, reported))

    def _check_timeout(self) -> None:
        now_us = self.link.now_us
        timeout_us = self.round_trip.timeout_us(self._ack_delay_us) << min(self._backoff, 5)
        if self._open and now_us >= self._last_sent_us + timeout_us:
            self._backoff += 1
            if self._backoff > 2:
                self.rate.handle_timeout()
            self._send_packet()
        self.link.after(10_000, self._check_timeout)

    def _take_ack(self, latest: int, delay_us: int, blocks: list[tuple[int, int]]) -> None:
        now_us = self.link.now_us
        if now_us < self._sender_free_us:
            self.link.after(self._sender_free_us - now_us, lambda: self._take_ack(latest, delay_us, blocks))
            return
        if latest <= self._reported:
            return
        missing: set[int] = set()
        end = latest + 1
        for acked, lost in blocks:
            missing.update(range(max(end - acked - lost, self._reported + 1), end - acked))
            end -= acked + lost
        acked_bytes = lost_bytes = 0
        newest = None
        for number in range(self._reported + 1, latest + 1):
            newest = self._open.popleft()
            if number in missing:
                lost_bytes += newest.size_bytes
            else:
                acked_bytes += newest.size_bytes
        self._reported = latest
        self._in_flight_bytes -= acked_bytes + lost_bytes
        self._offered_bytes += lost_bytes
        self.lost += lost_bytes // self._packet_bytes
        if acked_bytes:
            self._backoff = 0
        assert newest is not None
        self.round_trip.add_sample(now_us - newest.sent_at_us - delay_us, now_us)
        self.rate.handle_acked(acked_bytes, lost_bytes, newest, self.round_trip, now_us)
        self._send()

    # the receiver

    def _arrived(self, number: int, reported: int) -> None:
        now_us, acks = self.link.now_us, self._acks
        if self.is_deaf:
            return
        if now_us < self._receiver_free_us:
            self.link.after(self._receiver_free_us - now_us, lambda: self._arrived(number, reported))
            return
        self.sink.add(self._packet_bytes)
        if reported > acks.stop_waiting:
            acks.handle_stop_waiting(reported, number)
        acks.add(number, now_us)
        acks.packets_unreported += 1
        acks.schedule(
            now_us
            if acks.packets_unreported * self._packet_bytes >= ACK_EVERY_PACKETS * PACKET_BYTES
            else now_us + self._ack_delay_us
        )
        self._plan_ack()

    def _plan_ack(self) -> None:
        due_us = self._acks.due_at_us
        if due_us <= self.link.now_us:
            self._send_ack()
        elif not self.link.now_us < self._ack_planned_us <= due_us:
            self._ack_planned_us = due_us
            self.link.after(due_us - self.link.now_us, self._ack_due)

    def _ack_due(self) -> None:
        if self._acks.due_at_us <= self.link.now_us:
            self._send_ack()

    def _send_ack(self) -> None:
        now_us = self.link.now_us
        report = self._acks.report(now_us)
        if report.delay_us is not None and not (self._ack_loss and self.link.rng.random() < self._ack_loss):
            at_us = now_us + self._way_us
            if self._coalesce_us:
                at_us += -at_us % self._coalesce_us
            if self._jitter_us:
                at_us = max(at_us + self.link.rng.randrange(self._jitter_us), self._ack_came_us)
                self._ack_came_us = at_us
            latest, delay_us, blocks = report.latest, report.delay_us, report.blocks
            self.link.after(at_us - now_us, lambda: self._take_ack(latest, delay_us, blocks))
        if self._acks.due_at_us < 1 << 60:
            self._plan_ack()


class CubicFlow:
    """A model of a TCP sender with CUBIC; what a packet carries is not modelled, only that it arrives."""

    _C = 0.4
    _BETA = 0.7

    def __init__(self, link: Bottleneck, *, rtt_us: int, start_us: int = 0) -> None:
        self.link = link
        self.sink = Sink(link)
        self.window = 10.0
        """Packets."""
        self._way_us = rtt_us // 2
        self._threshold = 1e9
        self._window_max = 0.0
        self._epoch_us = -1
        self._reno = 0.0
        self._k_s = 0.0
        self._srtt_us = float(rtt_us)
        self._open: dict[int, int] = {}
        self._number = 0
        self._highest_acked = -1
        self._recover = -1
        self._heard_us = 0
        self._stopped = False
        link.after(start_us, self._start)

    def _start(self) -> None:
        self._heard_us = self.link.now_us
        self._check_timeout()
        self._send()

    def stop(self) -> None:
        """Send nothing any more."""
        self._stopped = True

    def _send(self) -> None:
        while not self._stopped and len(self._open) < int(self.window):
            number, sent_us = self._number, self.link.now_us
            self._number += 1
            self._open[number] = sent_us
            delay_us = self.link.enter(PACKET_BYTES)
            if delay_us is not None:
                self.link.after(delay_us + self._way_us, lambda number=number: self._arrived(number))  # type: ignore[misc]

    def _arrived(self, number: int) -> None:
        self.sink.add(PACKET_BYTES)
        self.link.after(self._way_us, lambda: self._acked(number))

    def _acked(self, number: int) -> None:
        now_us = self.link.now_us
        sent_us = self._open.pop(number, None)
        if sent_us is None:
            return
        self._heard_us = now_us
        self._srtt_us += (now_us - sent_us - self._srtt_us) / 8
        self._highest_acked = max(self._highest_acked, number)
        lost = []
        for older in self._open:
            if older > self._highest_acked - 3:
                break
            lost.append(older)
        for older in lost:
            del self._open[older]
            if older > self._recover:
                self._recover = self._number - 1
                self._shrink()
        if number > self._recover:
            self._grow(now_us)
        self._send()

    def _shrink(self) -> None:
        self._window_max = self.window if self.window >= self._window_max else self.window * (1 + self._BETA) / 2
        self.window = max(self.window * self._BETA, 2.0)
        self._threshold = self.window
        self._epoch_us = -1

    def _grow(self, now_us: int) -> None:
        if self.window < self._threshold:
            self.window += 1
            return
        if self._epoch_us < 0:
            self._epoch_us = now_us
            self._window_max = max(self._window_max, self.window)
            self._k_s = ((self._window_max - self.window) / self._C) ** (1 / 3)
            self._reno = self.window
        at_s = (now_us - self._epoch_us + self._srtt_us) / SECOND_US
        target = self._C * (at_s - self._k_s) ** 3 + self._window_max
        target = min(max(target, self.window), self.window * 1.5)
        self._reno += 3 * (1 - self._BETA) / (1 + self._BETA) / self.window
        self.window = max(self.window + (target - self.window) / self.window, self._reno)

    def _check_timeout(self) -> None:
        now_us = self.link.now_us
        if self._open and now_us - self._heard_us > max(200_000, 2 * self._srtt_us):
            self._shrink()
            self.window = 1.0
            self._open.clear()
            self._recover = self._number - 1
            self._heard_us = now_us
        if not self._open:
            self._send()
        self.link.after(50_000, self._check_timeout)


def jain(rates: list[float]) -> float:
    """Jain's index of fairness: 1 for equal shares, 1/n when one has all."""
    return sum(rates) ** 2 / (len(rates) * sum(rate * rate for rate in rates)) if any(rates) else 0.0
