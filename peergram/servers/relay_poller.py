"""Which of very many sockets can be read or written: epoll itself where there is one, since `selectors` costs more for each
socket than forwarding a packet does, in time and in memory."""

from __future__ import annotations

import select
import selectors
import sys
from typing import Protocol


class Poller(Protocol):
    """Of file descriptors; `wait` may report one that was removed meanwhile."""

    def add(self, fd: int) -> None:
        """Wait until it can be read."""

    def watch_writing(self, fd: int, *, wanted: bool) -> None:
        """And until it can be written, or not any more."""

    def remove(self, fd: int) -> None:
        """Before it is closed."""

    def wait(self, seconds: float) -> list[int]:
        """Those that are ready now, or after so long."""

    def close(self) -> None:
        """The end."""


if sys.platform == "linux":

    class _Epoll:
        def __init__(self) -> None:
            self._epoll = select.epoll()

        def add(self, fd: int) -> None:
            self._epoll.register(fd, select.EPOLLIN)

        def watch_writing(self, fd: int, *, wanted: bool) -> None:
            self._epoll.modify(fd, select.EPOLLIN | (select.EPOLLOUT if wanted else 0))

        def remove(self, fd: int) -> None:
            self._epoll.unregister(fd)

        def wait(self, seconds: float) -> list[int]:
            return [fd for fd, _ in self._epoll.poll(seconds)]

        def close(self) -> None:
            self._epoll.close()


class _Selector:
    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def add(self, fd: int) -> None:
        self._selector.register(fd, selectors.EVENT_READ)

    def watch_writing(self, fd: int, *, wanted: bool) -> None:
        self._selector.modify(fd, selectors.EVENT_READ | (selectors.EVENT_WRITE if wanted else 0))

    def remove(self, fd: int) -> None:
        self._selector.unregister(fd)

    def wait(self, seconds: float) -> list[int]:
        return [key.fd for key, _ in self._selector.select(seconds)]

    def close(self) -> None:
        self._selector.close()


def make_poller(*, with_epoll: bool = True) -> Poller:
    """The best of this system."""
    if sys.platform == "linux" and with_epoll:
        return _Epoll()
    return _Selector()
