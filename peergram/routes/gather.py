"""Every address a peer may reach us by: those of this machine, what the world sees of them, and relays.

One gatherer serves all peers of an endpoint. It begins when the first peer needs candidates and gives everything back when nobody
has needed them for a while. What it announces is always made anew from what there is, and told as the difference: an interface
that appears, a mapping that changes, a relay that dies are no special cases.

With addresses hidden (`announce="relay"`, I8) sockets exist for the relay servers only: no STUN server is asked, no candidate
holds an address of ours, and no candidate leads to a socket of ours.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from peergram.address import Address, is_local, is_loopback
from peergram.config import GATHERING_US_MAX, RELAYS_PER_FAMILY_MAX, Config
from peergram.io_requests import InterfaceAddress, IoRequest, WatchInterfaces
from peergram.routes.candidates import (
    Base,
    Candidate,
    CandidateKind,
    LocalCandidate,
    foundation_of,
    is_usable,
    priority_of,
)
from peergram.routes.host_sockets import HostSocket, HostSockets
from peergram.routes.ice_servers import IceServers, StunServer, TurnServer
from peergram.routes.port_mapping import PortMapper
from peergram.routes.relays import Relayed, RelayPool, Way
from peergram.routes.server_names import ServerNames
from peergram.routes.stun_client import StunClient
from peergram.timing import Deadline, TimerTable
from peergram.wire.stun import StunMessage

_GATHERING: Final = "gathering takes too long"
_IDLE: Final = "nobody needs candidates"


@dataclass(frozen=True, slots=True)
class CandidatePolicy:
    """What may be announced to peers, and used with them."""

    announce: Literal["all", "public", "relay"] = "all"
    """`public`: no private addresses of this machine; `relay`: no address of ours at all, only relays."""
    loopback: bool = False
    """Loopback addresses too; without other addresses they are used anyway."""
    port_mapping: bool = True
    """Whether to ask the router for a port that leads to us (PCP, NAT-PMP, UPnP)."""


@dataclass(frozen=True, slots=True)
class PopServers:
    """The servers of one point of presence that is in use, with what opens them."""

    code: str
    stun: tuple[StunServer, ...]
    turn: tuple[TurnServer, ...]


@dataclass(frozen=True, slots=True)
class CandidateAdded:
    """Announce it, and pair it."""

    local: LocalCandidate


@dataclass(frozen=True, slots=True)
class CandidateRemoved:
    """It works no more."""

    local: LocalCandidate


@dataclass(frozen=True, slots=True)
class GatheringDone:
    """What was asked has answered, or has had its time; more may come all the same."""


GatherEvent = CandidateAdded | CandidateRemoved | GatheringDone


class Gatherer:
    """Local candidates of one endpoint. Drain requests, transmits, events, then re-arm `poll_timeout`."""

    def __init__(
        self,
        *,
        servers: IceServers,
        policy: CandidatePolicy,
        entropy: Callable[[int], bytes],
        next_id: Callable[[], int],
        config: Config,
    ) -> None:
        self.candidates: list[LocalCandidate] = []
        self.is_gathering = False
        self._servers = servers
        self._pops: tuple[PopServers, ...] = ()
        self._policy = policy
        self._entropy = entropy
        self._config = config
        self._is_wanted = False
        self._interfaces: list[InterfaceAddress] | None = None
        self._names = ServerNames()
        self._hosts = HostSockets(wants_loopback=policy.loopback, next_id=next_id, new_stun_client=self._new_stun_client)
        self._relays = RelayPool(
            entropy=entropy,
            next_id=next_id,
            allow_redirect=servers.allow_redirect,
            on_server_failed=self._names.handle_server_failed,
        )
        self._closing: dict[int, HostSocket] = {}
        """Given up, and still needed to release allocations."""
        self._timers = TimerTable()
        self._next_id = next_id
        self._left: deque[IoRequest] = deque()
        """Requests of parts that are gone."""
        self._watches: deque[WatchInterfaces] = deque()
        self._events: deque[GatherEvent] = deque()
        self._deadline: Deadline | None = None
        self._is_deadline_known = True
        self._has_transmits = False

    @property
    def is_closed(self) -> bool:
        """Whether nothing is open, or waits to be given back."""
        return not self._is_wanted and not self._closing and not self._hosts.opened and not self._relays.is_busy

    # Commands.

    def want(self, now_us: int) -> None:
        """Some peer needs candidates."""
        self._timers.stop(_IDLE)
        if not self._is_wanted:
            self._is_wanted = self.is_gathering = True
            self._timers.set(_GATHERING, now_us + GATHERING_US_MAX)
            self._watches.append(WatchInterfaces(True))
        self._settle(now_us)

    def nobody_wants(self, now_us: int) -> None:
        """No peer needs candidates now: after `Config.gather_idle_us` everything is given back."""
        if self._is_wanted:
            self._timers.set(_IDLE, now_us + self._config.gather_idle_us)
            self._settle(now_us)

    def close(self, now_us: int) -> None:
        """Give everything back now. Go on draining until `is_closed`, so that the servers hear of it."""
        if self._is_wanted:
            self._is_wanted = self.is_gathering = False
            self._interfaces = None
            self._timers = TimerTable()
            self._watches.append(WatchInterfaces(False))
            self._names.forget()
            self._relays.release_all(now_us)
            for socket in self._hosts.close_all():
                self._closing[socket.socket_id] = socket
                if socket.mapper is not None:
                    socket.mapper.release(now_us)
        self._settle(now_us)

    def set_interfaces(self, addresses: list[InterfaceAddress], now_us: int) -> None:
        """Every address of this machine, at first and whenever they changed."""
        if not self._is_wanted:
            return
        changed = self._interfaces is not None and set(addresses) != set(self._interfaces)
        self._interfaces = list(addresses)
        self._set_sockets(addresses)
        if changed:
            self._names.handle_network_changed(now_us)
            self._relays.handle_network_changed(now_us)
            for socket in self._hosts.opened:
                socket.stun.ask_all(now_us)
                mapper = socket.mapper
                if mapper is not None and (mapper.gateway != socket.interface.gateway or mapper.is_useless):
                    self._forget_mapper(socket)
        self._settle(now_us)

    def set_pops(self, pops: Sequence[PopServers], now_us: int) -> None:
        """Use relays of these points of presence, the most wanted first, besides the servers that were named at the start."""
        if tuple(pops) == self._pops:
            return
        self._pops = tuple(pops)
        servers: list[StunServer | TurnServer] = [*self._servers.stun, *self._servers.turn]
        for pop in pops:
            servers += [*pop.stun, *pop.turn]
        self._names.keep({server.host for server in servers})
        if self._is_wanted:
            if self._interfaces is not None:
                self._set_sockets(self._interfaces)
            self._settle(now_us)

    def pop_of(self, base: Base) -> str:
        """The point of presence that relays for this base; empty if none on the map does."""
        return self._relays.pop_of(base)

    def _set_sockets(self, addresses: list[InterfaceAddress]) -> None:
        turn = [*self._servers.turn, *(server for pop in self._pops for server in pop.turn)]
        needs_sockets = self._policy.announce != "relay" or any(each.transport == "udp" for each in turn)
        for socket in self._hosts.set_interfaces(addresses if needs_sockets else []):
            self._relays.handle_socket_gone(socket.socket_id)
            self._hosts.close(socket.socket_id)

    def permit(self, base: Base, hosts: list[str], now_us: int) -> None:
        """Let these addresses send to us through a relay before we send to them."""
        self._relays.permit(base, hosts, now_us)
        self._touch()

    def check_relay(self, base: Base, now_us: int) -> None:
        """Nothing comes through this relay any more: see whether its server is alive, and replace the allocation if not."""
        self._relays.check(base, now_us)
        self._touch()

    # Datagrams of peers.

    def wrap(self, base: Base, remote: Address, packets: list[bytes], now_us: int) -> tuple[int, Address, list[bytes]] | None:
        """Number of the socket or stream, where to send, and what, so that `packets` reach `remote` from `base`; None where they
        cannot: the base is gone, or its relay does not reach that address."""
        if not base.relay_id:
            return (base.socket_id, remote, packets) if self._hosts.get(base.socket_id) is not None else None
        before = self._relays.requests_under_way(base)
        wrapped = self._relays.wrap(base, remote, packets, now_us)
        if self._relays.requests_under_way(base) != before:
            self._touch()
        return wrapped

    def is_relay(self, socket_id: int, source: Address) -> bool:
        """Whether what comes from there may be what peers sent through a relay: `unwrap` is for such datagrams only."""
        return self._relays.is_path(socket_id, source)

    def unwrap(self, socket_id: int, source: Address, datagram: bytes, now_us: int) -> tuple[Base, Address, bytes] | None:
        """If this is what a peer sent through a relay (ChannelData or a Data indication from one of our servers): the relay's
        base, the peer's address and the inner datagram."""
        return self._relays.unwrap(socket_id, source, datagram)

    # The verbs.

    def handle_socket_opened(self, socket_id: int, local: Address, now_us: int) -> bool:
        """The driver's answer; whether the socket is one of these."""
        is_ours = self._hosts.handle_socket_opened(socket_id, local)
        if is_ours:
            self._settle(now_us)
        return is_ours

    def handle_socket_failed(self, socket_id: int, text: str, now_us: int) -> bool:
        """The driver's other answer, also for a socket that was open."""
        is_ours = self._hosts.handle_socket_failed(socket_id, now_us)
        if is_ours:
            self._relays.handle_socket_gone(socket_id)
            self._settle(now_us)
        return is_ours

    def handle_stream_opened(self, stream_id: int, now_us: int) -> None:
        """The driver's answer to OpenStream."""
        if not any(mapper.handle_stream_opened(stream_id, now_us) for mapper in self._mappers()):
            self._relays.handle_stream_opened(stream_id, now_us)
        self._settle(now_us)

    def handle_stream_data(self, stream_id: int, data: bytes, now_us: int) -> list[tuple[Base, Address, bytes]]:
        """Bytes from a TURN server: its answers are taken, what peers sent through it is returned as `unwrap` does."""
        if any(mapper.handle_stream_data(stream_id, data, now_us) for mapper in self._mappers()):
            self._settle(now_us)
            return []
        before = self._relays.settled
        found = self._relays.handle_stream_data(stream_id, data, now_us)
        if self._relays.settled != before:
            self._settle(now_us)
        return found

    def handle_stream_closed(self, stream_id: int, text: str, now_us: int) -> None:
        """The stream is gone, or never was."""
        if not any(mapper.handle_stream_closed(stream_id, now_us) for mapper in self._mappers()):
            self._relays.handle_stream_closed(stream_id, now_us)
        self._settle(now_us)

    def handle_name_resolved(self, name: str, hosts: list[str], now_us: int) -> None:
        """The driver's answer to ResolveName."""
        self._names.handle_name_resolved(name, hosts, now_us)
        self._settle(now_us)

    def handle_stun(self, socket_id: int, source: Address, message: StunMessage, datagram: bytes, now_us: int) -> bool:
        """A STUN message that came in; whether it was for us: an answer of a STUN or TURN server, or a Data indication (read it
        with `unwrap`)."""
        is_ours = self._relays.handle_stun(socket_id, source, message, datagram, now_us)
        if not is_ours:
            socket = self._hosts.get(socket_id)
            is_ours = socket is not None and socket.stun.handle_response(source, message, len(datagram), now_us)
        if is_ours:
            self._settle(now_us)
        return is_ours

    def handle_router(self, socket_id: int, source: Address, datagram: bytes, now_us: int) -> bool:
        """A datagram that is neither STUN nor data: whether it is an answer of our router about ports."""
        socket = self._hosts.get(socket_id) or self._closing.get(socket_id)
        if socket is None or socket.mapper is None or not socket.mapper.handle_datagram(source, datagram, now_us):
            return False
        self._settle(now_us)
        return True

    def handle_timeout(self, now_us: int) -> None:
        """Do what is due."""
        for name in self._timers.pop_due(now_us):
            if name == _IDLE:
                self.close(now_us)
                return
            self._finish()
        self._names.handle_timeout(now_us)
        self._hosts.handle_timeout(now_us)
        for socket in self._hosts.opened:
            socket.stun.handle_timeout(now_us)
        for mapper in self._mappers():
            mapper.handle_timeout(now_us)
        self._relays.handle_timeout(now_us)
        self._settle(now_us)

    def poll_request(self) -> IoRequest | None:
        """What the driver is to do next."""
        if self._watches:
            return self._watches.popleft()
        for mapper in self._mappers():
            if (request := mapper.poll_request()) is not None:
                return request
        return self._left.popleft() if self._left else self._other_request()

    def poll_transmit(self, now_us: int) -> tuple[int, Address, bytes] | None:
        """Number of a socket or stream, where to, and what to send to a server."""
        if not self._has_transmits:
            return None
        found = self._relays.poll_transmit(now_us)
        if found is not None:
            return found
        for socket in self._hosts.opened:
            if (question := socket.stun.poll_transmit(now_us)) is not None:
                return socket.socket_id, *question
        for socket in self._mapped_sockets():
            if socket.mapper is not None and (question := socket.mapper.poll_transmit(now_us)) is not None:
                return socket.socket_id, *question
        for mapper in self._mappers():
            if (found := mapper.poll_stream_transmit()) is not None:
                return found
        self._has_transmits = False
        self._is_deadline_known = False
        return None

    def poll_timeout(self) -> Deadline | None:
        """When to call `handle_timeout` next."""
        if not self._is_deadline_known:
            self._is_deadline_known = True
            parts = [self._timers.next(), self._names.poll_timeout(), self._hosts.poll_timeout(), self._relays.poll_timeout()]
            parts += [socket.stun.poll_timeout() for socket in self._hosts.opened]
            parts += [mapper.poll_timeout() for mapper in self._mappers()]
            self._deadline = min((deadline for deadline in parts if deadline is not None), default=None)
        return self._deadline

    @property
    def needs_service(self) -> bool:
        """Whether there may be something to send or to know, or another deadline, since everything was drained."""
        return self._has_transmits or not self._is_deadline_known or bool(self._events)

    def poll_event(self) -> GatherEvent | None:
        """What there is to know since the last call."""
        return self._events.popleft() if self._events else None

    # Inside.

    def _touch(self) -> None:
        """There may be something to send, and another deadline."""
        self._has_transmits = True
        self._is_deadline_known = False

    def _settle(self, now_us: int) -> None:
        """Bring everything in line with what is known now."""
        if self._is_wanted:
            self._ask_servers(now_us)
            self._ask_routers(now_us)
        for socket in list(self._closing.values()):
            is_mapped = socket.mapper is not None and not socket.mapper.is_gone
            if not is_mapped and not self._relays.uses_socket(socket.socket_id):
                del self._closing[socket.socket_id]
                self._forget_mapper(socket)
                self._hosts.close(socket.socket_id)
        self._tell_difference()
        if self.is_gathering and self._interfaces is not None and not self._is_anything_open():
            self._finish()
        self._touch()

    def _ask_servers(self, now_us: int) -> None:
        """Every server whose address is known, through every socket that may reach it."""
        sockets = self._hosts.opened
        ways: dict[Way, None] = {}
        named = [("", server) for server in self._servers.turn]
        for code, server in named + [(pop.code, server) for pop in self._pops for server in pop.turn]:
            for address in self._names.addresses(server.host, server.port, now_us):
                if server.transport == "udp":
                    ways |= {Way(server, address, each.socket_id, code): None for each in sockets if _may_ask(each, address)}
                elif any((":" in each.address) == (":" in address[0]) for each in self._interfaces or []):
                    ways[Way(server, address, 0, code)] = None
        self._relays.set_ways(list(ways), now_us, per_family=max(RELAYS_PER_FAMILY_MAX, len(self._pops)))
        if self._policy.announce == "relay":
            return
        # A TURN server on UDP answers the questions of STUN too.
        places = [(server.host, server.port) for server in self._servers.stun]
        places += [(server.host, server.port) for server in self._servers.turn if server.transport == "udp"]
        for pop in self._pops:
            places += [(server.host, server.port) for server in pop.stun]
            places += [(server.host, server.port) for server in pop.turn if server.transport == "udp"]
        for host, port in places:
            for address in self._names.addresses(host, port, now_us):
                for socket in sockets:
                    if _may_ask(socket, address):
                        socket.stun.add_server(address, now_us)

    def _ask_routers(self, now_us: int) -> None:
        """Every router that translates addresses for one of our sockets."""
        if not self._policy.port_mapping or self._policy.announce == "relay":
            return
        for socket in self._hosts.opened:
            gateway = socket.interface.gateway
            if socket.mapper is not None or socket.is_ipv6 or gateway is None:
                continue
            if is_local(socket.local) and is_local((gateway, 0)):
                socket.mapper = PortMapper(
                    local=socket.local, gateway=gateway, entropy=self._entropy, next_id=self._next_id, now_us=now_us
                )

    def _forget_mapper(self, socket: HostSocket) -> None:
        """Its streams have to be closed all the same."""
        while socket.mapper is not None and (request := socket.mapper.poll_request()) is not None:
            self._left.append(request)
        socket.mapper = None

    def _mapped_sockets(self) -> list[HostSocket]:
        return [socket for socket in [*self._hosts.opened, *self._closing.values()] if socket.mapper is not None]

    def _mappers(self) -> list[PortMapper]:
        return [socket.mapper for socket in self._mapped_sockets() if socket.mapper is not None]

    def _other_request(self) -> IoRequest | None:
        return self._hosts.poll_request() or self._relays.poll_request() or self._names.poll_request()

    def _is_anything_open(self) -> bool:
        """Whether an answer is still awaited."""
        asking = any(socket.stun.is_asking for socket in self._hosts.opened)
        return asking or self._hosts.is_opening or self._names.is_waiting or self._relays.is_trying

    def _finish(self) -> None:
        if self.is_gathering:
            self.is_gathering = False
            self._timers.stop(_GATHERING)
            self._events.append(GatheringDone())

    def _tell_difference(self) -> None:
        while any(socket.stun.poll_event() for socket in self._hosts.opened):
            pass
        now = self._current()
        for local in self.candidates:
            if local not in now:
                self._events.append(CandidateRemoved(local))
        for local in now:
            if local not in self.candidates:
                self._events.append(CandidateAdded(local))
        self.candidates = now

    def _current(self) -> list[LocalCandidate]:
        """All candidates, each address once."""
        found: dict[Address, LocalCandidate] = {}
        for socket in self._hosts.opened:
            if self._may_announce_host(socket):
                local = _local_candidate(CandidateKind.HOST, socket.local, socket, None)
                found.setdefault(socket.local, local)
        for socket in self._hosts.opened:
            mapped, server = socket.stun.mapped, socket.stun.mapped_by
            if mapped is not None and self._may_announce_mapped(mapped):
                found.setdefault(mapped, _local_candidate(CandidateKind.SERVER_REFLEXIVE, mapped, socket, server))
        for socket in self._hosts.opened:
            mapper = socket.mapper
            if mapper is not None and mapper.mapped is not None:
                router = (mapper.gateway, 0)
                found.setdefault(mapper.mapped, _local_candidate(CandidateKind.SERVER_REFLEXIVE, mapper.mapped, socket, router))
        for relayed in self._relays.relayed:
            found.setdefault(relayed.address, _relay_candidate(relayed))
        return list(found.values())

    def _may_announce_host(self, socket: HostSocket) -> bool:
        return self._policy.announce == "all" or (self._policy.announce == "public" and not is_local(socket.local))

    def _may_announce_mapped(self, mapped: Address) -> bool:
        return self._policy.announce == "all" or (self._policy.announce == "public" and not is_local(mapped))

    def _new_stun_client(self, interface: InterfaceAddress) -> StunClient:
        def is_possible(address: Address) -> bool:
            return is_usable(address, allow_loopback=interface.is_loopback) and (":" in address[0]) == (":" in interface.address)

        return StunClient(entropy=self._entropy, is_usable=is_possible, allow_redirect=self._servers.allow_redirect)


def _may_ask(socket: HostSocket, server: Address) -> bool:
    """Whether packets from this socket can arrive there."""
    return socket.is_ipv6 == (":" in server[0]) and (not socket.interface.is_loopback or is_loopback(server))


def _local_candidate(kind: CandidateKind, address: Address, socket: HostSocket, server: Address | None) -> LocalCandidate:
    preference = socket.local_preference
    return LocalCandidate(
        Candidate(kind, address, priority_of(kind, preference), foundation_of(kind, socket.local, server)),
        base=Base(socket.socket_id),
        base_address=socket.local,
        local_preference=preference,
        prefix_bits=socket.interface.prefix_bits,
    )


def _relay_candidate(relayed: Relayed) -> LocalCandidate:
    kind, preference = CandidateKind.RELAYED, relayed.local_preference
    return LocalCandidate(
        Candidate(kind, relayed.address, priority_of(kind, preference), foundation_of(kind, relayed.address, relayed.server)),
        base=relayed.base,
        base_address=relayed.address,
        local_preference=preference,
    )
