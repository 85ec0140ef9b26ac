"""Closes by signal, which nobody signs: on a local network everybody sees the ids that one needs (E16, D21).

The peer himself contradicts: by packet, by an answer to what he is asked by signal, or by asking on. What he leaves
uncontradicted for two seconds is believed, since a peer of the reference closes in no other way. Own peers
prove a close once both have keys.
"""

from __future__ import annotations

import pytest

from peergram.address import Address
from peergram.config import CLAIM_WAIT_SIGNALED_US, Config
from peergram.endpoint.call import Call
from peergram.events import ConnectionState, SessionFailed, SessionRequested
from peergram.routes.candidates import Base, Candidate, CandidateKind
from peergram.wire.signals import Signal, SignalClosed, decode_signal, encode_signal
from tests.endpoint.by_identity import Host, World
from tests.endpoint.test_calls import connected, state_of

ALSO_ALICE = ("192.168.1.12", 40_001)
SLOW = Config(timeout_initial_us=60_000_000)


def call_of(host: Host) -> Call:
    """The only one."""
    calls = host.endpoint._calls
    assert calls is not None
    [call] = calls._calls.values()
    return call


def forge_close(world: World, victim: Host, peer: Host, *, reason: int = 1001) -> None:
    """What an observer sends who has seen all signals, in the name of the peer."""
    rendezvous = call_of(victim).rendezvous
    closed = Signal(
        to_connection_id=rendezvous.connection_id,
        from_connection_id=rendezvous.peer_connection_id or None,
        from_identity=peer.identity.text_bytes,
        connection_closed=SignalClosed(reason, "forged"),
    )
    world.deliver_signal(peer.identity, victim.identity, encode_signal(closed))


def failures(host: Host) -> list[SessionFailed]:
    return [event for event in host.events if isinstance(event, SessionFailed)]


def calling(world: World) -> tuple[Host, Host]:
    """Alice calls, and bob's application has not answered yet."""
    alice, bob = world.hosts["alice"], world.hosts["bob"]
    alice.send(bob)
    assert world.run(1_000_000, lambda: bool(bob.events))
    return alice, bob


def looking_for_a_way(world: World) -> tuple[Host, Host]:
    """Both agreed, and no packet passes."""
    alice, bob = calling(world)
    world.loses_packet = lambda _source, _to, _packet: True
    bob.accept(alice)
    world.run(500_000)
    assert state_of(alice, bob) == state_of(bob, alice) == ConnectionState.FINDING_ROUTE
    return alice, bob


@pytest.mark.parametrize("reason", [1001, 9999])
def test_a_forged_close_does_not_end_a_call_that_is_answered_within_two_seconds(reason: int) -> None:
    world = World("alice", "bob")
    alice, bob = calling(world)
    forge_close(world, alice, bob, reason=reason)
    world.run(CLAIM_WAIT_SIGNALED_US - 100_000)
    bob.accept(alice)
    assert world.run(2_000_000, lambda: bob.endpoint.unread_messages > 0)
    world.run(5_000_000)
    assert state_of(alice, bob) == ConnectionState.CONNECTED


def test_a_close_that_nobody_contradicts_ends_a_call() -> None:
    world = World("alice", "bob")
    alice, bob = calling(world)
    bob.endpoint.close_session(alice.identity, world.now_us)
    bob.drain()
    assert world.run(CLAIM_WAIT_SIGNALED_US + 100_000, lambda: bool(failures(alice)))
    [failed] = failures(alice)
    assert failed.debug == "CloseSessionWithUser"


def test_a_caller_who_asks_on_is_not_taken_for_gone() -> None:
    world = World("alice", "bob")
    alice, bob = calling(world)
    for _ in range(8):
        forge_close(world, bob, alice)
        world.run(1_000_000)
    assert bob.endpoint.pending_request(alice.identity) is not None
    assert bob.accept(alice)
    assert world.run(2_000_000, lambda: bob.endpoint.unread_messages > 0)


def test_a_caller_who_closes_is_withdrawn_soon_and_learns_nothing() -> None:
    world = World("alice", "bob")
    alice, bob = calling(world)
    alice.endpoint.close_session(bob.identity, world.now_us)
    alice.drain()
    assert world.run(4_000_000, lambda: bob.endpoint.pending_request(alice.identity) is None)
    world.run(10_000_000)
    assert bob.signals_sent == 0
    assert bob.packets_sent == 0


