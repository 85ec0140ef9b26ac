"""The relay map: points of presence of a relay network, as people and signaling servers write it (JSON).

    {"version": 1, "pops": [{"code": "fra", "name": "Frankfurt", "latitude": 50.1, "longitude": 8.7,
                             "servers": ["stun:192.0.2.1", "turn:192.0.2.1", "turns:relay.example.org"]}]}

A map comes from somebody else, so it is read strictly: what is wrong is named by its place (`pops[2].code`), and what is not
known is refused rather than overlooked. Credentials have no place in it; whoever may use the relays has tickets.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any, Final

from peergram.config import RELAY_MAP_BYTES_MAX, RELAY_NAME_LETTERS_MAX, RELAY_POPS_MAX, RELAY_SERVERS_PER_POP_MAX
from peergram.errors import UsageError
from peergram.routes.candidates import is_usable
from peergram.routes.ice_servers import STUN_PORT, TURNS_PORT, StunServer, TurnServer, parse_ice_server

VERSION: Final = 1
_CODE: Final = re.compile("[a-z0-9]{3,4}")
_POP_FIELDS: Final = ("code", "name", "latitude", "longitude", "servers")
_DEPTH_MAX: Final = 8
"""Of brackets in brackets: a map has five, and Python's own limit is an exception of another kind."""


@dataclass(frozen=True, slots=True)
class PointOfPresence:
    """One place with relays. `servers` in order of preference, without credentials."""

    code: str
    name: str
    latitude: float
    longitude: float
    servers: tuple[StunServer | TurnServer, ...]


@dataclass(frozen=True, slots=True)
class RelayMap:
    """All places, each code once."""

    pops: tuple[PointOfPresence, ...] = ()

    def get(self, code: str) -> PointOfPresence | None:
        """The place of that code."""
        return next((pop for pop in self.pops if pop.code == code), None)


def pop_id(code: str) -> int:
    """A code as the reference packs it: the third letter low, a fourth one on top. Raises UsageError."""
    if not _CODE.fullmatch(code):
        raise UsageError(f"{code[:8]!r} is no code of a point of presence: three or four of a-z and 0-9")
    letters = code.encode()
    fourth = letters[3] if len(letters) == 4 else 0
    return fourth << 24 | letters[0] << 16 | letters[1] << 8 | letters[2]


def pop_code(number: int) -> str:
    """`pop_id` backwards. Raises UsageError for a number that stands for no code."""
    if isinstance(number, int) and 0 < number < 1 << 32:
        fourth = number >> 24
        letters = bytes((number >> 16 & 255, number >> 8 & 255, number & 255, *([fourth] if fourth else [])))
        code = letters.decode("latin-1")
        if _CODE.fullmatch(code):
            return code
    raise UsageError(f"{number} stands for no point of presence")


def parse_relay_map(text: bytes) -> RelayMap:
    """Read a map. Raises UsageError that names the field."""
    if len(text) > RELAY_MAP_BYTES_MAX:
        raise UsageError(f"relay map: {len(text)} bytes, at most {RELAY_MAP_BYTES_MAX} are read")
    document = _fields(_json(text), "relay map", ("version", "pops"))
    if type(document["version"]) is not int or document["version"] != VERSION:
        raise UsageError(f"version: it is {_shown(document['version'])}, and {VERSION} is what is known here")
    entries = _list(document["pops"], "pops", RELAY_POPS_MAX)
    pops = [_pop(entry, f"pops[{index}]") for index, entry in enumerate(entries)]
    codes: set[str] = set()
    for index, pop in enumerate(pops):
        if pop.code in codes:
            raise UsageError(f"pops[{index}].code: {pop.code!r} is there twice")
        codes.add(pop.code)
    return RelayMap(tuple(pops))


def format_relay_map(relays: RelayMap) -> bytes:
    """The map as text that `parse_relay_map` reads, one place a line."""
    lines = [
        json.dumps(
            {
                "code": pop.code,
                "name": pop.name,
                "latitude": pop.latitude,
                "longitude": pop.longitude,
                "servers": [server_text(server) for server in pop.servers],
            },
            ensure_ascii=False,
        )
        for pop in relays.pops
    ]
    return ('{"version": 1, "pops": [' + ",".join(f"\n  {line}" for line in lines) + "\n]}\n").encode()


