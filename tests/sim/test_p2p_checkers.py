from __future__ import annotations

from peergram.address import Address
from peergram.sim.checkers import Checker
from peergram.sim.outside import Outside
from peergram.sim.p2p_checkers import CONSENT_US, V11, WireOrRelay
from peergram.sim.p2p_scenario import ServerList
from peergram.sim.topology import Topology
from peergram.sim.world import Host, HostOptions, World
from peergram.wire.pcp import encode_nat_pmp_address, encode_nat_pmp_map, encode_pcp_map
from peergram.wire.stun import Class, Method, StunMessage, encode_channel_data, encode_stun
from tests.sim.rendezvous_endpoint import make_rendezvous

HERE, PEER, RELAY = ("10.0.0.1", 1), ("192.0.2.1", 2), ("192.0.2.9", 3478)
DATA = b"\x80\x01\x00\x00\x00\x01\x00data"


class Watched:
    """One host with one checker, whose hooks are called by hand."""

    def __init__(self, checker: Checker) -> None:
        self.world = World("watched", make_endpoint=make_rendezvous(ServerList([], [])), checkers=[checker])
        topology = Topology(self.world)
        self.host: Host = self.world.add_host(options=HostOptions(listens=False), start=False)
        Outside(self.host, topology).attach()

    def sends(self, packet: bytes, to: Address = PEER) -> None:
        self.world.hook("packet_out", self.host, HERE, to, packet)

    def gets(self, packet: bytes, source: Address = PEER) -> None:
        self.world.hook("packets_in", self.host, source, [packet])

    def broken(self) -> list[str]:
        return [violation.name for violation in self.world.violations]


def stun(message_class: int, id_: bytes = bytes(12)) -> bytes:
    return encode_stun(StunMessage(Method.BINDING, message_class, id_))


def relayed(inner: bytes, method: int = Method.SEND) -> bytes:
    return encode_stun(StunMessage(method, Class.INDICATION, bytes(12), xor_peer_addresses=[PEER], data=inner))


def test_data_may_go_where_a_check_was_answered() -> None:
    watched = Watched(V11())
    watched.sends(stun(Class.REQUEST))
    watched.gets(stun(Class.SUCCESS))
    watched.sends(DATA)
    assert watched.broken() == []


def test_data_without_consent_is_seen() -> None:
    for answer in (None, stun(Class.SUCCESS, b"x" * 12), stun(Class.ERROR), stun(Class.REQUEST), DATA):
        watched = Watched(V11())
        watched.sends(stun(Class.REQUEST))
        if answer is not None:
            watched.gets(answer)
        watched.sends(DATA)
        assert watched.broken() == ["V11"], answer


def test_an_answer_from_elsewhere_is_no_consent() -> None:
    watched = Watched(V11())
    watched.sends(stun(Class.REQUEST))
    watched.gets(stun(Class.SUCCESS), ("192.0.2.1", 3))
    watched.sends(DATA)
    assert watched.broken() == ["V11"]


def test_consent_ends_unless_something_is_heard() -> None:
    watched = Watched(V11())
    watched.sends(stun(Class.REQUEST))
    watched.gets(stun(Class.SUCCESS))
    watched.world.run_for(CONSENT_US)
    watched.gets(DATA)
    watched.world.run_for(CONSENT_US)
    watched.sends(DATA)
    assert watched.broken() == []
    watched.world.run_for(1)
    watched.sends(DATA)
    assert watched.broken() == ["V11"]


def test_consent_through_a_relay_is_for_the_relay_only() -> None:
    watched = Watched(V11())
    watched.sends(relayed(stun(Class.REQUEST)), RELAY)
    watched.gets(relayed(stun(Class.SUCCESS), Method.DATA), RELAY)
    watched.sends(relayed(DATA), RELAY)
    assert watched.broken() == []
    watched.sends(DATA)
    assert watched.broken() == ["V11"]


def test_channels_are_looked_into() -> None:
    watched = Watched(V11())
    bind = StunMessage(Method.CHANNEL_BIND, Class.REQUEST, bytes(12), channel_number=0x4000, xor_peer_addresses=[PEER])
    watched.sends(encode_stun(bind), RELAY)
    watched.sends(encode_channel_data(0x4000, DATA), RELAY)
    assert watched.broken() == ["V11"]
    watched.sends(encode_channel_data(0x4000, stun(Class.REQUEST)), RELAY)
    watched.gets(encode_channel_data(0x4000, stun(Class.SUCCESS)), RELAY)
    watched.sends(encode_channel_data(0x4000, DATA), RELAY)
    assert watched.broken() == ["V11"]


def test_damaged_packets_say_nothing() -> None:
    watched = Watched(V11())
    watched.sends(stun(Class.REQUEST))
    watched.gets(stun(Class.SUCCESS)[:-1] + b"!")
    watched.gets(b"\x40\x00\xff\xff")
    watched.gets(b"")
    watched.sends(DATA)
    assert watched.broken() == ["V11"]


def test_every_datagram_is_of_a_format() -> None:
    bad = [
        b"\x00" * 30,
        stun(Class.REQUEST)[:-1] + b"!",
        relayed(b"\x11noise"),
        b"\x7fnoise",
        encode_channel_data(0x4000, b"")[:3],
    ]
    for packet in bad:
        watched = Watched(WireOrRelay())
        watched.sends(packet)
        assert watched.broken() == ["V18"], packet
    good = [stun(Class.REQUEST), relayed(stun(Class.REQUEST))]
    watched = Watched(WireOrRelay())
    for packet in good:
        watched.sends(packet)
    assert watched.broken() == []


def test_questions_to_routers_are_known_and_nothing_else_may_go_there() -> None:
    search = b"M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\n\r\n"
    good = [
        (5351, encode_pcp_map(HERE, None, bytes(12), 7_200)),
        (5351, encode_nat_pmp_address()),
        (5351, encode_nat_pmp_map(1, 2, 7_200)),
        (1900, search),
    ]
    for port, packet in good:
        watched = Watched(WireOrRelay())
        watched.sends(packet, ("10.0.0.254", port))
        assert watched.broken() == []
    for port, packet in [(5351, DATA), (5351, b""), (5351, good[0][1][:-1]), (5351, search), (1900, DATA), (1900, search[:-1])]:
        watched = Watched(WireOrRelay())
        watched.sends(packet, ("10.0.0.254", port))
        assert watched.broken() == ["V18"], (port, packet)
