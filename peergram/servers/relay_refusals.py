"""What a relay answers to strangers, so that nobody can make it send others more than he sent it (R5).

The first refusal names realm and nonce, and is therefore larger than the shortest request that draws it; the source of that
request may be forged. So an answer that is no larger than its question is given to anybody, ten a second to each host; a larger
one is paid for by what strangers' questions have brought, of which a tenth is kept, and by a small allowance. A client of a quiet
relay always has its answer; in a flood about every second one has, and repeats its question, as it would after a loss.

Who speaks TCP has shown where he is, and has every answer: what others send in his name, or in that of all, takes him none.
"""

from __future__ import annotations

from typing import Final

from peergram import config as limits
from peergram.signaling.rates import TokenBuckets

_SECOND_US: Final = 1_000_000


class Refusals:
    """Whether an error may be said."""

    def __init__(self) -> None:
        self._of_host = TokenBuckets(
            limits.TURN_ERRORS_PER_HOST_PER_S, limits.TURN_ERRORS_PER_HOST_PER_S, limits.SERVER_HOSTS_WATCHED_MAX
        )
        self._of_identity = TokenBuckets(
            limits.TURN_ERRORS_PER_IDENTITY_PER_S, limits.TURN_ERRORS_PER_IDENTITY_PER_S, limits.SERVER_HOSTS_WATCHED_MAX
        )
        self._of_all = TokenBuckets(limits.TURN_ERRORS_PER_S, limits.TURN_ERRORS_PER_S, 1)
        self._brought_bytes = 0
        self._allowance_bytes = limits.TURN_ERRORS_ALLOWANCE_BYTES
        self._allowance_at_us = 0

    def may_tell_client(self, identity: bytes, now_us: int) -> bool:
        """To somebody who has proved who he is."""
        return self._of_identity.take(identity, now_us)

    def may_tell_stranger(self, host: str, question_bytes: int, answer_bytes: int, now_us: int) -> bool:
        """To anybody else by UDP, whose source may be forged."""
        may = self._of_host.take(host, now_us) and self._of_all.take(None, now_us)
        is_covered = may and answer_bytes <= question_bytes
        brought = question_bytes - (answer_bytes if is_covered else 0)
        self._brought_bytes = min(limits.TURN_ERRORS_BROUGHT_BYTES_MAX, self._brought_bytes + brought * 9 // 10)
        return is_covered or (may and self._pay(answer_bytes, now_us))

    def _pay(self, count: int, now_us: int) -> bool:
        room = limits.TURN_ERRORS_ALLOWANCE_BYTES
        refill = (now_us - self._allowance_at_us) * limits.TURN_ERRORS_ALLOWANCE_BYTES_PER_S // _SECOND_US
        if refill > 0:
            self._allowance_bytes = min(room, self._allowance_bytes + refill)
            self._allowance_at_us = now_us
        owed = max(0, count - self._brought_bytes)
        if owed > self._allowance_bytes:
            return False
        self._brought_bytes -= count - owed
        self._allowance_bytes -= owed
        return True