def test_a_caller_whom_the_application_never_looked_at_learns_nothing() -> None:
    world = World("alice", "bob")
    alice, bob = calling(world)
    world.loses_signal = lambda host, _to, _blob: host is alice
    world.run(20_000_000)
    assert bob.signals_sent == 0


def test_forged_closes_do_not_end_a_search_for_a_way_while_signals_pass() -> None:
    world = World("alice", "bob", config=SLOW)
    alice, bob = looking_for_a_way(world)
    for second in range(8):
        for victim, peer in ((alice, bob), (bob, alice)):
            forge_close(world, victim, peer, reason=9999 if second % 2 else 1001)
        world.run(1_000_000)
    world.loses_packet = lambda _source, _to, _packet: False
    assert world.run(12_000_000, lambda: bob.endpoint.unread_messages > 0)
    assert not failures(alice) + failures(bob)


def test_a_peer_of_ours_who_gives_up_the_search_proves_it_and_is_believed_at_once() -> None:
    world = World("alice", "bob", config=SLOW)
    alice, bob = looking_for_a_way(world)
    bob.endpoint.close_session(alice.identity, world.now_us)
    bob.drain()
    assert world.run(100_000, lambda: bool(failures(alice)))
    [failed] = failures(alice)
    assert failed.debug == "CloseSessionWithUser"


def test_a_peer_who_cannot_prove_that_he_gave_up_is_believed_after_two_seconds() -> None:
    world = World("alice", "bob", config=SLOW)
    alice, bob = looking_for_a_way(world)

    def takes_proof_away(_host: Host, _to: object, blob: bytes) -> bool:
        signal = decode_signal(blob)
        if signal.connection_closed is None or not signal.connection_closed.goodbye:
            return False
        signal.connection_closed.goodbye = b""
        world.at(world.signal_us, lambda: world.deliver_signal(bob.identity, alice.identity, encode_signal(signal)))
        return True

    world.loses_signal = takes_proof_away
    bob.endpoint.close_session(alice.identity, world.now_us)
    bob.drain()
    assert not world.run(CLAIM_WAIT_SIGNALED_US - 100_000, lambda: bool(failures(alice)))
    assert world.run(200_000, lambda: bool(failures(alice)))


def test_a_goodbye_that_is_damaged_or_not_for_this_connection_proves_nothing() -> None:
    world = World("alice", "bob", config=SLOW)
    alice, bob = looking_for_a_way(world)
    own_id = call_of(alice).rendezvous.connection_id.to_bytes(4, "little")
    for goodbye in (b"x", b"\x80" + own_id, b"\x80" + own_id + bytes(40), b"\x80" + bytes(60), b"\x20" + own_id + bytes(40)):
        rendezvous = call_of(alice).rendezvous
        closed = Signal(
            to_connection_id=rendezvous.connection_id,
            from_connection_id=rendezvous.peer_connection_id,
            from_identity=bob.identity.text_bytes,
            connection_closed=SignalClosed(1001, "forged", goodbye),
        )
        world.deliver_signal(bob.identity, alice.identity, encode_signal(closed))
        world.run(500_000)
    world.run(3_000_000)
    assert state_of(alice, bob) == ConnectionState.FINDING_ROUTE


def lost_way(world: World) -> tuple[Host, Host, list[bytes]]:
    """A session that was up and whose way is lost, and the requests that were seen."""
    requests: list[bytes] = []

    def record(_host: Host, _to: object, blob: bytes) -> bool:
        if decode_signal(blob).connect_request is not None:
            requests.append(blob)
        return False

    world.loses_signal = record
    alice, bob = connected(world)
    world.loses_packet = lambda _source, _to, _packet: True
    bob.send(alice, b"meanwhile")
    world.run(20_000_000)
    assert state_of(bob, alice) == ConnectionState.FINDING_ROUTE
    return alice, bob, requests


def goes_on(world: World, alice: Host, bob: Host) -> bool:
    """Whether nothing of the session is lost once packets pass again."""
    world.loses_packet = lambda _source, _to, _packet: False
    arrived = world.run(15_000_000, lambda: alice.endpoint.unread_messages > 0)
    return arrived and not failures(alice) + failures(bob)


