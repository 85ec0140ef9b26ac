"""Whom an endpoint lets in, on the way in and on the way out: the four policies, remembered keys, agreement, certificates."""

from __future__ import annotations

from dataclasses import replace

import pytest

from peergram.config import IMPOSTORS_KEPT_MAX, KNOWN_PEERS_MAX, Config
from peergram.crypto import known_peers
from peergram.crypto.keys import SigningKey, fingerprint, key_id
from peergram.crypto.known_peers import KnownPeers
from peergram.crypto.policy import KNOWN_OTHERWISE, Policy, Trust
from peergram.crypto.trust import Scope, TrustStore
from peergram.endpoint import admission
from peergram.errors import EndReason, UsageError
from peergram.events import ConnectionState, InfoFlags, SendFlags, SessionRequested
from peergram.identity import Identity
from peergram.wire.certificates import Certificate, SignedCertificate, encode_certificate, write_identity
from tests.endpoint import by_identity
from tests.endpoint.world import SECOND_US, UNRELIABLE, Host, World

ROOT = SigningKey(b"a root".ljust(32, b"."))
OTHER_ROOT = SigningKey(b"another root".ljust(32, b"."))
WALL_S = 1_800_000_000
DAY_S = 86_400
AGAIN = SendFlags.RELIABLE | SendFlags.AUTO_RESTART_BROKEN_SESSION


def pinned(**known: str) -> Trust:
    return Trust("pinned", known=KnownPeers((Identity.of(name), shown) for name, shown in known.items()))


def certified(*also: Policy, root: SigningKey = ROOT, revoked: SigningKey | None = None) -> Trust:
    store = TrustStore()
    store.add_root(root.public_bytes)
    if revoked is not None:
        store.revoke(key_id(revoked.public_bytes))
    return Trust(("ca", *also), authorities=store)


def certificate_for(host: Host, *, root: SigningKey = ROOT, until_s: int = WALL_S + DAY_S) -> SignedCertificate:
    fields = write_identity(host.identity)
    cert = encode_certificate(Certificate(1, host.key.public_bytes, fields, WALL_S - DAY_S, until_s, (0,)))
    return SignedCertificate(cert, key_id(root.public_bytes), root.sign(cert))


def world_of_today() -> World:
    world = World()
    world.wall_offset_us = WALL_S * 1_000_000 - world.now_us
    return world


def proofs(host: Host, peer: Host | Identity) -> tuple[str, bool]:
    """What was proven of the peer, and whether the session is flagged as unauthenticated."""
    info = host.info(peer)
    assert info is not None
    return info.proven_by, InfoFlags.UNAUTHENTICATED in info.flags


def talk(world: World, caller: Host, called: Host) -> None:
    caller.send(called, b"hello")
    world.run(SECOND_US)


# --- every policy, in and out ---


@pytest.mark.parametrize(
    ("policies", "who", "has_certificate", "expected"),
    [
        (("key",), "", False, "key"),
        (("key",), "name", False, None),
        (("key",), "name", True, None),
        (("pinned",), "", False, "key"),
        (("pinned",), "name", False, "first_contact"),
        (("ca",), "", False, "key"),
        (("ca",), "name", False, None),
        (("ca",), "name", True, "certificate"),
        (("ca", "pinned"), "name", True, "certificate"),
        (("ca", "pinned"), "name", False, "first_contact"),
        (("open",), "", False, "key"),
        (("open",), "name", False, "nothing"),
        (("open", "pinned"), "name", False, "nothing"),
        (("ca", "open"), "name", True, "certificate"),
        (("ca", "open"), "name", False, "nothing"),
    ],
)
@pytest.mark.parametrize("is_called", [False, True], ids=["he calls", "he is called"])
def test_a_peer_gets_in_by_one_of_the_policies_or_stays_out(
    policies: tuple[Policy, ...], who: str, has_certificate: bool, expected: str | None, is_called: bool
) -> None:
    world = world_of_today()
    store = TrustStore()
    store.add_root(ROOT.public_bytes)
    guard = world.add("guard", trust=Trust(policies, authorities=store if "ca" in policies else None))
    other = world.add(who, starts=False)
    other.certificate = certificate_for(other) if has_certificate else None
    other.start()
    if is_called:
        talk(world, guard, other)
        world.run(15 * SECOND_US)
        if expected is None:
            (failure,) = guard.failures
            assert failure.reason == EndReason.REMOTE_BAD_CERT
            assert not other.received
        else:
            assert proofs(guard, other.dialed) == (expected, expected == "nothing")
            assert other.payloads() == [b"hello"]
        return
    talk(world, other, guard)
    world.run(15 * SECOND_US)
    assert [request.proven_by for request in guard.requests] == ([] if expected is None else [expected])
    assert guard.payloads() == ([] if expected is None else [b"hello"])
    if expected is not None:
        assert proofs(guard, other.identity) == (expected, expected == "nothing")


