"""Which sockets an endpoint has and wants, and which of them a dial may use.

Dials leave from the listening socket, so that two of our own peers that dial each other meet; without one, from a socket shared
by all dials of an address family. A reference server ignores a new connection from a port whose old connection it still holds,
so a second dial to the same address takes a fresh port for a while.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Literal

from peergram.address import Address
from peergram.config import REDIAL_QUIET_US
from peergram.io_requests import CloseSocket, OpenSocket

_QUIET_DIALS_MAX = 4_096
_ANY: dict[int, str] = {4: "0.0.0.0", 6: "::"}


class SocketTable:
    """Sockets by id: asked for, open, or gone."""

    def __init__(self) -> None:
        self._requests: deque[OpenSocket | CloseSocket] = deque()
        self._next_id = 1
        self._local: dict[int, Address | None] = {}
        self._listening: dict[int, int] = {}
        """Family of each listening socket, first asked for first."""
        self._shared: dict[int, int] = {}
        self._fresh: dict[int, int] = {}
        """Sockets made for one dial, with the number of links that use each."""
        self._quiet_until_us: dict[tuple[int, Address], int] = {}

    def new_id(self) -> int:
        """A number that no other socket or stream of this endpoint has."""
        number = self._next_id
        self._next_id += 1
        return number

    def knows(self, socket_id: int) -> bool:
        """Whether it is one of these."""
        return socket_id in self._local

    def listen(self, bind: Address) -> int:
        """Ask for a socket that strangers may dial."""
        family = _family_of(bind)
        socket_id = self._open(family, bind)
        self._listening[socket_id] = family
        return socket_id

    def poll_request(self) -> OpenSocket | CloseSocket | None:
        """The next thing the driver must do."""
        return self._requests.popleft() if self._requests else None

    def handle_opened(self, socket_id: int, local: Address) -> None:
        """The driver bound it."""
        if socket_id in self._local:
            self._local[socket_id] = local

    def handle_failed(self, socket_id: int) -> None:
        """The driver could not, or the socket broke."""
        self._local.pop(socket_id, None)
        self._listening.pop(socket_id, None)
        for family in [family for family, number in self._shared.items() if number == socket_id]:
            del self._shared[family]
        self._fresh.pop(socket_id, None)

    def is_open(self, socket_id: int) -> bool:
        """Whether datagrams can leave through it."""
        return self._local.get(socket_id) is not None

    def is_listening(self, socket_id: int) -> bool:
        """Whether strangers may dial it."""
        return socket_id in self._listening

    def is_gone(self, socket_id: int) -> bool:
        """Whether it was closed, or could not be had."""
        return socket_id not in self._local

    def local_address(self, socket_id: int) -> Address | None:
        """Where it is bound; None while it is not open."""
        return self._local.get(socket_id)

    @property
    def listening(self) -> list[int]:
        """The sockets that strangers may dial."""
        return list(self._listening)

    @property
    def local_addresses(self) -> list[Address]:
        """Of all open listening sockets."""
        return [local for number in self._listening if (local := self._local.get(number)) is not None]

    def for_dial(
        self, remote: Address, now_us: int, *, is_held: Callable[[int, Address], bool] = lambda _socket_id, _remote: False
    ) -> int:
        """The socket a new dial to `remote` leaves from; `is_held` says whether an old connection of a port is not over here."""
        family = _family_of(remote)
        socket_id = next((number for number, of in self._listening.items() if of == family), None) or self._shared.get(family)
        if socket_id is None:
            socket_id = self._shared[family] = self._open(family, (_ANY[family], 0))
        if self._quiet_until_us.get((socket_id, remote), 0) > now_us or is_held(socket_id, remote):
            socket_id = self._open(family, (_ANY[family], 0))
            self._fresh[socket_id] = 1
        return socket_id

    def note_dialed(self, socket_id: int, remote: Address, now_us: int) -> None:
        """A connection to a peer that is not known as ours ended; his side may hold it for a while."""
        if len(self._quiet_until_us) >= _QUIET_DIALS_MAX:
            self._quiet_until_us = {key: until for key, until in self._quiet_until_us.items() if until > now_us}
            while len(self._quiet_until_us) >= _QUIET_DIALS_MAX:
                del self._quiet_until_us[next(iter(self._quiet_until_us))]
        self._quiet_until_us[socket_id, remote] = now_us + REDIAL_QUIET_US

    def release(self, socket_id: int) -> None:
        """A link through it is gone: a socket made for one dial closes."""
        if self._fresh.pop(socket_id, None) is not None:
            self.close(socket_id)

    def close(self, socket_id: int) -> None:
        """Close it for good."""
        if self._local.pop(socket_id, 0) != 0:
            self._requests.append(CloseSocket(socket_id))

    def close_all(self) -> None:
        """Close every socket."""
        for socket_id in list(self._local):
            self.close(socket_id)

    def _open(self, family: Literal[4, 6], bind: Address) -> int:
        socket_id = self.new_id()
        self._local[socket_id] = None
        self._requests.append(OpenSocket(socket_id, family, bind))
        return socket_id


def _family_of(address: Address) -> Literal[4, 6]:
    return 6 if ":" in address[0] else 4
