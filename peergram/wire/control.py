"""Control packets of plain UDP: challenge, connect, closed, no-connection (chapters 2 and 3 of the transport protocol).

The first byte says which. Requests that make a stranger answer are padded to 512 bytes, so that no answer is larger than its
request: lead byte, u16 length, message, zeros. The others are the lead byte and the message. Values hold 0 for an absent id.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from peergram.config import DATAGRAM_BYTES_MIN, PADDED_BYTES_MIN
from peergram.errors import WireError
from peergram.wire.certificates import (
    IdentityFields,
    SignedCertificate,
    SignedCryptInfo,
    identity_fields_from,
    legacy_identity_into,
    signed_certificate_from,
    signed_certificate_into,
    signed_crypt_info_from,
    signed_crypt_info_into,
)
from peergram.wire.close_text import close_text_from, close_text_into
from peergram.wire.cursor import Cursor
from peergram.wire.proto import control_pb2 as pb
from peergram.wire.proto.message import parse

LEAD_CHALLENGE_REQUEST = 0x20
LEAD_CHALLENGE_REPLY = 0x21
LEAD_CONNECT_REQUEST = 0x22
LEAD_CONNECT_OK = 0x23
LEAD_CONNECTION_CLOSED = 0x24
LEAD_NO_CONNECTION = 0x25


@dataclass(slots=True)
class ChallengeRequest:
    """A client asks for a cookie. `my_timestamp` is opaque to the server."""

    connection_id: int
    my_timestamp: int
    protocol_version: int


@dataclass(slots=True)
class ChallengeReply:
    """The cookie, and the client's time stamp back."""

    connection_id: int
    challenge: int
    your_timestamp: int
    protocol_version: int


@dataclass(slots=True)
class ConnectRequest:
    """A client proves its address with the cookie and brings its certificate and half of the keys."""

    client_connection_id: int
    challenge: int
    my_timestamp: int | None
    ping_est_ms: int | None
    cert: SignedCertificate
    crypt: SignedCryptInfo
    identity_fields: IdentityFields


@dataclass(slots=True)
class ConnectOk:
    """The server accepts. `delay_time_us` lies between the request with `your_timestamp` and this answer."""

    client_connection_id: int
    server_connection_id: int
    your_timestamp: int | None
    delay_time_us: int | None
    cert: SignedCertificate
    crypt: SignedCryptInfo
    identity_fields: IdentityFields


@dataclass(slots=True)
class ConnectionClosed:
    """The sender's end of the connection is gone. `debug` is at most 127 bytes of UTF-8; more is cut, in both directions."""

    to_connection_id: int
    from_connection_id: int
    reason_code: int
    debug: str


@dataclass(slots=True)
class NoConnection:
    """The sender knows of no such connection, or no longer."""

    from_connection_id: int
    to_connection_id: int


ControlMessage = ChallengeRequest | ChallengeReply | ConnectRequest | ConnectOk | ConnectionClosed | NoConnection


def decode_control(datagram: bytes) -> ControlMessage:
    """Read one datagram whose first byte is 0x20 to 0x25; raises WireError for every other one and for a malformed one."""
    if len(datagram) < DATAGRAM_BYTES_MIN:
        raise WireError(f"a datagram of {len(datagram)} bytes")
    decode = _DECODERS.get(datagram[0])
    if decode is None:
        raise WireError(f"0x{datagram[0]:02x} begins no control packet")
    return decode(datagram)


def encode_control(message: ControlMessage) -> bytes:
    """The whole datagram."""
    return _ENCODERS[type(message)](message)


# Framing


def _plain_body(datagram: bytes) -> bytes:
    return datagram[1:]


def _padded_body(datagram: bytes) -> bytes:
    if len(datagram) < PADDED_BYTES_MIN:
        raise WireError(f"a padded packet of {len(datagram)} bytes, fewer than {PADDED_BYTES_MIN}")
    cursor = Cursor(datagram, at=1)
    body = cursor.take(cursor.integer(2))
    if not body:
        raise WireError("a padded packet without a message")
    return body


def _plain(lead: int, body: bytes) -> bytes:
    return bytes((lead,)) + body


def _padded(lead: int, body: bytes) -> bytes:
    return (bytes((lead,)) + len(body).to_bytes(2, "little") + body).ljust(PADDED_BYTES_MIN, b"\0")


# One decoder and one encoder for each kind


def _decode_challenge_request(datagram: bytes) -> ChallengeRequest:
    message = parse(pb.ChallengeRequest, _padded_body(datagram))
    return ChallengeRequest(message.connection_id, message.my_timestamp, message.protocol_version)


def _encode_challenge_request(request: ChallengeRequest) -> bytes:
    message = pb.ChallengeRequest(
        connection_id=request.connection_id,
        my_timestamp=request.my_timestamp,
        protocol_version=request.protocol_version,
    )
    return _padded(LEAD_CHALLENGE_REQUEST, message.SerializeToString())


def _decode_challenge_reply(datagram: bytes) -> ChallengeReply:
    message = parse(pb.ChallengeReply, _plain_body(datagram))
    return ChallengeReply(message.connection_id, message.challenge, message.your_timestamp, message.protocol_version)


