"""What operators do to a server that runs: read its files again, and let it end gently.

Both are hooks: whoever has a file registers a `Reloader`, whoever is in use by others is a `Drainable`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Protocol

from peergram import config as limits
from peergram.drivers.system import monotonic_us

Apply = Callable[[], None]
Reloader = Callable[[], Apply]
"""Reads and checks everything, raising UsageError that names the field, and returns what puts it in place, which cannot fail."""

_LOOK_S = 0.05


class Drainable(Protocol):
    """Others use it, and need time to move."""

    def drain(self) -> None:
        """Take on nobody new."""

    @property
    def is_idle(self) -> bool:
        """Whether nobody uses it any more."""


class Relay(Protocol):
    """What is needed of a relay to let it end gently."""

    def drain(self, seconds: float) -> None:
        """Take on nobody new, and end those who are left after so long."""

    @property
    def allocations(self) -> int:
        """How many use it."""


class RelayInUse:
    """A relay as a `Drainable`."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    def drain(self) -> None:
        self._relay.drain(limits.SERVER_DRAIN_US / 1e6)

    @property
    def is_idle(self) -> bool:
        return self._relay.allocations == 0


class Reloaders:
    """All or nothing: what is bad in one place keeps the old state everywhere."""

    def __init__(self) -> None:
        self._by_name: dict[str, Reloader] = {}

    def add(self, name: str, reloader: Reloader) -> None:
        """`name` is what people call it; an earlier one of the name is replaced."""
        self._by_name[name] = reloader

    def reload(self) -> list[str]:
        """The names of what was read. Raises UsageError, and then nothing has changed."""
        applies = [reloader() for reloader in self._by_name.values()]
        for apply in applies:
            apply()
        return list(self._by_name)


async def retire(drainables: Iterable[Drainable], are_clients_gone: Callable[[], bool]) -> None:
    """Until nobody is left, or the time for that is over."""
    waiting = list(drainables)
    for each in waiting:
        each.drain()
    until_us = monotonic_us() + limits.SERVER_DRAIN_US
    while not (are_clients_gone() and all(each.is_idle for each in waiting)) and monotonic_us() < until_us:
        await asyncio.sleep(_LOOK_S)