def test_forged_closes_do_not_end_a_session_whose_way_is_lost() -> None:
    world = World("alice", "bob")
    alice, bob, _ = lost_way(world)
    for _ in range(5):
        forge_close(world, bob, alice)
        forge_close(world, alice, bob)
        world.run(1_000_000)
    assert goes_on(world, alice, bob)


def test_who_closes_while_the_way_is_lost_is_believed_at_once() -> None:
    world = World("alice", "bob")
    alice, bob, _ = lost_way(world)
    bob.events.clear()
    alice.endpoint.close_session(bob.identity, world.now_us)
    alice.drain()
    assert world.run(100_000, lambda: bool(failures(bob)))


def test_a_request_of_the_session_that_is_sent_again_does_not_end_it_while_its_way_is_lost() -> None:
    world = World("alice", "bob")
    alice, bob, requests = lost_way(world)
    for _ in range(5):
        world.deliver_signal(alice.identity, bob.identity, requests[0])
        world.run(1_000_000)
    assert goes_on(world, alice, bob)


def test_a_request_of_an_earlier_session_of_the_same_run_does_not_end_the_present_one_while_its_way_is_lost() -> None:
    world = World("alice", "bob")
    requests: list[bytes] = []

    def record(host: Host, _to: object, blob: bytes) -> bool:
        if host.name == "alice" and decode_signal(blob).connect_request is not None:
            requests.append(blob)
        return False

    world.loses_signal = record
    alice, bob = connected(world)
    alice.endpoint.close_session(bob.identity, world.now_us)
    alice.drain()
    world.run(20_000_000)
    bob.events.clear()
    alice, bob, _ = lost_way(world)
    for _ in range(5):
        world.deliver_signal(alice.identity, bob.identity, requests[0])
        world.run(1_000_000)
    assert goes_on(world, alice, bob)


def test_a_request_under_another_key_does_not_end_a_session_while_its_way_is_lost() -> None:
    """Recorded when alice's program ran before, or made up by somebody: without pinned names that is all the same."""
    world = World("alice", "bob")
    caught = world.catch_signals(loses=True)
    world.hosts["alice"].send(world.hosts["bob"])
    request = caught[0]
    world.add("alice", "192.168.1.10")
    alice, bob, _ = lost_way(world)
    for _ in range(5):
        world.deliver_signal(alice.identity, bob.identity, request)
        world.run(1_000_000)
    assert goes_on(world, alice, bob)


def test_a_peer_that_started_over_while_the_way_was_lost_is_let_in_soon() -> None:
    world = World("alice", "bob")
    _, bob, _ = lost_way(world)
    world.loses_packet = lambda _source, _to, _packet: False
    bob.events.clear()
    again = world.add("alice", "192.168.1.10")
    again.send(bob, b"it is me again")
    assert world.run(CLAIM_WAIT_SIGNALED_US + 500_000, lambda: any(isinstance(event, SessionRequested) for event in bob.events))


def test_a_packet_sent_again_in_the_same_moment_proves_no_way() -> None:
    world = World("alice", "bob")
    alice, bob = connected(world)
    seen: list[tuple[Address, bytes]] = []

    def record(source: Address, to: Address, packet: bytes) -> bool:
        if to[0] == bob.address and packet[0] >= 0x80:
            seen.append((source, packet))
        return False

    world.loses_packet = record
    alice.send(bob, b"once")
    assert world.run(1_000_000, lambda: bob.endpoint.unread_messages > 0)
    call = call_of(bob)
    assert call.agent is not None
    [socket_id] = bob.sockets
    way, (source, packet) = (Base(socket_id), ALSO_ALICE), seen[0]
    call.agent.add_remote(Candidate(CandidateKind.HOST, ALSO_ALICE, 1, "1"), world.now_us)
    pair = call.agent._list.pairs[way]
    heard_at_us = pair.heard_at_us
    assert call.link.connection.flow is not None
    assert call.link.connection.flow.liveness.last_heard_us == world.now_us, "this very moment"
    assert call.way == (Base(socket_id), source)
    bob.endpoint.handle_datagrams(socket_id, ALSO_ALICE, packet, len(packet), world.now_us)
    assert pair.heard_at_us == heard_at_us
