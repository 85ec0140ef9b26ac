"""Mapping and filtering of every kind, as RFC 4787 has the words and netlab the kernel for them."""

from __future__ import annotations

from random import Random

import pytest

from peergram.address import Address
from peergram.errors import UsageError
from peergram.sim.nat import NAT_KINDS, Firewall, Nat, NatKind, NatModel

OUTSIDE = "203.0.113.1"
ALICE, CAROL = ("192.168.1.10", 5_000), ("192.168.1.11", 5_000)
SERVER_1, SERVER_2, SAME_HOST = ("198.51.100.1", 80), ("198.51.100.2", 80), ("198.51.100.1", 81)
SECOND_US = 1_000_000
CONES = (NatKind.FULL_CONE, NatKind.ADDRESS_RESTRICTED, NatKind.PORT_RESTRICTED)
TRANSLATING = (*CONES, NatKind.SYMMETRIC)


def a_nat(kind: NatKind, **options: object) -> Nat:
    return Nat(NatModel(kind=kind, **options), OUTSIDE, Random(1))  # type: ignore[arg-type]


def sent(nat: Nat, source: Address, destination: Address, now_us: int = 0) -> Address:
    outside = nat.translate_out(source, destination, now_us)
    assert outside is not None
    return outside


def test_without_a_nat_everything_passes_as_it_is() -> None:
    nat = a_nat(NatKind.NONE)
    assert nat.translate_out(ALICE, SERVER_1, 0) == ALICE
    assert nat.translate_in(SERVER_2, ALICE, 0) == ALICE


def test_where_udp_is_blocked_nothing_passes_either_way() -> None:
    nat = a_nat(NatKind.UDP_BLOCKED)
    assert nat.translate_out(ALICE, SERVER_1, 0) is None
    assert nat.translate_in(SERVER_1, (OUTSIDE, ALICE[1]), 0) is None


@pytest.mark.parametrize("kind", CONES)
def test_a_cone_maps_one_inside_socket_to_one_outside_address_for_all_destinations(kind: NatKind) -> None:
    nat = a_nat(kind, ports="random")
    assert len({sent(nat, ALICE, to) for to in (SERVER_1, SERVER_2, SAME_HOST)}) == 1
    assert sent(nat, CAROL, SERVER_1) != sent(nat, ALICE, SERVER_1)


def test_a_symmetric_nat_maps_each_destination_to_another_port() -> None:
    nat = a_nat(NatKind.SYMMETRIC)
    outsides = [sent(nat, ALICE, to) for to in (SERVER_1, SERVER_2, SAME_HOST)]
    assert len(set(outsides)) == 3
    assert {host for host, _ in outsides} == {OUTSIDE}
    assert [sent(nat, ALICE, to) for to in (SERVER_1, SERVER_2, SAME_HOST)] == outsides


@pytest.mark.parametrize("kind", CONES)
def test_ports_are_preserved_while_they_are_free(kind: NatKind) -> None:
    nat = a_nat(kind)
    assert sent(nat, ALICE, SERVER_1) == (OUTSIDE, 5_000)
    assert sent(nat, CAROL, SERVER_1)[1] != 5_000


@pytest.mark.parametrize("kind", TRANSLATING)
def test_random_ports_have_nothing_of_the_inside_port(kind: NatKind) -> None:
    nat = a_nat(kind, ports="random")
    ports = {sent(nat, ("192.168.1.10", 5_000 + number), SERVER_1)[1] for number in range(100)}
    assert len(ports) == 100
    assert len(ports & set(range(5_000, 5_100))) < 10


@pytest.mark.parametrize(
    ("kind", "lets_in"),
    [
        (NatKind.FULL_CONE, {SERVER_1, SAME_HOST, SERVER_2}),
        (NatKind.ADDRESS_RESTRICTED, {SERVER_1, SAME_HOST}),
        (NatKind.PORT_RESTRICTED, {SERVER_1}),
        (NatKind.SYMMETRIC, {SERVER_1}),
    ],
)
def test_filtering_lets_in(kind: NatKind, lets_in: set[Address]) -> None:
    nat = a_nat(kind)
    outside = sent(nat, ALICE, SERVER_1)
    heard = {remote for remote in (SERVER_1, SAME_HOST, SERVER_2) if nat.translate_in(remote, outside, 1) == ALICE}
    assert heard == lets_in


def test_of_a_symmetric_nat_each_port_is_for_its_own_destination_only() -> None:
    nat = a_nat(NatKind.SYMMETRIC)
    first, second = sent(nat, ALICE, SERVER_1), sent(nat, ALICE, SERVER_2)
    assert nat.translate_in(SERVER_2, first, 1) is None
    assert nat.translate_in(SERVER_2, second, 1) == ALICE


@pytest.mark.parametrize("kind", TRANSLATING)
def test_nothing_comes_in_before_something_went_out(kind: NatKind) -> None:
    assert a_nat(kind).translate_in(SERVER_1, (OUTSIDE, 5_000), 0) is None


@pytest.mark.parametrize("kind", CONES)
def test_an_early_probe_from_outside_does_not_spoil_the_mapping(kind: NatKind) -> None:
    nat = a_nat(kind)
    nat.translate_in(SERVER_1, (OUTSIDE, 5_000), 0)
    assert sent(nat, ALICE, SERVER_1) == (OUTSIDE, 5_000)


