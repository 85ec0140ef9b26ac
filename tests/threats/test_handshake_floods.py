"""E4, E5, E19: those who only begin to connect, from one address or from all of them."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peergram.address import Address
from peergram.config import PENDING_REQUESTS_MAX, PENDING_REQUESTS_PER_HOST_MAX, Config
from peergram.connection import peer_checks
from peergram.connection.handshake import self_made_credentials
from peergram.connection.handshake_client import ClientHandshake
from peergram.crypto import keys
from peergram.crypto.keys import SigningKey
from peergram.identity import Identity
from peergram.wire.control import ChallengeReply, ChallengeRequest, decode_control, encode_control
from tests.threats.test_noise import mutated, shells
from tests.threats.world import SOAK, Host, World, assert_session_works, friends, full_or, held_bytes


def address_of(number: int) -> Address:
    """Different addresses of the documentation and private ranges, as many as wanted."""
    return f"{100 + (number >> 16) % 27}.{number >> 8 & 255}.{number & 255}.{1 + number % 250}", 1_024 + number % 60_000


class Caller:
    """Somebody who can connect, one step at a time, from an address of his own."""

    def __init__(self, world: World, called: Host, address: Address, name: str) -> None:
        self.world, self.called, self.address = world, called, address
        entropy = Random(name).randbytes
        credentials = self_made_credentials(Identity.of(name), SigningKey.generate(entropy), entropy(16))
        number = int.from_bytes(entropy(4), "little") | 0x00010001
        self.handshake = ClientHandshake(credentials, Config(), number, entropy, world.now_us)
        self.bytes_sent = 0

    def step(self) -> list[bytes]:
        """Send what is due, take the answer; what he was told."""
        packet = self.handshake.poll_transmit(self.world.now_us)
        assert packet is not None
        self.bytes_sent += len(packet)
        self.world.to_strangers.clear()
        self.called.handle(self.address, packet)
        answers = [answer for destination, answer in self.world.to_strangers if destination == self.address]
        for answer in answers:
            message = decode_control(answer)
            if isinstance(message, ChallengeReply):
                self.handshake.handle_challenge_reply(message, self.world.now_us)
        return answers

    def ask(self) -> None:
        """Prove the address and ask for a session."""
        self.step()
        self.step()


# --- E4 ---


@pytest.fixture
def public_key_work(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the expensive steps that were taken."""
    done: list[str] = []
    for owner, name in ((peer_checks, "verify"), (keys.AgreementKey, "agree"), (keys.SigningKey, "sign")):
        monkeypatch.setattr(owner, name, noted(done, name, getattr(owner, name)))
    return done


def noted(done: list[str], name: str, inner: Callable[..., object]) -> Callable[..., object]:
    """A function that does the same and leaves its name."""

    def outer(*arguments: object) -> object:
        done.append(name)
        return inner(*arguments)

    return outer


def test_a_flood_of_challenge_requests_from_everywhere_costs_no_memory_and_no_public_key(public_key_work: list[str]) -> None:
    """E4."""
    world, alice, bob = friends()
    assert public_key_work, "a real handshake is noticed"
    tables = bob.table_sizes

    def flood() -> None:
        for at in range(full_or(1_000_000, 3_000)):
            bob.handle(address_of(at), encode_control(ChallengeRequest(0x00010001 + at, at, 13)))
            world.now_us += 20

    flood()
    public_key_work.clear()
    assert held_bytes(flood) <= 64 << 10
    assert bob.table_sizes == tables
    assert not public_key_work
    assert_session_works(world, alice, bob)


def test_forged_cookies_cost_no_memory_and_no_public_key(public_key_work: list[str]) -> None:
    """E4: connect requests whose challenge was never given out."""
    world, alice, bob = friends()
    caller = Caller(world, bob, address_of(1), "caller")
    caller.step()
    request = caller.handshake.poll_transmit(world.now_us)
    assert request is not None
    tables = bob.table_sizes

    def flood() -> None:
        for at in range(full_or(1_000_000, 2_000)):
            bob.handle(address_of(at + 2), request)

    flood()
    public_key_work.clear()
    assert held_bytes(flood) <= 64 << 10
    assert bob.table_sizes == tables
    assert bob.endpoint.dropped.refused >= 2_000
    assert not public_key_work
    assert_session_works(world, alice, bob)


def test_a_friend_connects_inside_the_flood() -> None:
    """E4: within 2 s."""
    world, _alice, bob = friends()
    carol = world.host("carol")
    carol.send(bob, b"it is me")
    at = 0

    def flooded() -> bool:
        nonlocal at
        for _ in range(50):
            at += 1
            bob.handle(address_of(at), encode_control(ChallengeRequest(0x00010001 + at, at, 13)))
        return any(message.payload == b"it is me" for message in bob.messages)

    world.run_until(flooded, 2_000_000)


# --- E5 ---


@pytest.mark.parametrize("shell", range(len(list(shells()))))
def test_an_unproven_address_never_gets_more_bytes_than_it_sent(shell: int) -> None:
    """E5: every kind of packet, whole and broken, from addresses nobody has heard of."""
    world, _alice, bob = friends()
    rng = Random(shell)
    datagram = list(shells())[shell]
    for at in range(full_or(12_000, 200)):
        packet = datagram if at == 0 else mutated(rng, datagram)
        before = world.bytes_to_strangers
        bob.handle(address_of(at), packet)
        assert world.bytes_to_strangers - before <= len(packet)
        world.now_us += 300_000


