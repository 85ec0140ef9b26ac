"""A signaling service by the reference's line protocol: a TCP client that stays connected as well as it can.

The protocol proves nothing (S1): it is for programs of the reference, on networks where everybody is trusted. The thread
connects, reads and writes; `send` only queues and wakes it.
"""

from __future__ import annotations

import logging
import random
import selectors
import socket
import threading
from contextlib import suppress
from typing import Final

from peergram.address import PORT_MAX
from peergram.config import SIGNALING_CONNECT_TIMEOUT_US, SIGNALING_UNACKNOWLEDGED_US
from peergram.drivers.interfaces import InterfaceWatch
from peergram.drivers.log_limit import LogLimit
from peergram.drivers.signaling.network_change import MakeWatch, NetworkChange
from peergram.drivers.socket_watch import ReadableFlag
from peergram.drivers.system import give_up_unacknowledged, is_routed_as_before, monotonic_us, watch_process
from peergram.errors import ClosedError, UsageError
from peergram.identity import Identity
from peergram.signaling.line_protocol import LineClientCore
from peergram.signaling.reconnect import Reconnect
from peergram.signaling.service import Deliver, LocalParty
from peergram.timing import NEVER

DEFAULT_PORT: Final = 10_000
"""The example server's."""
_CLOSE_TIMEOUT_S = 1.0
_READ_BYTES = 65_536
# A server that vanished without a word is noticed after 60 s at most, where the system lets us say so.
_KEEPALIVE = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))

# Of those that serve any number of descriptors the one without a descriptor of its own, which a forked child would keep.
_Selector: type[selectors.BaseSelector] = getattr(selectors, "PollSelector", selectors.SelectSelector)

_log = logging.getLogger(__name__)


class LineSignaling:
    """Signals by way of a server of the reference's example protocol at `host` (an address or a name) and `port`.

    `make_watch` is for tests.
    """

    def __init__(
        self,
        host: str,
        port: int = DEFAULT_PORT,
        *,
        connect_timeout_us: int = SIGNALING_CONNECT_TIMEOUT_US,
        make_watch: MakeWatch = InterfaceWatch,
    ) -> None:
        if not host or not 1 <= port <= PORT_MAX:
            raise UsageError(f"a signaling server needs a host and a port from 1 to {PORT_MAX}, not {host!r} and {port!r}")
        self._host, self._port = host, port
        self._connect_timeout_s = connect_timeout_us / 1e6
        self._where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._lock = threading.Lock()
        self._core: LineClientCore | None = None
        self._deliver: Deliver | None = None
        self._thread: threading.Thread | None = None
        self._bell: ReadableFlag | None = None
        self._socket: socket.socket | None = None
        self._make_watch = make_watch
        self._network: NetworkChange | None = None
        self._closed = threading.Event()
        self._log_limit = LogLimit()
        self._state = "not started"

    def start(self, party: LocalParty, deliver: Deliver) -> None:
        """Begin to connect. Raises UsageError for an identity that lines cannot carry, or when called twice."""
        with self._lock:
            if self._closed.is_set():
                raise ClosedError("this signaling service was closed")
            if self._core is not None:
                raise UsageError("a signaling service serves one endpoint: make another for the next one")
            self._core = LineClientCore(party.identity)
            self._deliver = deliver
            self._bell = ReadableFlag()
            self._state = f"connecting to the line server at {self._where}"
            self._thread = threading.Thread(target=self._run, args=(self._core, self._bell), name="peergram-lines", daemon=True)
        watch_process(self)
        self._thread.start()

    def send(self, to: Identity, signal: bytes) -> None:
        """Queue a signal; the oldest of too many is given up. Nothing happens before `start` and after `close`."""
        with self._lock:
            if self._core is None or self._bell is None or self._closed.is_set():
                return
            self._core.send(to, signal)
            self._bell.put_up()

    @property
    def status(self) -> str:
        """How the connection to the server stands."""
        return self._state

    def close(self, timeout_s: float = _CLOSE_TIMEOUT_S) -> None:
        """End the connection and the thread, which may be looking up a name and is left behind then. Harmless when repeated."""
        with self._lock:
            self._closed.set()
            self._state = "closed"
            if self._bell is not None:
                self._bell.put_up()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout_s)

    def abandon(self) -> None:
        """In a forked child: give up every descriptor without a word. The thread exists in the parent only."""
        # A lock that somebody held while forking would never come free here.
        self._lock = threading.Lock()
        self._closed.set()
        self._state = "closed, since this process was forked"
        self._thread = None
        if self._socket is not None:
            self._socket.close()
        if self._bell is not None:
            self._bell.close()
            self._bell = None
        if self._network is not None:
            self._network.close()

    # The thread

    def _run(self, core: LineClientCore, bell: ReadableFlag) -> None:
        reconnect = Reconnect()
        network = self._network = NetworkChange(self._make_watch)
        try:
            while not self._closed.is_set():
                try:
                    why = self._be_connected(core, bell, network, reconnect)
                except Exception:  # noqa: BLE001 - logged; the thread must live
                    self._log_defect("a turn of the line client failed")
                    why = "a defect of ours"
                self._wait_to_reconnect(bell, network, reconnect, why)
        finally:
            network.close()
            with self._lock:
                self._bell = None
            bell.close()

    def _be_connected(self, core: LineClientCore, bell: ReadableFlag, network: NetworkChange, reconnect: Reconnect) -> str:
        """One connection from its beginning to its end; returns why it ended."""
        try:
            connection = socket.create_connection((self._host, self._port), self._connect_timeout_s)
        except (OSError, UnicodeError) as error:
            return _reason_of(error)
        self._socket = connection
        try:
            connection.setblocking(False)
            _keep_alive(connection)
            reconnect.handle_connected(monotonic_us())
            with self._lock:
                core.handle_connected()
                if not self._closed.is_set():
                    self._state = f"connected to the line server at {self._where}"
            return self._exchange(core, bell, network, connection)
        except OSError as error:
            return _reason_of(error)
        finally:
            self._socket = None
            connection.close()

    def _exchange(self, core: LineClientCore, bell: ReadableFlag, network: NetworkChange, connection: socket.socket) -> str:
        while not self._closed.is_set():
            bell.put_down()
            with self._lock:
                waiting = core.poll_write()
                if waiting:
                    core.note_written(_send_some(connection, waiting))
                    waiting = core.poll_write()
            if self._closed.is_set():
                break
            is_readable = _wait(bell, network, connection, is_writing=bool(waiting))
            if network.has_changed:
                if not is_routed_as_before(connection):
                    return "this machine moved to another network"
                network.forget()
            if is_readable:
                data = _receive_some(connection)
                if data == b"":
                    return "the server closed the connection"
                self._hand_over(core.handle_data(data or b""))
        return "closed"

    def _hand_over(self, signals: list[tuple[Identity, bytes]]) -> None:
        assert self._deliver is not None
        for sender, signal in signals:
            if self._closed.is_set():
                return
            try:
                self._deliver(sender, signal)
            except Exception:  # noqa: BLE001 - whoever takes signals must not end the service
                self._log_defect("taking a signal failed")

    def _wait_to_reconnect(self, bell: ReadableFlag, network: NetworkChange, reconnect: Reconnect, why: str) -> None:
        now_us = monotonic_us()
        until_us = now_us + reconnect.handle_lost(now_us, random.random())
        with self._lock:
            if not self._closed.is_set():
                wait_s = (until_us - now_us) / 1e6
                self._state = f"not connected to the line server at {self._where} ({why}); trying again within {wait_s:.1f} s"
        # The bell also rings for signals, which only wait in their queue meanwhile. Another network may be one that works.
        while not self._closed.is_set() and monotonic_us() < until_us and not network.has_changed:
            bell.put_down()
            if self._closed.is_set():
                return
            _wait(bell, network, until_us=until_us)
        network.forget()

    def _log_defect(self, text: str) -> None:
        note = self._log_limit.note(text, monotonic_us())
        if note is not None:
            _log.exception("defect: %s%s", text, note)


