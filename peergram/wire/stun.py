"""STUN and TURN messages (RFC 8489, 8656, 8445), and the framing of TURN over a byte stream.

One table lists every attribute that is understood, with both directions of its codec; a message is written in the table's order,
which is the order the reference uses (wire protocol, part 3, chapter 10.3), so that recorded messages are rebuilt byte for byte.
Of a repeated attribute the first counts, as the RFC wants; behind MESSAGE-INTEGRITY only FINGERPRINT is read. Attributes that
must be understood and are not, are listed in `unknown_required`: what to do about them depends on who asked whom.
"""

from __future__ import annotations

import hashlib
import hmac
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from peergram.address import Address, address_bytes, address_from_bytes
from peergram.config import STUN_ATTRIBUTES_MAX
from peergram.errors import WireError

STUN_MAGIC: Final = 0x2112A442
TRANSACTION_ID_BYTES: Final = 12
TRANSPORT_UDP: Final = 17
"""The IP protocol number in REQUESTED-TRANSPORT."""
FAMILY_IPV4: Final = 1
FAMILY_IPV6: Final = 2
"""As REQUESTED-ADDRESS-FAMILY writes them."""
EVEN_PORT_RESERVE: Final = 0x80
RESERVATION_TOKEN_BYTES: Final = 8
CHANNEL_MIN: Final = 0x4000
CHANNEL_MAX: Final = 0x4FFF
"""Channel numbers (RFC 8656 §12); 0x5000 and above are other protocols."""
OLD_CHANNEL_MAX: Final = 0x7FFF
"""Those of RFC 5766, which clients of a relay still use, coturn's among them; at a relay's port no other protocol is spoken."""

_HEADER_BYTES: Final = 20
_CHANNEL_HEADER_BYTES: Final = 4
_COOKIE: Final = STUN_MAGIC.to_bytes(4, "big")
_MAPPED_PREFIX: Final = bytes(10) + b"\xff\xff"
_BODY_BYTES_MAX: Final = 0xFFFF - 3
_MESSAGE_INTEGRITY: Final = 0x0008
_FINGERPRINT: Final = 0x8028
_FINGERPRINT_XOR: Final = 0x5354554E
_INTEGRITY_BYTES: Final = 20
_FIRST_OPTIONAL: Final = 0x8000


class Method:
    """What is asked for (12 bits)."""

    BINDING: Final = 1
    ALLOCATE: Final = 3
    REFRESH: Final = 4
    SEND: Final = 6
    DATA: Final = 7
    CREATE_PERMISSION: Final = 8
    CHANNEL_BIND: Final = 9


class Class:
    """What kind of message about it (2 bits)."""

    REQUEST: Final = 0
    INDICATION: Final = 1
    SUCCESS: Final = 2
    ERROR: Final = 3


@dataclass(slots=True)
class StunMessage:
    """One message; None, False or an empty list where an attribute is absent."""

    method: int
    message_class: int
    transaction_id: bytes
    error_code: int | None = None
    """300 to 699."""
    error_reason: bytes = b""
    unknown_attributes: list[int] = field(default_factory=list)
    """What an error 420 lists."""
    alternate_server: Address | None = None
    """Where an error 300 sends us."""
    xor_peer_addresses: list[Address] = field(default_factory=list)
    requested_transport: int | None = None
    requested_address_family: int | None = None
    """FAMILY_IPV4 or FAMILY_IPV6; others are for a server to refuse."""
    additional_address_family: int | None = None
    """FAMILY_IPV6: an address of that family too, if the server has one."""
    dont_fragment: bool = False
    even_port: int | None = None
    """EVEN_PORT_RESERVE in it: the port above too, for a later request."""
    reservation_token: bytes | None = None
    """What such a port was reserved under."""
    address_error: tuple[int, int] | None = None
    """Family and error code: why a success has no address of the additional family."""
    channel_number: int | None = None
    xor_relayed_address: Address | None = None
    xor_relayed_address_2: Address | None = None
    """The one of the additional family."""
    xor_mapped_address: Address | None = None
    mapped_address: Address | None = None
    lifetime_s: int | None = None
    username: bytes | None = None
    realm: bytes | None = None
    nonce: bytes | None = None
    priority: int | None = None
    ice_controlling: int | None = None
    ice_controlled: int | None = None
    use_candidate: bool = False
    software: bytes | None = None
    data: bytes | None = None
    unknown_required: list[int] = field(default_factory=list)
    """Types below 0x8000 that were found and not understood; never written."""
    has_integrity: bool = False
    """Found by the decoder; whether it is right, `integrity_holds` says."""
    has_fingerprint: bool = False
    """Found by the decoder, and right."""


