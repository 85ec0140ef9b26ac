"""What an endpoint asks of its driver: sockets to open and close, datagrams to send."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from peergram.address import Address


class Transmit(NamedTuple):
    """Datagrams for one destination, in order; mostly of equal size, so that one system call can carry them."""

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
