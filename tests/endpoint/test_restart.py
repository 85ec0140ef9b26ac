"""A process that ends without a word and comes back: its peer reports what is unconfirmed, and goes on with the new run.

Also here: where a second dial to the same address leaves from.
"""

from __future__ import annotations

import pytest

from peergram.address import Address
from peergram.config import CLAIM_WAIT_OWN_PEER_US, Config
from peergram.errors import End, EndReason, Result
from peergram.events import ConnectionState
from peergram.identity import Identity
from peergram.wire.control import ConnectionClosed, NoConnection, encode_control
from tests.endpoint.world import NO_NAGLE, PORT, RELIABLE, SECOND_US, Host, World, connected, steady

TWICE = "the restarted peer's dial is keyed by its certificate, so the session under its address is neither ended nor replaced"


@pytest.mark.parametrize("lost", [0, 3])
@pytest.mark.parametrize("new_key", [False, True], ids=["same key", "new key"])
def test_a_dialer_that_restarts_takes_its_session_over(new_key: bool, lost: int) -> None:
    """Row: an incoming attempt during a live session is the peer's restart."""
    world, alice, bob = connected()
    alice.kill()
    for _ in range(lost):
        bob.send(alice.identity, b"never confirmed")
    world.run(200_000)
    alice.start(new_key=new_key)
    alice.send(bob, b"I am back")
    world.run(2 * SECOND_US)
    assert bob.payloads() == [b"I am back"]
    assert len(bob.requests) == new_key, "the same key is accepted already, a new one is a new question"
    assert [failure.unconfirmed.messages for failure in bob.failures] == ([lost] if lost else [])
    assert len(bob.live) == len(alice.live) == 1
    bob.send(alice.identity, b"welcome")
    world.run(SECOND_US)
    assert alice.payloads() == [b"welcome"], "and nothing of the session before"


@pytest.mark.parametrize("ending", ["killed", "closed"])
def test_what_an_old_session_left_goes_to_the_application_before_what_the_new_one_brings(ending: str) -> None:
    """V1: a large message that still waits for room is not overtaken by small ones of the session after it."""
    world, alice, bob = connected(Config(recv_buffer_bytes=20_000))
    bob.reads = False
    old = [b"small", bytes(15_000), bytes(16_000)]
    for data in old:
        alice.send(bob, data)
    world.run(SECOND_US)
    if ending == "killed":
        alice.kill()
        alice.start()
    else:
        alice.close_session(bob)
        world.run(SECOND_US)
    alice.send(bob, b"new")
    world.run(2 * SECOND_US)
    bob.reads = True
    bob.drain()
    world.run(5 * SECOND_US)
    assert bob.payloads()[-1] == b"new"
    assert bob.payloads()[:-1] == old[: len(bob.payloads()) - 1]
    assert len(bob.payloads()) >= 3, "what was acknowledged is delivered"


@pytest.mark.parametrize("lost", [0, 3])
@pytest.mark.parametrize("new_key", [False, True], ids=["same key", "new key"])
def test_an_acceptor_that_restarts_and_dials_back_takes_its_session_over(new_key: bool, lost: int) -> None:
    """Row: an incoming attempt during a live session is the peer's restart, where the session is known by its address."""
    world, alice, bob = connected()
    bob.kill()
    for _ in range(lost):
        alice.send(bob, b"never confirmed")
    world.run(200_000)
    bob.start(new_key=new_key)
    bob.send(alice, b"I am back")
    world.run(2 * SECOND_US)
    assert alice.payloads() == [b"I am back"]
    assert [failure.unconfirmed.messages for failure in alice.failures] == ([lost] if lost else [])
    assert len(alice.live) == len(bob.live) == 1
    alice.send(bob, b"welcome")
    world.run(SECOND_US)
    assert bob.payloads() == [b"welcome"]


@pytest.mark.parametrize("new_key", [False, True], ids=["same key", "new key"])
def test_an_acceptor_that_restarts_is_dialed_again_after_the_time_out(new_key: bool) -> None:
    """Rows: peer dies, reliable data in flight; restart."""
    world, alice, bob = connected()
    bob.kill()
    alice.send(bob, b"never confirmed")
    world.run(SECOND_US)
    bob.start(new_key=new_key)
    world.run_until(lambda: alice.failures)
    assert alice.lost.messages == 1
    assert alice.send(bob, b"again", RELIABLE | 32) == Result.OK
    world.run(SECOND_US)
    assert bob.payloads() == [b"again"]


