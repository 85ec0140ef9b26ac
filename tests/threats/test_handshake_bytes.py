"""C1, C2, C3, C6: hellos with a byte changed, ciphers taken away, certificates without their keys, keys that never come twice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from peergram.config import Config
from peergram.connection import handshake, peer_checks
from peergram.crypto.derive import SessionKeys, derive_session_keys
from peergram.crypto.policy import Trust
from peergram.events import SessionRequested
from peergram.wire.certificates import CIPHER_AES_256_GCM, CIPHER_NONE, CryptInfo, encode_crypt_info
from tests.endpoint import by_identity
from tests.endpoint import world as by_address
from tests.threats.tampering import (
    ALICE,
    ALICE_KEY,
    GUARD,
    MALLORY_KEY,
    ROOT,
    Change,
    Hello,
    Road,
    Role,
    Session,
    good_certificate,
    in_hellos,
    info_of,
    is_hello,
    issue,
    key_named,
    outcome_of,
    signed_anew,
    trust_of,
    with_cert,
)
from tests.threats.world import SOAK, full_or

AES, NONE = CIPHER_AES_256_GCM, CIPHER_NONE
ROADS: list[Road] = ["udp", "signals"]
ROLES: list[Role] = ["client", "server"]
SECOND_US = 1_000_000

# --- C1: one byte ---


def untouched(road: Road, role: Role) -> tuple[list[Session], bytes]:
    """The sessions of both sides when nobody interferes, and the hello as it travels."""
    hellos: list[bytes] = []

    def note(data: bytes) -> bytes | None:
        if is_hello(road, role, data):
            hellos.append(data)
        return None

    outcome = outcome_of(road, role, note, trust=trust_of("pinned"))
    assert outcome.is_up
    assert outcome.delivered == [b"plain words"]
    assert [(session.identity, session.key) for session in outcome.sessions] == [
        (ALICE, ALICE_KEY.public_bytes),
        (GUARD, key_named("guard").public_bytes),
    ]
    return outcome.sessions, hellos[0]


def places(size: int) -> Iterator[tuple[int, int]]:
    """(byte, what is changed in it): in a soak all eight bits by themselves and all at once."""
    step = full_or(1, 17)
    for at in range(0, size, step):
        for flip in (*(1 << bit for bit in range(8)), 0xFF) if SOAK else (1 << (at // step) % 8,):
            yield at, flip


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("road", ROADS)
def test_a_changed_byte_of_a_hello_prevents_the_session_or_changes_nothing_about_it(road: Road, role: Role) -> None:
    """Always the same byte, in every copy of the hello: no repeat helps."""
    sessions, hello = untouched(road, role)
    ends = {"prevented": 0, "the same session": 0}
    for at, flip in places(len(hello)):

        def changed(data: bytes, at: int = at, flip: int = flip) -> bytes | None:
            if not is_hello(road, role, data) or at >= len(data):
                return None
            return data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :]

        outcome = outcome_of(road, role, changed, trust=trust_of("pinned"))
        assert outcome.changed, at
        assert outcome.delivered in ([], [b"plain words"]), at
        # Where a password of the checks was changed, there may be a way in one direction only, and the session ends again.
        assert all(session in sessions for session in outcome.sessions), at
        ends["the same session" if outcome.sessions == sessions else "prevented"] += 1
    assert all(ends.values()), ends


# --- C2: ciphers ---


def listed(*ciphers: int) -> Change:
    """Another list of ciphers, which the changer cannot sign."""

    def change(hello: Hello) -> Hello:
        data = encode_crypt_info(replace(info_of(hello), ciphers=ciphers))
        return replace(hello, crypt=replace(hello.crypt, info=data))

    return change


def listed_and_signed(*ciphers: int) -> Change:
    """The same, by Alice herself."""
    return lambda hello: signed_anew(hello, replace(info_of(hello), ciphers=ciphers), ALICE_KEY)


def without_certificate(hello: Hello) -> Hello:
    return replace(hello, cert=replace(hello.cert, cert=b""))


ALLOWED: dict[int, set[int]] = {0: {AES}, 1: {AES, NONE}, 2: {AES, NONE}, 3: {NONE}}
"""By the option: never plain, if need be, rather, only."""
LISTS: list[tuple[int, ...]] = [(), (NONE,), (AES,), (AES, NONE), (NONE, AES)]


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("guards", range(4))
@pytest.mark.parametrize("hers", range(4))
def test_a_session_is_plain_only_where_both_sides_allow_it_whatever_is_taken_away(
    hers: int, guards: int, role: Role, road: Road
) -> None:
    """Requested, offered, and stripped on the way: what another changes in the list of ciphers ends it."""
    common = ALLOWED[hers] & ALLOWED[guards]
    changes: list[Change | None] = [None, without_certificate, *(listed(*ciphers) for ciphers in LISTS)]
    for change in changes:
        rewrite = in_hellos(road, role, change) if change is not None else lambda _data: None
        outcome = outcome_of(
            road,
            role,
            rewrite,
            trust=trust_of("pinned"),
            config=Config(unencrypted=guards),
            alices_config=Config(unencrypted=hers),
        )
        if not outcome.is_up:
            assert outcome.delivered == []
            assert change is not None or not common
            continue
        # A list that was changed into itself was not changed.
        assert common
        assert outcome.delivered == [b"plain words"]
        ciphers = {session.cipher for session in outcome.sessions}
        assert len(ciphers) == 1
        assert ciphers <= common
        wishes = guards if role == "client" else hers
        assert ciphers == {NONE} if common == {NONE} or (wishes == 2 and NONE in common) else ciphers == {AES}
        assert change is not without_certificate


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("ciphers", LISTS)
def test_a_guard_who_never_goes_plain_does_not_whatever_his_peer_signs(ciphers: tuple[int, ...], road: Road) -> None:
    for role in ROLES:
        outcome = outcome_of(road, role, in_hellos(road, role, listed_and_signed(*ciphers)), trust=trust_of("pinned"))
        assert {session.cipher for session in outcome.sessions} <= {AES}
        assert not [session for session in outcome.sessions if session.cipher != AES]


# --- C3: certificates without their key ---


def alices_certificate_without_her_key(hello: Hello) -> Hello:
    return with_cert(issue(ROOT, good_certificate()), MALLORY_KEY)(hello)


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("role", ROLES)
def test_every_road_and_role_proves_that_the_peer_holds_his_key(road: Road, role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing verifies nobody comes in, so that the check is on the way; and where it holds, they do."""
    asked: list[bytes] = []

    def verify(public_key: bytes, _signature: bytes, _data: bytes) -> bool:
        asked.append(public_key)
        return public_key != ALICE_KEY.public_bytes

    monkeypatch.setattr(peer_checks, "verify", verify)
    outcome = outcome_of(road, role, lambda _data: None, trust=trust_of("open"))
    assert ALICE_KEY.public_bytes in asked
    assert not outcome.is_up
    assert outcome.delivered == []
    monkeypatch.undo()
    for policy in ("open", "pinned", "ca"):
        trust = trust_of(policy)
        rewrite = in_hellos(road, role, alices_certificate_without_her_key)
        stolen = outcome_of(road, role, rewrite, trust=trust, certificate=issue(ROOT, good_certificate()))
        assert stolen.changed
        assert not stolen.is_up
        assert stolen.delivered == []


