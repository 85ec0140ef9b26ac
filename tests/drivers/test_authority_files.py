"""Files of authorities: made for the owner alone, read whole or not at all, and nothing is ever written over."""

from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path

import pytest

from peergram.config import AUTHORITY_FILE_BYTES_MAX
from peergram.crypto.authority import issue_authority, issue_certificate
from peergram.crypto.key_text import write_private_key
from peergram.crypto.keys import SigningKey, fingerprint, key_id
from peergram.crypto.trust import Scope
from peergram.drivers import authority_files as files
from peergram.errors import UsageError
from peergram.identity import Identity
from peergram.wire.certificate_text import write_certificate, write_public_key, write_request
from peergram.wire.certificates import (
    KEY_TYPE_ED25519,
    Certificate,
    StoredCertificate,
    decode_certificate,
    encode_certificate_request,
    encode_stored_certificate,
    write_identity,
)
from tests.vectors_data import load

RECORDED = load("04-certtool")
ROOT, MIDDLE, LEAF, OTHER = (SigningKey(bytes([number]) * 32) for number in (1, 2, 3, 4))
ALICE, BOB = Identity.of("alice"), Identity.of("bob")
NOW_S, LATER_S = 1_000_000_000, 1_100_000_000
WANTED = Certificate(KEY_TYPE_ED25519, LEAF.public_bytes, write_identity(ALICE))
posix = pytest.mark.skipif(sys.platform == "win32", reason="permissions are others there")


def issued(identity: Identity = ALICE, by: SigningKey = ROOT) -> StoredCertificate:
    return StoredCertificate(
        issue_certificate(by, subject_key=LEAF.public_bytes, identity=identity, app_ids=(0,), created_s=NOW_S, expires_s=LATER_S)
    )


def root_file(tmp_path: Path, more: str = "") -> Path:
    path = tmp_path / "authorities"
    path.write_text(f"{write_public_key(ROOT.public_bytes)}\n{more}")
    return path


# What peers read


def test_a_folder_and_a_file_say_the_same(tmp_path: Path) -> None:
    made = files.make_authority(tmp_path / "ca", ROOT, comment="of tests")
    for source in (tmp_path / "ca", str(tmp_path / "ca"), tmp_path / "ca" / files.PUBLIC_FILE, [made.folder]):
        store = files.load_authorities(source)
        assert store.root_ids == {key_id(ROOT.public_bytes)}
        assert store.check_leaf(issued().signed, NOW_S).scope == Scope()


def test_several_files_add_up(tmp_path: Path) -> None:
    revoked = tmp_path / "revoked"
    revoked.write_text(f"# lost\r\n{fingerprint(LEAF.public_bytes)} lost\r\n", newline="")
    store = files.load_authorities([root_file(tmp_path), revoked])
    assert store.check_leaf(issued().signed, NOW_S).text == "Cert has untrusted public key.  Revoked"


def test_a_file_of_the_references_tool_is_a_file_of_authorities(tmp_path: Path) -> None:
    path = tmp_path / "theirs"
    path.write_text("\n".join((RECORDED["root_public"], RECORDED["certificate"], *RECORDED["printed"])))
    store = files.load_authorities(path)
    assert store.root_ids == {RECORDED["root_id"]}
    assert len(store.key_ids) == 2


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "it is empty"),
        (b" \n\n", "it is empty"),
        (b"\xff\xfe\x00", "it is not text"),
        (b"# nothing\n", "there is no root in"),
        (f"{fingerprint(ROOT.public_bytes)}\n{write_public_key(ROOT.public_bytes)}".encode(), "there is no root in"),
        (b"what\n", "line 1: neither a root"),
    ],
)
def test_a_file_that_names_nobody_is_refused_with_its_name(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "the file"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=says) as caught:
        files.load_authorities(path)
    assert "the file" in str(caught.value)


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        files.load_authorities(tmp_path / "absent")
    with pytest.raises(UsageError, match="No such file"):
        files.load_authorities(tmp_path)
    with pytest.raises(UsageError, match="no root in no file"):
        files.load_authorities([])
    with pytest.raises(UsageError, match="it is a folder"):
        files.load_certificate(tmp_path)
    if sys.platform != "win32":
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(UsageError, match="it is no file"):
            files.load_authorities(tmp_path / "pipe")


