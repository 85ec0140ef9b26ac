"""Network addresses as plain tuples, and their text.

An `Address` is (numeric host, UDP port). There is one way to write each host: dotted IPv4 (an IPv4-mapped IPv6 address is that
IPv4 address), else compressed lower-case IPv6 with its zone, if it has one, behind a `%`. Equal addresses are equal tuples.

Two readers: `parse_address` for what a person types, strict; `read_reference_address` for the text inside `ip:` identities, as
lenient as `SteamNetworkingIPAddr::ParseString` of the reference, so that both libraries understand the same texts the same way.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network

from peergram.errors import UsageError

Address = tuple[str, int]
"""(numeric host, port), as `canonical_address` writes it."""

PORT_MAX = 65_535
_HOSTS_CACHED = 4_096
_PORT_TEXT = re.compile("[0-9]{1,5}")
_MAPPED_PREFIX = bytes(10) + b"\xff\xff"
_LOCAL_NETWORKS_4 = [IPv4Network(net) for net in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16")]
_LOCAL_NETWORKS_6 = [IPv6Network(net) for net in ("fc00::/7", "fe80::/10")]


def parse_address(text: str, default_port: int | None = None) -> Address:
    """Read `1.2.3.4:27015`, `[fe80::1%eth0]:27015`, or with a default port also a bare host.

    Raises UsageError for anything else: host names, missing ports, ports above 65535.
    """
    host, port_text = _split_port(text.strip())
    if port_text is None:
        if default_port is None:
            raise UsageError(f"{text!r} has no port: write it as '1.2.3.4:27015' or '[2001:db8::1]:27015'")
        return _canonical_host(host), _checked_port(default_port)
    if not _PORT_TEXT.fullmatch(port_text) or int(port_text) > PORT_MAX:
        raise UsageError(f"{text!r}: the port must be a whole number from 0 to {PORT_MAX}")
    return _canonical_host(host), int(port_text)


def _split_port(text: str) -> tuple[str, str | None]:
    if text.startswith("["):
        host, closed, after = text[1:].partition("]")
        if not closed or after[:1] not in ("", ":"):
            raise _bad_address(text)
        return host, after[1:] if after else None
    host, colon, port_text = text.rpartition(":")
    return (host, port_text) if colon and ":" not in host else (text, None)


def format_address(address: Address) -> str:
    """The text that `parse_address` reads back: `1.2.3.4:5` or `[::1]:5`."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def canonical_address(host: str, port: int) -> Address:
    """The one way to write this address; cheap enough for every packet. Raises UsageError if the host is not numeric."""
    return _canonical_host(host), _checked_port(port)


def address_bytes(address: Address) -> bytes:
    """18 bytes: 16 address bytes (IPv4 as ::ffff:a.b.c.d, no zone), then the port big-endian."""
    return _host_bytes(address[0]) + address[1].to_bytes(2, "big")


def address_from_bytes(data: bytes) -> Address:
    """The inverse of `address_bytes`, for exactly 18 bytes."""
    assert len(data) == 18, "16 address bytes and a port"
    return _host_text(data[:16]), int.from_bytes(data[16:], "big")


def is_loopback(address: Address) -> bool:
    """Whether packets to this address stay on this machine (127.0.0.0/8, ::1)."""
    return _parsed_host(address[0]).is_loopback


def is_local(address: Address) -> bool:
    """Whether this is a private or link-local address, reachable only nearby (RFC 1918, 3927, 4193, 4291); loopback is not."""
    host = _parsed_host(address[0])
    if isinstance(host, IPv4Address):
        return any(host in network for network in _LOCAL_NETWORKS_4)
    return any(host in network for network in _LOCAL_NETWORKS_6)


@lru_cache(_HOSTS_CACHED)
def _parsed_host(host: str) -> IPv4Address | IPv6Address:
    try:
        if ":" not in host:
            return IPv4Address(host)
        address = IPv6Address(host)
    except AddressValueError as error:
        raise _bad_address(host) from error
    return address.ipv4_mapped or address


@lru_cache(_HOSTS_CACHED)
def _canonical_host(host: str) -> str:
    return str(_parsed_host(host))


@lru_cache(_HOSTS_CACHED)
def _host_bytes(host: str) -> bytes:
    packed = _parsed_host(host).packed
    return packed if len(packed) == 16 else _MAPPED_PREFIX + packed


def _host_text(data: bytes) -> str:
    return str(IPv4Address(data[12:]) if data.startswith(_MAPPED_PREFIX) else IPv6Address(data))


def _checked_port(port: int) -> int:
    if not 0 <= port <= PORT_MAX:
        raise UsageError(f"port {port}: must be from 0 to {PORT_MAX}")
    return port


def _bad_address(text: str) -> UsageError:
    return UsageError(
        f"{text!r} is not a numeric address: write '1.2.3.4:27015' or '[2001:db8::1]:27015', and look host names up first"
    )