def test_nobody_takes_the_place_of_a_session_with_a_certificate_that_he_only_saw() -> None:
    """Reconnecting: a hello of another run under the same certificate replaces a session only with its key."""
    world = by_address.World()
    guard, alice = world.add("guard", trust=trust_of("pinned")), world.add("alice")
    alice.send(guard, b"true words")
    world.run_until(lambda: guard.received)
    thief = world.add("alice", starts=False)
    thief.start()
    spoil = in_hellos("udp", "client", alices_certificate_without_her_key)

    def network(sender: by_address.Host, receiver: by_address.Host, packet: bytes) -> list[int]:
        changed = spoil(packet) if sender is thief else None
        if changed is None:
            return [5_000]
        world.deliver(thief.address, receiver.address, changed, delay_us=5_000)
        return []

    world.network = network
    thief.send(guard, b"stolen words")
    world.run(15 * SECOND_US)
    alice.send(guard, b"more true words")
    world.run(SECOND_US)
    assert guard.payloads() == [b"true words", b"more true words"]
    assert len(guard.live) == 1
    assert len(guard.requests) == 1


def test_nobody_takes_the_place_of_a_call_with_a_certificate_that_he_only_saw() -> None:
    world = by_identity.World()
    guard = world.add("guard", "192.168.1.10", key=key_named("guard"), trust=trust_of("pinned"))
    alice = world.add("alice", "192.168.1.11", key=ALICE_KEY)
    alice.send(guard, b"true words")
    world.run(SECOND_US, lambda: bool(guard.events))
    guard.accept(alice)
    assert world.run(SECOND_US, lambda: guard.endpoint.unread_messages > 0)
    guard.received()
    spoil = in_hellos("signals", "client", alices_certificate_without_her_key)
    (true_link,) = guard.endpoint._links
    thief_world = by_identity.World()
    thief = thief_world.add("alice", "192.168.1.66", key=ALICE_KEY)
    caught = thief_world.catch_signals(loses=True)
    thief.endpoint.send_message(guard.identity, b"stolen words", 8, 0, thief_world.now_us)
    thief.drain()
    for blob in caught:
        world.deliver_signal(alice.identity, guard.identity, spoil(blob) or blob)
    world.run(5 * SECOND_US)
    assert guard.endpoint._strangers.last_refusal == "Invalid signature"
    alice.send(guard, b"more true words")
    world.run(SECOND_US)
    assert [message.payload for message in guard.received()] == [b"more true words"]
    assert [link for link in guard.endpoint._links if link.connection.is_live] == [true_link]
    assert len([event for event in guard.events if isinstance(event, SessionRequested)]) == 1


