"""Relay maps: what is read, and how what is wrong is named."""

from __future__ import annotations

import json
from typing import Any

import pytest

from peergram.config import RELAY_MAP_BYTES_MAX, RELAY_NAME_LETTERS_MAX, RELAY_POPS_MAX, RELAY_SERVERS_PER_POP_MAX
from peergram.errors import UsageError
from peergram.routes.ice_servers import StunServer, TurnServer
from peergram.routes.relay_map import RelayMap, format_relay_map, parse_relay_map, pop_code, pop_id


def pop(**changes: Any) -> dict[str, Any]:
    given = {"code": "fra", "name": "Frankfurt", "latitude": 50.1, "longitude": 8.7, "servers": ["turn:192.0.2.1"]}
    return {name: value for name, value in (given | changes).items() if value is not ...}


def text(*pops: Any, version: Any = 1) -> bytes:
    return json.dumps({"version": version, "pops": list(pops)}).encode()


def test_a_map_is_read_and_written_again_as_it_was() -> None:
    servers = ["stun:192.0.2.1", "turn:192.0.2.1:443", "turn:[2001:db8::1]?transport=tcp", "turns:relay.example.org"]
    relays = parse_relay_map(text(pop(servers=servers), pop(code="iad2", name="Ashburn", latitude=-39, longitude=-77.5)))
    assert [each.code for each in relays.pops] == ["fra", "iad2"]
    assert relays.pops[0].servers == (
        StunServer("192.0.2.1"),
        TurnServer("192.0.2.1", 443),
        TurnServer("2001:db8::1", 3_478, "tcp"),
        TurnServer("relay.example.org", 5_349, "tls"),
    )
    assert parse_relay_map(format_relay_map(relays)) == relays
    assert [json.loads(format_relay_map(relays))["pops"][0]["servers"]] == [servers]
    assert parse_relay_map(text()) == RelayMap()


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (text(pop(), pop(code="ams"), pop(code="FRA")), "pops[2].code: "),
        (text(pop(), pop()), "pops[1].code: 'fra' is there twice"),
        (text(pop(code="toolong")), "pops[0].code: "),
        (text(pop(code=7)), "pops[0].code: "),
        (text(pop(name="")), "pops[0].name: "),
        (text(pop(name="two\nlines")), "pops[0].name: "),
        (text(pop(latitude=90.5)), "pops[0].latitude: "),
        (text(pop(latitude=True)), "pops[0].latitude: "),
        (text(pop(longitude="8")), "pops[0].longitude: "),
        (text(pop(longitude=...)), "pops[0].longitude: it is missing"),
        (text(pop(servers=[])), "pops[0].servers: there is none"),
        (text(pop(servers="turn:192.0.2.1")), "pops[0].servers: "),
        (text(pop(servers=["turn:192.0.2.1"] * (RELAY_SERVERS_PER_POP_MAX + 1))), "pops[0].servers: 9 entries"),
        (text(pop(servers=["http://192.0.2.1"])), "pops[0].servers[0]: "),
        (text(pop(servers=["stun:192.0.2.1", "turn:ann:secret@192.0.2.1"])), "pops[0].servers[1]: a relay map is for everybody"),
        (text(pop(servers=[None])), "pops[0].servers[0]: "),
        (text(pop(servers=["stun:224.0.0.1"])), "pops[0].servers[0]: no server is at"),
        (text(pop(servers=["turn:[ff02::1]"])), "pops[0].servers[0]: no server is at"),
        (text(pop(servers=["turn:255.255.255.255"])), "pops[0].servers[0]: no server is at"),
        (text(pop(servers=["turn:0.0.0.0"])), "pops[0].servers[0]: no server is at"),
        (text(pop(colour="blue")), "pops[0].colour: no field"),
        (text(*(pop(code=f"{index:03}") for index in range(RELAY_POPS_MAX + 1))), "pops: 65 entries"),
        (text("fra"), "pops[0]: "),
        (text(version=2), "version: it is 2"),
        (text(version=True), "version: it is true"),
        (b'{"version": 1}', "pops: it is missing"),
        (b'{"version": 1, "version": 1, "pops": []}', "relay map: it is no JSON (a field is there twice)"),
        (b'{"version": 1, "pops": NaN}', "relay map: it is no JSON"),
        (b"[]", "relay map: "),
        (b"", "relay map: it is no JSON"),
        (b"\xff", "relay map: it is not UTF-8"),
        (b"[" * 50_000, "relay map: brackets"),
        (b" " * (RELAY_MAP_BYTES_MAX + 1), "relay map: 65537 bytes"),
        (b'{"version": 1, "pops": [' + b"9" * 5_000 + b"]}", "relay map: it is no JSON"),
    ],
)
def test_what_is_wrong_is_named_by_its_place(content: bytes, place: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_relay_map(content)
    assert str(caught.value).startswith(place)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("code", "number"), [("dev", 0x646576), ("fra", 0x667261), ("iad2", 0x32696164), ("0aa", 0x306161)])
def test_codes_are_packed_as_the_reference_packs_them(code: str, number: int) -> None:
    assert pop_id(code) == number
    assert pop_code(number) == code


@pytest.mark.parametrize("number", [0, -1, 1 << 32, 0x64, 0x46524121, 0x006465])
def test_a_number_that_stands_for_no_code_is_refused(number: int) -> None:
    with pytest.raises(UsageError):
        pop_code(number)
    for code in ("", "fr", "frank", "FRA", "f a"):
        with pytest.raises(UsageError):
            pop_id(code)


def test_a_name_has_so_many_letters_and_no_more() -> None:
    assert parse_relay_map(text(pop(name="n" * RELAY_NAME_LETTERS_MAX))).pops[0].name == "n" * RELAY_NAME_LETTERS_MAX
    with pytest.raises(UsageError, match="name"):
        parse_relay_map(text(pop(name="n" * (RELAY_NAME_LETTERS_MAX + 1))))
