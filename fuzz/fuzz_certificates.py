"""Certificates, session-crypto records and the identities in them."""

from __future__ import annotations

from fuzz.run import load_vectors, run
from peergram.crypto.authority_text import read_authority_text
from peergram.crypto.trust import TrustStore
from peergram.errors import UsageError, WireError
from peergram.wire.certificates import (
    SignedCertificate,
    StoredCertificate,
    decode_certificate,
    decode_certificate_request,
    decode_crypt_info,
    decode_signed_certificate,
    decode_stored_certificate,
    encode_certificate,
    encode_certificate_request,
    encode_crypt_info,
    encode_signed_certificate,
    encode_stored_certificate,
    read_identity,
    unknown_certificate_fields,
    write_identity,
)

CERTIFICATE, CRYPT_INFO, SIGNED_CERTIFICATE, STORED_CERTIFICATE, REQUEST, TEXT = KINDS = range(6)


def fuzz_one(data: bytes) -> None:
    """The first byte chooses a decoder; the rest is refused with WireError, or gives a record that reads the same after being
    written again. An identity in a certificate is refused with WireError or is the same after being written and read."""
    kind, data = data[0] % len(KINDS) if data else CERTIFICATE, data[1:]
    try:
        if kind == CERTIFICATE:
            certificate = decode_certificate(data)
            assert decode_certificate(encode_certificate(certificate)) == certificate
            assert 13 not in unknown_certificate_fields(encode_certificate(certificate))
            unknown_certificate_fields(data)
            identity = read_identity(certificate.identity_fields)
            assert identity is None or read_identity(write_identity(identity)) == identity
        elif kind == CRYPT_INFO:
            info = decode_crypt_info(data)
            assert decode_crypt_info(encode_crypt_info(info)) == info
        elif kind == SIGNED_CERTIFICATE:
            signed = decode_signed_certificate(data)
            assert decode_signed_certificate(encode_signed_certificate(signed)) == signed
        elif kind == STORED_CERTIFICATE:
            stored = decode_stored_certificate(data)
            assert decode_stored_certificate(encode_stored_certificate(stored)) == stored
        elif kind == REQUEST:
            wanted = decode_certificate_request(data)
            assert decode_certificate_request(encode_certificate_request(wanted)) == wanted
        else:
            _read_text(data.decode("utf-8", "replace"))
    except WireError:
        return


def _read_text(text: str) -> None:
    """A file of authorities is refused with UsageError, or makes a store that answers."""
    try:
        said, store = read_authority_text(text), TrustStore()
        said.put_into(store)
    except UsageError:
        return
    assert store.check_leaf(SignedCertificate(b"x", 1, bytes(64)), 1).scope is None


def seeds() -> list[bytes]:
    """Recorded records of each kind."""
    crypto = load_vectors("01-crypto")
    certificates = [bytes.fromhex(row["cert"]) for row in crypto["identity"]]
    infos = [bytes.fromhex(row[side]["crypt_info"]) for row in crypto["kdf"] for side in ("client", "server")]
    authority = crypto["certificate_authority"]
    signed = [bytes.fromhex(authority[name]["signed_cert"]) for name in ("intermediate", "leaf_signed_by_root")]
    stored = [encode_stored_certificate(StoredCertificate(decode_signed_certificate(each), bytes(32))) for each in signed]
    requests = [encode_certificate_request(decode_certificate(each)) for each in certificates]
    tool = load_vectors("04-certtool")
    texts = [f"{tool['root_public']}\n{tool['certificate']}SHA256:{'A' * 43} lost\nID5\n".encode()]
    kinds = [
        *((CERTIFICATE, certificates), (CRYPT_INFO, infos), (SIGNED_CERTIFICATE, signed)),
        *((STORED_CERTIFICATE, stored), (REQUEST, requests), (TEXT, texts)),
    ]
    return [bytes((kind,)) + record for kind, records in kinds for record in records]


if __name__ == "__main__":
    run(fuzz_one, seeds())
