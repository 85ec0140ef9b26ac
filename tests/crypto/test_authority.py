"""What an authority issues, a store believes; and what it does not issue, a store or a hello would not have taken."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peergram.config import DATAGRAM_BYTES_MAX, LEAF_CERTIFICATE_BYTES_MAX
from peergram.connection.handshake import LocalCredentials, local_crypt_info
from peergram.crypto.authority import issue_authority, issue_certificate
from peergram.crypto.key_text import read_any_public_key, read_private_key
from peergram.crypto.keys import AgreementKey, SigningKey, key_id
from peergram.crypto.trust import Scope, TrustStore
from peergram.errors import UsageError
from peergram.identity import ANONYMOUS, INVALID, Identity
from peergram.wire.certificate_text import read_certificate, split_blocks
from peergram.wire.certificates import (
    KEY_TYPE_ED25519,
    Certificate,
    IdentityFields,
    SignedCertificate,
    decode_certificate,
    decode_signed_certificate,
    encode_signed_certificate,
    read_identity,
)
from peergram.wire.control import ConnectRequest, encode_control
from tests.vectors_data import load

RECORDED = load("04-certtool")
VECTORS = load("01-crypto")["certificate_authority"]
ROOT, MIDDLE, LEAF = (SigningKey(bytes([number]) * 32) for number in (1, 2, 3))
ALICE = Identity.of("alice")
NOW_S, LATER_S = 1_795_737_358, 1_795_737_358 + 365 * 86_400
APP_ID_BYTES_MAX = 6
"""With its tag."""


def leaf(**changes: Any) -> SignedCertificate:
    wanted: dict[str, Any] = {
        "subject_key": LEAF.public_bytes, "identity": ALICE, "app_ids": (0,), "created_s": NOW_S, "expires_s": LATER_S,
    }  # fmt: skip
    return issue_certificate(ROOT, **wanted | changes)


def authority(**changes: Any) -> SignedCertificate:
    wanted: dict[str, Any] = {"subject_key": MIDDLE.public_bytes, "created_s": NOW_S, "expires_s": LATER_S}
    return issue_authority(ROOT, **wanted | changes)


def rooted() -> TrustStore:
    store = TrustStore()
    store.add_root(ROOT.public_bytes)
    return store


def test_a_leaf_is_believed_by_who_trusts_the_root_and_by_nobody_else() -> None:
    assert rooted().check_leaf(leaf(), NOW_S).scope == Scope()
    assert rooted().check_leaf(leaf(), LATER_S).scope == Scope()
    assert rooted().check_leaf(leaf(), LATER_S + 1).text.startswith("Cert expired 1 seconds ago")
    assert TrustStore().check_leaf(leaf(), NOW_S).text == f"CA key {key_id(ROOT.public_bytes)} is not known to us"


def test_a_leaf_says_what_was_asked_for_and_nothing_else() -> None:
    certificate = decode_certificate(leaf(app_ids=(5, 0, 5), datacenter_ids=(9,)).cert)
    assert read_identity(certificate.identity_fields) == ALICE
    assert certificate == Certificate(
        KEY_TYPE_ED25519, LEAF.public_bytes, certificate.identity_fields, NOW_S, LATER_S, (5, 0), (9,)
    )


def test_through_an_authority_within_its_bounds() -> None:
    store = rooted()
    store.add_authority(authority(app_ids=(0, 7)))
    scope = store.scope_of(key_id(MIDDLE.public_bytes))
    assert isinstance(scope, Scope)
    issued = issue_certificate(
        MIDDLE, subject_key=LEAF.public_bytes, identity=ALICE, app_ids=(7,), created_s=NOW_S, expires_s=LATER_S, scope=scope
    )
    assert store.check_leaf(issued, NOW_S).scope == scope


def test_the_recorded_authority_issues_the_recorded_bytes() -> None:
    root = SigningKey(bytes.fromhex(VECTORS["root"]["ed25519_private"]))
    for name in ("leaf_signed_by_root", "intermediate"):
        recorded = VECTORS[name]
        stored = bytes.fromhex(recorded["signed_cert"])
        old = read_back(stored)
        times: dict[str, Any] = {"created_s": old.time_created, "expires_s": old.time_expiry}
        if old.identity_fields == IdentityFields():
            made = issue_authority(
                root, subject_key=old.key_data, app_ids=old.app_ids, datacenter_ids=old.datacenter_ids, **times
            )
        else:
            identity = read_identity(old.identity_fields)
            assert identity is not None
            made = issue_certificate(root, subject_key=old.key_data, identity=identity, app_ids=old.app_ids, **times)
        assert encode_signed_certificate(made) == stored


def read_back(stored: bytes) -> Certificate:
    return decode_certificate(decode_signed_certificate(stored).cert)


def test_what_the_tool_of_the_reference_issued_is_what_ours_issues() -> None:
    key = read_private_key(RECORDED["root_private"])
    theirs = read_certificate(split_blocks(RECORDED["certificate"])[0][0][1]).signed
    certificate = decode_certificate(theirs.cert)
    ours = issue_authority(
        key,
        subject_key=read_any_public_key(RECORDED["subject_public"]),
        app_ids=certificate.app_ids,
        datacenter_ids=certificate.datacenter_ids,
        created_s=certificate.time_created,
        expires_s=certificate.time_expiry,
    )
    assert ours == theirs
    store = TrustStore()
    store.add_root(key.public_bytes)
    assert store.scope_of(store.add_authority(theirs)) == Scope(
        frozenset((0, 570)), frozenset(certificate.datacenter_ids), certificate.time_expiry
    )


NARROW = Scope(frozenset((0, 7)), frozenset((1, 2)), LATER_S)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"subject_key": bytes(31)}, "a certificate is for an Ed25519 public key of 32 bytes, not 31"),
        ({"subject_key": b"\x01" + bytes(31)}, "one under which anybody can sign"),
        ({"subject_key": ROOT.public_bytes}, "cannot vouch for its own key"),
        ({"identity": INVALID}, "needs an identity"),
        ({"identity": ANONYMOUS}, "cannot vouch for an address"),
        ({"identity": Identity.of("ip:192.0.2.1:5")}, "cannot vouch for an address: ip:192.0.2.1:5"),
        ({"identity": Identity.generic_bytes(MIDDLE.public_bytes)}, "is another key than the one to be certified"),
        ({"app_ids": ()}, "must name the apps"),
        ({"app_ids": (-1,)}, "an app id is a number from 0 to 4294967295, not -1"),
        ({"app_ids": (1 << 32,)}, "an app id is a number"),
        ({"app_ids": (0, 8), "scope": NARROW}, "may not vouch for app id 8, only for 0, 7"),
        ({"datacenter_ids": (1 << 32,)}, "a data center id is a number"),
        ({"datacenter_ids": (3,), "scope": NARROW}, "may not vouch for data center id 3, only for 1, 2"),
        ({"datacenter_ids": (3,), "scope": Scope(None, frozenset())}, "may not vouch for data center id 3, only for none"),
        ({"created_s": 0}, "not at Unix time 0: is this machine's clock right"),
        ({"created_s": 1 << 32, "expires_s": (1 << 32) + 1}, "between 1970 and 2106"),
        ({"expires_s": NOW_S}, "must expire after it is made"),
        ({"expires_s": 1 << 32}, "beyond February 2106"),
        ({"expires_s": LATER_S + 1, "scope": NARROW}, "would outlast the authority's own certificate by 1 s"),
    ],
)
def test_what_would_be_of_no_use_is_not_issued(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        leaf(**changes)
    if "identity" not in changes and changes.get("app_ids") != ():
        with pytest.raises(UsageError, match=says):
            authority(**changes)


def test_everything_the_scope_allows_is_issued() -> None:
    leaf(app_ids=(0, 7), datacenter_ids=(1, 2), expires_s=LATER_S, scope=NARROW)
    leaf(created_s=1, expires_s=(1 << 32) - 1, app_ids=(0, (1 << 32) - 1))
    leaf(identity=Identity.generic_bytes(LEAF.public_bytes))


def test_a_certificate_that_fits_no_hello_is_not_made() -> None:
    def with_apps(count: int) -> SignedCertificate:
        return leaf(identity=Identity.string("x" * 31), app_ids=[(1 << 32) - 1 - each for each in range(count)])

    most = (LEAF_CERTIFICATE_BYTES_MAX - len(with_apps(1).cert)) // APP_ID_BYTES_MAX + 1
    with pytest.raises(UsageError, match=f"at most {LEAF_CERTIFICATE_BYTES_MAX} fit into a hello"):
        with_apps(most + 1)
    issued = with_apps(most)
    # And the longest does fit.
    credentials = LocalCredentials(ALICE, LEAF, issued, bytes(16))
    crypt = local_crypt_info(credentials, AgreementKey(bytes(32)), (2,), lambda count: b"\xff" * count, connection_id=1 << 31)
    hello = ConnectRequest(1 << 31, 1 << 63, 1 << 63, 1_500, issued, crypt.signed, IdentityFields(legacy_steam_id=1 << 63))
    assert len(encode_control(hello)) <= DATAGRAM_BYTES_MAX


@given(st.lists(st.integers(0, (1 << 32) - 1), min_size=1, max_size=8), st.integers(1, (1 << 32) - 2), st.data())
def test_whatever_is_issued_is_believed_at_every_time_of_its_life(apps: list[int], created_s: int, data: st.DataObject) -> None:
    expires_s = data.draw(st.integers(created_s + 1, (1 << 32) - 1))
    issued = leaf(app_ids=apps, created_s=created_s, expires_s=expires_s)
    at_s = data.draw(st.integers(created_s, expires_s))
    assert rooted().check_leaf(issued, at_s).scope == Scope()
    assert rooted().check_leaf(issued, expires_s + 1).scope is None
