"""Two peers of ours in networks other than one NAT each: two layers of NAT, one roof, equal private prefixes, IPv6, two uplinks.

Each world says how they must come to talk. Short by default: four of them; PEERGRAM_SOAK=1 runs all. Needs root, the `netlab`
module (see `tests.lab`) and coturn.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.interop.party import PartyProcess
from tests.lab import SOAK

from .nat_lab import OURS, Family, NatLab, Route, meet, world
from .test_p2p_faults import Fault, Scene, talk_through

FIRST_S_MAX = 3.0
"""No world needs more from the first send to its arrival."""
ONE_LEFT_S = 3.0
"""From the end of one uplink until the talk goes on by the other."""


@dataclass(frozen=True, slots=True)
class World:
    """Where alice and bob live, and what must come of it."""

    name: str
    words: str
    route: Route
    is_short: bool = False
    families: tuple[Family, Family] | None = None
    """The only one that alice has, and bob; None: all that the lab has."""
    v6: bool = False


CARRIER = "isp:port-restricted alice@home1:port-restricted,uplink=isp"
CARRIERS = f"{CARRIER} isp2:port-restricted bob@home2:port-restricted,uplink=isp2"
SAME_PREFIX = "lan=192.168.77.0/24"
WORLDS = [
    World("carrier NAT on one side", f"{CARRIER} bob@home2:port-restricted", "direct"),
    World("carrier NAT on both sides", CARRIERS, "direct", is_short=True),
    World(
        "a symmetric carrier NAT, and an open host",
        "isp:symmetric alice@home1:full-cone,uplink=isp bob@inet",
        "direct",
    ),
    World(
        "a symmetric carrier NAT, and a home",
        "isp:symmetric alice@home1:full-cone,uplink=isp bob@home2:port-restricted",
        "relay",
    ),
    World(
        "one carrier NAT that passes nothing back",
        "isp:port-restricted alice@home1:port-restricted,uplink=isp bob@home2:port-restricted,uplink=isp",
        "relay",
    ),
    World(
        "one carrier NAT that passes packets back",
        "isp:full-cone,hairpin=on alice@home1:port-restricted,uplink=isp bob@home2:port-restricted,uplink=isp",
        "direct",
    ),
    World(
        "the same private address on both sides",
        f"alice@home1:port-restricted,{SAME_PREFIX} bob@home2:port-restricted,{SAME_PREFIX}",
        "direct",
        is_short=True,
    ),
    World(
        "the other's private address belongs to a neighbour",
        f"alice@home1:port-restricted,{SAME_PREFIX} dave@home2:port-restricted,{SAME_PREFIX} carol@home1 bob@home2",
        "direct",
    ),
    World("one roof", "alice@home1:port-restricted bob@home1", "local", is_short=True),
    World("one roof with a symmetric NAT", "alice@home1:symmetric bob@home1", "local"),
    World("one roof without UDP to the world", "alice@home1:udp-blocked bob@home1", "local"),
    World("ports that are not kept", "alice@home1:port-restricted,ports=random bob@home2:port-restricted,ports=random", "direct"),
    World(
        "routers that reject rather than drop",
        "alice@home1:port-restricted,unsolicited=reject bob@home2:port-restricted,unsolicited=reject",
        "direct",
    ),
    World(
        "routers that reject, and no way through",
        "alice@home1:symmetric,unsolicited=reject bob@home2:symmetric,unsolicited=reject",
        "relay",
    ),
    World("IPv6 here, IPv4 there", "alice@inet bob@inet", "relay", is_short=True, families=(6, 4), v6=True),
    World("IPv4 here, IPv6 there", "alice@inet bob@inet", "relay", families=(4, 6), v6=True),
    World(
        "IPv6 here, IPv4 there, both at home",
        "alice@home1:symmetric bob@home2:symmetric",
        "relay",
        families=(6, 4),
        v6=True,
    ),
    World("IPv6 only, behind firewalls", "alice@home1:symmetric bob@home2:symmetric", "direct", families=(6, 6), v6=True),
    World("IPv6 behind firewalls beside symmetric NATs", "alice@home1:symmetric bob@home2:symmetric", "direct", v6=True),
    World(
        "IPv6 only, translated",
        "alice@home1:port-restricted,v6=nat66 bob@home2:port-restricted,v6=nat66",
        "direct",
        families=(6, 6),
        v6=True,
    ),
]
CASES = [pytest.param(each, id=each.name) for each in WORLDS if SOAK or each.is_short]


def keep_only(lab: NatLab, host: str, family: Family) -> None:
    other = {4: "-6", 6: "-4"}[family]
    lab.lab.run(host, ["ip", other, "addr", "flush", "dev", "eth0"], check=True)


def peers(lab: NatLab, place: World) -> tuple[PartyProcess, PartyProcess]:
    known: list[tuple[Family, ...]] = [(4, 6) if place.v6 else (4,)] * 2
    if place.families is not None:
        for host, family in zip(("alice", "bob"), place.families, strict=True):
            keep_only(lab, host, family)
        known = [(family,) for family in place.families]
    return lab.peer("ours", "alice", "alice", families=known[0]), lab.peer("ours", "bob", "bob", families=known[1])


@pytest.mark.parametrize("place", CASES)
def test_two_peers_meet_where(place: World) -> None:
    with world(place.words, v6=place.v6) as lab:
        meeting = meet(*peers(lab, place))
        print(f"\n{place.name}: {meeting}")
        assert meeting.route == place.route
        assert meeting.first_us <= FIRST_S_MAX * 1_000_000


def swallow(scene: Scene) -> None:
    scene.lab.lab.blackhole("alice")


def cut(scene: Scene) -> None:
    scene.lab.lab.cut("alice")


@pytest.mark.parametrize(
    "happens", [cut, pytest.param(swallow, marks=pytest.mark.skipif(not SOAK, reason="set PEERGRAM_SOAK=1"))]
)
def test_a_session_goes_on_by_the_second_uplink_when_the_first_is(happens: Callable[[Scene], None]) -> None:
    with world("alice@home1:port-restricted+lte:port-restricted bob@home2:port-restricted") as lab:
        alice, bob = lab.pair(OURS)
        print(f"\n{happens.__name__}: {meet(alice, bob)}")
        outcomes = talk_through(Scene(lab, alice, bob), Fault(happens.__name__, happens, 0, ONE_LEFT_S, False))
        for name, result in zip(("alice", "bob"), outcomes, strict=True):
            print(f"of what {name} says: {result}")
        assert all((result.missing, result.doubled, result.is_ordered) == (0, 0, True) for result in outcomes)
        assert max(result.silence_us for result in outcomes) <= ONE_LEFT_S * 1_000_000


@pytest.mark.skipif(not SOAK, reason="a minute of waiting: set PEERGRAM_SOAK=1")
def test_a_silent_session_outlives_routers_that_forget_flows_after_fifteen_seconds() -> None:
    with world("alice@home1:port-restricted,timeout=15,ports=random bob@home2:port-restricted,timeout=15,ports=random") as lab:
        alice, bob = lab.pair(OURS)
        meet(alice, bob)
        time.sleep(60)
        sent_us = alice.send(bob.identity, b"still there?")
        arrived_us = bob.take()[2]
        print(f"\n{(arrived_us - sent_us) / 1e6:.3f} s")
        assert arrived_us - sent_us <= 500_000
