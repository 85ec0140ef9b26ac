"""Deadlines that say why they exist.

All times are integer microseconds of a monotonic clock that the driver reads; the core never asks for the time. `NEVER` stands
for "no deadline", so that the earliest of several is a plain `min`.
"""

from __future__ import annotations

from typing import Final, NamedTuple

NEVER: Final = 1 << 62
"""Later than any real time; compare with it instead of testing for `None`."""


class Deadline(NamedTuple):
    """When to call `handle_timeout` next, and why (the reason reaches logs and the simulator's trace)."""

    at_us: int
    reason: str


class TimerTable:
    """Named deadlines of one part: set, stop, the next one, those that are due."""

    __slots__ = ("_at_us",)

    def __init__(self) -> None:
        self._at_us: dict[str, int] = {}

    def set(self, name: str, at_us: int) -> None:
        """Arm `name`, replacing what it was set to."""
        self._at_us[name] = at_us

    def set_earlier(self, name: str, at_us: int) -> None:
        """Arm `name` unless it is armed for an earlier time already."""
        if at_us < self._at_us.get(name, NEVER):
            self._at_us[name] = at_us

    def stop(self, name: str) -> None:
        """Disarm `name`; harmless when it is not armed."""
        self._at_us.pop(name, None)

    def at_us(self, name: str) -> int:
        """The time `name` is armed for, or `NEVER`."""
        return self._at_us.get(name, NEVER)

    def next(self) -> Deadline | None:
        """The earliest deadline, or None when nothing is armed."""
        if not self._at_us:
            return None
        name = min(self._at_us, key=self._at_us.__getitem__)
        return Deadline(self._at_us[name], name)

    def pop_due(self, now_us: int) -> list[str]:
        """Disarm and return every name whose time has come, earliest first."""
        due = sorted((at_us, name) for name, at_us in self._at_us.items() if at_us <= now_us)
        for _, name in due:
            del self._at_us[name]
        return [name for _, name in due]
