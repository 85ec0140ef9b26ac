"""What is announced, when, and that no server can spoil it for the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import pytest

from peergram.address import Address
from peergram.config import (
    GATHERING_US_MAX,
    HOST_SOCKETS_MAX,
    ICE_SERVER_ADDRESSES_MAX,
    NAME_RESOLUTION_US,
    RELAY_ATTEMPTS_MAX,
    RELAY_ATTEMPTS_PER_SERVER_MAX,
    RELAYS_PER_FAMILY_MAX,
    SERVER_RETRY_MAX_US,
    STREAM_OPEN_US,
)
from peergram.io_requests import InterfaceAddress
from peergram.routes.candidates import CandidateKind
from peergram.routes.gather import CandidateAdded, CandidatePolicy, CandidateRemoved
from peergram.wire.stun import Class, StunMessage, decode_stun, encode_stun, looks_like_stun
from tests.routes.gather_lab import SECOND, Lab, interface
from tests.routes.servers import KEY, REALM, Replies, StunServer, TurnServer, answer, refusal
from tests.routes.test_port_mapping import ROUTER as HOME_ROUTER
from tests.routes.test_port_mapping import Router

STUN: Address = ("192.0.2.1", 3478)
STUN_2: Address = ("192.0.2.2", 3478)
TURN: Address = ("198.51.100.7", 3478)
TURN_2: Address = ("198.51.100.8", 3478)
MAPPED: Address = ("203.0.113.5", 1234)
PEER: Address = ("203.0.113.99", 7_000)
STUN_URL, STUN_2_URL = "stun:192.0.2.1", "stun:192.0.2.2"
TURN_URL = "turn:ann:secret@198.51.100.7"
TURN_2_URL = "turn:ann:secret@198.51.100.8"
TCP_URL = "turn:ann:secret@198.51.100.7?transport=tcp"
DATA = b"\xc0data"


def nat(source: Address) -> Address:
    return ("203.0.113.5", source[1])


def test_nothing_is_opened_before_somebody_needs_it() -> None:
    lab = Lab(urls=[STUN_URL, TURN_URL, "stun:stun.example.org"])
    lab.run(10)
    assert (lab.sockets, lab.asked_names, lab.watching, lab.sent) == ({}, [], False, [])
    assert lab.is_closed()


def test_every_address_of_this_machine_is_a_host_candidate() -> None:
    lab = Lab(interfaces=[interface("10.0.0.5"), interface("203.0.113.4"), interface("2001:db8::5", prefix_bits=64)])
    lab.want()
    lab.run(1)
    assert [host for host, _ in lab.of_kind(CandidateKind.HOST)] == ["10.0.0.5", "203.0.113.4", "2001:db8::5"]
    priorities = [local.candidate.priority for local in lab.gatherer.candidates]
    assert priorities == [(126 << 24) | (65_535 - at) << 8 | 255 for at in range(3)]
    assert lab.done == 1
    assert not lab.gatherer.is_gathering


@pytest.mark.parametrize(
    "address", ["169.254.3.4", "fe80::1", "fe80::1%eth0", "224.0.0.5", "255.255.255.255", "0.0.0.0", "ff02::1", "::"]
)
def test_addresses_nobody_reaches_get_no_socket(address: str) -> None:
    lab = Lab(interfaces=[interface(address), interface("10.0.0.5"), interface("127.0.0.1", loopback=True)])
    lab.want()
    lab.run(1)
    assert [host for host, _ in lab.addresses] == ["10.0.0.5"]


def test_loopback_serves_where_there_is_nothing_else_or_by_wish() -> None:
    lo = [interface("127.0.0.1", prefix_bits=8, loopback=True), interface("::1", prefix_bits=128, loopback=True)]
    lab = Lab(interfaces=lo)
    lab.want()
    lab.run(1)
    assert [host for host, _ in lab.addresses] == ["127.0.0.1", "::1"]
    lab = Lab(interfaces=[*lo, interface("10.0.0.5")], policy=CandidatePolicy(loopback=True))
    lab.want()
    lab.run(1)
    assert {host for host, _ in lab.addresses} == {"127.0.0.1", "::1", "10.0.0.5"}


def test_no_more_sockets_than_the_limit() -> None:
    lab = Lab(interfaces=[interface(f"10.0.0.{number}") for number in range(1, 40)])
    lab.want()
    lab.run(1)
    assert len(lab.sockets) == HOST_SOCKETS_MAX


def test_a_mapped_address_is_announced_once_known() -> None:
    lab = Lab(servers={STUN: StunServer(MAPPED)}, urls=[STUN_URL])
    lab.want()
    lab.run(0.1)
    assert lab.of_kind(CandidateKind.SERVER_REFLEXIVE) == [MAPPED]
    local = lab.gatherer.candidates[1]
    assert local.base == lab.gatherer.candidates[0].base
    assert local.base_address[0] == "10.0.0.5"
    assert lab.done == 1


def test_a_dead_server_costs_nothing_beside_a_living_one() -> None:
    lab = Lab(servers={STUN_2: StunServer(MAPPED)}, urls=[STUN_URL, STUN_2_URL])
    lab.want()
    lab.run(0.1)
    assert MAPPED in lab.addresses
    assert lab.done == 1


def test_a_mapped_address_that_is_our_own_is_not_announced_twice() -> None:
    lab = Lab(servers={STUN: StunServer()}, urls=[STUN_URL], interfaces=[interface("203.0.113.4")])
    lab.want()
    lab.run(1)
    assert list(lab.addresses.values()) == [CandidateKind.HOST]


def test_a_changed_mapping_replaces_the_candidate() -> None:
    server = StunServer(MAPPED)
    lab = Lab(servers={STUN: server}, urls=[STUN_URL])
    lab.want()
    lab.run(1)
    server.mapped = ("203.0.113.5", 4321)
    lab.events.clear()
    lab.run(16)
    kinds = [
        (type(event), event.local.candidate.address)
        for event in lab.events
        if not hasattr(event, "x") and hasattr(event, "local")
    ]
    assert kinds == [(CandidateRemoved, MAPPED), (CandidateAdded, ("203.0.113.5", 4321))]


@pytest.mark.parametrize(
    ("announce", "expected"),
    [
        ("all", {"10.0.0.5", "fd00::5", "203.0.113.4", "203.0.113.5", "198.51.100.7"}),
        ("public", {"203.0.113.4", "203.0.113.5", "198.51.100.7"}),
        ("relay", {"198.51.100.7"}),
    ],
)
def test_the_policy_chooses_what_is_announced(announce: Literal["all", "public", "relay"], expected: set[str]) -> None:
    lab = Lab(
        servers={STUN: StunServer(MAPPED), TURN: TurnServer()},
        urls=[STUN_URL, TURN_URL],
        policy=CandidatePolicy(announce=announce),
        interfaces=[interface("10.0.0.5"), interface("fd00::5", prefix_bits=64), interface("203.0.113.4")],
    )
    lab.want()
    lab.run(1)
    assert {host for host, _ in lab.addresses} == expected


def test_hidden_addresses_are_told_to_nobody_but_the_relay() -> None:
    """I8: no STUN server is asked; nothing in any request holds an address of ours."""
    server, stun = TurnServer(), StunServer(MAPPED)
    lab = Lab(servers={STUN: stun, TURN: server}, urls=[STUN_URL, TURN_URL], policy=CandidatePolicy(announce="relay"))
    lab.want()
    lab.run(1)
    base = lab.base_of(("198.51.100.7", 50_000))
    lab.send(base, PEER, DATA)
    lab.run(30)
    assert stun.asked == 0
    assert {remote for _, remote, _ in lab.sent} == {TURN}
    assert all(local.base.relay_id for local in lab.gatherer.candidates)
    for message in server.seen:
        assert message.mapped_address is None
        assert message.xor_mapped_address is None
        assert all(host == PEER[0] for host, _ in message.xor_peer_addresses)


def test_hidden_addresses_without_a_udp_relay_open_no_sockets() -> None:
    lab = Lab(servers={TURN: TurnServer()}, urls=[TCP_URL], policy=CandidatePolicy(announce="relay"))
    lab.want()
    lab.run(1)
    assert lab.sockets == {}
    assert lab.of_kind(CandidateKind.RELAYED)


def test_interfaces_come_and_go() -> None:
    lab = Lab(interfaces=[interface("10.0.0.5")], servers={TURN: TurnServer()}, urls=[TURN_URL])
    lab.want()
    lab.run(1)
    assert len(lab.of_kind(CandidateKind.RELAYED)) == 1
    lab.set_interfaces([interface("10.0.0.5"), interface("10.1.0.5")])
    lab.run(1)
    assert len(lab.of_kind(CandidateKind.HOST)) == 2
    lab.events.clear()
    lab.set_interfaces([interface("10.1.0.5")])
    lab.run(1)
    assert [host for host, _ in lab.of_kind(CandidateKind.HOST)] == ["10.1.0.5"]
    removed = [event.local.candidate.address[0] for event in lab.events if isinstance(event, CandidateRemoved)]
    assert "10.0.0.5" in removed
    assert set(lab.sockets.values()) == set(lab.of_kind(CandidateKind.HOST))
    assert lab.of_kind(CandidateKind.RELAYED), "the other interface has a relay of its own"


def test_an_address_that_cannot_be_bound_yet_is_tried_again() -> None:
    lab = Lab(interfaces=[interface("2001:db8::5", prefix_bits=64)])
    lab.refused_binds = {"2001:db8::5"}
    lab.want()
    lab.run(1)
    assert lab.addresses == {}
    lab.refused_binds = set()
    lab.run(2)
    assert len(lab.addresses) == 1


def test_an_address_that_can_never_be_bound_is_left_alone() -> None:
    lab = Lab(interfaces=[interface("10.0.0.5")])
    lab.refused_binds = {"10.0.0.5"}
    lab.want()
    lab.run(60)
    assert lab.gatherer.poll_timeout() is None
    assert lab.done == 1


# Relays.


def test_a_relay_is_ready_within_half_a_second() -> None:
    lab = Lab(servers={TURN: TurnServer()}, urls=[TURN_URL])
    lab.want()
    lab.run(0.5)
    assert lab.of_kind(CandidateKind.RELAYED) == [("198.51.100.7", 50_000)]


def test_a_turn_server_tells_the_mapped_address_too() -> None:
    lab = Lab(servers={TURN: TurnServer()}, urls=[TURN_URL], rewrite_source=nat)
    lab.want()
    lab.run(0.5)
    assert [host for host, _ in lab.of_kind(CandidateKind.SERVER_REFLEXIVE)] == ["203.0.113.5"]


def test_where_udp_is_blocked_the_stream_has_its_relay_at_once() -> None:
    lab = Lab(servers={TURN: TurnServer()}, urls=[TURN_URL, TCP_URL], udp_works=False)
    lab.want()
    lab.run(0.2)
    assert len(lab.of_kind(CandidateKind.RELAYED)) == 1


def test_relays_on_streams_are_less_preferred() -> None:
    lab = Lab(servers={TURN: TurnServer()}, urls=[TCP_URL, TURN_URL])
    lab.want()
    lab.run(1)
    relays = [local for local in lab.gatherer.candidates if local.candidate.kind is CandidateKind.RELAYED]
    by_stream = {local.base.socket_id in lab.streams: local.candidate.priority for local in relays}
    assert by_stream[True] < by_stream[False]


def test_two_relays_of_a_family_are_kept_on_different_servers_and_the_rest_released() -> None:
    servers = {TURN: TurnServer(), TURN_2: TurnServer("198.51.100.8")}
    lab = Lab(
        servers=dict(servers),
        urls=[TURN_URL, TURN_2_URL, TCP_URL],
        interfaces=[interface("10.0.0.5"), interface("10.1.0.5")],
    )
    lab.want()
    lab.run(5)
    hosts = sorted(host for host, _ in lab.of_kind(CandidateKind.RELAYED))
    assert hosts == ["198.51.100.7", "198.51.100.8"]
    assert len(hosts) == RELAYS_PER_FAMILY_MAX
    assert [len(server.allocations) for server in servers.values()] == [1, 1]
    assert lab.streams == {}
    sent = len(lab.sent)
    lab.run(14)
    assert len(lab.sent) - sent <= 6, "what was not needed is not tried again and again"


def test_a_relay_that_dies_is_replaced_by_one_that_was_not_needed() -> None:
    first, second = TurnServer(), TurnServer("198.51.100.8")
    third = ("198.51.100.9", 3478)
    lab = Lab(
        servers={TURN: first, TURN_2: second, third: TurnServer("198.51.100.9")},
        urls=[TURN_URL, TURN_2_URL, "turn:ann:secret@198.51.100.9"],
    )
    lab.want()
    lab.run(5)
    assert len(lab.of_kind(CandidateKind.RELAYED)) == 2
    dead = lab.of_kind(CandidateKind.RELAYED)[0]
    {"198.51.100.7": first, "198.51.100.8": second}[dead[0]].is_silent = True
    lab.gatherer.check_relay(lab.base_of(dead), lab.now_us)
    lab.run(14)
    relays = lab.of_kind(CandidateKind.RELAYED)
    assert dead not in relays
    assert len(relays) == 2


def test_a_server_that_restarts_gets_a_new_allocation() -> None:
    server = TurnServer()
    lab = Lab(servers={TURN: server}, urls=[TURN_URL])
    lab.want()
    lab.run(20)
    old = lab.of_kind(CandidateKind.RELAYED)[0]
    server.allocations.clear()
    lab.send(lab.base_of(old), PEER, DATA)
    lab.run(1)
    new = lab.of_kind(CandidateKind.RELAYED)
    assert len(new) == 1
    assert new != [old]


def test_data_goes_both_ways_through_a_relay() -> None:
    for url in (TURN_URL, TCP_URL):
        server = TurnServer()
        lab = Lab(servers={TURN: server}, urls=[url])
        lab.want()
        lab.run(1)
        relayed = lab.of_kind(CandidateKind.RELAYED)[0]
        base = lab.base_of(relayed)
        for _ in range(3):
            assert lab.send(base, PEER, DATA)
            lab.run(0.2)
        assert server.sent == [(relayed, PEER, DATA)] * 3
        assert server.sent_by_channel == 2
        client = next(iter(server.allocations))
        inside = server.to_client(client, PEER, b"back", lab.now_us)
        assert inside is not None
        if base.socket_id in lab.streams:
            lab.inner += lab.gatherer.handle_stream_data(base.socket_id, inside, lab.now_us)
        else:
            lab.deliver(base.socket_id, TURN, inside)
            lab.deliver(base.socket_id, TURN_2, inside)
        assert lab.inner == [(base, PEER, b"back")]


def test_both_families_of_one_server_are_two_candidates() -> None:
    server = TurnServer(families=(4, 6))
    lab = Lab(servers={TURN: server}, urls=[TURN_URL])
    lab.want()
    lab.run(1)
    relays = lab.of_kind(CandidateKind.RELAYED)
    assert [":" in host for host, _ in relays] == [False, True]
    peer_6 = ("2001:db8::99", 9)
    lab.send(lab.base_of(relays[1]), peer_6, DATA)
    assert server.sent == [(relays[1], peer_6, DATA)]
    inside = server.to_client(next(iter(server.allocations)), peer_6, b"six", lab.now_us)
    assert inside is not None
    lab.deliver(lab.base_of(relays[1]).socket_id, TURN, inside)
    assert lab.inner == [(lab.base_of(relays[1]), peer_6, b"six")]


def test_when_nobody_needs_them_relays_are_released_and_sockets_closed() -> None:
    server = TurnServer()
    lab = Lab(servers={TURN: server, STUN: StunServer(MAPPED)}, urls=[TURN_URL, TCP_URL, STUN_URL])
    lab.want()
    lab.run(1)
    lab.gatherer.nobody_wants(lab.now_us)
    lab.run(30)
    assert len(lab.addresses) == 4
    lab.gatherer.want(lab.now_us)
    lab.run(60)
    assert len(lab.addresses) == 4
    lab.gatherer.nobody_wants(lab.now_us)
    lab.run(61)
    assert lab.addresses == {}
    assert (server.released, server.allocations) == (2, {})
    assert (lab.sockets, lab.streams, lab.watching) == ({}, {}, False)
    assert lab.is_closed()
    assert lab.gatherer.poll_timeout() is None
    lab.want()
    lab.run(1)
    assert len(lab.addresses) == 4
    assert lab.done == 2


def test_closing_tells_the_servers_before_the_sockets_go() -> None:
    server = TurnServer()
    lab = Lab(servers={TURN: server}, urls=[TURN_URL, TCP_URL])
    lab.want()
    lab.run(1)
    lab.gatherer.close(lab.now_us)
    lab.drain()
    assert not lab.is_closed()
    lab.run(0.1)
    assert server.allocations == {}
    assert lab.is_closed()
    assert (lab.sockets, lab.streams) == ({}, {})


def test_closing_while_everything_begins_leaves_nothing() -> None:
    for steps in range(8):
        lab = Lab(
            servers={TURN: TurnServer()}, urls=[TURN_URL, TCP_URL, "stun:stun.example.org"], names={"stun.example.org": None}
        )
        lab.want()
        lab.run(steps * 0.01)
        lab.gatherer.close(lab.now_us)
        lab.run(10)
        assert lab.is_closed()
        assert (lab.sockets, lab.streams, lab.addresses) == ({}, {}, {})


# Names (I9).


def test_names_are_resolved_and_every_address_tried() -> None:
    lab = Lab(
        servers={STUN_2: StunServer(MAPPED)},
        urls=["stun:stun.example.org"],
        names={"stun.example.org": ["192.0.2.1", "192.0.2.2", "2001:db8::1", "nonsense", "0.0.0.0", "224.0.0.1"]},
    )
    lab.want()
    lab.run(0.2)
    assert MAPPED in lab.addresses
    assert {remote for _, remote, _ in lab.sent} == {STUN, STUN_2}


def test_a_name_that_hangs_holds_nothing_up() -> None:
    lab = Lab(
        servers={STUN: StunServer(MAPPED)}, urls=["turn:ann:secret@turn.example.org", STUN_URL], names={"turn.example.org": None}
    )
    lab.want()
    lab.run(0.2)
    assert MAPPED in lab.addresses
    lab.run(3)
    assert lab.done == 1


def test_a_late_answer_is_still_used() -> None:
    lab = Lab(servers={STUN: StunServer(MAPPED)}, urls=["stun:stun.example.org"], names={"stun.example.org": None})
    lab.want()
    lab.run(5)
    lab.gatherer.handle_name_resolved("stun.example.org", ["192.0.2.1"], lab.now_us)
    lab.run(0.2)
    assert MAPPED in lab.addresses


def test_a_name_that_is_unknown_is_asked_for_again_later() -> None:
    lab = Lab(servers={STUN: StunServer(MAPPED)}, urls=["stun:stun.example.org"])
    lab.want()
    lab.run(9)
    assert lab.asked_names == ["stun.example.org"]
    lab.names["stun.example.org"] = ["192.0.2.1"]
    lab.run(2)
    assert MAPPED in lab.addresses


def test_the_name_of_a_server_that_fails_is_resolved_anew() -> None:
    server = TurnServer()
    lab = Lab(servers={TURN_2: server}, urls=["turn:ann:secret@turn.example.org"], names={"turn.example.org": ["198.51.100.7"]})
    lab.want()
    lab.run(6)
    assert lab.of_kind(CandidateKind.RELAYED) == []
    lab.names["turn.example.org"] = ["198.51.100.8"]
    lab.run(15)
    assert len(lab.of_kind(CandidateKind.RELAYED)) == 1


# Hostile servers (I6).


class Hostile:
    """A server that answers in its own way."""

    def __init__(self, reply: Callable[[StunMessage, int], list[tuple[float, bytes]]]) -> None:
        self.reply = reply
        self.asked = 0
        self.requests: dict[bytes, int] = {}

    def handle(self, source: Address, data: bytes, now_us: int) -> Replies:
        if not looks_like_stun(data):
            return []
        self.asked += 1
        request = decode_stun(data)
        self.requests[request.transaction_id] = self.requests.get(request.transaction_id, 0) + 1
        return self.reply(request, self.asked)


def signed(request: StunMessage, **fields: object) -> bytes:
    if request.username is None:
        return encode_stun(refusal(request, 401, realm=REALM, nonce=b"n"))
    return encode_stun(answer(request, **fields), integrity_key=KEY)


HOSTILE: dict[str, Callable[[StunMessage, int], list[tuple[float, bytes]]]] = {
    "silent": lambda request, count: [],
    "slow": lambda request, count: [(20.0, encode_stun(answer(request, xor_mapped_address=MAPPED)))],
    "huge": lambda request, count: [(0.01, encode_stun(answer(request, xor_mapped_address=MAPPED, data=bytes(60_000))))],
    "endless 401": lambda request, count: [(0.01, encode_stun(refusal(request, 401, realm=REALM, nonce=b"%d" % count)))],
    "endless 438": lambda request, count: [
        (0.01, encode_stun(refusal(request, 438 if request.username else 401, realm=REALM, nonce=b"%d" % count)))
    ],
    "another realm each time": lambda request, count: [
        (0.01, encode_stun(refusal(request, 401, realm=b"%d" % count, nonce=b"%d" % count)))
    ],
    "redirects": lambda request, count: [
        (0.01, encode_stun(refusal(request, 300, alternate_server=(f"192.0.2.{100 + count % 100}", 3478))))
    ],
    "what nobody understands": lambda request, count: [
        (0.01, encode_stun(refusal(request, 420, unknown_attributes=list(range(60)))))
    ],
    "errors": lambda request, count: [(0.01, encode_stun(refusal(request, 500)))],
    "another transaction": lambda request, count: [
        (0.01, encode_stun(StunMessage(request.method, Class.SUCCESS, bytes(12), xor_mapped_address=MAPPED)))
    ],
    "noise": lambda request, count: [(0.01, bytes([0x40, 0, 0, 200]) + bytes(200)), (0.01, b"HTTP/1.1 400 Bad Request\r\n\r\n")],
    "success without content": lambda request, count: [(0.01, signed(request))],
    "a flood of answers": lambda request, count: [(0.001 * at, encode_stun(refusal(request, 500))) for at in range(200)],
    "a relay on a multicast address": lambda request, count: [
        (0.01, signed(request, xor_relayed_address=("224.0.0.1", 5), xor_mapped_address=("224.0.0.1", 5), lifetime_s=1))
    ],
}


@pytest.mark.parametrize("behaviour", HOSTILE)
@pytest.mark.parametrize("url", [STUN_2_URL, TURN_2_URL, f"{TURN_2_URL}?transport=tcp"], ids=["stun", "turn", "tcp"])
def test_a_hostile_server_spoils_nothing(behaviour: str, url: str) -> None:
    """Gathering ends within six seconds, others are not affected, and it is asked a few times only."""
    hostile, good = Hostile(HOSTILE[behaviour]), TurnServer()
    place = STUN_2 if url == STUN_2_URL else TURN_2
    lab = Lab(servers={place: hostile, STUN: StunServer(MAPPED), TURN: good}, urls=[url, STUN_URL, TURN_URL], allow_redirect=True)
    lab.want()
    lab.run(0.5)
    assert MAPPED in lab.addresses
    assert len(lab.of_kind(CandidateKind.RELAYED)) == 1
    lab.run(GATHERING_US_MAX / SECOND - 0.5)
    assert lab.done == 1
    assert set(lab.addresses) == {("10.0.0.5", 40_000), MAPPED, ("198.51.100.7", 50_000)}
    assert max(hostile.requests.values()) <= 5
    assert len(hostile.requests) <= 6
    lab.run(120)
    assert set(lab.addresses) == {("10.0.0.5", 40_000), MAPPED, ("198.51.100.7", 50_000)}
    assert hostile.asked <= 100


def test_redirects_are_not_followed_unless_allowed() -> None:
    hostile = Hostile(HOSTILE["redirects"])
    for allow, places in ((False, 1), (True, 2)):
        lab = Lab(servers={STUN: hostile}, urls=[STUN_URL], allow_redirect=allow)
        lab.want()
        lab.run(6)
        assert len({remote for _, remote, _ in lab.sent}) == places


@pytest.mark.parametrize(
    ("noise", "seconds"), [(b"\x16\x03\x01\x00\x02\x02\x02\x50", 0.2), (b"HTTP/1.1 400 Bad Request\r\n\r\n", 5.2)]
)
def test_a_stream_that_is_no_stun_is_closed(noise: bytes, seconds: float) -> None:
    """HTTP looks like the beginning of ChannelData: it is given up when no answer comes."""
    lab = Lab(servers={TURN: Hostile(lambda request, count: [(0.01, noise)])}, urls=[TCP_URL])
    lab.want()
    lab.run(seconds)
    assert lab.streams == {}
    assert lab.done == 1


def test_a_stream_that_never_opens_is_given_up_and_tried_again_later() -> None:
    lab = Lab(urls=[TCP_URL])
    lab.want()
    lab.run(30)
    assert lab.done == 1
    assert lab.gatherer.poll_timeout() is not None


# Ports of the router.

ROUTER: Address = ("10.0.0.1", 5351)
BEHIND_ROUTER = [interface("10.0.0.5", gateway="10.0.0.1")]


class PcpRouter:
    """Gives every port that is asked for by PCP."""

    def __init__(self) -> None:
        self.router = Router(pcp=True)

    def handle(self, source: Address, data: bytes, now_us: int) -> Replies:
        return [(0.005, reply) for _, reply in self.router.handle(HOME_ROUTER, data)]


def test_a_port_of_the_router_is_a_candidate_and_given_back() -> None:
    pcp = PcpRouter()
    lab = Lab(servers={ROUTER: pcp, STUN: StunServer(MAPPED)}, urls=[STUN_URL], interfaces=BEHIND_ROUTER)
    lab.want()
    lab.run(1)
    assert lab.of_kind(CandidateKind.SERVER_REFLEXIVE) == [MAPPED, ("203.0.113.5", 40_000)]
    assert pcp.router.mappings == {40_000: 40_000}
    lab.gatherer.close(lab.now_us)
    lab.run(1)
    assert pcp.router.mappings == {}
    assert lab.is_closed()
    assert lab.sockets == {}


@pytest.mark.parametrize(
    ("policy", "interfaces"),
    [
        (CandidatePolicy(announce="relay"), [interface("10.0.0.5", gateway="10.0.0.1")]),
        (CandidatePolicy(port_mapping=False), [interface("10.0.0.5", gateway="10.0.0.1")]),
        (CandidatePolicy(), [interface("10.0.0.5")]),
        (CandidatePolicy(), [interface("203.0.113.4", gateway="203.0.113.1")]),
        (CandidatePolicy(), [interface("2001:db8::5", gateway="fe80::1%eth0")]),
    ],
)
def test_a_router_is_asked_only_where_that_makes_sense(policy: CandidatePolicy, interfaces: list[InterfaceAddress]) -> None:
    lab = Lab(policy=policy, interfaces=interfaces, urls=[TURN_URL])
    lab.want()
    lab.run(30)
    assert {remote for _, remote, _ in lab.sent} <= {TURN}


def test_a_silent_router_holds_nothing_up_and_is_asked_again_when_the_network_changed() -> None:
    lab = Lab(interfaces=[interface("10.0.0.5", gateway="10.0.0.1")])
    lab.want()
    lab.run(0.1)
    assert lab.done == 1
    lab.run(60)
    sent = len(lab.sent)
    assert lab.gatherer.poll_timeout() is None
    lab.set_interfaces([interface("10.0.0.5", gateway="10.0.0.1"), interface("10.9.0.5")])
    lab.run(60)
    assert len(lab.sent) == 2 * sent
    lab.gatherer.close(lab.now_us)
    lab.run(3)
    assert lab.is_closed()


# Limits of trying.


def test_a_name_is_waited_for_three_seconds_and_asked_for_less_and_less_often() -> None:
    lab = Lab(urls=["stun:stun.example.org"], names={"stun.example.org": None})
    lab.want()
    lab.run(NAME_RESOLUTION_US / SECOND - 0.01)
    assert lab.done == 0
    lab.run(0.02)
    assert lab.done == 1
    lab = Lab(urls=["stun:stun.example.org"])
    lab.want()
    lab.run(1_000)
    assert 4 + 1_000 * SECOND // SERVER_RETRY_MAX_US - 2 <= len(lab.asked_names) <= 4 + 1_000 * SECOND // SERVER_RETRY_MAX_US


def test_of_a_name_with_many_addresses_a_few_are_used() -> None:
    hosts = [f"192.0.2.{number}" for number in range(1, 20)]
    lab = Lab(urls=["stun:stun.example.org"], names={"stun.example.org": hosts})
    lab.want()
    lab.run(1)
    assert len({remote for _, remote, _ in lab.sent}) == ICE_SERVER_ADDRESSES_MAX


def test_no_more_allocations_are_tried_at_once_than_the_limit() -> None:
    urls = [f"turn:ann:secret@198.51.100.{number}" for number in range(20, 28)]
    lab = Lab(urls=urls, interfaces=[interface(f"10.0.0.{number}") for number in range(1, 9)], policy=CandidatePolicy("relay"))
    lab.want()
    lab.run(0.01)
    assert len({(path_id, remote) for path_id, remote, _ in lab.sent}) == RELAY_ATTEMPTS_MAX
    lab.run(6)
    assert len({(path_id, remote) for path_id, remote, _ in lab.sent}) == 2 * RELAY_ATTEMPTS_MAX


def test_no_more_allocations_are_tried_at_one_server_than_the_limit() -> None:
    interfaces = [interface(f"10.0.0.{number}") for number in range(1, 9)] + [interface("10.0.1.1", gateway="10.0.1.254")]
    lab = Lab(urls=[TURN_URL], interfaces=interfaces, policy=CandidatePolicy("relay"))
    lab.want()
    lab.run(0.01)
    tried = {path_id for path_id, _, _ in lab.sent}
    assert len(tried) == RELAY_ATTEMPTS_PER_SERVER_MAX
    assert "10.0.1.1" in {lab.sockets[path_id][0] for path_id in tried}, "the one with a router is tried first"


def test_a_connection_may_take_five_seconds() -> None:
    lab = Lab(urls=[TCP_URL])
    lab.want()
    lab.run(STREAM_OPEN_US / SECOND - 0.1)
    assert lab.done == 0
    lab.run(0.2)
    assert lab.done == 1


def test_a_server_that_refuses_is_asked_less_and_less_often() -> None:
    hostile = Hostile(HOSTILE["errors"])
    lab = Lab(servers={TURN: hostile}, urls=[TURN_URL], policy=CandidatePolicy("relay"))
    lab.want()
    lab.run(9)
    assert hostile.asked == 1
    lab.run(3)
    assert hostile.asked == 2
    lab.run(3_600)
    assert hostile.asked <= 6 + 3_600 * SECOND // SERVER_RETRY_MAX_US