@settings(max_examples=5_000 if SOAK else 100)
@given(st.lists(st.binary(max_size=1_400), max_size=5), st.integers(0, 2))
def test_no_bytes_at_all_draw_more_than_they_are(datagrams: list[bytes], progress: int) -> None:
    """E5: whatever state the handshake of somebody else is in: not begun, challenged, connected."""
    world = World()
    bob = world.host("bob")
    caller = Caller(world, bob, address_of(7), "caller")
    for _ in range(progress):
        caller.step()
    before = world.bytes_to_strangers
    for datagram in datagrams:
        bob.handle(address_of(8), datagram)
    assert world.bytes_to_strangers - before <= sum(map(len, datagrams))


def test_requests_that_nobody_answers_draw_nothing_but_the_challenge() -> None:
    """E5: an application that lets nobody in."""
    world = World()
    bob = world.host("bob")
    bob.accepts = False
    caller = Caller(world, bob, address_of(9), "caller")
    assert [len(answer) <= 64 for answer in caller.step()] == [True]
    assert caller.step() == []
    assert bob.requests == 1
    before = world.bytes_to_strangers
    world.run(9_000_000)
    assert world.bytes_to_strangers == before


# --- E19 ---


def test_one_host_may_have_16_requests_waiting_and_everybody_256() -> None:
    """E19, M4: half-open connections are limited, and the oldest gives way."""
    world = World()
    bob = world.host("bob")
    bob.accepts = False
    for at in range(PENDING_REQUESTS_PER_HOST_MAX + 10):
        Caller(world, bob, ("192.0.2.1", 2_000 + at), f"same-{at}").ask()
    waiting = [peer for peer in set(bob.endpoint._peers.values()) if peer.pending is not None]
    assert len(waiting) == PENDING_REQUESTS_PER_HOST_MAX
    for at in range(PENDING_REQUESTS_MAX + 10):
        Caller(world, bob, address_of(at), f"other-{at}").ask()
    waiting = [peer for peer in set(bob.endpoint._peers.values()) if peer.pending is not None]
    assert len(waiting) == PENDING_REQUESTS_MAX


def test_requests_nobody_answers_are_gone_after_the_handshake_time() -> None:
    """E19: 10 s, and 5 s more to tell stragglers."""
    world = World()
    bob = world.host("bob")
    bob.accepts = False
    empty = bob.table_sizes
    for at in range(20):
        Caller(world, bob, address_of(at), f"caller-{at}").ask()
    assert bob.table_sizes != empty
    world.run(200_000_000)
    assert bob.table_sizes == empty


def test_a_request_that_waits_is_not_pushed_out_by_others_that_were_answered() -> None:
    """E19, M4: 255 friends come in while one stranger waits for a decision."""
    world = World()
    bob = world.host("bob", Config(pending_requests_max=8, timeout_initial_us=600_000_000))
    bob.accepts = False
    Caller(world, bob, address_of(0), "patient").ask()
    bob.accepts = True
    for at in range(1, 12):
        Caller(world, bob, address_of(at), f"friend-{at}").ask()
    patient = bob.endpoint._peers.get(Identity.of("patient"))
    assert patient is not None
    assert patient.pending is not None


def test_strangers_without_end_leave_no_peers_behind() -> None:
    """E19, M4: one host, a new identity with every request, nobody accepts; what is left must not grow with their number."""
    world = World()
    bob = world.host("bob")
    bob.accepts = False
    for at in range(full_or(5_000, 100)):
        Caller(world, bob, ("192.0.2.1", 2_000 + at), f"nobody-{at}").ask()
    assert len(bob.endpoint._peers) <= PENDING_REQUESTS_PER_HOST_MAX + 1


def test_requests_that_gave_way_leave_no_peers_behind() -> None:
    """E19, M4."""
    world = World()
    bob = world.host("bob", Config(pending_requests_max=8))
    bob.accepts = False
    for at in range(60):
        Caller(world, bob, address_of(at), f"nobody-{at}").ask()
    world.run(20_000_000)
    assert len(bob.endpoint._peers) <= 8


def test_a_dial_that_nobody_answers_ends_in_ten_seconds() -> None:
    """E19: the handshake as a whole has a limit, however the server drags it out."""
    world = World()
    alice, bob = world.host("alice"), world.host("bob")
    bob.accepts = False
    begin_us = world.now_us
    alice.send(bob, b"hi")
    world.run_until(lambda: bool(alice.failures), 12_000_000)
    assert 9_900_000 <= world.now_us - begin_us <= 10_600_000


def test_an_idle_session_ends_after_three_minutes() -> None:
    """E19: one byte a minute keeps a session, silence does not."""
    world, alice, bob = friends()
    empty = world.host("fresh").table_sizes
    world.run(170_000_000)
    assert bob.is_connected_to(alice)
    world.run(20_000_000)
    assert not bob.is_connected_to(alice)
    assert not alice.is_connected_to(bob)
    world.run(10_000_000)
    assert bob.table_sizes == empty
    assert alice.table_sizes == empty
