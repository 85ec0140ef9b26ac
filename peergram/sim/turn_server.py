"""A TURN server without I/O, as far as clients of RFC 8656 need it; written for the simulator, apart from what it is to test.

`handle` takes one message of one client (a datagram, or a frame of its stream), `handle_peer` one datagram at a relayed address;
both return what is to be sent. A client is named by whatever the caller chooses, the same for the same five-tuple. Long-term
credentials with nonces that expire; allocations, permissions and channels with their lifetimes; nothing else: no EVEN-PORT, no
reservation, no TCP to peers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from peergram.address import Address
from peergram.errors import WireError
from peergram.wire.stun import (
    CHANNEL_MAX,
    CHANNEL_MIN,
    FAMILY_IPV4,
    FAMILY_IPV6,
    TRANSPORT_UDP,
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

SECOND_US: Final = 1_000_000
PERMISSION_US: Final = 300 * SECOND_US
"""RFC 8656 §9."""
CHANNEL_US: Final = 600 * SECOND_US
"""RFC 8656 §12."""
LIFETIME_S, LIFETIME_S_MAX = 600, 3_600
FIRST_RELAY_PORT = 49_152

Client = Hashable


@dataclass(slots=True, kw_only=True)
class TurnModel:
    """How a server behaves."""

    realm: bytes = b"sim"
    users: dict[bytes, bytes] = field(default_factory=lambda: {b"user": b"password"})
    """Passwords by name; empty: nobody needs to log in."""
    nonce_us: int = 3_600 * SECOND_US
    """After this time a nonce is stale."""
    allocations_max: int = 100
    lifetime_s: int = LIFETIME_S
    """Granted when nobody asks for longer."""
    refuses_peers: frozenset[str] = frozenset()
    """Hosts it relays nothing to (403)."""


class ToClient(NamedTuple):
    """A datagram, or a frame for a stream, for a client."""

    client: Client
    data: bytes


class ToPeer(NamedTuple):
    """A datagram that leaves from a relayed address."""

    relayed: Address
    peer: Address
    data: bytes


Sends = list[ToClient | ToPeer]


@dataclass(slots=True)
class _Allocation:
    client: Client
    relayed: Address
    username: bytes | None
    transaction_id: bytes
    """Of the request that made it: the same again is the same question."""
    ends_us: int
    permissions: dict[str, int] = field(default_factory=dict)
    channels: dict[int, tuple[Address, int]] = field(default_factory=dict)
    """Peer and end by number."""


class _Refusal(Exception):
    def __init__(self, code: int, reason: bytes) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class TurnServerCore:
    """All allocations of one server, which answers Binding requests as well."""

    def __init__(self, model: TurnModel, relay_hosts: list[str], secret: bytes) -> None:
        self.model = model
        self._relay_hosts = {FAMILY_IPV6 if ":" in host else FAMILY_IPV4: host for host in relay_hosts}
        self._secret = secret
        self._next_port = FIRST_RELAY_PORT
        self._by_client: dict[Client, _Allocation] = {}
        self._by_relayed: dict[Address, _Allocation] = {}
        self._steps: dict[int, Callable[[Client, StunMessage, StunMessage, int], None]] = {
            Method.ALLOCATE: self._allocate,
            Method.REFRESH: self._refresh,
            Method.CREATE_PERMISSION: self._create_permission,
            Method.CHANNEL_BIND: self._bind_channel,
        }

    @property
    def allocations(self) -> int:
        """How many there are, expired ones included until somebody asks."""
        return len(self._by_client)

    def handle(self, client: Client, source: Address, data: bytes, now_us: int) -> Sends:
        """A message of a client whose packets come from `source`."""
        self._forget_expired(now_us)
        try:
            if not looks_like_stun(data):
                return self._relay_channel_data(client, *decode_channel_data(data), now_us)
            message = decode_stun(data)
        except WireError:
            return []
        if message.message_class == Class.INDICATION and message.method == Method.SEND:
            return self._relay_send(client, message, now_us)
        if message.message_class != Class.REQUEST:
            return []
        return [ToClient(client, self._answer(client, source, message, data, now_us))]

    def handle_peer(self, relayed: Address, peer: Address, data: bytes, now_us: int) -> Sends:
        """A datagram of a peer at a relayed address."""
        self._forget_expired(now_us)
        allocation = self._by_relayed.get(relayed)
        if allocation is None or peer[0] not in allocation.permissions:
            return []
        number = next((number for number, (bound, _) in allocation.channels.items() if bound == peer), None)
        if number is not None:
            return [ToClient(allocation.client, encode_channel_data(number, data))]
        indication = StunMessage(Method.DATA, Class.INDICATION, self._random(f"{relayed}{now_us}", 12))
        indication.xor_peer_addresses, indication.data = [peer], data
        return [ToClient(allocation.client, encode_stun(indication, fingerprint=False))]

    def forget(self, client: Client) -> None:
        """The stream of this client is gone, and with it what it had."""
        allocation = self._by_client.get(client)
        if allocation is not None:
            self._drop(allocation)

    # Requests

    def _answer(self, client: Client, source: Address, message: StunMessage, data: bytes, now_us: int) -> bytes:
        answer = StunMessage(message.method, Class.SUCCESS, message.transaction_id)
        key: bytes | None = None
        try:
            if message.unknown_required:
                answer.unknown_attributes = message.unknown_required
                raise _Refusal(420, b"Unknown Attribute")
            if message.method == Method.BINDING:
                answer.xor_mapped_address = source
                return encode_stun(answer)
            step = self._steps.get(message.method)
            if step is None:
                raise _Refusal(400, b"Bad Request")
            key = self._authenticate(message, data, answer, now_us)
            if message.method == Method.ALLOCATE:
                answer.xor_mapped_address = source
            step(client, message, answer, now_us)
        except _Refusal as refusal:
            answer.message_class, answer.error_code, answer.error_reason = Class.ERROR, refusal.code, refusal.reason
            answer.xor_mapped_address = None
        return encode_stun(answer, integrity_key=key)

    def _authenticate(self, message: StunMessage, data: bytes, answer: StunMessage, now_us: int) -> bytes | None:
        """The key that the answer is signed with (RFC 8489 §9.2.4)."""
        model = self.model
        if not model.users:
            return None
        nonce = self._nonce(now_us)
        if message.has_integrity and (message.username is None or message.realm is None or message.nonce is None):
            raise _Refusal(400, b"Bad Request")
        password = model.users.get(message.username or b"")
        key = long_term_key(message.username or b"", model.realm, password) if password is not None else None
        if key is None or not message.has_integrity or not integrity_holds(data, key):
            answer.realm, answer.nonce = model.realm, nonce
            raise _Refusal(401, b"Unauthorized")
        if message.nonce != nonce:
            answer.realm, answer.nonce = model.realm, nonce
            raise _Refusal(438, b"Stale Nonce")
        return key

    def _allocate(self, client: Client, message: StunMessage, answer: StunMessage, now_us: int) -> None:
        existing = self._by_client.get(client)
        if existing is not None and existing.transaction_id != message.transaction_id:
            raise _Refusal(437, b"Allocation Mismatch")
        if message.requested_transport is None:
            raise _Refusal(400, b"Bad Request")
        if message.requested_transport != TRANSPORT_UDP:
            raise _Refusal(442, b"Unsupported Transport Protocol")
        host = self._relay_hosts.get(message.requested_address_family or FAMILY_IPV4)
        if host is None:
            raise _Refusal(440, b"Address Family not Supported")
        if existing is None and len(self._by_client) >= self.model.allocations_max:
            raise _Refusal(486, b"Allocation Quota Reached")
        lifetime_s = self._lifetime_s(message)
        if existing is None:
            existing = _Allocation(client, (host, self._next_port), message.username, message.transaction_id, 0)
            self._next_port += 1
            self._by_client[client] = self._by_relayed[existing.relayed] = existing
        existing.ends_us = now_us + lifetime_s * SECOND_US
        answer.xor_relayed_address, answer.lifetime_s = existing.relayed, lifetime_s

    def _refresh(self, client: Client, message: StunMessage, answer: StunMessage, now_us: int) -> None:
        allocation = self._by_client.get(client)
        if message.lifetime_s == 0:
            if allocation is not None:
                self._drop(self._of(client, message))
            answer.lifetime_s = 0
            return
        allocation = self._of(client, message)
        answer.lifetime_s = self._lifetime_s(message)
        allocation.ends_us = now_us + answer.lifetime_s * SECOND_US

    def _create_permission(self, client: Client, message: StunMessage, answer: StunMessage, now_us: int) -> None:
        allocation = self._of(client, message)
        if not message.xor_peer_addresses:
            raise _Refusal(400, b"Bad Request")
        for peer in message.xor_peer_addresses:
            self._check_peer(allocation, peer)
        for host, _ in message.xor_peer_addresses:
            allocation.permissions[host] = now_us + PERMISSION_US

    def _bind_channel(self, client: Client, message: StunMessage, answer: StunMessage, now_us: int) -> None:
        allocation = self._of(client, message)
        number = message.channel_number
        if number is None or not CHANNEL_MIN <= number <= CHANNEL_MAX or len(message.xor_peer_addresses) != 1:
            raise _Refusal(400, b"Bad Request")
        peer = message.xor_peer_addresses[0]
        self._check_peer(allocation, peer)
        for bound_number, (bound_peer, _) in allocation.channels.items():
            if (bound_number == number) != (bound_peer == peer):
                raise _Refusal(400, b"Bad Request")
        allocation.channels[number] = (peer, now_us + CHANNEL_US)
        allocation.permissions[peer[0]] = now_us + PERMISSION_US

    def _of(self, client: Client, message: StunMessage) -> _Allocation:
        allocation = self._by_client.get(client)
        if allocation is None:
            raise _Refusal(437, b"Allocation Mismatch")
        if allocation.username != message.username:
            raise _Refusal(441, b"Wrong Credentials")
        return allocation

    def _check_peer(self, allocation: _Allocation, peer: Address) -> None:
        if (":" in peer[0]) != (":" in allocation.relayed[0]):
            raise _Refusal(443, b"Peer Address Family Mismatch")
        if peer[0] in self.model.refuses_peers:
            raise _Refusal(403, b"Forbidden")

    def _lifetime_s(self, message: StunMessage) -> int:
        return min(max(message.lifetime_s or 0, self.model.lifetime_s), LIFETIME_S_MAX)

    # Data

    def _relay_channel_data(self, client: Client, number: int, data: bytes, now_us: int) -> Sends:
        """A channel outlives its permission, but carries nothing without it."""
        allocation = self._by_client.get(client)
        if allocation is None or number not in allocation.channels:
            return []
        peer = allocation.channels[number][0]
        return [ToPeer(allocation.relayed, peer, data)] if peer[0] in allocation.permissions else []

    def _relay_send(self, client: Client, message: StunMessage, now_us: int) -> Sends:
        allocation = self._by_client.get(client)
        if allocation is None or message.unknown_required or message.data is None or len(message.xor_peer_addresses) != 1:
            return []
        peer = message.xor_peer_addresses[0]
        return [ToPeer(allocation.relayed, peer, message.data)] if peer[0] in allocation.permissions else []

    # Time and chance

    def _forget_expired(self, now_us: int) -> None:
        for allocation in [one for one in self._by_client.values() if one.ends_us <= now_us]:
            self._drop(allocation)
        for allocation in self._by_client.values():
            for host in [host for host, ends_us in allocation.permissions.items() if ends_us <= now_us]:
                del allocation.permissions[host]
            for number in [number for number, (_, ends_us) in allocation.channels.items() if ends_us <= now_us]:
                del allocation.channels[number]

    def _drop(self, allocation: _Allocation) -> None:
        del self._by_client[allocation.client], self._by_relayed[allocation.relayed]

    def _nonce(self, now_us: int) -> bytes:
        return self._random(f"nonce/{now_us // self.model.nonce_us}", 8).hex().encode()

    def _random(self, purpose: str, size: int) -> bytes:
        return hashlib.blake2b(purpose.encode(), key=self._secret, digest_size=size).digest()
