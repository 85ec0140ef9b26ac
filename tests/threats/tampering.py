"""Two real endpoints, and somebody between them who rewrites one side's hellos, over plain UDP or in signals.

The guard is who judges, Alice whose hellos are changed: her connect request if she calls, her connect ok if she is called.
A change takes a `Hello` and gives another one. What the changer could sign, he signs: he may hold Alice's own key (then he is
Alice, and hostile), one of his own, or an authority's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Literal

from peergram.config import Config
from peergram.connection.connection import Connection
from peergram.crypto.derive import hello_binding
from peergram.crypto.keys import SigningKey, fingerprint, key_id
from peergram.crypto.known_peers import KnownPeers
from peergram.crypto.policy import Policy, Trust
from peergram.crypto.trust import TrustStore
from peergram.endpoint.link import Link
from peergram.errors import WireError
from peergram.events import PeerRefused, SessionFailed, SessionRequested
from peergram.identity import Identity
from peergram.wire.certificates import (
    Capabilities,
    Certificate,
    CryptInfo,
    IdentityFields,
    SignedCertificate,
    SignedCryptInfo,
    decode_certificate,
    decode_crypt_info,
    encode_certificate,
    encode_crypt_info,
    write_identity,
)
from peergram.wire.control import ConnectOk, ConnectRequest, decode_control, encode_control
from peergram.wire.signals import Signal, decode_signal, encode_signal
from tests.endpoint import by_identity
from tests.endpoint import world as by_address

Road = Literal["udp", "signals"]
Role = Literal["client", "server"]
"""Whose hello is changed."""

ALICE = Identity.of("alice")
BOB = Identity.of("bob")
GUARD = Identity.of("guard")
WALL_S = 1_800_000_000
DAY_S = 86_400
PATIENCE_US = 15_000_000


def key_named(name: str) -> SigningKey:
    """The key of the host of that name in its first run, as `tests.endpoint.world` makes it; or of anybody else."""
    return SigningKey.generate(Random(f"{name} key 0").randbytes)


ALICE_KEY = key_named("alice")
BOB_KEY = key_named("bob")
MALLORY_KEY = key_named("mallory")
ROOT = key_named("root")
OTHER_ROOT = key_named("other root")
SCOPED = key_named("authority for app 480")
EXPIRED = key_named("authority that expired")
REVOKED = key_named("authority that was revoked")
ORPHAN = key_named("authority that no root leads to")
REVOKED_LEAF = key_named("revoked leaf")


def issue(by: SigningKey, certificate: Certificate) -> SignedCertificate:
    """That certificate, whatever it says, signed."""
    data = encode_certificate(certificate)
    return SignedCertificate(data, key_id(by.public_bytes), by.sign(data))


def good_certificate(identity: Identity = ALICE, key: SigningKey = ALICE_KEY) -> Certificate:
    """What an authority would certify today."""
    return Certificate(1, key.public_bytes, write_identity(identity), WALL_S - DAY_S, WALL_S + DAY_S, (0,))


def store() -> TrustStore:
    """One root and what it leads to: an authority for another app, one that expired, one that was revoked."""
    made = TrustStore()
    made.add_root(ROOT.public_bytes)
    for key, apps, until_s in ((SCOPED, (480,), DAY_S), (EXPIRED, (), -1), (REVOKED, (), DAY_S)):
        made.add_authority(
            issue(ROOT, Certificate(1, key.public_bytes, IdentityFields(), WALL_S - 9 * DAY_S, WALL_S + until_s, apps))
        )
    orphan = Certificate(1, ORPHAN.public_bytes, IdentityFields(), WALL_S - DAY_S, WALL_S + DAY_S)
    made.add_authority(issue(OTHER_ROOT, orphan))
    made.revoke(key_id(REVOKED.public_bytes))
    made.revoke(key_id(REVOKED_LEAF.public_bytes))
    return made


def trust_of(policies: Policy | tuple[Policy, ...], *, knows_alice: bool = True) -> Trust:
    """What the guard believes; where keys are remembered he has met Alice unless told otherwise, and Bob."""
    known = KnownPeers([(BOB, fingerprint(BOB_KEY.public_bytes))])
    if knows_alice:
        known.remember(ALICE, fingerprint(ALICE_KEY.public_bytes))
    while known.poll_new() is not None:
        pass
    return Trust(policies, authorities=store(), known=known)


# --- hellos, and how to change one ---


@dataclass(frozen=True, slots=True)
class Hello:
    """What both kinds of hello say on both roads."""

    connection_id: int
    """The sender's."""
    receiver_id: int
    """The other side's, as the sender names it; 0 in a request."""
    cert: SignedCertificate
    crypt: SignedCryptInfo
    says: Identity | None = None
    """Whom it says it comes from beside the certificate; None leaves that as it is."""


