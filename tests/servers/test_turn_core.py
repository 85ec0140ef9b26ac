"""The relay's core against our own client, and request by request where that one asks too little (RFC 8656)."""

from __future__ import annotations

import random

import pytest

from peergram import config as limits
from peergram.routes.turn_client import RelayReady
from peergram.servers.relay_access import password_for, temporary_name
from peergram.servers.relay_peers import PeerPolicy
from peergram.servers.relay_quotas import RelayQuotas
from peergram.servers.turn_core import LIFETIME_S, PERMISSION_US, SECOND_US
from peergram.wire.stun import (
    EVEN_PORT_RESERVE,
    Class,
    Method,
    StunMessage,
    decode_channel_data,
    decode_stun,
    encode_channel_data,
    encode_stun,
    looks_like_stun,
)
from tests.servers.relay_harness import PEER, RELAY, RELAY_6, SECRET, WALL_S, Asker, Relay, source_of

_BOTH = frozenset({1, 2})
_PEER_6 = ("2606:4700::99", 5_000)


def test_our_client_gets_an_address_and_talks_both_ways_through_a_channel() -> None:
    relay = Relay()
    client = relay.client(source_of())
    assert client.poll_event() == RelayReady(((RELAY, 50_000),))
    for text in (b"\x80first", b"\x80second"):
        relay.give(client, source_of(), client.wrap(PEER, [text], 0) or [])
    assert relay.sent == [(PEER, b"\x80first"), (PEER, b"\x80second")]
    (answer,) = relay.hear(relay.to_peers[0].relay_id, PEER, b"\x80back")
    assert not looks_like_stun(answer)
    assert client.unwrap(answer) == (PEER, b"\x80back")


def test_a_batch_of_channel_data_goes_on_as_a_batch_and_what_is_cut_short_is_dropped() -> None:
    relay = Relay()
    asker = Asker(relay, source_of())
    asker.allocate()
    asker.ask(Method.CHANNEL_BIND, channel_number=0x4000, xor_peer_addresses=[PEER])
    asker.ask(Method.CHANNEL_BIND, channel_number=0x4001, xor_peer_addresses=[(PEER[0], 4_001)])
    whole = [encode_channel_data(0x4000, bytes((number,)) * 100) for number in range(5)]
    packets = [*whole, encode_channel_data(0x4000, b"short"), encode_channel_data(0x4001, b"other") + b"pad"]
    packets += [whole[0][:50], b"\x40", b"", encode_channel_data(0x4002, b"nowhere")]
    relay.core.handle_client(source_of(), source_of(), packets, 0, WALL_S)
    relay.drain()
    assert [len(each.packets) for each in relay.to_peers] == [5, 1, 1]
    assert relay.sent[:5] == [(PEER, bytes((number,)) * 100) for number in range(5)]
    assert relay.sent[5:] == [(PEER, b"short"), ((PEER[0], 4_001), b"other")]
    assert relay.core.counters["malformed"] == 3
    relay.core.handle_peer(1, PEER, [bytes(100), bytes(100), bytes(50)], 0)
    relay.drain()
    assert [decode_channel_data(packet) for _, packet in relay.to_clients[-3:]] == [
        (0x4000, bytes(100)), (0x4000, bytes(100)), (0x4000, bytes(50)),
    ]  # fmt: skip


def test_a_peer_without_permission_reaches_nobody() -> None:
    relay = Relay()
    client = relay.client(source_of())
    client.permit([PEER[0]], 0)
    relay.run(client, source_of())
    assert relay.hear(1, ("203.0.113.10", 4_000), b"no") == []
    assert len(relay.hear(1, (PEER[0], 9), b"any port of a permitted host", PERMISSION_US - 1)) == 1
    assert relay.hear(1, PEER, b"too late", PERMISSION_US) == []


def test_a_channel_outlives_its_permission_and_carries_nothing_without_it() -> None:
    relay = Relay()
    asker = Asker(relay, source_of())
    asker.allocate()
    asker.ask(Method.CHANNEL_BIND, channel_number=0x4000, xor_peer_addresses=[PEER])
    relay.pass_time(PERMISSION_US + SECOND_US)
    relay.take(source_of(), encode_channel_data(0x4000, b"late"), PERMISSION_US + SECOND_US)
    assert relay.sent == []
    asker.now_us = PERMISSION_US + SECOND_US
    asker.ask(Method.CREATE_PERMISSION, xor_peer_addresses=[PEER])
    relay.take(source_of(), encode_channel_data(0x4000, b"again"), asker.now_us)
    assert relay.sent == [(PEER, b"again")]