def test_what_is_sent_to_oneself_meets_nobody_else() -> None:
    """Loopback has no handshake: it never leaves the endpoint, and nobody can come under its own name."""
    world = by_address.World()
    guard = world.add("guard", trust=Trust("open"))
    twin = world.add("guard", starts=False)
    twin.start(new_key=True)
    world.records = True
    guard.send(guard.identity, b"to myself")
    world.run(SECOND_US)
    assert world.sent == []
    twin.send(guard.dialed, b"from your twin")
    world.run(15 * SECOND_US)
    assert guard.payloads() == [b"to myself"]
    assert guard.requests == []


# --- C6: keys and nonces ---


def test_no_two_sessions_have_a_key_in_common_whoever_starts_over_or_calls_again(monkeypatch: pytest.MonkeyPatch) -> None:
    derived: list[SessionKeys] = []

    def noting(*arguments: object, **named: object) -> SessionKeys:
        derived.append(derive_session_keys(*arguments, **named))  # type: ignore[arg-type]
        return derived[-1]

    monkeypatch.setattr(handshake, "derive_session_keys", noting)
    world = by_address.World()
    guard, alice = world.add("guard"), world.add("alice")
    sessions = full_or(1_000, 20)
    for number in range(sessions):
        alice.send(guard, b"%d" % number)
        world.run_until(lambda number=number: len(guard.received) == number + 1)  # type: ignore[misc]
        if number % 2:
            alice.close_session(guard.dialed)
            world.run(SECOND_US)
        else:
            alice.kill()
            world.run(20 * SECOND_US)
            alice.start()
    keys = [direction.key for each in derived for direction in (each.client_to_server, each.server_to_client)]
    by_key: dict[bytes, int] = {}
    for key in keys:
        by_key[key] = by_key.get(key, 0) + 1
    # Each side derives both directions once.
    assert len(by_key) == 2 * sessions
    assert set(by_key.values()) == {2}
    ivs = {direction.iv for each in derived for direction in (each.client_to_server, each.server_to_client)}
    assert len(ivs) == 2 * sessions


def test_a_hello_says_nothing_that_an_earlier_one_said_of_its_keys() -> None:
    """A clone of a machine, with all it knew, still draws its own keys."""
    infos: list[CryptInfo] = []

    def note(hello: Hello) -> Hello:
        infos.append(info_of(hello))
        return hello

    for seed in (1, 2):
        world = by_address.World(seed=seed)
        guard, alice = world.add("guard"), world.add("alice")
        world.records = True
        alice.send(guard, b"hello")
        world.run(SECOND_US)
        for _, source, _, packet in world.sent:
            if source == alice.address:
                in_hellos("udp", "client", note)(packet)
    one, other = infos[0], infos[-1]
    assert one.key_data != other.key_data
    assert one.nonce != other.nonce
    assert one.capabilities is not None
    assert other.capabilities is not None
    assert one.capabilities.run_id != other.capabilities.run_id
