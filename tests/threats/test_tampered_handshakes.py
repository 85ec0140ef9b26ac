"""C1, C2, C4: tampered hellos of both roles on both roads, one defect each, through real endpoints.

Whatever is wrong with Alice's hello, the guard's application or log gets the sentence that the row tells, no session comes up and
nothing is delivered. The checks by themselves are tested in `tests/connection/test_peer_checks.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

import pytest

from peergram.crypto.keys import fingerprint, key_id
from peergram.crypto.policy import Policy
from peergram.errors import End, EndReason, UsageError
from peergram.identity import Identity
from peergram.sessions.session import explain
from peergram.wire.certificates import (
    CIPHER_AES_256_GCM,
    CIPHER_NONE,
    Capabilities,
    IdentityFields,
    LegacyIdentity,
    SignedCertificate,
    encode_certificate,
    write_identity,
)
from peergram.wire.control import ChallengeReply, ChallengeRequest
from tests.threats.tampering import (
    ALICE,
    ALICE_KEY,
    BOB,
    BOB_KEY,
    DAY_S,
    EXPIRED,
    GUARD,
    MALLORY_KEY,
    ORPHAN,
    OTHER_ROOT,
    REVOKED,
    REVOKED_LEAF,
    ROOT,
    SCOPED,
    WALL_S,
    Change,
    Hello,
    Outcome,
    Road,
    Role,
    cert,
    certificate,
    crypt,
    good_certificate,
    in_hellos,
    info,
    info_of,
    issue,
    issued,
    on_messages,
    outcome_of,
    signed_anew,
    trust_of,
    with_cert,
)

AES, NONE = CIPHER_AES_256_GCM, CIPHER_NONE
BAD_CRYPT, BAD_CERT = EndReason.REMOTE_BAD_CRYPT, EndReason.REMOTE_BAD_CERT
BAD_VERSION, GENERIC, TIMEOUT = EndReason.REMOTE_BAD_PROTOCOL_VERSION, EndReason.MISC_GENERIC, EndReason.MISC_TIMEOUT
NO_ROUTE = EndReason.MISC_P2P_RENDEZVOUS

Reason = tuple[int, str]
TIMED_OUT: Final[Reason] = (TIMEOUT, "Timed out attempting to connect")
DROPPED: Final[Reason] = (TIMEOUT, "Connection dropped")
NO_WAY: Final[Reason] = (
    NO_ROUTE,
    "Timed out attempting to negotiate rendezvous: nothing got through between the addresses of both sides; "
    "a TURN server (turn=...) carries what NATs and firewalls block",
)
TEXT_BYTES_MAX: Final = 127
"""More of a sentence does not travel."""


@dataclass(frozen=True)
class Seen:
    """What is seen where: in the guard's log, by his application, by Alice's application. None means nothing at all."""

    log: str | None = None
    failure: Reason | None = None
    alice: Reason | None = None
    """Not looked at where the guard is the one who ends it."""


@dataclass(frozen=True)
class Row:
    """One defect, and what the guard says of it."""

    name: str
    change: Change
    reason: int
    text: str
    policy: Policy | tuple[Policy, ...] = "open"
    at: dict[str, Seen] = field(default_factory=dict)
    """Where it shows in another way, by "road role"; the role is that of the changed hello."""
    after_accepting: bool = False
    """Whether a caller's defect is found only when the application has let him in."""
    wall_s: int = WALL_S
    """The guard's."""

    def expected(self, road: Road, role: Role) -> Seen:
        """What is seen on that road."""
        there = self.at.get(f"{road} {role}") or self.at.get(road)
        if there is not None:
            return there
        if role == "server":
            return Seen(failure=(self.reason, self.text))
        if self.after_accepting:
            return Seen(failure=(self.reason, self.text), alice=(self.reason, self.text))
        if road == "udp":
            return Seen(log=self.text, alice=TIMED_OUT)
        why = (
            "You are known here with another key; ask for the new one to be accepted."
            if "is known with another key" in self.text
            else self.text
        )
        return Seen(log=self.text, alice=(GENERIC, f"Internal error accepting connection.  {why}"[:TEXT_BYTES_MAX]))


