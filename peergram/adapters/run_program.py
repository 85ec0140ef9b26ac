"""Run a program for UDP over peers, as it is: in this process, with `socket.socket` replaced while it runs.

Only datagram sockets over IPv4 and IPv6 are replaced. One that the program makes is a real socket for addresses that stand for
nobody, and a `PeerSocket` for those that do; what comes in either way waits in one queue. Asyncio's selector loops make theirs by
the same name, so that nothing else needs replacing but the resolution of names that stand for somebody.

Not reached: child processes, programs that are not Python, sockets made in C (uvloop), asyncio's proactor loop on Windows,
classes derived from `socket.socket`, multicast and broadcast to peers.
"""

from __future__ import annotations

import runpy
import select
import selectors
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from struct import Struct
from typing import Any

from peergram.adapters.datagram_network import DatagramNetwork
from peergram.adapters.socket_shim import PeerSocket
from peergram.config import SHIM_CLOSE_US
from peergram.errors import UsageError
from peergram.identity import Identity

_RealSocket = socket.socket
_DATAGRAM_BYTES_MAX = 65_536
_DATAGRAMS_PER_TURN = 64
_KIND_BITS = 0xF
"""Of a socket's type; the others are SOCK_NONBLOCK and SOCK_CLOEXEC of Linux."""
_MSG_ERRQUEUE: int = getattr(socket, "MSG_ERRQUEUE", 0)
_RECVPKTINFO = (socket.IPPROTO_IPV6, getattr(socket, "IPV6_RECVPKTINFO", None))
_PKTINFO = Struct("16sI")
"""An address and the number of its interface; 0 is any."""
_PYTHONS = ("python", "python3")


def run_program(network: DatagramNetwork, arguments: Sequence[str]) -> None:
    """Run `program.py args` or `-m module args` to its end, its threads included; what it raises comes out, SystemExit too.

    A `python` in front is skipped. Raises UsageError if it is no Python program. `network` needs ports.
    """
    words = list(arguments[1:] if arguments and _is_python(arguments[0]) else arguments)
    if not words or (words[0] == "-m" and len(words) < 2):
        raise UsageError("name the program to run, as in: -- python program.py")
    if words[0].startswith("-") and words[0] != "-m":
        raise UsageError(f"{words[0]}: of Python's own options only -m can be used")
    others = set(threading.enumerate())
    with _program_in_place(words), replaced_sockets(network):
        try:
            if words[0] == "-m":
                runpy.run_module(words[1], run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(words[0], run_name="__main__")
        finally:
            _wait_for_threads(others)


def _wait_for_threads(others: set[threading.Thread]) -> None:
    """As Python does at the end of a program: until all threads that it started, and that are no daemons, have ended."""
    while left := [thread for thread in threading.enumerate() if not thread.daemon and thread not in others]:
        left[0].join()


def _is_python(word: str) -> bool:
    name = Path(word).name
    return name in _PYTHONS or (name.startswith("python3.") and name[8:].isdigit())


@contextmanager
def _program_in_place(words: list[str]) -> Iterator[None]:
    """`sys.argv` and `sys.path` as the program finds them when Python itself runs it."""
    argv, path = sys.argv, sys.path[:]
    if words[0] == "-m":
        sys.argv = [words[0], *words[2:]]
        sys.path[0:1] = [""]
    else:
        if not Path(words[0]).exists():
            raise UsageError(f"there is no file {words[0]!r} to run; only Python programs can be run")
        sys.argv = words
        sys.path[0:1] = [str(Path(words[0]).resolve().parent)]
    try:
        yield
    finally:
        sys.argv, sys.path[:] = argv, path


@contextmanager
def replaced_sockets(network: DatagramNetwork) -> Iterator[None]:
    """While this lasts, datagram sockets that others than this library make belong to `network`, too."""
    if not network.has_ports:
        raise UsageError("programs with sockets of their own need a network with ports")
    getaddrinfo, gethostbyname = socket.getaddrinfo, socket.gethostbyname

    def resolved(host: Any) -> Any:
        return (network.book.resolve(host) or host) if isinstance(host, str) else host

    def our_getaddrinfo(host: Any, *args: Any, **options: Any) -> Any:
        return getaddrinfo(resolved(host), *args, **options)

    def our_gethostbyname(host: Any) -> str:
        return gethostbyname(resolved(host))

    outside = _Outside()
    socket.socket = _replacement(network, outside)  # type: ignore[misc]
    socket.getaddrinfo, socket.gethostbyname = our_getaddrinfo, our_gethostbyname
    try:
        yield
    finally:
        socket.socket = _RealSocket  # type: ignore[misc]
        socket.getaddrinfo, socket.gethostbyname = getaddrinfo, gethostbyname
        outside.close()


def _replacement(network: DatagramNetwork, outside: _Outside) -> type[socket.socket]:
    """A class to stand for `socket.socket`: the real one in everything but the datagram sockets it makes."""

    class Kind(type):
        def __call__(cls, family: int = -1, type: int = -1, proto: int = -1, fileno: Any = None) -> Any:  # noqa: A002
            if cls is not Replacement:
                return super().__call__(family, type, proto, fileno)
            is_datagram = (
                type != -1 and type & _KIND_BITS == socket.SOCK_DGRAM and family in (-1, socket.AF_INET, socket.AF_INET6)
            )
            if fileno is not None or not is_datagram or _is_our_own(sys._getframe(1).f_globals):
                return _RealSocket(family, type, proto, fileno)
            return RunSocket(network, outside, socket.AF_INET if family == -1 else family, type, max(proto, 0))

        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, _RealSocket) if cls is Replacement else super().__instancecheck__(instance)

        def __subclasscheck__(cls, subclass: type) -> bool:
            return issubclass(subclass, _RealSocket) if cls is Replacement else super().__subclasscheck__(subclass)

    class Replacement(_RealSocket, metaclass=Kind):
        pass

    Replacement.__name__ = Replacement.__qualname__ = "socket"
    Replacement.__module__ = "socket"
    return Replacement


