"""Addresses of the servers we use, looked up by name when they have one.

Lookups are the driver's; here is when to ask, and how long to wait (I9): a name that takes longer than three seconds counts as
unknown for now, one that could not be resolved, or whose server failed, is asked for again after a while.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

from peergram.address import Address, canonical_address
from peergram.config import ICE_SERVER_ADDRESSES_MAX, NAME_RESOLUTION_US, SERVER_RETRY_MAX_US, SERVER_RETRY_US
from peergram.errors import UsageError
from peergram.io_requests import ResolveName
from peergram.routes.candidates import is_usable
from peergram.timing import Deadline, TimerTable


class _Name:
    __slots__ = ("hosts", "is_asked", "is_late", "retry_us")

    def __init__(self) -> None:
        self.hosts: list[str] = []
        self.is_asked = False
        self.is_late = False
        self.retry_us = SERVER_RETRY_US


class ServerNames:
    """Resolves names and keeps the results; a numeric host is its own result."""

    def __init__(self) -> None:
        self._names: dict[str, _Name] = {}
        self._timers = TimerTable()
        self._requests: deque[ResolveName] = deque()

    @property
    def is_waiting(self) -> bool:
        """Whether a name may still be resolved within its time."""
        return any(name.is_asked and not name.is_late for name in self._names.values())

    def addresses(self, host: str, port: int, now_us: int) -> list[Address]:
        """What is known of this server now; asks for it if nobody did."""
        if _is_numeric(host):
            return [(host, port)]
        name = self._names.get(host)
        if name is None:
            name = self._names[host] = _Name()
            self._ask(host, name, now_us)
        return [(numeric, port) for numeric in name.hosts]

    def known(self, host: str, port: int) -> list[Address]:
        """The same, without asking."""
        if _is_numeric(host):
            return [(host, port)]
        name = self._names.get(host)
        return [] if name is None else [(numeric, port) for numeric in name.hosts]

    def handle_name_resolved(self, host: str, hosts: list[str], now_us: int) -> None:
        """The driver's answer; none: it could not be resolved."""
        name = self._names.get(host)
        if name is None:
            return
        name.is_asked = name.is_late = False
        self._timers.stop(host)
        found = [numeric for text in hosts if (numeric := _usable_host(text)) is not None]
        if found:
            name.hosts = list(dict.fromkeys(found))[:ICE_SERVER_ADDRESSES_MAX]
            name.retry_us = SERVER_RETRY_US
        elif not name.hosts:
            self._ask_later(host, name, now_us)

    def handle_server_failed(self, host: str, now_us: int) -> None:
        """A server of this name does not work: it may have moved."""
        name = self._names.get(host)
        if name is not None and not name.is_asked:
            self._ask_later(host, name, now_us)

    def handle_network_changed(self, now_us: int) -> None:
        """What could not be resolved before may be now."""
        for host, name in self._names.items():
            name.retry_us = SERVER_RETRY_US
            if not name.hosts and not name.is_asked:
                self._ask(host, name, now_us)

    def handle_timeout(self, now_us: int) -> None:
        """Stop waiting for what takes too long; ask again for what is due."""
        for host in self._timers.pop_due(now_us):
            name = self._names[host]
            if name.is_asked and not name.is_late:
                name.is_late = True
                self._timers.set(host, now_us + name.retry_us)
            else:
                self._ask(host, name, now_us)

    def poll_request(self) -> ResolveName | None:
        """The next name to look up."""
        return self._requests.popleft() if self._requests else None

    def poll_timeout(self) -> Deadline | None:
        """When to call `handle_timeout` next."""
        deadline = self._timers.next()
        return None if deadline is None else Deadline(deadline.at_us, f"name {deadline.reason}")

    def keep(self, hosts: Collection[str]) -> None:
        """Nobody needs others than these."""
        for host in [host for host in self._names if host not in hosts]:
            del self._names[host]
            self._timers.stop(host)
        self._requests = deque(request for request in self._requests if request.name in self._names)

    def forget(self) -> None:
        """Nobody needs servers now."""
        self._names.clear()
        self._requests.clear()
        self._timers = TimerTable()

    def _ask(self, host: str, name: _Name, now_us: int) -> None:
        name.is_asked, name.is_late = True, False
        self._requests.append(ResolveName(host))
        self._timers.set(host, now_us + NAME_RESOLUTION_US)

    def _ask_later(self, host: str, name: _Name, now_us: int) -> None:
        if not name.is_asked and self._timers.at_us(host) > now_us + name.retry_us:
            self._timers.set(host, now_us + name.retry_us)
            name.retry_us = min(2 * name.retry_us, SERVER_RETRY_MAX_US)


def _is_numeric(host: str) -> bool:
    return ":" in host or host.replace(".", "").isdigit()


def _usable_host(text: str) -> str | None:
    """A server may live on this machine or next door; nobody sends to many, or to nobody, because a name says so."""
    try:
        host, _ = canonical_address(text, 1)
    except UsageError:
        return None
    return host if is_usable((host, 1), allow_loopback=True) else None
