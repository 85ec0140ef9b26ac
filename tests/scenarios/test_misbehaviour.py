"""Peers and applications that misbehave at the level of messages: rows M1 to M7 and M10 of the threat table.

Figures are shortened by default; `PEERGRAM_SOAK=1` runs them in full. M8 and M9 are in `tests/test_messages.py`, since they are
about threads; interleavings of dials are in `tests/endpoint/test_crossing.py`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
import tracemalloc
from collections import Counter
from dataclasses import dataclass, field
from random import Random

import pytest

from peergram import Messages
from peergram.address import Address
from peergram.config import ENDED_CONNECTIONS_UNREAD_MAX, Config
from peergram.connection.handshake import LocalCredentials, self_made_credentials
from peergram.connection.handshake_client import ClientHandshake
from peergram.crypto.keys import SigningKey
from peergram.errors import Result
from peergram.events import SendFlags
from peergram.identity import Identity
from peergram.wire.control import ChallengeReply, decode_control
from tests.endpoint.world import AUTO_RESTART, NO_NAGLE, RELIABLE, SECOND_US, UNRELIABLE, Host, World, connected, rough, steady

SOAK = bool(os.environ.get("PEERGRAM_SOAK"))
MIB = 1 << 20

# --- M1: an accepted peer floods while the application does not read ---

SLEEPER = """
    import resource, sys, time
    from peergram import Messages

    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()

    with Messages("sleeper", listen=("127.0.0.1", 0), signaling=None) as net:
        net.on_session_request = lambda request: net.accept_session_with_user(request.identity)
        print(net.local_addresses[0][1], flush=True)
        while not net.receive_messages_on_channel(0, 1):
            net.run_callbacks()
            time.sleep(0.001)
        before = resident()
        print("awake", flush=True)
        sys.stdin.readline()
        print(resident() - before, flush=True)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("flags", [RELIABLE, UNRELIABLE], ids=["reliable", "unreliable"])
def test_a_flood_on_all_channels_costs_a_sleeping_application_4_mib_at_most(flags: int) -> None:
    """M1: 60 MB/s for 30 s; resident memory grows by at most 4 MiB (GNS: 506 MiB in 7 s)."""
    duration_s = 30.0 if SOAK else 1.0
    command = [sys.executable, "-c", textwrap.dedent(SLEEPER)]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as sleeper,
        Messages("flood", signaling=None) as net,
    ):
        assert sleeper.stdin is not None
        assert sleeper.stdout is not None
        target = f"ip:127.0.0.1:{int(sleeper.stdout.readline())}"
        net.send_message_to_user(target, b"wake up", SendFlags.RELIABLE)
        assert sleeper.stdout.readline() == "awake\n"
        until_s = time.monotonic() + duration_s
        number = 0
        while time.monotonic() < until_s:
            number += 1
            if net.send_message_to_user(target, bytes(1_200), flags, number % 100) != Result.OK:
                time.sleep(0.001)
        sleeper.stdin.write("\n")
        sleeper.stdin.flush()
        grown = int(sleeper.stdout.readline())
    assert number > 1_000
    assert grown <= 4 * MIB


@pytest.mark.parametrize("size", [0, 1, 1_000, 100_000])
def test_unread_messages_and_unfinished_ones_stay_within_the_limits_of_a_peer(size: int) -> None:
    """M1: at most 1 MiB and 1000 messages, each charged its true cost; what does not fit stays with the sender."""
    world, alice, bob = connected()
    bob.reads = False
    for _ in range(100):
        for channel in range(12):
            alice.send(bob, bytes(size), RELIABLE, channel)
            alice.send(bob, bytes(min(size, 10_000)), UNRELIABLE, channel)
        world.run(50_000)
        room = bob.flow.room
        assert bob.endpoint.unread_messages <= 1_000
        assert room.unread_bytes <= MIB
        assert room.stream_bytes <= MIB + 524_304
    info = bob.info(alice.identity)
    assert info is not None
    assert info.state == 3, "never a closed session"


def test_reconnecting_buys_no_room() -> None:
    """M1: the limit is the peer's, not the connection's."""
    world, alice, bob = connected()
    bob.reads = False
    for _ in range(5):
        for _ in range(1_500):
            alice.send(bob, bytes(1_000), RELIABLE)
        world.run(3 * SECOND_US)
        alice.kill()
        alice.start()
        assert bob.endpoint.unread_messages <= 1_100


