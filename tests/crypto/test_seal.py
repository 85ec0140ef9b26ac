"""Sealing and opening packets, against recorded ones and against damage."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peergram.config import DATAGRAM_BYTES_OWN_PEER_MAX
from peergram.crypto.derive import DirectionKeys
from peergram.crypto.seal import AesGcmCipher, NullCipher, PacketCipher, make_cipher
from peergram.wire.certificates import CIPHER_AES_256_GCM, CIPHER_NONE
from tests.vectors_data import load, number

VECTORS = load("01-crypto")
KEYS_OF = {kdf["name"]: kdf["derived"] for kdf in VECTORS["kdf"]}
DATA_PACKETS: dict[str, dict[str, Any]] = {packet["name"]: packet for packet in VECTORS["data_packets"]}
HEADER_BYTES = 7
KEYS = DirectionKeys(bytes(range(32)), bytes(range(12)))


def direction_keys(derived: dict[str, str], direction: str) -> DirectionKeys:
    return DirectionKeys(bytes.fromhex(derived[f"key_{direction}"]), bytes.fromhex(derived[f"iv_{direction}"]))


def cipher_of(packet: dict[str, Any]) -> PacketCipher:
    return make_cipher(packet["cipher"], direction_keys(KEYS_OF[packet["kdf"]], packet["direction"]))


def payload_offset(packet: bytes) -> int:
    """Where the sealed part begins: behind the header, the statistics (at most 2**14 bytes here) and the time."""
    offset = HEADER_BYTES
    if packet[0] & 1:
        blob_bytes = packet[offset]
        offset += 1
        if blob_bytes & 0x80:
            blob_bytes = blob_bytes & 0x7F | packet[offset] << 7
            offset += 1
        offset += blob_bytes
    return offset + 2 if packet[0] & 2 else offset


@pytest.mark.parametrize("row", VECTORS["iv"], ids=lambda row: str(row["packet_number"]))
def test_nonces_equal_the_vectors(row: dict[str, Any]) -> None:
    cipher = AesGcmCipher(DirectionKeys(bytes(32), bytes.fromhex(row["base"])))
    assert cipher.nonce(number(row["packet_number"])).hex() == row["iv"]


@pytest.mark.parametrize("name", DATA_PACKETS)
def test_data_packets_equal_the_vectors_both_ways(name: str) -> None:
    packet = DATA_PACKETS[name]
    packet_number = number(packet["packet_number"])
    cipher, datagram = cipher_of(packet), bytes.fromhex(packet["packet"])
    plaintext = bytes.fromhex(packet["plaintext"])
    sealed = datagram[payload_offset(datagram) :]
    assert cipher.seal(packet_number, plaintext) == sealed
    assert cipher.open(packet_number, sealed) == plaintext
    assert cipher.open(packet_number, memoryview(datagram)[payload_offset(datagram) :]) == plaintext
    assert len(sealed) - len(plaintext) == cipher.overhead_bytes


@pytest.mark.parametrize("row", VECTORS["data_packets_rejected"], ids=lambda row: row["name"])
def test_rejected_packets_do_not_open_and_leave_the_genuine_one_good(row: dict[str, Any]) -> None:
    genuine = DATA_PACKETS[row["of"]]
    cipher, datagram = cipher_of(genuine), bytes.fromhex(row["packet"])
    packet_number = int.from_bytes(datagram[5:7], "little")
    assert cipher.open(packet_number, datagram[HEADER_BYTES:]) is None
    good = bytes.fromhex(genuine["packet"])
    assert cipher.open(genuine["packet_number"], good[HEADER_BYTES:]) == bytes.fromhex(genuine["plaintext"])


def test_the_recorded_statistics_packet_opens() -> None:
    row = VECTORS["recorded_stats_packet"]
    cipher = AesGcmCipher(DirectionKeys(bytes.fromhex(row["key"]), bytes.fromhex(row["iv_base"])))
    datagram = bytes.fromhex(row["packet"])
    opened = cipher.open(row["packet_number"], memoryview(datagram)[payload_offset(datagram) :])
    assert opened is not None
    assert opened.hex() == row["plaintext"]


def conversation_packets() -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    return [
        (f"{conversation['name']}-{index}", conversation, packet)
        for conversation in VECTORS["conversations"]
        for index, packet in enumerate(conversation["packets"])
        if packet["kind"] == "Data"
    ]


@pytest.mark.parametrize(
    ("conversation", "packet"), [row[1:] for row in conversation_packets()], ids=[row[0] for row in conversation_packets()]
)
def test_every_recorded_data_packet_opens_and_seals_again(conversation: dict[str, Any], packet: dict[str, Any]) -> None:
    direction = "c2s" if packet["from"] == "client" else "s2c"
    cipher = make_cipher(conversation["cipher"], direction_keys(conversation["derived"], direction))
    datagram = bytes.fromhex(packet["hex"])
    sealed, plaintext = datagram[payload_offset(datagram) :], bytes.fromhex(packet["plaintext"])
    assert cipher.open(packet["packet_number"], sealed) == plaintext
    assert cipher.seal(packet["packet_number"], plaintext) == sealed


@given(st.integers(0, 2**64 - 1), st.binary(max_size=DATAGRAM_BYTES_OWN_PEER_MAX))
def test_what_was_sealed_opens_under_its_own_number_only(packet_number: int, plaintext: bytes) -> None:
    cipher = AesGcmCipher(KEYS)
    sealed = cipher.seal(packet_number, plaintext)
    assert cipher.open(packet_number, sealed) == plaintext
    assert cipher.open((packet_number + 1) % 2**64, sealed) is None


def test_every_flipped_bit_and_every_cut_is_noticed() -> None:
    cipher = AesGcmCipher(KEYS)
    sealed = cipher.seal(2, b"thirty-two bytes of plain text..")
    for at in range(len(sealed)):
        for bit in range(8):
            assert cipher.open(2, sealed[:at] + bytes([sealed[at] ^ 1 << bit]) + sealed[at + 1 :]) is None
        assert cipher.open(2, sealed[:at]) is None
    assert cipher.open(2, sealed + b"\0") is None
    assert cipher.open(2, sealed) is not None


@pytest.mark.parametrize("cipher", [AesGcmCipher(KEYS), NullCipher()], ids=repr)
def test_plaintext_longer_than_a_datagram_is_refused(cipher: PacketCipher) -> None:
    longest, too_long = bytes(DATAGRAM_BYTES_OWN_PEER_MAX), bytes(DATAGRAM_BYTES_OWN_PEER_MAX + 1)
    assert cipher.open(2, cipher.seal(2, longest)) == longest
    assert cipher.open(2, cipher.seal(2, too_long)) is None
    assert cipher.open_run(2, cipher.seal_run(2, [longest, too_long, b"text"])) == [longest]


@pytest.mark.parametrize("cipher", [AesGcmCipher(KEYS), NullCipher()], ids=repr)
def test_a_run_is_its_packets_one_by_one(cipher: PacketCipher) -> None:
    texts = [bytes((at,)) * at for at in range(9)]
    first = (1 << 64) - 4
    sealed = cipher.seal_run(first, texts)
    assert sealed == [cipher.seal(first + at, text) for at, text in enumerate(texts)]
    assert cipher.open_run(first, sealed) == texts


def test_a_run_opens_up_to_the_first_packet_that_does_not() -> None:
    cipher = AesGcmCipher(KEYS)
    sealed = cipher.seal_run(2, [b"one", b"two", b"three"])
    sealed[1] = bytes(len(sealed[1]))
    assert cipher.open_run(2, sealed) == [b"one"]


def test_the_null_cipher_changes_nothing() -> None:
    cipher = make_cipher(CIPHER_NONE, KEYS)
    assert cipher.overhead_bytes == 0
    assert cipher.seal(2, b"text") == b"text"
    assert cipher.open(3, memoryview(b"text")) == b"text"


def test_nonces_differ_for_every_number_around_the_wraps() -> None:
    cipher = AesGcmCipher(DirectionKeys(bytes(32), b"\xff" * 12))
    numbers = [base + step for base in (0, 2**16, 2**32, 2**48, 2**63) for step in range(-3, 4) if base + step >= 0]
    assert len({cipher.nonce(packet_number) for packet_number in numbers}) == len(numbers)


@pytest.mark.parametrize("cipher", [CIPHER_NONE, CIPHER_AES_256_GCM])
def test_ciphers_never_show_their_keys(cipher: int) -> None:
    assert repr(make_cipher(cipher, KEYS)) in {"<NullCipher>", "<AesGcmCipher>"}
