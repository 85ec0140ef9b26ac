"""Runs an endpoint inside an asyncio event loop: the loop waits for the raw sockets and for the deadline.

Not `create_datagram_endpoint`, whose transport reads one datagram per wake-up and cannot batch. Everything happens in the loop's
thread, so there is no lock. Windows' default loop cannot wait for sockets; there a `ThreadDriver` works underneath and wakes the
loop.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TYPE_CHECKING, TypeVar

from peergram.drivers.driven_endpoint import DrivenEndpoint, PeerKeeper, SignalCarrier
from peergram.drivers.pump import BUSY_TEXT, CLOSED_TEXT, FORKED_TEXT, READS_PER_TURN, Pump
from peergram.drivers.sockets import Watched
from peergram.drivers.system import RefusingLock, monotonic_us, watch_process
from peergram.drivers.thread_driver import CLOSE_TIMEOUT_S, ThreadDriver
from peergram.drivers.udp_batch import MakeSocket, SocketCounters
from peergram.errors import ClosedError, UsageError
from peergram.identity import Identity
from peergram.timing import NEVER
from peergram.wire.relay_news import RelayNews, Tickets

if TYPE_CHECKING:
    from peergram.drivers.call_memory import CallMemory
    from peergram.drivers.streams import StreamCounters
    from peergram.events import Event

T = TypeVar("T")

_NOT_STARTED_TEXT = "this endpoint was not started: await its start() first"


class AsyncioDriver:
    """Drives `endpoint` from the running event loop; every method but `deliver_signal` belongs to that loop's thread.

    `batching` and `make_socket` are as for `UdpSocket`, `signaling`, `memory` and `keeper` as for `ThreadDriver`. Commands go
    through `call`, or, for those who send very often, between `lock` and `flush` as with a `ThreadDriver`.
    """

    def __init__(
        self,
        endpoint: DrivenEndpoint,
        *,
        batching: bool = True,
        make_socket: MakeSocket = socket.socket,
        signaling: SignalCarrier | None = None,
        memory: CallMemory | None = None,
        keeper: PeerKeeper | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.lock: AbstractContextManager[object] = nullcontext()
        self.wakeups = 0
        """How often the loop has woken this driver."""
        self._batching = batching
        self._make_socket = make_socket
        self._signaling = signaling
        self._memory = memory
        self._keeper = keeper
        self._pump = Pump(
            endpoint,
            ring=self._ring,
            batching=batching,
            make_socket=make_socket,
            signaling=signaling,
            memory=memory,
            keeper=keeper,
        )
        self._thread: ThreadDriver | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._refusal: str | None = _NOT_STARTED_TEXT
        self._closed = asyncio.Event()
        self._busy = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at_us = NEVER
        self._reading: set[Watched] = set()
        self._writing: set[Watched] = set()
        self._unread_seen = 0
        self._message_waiters: list[asyncio.Future[None]] = []
        self._event_waiters: list[asyncio.Future[None]] = []
        self._conditions: dict[asyncio.Future[None], Callable[[], bool]] = {}

    # For the application

    async def start(self) -> None:
        """Open the sockets the endpoint has asked for and drive it from this loop.

        Raises AddressInUseError or another PeergramError if a socket cannot be opened; the driver is closed then.
        """
        if self._refusal != _NOT_STARTED_TEXT:
            raise UsageError("this endpoint was started or closed already: make a new one")
        self._loop = loop = asyncio.get_running_loop()
        try:
            if _can_watch_sockets(loop):
                self._pump.drain(monotonic_us())
                self._raise_failure(any_port=True)
            else:
                self._start_thread()
        except BaseException:
            self.close()
            raise
        self._refusal = None
        watch_process(self)
        if self._thread is None:
            self._finish_turn(from_network=False)

    def call(self, command: Callable[[int], T]) -> T:
        """Run `command(now_us)` on the endpoint, send what it causes, return its result.

        Raises ClosedError after `close` or in a forked child; UsageError before `start` and inside another call;
        AddressInUseError or another PeergramError if the command asked for a port that cannot be had.
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
        """After commands, with `lock` held: send what they caused and see that the loop wakes in time. Raises as `call`."""
        self._refuse_if_closed()
        if self._thread is not None:
            self._thread.flush(now_us)
            self._notify(from_network=False)
            return
        self._pump.drain(now_us)
        self._finish_turn(from_network=False)
        if self._pump.failure is not None:
            self._raise_failure(any_port=False)

    def poll_events(self) -> list[Event]:
        """All events that wait, oldest first; also after `close`, which may cause some."""
        return self._pump.take_events() if self._thread is None else self._thread.poll_events()

    def messages_arrived(self) -> asyncio.Future[None]:
        """Done after the next arrival of messages, on whatever channel: receive first, and await this if there was nothing.

        Fails with ClosedError once the driver is closed.
        """
        return self._waiter(self._message_waiters)

    def events_arrived(self) -> asyncio.Future[None]:
        """Done as soon as `poll_events` has something to return; fails with ClosedError once the driver is closed."""
        waiter = self._waiter(self._event_waiters)
        self._notify(from_network=False)
        return waiter

    async def until(self, wanted: Callable[[], bool]) -> None:
        """Return once `wanted()`, which is asked now and after every turn of the driver, and must be quick.

        Several who wait are released in the order they came; each must look again, as another one may have been quicker. Raises
        ClosedError if the driver is or gets closed.
        """
        self._refuse_if_closed()
        with self.lock:
            if wanted():
                return
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._conditions[waiter] = wanted
            self._tell_thread()
        try:
            await waiter
        finally:
            if self._conditions.pop(waiter, None) is not None:
                self._tell_thread()

    def look_again(self) -> None:
        """Release whoever waits for what has come true without a turn of the driver."""
        if self._conditions:
            with self.lock:
                self._release_satisfied()

    def _tell_thread(self) -> None:
        if self._thread is not None:
            self._thread.notifies_every_turn = bool(self._conditions)

    def _release_satisfied(self) -> None:
        for waiter, wanted in list(self._conditions.items()):
            if waiter.done() or wanted():
                del self._conditions[waiter]
                if not waiter.done():
                    waiter.set_result(None)
        self._tell_thread()

    def counters(self) -> dict[int, SocketCounters]:
        """What each open socket did so far, by socket id."""
        return self._pump.counters() if self._thread is None else self._thread.counters()

    def stream_counters(self) -> dict[int, StreamCounters]:
        """What each stream did so far, by stream id."""
        return self._pump.stream_counters() if self._thread is None else self._thread.stream_counters()

    def deliver_signal(self, sender: Identity | None, signal: bytes) -> None:
        """A signal arrived, from `sender` as the service names him. From any thread, never waits; lost before `start` and once
        closed."""
        if self._thread is not None:
            self._thread.deliver_signal(sender, signal)
        elif self._refusal is None:
            self._pump.post_signal(sender, signal)

    def deliver_relays(self, message: RelayNews | Tickets) -> None:
        """A service tells of its relays, as for `ThreadDriver`. From any thread, never waits."""
        if self._thread is not None:
            self._thread.deliver_relays(message)
        elif self._refusal is None:
            self._pump.post_relays(message)

    def deliver_certificate(self, certificate: bytes) -> None:
        """A service has issued a certificate to us, as for `ThreadDriver`. From any thread, never waits."""
        if self._thread is not None:
            self._thread.deliver_certificate(certificate)
        elif self._refusal is None:
            self._pump.post_certificate(certificate)

    @property
    def closed(self) -> bool:
        """Whether the driver was closed."""
        return self._refusal in (CLOSED_TEXT, FORKED_TEXT)

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Close the endpoint and send its last datagrams. Harmless when repeated."""
        if self.closed:
            return
        self._refusal = CLOSED_TEXT
        if self._thread is not None:
            self._thread.close(timeout_s)
        else:
            self._stop_watching()
            self._pump.close(monotonic_us())
        self._closed.set()
        if self._loop is not None and not self._loop.is_closed():
            self._notify(from_network=True)
            self._fail_waiters()

    async def wait_closed(self) -> None:
        """Return once `close` has been called."""
        await self._closed.wait()

    def abandon(self) -> None:
        """In a forked child: give up every descriptor without a word and refuse all further commands."""
        # The loop is left alone: its epoll descriptor is shared with the parent.
        self._refusal = FORKED_TEXT
        self.lock = RefusingLock(FORKED_TEXT)
        self._pump.abandon()

    def _refuse_if_closed(self) -> None:
        if self._refusal is not None:
            raise (UsageError if self._refusal == _NOT_STARTED_TEXT else ClosedError)(self._refusal)

    def _raise_failure(self, *, any_port: bool) -> None:
        failure = self._pump.take_failure(any_port=any_port)
        if failure is not None:
            raise failure

    # In the loop

    def _on_readable(self, entry: Watched) -> None:
        self.wakeups += 1
        self._pump.read(entry, READS_PER_TURN, self.lock)
        self._pump.handle_due(monotonic_us())
        self._finish_turn(from_network=True)

    def _on_writable(self, entry: Watched) -> None:
        self.wakeups += 1
        self._pump.handle_writable(entry)
        self._finish_turn(from_network=False)

    def _ring(self) -> None:
        """From any thread."""
        if self._loop is not None:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._on_ring)

    def _on_ring(self) -> None:
        if self._refusal is None:
            self.wakeups += 1
            self._pump.handle_due(monotonic_us())
            self._finish_turn(from_network=True)

    def _on_timer(self) -> None:
        self.wakeups += 1
        self._timer, self._timer_at_us = None, NEVER
        self._pump.handle_due(monotonic_us())
        self._finish_turn(from_network=True)

    def _finish_turn(self, *, from_network: bool) -> None:
        if from_network:
            self._pump.failure = None
        if self._pump.sockets_changed:
            self._watch_sockets()
        self._arm_timer()
        self._notify(from_network=from_network)

    def _arm_timer(self) -> None:
        """Wake in time. A timer that is too early stays and looks again when it fires, which costs less than moving it."""
        assert self._loop is not None, "started"
        at_us = 0 if self._pump.unfinished else self._pump.wake_at_us()
        if at_us >= self._timer_at_us:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(max(0, at_us - monotonic_us()) / 1e6, self._on_timer)
        self._timer_at_us = at_us

    def _watch_sockets(self) -> None:
        assert self._loop is not None, "started"
        pump, loop = self._pump, self._loop
        pump.sockets_changed = False
        for entry in pump.closing:
            self._unwatch(loop, entry)
            entry.close()
        pump.closing.clear()
        for entry in pump.watched:
            if entry not in self._reading:
                self._reading.add(entry)
                loop.add_reader(entry.fileno(), self._on_readable, entry)
            if entry.blocked and entry not in self._writing:
                self._writing.add(entry)
                loop.add_writer(entry.fileno(), self._on_writable, entry)
            elif not entry.blocked and entry in self._writing:
                self._writing.remove(entry)
                loop.remove_writer(entry.fileno())

    def _unwatch(self, loop: asyncio.AbstractEventLoop, entry: Watched) -> None:
        if entry in self._reading:
            self._reading.remove(entry)
            loop.remove_reader(entry.fileno())
        if entry in self._writing:
            self._writing.remove(entry)
            loop.remove_writer(entry.fileno())

    def _stop_watching(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._loop is not None and not self._loop.is_closed():
            for entry in list(self._reading):
                self._unwatch(self._loop, entry)

    # Waking those who wait

    def _waiter(self, waiters: list[asyncio.Future[None]]) -> asyncio.Future[None]:
        self._refuse_if_closed()
        waiter = asyncio.get_running_loop().create_future()
        waiters[:] = [other for other in waiters if not other.done()]
        waiters.append(waiter)
        return waiter

    def _notify(self, *, from_network: bool) -> None:
        # After network input any unread message may be new, even if others have gone; after a command only a rise is news.
        unread = self.endpoint.unread_messages
        if self._message_waiters and unread > (0 if from_network else self._unread_seen):
            _wake(self._message_waiters)
        self._unread_seen = unread
        if self._event_waiters and self._has_events():
            _wake(self._event_waiters)
        if self._conditions:
            self._release_satisfied()

    def _has_events(self) -> bool:
        return self._pump.has_events if self._thread is None else self._thread.has_events

    def _fail_waiters(self) -> None:
        for waiter in (*self._message_waiters, *self._event_waiters, *self._conditions):
            if not waiter.done():
                waiter.set_exception(ClosedError(CLOSED_TEXT))
                # Marks it as seen: nobody need await it.
                waiter.exception()
        self._message_waiters.clear()
        self._event_waiters.clear()
        self._conditions.clear()

    # With a thread underneath

    def _start_thread(self) -> None:
        self._thread = ThreadDriver(
            self.endpoint,
            notify=self._notify_from_thread,
            batching=self._batching,
            make_socket=self._make_socket,
            signaling=self._signaling,
            memory=self._memory,
            keeper=self._keeper,
        )
        self.lock = self._thread.lock
        self._thread.start()

    def _notify_from_thread(self) -> None:
        assert self._loop is not None, "started"
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._notify_in_loop)

    def _notify_in_loop(self) -> None:
        self.wakeups += 1
        with self.lock:
            self._notify(from_network=True)


def _can_watch_sockets(loop: asyncio.AbstractEventLoop) -> bool:
    return type(loop).add_reader is not asyncio.AbstractEventLoop.add_reader


def _wake(waiters: list[asyncio.Future[None]]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)
    waiters.clear()