def test_reconnecting_with_a_message_each_leaves_a_bounded_number_of_connections() -> None:
    """M1: an ended connection whose message found no room is kept until the application reads; he is told, and may go on then."""
    world, alice, bob = connected()
    bob.reads = False
    for _ in range(1_000):
        alice.send(bob, b"full", RELIABLE)
    world.run(SECOND_US)
    for _ in range(2 * ENDED_CONNECTIONS_UNREAD_MAX):
        alice.kill()
        alice.start()
        alice.send(bob, b"one more", RELIABLE)
        world.run(SECOND_US)
    (peer,) = set(bob.endpoint._peers.values())
    assert len(peer.draining) <= ENDED_CONNECTIONS_UNREAD_MAX
    bob.reads = True
    bob.drain()
    assert not peer.draining
    alice.send(bob, b"welcome", RELIABLE | AUTO_RESTART)
    world.run_until(lambda: bob.payloads()[-1:] == [b"welcome"])
    assert alice.lost.messages + bob.payloads().count(b"one more") == 2 * ENDED_CONNECTIONS_UNREAD_MAX, "delivered or told lost"


# --- M2: ever new channels ---


def test_channels_that_are_empty_cost_nothing() -> None:
    """M2: 1.6 million channels of one byte each; memory grows by at most 4 MiB (GNS: 637 MiB)."""
    total = 1_600_000 if SOAK else 24_000
    world, alice, bob = connected()
    bob.reads = False
    grown = 0
    tracemalloc.start()
    try:
        for first in range(0, total, 400):
            for channel in range(first, first + 400):
                alice.endpoint.send_message(bob.dialed, b"x", RELIABLE, channel, world.now_us)
            alice.drain()
            world.run(30_000)
            for channel in range(first, first + 400):
                assert len(bob.endpoint.receive_messages(channel, 10, world.now_us)) == 1
            bob.drain()
            if first == 8_000:
                grown = tracemalloc.get_traced_memory()[0]
        grown = tracemalloc.get_traced_memory()[0] - grown
    finally:
        tracemalloc.stop()
    assert grown <= (4 if SOAK else 1) * MIB
    assert bob.endpoint.unread_messages == 0


# --- M3: the application stalls ---


@pytest.mark.parametrize("seed", range(20 if SOAK else 3))
def test_after_a_stall_of_a_minute_every_message_is_read_once_and_in_order(seed: int) -> None:
    """M3: 60 s stall, 5 % loss, packets that overtake each other: 0 lost, 0 doubled."""
    world, alice, bob = connected(network=rough(Random(seed), loss=0.05, delay_us=(20_000, 60_000), again=0.05), seed=seed)
    bob.reads = False
    sent = 0
    for _ in range(600):
        for _ in range(5):
            sent += alice.send(bob, b"%06d" % sent + bytes(300), RELIABLE) == Result.OK
        world.run(100_000)
    assert alice.info(bob) is not None
    bob.reads = True
    bob.drain()
    world.run_until(lambda: len(bob.received) == sent, 60 * SECOND_US)
    world.run(5 * SECOND_US)
    assert [int(payload[:6]) for payload in bob.payloads()] == list(range(sent))
    assert not alice.failures
    assert not bob.failures


# --- M4, M5: strangers ---


@dataclass(slots=True)
class Stranger:
    """The calling side of a handshake that stops where an application would have to answer."""

    address: Address
    credentials: LocalCredentials
    handshake: ClientHandshake
    heard: list[bytes] = field(default_factory=list)

    @classmethod
    def make(cls, number: int, now_us: int) -> Stranger:
        entropy = Random(f"stranger {number}").randbytes
        credentials = self_made_credentials(Identity.of(f"stranger-{number}"), SigningKey.generate(entropy), entropy(16))
        address = (f"10.{100 + (number >> 16)}.{number >> 8 & 255}.{number & 255}", 5_000)
        return cls(address, credentials, ClientHandshake(credentials, Config(), 0x00010001 + number, entropy, now_us))

    def ask(self, bob: Host) -> None:
        """Challenge, then connect request; whatever comes back is kept."""
        for _ in range(2):
            datagram = self.handshake.poll_transmit(bob.world.now_us)
            assert datagram is not None
            self.hear(bob, datagram)

    def hear(self, bob: Host, datagram: bytes) -> None:
        world = bob.world
        (socket_id,) = bob.sockets
        bob.endpoint.handle_datagrams(socket_id, self.address, datagram, len(datagram), world.now_us)
        while (transmit := bob.endpoint.poll_transmit(world.now_us)) is not None:
            if transmit.remote != self.address:
                world.carry(bob, bob.address, transmit.remote, transmit.packets)
                continue
            self.heard += transmit.packets
            for packet in transmit.packets:
                message = decode_control(packet)
                if isinstance(message, ChallengeReply):
                    self.handshake.handle_challenge_reply(message, world.now_us)
        bob.drain()


