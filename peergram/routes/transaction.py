"""One STUN request until its answer (RFC 8489 §6.2): what is sent, when again, and when nobody answers any more."""

from __future__ import annotations

from peergram.config import STUN_ATTEMPTS_MAX, STUN_RTO_MAX_US, STUN_RTO_US, STUN_STREAM_ANSWER_US


class Transaction:
    """Due at once when made; sent again after `STUN_RTO_US`, then after twice as long each time; over a stream once only."""

    __slots__ = ("_is_stream", "_sends", "_sends_max", "datagram", "due_at_us", "transaction_id")

    def __init__(
        self,
        transaction_id: bytes,
        datagram: bytes,
        now_us: int,
        *,
        is_stream: bool = False,
        sends_max: int = STUN_ATTEMPTS_MAX,
    ) -> None:
        self.transaction_id = transaction_id
        self.datagram = datagram
        self.due_at_us = now_us
        """When to send it (again), or to give it up."""
        self._sends = 0
        self._sends_max = 1 if is_stream else sends_max
        self._is_stream = is_stream

    def is_spent(self, now_us: int) -> bool:
        """Whether it was sent as often as it may be and waited for its last answer."""
        return self._sends >= self._sends_max and now_us >= self.due_at_us

    def take(self, now_us: int) -> bytes | None:
        """The request, if it is to be sent now."""
        if now_us < self.due_at_us or self._sends >= self._sends_max:
            return None
        wait_us = STUN_STREAM_ANSWER_US if self._is_stream else min(STUN_RTO_US << self._sends, STUN_RTO_MAX_US)
        self._sends += 1
        self.due_at_us = now_us + wait_us
        return self.datagram
