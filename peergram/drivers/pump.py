"""Carries values between one endpoint and its sockets: what every driver does, whoever waits and whoever holds the lock.

A driver waits for sockets and for the deadline, then calls `read`, `handle_due` and `drain`; after a command it calls `drain`.
All methods expect the driver's lock to be held, but for `read`, which takes it only while the endpoint works, so that other
threads get their turn between batches. The budgets (E3) see to it that no flood, in or out, keeps timers and the other direction
waiting.
"""

from __future__ import annotations

import logging
import socket
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from peergram.address import Address
from peergram.drivers.log_limit import LogLimit
from peergram.drivers.sockets import DriverSocket
from peergram.drivers.system import monotonic_us, raised_by_signal_handler
from peergram.drivers.udp_batch import MakeSocket, SocketCounters, UdpSocket
from peergram.endpoint.requests import CloseSocket, OpenSocket, Transmit
from peergram.errors import PeergramError
from peergram.timing import NEVER, Deadline

if TYPE_CHECKING:
    from peergram.events import Event

READS_PER_TURN = 64
"""Batches read before timers and senders have their turn (E3)."""
TRANSMITS_PER_DRAIN = 64
"""Batches sent before arriving ones have theirs."""
REQUESTS_PER_DRAIN = 1_024
OVERDUE_TRIES = 8
OVERDUE_HOLD_US = 1_000
"""Pause before an endpoint that is still due after `OVERDUE_TRIES` rounds is asked again: no defect may eat a whole core."""

CLOSED_TEXT = "this endpoint was closed: make a new one to go on"
FORKED_TEXT = "this endpoint belongs to the process that made it: a forked child must make its own (keys must not be used twice)"
BUSY_TEXT = "this endpoint is busy with another call of this thread: call it after that one, not inside"

_log = logging.getLogger(__name__)


class DrivenEndpoint(Protocol):
    """What a driver needs of an endpoint (`docs/architecture.md`)."""

    @property
    def unread_messages(self) -> int:
        """Messages that wait for the application."""

    def poll_socket_request(self) -> OpenSocket | CloseSocket | None: ...
    def handle_socket_opened(self, socket_id: int, local: Address, now_us: int) -> None: ...
    def handle_socket_failed(self, socket_id: int, text: str, now_us: int) -> None: ...
    def handle_datagrams(self, socket_id: int, remote: Address, data: bytes, segment_bytes: int, now_us: int) -> None: ...
    def handle_timeout(self, now_us: int) -> None: ...
    def poll_transmit(self, now_us: int) -> Transmit | None: ...
    def poll_timeout(self) -> Deadline | None: ...
    def poll_event(self) -> Event | None: ...
    def close(self, now_us: int) -> None: ...


