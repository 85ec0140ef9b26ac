"""The relay's core against our own client, and what it refuses (R2 to R5)."""

from __future__ import annotations

import random
from itertools import count

from peergram import config as limits
from peergram.address import Address
from peergram.routes.turn_client import Credentials, RelayReady, TurnClient
from peergram.servers.relay_access import RelayAccess, password_for, temporary_name
from peergram.servers.relay_peers import PeerPolicy
from peergram.servers.turn_core import LIFETIME_S, SECOND_US, CloseRelay, OpenRelay, ToClient, ToPeer, TurnCore
from peergram.wire.stun import Class, Method, StunMessage, decode_stun, encode_stun, looks_like_stun

_WALL_S = 1_800_000_000
_RELAY = "198.51.100.7"
_PEER = ("203.0.113.9", 4_000)
_SECRET = b"secret"


class _Relay:
    """A core whose owner opens every relayed address at once."""

    def __init__(self) -> None:
        self.entropy = random.Random(1).randbytes
        self.core = TurnCore(
            access=RelayAccess(user=b"u", password=b"p", secret=_SECRET),
            policy=PeerPolicy([_RELAY]),
            families=frozenset({1}),
            entropy=self.entropy,
        )
        self.to_peers: list[ToPeer] = []
        self.closed = 0
        self._ports = count(50_000)

    def take(self, source: Address, data: bytes, now_us: int = 0) -> list[bytes]:
        self.core.handle_client(source, source, data, now_us, _WALL_S)
        return self.drain(now_us)

    def drain(self, now_us: int = 0) -> list[bytes]:
        answers = []
        while (output := self.core.poll_output()) is not None:
            if isinstance(output, OpenRelay):
                self.core.handle_relay_opened(output.relay_id, (_RELAY, next(self._ports)), now_us)
            elif isinstance(output, ToClient):
                answers.append(output.data)
            elif isinstance(output, ToPeer):
                self.to_peers.append(output)
            else:
                assert isinstance(output, CloseRelay)
                self.closed += 1
        return answers

    def client(self, source: Address, username: bytes = b"u", password: bytes = b"p") -> TurnClient:
        credentials = Credentials(username, password)
        client = TurnClient(server=(_RELAY, 3_478), credentials=credentials, entropy=self.entropy, now_us=0)
        self.run(client, source)
        return client

    def run(self, client: TurnClient, source: Address, now_us: int = 0) -> None:
        while (datagram := client.poll_transmit(now_us)) is not None:
            self.give(client, source, [datagram], now_us)

    def give(self, client: TurnClient, source: Address, packets: list[bytes], now_us: int = 0) -> None:
        for answer in (answer for packet in packets for answer in self.take(source, packet, now_us)):
            if looks_like_stun(answer):
                client.handle_response(decode_stun(answer), answer, now_us)


def _source(number: int = 1) -> Address:
    return f"192.0.2.{number % 250 + 1}", 1_024 + number


def test_our_client_gets_an_address_and_talks_both_ways_through_a_channel() -> None:
    relay = _Relay()
    client = relay.client(_source())
    assert client.poll_event() == RelayReady(((_RELAY, 50_000),))
    for text in (b"\x80first", b"\x80second"):
        relay.give(client, _source(), client.wrap(_PEER, [text], 0) or [])
    assert [(each.peer, each.data) for each in relay.to_peers] == [(_PEER, b"\x80first"), (_PEER, b"\x80second")]
    relay.core.handle_peer(relay.to_peers[0].relay_id, _PEER, b"\x80back", 0)
    (answer,) = relay.drain()
    assert not looks_like_stun(answer)
    assert client.unwrap(answer) == (_PEER, b"\x80back")


def test_a_peer_without_permission_reaches_nobody() -> None:
    relay = _Relay()
    client = relay.client(_source())
    client.permit([_PEER[0]], 0)
    relay.run(client, _source())
    relay.core.handle_peer(1, ("203.0.113.10", 4_000), b"no", 0)
    assert relay.drain() == []
    relay.core.handle_peer(1, (_PEER[0], 9), b"any port of a permitted host", 300 * SECOND_US - 1)
    assert len(relay.drain()) == 1
    relay.core.handle_peer(1, _PEER, b"too late", 300 * SECOND_US)
    assert relay.drain() == []


def test_nothing_is_sent_inside_and_to_the_relay_itself_only_at_a_live_allocation() -> None:
    relay = _Relay()
    first, second = relay.client(_source(1)), relay.client(_source(2))
    assert second.addresses == ((_RELAY, 50_001),)
    for peer in (("10.0.0.1", 80), ("127.0.0.1", 80), (_RELAY, 22)):
        relay.give(first, _source(1), first.wrap(peer, [b"\x80"], 0) or [])
    assert relay.to_peers == []
    relay.give(first, _source(1), first.wrap((_RELAY, 50_001), [b"\x80"], 0) or [])
    assert [each.peer for each in relay.to_peers] == [(_RELAY, 50_001)]


