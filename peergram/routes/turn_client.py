"""One allocation on a TURN server (RFC 8656): relayed addresses, and the way of datagrams through them.

The owner knows the way to the server, a socket or a stream, and brings requests there and answers back. One allocation asks for
an IPv4 address and, if the server has one, an IPv6 address too. Credentials are long-term ones: the first request goes without,
the server's 401 names realm and nonce. Once they are known, every answer must be signed; only 401 and 438, which a server cannot
sign, count without, and just `TURN_AUTH_ROUNDS_MAX` times for one request.

Requests travel in front of the first datagram that needs them, in the same call: the server takes them in order, so nothing waits
for a permission or is held back here. Peers that get data, rather than checks only, get a channel: 4 bytes a packet instead
of 36.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from peergram.address import Address, is_local, is_loopback
from peergram.config import (
    STUN_ANSWER_BYTES_MAX,
    STUN_KEEPALIVE_US,
    TURN_ALLOCATE_ROUNDS_MAX,
    TURN_AUTH_ROUNDS_MAX,
    TURN_CHANNEL_REFRESH_US,
    TURN_LIFETIME_S_MAX,
    TURN_PEERS_MAX,
    TURN_PERMISSION_ADDRESSES_MAX,
    TURN_PERMISSION_REFRESH_US,
    TURN_PERMISSION_UNUSED_US,
    TURN_REFRESH_INTERVAL_US,
    TURN_RELEASE_US,
)
from peergram.errors import WireError
from peergram.routes.candidates import is_usable
from peergram.routes.channel_numbers import ChannelNumbers
from peergram.routes.transaction import Transaction
from peergram.timing import NEVER, Deadline, TimerTable
from peergram.wire.stun import (
    FAMILY_IPV6,
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
    long_term_key,
    looks_like_stun,
)

_DATA_FIRST_BYTE_MIN: Final = 0x40
"""Datagrams to peers begin with less if they are connectivity checks."""
_NO_TRANSACTION: Final = bytes(TRANSACTION_ID_BYTES)
_UNSIGNED_ERRORS: Final = (401, 438)
_OTHER_FORM_ERRORS: Final = (400, 420, 440)
_FORMS: Final = ((FAMILY_IPV6, None), (None, None), (None, FAMILY_IPV6))
"""What is asked for (additional and requested family), one after the other while the server refuses: IPv4 with IPv6 beside it,
what an older server gives, IPv6 alone."""

REFRESH = "refresh the allocation"
PERMISSIONS = "refresh permissions and channels"
KEEPALIVE = "keep the way to the TURN server open"
RELEASE = "give up on releasing"
EXPIRY = "the allocation ends"


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a TURN server knows us by."""

    username: bytes
    password: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class RelayReady:
    """The server relays for these addresses now, at most one of each family."""

    addresses: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class RelayLost:
    """The allocation is gone, or could not be had; a redirect names another server to ask."""

    text: str
    alternate: Address | None = None


RelayEvent = RelayReady | RelayLost


class TurnState:
    """How far the allocation is."""

    ALLOCATING: Final = "allocating"
    READY: Final = "ready"
    RELEASING: Final = "releasing"
    GONE: Final = "gone"


class _Request:
    """A request under way, and what it was made of: it is made anew when the server wants other credentials."""

    __slots__ = ("auth_rounds", "channel_peer", "hosts", "key", "message", "offered", "transaction")

    def __init__(
        self,
        message: StunMessage,
        key: bytes | None,
        auth_rounds: int,
        hosts: list[str],
        channel_peer: _Peer | None,
        offered: Credentials | None,
    ) -> None:
        self.message = message
        self.key = key
        """What it is signed with, and its answer as well."""
        self.auth_rounds = auth_rounds
        self.hosts = hosts
        self.channel_peer = channel_peer
        self.offered = offered
        """Other credentials than those the allocation was made with, to go on with if the server agrees."""
        self.transaction: Transaction


class _Peer:
    """One address datagrams go to through this relay."""

    __slots__ = ("bound_until_us", "channel", "is_binding", "remote", "used_at_us")

    def __init__(self, remote: Address, now_us: int) -> None:
        self.remote = remote
        self.channel = 0
        self.is_binding = False
        self.bound_until_us = 0
        """Data goes through the channel before this time."""
        self.used_at_us = now_us


