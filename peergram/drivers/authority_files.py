"""The files of authorities: what peers read (`load_authorities`, `load_certificate`) and the folder in which an authority works.

    authority.key    its private key, for the owner only: the form that the reference's certificate tool and ssh-keygen read
    authority.txt    what peers are given: roots, the certificate if it is no root itself, and the keys it has revoked
    issued.txt       one line for each certificate it made, for people

Every defect of a file is a UsageError with its name. Nothing that exists is ever written over.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from peergram.config import AUTHORITY_FILE_BYTES_MAX
from peergram.crypto.authority_text import AuthorityText, parse_key_name, read_authority_text
from peergram.crypto.key_text import read_any_public_key, read_private_key, write_private_key
from peergram.crypto.keys import SigningKey, fingerprint, key_id
from peergram.crypto.trust import Scope, TrustStore
from peergram.drivers import private_files
from peergram.errors import UsageError, WireError
from peergram.identity import Identity
from peergram.wire.certificate_text import (
    CERTIFICATE_LABEL,
    REQUEST_LABEL,
    read_certificate,
    read_request,
    split_blocks,
    write_certificate,
    write_public_key,
)
from peergram.wire.certificates import (
    Certificate,
    SignedCertificate,
    StoredCertificate,
    decode_certificate,
    decode_certificate_request,
    decode_stored_certificate,
    read_identity,
)

KEY_FILE: Final = "authority.key"
PUBLIC_FILE: Final = "authority.txt"
ISSUED_FILE: Final = "issued.txt"

_PUBLIC_HEAD = """\
# Who is trusted to say which key belongs to which name. Peers read this file: give it to them, and again after each change.
"""
_ISSUED_HEAD = """\
# Certificates made here: when, until when, for which key, apps, and for whom.
"""
_BLOCK_BEGINS = re.compile(rb"^[ \t]*-{1,32}[ \t]*BEGIN[ \t]", re.MULTILINE)
_REVOKED_REMARK = "revoked"

Source = str | os.PathLike[str]


# What peers read


def load_authorities(paths: Iterable[Source] | Source) -> TrustStore:
    """The roots, further authorities and revoked keys of these files; for a folder, of the authority's file in it.

    Raises UsageError if a file cannot be read, or any line of it cannot, or if no root is left.
    """
    store = TrustStore()
    named = [Path(paths)] if isinstance(paths, str | os.PathLike) else [Path(path) for path in paths]
    for path in named:
        file = path / PUBLIC_FILE if path.is_dir() else path
        read_authorities(file).put_into(store)
    if not store.root_ids:
        files = ", ".join(repr(str(path)) for path in named) or "no file"
        raise UsageError(f"there is no root in {files}: a line that begins with 'ssh-ed25519', as 'peergram ca init' makes it")
    return store


def read_authorities(path: Path) -> AuthorityText:
    """What one file says. Raises UsageError."""
    try:
        return read_authority_text(_text_of(_read(path)))
    except UsageError as error:
        raise UsageError(f"authorities in {str(path)!r}: {error}") from None


def load_certificates(path: Source) -> list[StoredCertificate]:
    """All certificates in a file: blocks of text, or the bytes of one. Raises UsageError.

    A file with a private key in it must be the owner's alone, and the key that of the certificate.
    """
    path = Path(path)
    try:
        data = _read(path)
        found = _parse_certificates(data)
        if any(stored.private_key is not None for stored in found):
            _check_private(path)
        for stored in found:
            _private_key_of(stored)
    except (UsageError, WireError) as error:
        raise UsageError(f"certificate {str(path)!r}: {error}") from None
    return found


def load_certificate(path: Source, identity: Identity | None = None) -> tuple[SignedCertificate, SigningKey | None]:
    """The certificate in a file, and the private key if it is in there too.

    Of several, the one of `identity`. Raises UsageError.
    """
    found = load_certificates(path)
    if identity is not None:
        found = [stored for stored in found if _identity_of(stored) == identity]
        if not found:
            raise UsageError(f"certificate {str(path)!r}: it is not for {identity.printable}")
    if len(found) > 1:
        raise UsageError(
            f"certificate {str(path)!r}: it holds {len(found)} certificates, and it is not said for whom one is wanted"
        )
    return found[0].signed, _private_key_of(found[0])


def load_request(path: Source) -> Certificate:
    """What a request asks for: a block of text, or the bytes that `GetCertificateRequest` gives. Raises UsageError."""
    path = Path(path)
    try:
        data = _read(path)
        if not _is_text(data):
            return decode_certificate_request(data)
        blocks, rest = split_blocks(_text_of(data))
        if [label for label, _, _ in blocks] != [REQUEST_LABEL] or rest.strip():
            raise UsageError(f"it must hold one {REQUEST_LABEL!r} and nothing else")
        return read_request(blocks[0][1])
    except (UsageError, WireError) as error:
        raise UsageError(f"request {str(path)!r}: {error}") from None


def load_public_key(path: Source) -> bytes:
    """The public key in a file of any usual form; of a private key, its public half. Raises UsageError."""
    try:
        return read_any_public_key(_text_of(_read(Path(path))))
    except UsageError as error:
        raise UsageError(f"key {str(path)!r}: {error}") from None


# An authority's folder


@dataclass(slots=True)
class Authority:
    """An authority at work in its folder."""

    folder: Path
    key: SigningKey = field(repr=False)
    public: AuthorityText
    scope: Scope
    """What it may vouch for."""

    @property
    def is_root(self) -> bool:
        """Whether peers trust its key by itself."""
        return any(key == self.key.public_bytes for key, _ in self.public.roots)

    def note_issued(self, certificate: Certificate) -> None:
        """Write down what was issued, for people and for `keys_of`."""
        identity = read_identity(certificate.identity_fields)
        who = "(an authority)" if identity is None else identity.printable
        apps = ",".join(str(app_id) for app_id in certificate.app_ids) or "all"
        times = f"{date_text(certificate.time_created)}  {date_text(certificate.time_expiry)}"
        _append(self.folder / ISSUED_FILE, f"{times}  {fingerprint(certificate.key_data)}  {apps}  {who}\n", _ISSUED_HEAD)

    def keys_of(self, identity: Identity) -> list[str]:
        """Fingerprints of the keys that this identity has certificates of ours for, oldest first."""
        try:
            text = _text_of(_read(self.folder / ISSUED_FILE))
        except UsageError:
            return []
        rows = [line.split(None, 4) for line in text.splitlines() if not line.startswith("#")]
        return list(dict.fromkeys(row[2] for row in rows if len(row) > 4 and row[4] == identity.printable))

    def revoke(self, key_name: str, remark: str, now_s: float) -> bool:
        """Never trust this key again, named by fingerprint or id; False if that was so already."""
        revoked = parse_key_name(key_name)
        if revoked is None:
            raise UsageError(f"{key_name!r} is neither a fingerprint ('SHA256:…') nor a key's id")
        if any(revoked == known for known, _ in self.public.revoked):
            return False
        note = " ".join(f"{_REVOKED_REMARK} {date_text(now_s)} {remark}".split())
        _append(self.folder / PUBLIC_FILE, f"{key_name} {note}\n", _PUBLIC_HEAD)
        self.public.revoked.append((revoked, note))
        return True


def make_authority(
    folder: Path,
    key: SigningKey,
    *,
    comment: str = "",
    above: AuthorityText | None = None,
    signed: SignedCertificate | None = None,
) -> Authority:
    """A new folder for this key: a root's, or of one whose certificate is `signed` and whose authorities are `above`.

    Raises UsageError if an authority works there already, or nothing can be written.
    """
    name = " ".join((comment, f"ID{key_id(key.public_bytes)}")).strip()
    if signed is None:
        text = f"{_PUBLIC_HEAD}{write_public_key(key.public_bytes, name)}\n"
    else:
        assert above is not None
        text = _PUBLIC_HEAD + _text_of_authorities(above) + write_certificate(StoredCertificate(signed))
    private = write_private_key(key, name)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"the folder {str(folder)!r} cannot be made: {error.strerror or error}") from None
    for file in (KEY_FILE, PUBLIC_FILE):
        if os.path.lexists(folder / file):
            raise UsageError(f"there is an authority in {str(folder)!r} already: take another folder, or move that one away")
    write_new(folder / KEY_FILE, private.encode(), is_private=True)
    write_new(folder / PUBLIC_FILE, text.encode(), is_private=False)
    return open_authority(folder)


def open_authority(folder: Path) -> Authority:
    """The authority that works in this folder. Raises UsageError, also if its file of what peers trust does not trust it."""
    path = folder / KEY_FILE
    if not folder.is_dir() or not os.path.lexists(path):
        raise UsageError(f"there is no authority in {str(folder)!r}: 'peergram ca init {shlex.quote(str(folder))}' makes one")
    key = load_authority_key(path)
    public = read_authorities(folder / PUBLIC_FILE)
    store = TrustStore()
    public.put_into(store)
    scope = store.scope_of(key_id(key.public_bytes))
    if isinstance(scope, str):
        raise UsageError(f"the authority in {str(folder)!r} is not trusted by its own {PUBLIC_FILE}: {scope}")
    return Authority(folder, key, public, scope)


def load_authority_key(path: Path) -> SigningKey:
    """An authority's private key. Raises UsageError, also if others may read it."""
    try:
        data = _read(path, follow=False)
        _check_private(path)
        return read_private_key(_text_of(data))
    except UsageError as error:
        raise UsageError(f"key {str(path)!r}: {error}") from None


