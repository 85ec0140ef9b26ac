"""Two connections in virtual time, with a network between them that a test can bend.

The fixture of the tests below `tests/connection`: no endpoint, no session, only the bytes that two ends exchange.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable

from peergram.config import Config
from peergram.connection.connection import Connection, Ended, Opened
from peergram.connection.handshake import LocalCredentials, Refused, self_made_credentials
from peergram.connection.handshake_client import ClientHandshake
from peergram.connection.handshake_server import answer_challenge_request, check_connect_request
from peergram.connection.limits import OWN, ReceiveLimits
from peergram.crypto.cookie import ChallengeCookies
from peergram.crypto.keys import SigningKey
from peergram.errors import WireError
from peergram.identity import Identity
from peergram.wire.control import ChallengeRequest, ConnectRequest, decode_control
from tests.connection.flows import delivered_messages

CLIENT = ("10.0.0.1", 1001)
SERVER = ("10.0.0.2", 1002)


class Entropy:
    """Bytes that look random and are the same in every run."""

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._count = 0

    def __call__(self, size: int) -> bytes:
        out = b""
        while len(out) < size:
            self._count += 1
            out += hashlib.sha256(f"{self._seed}/{self._count}".encode()).digest()
        return out[:size]


def credentials(name: str) -> LocalCredentials:
    entropy = Entropy(name)
    return self_made_credentials(Identity.of(name), SigningKey.generate(entropy), entropy(16))


class Pair:
    """A client and a server. `network(from_client, packet, now_us)` gives the delays in us with which a packet arrives; []
    loses it."""

    def __init__(
        self,
        *,
        client_config: Config | None = None,
        server_config: Config | None = None,
        network: Callable[[bool, bytes, int], list[int]] | None = None,
        server_limits: ReceiveLimits = OWN,
        own_peers: bool = True,
        accepts: bool = True,
        start: bool = True,
    ) -> None:
        self.now_us = 1_000_000
        self.network = network or (lambda _from_client, _packet, _now_us: [5_000])
        self.client_config = client_config or Config()
        self.server_config = server_config or Config()
        self._credentials = {True: credentials("alice"), False: credentials("bob")}
        self._entropy = Entropy("pair")
        self._cookies = ChallengeCookies(self._entropy)
        self._server_limits = server_limits
        self._own_peers = own_peers
        self._accepts = accepts
        handshake = ClientHandshake(self._credentials[True], self.client_config, 0x00010001, self._entropy, self.now_us)
        self.client = Connection(
            handshake, connection_id=0x00010001, config=self.client_config, entropy=self._entropy, now_us=self.now_us
        )
        self.server: Connection | None = None
        self.refused: list[str] = []
        self.events: dict[bool, list[Opened | Ended]] = {True: [], False: []}
        self.delivered: dict[bool, list[tuple[int, int, bool, bytes]]] = {True: [], False: []}
        self.sent_packets: list[tuple[int, bool, bytes]] = []
        self._in_transit: list[tuple[int, int, bool, bytes]] = []
        self._order = 0
        self.auto_release = True
        if start:
            self.run_until(lambda: self.client.flow is not None and self.server is not None and self.server.flow is not None)

    def end(self, client: bool) -> Connection:
        """The connection of one side."""
        connection = self.client if client else self.server
        assert connection is not None
        return connection

    def run(self, duration_us: int) -> None:
        """Let this much virtual time pass."""
        self.run_until(lambda: False, limit_us=duration_us, must=False)

    def run_until(self, done: Callable[[], bool], limit_us: int = 30_000_000, must: bool = True) -> None:
        """Run until something holds; fails the test if it does not within the limit."""
        until_us = self.now_us + limit_us
        steps = 0
        while True:
            self._drain()
            if done():
                return
            steps += 1
            assert steps < 400_000, "livelock"
            at_us = self._next_at_us()
            if at_us is None or at_us > until_us:
                self.now_us = until_us
                self._drain()
                assert not must or done(), "did not happen in time"
                return
            self.now_us = max(self.now_us, at_us)
            while self._in_transit and self._in_transit[0][0] <= self.now_us:
                _, _, from_client, packet = heapq.heappop(self._in_transit)
                self.deliver(from_client, packet)
            for connection in (self.client, self.server):
                if connection is not None:
                    deadline = connection.poll_timeout(self.now_us)
                    if deadline is not None and deadline.at_us <= self.now_us:
                        connection.handle_timeout(self.now_us)

    def _next_at_us(self) -> int | None:
        times = [self._in_transit[0][0]] if self._in_transit else []
        for connection in (self.client, self.server):
            deadline = connection.poll_timeout(self.now_us) if connection is not None else None
            if deadline is not None:
                times.append(deadline.at_us)
        return min(times, default=None)

    def deliver(self, from_client: bool, packet: bytes) -> None:
        """Hand one packet to the other side, as its endpoint would."""
        receiver = self.server if from_client else self.client
        if receiver is not None:
            rest = receiver.handle_datagrams(packet, len(packet), self.now_us)
            if not rest:
                return
        try:
            message = decode_control(packet)
        except WireError:
            return
        if receiver is not None and not (from_client and isinstance(message, ChallengeRequest) and self.server is None):
            receiver.handle_control(message, CLIENT if from_client else SERVER, self.now_us)
        elif isinstance(message, ChallengeRequest):
            reply = answer_challenge_request(message, CLIENT, self._cookies, self.now_us)
            if reply is not None:
                self._send(False, reply)
        elif isinstance(message, ConnectRequest):
            self._accept(message)

    def _accept(self, message: ConnectRequest) -> None:
        checked = check_connect_request(
            message, CLIENT, self._credentials[False], self.server_config, self.now_us, 0, cookies=self._cookies
        )
        if isinstance(checked, Refused):
            self.refused.append(checked.text)
            return
        self.server = Connection(
            checked,
            connection_id=0x00020002,
            config=self.server_config,
            entropy=self._entropy,
            now_us=self.now_us,
            limits=self._server_limits,
        )
        if self._accepts:
            self.server.accept(self.now_us)

    def _drain(self) -> None:
        for client, connection in ((True, self.client), (False, self.server)):
            if connection is None:
                continue
            while packets := connection.poll_transmit(self.now_us):
                for packet in packets:
                    self._send(client, packet)
            while (event := connection.poll_event()) is not None:
                assert isinstance(event, Opened | Ended)
                self.events[client].append(event)
            delivered = delivered_messages(connection.take_delivered())
            self.delivered[client].extend(delivered)
            if self.auto_release and delivered:
                self.read(client, len(delivered), delivered)

    def read(self, client: bool, count: int, delivered: list[tuple[int, int, bool, bytes]]) -> None:
        """The application takes `count` messages."""
        connection = self.end(client)
        charge = sum(max(len(message[3]), 256) for message in delivered[:count])
        assert connection.flow is not None
        connection.flow.room.release(count, charge)
        connection.resume_delivery(self.now_us)

    def _send(self, from_client: bool, packet: bytes) -> None:
        self.sent_packets.append((self.now_us, from_client, packet))
        for delay_us in self.network(from_client, packet, self.now_us):
            self._order += 1
            heapq.heappush(self._in_transit, (self.now_us + delay_us, self._order, from_client, packet))
