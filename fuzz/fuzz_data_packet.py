"""Fuzz target: the unencrypted header of a data packet."""

from __future__ import annotations

from peergram.errors import WireError
from peergram.wire.data_packet import decode_data_header, encode_data_header, expand_packet_number

HIGHEST = 0x1_2345_6789


def fuzz_one(data: bytes) -> None:
    """Any datagram gives a header that lies inside it or `WireError`; the header written again is read as the same values."""
    try:
        header = decode_data_header(data)
    except WireError:
        return
    assert 7 <= header.payload_at <= len(data)
    again = encode_data_header(
        header.connection_id,
        header.number16,
        stats_blob=header.stats_blob,
        time_since_previous_us=header.time_since_previous_us,
    )
    assert len(again) <= header.payload_at
    header.payload_at = len(again)
    assert decode_data_header(again) == header
    packet_number = expand_packet_number(header.number16, HIGHEST)
    assert packet_number & 0xFFFF == header.number16
    assert -0x8000 <= packet_number - HIGHEST < 0x8000


if __name__ == "__main__":
    from fuzz.run import load_vectors, run

    run(fuzz_one, [bytes.fromhex(row["header"]) for row in load_vectors("02-snp")["udp_headers"]])
