"""Who somebody is: a Steam id, a text, bytes, an address; as values, and as the reference writes and reads them.

The canonical text is one to one with the value (`Identity.parse(str(identity)) == identity`), so that it also serves as the key
for equality and hashing. Text from the wire need not be UTF-8: bytes that are not are kept as lone surrogates
(`surrogateescape`), as Python does with file names. The grammar, its leniency included, is the reference's
(`SteamNetworkingIdentity::ParseString`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import IntEnum
from typing import NoReturn, final

from peergram.address import Address, address_bytes, address_from_bytes, canonical_address, format_address, read_reference_address
from peergram.errors import UsageError

STRING_BYTES_MAX = 31
GENERIC_BYTES_MAX = 32
XBOX_BYTES_MAX = 32
UNKNOWN_BYTES_MAX = 127

_U64_MAX = (1 << 64) - 1
_ACCOUNT_MASK = 0xFFFF_FFFF
_INDIVIDUAL, _GAME_SERVER, _CLAN = 1, 3, 7
_LOCALHOST_BYTES = {bytes(15) + b"\x01", bytes(10) + b"\xff\xff\x7f\x00\x00\x01"}
_C_UNSIGNED = re.compile(rb"[ \t\n\v\f\r]*([+-]?)([0-9]+)")
_C_HEX_PAIR = re.compile(rb"[ \t\n\v\f\r]*(?:([+-])([0-9a-fA-F])|([0-9a-fA-F]{1,2}))")
_UNKNOWN = re.compile(rb"[a-z0-9_]{1,16}:")
_EXAMPLES = "'alice', 'str:alice', 'steamid:76561197960265729', 'gen:00ff' or 'ip:192.0.2.1:27015'"


class IdentityKind(IntEnum):
    """`ESteamNetworkingIdentityType`."""

    INVALID = 0
    IP_ADDRESS = 1
    GENERIC_STRING = 2
    GENERIC_BYTES = 3
    UNKNOWN_TYPE = 4
    STEAM_ID = 16
    XBOX_PAIRWISE = 17
    SONY_PSN = 18


@final
class Identity:
    """An immutable identity; made by the class methods only, all of which raise UsageError for what they cannot accept."""

    __slots__ = ("_hash", "_text", "content", "kind")

    kind: IdentityKind
    content: bytes
    """The value without its prefix: text or generic bytes; 18 bytes of an address (`address_bytes`); 8 bytes, little-endian, of a
    number; the whole text of an unknown kind."""
    _text: str
    _hash: int

    def __init__(self, kind: IdentityKind, content: bytes, text: str) -> None:
        """For this module only: `text` must be the canonical text of that kind and content."""
        set_once = object.__setattr__
        set_once(self, "kind", kind)
        set_once(self, "content", content)
        set_once(self, "_text", text)
        set_once(self, "_hash", hash(text))

    @classmethod
    def of(cls, who: str | Identity) -> Identity:
        """What a person types or a program passes: an identity, its text, or a plain name (`alice` means `str:alice`)."""
        if isinstance(who, Identity):
            return who
        if not isinstance(who, str):
            raise UsageError(f"an identity is a text such as {_EXAMPLES}, not {who!r}")
        if not who:
            raise UsageError(f"an identity cannot be empty: use a text such as {_EXAMPLES}")
        return cls.parse(who) if ":" in who else cls.string(who)

    @classmethod
    def parse(cls, text: str) -> Identity:
        """Read a text with its prefix, exactly as the reference does."""
        return cls.parse_bytes(_encoded(text))

    @classmethod
    def parse_bytes(cls, text: bytes) -> Identity:
        """As `parse`, for text from the wire."""
        if b"\0" in text:
            _refuse(text, "it contains a zero byte")
        prefix, colon, rest = text.partition(b":")
        if colon and (parser := _PARSERS.get(prefix)):
            return parser(text, rest)
        if len(text) > UNKNOWN_BYTES_MAX:
            _refuse(text, f"it is longer than {UNKNOWN_BYTES_MAX} bytes")
        if not _UNKNOWN.match(text):
            _refuse(text, f"it needs a prefix of at most 16 characters of a-z, 0-9 and _, then a colon, such as {_EXAMPLES}")
        return cls(IdentityKind.UNKNOWN_TYPE, text, _decoded(text))

    @classmethod
    def string(cls, name: str | bytes) -> Identity:
        """`str:` with at most 31 bytes (of UTF-8) and no zero byte."""
        return cls._worded(IdentityKind.GENERIC_STRING, "str:", name, 0, STRING_BYTES_MAX)

    @classmethod
    def generic_bytes(cls, data: bytes) -> Identity:
        """`gen:` with 1 to 32 bytes; 32 bytes are an Ed25519 public key where keys prove identities."""
        if not 1 <= len(data) <= GENERIC_BYTES_MAX:
            raise UsageError(f"gen: takes 1 to {GENERIC_BYTES_MAX} bytes, not {len(data)}")
        return cls(IdentityKind.GENERIC_BYTES, bytes(data), "gen:" + data.hex())

    @classmethod
    def ip(cls, address: Address) -> Identity:
        """`ip:` with an address; a port of 0 is left out of the text, a zone is dropped."""
        host, port = canonical_address(address[0].partition("%")[0], address[1])
        text = format_address((host, port)) if port else host
        return cls(IdentityKind.IP_ADDRESS, address_bytes((host, port)), "ip:" + text)

    @classmethod
    def steam_id(cls, number: int) -> Identity:
        """`steamid:` with a valid 64-bit Steam id."""
        if not _is_valid_steam_id(number):
            raise UsageError(f"{number} is not a valid Steam id (a person's looks like 76561197960265729)")
        return cls(IdentityKind.STEAM_ID, number.to_bytes(8, "little"), f"steamid:{number}")

    @classmethod
    def xbox_pairwise(cls, name: str | bytes) -> Identity:
        """`xboxpwid:` with 1 to 32 bytes."""
        return cls._worded(IdentityKind.XBOX_PAIRWISE, "xboxpwid:", name, 1, XBOX_BYTES_MAX)

    @classmethod
    def psn(cls, number: int) -> Identity:
        """`psn:` with a 64-bit number."""
        if not 0 <= number <= _U64_MAX:
            raise UsageError(f"psn: takes a number from 0 to 2^64-1, not {number}")
        return cls(IdentityKind.SONY_PSN, number.to_bytes(8, "little"), f"psn:{number}")

    @classmethod
    def _worded(cls, kind: IdentityKind, prefix: str, name: str | bytes, least: int, most: int) -> Identity:
        content = _encoded(name) if isinstance(name, str) else bytes(name)
        if b"\0" in content:
            raise UsageError(f"{prefix} cannot contain a zero byte")
        if not least <= len(content) <= most:
            raise UsageError(f"{prefix} takes {least} to {most} bytes of UTF-8, not {len(content)}")
        return cls(kind, content, prefix + _decoded(content))

    @property
    def text(self) -> str:
        """The canonical text; lone surrogates stand for bytes that are not UTF-8."""
        return self._text

    @property
    def text_bytes(self) -> bytes:
        """The canonical text as it travels."""
        return self._text.encode("utf-8", "surrogateescape")

    @property
    def printable(self) -> str:
        """The text for terminals and logs: what is not printable, and the escape sign itself, is escaped."""
        return "".join(c if c.isprintable() and c != "\\" else ascii(c)[1:-1] for c in self._text)

    @property
    def is_localhost(self) -> bool:
        """Whether this is the anonymous identity: ::1 or 127.0.0.1 with any port."""
        return self.kind == IdentityKind.IP_ADDRESS and self.content[:16] in _LOCALHOST_BYTES

    @property
    def is_valid(self) -> bool:
        """False only for `INVALID`."""
        return self.kind != IdentityKind.INVALID

    @property
    def ip_address(self) -> Address | None:
        """The address of an `ip:` identity."""
        return address_from_bytes(self.content) if self.kind == IdentityKind.IP_ADDRESS else None

    @property
    def number(self) -> int | None:
        """The number of a `steamid:` or `psn:` identity."""
        if self.kind in (IdentityKind.STEAM_ID, IdentityKind.SONY_PSN):
            return int.from_bytes(self.content, "little")
        return None

    @property
    def public_key_bytes(self) -> bytes | None:
        """The Ed25519 public key that a `gen:` identity of 32 bytes is."""
        return self.content if self.kind == IdentityKind.GENERIC_BYTES and len(self.content) == 32 else None

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"Identity({self._text!r})"

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return self._text == other._text if type(other) is Identity else NotImplemented

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("an Identity cannot be changed")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("an Identity cannot be changed")

    def __reduce__(self) -> tuple[type[Identity], tuple[IdentityKind, bytes, str]]:
        return Identity, (self.kind, self.content, self._text)


INVALID = Identity(IdentityKind.INVALID, b"", "invalid")
"""Nobody; what callers get where there is no identity. Its text is not read back."""
ANONYMOUS = Identity.ip(("::1", 0))
"""The reference's default identity: somebody who does not say who he is."""


