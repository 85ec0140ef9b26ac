"""The statistics blob: the reference's bytes, implied flags, absent values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peergram.errors import WireError
from peergram.wire.link_stats import (
    ACK_REQUEST,
    ACK_REQUEST_IMMEDIATE,
    NOT_PRIMARY,
    InstantaneousStats,
    LifetimeStats,
    UdpStats,
    decode_stats,
    encode_stats,
)
from tests.vectors_data import load

U32, U64 = st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 64) - 1)
MAYBE = st.none() | U32
INSTANTANEOUS = st.builds(InstantaneousStats, U32, U32, U32, U32, MAYBE, MAYBE, MAYBE, MAYBE)
LIFETIME = st.builds(
    LifetimeStats,
    U32,
    *[U64] * 10,
    st.tuples(*[U32] * 9),
    st.tuples(*[MAYBE] * 4),
    st.tuples(*[U32] * 9),
    st.tuples(*[MAYBE] * 5),
    st.tuples(*[U32] * 6),
)


def recorded_blob() -> bytes:
    packet = bytes.fromhex(load("01-crypto")["recorded_stats_packet"]["packet"])
    return packet[8 : 8 + packet[7]]


@pytest.mark.parametrize(
    ("blob", "flags"),
    [
        (b"\x18\x02", ACK_REQUEST),
        (b"\x18\x06", ACK_REQUEST | ACK_REQUEST_IMMEDIATE),
        (b"\x18\x12", ACK_REQUEST | NOT_PRIMARY),
        (b"", 0),
    ],
)
def test_a_blob_of_flags_alone_is_read_and_written(blob: bytes, flags: int) -> None:
    assert decode_stats(blob) == UdpStats(flags=flags)
    assert encode_stats(UdpStats(flags=flags)) == blob


def test_the_short_way_and_the_long_way_read_the_same() -> None:
    for blob in (b"\x18\x02", b"\x18\x06"):
        assert decode_stats(blob) == decode_stats(blob + b"\x22\x00")


def test_two_decoded_blobs_share_nothing() -> None:
    first = decode_stats(b"\x18\x02")
    first.flags = 99
    assert decode_stats(b"\x18\x02").flags == ACK_REQUEST


def test_the_recorded_report_of_the_reference_is_read_and_written_byte_for_byte() -> None:
    stats = decode_stats(recorded_blob())
    assert stats == UdpStats(
        InstantaneousStats(39, 167, 79, 258, ping_ms=0, packets_dropped_pct=0, packets_weird_pct=0), flags=ACK_REQUEST
    )
    assert encode_stats(stats) == recorded_blob()


def test_a_report_implies_the_wish_for_an_answer_and_other_flags_are_written_with_it() -> None:
    report = InstantaneousStats(1, 2, 3, 4)
    assert (
        encode_stats(UdpStats(report))
        == encode_stats(UdpStats(report, flags=ACK_REQUEST))
        == bytes.fromhex("0a0a 0a08 0801100218032004")
    )
    urgent = encode_stats(UdpStats(report, flags=ACK_REQUEST_IMMEDIATE))
    assert urgent.endswith(b"\x18\x06")
    assert decode_stats(urgent).flags == ACK_REQUEST | ACK_REQUEST_IMMEDIATE
    assert decode_stats(b"\x0a\x00") == UdpStats(flags=ACK_REQUEST)


def test_lifetime_counters_are_always_written_histograms_above_zero_and_ntiles_if_known() -> None:
    nothing = encode_stats(UdpStats(lifetime=LifetimeStats(1)))
    assert nothing == bytes.fromhex("0a18 1216 1001 1800 2000 2800 3000 3800 4000 4800 5000 5800 7800")
    some = LifetimeStats(1, quality_histogram=(5, *[0] * 8), ping_ntiles=(None, 0, None, None, None))
    assert encode_stats(UdpStats(lifetime=some)).endswith(bytes.fromhex("7800 a80105 980300"))


@given(st.builds(UdpStats, st.none() | INSTANTANEOUS, st.none() | LIFETIME, U32))
def test_every_report_survives_the_wire(stats: UdpStats) -> None:
    if stats.instantaneous or stats.lifetime:
        stats.flags |= ACK_REQUEST
    assert decode_stats(encode_stats(stats)) == stats


def test_fields_for_several_paths_and_unknown_ones_are_skipped() -> None:
    lifetime = bytes.fromhex("1001 6005 6806 7001 c03e07")
    blob = b"\x0a" + bytes((len(lifetime) + 2,)) + b"\x12" + bytes((len(lifetime),)) + lifetime
    assert decode_stats(blob) == UdpStats(lifetime=LifetimeStats(1), flags=ACK_REQUEST)


@pytest.mark.parametrize("blob", [b"\x18", b"\x0a\x05", b"\x18" + b"\xff" * 11, b"\x0b" * 1_000, b"\xfa\x7f" * 3, bytes(1_301)])
def test_a_broken_blob_is_a_wire_error(blob: bytes) -> None:
    with pytest.raises(WireError):
        decode_stats(blob)
