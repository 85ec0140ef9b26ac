"""The called side of a handshake over plain UDP: nothing kept and nothing expensive done before the caller's address is proven.

Wire protocol, part 1, chapters 6.2 and 6.3. Three steps, each the endpoint's to take: `answer_challenge_request` for strangers,
`check_connect_request` for those who bring the challenge back, and `ServerHandshake.accept` when the application wants them. What
is refused gets no answer; the sentence is for our log.
"""

from __future__ import annotations

from peergram.address import Address
from peergram.config import PROTOCOL_VERSION, Config
from peergram.connection.handshake import (
    Established,
    LocalCredentials,
    PingSamples,
    Refused,
    accept_claims,
    find_peer_identity,
    impostor_of,
)
from peergram.connection.peer_checks import PEER_CHECKS, Failed, PeerClaims, ciphers_of_option, run_checks
from peergram.crypto.cookie import ChallengeCookies
from peergram.crypto.keys import Entropy, fingerprint
from peergram.errors import EndReason, WireError
from peergram.timing import Deadline
from peergram.wire.certificates import SignedCryptInfo
from peergram.wire.control import ChallengeReply, ChallengeRequest, ConnectOk, ConnectRequest, encode_control

TIMESTAMP_AGE_US_MAX = 4_000_000
"""A request older than this is answered without its time stamp."""


def answer_challenge_request(message: ChallengeRequest, remote: Address, cookies: ChallengeCookies, now_us: int) -> bytes | None:
    """The ChallengeReply (26 bytes, for a request of 512) for a stranger; None if he names no connection. Keeps nothing."""
    if not message.connection_id:
        return None
    challenge = cookies.make(remote, message.connection_id, now_us)
    return encode_control(ChallengeReply(message.connection_id, challenge, message.my_timestamp, PROTOCOL_VERSION))


def check_connect_request(
    message: ConnectRequest,
    remote: Address,
    credentials: LocalCredentials,
    config: Config,
    now_us: int,
    wall_s: int,
    *,
    cookies: ChallengeCookies,
) -> ServerHandshake | Refused:
    """Whether a stranger who asks to connect may be shown to the application. The challenge is checked before anything else.

    The caller still has to refuse a second connection of the same (peer identity, client connection id), with reason 5001.
    """
    if not cookies.check(message.challenge, remote, message.client_connection_id, now_us):
        return Refused("the challenge is too old or not ours")
    if not message.client_connection_id:
        return Refused("the client names no connection")
    try:
        identity = find_peer_identity(message.cert, message.identity_fields, remote)
    except WireError as error:
        return Refused(str(error))
    claims = PeerClaims(
        cert=message.cert,
        crypt=message.crypt,
        identity=identity,
        connection_id=message.client_connection_id,
        trust=credentials.trust,
        wall_s=wall_s,
        local_ciphers=ciphers_of_option(config.unencrypted),
    )
    failed = run_checks(PEER_CHECKS, claims)
    if failed is not None:
        return Refused(failed.debug, impostor_of(claims, failed))
    return ServerHandshake(message, claims, credentials, config, now_us)


class ServerHandshake:
    """A proven stranger who waits to be accepted, and afterwards the ConnectOK to repeat for him.

    A repeated ChallengeRequest or ConnectRequest of the same `client_connection_id` is ignored before that and answered with
    `connect_ok` afterwards, whatever else it says.
    """

    __slots__ = (
        "_accept_until_us",
        "_claims",
        "_connection_id",
        "_credentials",
        "_my_timestamp",
        "_pings",
        "_requested_at_us",
        "_signed",
        "capabilities",
        "client_connection_id",
        "peer_identity",
        "peer_key",
        "proven_by",
    )

    def __init__(
        self, message: ConnectRequest, claims: PeerClaims, credentials: LocalCredentials, config: Config, now_us: int
    ) -> None:
        """For `check_connect_request` only."""
        self.client_connection_id = message.client_connection_id
        self.peer_identity = claims.identity
        """Who asks."""
        self.peer_key = claims.certificate.key_data
        """The Ed25519 key of his certificate, 32 bytes."""
        self.proven_by = claims.proven_by
        """What makes his identity more than a claim."""
        self.capabilities = claims.info.capabilities
        """None for a peer that is not of this library."""
        self._claims: PeerClaims | None = claims
        """None once accepted: thousands of sessions need not keep what only their hellos needed."""
        self._credentials = credentials
        self._my_timestamp = message.my_timestamp
        self._requested_at_us = now_us
        self._accept_until_us = now_us + config.timeout_initial_us
        self._connection_id = 0
        self._signed: SignedCryptInfo | None = None
        """Our half of the key agreement as we say it; None before accepting."""
        self._pings = PingSamples()
        if message.ping_est_ms is not None:
            self._pings.add_claimed(message.ping_est_ms, now_us)

    @property
    def peer_fingerprint(self) -> str:
        """His key for people to compare."""
        return fingerprint(self.peer_key)

    def poll_timeout(self) -> Deadline | None:
        """When to call `handle_timeout`; None once accepted."""
        return Deadline(self._accept_until_us, "accept timeout") if self._signed is None else None

    def handle_timeout(self, now_us: int) -> Failed | None:
        """The failure to close with, and to tell the client, if the application took too long."""
        if self._signed is not None or now_us < self._accept_until_us:
            return None
        return Failed(EndReason.MISC_TIMEOUT, "App didn't accept or close incoming connection in time.")

    def accept(self, connection_id: int, entropy: Entropy, now_us: int) -> Established | Failed:
        """Choose the cipher, make our keys, derive the session's; then send `connect_ok`. The client is told of a failure."""
        claims = self._claims
        assert claims is not None, "accepted once"
        too_late = self.handle_timeout(now_us)
        if too_late is not None:
            return too_late
        accepted = accept_claims(claims, self._credentials, entropy, local_connection_id=connection_id, pings=self._pings)
        if isinstance(accepted, Failed):
            return accepted
        self._connection_id = connection_id
        self._claims, self._signed = None, accepted[1]
        return accepted[0]

    def connect_ok(self, now_us: int) -> bytes:
        """The ConnectOK to send now, first or again: always the same keys, and the growing delay since the request for 4 s."""
        assert self._signed is not None, "accepted before"
        delay_us = now_us - self._requested_at_us
        is_timed = self._my_timestamp is not None and 0 <= delay_us < TIMESTAMP_AGE_US_MAX
        return encode_control(
            ConnectOk(
                client_connection_id=self.client_connection_id,
                server_connection_id=self._connection_id,
                your_timestamp=self._my_timestamp if is_timed else None,
                delay_time_us=delay_us if is_timed else None,
                cert=self._credentials.signed_certificate,
                crypt=self._signed,
                identity_fields=self._credentials.stated_identity,
            )
        )
