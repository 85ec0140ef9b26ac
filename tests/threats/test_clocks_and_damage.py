"""E22, E23: packets that were damaged on the way, and clocks that leap."""

from __future__ import annotations

from hashlib import sha256
from random import Random

import pytest

from peergram.address import Address
from peergram.config import Config
from peergram.errors import EndReason, Result
from peergram.events import ConnectionState, SendFlags
from tests.threats.world import Host, World, assert_session_works, friends, full_or


class DamagingNetwork:
    """Changes a byte of some packets; the copy arrives in place of the genuine one."""

    def __init__(self, world: World, share: float, seed: int) -> None:
        self.world = world
        self.rng = Random(seed)
        self.share = share
        self.damaged = 0

    def __call__(self, source: Address, destination: Address, packet: bytes, _now_us: int) -> list[int]:
        if self.rng.random() >= self.share:
            return [5_000]
        at = self.rng.randrange(len(packet))
        self.damaged += 1
        host = self.world.hosts[destination]
        broken = packet[:at] + bytes((packet[at] ^ self.rng.randrange(1, 256),)) + packet[at + 1 :]
        host.endpoint.handle_datagrams(host.listening, source, broken, len(broken), self.world.now_us)
        return []


def test_a_transfer_over_a_path_that_damages_packets_arrives_whole() -> None:
    """E22: 2 MiB and two packets in a hundred, those of the handshake too."""
    world = World()
    config = Config(path_mtu_bytes_max=0)
    alice, bob = world.host("alice", config), world.host("bob", config)
    network = DamagingNetwork(world, 0.02, 1)
    world.network = network
    rng = Random(2)
    messages = [rng.randbytes(64 << 10) for _ in range(32)]
    for message in messages:
        while alice.send(bob, message) == Result.LIMIT_EXCEEDED:
            world.run(10_000)
    world.run_until(lambda: len(bob.messages) == len(messages))
    assert sha256(b"".join(message.payload for message in bob.messages)).digest() == sha256(b"".join(messages)).digest()
    assert network.damaged > 20
    assert not alice.failures


def test_dials_over_a_path_that_damages_every_third_packet_succeed() -> None:
    """E22: thirty in a hundred, fifty dials."""
    for seed in range(full_or(5_000, 50)):
        world = World()
        alice, bob = world.host("alice"), world.host("bob")
        world.network = DamagingNetwork(world, 0.3, seed)
        assert alice.send(bob, b"there") == Result.OK
        world.run_until(lambda heard=bob.messages: len(heard) == 1)  # type: ignore[misc]
        assert bob.endpoint.send_message(alice.identity, b"back", SendFlags.RELIABLE_NO_NAGLE, 0, world.now_us) == Result.OK
        bob.drain()
        world.run_until(lambda heard=alice.messages: len(heard) == 1)  # type: ignore[misc]
        assert (bob.messages[0].payload, bob.messages[0].identity) == (b"there", alice.identity)
        assert not alice.failures
        assert not bob.failures
        assert bob.requests == 1


def test_crossing_dials_over_a_path_that_damages_every_third_packet_become_one_session() -> None:
    """E22: both dial at once."""
    for seed in range(full_or(5_000, 50)):
        world = World()
        alice, bob = world.host("alice"), world.host("bob")
        world.network = DamagingNetwork(world, 0.3, seed)
        alice.send(bob, b"a")
        world.run(Random(seed).choice((0, 3_000, 300_000)))
        bob.send(alice, b"b")
        world.run_until(lambda a=alice, b=bob: bool(a.messages and b.messages))  # type: ignore[misc]
        assert ([message.payload for message in alice.messages], [message.payload for message in bob.messages]) == (
            [b"b"],
            [b"a"],
        )
        assert not alice.failures
        assert not bob.failures


# --- E23 ---


def leap(world: World, by_us: int) -> None:
    """The monotonic clock goes on by that much while nobody runs (a laptop sleeps, a virtual machine is paused)."""
    world.now_us += by_us


@pytest.mark.parametrize("gap_us", [1_000_000, 8_000_000, 60_000_000, 3_600_000_000, 86_400_000_000])
@pytest.mark.parametrize("rate", ["auto", "fixed"])
def test_after_a_gap_nothing_is_caught_up_in_one_burst(gap_us: int, rate: str) -> None:
    """E23: what may be sent after a gap of any length is a burst, not the gap's worth."""
    config = Config(rate="fixed" if rate == "fixed" else "auto")
    world, alice, bob = friends(config)
    for _ in range(40):
        alice.send(bob, bytes(10_000))
    world.run(20_000)
    said = alice.bytes_sent
    flow = alice.flow_to(bob)
    window_bytes = min(flow.rate.window_bytes, 1 << 30)
    leap(world, gap_us)
    world.run(1_000)
    burst = alice.bytes_sent - said
    assert burst <= min(window_bytes, 64 << 10) + flow.rate.rate_bytes_per_s * 3 // 1_000 + 5_000


@pytest.mark.parametrize("gap_us", [1_000_000, 5_000_000, 8_000_000])
def test_a_session_outlives_a_gap_shorter_than_its_time_out(gap_us: int) -> None:
    """E23: everything arrives once, and in order."""
    world, alice, bob = friends()
    for at in range(20):
        alice.send(bob, b"%d" % at)
    leap(world, gap_us)
    world.run_until(lambda: len(bob.messages) == 20)
    assert [message.payload for message in bob.messages] == [b"%d" % at for at in range(20)]
    assert_session_works(world, alice, bob)


@pytest.mark.parametrize("gap_us", [60_000_000, 3_600_000_000, 86_400_000_000])
def test_after_a_long_gap_both_ends_agree_whether_there_is_a_session(gap_us: int) -> None:
    """E23: it goes on, or it ended with a reason; and a new one opens at once."""
    world, alice, bob = friends()
    alice.send(bob, b"before")
    world.run(1_000_000)
    leap(world, gap_us)
    world.run(30_000_000)
    assert alice.is_connected_to(bob) == bob.is_connected_to(alice)
    for failure in (*alice.failures, *bob.failures):
        assert failure.reason in (EndReason.MISC_TIMEOUT, EndReason.SESSION_IDLE)
    alice.failures.clear()
    heard = len(bob.messages)
    assert alice.send(bob, b"after") == Result.OK
    world.run_until(lambda: len(bob.messages) > heard, 2_000_000)


def test_only_one_side_sleeps_and_the_other_gives_up_with_a_reason() -> None:
    """E23: a laptop that sleeps for a minute; nothing reliable is lost silently."""
    world, alice, bob = friends()
    asleep: Host = bob
    world.network = lambda source, destination, _packet, _now_us: [] if asleep.address in (source, destination) else [5_000]
    alice.send(bob, b"are you awake?")
    world.run_until(lambda: bool(alice.failures), 25_000_000)
    assert alice.failures[0].reason == EndReason.MISC_TIMEOUT
    assert alice.failures[0].state == ConnectionState.PROBLEM_DETECTED_LOCALLY
    assert alice.failures[0].unconfirmed.messages == 1


def test_the_wall_clock_steers_nothing() -> None:
    """E23: a day forward or back while a session is up; certificates of our own making have no date."""
    world, alice, bob = friends()
    for offset_us in (86_400_000_000, -86_400_000_000):
        alice.endpoint.wall_offset_us += offset_us
        bob.endpoint.wall_offset_us -= offset_us
        assert_session_works(world, alice, bob)
    carol = world.host("carol")
    carol.send(bob, b"hello")
    world.run_until(lambda: any(message.payload == b"hello" for message in bob.messages), 2_000_000)
