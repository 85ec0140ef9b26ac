"""Parties of a signaling service, and mailboxes for what they get."""

from __future__ import annotations

import queue
from collections.abc import Callable

from peergram.identity import Identity
from peergram.signaling.service import LocalParty, SignalingService

WAIT_S = 10.0
"""Far more than anything here takes."""

Mail = tuple[Identity | None, bytes]


class Mailbox:
    """Takes signals from a service's thread; `get` waits for the next one."""

    def __init__(self) -> None:
        self._arrived: queue.Queue[Mail] = queue.Queue()

    def __call__(self, sender: Identity | None, signal: bytes) -> None:
        self._arrived.put((sender, signal))

    def get(self) -> Mail:
        return self._arrived.get(timeout=WAIT_S)

    @property
    def is_empty(self) -> bool:
        return self._arrived.empty()


def party(name: str) -> LocalParty:
    return LocalParty(Identity.string(name), bytes(32), lambda data: bytes(64))


Join = Callable[[SignalingService, str], Mailbox]
