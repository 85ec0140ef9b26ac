"""`PeerSocket`: what `socket.socket(AF_INET, SOCK_DGRAM)` is, with peers at the other end instead of machines.

It *is* a `socket.socket`, of a pair whose other end the network holds: a byte lies in it exactly while datagrams wait in the
queue. So blocking, time-outs, `select`, `selectors` and interruption by signals are the operating system's own.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from collections import deque
from contextlib import suppress
from typing import Any, Never

from peergram.adapters.datagram_network import DatagramNetwork
from peergram.address import Address
from peergram.config import SHIM_CLOSE_US, SHIM_QUEUE_BYTES_MAX, SHIM_QUEUE_DATAGRAMS_MAX
from peergram.errors import UsageError
from peergram.identity import Identity
from peergram.messages import Messages

_MARK = b"\0"
_MSG_DONTWAIT: int = getattr(socket, "MSG_DONTWAIT", 0)
_MSG_TRUNC: int = getattr(socket, "MSG_TRUNC", 0)


class PeerSocket(socket.socket):
    """A datagram socket over a network of peers. May be used from several threads, as a socket may.

    Where an address is expected a peer's name will do, too (`sock.sendto(b"hi", "bob")`).
    """

    def __init__(
        self,
        network: DatagramNetwork | Messages,
        family: int = socket.AF_INET,
        type: int = socket.SOCK_DGRAM,  # noqa: A002
        proto: int = 0,
    ) -> None:
        """Over a `Messages` it is the only socket, and closing it closes that."""
        self._owns_network = isinstance(network, Messages)
        self.network = DatagramNetwork(network) if isinstance(network, Messages) else network
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        self._theirs = theirs
        self._shown_family, self._shown_proto = socket.AddressFamily(family), proto
        self._lock = threading.Lock()
        self._queue: deque[tuple[bytes, Address]] = deque()
        self._queued_bytes = 0
        self._has_ended = False
        self._peer: tuple[Identity, int] | None = None
        self._error: OSError | None = None
        self._options: dict[tuple[int, int], int | bytes] = {}
        self._bound: tuple[str, int] | None = None
        super().__init__(ours.family, ours.type, ours.proto, fileno=ours.detach())
        try:
            self._attach()
        except BaseException:
            self.close()
            raise

    def _attach(self) -> None:
        if not self.network.has_ports:
            self.network.attach(self)

    # --- what it looks like ---

    @property
    def family(self) -> socket.AddressFamily:
        return self._shown_family

    @property
    def type(self) -> socket.SocketKind:
        return socket.SOCK_DGRAM

    @property
    def proto(self) -> int:
        return self._shown_proto

    def __repr__(self) -> str:
        state = "closed" if self.fileno() < 0 else f"of {self.network.net.identity.printable}"
        return f"<PeerSocket {state}>"

    def identity_at(self, address: Any) -> Identity:
        """Whom an address that this socket returned stands for. Raises OSError if nobody."""
        return self._whom(address)[0]

    # --- the network's side ---

    def room(self) -> int:
        """Of datagrams of usual size; one is always taken into an empty queue."""
        with self._lock:
            return 0 if self._queued_bytes >= SHIM_QUEUE_BYTES_MAX else SHIM_QUEUE_DATAGRAMS_MAX - len(self._queue)

    def deliver(self, payload: bytes, sender: Identity, address: Address) -> None:
        """Into the queue, if it is from whom we are connected to."""
        peer = self._peer
        if peer is not None and (peer[0] != sender or (self.network.has_ports and peer[1] != address[1])):
            self.network.dropped += 1
            return
        self._put(payload, address)

    def _put(self, payload: bytes, address: Any) -> None:
        with self._lock:
            is_full = len(self._queue) >= SHIM_QUEUE_DATAGRAMS_MAX or self._queued_bytes >= SHIM_QUEUE_BYTES_MAX
            if self._has_ended or (is_full and not self.network.reliable):
                self.network.dropped += 1
                return
            self._queue.append((payload, address))
            self._queued_bytes += len(payload)
            if len(self._queue) == 1 and self._error is None:
                self._theirs.send(_MARK)

    def fail(self, identity: Identity, error: OSError) -> None:
        """As for UDP, only who is connected hears of it: once, instead of the next datagram."""
        if self._peer is not None and self._peer[0] == identity:
            self._note_error(error)

    def _note_error(self, error: OSError) -> None:
        with self._lock:
            if not self._has_ended:
                if not self._queue and self._error is None:
                    self._theirs.send(_MARK)
                self._error = error

    def hang_up(self) -> None:
        """The end of the socket pair is readable for ever, so that nobody waits for what will not come."""
        with self._lock:
            self._has_ended = True
            self._theirs.close()

    # --- sending ---

    def sendto(self, data: Any, *where: Any) -> int:
        """`sendto(data, address)` or `sendto(data, flags, address)`."""
        if not 1 <= len(where) <= 2:
            raise TypeError(f"sendto() takes 2 or 3 arguments ({1 + len(where)} given)")
        return self._send(data, where[-1], where[0] if len(where) == 2 else 0)

    def send(self, data: Any, flags: int = 0, /) -> int:
        return self._send(data, None, flags)

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        self._send(data, None, flags)

    def sendmsg(self, buffers: Any, ancdata: Any = (), flags: int = 0, address: Any = None, /) -> int:
        return self._send(b"".join(buffers), address, flags)

    def _send(self, data: Any, address: Any, flags: int) -> int:
        self._refuse_if_closed()
        payload = bytes(memoryview(data))
        to, port = self.destination(address)
        self._send_to_peer(to, port, payload, 0.0 if flags & _MSG_DONTWAIT else self.gettimeout())
        return len(payload)

    def destination(self, address: Any = None) -> tuple[Identity, int]:
        """Whom, and which of his ports, `address` means; None is whom this socket is connected to. Raises OSError."""
        if address is not None:
            return self._whom(address)
        if self._peer is None:
            raise OSError(errno.EDESTADDRREQ, os.strerror(errno.EDESTADDRREQ))
        return self._peer

    def try_send(self, to: Identity, port: int, payload: bytes) -> bool:
        """Send if there is room in the send buffer; whether there was. Raises OSError for what cannot be sent."""
        return self.network.try_send(to, payload, self._own_port(), port)

    def _send_to_peer(self, to: Identity, port: int, payload: bytes, timeout_s: float | None) -> None:
        """What does not fit a full send buffer waits, or is lost on the way if the program does not wait."""
        until_s = None if timeout_s is None else time.monotonic() + timeout_s
        while not self.try_send(to, port, payload):
            if timeout_s == 0:
                if self.network.reliable:
                    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
                self.network.dropped += 1
                return
            left_s = None if until_s is None else max(until_s - time.monotonic(), 0)
            if not self.network.wait_for_room(to, left_s):
                raise TimeoutError("timed out")

    def _own_port(self) -> int:
        return 0

    def _whom(self, address: Any) -> tuple[Identity, int]:
        found = self._find(address)
        if found is None:
            raise OSError(errno.EHOSTUNREACH, f"{os.strerror(errno.EHOSTUNREACH)}: no peer is mapped to {address!r}")
        return found

    def _find(self, address: Any) -> tuple[Identity, int] | None:
        """Whom an address means, and which of his ports; None if it is no peer's."""
        if isinstance(address, str | Identity):
            identity = Identity.of(address)
            return identity, self.network.book.address_of(identity)[1]
        if not (isinstance(address, tuple) and len(address) >= 2 and isinstance(address[0], str) and isinstance(address[1], int)):
            raise TypeError(f"an address is (host, port) or the name of a peer, not {address!r}")
        identity_at = self.network.book.identity_at(address[0], address[1])
        return None if identity_at is None else (identity_at, address[1])

    # --- receiving ---

    def recvfrom(self, bufsize: int, flags: int = 0, /) -> tuple[bytes, Any]:
        payload, address = self._next(flags)
        return payload[:bufsize], address

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        return self._next(flags)[0][:bufsize]

    def recvfrom_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> tuple[int, Any]:
        payload, address = self._next(flags)
        view = memoryview(buffer).cast("B")
        size = min(len(payload), nbytes or len(view), len(view))
        view[:size] = payload[:size]
        return size, address

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        return self.recvfrom_into(buffer, nbytes, flags)[0]

    def recvmsg(self, bufsize: int, ancbufsize: int = 0, flags: int = 0, /) -> tuple[bytes, list[Any], int, Any]:
        payload, address = self._next(flags)
        return payload[:bufsize], [], _MSG_TRUNC if len(payload) > bufsize else 0, address

    def _next(self, flags: int) -> tuple[bytes, Any]:
        """The oldest datagram, waiting for it as the socket's time-out and the flags say."""
        is_peek = bool(flags & socket.MSG_PEEK)
        while True:
            with self._lock:
                self._refuse_if_closed()
                if self._error is not None:
                    error, self._error = self._error, None
                    if not self._queue:
                        super().recv(1)
                    raise error
                if self._queue:
                    payload, address = self._queue[0] if is_peek else self._pop()
                    break
                if self._has_ended:
                    raise OSError(errno.ENETDOWN, os.strerror(errno.ENETDOWN))
            super().recv(1, socket.MSG_PEEK | (flags & _MSG_DONTWAIT))
        if self.network.reliable and not is_peek:
            self.network.note_room()
        return payload, self._shown(address)

    def _pop(self) -> tuple[bytes, Address]:
        payload, address = self._queue.popleft()
        self._queued_bytes -= len(payload)
        if not self._queue:
            # Never waits: the byte lies there for as long as the queue was not empty.
            super().recv(1)
        return payload, address

    def _shown(self, address: Any) -> Any:
        """As the family of this socket writes addresses."""
        if self._shown_family != socket.AF_INET6 or len(address) > 2:
            return address
        host, port = address
        return host if ":" in host else f"::ffff:{host}", port, 0, 0

    # --- names ---

    def bind(self, address: Any, /) -> None:
        """Taken note of: everything for this identity comes here anyway."""
        self._refuse_if_closed()
        if self._bound is not None:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self._bound = (address[0], address[1])

    def connect(self, address: Any, /) -> None:
        """From now on send there, and take datagrams from there only."""
        self._refuse_if_closed()
        self._peer = self._whom(address)

    def connect_ex(self, address: Any, /) -> int:
        try:
            self.connect(address)
        except OSError as error:
            return error.errno or errno.EINVAL
        return 0

    def getsockname(self) -> Any:
        """What was bound, or our own fake address."""
        self._refuse_if_closed()
        host, port = self._bound or ("", 0)
        own = self.network.book.address_of(self.network.net.identity)
        return self._shown((host if host not in ("", "localhost") else own[0], port or own[1]))

    def getpeername(self) -> Any:
        self._refuse_if_closed()
        if self._peer is None:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        identity, port = self._peer
        host, own_port = self.network.book.address_of(identity, port or None)
        return self._shown((host, port or own_port))

    # --- options and the end ---

    def setsockopt(self, level: int, optname: int, value: Any, optlen: int | None = None, /) -> None:
        """Remembered: nothing of what options change about UDP exists here."""
        self._refuse_if_closed()
        self._options[level, optname] = value if isinstance(value, int) else bytes(value or b"")

    def getsockopt(self, level: int, optname: int, buflen: int = 0, /) -> Any:
        self._refuse_if_closed()
        value = self._options.get((level, optname))
        if value is None:
            known = {socket.SO_TYPE: int(socket.SOCK_DGRAM), socket.SO_RCVBUF: SHIM_QUEUE_BYTES_MAX}
            value = known.get(optname, 0) if level == socket.SOL_SOCKET else 0
        if not buflen:
            return value
        return value if isinstance(value, bytes) else value.to_bytes(4, "little", signed=True)[:buflen]

    def shutdown(self, how: int, /) -> None:
        self.getpeername()

    def listen(self, backlog: int = 0, /) -> None:
        self._not_here()

    def accept(self) -> Never:
        self._not_here()

    def dup(self) -> Never:
        self._not_here()

    def detach(self) -> Never:
        self._not_here()

    def _not_here(self) -> Never:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    def _refuse_if_closed(self) -> None:
        if self.fileno() < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    @property
    def is_waited_for(self) -> bool:
        """Whether closing it would wait for datagrams that have not left."""
        return self._owns_network and self.fileno() >= 0 and self.network.has_unsent

    def close(self, wait_s: float = SHIM_CLOSE_US / 1e6) -> None:
        """Sessions go on for the network's other sockets, until it is closed or they are idle. If there can be no others, the
        network is closed with it, for which see `DatagramNetwork.close`."""
        if self.fileno() >= 0:
            self.network.detach(self)
            self.hang_up()
        super().close()
        if self._owns_network:
            with suppress(UsageError):
                self.network.close(wait_s)
