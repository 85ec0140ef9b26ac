"""Authorities: the recorded certificates, one defect at a time, and chains of several kinds."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from peergram.config import AUTHORITY_CHAIN_MAX, CERTIFICATE_AHEAD_S_MAX
from peergram.crypto.keys import SigningKey, key_id
from peergram.crypto.trust import Scope, TrustStore
from peergram.errors import UsageError
from peergram.identity import Identity
from peergram.wire.certificates import (
    KEY_TYPE_ED25519,
    Certificate,
    IdentityFields,
    SignedCertificate,
    decode_signed_certificate,
    encode_certificate,
    write_identity,
)
from tests.vectors_data import load

VECTORS = load("01-crypto")["certificate_authority"]
ROOT_PUBLIC = bytes.fromhex(VECTORS["root"]["ed25519_public"])
ROOT = SigningKey(bytes.fromhex(VECTORS["root"]["ed25519_private"]))
MIDDLE_ID = int(VECTORS["intermediate"]["key_id"], 16)
LEAF_ID = key_id(bytes.fromhex(VECTORS["leaf_signed_by_root"]["ed25519_public"]))
VALID_AT = VECTORS["leaf_signed_by_root"]["valid_at"]
EXPIRED_AT = VECTORS["leaf_signed_by_root"]["expired_at"]

LATE = 4_000_000_000
KEYS = {name: SigningKey(name.encode().ljust(32, b"-")) for name in ("a", "b", "c", "leaf", "stranger")}
IDS = {name: key_id(key.public_bytes) for name, key in KEYS.items()} | {"root": key_id(ROOT_PUBLIC)}


def recorded(name: str) -> SignedCertificate:
    return decode_signed_certificate(bytes.fromhex(VECTORS[name]["signed_cert"]))


def recorded_store() -> TrustStore:
    store = TrustStore()
    store.add_root(ROOT_PUBLIC)
    store.add_authority(recorded("intermediate"))
    return store


def signed(certificate: Certificate, by: SigningKey) -> SignedCertificate:
    data = encode_certificate(certificate)
    return SignedCertificate(data, key_id(by.public_bytes), by.sign(data))


def authority(
    name: str,
    by: SigningKey,
    *,
    app_ids: tuple[int, ...] = (),
    datacenter_ids: tuple[int, ...] = (),
    time_created: int = 1,
    time_expiry: int = LATE,
) -> SignedCertificate:
    public = KEYS[name].public_bytes
    return signed(Certificate(KEY_TYPE_ED25519, public, IdentityFields(), time_created, time_expiry, app_ids, datacenter_ids), by)


def leaf(by: SigningKey, *, time_expiry: int = LATE, key_type: int = 1, key_data: bytes | None = None) -> SignedCertificate:
    public = KEYS["leaf"].public_bytes if key_data is None else key_data
    fields = write_identity(Identity.string("alice"))
    return signed(Certificate(key_type, public, fields, time_created=1, time_expiry=time_expiry, app_ids=(0,)), by)


def root_store(*authorities: SignedCertificate) -> TrustStore:
    store = TrustStore()
    store.add_root(ROOT_PUBLIC)
    for entry in authorities:
        store.add_authority(entry)
    return store


def text_of(store: TrustStore, certificate: SignedCertificate, wall_s: int = VALID_AT) -> str:
    verdict = store.check_leaf(certificate, wall_s)
    assert (verdict.scope is None) == bool(verdict.text)
    return verdict.text


# The recorded authority


@pytest.mark.parametrize("name", ["leaf_signed_by_root", "leaf_signed_by_intermediate"])
def test_recorded_leaves_are_vouched_for(name: str) -> None:
    assert text_of(recorded_store(), recorded(name)) == ""


def test_the_ids_of_the_vectors_are_the_ids_of_their_keys() -> None:
    store = TrustStore()
    assert store.add_root(ROOT_PUBLIC) == int(VECTORS["root"]["key_id"], 16)
    assert store.add_authority(recorded("intermediate")) == MIDDLE_ID


def replaced(**changes: object) -> Callable[[SignedCertificate], SignedCertificate]:
    def change(given: SignedCertificate) -> SignedCertificate:
        for name, value in changes.items():
            setattr(given, name, value)
        return given

    return change


DEFECTS: list[tuple[str, Callable[[SignedCertificate], SignedCertificate], int, str]] = [
    ("no cert", replaced(cert=b""), VALID_AT, "No signed data"),
    ("no signature", replaced(ca_signature=b""), VALID_AT, "No signature"),
    ("no key id", replaced(ca_key_id=None), VALID_AT, "Missing CA Key ID"),
    ("key id 0", replaced(ca_key_id=0), VALID_AT, "Missing CA Key ID"),
    ("unknown key id", replaced(ca_key_id=77), VALID_AT, "CA key 77 is not known to us"),
    ("short signature", replaced(ca_signature=bytes(63)), VALID_AT, "Signature has invalid length"),
    ("long signature", replaced(ca_signature=bytes(65)), VALID_AT, "Signature has invalid length"),
    ("zero signature", replaced(ca_signature=bytes(64)), VALID_AT, "Signature verification failed"),
    ("other key's signature", replaced(ca_key_id=MIDDLE_ID), VALID_AT, "Signature verification failed"),
    ("other text", replaced(cert=b"\x08\x01"), VALID_AT, "Signature verification failed"),
    (
        "expired",
        replaced(),
        EXPIRED_AT,
        f"Cert expired 1 seconds ago at 1900000000 (current time {EXPIRED_AT})",
    ),
]


@pytest.mark.parametrize(("change", "wall_s", "text"), [row[1:] for row in DEFECTS], ids=[row[0] for row in DEFECTS])
def test_one_defect_in_a_recorded_leaf_gives_its_sentence(
    change: Callable[[SignedCertificate], SignedCertificate], wall_s: int, text: str
) -> None:
    certificate = change(recorded("leaf_signed_by_root"))
    assert text_of(recorded_store(), certificate, wall_s) == text


@pytest.mark.parametrize("at", range(0, 64, 7))
def test_a_changed_byte_of_the_signature_is_noticed(at: int) -> None:
    certificate = recorded("leaf_signed_by_root")
    changed = bytearray(certificate.ca_signature)
    changed[at] ^= 1
    certificate.ca_signature = bytes(changed)
    assert text_of(recorded_store(), certificate) == "Signature verification failed"


def test_every_changed_byte_of_the_content_is_noticed() -> None:
    certificate = recorded("leaf_signed_by_root")
    whole, store = certificate.cert, recorded_store()
    for at in range(len(whole)):
        certificate.cert = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
        assert text_of(store, certificate) == "Signature verification failed"


# Revocation and expiry


def test_a_revoked_authority_vouches_for_nobody() -> None:
    store = recorded_store()
    assert text_of(store, recorded("leaf_signed_by_intermediate")) == ""
    store.revoke(MIDDLE_ID)
    assert text_of(store, recorded("leaf_signed_by_intermediate")) == f"CA key {MIDDLE_ID} is not trusted.  Revoked"
    assert text_of(store, recorded("leaf_signed_by_root")) == ""


def test_a_revoked_root_takes_everything_with_it() -> None:
    store = recorded_store()
    store.revoke(IDS["root"])
    assert text_of(store, recorded("leaf_signed_by_root")) == f"CA key {IDS['root']} is not trusted.  Revoked"
    text = text_of(store, recorded("leaf_signed_by_intermediate"))
    assert text.startswith(f"CA key {MIDDLE_ID} is not trusted.  ")
    assert text.endswith("Revoked")


def test_a_revoked_leaf_key_is_refused() -> None:
    store = recorded_store()
    store.revoke(LEAF_ID)
    assert text_of(store, recorded("leaf_signed_by_root")) == "Cert has untrusted public key.  Revoked"


def test_only_the_keys_that_were_revoked_are() -> None:
    store = root_store()
    leaf_key = KEYS["leaf"].public_bytes
    assert not store.is_revoked(leaf_key)
    store.revoke(IDS["stranger"])
    assert not store.is_revoked(leaf_key)
    assert store.is_revoked(KEYS["stranger"].public_bytes)


def test_an_expired_authority_is_named_with_its_age() -> None:
    store = root_store(authority("a", ROOT, time_expiry=VALID_AT))
    assert text_of(store, leaf(KEYS["a"]), VALID_AT) == ""
    assert text_of(store, leaf(KEYS["a"]), VALID_AT + 3) == f"CA key {IDS['a']} (or an antecedent) expired 3 seconds ago!"


def test_the_earliest_expiry_of_a_chain_counts() -> None:
    store = root_store(authority("a", ROOT, time_expiry=VALID_AT - 9), authority("b", KEYS["a"]))
    assert text_of(store, leaf(KEYS["b"])) == f"CA key {IDS['b']} (or an antecedent) expired 9 seconds ago!"
    store = root_store(authority("a", ROOT), authority("b", KEYS["a"], time_expiry=VALID_AT - 8))
    assert text_of(store, leaf(KEYS["b"])) == f"CA key {IDS['b']} (or an antecedent) expired 8 seconds ago!"


@pytest.mark.parametrize(("later_s", "good"), [(-1, True), (0, True), (1, False)])
def test_a_leaf_is_good_up_to_the_second_it_expires(later_s: int, good: bool) -> None:
    store = root_store()
    text = text_of(store, leaf(ROOT, time_expiry=VALID_AT), VALID_AT + later_s)
    assert (text == "") is good


def test_a_leaf_without_expiry_expired_in_1970() -> None:
    text = text_of(root_store(), leaf(ROOT, time_expiry=0))
    assert text == f"Cert expired {VALID_AT} seconds ago at 0 (current time {VALID_AT})"


# The content of a leaf


def test_a_signed_leaf_with_another_kind_of_key_is_refused() -> None:
    assert text_of(root_store(), leaf(ROOT, key_type=0)) == "Cert has unsupported key type 0"


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_signed_leaf_with_a_key_of_another_length_is_refused(length: int) -> None:
    assert text_of(root_store(), leaf(ROOT, key_data=bytes(length))) == "Cert has invalid public key"


def test_signed_bytes_that_are_no_certificate_are_refused() -> None:
    data = b"\xff\xff\xff"
    assert text_of(root_store(), SignedCertificate(data, IDS["root"], ROOT.sign(data))) == "Cert failed protobuf decode"


# Chains


def test_an_empty_store_knows_nobody() -> None:
    assert text_of(TrustStore(), leaf(ROOT)) == f"CA key {IDS['root']} is not known to us"


def test_authorities_may_be_added_before_their_signers() -> None:
    store = TrustStore()
    store.add_authority(authority("b", KEYS["a"]))
    assert "not known to us" in text_of(store, leaf(KEYS["b"]))
    store.add_authority(authority("a", ROOT))
    assert "not known to us" in text_of(store, leaf(KEYS["b"]))
    store.add_root(ROOT_PUBLIC)
    assert text_of(store, leaf(KEYS["b"])) == ""


def test_an_authority_that_no_root_leads_to_is_not_trusted() -> None:
    store = root_store(authority("a", KEYS["stranger"]))
    assert text_of(store, leaf(KEYS["a"])).startswith(f"CA key {IDS['a']} is not trusted.  It is signed by CA key")


def test_an_authority_whose_certificate_is_forged_is_not_trusted() -> None:
    forged = authority("a", KEYS["stranger"])
    forged.ca_key_id = IDS["root"]
    text = text_of(root_store(forged), leaf(KEYS["a"]))
    assert text == f"CA key {IDS['a']} is not trusted.  The signature of its certificate does not verify"


def test_circles_are_not_trusted() -> None:
    store = root_store(authority("a", KEYS["b"]), authority("b", KEYS["a"]), authority("c", KEYS["c"]))
    for name in ("a", "b", "c"):
        assert text_of(store, leaf(KEYS[name])).startswith(f"CA key {IDS[name]} is not trusted.  ")


def test_a_circle_with_a_way_to_the_root_is_trusted_in_whatever_order_it_is_asked() -> None:
    for order in (("a", "b"), ("b", "a")):
        store = root_store(
            authority("a", KEYS["b"], time_created=9), authority("a", ROOT, time_created=1), authority("b", KEYS["a"])
        )
        assert [text_of(store, leaf(KEYS[name])) for name in order] == ["", ""]


def test_of_several_certificates_the_newest_valid_one_counts() -> None:
    certificates = [
        authority("a", ROOT, app_ids=(1,), time_created=1),
        authority("a", ROOT, app_ids=(2,), time_created=3),
        authority("a", ROOT, app_ids=(3,), time_created=2),
        authority("a", KEYS["stranger"], app_ids=(4,), time_created=4),
    ]
    for turn in range(len(certificates)):
        verdict = root_store(*certificates[turn:], *certificates[:turn]).check_leaf(leaf(KEYS["a"]), VALID_AT)
        assert verdict.scope == Scope(app_ids=frozenset({2}), expiry_s=LATE)


def test_scopes_only_ever_shrink() -> None:
    store = root_store(
        authority("a", ROOT, app_ids=(0, 1, 2), datacenter_ids=(7, 8), time_expiry=VALID_AT + 50),
        authority("b", KEYS["a"], app_ids=(1, 2, 3), time_expiry=VALID_AT + 90),
        authority("c", KEYS["b"], datacenter_ids=(8, 9)),
    )
    scope = store.check_leaf(leaf(KEYS["c"]), VALID_AT).scope
    assert scope == Scope(frozenset({1, 2}), frozenset({8}), VALID_AT + 50)
    assert [scope.allows_app(app_id) for app_id in (0, 1, 2, 3)] == [False, True, True, False]


def test_a_root_is_not_restricted() -> None:
    scope = root_store().check_leaf(leaf(ROOT), VALID_AT).scope
    assert scope == Scope(None, None, None)
    assert scope.allows_app(12_345)


@pytest.mark.parametrize("field", ["app_ids", "datacenter_ids"])
def test_an_authority_left_with_nothing_is_not_trusted(field: str) -> None:
    if field == "app_ids":
        store = root_store(authority("a", ROOT, app_ids=(1,)), authority("b", KEYS["a"], app_ids=(2,)))
    else:
        store = root_store(authority("a", ROOT, datacenter_ids=(1,)), authority("b", KEYS["a"], datacenter_ids=(2,)))
    text = "Its certificate and its antecedents' leave it no app or no data center"
    assert text_of(store, leaf(KEYS["b"])) == f"CA key {IDS['b']} is not trusted.  {text}"
    assert text_of(store, leaf(KEYS["a"])) == ""


def with_addresses(certificate: Certificate) -> SignedCertificate:
    """With the list of IP addresses that the reference knows and heeds nowhere."""
    data = encode_certificate(certificate) + b"\x6a\x09192.0.2.1"
    return SignedCertificate(data, key_id(ROOT_PUBLIC), ROOT.sign(data))


def test_restrictions_that_we_do_not_understand_are_not_passed_over() -> None:
    whole = Certificate(1, KEYS["leaf"].public_bytes, write_identity(Identity.string("alice")), 1, LATE, (0,))
    text = "Cert has unknown fields, which may restrict it: 13"
    assert text_of(root_store(), with_addresses(whole)) == text
    grouped = encode_certificate(whole) + b"\x6b\x6c"
    certificate = SignedCertificate(grouped, key_id(ROOT_PUBLIC), ROOT.sign(grouped))
    assert text_of(root_store(), certificate) == "Cert failed protobuf decode"


def test_a_certificate_from_the_future_is_refused_and_one_of_today_is_not() -> None:
    for ahead_s, text in (
        (CERTIFICATE_AHEAD_S_MAX, ""),
        (CERTIFICATE_AHEAD_S_MAX + 1, "Cert was created 86401 seconds in the future at 86501 (current time 100)"),
    ):
        whole = Certificate(1, KEYS["leaf"].public_bytes, write_identity(Identity.string("alice")), 100 + ahead_s, LATE, (0,))
        assert text_of(root_store(), signed(whole, ROOT), 100) == text


def test_a_chain_has_so_many_links_and_no_more() -> None:
    keys = [SigningKey(bytes([number]) * 32) for number in range(1, AUTHORITY_CHAIN_MAX + 3)]
    store = root_store()
    signer = ROOT
    for key in keys:
        store.add_authority(signed(Certificate(1, key.public_bytes, IdentityFields(), 1, LATE), signer))
        signer = key
    assert text_of(store, leaf(keys[AUTHORITY_CHAIN_MAX])) == ""
    assert f"longer than {AUTHORITY_CHAIN_MAX}" in text_of(store, leaf(keys[AUTHORITY_CHAIN_MAX + 1]))


def test_a_store_tells_what_it_holds() -> None:
    store = root_store(authority("a", ROOT, app_ids=(3,)))
    assert store.key_ids == {IDS["root"], IDS["a"]}
    assert store.root_ids == {IDS["root"]}
    assert store.scope_of(IDS["root"]) == Scope()
    assert store.scope_of(IDS["a"]) == Scope(frozenset({3}), None, LATE)
    assert store.scope_of(IDS["b"]) == "It is not known to us"
    store.revoke(IDS["root"])
    assert store.root_ids == frozenset()
    assert store.scope_of(IDS["root"]) == "Revoked"


# What an authority's certificate must be


def unusable_authorities() -> list[tuple[str, SignedCertificate]]:
    public, fields = KEYS["a"].public_bytes, IdentityFields()
    unsigned = SignedCertificate(encode_certificate(Certificate(1, public, fields, time_expiry=LATE)))
    garbage = SignedCertificate(b"\xff\xff", IDS["root"], bytes(64))
    named = write_identity(Identity.string("alice"))
    return [
        ("failed|well-formed", garbage),
        ("identity", signed(Certificate(1, public, named, time_expiry=LATE), ROOT)),
        ("Ed25519 key", signed(Certificate(0, public, fields, time_expiry=LATE), ROOT)),
        ("Ed25519 key", signed(Certificate(1, public[:31], fields, time_expiry=LATE), ROOT)),
        ("64 bytes", unsigned),
        ("expires", signed(Certificate(1, public, fields), ROOT)),
        ("unknown fields, which may restrict it: 13$", with_addresses(Certificate(1, public, fields, time_expiry=LATE))),
    ]


@pytest.mark.parametrize(("text", "certificate"), unusable_authorities())
def test_certificates_no_authority_can_have_are_the_users_mistake(text: str, certificate: SignedCertificate) -> None:
    with pytest.raises(UsageError, match=text):
        TrustStore().add_authority(certificate)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_root_of_another_length_is_the_users_mistake(length: int) -> None:
    with pytest.raises(UsageError, match="32 bytes"):
        TrustStore().add_root(bytes(length))