Change = Callable[[Hello], Hello]


def signed_anew(hello: Hello, info: CryptInfo, key: SigningKey, *, binds: bool = True) -> Hello:
    """With this crypt info, signed; and bound to this hello as our peers do it, unless that is what is wrong with it."""
    if binds and info.capabilities is not None:
        binding = hello_binding(hello.connection_id, hello.cert)
        info = replace(info, capabilities=replace(info.capabilities, binding=binding))
    data = encode_crypt_info(info)
    return replace(hello, crypt=SignedCryptInfo(data, key.sign(data)))


def info_of(hello: Hello) -> CryptInfo:
    """Its crypt info, read."""
    return decode_crypt_info(hello.crypt.info)


def with_cert(signed: SignedCertificate, key: SigningKey = ALICE_KEY) -> Change:
    """Another certificate, by somebody who holds that key."""

    def change(hello: Hello) -> Hello:
        changed = replace(hello, cert=signed)
        return signed_anew(changed, info_of(hello), key)

    return change


def certificate(key: SigningKey = ALICE_KEY, **changes: object) -> Change:
    """A certificate that no authority signed, changed by somebody who holds that key."""

    def change(hello: Hello) -> Hello:
        now = replace(decode_certificate(hello.cert.cert), **changes)  # type: ignore[arg-type]
        return with_cert(SignedCertificate(encode_certificate(now)), key)(hello)

    return change


def issued(by: SigningKey = ROOT, key: SigningKey = ALICE_KEY, **changes: object) -> Change:
    """A certificate that an authority signed, with other content; and its owner holds the key."""
    return with_cert(issue(by, replace(good_certificate(key=key), **changes)), key)  # type: ignore[arg-type]


def info(key: SigningKey = ALICE_KEY, *, binds: bool = True, **changes: object) -> Change:
    """Another crypt info, signed."""
    return lambda hello: signed_anew(hello, replace(info_of(hello), **changes), key, binds=binds)  # type: ignore[arg-type]


def crypt(**changes: bytes) -> Change:
    """Other bytes of the signed crypt info, or of its signature."""
    return lambda hello: replace(hello, crypt=replace(hello.crypt, **changes))


def cert(**changes: object) -> Change:
    """Other bytes of the certificate or of the authority's signature; nothing is signed anew."""
    return lambda hello: replace(hello, cert=replace(hello.cert, **changes))  # type: ignore[arg-type]


# --- the two roads ---

Rewrite = Callable[[bytes], bytes | None]
"""A datagram or signal of Alice's, and what arrives in its place; None leaves it as it is."""


@dataclass(frozen=True, slots=True)
class Session:
    """What one side holds of a session whose other side has shown that it has the keys."""

    identity: Identity
    key: bytes
    cipher: int
    version: int
    capabilities: Capabilities | None
    proven_by: str


def _sessions(links: Iterable[Link]) -> list[Session]:
    return [
        Session(held.peer_identity, held.peer_key, held.cipher, held.protocol_version, held.capabilities, held.proven_by)
        for link in links
        if (held := link.connection.established) is not None and link.connection.is_proven
    ]


@dataclass
class Outcome:
    """What the guard's application and log could see, and what came through."""

    refusals: list[str] = field(default_factory=list)
    """Why requests were not shown to the application."""
    requests: list[SessionRequested] = field(default_factory=list)
    failures: list[SessionFailed] = field(default_factory=list)
    refused_peers: list[PeerRefused] = field(default_factory=list)
    alices_failures: list[SessionFailed] = field(default_factory=list)
    delivered: list[bytes] = field(default_factory=list)
    """To either side."""
    sessions: list[Session] = field(default_factory=list)
    """Of the guard, then of Alice."""
    is_up: bool = False
    """Whether a packet of the other side opened on either side."""
    changed: int = 0
    """How many hellos were rewritten."""


