"""Which check goes out when, seen from the wire."""

from __future__ import annotations

import itertools
from typing import Any

from peergram.config import (
    ICE_CHECK_INTERVAL_US,
    ICE_CHECK_SENDS_MAX,
    ICE_CONSENT_MAX_US,
    ICE_CONSENT_MIN_US,
    ICE_FRESH_US,
    ICE_HOSTS_MAX,
    ICE_PAIRS_MAX,
    ICE_REMOTE_CANDIDATES_MAX,
    ICE_SPARE_INTERVAL_US,
    ICE_UNANSWERED_PACKETS_MAX,
    Config,
)
from peergram.routes.candidates import Candidate, CandidateKind
from tests.routes.lab import MS, SECOND, Lab, Packet, Peer, Site

VICTIM = "198.51.100.99"


def listed(peer: Peer, host: str, port: int, priority: int = 2_000_000_000) -> None:
    candidate = Candidate(CandidateKind.HOST, (host, port), priority, str(port))
    peer.do(lambda agent, now_us: agent.add_remote(candidate, now_us))


def alone(bases: int = 1) -> tuple[Lab, Peer]:
    lab = Lab()
    one, _ = lab.pair()
    for number in range(bases):
        one.host(Site(), (f"203.0.113.{number + 1}", 1000), told=False)
    return lab, one


def at_victim(lab: Lab) -> list[Packet]:
    return [packet for packet in lab.packets if packet.destination[0] == VICTIM]


def test_the_first_check_goes_at_once_and_the_others_follow_twenty_ms_apart() -> None:
    lab, one = alone()
    start_us = lab.now_us
    for number in range(5):
        listed(one, f"198.51.{number}.1", 7)
    lab.run(100 * MS)
    assert [packet.at_us - start_us for packet in one.checks] == [number * ICE_CHECK_INTERVAL_US for number in range(5)]


def test_the_most_preferred_pair_that_was_not_checked_comes_first() -> None:
    lab, one = alone()
    for number in (3, 1, 4, 5, 2):
        listed(one, f"198.51.{number}.1", 7, priority=number)
    lab.run(150 * MS)
    assert [packet.destination[0] for packet in one.checks] == [f"198.51.{number}.1" for number in (3, 5, 4, 2, 1)]


def test_a_check_nobody_answers_is_sent_five_times_within_a_round() -> None:
    lab, one = alone()
    start_us = lab.now_us
    listed(one, VICTIM, 7)
    lab.run(5 * SECOND)
    times = [packet.at_us - start_us for packet in one.checks]
    assert times == [0, 200 * MS, 600 * MS, 1_400 * MS, 3_000 * MS]
    assert len(times) == ICE_CHECK_SENDS_MAX
    assert len({packet.message.transaction_id for packet in one.checks}) == 1


def test_a_check_that_comes_in_is_returned_at_once_before_all_others() -> None:
    lab = Lab()
    lab.signal_us = 0
    one, two = lab.pair()
    one.host(Site(), ("203.0.113.1", 1000), told=False)
    for number in range(50):
        listed(one, f"198.51.{number}.1", 7)
    two.host(Site(), ("198.51.100.2", 2222), told=False)
    listed(two, "203.0.113.1", 1000)
    arrival_us = lab.now_us + lab.one_way_us
    lab.run(lab.one_way_us + ICE_CHECK_INTERVAL_US)
    [returned] = [packet for packet in one.checks if packet.destination[0] == "198.51.100.2"]
    assert returned.at_us <= arrival_us + ICE_CHECK_INTERVAL_US


def test_any_list_at_one_host_draws_160_packets_and_16_kib_at_most() -> None:
    lab, one = alone(bases=3)
    for port in range(1, 1_001):
        listed(one, VICTIM, port, priority=port)
    for second in range(600):
        lab.run(SECOND)
        listed(one, VICTIM, 2_000 + second)
    assert len(at_victim(lab)) == ICE_UNANSWERED_PACKETS_MAX
    assert sum(len(packet.data) for packet in at_victim(lab)) <= 16 * 1024


