"""The calling side of a handshake over plain UDP: challenge, then connect request, until the server agrees or time is up.

Wire protocol, part 1, chapter 6.1. Whatever was lost, the repair is the same: half a second after the last request the challenge
is asked for again; the server answers with a new one, or with ConnectOK if it has accepted meanwhile. Key and nonce never change.
"""

from __future__ import annotations

from typing import Literal

from peergram.address import Address
from peergram.config import CONNECT_RETRY_US, PROTOCOL_VERSION, PROTOCOL_VERSION_MIN, Config
from peergram.connection.handshake import (
    Established,
    LocalCredentials,
    PingSamples,
    agree,
    establish,
    find_peer_identity,
    is_connection_id,
    local_crypt_info,
)
from peergram.connection.peer_checks import PEER_CHECKS, POLICY_ACCEPT, Failed, PeerClaims, ciphers_of_option, run_checks
from peergram.crypto.keys import AgreementKey, Entropy
from peergram.errors import EndReason, WireError
from peergram.identity import Identity
from peergram.timing import Deadline, TimerTable
from peergram.wire.control import ChallengeReply, ChallengeRequest, ConnectOk, ConnectRequest, encode_control

_RETRY = "connect retry"
_TIMEOUT = "connect timeout"
_U64_MASK = (1 << 64) - 1


class ClientHandshake:
    """One attempt to connect. After every `handle_*`: drain `poll_transmit`, look at `outcome`, re-arm from `poll_timeout`.

    `outcome` is None while under way; once it is set, nothing more is sent and everything is ignored. Hand in only what came from
    the address dialled. `peer_connection_id` is 0 until ConnectOK came; on failure the ConnectionClosed to the server names it.
    """

    __slots__ = (
        "_challenge",
        "_ciphers",
        "_config",
        "_credentials",
        "_expected_identity",
        "_local",
        "_next",
        "_peer_version",
        "_pings",
        "_replies_due",
        "_timers",
        "_wall_s",
        "connection_id",
        "outcome",
        "peer_connection_id",
    )

    def __init__(
        self,
        credentials: LocalCredentials,
        config: Config,
        connection_id: int,
        entropy: Entropy,
        now_us: int,
        *,
        expected_identity: Identity | None = None,
        wall_s: int = 0,
    ) -> None:
        """`expected_identity`, if given, is the only one that may answer; `wall_s` (Unix time) matters to authorities only."""
        assert is_connection_id(connection_id)
        self.connection_id = connection_id
        self.peer_connection_id = 0
        self.outcome: Established | Failed | None = None
        self._credentials = credentials
        self._config = config
        self._expected_identity = expected_identity
        self._wall_s = wall_s
        self._ciphers = ciphers_of_option(config.unencrypted)
        self._local = local_crypt_info(credentials, AgreementKey.generate(entropy), self._ciphers, entropy)
        self._pings = PingSamples()
        self._peer_version: int | None = None
        self._challenge: int | None = None
        self._replies_due = 0
        self._next: Literal["challenge request", "connect request"] | None = "challenge request"
        self._timers = TimerTable()
        self._timers.set(_TIMEOUT, now_us + config.timeout_initial_us)

    def poll_transmit(self, now_us: int) -> bytes | None:
        """The next datagram for the server, or None. It is stamped with `now_us`, so send it right away."""
        if self._next is None or self.outcome is not None:
            return None
        self._timers.set(_RETRY, now_us + CONNECT_RETRY_US)
        if self._next == "connect request" and self._challenge is not None:
            datagram = self._connect_request(self._challenge, now_us)
        else:
            self._replies_due += 1
            datagram = encode_control(ChallengeRequest(self.connection_id, now_us & _U64_MASK, PROTOCOL_VERSION))
        self._next = None
        return datagram

    def poll_timeout(self) -> Deadline | None:
        """When to call `handle_timeout`, or None when it is over."""
        return self._timers.next()

    def handle_timeout(self, now_us: int) -> None:
        """Repeat the challenge request, or give up."""
        for name in self._timers.pop_due(now_us):
            if name == _TIMEOUT:
                self._finish(Failed(EndReason.MISC_TIMEOUT, "Timed out attempting to connect"))
            else:
                self._next = "challenge request"

    def handle_challenge_reply(self, message: ChallengeReply, now_us: int) -> None:
        """Answer with the connect request; one reply per request is heard, so that replayed replies make us send nothing."""
        if self.outcome is not None or message.connection_id != self.connection_id or not self._replies_due:
            return
        self._replies_due -= 1
        if message.protocol_version < PROTOCOL_VERSION_MIN:
            self._finish(Failed(EndReason.MISC_GENERIC, "Peer is running old software and needs to be udpated"))
            return
        self._pings.add_elapsed(now_us - message.your_timestamp, now_us)
        self._peer_version = message.protocol_version
        self._challenge = message.challenge
        self._next = "connect request"

    def handle_connect_ok(self, message: ConnectOk, remote: Address, now_us: int) -> None:
        """Check who answered and derive the keys; sets `outcome` unless the packet is to be ignored."""
        if self.outcome is not None or message.client_connection_id != self.connection_id or self._challenge is None:
            return
        try:
            identity = find_peer_identity(message.cert, message.identity_fields, remote, POLICY_ACCEPT)
        except WireError:
            return
        if message.your_timestamp is not None:
            self._pings.add_elapsed(now_us - message.your_timestamp - (message.delay_time_us or 0), now_us)
        self.peer_connection_id = message.server_connection_id
        self._finish(self._judge(message, identity))

    def _judge(self, message: ConnectOk, identity: Identity) -> Established | Failed:
        if not message.server_connection_id & 0xFFFF:
            return Failed(EndReason.REMOTE_BAD_CRYPT, "Didn't send valid connection ID")
        claims = PeerClaims(
            cert=message.cert,
            crypt=message.crypt,
            identity=identity,
            trust=self._config.trust,
            wall_s=self._wall_s,
            earlier_version=self._peer_version,
            peer_is_server=True,
            local_ciphers=self._ciphers,
        )
        failed = self._not_whom_we_called(identity) or run_checks(PEER_CHECKS, claims) or agree(claims, self._local.agreement_key)
        return failed or establish(
            claims,
            self._credentials,
            self._local,
            local_connection_id=self.connection_id,
            peer_connection_id=message.server_connection_id,
            pings=self._pings,
        )

    def _not_whom_we_called(self, identity: Identity) -> Failed | None:
        expected = self._expected_identity
        if expected is None or identity == expected:
            return None
        return Failed(EndReason.REMOTE_BAD_CERT, f"Cert was issued to {identity.printable}, not {expected.printable}")

    def _connect_request(self, challenge: int, now_us: int) -> bytes:
        return encode_control(
            ConnectRequest(
                client_connection_id=self.connection_id,
                challenge=challenge,
                my_timestamp=now_us & _U64_MASK,
                ping_est_ms=self._pings.estimate_ms,
                cert=self._credentials.signed_certificate,
                crypt=self._local.signed,
                identity_fields=self._credentials.stated_identity,
            )
        )

    def _finish(self, outcome: Established | Failed) -> None:
        self.outcome = outcome
        self._next = None
        self._timers = TimerTable()
