"""`peergram cert` as a user meets it, and what its file says of time in tests of the sentences alone."""

from __future__ import annotations

import stat
import sys
import time
from pathlib import Path

import pytest

from peergram.cli.cert import describe_certificate, find_defects, location_text
from peergram.crypto.authority import issue_certificate
from peergram.crypto.key_text import read_private_key, write_private_key
from peergram.crypto.keys import SigningKey, fingerprint, key_id
from peergram.crypto.trust import TrustStore
from peergram.drivers.authority_files import load_authorities, load_certificate, load_certificates, make_authority
from peergram.identity import Identity
from peergram.wire.certificate_text import read_certificate, split_blocks, write_certificate, write_public_key
from peergram.wire.certificates import (
    KEY_TYPE_ED25519,
    Certificate,
    SignedCertificate,
    StoredCertificate,
    decode_certificate,
    decode_signed_certificate,
    encode_certificate,
    read_identity,
    write_identity,
)
from tests.vectors_data import load

from .test_ca import fails, ok, run_here

RECORDED = load("04-certtool")
ROOT, LEAF = (SigningKey(bytes([number]) * 32) for number in (1, 3))
DAY_S = 86_400


@pytest.fixture
def club(tmp_path: Path) -> Path:
    """A folder with an authority, and the public and the private key of somebody."""
    make_authority(tmp_path / "authority", ROOT)
    (tmp_path / "alice.pub").write_text(write_public_key(LEAF.public_bytes, "alice@home") + "\n")
    (tmp_path / "alice.key").write_text(write_private_key(LEAF))
    (tmp_path / "alice.key").chmod(0o600)
    return tmp_path


ISSUE = ("cert", "issue", "--key-file", "alice.pub", "--out", "alice.cert")


def test_a_certificate_is_issued_written_down_and_believed(club: Path) -> None:
    told = ok(*ISSUE, "--identity", "alice", "--days", "30", cwd=club)
    assert f"str:alice has the key {fingerprint(LEAF.public_bytes)}, until" in told
    signed, key = load_certificate(club / "alice.cert")
    assert key is None
    certificate = decode_certificate(signed.cert)
    assert read_identity(certificate.identity_fields) == Identity.of("alice")
    assert certificate.time_expiry - certificate.time_created == 30 * DAY_S
    assert abs(certificate.time_created - time.time()) < 600
    assert load_authorities(club / "authority").check_leaf(signed, int(time.time())).text == ""
    assert "str:alice" in (club / "authority" / "issued.txt").read_text()
    shown = ok("cert", "inspect", "alice.cert", "--authority", "authority/authority.txt", cwd=club)
    for part in ("str:alice", fingerprint(LEAF.public_bytes), str(key_id(LEAF.public_bytes)), " days)", "\nValid.\n"):
        assert part in shown
    assert "give --authority to know" in ok("cert", "inspect", "alice.cert", cwd=club)


def test_several_names_for_one_key_are_several_certificates_in_one_file(club: Path) -> None:
    ok(*ISSUE, "--identity", "alice", "--identity", "str:bob", "--identity", "str:alice", cwd=club)
    assert len(load_certificates(club / "alice.cert")) == 2
    shown = ok("cert", "inspect", "alice.cert", "--authority", "authority", cwd=club)
    assert shown.count("\nValid.\n") == 2


@pytest.mark.parametrize("name", ["alice.key", "alice.pub"])
def test_the_key_may_be_private_or_public(club: Path, name: str) -> None:
    ok("cert", "issue", "--key-file", name, "--identity", "alice", "--out", "x", cwd=club)
    assert decode_certificate(load_certificate(club / "x")[0].cert).key_data == LEAF.public_bytes


@pytest.mark.parametrize("form", [(), ("--binary",)])
def test_a_request_becomes_a_certificate(club: Path, form: tuple[str, ...]) -> None:
    told = ok("cert", "request", "--identity", "alice", "--key-file", "alice.key", "--out", "wanted", *form, cwd=club)
    assert fingerprint(LEAF.public_bytes) in told
    assert write_private_key(LEAF).splitlines()[3].encode() not in (club / "wanted").read_bytes()
    ok("cert", "issue", "--from-request", "wanted", "--out", "a.cert", cwd=club)
    ok("cert", "issue", "--from-request", "wanted", "--identity", "alice", "--out", "b.cert", "--binary", cwd=club)
    signed = load_certificate(club / "b.cert")[0]
    assert decode_signed_certificate((club / "b.cert").read_bytes()) == signed
    assert decode_certificate(signed.cert).key_data == LEAF.public_bytes
    told = fails("cert", "issue", "--from-request", "wanted", "--identity", "bob", "--out", "c.cert", cwd=club)
    assert "the request is for str:alice, not for str:bob" in told


def test_a_new_key_is_in_a_file_for_its_owner_only_and_never_shown(club: Path) -> None:
    told = ok("cert", "issue", "--new-key", "--identity", "server", "--out", "server.cert", cwd=club)
    assert "with his private key, which only he may get" in told
    if sys.platform != "win32":
        assert stat.S_IMODE((club / "server.cert").stat().st_mode) == 0o600
    signed, key = load_certificate(club / "server.cert")
    assert key is not None
    assert key.public_bytes == decode_certificate(signed.cert).key_data
    shown = ok("cert", "inspect", "server.cert", "--authority", "authority", cwd=club)
    assert "private key is beside it" in shown
    assert key.private_bytes().hex() not in shown + told


