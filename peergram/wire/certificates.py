"""Identity fields, certificates and session-crypto records (chapters 3, 4, 7 and 8 of the transport protocol).

The bytes of `SignedCertificate.cert` and `SignedCryptInfo.info` are signed and hashed: they are kept as received and as sent, and
never serialized again from their decoded form. An absent bytes field reads as `b""`, an absent number as 0 or, where absence has
a meaning of its own, as None. Whether a certificate is any good is decided by `crypto`; here it only has to be well-formed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Protocol

from peergram.address import address_from_bytes
from peergram.errors import UsageError, WireError
from peergram.identity import Identity, IdentityKind
from peergram.wire.proto import certificates_pb2 as pb
from peergram.wire.proto.message import parse, within
from peergram.wire.varint import decode_varint

KEY_TYPE_ED25519: Final = 1
KEY_TYPE_CURVE25519: Final = 1
CIPHER_NONE: Final = 1
CIPHER_AES_256_GCM: Final = 2

CERTIFICATE_BYTES_MAX: Final = 8_192
"""More fits no UDP packet and no signal."""
STORED_CERTIFICATE_BYTES_MAX: Final = CERTIFICATE_BYTES_MAX + 512
"""With its signature and private key."""
CRYPT_INFO_BYTES_MAX: Final = 2_048
SIGNATURE_BYTES_MAX: Final = 256
"""Room for a wrong length to be named as the fault; a right one is 64."""
KEY_BYTES_MAX: Final = 256
"""As above; a right one is 32."""
IDENTITY_STRING_BYTES_MAX: Final = 512
LEGACY_FIELD_BYTES_MAX: Final = 128
RUN_ID_BYTES: Final = 16
BINDING_BYTES_MAX: Final = 64
"""A right one is 16."""
_ADDRESS_BYTES: Final = 18
_LEGACY_STEAM_TYPES: Final = {1, 3, 4, 9}
_CERTIFICATE_FIELDS: Final = frozenset((1, 2, 4, 5, 8, 9, 10, 11, 12))
_FIXED_BYTES: Final = {1: 8, 5: 4}
"""By the wire type of protobuf."""
_LENGTH_DELIMITED: Final = 2


@dataclass(slots=True)
class LegacyIdentity:
    """An identity as peers before its text form read it; all None for kinds they never knew."""

    generic_bytes: bytes | None = None
    generic_string: bytes | None = None
    ipv6_and_port: bytes | None = None
    steam_id: int | None = None


@dataclass(slots=True)
class IdentityFields:
    """The three forms in which a message or certificate may name an identity; None where a form is absent."""

    identity_string: bytes | None = None
    legacy_binary: LegacyIdentity | None = None
    legacy_steam_id: int | None = None


@dataclass(slots=True)
class SignedCertificate:
    """A serialized `Certificate` and, if an authority signed it, that signature over `cert` (64 bytes, Ed25519)."""

    cert: bytes
    ca_key_id: int | None = None
    ca_signature: bytes = b""


@dataclass(slots=True)
class StoredCertificate:
    """A certificate as tools store it, perhaps with the 32 bytes of the private key that it is about."""

    signed: SignedCertificate
    private_key: bytes | None = field(default=None, repr=False)


@dataclass(slots=True)
class Certificate:
    """Binds an Ed25519 key to an identity, apps and a lifetime (Unix seconds, 0 = absent). Proves nothing until checked."""

    key_type: int
    key_data: bytes
    identity_fields: IdentityFields
    time_created: int = 0
    time_expiry: int = 0
    app_ids: tuple[int, ...] = ()
    datacenter_ids: tuple[int, ...] = ()


@dataclass(slots=True)
class SignedCryptInfo:
    """A serialized `CryptInfo` and the signature over it by the certificate's key (64 bytes, Ed25519)."""

    info: bytes
    signature: bytes


@dataclass(slots=True)
class Capabilities:
    """Our own extension: what a peer of this library can do. `run_id`: 16 bytes, one for each running endpoint.

    `binding` is `crypto.derive.hello_binding` of the hello that carries it.
    """

    features: int
    run_id: bytes
    binding: bytes = b""


