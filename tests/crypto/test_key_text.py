"""Key files: those of the reference's tool and of OpenSSH are read, and nothing of a private key is ever told."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, x25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat, load_ssh_private_key
from hypothesis import given
from hypothesis import strategies as st

from peergram.crypto.key_text import PRIVATE_KEY_LABEL, read_any_public_key, read_private_key, write_private_key
from peergram.crypto.keys import SigningKey, key_id
from peergram.errors import UsageError
from peergram.wire.certificate_text import read_base64, split_blocks, write_block, write_public_key
from tests.vectors_data import load

RECORDED = load("04-certtool")
SECRET = bytes(range(100, 132))
KEY = SigningKey(SECRET)
ED = ed25519.Ed25519PrivateKey.from_private_bytes(SECRET)


def test_the_key_file_of_the_reference_is_read() -> None:
    key = read_private_key(RECORDED["root_private"])
    assert key_id(key.public_bytes) == RECORDED["root_id"]
    assert read_private_key(RECORDED["root_private"].replace("\n", "\r\n")).public_bytes == key.public_bytes


@given(st.binary(min_size=32, max_size=32), st.text(max_size=30))
def test_a_key_reads_back_whatever_its_comment(secret: bytes, comment: str) -> None:
    assert read_private_key(write_private_key(SigningKey(secret), comment)).private_bytes() == secret


@pytest.mark.parametrize("comment", ["", "a", "a comment", "seven77"])
def test_another_implementation_reads_what_we_write(comment: str) -> None:
    again = load_ssh_private_key(write_private_key(KEY, comment).encode(), None)
    assert isinstance(again, ed25519.Ed25519PrivateKey)
    assert again.private_bytes_raw() == SECRET


def test_we_read_what_another_implementation_writes() -> None:
    text = ED.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
    assert read_private_key(text).private_bytes() == SECRET


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="there is no ssh-keygen")
def test_ssh_keygen_reads_our_file_and_we_read_its(tmp_path: Path) -> None:
    ours, theirs, locked = (tmp_path / name for name in ("ours", "theirs", "locked"))
    ours.write_text(write_private_key(KEY, "of us"))
    ours.chmod(0o600)
    line = subprocess.run(["ssh-keygen", "-y", "-f", ours], capture_output=True, text=True, check=True).stdout.strip()
    assert line == write_public_key(KEY.public_bytes, "of us")
    for path, phrase in ((theirs, ""), (locked, "secret")):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", phrase, "-f", path], check=True)
    public = read_any_public_key(theirs.with_suffix(".pub").read_text())
    assert read_private_key(theirs.read_text()).public_bytes == public
    assert read_any_public_key(theirs.read_text()) == public
    with pytest.raises(UsageError, match="protected by a passphrase"):
        read_private_key(locked.read_text())


BODY = read_base64(split_blocks(write_private_key(KEY))[0][0][1])


def damaged(old: bytes, new: bytes, *, last: bool = False) -> str:
    assert old in BODY
    at = BODY.rindex(old) if last else BODY.index(old)
    return write_block(PRIVATE_KEY_LABEL, BODY[:at] + new + BODY[at + len(old) :])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "one private key and nothing else"),
        (write_private_key(KEY) * 2, "one private key and nothing else"),
        ("more\n" + write_private_key(KEY), "one private key and nothing else"),
        (write_private_key(KEY).replace("OPENSSH ", ""), "it holds 'PRIVATE KEY', where 'OPENSSH PRIVATE KEY' is needed"),
        (write_private_key(KEY)[:-10], "a block that is not whole"),
        (write_block(PRIVATE_KEY_LABEL, b""), "not in OpenSSH's format"),
        (damaged(b"openssh-key-v1", b"openssh-key-v2"), "not in OpenSSH's format"),
        (damaged(b"\0\0\0\x04none", b"\0\0\0\x04ctrl"), "protected by a passphrase"),
        (damaged(b"none\0\0\0\0\0\0\0\1", b"none\0\0\0\0\0\0\0\2"), "must hold one key"),
        (damaged(bytes(8), bytes(7) + b"\1"), "two check numbers differ"),
        (damaged(b"ssh-ed25519", b"ssh-ed25\x1b19"), "it is a key of the kind 'ssh-ed25\\?19'"),
        (damaged(KEY.public_bytes, bytes(32)), "does not belong to its private key"),
        (damaged(KEY.public_bytes, bytes(32), last=True), "does not belong to its private key"),
        (damaged(SECRET, bytes(32)), "does not belong to its private key"),
        (damaged(b"\0\0\0\x40" + SECRET, b"\0\0\0\x3f" + SECRET), "a wrong length"),
        (write_block(PRIVATE_KEY_LABEL, BODY[:-90]), "announced"),
        (write_block(PRIVATE_KEY_LABEL, bytes(20_000)), "characters of base64, at most"),
    ],
)
def test_a_file_that_is_no_key_gets_a_sentence_without_the_key(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        read_private_key(text)
    told = f"{caught.value!r} {caught.value}"
    assert SECRET.hex() not in told
    assert base64.b64encode(SECRET).decode()[:20] not in told
    assert repr(SECRET)[2:20] not in told


@given(st.integers(0, len(BODY) - 1), st.binary(max_size=3))
def test_no_damage_does_worse_than_to_be_refused(at: int, put: bytes) -> None:
    try:
        key = read_private_key(write_block(PRIVATE_KEY_LABEL, BODY[:at] + put + BODY[at + 1 :]))
    except UsageError:
        return
    assert key.private_bytes() == SECRET


# Public keys in any form

SPKI = ED.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
PKCS8 = ED.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
X25519 = x25519.X25519PrivateKey.from_private_bytes(SECRET)


@pytest.mark.parametrize(
    "text",
    [
        write_public_key(KEY.public_bytes, "a comment of several words"),
        f"\n# whose\n  {write_public_key(KEY.public_bytes)}  \n",
        KEY.public_bytes.hex(),
        KEY.public_bytes.hex().upper() + "\n",
        f"gen:{KEY.public_bytes.hex()}",
        SPKI,
        PKCS8,
        write_private_key(KEY),
    ],
)
def test_a_public_key_is_taken_in_every_usual_form(text: str) -> None:
    assert read_any_public_key(text) == KEY.public_bytes


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not 0 things"),
        (f"{KEY.public_bytes.hex()}\n{KEY.public_bytes.hex()}", "not 2 things"),
        (SPKI + KEY.public_bytes.hex(), "not 2 things"),
        (KEY.public_bytes.hex()[:-1], "begins with 'ssh-ed25519'"),
        (KEY.public_bytes.hex()[:-1] + "g", "begins with 'ssh-ed25519'"),
        ("ssh-rsa AAAAB3NzaC1yc2E= x", "begins with 'ssh-ed25519'"),
        (re.sub(r"\n.*\n", "\nAAAA\n", SPKI, count=1), "'PUBLIC KEY' cannot be read"),
        (re.sub(r"\n.*\n", "\nAAAA\n", PKCS8, count=1), "'PRIVATE KEY' cannot be read"),
        (X25519.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(), "not an Ed25519 key"),
        (X25519.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(), "not an Ed25519 key"),
        (SPKI.replace("PUBLIC KEY", "CERTIFICATE"), "it holds 'CERTIFICATE', which is no key"),
    ],
)
def test_what_is_no_public_key_gets_a_sentence(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        read_any_public_key(text)
