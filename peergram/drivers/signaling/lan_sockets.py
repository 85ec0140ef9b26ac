"""Sockets for the local network's signals: multicast on every interface, loopback first, and what the interfaces are.

Per family there is one socket that multicast is received on, shared by all processes of the machine, and one of our own that
everything is sent from and answers come to.
"""

from __future__ import annotations

import socket
import struct
import sys
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_address, ip_interface

import ifaddr

from peergram.config import LAN_GROUP_4, LAN_GROUP_6, LAN_INTERFACES_MAX
from peergram.signaling.lan_protocol import Place

_IP_MULTICAST_ALL, _IPV6_MULTICAST_ALL = 49, 29
"""<linux/in.h> and <linux/in6.h>."""
_NETLINK_GROUPS = 0x1 | 0x10 | 0x100
"""RTMGRP_LINK, RTMGRP_IPV4_IFADDR and RTMGRP_IPV6_IFADDR of <linux/rtnetlink.h>."""


@dataclass(frozen=True, slots=True)
class LanInterface:
    """One address of this machine and the interface that has it; of each interface the first of each family is used."""

    name: str
    index: int
    network: IPv4Interface | IPv6Interface

    @property
    def address(self) -> IPv4Address | IPv6Address:
        return self.network.ip


def lan_interfaces() -> list[LanInterface]:
    """All addresses of this machine, those of loopback first; empty if the system does not tell."""
    found: list[LanInterface] = []
    with suppress(OSError):
        for adapter in ifaddr.get_adapters():
            for each in adapter.ips:
                host = each.ip if isinstance(each.ip, str) else each.ip[0]
                network = ip_interface(f"{host.partition('%')[0]}/{each.network_prefix}")
                found.append(LanInterface(adapter.name, adapter.index or 0, network))
    return sorted(found, key=lambda each: (not each.address.is_loopback, each.index))


def is_near(host: str, interfaces: list[LanInterface]) -> bool:
    """Whether a datagram from this address came from this machine or its own networks, and not through a router."""
    address = ip_address(host.partition("%")[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback or address.is_link_local or any(address in each.network.network for each in interfaces)


class FamilySockets:
    """Both sockets of one family. Raises OSError when the system has no such family, or does not let us share the port."""

    def __init__(self, version: int, port: int) -> None:
        self.version = version
        self.joined: dict[int, LanInterface] = {}
        """By index, the interfaces that multicast comes from and goes to."""
        self._group = LAN_GROUP_4 if version == 4 else LAN_GROUP_6
        self._port = port
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        self.receiver = socket.socket(family, socket.SOCK_DGRAM)
        self.sender = socket.socket(family, socket.SOCK_DGRAM)
        try:
            self._prepare_receiver()
            self._prepare_sender()
        except OSError:
            self.close()
            raise

    def _prepare_receiver(self) -> None:
        self.receiver.setblocking(False)
        self.receiver.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "SO_REUSEPORT"):
            # BSD and macOS share a port by this; Linux by either.
            self.receiver.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if sys.platform == "linux":
            # Or a socket would also receive what only other sockets of this machine have joined.
            option = (socket.IPPROTO_IP, _IP_MULTICAST_ALL) if self.version == 4 else (socket.IPPROTO_IPV6, _IPV6_MULTICAST_ALL)
            with suppress(OSError):
                self.receiver.setsockopt(*option, 0)
        if self.version == 6:
            self.receiver.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            self.receiver.bind(("::", self._port))
        else:
            # Bound to the group, so that of several processes none gets what was meant for the port of another program.
            self.receiver.bind(("" if sys.platform == "win32" else self._group, self._port))

    def _prepare_sender(self) -> None:
        self.sender.setblocking(False)
        if self.version == 6:
            self.sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            self.sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 1)
            self.sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 1)
            self.sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 1)
            self.sender.bind(("::", 0))
        else:
            self.sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
            self.sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
            self.sender.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 1)
            self.sender.bind(("", 0))

    def join(self, interfaces: list[LanInterface]) -> None:
        """Listen on these, and no longer on others; those that refuse are left out."""
        wanted: dict[int, LanInterface] = {}
        for each in interfaces:
            if each.address.version == self.version and len(wanted) < LAN_INTERFACES_MAX:
                wanted.setdefault(each.index, each)
        for index, each in list(self.joined.items()):
            if wanted.get(index) != each:
                self._set_membership(each, join=False)
                del self.joined[index]
        for index, each in wanted.items():
            if index not in self.joined and self._set_membership(each, join=True):
                self.joined[index] = each

    def _set_membership(self, interface: LanInterface, *, join: bool) -> bool:
        try:
            if self.version == 4:
                option = socket.IP_ADD_MEMBERSHIP if join else socket.IP_DROP_MEMBERSHIP
                request = socket.inet_aton(self._group) + interface.address.packed
                self.receiver.setsockopt(socket.IPPROTO_IP, option, request)
            else:
                option = socket.IPV6_JOIN_GROUP if join else socket.IPV6_LEAVE_GROUP
                request = socket.inet_pton(socket.AF_INET6, self._group) + struct.pack("@I", interface.index)
                self.receiver.setsockopt(socket.IPPROTO_IPV6, option, request)
        except OSError:
            return False
        return True

    def send_to_all(self, datagrams: list[bytes]) -> int:
        """By multicast on every interface; how many of them took it."""
        taken = 0
        for interface in list(self.joined.values()):
            with suppress(OSError):
                if self.version == 4:
                    self.sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, interface.address.packed)
                    place: Place = (self._group, self._port)
                else:
                    place = (self._group, self._port, 0, interface.index)
                self.send_to(place, datagrams)
                taken += 1
        return taken

    def send_to(self, place: Place, datagrams: list[bytes]) -> None:
        """To one socket, or by multicast on the interface set; raises OSError."""
        for datagram in datagrams:
            self.sender.sendto(datagram, place)

    def close(self) -> None:
        """Give both sockets up."""
        self.receiver.close()
        self.sender.close()


def open_families(port: int) -> tuple[list[FamilySockets], str]:
    """What of IPv4 and IPv6 this machine has, and why something is missing."""
    families: list[FamilySockets] = []
    why = ""
    for version in (4, 6):
        try:
            families.append(FamilySockets(version, port))
        except OSError as error:
            why = error.strerror or str(error)
    return families, why


def open_change_socket() -> socket.socket | None:
    """Readable whenever an address or interface appears or vanishes; None where the system has no such thing."""
    if sys.platform != "linux":
        return None
    try:
        changes = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    except OSError:
        return None
    try:
        changes.setblocking(False)
        changes.bind((0, _NETLINK_GROUPS))
    except OSError:
        changes.close()
        return None
    return changes
