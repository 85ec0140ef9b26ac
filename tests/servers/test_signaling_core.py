"""The signaling server in virtual time: rows S1 to S6 and S9 of the threat table."""

from __future__ import annotations

import gc
import heapq
import sys
import tracemalloc
from bisect import bisect_left
from dataclasses import replace
from random import Random

import pytest

from peergram import config
from peergram.identity import Identity
from peergram.servers.signaling_core import OwnedName, SignalingCore
from peergram.signaling.reconnect import Reconnect
from peergram.signaling.websocket_protocol import (
    CarriedSignal,
    Hello,
    Login,
    Refusal,
    Replaced,
    Welcome,
    encode_client_message,
    encode_server_message,
)
from tests.threats.world import full_or

from .harness import SECOND, SERVER, URL, Client, Server, key_of

ALICE, BOB = Identity.of("alice"), Identity.of("bob")


def wide_host(number: int) -> str:
    """Many addresses, so that the limit per address does not hide what a test is about."""
    return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


# --- S1: who is who ---


def test_a_name_belongs_to_the_key_that_used_it_first() -> None:
    server = Server()
    alice = server.log_in("alice")
    other = server.connect()
    other.log_in("alice", key_of("mallory"))
    assert other.refusal == Refusal.NAME_TAKEN
    assert other.is_cut
    assert not alice.is_cut
    alice.leave()
    server.pass_time(3_000 * SECOND)
    other = server.connect()
    other.log_in("alice", key_of("mallory"))
    assert other.refusal == Refusal.NAME_TAKEN
    server.log_in("alice")


def test_a_key_is_its_own_name_and_nobody_elses() -> None:
    server = Server()
    key = key_of("alice")
    server.log_in("key", key)
    other = server.connect()
    login = other.login(str(Identity.generic_bytes(key.public_bytes)), key_of("mallory"))
    other.say(encode_client_message(login))
    assert other.refusal == Refusal.BAD_PROOF
    assert server.core.names == 0


def forged_logins(client: Client, owner: Login, rng: Random) -> list[Login]:
    """What somebody without the owner's key can try, who has seen a login of his."""
    mallory = key_of("mallory")
    own = client.login(str(owner.identity), mallory)
    flipped = bytearray(owner.signature)
    flipped[rng.randrange(64)] ^= 1 << rng.randrange(8)
    return [
        owner,
        replace(owner, signature=bytes(flipped)),
        replace(owner, signature=bytes(64)),
        replace(owner, nonce=rng.randbytes(32)),
        replace(own, public_key=owner.public_key),
        replace(own, signature=owner.signature),
        replace(owner, signature=own.signature),
        replace(owner, public_key=bytes(32), signature=bytes(64)),
        replace(owner, public_key=b"\x01" + bytes(31), signature=b"\x01" + bytes(63)),
        own,
    ]


@pytest.mark.parametrize("kind", ["name", "key"])
def test_forged_logins_are_all_refused_and_the_owner_notices_nothing(kind: str) -> None:
    server = Server()
    key = key_of("alice")
    watching = server.connect()
    recorded = watching.login("alice" if kind == "name" else "key", key)
    watching.say(encode_client_message(recorded))
    owner = watching
    owner.heard.clear()
    rng = Random(1)
    for attempt in range(full_or(10_000, 300)):
        if attempt % 80 == 79:
            server.pass_time(SECOND)
            owner.say(None)
        client = server.connect(wide_host(attempt))
        forged = forged_logins(client, recorded, rng)
        client.say(encode_client_message(forged[attempt % len(forged)]))
        assert client.is_cut
        assert client.refusal in (Refusal.BAD_PROOF, Refusal.NAME_TAKEN, Refusal.BUSY)
    refused = server.core.counters
    assert refused[f"refused_{Refusal.BAD_PROOF}"] + refused[f"refused_{Refusal.NAME_TAKEN}"] > full_or(9_000, 250)
    assert refused["logins"] == 1
    assert server.core.clients == 1
    assert owner.heard == []
    assert not owner.is_cut


