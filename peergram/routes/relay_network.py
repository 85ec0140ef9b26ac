"""The relay network as one endpoint sees it: the map, the tickets, how far its places are, and which of them are worth a relay.

Relays are had at the nearest places, and for each peer who has said where he is at the place that gives the shortest way through
one relay, and through two. Both sides come to the same places by the same sums. Which way is taken in the end, ICE's own
measurements decide.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from peergram.config import (
    RELAY_PEER_MOVE_US,
    RELAY_PEER_MOVES_BURST,
    RELAY_POP_KEEP_GAIN_PERCENT,
    RELAY_POP_KEEP_GAIN_US,
    RELAY_POPS_NEAREST,
    RELAY_POPS_USED_MAX,
)
from peergram.events import Availability, RelayNetworkStatus
from peergram.routes.gather import PopServers
from peergram.routes.ice_servers import StunServer, TurnServer
from peergram.routes.ping_location import PingLocation, PopPing, between_pops_ms, estimate_ping_ms, paths_between
from peergram.routes.relay_map import PointOfPresence, RelayMap, parse_relay_map
from peergram.routes.relay_pings import Place, RelayPings
from peergram.wire.relay_news import RelayNews, Ticket, Tickets


@dataclass(frozen=True, slots=True)
class RelayOptions:
    """What a program was told about relays: the map, tickets by place, or a user and password for all places; None: not that.
    `awaits_map`: there is a signaling service that may tell it."""

    relays: RelayMap | None = None
    tickets: Mapping[str, Ticket] | None = None
    login: tuple[str, str] | None = None
    awaits_map: bool = False


class _Peer:
    __slots__ = ("free_at_us", "is_guessed", "location", "places")

    def __init__(self) -> None:
        self.location: PingLocation | None = None
        self.is_guessed = False
        """He did not say so: his relays show it roughly."""
        self.places: tuple[str, ...] | None = None
        """What follows from it, while that is known."""
        self.free_at_us = 0
        """He moves as if once in a while, and this is when the last of those times is over."""


class _Reach(NamedTuple):
    """The shortest way to a place, by way of the place `near` us."""

    ms: int
    near: str


class RelayNetwork:
    """One for each endpoint. After every `handle_*` of `pings` and every command here: `choose`."""

    def __init__(
        self,
        *,
        entropy: Callable[[int], bytes],
        next_id: Callable[[], int],
        options: RelayOptions,
    ) -> None:
        """What `options` give is not replaced by what a signaling service tells."""
        relays, tickets, login = options.relays, options.tickets, options.login
        self.relays = relays or RelayMap()
        self.pings = RelayPings(entropy=entropy, next_id=next_id)
        self._is_given = relays is not None
        self._are_tickets_given = tickets is not None or login is not None
        self._tickets = dict(tickets or {})
        self._login = login
        self._awaits_map = options.awaits_map
        self._was_current = False
        self._was_wanted = False
        self._peers: dict[Hashable, _Peer] = {}
        """Those with whom relays may be needed; who said last where he is, last."""
        self._used: list[str] = []
        self._by_code = {pop.code: pop for pop in self.relays.pops}
        self._distances_ms: dict[tuple[str, str], int | None] = {}
        """Between places of this map, as far as somebody wanted to know."""
        self._own = PingLocation()
        self._reaches: dict[str, _Reach | None] = {}
        """From there, by the place at the other end."""

    # What is told from outside.

    def take(self, message: RelayNews | Tickets, now_us: int) -> None:
        """A signaling service tells the map, or gives tickets. Raises UsageError for a map that is none; the old one stays."""
        if isinstance(message, Tickets):
            if not self._are_tickets_given:
                self._tickets = {ticket.code: ticket for ticket in message.tickets}
        elif not self._is_given:
            self.set_map(parse_relay_map(message.map_text) if message.map_text else RelayMap(), now_us)

    def give(self, options: RelayOptions, now_us: int) -> None:
        """The program has another map, or other tickets; None leaves what there is."""
        relays, tickets, login = options.relays, options.tickets, options.login
        if tickets is not None or login is not None:
            self._are_tickets_given = True
            self._tickets, self._login = dict(tickets or {}), login
        if relays is not None:
            self._is_given = True
            self.set_map(relays, now_us)

    def set_map(self, relays: RelayMap, now_us: int) -> None:
        """These places from now on."""
        if relays != self.relays:
            self.relays = relays
            self._by_code = {pop.code: pop for pop in relays.pops}
            self._distances_ms.clear()
            self._forget_places()
        self._used = [code for code in self._used if relays.get(code) is not None]
        self.pings.set_places(_places(relays), now_us)

    def want_pings(self, now_us: int) -> None:
        """The program wants to know its place in the network."""
        self._was_wanted = True
        self.pings.set_places(_places(self.relays), now_us)
        self.pings.want(now_us)

    def add_peer(self, key: Hashable, now_us: int) -> None:
        """A relay may be needed to reach this peer."""
        self._peers.setdefault(key, _Peer())
        self._was_wanted = True
        self.pings.set_places(_places(self.relays), now_us)
        self.pings.need(True, now_us)

    def locate_peer(self, key: Hashable, location: PingLocation, now_us: int) -> None:
        """He says where he is. Whoever says so too often is not heard: each time may cost relays."""
        peer = self._peers.get(key)
        if peer is None or (peer.location == location and not peer.is_guessed):
            return
        free_at_us = max(peer.free_at_us, now_us) + RELAY_PEER_MOVE_US
        if free_at_us > now_us + RELAY_PEER_MOVES_BURST * RELAY_PEER_MOVE_US:
            return
        peer.free_at_us, peer.is_guessed = free_at_us, False
        self._place_peer(key, peer, location)

    def see_relay(self, key: Hashable, host: str) -> bool:
        """He announces a relay at this address. Who does not say where he is, is taken to be near his relays; whether that tells
        something new."""
        peer = self._peers.get(key)
        code = self.code_at(host)
        if peer is None or not code or (peer.location is not None and not peer.is_guessed):
            return False
        known = () if peer.location is None else peer.location.pings
        if any(ping.code == code for ping in known):
            return False
        peer.is_guessed = True
        self._place_peer(key, peer, PingLocation((*known, PopPing(code, 0))))
        return True

    def _place_peer(self, key: Hashable, peer: _Peer, location: PingLocation) -> None:
        peer.location, peer.places = location, None
        del self._peers[key]
        self._peers[key] = peer

    def location_of(self, key: Hashable) -> PingLocation | None:
        """Where he said he is."""
        peer = self._peers.get(key)
        return None if peer is None else peer.location

    def remove_peer(self, key: Hashable, now_us: int) -> None:
        """No relay is needed for him any more."""
        self._peers.pop(key, None)
        if not self._peers:
            self.pings.need(False, now_us)

    # What follows.

    def choose(self, held: Collection[str] = ()) -> list[PopServers]:
        """Where relays are to be had now, the most wanted first; without peers as before, until the gathering rests. Places in
        `held` carry sessions: they stay."""
        if self._peers and self.relays.pops and self.pings.has_looked:
            self._used = self._chosen([code for code in self._used if code in held])
        return [self._servers(pop) for code in self._used if (pop := self.relays.get(code)) is not None]

    def _chosen(self, held: list[str]) -> list[str]:
        order = self.pings.order()
        if order:
            wanted = [*self._nearest(order), *held, *self._towards_peers()]
        else:
            # Whoever cannot be asked by UDP may relay by TCP all the same.
            wanted = [*[pop.code for pop in self.relays.pops][:RELAY_POPS_NEAREST], *held]
        chosen = list(dict.fromkeys(wanted))
        for code in reversed(chosen[:]):
            if len(chosen) > RELAY_POPS_USED_MAX and code not in held:
                chosen.remove(code)
        return chosen

    def _towards_peers(self) -> list[str]:
        """The places that the peers are best reached through, each once."""
        own = self.pings.location()
        if own != self._own:
            self._own = own
            self._forget_places()
        found: dict[str, None] = {}
        for peer in reversed(self._peers.values()):
            if peer.places is None:
                peer.places = () if peer.location is None else self._towards(peer.location)
            found |= dict.fromkeys(peer.places)
        return list(found)

    def _towards(self, location: PingLocation) -> tuple[str, ...]:
        """Our end of the shortest way through one relay, and of the shortest through one or two."""
        own = {ping.code: ping.ms for ping in self._own.pings}
        singles = [(own[far.code] + far.ms, far.code) for far in location.pings if far.code in own]
        ways = []
        for far in location.pings:
            if far.code not in self._by_code and far.code not in own:
                continue
            if far.code not in self._reaches:
                self._reaches[far.code] = self._reach_of(far.code)
            if (reach := self._reaches[far.code]) is not None:
                ways.append((reach.ms + far.ms, reach.near != far.code, reach.near, far.code))
        return (*([min(singles)[1]] if singles else []), *([min(ways)[2]] if ways else []))

    def _reach_of(self, far: str) -> _Reach | None:
        ways = [
            (near.ms + between_ms, near.code != far, near.code)
            for near in self._own.pings
            if (between_ms := self._between_ms(near.code, far)) is not None
        ]
        return _Reach(min(ways)[0], min(ways)[2]) if ways else None

    def _between_ms(self, near: str, far: str) -> int | None:
        if near == far:
            return 0
        if (near, far) not in self._distances_ms:
            self._distances_ms[near, far] = between_pops_ms(near, far, self._by_code)
        return self._distances_ms[near, far]

    def _forget_places(self) -> None:
        self._reaches.clear()
        for peer in self._peers.values():
            peer.places = None

    def _nearest(self, order: list[str]) -> list[str]:
        """The nearest places; one in use stays unless another is clearly nearer."""

        def reach(code: str) -> tuple[int, str]:
            us = self.pings.us_to(code) or 0
            if code in self._used[:RELAY_POPS_NEAREST]:
                us = us * (100 - RELAY_POP_KEEP_GAIN_PERCENT) // 100 - RELAY_POP_KEEP_GAIN_US
            return us, code

        return sorted(order, key=reach)[:RELAY_POPS_NEAREST]

    def _servers(self, pop: PointOfPresence) -> PopServers:
        ticket, login = self._tickets.get(pop.code), self._login
        if ticket is not None:
            login = ticket.username, ticket.password
        stun = tuple(server for server in pop.servers if isinstance(server, StunServer))
        turn = tuple(server for server in pop.servers if isinstance(server, TurnServer))
        if login is not None:
            turn = tuple(replace(server, username=login[0], password=login[1]) for server in turn)
        return PopServers(pop.code, stun, turn)

    # What is known.

    def code_at(self, host: str) -> str:
        """The place one of whose servers has this numeric address; empty if none has."""
        for pop in self.relays.pops:
            for place in _places_of(pop, every=True):
                if any(address[0] == host for address in self.pings.addresses(place)):
                    return pop.code
        return ""

    def estimate_ms(self, one: PingLocation, other: PingLocation) -> int | None:
        """The ping between two locations; None if it cannot be told."""
        return estimate_ping_ms(one, other, self.relays)

    def ping_to_pop(self, code: str) -> tuple[int, str] | None:
        """The shortest ping to a place in ms, and through which other place (empty: directly); None if it cannot be told."""
        own = self.pings.location()
        direct_ms = own.ms_to(code)
        best = None if direct_ms is None else (direct_ms, "")
        for path in paths_between(own, _at(code), self.relays) if self.relays.get(code) is not None else ():
            if best is None or path.ms < best[0]:
                best = (path.ms, "" if path.near == code else path.near)
        return best

    def status(self) -> RelayNetworkStatus:
        """How it stands."""
        pings = self.pings
        config = Availability.CURRENT if self.relays.pops else Availability.NEVER_TRIED
        if not self.relays.pops:
            config = Availability.WAITING if self._awaits_map else Availability.CANNOT_TRY
        if pings.measured_at_us is not None:
            relay, self._was_current = Availability.CURRENT, True
            text = "the pings to relays are known"
        elif pings.is_measuring:
            relay = Availability.RETRYING if pings.has_failed else Availability.ATTEMPTING
            text = "the pings to relays are being measured"
        elif pings.has_failed:
            relay = Availability.PREVIOUSLY if self._was_current else Availability.FAILED
            text = "no relay has answered"
        elif config is not Availability.CURRENT:
            relay = config if self._was_wanted or config is Availability.CANNOT_TRY else Availability.NEVER_TRIED
            text = "there is no relay map" if config is Availability.CANNOT_TRY else "the signaling server has told no relay map"
        else:
            relay = Availability.NEVER_TRIED
            text = "nobody has needed relays so far"
        return RelayNetworkStatus(relay, pings.is_measuring, config, relay, text)


def _at(code: str) -> PingLocation:
    return PingLocation((PopPing(code, 0),))


def _places(relays: RelayMap) -> dict[str, tuple[Place, ...]]:
    """Who is asked for the ping to each place."""
    return {pop.code: found for pop in relays.pops if (found := _places_of(pop, every=False))}


def _places_of(pop: PointOfPresence, *, every: bool) -> tuple[Place, ...]:
    """Servers that answer STUN by UDP; `every`: the others, too."""
    return tuple(
        dict.fromkeys(
            (server.host, server.port)
            for server in pop.servers
            if every or isinstance(server, StunServer) or server.transport == "udp"
        )
    )