def test_a_file_that_is_too_long_is_none(tmp_path: Path) -> None:
    path = root_file(tmp_path)
    path.write_text(path.read_text().ljust(AUTHORITY_FILE_BYTES_MAX))
    assert files.load_authorities(path).root_ids
    path.write_text(path.read_text() + " ")
    with pytest.raises(UsageError, match="longer than 1048576 bytes"):
        files.load_authorities(path)


# Certificates


@pytest.mark.parametrize("is_text", [True, False])
def test_a_certificate_is_read_as_text_and_as_bytes(tmp_path: Path, is_text: bool) -> None:
    stored = issued()
    path = tmp_path / "cert"
    path.write_bytes(write_certificate(stored).encode() if is_text else encode_stored_certificate(stored))
    assert files.load_certificate(path) == (stored.signed, None)
    stored.private_key = LEAF.private_bytes()
    path.write_bytes(write_certificate(stored).encode() if is_text else encode_stored_certificate(stored))
    path.chmod(0o600)
    signed, key = files.load_certificate(str(path))
    assert signed == stored.signed
    assert key is not None
    assert key.public_bytes == LEAF.public_bytes


def test_the_output_of_the_references_tool_is_a_certificate(tmp_path: Path) -> None:
    path = tmp_path / "theirs"
    path.write_text(RECORDED["certificate"] + "\n".join(RECORDED["printed"]))
    signed, key = files.load_certificate(path)
    assert (signed.ca_key_id, key) == (RECORDED["root_id"], None)


def test_of_several_the_one_of_the_identity_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "certs"
    path.write_text(write_certificate(issued()) + write_certificate(issued(BOB)))
    assert files.load_certificate(path, BOB)[0] == issued(BOB).signed
    with pytest.raises(UsageError, match="holds 2 certificates, and it is not said for whom"):
        files.load_certificate(path)
    with pytest.raises(UsageError, match="it is not for str:carol"):
        files.load_certificate(path, Identity.of("carol"))


@posix
def test_a_private_key_that_others_may_read_is_refused_with_the_command_that_helps(tmp_path: Path) -> None:
    stored = issued()
    stored.private_key = LEAF.private_bytes()
    path = tmp_path / "a cert"
    path.write_text(write_certificate(stored))
    for mode in (0o640, 0o604, 0o620):
        path.chmod(mode)
        with pytest.raises(UsageError, match=f"chmod 600 '{path}'"):
            files.load_certificate(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\x22\x02", "not a well-formed protobuf message"),
        (b"\x28\x05", "there is no certificate in it"),
        (bytes(100_000), "stored certificate: 100000 bytes, at most 8704"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "line 1: it holds 'CERTIFICATE', where"),
        (write_private_key(LEAF).encode(), "it holds 'OPENSSH PRIVATE KEY', where"),
        (b"more\n" + write_certificate(issued()).encode(), "'STEAMDATAGRAM CERT' and nothing else"),
        (b"-----BEGIN STEAMDATAGRAM CERT-----\n" + b"A" * 100_000 + b"\n-----END STEAMDATAGRAM CERT-----", "at most 17408"),
        (b"-----BEGIN STEAMDATAGRAM CERT-----\nAAAA", "not whole"),
        (encode_stored_certificate(StoredCertificate(issued().signed, bytes(31))), "a private key is 32 bytes long, not 31"),
        (encode_stored_certificate(StoredCertificate(issued().signed, b"\7" * 32)), "is not the one that it is about"),
    ],
)
def test_a_certificate_that_is_none_is_refused_with_its_name(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "the file"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(UsageError, match=says) as caught:
        files.load_certificate(path)
    assert "certificate" in str(caught.value)
    assert "the file" in str(caught.value)


@pytest.mark.parametrize("content", [write_request(WANTED).encode(), encode_certificate_request(WANTED)])
def test_a_request_is_read_as_text_and_as_bytes(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "request"
    path.write_bytes(content)
    assert files.load_request(path) == WANTED


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (write_certificate(issued()).encode(), "'STEAMDATAGRAM CERT REQUEST' and nothing else"),
        (b"\x12\x00", "there is no certificate in it"),
        (b"", "it is empty"),
    ],
)
def test_a_request_that_is_none_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "request"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=says):
        files.load_request(path)