def test_no_more_than_100_pairs_with_32_addresses_are_ever_checked_in_a_round() -> None:
    lab, one = alone(bases=8)
    for number in range(200):
        listed(one, f"198.51.{number}.1", 7, priority=1_000_000 - number)
    lab.run(4 * SECOND)
    pairs = {(packet.base, packet.destination) for packet in one.checks}
    assert len(pairs) == ICE_PAIRS_MAX
    assert len({destination for _, destination in pairs}) <= ICE_REMOTE_CANDIDATES_MAX


def test_a_list_that_never_ends_reaches_a_bounded_number_of_hosts() -> None:
    lab, one = alone()
    for number in range(2_000):
        listed(one, f"198.{18 + number // 250}.{number % 250}.1", 7, priority=number)
        lab.run(50 * MS)
    assert len({packet.destination[0] for packet in one.checks}) <= ICE_HOSTS_MAX
    assert len(one.checks) <= lab.now_us // ICE_CHECK_INTERVAL_US


def test_a_change_of_our_network_lets_hosts_be_checked_anew_but_not_all_the_time() -> None:
    lab, one = alone()
    listed(one, VICTIM, 7)
    lab.run(3_600 * SECOND)
    assert len(at_victim(lab)) == ICE_UNANSWERED_PACKETS_MAX
    for _ in range(10):
        one.do(lambda agent, now_us: agent.network_changed(now_us))
        lab.run(5 * SECOND)
    assert ICE_UNANSWERED_PACKETS_MAX < len(at_victim(lab)) <= 2 * ICE_UNANSWERED_PACKETS_MAX


def running(**options: Any) -> tuple[Lab, Peer, Peer]:
    lab = Lab()
    one, two = lab.pair(**options)
    for number in range(3):
        one.host(Site(), (f"203.0.113.{number + 1}", 1000))
    two.host(Site(), ("198.51.100.2", 2222))
    lab.run(10 * SECOND)
    assert one.route is not None
    return lab, one, two


def test_a_calm_connection_asks_for_consent_and_keeps_two_stand_ins_warm() -> None:
    lab, one, _ = running()
    lab.run(60 * SECOND)
    one.sent.clear()
    lab.run(300 * SECOND)
    used = [packet for packet in one.checks if packet.base == one.route[0]] if one.route else []
    gaps = [later.at_us - earlier.at_us for earlier, later in itertools.pairwise(used)]
    assert min(gaps) >= ICE_CONSENT_MIN_US
    assert max(gaps) <= ICE_CONSENT_MAX_US + 2 * lab.one_way_us + MS
    assert len({round(gap / 1000) for gap in gaps}) > 10
    spares = [packet for packet in one.checks if packet.base != one.route[0]] if one.route else []
    assert len({packet.base for packet in spares}) == 2
    assert len(spares) <= 2 * 300 * SECOND // ICE_SPARE_INTERVAL_US + 2


def test_how_many_stand_ins_there_are_can_be_set() -> None:
    lab, one, _two = running(config=Config(ice_spares_max=0))
    lab.run(60 * SECOND)
    one.sent.clear()
    lab.run(60 * SECOND)
    assert one.route is not None
    assert {packet.base for packet in one.checks} == {one.route[0]}


def test_a_check_on_a_pair_that_answered_lately_is_not_returned() -> None:
    lab, one, two = running()
    lab.run(ICE_FRESH_US)
    for _number in range(20):
        lab.run(100 * MS)
        packet = next(packet for packet in two.checks if one.route and packet.destination == one.locals[0].base_address)
        lab.deliver(one, one.locals[0].base, ("198.51.100.2", 2222), packet.data)
    returned = [packet for packet in one.checks if packet.at_us > lab.now_us - 2 * SECOND]
    assert len(returned) <= 3
