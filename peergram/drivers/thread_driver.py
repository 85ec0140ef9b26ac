"""Runs an endpoint in a background thread, for programs with a frame loop or with threads of their own.

The thread sleeps until a socket is readable or a deadline comes. Application threads call the endpoint directly, under one lock,
and send what it has to send themselves, so that a message leaves without a thread switch; the thread is woken only if it would
sleep too long. `select` rather than `epoll` waits, because Python's `epoll` counts whole milliseconds and pacing needs less.
"""

from __future__ import annotations

import logging
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import TYPE_CHECKING, TypeVar

from peergram.drivers.log_limit import LogLimit
from peergram.drivers.pump import BUSY_TEXT, CLOSED_TEXT, FORKED_TEXT, READS_PER_TURN, DrivenEndpoint, Pump
from peergram.drivers.sockets import DriverSocket
from peergram.drivers.system import RefusingLock, monotonic_us, watch_process
from peergram.drivers.udp_batch import MakeSocket, SocketCounters
from peergram.errors import ClosedError, PeergramError, UsageError

if TYPE_CHECKING:
    from peergram.events import Event

T = TypeVar("T")

CLOSE_TIMEOUT_S = 1.0
_SLEEP_MAX_US = 3_600_000_000
_FAILURE_PAUSE_S = 0.05
_SELECT_FILENO_END = 1_024
"""`select` takes descriptors below this (FD_SETSIZE)."""

_log = logging.getLogger(__name__)


class ReadableFlag:
    """A descriptor that is readable exactly while the flag is up; system calls only when that changes."""

    def __init__(self) -> None:
        self._receiver, self._sender = socket.socketpair()
        self._receiver.setblocking(False)
        self._sender.setblocking(False)
        self.is_up = False

    def fileno(self) -> int:
        return self._receiver.fileno()

    def put_up(self) -> None:
        # The byte goes before the flag here too: the other way round, whoever puts it down in between would find no byte, and the
        # one that follows would stay for ever.
        if not self.is_up:
            with suppress(OSError):
                self._sender.send(b"\0")
            self.is_up = True

    def put_down(self) -> None:
        # The byte goes before the flag: whoever puts it up in between is seen by the caller, who looks at the state afterwards.
        if self.is_up:
            with suppress(OSError):
                self._receiver.recv(64)
            self.is_up = False

    def close(self) -> None:
        self._receiver.close()
        self._sender.close()


