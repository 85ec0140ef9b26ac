"""Signaling on the local network: what the library uses where nothing else is configured.

Sends from the caller's thread, since a datagram never has to wait, and receives on a thread of its own; that thread also follows
the interfaces as they come and go.
"""

from __future__ import annotations

import logging
import selectors
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache

from peergram.config import LAN_LOOK_INTERVAL_US, LAN_LOOK_SETTLED_US, LAN_PORT
from peergram.drivers.log_limit import LogLimit
from peergram.drivers.signaling.lan_sockets import (
    FamilySockets,
    LanInterface,
    is_near,
    lan_interfaces,
    open_change_socket,
    open_families,
)
from peergram.drivers.socket_watch import ReadableFlag
from peergram.drivers.system import monotonic_us, secure_entropy, watch_process
from peergram.errors import UsageError
from peergram.identity import Identity
from peergram.signaling.lan_protocol import LanCore, LanSend, Place
from peergram.signaling.service import Deliver, LocalParty

_READS_PER_TURN = 64
_DATAGRAM_READ_BYTES = 2_048
_NAMES_SHOWN = 4

_log = logging.getLogger(__name__)


class LanSignaling:
    """Multicast on loopback and on every local interface, IPv4 and IPv6; nothing to configure.

    The arguments are for tests: who uses another port does not hear the others. `dropped` counts what came to nothing, by reason.
    """

    def __init__(
        self,
        *,
        port: int = LAN_PORT,
        interfaces: Callable[[], list[LanInterface]] = lan_interfaces,
        look_interval_us: int = LAN_LOOK_INTERVAL_US,
    ) -> None:
        self._port = port
        self._look_interval_us = look_interval_us
        self._list_interfaces = interfaces
        self._interfaces: list[LanInterface] = []
        self._is_near = lru_cache(256)(lambda host: is_near(host, self._interfaces))
        self._core: LanCore | None = None
        self._deliver: Deliver | None = None
        self._families: list[FamilySockets] = []
        self._why_missing = ""
        # For the core and the sending sockets: whoever sends, and the thread.
        self._lock = threading.Lock()
        self._bell = ReadableFlag()
        self._thread = threading.Thread(target=self._run, name="peergram-lan", daemon=True)
        self._log_limit = LogLimit()
        self._closed = False

    # For the library

    def start(self, party: LocalParty, deliver: Deliver) -> None:
        """As the protocol says; raises UsageError when it was started or closed before."""
        if self._core is not None or self._closed:
            raise UsageError("this LanSignaling was used before: make a new one")
        self._deliver = deliver
        self._core = LanCore(party.identity, secure_entropy)
        self._families, self._why_missing = open_families(self._port)
        # In the caller's thread, so that whoever starts after this call is heard.
        self._follow_interfaces()
        watch_process(self)
        self._thread.start()

    def send(self, to: Identity, signal: bytes) -> None:
        """As the protocol says; signals above 8 KiB, and more than 10 per second for one peer, are dropped."""
        with self._lock:
            if self._core is None or self._closed:
                return
            if (sending := self._core.send(to, signal, monotonic_us())) is not None:
                self._send(sending)

    def close(self, timeout_s: float = 1.0) -> None:
        """As the protocol says."""
        with self._lock:
            was_closed, self._closed = self._closed, True
        if was_closed:
            return
        self._bell.put_up()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)
        elif not self._thread.is_alive():
            self._close_sockets()

    def abandon(self) -> None:
        """In a forked child: the sockets are the parent's."""
        self._lock = threading.Lock()
        self._closed = True
        self._close_sockets()

    @property
    def dropped(self) -> dict[str, int]:
        """Datagrams and signals that came to nothing, by reason."""
        with self._lock:
            return dict(self._core.dropped) if self._core is not None else {}

    @property
    def status(self) -> str:
        """As the protocol says."""
        if self._closed:
            return "Local network: closed."
        if self._core is None:
            return "Local network: not started."
        with self._lock:
            names = sorted({each.name for family in self._families for each in family.joined.values()})
        if not names:
            why = f" ({self._why_missing})" if self._why_missing else ""
            return f"Local network: no interface of this machine carries multicast{why}."
        shown = ", ".join(names[:_NAMES_SHOWN]) + (f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else "")
        return f"Local network: looking for peers on {shown}."

    # Sending, with the lock held

    def _send(self, sending: LanSend) -> None:
        assert self._core is not None
        taken = 0
        if sending.place is not None:
            version = 6 if len(sending.place) > 2 else 4
            for family in self._families:
                if family.version == version:
                    with suppress(OSError):
                        family.send_to(sending.place, sending.datagrams)
                        taken += 1
        if sending.multicast:
            taken += sum(family.send_to_all(sending.datagrams) for family in self._families)
        if not taken:
            self._core.dropped["sent: no interface took it"] += 1

    # The thread

    def _run(self) -> None:
        try:
            self._receive_until_closed()
        finally:
            self._close_sockets()

    def _receive_until_closed(self) -> None:
        changes = open_change_socket()
        with selectors.DefaultSelector() as selector:
            selector.register(self._bell.fileno(), selectors.EVENT_READ)
            for family in self._families:
                selector.register(family.receiver, selectors.EVENT_READ, family.receiver)
                selector.register(family.sender, selectors.EVENT_READ, family.sender)
            if changes is not None:
                selector.register(changes, selectors.EVENT_READ)
            look_at_us = monotonic_us() + self._look_interval_us
            while not self._closed:
                ready = selector.select(max(0, look_at_us - monotonic_us()) / 1e6)
                for key, _ in ready:
                    if key.data is not None:
                        self._read(key.data)
                    elif changes is not None and key.fileobj is changes:
                        with suppress(OSError):
                            while changes.recv(65_536):
                                pass
                        # Changes come in bunches; the addresses of a new interface follow it.
                        look_at_us = min(look_at_us, monotonic_us() + LAN_LOOK_SETTLED_US)
                if monotonic_us() >= look_at_us and not self._closed:
                    self._follow_interfaces()
                    look_at_us = monotonic_us() + self._look_interval_us
        if changes is not None:
            changes.close()

    def _follow_interfaces(self) -> None:
        """See which interfaces there are, and listen on them."""
        interfaces = self._list_interfaces()
        with self._lock:
            if interfaces != self._interfaces:
                self._interfaces = interfaces
                self._is_near.cache_clear()
            for family in self._families:
                family.join(interfaces)

    def _read(self, udp: socket.socket) -> None:
        for _ in range(_READS_PER_TURN):
            try:
                data, place = udp.recvfrom(_DATAGRAM_READ_BYTES)
            except OSError:
                # Nothing left, or the report of a datagram that could not be delivered.
                return
            self._take(data, place)

    def _take(self, data: bytes, place: Place) -> None:
        assert self._core is not None
        assert self._deliver is not None
        if not self._is_near(place[0]):
            with self._lock:
                self._core.dropped["from far away"] += 1
            return
        with self._lock:
            heard = None if self._closed else self._core.handle_datagram(place, data, monotonic_us())
        if heard is None:
            return
        try:
            self._deliver(*heard)
        except Exception:  # noqa: BLE001
            if (more := self._log_limit.note("deliver", monotonic_us())) is not None:
                _log.exception("a signal could not be handed over%s", more)

    def _close_sockets(self) -> None:
        with self._lock:
            families, self._families = self._families, []
            for family in families:
                family.close()
        self._bell.close()
