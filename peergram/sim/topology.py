"""A small internet in a world: places, routers with NAT between them, interfaces that plug in, and the way of every packet.

The internet is the root place; a router's inside is a place of its own, whose outside plugs into another place: the internet, or
the inside of another router (a carrier behind which homes are). A host or server has interfaces, each plugged into one place. As
in netlab, a link is named by its lower node: `up` leads away from it, `down` towards it; a cut link carries nothing. Each packet
goes hop by hop in virtual time, so that a NAT sees it when it gets there.

Addresses are handed out in order and never twice, except that two homes may be told to use the same private prefix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Literal, Protocol

from peergram.address import Address
from peergram.io_requests import InterfaceAddress
from peergram.sim.link import Datagram, Link, LinkModel
from peergram.sim.nat import Firewall, Nat, NatKind, NatModel

if TYPE_CHECKING:
    from peergram.sim.world import World

PUBLIC_PREFIXES = ("203.0.113.0/24", "198.51.100.0/24", "192.0.2.0/24")
"""The documentation ranges stand for the public internet."""
ANY_HOSTS = {4: "0.0.0.0", 6: "::"}
LOOPBACK_HOSTS = {4: "127.0.0.1", 6: "::1"}
PREFIX_BITS = {4: 24, 6: 64}
"""Of every place that gives out addresses."""
LOOPBACK_US = 10
"""What a packet takes that never leaves its host."""
HOPS_MAX = 16
"""A packet that is still under way then goes in a circle."""

V6Kind = Literal["off", "open", "firewall", "nat66"]


def family_of(host: str) -> Literal[4, 6]:
    """By the looks of a numeric host."""
    return 6 if ":" in host else 4


@lru_cache(1024)
def _parsed(host: str) -> IPv4Address | IPv6Address:
    return ip_address(host)


@lru_cache(1024)
def _network(prefix: str) -> IPv4Network | IPv6Network:
    """Of a format for hosts."""
    host = prefix.format(0)
    return ip_network(f"{host}/{PREFIX_BITS[family_of(host)]}")


class Node(Protocol):
    """Whatever interfaces belong to: a host, a server, a router."""

    name: str

    def carry(self, at_us: int, datagram: Datagram, interface: Interface) -> None:
        """A packet will arrive through that interface at that time."""


@dataclass(eq=False, slots=True)
class Place:
    """Where interfaces plug in: the internet, or the inside of a router."""

    name: str
    router: Router | None = None
    """Whose inside this is."""
    members: dict[str, Interface] = field(default_factory=dict)
    routes: list[tuple[IPv4Network | IPv6Network, Router]] = field(default_factory=list)
    """Prefixes that are reached through a router which plugs in here, or below one that does."""
    prefixes: dict[int, str] = field(default_factory=dict)
    """By family, for the addresses given out here; the internet has none of its own for IPv4."""
    given: dict[int, int] = field(default_factory=dict)

    def route(self, host: str) -> Router | None:
        """The router behind which this address is."""
        if not self.routes:
            return None
        address = _parsed(host)
        return next((router for prefix, router in self.routes if address in prefix), None)

    def would_have(self, host: str) -> bool:
        """Whether this address, if anybody has it, is that of a neighbour."""
        prefix = self.prefixes.get(family_of(host))
        return prefix is not None and _parsed(host) in _network(prefix)


@dataclass(eq=False, slots=True)
class Interface:
    """A node's plug: addresses by family, and the two links to the place it is in."""

    name: str
    node: Node
    up: Link
    down: Link
    place: Place | None = None
    hosts: dict[int, str] = field(default_factory=dict)

    @property
    def links(self) -> tuple[Link, Link]:
        """Away from the node, and towards it."""
        return self.up, self.down

    @property
    def addresses(self) -> list[InterfaceAddress]:
        """As a driver reports them."""
        gateway = self.place.router if self.place else None
        return [
            InterfaceAddress(host, PREFIX_BITS[family], self.name, False, gateway.inside_hosts.get(family) if gateway else None)
            for family, host in sorted(self.hosts.items())
        ]


