"""What may be done to a relay (rows R2 to R5, R8 and R9 of the threat table), in virtual time; PEERGRAM_SOAK=1: full figures."""

from __future__ import annotations

import base64
import random
import time
import tracemalloc

import pytest

from peergram import config as limits
from peergram.address import Address
from peergram.servers.relay_access import password_for, temporary_name
from peergram.servers.relay_quotas import RelayQuotas, network_of
from peergram.servers.turn_core import SECOND_US
from peergram.wire.stun import Class, Method, StunMessage, decode_stun, encode_channel_data, encode_stun, long_term_key
from tests.lab import SOAK
from tests.servers.relay_harness import PEER, RELAY, SECRET, WALL_S, Asker, Relay, source_of

FORGED = 100_000 if SOAK else 2_000
FLOOD = 1_000_000 if SOAK else 8_000
STRANGERS = 1_000_000 if SOAK else 20_000
COMPARED = 100_000 if SOAK else 3_000
ALLOCATE = StunMessage(Method.ALLOCATE, Class.REQUEST, bytes(12), requested_transport=17)


def forged(rng: random.Random, nonce: bytes, number: int) -> bytes:
    """A request for an allocation with a name that ends, and all but the right password."""
    who, ends = f"user{number % 7}", WALL_S + rng.choice([-1, 60, 3_600, limits.TURN_CREDENTIAL_S_MAX + 1])
    name = temporary_name(who, ends)
    kind = number % 5
    password = password_for(
        SECRET if ends in (WALL_S - 1, WALL_S + limits.TURN_CREDENTIAL_S_MAX + 1) else b"of another relay", name
    )
    if kind == 1:
        password = base64.b64encode(rng.randbytes(20))
    elif kind == 2:
        # The password of one name with another name.
        password, name = password_for(SECRET, temporary_name("somebody", ends)), temporary_name(who, ends)
    elif kind == 3:
        name = rng.choice([b"", b":", b"9" * 40 + b":a", b"-5:a", b"1e9:a", str(WALL_S + 60).encode(), rng.randbytes(30)])
    key = long_term_key(name, b"peergram", password)
    message = StunMessage(Method.ALLOCATE, Class.REQUEST, rng.randbytes(12), requested_transport=17)
    message.username, message.realm, message.nonce = name, b"peergram", nonce
    request = bytearray(encode_stun(message, integrity_key=key))
    if kind == 4:
        request[rng.randrange(20, len(request))] ^= 1 << rng.randrange(8)
    return bytes(request)


def test_of_forged_passwords_none_is_accepted_and_each_costs_little() -> None:
    relay = Relay()
    rng = random.Random(3)
    nonce = Asker(relay, source_of(), now_us=0)._nonce or b""
    requests = [forged(rng, nonce, number) for number in range(FORGED)]
    begin_s = time.process_time()
    for number, request in enumerate(requests):
        relay.take(source_of(), request, number * 100)
    each_us = (time.process_time() - begin_s) / FORGED * 1e6
    print(f"\n{FORGED} forged passwords: {each_us:.0f} us each")
    assert relay.core.allocations == 0
    assert not any(decode_stun(packet).message_class == Class.SUCCESS for _, packet in relay.to_clients)
    assert each_us <= 200


def test_a_name_of_one_relay_opens_no_other() -> None:
    name = temporary_name("ada", WALL_S + 600)
    for secret, opens in ((SECRET, True), (b"of relay b", False)):
        assert bool(Relay(secret=secret).client(source_of(), name, password_for(SECRET, name)).addresses) is opens


def test_what_was_overheard_opens_nothing_for_another_host() -> None:
    relay = Relay()
    asker = Asker(relay, source_of())
    request = asker.request(Method.ALLOCATE, requested_transport=17)
    thief = ("192.0.2.99", 5_000)
    (answer,) = relay.take(thief, request)
    assert decode_stun(answer).error_code == 438, "a nonce is for one host"
    assert relay.core.allocations == 0


# R3: bandwidth

