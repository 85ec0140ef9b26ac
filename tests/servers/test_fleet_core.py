"""Fleets in virtual time: who is where, whose a name is, and what happens when the bus is slow, torn or hostile."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peergram import config
from peergram.errors import UsageError
from peergram.identity import Identity
from peergram.servers.fleet_core import FleetCore, Load, check_node_name, subject_of
from peergram.servers.signaling_core import FleetOutput
from peergram.signaling.websocket_protocol import CarriedSignal, Refusal, Replaced, Welcome

from .fleet_world import FleetWorld
from .harness import SECOND, Client, key_of

HOUR = 3_600 * SECOND


def is_in(client: Client) -> bool:
    return any(isinstance(message, Welcome) for message in client.heard) and not client.is_cut


def test_a_peer_on_any_node_reaches_a_peer_on_any_other_and_the_node_says_who_it_was() -> None:
    world = FleetWorld("abc")
    clients = [node.log_in(f"peer {node.name}") for node in world.nodes]
    world.pass_time(SECOND)
    for number, client in enumerate(clients):
        for other in world.nodes:
            client.send(f"peer {other.name}", b"from %d" % number)
    world.pass_time(SECOND)
    for client in clients:
        expected = [CarriedSignal(Identity.of(f"peer {node.name}"), b"from %d" % at) for at, node in enumerate(world.nodes)]
        assert sorted(client.signals, key=lambda signal: signal.blob) == expected


def test_who_has_left_or_was_on_a_node_that_crashed_gets_nothing_and_is_reached_where_he_came_back() -> None:
    world = FleetWorld("abc")
    a, b, c = world.nodes
    alice, bob = a.log_in("alice"), b.log_in("bob")
    world.pass_time(SECOND)
    world.crash(b)
    alice.send("bob", b"lost")
    world.pass_time(SECOND)
    bob_again = c.log_in("bob")
    world.pass_time(SECOND)
    alice.send("bob", b"found")
    world.pass_time(SECOND)
    assert bob.signals == []
    assert [signal.blob for signal in bob_again.signals] == [b"found"]
    bob_again.leave()
    world.pass_time(SECOND)
    assert world.places_of("bob") == []
    assert subject_of(Identity.of("bob")) not in c.subjects


def test_a_login_at_another_node_with_the_same_key_takes_over() -> None:
    world = FleetWorld("abc")
    first = world.nodes[0].log_in("alice")
    world.pass_time(SECOND)
    second = world.nodes[1].log_in("alice")
    world.pass_time(SECOND)
    assert is_in(second)
    assert first.is_cut
    assert isinstance(first.heard[-1], Replaced)
    assert world.places_of("alice") == ["b"]


@pytest.mark.parametrize("seed", range(30))
def test_of_logins_that_cross_on_the_way_exactly_one_stays(seed: int) -> None:
    rng = Random(seed)
    world = FleetWorld("abcd", delay_us=lambda: rng.randrange(100, 2 * SECOND), clocks_us=lambda: rng.randrange(HOUR))
    clients = []
    for _ in range(6):
        clients.append(rng.choice(world.nodes).log_in("alice"))
        world.pass_time(rng.randrange(500_000))
    world.pass_time(20 * SECOND)
    assert len(world.places_of("alice")) == 1
    assert len([client for client in clients if is_in(client)]) == 1


def test_the_newer_login_is_the_one_that_stays_however_wrong_clocks_are() -> None:
    for offsets in ((0, HOUR), (HOUR, 0)):
        clocks = iter(offsets)
        world = FleetWorld("ab", clocks_us=lambda clocks=clocks: next(clocks))  # type: ignore[misc]
        world.pass_time(10 * SECOND)
        first = world.nodes[0].log_in("alice")
        world.pass_time(5_000)
        second = world.nodes[1].log_in("alice")
        world.pass_time(SECOND)
        assert (first.is_cut, second.is_cut) == (True, False)


def test_old_news_of_a_login_that_has_ended_throws_nobody_out() -> None:
    delays: list[int] = []
    world = FleetWorld("ab", delay_us=lambda: delays.pop() if delays else 300)
    a, b = world.nodes
    b.log_in("alice")
    world.pass_time(SECOND)
    delays[:] = [5 * SECOND]
    first = a.log_in("alice")
    world.pass_time(1_000)
    assert delays == []
    first.leave()
    world.pass_time(SECOND)
    second = b.log_in("alice")
    world.pass_time(20 * SECOND)
    assert is_in(second)
    assert world.places_of("alice") == ["b"]


def test_after_the_bus_was_torn_of_two_logins_the_newer_one_stays() -> None:
    world = FleetWorld("ab")
    a, b = world.nodes
    old = a.log_in("alice")
    world.pass_time(SECOND)
    a.is_cut_off = True
    new = b.log_in("alice")
    world.pass_time(10 * SECOND)
    assert world.places_of("alice") == ["a", "b"]
    world.mend(a)
    world.pass_time(SECOND)
    assert (old.is_cut, new.is_cut) == (True, False)
    assert world.places_of("alice") == ["b"]


def test_after_the_bus_was_torn_everybody_is_announced_at_a_pace() -> None:
    world = FleetWorld("ab")
    a = world.nodes[0]
    a.log_in_many(250)
    world.pass_time(SECOND)
    a.published.clear()
    world.mend(a)
    world.pass_time(1)
    assert len(a.published) <= config.FLEET_ANNOUNCED_AT_ONCE + 1
    world.pass_time(10 * SECOND)
    assert len({subject for subject in a.published if subject.startswith("peergram.to.")}) == 250


# Names


def test_a_name_belongs_to_one_key_on_all_nodes() -> None:
    world = FleetWorld("ab")
    a, b = world.nodes
    a.log_in("alice")
    world.pass_time(SECOND)
    mallory = b.log_in("alice", key_of("mallory"))
    world.pass_time(SECOND)
    assert mallory.refusal == Refusal.NAME_TAKEN
    assert world.places_of("alice") == ["a"]


def test_keys_as_names_need_no_store() -> None:
    world = FleetWorld("ab")
    world.store.is_away = True
    client = world.nodes[0].log_in("key")
    assert is_in(client)
    assert world.store.asked == 0


def test_a_name_that_any_node_has_written_comes_in_everywhere_without_asking() -> None:
    world = FleetWorld("ab")
    a, b = world.nodes
    a.log_in("alice")
    world.pass_time(SECOND)
    asked = world.store.asked
    assert is_in(b.log_in("alice"))
    assert world.store.asked == asked


def test_while_the_store_is_out_of_reach_known_names_come_in_and_new_ones_are_told_to_come_back() -> None:
    world = FleetWorld("ab")
    a, b = world.nodes
    a.log_in("alice").leave()
    world.pass_time(SECOND)
    world.store.is_away = True
    assert is_in(b.log_in("alice"))
    newcomer, thief = b.log_in("bob"), b.log_in("alice", key_of("mallory"))
    world.pass_time(SECOND)
    assert newcomer.refusal == Refusal.BUSY
    assert thief.refusal == Refusal.NAME_TAKEN
    world.store.is_away = False
    again = b.log_in("bob")
    world.pass_time(SECOND)
    assert is_in(again)


def test_a_node_never_lets_in_by_memory_whose_name_may_be_somebody_elses_by_now() -> None:
    world = FleetWorld("ab")
    a, b = world.nodes
    a.log_in("alice").leave()
    world.pass_time(HOUR + SECOND)
    # The store has forgotten, and gives the name to another key, of which this node does not hear.
    a.is_cut_off = True
    other = b.log_in("alice", key_of("mallory"))
    world.pass_time(SECOND)
    assert is_in(other)
    back = a.log_in("alice")
    world.pass_time(SECOND)
    assert back.refusal == Refusal.NAME_TAKEN


def test_who_stays_keeps_his_name_however_long_and_after_ten_minutes_for_a_month() -> None:
    world = FleetWorld("ab")
    a, b = world.nodes
    alice = a.log_in("alice")
    for _ in range(3 * 120):
        world.pass_time(30 * SECOND)
        alice.say(None)
    alice.leave()
    world.skip_time(29 * 24 * HOUR)
    thief = b.log_in("alice", key_of("mallory"))
    world.pass_time(SECOND)
    assert thief.refusal == Refusal.NAME_TAKEN
    world.skip_time(2 * 24 * HOUR)
    heir = b.log_in("alice", key_of("mallory"))
    world.pass_time(SECOND)
    assert is_in(heir)


def test_a_full_store_refuses_new_names_and_lets_in_the_known_ones() -> None:
    world = FleetWorld("ab")
    a, b = world.nodes
    a.log_in("alice").leave()
    world.pass_time(SECOND)
    world.store.is_full = True
    assert is_in(b.log_in("alice"))
    newcomer = b.log_in("bob")
    world.pass_time(SECOND)
    assert newcomer.refusal == Refusal.BUSY


def test_one_address_makes_no_more_new_names_than_at_a_single_server() -> None:
    world = FleetWorld("a")
    node = world.nodes[0]
    clients = []
    for number in range(130):
        clients.append(node.log_in(f"new {number}"))
        world.pass_time(SECOND // 20 + 1)
    refused = [client for client in clients if client.refusal == Refusal.BUSY]
    assert len(clients) - len(refused) <= config.SERVER_NAMES_PER_HOST_BURST + 130 // 20 + 1


def test_one_address_makes_no_more_new_names_by_asking_for_many_at_once() -> None:
    world = FleetWorld("a")
    made = 0
    for number in range(10):
        clients = [world.nodes[0].log_in(f"{number} {each}") for each in range(config.SERVER_LOGINS_PER_HOST_BURST)]
        world.pass_time(10 * SECOND)
        made += sum(client.refusal is None for client in clients)
    assert made <= config.SERVER_NAMES_PER_HOST_BURST + 100 * config.SERVER_NAMES_PER_HOST_PER_S


def test_names_that_are_known_to_the_store_only_are_no_new_ones() -> None:
    world = FleetWorld("a")
    node = world.nodes[0]
    for number in range(150):
        world.store.claim(Identity.of(f"known {number}"), key_of(f"known {number}").public_bytes, True, world.now_us)
    for number in range(150):
        assert node.log_in(f"known {number}").refusal is None
        world.pass_time(SECOND // config.SERVER_LOGINS_PER_HOST_PER_S + 1)


def test_logins_that_wait_for_the_store_are_limited() -> None:
    world = FleetWorld("a")
    node = world.nodes[0]
    waiting: list[FleetOutput] = []
    node.server._on_fleet = waiting.append
    for number in range(config.FLEET_CLAIMS_MAX + 10):
        node.server.pass_time(SECOND // 200)
        client = node.server.connect(f"10.0.{number // 50}.1")
        client.log_in(f"new {number}")
    assert len(waiting) == config.FLEET_CLAIMS_MAX
    assert client.refusal == Refusal.BUSY


def test_who_hangs_up_while_he_waits_for_the_store_is_forgotten() -> None:
    world = FleetWorld("a")
    node = world.nodes[0]
    client = node.server.connect()
    client.log_in("alice")
    client.leave()
    world.pass_time(SECOND)
    assert world.places_of("alice") == []
    assert node.server.core.pending == 0


# S3 across nodes


def test_an_attacker_on_many_nodes_gets_no_more_through_to_a_victim_than_on_one() -> None:
    world = FleetWorld("abcd")
    victim = world.nodes[0].log_in("victim", host="198.51.100.1")
    friend = world.nodes[1].log_in("friend", host="198.51.100.2")
    world.pass_time(SECOND)
    begin_us = world.now_us
    # He hops from node to node with one identity, and floods from each.
    while world.now_us - begin_us < 20 * SECOND:
        for node in world.nodes[1:]:
            attacker = node.log_in("attacker", host="203.0.113.9")
            world.pass_time(10_000)
            for _ in range(50):
                attacker.send("victim", b"flood")
            world.pass_time(300_000)
        friend.say(None)
        friend.send("victim", b"hello")
    came = [signal.blob for signal in victim.signals]
    seconds = (world.now_us - begin_us) / SECOND
    assert came.count(b"flood") <= config.SIGNALS_PAIR_PER_S * seconds + config.SIGNALS_PAIR_BURST
    assert came.count(b"hello") >= 20


def test_one_address_with_many_names_on_many_nodes_is_one_address() -> None:
    world = FleetWorld("abcd")
    victim = world.nodes[0].log_in("victim", host="198.51.100.1")
    attackers = [node.log_in(f"{node.name} {n}", host="203.0.113.9") for node in world.nodes[1:] for n in range(10)]
    world.pass_time(SECOND)
    begin_us = world.now_us
    while world.now_us - begin_us < 10 * SECOND:
        for attacker in attackers:
            attacker.send("victim", b"flood")
        world.pass_time(50_000)
    most = config.SIGNALS_HOST_PAIR_PER_S * 10 + config.SIGNALS_HOST_PAIR_BURST
    assert len(victim.signals) <= most
    assert world.nodes[0].server.core.counters["dropped_sender_rate"] > 0


def test_a_receiver_gets_no_more_than_his_share_from_the_whole_fleet() -> None:
    world = FleetWorld("abcd")
    victim = world.nodes[0].log_in("victim", host="198.51.100.1")
    attackers = [
        node.log_in(f"{node.name} {n}", host=f"203.0.{at}.{n}") for at, node in enumerate(world.nodes[1:]) for n in range(15)
    ]
    world.pass_time(SECOND)
    begin_us = world.now_us
    while world.now_us - begin_us < 10 * SECOND:
        for attacker in attackers:
            attacker.send("victim", b"flood")
        world.pass_time(100_000)
    assert len(victim.signals) <= config.SIGNALS_VICTIM_PER_S * 10 + config.SIGNALS_VICTIM_BURST
    assert world.nodes[0].server.core.counters["dropped_receiver_rate"] > 0


def test_a_signal_for_one_of_our_own_costs_the_bus_as_much_as_for_anybody() -> None:
    world = FleetWorld("ab")
    a = world.nodes[0]
    alice = a.log_in("alice")
    bob = a.log_in("bob")
    world.pass_time(SECOND)
    for name in ("bob", "nobody at all"):
        a.published.clear()
        before = a.server.sent_to_nobody
        alice.send(name, b"x" * 100)
        a.drain()
        assert len(a.published) == 1
        assert a.server.sent_to_nobody - before == (name != "bob")
    world.pass_time(SECOND)
    assert [signal.blob for signal in bob.signals] == [b"x" * 100]


# What nodes know of each other


def test_nodes_know_each_others_load_and_forget_who_is_gone() -> None:
    world = FleetWorld("abc")
    a, b, c = world.nodes
    b.log_in("bob")
    world.pass_time(6 * SECOND)
    assert {node.name: node.load for node in a.fleet.nodes.values()} == {"b": Load(1, 3, 4_000), "c": Load(0, 3, 4_000)}
    b.server.core.drain(world.now_us)
    world.crash(c)
    world.pass_time(20 * SECOND)
    assert [(node.name, node.load.is_draining) for node in a.fleet.nodes.values()] == [("b", True)]


def test_a_document_reaches_every_node_also_one_that_was_away_and_the_newest_counts() -> None:
    world = FleetWorld("abc")
    a, b, c = world.nodes
    c.is_cut_off = True
    a.fleet.share(b"old map", 100)
    world.pass_time(SECOND)
    b.fleet.share(b"new map", 200)
    a.fleet.share(b"older map", 50)
    world.pass_time(SECOND)
    assert (a.documents, b.documents, c.documents) == ([b"new map"], [b"old map"], [])
    world.mend(c)
    world.pass_time(6 * SECOND)
    assert c.documents == [b"new map"]
    assert {node.fleet.document for node in world.nodes} == {b"new map"}


def test_a_document_that_is_too_large_is_refused_where_it_is_shared() -> None:
    with pytest.raises(UsageError, match="nodes share at most"):
        FleetWorld("a").nodes[0].fleet.share(bytes(config.FLEET_DOCUMENT_BYTES_MAX + 1), 1)


@pytest.mark.parametrize("name", ["", "x" * 65, "a\nb"])
def test_names_of_nodes_that_are_none(name: str) -> None:
    with pytest.raises(UsageError, match="--node"):
        check_node_name(name)


@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda tail: b"\x01" + bytes([1 + len(tail) % 5]) + tail))
def test_whatever_stands_on_the_bus_a_node_stays_up(payload: bytes) -> None:
    fleet = FleetCore(name="a", entropy=Random(1).randbytes, load=Load, now_us=0, wall_offset_us=0)
    fleet.handle_arrived(Identity.of("alice"), bytes(32), 0)
    fleet.handle_message(payload, 1)
    fleet.handle_timeout(config.FLEET_BEAT_US)
    while fleet.poll_output() is not None:
        pass


def test_tables_about_other_nodes_are_limited() -> None:
    fleet = FleetCore(name="a", entropy=Random(1).randbytes, load=Load, now_us=0, wall_offset_us=0)
    for number in range(config.FLEET_NODES_MAX + 10):
        beat = b"\x01\x03" + number.to_bytes(8, "big") + bytes(8 + 1 + 4 + 4 + 8 + 8) + b"\x01x"
        fleet.handle_message(beat, 0)
    assert len(fleet.nodes) == config.FLEET_NODES_MAX
    assert fleet.counters["unreadable"] == 10


# Ending gently


def test_a_node_that_drains_tells_its_clients_a_few_at_a_time_and_takes_nobody() -> None:
    world = FleetWorld("ab")
    a = world.nodes[0]
    clients = a.log_in_many(100)
    a.server.core.drain(world.now_us)
    a.drain()
    told = [sum(client.is_cut for client in clients)]
    for _ in range(5):
        world.pass_time(100_000)
        told.append(sum(client.is_cut for client in clients))
    assert told == [10, 30, 50, 70, 90, 100]
    assert all(client.refusal == Refusal.CLOSING for client in clients)
    late = a.server.connect()
    assert late.refusal == Refusal.CLOSING
    assert world.places_of("one of many 3") == []


def test_however_many_clients_a_node_has_draining_tells_them_all_in_time() -> None:
    world = FleetWorld("a")
    node = world.nodes[0]
    count = config.SERVER_DRAIN_TOLD_PER_S * config.SERVER_DRAIN_TOLD_US // SECOND + 100
    clients = node.log_in_many(count)
    assert all(map(is_in, clients))
    node.server.core.drain(world.now_us)
    world.pass_time(config.SERVER_DRAIN_TOLD_US)
    assert all(client.refusal == Refusal.CLOSING for client in clients)
