"""Identity fields, certificates and session-crypto records: the reference's bytes, and strict about everything else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peergram.errors import UsageError, WireError
from peergram.identity import ANONYMOUS, INVALID, Identity
from peergram.wire.certificates import (
    CIPHER_AES_256_GCM,
    CIPHER_NONE,
    KEY_TYPE_CURVE25519,
    KEY_TYPE_ED25519,
    Capabilities,
    Certificate,
    CryptInfo,
    IdentityFields,
    LegacyIdentity,
    SignedCertificate,
    decode_certificate,
    decode_crypt_info,
    decode_signed_certificate,
    encode_certificate,
    encode_crypt_info,
    encode_signed_certificate,
    read_identity,
    write_identity,
)
from tests.vectors_data import control_packets, load, number

STEAM = 76561197960265729
VECTORS = load("01-crypto")
AUTHORITY = VECTORS["certificate_authority"]
CONNECTS = [row for row in control_packets() if "cert" in row["fields"]]
KEY = bytes(range(32))
RUN_ID = bytes(range(16))


@pytest.mark.parametrize("row", VECTORS["identity"], ids=lambda row: row["identity"])
def test_identities_are_written_into_certificates_as_the_reference_writes_them(row: dict[str, Any]) -> None:
    identity = Identity.parse(row["identity"])
    whole = bytes.fromhex(row["cert"])
    certificate = decode_certificate(whole)
    assert certificate.identity_fields == write_identity(identity)
    assert read_identity(certificate.identity_fields) == identity
    made = Certificate(KEY_TYPE_ED25519, certificate.key_data, write_identity(identity), app_ids=(0,))
    assert encode_certificate(made) == whole


@pytest.mark.parametrize("row", CONNECTS, ids=lambda row: row["kind"])
def test_recorded_certificates_and_crypt_infos_decode_and_encode_to_the_same_bytes(row: dict[str, Any]) -> None:
    cert = bytes.fromhex(row["fields"]["cert"]["cert"])
    info = bytes.fromhex(row["fields"]["crypt"]["info"])
    assert encode_certificate(decode_certificate(cert)) == cert
    assert encode_crypt_info(decode_crypt_info(info)) == info
    if (expected := row["fields"]["crypt"].get("info_decoded")) is not None:
        assert decode_crypt_info(info) == CryptInfo(
            expected["key_type"],
            bytes.fromhex(expected["key_data"]),
            number(expected["nonce"]),
            expected["protocol_version"],
            tuple(expected["ciphers"]),
        )


def test_signed_certificates_of_an_authority_keep_their_bytes() -> None:
    for name in ("leaf_signed_by_root", "intermediate"):
        whole = bytes.fromhex(AUTHORITY[name]["signed_cert"])
        signed = decode_signed_certificate(whole)
        assert signed.ca_key_id == number(AUTHORITY["root"]["key_id"])
        assert len(signed.ca_signature) == 64
        assert encode_signed_certificate(signed) == whole
        assert encode_certificate(decode_certificate(signed.cert)) == signed.cert


def test_lifetime_and_scope_of_a_certificate_are_read() -> None:
    certificate = decode_certificate(bytes.fromhex(AUTHORITY["leaf_signed_by_root"]["cert"]))
    assert certificate.time_created <= AUTHORITY["leaf_signed_by_root"]["valid_at"] <= certificate.time_expiry
    assert AUTHORITY["leaf_signed_by_root"]["expired_at"] == certificate.time_expiry + 1
    assert certificate.app_ids == (0,)


def test_a_private_key_stored_with_a_certificate_is_neither_kept_nor_sent_on() -> None:
    secret = b"\x0a\x20" + b"\xaa" * 32
    signed = decode_signed_certificate(secret + b"\x22\x04cert")
    assert signed == SignedCertificate(b"cert")
    assert encode_signed_certificate(signed) == b"\x22\x04cert"


def test_packed_and_unpacked_lists_read_the_same() -> None:
    assert decode_certificate(b"\x50\x01\x50\x02").app_ids == decode_certificate(b"\x52\x02\x01\x02").app_ids == (1, 2)
    assert decode_crypt_info(b"\x28\x02\x28\x01").ciphers == decode_crypt_info(b"\x2a\x02\x02\x01").ciphers == (2, 1)


def test_enum_values_nobody_knows_read_as_absent() -> None:
    info = decode_crypt_info(bytes.fromhex("0802 2803 2802 2863 2801"))
    assert info.key_type == 0
    assert info.ciphers == (CIPHER_AES_256_GCM, CIPHER_NONE)
    assert decode_crypt_info(bytes.fromhex("0801 0802")).key_type == KEY_TYPE_CURVE25519
    assert decode_certificate(bytes.fromhex("0807")).key_type == 0


def test_our_capabilities_travel_in_a_field_that_others_skip() -> None:
    info = CryptInfo(KEY_TYPE_CURVE25519, KEY, 5, 13, (CIPHER_AES_256_GCM,), Capabilities(3, RUN_ID))
    encoded = encode_crypt_info(info)
    assert encoded.endswith(b"\xc2\x3e\x14" + b"\x08\x03" + b"\x12\x10" + RUN_ID)
    assert decode_crypt_info(encoded) == info
    info.capabilities = None
    assert encoded.startswith(encode_crypt_info(info))


@pytest.mark.parametrize("run_id", [b"", bytes(15), bytes(17)])
def test_a_run_id_has_sixteen_bytes(run_id: bytes) -> None:
    with pytest.raises(UsageError, match="16 bytes"):
        encode_crypt_info(CryptInfo(1, KEY, 5, 13, (2,), Capabilities(0, run_id)))
    capabilities = b"\x12" + bytes((len(run_id),)) + run_id
    with pytest.raises(WireError, match="run id"):
        decode_crypt_info(b"\xc2\x3e" + bytes((len(capabilities),)) + capabilities)


def test_fields_of_later_versions_of_our_capabilities_are_skipped() -> None:
    capabilities = b"\x08\x01\x12\x10" + RUN_ID + b"\x18\x07"
    info = decode_crypt_info(b"\xc2\x3e" + bytes((len(capabilities),)) + capabilities)
    assert info.capabilities == Capabilities(1, RUN_ID)


def test_an_empty_record_reads_as_all_absent() -> None:
    assert decode_certificate(b"") == Certificate(0, b"", IdentityFields())
    assert decode_crypt_info(b"") == CryptInfo(0, b"", 0, 0, ())
    assert decode_signed_certificate(b"") == SignedCertificate(b"")
    assert encode_certificate(decode_certificate(b"")) == b""


# Which of several identities counts


def test_the_text_counts_before_the_legacy_forms() -> None:
    other = write_identity(Identity.of("mallory"))
    assert read_identity(IdentityFields(b"str:alice", other.legacy_binary, STEAM)) == Identity.of("alice")


def test_the_legacy_binary_form_counts_before_the_bare_steam_id() -> None:
    legacy = LegacyIdentity(generic_string=b"alice")
    assert read_identity(IdentityFields(None, legacy, STEAM)) == Identity.of("alice")
    assert read_identity(IdentityFields(None, None, STEAM)) == Identity.steam_id(STEAM)
    assert read_identity(IdentityFields()) is None


def test_inside_the_legacy_form_the_order_is_steam_string_bytes_address() -> None:
    legacy = LegacyIdentity(b"\x07", b"alice", bytes(15) + b"\x01\x00\x05", STEAM)
    found = []
    for name in ("steam_id", "generic_string", "generic_bytes", "ipv6_and_port"):
        found.append(str(read_identity(IdentityFields(None, legacy))))
        setattr(legacy, name, None)
    assert found == [f"steamid:{STEAM}", "str:alice", "gen:07", "ip:[::1]:5"]
    with pytest.raises(WireError, match="none of the kinds"):
        read_identity(IdentityFields(None, legacy))


@pytest.mark.parametrize(
    "fields",
    [
        IdentityFields(b""),
        IdentityFields(b"alice"),
        IdentityFields(b"str:" + b"x" * 32),
        IdentityFields(b"str:a\0b"),
        IdentityFields(b"invalid", LegacyIdentity(generic_string=b"alice")),
        IdentityFields(None, LegacyIdentity()),
        IdentityFields(None, LegacyIdentity(generic_string=b"x" * 32)),
        IdentityFields(None, LegacyIdentity(generic_bytes=b"")),
        IdentityFields(None, LegacyIdentity(generic_bytes=bytes(33))),
        IdentityFields(None, LegacyIdentity(ipv6_and_port=bytes(17))),
        IdentityFields(None, LegacyIdentity(ipv6_and_port=bytes(19))),
        IdentityFields(None, LegacyIdentity(steam_id=0)),
        IdentityFields(None, LegacyIdentity(steam_id=STEAM & ~0xFFFFFFFF)),
        IdentityFields(None, LegacyIdentity(steam_id=0x0120000100000005)),
        IdentityFields(None, LegacyIdentity(steam_id=0x0510000100000005)),
        IdentityFields(None, None, 0),
        IdentityFields(None, None, 0x0170000000000005),
    ],
    ids=repr,
)
def test_an_identity_that_cannot_be_read_is_a_wire_error_never_nobody(fields: IdentityFields) -> None:
    with pytest.raises(WireError):
        read_identity(fields)


def test_nobody_cannot_be_sent() -> None:
    with pytest.raises(UsageError):
        write_identity(INVALID)
    assert read_identity(write_identity(ANONYMOUS)) == ANONYMOUS


# Hostile bytes


@pytest.mark.parametrize(
    "data",
    [b"\x0b" * 10_000, b"\x08" + b"\xff" * 11, b"\x12\x7f", b"\x19\x01\x02", b"\x00\x00", b"\x0c"],
    ids=["groups", "varint", "length", "cut", "field-0", "end"],
)
def test_malformed_records_are_wire_errors(data: bytes) -> None:
    for decode in (decode_certificate, decode_crypt_info, decode_signed_certificate):
        with pytest.raises(WireError):
            decode(data)


def test_records_larger_than_any_honest_one_are_refused() -> None:
    filler = b"\xf2\x3f"
    for decode, limit in ((decode_certificate, 8_192), (decode_crypt_info, 2_048)):
        fits = filler + bytes(((limit - 4) & 0x7F | 0x80, (limit - 4) >> 7)) + bytes(limit - 4)
        assert len(fits) == limit
        decode(fits)
        with pytest.raises(WireError, match=f"at most {limit}"):
            decode(fits + b"\x08\x01")


def test_keys_longer_than_256_bytes_are_refused() -> None:
    for decode in (decode_certificate, decode_crypt_info):
        decode(b"\x12\x80\x02" + bytes(256))
        with pytest.raises(WireError, match="key"):
            decode(b"\x12\x81\x02" + bytes(257))


@given(st.binary(max_size=80))
def test_whatever_decodes_means_the_same_after_encoding_again(data: bytes) -> None:
    try:
        certificate = decode_certificate(data)
    except WireError:
        return
    assert decode_certificate(encode_certificate(certificate)) == certificate
