"""The server's own certificate: made at the first start and kept, since clients pin its fingerprint; or one that was given."""

from __future__ import annotations

import os
import ssl
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from peergram.crypto.tls import make_tls_certificate, tls_fingerprint, tls_host_names
from peergram.errors import UsageError
from peergram.servers.private_files import make_private_folder, write_private

_CERTIFICATE_FILE, _KEY_FILE = "certificate.pem", "key.pem"


@dataclass(frozen=True, slots=True)
class ServerTls:
    """What a server shows its clients. A given certificate has `host_names`; our own is known by its fingerprint only."""

    context: ssl.SSLContext
    fingerprint: bytes
    host_names: tuple[str, ...]
    is_own: bool


def default_state_folder() -> Path:
    """Where the server keeps its certificate, unless told otherwise."""
    if sys.platform == "win32":
        base = Path(os.environ.get("APPDATA") or Path.home() / "AppData" / "Roaming")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return base / "peergram" / "serve"


def own_tls(folder: Path) -> ServerTls:
    """The certificate kept in `folder`, made if there is none. Raises UsageError if it cannot be read or written."""
    certificate, key = folder / _CERTIFICATE_FILE, folder / _KEY_FILE
    try:
        if not (certificate.exists() and key.exists()):
            make_private_folder(folder)
            made = make_tls_certificate(time.time())
            write_private(key, made.private_key)
            write_private(certificate, made.certificate)
    except OSError as error:
        raise UsageError(f"the server's certificate cannot be kept in {str(folder)!r}: {error.strerror or error}") from None
    return _load(certificate, key, is_own=True)


def given_tls(certificate: Path, key: Path) -> ServerTls:
    """A certificate that others issued, with its chain. Raises UsageError."""
    return _load(certificate, key, is_own=False)


def _load(certificate: Path, key: Path, *, is_own: bool) -> ServerTls:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        pem = certificate.read_bytes()
        fingerprint, host_names = tls_fingerprint(pem), tuple(tls_host_names(pem))
        context.load_cert_chain(certificate, key)
    except ssl.SSLError as error:
        raise UsageError(f"{str(certificate)!r} and {str(key)!r} do not belong together: {error.reason}") from None
    except OSError as error:
        raise UsageError(f"{str(error.filename or certificate)!r} cannot be read: {error.strerror or error}") from None
    return ServerTls(context, fingerprint, host_names, is_own)
