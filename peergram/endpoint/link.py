"""A connection with its place in the world: which socket, which address, whose it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peergram.address import Address
from peergram.connection.connection import Connection
from peergram.identity import Identity
from peergram.timing import NEVER

if TYPE_CHECKING:
    from peergram.endpoint.peer import Peer


class Link:
    """One connection over one route; lives on for a while after its peer let go of it, to answer stragglers."""

    __slots__ = (
        "accepted_at_us",
        "armed_at_us",
        "client_key",
        "closed_header_bytes",
        "closed_identity",
        "connection",
        "drains_to",
        "is_ready",
        "peer",
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
        self.accepted_at_us = 0
        """When it was accepted as the successor of another."""
        self.armed_at_us = NEVER
        self.is_ready = False

    @property
    def owner(self) -> Peer | None:
        """Whose messages it carries; None once nobody wants them."""
        return self.peer or self.drains_to
