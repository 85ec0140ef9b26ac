from __future__ import annotations

from peergram.cli.paths import PathNews, describe_path
from peergram.events import ConnectionInfo, ConnectionState, InfoFlags
from peergram.identity import Identity


def going(route: str, state: ConnectionState = ConnectionState.CONNECTED, address: str = "", place: str = "") -> ConnectionInfo:
    return ConnectionInfo(
        identity=Identity.of("bob"), address=address, state=state, end_reason=0, end_debug="", description="",
        flags=InfoFlags.NONE, own_peer=True, proven_by="nothing", key_fingerprint="", route=route, pop_relay=place,
    )  # fmt: skip


def told(*connections: ConnectionInfo | None) -> list[str]:
    news = PathNews()
    return [sentence for connection in connections if (sentence := news.sentence("bob", connection)) is not None]


def test_a_way_is_told_once() -> None:
    assert told(None, going(""), going("local"), going("local")) == ["Talking to bob over the local network."]


def test_better_and_other_ways_are_told_apart() -> None:
    assert told(going("relayed"), going("direct"), going("local"), going("relayed")) == [
        "Talking to bob through a relay.",
        "A better way to bob was found: now directly.",
        "A better way to bob was found: now over the local network.",
        "The way to bob has changed: now through a relay.",
    ]


def test_the_place_of_a_relay_is_told_and_so_is_another_one() -> None:
    assert told(going("relayed", place="fra"), going("relayed", place="fra"), going("relayed", place="ams"), going("direct")) == [
        "Talking to bob through a relay at fra.",
        "The way to bob has changed: now through a relay at ams.",
        "A better way to bob was found: now directly.",
    ]


def test_a_lost_way_is_told_and_so_is_the_next_one() -> None:
    lost = going("", ConnectionState.FINDING_ROUTE)
    assert told(going("direct"), lost, lost, going("direct")) == [
        "Talking to bob directly.",
        "The way to bob is lost; looking for another one …",
        "Talking to bob again, directly.",
    ]


def test_a_session_that_ended_has_no_news() -> None:
    assert told(going("direct"), going("", ConnectionState.NONE), going("", ConnectionState.PROBLEM_DETECTED_LOCALLY)) == [
        "Talking to bob directly."
    ]


def test_a_path_in_a_list_is_short() -> None:
    assert describe_path(going("local", address="[fe80::1]:7")) == "local [fe80::1]:7"
    assert describe_path(going("relayed")) == "relayed"
    assert describe_path(going("relayed", place="fra")) == "relayed at fra"
    assert describe_path(going("", address="127.0.0.1:7")) == "direct 127.0.0.1:7"
    assert describe_path(going("", ConnectionState.FINDING_ROUTE)) == "no way"