def _encode_challenge_reply(reply: ChallengeReply) -> bytes:
    message = pb.ChallengeReply(
        connection_id=reply.connection_id,
        challenge=reply.challenge,
        your_timestamp=reply.your_timestamp,
        protocol_version=reply.protocol_version,
    )
    return _plain(LEAD_CHALLENGE_REPLY, message.SerializeToString())


def _decode_connect_request(datagram: bytes) -> ConnectRequest:
    message = parse(pb.ConnectRequest, _plain_body(datagram))
    return ConnectRequest(
        client_connection_id=message.client_connection_id,
        challenge=message.challenge,
        my_timestamp=message.my_timestamp if message.HasField("my_timestamp") else None,
        ping_est_ms=message.ping_est_ms if message.HasField("ping_est_ms") else None,
        cert=signed_certificate_from(message.cert),
        crypt=signed_crypt_info_from(message.crypt),
        identity_fields=identity_fields_from(message),
    )


def _encode_connect_request(request: ConnectRequest) -> bytes:
    message = pb.ConnectRequest(
        client_connection_id=request.client_connection_id,
        challenge=request.challenge,
        legacy_steam_id=request.identity_fields.legacy_steam_id,
        cert=signed_certificate_into(request.cert),
        my_timestamp=request.my_timestamp,
        ping_est_ms=request.ping_est_ms,
        crypt=signed_crypt_info_into(request.crypt),
        legacy_identity=legacy_identity_into(request.identity_fields.legacy_binary),
        identity_string=request.identity_fields.identity_string,
    )
    return _plain(LEAD_CONNECT_REQUEST, message.SerializeToString())


def _decode_connect_ok(datagram: bytes) -> ConnectOk:
    message = parse(pb.ConnectOk, _plain_body(datagram))
    return ConnectOk(
        client_connection_id=message.client_connection_id,
        server_connection_id=message.server_connection_id,
        your_timestamp=message.your_timestamp if message.HasField("your_timestamp") else None,
        delay_time_us=message.delay_time_us if message.HasField("delay_time_us") else None,
        cert=signed_certificate_from(message.cert),
        crypt=signed_crypt_info_from(message.crypt),
        identity_fields=identity_fields_from(message),
    )


def _encode_connect_ok(accepted: ConnectOk) -> bytes:
    message = pb.ConnectOk(
        client_connection_id=accepted.client_connection_id,
        legacy_steam_id=accepted.identity_fields.legacy_steam_id,
        your_timestamp=accepted.your_timestamp,
        delay_time_us=accepted.delay_time_us,
        server_connection_id=accepted.server_connection_id,
        crypt=signed_crypt_info_into(accepted.crypt),
        cert=signed_certificate_into(accepted.cert),
        legacy_identity=legacy_identity_into(accepted.identity_fields.legacy_binary),
        identity_string=accepted.identity_fields.identity_string,
    )
    return _plain(LEAD_CONNECT_OK, message.SerializeToString())


def _decode_connection_closed(datagram: bytes) -> ConnectionClosed:
    message = parse(pb.ConnectionClosed, _padded_body(datagram))
    return ConnectionClosed(
        to_connection_id=message.to_connection_id,
        from_connection_id=message.from_connection_id,
        reason_code=message.reason_code,
        debug=close_text_from(message.debug),
    )


def _encode_connection_closed(closed: ConnectionClosed) -> bytes:
    message = pb.ConnectionClosed(
        debug=close_text_into(closed.debug) or None,
        reason_code=closed.reason_code,
        to_connection_id=closed.to_connection_id or None,
        from_connection_id=closed.from_connection_id or None,
    )
    return _padded(LEAD_CONNECTION_CLOSED, message.SerializeToString())


def _decode_no_connection(datagram: bytes) -> NoConnection:
    message = parse(pb.NoConnection, _plain_body(datagram))
    return NoConnection(message.from_connection_id, message.to_connection_id)


def _encode_no_connection(answer: NoConnection) -> bytes:
    message = pb.NoConnection(
        from_connection_id=answer.from_connection_id or None,
        to_connection_id=answer.to_connection_id or None,
    )
    return _plain(LEAD_NO_CONNECTION, message.SerializeToString())


_DECODERS: dict[int, Callable[[bytes], ControlMessage]] = {
    LEAD_CHALLENGE_REQUEST: _decode_challenge_request,
    LEAD_CHALLENGE_REPLY: _decode_challenge_reply,
    LEAD_CONNECT_REQUEST: _decode_connect_request,
    LEAD_CONNECT_OK: _decode_connect_ok,
    LEAD_CONNECTION_CLOSED: _decode_connection_closed,
    LEAD_NO_CONNECTION: _decode_no_connection,
}

_ENCODERS: dict[type, Callable[[Any], bytes]] = {
    ChallengeRequest: _encode_challenge_request,
    ChallengeReply: _encode_challenge_reply,
    ConnectRequest: _encode_connect_request,
    ConnectOk: _encode_connect_ok,
    ConnectionClosed: _encode_connection_closed,
    NoConnection: _encode_no_connection,
}