def _is_our_own(caller: dict[str, Any]) -> bool:
    """Whether this library itself makes the socket, which has to be real."""
    return str(caller.get("__name__", "")).startswith("peergram.")


class RunSocket(PeerSocket):
    """A program's datagram socket: peers for addresses that stand for somebody, a real socket for all others.

    Its port is the real socket's, so that ports are given out, and refused, as ever.
    """

    def __init__(self, network: DatagramNetwork, outside: _Outside, family: int, type: int, proto: int) -> None:  # noqa: A002
        self._outside = outside
        self._real = _RealSocket(family, type, proto)
        self._real.setblocking(False)
        self._binding = threading.Lock()
        self._port = 0
        self._connected_outside = False
        self._wants_pktinfo = False
        super().__init__(network, family, type, proto)
        if type & getattr(socket, "SOCK_NONBLOCK", 0):
            self.setblocking(False)

    # --- names ---

    def bind(self, address: Any, /) -> None:
        self._refuse_if_closed()
        with self._binding:
            self._real.bind(address)
            self._note_port()

    def _note_port(self) -> None:
        """The real socket has a port from now on, which is ours toward peers, too."""
        self._port = self._real.getsockname()[1]
        with suppress(OSError):
            # A port that several sockets share is, to peers, the first one's.
            self.network.attach(self, self._port)
        self._outside.watch(self._real, self)

    def _own_port(self) -> int:
        if not self._port:
            # Several threads may send first.
            with self._binding:
                if not self._port:
                    if not self._real.getsockname()[1]:
                        self._real.bind(("", 0))
                    self._note_port()
        return self._port

    def connect(self, address: Any, /) -> None:
        self._refuse_if_closed()
        found = self._find(address)
        if found is None:
            self._real.connect(address)
            self._peer, self._connected_outside = None, True
        else:
            self._peer, self._connected_outside = found, False
        self._own_port()

    def getsockname(self) -> Any:
        self._refuse_if_closed()
        return self._real.getsockname()

    def getpeername(self) -> Any:
        return self._real.getpeername() if self._connected_outside else super().getpeername()

    # --- datagrams ---

    def _send(self, data: Any, address: Any, flags: int) -> int:
        if address is None:
            is_outside = self._connected_outside
        else:
            is_outside = self._find(address) is None
        if not is_outside:
            return super()._send(data, address, flags)
        self._refuse_if_closed()
        while True:
            try:
                sent = self._real.send(data, flags) if address is None else self._real.sendto(data, flags, address)
                break
            except BlockingIOError:
                timeout_s = self.gettimeout()
                if timeout_s == 0 or flags & getattr(socket, "MSG_DONTWAIT", 0):
                    raise
                if not select.select([], [self._real], [], timeout_s)[1]:
                    raise TimeoutError("timed out") from None
        self._own_port()
        return sent

    def recvmsg(self, bufsize: int, ancbufsize: int = 0, flags: int = 0, /) -> tuple[bytes, list[Any], int, Any]:
        """With the address that it came to (RFC 3542), if the program has asked for that: peers reach whatever was bound."""
        if flags & _MSG_ERRQUEUE:
            return self._real.recvmsg(bufsize, ancbufsize, flags)
        payload, ancillary, found, address = super().recvmsg(bufsize, ancbufsize, flags)
        if ancbufsize and self._wants_pktinfo:
            own = socket.inet_pton(socket.AF_INET6, self._real.getsockname()[0].partition("%")[0])
            ancillary.append((socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, _PKTINFO.pack(own, 0)))
        return payload, ancillary, found, address

    def deliver(self, payload: bytes, sender: Identity, address: tuple[str, int]) -> None:
        if self._connected_outside:
            self.network.dropped += 1
        else:
            super().deliver(payload, sender, address)

    def take_outside(self) -> None:
        """Something came to the real socket."""
        for _ in range(_DATAGRAMS_PER_TURN):
            try:
                payload, address = self._real.recvfrom(_DATAGRAM_BYTES_MAX)
            except BlockingIOError:
                return
            except OSError as error:
                self._note_error(error)
                return
            if self._peer is None:
                self._put(payload, address)

    # --- options and the end ---

    def setsockopt(self, level: int, optname: int, value: Any, optlen: int | None = None, /) -> None:
        if optlen is None:
            self._real.setsockopt(level, optname, value)
            if (level, optname) == _RECVPKTINFO:
                self._wants_pktinfo = bool(value)
        else:
            self._real.setsockopt(level, optname, value, optlen)

    def getsockopt(self, level: int, optname: int, buflen: int = 0, /) -> Any:
        return self._real.getsockopt(level, optname, buflen) if buflen else self._real.getsockopt(level, optname)

    def close(self, wait_s: float = SHIM_CLOSE_US / 1e6) -> None:
        self._outside.forget(self._real)
        self._real.close()
        super().close(wait_s)


