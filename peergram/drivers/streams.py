"""One TCP connection of an endpoint, with TLS or without: to relays and other servers, for networks that let no UDP through.

Nothing here waits: what the kernel does not take at once queues up, within limits, and beyond them whole packets are dropped, the
newest first, as on any full link; so what does arrive is never cut. Nothing is raised either: whatever ends the stream becomes
`failure`, one plain sentence.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
from dataclasses import dataclass

from peergram.address import format_address
from peergram.config import STREAM_CONNECT_US, STREAM_QUEUE_BYTES_MAX
from peergram.drivers.ipv6 import ipv6_from_address
from peergram.drivers.tls import TlsClient
from peergram.io_requests import OpenStream
from peergram.timing import NEVER

STREAM_READ_BYTES = 65_536
"""Bytes of one system call (E3 counts the calls)."""
_UNDER_WAY = {errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EAGAIN}
_REASONS = {
    errno.ECONNREFUSED: "nobody listens there",
    errno.ETIMEDOUT: "nobody answers there",
    errno.ENETUNREACH: "this machine has no route to that network",
    errno.EHOSTUNREACH: "that host cannot be reached",
    errno.EADDRNOTAVAIL: "this machine has no address to reach it from, or no port left",
    errno.EAFNOSUPPORT: "this machine does not speak that kind of address",
    errno.EMFILE: "no file descriptors left: close some, or raise the limit (ulimit -n)",
    errno.ENFILE: "no file descriptors left on this machine",
    errno.EACCES: "this machine forbids it",
    errno.EPERM: "this machine forbids it",
}
_BROKEN = {errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED}


@dataclass(slots=True)
class StreamCounters:
    """What one stream did since it was opened; bytes as the network sees them."""

    bytes_sent: int = 0
    bytes_received: int = 0
    packets_dropped: int = 0
    """Packets given to a stream that was full, or not open."""


class DriverStream:
    """A connection under way, open or over; `stream_id` is what the endpoint calls it."""

    def __init__(self, request: OpenStream, now_us: int) -> None:
        self.stream_id = request.stream_id
        self.counters = StreamCounters()
        self.is_open = False
        """Whether packets may be sent."""
        self.has_opened = False
        """Whether it ever was."""
        self.is_announced = False
        """Whether the endpoint has been told so; kept here for whoever tells it."""
        self.failure: str | None = None
        """Why it is over."""
        self.give_up_at_us = now_us + STREAM_CONNECT_US
        """When to call `give_up`; NEVER once it is open or over."""
        self.has_more = False
        """Whether the latest `receive` left something in the kernel."""
        self._request = request
        self._place = format_address(request.remote)
        self._is_connecting = True
        self._tls: TlsClient | None = None
        self._out = bytearray()
        self._socket: socket.socket | None = None
        self._connect()

    @property
    def needs_tls(self) -> bool:
        """Whether `start_tls` must be called."""
        return self._request.tls_name is not None and self._tls is None and self.failure is None

    @property
    def blocked(self) -> bool:
        """Whether it waits to be written to: to come up, or with bytes the kernel did not take."""
        return self.failure is None and (self._is_connecting or bool(self._out))

    @property
    def queued_bytes(self) -> int:
        """Bytes that wait for the kernel."""
        return len(self._out)

    def fileno(self) -> int:
        """The descriptor to wait for; -1 once closed."""
        return -1 if self._socket is None else self._socket.fileno()

    def start_tls(self, context: ssl.SSLContext) -> None:
        """Go on with TLS, connected already or not."""
        if self.needs_tls:
            self._tls = TlsClient(context, self._request.tls_name or "", self._request.tls_fingerprint)
            self._after_tls(self._tls)

    def send(self, packets: list[bytes]) -> None:
        """Send, or queue behind what waits already, or drop."""
        room = STREAM_QUEUE_BYTES_MAX - len(self._out) if self.is_open else 0
        taken = []
        for packet in packets:
            if len(packet) <= room:
                room -= len(packet)
                taken.append(packet)
        self.counters.packets_dropped += len(packets) - len(taken)
        if not taken:
            return
        data = b"".join(taken)
        if self._tls is None:
            self._out += data
            self._flush()
        else:
            self._tls.write(data)
            self._after_tls(self._tls)

    def handle_writable(self) -> None:
        """The connection came up, or failed to, or the kernel takes bytes again."""
        if self._is_connecting:
            self._finish_connecting()
        self._flush()

    def receive(self) -> bytes:
        """What has arrived, decrypted, as far as one system call goes; the stream may be over afterwards."""
        self.has_more = False
        if self._is_connecting:
            # Some systems call a connection that could not be made readable first.
            self._finish_connecting()
        if self._is_connecting or self.failure is not None or self._socket is None:
            return b""
        try:
            data = self._socket.recv(STREAM_READ_BYTES)
        except BlockingIOError:
            return b""
        except OSError as error:
            self._fail_broken(error)
            return b""
        if not data:
            self._fail(f"{self._place} closed the stream")
            return b""
        self.counters.bytes_received += len(data)
        self.has_more = len(data) == STREAM_READ_BYTES
        if self._request.tls_name is None:
            return data
        if self._tls is None:
            self._fail(f"{self._place} does not speak TLS")
            return b""
        plain = self._tls.receive(data)
        self._after_tls(self._tls)
        return plain

    def give_up(self) -> None:
        """It has taken too long to come up."""
        seconds = STREAM_CONNECT_US // 1_000_000
        if self._is_connecting:
            self._fail(f"no TCP connection to {self._place}: no answer within {seconds} s")
        else:
            self._fail(f"{self._place} did not agree on TLS within {seconds} s")

    def refuse(self, text: str) -> None:
        """It cannot come up, for a reason of this machine's."""
        self._fail(f"no TLS with {self._place}: {text}")

    def end(self) -> None:
        """Send what still can be sent; `close` comes next."""
        if self.failure is not None:
            return
        if self._tls is not None and self.is_open:
            self._tls.end()
            self._out += self._tls.take()
        self._flush()
        self.failure = self.failure or "closed"
        self.is_open = False

    def close(self) -> None:
        """Give the descriptor back; harmless when repeated."""
        if self._socket is not None:
            self._socket.close()

    def _connect(self) -> None:
        remote = self._request.remote
        try:
            if ":" in remote[0]:
                self._socket = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
                self._socket.setblocking(False)
                code = self._socket.connect_ex(ipv6_from_address(remote))
            else:
                self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
                self._socket.setblocking(False)
                code = self._socket.connect_ex(remote)
        except (OSError, OverflowError) as error:
            self._fail_to_connect(getattr(error, "errno", None) or errno.EINVAL)
            return
        if code == 0:
            self._handle_connected()
        elif code not in _UNDER_WAY:
            self._fail_to_connect(code)

    def _finish_connecting(self) -> None:
        if self._socket is None or self.failure is not None:
            return
        code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._fail_to_connect(code)
            return
        try:
            self._socket.getpeername()
        except OSError:
            return
        self._handle_connected()

    def _handle_connected(self) -> None:
        assert self._socket is not None, "connected"
        self._is_connecting = False
        try:
            # Packets of other protocols travel here: none should wait for the acknowledgement of the one before.
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            self._fail_broken(error)
            return
        if self._request.tls_name is None:
            self._open()

    def _open(self) -> None:
        self.is_open = self.has_opened = True
        self.give_up_at_us = NEVER

    def _after_tls(self, tls: TlsClient) -> None:
        self._out += tls.take()
        if tls.is_ready and not self.has_opened:
            self._open()
        if tls.failure is not None and self.failure is None:
            # Before the last bytes are sent: that this may fail too is of no interest.
            self.failure = f"{self._place} {tls.failure}"
        self._flush()
        if self.failure is not None:
            self._fail(self.failure)

    def _flush(self) -> None:
        if self._is_connecting or self._socket is None:
            return
        while self._out:
            try:
                sent = self._socket.send(self._out)
            except BlockingIOError:
                return
            except OSError as error:
                self._fail_broken(error)
                return
            self.counters.bytes_sent += sent
            del self._out[:sent]

    def _fail_to_connect(self, code: int) -> None:
        self._fail(f"no TCP connection to {self._place}: {_REASONS.get(code) or os.strerror(code)}")

    def _fail_broken(self, error: OSError) -> None:
        if error.errno in _BROKEN:
            self._fail(f"{self._place} broke the stream off")
        else:
            self._fail(f"the stream to {self._place} broke: {_REASONS.get(error.errno or 0) or error.strerror or error}")

    def _fail(self, text: str) -> None:
        if self.failure is None:
            self.failure = text
        self.is_open = False
        self.give_up_at_us = NEVER
        self._out.clear()
