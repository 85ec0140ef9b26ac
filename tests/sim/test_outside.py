"""What the driver of a host does in a world with a topology: addresses, sockets, streams, names."""

from __future__ import annotations

from dataclasses import dataclass, field

from peergram.address import Address
from peergram.io_requests import (
    CloseStream,
    InterfaceAddress,
    IoRequest,
    OpenSocket,
    OpenStream,
    ResolveName,
    Transmit,
    WatchInterfaces,
)
from peergram.sim.link import LinkModel
from peergram.sim.nat import NatKind, NatModel
from peergram.sim.outside import Outside
from peergram.sim.p2p_scenario import ServerList
from peergram.sim.servers import Server
from peergram.sim.streams import BROKEN_AFTER_US, Stream
from peergram.sim.topology import Interface, Router, Topology
from peergram.sim.turn_server import TurnModel
from peergram.sim.world import Host, HostOptions, World
from peergram.wire.stun import Class, Method, StunMessage, StunStream, decode_stun, encode_stun
from tests.sim.rendezvous_endpoint import RendezvousEndpoint, make_rendezvous

SECOND_US = 1_000_000


@dataclass(eq=False)
class Notes:
    """Replaces what an endpoint does with what it is told."""

    host: Host
    told: list[tuple[str, object]] = field(default_factory=list)
    requests: list[IoRequest] = field(default_factory=list)
    transmits: list[Transmit] = field(default_factory=list)

    def __post_init__(self) -> None:
        endpoint = self.host.endpoint
        assert isinstance(endpoint, RendezvousEndpoint)
        names = ("interfaces", "name_resolved", "stream_opened", "stream_data", "stream_closed", "socket_opened", "socket_failed")
        for name in names:

            def note(*args: object, name: str = name) -> None:
                self.told.append((name, args[0] if len(args) == 2 else args[:-1]))

            setattr(endpoint, f"handle_{name}", note)
        endpoint.handle_timeout = lambda now_us: None  # type: ignore[method-assign]
        endpoint.poll_timeout = lambda: None  # type: ignore[method-assign]
        endpoint.poll_socket_request = lambda: self.requests.pop(0) if self.requests else None  # type: ignore[method-assign]
        endpoint.poll_transmit = lambda now_us: self.transmits.pop(0) if self.transmits else None  # type: ignore[method-assign]

    def ask(self, *requests: IoRequest, for_us: int = SECOND_US) -> None:
        self.requests += requests
        self.host.turn("test", lambda endpoint, now_us: None)
        self.host.world.run_for(for_us)

    def write(self, id_: int, data: bytes, to: Address = ("", 0), for_us: int = SECOND_US) -> None:
        self.transmits.append(Transmit(id_, to, [data]))
        self.ask(for_us=for_us)

    def of(self, name: str) -> list[object]:
        return [what for told, what in self.told if told == name]


def a_world(nat: NatModel | None = None, *, link: LinkModel | None = None) -> tuple[Topology, Router | None, Notes, Server]:
    world = World("outside", make_endpoint=make_rendezvous(ServerList([], [])))
    topology = Topology(world)
    router = topology.add_router("home", nat) if nat else None
    server = Server(topology, "turn", TurnModel())
    topology.names["turn.example"] = [server.host]
    host = world.add_host(options=HostOptions(listens=False), start=False)
    Outside(host, topology).attach(router, link=link)
    host.start()
    world.run_for(SECOND_US)
    notes = Notes(host)
    return topology, router, notes, server


def outside_of(notes: Notes) -> Outside:
    assert notes.host.outside is not None
    return notes.host.outside


def interface_of(notes: Notes) -> Interface:
    return outside_of(notes).interfaces[0]


def addresses(told: object) -> list[str]:
    assert isinstance(told, list)
    return [one.address for one in told if isinstance(one, InterfaceAddress)]


BINDING = encode_stun(StunMessage(Method.BINDING, Class.REQUEST, bytes(12)))


