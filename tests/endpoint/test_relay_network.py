"""Endpoints and the relay network, in virtual time: where they say they are, what they ask, and what stays hidden."""

from __future__ import annotations

import pytest

from peergram.config import Config
from peergram.errors import Result, UsageError
from peergram.events import Availability, RelayNetworkChanged
from peergram.routes.gather import PopServers
from peergram.routes.pairs import CandidatePair
from peergram.routes.relay_map import parse_relay_map
from peergram.routes.relay_network import RelayOptions
from peergram.wire.relay_news import RelayNews, Ticket, Tickets
from peergram.wire.signals import decode_signal
from tests.endpoint.by_identity import Host, World

SECOND = 1_000_000
MAP = (
    b'{"version": 1, "pops": ['
    b'{"code": "fra", "name": "Frankfurt", "latitude": 50, "longitude": 8, "servers": ["turn:198.51.100.1"]},'
    b' {"code": "ams", "name": "Amsterdam", "latitude": 52, "longitude": 5, "servers": ["stun:198.51.100.2"]}]}'
)


@pytest.mark.parametrize("late_us", [0, 1_000, 4_000, 6_000])
def test_both_sides_of_crossing_calls_know_that_the_other_is_of_this_library(late_us: int) -> None:
    """Else the side that accepts would compare no ways, and leave a bad one never."""
    world = World("alice", "bob")
    alice, bob = world.hosts["alice"], world.hosts["bob"]
    alice.send(bob)
    world.run(late_us)
    bob.send(alice)
    assert world.run(10 * SECOND, lambda: bool(alice.received()))
    world.run(SECOND)
    for host, other in ((alice, bob), (bob, alice)):
        peer = host.endpoint._peers[other.identity]
        assert peer.link is not None
        assert peer.link.call is not None
        assert peer.link.call.agent is not None
        assert peer.link.call.agent.own_peer


def test_a_map_that_is_none_leaves_the_old_one() -> None:
    world = World("alice")
    endpoint = world.hosts["alice"].endpoint
    endpoint.handle_relays(RelayNews(MAP), world.now_us)
    with pytest.raises(UsageError, match="version"):
        endpoint.handle_relays(RelayNews(b'{"version": 2, "pops": []}'), world.now_us)
    assert endpoint.relay_network is not None
    assert endpoint.relay_network.relays == parse_relay_map(MAP)
    endpoint.handle_relays(RelayNews(b""), world.now_us)
    assert endpoint.relay_network.relays.pops == ()


def test_nothing_is_asked_before_somebody_needs_relays() -> None:
    world = World("alice")
    host = world.hosts["alice"]
    sent = world.catch_packets()
    host.endpoint.handle_relays(RelayNews(MAP), world.now_us)
    host.endpoint.handle_relays(Tickets((Ticket("fra", "1:alice", "secret"),), 3_600), world.now_us)
    host.drain()
    world.run(600 * SECOND)
    assert sent == []
    host.endpoint.want_relay_pings(world.now_us)
    host.drain()
    world.run(SECOND)
    assert set(sent) == {("198.51.100.1", 3_478), ("198.51.100.2", 3_478)}


def test_the_status_is_told_when_it_changes_to_whoever_asked_for_it() -> None:
    world = World("alice")
    endpoint = world.hosts["alice"].endpoint
    endpoint.tell_relay_status(tells=True)
    endpoint.handle_relays(RelayNews(MAP), world.now_us)
    world.hosts["alice"].drain()
    endpoint.want_relay_pings(world.now_us)
    world.hosts["alice"].drain()
    world.run(5 * SECOND)
    network = endpoint.relay_network
    assert network is not None
    assert network.status().availability is Availability.FAILED
    told = [event for event in world.hosts["alice"].events if isinstance(event, RelayNetworkChanged)]
    assert [event.status.availability for event in told] == [
        Availability.NEVER_TRIED,
        Availability.ATTEMPTING,
        Availability.FAILED,
    ]


