"""The pairs of one peer: every base of ours with every address of the peer, within the limits of I2.

When there are too many, what never worked gives way to what the peer itself sends from, and the less preferred to the more.
"""

from __future__ import annotations

from peergram.address import Address, is_loopback
from peergram.config import ICE_PAIRS_MAX, ICE_REMOTE_CANDIDATES_MAX
from peergram.routes.candidates import (
    Base,
    Candidate,
    CandidateKind,
    LocalCandidate,
    is_usable,
    may_pair,
    priority_of,
)
from peergram.routes.pairs import CandidatePair, PairState


class CheckList:
    """Candidates of both sides, and their pairs."""

    __slots__ = ("_allow_loopback", "_controlling", "_locals", "_low", "_remotes", "pairs")

    def __init__(self, *, controlling: bool, low: bool) -> None:
        self._controlling = controlling
        self._low = low
        self._allow_loopback = False
        self._locals: dict[Base, LocalCandidate] = {}
        self._remotes: dict[Address, Candidate] = {}
        self.pairs: dict[tuple[Base, Address], CandidatePair] = {}

    @property
    def has_remotes(self) -> bool:
        """Whether any address of the peer is known."""
        return bool(self._remotes)

    def has_base(self, base: Base) -> bool:
        """Whether checks may leave and arrive there."""
        return base in self._locals

    def holds(self, pair: CandidatePair) -> bool:
        """Whether this pair is still one of ours."""
        return self.pairs.get((pair.base, pair.remote)) is pair

    def by_preference(self) -> list[CandidatePair]:
        """All pairs, the most preferred first."""
        return sorted(self.pairs.values(), key=lambda pair: pair.preference, reverse=True)

    def set_role(self, controlling: bool) -> None:
        """Rank all pairs as the other role does."""
        self._controlling = controlling
        for pair in self.pairs.values():
            pair.rank(controlling=controlling, low=self._low)

    def add_local(self, local: LocalCandidate) -> None:
        """Pair a new base with all the peer has. A further candidate of a known base changes nothing: what is sent leaves from
        the base (RFC 8445 section 6.1.2.4)."""
        if local.base in self._locals:
            return
        self._locals[local.base] = local
        self._allow_loopback = self._allow_loopback or is_loopback(local.base_address)
        for remote in list(self._remotes.values()):
            self._pair(local, remote)

    def remove_base(self, base: Base) -> list[CandidatePair]:
        """Forget a base; returns the pairs that go with it."""
        self._locals.pop(base, None)
        self._allow_loopback = any(is_loopback(local.base_address) for local in self._locals.values())
        gone = [pair for pair in self.pairs.values() if pair.base == base]
        for pair in gone:
            del self.pairs[pair.base, pair.remote]
        return gone

    def add_remote(self, candidate: Candidate) -> None:
        """Take what the peer announces; an address known already gets its kind and priority from it (10.2)."""
        if not is_usable(candidate.address, allow_loopback=True):
            return
        if candidate.address in self._remotes:
            self._describe(candidate)
        elif self._make_room_for_remote(candidate.priority):
            self._remotes[candidate.address] = candidate
            for local in self._locals.values():
                self._pair(local, candidate)

    def learn(self, base: Base, source: Address, priority: int | None) -> CandidatePair | None:
        """The pair that an authentic check came in on, made if need be (RFC 8445 section 7.3.1.3)."""
        if (pair := self.pairs.get((base, source))) is not None:
            return pair
        local = self._locals[base]
        if not is_usable(source, allow_loopback=self._allow_loopback) or not may_pair(local, source):
            return None
        candidate = self._remotes.get(source)
        if candidate is None:
            if not self._make_room_for_remote(None):
                return None
            priority = priority_of(CandidateKind.PEER_REFLEXIVE, 0) if priority is None else priority
            candidate = Candidate(CandidateKind.PEER_REFLEXIVE, source, priority, "0")
            self._remotes[source] = candidate
        return self._pair(local, candidate, is_proven=True)

    def _describe(self, candidate: Candidate) -> None:
        self._remotes[candidate.address] = candidate
        for pair in self.pairs.values():
            if pair.remote == candidate.address:
                pair.remote_candidate = candidate
                pair.rank(controlling=self._controlling, low=self._low)

    def _pair(self, local: LocalCandidate, remote: Candidate, *, is_proven: bool = False) -> CandidatePair | None:
        if not may_pair(local, remote.address):
            return None
        pair = CandidatePair(local, remote, controlling=self._controlling, low=self._low)
        if not self._make_room_for_pair(None if is_proven else pair):
            return None
        self.pairs[pair.base, pair.remote] = pair
        return pair

    def _make_room_for_pair(self, newcomer: CandidatePair | None) -> bool:
        """Drop the least preferred pair that does not work, if it is less preferred than `newcomer` or there is none."""
        if len(self.pairs) < ICE_PAIRS_MAX:
            return True
        idle = [pair for pair in self.pairs.values() if pair.state is not PairState.SUCCEEDED]
        worst = min(idle, key=lambda pair: pair.preference, default=None)
        if worst is None or (newcomer is not None and worst.preference >= newcomer.preference):
            return False
        del self.pairs[worst.base, worst.remote]
        return True

    def _make_room_for_remote(self, priority: int | None) -> bool:
        """The same for the peer's candidates; None: for one that its own check has proven."""
        if len(self._remotes) < ICE_REMOTE_CANDIDATES_MAX:
            return True
        working = {pair.remote for pair in self.pairs.values() if pair.state is PairState.SUCCEEDED}
        idle = [candidate for candidate in self._remotes.values() if candidate.address not in working]
        worst = min(idle, key=lambda candidate: (self._is_tried(candidate), candidate.priority), default=None)
        if worst is None or (priority is not None and worst.priority >= priority and not self._has_failed(worst)):
            return False
        del self._remotes[worst.address]
        for pair in [pair for pair in self.pairs.values() if pair.remote == worst.address]:
            del self.pairs[pair.base, pair.remote]
        return True

    def _is_tried(self, candidate: Candidate) -> bool:
        """False sorts first: what has failed everywhere."""
        return not self._has_failed(candidate)

    def _has_failed(self, candidate: Candidate) -> bool:
        states = [pair.state for pair in self.pairs.values() if pair.remote == candidate.address]
        return all(state is PairState.FAILED for state in states)
