"""What clients and `peergram serve` say to each other: one message per binary WebSocket frame, a lead byte and fields behind it.

    server                                client
    HELLO version, nonce
                                          LOGIN identity, key, nonce, URL, signature, certificate if any
    WELCOME                   or REFUSED code, text
    CERTIFICATE issued for this name, at servers that do so; later ones replace it
    RELAYS the relay map, TICKETS for them, at servers that have some; later ones replace them
                                          SIGNAL to, blob
    SIGNAL from, blob
    REPLACED

Texts and blobs stand behind their length; integers are big-endian (docs/signaling.md). The same key signs the login and a peer's
session-crypto records, so the signed text begins with a byte that no protobuf record can begin with, and holds nothing that the
server chose but 32 bytes of nonce in its place. The URL is in it, so that a server that was dialed cannot log in elsewhere with
what it was told.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from peergram.config import (
    CARRIED_BYTES_MAX,
    LOGIN_CERTIFICATE_BYTES_MAX,
    REFUSAL_TEXT_BYTES_MAX,
    RELAY_MAP_BYTES_MAX,
    SERVER_URL_BYTES_MAX,
)
from peergram.errors import UsageError, WireError
from peergram.identity import UNKNOWN_BYTES_MAX, Identity, IdentityKind
from peergram.wire.cursor import Cursor
from peergram.wire.relay_news import (
    TICKETS_BYTES_MAX,
    RelayNews,
    Tickets,
    encode_tickets,
    read_relay_news,
    read_tickets,
)

VERSION = 1
NONCE_BYTES = 32
KEY_BYTES = 32
SIGNATURE_BYTES = 64
LOGIN_PREFIX = b"\xffpeergram signaling login 1\0"
"""0xff is the first byte of a protobuf tag with wire type 7, which does not exist."""
FRAME_BYTES_MAX = 1 + 1 + UNKNOWN_BYTES_MAX + CARRIED_BYTES_MAX
"""No message of a client is longer: a signal with the longest name."""
SERVER_FRAME_BYTES_MAX = max(FRAME_BYTES_MAX, 1 + RELAY_MAP_BYTES_MAX, 1 + TICKETS_BYTES_MAX)
"""No message of a server is longer."""


class Refusal:
    """Why a login came to nothing, or the server hangs up; one byte on the wire."""

    BAD_MESSAGE = 1
    """The client does not follow the protocol."""
    VERSION = 2
    """The client speaks another version."""
    BAD_PROOF = 3
    """The signature does not prove the key, or the identity is another key."""
    NAME_TAKEN = 4
    """Somebody with another key has this name."""
    BAD_NAME = 5
    """This identity cannot be used here."""
    WRONG_URL = 6
    """The client was told another address than this server's."""
    BUSY = 7
    """Too many logins or clients at the moment."""
    TOO_SLOW = 8
    """The login took too long, or the client was silent."""
    TOO_FAST = 9
    """The client sent far more than it may."""
    CLOSING = 10
    """The server is being stopped."""
    CERTIFICATE = 11
    """This server takes only those whom its authority has certified."""


LASTING_REFUSALS = {
    *(Refusal.VERSION, Refusal.BAD_PROOF, Refusal.NAME_TAKEN, Refusal.BAD_NAME, Refusal.WRONG_URL, Refusal.CERTIFICATE)
}
"""Trying again soon would end the same way."""


@dataclass(slots=True)
class Hello:
    """The server's first word."""

    version: int
    nonce: bytes


@dataclass(slots=True)
class Login:
    """Who the client is, and the proof: a signature over `login_text`."""

    identity: Identity
    public_key: bytes
    nonce: bytes
    url: str
    signature: bytes
    certificate: bytes = b""
    """A serialized `SignedCertificate`, or nothing. Its own key has signed the login, so the login need not say it again."""


@dataclass(slots=True)
class Welcome:
    """The login is good."""


@dataclass(slots=True)
class Issued:
    """A certificate for the client's name and key: a serialized `SignedCertificate`."""

    certificate: bytes


@dataclass(slots=True)
class CarriedSignal:
    """`peer` is whom it is for when a client says it, and whom it is from when the server does."""

    peer: Identity
    blob: bytes


@dataclass(slots=True)
class Replaced:
    """The same key has logged in elsewhere; this connection ends, and the client stays away."""


@dataclass(slots=True)
class Refused:
    """The server hangs up."""

    code: int
    text: str


ServerMessage = Hello | Welcome | CarriedSignal | Replaced | Refused | Issued | RelayNews | Tickets
ClientMessage = Login | CarriedSignal
Message = TypeVar("Message")

_HELLO, _LOGIN, _WELCOME, _SIGNAL, _REPLACED, _REFUSED, _ISSUED, _RELAYS, _TICKETS = 1, 2, 3, 4, 5, 6, 7, 8, 9


def login_text(*, server_nonce: bytes, client_nonce: bytes, url: str, identity: Identity, public_key: bytes) -> bytes:
    """What a client signs to prove who it is."""
    fields = (server_nonce, client_nonce, url.encode("ascii"), identity.text_bytes, public_key)
    return LOGIN_PREFIX + b"".join(len(field).to_bytes(2, "big") + field for field in fields)


