"""How large a datagram may be on the path: the search of RFC 8899 (DPLPMTUD), up a ladder of likely sizes.

Only between own peers that both said they take part: a reference peer never gets more than the protocol's size, nor a probe,
for which it would end the connection. A probe is a data packet that carries nothing but padding and a question, so its loss
costs nothing; it counts as too large when three of its kind were lost. Probes go out only while much is sent, so an idle or
slow connection costs nothing. When packets larger than the smallest size vanish while nothing of that size arrives any more,
the path is taken to have become narrower (a black hole) and the search begins again from below.
"""

from __future__ import annotations

from typing import Final

from peergram.config import (
    DATAGRAM_BYTES_FLOOR,
    DATAGRAM_BYTES_MAX,
    PATH_MTU_BLACK_HOLE_LOSSES,
    PATH_MTU_BLACK_HOLE_US,
    PATH_MTU_PROBES_MAX,
    PATH_MTU_RAISE_US,
    PATH_MTU_RETRY_US,
)
from peergram.timing import NEVER

LADDER: Final = (DATAGRAM_BYTES_FLOOR, DATAGRAM_BYTES_MAX, 1_452, 2_048, 4_096, 8_952, 16_384, 32_768, 65_000)
"""UDP payloads to try: what a tunnel leaves of an Ethernet frame, the protocol's size, a whole frame under IPv6, a jumbo frame,
and what a loopback interface carries."""
_BASE: Final = LADDER.index(DATAGRAM_BYTES_MAX)


class PathMtu:
    """The size in use, and the search for a larger one."""

    __slots__ = (
        "_arrived_at_us",
        "_at",
        "_lost_in_a_row",
        "_may_probe_at_us",
        "_probing",
        "_takes_probes",
        "_top",
        "_tries",
        "size_bytes",
        "smaller_bytes",
    )

    def __init__(self, configured_bytes: int, ceiling_bytes: int, *, takes_probes: bool = True) -> None:
        """`configured_bytes` is what packets begin with; below the protocol's size it stays. `ceiling_bytes` ends the search.
        `takes_probes`: whether the peer understands them."""
        self._takes_probes = takes_probes
        self.size_bytes = configured_bytes
        """Largest datagram that is known, or trusted at first, to pass."""
        is_searched = configured_bytes == DATAGRAM_BYTES_MAX
        self._at = _BASE
        self.smaller_bytes = LADDER[_BASE - 1]
        """Only what is larger says something about the present size."""
        self._top = _BASE
        if is_searched:
            while self._top + 1 < len(LADDER) and LADDER[self._top + 1] <= ceiling_bytes:
                self._top += 1
        self._probing = False
        self._tries = 0
        self._may_probe_at_us = 0 if is_searched else NEVER
        self._lost_in_a_row = 0
        self._arrived_at_us = 0
        """When a packet of the present size last arrived."""

    def wants_probe(self, now_us: int) -> bool:
        """Whether a probe should go if much is being sent."""
        return self._takes_probes and self._at < self._top and not self._probing and now_us >= self._may_probe_at_us

    def is_worth_a_try(self, now_us: int) -> bool:
        """Whether data itself should find out if the protocol's size passes again, since nothing else can."""
        return not self._takes_probes and self._at < _BASE and now_us >= self._may_probe_at_us

    @property
    def probe_bytes(self) -> int:
        """How large the probe is."""
        return LADDER[self._at + 1]

    def handle_probe_sent(self) -> None:
        """Its fate is open now."""
        self._probing = True

    def handle_probe_settled(self, *, arrived: bool, now_us: int) -> None:
        """The probe arrived, or did not."""
        self._probing = False
        if arrived:
            self._move(self._at + 1)
            self._tries = 0
            return
        self._tries += 1
        if self._tries >= PATH_MTU_PROBES_MAX:
            self._tries = 0
            self._may_probe_at_us = now_us + PATH_MTU_RAISE_US

    def handle_report(self, arrived_bytes: int, lost_bytes: int, lost_packets: int, now_us: int) -> bool:
        """A report settled packets: the largest that arrived, the largest that did not, and how many did not (probes aside).

        True if packets of the present size have vanished for so long that the size in use shrank.
        """
        smaller_bytes = self.smaller_bytes
        if arrived_bytes > smaller_bytes:
            self._lost_in_a_row = 0
            self._arrived_at_us = now_us
        elif lost_bytes > smaller_bytes:
            self._lost_in_a_row += lost_packets
            if self._lost_in_a_row >= PATH_MTU_BLACK_HOLE_LOSSES and now_us - self._arrived_at_us >= PATH_MTU_BLACK_HOLE_US:
                return self.shrink(now_us)
        return False

    def shrink(self, now_us: int) -> bool:
        """Nothing gets through any more: fall back to the protocol's size, and from that to the floor; whether that was
        possible."""
        if self._may_probe_at_us == NEVER or not self._at:
            return False
        self._lost_in_a_row = 0
        self._tries = 0
        self._may_probe_at_us = now_us + (PATH_MTU_RETRY_US if self._takes_probes else PATH_MTU_RAISE_US)
        self._move(_BASE if self._at > _BASE else 0)
        return True

    def absolve(self) -> bool:
        """It is not the size (smaller packets fare no better), or no longer: back to the protocol's; whether that is a change."""
        if self._at or self._may_probe_at_us == NEVER:
            return False
        self._move(_BASE)
        return True

    def _move(self, at: int) -> None:
        self._at = at
        self.smaller_bytes = LADDER[at - 1] if at else DATAGRAM_BYTES_MAX
        self.size_bytes = LADDER[at]
