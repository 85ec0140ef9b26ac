"""What a peer's certificate and crypt info must satisfy: wire protocol, part 1, chapter 9.1, one function per row, in its order.

Each check looks at a `PeerClaims`, may fill in what it found, and answers None or the `Failed` that ends the connection, with the
reference's reason and sentence. `PEER_CHECKS` are for both roles and cost two signature checks at most, `AGREEMENT_CHECKS` make
the shared secret: a client runs both on ConnectOK, a server the first on ConnectRequest and the second when it accepts.

Two rows are ours: `hello_is_the_one_signed`, for own peers, and `policy_lets_in`, which decides about those whose papers are in
order. The reference's IP_AllowWithoutAuth (23) is 0 here where only an authority's certificate would do, else 2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from peergram.config import PROTOCOL_VERSION_MIN
from peergram.crypto.derive import hello_binding
from peergram.crypto.keys import KEY_BYTES, SIGNATURE_BYTES, AgreementKey, verify
from peergram.crypto.policy import KNOWN_OTHERWISE, KeptOut, ProvenBy, Trust
from peergram.crypto.trust import Scope
from peergram.errors import EndReason, WireError
from peergram.identity import Identity, IdentityKind
from peergram.wire.certificates import (
    CIPHER_AES_256_GCM,
    CIPHER_NONE,
    KEY_TYPE_CURVE25519,
    KEY_TYPE_ED25519,
    Certificate,
    CryptInfo,
    IdentityFields,
    SignedCertificate,
    SignedCryptInfo,
    decode_certificate,
    decode_crypt_info,
    read_identity,
)

APP_ID: Final = 0
"""The open-source reference's app, and so ours."""
LANES_VERSION_MIN: Final = 11
"""Peers that understand several lanes."""

_BAD_CRYPT: Final = EndReason.REMOTE_BAD_CRYPT
_BAD_CERT: Final = EndReason.REMOTE_BAD_CERT
_BAD_VERSION: Final = EndReason.REMOTE_BAD_PROTOCOL_VERSION

_STEAM_TYPE_ANONYMOUS_GAME_SERVER: Final = 4
_CIPHERS_OF_OPTION: Final[tuple[tuple[int, ...], ...]] = (
    (CIPHER_AES_256_GCM,),
    (CIPHER_AES_256_GCM, CIPHER_NONE),
    (CIPHER_NONE, CIPHER_AES_256_GCM),
    (CIPHER_NONE,),
)


@dataclass(slots=True)
class Failed:
    """Why a handshake ended: an `EndReason` and a sentence."""

    reason: int
    debug: str
    is_other_key: bool = False
    """Whether a name that is known with another key was used: what the application should hear of."""

    @property
    def told(self) -> str:
        """What the peer hears, if it is not `debug`."""
        return KNOWN_OTHERWISE if self.is_other_key else ""


@dataclass(slots=True)
class PeerClaims:
    """What a peer says of itself, what we require, and what the checks found."""

    cert: SignedCertificate
    crypt: SignedCryptInfo
    identity: Identity
    """Whom we take the peer for; its certificate must agree."""
    connection_id: int = 0
    """What the hello says is the peer's."""
    trust: Trust = field(default_factory=Trust)
    wall_s: int = 0
    """Unix time; matters to certificates of an authority only."""
    earlier_version: int | None = None
    """Protocol version of an earlier message of this peer."""
    lanes: int = 1
    """Lanes we are set to send on."""
    peer_is_server: bool = False
    local_ciphers: tuple[int, ...] = (CIPHER_AES_256_GCM,)
    """In order of preference."""
    agreement_key: AgreementKey | None = None
    """Ours; needed by the last check only."""

    ca_scope: Scope | None = None
    """What the authority may vouch for, if one vouches for this certificate."""
    certificate: Certificate = field(default_factory=lambda: Certificate(0, b"", IdentityFields()))
    info: CryptInfo = field(default_factory=lambda: CryptInfo(0, b"", 0, 0, ()))
    proven_by: ProvenBy = "nothing"
    """What makes the identity more than a claim."""
    cipher: int = 0
    shared_secret: bytes = field(default=b"", repr=False)


Check = Callable[[PeerClaims], Failed | None]


def run_checks(checks: tuple[Check, ...], claims: PeerClaims) -> Failed | None:
    """The first failure, or None when all pass."""
    for check in checks:
        failed = check(claims)
        if failed is not None:
            return failed
    return None


def ciphers_of_option(unencrypted: int) -> tuple[int, ...]:
    """The ciphers to offer under the option Unencrypted (34), in order of preference."""
    return _CIPHERS_OF_OPTION[unencrypted]


