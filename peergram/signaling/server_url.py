"""The address of a signaling server as people pass it on: `wss://HOST:PORT/#sha256=FINGERPRINT`.

The fingerprint is the SHA-256 of the server's certificate. With it a client trusts that very certificate and no other, whatever
names stand in it; without it the certificate must be one that the system trusts for the host.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from peergram.address import canonical_address, format_address, is_loopback
from peergram.config import SERVE_PORT, SERVER_URL_BYTES_MAX, SERVER_URLS_MAX
from peergram.errors import UsageError

_EXAMPLE = "wss://chat.example.org or wss://192.0.2.7:27180/#sha256=0123..."
_LABEL = re.compile(r"[a-z0-9_][a-z0-9_-]{0,62}")
_PATH = re.compile(r"(/[A-Za-z0-9._~!$&'()*+,;=:@%-]*)+")
_BETWEEN = re.compile(r" *, *(?=wss?://)")
_FINGERPRINT = re.compile(r"sha256=([0-9a-fA-F]{64})")


@dataclass(frozen=True, slots=True)
class ServerUrl:
    """`host` is canonical: a numeric address as `peergram.address` writes it, or a name in lower case."""

    is_secure: bool
    host: str
    port: int
    path: str = "/"
    fingerprint: bytes | None = None

    @property
    def is_loopback(self) -> bool:
        """Whether the server is on this machine, so that nobody can listen in between."""
        try:
            return self.host == "localhost" or is_loopback((self.host, 0))
        except UsageError:
            return False

    @property
    def connect_text(self) -> str:
        """Without the fingerprint, as it is dialed."""
        scheme = "wss" if self.is_secure else "ws"
        return f"{scheme}://{format_address((self.host, self.port))}{self.path}"

    def __str__(self) -> str:
        pin = f"#sha256={self.fingerprint.hex()}" if self.fingerprint is not None else ""
        return self.connect_text + pin


def parse_server_url(text: str) -> ServerUrl:
    """Read what a person types or a client claims; raises UsageError that says what would be right."""
    if len(text) > SERVER_URL_BYTES_MAX or not text.isascii() or not text.isprintable() or " " in text:
        raise UsageError(f"the address of a server is a short text such as {_EXAMPLE}")
    try:
        parts = urlsplit(text)
        port = parts.port
        host = parts.hostname or ""
    except ValueError as error:
        raise UsageError(f"{text!r} is not the address of a server ({error}): write it as {_EXAMPLE}") from None
    if parts.scheme not in ("ws", "wss") or not host or "@" in parts.netloc or parts.query:
        raise UsageError(f"{text!r} is not the address of a server: write it as {_EXAMPLE}")
    is_secure = parts.scheme == "wss"
    path = parts.path or "/"
    if not _PATH.fullmatch(path):
        raise UsageError(f"{text!r}: the path has characters that do not belong there")
    if port is None:
        # Of a server behind a web server's name; the pinned kind is always written with its port by `peergram serve`.
        port = SERVE_PORT if parts.fragment else (443 if is_secure else 80)
    return ServerUrl(is_secure, _canonical(host, text), port, path, _pin(parts.fragment, is_secure, text))


def parse_server_urls(text: str | Sequence[str]) -> tuple[ServerUrl, ...]:
    """One or several of them, with commas between or as a sequence; raises UsageError.

    A comma may stand within a path, so only one before another address counts.
    """
    texts = _BETWEEN.split(text) if isinstance(text, str) else list(text)
    if not 0 < len(texts) <= SERVER_URLS_MAX:
        raise UsageError(f"{len(texts)} addresses of servers: give 1 to {SERVER_URLS_MAX}")
    return tuple(dict.fromkeys(parse_server_url(each) for each in texts))


def _canonical(host: str, text: str) -> str:
    if ":" in host or host.replace(".", "").isdigit():
        return canonical_address(host, 0)[0]
    host = host.removesuffix(".")
    # Label by label: one pattern for all of them would take for ever over names that almost match.
    if not all(_LABEL.fullmatch(label) for label in host.split(".")):
        raise UsageError(f"{text!r}: {host!r} is not the name of a host")
    return host


def _pin(fragment: str, is_secure: bool, text: str) -> bytes | None:
    if not fragment:
        return None
    match = _FINGERPRINT.fullmatch(fragment)
    if match is None or not is_secure:
        raise UsageError(f"{text!r}: behind the # of a wss:// address stands sha256= and 64 hexadecimal digits, or nothing")
    return bytes.fromhex(match[1])