def test_interfaces_are_told_at_once_and_after_every_change_while_they_are_watched() -> None:
    topology, router, notes, _ = a_world(NatModel())
    notes.ask(WatchInterfaces(True))
    before = interface_of(notes).hosts[4]
    assert [addresses(told) for told in notes.of("interfaces")] == [["127.0.0.1", before]]
    topology.roam(interface_of(notes))
    topology.world.run_for(SECOND_US)
    after = interface_of(notes).hosts[4]
    assert addresses(notes.of("interfaces")[-1]) == ["127.0.0.1", after]
    notes.ask(WatchInterfaces(False))
    seen = len(notes.of("interfaces"))
    topology.roam(interface_of(notes), router)
    topology.world.run_for(SECOND_US)
    assert len(notes.of("interfaces")) == seen


def test_a_socket_has_an_address_of_the_host_or_cannot_be_opened() -> None:
    _, _, notes, server = a_world(NatModel())
    own = interface_of(notes).hosts[4]
    notes.ask(OpenSocket(11, 4, (own, 0)), OpenSocket(12, 4, ("192.0.2.9", 0)), OpenSocket(13, 4, ("0.0.0.0", 900)))
    (_, local), (_, any_local) = notes.of("socket_opened")  # type: ignore[misc]
    assert local[0] == own  # type: ignore[has-type]
    assert any_local == ("0.0.0.0", 900)  # type: ignore[has-type]
    assert [told[0] for told in notes.of("socket_failed")] == [12]  # type: ignore[index]
    for id_ in (11, 13):
        notes.write(id_, BINDING, server.address)
    assert server.requests == 2


def test_packets_of_a_socket_go_through_the_nat_and_answers_come_back() -> None:
    _, router, notes, server = a_world(NatModel(kind=NatKind.SYMMETRIC))
    assert router is not None
    heard: list[tuple[int, Address, bytes]] = []
    endpoint = notes.host.endpoint
    endpoint.handle_datagrams = lambda id_, remote, data, size, now_us: heard.append((id_, remote, data))  # type: ignore
    notes.ask(OpenSocket(11, 4, (interface_of(notes).hosts[4], 0)))
    notes.write(11, BINDING, server.address)
    ((socket_id, remote, data),) = heard
    mapped = decode_stun(data).xor_mapped_address
    assert (socket_id, remote) == (11, server.address)
    assert mapped is not None
    assert mapped[0] == router.outside.hosts[4]


def test_a_name_is_looked_up() -> None:
    _, _, notes, server = a_world()
    notes.ask(ResolveName("turn.example"), ResolveName("nobody.example"))
    assert sorted(notes.of("name_resolved")) == [("nobody.example", []), ("turn.example", [server.host])]  # type: ignore[type-var]


def test_a_stream_carries_bytes_in_order_and_whole_also_where_udp_is_blocked_and_packets_are_lost() -> None:
    _, router, notes, server = a_world(NatModel(kind=NatKind.UDP_BLOCKED), link=LinkModel(loss=0.3, jitter_us=20_000))
    assert router is not None
    notes.ask(OpenStream(7, server.address))
    assert notes.of("stream_opened") == [7]
    for _ in range(20):
        notes.write(7, BINDING, for_us=1_000)
    notes.host.world.run_for(10 * SECOND_US)
    frames = StunStream()
    pieces = [told[1] for told in notes.of("stream_data")]  # type: ignore[index]
    answers = [decode_stun(frame) for piece in pieces for frame in frames.handle_data(piece)]
    assert len(answers) == 20
    assert len(pieces) > 20
    assert {answer.xor_mapped_address[0] for answer in answers if answer.xor_mapped_address} == {router.outside.hosts[4]}


def test_a_stream_to_nobody_or_to_a_server_that_is_down_is_refused() -> None:
    topology, _, notes, server = a_world()
    Server(topology, "stun")
    server.crash()
    notes.ask(OpenStream(21, server.address), OpenStream(22, ("192.0.2.99", 1)), OpenStream(23, (server.host, 9)))
    assert sorted(notes.of("stream_closed")) == [(21, "refused"), (22, "refused"), (23, "refused")]  # type: ignore[type-var]


