"""The file by which a peer knows its authorities: what it says counts, and what it cannot say is an error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peergram.config import AUTHORITY_FILE_PROBLEMS_MAX
from peergram.crypto.authority import issue_authority, issue_certificate
from peergram.crypto.authority_text import parse_key_name, read_authority_text
from peergram.crypto.keys import SigningKey, fingerprint, key_id
from peergram.crypto.trust import TrustStore
from peergram.errors import UsageError
from peergram.identity import Identity
from peergram.wire.certificate_text import write_block, write_certificate, write_public_key
from peergram.wire.certificates import StoredCertificate

ROOT, MIDDLE, LEAF = (SigningKey(bytes([number]) * 32) for number in (1, 2, 3))
LATER_S = 4_000_000_000
ROOT_LINE = write_public_key(ROOT.public_bytes, "the root")
MIDDLE_SIGNED = issue_authority(ROOT, subject_key=MIDDLE.public_bytes, created_s=1, expires_s=LATER_S)
MIDDLE_BLOCK = write_certificate(StoredCertificate(MIDDLE_SIGNED))
LEAF_SIGNED = issue_certificate(
    MIDDLE, subject_key=LEAF.public_bytes, identity=Identity.of("alice"), app_ids=(0,), created_s=1, expires_s=LATER_S
)


def store_of(text: str) -> TrustStore:
    store = TrustStore()
    read_authority_text(text).put_into(store)
    return store


def verdict(text: str) -> str:
    return store_of(text).check_leaf(LEAF_SIGNED, 1_000).text


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_roots_and_authorities_are_read_in_any_order(order: tuple[int, int]) -> None:
    parts = ("# roots\n\n" + ROOT_LINE + "\n", MIDDLE_BLOCK)
    text = "".join(parts[each] for each in order)
    assert verdict(text) == ""
    found = read_authority_text(text)
    assert found.roots == [(ROOT.public_bytes, "the root")]
    assert found.certificates == [MIDDLE_SIGNED]


@pytest.mark.parametrize("key", [MIDDLE, LEAF, ROOT])
@pytest.mark.parametrize("write", [lambda key: fingerprint(key), lambda key: str(key_id(key)), lambda key: f"ID{key_id(key)}"])
@pytest.mark.parametrize("remark", ["", " lost on a train", "  # stolen"])
def test_a_revoked_key_is_out_in_every_spelling(key: SigningKey, write: object, remark: str) -> None:
    assert callable(write)
    text = f"{write(key.public_bytes)}{remark}\n{ROOT_LINE}\n{MIDDLE_BLOCK}"
    assert "Revoked" in verdict(text)
    assert read_authority_text(text).revoked == [(key_id(key.public_bytes), remark.strip())]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("hello", "line 2: neither a root"),
        ("SHA256:abc", "line 2: neither a root"),
        (fingerprint(LEAF.public_bytes)[:-1], "line 2: neither a root"),
        (fingerprint(LEAF.public_bytes) + "A", "line 2: neither a root"),
        ("sha256:" + fingerprint(LEAF.public_bytes)[7:], "line 2: neither a root"),
        ("0", "line 2: neither a root"),
        (str(1 << 64), "line 2: neither a root"),
        ("12\x1b[31m", r"line 2: neither a root .*'12\?\[31m'"),
        ("ssh-ed25519 AAAA", "line 2: .*announced"),
        (write_public_key(b"\x01" + bytes(31)), "line 2: this is a key under which anybody can sign"),
        (write_block("CERTIFICATE", b"x"), "line 2: a block 'CERTIFICATE'; only 'STEAMDATAGRAM CERT' belongs here"),
        (write_certificate(StoredCertificate(MIDDLE_SIGNED, bytes(32))), "line 2: .*private key beside it"),
        (write_certificate(StoredCertificate(LEAF_SIGNED)), "line 2: authority certificate: it names an identity"),
        (MIDDLE_BLOCK[:-9], "line 2: a block that is not whole"),
    ],
)
def test_a_line_that_cannot_be_read_is_named_and_nothing_counts(line: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        read_authority_text(f"{ROOT_LINE}\n{line}\n")


def test_of_many_bad_lines_some_are_named() -> None:
    with pytest.raises(UsageError) as caught:
        read_authority_text("x\n" * (AUTHORITY_FILE_PROBLEMS_MAX + 3))
    assert str(caught.value).count("neither a root") == AUTHORITY_FILE_PROBLEMS_MAX
    assert str(caught.value).endswith("; and 3 more lines")


def test_bad_lines_and_bad_blocks_are_named_in_their_order() -> None:
    block = write_block("CERTIFICATE", b"x")
    with pytest.raises(UsageError, match=r"^line 1: neither.*; line 2: a block.*; line 5: neither"):
        read_authority_text(f"x\n{block}y\n")


def test_names_of_keys() -> None:
    for key in (ROOT, LEAF):
        assert parse_key_name(fingerprint(key.public_bytes)) == key_id(key.public_bytes)
        assert parse_key_name(f"ID{key_id(key.public_bytes)}") == key_id(key.public_bytes)
    assert parse_key_name("str:alice") is None


@given(st.text("ssh-ed25519 SHA256:ID0123456789=\n#-BEGIN", max_size=200))
def test_no_text_does_worse_than_to_be_refused(text: str) -> None:
    try:
        read_authority_text(text)
    except UsageError:
        return