# The reference's reading. IPv4 first, with the C library's number reading (white space, signs, 32-bit wrap) and any trailing
# text; then IPv6, with several ways to append a port.

_C_NUMBER = rb"[ \t\n\v\f\r]*([+-]?[0-9]+)"
_IPV4 = re.compile(rb"\.".join([_C_NUMBER] * 4) + rb"(?::" + _C_NUMBER + rb")?")
_GROUP = re.compile(rb"([0-9a-fA-F]{1,4})(?![0-9a-fA-F])")
_DOTTED_TAIL = re.compile(rb"([0-9]{1,3})\.([0-9]{1,3})\.([0-9]{1,3})\.([0-9]{1,3})(?![0-9])")
_ZONE = re.compile(rb"%[0-9]+(?=[ \t\]]|\Z)")
_BLANKS = re.compile(rb"[ \t]*")
_PORT = re.compile(rb"(?:[ \t]+port[ \t]*|([:#.pP]))([0-9]+)[ \t]*\Z")


def read_reference_address(text: bytes) -> Address | None:
    """What the reference understands by `text` (no NUL in it), port 0 if it names none; None if it refuses. Zones are dropped."""
    if match := _IPV4.match(text):
        numbers = [_c_int(number) for number in match.groups(b"0")]
        if max(numbers[:4]) <= 255 and numbers[4] <= PORT_MAX:
            return ".".join(map(str, numbers[:4])), numbers[4]
        return None
    return _read_ipv6(text)


def _c_int(digits: bytes) -> int:
    """As scanf's `%d` stores a number, seen as unsigned 32 bits: clamped to 64 bits signed, then cut."""
    sign = -1 if digits.startswith(b"-") else 1
    magnitude = digits.lstrip(b"+-").lstrip(b"0")[:20] or b"0"
    return max(-(1 << 63), min(sign * int(magnitude), (1 << 63) - 1)) & 0xFFFF_FFFF


def _read_ipv6(text: bytes) -> Address | None:
    at = _skip(_BLANKS, text, 0)
    bracketed = text[at : at + 1] == b"["
    if bracketed:
        at = _skip(_BLANKS, text, at + 1)
    read = _read_groups(text, at)
    if read is None:
        return None
    packed, at, port_marks = read
    zone_end = _skip(_ZONE, text, at)
    if zone_end > at:
        at, port_marks = zone_end, b""
    if bracketed:
        at = _skip(_BLANKS, text, at)
        if text[at : at + 1] != b"]":
            return None
        at, port_marks = at + 1, b":#.pP"
    port = _read_port(text, at, port_marks)
    return None if port is None else (_host_text(packed), port)


def _read_groups(text: bytes, at: int) -> tuple[bytes, int, bytes] | None:
    """The 16 address bytes, where they end, and the characters that may introduce a port there without brackets."""
    before, after = b"", b""
    gap, port_marks = text.startswith(b"::", at), b""
    if gap:
        at, port_marks = at + 2, b":#.pP"
    while group := _GROUP.match(text, at):
        read = _read_group(text, group)
        if read is None:
            return None
        packed, at, port_marks = read
        before, after = (before, after + packed) if gap else (before + packed, after)
        if len(packed) == 4 or len(before + after) == 16:
            break
        if text.startswith(b"::", at):
            if gap:
                return None
            gap, at, port_marks = True, at + 2, b":#.pP"
        elif text.startswith(b":", at) and _GROUP.match(text, at + 1):
            at += 1
        else:
            break
    missing = 16 - len(before + after)
    if missing < 2 if gap else missing != 0:
        return None
    return before + bytes(missing) + after, at, port_marks if gap else port_marks + b":"


def _read_group(text: bytes, group: re.Match[bytes]) -> tuple[bytes, int, bytes] | None:
    """Two bytes of a hexadecimal group or four of a dotted tail; then as `_read_groups`."""
    if text[group.end() : group.end() + 1] != b".":
        return int(group[1], 16).to_bytes(2, "big"), group.end(), b"#pP"
    tail = _DOTTED_TAIL.match(text, group.start())
    if tail is None or max(map(int, tail.groups())) > 255:
        return None
    return bytes(map(int, tail.groups())), tail.end(), b":#.pP"


def _read_port(text: bytes, at: int, marks: bytes) -> int | None:
    if _skip(_BLANKS, text, at) == len(text):
        return 0
    match = _PORT.match(text, at)
    if match is None or (match[1] is not None and match[1] not in marks):
        return None
    port = int(match[2].lstrip(b"0")[:6] or b"0")
    return port if port <= PORT_MAX else None


def _skip(pattern: re.Pattern[bytes], text: bytes, at: int) -> int:
    match = pattern.match(text, at)
    return match.end() if match else at
