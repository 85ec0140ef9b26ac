"""Rendezvous signals: the reference's blobs byte for byte, and nothing but WireError for anything else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peergram.config import (
    CLOSE_DEBUG_BYTES_MAX,
    SIGNAL_APPLICATION_MESSAGES_MAX,
    SIGNAL_BYTES_MAX,
    SIGNAL_CANDIDATE_BYTES_MAX,
    SIGNAL_GOODBYE_BYTES_MAX,
    SIGNAL_PASSWORD_BYTES_MAX,
    SIGNAL_RELIABLE_MAX,
)
from peergram.crypto.keys import verify
from peergram.errors import WireError
from peergram.wire.certificates import (
    IDENTITY_STRING_BYTES_MAX,
    SignedCertificate,
    SignedCryptInfo,
    decode_certificate,
    decode_crypt_info,
)
from peergram.wire.signals import (
    ApplicationSignal,
    ReliableSignal,
    Signal,
    SignalClosed,
    SignalConnectOk,
    SignalConnectRequest,
    decode_signal,
    encode_signal,
)
from tests.vectors_data import load

VECTORS = load("03-signals")
CRAFTED = VECTORS["crafted_connect_requests"]
CERT = SignedCertificate(b"cert", 7, b"s" * 64)
CRYPT = SignedCryptInfo(b"info", b"s" * 64)


def recorded() -> list[dict[str, Any]]:
    """Every recorded signal: rows with `name`, `hex` and `decoded`."""
    rows = list(VECTORS["signals"])
    for number, transcript in enumerate(VECTORS["transcripts"]):
        for side in ("gns_signals", "python_signals"):
            rows += [{"name": f"transcript {number} {side}", **row} for row in transcript[side]]
    return rows


def rejections() -> list[dict[str, Any]]:
    """What the reference answered to hand-made requests."""
    return [
        {"name": row["case"], "hex": row["rejection_hex"], "decoded": row["rejection"]} for row in CRAFTED if row["rejection"]
    ]


RECORDED = recorded()
every_signal = pytest.mark.parametrize("row", RECORDED + rejections(), ids=lambda row: row["name"])


def text(value: str | None) -> bytes | None:
    return None if value is None else value.encode()


def test_the_vectors_are_all_there() -> None:
    assert (len(VECTORS["signals"]), len(RECORDED), len(CRAFTED), len(rejections())) == (32, 39, 44, 8)


@every_signal
def test_recorded_signals_decode_to_their_fields(row: dict[str, Any]) -> None:
    signal, fields = decode_signal(bytes.fromhex(row["hex"])), row["decoded"]
    assert signal.to_connection_id == fields.get("to_connection_id")
    assert signal.from_connection_id == fields.get("from_connection_id")
    assert signal.from_identity == text(fields.get("from_identity"))
    assert signal.to_identity == text(fields.get("to_identity"))
    assert signal.ice_enabled == fields.get("ice_enabled")
    assert signal.ack_reliable == fields.get("ack_reliable_msg")
    assert signal.first_reliable == fields.get("first_reliable_msg")
    ices = [entry["ice"] for entry in fields.get("reliable_messages", [])]
    assert signal.reliable == [
        ReliableSignal(text(ice.get("add_candidate", {}).get("candidate")), text(ice.get("auth", {}).get("pwd_frag")))
        for ice in ices
    ]
    closed = fields.get("connection_closed")
    assert signal.connection_closed == (SignalClosed(closed["reason_code"], closed.get("debug", "")) if closed else None)
    for ours, theirs in (
        (signal.connect_request, fields.get("connect_request")),
        (signal.connect_ok, fields.get("connect_ok")),
    ):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert ours.crypt is not None
            assert decode_crypt_info(ours.crypt.info).key_data.hex() == theirs["crypt"]["info"]["key_data"]
            assert ours.crypt.signature.hex() == theirs["crypt"]["signature"]
            assert ours.cert is not None
            assert decode_certificate(ours.cert.cert).key_data.hex() == theirs["cert"]["cert"]["key_data"]
    if signal.connect_request is not None:
        assert signal.connect_request.to_virtual_port == fields["connect_request"]["to_virtual_port"]
        assert signal.connect_request.from_virtual_port == fields["connect_request"]["from_virtual_port"]


@every_signal
def test_recorded_signals_encode_to_the_same_bytes(row: dict[str, Any]) -> None:
    assert encode_signal(decode_signal(bytes.fromhex(row["hex"]))).hex() == row["hex"]


@every_signal
def test_recorded_signals_are_signed_by_the_certificate_in_them(row: dict[str, Any]) -> None:
    signal = decode_signal(bytes.fromhex(row["hex"]))
    hello = signal.connect_request or signal.connect_ok
    if hello is not None:
        assert hello.cert is not None
        assert hello.crypt is not None
        assert verify(decode_certificate(hello.cert.cert).key_data, hello.crypt.signature, hello.crypt.info)


@pytest.mark.parametrize("row", CRAFTED, ids=lambda row: row["case"])
def test_hand_made_requests_encode_to_the_same_bytes_but_for_what_nobody_knows(row: dict[str, Any]) -> None:
    blob = bytes.fromhex(row["hex"])
    signal = decode_signal(blob)
    written = encode_signal(signal)
    if row["case"] == "unknown field 99":
        assert written != blob
        assert blob.startswith(written)
        assert decode_signal(written) == signal
    else:
        assert written == blob


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("from_identity missing", {"from_identity": None}),
        ("to_identity missing", {"to_identity": None}),
        ("from_connection_id missing", {"from_connection_id": None}),
        ("from_connection_id zero", {"from_connection_id": 0}),
        ("ice_enabled missing", {"ice_enabled": None}),
        ("reliable messages start at 3", {"first_reliable": 3}),
    ],
)
def test_absent_and_zero_fields_of_hand_made_requests_stay_apart(case: str, expected: dict[str, object]) -> None:
    signal = decode_signal(bytes.fromhex(next(row["hex"] for row in CRAFTED if row["case"] == case)))
    assert {name: getattr(signal, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("case", "missing"),
    [
        ("cert missing", ["cert"]),
        ("crypt missing", ["crypt"]),
        ("no virtual ports", ["to_virtual_port", "from_virtual_port"]),
        ("no from_virtual_port", ["from_virtual_port"]),
    ],
)
def test_a_request_may_lack_any_of_its_parts(case: str, missing: list[str]) -> None:
    request = decode_signal(bytes.fromhex(next(row["hex"] for row in CRAFTED if row["case"] == case))).connect_request
    assert request is not None
    parts = ["cert", "crypt", "to_virtual_port", "from_virtual_port"]
    assert [name for name in parts if getattr(request, name) is None] == missing


@pytest.mark.parametrize(
    "signal",
    [
        Signal(),
        Signal(0, 0, b"", b"", False, None, None, None, 0, 0),
        Signal(connect_request=SignalConnectRequest(None, None)),
        Signal(connect_request=SignalConnectRequest(SignedCertificate(b""), SignedCryptInfo(b"", b""), 0, 0)),
        Signal(connect_ok=SignalConnectOk(None, None)),
        Signal(connect_ok=SignalConnectOk(CERT, CRYPT), from_identity=b"str:\xff"),
        Signal(connection_closed=SignalClosed(0)),
        Signal(connection_closed=SignalClosed(9999, "é" * 63)),
        Signal(reliable=[ReliableSignal(), ReliableSignal(b""), ReliableSignal(None, b""), ReliableSignal(b"c", b"p")]),
        Signal(application_messages=[ApplicationSignal(b""), ApplicationSignal(b"d", (1 << 64) - 1, 8, 255)]),
    ],
)
def test_absent_zero_and_empty_parts_stay_apart(signal: Signal) -> None:
    assert decode_signal(encode_signal(signal)) == signal


def test_unknown_fields_and_those_of_valve_s_relays_are_ignored() -> None:
    plain = encode_signal(Signal(to_connection_id=5, ack_reliable=1))
    relays = b"\x12\x03abc" + b"\x18\x07" + b"\x72\x01t"
    assert decode_signal(relays + plain + b"\xc2\x3e\x02hi") == decode_signal(plain)


def test_a_goodbye_of_a_whole_packet_is_the_longest() -> None:
    longest = Signal(connection_closed=SignalClosed(1000, "bye", bytes(SIGNAL_GOODBYE_BYTES_MAX)))
    assert decode_signal(encode_signal(longest)) == longest
    too_long = Signal(connection_closed=SignalClosed(1000, "bye", bytes(SIGNAL_GOODBYE_BYTES_MAX + 1)))
    with pytest.raises(WireError, match="goodbye"):
        decode_signal(encode_signal(too_long))


def test_a_close_text_is_cut_in_both_directions() -> None:
    sent = decode_signal(encode_signal(Signal(connection_closed=SignalClosed(1000, "é" * 200))))
    assert sent.connection_closed == SignalClosed(1000, "é" * (CLOSE_DEBUG_BYTES_MAX // 2))
    received = decode_signal(b"\x32\xcb\x01\x2a\xc8\x01" + b"\xff" * 200)
    assert received.connection_closed is not None
    assert len(received.connection_closed.debug.encode()) <= CLOSE_DEBUG_BYTES_MAX


LONG = [
    ("reliable", SIGNAL_RELIABLE_MAX, lambda size: Signal(reliable=[ReliableSignal(b"c")] * size)),
    ("messages", SIGNAL_APPLICATION_MESSAGES_MAX, lambda size: Signal(application_messages=[ApplicationSignal(b"")] * size)),
    ("candidate", SIGNAL_CANDIDATE_BYTES_MAX, lambda size: Signal(reliable=[ReliableSignal(b"c" * size)])),
    ("password", SIGNAL_PASSWORD_BYTES_MAX, lambda size: Signal(reliable=[ReliableSignal(None, b"p" * size)])),
    ("from_identity", IDENTITY_STRING_BYTES_MAX, lambda size: Signal(from_identity=b"i" * size)),
    ("to_identity", IDENTITY_STRING_BYTES_MAX, lambda size: Signal(to_identity=b"i" * size)),
]


@pytest.mark.parametrize(("limit", "make"), [row[1:] for row in LONG], ids=[row[0] for row in LONG])
def test_each_part_has_its_limit(limit: int, make: Any) -> None:
    assert decode_signal(encode_signal(make(limit))) == make(limit)
    with pytest.raises(WireError, match=f"{limit + 1}.* at most {limit} are taken"):
        decode_signal(encode_signal(make(limit + 1)))


def test_a_signal_has_a_limit_whatever_is_in_it() -> None:
    head = b"\xc2\x3e\xfc\x7f"
    longest = head + bytes(SIGNAL_BYTES_MAX - len(head))
    assert decode_signal(longest) == Signal()
    with pytest.raises(WireError):
        decode_signal(longest + b"\x08")


@pytest.mark.parametrize("blob", [b"\x0d", b"\x22\xff", b"\x0b" * 10_000, b"\xff" * 20, b"\x6a\x02\x0a\x05"])
def test_malformed_signals_are_refused(blob: bytes) -> None:
    with pytest.raises(WireError):
        decode_signal(blob)


U32 = st.integers(0, 0xFFFF_FFFF)


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


CERTS = st.builds(SignedCertificate, st.binary(max_size=90), maybe(st.integers(0, (1 << 64) - 1)), st.binary(max_size=64))
CRYPTS = st.builds(SignedCryptInfo, st.binary(max_size=90), st.binary(max_size=64))
SIGNALS = st.builds(
    Signal,
    to_connection_id=maybe(U32),
    from_connection_id=maybe(U32),
    from_identity=maybe(st.binary(max_size=130)),
    to_identity=maybe(st.binary(max_size=130)),
    ice_enabled=maybe(st.booleans()),
    connect_request=maybe(st.builds(SignalConnectRequest, maybe(CERTS), maybe(CRYPTS), maybe(U32), maybe(U32))),
    connect_ok=maybe(st.builds(SignalConnectOk, maybe(CERTS), maybe(CRYPTS))),
    connection_closed=maybe(st.builds(SignalClosed, U32, st.text(max_size=31))),
    ack_reliable=maybe(U32),
    first_reliable=maybe(U32),
    reliable=st.lists(st.builds(ReliableSignal, maybe(st.binary(max_size=90)), maybe(st.binary(max_size=30))), max_size=6),
    application_messages=st.lists(
        st.builds(ApplicationSignal, st.binary(max_size=40), st.integers(0, (1 << 64) - 1), U32, U32), max_size=3
    ),
)


@given(SIGNALS)
def test_what_was_written_reads_the_same(signal: Signal) -> None:
    assert decode_signal(encode_signal(signal)) == signal
