"""Counters of one connection, and what is reported from them: to the application at once, to the peer now and then.

Rates and quality are those of the last one or two windows, so that they follow the traffic (the reference freezes them for 5 s,
G11); no packet pays for that, since only totals are counted. Protocol part 2, section 14.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Final, NamedTuple

from peergram.config import (
    STATS_INSTANT_FORCED_US,
    STATS_INSTANT_US,
    STATS_INTERVAL_US,
    STATS_LIFETIME_FORCED_US,
    STATS_LIFETIME_US,
)
from peergram.timing import NEVER

REPORT_INSTANT: Final = 1
REPORT_LIFETIME: Final = 2

_RATE_WINDOW_US: Final = 1_000_000
_LOOK_EVERY_US: Final = 100_000
_LURCH_JUMP: Final = 100
_PING_BOUNDS_MS: Final = (25, 50, 75, 100, 125, 150, 200, 300)
_JITTER_BOUNDS_US: Final = (1_000, 2_000, 5_000, 10_000, 20_000)
_QUALITY_BOUNDS: Final = (100, 99, 97, 95, 90, 75, 50, 1)


class Totals(NamedTuple):
    """Counters at one moment."""

    at_us: int
    packets_sent: int
    bytes_sent: int
    packets_received: int
    bytes_received: int
    sequenced: int
    dropped: int
    weird: int


class Rates(NamedTuple):
    """Per second, over the last one to two seconds."""

    out_packets: float
    out_bytes: float
    in_packets: float
    in_bytes: float


class Window:
    """The totals one to two windows ago, to subtract from now."""

    __slots__ = ("_newer", "_older", "_width_us")

    def __init__(self, width_us: int, totals: Totals) -> None:
        self._width_us = width_us
        self._older = totals
        self._newer = totals

    def since(self, totals: Totals) -> Totals:
        """The totals to compare with; rolls on when a window is full."""
        if totals.at_us - self._newer.at_us >= self._width_us:
            self._older, self._newer = self._newer, totals
        return self._older


class _Reported:
    """When the last report of a kind went to the peer, and how many packets there had been until then."""

    __slots__ = ("at_us", "packets")

    def __init__(self, now_us: int) -> None:
        self.at_us = now_us
        self.packets = 0


class Stats:
    """What one connection counted."""

    __slots__ = (
        "_instant",
        "_lifetime",
        "_quality",
        "_quality_sampled_at_us",
        "_rates",
        "_report_in_flight",
        "bytes_received",
        "bytes_sent",
        "connected_at_us",
        "dropped",
        "duplicate",
        "forced_at_us",
        "jitter_histogram",
        "look_at_us",
        "lurch",
        "max_jitter_us",
        "messages_received_reliable",
        "messages_received_unreliable",
        "messages_sent_reliable",
        "messages_sent_unreliable",
        "out_of_order",
        "packets_received",
        "packets_sent",
        "peak_jitter_us",
        "ping_histogram",
        "quality_histogram",
        "remote_quality",
        "retransmitted_segments",
        "sequenced",
    )

    def __init__(self, now_us: int) -> None:
        self.connected_at_us = now_us
        self.packets_sent = 0
        self.bytes_sent = 0
        self.packets_received = 0
        self.bytes_received = 0
        self.sequenced = 0
        """Packets with a number, refused ones included."""
        self.dropped = 0
        """Numbers that never came, as far as we know."""
        self.out_of_order = 0
        self.duplicate = 0
        self.lurch = 0
        self.messages_sent_reliable = 0
        self.messages_sent_unreliable = 0
        self.messages_received_reliable = 0
        self.messages_received_unreliable = 0
        self.retransmitted_segments = 0
        self.max_jitter_us: int | None = None
        self.peak_jitter_us: int | None = None
        """Largest since the last report to the peer."""
        self.remote_quality: float | None = None
        self.ping_histogram = [0] * (len(_PING_BOUNDS_MS) + 1)
        self.jitter_histogram = [0] * (len(_JITTER_BOUNDS_US) + 1)
        self.quality_histogram = [0] * (len(_QUALITY_BOUNDS) + 1)
        totals = self._totals(now_us)
        self._rates = Window(_RATE_WINDOW_US, totals)
        self._quality = Window(STATS_INTERVAL_US, totals)
        self._quality_sampled_at_us = now_us
        self._instant = _Reported(now_us)
        self._lifetime = _Reported(now_us)
        self._report_in_flight = 0
        self.forced_at_us = NEVER
        """When `report_forced` should be asked next; not while the fate of a report is open."""
        self._plan_forced()
        self.look_at_us = now_us + _LOOK_EVERY_US
        """From when on `report_due` may find something, unless the fate of a report is open."""

    def _totals(self, now_us: int) -> Totals:
        weird = self.out_of_order + self.duplicate + self.lurch
        return Totals(
            now_us,
            self.packets_sent,
            self.bytes_sent,
            self.packets_received,
            self.bytes_received,
            self.sequenced,
            self.dropped,
            weird,
        )

    # --- counting ---

    def count_number(self, jump: int) -> None:
        """A new packet number came, `jump` above the highest one (0 or less: late)."""
        self.sequenced += 1
        if jump == 1:
            return
        if jump >= _LURCH_JUMP:
            self.lurch += 1
        elif jump > 1:
            self.dropped += jump - 1
        else:
            self.out_of_order += 1
            self.dropped = max(self.dropped - 1, 0)

    def count_jitter(self, jitter_us: int) -> None:
        """Two packets in a row were this much further apart or closer than when they were sent."""
        self.max_jitter_us = max(self.max_jitter_us or 0, jitter_us)
        self.peak_jitter_us = max(self.peak_jitter_us or 0, jitter_us)
        self.jitter_histogram[bisect_right(_JITTER_BOUNDS_US, jitter_us)] += 1

    def count_ping(self, ping_ms: int) -> None:
        """A round trip was measured."""
        self.ping_histogram[bisect_left(_PING_BOUNDS_MS, ping_ms)] += 1

    # --- reports ---

    def rates(self, now_us: int) -> Rates:
        """Per second, now."""
        totals = self._totals(now_us)
        before = self._rates.since(totals)
        seconds = max(now_us - before.at_us, 1) / 1_000_000
        return Rates(
            (totals.packets_sent - before.packets_sent) / seconds,
            (totals.bytes_sent - before.bytes_sent) / seconds,
            (totals.packets_received - before.packets_received) / seconds,
            (totals.bytes_received - before.bytes_received) / seconds,
        )

    def losses(self, now_us: int) -> tuple[float, float] | None:
        """(dropped, out of sequence) as shares 0..1 of the last 5 to 10 s; None if nothing came."""
        totals = self._totals(now_us)
        before = self._quality.since(totals)
        received = totals.sequenced - before.sequenced
        dropped = max(totals.dropped - before.dropped, 0)
        if received <= 0:
            return None
        return dropped / (received + dropped), (totals.weird - before.weird) / (received + dropped)

    def local_quality(self, now_us: int) -> float | None:
        """Share of packets that came, and in order, 0..1; None if nothing came lately."""
        losses = self.losses(now_us)
        return None if losses is None else max(1.0 - losses[0] - losses[1], 0.0)

    def sample_quality(self, now_us: int) -> None:
        """Count the quality of an interval; call now and then, it does something every 5 s."""
        if now_us - self._quality_sampled_at_us < STATS_INTERVAL_US:
            return
        self._quality_sampled_at_us = now_us
        quality = self.local_quality(now_us)
        if quality is not None:
            percent = 100 if quality == 1.0 else min(max(int(quality * 100), 1), 99)
            self.quality_histogram[sum(percent < bound for bound in _QUALITY_BOUNDS)] += 1

    # --- when to tell the peer ---

    def report_due(self, now_us: int, *, own_peer: bool) -> int:
        """Kinds of report that should ride on the next packet; 0 for none. Looks ten times a second, whatever the traffic."""
        if self._report_in_flight or now_us < self.look_at_us:
            return 0
        self.look_at_us = now_us + _LOOK_EVERY_US
        instant_us = STATS_INTERVAL_US if own_peer else STATS_INSTANT_US
        elapsed_us = now_us - self._instant.at_us
        due = 0
        if elapsed_us >= instant_us and self._traffic(self._instant) > elapsed_us // 3_000_000:
            due |= REPORT_INSTANT
        if now_us - self._lifetime.at_us >= STATS_LIFETIME_US and self._traffic(self._lifetime) > 100:
            due |= REPORT_LIFETIME
        return due

    def report_forced(self, now_us: int) -> int:
        """Kinds of report that are due even if nothing else is sent."""
        if self._report_in_flight:
            return 0
        due = 0
        elapsed_us = now_us - self._instant.at_us
        if elapsed_us >= STATS_INSTANT_FORCED_US:
            if self._traffic(self._instant) > elapsed_us // 3_000_000:
                due |= REPORT_INSTANT
            else:
                self._restart(self._instant, now_us)
        if now_us - self._lifetime.at_us >= STATS_LIFETIME_FORCED_US:
            if self._traffic(self._lifetime) > 100:
                due |= REPORT_LIFETIME
            else:
                self._restart(self._lifetime, now_us)
        return due

    def _plan_forced(self) -> None:
        self.forced_at_us = NEVER
        if not self._report_in_flight:
            self.forced_at_us = min(
                self._instant.at_us + STATS_INSTANT_FORCED_US, self._lifetime.at_us + STATS_LIFETIME_FORCED_US
            )

    def _traffic(self, last: _Reported) -> int:
        return self.sequenced + self.packets_sent - last.packets

    def _restart(self, last: _Reported, now_us: int) -> None:
        last.at_us = now_us
        last.packets = self.sequenced + self.packets_sent
        self._plan_forced()

    def report_sent(self, kinds: int) -> None:
        """A packet with these reports is on its way; no other is sent until its fate is known."""
        self._report_in_flight = kinds
        self._plan_forced()

    def report_dropped(self, kind: int, now_us: int) -> None:
        """This kind of report fits no packet: the next one is tried a whole interval later."""
        self._restart(self._instant if kind == REPORT_INSTANT else self._lifetime, now_us)

    def report_settled(self, kinds: int, *, arrived: bool, now_us: int) -> None:
        """The packet with these reports arrived, or did not."""
        self._report_in_flight = 0
        self._plan_forced()
        if arrived:
            if kinds & REPORT_INSTANT:
                self._restart(self._instant, now_us)
            if kinds & REPORT_LIFETIME:
                self._restart(self._lifetime, now_us)