def test_nothing_is_sent_inside_and_to_the_relay_itself_only_at_a_live_allocation() -> None:
    relay = Relay()
    first, second = relay.client(source_of(1)), relay.client(source_of(2))
    assert second.addresses == ((RELAY, 50_001),)
    for peer in (("10.0.0.1", 80), ("127.0.0.1", 80), (RELAY, 22)):
        relay.give(first, source_of(1), first.wrap(peer, [b"\x80"], 0) or [])
    second.permit([RELAY], 0)
    relay.run(second, source_of(2))
    relay.to_clients.clear()
    relay.give(first, source_of(1), first.wrap((RELAY, 50_001), [b"\x80over"], 0) or [])
    assert relay.to_peers == [], "between two allocations nothing leaves the relay"
    arrived = [found for to, packet in relay.to_clients if to == source_of(2) and (found := second.unwrap(packet))]
    assert arrived == [((RELAY, 50_000), b"\x80over")]


def test_between_two_allocations_both_need_permission() -> None:
    relay = Relay()
    first, second = relay.client(source_of(1)), relay.client(source_of(2))
    relay.give(first, source_of(1), first.wrap((RELAY, 50_001), [b"\x80over"], 0) or [])
    assert not any(second.unwrap(packet) for to, packet in relay.to_clients if to == source_of(2))
    assert relay.core.counters["peer_not_permitted"] == 1


def test_what_becomes_an_address_of_the_relay_is_no_peer_any_more_though_it_was_permitted() -> None:
    relay = Relay()
    asker = Asker(relay, source_of())
    asker.allocate()
    asker.ask(Method.CHANNEL_BIND, channel_number=0x4000, xor_peer_addresses=[PEER])
    relay.take(source_of(), encode_channel_data(0x4000, b"before"))
    relay.core.replace_policy(PeerPolicy([RELAY, PEER[0]]))
    relay.take(source_of(), encode_channel_data(0x4000, b"after"))
    asker.ask(Method.CREATE_PERMISSION, xor_peer_addresses=[PEER])
    relay.take(source_of(), encode_channel_data(0x4000, b"after"))
    assert relay.sent == [(PEER, b"before")]
    assert asker.ask(Method.CHANNEL_BIND, channel_number=0x4001, xor_peer_addresses=[(PEER[0], 9)]).error_code == 403


def test_an_allocation_ends_after_its_lifetime_unless_refreshed() -> None:
    relay = Relay()
    relay.client(source_of())
    relay.pass_time(LIFETIME_S * SECOND_US - 1)
    assert relay.core.allocations == 1
    relay.pass_time((LIFETIME_S + 1) * SECOND_US)
    assert (relay.core.allocations, relay.closed) == (0, [1])
    relay.pass_time((LIFETIME_S + 10) * SECOND_US)
    assert relay.core.poll_timeout() is None


def test_nothing_passes_at_the_end_of_a_lifetime_though_it_is_swept_later() -> None:
    relay = Relay()
    client = relay.client(source_of())
    relay.give(client, source_of(), client.wrap(PEER, [b"\x80"], 0) or [])
    asker = Asker(relay, source_of())
    asker.now_us = LIFETIME_S * SECOND_US - SECOND_US
    asker.ask(Method.CREATE_PERMISSION, xor_peer_addresses=[PEER])
    assert relay.hear(1, PEER, b"late", LIFETIME_S * SECOND_US) == []


def test_a_released_allocation_is_gone_at_once() -> None:
    relay = Relay()
    client = relay.client(source_of())
    client.release(0)
    relay.run(client, source_of())
    assert (relay.core.allocations, relay.closed) == (0, [1])


def test_a_name_that_ends_opens_the_relay_and_a_wrong_password_does_not() -> None:
    relay = Relay()
    name = temporary_name("ada", WALL_S + 60)
    assert relay.client(source_of(1), name, password_for(SECRET, name)).addresses
    assert not relay.client(source_of(2), name, password_for(b"another relay's", name)).addresses
    late = temporary_name("ada", WALL_S)
    assert not relay.client(source_of(3), late, password_for(SECRET, late)).addresses


