"""Small STUN and TURN servers in memory, well-behaved or not, for scripted tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count

from peergram.address import Address
from peergram.errors import WireError
from peergram.wire.stun import (
    CHANNEL_MIN,
    Class,
    Method,
    StunMessage,
    decode_channel_data,
    decode_stun,
    encode_channel_data,
    encode_stun,
    integrity_holds,
    long_term_key,
    looks_like_stun,
)

Replies = list[tuple[float, bytes]]
"""Delay in seconds, and what comes back."""
REALM = b"example.org"
USERNAME, PASSWORD = b"ann", b"secret"
KEY = long_term_key(USERNAME, REALM, PASSWORD)


def counting_entropy() -> Callable[[int], bytes]:
    """Random enough for tests, the same in every run."""
    numbers = count(1)
    return lambda size: next(numbers).to_bytes(size, "big")


def answer(request: StunMessage, **fields: object) -> StunMessage:
    reply = StunMessage(request.method, Class.SUCCESS, request.transaction_id)
    for name, value in fields.items():
        setattr(reply, name, value)
    return reply


def refusal(request: StunMessage, code: int, **fields: object) -> StunMessage:
    reply = answer(request, error_code=code, error_reason=b"no", **fields)
    reply.message_class = Class.ERROR
    return reply


class StunServer:
    """Tells everybody his address."""

    def __init__(self, mapped: Address | None = None, delay_s: float = 0.02) -> None:
        self.mapped = mapped
        self.delay_s = delay_s
        self.asked = 0
        self.requests: list[StunMessage] = []

    def handle(self, source: Address, data: bytes, now_us: int) -> Replies:
        if not looks_like_stun(data):
            return []
        request = decode_stun(data)
        self.asked += 1
        self.requests.append(request)
        return [(self.delay_s, encode_stun(answer(request, xor_mapped_address=self.mapped or source)))]


@dataclass
class Allocation:
    """What a client has here."""

    relayed: list[Address]
    expires_us: int
    permissions: dict[str, int] = field(default_factory=dict)
    channels: dict[int, tuple[Address, int]] = field(default_factory=dict)


class TurnServer:
    """RFC 8656 as far as a client can see it; one relayed address of each family per client."""

    def __init__(self, host: str = "198.51.100.7", *, lifetime_s: int = 600, families: tuple[int, ...] = (4,)) -> None:
        self.host = host
        self.families = families
        self.lifetime_s = lifetime_s
        self.permission_us = 300_000_000
        self.channel_us = 600_000_000
        self.delay_s = 0.02
        self.nonce = 1
        self.is_silent = False
        self.signs = True
        self.forbidden: set[str] = set()
        self.allocations: dict[Address, Allocation] = {}
        self.seen: list[StunMessage] = []
        self.sent: list[tuple[Address, Address, bytes]] = []
        """Relayed address, peer, datagram."""
        self.sent_by_channel = 0
        self.released = 0
        self._ports = count(50_000)

    def handle(self, source: Address, data: bytes, now_us: int) -> Replies:
        if self.is_silent:
            return []
        if not looks_like_stun(data):
            self._relay_channel(source, data, now_us)
            return []
        message = decode_stun(data)
        self.seen.append(message)
        if message.message_class == Class.INDICATION:
            self._relay_indication(source, message, now_us)
            return []
        return [(self.delay_s, reply) for reply in self._answers(source, message, data, now_us)]

    def requests(self, method: int) -> list[StunMessage]:
        return [message for message in self.seen if message.method == method and message.message_class == Class.REQUEST]

    def to_client(self, client: Address, peer: Address, data: bytes, now_us: int) -> bytes | None:
        """What a peer's datagram becomes on its way to the client; None if it has no permission."""
        allocation = self.allocations[client]
        for channel, (remote, until_us) in allocation.channels.items():
            if remote == peer and now_us < until_us:
                return encode_channel_data(channel, data)
        if now_us >= allocation.permissions.get(peer[0], 0):
            return None
        message = StunMessage(Method.DATA, Class.INDICATION, bytes(12), xor_peer_addresses=[peer], data=data)
        return encode_stun(message)

    def new_nonce(self) -> None:
        self.nonce += 1

    @property
    def _nonce(self) -> bytes:
        return b"nonce%d" % self.nonce

    def _answers(self, source: Address, request: StunMessage, data: bytes, now_us: int) -> Iterator[bytes]:
        if request.method == Method.BINDING:
            yield encode_stun(answer(request, xor_mapped_address=source))
            return
        if request.username is None or not integrity_holds(data, KEY):
            yield encode_stun(refusal(request, 401, realm=REALM, nonce=self._nonce))
            return
        if request.nonce != self._nonce:
            yield encode_stun(refusal(request, 438, realm=REALM, nonce=self._nonce))
            return
        yield encode_stun(self._answer(source, request, now_us), integrity_key=KEY if self.signs else None)

    def _answer(self, source: Address, request: StunMessage, now_us: int) -> StunMessage:
        allocation = self.allocations.get(source)
        if allocation is not None and now_us >= allocation.expires_us:
            del self.allocations[source]
            allocation = None
        if request.method == Method.ALLOCATE:
            return self._allocate(source, request, now_us, allocation)
        if allocation is None:
            return refusal(request, 437)
        if request.method == Method.REFRESH:
            if request.lifetime_s == 0:
                del self.allocations[source]
                self.released += 1
                return answer(request, lifetime_s=0)
            allocation.expires_us = now_us + self.lifetime_s * 1_000_000
            return answer(request, lifetime_s=self.lifetime_s)
        hosts = [host for host, _ in request.xor_peer_addresses]
        if self.forbidden.intersection(hosts):
            return refusal(request, 403)
        for host in hosts:
            allocation.permissions[host] = now_us + self.permission_us
        if request.method == Method.CHANNEL_BIND:
            channel = request.channel_number or 0
            assert channel >= CHANNEL_MIN
            bound = allocation.channels.get(channel)
            if bound is not None and bound[0] != request.xor_peer_addresses[0]:
                return refusal(request, 400)
            allocation.channels[channel] = (request.xor_peer_addresses[0], now_us + self.channel_us)
        return answer(request)

    def _allocate(self, source: Address, request: StunMessage, now_us: int, old: Allocation | None) -> StunMessage:
        if old is not None:
            return refusal(request, 437)
        wanted = [6] if request.requested_address_family == 2 else [4]
        if request.additional_address_family == 2:
            wanted.append(6)
        families = [family for family in wanted if family in self.families]
        if not families:
            return refusal(request, 440)
        relayed = [(self.host if family == 4 else "2001:db8::7", next(self._ports)) for family in families]
        self.allocations[source] = Allocation(relayed, now_us + self.lifetime_s * 1_000_000)
        second = relayed[1] if len(relayed) > 1 else None
        return answer(
            request,
            xor_relayed_address=relayed[0],
            xor_relayed_address_2=second,
            xor_mapped_address=source,
            lifetime_s=self.lifetime_s,
        )

    def _relay_indication(self, source: Address, message: StunMessage, now_us: int) -> None:
        allocation = self.allocations.get(source)
        if message.method != Method.SEND or allocation is None or message.data is None:
            return
        peer = message.xor_peer_addresses[0]
        if now_us < allocation.permissions.get(peer[0], 0):
            self.sent.append((self._own(allocation, peer), peer, message.data))

    def _relay_channel(self, source: Address, data: bytes, now_us: int) -> None:
        allocation = self.allocations.get(source)
        try:
            channel, payload = decode_channel_data(data)
        except WireError:
            return
        if allocation is None or channel not in allocation.channels:
            return
        peer, until_us = allocation.channels[channel]
        if now_us < until_us and now_us < allocation.permissions.get(peer[0], 0):
            self.sent_by_channel += 1
            self.sent.append((self._own(allocation, peer), peer, payload))

    def _own(self, allocation: Allocation, peer: Address) -> Address:
        return next(address for address in allocation.relayed if (":" in address[0]) == (":" in peer[0]))