def test_a_revoked_key_is_out_by_every_way_to_name_it(club: Path) -> None:
    ok(*ISSUE, "--identity", "alice", cwd=club)
    inspect = ("cert", "inspect", "alice.cert", "--authority", "authority")
    ok(*inspect, cwd=club)
    assert "Revoked" in ok("cert", "revoke", "alice", "--reason", "lost", cwd=club)
    code, said, _ = run_here(*inspect, cwd=club)
    assert code == 1
    assert "Not valid: Cert has untrusted public key.  Revoked." in said
    long = club / "certificates of the year" / "alice on her laptop.cert"
    long.parent.mkdir()
    (club / "alice.cert").rename(long)
    for name in (str(long.relative_to(club)), str(long), fingerprint(LEAF.public_bytes), f"ID{key_id(LEAF.public_bytes)}"):
        assert "was revoked before" in ok("cert", "revoke", name, cwd=club)
    assert "str:alice lost" in (club / "authority" / "authority.txt").read_text()


def test_no_certificate_is_out_that_the_authority_did_not_write_down_before(club: Path) -> None:
    issued = club / "authority" / "issued.txt"
    issued.mkdir()
    assert "issued.txt" in fails(*ISSUE, "--identity", "alice", cwd=club)
    assert not (club / "alice.cert").exists()
    issued.rmdir()
    ok(*ISSUE, "--identity", "alice", cwd=club)
    before = issued.read_text()
    assert "exists already" in fails(*ISSUE, "--identity", "bob", cwd=club)
    assert issued.read_text() == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["cert", "revoke", "x" * 32], "str: takes 0 to 31 bytes"),
        (["cert", "issue", "--identity", "a", "--out", "x"], "or make one by peergram id new str:a"),
        (["cert", "issue", "--identity", "a", "--out", "x", "--new-key", "--key-file", "alice.pub"], "Give one of"),
        ([*ISSUE], "for whom? Give --identity"),
        ([*ISSUE, "--identity", ""], "an identity cannot be empty"),
        ([*ISSUE, "--identity", "x" * 32], "str: takes"),
        ([*ISSUE, "--identity", "ip:192.0.2.1"], "cannot vouch for an address"),
        ([*ISSUE, "--identity", "gen:" + "00" * 32], "is another key than the one to be certified"),
        ([*ISSUE, "--identity", "a", "--days", "0"], "1<=x<=36500"),
        ([*ISSUE, "--identity", "a", "--days", "36500"], "beyond February 2106"),
        ([*ISSUE, "--identity", "a", "--app", str(1 << 32)], "0<=x<=4294967295"),
        ([*ISSUE, "--identity", "a", "--ca", "absent"], "there is no authority in 'absent'"),
        ([*ISSUE, "--identity", "a", "--identity", "b", "--binary"], "with --binary a file holds one certificate"),
        (["cert", "issue", "--identity", "a", "--key-file", "alice.pub", "--out", "alice.key"], "'alice.key' exists already"),
        (["cert", "issue", "--identity", "a", "--key-file", "alice.pub", "--out", "no/x"], "cannot be written"),
        (["cert", "issue", "--identity", "a", "--key-file", "absent", "--out", "x"], "key 'absent': it cannot be read"),
        (["cert", "issue", "--identity", "a", "--key-file", "long", "--out", "x"], "key 'long': it is longer than"),
        (["cert", "issue", "--identity", "a", "--key-file", "bytes", "--out", "x"], "key 'bytes': it is not text"),
        (["cert", "issue", "--from-request", "bytes", "--out", "x"], "request 'bytes': CertificateRequest: not a well-formed"),
        (["cert", "issue", "--identity", "a", "--key-file", "authority/authority.key", "--out", "x"], "vouch for its own key"),
        (["cert", "inspect", "absent"], "certificate 'absent': it cannot be read"),
        (["cert", "inspect", "bytes"], "certificate 'bytes': StoredCertificate: not a well-formed protobuf message"),
        (["cert", "inspect", "large"], "certificate 'large': stored certificate: 100000 bytes, at most 8704"),
        (["cert", "inspect", "alice.key"], "it holds 'OPENSSH PRIVATE KEY', where 'STEAMDATAGRAM CERT' is needed"),
        (["cert", "inspect", "."], "it is a folder"),
        (["cert", "revoke", "bob"], "nothing was issued here for str:bob"),
        (["cert", "revoke", "alice.pub"], "certificate 'alice.pub'"),
        (["cert", "request", "--identity", "a", "--key-file", "bytes", "--out", "x"], "key 'bytes'"),
    ],
)
def test_mistakes_get_one_sentence_and_make_nothing(club: Path, arguments: list[str], says: str) -> None:
    (club / "bytes").write_bytes(b"\xff\xfe\xfd")
    (club / "large").write_bytes(bytes(100_000))
    (club / "long").write_bytes(b"#" * 1_048_577)
    before = sorted(club.rglob("*"))
    assert says in fails(*arguments, cwd=club)
    assert sorted(club.rglob("*")) == before


