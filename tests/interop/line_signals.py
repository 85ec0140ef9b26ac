"""Signals over the line protocol of the reference's example server: a client for one turn at a time, and its own small server.

client: str:alice                     who it is, once
client: str:bob 22c1...               to whom, and the signal in hexadecimal
server: str:alice 22c1...             from whom, and the signal

python -m tests.interop.line_signals 203.0.113.2 10000
"""

from __future__ import annotations

import asyncio
import errno
import heapq
import random
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass

_READ_BYTES = 1 << 16
_LINE_BYTES_MAX = 1 << 16
_CONNECT_PAUSE_S = 0.2
_UNACKNOWLEDGED_MS = 1_000
"""After a change of network nobody tells a TCP socket that it is dead."""


@dataclass(frozen=True, slots=True)
class SignalFaults:
    """What becomes of signals on their way to the server."""

    loss_percent: float = 0.0
    duplicate_percent: float = 0.0
    delay_ms: int = 0
    seed: int = 1


class LineClient:
    """One party at the server. `send` may be called by any thread; `step` does the work, and never waits."""

    def __init__(self, server: tuple[str, int], identity: str, faults: SignalFaults | None = None) -> None:
        self._server = server
        self._greeting = f"{identity}\n".encode()
        self._faults = faults or SignalFaults()
        self._chance = random.Random(self._faults.seed)
        self._lock = threading.Lock()
        self._due: list[tuple[float, int, bytes]] = []
        self._count = 0
        self._socket: socket.socket | None = None
        self._connect_at_s = 0.0
        self._out = b""
        self._in = b""

    def send(self, to: str, signal: bytes) -> None:
        """Best effort, as the faults allow."""
        line = f"{to} {signal.hex()}\n".encode()
        with self._lock:
            if self._chance.uniform(0, 100) < self._faults.loss_percent:
                return
            copies = 2 if self._chance.uniform(0, 100) < self._faults.duplicate_percent else 1
            for _ in range(copies):
                self._count += 1
                heapq.heappush(self._due, (time.monotonic() + self._faults.delay_ms / 1_000, self._count, line))

    def step(self) -> list[bytes]:
        """Connect if need be, send what is due; gives the signals that have come."""
        try:
            if self._socket is None:
                self._connect()
            if self._socket is not None:
                self._flush(self._socket)
                return self._read(self._socket)
        except (BlockingIOError, InterruptedError):
            return []
        except OSError:
            self.close()
        return []

    def close(self) -> None:
        """The next step connects anew."""
        if self._socket is not None:
            self._socket.close()
        self._socket, self._out, self._in = None, b"", b""

    def _connect(self) -> None:
        if time.monotonic() < self._connect_at_s:
            return
        self._connect_at_s = time.monotonic() + _CONNECT_PAUSE_S
        self._socket = socket.socket(socket.AF_INET6 if ":" in self._server[0] else socket.AF_INET)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED_MS)
        self._out = self._greeting
        if (code := self._socket.connect_ex(self._server)) not in (0, errno.EINPROGRESS):
            raise OSError(code, "connect")

    def _flush(self, server: socket.socket) -> None:
        with self._lock:
            while self._due and self._due[0][0] <= time.monotonic():
                self._out += heapq.heappop(self._due)[2]
        while self._out:
            # Nothing can be written before the connection stands.
            try:
                sent = server.send(self._out)
            except BlockingIOError:
                return
            self._out = self._out[sent:]

    def _read(self, server: socket.socket) -> list[bytes]:
        if not (got := server.recv(_READ_BYTES)):
            raise ConnectionResetError("the server has closed")
        *lines, self._in = (self._in + got).split(b"\n")
        signals = []
        for line in lines:
            with suppress(ValueError):
                signals.append(bytes.fromhex(line.partition(b" ")[2].decode()))
        return signals


class LineServer:
    """Passes lines on between its clients; a newcomer takes the place of an older client of the same name."""

    def __init__(self) -> None:
        self._clients: dict[str, asyncio.StreamWriter] = {}

    async def serve_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """From the greeting to the end of the connection."""
        name = ""
        try:
            name = (await reader.readline()).decode().strip()
            if before := self._clients.get(name):
                before.close()
            self._clients[name] = writer
            while line := await reader.readline():
                to, _, payload = line.decode().strip().partition(" ")
                if payload and (receiver := self._clients.get(to)):
                    receiver.write(f"{name} {payload}\n".encode())
        except (OSError, ValueError):
            pass
        finally:
            if self._clients.get(name) is writer:
                del self._clients[name]
            writer.close()

    async def run(self, host: str, port: int) -> None:
        """For ever; says so on its standard output once it listens."""
        async with await asyncio.start_server(self.serve_client, host, port, limit=_LINE_BYTES_MAX, reuse_address=True) as server:
            print("listening", flush=True)
            await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(LineServer().run(sys.argv[1], int(sys.argv[2])))