def id_of(name_or_key: object) -> int:
    return key_id(name_or_key.public_bytes)  # type: ignore[attr-defined]


def untrusted(key: object, why: str) -> str:
    return f"Bad cert: CA key {id_of(key)} is not trusted.  {why}"


def changed_key(name: str, shown: bytes, before: bytes) -> str:
    now = fingerprint(shown)
    return (
        f"{name} is known with another key: {now} now, but {fingerprint(before)} before. Somebody else uses this name, or its "
        f"owner has a new key; if you trust the new one: peergram known accept {name} {now}"
    )


def unbound(**capabilities: bytes) -> Change:
    """Capabilities whose binding is not that of the hello."""
    features = Capabilities(1, bytes(16), **capabilities)
    return lambda hello: signed_anew(hello, replace(info_of(hello), capabilities=features), ALICE_KEY, binds=False)


def unbound_run_id(hello: Hello) -> Hello:
    """The binding is right, and the run id another one: her keys differ."""
    return signed_anew(hello, replace(info_of(hello), capabilities=Capabilities(1, bytes(16))), ALICE_KEY)


def by_root(data: bytes) -> Change:
    """Those bytes as a certificate, signed by the root."""
    return with_cert(SignedCertificate(data, id_of(ROOT), ROOT.sign(data)))


def stolen_signature(hello: Hello) -> Hello:
    """Mallory's own certificate for Alice's name, under the authority's signature of Alice's."""
    forged = encode_certificate(good_certificate(key=MALLORY_KEY))
    return with_cert(replace(hello.cert, cert=forged), MALLORY_KEY)(hello)


def other_id(hello: Hello) -> Hello:
    return replace(hello, connection_id=hello.connection_id ^ 1)


def other_id_signed(hello: Hello) -> Hello:
    changed = other_id(hello)
    return signed_anew(changed, info_of(changed), ALICE_KEY)


def one_bit_of_the_signature(hello: Hello) -> Hello:
    signature = hello.crypt.signature
    return crypt(signature=bytes([signature[0] ^ 1]) + signature[1:])(hello)


def garbage_info(hello: Hello) -> Hello:
    data = b"\xff\xff"
    return crypt(info=data, signature=ALICE_KEY.sign(data))(hello)


def short_run_id(hello: Hello) -> Hello:
    run_id = info_of(hello).capabilities.run_id  # type: ignore[union-attr]
    data = hello.crypt.info.replace(b"\x10" + run_id, b"\x0f" + run_id[:15] + b"")
    return crypt(info=data, signature=ALICE_KEY.sign(data))(hello)


def defect_of_identity(text: bytes) -> str:
    with pytest.raises(UsageError) as raised:
        Identity.parse_bytes(text)
    return str(raised.value)


def self_made(identity: Identity) -> Change:
    return certificate(identity_fields=write_identity(identity))


