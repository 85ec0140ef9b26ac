"""One UDP socket that speaks batches of datagrams.

On Linux one `sendmsg` with `UDP_SEGMENT` carries a run of equal datagrams and one `recvmsg` with `UDP_GRO` returns one (udp(7);
both since 4.18 and 5.0); what that saves is most of the cost of a packet. Elsewhere the same calls send and return datagrams
singly. Whether batches work is found out at run time: the kernel is asked once, and a refusal while sending is answered by
sending singly.

Nothing that the network does is raised (E20): UDP may lose packets, so what could not be sent is counted and forgotten.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from peergram.address import Address, canonical_address, format_address
from peergram.config import CONNECTIONS_MAX
from peergram.drivers.ipv6 import address_from_ipv6, ipv6_from_address
from peergram.errors import AddressInUseError, PeergramError, UsageError

Batch = tuple[bytes, int, Address]
"""Datagrams of one source laid end to end, the length of each but the last, the source."""

RECEIVE_CALLS_MAX = 64
"""System calls of one `receive` (E3)."""
RECEIVE_BYTES = 65_536
"""`receive` stops once it holds this much, so that acknowledgements of it need not wait for more."""
SEGMENTS_MAX = 64
"""Datagrams in one UDP_SEGMENT call (UDP_MAX_SEGMENTS of older kernels)."""
SEGMENTED_BYTES_MAX = 65_507
"""Bytes in one UDP_SEGMENT call: what fits one IPv4 packet."""
DATAGRAM_BYTES_LIMIT = 65_535
"""Room for the largest datagram there is."""
BUFFER_BYTES = 4 << 20
"""Kernel buffers asked for: about 40 ms at 100 MB/s. The system may grant less."""
ADDRESSES_CACHED = CONNECTIONS_MAX
"""Addresses remembered in the system's form; with fewer than an endpoint may have peers, every packet would be looked up anew."""
RECEIVE_ERRORS_MAX = 1_000
"""A socket that only errs this often in a row is broken."""

_SOL_UDP, _UDP_SEGMENT, _UDP_GRO = 17, 103, 104
# ip(7), ipv6(7): send with the DF bit and ignore what ICMP said.
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE = 10, 23, 3
_CONTROL_BYTES = 64
_AF = {4: socket.AF_INET, 6: socket.AF_INET6}

# A segmented send that fails so may succeed singly; any other error means that its packets are lost.
BATCHING_REFUSED = {errno.EIO, errno.EINVAL, errno.EMSGSIZE, errno.ENOPROTOOPT, errno.EOPNOTSUPP, errno.ENOSYS}
# Of these the route is the cause (a small MTU, a wrong port), so they say nothing about other destinations.
ROUTE_REFUSED = {errno.EINVAL, errno.EMSGSIZE}

MakeSocket = Callable[[int, int], socket.socket]


@dataclass(slots=True)
class SocketCounters:
    """What one socket did since it was opened."""

    datagrams_sent: int = 0
    bytes_sent: int = 0
    send_calls: int = 0
    batches_received: int = 0
    bytes_received: int = 0
    empty_received: int = 0
    """Datagrams without a byte; dropped."""
    datagrams_lost: int = 0
    """Datagrams whose sending failed; `send_errors` says why."""
    sends_blocked: int = 0
    """Sends that found the kernel's buffer full."""
    backlog_dropped: int = 0
    """Datagrams given up while waiting for the kernel's buffer."""
    send_errors: dict[str, int] = field(default_factory=dict)
    """Failed system calls by name (`EHOSTUNREACH`), refused batches that then went singly included."""
    receive_errors: dict[str, int] = field(default_factory=dict)


