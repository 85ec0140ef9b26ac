"""The text by which a peer knows its authorities: one file for roots, further authorities and revoked keys, in any order.

    # comment
    ssh-ed25519 AAAA… comment            a root: its key is trusted for everything
    -----BEGIN STEAMDATAGRAM CERT-----   the certificate of a further authority
    SHA256:… remark                      a key that is never trusted again, by its fingerprint
    ID123 remark                         the same by the number that certificates name keys by; `ID` may be left out

What cannot be read is an error, always: a revocation that was skipped would let somebody in.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass, field

from peergram.config import AUTHORITY_FILE_PROBLEMS_MAX
from peergram.crypto.keys import is_weak_key
from peergram.crypto.trust import TrustStore
from peergram.errors import UsageError, WireError
from peergram.wire.certificate_text import CERTIFICATE_LABEL, SSH_KEY_TYPE, read_certificate, read_public_key, split_blocks
from peergram.wire.certificates import SignedCertificate

_KEY_ID = re.compile(r"(?:ID)?([0-9]{1,20})")
_FINGERPRINT_PREFIX = "SHA256:"
_SHOWN_CHARACTERS = 40


@dataclass(slots=True)
class AuthorityText:
    """What a file says. Whether its certificates hold is decided by a `TrustStore`."""

    roots: list[tuple[bytes, str]] = field(default_factory=list)
    """Keys and comments."""
    certificates: list[SignedCertificate] = field(default_factory=list)
    revoked: list[tuple[int, str]] = field(default_factory=list)
    """Ids of keys, and remarks."""

    def put_into(self, store: TrustStore) -> None:
        """Make the store trust and distrust what this says; raises UsageError for a certificate that no authority can have."""
        for key, _ in self.roots:
            store.add_root(key)
        for signed in self.certificates:
            store.add_authority(signed)
        for revoked, _ in self.revoked:
            store.revoke(revoked)


def read_authority_text(text: str) -> AuthorityText:
    """Read a whole file; raises UsageError that names the lines which are wrong, for the end of a sentence."""
    try:
        blocks, rest = split_blocks(text)
    except WireError as error:
        raise UsageError(str(error)) from None
    found, problems = AuthorityText(), []
    for label, body, number in blocks:
        try:
            found.certificates.append(_read_block(label, body))
        except (WireError, UsageError) as error:
            problems.append((number, str(error)))
    for number, line in enumerate(rest.split("\n"), 1):
        try:
            _read_line(found, line.strip())
        except (WireError, UsageError) as error:
            problems.append((number, str(error)))
    if problems:
        told = [f"line {number}: {problem}" for number, problem in sorted(problems)[:AUTHORITY_FILE_PROBLEMS_MAX]]
        if len(problems) > len(told):
            told.append(f"and {len(problems) - len(told)} more lines")
        raise UsageError("; ".join(told))
    return found


def parse_key_name(word: str) -> int | None:
    """The id of the key that a fingerprint, or an id in decimal digits, names; None if it is neither."""
    found = _KEY_ID.fullmatch(word)
    if found is not None and 0 < int(found[1]) < 1 << 64:
        return int(found[1])
    if not word.startswith(_FINGERPRINT_PREFIX):
        return None
    try:
        digest = base64.b64decode(word.removeprefix(_FINGERPRINT_PREFIX) + "=", validate=True)
    except (binascii.Error, ValueError):
        return None
    # A fingerprint shows the whole of the hash that the id is the beginning of.
    return int.from_bytes(digest[:8], "little") if len(digest) == hashlib.sha256().digest_size else None


def _read_block(label: str, body: str) -> SignedCertificate:
    if label != CERTIFICATE_LABEL:
        raise UsageError(f"a block {label!r}; only {CERTIFICATE_LABEL!r} belongs here")
    stored = read_certificate(body)
    if stored.private_key is not None:
        raise UsageError("this certificate has its private key beside it, which nobody else may see")
    # Tried here, so that the line can be named.
    TrustStore().add_authority(stored.signed)
    return stored.signed


def _read_line(found: AuthorityText, line: str) -> None:
    if not line or line.startswith("#"):
        return
    word, _, remark = line.partition(" ")
    if word == SSH_KEY_TYPE:
        key, comment = read_public_key(line)
        if is_weak_key(key):
            raise UsageError("this is a key under which anybody can sign")
        found.roots.append((key, comment))
    elif (revoked := parse_key_name(word)) is not None:
        found.revoked.append((revoked, remark.strip()))
    else:
        shown = "".join(c if c.isprintable() else "?" for c in line[:_SHOWN_CHARACTERS])
        raise UsageError(f"neither a root ('{SSH_KEY_TYPE} …') nor a revoked key ('SHA256:…' or its id): {shown!r}")