def encode_server_message(message: ServerMessage) -> bytes:
    """One frame of the server."""
    if isinstance(message, CarriedSignal):
        return _encode_signal(message)
    if isinstance(message, Hello):
        return bytes((_HELLO, message.version)) + message.nonce
    if isinstance(message, Refused):
        text = message.text.encode()[:REFUSAL_TEXT_BYTES_MAX]
        return bytes((_REFUSED, message.code)) + text
    if isinstance(message, Issued):
        return bytes((_ISSUED,)) + message.certificate
    if isinstance(message, RelayNews):
        return bytes((_RELAYS,)) + message.map_text
    if isinstance(message, Tickets):
        return bytes((_TICKETS,)) + encode_tickets(message)
    return bytes((_WELCOME if isinstance(message, Welcome) else _REPLACED,))


def encode_client_message(message: ClientMessage) -> bytes:
    """One frame of a client."""
    if isinstance(message, CarriedSignal):
        return _encode_signal(message)
    url = message.url.encode("ascii")
    name = message.identity.text_bytes
    head = bytes((_LOGIN, VERSION)) + message.public_key + message.nonce + message.signature
    tail = len(message.certificate).to_bytes(2, "big") + message.certificate if message.certificate else b""
    return head + len(url).to_bytes(2, "big") + url + bytes((len(name),)) + name + tail


def decode_server_message(frame: bytes) -> ServerMessage:
    """What a client was told; raises WireError."""
    return _decode(frame, _FROM_SERVER, SERVER_FRAME_BYTES_MAX)


def decode_client_message(frame: bytes) -> ClientMessage:
    """What a server was told; raises WireError."""
    return _decode(frame, _FROM_CLIENT, FRAME_BYTES_MAX)


def speaks_other_version(frame: bytes) -> bool:
    """Whether this is the login of a client whose version is not ours."""
    return frame[:1] == bytes((_LOGIN,)) and frame[1:2] != bytes((VERSION,))


def _decode(frame: bytes, table: dict[int, Callable[[Cursor], Message]], bytes_max: int) -> Message:
    if len(frame) > bytes_max:
        raise WireError(f"{len(frame)} bytes are more than any message has")
    cursor = Cursor(frame)
    read = table.get(cursor.integer(1))
    if read is None:
        raise WireError(f"message kind {frame[0]} is not known")
    message = read(cursor)
    if cursor.left:
        raise WireError(f"{cursor.left} bytes too many")
    return message


def _encode_signal(signal: CarriedSignal) -> bytes:
    name = signal.peer.text_bytes
    return b"%c%c%s%s" % (_SIGNAL, len(name), name, signal.blob)


def _take_identity(cursor: Cursor) -> Identity:
    text = cursor.take(cursor.integer(1))
    try:
        identity = Identity.parse_bytes(text)
    except UsageError as error:
        raise WireError(f"a name that is none: {error}") from None
    if identity.text_bytes != text:
        raise WireError("a name that is not written in the canonical way")
    return identity


def _read_hello(cursor: Cursor) -> Hello:
    return Hello(cursor.integer(1), cursor.take(NONCE_BYTES))


def _read_login(cursor: Cursor) -> Login:
    version = cursor.integer(1)
    if version != VERSION:
        raise WireError(f"login of version {version}")
    public_key, nonce, signature = cursor.take(KEY_BYTES), cursor.take(NONCE_BYTES), cursor.take(SIGNATURE_BYTES)
    url_bytes = cursor.integer(2, "big")
    if url_bytes > SERVER_URL_BYTES_MAX:
        raise WireError("the URL is too long")
    try:
        url = cursor.take(url_bytes).decode("ascii")
    except UnicodeDecodeError:
        raise WireError("the URL is not ASCII") from None
    identity = _take_identity(cursor)
    certificate = _take_certificate(cursor, cursor.integer(2, "big")) if cursor.left else b""
    return Login(identity, public_key, nonce, url, signature, certificate)


def _take_certificate(cursor: Cursor, size: int) -> bytes:
    if not 0 < size <= LOGIN_CERTIFICATE_BYTES_MAX:
        raise WireError(f"a certificate of {size} bytes")
    return cursor.take(size)


def _read_welcome(cursor: Cursor) -> Welcome:
    return Welcome()


def _read_signal(cursor: Cursor) -> CarriedSignal:
    peer = _take_identity(cursor)
    if cursor.left > CARRIED_BYTES_MAX:
        raise WireError(f"a signal of {cursor.left} bytes")
    return CarriedSignal(peer, cursor.rest())


def _read_issued(cursor: Cursor) -> Issued:
    return Issued(_take_certificate(cursor, cursor.left))


def _read_replaced(cursor: Cursor) -> Replaced:
    return Replaced()


def _read_refused(cursor: Cursor) -> Refused:
    code = cursor.integer(1)
    if cursor.left > REFUSAL_TEXT_BYTES_MAX:
        raise WireError("a refusal with a long text")
    return Refused(code, cursor.rest().decode("utf-8", "replace"))


_FROM_SERVER: dict[int, Callable[[Cursor], ServerMessage]] = {
    _HELLO: _read_hello,
    _WELCOME: _read_welcome,
    _SIGNAL: _read_signal,
    _REPLACED: _read_replaced,
    _REFUSED: _read_refused,
    _ISSUED: _read_issued,
    _RELAYS: read_relay_news,
    _TICKETS: read_tickets,
}
_FROM_CLIENT: dict[int, Callable[[Cursor], ClientMessage]] = {_LOGIN: _read_login, _SIGNAL: _read_signal}


def check_name(identity: Identity) -> None:
    """Whether a service that knows people by name can know this one; raises UsageError."""
    if identity.kind in (IdentityKind.INVALID, IdentityKind.IP_ADDRESS):
        raise UsageError(f"{identity.printable} is no name that others can call: use one such as 'alice', or a key")