class Router:
    """A box with an inside, an outside, and what it does to packets between them."""

    def __init__(self, topology: Topology, name: str, model: NatModel, v6: V6Kind) -> None:
        self.name = name
        self.model = model
        self.v6 = v6
        self.epoch = 0
        """Counts restarts: connections through the box do not survive one."""
        self.inside = Place(name, self)
        self.inside_hosts: dict[int, str] = {}
        """Its own address inside, by family."""
        self.outside: Interface
        self.boxes: dict[int, Nat | Firewall] = {}
        """By family; without one, packets pass as they are."""
        self._topology = topology

    def carry(self, at_us: int, datagram: Datagram, interface: Interface) -> None:
        """From outside."""
        self._topology.world.at(at_us, lambda: self._from_outside(datagram))

    def from_inside(self, datagram: Datagram, hops: int) -> None:
        """A packet that is for none of those inside."""
        topology, source, destination = self._topology, datagram.source, datagram.destination
        now_us, family = topology.world.now_us, family_of(destination[0])
        box = self.boxes.get(family)
        if destination[0] == self.outside.hosts.get(family):
            both = box.translate_hairpin(source, destination, now_us) if isinstance(box, Nat) else None
            if both is None:
                topology.drop(datagram, "no hairpin")
                return
            topology.world.mark("hairpin")
            topology.arrive(self.inside, Datagram(*both, datagram.data, datagram.tampered), hops)
            return
        translated = box.translate_out(source, destination, now_us) if box else source
        if translated is None:
            topology.drop(datagram, "blocked by a NAT")
            return
        topology.climb(self.outside, Datagram(translated, destination, datagram.data, datagram.tampered), hops)

    def _from_outside(self, datagram: Datagram) -> None:
        topology = self._topology
        box = self.boxes.get(family_of(datagram.destination[0]))
        destination = datagram.destination
        if box is not None:
            inside = box.translate_in(datagram.source, destination, topology.world.now_us)
            if inside is None:
                topology.drop(datagram, "refused by a NAT")
                return
            destination = inside
        topology.arrive(self.inside, Datagram(datagram.source, destination, datagram.data, datagram.tampered), 0)


@dataclass(slots=True)
class StreamPath:
    """The way of a reliable stream: the links there and back, the restarts of the routers between, and what the server sees."""

    there: list[Link]
    back: list[Link]
    routers: list[tuple[Router, int]]
    interface: Interface
    local_host: str
    """The client's own address: a stream is bound to it."""
    source_host: str
    """What the server sees of it."""
    server: Node

    @property
    def is_whole(self) -> bool:
        """Whether bytes get through now."""
        is_there = self.local_host in self.interface.hosts.values()
        return is_there and all(link.up for link in (*self.there, *self.back))

    @property
    def is_forgotten(self) -> bool:
        """Whether a router on the way has restarted, and knows nothing of this stream."""
        return any(router.epoch != epoch for router, epoch in self.routers)


