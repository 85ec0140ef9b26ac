"""E14, E16, E17: closes that nobody sent, and questions asked to make us talk."""

from __future__ import annotations

import gc
import tracemalloc
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from random import Random

import pytest

from peergram.address import Address
from peergram.config import (
    CLAIM_WAIT_OWN_PEER_US,
    CLOSE_REPLIES_MAX,
    CONNECT_OK_INTERVAL_US,
    CONTROL_REPLIES_MAX,
    DATAGRAM_BYTES_MAX,
    NO_CONNECTION_INTERVAL_US,
    PACKETS_IN_FLIGHT_MAX,
    RTO_MIN_US,
    STRANGER_REPLIES_MAX,
)
from peergram.connection.in_flight import SentPacket
from peergram.connection.rate import SentRecord
from peergram.connection.reports import fill_report
from peergram.connection.rtt import RoundTrip
from peergram.connection.stats import REPORT_INSTANT, REPORT_LIFETIME
from peergram.errors import Result
from peergram.events import ConnectionState, SendFlags
from peergram.wire.control import (
    LEAD_CONNECT_REQUEST,
    ChallengeRequest,
    ConnectionClosed,
    NoConnection,
    encode_control,
)
from peergram.wire.data_packet import encode_data_header
from peergram.wire.link_stats import encode_stats
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


class Asker:
    """Alice, who asks Bob for answers of every kind and hears none; Bob has data to send and a window of one packet."""

    def __init__(self) -> None:
        self.world, self.alice, self.bob = world, alice, bob = hello_recorded()
        self.hers, self.his = alice.flow_to(bob), bob.flow_to(alice)
        self.bob_id, self.alice_id = ids(alice, bob)
        self.said: Counter[str] = Counter()
        world.network = lambda _source, _destination, _packet, _now_us: []
        world.tap = self._count
        self.his.rate = HeldWindow()
        assert bob.endpoint.send_message(alice.identity, bytes(100_000), 9, 0, world.now_us) == Result.OK
        self._number = self.hers.in_flight.next_number
        report = encode_stats(fill_report(self.hers, REPORT_INSTANT | REPORT_LIFETIME, world.now_us))
        hello = world.recorded_hello
        assert hello is not None
        self.kinds: dict[str, Callable[[], bytes]] = {
            "answer at once": lambda: self._data(b"\x18\x06"),
            "answer soon": lambda: self._data(b"\x18\x02"),
            "statistics": lambda: self._data(report),
            "challenge again": lambda: encode_control(ChallengeRequest(self.alice_id, 0, 13)),
            "hello again": lambda: hello,
            "no connection": lambda: forged_closes(self.bob_id, self.alice_id)[1],
            "closed": lambda: forged_closes(self.bob_id, self.alice_id)[0],
        }

    def _count(self, source: Address, _destination: Address, packet: bytes) -> None:
        if source == self.bob.address:
            self.said["data" if packet[0] >= 0x80 else f"control {packet[0]}"] += 1

    def _data(self, blob: bytes) -> bytes:
        """A new authentic packet with these questions in front."""
        self._number += 1
        return encode_data_header(self.bob_id, self._number, stats_blob=blob) + self.hers.send_cipher.seal(self._number, b"")

    def ask(self, packet: bytes, *, fetches: bool = True) -> None:
        """Put a question; with `fetches` Bob's driver runs his timers and sends what he has."""
        endpoint, now_us = self.bob.endpoint, self.world.now_us
        endpoint.handle_datagrams(self.bob.listening, self.alice.address, packet, len(packet), now_us)
        if fetches:
            endpoint.handle_timeout(now_us)
            self.bob.drain()


class HeldWindow:
    """A window of one packet, whatever is acknowledged."""

    rate_bytes_per_s = 1_000_000
    window_bytes = DATAGRAM_BYTES_MAX
    datagram_bytes = DATAGRAM_BYTES_MAX
    delivered = (0, 0)

    def handle_acked(
        self, acked_bytes: int, lost_bytes: int, newest: SentRecord | None, round_trip: RoundTrip, now_us: int
    ) -> None:
        """Steers nothing."""

    def handle_idle(self, in_flight_bytes: int) -> None:
        """Steers nothing."""

    def handle_timeout(self) -> None:
        """Steers nothing."""


def hello_recorded() -> tuple[RecordingWorld, Host, Host]:
    """Friends, and the connect request that made them so."""
    world = RecordingWorld()
    alice, bob = world.host("alice"), world.host("bob")
    assert alice.send(bob, b"hello") == Result.OK
    world.run_until(lambda: len(bob.messages) == 1)
    world.run(2_000_000)
    return world, alice, bob


