"""Tickets that end and are renewed while relays are in use."""

from __future__ import annotations

from itertools import count

from peergram.address import Address
from peergram.config import RELAY_TICKET_S
from peergram.routes.candidates import CandidateKind
from peergram.routes.gather import CandidatePolicy, PopServers
from peergram.routes.ice_servers import TurnServer
from peergram.servers.relay_access import RelayAccess, password_for, temporary_name
from peergram.servers.relay_peers import PeerPolicy
from peergram.servers.turn_core import OpenRelay, ToClient, TurnCore
from tests.routes.gather_lab import Lab
from tests.routes.servers import Replies, counting_entropy

SECRET = b"a long secret"
SERVER: Address = ("198.51.100.7", 3_478)
WALL_S = 1_800_000_000


class Relay:
    """Our relay's core, which looks at the end of a name with every request."""

    def __init__(self, *, by_name: bool = False) -> None:
        self.core = TurnCore(
            access=ByName(secret=SECRET) if by_name else RelayAccess(secret=SECRET),
            policy=PeerPolicy([SERVER[0]]),
            families=frozenset({1}),
            entropy=counting_entropy(),
        )
        self.opened = 0
        self._ports = count(50_000)

    def handle(self, source: Address, data: bytes, now_us: int) -> Replies:
        self.core.handle_client(source, source, [data], now_us, WALL_S + now_us // 1_000_000)
        answers: Replies = []
        while (output := self.core.poll_output()) is not None:
            if isinstance(output, OpenRelay):
                self.opened += 1
                self.core.handle_relay_opened(output.relay_id, (SERVER[0], next(self._ports)), now_us)
            elif isinstance(output, ToClient):
                answers.extend((0.01, packet) for packet in output.packets)
        return answers


class ByName(RelayAccess):
    """Holds an allocation to the very name it was made with, as coturn does."""

    def identity(self, username: bytes, host: str) -> bytes:
        return username


def ticket(lab: Lab, life_s: int = RELAY_TICKET_S) -> PopServers:
    name = temporary_name("str:ann", WALL_S + lab.now_us // 1_000_000 + life_s)
    password = password_for(SECRET, name).decode()
    return PopServers("fra", (), (TurnServer(*SERVER, username=name.decode(), password=password),))


def relayed(lab: Lab) -> list[Address]:
    return lab.of_kind(CandidateKind.RELAYED)


def begun(relay: Relay) -> Lab:
    lab = Lab(servers={SERVER: relay}, policy=CandidatePolicy(port_mapping=False))
    lab.gatherer.set_pops([ticket(lab)], lab.now_us)
    lab.want()
    lab.run(1)
    return lab


def test_a_relay_in_use_goes_on_with_each_renewed_ticket() -> None:
    relay = Relay()
    lab = begun(relay)
    (address,) = relayed(lab)
    base = lab.base_of(address)
    assert lab.gatherer.pop_of(base) == "fra"
    for _ in range(6):
        lab.run(RELAY_TICKET_S / 2)
        lab.gatherer.set_pops([ticket(lab)], lab.now_us)
        lab.drain()
    assert relayed(lab) == [address]
    assert lab.base_of(address) == base
    assert relay.opened == 1


def test_without_a_renewed_ticket_the_relay_is_lost_and_with_one_it_comes_back() -> None:
    relay = Relay()
    lab = begun(relay)
    lab.run(2 * RELAY_TICKET_S)
    assert relayed(lab) == []
    lab.gatherer.set_pops([ticket(lab)], lab.now_us)
    lab.run(1)
    assert len(relayed(lab)) == 1


def test_a_server_that_holds_on_to_the_first_name_is_lost_with_it_and_taken_again() -> None:
    """Ours looks at names' ends always: with coturn's rule about names on top, only a new allocation helps."""
    relay = Relay(by_name=True)
    lab = begun(relay)
    for _ in range(3):
        lab.run(RELAY_TICKET_S / 2)
        lab.gatherer.set_pops([ticket(lab)], lab.now_us)
        lab.drain()
    lab.run(900)
    assert len(relayed(lab)) == 1
    assert relay.opened == 2


def test_a_ticket_that_comes_late_is_used_at_once() -> None:
    relay = Relay()
    lab = Lab(servers={SERVER: relay}, policy=CandidatePolicy(port_mapping=False))
    lab.gatherer.set_pops([PopServers("fra", (), (TurnServer(*SERVER),))], lab.now_us)
    lab.want()
    lab.run(3)
    assert relayed(lab) == []
    lab.gatherer.set_pops([ticket(lab)], lab.now_us)
    lab.run(0.1)
    assert len(relayed(lab)) == 1


def test_a_relay_in_use_goes_on_when_there_is_no_newer_ticket() -> None:
    relay = Relay()
    lab = begun(relay)
    lab.run(RELAY_TICKET_S / 4)
    lab.gatherer.set_pops([PopServers("fra", (), (TurnServer(*SERVER),))], lab.now_us)
    lab.run(RELAY_TICKET_S / 2)
    assert len(relayed(lab)) == 1
    assert relay.opened == 1


def test_names_that_left_the_map_are_forgotten() -> None:
    lab = Lab(servers={}, policy=CandidatePolicy(port_mapping=False))
    lab.want()
    for index in range(50):
        lab.gatherer.set_pops([PopServers("fra", (), (TurnServer(f"relay-{index}.example.org"),))], lab.now_us)
        lab.run(1)
    assert len(lab.gatherer._names._names) == 1
