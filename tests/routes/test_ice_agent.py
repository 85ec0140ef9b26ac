"""The agent as its owner sees it: how fast it finds a way, whose choice holds, and that nobody else has a say."""

from __future__ import annotations

import hmac
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from peergram.address import Address
from peergram.config import (
    ICE_ANSWERS_WAITING_MAX,
    ICE_CONSENT_EXPIRY_US,
    ICE_CONSENT_MAX_US,
    ICE_MOVED_PAUSE_US,
    ICE_MOVED_US,
    ICE_PROBE_INTERVAL_US,
    ICE_SETTLE_US,
)
from peergram.routes.candidates import Base, Candidate, CandidateKind, LocalCandidate
from peergram.routes.ice_events import Found, Lost, Selected
from peergram.wire.stun import Class, Method, StunMessage, decode_stun, encode_stun
from tests.routes.lab import MS, SECOND, Lab, Packet, Peer, Site

ONE: Address = ("203.0.113.1", 1111)
TWO: Address = ("198.51.100.2", 2222)
ONE_ELSEWHERE: Address = ("203.0.113.77", 1177)
RELAY: Address = ("192.0.2.9", 9999)
STRANGER: Address = ("192.0.2.66", 6666)
RTT = 50 * MS


def joined(**options: Any) -> tuple[Lab, Peer, Peer, Base, Base]:
    """Two public hosts that found each other."""
    lab = Lab()
    one, two = lab.pair(**options)
    base_one, base_two = one.host(Site(), ONE), two.host(Site(), TWO)
    lab.run(3 * SECOND)
    assert one.route == (base_one, TWO)
    assert two.route == (base_two, ONE)
    return lab, one, two, base_one, base_two


def forge(peer: Peer, base: Base, source: Address, message: StunMessage, key: bytes | None) -> None:
    peer.lab.deliver(peer, base, source, encode_stun(message, integrity_key=key))


def check_request(lab: Lab, receiver: Peer, sender: Peer, **fields: Any) -> StunMessage:
    message = StunMessage(
        method=Method.BINDING,
        message_class=Class.REQUEST,
        transaction_id=lab.random.randbytes(12),
        username=receiver.ufrag + b":" + sender.ufrag,
        priority=1_862_270_975,
        ice_controlled=5,
    )
    return replace(message, **fields)


def lossy(chance: random.Random, share: float) -> Callable[[Packet], bool]:
    return lambda packet: chance.random() < share


def remote_kind(peer: Peer) -> CandidateKind:
    assert peer.agent.selected is not None
    return peer.agent.selected.remote_kind


# Finding a way.


def test_the_first_pair_works_after_one_round_trip_here_and_one_and_a_half_there() -> None:
    lab = Lab()
    lab.signal_us = 0
    one, two = lab.pair()
    two.host(Site(), TWO)
    lab.run(0)
    start_us = lab.now_us
    one.host(Site(), ONE, told=False)
    lab.run(SECOND)
    assert one.first(Found) == one.first(Selected) == start_us + RTT
    assert two.first(Selected) == start_us + RTT + RTT // 2
    # A check and its answer each way, and the nomination with its answer.
    assert len(lab.packets) == 6


def test_both_sides_use_one_pair_and_the_controlling_side_nominated_it() -> None:
    _lab, one, two, *_ = joined()
    for peer in (one, two):
        assert peer.agent.selected is not None
        assert peer.agent.selected.is_nominated
        assert peer.agent.selected.rtt_us == RTT
    nominations = [packet.at_us for packet in one.checks if packet.message.use_candidate]
    assert nominations[0] == one.first(Selected)
    assert not any(packet.message.use_candidate for packet in two.checks)


def test_checks_that_come_before_the_peers_password_is_known_are_answered_and_returned_later() -> None:
    lab = Lab()
    one, two = lab.peer("one", controlling=True), lab.peer("two", controlling=False)
    two.other = one
    two.do(lambda agent, now_us: agent.set_remote(one.ufrag, one.password, now_us))
    one.host(Site(), ONE, told=False)
    two.host(Site(), TWO, told=False)
    two.do(lambda agent, now_us: agent.add_remote(one.locals[0].candidate, now_us))
    lab.run(SECOND)
    assert two.route is not None
    assert one.route is None
    assert not one.checks
    start_us = lab.now_us
    one.do(lambda agent, now_us: agent.set_remote(two.ufrag, two.password, now_us))
    lab.run(SECOND)
    assert one.first(Selected) == start_us + RTT
    assert one.agent.selected is not None
    assert one.agent.selected.remote_kind is CandidateKind.PEER_REFLEXIVE