def write_new(path: Path, content: bytes, *, is_private: bool) -> None:
    """Write a file that is not there yet, whole or not at all. Raises UsageError."""
    try:
        private_files.write_new(path, content, 0o600 if is_private else 0o644)
    except FileExistsError:
        raise UsageError(
            f"{str(path)!r} exists already, and nothing is written over: take another name, or move it away"
        ) from None
    except OSError as error:
        raise UsageError(f"{str(path)!r} cannot be written: {error.strerror or error}") from None


def date_text(unix_s: float) -> str:
    """`2026-11-26T23:45Z`."""
    return f"{datetime.fromtimestamp(unix_s, UTC):%Y-%m-%dT%H:%MZ}"


def _parse_certificates(data: bytes) -> list[StoredCertificate]:
    if not _is_text(data):
        return [decode_stored_certificate(data)]
    blocks, rest = split_blocks(_text_of(data))
    # The reference's tool says underneath, behind '#', what is in a certificate.
    stray = [line for line in rest.splitlines() if line.strip() and not line.startswith("#")]
    if not blocks or stray:
        raise UsageError(f"it must hold {CERTIFICATE_LABEL!r} and nothing else")
    found = []
    for label, body, number in blocks:
        if label != CERTIFICATE_LABEL:
            raise UsageError(f"line {number}: it holds {label!r}, where {CERTIFICATE_LABEL!r} is needed")
        found.append(read_certificate(body))
    return found


