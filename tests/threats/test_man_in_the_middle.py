"""C1: somebody who runs the signaling service and sits on the path, against each policy.

Mallory sees every signal, may change, swallow and make up any, and has machines of her own that packets can be led over. She has
no key of Alice or Bob. Where keys are proven (`key`, a remembered key, an authority) there is never a session with her and never
a word in the clear; on first contact, and where anyone may come, there may be, and the user can see that.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import pytest

from peergram.address import Address
from peergram.config import Config
from peergram.crypto.derive import hello_binding
from peergram.crypto.keys import AgreementKey, SigningKey, fingerprint
from peergram.crypto.known_peers import KnownPeers
from peergram.crypto.policy import Policy, Trust
from peergram.crypto.trust import TrustStore
from peergram.endpoint.endpoint import Endpoint
from peergram.events import ConnectionState, Event, InfoFlags, Message, SessionFailed, SessionRequested
from peergram.identity import Identity
from peergram.routes.ice_servers import IceServers
from peergram.sim import world as sim
from peergram.sim.hub import SignalHub, SignalModel
from peergram.sim.nat import NatKind, NatModel
from peergram.sim.outside import Outside
from peergram.sim.topology import Topology
from peergram.wire.certificates import (
    Certificate,
    SignedCertificate,
    SignedCryptInfo,
    decode_crypt_info,
    encode_certificate,
    encode_crypt_info,
    write_identity,
)
from peergram.wire.signals import ReliableSignal, Signal, decode_signal, encode_signal
from tests.endpoint import by_identity
from tests.threats.tampering import ALICE_KEY, BOB_KEY, MALLORY_KEY, ROOT, WALL_S, issue

SECRET = b"the plan is to meet at noon under the clock"
SECOND_US = 1_000_000
LATE_S = 2**32 - 1
ROUTE_US = 20 * SECOND_US

Case = Literal["key", "pinned", "ca", "ca and pinned", "first contact", "open"]
PROVEN: list[Case] = ["key", "pinned", "ca", "ca and pinned"]
UNPROVEN: list[Case] = ["first contact", "open"]
Rewrite = Callable[["Meeting", sim.Host, Signal], Signal]


class Application:
    """Lets everybody in, and reads."""

    def __init__(self, host: sim.Host) -> None:
        self.host = host
        self.messages: list[Message] = []
        self.requests: list[SessionRequested] = []
        self.failures: list[SessionFailed] = []
        host.application = self

    def on_event(self, event: Event) -> None:
        if isinstance(event, SessionRequested):
            self.requests.append(event)
            if event.is_outgoing is False:
                self.host.accept(event.identity.text)
        elif isinstance(event, SessionFailed):
            self.failures.append(event)

    def on_readable(self) -> None:
        self.messages += self.host.receive_all()


class MalloryService(SignalHub):
    """The service is hers: signals between Alice and Bob go to her, or come out changed."""

    def __init__(self, meeting: Meeting) -> None:
        super().__init__(meeting.world, SignalModel())
        self.meeting = meeting

    def send(self, host: sim.Host, to: Identity, blob: bytes) -> None:
        """Take a signal."""
        meeting = self.meeting
        if meeting.impersonates:
            way = {
                meeting.alice: (meeting.as_bob, meeting.names[0]),
                meeting.as_bob: (meeting.alice, meeting.names[1]),
                meeting.bob: (meeting.as_alice, meeting.names[1]),
                meeting.as_alice: (meeting.bob, meeting.names[0]),
            }
            receiver, sender = way[host]
            self._deliver_after(30_000, receiver, sender, blob)
            return
        receiver = meeting.bob if host is meeting.alice else meeting.alice
        changed = blob
        if meeting.rewrite is not None:
            changed = encode_signal(meeting.rewrite(meeting, host, decode_signal(blob)))
        meeting.rewritten += changed != blob
        self._deliver_after(30_000, receiver, host.identity, changed)


class Meeting:
    """Alice behind a NAT, Bob on the internet, and two endpoints of Mallory's: Bob to Alice, and Alice to Bob."""

    def __init__(self, case: Case, *, impersonates: bool = False, rewrite: Rewrite | None = None) -> None:
        self.case = case
        self.impersonates = impersonates
        self.rewrite = rewrite
        self.rewritten = 0
        self.names = _names(case)
        self.claims = dict(zip(("str:mallory-as-alice", "str:mallory-as-bob"), self.names, strict=True))
        self.keys = dict(zip(self.names, (ALICE_KEY, BOB_KEY), strict=True))
        self.known = {name: KnownPeers() for name in self.names}
        self.world = sim.World("mallory", make_endpoint=self._make)
        self.topology = Topology(self.world)
        self.service = MalloryService(self)
        home = self.topology.add_router("home", NatModel(kind=NatKind.PORT_RESTRICTED))
        self.alice = self._add(self.names[0].text, home)
        self.bob = self._add(self.names[1].text, None)
        self.as_alice = self._add("str:mallory-as-alice", None)
        self.as_bob = self._add("str:mallory-as-bob", None)
        self.seen_by_mallory: list[bytes] = []
        self._watch()
        for host in self.world.hosts:
            host.start()
        self.applications = {host: Application(host) for host in self.world.hosts}

    def _add(self, name: str, router: object) -> sim.Host:
        host = self.world.add_host(name, config=Config(), options=sim.HostOptions(listens=False), start=False)
        Outside(host, self.topology).attach(router)  # type: ignore[arg-type]
        return host

    def _watch(self) -> None:
        """What reaches a machine of hers."""
        mallorys = (self.as_alice, self.as_bob)
        for host in mallorys:
            honest = host.deliver

            def deliver(batch: object, honest: Callable[..., None] = honest) -> None:
                self.seen_by_mallory.append(b"".join(batch.packets))  # type: ignore[attr-defined]
                honest(batch)

            host.deliver = deliver  # type: ignore[method-assign]

    def _make(
        self, identity: Identity, config: Config, entropy: Callable[[int], bytes], key_seed: bytes | None
    ) -> sim.EndpointLike:
        name = self.claims.get(identity.text, identity)
        is_mallory = identity.text in self.claims
        key = MALLORY_KEY if is_mallory else self.keys[name]
        certificate = _certificate(name, key) if "ca" in self.case and not is_mallory else None
        made: sim.EndpointLike = Endpoint(
            name,
            config=config,
            entropy=entropy,
            key=key,
            certificate=certificate,
            trust=Trust("open") if is_mallory else self._trust(name),
            wall_offset_us=WALL_S * SECOND_US,
            ice_servers=IceServers(),
        )
        return made

    def _trust(self, name: Identity) -> Trust:
        store = TrustStore()
        store.add_root(ROOT.public_bytes)
        policies: dict[Case, tuple[Policy, ...]] = {
            "key": ("key",),
            "pinned": ("pinned",),
            "ca": ("ca",),
            "ca and pinned": ("ca", "pinned"),
            "first contact": ("pinned",),
            "open": ("open",),
        }
        if "pinned" in self.case:
            for other in self.names:
                self.known[name].remember(other, fingerprint(self.keys[other].public_bytes))
        return Trust(policies[self.case], authorities=store, known=self.known[name])

    def talk(self) -> None:
        """Alice tells Bob a secret, and he answers whoever told him."""
        self.alice.send(self.names[1].text, SECRET)
        self.world.run_for(ROUTE_US)
        self.bob.send(self.names[0].text, SECRET[::-1])
        self.world.run_for(ROUTE_US)

    def words(self, host: sim.Host) -> list[bytes]:
        """What came to an application."""
        return [message.payload for message in self.applications[host].messages]

    def assert_nothing_for_mallory(self) -> None:
        """Neither a session with her nor a word in the clear."""
        assert self.words(self.as_alice) == self.words(self.as_bob) == []
        assert not [seen for seen in self.seen_by_mallory if SECRET in seen or SECRET[::-1] in seen]
        for host, peer in ((self.alice, self.names[1]), (self.bob, self.names[0])):
            assert host.endpoint is not None
            for link in host.endpoint._links:  # type: ignore[attr-defined]
                established = link.connection.established
                if established is not None and link.connection.is_proven:
                    assert established.peer_key == self.keys[peer].public_bytes
            info = host.info(peer.text)
            if info is not None and info.state == ConnectionState.CONNECTED:
                assert info.key_fingerprint == fingerprint(self.keys[peer].public_bytes)


