"""Data packet headers against recorded ones, and the expansion of packet numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peergram.errors import UsageError, WireError
from peergram.wire.data_packet import (
    DATA_HEADER_BYTES,
    TIME_SINCE_PREVIOUS_MAX_US,
    DataHeader,
    decode_data_header,
    encode_data_header,
    expand_packet_number,
)

VECTORS_DIR = Path(__file__).parent.parent / "vectors"
CRYPTO: dict[str, Any] = json.loads((VECTORS_DIR / "01-crypto.json").read_text())
UDP_HEADERS: list[dict[str, Any]] = json.loads((VECTORS_DIR / "02-snp.json").read_text())["udp_headers"]
TAG_BYTES = 16


def number(value: int | str) -> int:
    return int(value, 16) if isinstance(value, str) else value


@pytest.mark.parametrize("row", CRYPTO["packet_number_expansion"], ids=lambda row: f"{row['max_received']}-{row['wire']}")
def test_packet_numbers_expand_as_in_the_vectors(row: dict[str, Any]) -> None:
    assert expand_packet_number(row["wire"], number(row["max_received"])) == number(row["expanded"])


@given(st.integers(0, 1 << 50), st.integers(-32768, 32767))
def test_a_packet_number_near_the_highest_is_found_again(highest: int, distance: int) -> None:
    assert expand_packet_number((highest + distance) & 0xFFFF, highest) == highest + distance


@pytest.mark.parametrize("packet", CRYPTO["data_packets"], ids=lambda packet: packet["name"])
def test_headers_of_sealed_packets_are_read_and_written(packet: dict[str, Any]) -> None:
    datagram = bytes.fromhex(packet["packet"])
    blob = None if packet["stats_blob"] is None else bytes.fromhex(packet["stats_blob"])
    time_us = None if packet["time_since_prev"] is None else packet["time_since_prev"] * 16
    header = decode_data_header(datagram)
    assert header == DataHeader(packet["to_connection_id"], packet["wire_sequence"], blob, time_us, header.payload_at)
    overhead = TAG_BYTES if packet["cipher"] == 2 else 0
    assert len(datagram) - header.payload_at == len(packet["plaintext"]) // 2 + overhead
    written = encode_data_header(
        packet["to_connection_id"], number(packet["packet_number"]), stats_blob=blob, time_since_previous_us=time_us
    )
    assert written == datagram[: header.payload_at]


def test_there_are_60_recorded_headers() -> None:
    assert len(UDP_HEADERS) == 60


@pytest.mark.parametrize("row", UDP_HEADERS, ids=lambda row: row["id"])
def test_recorded_headers_are_read_and_written(row: dict[str, Any]) -> None:
    raw = bytes.fromhex(row["header"])
    header = decode_data_header(raw + bytes(row["encrypted_chunk_size"]))
    assert (header.connection_id, header.number16) == (row["to_connection_id"], row["seq16"])
    assert (header.stats_blob is not None) == ("stats_blob" in row) == bool(row["flags"] & 1)
    assert header.time_since_previous_us == row.get("time_since_prev_usec")
    assert header.payload_at == len(raw) == row["udp_size"] - row["encrypted_chunk_size"]
    written = encode_data_header(
        header.connection_id,
        header.number16,
        stats_blob=header.stats_blob,
        time_since_previous_us=header.time_since_previous_us,
    )
    assert written == raw


@given(
    st.integers(0, (1 << 32) - 1),
    st.integers(0, 1 << 48),
    st.none() | st.binary(max_size=300),
    st.none() | st.integers(0, TIME_SINCE_PREVIOUS_MAX_US),
    st.binary(max_size=20),
)
def test_a_header_is_read_back(
    connection_id: int, packet_number: int, blob: bytes | None, time_us: int | None, rest: bytes
) -> None:
    raw = encode_data_header(connection_id, packet_number, stats_blob=blob, time_since_previous_us=time_us)
    read_us = None if time_us is None else time_us // 16 * 16
    assert decode_data_header(raw + rest) == DataHeader(connection_id, packet_number & 0xFFFF, blob, read_us, len(raw))
    for cut in range(len(raw)):
        with pytest.raises(WireError):
            decode_data_header(raw[:cut])


def test_an_empty_blob_is_a_blob_and_unused_flag_bits_do_not_matter() -> None:
    fixed = bytes.fromhex("887766550200")
    assert decode_data_header(b"\x81" + fixed + b"\x00") == DataHeader(0x55667788, 2, b"", None, 8)
    assert decode_data_header(b"\xfc" + fixed) == DataHeader(0x55667788, 2, None, None, DATA_HEADER_BYTES)


@pytest.mark.parametrize(
    "datagram",
    [
        "",
        "808877665502",
        "00887766550200",  # not a data packet
        "81887766550200",  # no blob size
        "81887766550200" + "8080808080" + "00",  # a size of six bytes
        "81887766550200" + "ffffffff1f",  # a size above 32 bits
        "81887766550200" + "0318",  # a blob beyond the end
        "82887766550200" + "01",  # half a time
        "83887766550200" + "021802" + "01",
    ],
)
def test_malformed_headers_are_refused(datagram: str) -> None:
    with pytest.raises(WireError):
        decode_data_header(bytes.fromhex(datagram))


@pytest.mark.parametrize(
    ("connection_id", "packet_number", "time_us"), [(1 << 32, 2, None), (-1, 2, None), (1, -1, None), (1, 2, 1 << 20), (1, 2, -1)]
)
def test_headers_that_cannot_be_written_are_a_usage_error(connection_id: int, packet_number: int, time_us: int | None) -> None:
    with pytest.raises(UsageError):
        encode_data_header(connection_id, packet_number, time_since_previous_us=time_us)