def _is_up(connections: Iterable[Connection]) -> bool:
    return any(connection.is_proven for connection in connections)


class Direct:
    """Both know each other's address."""

    def __init__(
        self, guard_trust: Trust, certificate: SignedCertificate | None, config: Config, alices_config: Config, wall_s: int
    ) -> None:
        self.world = by_address.World()
        self.world.wall_offset_us = wall_s * 1_000_000 - self.world.now_us
        self.guard = self.world.add("guard", config, trust=guard_trust)
        self.world.wall_offset_us = WALL_S * 1_000_000 - self.world.now_us
        self.alice = self.world.add("alice", alices_config, certificate=certificate)

    def run(self, role: Role, rewrite: Rewrite, outcome: Outcome) -> None:
        """Alice calls, or is called."""
        world, guard, alice = self.world, self.guard, self.alice

        def network(sender: by_address.Host, receiver: by_address.Host, packet: bytes) -> list[int]:
            changed = rewrite(packet) if sender is alice else None
            if changed is None:
                return [5_000]
            world.deliver(next(iter(alice.sockets.values())), receiver.address, changed, delay_us=5_000)
            return []

        world.network = network
        caller, called = (alice, guard) if role == "client" else (guard, alice)
        caller.send(called, b"plain words")

        def look() -> bool:
            refusal = guard.endpoint._strangers.last_refusal
            if refusal and refusal not in outcome.refusals:
                outcome.refusals.append(refusal)
            return _is_up(link.connection for host in (guard, alice) for link in host.links)

        outcome.is_up = world._run(look, PATIENCE_US)
        if outcome.is_up:
            world.run(1_000_000)
        outcome.requests += guard.requests
        outcome.failures += guard.failures
        outcome.refused_peers += guard.refused
        outcome.alices_failures += alice.failures
        outcome.delivered += guard.payloads() + alice.payloads()
        outcome.sessions += _sessions(guard.links) + _sessions(alice.links)


class Signaled:
    """Both know each other's name, and a service carries their signals."""

    def __init__(
        self, guard_trust: Trust, certificate: SignedCertificate | None, config: Config, alices_config: Config, wall_s: int
    ) -> None:
        self.world = world = by_identity.World(config=config)
        world.wall_offset_us = wall_s * 1_000_000 - world.now_us
        self.guard = world.add("guard", "192.168.1.10", config, key_named("guard"), trust=guard_trust)
        world.wall_offset_us = WALL_S * 1_000_000 - world.now_us
        self.alice = world.add("alice", "192.168.1.11", alices_config, ALICE_KEY, certificate=certificate)

    def run(self, role: Role, rewrite: Rewrite, outcome: Outcome) -> None:
        """Alice calls, or is called."""
        world, guard, alice = self.world, self.guard, self.alice

        def intercept(sender: by_identity.Host, to: Identity, blob: bytes) -> bool:
            changed = rewrite(blob) if sender is alice else None
            if changed is None:
                return False
            world.at(world.signal_us, lambda: world.deliver_signal(alice.identity, to, changed))
            return True

        world.loses_signal = intercept
        hosts = (guard, alice)
        caller, called = (alice, guard) if role == "client" else (guard, alice)
        caller.send(called, b"plain words")
        heard: set[int] = set()

        def look() -> bool:
            refusal = guard.endpoint._strangers.last_refusal
            if refusal and refusal not in outcome.refusals:
                outcome.refusals.append(refusal)
            for host, peer in ((guard, alice), (alice, guard)):
                for event in host.events:
                    if isinstance(event, SessionRequested) and id(event) not in heard:
                        heard.add(id(event))
                        host.accept(peer)
            return _is_up(link.connection for host in (guard, alice) for link in host.endpoint._links)

        outcome.is_up = world.run(PATIENCE_US, look)
        if outcome.is_up:
            # A password of the checks that was changed costs a while.
            world.run(PATIENCE_US, lambda: all(_sessions(host.endpoint._links) for host in hosts))
            world.run(1_000_000)
        outcome.requests += [event for event in guard.events if isinstance(event, SessionRequested)]
        outcome.failures += [event for event in guard.events if isinstance(event, SessionFailed)]
        outcome.refused_peers += [event for event in guard.events if isinstance(event, PeerRefused)]
        outcome.alices_failures += [event for event in alice.events if isinstance(event, SessionFailed)]
        outcome.delivered += [message.payload for host in (guard, alice) for message in host.received()]
        outcome.sessions += _sessions(guard.endpoint._links) + _sessions(alice.endpoint._links)