KEY_OF_TYPE_2 = encode_certificate(good_certificate()).replace(b"\x08\x01", b"\x08\x02", 1)
IP_RESTRICTED = encode_certificate(good_certificate()) + b"\x6a\x09192.0.2.1"
NO_IDENTITY = defect_of_identity(b"nonsense")
NOBODY = IdentityFields()
NO_KIND = IdentityFields(legacy_binary=LegacyIdentity())
ONLY_LEGACY_BOB = replace(write_identity(BOB), identity_string=None)
NEUTRAL_KEY = bytes([1]) + bytes(31)
ANOTHER_KEY = Identity.generic_bytes(MALLORY_KEY.public_bytes)
AN_ADDRESS = Identity.ip(("192.0.2.77", 7_000))
NOT_SIGNED = "Connection ID or cert is not the one signed"
OLD = "Peer is running old software and needs to be updated.  (V{}, >=V8 is required)"
ONLY_SERVERS = "Certs with no identity can only by anonymous gameservers, not "
NOT_ALICE = "Cert was issued to {}, not str:alice"
NAMELESS = 'ip:10.0.0.1:7000 is no name that could keep a key; trust="open" lets such peers in, unauthenticated'
FUTURE = "Bad cert: Cert was created {} seconds in the future at {} (current time {})"
PAST = "Bad cert: Cert expired {} seconds ago at {} (current time {})"
BOB_CHANGED = changed_key("str:bob", ALICE_KEY.public_bytes, BOB_KEY.public_bytes)
ALICE_CHANGED = changed_key("str:alice", MALLORY_KEY.public_bytes, ALICE_KEY.public_bytes)
UNREADABLE = {"udp server": Seen(failure=TIMED_OUT)}
"""Who cannot tell whom an answer comes from waits for a better one."""
OTHER_KEYS = {
    "udp client": Seen(alice=DROPPED),
    "udp server": Seen(failure=DROPPED),
    "signals": Seen(failure=NO_WAY),
}
"""Everything holds, and yet both sides have other keys: nothing opens, and nothing more can be said."""
MISSED = {"udp client": Seen(log="the challenge is too old or not ours", alice=TIMED_OUT)}
"""A challenge is for one connection id only."""
STALE_S = 300 * DAY_S