def _is_valid_steam_id(number: int) -> bool:
    """`CSteamID::IsValid`: bits 0-31 account, 32-51 instance, 52-55 type, 56-63 universe."""
    if not 0 <= number <= _U64_MAX:
        return False
    account, instance, kind, universe = number & _ACCOUNT_MASK, number >> 32 & 0xFFFFF, number >> 52 & 0xF, number >> 56
    if not 1 <= universe <= 4 or not 1 <= kind <= 10:
        return False
    if kind == _INDIVIDUAL:
        return account != 0 and instance == 1
    if kind == _CLAN:
        return account != 0 and instance == 0
    return kind != _GAME_SERVER or account != 0


def _parse_string(text: bytes, rest: bytes) -> Identity:
    return Identity.string(rest)


def _parse_generic_bytes(text: bytes, rest: bytes) -> Identity:
    """Two characters a byte, each pair read as scanf's `%2x` would from there on (white space and signs included)."""
    if not rest or len(rest) % 2 or len(rest) > 2 * GENERIC_BYTES_MAX:
        _refuse(text, f"gen: takes 2 to {2 * GENERIC_BYTES_MAX} hexadecimal digits, two for each byte")
    content = bytearray()
    for at in range(0, len(rest), 2):
        match = _C_HEX_PAIR.match(rest, at)
        if match is None:
            _refuse(text, "gen: takes hexadecimal digits only")
        value = int(match[2] or match[3], 16)
        content.append((-value if match[1] == b"-" else value) & 0xFF)
    return Identity.generic_bytes(bytes(content))


