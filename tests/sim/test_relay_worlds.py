"""Worlds with relays here and there, and direct ways with detours: which way two endpoints choose, in virtual time.

Homes and relays lie on a map, and packets take what their distance says; the direct way takes a multiple of that, and may lose
packets. Short by default; PEERGRAM_SOAK=1 draws more worlds.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from random import Random

import pytest

from peergram.config import ICE_RTT_GAIN_PERCENT, ICE_RTT_GAIN_US, Config
from peergram.crypto.keys import SigningKey
from peergram.endpoint.endpoint import Endpoint
from peergram.events import InfoFlags
from peergram.identity import Identity
from peergram.routes.ice_servers import IceServers, TurnServer
from peergram.routes.ping_location import between_pops_ms
from peergram.routes.relay_map import PointOfPresence, RelayMap
from peergram.routes.relay_network import RelayOptions
from peergram.sim.hub import SignalHub
from peergram.sim.link import LinkModel
from peergram.sim.nat import NatKind, NatModel
from peergram.sim.outside import Outside
from peergram.sim.player import Player
from peergram.sim.scenario import HostPlan
from peergram.sim.servers import Server
from peergram.sim.topology import Topology
from peergram.sim.turn_server import TurnModel
from peergram.sim.world import EndpointLike, Host, HostOptions, World
from tests.threats.world import full_or

SECOND_US = 1_000_000
NAMES = ("str:peer-a", "str:peer-b")


class RelayWorld:
    """Two homes and some relays, at places drawn by the seed."""

    def __init__(self, seed: int, *, relays: int = 3, detour: float = 1.0, config: Config | None = None) -> None:
        rng = Random(seed)
        self.relays = RelayMap()
        self.world = World(f"relays {seed}", make_endpoint=self._make)
        self.topology = Topology(self.world)
        SignalHub(self.world)
        self.servers = [Server(self.topology, f"turn-{index}", TurnModel()) for index in range(relays)]
        codes = [f"r{index:02}" for index in range(relays)]
        self.pops = [
            PointOfPresence(code, code, rng.uniform(-60, 60), rng.uniform(-180, 180), (TurnServer(server.host),))
            for code, server in zip(codes, self.servers, strict=True)
        ]
        self.relays = RelayMap(tuple(self.pops))
        config = replace(config or Config(), path_mtu_bytes_max=0)
        self.hosts: list[Host] = []
        outside: list[str] = []
        for index, name in enumerate(NAMES):
            router = self.topology.add_router(f"home-{index}", NatModel(kind=NatKind.FULL_CONE), lan=f"192.168.{index + 1}")
            host = self.world.add_host(name, config=config, options=HostOptions(listens=False), start=False)
            Outside(host, self.topology).attach(router)
            player = Player(host, HostPlan(name), self.world.seeded(name))
            player.calm()
            host.application = player
            outside.append(router.outside.hosts[4])
            self.hosts.append(host)
        homes = [PointOfPresence(f"h{index}", "", rng.uniform(-60, 60), rng.uniform(-180, 180), ()) for index in range(2)]
        for link in self.topology.links.values():
            # Distances are all that counts.
            link.model = LinkModel(delay_us=0)
        self.distances_us: dict[frozenset[str], int] = {}
        """Between two places, by code: one way."""
        places = {place.code: place for place in (*homes, *self.pops)}
        addresses = dict(zip(places, (*outside, *(server.host for server in self.servers)), strict=True))
        for one, other in itertools.combinations(places, 2):
            ms = between_pops_ms(one, other, places) or 0
            factor = detour if {one, other} == {"h0", "h1"} else 1.0
            self.distances_us[frozenset((one, other))] = round(ms * 500 * factor)
            self.topology.distances_us[frozenset((addresses[one], addresses[other]))] = round(ms * 500 * factor)

    def _make(self, identity: Identity, config: Config, entropy: Callable[[int], bytes], key_seed: bytes | None) -> EndpointLike:
        key = SigningKey(key_seed) if key_seed is not None else None
        options = RelayOptions(self.relays, login=("user", "password"))
        endpoint: EndpointLike = Endpoint(
            identity, config=config, entropy=entropy, key=key, ice_servers=IceServers(), relay_options=options
        )
        return endpoint

    def meet(self, seconds: int) -> None:
        """A calls B, and both talk all the time, four messages a second."""
        for host in self.hosts:
            host.start()
        a, b = self.hosts
        for _ in range(seconds * 4):
            a.send(NAMES[1], 100, reliable=True, receiver=b)
            b.send(NAMES[0], 100, reliable=True, receiver=a) if a.info(NAMES[1]) else None
            self.world.run_for(SECOND_US // 4)
        assert self.world.violations == []

    def round_trip_us(self, *places: str) -> int:
        """There and back over these places."""
        return 2 * sum(self.distances_us.get(frozenset(hop), 0) for hop in itertools.pairwise(places))

    @property
    def best_relayed_us(self) -> int:
        codes = [pop.code for pop in self.pops]
        single = [self.round_trip_us("h0", code, "h1") for code in codes]
        return min(single + [self.round_trip_us("h0", *both, "h1") for both in itertools.permutations(codes, 2)])

    @property
    def best_near_us(self) -> int:
        """The best of the ways through the places that each is near to."""
        near = [sorted((pop.code for pop in self.pops), key=partial(self.round_trip_us, home))[:2] for home in ("h0", "h1")]
        return min(self.round_trip_us("h0", *dict.fromkeys(both), "h1") for both in itertools.product(*near))

    @property
    def direct_us(self) -> int:
        return self.round_trip_us("h0", "h1")

    def chosen_us(self) -> int:
        """Of the way that A uses, which B must use as well."""
        ways = [self._way(index) for index in range(2)]
        assert ways[0] == ways[1][::-1]
        return self.round_trip_us(*ways[0])

    def _way(self, index: int) -> list[str]:
        endpoint = self.hosts[index].endpoint
        assert isinstance(endpoint, Endpoint)
        peer = endpoint._peers[Identity.of(NAMES[1 - index])]
        assert peer.link is not None
        assert peer.link.call is not None
        assert peer.link.call.agent is not None
        pair = peer.link.call.agent.selected
        assert pair is not None
        assert endpoint.relay_network is not None
        near = endpoint._calls.gatherer.pop_of(pair.base) if endpoint._calls is not None else ""
        far = endpoint.relay_network.code_at(pair.remote[0])
        return [f"h{index}", *([near] if near else []), *([far] if far and far != near else []), f"h{1 - index}"]


@pytest.mark.parametrize("seed", range(full_or(60, 2)))
@pytest.mark.parametrize("detour", [1.0, 3.0])
def test_the_way_chosen_is_within_a_tenth_of_the_best(seed: int, detour: float) -> None:
    world = RelayWorld(seed, detour=detour)
    world.meet(12)
    chosen_us, direct_us, relayed_us = world.chosen_us(), world.direct_us, world.best_relayed_us
    gain_us = direct_us - relayed_us
    if gain_us < ICE_RTT_GAIN_US or gain_us * 100 < direct_us * ICE_RTT_GAIN_PERCENT:
        # Not clearly better: a direct way is nobody's burden.
        assert chosen_us == direct_us
    else:
        assert chosen_us <= 1.1 * relayed_us


@pytest.mark.parametrize("seed", range(full_or(30, 2)))
@pytest.mark.parametrize("is_told", [True, False])
def test_two_who_hide_go_the_best_way_through_relays_alone(seed: int, is_told: bool) -> None:
    """Of all, if they tell where they are; else of those through a place that is one of the two nearest to one of them."""
    world = RelayWorld(seed, relays=4, config=Config(candidates="relay", ping_location="tell" if is_told else "auto"))
    world.meet(12)
    assert world.chosen_us() <= 1.1 * (world.best_relayed_us if is_told else world.best_near_us)
    for host, peer in zip(world.hosts, NAMES[::-1], strict=True):
        info = host.info(peer)
        assert info is not None
        assert info.flags & InfoFlags.RELAYED
        assert info.address == ""
        assert info.pop_relay
        assert info.remote_pop