class Topology:
    """All places of a world, and the way between them."""

    def __init__(self, world: World) -> None:
        self.world = world
        world.topology = self
        self.links: dict[str, Link] = {}
        """By node, interface and direction."""
        self.internet = Place("internet")
        self.internet.prefixes[6] = "2001:db8:ffff:{:x}::"
        self.routers: list[Router] = []
        self.interfaces: list[Interface] = []
        self.distances_us: dict[frozenset[str], int] = {}
        """What packets between two hosts on the internet take, each way, besides the links: by their addresses as seen there."""
        self.names: dict[str, list[str]] = {}
        """What a look-up of a name finds."""
        self.watchers: dict[Node, Callable[[], None]] = {}
        """Whom to tell that a node's addresses changed."""
        self._public_hosts = self._public()

    # Building

    def add_router(
        self,
        name: str,
        model: NatModel | None = None,
        *,
        uplink: Router | None = None,
        lan: str | None = None,
        v6: V6Kind = "off",
        link: LinkModel | None = None,
    ) -> Router:
        """A router below the internet or below another one; `lan` is the first three numbers of its private prefix."""
        router = Router(self, name, model or NatModel(), v6)
        number = len(self.routers) + 1
        self.routers.append(router)
        parent = uplink.inside if uplink else self.internet
        kind = router.model.kind
        router.inside.prefixes[4] = "{}.{{}}".format(lan or (f"192.168.{number}" if kind != NatKind.NONE else f"198.18.{number}"))
        router.inside_hosts[4] = router.inside.prefixes[4].format(1)
        if v6 != "off":
            private = "fd00" if v6 == "nat66" else "2001:db8"
            router.inside.prefixes[6] = f"{private}:{number:x}::{{:x}}"
            router.inside_hosts[6] = router.inside.prefixes[6].format(1)
        router.outside = self._new_interface(router, "wan0", link)
        self.plug(router.outside, parent, v6=v6 != "off")
        self._fit_boxes(router)
        for family, prefix in router.inside.prefixes.items():
            if not isinstance(router.boxes.get(family), Nat):
                self._add_route(router, prefix)
        return router

    def attach(
        self, node: Node, router: Router | None = None, *, name: str = "eth0", v6: bool = False, link: LinkModel | None = None
    ) -> Interface:
        """Give a node an interface, plugged in behind `router` or, without one, into the internet itself."""
        interface = self._new_interface(node, name, link)
        self.plug(interface, router.inside if router else self.internet, v6=v6)
        return interface

    def plug(self, interface: Interface, place: Place, *, v6: bool) -> None:
        """Fresh addresses of that place."""
        interface.place = place
        interface.hosts = {4: self._next_host(place, 4)}
        if v6 and (place.prefixes.get(6) or place is self.internet):
            interface.hosts[6] = self._next_host(place, 6)
        for host in interface.hosts.values():
            place.members[host] = interface
        self._changed(interface.node)

    def unplug(self, interface: Interface) -> None:
        """Its addresses are gone."""
        if interface.place is not None:
            for host in interface.hosts.values():
                interface.place.members.pop(host, None)
        interface.place, interface.hosts = None, {}
        self._changed(interface.node)

    # Trouble

    def roam(self, interface: Interface, router: Router | None = None, *, gap_us: int = 0) -> None:
        """Move to another place (or the same) without warning: new addresses; sockets stay bound to those that vanished.

        During the gap there is no address at all.
        """
        had_v6 = 6 in interface.hosts
        place = router.inside if router else self.internet
        self.world.note(interface.node.name, f"roams to {place.name} in {gap_us} us")
        self.unplug(interface)
        if gap_us:
            self.world.after(gap_us, lambda: self.plug(interface, place, v6=had_v6))
        else:
            self.plug(interface, place, v6=had_v6)

    def rebind(self, router: Router, *, new_address: bool = False) -> None:
        """The router restarts: mappings are forgotten, ports change, and on demand the outside address."""
        router.epoch += 1
        if new_address:
            place = router.outside.place
            assert place is not None, "routers stay plugged in"
            self.unplug(router.outside)
            self.plug(router.outside, place, v6=router.v6 != "off")
        for family, box in router.boxes.items():
            if isinstance(box, Nat):
                box.rebind(router.outside.hosts[family])
            else:
                box.rebind()
        self.world.note(router.name, f"rebinds at {router.outside.hosts[4]}")

    def cut(self, interface: Interface, for_us: int | None = None) -> None:
        """Nothing passes the link of this interface, for a while or until `restore`; its addresses stay."""
        self.world.note(interface.node.name, f"{interface.name} is cut")
        for link in interface.links:
            link.up = False
        if for_us is not None:
            self.world.after(for_us, lambda: self.restore(interface))

    def restore(self, interface: Interface) -> None:
        """The link carries again."""
        self.world.note(interface.node.name, f"{interface.name} is restored")
        for link in interface.links:
            link.up = True

    # Packets

    def send(self, interfaces: list[Interface], datagram: Datagram) -> None:
        """A packet of a node with these interfaces; its source decides through which it leaves."""
        if any(datagram.destination[0] in interface.hosts.values() for interface in interfaces) or _is_loopback(datagram):
            interfaces[0].node.carry(self.world.now_us + LOOPBACK_US, datagram, interfaces[0])
            return
        family = family_of(datagram.destination[0])
        source, port = datagram.source
        for interface in interfaces:
            host = interface.hosts.get(family)
            if host is not None and source in (host, ANY_HOSTS[family]):
                self.climb(interface, Datagram((host, port), datagram.destination, datagram.data, datagram.tampered), 0)
                return
        self.drop(datagram, "from an address that is gone")

    def climb(self, interface: Interface, datagram: Datagram, hops: int) -> None:
        """Up the link of an interface, into the place it is plugged into."""
        place = interface.place
        if place is None:
            self.drop(datagram, "unplugged")
            return
        distance_us = 0
        if self.distances_us and place is self.internet:
            distance_us = self.distances_us.get(frozenset((datagram.source[0], datagram.destination[0])), 0)
        for at_us, moved in interface.up.send(datagram, self.world.now_us):
            self.world.at(at_us + distance_us, lambda moved=moved: self.arrive(place, moved, hops + 1))  # type: ignore[misc]

    def arrive(self, place: Place, datagram: Datagram, hops: int) -> None:
        """A packet is in this place: on to whom it is for, down a route, or out through the router."""
        host = datagram.destination[0]
        target = place.members.get(host)
        if target is None and (below := place.route(host)) is not None:
            target = below.outside
        if target is not None:
            for at_us, moved in target.down.send(datagram, self.world.now_us):
                target.node.carry(at_us, moved, target)
        elif place.router is not None and hops < HOPS_MAX and not place.would_have(host):
            place.router.from_inside(datagram, hops)
        else:
            self.drop(datagram, "no route")

    def drop(self, datagram: Datagram, why: str) -> None:
        """It goes no further; the trace says why."""
        self.world.mark(f"packet dropped: {why}")
        where = f"{datagram.source[0]}:{datagram.source[1]} > {datagram.destination[0]}:{datagram.destination[1]}"
        self.world.note("network", f"drops {where}: {why}")

    # Streams

    def stream_path(self, interfaces: list[Interface], remote: Address) -> StreamPath | None:
        """How a connection from one of these interfaces reaches a server; None if it does not."""
        family = family_of(remote[0])
        interface = next((one for one in interfaces if family in one.hosts), None)
        if interface is None:
            return None
        local = source = interface.hosts[family]
        place = interface.place
        there, back = [interface.up], [interface.down]
        routers: list[tuple[Router, int]] = []
        while place is not None and len(there) < HOPS_MAX:
            if (target := place.members.get(remote[0])) is not None:
                there.append(target.down)
                back.append(target.up)
                return StreamPath(there, back[::-1], routers, interface, local, source, target.node)
            if (router := place.router) is None:
                return None
            routers.append((router, router.epoch))
            if isinstance(router.boxes.get(family), Nat):
                source = router.outside.hosts[family]
            there.append(router.outside.up)
            back.append(router.outside.down)
            place = router.outside.place
        return None

    # Inside

    def _changed(self, node: Node) -> None:
        if (tell := self.watchers.get(node)) is not None:
            tell()

    def _new_interface(self, node: Node, name: str, model: LinkModel | None) -> Interface:
        what = f"{node.name}/{name}"
        up, down = (
            Link(replace(model) if model else LinkModel(), self.world.seeded(f"link/{what}/{way}")) for way in ("up", "down")
        )
        interface = Interface(name, node, up, down)
        self.interfaces.append(interface)
        self.links[f"{what}/up"], self.links[f"{what}/down"] = up, down
        return interface

    def _fit_boxes(self, router: Router) -> None:
        model, rng = router.model, self.world.seeded(f"nat/{router.name}")
        if model.kind != NatKind.NONE:
            router.boxes[4] = Nat(model, router.outside.hosts[4], rng)
        if router.v6 == "nat66":
            kept = model.kind if model.kind in (NatKind.SYMMETRIC, NatKind.UDP_BLOCKED) else NatKind.PORT_RESTRICTED
            model = replace(model, kind=kept, hairpin=False)
            router.boxes[6] = Nat(model, router.outside.hosts[6], self.world.seeded(f"nat66/{router.name}"))
        elif router.v6 == "firewall" or (router.v6 == "open" and model.kind == NatKind.UDP_BLOCKED):
            router.boxes[6] = Firewall(model.timeout_us, blocks_udp=model.kind == NatKind.UDP_BLOCKED)

    def _add_route(self, router: Router, prefix: str) -> None:
        """In every place above, as far as addresses go untranslated."""
        network = _network(prefix)
        below: Router | None = router
        while below is not None:
            place = below.outside.place
            assert place is not None, "routers stay plugged in"
            place.routes.append((network, below))
            below = place.router

    def _next_host(self, place: Place, family: int) -> str:
        if family == 4 and place is self.internet:
            return next(self._public_hosts)
        place.given[family] = place.given.get(family, 9) + 1
        return place.prefixes[family].format(place.given[family])

    def _public(self) -> Iterator[str]:
        for prefix in PUBLIC_PREFIXES:
            for host in ip_network(prefix).hosts():
                yield str(host)


def _is_loopback(datagram: Datagram) -> bool:
    return datagram.destination[0] in LOOPBACK_HOSTS.values()