ROWS: list[Row] = [
    # The certificate, made by its owner himself
    Row("no certificate", cert(cert=b""), BAD_CRYPT, "Crypto handshake missing cert or session data"),
    Row(
        "certificate garbage",
        with_cert(SignedCertificate(b"\xff\xff")),
        BAD_CRYPT,
        "Cert failed protobuf decode",
        at=UNREADABLE | {"udp client": Seen(log="Certificate: not a well-formed protobuf message", alice=TIMED_OUT)},
    ),
    Row("key of an unknown type", with_cert(SignedCertificate(KEY_OF_TYPE_2)), BAD_CRYPT, "Unsupported key type 0"),
    Row("key of no type", certificate(key_type=0), BAD_CRYPT, "Unsupported key type 0"),
    Row("no key", certificate(key_data=b""), BAD_CRYPT, "No public key"),
    Row("key too short", certificate(key_data=ALICE_KEY.public_bytes[:31]), BAD_CRYPT, "Invalid public key"),
    Row("key too long", certificate(key_data=ALICE_KEY.public_bytes + b"."), BAD_CRYPT, "Invalid public key"),
    Row("somebody else's key", certificate(key_data=MALLORY_KEY.public_bytes), BAD_CRYPT, "Invalid signature"),
    Row("key of small order", certificate(key_data=NEUTRAL_KEY), BAD_CRYPT, "Invalid signature"),
    Row(
        "identity unreadable",
        certificate(identity_fields=IdentityFields(identity_string=b"nonsense")),
        BAD_CERT,
        f"Bad cert identity.  {NO_IDENTITY}",
        at=UNREADABLE | {"udp client": Seen(log=NO_IDENTITY, alice=TIMED_OUT)},
    ),
    Row(
        "identity of no kind",
        certificate(identity_fields=NO_KIND),
        BAD_CERT,
        "Bad cert identity.  legacy identity: none of the kinds we know",
        at=UNREADABLE | {"udp client": Seen(log="legacy identity: none of the kinds we know", alice=TIMED_OUT)},
    ),
    Row(
        "somebody else's name",
        self_made(BOB),
        BAD_CERT,
        BOB_CHANGED,
        "pinned",
        at={
            "signals client": Row("", cert(), BAD_CERT, NOT_ALICE.format("str:bob")).expected("signals", "client"),
            "signals server": Seen(failure=(BAD_CERT, NOT_ALICE.format("str:bob"))),
        },
    ),
    Row(
        "somebody else's name in its old form",
        certificate(identity_fields=ONLY_LEGACY_BOB),
        BAD_CERT,
        BOB_CHANGED,
        "pinned",
        at={
            "signals client": Row("", cert(), BAD_CERT, NOT_ALICE.format("str:bob")).expected("signals", "client"),
            "signals server": Seen(failure=(BAD_CERT, NOT_ALICE.format("str:bob"))),
        },
    ),
    Row(
        "the guard's own name",
        self_made(GUARD),
        BAD_CERT,
        NOT_ALICE.format("str:guard"),
        at={
            "udp client": Seen(
                alice=(
                    GENERIC,
                    "The identity claimed is the one of the peer called; give both programs identities of their own",
                )
            ),
            "udp server": Seen(failure=DROPPED),
        },
    ),
    Row(
        "somebody else's address as name",
        self_made(AN_ADDRESS),
        BAD_CERT,
        NOT_ALICE.format("ip:192.0.2.77:7000"),
        at={
            "udp client": Seen(alice=(GENERIC, "The identity claimed is the address of somebody else")),
            "udp server": Seen(failure=DROPPED),
        },
    ),
    Row(
        "no name",
        certificate(identity_fields=NOBODY),
        BAD_CERT,
        NAMELESS,
        "pinned",
        # There the signal names her, and the key is the one that is known.
        at={"signals": Seen(failure=NO_WAY)},
    ),
    Row(
        "no name and no key of hers",
        certificate(MALLORY_KEY, identity_fields=NOBODY, key_data=MALLORY_KEY.public_bytes),
        BAD_CERT,
        ALICE_CHANGED,
        "pinned",
        at={
            "udp client": Seen(log=NAMELESS, alice=TIMED_OUT),
            "udp server": Seen(failure=(BAD_CERT, NAMELESS)),
        },
    ),
    Row("for no app", certificate(app_ids=()), BAD_CERT, "Cert must be bound to an AppID."),
    Row("for another app", certificate(app_ids=(480,)), BAD_CERT, "Cert is not authorized for appid 0, only 480"),
    Row("for two others", certificate(app_ids=(480, 7)), BAD_CERT, "Cert is not authorized for appid 0, only 480 (and 1 more)"),
    Row(
        "times changed, nothing signed",
        cert(cert=encode_certificate(good_certificate())),
        BAD_CRYPT,
        NOT_SIGNED,
    ),
    Row("authority added, nothing signed", cert(ca_key_id=5, ca_signature=bytes(64)), BAD_CRYPT, NOT_SIGNED),
    # Of an authority
    Row(
        "authority's signature removed", cert(ca_key_id=None, ca_signature=b""), BAD_CERT, "Unsigned certs are not allowed", "ca"
    ),
    Row("self-made where an authority is demanded", certificate(), BAD_CERT, "Unsigned certs are not allowed", "ca"),
    Row("authority's signature zero", cert(ca_signature=bytes(64)), BAD_CERT, "Bad cert: Signature verification failed", "ca"),
    Row("authority's signature short", cert(ca_signature=bytes(63)), BAD_CERT, "Bad cert: Signature has invalid length", "ca"),
    Row("authority not named", cert(ca_key_id=None), BAD_CERT, "Bad cert: Missing CA Key ID", "ca"),
    Row("authority unknown", cert(ca_key_id=77), BAD_CERT, "Bad cert: CA key 77 is not known to us", "ca"),
    Row("another authority named", cert(ca_key_id=id_of(SCOPED)), BAD_CERT, "Bad cert: Signature verification failed", "ca"),
    Row("another root", issued(OTHER_ROOT), BAD_CERT, f"Bad cert: CA key {id_of(OTHER_ROOT)} is not known to us", "ca"),
    Row(
        "an authority that no root leads to",
        issued(ORPHAN),
        BAD_CERT,
        untrusted(ORPHAN, f"It is signed by CA key {id_of(OTHER_ROOT)}, which is not known to us"),
        "ca",
    ),
    Row("a revoked authority", issued(REVOKED), BAD_CERT, untrusted(REVOKED, "Revoked"), "ca"),
    Row(
        "an expired authority",
        issued(EXPIRED),
        BAD_CERT,
        f"Bad cert: CA key {id_of(EXPIRED)} (or an antecedent) expired 1 seconds ago!",
        "ca",
    ),
    Row("an authority for another app", issued(SCOPED), BAD_CERT, "Cert allows appid 0, but CA trust chain does not", "ca"),
    Row("a revoked key", issued(key=REVOKED_LEAF), BAD_CERT, "Bad cert: Cert has untrusted public key.  Revoked", "ca"),
    Row("a revoked key where anyone may come", issued(key=REVOKED_LEAF), BAD_CERT, "Cert has untrusted public key.  Revoked"),
    Row("expired", issued(time_expiry=WALL_S - 1), BAD_CERT, PAST.format(1, WALL_S - 1, WALL_S), "ca"),
    Row("without an end", issued(time_expiry=0), BAD_CERT, PAST.format(WALL_S, 0, WALL_S), "ca"),
    Row(
        "not yet valid",
        issued(time_created=WALL_S + 2 * DAY_S, time_expiry=WALL_S + 3 * DAY_S),
        BAD_CERT,
        FUTURE.format(2 * DAY_S, WALL_S + 2 * DAY_S, WALL_S),
        "ca",
    ),
    Row(
        "good, but the guard's clock is a year behind",
        issued(),
        BAD_CERT,
        FUTURE.format(STALE_S, WALL_S - DAY_S, WALL_S - DAY_S - STALE_S),
        "ca",
        wall_s=WALL_S - DAY_S - STALE_S,
    ),
    Row(
        "good, but the guard's clock is a year ahead",
        issued(),
        BAD_CERT,
        PAST.format(STALE_S, WALL_S + DAY_S, WALL_S + DAY_S + STALE_S),
        "ca",
        wall_s=WALL_S + DAY_S + STALE_S,
    ),
    Row("certified for another app", issued(app_ids=(480,)), BAD_CERT, "Cert is not authorized for appid 0, only 480", "ca"),
    Row("certified for no app", issued(app_ids=()), BAD_CERT, "Cert must be bound to an AppID.", "ca"),
    *(
        Row(
            f"certified for nobody, {name}",
            issued(identity_fields=NOBODY, datacenter_ids=centers),
            BAD_CERT,
            ONLY_SERVERS + "str:alice",
            "ca",
            at={
                "udp client": Seen(log=ONLY_SERVERS + "ip:10.0.0.1:7000", alice=TIMED_OUT),
                "udp server": Seen(failure=(BAD_CERT, ONLY_SERVERS + "ip:10.0.0.1:7000")),
            },
        )
        for name, centers in (("no data center", ()), ("one data center", (7,)))
    ),
    Row(
        "certified for somebody else",
        issued(identity_fields=write_identity(BOB)),
        BAD_CERT,
        NOT_ALICE.format("str:bob"),
        "ca",
        # He is Bob there, but for what the real Alice holds.
        at={"udp client": OTHER_KEYS["udp client"], "udp server": OTHER_KEYS["udp server"]},
    ),
    Row(
        "her whole certificate without her key",
        with_cert(issue(ROOT, good_certificate()), MALLORY_KEY),
        BAD_CRYPT,
        "Invalid signature",
        "ca",
    ),
    Row("certified key of an unknown type", by_root(KEY_OF_TYPE_2), BAD_CERT, "Bad cert: Cert has unsupported key type 0", "ca"),
    Row("certified key too short", issued(key_data=bytes(31)), BAD_CERT, "Bad cert: Cert has invalid public key", "ca"),
    Row(
        "certified and unreadable",
        by_root(b"\xff\xff"),
        BAD_CERT,
        "Bad cert: Cert failed protobuf decode",
        "ca",
        at=UNREADABLE | {"udp client": Seen(log="Certificate: not a well-formed protobuf message", alice=TIMED_OUT)},
    ),
    Row(
        "name changed under the signature",
        cert(cert=encode_certificate(replace(good_certificate(), identity_fields=IdentityFields(b"str:alice")))),
        BAD_CERT,
        "Bad cert: Signature verification failed",
        "ca",
    ),
    Row("key changed under the signature", stolen_signature, BAD_CERT, "Bad cert: Signature verification failed", "ca"),
    Row(
        "times changed under the signature",
        cert(cert=encode_certificate(replace(good_certificate(), time_expiry=WALL_S + 9 * DAY_S))),
        BAD_CERT,
        "Bad cert: Signature verification failed",
        "ca",
    ),
    Row(
        "apps changed under the signature",
        cert(cert=encode_certificate(replace(good_certificate(), app_ids=(0, 480)))),
        BAD_CERT,
        "Bad cert: Signature verification failed",
        "ca",
    ),
    Row(
        "data centers added under the signature",
        cert(cert=encode_certificate(replace(good_certificate(), datacenter_ids=(7,)))),
        BAD_CERT,
        "Bad cert: Signature verification failed",
        "ca",
    ),
    Row(
        "a restriction that nobody knows",
        by_root(IP_RESTRICTED),
        BAD_CERT,
        "Bad cert: Cert has unknown fields, which may restrict it: 13",
        "ca",
    ),
    # Keys and remembered keys
    Row(
        "a name where only keys may come",
        certificate(),
        BAD_CERT,
        "Only identities that are their own key may connect: gen: and 64 hex digits, not str:alice",
        "key",
    ),
    Row(
        "another key as name",
        self_made(ANOTHER_KEY),
        BAD_CERT,
        f"{ANOTHER_KEY} is a key, and the certificate has another one: {fingerprint(ALICE_KEY.public_bytes)}",
        "key",
        at={
            "signals client": Row("", cert(), BAD_CERT, NOT_ALICE.format(ANOTHER_KEY)).expected("signals", "client"),
            "signals server": Seen(failure=(BAD_CERT, NOT_ALICE.format(ANOTHER_KEY))),
        },
    ),
    Row(
        "another key than the known one",
        certificate(MALLORY_KEY, key_data=MALLORY_KEY.public_bytes),
        BAD_CERT,
        ALICE_CHANGED,
        "pinned",
    ),
    Row("another key than the known one, certified", issued(key=MALLORY_KEY), BAD_CERT, ALICE_CHANGED, ("pinned", "ca")),
    Row(
        "another key than the known one where anyone may come",
        issued(key=MALLORY_KEY),
        BAD_CERT,
        ALICE_CHANGED,
        ("pinned", "open"),
    ),
    # Crypt info and its signature
    Row("no crypt info", crypt(info=b""), BAD_CRYPT, "Crypto handshake missing cert or session data"),
    Row("crypt info garbage", garbage_info, BAD_CRYPT, "Crypt info failed protobuf decode"),
    Row("run id too short", short_run_id, BAD_CRYPT, "Crypt info failed protobuf decode"),
    Row("no signature", crypt(signature=b""), BAD_CRYPT, "No signature"),
    Row("signature short", crypt(signature=bytes(63)), BAD_CRYPT, "Signature has invalid length"),
    Row("signature long", crypt(signature=bytes(65)), BAD_CRYPT, "Signature has invalid length"),
    Row("signature zero", crypt(signature=bytes(64)), BAD_CRYPT, "Invalid signature"),
    Row("one bit of the signature", one_bit_of_the_signature, BAD_CRYPT, "Invalid signature"),
    Row("signed by somebody else", info(MALLORY_KEY), BAD_CRYPT, "Invalid signature"),
    Row("another nonce, signed by somebody else", info(MALLORY_KEY, nonce=5), BAD_CRYPT, "Invalid signature"),
    Row("another agreement key, signed by somebody else", info(MALLORY_KEY, key_data=b"9" * 32), BAD_CRYPT, "Invalid signature"),
    Row("no binding", unbound(), BAD_CRYPT, NOT_SIGNED),
    Row("binding of another hello", unbound(binding=bytes(16)), BAD_CRYPT, NOT_SIGNED),
    Row("old version", info(protocol_version=7), BAD_VERSION, OLD.format(7)),
    Row("no version", info(protocol_version=0), BAD_VERSION, OLD.format(0)),
    Row(
        "plain text only", info(ciphers=(NONE,)), BAD_CRYPT, "Failed to negotiate mutually-agreeable cipher", after_accepting=True
    ),
    Row("agreement key of no type", info(key_type=0), BAD_CRYPT, "Unsupported DH key type 0", after_accepting=True),
    Row("no agreement key", info(key_data=b""), BAD_CRYPT, "Invalid DH key", after_accepting=True),
    Row("agreement key too short", info(key_data=b"9" * 31), BAD_CRYPT, "Invalid DH key", after_accepting=True),
    Row("agreement key of small order", info(key_data=bytes(32)), BAD_CRYPT, "Key exchange failed", after_accepting=True),
    Row("agreement key that she does not hold", info(key_data=b"9" * 32), 0, "", at=OTHER_KEYS),
    Row("nonce that she does not use", info(nonce=5), 0, "", at=OTHER_KEYS),
    Row("run id that is not hers", unbound_run_id, 0, "", at=OTHER_KEYS),
    # What is outside of the signature
    Row(
        "her connection id changed",
        other_id,
        BAD_CRYPT,
        NOT_SIGNED,
        at=MISSED | {"signals client": Seen(log=NOT_SIGNED, alice=TIMED_OUT)},
    ),
    Row(
        "her connection id changed and signed",
        other_id_signed,
        0,
        "",
        at=MISSED
        | {
            "udp server": Seen(failure=DROPPED),
            "signals client": Seen(failure=NO_WAY, alice=TIMED_OUT),
            "signals server": Seen(
                failure=(EndReason.MISC_PEER_SENT_NO_CONNECTION, "Received unexpected P2P 'no connection' signal")
            ),
        },
    ),
    Row(
        "her connection id zero",
        lambda hello: replace(hello, connection_id=0),
        BAD_CRYPT,
        "Didn't send valid connection ID",
        at=MISSED | {"signals client": Seen(alice=TIMED_OUT), "signals server": Seen(failure=TIMED_OUT)},
    ),
]