def test_a_candidate_announced_later_gives_its_kind_to_what_a_check_revealed() -> None:
    lab = Lab()
    one, two = lab.pair()
    lab.signal_us = 200 * MS
    two.host(Site(), TWO)
    lab.signal_us = 0
    one.host(Site(), ONE, told=True)
    lab.run(100 * MS)
    assert remote_kind(one) is CandidateKind.PEER_REFLEXIVE
    lab.run(SECOND)
    assert remote_kind(one) is CandidateKind.HOST


def test_ipv4_and_ipv6_are_both_tried_and_never_mixed() -> None:
    lab = Lab()
    one, two = lab.pair()
    for peer, four, six in ((one, ONE, "2001:db8::1"), (two, TWO, "2001:db8:1::2")):
        peer.host(Site(), four)
        peer.host(Site(), (six, 4444))
    lab.run(3 * SECOND)
    assert {packet.destination[0] for packet in one.checks} == {TWO[0], "2001:db8:1::2"}
    for packet in lab.packets:
        assert (":" in packet.source[0]) == (":" in packet.destination[0])


def test_a_pair_of_one_subnet_is_preferred_whatever_the_order() -> None:
    lab = Lab()
    one, two = lab.pair()
    home = Site("port", "203.0.113.50")
    for peer, host in ((one, "192.168.7.1"), (two, "192.168.7.2")):
        peer.host(Site(), ("203.0.113." + host[-1], 1000))
        peer.host(home, (host, 2000))
    lab.run(3 * SECOND)
    for peer, other in ((one, "192.168.7.2"), (two, "192.168.7.1")):
        assert peer.agent.selected is not None
        assert peer.agent.selected.remote[0] == other
        assert peer.agent.selected.is_local


def test_a_better_pair_takes_over_while_the_connection_comes_up() -> None:
    lab = Lab()
    one, two = lab.pair()
    relay = one.relay(RELAY)
    two.host(Site(), TWO)
    lab.run(300 * MS)
    assert one.route == (relay, TWO)
    direct = one.host(Site(), ONE)
    lab.run(300 * MS)
    assert one.route == (direct, TWO)
    assert two.route is not None
    assert two.route[1] == ONE


# Lost packets.


@pytest.mark.parametrize("lost", range(1, 5))
def test_a_check_is_repeated_until_it_is_answered(lost: int) -> None:
    lab = Lab()
    one, two = lab.pair()
    seen: list[Packet] = []

    def drops(packet: Packet) -> bool:
        seen.append(packet)
        return len(seen) <= lost

    lab.drops = drops
    one.host(Site(), ONE, told=False)
    two.host(Site(), TWO)
    lab.run(5 * SECOND)
    assert one.route is not None
    assert two.route is not None


def test_a_third_of_all_packets_may_be_lost() -> None:
    for seed in range(30):
        lab = Lab(seed=seed)
        one, two = lab.pair()
        lab.drops = lossy(lab.random, 0.33)
        one.host(Site(), ONE)
        two.host(Site(), TWO)
        lab.run(10 * SECOND)
        assert one.route is not None, seed
        assert two.route is not None, seed


def test_a_path_that_comes_up_after_half_a_minute_is_found() -> None:
    lab = Lab()
    one, two = lab.pair()
    lab.drops = lambda packet: lab.now_us < 31 * SECOND
    one.host(Site(), ONE)
    two.host(Site(), TWO)
    lab.run(30 * SECOND)
    assert one.route is None
    lab.run_until(lambda: one.route is not None and two.route is not None, 15 * SECOND)


# Roles.


