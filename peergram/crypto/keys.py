"""Keys: Ed25519 to sign with, X25519 to agree on a secret with, and the two short names of a public key.

Private keys never show: not in `repr`, not in errors. Every check here answers with a value (`False`, `None`) and never raises
for what a peer sent. Key ids are those of the reference's certificates; fingerprints are ours, for people to compare.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable

from cryptography.exceptions import InternalError, InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from peergram.errors import UsageError

KEY_BYTES = 32
SIGNATURE_BYTES = 64

_FINGERPRINT_CHARACTERS = 43

Entropy = Callable[[int], bytes]
"""`entropy(n)` returns n unpredictable bytes, as `os.urandom` does."""

_FIELD_PRIME = 2**255 - 19
_ORDER_EIGHT_Y = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_SMALL_ORDER_KEYS = frozenset(
    (y | sign << 255).to_bytes(KEY_BYTES, "little")
    for y in (0, 1, _ORDER_EIGHT_Y, _FIELD_PRIME - _ORDER_EIGHT_Y, _FIELD_PRIME - 1, _FIELD_PRIME, _FIELD_PRIME + 1)
    for sign in (0, 1)
)
"""Every encoding of a curve point of order 1, 2, 4 or 8: signatures under such a "key" can be made without any secret."""


_PEM_MARK = b"-----BEGIN PRIVATE KEY-----"
_OTHER_PEM = (
    (b"-----BEGIN ENCRYPTED PRIVATE KEY", "holds a key behind a password; write it without: openssl pkey -in OLD -out NEW"),
    (b"-----BEGIN OPENSSH PRIVATE KEY", "holds a key in OpenSSH's own format; it must be PKCS8 PEM"),
    (b"-----BEGIN PUBLIC KEY", "holds a public key; the private one is needed"),
    (b"-----BEGIN CERTIFICATE", "holds a certificate; a private key is needed"),
)


class SigningKey:
    """An Ed25519 private key. `public_bytes` (32) is what others know it by."""

    __slots__ = ("_private", "public_bytes")

    def __init__(self, private_bytes: bytes) -> None:
        """From the 32 bytes that `private_bytes` gave; raises `UsageError` for any other length."""
        self._private = Ed25519PrivateKey.from_private_bytes(_checked_private(private_bytes))
        self.public_bytes: bytes = self._private.public_key().public_bytes_raw()

    @classmethod
    def generate(cls, entropy: Entropy) -> SigningKey:
        """A new key from 32 bytes of `entropy`."""
        return cls(entropy(KEY_BYTES))

    @classmethod
    def from_pem(cls, text: bytes) -> SigningKey:
        """From PKCS8 PEM, as `to_pem` and OpenSSL write it; text before it is ignored.

        Raises UsageError for anything else: a sentence that goes on after the name of the file, and holds nothing of the text.
        """
        if text.count(b"-----BEGIN ") > 1:
            raise UsageError("holds more than one key or certificate; it must hold one private key and nothing else")
        for mark, sentence in _OTHER_PEM:
            if mark in text:
                raise UsageError(sentence)
        if _PEM_MARK not in text:
            raise UsageError(f"holds no key: a line with {_PEM_MARK.decode()} is missing")
        try:
            key = load_pem_private_key(text, None)
        except (ValueError, TypeError, UnsupportedAlgorithm, InternalError):
            # The last one comes for 32 bytes that claim to be an Ed448 key.
            raise UsageError("holds a private key that is damaged, or of an unknown kind") from None
        if not isinstance(key, Ed25519PrivateKey):
            raise UsageError(f"holds a key of another kind ({type(key).__name__.strip('_')}); it must be an Ed25519 key")
        return cls(key.private_bytes_raw())

    def to_pem(self) -> bytes:
        """The secret as PKCS8 PEM: for a key file, and for nothing else."""
        return self._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def private_bytes(self) -> bytes:
        """The secret, 32 bytes: for a key file, and for nothing else."""
        return self._private.private_bytes_raw()

    def sign(self, data: bytes) -> bytes:
        """The signature of `data`, 64 bytes."""
        return self._private.sign(data)

    def __repr__(self) -> str:
        return f"<SigningKey {fingerprint(self.public_bytes)}>"


class AgreementKey:
    """An X25519 private key, made for one connection and then forgotten."""

    __slots__ = ("_private", "public_bytes")

    def __init__(self, private_bytes: bytes) -> None:
        """From 32 bytes; raises `UsageError` for any other length."""
        self._private = X25519PrivateKey.from_private_bytes(_checked_private(private_bytes))
        self.public_bytes: bytes = self._private.public_key().public_bytes_raw()

    @classmethod
    def generate(cls, entropy: Entropy) -> AgreementKey:
        """A new key from 32 bytes of `entropy`."""
        return cls(entropy(KEY_BYTES))

    def agree(self, peer_public: bytes) -> bytes | None:
        """The 32 bytes both sides share; None if `peer_public` is no key, or of small order (everybody knows the result)."""
        try:
            return self._private.exchange(X25519PublicKey.from_public_bytes(peer_public))
        except ValueError:
            return None

    def __repr__(self) -> str:
        return "<AgreementKey>"


def verify(public_key: bytes, signature: bytes, data: bytes) -> bool:
    """Whether `signature` over `data` was made with the private half of `public_key`. Never raises.

    Keys of small order are refused, although plain Ed25519 takes them: an identity that is such a key could be anybody's.
    """
    if public_key in _SMALL_ORDER_KEYS:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True


def is_weak_key(public_key: bytes) -> bool:
    """Whether it is a key under which anybody can sign, and `verify` therefore nothing."""
    return public_key in _SMALL_ORDER_KEYS


def key_id(public_key: bytes) -> int:
    """The number certificates name a signing key by: first 8 bytes of its SHA-256, little-endian."""
    return int.from_bytes(hashlib.sha256(public_key).digest()[:8], "little")


def fingerprint(public_key: bytes) -> str:
    """`SHA256:` and unpadded base64: OpenSSH's look, but of the bare 32 key bytes rather than of OpenSSH's wrapping of them."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(public_key).digest()).decode("ascii").rstrip("=")


def is_fingerprint(text: str) -> bool:
    """Whether this is a text that `fingerprint` could have returned."""
    name, colon, code = text.partition(":")
    if name != "SHA256" or not colon or len(code) != _FINGERPRINT_CHARACTERS:
        return False
    try:
        digest = base64.b64decode(code + "=", validate=True)
    except ValueError:
        return False
    # The last character has two bits to spare, and only one spelling counts: fingerprints are compared as texts.
    return base64.b64encode(digest).decode("ascii") == code + "="


def _checked_private(private_bytes: bytes) -> bytes:
    if len(private_bytes) != KEY_BYTES:
        raise UsageError(f"a private key is {KEY_BYTES} bytes long, not {len(private_bytes)}")
    return private_bytes