@pytest.mark.parametrize("kind", TRANSLATING)
def test_an_idle_mapping_is_forgotten_and_the_next_one_may_differ(kind: NatKind) -> None:
    nat = a_nat(kind, timeout_us=30 * SECOND_US, ports="random")
    before = sent(nat, ALICE, SERVER_1)
    assert nat.translate_in(SERVER_1, before, 30 * SECOND_US - 1) == ALICE
    late = 70 * SECOND_US
    assert nat.translate_in(SERVER_1, before, late) is None
    assert sent(nat, ALICE, SERVER_1, late) != before
    assert nat.mappings(late) == 1


@pytest.mark.parametrize("kind", TRANSLATING)
def test_sending_keeps_a_mapping(kind: NatKind) -> None:
    nat = a_nat(kind, timeout_us=30 * SECOND_US, ports="random")
    outsides = {sent(nat, ALICE, SERVER_1, at_s * SECOND_US) for at_s in range(0, 300, 29)}
    assert len(outsides) == 1


@pytest.mark.parametrize("refreshes", [True, False])
def test_hearing_keeps_a_mapping_only_where_the_box_says_so(refreshes: bool) -> None:
    nat = a_nat(NatKind.PORT_RESTRICTED, timeout_us=30 * SECOND_US, inbound_refreshes=refreshes)
    outside = sent(nat, ALICE, SERVER_1)
    heard = [nat.translate_in(SERVER_1, outside, at_s * SECOND_US) is not None for at_s in (20, 40, 60)]
    assert heard == ([True, True, True] if refreshes else [True, False, False])


def test_a_permission_ends_by_itself_while_the_mapping_lives_on() -> None:
    nat = a_nat(NatKind.PORT_RESTRICTED, timeout_us=30 * SECOND_US)
    outside = sent(nat, ALICE, SERVER_1)
    assert sent(nat, ALICE, SERVER_2, 25 * SECOND_US) == outside
    assert nat.translate_in(SERVER_1, outside, 40 * SECOND_US) is None
    assert nat.translate_in(SERVER_2, outside, 40 * SECOND_US) == ALICE


@pytest.mark.parametrize("kind", [NatKind.FULL_CONE, NatKind.ADDRESS_RESTRICTED])
def test_a_hairpin_shows_both_sides_their_outside_addresses(kind: NatKind) -> None:
    nat = a_nat(kind, hairpin=True)
    alice, carol = sent(nat, ALICE, SERVER_1), sent(nat, CAROL, SERVER_1)
    assert nat.translate_hairpin(ALICE, carol, 1) == (alice, CAROL)
    assert nat.translate_hairpin(CAROL, alice, 1) == (carol, ALICE)
    assert nat.translate_hairpin(CAROL, (OUTSIDE, 1), 1) is None


@pytest.mark.parametrize("kind", NAT_KINDS)
def test_without_hairpin_inside_hosts_do_not_meet_outside(kind: NatKind) -> None:
    nat = a_nat(kind)
    nat.translate_out(CAROL, SERVER_1, 0)
    assert nat.translate_hairpin(ALICE, (OUTSIDE, 5_000), 1) is None


@pytest.mark.parametrize("kind", [NatKind.NONE, NatKind.PORT_RESTRICTED, NatKind.SYMMETRIC, NatKind.UDP_BLOCKED])
def test_the_other_kinds_have_no_hairpin(kind: NatKind) -> None:
    with pytest.raises(UsageError):
        NatModel(kind=kind, hairpin=True)


@pytest.mark.parametrize("kind", TRANSLATING)
def test_a_rebind_forgets_everything_and_takes_other_ports(kind: NatKind) -> None:
    nat = a_nat(kind)
    before = sent(nat, ALICE, SERVER_1)
    nat.rebind()
    assert nat.translate_in(SERVER_1, before, 1) is None
    after = sent(nat, ALICE, SERVER_1, 1)
    assert after[0] == OUTSIDE
    assert after[1] != before[1]


def test_a_rebind_may_give_another_address() -> None:
    nat = a_nat(NatKind.FULL_CONE)
    before = sent(nat, ALICE, SERVER_1)
    nat.rebind("203.0.113.77")
    assert sent(nat, ALICE, SERVER_1)[0] == "203.0.113.77"
    assert nat.translate_in(SERVER_1, before, 1) is None


def test_a_box_without_a_free_port_drops() -> None:
    nat = a_nat(NatKind.SYMMETRIC)
    for number in range(64_512):
        nat._by_port[1_024 + number] = None  # type: ignore[assignment]
    assert nat.translate_out(ALICE, SERVER_1, 0) is None


def test_ports_are_the_same_for_the_same_seed() -> None:
    one, same = a_nat(NatKind.SYMMETRIC), a_nat(NatKind.SYMMETRIC)
    assert [sent(one, ALICE, to) for to in (SERVER_1, SERVER_2)] == [sent(same, ALICE, to) for to in (SERVER_1, SERVER_2)]


def test_a_firewall_lets_in_what_answers() -> None:
    firewall = Firewall(30 * SECOND_US)
    inside, outside, other = ("2001:db8:1::a", 1), ("2001:db8:2::a", 2), ("2001:db8:2::a", 3)
    assert firewall.translate_in(outside, inside, 0) is None
    assert firewall.translate_out(inside, outside, 0) == inside
    assert firewall.translate_in(outside, inside, 29 * SECOND_US) == inside
    assert firewall.translate_in(other, inside, 29 * SECOND_US) is None
    assert firewall.translate_in(outside, inside, 58 * SECOND_US) == inside
    assert firewall.translate_in(outside, inside, 99 * SECOND_US) is None
    firewall.translate_out(inside, outside, 100 * SECOND_US)
    firewall.rebind()
    assert firewall.translate_in(outside, inside, 100 * SECOND_US) is None
    assert Firewall(blocks_udp=True).translate_out(inside, outside, 0) is None
