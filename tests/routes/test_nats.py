"""Two sides behind address translators of each kind, with and without a relay: direct where possible, fast in every case."""

from __future__ import annotations

import pytest

from tests.routes.lab import MS, SECOND, Lab, Peer, Site

KINDS = [None, "full", "address", "port", "symmetric"]
ONE_HOST, TWO_HOST = "203.0.113.50", "198.51.100.50"
RELAYS = {"one": ("192.0.2.8", 8888), "two": ("192.0.2.9", 9999)}


def behind(peer: Peer, nat: str | None, outside_host: str) -> None:
    if nat is None:
        peer.host(Site(), (outside_host, 1000))
        return
    base = peer.host(Site(nat, outside_host), ("192.168.1.5" if peer.name == "one" else "192.168.2.6", 1000))
    peer.reflexive(base)


def met(one_nat: str | None, two_nat: str | None, *, relayed: bool, one_way_us: int = 25 * MS) -> tuple[Lab, Peer, Peer]:
    lab = Lab(one_way_us=one_way_us)
    one, two = lab.pair()
    behind(one, one_nat, ONE_HOST)
    behind(two, two_nat, TWO_HOST)
    if relayed:
        for peer in (one, two):
            peer.relay(RELAYS[peer.name])
    return lab, one, two


def is_possible(one_nat: str | None, two_nat: str | None) -> bool:
    """A symmetric translator shows every host another port: the other side must let it in whatever the port is."""
    picky = {"port", "symmetric"}
    return not ((one_nat == "symmetric" and two_nat in picky) or (two_nat == "symmetric" and one_nat in picky))


@pytest.mark.parametrize("two_nat", KINDS)
@pytest.mark.parametrize("one_nat", KINDS)
def test_a_direct_way_is_found_where_there_is_one(one_nat: str | None, two_nat: str | None) -> None:
    lab, one, two = met(one_nat, two_nat, relayed=False)
    lab.run(5 * SECOND)
    found = one.route is not None and two.route is not None
    assert found is is_possible(one_nat, two_nat)
    if found:
        assert max(one.selections()[0][0], two.selections()[0][0]) <= SECOND + 500 * MS


@pytest.mark.parametrize("two_nat", KINDS)
@pytest.mark.parametrize("one_nat", KINDS)
def test_with_relays_every_pair_meets_within_half_a_second_and_ends_on_the_direct_way(
    one_nat: str | None, two_nat: str | None
) -> None:
    lab, one, two = met(one_nat, two_nat, relayed=True)
    took_us = lab.run_until(lambda: one.route is not None and two.route is not None)
    assert took_us <= 500 * MS
    lab.run(10 * SECOND)
    for peer in (one, two):
        assert peer.agent.selected is not None
        assert peer.agent.selected.is_relayed is not is_possible(one_nat, two_nat)
        assert peer.agent.selected.is_nominated


@pytest.mark.parametrize("one_way_us", [1 * MS, 25 * MS, 150 * MS, 400 * MS])
def test_two_port_restricted_sides_meet_within_three_one_way_delays_and_pacing(one_way_us: int) -> None:
    lab, one, two = met("port", "port", relayed=False, one_way_us=one_way_us)
    took_us = lab.run_until(lambda: one.route is not None and two.route is not None)
    # One for the signals, three for check, returned check and answer; the first checks may meet closed filters.
    assert took_us <= 4 * one_way_us + 100 * MS


def test_both_ends_use_the_same_way_in_the_end() -> None:
    for one_nat in KINDS:
        for two_nat in KINDS:
            lab, one, two = met(one_nat, two_nat, relayed=True)
            lab.run(10 * SECOND)
            assert one.agent.selected is not None
            assert two.agent.selected is not None
            sent_before = len(lab.packets)
            lab.run(10 * SECOND)
            used = [
                packet for packet in lab.packets[sent_before:] if packet.base == two.agent.selected.base and packet.sender is two
            ]
            arrivals = {packet.source for packet in used if packet.destination == two.agent.selected.remote}
            assert one.agent.selected.remote in arrivals
