"""Ed25519 keys as text: private ones as the reference's certificate tool and `ssh-keygen` write them, public ones in usual forms.

Keys under a passphrase are not read. Nothing of a private key shows in what is raised.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from peergram.crypto.keys import KEY_BYTES, SigningKey
from peergram.errors import UsageError, WireError
from peergram.wire.certificate_text import SSH_KEY_TYPE, read_base64, read_public_key, split_blocks, write_block
from peergram.wire.cursor import Cursor

PRIVATE_KEY_LABEL: Final = "OPENSSH PRIVATE KEY"
PKCS8_LABEL: Final = "PRIVATE KEY"
PUBLIC_LABEL: Final = "PUBLIC KEY"
_HEX_DIGITS = 2 * KEY_BYTES
_MAGIC = b"openssh-key-v1\0"
_PLAIN = b"none"
_CHECK = bytes(8)
"""Tells a right passphrase from a wrong one, where there is one."""
_BLOCK_BYTES = 8


def write_private_key(key: SigningKey, comment: str = "") -> str:
    """The text of a key file without a passphrase."""
    public = _string(SSH_KEY_TYPE.encode()) + _string(key.public_bytes)
    private = _CHECK + public + _string(key.private_bytes() + key.public_bytes) + _string(comment.encode())
    padding = bytes(range(1, 1 + -len(private) % _BLOCK_BYTES))
    head = _MAGIC + _string(_PLAIN) + _string(_PLAIN) + _string(b"") + (1).to_bytes(4, "big")
    return write_block(PRIVATE_KEY_LABEL, head + _string(public) + _string(private + padding))


def read_private_key(text: str) -> SigningKey:
    """The key of such a file; raises UsageError with the defect, for the end of a sentence."""
    try:
        blocks, rest = split_blocks(text)
        if len(blocks) != 1 or rest.strip():
            raise UsageError("it must hold one private key and nothing else")
        label, body, _ = blocks[0]
        if label != PRIVATE_KEY_LABEL:
            raise UsageError(f"it holds {label!r}, where {PRIVATE_KEY_LABEL!r} is needed")
        return _read_body(read_base64(body))
    except WireError as error:
        raise UsageError(str(error)) from None


def read_any_public_key(text: str) -> bytes:
    """The public key in a line of OpenSSH's, in 64 hex digits with or without `gen:` ahead, or in a PEM block; a private key in
    one will do as well. Raises UsageError with the defect, for the end of a sentence.
    """
    try:
        blocks, rest = split_blocks(text)
        lines = [line for line in rest.splitlines() if line.strip() and not line.lstrip().startswith("#")]
        if len(blocks) + len(lines) != 1:
            raise UsageError(f"it must hold one public key and nothing else, not {len(blocks) + len(lines)} things")
        if blocks:
            return _public_key_of_block(blocks[0][0], text)
        digits = lines[0].strip().removeprefix("gen:")
        if len(digits) == _HEX_DIGITS and set(digits) <= set("0123456789abcdefABCDEF"):
            return bytes.fromhex(digits)
        return read_public_key(lines[0])[0]
    except WireError as error:
        raise UsageError(str(error)) from None


def _public_key_of_block(label: str, text: str) -> bytes:
    if label == PRIVATE_KEY_LABEL:
        return read_private_key(text).public_bytes
    if label not in (PKCS8_LABEL, PUBLIC_LABEL):
        raise UsageError(f"it holds {label!r}, which is no key that is of use here")
    try:
        if label == PKCS8_LABEL:
            private = load_pem_private_key(text.strip().encode(), None)
            key = private.public_key()
        else:
            key = load_pem_public_key(text.strip().encode())
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise UsageError(f"its {label!r} cannot be read") from None
    if not isinstance(key, Ed25519PublicKey):
        raise UsageError("its key is not an Ed25519 key")
    return key.public_bytes_raw()


def _read_body(data: bytes) -> SigningKey:
    cursor = Cursor(data)
    if cursor.take(min(len(_MAGIC), cursor.left)) != _MAGIC:
        raise UsageError("it is not in OpenSSH's format")
    cipher, kdf, _ = (_take_string(cursor) for _ in range(3))
    if (cipher, kdf) != (_PLAIN, _PLAIN):
        raise UsageError("it is protected by a passphrase; 'ssh-keygen -p -f FILE' makes a copy without one")
    if cursor.integer(4, "big") != 1:
        raise UsageError("it must hold one key")
    public = _take_public(Cursor(_take_string(cursor)))
    private = Cursor(_take_string(cursor))
    if private.take(4) != private.take(4):
        raise UsageError("it is damaged: its two check numbers differ")
    again, secret = _take_public(private), _take_string(private)
    # Behind it stand a comment and padding, which some tools leave out.
    if len(secret) != 2 * KEY_BYTES:
        raise UsageError("it is damaged: the key has a wrong length")
    key = SigningKey(secret[:KEY_BYTES])
    if not public == again == secret[KEY_BYTES:] == key.public_bytes:
        raise UsageError("it is damaged: its public key does not belong to its private key")
    return key


def _take_public(cursor: Cursor) -> bytes:
    kind = _take_string(cursor)
    if kind != SSH_KEY_TYPE.encode():
        shown = "".join(c if c.isprintable() else "?" for c in kind[:40].decode("ascii", "replace"))
        raise UsageError(f"it is a key of the kind {shown!r}; only {SSH_KEY_TYPE!r} will do")
    return _take_string(cursor)


def _take_string(cursor: Cursor) -> bytes:
    return cursor.take(cursor.integer(4, "big"))


def _string(content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + content
