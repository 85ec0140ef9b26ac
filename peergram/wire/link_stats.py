"""The statistics blob in front of a data packet's ciphertext (chapter 14 of the SNP protocol; `CMsgSteamSockets_UDP_Stats`).

Most blobs only ask for an answer: `18 02` (please acknowledge) and `18 06` (at once), which take a short way. Reports are rare,
one in 20 s, and go through protobuf. The blob is not encrypted: what it says is a hint, never a fact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from peergram.wire.proto import link_stats_pb2 as pb
from peergram.wire.proto.message import parse, within

ACK_REQUEST: Final = 2
"""`ACK_REQUEST_E2E`: answer within the reply time; implied by any report."""
ACK_REQUEST_IMMEDIATE: Final = 4
"""`ACK_REQUEST_IMMEDIATE`: answer at once."""
NOT_PRIMARY: Final = 16
"""`NOT_PRIMARY_TRANSPORT_E2E`: the sender prefers another route."""

STATS_BYTES_MAX: Final = 1_300
"""More fits no packet."""

_PLEASE_ACK: Final = b"\x18\x02"
_ACK_AT_ONCE: Final = b"\x18\x06"

QUALITY_HISTOGRAM: Final = ("100", "99", "97", "95", "90", "75", "50", "1", "dead")
"""Lower bounds of what arrived, in percent of what was sent."""
QUALITY_NTILES: Final = ("2nd", "5th", "25th", "50th")
PING_HISTOGRAM: Final = ("25", "50", "75", "100", "125", "150", "200", "300", "max")
"""Upper bounds in ms."""
PING_NTILES: Final = ("5th", "50th", "75th", "95th", "98th")
JITTER_HISTOGRAM: Final = ("negligible", "1", "2", "5", "10", "20")
"""Bounds in ms."""

_COUNTERS: Final = (
    "packets_sent",
    "kb_sent",
    "packets_recv",
    "kb_recv",
    "packets_recv_sequenced",
    "packets_recv_dropped",
    "packets_recv_out_of_order",
    "packets_recv_duplicate",
    "packets_recv_lurch",
    "packets_recv_out_of_order_corrected",
)
_HISTOGRAMS: Final = {
    "quality_histogram": tuple(f"quality_histogram_{bound}" for bound in QUALITY_HISTOGRAM),
    "ping_histogram": tuple(f"ping_histogram_{bound}" for bound in PING_HISTOGRAM),
    "jitter_histogram": tuple(f"jitter_histogram_{bound}" for bound in JITTER_HISTOGRAM),
}
_NTILES: Final = {
    "quality_ntiles": tuple(f"quality_ntile_{rank}" for rank in QUALITY_NTILES),
    "ping_ntiles": tuple(f"ping_ntile_{rank}" for rank in PING_NTILES),
}
_OPTIONAL: Final = ("ping_ms", "packets_dropped_pct", "packets_weird_pct", "peak_jitter_us")


@dataclass(slots=True)
class InstantaneousStats:
    """Rates and quality of the sender's last interval; None where unknown. Rates are what the sender sent and received."""

    out_packets_per_s_x10: int
    out_bytes_per_s: int
    in_packets_per_s_x10: int
    in_bytes_per_s: int
    ping_ms: int | None = None
    packets_dropped_pct: int | None = None
    packets_weird_pct: int | None = None
    peak_jitter_us: int | None = None


@dataclass(slots=True)
class LifetimeStats:
    """Totals of the whole connection as the sender saw it.

    Histograms are counts of intervals, in the order of the tables above; ntiles are None where unknown. 1 kb is 1024 bytes.
    """

    connected_s: int
    packets_sent: int = 0
    kb_sent: int = 0
    packets_recv: int = 0
    kb_recv: int = 0
    packets_recv_sequenced: int = 0
    packets_recv_dropped: int = 0
    packets_recv_out_of_order: int = 0
    packets_recv_duplicate: int = 0
    packets_recv_lurch: int = 0
    packets_recv_out_of_order_corrected: int = 0
    quality_histogram: tuple[int, ...] = (0,) * len(QUALITY_HISTOGRAM)
    quality_ntiles: tuple[int | None, ...] = (None,) * len(QUALITY_NTILES)
    ping_histogram: tuple[int, ...] = (0,) * len(PING_HISTOGRAM)
    ping_ntiles: tuple[int | None, ...] = (None,) * len(PING_NTILES)
    jitter_histogram: tuple[int, ...] = (0,) * len(JITTER_HISTOGRAM)


