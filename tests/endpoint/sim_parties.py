"""Hosts of the simulated internet (`peergram.sim`) that know each other by identity only, as parties of the books."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TypeVar, cast

from peergram.config import Config
from peergram.connection.connection import Connection
from peergram.crypto.keys import SigningKey
from peergram.endpoint.endpoint import Endpoint
from peergram.endpoint.link import Link
from peergram.errors import Result
from peergram.events import ConnectionInfo, Delivered, Event, Message, Receipt, SessionFailed, SessionRequested
from peergram.identity import Identity
from peergram.routes.ice_servers import IceServers, StunServer, TurnServer
from peergram.sim.checkers import V8
from peergram.sim.hub import SignalHub, SignalModel
from peergram.sim.link import LinkModel
from peergram.sim.nat import NatKind, NatModel
from peergram.sim.outside import Outside
from peergram.sim.servers import STUN_PORT, Server
from peergram.sim.topology import Router, Topology
from peergram.sim.turn_server import TurnModel
from peergram.sim.world import EndpointLike, Host, HostOptions, Turn, World

T = TypeVar("T")
USER, PASSWORD = "user", "password"


class SimParty:
    """A program on a simulated host behind a NAT; it accepts everybody."""

    def __init__(self, internet: Internet, name: str, router: Router, config: Config, link: LinkModel) -> None:
        self.internet = internet
        self.home = router
        options = HostOptions(listens=False)
        self.host: Host = internet.world.add_host(f"str:{name}", config=config, options=options, start=False)
        self.host.application = self
        self.host.outside = Outside(self.host, internet.topology)
        self.interface = self.host.outside.attach(router, link=link)
        self.identity = self.host.identity
        self.dialed = self.host.identity
        self.key_number = 0
        self.reads = True
        self.received: list[Message] = []
        self.failures: list[SessionFailed] = []
        self.told: list[Receipt] = []

    @property
    def running(self) -> Endpoint | None:
        return cast("Endpoint | None", self.host.endpoint)

    @property
    def endpoint(self) -> Endpoint:
        assert self.running is not None, "the host does not run"
        return self.running

    @property
    def links(self) -> list[Link]:
        return list(self.endpoint._links)

    @property
    def live(self) -> list[Connection]:
        return [link.connection for link in self.links if link.connection.is_live]

    def start(self, *, new_key: bool = False) -> None:
        self.key_number += new_key
        self.host.start()

    def kill(self) -> None:
        self.host.crash()

    # --- what a program does ---

    def _call(self, verb: str, action: Callable[[Endpoint, int], T]) -> T:
        """Through the host, which drains its endpoint afterwards."""
        answer: list[T] = []
        self.host.turn(verb, lambda endpoint, now_us: answer.append(action(cast("Endpoint", endpoint), now_us)))
        assert answer, self.internet.world.violations
        return answer[0]

    def send(self, to: Identity, data: bytes, flags: int, channel: int = 0) -> Result:
        self.internet.world.channels.add(channel)
        return self._call("send_message", lambda e, now_us: e.send_message(to, data, flags, channel, now_us))

    def send_with_receipt(self, to: Identity, data: bytes, flags: int, channel: int = 0) -> tuple[Result, Receipt | None]:
        self.internet.world.channels.add(channel)
        return self._call("send_message", lambda e, now_us: e.send_with_receipt(to, data, flags, channel, now_us))

    def read(self, channel: int = 0, messages_max: int = 1_000_000) -> list[Message]:
        return self._call("receive_messages", lambda e, now_us: e.receive_messages(channel, messages_max, now_us))

    def close_session(self, who: Identity) -> bool:
        return self._call("close_session", lambda e, now_us: e.close_session(who, now_us))

    def close_channel(self, who: Identity, channel: int) -> bool:
        return self._call("close_channel", lambda e, now_us: e.close_channel(who, channel, now_us))

    def close(self) -> None:
        self._call("close", lambda e, now_us: e.close(now_us))

    def info(self, who: Identity) -> ConnectionInfo | None:
        return self._call("connection_info", lambda e, now_us: e.connection_info(who, now_us))

    def drain(self) -> None:
        self.host.drain(Turn("drain"))

    # --- what the host tells ---

    def on_event(self, event: Event) -> None:
        if isinstance(event, SessionFailed):
            self.failures.append(event)
        elif isinstance(event, Delivered):
            self.told.append(event.receipt)
        elif isinstance(event, SessionRequested):
            self.endpoint.accept_session(event.identity, self.host.clock.local_us(self.internet.world.now_us))

    def on_readable(self) -> None:
        while self.reads and self.endpoint.unread_messages:
            for channel in sorted(self.internet.world.channels):
                self.received += self.read(channel)


@dataclass(frozen=True)
class Place:
    """What a party's way to the internet is like."""

    nat: NatKind
    link: LinkModel


class Internet:
    """Two homes, a STUN server and at most one relay, and the signaling between those who live there."""

    def __init__(self, seed: int, places: Sequence[Place], signals: SignalModel, relay: str, config: Config) -> None:
        self.world = World(f"{seed}/books", make_endpoint=self._make, checkers=[V8()])
        self.world.events_max = 1 << 60
        self.topology = Topology(self.world)
        self.hub = SignalHub(self.world, signals)
        self.servers = [Server(self.topology, "stun")]
        if relay:
            self.servers.append(Server(self.topology, "turn", TurnModel(users={USER.encode(): PASSWORD.encode()})))
        self._ice_servers = IceServers(
            stun=(StunServer(self.servers[0].host, STUN_PORT),),
            turn=(TurnServer(self.servers[1].host, STUN_PORT, relay, USER, PASSWORD),) if relay else (),  # type: ignore[arg-type]
        )
        self.parties: list[SimParty] = []
        for name, place in zip(("alice", "bob"), places, strict=True):
            router = self.topology.add_router(f"home of {name}", NatModel(kind=place.nat))
            self.parties.append(SimParty(self, name, router, config, place.link))
        for party in self.parties:
            party.start()

    def _make(self, identity: Identity, config: Config, entropy: Callable[[int], bytes], key_seed: bytes | None) -> EndpointLike:
        number = next(party.key_number for party in self.parties if party.identity == identity)
        key = SigningKey(blake2b(b"%d" % number, key=key_seed or b"", digest_size=32).digest())
        endpoint: EndpointLike = Endpoint(identity, config=config, entropy=entropy, key=key, ice_servers=self._ice_servers)
        return endpoint

    def move(self, party: SimParty, gap_us: int) -> None:
        """To the internet itself and another address, or home again."""
        assert party.host.outside is not None
        is_home = party.interface.place is party.home.inside
        self.topology.roam(party.interface, None if is_home else party.home, gap_us=gap_us)

    def calm(self) -> None:
        """Everything works, and the service is honest."""
        self.hub.calm()
        for server in self.servers:
            self.topology.restore(server.interface)
            if not server.is_alive:
                server.start()
        for party in self.parties:
            self.topology.restore(party.interface)
