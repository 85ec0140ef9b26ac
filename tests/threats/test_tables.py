"""E18, V7: tables whose keys or sizes a peer chooses."""

from __future__ import annotations

import time
from random import Random

import pytest

from peergram.config import CHANNELS_PER_SESSION_MAX, EVENTS_MAX, LANES_RECV_MAX
from peergram.connection.receive import ConnectionViolated, Receiver
from peergram.endpoint import link_table
from peergram.endpoint import remotes as remotes_module
from peergram.endpoint.endpoint import Endpoint
from peergram.endpoint.event_queue import EventQueue
from peergram.endpoint.schedule import Schedule
from peergram.errors import WireError
from peergram.events import SendFlags, SessionRequested
from peergram.identity import Identity
from peergram.timing import NEVER, Deadline
from peergram.wire.channel_header import encode_channel_header
from peergram.wire.data_packet import encode_data_header
from peergram.wire.frames import MESSAGE_NUMBER_MAX, DecodeContext, decode_frames
from peergram.wire.varint import encode_varint
from tests.compiled import REPLACES
from tests.connection.flows import make_flow
from tests.endpoint.world import SECOND_US, connected
from tests.threats.world import SOAK, friends, full_or, operations

HASH_MODULUS = (1 << 61) - 1
"""CPython's: integers that differ by multiples of it collide."""


@pytest.mark.parametrize("number", [MESSAGE_NUMBER_MAX + 1, 2 * HASH_MODULUS, (1 << 64) - 1])
def test_message_numbers_that_could_collide_on_purpose_are_refused(number: int) -> None:
    """E18: a second number with the same hash does not exist below the limit."""
    assert MESSAGE_NUMBER_MAX <= HASH_MODULUS
    payload = b"\x20\x01\x00\x00" + b"\x10" + encode_varint(number - 1) + b"\x00"
    with pytest.raises(WireError, match="message number"):
        decode_frames(payload, DecodeContext(2, 2, lambda _lane: 0, lambda _lane: 1))


def test_lanes_and_channels_are_bounded() -> None:
    """E18."""
    receiver = Receiver(make_flow(), lambda _record, _now_us: None)
    for lane in range(LANES_RECV_MAX):
        receiver.handle_payload(b"\x8f" + encode_varint(lane), 2 + lane, 2_000_000)
    assert len(receiver._flow.receive_lanes) == LANES_RECV_MAX
    with pytest.raises(ConnectionViolated):
        receiver.handle_payload(b"\x8f" + encode_varint(LANES_RECV_MAX), 300, 2_000_000)


def test_a_peer_that_uses_a_new_channel_for_every_message_leaves_nothing_behind() -> None:
    """E18, M2."""
    world, alice, bob = friends()
    rng = Random(1)
    bob.reads = False
    peer = bob.endpoint._peers[alice.identity]
    for _ in range(full_or(500, 20)):
        for _ in range(400):
            channel = rng.getrandbits(31)
            alice.endpoint.send_message(Identity.ip(bob.address), b"x", SendFlags.UNRELIABLE_NO_NAGLE, channel, world.now_us)
        alice.drain()
        world.run(20_000)
        for channel in list(bob.endpoint._inbox._channels):
            bob.endpoint.receive_messages(channel, 100, world.now_us)
        assert not bob.endpoint._inbox._channels
    assert len(peer.session.channels._open) <= CHANNELS_PER_SESSION_MAX
    assert len(encode_channel_header(5)) == 5


def test_events_nobody_fetches_are_bounded() -> None:
    """E18, M4."""
    queue = EventQueue()
    for at in range(EVENTS_MAX + 500):
        queue.tell(SessionRequested(Identity.of(f"stranger-{at}"), "nothing", ""))
    assert len(queue) == EVENTS_MAX


class Owner:
    """Somebody who can be woken."""

    def __init__(self) -> None:
        self.armed_at_us = NEVER


