"""E1, E2, E9: bytes that mean nothing, or nearly something, from strangers and from a friend's address."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from random import Random

import pytest

from peergram.address import Address
from peergram.config import Config
from peergram.connection.receive import ConnectionViolated, Receiver
from peergram.errors import WireError
from peergram.events import DroppedDatagrams
from peergram.wire.control import (
    ChallengeReply,
    ChallengeRequest,
    ConnectionClosed,
    NoConnection,
    decode_control,
    encode_control,
)
from tests.connection.flows import make_flow
from tests.threats.world import SOAK, Host, World, assert_session_works, digest, friends, full_or, held_bytes, operations
from tests.vectors_data import control_packets, load

STRANGER: Address = ("203.0.113.9", 5_555)
LENGTH_CLASSES = {
    "empty and tiny": (0, 4),
    "short": (5, 63),
    "a packet": (64, 1_300),
    "jumbo": (1_301, 9_000),
    "largest": (9_001, 65_507),
}
MEMORY_BYTES_MAX = 64 << 10


def shells() -> Iterator[bytes]:
    """One well-formed datagram of every kind."""
    yield from {packet["kind"]: packet["datagram"] for packet in control_packets()}.values()
    yield encode_control(ChallengeReply(0x00010001, 7, 7, 13))
    yield encode_control(NoConnection(0x00010001, 0x00020002))
    yield encode_control(ConnectionClosed(0x00010001, 0x00020002, 1000, "bye"))


def mutated(rng: Random, datagram: bytes) -> bytes:
    """A datagram with its first byte kept and something inside changed."""
    body = bytearray(datagram)
    for _ in range(rng.choice((1, 1, 2, 8))):
        body += bytes(2 - min(len(body), 2))
        at = rng.randrange(1, len(body))
        match rng.randrange(6):
            case 0:
                body[at] ^= 1 << rng.randrange(8)
            case 1:
                body[at] = rng.choice((0, 0x7F, 0x80, 0xFF))
            case 2:
                del body[at : at + rng.choice((1, 4, 64))]
            case 3:
                body[at:at] = rng.choice((b"\xff" * 11, b"\x80" * 10 + b"\x01", b"\x0b" * 40, b"\xc3\x28", rng.randbytes(8)))
            case 4:
                body[at:at] = body[1:at][:200]
            case _:
                del body[max(at, 5) :]
    return bytes(body) or datagram[:1]


@pytest.mark.parametrize("lengths", LENGTH_CLASSES.values(), ids=LENGTH_CLASSES)
def test_random_datagrams_are_dropped_and_leave_nothing_behind(lengths: tuple[int, int]) -> None:
    """E1."""
    world, alice, bob = friends()
    rng = Random(1)
    noise = rng.randbytes(200_000)
    tables = bob.table_sizes
    count = full_or(200_000, 300)

    def attack() -> None:
        for _ in range(count):
            at = rng.randrange(100_000)
            source = alice.address if rng.random() < 0.2 else STRANGER
            bob.handle(source, noise[at : at + rng.randint(*lengths)])
            world.now_us += 10

    attack()
    assert held_bytes(attack) <= MEMORY_BYTES_MAX
    assert bob.table_sizes == tables
    assert world.datagrams_to_strangers == 0
    assert_session_works(world, alice, bob)


@pytest.mark.skipif(not SOAK, reason="measures time: set PEERGRAM_SOAK=1")
@pytest.mark.parametrize("lengths", LENGTH_CLASSES.values(), ids=LENGTH_CLASSES)
def test_a_random_datagram_costs_at_most_15_us(lengths: tuple[int, int]) -> None:
    """E1."""
    world, _alice, bob = friends()
    rng = Random(1)
    datagrams = [rng.randbytes(rng.randint(*lengths)) for _ in range(2_000)]
    best_s = min(_seconds_for(bob, world, datagrams) for _ in range(5))
    assert best_s / len(datagrams) <= 15e-6


def _seconds_for(bob: Host, world: World, datagrams: list[bytes]) -> float:
    begin = time.process_time()
    for datagram in datagrams:
        bob.endpoint.handle_datagrams(bob.listening, STRANGER, datagram, len(datagram), world.now_us)
    return time.process_time() - begin


@pytest.mark.parametrize("shell", range(len(list(shells()))))
def test_a_well_formed_shell_that_is_broken_inside_is_dropped(shell: int) -> None:
    """E2."""
    world, alice, bob = friends()
    rng = Random(shell)
    datagram = list(shells())[shell]
    broken = 0
    for _ in range(full_or(100_000, 300)):
        world.now_us += 1_000
        packet = mutated(rng, datagram)
        try:
            decode_control(packet)
        except WireError:
            broken += 1
        bob.handle(rng.choice((alice.address, STRANGER)), packet)
    if datagram[0] < 0x80:
        assert bob.endpoint.dropped.malformed + bob.endpoint.dropped.short == broken
    assert broken
    assert len(bob.endpoint._peers) == 1
    assert_session_works(world, alice, bob)


DEEP = {
    "groups nested 10,000 deep": b"\x7b" * 10_000 + b"\x7c" * 10_000,
    "groups that never end": b"\x7b" * 20_000,
    "messages nested 10,000 deep": b"\x42\xff\xff\x03" * 5_000,
    "a varint of 11 bytes": b"\x08" + b"\xff" * 11,
    "a length of 2^63": b"\x42" + b"\xff" * 8 + b"\x7f",
    "one field 5,000 times": b"\x0d\x01\x00\x01\x00" * 5_000,
    "invalid UTF-8": b"\x62\x04\xff\xfe\xc3\x28",
}


@pytest.mark.parametrize("body", DEEP.values(), ids=DEEP)
@pytest.mark.parametrize("lead", range(0x20, 0x26))
def test_no_protobuf_exhausts_the_parser(lead: int, body: bytes) -> None:
    """E2: RecursionError and MemoryError included."""
    world, alice, bob = friends()
    padded = bytes((lead,)) + (len(body) & 0xFFFF).to_bytes(2, "little") + body + bytes(600)
    for datagram in (bytes((lead,)) + body, padded):
        for source in (STRANGER, alice.address):
            bob.handle(source, datagram)
    assert_session_works(world, alice, bob)


def test_what_is_dropped_is_counted_by_its_reason() -> None:
    """E2: each datagram once, and nothing that was of use."""
    _world, alice, bob = friends()
    before = replace(bob.endpoint.dropped)
    assert before == DroppedDatagrams()
    hers = alice.flow_to(bob)
    head = b"\x80" + bob.connection_to(alice).connection_id.to_bytes(4, "little")

    def sealed(number: int, payload: bytes) -> bytes:
        return head + (number & 0xFFFF).to_bytes(2, "little") + hers.send_cipher.seal(number, payload)

    next_number = hers.in_flight.next_number
    genuine = sealed(next_number, b"")
    bob.handle(alice.address, genuine)
    assert bob.endpoint.dropped == before
    unbegun = encode_control(ChallengeRequest(0, 0, 13))
    for source, datagram, reason in (
        (STRANGER, b"", "short"),
        (STRANGER, b"\x20abc", "short"),
        (alice.address, b"\x80abc", "short"),
        (STRANGER, b"\x10" + bytes(600), "malformed"),
        (STRANGER, b"\x24\xff\xff" + bytes(600), "malformed"),
        (STRANGER, b"\x25\x0b\x0b\x0b\x0b", "malformed"),
        (alice.address, head + b"\x01", "malformed"),
        (alice.address, b"\x81" + genuine[1:7] + b"\xff" * 11, "malformed"),
        (STRANGER, genuine, "unknown"),
        (alice.address, b"\x80" + bytes(60), "unknown"),
        (STRANGER, encode_control(ConnectionClosed(0x00010001, 0x00020002, 1000, "bye")), "unknown"),
        (STRANGER, encode_control(NoConnection(0x00010001, 0x00020002)), "unknown"),
        (STRANGER, unbegun, "refused"),
        (alice.address, head + b"\x10\x10" + bytes(60), "forged"),
        (alice.address, genuine[:-1] + bytes((genuine[-1] ^ 1,)), "repeated"),
        (alice.address, genuine, "repeated"),
        (alice.address, sealed(next_number + 1, b"\xff\xff"), "violating"),
    ):
        setattr(before, reason, getattr(before, reason) + 1)
        bob.handle(source, datagram)
        assert bob.endpoint.dropped == before, f"{datagram.hex()} is {reason}"
    assert not bob.is_connected_to(alice)


def test_a_batch_of_noise_is_counted_datagram_by_datagram() -> None:
    """E2: also where the kernel hands over many at once."""
    world, alice, bob = friends()
    forged = b"\x80" + bob.connection_to(alice).connection_id.to_bytes(4, "little") + b"\x10\x10" + bytes(93)
    bob.handle(alice.address, forged * 40, 100)
    bob.handle(STRANGER, bytes(4_050), 100)
    assert (bob.endpoint.dropped.forged, bob.endpoint.dropped.malformed) == (40, 41)
    assert_session_works(world, alice, bob)
    assert alice.endpoint.dropped == DroppedDatagrams()


def test_mutated_payloads_of_an_authentic_peer_end_the_connection_or_do_nothing_worse() -> None:
    """E2, below the encryption."""
    rng = Random(3)
    payloads = [bytes.fromhex(packet["payload"]) for packet in load("02-snp")["packets"]]
    violated = 0
    for _ in range(full_or(100_000, 1_500)):
        flow = make_flow()
        receiver = Receiver(flow, lambda _record, _now_us: None)
        try:
            for number in range(2, 5):
                receiver.handle_payload(mutated(rng, rng.choice(payloads) or b"\x80"), number, 2_000_000)
        except ConnectionViolated:
            violated += 1
        assert flow.buffered_bytes <= 3 * 1_300
    assert violated


# --- E9 ---

TINY = {
    "lane selections": b"\x88" * 1_248,
    "empty messages in new sections": b"\x88\x30\x01\x00\x00\x00\x00" * 178,
    "empty messages that follow": b"\x30\x01\x00\x00\x00\x00" + b"\x20\x00" * 621,
    "empty pieces": b"\x10\x01\x00\x00\x00\x00" + b"\x00\x00" * 621,
    "empty reliable segments": b"\x50\x01\x00\x00\x00\x00\x00\x00" + b"\x40\x00" * 620,
    "reliable segments of a byte": b"\x50\x01\x00\x00\x00\x00\x00\x01\x00" + b"\x40\x01\x00" * 413,
    "stop waiting": b"\x80\x00" * 624,
    "acks without blocks": b"\x98\x01\x00\xff\xff" * 249,
    "threes of empty messages": b"\x30\x01\x00\x00\x00\x00" + (b"\x20\x00" * 3 + b"\x20\x01x") * 138,
    "acks with empty blocks": b"\x9e\x01\x00\xff\xff" + b"\x00" * 6 + b"\x9f\x01\x00\xff\xff\xff" + bytes(255),
}
TINY_IN_LARGE = {
    "empty unreliable messages": b"\x30\x01\x00\x00\x00\x00" + (b"\x20\x00" * 3 + b"\x20\x01x") * 7_200,
    "empty reliable messages": b"\x57\x01\x00\x00\x00\x00\x00" + b"\x00\x00\x00\x01x" * 12_900,
}
"""Threes of one size: runs that end at once, each with a long rest of the packet behind it."""
OPERATIONS_PER_BYTE_MAX = 400
TINY_CASES = [pytest.param(payload, id=name) for name, payload in TINY.items()]


def fresh() -> Receiver:
    return Receiver(make_flow(Config()), lambda _record, _now_us: None)


@pytest.mark.parametrize("payload", TINY_CASES)
def test_each_of_a_thousand_tiny_frames_makes_progress_at_a_bounded_price(payload: bytes) -> None:
    """E9: the work for a packet grows with its bytes, not faster."""
    receiver = fresh()
    whole = operations(lambda: receiver.handle_payload(payload, 2, 2_000_000))
    assert whole <= OPERATIONS_PER_BYTE_MAX * len(payload)


def least_cost_s(payload: bytes) -> float:
    """CPU time of the undisturbed one of several receivers."""
    costs = []
    for _ in range(20):
        receiver = fresh()
        begin = time.process_time()
        receiver.handle_payload(payload, 2, 2_000_000)
        costs.append(time.process_time() - begin)
    return min(costs)


@pytest.mark.skipif(not SOAK, reason="measures time: set PEERGRAM_SOAK=1")
@pytest.mark.parametrize("payload", TINY.values(), ids=TINY)
def test_a_packet_of_tiny_frames_costs_at_most_5_ms(payload: bytes) -> None:
    """E9."""
    assert least_cost_s(payload) <= 5e-3


@pytest.mark.skipif(not SOAK, reason="measures time: set PEERGRAM_SOAK=1")
@pytest.mark.parametrize("payload", TINY_IN_LARGE.values(), ids=TINY_IN_LARGE)
def test_a_packet_of_tiny_messages_as_large_as_own_peers_may_send_costs_at_most_10_ms(payload: bytes) -> None:
    """E9."""
    assert least_cost_s(payload) <= 10e-3


def test_a_frame_of_no_bytes_changes_no_stream() -> None:
    """E9: length 0 of each kind."""
    for payload in (b"\x50\x09\x00\x00\x00\x00\x00\x00", b"\x57\x09\x00\x00\x00\x00\x00", b"\x5f\x01\x00\x00\x00\x00\x00"[:7]):
        receiver = fresh()
        lane = receiver._flow.receive_lane(0)
        before = digest(lane)
        try:
            receiver.handle_payload(payload, 2, 2_000_000)
        except ConnectionViolated:
            continue
        assert digest(lane) == before
