"""Relay maps, ping locations, and what a signaling server tells of them."""

from __future__ import annotations

from fuzz.run import run
from peergram.errors import UsageError, WireError
from peergram.routes.ice_servers import parse_ice_server
from peergram.routes.ping_location import parse_ping_location
from peergram.routes.relay_map import format_relay_map, parse_relay_map, pop_code, pop_id, server_text
from peergram.wire.cursor import Cursor
from peergram.wire.relay_news import Ticket, Tickets, encode_tickets, read_relay_news, read_tickets


def fuzz_one(data: bytes) -> None:
    """Each is refused with UsageError or WireError, or is the same after being written again."""
    try:
        relays = parse_relay_map(data)
    except UsageError:
        pass
    else:
        assert parse_relay_map(format_relay_map(relays)) == relays
        for pop in relays.pops:
            assert pop_code(pop_id(pop.code)) == pop.code
            assert all(parse_ice_server(server_text(server)) == server for server in pop.servers)
    try:
        location = parse_ping_location(data)
    except UsageError:
        pass
    else:
        assert parse_ping_location(str(location)) == location
    try:
        assert read_relay_news(Cursor(data)).map_text == data
        cursor = Cursor(data)
        tickets = read_tickets(cursor)
    except WireError:
        pass
    else:
        assert encode_tickets(tickets) == data[: cursor.at]


def seeds() -> list[bytes]:
    """A map, a location, tickets."""
    return [
        b'{"version": 1, "pops": [{"code": "fra", "name": "Frankfurt", "latitude": 50.1, "longitude": 8.7,'
        b' "servers": ["stun:192.0.2.1", "turn:[2001:db8::1]:443?transport=tcp", "turns:relay.example.org"]}]}',
        b'{"version": 1, "pops": []}',
        b"fra=25+2,ams=31,iad2=99",
        encode_tickets(Tickets((Ticket("fra", "1:str:a", "secret"), Ticket("ams", "1:str:a", "other")), 3_600)),
    ]


if __name__ == "__main__":
    run(fuzz_one, seeds())
