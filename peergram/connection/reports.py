"""Statistics records for the peer, made from our counters; and his, read into them. Protocol part 2, section 14."""

from __future__ import annotations

from peergram.connection.flow import Flow
from peergram.connection.stats import REPORT_INSTANT, REPORT_LIFETIME
from peergram.wire.link_stats import InstantaneousStats, LifetimeStats, UdpStats


def fill_report(flow: Flow, kinds: int, now_us: int) -> UdpStats:
    """The records of these kinds (bit mask of `REPORT_*`), as of now."""
    return UdpStats(
        instantaneous=_instantaneous(flow, now_us) if kinds & REPORT_INSTANT else None,
        lifetime=_lifetime(flow, now_us) if kinds & REPORT_LIFETIME else None,
    )


def take_report(flow: Flow, record: UdpStats) -> None:
    """What the peer says of the packets he got from us: a hint, since it is not authenticated."""
    theirs = record.instantaneous
    if theirs is None or theirs.packets_dropped_pct is None or theirs.packets_weird_pct is None:
        return
    flow.stats.remote_quality = max(100 - theirs.packets_dropped_pct - theirs.packets_weird_pct, 0) / 100


def _instantaneous(flow: Flow, now_us: int) -> InstantaneousStats:
    stats = flow.stats
    rates = stats.rates(now_us)
    losses = stats.losses(now_us)
    peak_jitter_us, stats.peak_jitter_us = stats.peak_jitter_us, None
    return InstantaneousStats(
        out_packets_per_s_x10=_u32(rates.out_packets * 10),
        out_bytes_per_s=_u32(rates.out_bytes),
        in_packets_per_s_x10=_u32(rates.in_packets * 10),
        in_bytes_per_s=_u32(rates.in_bytes),
        ping_ms=flow.round_trip.ping_ms,
        packets_dropped_pct=None if losses is None else int(losses[0] * 100),
        packets_weird_pct=None if losses is None else min(int(losses[1] * 100), 100),
        peak_jitter_us=peak_jitter_us,
    )


def _lifetime(flow: Flow, now_us: int) -> LifetimeStats:
    stats = flow.stats
    return LifetimeStats(
        connected_s=max((now_us - stats.connected_at_us + 500_000) // 1_000_000, 1),
        packets_sent=stats.packets_sent,
        kb_sent=(stats.bytes_sent + 512) // 1024,
        packets_recv=stats.packets_received,
        kb_recv=(stats.bytes_received + 512) // 1024,
        packets_recv_sequenced=stats.sequenced,
        packets_recv_dropped=stats.dropped,
        packets_recv_out_of_order=stats.out_of_order,
        packets_recv_duplicate=stats.duplicate,
        packets_recv_lurch=stats.lurch,
        quality_histogram=tuple(stats.quality_histogram),
        ping_histogram=tuple(stats.ping_histogram),
        jitter_histogram=tuple(stats.jitter_histogram),
    )


def _u32(value: float) -> int:
    return min(int(value), 0xFFFFFFFF)
