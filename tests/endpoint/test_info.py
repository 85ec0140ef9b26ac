"""What `get_session_connection_info` says: one test per row of that part of the semantics table, on direct UDP sessions.

The rows that are not here, with the work that builds it:

| row | built with |
| --- | --- |
| values while unknown in the GodotSteam dress: ping -1, quality -1.0, queue_time 2^63-1 | `adapters.godot_steam` |
| flags: 16 relayed, 32 dual Wi-Fi | routes |
| rates over native ICE | routes |
| remote_pop, pop_relay | relays |
"""

from __future__ import annotations

import pytest

from peergram.config import Config
from peergram.events import ConnectionState, InfoFlags
from peergram.identity import Identity
from tests.endpoint.world import NO_NAGLE, RELIABLE, SECOND_US, UNRELIABLE, World, connected, steady


def test_without_a_session_both_parts_are_empty() -> None:
    """Row: no session."""
    alice = World().add("alice")
    for who in (Identity.of("bob"), Identity.ip(("10.0.0.9", 7_000)), alice.identity):
        assert alice.info(who) is None
        assert alice.status(who) is None


def test_values_are_none_while_they_are_unknown() -> None:
    """Row: values while unknown."""
    world = World()
    alice, bob = world.add("alice"), world.add("bob", starts=False)
    alice.send(bob, b"x")
    status, info = alice.status(bob), alice.info(bob)
    assert status is not None
    assert info is not None
    assert status.state == info.state == ConnectionState.CONNECTING
    assert [status.ping_ms, status.quality_local, status.quality_remote, status.queue_time_us, status.max_jitter_us] == [None] * 5
    assert info.identity is None
    assert info.address == "10.0.0.1:7000"
    assert (info.end_reason, info.end_debug, info.key_fingerprint, info.proven_by) == (0, "", "", "nothing")
    assert info.flags == InfoFlags.UNAUTHENTICATED | InfoFlags.UNENCRYPTED


def test_what_waits_for_the_connection_is_pending() -> None:
    """Row: pending_reliable; also while connecting."""
    world = World()
    alice, bob = world.add("alice"), world.add("bob", starts=False)
    alice.send(bob, bytes(1_000))
    status = alice.status(bob)
    assert status is not None
    assert status.pending_reliable_bytes >= 1_000


@pytest.mark.parametrize(
    ("config", "flags"),
    [(Config(), InfoFlags.UNAUTHENTICATED), (Config(unencrypted=3), InfoFlags.UNAUTHENTICATED | InfoFlags.UNENCRYPTED)],
)
def test_flags_say_what_is_not_secured(config: Config, flags: InfoFlags) -> None:
    """Row: flags."""
    _, alice, bob = connected(config, steady(50_000))
    for host, who in ((alice, bob.dialed), (bob, alice.identity)):
        info = host.info(who)
        assert info is not None
        assert info.flags == flags


def test_a_peer_that_is_its_key_is_authenticated() -> None:
    """Row: flags."""
    world = World(steady(50_000))
    alice, bob = world.add(""), world.add("bob")
    alice.send(bob, b"x")
    world.run(SECOND_US)
    here, there = alice.info(bob), bob.info(alice.identity)
    assert here is not None
    assert there is not None
    assert there.proven_by == "key"
    assert not there.flags & InfoFlags.UNAUTHENTICATED
    assert here.flags & InfoFlags.UNAUTHENTICATED, "bob is only a name"


def test_a_near_peer_is_fast() -> None:
    """Row: flags, 8 fast: a private address that answers within 5 ms."""
    for delay_us, fast in ((1_000, True), (20_000, False)):
        _, alice, bob = connected(network=steady(delay_us))
        info = alice.info(bob)
        assert info is not None
        assert bool(info.flags & InfoFlags.FAST) == fast


def test_both_sides_know_the_others_identity_key_and_kind() -> None:
    """Header: identity and description."""
    _, alice, bob = connected()
    here, there = alice.info(bob), bob.info(alice.identity)
    assert here is not None
    assert there is not None
    assert (here.identity, here.address, here.own_peer) == (bob.identity, "10.0.0.1:7000", True)
    assert (there.identity, there.address, there.own_peer) == (alice.identity, "10.0.0.0:7000", True)
    assert here.key_fingerprint != there.key_fingerprint
    assert {here.key_fingerprint[:7], there.key_fingerprint[:7]} == {"SHA256:"}
    assert bob.dialed.text in here.description


def test_rates_ping_and_quality_are_true() -> None:
    """Row: rates."""
    world, alice, bob = connected(Config(rate="fixed", send_rate_bytes=100_000), steady(25_000))
    for _ in range(100):
        alice.send(bob, bytes(9_000), UNRELIABLE)
        world.run(100_000)
    out, into = alice.status(bob), bob.status(alice.identity)
    assert out is not None
    assert into is not None
    assert out.out_bytes_per_s == pytest.approx(90_000, rel=0.1)
    assert into.in_bytes_per_s == pytest.approx(90_000, rel=0.1)
    assert out.out_packets_per_s == pytest.approx(into.in_packets_per_s, rel=0.1)
    assert out.ping_ms == 50
    assert into.quality_local == 1.0
    assert out.send_rate_bytes_per_s == 100_000


def test_what_is_queued_and_under_way_adds_up() -> None:
    """Rows: pending_reliable includes framing; queue_time is a true estimate."""
    world, alice, bob = connected(Config(rate="fixed", send_rate_bytes=100_000), steady(25_000))
    alice.send(bob, bytes(50_000), RELIABLE | NO_NAGLE)
    alice.send(bob, b"small", UNRELIABLE)
    status = alice.status(bob)
    assert status is not None
    assert 50_000 <= status.pending_reliable_bytes + status.sent_unacked_reliable_bytes <= 50_016
    assert status.pending_unreliable_bytes == 0 or status.pending_unreliable_bytes == 10
    assert status.queue_time_us is not None
    asked_at_us = world.now_us
    alice.send(bob, b"last", RELIABLE)
    world.run_until(lambda: b"last" in bob.payloads())
    waited_us = world.now_us - asked_at_us - 25_000
    assert status.queue_time_us == pytest.approx(waited_us, rel=0.1)
    world.run(SECOND_US)
    after = alice.status(bob)
    assert after is not None
    assert after.pending_reliable_bytes == after.sent_unacked_reliable_bytes == after.queue_time_us == 0


def test_info_stays_after_a_failure_until_the_idle_time() -> None:
    """Row: how long after the end."""
    world, alice, bob = connected()
    bob.kill()
    alice.send(bob, b"x")
    world.run(30 * SECOND_US)
    info, status = alice.info(bob), alice.status(bob)
    assert info is not None
    assert status is not None
    assert info.state == status.state == ConnectionState.PROBLEM_DETECTED_LOCALLY
    assert (info.identity, info.address) == (bob.identity, "10.0.0.1:7000")
    assert info.end_debug
    world.run(160 * SECOND_US)
    assert alice.info(bob) is None


def test_the_internal_states_never_show() -> None:
    """Header: states below zero are the library's own."""
    world, alice, bob = connected()
    alice.send(bob, bytes(10_000))
    bob.send(alice.identity, bytes(10_000))
    alice.close_session(bob)
    for _ in range(100):
        world.run(20_000)
        for host, who in ((alice, bob.dialed), (bob, alice.identity)):
            info = host.info(who)
            assert info is None or info.state >= 0
    assert all(failure.state >= 0 for failure in alice.failures + bob.failures)
