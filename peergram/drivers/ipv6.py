"""IPv6 addresses as the operating system's sockets take them, zone included, and back."""

from __future__ import annotations

import socket
import sys
from contextlib import suppress

from peergram.address import Address, canonical_address


def address_from_ipv6(source: tuple[str, int, int, int]) -> Address:
    """What a socket calls it, as we write it."""
    host, port, _, scope_id = source
    if scope_id and "%" not in host:
        host = f"{host}%{zone_name(scope_id)}"
    return canonical_address(host, port)


def zone_name(scope_id: int) -> str:
    """What people of this system write behind the `%`: a number on Windows, the interface's name elsewhere."""
    if sys.platform != "win32":
        with suppress(OSError):
            return socket.if_indextoname(scope_id)
    return str(scope_id)


def ipv6_from_address(address: Address) -> tuple[str, int, int, int]:
    """The inverse of `address_from_ipv6`."""
    host, _, zone = address[0].partition("%")
    return host, address[1], 0, _scope_id(zone) if zone else 0


def _scope_id(zone: str) -> int:
    if zone.isascii() and zone.isdigit():
        return min(int(zone), 0xFFFF_FFFF)
    try:
        return socket.if_nametoindex(zone)
    except OSError:
        return 0
