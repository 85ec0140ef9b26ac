"""What an authority does: issue certificates that others believe because they trust its key.

A leaf certificate says that a key belongs to an identity; an authority's certificate says that a key may issue certificates,
within bounds (wire protocol, part 1, chapters 7 and 17). Nothing is issued that a checker would refuse, or that a hello could not
carry: every such mistake is a UsageError here, where it can still be mended, rather than a failed connection elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable

from peergram.config import LEAF_CERTIFICATE_BYTES_MAX
from peergram.crypto.keys import KEY_BYTES, SigningKey, is_weak_key, key_id
from peergram.crypto.trust import Scope
from peergram.errors import UsageError
from peergram.identity import Identity, IdentityKind
from peergram.wire.certificates import (
    KEY_TYPE_ED25519,
    Certificate,
    IdentityFields,
    SignedCertificate,
    encode_certificate,
    write_identity,
)

WHOLE_SCOPE = Scope()
"""A root's."""
_U32_MAX = (1 << 32) - 1


def issue_certificate(
    authority_key: SigningKey,
    *,
    subject_key: bytes,
    identity: Identity,
    app_ids: Iterable[int],
    created_s: int,
    expires_s: int,
    datacenter_ids: Iterable[int] = (),
    scope: Scope = WHOLE_SCOPE,
) -> SignedCertificate:
    """Certify that `subject_key` (32 bytes) is `identity`'s, for these apps (0 is ours) and from now to `expires_s` (Unix time).

    `scope` is what the authority itself may vouch for. The certificate holds one identity, as all of the reference's do.
    """
    certificate = Certificate(
        KEY_TYPE_ED25519,
        _checked_key(subject_key, authority_key),
        write_identity(_checked_identity(identity, subject_key)),
        *_checked_times(created_s, expires_s, scope),
        _checked_numbers(app_ids, "app id", scope.app_ids),
        _checked_numbers(datacenter_ids, "data center id", scope.datacenter_ids),
    )
    if not certificate.app_ids:
        raise UsageError("a certificate for somebody must name the apps it is for: 0 is what peers use here")
    signed = _sign(authority_key, certificate)
    if len(signed.cert) > LEAF_CERTIFICATE_BYTES_MAX:
        most = f"at most {LEAF_CERTIFICATE_BYTES_MAX} fit into a hello"
        raise UsageError(f"the certificate would have {len(signed.cert)} bytes, and {most}: name fewer apps")
    return signed


def issue_authority(
    authority_key: SigningKey,
    *,
    subject_key: bytes,
    app_ids: Iterable[int] = (),
    datacenter_ids: Iterable[int] = (),
    created_s: int,
    expires_s: int,
    scope: Scope = WHOLE_SCOPE,
) -> SignedCertificate:
    """Certify that `subject_key` may issue certificates, for these apps and data centers (none named: for all of the scope)."""
    certificate = Certificate(
        KEY_TYPE_ED25519,
        _checked_key(subject_key, authority_key),
        IdentityFields(),
        *_checked_times(created_s, expires_s, scope),
        _checked_numbers(app_ids, "app id", scope.app_ids),
        _checked_numbers(datacenter_ids, "data center id", scope.datacenter_ids),
    )
    return _sign(authority_key, certificate)


def check_certifiable(identity: Identity, subject_key: bytes) -> None:
    """Raises UsageError if no authority can vouch for this identity with this key."""
    _checked_identity(identity, subject_key)


def _sign(authority_key: SigningKey, certificate: Certificate) -> SignedCertificate:
    data = encode_certificate(certificate)
    return SignedCertificate(data, key_id(authority_key.public_bytes), authority_key.sign(data))


def _checked_key(subject_key: bytes, authority_key: SigningKey) -> bytes:
    if len(subject_key) != KEY_BYTES:
        raise UsageError(f"a certificate is for an Ed25519 public key of {KEY_BYTES} bytes, not {len(subject_key)}")
    if is_weak_key(subject_key):
        raise UsageError("this public key is one under which anybody can sign")
    if subject_key == authority_key.public_bytes:
        raise UsageError("an authority cannot vouch for its own key: whoever is certified needs a key of his own")
    return subject_key


def _checked_identity(identity: Identity, subject_key: bytes) -> Identity:
    if identity.kind == IdentityKind.INVALID:
        raise UsageError("a certificate needs an identity, such as str:alice")
    if identity.kind == IdentityKind.IP_ADDRESS:
        raise UsageError(f"an authority cannot vouch for an address: {identity.printable} is nobody's name")
    if identity.public_key_bytes not in (None, subject_key):
        raise UsageError(f"{identity.printable} is another key than the one to be certified")
    return identity


def _checked_times(created_s: int, expires_s: int, scope: Scope) -> tuple[int, int]:
    if not 0 < created_s <= _U32_MAX:
        raise UsageError(
            f"certificates are made between 1970 and 2106, not at Unix time {created_s}: is this machine's clock right?"
        )
    if expires_s <= created_s:
        raise UsageError("a certificate must expire after it is made")
    if expires_s > _U32_MAX:
        raise UsageError("no certificate can last beyond February 2106, where its field for the time ends")
    if scope.expiry_s is not None and expires_s > scope.expiry_s:
        beyond = expires_s - scope.expiry_s
        raise UsageError(
            f"it would outlast the authority's own certificate by {beyond} s: give it a shorter time, or renew that one"
        )
    return created_s, expires_s


def _checked_numbers(numbers: Iterable[int], name: str, allowed: frozenset[int] | None) -> tuple[int, ...]:
    checked = tuple(dict.fromkeys(numbers))
    for number in checked:
        if not 0 <= number <= _U32_MAX:
            raise UsageError(f"an {name} is a number from 0 to {_U32_MAX}, not {number}".replace("an data", "a data"))
        if allowed is not None and number not in allowed:
            has = ", ".join(str(each) for each in sorted(allowed)) or "none"
            raise UsageError(f"this authority may not vouch for {name} {number}, only for {has}")
    return checked