def hello_in(message: object, role: Role) -> Hello | None:
    """The hello of that role in a datagram or signal."""
    if isinstance(message, ConnectRequest) and role == "client":
        return Hello(message.client_connection_id, 0, message.cert, message.crypt)
    if isinstance(message, ConnectOk) and role == "server":
        return Hello(message.server_connection_id, message.client_connection_id, message.cert, message.crypt)
    if isinstance(message, Signal):
        part = message.connect_request if role == "client" else message.connect_ok
        if part is not None and part.cert is not None and part.crypt is not None:
            return Hello(message.from_connection_id or 0, message.to_connection_id or 0, part.cert, part.crypt)
    return None


def put_into(message: object, hello: Hello) -> object:
    """The same message with another hello in it."""
    fields = {} if hello.says is None else {"identity_fields": write_identity(hello.says)}
    if isinstance(message, ConnectRequest):
        named = {"client_connection_id": hello.connection_id}
        return replace(message, **named, cert=hello.cert, crypt=hello.crypt, **fields)  # type: ignore[arg-type]
    if isinstance(message, ConnectOk):
        named = {"server_connection_id": hello.connection_id, "client_connection_id": hello.receiver_id}
        return replace(message, **named, cert=hello.cert, crypt=hello.crypt, **fields)  # type: ignore[arg-type]
    assert isinstance(message, Signal)
    says = message.from_identity if hello.says is None else hello.says.text_bytes
    changed = replace(message, from_connection_id=hello.connection_id or None, from_identity=says)
    if message.connect_request is not None:
        request = replace(message.connect_request, cert=hello.cert, crypt=hello.crypt)
        return replace(changed, connect_request=request)
    assert message.connect_ok is not None
    answer = replace(message.connect_ok, cert=hello.cert, crypt=hello.crypt)
    return replace(changed, connect_ok=answer, to_connection_id=hello.receiver_id)


def on_messages(road: Road, change: Callable[[object], object | None]) -> Rewrite:
    """A rewrite that sees control packets or signals as values; None leaves one as it is."""

    def rewrite(data: bytes) -> bytes | None:
        if road == "signals":
            changed = change(decode_signal(data))
            assert changed is None or isinstance(changed, Signal)
            return None if changed is None else encode_signal(changed)
        try:
            message = decode_control(data)
        except WireError:
            return None
        changed = change(message)
        return None if changed is None else encode_control(changed)  # type: ignore[arg-type]

    return rewrite


def in_hellos(road: Road, role: Role, change: Change) -> Rewrite:
    """A rewrite of every hello of that role."""

    def changed(message: object) -> object | None:
        hello = hello_in(message, role)
        return None if hello is None else put_into(message, change(hello))

    return on_messages(road, changed)


def is_hello(road: Road, role: Role, data: bytes) -> bool:
    """Whether this datagram or signal carries a hello of that role."""
    try:
        return hello_in(decode_signal(data) if road == "signals" else decode_control(data), role) is not None
    except WireError:
        return False


def outcome_of(
    road: Road,
    role: Role,
    rewrite: Rewrite,
    *,
    trust: Trust,
    certificate: SignedCertificate | None = None,
    config: Config | None = None,
    alices_config: Config | None = None,
    guards_wall_s: int = WALL_S,
) -> Outcome:
    """Alice calls the guard or is called, and what she sends is rewritten."""
    outcome = Outcome()

    def counted(data: bytes) -> bytes | None:
        changed = rewrite(data)
        outcome.changed += changed is not None
        return changed

    make = Direct if road == "udp" else Signaled
    guards = config or Config()
    make(trust, certificate, guards, alices_config or guards, guards_wall_s).run(role, counted, outcome)
    return outcome
