"""Messages of every size class to and from the reference, in both roles: identities, lanes, IPv6, redialing."""

from __future__ import annotations

import re
import socket
from collections import defaultdict

import pytest

from peergram import Config, InfoFlags, Messages, Result, SendFlags
from peergram.config import MESSAGE_BYTES_MAX, REFERENCE_MESSAGE_BYTES_MAX
from peergram.events import ConnectionState
from peergram.wire.channel_header import encode_channel_header

from .conftest import ReferenceFactory
from .gns import NO_NAGLE, RELIABLE, State
from .mix import message
from .ours import HELLO, OUR_NAME, ROLES, THEIR_NAME, Role, connected, until

pytestmark = [pytest.mark.interop, pytest.mark.parametrize("role", ROLES)]

QUICK = {"send_rate_bytes": 20_000_000}
LANES = range(8)
SIZES = [0, 1, 31, 32, 33, *range(1_130, 1_301), 16_499, 16_500, 16_501, 65_536, REFERENCE_MESSAGE_BYTES_MAX]
"""Around the borders of segments, of their size fields, and of what goes unreliably."""
UNRELIABLE_SIZES = [size for size in SIZES if size <= 16_500]


def payloads(sizes: list[int]) -> list[bytes]:
    return [message(5, index, size) for index, size in enumerate(sizes)]


def test_both_sides_know_each_other_by_identity_and_address(reference: ReferenceFactory, free_port: int, role: Role) -> None:
    with connected(reference, free_port, role) as duet:
        info, theirs = duet.info, duet.reference.request("info")["info"]
        assert (info.state, str(info.identity)) == (ConnectionState.CONNECTED, THEIR_NAME)
        assert (theirs["state"], theirs["identity"]) == (State.CONNECTED, OUR_NAME)
        assert info.flags == InfoFlags.UNAUTHENTICATED | InfoFlags.FAST
        assert theirs["flags"] & 3 == 1
        if role == "we dial":
            assert (info.address, duet.requests) == (f"127.0.0.1:{free_port}", [])
        else:
            (request,) = duet.requests
            assert (str(request.identity), request.proven_by, request.address) == (THEIR_NAME, "nothing", info.address)


def test_a_reference_is_not_taken_for_one_of_ours(reference: ReferenceFactory, free_port: int, role: Role) -> None:
    with connected(reference, free_port, role) as duet:
        assert not duet.info.own_peer
    with Messages("left", listen="127.0.0.1:0", signaling=None) as left, Messages("right", signaling=None) as right:
        left.on_session_request = lambda request: left.accept_session_with_user(request.identity)
        peer = f"ip:127.0.0.1:{left.local_addresses[0][1]}"
        assert right.send_message_to_user(peer, HELLO, SendFlags.RELIABLE) == Result.OK

        def is_up() -> bool:
            left.run_callbacks()
            return right.get_session_connection_info(peer).state == ConnectionState.CONNECTED

        until(is_up, lambda: "a connection between two of ours")
        for net, other in ((left, "str:right"), (right, peer)):
            info = net.get_session_connection_info(other).connection
            assert info is not None
            assert info.own_peer


def test_reliable_messages_of_every_size_class_arrive_in_order_there(
    reference: ReferenceFactory, free_port: int, role: Role
) -> None:
    with connected(reference, free_port, role, settings=QUICK) as duet:
        for flags in (SendFlags.RELIABLE_NO_NAGLE, SendFlags.RELIABLE):
            duet.send_all(payloads(SIZES), flags)
            taken = duet.take_there(len(SIZES))
            assert [data for _, _, _, data in taken] == payloads(SIZES)
            assert {flags & RELIABLE for _, flags, _, _ in taken} == {RELIABLE}


def test_reliable_messages_of_every_size_class_arrive_in_order_here(
    reference: ReferenceFactory, free_port: int, role: Role
) -> None:
    sent = payloads([*SIZES, MESSAGE_BYTES_MAX])
    with connected(reference, free_port, role, settings=QUICK) as duet:
        for flags in (RELIABLE | NO_NAGLE, RELIABLE):
            for data in sent:
                duet.their_send(data, flags)
            taken = duet.take_here(len(sent))
            assert [message.payload for message in taken] == sent
            assert all(message.reliable for message in taken)


def test_the_largest_message_arrives_there(reference: ReferenceFactory, free_port: int, role: Role) -> None:
    largest = payloads([MESSAGE_BYTES_MAX])
    with connected(reference, free_port, role, settings=QUICK) as duet:
        assert duet.send(largest[0]) == Result.OK
        duet.expect_there(largest)
        assert duet.send(bytes(MESSAGE_BYTES_MAX + 1)) == Result.INVALID_PARAM


def test_unreliable_messages_of_every_size_class_arrive_both_ways(
    reference: ReferenceFactory, free_port: int, role: Role
) -> None:
    sent = payloads(UNRELIABLE_SIZES)
    with connected(reference, free_port, role, settings=QUICK) as duet:
        duet.send_all(sent, SendFlags.UNRELIABLE_NO_NAGLE)
        there = duet.take_there(len(sent))
        assert [data for _, _, _, data in there] == sent
        assert not any(flags & RELIABLE for _, flags, _, _ in there)
        for data in sent:
            duet.their_send(data, NO_NAGLE)
        here = duet.take_here(len(sent))
        assert sorted(message.payload for message in here) == sorted(sent)
        assert not any(message.reliable for message in here)


def test_an_unreliable_message_too_large_for_that_goes_reliably(reference: ReferenceFactory, free_port: int, role: Role) -> None:
    large = message(6, 0, 16_501)
    with connected(reference, free_port, role, settings=QUICK) as duet:
        duet.send_all([large], SendFlags.UNRELIABLE)
        assert [(flags & RELIABLE, data) for _, flags, _, data in duet.take_there(1)] == [(RELIABLE, large)]
        duet.their_send(large, 0)
        assert [(message.reliable, message.payload) for message in duet.take_here(1)] == [(True, large)]