ANSWERS_FOR_OTHERS: list[Row] = [
    Row(
        "for another connection of the guard",
        lambda hello: replace(hello, receiver_id=hello.receiver_id ^ 1),
        0,
        "",
        at={"udp": Seen(failure=TIMED_OUT), "signals": Seen(failure=TIMED_OUT)},
    ),
    Row("two ciphers chosen", info(ciphers=(AES, NONE)), BAD_CRYPT, "Server must select exactly only one cipher!"),
    Row("no cipher chosen by name", info(ciphers=(AES, AES)), BAD_CRYPT, "Server must select exactly only one cipher!"),
]
"""What only an answer can have wrong."""

ROADS: list[Road] = ["udp", "signals"]
ROLES: list[Role] = ["client", "server"]


def run_row(row: Row, road: Road, role: Role) -> Outcome:
    signed = issue(ROOT, good_certificate()) if "ca" in row.policy else None
    rewrite = in_hellos(road, role, row.change)
    return outcome_of(road, role, rewrite, trust=trust_of(row.policy), certificate=signed, guards_wall_s=row.wall_s)


def check_row(row: Row, road: Road, role: Role) -> None:
    outcome = run_row(row, road, role)
    expected = row.expected(road, role)
    assert outcome.changed
    assert not outcome.is_up
    assert outcome.delivered == []
    assert outcome.refusals[:1] == ([] if expected.log is None else [expected.log])
    ends = [(failure.reason, failure.debug) for failure in outcome.failures]
    assert ends == ([] if expected.failure is None else [said_here(*expected.failure)])
    if role == "client" and expected.alice is not None:
        reason, text = expected.alice
        of_hers = {(reason, text), said_here(reason, text)}
        assert [(failure.reason, failure.debug) in of_hers for failure in outcome.alices_failures] == [True]
    if expected.failure is None and expected.log is not None:
        assert outcome.requests == []
    is_impostor = role == "client" and "is known with another key" in (expected.log or "")
    assert [refused.text for refused in outcome.refused_peers] == ([expected.log] if is_impostor else [])


