"""Answers STUN binding requests: the address that somebody's datagrams come from, so that peers behind NATs learn theirs.

One datagram in, at most one out, and nothing kept but a count per address. The answer is built from known fields only (R8),
holds no software name, and is at most 24 bytes larger than the shortest request; the limits of its rate bound what a forged
source costs.
"""

from __future__ import annotations

from collections import Counter

from peergram import config as limits
from peergram.address import Address
from peergram.errors import WireError
from peergram.signaling.rates import TokenBuckets
from peergram.wire.stun import Class, Method, StunMessage, decode_stun, encode_stun

_REQUEST_BYTES_MAX = 548


class StunResponder:
    """`counters` says what came."""

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        self._of_host = TokenBuckets(
            limits.STUN_ANSWERS_PER_HOST_PER_S, limits.STUN_ANSWERS_PER_HOST_BURST, limits.SERVER_HOSTS_WATCHED_MAX
        )
        self._of_all = TokenBuckets(limits.STUN_ANSWERS_PER_S, limits.STUN_ANSWERS_BURST, 1)

    def handle_datagram(self, source: Address, datagram: bytes, now_us: int) -> bytes | None:
        """The answer to `source`, if there is one; never raises, whatever the bytes are."""
        try:
            if len(datagram) > _REQUEST_BYTES_MAX:
                raise WireError("longer than any request")
            request = decode_stun(datagram)
        except WireError:
            self.counters["malformed"] += 1
            return None
        if request.method != Method.BINDING or request.message_class != Class.REQUEST:
            self.counters["other"] += 1
            return None
        if not (self._of_host.take(source[0], now_us) and self._of_all.take(None, now_us)):
            self.counters["too_many"] += 1
            return None
        answer = StunMessage(Method.BINDING, Class.SUCCESS, request.transaction_id, xor_mapped_address=source)
        if request.unknown_required:
            answer = StunMessage(
                Method.BINDING,
                Class.ERROR,
                request.transaction_id,
                error_code=420,
                unknown_attributes=request.unknown_required[:2],
            )
        self.counters["answered"] += 1
        return encode_stun(answer, fingerprint=request.has_fingerprint)