class UdpSocket:
    """A non-blocking UDP socket for batches of datagrams.

    `bind` is a numeric host and port, 0 for any free one; `batching=False` sends and receives singly. Raises AddressInUseError,
    UsageError (that address cannot be bound) or PeergramError (no socket to be had), each with a sentence saying what to do.
    """

    def __init__(
        self, bind: Address, family: Literal[4, 6] = 4, *, batching: bool = True, make_socket: MakeSocket = socket.socket
    ) -> None:
        self.family = family
        self.counters = SocketCounters()
        self._socket = open_udp(bind, family, make_socket)
        self._sends_batches = batching and set_up_segmented_sending(self._socket)
        self._receives_batches = batching and set_up_segmented_receiving(self._socket)
        self._receive_one: Callable[[], tuple[bytes, int, Any]] = self._recvmsg if self._receives_batches else self._recvfrom
        self._singly_to: set[Address] = set()
        self._targets: dict[Address, Any] = {}
        self._sources: dict[Any, Address] = {}
        self._segment_control: dict[int, list[tuple[int, int, bytes]]] = {}
        self._errors_in_a_row = 0
        self._probe_option = _probe_option(self._socket, family)
        host, port = self._socket.getsockname()[:2]
        self.local: Address = canonical_address(host, port)
        """Where it is bound."""

    @property
    def sends_batches(self) -> bool:
        """Whether runs of datagrams go in one system call."""
        return self._sends_batches

    @property
    def receives_batches(self) -> bool:
        """Whether one system call may return several datagrams."""
        return self._receives_batches

    @property
    def broken(self) -> bool:
        """Whether reading has failed so often that it will not recover."""
        return self._errors_in_a_row >= RECEIVE_ERRORS_MAX

    def fileno(self) -> int:
        """The descriptor to wait for; -1 once closed."""
        return self._socket.fileno()

    def close(self) -> None:
        """Give the port back; harmless when repeated."""
        self._socket.close()

    # Receiving

    def receive(self, calls_max: int = RECEIVE_CALLS_MAX, bytes_max: int = RECEIVE_BYTES) -> tuple[list[Batch], int]:
        """What has arrived, and how many of the `calls_max` system calls are left; 0 left also when nothing more waits.

        Stops early once it holds `bytes_max`. Empty datagrams and errors cost a call each and are only counted.
        """
        batches: list[Batch] = []
        room = bytes_max
        while calls_max > 0 and room > 0:
            calls_max -= 1
            try:
                data, segment_bytes, source = self._receive_one()
            except BlockingIOError:
                self._errors_in_a_row = 0
                calls_max = 0
                break
            except OSError as error:
                self._errors_in_a_row += 1
                count_error(self.counters.receive_errors, error)
                continue
            if not data:
                self.counters.empty_received += 1
                continue
            room -= len(data)
            batches.append((data, segment_bytes, source if self.family == 4 else self._source(source)))
        if batches:
            self._errors_in_a_row = 0
            self.counters.batches_received += len(batches)
            self.counters.bytes_received += bytes_max - room
        return batches, calls_max

    def _recvmsg(self) -> tuple[bytes, int, Any]:
        data, control, _, source = self._socket.recvmsg(DATAGRAM_BYTES_LIMIT, _CONTROL_BYTES)
        for level, kind, value in control:
            if level == _SOL_UDP and kind == _UDP_GRO:
                return data, int.from_bytes(value[:4], sys.byteorder), source
        return data, len(data), source

    def _recvfrom(self) -> tuple[bytes, int, Any]:
        data, source = self._socket.recvfrom(DATAGRAM_BYTES_LIMIT)
        return data, len(data), source

    def _source(self, source: tuple[str, int, int, int]) -> Address:
        address = self._sources.get(source)
        if address is None:
            if len(self._sources) >= ADDRESSES_CACHED:
                self._sources.clear()
            address = self._sources[source] = address_from_ipv6(source)
        return address

    # Sending

    def send_batch(self, packets: list[bytes], remote: Address) -> int:
        """Send in order; returns how many packets are done with, fewer than given only when the kernel's buffer is full.

        Done with includes lost: see `counters`. What is left may be offered again once the socket is writable.
        """
        target = remote if self.family == 4 else self._target(remote)
        if len(packets) == 1 or not self._sends_batches or remote in self._singly_to:
            return self._send_singly(packets, target)
        done = 0
        while done < len(packets):
            end = run_end(packets, done)
            run = packets if end - done == len(packets) else packets[done:end]
            sent = self._send_run(run, target, remote)
            done += sent
            if sent < len(run):
                break
        return done

    def send_probe(self, packet: bytes, remote: Address) -> None:
        """Send one datagram that must pass unfragmented or not at all; without a word where this system cannot do that."""
        if self._probe_option is None:
            return
        level, option, value, usual = self._probe_option
        try:
            self._socket.setsockopt(level, option, value)
        except OSError:
            self._probe_option = None
            return
        try:
            self._send_singly([packet], remote if self.family == 4 else self._target(remote))
        finally:
            self._socket.setsockopt(level, option, usual)

    def _send_run(self, run: list[bytes], target: Any, remote: Address) -> int:
        if len(run) == 1:
            return self._send_singly(run, target)
        control = self._segment_control.get(len(run[0])) or self._make_control(len(run[0]))
        data = b"".join(run)
        try:
            self._socket.sendmsg([data], control, 0, target)
        except BlockingIOError:
            self.counters.sends_blocked += 1
            return 0
        except OSError as error:
            count_error(self.counters.send_errors, error)
            if error.errno not in BATCHING_REFUSED:
                self.counters.datagrams_lost += len(run)
                return len(run)
            self._stop_batching(error, remote)
            return self._send_singly(run, target)
        self.counters.send_calls += 1
        self.counters.datagrams_sent += len(run)
        self.counters.bytes_sent += len(data)
        return len(run)

    def _send_singly(self, packets: list[bytes], target: Any) -> int:
        counters = self.counters
        for done, packet in enumerate(packets):
            try:
                self._socket.sendto(packet, target)
            except BlockingIOError:
                counters.sends_blocked += 1
                return done
            except OSError as error:
                count_error(counters.send_errors, error)
                counters.datagrams_lost += 1
            else:
                counters.send_calls += 1
                counters.datagrams_sent += 1
                counters.bytes_sent += len(packet)
        return len(packets)

    def _stop_batching(self, error: OSError, remote: Address) -> None:
        if error.errno not in ROUTE_REFUSED:
            self._sends_batches = False
            return
        if len(self._singly_to) >= ADDRESSES_CACHED:
            self._singly_to.clear()
        self._singly_to.add(remote)

    def _make_control(self, segment_bytes: int) -> list[tuple[int, int, bytes]]:
        control = [(_SOL_UDP, _UDP_SEGMENT, struct.pack("=H", segment_bytes))]
        self._segment_control[segment_bytes] = control
        return control

    def _target(self, remote: Address) -> Any:
        target = self._targets.get(remote)
        if target is None:
            if len(self._targets) >= ADDRESSES_CACHED:
                self._targets.clear()
            target = self._targets[remote] = ipv6_from_address(remote)
        return target


