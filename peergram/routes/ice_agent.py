"""The ICE agent of one peer: finds ways to it, keeps one in use and others ready, and moves when one stops working.

RFC 8445 without I/O, compatible with the reference's reduced ICE (03, chapters 10 and 13); docs/ice.md lists what differs and
why. Every method that takes `now_us` may change what is to be sent: afterwards drain `poll_transmit`, then `poll_event`, then
re-arm the deadline from `poll_timeout`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from peergram.address import Address
from peergram.config import (
    ICE_ANSWERS_WAITING_MAX,
    ICE_BUDGET_RENEW_US,
    ICE_CONTEST_REST_DOUBLINGS_MAX,
    ICE_CONTEST_REST_US,
    ICE_MOVED_PAUSE_US,
    ICE_MOVED_US,
    ICE_SETTLE_US,
    Config,
)
from peergram.routes.agenda import Agenda
from peergram.routes.candidates import Base, Candidate, LocalCandidate, low_candidate
from peergram.routes.check_list import CheckList
from peergram.routes.checks import (
    Check,
    Checks,
    Credentials,
    HostBudgets,
    answer_to,
    is_role_conflict,
    role_conflict_answer,
    unknown_attribute_answer,
)
from peergram.routes.choose import choose
from peergram.routes.consent import Watch
from peergram.routes.ice_events import Found, IceEvent, Lost, Selected
from peergram.routes.incoming import Conflict, Guard, role_conflict
from peergram.routes.nomination import Steering, follows
from peergram.routes.pairs import LONG_AGO, CandidatePair, PairEvent, PairState
from peergram.routes.upkeep import Upkeep
from peergram.timing import NEVER, Deadline
from peergram.wire.stun import Class, Method, StunMessage, integrity_holds


class IceAgent:
    """One per peer connection. `controlling`: we accepted the connection. `own_peer`: the peer is this library too, which may
    become known later. `budgets`: what is left of those of the peer's earlier calls. `priority_scale="low"`: announce what
    `announced` says, so that a reference peer can be moved anywhere."""

    __slots__ = (
        "_agenda",
        "_answers",
        "_awaited",
        "_checks",
        "_contest",
        "_deadline",
        "_events",
        "_guard",
        "_has_found",
        "_list",
        "_low",
        "_moved_at_us",
        "_renewed_at_us",
        "_rests",
        "_rests_until_us",
        "_settled_at_us",
        "_steering",
        "_transmits",
        "_upkeep",
        "_watch",
        "dropped",
        "selected",
    )

    def __init__(
        self,
        *,
        local_ufrag: bytes,
        local_password: bytes,
        controlling: bool,
        entropy: Callable[[int], bytes],
        now_us: int,
        own_peer: bool = False,
        config: Config,
        budgets: HostBudgets | None = None,
        priority_scale: Literal["normal", "low"] = "normal",
    ) -> None:
        self.selected: CandidatePair | None = None
        """Where data goes now."""
        self.dropped = 0
        """Messages that were not authentic, or answered nothing we asked."""
        self._low = priority_scale == "low"
        self._list = CheckList(controlling=controlling, low=self._low)
        self._guard = Guard(Credentials(local_ufrag, local_password))
        self._checks = Checks(local_ufrag, controlling=controlling, low=self._low, entropy=entropy, budgets=budgets)
        self._watch = Watch(entropy)
        self._agenda = Agenda(self._list, self._checks, self._watch, own_peer=own_peer, spares_max=config.ice_spares_max)
        self._upkeep = Upkeep(self._list, self._checks, self._watch, self._agenda)
        self._contest = self._agenda.contest
        self._rests_until_us = LONG_AGO
        self._rests = 0
        self._steering = Steering(low=self._low)
        self._awaited: CandidatePair | None = None
        """Nominated by the peer before it worked for us."""
        self._settled_at_us = NEVER
        self._renewed_at_us = LONG_AGO
        self._moved_at_us = LONG_AGO
        self._has_found = False
        # Lists, since an empty deque takes 760 bytes, and hardly anything ever waits in these.
        self._answers: list[tuple[Base, Address, bytes]] = []
        self._transmits: list[tuple[Base, Address, bytes]] = []
        self._events: list[IceEvent] = []
        self._deadline: Deadline | None = None

    # Commands.

    @property
    def own_peer(self) -> bool:
        """Whether the peer is this library too."""
        return self._agenda.own_peer

    @own_peer.setter
    def own_peer(self, own_peer: bool) -> None:
        self._agenda.own_peer = own_peer

    @property
    def controlling(self) -> bool:
        """The role now."""
        return self._checks.controlling

    @property
    def has_remotes(self) -> bool:
        """Whether any address of the peer is known."""
        return self._list.has_remotes

    def announced(self, local: LocalCandidate) -> Candidate:
        """What to tell the peer about this candidate."""
        return low_candidate(local) if self._low else local.candidate

    def set_remote(self, ufrag: bytes, password: bytes, now_us: int) -> None:
        """Name and password of the peer, which may come later than its checks. Others than before mean that it started anew:
        what failed is tried again, and what is in use has to answer to the new password."""
        credentials = Credentials(ufrag, password)
        if credentials == self._checks.remote:
            return
        is_first = self._checks.remote is None
        self._checks.remote = credentials
        if not is_first:
            self._upkeep.check_all_again(now_us)
        self._advance(now_us)

    def set_role(self, controlling: bool, now_us: int) -> None:
        """The role that signaling decided."""
        self._take_role(controlling)
        self._advance(now_us)

    def add_local(self, candidate: LocalCandidate, now_us: int) -> None:
        """Use this base too."""
        self._list.add_local(candidate)
        self._advance(now_us)

    def remove_base(self, base: Base, now_us: int) -> None:
        """A socket or relay is gone: what used it too, and the rest has to prove itself."""
        gone = self._list.remove_base(base)
        for pair in gone:
            self._upkeep.drop(pair)
            self._contest.forget(pair)
        if gone:
            self._choose(now_us)
            self._upkeep.check_all_again(now_us)
        self._advance(now_us)

    def add_remote(self, candidate: Candidate, now_us: int) -> None:
        """Use this address of the peer too."""
        self._list.add_remote(candidate)
        self._advance(now_us)

    def restart(self, password: bytes, now_us: int) -> None:
        """Our password is another one from now on; the peer may still use the old one until it hears of it."""
        self._guard.replace_password(password, now_us)
        self._advance(now_us)

    def network_changed(self, now_us: int) -> None:
        """Our machine moved: what failed may work now, and what worked may not."""
        if now_us >= self._renewed_at_us + ICE_BUDGET_RENEW_US:
            self._renewed_at_us = now_us
            self._checks.budgets.renew()
        self._upkeep.check_all_again(now_us)
        self._advance(now_us)

    def note_silent(self, now_us: int) -> None:
        """The connection misses answers: find out at once whether it is the path."""
        self._watch.suspect(now_us)
        self._advance(now_us)

    def note_received(self, base: Base, source: Address, now_us: int) -> bool:
        """Authentic data came this way, which is consent to use it if it worked before. If it is another way than ours, the peer
        may have moved for a reason. Whether there is something to drain now."""
        selected = self.selected
        if selected is not None and source == selected.remote and base == selected.base:
            selected.heard_at_us = now_us
            return False
        pair = self._list.pairs.get((base, source))
        if pair is None:
            return False
        pair.heard_at_us = now_us
        if selected is None or not pair.is_usable(now_us) or now_us < self._moved_at_us + ICE_MOVED_PAUSE_US:
            return False
        if now_us < max(selected.heard_at_us, selected.answered_at_us) + ICE_MOVED_US:
            return False
        self._moved_at_us = now_us
        self.note_silent(now_us)
        return True

    # The verbs.

    def owns(self, transaction_id: bytes) -> bool:
        """Whether this is the answer to a check of this agent."""
        return self._checks.owns(transaction_id)

    def handle_stun(self, base: Base, source: Address, message: StunMessage, datagram: bytes, now_us: int) -> None:
        """A STUN message came in on a base of ours. What is not authentic is counted in `dropped` and has no other effect."""
        is_known = message.method == Method.BINDING and self._list.has_base(base)
        if is_known and message.message_class == Class.REQUEST:
            is_taken = self._handle_request(base, source, message, datagram, now_us)
        elif is_known and message.message_class in (Class.SUCCESS, Class.ERROR):
            is_taken = self._handle_response(base, source, message, datagram, now_us)
        else:
            is_taken = False
        if is_taken:
            self._advance(now_us)
        else:
            self.dropped += 1

    def handle_timeout(self, now_us: int) -> None:
        """The deadline has come."""
        self._advance(now_us)

    def poll_timeout(self) -> Deadline | None:
        """When something is to be done, and what."""
        return self._deadline

    def poll_transmit(self, now_us: int) -> tuple[Base, Address, bytes] | None:
        """The next datagram: from which base, to whom."""
        if self._answers:
            return self._answers.pop(0)
        return self._transmits.pop(0) if self._transmits else None

    def poll_event(self) -> IceEvent | None:
        """What happened."""
        return self._events.pop(0) if self._events else None

    # What the peer sends.

    def _handle_request(self, base: Base, source: Address, request: StunMessage, datagram: bytes, now_us: int) -> bool:
        key = self._guard.key_of(request, datagram, self._checks.remote, now_us)
        if key is None:
            return False
        if request.unknown_required:
            self._answer(base, source, unknown_attribute_answer(request, key))
        elif self._settle_roles(request):
            self._answer(base, source, role_conflict_answer(request, key))
        else:
            return self._take_request(base, source, request, key, now_us)
        return True

    def _answer(self, base: Base, source: Address, datagram: bytes) -> None:
        """Send this in answer to a check; of too many the newest."""
        self._answers.append((base, source, datagram))
        del self._answers[:-ICE_ANSWERS_WAITING_MAX]

    def _settle_roles(self, request: StunMessage) -> bool:
        """Whether the peer must change its role. With others than own peers signaling decides, and a reference would take the
        refusal for an answer."""
        if not self.own_peer:
            return False
        conflict = role_conflict(request, controlling=self.controlling, tie_breaker=self._checks.tie_breaker)
        if conflict is Conflict.WE_GIVE_WAY:
            self._take_role(not self.controlling)
        return conflict is Conflict.PEER_GIVES_WAY

    def _take_request(self, base: Base, source: Address, request: StunMessage, key: bytes, now_us: int) -> bool:
        pair = self._list.learn(base, source, request.priority)
        if pair is None:
            return False
        self._answer(base, source, answer_to(request, source, key))
        pair.peer_checked_at_us = min(pair.peer_checked_at_us, now_us)
        if request.use_candidate and request.transaction_id != pair.last_nomination:
            pair.last_nomination = request.transaction_id
            self._awaited = pair
            if pair.is_usable(now_us) and pair.failing_since_us == NEVER:
                self._follow(pair, now_us)
        self._agenda.trigger(pair)
        return True

    def _handle_response(self, base: Base, source: Address, response: StunMessage, datagram: bytes, now_us: int) -> bool:
        check = self._checks.find(response.transaction_id)
        if check is None or not self._answers_check(check, base, source, response, datagram):
            return False
        self._checks.forget(check)
        if response.message_class == Class.SUCCESS:
            self._succeed(check, now_us)
        elif is_role_conflict(response):
            self._give_way(check)
        elif check.pair.state is PairState.IN_PROGRESS and check.pair.check is None:
            self._upkeep.refuse(check.pair, now_us)
        return True

    def _answers_check(self, check: Check, base: Base, source: Address, response: StunMessage, datagram: bytes) -> bool:
        """From whom we asked, by the way we asked, and signed with the password we asked with (I1, D8)."""
        pair = check.pair
        return (
            (pair.base, pair.remote) == (base, source)
            and self._list.holds(pair)
            and not response.unknown_required
            and integrity_holds(datagram, check.key)
        )

    def _give_way(self, check: Check) -> None:
        """The peer has the larger number (RFC 8445 section 7.2.5.1); with a new one of ours a tie does not repeat itself."""
        if check.controlling == self.controlling:
            self._take_role(not self.controlling)
            self._checks.draw_tie_breaker()
        if check.pair.state is PairState.IN_PROGRESS:
            check.pair.enter(PairEvent.CHECK_AGAIN)
        self._agenda.trigger(check.pair)

    def _take_role(self, controlling: bool) -> None:
        self._checks.controlling = controlling
        self._list.set_role(controlling)
        selected = self.selected
        if selected is not None and controlling and not selected.is_nominated:
            self._nominate(selected)

    def _succeed(self, check: Check, now_us: int) -> None:
        pair = check.pair
        pair.answered(check.first_sent_at_us, now_us, is_exact=check.is_exact)
        self._contest.note_answer(check.transaction_id, max(now_us - check.first_sent_at_us, 1))
        pair.enter(PairEvent.REPLY_MATCHED)
        pair.retries = 0
        if pair.check is not None and not pair.check.use_candidate:
            self._checks.forget(pair.check)
        self._checks.budgets.answered(pair.remote[0])
        self._watch.answered(pair, check.first_sent_at_us, now_us)
        if check.use_candidate:
            pair.is_nominated = True
            pair.wants_nomination = False
            self._steering.nominated = pair
        if not self._has_found:
            self._has_found = True
            self._events.append(Found(pair))
        if self._awaited is pair:
            self._follow(pair, now_us)

    # Which pair is in use.

    def _follow(self, pair: CandidatePair, now_us: int) -> None:
        """The peer nominated a pair that works."""
        self._awaited = None
        if pair is not self.selected and not follows(self.selected, pair, own_peer=self.own_peer):
            return
        pair.is_nominated = True
        self._steering.nominated = pair
        if pair is self.selected:
            return
        if self.selected is not None and self.controlling:
            # It knows something about our choice that we do not.
            self.selected.lapsed(now_us)
        self._use(pair, now_us)

    def _choose(self, now_us: int) -> None:
        selected = self.selected
        if self._leaves_choice_to_peer(now_us):
            return
        best = choose(
            self._list.pairs.values(),
            selected,
            now_us,
            is_settling=now_us < self._settled_at_us,
            is_early=self._contest.is_early(now_us),
            may_compare=now_us >= self._rests_until_us,
        )
        if best is selected:
            return
        if best is not None and selected is not None and best.cost_us and selected.cost_us:
            self._rest(now_us)
        if best is None:
            self.selected = None
            self._watch.follow(None, now_us)
            self._events.append(Lost())
            return
        if selected is not None and (not selected.is_usable(now_us) or selected.failing_since_us != NEVER):
            selected.lapsed(now_us)
        moves_peer = self._steering.nominated is not None
        self._use(best, now_us)
        if self.controlling or moves_peer:
            self._nominate(best)

    def _rest(self, now_us: int) -> None:
        """After a move for its cost, stay for a while."""
        if not self._contest.is_early(now_us):
            self._rests_until_us = now_us + (ICE_CONTEST_REST_US << min(self._rests, ICE_CONTEST_REST_DOUBLINGS_MAX))
            self._rests += 1

    def _compare(self, now_us: int) -> None:
        """Begin and end comparisons of ways: between own peers, by the side that chooses, while all is well."""
        contest, selected = self._contest, self.selected
        if selected is None or not self.own_peer or not self.controlling:
            return
        contest.handle_way(now_us)
        if contest.is_on:
            if self._watch.is_suspicious or not self._list.holds(selected):
                contest.abandon(now_us)
            elif contest.is_over(now_us):
                contest.finish()
        elif contest.is_early(now_us) and any(
            pair.is_relayed != selected.is_relayed and not pair.cost_us and pair.is_usable(now_us)
            for pair in self._list.pairs.values()
        ):
            contest.hurry(now_us)
        if not contest.is_on and now_us >= contest.next_at_us and not self._watch.is_suspicious:
            contest.begin(selected, self._list.pairs.values(), now_us)

    def _compare_at_us(self) -> int:
        if self.selected is None or not self.own_peer or not self.controlling or self._watch.is_suspicious:
            return NEVER
        return self._contest.ends_at_us if self._contest.is_on else self._contest.next_at_us

    def _leaves_choice_to_peer(self, now_us: int) -> bool:
        """The controlled side moves only where its way stopped working."""
        selected = self.selected
        if self.controlling or selected is None:
            return False
        return selected.is_usable(now_us) and selected.failing_since_us == NEVER

    def _use(self, pair: CandidatePair, now_us: int) -> None:
        if self.selected is None:
            self._settled_at_us = now_us + ICE_SETTLE_US
        self.selected = pair
        self._watch.follow(pair, now_us)
        self._events.append(Selected(pair))

    def _nominate(self, pair: CandidatePair) -> None:
        if not self.own_peer:
            self._steering.aim_at(pair)
        pair.wants_nomination = True
        self._agenda.trigger(pair)

    def _advance(self, now_us: int) -> None:
        """All that follows from a change or from time, in order."""
        # Where one pair is given up another becomes a stand-in, which may be due to be given up as well.
        for _ in range(len(self._list.pairs) + 2):
            self._upkeep.give_up(now_us)
            self._compare(now_us)
            self._choose(now_us)
            self._upkeep.take_up(now_us)
            if (transmit := self._agenda.send_next(now_us)) is not None:
                self._transmits.append(transmit)
            deadline = min(
                self._agenda.poll_timeout(now_us),
                self._upkeep.poll_timeout(now_us),
                Deadline(self._compare_at_us(), "compare ways"),
            )
            if deadline.at_us > now_us:
                break
        self._deadline = deadline if deadline.at_us < NEVER else None