# An authority's folder


@posix
def test_the_private_key_is_the_owners_alone_and_the_rest_is_for_everybody(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        made = files.make_authority(tmp_path / "ca", ROOT)
    finally:
        os.umask(old)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in made.folder.iterdir()}
    assert modes == {files.KEY_FILE: 0o600, files.PUBLIC_FILE: 0o644}
    assert stat.S_IMODE(made.folder.stat().st_mode) == 0o700
    (made.folder / files.KEY_FILE).chmod(0o644)
    with pytest.raises(UsageError, match=r"others may read the private key in it.*chmod 600"):
        files.open_authority(made.folder)


@posix
def test_a_link_is_no_private_key(tmp_path: Path) -> None:
    made = files.make_authority(tmp_path / "ca", ROOT)
    key = made.folder / files.KEY_FILE
    key.rename(tmp_path / "elsewhere")
    key.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="it is a link"):
        files.open_authority(made.folder)


def test_a_folder_opens_again_as_it_was_made(tmp_path: Path) -> None:
    files.make_authority(tmp_path / "ca", ROOT, comment="of tests")
    again = files.open_authority(tmp_path / "ca")
    assert again.key.public_bytes == ROOT.public_bytes
    assert again.scope == Scope()
    assert again.is_root
    assert again.public.roots[0][1] == f"of tests ID{key_id(ROOT.public_bytes)}"
    assert ROOT.private_bytes().hex() not in repr(again)


def test_an_authority_beneath_another_knows_its_bounds_and_hands_on_whom_to_trust(tmp_path: Path) -> None:
    above = files.make_authority(tmp_path / "ca", ROOT)
    above.revoke(fingerprint(OTHER.public_bytes), "lost", NOW_S)
    signed = issue_authority(ROOT, subject_key=MIDDLE.public_bytes, app_ids=(0,), created_s=NOW_S, expires_s=LATER_S)
    made = files.make_authority(tmp_path / "sub", MIDDLE, above=above.public, signed=signed)
    assert made.scope == Scope(frozenset({0}), None, LATER_S)
    assert not made.is_root
    store = files.load_authorities(made.folder)
    assert store.check_leaf(issued(by=MIDDLE).signed, NOW_S).scope == made.scope


def test_nothing_that_exists_is_written_over(tmp_path: Path) -> None:
    files.make_authority(tmp_path / "ca", ROOT)
    before = {path.name: path.read_bytes() for path in (tmp_path / "ca").iterdir()}
    with pytest.raises(UsageError, match=r"there is an authority in .* already"):
        files.make_authority(tmp_path / "ca", OTHER)
    with pytest.raises(UsageError, match="exists already, and nothing is written over"):
        files.write_new(tmp_path / "ca" / files.PUBLIC_FILE, b"x", is_private=False)
    assert {path.name: path.read_bytes() for path in (tmp_path / "ca").iterdir()} == before


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="cannot be made"):
        files.make_authority(tmp_path / "file" / "ca", ROOT)
    with pytest.raises(UsageError, match=r"there is no authority in .*'peergram ca init"):
        files.open_authority(tmp_path / "absent")
    with pytest.raises(UsageError, match="cannot be written: No such file"):
        files.write_new(tmp_path / "absent" / "x", b"x", is_private=True)