def test_a_stream_ends_once_when_its_server_crashes() -> None:
    _, _, notes, server = a_world()
    notes.ask(OpenStream(21, server.address))
    server.crash(for_us=SECOND_US)
    notes.host.world.run_for(3 * SECOND_US)
    assert [told[0] for told in notes.of("stream_closed")] == [21]  # type: ignore[index]
    notes.write(21, b"into the void")
    assert notes.host.world.violations == []
    notes.ask(OpenStream(22, server.address))
    assert notes.of("stream_opened") == [21, 22]


def test_a_stream_survives_a_short_cut_and_breaks_in_a_long_one() -> None:
    topology, _, notes, server = a_world()
    notes.ask(OpenStream(21, server.address))
    topology.cut(interface_of(notes), 3 * SECOND_US)
    notes.write(21, BINDING)
    assert notes.of("stream_data") == []
    topology.world.run_for(5 * SECOND_US)
    assert notes.of("stream_data") != []
    topology.cut(interface_of(notes))
    notes.write(21, BINDING, for_us=BROKEN_AFTER_US + SECOND_US)
    assert len(notes.of("stream_closed")) == 1


def test_a_stream_breaks_where_the_router_forgot_it_or_the_host_moved_away() -> None:
    for trouble in ("rebind", "roam"):
        topology, router, notes, server = a_world(NatModel())
        assert router is not None
        notes.ask(OpenStream(21, server.address))
        if trouble == "rebind":
            topology.rebind(router)
        else:
            topology.roam(interface_of(notes))
        notes.write(21, BINDING, for_us=BROKEN_AFTER_US + SECOND_US)
        assert len(notes.of("stream_closed")) == 1, trouble


def test_closing_a_stream_tells_the_server_and_nobody_else() -> None:
    _, _, notes, server = a_world()
    notes.ask(OpenStream(21, server.address))
    streams: list[Stream] = list(server.streams)
    assert len(streams) == 1
    notes.ask(CloseStream(21))
    assert server.streams == {}
    assert notes.of("stream_closed") == []


def test_noise_on_a_stream_ends_it() -> None:
    _, _, notes, server = a_world()
    notes.ask(OpenStream(21, server.address))
    notes.write(21, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc")
    assert len(notes.of("stream_closed")) == 1
    assert server.streams == {}


def test_what_comes_for_a_host_that_stands_still_comes_later_in_order() -> None:
    topology, _, notes, server = a_world()
    notes.ask(OpenStream(21, server.address), WatchInterfaces(True))
    notes.write(21, BINDING * 3, for_us=0)
    notes.host.pause(5 * SECOND_US)
    before = len(notes.told)
    topology.world.run_for(4 * SECOND_US)
    server.crash()
    topology.roam(interface_of(notes))
    topology.world.run_for(SECOND_US // 2)
    assert len(notes.told) == before
    topology.world.run_for(SECOND_US)
    kinds = [kind for kind, _ in notes.told[before:]]
    assert kinds[0] == "stream_data"
    assert kinds.index("stream_closed") > kinds.index("stream_data")
    assert kinds[-1] in ("interfaces", "stream_closed")
    assert {"interfaces", "stream_closed"} <= set(kinds)


def test_a_crash_closes_streams_and_forgets_what_was_asked() -> None:
    topology, _, notes, server = a_world()
    notes.ask(OpenStream(21, server.address), ResolveName("turn.example"), for_us=0)
    notes.host.crash()
    topology.world.run_for(SECOND_US)
    assert notes.told == []
    assert server.streams == {}
    notes.host.start()
    topology.world.run_for(SECOND_US)
    assert notes.host.world.violations == []


def test_what_leaves_an_endpoint_as_an_exception_is_a_finding() -> None:
    _, _, notes, _ = a_world()
    endpoint = notes.host.endpoint
    assert isinstance(endpoint, RendezvousEndpoint)
    endpoint.poll_signal = lambda: 1 // 0  # type: ignore[method-assign, assignment, return-value]
    notes.ask()
    assert {violation.name for violation in notes.host.world.violations} == {"V20"}


def test_a_datagram_to_no_address_is_a_finding() -> None:
    _, _, notes, _ = a_world()
    notes.ask(OpenSocket(11, 4, (interface_of(notes).hosts[4], 0)))
    notes.write(11, BINDING, ("267.0.0.1", 5))
    assert [violation.name for violation in notes.host.world.violations] == ["V20"]
