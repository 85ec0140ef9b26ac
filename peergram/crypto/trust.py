"""Which certificates an authority vouches for.

Wire protocol, part 1, chapter 17. A store holds root keys, trusted for everything, and certificates of further authority keys,
each signed by another. A key is trusted when some certificate of it leads to a root; what it may vouch for (apps, data centers,
until when) shrinks along the way. Verdicts are the reference's sentences, since both sides' logs should name a defect alike.
"""

from __future__ import annotations

from dataclasses import dataclass

from peergram.config import AUTHORITY_CHAIN_MAX, CERTIFICATE_AHEAD_S_MAX
from peergram.crypto.keys import KEY_BYTES, SIGNATURE_BYTES, key_id, verify
from peergram.errors import UsageError, WireError
from peergram.wire.certificates import (
    KEY_TYPE_ED25519,
    Certificate,
    IdentityFields,
    SignedCertificate,
    decode_certificate,
    unknown_certificate_fields,
)


@dataclass(frozen=True, slots=True)
class Scope:
    """What a key may vouch for; an empty list of a certificate, None here, means no restriction."""

    app_ids: frozenset[int] | None = None
    datacenter_ids: frozenset[int] | None = None
    expiry_s: int | None = None
    """Unix seconds; None for a root, which does not expire."""

    def allows_app(self, app_id: int) -> bool:
        """Whether certificates for this app are within the scope."""
        return self.app_ids is None or app_id in self.app_ids

    def narrowed(self, certificate: Certificate) -> Scope:
        """The scope of a key that a key of this scope certified."""
        return Scope(
            _intersection(self.app_ids, certificate.app_ids),
            _intersection(self.datacenter_ids, certificate.datacenter_ids),
            certificate.time_expiry if self.expiry_s is None else min(self.expiry_s, certificate.time_expiry),
        )

    @property
    def is_empty(self) -> bool:
        """Whether no app or no data center is left."""
        return frozenset() in (self.app_ids, self.datacenter_ids)


@dataclass(slots=True)
class LeafVerdict:
    """The scope of the authority that vouches for a leaf certificate, or the sentence that says why none does."""

    scope: Scope | None
    text: str = ""


@dataclass(slots=True)
class _AuthorityCertificate:
    signed: SignedCertificate
    certificate: Certificate


