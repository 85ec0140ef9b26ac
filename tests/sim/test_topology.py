from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from peergram.address import Address
from peergram.sim.link import Datagram, LinkModel
from peergram.sim.nat import NAT_KINDS, NatKind, NatModel
from peergram.sim.p2p_scenario import has_direct_way
from peergram.sim.topology import Interface, Router, Topology
from peergram.sim.world import World
from tests.sim.toy_endpoint import make_toy

SECOND_US = 1_000_000


@dataclass(eq=False)
class Ear:
    """A node that only notes what it hears."""

    name: str
    topology: Topology
    heard: list[tuple[int, Datagram]] = field(default_factory=list)
    interfaces: list[Interface] = field(default_factory=list)

    def carry(self, at_us: int, datagram: Datagram, interface: Interface) -> None:
        self.topology.world.at(at_us, lambda: self.heard.append((at_us, datagram)))

    def plug(self, router: Router | None = None, *, v6: bool = False, name: str = "eth0", link: LinkModel | None = None) -> Ear:
        self.interfaces.append(self.topology.attach(self, router, v6=v6, name=name, link=link))
        return self

    def host(self, family: int = 4) -> str:
        return self.interfaces[0].hosts[family]

    def send(self, port: int, to: Address, data: bytes = b"x", *, source: str | None = None) -> None:
        host = source or self.host(6 if ":" in to[0] else 4)
        self.topology.send(self.interfaces, Datagram((host, port), to, data))
        self.topology.world.run_for(SECOND_US)

    def last_source(self) -> Address:
        return self.heard[-1][1].source


def a_topology() -> Topology:
    return Topology(World("topology", make_endpoint=make_toy))


def a_home(topology: Topology, kind: NatKind, name: str = "home", **options: object) -> tuple[Router, Ear]:
    router = topology.add_router(name, NatModel(kind=kind), **options)  # type: ignore[arg-type]
    return router, Ear(f"{name}-host", topology).plug(router, v6=options.get("v6", "off") != "off")


def test_public_hosts_reach_each_other_over_both_their_links() -> None:
    topology = a_topology()
    a = Ear("a", topology).plug(link=LinkModel(delay_us=3_000))
    b = Ear("b", topology).plug(link=LinkModel(delay_us=500))
    a.send(1, (b.host(), 2))
    ((at_us, datagram),) = b.heard
    assert (at_us, datagram.source) == (3_500, (a.host(), 1))


def test_a_host_at_home_is_seen_by_its_routers_address_and_gets_the_answer() -> None:
    topology = a_topology()
    router, alice = a_home(topology, NatKind.PORT_RESTRICTED)
    server = Ear("server", topology).plug()
    alice.send(5_000, (server.host(), 80))
    assert server.last_source() == (router.outside.hosts[4], 5_000)
    server.send(80, server.last_source(), b"answer")
    assert alice.heard[-1][1].destination == (alice.host(), 5_000)
    server.send(81, server.last_source(), b"refused")
    assert len(alice.heard) == 1


def test_neighbours_meet_without_the_router() -> None:
    topology = a_topology()
    router, alice = a_home(topology, NatKind.UDP_BLOCKED)
    bob = Ear("bob", topology).plug(router)
    alice.send(1, (bob.host(), 2))
    assert bob.last_source() == (alice.host(), 1)


def test_a_home_behind_a_carrier_is_translated_twice() -> None:
    topology = a_topology()
    carrier = topology.add_router("carrier", NatModel(kind=NatKind.SYMMETRIC), lan="100.64.0")
    router, alice = a_home(topology, NatKind.FULL_CONE, uplink=carrier)
    server, other = Ear("server", topology).plug(), Ear("other", topology).plug()
    assert router.outside.hosts[4].startswith("100.64.0.")
    alice.send(5_000, (server.host(), 80))
    alice.send(5_000, (other.host(), 80))
    assert server.last_source()[0] == other.last_source()[0] == carrier.outside.hosts[4]
    assert server.last_source()[1] != other.last_source()[1]
    server.send(80, server.last_source(), b"answer")
    other.send(80, server.last_source(), b"refused")
    assert [datagram.data for _, datagram in alice.heard] == [b"answer"]