def test_small_messages_share_packets_and_arrive_apart(reference: ReferenceFactory, free_port: int, role: Role) -> None:
    sent = [message(7, index, index % 40) for index in range(1_000)]
    with connected(reference, free_port, role, settings=QUICK) as duet:
        duet.send_all(sent, SendFlags.RELIABLE)
        duet.expect_there(sent)
        packets = re.search(r"Recv:\s+(\d+) pkts", duet.reference.request("describe")["text"].partition("Totals")[2])
        assert packets
        assert int(packets[1]) < 500
        for data in sent[:200]:
            duet.their_send(data, RELIABLE)
        duet.expect_here(sent[:200])


def test_a_new_session_to_the_same_reference_works_at_once_after_closing(
    reference: ReferenceFactory, free_port: int, role: Role
) -> None:
    with connected(reference, free_port, role) as duet:
        ports = {duet.reference.request("info")["info"]["address"]}
        for _ in range(3):
            assert duet.net.close_session_with_user(duet.peer)
            if role == "we dial":
                assert duet.send(b"again") == Result.OK
                until(lambda: duet.reference.request("info")["info"]["address"] not in ports, lambda: f"a port not in {ports}")
                ports.add(duet.reference.request("info")["info"]["address"])
            else:
                duet.reference.wait("closed")
                duet.reference.request("close")
                duet.begin(0)
                duet.step_until(lambda: duet.state == ConnectionState.CONNECTED)
                duet.send_all([b"again"])
            duet.reference.wait("connected")
            duet.expect_there([b"again"])
            duet.their_send(b"fine")
            duet.expect_here([b"fine"])
        assert duet.failures == []


def test_a_session_that_the_reference_closed_opens_anew_with_the_next_send(
    reference: ReferenceFactory, free_port: int, role: Role
) -> None:
    with connected(reference, free_port, role) as duet:
        duet.settle()
        duet.reference.request("close", reason=1_000)
        duet.step_until(lambda: duet.state == ConnectionState.NONE)
        if role == "we dial":
            assert duet.send(b"again") == Result.OK
        else:
            assert duet.send(b"again") == Result.FAIL
            duet.begin(0)
            duet.step_until(lambda: duet.state == ConnectionState.CONNECTED)
            duet.send_all([b"again"])
        duet.reference.wait("connected")
        duet.expect_there([b"again"])
        assert duet.failures == []


def test_our_channels_travel_on_lanes_of_their_own_behind_their_header(
    reference: ReferenceFactory, free_port: int, role: Role
) -> None:
    line = {"loss_recv_percent": 3.0, "reorder_recv_percent": 3.0}
    channels = [0, 7, -1, 2_000_000_000, 3, 4, 5, 6]
    sent = [(lane, message(8, index, 37 * index % 5_000)) for index in range(50) for lane in LANES]
    with connected(reference, free_port, role, framing="messages", settings={**QUICK, **line}) as duet:
        for lane, data in sent:
            assert duet.send(data, SendFlags.RELIABLE, channels[lane]) == Result.OK
        by_lane: dict[int, list[bytes]] = defaultdict(list)
        for _, _, lane, data in duet.take_there(len(sent)):
            by_lane[lane].append(data)
        for lane in LANES:
            header = encode_channel_header(channels[lane])
            assert by_lane[lane] == [header + data for of_lane, data in sent if of_lane == lane], f"lane {lane}"


def test_every_lane_of_the_reference_arrives_in_its_own_order(reference: ReferenceFactory, free_port: int, role: Role) -> None:
    line = {"loss_send_percent": 3.0, "reorder_send_percent": 3.0}
    sent = [(lane, bytes([lane]) + message(9, index, 53 * index % 5_000)) for index in range(30) for lane in LANES]
    with connected(reference, free_port, role, settings={**QUICK, **line}) as duet:
        duet.reference.request("lanes", priorities=[0, 0, 0, 0, 1, 1, 2, 2], weights=[1, 2, 3, 4, 1, 1, 5, 6])
        for lane, data in sent:
            duet.their_send(data, RELIABLE, lane)
        taken = duet.take_here(len(sent))
        for lane in LANES:
            arrived = [message.payload for message in taken if message.payload[0] == lane]
            assert arrived == [data for of_lane, data in sent if of_lane == lane], f"lane {lane}"


def test_channels_of_the_messages_layer_come_from_any_lane(reference: ReferenceFactory, free_port: int, role: Role) -> None:
    with connected(reference, free_port, role, framing="messages", settings=QUICK) as duet:
        duet.reference.request("lanes", priorities=[0, 0], weights=[1, 1])
        for lane, channel in ((0, 0), (1, 5), (1, -5)):
            duet.their_send(encode_channel_header(channel) + b"%d" % channel, lane=lane)
        duet.expect_here([b"0"])
        for channel in (5, -5):
            (arrived,) = duet.take_on_channel(channel, 1)
            assert (arrived.channel, arrived.payload) == (channel, b"%d" % channel)


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
def test_all_of_it_works_over_ipv6(reference: ReferenceFactory, free_port: int, role: Role) -> None:
    sent = payloads([0, 1_200, 30_000])
    with connected(reference, free_port, role, Config(), host="::1", settings=QUICK) as duet:
        duet.send_all(sent)
        duet.expect_there(sent)
        for data in sent:
            duet.their_send(data)
        duet.expect_here(sent)
        assert duet.info.address.startswith("[::1]:")
        assert duet.reference.request("info")["info"]["address"].startswith("[::1]:")
