"""Checks byte for byte as the reference writes them, and how many may go where."""

from __future__ import annotations

from typing import Any

import pytest

from peergram.address import Address, parse_address
from peergram.config import (
    ICE_CHECK_SENDS_MAX,
    ICE_HOSTS_MAX,
    ICE_KNOWN_HOST_CHECK_US,
    ICE_PROBE_LIFETIME_US,
    ICE_RETRY_SENDS_MAX,
    ICE_RTO_INITIAL_US,
    ICE_RTO_MAX_US,
    ICE_UNANSWERED_PACKETS_MAX,
)
from peergram.routes.candidates import Base, Candidate, CandidateKind, LocalCandidate
from peergram.routes.checks import Checks, Credentials, HostBudgets, answer_to
from peergram.routes.pairs import CandidatePair
from peergram.timing import NEVER
from peergram.wire.stun import Class, decode_stun, integrity_holds
from tests.routes.test_pairs import a_pair
from tests.vectors_data import load

CHECKS = load("03-ice")["checks"]
REQUESTS = [row for row in CHECKS if decode_stun(bytes.fromhex(row["hex"])).message_class == Class.REQUEST]
ANSWERS = [row for row in CHECKS if decode_stun(bytes.fromhex(row["hex"])).message_class == Class.SUCCESS]
HOST = "198.51.100.2"


def checks_of(**options: Any) -> Checks:
    values: dict[str, Any] = {"controlling": True, "low": False, "entropy": lambda size: bytes(size)} | options
    checks = Checks(b"SNFZ4", **values)
    checks.remote = Credentials(b"NLwr9", b"password")
    return checks


def recorded_pair(source: Address, destination: Address, priority: int) -> CandidatePair:
    local = LocalCandidate(
        Candidate(CandidateKind.HOST, source, 1, "1"), Base(1), source, local_preference=priority >> 8 & 0xFFFF
    )
    return CandidatePair(local, Candidate(CandidateKind.HOST, destination, 1, "1"), controlling=True)


def test_the_recordings_hold_requests_and_answers() -> None:
    assert len(REQUESTS) >= 10
    assert len(ANSWERS) >= 5


@pytest.mark.parametrize("row", REQUESTS, ids=lambda row: f"{row['src']}-{row['hex'][16:24]}")
def test_a_recorded_request_is_what_we_would_send(row: dict[str, Any]) -> None:
    datagram, key = bytes.fromhex(row["hex"]), bytes.fromhex(row["key_hex"])
    recorded = decode_stun(datagram)
    assert integrity_holds(datagram, key)
    assert recorded.username is not None
    assert recorded.priority is not None
    receiver, _, sender = recorded.username.partition(b":")
    tie_breaker = recorded.ice_controlled if recorded.ice_controlling is None else recorded.ice_controlling
    assert tie_breaker is not None
    drawn = [recorded.transaction_id, tie_breaker.to_bytes(8, "big")]
    checks = Checks(sender, controlling=recorded.ice_controlling is not None, low=False, entropy=lambda size: drawn.pop()[:size])
    checks.remote = Credentials(receiver, key)
    pair = recorded_pair(parse_address(row["src"]), parse_address(row["dst"]), recorded.priority)
    assert checks.start(pair, 0, use_candidate=recorded.use_candidate).datagram == datagram


@pytest.mark.parametrize("row", ANSWERS, ids=lambda row: f"{row['src']}-{row['hex'][16:24]}")
def test_a_recorded_answer_is_what_we_would_send(row: dict[str, Any]) -> None:
    answer = bytes.fromhex(row["hex"])
    asked = next((other for other in REQUESTS if other["hex"][16:40] == row["hex"][16:40]), None)
    request = decode_stun(bytes.fromhex(asked["hex"]) if asked else answer)
    source = decode_stun(answer).xor_mapped_address
    assert source is not None
    assert answer_to(request, source, bytes.fromhex(row["key_hex"])) == answer


