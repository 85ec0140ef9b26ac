"""Carries values between one endpoint and its sockets: what every driver does, whoever waits and whoever holds the lock.

Datagrams are the bulk and go their way here; streams, names and this machine's addresses are `SideIo`'s, signals go to a service.

A driver waits for sockets and for the deadline, then calls `read`, `handle_due` and `drain`; after a command it calls `drain`.
All methods expect the driver's lock to be held, but for `read`, which takes it only while the endpoint works, so that other
threads get their turn between batches. The budgets (E3) see to it that no flood, in or out, keeps timers and the other direction
waiting.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING

from peergram.config import KNOWN_PEERS_LOOK_US, SIGNALS_WAITING_MAX
from peergram.drivers.driven_endpoint import DrivenEndpoint, PeerKeeper, SignalCarrier
from peergram.drivers.log_limit import LogLimit
from peergram.drivers.mailbox import Mailbox
from peergram.drivers.sockets import DriverSocket, Watched
from peergram.drivers.system import monotonic_us, raised_by_signal_handler
from peergram.drivers.udp_batch import MakeSocket, SocketCounters, UdpSocket
from peergram.errors import PeergramError, UsageError, WireError
from peergram.identity import Identity
from peergram.io_requests import CloseSocket, IoRequest, OpenSocket, Transmit
from peergram.timing import NEVER
from peergram.wire.certificates import decode_signed_certificate

if TYPE_CHECKING:
    from peergram.drivers.call_memory import CallMemory
    from peergram.drivers.side_io import SideIo
    from peergram.drivers.streams import StreamCounters
    from peergram.events import Event
    from peergram.wire.relay_news import RelayNews, Tickets

READS_PER_TURN = 64
"""Batches read before timers and senders have their turn (E3)."""
TRANSMITS_PER_DRAIN = 64
"""Batches sent before arriving ones have theirs."""
REQUESTS_PER_DRAIN = 1_024
SIGNALS_PER_TURN = 16
"""Signals taken, names answered and the like before timers and datagrams have their turn: a signal may cost the check of a
certificate. As many are given away in one drain."""
OVERDUE_TRIES = 8
OVERDUE_HOLD_US = 1_000
"""Pause before an endpoint that is still due after `OVERDUE_TRIES` rounds is asked again: no defect may eat a whole core."""

CLOSED_TEXT = "this endpoint was closed: make a new one to go on"
FORKED_TEXT = "this endpoint belongs to the process that made it: a forked child must make its own (keys must not be used twice)"
BUSY_TEXT = "this endpoint is busy with another call of this thread: call it after that one, not inside"

_log = logging.getLogger(__name__)


class Pump:
    """One endpoint, its sockets, and the ways values flow between them.

    `ring` is called, from any thread, to have a turn (`handle_due`) of whoever waits; the default is for those who wait for
    nothing and take turns all the time.
    """

    def __init__(
        self,
        endpoint: DrivenEndpoint,
        *,
        ring: Callable[[], None] = lambda: None,
        batching: bool = True,
        make_socket: MakeSocket = socket.socket,
        signaling: SignalCarrier | None = None,
        memory: CallMemory | None = None,
        keeper: PeerKeeper | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.sockets: dict[int, DriverSocket] = {}
        self.closing: list[Watched] = []
        """What the endpoint has given up, sockets and others; the driver stops waiting for them, then closes them."""
        self.sockets_changed = False
        """Whether the driver must look again at `watched`, `closing` and who is blocked, and at `wake_at_us`."""
        self.unfinished = False
        """Whether the last drain ended before the endpoint ran out of datagrams."""
        self.failure: tuple[OpenSocket, PeergramError] | None = None
        """The latest socket that could not be opened, until somebody takes it."""
        self.defects = 0
        """Exceptions the endpoint raised while it handled the network or time: defects of ours, logged once a second at most."""
        self.signals_dropped = 0
        """Signals that arrived faster than they were taken."""
        self._batching = batching
        self._make_socket = make_socket
        self._signaling = signaling
        self._memory = memory
        self._keeper = keeper
        self._keeper_at_us = 0
        """When to look again whether people have changed which keys are known."""
        self._mailbox = Mailbox(ring)
        # Who has signals to carry will need it, and must not wait for it in the middle of a call.
        self._side: SideIo | None = None if signaling is None else self._make_side()
        self._held_event: Event | None = None
        self._hold_until_us = 0
        self._log_limit = LogLimit()

    @property
    def watched(self) -> list[Watched]:
        """What to wait for."""
        return [*self.sockets.values(), *(self._side.entries if self._side is not None else ())]

    # From the network and the clock

    def read(self, entry: Watched, calls_max: int, lock: AbstractContextManager[object]) -> None:
        """Hand arrived batches to the endpoint, at most `calls_max` of them, and send what it answers."""
        if not isinstance(entry, DriverSocket):
            self._read_side(entry, calls_max, lock)
            return
        while calls_max > 0:
            batches, calls_max = entry.udp.receive(calls_max)
            if not batches and not entry.udp.broken:
                continue
            with lock:
                if self.sockets.get(entry.socket_id) is not entry:
                    return
                now_us = monotonic_us()
                try:
                    for data, segment_bytes, remote in batches:
                        self.endpoint.handle_datagrams(entry.socket_id, remote, data, segment_bytes, now_us)
                    if entry.udp.broken:
                        self._give_up(entry, now_us)
                    self.drain(now_us)
                except Exception as error:  # noqa: BLE001 - logged; the driver must go on
                    self._report_defect(error, now_us)

    def _read_side(self, entry: Watched, calls_max: int, lock: AbstractContextManager[object]) -> None:
        has_more = True
        while has_more and calls_max > 0:
            calls_max -= 1
            with lock:
                if self._side is None:
                    return
                now_us = monotonic_us()
                try:
                    has_more = self._side.read(entry, now_us)
                    self.drain(now_us)
                except Exception as error:  # noqa: BLE001 - logged; the driver must go on
                    self._report_defect(error, now_us)

    def handle_due(self, now_us: int) -> None:
        """Take what other threads left, send what an unfinished drain left, run the timers whose time has come, send what they
        cause."""
        if self._mailbox.has_rung:
            self._handle_mail(now_us)
        try:
            if self.unfinished:
                self.drain(now_us)
            if self._side is not None and max(self._side.wake_at_us, self._hold_until_us) <= now_us:
                self._side.handle_due(now_us)
                self.drain(now_us)
            for _ in range(OVERDUE_TRIES):
                if self._timers_wake_at_us() > now_us:
                    return
                self.endpoint.handle_timeout(now_us)
                self.drain(now_us)
        except Exception as error:  # noqa: BLE001 - logged; the driver must go on
            self._report_defect(error, now_us)
        self._hold_until_us = now_us + OVERDUE_HOLD_US

    def wake_at_us(self) -> int:
        """When `handle_due` has something to do next, or NEVER."""
        deadline = self.endpoint.poll_timeout()
        at_us = NEVER if deadline is None else deadline.at_us
        if self._side is not None and self._side.wake_at_us < at_us:
            at_us = self._side.wake_at_us
        return NEVER if at_us == NEVER else max(at_us, self._hold_until_us)

    def _timers_wake_at_us(self) -> int:
        deadline = self.endpoint.poll_timeout()
        return NEVER if deadline is None else max(deadline.at_us, self._hold_until_us)

    def _handle_mail(self, now_us: int) -> None:
        works = self._mailbox.works
        self._mailbox.has_rung = False
        budget = SIGNALS_PER_TURN
        try:
            while works and budget:
                budget -= 1
                try:
                    works.popleft()(now_us)
                except Exception as error:  # noqa: BLE001 - logged; the driver must go on
                    self._report_defect(error, now_us)
        finally:
            # A signal's handler may have raised in between.
            if works:
                self._mailbox.call_driver()
            # What it caused has still to be drained.
            self.unfinished = True

    def post_signal(self, sender: Identity | None, signal: bytes) -> None:
        """A signal arrived; from any thread, without the lock. The endpoint gets it in the driver's next turn."""
        if len(self._mailbox.works) < SIGNALS_WAITING_MAX:
            self._mailbox.put(partial(self.endpoint.handle_signal, sender, signal))
        else:
            self.signals_dropped += 1

    def post_certificate(self, certificate: bytes) -> None:
        """A service has issued a certificate to us; from any thread, without the lock. One that is not for us is logged."""
        if len(self._mailbox.works) < SIGNALS_WAITING_MAX:
            self._mailbox.put(partial(self._renew_certificate, certificate))

    def post_relays(self, message: RelayNews | Tickets) -> None:
        """A service tells of its relays; from any thread, without the lock. Of a map that is none the log tells."""
        if len(self._mailbox.works) < SIGNALS_WAITING_MAX:
            self._mailbox.put(partial(self._take_relays, message))

    def _take_relays(self, message: RelayNews | Tickets, now_us: int) -> None:
        try:
            self.endpoint.handle_relays(message, now_us)
        except UsageError as error:
            if (more := self._log_limit.note("relays", now_us)) is not None:
                _log.warning("the signaling server's relay map is of no use: %s%s", error, more)

    def _renew_certificate(self, certificate: bytes, now_us: int) -> None:
        try:
            self.endpoint.renew_certificate(decode_signed_certificate(certificate))
        except (UsageError, WireError) as error:
            if (more := self._log_limit.note("certificate", now_us)) is not None:
                _log.warning("a certificate that was issued to us is of no use: %s%s", error, more)

    # From the endpoint

    def drain(self, now_us: int) -> None:
        """Open and close sockets, send datagrams and signals, look for an event. Exceptions of the endpoint pass through."""
        endpoint = self.endpoint
        budget = REQUESTS_PER_DRAIN
        while budget and (request := endpoint.poll_socket_request()) is not None:
            self._serve(request, now_us)
            budget -= 1
        budget = TRANSMITS_PER_DRAIN
        while budget and (transmit := endpoint.poll_transmit(now_us)) is not None:
            self._send(transmit)
            budget -= 1
        self.unfinished = not budget
        if self._memory is not None:
            while (note := endpoint.poll_memory()) is not None:
                self._memory.note(note)
        if self._keeper is not None:
            self._keep_peers(self._keeper, now_us)
        if self._signaling is not None:
            self._send_signals(self._signaling, now_us)
        if self._held_event is None:
            self._held_event = endpoint.poll_event()

    def _keep_peers(self, keeper: PeerKeeper, now_us: int) -> None:
        while (met := self.endpoint.poll_known_peer()) is not None:
            keeper.add(*met)
        if now_us >= self._keeper_at_us:
            self._keeper_at_us = now_us + KNOWN_PEERS_LOOK_US
            if keeper.reload_if_changed():
                self.endpoint.handle_known_peers(keeper.entries)

    @property
    def has_events(self) -> bool:
        """Whether `take_events` would return something. One event is held here; the others stay within the endpoint's limit."""
        return self._held_event is not None

    def take_events(self) -> list[Event]:
        """All events that wait, oldest first."""
        events: list[Event] = []
        event = self._held_event
        while event is not None:
            events.append(event)
            event = self.endpoint.poll_event()
        self._held_event = None
        return events

    def handle_writable(self, entry: Watched) -> None:
        """The kernel takes datagrams of this socket again, or bytes of this stream."""
        if isinstance(entry, DriverSocket):
            entry.handle_writable()
            if not entry.blocked:
                self.sockets_changed = True
        elif self._side is not None:
            now_us = monotonic_us()
            try:
                self._side.handle_writable(entry, now_us)
                self.drain(now_us)
            except Exception as error:  # noqa: BLE001 - logged; the driver must go on
                self._report_defect(error, now_us)

    def take_failure(self, *, any_port: bool) -> PeergramError | None:
        """The failure to open a socket since the last look, if the caller asked for it: a port of his own choice, or any.

        Sockets on any free port are the endpoint's own affair, and it has been told.
        """
        failure, self.failure = self.failure, None
        return failure[1] if failure is not None and (any_port or failure[0].bind[1] != 0) else None

    def counters(self) -> dict[int, SocketCounters]:
        """By socket id, for open sockets."""
        return {socket_id: entry.udp.counters for socket_id, entry in self.sockets.items()}

    def stream_counters(self) -> dict[int, StreamCounters]:
        """By stream id, for streams that are not over."""
        return {} if self._side is None else self._side.counters()

    def close(self, now_us: int) -> None:
        """Close the endpoint, send its last datagrams and signals, close every socket. What the kernel does not take at once is
        lost."""
        try:
            self.endpoint.close(now_us)
            for _ in range(READS_PER_TURN):
                self.drain(now_us)
                if not self.unfinished:
                    break
        except Exception as error:  # noqa: BLE001 - logged; the driver must go on
            self._report_defect(error, now_us)
        if self._side is not None:
            self._side.close()
        self._close_signaling(now_us)
        if self._memory is not None:
            self._memory.close()
        if self._keeper is not None:
            self._keep_peers(self._keeper, now_us)
        self.abandon()

    def abandon(self) -> None:
        """Close every socket without another word."""
        if self._side is not None:
            self._side.abandon()
        if self._memory is not None:
            self._memory.abandon()
        for entry in (*self.sockets.values(), *self.closing):
            entry.close()
        self.sockets.clear()
        self.closing.clear()

    def _serve(self, request: IoRequest, now_us: int) -> None:
        if isinstance(request, OpenSocket):
            self._open(request, now_us)
        elif isinstance(request, CloseSocket):
            self._remove(request.socket_id)
        else:
            if self._side is None:
                self._side = self._make_side()
            self._side.serve(request, now_us)

    def _make_side(self) -> SideIo:
        # For those only who need it: its modules (ssl, ctypes) take longer to load than all others together, some 50 ms.
        from peergram.drivers.side_io import SideIo

        return SideIo(self.endpoint, self._mailbox, changed=self._note_change, retire=self._retire)

    def _note_change(self) -> None:
        self.sockets_changed = True

    def _retire(self, entry: Watched) -> None:
        self.closing.append(entry)
        self.sockets_changed = True

    def _open(self, request: OpenSocket, now_us: int) -> None:
        try:
            udp = UdpSocket(request.bind, request.family, batching=self._batching, make_socket=self._make_socket)
        except PeergramError as error:
            self.failure = (request, error)
            self.endpoint.handle_socket_failed(request.socket_id, str(error), now_us)
            return
        self.sockets[request.socket_id] = DriverSocket(request.socket_id, udp)
        self.sockets_changed = True
        self.endpoint.handle_socket_opened(request.socket_id, udp.local, now_us)

    def _remove(self, socket_id: int) -> None:
        entry = self.sockets.pop(socket_id, None)
        if entry is not None:
            self._retire(entry)

    def _give_up(self, entry: DriverSocket, now_us: int) -> None:
        self._remove(entry.socket_id)
        errors = ", ".join(entry.udp.counters.receive_errors)
        self.endpoint.handle_socket_failed(entry.socket_id, f"the UDP socket stopped working ({errors})", now_us)

    def _send(self, transmit: Transmit) -> None:
        entry = self.sockets.get(transmit.socket_id)
        if entry is None:
            if self._side is not None:
                self._side.send(transmit)
            return
        if transmit.is_probe:
            entry.udp.send_probe(transmit.packets[0], transmit.remote)
            return
        was_blocked = entry.blocked
        if entry.send(transmit.packets, transmit.remote) and not was_blocked:
            self.sockets_changed = True

    def _send_signals(self, signaling: SignalCarrier, now_us: int) -> None:
        for _ in range(SIGNALS_PER_TURN):
            signal = self.endpoint.poll_signal()
            if signal is None:
                return
            try:
                signaling.send(*signal)
            except Exception as error:  # noqa: BLE001 - logged; a service of the application's own may do anything
                self._report_service(error, now_us)
        self.unfinished = True

    def _close_signaling(self, now_us: int) -> None:
        if self._signaling is None:
            return
        try:
            self._signaling.close()
        except Exception as error:  # noqa: BLE001 - logged; the sockets must be closed all the same
            self._report_service(error, now_us)

    def _report_service(self, error: Exception, now_us: int) -> None:
        if raised_by_signal_handler(error):
            raise error
        note = self._log_limit.note("service", now_us)
        if note is not None:
            _log.exception("the signaling service raised%s", note)

    def _report_defect(self, error: Exception, now_us: int) -> None:
        """Log what the endpoint raised; raises it again if it was not the endpoint, but a signal's handler meanwhile."""
        if raised_by_signal_handler(error):
            raise error
        self.defects += 1
        if self._log_limit.note("defect", now_us) is not None:
            _log.exception("defect: the endpoint raised; %d in all", self.defects)
