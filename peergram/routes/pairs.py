"""Candidate pairs: one base of ours and one address of the peer, the state of their check, and how well it works.

RFC 8445 section 6.1.2.6, without the frozen state: checks are paced anyway, and candidates come in one by one (docs/ice.md).
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from peergram.config import ICE_CONSENT_EXPIRY_US, ICE_RTO_INITIAL_US, ICE_RTO_MAX_US, ICE_RTO_MIN_US
from peergram.routes.candidates import (
    Base,
    Candidate,
    CandidateKind,
    LocalCandidate,
    is_same_subnet,
    low_priority_of,
    priority_of,
)
from peergram.timing import NEVER

if TYPE_CHECKING:
    from peergram.address import Address
    from peergram.routes.checks import Check

LONG_AGO: Final = -(1 << 62)
"""Earlier than any real time: "not yet"."""


class PairState(Enum):
    """How far the check of a pair has come."""

    WAITING = auto()
    IN_PROGRESS = auto()
    SUCCEEDED = auto()
    FAILED = auto()


class PairEvent(Enum):
    """What moves a pair from state to state."""

    CHECK_SENT = auto()
    REPLY_MATCHED = auto()
    RETRIES_SPENT = auto()
    REFUSED = auto()
    CHECK_AGAIN = auto()
    CONSENT_LOST = auto()


_S = PairState
_E = PairEvent
TRANSITIONS: dict[tuple[PairState, PairEvent], PairState] = {
    (_S.WAITING, _E.CHECK_SENT): _S.IN_PROGRESS,
    (_S.WAITING, _E.CHECK_AGAIN): _S.WAITING,
    (_S.WAITING, _E.REPLY_MATCHED): _S.SUCCEEDED,
    (_S.IN_PROGRESS, _E.REPLY_MATCHED): _S.SUCCEEDED,
    (_S.IN_PROGRESS, _E.RETRIES_SPENT): _S.FAILED,
    (_S.IN_PROGRESS, _E.REFUSED): _S.FAILED,
    (_S.IN_PROGRESS, _E.CHECK_AGAIN): _S.WAITING,
    (_S.SUCCEEDED, _E.REPLY_MATCHED): _S.SUCCEEDED,
    (_S.SUCCEEDED, _E.CONSENT_LOST): _S.FAILED,
    (_S.FAILED, _E.CHECK_AGAIN): _S.WAITING,
    (_S.FAILED, _E.REPLY_MATCHED): _S.SUCCEEDED,
}
"""A late reply to an earlier check counts in every state: it proves the path."""


class CandidatePair:
    """One way to the peer. Everything about it is set by the agent; others read."""

    __slots__ = (
        "answered_at_us",
        "answers_in_row",
        "check",
        "cost_us",
        "failing_since_us",
        "failures",
        "heard_at_us",
        "is_nominated",
        "is_triggered",
        "lapsed_at_us",
        "last_nomination",
        "local",
        "peer_checked_at_us",
        "preference",
        "probed_at_us",
        "probes_lost",
        "probes_sent",
        "proving_since_us",
        "raised_priority",
        "remote_candidate",
        "retries",
        "retry_at_us",
        "rtt_samples",
        "rtt_us",
        "state",
        "unanswered_probes",
        "wants_nomination",
    )

    def __init__(self, local: LocalCandidate, remote: Candidate, *, controlling: bool, low: bool = False) -> None:
        self.local = local
        self.remote_candidate = remote
        self.state = PairState.WAITING
        self.check: Check | None = None
        """The check with retransmissions that is under way: the ordinary one, or the nominating one."""
        self.is_triggered = False
        self.wants_nomination = False
        """The next check says USE-CANDIDATE."""
        self.is_nominated = False
        """A check with USE-CANDIDATE was answered, by either side."""
        self.last_nomination = b""
        """Transaction id of the peer's last nominating check; its repeats say nothing new."""
        self.raised_priority = 0
        """PRIORITY of our checks once we steer a reference peer here; 0 for the ordinary one."""
        self.rtt_us = 0
        """Smoothed round trip; 0 while unknown."""
        self.rtt_samples = 0
        self.answered_at_us = LONG_AGO
        """When the last check sent here was answered."""
        self.heard_at_us = LONG_AGO
        """When authentic packets last came this way."""
        self.peer_checked_at_us = NEVER
        """When the peer's first check came in on it."""
        self.failing_since_us = NEVER
        """Since when it does not answer although asked repeatedly; NEVER while it does."""
        self.lapsed_at_us = LONG_AGO
        """When it last stopped working."""
        self.failures = 0
        """How often it stopped working."""
        self.proving_since_us = NEVER
        """Since when it answers again, every time."""
        self.answers_in_row = 0
        self.cost_us = 0
        """Of the last comparison with others, in which answers that were missing count as well; 0 while unknown."""
        self.probes_sent = 0
        self.probes_lost = 0.0
        """In comparisons; older ones count half."""
        self.unanswered_probes = 0
        """Probes sent since the last answer,"""
        self.probed_at_us = LONG_AGO
        """and when the last one was."""
        self.retries = 0
        self.retry_at_us = NEVER
        self.preference = (False, 0)
        """Compare pairs by it: same subnet first, then the RFC's priority."""
        self.rank(controlling=controlling, low=low)

    def rank(self, *, controlling: bool, low: bool) -> None:
        """Set `preference` anew: after a change of role, or when more is known about the remote candidate."""
        kind = CandidateKind.RELAYED if self.local.base.relay_id else CandidateKind.HOST
        own = (low_priority_of if low else priority_of)(kind, self.local.local_preference)
        priority = pair_priority(own, self.remote_candidate.priority, controlling=controlling)
        self.preference = (is_same_subnet(self.local, self.remote), priority)

    def enter(self, event: PairEvent) -> None:
        """The only writer of `state`."""
        self.state = TRANSITIONS[self.state, event]

    @property
    def base(self) -> Base:
        """Where our datagrams leave."""
        return self.local.base

    @property
    def remote(self) -> Address:
        """Where they go."""
        return self.remote_candidate.address

    @property
    def local_kind(self) -> CandidateKind:
        """HOST or RELAYED: a reflexive address is a host's, seen from elsewhere."""
        return CandidateKind.RELAYED if self.local.base.relay_id else CandidateKind.HOST

    @property
    def remote_kind(self) -> CandidateKind:
        """As the peer told it, or PEER_REFLEXIVE if only its checks did."""
        return self.remote_candidate.kind

    @property
    def is_relayed(self) -> bool:
        """Whether a relay of either side carries the packets."""
        return self.local.base.relay_id != 0 or self.remote_candidate.kind is CandidateKind.RELAYED

    @property
    def is_local(self) -> bool:
        """Whether the peer is probably in our own network."""
        return self.preference[0] and not self.is_relayed

    @property
    def consent_until_us(self) -> int:
        """Until when data may be sent here without another sign of life (I3)."""
        if self.answered_at_us == LONG_AGO:
            return LONG_AGO
        return max(self.answered_at_us, self.heard_at_us) + ICE_CONSENT_EXPIRY_US

    def is_usable(self, now_us: int) -> bool:
        """Whether data may be sent here now."""
        return self.state is PairState.SUCCEEDED and now_us < self.consent_until_us

    def reply_wait_us(self) -> int:
        """How long an answer may take before it counts as missing."""
        if not self.rtt_samples:
            return ICE_RTO_INITIAL_US
        return min(max(2 * self.rtt_us, ICE_RTO_MIN_US), ICE_RTO_MAX_US)

    def answered(self, sent_at_us: int, now_us: int, *, is_exact: bool) -> None:
        """A check was answered. `is_exact`: it was sent once only, so that the time between is a round trip."""
        self.answered_at_us = now_us
        self.failing_since_us = NEVER
        self.unanswered_probes = 0
        self.answers_in_row += 1
        if self.proving_since_us == NEVER:
            self.proving_since_us = now_us
        if is_exact or not self.rtt_samples:
            sample_us = max(now_us - sent_at_us, 1)
            self.rtt_us = sample_us if not self.rtt_samples else self.rtt_us + (sample_us - self.rtt_us) // 4
            self.rtt_samples += is_exact

    def lapsed(self, now_us: int) -> None:
        """It worked and stopped, or the peer turned away from it: it has to prove itself before it is preferred again."""
        if self.proving_since_us != NEVER:
            self.failures += 1
            self.lapsed_at_us = now_us
        self.cost_us = self.probes_sent = 0
        self.probes_lost = 0.0
        self.proving_since_us = NEVER
        self.answers_in_row = 0

    def __repr__(self) -> str:
        return f"<pair {self.base} {self.remote} {self.state.name}>"


def pair_priority(own: int, peers: int, *, controlling: bool) -> int:
    """RFC 8445 section 6.1.2.3 as the reference computes it: the tie goes to the controlled side's larger number."""
    controlling_side, controlled_side = (own, peers) if controlling else (peers, own)
    return (min(own, peers) << 32) + 2 * max(own, peers) + (controlled_side > controlling_side)