def test_no_policy_but_open_gives_an_unauthenticated_session() -> None:
    for policies in (("key",), ("pinned",), ("ca",), ("ca", "pinned"), ("key", "ca", "pinned")):
        trust = Trust(policies, authorities=TrustStore())
        for identity in (
            Identity.of("alice"),
            Identity.generic_bytes(bytes(32)),
            Identity.ip(("192.0.2.1", 5)),
            Identity.of("psn:5"),
        ):
            verdict = trust.judge(identity, ROOT.public_bytes, None)
            assert getattr(verdict, "proven_by", "") != "nothing"


def test_no_authority_makes_a_key_somebody_else_s() -> None:
    """A stolen authority must not be able to pose as those who are their own keys."""
    for policies in (("ca",), ("ca", "pinned")):
        trust = Trust(policies, authorities=TrustStore())
        assert not hasattr(trust.judge(Identity.generic_bytes(bytes(32)), ROOT.public_bytes, Scope()), "proven_by")


def test_an_anonymous_peer_gets_in_under_open_only() -> None:
    """An address is no name that could keep a key."""
    for policies in (("key",), ("pinned",), ("ca",)):
        trust = Trust(policies, authorities=TrustStore())
        assert not hasattr(trust.judge(Identity.ip(("192.0.2.1", 5)), ROOT.public_bytes, None), "proven_by")


def test_unknown_policies_and_missing_authorities_are_refused() -> None:
    for wrong in ("", "friends", ("pinned", "all"), ()):
        with pytest.raises(UsageError, match="trust: use one or several of key, pinned, ca, open"):
            Trust(wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="at least one root"):
        Trust("ca")
    with pytest.raises(UsageError, match="pin_outgoing"):
        Trust("pinned", pin_outgoing="never")  # type: ignore[arg-type]


# --- remembered keys ---


def test_a_key_is_remembered_by_who_accepts_and_by_who_dials_and_is_known_the_next_time() -> None:
    world = World()
    alice, bob = world.add("alice", trust=pinned()), world.add("bob", trust=pinned())
    talk(world, alice, bob)
    assert proofs(alice, bob.dialed) == ("first_contact", False)
    assert proofs(bob, alice.identity) == ("first_contact", False)
    assert alice.endpoint.poll_known_peer() == (bob.identity, bob.endpoint.key_fingerprint)
    assert bob.endpoint.poll_known_peer() == (alice.identity, alice.endpoint.key_fingerprint)
    assert alice.endpoint.poll_known_peer() is None
    alice.close_session(bob.dialed)
    world.run(SECOND_US)
    talk(world, alice, bob)
    assert proofs(alice, bob.dialed) == ("pinned", False)
    assert proofs(bob, alice.identity) == ("pinned", False)
    assert bob.requests[-1].proven_by == "pinned"
    assert alice.endpoint.poll_known_peer() is None