class ThreadDriver:
    """Drives `endpoint` from a daemon thread; every method may be called from any thread.

    `notify` is called from the driver's thread, without the lock, after a turn that left messages or events waiting; what it
    raises is logged. `batching` and `make_socket` are as for `UdpSocket`.

    Two ways to give commands: `call(command)`, or, for those who send very often,

        with driver.lock:
            now_us = monotonic_us()
            driver.endpoint.send_message(..., now_us)
            driver.flush(now_us)

    Take `lock` from the driver each time: in a forked child it is another one, which raises ClosedError.
    """

    def __init__(
        self,
        endpoint: DrivenEndpoint,
        *,
        notify: Callable[[], None] | None = None,
        batching: bool = True,
        make_socket: MakeSocket = socket.socket,
        name: str = "peergram",
    ) -> None:
        self.endpoint = endpoint
        self.lock: AbstractContextManager[object] = threading.RLock()
        self.wakeups = 0
        """How often the thread has woken up."""
        self._pump = Pump(endpoint, batching=batching, make_socket=make_socket)
        self._notify = notify
        self._log_limit = LogLimit()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._wake = ReadableFlag()
        self._selector: selectors.BaseSelector = selectors.SelectSelector()
        self._watched: dict[DriverSocket, int] = {}
        # The time the thread sleeps until; 0 while it is awake, since it looks at the endpoint again before it sleeps.
        self._armed_us = 0
        self._refusal: str | None = None
        self._stopping = False
        self._finished = False
        self._busy = False
        self._readable: ReadableFlag | None = None

    # For the application

    def start(self) -> None:
        """Open the sockets the endpoint has asked for, then start the thread.

        Raises AddressInUseError or another PeergramError if a socket cannot be opened; the driver is closed then.
        """
        with self.lock:
            self._refuse_if_closed()
            self._pump.drain(monotonic_us())
            failure = self._pump.take_failure(any_port=True)
        if failure is not None:
            self.close()
            raise failure
        watch_process(self)
        try:
            self._thread.start()
        except RuntimeError as error:
            self.close()
            raise PeergramError(f"no thread to be had for the network: {error}") from error

    def call(self, command: Callable[[int], T]) -> T:
        """Run `command(now_us)` on the endpoint, send what it causes, return its result.

        Raises ClosedError after `close` or in a forked child; UsageError inside another call of the same thread (a finalizer or a
        signal handler); AddressInUseError or another PeergramError if the command asked for a port that cannot be had.
        """
        with self.lock:
            self._refuse_if_closed()
            if self._busy:
                raise UsageError(BUSY_TEXT)
            self._busy = True
            now_us = time.monotonic_ns() // 1000
            try:
                return command(now_us)
            finally:
                self._busy = False
                self.flush(now_us)

    def flush(self, now_us: int) -> None:
        """After commands, with the lock held: send what they caused and see that the thread wakes in time. Raises as `call`."""
        if self._refusal is not None:
            raise ClosedError(self._refusal)
        pump = self._pump
        pump.drain(now_us)
        if self._armed_us:
            deadline = self.endpoint.poll_timeout()
            if (deadline is not None and deadline.at_us < self._armed_us) or pump.sockets_changed or pump.unfinished:
                self._wake_thread()
        if self._readable is not None:
            self._update_readable(self._readable)
        if pump.failure is not None and (failure := pump.take_failure(any_port=False)) is not None:
            raise failure

    def poll_events(self) -> list[Event]:
        """All events that wait, oldest first; also after `close`, which may cause some."""
        with self.lock:
            events = self._pump.take_events()
            if self._readable is not None:
                self._update_readable(self._readable)
        return events

    @property
    def has_events(self) -> bool:
        """Whether `poll_events` has something to return."""
        return self._pump.has_events

    def readable_fileno(self) -> int:
        """A descriptor for `select` and event loops that is readable while messages or events wait, and once all is closed.

        It is the driver's: do not read from it. Raises ClosedError once the driver is closed.
        """
        with self.lock:
            self._refuse_if_closed()
            if self._readable is None:
                self._readable = ReadableFlag()
                self._update_readable(self._readable)
            return self._readable.fileno()

    def counters(self) -> dict[int, SocketCounters]:
        """What each open socket did so far, by socket id."""
        with self.lock:
            return self._pump.counters()

    @property
    def closed(self) -> bool:
        """Whether commands are refused."""
        return self._refusal is not None

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Close the endpoint, send its last datagrams, end the thread, within `timeout_s`. Harmless when repeated."""
        if self._refusal == FORKED_TEXT:
            return
        self._refusal = CLOSED_TEXT
        self._stopping = True
        if not self._thread.is_alive():
            self._finish()
            return
        self._wake.put_up()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def abandon(self) -> None:
        """In a forked child: give up every descriptor without a word and refuse all further commands."""
        self._refusal = FORKED_TEXT
        # The thread that may have held the old lock does not exist here.
        self.lock = RefusingLock(FORKED_TEXT)
        self._pump.abandon()
        self._release()

    def _refuse_if_closed(self) -> None:
        if self._refusal is not None:
            raise ClosedError(self._refusal)

    def _wake_thread(self) -> None:
        self._armed_us = 0
        self._wake.put_up()

    def _update_readable(self, flag: ReadableFlag) -> None:
        if self.endpoint.unread_messages > 0 or self._pump.has_events or self._refusal is not None:
            flag.put_up()
        else:
            flag.put_down()

    # In the thread

    def _run(self) -> None:
        self._register(self._wake.fileno(), selectors.EVENT_READ, None)
        sleep_until_us = 0
        while not self._stopping:
            try:
                ready = self._wait(sleep_until_us)
                sleep_until_us = self._turn(ready)
            except Exception:  # noqa: BLE001 - logged; the thread must live
                note = self._log_limit.note("turn", monotonic_us())
                if note is not None:
                    _log.exception("defect: a turn of the driver failed%s", note)
                sleep_until_us = 0
                time.sleep(_FAILURE_PAUSE_S)
        self._finish()

    def _wait(self, until_us: int) -> list[tuple[DriverSocket | None, int]]:
        timeout_us = min(max(0, until_us - monotonic_us()), _SLEEP_MAX_US) if until_us else 0
        ready = [(key.data, events) for key, events in self._selector.select(timeout_us / 1e6)]
        self._armed_us = 0
        self.wakeups += 1
        self._wake.put_down()
        return ready

    def _turn(self, ready: list[tuple[DriverSocket | None, int]]) -> int:
        """Read, run timers, send; returns until when to sleep (0: not at all)."""
        calls_max = max(1, READS_PER_TURN // max(1, len(ready)))
        for entry, events in ready:
            if entry is None:
                continue
            if events & selectors.EVENT_WRITE:
                with self.lock:
                    self._pump.handle_writable(entry)
            if events & selectors.EVENT_READ:
                self._pump.read(entry, calls_max, self.lock)
        with self.lock:
            now_us = monotonic_us()
            self._pump.handle_due(now_us)
            until_us, waiting = self._prepare_sleep()
        if waiting and self._notify is not None:
            self._call_notify(self._notify)
        return until_us

    def _prepare_sleep(self) -> tuple[int, bool]:
        pump = self._pump
        pump.failure = None
        if pump.sockets_changed:
            self._watch_sockets()
        if self._readable is not None:
            self._update_readable(self._readable)
        until_us = 0 if pump.unfinished else pump.wake_at_us()
        self._armed_us = until_us
        return until_us, pump.has_events or self.endpoint.unread_messages > 0

    def _call_notify(self, notify: Callable[[], None]) -> None:
        try:
            notify()
        except Exception:  # noqa: BLE001 - the application's; logged
            note = self._log_limit.note("notify", monotonic_us())
            if note is not None:
                _log.exception("the notify callback raised%s", note)

    def _watch_sockets(self) -> None:
        pump = self._pump
        pump.sockets_changed = False
        for entry in pump.closing:
            self._watch(entry, 0)
            entry.udp.close()
        pump.closing.clear()
        for entry in pump.sockets.values():
            self._watch(entry, selectors.EVENT_READ | (selectors.EVENT_WRITE if entry.blocked else 0))

    def _watch(self, entry: DriverSocket, events: int) -> None:
        """Wait for these events of the socket from now on; for none with 0."""
        before = self._watched.pop(entry, 0)
        if before:
            self._selector.unregister(entry.udp.fileno())
        if events:
            self._register(entry.udp.fileno(), events, entry)
            self._watched[entry] = events

    def _register(self, fileno: int, events: int, entry: DriverSocket | None) -> None:
        if fileno >= _SELECT_FILENO_END and sys.platform != "win32" and isinstance(self._selector, selectors.SelectSelector):
            self._use_unlimited_selector()
        self._selector.register(fileno, events, entry)

    def _use_unlimited_selector(self) -> None:
        """For processes with very many descriptors, at the price of whole milliseconds."""
        old, self._selector = self._selector, selectors.DefaultSelector()
        for key in old.get_map().values():
            self._selector.register(key.fd, key.events, key.data)
        old.close()

    def _finish(self) -> None:
        with self.lock:
            if self._finished or self._refusal == FORKED_TEXT:
                return
            self._finished = True
            self._pump.close(monotonic_us())
            if self._readable is not None:
                self._readable.put_up()
            self._release()

    def _release(self) -> None:
        # Closing a selector closes only its own descriptor; unregistering would reach through a fork into the parent's.
        self._selector.close()
        self._wake.close()
        if self._readable is not None:
            self._readable.close()
