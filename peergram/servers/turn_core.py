"""A TURN relay (RFC 8656) without I/O: clients on one side, UDP to peers on the other.

The owner names each client by what stands for its five-tuple, brings its messages and the datagrams of peers in batches, and
drains `poll_output`. A relayed address is asked for with `OpenRelay` and answered with `handle_relay_opened`; the client's answer
waits for it. Nothing is forwarded but by permission or channel. Between two allocations of this relay nothing leaves it.

Nothing is kept for whoever has not proven that he knows a password: nonces are stateless, and what he is told is limited (R5).
Answers hold known fields only, without software names or reasons (R8). A request for an allocation is not forwarded: so no relay
is a client of another one, and no datagram goes in a circle (R9).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from itertools import groupby, islice
from operator import itemgetter
from typing import Final, NamedTuple

from peergram import config as limits
from peergram.address import Address
from peergram.errors import WireError
from peergram.servers.relay_access import Nonces, RelayAccess
from peergram.servers.relay_peers import PeerPolicy
from peergram.servers.relay_quotas import Budgets, RelayQuotas, Share
from peergram.servers.relay_refusals import Refusals
from peergram.timing import Deadline
from peergram.wire.stun import (
    CHANNEL_MIN,
    EVEN_PORT_RESERVE,
    FAMILY_IPV4,
    FAMILY_IPV6,
    OLD_CHANNEL_MAX,
    RESERVATION_TOKEN_BYTES,
    STUN_MAGIC,
    TRANSACTION_ID_BYTES,
    TRANSPORT_UDP,
    Class,
    Method,
    StunMessage,
    decode_stun,
    encode_stun,
    integrity_holds,
)

SECOND_US: Final = 1_000_000
PERMISSION_US: Final = 300 * SECOND_US
"""RFC 8656 §9."""
CHANNEL_US: Final = 600 * SECOND_US
"""RFC 8656 §12."""
LIFETIME_S: Final = 600
"""RFC 8656 §3.2: granted when nobody asks for longer."""
LIFETIME_S_MAX: Final = 3_600
RESERVATION_US: Final = 30 * SECOND_US
"""RFC 8656 §7.2: for how long the port above an even one is kept."""
_SWEEP_US: Final = SECOND_US // 10
_SWEEPS_PER_ROUND: Final = 10
_CHANNEL_HEADER_BYTES: Final = 4
_OLD_CHANNEL_FIRST: Final = CHANNEL_MIN >> 8
_OLD_CHANNEL_LAST: Final = OLD_CHANNEL_MAX >> 8
_DONT_FRAGMENT: Final = 0x001A
_ALLOCATE_TYPE: Final = b"\x00\x03"
_MESSAGE_TYPE: Final = itemgetter(slice(0, 2))
_COOKIE: Final = STUN_MAGIC.to_bytes(4, "big")
_CHANNEL_HEADER: Final = itemgetter(slice(0, _CHANNEL_HEADER_BYTES))

Client = Hashable


class ToClient(NamedTuple):
    """Datagrams, or frames for a stream, for a client; `is_data`: they came from a peer, and may be lost."""

    client: Client
    packets: list[bytes]
    is_data: bool


class ToPeer(NamedTuple):
    """Datagrams that leave from a relayed address; `dont_fragment`: whole or not at all."""

    relay_id: int
    peer: Address
    packets: list[bytes]
    dont_fragment: bool


class OpenRelay(NamedTuple):
    """A relayed address of this family is wanted, with an even port if `even`, and with the port above too if that is to be
    `next_relay_id`."""

    relay_id: int
    family: int
    even: bool = False
    next_relay_id: int | None = None


class CloseRelay(NamedTuple):
    """It is not needed any more."""

    relay_id: int


Output = ToClient | ToPeer | OpenRelay | CloseRelay


class _Permission:
    __slots__ = ("ends_us", "is_own")

    def __init__(self, ends_us: int, *, is_own: bool) -> None:
        self.ends_us = ends_us
        self.is_own = is_own
        """Whether this host is the relay itself, where only live allocations are reached."""


class _Channel:
    __slots__ = ("ends_us", "peer", "permission", "prefix", "relay_id")

    def __init__(self, number: int, peer: Address, permission: _Permission, relay_id: int, ends_us: int) -> None:
        self.prefix = number.to_bytes(2, "big")
        self.peer = peer
        self.permission = permission
        self.relay_id = relay_id
        self.ends_us = ends_us


class _Relayed:
    __slots__ = ("address", "family", "relay_id")

    def __init__(self, relay_id: int, family: int) -> None:
        self.relay_id = relay_id
        self.family = family
        self.address: Address | None = None
        """None while it is being opened."""


class _Request(NamedTuple):
    """A request and what its answer needs."""

    client: Client
    source: Address
    is_stream: bool
    message: StunMessage
    byte_count: int


class _Allocation:
    __slots__ = (
        *("client", "source", "username", "key", "transaction_id", "has_fingerprint", "lifetime_s", "ends_us", "relayed"),
        *("waiting", "share", "permissions", "channels", "by_peer", "address_error", "token"),
    )

    def __init__(self, asked: _Request, username: bytes, key: bytes, share: Share, lifetime_s: int, now_us: int) -> None:
        self.client = asked.client
        self.source = asked.source
        self.username = username
        self.key = key
        self.transaction_id = asked.message.transaction_id
        """Of the request that made it: the same again is the same question."""
        self.has_fingerprint = asked.message.has_fingerprint
        self.lifetime_s = lifetime_s
        self.ends_us = now_us + lifetime_s * SECOND_US
        self.relayed: list[_Relayed] = []
        self.waiting = 0
        """Relayed addresses that are still being opened."""
        self.share = share
        self.permissions: dict[str, _Permission] = {}
        self.channels: dict[bytes, _Channel] = {}
        """By number as the wire has it."""
        self.by_peer: dict[Address, _Channel] = {}
        self.address_error: tuple[int, int] | None = None
        self.token: bytes | None = None

    def relayed_of(self, host: str) -> _Relayed | None:
        """The address of the family of `host`."""
        family = FAMILY_IPV6 if ":" in host else FAMILY_IPV4
        return next((each for each in self.relayed if each.family == family), None)


class _Reservation(NamedTuple):
    relayed: _Relayed
    share: Share
    """So that it counts as an allocation of whoever may have it."""
    ends_us: int


class _Refusal(Exception):
    def __init__(self, code: int, unknown: Sequence[int] = ()) -> None:
        """`unknown` are the attributes that a 420 is about."""
        super().__init__(code)
        self.code = code
        self.unknown = list(unknown)


class TurnCore:
    """All allocations of one relay. Drain `poll_output`, then re-arm `poll_timeout`.

    `can_forbid_fragments`: whether the owner knows how to send datagrams that must not be fragmented.
    """

    def __init__(
        self,
        *,
        access: RelayAccess,
        policy: PeerPolicy,
        families: frozenset[int],
        entropy: Callable[[int], bytes],
        quotas: RelayQuotas | None = None,
        can_forbid_fragments: bool = True,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._access = access
        self._policy = policy
        self._families = families
        self._entropy = entropy
        self._can_forbid_fragments = can_forbid_fragments
        self._nonces = Nonces(entropy(32))
        self._budgets = Budgets(quotas or RelayQuotas())
        self._refusals = Refusals()
        self._last_relay_id = 0
        self._by_client: dict[Client, _Allocation] = {}
        self._by_relay_id: dict[int, _Allocation] = {}
        self._by_relayed: dict[Address, _Allocation] = {}
        self._verdicts: dict[Address, bool] = {}
        self._reservations: dict[bytes, _Reservation] = {}
        self._outputs: deque[Output] = deque()
        self._sweep_at_us: int | None = None
        self._sweeping: Iterator[_Allocation] = iter(())
        self._drain_ends_us: int | None = None
        self._steps: dict[int, Callable[[_Allocation, StunMessage, StunMessage, int], None]] = {
            Method.REFRESH: self._refresh,
            Method.CREATE_PERMISSION: self._create_permission,
            Method.CHANNEL_BIND: self._bind_channel,
        }

    @property
    def allocations(self) -> int:
        """How many there are, those being opened included."""
        return len(self._by_client)

    def has_allocation(self, client: Client) -> bool:
        """Whether this client has one."""
        return client in self._by_client

    def replace_access(self, access: RelayAccess) -> None:
        """Other passwords from now on. What is allocated stays until its next refresh, which needs a new one."""
        self._access = access

    def replace_policy(self, policy: PeerPolicy) -> None:
        """This machine has other addresses; counts for what is permitted already, too."""
        self._policy = policy
        self._verdicts.clear()
        for allocation in self._by_client.values():
            for host, permission in allocation.permissions.items():
                permission.is_own = policy.is_own(host)

    def drain(self, until_us: int) -> None:
        """Take no new allocations, and let none outlive `until_us`."""
        self._drain_ends_us = until_us

    @property
    def taken_bytes(self) -> int:
        """All that was let through so far, with what packets cost beside their bytes."""
        return self._budgets.taken_bytes

    def handle_client(
        self, client: Client, source: Address, packets: list[bytes], now_us: int, wall_s: int, *, is_stream: bool = False
    ) -> None:
        """Messages of a client whose packets come from `source`; never raises, whatever the bytes are."""
        for header, run in groupby(packets, _CHANNEL_HEADER):
            if len(header) == _CHANNEL_HEADER_BYTES and _OLD_CHANNEL_FIRST <= header[0] <= _OLD_CHANNEL_LAST:
                self._relay_channel_data(client, header, list(run), now_us)
            else:
                for packet in run:
                    self._handle_message(client, source, packet, now_us, wall_s, is_stream=is_stream)

    def handle_peer(self, relay_id: int, peer: Address, packets: list[bytes], now_us: int) -> None:
        """Datagrams of a peer at a relayed address."""
        allocation = self._by_relay_id.get(relay_id)
        if allocation is not None:
            self._relay_to_client(allocation, peer, packets, now_us)

    def handle_relay_opened(self, relay_id: int, relayed: Address | None, now_us: int) -> None:
        """What became of an OpenRelay; None: there is no free port. That of a port above is at the port above."""
        allocation = self._by_relay_id.get(relay_id)
        if allocation is None:
            if relayed is not None:
                self._outputs.append(CloseRelay(relay_id))
            return
        allocation.waiting -= 1
        opened = next(each for each in allocation.relayed if each.relay_id == relay_id)
        if relayed is not None:
            opened.address = relayed
            self._by_relayed[relayed] = allocation
        elif opened is allocation.relayed[0]:
            answer = StunMessage(Method.ALLOCATE, Class.ERROR, allocation.transaction_id, error_code=508)
            signed = encode_stun(answer, integrity_key=allocation.key, fingerprint=allocation.has_fingerprint)
            self._outputs.append(ToClient(allocation.client, [signed], False))
            self._drop(allocation)
            return
        else:
            allocation.relayed.remove(opened)
            del self._by_relay_id[relay_id]
            allocation.address_error = (opened.family, 508)
        if not allocation.waiting:
            allocation.ends_us = now_us + allocation.lifetime_s * SECOND_US
            self._reserve_port_above(allocation, now_us)
            self._say_allocated(allocation)

    def handle_client_gone(self, client: Client) -> None:
        """The stream of this client is over, and with it what it had."""
        allocation = self._by_client.get(client)
        if allocation is not None:
            self._drop(allocation)

    def handle_timeout(self, now_us: int) -> None:
        """End what has run out: a tenth of all at a time, so that packets never wait for long."""
        if self._sweep_at_us is None or now_us < self._sweep_at_us:
            return
        self._sweep_at_us = now_us + _SWEEP_US
        part = list(islice(self._sweeping, len(self._by_client) // _SWEEPS_PER_ROUND + 1))
        for allocation in part:
            if self._by_client.get(allocation.client) is allocation:
                self._sweep(allocation, now_us)
        if not part:
            self._sweeping = iter(list(self._by_client.values()))
            self._budgets.sweep(now_us)
            for token in [token for token, kept in self._reservations.items() if kept.ends_us <= now_us]:
                ended = self._reservations.pop(token)
                self._budgets.close(ended.share)
                self._outputs.append(CloseRelay(ended.relayed.relay_id))
        if not (self._by_client or self._reservations or self._budgets.is_in_use):
            self._sweep_at_us = None

    def poll_output(self) -> Output | None:
        """What to do next, in order."""
        return self._outputs.popleft() if self._outputs else None

    def poll_timeout(self) -> Deadline | None:
        """When to call `handle_timeout` next."""
        return None if self._sweep_at_us is None else Deadline(self._sweep_at_us, "end what has run out")

    # Requests

    def _handle_message(self, client: Client, source: Address, data: bytes, now_us: int, wall_s: int, *, is_stream: bool) -> None:
        try:
            message = decode_stun(data)
        except WireError:
            self.counters["malformed"] += 1
            return
        if message.message_class == Class.INDICATION and message.method == Method.SEND:
            self._relay_send(client, message, now_us)
        elif message.message_class == Class.REQUEST:
            self._answer(_Request(client, source, is_stream, message, len(data)), data, now_us, wall_s)

    def _answer(self, asked: _Request, data: bytes, now_us: int, wall_s: int) -> None:
        message = asked.message
        answer = StunMessage(message.method, Class.SUCCESS, message.transaction_id)
        key: bytes | None = None
        identity = b""
        try:
            key, username = self._authenticate(asked, data, answer, now_us, wall_s)
            identity = self._access.identity(username, asked.source[0])
            if message.unknown_required:
                raise _Refusal(420, message.unknown_required[:8])
            allocation = self._by_client.get(asked.client)
            if message.method == Method.ALLOCATE:
                self._allocate(asked, allocation, identity, username, key, now_us)
                return
            if allocation is None or allocation.waiting or allocation.ends_us <= now_us:
                if message.method != Method.REFRESH or message.lifetime_s != 0:
                    raise _Refusal(437)
                answer.lifetime_s = 0
            elif identity != allocation.share.identity:
                raise _Refusal(441)
            elif (step := self._steps.get(message.method)) is None:
                raise _Refusal(400)
            else:
                step(allocation, message, answer, now_us)
        except _Refusal as refusal:
            self.counters[f"refused_{refusal.code}"] += 1
            answer.message_class, answer.error_code = Class.ERROR, refusal.code
            answer.unknown_attributes = refusal.unknown
        encoded = encode_stun(answer, integrity_key=key, fingerprint=message.has_fingerprint)
        if answer.message_class == Class.ERROR and not self._may_refuse(asked, key, identity, len(encoded), now_us):
            self.counters["refusals_unsaid"] += 1
            return
        self._outputs.append(ToClient(asked.client, [encoded], False))

    def _may_refuse(self, asked: _Request, key: bytes | None, identity: bytes, answer_bytes: int, now_us: int) -> bool:
        if asked.is_stream:
            return True
        if key is not None:
            return self._refusals.may_tell_client(identity, now_us)
        return self._refusals.may_tell_stranger(asked.source[0], asked.byte_count, answer_bytes, now_us)

    def _authenticate(self, asked: _Request, data: bytes, answer: StunMessage, now_us: int, wall_s: int) -> tuple[bytes, bytes]:
        """Key and name (RFC 8489 §9.2.4)."""
        message, host = asked.message, asked.source[0]
        username, nonce = message.username, message.nonce
        if message.has_integrity and (username is None or message.realm is None or nonce is None):
            raise _Refusal(400)
        key = self._access.key(username, wall_s) if username is not None and message.realm == self._access.realm else None
        if not message.has_integrity or username is None or nonce is None or key is None or not integrity_holds(data, key):
            answer.realm, answer.nonce = self._access.realm, self._nonces.make(host, now_us)
            raise _Refusal(401)
        if not self._nonces.holds(nonce, host, now_us):
            answer.realm, answer.nonce = self._access.realm, self._nonces.make(host, now_us)
            raise _Refusal(438)
        return key, username

    def _allocate(
        self, asked: _Request, existing: _Allocation | None, identity: bytes, username: bytes, key: bytes, now_us: int
    ) -> None:
        message = asked.message
        if existing is not None and existing.ends_us <= now_us:
            self._drop(existing)
            existing = None
        if existing is not None:
            if existing.transaction_id != message.transaction_id or existing.username != username:
                raise _Refusal(437)
            if not existing.waiting:
                self._say_allocated(existing)
            return
        families = self._families_wanted(message)
        if self._drain_ends_us is not None:
            raise _Refusal(508)
        host = asked.source[0]
        reserved = self._take_reservation(message, identity, now_us)
        if reserved is None:
            above = int(_reserves(message))
            room = self._budgets.quotas.allocations_max - len(self._by_relay_id) - len(self._reservations)
            if room < len(families) + above:
                raise _Refusal(508)
            if self._budgets.is_full(identity, host, 1 + above):
                raise _Refusal(486)
        made = _Allocation(
            asked, username, key, self._budgets.open(identity, host, now_us), self._lifetime_s(message, now_us), now_us
        )
        self._by_client[asked.client] = made
        if message.additional_address_family is not None and len(families) == 1:
            made.address_error = (FAMILY_IPV6, 440)
        if self._sweep_at_us is None:
            self._sweep_at_us = now_us + _SWEEP_US
        if reserved is not None:
            made.relayed.append(reserved)
            self._by_relay_id[reserved.relay_id] = made
            assert reserved.address is not None, "reserved ports are open"
            self._by_relayed[reserved.address] = made
            self._say_allocated(made)
            return
        for family in families:
            self._open_relay(made, family, message.even_port)

    def _families_wanted(self, message: StunMessage) -> list[int]:
        """The families of the addresses that this request shall have (RFC 8656 §7.2), or a refusal."""
        if message.requested_transport is None:
            raise _Refusal(400)
        if message.requested_transport != TRANSPORT_UDP:
            raise _Refusal(442)
        if message.dont_fragment and not self._can_forbid_fragments:
            raise _Refusal(420, [_DONT_FRAGMENT])
        family, additional = message.requested_address_family, message.additional_address_family
        if message.reservation_token is not None and (message.even_port is not None or family or additional):
            raise _Refusal(400)
        if additional is not None and (additional != FAMILY_IPV6 or family is not None or _reserves(message)):
            raise _Refusal(400)
        if (family or FAMILY_IPV4) not in self._families:
            raise _Refusal(440)
        wanted = [family or FAMILY_IPV4]
        return [*wanted, FAMILY_IPV6] if additional is not None and FAMILY_IPV6 in self._families else wanted

    def _open_relay(self, allocation: _Allocation, family: int, even_port: int | None) -> None:
        self._last_relay_id += 1
        relayed = _Relayed(self._last_relay_id, family)
        allocation.relayed.append(relayed)
        allocation.waiting += 1
        self._by_relay_id[relayed.relay_id] = allocation
        next_relay_id = None
        if even_port is not None and even_port & EVEN_PORT_RESERVE:
            self._last_relay_id += 1
            next_relay_id = self._last_relay_id
            allocation.token = self._entropy(RESERVATION_TOKEN_BYTES)
        self._outputs.append(OpenRelay(relayed.relay_id, family, even_port is not None, next_relay_id))

    def _reserve_port_above(self, allocation: _Allocation, now_us: int) -> None:
        if allocation.token is None:
            return
        below = allocation.relayed[0]
        assert below.address is not None, "open"
        above = _Relayed(below.relay_id + 1, below.family)
        above.address = (below.address[0], below.address[1] + 1)
        share = self._budgets.open(allocation.share.identity, allocation.source[0], now_us)
        self._reservations[allocation.token] = _Reservation(above, share, now_us + RESERVATION_US)

    def _take_reservation(self, message: StunMessage, identity: bytes, now_us: int) -> _Relayed | None:
        token = message.reservation_token
        if token is None:
            return None
        kept = self._reservations.get(token)
        if kept is None or kept.ends_us <= now_us or kept.share.identity != identity:
            raise _Refusal(508)
        del self._reservations[token]
        self._budgets.close(kept.share)
        return kept.relayed

    def _say_allocated(self, allocation: _Allocation) -> None:
        answer = StunMessage(Method.ALLOCATE, Class.SUCCESS, allocation.transaction_id)
        answer.xor_mapped_address = allocation.source
        answer.xor_relayed_address, answer.xor_relayed_address_2, *_ = [*(each.address for each in allocation.relayed), None]
        answer.lifetime_s, answer.reservation_token = allocation.lifetime_s, allocation.token
        answer.address_error = allocation.address_error
        signed = encode_stun(answer, integrity_key=allocation.key, fingerprint=allocation.has_fingerprint)
        self._outputs.append(ToClient(allocation.client, [signed], False))

    def _refresh(self, allocation: _Allocation, message: StunMessage, answer: StunMessage, now_us: int) -> None:
        family = message.requested_address_family
        if family is not None and all(each.family != family for each in allocation.relayed):
            raise _Refusal(443)
        if message.lifetime_s == 0:
            answer.lifetime_s = 0
            if family is not None and len(allocation.relayed) > 1:
                self._close_family(allocation, family)
            else:
                self._drop(allocation)
            return
        answer.lifetime_s = self._lifetime_s(message, now_us)
        allocation.ends_us = now_us + answer.lifetime_s * SECOND_US

    def _close_family(self, allocation: _Allocation, family: int) -> None:
        for relayed in [each for each in allocation.relayed if each.family == family]:
            allocation.relayed.remove(relayed)
            self._close_relayed(relayed)
            for number, channel in list(allocation.channels.items()):
                if channel.relay_id == relayed.relay_id:
                    del allocation.channels[number], allocation.by_peer[channel.peer]

    def _create_permission(self, allocation: _Allocation, message: StunMessage, answer: StunMessage, now_us: int) -> None:
        if not message.xor_peer_addresses:
            raise _Refusal(400)
        hosts = {host for host, _ in message.xor_peer_addresses}
        self._check_hosts(allocation, hosts)
        for host in hosts:
            self._permit(allocation, host, now_us)

    def _bind_channel(self, allocation: _Allocation, message: StunMessage, answer: StunMessage, now_us: int) -> None:
        number = message.channel_number
        if number is None or not CHANNEL_MIN <= number <= OLD_CHANNEL_MAX or len(message.xor_peer_addresses) != 1:
            raise _Refusal(400)
        peer = message.xor_peer_addresses[0]
        self._check_hosts(allocation, {peer[0]})
        name = number.to_bytes(2, "big")
        bound, of_peer = allocation.channels.get(name), allocation.by_peer.get(peer)
        if bound is not of_peer:
            raise _Refusal(400)
        if bound is None and len(allocation.channels) >= limits.TURN_SERVER_PEERS_MAX:
            raise _Refusal(508)
        if not self._policy.allows(peer, is_live_relay=peer in self._by_relayed):
            raise _Refusal(403)
        permission = self._permit(allocation, peer[0], now_us)
        relayed = allocation.relayed_of(peer[0])
        assert relayed is not None, "checked"
        made = _Channel(number, peer, permission, relayed.relay_id, now_us + CHANNEL_US)
        allocation.channels[name] = allocation.by_peer[peer] = made

    def _permit(self, allocation: _Allocation, host: str, now_us: int) -> _Permission:
        permission = allocation.permissions.get(host)
        if permission is None:
            permission = allocation.permissions[host] = _Permission(0, is_own=self._policy.is_own(host))
        permission.ends_us = now_us + PERMISSION_US
        return permission

    def _check_hosts(self, allocation: _Allocation, hosts: set[str]) -> None:
        for host in hosts:
            if allocation.relayed_of(host) is None:
                raise _Refusal(443)
            if not self._policy.allows_host(host):
                raise _Refusal(403)
        if len(allocation.permissions.keys() | hosts) > limits.TURN_SERVER_PEERS_MAX:
            raise _Refusal(508)

    def _lifetime_s(self, message: StunMessage, now_us: int) -> int:
        granted = min(max(message.lifetime_s or 0, LIFETIME_S), LIFETIME_S_MAX)
        if self._drain_ends_us is None:
            return granted
        return max(1, min(granted, (self._drain_ends_us - now_us) // SECOND_US))

    # Data

    def _relay_channel_data(self, client: Client, header: bytes, packets: list[bytes], now_us: int) -> None:
        """Messages with one and the same header. A channel outlives its permission, but carries nothing without it."""
        allocation = self._by_client.get(client)
        end = _CHANNEL_HEADER_BYTES + (header[2] << 8 | header[3])
        if {end} != set(map(len, packets)):
            # By UDP, too, it may be padded.
            count = len(packets)
            packets = [packet for packet in packets if end <= len(packet) <= end + 3]
            self.counters["malformed"] += count - len(packets)
        if allocation is None or (channel := allocation.channels.get(header[:2])) is None or channel.ends_us <= now_us:
            self.counters["client_not_permitted"] += len(packets)
            return
        payloads = [packet[_CHANNEL_HEADER_BYTES:end] for packet in packets]
        self._forward(allocation, channel.permission, channel.relay_id, channel.peer, payloads, now_us)

    def _relay_send(self, client: Client, message: StunMessage, now_us: int) -> None:
        allocation = self._by_client.get(client)
        if allocation is None or message.unknown_required or message.data is None or len(message.xor_peer_addresses) != 1:
            self.counters["client_not_permitted"] += 1
            return
        peer = message.xor_peer_addresses[0]
        permission, relayed = allocation.permissions.get(peer[0]), allocation.relayed_of(peer[0])
        if permission is None or relayed is None or (message.dont_fragment and not self._can_forbid_fragments):
            self.counters["client_not_permitted"] += 1
            return
        self._forward(allocation, permission, relayed.relay_id, peer, [message.data], now_us, dont_fragment=message.dont_fragment)

    def _forward(
        self,
        allocation: _Allocation,
        permission: _Permission,
        relay_id: int,
        peer: Address,
        payloads: list[bytes],
        now_us: int,
        *,
        dont_fragment: bool = False,
    ) -> None:
        beside = self._by_relayed.get(peer) if permission.is_own else None
        is_allowed = peer[1] and (beside is not None or not permission.is_own or self._may_reach_here(peer))
        if allocation.ends_us <= now_us or permission.ends_us <= now_us or not is_allowed:
            self.counters["client_not_permitted"] += len(payloads)
            return
        if _ALLOCATE_TYPE in map(_MESSAGE_TYPE, payloads):
            count = len(payloads)
            payloads = [payload for payload in payloads if payload[:2] != _ALLOCATE_TYPE or payload[4:8] != _COOKIE]
            self.counters["relays_of_relays"] += count - len(payloads)
        admitted = allocation.share.admit(payloads, now_us)
        if len(admitted) < len(payloads):
            self.counters["over_quota"] += len(payloads) - len(admitted)
        if not admitted:
            return
        self.counters["to_peers"] += len(admitted)
        if beside is None:
            self._outputs.append(ToPeer(relay_id, peer, admitted, dont_fragment))
            return
        mine = allocation.relayed_of(peer[0])
        if mine is not None and mine.address is not None:
            self._relay_to_client(beside, mine.address, admitted, now_us)

    def _may_reach_here(self, peer: Address) -> bool:
        """Whether this port of this machine is allowed though it is no relayed address; asked for every packet."""
        verdict = self._verdicts.get(peer)
        if verdict is None:
            if len(self._verdicts) >= limits.TURN_SERVER_PEERS_MAX:
                self._verdicts.clear()
            verdict = self._verdicts[peer] = self._policy.allows(peer, is_live_relay=False)
        return verdict

    def _relay_to_client(self, allocation: _Allocation, peer: Address, packets: list[bytes], now_us: int) -> None:
        permission = allocation.permissions.get(peer[0])
        if permission is None or permission.ends_us <= now_us or allocation.ends_us <= now_us:
            self.counters["peer_not_permitted"] += len(packets)
            return
        admitted = allocation.share.admit(packets, now_us)
        if len(admitted) < len(packets):
            self.counters["over_quota"] += len(packets) - len(admitted)
        if not admitted:
            return
        self.counters["from_peers"] += len(admitted)
        channel = allocation.by_peer.get(peer)
        if channel is not None and channel.ends_us > now_us:
            wrapped = _wrap(channel.prefix, admitted)
        else:
            wrapped = [self._data_indication(peer, packet) for packet in admitted]
        self._outputs.append(ToClient(allocation.client, wrapped, True))

    def _data_indication(self, peer: Address, data: bytes) -> bytes:
        indication = StunMessage(Method.DATA, Class.INDICATION, self._entropy(TRANSACTION_ID_BYTES))
        indication.xor_peer_addresses, indication.data = [peer], data
        return encode_stun(indication, fingerprint=False)

    # Ends

    def _sweep(self, allocation: _Allocation, now_us: int) -> None:
        if allocation.ends_us <= now_us:
            self._drop(allocation)
            return
        # A channel that outlives its permission has it again once it is bound anew.
        held = {channel.permission for channel in allocation.channels.values()}
        gone = [(host, each) for host, each in allocation.permissions.items() if each.ends_us <= now_us and each not in held]
        for host, _ in gone:
            del allocation.permissions[host]
        for number, channel in [each for each in allocation.channels.items() if each[1].ends_us <= now_us]:
            del allocation.channels[number], allocation.by_peer[channel.peer]

    def _drop(self, allocation: _Allocation) -> None:
        del self._by_client[allocation.client]
        for relayed in allocation.relayed:
            self._close_relayed(relayed)
        self._budgets.close(allocation.share)

    def _close_relayed(self, relayed: _Relayed) -> None:
        del self._by_relay_id[relayed.relay_id]
        if relayed.address is not None:
            del self._by_relayed[relayed.address]
        self._outputs.append(CloseRelay(relayed.relay_id))


def _reserves(message: StunMessage) -> bool:
    """Whether the port above is wanted, too."""
    return message.even_port is not None and bool(message.even_port & EVEN_PORT_RESERVE)


def _wrap(prefix: bytes, packets: list[bytes]) -> list[bytes]:
    """As ChannelData of this number."""
    headers = {size: prefix + size.to_bytes(2, "big") for size in set(map(len, packets))}
    if len(headers) == 1:
        (header,) = headers.values()
        return [header + packet for packet in packets]
    return [headers[len(packet)] + packet for packet in packets]