def test_who_is_not_let_in_is_not_remembered() -> None:
    world = World()
    alice, bob = world.add("alice"), world.add("bob", trust=pinned(), accepts=False)
    talk(world, alice, bob)
    assert [request.proven_by for request in bob.requests] == ["first_contact"]
    assert bob.endpoint.poll_known_peer() is None
    bob.close_session(alice.identity)
    world.run(SECOND_US)
    assert bob.endpoint.poll_known_peer() is None


def test_a_key_whose_owner_never_showed_that_he_holds_it_is_not_remembered() -> None:
    """His hello may be a replay, made of the records of somebody else."""
    world = World()
    alice, bob = world.add("alice"), world.add("bob", trust=pinned(), accepts=False)
    alice.send(bob, b"hello")
    world.run_until(lambda: bob.requests)
    alice.kill()
    assert bob.accept(alice.identity)
    world.run(5 * SECOND_US)
    assert bob.endpoint.poll_known_peer() is None


def test_a_name_with_another_key_stays_out_and_people_hear_of_both_keys_and_of_the_command() -> None:
    world = World()
    alice, bob = world.add("alice"), world.add("bob", trust=pinned())
    talk(world, alice, bob)
    known = alice.endpoint.key_fingerprint
    alice.kill()
    world.run(20 * SECOND_US)
    alice.start(new_key=True)
    talk(world, alice, bob)
    world.run(10 * SECOND_US)
    now = alice.endpoint.key_fingerprint
    assert len(bob.requests) == 1
    (refused,) = bob.refused
    assert (refused.identity, refused.key_fingerprint) == (alice.identity, now)
    for part in (f"str:alice is known with another key: {now} now, but {known} before", f"peergram known accept str:alice {now}"):
        assert part in refused.text
    assert bob.payloads() == [b"hello"]
    alice.send(bob, b"again", AGAIN)
    world.run(10 * SECOND_US)
    assert len(bob.refused) == 1
    world.run(60 * SECOND_US)
    alice.send(bob, b"again", AGAIN)
    world.run(10 * SECOND_US)
    assert len(bob.refused) == 2


def test_impostors_without_number_cost_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert IMPOSTORS_KEPT_MAX > 16
    monkeypatch.setattr(admission, "IMPOSTORS_KEPT_MAX", 2)
    world = World()
    names = ("alice", "carol", "dave", "eve")
    bob = world.add("bob", trust=pinned(**dict.fromkeys(names, "SHA256:another")))
    for name in names:
        talk(world, world.add(name), bob)
    assert {refused.identity.text for refused in bob.refused} == {f"str:{name}" for name in names}
    assert len(bob.endpoint._admission._told_us) == 2


def test_impostors_of_one_name_with_a_new_key_each_write_one_line() -> None:
    world = World()
    bob = world.add("bob", trust=pinned(alice="SHA256:another"))
    for number in range(10):
        alice = world.add("alice", starts=False)
        alice._key_number = number
        alice.start()
        talk(world, alice, bob)
    assert len(bob.refused) == 1
    world.run(60 * SECOND_US)
    alice.send(bob, b"again", AGAIN)
    world.run(SECOND_US)
    assert len(bob.refused) == 2


def test_who_is_called_and_has_another_key_gets_nothing() -> None:
    world = World()
    alice, bob = world.add("alice", trust=pinned(bob="SHA256:another")), world.add("bob")
    talk(world, alice, bob)
    world.run(10 * SECOND_US)
    (failure,) = alice.failures
    assert failure.reason == EndReason.REMOTE_BAD_CERT
    assert f"str:bob is known with another key: {bob.endpoint.key_fingerprint} now, but SHA256:another before" in failure.debug
    assert failure.unconfirmed.messages == 1
    assert not bob.received