def _wait(
    bell: ReadableFlag,
    network: NetworkChange,
    connection: socket.socket | None = None,
    *,
    is_writing: bool = False,
    until_us: int = NEVER,
) -> bool:
    """Until the bell rings, the connection is ready, the network may have changed or the time has come; returns whether there is
    something to read."""
    until_us = min(until_us, network.due_us)
    with _Selector() as selector:
        selector.register(bell.fileno(), selectors.EVENT_READ)
        if (signs := network.fileno()) >= 0:
            selector.register(signs, selectors.EVENT_READ)
        if connection is not None:
            selector.register(connection, selectors.EVENT_READ | (selectors.EVENT_WRITE if is_writing else 0))
        timeout_s = None if until_us >= NEVER else max(0, until_us - monotonic_us()) / 1e6
        ready = selector.select(timeout_s)
        if any(key.fd == signs for key, _ in ready):
            network.handle_signs()
        return any(key.fileobj is connection and events & selectors.EVENT_READ for key, events in ready)


def _send_some(connection: socket.socket, data: bytes) -> int:
    """How much the system takes without waiting."""
    try:
        return connection.send(data)
    except (BlockingIOError, InterruptedError):
        return 0


def _receive_some(connection: socket.socket) -> bytes | None:
    """What has arrived; b"" at the end, None if there is nothing after all."""
    try:
        return connection.recv(_READ_BYTES)
    except (BlockingIOError, InterruptedError):
        return None


def _keep_alive(connection: socket.socket) -> None:
    """Signals are small and urgent, and a server that is gone should be noticed."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    give_up_unacknowledged(connection, SIGNALING_UNACKNOWLEDGED_US)
    for name, value in _KEEPALIVE:
        if hasattr(socket, name):
            with suppress(OSError):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _reason_of(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return "its name is not one"
