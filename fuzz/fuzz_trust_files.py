"""What people and tools write of keys: certificates and requests as stored and as text, public and private keys, files of
authorities, and the names of a signaling server."""

from __future__ import annotations

import contextlib

from fuzz.run import run
from peergram.crypto.authority_text import parse_key_name, read_authority_text
from peergram.crypto.key_text import read_any_public_key, read_private_key, write_private_key
from peergram.crypto.keys import SigningKey
from peergram.crypto.trust import TrustStore
from peergram.errors import UsageError, WireError
from peergram.servers.names_file import names_text, parse_names
from peergram.wire.certificate_text import (
    read_base64,
    read_certificate,
    read_public_key,
    read_request,
    write_certificate,
    write_public_key,
    write_request,
)
from peergram.wire.certificates import (
    Certificate,
    IdentityFields,
    SignedCertificate,
    StoredCertificate,
    decode_certificate_request,
    decode_stored_certificate,
    encode_certificate,
    encode_certificate_request,
    encode_stored_certificate,
)

KEY = SigningKey(bytes(range(32)))
CERTIFICATE = Certificate(1, KEY.public_bytes, IdentityFields(b"str:alice"), 1, 2, (0,))
STORED = StoredCertificate(SignedCertificate(encode_certificate(CERTIFICATE), 7, bytes(64)), KEY.private_bytes())


def fuzz_one(data: bytes) -> None:
    """Each is refused with WireError or UsageError, or is the same after being written again."""
    text = data.decode("utf-8", "replace")
    try:
        stored = decode_stored_certificate(data)
        assert decode_stored_certificate(encode_stored_certificate(stored)) == stored
    except WireError:
        pass
    try:
        wanted = decode_certificate_request(data)
        assert decode_certificate_request(encode_certificate_request(wanted)) == wanted
    except WireError:
        pass
    for read_wire in (read_base64, read_certificate, read_request, read_public_key):
        with contextlib.suppress(WireError):
            read_wire(text)
    for read_usage in (read_private_key, read_any_public_key):
        with contextlib.suppress(UsageError):
            read_usage(text)
    number = parse_key_name(text)
    assert number is None or 0 < number < 1 << 64
    with contextlib.suppress(UsageError):
        read_authority_text(text).put_into(TrustStore())
    names, _ = parse_names(data, "names")
    assert parse_names(names_text(names).encode("utf-8", "surrogateescape"), "names") == (names, [])


def seeds() -> list[bytes]:
    """One of each."""
    texts = [
        write_certificate(STORED),
        write_request(CERTIFICATE),
        write_private_key(KEY, "a comment"),
        write_public_key(KEY.public_bytes, "a comment"),
        KEY.public_bytes.hex(),
    ]
    return [
        encode_stored_certificate(STORED),
        encode_certificate_request(CERTIFICATE),
        *(text.encode() for text in texts),
        "\n".join([*texts[3:4], write_certificate(StoredCertificate(STORED.signed))]).encode(),
    ]


if __name__ == "__main__":
    run(fuzz_one, seeds())