@dataclass(slots=True)
class UdpStats:
    """One blob. `flags` are those in force: a report implies `ACK_REQUEST`, written out or not."""

    instantaneous: InstantaneousStats | None = None
    lifetime: LifetimeStats | None = None
    flags: int = 0


def decode_stats(blob: bytes) -> UdpStats:
    """Read a blob without its length; raises WireError."""
    if blob == _PLEASE_ACK:
        return UdpStats(flags=ACK_REQUEST)
    if blob == _ACK_AT_ONCE:
        return UdpStats(flags=ACK_REQUEST | ACK_REQUEST_IMMEDIATE)
    message = parse(pb.UdpStats, within(blob, STATS_BYTES_MAX, "statistics"))
    if not message.HasField("stats"):
        return UdpStats(flags=message.flags)
    report = message.stats
    return UdpStats(
        instantaneous=_instantaneous_from(report.instantaneous) if report.HasField("instantaneous") else None,
        lifetime=_lifetime_from(report.lifetime) if report.HasField("lifetime") else None,
        flags=message.flags | ACK_REQUEST,
    )


def encode_stats(stats: UdpStats) -> bytes:
    """The blob without its length; empty (then no blob is sent) if there is neither a report nor a flag."""
    if stats.instantaneous is None and stats.lifetime is None:
        if stats.flags == ACK_REQUEST:
            return _PLEASE_ACK
        if stats.flags == ACK_REQUEST | ACK_REQUEST_IMMEDIATE:
            return _ACK_AT_ONCE
        return pb.UdpStats(flags=stats.flags or None).SerializeToString()
    flags = stats.flags | ACK_REQUEST
    report = pb.ConnectionQuality(
        instantaneous=_instantaneous_into(stats.instantaneous) if stats.instantaneous else None,
        lifetime=_lifetime_into(stats.lifetime) if stats.lifetime else None,
    )
    return pb.UdpStats(stats=report, flags=None if flags == ACK_REQUEST else flags).SerializeToString()


def _instantaneous_from(message: pb.InstantaneousStats) -> InstantaneousStats:
    return InstantaneousStats(
        message.out_packets_per_s_x10,
        message.out_bytes_per_s,
        message.in_packets_per_s_x10,
        message.in_bytes_per_s,
        *(getattr(message, name) if message.HasField(name) else None for name in _OPTIONAL),
    )


def _instantaneous_into(stats: InstantaneousStats) -> pb.InstantaneousStats:
    return pb.InstantaneousStats(
        out_packets_per_s_x10=stats.out_packets_per_s_x10,
        out_bytes_per_s=stats.out_bytes_per_s,
        in_packets_per_s_x10=stats.in_packets_per_s_x10,
        in_bytes_per_s=stats.in_bytes_per_s,
        ping_ms=stats.ping_ms,
        packets_dropped_pct=stats.packets_dropped_pct,
        packets_weird_pct=stats.packets_weird_pct,
        peak_jitter_us=stats.peak_jitter_us,
    )


def _lifetime_from(message: pb.LifetimeStats) -> LifetimeStats:
    values: dict[str, Any] = {name: getattr(message, name) for name in _COUNTERS}
    for attribute, names in _HISTOGRAMS.items():
        values[attribute] = tuple(getattr(message, name) for name in names)
    for attribute, names in _NTILES.items():
        values[attribute] = tuple(getattr(message, name) if message.HasField(name) else None for name in names)
    return LifetimeStats(connected_s=message.connected_s, **values)


def _lifetime_into(stats: LifetimeStats) -> pb.LifetimeStats:
    """Counters always, histogram entries above 0, known ntiles: as the reference writes them."""
    values: dict[str, Any] = {name: getattr(stats, name) for name in _COUNTERS}
    for attribute, names in _HISTOGRAMS.items():
        values.update((name, count or None) for name, count in zip(names, getattr(stats, attribute), strict=True))
    for attribute, names in _NTILES.items():
        values.update(zip(names, getattr(stats, attribute), strict=True))
    return pb.LifetimeStats(connected_s=stats.connected_s, **values)
