"""Two peers behind every pair of NAT kinds, on real kernel NATs: whether they meet, how, and how soon.

Short by default: a few pairs; PEERGRAM_SOAK=1 runs all 21, and for two sides that differ all 36 ordered ones. Who takes part is
said in `nat_lab.SIDES`. Where the reference has no way to meet, the test says what was seen and is no pass. Needs root, the
`netlab` module (see `tests.lab`), coturn, and for the reference its library.
"""

from __future__ import annotations

from itertools import combinations_with_replacement, product

import pytest

from tests.lab import SOAK

from .nat_lab import KINDS, OURS, SIDES, Kind, Side, marks, meet, nat_lab, need, route_expected

SHORT: list[tuple[Kind, Kind]] = [("port-restricted", "port-restricted"), ("symmetric", "port-restricted")]
BLOCKED_S_MAX = 3.0
"""Where UDP does not pass, between own peers."""
GIVES_UP_S = 10.0
"""The reference's TimeoutInitial."""
GIVES_UP_MARGIN_S = 1.5


def pairs(sides: tuple[Side, Side]) -> list[tuple[Kind, Kind]]:
    if not SOAK:
        return SHORT
    return list(combinations_with_replacement(KINDS, 2)) if sides[0] == sides[1] else list(product(KINDS, KINDS))


CASES = [
    pytest.param(sides, kinds, id=f"{'-'.join(sides)}, {' x '.join(kinds)}", marks=marks(sides))
    for sides in SIDES
    for kinds in pairs(sides)
]


@pytest.mark.parametrize(("sides", "kinds"), CASES)
def test_two_peers_meet_directly_where_a_path_exists_and_over_a_relay_where_none_does(
    sides: tuple[Side, Side], kinds: tuple[Kind, Kind]
) -> None:
    need(sides)
    expected = route_expected(kinds, sides)
    with nat_lab(*kinds) as lab:
        alice, bob = lab.pair(sides)
        if expected == "fails":
            began_us = alice.send(bob.identity, b"hello")
            alice.until(lambda: bool(alice.events("failed")), "alice is told that it failed", GIVES_UP_S + GIVES_UP_MARGIN_S)
            (failure,) = alice.events("failed")
            seen = f"{sides}, {kinds}: fails after {(failure['at_us'] - began_us) / 1e6:.1f} s with {failure['end_reason']}"
            print(f"\n{seen}")
            assert not bob.request("receive", channel=0)["messages"]
            pytest.xfail(f"the reference knows relays by UDP only: {seen}")
        meeting = meet(alice, bob)
        print(f"\n{sides}, {kinds}: {meeting}")
        assert meeting.route == expected
        if "udp-blocked" in kinds and sides == OURS:
            assert meeting.first_us <= BLOCKED_S_MAX * 1_000_000