def test_what_was_signed_for_another_server_is_worth_nothing_here() -> None:
    """A server of somebody else passes our nonce on and gets it signed; what is signed names that server."""
    server = Server()
    for url in ("ws://198.51.100.66:27180/", "wss://192.0.2.7:27180/", URL + "x", "nonsense", ""):
        client = server.connect()
        client.say(encode_client_message(client.login("alice", url=url)))
        assert client.refusal in (Refusal.WRONG_URL, Refusal.BAD_NAME)
    relayed = server.connect()
    login = relayed.login("alice", url="ws://198.51.100.66:27180/")
    relayed.say(encode_client_message(replace(login, url=URL)))
    assert relayed.refusal == Refusal.BAD_PROOF


def test_a_nonce_is_good_for_one_login() -> None:
    server = Server()
    client = server.connect()
    login = encode_client_message(client.login("alice"))
    client.say(login)
    client.say(login)
    assert client.refusal == Refusal.BAD_MESSAGE
    other = server.connect()
    other.say(login)
    assert other.refusal == Refusal.BAD_PROOF


@pytest.mark.parametrize("name", ["ip:::1", "ip:192.0.2.1:5"])
def test_who_is_nobody_in_particular_cannot_log_in(name: str) -> None:
    client = Server().connect()
    client.log_in(name)
    assert client.refusal == Refusal.BAD_NAME


# --- replacing ---


def test_the_same_key_elsewhere_takes_over_and_the_first_one_is_told() -> None:
    server = Server()
    first = server.log_in("alice")
    second = server.log_in("alice")
    assert first.heard == [Replaced()]
    assert first.is_cut
    bob = server.log_in("bob")
    bob.send("alice")
    assert second.signals == [CarriedSignal(BOB, b"blob")]
    first.leave()
    bob.send("alice")
    assert len(second.signals) == 2


