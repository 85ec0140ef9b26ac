"""Certificates, session-crypto records and the identities in them."""

from __future__ import annotations

from fuzz.run import load_vectors, run
from peergram.errors import WireError
from peergram.wire.certificates import (
    decode_certificate,
    decode_crypt_info,
    decode_signed_certificate,
    encode_certificate,
    encode_crypt_info,
    encode_signed_certificate,
    read_identity,
    write_identity,
)

CERTIFICATE, CRYPT_INFO, SIGNED_CERTIFICATE = range(3)


def fuzz_one(data: bytes) -> None:
    """The first byte chooses a decoder; the rest is refused with WireError, or gives a record that reads the same after being
    written again. An identity in a certificate is refused with WireError or is the same after being written and read."""
    kind, data = data[0] % 3 if data else CERTIFICATE, data[1:]
    try:
        if kind == CERTIFICATE:
            certificate = decode_certificate(data)
            assert decode_certificate(encode_certificate(certificate)) == certificate
            identity = read_identity(certificate.identity_fields)
            assert identity is None or read_identity(write_identity(identity)) == identity
        elif kind == CRYPT_INFO:
            info = decode_crypt_info(data)
            assert decode_crypt_info(encode_crypt_info(info)) == info
        else:
            signed = decode_signed_certificate(data)
            assert decode_signed_certificate(encode_signed_certificate(signed)) == signed
    except WireError:
        return


def seeds() -> list[bytes]:
    """Recorded records of each kind."""
    crypto = load_vectors("01-crypto")
    certificates = [bytes.fromhex(row["cert"]) for row in crypto["identity"]]
    infos = [bytes.fromhex(row[side]["crypt_info"]) for row in crypto["kdf"] for side in ("client", "server")]
    authority = crypto["certificate_authority"]
    signed = [bytes.fromhex(authority[name]["signed_cert"]) for name in ("intermediate", "leaf_signed_by_root")]
    kinds = [(CERTIFICATE, certificates), (CRYPT_INFO, infos), (SIGNED_CERTIFICATE, signed)]
    return [bytes((kind,)) + record for kind, records in kinds for record in records]


if __name__ == "__main__":
    run(fuzz_one, seeds())
