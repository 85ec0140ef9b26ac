"""Waiting for sockets: until one is ready, somebody calls, or the time is over.

`select` rather than `epoll` waits, because Python's `epoll` counts whole milliseconds and pacing needs less.
"""

from __future__ import annotations

import select
import selectors
import socket
import sys
from collections.abc import Iterable
from contextlib import suppress

from peergram.drivers.sockets import Watched

_SELECT_FILENO_END = 1_024
"""`select` takes descriptors below this (FD_SETSIZE)."""

Ready = tuple[Watched, bool]
"""A socket, and whether it can be written to rather than read from."""


class ReadableFlag:
    """A descriptor that is readable exactly while the flag is up; system calls only when that changes."""

    def __init__(self) -> None:
        self._receiver, self._sender = socket.socketpair()
        self._receiver.setblocking(False)
        self._sender.setblocking(False)
        self.is_up = False

    def fileno(self) -> int:
        return self._receiver.fileno()

    def put_up(self) -> None:
        # The byte goes before the flag here too: the other way round, whoever puts it down in between would find no byte, and the
        # one that follows would stay for ever.
        if not self.is_up:
            with suppress(OSError):
                self._sender.send(b"\0")
            self.is_up = True

    def put_down(self) -> None:
        # The byte goes before the flag: whoever puts it up in between is seen by the caller, who looks at the state afterwards.
        if self.is_up:
            with suppress(OSError):
                self._receiver.recv(64)
            self.is_up = False

    def close(self) -> None:
        self._receiver.close()
        self._sender.close()


class SocketWatch:
    """The sockets somebody waits for, and a bell for those who want him back. One thread waits at a time."""

    def __init__(self) -> None:
        self.bell = ReadableFlag()
        self._entries: dict[int, Watched] = {}
        self._reading = [self.bell.fileno()]
        self._writing: list[int] = []
        self._failing: list[int] = []
        self._unlimited: selectors.BaseSelector | None = None

    def watch(self, entries: Iterable[Watched]) -> None:
        """Wait for these from now on: to read, and to write where something waits for that."""
        self._entries = {entry.fileno(): entry for entry in entries}
        self._reading = [self.bell.fileno(), *self._entries]
        self._writing = [fileno for fileno, entry in self._entries.items() if entry.blocked]
        # Windows calls a connection that could not be made exceptional; elsewhere it is writable.
        self._failing = self._writing if sys.platform == "win32" else []
        self._forget_unlimited()
        if max(self._reading) >= _SELECT_FILENO_END and sys.platform != "win32":
            self._unlimited = self._make_unlimited()

    def wait(self, timeout_us: int) -> list[Ready]:
        """What is ready within that time; nothing when the bell rang. The bell is silent afterwards."""
        if self._unlimited is not None:
            ready = [(entry, event) for entry, event in self._select_unlimited(self._unlimited, timeout_us) if entry is not None]
        else:
            readable, writable, failed = select.select(self._reading, self._writing, self._failing, timeout_us / 1e6)
            entries = self._entries
            ready = [(entries[fileno], True) for fileno in (*writable, *failed)]
            ready += [(entries[fileno], False) for fileno in readable if fileno in entries]
        self.bell.put_down()
        return ready

    def close(self) -> None:
        """Give up the bell's descriptors; the sockets are not ours."""
        # Closing a selector closes only its own descriptor; unregistering would reach through a fork into the parent's.
        self._forget_unlimited()
        self.bell.close()

    def _make_unlimited(self) -> selectors.BaseSelector:
        """For processes with very many descriptors, at the price of whole milliseconds."""
        selector = selectors.DefaultSelector()
        selector.register(self.bell.fileno(), selectors.EVENT_READ, None)
        for fileno, entry in self._entries.items():
            selector.register(fileno, selectors.EVENT_READ | (selectors.EVENT_WRITE if entry.blocked else 0), entry)
        return selector

    @staticmethod
    def _select_unlimited(selector: selectors.BaseSelector, timeout_us: int) -> Iterable[tuple[Watched | None, bool]]:
        for key, events in selector.select(timeout_us / 1e6):
            if events & selectors.EVENT_WRITE:
                yield key.data, True
            if events & selectors.EVENT_READ:
                yield key.data, False

    def _forget_unlimited(self) -> None:
        if self._unlimited is not None:
            self._unlimited.close()
            self._unlimited = None