def test_an_impostor_does_not_learn_which_key_he_should_have() -> None:
    """Neither one who calls nor one who is called; by address, or by name."""
    for is_called in (False, True):
        world = World()
        alice, bob = world.add("alice", trust=pinned(bob="SHA256:another")), world.add("bob")
        world.records = True
        talk(world, *((alice, bob) if is_called else (bob, alice)))
        world.run(10 * SECOND_US)
        assert len(alice.failures) == is_called
        assert not any(b"another before" in packet or b"SHA256" in packet for _, _, _, packet in world.sent)
        assert any(KNOWN_OTHERWISE.encode() in packet for _, _, _, packet in world.sent) == is_called
    by_name = by_identity.World()
    caller = by_name.add("alice", "192.168.1.10", trust=pinned(bob="SHA256:another"))
    called = by_name.add("bob", "192.168.1.11")
    signals = by_name.catch_signals(loses=False)
    caller.send(called)
    by_name.run(SECOND_US)
    called.accept(caller)
    by_name.run(15 * SECOND_US)
    assert any("is known with another key" in getattr(event, "debug", "") for event in caller.events)
    assert not any(b"SHA256" in signal for signal in signals)
    assert any(KNOWN_OTHERWISE.encode() in signal for signal in signals)


def test_a_new_key_comes_in_once_people_accepted_it() -> None:
    world = World()
    alice, bob = world.add("alice"), world.add("bob", trust=pinned(alice="SHA256:another"))
    talk(world, alice, bob)
    assert not bob.requests
    bob.endpoint.handle_known_peers([(alice.identity, alice.endpoint.key_fingerprint)])
    world.run(10 * SECOND_US)
    assert [request.proven_by for request in bob.requests] == ["pinned"]


def test_a_name_may_have_several_keys() -> None:
    world = World()
    alice = world.add("alice")
    known = KnownPeers([(alice.identity, "SHA256:at home"), (alice.identity, alice.endpoint.key_fingerprint)])
    bob = world.add("bob", trust=Trust("pinned", known=known))
    talk(world, alice, bob)
    assert [request.proven_by for request in bob.requests] == ["pinned"]


def test_a_known_name_must_be_itself_even_where_anyone_may_come_in() -> None:
    world = World()
    alice, carol = world.add("alice"), world.add("carol")
    known = KnownPeers([(alice.identity, "SHA256:another")])
    bob = world.add("bob", trust=Trust(("pinned", "open"), known=known))
    talk(world, alice, bob)
    talk(world, carol, bob)
    assert [(request.identity, request.proven_by) for request in bob.requests] == [(carol.identity, "nothing")]
    assert bob.endpoint.poll_known_peer() is None


def test_two_who_come_under_one_new_name_at_once_do_not_both_get_in() -> None:
    world = World()
    known = KnownPeers()
    bob = world.add("bob", trust=Trust("pinned", known=known))
    alice = world.add("alice")
    alice.send(bob, b"hello")
    world.run_until(lambda: bob.requests)
    # The other one was remembered while the first had not shown yet that he holds his key.
    known.remember(alice.identity, "SHA256:another")
    world.run(2 * SECOND_US)
    assert [failure.reason for failure in bob.failures] == [EndReason.REMOTE_BAD_CERT]
    assert known.fingerprints_of(alice.identity) == ("SHA256:another",)


def test_no_more_than_so_many_keys_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    assert KNOWN_PEERS_MAX > 1_000
    monkeypatch.setattr(known_peers, "KNOWN_PEERS_MAX", 3)
    known = KnownPeers((Identity.of(f"peer{number}"), "SHA256:x") for number in range(5))
    known.remember(Identity.of("peer1"), "SHA256:y")
    assert [bool(known.fingerprints_of(Identity.of(f"peer{number}"))) for number in range(5)] == [True] * 3 + [False] * 2
    assert known.poll_new() is None
    known.replace_all([(Identity.of("one"), "SHA256:z")])
    known.remember(Identity.of("two"), "SHA256:z")
    assert known.poll_new() == (Identity.of("two"), "SHA256:z")


# --- agreement to the key of somebody we called ---


