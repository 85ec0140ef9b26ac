"""What an endpoint tells its next run, and what it does with what the last one told; and what its calls take of memory."""

from __future__ import annotations

import gc
import tracemalloc
from pathlib import Path

import peergram
from peergram.config import REMEMBERED_CALLS_MAX, REMEMBERED_PER_PEER_MAX, SIGNAL_OLD_RUN_US, SIGNAL_REQUEST_QUICK_US, Config
from peergram.endpoint.endpoint import Endpoint
from peergram.endpoint.memory import Memory
from peergram.events import SessionFailed, SessionRequested
from peergram.identity import Identity
from peergram.io_requests import CallNote
from peergram.signaling.rendezvous import NO_CONNECTION
from peergram.wire.signals import Signal, SignalClosed, decode_signal, encode_signal
from tests.endpoint.by_identity import START_US, Host, World

BOB, CAROL = Identity.of("bob"), Identity.of("carol")


def told(endpoint: Endpoint) -> dict[int, Identity]:
    """What the next run would know, if it knew nothing before."""
    live: dict[int, Identity] = {}
    while (note := endpoint.poll_memory()) is not None:
        if note.is_live:
            live[note.connection_id] = note.peer
        else:
            del live[note.connection_id]
    return live


def restarted(world: World, *old_ids: int) -> Host:
    """Alice again, who is told of connections of her earlier run with bob."""
    return world.add("alice", "192.168.1.99", remembered=[(BOB, old_id) for old_id in old_ids])


def confirm(world: World, old_id: int) -> None:
    """What a peer of the reference says when it has closed that."""
    closed = Signal(
        to_connection_id=old_id, from_connection_id=9, from_identity=BOB.text_bytes, connection_closed=SignalClosed(NO_CONNECTION)
    )
    world.deliver_signal(BOB, Identity.of("alice"), encode_signal(closed))


def closes_and_requests(blobs: list[bytes]) -> list[int | str]:
    """In short: ids of the old run that were closed, and requests."""
    said: list[int | str] = []
    for signal in map(decode_signal, blobs):
        if signal.connection_closed is not None:
            assert signal.to_connection_id is None
            said.append(signal.from_connection_id or 0)
        elif signal.connect_request is not None:
            said.append("request")
    return said


def test_a_call_that_nobody_has_answered_is_told_and_taken_back_at_its_end() -> None:
    world = World("alice")
    alice = world.hosts["alice"]
    alice.endpoint.send_message(BOB, b"hello", 8, 0, world.now_us)
    alice.drain()
    live = told(alice.endpoint)
    assert list(live.values()) == [BOB]
    world.run(30_000_000)
    assert [event.identity for event in alice.events if isinstance(event, SessionFailed)] == [BOB]
    assert alice.endpoint.poll_memory() == CallNote(BOB, next(iter(live)), is_live=False)
    assert alice.endpoint.poll_memory() is None


def test_sessions_of_our_own_peers_are_not_told() -> None:
    world = World("alice", "bob")
    alice, bob = world.hosts["alice"], world.hosts["bob"]
    alice.send(bob)
    world.run(1_000_000, lambda: bool(bob.events))
    bob.accept(alice)
    assert world.run(1_000_000, lambda: bob.endpoint.unread_messages > 0)
    assert told(alice.endpoint) == told(bob.endpoint) == {}


def test_the_connections_of_the_earlier_run_are_closed_ahead_of_the_request() -> None:
    world = World()
    alice = restarted(world, 5, 6)
    caught = world.catch_signals(loses=True)
    world.run(5_000_000)
    assert caught == []
    alice.endpoint.send_message(BOB, b"hello", 8, 0, world.now_us)
    alice.drain()
    began_us = world.now_us
    assert world.run(1_000_000, lambda: "request" in closes_and_requests(caught))
    assert closes_and_requests(caught) == [5, 6, "request"]
    assert SIGNAL_OLD_RUN_US <= world.now_us - began_us <= SIGNAL_OLD_RUN_US + 20_000


def test_the_request_goes_as_soon_as_the_peer_confirms() -> None:
    world = World()
    alice = restarted(world, 5)
    caught = world.catch_signals(loses=True)
    alice.endpoint.send_message(BOB, b"hello", 8, 0, world.now_us)
    alice.drain()
    assert closes_and_requests(caught) == [5]
    world.run(15_000)
    confirm(world, 5)
    assert closes_and_requests(caught) == [5, "request"]
    assert CallNote(BOB, 5, is_live=False) in [alice.endpoint.poll_memory(), alice.endpoint.poll_memory()]
    world.run(SIGNAL_REQUEST_QUICK_US)
    assert closes_and_requests(caught) == [5, "request", "request"]


def test_what_is_not_confirmed_is_closed_again_ahead_of_the_next_request() -> None:
    world = World()
    alice = restarted(world, 5, 6)
    caught = world.catch_signals(loses=True)
    alice.endpoint.send_message(BOB, b"hello", 8, 0, world.now_us)
    alice.drain()
    world.run(50_000)
    confirm(world, 5)
    world.run(SIGNAL_REQUEST_QUICK_US + 200_000)
    assert closes_and_requests(caught) == [5, 6, "request", 6, "request"]


