"""Certificates and public keys as text, as the reference's certificate tool writes and reads them.

A certificate is a block like those of PEM,

    -----BEGIN STEAMDATAGRAM CERT-----
    base64 of a StoredCertificate
    -----END STEAMDATAGRAM CERT-----

and a public key one line of OpenSSH's, `ssh-ed25519 AAAA… comment`. The reference ignores what stands around a block; here that
is the caller's to judge, and what is inside must be right. Every defect is a WireError.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final

from peergram.errors import WireError
from peergram.wire.certificates import (
    STORED_CERTIFICATE_BYTES_MAX,
    Certificate,
    StoredCertificate,
    decode_certificate_request,
    decode_stored_certificate,
    encode_certificate_request,
    encode_stored_certificate,
)
from peergram.wire.cursor import Cursor

CERTIFICATE_LABEL: Final = "STEAMDATAGRAM CERT"
REQUEST_LABEL: Final = "STEAMDATAGRAM CERT REQUEST"
"""Ours: the reference gives requests out as bytes only."""
SSH_KEY_TYPE: Final = "ssh-ed25519"
SSH_COMMENT_CHARACTERS_MAX: Final = 256
"""Room for every comment that people write; a longer one is a file of something else."""
_KEY_BYTES = 32
_LINE_CHARACTERS = 72
"""Of base64, as the reference breaks its lines."""
_BASE64_CHARACTERS_MAX = 2 * STORED_CERTIFICATE_BYTES_MAX
"""With room for ends of lines."""
_BLOCK = re.compile(
    r"^[ \t]*-{1,32}[ \t]*BEGIN[ \t]+([A-Z0-9 ]{1,64}?)[ \t]*-{1,32}([^-]*)-{1,32}[ \t]*END[ \t]+\1[ \t]*-{1,32}", re.MULTILINE
)
_STRAY = re.compile(r"[ \t]*-{1,32}[ \t]*(BEGIN|END)\b")


def write_certificate(stored: StoredCertificate) -> str:
    """The block of a certificate; it holds the private key if `stored` does."""
    return write_block(CERTIFICATE_LABEL, encode_stored_certificate(stored))


def read_certificate(body: str) -> StoredCertificate:
    """The certificate whose base64 is `body`."""
    return decode_stored_certificate(read_base64(body))


def write_request(wanted: Certificate) -> str:
    """The block of a request for a certificate like this one."""
    return write_block(REQUEST_LABEL, encode_certificate_request(wanted))


def read_request(body: str) -> Certificate:
    """The request whose base64 is `body`."""
    return decode_certificate_request(read_base64(body))


def split_blocks(text: str) -> tuple[list[tuple[str, str, int]], str]:
    """The blocks of a text, as (label, body, number of the first line), and the text without them, line for line as it was.

    A block that does not end is an error, and so is the end of one that has not begun.
    """
    blocks: list[tuple[str, str, int]] = []
    rest: list[str] = []
    at = 0
    for found in _BLOCK.finditer(text):
        blocks.append((found[1], found[2], 1 + text.count("\n", 0, found.start())))
        rest += (text[at : found.start()], "\n" * found[0].count("\n"))
        at = found.end()
    rest.append(text[at:])
    left = "".join(rest)
    for number, line in enumerate(left.split("\n"), 1):
        if _STRAY.match(line):
            raise WireError(f"line {number}: a block that is not whole: {line.strip()[:80]!r}")
    return blocks, left


def write_block(label: str, data: bytes) -> str:
    """PEM's look: base64 between two lines with the label."""
    body = base64.b64encode(data).decode("ascii")
    lines = [body[at : at + _LINE_CHARACTERS] for at in range(0, len(body), _LINE_CHARACTERS)]
    return "\n".join((f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""))


def read_base64(body: str) -> bytes:
    """Base64 with white space anywhere, as the reference's decoder takes it."""
    if len(body) > _BASE64_CHARACTERS_MAX:
        raise WireError(f"{len(body)} characters of base64, at most {_BASE64_CHARACTERS_MAX} are taken")
    try:
        return base64.b64decode("".join(body.split()), validate=True)
    except (binascii.Error, ValueError):
        raise WireError("what stands between BEGIN and END is not base64") from None


def write_public_key(public_key: bytes, comment: str = "") -> str:
    """One line of OpenSSH's, without its end."""
    blob = b"".join(len(part).to_bytes(4, "big") + part for part in (SSH_KEY_TYPE.encode(), public_key))
    return f"{SSH_KEY_TYPE} {base64.b64encode(blob).decode('ascii')} {comment}".rstrip()


def read_public_key(line: str) -> tuple[bytes, str]:
    """The key, 32 bytes, and the comment of one line of OpenSSH's."""
    words = line.strip().split(None, 2)
    if not words or words[0] != SSH_KEY_TYPE:
        raise WireError(f"a line for an Ed25519 key begins with {SSH_KEY_TYPE!r}, not {line.strip()[:20]!r}")
    comment = words[2] if len(words) > 2 else ""
    if len(comment) > SSH_COMMENT_CHARACTERS_MAX:
        raise WireError(f"a comment of {len(comment)} characters, at most {SSH_COMMENT_CHARACTERS_MAX} are taken")
    cursor = Cursor(read_base64(words[1] if len(words) > 1 else ""))
    kind, key = (cursor.take(cursor.integer(4, "big")) for _ in range(2))
    if kind != SSH_KEY_TYPE.encode() or len(key) != _KEY_BYTES or cursor.left:
        raise WireError("the base64 of the line does not hold an Ed25519 key")
    return key, comment
