"""A server for the line protocol of the reference's example programs, for meeting them on networks where everybody is trusted.

It is insecure, as the protocol is: it believes any name, and the real owner of a name is cut off by whoever says it (S1). It also
limits no rates. Nobody should run it where strangers can reach it.
"""

from __future__ import annotations

import errno
import logging
import selectors
import socket
import threading
from contextlib import suppress

from peergram.address import Address, canonical_address, format_address
from peergram.config import LINE_SERVER_CLIENTS_MAX
from peergram.drivers.log_limit import LogLimit
from peergram.drivers.socket_watch import ReadableFlag
from peergram.drivers.system import monotonic_us
from peergram.errors import AddressInUseError, PeergramError
from peergram.signaling.line_protocol import LineServerCore

_BACKLOG = 128
_ACCEPTS_PER_TURN = 64
_READ_BYTES = 16_384
_ACCEPT_PAUSE_US = 100_000
_CLOSE_TIMEOUT_S = 1.0
_LISTENER, _BELL = -1, -2

_log = logging.getLogger(__name__)


class LineServer:
    """Serves from its own thread, from the moment it is made until `close`.

    `bind` is the address to listen on; port 0 takes a free one, which `address` tells. "::" also serves IPv4. Raises
    AddressInUseError or another PeergramError if it cannot be had.
    """

    def __init__(self, bind: Address) -> None:
        self._listener = _listen(bind)
        self.address: Address = canonical_address(*self._listener.getsockname()[:2])
        self._core = LineServerCore()
        self._sockets: dict[int, socket.socket] = {}
        self._last_number = 0
        self._accept_again_us: int | None = None
        self._closed = False
        self._bell = ReadableFlag()
        self._log_limit = LogLimit()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, _LISTENER)
        self._selector.register(self._bell.fileno(), selectors.EVENT_READ, _BELL)
        self._thread = threading.Thread(target=self._run, name="peergram-line-server", daemon=True)
        self._thread.start()

    @property
    def clients(self) -> int:
        """How many are connected, those that have not said their name included."""
        return len(self._sockets)

    @property
    def named(self) -> int:
        """How many have said their name and can be reached."""
        return self._core.named

    def close(self) -> None:
        """End all connections and the thread. Harmless when repeated."""
        if not self._closed:
            self._closed = True
            self._bell.put_up()
        if self._thread is not threading.current_thread():
            self._thread.join(_CLOSE_TIMEOUT_S)

    # The thread

    def _run(self) -> None:
        try:
            while not self._closed:
                for key, events in self._selector.select(self._timeout_s()):
                    if key.data == _LISTENER:
                        self._accept()
                    elif key.data != _BELL:
                        self._serve(key.data, events)
                now_us = monotonic_us()
                self._core.handle_timeout(now_us)
                self._resume_accepting(now_us)
                self._settle()
        finally:
            for each in (*self._sockets.values(), self._listener):
                each.close()
            self._sockets.clear()
            self._selector.close()
            self._bell.close()

    def _timeout_s(self) -> float | None:
        times_us = [self._accept_again_us] if self._accept_again_us is not None else []
        deadline = self._core.poll_timeout()
        if deadline is not None:
            times_us.append(deadline.at_us)
        return max(0, min(times_us) - monotonic_us()) / 1e6 if times_us else None

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_PER_TURN):
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._pause_accepting(error)
                return
            self._welcome(connection)

    def _welcome(self, connection: socket.socket) -> None:
        self._last_number += 1
        number = self._last_number
        if not self._core.handle_connected(number, monotonic_us()):
            connection.close()
            self._warn("full", f"a connection was refused: {LINE_SERVER_CLIENTS_MAX} clients are connected")
            return
        connection.setblocking(False)
        for level, option in ((socket.IPPROTO_TCP, socket.TCP_NODELAY), (socket.SOL_SOCKET, socket.SO_KEEPALIVE)):
            with suppress(OSError):
                connection.setsockopt(level, option, 1)
        self._sockets[number] = connection
        self._selector.register(connection, selectors.EVENT_READ, number)

    def _pause_accepting(self, error: OSError) -> None:
        # Out of descriptors, most likely: the listener stays readable, and asking again at once would only burn time.
        self._warn("accept", f"no connections are accepted for a moment: {error}")
        self._selector.unregister(self._listener)
        self._accept_again_us = monotonic_us() + _ACCEPT_PAUSE_US

    def _resume_accepting(self, now_us: int) -> None:
        if self._accept_again_us is not None and now_us >= self._accept_again_us:
            self._accept_again_us = None
            self._selector.register(self._listener, selectors.EVENT_READ, _LISTENER)

    def _serve(self, number: int, events: int) -> None:
        connection = self._sockets.get(number)
        if connection is None:
            return
        if events & selectors.EVENT_WRITE:
            self._write(number, connection)
        if events & selectors.EVENT_READ and number in self._sockets:
            try:
                data = connection.recv(_READ_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                data = b""
            if data:
                self._core.handle_data(number, data)
                self._settle()
            else:
                self._core.handle_disconnected(number)
                self._drop(number)

    def _settle(self) -> None:
        """Do what the core asks for."""
        while (number := self._core.poll_writable()) is not None:
            connection = self._sockets.get(number)
            if connection is not None:
                self._write(number, connection)
        while (number := self._core.poll_close()) is not None:
            self._drop(number)

    def _write(self, number: int, connection: socket.socket) -> None:
        try:
            self._core.note_written(number, connection.send(self._core.unsent(number)))
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self._core.handle_disconnected(number)
            self._drop(number)
            return
        waits = bool(self._core.unsent(number))
        self._selector.modify(connection, selectors.EVENT_READ | (selectors.EVENT_WRITE if waits else 0), number)

    def _drop(self, number: int) -> None:
        connection = self._sockets.pop(number, None)
        if connection is not None:
            self._selector.unregister(connection)
            connection.close()

    def _warn(self, kind: str, text: str) -> None:
        note = self._log_limit.note(kind, monotonic_us())
        if note is not None:
            _log.warning("line server at %s: %s%s", format_address(self.address), text, note)


def _listen(bind: Address) -> socket.socket:
    host, port = canonical_address(*bind)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family == socket.AF_INET6 and host == "::":
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        if hasattr(socket, "SO_EXCLUSIVEADDRUSE"):
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)[0][4])
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        where = format_address((host, port))
        if error.errno == errno.EADDRINUSE:
            raise AddressInUseError(f"{where} belongs to somebody else: choose another port, or 0 for any") from error
        raise PeergramError(f"cannot listen on {where}: {error.strerror or error}") from error
    return listener