def looks_like_stun(datagram: bytes) -> bool:
    """Whether this is a STUN message rather than data, ChannelData or noise (RFC 8489 §5)."""
    return (
        len(datagram) >= _HEADER_BYTES
        and datagram[0] < 0x40
        and datagram[4:8] == _COOKIE
        and int.from_bytes(datagram[2:4], "big") == len(datagram) - _HEADER_BYTES
    )


def decode_stun(datagram: bytes) -> StunMessage:
    """The message, its FINGERPRINT checked if it has one. Raises WireError."""
    if not looks_like_stun(datagram):
        raise WireError("not a STUN message")
    message_type = int.from_bytes(datagram[:2], "big")
    message = StunMessage(*_method_and_class(message_type), datagram[8:_HEADER_BYTES])
    seen: set[int] = set()
    for kind, at, value in _attributes(datagram):
        if message.has_fingerprint:
            raise WireError("FINGERPRINT is not the last attribute")
        if kind == _FINGERPRINT:
            _check_fingerprint(datagram, at, value)
            message.has_fingerprint = True
        elif message.has_integrity:
            continue
        elif kind == _MESSAGE_INTEGRITY:
            if len(value) != _INTEGRITY_BYTES:
                raise WireError("MESSAGE-INTEGRITY of a wrong size")
            message.has_integrity = True
        elif (row := _ROW_OF_TYPE.get(kind)) is not None:
            if row.repeats or kind not in seen:
                row.read(message, value)
        elif kind < _FIRST_OPTIONAL and kind not in seen:
            message.unknown_required.append(kind)
        seen.add(kind)
    return message


def encode_stun(message: StunMessage, *, integrity_key: bytes | None = None, fingerprint: bool = True) -> bytes:
    """The bytes of `message`, with MESSAGE-INTEGRITY if there is a key for it."""
    assert len(message.transaction_id) == TRANSACTION_ID_BYTES, "a transaction id has 12 bytes"
    body = b"".join(_attribute(row.kind, value) for row in _ROWS for value in row.write(message))
    assert len(body) <= _BODY_BYTES_MAX - 32, "a STUN message holds at most 65535 bytes"
    if integrity_key is not None:
        signed = _header(message, len(body) + 4 + _INTEGRITY_BYTES) + body
        body += _attribute(_MESSAGE_INTEGRITY, hmac.digest(integrity_key, signed, "sha1"))
    if fingerprint:
        whole = _header(message, len(body) + 8) + body
        return whole + _attribute(_FINGERPRINT, _fingerprint(whole))
    return _header(message, len(body)) + body


def integrity_holds(datagram: bytes, key: bytes) -> bool:
    """Whether MESSAGE-INTEGRITY is there and was made with `key`; compared in constant time."""
    if not looks_like_stun(datagram):
        return False
    try:
        for kind, at, value in _attributes(datagram):
            if kind == _MESSAGE_INTEGRITY:
                end = at + 4 + _INTEGRITY_BYTES
                signed = datagram[:2] + (end - _HEADER_BYTES).to_bytes(2, "big") + datagram[4:at]
                return hmac.compare_digest(hmac.digest(key, signed, "sha1"), value)
    except WireError:
        return False
    return False


def long_term_key(username: bytes, realm: bytes, password: bytes) -> bytes:
    """The key of long-term credentials (RFC 8489 §9.2.2, MD5)."""
    return hashlib.md5(b":".join((username, realm, password)), usedforsecurity=False).digest()


def encode_channel_data(channel: int, payload: bytes, *, padded: bool = False) -> bytes:
    """ChannelData; `padded` to a multiple of four for a byte stream."""
    assert CHANNEL_MIN <= channel <= OLD_CHANNEL_MAX, "channel numbers go from 0x4000 to 0x7FFF"
    padding = bytes(-len(payload) % 4) if padded else b""
    return channel.to_bytes(2, "big") + len(payload).to_bytes(2, "big") + payload + padding


