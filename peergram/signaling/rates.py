"""Many token buckets of one size, a key each: who has asked too often is refused, and nobody costs more than one number.

A bucket is kept as the time at which it will be full again (the generic cell rate algorithm); one that is full equals one that
nobody ever used, and is forgotten.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

_SWEPT_PER_TAKE = 2
"""More than one, so that a table shrinks faster than it grows."""


class TokenBuckets:
    """`rate_per_s` on average and `burst` at once, for each key; of more than `keys_max` the one unused longest goes."""

    __slots__ = ("_full_at_us", "_interval_us", "_keys_max", "_slack_us")

    def __init__(self, rate_per_s: int, burst: int, keys_max: int) -> None:
        self._interval_us = 1_000_000 // rate_per_s
        self._slack_us = (burst - 1) * self._interval_us
        self._keys_max = keys_max
        self._full_at_us: OrderedDict[Hashable, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._full_at_us)

    def has(self, key: Hashable, now_us: int) -> bool:
        """Whether `take` would succeed now."""
        return self._full_at_us.get(key, 0) - now_us <= self._slack_us

    def take(self, key: Hashable, now_us: int) -> bool:
        """Take one token of this key; False if there is none."""
        self._forget_full(now_us, _SWEPT_PER_TAKE)
        full_at_us = self._full_at_us.get(key, 0)
        if full_at_us - now_us > self._slack_us:
            return False
        self._full_at_us[key] = max(full_at_us, now_us) + self._interval_us
        self._full_at_us.move_to_end(key)
        if len(self._full_at_us) > self._keys_max:
            self._full_at_us.popitem(last=False)
        return True

    def give_back(self, key: Hashable) -> None:
        """A token that was taken and not needed."""
        if key in self._full_at_us:
            self._full_at_us[key] -= self._interval_us

    def sweep(self, now_us: int) -> None:
        """Forget every bucket that is full and unused for longer than those that are not."""
        self._forget_full(now_us, len(self._full_at_us))

    def _forget_full(self, now_us: int, most: int) -> None:
        while most and self._full_at_us and self._full_at_us[next(iter(self._full_at_us))] <= now_us:
            self._full_at_us.popitem(last=False)
            most -= 1