def test_two_homes_may_have_the_same_addresses_inside() -> None:
    topology = a_topology()
    _, alice = a_home(topology, NatKind.FULL_CONE, "home-a", lan="192.168.1")
    _, bob = a_home(topology, NatKind.FULL_CONE, "home-b", lan="192.168.1")
    server = Ear("server", topology).plug()
    assert alice.host() == bob.host()
    alice.send(5_000, (server.host(), 80))
    bob.send(5_000, server.last_source())
    assert len(alice.heard) == 1
    alice.send(5_000, (bob.host(), 5_000), b"to myself")
    assert [datagram.data for _, datagram in bob.heard] == []
    assert alice.heard[-1][1].data == b"to myself"


def test_private_addresses_of_others_lead_nowhere() -> None:
    topology = a_topology()
    _, alice = a_home(topology, NatKind.FULL_CONE, "home-a")
    _, bob = a_home(topology, NatKind.FULL_CONE, "home-b")
    alice.send(5_000, (bob.host(), 5_000))
    assert bob.heard == []
    assert "packet dropped: no route" in topology.world.marks


def test_without_a_nat_hosts_behind_a_router_have_addresses_of_their_own() -> None:
    topology = a_topology()
    _, alice = a_home(topology, NatKind.NONE)
    server = Ear("server", topology).plug()
    server.send(80, (alice.host(), 5_000))
    assert alice.last_source() == (server.host(), 80)


@pytest.mark.parametrize(("hairpin", "heard"), [(True, 1), (False, 0)])
def test_a_hairpin_leads_back_inside(hairpin: bool, heard: int) -> None:
    topology = a_topology()
    router = topology.add_router("home", NatModel(kind=NatKind.FULL_CONE, hairpin=hairpin))
    alice, bob, server = Ear("a", topology).plug(router), Ear("b", topology).plug(router), Ear("server", topology).plug()
    alice.send(5_000, (server.host(), 80))
    bob.send(6_000, server.last_source())
    assert len(alice.heard) == heard
    assert not heard or alice.last_source() == (router.outside.hosts[4], 6_000)


def test_a_firewall_lets_ipv6_out_and_only_answers_in() -> None:
    topology = a_topology()
    _, alice = a_home(topology, NatKind.SYMMETRIC, v6="firewall")
    server = Ear("server", topology).plug(v6=True)
    server.send(80, (alice.host(6), 5_000), b"uninvited")
    assert alice.heard == []
    alice.send(5_000, (server.host(6), 80))
    assert server.last_source() == (alice.host(6), 5_000)
    server.send(80, server.last_source(), b"answer")
    assert len(alice.heard) == 1


def test_ipv6_is_open_through_a_carrier_or_translated_where_the_router_says_so() -> None:
    topology = a_topology()
    carrier = topology.add_router("carrier", lan="100.64.0", v6="open")
    _, alice = a_home(topology, NatKind.PORT_RESTRICTED, "open", uplink=carrier, v6="open")
    router, bob = a_home(topology, NatKind.PORT_RESTRICTED, "nat66", v6="nat66")
    bob.send(1, (alice.host(6), 2))
    assert alice.last_source() == (router.outside.hosts[6], 1)
    assert bob.host(6).startswith("fd00:")


def test_each_source_address_leaves_by_its_own_interface() -> None:
    topology = a_topology()
    router, phone = a_home(topology, NatKind.FULL_CONE)
    phone.plug(name="eth1")
    server = Ear("server", topology).plug()
    phone.send(1, (server.host(), 80))
    assert server.last_source()[0] == router.outside.hosts[4]
    phone.send(1, (server.host(), 80), source=phone.interfaces[1].hosts[4])
    assert server.last_source()[0] == phone.interfaces[1].hosts[4]


def test_after_roaming_old_addresses_are_gone_and_new_ones_work() -> None:
    topology = a_topology()
    _, alice = a_home(topology, NatKind.FULL_CONE, "home")
    cafe = topology.add_router("cafe")
    server = Ear("server", topology).plug()
    before = alice.host()
    topology.roam(alice.interfaces[0], cafe)
    assert alice.host() != before
    alice.send(1, (server.host(), 80), source=before)
    assert server.heard == []
    assert "packet dropped: from an address that is gone" in topology.world.marks
    alice.send(1, (server.host(), 80))
    assert server.last_source()[0] == cafe.outside.hosts[4]