class RecordingWorld(World):
    """Keeps the last connect request."""

    def __init__(self) -> None:
        super().__init__()
        self.recorded_hello: bytes | None = None

    def send(self, source: Address, destination: Address, packet: bytes) -> None:
        if packet[0] == LEAD_CONNECT_REQUEST:
            self.recorded_hello = packet
        super().send(source, destination, packet)


def test_questions_of_every_kind_draw_a_few_answers_a_round_trip_and_hold_no_memory() -> None:
    """E14, G19: a million of them, ten microseconds apart, while Bob may not send; the questions stand outside the encryption, so
    whoever repeats a genuine packet's hint may ask."""
    asker = Asker()
    world, his = asker.world, asker.his
    kinds = list(asker.kinds.values())
    tracemalloc.start()
    try:
        # What goes unanswered is kept up to a limit; the attack may replace it, but must not add to it.
        while len(his.in_flight) < PACKETS_IN_FLIGHT_MAX:
            his.in_flight.add(SentPacket(world.now_us - len(his.in_flight), 40, [], False, 0, world.now_us, 0))
        asker.ask(kinds[0]())
        asker.said.clear()
        begin_us = world.now_us
        gc.collect()
        before_bytes = tracemalloc.get_traced_memory()[0]
        for at in range(full_or(1_000_000, 10_000)):
            asker.ask(kinds[at % len(kinds)]())
            world.now_us += 10
        gc.collect()
        grown_bytes = tracemalloc.get_traced_memory()[0] - before_bytes
    finally:
        tracemalloc.stop()
    assert grown_bytes <= 64 << 10
    duration_us = world.now_us - begin_us
    assert his.round_trip.smoothed_us == pytest.approx(10_000, rel=0.2)
    at_once = duration_us // his.answer_interval_us + 1
    asked_back = duration_us // (CLAIM_WAIT_OWN_PEER_US // 3) + 1
    timed_out = duration_us // RTO_MIN_US + 1
    assert at_once // 10 <= asker.said["data"] <= at_once + asked_back + timed_out
    assert asker.said.pop("data")
    assert asker.said.total() <= duration_us // CONNECT_OK_INTERVAL_US + 1
    assert_is_up(asker)


@pytest.mark.parametrize("kind", range(7))
def test_each_kind_of_question_waits_in_a_row_of_at_most_16(kind: int) -> None:
    """E14: while the driver does not fetch anything, for ten seconds."""
    asker = Asker()
    make = list(asker.kinds.values())[kind]
    connection = asker.bob.connection_to(asker.alice)

    def attack() -> None:
        for _ in range(full_or(140_000, 2_000)):
            asker.ask(make(), fetches=False)
            asker.world.now_us += 10_000_000 // full_or(140_000, 2_000)

    attack()
    assert held_bytes(attack) <= 64 << 10
    assert len(connection._control) <= CONTROL_REPLIES_MAX
    asker.said.clear()
    asker.bob.drain()
    assert asker.said.pop("data", 0) <= 1, "one packet answers all questions inside the encryption"
    assert asker.said.total() <= CONTROL_REPLIES_MAX


def assert_is_up(asker: Asker) -> None:
    """Bob still has the session, and answers a question."""
    asker.world.now_us += 100_000
    said = asker.said["data"]
    asker.ask(asker.kinds["answer at once"]())
    assert asker.bob.is_connected_to(asker.alice)
    assert asker.said["data"] == said + 1


@pytest.mark.parametrize(
    ("delay_us", "interval_us"), [(100, 1_000), (5_000, 2_500), (15_000, 7_500), (100_000, 10_000), (700_000, 10_000)]
)
def test_answers_given_at_once_are_a_quarter_of_a_round_trip_apart_and_no_less_often_than_acks(
    delay_us: int, interval_us: int
) -> None:
    """E14: our own senders ask twice a round trip when their window is full, and must not wait."""
    world, alice, bob = friends()
    world.network = lambda _source, _destination, _packet, _now_us: [delay_us]
    for _ in range(60):
        alice.send(bob, b"how far?")
        bob.endpoint.send_message(alice.identity, b"so far", SendFlags.RELIABLE_NO_NAGLE, 0, world.now_us)
        world.run(max(3 * delay_us, 50_000))
    assert bob.flow_to(alice).answer_interval_us == pytest.approx(interval_us, rel=0.05)
    assert bob.flow_to(alice).answer_interval_us <= max(delay_us, 1_000)


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