class _Outside:
    """A thread that reads the real sockets of a program, once there is one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._selector = selectors.DefaultSelector()
        ours, theirs = socket.socketpair()
        self._woken, self._waker = ours, theirs
        ours.setblocking(False)
        theirs.setblocking(False)
        self._selector.register(ours, selectors.EVENT_READ, None)
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def watch(self, real: socket.socket, reader: RunSocket) -> None:
        with self._lock:
            if self._is_closed or real.fileno() in self._selector.get_map():
                return
            self._selector.register(real, selectors.EVENT_READ, reader)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="peergram-outside", daemon=True)
                self._thread.start()
        self._wake()

    def forget(self, real: socket.socket) -> None:
        """Before it is closed; nothing is read from it once this has returned."""
        with self._lock:
            if not self._is_closed and real.fileno() >= 0 and real.fileno() in self._selector.get_map():
                self._selector.unregister(real)

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
        self._wake()
        if self._thread is not None:
            self._thread.join()
        self._selector.close()
        self._woken.close()
        self._waker.close()

    def _wake(self) -> None:
        """Some selectors see changes only with their next call."""
        with suppress(OSError):
            self._waker.send(b"\0")

    def _run(self) -> None:
        while True:
            ready = self._selector.select()
            with self._lock:
                if self._is_closed:
                    return
                for key, _ in ready:
                    if key.data is None:
                        with suppress(BlockingIOError):
                            self._woken.recv(4_096)
                    elif self._selector.get_map().get(key.fd) is key:
                        key.data.take_outside()