def _parse_ip(text: bytes, rest: bytes) -> Identity:
    address = read_reference_address(rest)
    if address is None:
        _refuse(text, "ip: takes a numeric address, such as 'ip:192.0.2.1:27015' or 'ip:[2001:db8::1]:27015'")
    return Identity.ip(address)


def _parse_steam_id(text: bytes, rest: bytes) -> Identity:
    return Identity.steam_id(_parse_number(text, rest))


def _parse_xbox(text: bytes, rest: bytes) -> Identity:
    return Identity.xbox_pairwise(rest)


def _parse_psn(text: bytes, rest: bytes) -> Identity:
    return Identity.psn(_parse_number(text, rest))


def _parse_number(text: bytes, rest: bytes) -> int:
    """As scanf's `%llu`: white space, a sign, digits; negative modulo 2^64, too large gives 2^64-1, the rest is ignored."""
    match = _C_UNSIGNED.match(rest)
    if match is None:
        _refuse(text, "a decimal number must follow the colon")
    magnitude = int(match[2].lstrip(b"0")[:21] or b"0")
    if magnitude > _U64_MAX:
        return _U64_MAX
    return -magnitude & _U64_MAX if match[1] == b"-" else magnitude


_PARSERS: dict[bytes, Callable[[bytes, bytes], Identity]] = {
    b"str": _parse_string,
    b"gen": _parse_generic_bytes,
    b"ip": _parse_ip,
    b"steamid": _parse_steam_id,
    b"xboxpwid": _parse_xbox,
    b"psn": _parse_psn,
}


def _encoded(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise UsageError(f"{text[:UNKNOWN_BYTES_MAX]!r} cannot be written as UTF-8") from None


def _decoded(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _refuse(text: bytes, why: str) -> NoReturn:
    raise UsageError(f"{_decoded(text[:UNKNOWN_BYTES_MAX])!r} is not an identity: {why}")