def test_a_stale_nonce_is_said_and_the_client_goes_on() -> None:
    relay = Relay()
    client = relay.client(source_of())
    later_us = 3 * limits.TURN_NONCE_US
    client.check(later_us)
    (answer,) = relay.take(source_of(), client.poll_transmit(later_us) or b"", later_us)
    assert decode_stun(answer).error_code == 438


def test_one_identity_has_so_many_allocations_and_no_more() -> None:
    relay = Relay()
    for number in range(limits.TURN_ALLOCATIONS_PER_IDENTITY_MAX):
        assert relay.named_client(source_of(number), "ada").addresses
    assert not relay.named_client(source_of(200), "ada").addresses
    assert relay.core.counters["refused_486"] == 1
    assert relay.named_client(source_of(201), "bob").addresses


def test_of_those_who_share_one_name_each_host_counts_by_itself() -> None:
    relay = Relay()
    for port in range(limits.TURN_ALLOCATIONS_PER_IDENTITY_MAX):
        assert relay.client(("192.0.2.1", 2_000 + port), now_us=port * SECOND_US).addresses
    assert not relay.client(("192.0.2.1", 3_000), now_us=20 * SECOND_US).addresses
    assert relay.client(("192.0.2.2", 3_000), now_us=20 * SECOND_US).addresses


def test_one_host_has_so_many_allocations_and_no_more() -> None:
    relay = Relay()
    for number in range(limits.TURN_ALLOCATIONS_PER_HOST_MAX + 1):
        client = relay.named_client((f"2001:db8:1:2::{number:x}", 2_000), f"i{number}", number * SECOND_US)
    assert relay.core.allocations == limits.TURN_ALLOCATIONS_PER_HOST_MAX
    assert not client.addresses, "a /64 counts as one host"


def test_the_relay_has_so_many_allocations_and_no_more() -> None:
    relay = Relay(quotas=RelayQuotas(allocations_max=50))
    for number in range(51):
        client = relay.named_client(source_of(number), f"i{number}")
    assert relay.core.allocations == 50
    assert relay.core.counters["refused_508"] == 1
    assert not client.addresses


def test_an_allocation_has_so_many_peers_and_no_more() -> None:
    relay = Relay()
    asker = Asker(relay, source_of())
    asker.allocate()
    for number in range(limits.TURN_SERVER_PEERS_MAX + 1):
        answer = asker.ask(Method.CREATE_PERMISSION, xor_peer_addresses=[(f"203.0.{number // 250}.{number % 250 + 1}", 0)])
    assert answer.error_code == 508
    other = Asker(relay, source_of(2))
    other.allocate()
    for number in range(limits.TURN_SERVER_PEERS_MAX + 1):
        answer = other.ask(Method.CHANNEL_BIND, channel_number=0x4000 + number, xor_peer_addresses=[(PEER[0], 1_000 + number)])
    assert answer.error_code == 508


def test_a_port_that_cannot_be_had_is_said_and_leaves_nothing() -> None:
    relay = Relay()
    relay.refuses_ports = True
    assert Asker(relay, source_of()).allocate().error_code == 508
    assert relay.core.allocations == 0


def test_a_request_that_comes_twice_is_answered_twice_alike() -> None:
    relay = Relay()
    asker = Asker(relay, source_of())
    request = asker.request(Method.ALLOCATE, requested_transport=17)
    (first,), (second,) = relay.take(source_of(), request), relay.take(source_of(), request)
    assert first == second
    assert asker.allocate().error_code == 437


@pytest.mark.parametrize(
    ("attributes", "code"),
    [
        ({"requested_transport": None}, 400),
        ({"requested_transport": 6}, 442),
        ({"requested_address_family": 3}, 440),
        ({"requested_address_family": 1, "additional_address_family": 2}, 400),
        ({"additional_address_family": 1}, 400),
        ({"additional_address_family": 2, "even_port": EVEN_PORT_RESERVE}, 400),
        ({"reservation_token": bytes(8), "even_port": 0}, 400),
        ({"reservation_token": bytes(8)}, 508),
    ],
)
def test_an_allocation_that_cannot_be_is_refused(attributes: dict[str, int], code: int) -> None:
    relay = Relay(families=_BOTH)
    assert Asker(relay, source_of()).allocate(**attributes).error_code == code
    assert relay.core.allocations == 0