def test_who_hides_dials_nobody_by_address() -> None:
    world = World("alice", config=Config(candidates="relay"))
    host = world.hosts["alice"]
    result = host.endpoint.ping(type(host.identity).of("ip:192.0.2.7:27015"), world.now_us)
    assert result is Result.FAIL


def test_a_location_goes_with_the_signals_once_it_is_known_and_not_before_the_peer_is_wanted() -> None:
    world = World("alice", "bob")
    signals = world.catch_signals(loses=False)
    alice, bob = world.hosts["alice"], world.hosts["bob"]
    network = alice.endpoint.relay_network
    assert network is not None
    network.set_map(parse_relay_map(MAP), world.now_us)
    network.pings._us = {"fra": 25_000, "ams": 31_400}
    network.pings._spread_us = {"fra": 2_000}
    network.pings.measured_at_us = world.now_us
    alice.send(bob)
    world.run(SECOND)
    assert locate(bob, alice) == ""
    bob.accept(alice)
    assert world.run(2 * SECOND, lambda: bool(bob.received()))
    locations = [entry.location for blob in signals for entry in decode_signal(blob).reliable if entry.location is not None]
    assert set(locations) == {b"fra=25+2,ams=31"}
    assert locate(bob, alice) == "fra"
    world.run(SECOND)
    signals.clear()
    # The next round, about the same.
    network.pings._us = {"fra": 28_000, "ams": 30_400}
    network.pings.changes += 1
    alice.endpoint.give_relays(RelayOptions(), world.now_us)
    alice.drain()
    world.run(SECOND)
    assert signals == []
    network.pings._us = {"fra": 58_000, "ams": 30_400}
    network.pings.changes += 1
    alice.endpoint.give_relays(RelayOptions(), world.now_us)
    alice.drain()
    world.run(SECOND)
    assert locate(bob, alice) == "ams"


@pytest.mark.parametrize(
    ("config", "is_told"),
    [
        (Config(candidates="relay"), False),
        (Config(candidates="relay", ping_location="tell"), True),
        (Config(ping_location="keep"), False),
        (Config(candidates="public"), True),
    ],
)
def test_who_hides_tells_his_location_only_when_asked_to(config: Config, is_told: bool) -> None:
    world = World("alice", "bob", config=config)
    signals = world.catch_signals(loses=False)
    alice = world.hosts["alice"]
    network = alice.endpoint.relay_network
    assert network is not None
    network.set_map(parse_relay_map(MAP), world.now_us)
    network.pings._us = {"fra": 25_000}
    network.pings.measured_at_us = world.now_us
    alice.send(world.hosts["bob"])
    # Long enough for everything to be said again.
    world.run(60 * SECOND)
    entries = [entry for blob in signals for entry in decode_signal(blob).reliable]
    assert any(entry.password for entry in entries)
    assert any(entry.location for entry in entries) is is_told


def locate(host: Host, peer: Host) -> str:
    """The place that the peer is nearest to, as far as the host knows."""
    info = host.endpoint.connection_info(peer.identity, host.world.now_us)
    assert info is not None
    assert info.pop_relay == ""
    return info.remote_pop


def test_the_place_whose_relay_carries_a_session_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World("alice", "bob")
    alice, bob = world.hosts["alice"], world.hosts["bob"]
    alice.send(bob)
    world.run(SECOND)
    bob.accept(alice)
    assert world.run(2 * SECOND, lambda: bool(bob.received()))
    calls, network = alice.endpoint._calls, alice.endpoint.relay_network
    assert calls is not None
    assert network is not None
    held: list[set[str]] = []

    def choose(codes: set[str]) -> list[PopServers]:
        held.append(codes)
        return []

    monkeypatch.setattr(network, "choose", choose)
    calls.settle_relays(world.now_us)
    monkeypatch.setattr(CandidatePair, "is_relayed", property(lambda pair: True))
    monkeypatch.setattr(calls.gatherer, "pop_of", lambda base: "ams")
    calls.settle_relays(world.now_us)
    assert held == [set(), {"ams"}]
