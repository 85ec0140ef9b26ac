"""What certificates do at a server's door: who comes in may need one of an authority, and who is in may get one.

An authority that is demanded knows better than the server whose a name is: a name goes over to another key that it certifies.
What is issued holds no longer than the server keeps a name for its key, and is issued anew while its owner is here.
"""

from __future__ import annotations

from collections.abc import Callable

from peergram.config import LOGIN_CERTIFICATE_BYTES_MAX, SERVER_ISSUED_US
from peergram.crypto.authority import WHOLE_SCOPE, issue_certificate
from peergram.crypto.keys import SigningKey
from peergram.crypto.trust import Scope, TrustStore
from peergram.errors import UsageError, WireError
from peergram.identity import Identity
from peergram.signaling.websocket_protocol import Login
from peergram.wire.certificates import (
    decode_certificate,
    decode_signed_certificate,
    encode_signed_certificate,
    read_identity,
)

APP_ID = 0
"""What peers of this library use."""
_MICROSECONDS = 1_000_000


class LoginCertificates:
    """Demands certificates of `authorities`, and issues some with `issuer_key`, each where it is given."""

    def __init__(
        self,
        *,
        authorities: TrustStore | None = None,
        issuer_key: SigningKey | None = None,
        issuer_scope: Scope = WHOLE_SCOPE,
        issuer_store: TrustStore | None = None,
        wall_s: Callable[[], int] = lambda: 0,
    ) -> None:
        """`wall_s` tells the Unix time; `issuer_scope` is what the key may vouch for, `issuer_store` what it has revoked."""
        self._authorities = authorities
        self._issuer_key = issuer_key
        self._issuer_scope = issuer_scope
        self._issuer_store = issuer_store or TrustStore()
        self._wall_s = wall_s

    @property
    def are_demanded(self) -> bool:
        """Whether nobody comes in without one."""
        return self._authorities is not None

    @property
    def issues(self) -> bool:
        """Whether those who come in get one."""
        return self._issuer_key is not None

    def doubt_of(self, login: Login) -> str | None:
        """Why this login, whose signature holds, is not good enough; None if it is."""
        if self._authorities is None:
            return None
        if not login.certificate:
            return "this server takes only those whom its authority has certified, and you have shown no certificate"
        try:
            signed = decode_signed_certificate(login.certificate)
            certificate = decode_certificate(signed.cert)
            certified = read_identity(certificate.identity_fields)
        except WireError as error:
            return f"your certificate is none: {error}"
        verdict = self._authorities.check_leaf(signed, self._wall_s())
        if verdict.scope is None:
            return f"your certificate does not hold: {verdict.text}"
        if certified != login.identity:
            return f"your certificate is for {'nobody' if certified is None else certified.printable}"
        if certificate.key_data != login.public_key:
            return "your certificate is for another key"
        if APP_ID not in certificate.app_ids or not verdict.scope.allows_app(APP_ID):
            return f"your certificate is not for app {APP_ID}"
        return None

    def issue(self, identity: Identity, public_key: bytes) -> bytes | None:
        """A certificate for whom the server has just verified; None if it issues none, or cannot for him."""
        if self._issuer_key is None or self._issuer_store.is_revoked(public_key):
            # Peers that have not heard of it yet would believe a new one.
            return None
        now_s = self._wall_s()
        ends_s = [now_s + SERVER_ISSUED_US // _MICROSECONDS]
        if self._issuer_scope.expiry_s is not None:
            ends_s.append(self._issuer_scope.expiry_s)
        try:
            signed = issue_certificate(
                self._issuer_key,
                subject_key=public_key,
                identity=identity,
                app_ids=(APP_ID,),
                created_s=now_s,
                expires_s=min(ends_s),
                scope=self._issuer_scope,
            )
        except UsageError:
            # His key is the authority's own, or the authority's time is over: he is let in all the same.
            return None
        encoded = encode_signed_certificate(signed)
        return encoded if len(encoded) <= LOGIN_CERTIFICATE_BYTES_MAX else None