@pytest.mark.parametrize("controlling", [True, False])
def test_two_sides_with_one_role_agree_within_a_second(controlling: bool) -> None:
    for seed in range(20):
        lab = Lab(seed=seed)
        one, two = (lab.peer(name, controlling=controlling) for name in ("one", "two"))
        lab.introduce(one, two)
        one.host(Site(), ONE)
        two.host(Site(), TWO)
        lab.run(SECOND)
        assert one.agent.controlling != two.agent.controlling
        assert one.agent.selected is not None
        assert two.agent.selected is not None
        assert one.agent.selected.is_nominated
        assert two.agent.selected.is_nominated


@pytest.mark.parametrize("controlling", [True, False])
def test_equal_tie_breakers_do_not_keep_two_sides_apart(controlling: bool) -> None:
    lab = Lab()

    def numbers(seed: int) -> Any:
        first = [bytes(8)]
        source = lab.random.__class__(seed)
        return lambda size: first.pop() if first else source.randbytes(size)

    one, two = (lab.peer(name, controlling=controlling, entropy=numbers(index)) for index, name in enumerate(("one", "two")))
    lab.introduce(one, two)
    one.host(Site(), ONE)
    two.host(Site(), TWO)
    lab.run(2 * SECOND)
    assert one.agent.controlling != two.agent.controlling
    assert one.route is not None
    assert two.route is not None


def test_a_reference_peer_with_our_role_is_answered_as_it_expects() -> None:
    lab = Lab()
    one, two = (lab.peer(name, controlling=True, own_peer=False) for name in ("one", "two"))
    lab.introduce(one, two)
    one.host(Site(), ONE)
    two.host(Site(), TWO)
    lab.run(SECOND)
    assert one.agent.controlling
    assert two.agent.controlling
    assert one.route is not None
    assert two.route is not None
    assert not any(packet.message.message_class == Class.ERROR for packet in lab.packets)


def test_signaling_may_change_the_roles_of_a_running_connection() -> None:
    lab, one, two, base_one, base_two = joined(own_peer=False)
    one.do(lambda agent, now_us: agent.set_role(False, now_us))
    two.do(lambda agent, now_us: agent.set_role(True, now_us))
    lab.run(20 * SECOND)
    assert not one.agent.controlling
    assert one.route == (base_one, TWO)
    assert two.route == (base_two, ONE)
    assert one.checks[-1].message.ice_controlled is not None


# Passwords.


def test_a_new_password_of_the_peer_is_used_from_then_on() -> None:
    lab, one, two, base_one, _ = joined()
    two.do(lambda agent, now_us: agent.restart(b"another password altogether", now_us))
    one.do(lambda agent, now_us: agent.set_remote(two.ufrag, b"another password altogether", now_us))
    lab.run(20 * SECOND)
    assert one.route == (base_one, TWO)
    assert not one.lost()
    assert not two.lost()


def test_the_old_password_holds_until_the_peer_has_heard_of_the_new_one_and_no_longer() -> None:
    lab, one, two, _, base_two = joined()
    two.do(lambda agent, now_us: agent.restart(b"another password altogether", now_us))
    request = check_request(lab, two, one)
    lab.run(9 * SECOND)
    before = two.agent.dropped
    forge(two, base_two, ONE, request, two.password)
    assert two.agent.dropped == before
    lab.run(2 * SECOND)
    forge(two, base_two, ONE, check_request(lab, two, one), two.password)
    assert two.agent.dropped == before + 1 + _refused_checks(lab, one, since_us=lab.now_us - SECOND)


def _refused_checks(lab: Lab, one: Peer, since_us: int) -> int:
    return len([packet for packet in one.checks if since_us - lab.one_way_us <= packet.at_us <= lab.now_us - lab.one_way_us])


# What others send.


def test_a_request_without_the_right_signature_draws_no_answer_and_changes_nothing() -> None:
    lab, one, two, base_one, _base_two = joined()
    good = check_request(lab, one, two, use_candidate=True)
    attempts: list[tuple[StunMessage, bytes | None]] = [
        (good, None),
        (good, b"wrong password"),
        (good, two.password),
        (replace(good, username=None), one.password),
        (replace(good, username=b"other:two++"), one.password),
        (replace(good, username=one.ufrag + b":other"), one.password),
        (replace(good, username=two.ufrag + b":" + one.ufrag), one.password),
    ]
    sent, dropped = len(one.sent), one.agent.dropped
    for message, key in attempts:
        forge(one, base_one, STRANGER, message, key)
    assert len(one.sent) == sent
    assert one.agent.dropped == dropped + len(attempts)
    assert one.route == (base_one, TWO)
    lab.run(10 * SECOND)
    assert not [packet for packet in one.sent if packet.destination == STRANGER]


