"""A TURN relay (RFC 8656) without I/O: clients on one side, UDP to peers on the other.

The owner names each client by what stands for its five-tuple, brings its messages (a datagram, or a frame of a stream) and the
datagrams of peers, and drains `poll_output`. A relayed address is asked for with `OpenRelay` and answered with
`handle_relay_opened`; the client's answer waits for it. Nothing is forwarded but by permission or channel.

Nothing is kept for whoever has not proven that he knows a password: nonces are stateless, and the refusals that he draws are
limited by host and in all, since their sources may be forged (R5). Answers hold known fields only, without software names or
reasons (R8).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from peergram import config as limits
from peergram.address import Address
from peergram.errors import WireError
from peergram.servers.relay_access import Nonces, RelayAccess
from peergram.servers.relay_peers import PeerPolicy
from peergram.signaling.rates import TokenBuckets
from peergram.timing import Deadline
from peergram.wire.stun import (
    CHANNEL_MAX,
    CHANNEL_MIN,
    FAMILY_IPV4,
    TRANSACTION_ID_BYTES,
    TRANSPORT_UDP,
    Class,
    Method,
    StunMessage,
    decode_channel_data,
    decode_stun,
    encode_channel_data,
    encode_stun,
    integrity_holds,
    looks_like_stun,
)

SECOND_US: Final = 1_000_000
PERMISSION_US: Final = 300 * SECOND_US
"""RFC 8656 §9."""
CHANNEL_US: Final = 600 * SECOND_US
"""RFC 8656 §12."""
LIFETIME_S: Final = 600
"""RFC 8656 §3.2: granted when nobody asks for longer."""
LIFETIME_S_MAX: Final = 3_600

Client = Hashable


class ToClient(NamedTuple):
    """A datagram, or a frame for a stream, for a client."""

    client: Client
    data: bytes


class ToPeer(NamedTuple):
    """A datagram that leaves from a relayed address."""

    relay_id: int
    peer: Address
    data: bytes


class OpenRelay(NamedTuple):
    """A relayed address of this family is wanted."""

    relay_id: int
    family: int


class CloseRelay(NamedTuple):
    """It is not needed any more."""

    relay_id: int


Output = ToClient | ToPeer | OpenRelay | CloseRelay


@dataclass(slots=True)
class _Allocation:
    client: Client
    source: Address
    relay_id: int
    identity: bytes
    username: bytes
    key: bytes
    request: StunMessage
    """The one that made it: the same again is the same question."""
    lifetime_s: int
    ends_us: int
    relayed: Address | None = None
    """None while it is being opened."""
    permissions: dict[str, int] = field(default_factory=dict)
    channels: dict[int, tuple[Address, int]] = field(default_factory=dict)
    """Peer and end by number."""
    numbers: dict[Address, int] = field(default_factory=dict)


class _Refusal(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class TurnCore:
    """All allocations of one relay. Drain `poll_output`, then re-arm `poll_timeout`."""

    def __init__(
        self, *, access: RelayAccess, policy: PeerPolicy, families: frozenset[int], entropy: Callable[[int], bytes]
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._access = access
        self._policy = policy
        self._families = families
        self._entropy = entropy
        self._nonces = Nonces(entropy(32))
        self._last_relay_id = 0
        self._by_client: dict[Client, _Allocation] = {}
        self._by_relay_id: dict[int, _Allocation] = {}
        self._by_relayed: dict[Address, _Allocation] = {}
        self._of_identity: Counter[bytes] = Counter()
        self._outputs: deque[Output] = deque()
        self._sweep_at_us: int | None = None
        self._errors_of_host = TokenBuckets(
            limits.TURN_ERRORS_PER_HOST_PER_S, limits.TURN_ERRORS_PER_HOST_PER_S, limits.SERVER_HOSTS_WATCHED_MAX
        )
        self._errors_of_all = TokenBuckets(limits.TURN_ERRORS_PER_S, limits.TURN_ERRORS_PER_S, 1)
        self._bytes_of_identity: dict[bytes, tuple[int, int]] = {}
        self._steps: dict[int, Callable[[_Allocation, StunMessage, StunMessage, int], None]] = {
            Method.REFRESH: self._refresh,
            Method.CREATE_PERMISSION: self._create_permission,
            Method.CHANNEL_BIND: self._bind_channel,
        }

    @property
    def allocations(self) -> int:
        """How many there are, those being opened included."""
        return len(self._by_client)

    def handle_client(self, client: Client, source: Address, data: bytes, now_us: int, wall_s: int) -> None:
        """A message of a client whose packets come from `source`; never raises, whatever the bytes are."""
        try:
            if not looks_like_stun(data):
                self._relay_channel_data(client, *decode_channel_data(data), now_us)
                return
            message = decode_stun(data)
        except WireError:
            self.counters["malformed"] += 1
            return
        if message.message_class == Class.INDICATION and message.method == Method.SEND:
            self._relay_send(client, message, now_us)
        elif message.message_class == Class.REQUEST:
            self._answer(client, source, message, data, now_us, wall_s)

    def handle_peer(self, relay_id: int, peer: Address, data: bytes, now_us: int) -> None:
        """A datagram of a peer at a relayed address."""
        allocation = self._by_relay_id.get(relay_id)
        if allocation is None or allocation.relayed is None or allocation.permissions.get(peer[0], 0) <= now_us:
            self.counters["peer_not_permitted"] += 1
            return
        if not self._take_bytes(allocation.identity, len(data), now_us):
            return
        number = allocation.numbers.get(peer)
        if number is not None and allocation.channels[number][1] > now_us:
            self._outputs.append(ToClient(allocation.client, encode_channel_data(number, data)))
        else:
            indication = StunMessage(Method.DATA, Class.INDICATION, self._entropy(TRANSACTION_ID_BYTES))
            indication.xor_peer_addresses, indication.data = [peer], data
            self._outputs.append(ToClient(allocation.client, encode_stun(indication, fingerprint=False)))
        self.counters["from_peers"] += 1

    def handle_relay_opened(self, relay_id: int, relayed: Address | None, now_us: int) -> None:
        """What became of an OpenRelay; None: there is no free port."""
        allocation = self._by_relay_id.get(relay_id)
        if allocation is None:
            return
        if relayed is None:
            answer = StunMessage(Method.ALLOCATE, Class.ERROR, allocation.request.transaction_id, error_code=508)
            self._outputs.append(ToClient(allocation.client, encode_stun(answer, integrity_key=allocation.key)))
            self._forget(allocation)
            return
        allocation.relayed = relayed
        allocation.ends_us = now_us + allocation.lifetime_s * SECOND_US
        self._by_relayed[relayed] = allocation
        self._say_allocated(allocation)

    def handle_client_gone(self, client: Client) -> None:
        """The stream of this client is over, and with it what it had."""
        allocation = self._by_client.get(client)
        if allocation is not None:
            self._drop(allocation)

    def handle_timeout(self, now_us: int) -> None:
        """End what has run out."""
        if self._sweep_at_us is None or now_us < self._sweep_at_us:
            return
        for allocation in [each for each in self._by_client.values() if each.ends_us <= now_us]:
            self._drop(allocation)
        for allocation in self._by_client.values():
            allocation.permissions = {host: end for host, end in allocation.permissions.items() if end > now_us}
            for number in [number for number, (_, end) in allocation.channels.items() if end <= now_us]:
                del allocation.numbers[allocation.channels.pop(number)[0]]
        self._bytes_of_identity = {name: kept for name, kept in self._bytes_of_identity.items() if self._of_identity[name]}
        self._sweep_at_us = now_us + SECOND_US if self._by_client else None

    def poll_output(self) -> Output | None:
        """What to do next, in order."""
        return self._outputs.popleft() if self._outputs else None

    def poll_timeout(self) -> Deadline | None:
        """When to call `handle_timeout` next."""
        return None if self._sweep_at_us is None else Deadline(self._sweep_at_us, "end what has run out")

    # Requests

    def _answer(self, client: Client, source: Address, message: StunMessage, data: bytes, now_us: int, wall_s: int) -> None:
        answer = StunMessage(message.method, Class.SUCCESS, message.transaction_id)
        key: bytes | None = None
        try:
            key, username = self._authenticate(source, message, data, answer, now_us, wall_s)
            if message.unknown_required:
                answer.unknown_attributes = message.unknown_required[:8]
                raise _Refusal(420)
            allocation = self._by_client.get(client)
            if message.method == Method.ALLOCATE:
                self._allocate(client, source, allocation, message, key, username, now_us)
                return
            if allocation is None or allocation.relayed is None or allocation.ends_us <= now_us:
                if message.method == Method.REFRESH and message.lifetime_s == 0:
                    answer.lifetime_s = 0
                    self._outputs.append(ToClient(client, encode_stun(answer, integrity_key=key)))
                    return
                raise _Refusal(437)
            if self._access.identity(username) != allocation.identity:
                raise _Refusal(441)
            step = self._steps.get(message.method)
            if step is None:
                raise _Refusal(400)
            step(allocation, message, answer, now_us)
        except _Refusal as refusal:
            self.counters[f"refused_{refusal.code}"] += 1
            if not (self._errors_of_host.take(source[0], now_us) and self._errors_of_all.take(None, now_us)):
                self.counters["refusals_unsaid"] += 1
                return
            answer.message_class, answer.error_code = Class.ERROR, refusal.code
        self._outputs.append(ToClient(client, encode_stun(answer, integrity_key=key, fingerprint=message.has_fingerprint)))

    def _authenticate(
        self, source: Address, message: StunMessage, data: bytes, answer: StunMessage, now_us: int, wall_s: int
    ) -> tuple[bytes, bytes]:
        """Key and name (RFC 8489 §9.2.4)."""
        username, nonce = message.username, message.nonce
        if message.has_integrity and (username is None or message.realm is None or nonce is None):
            raise _Refusal(400)
        key = self._access.key(username, wall_s) if username is not None and message.realm == self._access.realm else None
        if not message.has_integrity or username is None or nonce is None or key is None or not integrity_holds(data, key):
            answer.realm, answer.nonce = self._access.realm, self._nonces.make(source[0], now_us)
            raise _Refusal(401)
        if not self._nonces.holds(nonce, source[0], now_us):
            answer.realm, answer.nonce = self._access.realm, self._nonces.make(source[0], now_us)
            raise _Refusal(438)
        return key, username

    def _allocate(
        self,
        client: Client,
        source: Address,
        existing: _Allocation | None,
        message: StunMessage,
        key: bytes,
        username: bytes,
        now_us: int,
    ) -> None:
        if existing is not None and existing.ends_us <= now_us:
            self._drop(existing)
            existing = None
        if existing is not None:
            if existing.request.transaction_id != message.transaction_id or existing.username != username:
                raise _Refusal(437)
            if existing.relayed is not None:
                self._say_allocated(existing)
            return
        if message.requested_transport is None:
            raise _Refusal(400)
        if message.requested_transport != TRANSPORT_UDP:
            raise _Refusal(442)
        family = message.requested_address_family or FAMILY_IPV4
        if family not in self._families:
            raise _Refusal(440)
        identity = self._access.identity(username)
        is_full = self._of_identity[identity] >= limits.TURN_ALLOCATIONS_PER_IDENTITY_MAX
        if is_full or len(self._by_client) >= limits.TURN_ALLOCATIONS_MAX:
            raise _Refusal(486)
        self._last_relay_id += 1
        lifetime_s = _lifetime_s(message)
        made = _Allocation(
            client, source, self._last_relay_id, identity, username, key, message, lifetime_s, now_us + lifetime_s * SECOND_US
        )
        self._by_client[client] = self._by_relay_id[made.relay_id] = made
        self._of_identity[identity] += 1
        self._outputs.append(OpenRelay(made.relay_id, family))
        if self._sweep_at_us is None:
            self._sweep_at_us = now_us + SECOND_US

    def _say_allocated(self, allocation: _Allocation) -> None:
        answer = StunMessage(Method.ALLOCATE, Class.SUCCESS, allocation.request.transaction_id)
        answer.xor_mapped_address, answer.xor_relayed_address = allocation.source, allocation.relayed
        answer.lifetime_s = allocation.lifetime_s
        signed = encode_stun(answer, integrity_key=allocation.key, fingerprint=allocation.request.has_fingerprint)
        self._outputs.append(ToClient(allocation.client, signed))

    def _refresh(self, allocation: _Allocation, message: StunMessage, answer: StunMessage, now_us: int) -> None:
        if message.lifetime_s == 0:
            self._drop(allocation)
            answer.lifetime_s = 0
            return
        answer.lifetime_s = _lifetime_s(message)
        allocation.ends_us = now_us + answer.lifetime_s * SECOND_US

    def _create_permission(self, allocation: _Allocation, message: StunMessage, answer: StunMessage, now_us: int) -> None:
        if not message.xor_peer_addresses:
            raise _Refusal(400)
        hosts = {host for host, _ in message.xor_peer_addresses}
        self._check_hosts(allocation, hosts)
        for host in hosts:
            allocation.permissions[host] = now_us + PERMISSION_US

    def _bind_channel(self, allocation: _Allocation, message: StunMessage, answer: StunMessage, now_us: int) -> None:
        number = message.channel_number
        if number is None or not CHANNEL_MIN <= number <= CHANNEL_MAX or len(message.xor_peer_addresses) != 1:
            raise _Refusal(400)
        peer = message.xor_peer_addresses[0]
        self._check_hosts(allocation, {peer[0]})
        bound = allocation.channels.get(number)
        if (bound is not None and bound[0] != peer) or allocation.numbers.get(peer, number) != number:
            raise _Refusal(400)
        if bound is None and len(allocation.channels) >= limits.TURN_SERVER_PEERS_MAX:
            raise _Refusal(508)
        if not self._may_send(peer):
            raise _Refusal(403)
        allocation.channels[number] = (peer, now_us + CHANNEL_US)
        allocation.numbers[peer] = number
        allocation.permissions[peer[0]] = now_us + PERMISSION_US

    def _check_hosts(self, allocation: _Allocation, hosts: set[str]) -> None:
        assert allocation.relayed is not None, "requests about it wait until it is open"
        for host in hosts:
            if (":" in host) != (":" in allocation.relayed[0]):
                raise _Refusal(443)
            if not self._policy.allows_host(host):
                raise _Refusal(403)
        if len(allocation.permissions.keys() | hosts) > limits.TURN_SERVER_PEERS_MAX:
            raise _Refusal(508)

    # Data

    def _relay_channel_data(self, client: Client, number: int, data: bytes, now_us: int) -> None:
        """A channel outlives its permission, but carries nothing without it."""
        allocation = self._by_client.get(client)
        if allocation is not None and (bound := allocation.channels.get(number)) is not None and bound[1] > now_us:
            self._forward(allocation, bound[0], data, now_us)

    def _relay_send(self, client: Client, message: StunMessage, now_us: int) -> None:
        allocation = self._by_client.get(client)
        if allocation is None or message.unknown_required or message.data is None or len(message.xor_peer_addresses) != 1:
            return
        self._forward(allocation, message.xor_peer_addresses[0], message.data, now_us)

    def _forward(self, allocation: _Allocation, peer: Address, data: bytes, now_us: int) -> None:
        if allocation.ends_us <= now_us or allocation.permissions.get(peer[0], 0) <= now_us or not self._may_send(peer):
            self.counters["client_not_permitted"] += 1
        elif self._take_bytes(allocation.identity, len(data), now_us):
            self._outputs.append(ToPeer(allocation.relay_id, peer, data))
            self.counters["to_peers"] += 1

    def _may_send(self, peer: Address) -> bool:
        return self._policy.allows(peer, is_live_relay=peer in self._by_relayed)

    def _take_bytes(self, identity: bytes, count: int, now_us: int) -> bool:
        """A bucket of one second's worth for each identity, over all its allocations and both directions (R3)."""
        rate = limits.TURN_BYTES_PER_IDENTITY_PER_S
        room, at_us = self._bytes_of_identity.get(identity, (rate, now_us))
        room = min(rate, room + (now_us - at_us) * rate // SECOND_US)
        enough = room >= count
        self._bytes_of_identity[identity] = (room - count if enough else room, now_us)
        if not enough:
            self.counters["over_quota"] += 1
        return enough

    # Ends

    def _drop(self, allocation: _Allocation) -> None:
        self._forget(allocation)
        self._outputs.append(CloseRelay(allocation.relay_id))

    def _forget(self, allocation: _Allocation) -> None:
        del self._by_client[allocation.client], self._by_relay_id[allocation.relay_id]
        if allocation.relayed is not None:
            del self._by_relayed[allocation.relayed]
        self._of_identity[allocation.identity] -= 1
        if not self._of_identity[allocation.identity]:
            del self._of_identity[allocation.identity]


def _lifetime_s(message: StunMessage) -> int:
    return min(max(message.lifetime_s or 0, LIFETIME_S), LIFETIME_S_MAX)
