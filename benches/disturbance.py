"""How much of the machine other programs took during a run, so that a disturbed run is known as one.

From `/proc/stat` and our own children's CPU time; where there is no `/proc/stat` the answer is always 0.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

_STAT = Path("/proc/stat")
_IDLE_COLUMNS = (3, 4)
_GUEST_COLUMN = 8


def _busy_s() -> float:
    """CPU seconds that anybody has used since the machine started, over all cores; guests are part of user time already."""
    if not _STAT.exists():
        return 0.0
    ticks = [int(text) for text in _STAT.read_text(encoding="ascii").split("\n", 1)[0].split()[1:]][:_GUEST_COLUMN]
    return (sum(ticks) - sum(ticks[column] for column in _IDLE_COLUMNS)) / os.sysconf("SC_CLK_TCK")


def _own_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@dataclass(slots=True)
class Disturbance:
    """Starts to watch when it is made; ask for the share when all children of the run have been waited for."""

    _start_s: float = field(default_factory=time.perf_counter)
    _busy_at_start_s: float = field(default_factory=_busy_s)
    _own_at_start_s: float = field(default_factory=_own_s)

    def share(self) -> float:
        """What others took of all cores, 0 to 1."""
        others_s = _busy_s() - self._busy_at_start_s - (_own_s() - self._own_at_start_s)
        return max(0.0, others_s) / ((time.perf_counter() - self._start_s) * (os.cpu_count() or 1))
