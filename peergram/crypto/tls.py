"""Certificates of TLS servers: one made by ourselves, to be pinned by its fingerprint, and what stands in a given one."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from peergram.errors import UsageError

_VALID_DAYS = 3_650
_BACKDATED = timedelta(days=1)
_NAME = "peergram serve"


class TlsCertificate(NamedTuple):
    """A certificate and its private key, both PEM."""

    certificate: bytes
    private_key: bytes


def make_tls_certificate(wall_s: float) -> TlsCertificate:
    """A new self-signed one, on a key of its own (P-256, which every TLS stack knows). Worth what its fingerprint is."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _NAME)])
    now = datetime.fromtimestamp(wall_s, UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + timedelta(days=_VALID_DAYS))
        .sign(key, hashes.SHA256())
    )
    return TlsCertificate(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )


def tls_fingerprint(certificate_pem: bytes) -> bytes:
    """SHA-256 of the first certificate in a PEM text. Raises UsageError."""
    return hashlib.sha256(_load(certificate_pem).public_bytes(serialization.Encoding.DER)).digest()


def tls_host_names(certificate_pem: bytes) -> list[str]:
    """The hosts and addresses the first certificate in a PEM text is for, wildcards as they stand there. Raises UsageError."""
    try:
        alternatives = _load(certificate_pem).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    names = [name.lower() for name in alternatives.get_values_for_type(x509.DNSName)]
    return names + [str(address) for address in alternatives.get_values_for_type(x509.IPAddress)]


def _load(certificate_pem: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(certificate_pem)
    except ValueError as error:
        raise UsageError(f"this is no certificate in PEM form: {error}") from None