def test_the_key_of_an_authority_stays_what_it_was(club: Path) -> None:
    before = (club / "authority" / "authority.key").read_bytes()
    ok(*ISSUE, "--identity", "alice", cwd=club)
    ok("cert", "revoke", "alice", cwd=club)
    assert (club / "authority" / "authority.key").read_bytes() == before
    assert read_private_key(before.decode()).private_bytes() == ROOT.private_bytes()


# What is said of a certificate, at any time

NOW_S = 1_800_000_000


def signed(certificate: Certificate, extra: bytes = b"") -> StoredCertificate:
    data = encode_certificate(certificate) + extra
    return StoredCertificate(SignedCertificate(data, key_id(ROOT.public_bytes), ROOT.sign(data)))


def alice(**changes: object) -> Certificate:
    certificate = Certificate(
        KEY_TYPE_ED25519, LEAF.public_bytes, write_identity(Identity.of("alice")), NOW_S - 5, NOW_S + 3 * DAY_S, (0,)
    )
    for name, value in changes.items():
        setattr(certificate, name, value)
    return certificate


def trusting(*, revoked: bool = False) -> TrustStore:
    store = TrustStore()
    store.add_root(ROOT.public_bytes)
    if revoked:
        store.revoke(key_id(LEAF.public_bytes))
    return store


@pytest.mark.parametrize(
    ("stored", "says"),
    [
        (signed(alice(time_created=NOW_S + 2 * DAY_S)), "created in the future, by 2 days: is this machine's clock right?"),
        (signed(alice(time_expiry=NOW_S - 7_200)), "It expired 2 hours ago."),
        (signed(alice(app_ids=(5,))), "It is not for app 0"),
        (signed(alice(app_ids=())), "It is not for app 0"),
        (signed(alice(key_data=bytes(31))), "Its key is not an Ed25519 key."),
        (signed(alice(), b"\x6a\x09192.0.2.1\xa5\x06" + bytes(4)), "not understood: 13 (IP addresses), 100."),
        (StoredCertificate(SignedCertificate(encode_certificate(alice()))), "No authority signed it."),
        (StoredCertificate(SignedCertificate(b"\x08")), "not a well-formed"),
        (StoredCertificate(SignedCertificate(b"\x62\x04what", 1, bytes(64))), "identity"),
    ],
)
def test_every_defect_is_told_with_or_without_somebody_trusted(stored: StoredCertificate, says: str) -> None:
    for store in (None, trusting()):
        assert says in " ".join(find_defects(stored, store, NOW_S))
    assert describe_certificate(stored, NOW_S)


def test_a_good_one_has_no_defect_and_doubts_come_from_whom_one_trusts() -> None:
    stored = signed(alice())
    assert find_defects(stored, None, NOW_S) == find_defects(stored, trusting(), NOW_S) == []
    assert find_defects(stored, TrustStore(), NOW_S) == [f"CA key {key_id(ROOT.public_bytes)} is not known to us."]
    assert find_defects(stored, trusting(revoked=True), NOW_S) == ["Cert has untrusted public key.  Revoked."]
    text = "\n".join(describe_certificate(stored, NOW_S))
    assert "made       2027-01-15T07:59Z (5 s ago)" in text
    assert "expires    2027-01-18T08:00Z (in 3 days)" in text


def test_an_authority_that_may_not_vouch_for_us_is_told_of() -> None:
    store = trusting()
    middle = SigningKey(b"\x02" * 32)
    limited = signed(Certificate(KEY_TYPE_ED25519, middle.public_bytes, write_identity(Identity.of("x")), 1, NOW_S * 2, (5,)))
    certificate = decode_certificate(limited.signed.cert)
    certificate.identity_fields = type(certificate.identity_fields)()
    store.add_authority(signed(certificate).signed)
    issued = issue_certificate(
        middle, subject_key=LEAF.public_bytes, identity=Identity.of("alice"), app_ids=(0,), created_s=NOW_S, expires_s=NOW_S + 9
    )
    assert find_defects(StoredCertificate(issued), store, NOW_S) == ["Its authority may not vouch for app 0."]


def test_the_output_of_the_references_tool_is_described_as_it_says_itself() -> None:
    stored = read_certificate(split_blocks(RECORDED["certificate"])[0][0][1])
    text = "\n".join(describe_certificate(stored, NOW_S))
    assert "for        an authority" in text
    assert f"signed by  {RECORDED['root_id']}" in text
    assert "apps       0, 570" in text
    assert "data cent. sto, fra" in text
    assert write_certificate(stored) == RECORDED["certificate"]


def test_data_centers_are_shown_as_the_reference_packs_their_letters() -> None:
    assert location_text(int.from_bytes(b"sto", "big")) == "sto"
    assert location_text(int.from_bytes(b"dabc", "big")) == "abcd"
    assert location_text(5) == "5"
    assert location_text(0) == "0"
