"""Parties with keys, and an inbox that can be waited for."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from random import Random

from peergram.crypto.keys import SigningKey
from peergram.identity import Identity
from peergram.signaling.service import LocalParty

TIMEOUT_S = 10.0


def key_of(name: str) -> SigningKey:
    return SigningKey.generate(Random(name).randbytes)


def party(name: str, key: SigningKey | None = None) -> LocalParty:
    """`alice`, with a key of her own unless another is given; `key` as the name stands for the key itself."""
    key = key or key_of(name)
    identity = Identity.generic_bytes(key.public_bytes) if name == "key" else Identity.of(name)
    return LocalParty(identity, key.public_bytes, key.sign)


class Inbox:
    """A `Deliver` that keeps what came, with the time."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[tuple[Identity | None, bytes]] = SimpleQueue()
        self.came_at_s = 0.0

    def __call__(self, sender: Identity | None, signal: bytes) -> None:
        self.came_at_s = time.perf_counter()
        self._queue.put((sender, signal))

    def next(self, timeout_s: float = TIMEOUT_S) -> tuple[Identity | None, bytes]:
        try:
            return self._queue.get(timeout=timeout_s)
        except Empty:
            raise AssertionError("nothing came") from None

    def all(self) -> list[tuple[Identity | None, bytes]]:
        """Everything that came until now."""
        got = []
        while not self._queue.empty():
            got.append(self._queue.get())
        return got


def wait_until(condition: Callable[[], object], timeout_s: float = TIMEOUT_S) -> None:
    """Another thread makes it true."""
    until_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until_s, "it never happened"
        time.sleep(0.005)


def free_udp_port() -> int:
    """Free a moment ago, at least."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
