"""All relay allocations of one endpoint: which to try, which to keep, when to try again.

Every server is tried through every socket of its family, and those on streams at once beside those on UDP: a network that blocks
UDP has its relay as soon as any other. Of what comes up, `RELAYS_PER_FAMILY_MAX` addresses of each family are used, UDP before
streams, different servers before the same one twice; what is not used is released.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from peergram.address import Address, is_loopback
from peergram.config import (
    RELAY_ATTEMPTS_MAX,
    RELAY_ATTEMPTS_PER_SERVER_MAX,
    RELAYS_PER_FAMILY_MAX,
    SERVER_RETRY_MAX_US,
    SERVER_RETRY_US,
    STREAM_OPEN_US,
)
from peergram.errors import WireError
from peergram.io_requests import CloseStream, OpenStream
from peergram.routes.candidates import Base, is_usable
from peergram.routes.ice_servers import TurnServer
from peergram.routes.turn_client import Credentials, RelayLost, RelayReady, TurnClient, TurnState
from peergram.timing import NEVER, Deadline
from peergram.wire.stun import Class, Method, StunMessage, StunStream, decode_stun, looks_like_stun

_TRANSPORT_RANK: Final = {"udp": 0, "tcp": 1, "tls": 2}
_LOCAL_PREFERENCE_MAX: Final = 65_535


class Way(NamedTuple):
    """One way to a TURN server: through this socket, or by a stream of its own (socket 0)."""

    server: TurnServer
    address: Address
    socket_id: int
    pop: str = ""
    """Of which point of presence, if its server is on the relay map."""

    @property
    def place(self) -> Way:
        """The same whatever the credentials are."""
        return self._replace(server=replace(self.server, username="", password=""))


@dataclass(frozen=True, slots=True)
class Relayed:
    """An address that relays for us. Those on UDP are preferred to those on streams, whatever server they are on."""

    base: Base
    address: Address
    server: Address
    local_preference: int
    pop: str = ""


class _Relay:
    """One way, and what became of it."""

    __slots__ = (
        "bases",
        "client",
        "is_spare",
        "order",
        "path_id",
        "ready_at_us",
        "redirected",
        "retry_at_us",
        "retry_us",
        "stream",
        "way",
    )

    def __init__(self, way: Way, order: int, redirected: bool) -> None:
        self.way = way
        self.order = order
        self.redirected = redirected
        self.path_id = 0
        """Socket or stream in use; 0: none."""
        self.client: TurnClient | None = None
        self.stream: StunStream | None = None
        self.bases: dict[bool, Base] = {}
        """Of the IPv6 address, and of the other."""
        self.is_spare = False
        self.ready_at_us = NEVER
        self.retry_at_us = 0
        self.retry_us = SERVER_RETRY_US

    @property
    def is_stream(self) -> bool:
        return self.way.server.transport != "udp"

    @property
    def is_ready(self) -> bool:
        return self.client is not None and self.client.state == TurnState.READY

    @property
    def is_trying(self) -> bool:
        return self.path_id != 0 and (self.client is None or self.client.state == TurnState.ALLOCATING)


class RelayPool:
    """Drain requests and transmits; `relayed` is what to announce now."""

    def __init__(
        self,
        *,
        entropy: Callable[[int], bytes],
        next_id: Callable[[], int],
        allow_redirect: bool,
        on_server_failed: Callable[[str, int], None],
    ) -> None:
        self.relayed: list[Relayed] = []
        self.settled = 0
        """Grows whenever something other than data of peers was dealt with."""
        self._entropy = entropy
        self._next_id = next_id
        self._allow_redirect = allow_redirect
        self._on_server_failed = on_server_failed
        self._relays: dict[Way, _Relay] = {}
        self._orders = 0
        self._ending: list[_Relay] = []
        """Released, and still telling their servers so."""
        self._by_path: dict[tuple[int, Address], _Relay] = {}
        self._by_base: dict[Base, _Relay] = {}
        self._per_family = RELAYS_PER_FAMILY_MAX
        self._requests: deque[OpenStream | CloseStream] = deque()

    @property
    def is_trying(self) -> bool:
        """Whether a relay may come up soon."""
        return any(relay.is_trying for relay in self._relays.values())

    @property
    def is_busy(self) -> bool:
        """Whether any path to a server is in use."""
        return any(relay.path_id for relay in self._all())

    def uses_socket(self, socket_id: int) -> bool:
        """Whether an allocation, or its release, still needs that socket."""
        return any(relay.path_id == socket_id for relay in self._all())

    # Which ways there are.

    def set_ways(self, ways: list[Way], now_us: int, *, per_family: int = RELAYS_PER_FAMILY_MAX) -> None:
        """Try these, and give up others; those that only have other credentials than before go on with them."""
        self._per_family = per_family
        known = set(ways)
        self._renew(ways, known, now_us)
        for way, relay in list(self._relays.items()):
            if way not in known and not relay.redirected:
                del self._relays[way]
                self._release(relay, now_us)
        for way in ways:
            if way not in self._relays:
                self._orders += 1
                self._relays[way] = _Relay(way, self._orders, False)
        self._settle(now_us)

    def _renew(self, ways: list[Way], known: set[Way], now_us: int) -> None:
        before = {way.place: way for way in self._relays if way not in known}
        for way in ways:
            old = before.get(way.place) if way not in self._relays else None
            if old is None or old not in self._relays:
                continue
            relay = self._relays.pop(old)
            relay.way = way
            self._relays[way] = relay
            if relay.client is not None:
                # Where there are none any more, what we have is good for as long as the server says.
                if (credentials := _credentials(way.server)) is not None:
                    relay.client.renew(credentials, now_us)
            elif not relay.path_id:
                relay.retry_at_us, relay.retry_us = 0, SERVER_RETRY_US

    def pop_of(self, base: Base) -> str:
        """The point of presence behind that relay; empty if it is not on the map."""
        relay = self._by_base.get(base)
        return "" if relay is None else relay.way.pop

    def handle_network_changed(self, now_us: int) -> None:
        """Old failures say nothing any more, and what worked has to prove it."""
        for relay in self._relays.values():
            relay.retry_us = SERVER_RETRY_US
            relay.is_spare = False
            if relay.client is not None:
                relay.client.check(now_us)
            elif not relay.path_id:
                relay.retry_at_us = 0
        self._settle(now_us)

    def handle_socket_gone(self, socket_id: int) -> None:
        """That socket was closed: nothing can be said through it any more."""
        for relay in [*self._all(), *self._by_path.values()]:
            if relay.path_id == socket_id and not relay.is_stream:
                self._forget_path(relay)
        for way in [way for way in self._relays if way.socket_id == socket_id]:
            del self._relays[way]
        self._rank()

    def release_all(self, now_us: int) -> None:
        """Nobody needs relays any more."""
        relays = list(self._relays.values())
        self._relays.clear()
        for relay in relays:
            self._release(relay, now_us)
        self._settle(now_us)

    def check(self, base: Base, now_us: int) -> None:
        """Somebody got no answer through this relay: see whether its server is alive."""
        relay = self._by_base.get(base)
        if relay is not None and relay.client is not None:
            relay.client.check(now_us)

    # Datagrams of peers.

    def wrap(self, base: Base, remote: Address, packets: list[bytes], now_us: int) -> tuple[int, Address, list[bytes]] | None:
        """What to send where, so that `packets` leave from that relay; None if they cannot."""
        relay = self._by_base.get(base)
        if relay is None or relay.client is None:
            return None
        wrapped = relay.client.wrap(remote, packets, now_us)
        return None if wrapped is None else (relay.path_id, relay.way.address, wrapped)

    def unwrap(self, path_id: int, source: Address, datagram: bytes) -> tuple[Base, Address, bytes] | None:
        """The inner datagram of what a server sent us, with the relay's base and the peer's address."""
        relay = self._by_path.get((path_id, source))
        if relay is None or relay.client is None:
            return None
        found = relay.client.unwrap(datagram)
        if found is None:
            return None
        base = relay.bases.get(":" in found[0][0])
        return None if base is None else (base, *found)

    def is_path(self, path_id: int, source: Address) -> bool:
        """Whether one of our servers sends from there."""
        return (path_id, source) in self._by_path

    def permit(self, base: Base, hosts: list[str], now_us: int) -> None:
        """Let these addresses send to that relay."""
        relay = self._by_base.get(base)
        if relay is not None and relay.client is not None:
            relay.client.permit(hosts, now_us)

    def requests_under_way(self, base: Base) -> int:
        """How many requests of that relay wait for answers."""
        relay = self._by_base.get(base)
        return 0 if relay is None or relay.client is None else relay.client.requests_under_way

    # The verbs.

    def handle_stun(self, path_id: int, source: Address, message: StunMessage, datagram: bytes, now_us: int) -> bool:
        """An answer of a server; whether it was one to a request of ours, or data (which `unwrap` reads)."""
        relay = self._by_path.get((path_id, source))
        if relay is None or relay.client is None:
            return False
        if message.message_class == Class.INDICATION:
            return message.method == Method.DATA
        if not relay.client.handle_response(message, datagram, now_us):
            return False
        self._settle(now_us)
        return True

    def handle_stream_opened(self, stream_id: int, now_us: int) -> None:
        """The connection to a server is up."""
        relay = self._of_stream(stream_id)
        if relay is not None and relay.client is None:
            self._start_client(relay, now_us)
            self._settle(now_us)

    def handle_stream_data(self, stream_id: int, data: bytes, now_us: int) -> list[tuple[Base, Address, bytes]]:
        """What peers sent through the relay on this stream."""
        relay = self._of_stream(stream_id)
        if relay is None or relay.stream is None or relay.client is None:
            return []
        found = []
        is_settled = True
        try:
            for frame in relay.stream.handle_data(data):
                inner = self.unwrap(stream_id, relay.way.address, frame)
                if inner is not None:
                    found.append(inner)
                elif looks_like_stun(frame):
                    is_settled = False
                    relay.client.handle_response(decode_stun(frame), frame, now_us)
        except WireError:
            is_settled = False
            self._close_stream(relay)
            self._fail(relay, now_us)
        if not is_settled:
            self._settle(now_us)
        return found

    def handle_stream_closed(self, stream_id: int, now_us: int) -> None:
        """The connection is gone, or never came up."""
        relay = self._of_stream(stream_id)
        if relay is not None:
            self._fail(relay, now_us)
            self._settle(now_us)

    def handle_timeout(self, now_us: int) -> None:
        """Repeat, refresh, give up, try again what is due."""
        for relay in list(self._all()):
            if relay.client is not None:
                relay.client.handle_timeout(now_us)
            elif relay.path_id and now_us >= relay.retry_at_us:
                self._close_stream(relay)
                self._fail(relay, now_us)
        self._settle(now_us)

    def poll_transmit(self, now_us: int) -> tuple[int, Address, bytes] | None:
        """What to send to a server next."""
        for relay in self._all():
            if relay.client is not None and (datagram := relay.client.poll_transmit(now_us)) is not None:
                return relay.path_id, relay.way.address, datagram
        return None

    def poll_request(self) -> OpenStream | CloseStream | None:
        """Streams to open and close."""
        return self._requests.popleft() if self._requests else None

    def poll_timeout(self) -> Deadline | None:
        """When to call `handle_timeout` next."""
        deadlines = []
        for relay in self._all():
            if relay.client is not None:
                deadline = relay.client.poll_timeout()
                if deadline is not None:
                    deadlines.append(deadline)
            elif relay.path_id or (relay.retry_at_us and not relay.is_spare):
                deadlines.append(Deadline(relay.retry_at_us, "TURN server"))
        return min(deadlines, default=None)

    # Inside.

    def _all(self) -> Iterator[_Relay]:
        yield from self._relays.values()
        yield from self._ending

    def _settle(self, now_us: int) -> None:
        """Take what the clients have to say; choose; start what is due."""
        self.settled += 1
        for relay in list(self._all()):
            client = relay.client
            while client is not None and (event := client.poll_event()) is not None:
                if isinstance(event, RelayReady):
                    self._handle_ready(relay, event, now_us)
                else:
                    self._handle_lost(relay, event, now_us)
                    break
        for relay in [each for each in self._ending if each.client is None or each.client.state == TurnState.GONE]:
            self._close_stream(relay)
            self._forget_path(relay)
            self._ending.remove(relay)
        self._rank()
        for relay in list(self._relays.values()):
            if relay.is_ready and not any(relayed.base in relay.bases.values() for relayed in self.relayed):
                self._release(relay, now_us)
                relay = self._relays[relay.way] = _Relay(relay.way, relay.order, relay.redirected)
                relay.is_spare = True
        self._start_due(now_us)

    def _start_due(self, now_us: int) -> None:
        trying = Counter(relay.way.address for relay in self._relays.values() if relay.is_trying)
        for relay in self._relays.values():
            if relay.path_id or relay.is_spare or now_us < relay.retry_at_us:
                continue
            # Due, and no deadline any more: where there is no room now, the end of another one makes some.
            relay.retry_at_us = 0
            is_busy = not relay.is_stream and (relay.way.socket_id, relay.way.address) in self._by_path
            has_room = trying[relay.way.address] < RELAY_ATTEMPTS_PER_SERVER_MAX and trying.total() < RELAY_ATTEMPTS_MAX
            if has_room and not is_busy:
                trying[relay.way.address] += 1
                self._start(relay, now_us)

    def _start(self, relay: _Relay, now_us: int) -> None:
        server, address, socket_id, _ = relay.way
        if not relay.is_stream:
            relay.path_id = socket_id
            self._start_client(relay, now_us)
            return
        relay.path_id = self._next_id()
        relay.retry_at_us = now_us + STREAM_OPEN_US
        tls_name = server.host if server.transport == "tls" else None
        self._requests.append(OpenStream(relay.path_id, address, tls_name, server.tls_fingerprint))

    def _start_client(self, relay: _Relay, now_us: int) -> None:
        server = relay.way.server
        relay.client = TurnClient(
            server=relay.way.address,
            credentials=_credentials(server),
            entropy=self._entropy,
            now_us=now_us,
            is_stream=relay.is_stream,
        )
        relay.stream = StunStream() if relay.is_stream else None
        self._by_path[(relay.path_id, relay.way.address)] = relay

    def _handle_ready(self, relay: _Relay, event: RelayReady, now_us: int) -> None:
        relay.ready_at_us = now_us
        for address in event.addresses:
            base = Base(relay.path_id, self._next_id())
            relay.bases[":" in address[0]] = base
            self._by_base[base] = relay

    def _handle_lost(self, relay: _Relay, event: RelayLost, now_us: int) -> None:
        self._close_stream(relay)
        alternate = event.alternate
        if alternate is not None and self._allow_redirect and not relay.redirected:
            way = relay.way._replace(address=alternate)
            is_safe = is_usable(alternate, allow_loopback=is_loopback(relay.way.address))
            if is_safe and way not in self._relays and (":" in alternate[0]) == (":" in relay.way.address[0]):
                self._relays[way] = _Relay(way, relay.order, True)
        self._fail(relay, now_us)

    def _fail(self, relay: _Relay, now_us: int) -> None:
        """This way does not work, or no longer: again at once if it had worked for a while, else later and later. What was not
        needed beside it may be now."""
        if relay.bases:
            for spare in self._relays.values():
                spare.is_spare = False
        if now_us - relay.ready_at_us >= SERVER_RETRY_US:
            relay.retry_at_us, relay.retry_us = now_us, SERVER_RETRY_US
        else:
            relay.retry_at_us = now_us + relay.retry_us
            relay.retry_us = min(2 * relay.retry_us, SERVER_RETRY_MAX_US)
            if relay not in self._ending:
                self._on_server_failed(relay.way.server.host, now_us)
        self._forget_path(relay)

    def _release(self, relay: _Relay, now_us: int) -> None:
        """Give the allocation back; its path is needed until that is done."""
        for base in relay.bases.values():
            self._by_base.pop(base, None)
        if relay.client is not None:
            relay.client.release(now_us)
        if relay.path_id:
            self._ending.append(relay)

    def _forget_path(self, relay: _Relay) -> None:
        path = (relay.path_id, relay.way.address)
        if self._by_path.get(path) is relay:
            del self._by_path[path]
        for base in relay.bases.values():
            self._by_base.pop(base, None)
        relay.bases = {}
        relay.path_id = 0
        relay.client = None
        relay.stream = None
        relay.ready_at_us = NEVER

    def _close_stream(self, relay: _Relay) -> None:
        if relay.is_stream and relay.path_id:
            self._requests.append(CloseStream(relay.path_id))

    def _of_stream(self, stream_id: int) -> _Relay | None:
        return next((relay for relay in self._all() if relay.path_id == stream_id and relay.is_stream), None)

    def _rank(self) -> None:
        """The best relayed addresses of each family."""
        offers: list[tuple[int, int, Relayed]] = []
        on_server: dict[str, int] = {}
        ready = [relay for relay in self._relays.values() if relay.is_ready]
        for relay in sorted(ready, key=lambda each: (_TRANSPORT_RANK[each.way.server.transport], each.order)):
            client = relay.client
            assert client is not None, "a ready relay has a client"
            where = relay.way.pop or relay.way.server.host
            nth = on_server[where] = on_server.get(where, -1) + 1
            transport = _TRANSPORT_RANK[relay.way.server.transport]
            preference = max(0, (_LOCAL_PREFERENCE_MAX >> transport) - relay.order)
            for address in client.addresses:
                base = relay.bases.get(":" in address[0])
                if base is not None:
                    offer = Relayed(base, address, relay.way.address, preference, relay.way.pop)
                    offers.append((nth * len(_TRANSPORT_RANK) + transport, relay.order, offer))
        offers.sort(key=lambda row: row[:2])
        count = {True: 0, False: 0}
        self.relayed = []
        for _, _, offer in offers:
            is_6 = ":" in offer.address[0]
            if count[is_6] < self._per_family:
                count[is_6] += 1
                self.relayed.append(offer)


def _credentials(server: TurnServer) -> Credentials | None:
    return Credentials(server.username.encode(), server.password.encode()) if server.username else None