def decode_channel_data(datagram: bytes) -> tuple[int, bytes]:
    """Channel and payload of a ChannelData message, which may be padded. Raises WireError."""
    if len(datagram) < _CHANNEL_HEADER_BYTES:
        raise WireError("shorter than the header of ChannelData")
    channel = int.from_bytes(datagram[:2], "big")
    end = _CHANNEL_HEADER_BYTES + int.from_bytes(datagram[2:4], "big")
    if not CHANNEL_MIN <= channel <= CHANNEL_MAX:
        raise WireError("no channel number")
    if not end <= len(datagram) <= end + 3:
        raise WireError("ChannelData of another length than it says")
    return channel, datagram[_CHANNEL_HEADER_BYTES:end]


class StunStream:
    """Cuts a byte stream into STUN messages and ChannelData (RFC 8656 §12.5); keeps one unfinished message at most."""

    __slots__ = ("_buffer", "_channel_max")

    def __init__(self, channel_max: int = CHANNEL_MAX) -> None:
        self._buffer = bytearray()
        self._channel_max = channel_max

    @property
    def unfinished_bytes(self) -> int:
        """How much of a message waits for its rest."""
        return len(self._buffer)

    def handle_data(self, data: bytes) -> list[bytes]:
        """The messages that are whole now, ChannelData without its padding. Raises WireError where no message can begin; what
        follows in this stream means nothing then."""
        self._buffer += data
        frames = []
        at = 0
        while (size := self._frame_bytes(at)) is not None and at + size + -size % 4 <= len(self._buffer):
            frames.append(bytes(self._buffer[at : at + size]))
            at += size + -size % 4
        del self._buffer[:at]
        return frames

    def _frame_bytes(self, at: int) -> int | None:
        """How long the message at `at` is, without padding; None while too little of it is there to know."""
        buffer = self._buffer
        there = len(buffer) - at
        if there < _CHANNEL_HEADER_BYTES or (buffer[at] < 0x40 and there < 8):
            return None
        body_bytes = int.from_bytes(buffer[at + 2 : at + 4], "big")
        if buffer[at] < 0x40:
            if buffer[at + 4 : at + 8] != _COOKIE or body_bytes % 4 != 0:
                raise WireError("no STUN message where one must begin")
            return _HEADER_BYTES + body_bytes
        if not CHANNEL_MIN <= int.from_bytes(buffer[at : at + 2], "big") <= self._channel_max:
            raise WireError("neither a STUN message nor ChannelData")
        return _CHANNEL_HEADER_BYTES + body_bytes


def _method_and_class(message_type: int) -> tuple[int, int]:
    method = (message_type & 0x000F) | (message_type & 0x00E0) >> 1 | (message_type & 0x3E00) >> 2
    return method, (message_type & 0x0010) >> 4 | (message_type & 0x0100) >> 7


def _header(message: StunMessage, body_bytes: int) -> bytes:
    method, message_class = message.method, message.message_class
    message_type = (method & 0x000F) | (method & 0x0070) << 1 | (method & 0x0F80) << 2
    message_type |= (message_class & 1) << 4 | (message_class & 2) << 7
    return message_type.to_bytes(2, "big") + body_bytes.to_bytes(2, "big") + _COOKIE + message.transaction_id


