"""A connection with its place in the world: which socket, which address, whose it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from peergram.address import Address, format_address
from peergram.connection.connection import Connection
from peergram.identity import Identity
from peergram.routes.route import route_of
from peergram.timing import NEVER

if TYPE_CHECKING:
    from peergram.endpoint.call import Call
    from peergram.endpoint.peer import Peer

CALLED: Final = 0
"""In place of a socket: this connection was called by identity, and takes the way that its call has found."""
NOWHERE: Final[Address] = ("", 0)
"""In place of its address."""


class Link:
    """One connection over one route; lives on for a while after its peer let go of it, to answer stragglers."""

    __slots__ = (
        "accepted_at_us",
        "armed_at_us",
        "call",
        "client_key",
        "closed_header_bytes",
        "closed_identity",
        "connection",
        "drains_to",
        "is_asked_about",
        "is_ready",
        "peer",
        "pins",
        "remote",
        "socket_id",
    )

    def __init__(self, connection: Connection, *, socket_id: int, remote: Address, peer: Peer | None) -> None:
        self.connection = connection
        self.socket_id = socket_id
        self.remote = remote
        self.peer = peer
        """None once it was closed or replaced."""
        self.drains_to: Peer | None = None
        """Who still gets messages from it although it ended."""
        self.client_key: tuple[int, Address, int] | None = None
        """(socket, address, client's connection id) of an accepted one: how repeats of its hello find it."""
        self.closed_identity: Identity | None = None
        """Whose session we closed ourselves, while it may still flush: a report of what stayed unconfirmed names him."""
        self.closed_header_bytes = 0
        """What our framing added to each of its messages."""
        self.call: Call | None = None
        """How its peer is reached, if by identity."""
        self.accepted_at_us = 0
        """When it was accepted as the successor of another."""
        self.is_asked_about = False
        """Whether the application was asked for its agreement to the key of this peer."""
        self.pins = False
        """Whether its peer's key is to be remembered once he has shown that he holds it."""
        self.armed_at_us = NEVER
        self.is_ready = False

    @property
    def address(self) -> str:
        """Where the peer is, as text; empty while unknown, and where a relay hides it."""
        if self.call is None:
            return format_address(self.remote)
        pair = self.call.agent.selected if self.call.agent is not None else None
        return "" if pair is None or pair.is_relayed else format_address(pair.remote)

    @property
    def route(self) -> str:
        """How its packets go, if it was called by identity: `local`, `direct`, `relayed`; empty while there is no way."""
        if self.call is None or self.call.agent is None or self.call.agent.selected is None:
            return ""
        return route_of(self.call.agent.selected).kind.value

    @property
    def owner(self) -> Peer | None:
        """Whose messages it carries; None once nobody wants them."""
        return self.peer or self.drains_to
