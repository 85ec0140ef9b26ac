"""E14, E16, E17: closes that nobody sent, and questions asked to make us talk."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest

from peergram.address import Address
from peergram.config import CLOSE_REPLIES_MAX, NO_CONNECTION_INTERVAL_US, STRANGER_REPLIES_MAX
from peergram.events import ConnectionState
from peergram.wire.control import (
    ChallengeRequest,
    ConnectionClosed,
    NoConnection,
    encode_control,
)
from peergram.wire.data_packet import encode_data_header
from tests.threats.world import Host, World, assert_session_works, digest, friends, full_or, held_bytes

STRANGER: Address = ("203.0.113.9", 5_555)


def ids(alice: Host, bob: Host) -> tuple[int, int]:
    """(Bob's connection id, Alice's)."""
    return bob.connection_to(alice).connection_id, alice.connection_to(bob).connection_id


def forged_closes(to_id: int, from_id: int) -> list[bytes]:
    return [
        encode_control(ConnectionClosed(to_id, from_id, 1000, "forged")),
        encode_control(NoConnection(from_connection_id=from_id, to_connection_id=to_id)),
    ]


# --- E16 ---


def test_a_million_guesses_of_the_ids_end_nothing() -> None:
    """E16: from the peer's own address, as a spoofer off the path would."""
    world, alice, bob = friends()
    bob_id, alice_id = ids(alice, bob)
    before = digest(bob.connection_to(alice))
    rng = Random(1)
    for _ in range(full_or(250_000, 1_000)):
        guess = rng.getrandbits(32)
        for to_id, from_id in ((guess, alice_id), (bob_id, guess), (guess, rng.getrandbits(32)), (0, guess)):
            for packet in forged_closes(to_id, from_id):
                bob.handle(alice.address, packet)
    assert digest(bob.connection_to(alice)) == before
    assert_session_works(world, alice, bob)


def test_the_right_ids_from_another_address_end_nothing() -> None:
    """E16."""
    world, alice, bob = friends()
    before = digest(bob.connection_to(alice))
    for packet in forged_closes(*ids(alice, bob)):
        bob.handle(STRANGER, packet)
        bob.handle((alice.address[0], alice.address[1] + 1), packet)
    assert digest(bob.connection_to(alice)) == before
    assert_session_works(world, alice, bob)


def test_connection_ids_come_from_entropy_and_follow_no_order() -> None:
    """E16: 32 bits, both halves used."""
    world = World()
    called = world.host("called")
    numbers = []
    for at in range(200):
        caller = world.host(f"caller-{at}")
        caller.send(called, b"hi")
        numbers.append(caller.connection_to(called).connection_id)
    assert len(set(numbers)) == 200
    assert all(number >> 16 and number & 0xFFFF for number in numbers)
    steps = {after - before for before, after in pairwise(numbers)}
    assert len(steps) == 199


@pytest.mark.parametrize("kind", [0, 1], ids=["closed", "no connection"])
def test_a_close_forged_on_the_path_is_outlived_while_the_peer_answers(kind: int) -> None:
    """E16: the attacker knows address and ids; both ends are asked before anything is believed."""
    world, alice, bob = friends()
    bob_id, alice_id = ids(alice, bob)
    for _ in range(20):
        bob.handle(alice.address, forged_closes(bob_id, alice_id)[kind])
        alice.handle(bob.address, forged_closes(alice_id, bob_id)[kind])
        world.run(300_000)
    assert_session_works(world, alice, bob)


def test_a_close_forged_on_the_path_is_outlived_if_the_peer_is_heard_within_two_seconds() -> None:
    """E16: a pause of the peer, or a burst of loss, right after the forged close."""
    world, alice, bob = friends()
    bob_id, alice_id = ids(alice, bob)
    world.network = lambda _source, _destination, _packet, _now_us: []
    bob.handle(alice.address, forged_closes(bob_id, alice_id)[0])
    world.run(1_800_000)
    world.network = lambda _source, _destination, _packet, _now_us: [5_000]
    assert bob.is_connected_to(alice)
    assert_session_works(world, alice, bob)


def test_a_true_close_is_believed_soon_although_nobody_can_prove_it() -> None:
    """E16: the other side of the bargain, for reference peers, whose closes are not signed."""
    world, alice, bob = friends()
    bob_id, alice_id = ids(alice, bob)
    world.network = lambda _source, _destination, _packet, _now_us: []
    bob.handle(alice.address, forged_closes(bob_id, alice_id)[0])
    world.run_until(lambda: not bob.is_connected_to(alice), 3_000_000)


def test_a_dial_is_not_ended_by_somebody_who_does_not_know_its_id() -> None:
    """E16, before the handshake is done."""
    world = World()
    alice, bob = world.host("alice"), world.host("bob")
    world.network = lambda _source, _destination, _packet, _now_us: [200_000]
    alice.send(bob, b"hi")
    rng = Random(2)
    for _ in range(full_or(100_000, 1_000)):
        for packet in forged_closes(rng.getrandbits(32), rng.getrandbits(32)):
            alice.handle(bob.address, packet)
    assert alice.connection_to(bob).state == ConnectionState.CONNECTING
    world.run_until(lambda: len(bob.messages) == 1)


# --- E14 ---