def test_an_answer_counts_from_where_we_asked_by_the_way_we_asked_and_signed_only() -> None:
    lab = Lab()
    one, two = lab.pair()
    base = one.host(Site(), ONE)
    spare = one.host(Site(), ONE_ELSEWHERE)
    one.do(lambda agent, now_us: agent.add_remote(Candidate(CandidateKind.HOST, TWO, 1_000_000, "1"), now_us))
    request = one.checks[0]
    assert request.base == base
    answer = StunMessage(
        method=Method.BINDING,
        message_class=Class.SUCCESS,
        transaction_id=request.message.transaction_id,
        xor_mapped_address=ONE,
        username=request.message.username,
    )
    forge(one, base, STRANGER, answer, two.password)
    forge(one, base, (TWO[0], TWO[1] + 1), answer, two.password)
    forge(one, spare, TWO, answer, two.password)
    forge(one, base, TWO, answer, one.password)
    forge(one, base, TWO, answer, None)
    forge(one, base, TWO, replace(answer, transaction_id=bytes(12)), two.password)
    forge(one, base, TWO, replace(answer, message_class=Class.ERROR, error_code=487), one.password)
    forge(one, base, TWO, replace(answer, message_class=Class.INDICATION), two.password)
    assert one.agent.dropped == 8
    assert one.route is None
    assert one.agent.controlling
    forge(one, base, TWO, answer, two.password)
    assert one.route == (base, TWO)


def test_a_hundred_thousand_guesses_of_a_transaction_change_nothing() -> None:
    lab, one, _two, base_one, _ = joined()
    answer = StunMessage(
        method=Method.BINDING, message_class=Class.SUCCESS, transaction_id=bytes(12), xor_mapped_address=STRANGER
    )
    datagram = encode_stun(answer, integrity_key=b"guess")
    message = decode_stun(datagram)
    before = one.agent.poll_timeout()
    for number in range(100_000):
        message.transaction_id = number.to_bytes(12, "big")
        one.agent.handle_stun(base_one, TWO, message, datagram, lab.now_us)
    assert one.agent.poll_timeout() == before
    assert one.agent.poll_transmit(lab.now_us) is None
    assert one.route == (base_one, TWO)


def test_a_repeated_nomination_says_nothing_new() -> None:
    lab = Lab()
    one, two = lab.pair()
    first, second = two.host(Site(), TWO), two.host(Site(), ("198.51.100.22", 2200))
    one.host(Site(), ONE)
    lab.run(3 * SECOND)
    used, spare = (first, second) if two.route == (first, ONE) else (second, first)
    nomination = check_request(lab, two, one, use_candidate=True, ice_controlled=None, ice_controlling=1 << 60)
    forge(two, spare, ONE, nomination, two.password)
    assert two.route == (spare, ONE)
    forge(two, used, ONE, check_request(lab, two, one, use_candidate=True, ice_controlled=None, ice_controlling=1), two.password)
    assert two.route == (used, ONE)
    forge(two, spare, ONE, nomination, two.password)
    assert two.route == (used, ONE)


def test_what_must_be_understood_and_is_not_is_named_in_the_answer() -> None:
    lab, one, two, base_one, _ = joined()
    datagram = bytearray(encode_stun(check_request(lab, one, two), integrity_key=None, fingerprint=False))
    datagram += bytes.fromhex("7777000400000000")
    datagram[2:4] = (len(datagram) - 20 + 24).to_bytes(2, "big")

    datagram += bytes.fromhex("00080014") + hmac.digest(one.password, bytes(datagram), "sha1")
    one.sent.clear()
    lab.deliver(one, base_one, TWO, bytes(datagram))
    [packet] = [packet for packet in one.sent if not packet.is_check]
    assert packet.message.error_code == 420
    assert packet.message.unknown_attributes == [0x7777]


