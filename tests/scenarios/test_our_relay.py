"""Our relay between peers behind real NATs, in place of coturn: who has no other way meets over it, and one may have UDP blocked
(R11); and with relays only, on both.

Short by default; PEERGRAM_SOAK=1 runs every kind of NAT. Needs what `nat_lab` needs.
"""

from __future__ import annotations

import pytest

from tests.lab import SOAK

from .nat_lab import KINDS, OURS, SIDES, Kind, Maker, Side, marks, meet, nat_lab, need

MEET_S_MAX = 3.0
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