def asking() -> tuple[World, Host, Host]:
    """Alice has called Bob, whom she never met, and wants to see his key first."""
    world = World()
    alice = world.add("alice", trust=Trust("pinned", pin_outgoing="ask"), accepts=False)
    bob = world.add("bob")
    alice.send(bob, b"held")
    alice.send(bob, b"held, too", UNRELIABLE)
    world.run(2 * SECOND_US)
    return world, alice, bob


def test_nothing_goes_to_a_stranger_we_called_before_we_agree_to_his_key() -> None:
    world, alice, bob = asking()
    (question,) = alice.requests
    assert (question.identity, question.is_outgoing, question.proven_by) == (bob.dialed, True, "first_contact")
    assert question.key_fingerprint == bob.endpoint.key_fingerprint
    assert alice.endpoint.pending_request(bob.dialed) == question
    info = alice.info(bob.dialed)
    assert info is not None
    assert (info.state, info.key_fingerprint) == (ConnectionState.CONNECTING, bob.endpoint.key_fingerprint)
    assert not bob.received
    assert alice.accept(bob.dialed)
    world.run(SECOND_US)
    assert sorted(bob.payloads()) == [b"held", b"held, too"]
    assert alice.endpoint.poll_known_peer() == (bob.identity, bob.endpoint.key_fingerprint)
    assert alice.endpoint.pending_request(bob.dialed) is None


def test_who_does_not_agree_closes_and_nothing_was_sent() -> None:
    world, alice, bob = asking()
    assert alice.close_session(bob.dialed)
    world.run(10 * SECOND_US)
    assert not bob.received
    assert alice.endpoint.poll_known_peer() is None


def test_without_an_answer_the_call_ends_and_says_so() -> None:
    world, alice, bob = asking()
    world.run(10 * SECOND_US)
    (failure,) = alice.failures
    assert failure.reason == EndReason.MISC_TIMEOUT
    assert "Nobody agreed to the key of this peer in time" in failure.debug
    assert failure.unconfirmed.messages == 1
    assert not bob.received
    assert alice.endpoint.pending_request(bob.dialed) is None


@pytest.mark.parametrize("agrees", [True, False])
def test_two_who_dial_each_other_at_once_are_no_way_around_the_agreement(agrees: bool) -> None:
    """Whichever dial goes on: the one who asks first gives nothing away before."""
    for seed in range(8):
        world = World(seed=seed)
        alice = world.add("alice", trust=Trust("pinned", pin_outgoing="ask"), accepts=False)
        bob = world.add("bob")
        alice.send(bob, b"held")
        bob.send(alice, b"hello")
        world.run(3 * SECOND_US)
        alice.send(bob, b"held, too")
        world.run(SECOND_US)
        (question,) = alice.requests
        assert (question.identity, question.is_outgoing, question.proven_by) == (bob.dialed, True, "first_contact")
        assert alice.endpoint.pending_request(bob.dialed) == question
        assert not bob.received
        if agrees:
            assert alice.accept(bob.dialed)
            world.run(2 * SECOND_US)
            assert bob.payloads() == [b"held", b"held, too"]
            assert alice.payloads() == [b"hello"]
            assert alice.endpoint.poll_known_peer() == (bob.identity, bob.endpoint.key_fingerprint)
        else:
            world.run(15 * SECOND_US)
            assert [failure.unconfirmed.messages for failure in alice.failures] == [2]
            assert alice.endpoint.pending_request(bob.dialed) is None
            assert not bob.received
            assert alice.endpoint.poll_known_peer() is None


def test_a_send_to_a_stranger_who_waits_is_a_call_and_needs_agreement() -> None:
    world = World()
    alice = world.add("alice", trust=Trust("pinned", pin_outgoing="ask"), accepts=False)
    bob = world.add("bob")
    talk(world, bob, alice)
    alice.send(bob.identity, b"held")
    world.run(2 * SECOND_US)
    assert [question.is_outgoing for question in alice.requests] == [False, True]
    assert not bob.received
    assert alice.accept(bob.identity)
    world.run(2 * SECOND_US)
    assert bob.payloads() == [b"held"]


