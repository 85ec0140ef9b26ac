"""Certificates and public keys as text: what the reference's tool wrote reads and writes back, every defect is of one kind."""

from __future__ import annotations

import base64

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from peergram.errors import WireError
from peergram.identity import Identity
from peergram.wire.certificate_text import (
    CERTIFICATE_LABEL,
    SSH_COMMENT_CHARACTERS_MAX,
    read_base64,
    read_certificate,
    read_public_key,
    read_request,
    split_blocks,
    write_block,
    write_certificate,
    write_public_key,
    write_request,
)
from peergram.wire.certificates import (
    CERTIFICATE_BYTES_MAX,
    KEY_TYPE_ED25519,
    STORED_CERTIFICATE_BYTES_MAX,
    Certificate,
    SignedCertificate,
    StoredCertificate,
    decode_certificate,
    decode_certificate_request,
    decode_signed_certificate,
    decode_stored_certificate,
    encode_certificate,
    encode_certificate_request,
    encode_signed_certificate,
    encode_stored_certificate,
    unknown_certificate_fields,
    write_identity,
)
from tests.vectors_data import load

RECORDED = load("04-certtool")
KEY = bytes(range(32))
SECRET = b"\x77" * 32
STORED = StoredCertificate(SignedCertificate(b"\x08\x01", 5, bytes(64)), SECRET)


def test_a_block_of_the_reference_is_read_and_written_again_as_it_was() -> None:
    ((label, body, number),), rest = split_blocks(RECORDED["certificate"])
    assert (label, number, rest.strip()) == (CERTIFICATE_LABEL, 1, "")
    stored = read_certificate(body)
    assert stored.private_key is None
    assert stored.signed.ca_key_id == RECORDED["root_id"]
    assert write_certificate(stored) == RECORDED["certificate"]
    certificate = decode_certificate(stored.signed.cert)
    assert certificate.app_ids == (0, 570)
    assert certificate.time_expiry - certificate.time_created == 30 * 86_400
    assert len(certificate.datacenter_ids) == 2
    assert unknown_certificate_fields(stored.signed.cert) == ()


def test_a_block_is_read_with_its_ends_of_lines_trimmed_away() -> None:
    ((_, body, _),), _ = split_blocks(" ".join(RECORDED["certificate"].split()))
    assert write_certificate(read_certificate(body)) == RECORDED["certificate"]


def test_a_line_of_the_reference_is_read_and_written_again_as_it_was() -> None:
    key, comment = read_public_key(RECORDED["root_public"])
    assert comment == f"ID{RECORDED['root_id']}"
    assert write_public_key(key, comment) == RECORDED["root_public"]


def test_the_private_key_is_kept_in_storage_and_never_sent_or_shown() -> None:
    again = read_certificate(split_blocks(write_certificate(STORED))[0][0][1])
    assert again == STORED
    sent = encode_signed_certificate(again.signed)
    assert SECRET not in sent
    assert decode_signed_certificate(encode_stored_certificate(STORED)) == STORED.signed
    assert "77" * 8 not in repr(STORED)
    assert "w" * 8 not in repr(STORED)


def test_a_request_says_what_is_wanted() -> None:
    wanted = Certificate(KEY_TYPE_ED25519, KEY, write_identity(Identity.of("alice")), datacenter_ids=(7,))
    assert read_request(split_blocks(write_request(wanted))[0][0][1]) == wanted
    assert decode_certificate_request(encode_certificate_request(wanted)) == wanted


def test_text_around_blocks_keeps_its_lines() -> None:
    block = write_certificate(STORED)
    blocks, rest = split_blocks(f"# one\n{block}ssh-ed25519 x\n{block}last")
    assert [number for _, _, number in blocks] == [2, 1 + 1 + block.count("\n") + 1]
    lines = rest.split("\n")
    assert lines[0] == "# one"
    assert lines[1 + block.count("\n")] == "ssh-ed25519 x"
    assert lines[-1] == "last"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("-----BEGIN STEAMDATAGRAM CERT-----\nAAAA\n", "line 1: a block that is not whole"),
        ("x\n-----END STEAMDATAGRAM CERT-----\n", "line 2: a block that is not whole"),
        ("-----BEGIN A-----\nAAAA\n-----END B-----", "line 1: a block that is not whole"),
    ],
)
def test_half_a_block_is_an_error_with_its_line(text: str, says: str) -> None:
    with pytest.raises(WireError, match=says):
        split_blocks(text)


