"""At which places relays are had, and for whom."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from random import Random

import pytest

from peergram.config import RELAY_PEER_MOVE_US, RELAY_PEER_MOVES_BURST, RELAY_POPS_USED_MAX
from peergram.events import Availability
from peergram.routes.ice_servers import StunServer, TurnServer
from peergram.routes.ping_location import between_pops_ms, parse_ping_location, paths_between
from peergram.routes.relay_map import PointOfPresence, RelayMap
from peergram.routes.relay_network import RelayNetwork, RelayOptions
from peergram.wire.relay_news import RelayNews, Ticket, Tickets
from tests.routes.servers import counting_entropy

SECOND = 1_000_000
SERVERS = (StunServer("192.0.2.1"), TurnServer("192.0.2.1"))
PLACES = {
    "ams": (52.4, 4.9),
    "fra": (50.1, 8.7),
    "iad": (39.0, -77.5),
    "sin": (1.3, 103.8),
    "syd": (-33.9, 151.2),
    "gru": (-23.5, -46.6),
}
RELAYS = RelayMap(tuple(PointOfPresence(code, code, *place, SERVERS) for code, place in PLACES.items()))


def network(pings: str, options: RelayOptions | None = None) -> RelayNetwork:
    """One that has measured these."""
    ids = count(1)
    made = RelayNetwork(entropy=counting_entropy(), next_id=lambda: next(ids), options=options or RelayOptions(RELAYS))
    made.add_peer("bob", SECOND)
    measure(made, pings)
    return made


def measure(relays: RelayNetwork, pings: str) -> None:
    relays.pings._us = {ping.code: ping.ms * 1_000 for ping in parse_ping_location(pings).pings}
    relays.pings.measured_at_us = SECOND


def chosen(relays: RelayNetwork, *held: str) -> list[str]:
    return [pop.code for pop in relays.choose(held)]


def test_the_two_nearest_places_are_used_while_nobody_said_where_he_is() -> None:
    assert chosen(network("fra=10,ams=15,iad=90,sin=160")) == ["fra", "ams"]


def test_the_place_of_the_shortest_way_to_a_peer_is_used_by_both() -> None:
    here, there = "ams=10,fra=14,iad=80,gru=190", "iad=70,gru=95,fra=120,ams=150"
    one, other = network(here), network(there)
    one.locate_peer("bob", parse_ping_location(there), SECOND)
    other.locate_peer("bob", parse_ping_location(here), SECOND)
    assert "fra" in chosen(one)
    assert "fra" in chosen(other)


def test_the_relays_of_a_peer_who_says_nothing_show_where_he_is_and_what_he_says_counts_more() -> None:
    servers = {code: (TurnServer(f"192.0.2.{number}"),) for number, code in enumerate(PLACES, 1)}
    relays = RelayMap(tuple(PointOfPresence(code, code, *place, servers[code]) for code, place in PLACES.items()))
    here = network("ams=10,fra=14,iad=80,gru=190", RelayOptions(relays))
    assert not here.see_relay("bob", "198.51.100.1"), "not one of the map"
    assert not here.see_relay("carol", "192.0.2.3"), "nobody of ours"
    assert chosen(here) == ["ams", "fra"]
    assert here.see_relay("bob", "192.0.2.3")
    assert not here.see_relay("bob", "192.0.2.3")
    assert chosen(here) == ["ams", "fra", "iad"]
    here.locate_peer("bob", parse_ping_location("gru=5"), SECOND)
    assert not here.see_relay("bob", "192.0.2.4")
    assert here.location_of("bob") == parse_ping_location("gru=5")


def test_of_many_peers_the_last_to_say_where_they_are_come_first_and_there_is_an_end() -> None:
    relays = network("fra=10,ams=11,iad=90,gru=200,sin=160,syd=250")
    for code in ("iad", "gru", "sin", "syd"):
        relays.add_peer(code, SECOND)
        relays.locate_peer(code, parse_ping_location(f"{code}=1"), SECOND)
    places = chosen(relays)
    assert len(places) == RELAY_POPS_USED_MAX
    assert places[:3] == ["fra", "ams", "syd"]
    assert "iad" not in places


def test_a_place_that_carries_sessions_stays_whoever_comes_and_wherever_we_move() -> None:
    relays = network("fra=10,ams=11,iad=90,gru=200,sin=160,syd=250")
    relays.locate_peer("bob", parse_ping_location("iad=1"), SECOND)
    assert "iad" in chosen(relays)
    for code in ("gru", "sin", "syd"):
        relays.add_peer(code, SECOND)
        relays.locate_peer(code, parse_ping_location(f"{code}=1"), SECOND)
        places = chosen(relays, "iad", "fra", "ams")
        assert {"iad", code} <= set(places)
        assert len(places) <= RELAY_POPS_USED_MAX
    measure(relays, "fra=210,ams=211,iad=190,gru=200,sin=10,syd=20")
    assert set(chosen(relays, "iad", "fra", "ams")) == {"iad", "fra", "ams", "sin", "syd"}
    relays.pings._us.clear()
    assert {"iad", "fra", "ams"} <= set(chosen(relays, "iad", "fra", "ams"))


def test_the_places_for_peers_are_those_of_the_shortest_ways() -> None:
    rng = Random(5)
    for _ in range(50):
        own, theirs = (
            parse_ping_location(",".join(f"{code}={rng.randrange(1, 300)}" for code in rng.sample([*PLACES, "xxx"], 4)))
            for _ in range(2)
        )
        own = parse_ping_location(",".join(str(ping) for ping in str(own).split(",") if not ping.startswith("xxx")))
        relays = network(str(own))
        relays.locate_peer("bob", theirs, SECOND)
        paths = paths_between(own, theirs, RELAYS)
        single = next((path.near for path in paths if path.near == path.far), None)
        wanted = [code for code in (single, paths[0].near if paths else None) if code is not None]
        assert relays._towards_peers() == list(dict.fromkeys(wanted))


def test_a_choice_for_many_peers_measures_no_distance_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = 0

    def measure_between(one: str, other: str, pops: Mapping[str, PointOfPresence]) -> int | None:
        nonlocal measured
        measured += 1
        return between_pops_ms(one, other, pops)

    monkeypatch.setattr("peergram.routes.relay_network.between_pops_ms", measure_between)
    relays = network("fra=10,ams=11,iad=90,gru=200,sin=160,syd=250")
    for index in range(200):
        relays.add_peer(index, SECOND)
        relays.locate_peer(index, parse_ping_location(",".join(f"{code}={index + 1}" for code in PLACES)), SECOND)
        chosen(relays)
    measure(relays, "fra=11,ams=12,iad=91,gru=201,sin=161,syd=251")
    chosen(relays)
    assert measured <= len(PLACES) ** 2


def test_a_peer_who_moves_all_the_time_is_not_followed() -> None:
    relays = network("fra=10,ams=11,iad=90,gru=200,sin=160,syd=250")
    moves = 0
    before = chosen(relays)
    for second in range(600):
        code = ("iad", "gru", "sin", "syd")[second % 4]
        relays.locate_peer("bob", parse_ping_location(f"{code}=1"), second * SECOND)
        places = chosen(relays)
        moves += places != before
        before = places
    assert 4 <= moves <= RELAY_PEER_MOVES_BURST + 600 * SECOND // RELAY_PEER_MOVE_US


def test_a_place_in_use_is_kept_unless_another_is_clearly_nearer() -> None:
    relays = network("fra=30,ams=35,iad=90")
    assert chosen(relays) == ["fra", "ams"]
    measure(relays, "fra=44,ams=36,iad=40")
    assert set(chosen(relays)) == {"fra", "ams"}
    measure(relays, "fra=90,ams=36,iad=40")
    assert set(chosen(relays)) == {"iad", "ams"}


def test_relays_in_use_stay_until_the_gathering_rests_after_the_last_peer() -> None:
    relays = network("fra=10,ams=15")
    before = relays.choose()
    relays.remove_peer("bob", SECOND)
    assert relays.choose() == before
    relays.set_map(RelayMap(), SECOND)
    assert relays.choose() == []


def test_where_no_place_can_be_pinged_the_first_ones_of_the_map_are_tried() -> None:
    relays = network("")
    assert chosen(relays) == ["ams", "fra"]


def test_tickets_open_their_places_and_what_a_program_gives_is_not_replaced() -> None:
    tickets = Tickets((Ticket("fra", "1:a", "pushed"),), 60)
    relays = network("fra=10,ams=15")
    relays.take(tickets, SECOND)
    fra, ams = relays.choose()
    assert [server.password for server in (*fra.turn, *ams.turn)] == ["pushed", ""]
    given = network("fra=10,ams=15", RelayOptions(RELAYS, login=("user", "given")))
    given.take(tickets, SECOND)
    given.take(RelayNews(b""), SECOND)
    assert {server.password for pop in given.choose() for server in pop.turn} == {"given"}
    given.give(RelayOptions(tickets={"fra": Ticket("fra", "1:a", "newer")}), SECOND)
    fra, ams = given.choose()
    assert [server.password for server in (*fra.turn, *ams.turn)] == ["newer", ""]


def test_the_status_says_what_is_missing() -> None:
    ids = count(1)
    relays = RelayNetwork(entropy=counting_entropy(), next_id=lambda: next(ids), options=RelayOptions(awaits_map=True))
    assert (relays.status().availability, relays.status().config) == (Availability.NEVER_TRIED, Availability.WAITING)
    relays.want_pings(SECOND)
    assert relays.status().availability is Availability.WAITING
    relays.set_map(RELAYS, SECOND)
    assert relays.status().is_measuring
    assert (relays.status().availability, relays.status().config) == (Availability.ATTEMPTING, Availability.CURRENT)


def test_the_best_way_to_a_place_may_lead_through_another() -> None:
    relays = network("fra=10,ams=40,iad=300")
    assert relays.ping_to_pop("fra") == (10, "")
    assert relays.ping_to_pop("ams") == (17, "fra")
    assert relays.ping_to_pop("iad") == (110, "fra")
    assert relays.ping_to_pop("xxx") is None