def test_strangers_questions_wait_in_a_row_of_at_most_64_and_the_newest_win() -> None:
    """E14: while the driver does not fetch anything."""
    world, _alice, bob = friends()
    endpoint = bob.endpoint

    def ask() -> None:
        for at in range(full_or(1_000_000, 3_000)):
            request = encode_control(ChallengeRequest(0x00010001 + at, 0, 13))
            endpoint.handle_datagrams(bob.listening, STRANGER, request, len(request), world.now_us)

    ask()
    assert held_bytes(ask) <= 64 << 10
    replies = 0
    while endpoint.poll_transmit(world.now_us) is not None:
        replies += 1
    assert replies <= STRANGER_REPLIES_MAX


def test_no_connection_is_said_four_times_a_second_in_all() -> None:
    """E14: to a known address about an unknown connection."""
    world, alice, bob = friends()
    world.network = lambda _source, _destination, _packet, _now_us: []
    said = bob.datagrams_sent
    begin_us = world.now_us
    for at in range(full_or(100_000, 4_000)):
        bob.handle(alice.address, encode_data_header(0x77770000 + at % 60_000, 5) + bytes(40))
        bob.handle(alice.address, encode_control(ConnectionClosed(0x77770000 + at, 1, 1000, "")))
        world.now_us += 1_000
    limit = (world.now_us - begin_us) // NO_CONNECTION_INTERVAL_US + 1
    assert bob.datagrams_sent - said <= limit


def test_repeated_hellos_of_a_live_connection_are_answered_ten_times_a_second() -> None:
    """E14."""
    world, alice, bob = friends()
    client_id = alice.connection_to(bob).connection_id
    world.network = lambda _source, _destination, _packet, _now_us: []
    said = bob.datagrams_sent
    request = encode_control(ChallengeRequest(client_id, 0, 13))
    for _ in range(1_000):
        bob.handle(alice.address, request)
        world.now_us += 1_000
    assert bob.datagrams_sent - said <= 11
    world.network = lambda _source, _destination, _packet, _now_us: [5_000]
    assert_session_works(world, alice, bob)


def test_questions_for_an_answer_at_once_get_one_per_millisecond() -> None:
    """E14, G19: they stand outside the encryption, so whoever repeats a genuine packet's hint may ask."""
    world, alice, bob = friends()
    flow = alice.flow_to(bob)
    world.network = lambda _source, _destination, _packet, _now_us: []
    bob_id = bob.connection_to(alice).connection_id
    said = bob.datagrams_sent
    count = full_or(1_000_000, 3_000)
    for at in range(count):
        number = flow.in_flight.next_number + at
        packet = encode_data_header(bob_id, number, stats_blob=b"\x18\x06") + flow.send_cipher.seal(number, b"")
        bob.handle(alice.address, packet)
        world.now_us += 10
    assert bob.datagrams_sent - said <= count * 10 // 1_000 + 2


def test_an_ended_connection_answers_a_limited_number_of_stragglers() -> None:
    """E14."""
    world, alice, bob = friends()
    alice_id = alice.connection_to(bob).connection_id
    bob_id = bob.connection_to(alice).connection_id
    world.network = lambda _source, _destination, _packet, _now_us: []
    bob.endpoint.close_session(alice.identity, world.now_us)
    bob.drain()
    said = bob.datagrams_sent
    for _ in range(1_000):
        bob.handle(alice.address, encode_data_header(bob_id, 9) + bytes(40))
        bob.handle(alice.address, encode_control(ChallengeRequest(alice_id, 0, 13)))
    assert bob.datagrams_sent - said <= CLOSE_REPLIES_MAX


# --- E17 ---


def answers_to(host: Host, world: World, source: Address, packet: bytes) -> list[bytes]:
    """What a host says to one datagram, a second after anything else."""
    world.now_us += 1_000_000
    said: list[bytes] = []
    world.tap = lambda _source, destination, answer: said.append(answer) if destination == source else None
    host.handle(source, packet)
    world.tap = None
    return said


def test_a_third_party_cannot_tell_connection_ids_that_exist_from_others() -> None:
    """E17: the same silence for both, whatever kind of packet asks."""
    world, alice, bob = friends()
    bob_id, alice_id = ids(alice, bob)
    for known, unknown in ((bob_id, bob_id ^ 0x5555), (alice_id, alice_id ^ 0x5555)):
        for kind in range(4):
            answers = []
            for number in (known, unknown):
                packets = [
                    encode_data_header(number, 77) + bytes(40),
                    *forged_closes(number, 1),
                    encode_control(ChallengeRequest(number, 0, 13)),
                ]
                said = answers_to(bob, world, STRANGER, packets[kind])
                answers.append([(len(answer), answer[0]) for answer in said])
            assert answers[0] == answers[1]


def test_no_answer_to_an_address_we_merely_dialed_is_longer_than_its_question() -> None:
    """E5, E17: nobody has proven that address yet."""
    world = World()
    alice, bob = world.host("alice"), world.host("bob")
    world.network = lambda _source, _destination, _packet, _now_us: []
    alice.send(bob, b"hi")
    for size in range(5, 64):
        question = (b"\x80" + (0x44440000 + size).to_bytes(4, "little") + bytes(60))[:size]
        assert sum(map(len, answers_to(alice, world, bob.address, question))) <= size
