"""Connectivity checks as messages: building them, knowing them again, repeating them, and how many may go where.

A check is repeated with its transaction id after a time-out that doubles. No host that does not answer gets more than
ICE_UNANSWERED_PACKETS_MAX packets, whatever a peer lists (I2): its candidates may be somebody else's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from peergram.address import Address
from peergram.config import (
    ICE_CHECK_SENDS_MAX,
    ICE_HOSTS_MAX,
    ICE_KNOWN_HOST_CHECK_US,
    ICE_PROBE_LIFETIME_US,
    ICE_RETRY_SENDS_MAX,
    ICE_RTO_MAX_US,
    ICE_UNANSWERED_PACKETS_MAX,
)
from peergram.routes.candidates import CandidateKind, low_priority_of, priority_of
from peergram.routes.pairs import CandidatePair
from peergram.timing import NEVER
from peergram.wire.stun import Class, Method, StunMessage, encode_stun

_TRANSACTION_BYTES: Final = 12
_ROLE_CONFLICT: Final = 487
_UNKNOWN_ATTRIBUTE: Final = 420


@dataclass(frozen=True, slots=True)
class Credentials:
    """Name and password of one side."""

    ufrag: bytes
    password: bytes = field(repr=False)


@dataclass(slots=True)
class Check:
    """A request under way. `is_probe`: sent once, on a pair that works."""

    pair: CandidatePair
    transaction_id: bytes
    datagram: bytes
    key: bytes
    controlling: bool
    use_candidate: bool
    is_probe: bool
    sends_max: int
    first_sent_at_us: int
    due_at_us: int
    """When to repeat it, or after the last time: when to give up."""
    sends: int = 1
    wait_us: int = 0

    @property
    def is_exact(self) -> bool:
        """Whether its answer tells a round trip."""
        return self.sends == 1


@dataclass(slots=True)
class _HostBudget:
    """Packets sent to one host since it last answered."""

    unanswered: int = 0
    last_sent_at_us: int = 0
    has_answered: bool = False


class HostBudgets:
    """How many more checks each host may get."""

    __slots__ = ("_hosts",)

    def __init__(self) -> None:
        self._hosts: dict[str, _HostBudget] = {}

    def allows_at_us(self, host: str) -> int:
        """From when on another check may go there; NEVER if not at all. A host that once was the peer's is asked now and then
        for as long as we want to reach it."""
        budget = self._hosts.get(host)
        if budget is None:
            return 0 if len(self._hosts) < ICE_HOSTS_MAX or self._forgettable() else NEVER
        if budget.unanswered < ICE_UNANSWERED_PACKETS_MAX:
            return 0
        return budget.last_sent_at_us + ICE_KNOWN_HOST_CHECK_US if budget.has_answered else NEVER

    def spend(self, host: str, now_us: int) -> None:
        """A check goes there."""
        if host not in self._hosts and len(self._hosts) >= ICE_HOSTS_MAX:
            del self._hosts[self._forgettable()[0]]
        budget = self._hosts.setdefault(host, _HostBudget())
        budget.unanswered += 1
        budget.last_sent_at_us = now_us

    def answered(self, host: str) -> None:
        """A check sent there was answered."""
        budget = self._hosts.get(host)
        if budget is not None:
            budget.unanswered = 0
            budget.has_answered = True

    def renew(self) -> None:
        """Our own network is another one: what was out of reach may be in reach."""
        for budget in self._hosts.values():
            budget.unanswered = 0

    def _forgettable(self) -> list[str]:
        return [host for host, budget in self._hosts.items() if budget.unanswered == 0]


class Checks:
    """Makes requests and answers, and remembers which requests are out."""

    __slots__ = ("_by_id", "_entropy", "_local_ufrag", "_low", "budgets", "controlling", "remote", "tie_breaker")

    def __init__(
        self,
        local_ufrag: bytes,
        *,
        controlling: bool,
        low: bool,
        entropy: Callable[[int], bytes],
        budgets: HostBudgets | None = None,
    ) -> None:
        self._local_ufrag = local_ufrag
        self.remote: Credentials | None = None
        self.controlling = controlling
        self._low = low
        self._entropy = entropy
        self._by_id: dict[bytes, Check] = {}
        self.budgets = budgets or HostBudgets()
        self.tie_breaker = 0
        self.draw_tie_breaker()

    def draw_tie_breaker(self) -> None:
        """A new number for role conflicts."""
        self.tie_breaker = int.from_bytes(self._entropy(8), "big")

    def owns(self, transaction_id: bytes) -> bool:
        """Whether this is one of our requests."""
        return transaction_id in self._by_id

    def find(self, transaction_id: bytes) -> Check | None:
        """The request with this id."""
        return self._by_id.get(transaction_id)

    def forget(self, check: Check) -> None:
        """Its answer no longer matters."""
        self._by_id.pop(check.transaction_id, None)
        if check.pair.check is check:
            check.pair.check = None

    def forget_pair(self, pair: CandidatePair) -> None:
        """No answer for this pair matters any more."""
        for check in [check for check in self._by_id.values() if check.pair is pair]:
            self.forget(check)

    def start(self, pair: CandidatePair, now_us: int, *, use_candidate: bool) -> Check:
        """A check that is repeated until it is answered."""
        sends_max = ICE_RETRY_SENDS_MAX if pair.retries else ICE_CHECK_SENDS_MAX
        check = self._request(pair, now_us, use_candidate=use_candidate, is_probe=False, sends_max=sends_max)
        check.wait_us = pair.reply_wait_us()
        check.due_at_us = now_us + check.wait_us
        if pair.check is not None:
            self.forget(pair.check)
        pair.check = check
        return check

    def probe(self, pair: CandidatePair, now_us: int, *, use_candidate: bool) -> Check:
        """A check that is sent once: does the pair still work?"""
        check = self._request(pair, now_us, use_candidate=use_candidate, is_probe=True, sends_max=1)
        check.due_at_us = now_us + ICE_PROBE_LIFETIME_US
        pair.probed_at_us = now_us
        pair.unanswered_probes += 1
        return check

    def keep_listening(self, pair: CandidatePair, now_us: int) -> None:
        """Another check takes the place of the one under way, whose answer still counts."""
        if pair.check is not None:
            pair.check.is_probe = True
            pair.check.due_at_us = now_us + ICE_PROBE_LIFETIME_US
            pair.check = None

    def repeat(self, check: Check, now_us: int) -> Check:
        """Send it once more."""
        self.budgets.spend(check.pair.remote[0], now_us)
        check.sends += 1
        check.wait_us = min(2 * check.wait_us, ICE_RTO_MAX_US)
        check.due_at_us = now_us + check.wait_us
        return check

    def forget_expired(self, now_us: int) -> None:
        """No answer is expected any more to what was sent once, long ago."""
        for check in [check for check in self._by_id.values() if check.is_probe and check.due_at_us <= now_us]:
            self.forget(check)

    def next_expiry_at_us(self) -> int:
        """When `forget_expired` has something to do."""
        return min((check.due_at_us for check in self._by_id.values() if check.is_probe), default=NEVER)

    def _request(self, pair: CandidatePair, now_us: int, *, use_candidate: bool, is_probe: bool, sends_max: int) -> Check:
        assert self.remote is not None, "checks need the peer's name and password"
        self.budgets.spend(pair.remote[0], now_us)
        message = StunMessage(
            method=Method.BINDING,
            message_class=Class.REQUEST,
            transaction_id=self._entropy(_TRANSACTION_BYTES),
            username=self.remote.ufrag + b":" + self._local_ufrag,
            priority=pair.raised_priority or self._check_priority(pair),
            ice_controlling=self.tie_breaker if self.controlling else None,
            ice_controlled=None if self.controlling else self.tie_breaker,
            use_candidate=use_candidate,
        )
        check = Check(
            pair=pair,
            transaction_id=message.transaction_id,
            datagram=encode_stun(message, integrity_key=self.remote.password),
            key=self.remote.password,
            controlling=self.controlling,
            use_candidate=use_candidate,
            is_probe=is_probe,
            sends_max=sends_max,
            first_sent_at_us=now_us,
            due_at_us=NEVER,
        )
        self._by_id[check.transaction_id] = check
        return check

    def _check_priority(self, pair: CandidatePair) -> int:
        """What our address gets as peer-reflexive candidate, should the peer not know it (RFC 8445 section 7.1.1)."""
        priority = low_priority_of if self._low else priority_of
        return priority(CandidateKind.PEER_REFLEXIVE, pair.local.local_preference)


def answer_to(request: StunMessage, source: Address, key: bytes) -> bytes:
    """The success response: where the request came from, and its user name again as the reference has it."""
    message = StunMessage(
        method=Method.BINDING,
        message_class=Class.SUCCESS,
        transaction_id=request.transaction_id,
        xor_mapped_address=source,
        username=request.username,
    )
    return encode_stun(message, integrity_key=key)


def role_conflict_answer(request: StunMessage, key: bytes) -> bytes:
    """You and I cannot both have this role, and my number is larger (RFC 8445 section 7.3.1.1)."""
    return _error_answer(request, key, _ROLE_CONFLICT, b"Role Conflict", [])


def unknown_attribute_answer(request: StunMessage, key: bytes) -> bytes:
    """The request contains what must be understood and is not (RFC 8489 section 6.3.1)."""
    return _error_answer(request, key, _UNKNOWN_ATTRIBUTE, b"Unknown Attribute", request.unknown_required[:8])


def _error_answer(request: StunMessage, key: bytes, code: int, reason: bytes, unknown: list[int]) -> bytes:
    message = StunMessage(
        method=Method.BINDING,
        message_class=Class.ERROR,
        transaction_id=request.transaction_id,
        error_code=code,
        error_reason=reason,
        unknown_attributes=unknown,
    )
    return encode_stun(message, integrity_key=key)


def is_role_conflict(response: StunMessage) -> bool:
    """Whether the peer says that both sides have one role."""
    return response.message_class == Class.ERROR and response.error_code == _ROLE_CONFLICT
