"""Ours and the reference find each other by identity, over its own ICE: who begins, how soon, and over a relay only.

Each attempt is two fresh processes. Both talk in both directions. Short by default: three attempts of each kind; PEERGRAM_SOAK=1
makes a hundred, none of which may fail. Needs what `tests.scenarios.nat_lab` needs, and the reference.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from tests.lab import SOAK
from tests.scenarios.nat_lab import Maker, NatLab, need, world

from .party import PartyProcess

pytestmark = pytest.mark.interop

Beginner = Literal["ours", "reference", "both"]
BEGINNERS: tuple[Beginner, ...] = ("ours", "reference", "both")
ATTEMPTS = 100 if SOAK else 3
DIRECT = "alice@inet bob@inet"
RELAYED = "alice@home1:symmetric bob@home2:symmetric"
SETTLE_S = 0.4
"""Until both are known to the signaling server."""
MEET_S_MAX = 3.0
"""No attempt takes longer from the first send until both have had a message."""
TALK_S = 0.4
TIMED_ATTEMPTS = 15
FIRST_S = 0.04
"""Until a first message of the reference is here, from its request on: what it waits before that is its own."""
BOTH_S = 0.2
"""Until each has the other's, where both begin."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """Times from the (first) send."""

    first_us: int
    """Until the message of who began has come: of ours where both did. It may wait there for somebody to look."""
    second_us: int
    """Until the other's has, which is its answer where it did not begin too."""
    asked_us: int
    """Until ours was told that the reference wants to talk; 0 where ours began too."""
    routes: tuple[str, str]
    """As ours and the reference say."""

    @property
    def met_us(self) -> int:
        """Until both have had a message of the other."""
        return max(self.first_us, self.second_us)


@contextmanager
def fresh_pair(lab: NatLab, **options: Any) -> Iterator[tuple[PartyProcess, PartyProcess]]:
    """Ours on alice, the reference on bob."""
    alice, bob = lab.pair(("ours", "reference"), **options)
    try:
        time.sleep(SETTLE_S)
        yield alice, bob
    finally:
        for peer in (alice, bob):
            peer.kill()


def attempt(lab: NatLab, beginner: Beginner, **options: Any) -> Attempt:
    with fresh_pair(lab, **options) as (ours, reference):
        one, two = (reference, ours) if beginner == "reference" else (ours, reference)
        began_us = one.send(two.identity, b"from one")
        if beginner == "both":
            two.send(one.identity, b"from two")
        sender, data, first_at_us = two.take()
        assert (sender, data) == (one.identity, b"from one")
        if beginner != "both":
            two.send(one.identity, b"from two")
        sender, data, second_at_us = one.take()
        assert (sender, data) == (two.identity, b"from two")
        talk(one, two)
        asked_us = ours.events("request")[0]["at_us"] - began_us if beginner == "reference" else 0
        return Attempt(
            first_at_us - began_us, second_at_us - began_us, asked_us, (route(ours, reference), route(reference, ours))
        )


def route(peer: PartyProcess, other: PartyProcess) -> str:
    standing = peer.standing(other.identity)
    return standing.route if standing is not None else ""


def talk(one: PartyProcess, two: PartyProcess) -> None:
    """Both ways at once, each message once and in order."""
    for speaker, listener in ((one, two), (two, one)):
        speaker.talk(listener.identity, TALK_S)
    count = int(TALK_S * 50)
    for speaker, listener in ((one, two), (two, one)):
        listener.until(
            lambda speaker=speaker, listener=listener: listener.heard(speaker.identity).received == count,  # type: ignore[misc]
            "all that was said",
            10,
        )
        heard = listener.heard(speaker.identity)
        assert (heard.doubled, heard.is_ordered) == (0, True)


def report(name: str, attempts: list[Attempt]) -> None:
    for what, values in (
        ("first message", [each.first_us for each in attempts]),
        ("messages both ways", [each.met_us for each in attempts]),
    ):
        known = sorted(value / 1e3 for value in values)
        ninety = known[len(known) * 9 // 10]
        print(
            f"\n{name}: {len(known)} attempts, {what}: shortest {known[0]:.0f} ms, median {statistics.median(known):.0f} ms, "
            f"90 % within {ninety:.0f} ms, longest {known[-1]:.0f} ms",
            end="",
        )


@pytest.mark.parametrize("beginner", BEGINNERS)
@pytest.mark.parametrize(
    ("words", "way", "relay_of"),
    [(DIRECT, "direct", "coturn"), (RELAYED, "relay", "coturn"), (RELAYED, "relay", "ours")],
    ids=["directly", "over coturn only", "over our relay only"],
)
def test_ours_and_the_reference_meet_every_time_whoever_begins(words: str, way: str, relay_of: Maker, beginner: Beginner) -> None:
    need(("ours", "reference"))
    with world(words, relay_of=relay_of) as lab:
        attempts = [attempt(lab, beginner) for _ in range(ATTEMPTS)]
    report(f"{way}, relay of {relay_of}, {beginner} first", attempts)
    assert all(way in each.routes for each in attempts)
    assert max(each.met_us for each in attempts) <= MEET_S_MAX * 1_000_000


@pytest.mark.skipif(not SOAK, reason="times, which want the machine for themselves: set PEERGRAM_SOAK=1")
@pytest.mark.parametrize("beginner", BEGINNERS)
def test_without_servers_to_wait_for_a_first_message_is_there_at_once(beginner: Beginner) -> None:
    """Host candidates only, so that nothing is waited for but the other side."""
    need(("ours", "reference"))
    with world(DIRECT) as lab:
        attempts = [attempt(lab, beginner, stun=[], turn=[]) for _ in range(TIMED_ATTEMPTS)]
    report(f"host candidates only, {beginner} first", attempts)
    if beginner == "reference":
        net_us = statistics.median(each.first_us - each.asked_us for each in attempts)
        print(f"\nof which the reference waited before it asked, so that {net_us / 1e3:.0f} ms are left (median)")
        assert net_us <= FIRST_S * 1_000_000
    if beginner == "both":
        assert statistics.median(each.met_us for each in attempts) <= BOTH_S * 1_000_000