def has_certificate_and_info(claims: PeerClaims) -> Failed | None:
    """Row 1."""
    if not claims.cert.cert or not claims.crypt.info:
        return Failed(_BAD_CRYPT, "Crypto handshake missing cert or session data")
    return None


def authority_vouches(claims: PeerClaims) -> Failed | None:
    """Row 2: a signature of an authority that does not hold counts as none, unless one is demanded."""
    if not claims.cert.ca_signature:
        return None
    verdict = claims.trust.authorities.check_leaf(claims.cert, claims.wall_s)
    claims.ca_scope = verdict.scope
    if verdict.scope is None and claims.trust.demands_authority(claims.identity):
        return Failed(_BAD_CERT, f"Bad cert: {verdict.text}")
    return None


def certificate_parses(claims: PeerClaims) -> Failed | None:
    """Row 3."""
    try:
        claims.certificate = decode_certificate(claims.cert.cert)
    except WireError:
        return Failed(_BAD_CRYPT, "Cert failed protobuf decode")
    return None


def certificate_identity_agrees(claims: PeerClaims) -> Failed | None:
    """Rows 4 to 8: a certificate for somebody must be for this peer and bound to an app; one for nobody must not be signed."""
    try:
        issued_to = read_identity(claims.certificate.identity_fields)
    except WireError as error:
        return Failed(_BAD_CERT, f"Bad cert identity.  {error}")
    if issued_to is None or issued_to.is_localhost:
        return _anonymous_certificate_is_allowed(claims)
    if issued_to != claims.identity:
        return Failed(_BAD_CERT, f"Cert was issued to {issued_to.printable}, not {claims.identity.printable}")
    if not claims.certificate.app_ids:
        return Failed(_BAD_CERT, "Cert must be bound to an AppID.")
    return None


def _anonymous_certificate_is_allowed(claims: PeerClaims) -> Failed | None:
    if not claims.cert.ca_signature:
        return None
    if not _is_anonymous_game_server(claims.identity):
        who = claims.identity.printable
        return Failed(_BAD_CERT, f"Certs with no identity can only by anonymous gameservers, not {who}")
    if not claims.certificate.datacenter_ids:
        return Failed(_BAD_CERT, "Cert with no identity must be scoped to PoPID.")
    return None


def app_is_authorized(claims: PeerClaims) -> Failed | None:
    """Row 9."""
    app_ids = claims.certificate.app_ids
    if not app_ids or APP_ID in app_ids:
        return None
    more = f" (and {len(app_ids) - 1} more)" if len(app_ids) > 1 else ""
    return Failed(_BAD_CERT, f"Cert is not authorized for appid {APP_ID}, only {app_ids[0]}{more}")


def authority_may_vouch_for_app(claims: PeerClaims) -> Failed | None:
    """Row 10."""
    if claims.ca_scope is None or claims.ca_scope.allows_app(APP_ID):
        return None
    if claims.certificate.app_ids:
        return Failed(_BAD_CERT, f"Cert allows appid {APP_ID}, but CA trust chain does not")
    return Failed(_BAD_CERT, f"Cert is not restricted by appid, but CA trust chain is, and does not authorize {APP_ID}")


def authority_is_present_if_demanded(claims: PeerClaims) -> Failed | None:
    """Row 11."""
    if claims.ca_scope is None and claims.trust.demands_authority(claims.identity):
        return Failed(_BAD_CERT, "Unsigned certs are not allowed")
    return None


def certificate_key_signed_info(claims: PeerClaims) -> Failed | None:
    """Row 12: whoever sent this certificate holds its private key."""
    signature, certificate = claims.crypt.signature, claims.certificate
    if not signature:
        return Failed(_BAD_CRYPT, "No signature")
    if not certificate.key_data:
        return Failed(_BAD_CRYPT, "No public key")
    if certificate.key_type != KEY_TYPE_ED25519:
        return Failed(_BAD_CRYPT, f"Unsupported key type {certificate.key_type}")
    if len(signature) != SIGNATURE_BYTES:
        return Failed(_BAD_CRYPT, "Signature has invalid length")
    if len(certificate.key_data) != KEY_BYTES:
        return Failed(_BAD_CRYPT, "Invalid public key")
    if not verify(certificate.key_data, signature, claims.crypt.info):
        return Failed(_BAD_CRYPT, "Invalid signature")
    return None


def crypt_info_parses(claims: PeerClaims) -> Failed | None:
    """Row 13."""
    try:
        claims.info = decode_crypt_info(claims.crypt.info)
    except WireError:
        return Failed(_BAD_CRYPT, "Crypt info failed protobuf decode")
    return None


