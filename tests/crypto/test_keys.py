"""Signing, agreeing, and the names of keys."""

from __future__ import annotations

import base64
import hashlib
from contextlib import suppress

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import example, given
from hypothesis import strategies as st

from peergram.crypto.keys import AgreementKey, SigningKey, fingerprint, is_fingerprint, key_id, verify
from peergram.errors import UsageError
from tests.vectors_data import load

VECTORS = load("01-crypto")
SECRET = bytes(range(32))
FIELD_PRIME = 2**255 - 19
ORDER_EIGHT_Y = "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"


@pytest.mark.parametrize("kdf", VECTORS["kdf"], ids=lambda kdf: kdf["name"])
@pytest.mark.parametrize("side", ["client", "server"])
def test_public_keys_and_signatures_equal_the_vectors(kdf: dict[str, dict[str, str]], side: str) -> None:
    given_side = kdf[side]
    key = SigningKey(bytes.fromhex(given_side["ed25519_private"]))
    info = bytes.fromhex(given_side["crypt_info"])
    assert key.public_bytes.hex() == given_side["ed25519_public"]
    assert key.sign(info).hex() == given_side["crypt_signature"]
    assert verify(key.public_bytes, key.sign(info), info)
    assert AgreementKey(bytes.fromhex(given_side["x25519_private"])).public_bytes.hex() == given_side["x25519_public"]


@pytest.mark.parametrize("kdf", VECTORS["kdf"], ids=lambda kdf: kdf["name"])
def test_both_sides_agree_on_the_secret_of_the_vectors(kdf: dict[str, dict[str, str]]) -> None:
    client, server = kdf["client"], kdf["server"]
    expected = bytes.fromhex(kdf["derived"]["x25519_raw"])
    client_key = AgreementKey(bytes.fromhex(client["x25519_private"]))
    server_key = AgreementKey(bytes.fromhex(server["x25519_private"]))
    assert client_key.agree(server_key.public_bytes) == expected
    assert server_key.agree(client_key.public_bytes) == expected


@given(st.integers(0, 63), st.integers(0, 7))
def test_a_signature_with_one_bit_changed_does_not_verify(at: int, bit: int) -> None:
    key = SigningKey(SECRET)
    signature = bytearray(key.sign(b"data"))
    signature[at] ^= 1 << bit
    assert not verify(key.public_bytes, bytes(signature), b"data")


def test_a_signature_is_for_one_key_and_one_text() -> None:
    key, other = SigningKey(SECRET), SigningKey(bytes(32))
    assert not verify(key.public_bytes, key.sign(b"data"), b"Data")
    assert not verify(other.public_bytes, key.sign(b"data"), b"data")


@given(st.binary(max_size=80), st.binary(max_size=80))
def test_no_bytes_make_verify_or_agree_raise(public_key: bytes, signature: bytes) -> None:
    assert not verify(public_key, signature, b"data")
    agreed = AgreementKey(SECRET).agree(public_key)
    assert agreed is None or len(public_key) == 32


def small_order_keys() -> list[bytes]:
    order_eight = int.from_bytes(bytes.fromhex(ORDER_EIGHT_Y), "little")
    values = (0, 1, order_eight, FIELD_PRIME - order_eight, FIELD_PRIME - 1, FIELD_PRIME, FIELD_PRIME + 1)
    return [(y | sign << 255).to_bytes(32, "little") for y in values for sign in (0, 1)]


def test_signatures_that_need_no_secret_are_refused() -> None:
    neutral = bytes([1]) + bytes(31)
    forged = neutral + bytes(32)
    Ed25519PublicKey.from_public_bytes(neutral).verify(forged, b"anything")  # plain Ed25519 takes it
    assert not verify(neutral, forged, b"anything")


