"""The statistics blob of data packets."""

from __future__ import annotations

from fuzz.run import load_vectors, run
from peergram.errors import WireError
from peergram.wire.link_stats import LifetimeStats, UdpStats, decode_stats, encode_stats


def fuzz_one(data: bytes) -> None:
    """A blob is refused with WireError, or gives statistics that read the same after being written again."""
    try:
        stats = decode_stats(data)
    except WireError:
        return
    assert decode_stats(encode_stats(stats)) == stats


def seeds() -> list[bytes]:
    """The common blobs, the recorded report and a lifetime report."""
    packet = bytes.fromhex(load_vectors("01-crypto")["recorded_stats_packet"]["packet"])
    lifetime = LifetimeStats(9, 1, 2, 3, 4, quality_histogram=tuple(range(9)), ping_ntiles=(1, 2, 3, 4, 5))
    return [b"\x18\x02", b"\x18\x06", packet[8 : 8 + packet[7]], encode_stats(UdpStats(lifetime=lifetime))]


if __name__ == "__main__":
    run(fuzz_one, seeds())
