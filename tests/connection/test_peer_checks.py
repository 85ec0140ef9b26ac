"""Every row of the table of checks (wire protocol, part 1, chapter 9.1), for both roles, with its reason and sentence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from peergram.connection.peer_checks import (
    AGREEMENT_CHECKS,
    PEER_CHECKS,
    Failed,
    PeerClaims,
    ciphers_of_option,
    run_checks,
)
from peergram.crypto.keys import KEY_BYTES, AgreementKey, SigningKey, key_id
from peergram.crypto.policy import Policy, Trust
from peergram.crypto.trust import TrustStore
from peergram.errors import EndReason
from peergram.identity import Identity
from peergram.wire.certificates import (
    CIPHER_AES_256_GCM,
    CIPHER_NONE,
    Certificate,
    CryptInfo,
    IdentityFields,
    LegacyIdentity,
    SignedCertificate,
    SignedCryptInfo,
    encode_certificate,
    encode_crypt_info,
    write_identity,
)

ALICE = Identity.string("alice")
GAME_SERVER = Identity.steam_id(1 << 56 | 4 << 52 | 1 << 32 | 99)
PERSON = Identity.steam_id(1 << 56 | 1 << 52 | 1 << 32 | 99)
KEY = SigningKey(b"the peer's signing key".ljust(32, b"."))
PEER_DH = AgreementKey(b"the peer's agreement key".ljust(32, b"."))
OWN_DH = AgreementKey(b"our agreement key".ljust(32, b"."))
ROOT = SigningKey(b"a root".ljust(32, b"."))
AUTHORITY = SigningKey(b"an authority".ljust(32, b"."))
WALL_S = 1_800_000_000
AES, NONE = CIPHER_AES_256_GCM, CIPHER_NONE


@dataclass
class Hello:
    """A good peer, and the one thing that a test makes wrong with it."""

    certificate: Certificate
    info: CryptInfo
    identity: Identity = ALICE
    ca_key: SigningKey | None = None
    ca_signature: bytes | None = None
    signature: bytes | None = None
    cert_bytes: bytes | None = None
    info_bytes: bytes | None = None
    trust: Policy = "open"
    store: TrustStore | None = None
    earlier_version: int | None = None
    lanes: int = 1
    local_ciphers: tuple[int, ...] = (AES,)

    def claims(self, *, peer_is_server: bool) -> PeerClaims:
        cert = encode_certificate(self.certificate) if self.cert_bytes is None else self.cert_bytes
        info = encode_crypt_info(self.info) if self.info_bytes is None else self.info_bytes
        signed = SignedCertificate(cert)
        if self.ca_key is not None:
            signed = SignedCertificate(cert, key_id(self.ca_key.public_bytes), self.ca_key.sign(cert))
        if self.ca_signature is not None:
            signed.ca_signature = self.ca_signature
        return PeerClaims(
            cert=signed,
            crypt=SignedCryptInfo(info, KEY.sign(info) if self.signature is None else self.signature),
            identity=self.identity,
            trust=Trust(self.trust, authorities=self.store or TrustStore()),
            wall_s=WALL_S,
            earlier_version=self.earlier_version,
            lanes=self.lanes,
            peer_is_server=peer_is_server,
            local_ciphers=self.local_ciphers,
            agreement_key=OWN_DH,
        )


def good() -> Hello:
    certificate = Certificate(1, KEY.public_bytes, write_identity(ALICE), time_created=1, time_expiry=2**32 - 1, app_ids=(0,))
    return Hello(certificate, CryptInfo(1, PEER_DH.public_bytes, 5, 13, (AES,)))


def store(*app_ids: int) -> TrustStore:
    """A root, and an authority limited to these apps."""
    made = TrustStore()
    made.add_root(ROOT.public_bytes)
    limited = encode_certificate(Certificate(1, AUTHORITY.public_bytes, IdentityFields(), 1, 2**32 - 1, app_ids))
    made.add_authority(SignedCertificate(limited, key_id(ROOT.public_bytes), ROOT.sign(limited)))
    return made


def cert(**changes: object) -> Certificate:
    return replace(good().certificate, **changes)  # type: ignore[arg-type]


def info(**changes: object) -> CryptInfo:
    return replace(good().info, **changes)  # type: ignore[arg-type]


def hello(**changes: object) -> Hello:
    return replace(good(), **changes)  # type: ignore[arg-type]


def judged(given: Hello, *, peer_is_server: bool) -> Failed | None:
    claims = given.claims(peer_is_server=peer_is_server)
    return run_checks(PEER_CHECKS, claims) or run_checks(AGREEMENT_CHECKS, claims)


NO_FIELDS = IdentityFields()
BAD_FIELDS = IdentityFields(legacy_binary=LegacyIdentity())
LOCALHOST_FIELDS = write_identity(Identity.ip(("127.0.0.1", 5)))
ROOT_ID = key_id(ROOT.public_bytes)
BAD_CRYPT, BAD_CERT, BAD_VERSION = (
    EndReason.REMOTE_BAD_CRYPT,
    EndReason.REMOTE_BAD_CERT,
    EndReason.REMOTE_BAD_PROTOCOL_VERSION,
)
MISSING = "Crypto handshake missing cert or session data"
OLD = "Peer is running old software and needs to be updated.  (V{}, >=V8 is required)"
NOT_A_GAME_SERVER = "Certs with no identity can only by anonymous gameservers, not "

ROWS: list[tuple[str, Callable[[], Hello], int, str]] = [
    ("1 no cert", lambda: hello(cert_bytes=b""), BAD_CRYPT, MISSING),
    ("1 no info", lambda: hello(info_bytes=b""), BAD_CRYPT, MISSING),
    ("2 unknown", lambda: hello(ca_key=ROOT, trust="ca"), BAD_CERT, f"Bad cert: CA key {ROOT_ID} is not known to us"),
    (
        "2 bad",
        lambda: hello(ca_key=ROOT, ca_signature=bytes(64), trust="ca", store=store()),
        BAD_CERT,
        "Bad cert: Signature verification failed",
    ),
    ("3", lambda: hello(cert_bytes=b"\xff\xff"), BAD_CRYPT, "Cert failed protobuf decode"),
    ("4", lambda: hello(certificate=cert(identity_fields=BAD_FIELDS)), BAD_CERT, "Bad cert identity.  "),
    ("5", lambda: hello(identity=Identity.string("bob")), BAD_CERT, "Cert was issued to str:alice, not str:bob"),
    ("6", lambda: hello(certificate=cert(app_ids=())), BAD_CERT, "Cert must be bound to an AppID."),
    (
        "7 none",
        lambda: hello(certificate=cert(identity_fields=NO_FIELDS), identity=PERSON, ca_signature=b"x"),
        BAD_CERT,
        NOT_A_GAME_SERVER + str(PERSON),
    ),
    (
        "7 localhost",
        lambda: hello(certificate=cert(identity_fields=LOCALHOST_FIELDS), ca_signature=b"x"),
        BAD_CERT,
        NOT_A_GAME_SERVER + "str:alice",
    ),
    (
        "8",
        lambda: hello(certificate=cert(identity_fields=NO_FIELDS), identity=GAME_SERVER, ca_signature=b"x"),
        BAD_CERT,
        "Cert with no identity must be scoped to PoPID.",
    ),
    ("9 one", lambda: hello(certificate=cert(app_ids=(5,))), BAD_CERT, "Cert is not authorized for appid 0, only 5"),
    (
        "9 two",
        lambda: hello(certificate=cert(app_ids=(5, 6))),
        BAD_CERT,
        "Cert is not authorized for appid 0, only 5 (and 1 more)",
    ),
    (
        "10 allows",
        lambda: hello(ca_key=AUTHORITY, store=store(7)),
        BAD_CERT,
        "Cert allows appid 0, but CA trust chain does not",
    ),
    (
        "10 unrestricted",
        lambda: hello(
            certificate=cert(identity_fields=NO_FIELDS, app_ids=(), datacenter_ids=(9,)),
            identity=GAME_SERVER,
            ca_key=AUTHORITY,
            store=store(7),
        ),
        BAD_CERT,
        "Cert is not restricted by appid, but CA trust chain is, and does not authorize 0",
    ),
    ("11", lambda: hello(trust="ca"), BAD_CERT, "Unsigned certs are not allowed"),
    (
        "key: a name",
        lambda: hello(trust="key"),
        BAD_CERT,
        "Only identities that are their own key may connect: gen: and 64 hex digits, not str:alice",
    ),
    ("12 unsigned", lambda: hello(signature=b""), BAD_CRYPT, "No signature"),
    ("12 no key", lambda: hello(certificate=cert(key_data=b"")), BAD_CRYPT, "No public key"),
    ("12 key type", lambda: hello(certificate=cert(key_type=0)), BAD_CRYPT, "Unsupported key type 0"),
    ("12 length", lambda: hello(signature=bytes(63)), BAD_CRYPT, "Signature has invalid length"),
    ("12 key length", lambda: hello(certificate=cert(key_data=bytes(31))), BAD_CRYPT, "Invalid public key"),
    ("12 wrong", lambda: hello(signature=bytes(64)), BAD_CRYPT, "Invalid signature"),
    ("12 other key", lambda: hello(certificate=cert(key_data=ROOT.public_bytes)), BAD_CRYPT, "Invalid signature"),
    ("13", lambda: hello(info_bytes=b"\xff\xff"), BAD_CRYPT, "Crypt info failed protobuf decode"),
    ("14", lambda: hello(info=info(protocol_version=7)), BAD_VERSION, OLD.format(7)),
    ("14 absent", lambda: hello(info=info(protocol_version=0)), BAD_VERSION, OLD.format(0)),
    ("15", lambda: hello(earlier_version=12), BAD_VERSION, "Claiming protocol V13 now, but earlier was using V12"),
    (
        "16",
        lambda: hello(info=info(protocol_version=10), lanes=2),
        BAD_VERSION,
        "Peer is using old protocol and cannot receive multiple lanes",
    ),
    ("18", lambda: hello(info=info(ciphers=(NONE,))), BAD_CRYPT, "Failed to negotiate mutually-agreeable cipher"),
    (
        "18 nothing listed means AES",
        lambda: hello(info=info(ciphers=()), local_ciphers=(NONE,)),
        BAD_CRYPT,
        "Failed to negotiate mutually-agreeable cipher",
    ),
    ("19", lambda: hello(info=info(key_type=0)), BAD_CRYPT, "Unsupported DH key type 0"),
    ("20", lambda: hello(info=info(key_data=bytes([9] * 31))), BAD_CRYPT, "Invalid DH key"),
    ("21", lambda: hello(info=info(key_data=bytes(32))), BAD_CRYPT, "Key exchange failed"),
    ("21 our own", lambda: hello(info=info(key_data=OWN_DH.public_bytes)), BAD_CRYPT, "Key exchange failed"),
]


@pytest.mark.parametrize("peer_is_server", [False, True], ids=["as server", "as client"])
@pytest.mark.parametrize(("make", "reason", "text"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_each_row_fails_with_its_reason_and_sentence(
    make: Callable[[], Hello], reason: int, text: str, peer_is_server: bool
) -> None:
    failed = judged(make(), peer_is_server=peer_is_server)
    assert failed is not None
    assert failed.reason == reason
    if text.endswith("  "):
        assert failed.debug.startswith(text)
        assert len(failed.debug) > len(text)
    else:
        assert failed.debug == text


@pytest.mark.parametrize("ciphers", [(AES, NONE), (NONE, AES), (AES, AES)])
def test_row_17_only_a_server_must_choose_one_cipher(ciphers: tuple[int, ...]) -> None:
    given = hello(info=info(ciphers=ciphers))
    assert judged(given, peer_is_server=True) == Failed(BAD_CRYPT, "Server must select exactly only one cipher!")
    assert judged(given, peer_is_server=False) is None


GOOD: list[tuple[str, Callable[[], Hello]]] = [
    ("plain", good),
    ("version 8", lambda: hello(info=info(protocol_version=8))),
    ("a later version", lambda: hello(info=info(protocol_version=14))),
    ("the version said before", lambda: hello(earlier_version=13)),
    ("lanes with version 11", lambda: hello(info=info(protocol_version=11), lanes=2)),
    ("no identity, no apps", lambda: hello(certificate=cert(identity_fields=NO_FIELDS, app_ids=()))),
    ("localhost identity, no apps", lambda: hello(certificate=cert(identity_fields=LOCALHOST_FIELDS, app_ids=()))),
    ("several apps with ours", lambda: hello(certificate=cert(app_ids=(480, 0)))),
    ("unsigned and expired", lambda: hello(certificate=cert(time_expiry=1))),
    ("unknown authority, policy accepts", lambda: hello(ca_key=ROOT)),
    ("bad authority signature, policy accepts", lambda: hello(ca_key=ROOT, ca_signature=bytes(64), store=store())),
    ("known authority", lambda: hello(ca_key=AUTHORITY, store=store())),
    ("known authority, policy demands", lambda: hello(ca_key=AUTHORITY, store=store(0), trust="ca")),
    (
        "anonymous game server",
        lambda: hello(
            certificate=cert(identity_fields=NO_FIELDS, datacenter_ids=(9,)),
            identity=GAME_SERVER,
            ca_key=ROOT,
            store=store(),
            trust="ca",
        ),
    ),
    ("no cipher listed", lambda: hello(info=info(ciphers=()))),
    ("created in the future", lambda: hello(certificate=cert(time_created=2**32 - 1))),
]


@pytest.mark.parametrize("peer_is_server", [False, True], ids=["as server", "as client"])
@pytest.mark.parametrize("make", [row[1] for row in GOOD], ids=[row[0] for row in GOOD])
def test_what_is_allowed_passes(make: Callable[[], Hello], peer_is_server: bool) -> None:
    assert judged(make(), peer_is_server=peer_is_server) is None


def test_an_earlier_row_wins_over_a_later_one() -> None:
    everything_wrong = hello(
        certificate=cert(app_ids=(), key_type=0),
        info=info(protocol_version=7, ciphers=(), key_type=0),
        identity=Identity.string("bob"),
        signature=b"",
        trust="ca",
    )
    repairs: list[tuple[str, dict[str, object]]] = [
        ("Cert was issued to str:alice, not str:bob", {"identity": ALICE}),
        ("Cert must be bound to an AppID.", {"certificate": cert(app_ids=(5,), key_type=0)}),
        ("Cert is not authorized for appid 0, only 5", {"certificate": cert(key_type=0)}),
        ("Unsigned certs are not allowed", {"trust": "open"}),
        ("No signature", {"signature": None}),
        ("Unsupported key type 0", {"certificate": cert()}),
        (OLD.format(7), {"info": info(ciphers=(), key_type=0), "local_ciphers": (NONE,)}),
        ("Failed to negotiate mutually-agreeable cipher", {"info": info(key_type=0), "local_ciphers": (AES,)}),
        ("Unsupported DH key type 0", {"info": info()}),
    ]
    for text, repair in repairs:
        failed = judged(everything_wrong, peer_is_server=False)
        assert failed is not None
        assert failed.debug == text
        everything_wrong = replace(everything_wrong, **repair)  # type: ignore[arg-type]
    assert judged(everything_wrong, peer_is_server=False) is None


def test_a_long_or_odd_identity_in_a_sentence_is_escaped() -> None:
    odd = Identity.string(b"a\n\xff\x1b[0m")
    failed = judged(hello(identity=odd), peer_is_server=False)
    assert failed is not None
    assert failed.debug.isprintable()


# trust="key"


def self_proving(key: SigningKey, named: bytes) -> Hello:
    identity = Identity.generic_bytes(named)
    return hello(
        certificate=cert(key_data=key.public_bytes, identity_fields=write_identity(identity)), identity=identity, trust="key"
    )


def test_an_identity_that_is_the_key_gets_in_under_trust_key() -> None:
    claims = self_proving(KEY, KEY.public_bytes).claims(peer_is_server=False)
    assert run_checks(PEER_CHECKS, claims) is None
    assert claims.proven_by == "key"


@pytest.mark.parametrize("named", [ROOT.public_bytes, KEY.public_bytes[:31], b"\0" * 32])
def test_an_identity_that_is_another_key_stays_outside_under_trust_key(named: bytes) -> None:
    given = self_proving(KEY, named)
    failed = judged(given, peer_is_server=True)
    assert failed is not None
    assert failed.reason == BAD_CERT
    own_key = len(named) == KEY_BYTES
    assert ("is a key, and the certificate has another one" if own_key else "that are their own key may connect") in failed.debug


def test_a_key_that_did_not_sign_proves_nothing() -> None:
    given = self_proving(ROOT, ROOT.public_bytes)
    assert judged(given, peer_is_server=False) == Failed(BAD_CRYPT, "Invalid signature")


def test_an_identity_of_small_order_proves_nothing() -> None:
    neutral = bytes([1]) + bytes(31)
    given = self_proving(KEY, neutral)
    given.certificate.key_data = neutral
    given.signature = neutral + bytes(32)
    assert judged(given, peer_is_server=False) == Failed(BAD_CRYPT, "Invalid signature")


# Ciphers


@pytest.mark.parametrize("unencrypted", range(4))
@pytest.mark.parametrize("peer_unencrypted", range(4))
def test_the_server_takes_the_first_of_its_own_ciphers_that_the_client_lists(unencrypted: int, peer_unencrypted: int) -> None:
    ours, theirs = ciphers_of_option(unencrypted), ciphers_of_option(peer_unencrypted)
    claims = hello(info=info(ciphers=theirs), local_ciphers=ours).claims(peer_is_server=False)
    failed = run_checks(PEER_CHECKS + AGREEMENT_CHECKS, claims)
    if (unencrypted, peer_unencrypted) in {(0, 3), (3, 0)}:
        assert failed == Failed(BAD_CRYPT, "Failed to negotiate mutually-agreeable cipher")
        return
    assert failed is None
    expected = {
        0: AES,
        1: NONE if peer_unencrypted == 3 else AES,
        2: AES if peer_unencrypted == 0 else NONE,
        3: NONE,
    }
    assert claims.cipher == expected[unencrypted]


def test_plain_text_is_offered_only_by_those_who_ask_for_it() -> None:
    assert [ciphers_of_option(option) for option in range(4)] == [(AES,), (AES, NONE), (NONE, AES), (NONE,)]


def test_the_shared_secret_never_shows() -> None:
    claims = good().claims(peer_is_server=False)
    assert run_checks(PEER_CHECKS + AGREEMENT_CHECKS, claims) is None
    assert claims.shared_secret.hex() not in repr(claims)
    assert repr(claims.shared_secret)[2:-1] not in repr(claims)
