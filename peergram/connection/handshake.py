"""What both sides of a handshake share: who we are, what we offer, and what comes out.

Wire protocol, part 1, chapters 6 to 10. `handshake_client.py` and `handshake_server.py` walk the two roles over plain UDP. The
values here and the last step, `establish`, do not know how the hellos travel, so that signals can carry them as well.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from peergram.address import Address
from peergram.config import PROTOCOL_VERSION
from peergram.connection.peer_checks import (
    AGREEMENT_CHECKS,
    APP_ID,
    Failed,
    PeerClaims,
    run_checks,
)
from peergram.crypto.derive import Side, derive_session_keys, hello_binding
from peergram.crypto.keys import AgreementKey, Entropy, SigningKey, fingerprint
from peergram.crypto.policy import ProvenBy, Trust
from peergram.crypto.seal import PacketCipher, make_cipher
from peergram.errors import UsageError, WireError
from peergram.identity import Identity, IdentityKind
from peergram.wire.certificates import (
    KEY_TYPE_CURVE25519,
    KEY_TYPE_ED25519,
    RUN_ID_BYTES,
    Capabilities,
    Certificate,
    CryptInfo,
    IdentityFields,
    SignedCertificate,
    SignedCryptInfo,
    decode_certificate,
    encode_certificate,
    encode_crypt_info,
    read_identity,
    write_identity,
)

LARGE_DATAGRAMS = 1
"""Feature bit: takes datagrams of up to `DATAGRAM_BYTES_OWN_PEER_MAX` bytes, and packets of padding."""
OWN_FEATURES = LARGE_DATAGRAMS
"""The feature bits our capabilities carry."""
HELLO_COUNTS_VERSION_MIN = 10
"""From this protocol version on, ConnectRequest and ConnectOK count as packet number 1."""

PING_SAMPLES_KEPT = 3
PING_SPACING_US = 100_000
PING_ELAPSED_US_MAX = 2_000_000
PING_CLAIM_MS_MAX = 1_500


@dataclass(slots=True)
class LocalCredentials:
    """Who we are and whom we believe; a handshake keeps those that it began with."""

    identity: Identity
    signing_key: SigningKey
    signed_certificate: SignedCertificate
    run_id: bytes
    """16 random bytes, new with every start of the process; own peers notice a restart by it."""
    stated_identity: IdentityFields = field(default_factory=IdentityFields)
    """What hellos say of our identity beside the certificate."""
    trust: Trust = field(default_factory=Trust)
    """Whom we let in."""


def self_made_credentials(
    identity: Identity, signing_key: SigningKey, run_id: bytes, trust: Trust | None = None
) -> LocalCredentials:
    """Credentials whose certificate no authority signed (chapter 7); `identity.ANONYMOUS` is a possible identity.

    Raises UsageError if `run_id` is not 16 bytes long.
    """
    if len(run_id) != RUN_ID_BYTES:
        raise UsageError(f"a run id is {RUN_ID_BYTES} random bytes, not {len(run_id)}")
    fields = write_identity(identity)
    certificate = Certificate(KEY_TYPE_ED25519, signing_key.public_bytes, fields, app_ids=(APP_ID,))
    signed = SignedCertificate(encode_certificate(certificate))
    stated = IdentityFields(legacy_steam_id=fields.legacy_steam_id)
    return LocalCredentials(identity, signing_key, signed, run_id, stated, trust or Trust())


def issued_credentials(credentials: LocalCredentials, signed: SignedCertificate) -> LocalCredentials:
    """The same with a certificate of an authority, or a newer one. Raises UsageError for one that is not ours, or no good."""
    try:
        certificate = decode_certificate(signed.cert)
        issued_to = read_identity(certificate.identity_fields)
    except WireError as error:
        raise UsageError(f"certificate: {error}") from None
    who = credentials.identity.printable
    if certificate.key_data != credentials.signing_key.public_bytes:
        theirs, ours = fingerprint(certificate.key_data), fingerprint(credentials.signing_key.public_bytes)
        raise UsageError(f"certificate: it is for the key {theirs}, but the key of {who} is {ours}")
    if issued_to != credentials.identity:
        raise UsageError(f"certificate: it is for {'nobody' if issued_to is None else issued_to.printable}, not for {who}")
    if not signed.ca_signature:
        raise UsageError("certificate: no authority has signed it")
    if not certificate.app_ids:
        raise UsageError("certificate: it is bound to no app, so peers of the reference refuse it")
    if APP_ID not in certificate.app_ids:
        apps = ", ".join(map(str, certificate.app_ids))
        raise UsageError(
            f"certificate: it is not for app {APP_ID}, which peers here use, only for {apps}; all of them would refuse it"
        )
    return replace(credentials, signed_certificate=signed)


@dataclass(slots=True)
class LocalCrypt:
    """Our half of one connection's key agreement."""

    agreement_key: AgreementKey
    nonce: int
    signed: SignedCryptInfo


