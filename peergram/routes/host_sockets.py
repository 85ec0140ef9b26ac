"""One UDP socket for each address of this machine, and what the world sees of it.

Sockets follow the interfaces while somebody needs them: they are opened for addresses that appear and closed when theirs vanish.
Addresses that nobody else can reach get none; loopback addresses only where there is nothing else, or by wish.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from peergram.address import Address
from peergram.config import HOST_SOCKETS_MAX, SOCKET_RETRIES_MAX, SOCKET_RETRY_US
from peergram.io_requests import CloseSocket, InterfaceAddress, OpenSocket
from peergram.routes.candidates import is_usable
from peergram.routes.port_mapping import PortMapper
from peergram.routes.stun_client import StunClient
from peergram.timing import Deadline

_LOCAL_PREFERENCE_MAX: Final = 65_535


class HostSocket:
    """A socket on one of our addresses."""

    __slots__ = ("interface", "is_open", "local", "local_preference", "mapper", "retries", "retry_at_us", "socket_id", "stun")

    def __init__(self, socket_id: int, interface: InterfaceAddress, local_preference: int, stun: StunClient) -> None:
        self.socket_id = socket_id
        self.interface = interface
        self.local_preference = local_preference
        self.stun = stun
        self.mapper: PortMapper | None = None
        """Asks the router for a port, where there is one to ask."""
        self.local: Address = (interface.address, 0)
        """With its port once the socket is open."""
        self.is_open = False
        self.retries = 0
        self.retry_at_us = 0
        """When to try again to open it; 0: an answer is awaited, or it is open."""

    @property
    def is_ipv6(self) -> bool:
        return ":" in self.interface.address


class HostSockets:
    """The sockets of all local addresses. Drain requests; `opened` are those in use."""

    def __init__(
        self,
        *,
        wants_loopback: bool,
        next_id: Callable[[], int],
        new_stun_client: Callable[[InterfaceAddress], StunClient],
    ) -> None:
        self._wants_loopback = wants_loopback
        self._next_id = next_id
        self._new_stun_client = new_stun_client
        self._sockets: dict[int, HostSocket] = {}
        self._next_preference = _LOCAL_PREFERENCE_MAX
        self._requests: deque[OpenSocket | CloseSocket] = deque()

    @property
    def opened(self) -> list[HostSocket]:
        """Sockets that are open, the most preferred first."""
        return [socket for socket in self._sockets.values() if socket.is_open]

    @property
    def is_opening(self) -> bool:
        """Whether the driver still owes an answer."""
        return any(not socket.is_open and not socket.retry_at_us for socket in self._sockets.values())

    def get(self, socket_id: int) -> HostSocket | None:
        """The socket of that number, if it is one of these and open."""
        socket = self._sockets.get(socket_id)
        return socket if socket is not None and socket.is_open else None

    def set_interfaces(self, addresses: list[InterfaceAddress]) -> list[HostSocket]:
        """Sockets for these addresses: opens what is missing; returns those to give up, which are not in the list any more."""
        there = {interface.address for interface in addresses}
        gone = [socket for socket in self._sockets.values() if socket.interface.address not in there]
        for socket in gone:
            del self._sockets[socket.socket_id]
        have = {socket.interface.address: socket for socket in self._sockets.values()}
        for interface in addresses:
            if interface.address in have:
                have[interface.address].interface = interface
        # Those with a router first, and so preferred: they are the likely ones to reach anybody.
        for interface in sorted(self._eligible(addresses), key=lambda each: each.gateway is None):
            if interface.address not in have and len(self._sockets) < HOST_SOCKETS_MAX:
                have[interface.address] = self._open(interface)
        return gone

    def close_all(self) -> list[HostSocket]:
        """Forget all sockets and return them; the caller closes them in time."""
        gone = list(self._sockets.values())
        self._sockets.clear()
        self._next_preference = _LOCAL_PREFERENCE_MAX
        return gone

    def close(self, socket_id: int) -> None:
        """Ask the driver to close a socket that was given up."""
        self._requests.append(CloseSocket(socket_id))

    def handle_socket_opened(self, socket_id: int, local: Address) -> bool:
        """The driver's answer; whether the socket is one of these."""
        socket = self._sockets.get(socket_id)
        if socket is None:
            return False
        socket.local = local
        socket.is_open = True
        return True

    def handle_socket_failed(self, socket_id: int, now_us: int) -> bool:
        """The driver's other answer: try again a few times."""
        socket = self._sockets.get(socket_id)
        if socket is None:
            return False
        if socket.retries >= SOCKET_RETRIES_MAX:
            del self._sockets[socket_id]
        else:
            socket.is_open = False
            socket.stun = self._new_stun_client(socket.interface)
            socket.mapper = None
            socket.retry_at_us = now_us + (SOCKET_RETRY_US << socket.retries)
            socket.retries += 1
        return True

    def handle_timeout(self, now_us: int) -> None:
        """Try again to open what could not be opened."""
        for socket in list(self._sockets.values()):
            if socket.retry_at_us and now_us >= socket.retry_at_us:
                # A number stands for one socket only.
                del self._sockets[socket.socket_id]
                socket.socket_id = self._next_id()
                self._sockets[socket.socket_id] = socket
                self._ask(socket)

    def poll_request(self) -> OpenSocket | CloseSocket | None:
        """Sockets to open and close."""
        return self._requests.popleft() if self._requests else None

    def poll_timeout(self) -> Deadline | None:
        """When to call `handle_timeout` next."""
        deadlines = [
            Deadline(socket.retry_at_us, "open a socket again") for socket in self._sockets.values() if socket.retry_at_us
        ]
        return min(deadlines, default=None)

    def _eligible(self, addresses: list[InterfaceAddress]) -> list[InterfaceAddress]:
        reachable = [each for each in addresses if not each.is_loopback and is_usable((each.address, 1), allow_loopback=False)]
        if reachable and not self._wants_loopback:
            return reachable
        loopback = [each for each in addresses if each.is_loopback and is_usable((each.address, 1), allow_loopback=True)]
        return reachable + loopback

    def _open(self, interface: InterfaceAddress) -> HostSocket:
        socket = HostSocket(self._next_id(), interface, self._next_preference, self._new_stun_client(interface))
        self._next_preference = max(0, self._next_preference - 1)
        self._sockets[socket.socket_id] = socket
        self._ask(socket)
        return socket

    def _ask(self, socket: HostSocket) -> None:
        socket.retry_at_us = 0
        self._requests.append(OpenSocket(socket.socket_id, 6 if socket.is_ipv6 else 4, (socket.interface.address, 0)))