@pytest.mark.parametrize("new_address", [True, False])
def test_a_rebind_changes_how_a_host_is_seen(new_address: bool) -> None:
    topology = a_topology()
    router, alice = a_home(topology, NatKind.FULL_CONE)
    server = Ear("server", topology).plug()
    alice.send(5_000, (server.host(), 80))
    before = server.last_source()
    topology.rebind(router, new_address=new_address)
    server.send(80, before)
    assert alice.heard == []
    alice.send(5_000, (server.host(), 80))
    assert (server.last_source()[0] != before[0]) is new_address
    assert server.last_source()[1] != before[1]


def test_a_cut_link_carries_nothing_for_its_time() -> None:
    topology = a_topology()
    a, b = Ear("a", topology).plug(), Ear("b", topology).plug()
    topology.cut(b.interfaces[0], 3 * SECOND_US)
    a.send(1, (b.host(), 2), b"lost")
    topology.world.run_for(3 * SECOND_US)
    a.send(1, (b.host(), 2), b"through")
    assert [datagram.data for _, datagram in b.heard] == [b"through"]


PAIRS = [(one, other) for at, one in enumerate(NAT_KINDS) for other in NAT_KINDS[at:]]


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_hole_punching_works_for_the_pairs_of_kinds_that_netlab_found(one: NatKind, other: NatKind) -> None:
    """Both learn of their outside address from one server and send to the other's, until an answer comes, also from elsewhere."""
    topology = a_topology()
    server = Ear("server", topology).plug()
    ears = [a_home(topology, kind, f"home-{at}")[1] for at, kind in enumerate((one, other))]
    seen: list[Address] = []
    for ear in ears:
        ear.send(5_000, (server.host(), 80))
        seen.append(server.last_source() if server.heard else ("192.0.2.9", 9))
        server.heard.clear()
    for _ in range(3):
        for ear, peer_seen in ((ears[0], seen[1]), (ears[1], seen[0])):
            ear.send(5_000, peer_seen)
            for source in {datagram.source for _, datagram in ear.heard if datagram.data == b"x"}:
                ear.send(5_000, source, b"answer")
    connected = any(datagram.data == b"answer" for ear in ears for _, datagram in ear.heard)
    assert connected is has_direct_way(one, other, stun=True)


def test_names_of_links_say_whose_they_are() -> None:
    topology = a_topology()
    a_home(topology, NatKind.FULL_CONE)
    assert sorted(topology.links) == ["home-host/eth0/down", "home-host/eth0/up", "home/wan0/down", "home/wan0/up"]


@pytest.mark.parametrize("family", [4, 6])
def test_a_packet_for_an_address_that_nobody_has_any_more_goes_in_no_circle(family: int) -> None:
    topology = a_topology()
    _, alice = a_home(topology, NatKind.NONE, v6="open")
    server = Ear("server", topology).plug(v6=True)
    gone = alice.host(family)
    topology.unplug(alice.interfaces[0])
    server.send(80, (gone, 5_000))
    assert topology.links["home/wan0/down"].counts.sent == 1
    assert topology.links["home/wan0/up"].counts.sent == 0


@pytest.mark.parametrize(
    ("kind", "heard"),
    [(NatKind.FULL_CONE, [b"forged", b"with a forged source"]), (NatKind.PORT_RESTRICTED, [b"with a forged source"])],
)
def test_a_packet_of_an_attacker_comes_from_the_internet_and_meets_the_nat(kind: NatKind, heard: list[bytes]) -> None:
    topology = a_topology()
    _, alice = a_home(topology, kind)
    server = Ear("server", topology).plug()
    alice.send(5_000, (server.host(), 80))
    for source, data in ((("192.0.2.66", 6), b"forged"), ((server.host(), 80), b"with a forged source")):
        topology.world.inject(Datagram(source, server.last_source(), data), delay_us=5)
    topology.world.run_for(SECOND_US)
    assert [datagram.data for _, datagram in alice.heard] == heard
    assert all(datagram.tampered for _, datagram in alice.heard)


def test_a_host_between_two_networks_has_no_address() -> None:
    topology = a_topology()
    _, alice = a_home(topology, NatKind.FULL_CONE, v6="open")
    topology.roam(alice.interfaces[0], topology.add_router("cafe", v6="open"), gap_us=2 * SECOND_US)
    assert alice.interfaces[0].addresses == []
    topology.world.run_for(2 * SECOND_US)
    assert set(alice.interfaces[0].hosts) == {4, 6}