def test_one_allocation_has_addresses_of_both_families() -> None:
    relay = Relay(families=_BOTH)
    asker = Asker(relay, source_of())
    answer = asker.allocate(additional_address_family=2)
    assert (answer.xor_relayed_address, answer.xor_relayed_address_2) == ((RELAY, 50_000), (RELAY_6, 50_001))
    asker.ask(Method.CREATE_PERMISSION, xor_peer_addresses=[PEER, _PEER_6])
    assert len(relay.hear(1, PEER, b"four")) == len(relay.hear(2, _PEER_6, b"six")) == 1
    asker.ask(Method.CHANNEL_BIND, channel_number=0x4000, xor_peer_addresses=[_PEER_6])
    relay.take(source_of(), encode_channel_data(0x4000, b"out"))
    assert relay.to_peers[-1].relay_id == 2
    assert asker.ask(Method.REFRESH, lifetime_s=0, requested_address_family=2).message_class == Class.SUCCESS
    assert relay.closed == [2]
    assert asker.ask(Method.CREATE_PERMISSION, xor_peer_addresses=[_PEER_6]).error_code == 443
    assert asker.ask(Method.REFRESH, requested_address_family=2).error_code == 443
    assert asker.ask(Method.CREATE_PERMISSION, xor_peer_addresses=[PEER]).message_class == Class.SUCCESS


def test_a_family_that_is_missing_is_said_beside_the_one_there_is() -> None:
    answer = Asker(Relay(), source_of()).allocate(additional_address_family=2)
    assert (answer.xor_relayed_address, answer.xor_relayed_address_2) == ((RELAY, 50_000), None)
    assert answer.address_error == (2, 440)


def test_a_port_is_even_on_demand_and_the_one_above_is_kept_for_thirty_seconds() -> None:
    relay = Relay()
    first = Asker(relay, source_of(1)).allocate(even_port=EVEN_PORT_RESERVE)
    assert first.xor_relayed_address is not None
    assert first.xor_relayed_address[1] % 2 == 0
    assert first.reservation_token is not None
    stranger = Asker(
        relay, source_of(3), temporary_name("eve", WALL_S + 9), password_for(SECRET, temporary_name("eve", WALL_S + 9))
    )
    assert stranger.allocate(reservation_token=first.reservation_token).error_code == 508
    second = Asker(relay, (source_of(1)[0], 9)).allocate(reservation_token=first.reservation_token)
    assert second.xor_relayed_address == (RELAY, first.xor_relayed_address[1] + 1)
    third = Asker(relay, source_of(4)).allocate(even_port=EVEN_PORT_RESERVE)
    relay.pass_time(31 * SECOND_US)
    late = Asker(relay, (source_of(4)[0], 9), now_us=31 * SECOND_US)
    assert late.allocate(reservation_token=third.reservation_token).error_code == 508
    assert len(relay.closed) == 1


def test_what_must_not_be_fragmented_says_so_and_where_that_cannot_be_it_is_refused() -> None:
    relay = Relay()
    asker = Asker(relay, source_of())
    assert asker.allocate(dont_fragment=True).message_class == Class.SUCCESS
    asker.ask(Method.CREATE_PERMISSION, xor_peer_addresses=[PEER])
    for whole in (True, False):
        send = StunMessage(Method.SEND, Class.INDICATION, bytes(12), xor_peer_addresses=[PEER], data=b"x", dont_fragment=whole)
        relay.take(source_of(), encode_stun(send))
    assert [each.dont_fragment for each in relay.to_peers] == [True, False]
    other = Asker(Relay(can_forbid_fragments=False), source_of())
    answer = other.allocate(dont_fragment=True)
    assert (answer.error_code, answer.unknown_attributes) == (420, [0x001A])