@dataclass(slots=True)
class CryptInfo:
    """One side's half of the key agreement; `ciphers` in order of preference, unknown ones left out."""

    key_type: int
    key_data: bytes
    nonce: int
    protocol_version: int
    ciphers: tuple[int, ...]
    capabilities: Capabilities | None = None


class CarriesIdentity(Protocol):
    """A protobuf message with the three identity fields under our names."""

    @property
    def identity_string(self) -> bytes: ...
    @property
    def legacy_identity(self) -> pb.LegacyIdentity: ...
    @property
    def legacy_steam_id(self) -> int: ...
    def HasField(self, name: str, /) -> bool: ...  # noqa: N802 (protobuf's name)


# Identity fields


def read_identity(fields: IdentityFields) -> Identity | None:
    """The identity that the fields name: text first, then the legacy form, then the bare Steam id; None if there is none of them.

    Raises WireError if the first one present does not name a valid identity.
    """
    try:
        if fields.identity_string is not None:
            return Identity.parse_bytes(fields.identity_string)
        if fields.legacy_binary is not None:
            return _read_legacy(fields.legacy_binary)
        if fields.legacy_steam_id is not None:
            return _read_legacy_steam_id(fields.legacy_steam_id)
    except UsageError as error:
        raise WireError(str(error)) from error
    return None


def write_identity(identity: Identity) -> IdentityFields:
    """All the forms that the reference writes for this identity."""
    kind, content = identity.kind, identity.content
    if kind == IdentityKind.INVALID:
        raise UsageError("the invalid identity cannot be sent")
    legacy = LegacyIdentity(
        generic_bytes=content if kind == IdentityKind.GENERIC_BYTES else None,
        generic_string=content if kind == IdentityKind.GENERIC_STRING else None,
        ipv6_and_port=content if kind == IdentityKind.IP_ADDRESS else None,
        steam_id=identity.number if kind == IdentityKind.STEAM_ID else None,
    )
    return IdentityFields(identity.text_bytes, legacy, legacy.steam_id)


def _read_legacy(legacy: LegacyIdentity) -> Identity:
    if legacy.steam_id is not None:
        return _read_legacy_steam_id(legacy.steam_id)
    if legacy.generic_string is not None:
        return Identity.string(legacy.generic_string)
    if legacy.generic_bytes is not None:
        return Identity.generic_bytes(legacy.generic_bytes)
    if legacy.ipv6_and_port is None:
        raise WireError("legacy identity: none of the kinds we know")
    if len(legacy.ipv6_and_port) != _ADDRESS_BYTES:
        raise WireError(f"legacy identity: an address of {len(legacy.ipv6_and_port)} bytes, not {_ADDRESS_BYTES}")
    return Identity.ip(address_from_bytes(legacy.ipv6_and_port))


def _read_legacy_steam_id(number: int) -> Identity:
    """Narrower than the text form: an account and one of four types. What the text form refuses is refused here too, so that
    every identity has a text that reads back."""
    if number & 0xFFFF_FFFF == 0 or number >> 52 & 0xF not in _LEGACY_STEAM_TYPES:
        raise WireError(f"legacy identity: {number} is not a valid Steam id")
    return Identity.steam_id(number)


# Certificates and session-crypto records


def decode_certificate(data: bytes) -> Certificate:
    """Read the bytes of `SignedCertificate.cert`; raises WireError."""
    return _certificate_from(parse(pb.Certificate, within(data, CERTIFICATE_BYTES_MAX, "certificate")))


def _certificate_from(message: pb.Certificate) -> Certificate:
    return Certificate(
        key_type=message.key_type,
        key_data=within(message.key_data, KEY_BYTES_MAX, "certificate key"),
        identity_fields=identity_fields_from(message),
        time_created=message.time_created,
        time_expiry=message.time_expiry,
        app_ids=tuple(message.app_ids),
        datacenter_ids=tuple(message.datacenter_ids),
    )


