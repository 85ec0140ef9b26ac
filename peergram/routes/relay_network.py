"""The relay network as one endpoint sees it: the map, the tickets, how far its places are, and which of them are worth a relay.

Relays are had at the nearest places, and for each peer who has said where he is at the place that gives the shortest way through
one relay, and through two. Both sides come to the same places by the same sums. Which way is taken in the end, ICE's own
measurements decide.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace

from peergram.config import (
    RELAY_POP_KEEP_GAIN_PERCENT,
    RELAY_POP_KEEP_GAIN_US,
    RELAY_POPS_NEAREST,
    RELAY_POPS_USED_MAX,
)
from peergram.events import Availability, RelayNetworkStatus
from peergram.routes.gather import PopServers
from peergram.routes.ice_servers import StunServer, TurnServer
from peergram.routes.ping_location import PingLocation, PopPing, estimate_ping_ms, paths_between
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
        self._peers: dict[Hashable, PingLocation | None] = {}
        """Those with whom relays may be needed, and where they are; the newest last."""
        self._silent: set[Hashable] = set()
        """Those of them who did not say so, and whose relays show it roughly."""
        self._used: list[str] = []

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
        self.relays = relays
        self._used = [code for code in self._used if relays.get(code) is not None]
        self.pings.set_places(_places(relays), now_us)

    def want_pings(self, now_us: int) -> None:
        """The program wants to know its place in the network."""
        self._was_wanted = True
        self.pings.set_places(_places(self.relays), now_us)
        self.pings.want(now_us)

    def add_peer(self, key: Hashable, now_us: int) -> None:
        """A relay may be needed to reach this peer."""
        self._peers.setdefault(key, None)
        self._was_wanted = True
        self.pings.set_places(_places(self.relays), now_us)
        self.pings.need(True, now_us)

    def locate_peer(self, key: Hashable, location: PingLocation) -> None:
        """He says where he is."""
        if key in self._peers:
            del self._peers[key]
            self._peers[key] = location
            self._silent.discard(key)

    def see_relay(self, key: Hashable, host: str) -> bool:
        """He announces a relay at this address. Who does not say where he is, is taken to be near his relays; whether that tells
        something new."""
        known = self._peers.get(key)
        if key not in self._peers or (known is not None and key not in self._silent):
            return False
        code = self.code_at(host)
        if not code or (known is not None and known.ms_to(code) is not None):
            return False
        self.locate_peer(key, PingLocation((*(known.pings if known is not None else ()), PopPing(code, 0))))
        self._silent.add(key)
        return True

    def location_of(self, key: Hashable) -> PingLocation | None:
        """Where he said he is."""
        return self._peers.get(key)

    def remove_peer(self, key: Hashable, now_us: int) -> None:
        """No relay is needed for him any more."""
        self._peers.pop(key, None)
        self._silent.discard(key)
        if not self._peers:
            self.pings.need(False, now_us)

    # What follows.

    def choose(self) -> list[PopServers]:
        """Where relays are to be had now, the most wanted first; without peers as before, until the gathering rests."""
        if self._peers and self.relays.pops and self.pings.has_looked:
            self._used = self._chosen()
        return [self._servers(pop) for code in self._used if (pop := self.relays.get(code)) is not None]

    def _chosen(self) -> list[str]:
        order = self.pings.order()
        if not order:
            # Whoever cannot be asked by UDP may relay by TCP all the same.
            return [pop.code for pop in self.relays.pops][:RELAY_POPS_NEAREST]
        wanted: list[str] = self._nearest(order)
        own = self.pings.location()
        for location in reversed(list(self._peers.values())):
            if location is not None:
                paths = paths_between(own, location, self.relays)
                single = next((path for path in paths if path.near == path.far), None)
                wanted += [path.near for path in (single, *paths[:1]) if path is not None]
        return list(dict.fromkeys(wanted))[:RELAY_POPS_USED_MAX]

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
