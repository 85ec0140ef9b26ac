"""Our relay between peers behind real NATs, in place of coturn: who has no other way meets over it, and one may have UDP blocked
(R11); and with relays only, on both.

Short by default; PEERGRAM_SOAK=1 runs every kind of NAT. Needs what `nat_lab` needs.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.lab import SOAK

from .nat_lab import KINDS, OURS, SIDES, Kind, Maker, Side, marks, meet, nat_lab, need, route_expected, world

MEET_S_MAX = 3.0
SERVE_PORT = 8_443
KINDS_RUN: tuple[Kind, ...] = KINDS if SOAK else ("none", "symmetric", "udp-blocked")


@pytest.mark.parametrize("kind", KINDS_RUN)
def test_who_has_udp_blocked_meets_everybody_within_three_seconds(kind: Kind) -> None:
    with nat_lab("udp-blocked", kind, relay_of="ours") as lab:
        meeting = meet(*lab.pair(OURS))
        print(f"\nudp-blocked x {kind}: {meeting}")
        assert meeting.route == "relay"
        assert meeting.first_us <= MEET_S_MAX * 1_000_000


@pytest.mark.parametrize("sides", [pytest.param(sides, marks=marks(sides), id="-".join(sides)) for sides in SIDES])
def test_behind_symmetric_nats_all_meet_over_it(sides: tuple[Side, Side]) -> None:
    need(sides)
    with nat_lab("symmetric", "symmetric", relay_of="ours") as lab:
        meeting = meet(*lab.pair(sides))
        print(f"\n{sides}: {meeting}")
        assert meeting.route == "relay"


@pytest.mark.parametrize("relay_of", ["coturn", "ours"])
def test_with_relays_only_ours_meet_over_either(relay_of: Maker) -> None:
    with nat_lab("none", "none", relay_of=relay_of) as lab:
        meeting = meet(*lab.pair(OURS, settings={"candidates": "relay"}))
        print(f"\nrelays only, {relay_of}: {meeting}")
        assert meeting.routes == ("relay", "relay")


@pytest.mark.parametrize("kinds", [("symmetric", "symmetric"), ("port-restricted", "port-restricted"), ("udp-blocked", "none")])
def test_one_command_on_one_machine_is_all_that_two_peers_need(kinds: tuple[Kind, Kind], tmp_path: Path) -> None:
    """Its URL is all they know: signaling, STUN and a relay by UDP, TCP and TLS come with it."""
    with world(f"alice@home1:{kinds[0]} bob@home2:{kinds[1]} box@inet", relays=0) as lab:
        command = [sys.executable, "-m", "peergram.cli", "serve", "--bind", f"{lab.lab.addr('box')}:{SERVE_PORT}"]
        url = lab.serve("box", [*command, "--state", str(tmp_path), "--names", "off"], "wss://")
        alice, bob = (lab.peer("ours", name, name, signaling=url, stun=[], turn=[]) for name in ("alice", "bob"))
        meeting = meet(alice, bob)
        print(f"\none box, {kinds[0]} x {kinds[1]}: {meeting}")
        assert meeting.route == route_expected(kinds, OURS)
        assert meeting.first_us <= MEET_S_MAX * 1_000_000
