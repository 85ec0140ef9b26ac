"""Runs an endpoint for programs with a frame loop or with threads of their own.

Somebody is at the wheel: he waits for the sockets, reads, and runs the timers. That is a background thread, unless a thread of
the program waits through `wait`: then it does the work itself meanwhile, so that a datagram and the message in it reach the
program without a change of threads, and the background thread stands by until the program has stayed away for `STAND_IN_US`.
Application threads call the endpoint directly, under one lock, and send what they have to send themselves; whoever is at the
wheel is called only if he would sleep too long.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, TypeVar

from peergram.drivers.driven_endpoint import DrivenEndpoint, PeerKeeper, SignalCarrier
from peergram.drivers.log_limit import LogLimit
from peergram.drivers.pump import BUSY_TEXT, CLOSED_TEXT, FORKED_TEXT, READS_PER_TURN, Pump
from peergram.drivers.socket_watch import ReadableFlag, Ready, SocketWatch
from peergram.drivers.system import RefusingLock, monotonic_us, raised_by_signal_handler, watch_process
from peergram.drivers.udp_batch import MakeSocket, SocketCounters
from peergram.errors import ClosedError, PeergramError, UsageError
from peergram.identity import Identity
from peergram.timing import NEVER
from peergram.wire.relay_news import RelayNews, Tickets

if TYPE_CHECKING:
    from peergram.drivers.call_memory import CallMemory
    from peergram.drivers.streams import StreamCounters
    from peergram.events import Event

T = TypeVar("T")

CLOSE_TIMEOUT_S = 1.0
STAND_IN_US = 2_000
"""How long a program that waits through the driver may stay away before the thread takes over again: what arrives meanwhile lies
in the kernel, which has room for much more. Shorter, and the thread would fight the program for the interpreter."""
READ_EVERY_US = 200
"""How often a program at the wheel that sends without waiting looks for what has arrived: acknowledgements, above all."""
_READS_IN_PASSING = 4
_SLEEP_MAX_US = 3_600_000_000
_FAILURE_PAUSE_S = 0.05
_FAREWELL_POLL_S = 0.001

_log = logging.getLogger(__name__)


class _Bell:
    """Wakes one thread that sleeps. `threading.Event` would break where a signal's handler raises in the middle of its Python."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def ring(self) -> None:
        try:
            self._lock.release()
        except RuntimeError:
            # It has rung already, and nobody has heard it yet.
            return

    def silence(self) -> None:
        self._lock.acquire(blocking=False)

    def wait(self, timeout_s: float) -> None:
        """Until it rings, at most that long (-1: for ever); it is silent then."""
        self._lock.acquire(timeout=timeout_s)


class _Waiter:
    """A thread of the program in `wait`, and a bell for the time that another one is at the wheel."""

    def __init__(self, wanted: Callable[[], bool]) -> None:
        self.wanted = wanted
        self.thread = threading.get_ident()
        self.bell: _Bell | None = None

    @property
    def is_served(self) -> bool:
        """Whether it has what it waits for, as others see it; what `wanted` raises is for its own thread to see."""
        try:
            return self.wanted()
        except Exception:  # noqa: BLE001
            return True

    def ring(self) -> None:
        if self.bell is not None:
            self.bell.ring()