def _attributes(datagram: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Type, position and value of each attribute."""
    at, end = _HEADER_BYTES, len(datagram)
    count = 0
    while at < end:
        count += 1
        size = int.from_bytes(datagram[at + 2 : at + 4], "big")
        after = at + 4 + size + -size % 4
        if at + 4 > end or after > end:
            raise WireError("an attribute ends behind the message")
        if count > STUN_ATTRIBUTES_MAX:
            raise WireError("too many attributes")
        yield int.from_bytes(datagram[at : at + 2], "big"), at, datagram[at + 4 : at + 4 + size]
        at = after


def _attribute(kind: int, value: bytes) -> bytes:
    return kind.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value + bytes(-len(value) % 4)


def _fingerprint(before: bytes) -> bytes:
    return (zlib.crc32(before) ^ _FINGERPRINT_XOR).to_bytes(4, "big")


def _check_fingerprint(datagram: bytes, at: int, value: bytes) -> None:
    if value != _fingerprint(datagram[:at]):
        raise WireError("FINGERPRINT does not match")


# The attributes, in the order they are written.


class _Row(NamedTuple):
    kind: int
    read: Callable[[StunMessage, bytes], None]
    write: Callable[[StunMessage], list[bytes]]
    repeats: bool = False


def _simple(kind: int, name: str, read: Callable[[bytes], Any], write: Callable[[Any], bytes]) -> _Row:
    """An attribute that is one field of the message, absent where that is None."""

    def load_field(message: StunMessage, value: bytes) -> None:
        setattr(message, name, read(value))

    def write_field(message: StunMessage) -> list[bytes]:
        value = getattr(message, name)
        return [] if value is None else [write(value)]

    return _Row(kind, load_field, write_field)


def _flag(kind: int, name: str) -> _Row:
    def load_field(message: StunMessage, value: bytes) -> None:
        _expect(value, 0)
        setattr(message, name, True)

    def write_field(message: StunMessage) -> list[bytes]:
        return [b""] if getattr(message, name) else []

    return _Row(kind, load_field, write_field)


def _text(kind: int, name: str, bytes_max: int) -> _Row:
    def read(value: bytes) -> bytes:
        if len(value) > bytes_max:
            raise WireError(f"{name} is longer than {bytes_max} bytes")
        return value

    return _simple(kind, name, read, bytes)


def _integer(kind: int, name: str, size: int, reserved: int = 0) -> _Row:
    """`reserved` bytes follow, which say nothing."""

    def read(value: bytes) -> int:
        _expect(value, size + reserved)
        return int.from_bytes(value[:size], "big")

    def write(value: int) -> bytes:
        return value.to_bytes(size, "big") + bytes(reserved)

    return _simple(kind, name, read, write)


def _fixed(kind: int, name: str, size: int) -> _Row:
    def read(value: bytes) -> bytes:
        _expect(value, size)
        return value

    return _simple(kind, name, read, bytes)


def _plain_address(kind: int, name: str) -> _Row:
    return _simple(kind, name, lambda value: _read_address(value, bytes(16)), lambda value: _write_address(value, bytes(16)))


def _xor_address(kind: int, name: str) -> _Row:
    """An address no translator on the way recognises: XORed with cookie and transaction id."""

    def load_field(message: StunMessage, value: bytes) -> None:
        setattr(message, name, _read_address(value, _COOKIE + message.transaction_id))

    def write_field(message: StunMessage) -> list[bytes]:
        value: Address | None = getattr(message, name)
        return [] if value is None else [_write_address(value, _COOKIE + message.transaction_id)]

    return _Row(kind, load_field, write_field)


def _read_address(value: bytes, mask: bytes) -> Address:
    family = int.from_bytes(value[:2], "big") & 0xFF
    if family not in (FAMILY_IPV4, FAMILY_IPV6):
        raise WireError("an address of an unknown family")
    size = 4 if family == FAMILY_IPV4 else 16
    _expect(value, 4 + size)
    host = _xor(value[4:], mask)
    prefix = _MAPPED_PREFIX if family == FAMILY_IPV4 else b""
    return address_from_bytes(prefix + host + _xor(value[2:4], mask))


def _write_address(address: Address, mask: bytes) -> bytes:
    packed = address_bytes(address)
    if packed.startswith(_MAPPED_PREFIX):
        family, host = FAMILY_IPV4, packed[12:16]
    else:
        family, host = FAMILY_IPV6, packed[:16]
    return family.to_bytes(2, "big") + _xor(packed[16:], mask) + _xor(host, mask)


def _xor(value: bytes, mask: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(value, mask, strict=False))


def _read_peer(message: StunMessage, value: bytes) -> None:
    message.xor_peer_addresses.append(_read_address(value, _COOKIE + message.transaction_id))


def _write_peers(message: StunMessage) -> list[bytes]:
    return [_write_address(address, _COOKIE + message.transaction_id) for address in message.xor_peer_addresses]


def _read_relayed(message: StunMessage, value: bytes) -> None:
    address = _read_address(value, _COOKIE + message.transaction_id)
    if message.xor_relayed_address is None:
        message.xor_relayed_address = address
    elif message.xor_relayed_address_2 is None:
        message.xor_relayed_address_2 = address


def _write_relayed(message: StunMessage) -> list[bytes]:
    addresses = (message.xor_relayed_address, message.xor_relayed_address_2)
    return [_write_address(address, _COOKIE + message.transaction_id) for address in addresses if address is not None]


def _read_error(message: StunMessage, value: bytes) -> None:
    if not 4 <= len(value) <= 4 + _TEXT_BYTES_MAX:
        raise WireError("ERROR-CODE of a wrong size")
    hundreds, rest = value[2] & 7, value[3]
    if not 3 <= hundreds <= 6 or rest > 99:
        raise WireError("no error code")
    message.error_code, message.error_reason = hundreds * 100 + rest, value[4:]


def _write_error(message: StunMessage) -> list[bytes]:
    if message.error_code is None:
        return []
    return [bytes((0, 0, message.error_code // 100, message.error_code % 100)) + message.error_reason]


def _read_address_error(message: StunMessage, value: bytes) -> None:
    if not 4 <= len(value) <= 4 + _TEXT_BYTES_MAX or not 3 <= value[2] & 7 <= 6 or value[3] > 99:
        raise WireError("no ADDRESS-ERROR-CODE")
    message.address_error = value[0], (value[2] & 7) * 100 + value[3]


def _write_address_error(message: StunMessage) -> list[bytes]:
    if message.address_error is None:
        return []
    family, code = message.address_error
    return [bytes((family, 0, code // 100, code % 100))]


def _read_unknown(message: StunMessage, value: bytes) -> None:
    if len(value) % 2 or len(value) > 2 * STUN_ATTRIBUTES_MAX:
        raise WireError("UNKNOWN-ATTRIBUTES of a wrong size")
    message.unknown_attributes = [int.from_bytes(value[at : at + 2], "big") for at in range(0, len(value), 2)]


def _write_unknown(message: StunMessage) -> list[bytes]:
    kinds = message.unknown_attributes
    return [b"".join(kind.to_bytes(2, "big") for kind in kinds)] if kinds else []


def _expect(value: bytes, size: int) -> None:
    if len(value) != size:
        raise WireError(f"an attribute of {len(value)} bytes that has {size}")


_TEXT_BYTES_MAX: Final = 763
"""127 characters of UTF-8, as the RFC counts them."""
_USERNAME_BYTES_MAX: Final = 512
_ROWS: Final = (
    _Row(0x0009, _read_error, _write_error),
    _Row(0x000A, _read_unknown, _write_unknown),
    _plain_address(0x8023, "alternate_server"),
    _Row(0x0012, _read_peer, _write_peers, repeats=True),
    _integer(0x0019, "requested_transport", 1, reserved=3),
    _integer(0x0017, "requested_address_family", 1, reserved=3),
    _integer(0x8000, "additional_address_family", 1, reserved=3),
    # The same under the number of the draft: coturn knows no other.
    _integer(0x8032, "additional_address_family", 1, reserved=3),
    _flag(0x001A, "dont_fragment"),
    _integer(0x0018, "even_port", 1),
    _fixed(0x0022, "reservation_token", RESERVATION_TOKEN_BYTES),
    _Row(0x8001, _read_address_error, _write_address_error),
    _integer(0x000C, "channel_number", 2, reserved=2),
    _Row(0x0016, _read_relayed, _write_relayed, repeats=True),
    _xor_address(0x0020, "xor_mapped_address"),
    _plain_address(0x0001, "mapped_address"),
    _integer(0x000D, "lifetime_s", 4),
    _text(0x0006, "username", _USERNAME_BYTES_MAX),
    _text(0x0014, "realm", _TEXT_BYTES_MAX),
    _text(0x0015, "nonce", _TEXT_BYTES_MAX),
    _integer(0x0024, "priority", 4),
    _integer(0x802A, "ice_controlling", 8),
    _integer(0x8029, "ice_controlled", 8),
    _flag(0x0025, "use_candidate"),
    _text(0x8022, "software", _TEXT_BYTES_MAX),
    _text(0x0013, "data", _BODY_BYTES_MAX),
)
_ROW_OF_TYPE: Final = {row.kind: row for row in _ROWS}
