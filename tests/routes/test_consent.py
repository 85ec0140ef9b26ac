"""Watching the pair in use and its stand-ins."""

from __future__ import annotations

from peergram.config import (
    ICE_CONSENT_MAX_US,
    ICE_CONSENT_MIN_US,
    ICE_PATIENCE_MARGIN_US,
    ICE_PATIENCE_MAX_US,
    ICE_PATIENCE_MIN_US,
    ICE_PROBE_INTERVAL_US,
    ICE_PROBE_SLOW_US,
    ICE_PROVE_INTERVAL_US,
    ICE_SPARE_INTERVAL_US,
)
from peergram.routes.candidates import Base, Candidate, CandidateKind, LocalCandidate
from peergram.routes.consent import Watch, patience_us, returning, spares_of, warm_at_us
from peergram.routes.pairs import CandidatePair, PairEvent
from peergram.timing import NEVER
from tests.routes.test_pairs import a_pair

NOW = 100_000_000


def working(base: int = 1, remote: str = "198.51.100.2", *, relay_id: int = 0, rtt_us: int = 50_000) -> CandidatePair:
    kind = CandidateKind.RELAYED if relay_id else CandidateKind.HOST
    own = (f"203.0.113.{base}", 1)
    local = LocalCandidate(Candidate(kind, own, 1, "1"), Base(base, relay_id), own, 65_535)
    pair = CandidatePair(local, Candidate(CandidateKind.HOST, (remote, 2), 5, "1"), controlling=True)
    pair.enter(PairEvent.REPLY_MATCHED)
    pair.answered(NOW - rtt_us, NOW, is_exact=True)
    return pair


def watching(share: int = 0) -> tuple[Watch, CandidatePair]:
    watch = Watch(lambda size: share.to_bytes(size, "big"))
    pair = working()
    watch.follow(pair, NOW)
    return watch, pair


def test_consent_is_asked_for_every_four_to_six_seconds() -> None:
    assert watching(0)[0].ask_at_us() == NOW + ICE_CONSENT_MIN_US
    late = watching(0xFFFF)[0].ask_at_us()
    assert NOW + ICE_CONSENT_MAX_US - 100 < late < NOW + ICE_CONSENT_MAX_US


def test_an_answer_puts_the_next_question_off() -> None:
    watch, pair = watching()
    asked_at_us = watch.ask_at_us()
    watch.asked(asked_at_us)
    assert watch.ask_at_us() == NEVER
    watch.answered(pair, asked_at_us, asked_at_us + 50_000)
    assert watch.ask_at_us() == asked_at_us + 50_000 + ICE_CONSENT_MIN_US
    assert not watch.is_suspicious


def test_a_missing_answer_arouses_suspicion() -> None:
    watch, pair = watching()
    asked_at_us = watch.ask_at_us()
    watch.asked(asked_at_us)
    missing_at_us = asked_at_us + pair.reply_wait_us()
    assert watch.poll_at_us() == missing_at_us
    watch.handle_timeout(missing_at_us - 1)
    assert not watch.is_suspicious
    watch.handle_timeout(missing_at_us)
    assert watch.suspicious_since_us == watch.ask_at_us() == missing_at_us


def test_a_suspected_pair_is_asked_quickly_and_later_slowly() -> None:
    watch, _ = watching()
    watch.suspect(NOW)
    watch.asked(NOW)
    assert watch.ask_at_us() == NOW + ICE_PROBE_INTERVAL_US
    late_us = NOW + ICE_PATIENCE_MAX_US
    watch.asked(late_us)
    assert watch.ask_at_us() == late_us + ICE_PROBE_SLOW_US


def test_a_suspected_pair_is_failing_when_patience_ends_and_says_so_once() -> None:
    watch, pair = watching()
    watch.suspect(NOW)
    end_us = NOW + patience_us(pair)
    assert watch.poll_at_us() == end_us
    assert not watch.handle_timeout(end_us - 1)
    assert pair.failing_since_us == NEVER
    assert watch.handle_timeout(end_us)
    assert pair.failing_since_us == NOW
    assert not watch.handle_timeout(end_us + 1)
    assert watch.poll_at_us() == NEVER


def test_only_an_answer_to_what_was_asked_since_dispels_a_suspicion() -> None:
    watch, pair = watching()
    watch.suspect(NOW)
    watch.answered(pair, NOW - 1, NOW + 10)
    assert watch.is_suspicious
    watch.answered(working(), NOW, NOW + 10)
    assert watch.is_suspicious
    watch.answered(pair, NOW, NOW + 10)
    assert not watch.is_suspicious


def test_without_a_pair_there_is_nothing_to_do() -> None:
    watch = Watch(bytes)
    watch.suspect(NOW)
    assert not watch.is_suspicious
    assert watch.ask_at_us() == watch.poll_at_us() == NEVER
    assert not watch.handle_timeout(NOW)


def test_patience_is_three_round_trips_and_a_margin_within_bounds() -> None:
    assert patience_us(working(rtt_us=1_000)) == ICE_PATIENCE_MIN_US
    assert patience_us(working(rtt_us=200_000)) == 600_000 + ICE_PATIENCE_MARGIN_US
    assert patience_us(working(rtt_us=2_000_000)) == ICE_PATIENCE_MAX_US


def test_the_first_stand_ins_are_as_different_as_there_are() -> None:
    used = working(1)
    same_base = working(1, "198.51.100.3")
    same_remote = working(2)
    other = working(3, "198.51.100.3", relay_id=1)
    order = spares_of(used, [used, same_base, other, same_remote, a_pair()], NOW)
    assert order[0] is other
    assert set(order) == {other, same_base, same_remote}
    assert spares_of(None, [other], NOW) == []


def test_a_stand_in_is_checked_every_fifteen_seconds_and_at_once_on_suspicion() -> None:
    watch, _ = watching()
    spare = working(2)
    assert warm_at_us(spare, watch, is_returning=False) == NOW + ICE_SPARE_INTERVAL_US
    watch.suspect(NOW + 1)
    assert warm_at_us(spare, watch, is_returning=False) == NOW + 1
    spare.probed_at_us = NOW + 1
    assert warm_at_us(spare, watch, is_returning=False) == NOW + 1 + 2 * ICE_PROBE_INTERVAL_US
    spare.answered_at_us = NOW + 2
    assert warm_at_us(spare, watch, is_returning=False) == NOW + 2 + ICE_SPARE_INTERVAL_US


def test_a_stand_in_that_owes_an_answer_is_asked_again_soon() -> None:
    watch, _ = watching()
    spare = working(2)
    spare.probed_at_us, spare.unanswered_probes = NOW + 5, 1
    assert warm_at_us(spare, watch, is_returning=False) == NOW + 5 + ICE_PROVE_INTERVAL_US


def test_a_better_pair_that_comes_back_is_watched_closely() -> None:
    relayed, direct = working(1, relay_id=1), working(2)
    assert returning(relayed, [direct], NOW) == []
    direct.lapsed(NOW)
    direct.answered(NOW, NOW, is_exact=True)
    assert returning(relayed, [direct], NOW) == [direct]
    assert returning(direct, [relayed], NOW) == []
    assert returning(None, [direct], NOW) == []
    assert warm_at_us(direct, Watch(bytes), is_returning=True) == NOW + ICE_PROVE_INTERVAL_US
