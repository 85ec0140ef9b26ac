"""One allocation against servers that behave, forget, restart and lie."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from peergram.address import Address
from peergram.config import (
    STUN_ATTEMPTS_MAX,
    STUN_STREAM_ANSWER_US,
    TURN_ALLOCATE_ROUNDS_MAX,
    TURN_AUTH_ROUNDS_MAX,
    TURN_CHANNELS_MAX,
    TURN_PEERS_MAX,
    TURN_PERMISSION_ADDRESSES_MAX,
)
from peergram.routes.turn_client import Credentials, RelayLost, RelayReady, TurnClient, TurnState
from peergram.wire.stun import Class, Method, StunMessage, decode_stun, encode_stun, looks_like_stun
from tests.routes.servers import KEY, PASSWORD, REALM, USERNAME, Replies, TurnServer, answer, counting_entropy, refusal

SECOND = 1_000_000
SERVER: Address = ("198.51.100.7", 3478)
CLIENT: Address = ("203.0.113.9", 40_000)
PEER: Address = ("192.0.2.77", 7_000)
CHECK, DATA = b"\x00\x01check", b"\xc0data"

Handler = Callable[[Address, bytes, int], Replies]


@dataclass
class Bench:
    """A client, a server behind it, and time."""

    handle: Handler
    credentials: Credentials | None = field(default_factory=lambda: Credentials(USERNAME, PASSWORD))
    is_stream: bool = False

    def __post_init__(self) -> None:
        self.now_us = SECOND
        self.events: list[object] = []
        self.sent: list[tuple[int, bytes]] = []
        self._later: list[tuple[int, int, bytes]] = []
        self.turn = TurnClient(
            server=SERVER,
            credentials=self.credentials,
            entropy=counting_entropy(),
            now_us=self.now_us,
            is_stream=self.is_stream,
        )

    def run(self, seconds: float) -> None:
        end_us = self.now_us + round(seconds * SECOND)
        self._drain()
        while True:
            deadline = self.turn.poll_timeout()
            next_us = min(self._later[0][0] if self._later else end_us, deadline.at_us if deadline else end_us)
            if next_us > end_us or (next_us == end_us and not self._later and not (deadline and deadline.at_us <= end_us)):
                break
            self.now_us = max(self.now_us, next_us)
            while self._later and self._later[0][0] <= self.now_us:
                self.receive(heapq.heappop(self._later)[2])
            if deadline and deadline.at_us <= self.now_us:
                self.turn.handle_timeout(self.now_us)
                self._drain()
                after = self.turn.poll_timeout()
                assert after is None or after.at_us > self.now_us, f"it would spin: {after}"
            self._drain()
        self.now_us = end_us

    def receive(self, datagram: bytes) -> None:
        if looks_like_stun(datagram):
            self.turn.handle_response(decode_stun(datagram), datagram, self.now_us)
        self._drain()

    def send(self, remote: Address, *packets: bytes) -> bool:
        wrapped = self.turn.wrap(remote, list(packets), self.now_us)
        for datagram in wrapped or []:
            self._send(datagram)
        self._drain()
        return wrapped is not None

    def sent_requests(self, method: int) -> list[StunMessage]:
        found = [decode_stun(datagram) for _, datagram in self.sent if looks_like_stun(datagram)]
        return [message for message in found if message.method == method and message.message_class == Class.REQUEST]

    def _drain(self) -> None:
        while (datagram := self.turn.poll_transmit(self.now_us)) is not None:
            self._send(datagram)
        while (event := self.turn.poll_event()) is not None:
            self.events.append(event)

    def _send(self, datagram: bytes) -> None:
        self.sent.append((self.now_us, datagram))
        for delay_s, reply in self.handle(CLIENT, datagram, self.now_us):
            heapq.heappush(self._later, (self.now_us + round(delay_s * SECOND), len(self.sent), reply))


def ready(server: TurnServer, *, is_stream: bool = False) -> Bench:
    bench = Bench(server.handle, is_stream=is_stream)
    bench.run(0.5)
    assert bench.turn.state == TurnState.READY
    return bench


def test_an_allocation_takes_two_round_trips() -> None:
    server = TurnServer()
    bench = Bench(server.handle)
    bench.run(0.05)
    assert bench.events == [RelayReady((("198.51.100.7", 50_000),))]
    first, second = server.requests(Method.ALLOCATE)
    assert first.username is None
    assert (second.username, second.realm, second.requested_transport) == (USERNAME, REALM, 17)


def test_both_families_come_from_one_allocation() -> None:
    bench = ready(TurnServer(families=(4, 6)))
    assert [":" in host for host, _ in bench.turn.addresses] == [False, True]


def test_a_server_with_ipv6_only_gives_what_it_has() -> None:
    bench = ready(TurnServer(families=(6,)))
    assert [":" in host for host, _ in bench.turn.addresses] == [True]


def test_a_server_that_knows_no_second_family_is_asked_without() -> None:
    server = TurnServer()

    def old(source: Address, data: bytes, now_us: int) -> Replies:
        message = decode_stun(data)
        if message.additional_address_family is not None and message.username is not None:
            return [(0.01, encode_stun(refusal(message, 400), integrity_key=KEY))]
        return server.handle(source, data, now_us)

    bench = Bench(old)
    bench.run(0.5)
    assert bench.turn.state == TurnState.READY


def test_a_server_without_accounts_is_used_without() -> None:
    def handle(source: Address, data: bytes, now_us: int) -> Replies:
        return [(0.01, encode_stun(answer(decode_stun(data), xor_relayed_address=("192.0.2.1", 5), lifetime_s=600)))]

    bench = Bench(handle, credentials=None)
    bench.run(0.1)
    assert bench.turn.state == TurnState.READY


def test_the_first_datagrams_arrive_without_waiting_for_the_permission() -> None:
    server = TurnServer()
    bench = ready(server)
    assert bench.send(PEER, CHECK)
    assert [(peer, data) for _, peer, data in server.sent] == [(PEER, CHECK)]


def test_checks_get_no_channel_and_data_gets_one() -> None:
    server = TurnServer()
    bench = ready(server)
    bench.send(PEER, CHECK)
    bench.run(0.1)
    assert server.requests(Method.CHANNEL_BIND) == []
    bench.send(PEER, DATA)
    bench.run(0.1)
    bench.send(PEER, DATA, CHECK)
    assert server.sent_by_channel == 2
    assert [data for _, _, data in server.sent] == [CHECK, DATA, DATA, CHECK]
    assert len(server.requests(Method.CHANNEL_BIND)) == 1


def test_a_channel_costs_four_bytes_and_is_padded_on_streams_only() -> None:
    for is_stream, size in ((False, 4 + 5), (True, 4 + 8)):
        bench = ready(TurnServer(), is_stream=is_stream)
        bench.send(PEER, DATA)
        bench.run(0.1)
        bench.send(PEER, DATA)
        assert len(bench.sent[-1][1]) == size


def test_what_peers_send_is_unwrapped_either_way() -> None:
    server = TurnServer()
    bench = ready(server)
    bench.send(PEER, CHECK)
    inside = server.to_client(CLIENT, PEER, b"answer", bench.now_us)
    assert inside is not None
    assert bench.turn.unwrap(inside) == (PEER, b"answer")
    bench.send(PEER, DATA)
    bench.run(0.1)
    inside = server.to_client(CLIENT, PEER, b"more", bench.now_us)
    assert inside is not None
    assert inside[0] == 0x40
    assert bench.turn.unwrap(inside) == (PEER, b"more")


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        b"\x40\x00\x00\x01x",
        b"\x4f\xff\x00\x01x",
        encode_stun(StunMessage(Method.DATA, Class.INDICATION, bytes(12), xor_peer_addresses=[("192.0.2.99", 1)], data=b"x")),
        encode_stun(StunMessage(Method.DATA, Class.INDICATION, bytes(12), data=b"x")),
        encode_stun(StunMessage(Method.DATA, Class.INDICATION, bytes(12), xor_peer_addresses=[PEER])),
        encode_stun(StunMessage(Method.DATA, Class.REQUEST, bytes(12), xor_peer_addresses=[PEER], data=b"x")),
        encode_stun(StunMessage(Method.SEND, Class.INDICATION, bytes(12), xor_peer_addresses=[PEER], data=b"x"))[:-1] + b"?",
    ],
)
def test_nothing_comes_from_channels_and_peers_we_never_named(datagram: bytes) -> None:
    bench = ready(TurnServer())
    bench.send(PEER, CHECK)
    assert bench.turn.unwrap(datagram) is None


def test_permissions_channels_and_allocation_live_for_hours() -> None:
    server = TurnServer()
    bench = ready(server)
    bench.send(PEER, DATA)
    for _ in range(3 * 60):
        bench.run(60)
        server.sent.clear()
        bench.send(PEER, DATA)
        assert len(server.sent) == 1
    assert bench.events == [RelayReady((("198.51.100.7", 50_000),))]
    assert server.sent_by_channel == 3 * 60


def test_channels_are_renewed_before_ten_minutes() -> None:
    server = TurnServer()
    bench = ready(server)
    bench.send(PEER, DATA)
    for _ in range(60):
        bench.run(60)
        bench.send(PEER, DATA)
    times = [at_us for at_us, datagram in bench.sent if looks_like_stun(datagram) and decode_stun(datagram).method == 9]
    gaps = [after - before for before, after in pairwise(times)]
    assert gaps
    assert max(gaps) < 480 * SECOND
    assert min(gaps) > 100 * SECOND


def test_permissions_nobody_uses_run_out() -> None:
    server = TurnServer()
    bench = ready(server)
    bench.send(PEER, CHECK)
    bench.run(1_800)
    count = len(server.requests(Method.CREATE_PERMISSION))
    assert 1 < count <= 4
    bench.run(1_800)
    assert len(server.requests(Method.CREATE_PERMISSION)) == count


def test_a_stale_nonce_costs_one_more_round_trip() -> None:
    server = TurnServer()
    bench = ready(server)
    server.new_nonce()
    bench.send(PEER, CHECK)
    assert server.sent == []
    bench.run(0.1)
    bench.send(PEER, CHECK)
    assert len(server.sent) == 1
    server.new_nonce()
    bench.run(400)
    assert bench.turn.state == TurnState.READY
    assert len(bench.events) == 1


def test_the_allocation_is_refreshed_at_half_its_lifetime() -> None:
    bench = ready(TurnServer(lifetime_s=100))
    bench.run(120)
    assert len(bench.sent_requests(Method.REFRESH)) == 2


def test_a_server_that_is_away_for_a_while_finds_the_allocation_again() -> None:
    server = TurnServer(lifetime_s=100)
    bench = ready(server)
    server.is_silent = True
    bench.run(80)
    server.is_silent = False
    bench.run(100)
    assert bench.turn.state == TurnState.READY
    assert len(bench.events) == 1


def test_a_server_that_is_gone_for_longer_ends_the_allocation() -> None:
    server = TurnServer(lifetime_s=100)
    bench = ready(server)
    server.is_silent = True
    bench.run(101)
    assert isinstance(bench.events[-1], RelayLost)
    assert bench.turn.poll_timeout() is None


def test_a_server_that_forgot_ends_the_allocation_when_it_is_asked() -> None:
    server = TurnServer()
    bench = ready(server)
    server.allocations.clear()
    bench.send(PEER, CHECK)
    bench.run(0.1)
    assert isinstance(bench.events[-1], RelayLost)
    assert not bench.send(PEER, CHECK)


def test_a_doubted_server_has_to_answer_soon() -> None:
    server = TurnServer()
    bench = ready(server)
    bench.turn.check(bench.now_us)
    bench.run(20)
    assert bench.turn.state == TurnState.READY
    server.is_silent = True
    bench.turn.check(bench.now_us)
    bench.run(13)
    assert isinstance(bench.events[-1], RelayLost)


def test_an_allocation_of_an_earlier_run_is_replaced() -> None:
    server = TurnServer()
    ready(server)
    bench = ready(server)
    assert bench.turn.addresses == (("198.51.100.7", 50_001),)
    assert server.released == 1


def test_a_release_is_told_to_the_server() -> None:
    server = TurnServer()
    bench = ready(server)
    server.new_nonce()
    bench.turn.release(bench.now_us)
    assert not bench.send(PEER, DATA)
    bench.run(1)
    assert server.released == 1
    assert bench.turn.state == TurnState.GONE
    assert len(bench.events) == 1


def test_a_release_that_nobody_hears_ends_too() -> None:
    server = TurnServer()
    bench = ready(server)
    server.is_silent = True
    bench.turn.release(bench.now_us)
    bench.run(2)
    assert bench.turn.state == TurnState.GONE
    assert bench.turn.poll_timeout() is None


def test_one_forbidden_address_does_not_spoil_the_others() -> None:
    server = TurnServer()
    server.forbidden = {"192.0.2.50"}
    bench = ready(server)
    bench.turn.permit(["192.0.2.50", "192.0.2.51", "192.0.2.52"], bench.now_us)
    bench.run(0.2)
    assert set(server.allocations[CLIENT].permissions) == {"192.0.2.51", "192.0.2.52"}
    assert not bench.send(("192.0.2.50", 5), CHECK)
    assert bench.send(("192.0.2.51", 5), CHECK)
    bench.run(200)
    asked = [host for message in server.requests(Method.CREATE_PERMISSION)[4:] for host, _ in message.xor_peer_addresses]
    assert "192.0.2.50" not in asked


def test_a_permission_request_names_ten_addresses_at_most() -> None:
    server = TurnServer()
    bench = ready(server)
    bench.turn.permit([f"192.0.2.{number}" for number in range(1, 26)], bench.now_us)
    bench.run(0.2)
    sizes = [len(message.xor_peer_addresses) for message in server.requests(Method.CREATE_PERMISSION)]
    assert sizes == [10, 10, 5]
    assert max(sizes) == TURN_PERMISSION_ADDRESSES_MAX


def test_private_addresses_of_peers_are_not_told_to_a_public_server() -> None:
    server = TurnServer()
    bench = ready(server)
    for host in ("192.168.1.5", "10.0.0.1", "127.0.0.1", "fd00::1", "2001:db8::1"):
        assert not bench.send((host, 5), CHECK)
    bench.turn.permit(["192.168.1.5"], bench.now_us)
    bench.run(1)
    assert server.requests(Method.CREATE_PERMISSION) == []


def test_a_server_without_channels_relays_in_indications() -> None:
    server = TurnServer()

    def handle(source: Address, data: bytes, now_us: int) -> Replies:
        if looks_like_stun(data) and (message := decode_stun(data)).method == Method.CHANNEL_BIND:
            server.seen.append(message)
            return [(0.01, encode_stun(refusal(message, 403), integrity_key=KEY))]
        return server.handle(source, data, now_us)

    bench = Bench(handle)
    bench.run(0.5)
    for _ in range(20):
        bench.send(PEER, DATA)
        bench.run(0.1)
    assert len(server.sent) == 20
    assert len(server.requests(Method.CHANNEL_BIND)) == 1


def test_tables_of_peers_and_channels_have_ends() -> None:
    server = TurnServer()
    bench = ready(server)
    for number in range(TURN_PEERS_MAX + 50):
        host = f"192.0.{2 + number // 250}.{1 + number % 250}"
        assert bench.send((host, 9), DATA)
        bench.run(0.05)
    assert len(server.requests(Method.CHANNEL_BIND)) == TURN_CHANNELS_MAX + 50, "50 had to give way, and their channels with them"
    before = len(server.sent)
    bench.send(("192.0.2.1", 9), DATA)
    assert len(server.sent) == before + 1


def test_the_way_to_the_server_is_kept_open() -> None:
    bench = ready(TurnServer())
    sent = len(bench.sent)
    bench.run(100)
    times = [at_us for at_us, datagram in bench.sent[sent:]]
    assert len(times) == 6
    assert all(decode_stun(datagram).message_class == Class.INDICATION for _, datagram in bench.sent[sent:])


# Servers that lie.


def endless(code: int, *, realm: Callable[[int], bytes] = lambda count: REALM) -> Handler:
    count = 0

    def handle(source: Address, data: bytes, now_us: int) -> Replies:
        nonlocal count
        count += 1
        message = decode_stun(data)
        error = code if message.username is not None else 401
        return [(0.01, encode_stun(refusal(message, error, realm=realm(count), nonce=b"nonce%d" % count)))]

    return handle


@pytest.mark.parametrize("code", [401, 438])
def test_endless_challenges_end_after_three_rounds(code: int) -> None:
    bench = Bench(endless(code))
    bench.run(1)
    assert len(bench.sent) == 1 + TURN_AUTH_ROUNDS_MAX
    assert isinstance(bench.events[-1], RelayLost)
    assert bench.turn.poll_timeout() is None


def test_another_realm_gets_no_password() -> None:
    bench = Bench(endless(401, realm=lambda count: b"realm%d" % count))
    bench.run(1)
    assert len(bench.sent) == 2


def test_the_same_nonce_again_means_wrong_credentials() -> None:
    server = TurnServer()
    bench = Bench(server.handle, credentials=Credentials(USERNAME, b"wrong"))
    bench.run(1)
    assert len(bench.sent) == 2
    assert isinstance(bench.events[-1], RelayLost)
    assert "401" in bench.events[-1].text


def test_a_challenge_without_nonce_or_realm_ends_it() -> None:
    for realm, nonce in ((REALM, None), (None, b"nonce")):

        def handle(source: Address, data: bytes, now_us: int, realm: object = realm, nonce: object = nonce) -> Replies:
            return [(0.01, encode_stun(refusal(decode_stun(data), 401, realm=realm, nonce=nonce)))]

        bench = Bench(handle)
        bench.run(1)
        assert isinstance(bench.events[-1], RelayLost)


def test_unsigned_answers_are_dropped_once_credentials_are_known() -> None:
    server = TurnServer()
    server.signs = False
    bench = Bench(server.handle)
    bench.run(10)
    assert isinstance(bench.events[-1], RelayLost)
    assert len(bench.sent_requests(Method.ALLOCATE)) == 1 + STUN_ATTEMPTS_MAX


def test_forged_answers_change_nothing() -> None:
    """Right transaction without the password; other transactions with whatever signature (I1)."""
    server = TurnServer()
    bench = ready(server)
    server.is_silent = True
    bench.turn.check(bench.now_us)
    bench.run(0)
    request = bench.sent_requests(Method.REFRESH)[-1]
    rng = random.Random(1)
    forged = [
        encode_stun(answer(request, lifetime_s=0), fingerprint=False),
        encode_stun(answer(request, lifetime_s=0), integrity_key=b"guess", fingerprint=False),
        encode_stun(refusal(request, 437), fingerprint=False),
        encode_stun(refusal(request, 403), integrity_key=b"guess", fingerprint=False),
    ]
    for _ in range(5_000):
        for datagram in forged:
            bench.receive(datagram)
            bench.receive(datagram[:8] + rng.randbytes(12) + datagram[20:])
    assert bench.turn.state == TurnState.READY
    assert len(bench.events) == 1
    server.is_silent = False
    bench.run(5)
    assert bench.turn.state == TurnState.READY


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"xor_relayed_address": ("192.0.2.1", 5)},
        {"xor_relayed_address": ("192.0.2.1", 5), "lifetime_s": 0},
        {"xor_relayed_address": ("192.0.2.1", 0), "lifetime_s": 600},
        {"xor_relayed_address": ("224.0.0.1", 9), "lifetime_s": 600},
        {"xor_relayed_address": ("127.0.0.1", 9), "lifetime_s": 600},
        {"xor_relayed_address": ("192.0.2.1", 5), "xor_relayed_address_2": ("192.0.2.1", 6), "lifetime_s": 600},
    ],
)
def test_an_answer_that_makes_no_sense_ends_it(fields: dict[str, object]) -> None:
    bench = Bench(lambda source, data, now_us: [(0.01, encode_stun(answer(decode_stun(data), **fields)))], credentials=None)
    bench.run(1)
    assert isinstance(bench.events[-1], RelayLost)


def test_a_tiny_lifetime_makes_no_flood() -> None:
    bench = ready(TurnServer(lifetime_s=2))
    bench.run(60)
    assert len(bench.sent_requests(Method.REFRESH)) <= 61


def test_a_huge_lifetime_is_not_believed() -> None:
    bench = ready(TurnServer(lifetime_s=0xFFFFFFFF))
    bench.run(1_801)
    assert len(bench.sent_requests(Method.REFRESH)) == 1


def test_other_forms_of_the_request_are_tried_a_few_times() -> None:
    bench = Bench(lambda source, data, now_us: [(0.01, encode_stun(refusal(decode_stun(data), 437)))], credentials=None)
    bench.run(10)
    assert len(bench.sent_requests(Method.ALLOCATE)) <= 1 + TURN_ALLOCATE_ROUNDS_MAX
    assert isinstance(bench.events[-1], RelayLost)


def test_over_a_stream_nothing_is_repeated_and_silence_is_the_end() -> None:
    server = TurnServer()
    server.is_silent = True
    bench = Bench(server.handle, is_stream=True)
    bench.run(STUN_STREAM_ANSWER_US / SECOND - 0.1)
    assert len(bench.sent) == 1
    assert bench.events == []
    bench.run(0.2)
    assert isinstance(bench.events[-1], RelayLost)