def said_here(reason: int, text: str) -> Reason:
    """With the hint that our applications get."""
    return (reason, explain(End(reason, text, by_peer=False)))


@pytest.mark.parametrize("role", ROLES, ids=["caller", "answer"])
@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_tampered_hello_ends_with_its_sentence_and_nothing_comes_through(row: Row, road: Road, role: Role) -> None:
    check_row(row, road, role)


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("row", ANSWERS_FOR_OTHERS, ids=lambda row: row.name)
def test_a_tampered_answer_ends_with_its_sentence_and_nothing_comes_through(row: Row, road: Road) -> None:
    check_row(row, road, "server")


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("policy", ["open", "pinned", "ca"])
def test_what_is_not_changed_comes_through(policy: Policy, road: Road, role: Role) -> None:
    """Without this the table would prove nothing."""
    row = Row("", lambda hello: hello, 0, "", policy)
    outcome = run_row(row, road, role)
    assert outcome.changed
    assert outcome.is_up
    assert outcome.delivered == [b"plain words"]
    assert not outcome.failures
    assert not outcome.refusals


def test_the_table_is_as_long_as_it_says() -> None:
    assert len(ROWS) >= 70
    assert len({row.name for row in ROWS + ANSWERS_FOR_OTHERS}) == len(ROWS) + len(ANSWERS_FOR_OTHERS)