def test_who_comes_while_the_application_looks_at_a_key_is_not_the_one_it_agrees_to() -> None:
    world = World()
    alice = world.add("alice", trust=Trust("pinned", pin_outgoing="ask"), accepts=False)
    bob = world.add("bob")
    alice.send(bob, b"held")
    world.run(2 * SECOND_US)
    (question,) = alice.requests
    bob.kill()
    bob.start(new_key=True)
    bob.send(alice, b"from the same place, with another key")
    world.run(2 * SECOND_US)
    alice.accept(bob.dialed)
    world.run(5 * SECOND_US)
    assert not bob.received
    assert alice.requests[0] == question
    assert alice.endpoint.poll_known_peer() in (None, (bob.identity, question.key_fingerprint))


def test_a_known_key_needs_no_agreement() -> None:
    world = World()
    bob = world.add("bob")
    known = KnownPeers([(bob.identity, bob.endpoint.key_fingerprint)])
    alice = world.add("alice", trust=Trust("pinned", known=known, pin_outgoing="ask"), accepts=False)
    talk(world, alice, bob)
    assert bob.payloads() == [b"hello"]
    assert not alice.requests


# --- certificates of an authority ---


def test_both_sides_of_a_session_can_demand_a_certificate() -> None:
    world = world_of_today()
    alice, bob = (world.add(name, starts=False, trust=certified()) for name in ("alice", "bob"))
    for host in (alice, bob):
        host.certificate = certificate_for(host)
        host.start()
    talk(world, alice, bob)
    assert proofs(alice, bob.dialed) == ("certificate", False)
    assert proofs(bob, alice.identity) == ("certificate", False)
    assert bob.payloads() == [b"hello"]


@pytest.mark.parametrize("also", ["pinned", "open"])
def test_a_certificate_that_no_authority_of_ours_signed_counts_as_none(also: Policy) -> None:
    world = world_of_today()
    alice, bob = world.add("alice", starts=False), world.add("bob", trust=certified(also))
    alice.certificate = certificate_for(alice, root=OTHER_ROOT)
    alice.start()
    talk(world, alice, bob)
    assert [request.proven_by for request in bob.requests] == [{"pinned": "first_contact", "open": "nothing"}[also]]


@pytest.mark.parametrize("policies", [("ca",), ("ca", "pinned"), ("ca", "open")])
def test_a_revoked_key_stays_out_whatever_else_would_let_it_in(policies: tuple[Policy, ...]) -> None:
    world = world_of_today()
    alice, key = world.add("alice", starts=False), world.add("", starts=False)
    alice.certificate = certificate_for(alice)
    for host in (alice, key):
        host.start()
        bob = world.add("bob", trust=certified(*policies[1:], revoked=host.key))
        talk(world, host, bob)
        assert not bob.requests


def test_a_key_that_is_revoked_while_the_program_runs_gets_no_further_session() -> None:
    world = world_of_today()
    alice, bob = world.add("alice", starts=False), world.add("bob", trust=certified())
    alice.certificate = certificate_for(alice)
    alice.start()
    talk(world, alice, bob)
    bob.endpoint.renew_authorities(certified(revoked=alice.key).authorities)
    alice.send(bob, b"still here")
    world.run(SECOND_US)
    assert bob.payloads() == [b"hello", b"still here"]
    alice.close_session(bob.dialed)
    world.run(SECOND_US)
    talk(world, alice, bob)
    assert len(bob.requests) == 1


