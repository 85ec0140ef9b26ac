"""From one shared secret to a key and an initialisation vector per direction.

Wire protocol, part 1, chapter 10. The shape is that of HKDF (RFC 5869), but the extract step has key and message swapped, so that
ready-made HKDF gives other keys. Three orders differ on purpose: salt server-client, ids client-server, records server-client.
The exact bytes of certificate and crypt info go in, as sent and as received: a changed byte changes every key.

`hello_binding` is ours alone. Of a hello the reference signs the crypt info only, so a certificate or connection id that was
damaged on the way is noticed when no packet opens; toward own peers it shows in the hello.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass, field

from peergram.wire.certificates import SignedCertificate

KEY_BYTES = 32
IV_BYTES = 12
BINDING_BYTES = 16

_LABEL = b"Steam datagram"
_TWO_U32 = struct.Struct("<II")
_U32_U64 = struct.Struct("<IQ")
_TWO_U64 = struct.Struct("<QQ")


@dataclass(slots=True)
class Side:
    """What one side brings to the derivation; `cert` and `info` are the signed bytes."""

    connection_id: int
    nonce: int
    cert: bytes
    info: bytes


@dataclass(slots=True)
class DirectionKeys:
    """Key (32 bytes) and base IV (12 bytes) of one direction; neither is ever shown."""

    key: bytes = field(repr=False)
    iv: bytes = field(repr=False)


@dataclass(slots=True)
class SessionKeys:
    """Keys of both directions."""

    client_to_server: DirectionKeys
    server_to_client: DirectionKeys


def derive_session_keys(shared_secret: bytes, *, client: Side, server: Side) -> SessionKeys:
    """Keys of a connection. `shared_secret` is the bare X25519 result; "server" is the side that received the connect request."""
    extracted = _hmac(hashlib.sha256(shared_secret).digest(), _TWO_U64.pack(server.nonce, client.nonce))
    context = b"".join(
        (
            _TWO_U32.pack(client.connection_id, server.connection_id),
            _LABEL,
            server.cert,
            client.cert,
            server.info,
            client.info,
        )
    )
    first = _hmac(extracted, context + b"\x01")
    second = _hmac(extracted, first + context + b"\x02")
    third = _hmac(extracted, second + context + b"\x03")
    fourth = _hmac(extracted, third + context + b"\x04")
    return SessionKeys(
        client_to_server=DirectionKeys(first, third[:IV_BYTES]),
        server_to_client=DirectionKeys(second, fourth[:IV_BYTES]),
    )


def hello_binding(connection_id: int, certificate: SignedCertificate) -> bytes:
    """What the sender of a hello signs of its connection id and certificate: 16 bytes."""
    head = _U32_U64.pack(connection_id, certificate.ca_key_id or 0)
    return hashlib.sha256(head + certificate.ca_signature + certificate.cert).digest()[:BINDING_BYTES]


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")