_SECONDS = 20 if SOAK else 5
_STEP_US = 20_000
_POLITE_BYTES_PER_S = 256_000 // 8


def share_of_the_polite(quotas: RelayQuotas, greedy_host: str, polite_host: str) -> tuple[float, float]:
    """100 who send 1 MB a second, five times what there is, beside 10 who send 256 kbit/s in packets of 200 bytes: which part of
    theirs the polite ones' peers get, the worst of them; and bytes per second in all."""
    relay = Relay(quotas=quotas)
    askers = []
    for number in range(110):
        host = (greedy_host if number < 100 else polite_host).format(number)
        name = temporary_name(f"i{number}", WALL_S + 3_600)
        asker = Asker(relay, (host, 3_000 + number), name, password_for(SECRET, name), now_us=number * SECOND_US)
        asker.allocate()
        asker.ask(Method.CHANNEL_BIND, channel_number=0x4000, xor_peer_addresses=[(PEER[0], 1_000 + number)])
        askers.append(asker)
    relay.drain()
    greedy, polite = encode_channel_data(0x4000, bytes(1_000)), encode_channel_data(0x4000, bytes(200))
    begin_us = 120 * SECOND_US
    rng = random.Random(5)
    order = list(range(110))
    arrived = dict.fromkeys(order, 0)
    sent = dict.fromkeys(order, 0)
    for now_us in range(begin_us, begin_us + _SECONDS * SECOND_US, _STEP_US):
        rng.shuffle(order)
        for number in order:
            if number < 100:
                packets = [greedy] * (1_000_000 * _STEP_US // SECOND_US // 1_000)
            else:
                due = (now_us - begin_us + _STEP_US) * _POLITE_BYTES_PER_S // SECOND_US
                packets = [polite] * ((due - sent[number]) // 200)
            sent[number] += sum(len(packet) - 4 for packet in packets)
            relay.core.handle_client(askers[number].source, askers[number].source, packets, now_us, WALL_S)
        relay.drain(now_us)
        for (_, port), packet in relay.sent:
            arrived[port - 1_000] += len(packet)
        relay.to_peers.clear()
    worst = min(arrived[number] / sent[number] for number in range(100, 110))
    return worst, sum(arrived.values()) / _SECONDS


@pytest.mark.parametrize(
    ("greedy_host", "polite_host"),
    [("198.18.{}.1", "198.19.{}.1"), ("198.18.7.{}", "198.19.{}.1"), ("198.18.7.{}", "198.18.7.{}")],
    ids=["apart", "the greedy in one network", "all in one network"],
)
def test_a_hundred_greedy_ones_do_not_starve_ten_polite_ones(greedy_host: str, polite_host: str) -> None:
    quotas = RelayQuotas(total_bytes_per_s=20_000_000)
    worst, total = share_of_the_polite(quotas, greedy_host, polite_host)
    print(f"\nthe polite get {worst:.1%} of what they send at least, all together {total / 1e6:.1f} MB/s")
    assert worst >= 0.95
    assert total <= 20_000_000 * (1 + 1.5 / _SECONDS), "a second's worth at once, and then the rate"


def test_an_identity_forwards_so_many_bytes_a_second_over_all_it_has() -> None:
    relay = Relay()
    clients = [relay.named_client(source_of(number), "ada") for number in (1, 2)]
    cost = 60_000 + limits.TURN_PACKET_COST_BYTES
    for now_us in (0, SECOND_US):
        for _ in range(limits.TURN_BYTES_PER_IDENTITY_PER_S // cost):
            for number, client in enumerate(clients):
                relay.give(client, source_of(number + 1), client.wrap(PEER, [b"\x80" + bytes(59_999)], now_us) or [], now_us)
        assert len(relay.sent) == limits.TURN_BYTES_PER_IDENTITY_PER_S // cost
        relay.to_peers.clear()
    relay.named_client(source_of(3), "ada", SECOND_US)
    relay.give(clients[0], source_of(1), clients[0].wrap(PEER, [b"\x80" + bytes(59_999)], SECOND_US) or [], SECOND_US)
    assert relay.sent == [], "a further allocation is no further rate"


def test_giving_an_allocation_back_gives_no_fresh_rate() -> None:
    relay = Relay()
    for number in range(20):
        client = relay.named_client(source_of(number), "ada")
        for _ in range(20):
            relay.give(client, source_of(number), client.wrap(PEER, [b"\x80" + bytes(59_999)], 0) or [])
        client.release(0)
        relay.run(client, source_of(number))
    assert sum(len(packet) for _, packet in relay.sent) <= limits.TURN_BYTES_PER_IDENTITY_PER_S


def test_small_packets_are_charged_for_the_work_they_are() -> None:
    relay = Relay()
    asker = Asker(relay, source_of())
    asker.allocate()
    asker.ask(Method.CHANNEL_BIND, channel_number=0x4000, xor_peer_addresses=[PEER])
    most = limits.TURN_BYTES_PER_IDENTITY_PER_S // (limits.TURN_PACKET_COST_BYTES + 1)
    packets = [encode_channel_data(0x4000, b"x")] * 100
    for _ in range(most // 100 + 10):
        relay.core.handle_client(source_of(), source_of(), packets, 0, WALL_S)
        relay.drain()
    assert len(relay.sent) == most


@pytest.mark.parametrize("host", ["{}.1.2.3", "2001:db8:{:x}::1"])
def test_one_network_and_all_together_have_their_rates_too(host: str) -> None:
    quotas = RelayQuotas(network_bytes_per_s=300_000, total_bytes_per_s=2_000_000, identity_bytes_per_s=0)
    relay = Relay(quotas=quotas)
    sent = []
    for number in range(1, 13):
        name = temporary_name(f"i{number}", WALL_S + 600)
        asker = Asker(relay, (host.format(number), 9), name, password_for(SECRET, name), now_us=0)
        asker.allocate()
        asker.ask(Method.CREATE_PERMISSION, xor_peer_addresses=[PEER])
        asker.ask(Method.CHANNEL_BIND, channel_number=0x4000, xor_peer_addresses=[PEER])
        relay.to_peers.clear()
        for _ in range(100):
            relay.take(asker.source, encode_channel_data(0x4000, bytes(10_000)))
        sent.append(sum(len(packet) for _, packet in relay.sent))
    assert 250_000 <= sent[0] <= 300_000 + limits.TURN_BYTES_GUARANTEED_PER_S
    assert sent[-1] <= limits.TURN_BYTES_GUARANTEED_PER_S, "with all spent, an identity has its guarantee"
    assert sum(sent) <= 2_000_000 + 12 * limits.TURN_BYTES_GUARANTEED_PER_S


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("192.0.2.7", "192.0.2"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2"),
        ("2001:db8::6", "2001:db8:0:0"),
        ("fe80::1%eth0", "fe80:0:0:0"),
        ("::1", "0:0:0:0"),
    ],
)
def test_a_network_is_a_24_or_a_64(host: str, network: str) -> None:
    assert network_of(host) == network


# R4: memory


def test_an_idle_allocation_costs_at_most_two_kib_of_the_core() -> None:
    count = 5_000 if SOAK else 1_000
    relay = Relay(quotas=RelayQuotas(allocations_max=count))
    names = [temporary_name(f"i{number}", WALL_S + 3_600) for number in range(count)]
    askers = [
        Asker(relay, source_of(number), name, password_for(SECRET, name), number * SECOND_US) for number, name in enumerate(names)
    ]
    requests = [asker.request(Method.ALLOCATE, requested_transport=17) for asker in askers]
    relay.to_clients.clear()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for number, request in enumerate(requests):
        # Of its own, as the kernel would give it.
        source = (askers[number].source[0].encode().decode(), askers[number].source[1] + 0)
        relay.core.handle_client((0, source), source, [request], number * SECOND_US, WALL_S)
        relay.drain(number * SECOND_US)
        relay.to_clients.clear()
    each = (tracemalloc.get_traced_memory()[0] - before) / count
    tracemalloc.stop()
    print(f"\nan idle allocation: {each:.0f} bytes")
    assert relay.core.allocations == count
    assert each <= 2_048


def test_a_flood_for_allocations_makes_no_more_than_there_may_be_and_others_go_on() -> None:
    """5 000 a second of right requests by many identities, beside a session that loses nothing."""
    relay = Relay(quotas=RelayQuotas(allocations_max=200))
    friend = Asker(relay, ("203.0.113.200", 9))
    friend.allocate()
    friend.ask(Method.CHANNEL_BIND, channel_number=0x4000, xor_peer_addresses=[PEER])
    relay.to_peers.clear()
    count = 50_000 if SOAK else 2_500
    evil = [Asker(relay, source_of(number), now_us=number * SECOND_US) for number in range(50)]
    begin_us = 60 * SECOND_US
    begin_s = time.process_time()
    for number in range(count):
        now_us = begin_us + number * 200
        asker = evil[number % 50]
        source = (asker.source[0], 1_024 + number % 60_000)
        relay.take(source, asker.request(Method.ALLOCATE, requested_transport=17), now_us)
        if number % 100 == 0:
            relay.take(friend.source, encode_channel_data(0x4000, number.to_bytes(4, "big")), now_us)
    each_us = (time.process_time() - begin_s) / count * 1e6
    print(f"\na request for an allocation: {each_us:.0f} us, its making included")
    assert relay.core.allocations <= 200
    assert [packet for _, packet in relay.sent] == [number.to_bytes(4, "big") for number in range(0, count, 100)]
    assert relay.core._refusals._of_identity.__len__() <= 50


def test_strangers_leave_nothing_behind_but_a_bounded_table() -> None:
    relay = Relay()
    request = encode_stun(ALLOCATE, fingerprint=False)
    for number in range(STRANGERS):
        relay.take((f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 9), request, number)
        relay.to_clients.clear()
    assert relay.core.allocations == 0
    assert relay.core.poll_timeout() is None
    assert len(relay.core._refusals._of_host) <= limits.SERVER_HOSTS_WATCHED_MAX


# R5: reflection


def flood(relay: Relay, per_s: int, requests: list[bytes], count: int = FLOOD) -> tuple[int, int]:
    """Bytes in and out of so many requests a second, each of a source of its own."""
    bytes_in = bytes_out = 0
    for number in range(count):
        request = requests[number % len(requests)]
        source = (f"{11 + (number >> 24)}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}", 9)
        bytes_in += len(request)
        bytes_out += sum(map(len, relay.take(source, request, number * SECOND_US // per_s)))
        relay.to_clients.clear()
    return bytes_in, bytes_out


SHORTEST = encode_stun(ALLOCATE, fingerprint=False)
STRANGE = [
    encode_stun(StunMessage(method, Class.REQUEST, bytes(12), requested_transport=17), fingerprint=fingerprint)
    for method in (Method.ALLOCATE, Method.REFRESH, Method.CREATE_PERMISSION, Method.CHANNEL_BIND, 0x0B)
    for fingerprint in (False, True)
]
SIGNED = [
    encode_stun(
        StunMessage(
            Method.ALLOCATE, Class.REQUEST, bytes(12), requested_transport=17, username=b"u", realm=b"peergram", nonce=b"A" * 12
        ),
        integrity_key=key,
    )
    for key in (b"wrong", long_term_key(b"u", b"peergram", b"p"))
]


@pytest.mark.parametrize("per_s", [1_000, 5_000, 50_000])
@pytest.mark.parametrize("requests", [[SHORTEST], STRANGE, SIGNED, [*STRANGE, *SIGNED]], ids=["shortest", "any", "signed", "all"])
def test_forged_sources_are_sent_no_more_bytes_than_were_sent_to_the_relay(requests: list[bytes], per_s: int) -> None:
    relay = Relay()
    bytes_in, bytes_out = flood(relay, per_s, requests, FLOOD if requests == [SHORTEST] or not SOAK else FLOOD // 10)
    print(f"\n{per_s} a second: {bytes_out / bytes_in:.3f} bytes out for each byte in")
    assert bytes_out <= bytes_in
    assert relay.core.allocations == 0


def test_a_client_of_a_quiet_relay_has_its_answer_at_once() -> None:
    relay = Relay()
    for number in range(200):
        source = (f"198.18.0.{number}", 9)
        assert len(relay.take(source, SHORTEST, number * SECOND_US // 20)) == 1, "twenty new clients a second"


def test_in_a_flood_a_client_has_its_answer_after_a_few_tries() -> None:
    relay = Relay()
    flood(relay, 5_000, [SHORTEST], 5_000)
    now_us = SECOND_US
    tries = []
    for client in range(100):
        source: Address = (f"198.19.0.{client}", 9)
        tried, answered = 0, False
        while not answered:
            for _ in range(7):
                now_us += 200
                relay.take((f"12.{now_us >> 16 & 255}.{now_us >> 8 & 255}.{now_us & 255}", 9), SHORTEST, now_us)
            answered = bool(relay.take(source, SHORTEST, now_us))
            tried += 1
        tries.append(tried)
    print(f"\ntries in a flood: {sum(tries) / 100:.1f}, at most {max(tries)}")
    assert sum(tries) / 100 <= 4


def test_who_comes_by_tcp_is_answered_in_a_flood() -> None:
    relay = Relay()
    flood(relay, 5_000, [SHORTEST], 5_000)
    assert len(relay.take(("198.19.0.1", 9), SHORTEST, SECOND_US, is_stream=True)) == 1


def test_who_comes_by_tcp_is_answered_whatever_is_sent_in_the_name_of_his_host_or_of_all() -> None:
    relay = Relay()
    for number in range(2 * limits.TURN_ERRORS_PER_S):
        relay.take((f"10.{number >> 8 & 255}.{number & 255}.1", 9), SIGNED[0], 0)
        relay.take(("198.19.0.1", number % 60_000), SIGNED[0], 0)
    assert len(relay.take(("198.19.0.1", 9), SHORTEST, 0, is_stream=True)) == 1


def test_errors_to_one_host_are_limited() -> None:
    relay = Relay()
    answered = [len(relay.take(("192.0.2.1", 1_024 + port), SIGNED[0], port)) for port in range(100)]
    assert sum(answered) == limits.TURN_ERRORS_PER_HOST_PER_S


def test_errors_to_all_strangers_are_limited() -> None:
    relay = Relay()
    answered = [len(relay.take((f"10.{number >> 8}.{number & 255}.1", 9), SIGNED[0], 0)) for number in range(11_000)]
    assert sum(answered) == limits.TURN_ERRORS_PER_S


def test_strangers_do_not_use_up_what_is_told_to_clients() -> None:
    relay = Relay()
    asker = Asker(relay, ("192.0.2.1", 9))
    asker.allocate()
    for number in range(11_000):
        relay.take((f"10.{number >> 8}.{number & 255}.1", 9), SIGNED[0], 0)
        relay.take(("192.0.2.1", number % 60_000), SIGNED[0], 0)
    refused = [asker.request(Method.CREATE_PERMISSION, xor_peer_addresses=[("10.0.0.1", 0)]) for _ in range(100)]
    answers = [answer for request in refused for answer in relay.take(asker.source, request)]
    assert len(answers) == limits.TURN_ERRORS_PER_IDENTITY_PER_S
    assert all(decode_stun(answer).error_code == 403 for answer in answers)


def test_a_credit_of_strangers_has_an_end() -> None:
    relay = Relay()
    long = encode_stun(StunMessage(Method.REFRESH, Class.REQUEST, bytes(12), software=bytes(500)), fingerprint=False)
    for number in range(2_000):
        relay.take((f"10.{number >> 8}.{number & 255}.1", 9), long, 0)
    spent = sum(
        len(answer) for number in range(5_000) for answer in relay.take((f"11.{number >> 8}.{number & 255}.1", 9), SHORTEST)
    )
    most = limits.TURN_ERRORS_BROUGHT_BYTES_MAX + limits.TURN_ERRORS_ALLOWANCE_BYTES
    assert spent <= most + 5_000 * len(SHORTEST)


# R8: what answers say


def test_answers_hold_known_fields_only_and_nothing_of_the_request_but_its_number() -> None:
    relay = Relay()
    rng = random.Random(8)
    asker = Asker(relay, source_of())
    asker.allocate()
    marker = b"MARKER-of-the-request"
    told: dict[tuple[int, int, int | None], int] = {}
    for number in range(COMPARED):
        method = rng.choice(
            [Method.ALLOCATE, Method.REFRESH, Method.CREATE_PERMISSION, Method.CHANNEL_BIND, Method.BINDING, 0x0B]
        )
        attributes = {"software": marker, "data": marker, "error_reason": marker, "requested_transport": 17}
        asker.now_us = number * SECOND_US // 20
        if rng.random() < 0.5:
            request = asker.request(method, **attributes)
        else:
            message = StunMessage(method, Class.REQUEST, rng.randbytes(12), **attributes)  # type: ignore[arg-type]
            message.username = rng.choice([None, marker])
            request = encode_stun(message)
        for answer in relay.take(asker.source, request, asker.now_us):
            said = decode_stun(answer)
            assert said.transaction_id == request[8:20]
            assert b"MARKER" not in answer
            assert (said.software, said.error_reason, said.data, said.username) == (None, b"", None, None)
            assert said.unknown_required == []
            key = (said.method, said.message_class, said.error_code)
            told[key] = told.get(key, 0) + 1
            if key in relay_lengths:
                assert len(answer) in relay_lengths[key]
            relay_lengths.setdefault(key, {len(answer), len(answer) + 8, len(answer) - 8})
        relay.to_clients.clear()
    assert len(told) >= 4


relay_lengths: dict[tuple[int, int, int | None], set[int]] = {}


# R9: loops


def test_a_relay_is_no_client_of_another_one() -> None:
    """Two relays whose clients are each other's relayed addresses could send one datagram round and round; the request that would
    make such a client is not forwarded, not as data, not by channel, and not between two allocations."""
    relay = Relay()
    asker = Asker(relay, source_of())
    asker.allocate()
    asker.ask(Method.CREATE_PERMISSION, xor_peer_addresses=[PEER])
    asker.ask(Method.CHANNEL_BIND, channel_number=0x4000, xor_peer_addresses=[PEER])
    for request in (*STRANGE[:2], *SIGNED):
        relay.take(asker.source, encode_channel_data(0x4000, request))
        send = StunMessage(Method.SEND, Class.INDICATION, bytes(12), xor_peer_addresses=[PEER], data=request)
        relay.take(asker.source, encode_stun(send))
    assert relay.sent == []
    assert relay.core.counters["relays_of_relays"] == 8
    relay.core.handle_client(
        asker.source, asker.source, [encode_channel_data(0x4000, STRANGE[0]), encode_channel_data(0x4000, b"data")], 0, WALL_S
    )
    relay.drain()
    assert relay.sent == [(PEER, b"data")]
    check = encode_stun(StunMessage(Method.BINDING, Class.REQUEST, bytes(12)))
    relay.take(asker.source, encode_channel_data(0x4000, check))
    assert relay.sent[-1] == (PEER, check), "checks of peers pass"


def test_its_own_ports_are_no_peers() -> None:
    relay = Relay()
    asker = Asker(relay, source_of())
    asker.allocate()
    for host in (RELAY, f"64:ff9b::{RELAY}"):
        for port in (3_478, 5_349, 22):
            send = StunMessage(Method.SEND, Class.INDICATION, bytes(12), xor_peer_addresses=[(host, port)], data=b"x")
            asker.ask(Method.CREATE_PERMISSION, xor_peer_addresses=[(host, port)])
            relay.take(asker.source, encode_stun(send))
    assert relay.sent == []
