"""The registry of IP addresses of GodotSteam's scripts, as it was until 4.7: names, and what they stand for.

As in the registry of identities, only `addIPAddress` makes an entry. A name that is not there reads like an empty entry:
`[::]:0`.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final

from peergram.address import Address, address_bytes, canonical_address, format_address, read_reference_address
from peergram.config import GODOT_NAMES_MAX
from peergram.errors import UsageError
from peergram.identity import Identity

_EMPTY: Final[Address] = ("::", 0)
_U32_MAX: Final = (1 << 32) - 1


class AddressRegistry:
    """Names of addresses; what sets one says False, and changes nothing, if there is no such entry or no such address."""

    def __init__(self) -> None:
        self._addresses: dict[str, Address] = {}

    def address_named(self, name: str) -> Address | None:
        """What that name stands for; None if there is no such entry."""
        return self._addresses.get(name)

    def addIPAddress(self, reference_name: str) -> bool:
        """Make an entry, or empty the one of that name; False if the registry is full."""
        if reference_name not in self._addresses and len(self._addresses) >= GODOT_NAMES_MAX:
            return False
        self._addresses[reference_name] = _EMPTY
        return True

    def clearIPAddress(self, reference_name: str) -> bool:
        """Set it to `[::]:0`."""
        return self._set_address(reference_name, *_EMPTY)

    def getIPAddresses(self) -> list[dict[str, Any]]:
        """Every entry: `reference_name`, `localhost`, `ip_address` (as `getIPv4`)."""
        return [
            {"reference_name": name, "localhost": self.isAddressLocalHost(name), "ip_address": self.getIPv4(name)}
            for name in self._addresses
        ]

    def isAddressLocalHost(self, reference_name: str) -> bool:
        """Whether it is ::1 or 127.0.0.1, with any port."""
        return Identity.ip(self._address(reference_name)).is_localhost

    def isIPv4(self, reference_name: str) -> bool:
        """Whether it is an IPv4 address."""
        return ":" not in self._address(reference_name)[0]

    def isIPv6AllZeros(self, reference_name: str) -> bool:
        """Whether it is ::, with any port."""
        return not any(address_bytes(self._address(reference_name))[:16])

    def setIPv4(self, reference_name: str, ip: int, port: int) -> bool:
        """`ip` is a number: 0xAABBCCDD for aa.bb.cc.dd."""
        if type(ip) is not int or not 0 <= ip <= _U32_MAX:
            return False
        return self._set_address(reference_name, str(IPv4Address(ip)), port)

    def getIPv4(self, reference_name: str) -> int:
        """The address as such a number; 0 if it is no IPv4 address."""
        return ipv4_number(self._address(reference_name))

    def setIPv6(self, reference_name: str, ipv6: bytes, port: int) -> bool:
        """`ipv6` is 16 bytes, as they travel; an IPv4 address may be mapped into them."""
        if not isinstance(ipv6, bytes | bytearray | memoryview) or len(ipv6) != 16:
            return False
        return self._set_address(reference_name, str(IPv6Address(bytes(ipv6))), port)

    def setIPv6LocalHost(self, reference_name: str, port: int = 0) -> bool:
        """Set it to ::1 with that port."""
        return self._set_address(reference_name, "::1", port)

    def parseIPAddressString(self, reference_name: str, string_to_parse: str) -> bool:
        """Let it stand for what the text says: an address, and a port if one is there."""
        try:
            text = string_to_parse.encode("utf-8", "replace")
        # What a script passes may have any type.
        except AttributeError:
            return False
        address = None if b"\0" in text else read_reference_address(text)
        return address is not None and self._set_address(reference_name, *address)

    def toIPAddressString(self, reference_name: str, with_port: bool) -> str:
        """As text: `1.2.3.4`, `1.2.3.4:5`, `::1`, `[::1]:5`."""
        address = self._address(reference_name)
        return format_address(address) if with_port else address[0]

    def _address(self, name: str) -> Address:
        return self._addresses.get(name, _EMPTY)

    def _set_address(self, name: str, host: str, port: int) -> bool:
        if name not in self._addresses or type(port) is not int:
            return False
        try:
            self._addresses[name] = canonical_address(host, port)
        except UsageError:
            return False
        return True


def ipv4_number(address: Address) -> int:
    """0xAABBCCDD for aa.bb.cc.dd; 0 for other addresses."""
    host = address[0]
    return 0 if ":" in host else int(IPv4Address(host))