def test_an_owner_who_is_armed_anew_all_the_time_does_not_fill_the_schedule() -> None:
    """E14, V7: each packet heard moves a keepalive ten seconds away; one sleeping session keeps them all from being dropped."""
    schedule = Schedule()
    sleeper, busy = Owner(), Owner()
    schedule.arm(sleeper, Deadline(1_000, "sleeps"))
    for at in range(50_000):
        schedule.arm(busy, Deadline(10_000_000 + at, "keepalive"))
        schedule.poll_timeout()
    assert len(schedule._heap) <= 10_000


def test_a_stream_of_packets_that_say_nothing_does_not_fill_the_schedule() -> None:
    """E14, V7: an authentic peer sends empty packets as fast as it can."""
    world, alice, bob = friends()
    flow = alice.flow_to(bob)
    bob_id = bob.connection_to(alice).connection_id
    for at in range(full_or(200_000, 5_000)):
        number = flow.in_flight.next_number + at
        bob.handle(alice.address, encode_data_header(bob_id, number) + flow.send_cipher.seal(number, b""))
        world.now_us += 20
    assert len(bob.endpoint._schedule._heap) <= 2_000


@pytest.mark.skipif(not SOAK, reason="measures time: set PEERGRAM_SOAK=1")
def test_adversarial_keys_cost_no_more_than_twice_random_ones() -> None:
    """E18: the integers a peer may choose as keys, 50,000 of them."""
    rng = Random(3)
    random_keys = [rng.getrandbits(60) for _ in range(50_000)]
    baseline = min(_seconds_for(random_keys) for _ in range(5))
    for stride in (1 << 32, 1 << 44):
        keys = [at * stride % MESSAGE_NUMBER_MAX for at in range(50_000)]
        assert min(_seconds_for(keys) for _ in range(5)) <= 2.5 * baseline


def _seconds_for(keys: list[int]) -> float:
    begin = time.process_time()
    table = dict.fromkeys(keys)
    assert all(key in table for key in keys)
    return time.process_time() - begin


def test_a_dial_costs_the_same_however_many_sessions_there_are() -> None:
    """E25: no table is looked through for it."""
    endpoint = Endpoint(Identity.of("alice"), entropy=Random(1).randbytes)
    costs = []
    for at in range(300):
        identity = Identity.ip((f"10.0.{at >> 8}.{at & 255}", 7_000))
        costs.append(operations(lambda identity=identity: endpoint.send_message(identity, b"x", 8, 0, 1_000)))  # type: ignore[misc]
    assert max(costs[-10:]) <= 1.2 * max(costs[10:20])


def test_a_peer_that_reconnects_all_the_time_keeps_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """E25: connections that only answer give way to new ones; the table is made small so that it is full soon."""
    monkeypatch.setattr(link_table, "CONNECTIONS_MAX", 20)
    world, alice, bob = connected()
    carol = world.add("carol")
    for _ in range(40):
        alice.kill()
        alice.start()
        alice.send(bob, b"again")
        world.run(60_000)
        assert len(bob.links) <= 20
    carol.send(bob, b"hello")
    world.run_until(lambda: b"hello" in bob.payloads(), SECOND_US)


@REPLACES
@pytest.mark.parametrize("vanishes", [False, True])
def test_peers_that_came_and_went_are_remembered_in_bounded_number(vanishes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """E25: everybody was let in, and nobody stayed."""
    monkeypatch.setattr(remotes_module, "ENDED_SESSIONS_MAX", 5)
    world, _, bob = connected()
    for at in range(15):
        guest = world.add(f"guest {at}")
        guest.send(bob, b"hello")
        world.run(100_000)
        if vanishes:
            guest.kill()
            bob.send(guest.identity, b"are you there?")
        else:
            guest.close_session(bob)
        world.run(100_000)
    world.run(30 * SECOND_US)
    assert len(bob.endpoint.known_peers) == 1 + 5
    assert bob.lost.messages == 15 * vanishes
