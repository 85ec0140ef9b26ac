"""The calling side of a handshake over plain UDP: challenge, then connect request, until the server agrees or time is up.

Wire protocol, part 1, chapter 6.1. Whatever was lost, the repair is the same: half a second after the last request the challenge
is asked for again; the server answers with a new one, or with ConnectOK if it has accepted meanwhile. Key and nonce never change.

An answer that does not hold is as good as lost (E22), unless it comes again and again: then it is what the server says. And what
ConnectOK says outside its signature, the server's connection id and certificate, stays open to correction until a packet opens:
a reference server signs neither, and a damaged one gives keys that open nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from peergram.address import Address
from peergram.config import BAD_ANSWERS_MAX, CONNECT_RETRY_US, PROTOCOL_VERSION, PROTOCOL_VERSION_MIN, Config
from peergram.connection.handshake import (
    Established,
    LocalCredentials,
    LocalCrypt,
    PingSamples,
    agree,
    establish,
    find_peer_identity,
    is_connection_id,
    local_crypt_info,
)
from peergram.connection.peer_checks import PEER_CHECKS, Failed, PeerClaims, ciphers_of_option, run_checks
from peergram.crypto.keys import AgreementKey, Entropy
from peergram.errors import EndReason, WireError
from peergram.identity import Identity
from peergram.timing import Deadline, TimerTable
from peergram.wire.control import ChallengeReply, ChallengeRequest, ConnectOk, ConnectRequest, encode_control

_RETRY = "connect retry"
_TIMEOUT = "connect timeout"
_U64_MASK = (1 << 64) - 1


@dataclass(slots=True)
class _BadAnswer:
    """An answer that failed, without what changes from repeat to repeat; it counts once in a retry interval."""

    content: ChallengeReply | ConnectOk
    failed: Failed
    times: int = 0
    counted_in: int = -1
    """The last retry interval in which it counted."""


class ClientHandshake:
    """One attempt to connect. After every `handle_*`: drain `poll_transmit`, look at `outcome`, re-arm from `poll_timeout`.

    `outcome` is None while under way. A `Failed` is final. An `Established` may be replaced by another with the same
    `crypt` until `confirm`, and until then the server is asked again. Hand in only what came from the address dialled.
    `peer_connection_id` is 0 until ConnectOK was taken; on failure the ConnectionClosed to the server names it.
    """

    __slots__ = (
        "_bad_answer",
        "_challenge",
        "_ciphers",
        "_config",
        "_credentials",
        "_expected_identity",
        "_interval",
        "_is_over",
        "_local",
        "_next",
        "_pings",
        "_replies_due",
        "_taken",
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
        self._local: LocalCrypt | None = local_crypt_info(
            credentials, AgreementKey.generate(entropy), self._ciphers, entropy, connection_id=connection_id
        )
        """None once it is over, like all that only the hellos needed."""
        self._pings = PingSamples()
        self._challenge: int | None = None
        self._replies_due = 0
        self._taken: ConnectOk | None = None
        self._bad_answer: _BadAnswer | None = None
        self._interval = 0
        """Which retry interval this is."""
        self._is_over = False
        self._next: Literal["challenge request", "connect request"] | None = "challenge request"
        self._timers = TimerTable()
        self._timers.set(_TIMEOUT, now_us + config.timeout_initial_us)

    def poll_transmit(self, now_us: int) -> bytes | None:
        """The next datagram for the server, or None. It is stamped with `now_us`, so send it right away."""
        if self._next is None:
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
        """Repeat the challenge request, or give up: with the reason of the last answer that failed, if there was one."""
        for name in self._timers.pop_due(now_us):
            if name != _TIMEOUT:
                self._interval += 1
                self._next = "challenge request"
            elif self.outcome is not None:
                self.confirm()
            elif self._bad_answer is not None:
                self._fail_with(self._bad_answer)
            else:
                self._finish(Failed(EndReason.MISC_TIMEOUT, "Timed out attempting to connect"))

    def confirm(self) -> None:
        """A packet opened, or it is time to stop asking: what is established stays."""
        if self.outcome is not None:
            self._finish(self.outcome)

    def handle_challenge_reply(self, message: ChallengeReply, now_us: int) -> None:
        """Answer with the connect request; one reply per request is heard, so that replayed replies make us send nothing."""
        if self.outcome is not None or message.connection_id != self.connection_id or not self._replies_due:
            return
        self._replies_due -= 1
        if message.protocol_version < PROTOCOL_VERSION_MIN:
            failed = Failed(EndReason.MISC_GENERIC, "Peer is running old software and needs to be udpated")
            self._note_bad_answer(replace(message, challenge=0, your_timestamp=0), failed)
            return
        self._pings.add_elapsed(now_us - message.your_timestamp, now_us)
        self._challenge = message.challenge
        self._next = "connect request"

    def handle_connect_ok(self, message: ConnectOk, remote: Address, now_us: int) -> None:
        """Check who answered and derive the keys; sets `outcome` unless the packet is to be ignored or does not hold."""
        if self._is_over or message.client_connection_id != self.connection_id or self._challenge is None:
            return
        try:
            identity = find_peer_identity(message.cert, message.identity_fields, remote)
        except WireError:
            return
        content = replace(message, your_timestamp=None, delay_time_us=None)
        if self._taken is not None and (content.crypt != self._taken.crypt or content == self._taken):
            return
        elapsed_us = None if message.your_timestamp is None else now_us - message.your_timestamp - (message.delay_time_us or 0)
        outcome = self._judge(message, identity, elapsed_us, now_us)
        if isinstance(outcome, Established):
            self._taken = content
            self.peer_connection_id = message.server_connection_id
            self.outcome = outcome
            self._next = None
        elif self._taken is None:
            self._note_bad_answer(content, outcome)

    def _judge(self, message: ConnectOk, identity: Identity, elapsed_us: int | None, now_us: int) -> Established | Failed:
        assert self._local is not None, "not over"
        if not message.server_connection_id & 0xFFFF:
            return Failed(EndReason.REMOTE_BAD_CRYPT, "Didn't send valid connection ID")
        claims = PeerClaims(
            cert=message.cert,
            crypt=message.crypt,
            identity=identity,
            connection_id=message.server_connection_id,
            trust=self._credentials.trust,
            wall_s=self._wall_s,
            peer_is_server=True,
            local_ciphers=self._ciphers,
        )
        failed = self._not_whom_we_called(identity) or run_checks(PEER_CHECKS, claims) or agree(claims, self._local.agreement_key)
        if failed is not None:
            return failed
        if elapsed_us is not None:
            self._pings.add_elapsed(elapsed_us, now_us)
        return establish(
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
        assert self._local is not None, "not over"
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

    def _note_bad_answer(self, content: ChallengeReply | ConnectOk, failed: Failed) -> None:
        """Damage on the way is never twice the same; what is the same in interval after interval comes from the server."""
        bad = self._bad_answer
        if bad is None or bad.content != content:
            bad = self._bad_answer = _BadAnswer(content, failed)
        if bad.counted_in == self._interval:
            return
        bad.counted_in = self._interval
        bad.times += 1
        if bad.times >= BAD_ANSWERS_MAX:
            self._fail_with(bad)

    def _fail_with(self, bad: _BadAnswer) -> None:
        if isinstance(bad.content, ConnectOk):
            self.peer_connection_id = bad.content.server_connection_id
        self._finish(bad.failed)

    def _finish(self, outcome: Established | Failed) -> None:
        self.outcome = outcome
        self._is_over = True
        self._next = None
        self._timers = TimerTable()
        self._local = self._taken = self._bad_answer = None
