"""Ping locations: their text, and what two of them tell."""

from __future__ import annotations

import pytest

from peergram.config import PING_LOCATION_BYTES_MAX, RELAY_POPS_MAX
from peergram.errors import UsageError
from peergram.routes.ping_location import (
    PingLocation,
    PopPing,
    between_pops_ms,
    estimate_ping_ms,
    parse_ping_location,
    paths_between,
)
from peergram.routes.relay_map import PointOfPresence, RelayMap


def pop(code: str, latitude: float, longitude: float) -> PointOfPresence:
    return PointOfPresence(code, code, latitude, longitude, ())


RELAYS = RelayMap((pop("fra", 50.1, 8.7), pop("ams", 52.4, 4.9), pop("iad", 39.0, -77.5), pop("syd", -33.9, 151.2)))


def test_a_location_is_written_with_the_nearest_first_and_read_again() -> None:
    location = PingLocation.of([PopPing("ams", 31), PopPing("fra", 25, 2)])
    assert str(location) == "fra=25+2,ams=31"
    assert parse_ping_location("fra=25+2,ams=31") == parse_ping_location(b"ams=31,fra=25+2") == location
    assert (location.nearest, location.ms_to("ams"), location.ms_to("iad")) == ("fra", 31, None)
    assert parse_ping_location("") == PingLocation()


@pytest.mark.parametrize(
    "text",
    ["fra", "fra=", "fra=-1", "fra=1.5", "FRA=1", "fr=1", "frank=1", "fra=1,", ",fra=1", "fra=1, ams=2", "fra=1+", "fra=1+2+3",
     "fra=1,fra=2", "fra=10000", "fra=1+10000", "fra=\u0661", "x" * (PING_LOCATION_BYTES_MAX + 1)],
)  # fmt: skip
def test_what_is_no_location_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_ping_location(text)


def test_of_many_places_the_farthest_are_left_out() -> None:
    location = PingLocation.of(PopPing(f"{index:03}", 1_000 + index, 100) for index in range(RELAY_POPS_MAX))
    assert len(str(location)) <= PING_LOCATION_BYTES_MAX
    assert location.ms_to("000") is not None
    assert location.ms_to("063") is None
    assert parse_ping_location(str(location)) == location


@pytest.mark.parametrize(
    ("one", "other", "ms"),
    [
        ("fra=25", "fra=30", 55),
        ("fra=25,ams=10", "fra=30,ams=50", 47),
        ("fra=5", "ams=5", 17),
        ("fra=5,ams=80", "ams=5", 17),
        ("fra=5", "iad=5", 110),
        ("iad=10", "syd=10", 258),
        ("fra=5", "xxx=5", None),
        ("xxx=5", "xxx=6", 11),
        ("", "fra=5", None),
    ],
)
def test_the_ping_between_two_locations(one: str, other: str, ms: int | None) -> None:
    ends = parse_ping_location(one), parse_ping_location(other)
    assert estimate_ping_ms(*ends, RELAYS) == estimate_ping_ms(*ends[::-1], RELAYS) == ms


def test_both_sides_come_to_the_same_places() -> None:
    one, other = parse_ping_location("fra=20,ams=14,iad=100"), parse_ping_location("fra=22,ams=29,iad=90")
    there, back = paths_between(one, other, RELAYS), paths_between(other, one, RELAYS)
    assert {(path.near, path.far, path.ms) for path in there} == {(path.far, path.near, path.ms) for path in back}
    assert (there[0].near, there[0].far) == (back[0].far, back[0].near) == ("fra", "fra")


def test_known_distances() -> None:
    pops = {each.code: each for each in RELAYS.pops}
    assert between_pops_ms("fra", "fra", pops) == 1
    assert between_pops_ms("fra", "xxx", pops) is None
    # 365, 6540 and 15 700 km; real round trips are about 7, 90 and 200 ms.
    found = [between_pops_ms(*ends, pops) for ends in (("fra", "ams"), ("fra", "iad"), ("iad", "syd"))]
    assert found == [7, 100, 238]


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("fra=10,ams=100", "fra=19,ams=100", True),
        ("fra=10,ams=100", "fra=20,ams=100", False),
        ("fra=10,ams=100", "fra=10,ams=119", True),
        ("fra=10,ams=100", "ams=75,fra=10", False),
        ("fra=10,ams=100", "fra=10", False),
        ("fra=10", "fra=10,ams=100", False),
        ("fra=10+1", "fra=10+9", True),
    ],
)
def test_places_that_chance_may_have_moved_are_alike(one: str, other: str, alike: bool) -> None:
    assert parse_ping_location(one).is_like(parse_ping_location(other)) is alike
    assert parse_ping_location(other).is_like(parse_ping_location(one)) is alike
