"""Datagrams from addresses we know nothing of: what they are told, and how little that costs us.

Nothing is kept for anybody before a challenge came back, an answer is never longer than what it answers, and answers that a
forger could provoke in someone else's name are limited for the whole endpoint (E4, E5, E14).
"""

from __future__ import annotations

from collections import deque

from peergram.address import Address
from peergram.config import NO_CONNECTION_INTERVAL_US, STRANGER_REPLIES_MAX, Config
from peergram.connection.handshake import Impostor, LocalCredentials, Refused
from peergram.connection.handshake_server import (
    ServerHandshake,
    answer_challenge_request,
    check_connect_request,
)
from peergram.crypto.cookie import ChallengeCookies
from peergram.crypto.keys import Entropy
from peergram.events import DroppedDatagrams
from peergram.io_requests import Transmit
from peergram.wire.control import ChallengeRequest, ConnectionClosed, ConnectRequest, NoConnection, encode_control


class Strangers:
    """Answers for those who have no connection; at most 64 wait to be sent, and the newest win."""

    def __init__(self, config: Config, entropy: Entropy, dropped: DroppedDatagrams) -> None:
        self._config = config
        self._cookies = ChallengeCookies(entropy)
        self._replies: deque[Transmit] = deque(maxlen=STRANGER_REPLIES_MAX)
        self._no_connection_at_us = 0
        self._dropped = dropped
        self.last_refusal = ""
        """Why the last request was not shown to the application; for logs."""
        self.impostor: Impostor | None = None
        """Whom the last `check` found to use a name that is known with another key."""

    def poll_transmit(self) -> Transmit | None:
        """The next answer to send."""
        return self._replies.popleft() if self._replies else None

    def handle_challenge_request(self, socket_id: int, remote: Address, message: ChallengeRequest, now_us: int) -> None:
        """Give out a challenge, and forget it."""
        reply = answer_challenge_request(message, remote, self._cookies, now_us)
        if reply is None:
            self._dropped.refused += 1
        else:
            self._replies.append(Transmit(socket_id, remote, [reply]))

    def check(
        self, remote: Address, message: ConnectRequest, credentials: LocalCredentials, now_us: int, wall_s: int
    ) -> ServerHandshake | None:
        """The request if it may be shown to the application; None if it is to be dropped in silence."""
        checked = check_connect_request(message, remote, credentials, self._config, now_us, wall_s, cookies=self._cookies)
        self.impostor = None
        if isinstance(checked, Refused):
            self.impostor = checked.impostor
            self._dropped.refused += 1
            self.last_refusal = checked.text
            return None
        return checked

    def refuse(self, socket_id: int, remote: Address, client_connection_id: int, reason: int, debug: str) -> None:
        """Tell a client whose address is proven why he does not get in."""
        closed = ConnectionClosed(client_connection_id, 0, reason, debug)
        self._replies.append(Transmit(socket_id, remote, [encode_control(closed)]))

    def say_no_connection(self, socket_id: int, remote: Address, answer: NoConnection, bytes_max: int, now_us: int) -> None:
        """Say that there is no such connection here, if the limit allows and the answer is not longer than the question."""
        packet = encode_control(answer)
        if now_us >= self._no_connection_at_us and len(packet) <= bytes_max:
            self._no_connection_at_us = now_us + NO_CONNECTION_INTERVAL_US
            self._replies.append(Transmit(socket_id, remote, [packet]))