def test_nobody_else_can_have_the_earlier_run_forgotten() -> None:
    world = World()
    alice = restarted(world, 5)
    closed = Signal(to_connection_id=5, from_identity=CAROL.text_bytes, connection_closed=SignalClosed(NO_CONNECTION))
    world.deliver_signal(CAROL, alice.identity, encode_signal(closed))
    assert alice.endpoint.poll_memory() is None
    assert alice.endpoint.dropped.unknown == 1


def test_a_peer_who_asks_anew_himself_holds_on_to_nothing() -> None:
    world = World("bob")
    alice, bob = restarted(world, 5), world.hosts["bob"]
    caught = world.catch_signals(loses=False)
    bob.send(alice)
    world.run(1_000_000, lambda: any(isinstance(event, SessionRequested) for event in alice.events))
    assert alice.signals_sent == 0
    alice.accept(bob)
    assert world.run(1_000_000, lambda: alice.endpoint.unread_messages > 0)
    assert 5 not in closes_and_requests(caught)
    assert alice.endpoint.poll_memory() == CallNote(BOB, 5, is_live=False)


def test_a_peer_of_our_own_is_not_in_doubt_of_a_memory_that_is_wrong() -> None:
    """The program was changed, or the id is somebody's who forged the file: it costs a moment, and no session."""
    world = World("bob")
    alice, bob = restarted(world, 5, 6, 7, 8), world.hosts["bob"]
    alice.send(bob)
    assert world.run(1_000_000, lambda: bool(bob.events))
    bob.accept(alice)
    assert world.run(1_000_000, lambda: bob.endpoint.unread_messages > 0)
    assert world.now_us - START_US <= 400_000
    assert told_of(alice.endpoint) == {5: False, 6: False, 7: False, 8: False}


def told_of(endpoint: Endpoint) -> dict[int, bool]:
    notes: dict[int, bool] = {}
    while (note := endpoint.poll_memory()) is not None:
        notes[note.connection_id] = note.is_live
    return notes


def test_what_is_remembered_has_bounds() -> None:
    memory = Memory((BOB, number) for number in range(1, 20))
    assert memory.old_ids(BOB) == list(range(20 - REMEMBERED_PER_PEER_MAX, 20))
    for number in range(100, 100 + REMEMBERED_CALLS_MAX + 10):
        memory.keep(CAROL, number)
    notes = 0
    while memory.poll() is not None:
        notes += 1
    # Those with bob that are too many are taken back.
    assert notes == REMEMBERED_CALLS_MAX + 19 - REMEMBERED_PER_PEER_MAX


def test_an_own_peer_that_was_killed_is_back_within_two_seconds_and_what_it_was_owed_is_reported() -> None:
    """Its key is new, so that it has to be accepted again; the one that survives finds out by itself (D3)."""
    world = World("alice", "bob", config=Config())
    alice, bob = world.hosts["alice"], world.hosts["bob"]
    alice.send(bob)
    world.run(1_000_000, lambda: bool(bob.events))
    bob.accept(alice)
    assert world.run(1_000_000, lambda: bob.endpoint.unread_messages > 0)
    bob.received()
    world.run(1_000_000)
    again = world.add("alice", "192.168.1.10")
    for number in range(3):
        bob.send(again, b"to the one who died %d" % number)
    bob.events.clear()
    began_us = world.now_us
    again.send(bob, b"back")
    assert world.run(2_000_000, lambda: any(isinstance(event, SessionRequested) for event in bob.events))
    bob.accept(again)
    assert world.run(2_000_000 - (world.now_us - began_us), lambda: bob.endpoint.unread_messages > 0)
    assert [message.payload for message in bob.received()] == [b"back"]
    [failed] = [event for event in bob.events if isinstance(event, SessionFailed)]
    assert (failed.identity, failed.unconfirmed.messages) == (again.identity, 3)
    assert again.received() == []
    bob.send(again, b"welcome")
    assert world.run(1_000_000, lambda: again.endpoint.unread_messages > 0)


CALLED_BYTES_MAX = 18_000
"""An idle session by identity: 14 kB for the connection, the rest for signals and for ICE with one pair of addresses. Two
contexts of the cipher take 5 kB more outside Python."""


def own_bytes() -> int:
    """What the package has allocated, its dataclasses included; other threads, such as the test runner's, allocate as well."""
    ours = [tracemalloc.Filter(True, name) for name in (str(Path(peergram.__file__).parent / "*"), "<string>")]
    return sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces(ours).traces)


def test_what_an_idle_session_by_identity_takes_is_bounded() -> None:
    config, count = Config(session_idle_us=3_600_000_000), 20
    world = World("hub", config=config)
    hub = world.hosts["hub"]

    def gather(names: list[str]) -> None:
        for name in names:
            host = world.add(name, f"10.0.{len(world.hosts)}.7", config)
            host.send(hub)
            world.run(50_000)
            assert hub.accept(host)
            world.run(100_000)
        world.run(40_000_000)
        assert len(hub.received()) == len(names)

    gather(["a", "b"])
    gc.collect()
    tracemalloc.start()
    try:
        before = own_bytes()
        names = [f"host-{number}" for number in range(count)]
        gather(names)
        for name in names:
            del world.hosts[name]
        world.forget_packets()
        hub.events.clear()
        gc.collect()
        after = own_bytes()
    finally:
        tracemalloc.stop()
    assert (after - before) / count < CALLED_BYTES_MAX
