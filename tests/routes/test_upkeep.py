"""Giving pairs up and taking them up again."""

from __future__ import annotations

import itertools

from peergram.config import ICE_CHECK_SENDS_MAX, ICE_RETRY_MAX_US, ICE_RETRY_SENDS_MAX, ICE_RETRY_US, ICE_SPARE_PROBES_MAX
from peergram.routes.candidates import Candidate, CandidateKind
from peergram.wire.stun import Class, Method, StunMessage, encode_stun
from tests.routes.lab import MS, SECOND, Lab, Peer, Site
from tests.routes.test_agenda import VICTIM, alone, listed, running


def rounds(peer: Peer) -> list[list[int]]:
    """When each transaction was sent."""
    sent: dict[bytes, list[int]] = {}
    for packet in peer.checks:
        sent.setdefault(packet.message.transaction_id, []).append(packet.at_us)
    return list(sent.values())


def test_a_failed_pair_is_checked_again_and_later_each_time_while_nothing_works() -> None:
    lab, one = alone()
    listed(one, VICTIM, 7)
    lab.run(120 * SECOND)
    found = rounds(one)
    assert all(len(times) == ICE_RETRY_SENDS_MAX for times in found[1:-1])
    pauses = [later[0] - earlier[-1] for earlier, later in itertools.pairwise(found[1:])]
    assert pauses == sorted(pauses)
    assert pauses[0] >= ICE_RETRY_US
    assert ICE_RETRY_MAX_US <= pauses[-1] <= ICE_RETRY_MAX_US + SECOND


def test_a_failed_pair_that_would_be_no_better_is_left_alone() -> None:
    lab = Lab()
    one, two = lab.pair()
    one.host(Site(), ("203.0.113.1", 1000))
    two.host(Site(), ("198.51.100.2", 2222))
    lab.run(SECOND)
    listed(one, VICTIM, 7)
    lab.run(120 * SECOND)
    assert len([packet for packet in one.checks if packet.destination[0] == VICTIM]) == 5


def test_a_failed_direct_pair_is_tried_again_while_a_relay_is_in_use() -> None:
    lab = Lab()
    one, two = lab.pair()
    relay = one.relay(("192.0.2.9", 9999))
    lab.drops = lambda packet: "203.0.113.1" in (packet.source[0], packet.destination[0]) and lab.now_us < 21 * SECOND
    direct = one.host(Site(), ("203.0.113.1", 1000))
    two.host(Site(), ("198.51.100.2", 2222))
    lab.run(19 * SECOND)
    assert one.route is not None
    assert one.route[0] == relay
    lab.run(12 * SECOND)
    assert one.route[0] == direct


def test_a_stand_in_that_stops_answering_is_none_any_more() -> None:
    lab, one, _two = running()
    lab.run(30 * SECOND)
    assert one.route is not None
    used = one.route[0]
    dead = next(local for local in one.locals if local.base != used)
    lab.drops = lambda packet: dead.base_address in (packet.source, packet.destination)
    one.sent.clear()
    lab.run(25 * SECOND)
    asked = [packet for packet in one.checks if packet.base == dead.base]
    assert len(asked) == ICE_SPARE_PROBES_MAX
    lab.run(60 * SECOND)
    assert len([packet for packet in one.checks if packet.base == dead.base]) == ICE_SPARE_PROBES_MAX
    assert one.route[0] == used


def test_when_the_pair_in_use_fails_without_a_stand_in_all_others_are_tried_at_once() -> None:
    lab = Lab()
    one, two = lab.pair()
    base = one.host(Site(), ("203.0.113.1", 1000))
    two.host(Site(), ("198.51.100.2", 2222))
    lab.drops = lambda packet: packet.destination[0] == "198.51.100.3" or packet.source[0] == "198.51.100.3"
    other = two.host(Site(), ("198.51.100.3", 3333))
    lab.run(20 * SECOND)
    assert one.route == (base, ("198.51.100.2", 2222))
    lab.drops = lambda packet: "198.51.100.2" in (packet.source[0], packet.destination[0])
    one.do(lambda agent, now_us: agent.note_silent(now_us))
    two.do(lambda agent, now_us: agent.note_silent(now_us))
    took_us = lab.run_until(lambda: one.route == (base, ("198.51.100.3", 3333)))
    assert took_us <= 1_500 * MS
    assert two.agent.selected is not None
    lab.run(SECOND)
    assert two.agent.selected.base == other


def test_an_error_from_the_peer_fails_the_pair_for_now() -> None:
    lab = Lab()
    one, two = lab.pair()
    base = one.host(Site(), ("203.0.113.1", 1000))
    candidate = Candidate(CandidateKind.HOST, ("198.51.100.2", 2222), 5, "1")
    one.do(lambda agent, now_us: agent.add_remote(candidate, now_us))
    refusal = StunMessage(
        method=Method.BINDING,
        message_class=Class.ERROR,
        transaction_id=one.checks[0].message.transaction_id,
        error_code=400,
    )
    lab.deliver(one, base, ("198.51.100.2", 2222), encode_stun(refusal, integrity_key=two.password))
    lab.run(ICE_RETRY_US - MS)
    assert len(one.checks) == 1
    lab.run(2 * MS)
    assert len(one.checks) == 2


def test_an_answer_that_comes_after_the_last_wait_still_counts() -> None:
    lab = Lab()
    one, two = lab.pair()
    lab.drops = lambda packet: packet.sender is two and packet.is_check
    one.host(Site(), ("203.0.113.1", 1000))
    start_us = lab.now_us
    two.host(Site(), ("198.51.100.2", 2222))
    # Five sends and their waits are over after 5 s.
    lab.delay_us = lambda packet: 7 * SECOND if packet.sender is one and packet.is_check else MS
    lab.run(7_200 * MS)
    assert one.route is not None
    asked, nominated = rounds(one)
    assert len(asked) == ICE_CHECK_SENDS_MAX
    assert nominated[0] >= start_us + 7 * SECOND


def test_a_check_that_comes_in_on_a_failed_pair_starts_a_whole_round() -> None:
    lab = Lab()
    one, two = lab.pair()
    one.host(Site(), ("203.0.113.1", 1000), told=False)
    listed(one, "198.51.100.2", 2222)
    lab.run(6 * SECOND)
    assert len(one.checks) == ICE_CHECK_SENDS_MAX
    lab.drops = lambda packet: packet.sender is two and not packet.is_check
    two.host(Site(), ("198.51.100.2", 2222), told=False)
    listed(two, "203.0.113.1", 1000)
    lab.run(7 * SECOND)
    assert [len(times) for times in rounds(one)] == [ICE_CHECK_SENDS_MAX] * 2
