"""What the core asks of its driver: sockets and streams to open and close, names to resolve, addresses to watch, data to send.

The core numbers sockets and streams itself, all from one row of numbers, so that a `Transmit` needs only the number. Each request
is answered by a `handle_*` of the endpoint; none of them blocks anybody, and none can fail other than by its answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from peergram.address import Address
from peergram.identity import Identity


class Transmit(NamedTuple):
    """Datagrams for one destination, in order; mostly of equal size, so that one system call can carry them.

    For a stream too: `socket_id` is the stream's number then, `remote` means nothing, and the packets are written one behind the
    other.
    """

    socket_id: int
    remote: Address
    packets: list[bytes]
    is_probe: bool = False
    """A single datagram that asks how much the path carries: it must not be fragmented, and may be lost."""


@dataclass(frozen=True, slots=True)
class OpenSocket:
    """Bind a UDP socket; answer with `handle_socket_opened` or `handle_socket_failed`."""

    socket_id: int
    family: Literal[4, 6]
    bind: Address
    """Numeric host and port; port 0 takes a free one."""


@dataclass(frozen=True, slots=True)
class CloseSocket:
    """Close that socket; nothing more will be sent through it."""

    socket_id: int


@dataclass(frozen=True, slots=True)
class OpenStream:
    """Connect to `remote` by TCP; answer with `handle_stream_opened` or `handle_stream_closed`.

    What arrives comes through `handle_stream_data`, as it was cut by the network. `handle_stream_closed` comes once, whatever
    ended the stream before the core itself asked for its end; nothing comes after it.
    """

    stream_id: int
    remote: Address
    tls_name: str | None = None
    """The name whose certificate the server must show, or its numeric address; None: plain TCP."""
    tls_fingerprint: str | None = None
    """SHA-256 of the one certificate to accept (64 hexadecimal digits; colons are ignored), whoever signed it, whatever name it
    carries; for servers with a certificate of their own making. Needs a `tls_name`, too, to ask for TLS."""


@dataclass(frozen=True, slots=True)
class CloseStream:
    """Close that stream, without an answer; what was sent before still goes out as far as the network takes it at once.

    Drivers serve requests before they take transmits: ask for it when the last packets have been taken.
    """

    stream_id: int


@dataclass(frozen=True, slots=True)
class ResolveName:
    """Look up a host name; answer with `handle_name_resolved`: numeric hosts, or none if it could not be done in time."""

    name: str


@dataclass(frozen=True, slots=True)
class InterfaceAddress:
    """One address of this machine."""

    address: str
    """Numeric host in canonical form; link-local IPv6 addresses with their zone."""
    prefix_bits: int
    """How many leading bits its neighbours share with it."""
    interface: str
    """What this system calls it: for people, and to tell two with equal addresses apart."""
    is_loopback: bool
    gateway: str | None = None
    """The router of this interface's default route in the address's family; None without one, or where that is not known."""


@dataclass(frozen=True, slots=True)
class WatchInterfaces:
    """On: answer with `handle_interfaces` at once and after every change of this machine's addresses. Off: no more of it."""

    on: bool


@dataclass(frozen=True, slots=True)
class CallNote:
    """For the next run of this program: it must close this connection if we do not, or no longer needs to."""

    peer: Identity
    connection_id: int
    """Ours."""
    is_live: bool


IoRequest = OpenSocket | CloseSocket | OpenStream | CloseStream | ResolveName | WatchInterfaces
"""Whatever `poll_socket_request` returns."""