def test_a_session_outlives_its_certificate_and_new_ones_show_the_renewed_one() -> None:
    world = world_of_today()
    alice, bob = world.add("alice", starts=False), world.add("bob", trust=certified())
    alice.certificate = certificate_for(alice, until_s=WALL_S + 60)
    alice.start()
    talk(world, alice, bob)
    bob.endpoint.wall_offset_us += 3_600_000_000
    alice.send(bob, b"an hour later")
    world.run(SECOND_US)
    assert bob.payloads() == [b"hello", b"an hour later"]
    alice.close_session(bob.dialed)
    world.run(SECOND_US)
    talk(world, alice, bob)
    assert len(bob.requests) == 1
    alice.close_session(bob.dialed)
    alice.endpoint.renew_certificate(certificate_for(alice))
    world.run(SECOND_US)
    talk(world, alice, bob)
    assert [request.proven_by for request in bob.requests] == ["certificate"] * 2


def test_a_certificate_for_others_is_refused_where_it_is_installed() -> None:
    world = world_of_today()
    alice, bob = world.add("alice"), world.add("bob")
    unsigned = replace(certificate_for(alice), ca_key_id=None, ca_signature=b"")
    other_name = encode_certificate(Certificate(1, alice.key.public_bytes, write_identity(bob.identity), 0, WALL_S, (0,)))
    no_app = encode_certificate(Certificate(1, alice.key.public_bytes, write_identity(alice.identity), 0, WALL_S, ()))
    other_app = encode_certificate(Certificate(1, alice.key.public_bytes, write_identity(alice.identity), 0, WALL_S, (5, 7)))
    for wrong, text in [
        (SignedCertificate(other_app, 1, bytes(64)), "it is not for app 0, which peers here use, only for 5, 7"),
        (certificate_for(bob), f"it is for the key {fingerprint(bob.key.public_bytes)}, but the key of str:alice is"),
        (SignedCertificate(other_name, 1, bytes(64)), "it is for str:bob, not for str:alice"),
        (SignedCertificate(no_app, 1, bytes(64)), "bound to no app"),
        (unsigned, "no authority has signed it"),
        (SignedCertificate(b"\xff" * 20, 1, bytes(64)), "certificate: "),
    ]:
        with pytest.raises(UsageError, match=text):
            alice.endpoint.renew_certificate(wrong)


# --- no encryption ---


@pytest.mark.parametrize("client", range(4))
@pytest.mark.parametrize("server", range(4))
def test_a_session_is_plain_only_if_both_sides_said_so(client: int, server: int) -> None:
    """0 never, 1 if need be, 2 rather, 3 only. The server's wish decides among what both allow."""
    world = World()
    alice, bob = world.add("alice", Config(unencrypted=client)), world.add("bob", Config(unencrypted=server))
    talk(world, alice, bob)
    world.run(10 * SECOND_US)
    allowed = {0: {"aes"}, 1: {"aes", "none"}, 2: {"aes", "none"}, 3: {"none"}}
    common = allowed[client] & allowed[server]
    if not common:
        assert not bob.received
        assert alice.failures
        return
    assert bob.payloads() == [b"hello"]
    wanted = "none" if common == {"none"} or (server == 2 and "none" in common) else "aes"
    for info in (alice.info(bob.dialed), bob.info(alice.identity)):
        assert info is not None
        assert (InfoFlags.UNENCRYPTED in info.flags) == (wanted == "none")


# --- a name and an address that were one ---


def moved_in(world: World, bob: Host) -> Host:
    """Bob is gone, and Mallory has his address now."""
    bob.kill()
    world.run(30 * SECOND_US)
    mallory = world.add("mallory", starts=False)
    mallory.ip, mallory.address, mallory.dialed = bob.ip, bob.address, bob.dialed
    mallory.start()
    return mallory


def test_who_has_the_address_of_somebody_that_called_us_does_not_get_his_name_with_it() -> None:
    world = World()
    alice, bob = world.add("alice", trust=pinned()), world.add("bob", trust=pinned())
    talk(world, bob, alice)
    alice.send(bob.dialed, b"to his address")
    world.run(SECOND_US)
    assert alice.info(bob.dialed) == alice.info(bob.identity)
    mallory = moved_in(world, bob)
    alice.send(mallory.dialed, b"to whoever is there", AGAIN)
    world.run(2 * SECOND_US)
    alice.send(bob.identity, b"for bob", AGAIN)
    mallory.send(alice, b"from whoever is there")
    world.run(2 * SECOND_US)
    assert mallory.payloads() == [b"to whoever is there"]
    assert [message.identity for message in alice.received] == [bob.identity, mallory.dialed]


