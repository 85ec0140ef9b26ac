"""What a kernel's UDP is to its sockets: the datagrams of one identity, handed to the socket look-alikes that they are for.

A thread waits at the `Messages`, answers requests, and puts what comes into the sockets' queues. Datagrams are messages of one
channel, plain, so that the other side may be any program that uses `Messages`. For programs with several sockets each can begin
with the two ports instead, as UDP's header does; then both sides do that.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from struct import Struct
from types import TracebackType
from typing import Literal, Protocol

from peergram.adapters.address_book import AddressBook
from peergram.address import Address
from peergram.config import SHIM_CLOSE_US, SHIM_DATAGRAM_BYTES_MAX
from peergram.errors import ClosedError, Result, UsageError
from peergram.events import Message, RouteChanged, SendFlags, SessionFailed, SessionRequested
from peergram.identity import Identity
from peergram.messages import Messages

_log = logging.getLogger(__name__)

Accept = Literal["everyone", "mapped"] | Callable[[SessionRequested], bool]
PORTS_CHANNEL = 17
"""The channel of datagrams with ports: UDP's number among the protocols of IP."""

_PORTS = Struct(">HH")
_MESSAGES_PER_TURN = 256
_ROOM_PAUSE_S = 0.05
"""How long at most reliable datagrams wait for a reader before requests and failures have their turn."""


class Receiver(Protocol):
    """A socket as the network sees it. Everything here is called by the network's thread."""

    def room(self) -> int:
        """How many datagrams it takes now without dropping any."""

    def deliver(self, payload: bytes, sender: Identity, address: Address) -> None:
        """A datagram came."""

    def fail(self, identity: Identity, error: OSError) -> None:
        """The session with somebody failed."""

    def hang_up(self) -> None:
        """Nothing will come any more."""


