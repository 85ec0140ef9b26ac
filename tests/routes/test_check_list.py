"""Pairs and their limits."""

from __future__ import annotations

from peergram.address import Address
from peergram.config import ICE_PAIRS_MAX, ICE_REMOTE_CANDIDATES_MAX
from peergram.routes.candidates import Base, Candidate, CandidateKind, LocalCandidate, priority_of
from peergram.routes.check_list import CheckList
from peergram.routes.pairs import CandidatePair, PairEvent, PairState


def local(number: int, host: str = "203.0.113.1", relay_id: int = 0) -> LocalCandidate:
    address = (host, 1_000 + number)
    return LocalCandidate(Candidate(CandidateKind.HOST, address, 1, "1"), Base(number, relay_id), address, 65_535 - number, 24)


def remote(number: int, priority: int | None = None, host: str = "198.51.100.2") -> Candidate:
    priority = priority_of(CandidateKind.HOST, 1_000 + number) if priority is None else priority
    return Candidate(CandidateKind.HOST, (host, 2_000 + number), priority, str(number))


def a_list(locals_: int, remotes: int) -> CheckList:
    check_list = CheckList(controlling=True, low=False)
    for number in range(locals_):
        check_list.add_local(local(number))
    for number in range(remotes):
        check_list.add_remote(remote(number))
    return check_list


def addresses(check_list: CheckList) -> set[Address]:
    return {pair.remote for pair in check_list.pairs.values()}


def learnt(check_list: CheckList, source: Address) -> CandidatePair:
    pair = check_list.learn(Base(0), source, 5)
    assert pair is not None
    return pair


def test_every_base_is_paired_with_every_address_in_whichever_order_they_come() -> None:
    early = a_list(3, 4)
    late = CheckList(controlling=True, low=False)
    for number in range(4):
        late.add_remote(remote(number))
    for number in range(3):
        late.add_local(local(number))
    assert set(early.pairs) == set(late.pairs)
    assert len(early.pairs) == 12


def test_a_further_candidate_of_a_known_base_makes_no_further_pair() -> None:
    check_list = a_list(1, 1)
    check_list.add_local(local(0, host="192.0.2.1"))
    assert len(check_list.pairs) == 1


def test_pairs_come_in_the_order_of_preference() -> None:
    check_list = a_list(2, 3)
    preferences = [pair.preference for pair in check_list.by_preference()]
    assert preferences == sorted(preferences, reverse=True)


def test_a_base_goes_with_its_pairs() -> None:
    check_list = a_list(2, 3)
    gone = check_list.remove_base(Base(0))
    assert len(gone) == 3
    assert not any(check_list.holds(pair) for pair in gone)
    assert {pair.base for pair in check_list.pairs.values()} == {Base(1)}
    assert not check_list.has_base(Base(0))
    assert check_list.remove_base(Base(0)) == []


def test_no_more_than_32_addresses_of_a_peer_are_kept() -> None:
    check_list = a_list(1, 200)
    assert len(addresses(check_list)) == ICE_REMOTE_CANDIDATES_MAX
    assert addresses(check_list) == {("198.51.100.2", 2_000 + number) for number in range(168, 200)}
    check_list.add_remote(remote(1))
    assert ("198.51.100.2", 2_001) not in addresses(check_list)


def test_what_failed_gives_way_to_what_is_new_whatever_its_priority() -> None:
    check_list = a_list(1, ICE_REMOTE_CANDIDATES_MAX)
    failed = check_list.pairs[Base(0), ("198.51.100.2", 2_031)]
    failed.enter(PairEvent.CHECK_SENT)
    failed.enter(PairEvent.RETRIES_SPENT)
    check_list.add_remote(remote(500, priority=1))
    assert ("198.51.100.2", 2_500) in addresses(check_list)
    assert not check_list.holds(failed)


def test_what_works_is_never_displaced() -> None:
    check_list = a_list(1, ICE_REMOTE_CANDIDATES_MAX)
    for pair in check_list.pairs.values():
        pair.enter(PairEvent.REPLY_MATCHED)
    before = addresses(check_list)
    check_list.add_remote(remote(500, priority=(1 << 31) - 1))
    assert check_list.learn(Base(0), ("198.51.100.9", 1), 5) is None
    assert addresses(check_list) == before


def test_no_more_than_100_pairs_are_made_and_the_preferred_ones_win() -> None:
    check_list = a_list(8, ICE_REMOTE_CANDIDATES_MAX)
    assert len(check_list.pairs) == ICE_PAIRS_MAX
    lowest = check_list.by_preference()[-1].preference
    refused = CandidatePair(local(7), remote(0), controlling=True)
    assert refused.preference <= lowest


def test_the_address_a_check_came_from_finds_room_where_there_is_none() -> None:
    check_list = a_list(8, ICE_REMOTE_CANDIDATES_MAX)
    pair = learnt(check_list, ("198.51.100.9", 9))
    assert pair.remote_kind is CandidateKind.PEER_REFLEXIVE
    assert check_list.holds(pair)
    assert len(check_list.pairs) <= ICE_PAIRS_MAX
    assert learnt(check_list, ("198.51.100.9", 9)) is pair


def test_addresses_that_may_not_be_used_make_no_pair() -> None:
    check_list = a_list(1, 0)
    for host in ("224.0.0.1", "255.255.255.255", "0.0.0.0", "127.0.0.1", "169.254.1.1", "203.0.113.255"):
        check_list.add_remote(remote(1, host=host))
        assert check_list.learn(Base(0), (host, 2_001), 5) is None
    check_list.add_remote(Candidate(CandidateKind.HOST, ("203.0.113.1", 1_000), 1, "1"))
    assert not check_list.pairs


def test_loopback_pairs_with_loopback_only() -> None:
    check_list = CheckList(controlling=True, low=False)
    check_list.add_remote(remote(1, host="127.0.0.1"))
    check_list.add_local(local(0))
    check_list.add_local(local(1, host="127.0.0.1"))
    assert set(check_list.pairs) == {(Base(1), ("127.0.0.1", 2_001))}


def test_an_address_that_is_known_gets_what_is_said_about_it_later() -> None:
    check_list = a_list(1, 0)
    pair = learnt(check_list, ("198.51.100.2", 2_003))
    low = pair.preference
    check_list.add_remote(remote(3))
    assert pair.remote_kind is CandidateKind.HOST
    assert pair.preference > low
    assert len(check_list.pairs) == 1


def test_a_change_of_role_ranks_all_pairs_anew() -> None:
    check_list = a_list(2, 2)
    before = {key: pair.preference for key, pair in check_list.pairs.items()}
    check_list.set_role(False)
    assert {key: pair.preference for key, pair in check_list.pairs.items()} != before
    assert all(pair.state is PairState.WAITING for pair in check_list.pairs.values())
