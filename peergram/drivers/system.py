"""What only the operating system knows: the clock, randomness, addresses of this machine, and when the process forks or ends.

The core gets all of it as plain values. Drivers register here, so that a forked child never sends with its parent's keys (C6) and
a program that forgets to close still ends at once and in silence (O5).
"""

from __future__ import annotations

import atexit
import os
import signal
import socket
import threading
import time
from contextlib import suppress
from typing import Any, Literal, Protocol
from weakref import WeakSet

from peergram.address import canonical_address
from peergram.errors import ClosedError

_EXIT_TIMEOUT_S = 0.8
_EXIT_TIMEOUT_MIN_S = 0.05
# Documentation addresses (RFC 5737, RFC 3849): routed like any other on the internet, and nobody is there.
_ELSEWHERE = {4: (socket.AF_INET, "192.0.2.1"), 6: (socket.AF_INET6, "2001:db8::1")}


class SupportsOptions(Protocol):
    """A socket, or what asyncio shows of one."""

    def setsockopt(self, level: int, option: int, value: int, /) -> None: ...


class SupportsAddresses(Protocol):
    """The same."""

    def getsockname(self) -> Any: ...
    def getpeername(self) -> Any: ...


def monotonic_us() -> int:
    """Microseconds of a clock that never goes back; its zero means nothing."""
    return time.monotonic_ns() // 1000


def wall_offset_us() -> int:
    """What to add to `monotonic_us()` for microseconds since 1970, as of now."""
    return time.time_ns() // 1000 - monotonic_us()


def secure_entropy(byte_count: int) -> bytes:
    """Random bytes fit for keys."""
    return os.urandom(byte_count)


def give_up_unacknowledged(connection: SupportsOptions, after_us: int) -> None:
    """Let a TCP connection end when what it sent is not acknowledged for so long, where the system can; a quarter of an hour is
    usual."""
    if (option := getattr(socket, "TCP_USER_TIMEOUT", None)) is not None:
        with suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, option, after_us // 1_000)


def default_source_host(family: Literal[4, 6]) -> str | None:
    """The address of this machine that packets to the internet come from; None without such a route. Sends nothing."""
    af, elsewhere = _ELSEWHERE[family]
    return source_host(af, (elsewhere, 9))


def source_host(family: int, remote: tuple[Any, ...]) -> str | None:
    """The address of this machine that packets to `remote` come from now; None without a route. Sends nothing."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(remote)
            host, port = probe.getsockname()[:2]
    except OSError:
        return None
    return canonical_address(host, port)[0]


def is_routed_as_before(connection: SupportsAddresses) -> bool:
    """Whether a connection like this one would leave from the same address if it were made now. If not, the network is another
    one, and nobody tells a TCP connection that it is dead."""
    try:
        (host, port), remote = connection.getsockname()[:2], connection.getpeername()
    except OSError:
        return False
    return source_host(socket.AF_INET6 if len(remote) > 2 else socket.AF_INET, remote) == canonical_address(host, port)[0]


def has_family(family: Literal[4, 6]) -> bool:
    """Whether this machine can bind UDP sockets of IPv4 or IPv6 (its loopback address at least)."""
    af, host = (socket.AF_INET, "127.0.0.1") if family == 4 else (socket.AF_INET6, "::1")
    try:
        with socket.socket(af, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))
    except OSError:
        return False
    return True


def raised_by_signal_handler(error: BaseException) -> bool:
    """Whether a handler of the program raised this, and not the code of ours that it interrupted.

    Handlers run in the main thread, anywhere in it; an alarm that raises must get out of whatever waits.
    """
    if threading.current_thread() is not threading.main_thread():
        return False
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    plain = [getattr(handler, "__func__", handler) for handler in handlers if callable(handler)]
    codes = [getattr(each, "__code__", None) or getattr(type(each).__call__, "__code__", None) for each in plain]
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code in codes:
            return True
        traceback = traceback.tb_next
    return False


class RefusingLock:
    """Stands in for the lock of an endpoint that must not be used here any more: whoever takes it gets a ClosedError."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __enter__(self) -> None:
        raise ClosedError(self._text)

    def __exit__(self, *_: object) -> None: ...


class ProcessBound(Protocol):
    """Something that must hear about fork and exit."""

    def close(self, timeout_s: float) -> None:
        """End within `timeout_s`; harmless when repeated."""

    def abandon(self) -> None:
        """In a forked child: drop every descriptor, touch nothing that is shared with the parent, refuse all further work."""


_alive: WeakSet[ProcessBound] = WeakSet()


def watch_process(driver: ProcessBound) -> None:
    """Have `driver` told about fork and exit for as long as it lives."""
    _alive.add(driver)


def _abandon_all() -> None:
    for driver in list(_alive):
        driver.abandon()


def _close_all() -> None:
    until_s = time.monotonic() + _EXIT_TIMEOUT_S
    for driver in list(_alive):
        driver.close(max(_EXIT_TIMEOUT_MIN_S, until_s - time.monotonic()))


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_all)