def test_who_has_the_address_of_somebody_that_we_dialed_does_not_get_his_name_with_it() -> None:
    for seed in range(8):
        world = World(seed=seed)
        alice, bob = world.add("alice", trust=pinned()), world.add("bob", trust=pinned())
        alice.send(bob, b"at the same time")
        talk(world, bob, alice)
        mallory = moved_in(world, bob)
        alice.send(mallory.dialed, b"to whoever is there", AGAIN)
        world.run(2 * SECOND_US)
        alice.send(bob.identity, b"for bob", AGAIN)
        mallory.send(alice, b"from whoever is there")
        world.run(2 * SECOND_US)
        assert mallory.payloads() == [b"to whoever is there"]
        assert alice.received[-1].identity == mallory.dialed


def test_who_comes_from_elsewhere_is_not_taken_for_the_address_where_he_was() -> None:
    for seed in range(8):
        world = World(seed=seed)
        alice, bob = world.add("alice", trust=pinned()), world.add("bob", trust=pinned())
        alice.send(bob, b"at the same time")
        talk(world, bob, alice)
        mallory = moved_in(world, bob)
        again = world.add("bob", trust=pinned())
        talk(world, again, alice)
        assert (alice.received[-1].identity, alice.received[-1].payload) == (bob.identity, b"hello")
        alice.send(mallory.dialed, b"to whoever is there", AGAIN)
        world.run(2 * SECOND_US)
        assert not again.received
        assert mallory.payloads() == [b"to whoever is there"]


@pytest.mark.parametrize("agrees", [True, False])
def test_two_who_call_each_other_at_once_are_no_way_around_the_agreement(agrees: bool) -> None:
    for seed in range(8):
        world = by_identity.World(seed=seed)
        alice = world.add("alice", "192.168.1.10", trust=Trust("pinned", pin_outgoing="ask"))
        bob = world.add("bob", "192.168.1.11")
        alice.send(bob, b"held")
        bob.send(alice, b"hello")
        world.run(3 * SECOND_US)
        (question,) = [event for event in alice.events if isinstance(event, SessionRequested)]
        assert (question.identity, question.is_outgoing, question.proven_by) == (bob.identity, True, "first_contact")
        assert not bob.received()
        if agrees:
            assert alice.accept(bob)
            world.run(3 * SECOND_US)
            assert [message.payload for message in bob.received()] == [b"held"]
            assert [message.payload for message in alice.received()] == [b"hello"]
            assert alice.endpoint.poll_known_peer() == (bob.identity, question.key_fingerprint)
        else:
            world.run(15 * SECOND_US)
            assert not bob.received()
            assert alice.endpoint.pending_request(bob.identity) is None
            assert alice.endpoint.poll_known_peer() is None


def test_who_was_called_by_name_gets_what_was_held_once_we_agree_to_his_key() -> None:
    world = by_identity.World()
    alice = world.add("alice", "192.168.1.10", trust=Trust("pinned", pin_outgoing="ask"))
    bob = world.add("bob", "192.168.1.11")
    alice.send(bob, b"held")
    world.run(SECOND_US)
    bob.accept(alice)
    world.run(SECOND_US)
    (question,) = [event for event in alice.events if isinstance(event, SessionRequested)]
    assert (question.identity, question.is_outgoing) == (bob.identity, True)
    assert not bob.received()
    assert alice.accept(bob)
    world.run(2 * SECOND_US)
    assert [message.payload for message in bob.received()] == [b"held"]
    info = alice.endpoint.connection_info(bob.identity, world.now_us)
    assert info is not None
    assert (info.state, info.proven_by) == (ConnectionState.CONNECTED, "first_contact")