def test_no_more_answers_wait_than_one_would_send_at_once() -> None:
    lab, one, two, base_one, _ = joined()
    for _ in range(100):
        request = check_request(lab, one, two)
        datagram = encode_stun(request, integrity_key=one.password)
        one.agent.handle_stun(base_one, TWO, decode_stun(datagram), datagram, lab.now_us)
    one.sent.clear()
    lab.drain(one)
    assert len([packet for packet in one.sent if not packet.is_check]) == ICE_ANSWERS_WAITING_MAX


def test_an_answer_is_no_larger_than_the_check_it_answers() -> None:
    lab, *_ = joined()
    requests = {packet.message.transaction_id: len(packet.data) for packet in lab.packets if packet.is_check}
    for packet in lab.packets:
        if not packet.is_check:
            assert len(packet.data) <= requests[packet.message.transaction_id]


def test_checks_that_come_in_where_we_have_no_candidate_are_not_answered() -> None:
    lab, one, two, *_ = joined()
    one.sent.clear()
    forge(one, Base(999), TWO, check_request(lab, one, two), one.password)
    assert not one.sent


# Moving.


def with_relay(**options: Any) -> tuple[Lab, Peer, Peer, Base, Base]:
    """Two public hosts that use the direct way, and have a relay besides."""
    lab = Lab()
    one, two = lab.pair(**options)
    direct, relay = one.host(Site(), ONE), one.relay(RELAY)
    two.host(Site(), TWO)
    lab.run(5 * SECOND)
    assert one.route == (direct, TWO)
    assert two.route is not None
    assert two.route[1] == ONE
    return lab, one, two, direct, relay


def answered_lately(peer: Peer) -> bool:
    """So that neither side asks for consent in the next two seconds and a half."""
    selected = peer.agent.selected
    return selected is not None and selected.answered_at_us > peer.lab.now_us - 1_500 * MS


def cut_direct(lab: Lab) -> None:
    lab.drops = lambda packet: ONE in (packet.source, packet.destination)


@pytest.mark.parametrize("who", ["one", "two", "both"])
def test_when_the_path_dies_and_the_connection_says_so_the_spare_is_used_in_time(who: str) -> None:
    lab, one, two, _, relay = with_relay()
    cut_direct(lab)
    for peer in (one, two):
        if who in (peer.name, "both"):
            peer.do(lambda agent, now_us: agent.note_silent(now_us))
    took_us = lab.run_until(lambda: one.route == (relay, TWO) and two.route is not None and two.route[1] == RELAY)
    assert took_us <= 1_500 * MS
    assert not one.lost()
    assert not two.lost()
    lab.run(60 * SECOND)
    assert one.route == (relay, TWO)


def test_without_a_word_from_the_connection_a_dead_path_is_left_within_eight_seconds() -> None:
    lab, one, two, _, relay = with_relay()
    cut_direct(lab)
    assert lab.run_until(lambda: one.route == (relay, TWO)) <= 8 * SECOND
    assert lab.run_until(lambda: two.route is not None and two.route[1] == RELAY) <= SECOND


def test_after_a_change_of_our_network_the_way_in_use_has_to_answer_at_once() -> None:
    lab, one, two, _, relay = with_relay()
    lab.run_until(lambda: all(answered_lately(peer) for peer in (one, two)))
    cut_direct(lab)
    one.do(lambda agent, now_us: agent.network_changed(now_us))
    assert lab.run_until(lambda: one.route == (relay, TWO)) <= 1_500 * MS


def test_a_disagreement_ends_with_the_next_consent_check_of_the_controlling_side() -> None:
    lab, one, two, direct, _ = with_relay()
    assert two.route is not None
    stray = check_request(lab, two, one, use_candidate=True, ice_controlled=None, ice_controlling=1 << 60)
    forge(two, two.route[0], RELAY, stray, two.password)
    assert two.route[1] == RELAY
    took_us = lab.run_until(lambda: two.route is not None and two.route[1] == ONE)
    assert took_us <= ICE_CONSENT_MAX_US + RTT
    assert one.route == (direct, TWO)


def test_a_suspicion_that_proves_wrong_changes_nothing() -> None:
    lab, one, _two, direct, _ = with_relay()
    one.do(lambda agent, now_us: agent.note_silent(now_us))
    lab.run(10 * SECOND)
    assert one.route == (direct, TWO)
    assert len(one.selections()) <= 2