def local_crypt_info(
    credentials: LocalCredentials,
    agreement_key: AgreementKey,
    ciphers: tuple[int, ...],
    entropy: Entropy,
    *,
    connection_id: int,
) -> LocalCrypt:
    """The signed record (chapter 8) that offers `ciphers`, in order of preference; a server offers the one it chose."""
    binding = hello_binding(connection_id, credentials.signed_certificate)
    nonce = int.from_bytes(entropy(8), "little")
    info = encode_crypt_info(
        CryptInfo(
            KEY_TYPE_CURVE25519,
            agreement_key.public_bytes,
            nonce,
            PROTOCOL_VERSION,
            ciphers,
            Capabilities(OWN_FEATURES, credentials.run_id, binding),
        )
    )
    return LocalCrypt(agreement_key, nonce, SignedCryptInfo(info, credentials.signing_key.sign(info)))


@dataclass(slots=True)
class Established:
    """Everything a connection needs of its handshake.

    On a server the peer has not yet shown that it holds the agreed keys (its hello may be a replay): the first packet that opens
    shows it.
    """

    send_cipher: PacketCipher
    receive_cipher: PacketCipher
    cipher: int
    peer_connection_id: int
    peer_identity: Identity
    peer_key: bytes
    """The Ed25519 key of the peer's certificate, 32 bytes."""
    peer_fingerprint: str
    protocol_version: int
    """The peer's; there is no negotiation."""
    capabilities: Capabilities | None
    """None for a peer that is not of this library."""
    proven_by: ProvenBy
    """What makes the identity more than a claim."""
    next_packet_number: int
    """The first number to send."""
    highest_received: int
    """Numbers up to this one count as received."""
    ping_samples_ms: list[int]
    rtt_us: int | None
    """The latest round trip measured (client) or claimed by the peer (server)."""
    needs_agreement: bool = False
    """Whether the application wants to see the key of a stranger that we called before anything goes to him."""

    @property
    def authenticated(self) -> bool:
        """The opposite of the reference's info flag 1."""
        return self.proven_by != "nothing"


def establish(
    claims: PeerClaims,
    credentials: LocalCredentials,
    local: LocalCrypt,
    *,
    local_connection_id: int,
    peer_connection_id: int,
    pings: PingSamples,
) -> Established:
    """Derive the keys for claims that passed all checks; `claims.peer_is_server` says which role is ours."""
    ours = Side(local_connection_id, local.nonce, credentials.signed_certificate.cert, local.signed.info)
    theirs = Side(peer_connection_id, claims.info.nonce, claims.cert.cert, claims.crypt.info)
    client, server = (ours, theirs) if claims.peer_is_server else (theirs, ours)
    keys = derive_session_keys(claims.shared_secret, client=client, server=server)
    to_server, to_client = make_cipher(claims.cipher, keys.client_to_server), make_cipher(claims.cipher, keys.server_to_client)
    hellos = 1 if claims.info.protocol_version >= HELLO_COUNTS_VERSION_MIN else 0
    return Established(
        send_cipher=to_server if claims.peer_is_server else to_client,
        receive_cipher=to_client if claims.peer_is_server else to_server,
        cipher=claims.cipher,
        peer_connection_id=peer_connection_id,
        peer_identity=claims.identity,
        peer_key=claims.certificate.key_data,
        peer_fingerprint=fingerprint(claims.certificate.key_data),
        protocol_version=claims.info.protocol_version,
        capabilities=claims.info.capabilities,
        proven_by=claims.proven_by,
        next_packet_number=hellos + 1,
        highest_received=hellos,
        ping_samples_ms=pings.samples_ms.copy(),
        rtt_us=pings.rtt_us,
        needs_agreement=(
            claims.peer_is_server and claims.proven_by == "first_contact" and credentials.trust.pin_outgoing == "ask"
        ),
    )