@pytest.mark.parametrize("closer", ["dialer", "acceptor"])
def test_a_peer_whose_close_was_lost_can_open_again(closer: str) -> None:
    """Row: an incoming attempt during a live session; here the same run asks again."""
    world, alice, bob = connected()
    here, there, named = (alice, bob, bob.dialed) if closer == "dialer" else (bob, alice, alice.identity)
    here.close_session(named)
    world.cut.add(frozenset((alice, bob)))
    world.run(2_500_000)
    world.cut.clear()
    here.send(there, b"again")
    world.run(3 * SECOND_US)
    assert there.payloads() == [b"again"]
    assert not here.failures
    assert not there.failures


def test_an_old_run_cannot_disturb_the_new_one() -> None:
    """Row: restart; old packets never reach the new session."""
    world, alice, bob = connected()
    world.records = True
    for number in range(10):
        alice.send(bob, b"old %d" % number, RELIABLE | NO_NAGLE)
    world.run(SECOND_US)
    old = [packet for _, source, _, packet in world.sent if source == alice.address]
    alice.kill()
    alice.start()
    alice.send(bob, b"new")
    world.run(SECOND_US)
    bob.received.clear()
    for packet in old * 3:
        world.deliver(alice.address, bob.address, packet)
    world.run(SECOND_US)
    assert not bob.received
    alice.send(bob, b"still here")
    world.run(SECOND_US)
    assert bob.payloads() == [b"still here"]


def test_a_recorded_connect_request_ends_no_session() -> None:
    """Row: nobody can end a session by claiming a name; a replayed hello is no restart (V15)."""
    world, alice, bob = connected()
    alice.close_session(bob)
    world.run(10 * SECOND_US)
    world.records = True
    alice.send(bob, b"one")
    world.run(SECOND_US)
    hellos = [packet for _, source, _, packet in world.sent if source == alice.address and packet[0] in (32, 34)]
    assert len(hellos) == 2
    for source in (alice.address, ("10.0.0.77", 7_000)):
        for after_us in (0, SECOND_US, 6 * SECOND_US):
            world.run(after_us)
            for packet in hellos:
                world.deliver(source, bob.address, packet)
    alice.send(bob, b"two")
    world.run(SECOND_US)
    assert bob.payloads() == [b"one", b"two"]
    assert len(bob.live) == 1


def test_a_stranger_with_the_same_name_ends_no_session() -> None:
    """Row: nobody can end a session by claiming a name."""
    world, alice, bob = connected()
    mallory = world.add("alice", starts=False)
    mallory.start(new_key=True)
    mallory.send(bob, b"I am alice, believe me")
    for number in range(50):
        alice.send(bob, b"%d" % number)
        world.run(100_000)
    assert bob.payloads() == [b"%d" % number for number in range(50)]
    assert not bob.failures
    assert not alice.failures


def test_a_stranger_with_the_same_name_waits_until_the_session_is_over() -> None:
    """Row: otherwise it stays a pending request; the old path failed, so it is the application's turn."""
    world, alice, bob = connected()
    other = world.add("alice", starts=False)
    other.start(new_key=True)
    alice.kill()
    other.send(bob, b"the real one now")
    world.run_until(lambda: bob.received)
    assert [request.address for request in bob.requests] == ["10.0.0.2:7000"]


def test_an_unproven_close_of_a_live_connection_is_not_believed() -> None:
    """Row: an unauthenticated close is believed only if a probe stays unanswered."""
    world, alice, bob = connected(network=steady(20_000))
    (here,) = alice.live
    ours, theirs = here.connection_id, here.peer_connection_id
    for forged in (ConnectionClosed(ours, theirs, 1_000, "bye"), NoConnection(to_connection_id=ours, from_connection_id=theirs)):
        world.deliver(bob.address, alice.address, encode_control(forged))
        world.run(SECOND_US)
        info = alice.info(bob)
        assert info is not None
        assert info.state == ConnectionState.CONNECTED


def believed_after_us(world: World, alice: Host, bob: Host) -> int:
    """How long Alice asks a dead Bob before she believes a close that nobody signed."""
    (here,) = alice.live
    forged = ConnectionClosed(here.connection_id, here.peer_connection_id, 1_000, "bye")
    bob.kill()
    world.deliver(bob.address, alice.address, encode_control(forged))
    began_us = world.now_us
    world.run_until(lambda: not alice.live)
    return world.now_us - began_us


