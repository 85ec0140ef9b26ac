"""To which addresses a relay forwards: an explicit table of those it must not reach (R1).

Whoever may use a relay speaks with its address and from inside its operator's network; so everything that is not plainly another
host of the internet is denied. The table is written out rather than taken from `ipaddress.is_global`, which changes with the
version of Python and knows nothing of addresses that hold other addresses. Such an address is judged by itself and by what it
holds: an IPv4-mapped or NAT64 address leads to the IPv4 host inside it. 6to4 and Teredo addresses, which do the same through
tunnels of others, are denied.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

from peergram.address import Address, canonical_address
from peergram.errors import UsageError

_LOOPBACK: Final = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))
_DENIED_4: Final = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",  # this network; Linux takes 0.0.0.0 for loopback
            "10.0.0.0/8",  # RFC 1918
            "100.64.0.0/10",  # carrier NAT, RFC 6598
            "127.0.0.0/8",  # loopback
            "169.254.0.0/16",  # link-local, where clouds serve their secrets
            "172.16.0.0/12",  # RFC 1918
            "192.0.0.0/24",  # protocol assignments
            "192.88.99.0/24",  # 6to4 relays
            "192.168.0.0/16",  # RFC 1918
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, and broadcast
        ),
    )
)
_DENIED_6: Final = tuple(
    map(
        IPv6Network,
        (
            "::/96",  # unspecified, loopback, IPv4-compatible
            "::ffff:0:0:0/96",  # IPv4-translated, RFC 2765
            "64:ff9b:1::/48",  # local-use NAT64, RFC 8215: where the IPv4 address is, only its operator knows
            "100::/64",  # discard
            "2001::/32",  # Teredo, a tunnel: a datagram may go round between it and the relay (RFC 8656 §21.4)
            "2002::/16",  # 6to4, the same
            "fc00::/7",  # ULA
            "fe80::/10",  # link-local
            "fec0::/10",  # site-local
            "ff00::/8",  # multicast
        ),
    )
)
_MAPPED: Final = IPv6Network("::ffff:0:0/96")
_NAT64: Final = IPv6Network("64:ff9b::/96")


class PeerPolicy:
    """What one relay may send to. `own_hosts` are its own addresses, where it relays and others: of these, only relayed addresses
    of live allocations are reached, for which the caller answers, since one box may serve both sides of a call."""

    def __init__(
        self,
        own_hosts: Iterable[str] = (),
        *,
        allow_loopback: bool = False,
        allow_private: Iterable[str] = (),
        control_ports: Iterable[int] = (),
    ) -> None:
        """Where loopback peers are allowed, any port of this machine is but `control_ports`, where the relay itself listens."""
        self._allow_loopback = allow_loopback
        self._allowed = tuple(_network(text) for text in allow_private)
        self._own = frozenset(ip_address(canonical_address(host, 0)[0]) for host in own_hosts)
        self._control_ports = frozenset(control_ports)

    def allows_host(self, host: str) -> bool:
        """Whether a permission for this host is to be had; says nothing about ports."""
        meanings = _host_meanings(host)
        return bool(meanings) and all(each in self._own or self._allows(each) for each in meanings)

    def is_own(self, host: str) -> bool:
        """Whether a packet to this host may end at the relay's own machine, so that its port matters."""
        return any(each in self._own or each.is_loopback or each.is_unspecified for each in _host_meanings(host))

    def allows(self, peer: Address, *, is_live_relay: bool) -> bool:
        """Whether a datagram may go to `peer`; `is_live_relay`: it is a relayed address of an allocation that exists now."""
        host, port = peer
        if not 0 < port <= 0xFFFF or not self.allows_host(host):
            return False
        if is_live_relay or not self.is_own(host):
            return True
        is_loopback = all(self._is_allowed_loopback(each) for each in _host_meanings(host))
        return is_loopback and port not in self._control_ports

    def _is_allowed_loopback(self, host: IPv4Address | IPv6Address) -> bool:
        return self._allow_loopback and host.is_loopback

    def _allows(self, host: IPv4Address | IPv6Address) -> bool:
        if any(host.version == network.version and host in network for network in self._allowed):
            return True
        if any(host.version == network.version and host in network for network in _LOOPBACK):
            return self._allow_loopback
        if isinstance(host, IPv4Address):
            return not any(host in network for network in _DENIED_4)
        return host.scope_id is None and not any(host in network for network in _DENIED_6)


def _host_meanings(host: str) -> list[IPv4Address | IPv6Address]:
    """None for what is no address."""
    try:
        return _meanings(ip_address(canonical_address(host, 0)[0]))
    except (UsageError, ValueError):
        return []


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        return IPv6Network(text) if ":" in text else IPv4Network(text)
    except ValueError as error:
        raise UsageError(f"{text!r} is no network: write for example 192.168.0.0/16") from error


def _meanings(host: IPv4Address | IPv6Address) -> list[IPv4Address | IPv6Address]:
    """The host, and every IPv4 host that a packet to it may end at."""
    if isinstance(host, IPv4Address):
        return [host]
    packed = host.packed
    if host in _MAPPED:
        return [IPv4Address(packed[12:])]
    if host in _NAT64:
        return [host, IPv4Address(packed[12:])]
    return [host]