@dataclass(frozen=True, slots=True)
class Impostor:
    """Somebody whose papers are in order but for the key, which is not the one that his name is known with."""

    identity: Identity
    key_fingerprint: str
    text: str
    """What people should hear of it."""


@dataclass(slots=True)
class Refused:
    """A request that may not be shown to the application. One over plain UDP is dropped in silence, and `text` is for the log."""

    text: str
    impostor: Impostor | None = None
    """Who used a name that is known with another key."""


def impostor_of(claims: PeerClaims, failed: Failed) -> Impostor | None:
    """Who failed, if it was for that reason."""
    return Impostor(claims.identity, fingerprint(claims.certificate.key_data), failed.debug) if failed.is_other_key else None


def agree(claims: PeerClaims, agreement_key: AgreementKey) -> Failed | None:
    """Choose the cipher and make the shared secret (rows 18 to 21)."""
    claims.agreement_key = agreement_key
    return run_checks(AGREEMENT_CHECKS, claims)


def accept_claims(
    claims: PeerClaims,
    credentials: LocalCredentials,
    entropy: Entropy,
    *,
    local_connection_id: int,
    pings: PingSamples,
) -> tuple[Established, SignedCryptInfo] | Failed:
    """A server's half, once the application wants the client: choose the cipher, make our keys, derive the session's; and what
    the answer says of them."""
    assert is_connection_id(local_connection_id)
    agreement_key = AgreementKey.generate(entropy)
    failed = agree(claims, agreement_key)
    if failed is not None:
        return failed
    local = local_crypt_info(credentials, agreement_key, (claims.cipher,), entropy, connection_id=local_connection_id)
    established = establish(
        claims,
        credentials,
        local,
        local_connection_id=local_connection_id,
        peer_connection_id=claims.connection_id,
        pings=pings,
    )
    return established, local.signed


def find_peer_identity(cert: SignedCertificate, stated: IdentityFields, remote: Address) -> Identity:
    """Whom a hello over plain UDP comes from (6.1 step 4, 6.2 steps 3, 4): see the certificate, then the message, then `remote`.

    Raises WireError, with the reason to drop the packet, if that cannot be told.
    """
    certified = read_identity(decode_certificate(cert.cert).identity_fields) if cert.cert else None
    identity = read_identity(stated) if certified is None else certified
    if identity is None or identity.is_localhost:
        return Identity.ip(remote)
    if identity.kind == IdentityKind.IP_ADDRESS and certified is None:
        raise WireError("an address as identity must be in the certificate")
    return identity


def is_connection_id(connection_id: int) -> bool:
    """Whether we may call a connection of ours so: 32 bits, both halves non-zero."""
    return 0 < connection_id >> 16 <= 0xFFFF and connection_id & 0xFFFF != 0


class PingSamples:
    """The last three round trips of a handshake and the estimate made of them (chapter 6.4)."""

    __slots__ = ("_added_at_us", "rtt_us", "samples_ms")

    def __init__(self) -> None:
        self.samples_ms: list[int] = []
        self.rtt_us: int | None = None
        """The latest sample, unrounded."""
        self._added_at_us = 0

    def add_elapsed(self, elapsed_us: int, now_us: int) -> None:
        """Take a measured round trip, unless it cannot be one (negative, or over 2 s)."""
        if 0 <= elapsed_us <= PING_ELAPSED_US_MAX:
            self.rtt_us = elapsed_us
            self._add((elapsed_us + 500) // 1000, now_us)

    def add_claimed(self, ping_ms: int, now_us: int) -> None:
        """Take a client's own estimate, unless it is over 1.5 s; 0 stands for less than half a millisecond."""
        if ping_ms <= PING_CLAIM_MS_MAX:
            self.rtt_us = ping_ms * 1000 or 500
            self._add(ping_ms, now_us)

    def _add(self, sample_ms: int, now_us: int) -> None:
        if len(self.samples_ms) == PING_SAMPLES_KEPT and now_us - self._added_at_us < PING_SPACING_US:
            self.samples_ms[-1] = min(self.samples_ms[-1], sample_ms)
            return
        self.samples_ms = [*self.samples_ms[1 - PING_SAMPLES_KEPT :], sample_ms]
        self._added_at_us = now_us

    @property
    def estimate_ms(self) -> int | None:
        """The smoothed ping, or None without a sample."""
        if not self.samples_ms:
            return None
        if len(self.samples_ms) < PING_SAMPLES_KEPT:
            return min(self.samples_ms)
        return sum(sorted(self.samples_ms)[:2]) // 2
