"""What a session of ours outlives beyond the faults of `test_p2p_faults`: a relay that is overloaded, an interface or a family of
addresses that goes, a machine that sleeps, and a better way that opens while the session runs.

Both sides talk all the time; nothing may be lost, come twice or out of order, and the talk goes on within `RESUMES_S` of the time
at which something can pass again. Short by default: two rows; PEERGRAM_SOAK=1 runs all, with longer talks.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.interop.party import PartyProcess
from tests.lab import SOAK

from .nat_lab import OURS, Family, NatLab, Route, meet, world
from .test_p2p_faults import Fault, Scene, stop, talk_through

RESUMES_S = 3.0
HOMES = "alice@home1:port-restricted bob@home2:port-restricted"
_MOVES_S = 10.0
"""Until a better way is in use at the latest: what failed is checked again every 3 to 10 s."""


@dataclass(frozen=True, slots=True)
class Survival:
    """One row: in which world, what happens, and by which way the session goes before and after."""

    name: str
    words: str
    happens: Callable[[Scene], object]
    before: Route
    after: Route
    lasts_s: float = 0
    relays: int = 1
    families: tuple[Family, ...] = (4,)
    after_family: Family = 4
    is_short: bool = False


def overload(scene: Scene) -> None:
    """The relay in use drops nearly every second packet, and keeps the others for half a second."""
    scene.lab.lab.impair(scene.lab.relay_in_use(), loss=40, delay=400, jitter=200)


def lose_family(family: Family) -> Callable[[Scene], object]:
    """Alice's machine loses its addresses of one family, and hears no more than that."""
    return lambda scene: run_on_alice(scene.lab, f"-{family}", "addr", "flush", "dev", "eth0", "scope", "global")


def trade_v4_for_v6(scene: Scene) -> None:
    """From a network of one family to one of the other."""
    lab = scene.lab
    lose_family(4)(scene)
    run_on_alice(lab, "-6", "addr", "add", f"{lab.lab.addr('alice', 6)}/64", "dev", "eth0", "nodad")
    gateway = next(iface["gw6"] for iface in lab.lab.s["nodes"]["alice"]["ifaces"])
    run_on_alice(lab, "-6", "route", "replace", "default", "via", gateway, "dev", "eth0")


def run_on_alice(lab: NatLab, *words: str) -> None:
    lab.lab.run("alice", ["ip", *words], check=True)


ROWS = [
    Survival(
        "the relay in use is overloaded",
        "alice@home1:symmetric bob@home2:symmetric",
        overload,
        before="relay",
        after="relay",
        relays=2,
    ),
    Survival(
        "Wi-Fi goes, the phone network stays",
        "alice@home1+lte bob@home2:port-restricted",
        lambda scene: scene.lab.lab.cut("alice"),
        before="direct",
        after="direct",
        is_short=True,
    ),
    Survival("IPv6 goes", HOMES, lose_family(6), before="direct", after="direct", families=(4, 6)),
    # The signaling server is known by its IPv4 address here: alice cannot say where she is, so bob's firewall must let her in.
    Survival(
        "IPv4 goes, IPv6 comes",
        f"{HOMES},v6=open",
        trade_v4_for_v6,
        before="direct",
        after="direct",
        families=(4, 6),
        after_family=6,
    ),
    Survival("a peer is suspended for 50 s", HOMES, stop(50), before="direct", after="direct", lasts_s=50),
    Survival(
        "a better way opens",
        "alice@home1:udp-blocked bob@home2:port-restricted",
        lambda scene: scene.lab.lab.set_nat("home1", "port-restricted"),
        before="relay",
        after="direct",
        is_short=True,
    ),
]


@pytest.mark.parametrize("row", [pytest.param(row, id=row.name) for row in ROWS if SOAK or row.is_short])
def test_a_session_outlives(row: Survival) -> None:
    with world(row.words, relays=row.relays, v6=len(row.families) > 1) as lab:
        if row.after_family == 6:
            run_on_alice(lab, "-6", "addr", "flush", "dev", "eth0", "scope", "global")
        alice, bob = lab.pair(OURS, families=row.families)
        meeting = meet(alice, bob)
        assert meeting.route == row.before
        fault = Fault(row.name, row.happens, row.lasts_s, RESUMES_S, reference_survives=False)
        outcomes = talk_through(Scene(lab, alice, bob), fault)
        print(f"\n{row.name}: " + "; ".join(map(str, outcomes)))
        assert all((result.missing, result.doubled, result.is_ordered) == (0, 0, True) for result in outcomes)
        assert max(result.silence_us for result in outcomes) <= (row.lasts_s + RESUMES_S) * 1_000_000
        deadline_s = time.monotonic() + _MOVES_S
        while (way := way_of(alice, bob)) != (row.after, row.after_family) and time.monotonic() < deadline_s:
            time.sleep(0.1)
        assert way == (row.after, row.after_family)


def way_of(one: PartyProcess, other: PartyProcess) -> tuple[str, Family]:
    """By which way and family `one` sends; behind a relay the family does not show, and is 4."""
    found = one.standing(other.identity)
    return ("", 4) if found is None else (found.route, 6 if found.address.startswith("[") else 4)