class ThreadDriver:
    """Drives `endpoint` from a daemon thread; every method may be called from any thread.

    `notify` is called from the thread at the wheel, without the lock, after a turn that left messages or events waiting (or after
    each, with `notifies_every_turn`); what it raises is logged. `batching` and `make_socket` are as for `UdpSocket`. `signaling`
    carries the endpoint's signals, delivers to `deliver_signal`, and is closed with the driver; so is `memory`, which keeps what
    the next run is to be told; `keeper` keeps the keys of known peers.

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
        signaling: SignalCarrier | None = None,
        memory: CallMemory | None = None,
        keeper: PeerKeeper | None = None,
        name: str = "peergram",
    ) -> None:
        self.endpoint = endpoint
        self.lock: AbstractContextManager[object] = threading.RLock()
        self.wakeups = 0
        """How often somebody at the wheel has woken up."""
        self.notifies_every_turn = False
        """Whether `notify` is called after turns that left nothing waiting, too; set it with the lock held."""
        self._watch = SocketWatch()
        ring = self._watch.bell.put_up
        self._pump = Pump(
            endpoint,
            ring=ring,
            batching=batching,
            make_socket=make_socket,
            signaling=signaling,
            memory=memory,
            keeper=keeper,
        )
        self._notify = notify
        self._log_limit = LogLimit()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        # The time that whoever is at the wheel sleeps until; 0 while nobody sleeps, since he looks at the endpoint first.
        self._armed_us = 0
        # Ident of the thread at the wheel, 0 for none.
        self._wheel = 0
        self._wheel_since_us = 0
        # Threads of the program in `wait`, whoever is at the wheel.
        self._waiters: list[_Waiter] = []
        # Whether our thread leaves the work to the program, and until when it rests at least; NEVER until it is called.
        self._stands_by = False
        self._rests_until_us = 0
        self._call_thread = _Bell()
        self._refusal: str | None = None
        self._stopping = False
        self._finished = False
        self._busy = False
        self._readable: ReadableFlag | None = None
        # Flags for some of what `_readable` stands for, and when each is up.
        self._narrow_flags: dict[int, tuple[ReadableFlag, Callable[[], bool]]] = {}

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
            now_us = time.monotonic_ns() // 1000
            # Nothing in between, where a signal's handler could raise.
            self._busy = True
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
            is_earlier = deadline is not None and deadline.at_us < self._armed_us
            if is_earlier or pump.sockets_changed or pump.unfinished or (self._waiters and self._has_served()):
                self._wake_driver()
        elif self._stands_by:
            self._read_in_passing(now_us)
        if self._readable is not None:
            self._update_readable(self._readable)
        if pump.failure is not None and (failure := pump.take_failure(any_port=False)) is not None:
            raise failure

    def note_taken(self) -> None:
        """After messages were taken, with the lock held, where nothing else came of it: `flush` need not be called."""
        if self._readable is not None:
            self._update_readable(self._readable)

    def wait(self, until_us: int, wanted: Callable[[], bool]) -> bool:
        """Do the network's work until `wanted()`, which is asked with the lock held; returns whether it came true in time.

        Of several threads that wait one does the work. Raises ClosedError if the driver is or gets closed, UsageError inside
        another call of the same thread, and what a signal's handler raises meanwhile.
        """
        with self.lock:
            self._refuse_if_closed()
            if self._wheel == threading.get_ident() or self._busy:
                raise UsageError(BUSY_TEXT)
            if wanted():
                self._read_in_passing(monotonic_us())
                return True
        waiter = _Waiter(wanted)
        try:
            if self._await_wheel(until_us, waiter):
                self._drive(until_us, wanted)
        finally:
            try:
                self._leave_wheel(waiter)
            except BaseException:
                # A signal's handler may raise anywhere, and nobody else would tidy up here.
                self._leave_wheel(waiter)
                raise
        with self.lock:
            self._refuse_if_closed()
            return wanted()

    def deliver_signal(self, sender: Identity | None, signal: bytes) -> None:
        """A signal arrived, from `sender` as the service names him. Never waits, not even for the lock; lost once closed."""
        if self._refusal is None:
            self._pump.post_signal(sender, signal)

    def deliver_relays(self, message: RelayNews | Tickets) -> None:
        """A service tells of its relays. Never waits, not even for the lock."""
        if self._refusal is None:
            self._pump.post_relays(message)

    def deliver_certificate(self, certificate: bytes) -> None:
        """A service has issued a certificate to us: new sessions show it. Never waits, not even for the lock."""
        if self._refusal is None:
            self._pump.post_certificate(certificate)

    def step_back(self) -> None:
        """Before `close`: have others do the work, should it be a signal handler of the thread at the wheel that closes.

        That thread itself sees that all is over once its handler (or `notify`) has returned.
        """
        me = threading.get_ident()
        if self._wheel != me or self._thread.ident == me:
            return
        with self.lock:
            for waiter in [waiter for waiter in self._waiters if waiter.thread == me]:
                self._leave_wheel(waiter)

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

    def narrow_fileno(self, key: int, wanted: Callable[[], bool]) -> int:
        """As `readable_fileno`, but of what waits only what `wanted` says counts; one for each `key`, for good."""
        self.readable_fileno()
        with self.lock:
            if key not in self._narrow_flags:
                self._narrow_flags[key] = ReadableFlag(), wanted
            assert self._readable is not None, "made above"
            self._update_readable(self._readable)
            return self._narrow_flags[key][0].fileno()

    def counters(self) -> dict[int, SocketCounters]:
        """What each open socket did so far, by socket id."""
        with self.lock:
            return self._pump.counters()

    def stream_counters(self) -> dict[int, StreamCounters]:
        """What each stream did so far, by stream id."""
        with self.lock:
            return self._pump.stream_counters()

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
        self.step_back()
        self._call_thread.ring()
        self._watch.bell.put_up()
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

    def _wake_driver(self) -> None:
        self._armed_us = 0
        self._watch.bell.put_up()

    def _update_readable(self, flag: ReadableFlag) -> None:
        if self.endpoint.unread_messages > 0 or self._pump.has_events or self._refusal is not None:
            flag.put_up()
        else:
            flag.put_down()
        for narrow, wanted in self._narrow_flags.values():
            if self._refusal is not None or wanted():
                narrow.put_up()
            else:
                narrow.put_down()

    # At the wheel

    def _run(self) -> None:
        while not self._stopping:
            try:
                if self._stand_by():
                    try:
                        self._drive(NEVER, self._is_relieved)
                    finally:
                        self._leave_wheel(None)
            except Exception:  # noqa: BLE001 - logged; the thread must live
                note = self._log_limit.note("turn", monotonic_us())
                if note is not None:
                    _log.exception("defect: a turn of the driver failed%s", note)
                time.sleep(_FAILURE_PAUSE_S)
        self._finish()

    def _is_relieved(self) -> bool:
        return bool(self._waiters) or self._stopping

    def _stand_by(self) -> bool:
        """Sleep while the program does the work; True once our thread is at the wheel, False to look again."""
        with self.lock:
            now_us = monotonic_us()
            if not (self._wheel or self._waiters) and now_us >= self._rests_until_us:
                self._stands_by = False
                self._take_wheel(now_us)
                return True
            self._stands_by = True
            timeout_us = self._rests_until_us - now_us
            if self._wheel or self._waiters:
                timeout_us = STAND_IN_US
                if self._wheel and now_us - self._wheel_since_us >= STAND_IN_US:
                    # The program waits for long: it calls when it goes.
                    timeout_us = self._rests_until_us = NEVER
            self._call_thread.silence()
            if self._stopping:
                return False
        self._call_thread.wait(-1 if timeout_us == NEVER else timeout_us / 1e6)
        return False

    def _await_wheel(self, until_us: int, waiter: _Waiter) -> bool:
        """Become the one at the wheel; False if that is of no use any more."""
        with self.lock:
            self._waiters.append(waiter)
            if not self._stands_by:
                self._wake_driver()
        while True:
            with self.lock:
                now_us = monotonic_us()
                if self._refusal is not None or waiter.wanted():
                    return False
                if not self._wheel:
                    self._take_wheel(now_us)
                    return True
                if now_us >= until_us:
                    return False
                bell = waiter.bell = waiter.bell or _Bell()
                bell.silence()
            bell.wait(min(until_us - now_us, _SLEEP_MAX_US) / 1e6)

    def _take_wheel(self, now_us: int) -> None:
        self._wheel = threading.get_ident()
        self._wheel_since_us = now_us

    def _leave_wheel(self, waiter: _Waiter | None) -> None:
        """Whoever has been at the wheel, or wanted to be, goes; None is our thread. Harmless when repeated."""
        with self.lock:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            if self._wheel == threading.get_ident():
                self._wheel = self._armed_us = 0
            if self._wheel:
                return
            if self._waiters:
                self._waiters[0].ring()
            elif waiter is not None:
                self._rest_thread(monotonic_us())

    def _rest_thread(self, now_us: int) -> None:
        """The program did the work just now: our thread need not look before it has stayed away for a while."""
        if self._rests_until_us == NEVER:
            self._call_thread.ring()
        self._rests_until_us = now_us + STAND_IN_US

    def _drive(self, until_us: int, wanted: Callable[[], bool]) -> None:
        """Read, run timers, send, sleep, until `wanted()`, the time is over or the driver is closed; looks once in any case."""
        ready: list[Ready] = []
        has_looked = False
        while True:
            if ready:
                self._read(ready)
            with self.lock:
                now_us = monotonic_us()
                self._pump.handle_due(now_us)
                sleep_until_us, waiting = self._prepare_sleep()
                is_over = self._refusal is not None or wanted() or (has_looked and now_us >= until_us)
                if is_over:
                    self._armed_us = 0
            if waiting and self._notify is not None:
                self._call_notify(self._notify)
            if is_over:
                return
            ready = self._sleep(min(sleep_until_us, until_us), now_us)
            has_looked = True

    def _sleep(self, until_us: int, now_us: int) -> list[Ready]:
        try:
            ready = self._watch.wait(min(max(0, until_us - now_us), _SLEEP_MAX_US))
        except (OSError, ValueError):
            # A signal's handler may have closed everything, or forked.
            if self._refusal is None:
                raise
            ready = []
        self._armed_us = 0
        self.wakeups += 1
        return ready

    def _read(self, ready: list[Ready]) -> None:
        calls_max = max(1, READS_PER_TURN // len(ready))
        for entry, is_writable in ready:
            if is_writable:
                with self.lock:
                    self._pump.handle_writable(entry)
            else:
                self._pump.read(entry, calls_max, self.lock)

    def _read_in_passing(self, now_us: int) -> None:
        """Take what has arrived, for a program at the wheel that is busy with something else; with the lock held."""
        if self._wheel or not self._stands_by or now_us - self._rests_until_us < READ_EVERY_US - STAND_IN_US:
            return
        watched = self._pump.watched
        if self._pump.sockets_changed or any(entry.blocked for entry in watched):
            # Only who sleeps sees that a blocked socket takes datagrams again: the thread must not go on resting.
            return
        try:
            self._take_wheel(now_us)
            for entry in watched:
                self._pump.read(entry, _READS_IN_PASSING, self.lock)
            now_us = monotonic_us()
            self._pump.handle_due(now_us)
        finally:
            self._wheel = 0
        if self._readable is not None:
            self._update_readable(self._readable)
        self._rest_thread(now_us)

    def _has_served(self) -> bool:
        """Whether a command has made come true what somebody waits for."""
        return any(waiter.is_served for waiter in self._waiters)

    def _prepare_sleep(self) -> tuple[int, bool]:
        pump = self._pump
        pump.failure = None
        if pump.sockets_changed:
            self._watch_sockets()
        if self._readable is not None:
            self._update_readable(self._readable)
        if len(self._waiters) > 1:
            for waiter in self._waiters:
                if waiter.is_served:
                    waiter.ring()
        until_us = 0 if pump.unfinished else pump.wake_at_us()
        self._armed_us = until_us
        return until_us, self.notifies_every_turn or pump.has_events or self.endpoint.unread_messages > 0

    def _call_notify(self, notify: Callable[[], None]) -> None:
        try:
            notify()
        except Exception as error:
            if raised_by_signal_handler(error):
                raise
            note = self._log_limit.note("notify", monotonic_us())
            if note is not None:
                _log.exception("the notify callback raised%s", note)

    def _watch_sockets(self) -> None:
        pump = self._pump
        self._watch.watch(pump.watched)
        for entry in pump.closing:
            entry.close()
        pump.closing.clear()
        # Last: whom a signal's handler interrupts leaves it to the next one.
        pump.sockets_changed = False

    def _finish(self) -> None:
        self._await_program()
        with self.lock:
            if self._finished or self._refusal == FORKED_TEXT:
                return
            self._finished = True
            self._pump.close(monotonic_us())
            if self._readable is not None:
                self._update_readable(self._readable)
            self._release()

    def _await_program(self) -> None:
        """Whoever is at the wheel sees that all is over, and leaves."""
        for _ in range(int(CLOSE_TIMEOUT_S / _FAREWELL_POLL_S)):
            if self._wheel in (0, threading.get_ident()):
                return
            self._watch.bell.put_up()
            time.sleep(_FAREWELL_POLL_S)

    def _release(self) -> None:
        self._watch.close()
        if self._readable is not None:
            self._readable.close()
        for flag, _ in self._narrow_flags.values():
            flag.close()
