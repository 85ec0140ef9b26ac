"""Host names to addresses, by the system's resolver, in threads of their own: `getaddrinfo` blocks and cannot be stopped."""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial

from peergram.address import canonical_address
from peergram.config import NAME_LOOKUP_US, NAME_THREADS_MAX, NAMES_WAITING_MAX
from peergram.drivers.ipv6 import address_from_ipv6
from peergram.drivers.mailbox import Mailbox
from peergram.drivers.workers import Workers
from peergram.timing import NEVER

Answer = Callable[[str, list[str], int], None]
"""Takes (name, numeric hosts, now_us)."""


def look_up(name: str) -> list[str]:
    """Numeric hosts of both families, in the system's order; none if the name has none, or is no name. Blocks."""
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_DGRAM)
    except (OSError, ValueError):
        return []
    hosts: dict[str, None] = {}
    for family, _, _, _, place in found:
        if family == socket.AF_INET:
            hosts[canonical_address(str(place[0]), 0)[0]] = None
        elif family == socket.AF_INET6 and len(place) == 4:
            hosts[address_from_ipv6((str(place[0]), int(place[1]), int(place[2]), int(place[3])))[0]] = None
    return list(hosts)


class NameResolver:
    """Looks up names and gives one answer for each, in time: what comes later than `NAME_LOOKUP_US` is dropped.

    A name asked for again while it is being looked up gets one answer for both. `answer` is called by the driver's turns, or from
    inside `resolve` if too many wait already.
    """

    def __init__(self, answer: Answer, mailbox: Mailbox, look_up: Callable[[str], list[str]] = look_up) -> None:
        self._answer = answer
        self._mailbox = mailbox
        self._look_up = look_up
        self._give_up_at_us: dict[str, int] = {}
        self._workers = Workers("peergram names", threads_max=NAME_THREADS_MAX, jobs_max=NAMES_WAITING_MAX)

    @property
    def wake_at_us(self) -> int:
        """When to call `handle_due` next, or NEVER."""
        return min(self._give_up_at_us.values(), default=NEVER)

    def resolve(self, name: str, now_us: int) -> None:
        """Look up `name`."""
        if name in self._give_up_at_us:
            return
        if len(self._give_up_at_us) < NAMES_WAITING_MAX:
            give_up_at_us = self._give_up_at_us[name] = now_us + NAME_LOOKUP_US
            if self._workers.submit(partial(self._work, name, give_up_at_us)):
                return
            del self._give_up_at_us[name]
        self._answer(name, [], now_us)

    def handle_due(self, now_us: int) -> None:
        """Answer for what has taken too long."""
        for name in [name for name, at_us in self._give_up_at_us.items() if at_us <= now_us]:
            del self._give_up_at_us[name]
            self._answer(name, [], now_us)

    def close(self) -> None:
        """Answer nothing more."""
        self._give_up_at_us.clear()
        self._workers.close()

    def _work(self, name: str, give_up_at_us: int) -> None:
        """In a worker's thread."""
        if self._give_up_at_us.get(name) == give_up_at_us:
            self._mailbox.put(partial(self._handle_found, name, give_up_at_us, self._look_up(name)))

    def _handle_found(self, name: str, give_up_at_us: int, hosts: list[str], now_us: int) -> None:
        # The time tells this look-up from a later one of the same name.
        if self._give_up_at_us.get(name) == give_up_at_us:
            del self._give_up_at_us[name]
            self._answer(name, hosts, now_us)