def unknown_certificate_fields(data: bytes) -> tuple[int, ...]:
    """Numbers of the fields in a well-formed certificate that nobody here heeds, in order; 13, for example, lists IP addresses
    that the key is restricted to. Raises WireError for what has no such list.
    """
    found: set[int] = set()
    at = 0
    while at < len(data):
        tag, at = decode_varint(data, at)
        number, wire_type = tag >> 3, tag & 7
        if number not in _CERTIFICATE_FIELDS:
            found.add(number)
        if wire_type == 0:
            _, at = decode_varint(data, at)
        elif wire_type == _LENGTH_DELIMITED:
            size, at = decode_varint(data, at)
            at += size
        elif wire_type in _FIXED_BYTES:
            at += _FIXED_BYTES[wire_type]
        else:
            raise WireError(f"certificate: field {number} has wire type {wire_type}")
    if at > len(data):
        raise WireError("certificate: its last field is cut off")
    return tuple(sorted(found))


def encode_certificate(certificate: Certificate) -> bytes:
    """The bytes to sign and send."""
    return _certificate_into(certificate).SerializeToString()


def _certificate_into(certificate: Certificate) -> pb.Certificate:
    fields = certificate.identity_fields
    return pb.Certificate(
        key_type=certificate.key_type or None,
        key_data=certificate.key_data or None,
        legacy_steam_id=fields.legacy_steam_id,
        datacenter_ids=certificate.datacenter_ids,
        time_created=certificate.time_created or None,
        time_expiry=certificate.time_expiry or None,
        app_ids=certificate.app_ids,
        legacy_identity=legacy_identity_into(fields.legacy_binary),
        identity_string=fields.identity_string,
    )


def decode_signed_certificate(data: bytes) -> SignedCertificate:
    """Read a certificate as stored and exchanged by certificate tools; a private key in it is skipped. Raises WireError."""
    return signed_certificate_from(parse(pb.SignedCertificate, data))


def encode_signed_certificate(signed: SignedCertificate) -> bytes:
    """The form to store and to exchange; it never holds a private key."""
    return signed_certificate_into(signed).SerializeToString()


def decode_stored_certificate(data: bytes) -> StoredCertificate:
    """Read a certificate as stored, with the private key if there is one beside it. Raises WireError."""
    message = parse(pb.StoredCertificate, within(data, STORED_CERTIFICATE_BYTES_MAX, "stored certificate"))
    signed = signed_certificate_from(parse(pb.SignedCertificate, data))
    if not signed.cert:
        raise WireError("stored certificate: there is no certificate in it")
    return StoredCertificate(signed, message.private_key if message.HasField("private_key") else None)


def encode_stored_certificate(stored: StoredCertificate) -> bytes:
    """The form to store, which `SetCertificate` of the reference takes: never to send to anybody if it holds the private key."""
    signed = stored.signed
    return pb.StoredCertificate(
        private_key=stored.private_key,
        cert=signed.cert or None,
        ca_key_id=signed.ca_key_id,
        ca_signature=signed.ca_signature or None,
    ).SerializeToString()


def decode_certificate_request(data: bytes) -> Certificate:
    """What somebody wants certified (`GetCertificateRequest` of the reference makes these); raises WireError.

    Nobody signed it: whether it comes from whom it names is for the authority to find out.
    """
    message = parse(pb.CertificateRequest, within(data, STORED_CERTIFICATE_BYTES_MAX, "certificate request"))
    if not message.HasField("cert"):
        raise WireError("certificate request: there is no certificate in it")
    return _certificate_from(message.cert)


def encode_certificate_request(wanted: Certificate) -> bytes:
    """A request for a certificate like this one."""
    return pb.CertificateRequest(cert=_certificate_into(wanted)).SerializeToString()


def decode_crypt_info(data: bytes) -> CryptInfo:
    """Read the bytes of `SignedCryptInfo.info`; raises WireError."""
    message = parse(pb.CryptInfo, within(data, CRYPT_INFO_BYTES_MAX, "crypt info"))
    return CryptInfo(
        key_type=message.key_type,
        key_data=within(message.key_data, KEY_BYTES_MAX, "crypt info key"),
        nonce=message.nonce,
        protocol_version=message.protocol_version,
        ciphers=tuple(message.ciphers),
        capabilities=_decode_capabilities(message.capabilities) if message.HasField("capabilities") else None,
    )


