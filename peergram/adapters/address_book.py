"""Which `(host, port)` stands for whom: what the user has written down, and fake addresses for everybody else.

`HOST:PORT` is one port of a host, `HOST` alone all of them. Hosts are addresses or names; a peer appears under the address by
which he is written down, or under his fake address if that is a name.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv6Address, ip_address

from peergram.adapters.fake_addresses import FakeAddresses, process_addresses
from peergram.address import PORT_MAX, Address
from peergram.config import SHIM_PORT
from peergram.errors import UsageError
from peergram.identity import Identity


class AddressBook:
    """Addresses to identities and back. `port` is the one of peers whose datagrams carry none and that are not written down."""

    def __init__(
        self, mapped: Mapping[str, str | Identity] | None = None, *, port: int = SHIM_PORT, fakes: FakeAddresses | None = None
    ) -> None:
        """Raises UsageError for what is no address or identity, and for an address that would stand for two."""
        self._port = port
        self._fakes = process_addresses() if fakes is None else fakes
        self._at: dict[tuple[str, int | None], Identity] = {}
        self._shown: dict[Identity, list[tuple[str, int | None]]] = {}
        for text, who in (mapped or {}).items():
            self.add(text, who)

    def add(self, text: str, who: str | Identity) -> None:
        """Have an address stand for somebody, as `10.0.0.2:5683`, `10.0.0.2`, `[2001:db8::1]:53` or `game.example.org:7777`."""
        place, identity = _read_place(text), Identity.of(who)
        known = self._at.setdefault(place, identity)
        if known != identity:
            raise UsageError(f"{text} cannot stand for both {known.printable} and {identity.printable}")
        if _is_number(place[0]):
            self._shown.setdefault(identity, []).append(place)
        else:
            self._shown.setdefault(identity, [])

    def is_mapped(self, identity: Identity) -> bool:
        """Whether somebody was written down."""
        return identity in self._shown

    def identity_at(self, host: str, port: int) -> Identity | None:
        """Whom an address stands for; None if for nobody."""
        host = _plain_host(host)
        found = self._at.get((host, port)) or self._at.get((host, None))
        return found or self._fakes.identity_of(host)

    def resolve(self, name: str) -> str | None:
        """The address to use for a name that was written down; None for all others."""
        name = _plain_host(name)
        if _is_number(name):
            return None
        found = {identity for (host, _), identity in self._at.items() if host == name}
        # Several ports of one name may be several people, and then only the port tells.
        return self._fakes.host_of(found.pop()) if len(found) == 1 else None

    def address_of(self, identity: Identity, port: int | None = None) -> Address:
        """Under which address somebody's datagrams appear: from his port `port` if they carry one.

        Raises UsageError when there is no fake address left.
        """
        whole_host = None
        for host, known_port in self._shown.get(identity, ()):
            if known_port is None:
                whole_host = whole_host or host
            elif port is None or known_port == port:
                return host, known_port
        return whole_host or self._fakes.host_of(identity), self._port if port is None else port


def read_mapping(text: str) -> tuple[str, Identity]:
    """`HOST[:PORT]=IDENTITY` as a person types it. Raises UsageError."""
    place, equals, who = text.partition("=")
    if not (place and equals and who):
        raise UsageError(f"{text!r} names no address and identity: write it as 10.0.0.2:5683=bob")
    _read_place(place)
    return place, Identity.of(who)


def _read_place(text: str) -> tuple[str, int | None]:
    if text.startswith("["):
        host, _, after = text[1:].partition("]")
        colon, port = after[:1], after[1:]
    elif text.count(":") > 1:
        host, colon, port = text, "", ""
    else:
        host, colon, port = text.partition(":")
    if not host or (colon and not (port.isascii() and port.isdigit() and 1 <= int(port[:6]) <= PORT_MAX)):
        raise UsageError(f"{text!r} is no address: write it as 10.0.0.2:5683, 10.0.0.2, [2001:db8::1]:53 or example.org:7777")
    return _plain_host(host), int(port) if colon else None


def _plain_host(host: str) -> str:
    """One way to write each host; an IPv4 address in IPv6 clothes is that IPv4 address."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host.lower().rstrip(".")
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return str(address)


def _is_number(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
