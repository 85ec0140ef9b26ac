"""Which check goes out next, and when: one at a time, ICE_CHECK_INTERVAL_US apart (I2).

In order: what the peer's checks triggered and nominations; the pair in use; pairs not checked yet, the most preferred first;
repeats; pairs that are compared; pairs that are kept warm.
"""

from __future__ import annotations

from collections.abc import Callable

from peergram.address import Address
from peergram.config import ICE_CHECK_INTERVAL_US, ICE_FRESH_US, ICE_SPARE_PROBES_MAX
from peergram.routes.candidates import Base
from peergram.routes.check_list import CheckList
from peergram.routes.checks import Check, Checks
from peergram.routes.consent import Watch, returning, spares_of, warm_at_us
from peergram.routes.contest import Contest
from peergram.routes.pairs import CandidatePair, PairEvent, PairState
from peergram.timing import NEVER, Deadline

_Step = tuple[int, Callable[[int], Check | None] | None]
"""From when on something may be sent, and what sends it."""
_NOTHING: _Step = (NEVER, None)


class Agenda:
    """Sends the checks of one agent, a step at a time."""

    __slots__ = ("_checks", "_list", "_paced_until_us", "_triggered", "_watch", "contest", "own_peer", "spares_max")

    def __init__(self, check_list: CheckList, checks: Checks, watch: Watch, *, own_peer: bool, spares_max: int) -> None:
        self._list = check_list
        self._checks = checks
        self._watch = watch
        self.spares_max = spares_max
        """How many pairs are kept warm besides the one in use."""
        self.own_peer = own_peer
        self.contest = Contest()
        self._triggered: list[CandidatePair] = []
        self._paced_until_us = 0

    def trigger(self, pair: CandidatePair) -> None:
        """Check this pair before all others: the peer's check came in on it, or it is to be nominated."""
        if pair.state is PairState.FAILED:
            # Whatever was tried before: now something has come this way.
            pair.retries = 0
            pair.enter(PairEvent.CHECK_AGAIN)
        if not pair.is_triggered:
            pair.is_triggered = True
            self._triggered.append(pair)

    def send_next(self, now_us: int) -> tuple[Base, Address, bytes] | None:
        """The check that is due, if one is."""
        if now_us < self._paced_until_us:
            return None
        at_us, send = self._next(now_us)
        if at_us > now_us or send is None:
            return None
        check = send(now_us)
        if check is None:
            return None
        self._paced_until_us = now_us + ICE_CHECK_INTERVAL_US
        return check.pair.base, check.pair.remote, check.datagram

    def poll_timeout(self, now_us: int) -> Deadline:
        """When `send_next` has something to send."""
        return Deadline(max(self._next(now_us)[0], self._paced_until_us), "connectivity check")

    def warm(self, now_us: int) -> list[tuple[CandidatePair, bool]]:
        """Pairs that are kept warm, and whether they are on probation."""
        selected = self._watch.pair
        pairs = [pair for pair in self._list.pairs.values() if pair is not selected and pair.is_usable(now_us)]
        if selected is None or not pairs:
            return []
        on_probation = returning(selected, pairs, now_us)
        spares = spares_of(selected, pairs, now_us)[: self.spares_max]
        return [(pair, True) for pair in on_probation] + [(pair, False) for pair in spares if pair not in on_probation]

    def _next(self, now_us: int) -> _Step:
        """The first step that is due, else the time of the earliest."""
        if self._checks.remote is None:
            return _NOTHING
        earliest_us = NEVER
        steps = (
            *(self._next_triggered, self._next_watched, self._next_waiting),
            *(self._next_repeat, self._next_contest, self._next_warm),
        )
        for step in steps:
            at_us, send = step(now_us)
            if at_us <= now_us:
                return at_us, send
            earliest_us = min(earliest_us, at_us)
        return earliest_us, None

    def _next_triggered(self, now_us: int) -> _Step:
        while self._triggered:
            pair = self._triggered[0]
            if self._list.holds(pair) and _is_worth_a_check(pair, now_us) and self._allowed_at_us(pair) <= now_us:
                return now_us, self._send_triggered
            self._triggered.pop(0).is_triggered = False
        return _NOTHING

    def _send_triggered(self, now_us: int) -> Check:
        pair = self._triggered.pop(0)
        pair.is_triggered = False
        if pair.state is PairState.IN_PROGRESS:
            self._checks.keep_listening(pair, now_us)
            pair.enter(PairEvent.CHECK_AGAIN)
        return self._start(pair, now_us)

    def _next_watched(self, now_us: int) -> _Step:
        pair = self._watch.pair
        if pair is None:
            return _NOTHING
        return max(self._watch.ask_at_us(), self._allowed_at_us(pair)), self._send_watched

    def _send_watched(self, now_us: int) -> Check | None:
        pair = self._watch.pair
        assert pair is not None, "the step is for the pair in use"
        # The controlling side repeats its nomination between own peers: should the first be lost, both agree again soon.
        repeats = self.own_peer and self._checks.controlling and not self._watch.is_suspicious
        self._watch.asked(now_us)
        return self._checks.probe(pair, now_us, use_candidate=pair.wants_nomination or repeats)

    def _next_waiting(self, now_us: int) -> _Step:
        waiting = [(self._allowed_at_us(pair), pair) for pair in self._list.pairs.values() if pair.state is PairState.WAITING]
        due = [pair for at_us, pair in waiting if at_us <= now_us]
        if not due:
            return min((at_us for at_us, _ in waiting), default=NEVER), None
        best = max(due, key=lambda pair: pair.preference)
        return now_us, lambda at_us: self._start(best, at_us)

    def _next_repeat(self, now_us: int) -> _Step:
        under_way = [pair.check for pair in self._list.pairs.values() if pair.check is not None]
        repeats = [
            (max(check.due_at_us, self._allowed_at_us(check.pair)), check) for check in under_way if check.sends < check.sends_max
        ]
        if not repeats:
            return _NOTHING
        at_us, check = min(repeats, key=lambda item: item[0])
        return at_us, lambda sent_at_us: self._checks.repeat(check, sent_at_us)

    def _next_contest(self, now_us: int) -> _Step:
        found = self.contest.next_pair()
        if found is None:
            return _NOTHING
        at_us, pair = found
        return max(at_us, self._allowed_at_us(pair)), lambda sent_at_us: self._send_for_contest(pair, sent_at_us)

    def _send_for_contest(self, pair: CandidatePair, now_us: int) -> Check:
        # As consent checks do, which come later for it.
        check = self._checks.probe(pair, now_us, use_candidate=pair is self._watch.pair)
        self.contest.note_sent(pair, check.transaction_id, now_us)
        return check

    def _next_warm(self, now_us: int) -> _Step:
        due = [
            (max(warm_at_us(pair, self._watch, is_returning=is_returning), self._allowed_at_us(pair)), pair)
            for pair, is_returning in self.warm(now_us)
            if pair.unanswered_probes < ICE_SPARE_PROBES_MAX
        ]
        if not due:
            return _NOTHING
        at_us, pair = min(due, key=lambda item: item[0])
        return at_us, lambda sent_at_us: self._checks.probe(pair, sent_at_us, use_candidate=False)

    def _start(self, pair: CandidatePair, now_us: int) -> Check:
        if pair.state is PairState.WAITING:
            pair.enter(PairEvent.CHECK_SENT)
        return self._checks.start(pair, now_us, use_candidate=pair.wants_nomination)

    def _allowed_at_us(self, pair: CandidatePair) -> int:
        return self._checks.budgets.allows_at_us(pair.remote[0])


def _is_worth_a_check(pair: CandidatePair, now_us: int) -> bool:
    """Whether we do not know already what its answer would tell."""
    if pair.state is PairState.IN_PROGRESS and pair.check is not None:
        # What was sent before the peer's first check may have been stopped by a filter that this check has opened.
        return pair.check.first_sent_at_us < pair.peer_checked_at_us
    if pair.state is not PairState.SUCCEEDED:
        return True
    return (pair.wants_nomination and pair.check is None) or now_us >= pair.answered_at_us + ICE_FRESH_US