class DatagramNetwork:
    """Takes over a `Messages`: its callbacks at once, and its end when this is closed."""

    def __init__(
        self,
        net: Messages,
        mapped: Mapping[str, str | Identity] | AddressBook | None = None,
        *,
        accept: Accept = "everyone",
        channel: int | None = None,
        reliable: bool = False,
        ports: bool = False,
    ) -> None:
        """`mapped`: which addresses stand for whom, as `{"10.0.0.2:5683": "bob"}`; everybody else has a fake one. `accept`: whose
        sessions are let in, besides those we send to: "everyone", only who is "mapped", or what a function says. `channel`: where
        datagrams go (0, or 17 with ports). `reliable`: send them so, in order and exactly once. `ports`: begin each with its two
        ports, for several sockets."""
        if not (callable(accept) or accept in ("everyone", "mapped")):
            raise UsageError(f"accept: give 'everyone', 'mapped' or a function, not {accept!r}")
        self.net = net
        self.book = mapped if isinstance(mapped, AddressBook) else AddressBook(mapped)
        self.has_ports = ports
        self.channel = (PORTS_CHANNEL if ports else 0) if channel is None else channel
        self.reliable = reliable
        self.dropped = 0
        """Datagrams that came to nothing on this machine: a full queue or send buffer, no socket for them, no address left."""
        self._accept = accept
        way = SendFlags.RELIABLE_NO_NAGLE if reliable else SendFlags.UNRELIABLE_NO_NAGLE
        self._flags = int(way | SendFlags.AUTO_RESTART_BROKEN_SESSION)
        self._lock = threading.Lock()
        self._receivers: dict[int, Receiver] = {}
        self._has_room = threading.Event()
        self._thread = threading.Thread(target=self._run, name="peergram-datagrams", daemon=True)
        net.on_session_request = self._on_request
        net.on_session_failed = self._on_failed
        net.on_route_changed = self._on_route_changed
        self._thread.start()

    def __enter__(self) -> DatagramNetwork:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self, wait_s: float = SHIM_CLOSE_US / 1e6) -> None:
        """End the `Messages` and all sockets. May be called twice.

        What the kernel's UDP was given is on its way when a program closes its sockets, and ends; here it may still wait for its
        session to come up, which it gets `wait_s` for.
        """
        with suppress(ClosedError):
            self.net.wait_until_sent(wait_s)
        self.net.close()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    @property
    def has_unsent(self) -> bool:
        """Whether a datagram still waits to leave."""
        try:
            return not self.net.wait_until_sent(0)
        except ClosedError:
            return False

    # --- for sockets ---

    def attach(self, receiver: Receiver, port: int = 0) -> None:
        """From now on datagrams for `port` are this socket's; without ports, all. Raises OSError if it is another's."""
        with self._lock:
            if self._receivers.setdefault(port, receiver) is not receiver:
                raise OSError(errno.EADDRINUSE, f"{os.strerror(errno.EADDRINUSE)}: another socket of this network has it")
        self._has_room.set()

    def detach(self, receiver: Receiver) -> None:
        """Forget a socket; harmless when repeated."""
        with self._lock:
            for port in [port for port, known in self._receivers.items() if known is receiver]:
                del self._receivers[port]

    def note_room(self) -> None:
        """Somebody has read, so that reliable datagrams may come again."""
        self._has_room.set()

    def try_send(self, to: Identity, payload: bytes, source_port: int = 0, port: int = 0) -> bool:
        """Send if there is room in the send buffer; whether there was. Raises OSError for what cannot be sent."""
        if len(payload) > SHIM_DATAGRAM_BYTES_MAX:
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        data = _PORTS.pack(source_port, port) + payload if self.has_ports else payload
        try:
            result = self.net.send_message_to_user(to, data, self._flags, self.channel)
        except ClosedError as closed:
            raise OSError(errno.ENETDOWN, str(closed)) from None
        if result is Result.LIMIT_EXCEEDED:
            return False
        if result is not Result.OK:
            raise OSError(errno.ENETUNREACH, f"{os.strerror(errno.ENETUNREACH)}: {to.printable} ({result.name})")
        return True

    def wait_for_room(self, to: Identity, timeout_s: float | None) -> bool:
        """Wait until the send buffer to somebody has room again; whether it has."""
        try:
            return self.net.wait_for_room(to, timeout_s)
        except ClosedError as closed:
            raise OSError(errno.ENETDOWN, str(closed)) from None

    # --- the thread ---

    def _run(self) -> None:
        try:
            while True:
                self.net.wait(channel=self.channel)
                self.net.run_callbacks()
                self._take()
        except ClosedError:
            pass
        finally:
            with self._lock:
                receivers = list(self._receivers.values())
                self._receivers.clear()
            for receiver in receivers:
                receiver.hang_up()

    def _take(self) -> None:
        """Hand on what came."""
        room = _MESSAGES_PER_TURN
        if self.reliable:
            self._has_room.clear()
            with self._lock:
                room = min((receiver.room() for receiver in self._receivers.values()), default=0)
            if not room:
                self._has_room.wait(_ROOM_PAUSE_S)
                return
        for message in self.net.receive_messages_on_channel(self.channel, min(room, _MESSAGES_PER_TURN)):
            self._hand_on(message)

    def _hand_on(self, message: Message) -> None:
        payload, source_port, port = message.payload, None, 0
        if self.has_ports:
            if len(payload) < _PORTS.size:
                self.dropped += 1
                return
            source_port, port = _PORTS.unpack_from(payload)
            payload = payload[_PORTS.size :]
        with self._lock:
            receiver = self._receivers.get(port)
        try:
            address = self.book.address_of(message.identity, source_port)
        except UsageError:
            receiver = None
        if receiver is None:
            self.dropped += 1
            return
        receiver.deliver(payload, message.identity, address)

    def _on_request(self, request: SessionRequested) -> None:
        """Who is not wanted gets no answer, as from a firewall, and gives up by himself: told off, he would ask again at once."""
        if self._is_wanted(request):
            self.net.accept_session_with_user(request.identity)
        else:
            _log.info("%s is not let in", request.identity.printable)

    def _is_wanted(self, request: SessionRequested) -> bool:
        if self._accept == "everyone":
            return True
        if self._accept == "mapped":
            return self.book.is_mapped(request.identity)
        assert callable(self._accept)
        try:
            return bool(self._accept(request))
        except Exception:  # noqa: BLE001
            # The question was the program's own, and the others must not suffer from it.
            _log.exception("the function given as accept failed; %s is not let in", request.identity.printable)
            return False

    def _on_route_changed(self, change: RouteChanged) -> None:
        way = {"": "not at the moment"}.get(change.route, change.route)
        _log.info("%s is reached: %s%s", change.identity.printable, way, f" ({change.address})" if change.address else "")

    def _on_failed(self, failure: SessionFailed) -> None:
        lost = failure.unconfirmed.messages
        _log.log(logging.WARNING if lost else logging.INFO, "%s: %s", failure.identity.printable, failure.debug)
        error = ConnectionRefusedError(errno.ECONNREFUSED, f"{failure.identity.printable}: {failure.debug}")
        with self._lock:
            receivers = list(self._receivers.values())
        for receiver in receivers:
            receiver.fail(failure.identity, error)
