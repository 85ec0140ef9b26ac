"""Messages between clients and the signaling server; above all the text that a login signs."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz import fuzz_websocket
from peergram import config
from peergram.connection.handshake import self_made_credentials
from peergram.crypto.keys import SigningKey
from peergram.errors import UsageError, WireError
from peergram.identity import ANONYMOUS, INVALID, Identity
from peergram.signaling.websocket_protocol import (
    LOGIN_PREFIX,
    CarriedSignal,
    Hello,
    Issued,
    Login,
    Refused,
    Replaced,
    Welcome,
    check_name,
    decode_client_message,
    decode_server_message,
    encode_client_message,
    encode_server_message,
    login_text,
    speaks_other_version,
)
from peergram.wire.proto import certificates_pb2
from peergram.wire.proto.message import parse
from peergram.wire.relay_news import RelayNews, Ticket, Tickets
from tests.properties.test_decoders_01 import damaged

ALICE = Identity.of("alice")
KEY, NONCE, SIGNATURE = b"k" * 32, b"n" * 32, b"s" * 64
FIELDS = {"server_nonce": b"S" * 32, "client_nonce": b"C" * 32, "url": "wss://host:1/", "identity": ALICE, "public_key": KEY}


def test_the_documented_bytes() -> None:
    assert encode_server_message(Hello(1, NONCE)) == b"\x01\x01" + NONCE
    login = Login(ALICE, KEY, NONCE, "ws://h:1/", SIGNATURE)
    assert encode_client_message(login) == b"\x02\x01" + KEY + NONCE + SIGNATURE + b"\x00\x09ws://h:1/\x09str:alice"
    assert encode_server_message(Welcome()) == b"\x03"
    assert encode_client_message(CarriedSignal(ALICE, b"blob")) == b"\x04\x09str:aliceblob"
    assert encode_server_message(CarriedSignal(ALICE, b"blob")) == b"\x04\x09str:aliceblob"
    assert encode_server_message(Replaced()) == b"\x05"
    assert encode_server_message(Refused(7, "busy")) == b"\x06\x07busy"
    assert encode_server_message(Issued(b"cert")) == b"\x07cert"
    assert encode_server_message(RelayNews(b"{}")) == b"\x08{}"
    tickets = Tickets((Ticket("fra", "1:a", "pw"),), 3_600)
    assert encode_server_message(tickets) == b"\x09\x00\x00\x0e\x10\x01\x03fra\x00\x031:a\x00\x02pw"
    assert decode_server_message(encode_server_message(tickets)) == tickets
    certified = replace(login, certificate=b"cert")
    assert encode_client_message(certified) == encode_client_message(login) + b"\x00\x04cert"


@pytest.mark.parametrize(
    "message",
    [
        Hello(1, NONCE),
        Welcome(),
        CarriedSignal(ALICE, b""),
        CarriedSignal(ALICE, bytes(8192)),
        Replaced(),
        Refused(7, "x"),
        Issued(bytes(1_024)),
    ],
)
def test_what_a_server_says_is_understood(message: Hello | Welcome | CarriedSignal | Replaced | Refused | Issued) -> None:
    assert decode_server_message(encode_server_message(message)) == message


@pytest.mark.parametrize(
    "message",
    [
        Login(ALICE, KEY, NONCE, "ws://h:1/", SIGNATURE),
        Login(ALICE, KEY, NONCE, "ws://h:1/", SIGNATURE, bytes(config.LOGIN_CERTIFICATE_BYTES_MAX)),
        CarriedSignal(ALICE, b"blob"),
    ],
)
def test_what_a_client_says_is_understood(message: Login | CarriedSignal) -> None:
    assert decode_client_message(encode_client_message(message)) == message


LOGIN = encode_client_message(Login(ALICE, KEY, NONCE, "ws://h:1/", SIGNATURE))


@pytest.mark.parametrize(
    "frame",
    [
        *(b"", b"\x00", b"\x07", b"\xff", b"\x01\x01" + NONCE, b"\x03", b"\x05", b"\x06\x01x"),
        *(
            LOGIN[:-1],
            LOGIN + b"x",
            LOGIN + b"\0\0",
            LOGIN + b"\0\2x",
            LOGIN + b"\0\1xy",
            LOGIN + b"\4\1" + bytes(1_025),
            LOGIN.replace(b"ws://h:1/", b"ws://h:\xff/"),
            LOGIN.replace(b"\x00\x09ws", b"\x02\x01ws"),
        ),
        *(LOGIN.replace(b"str:alice", b"xyz:\0lice"), b"\x02\x02" + LOGIN[2:], b"\x02"),
        *(b"\x04", b"\x04\x09str:alic", b"\x04\x00blob", b"\x04\x05alice", b"\x04\x09str:alice" + bytes(8_193)),
        *(
            b"\x04\x05gen:0",
            b"\x04\x07gen:AB ",
            b"\x04\x06gen:AB",
            b"\x04\x0asteamid:+1",
            b'{"to": "alice"}',
            b"GET / HTTP/1.1\r\n",
        ),
    ],
)
def test_what_a_client_may_not_say_is_one_kind_of_error(frame: bytes) -> None:
    with pytest.raises(WireError):
        decode_client_message(frame)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\x01\x01" + NONCE[1:],
        b"\x02\x01",
        b"\x03x",
        b"\x05x",
        b"\x06",
        b"\x06\x01" + bytes(201),
        LOGIN,
        b"\x04\x03bob",
        b"\x07",
        b"\x07" + bytes(1_025),
    ],
)
def test_what_a_server_may_not_say_is_one_kind_of_error(frame: bytes) -> None:
    with pytest.raises(WireError):
        decode_server_message(frame)


@given(data=damaged(fuzz_websocket.seeds()) | st.binary(max_size=400))
def test_damage_keeps_the_invariant(data: bytes) -> None:
    fuzz_websocket.fuzz_one(data)


def test_another_version_is_told_from_damage() -> None:
    assert speaks_other_version(b"\x02\x02whatever")
    assert not speaks_other_version(LOGIN)
    assert not speaks_other_version(b"\x04\x02")


def test_a_client_cannot_name_a_sender() -> None:
    """S2: what it says of a signal is the receiver; the bytes have no place for more."""
    signal = decode_client_message(encode_client_message(CarriedSignal(ALICE, b"\x09str:carol")))
    assert signal == CarriedSignal(ALICE, b"\x09str:carol")


# --- the signed text ---


def test_the_documented_login_text() -> None:
    assert login_text(**FIELDS) == (  # type: ignore[arg-type]
        b"\xffpeergram signaling login 1\0"
        b"\x00\x20" + b"S" * 32 + b"\x00\x20" + b"C" * 32 + b"\x00\x0dwss://host:1/" + b"\x00\x09str:alice" + b"\x00\x20" + KEY
    )


@pytest.mark.parametrize(
    ("field", "other"),
    [
        ("server_nonce", b"s" * 32),
        ("client_nonce", b"c" * 32),
        ("url", "wss://host:1/#sha256=" + "ab" * 32),
        ("identity", Identity.of("bob")),
        ("public_key", b"K" * 32),
    ],
)
def test_every_field_changes_the_text(field: str, other: object) -> None:
    assert login_text(**FIELDS) != login_text(**FIELDS | {field: other})  # type: ignore[arg-type]


def test_fields_cannot_run_into_each_other() -> None:
    one = login_text(**FIELDS | {"url": "wss://host:1/a", "identity": Identity.of("b")})  # type: ignore[arg-type]
    two = login_text(**FIELDS | {"url": "wss://host:1/", "identity": Identity.of("ab")})  # type: ignore[arg-type]
    assert one != two


def test_no_certificate_and_no_session_record_can_begin_like_a_login() -> None:
    """The same key signs all three. The first byte is a tag of a wire type that protobuf does not have."""
    assert LOGIN_PREFIX[0] & 7 == 7
    text = login_text(**FIELDS)  # type: ignore[arg-type]
    for kind in (certificates_pb2.Certificate, certificates_pb2.CryptInfo):
        with pytest.raises(WireError):
            parse(kind, text)
    credentials = self_made_credentials(ALICE, SigningKey.generate(Random(0).randbytes), bytes(16))
    assert not credentials.signed_certificate.cert.startswith(LOGIN_PREFIX[:1])


def test_identities_that_are_nobody_in_particular_have_no_name() -> None:
    for identity in (ANONYMOUS, INVALID, Identity.parse("ip:192.0.2.1:5")):
        with pytest.raises(UsageError):
            check_name(identity)
    for text in ("str:alice", "gen:00ff", "steamid:76561197960265729", "psn:5", "other:kind"):
        check_name(Identity.parse(text))


def test_the_longest_messages_fit_into_a_frame() -> None:
    longest = Identity.parse("x" * 16 + ":" + "y" * 110)
    signal = CarriedSignal(longest, bytes(config.CARRIED_BYTES_MAX))
    assert decode_client_message(encode_client_message(signal)) == signal


@pytest.mark.parametrize(("size", "lifetime_s", "holds"), [
    (config.RELAY_CREDENTIAL_BYTES_MAX, config.RELAY_TICKET_S_MAX, True),
    (config.RELAY_CREDENTIAL_BYTES_MAX + 1, 60, False),
    (1, config.RELAY_TICKET_S_MAX + 1, False),
    (1, 0, False),
    (0, 60, False),
])  # fmt: skip
def test_tickets_have_bounds(size: int, lifetime_s: int, holds: bool) -> None:
    tickets = Tickets((Ticket("fra", "n" * size, "pw"),), lifetime_s)
    frame = encode_server_message(tickets)
    if holds:
        assert decode_server_message(frame) == tickets
    else:
        with pytest.raises(WireError):
            decode_server_message(frame)
