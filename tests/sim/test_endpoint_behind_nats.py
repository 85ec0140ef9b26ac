"""The real endpoint, dialing an address, in worlds with a topology."""

from __future__ import annotations

from dataclasses import replace

import pytest

from peergram.config import Config
from peergram.errors import Result
from peergram.events import SessionRequested
from peergram.sim.nat import NAT_KINDS, NatKind, NatModel
from peergram.sim.outside import Outside
from peergram.sim.swarm import make_endpoint
from peergram.sim.topology import Topology
from peergram.sim.world import LISTEN_PORT, Host, HostOptions, World

SECOND_US = 1_000_000


def a_server_and_a_client(nat: NatModel) -> tuple[World, Host, Host, str]:
    world = World("behind nats", make_endpoint=make_endpoint)
    topology = Topology(world)
    config = replace(Config(), path_mtu_bytes_max=0)
    server = world.add_host("str:server", config=config, start=False)
    public = Outside(server, topology).attach()
    server.start()
    client = world.add_host("str:client", config=config, options=HostOptions(listens=False), start=False)
    Outside(client, topology).attach(topology.add_router("home", nat))
    client.start()
    return world, server, client, f"ip:{public.hosts[4]}:{LISTEN_PORT}"


@pytest.mark.parametrize("kind", NAT_KINDS)
def test_a_public_address_is_reached_from_behind_every_nat_that_lets_udp_out(kind: NatKind) -> None:
    world, server, client, name = a_server_and_a_client(NatModel(kind=kind))
    assert client.send(name, b"question", receiver=server) == Result.OK
    world.run_for(SECOND_US)
    requests = [event for event in server.events if isinstance(event, SessionRequested)]
    assert len(requests) == (0 if kind == NatKind.UDP_BLOCKED else 1)
    if requests:
        assert server.accept("str:client")
        world.run_for(SECOND_US)
        assert [message.payload for message in server.receive_all()] == [b"question"]
        assert server.send("str:client", b"answer") == Result.OK
        world.run_for(SECOND_US)
        assert [message.payload for message in client.receive_all()] == [b"answer"]
    assert world.violations == []


def test_an_idle_session_keeps_its_mapping_alive() -> None:
    """The endpoint speaks often enough for a box that forgets after 30 s and minds only what goes out."""
    model = NatModel(kind=NatKind.SYMMETRIC, timeout_us=30 * SECOND_US, inbound_refreshes=False)
    world, server, client, name = a_server_and_a_client(model)
    client.send(name, b"question", receiver=server)
    world.run_for(SECOND_US)
    server.accept("str:client")
    world.run_for(120 * SECOND_US)
    server.receive_all()
    assert server.send("str:client", b"are you there?") == Result.OK
    world.run_for(2 * SECOND_US)
    assert [message.payload for message in client.receive_all()] == [b"are you there?"]