class TrustStore:
    """Roots, further authority keys, revoked keys. Keys are named by `crypto.keys.key_id`."""

    __slots__ = ("_certificates", "_public_keys", "_revoked", "_roots", "_verdicts")

    def __init__(self) -> None:
        self._public_keys: dict[int, bytes] = {}
        self._roots: set[int] = set()
        self._certificates: dict[int, list[_AuthorityCertificate]] = {}
        self._revoked: set[int] = set()
        self._verdicts: dict[int, Scope | str] = {}

    def add_root(self, public_key: bytes) -> int:
        """Trust this Ed25519 key (32 bytes) for everything; returns its id."""
        if len(public_key) != KEY_BYTES:
            raise UsageError(f"a root is an Ed25519 public key of {KEY_BYTES} bytes, not {len(public_key)}")
        added = self._add_key(public_key)
        self._roots.add(added)
        return added

    def add_authority(self, signed: SignedCertificate) -> int:
        """Hold an authority's certificate, trusted as far as its signer is (who may be added later); returns the id of its key.

        Raises UsageError, which names the defect, for a certificate that no authority can have.
        """
        certificate = _checked_authority(signed)
        added = self._add_key(certificate.key_data)
        self._certificates.setdefault(added, []).append(_AuthorityCertificate(signed, certificate))
        self._certificates[added].sort(key=lambda entry: entry.certificate.time_created, reverse=True)
        return added

    def revoke(self, revoked_key_id: int) -> None:
        """Never trust this key again, neither as an authority nor as a leaf."""
        self._revoked.add(revoked_key_id)
        self._verdicts.clear()

    def is_revoked(self, public_key: bytes) -> bool:
        """Whether this key must not be believed, whoever vouches for it."""
        return bool(self._revoked) and key_id(public_key) in self._revoked

    @property
    def key_ids(self) -> frozenset[int]:
        """Roots and further authorities, trusted or not."""
        return frozenset(self._public_keys)

    @property
    def root_ids(self) -> frozenset[int]:
        """Roots that are not revoked."""
        return frozenset(self._roots - self._revoked)

    def scope_of(self, authority: int) -> Scope | str:
        """What this key may vouch for, or why it is not trusted; whether its time is over is not looked at."""
        return self._scope_of(authority) if authority in self._public_keys else "It is not known to us"

    def check_leaf(self, signed: SignedCertificate, wall_s: int) -> LeafVerdict:
        """Whether an authority of this store vouches for `signed` at Unix time `wall_s`."""
        signer = signed.ca_key_id
        if not signed.cert:
            return LeafVerdict(None, "No signed data")
        if not signed.ca_signature:
            return LeafVerdict(None, "No signature")
        if not signer:
            return LeafVerdict(None, "Missing CA Key ID")
        if signer not in self._public_keys:
            return LeafVerdict(None, f"CA key {signer} is not known to us")
        scope = self._scope_of(signer)
        if isinstance(scope, str):
            return LeafVerdict(None, f"CA key {signer} is not trusted.  {scope}")
        if scope.expiry_s is not None and scope.expiry_s < wall_s:
            return LeafVerdict(None, f"CA key {signer} (or an antecedent) expired {wall_s - scope.expiry_s} seconds ago!")
        defect = self._defect_of(signed, signer, wall_s)
        return LeafVerdict(None, defect) if defect else LeafVerdict(scope)

    def _defect_of(self, signed: SignedCertificate, signer: int, wall_s: int) -> str:
        if len(signed.ca_signature) != SIGNATURE_BYTES:
            return "Signature has invalid length"
        if not self._is_signed_by(signed, signer):
            return "Signature verification failed"
        try:
            certificate = decode_certificate(signed.cert)
            unknown = unknown_certificate_fields(signed.cert)
        except WireError:
            return "Cert failed protobuf decode"
        if defect := _defect_of_times(certificate, wall_s):
            return defect
        if certificate.key_type != KEY_TYPE_ED25519:
            return f"Cert has unsupported key type {certificate.key_type}"
        if len(certificate.key_data) != KEY_BYTES:
            return "Cert has invalid public key"
        if key_id(certificate.key_data) in self._revoked:
            return "Cert has untrusted public key.  Revoked"
        return f"Cert has unknown fields, which may restrict it: {', '.join(map(str, unknown))}" if unknown else ""

    def _scope_of(self, authority: int) -> Scope | str:
        verdict = self._verdicts.get(authority)
        if verdict is None:
            verdict = self._verdicts[authority] = self._find_scope(authority, frozenset())
        return verdict

    def _find_scope(self, authority: int, beneath: frozenset[int]) -> Scope | str:
        """The scope of a key or why it is not trusted; `beneath` are the keys whose trust is being sought through this one."""
        if authority in self._revoked:
            return "Revoked"
        if authority in self._roots:
            return Scope()
        if len(beneath) > AUTHORITY_CHAIN_MAX:
            return f"Its chain of certificates is longer than {AUTHORITY_CHAIN_MAX}"
        reason = "No certificate for it"
        for entry in self._certificates.get(authority, []):
            found = self._scope_through(entry, beneath | {authority})
            if isinstance(found, Scope):
                return found
            reason = found
        return reason

    def _scope_through(self, entry: _AuthorityCertificate, beneath: frozenset[int]) -> Scope | str:
        signer = entry.signed.ca_key_id
        if signer in beneath:
            return "Its chain of certificates runs in a circle"
        if signer is None or signer not in self._public_keys:
            return f"It is signed by CA key {signer}, which is not known to us"
        if not self._is_signed_by(entry.signed, signer):
            return "The signature of its certificate does not verify"
        parent = self._find_scope(signer, beneath)
        if isinstance(parent, str):
            return f"It is signed by CA key {signer}, which is not trusted: {parent}"
        scope = parent.narrowed(entry.certificate)
        return "Its certificate and its antecedents' leave it no app or no data center" if scope.is_empty else scope

    def _is_signed_by(self, signed: SignedCertificate, signer: int) -> bool:
        return verify(self._public_keys[signer], signed.ca_signature, signed.cert)

    def _add_key(self, public_key: bytes) -> int:
        added = key_id(public_key)
        self._public_keys[added] = public_key
        self._verdicts.clear()
        return added


def _defect_of_times(certificate: Certificate, wall_s: int) -> str:
    """Times a little ahead of our clock are its fault; the reference looks at the end only."""
    created_s, expiry_s = certificate.time_created, certificate.time_expiry
    if expiry_s < wall_s:
        return f"Cert expired {wall_s - expiry_s} seconds ago at {expiry_s} (current time {wall_s})"
    if created_s > wall_s + CERTIFICATE_AHEAD_S_MAX:
        return f"Cert was created {created_s - wall_s} seconds in the future at {created_s} (current time {wall_s})"
    return ""


def _checked_authority(signed: SignedCertificate) -> Certificate:
    try:
        certificate = decode_certificate(signed.cert)
        unknown = unknown_certificate_fields(signed.cert)
    except WireError as error:
        raise UsageError(f"authority certificate: {error}") from error
    if certificate.identity_fields != IdentityFields():
        raise UsageError("authority certificate: it names an identity, so it is a leaf and not an authority")
    if certificate.key_type != KEY_TYPE_ED25519 or len(certificate.key_data) != KEY_BYTES:
        raise UsageError(f"authority certificate: its key must be an Ed25519 key of {KEY_BYTES} bytes")
    if len(signed.ca_signature) != SIGNATURE_BYTES:
        raise UsageError(f"authority certificate: its signature must be {SIGNATURE_BYTES} bytes long")
    if not certificate.time_expiry:
        raise UsageError("authority certificate: it must say when it expires")
    if unknown:
        fields = ", ".join(str(each) for each in unknown)
        raise UsageError(f"authority certificate: it has unknown fields, which may restrict it: {fields}")
    return certificate


def _intersection(wider: frozenset[int] | None, listed: tuple[int, ...]) -> frozenset[int] | None:
    if not listed:
        return wider
    return frozenset(listed) if wider is None else wider & frozenset(listed)