def _probe_option(opened: socket.socket, family: int) -> tuple[int, int, int, int] | None:
    """(level, option, value while probing, value before) of what forbids fragments whatever the kernel believes of the path."""
    if not sys.platform.startswith("linux"):
        return None
    level, option = (socket.IPPROTO_IP, _IP_MTU_DISCOVER) if family == 4 else (socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER)
    try:
        return level, option, _PMTUDISC_PROBE, opened.getsockopt(level, option)
    except OSError:
        return None


def run_end(packets: list[bytes], start: int) -> int:
    """The end of the run of equal sizes from `start` on; its last packet may be shorter, but not empty."""
    lengths = list(map(len, packets[start : start + SEGMENTS_MAX]))
    size = lengths[0]
    if size == 0:
        return start + 1
    del lengths[max(1, SEGMENTED_BYTES_MAX // size) :]
    if lengths.count(size) == len(lengths):
        return start + len(lengths)
    count = next(index for index, length in enumerate(lengths) if length != size)
    return start + count + (0 < lengths[count] < size)


def count_error(errors: dict[str, int], error: OSError) -> None:
    name = errno.errorcode.get(error.errno or 0, type(error).__name__)
    errors[name] = errors.get(name, 0) + 1


def open_udp(bind: Address, family: Literal[4, 6], make_socket: MakeSocket = socket.socket) -> socket.socket:
    """A non-blocking socket with large buffers. Raises as `UdpSocket` does."""
    try:
        opened = make_socket(_AF[family], socket.SOCK_DGRAM)
    except OSError as error:
        raise _open_failure(bind, family, error) from error
    try:
        opened.setblocking(False)
        if family == 6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # Without it Windows lets another program of the same user take over a bound port.
        exclusive = getattr(socket, "SO_EXCLUSIVEADDRUSE", None)
        if exclusive is not None:
            opened.setsockopt(socket.SOL_SOCKET, exclusive, 1)
        grow_buffers(opened)
        opened.bind(bind if family == 4 else ipv6_from_address(bind))
    except (OSError, OverflowError) as error:
        opened.close()
        raise _open_failure(bind, family, error) from error
    return opened


def grow_buffers(opened: socket.socket) -> None:
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        # Linux grants what it can; others refuse what is too much.
        for size in (BUFFER_BYTES, BUFFER_BYTES // 4, BUFFER_BYTES // 16):
            try:
                opened.setsockopt(socket.SOL_SOCKET, option, size)
            except OSError:
                continue
            break


def set_up_segmented_sending(opened: socket.socket) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    try:
        # A kernel that does not know the option would ignore the control message and send one giant datagram.
        opened.getsockopt(_SOL_UDP, _UDP_SEGMENT)
    except OSError:
        return False
    return True


def set_up_segmented_receiving(opened: socket.socket) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    try:
        opened.setsockopt(_SOL_UDP, _UDP_GRO, 1)
    except OSError:
        return False
    return True


def _open_failure(bind: Address, family: int, error: Exception) -> PeergramError:
    code = getattr(error, "errno", None)
    # Windows calls a port "forbidden" that another program holds exclusively.
    if code == errno.EADDRINUSE or (sys.platform == "win32" and code == errno.EACCES):
        in_use = AddressInUseError(
            f"UDP port {bind[1]} ({format_address(bind)}) is in use: choose another port, or 0 for any free one"
        )
        in_use.errno = errno.EADDRINUSE
        return in_use
    if code == errno.EADDRNOTAVAIL:
        return UsageError(
            f"{bind[0]} is not an address of this machine: bind one of its own, or {'0.0.0.0' if family == 4 else '::'}"
        )
    if code in (errno.EACCES, errno.EPERM):
        return UsageError(f"no right to bind {format_address(bind)}: choose a port from 1024 on, or 0 for any free one")
    if code in (errno.EMFILE, errno.ENFILE):
        return PeergramError("no file descriptors left for a UDP socket: close some, or raise the limit (ulimit -n)")
    if code == errno.EAFNOSUPPORT:
        return PeergramError(f"this machine has no IPv{family}")
    return UsageError(f"cannot bind {bind[0]!r} port {bind[1]} as IPv{family}: {error}")
