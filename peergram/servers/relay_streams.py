"""Clients of the relay that come by TCP, with TLS or without: their socket, their framing, and what waits for them (R11).

Whether a client speaks TLS, its first byte says, so that one port serves both. What the kernel does not take waits: answers to
requests in front, then what peers sent, of which the oldest is dropped once there is too much of it or it has waited too long. So
a client that reads slowly gets what is new, as by UDP, and costs little.
"""

from __future__ import annotations

import socket
import ssl
from collections import deque
from typing import Final

from peergram import config as limits
from peergram.address import Address
from peergram.errors import WireError
from peergram.wire.stun import OLD_CHANNEL_MAX, StunStream

_TLS_HANDSHAKE: Final = 0x16
_READ_BYTES: Final = 65_536
_OUT_BYTES: Final = 65_536
_TCP_NOTSENT_LOWAT: Final = getattr(socket, "TCP_NOTSENT_LOWAT", None)


class RelayStream:
    """One connection. It is its own client towards the core."""

    __slots__ = (
        *("source", "alone_since_us", "is_known", "is_over", "watches_writing", "dropped"),
        *("_socket", "_context", "_stream", "_tls", "_incoming", "_outgoing", "_is_ready", "_answers", "_data", "_data_bytes"),
        *("_out", "_is_new"),
    )

    def __init__(self, connection: socket.socket, source: Address, context: ssl.SSLContext | None, now_us: int) -> None:
        self.source = source
        self.alone_since_us = now_us
        """Since when it has no allocation."""
        self.is_known = False
        """For the owner: whether it has one. Of a stranger no long messages are taken (R4)."""
        self.is_over = False
        self.watches_writing = False
        """For the owner: whether it waits until this can be written to."""
        self.dropped = 0
        """Packets that waited too long, or were too many."""
        self._socket = connection
        self._context = context
        self._stream = StunStream(OLD_CHANNEL_MAX)
        self._tls: ssl.SSLObject | None = None
        self._incoming: ssl.MemoryBIO | None = None
        self._outgoing: ssl.MemoryBIO | None = None
        self._is_ready = True
        self._is_new = True
        self._answers: deque[bytes] = deque()
        self._data: deque[tuple[int, bytes]] = deque()
        self._data_bytes = 0
        self._out = bytearray()
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if _TCP_NOTSENT_LOWAT is not None:
            # What waits in the kernel grows old where nobody can drop it.
            connection.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, limits.TURN_STREAM_UNSENT_BYTES)

    def fileno(self) -> int:
        """The descriptor to wait for."""
        return self._socket.fileno()

    def close(self) -> None:
        """The end."""
        self.is_over = True
        self._socket.close()

    @property
    def wants_writing(self) -> bool:
        """Whether something waits for the kernel."""
        return bool(self._out or self._answers or self._data) and not self.is_over

    @property
    def waiting(self) -> int:
        """Packets of peers that wait."""
        return len(self._data)

    def receive(self) -> list[bytes]:
        """The messages that are whole now; `is_over` afterwards if nothing more comes, or no message can begin."""
        try:
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return []
        except OSError:
            self.is_over = True
            return []
        if not data:
            self.is_over = True
            return []
        if self._is_new:
            self._is_new = False
            if data[0] == _TLS_HANDSHAKE:
                self._begin_tls()
        if self._tls is not None:
            data = self._decrypt(data)
        try:
            frames = self._stream.handle_data(data) if data else []
        except WireError:
            self.is_over = True
            return []
        if not self.is_known and self._stream.unfinished_bytes > limits.TURN_STREAM_STRANGER_BYTES_MAX:
            self.is_over = True
        return frames

    def send(self, packets: list[bytes], now_us: int, *, is_data: bool) -> None:
        """Send, or let wait, or drop."""
        if self.is_over:
            return
        padded = [packet + bytes(-len(packet) % 4) if len(packet) % 4 else packet for packet in packets]
        if is_data:
            self._data.extend((now_us, packet) for packet in padded)
            self._data_bytes += sum(map(len, padded))
        else:
            self._answers.extend(padded)
            if len(self._answers) > limits.TURN_STREAM_QUEUE_MAX:
                # It asks and does not read.
                self.is_over = True
                return
        self.flush(now_us)

    def flush(self, now_us: int) -> None:
        """Give the kernel what it takes."""
        try:
            while not self.is_over:
                if not self._out:
                    self._fill(now_us)
                if not self._out:
                    return
                sent = self._socket.send(self._out)
                del self._out[:sent]
        except BlockingIOError:
            self._drop_old(now_us)
        except OSError:
            self.is_over = True

    def _fill(self, now_us: int) -> None:
        """The next bytes for the kernel; of a packet all or nothing, so that what arrives is never cut."""
        if self._outgoing is not None:
            self._out += self._outgoing.read()
        if not self._is_ready:
            return
        self._drop_old(now_us)
        room = _OUT_BYTES
        chosen: list[bytes] = []
        while room > 0 and self._answers:
            chosen.append(self._answers.popleft())
            room -= len(chosen[-1])
        while room > 0 and self._data:
            packet = self._data.popleft()[1]
            self._data_bytes -= len(packet)
            chosen.append(packet)
            room -= len(packet)
        if not chosen:
            return
        if self._tls is None:
            self._out += b"".join(chosen)
            return
        assert self._outgoing is not None, "made together"
        try:
            # A record for each: coturn's own client takes one message of a record and loses the others.
            for packet in chosen:
                rest = memoryview(packet)
                while rest:
                    rest = rest[self._tls.write(rest) :]
        except ssl.SSLError:
            self.is_over = True
        self._out += self._outgoing.read()

    def _drop_old(self, now_us: int) -> None:
        data = self._data
        while data and (
            len(data) > limits.TURN_STREAM_QUEUE_MAX
            or self._data_bytes > limits.TURN_STREAM_QUEUE_BYTES_MAX
            or now_us - data[0][0] > limits.TURN_STREAM_QUEUE_US
        ):
            self._data_bytes -= len(data.popleft()[1])
            self.dropped += 1

    # TLS

    def _begin_tls(self) -> None:
        if self._context is None:
            self.is_over = True
            return
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = self._context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._is_ready = False

    def _decrypt(self, data: bytes) -> bytes:
        assert self._tls is not None
        assert self._incoming is not None
        assert self._outgoing is not None
        self._incoming.write(data)
        pieces: list[bytes] = []
        try:
            if not self._is_ready:
                self._tls.do_handshake()
                self._is_ready = True
            while piece := self._tls.read(_READ_BYTES):
                pieces.append(piece)
            self.is_over = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            self.is_over = True
        if self._outgoing.pending > limits.TURN_STREAM_UNSENT_BYTES:
            # Of a client that does not read, and makes TLS itself answer, such as to each KeyUpdate.
            self.is_over = True
        return b"".join(pieces)