def test_every_key_of_small_order_is_refused_whatever_the_text() -> None:
    forged = bytes([1]) + bytes(31) + bytes(32)
    texts = [bytes([n]) for n in range(64)]
    assert not any(verify(key, forged, text) for key in small_order_keys() for text in texts)
    taken_by_plain_ed25519 = 0
    for key in small_order_keys():
        for text in texts:
            try:
                Ed25519PublicKey.from_public_bytes(key).verify(forged, text)
            except Exception:  # noqa: BLE001 (any refusal counts)
                continue
            taken_by_plain_ed25519 += 1
    assert taken_by_plain_ed25519 > len(texts)


@pytest.mark.parametrize("u", [0, 1, FIELD_PRIME - 1, FIELD_PRIME, FIELD_PRIME + 1])
def test_agreeing_with_a_point_of_small_order_gives_nothing(u: int) -> None:
    assert AgreementKey(SECRET).agree(u.to_bytes(32, "little")) is None


@pytest.mark.parametrize("length", [0, 31, 33])
def test_an_agreement_key_of_another_length_gives_nothing(length: int) -> None:
    assert AgreementKey(SECRET).agree(bytes([9] * length)) is None


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_a_private_key_of_another_length_is_the_callers_mistake(length: int) -> None:
    with pytest.raises(UsageError, match="32 bytes"):
        SigningKey(bytes(length))
    with pytest.raises(UsageError, match="32 bytes"):
        AgreementKey(bytes(length))


def test_generated_keys_come_from_the_given_entropy() -> None:
    asked: list[int] = []

    def entropy(count: int) -> bytes:
        asked.append(count)
        return bytes([7]) * count

    assert SigningKey.generate(entropy).private_bytes() == bytes([7]) * 32
    assert AgreementKey.generate(entropy).public_bytes == AgreementKey(bytes([7]) * 32).public_bytes
    assert asked == [32, 32]


def test_secrets_never_show() -> None:
    for key in (SigningKey(SECRET), AgreementKey(SECRET)):
        shown = repr(key) + str(key) + format(key)
        for form in (SECRET.hex(), base64.b64encode(SECRET).decode(), repr(SECRET)[2:-1]):
            assert form not in shown


def test_key_ids_equal_the_vectors() -> None:
    authority = VECTORS["certificate_authority"]
    for name in ("root", "intermediate", "default_root_of_the_library"):
        assert key_id(bytes.fromhex(authority[name]["ed25519_public"])) == int(authority[name]["key_id"], 16)


def test_a_fingerprint_looks_like_openssh_and_names_the_bare_key() -> None:
    public = SigningKey(SECRET).public_bytes
    name, _, text = fingerprint(public).partition(":")
    assert name == "SHA256"
    assert base64.b64decode(text + "=") == hashlib.sha256(public).digest()
    assert not text.endswith("=")


def test_a_key_written_as_pem_is_the_same_key() -> None:
    key = SigningKey(SECRET)
    pem = key.to_pem()
    assert pem.startswith(b"-----BEGIN PRIVATE KEY-----\n")
    assert SigningKey.from_pem(pem).private_bytes() == SECRET


@given(st.binary(max_size=300), st.integers(0, 118), st.integers(0, 7))
@example(b"", 43, 0)
def test_no_text_makes_reading_pem_fail_in_another_way(text: bytes, at: int, bit: int) -> None:
    damaged = bytearray(SigningKey(SECRET).to_pem())
    damaged[at] ^= 1 << bit
    for pem in (text, b"-----BEGIN PRIVATE KEY-----\n" + text, bytes(damaged)):
        with suppress(UsageError):
            assert len(SigningKey.from_pem(pem).public_bytes) == 32


def test_a_fingerprint_is_known_by_its_look() -> None:
    good = fingerprint(SigningKey(SECRET).public_bytes)
    assert is_fingerprint(good)
    last = good[-1]
    twin = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    # Two bits of the last character say nothing; only the text that `fingerprint` makes counts.
    assert not is_fingerprint(good[:-1] + twin[twin.index(last) ^ 1])
    for bad in ("", "SHA256:", good[:-1], good + "A", good + "=", good.lower(), "MD5:" + good[7:], good[:-1] + "-", " " + good):
        assert not is_fingerprint(bad)
    assert not is_fingerprint("SHA256:" + "\u00e9" * 43)