class _Permission:
    __slots__ = ("asked_at_us", "is_refused", "used_at_us")

    def __init__(self, now_us: int) -> None:
        self.asked_at_us = now_us
        self.is_refused = False
        self.used_at_us = now_us


class TurnClient:
    """One allocation. Starts when made; drain transmits, then events, then re-arm `poll_timeout`."""

    def __init__(
        self,
        *,
        server: Address,
        credentials: Credentials | None,
        entropy: Callable[[int], bytes],
        now_us: int,
        is_stream: bool = False,
        permission_refresh_us: int = TURN_PERMISSION_REFRESH_US,
    ) -> None:
        self.server = server
        self.state = TurnState.ALLOCATING
        self.addresses: tuple[Address, ...] = ()
        """Relayed addresses while READY."""
        self._credentials = credentials
        self._entropy = entropy
        self._is_stream = is_stream
        self._permission_refresh_us = permission_refresh_us
        self._realm: bytes | None = None
        self._nonce: bytes | None = None
        self._key: bytes | None = None
        self._renewed: Credentials | None = None
        """Newer ones, which the server has not agreed to."""
        self._is_refused = False
        """Whether it wants the old ones no longer, either."""
        self._allocate_rounds = 0
        self._form = 0
        self._requests: dict[bytes, _Request] = {}
        self._peers: OrderedDict[Address, _Peer] = OrderedDict()
        self._channels: dict[int, _Peer] = {}
        self._channel_numbers = ChannelNumbers()
        self._permissions: OrderedDict[str, _Permission] = OrderedDict()
        self._is_suspected = False
        self._silent_refreshes = 0
        self._last_sent_us = now_us
        self._outgoing: deque[bytes] = deque()
        self._timers = TimerTable()
        self._events: deque[RelayEvent] = deque()
        self._allocate(now_us)

    @property
    def requests_under_way(self) -> int:
        """How many requests wait for their answers."""
        return len(self._requests)

    # Datagrams of peers.

    def wrap(self, remote: Address, packets: list[bytes], now_us: int) -> list[bytes] | None:
        """What to send to the server so that `packets` reach `remote` from our relayed address, in order; None where that cannot
        work: no allocation, no relayed address of that family, an address the server has refused or could not reach."""
        if self.state != TurnState.READY or not self._is_reachable(remote):
            return None
        peer = self._peers.get(remote) or self._add_peer(remote, now_us)
        peer.used_at_us = now_us
        self._last_sent_us = now_us
        if now_us < peer.bound_until_us:
            return [encode_channel_data(peer.channel, packet, padded=self._is_stream) for packet in packets]
        permission = self._permissions.get(remote[0])
        if permission is not None and permission.is_refused:
            return None
        before = self._ask_permission([remote[0]], now_us) if permission is None else []
        if not peer.is_binding and packets and packets[-1][:1] >= bytes((_DATA_FIRST_BYTE_MIN,)):
            before += self._bind_channel(peer, now_us)
        return before + [self._send_indication(remote, packet) for packet in packets]

    def unwrap(self, datagram: bytes) -> tuple[Address, bytes] | None:
        """Peer address and inner datagram of what came from the server; None if it is nothing of that kind, or from somebody we
        never allowed."""
        if self.state != TurnState.READY:
            return None
        try:
            if looks_like_stun(datagram):
                message = decode_stun(datagram)
                peers, data = message.xor_peer_addresses, message.data
                is_data = message.method == Method.DATA and message.message_class == Class.INDICATION
                if not is_data or not peers or data is None or peers[0][0] not in self._permissions:
                    return None
                return peers[0], data
            channel, payload = decode_channel_data(datagram)
        except WireError:
            return None
        peer = self._channels.get(channel)
        return None if peer is None else (peer.remote, payload)

    def permit(self, hosts: list[str], now_us: int) -> None:
        """Let these addresses send to us before anything is sent to them."""
        if self.state != TurnState.READY:
            return
        new = [host for host in hosts if host not in self._permissions and self._is_reachable((host, 0))]
        for at in range(0, len(new), TURN_PERMISSION_ADDRESSES_MAX):
            self._outgoing += self._ask_permission(new[at : at + TURN_PERMISSION_ADDRESSES_MAX], now_us)

    def renew(self, credentials: Credentials, now_us: int) -> None:
        """We have other credentials. A server that counts by identity goes on with them; coturn refuses a change of name (441)
        and goes on with the old one, whatever its end, so that nothing is lost by asking."""
        if self._credentials is None:
            self._credentials = credentials
        elif credentials != self._credentials and credentials != self._renewed:
            self._renewed = credentials
            if self.state == TurnState.READY:
                self._offer(credentials, now_us)

    def check(self, now_us: int) -> None:
        """Somebody doubts that this way works: ask the server, and give the allocation up unless it answers soon."""
        if self.state == TurnState.READY and not self._is_suspected:
            self._is_suspected = True
            self._silent_refreshes = 0
            self._refresh(now_us)

    # The verbs.

    def handle_response(self, message: StunMessage, datagram: bytes, now_us: int) -> bool:
        """An answer of the server; whether it is one to a request of ours."""
        request = self._requests.get(message.transaction_id)
        if request is None or message.method != request.message.method:
            return False
        if message.message_class not in (Class.SUCCESS, Class.ERROR) or len(datagram) > STUN_ANSWER_BYTES_MAX:
            return True
        if not self._is_signed(request, message, datagram):
            return True
        del self._requests[message.transaction_id]
        if message.message_class == Class.ERROR or message.unknown_required:
            self._handle_error(request, message, now_us)
        elif message.method == Method.ALLOCATE:
            self._handle_allocated(message, now_us)
        elif message.method == Method.REFRESH:
            if request.offered is not None:
                self._adopt(request.offered)
            self._handle_refreshed(message, now_us)
        elif request.channel_peer is not None:
            self._handle_bound(request.channel_peer, now_us)
        return True

    def handle_timeout(self, now_us: int) -> None:
        """Repeat, refresh, give up what is due."""
        for transaction_id, request in list(self._requests.items()):
            if request.transaction.is_spent(now_us) and self._requests.pop(transaction_id, None) is not None:
                self._handle_silence(request, now_us)
        for name in self._timers.pop_due(now_us):
            if name in (RELEASE, EXPIRY):
                self._end("the allocation was not refreshed in time" if name == EXPIRY else "released")
            elif self.state == TurnState.READY:
                if name == REFRESH:
                    self._refresh(now_us)
                elif name == PERMISSIONS:
                    self._refresh_peers(now_us)
                else:
                    self._keep_alive(now_us)

    def poll_transmit(self, now_us: int) -> bytes | None:
        """What to send to the server next."""
        if self._outgoing:
            self._last_sent_us = now_us
            return self._outgoing.popleft()
        for request in self._requests.values():
            if (datagram := request.transaction.take(now_us)) is not None:
                self._last_sent_us = now_us
                return datagram
        return None

    def poll_timeout(self) -> Deadline | None:
        """When to call `handle_timeout` next."""
        due_us = min((request.transaction.due_at_us for request in self._requests.values()), default=NEVER)
        timer = self._timers.next()
        if due_us < (NEVER if timer is None else timer.at_us):
            return Deadline(due_us, "TURN request")
        return timer

    def poll_event(self) -> RelayEvent | None:
        """What there is to know since the last call."""
        return self._events.popleft() if self._events else None

    def release(self, now_us: int) -> None:
        """Give the allocation back; GONE when the server agreed or after `TURN_RELEASE_US`. Without an event."""
        if self.state == TurnState.READY:
            self._enter(TurnState.RELEASING)
            self._requests.clear()
            self._timers = TimerTable()
            self._timers.set(RELEASE, now_us + TURN_RELEASE_US)
            self._start(StunMessage(Method.REFRESH, Class.REQUEST, b"", lifetime_s=0), now_us)
        elif self.state == TurnState.ALLOCATING:
            self.abandon()

    def abandon(self) -> None:
        """The way to the server is gone: forget everything, without an event."""
        self._enter(TurnState.GONE)
        self.addresses = ()
        self._requests.clear()
        self._outgoing.clear()
        self._timers = TimerTable()

    # Requests.

    def _allocate(self, now_us: int) -> None:
        message = StunMessage(Method.ALLOCATE, Class.REQUEST, b"", requested_transport=TRANSPORT_UDP)
        message.additional_address_family, message.requested_address_family = _FORMS[self._form]
        self._start(message, now_us)

    def _refresh(self, now_us: int) -> None:
        self._start(StunMessage(Method.REFRESH, Class.REQUEST, b""), now_us)

    def _start(
        self,
        message: StunMessage,
        now_us: int,
        *,
        auth_rounds: int = 0,
        hosts: list[str] | None = None,
        channel_peer: _Peer | None = None,
        offered: Credentials | None = None,
    ) -> _Request:
        """Put a request under way, signed if we know how."""
        message.transaction_id = self._entropy(TRANSACTION_ID_BYTES)
        credentials, key = self._credentials, self._key
        if offered is not None and self._realm is not None:
            credentials, key = offered, long_term_key(offered.username, self._realm, offered.password)
        if key is not None and credentials is not None:
            message.username, message.realm, message.nonce = credentials.username, self._realm, self._nonce
        request = _Request(message, key, auth_rounds, hosts or [], channel_peer, offered)
        datagram = encode_stun(message, integrity_key=key)
        request.transaction = Transaction(message.transaction_id, datagram, now_us, is_stream=self._is_stream)
        self._requests[message.transaction_id] = request
        return request

    def _offer(self, credentials: Credentials, now_us: int) -> None:
        self._start(StunMessage(Method.REFRESH, Class.REQUEST, b""), now_us, offered=credentials)

    def _adopt(self, credentials: Credentials) -> None:
        """The server goes on with these."""
        assert self._realm is not None, "what is offered is signed"
        self._credentials, self._is_refused = credentials, False
        self._key = long_term_key(credentials.username, self._realm, credentials.password)
        if self._renewed == credentials:
            self._renewed = None
        # What the old ones were refused may be had now.
        for host in [host for host, permission in self._permissions.items() if permission.is_refused]:
            del self._permissions[host]

    def _ask_permission(self, hosts: list[str], now_us: int) -> list[bytes]:
        """The request's bytes, to be sent in front of what needs it."""
        for host in hosts:
            permission = self._permissions.get(host)
            if permission is None:
                self._permissions[host] = _Permission(now_us)
                while len(self._permissions) > TURN_PEERS_MAX:
                    self._permissions.popitem(last=False)
            else:
                permission.asked_at_us = now_us
        message = StunMessage(Method.CREATE_PERMISSION, Class.REQUEST, b"", xor_peer_addresses=[(host, 0) for host in hosts])
        request = self._start(message, now_us, hosts=hosts)
        self._timers.set_earlier(PERMISSIONS, now_us + self._permission_refresh_us)
        return _first_send(request, now_us)

    def _bind_channel(self, peer: _Peer, now_us: int) -> list[bytes]:
        if peer.channel == 0:
            number = self._channel_numbers.take(now_us)
            if number is None:
                return []
            peer.channel = number
            self._channels[number] = peer
        peer.is_binding = True
        message = StunMessage(
            Method.CHANNEL_BIND, Class.REQUEST, b"", channel_number=peer.channel, xor_peer_addresses=[peer.remote]
        )
        return _first_send(self._start(message, now_us, channel_peer=peer), now_us)

    def _forget_peer(self, peer: _Peer, now_us: int) -> None:
        del self._peers[peer.remote]
        self._give_up_channel(peer, now_us)

    def _send_indication(self, remote: Address, packet: bytes) -> bytes:
        message = StunMessage(Method.SEND, Class.INDICATION, _NO_TRANSACTION, xor_peer_addresses=[remote], data=packet)
        return encode_stun(message, fingerprint=False)

    # Answers.

    @staticmethod
    def _is_signed(request: _Request, message: StunMessage, datagram: bytes) -> bool:
        """Whether this answer may be believed: the server proved that it knows the password, or cannot have to."""
        if request.key is None:
            return True
        if message.message_class == Class.ERROR and message.error_code in _UNSIGNED_ERRORS:
            return True
        # Whoever forges a refusal of what was offered only keeps us with what we have.
        if message.message_class == Class.ERROR and request.offered is not None:
            return True
        return integrity_holds(datagram, request.key)

    def _handle_allocated(self, message: StunMessage, now_us: int) -> None:
        found = (message.xor_relayed_address, message.xor_relayed_address_2)
        at_home = is_loopback(self.server)
        addresses = tuple(address for address in found if address is not None and is_usable(address, allow_loopback=at_home))
        lifetime_s = message.lifetime_s
        if not addresses or not lifetime_s or len({":" in host for host, _ in addresses}) != len(addresses):
            self._end("the server's answer names no relayed address")
            return
        self._enter(TurnState.READY)
        self.addresses = addresses
        self._arm_refresh(lifetime_s, now_us)
        if not self._is_stream:
            self._timers.set(KEEPALIVE, now_us + STUN_KEEPALIVE_US)
        self._events.append(RelayReady(addresses))
        if self._renewed is not None:
            self._offer(self._renewed, now_us)

    def _handle_refreshed(self, message: StunMessage, now_us: int) -> None:
        if self.state == TurnState.RELEASING:
            self._end("released")
        elif self.state == TurnState.ALLOCATING:
            self._allocate(now_us)
        elif message.lifetime_s:
            self._arm_refresh(message.lifetime_s, now_us)
        else:
            self._end("the server ended the allocation")

    def _arm_refresh(self, lifetime_s: int, now_us: int) -> None:
        self._is_suspected = False
        self._silent_refreshes = 0
        lifetime_us = min(lifetime_s, TURN_LIFETIME_S_MAX) * 1_000_000
        self._timers.set(REFRESH, now_us + max(lifetime_us // 2, TURN_REFRESH_INTERVAL_US))
        self._timers.set(EXPIRY, now_us + lifetime_us)

    def _handle_bound(self, peer: _Peer, now_us: int) -> None:
        peer.is_binding = False
        peer.bound_until_us = now_us + 2 * TURN_CHANNEL_REFRESH_US
        self._permissions.setdefault(peer.remote[0], _Permission(now_us))
        self._timers.set_earlier(PERMISSIONS, now_us + self._permission_refresh_us)

    def _handle_error(self, request: _Request, message: StunMessage, now_us: int) -> None:
        code = message.error_code if message.message_class == Class.ERROR else 420
        if code in _UNSIGNED_ERRORS and self._take_challenge(request, message):
            self._start(
                request.message,
                now_us,
                auth_rounds=request.auth_rounds + 1,
                hosts=request.hosts,
                channel_peer=request.channel_peer,
                offered=request.offered,
            )
        elif request.message.method == Method.ALLOCATE:
            self._handle_refusal(code, message, now_us)
        elif request.message.method == Method.REFRESH:
            if self.state == TurnState.ALLOCATING:
                self._allocate(now_us)
            elif request.offered is not None and not self._is_refused:
                pass
            elif request.offered is None and self._renewed is not None and self.state == TurnState.READY:
                self._is_refused = True
                self._offer(self._renewed, now_us)
            else:
                self._end(f"the server refused to go on (error {code})")
        elif code == 437:
            self._end("the server has forgotten the allocation")
        elif request.channel_peer is not None:
            self._give_up_channel(request.channel_peer, now_us)
        else:
            self._handle_no_permission(request.hosts, now_us)

    def _take_challenge(self, request: _Request, message: StunMessage) -> bool:
        """Sign with what the server asks for; False if it asks too often, or for another realm than before."""
        if self._credentials is None or request.auth_rounds >= TURN_AUTH_ROUNDS_MAX or message.nonce is None:
            return False
        if self._realm is None:
            if message.realm is None:
                return False
            self._realm = message.realm
            self._key = long_term_key(self._credentials.username, message.realm, self._credentials.password)
        elif message.realm not in (None, self._realm) or message.nonce == request.message.nonce:
            return False
        self._nonce = message.nonce
        return True

    def _handle_refusal(self, code: int | None, message: StunMessage, now_us: int) -> None:
        """No allocation of this form; another form may do."""
        self._allocate_rounds += 1
        may_go_on = self._allocate_rounds <= TURN_ALLOCATE_ROUNDS_MAX
        if code in _OTHER_FORM_ERRORS and may_go_on and self._form + 1 < len(_FORMS):
            self._form += 1
            self._allocate(now_us)
        elif code == 437 and may_go_on:
            # An allocation of an earlier run from the same port; with our password we may end it.
            self._start(StunMessage(Method.REFRESH, Class.REQUEST, b"", lifetime_s=0), now_us)
        else:
            alternate = message.alternate_server if code == 300 else None
            reason = message.error_reason.decode("utf-8", "replace")[:100]
            self._end(f"the server refused the allocation: error {code} {reason}".rstrip(), alternate)

    def _give_up_channel(self, peer: _Peer, now_us: int) -> None:
        """Data goes on in indications; `is_binding` stays, so that it is not tried with every packet."""
        if self._channels.pop(peer.channel, None) is not None:
            self._channel_numbers.give_back(peer.channel, now_us)
        peer.channel = 0
        peer.bound_until_us = 0

    def _handle_no_permission(self, hosts: list[str], now_us: int) -> None:
        """One forbidden address spoils the whole request: ask for each alone."""
        if len(hosts) > 1:
            for host in hosts:
                self._outgoing += self._ask_permission([host], now_us)
        elif (permission := self._permissions.get(hosts[0])) is not None:
            permission.is_refused = True

    def _handle_silence(self, request: _Request, now_us: int) -> None:
        """A request came to nothing."""
        method = request.message.method
        if request.offered is not None and not self._is_refused:
            return
        if method == Method.ALLOCATE or self.state != TurnState.READY:
            self._end("the server does not answer")
        elif method == Method.REFRESH:
            self._silent_refreshes += 1
            if self._is_stream or (self._is_suspected and self._silent_refreshes > 1):
                self._end("the server does not answer any more")
            else:
                # The allocation itself lives until EXPIRY.
                self._timers.set(REFRESH, now_us + TURN_REFRESH_INTERVAL_US)
        elif request.channel_peer is not None:
            request.channel_peer.is_binding = False
        else:
            for host in request.hosts:
                self._permissions.pop(host, None)

    # Upkeep.

    def _refresh_peers(self, now_us: int) -> None:
        """Permissions and channels in use, before they run out; those out of use are forgotten."""
        for peer in list(self._peers.values()):
            if now_us - peer.used_at_us >= TURN_PERMISSION_UNUSED_US:
                self._forget_peer(peer, now_us)
                continue
            permission = self._permissions.get(peer.remote[0])
            if permission is not None:
                permission.used_at_us = max(permission.used_at_us, peer.used_at_us)
            # Bound for two intervals from the last answer: renewed in the second half, or with luck twice in it.
            if peer.channel and not peer.is_binding and peer.bound_until_us - now_us <= TURN_CHANNEL_REFRESH_US:
                self._outgoing += self._bind_channel(peer, now_us)
        due = []
        for host, permission in list(self._permissions.items()):
            if now_us - permission.used_at_us >= TURN_PERMISSION_UNUSED_US:
                del self._permissions[host]
            elif not permission.is_refused:
                due.append(host)
        for at in range(0, len(due), TURN_PERMISSION_ADDRESSES_MAX):
            self._outgoing += self._ask_permission(due[at : at + TURN_PERMISSION_ADDRESSES_MAX], now_us)
        if self._permissions:
            self._timers.set(PERMISSIONS, now_us + self._permission_refresh_us)

    def _keep_alive(self, now_us: int) -> None:
        """NATs between us and the server forget the way sooner than allocations end."""
        if now_us - self._last_sent_us >= STUN_KEEPALIVE_US:
            self._outgoing.append(encode_stun(StunMessage(Method.BINDING, Class.INDICATION, self._entropy(TRANSACTION_ID_BYTES))))
            self._last_sent_us = now_us
        self._timers.set(KEEPALIVE, self._last_sent_us + STUN_KEEPALIVE_US)

    def _add_peer(self, remote: Address, now_us: int) -> _Peer:
        peer = self._peers[remote] = _Peer(remote, now_us)
        if len(self._peers) > TURN_PEERS_MAX:
            self._forget_peer(min(self._peers.values(), key=lambda each: each.used_at_us), now_us)
        return peer

    def _is_reachable(self, remote: Address) -> bool:
        """Whether the relay can have a way to this address, as far as can be told from here."""
        host = remote[0]
        own = next((address for address in self.addresses if (":" in address[0]) == (":" in host)), None)
        if own is None:
            return False
        if is_loopback(remote):
            return is_loopback(own) or is_loopback(self.server)
        # A server with public addresses only reaches nobody behind a NAT by his private address.
        return not is_local(remote) or any(is_local(each) or is_loopback(each) for each in (own, self.server))

    def _end(self, text: str, alternate: Address | None = None) -> None:
        silent = self.state in (TurnState.RELEASING, TurnState.GONE)
        self.abandon()
        if not silent:
            self._events.append(RelayLost(text, alternate))

    def _enter(self, state: str) -> None:
        self.state = state


def _first_send(request: _Request, now_us: int) -> list[bytes]:
    datagram = request.transaction.take(now_us)
    return [] if datagram is None else [datagram]
