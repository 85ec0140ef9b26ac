"""A server that demands certificates, one that issues them, and one that does both; in virtual time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from peergram import config
from peergram.crypto.authority import issue_certificate
from peergram.crypto.keys import SigningKey, key_id
from peergram.crypto.trust import Scope, TrustStore
from peergram.identity import Identity
from peergram.servers.login_certificates import LoginCertificates
from peergram.signaling.websocket_protocol import Issued, Refusal, Refused, Welcome, encode_client_message
from peergram.wire.certificates import (
    Certificate,
    SignedCertificate,
    decode_certificate,
    decode_signed_certificate,
    encode_signed_certificate,
    read_identity,
)

from .harness import SECOND, Client, Server, key_of

ROOT, OTHER_ROOT = (SigningKey(bytes([number]) * 32) for number in (1, 2))
NOW_S = 1_800_000_000
HOUR_S = 3_600


class Times:
    """The wall clock of a server in virtual time."""

    server: Server

    def wall_s(self) -> int:
        return NOW_S + self.server.now_us // SECOND


def store(*revoked: bytes) -> TrustStore:
    made = TrustStore()
    made.add_root(ROOT.public_bytes)
    for key in revoked:
        made.revoke(key_id(key))
    return made


def serving(
    *,
    demands: TrustStore | None = None,
    issuer: SigningKey | None = None,
    scope: Scope | None = None,
    issuer_store: TrustStore | None = None,
) -> Server:
    times = Times()
    times.server = Server(
        certificates=LoginCertificates(
            authorities=demands,
            issuer_key=issuer,
            issuer_scope=scope or Scope(),
            issuer_store=issuer_store,
            wall_s=times.wall_s,
        )
    )
    return times.server


def certified(
    name: str, key: SigningKey, *, by: SigningKey = ROOT, apps: tuple[int, ...] = (0,), from_s: int = -60, until_s: int = HOUR_S
) -> bytes:
    identity = Identity.generic_bytes(key.public_bytes) if name == "key" else Identity.of(name)
    signed = issue_certificate(
        by,
        subject_key=key.public_bytes,
        identity=identity,
        app_ids=apps,
        created_s=NOW_S + from_s,
        expires_s=NOW_S + until_s,
    )
    return encode_signed_certificate(signed)


def log_in(server: Server, name: str, certificate: bytes, key: SigningKey | None = None) -> Client:
    client = server.connect()
    login = replace(client.login(name, key), certificate=certificate)
    client.say(encode_client_message(login))
    return client


def issued_to(client: Client) -> list[Certificate]:
    found = [message.certificate for message in client.heard if isinstance(message, Issued)]
    return [decode_certificate(decode_signed_certificate(each).cert) for each in found]


# Demanding


@pytest.mark.parametrize("name", ["alice", "key"])
def test_whom_the_authority_has_certified_is_let_in(name: str) -> None:
    server = serving(demands=store())
    client = log_in(server, name, certified(name, key_of(name)))
    assert isinstance(client.heard[-1], Welcome)


def defective() -> dict[str, tuple[bytes, str]]:
    alice, leaf = key_of("alice"), certified("alice", key_of("alice"))
    signed = decode_signed_certificate(leaf)
    return {
        "none": (b"", "you have shown no certificate"),
        "garbage": (b"\xff", "your certificate is none"),
        "empty": (b"\x2a\x00", "No signed data"),
        "self-made": (encode_signed_certificate(SignedCertificate(signed.cert)), "No signature"),
        "other root": (certified("alice", alice, by=OTHER_ROOT), "is not known to us"),
        "broken": (encode_signed_certificate(replace(signed, ca_signature=bytes(64))), "Signature verification failed"),
        "other name": (certified("bob", alice), "your certificate is for str:bob"),
        "other key": (certified("alice", key_of("bob")), "your certificate is for another key"),
        "expired": (certified("alice", alice, from_s=-HOUR_S, until_s=-1), "Cert expired"),
        "future": (certified("alice", alice, from_s=100_000, until_s=200_000), "in the future"),
        "other app": (certified("alice", alice, apps=(5,)), "not for app 0"),
    }


@pytest.mark.parametrize("defect", defective())
def test_everybody_else_is_told_why_not(defect: str) -> None:
    certificate, says = defective()[defect]
    server = serving(demands=store())
    client = log_in(server, "alice", certificate)
    last = client.heard[-1]
    assert isinstance(last, Refused)
    assert last.code == Refusal.CERTIFICATE
    assert says in last.text
    assert client.is_cut
    assert (server.core.clients, server.core.names) == (0, 0)


def test_a_revoked_key_stays_outside() -> None:
    server = serving(demands=store(key_of("alice").public_bytes))
    client = log_in(server, "alice", certified("alice", key_of("alice")))
    assert client.refusal == Refusal.CERTIFICATE


def test_a_certificate_is_no_proof_of_the_key() -> None:
    server = serving(demands=store())
    client = server.connect()
    forged = replace(client.login("alice"), certificate=certified("alice", key_of("alice")), signature=bytes(64))
    client.say(encode_client_message(forged))
    assert client.refusal == Refusal.BAD_PROOF


def test_a_name_goes_over_to_the_key_that_the_authority_certifies_now() -> None:
    server = serving(demands=store())
    before = log_in(server, "alice", certified("alice", key_of("alice")))
    new_key = key_of("alice's new key")
    after = log_in(server, "alice", certified("alice", new_key), new_key)
    assert isinstance(after.heard[-1], Welcome)
    assert before.is_cut
    assert (server.core.clients, server.core.names) == (1, 1)


def test_a_server_that_demands_none_does_not_look_at_one() -> None:
    assert isinstance(log_in(serving(), "alice", b"whatever").heard[-1], Welcome)
    assert isinstance(Server().log_in("bob"), Client)


# Issuing


@pytest.mark.parametrize("name", ["alice", "key"])
def test_who_has_proven_his_name_gets_a_certificate_for_it_that_holds(name: str) -> None:
    server = serving(issuer=ROOT)
    client = log_in(server, name, b"")
    (welcome, issued) = client.heard[-2:]
    assert isinstance(welcome, Welcome)
    assert isinstance(issued, Issued)
    (certificate,) = issued_to(client)
    key = key_of(name).public_bytes
    assert read_identity(certificate.identity_fields) == (Identity.generic_bytes(key) if name == "key" else Identity.of(name))
    assert (certificate.key_data, certificate.app_ids) == (key, (0,))
    assert store().check_leaf(decode_signed_certificate(issued.certificate), NOW_S).scope == Scope()


def test_who_is_refused_gets_none() -> None:
    server = serving(issuer=ROOT)
    log_in(server, "alice", b"")
    other = log_in(server, "alice", b"", key_of("mallory"))
    assert other.refusal == Refusal.NAME_TAKEN
    assert issued_to(other) == []


def test_it_is_issued_anew_while_its_owner_is_here_and_not_after() -> None:
    server = serving(issuer=ROOT)
    client = log_in(server, "alice", b"")
    for count in range(1, 5):
        certificates = issued_to(client)
        assert len(certificates) == count
        assert certificates[-1].time_expiry > NOW_S + server.now_us // SECOND + HOUR_S // 2 - 2
        for _ in range(config.SERVER_ISSUED_US // 2 // config.SERVER_QUIET_US):
            server.pass_time(config.SERVER_QUIET_US)
            # Answers keep the connection.
            client.say(None)
    client.leave()
    told = len(client.heard)
    server.pass_time(10 * config.SERVER_ISSUED_US)
    assert len(client.heard) == told


def test_what_is_issued_ends_before_the_name_can_be_anothers() -> None:
    server = serving(issuer=ROOT)
    client = log_in(server, "alice", b"")
    (certificate,) = issued_to(client)
    client.leave()
    end_us = (certificate.time_expiry - NOW_S) * SECOND
    server.pass_time(end_us - server.now_us)
    assert log_in(server, "alice", b"", key_of("mallory")).refusal == Refusal.NAME_TAKEN


def test_an_authority_within_bounds_issues_within_them() -> None:
    narrow = Scope(frozenset({0}), None, NOW_S + 100)
    server = serving(issuer=ROOT, scope=narrow)
    (certificate,) = issued_to(log_in(server, "alice", b""))
    assert certificate.time_expiry == NOW_S + 100
    server.pass_time(200 * SECOND)
    late = log_in(server, "bob", b"")
    assert isinstance(late.heard[-1], Welcome)
    assert issued_to(log_in(serving(issuer=ROOT, scope=Scope(frozenset({5}))), "alice", b"")) == []


def test_the_key_of_the_authority_itself_gets_none_and_is_let_in() -> None:
    client = log_in(serving(issuer=ROOT), "alice", b"", ROOT)
    assert isinstance(client.heard[-1], Welcome)


def test_a_server_may_demand_certificates_of_one_authority_and_issue_those_of_another() -> None:
    server = serving(demands=store(), issuer=OTHER_ROOT)
    client = log_in(server, "alice", certified("alice", key_of("alice")))
    assert len(issued_to(client)) == 1
    assert log_in(server, "bob", b"").refusal == Refusal.CERTIFICATE


def test_a_key_that_the_issuing_authority_has_revoked_gets_no_certificate() -> None:
    """Peers whose list is older than the revocation would believe a new one."""
    server = serving(issuer=ROOT, issuer_store=store(key_of("alice").public_bytes))
    alice, bob = log_in(server, "alice", b""), log_in(server, "bob", b"")
    assert isinstance(alice.heard[-1], Welcome)
    assert not issued_to(alice)
    assert len(issued_to(bob)) == 1