def _names(case: Case) -> tuple[Identity, Identity]:
    if case == "key":
        return Identity.generic_bytes(ALICE_KEY.public_bytes), Identity.generic_bytes(BOB_KEY.public_bytes)
    return Identity.of("alice"), Identity.of("bob")


def _certificate(name: Identity, key: SigningKey) -> SignedCertificate:
    return issue(ROOT, Certificate(1, key.public_bytes, write_identity(name), 1, LATE_S, (0,)))


# --- what she may do to a signal ---


def _hello(signal: Signal) -> tuple[SignedCertificate, SignedCryptInfo] | None:
    part = signal.connect_request or signal.connect_ok
    return None if part is None or part.cert is None or part.crypt is None else (part.cert, part.crypt)


def _with_hello(signal: Signal, certificate: SignedCertificate, crypt: SignedCryptInfo) -> Signal:
    if signal.connect_request is not None:
        return replace(signal, connect_request=replace(signal.connect_request, cert=certificate, crypt=crypt))
    assert signal.connect_ok is not None
    return replace(signal, connect_ok=replace(signal.connect_ok, cert=certificate, crypt=crypt))


def _mallorys_hello(
    signal: Signal, certificate: SignedCertificate, *, own_agreement: bool = True, claims_library: bool = True
) -> Signal:
    """That certificate, and a key agreement that she could take part in, signed with her key."""
    hello = _hello(signal)
    if hello is None:
        return signal
    now = decode_crypt_info(hello[1].info)
    if own_agreement:
        now = replace(now, key_data=AgreementKey(b"mallory's agreement key".ljust(32)).public_bytes)
    capabilities = now.capabilities
    assert capabilities is not None
    binding = hello_binding(signal.from_connection_id or 0, certificate)
    now = replace(now, capabilities=replace(capabilities, binding=binding) if claims_library else None)
    data = encode_crypt_info(now)
    return _with_hello(signal, certificate, SignedCryptInfo(data, MALLORY_KEY.sign(data)))


