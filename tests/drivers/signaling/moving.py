"""A machine that moves: a watch of interfaces that tells what a test wants, at once."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from peergram.drivers import system
from peergram.drivers.interfaces import InterfaceWatch
from peergram.drivers.socket_watch import ReadableFlag
from peergram.io_requests import InterfaceAddress
from peergram.signaling.reconnect import Reconnect
from peergram.timing import NEVER

Tell = Callable[[list[InterfaceAddress], int], None]


class MovingMachine:
    """`watch` is what services take as `make_watch`; `move` changes the addresses. Whoever lost a connection for another reason
    waits for longer than a test takes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Reconnect, "handle_lost", lambda *_: 60_000_000)
        self._monkeypatch = monkeypatch
        self._number = 0
        self._watches: list[MovingWatch] = []

    def watch(self, tell: Tell, now_us: int) -> InterfaceWatch:
        """One for each service."""
        watch = MovingWatch(tell, now_us, lambda: [InterfaceAddress(f"10.0.0.{self._number + 1}", 24, "eth0", False, None)])
        self._watches.append(watch)
        return watch

    def change(self) -> None:
        """Other addresses, which may concern nobody."""
        self._number += 1
        for watch in self._watches:
            watch.flag.put_up()

    def move(self) -> None:
        """Other addresses, and what is made now leaves from another one."""
        self._monkeypatch.setattr(system, "source_host", lambda _family, _remote: "10.0.0.99")
        self.change()

    @property
    def is_watched(self) -> bool:
        """Whether any service has begun to look."""
        return bool(self._watches)


class MovingWatch(InterfaceWatch):
    """Signs come from a flag instead of the kernel."""

    def __init__(self, tell: Tell, now_us: int, list_them: Callable[[], list[InterfaceAddress]]) -> None:
        super().__init__(tell, now_us, list_them=list_them, with_signs=False)
        self.flag = ReadableFlag()

    def fileno(self) -> int:
        return self.flag.fileno()

    def handle_sign(self, now_us: int) -> bool:
        self.flag.put_down()
        self.due_us = now_us
        return False

    def handle_due(self, now_us: int) -> None:
        super().handle_due(now_us)
        if self.due_us > now_us:
            self.due_us = NEVER

    def close(self) -> None:
        self.flag.close()