def test_an_authority_that_its_own_file_does_not_trust_does_not_work(tmp_path: Path) -> None:
    made = files.make_authority(tmp_path / "ca", ROOT)
    public = made.folder / files.PUBLIC_FILE
    public.write_text(write_public_key(OTHER.public_bytes) + "\n")
    with pytest.raises(UsageError, match=r"is not trusted by its own authority.txt: It is not known to us"):
        files.open_authority(made.folder)
    public.write_text(f"{write_public_key(ROOT.public_bytes)}\n{fingerprint(ROOT.public_bytes)}\n")
    with pytest.raises(UsageError, match=r"is not trusted by its own authority.txt: Revoked"):
        files.open_authority(made.folder)


def test_what_was_issued_is_written_down_and_found_again(tmp_path: Path) -> None:
    made = files.make_authority(tmp_path / "ca", ROOT)
    assert made.keys_of(ALICE) == []
    named = Identity.of("alice of the hill")
    for identity in (ALICE, named, ALICE):
        made.note_issued(decode_certificate(issued(identity).signed.cert))
    sub = issue_authority(ROOT, subject_key=MIDDLE.public_bytes, created_s=NOW_S, expires_s=LATER_S)
    made.note_issued(decode_certificate(sub.cert))
    assert made.keys_of(ALICE) == made.keys_of(named) == [fingerprint(LEAF.public_bytes)]
    assert made.keys_of(BOB) == []
    lines = (made.folder / files.ISSUED_FILE).read_text().splitlines()
    assert lines[1] == f"2001-09-09T01:46Z  2004-11-09T11:33Z  {fingerprint(LEAF.public_bytes)}  0  str:alice"
    assert lines[4].endswith(f"{fingerprint(MIDDLE.public_bytes)}  all  (an authority)")


def test_a_revoked_key_stays_revoked_for_all_who_get_the_file(tmp_path: Path) -> None:
    made = files.make_authority(tmp_path / "ca", ROOT)
    public = made.folder / files.PUBLIC_FILE
    # As an editor may leave it.
    public.write_text(public.read_text().rstrip("\n"))
    assert made.revoke(fingerprint(LEAF.public_bytes), "str:alice\nID5", NOW_S)
    assert not made.revoke(str(key_id(LEAF.public_bytes)), "", NOW_S)
    assert public.read_text().splitlines()[-1] == f"{fingerprint(LEAF.public_bytes)} revoked 2001-09-09T01:46Z str:alice ID5"
    store = files.load_authorities(made.folder)
    assert store.check_leaf(issued().signed, NOW_S).text == "Cert has untrusted public key.  Revoked"
    assert not files.open_authority(made.folder).revoke(fingerprint(LEAF.public_bytes), "", NOW_S)
    with pytest.raises(UsageError, match="neither a fingerprint"):
        made.revoke("str:alice", "", NOW_S)


@posix
def test_a_file_that_cannot_be_added_to_is_told_of(tmp_path: Path) -> None:
    made = files.make_authority(tmp_path / "ca", ROOT)
    (made.folder / files.ISSUED_FILE).mkdir()
    with pytest.raises(UsageError, match="cannot be written"):
        made.note_issued(decode_certificate(issued().signed.cert))


@pytest.mark.parametrize("text", [write_public_key(LEAF.public_bytes), f"gen:{LEAF.public_bytes.hex()}", write_private_key(LEAF)])
def test_a_public_key_is_read_from_a_file_of_any_form(tmp_path: Path, text: str) -> None:
    path = tmp_path / "key"
    path.write_text(text)
    assert files.load_public_key(path) == LEAF.public_bytes
    path.write_text("what")
    with pytest.raises(UsageError, match=r"key .*key'.*: a line for an Ed25519 key begins with"):
        files.load_public_key(path)


def test_an_authority_can_be_made_where_files_have_one_name_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a memory stick."""

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    files.make_authority(tmp_path / "stick", ROOT)
    assert files.open_authority(tmp_path / "stick").key.public_bytes == ROOT.public_bytes
    with pytest.raises(UsageError, match="exists already"):
        files.write_new(tmp_path / "stick" / files.KEY_FILE, b"", is_private=True)