@pytest.mark.parametrize(
    ("number", "peers", "code"),
    [
        (None, [PEER], 400),
        (0x3FFF, [PEER], 400),
        (0x8000, [PEER], 400),
        (0x4000, [], 400),
        (0x4000, [("203.0.113.10", 1)], 400),
        (0x4001, [PEER], 400),
        (0x4001, [("10.0.0.1", 1)], 403),
        (0x4001, [_PEER_6], 443),
        (0x4001, [(RELAY, 3_478)], 403),
    ],
)
def test_a_channel_that_cannot_be_is_refused(number: int | None, peers: list[tuple[str, int]], code: int) -> None:
    relay = Relay()
    asker = Asker(relay, source_of())
    asker.allocate()
    asker.ask(Method.CHANNEL_BIND, channel_number=0x4000, xor_peer_addresses=[PEER])
    assert asker.ask(Method.CHANNEL_BIND, channel_number=number, xor_peer_addresses=peers).error_code == code


def test_an_allocation_is_refreshed_by_a_new_name_of_its_identity_only() -> None:
    relay = Relay()
    name, renewed, other = (temporary_name(who, WALL_S + life) for who, life in (("ada", 60), ("ada", 90), ("bob", 90)))
    Asker(relay, source_of(), name, password_for(SECRET, name)).allocate()
    assert Asker(relay, source_of(), renewed, password_for(SECRET, renewed)).ask(Method.REFRESH).error_code is None
    assert Asker(relay, source_of(), other, password_for(SECRET, other)).ask(Method.REFRESH).error_code == 441


def test_a_relay_that_drains_takes_nobody_new_and_lets_nobody_outlive_it() -> None:
    relay = Relay()
    old = Asker(relay, source_of(1))
    old.allocate()
    relay.core.drain(60 * SECOND_US)
    assert Asker(relay, source_of(2)).allocate().error_code == 508
    old.now_us = 10 * SECOND_US
    assert old.ask(Method.REFRESH, lifetime_s=600).lifetime_s == 50
    relay.pass_time(61 * SECOND_US)
    assert relay.core.allocations == 0


def test_random_and_damaged_messages_never_raise() -> None:
    relay = Relay()
    rng = random.Random(2)
    request = encode_stun(StunMessage(Method.ALLOCATE, Class.REQUEST, bytes(12), requested_transport=17))
    for number in range(5_000):
        damaged = bytearray(request)
        damaged[rng.randrange(len(damaged))] ^= rng.randrange(1, 256)
        relay.take(source_of(number), bytes(damaged))
        relay.take(source_of(number), rng.randbytes(rng.randrange(60)))
    assert relay.core.allocations == 0


def test_ports_in_reserve_count_as_allocations_of_their_identity() -> None:
    relay = Relay(quotas=RelayQuotas(allocations_per_identity_max=4))
    first, second, third = (Asker(relay, (source_of()[0], port)) for port in (1, 2, 3))
    tokens = []
    for _ in range(3):
        tokens.append(first.allocate(even_port=EVEN_PORT_RESERVE).reservation_token)
        first.ask(Method.REFRESH, lifetime_s=0)
    assert first.allocate(even_port=EVEN_PORT_RESERVE).error_code == 486
    assert first.allocate().error_code is None
    assert second.allocate().error_code == 486
    assert second.allocate(reservation_token=tokens[0]).error_code is None
    assert third.allocate().error_code == 486
    relay.pass_time(31 * SECOND_US)
    third.now_us = 31 * SECOND_US
    assert third.allocate(even_port=EVEN_PORT_RESERVE).error_code is None


def test_an_allocation_with_a_port_in_reserve_takes_two_places() -> None:
    relay = Relay(quotas=RelayQuotas(allocations_per_identity_max=4))
    askers = [Asker(relay, (source_of()[0], port)) for port in (1, 2, 3)]
    answers = [asker.allocate(even_port=EVEN_PORT_RESERVE).error_code for asker in askers]
    assert answers == [None, None, 486]


@pytest.mark.parametrize("attributes", [{"additional_address_family": 2}, {"even_port": EVEN_PORT_RESERVE}])
def test_an_allocation_of_two_ports_takes_two_of_those_the_relay_has(attributes: dict[str, int]) -> None:
    relay = Relay(families=_BOTH, quotas=RelayQuotas(allocations_max=5))
    askers = [Asker(relay, source_of(number)) for number in range(4)]
    assert [asker.allocate(**attributes).error_code for asker in askers] == [None, None, 508, 508]
    assert askers[2].allocate().error_code is None
    assert len(relay.opened) == 5
