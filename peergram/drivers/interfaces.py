"""This machine's addresses, and word of their changes.

On Linux the kernel gives a sign of every change through a netlink socket (rtnetlink(7)); elsewhere, and where that is forbidden,
they are listed every now and then. A sign says only that something changed; what, the next list shows.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import NamedTuple

import ifaddr

from peergram.address import canonical_address, is_loopback
from peergram.config import INTERFACES_POLL_US, INTERFACES_SETTLE_US
from peergram.drivers.ipv6 import zone_name
from peergram.io_requests import InterfaceAddress
from peergram.timing import NEVER

if sys.platform == "linux":
    import fcntl

_SIGN_BYTES = 65_536
# linux/rtnetlink.h: RTMGRP_LINK, _IPV4_IFADDR, _IPV4_ROUTE (a gateway may come after the address), _IPV6_IFADDR, _IPV6_ROUTE.
_NETLINK_GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400
_NETLINK_ROUTE = 0
# net/if.h and linux/sockios.h.
_SIOCGIFFLAGS = 0x8913
_IFF_UP = 0x1
# linux/if_addr.h: an address under test cannot be bound yet, one that failed it never; an optimistic one can at once.
_IFA_OPTIMISTIC, _IFA_DADFAILED, _IFA_TENTATIVE = 0x04, 0x08, 0x40
# net/route.h.
_RTF_UP, _RTF_GATEWAY, _RTF_REJECT = 0x1, 0x2, 0x200
_PROC = Path("/proc/net")

Gateways = dict[tuple[str, int], str]
"""By interface and family (4 or 6): the router of the default route."""


class _Route(NamedTuple):
    """A default route; the smallest metric counts."""

    metric: int
    interface: str
    gateway: str


def list_interfaces() -> list[InterfaceAddress]:
    """All addresses of this machine that can be used now, in the system's order. Raises OSError if it does not tell."""
    gateways = default_gateways()
    unusable = _unusable_hosts()
    found: dict[InterfaceAddress, None] = {}
    for adapter in ifaddr.get_adapters():
        if not _is_up(adapter.name):
            continue
        for ip in adapter.ips:
            host = _host(ip.ip)
            if host is not None and host not in unusable:
                family = 6 if ":" in host else 4
                # Linux gives further addresses of an interface names of their own, such as eth0:1.
                gateway = gateways.get((adapter.name.partition(":")[0], family))
                found[InterfaceAddress(host, ip.network_prefix, adapter.nice_name, is_loopback((host, 0)), gateway)] = None
    return list(found)


def default_gateways() -> Gateways:
    """What `/proc/net` says; nothing on other systems."""
    routes = [(4, route) for route in _default_routes_4(_lines("route"))]
    routes += [(6, route) for route in _default_routes_6(_lines("ipv6_route"))]
    gateways: Gateways = {}
    for family, route in sorted(routes, key=lambda each: each[1].metric):
        gateways.setdefault((route.interface, family), route.gateway)
    return gateways


def _default_routes_4(lines: Iterable[list[str]]) -> Iterator[_Route]:
    # Iface Destination Gateway Flags RefCnt Use Metric Mask ...; addresses as the machine's own words.
    for words in lines:
        with suppress(ValueError, IndexError):
            flags = int(words[3], 16)
            if int(words[1], 16) == int(words[7], 16) == 0 and flags & _RTF_UP and flags & _RTF_GATEWAY:
                yield _Route(int(words[6]), words[0], str(IPv4Address(struct.pack("=I", int(words[2], 16)))))


def _default_routes_6(lines: Iterable[list[str]]) -> Iterator[_Route]:
    # Destination, its length, source, its length, next hop, metric, references, use, flags, interface; all hexadecimal.
    for words in lines:
        with suppress(ValueError, IndexError):
            flags = int(words[8], 16)
            if (
                int(words[0], 16) == int(words[1], 16) == 0
                and flags & _RTF_UP
                and flags & _RTF_GATEWAY
                and not flags & _RTF_REJECT
            ):
                gateway = IPv6Address(bytes.fromhex(words[4]))
                zone = f"%{words[9]}" if gateway.is_link_local else ""
                yield _Route(int(words[5], 16), words[9], f"{gateway}{zone}")


