"""Both roles of a handshake whose hellos travel in signals: certificates and key agreement, and nothing else.

Wire protocol, part 3, chapters 5 and 6. There is no challenge, no address and no retry here: the signaling service carries the
hellos, and `signaling/` repeats them. What the two sides must prove to each other is the same as over plain UDP.

An answer that does not hold is as good as none, since a lying service must not end a call that the real peer would answer; the
same answer in interval after interval is what the peer says.
"""

from __future__ import annotations

from peergram.config import BAD_ANSWERS_MAX, CONNECT_RETRY_US, Config
from peergram.connection.handshake import (
    Established,
    LocalCredentials,
    LocalCrypt,
    PingSamples,
    Refused,
    accept_claims,
    agree,
    establish,
    impostor_of,
    is_connection_id,
    local_crypt_info,
)
from peergram.connection.peer_checks import PEER_CHECKS, Failed, PeerClaims, ciphers_of_option, run_checks
from peergram.crypto.keys import AgreementKey, Entropy, fingerprint
from peergram.errors import EndReason
from peergram.identity import Identity
from peergram.timing import Deadline
from peergram.wire.certificates import SignedCertificate, SignedCryptInfo


class SignaledClientHandshake:
    """One call by identity. `cert` and `crypt` are what its request says; `outcome` is None while under way, then final."""

    __slots__ = (
        "_bad_answer",
        "_bad_counted_at_us",
        "_bad_times",
        "_config",
        "_credentials",
        "_local",
        "_until_us",
        "_wall_s",
        "cert",
        "connection_id",
        "crypt",
        "outcome",
        "peer_connection_id",
        "peer_identity",
    )

    def __init__(
        self,
        credentials: LocalCredentials,
        config: Config,
        connection_id: int,
        entropy: Entropy,
        now_us: int,
        *,
        peer_identity: Identity,
        wall_s: int = 0,
    ) -> None:
        """`peer_identity` is the only one that may answer; `wall_s` (Unix time) matters to authorities only."""
        assert is_connection_id(connection_id)
        self.connection_id = connection_id
        self.peer_connection_id = 0
        self.peer_identity = peer_identity
        self.outcome: Established | Failed | None = None
        self._credentials = credentials
        self._config = config
        self._wall_s = wall_s
        self._until_us = now_us + config.timeout_initial_us
        self._local: LocalCrypt | None = local_crypt_info(
            credentials,
            AgreementKey.generate(entropy),
            ciphers_of_option(config.unencrypted),
            entropy,
            connection_id=connection_id,
        )
        """None once it is over."""
        self.cert: SignedCertificate = credentials.signed_certificate
        self.crypt: SignedCryptInfo = self._local.signed
        self._bad_answer: tuple[SignedCertificate, SignedCryptInfo, int] | None = None
        self._bad_times = 0
        self._bad_counted_at_us = 0

    def poll_timeout(self) -> Deadline | None:
        """When it has taken too long."""
        return None if self.outcome is not None else Deadline(self._until_us, "connect timeout")

    def handle_timeout(self, now_us: int) -> None:
        """Give up, if it is time."""
        if self.outcome is None and now_us >= self._until_us:
            self._finish(Failed(EndReason.MISC_TIMEOUT, "Timed out attempting to connect"))

    def handle_connect_ok(self, cert: SignedCertificate, crypt: SignedCryptInfo, server_connection_id: int, now_us: int) -> None:
        """The peer accepts: check who says so, and derive the keys."""
        if self.outcome is not None:
            return
        assert self._local is not None, "not over"
        claims = PeerClaims(
            cert=cert,
            crypt=crypt,
            identity=self.peer_identity,
            connection_id=server_connection_id,
            trust=self._credentials.trust,
            wall_s=self._wall_s,
            peer_is_server=True,
            local_ciphers=ciphers_of_option(self._config.unencrypted),
        )
        failed = run_checks(PEER_CHECKS, claims) or agree(claims, self._local.agreement_key)
        if failed is not None:
            self._note_bad_answer((cert, crypt, server_connection_id), failed, now_us)
            return
        self.peer_connection_id = server_connection_id
        self._finish(
            establish(
                claims,
                self._credentials,
                self._local,
                local_connection_id=self.connection_id,
                peer_connection_id=server_connection_id,
                pings=PingSamples(),
            )
        )

    def _note_bad_answer(self, answer: tuple[SignedCertificate, SignedCryptInfo, int], failed: Failed, now_us: int) -> None:
        if answer != self._bad_answer:
            self._bad_answer, self._bad_times = answer, 0
        elif now_us < self._bad_counted_at_us + CONNECT_RETRY_US // 2:
            return
        self._bad_counted_at_us = now_us
        self._bad_times += 1
        if self._bad_times >= BAD_ANSWERS_MAX:
            self.peer_connection_id = answer[2]
            self._finish(failed)

    def _finish(self, outcome: Established | Failed) -> None:
        self.outcome = outcome
        self._local = self._bad_answer = None


