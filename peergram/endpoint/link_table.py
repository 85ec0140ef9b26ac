"""Every connection of an endpoint, found by what a packet names.

A data packet names our connection id; a repeated hello names the client's, which is only unique together with the client's
address. A packet counts only if it comes from the address, and through the socket, that its connection uses.
"""

from __future__ import annotations

from collections.abc import Iterator

from peergram.address import Address
from peergram.config import CONNECTIONS_MAX
from peergram.crypto.keys import Entropy
from peergram.endpoint.link import CALLED, Link
from peergram.wire.control import (
    ChallengeReply,
    ChallengeRequest,
    ConnectionClosed,
    ConnectOk,
    ConnectRequest,
    ControlMessage,
    NoConnection,
)


class LinkTable:
    """Links by our connection id, accepted ones also by (socket, address, client's id)."""

    def __init__(self, entropy: Entropy) -> None:
        self._entropy = entropy
        self._links: dict[int, Link] = {}
        self._accepted: dict[tuple[int, Address, int], Link] = {}
        self._addresses: dict[tuple[int, Address], list[Link]] = {}

    def __iter__(self) -> Iterator[Link]:
        return iter(list(self._links.values()))

    @property
    def is_full(self) -> bool:
        """Whether no further connection may be made."""
        return len(self._links) >= CONNECTIONS_MAX

    def new_connection_id(self) -> int:
        """Random, both halves non-zero, and new here."""
        while True:
            number = int.from_bytes(self._entropy(4), "little")
            if number & 0xFFFF and number >> 16 and number not in self._links:
                return number

    def add(self, link: Link) -> None:
        """From now on it can be found."""
        self._links[link.connection.connection_id] = link
        if link.client_key is not None:
            self._accepted[link.client_key] = link
        if link.socket_id != CALLED:
            self._addresses.setdefault((link.socket_id, link.remote), []).append(link)

    def remove(self, link: Link) -> bool:
        """Forget it; False if it was forgotten before, also if another goes on under its connection id since."""
        if self._links.get(link.connection.connection_id) is not link:
            return False
        del self._links[link.connection.connection_id]
        if link.client_key is not None:
            self._accepted.pop(link.client_key, None)
        if link.socket_id == CALLED:
            return True
        key = (link.socket_id, link.remote)
        self._addresses[key].remove(link)
        if not self._addresses[key]:
            del self._addresses[key]
        return True

    def at(self, socket_id: int, remote: Address) -> list[Link]:
        """The connections that go there, oldest first."""
        return list(self._addresses.get((socket_id, remote), ()))

    def knows_address(self, socket_id: int, remote: Address) -> bool:
        """Whether any connection goes there."""
        return (socket_id, remote) in self._addresses

    def for_data(self, socket_id: int, remote: Address, datagram: bytes) -> Link | None:
        """The connection a data packet names, if it comes from that connection's address; one called by identity has none."""
        return self._at(self._links.get(int.from_bytes(datagram[1:5], "little")), socket_id, remote)

    def for_control(self, socket_id: int, remote: Address, message: ControlMessage) -> Link | None:
        """The connection a control packet is about, if it comes from that connection's address."""
        if isinstance(message, ChallengeRequest):
            return self._accepted.get((socket_id, remote, message.connection_id))
        if isinstance(message, ConnectRequest):
            return self._accepted.get((socket_id, remote, message.client_connection_id))
        if isinstance(message, ConnectionClosed) and not message.to_connection_id:
            return self._accepted.get((socket_id, remote, message.from_connection_id))
        return self._at(self._links.get(_our_id(message)), socket_id, remote)

    def _at(self, link: Link | None, socket_id: int, remote: Address) -> Link | None:
        if link is None or link.socket_id == CALLED:
            return link
        return link if link.remote == remote and link.socket_id == socket_id else None


def _our_id(message: ChallengeReply | ConnectOk | ConnectionClosed | NoConnection) -> int:
    if isinstance(message, ChallengeReply):
        return message.connection_id
    if isinstance(message, ConnectOk):
        return message.client_connection_id
    return message.to_connection_id