def test_a_connection_that_is_suspicious_all_the_time_has_a_way_that_works_asked_no_faster_than_one_that_does_not() -> None:
    lab, one, _two, direct, _ = with_relay()
    asked = len(one.checks)
    until_us = lab.now_us + 3 * SECOND
    while lab.now_us < until_us:
        one.do(lambda agent, now_us: agent.note_silent(now_us))
        lab.run(5 * MS)
    on_direct = [packet for packet in one.checks[asked:] if packet.base == direct]
    assert 2 <= len(on_direct) <= 3 * SECOND // ICE_PROBE_INTERVAL_US + 1
    assert one.route == (direct, TWO)


def test_the_direct_path_is_used_again_once_it_has_proven_itself() -> None:
    lab, one, two, direct, relay = with_relay()
    cut_direct(lab)
    one.do(lambda agent, now_us: agent.note_silent(now_us))
    lab.run(8 * SECOND)
    assert one.route == (relay, TWO)
    lab.drops = lambda packet: False
    took_us = lab.run_until(lambda: one.route == (direct, TWO) and two.route is not None and two.route[1] == ONE)
    assert 2 * SECOND <= took_us <= 10 * SECOND


def test_a_flapping_path_is_left_alone() -> None:
    lab, one, _two, _, _relay = with_relay()
    lab.drops = lambda packet: ONE in (packet.source, packet.destination) and lab.now_us // (5 * SECOND) % 2 == 0
    lab.run(300 * SECOND)
    assert len(one.selections()) <= 40
    assert not one.lost()


def test_a_socket_that_closes_takes_its_pairs_along_and_the_spare_is_used_at_once() -> None:
    lab, one, two, direct, relay = with_relay()
    one.close(direct)
    assert one.route == (relay, TWO)
    assert not one.lost()
    took_us = lab.run_until(lambda: two.route is not None and two.route[1] == RELAY)
    assert took_us <= 1_500 * MS


@pytest.mark.parametrize("who", [0, 1])
def test_a_side_that_moves_to_another_network_takes_the_other_one_along(who: int) -> None:
    lab = Lab()
    peers = lab.pair()
    mover, other = peers[who], peers[1 - who]
    old = mover.host(Site(), ONE)
    other.host(Site(), TWO)
    lab.run(3 * SECOND)
    mover.close(old)
    assert mover.route is None
    new = mover.host(Site(), ONE_ELSEWHERE, told=False)
    took_us = lab.run_until(
        lambda: mover.route == (new, TWO) and other.route is not None and other.route[1] == ONE_ELSEWHERE, 5 * SECOND
    )
    assert took_us <= SECOND


@pytest.mark.parametrize(("scale", "priority"), [("normal", (1 << 31) - 1), ("low", 100_000)])
@pytest.mark.parametrize("who", [0, 1])
def test_a_reference_peer_is_told_to_come_along_by_a_nomination_of_high_priority(who: int, scale: str, priority: int) -> None:
    lab = Lab()
    peers = lab.pair(own_peer=False, priority_scale=scale)
    mover, other = peers[who], peers[1 - who]
    old = mover.host(Site(), ONE)
    other.host(Site(), TWO)
    lab.run(3 * SECOND)
    mover.close(old)
    new = mover.host(Site(), ONE_ELSEWHERE, told=False)
    lab.run_until(lambda: mover.route == (new, TWO))
    lab.run(SECOND)
    nominations = [packet.message for packet in mover.checks if packet.base == new and packet.message.use_candidate]
    assert nominations
    assert {message.priority for message in nominations} == {priority}


def test_a_translator_that_forgets_everything_is_survived() -> None:
    lab = Lab()
    one, two = lab.pair()
    home = Site("port", "203.0.113.50")
    base = one.host(home, ("192.168.1.5", 1000))
    one.reflexive(base)
    two.host(Site(), TWO)
    lab.run(3 * SECOND)
    home.forget_mappings()
    one.do(lambda agent, now_us: agent.note_silent(now_us))
    two.do(lambda agent, now_us: agent.note_silent(now_us))
    old = two.route
    took_us = lab.run_until(lambda: two.route != old)
    assert took_us <= 1_500 * MS
    assert one.route == (base, TWO)


