"""STUN and TURN messages: recorded ones byte for byte, what is refused, and the stream that carries them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peergram.config import STUN_ATTRIBUTES_MAX
from peergram.errors import WireError
from peergram.wire.stun import (
    FAMILY_IPV6,
    Class,
    Method,
    StunMessage,
    StunStream,
    decode_channel_data,
    decode_stun,
    encode_channel_data,
    encode_stun,
    integrity_holds,
    long_term_key,
    looks_like_stun,
)
from tests.vectors_data import load

RECORDED = load("03-stun")["stun"]
FIELDS: dict[str, str] = {
    "USERNAME": "username",
    "PRIORITY": "priority",
    "ICE-CONTROLLING": "ice_controlling",
    "ICE-CONTROLLED": "ice_controlled",
    "XOR-MAPPED-ADDRESS": "xor_mapped_address",
    "MAPPED-ADDRESS": "mapped_address",
    "XOR-RELAYED-ADDRESS": "xor_relayed_address",
    "LIFETIME": "lifetime_s",
    "REALM": "realm",
    "NONCE": "nonce",
    "DATA": "data",
}
TRANSACTION = bytes(range(12))


def expected(attribute: dict[str, Any]) -> Any:
    if "addr" in attribute:
        return tuple(attribute["addr"])
    return attribute.get("int", bytes.fromhex(attribute["value"]))


def request(**fields: Any) -> StunMessage:
    return StunMessage(Method.BINDING, Class.REQUEST, TRANSACTION, **fields)


def with_attribute(kind: int, value: bytes) -> bytes:
    attribute = kind.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value + bytes(-len(value) % 4)
    return with_body(attribute)


def with_body(body: bytes) -> bytes:
    empty = encode_stun(request(), fingerprint=False)
    return empty[:2] + len(body).to_bytes(2, "big") + empty[4:] + body


@pytest.mark.parametrize("row", RECORDED, ids=range(len(RECORDED)))
def test_a_recorded_message_is_understood(row: dict[str, Any]) -> None:
    message = decode_stun(bytes.fromhex(row["hex"]))
    decoded = row["decoded"]
    assert message.transaction_id.hex() == decoded["tid"]
    assert message.unknown_required == []
    names = [attribute["name"] for attribute in decoded["attrs"]]
    assert message.has_fingerprint == ("FINGERPRINT" in names)
    assert message.has_integrity == ("MESSAGE-INTEGRITY" in names)
    assert message.use_candidate == ("USE-CANDIDATE" in names)
    for attribute in decoded["attrs"]:
        if attribute["name"] in FIELDS:
            assert getattr(message, FIELDS[attribute["name"]]) == expected(attribute)
    peers = [tuple(attribute["addr"]) for attribute in decoded["attrs"] if attribute["name"] == "XOR-PEER-ADDRESS"]
    assert message.xor_peer_addresses == peers
    codes = [attribute["code"] for attribute in decoded["attrs"] if attribute["name"] == "ERROR-CODE"]
    assert message.error_code == (codes[0] if codes else None)


@pytest.mark.parametrize("row", RECORDED, ids=range(len(RECORDED)))
def test_a_recorded_message_is_rebuilt_byte_for_byte(row: dict[str, Any]) -> None:
    datagram = bytes.fromhex(row["hex"])
    message = decode_stun(datagram)
    key = bytes.fromhex(row["key_hex"]) if message.has_integrity else None
    assert encode_stun(message, integrity_key=key, fingerprint=message.has_fingerprint) == datagram


SIGNED = [row for row in RECORDED if "MESSAGE-INTEGRITY" in [attribute["name"] for attribute in row["decoded"]["attrs"]]]


@pytest.mark.parametrize("row", SIGNED, ids=range(len(SIGNED)))
def test_a_recorded_signature_holds_for_its_key_alone(row: dict[str, Any]) -> None:
    datagram, key = bytes.fromhex(row["hex"]), bytes.fromhex(row["key_hex"])
    assert integrity_holds(datagram, key)
    assert not integrity_holds(datagram, key + b"x")
    for at in range(28):
        assert not integrity_holds(datagram[:at] + bytes((datagram[at] ^ 1,)) + datagram[at + 1 :], key)


def test_most_of_the_recording_is_signed() -> None:
    assert len(RECORDED) == 43
    assert len(SIGNED) > 20


def test_the_long_term_key_is_the_one_recorded() -> None:
    assert long_term_key(b"user", b"realm", b"pass").hex() == "8493fbc53ba582fb4c044c456bdc40eb"


def test_nothing_unsigned_holds() -> None:
    assert not integrity_holds(encode_stun(request()), b"")
    assert not integrity_holds(b"", b"")
    assert not integrity_holds(with_body(b"\x00\x06\x00\x09"), b"")


def test_every_attribute_survives_the_wire() -> None:
    message = StunMessage(
        Method.CHANNEL_BIND,
        Class.ERROR,
        TRANSACTION,
        error_code=438,
        error_reason=b"Stale Nonce",
        unknown_attributes=[1, 0x8000, 0x7FFF],
        alternate_server=("192.0.2.9", 3479),
        xor_peer_addresses=[("192.0.2.1", 5), ("2001:db8::1", 65535)],
        requested_transport=17,
        requested_address_family=FAMILY_IPV6,
        additional_address_family=FAMILY_IPV6,
        dont_fragment=True,
        channel_number=0x4001,
        xor_relayed_address=("192.0.2.2", 1),
        xor_relayed_address_2=("2001:db8::2", 2),
        xor_mapped_address=("2001:db8::3", 3),
        mapped_address=("192.0.2.3", 4),
        lifetime_s=600,
        username=b"u",
        realm=b"re",
        nonce=b"non",
        priority=0x7FFFFFFF,
        ice_controlling=1 << 63,
        ice_controlled=0,
        use_candidate=True,
        software=b"peergram",
        data=b"\x00" * 5,
    )
    key = b"secret"
    datagram = encode_stun(message, integrity_key=key)
    assert len(datagram) % 4 == 0
    assert integrity_holds(datagram, key)
    decoded = decode_stun(datagram)
    assert decoded.has_integrity
    assert decoded.has_fingerprint
    decoded.has_integrity = decoded.has_fingerprint = False
    assert decoded == message


@given(st.integers(0, 0xFFF), st.integers(0, 3), st.binary(min_size=12, max_size=12))
def test_every_method_and_class_survives_the_wire(method: int, message_class: int, transaction_id: bytes) -> None:
    decoded = decode_stun(encode_stun(StunMessage(method, message_class, transaction_id)))
    assert (decoded.method, decoded.message_class, decoded.transaction_id) == (method, message_class, transaction_id)


def test_unknown_attributes_are_told_if_they_must_be_understood() -> None:
    assert decode_stun(with_attribute(0x7F00, b"abc")).unknown_required == [0x7F00]
    assert decode_stun(with_attribute(0xC001, b"abc")).unknown_required == []


def test_the_first_of_a_repeated_attribute_counts() -> None:
    first, second = (encode_stun(request(username=name), fingerprint=False)[20:] for name in (b"one", b"two"))
    assert decode_stun(with_body(first + second)).username == b"one"


def test_what_follows_the_signature_is_not_read() -> None:
    key = b"secret"
    signed = encode_stun(request(username=b"me"), integrity_key=key, fingerprint=False)
    for extra in (encode_stun(request(use_candidate=True), fingerprint=False)[20:], b"\x7f\x00\x00\x00"):
        body = signed[20:] + extra
        message = decode_stun(with_body(body))
        assert not message.use_candidate
        assert message.unknown_required == []
        assert integrity_holds(with_body(body), key)


def test_behind_the_fingerprint_nothing_may_come() -> None:
    whole = encode_stun(request())
    with pytest.raises(WireError):
        decode_stun(with_body(whole[20:] + b"\x80\x22\x00\x00"))


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        bytes(20),
        b"\x80" + encode_stun(request())[1:],
        encode_stun(request())[:-1],
        encode_stun(request()) + b"\x00",
        encode_stun(request())[:-1] + b"\x00",
        with_body(b"\x00\x06\x00\x05abcd"),
        with_body(b"\x00\x06\x00"),
        with_attribute(0x0006, bytes(513)),
        with_attribute(0x0014, bytes(764)),
        with_attribute(0x0024, b"\x00" * 3),
        with_attribute(0x0025, b"\x00"),
        with_attribute(0x802A, b"\x00" * 9),
        with_attribute(0x0008, b"\x00" * 19),
        with_attribute(0x0020, b"\x00\x01\x00\x00\x01\x02\x03"),
        with_attribute(0x0020, b"\x00\x02\x00\x00\x01\x02\x03\x04"),
        with_attribute(0x0001, b"\x00\x03\x00\x00\x01\x02\x03\x04"),
        with_attribute(0x0009, b"\x00\x00\x07\x00"),
        with_attribute(0x0009, b"\x00\x00\x04\x64"),
        with_attribute(0x0009, b"\x00\x00\x04"),
        with_attribute(0x000A, b"\x00\x00\x04"),
        with_body(b"\xc0\x01\x00\x00" * (STUN_ATTRIBUTES_MAX + 1)),
    ],
)
def test_a_wrong_message_is_refused(datagram: bytes) -> None:
    with pytest.raises(WireError):
        decode_stun(datagram)


def test_as_many_attributes_as_allowed_are_read() -> None:
    decode_stun(with_body(b"\xc0\x01\x00\x00" * STUN_ATTRIBUTES_MAX))


def test_data_packets_do_not_look_like_stun() -> None:
    for first in (0x40, 0x80, 0xFF):
        assert not looks_like_stun(bytes((first,)) + encode_stun(request())[1:])
    assert looks_like_stun(encode_stun(request()))


@given(st.integers(0x4000, 0x4FFF), st.binary(max_size=50), st.booleans())
def test_channel_data_survives_the_wire(channel: int, payload: bytes, padded: bool) -> None:
    datagram = encode_channel_data(channel, payload, padded=padded)
    assert decode_channel_data(datagram) == (channel, payload)
    assert not padded or len(datagram) % 4 == 0


@pytest.mark.parametrize(
    "datagram", [b"", b"\x40\x00\x00", b"\x40\x00\x00\x01", b"\x50\x00\x00\x00", b"\x3f\xff\x00\x00", b"\x40\x00" + bytes(6)]
)
def test_wrong_channel_data_is_refused(datagram: bytes) -> None:
    with pytest.raises(WireError):
        decode_channel_data(datagram)


FRAMES = st.one_of(
    st.binary(max_size=30).map(lambda data: encode_stun(request(data=data))),
    st.binary(max_size=30).map(lambda data: encode_channel_data(0x4ABC, data)),
)


@given(st.lists(FRAMES, max_size=6), st.lists(st.integers(1, 40), max_size=40))
def test_a_stream_gives_whole_messages_however_it_is_cut(frames: list[bytes], cuts: list[int]) -> None:
    whole = b"".join(frame + bytes(-len(frame) % 4) for frame in frames)
    stream, found, at = StunStream(), [], 0
    for cut in [*cuts, len(whole)]:
        found += stream.handle_data(whole[at : at + cut])
        at += cut
    assert found == frames


@pytest.mark.parametrize(
    "data", [b"\x80\x00\x00\x00", b"\x50\x00\x00\x00", b"\x00\x01\x00\x00HTTP", b"\x00\x01\x00\x02\x21\x12\xa4\x42"]
)
def test_a_stream_of_something_else_is_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        StunStream().handle_data(data)


def test_a_stream_keeps_no_more_than_one_message() -> None:
    stream = StunStream()
    stream.handle_data(b"\x40\x00\xff\xff")
    for _ in range(64):
        assert stream.handle_data(bytes(1_000)) == []
    frames = stream.handle_data(bytes(1_535) + b"\x00")
    assert [len(frame) for frame in frames] == [4 + 65_535]