def test_two_clients_that_throw_each_other_out_all_the_time_are_slowed_down() -> None:
    server = Server()
    logins = 0
    for _ in range(1_000):
        client = server.connect(wide_host(logins))
        client.log_in("alice")
        logins += isinstance(client.heard[-1], Welcome)
        server.pass_time(SECOND // 100)
    assert logins <= config.SERVER_LOGINS_PER_NAME_BURST + 10 + 1


# --- S2 ---


def test_the_server_names_the_sender_whatever_the_client_says() -> None:
    server = Server()
    alice, bob = server.log_in("alice"), server.log_in("bob")
    for blob in (b"", b"\x09str:carol", encode_client_message(CarriedSignal(Identity.of("carol"), b"x"))):
        alice.send("bob", blob)
        assert bob.signals[-1] == CarriedSignal(ALICE, blob)


@pytest.mark.parametrize("frame", [encode_server_message(each) for each in (Hello(1, bytes(32)), Welcome(), Replaced())])
def test_a_client_that_talks_like_a_server_is_cut(frame: bytes) -> None:
    server = Server()
    alice = server.log_in("alice")
    alice.say(frame)
    assert alice.refusal == Refusal.BAD_MESSAGE
    assert alice.is_cut


def test_who_has_not_logged_in_sends_nothing() -> None:
    server = Server()
    bob = server.log_in("bob")
    stranger = server.connect()
    stranger.send("bob")
    assert stranger.refusal == Refusal.BAD_MESSAGE
    assert bob.heard == []


# --- S3 ---


def test_a_flood_is_cut_down_to_twenty_a_second_and_a_friend_gets_through() -> None:
    server = Server()
    victim, friend = server.log_in("victim"), server.log_in("friend", host="192.0.2.2")
    attacker = server.log_in("attacker", host="192.0.2.3")
    seconds = full_or(5, 1)
    sent_by_friend = 0
    for tick in range(seconds * 10_000):
        if attacker.is_cut:
            attacker = server.connect("192.0.2.3")
            attacker.log_in("attacker")
        attacker.send("victim")
        if tick % 2_000 == 0:
            friend.send("victim", b"%d" % tick)
            sent_by_friend += 1
        server.pass_time(100)
    attackers = [each for each in victim.signals if each.peer == Identity.of("attacker")]
    friends = [each for each in victim.signals if each.peer == Identity.of("friend")]
    assert len(attackers) <= config.SIGNALS_PAIR_BURST + seconds * config.SIGNALS_PAIR_PER_S + 1
    assert len(friends) == sent_by_friend
    assert server.core.counters[f"refused_{Refusal.TOO_FAST}"] >= 1


def test_many_keys_of_one_address_are_no_way_around_it() -> None:
    server = Server()
    victim = server.log_in("victim", host="192.0.2.2")
    attackers = [server.log_in("key", key_of(f"attacker {number}")) for number in range(50)]
    for attacker in attackers:
        for _ in range(20):
            attacker.send("victim")
    assert len(victim.signals) == config.SIGNALS_HOST_PAIR_BURST


def test_a_receiver_gets_no_more_than_200_a_second_from_all_together() -> None:
    server = Server()
    victim = server.log_in("victim", host="192.0.2.2")
    attackers = [server.log_in("key", key_of(f"attacker {number}"), wide_host(number)) for number in range(60)]
    for attacker in attackers:
        for _ in range(20):
            attacker.send("victim")
    assert len(victim.signals) == config.SIGNALS_VICTIM_BURST


def test_one_sender_reaches_no_more_than_fifty_a_second() -> None:
    server = Server()
    receivers = [server.log_in("key", key_of(f"receiver {number}"), wide_host(number)) for number in range(300)]
    alice = server.log_in("alice")
    for number in range(300):
        alice.send(str(Identity.generic_bytes(key_of(f"receiver {number}").public_bytes)))
    assert sum(len(each.signals) for each in receivers) == config.SIGNALS_SENDER_BURST


def test_a_signal_of_8_kib_passes_and_a_larger_one_ends_the_connection() -> None:
    server = Server()
    alice, bob = server.log_in("alice"), server.log_in("bob")
    alice.send("bob", bytes(config.CARRIED_BYTES_MAX))
    assert len(bob.signals) == 1
    alice.send("bob", bytes(config.CARRIED_BYTES_MAX + 1))
    assert alice.refusal == Refusal.BAD_MESSAGE
    assert len(bob.signals) == 1


def test_a_client_that_sends_far_too_much_is_cut() -> None:
    server = Server()
    slow, fast = server.log_in("slow"), server.log_in("fast")
    for _ in range(10):
        for _ in range(config.SERVER_FRAMES_PER_S):
            slow.say(None)
        server.pass_time(SECOND)
    assert not slow.is_cut
    sent = 0
    while not fast.is_cut:
        fast.say(None)
        sent += 1
    assert fast.refusal == Refusal.TOO_FAST
    assert sent == config.SERVER_FRAMES_BURST + 1


# --- S4 ---


def test_who_does_not_log_in_within_five_seconds_is_cut() -> None:
    server = Server()
    client = server.connect()
    server.pass_time(config.SERVER_LOGIN_US - 1)
    assert not client.is_cut
    server.pass_time(1)
    assert client.refusal == Refusal.TOO_SLOW


def test_silence_is_asked_about_and_then_ends() -> None:
    server = Server()
    alice, bob = server.log_in("alice"), server.log_in("bob")
    server.pass_time(config.SERVER_QUIET_US + config.SERVER_QUIET_SLOT_US)
    assert sorted(server.asked) == [alice.number, bob.number]
    bob.say(None)
    server.pass_time(config.SERVER_QUIET_US + config.SERVER_QUIET_SLOT_US)
    assert alice.refusal == Refusal.TOO_SLOW
    assert not bob.is_cut
    for _ in range(10):
        bob.say(None)
        server.pass_time(config.SERVER_QUIET_US)
    assert not bob.is_cut


def test_thousands_of_silent_clients_wake_the_server_once_a_second() -> None:
    server = Server()
    for number in range(500):
        server.log_in("key", key_of(f"client {number}"), wide_host(number))
        server.pass_time(20_000)
    server.asked.clear()
    wakes, until_us = 0, server.now_us + 20 * SECOND
    while (deadline := server.core.poll_timeout()) is not None and deadline.at_us <= until_us:
        wakes += 1
        server.core.handle_timeout(deadline.at_us)
        server.drain()
    assert server.asked
    assert wakes <= 22


def test_of_those_who_never_log_in_the_oldest_gives_way() -> None:
    server = Server()
    first = server.connect(wide_host(0))
    for number in range(1, config.SERVER_PENDING_MAX + 1):
        server.connect(wide_host(number))
    assert first.is_cut
    assert server.core.pending == config.SERVER_PENDING_MAX
    server.log_in("alice", host="192.0.2.2")


def test_a_full_server_says_so_and_keeps_those_it_has() -> None:
    server = Server(clients_max=3)
    inside = [server.log_in(name) for name in ("alice", "bob", "carol")]
    late = server.connect()
    assert late.refusal == Refusal.BUSY
    assert not any(each.is_cut for each in inside)
    inside[0].leave()
    server.log_in("dora")


def test_one_address_cannot_take_every_place() -> None:
    server = Server()
    many = [server.connect() for _ in range(config.SERVER_CLIENTS_PER_HOST_MAX + 5)]
    assert [each.refusal for each in many[-5:]] == [Refusal.BUSY] * 5
    server.log_in("alice", host="192.0.2.2")
    many[0].leave()
    server.log_in("bob")


def test_the_addresses_of_one_ipv6_network_count_as_one() -> None:
    server = Server()
    for number in range(config.SERVER_CLIENTS_PER_HOST_MAX):
        server.connect(f"2001:db8::{number:x}")
    assert server.connect("2001:db8::ffff:1").refusal == Refusal.BUSY
    server.log_in("alice", host="2001:db8:0:1::1")


def test_logins_are_limited_in_all_and_the_others_are_told_to_come_back() -> None:
    """S7: a server that comes back is met by all its clients."""
    server = Server()
    outcomes = []
    for number in range(600):
        client = server.connect(wide_host(number))
        client.log_in("key", key_of(f"client {number}"))
        outcomes.append(client.refusal)
    assert outcomes.count(None) == config.SERVER_LOGINS_BURST
    assert set(outcomes) == {None, Refusal.BUSY}


def test_logins_of_one_address_are_limited() -> None:
    server = Server()
    outcomes = []
    for number in range(400):
        client = server.connect("192.0.2.9")
        client.log_in("key", key_of(f"client {number}"))
        outcomes.append(client.refusal)
        client.leave()
        server.pass_time(SECOND // 200)
    assert outcomes.count(None) <= config.SERVER_LOGINS_PER_HOST_BURST + 2 * config.SERVER_LOGINS_PER_HOST_PER_S + 1
    assert outcomes.count(None) >= config.SERVER_LOGINS_PER_HOST_BURST + config.SERVER_LOGINS_PER_HOST_PER_S
    server.log_in("alice", host="192.0.2.2")


def test_after_a_crash_all_clients_are_back_in_time_and_not_all_at_once() -> None:
    """S7: the server is away for two seconds; what its clients wait is what `Reconnect` says."""
    server, rng = Server(), Random(7)
    count = full_or(2_000, 600)
    crash_us, back_us = server.now_us, server.now_us + 2 * SECOND
    waits = [Reconnect() for _ in range(count)]
    due = [(crash_us + each.handle_lost(crash_us, rng.random()), number) for number, each in enumerate(waits)]
    heapq.heapify(due)
    logged_in_at_us: list[int] = []
    while due:
        at_us, number = heapq.heappop(due)
        if at_us >= back_us:
            server.pass_time(at_us - server.now_us)
            client = server.connect(wide_host(number))
            client.log_in("key", key_of(f"client {number}"))
            if client.refusal is None:
                logged_in_at_us.append(at_us)
                continue
            client.leave()
        heapq.heappush(due, (at_us + waits[number].handle_lost(at_us, rng.random()), number))
    assert len(logged_in_at_us) == count
    assert max(logged_in_at_us) - back_us <= 15 * SECOND
    in_a_second = [bisect_left(logged_in_at_us, at_us + SECOND) - at for at, at_us in enumerate(logged_in_at_us)]
    assert max(in_a_second) <= 400


# --- S5 ---


def test_any_bytes_end_in_one_error_and_the_others_stay() -> None:
    server = Server()
    alice = server.log_in("alice")
    rng = Random(5)
    for attempt in range(full_or(100_000, 2_000)):
        if attempt % 100 == 0:
            server.pass_time(SECOND)
            alice.say(None)
        client = server.connect(wide_host(attempt))
        client.say(rng.randbytes(rng.randrange(300)))
        assert client.is_cut
        assert client.refusal in (Refusal.BAD_MESSAGE, Refusal.VERSION, Refusal.BAD_NAME, Refusal.BUSY, Refusal.WRONG_URL)
    assert not alice.is_cut
    assert server.core.clients == 1


def test_a_client_of_another_version_is_told_so() -> None:
    client = Server().connect()
    client.say(b"\x02\x07" + bytes(200))
    assert client.refusal == Refusal.VERSION


def test_what_happens_out_of_turn_is_ignored() -> None:
    core = SignalingCore(entropy=bytes, accepts_url=lambda url, local: True, now_us=0)
    core.handle_frame(7, b"from nobody", 0)
    core.handle_closed(7, 0)
    core.handle_ready(7, 0)
    core.handle_connected(7, ("192.0.2.1", 1), SERVER, 0)
    core.handle_closed(7, 0)
    core.handle_closed(7, 0)
    assert core.poll_output() is None


# --- S6 ---


def test_the_server_says_nothing_about_who_is_here() -> None:
    server = Server()
    server.log_in("bob")
    alice = server.log_in("alice", host="192.0.2.2")
    before = dict(server.said)
    for to in ("bob", "nobody", "alice2", "steamid:76561197960265729"):
        for _ in range(40):
            alice.send(to)
    assert alice.heard == []
    assert not alice.is_cut
    assert set(before) == set(server.said)


def test_what_is_for_somebody_who_is_not_here_takes_the_same_way_to_nobody() -> None:
    server = Server()
    server.log_in("bob")
    alice = server.log_in("alice", host="192.0.2.2")
    for number in range(10):
        alice.send("bob")
        alice.send(f"nobody{number}")
    assert server.sent_to_nobody == 10
    assert server.core.counters["signals"] == server.core.counters["dropped_absent"] == 10


# --- S9 ---


def test_every_table_shrinks_back_to_nothing() -> None:
    server = Server()
    rng = Random(9)
    for number in range(2_000):
        client = server.connect(wide_host(number))
        client.log_in("key" if number % 2 else f"name{number}", key_of(f"client {number}"))
        client.send(f"nobody{rng.randrange(10_000)}")
        client.leave()
        server.pass_time(SECOND // 100)
    assert server.core.names == 1_000
    server.pass_time(config.SERVER_NAME_KEPT_SHORT_US + 2 * config.SERVER_SWEEP_US)
    core = server.core
    assert (core.clients, core.pending, core.names, core.rates_watched) == (0, 0, 0, 0)


def test_memory_is_back_after_many_clients() -> None:
    server = Server()
    key = key_of("alice")

    def come_and_go(count: int) -> None:
        for number in range(count):
            client = server.connect(wide_host(number % 100))
            client.log_in("key", key)
            client.leave()
            server.pass_time(SECOND)
            server.said.clear()
            server.cut.clear()

    come_and_go(100)
    tracemalloc.start()
    try:
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        come_and_go(full_or(20_000, 500))
        server.pass_time(2 * config.SERVER_SWEEP_US)
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] - before < 64 * 1024
    finally:
        tracemalloc.stop()


def visit(server: Server, number: int) -> None:
    """One of the things that connections come to."""
    # In the short form so few addresses that the first round meets all, and what is remembered of their texts is no growth.
    client = server.connect(wide_host(number % full_or(50_000, 500)))
    kind = number % 10
    if kind == 0:
        client.log_in(f"name{number}", VISITORS[number % len(VISITORS)])
        client.send(f"nobody{number}")
    elif kind == 1:
        client.log_in("key", VISITORS[number % len(VISITORS)])
        client.send(f"name{number - 1}")
    elif kind == 2:
        client.say(number.to_bytes(8, "big"))
    elif kind <= 4:
        # Silent until the time for a login is over.
        return
    client.leave()


VISITORS = [key_of(f"visitor {number}") for number in range(64)]


def test_a_day_of_visits_leaves_nothing_behind() -> None:
    """S9: a million connections in a day of virtual time; after each twelfth, and a pause, as much is in use as before."""
    count, rounds, pause_us = full_or(1_000_000, 12_000), 12, config.SERVER_NAME_KEPT_SHORT_US + 2 * config.SERVER_SWEEP_US
    server = Server()
    server.keeps_names = False
    stayed = server.log_in("alice")
    blocks: list[int] = []
    said_at_us = server.now_us
    most_names = most_rates = 0
    # The first round fills what is made once.
    for round_ in range(rounds + 1):
        for number in range(count // rounds):
            visit(server, round_ * (count // rounds) + number)
            server.pass_time((86_400 * SECOND // rounds - pause_us) * rounds // count)
            if server.now_us - said_at_us > 20 * SECOND:
                said_at_us = server.now_us
                stayed.say(None)
                for each in (server.said, server.cut, server.asked, server.kept):
                    each.clear()
        most_names, most_rates = max(most_names, server.core.names), max(most_rates, server.core.rates_watched)
        for _ in range(pause_us // (20 * SECOND)):
            server.pass_time(20 * SECOND)
            stayed.say(None)
        for each in (server.said, server.cut, server.asked, server.kept):
            each.clear()
        assert (server.core.clients, server.core.pending, server.core.names) == (1, 0, 1)
        gc.collect()
        blocks.append(sys.getallocatedblocks())
    growth = [after - blocks[1] for after in blocks[1:]]
    print(f"{server.connections} connections, {most_names} names and {most_rates} rates at most; blocks in use: {growth}")
    assert server.core.counters["logins"] > count // 6
    assert most_names > full_or(8_000, 90)
    assert not stayed.is_cut
    assert max(growth) < 500


def test_a_name_that_was_used_is_kept_for_a_month() -> None:
    server = Server()
    alice = server.log_in("alice")
    for _ in range(30):
        server.pass_time(25 * SECOND)
        alice.say(None)
    alice.leave()
    server.pass_time(29 * 86_400 * SECOND)
    mallory = server.connect()
    mallory.log_in("alice", key_of("mallory"))
    assert mallory.refusal == Refusal.NAME_TAKEN
    server.pass_time(2 * 86_400 * SECOND)
    server.log_in("alice", key_of("mallory"))


def test_a_full_table_of_names_lets_known_names_and_keys_in() -> None:
    server = Server(names_max=2)
    for name in ("alice", "bob"):
        server.log_in(name).leave()
    late = server.connect()
    late.log_in("carol")
    assert late.refusal == Refusal.BUSY
    server.log_in("alice")
    server.log_in("key", key_of("carol"))


def test_new_names_of_one_address_are_limited() -> None:
    server = Server()
    refusals = []
    for number in range(150):
        client = server.connect()
        client.log_in(f"name{number}")
        refusals.append(client.refusal)
        client.leave()
        server.pass_time(SECOND // 10)
    assert refusals.count(Refusal.BUSY) >= 30
    assert server.core.names <= config.SERVER_NAMES_PER_HOST_BURST + 16


# --- the end ---


def test_closing_tells_everybody() -> None:
    server = Server()
    clients = [server.log_in("alice"), server.log_in("bob"), server.connect()]
    server.core.close(server.now_us)
    server.drain()
    assert [each.refusal for each in clients] == [Refusal.CLOSING] * 3
    assert (server.core.clients, server.core.pending) == (0, 0)


# --- names from one run to the next ---


def restarted(server: Server, away_us: int = 0) -> Server:
    """Another core, which is given what the runner of this one last wrote down."""
    return Server(names=server.kept, now_us=server.now_us + away_us)


def claim(server: Server, name: str, key: str) -> Client:
    server.pass_time(SECOND)
    client = server.connect(wide_host(server.connections))
    client.log_in(name, key_of(key))
    return client


def test_after_a_restart_names_are_still_their_owners() -> None:
    server = Server()
    server.log_in("alice")
    server.log_in("key", key_of("bob"))
    after = restarted(server, 50 * 60 * SECOND)
    assert [str(each.identity) for each in server.kept] == ["str:alice"]
    assert claim(after, "alice", "mallory").refusal == Refusal.NAME_TAKEN
    assert claim(after, "alice", "alice").refusal is None


def test_names_run_out_while_the_server_is_away() -> None:
    server = Server()
    server.log_in("alice")
    after = restarted(server, config.SERVER_NAME_KEPT_SHORT_US)
    assert claim(after, "alice", "mallory").refusal == Refusal.NAME_TAKEN
    after = restarted(server, config.SERVER_NAME_KEPT_SHORT_US)
    after.pass_time(config.SERVER_SWEEP_US)
    assert claim(after, "alice", "mallory").refusal is None


def test_a_name_in_use_for_ten_minutes_is_kept_for_a_month_whenever_the_server_crashes() -> None:
    server = Server()
    alice = server.log_in("alice")
    for _ in range(40 * 24 * 60):
        # Forty days, with a sign of life each minute.
        server.pass_time(60 * SECOND)
        alice.say(None)
        if server.now_us > config.SERVER_NAME_PROVEN_US + 2 * config.SERVER_SWEEP_US:
            (kept,) = server.kept
            assert kept.is_proven
            assert server.now_us - kept.used_at_us <= config.SERVER_NAME_NOTED_US + config.SERVER_SWEEP_US
    after = restarted(server, 28 * 86_400 * SECOND)
    assert claim(after, "alice", "mallory").refusal == Refusal.NAME_TAKEN


def test_who_comes_and_goes_under_a_known_name_is_news_every_ten_minutes_at_most() -> None:
    server = Server()
    for _ in range(360):
        server.log_in("alice").leave()
        server.pass_time(10 * SECOND)
        assert server.now_us - server.kept[0].used_at_us <= config.SERVER_NAME_NOTED_SHORT_US + 11 * SECOND
    assert server.news_of_names <= 1 + 3_600 * SECOND // config.SERVER_NAME_NOTED_SHORT_US


def test_a_name_that_ran_out_is_news() -> None:
    server = Server()
    server.log_in("alice").leave()
    server.pass_time(config.SERVER_NAME_KEPT_SHORT_US + 2 * config.SERVER_SWEEP_US)
    assert server.kept == []
    assert server.news_of_names == 2


def test_of_too_many_kept_names_those_that_were_used_last_stay() -> None:
    names = [OwnedName(Identity.of(f"name{number}"), bytes(32), number, is_proven=True) for number in range(10)]
    server = Server(names=names, names_max=3, now_us=100)
    assert {str(each.identity) for each in server.core.owned_names()} == {"str:name7", "str:name8", "str:name9"}


def test_a_use_in_the_future_counts_from_now() -> None:
    """The clock was set back, or somebody has mistyped a date."""
    server = Server(names=[OwnedName(ALICE, key_of("alice").public_bytes, 10**18, is_proven=False)])
    server.pass_time(config.SERVER_NAME_KEPT_SHORT_US + 2 * config.SERVER_SWEEP_US)
    assert server.core.names == 0