def test_nothing_about_us_reaches_a_stranger_before_he_is_accepted() -> None:
    """M5 on direct UDP: one challenge, and neither our identity, our certificate nor our key."""
    world = World()
    bob = world.add("bob", accepts=False)
    stranger = Stranger.make(1, world.now_us)
    stranger.ask(bob)
    world.run(5 * SECOND_US)
    assert len(bob.requests) == 1
    assert [packet[0] for packet in stranger.heard] == [33]
    assert len(stranger.heard[0]) <= 32
    assert not any(b"bob" in packet for packet in stranger.heard)


STALE = "_handle_ended does not withdraw the request of a stranger who is gone"


@pytest.mark.parametrize("polls", [True, pytest.param(False)])
def test_thousands_of_strangers_keep_no_friend_out(polls: bool) -> None:
    """M4: 10,000 identities: at most 256 wait, each is one callback, a friend gets through in 2 s."""
    count = 10_000 if SOAK else 700
    world = World()
    bob, friend = world.add("bob", accepts=False), world.add("friend")
    bob.polls = polls
    for number in range(count):
        Stranger.make(number, world.now_us).ask(bob)
        world.run(1_000)
    waiting = [who for who in bob.endpoint.known_peers if (info := bob.info(who)) is not None and info.state == 1]
    assert len(waiting) <= 256
    bob.polls = True
    bob.drain()
    asked = Counter(request.identity for request in bob.requests)
    assert max(asked.values()) == 1
    assert polls or len(bob.requests) <= 256
    began_us = world.now_us
    friend.send(bob, b"it is me")
    for number in range(count, count + 1_000):
        Stranger.make(number, world.now_us).ask(bob)
        world.run(2_000)
        if bob.requests[-1].identity == friend.identity or Identity.of("friend") in {r.identity for r in bob.requests}:
            bob.accept(friend.identity)
        if bob.received:
            break
    assert bob.payloads() == [b"it is me"]
    assert world.now_us - began_us <= 2 * SECOND_US


def test_thousands_of_strangers_cost_little_memory() -> None:
    """M4: 10,000 identities: memory at most 16 MiB."""
    world = World()
    bob = world.add("bob", accepts=False)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(10_000 if SOAK else 2_800):
            Stranger.make(number, world.now_us).ask(bob)
            world.run(1_000)
        bob.requests.clear()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown <= 16 * MIB


def test_strangers_who_were_never_answered_leave_nothing() -> None:
    """M4: requests expire after 10 s, and what is known of them after the idle time."""
    world = World()
    bob = world.add("bob", accepts=False)
    for number in range(300):
        Stranger.make(number, world.now_us).ask(bob)
        world.run(10_000)
    world.run(20 * SECOND_US)
    assert not bob.links
    world.run(180 * SECOND_US)
    assert bob.endpoint.known_peers == []


# --- M6: storms ---