def swaps_certificate_and_keys(meeting: Meeting, host: sim.Host, signal: Signal) -> Signal:
    """A certificate for the same name, with her key."""
    certificate = Certificate(1, MALLORY_KEY.public_bytes, write_identity(host.identity), app_ids=(0,))
    return _mallorys_hello(signal, SignedCertificate(encode_certificate(certificate)))


def swaps_them_as_a_reference_peer(meeting: Meeting, host: sim.Host, signal: Signal) -> Signal:
    """The same without our capabilities, so that nothing binds certificate and hello."""
    certificate = Certificate(1, MALLORY_KEY.public_bytes, write_identity(host.identity), app_ids=(0,))
    return _mallorys_hello(signal, SignedCertificate(encode_certificate(certificate)), claims_library=False)


def swaps_keys_under_the_true_certificate(meeting: Meeting, host: sim.Host, signal: Signal) -> Signal:
    """What she has is the certificate; what she lacks is its key."""
    hello = _hello(signal)
    return signal if hello is None else _mallorys_hello(signal, hello[0])


def shows_a_certificate_of_her_own_name(meeting: Meeting, host: sim.Host, signal: Signal) -> Signal:
    """The authority did certify her, as Mallory; and the signal comes from whom it came."""
    return _mallorys_hello(signal, _certificate(Identity.of("mallory"), MALLORY_KEY))


def shows_a_certificate_for_nobody(meeting: Meeting, host: sim.Host, signal: Signal) -> Signal:
    """Then the signal alone names the peer."""
    certificate = Certificate(1, MALLORY_KEY.public_bytes, replace(write_identity(host.identity), identity_string=None))
    certificate = replace(certificate, identity_fields=type(certificate.identity_fields)())
    return _mallorys_hello(signal, SignedCertificate(encode_certificate(certificate)))


def removes_the_authority(meeting: Meeting, host: sim.Host, signal: Signal) -> Signal:
    """Nothing is left but what its owner says himself."""
    hello = _hello(signal)
    return signal if hello is None else _with_hello(signal, SignedCertificate(hello[0].cert), hello[1])


def names_another_sender(meeting: Meeting, host: sim.Host, signal: Signal) -> Signal:
    """In the signal itself."""
    return replace(signal, from_identity=b"str:mallory")


def changes_connection_ids(meeting: Meeting, host: sim.Host, signal: Signal) -> Signal:
    """Of who speaks."""
    return signal if signal.from_connection_id is None else replace(signal, from_connection_id=signal.from_connection_id ^ 1)


def offers_no_encryption(meeting: Meeting, host: sim.Host, signal: Signal) -> Signal:
    """The list of ciphers is signed."""
    hello = _hello(signal)
    if hello is None:
        return signal
    now = replace(decode_crypt_info(hello[1].info), ciphers=(1,))
    return _with_hello(signal, hello[0], replace(hello[1], info=encode_crypt_info(now)))


HELLO_ATTACKS: list[Rewrite] = [
    swaps_certificate_and_keys,
    swaps_them_as_a_reference_peer,
    swaps_keys_under_the_true_certificate,
    shows_a_certificate_of_her_own_name,
    shows_a_certificate_for_nobody,
    names_another_sender,
    changes_connection_ids,
    offers_no_encryption,
]


