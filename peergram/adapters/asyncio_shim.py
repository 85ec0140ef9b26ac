"""`create_datagram_endpoint` as an event loop has it, with peers at the other end: asyncio protocols stay as they are.

transport, protocol = await create_datagram_endpoint(net, Protocol, remote_addr=("10.0.0.2", 5683))
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from peergram.adapters.datagram_network import DatagramNetwork
from peergram.adapters.socket_shim import PeerSocket
from peergram.config import SHIM_CLOSE_US, SHIM_TRANSPORT_BYTES_MAX, SHIM_TRANSPORT_HIGH_BYTES
from peergram.identity import Identity
from peergram.messages import Messages

_log = logging.getLogger(__name__)

P = TypeVar("P", bound=asyncio.BaseProtocol)

_DATAGRAMS_PER_TURN = 64
_BUFSIZE = 65_536
_RETRY_S = 0.005
"""How soon held datagrams are tried again: about what a full send buffer takes to have room at 100 MB/s."""


async def create_datagram_endpoint(
    net: Messages | DatagramNetwork,
    protocol_factory: Callable[[], P],
    local_addr: Any = None,
    remote_addr: Any = None,
    *,
    family: int = 0,
    proto: int = 0,
    flags: int = 0,
    reuse_port: bool | None = None,
    allow_broadcast: bool | None = None,
    sock: PeerSocket | None = None,
) -> tuple[PeerTransport, P]:
    """As the method of an event loop; addresses may be names of peers, too. Raises OSError as that does.

    Over a `Messages` it is the only endpoint, and closing it closes that. `sock` is used as it is, if given. The other arguments
    say how UDP shall work, and change nothing here.
    """
    if sock is None:
        sock = PeerSocket(net, family or socket.AF_INET, proto=proto)
        try:
            if local_addr is not None:
                sock.bind(local_addr)
            if remote_addr is not None:
                sock.connect(remote_addr)
        except BaseException:
            sock.close()
            raise
    sock.setblocking(False)
    protocol = protocol_factory()
    transport = PeerTransport(asyncio.get_running_loop(), sock, protocol)
    await transport.started
    return transport, protocol


class PeerTransport(asyncio.DatagramTransport):
    """A datagram transport over a `PeerSocket`, watched by a loop that can watch descriptors. Its methods are for that loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: PeerSocket, protocol: asyncio.BaseProtocol) -> None:
        self._loop = loop
        self._sock = sock
        self._protocol = protocol
        try:
            peername = sock.getpeername()
        except OSError:
            peername = None
        super().__init__({"socket": sock, "sockname": sock.getsockname(), "peername": peername})
        self._held: deque[tuple[bytes, Identity, int]] = deque()
        self._held_bytes = 0
        self._low, self._high = SHIM_TRANSPORT_HIGH_BYTES // 4, SHIM_TRANSPORT_HIGH_BYTES
        self._is_paused = False
        self._is_closing = False
        self._retry: asyncio.TimerHandle | None = None
        self.started: asyncio.Future[None] = loop.create_future()
        """Done once the protocol knows its transport."""
        loop.call_soon(self._start)

    def _start(self) -> None:
        try:
            self._protocol.connection_made(self)
        except BaseException as error:
            # Whoever awaits the endpoint hears of it, and no socket is left behind.
            self._is_closing = True
            self._sock.close()
            if not isinstance(error, Exception):
                raise
            self.started.set_exception(error)
            return
        if not self._is_closing:
            self._loop.add_reader(self._sock.fileno(), self._read)
        if not self.started.done():
            self.started.set_result(None)

    # --- receiving ---

    def _read(self) -> None:
        assert isinstance(self._protocol, asyncio.DatagramProtocol)
        for _ in range(_DATAGRAMS_PER_TURN):
            if self._is_closing:
                return
            try:
                payload, address = self._sock.recvfrom(_BUFSIZE)
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionError as error:
                self._protocol.error_received(error)
            except OSError as error:
                # The network was closed.
                self._end(error)
            else:
                self._protocol.datagram_received(payload, address)

    # --- sending ---

    def sendto(self, data: Any, addr: Any = None) -> None:
        """Send, or hold what does not fit the send buffer. Errors go to `error_received`, as those of UDP do."""
        if self._is_closing:
            _log.debug("a datagram for a transport that is closed is dropped")
            return
        payload = bytes(memoryview(data))
        try:
            to, port = self._sock.destination(addr)
        except OSError as error:
            self._tell_error(error)
            return
        if not self._held and self._try(to, port, payload):
            return
        if self._held_bytes + len(payload) > SHIM_TRANSPORT_BYTES_MAX:
            self._sock.network.dropped += 1
            return
        self._held.append((payload, to, port))
        self._held_bytes += len(payload)
        self._retry = self._retry or self._loop.call_later(_RETRY_S, self._send_held)
        if self._held_bytes > self._high and not self._is_paused:
            self._is_paused = True
            self._protocol.pause_writing()

    def _try(self, to: Identity, port: int, payload: bytes) -> bool:
        """Whether nothing more can be done for it: it is on its way, or never will be."""
        try:
            return self._sock.try_send(to, port, payload)
        except OSError as error:
            self._tell_error(error)
            return True

    def _send_held(self) -> None:
        self._retry = None
        # One full peer must not hold up the others; of each the order stays.
        still: deque[tuple[bytes, Identity, int]] = deque()
        full: set[Identity] = set()
        for payload, to, port in self._held:
            if to in full or not self._try(to, port, payload):
                full.add(to)
                still.append((payload, to, port))
        self._held = still
        self._held_bytes = sum(len(payload) for payload, _, _ in still)
        if still:
            self._retry = self._loop.call_later(_RETRY_S, self._send_held)
        if self._is_paused and self._held_bytes <= self._low:
            self._is_paused = False
            self._protocol.resume_writing()
        if self._is_closing and not still:
            self._end_when_sent(self._loop.time() + SHIM_CLOSE_US / 1e6)

    def _tell_error(self, error: OSError) -> None:
        assert isinstance(self._protocol, asyncio.DatagramProtocol)
        self._protocol.error_received(error)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """From how many held bytes on the protocol is asked to pause, and from how few on to resume."""
        if high is None:
            high = SHIM_TRANSPORT_HIGH_BYTES if low is None else 4 * low
        low = high // 4 if low is None else low
        if not high >= low >= 0:
            raise ValueError(f"high ({high}) must be at least low ({low}), and that at least 0")
        self._high, self._low = high, low

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def get_write_buffer_size(self) -> int:
        return self._held_bytes

    # --- the protocol and the end ---

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        """Once what is held has been sent, `connection_lost(None)` follows; it takes no more datagrams meanwhile."""
        if self._is_closing:
            return
        self._is_closing = True
        self._loop.remove_reader(self._sock.fileno())
        if not self._held:
            self._loop.call_soon(self._end_when_sent, self._loop.time() + SHIM_CLOSE_US / 1e6)

    def _end_when_sent(self, until_s: float) -> None:
        """What closing the socket would wait for is waited for here, so that the loop goes on."""
        if self._sock.is_waited_for and self._loop.time() < until_s:
            self._loop.call_later(_RETRY_S, self._end_when_sent, until_s)
        else:
            self._end(None)

    def abort(self) -> None:
        """As `close`, without what is held, or has not left."""
        self._held.clear()
        self._held_bytes = 0
        if not self._is_closing:
            self._is_closing = True
            self._loop.remove_reader(self._sock.fileno())
        self._loop.call_soon(self._end, None)

    def _end(self, error: OSError | None) -> None:
        if self._sock.fileno() < 0:
            return
        self._is_closing = True
        if self._retry is not None:
            self._retry.cancel()
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close(wait_s=0)
        self._protocol.connection_lost(error)
