"""Hellos that were damaged on the way: the dial goes on, between own peers and with peers that sign less (E22)."""

from __future__ import annotations

import pytest

from peergram.connection import handshake
from peergram.errors import EndReason
from peergram.events import ConnectionState
from tests.endpoint.world import NO_NAGLE, RELIABLE, SECOND_US, UNRELIABLE, Host, World

CONNECT_REQUEST, CONNECT_OK = 0x22, 0x23


class DamageOnce:
    """Changes one byte of the first packet of a kind; the damaged one arrives in its place."""

    def __init__(self, world: World, lead: int, at: int, flip: int) -> None:
        self.world = world
        self.lead, self.at, self.flip = lead, at, flip
        self.size = 0

    def __call__(self, sender: Host, receiver: Host, packet: bytes) -> list[int]:
        if packet[0] != self.lead or self.size:
            return [5_000]
        self.size = len(packet)
        broken = bytearray(packet)
        broken[self.at] ^= self.flip
        self.world.deliver(sender.address, receiver.address, bytes(broken), delay_us=5_000)
        return []


def dial_through(lead: int, at: int, flip: int, flags: int = RELIABLE | NO_NAGLE) -> int:
    """A dial with that byte damaged, which must lead to a session that carries data; the size of the packet."""
    world = World()
    alice, bob = world.add("alice"), world.add("bob")
    network = world.network = DamageOnce(world, lead, at, flip)
    alice.send(bob, b"there", flags)
    alice.send(bob, b"and there")
    world.run_until(lambda: len(bob.received) >= 1, 5 * SECOND_US)
    bob.send(alice.identity, b"back")
    world.run_until(lambda: alice.received, 5 * SECOND_US)
    world.run_until(lambda: bob.payloads()[-1] == b"and there", 5 * SECOND_US)
    assert not alice.failures
    assert not bob.failures
    (link,) = alice.live
    assert link.established is not None
    assert link.established.peer_identity == bob.identity
    return network.size


@pytest.mark.parametrize("lead", [CONNECT_REQUEST, CONNECT_OK])
def test_any_byte_of_an_own_peers_hello_may_be_damaged(lead: int) -> None:
    for at in range(dial_through(lead, 0, 0x10)):
        dial_through(lead, at, 0x10)


@pytest.mark.usefixtures("reference_rules")
@pytest.mark.parametrize("flags", [RELIABLE | NO_NAGLE, UNRELIABLE | NO_NAGLE])
@pytest.mark.parametrize("flip", [0x01, 0x80])
def test_any_byte_of_a_reference_servers_connect_ok_may_be_damaged(flip: int, flags: int) -> None:
    """He signs neither his connection id nor his certificate, so a damaged one is corrected by its repeat."""
    for at in range(dial_through(CONNECT_OK, 0, flip, flags)):
        dial_through(CONNECT_OK, at, flip, flags)


@pytest.mark.usefixtures("reference_rules")
def test_a_session_that_carries_data_is_asked_for_no_more() -> None:
    world = World()
    alice, bob = world.add("alice"), world.add("bob")
    world.records = True
    alice.send(bob, b"once", UNRELIABLE | NO_NAGLE)
    world.run(8 * SECOND_US)
    assert sum(packet[0] == 0x20 for _, _, _, packet in world.sent) <= 2


def test_a_peer_whose_certificate_is_refused_is_told_of_within_two_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """What he says three times is what he says: nobody waits ten seconds for the reason."""
    world = World()
    alice, bob = world.add("alice"), world.add("bob")

    def lying(*arguments: object, **named: int) -> object:
        local = honest(*arguments, **named)  # type: ignore[arg-type]
        local.signed.signature = bytes(64)
        return local

    honest = handshake.local_crypt_info
    monkeypatch.setattr(handshake, "local_crypt_info", lying)
    alice.send(bob, b"hello")
    world.run_until(lambda: alice.failures, 1_100_000)
    (failure,) = alice.failures
    assert failure.reason == EndReason.REMOTE_BAD_CRYPT
    assert failure.debug.startswith("Invalid signature")
    assert failure.state == ConnectionState.PROBLEM_DETECTED_LOCALLY
    world.run_until(lambda: not bob.live, 3 * SECOND_US)