# --- the worlds ---


@pytest.mark.parametrize("case", [*PROVEN, *UNPROVEN])
def test_without_mallory_they_meet(case: Case) -> None:
    meeting = Meeting(case)
    meeting.talk()
    assert meeting.words(meeting.bob) == [SECRET]
    assert meeting.words(meeting.alice) == [SECRET[::-1]]
    meeting.assert_nothing_for_mallory()


@pytest.mark.parametrize("case", PROVEN)
def test_a_proven_name_cannot_be_played_by_the_service(case: Case) -> None:
    """Mallory is Bob to Alice and Alice to Bob, with endpoints that do all that an endpoint does."""
    meeting = Meeting(case, impersonates=True)
    meeting.talk()
    assert meeting.words(meeting.alice) == meeting.words(meeting.bob) == []
    assert meeting.applications[meeting.alice].failures, "Alice learns that it failed"
    meeting.assert_nothing_for_mallory()


@pytest.mark.parametrize("attack", HELLO_ATTACKS, ids=lambda attack: attack.__name__)
@pytest.mark.parametrize("case", PROVEN)
def test_hellos_changed_by_the_service_give_no_session(case: Case, attack: Rewrite) -> None:
    meeting = Meeting(case, rewrite=attack)
    meeting.talk()
    assert meeting.rewritten
    assert meeting.words(meeting.alice) == meeting.words(meeting.bob) == []
    meeting.assert_nothing_for_mallory()


def test_a_certificate_without_its_authority_is_none() -> None:
    meeting = Meeting("ca", rewrite=removes_the_authority)
    meeting.talk()
    assert meeting.words(meeting.alice) == meeting.words(meeting.bob) == []
    meeting.assert_nothing_for_mallory()


@pytest.mark.parametrize("case", UNPROVEN)
def test_on_first_contact_mallory_may_be_the_peer_and_the_user_is_shown_what_was_proven(case: Case) -> None:
    meeting = Meeting(case, impersonates=True)
    meeting.talk()
    assert meeting.words(meeting.as_bob) == [SECRET]
    info = meeting.alice.info(meeting.names[1].text)
    assert info is not None
    assert info.key_fingerprint == fingerprint(MALLORY_KEY.public_bytes)
    assert info.proven_by == {"first contact": "first_contact", "open": "nothing"}[case]
    assert (InfoFlags.UNAUTHENTICATED in info.flags) == (case == "open")


@pytest.mark.parametrize("first", ["mallory", "bob"])
def test_who_was_met_first_is_known_from_then_on_and_the_other_is_refused(first: str) -> None:
    """If that was Mallory, the true Bob is refused later: the user sees that somebody was lied to, then or now."""
    meeting = Meeting("first contact", impersonates=first == "mallory")
    meeting.talk()
    met = MALLORY_KEY if first == "mallory" else BOB_KEY
    known = meeting.known[meeting.names[0]]
    assert known.fingerprints_of(meeting.names[1]) == (fingerprint(met.public_bytes),)
    for host in (meeting.alice, meeting.bob, meeting.as_alice, meeting.as_bob):
        for name in meeting.names:
            host.close_session(name.text)
    meeting.world.run_for(ROUTE_US)
    meeting.impersonates = first != "mallory"
    before = len(meeting.words(meeting.bob)) + len(meeting.words(meeting.as_bob))
    meeting.alice.send(meeting.names[1].text, b"again")
    meeting.world.run_for(ROUTE_US)
    assert len(meeting.words(meeting.bob)) + len(meeting.words(meeting.as_bob)) == before
    failure = meeting.applications[meeting.alice].failures[-1]
    assert "another key" in failure.debug


# --- candidates, and the path ---


def test_candidates_that_lead_nowhere_cost_the_path_and_nothing_else() -> None:
    def elsewhere(meeting: Meeting, host: sim.Host, signal: Signal) -> Signal:
        entries = [
            replace(entry, candidate=entry.candidate and re.sub(rb"\d+\.\d+\.\d+\.\d+", b"203.0.113.99", entry.candidate))
            for entry in signal.reliable
        ]
        return replace(signal, reliable=entries)

    for case in PROVEN:
        meeting = Meeting(case, rewrite=elsewhere)
        meeting.talk()
        assert meeting.rewritten
        assert meeting.words(meeting.bob) in ([], [SECRET])
        meeting.assert_nothing_for_mallory()