def test_an_allocation_ends_after_its_lifetime_unless_refreshed() -> None:
    relay = _Relay()
    relay.client(_source())
    relay.core.handle_timeout(LIFETIME_S * SECOND_US - 1)
    assert relay.core.allocations == 1
    relay.core.handle_timeout((LIFETIME_S + 1) * SECOND_US)
    relay.drain()
    assert (relay.core.allocations, relay.closed) == (0, 1)
    assert relay.core.poll_timeout() is None


def test_a_released_allocation_is_gone_at_once() -> None:
    relay = _Relay()
    client = relay.client(_source())
    client.release(0)
    relay.run(client, _source())
    assert (relay.core.allocations, relay.closed) == (0, 1)


def test_a_name_that_ends_opens_the_relay_and_a_wrong_password_does_not() -> None:
    relay = _Relay()
    name = temporary_name("ada", _WALL_S + 60)
    assert relay.client(_source(1), name, password_for(_SECRET, name)).addresses
    assert not relay.client(_source(2), name, password_for(b"another relay's", name)).addresses
    late = temporary_name("ada", _WALL_S)
    assert not relay.client(_source(3), late, password_for(_SECRET, late)).addresses


def test_a_stale_nonce_is_said_and_the_client_goes_on() -> None:
    relay = _Relay()
    client = relay.client(_source())
    later_us = 3 * limits.TURN_NONCE_US
    client.check(later_us)
    relay.core.handle_client(_source(), _source(), client.poll_transmit(later_us) or b"", later_us, _WALL_S)
    (answer,) = relay.drain()
    assert decode_stun(answer).error_code == 438


def test_one_identity_has_so_many_allocations_and_no_more() -> None:
    relay = _Relay()
    for number in range(limits.TURN_ALLOCATIONS_PER_IDENTITY_MAX):
        assert relay.client(_source(number)).addresses
    assert not relay.client(_source(200)).addresses
    assert relay.core.counters["refused_486"] == 1


def test_the_relay_has_so_many_allocations_and_no_more() -> None:
    relay = _Relay()
    for number in range(limits.TURN_ALLOCATIONS_MAX + 1):
        name = temporary_name(f"i{number}", _WALL_S + 60)
        client = relay.client(_source(number), name, password_for(_SECRET, name))
    assert relay.core.allocations == limits.TURN_ALLOCATIONS_MAX
    assert not client.addresses


def test_an_allocation_has_so_many_peers_and_no_more() -> None:
    relay = _Relay()
    client = relay.client(_source())
    for number in range(limits.TURN_SERVER_PEERS_MAX + 1):
        client.permit([f"203.0.{number // 250}.{number % 250 + 1}"], 0)
        relay.run(client, _source())
    assert relay.core.counters["refused_508"] == 1


def test_an_identity_forwards_so_many_bytes_a_second() -> None:
    relay = _Relay()
    client = relay.client(_source())
    for _ in range(limits.TURN_BYTES_PER_IDENTITY_PER_S // 60_000 + 5):
        relay.give(client, _source(), client.wrap(_PEER, [b"\x80" + bytes(59_999)], 0) or [])
    sent = sum(len(each.data) for each in relay.to_peers)
    assert limits.TURN_BYTES_PER_IDENTITY_PER_S - 60_000 < sent <= limits.TURN_BYTES_PER_IDENTITY_PER_S
    relay.give(client, _source(), client.wrap(_PEER, [bytes((0x80,)) * 60_000], SECOND_US) or [], SECOND_US)
    assert sum(len(each.data) for each in relay.to_peers) == sent + 60_000


def test_refusals_to_one_host_and_in_all_are_limited_and_leave_nothing() -> None:
    relay = _Relay()
    request = encode_stun(StunMessage(Method.ALLOCATE, Class.REQUEST, bytes(12), requested_transport=17), fingerprint=False)
    assert sum(len(relay.take(("192.0.2.1", 1_024 + port), request)) for port in range(100)) == limits.TURN_ERRORS_PER_HOST_PER_S
    flood = [relay.take((f"10.{number >> 8}.{number & 255}.1", 9), request) for number in range(20_000)]
    assert sum(map(len, flood)) == limits.TURN_ERRORS_PER_S - limits.TURN_ERRORS_PER_HOST_PER_S
    assert sum(len(each[0]) for each in flood if each) <= len(flood) * len(request)
    assert relay.core.allocations == 0


def test_random_and_damaged_messages_never_raise() -> None:
    relay = _Relay()
    rng = random.Random(2)
    request = encode_stun(StunMessage(Method.ALLOCATE, Class.REQUEST, bytes(12), requested_transport=17))
    for number in range(5_000):
        damaged = bytearray(request)
        damaged[rng.randrange(len(damaged))] ^= rng.randrange(1, 256)
        relay.take(_source(number), bytes(damaged))
        relay.take(_source(number), rng.randbytes(rng.randrange(60)))
    assert relay.core.allocations == 0