def encode_crypt_info(info: CryptInfo) -> bytes:
    """The bytes to sign and send."""
    return pb.CryptInfo(
        key_type=info.key_type or None,
        key_data=info.key_data or None,
        nonce=info.nonce,
        protocol_version=info.protocol_version or None,
        ciphers=info.ciphers,
        capabilities=_encode_capabilities(info.capabilities) if info.capabilities else None,
    ).SerializeToString()


def _decode_capabilities(data: bytes) -> Capabilities:
    message = parse(pb.Capabilities, data)
    if len(message.run_id) != RUN_ID_BYTES:
        raise WireError(f"capabilities: a run id of {len(message.run_id)} bytes, not {RUN_ID_BYTES}")
    return Capabilities(message.features, message.run_id, within(message.binding, BINDING_BYTES_MAX, "capabilities binding"))


def _encode_capabilities(capabilities: Capabilities) -> bytes:
    if len(capabilities.run_id) != RUN_ID_BYTES:
        raise UsageError(f"a run id has {RUN_ID_BYTES} bytes, not {len(capabilities.run_id)}")
    return pb.Capabilities(
        features=capabilities.features, run_id=capabilities.run_id, binding=capabilities.binding or None
    ).SerializeToString()


# Parts of larger messages: the codecs of control packets and of signals share them


def signed_certificate_from(message: pb.SignedCertificate) -> SignedCertificate:
    """The value of a parsed certificate message; raises WireError if a field is too long."""
    return SignedCertificate(
        cert=within(message.cert, CERTIFICATE_BYTES_MAX, "certificate"),
        ca_key_id=message.ca_key_id if message.HasField("ca_key_id") else None,
        ca_signature=within(message.ca_signature, SIGNATURE_BYTES_MAX, "certificate signature"),
    )


def signed_certificate_into(signed: SignedCertificate) -> pb.SignedCertificate:
    """The message for a value."""
    return pb.SignedCertificate(cert=signed.cert or None, ca_key_id=signed.ca_key_id, ca_signature=signed.ca_signature or None)


def signed_crypt_info_from(message: pb.SignedCryptInfo) -> SignedCryptInfo:
    """The value of a parsed session-crypto message; raises WireError if a field is too long."""
    return SignedCryptInfo(
        info=within(message.info, CRYPT_INFO_BYTES_MAX, "crypt info"),
        signature=within(message.signature, SIGNATURE_BYTES_MAX, "crypt info signature"),
    )


def signed_crypt_info_into(signed: SignedCryptInfo) -> pb.SignedCryptInfo:
    """The message for a value."""
    return pb.SignedCryptInfo(info=signed.info or None, signature=signed.signature or None)


def identity_fields_from(message: CarriesIdentity) -> IdentityFields:
    """The identity fields of a parsed message; raises WireError if one is too long."""
    text = message.identity_string if message.HasField("identity_string") else None
    return IdentityFields(
        identity_string=None if text is None else within(text, IDENTITY_STRING_BYTES_MAX, "identity"),
        legacy_binary=_legacy_from(message.legacy_identity) if message.HasField("legacy_identity") else None,
        legacy_steam_id=message.legacy_steam_id if message.HasField("legacy_steam_id") else None,
    )


def legacy_identity_into(legacy: LegacyIdentity | None) -> pb.LegacyIdentity | None:
    """The message for the legacy form, if there is one."""
    if legacy is None:
        return None
    return pb.LegacyIdentity(
        generic_bytes=legacy.generic_bytes,
        generic_string=legacy.generic_string,
        ipv6_and_port=legacy.ipv6_and_port,
        steam_id=legacy.steam_id,
    )


def _legacy_from(message: pb.LegacyIdentity) -> LegacyIdentity:
    def field(name: str, value: bytes) -> bytes | None:
        return within(value, LEGACY_FIELD_BYTES_MAX, f"legacy identity {name}") if message.HasField(name) else None

    return LegacyIdentity(
        generic_bytes=field("generic_bytes", message.generic_bytes),
        generic_string=field("generic_string", message.generic_string),
        ipv6_and_port=field("ipv6_and_port", message.ipv6_and_port),
        steam_id=message.steam_id if message.HasField("steam_id") else None,
    )