# --- beside the hellos ---


def test_what_a_message_says_of_its_sender_outside_of_the_certificate_makes_nobody_of_anybody() -> None:
    """Over plain UDP the certificate counts, and in signals both must agree."""
    change: Change = lambda hello: replace(hello, says=BOB)  # noqa: E731
    for role in ROLES:
        outcome = outcome_of("udp", role, in_hellos("udp", role, change), trust=trust_of("pinned"))
        assert outcome.is_up
        assert [request.identity for request in outcome.requests] == ([ALICE] if role == "client" else [])
        signaled = outcome_of("signals", role, in_hellos("signals", role, change), trust=trust_of("pinned"))
        assert not signaled.is_up
        assert signaled.delivered == []
        assert signaled.requests == []


@pytest.mark.parametrize("identity", [AN_ADDRESS, GUARD])
def test_a_nameless_certificate_and_a_name_beside_it(identity: Identity) -> None:
    """An address counts in the certificate only; and nobody is the guard but he."""

    def change(hello: Hello) -> Hello:
        return replace(certificate(identity_fields=NOBODY, app_ids=())(hello), says=identity)

    outcome = outcome_of("udp", "client", in_hellos("udp", "client", change), trust=trust_of("open"))
    assert not outcome.is_up
    assert outcome.delivered == []
    assert outcome.requests == []
    assert outcome.refusals == (["an address as identity must be in the certificate"] if identity == AN_ADDRESS else [])