class Pump:
    """One endpoint, its sockets, and the three ways values flow between them."""

    def __init__(self, endpoint: DrivenEndpoint, *, batching: bool = True, make_socket: MakeSocket = socket.socket) -> None:
        self.endpoint = endpoint
        self.sockets: dict[int, DriverSocket] = {}
        self.closing: list[DriverSocket] = []
        """Sockets the endpoint has given up; the driver stops waiting for them, then closes them."""
        self.sockets_changed = False
        """Whether the driver must look again at `sockets`, `closing` and who is blocked."""
        self.unfinished = False
        """Whether the last drain ended before the endpoint ran out of datagrams."""
        self.failure: tuple[OpenSocket, PeergramError] | None = None
        """The latest socket that could not be opened, until somebody takes it."""
        self.defects = 0
        """Exceptions the endpoint raised while it handled the network or time: defects of ours, logged once a second at most."""
        self._batching = batching
        self._make_socket = make_socket
        self._held_event: Event | None = None
        self._hold_until_us = 0
        self._log_limit = LogLimit()

    # From the network and the clock

    def read(self, entry: DriverSocket, calls_max: int, lock: AbstractContextManager[object]) -> None:
        """Hand arrived batches to the endpoint, at most `calls_max` of them, and send what it answers."""
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

    def handle_due(self, now_us: int) -> None:
        """Send what an unfinished drain left, run the endpoint's timers if their time has come, send what they cause."""
        try:
            if self.unfinished:
                self.drain(now_us)
            for _ in range(OVERDUE_TRIES):
                if self.wake_at_us() > now_us:
                    return
                self.endpoint.handle_timeout(now_us)
                self.drain(now_us)
        except Exception as error:  # noqa: BLE001 - logged; the driver must go on
            self._report_defect(error, now_us)
        self._hold_until_us = now_us + OVERDUE_HOLD_US

    def wake_at_us(self) -> int:
        """When the endpoint's timers must run next, or NEVER."""
        deadline = self.endpoint.poll_timeout()
        return NEVER if deadline is None else max(deadline.at_us, self._hold_until_us)

    # From the endpoint

    def drain(self, now_us: int) -> None:
        """Open and close sockets, send datagrams, look for an event. Exceptions of the endpoint pass through."""
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
        if self._held_event is None:
            self._held_event = endpoint.poll_event()

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

    def handle_writable(self, entry: DriverSocket) -> None:
        """The kernel takes datagrams of this socket again."""
        entry.handle_writable()
        if not entry.blocked:
            self.sockets_changed = True

    def take_failure(self, *, any_port: bool) -> PeergramError | None:
        """The failure to open a socket since the last look, if the caller asked for it: a port of his own choice, or any.

        Sockets on any free port are the endpoint's own affair, and it has been told.
        """
        failure, self.failure = self.failure, None
        return failure[1] if failure is not None and (any_port or failure[0].bind[1] != 0) else None

    def counters(self) -> dict[int, SocketCounters]:
        """By socket id, for open sockets."""
        return {socket_id: entry.udp.counters for socket_id, entry in self.sockets.items()}

    def close(self, now_us: int) -> None:
        """Close the endpoint, send its last datagrams, close every socket. What the kernel does not take at once is lost."""
        try:
            self.endpoint.close(now_us)
            for _ in range(READS_PER_TURN):
                self.drain(now_us)
                if not self.unfinished:
                    break
        except Exception as error:  # noqa: BLE001 - logged; the driver must go on
            self._report_defect(error, now_us)
        self.abandon()

    def abandon(self) -> None:
        """Close every socket without another word."""
        for entry in (*self.sockets.values(), *self.closing):
            entry.udp.close()
        self.sockets.clear()
        self.closing.clear()

    def _serve(self, request: OpenSocket | CloseSocket, now_us: int) -> None:
        if isinstance(request, CloseSocket):
            self._remove(request.socket_id)
            return
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
            self.closing.append(entry)
            self.sockets_changed = True

    def _give_up(self, entry: DriverSocket, now_us: int) -> None:
        self._remove(entry.socket_id)
        errors = ", ".join(entry.udp.counters.receive_errors)
        self.endpoint.handle_socket_failed(entry.socket_id, f"the UDP socket stopped working ({errors})", now_us)

    def _send(self, transmit: Transmit) -> None:
        entry = self.sockets.get(transmit.socket_id)
        if entry is None:
            return
        if transmit.is_probe:
            entry.udp.send_probe(transmit.packets[0], transmit.remote)
            return
        was_blocked = entry.blocked
        if entry.send(transmit.packets, transmit.remote) and not was_blocked:
            self.sockets_changed = True

    def _report_defect(self, error: Exception, now_us: int) -> None:
        """Log what the endpoint raised; raises it again if it was not the endpoint, but a signal's handler meanwhile."""
        if raised_by_signal_handler(error):
            raise error
        self.defects += 1
        if self._log_limit.note("defect", now_us) is not None:
            _log.exception("defect: the endpoint raised; %d in all", self.defects)