@pytest.mark.usefixtures("reference_rules")
def test_an_unproven_close_is_believed_when_a_reference_peer_is_silent() -> None:
    """Row: an unauthenticated close is believed only if a probe stays unanswered for max(3 RTT, 250 ms)."""
    assert 250_000 <= believed_after_us(*connected(network=steady(20_000))) <= 300_000
    assert 600_000 <= believed_after_us(*connected(network=steady(100_000))) <= 700_000


def test_an_unproven_close_is_believed_when_an_own_peer_is_silent() -> None:
    """Row: as above; own peers say goodbye inside the encryption, so that there is no hurry."""
    assert CLAIM_WAIT_OWN_PEER_US <= believed_after_us(*connected(network=steady(20_000))) <= CLAIM_WAIT_OWN_PEER_US + 50_000


# --- where dials leave from ---


def sources(world: World, host: Host) -> list[Address]:
    """The local addresses from which a host asked for challenges, each once, in order."""
    return list(dict.fromkeys(source for _, source, _, packet in world.sent if packet[0] == 32 and source[0] == host.ip))


def test_a_dial_leaves_from_the_listening_socket() -> None:
    """Crossing dials depend on it."""
    world = World()
    world.records = True
    alice, bob = world.add("alice"), world.add("bob")
    alice.send(bob, b"x")
    world.run(SECOND_US)
    assert sources(world, alice) == [alice.address]


def test_dials_without_a_listening_socket_share_one() -> None:
    """One local port for all, so that thousands of sessions need one socket."""
    world = World()
    world.records = True
    alice = world.add("alice", listens=False)
    for name in ("bob", "carol"):
        alice.send(world.add(name), b"x")
    world.run(SECOND_US)
    assert len(sources(world, alice)) == 1
    assert len(alice.sockets) == 1


def test_strangers_find_nobody_behind_a_socket_that_only_dials() -> None:
    """Who does not listen is reachable for those he dialed."""
    world = World()
    alice, bob, carol = world.add("alice", listens=False), world.add("bob"), world.add("carol")
    alice.send(bob, b"hello")
    world.run_until(lambda: bob.received)
    (dialing,) = alice.sockets.values()
    carol.send(Identity.ip(dialing), b"let me in")
    world.run(2 * SECOND_US)
    assert not alice.requests
    assert not alice.received


def test_strangers_may_dial_every_socket_that_listens() -> None:
    """Two addresses of one family, and both are told."""
    world = World()
    alice, bob = world.add("alice"), world.add("bob")
    second = (bob.ip, PORT + 1)
    bob.endpoint.listen(second)
    bob.drain()
    assert bob.endpoint.local_addresses == [bob.address, second]
    alice.send(Identity.ip(second), b"hello")
    world.run_until(lambda: bob.received)


def test_a_second_dial_to_a_peer_that_did_not_answer_takes_a_fresh_port() -> None:
    """A reference server may hold the old connection of a port for up to 26 s."""
    world = World()
    world.records = True
    alice, bob = world.add("alice", listens=False), world.add("bob", starts=False)
    for _ in range(2):
        alice.send(bob, b"anybody?", RELIABLE | 32)
        world.run(11 * SECOND_US)
    assert len(sources(world, alice)) == 2


def test_a_second_dial_from_a_listening_socket_keeps_its_port_while_the_peers_kind_is_unknown() -> None:
    """Dials of own peers must cross there."""
    world = World()
    world.records = True
    alice, bob = world.add("alice"), world.add("bob", starts=False)
    for _ in range(2):
        alice.send(bob, b"anybody?", RELIABLE | 32)
        world.run(11 * SECOND_US)
    assert sources(world, alice) == [alice.address]


@pytest.mark.usefixtures("reference_rules")
def test_a_second_dial_to_a_reference_peer_takes_a_fresh_port_that_is_closed_later() -> None:
    """A reference server may hold the old connection of a port for up to 26 s."""
    world = World()
    world.records = True
    alice, bob = world.add("alice"), world.add("bob")
    for number in range(2):
        alice.send(bob, b"%d" % number)
        world.run(SECOND_US)
        alice.close_session(bob)
        world.run(SECOND_US)
    assert len(sources(world, alice)) == 2
    assert bob.payloads() == [b"0", b"1"]
    world.run(10 * SECOND_US)
    assert len(alice.sockets) == 1


@pytest.mark.usefixtures("reference_rules")
def test_a_dial_to_a_reference_peer_uses_the_old_port_after_the_quiet_time() -> None:
    """After 26 s the reference has forgotten the connection."""
    world = World()
    world.records = True
    alice, bob = world.add("alice"), world.add("bob")
    for number in range(2):
        alice.send(bob, b"%d" % number)
        world.run(SECOND_US)
        alice.close_session(bob)
        world.run(40 * SECOND_US)
    assert sources(world, alice) == [alice.address]
    assert bob.payloads() == [b"0", b"1"]