@pytest.mark.parametrize("version", [0, 7])
def test_an_old_version_in_the_challenge_ends_a_call_with_its_sentence(version: int) -> None:
    def rewrite(message: object) -> object | None:
        return replace(message, protocol_version=version) if isinstance(message, ChallengeReply) else None

    outcome = outcome_of("udp", "server", on_messages("udp", rewrite), trust=trust_of("open"))
    assert not outcome.is_up
    assert [(failure.reason, failure.debug) for failure in outcome.failures] == [
        (GENERIC, "Peer is running old software and needs to be udpated")
    ]


def test_another_version_in_the_challenge_request_changes_nothing() -> None:
    """It is not signed, and the one that counts is in the crypt info."""

    def rewrite(message: object) -> object | None:
        return replace(message, protocol_version=1) if isinstance(message, ChallengeRequest) else None

    assert outcome_of("udp", "client", on_messages("udp", rewrite), trust=trust_of("open")).delivered == [b"plain words"]


def test_a_challenge_that_is_not_the_servers_opens_nothing() -> None:
    def rewrite(message: object) -> object | None:
        return replace(message, challenge=message.challenge ^ 1 << 40) if isinstance(message, ChallengeReply) else None

    outcome = outcome_of("udp", "server", on_messages("udp", rewrite), trust=trust_of("open"))
    assert not outcome.is_up
    assert [(failure.reason, failure.debug) for failure in outcome.failures] == [said_here(*TIMED_OUT)]
