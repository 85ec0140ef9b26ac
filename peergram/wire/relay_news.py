"""What a signaling server tells its clients about relays: the map, and the tickets that open them (docs/relay_network.md).

A ticket is a user name and a password for the TURN servers of one point of presence. Integers are big-endian.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from peergram.config import RELAY_CREDENTIAL_BYTES_MAX, RELAY_MAP_BYTES_MAX, RELAY_POPS_MAX, RELAY_TICKET_S_MAX
from peergram.errors import WireError
from peergram.wire.cursor import Cursor

_CODE: Final = re.compile(rb"[a-z0-9]{3,4}")
TICKETS_BYTES_MAX: Final = 5 + RELAY_POPS_MAX * (1 + 4 + 2 * (2 + RELAY_CREDENTIAL_BYTES_MAX))
"""Of the longest `Tickets` there may be."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """What the relays of one point of presence know us by."""

    code: str
    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Tickets:
    """All tickets of one client, in place of those before; they end after `lifetime_s`."""

    tickets: tuple[Ticket, ...]
    lifetime_s: int


@dataclass(frozen=True, slots=True)
class RelayNews:
    """The relay map as text; empty: there are no relays (any more)."""

    map_text: bytes


def encode_tickets(message: Tickets) -> bytes:
    """The fields behind the lead byte."""
    parts = [message.lifetime_s.to_bytes(4, "big"), bytes((len(message.tickets),))]
    for ticket in message.tickets:
        code = ticket.code.encode("ascii")
        parts += [bytes((len(code),)), code]
        for text in (ticket.username.encode(), ticket.password.encode()):
            parts += [len(text).to_bytes(2, "big"), text]
    return b"".join(parts)


def read_tickets(cursor: Cursor) -> Tickets:
    """Take them apart. Raises WireError."""
    lifetime_s, count = cursor.integer(4, "big"), cursor.integer(1)
    if not 0 < lifetime_s <= RELAY_TICKET_S_MAX:
        raise WireError(f"tickets that hold for {lifetime_s} s")
    if count > RELAY_POPS_MAX:
        raise WireError(f"{count} tickets")
    tickets = [_read_ticket(cursor) for _ in range(count)]
    if len({ticket.code for ticket in tickets}) != count:
        raise WireError("two tickets for one place")
    return Tickets(tuple(tickets), lifetime_s)


def read_relay_news(cursor: Cursor) -> RelayNews:
    """Take it apart; whether the text is a map, its reader finds out. Raises WireError."""
    if cursor.left > RELAY_MAP_BYTES_MAX:
        raise WireError(f"a relay map of {cursor.left} bytes")
    return RelayNews(cursor.rest())


def _read_ticket(cursor: Cursor) -> Ticket:
    code = cursor.take(cursor.integer(1))
    if not _CODE.fullmatch(code):
        raise WireError("a ticket for no place")
    return Ticket(code.decode("ascii"), _read_text(cursor), _read_text(cursor))


def _read_text(cursor: Cursor) -> str:
    size = cursor.integer(2, "big")
    if not 0 < size <= RELAY_CREDENTIAL_BYTES_MAX:
        raise WireError(f"a user name or password of {size} bytes")
    try:
        return cursor.take(size).decode("utf-8")
    except UnicodeDecodeError:
        raise WireError("a user name or password that is no text") from None
