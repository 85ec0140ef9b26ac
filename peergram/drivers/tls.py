"""The TLS side of a stream, without its socket: bytes of the network in and out, bytes of the core in and out.

A server proves itself as on the web, by a certificate of the wanted name that this machine trusts, or by the fingerprint of its
certificate, known beforehand.
"""

from __future__ import annotations

import hashlib
import hmac
import ssl
from functools import lru_cache

_READ_BYTES = 65_536


@lru_cache(1)
def trusting_context() -> ssl.SSLContext:
    """For servers with a certificate of the usual kind. The first call reads what this machine trusts: tens of milliseconds."""
    context = ssl.create_default_context()
    context.options |= ssl.OP_NO_RENEGOTIATION
    return context


@lru_cache(1)
def pinning_context() -> ssl.SSLContext:
    """For servers known by their certificate's fingerprint, which `TlsClient` checks."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class TlsClient:
    """One TLS session; after each call send what `take` returns, then look at `failure`. Never raises.

    `fingerprint` goes with `pinning_context`, None with `trusting_context`.
    """

    def __init__(self, context: ssl.SSLContext, name: str, fingerprint: str | None) -> None:
        self.is_ready = False
        """Whether the server has proved itself: only then `write`."""
        self.failure: str | None = None
        """How it ended, as the end of a sentence that begins with the server."""
        self._name = name
        self._fingerprint = None if fingerprint is None else fingerprint.replace(":", "").lower()
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        try:
            self._session = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        except (ssl.SSLError, ValueError, TypeError) as error:
            self.failure = f"cannot be asked for a certificate of {name!r}: {error}"
            return
        self.receive(b"")

    def receive(self, data: bytes) -> bytes:
        """Take bytes of the network; what they held for the core."""
        self._incoming.write(data)
        pieces: list[bytes] = []
        try:
            if not self.is_ready:
                self._session.do_handshake()
                self._check_fingerprint()
                self.is_ready = self.failure is None
            while self.failure is None:
                piece = self._session.read(_READ_BYTES)
                if not piece:
                    self.failure = "ended the TLS session"
                pieces.append(piece)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self.failure = self._describe(error)
        return b"".join(pieces)

    def write(self, data: bytes) -> None:
        """Encrypt bytes of the core."""
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._session.write(rest) :]
        except ssl.SSLError as error:
            self.failure = self._describe(error)

    def end(self) -> None:
        """Say that nothing more follows."""
        try:
            self._session.unwrap()
        except ssl.SSLError:
            # It waits for the other side's word, which we do not need.
            return

    def take(self) -> bytes:
        """What the network must carry now."""
        return self._outgoing.read()

    def _check_fingerprint(self) -> None:
        if self._fingerprint is None:
            return
        certificate = self._session.getpeercert(binary_form=True) or b""
        actual = hashlib.sha256(certificate).hexdigest()
        if not hmac.compare_digest(actual.encode(), self._fingerprint.encode("utf-8", "replace")):
            self.failure = f"has a certificate with another fingerprint than expected: {actual}"

    def _describe(self, error: ssl.SSLError) -> str:
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"has no certificate for {self._name!r} that this machine trusts: {error.verify_message}"
        if isinstance(error, ssl.SSLZeroReturnError):
            return "ended the TLS session"
        return f"broke the TLS session ({(error.reason or 'unknown error').replace('_', ' ').lower()})"
