"""One log line per kind and second, whatever the network or the application does: a log must not become a weapon (E15)."""

from __future__ import annotations

from peergram.config import LOG_INTERVAL_US


class LogLimit:
    """Says whether a line may be written; kinds are few and named by us, never by a peer."""

    __slots__ = ("_from_us", "_left_out")

    def __init__(self) -> None:
        self._from_us: dict[object, int] = {}
        self._left_out: dict[object, int] = {}

    def note(self, kind: object, now_us: int) -> str | None:
        """None: write nothing. Otherwise write the line and this behind it: how many of its kind were left out before."""
        if now_us < self._from_us.get(kind, 0):
            self._left_out[kind] = self._left_out.get(kind, 0) + 1
            return None
        self._from_us[kind] = now_us + LOG_INTERVAL_US
        left_out = self._left_out.pop(kind, 0)
        return f" ({left_out} more like this were not logged)" if left_out else ""