def _lines(name: str) -> Iterator[list[str]]:
    if sys.platform != "linux":
        return
    with suppress(OSError), (_PROC / name).open(encoding="ascii", errors="replace") as file:
        for line in file:
            yield line.split()


def _unusable_hosts() -> set[str]:
    """IPv6 addresses that cannot be bound, or not yet."""
    hosts = set()
    # Address, interface's number, prefix, scope, flags, interface.
    for words in _lines("if_inet6"):
        with suppress(ValueError, IndexError):
            flags = int(words[4], 16)
            if flags & _IFA_DADFAILED or (flags & _IFA_TENTATIVE and not flags & _IFA_OPTIMISTIC):
                address = IPv6Address(bytes.fromhex(words[0]))
                hosts.add(f"{address}%{words[5]}" if address.is_link_local else str(address))
    return hosts


def _is_up(interface: str) -> bool:
    """Whether it is switched on; addresses stay with those that are not."""
    if sys.platform != "linux":
        return True
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            request = struct.pack("=16sH22x", interface.encode()[:15], 0)
            flags: int = struct.unpack_from("=H", fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request), 16)[0]
    except OSError:
        return True
    return bool(flags & _IFF_UP)


def _host(ip: str | tuple[str, int, int]) -> str | None:
    if isinstance(ip, str):
        return canonical_address(ip, 0)[0]
    host, _, scope_id = ip
    # Only these need a zone; some systems give it with every address.
    is_link_local = IPv6Address(host.partition("%")[0]).is_link_local
    return canonical_address(f"{host.partition('%')[0]}%{zone_name(scope_id)}" if is_link_local and scope_id else host, 0)[0]


class InterfaceWatch:
    """Calls `tell(addresses, now_us)` for the first list and for each that differs from the one before.

    Drivers wait for it as for a socket if it has a descriptor (`has_signs`), and else only for its time.
    """

    def __init__(
        self,
        tell: Callable[[list[InterfaceAddress], int], None],
        now_us: int,
        *,
        list_them: Callable[[], list[InterfaceAddress]] = list_interfaces,
        with_signs: bool = True,
    ) -> None:
        self.due_us = now_us
        """When to call `handle_due` next."""
        self._tell = tell
        self._list_them = list_them
        self._known: list[InterfaceAddress] | None = None
        self._signs = _open_signs() if with_signs else None

    @property
    def has_signs(self) -> bool:
        """Whether the kernel tells of changes."""
        return self._signs is not None

    @property
    def blocked(self) -> bool:
        """Never: there is nothing to write."""
        return False

    def fileno(self) -> int:
        """The descriptor to wait for; -1 if there is none."""
        return -1 if self._signs is None else self._signs.fileno()

    def close(self) -> None:
        """Give the descriptor back; harmless when repeated."""
        if self._signs is not None:
            self._signs.close()

    def handle_sign(self, now_us: int) -> bool:
        """Take one sign of change; whether more may wait."""
        if self._signs is None:
            return False
        try:
            self._signs.recv(_SIGN_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            # Above all ENOBUFS: there were more signs than the kernel kept. That is a sign, too.
            self.due_us = min(self.due_us, now_us + INTERFACES_SETTLE_US)
            return False
        self.due_us = min(self.due_us, now_us + INTERFACES_SETTLE_US)
        return True

    def handle_due(self, now_us: int) -> None:
        """List the addresses if it is time, and tell if they have changed."""
        if now_us < self.due_us:
            return
        self.due_us = now_us + INTERFACES_POLL_US
        try:
            found = self._list_them()
        except OSError:
            # As before, then, or nothing; the next look may fare better.
            found = self._known or []
        else:
            if self._signs is not None:
                self.due_us = NEVER
        if self._known is None or set(found) != set(self._known):
            self._known = found
            self._tell(list(found), now_us)


def _open_signs() -> socket.socket | None:
    if sys.platform != "linux":
        return None
    try:
        signs = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_ROUTE)
    except OSError:
        return None
    try:
        signs.setblocking(False)
        signs.bind((0, _NETLINK_GROUPS))
    except OSError:
        signs.close()
        return None
    return signs