def test_passwords_of_the_checks_that_were_changed_cost_the_path_and_nothing_else() -> None:
    def other_password(meeting: Meeting, host: sim.Host, signal: Signal) -> Signal:
        entries = [ReliableSignal(password=b"mallory chose this one..") if entry.password else entry for entry in signal.reliable]
        return replace(signal, reliable=entries)

    for case in PROVEN:
        meeting = Meeting(case, rewrite=other_password)
        meeting.talk()
        assert meeting.words(meeting.bob) in ([], [SECRET])
        meeting.assert_nothing_for_mallory()


class WayOverMallory(by_identity.World):
    """A flat network where every candidate that the service tells is an address of Mallory's, and she forwards what comes there;
    packets that do not come from her are lost."""

    MACHINE = "192.168.1.66"

    def __init__(self) -> None:
        super().__init__()
        self.spoils: Callable[[int, bytes], bytes | None] = lambda _count, packet: packet
        self.seen: list[bytes] = []
        self._doors: dict[Address, Address] = {}
        """An address of hers for each that was told."""

    def door_of(self, real: Address) -> Address:
        return self._doors.setdefault(real, (self.MACHINE, 30_000 + len(self._doors)))

    def carry_signal(self, sender: by_identity.Host, to: Identity, blob: bytes) -> None:
        signal = decode_signal(blob)
        for entry in signal.reliable:
            if entry.candidate:
                entry.candidate = re.sub(rb"(\d+\.\d+\.\d+\.\d+) (\d+) typ", self._led_away, entry.candidate)
        super().carry_signal(sender, to, encode_signal(signal))

    def _led_away(self, found: re.Match[bytes]) -> bytes:
        host, port = self.door_of((found[1].decode(), int(found[2])))
        return f"{host} {port} typ".encode()

    def carry(self, source: Address, destination: Address, packet: bytes) -> None:
        real = next((real for real, door in self._doors.items() if door == destination), None)
        if real is None:
            return
        self.seen.append(packet)
        changed = self.spoils(len(self.seen), packet)
        if changed is not None:
            super().carry(self.door_of(source), real, changed)


def _on_the_way(spoils: Callable[[int, bytes], bytes | None] | None = None) -> tuple[WayOverMallory, bool]:
    """Alice and Bob, who know each other's key, over a way that is all Mallory's; whether the secret arrived."""
    world = WayOverMallory()
    names = (Identity.of("alice"), Identity.of("bob"))
    for name, address, key in zip(names, ("192.168.1.10", "192.168.1.11"), (ALICE_KEY, BOB_KEY), strict=True):
        known = KnownPeers(zip(names, (fingerprint(ALICE_KEY.public_bytes), fingerprint(BOB_KEY.public_bytes)), strict=True))
        world.add(name.text.removeprefix("str:"), address, key=key, trust=Trust("pinned", known=known))
    alice, bob = world.hosts["alice"], world.hosts["bob"]
    if spoils is not None:
        world.spoils = spoils
    alice.send(bob, SECRET)
    world.run(SECOND_US, lambda: any(isinstance(event, SessionRequested) for event in bob.events))
    bob.accept(alice)
    arrived = world.run(30 * SECOND_US, lambda: bob.endpoint.unread_messages > 0)
    if arrived:
        assert [message.payload for message in bob.received()] == [SECRET]
    return world, arrived


def test_a_path_that_is_all_mallorys_carries_the_session_and_shows_her_nothing() -> None:
    world, arrived = _on_the_way()
    assert arrived
    assert len(world.seen) > 10
    assert not [packet for packet in world.seen if SECRET in packet]
    for host, peer_key in ((world.hosts["alice"], BOB_KEY), (world.hosts["bob"], ALICE_KEY)):
        (link,) = host.endpoint._links
        assert link.connection.established is not None
        assert link.connection.established.peer_key == peer_key.public_bytes
        assert link.connection.established.proven_by == "pinned"


@pytest.mark.parametrize("what", ["flips a bit", "cuts", "swaps for what she saw", "drops a third"])
def test_what_mallory_does_to_packets_on_her_path_is_loss(what: str) -> None:
    store: list[bytes] = []

    def spoils(count: int, packet: bytes) -> bytes | None:
        if packet[0] < 0x80:
            return packet
        store.append(packet)
        if what == "drops a third":
            return None if count % 3 == 0 else packet
        if count % 2:
            return packet
        if what == "flips a bit":
            return packet[:-1] + bytes([packet[-1] ^ 1])
        return packet[:-1] if what == "cuts" else store[0]

    world, arrived = _on_the_way(spoils)
    assert arrived
    assert not [packet for packet in world.seen if SECRET in packet]
