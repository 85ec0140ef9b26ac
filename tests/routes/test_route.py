"""What a program is told about the way in use."""

from __future__ import annotations

from peergram.routes.route import FLAG_FAST, FLAG_RELAYED, Route, RouteKind, route_of
from tests.routes.test_pairs import a_pair


def test_a_direct_way_shows_the_peers_address() -> None:
    assert route_of(a_pair()) == Route(RouteKind.DIRECT, 0, ("198.51.100.2", 2), 0)


def test_a_way_within_our_own_network_is_called_fast() -> None:
    pair = a_pair(("10.0.0.1", 1), ("10.0.0.2", 1))
    pair.rtt_us = 300
    assert route_of(pair) == Route(RouteKind.LOCAL, FLAG_FAST, ("10.0.0.2", 1), 300)


def test_a_relay_hides_the_peers_address_on_whichever_side_it_is() -> None:
    for pair in (a_pair(relay_id=1), a_pair(kind="relay"), a_pair(("10.0.0.1", 1), ("10.0.0.2", 1), kind="relay")):
        assert route_of(pair) == Route(RouteKind.RELAYED, FLAG_RELAYED, None, 0)
