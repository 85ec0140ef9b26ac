"""How large datagrams may be: found upwards by probes, given up when they vanish, never tried on a reference peer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from peergram.config import (
    BURST_BYTES_MAX,
    BURST_PACKETS,
    DATAGRAM_BYTES_FLOOR,
    DATAGRAM_BYTES_MAX,
    DATAGRAM_BYTES_OWN_PEER_MAX,
    PATH_MTU_BLACK_HOLE_LOSSES,
    PATH_MTU_BLACK_HOLE_US,
    PATH_MTU_PROBES_MAX,
    PATH_MTU_RAISE_US,
    PATH_MTU_RETRY_US,
    Config,
)
from peergram.connection.connection import Connection
from peergram.connection.flow import PADDING_LEAD, Flow
from peergram.connection.handshake import LARGE_DATAGRAMS
from peergram.connection.lanes import Bundle, SendLane
from peergram.connection.path_mtu import LADDER, PathMtu
from peergram.connection.reports import fill_report
from peergram.connection.transmit import Transmitter
from peergram.errors import Result
from peergram.events import ConnectionState
from peergram.sim.link import UDP_OVERHEAD_BYTES
from peergram.wire.certificates import Capabilities
from peergram.wire.data_packet import decode_data_header
from tests.connection.flows import established, make_flow
from tests.endpoint.world import RELIABLE, SECOND_US, UNRELIABLE, Host, World

NOW_US = 1_000_000


def probe(path: PathMtu, *, arrives: bool, now_us: int = NOW_US) -> None:
    assert path.wants_probe(now_us)
    path.handle_probe_sent()
    assert not path.wants_probe(now_us)
    path.handle_probe_settled(arrived=arrives, now_us=now_us)


def test_the_search_climbs_as_far_as_probes_arrive_and_then_rests() -> None:
    path = PathMtu(DATAGRAM_BYTES_MAX, DATAGRAM_BYTES_OWN_PEER_MAX)
    probe(path, arrives=True)
    assert path.size_bytes == 1_452
    for _ in range(PATH_MTU_PROBES_MAX):
        probe(path, arrives=False)
    assert path.size_bytes == 1_452
    assert not path.wants_probe(NOW_US + PATH_MTU_RAISE_US - 1)
    assert path.wants_probe(NOW_US + PATH_MTU_RAISE_US)


@pytest.mark.parametrize("ceiling", [0, 1_300, 1_451, 9_000, DATAGRAM_BYTES_OWN_PEER_MAX])
def test_the_search_never_goes_above_its_ceiling(ceiling: int) -> None:
    path = PathMtu(DATAGRAM_BYTES_MAX, ceiling)
    while path.wants_probe(NOW_US):
        assert path.probe_bytes <= ceiling
        probe(path, arrives=True)
    assert path.size_bytes == max(size for size in LADDER if size <= max(ceiling, DATAGRAM_BYTES_MAX))


def test_a_size_that_the_user_has_lowered_is_kept() -> None:
    path = PathMtu(1_200, DATAGRAM_BYTES_OWN_PEER_MAX)
    assert not path.wants_probe(NOW_US)
    assert not path.shrink(NOW_US)
    assert path.size_bytes == 1_200


def test_packets_that_vanish_for_their_size_bring_it_down_in_two_steps() -> None:
    path = PathMtu(DATAGRAM_BYTES_MAX, DATAGRAM_BYTES_OWN_PEER_MAX)
    probe(path, arrives=True)
    path.handle_report(1_452, 0, 0, NOW_US)
    soon_us = NOW_US + PATH_MTU_BLACK_HOLE_US
    assert not path.handle_report(1_300, 1_452, PATH_MTU_BLACK_HOLE_LOSSES - 1, soon_us)
    assert path.handle_report(900, 1_452, 1, soon_us)
    assert path.size_bytes == DATAGRAM_BYTES_MAX
    assert not path.wants_probe(soon_us + PATH_MTU_RETRY_US - 1)
    assert path.handle_report(1_100, 1_300, PATH_MTU_BLACK_HOLE_LOSSES, soon_us)
    assert path.size_bytes == DATAGRAM_BYTES_FLOOR
    assert not path.handle_report(0, 1_100, 1_000, soon_us)


def test_a_burst_lost_on_a_path_that_still_works_changes_nothing() -> None:
    path = PathMtu(DATAGRAM_BYTES_MAX, DATAGRAM_BYTES_OWN_PEER_MAX)
    path.handle_report(1_300, 0, 0, NOW_US)
    assert not path.handle_report(0, 1_300, 500, NOW_US + PATH_MTU_BLACK_HOLE_US - 1)
    assert not path.handle_report(1_300, 1_300, 500, NOW_US + PATH_MTU_BLACK_HOLE_US)
    assert not path.handle_report(0, 1_300, 1, NOW_US + 2 * PATH_MTU_BLACK_HOLE_US)


class Narrow:
    """A network whose links drop what does not fit their MTU."""

    def __init__(self, mtu_bytes: int) -> None:
        self.mtu_bytes = mtu_bytes

    def __call__(self, sender: Host, receiver: Host, packet: bytes) -> list[int]:
        return [2_000] if len(packet) + UDP_OVERHEAD_BYTES <= self.mtu_bytes else []


def connected(network: Narrow) -> tuple[World, Host, Host, Connection]:
    """Two hosts with a session between them, and the connection of the one who dialed."""
    world = World(network)
    alice, bob = world.add("alice"), world.add("bob")
    alice.send(bob, b"hello", RELIABLE)
    world.run(SECOND_US)
    (link,) = alice.endpoint._links
    return world, alice, bob, link.connection


@pytest.mark.parametrize("mtu_bytes", [1_500, 9_000, 65_535])
def test_a_transfer_finds_what_the_path_carries(mtu_bytes: int) -> None:
    world, alice, bob, connection = connected(Narrow(mtu_bytes))
    for at in range(30):
        assert alice.send(bob, bytes((at,)) * 200_000, RELIABLE) == Result.OK
        world.run(SECOND_US // 4)
    flow = connection.flow
    assert flow is not None
    assert flow.datagram_bytes == max(size for size in LADDER if size <= min(mtu_bytes - UDP_OVERHEAD_BYTES, 65_000))
    assert [message.payload[:1] for message in bob.received[1:]] == [bytes((at,)) for at in range(30)]


def test_a_slow_talker_sends_no_probe() -> None:
    world, alice, bob, connection = connected(Narrow(65_535))
    for _ in range(50):
        alice.send(bob, bytes(1_000), RELIABLE)
        world.run(20_000)
    assert connection.flow is not None
    assert connection.flow.datagram_bytes == DATAGRAM_BYTES_MAX
    assert len(bob.received) == 51


def test_a_path_that_narrows_under_a_transfer_is_noticed_and_nothing_is_lost() -> None:
    """E21, in both directions of the MTU."""
    network = Narrow(9_000)
    world, alice, bob, connection = connected(network)
    for at in range(60):
        if at == 15:
            network.mtu_bytes = 1_200
        alice.send(bob, bytes((at,)) * 100_000, RELIABLE)
        alice.send(bob, bytes((at,)) * 900, UNRELIABLE)
        world.run(SECOND_US // 4)
    world.run(5 * SECOND_US)
    assert connection.state == ConnectionState.CONNECTED
    assert connection.flow is not None
    assert connection.flow.datagram_bytes == DATAGRAM_BYTES_FLOOR
    large = [message.payload[0] for message in bob.received if message.size == 100_000]
    assert large == list(range(60))


@pytest.mark.parametrize("mtu_bytes", [1_128, 1_200])
def test_a_session_opens_and_works_on_a_narrow_path(mtu_bytes: int) -> None:
    """E21: from a UDP payload of 1100 bytes on."""
    world, alice, bob, _ = connected(Narrow(mtu_bytes))
    for at in range(10):
        alice.send(bob, bytes((at,)) * 20_000, RELIABLE)
        world.run(SECOND_US)
    world.run(5 * SECOND_US)
    assert [message.payload[0] for message in bob.received[1:]] == list(range(10))


def test_queued_small_messages_survive_that_packets_become_smaller() -> None:
    lane = SendLane(0, bundle_bytes_max=8_000)
    for at in range(300):
        lane.queue_reliable(b"", 0) if at % 50 == 25 else lane.queue_unreliable(bytes((at % 256,)) * (at % 90), 0)
    queued = [message for bundle in lane.unreliable or () if isinstance(bundle, Bundle) for message in bundle.messages()]
    lane.bundle_bytes_max = 300
    lane.rebundle()
    again = [bundle for bundle in lane.unreliable or () if isinstance(bundle, Bundle)]
    assert [message for bundle in again for message in bundle.messages()] == queued
    assert len(queued) == 294
    assert all(sum(map(len, bundle.frames)) == bundle.frames_bytes <= 300 for bundle in again)


def test_larger_packets_are_no_reason_to_wait_for_more_small_messages() -> None:
    flow = make_flow(own_peer=True)
    assert flow.burst_bytes == BURST_PACKETS * flow.full_bytes
    flow.set_datagram_bytes(8_952)
    assert flow.burst_bytes == BURST_BYTES_MAX
    flow.set_datagram_bytes(65_000)
    assert flow.burst_bytes == flow.full_bytes


def test_a_peer_that_takes_no_probes_gets_none_and_larger_packets_again_after_a_long_while() -> None:
    """A reference peer ends the connection at the first byte of a probe."""
    path = PathMtu(DATAGRAM_BYTES_MAX, 0, takes_probes=False)
    assert not path.is_worth_a_try(NOW_US)
    assert path.shrink(NOW_US)
    assert path.size_bytes == DATAGRAM_BYTES_FLOOR
    assert not path.is_worth_a_try(NOW_US + PATH_MTU_RAISE_US - 1)
    assert path.is_worth_a_try(NOW_US + PATH_MTU_RAISE_US)
    assert not path.wants_probe(NOW_US + PATH_MTU_RAISE_US)
    assert path.absolve()
    assert path.size_bytes == DATAGRAM_BYTES_MAX


@pytest.mark.parametrize("capabilities", [Capabilities(LARGE_DATAGRAMS, bytes(16)), Capabilities(0, bytes(16)), None])
def test_after_packets_had_vanished_only_peers_that_take_them_get_probes(capabilities: Capabilities | None) -> None:
    config = Config(rate="fixed", send_rate_bytes=20_000_000)
    flow = Flow(replace(established(), capabilities=capabilities), config, NOW_US)
    transmitter = Transmitter(flow, fill_report)
    assert flow.path_mtu.shrink(NOW_US)
    flow.set_datagram_bytes(flow.path_mtu.size_bytes)
    lane = flow.lanes.lane(0)
    for _ in range(100):
        flow.queued_bytes += lane.queue_reliable(bytes(5_000), NOW_US)
    now_us, payloads = NOW_US + PATH_MTU_RAISE_US, []
    for _ in range(100):
        for packet in transmitter.poll(now_us):
            payloads.append(packet[decode_data_header(packet).payload_at :])
        flow.probe_backoff = 0
        now_us += 10_000
    assert any(payload[0] == PADDING_LEAD for payload in payloads) is bool(capabilities and capabilities.features)


def test_what_fares_no_better_in_small_packets_was_not_too_large() -> None:
    path = PathMtu(DATAGRAM_BYTES_MAX, DATAGRAM_BYTES_OWN_PEER_MAX)
    assert not path.absolve()
    assert path.shrink(NOW_US)
    assert not path.shrink(NOW_US)
    assert path.absolve()
    assert path.size_bytes == DATAGRAM_BYTES_MAX
