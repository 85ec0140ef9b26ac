"""Ways side by side: the pair in use and a few others are asked equally often for two seconds, and each gets its cost.

The cost of a way is its median round trip, and more if answers were missing: what is lost has to be sent again. Which way may
carry data afterwards, `choose.py` decides. A contest is held soon after the first way is found, again while relays may still
come up, and then rarely; only where a relay could win, and only by the side that chooses.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable

from peergram.config import (
    ICE_CONTEST_AGAIN_US,
    ICE_CONTEST_DIRECT_MAX,
    ICE_CONTEST_EARLY_US,
    ICE_CONTEST_FIRST_US,
    ICE_CONTEST_INTERVAL_US,
    ICE_CONTEST_LOSS_US,
    ICE_CONTEST_PROBE_US,
    ICE_CONTEST_PROBES,
    ICE_CONTEST_RELAYED_MAX,
    ICE_CONTEST_WAIT_US,
    ICE_RTT_GAIN_US,
)
from peergram.routes.pairs import CandidatePair
from peergram.timing import NEVER


class _Row:
    __slots__ = ("next_at_us", "samples_us", "sent")

    def __init__(self, first_at_us: int) -> None:
        self.next_at_us = first_at_us
        self.sent = 0
        self.samples_us: list[int] = []


class Contest:
    """At most one at a time; the owner sends a probe of `next_pair` when it is due."""

    __slots__ = ("_began_at_us", "_first_way_at_us", "_probes", "_rows", "next_at_us")

    def __init__(self) -> None:
        self._rows: dict[CandidatePair, _Row] = {}
        self._probes: dict[bytes, CandidatePair] = {}
        self._began_at_us = 0
        self._first_way_at_us = NEVER
        self.next_at_us = NEVER
        """When the next one begins."""

    @property
    def is_on(self) -> bool:
        """Whether one is under way."""
        return bool(self._rows)

    def is_early(self, now_us: int) -> bool:
        """Whether the first way was found not long ago, so that the best one may still be about to be found."""
        return now_us < self._first_way_at_us + ICE_CONTEST_EARLY_US

    def handle_way(self, now_us: int) -> None:
        """There is a way; from the first one on, contests are held."""
        if self._first_way_at_us == NEVER:
            self._first_way_at_us = now_us
            self.next_at_us = now_us + ICE_CONTEST_FIRST_US

    def hurry(self, now_us: int) -> None:
        """There is something new to compare."""
        if not self.is_on:
            self.next_at_us = min(self.next_at_us, max(now_us, self._began_at_us + ICE_CONTEST_AGAIN_US))

    def begin(self, selected: CandidatePair, pairs: Iterable[CandidatePair], now_us: int) -> None:
        """Start one if there is something to compare."""
        self._began_at_us = now_us
        self.next_at_us = now_us + (ICE_CONTEST_AGAIN_US if self.is_early(now_us) else ICE_CONTEST_INTERVAL_US)
        usable = [pair for pair in pairs if pair is not selected and pair.is_usable(now_us)]
        relayed = sorted((pair for pair in usable if pair.is_relayed), key=_hope)[:ICE_CONTEST_RELAYED_MAX]
        direct = sorted((pair for pair in usable if not pair.is_relayed), key=_hope)[:ICE_CONTEST_DIRECT_MAX]
        if not relayed and not (selected.is_relayed and direct):
            return
        if not selected.is_relayed and selected.rtt_samples and selected.rtt_us < ICE_RTT_GAIN_US:
            # Nothing could be faster by enough.
            return
        for index, pair in enumerate([selected, *direct, *relayed]):
            self._rows[pair] = _Row(now_us + index * ICE_CONTEST_PROBE_US // 8)

    def abandon(self, now_us: int) -> None:
        """What is measured now tells nothing: the way in use is in trouble, or gone."""
        self._rows.clear()
        self._probes.clear()
        self.next_at_us = min(self.next_at_us, now_us + ICE_CONTEST_AGAIN_US)

    def next_pair(self) -> tuple[int, CandidatePair] | None:
        """Which pair to ask next, and when."""
        due = [(row.next_at_us, index, pair) for index, (pair, row) in enumerate(self._rows.items()) if row.next_at_us < NEVER]
        if not due:
            return None
        at_us, _, pair = min(due, key=lambda item: item[:2])
        return at_us, pair

    def note_sent(self, pair: CandidatePair, transaction_id: bytes, now_us: int) -> None:
        """It was asked."""
        row = self._rows[pair]
        row.sent += 1
        row.next_at_us = NEVER if row.sent >= ICE_CONTEST_PROBES else now_us + ICE_CONTEST_PROBE_US
        self._probes[transaction_id] = pair

    def note_answer(self, transaction_id: bytes, round_trip_us: int) -> None:
        """It answered."""
        pair = self._probes.pop(transaction_id, None)
        if pair is not None and pair in self._rows:
            self._rows[pair].samples_us.append(round_trip_us)

    def forget(self, pair: CandidatePair) -> None:
        """Its base is gone."""
        self._rows.pop(pair, None)

    @property
    def ends_at_us(self) -> int:
        """When this one is over; later than any probe is due."""
        if not self._rows or any(row.next_at_us < NEVER for row in self._rows.values()):
            return NEVER
        return self._last_at_us() + ICE_CONTEST_WAIT_US

    def _last_at_us(self) -> int:
        return self._began_at_us + ICE_CONTEST_PROBES * ICE_CONTEST_PROBE_US

    def is_over(self, now_us: int) -> bool:
        """Whether everything was asked and has been answered, or has had the time to."""
        if self.ends_at_us == NEVER:
            return False
        return now_us >= self.ends_at_us or all(len(row.samples_us) >= row.sent for row in self._rows.values())

    def finish(self) -> None:
        """Give each pair its cost."""
        for pair, row in self._rows.items():
            pair.probes_sent = pair.probes_sent // 2 + row.sent
            pair.probes_lost = pair.probes_lost / 2 + row.sent - len(row.samples_us)
            if row.samples_us:
                pair.cost_us = cost_us(round(statistics.median(row.samples_us)), pair.probes_lost, pair.probes_sent)
            else:
                pair.cost_us = 0
        self._rows.clear()
        self._probes.clear()


def cost_us(round_trip_us: int, lost: float, sent: int) -> int:
    """What a message takes there on average, and its answer back. One lost packet may be chance, and counts for nothing."""
    share = min(max(lost - 1, 0) / max(sent, 1), 0.9)
    return round(round_trip_us * (1 + share) / (1 - share) + share * ICE_CONTEST_LOSS_US)


def _hope(pair: CandidatePair) -> tuple[int, tuple[bool, int]]:
    """By what is known of it, the best first."""
    is_local, priority = pair.preference
    return pair.cost_us or pair.rtt_us, (not is_local, -priority)