def _private_key_of(stored: StoredCertificate) -> SigningKey | None:
    certificate = decode_certificate(stored.signed.cert)
    if stored.private_key is None:
        return None
    key = SigningKey(stored.private_key)
    if key.public_bytes != certificate.key_data:
        raise UsageError("the private key beside it is not the one that it is about")
    return key


def _identity_of(stored: StoredCertificate) -> Identity | None:
    try:
        return read_identity(decode_certificate(stored.signed.cert).identity_fields)
    except WireError:
        return None


def _text_of_authorities(public: AuthorityText) -> str:
    roots = "".join(f"{write_public_key(key, comment)}\n" for key, comment in public.roots)
    return roots + "".join(write_certificate(StoredCertificate(signed)) for signed in public.certificates)


# Files


def _read(path: Path, *, follow: bool = True) -> bytes:
    """A regular file's whole content, never waiting for a pipe."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    if not follow:
        flags |= getattr(os, "O_NOFOLLOW", 0)
        if path.is_symlink():
            raise UsageError("it is a link; a private key must be a file of its own")
    try:
        file = os.open(path, flags)
        with os.fdopen(file, "rb") as stream:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise UsageError("it is no file")
            data = stream.read(AUTHORITY_FILE_BYTES_MAX + 1)
    except IsADirectoryError:
        raise UsageError("it is a folder") from None
    except OSError as error:
        raise UsageError(f"it cannot be read: {error.strerror or error}") from None
    if len(data) > AUTHORITY_FILE_BYTES_MAX:
        raise UsageError(f"it is longer than {AUTHORITY_FILE_BYTES_MAX} bytes")
    if not data.strip():
        raise UsageError("it is empty")
    return data


def _check_private(path: Path) -> None:
    if sys.platform != "win32" and path.stat().st_mode & 0o077:
        command = f"chmod 600 {shlex.quote(str(path))}"
        raise UsageError(f"others may read the private key in it; what they have seen is known to them. To go on: {command}")


def _append(path: Path, line: str, head: str) -> None:
    """In one write, so that several programs may do it at once."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            if os.fstat(file).st_size == 0:
                line = head + line
            else:
                os.lseek(file, -1, os.SEEK_END)
                if os.read(file, 1) != b"\n":
                    line = "\n" + line
            os.write(file, line.encode("utf-8", "replace"))
        finally:
            os.close(file)
    except OSError as error:
        raise UsageError(f"{str(path)!r} cannot be written: {error.strerror or error}") from None


def _is_text(data: bytes) -> bool:
    return _BLOCK_BEGINS.search(data) is not None


def _text_of(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise UsageError("it is not text") from None
