"""A host's own clock: it starts anywhere, drifts and jumps, but never goes back."""

from __future__ import annotations

_MILLION = 1_000_000


class HostClock:
    """Turns world time into what this host reads and back; all microseconds. `ppm` is how much too fast it runs."""

    __slots__ = ("_local_us", "_ppm", "_world_us")

    def __init__(self, start_us: int, ppm: int = 0) -> None:
        self._world_us = 0
        self._local_us = start_us
        self._ppm = ppm

    def local_us(self, world_us: int) -> int:
        """What the clock shows at that world time."""
        return self._local_us + (world_us - self._world_us) * (_MILLION + self._ppm) // _MILLION

    def world_us(self, local_us: int) -> int:
        """The first world time at which the clock shows `local_us` or more."""
        return self._world_us - (self._local_us - local_us) * _MILLION // (_MILLION + self._ppm)

    def jump(self, world_us: int, by_us: int) -> None:
        """At `world_us`, be `by_us` further on at once, as after a suspend."""
        self._local_us = self.local_us(world_us) + by_us
        self._world_us = world_us

    def set_drift(self, world_us: int, ppm: int) -> None:
        """From `world_us` on, run that much too fast."""
        self.jump(world_us, 0)
        self._ppm = ppm
