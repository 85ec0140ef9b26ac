"""Control packets: the reference's datagrams byte for byte, and nothing but WireError for anything else."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peergram.config import PADDED_BYTES_MIN
from peergram.errors import WireError
from peergram.wire.certificates import IdentityFields, LegacyIdentity, SignedCertificate, SignedCryptInfo
from peergram.wire.control import (
    ChallengeReply,
    ChallengeRequest,
    ConnectionClosed,
    ConnectOk,
    ConnectRequest,
    ControlMessage,
    NoConnection,
    decode_control,
    encode_control,
)
from tests.vectors_data import control_packets, number

PACKETS = control_packets()
CLASSES: dict[str, type[ControlMessage]] = {
    "ChallengeRequest": ChallengeRequest,
    "ChallengeReply": ChallengeReply,
    "ConnectRequest": ConnectRequest,
    "ConnectOK": ConnectOk,
    "ConnectionClosed": ConnectionClosed,
    "NoConnection": NoConnection,
}
OUR_NAMES = {"delay_time_usec": "delay_time_us"}
DEEP = b"\x0b" * 10_000
"""Ten thousand groups, each inside the other."""


def packet(kind: str) -> bytes:
    datagram: bytes = next(row["datagram"] for row in PACKETS if row["kind"] == kind)
    return datagram


def padded(lead: int, body: bytes) -> bytes:
    return (bytes((lead,)) + len(body).to_bytes(2, "little") + body).ljust(PADDED_BYTES_MIN, b"\0")


def test_the_vectors_hold_every_kind() -> None:
    assert set(Counter(row["kind"] for row in PACKETS)) == set(CLASSES)


@pytest.mark.parametrize("row", PACKETS, ids=lambda row: row["kind"])
def test_recorded_packets_decode_to_their_fields(row: dict[str, Any]) -> None:
    message = decode_control(row["datagram"])
    assert type(message) is CLASSES[row["kind"]]
    for name, value in row["fields"].items():
        ours = getattr(message, OUR_NAMES.get(name, name), None)
        if name == "cert":
            assert ours == SignedCertificate(bytes.fromhex(value["cert"]))
        elif name == "crypt":
            assert ours == SignedCryptInfo(bytes.fromhex(value["info"]), bytes.fromhex(value["signature"]))
        elif name == "debug":
            assert ours == value
        elif not name.startswith(("legacy", "identity")):
            assert ours == number(value)


@pytest.mark.parametrize("row", PACKETS, ids=lambda row: row["kind"])
def test_recorded_packets_encode_to_the_same_bytes(row: dict[str, Any]) -> None:
    assert encode_control(decode_control(row["datagram"])) == row["datagram"]


@pytest.mark.parametrize(
    "message",
    [
        ChallengeRequest(1, 2, 13),
        ChallengeReply(0xFFFF_FFFF, (1 << 64) - 1, 0, 8),
        ConnectRequest(1, 2, None, None, SignedCertificate(b"c"), SignedCryptInfo(b"i", b"s"), IdentityFields()),
        ConnectRequest(1, 2, 0, 0, SignedCertificate(b"c", 0, b"s"), SignedCryptInfo(b"", b""), IdentityFields(b"str:\xff")),
        ConnectOk(
            1,
            2,
            3,
            4,
            SignedCertificate(b"", 7, b"s" * 64),
            SignedCryptInfo(b"i", b"s"),
            IdentityFields(b"", LegacyIdentity(b"", None, bytes(18), 0), 0),
        ),
        ConnectOk(
            1, 2, None, None, SignedCertificate(b"c"), SignedCryptInfo(b"i", b"s"), IdentityFields(None, LegacyIdentity(), 5)
        ),
        ConnectionClosed(0, 0, 0, ""),
        ConnectionClosed(1, 2, 1000, "é" * 63),
        NoConnection(0, 5),
    ],
    ids=lambda message: type(message).__name__,
)
def test_absent_zero_and_empty_fields_stay_apart(message: ControlMessage) -> None:
    assert decode_control(encode_control(message)) == message


def test_a_no_connection_without_ids_is_a_single_byte_that_nobody_reads() -> None:
    assert encode_control(NoConnection(0, 0)) == b"\x25"
    with pytest.raises(WireError):
        decode_control(b"\x25")


@pytest.mark.parametrize("kind", ["ChallengeRequest", "ConnectionClosed"])
def test_padded_packets_keep_the_framing_rules(kind: str) -> None:
    whole = packet(kind)
    length = int.from_bytes(whole[1:3], "little")
    assert decode_control(whole + bytes(700)) == decode_control(whole)
    assert decode_control(whole[: 3 + length].ljust(512, b"\xee")) == decode_control(whole)
    for bad in (whole[:511], whole[:1] + b"\0\0" + whole[3:], whole[:1] + (510).to_bytes(2, "little") + whole[3:]):
        with pytest.raises(WireError):
            decode_control(bad)


def test_a_message_may_fill_the_padded_packet_to_its_last_byte_and_grow_beyond_512() -> None:
    filler = b"\x7a\xfa\x03" + bytes(506)
    assert len(padded(0x20, filler)) == 512
    assert decode_control(padded(0x20, filler)) == ChallengeRequest(0, 0, 0)
    assert decode_control(padded(0x20, filler * 2)) == ChallengeRequest(0, 0, 0)


def test_a_padded_kind_in_plain_framing_is_refused() -> None:
    whole = packet("ChallengeRequest")
    length = int.from_bytes(whole[1:3], "little")
    with pytest.raises(WireError):
        decode_control(whole[:1] + whole[3 : 3 + length])


@pytest.mark.parametrize("lead", [0x00, 0x1F, 0x26, 0x7F, 0x80, 0xFF])
def test_other_lead_bytes_are_refused(lead: int) -> None:
    with pytest.raises(WireError, match="begins no control packet"):
        decode_control(bytes((lead,)) + bytes(600))


def test_five_bytes_are_enough_and_four_are_not() -> None:
    """Both are a message of one field that nobody knows."""
    assert decode_control(b"\x25\x08\x80\x80\x01") == NoConnection(0, 0)
    with pytest.raises(WireError, match="4 bytes"):
        decode_control(b"\x25\x08\x80\x01")


def test_datagrams_under_five_bytes_are_refused_whatever_they_begin_with() -> None:
    for lead in range(256):
        with pytest.raises(WireError):
            decode_control(bytes((lead,)) + b"\x08\x01\x08")


@pytest.mark.parametrize(
    "body",
    [
        b"\x80" * 11 + b"\x01",
        b"\x20" + b"\xff" * 10 + b"\x01",
        b"\x22\xff\xff\xff\xff\x0f",
        b"\x0d\x01\x02\x03",
        b"\x00\x00\x00\x00",
        b"\x0c\x0c\x0c\x0c",
        DEEP,
        DEEP + b"\x0c" * 10_000,
        b"\x22" * 600,
    ],
    ids=["tag", "varint", "length", "cut", "field-0", "unopened", "deep-open", "deep", "nested"],
)
def test_broken_protobuf_inside_a_good_shell_is_a_wire_error(body: bytes) -> None:
    for lead in (0x21, 0x22, 0x23, 0x25):
        with pytest.raises(WireError):
            decode_control(bytes((lead,)) + body)
    for lead in (0x20, 0x24):
        with pytest.raises(WireError):
            decode_control(padded(lead, body))


def test_unknown_fields_are_skipped_and_the_last_of_doubled_ones_counts() -> None:
    twice = b"\x21" + b"\x0d\x01\0\0\0" + b"\x9a\x06\x03abc" + b"\x0d\x02\0\0\0"
    assert decode_control(twice) == ChallengeReply(2, 0, 0, 0)


def test_debug_text_is_cut_to_127_bytes_between_characters_and_need_not_be_utf8() -> None:
    sent = decode_control(encode_control(ConnectionClosed(1, 2, 3, "x" + "é" * 100)))
    assert sent == ConnectionClosed(1, 2, 3, "x" + "é" * 63)
    raw = decode_control(padded(0x24, b"\x12\x04a\xffb\xc3"))
    assert isinstance(raw, ConnectionClosed)
    assert raw.debug == "a�b�"
    long = decode_control(padded(0x24, b"\x12\xc8\x01" + b"\xff" * 200))
    assert isinstance(long, ConnectionClosed)
    assert len(long.debug.encode()) == 126


@pytest.mark.parametrize(
    ("cert", "crypt"),
    [
        (SignedCertificate(bytes(8_193)), SignedCryptInfo(b"i", b"s")),
        (SignedCertificate(b"c", 1, bytes(257)), SignedCryptInfo(b"i", b"s")),
        (SignedCertificate(b"c"), SignedCryptInfo(bytes(2_049), b"s")),
        (SignedCertificate(b"c"), SignedCryptInfo(b"i", bytes(257))),
    ],
    ids=["cert", "ca-signature", "info", "signature"],
)
def test_a_field_longer_than_any_honest_one_is_refused(cert: SignedCertificate, crypt: SignedCryptInfo) -> None:
    for message in (
        ConnectRequest(1, 2, None, None, cert, crypt, IdentityFields()),
        ConnectOk(1, 2, None, None, cert, crypt, IdentityFields()),
    ):
        with pytest.raises(WireError, match="at most"):
            decode_control(encode_control(message))


@pytest.mark.parametrize(
    "fields",
    [
        IdentityFields(bytes(513)),
        IdentityFields(None, LegacyIdentity(bytes(129))),
        IdentityFields(None, LegacyIdentity(None, bytes(129))),
    ],
)
def test_an_overlong_identity_is_refused(fields: IdentityFields) -> None:
    message = ConnectRequest(1, 2, None, None, SignedCertificate(b"c"), SignedCryptInfo(b"i", b"s"), fields)
    with pytest.raises(WireError, match="at most"):
        decode_control(encode_control(message))


@given(st.sampled_from(PACKETS), st.data())
def test_a_truncated_packet_is_refused_or_still_a_packet_of_its_kind(row: dict[str, Any], data: st.DataObject) -> None:
    datagram = row["datagram"][: data.draw(st.integers(0, len(row["datagram"])))]
    try:
        message = decode_control(datagram)
    except WireError:
        return
    assert type(message) is CLASSES[row["kind"]]