class SignaledServerHandshake:
    """A caller whose certificate holds, waiting to be accepted; afterwards `cert` and `crypt` are what the connect ok says."""

    __slots__ = (
        "_accept_until_us",
        "_claims",
        "_credentials",
        "capabilities",
        "cert",
        "client_connection_id",
        "crypt",
        "peer_identity",
        "peer_key",
        "proven_by",
    )

    def __init__(self, claims: PeerClaims, credentials: LocalCredentials, config: Config, now_us: int) -> None:
        """For `check_signaled_request` only."""
        self.client_connection_id = claims.connection_id
        self.peer_identity = claims.identity
        """Who asks."""
        self.peer_key = claims.certificate.key_data
        """The Ed25519 key of his certificate, 32 bytes."""
        self.proven_by = claims.proven_by
        """What makes his identity more than a claim."""
        self.capabilities = claims.info.capabilities
        """None for a peer that is not of this library."""
        self.cert: SignedCertificate = credentials.signed_certificate
        self.crypt: SignedCryptInfo | None = None
        """Our half of the key agreement; None before accepting."""
        self._claims: PeerClaims | None = claims
        self._credentials = credentials
        self._accept_until_us = now_us + config.timeout_initial_us

    @property
    def peer_fingerprint(self) -> str:
        """His key for people to compare."""
        return fingerprint(self.peer_key)

    def poll_timeout(self) -> Deadline | None:
        """When the application has let him wait for too long; None once accepted."""
        return None if self.crypt is not None else Deadline(self._accept_until_us, "accept timeout")

    def handle_timeout(self, now_us: int) -> Failed | None:
        """Why it ends now, if the application let him wait for too long."""
        if self.crypt is not None or now_us < self._accept_until_us:
            return None
        return Failed(EndReason.MISC_TIMEOUT, "App did not respond; discarding.")

    def accept(self, connection_id: int, entropy: Entropy, now_us: int) -> Established | Failed:
        """Choose the cipher, make our keys, derive the session's. The client is told of a failure."""
        claims = self._claims
        assert claims is not None, "accepted once"
        too_late = self.handle_timeout(now_us)
        if too_late is not None:
            return too_late
        accepted = accept_claims(claims, self._credentials, entropy, local_connection_id=connection_id, pings=PingSamples())
        if isinstance(accepted, Failed):
            return accepted
        self._claims, self.crypt = None, accepted[1]
        return accepted[0]


def check_signaled_request(
    cert: SignedCertificate,
    crypt: SignedCryptInfo,
    identity: Identity,
    client_connection_id: int,
    credentials: LocalCredentials,
    config: Config,
    now_us: int,
    wall_s: int,
) -> SignaledServerHandshake | Refused:
    """Whether a caller may be shown to the application; `identity` is whom the signal says it comes from."""
    claims = PeerClaims(
        cert=cert,
        crypt=crypt,
        identity=identity,
        connection_id=client_connection_id,
        trust=credentials.trust,
        wall_s=wall_s,
        local_ciphers=ciphers_of_option(config.unencrypted),
    )
    failed = run_checks(PEER_CHECKS, claims)
    if failed is not None:
        return Refused(failed.debug, impostor_of(claims, failed))
    return SignaledServerHandshake(claims, credentials, config, now_us)