def test_a_check_is_repeated_with_its_id_after_waits_that_double() -> None:
    checks = checks_of()
    pair = a_pair()
    check = checks.start(pair, 0, use_candidate=False)
    assert check.sends_max == ICE_CHECK_SENDS_MAX
    assert pair.check is check
    waits = [check.due_at_us]
    for _ in range(ICE_CHECK_SENDS_MAX - 1):
        sent_at_us = check.due_at_us
        checks.repeat(check, sent_at_us)
        waits.append(check.due_at_us - sent_at_us)
    assert waits == [min(ICE_RTO_INITIAL_US << turn, ICE_RTO_MAX_US) for turn in range(ICE_CHECK_SENDS_MAX)]
    assert check.sends == ICE_CHECK_SENDS_MAX
    assert not check.is_exact


def test_a_later_round_has_fewer_repeats() -> None:
    pair = a_pair()
    pair.retries = 1
    assert checks_of().start(pair, 0, use_candidate=False).sends_max == ICE_RETRY_SENDS_MAX


def test_a_probe_is_known_for_its_lifetime() -> None:
    checks = checks_of()
    check = checks.probe(a_pair(), 0, use_candidate=False)
    checks.forget_expired(ICE_PROBE_LIFETIME_US - 1)
    assert checks.owns(check.transaction_id)
    assert checks.next_expiry_at_us() == ICE_PROBE_LIFETIME_US
    checks.forget_expired(ICE_PROBE_LIFETIME_US)
    assert not checks.owns(check.transaction_id)
    assert checks.next_expiry_at_us() == NEVER


def test_a_pair_that_is_gone_leaves_nothing_behind() -> None:
    numbers = iter(range(100))
    checks = checks_of(entropy=lambda size: next(numbers).to_bytes(size, "big"))
    pair, other = a_pair(), a_pair()
    ids = [checks.start(pair, 0, use_candidate=False).transaction_id, checks.probe(pair, 0, use_candidate=False).transaction_id]
    kept = checks.start(other, 0, use_candidate=False)
    checks.forget_pair(pair)
    assert not any(checks.owns(transaction_id) for transaction_id in ids)
    assert pair.check is None
    assert checks.find(kept.transaction_id) is kept


def test_low_priorities_are_low_in_checks_too_and_a_raised_one_goes_before() -> None:
    checks = checks_of(low=True)
    pair = a_pair()
    assert decode_stun(checks.start(pair, 0, use_candidate=False).datagram).priority == 2_400
    pair.raised_priority = 100_000
    assert decode_stun(checks.start(pair, 0, use_candidate=False).datagram).priority == 100_000


def test_a_host_that_never_answers_gets_its_share_and_no_more() -> None:
    budgets = HostBudgets()
    for number in range(ICE_UNANSWERED_PACKETS_MAX):
        assert budgets.allows_at_us(HOST) == 0
        budgets.spend(HOST, number)
    assert budgets.allows_at_us(HOST) == NEVER
    assert budgets.allows_at_us("198.51.100.3") == 0
    budgets.renew()
    assert budgets.allows_at_us(HOST) == 0


def test_a_host_that_was_the_peers_gets_a_check_now_and_then() -> None:
    budgets = HostBudgets()
    budgets.spend(HOST, 0)
    budgets.answered(HOST)
    for number in range(ICE_UNANSWERED_PACKETS_MAX):
        budgets.spend(HOST, number)
    last_us = ICE_UNANSWERED_PACKETS_MAX - 1
    assert budgets.allows_at_us(HOST) == last_us + ICE_KNOWN_HOST_CHECK_US
    budgets.answered(HOST)
    assert budgets.allows_at_us(HOST) == 0


def test_no_more_than_so_many_hosts_get_checks_in_vain() -> None:
    budgets = HostBudgets()
    for number in range(ICE_HOSTS_MAX):
        budgets.spend(f"198.51.{number}.1", 0)
    assert budgets.allows_at_us("192.0.2.1") == NEVER
    budgets.answered("198.51.7.1")
    assert budgets.allows_at_us("192.0.2.1") == 0
    budgets.spend("192.0.2.1", 0)
    assert budgets.allows_at_us("192.0.2.2") == NEVER