def hello_is_the_one_signed(claims: PeerClaims) -> Failed | None:
    """Ours: connection id and certificate of an own peer's hello are those that it signed, not damaged ones."""
    capabilities = claims.info.capabilities
    if capabilities is None or capabilities.binding == hello_binding(claims.connection_id, claims.cert):
        return None
    return Failed(_BAD_CRYPT, "Connection ID or cert is not the one signed")


def version_is_new_enough(claims: PeerClaims) -> Failed | None:
    """Row 14."""
    version = claims.info.protocol_version
    if version < PROTOCOL_VERSION_MIN:
        required = f"(V{version}, >=V{PROTOCOL_VERSION_MIN} is required)"
        return Failed(_BAD_VERSION, f"Peer is running old software and needs to be updated.  {required}")
    return None


def version_is_the_one_said_before(claims: PeerClaims) -> Failed | None:
    """Row 15."""
    version, earlier = claims.info.protocol_version, claims.earlier_version
    if earlier is not None and version != earlier:
        return Failed(_BAD_VERSION, f"Claiming protocol V{version} now, but earlier was using V{earlier}")
    return None


def version_knows_lanes(claims: PeerClaims) -> Failed | None:
    """Row 16."""
    if claims.lanes > 1 and claims.info.protocol_version < LANES_VERSION_MIN:
        return Failed(_BAD_VERSION, "Peer is using old protocol and cannot receive multiple lanes")
    return None


def server_chose_one_cipher(claims: PeerClaims) -> Failed | None:
    """Row 17."""
    if claims.peer_is_server and len(_listed(claims.info)) != 1:
        return Failed(_BAD_CRYPT, "Server must select exactly only one cipher!")
    return None


def policy_lets_in(claims: PeerClaims) -> Failed | None:
    """Ours: one of our policies must let in whoever has proven that this is his key."""
    verdict = claims.trust.judge(claims.identity, claims.certificate.key_data, claims.ca_scope)
    if isinstance(verdict, KeptOut):
        return Failed(_BAD_CERT, verdict.text, verdict.is_other_key)
    claims.proven_by = verdict.proven_by
    return None


def a_cipher_is_common(claims: PeerClaims) -> Failed | None:
    """Row 18: the first of ours that the peer lists."""
    listed = _listed(claims.info)
    claims.cipher = next((cipher for cipher in claims.local_ciphers if cipher in listed), 0)
    return None if claims.cipher else Failed(_BAD_CRYPT, "Failed to negotiate mutually-agreeable cipher")


def agreement_key_type_is_known(claims: PeerClaims) -> Failed | None:
    """Row 19."""
    if claims.info.key_type != KEY_TYPE_CURVE25519:
        return Failed(_BAD_CRYPT, f"Unsupported DH key type {claims.info.key_type}")
    return None


def agreement_key_has_its_length(claims: PeerClaims) -> Failed | None:
    """Row 20."""
    return None if len(claims.info.key_data) == KEY_BYTES else Failed(_BAD_CRYPT, "Invalid DH key")


def keys_agree(claims: PeerClaims) -> Failed | None:
    """Row 21; our own key, sent back to us with our own certificate, would look like us without holding any key."""
    assert claims.agreement_key is not None, "a connection has its key before it agrees on a secret"
    shared_secret = claims.agreement_key.agree(claims.info.key_data)
    if shared_secret is None or claims.info.key_data == claims.agreement_key.public_bytes:
        return Failed(_BAD_CRYPT, "Key exchange failed")
    claims.shared_secret = shared_secret
    return None


PEER_CHECKS: Final[tuple[Check, ...]] = (
    has_certificate_and_info,
    authority_vouches,
    certificate_parses,
    certificate_identity_agrees,
    app_is_authorized,
    authority_may_vouch_for_app,
    authority_is_present_if_demanded,
    certificate_key_signed_info,
    crypt_info_parses,
    hello_is_the_one_signed,
    version_is_new_enough,
    version_is_the_one_said_before,
    version_knows_lanes,
    server_chose_one_cipher,
    policy_lets_in,
)

AGREEMENT_CHECKS: Final[tuple[Check, ...]] = (
    a_cipher_is_common,
    agreement_key_type_is_known,
    agreement_key_has_its_length,
    keys_agree,
)


def _listed(info: CryptInfo) -> tuple[int, ...]:
    """The ciphers a peer lists; none means AES, as peers of old say it."""
    return info.ciphers or (CIPHER_AES_256_GCM,)


def _is_anonymous_game_server(identity: Identity) -> bool:
    return identity.kind == IdentityKind.STEAM_ID and (identity.number or 0) >> 52 & 0xF == _STEAM_TYPE_ANONYMOUS_GAME_SERVER
