"""Signals on the local network: format, copies, pieces, limits, and who is called how."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz import fuzz_lan
from peergram import config
from peergram.errors import WireError
from peergram.identity import Identity
from peergram.signaling.lan_protocol import (
    LanCore,
    LanDatagram,
    Place,
    decode_lan_datagram,
    encode_lan_datagram,
    split_signal,
)
from tests.properties.test_decoders_01 import damaged

SECOND = 1_000_000
ALICE, BOB, CAROL = Identity.of("alice"), Identity.of("bob"), Identity.of("carol")
LONGEST = Identity.parse("x" * 16 + ":" + "y" * 110)
AT_ALICE: Place = ("192.0.2.1", 4_000)
AT_BOB: Place = ("192.0.2.2", 4_000)


def core(identity: Identity, seed: int = 0) -> LanCore:
    return LanCore(identity, Random(f"{identity}{seed}").randbytes)


def datagrams(sender: LanCore, to: Identity, signal: bytes, now_us: int = 0) -> list[bytes]:
    sending = sender.send(to, signal, now_us)
    assert sending is not None
    return sending.datagrams


def heard(receiver: LanCore, place: Place, packets: list[bytes], now_us: int = 0) -> list[tuple[Identity, bytes]]:
    return [got for packet in packets if (got := receiver.handle_datagram(place, packet, now_us)) is not None]


# --- the format ---


def test_the_documented_bytes() -> None:
    packet = encode_lan_datagram(LanDatagram(b"instance", 258, 1, 3, b"str:bob", b"str:alice", b"blob"))
    assert packet == b"pgL\x01instance\x00\x00\x01\x02\x01\x03\x07\x09str:bobstr:aliceblob"
    assert decode_lan_datagram(packet) == LanDatagram(b"instance", 258, 1, 3, b"str:bob", b"str:alice", b"blob")


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"pgL\x01",
        b"pgL\x02instance\0\0\0\1\0\1\1\1abblob",
        b"pgL\x01instance\0\0\0\1\1\1\1\1abblob",
        b"pgL\x01instance\0\0\0\1\0\0\1\1abblob",
        b"pgL\x01instance\0\0\0\1\0\x0a\1\1abblob",
        b"pgL\x01instance\0\0\0\1\0\1\0\1abblob",
        b"pgL\x01instance\0\0\0\1\0\1\1\0abblob",
        b"pgL\x01instance\0\0\0\1\0\1\x80\1" + b"a" * 200,
        b"pgL\x01instance\0\0\0\1\0\1\1\x09abblob",
        b"pgL\x01instance\0\0\0\1\0\1\1\1ab" + b"x" * 1_200,
    ],
    ids=["empty", "cut", "version", "index", "no pieces", "ten pieces", "no receiver", "no sender", "long name", "ends", "long"],
)
def test_what_is_wrong_is_one_kind_of_error(packet: bytes) -> None:
    with pytest.raises(WireError):
        decode_lan_datagram(packet)


@pytest.mark.parametrize("names", [(BOB, ALICE), (LONGEST, LONGEST)], ids=["short names", "longest names"])
@pytest.mark.parametrize("size", [0, 1, 900, 1_200, 5_000, 8_192])
def test_pieces_fit_into_datagrams_and_join(names: tuple[Identity, Identity], size: int) -> None:
    signal = Random(size).randbytes(size)
    packets = split_signal(b"instance", 7, *names, signal)
    assert len(packets) <= config.LAN_PIECES_MAX
    assert max(map(len, packets)) <= config.LAN_DATAGRAM_BYTES_MAX
    assert b"".join(decode_lan_datagram(packet).piece for packet in packets) == signal


@given(data=damaged(fuzz_lan.seeds()) | st.binary(max_size=1_300))
def test_damage_keeps_the_invariant(data: bytes) -> None:
    fuzz_lan.fuzz_one(data)


# --- who hears what ---


def test_a_signal_arrives_and_names_its_sender() -> None:
    packets = datagrams(core(ALICE), BOB, b"hello")
    assert heard(core(BOB), AT_ALICE, packets) == [(ALICE, b"hello")]


def test_a_signal_for_somebody_else_is_not_heard() -> None:
    packets = datagrams(core(ALICE), BOB, b"hello")
    for other in (CAROL, Identity.of("bobby"), Identity.of("bo")):
        receiver = core(other)
        assert heard(receiver, AT_ALICE, packets) == []
        assert receiver.dropped == {"not for us": 1}


def test_our_own_datagrams_are_not_heard() -> None:
    alice = core(ALICE)
    assert heard(alice, AT_ALICE, datagrams(alice, ALICE, b"hello")) == []


def test_copies_are_heard_once_whatever_way_they_come() -> None:
    bob = core(BOB)
    packets = datagrams(core(ALICE), BOB, b"hello")
    places: list[Place] = [AT_ALICE, ("127.0.0.1", 4_000), ("fe80::1%eth0", 4_000, 0, 2)]
    assert [got for place in places for got in heard(bob, place, packets * 2)] == [(ALICE, b"hello")]


def test_the_same_blob_sent_twice_is_heard_twice() -> None:
    alice, bob = core(ALICE), core(BOB)
    assert len(heard(bob, AT_ALICE, datagrams(alice, BOB, b"hello") + datagrams(alice, BOB, b"hello"))) == 2


def test_somebody_who_uses_the_numbers_of_others_first_silences_nobody() -> None:
    alice, bob = core(ALICE), core(BOB)
    (packet,) = datagrams(alice, BOB, b"hello")
    forged = encode_lan_datagram(replace(decode_lan_datagram(packet), piece=b"forged"))
    assert heard(bob, AT_BOB, [forged]) == [(ALICE, b"forged")]
    assert heard(bob, AT_ALICE, [packet]) == [(ALICE, b"hello")]


@given(seed=st.integers(0, 1_000), size=st.integers(1_200, 8_192))
def test_pieces_come_in_any_order_more_than_once(seed: int, size: int) -> None:
    rng = Random(seed)
    signal = rng.randbytes(size)
    packets = datagrams(core(ALICE), BOB, signal)
    assert len(packets) > 1
    mixed = packets * 2
    rng.shuffle(mixed)
    bob = core(BOB)
    assert heard(bob, AT_ALICE, mixed) == [(ALICE, signal)]


def test_a_missing_piece_is_waited_for_a_second_and_no_longer() -> None:
    alice, bob = core(ALICE), core(BOB)
    first, *rest = datagrams(alice, BOB, bytes(3_000))
    assert heard(bob, AT_ALICE, rest) == []
    assert heard(bob, AT_ALICE, [first], config.LAN_UNFINISHED_US - 1) == [(ALICE, bytes(3_000))]
    first, *rest = datagrams(alice, BOB, bytes(3_000))
    assert heard(bob, AT_ALICE, rest) == []
    other = datagrams(alice, BOB, bytes(2_000))[0]
    assert heard(bob, AT_ALICE, [other, first], config.LAN_UNFINISHED_US) == []
    assert bob.dropped["never completed"] == 1


def test_pieces_of_different_senders_are_never_joined() -> None:
    bob = core(BOB)
    first, *rest = datagrams(core(ALICE), BOB, bytes(2_000))
    assert heard(bob, AT_ALICE, [first]) == []
    assert heard(bob, AT_BOB, rest) == []


# --- limits ---


def test_a_signal_that_is_too_large_is_not_sent() -> None:
    alice = core(ALICE)
    assert alice.send(BOB, bytes(config.CARRIED_BYTES_MAX), 0) is not None
    assert alice.send(BOB, bytes(config.CARRIED_BYTES_MAX + 1), 0) is None


def test_pieces_that_add_up_to_too_much_are_dropped() -> None:
    bob = core(BOB)
    pieces = [LanDatagram(b"instance", 1, index, 9, b"str:bob", b"str:alice", bytes(1_100)) for index in range(9)]
    assert heard(bob, AT_ALICE, [encode_lan_datagram(piece) for piece in pieces]) == []
    assert bob.dropped["too large"] == 1


def unfinished(host: int, number: int) -> tuple[Place, bytes]:
    piece = LanDatagram(b"instance", number, 0, 2, b"str:bob", b"str:alice", bytes(1_000))
    return (f"10.0.{host // 256}.{host % 256}", 4_000), encode_lan_datagram(piece)


def kept(bob: LanCore) -> int:
    """By the public numbers: what came in and was not yet dropped."""
    return 10_000 - bob.dropped["never completed"]


def test_unfinished_signals_are_bounded_in_all_and_per_host() -> None:
    bob = core(BOB)
    for number in range(10_000):
        bob.handle_datagram(*unfinished(1, number), 0)
    assert kept(bob) == config.LAN_UNFINISHED_PER_HOST_MAX
    bob = core(BOB)
    for number in range(10_000):
        bob.handle_datagram(*unfinished(number, number), 0)
    assert kept(bob) == config.LAN_UNFINISHED_MAX


def test_a_host_full_of_unfinished_signals_does_not_stop_another_one() -> None:
    bob = core(BOB)
    first, *rest = datagrams(core(ALICE), BOB, bytes(3_000))
    bob.handle_datagram(AT_ALICE, first, 0)
    for number in range(1_000):
        bob.handle_datagram(*unfinished(1, number), 0)
    assert heard(bob, AT_ALICE, rest) == [(ALICE, bytes(3_000))]


def flood(sender: str, *, count: int) -> Iterator[bytes]:
    for number in range(count):
        yield encode_lan_datagram(LanDatagram(b"flooding", number, 0, 1, b"str:bob", sender.encode(), b"blob"))


def test_one_sender_is_heard_twenty_times_at_once_and_ten_times_a_second() -> None:
    bob = core(BOB)
    assert len(heard(bob, AT_ALICE, list(flood("str:alice", count=1_000)))) == 20
    numbered = list(flood("str:alice", count=11_000))[1_000:]
    got = sum(len(heard(bob, AT_ALICE, [packet], 1_000 * (1 + at))) for at, packet in enumerate(numbered))
    assert 99 <= got <= 101


def test_one_host_with_many_names_leaves_room_for_others() -> None:
    bob = core(BOB)
    packets = [packet for name in range(1_000) for packet in flood(f"str:name{name}", count=1)]
    assert len(heard(bob, AT_BOB, packets)) == config.LAN_HOST_BURST
    assert heard(bob, AT_ALICE, datagrams(core(ALICE), BOB, b"hello")) == [(ALICE, b"hello")]


def test_all_hosts_together_are_limited() -> None:
    bob = core(BOB)
    packets = [
        (f"10.0.{number // 250}.{number % 250}", packet)
        for number in range(4_000)
        for packet in flood(f"str:name{number}", count=1)
    ]
    taken = [bob.handle_datagram((host, 1), packet, 0) is not None for host, packet in packets[:2_000]]
    assert sum(taken) == config.LAN_TOTAL_BURST
    taken = [bob.handle_datagram((host, 1), packet, SECOND) is not None for host, packet in packets[2_000:]]
    assert sum(taken) == config.LAN_TOTAL_PER_S


def test_copies_are_told_for_as_long_as_a_thousand_signals() -> None:
    alice, bob = core(ALICE), core(BOB)
    copies = datagrams(alice, BOB, b"hello")
    assert heard(bob, AT_ALICE, copies)
    for number in range(config.LAN_COPIES_KEPT):
        assert heard(bob, AT_ALICE, copies, number * 20_000) == []
        assert heard(bob, (f"10.0.{number % 8}.1", 1), list(flood(f"str:name{number}", count=1)), number * 20_000)
    assert heard(bob, AT_ALICE, copies, 100 * SECOND) == [(ALICE, b"hello")]


def test_we_send_one_peer_no_more_than_he_would_take() -> None:
    alice = core(ALICE)
    assert sum(alice.send(BOB, b"hello", 0) is not None for _ in range(100)) == 20
    assert alice.send(CAROL, b"hello", 0) is not None
    assert alice.dropped["sent: too many to one peer"] == 80


# --- how somebody is called ---


def test_who_was_never_heard_is_called_by_multicast() -> None:
    alice = core(ALICE)
    for now_us in (0, 1_000, 2_000):
        sending = alice.send(BOB, b"hello", now_us)
        assert sending is not None
        assert (sending.place, sending.multicast) == (None, True)


def test_who_was_heard_is_called_where_he_was_and_by_multicast_once_a_second() -> None:
    alice, bob = core(ALICE), core(BOB)
    assert heard(bob, AT_ALICE, datagrams(alice, BOB, b"hello"))
    ways = []
    for now_us in (0, 200_000, 400_000, 1_000_000, 1_200_000):
        sending = bob.send(ALICE, b"hello", now_us)
        assert sending is not None
        ways.append((sending.place, sending.multicast))
    assert ways == [(AT_ALICE, True), (AT_ALICE, False), (AT_ALICE, False), (AT_ALICE, True), (AT_ALICE, False)]


def test_a_place_that_was_not_heard_for_a_minute_is_forgotten() -> None:
    alice, bob = core(ALICE), core(BOB)
    assert heard(bob, AT_ALICE, datagrams(alice, BOB, b"hello"))
    sending = bob.send(ALICE, b"hello", config.LAN_PLACE_US + 1)
    assert sending is not None
    assert (sending.place, sending.multicast) == (None, True)


def test_somebody_who_claims_a_name_keeps_its_owner_from_nothing_for_more_than_a_second() -> None:
    alice, bob = core(ALICE), core(BOB)
    claims = list(flood("str:alice", count=1))
    assert heard(bob, ("192.0.2.66", 666), claims)
    reached = []
    for now_us in (0, 500_000, 1_000_000, 1_500_000, 2_000_000):
        sending = bob.send(ALICE, b"hello", now_us)
        assert sending is not None
        if sending.multicast:
            reached += heard(alice, AT_BOB, sending.datagrams, now_us)
    assert len(reached) == 3


def test_a_thousand_peers_are_remembered_and_not_more() -> None:
    bob = core(BOB)
    for number in range(3_000):
        packets = list(flood(f"str:name{number}", count=1))
        assert heard(bob, (f"10.0.{number % 8}.1", number), packets, number * 20_000) != []
    assert bob.peers_known == config.LAN_PEERS_KEPT
