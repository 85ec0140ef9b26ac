"""What time does to pairs: checks nobody answered, consent that ran out, and failed pairs that get another chance.

A pair fails when its checks were repeated in vain, when its consent is over, or when it was kept warm and stopped answering. It
is checked again, each time later, while it would be better than what is in use or while there is no other stand-in.
"""

from __future__ import annotations

from peergram.config import ICE_RETRY_MAX_US, ICE_RETRY_US, ICE_SPARE_PROBES_MAX
from peergram.routes.agenda import Agenda
from peergram.routes.check_list import CheckList
from peergram.routes.checks import Check, Checks
from peergram.routes.choose import kind_rank
from peergram.routes.consent import Watch
from peergram.routes.pairs import LONG_AGO, CandidatePair, PairEvent, PairState
from peergram.timing import NEVER, Deadline

_BACKOFF_STEPS_MAX = 16


class Upkeep:
    """Gives pairs up and takes them up again."""

    __slots__ = ("_agenda", "_checks", "_list", "_watch")

    def __init__(self, check_list: CheckList, checks: Checks, watch: Watch, agenda: Agenda) -> None:
        self._list = check_list
        self._checks = checks
        self._watch = watch
        self._agenda = agenda

    def give_up(self, now_us: int) -> None:
        """Notice what is over."""
        self._checks.forget_expired(now_us)
        self._give_up_checks(now_us)
        if self._watch.handle_timeout(now_us):
            self._retry_all(now_us)
        self._give_up_pairs(now_us)

    def take_up(self, now_us: int) -> None:
        """Check failed pairs again whose time has come."""
        wants_spare = self._wants_spare(now_us)
        for pair in self._list.pairs.values():
            if now_us >= self._retry_at_us(pair, wants_spare=wants_spare):
                pair.enter(PairEvent.CHECK_AGAIN)

    def refuse(self, pair: CandidatePair, now_us: int) -> None:
        """The peer answered a check with an error."""
        pair.enter(PairEvent.REFUSED)
        self._plan_retry(pair, now_us)

    def drop(self, pair: CandidatePair) -> None:
        """The base of this pair is gone."""
        self._checks.forget_pair(pair)
        if pair.state is PairState.SUCCEEDED:
            pair.enter(PairEvent.CONSENT_LOST)

    def check_all_again(self, now_us: int) -> None:
        """Whatever was known may not hold any more: what failed is tried again, what is in use has to answer."""
        for pair in self._list.pairs.values():
            pair.retries = 0
            self._checks.keep_listening(pair, now_us)
            if pair.state in (PairState.IN_PROGRESS, PairState.FAILED):
                pair.enter(PairEvent.CHECK_AGAIN)
        self._watch.suspect(now_us)

    def poll_timeout(self, now_us: int) -> Deadline:
        """When `give_up` or `take_up` has something to do."""
        pairs = self._list.pairs.values()
        wants_spare = self._wants_spare(now_us)
        under_way = [pair.check for pair in pairs if pair.check is not None]
        consents = [pair.consent_until_us for pair in pairs if pair.state is PairState.SUCCEEDED]
        spent = [_spent_at_us(pair) for pair in self._unanswering(now_us)]
        return min(
            Deadline(min((check.due_at_us for check in under_way if self._is_spent(check)), default=NEVER), "check unanswered"),
            Deadline(self._watch.poll_at_us(), "answer missing"),
            Deadline(min([*consents, *spent], default=NEVER), "consent over"),
            Deadline(min((self._retry_at_us(pair, wants_spare=wants_spare) for pair in pairs), default=NEVER), "check again"),
            Deadline(self._checks.next_expiry_at_us(), "answer no longer awaited"),
        )

    def _give_up_checks(self, now_us: int) -> None:
        for pair in self._list.pairs.values():
            check = pair.check
            if check is None or now_us < check.due_at_us or not self._is_spent(check):
                continue
            # Its answer may only be late.
            self._checks.keep_listening(pair, now_us)
            if pair.state is PairState.IN_PROGRESS:
                pair.enter(PairEvent.RETRIES_SPENT)
                self._plan_retry(pair, now_us)

    def _is_spent(self, check: Check) -> bool:
        return check.sends >= check.sends_max or self._checks.budgets.allows_at_us(check.pair.remote[0]) == NEVER

    def _give_up_pairs(self, now_us: int) -> None:
        silent = [pair for pair in self._unanswering(now_us) if now_us >= _spent_at_us(pair)]
        for pair in self._list.pairs.values():
            if pair.state is PairState.SUCCEEDED and (now_us >= pair.consent_until_us or pair in silent):
                pair.enter(PairEvent.CONSENT_LOST)
                pair.lapsed(now_us)
                if pair.check is not None:
                    self._checks.forget(pair.check)
                self._plan_retry(pair, now_us)

    def _plan_retry(self, pair: CandidatePair, now_us: int) -> None:
        delay_us = ICE_RETRY_US
        for _ in range(min(pair.retries, _BACKOFF_STEPS_MAX)):
            delay_us = min(delay_us * 5 // 4, ICE_RETRY_MAX_US)
        pair.retries += 1
        pair.retry_at_us = now_us + delay_us

    def _retry_all(self, now_us: int) -> None:
        """The pair in use is failing: any other may do."""
        for pair in self._list.pairs.values():
            if pair.state is PairState.FAILED:
                pair.retry_at_us = now_us

    def _retry_at_us(self, pair: CandidatePair, *, wants_spare: bool) -> int:
        if pair.state is not PairState.FAILED:
            return NEVER
        used = self._watch.pair
        if used is None or used.failing_since_us != NEVER or kind_rank(pair) > kind_rank(used):
            return pair.retry_at_us
        has_worked = pair.answered_at_us != LONG_AGO
        return pair.retry_at_us if has_worked and wants_spare else NEVER

    def _wants_spare(self, now_us: int) -> bool:
        used = self._watch.pair
        if not self._agenda.spares_max:
            return False
        return used is None or not any(pair is not used and pair.is_usable(now_us) for pair in self._list.pairs.values())

    def _unanswering(self, now_us: int) -> list[CandidatePair]:
        """Of the pairs that are kept warm those that were asked in vain often enough."""
        # Most often there is none, and which are kept warm is dear to find out.
        if all(pair.unanswered_probes < ICE_SPARE_PROBES_MAX for pair in self._list.pairs.values()):
            return []
        return [pair for pair, _ in self._agenda.warm(now_us) if pair.unanswered_probes >= ICE_SPARE_PROBES_MAX]


def _spent_at_us(pair: CandidatePair) -> int:
    """When a pair that is kept warm, and asked in vain, counts as failed."""
    return pair.probed_at_us + pair.reply_wait_us()
