"""A relay's core in virtual time, whose relayed addresses open at once, and clients for it."""

from __future__ import annotations

import random
from itertools import count
from typing import Any

from peergram.address import Address
from peergram.routes.turn_client import Credentials, TurnClient
from peergram.servers.relay_access import RelayAccess, password_for, temporary_name
from peergram.servers.relay_peers import PeerPolicy
from peergram.servers.turn_core import CloseRelay, OpenRelay, ToClient, ToPeer, TurnCore
from peergram.wire.stun import Class, Method, StunMessage, decode_stun, encode_stun, long_term_key, looks_like_stun

WALL_S = 1_800_000_000
RELAY = "198.51.100.7"
RELAY_6 = "2606:4700::7"
PEER = ("203.0.113.9", 4_000)
SECRET = b"secret"
SECOND_US = 1_000_000


class Relay:
    """A core, what it sent to peers and how many relayed addresses it closed. `ports` are those that are free."""

    def __init__(self, *, families: frozenset[int] = frozenset({1}), secret: bytes = SECRET, **options: Any) -> None:
        self.entropy = random.Random(1).randbytes
        self.core = TurnCore(
            access=RelayAccess(user=b"u", password=b"p", secret=secret),
            policy=PeerPolicy([RELAY, RELAY_6]),
            families=families,
            entropy=self.entropy,
            **options,
        )
        self.to_peers: list[ToPeer] = []
        self.to_clients: list[tuple[Address, bytes]] = []
        self.opened: dict[int, Address] = {}
        self.closed: list[int] = []
        self.refuses_ports = False
        self._ports = count(50_000)

    def take(self, source: Address, data: bytes, now_us: int = 0, *, is_stream: bool = False) -> list[bytes]:
        self.core.handle_client(source, source, [data], now_us, WALL_S, is_stream=is_stream)
        return self.drain(now_us)

    def hear(self, relay_id: int, peer: Address, data: bytes, now_us: int = 0) -> list[bytes]:
        self.core.handle_peer(relay_id, peer, [data], now_us)
        return self.drain(now_us)

    def drain(self, now_us: int = 0) -> list[bytes]:
        answers = []
        while (output := self.core.poll_output()) is not None:
            if isinstance(output, OpenRelay):
                self._open(output, now_us)
            elif isinstance(output, ToClient):
                answers += output.packets
                self.to_clients += [(output.client, packet) for packet in output.packets]  # type: ignore[misc]
            elif isinstance(output, ToPeer):
                self.to_peers.append(output)
            else:
                assert isinstance(output, CloseRelay)
                self.closed.append(output.relay_id)
        return answers

    def _open(self, wanted: OpenRelay, now_us: int) -> None:
        port = next(self._ports)
        if wanted.even:
            port += port % 2
            self._ports = count(port + 2)
        if self.refuses_ports:
            self.core.handle_relay_opened(wanted.relay_id, None, now_us)
            return
        self.opened[wanted.relay_id] = (RELAY if wanted.family == 1 else RELAY_6, port)
        if wanted.next_relay_id is not None:
            self.opened[wanted.next_relay_id] = (self.opened[wanted.relay_id][0], port + 1)
        self.core.handle_relay_opened(wanted.relay_id, self.opened[wanted.relay_id], now_us)

    @property
    def sent(self) -> list[tuple[Address, bytes]]:
        """What went to peers."""
        return [(each.peer, packet) for each in self.to_peers for packet in each.packets]

    def pass_time(self, until_us: int) -> None:
        """Timers run when they are due."""
        while (deadline := self.core.poll_timeout()) is not None and deadline.at_us <= until_us:
            self.core.handle_timeout(deadline.at_us)
            self.drain(deadline.at_us)

    def client(self, source: Address, username: bytes = b"u", password: bytes = b"p", now_us: int = 0) -> TurnClient:
        credentials = Credentials(username, password)
        client = TurnClient(server=(RELAY, 3_478), credentials=credentials, entropy=self.entropy, now_us=now_us)
        self.run(client, source, now_us)
        return client

    def named_client(self, source: Address, identity: str, now_us: int = 0) -> TurnClient:
        """One with a name that ends, of this identity."""
        name = temporary_name(identity, WALL_S + 3_600)
        return self.client(source, name, password_for(SECRET, name), now_us)

    def run(self, client: TurnClient, source: Address, now_us: int = 0) -> None:
        while (datagram := client.poll_transmit(now_us)) is not None:
            self.give(client, source, [datagram], now_us)

    def give(self, client: TurnClient, source: Address, packets: list[bytes], now_us: int = 0) -> None:
        for answer in (answer for packet in packets for answer in self.take(source, packet, now_us)):
            if looks_like_stun(answer):
                client.handle_response(decode_stun(answer), answer, now_us)


class Asker:
    """A client that asks what a test wants, with right credentials."""

    def __init__(self, relay: Relay, source: Address, username: bytes = b"u", password: bytes = b"p", now_us: int = 0) -> None:
        self.relay = relay
        self.source = source
        self.now_us = now_us
        self._username = username
        self._key = long_term_key(username, b"peergram", password)
        self._transactions = count(1)
        (refusal,) = relay.take(source, encode_stun(StunMessage(Method.REFRESH, Class.REQUEST, bytes(12), lifetime_s=0)), now_us)
        self._nonce = decode_stun(refusal).nonce

    def request(self, method: int, **attributes: Any) -> bytes:
        message = StunMessage(method, Class.REQUEST, next(self._transactions).to_bytes(12, "big"), **attributes)
        message.username, message.realm, message.nonce = self._username, b"peergram", self._nonce
        return encode_stun(message, integrity_key=self._key)

    def ask(self, method: int, **attributes: Any) -> StunMessage:
        answers = self.relay.take(self.source, self.request(method, **attributes), self.now_us)
        return decode_stun(answers[-1])

    def allocate(self, **attributes: Any) -> StunMessage:
        return self.ask(Method.ALLOCATE, **{"requested_transport": 17, **attributes})


def source_of(number: int = 1) -> Address:
    return f"192.0.{2 + number // 50_000}.{number % 250 + 1}", 1_024 + number % 60_000