class Storm:
    """Two hosts that send, close, reopen, restart and stall at random."""

    def __init__(self, seed: int, linger_us: int, steps: int) -> None:
        self.rng = Random(seed)
        network = rough(self.rng, loss=self.rng.choice((0, 0.1)), delay_us=(1_000, self.rng.choice((2_000, 50_000))), again=0.05)
        self.world = World(network, seed=seed)
        config = Config(linger_us=linger_us)
        self.alice, self.bob = self.world.add("alice", config), self.world.add("bob", config)
        self.accepted = {self.alice: 0, self.bob: 0}
        for _ in range(steps):
            self._step()
            self.world.run(self.rng.choice((0, 0, 1_000, 20_000, 300_000)))
        self.world.run(30 * SECOND_US)

    def _step(self) -> None:
        here, there = self.rng.sample((self.alice, self.bob), 2)
        action = self.rng.choices(("send", "close", "close by name"), (8, 1, 1))[0]
        if action == "send":
            flags = RELIABLE | self.rng.choice((0, NO_NAGLE)) | 32
            for _ in range(self.rng.choice((1, 1, 5))):
                data = b"%d " % self.accepted[here] + bytes(self.rng.choice((0, 100, 5_000)))
                self.accepted[here] += here.send(there, data, flags) == Result.OK
        elif action == "close":
            here.close_session(there)
        else:
            here.close_session(there.identity)

    def check(self) -> None:
        for here, there in ((self.alice, self.bob), (self.bob, self.alice)):
            numbers = Counter(int(payload.split()[0]) for payload in there.payloads())
            assert max(numbers.values(), default=1) == 1, "twice"
            assert set(numbers) <= set(range(self.accepted[here])), "invented"
            missing = self.accepted[here] - len(numbers)
            assert missing <= here.lost.messages, f"{missing} missing, {here.lost.messages} reported"


LINGER = "_take_reliable acknowledges what it throws away while it lingers (accepts_reliable), so the sender hears of no loss"


@pytest.mark.parametrize("seeds", [range(first, first + 10) for first in range(0, 1_000 if SOAK else 30, 10)], ids=str)
def test_a_storm_of_opening_and_closing_loses_nothing_silently(seeds: range) -> None:
    """M6: exactly once, nothing invented, and whatever is missing was reported."""
    for seed in seeds:
        Storm(seed, 0, 100).check()


def test_a_storm_with_linger_loses_nothing_silently() -> None:
    """M6: the same where closing flushes first."""
    for seed in range(1_000 if SOAK else 30):
        Storm(seed, 500_000, 100).check()


def test_after_a_storm_and_five_minutes_nothing_is_left() -> None:
    """M6: no leaked session after 5 min idle."""
    for seed in range(5):
        storm = Storm(seed, 500_000, 60)
        storm.world.run(300 * SECOND_US)
        for host in (storm.alice, storm.bob):
            assert host.endpoint.known_peers == []
            assert not host.links
            assert len(host.sockets) == 1
            assert host.endpoint.poll_timeout() is None


# --- M7: messages without a header ---


@pytest.mark.parametrize("flags", [RELIABLE | NO_NAGLE, UNRELIABLE | NO_NAGLE])
def test_messages_too_short_for_their_header_are_dropped_and_counted(flags: int) -> None:
    """M7: no assertion, no closed session, and the room they took is free again."""
    world = World(steady(1_000))
    alice, bob = world.add("alice", Config(framing="raw")), world.add("bob")
    for size in range(5):
        alice.send(bob, bytes(size), flags)
    alice.send(bob, b"\x07\x02\0\0\0" + b"any first byte will do", flags)
    world.channels.setdefault(2)
    world.run(SECOND_US)
    assert bob.payloads(2) == [b"any first byte will do"]
    assert len(bob.received) == 1
    assert bob.flow.room.unread_messages == bob.flow.room.unread_bytes == 0
    assert not bob.failures


# --- M10: one channel starves others ---


@pytest.mark.parametrize("sizes", [(10_000, 10_000), (100_000, 1_000), (50_000, 5_000, 500)])
def test_busy_channels_share_the_rate(sizes: tuple[int, ...]) -> None:
    """M10: equal weights hold within 10 %, whatever the size of the messages."""
    config = Config(rate="fixed", send_rate_bytes=500_000, send_buffer_bytes=4_000_000)
    world, alice, bob = connected(config, steady(10_000))
    for channel, size in enumerate(sizes):
        for _ in range(1_000_000 // size):
            assert alice.send(bob, bytes(size), RELIABLE, channel) == Result.OK
    world.run(1_500_000)
    shares = [sum(map(len, bob.payloads(channel))) for channel in range(len(sizes))]
    fair = sum(shares) / len(shares)
    for share, size in zip(shares, sizes, strict=True):
        assert abs(share - fair) <= 0.1 * fair + size