@pytest.mark.parametrize("text", ["-" * 200_000, "-----BEGIN A-----" * 8_000, "-BEGIN A-\n" * 20_000, "- \t" * 70_000])
def test_text_made_to_be_slow_is_not(text: str) -> None:
    # A search that went back and forth would not come to its end within the time of a test run.
    try:
        split_blocks(text)
    except WireError:
        return
    assert "BEGIN" not in text


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("AAA", "not base64"),
        ("AA*A", "not base64"),
        ("äAAA", "not base64"),
        ("A" * 100_000, "100000 characters of base64, at most"),
        (base64.b64encode(bytes(STORED_CERTIFICATE_BYTES_MAX + 1)).decode(), "stored certificate: 8705 bytes, at most 8704"),
        ("", "there is no certificate in it"),
        (base64.b64encode(b"\x28\x01").decode(), "there is no certificate in it"),
        (base64.b64encode(b"\x22\xff").decode(), "not a well-formed protobuf message"),
        (
            base64.b64encode(
                encode_stored_certificate(StoredCertificate(SignedCertificate(bytes(CERTIFICATE_BYTES_MAX + 1))))
            ).decode(),
            "certificate: 8193 bytes, at most 8192",
        ),
    ],
)
def test_a_certificate_that_is_none_gets_a_sentence(body: str, says: str) -> None:
    with pytest.raises(WireError, match=says):
        read_certificate(body)


def test_a_certificate_of_the_greatest_length_is_read() -> None:
    stored = StoredCertificate(SignedCertificate(bytes(CERTIFICATE_BYTES_MAX), 5, bytes(64)), SECRET)
    assert decode_stored_certificate(encode_stored_certificate(stored)) == stored


@pytest.mark.parametrize("body", ["", base64.b64encode(b"\x10\x01").decode()])
def test_a_request_without_a_certificate_is_none(body: str) -> None:
    with pytest.raises(WireError, match="there is no certificate in it"):
        read_request(body)


def ssh(blob: bytes) -> str:
    return f"ssh-ed25519 {base64.b64encode(blob).decode()}"


HEAD = b"\0\0\0\x0bssh-ed25519"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("", "begins with 'ssh-ed25519', not ''"),
        ("ssh-rsa AAAA", "begins with 'ssh-ed25519', not 'ssh-rsa AAAA'"),
        ("ssh-ed25519", "announced"),
        ("ssh-ed25519 AAA", "not base64"),
        (ssh(HEAD + b"\0\0\0\x1f" + bytes(31)), "does not hold an Ed25519 key"),
        (ssh(HEAD + b"\0\0\0\x20" + bytes(31)), "announced"),
        (ssh(HEAD + b"\0\0\0\x20" + bytes(33)), "does not hold an Ed25519 key"),
        (ssh(b"\0\0\0\x0bssh-ed25518\0\0\0\x20" + bytes(32)), "does not hold an Ed25519 key"),
        (ssh(b"\xff\xff\xff\xff" + bytes(50)), "announced"),
        (write_public_key(KEY, "x" * (SSH_COMMENT_CHARACTERS_MAX + 1)), "a comment of 257 characters"),
    ],
)
def test_a_key_line_that_is_none_gets_a_sentence(line: str, says: str) -> None:
    with pytest.raises(WireError, match=says):
        read_public_key(line)


def test_the_longest_comment_is_read() -> None:
    comment = "x" * SSH_COMMENT_CHARACTERS_MAX
    assert read_public_key(write_public_key(KEY, comment)) == (KEY, comment)


@given(st.binary(min_size=32, max_size=32), st.text("abc ID0123456789@.", max_size=40))
def test_every_key_line_reads_back(key: bytes, comment: str) -> None:
    assert read_public_key(write_public_key(key, comment)) == (key, comment.strip())


@given(st.binary(max_size=300))
def test_every_block_reads_back(data: bytes) -> None:
    ((label, body, _),), rest = split_blocks(write_block("A LABEL 1", data))
    assert (label, read_base64(body), rest.strip()) == ("A LABEL 1", data, "")


@given(st.text("-BEGIN STEAMDATGRCO\n\tAa=0#", max_size=300))
@example("-----BEGIN STEAMDATAGRAM CERT----------END STEAMDATAGRAM CERT-----")
def test_no_text_does_worse_than_to_be_refused(text: str) -> None:
    try:
        for _, body, _ in split_blocks(text)[0]:
            read_certificate(body)
    except WireError:
        return


# Fields that nobody heeds


def test_unknown_fields_are_found_by_their_numbers() -> None:
    cert = encode_certificate(Certificate(KEY_TYPE_ED25519, KEY, write_identity(Identity.of("alice")), 1, 2, (0,), (3,)))
    assert unknown_certificate_fields(cert) == ()
    with_addresses = cert + b"\x6a\x09192.0.2.1"
    assert unknown_certificate_fields(with_addresses) == (13,)
    assert unknown_certificate_fields(with_addresses + b"\x18\x05\xa1\x06" + bytes(8) + b"\xa5\x06" + bytes(4)) == (3, 13, 100)


@pytest.mark.parametrize("tail", [b"\x6a\x09192", b"\x6a", b"\xff" * 11, b"\x6b\x6c", b"\x6d\0", b"\x69\0"])
def test_fields_that_cannot_be_told_apart_are_an_error(tail: bytes) -> None:
    with pytest.raises(WireError):
        unknown_certificate_fields(b"\x08\x01" + tail)


@given(st.binary(max_size=100))
def test_no_bytes_do_worse_than_that(data: bytes) -> None:
    try:
        assert all(number > 0 or data for number in unknown_certificate_fields(data))
    except WireError:
        return