def test_data_by_another_way_makes_us_look_after_ours() -> None:
    lab, one, _two, _direct, relay = with_relay()
    cut_direct(lab)
    lab.run(ICE_MOVED_US + MS)
    one.do(lambda agent, now_us: agent.note_received(relay, TWO, now_us))
    assert lab.run_until(lambda: one.route == (relay, TWO)) <= 1_500 * MS


def test_data_by_another_way_all_the_time_makes_us_look_now_and_then() -> None:
    lab, one, _two, direct, relay = with_relay()
    # Until ways are compared rarely.
    lab.run(20 * SECOND)
    one.sent.clear()
    for _ in range(200):
        lab.run(100 * MS)
        one.do(lambda agent, now_us: agent.note_received(relay, TWO, now_us))
    assert one.route == (direct, TWO)
    assert len([packet for packet in one.checks if packet.base == direct]) <= 20 * SECOND // ICE_MOVED_PAUSE_US + 6


# Consent.


@pytest.mark.parametrize("speaking", [False, True])
def test_without_consent_for_thirty_seconds_the_way_is_lost(speaking: bool) -> None:
    lab, one, two, base_one, _ = joined()
    lab.run(10 * SECOND)
    last_answer_us = max(packet.at_us for packet in two.sent if not packet.is_check) + lab.one_way_us
    lab.drops = lambda packet: True
    heard_us = last_answer_us
    if speaking:
        lab.run(7 * SECOND)
        heard_us = lab.now_us
        one.do(lambda agent, now_us: agent.note_received(base_one, TWO, now_us))
    lab.run(60 * SECOND)
    [lost_us] = one.lost()
    assert lost_us - heard_us <= ICE_CONSENT_EXPIRY_US
    assert one.route is None
    lab.drops = lambda packet: False
    lab.run(70 * SECOND)
    assert [type(event) for _, event in one.events[-2:]] == [Lost, Selected]


def test_data_alone_never_makes_a_pair_usable() -> None:
    lab = Lab()
    one, _two = lab.pair()
    base = one.host(Site(), ONE)
    one.do(lambda agent, now_us: agent.add_remote(Candidate(CandidateKind.HOST, TWO, 1_000_000, "1"), now_us))
    one.do(lambda agent, now_us: agent.note_received(base, TWO, now_us))
    one.do(lambda agent, now_us: agent.note_received(Base(999), STRANGER, now_us))
    lab.run(SECOND)
    assert one.route is None


def test_found_is_said_once() -> None:
    lab, one, _two, *_ = joined()
    lab.drops = lambda packet: True
    lab.run(60 * SECOND)
    lab.drops = lambda packet: False
    lab.run(70 * SECOND)
    kinds = [type(event) for _, event in one.events]
    assert kinds == [Found, Selected, Lost, Selected]


def test_after_the_settling_time_priority_alone_moves_nothing() -> None:
    lab = Lab()
    one, two = lab.pair()
    late = one.host(Site(), ONE, told=False)
    blocked = {late}
    lab.drops = lambda packet: packet.base in blocked or packet.destination == ONE
    first = one.host(Site(), ONE_ELSEWHERE)
    two.host(Site(), TWO)
    lab.run(ICE_SETTLE_US + SECOND)
    assert one.route == (first, TWO)
    lab.drops = lambda packet: False
    one.do(lambda agent, now_us: agent.network_changed(now_us))
    lab.run(10 * SECOND)
    assert one.route == (first, TWO)


def test_owns_tells_our_transactions_from_others() -> None:
    lab, one, *_ = joined()
    lab.run(20 * SECOND)
    one.do(lambda agent, now_us: agent.note_silent(now_us))
    assert one.agent.owns(one.checks[-1].message.transaction_id)
    assert not one.agent.owns(bytes(12))


def test_low_priorities_are_announced_where_the_owner_wants_them() -> None:
    lab = Lab()
    peer = lab.peer("one", controlling=True, priority_scale="low")
    candidate = Candidate(CandidateKind.HOST, ONE, 2_130_706_431, "1")
    assert peer.agent.announced(LocalCandidate(candidate, Base(1), ONE, 65_535)).priority <= 3_000