def server_text(server: StunServer | TurnServer) -> str:
    """A server as people name it, without its credentials."""
    host = f"[{server.host}]" if ":" in server.host else server.host
    if isinstance(server, StunServer):
        return f"stun:{host}" + (f":{server.port}" if server.port != STUN_PORT else "")
    if server.transport == "tls":
        port = f":{server.port}" if server.port != TURNS_PORT else ""
        pin = f"?fingerprint={server.tls_fingerprint}" if server.tls_fingerprint else ""
        return f"turns:{host}{port}{pin}"
    port = f":{server.port}" if server.port != STUN_PORT else ""
    return f"turn:{host}{port}" + ("?transport=tcp" if server.transport == "tcp" else "")


def _json(text: bytes) -> Any:
    try:
        decoded = text.decode("utf-8")
    except UnicodeDecodeError:
        raise UsageError("relay map: it is not UTF-8") from None
    depth = deepest = 0
    for bracket in re.findall(r"[\[\]{}]", decoded):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    if deepest > _DEPTH_MAX:
        raise UsageError("relay map: brackets in brackets beyond what a map has")
    try:
        return json.loads(decoded, object_pairs_hook=_once, parse_constant=_no_number)
    except ValueError as error:
        raise UsageError(f"relay map: it is no JSON ({error})") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a field is there twice")
    return found


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number")


def _pop(entry: Any, place: str) -> PointOfPresence:
    found = _fields(entry, place, _POP_FIELDS)
    code, name = found["code"], found["name"]
    if not isinstance(code, str) or not _CODE.fullmatch(code):
        raise UsageError(f"{place}.code: {_shown(code)} is not three or four of a-z and 0-9")
    if not isinstance(name, str) or not 1 <= len(name) <= RELAY_NAME_LETTERS_MAX or not name.isprintable():
        raise UsageError(f"{place}.name: give text of 1 to {RELAY_NAME_LETTERS_MAX} letters")
    texts = _list(found["servers"], f"{place}.servers", RELAY_SERVERS_PER_POP_MAX)
    if not texts:
        raise UsageError(f"{place}.servers: there is none")
    servers = tuple(_server(each, f"{place}.servers[{index}]") for index, each in enumerate(texts))
    return PointOfPresence(
        code,
        name,
        _degrees(found["latitude"], f"{place}.latitude", 90),
        _degrees(found["longitude"], f"{place}.longitude", 180),
        tuple(dict.fromkeys(servers)),
    )


def _server(text: Any, place: str) -> StunServer | TurnServer:
    if not isinstance(text, str):
        raise UsageError(f"{place}: give the address of a server as text, not {_shown(text)}")
    try:
        server = parse_ice_server(text)
    except UsageError as error:
        raise UsageError(f"{place}: {error}") from None
    is_numeric = ":" in server.host or server.host.replace(".", "").isdigit()
    if is_numeric and not is_usable((server.host, server.port), allow_loopback=True):
        raise UsageError(f"{place}: no server is at {server.host}")
    if isinstance(server, TurnServer) and server.username:
        raise UsageError(f"{place}: a relay map is for everybody to read, so that no user and password belong into it")
    return server


def _degrees(value: Any, place: str, limit: int) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.fabs(value) <= limit:
        raise UsageError(f"{place}: {_shown(value)} is no number from -{limit} to {limit}")
    return float(value)


def _fields(value: Any, place: str, names: tuple[str, ...]) -> dict[str, Any]:
    """An object with exactly these fields."""
    prefix = "" if place == "relay map" else f"{place}."
    if not isinstance(value, dict):
        raise UsageError(f"{place}: an object in braces belongs here, not {_shown(value)}")
    for name in names:
        if name not in value:
            raise UsageError(f"{prefix}{name}: it is missing")
    for name in value:
        if name not in names:
            raise UsageError(f"{prefix}{_plain(name)}: no field of that name is known")
    return value


def _list(value: Any, place: str, most: int) -> list[Any]:
    if not isinstance(value, list):
        raise UsageError(f"{place}: a list belongs here, not {_shown(value)}")
    if len(value) > most:
        raise UsageError(f"{place}: {len(value)} entries, at most {most} are read")
    return value


def _shown(value: Any) -> str:
    return _plain(json.dumps(value))


def _plain(text: str) -> str:
    """Short, and without what would write lines of its own."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:40])