def test_a_second_dial_to_an_own_peer_keeps_its_port() -> None:
    """Own peers tell connections apart by their ids, and crossing dials need the listening port."""
    world = World()
    world.records = True
    alice, bob = world.add("alice"), world.add("bob")
    for number in range(3):
        alice.send(bob, b"%d" % number)
        world.run(SECOND_US)
        alice.close_session(bob)
        world.run(SECOND_US)
    assert sources(world, alice) == [alice.address]
    assert bob.payloads() == [b"0", b"1", b"2"]


def test_a_peer_behind_a_dead_socket_can_be_dialed_again() -> None:
    """A socket that broke is replaced by the next dial."""
    world = World()
    alice, bob = world.add("alice", Config(), listens=False), world.add("bob")
    alice.send(bob, b"one")
    world.run(SECOND_US)
    (socket_id,) = alice.sockets
    del world.bound[alice.sockets.pop(socket_id)]
    alice.endpoint.handle_socket_failed(socket_id, "gone", world.now_us)
    alice.drain()
    assert alice.failures == [] or alice.failures[0].reason == EndReason.LOCAL_NETWORK_CONFIG
    assert alice.send(bob, b"two", RELIABLE | 32) == Result.OK
    world.run(SECOND_US)
    assert bob.payloads() == [b"one", b"two"]


def test_what_waits_for_a_handshake_never_arrives_after_the_next_session_whichever_name_was_dialed() -> None:
    """V1: found by a storm of opening and closing; dials had crossed before, so the peer went by his own name."""
    world = World()
    alice, bob = world.add("alice", Config(linger_us=5 * SECOND_US)), world.add("bob")
    bob.send(alice, b"hello")
    world.run(SECOND_US)
    alice.send(bob, b"by address")
    world.run(SECOND_US)
    bob.close_session(alice)
    world.run(10 * SECOND_US)
    world.network = lambda sender, receiver, packet: []
    alice.send(bob, b"first")
    alice.close_session(bob)
    world.network = steady(10_000)
    alice.send(bob, b"second")
    world.run(10 * SECOND_US)
    assert bob.payloads() == [b"by address", b"second"]
    assert alice.lost.messages == 1


def test_what_waits_for_a_handshake_never_arrives_after_a_session_that_the_peer_asked_for() -> None:
    """V1: found by a storm of opening and closing; the next session is an accepted one."""
    world = World()
    alice, bob = world.add("alice", Config(linger_us=5 * SECOND_US)), world.add("bob", accepts=False)
    world.network = lambda sender, receiver, packet: []
    alice.send(bob, b"first")
    alice.close_session(bob)
    world.network = steady(10_000)
    alice.accepts = False
    bob.send(alice, b"hello")
    world.run_until(lambda: alice.requests)
    alice.send(bob.identity, b"second")
    world.run(10 * SECOND_US)
    assert bob.payloads() == [b"second"]
    assert alice.lost.messages == 1


def test_a_session_closed_while_messages_found_no_room_gives_the_room_back() -> None:
    """M1: what nobody wants any more is not kept until the connection is forgotten."""
    world, alice, bob = connected(Config(recv_buffer_messages=2))
    bob.reads = False
    for _ in range(8):
        alice.send(bob, bytes(500))
    world.run(SECOND_US)
    (link,) = bob.links
    flow = link.connection.flow
    assert flow is not None
    assert flow.blocked_lanes
    bob.close_session(alice.identity)
    assert flow.room.unread_messages == flow.room.stream_bytes == flow.buffered_bytes == 0


def test_a_claimed_end_that_is_looked_at_late_still_waits_for_an_answer() -> None:
    """V13 and E16: a host that stood still owes the peer the time for his answer, and has no deadline left in the past."""
    world, alice, _ = connected()
    (connection,) = alice.live
    connection.doubt(End(1000, "claimed", by_peer=True), world.now_us)
    late_us = world.now_us + 5 * SECOND_US
    flow = connection.flow
    assert flow is not None
    flow.liveness.heard(late_us)
    connection.handle_timeout(late_us)
    connection.poll_transmit(late_us)
    assert connection.is_live
    deadline = connection.poll_timeout(late_us)
    assert deadline is not None
    assert deadline.at_us > late_us
