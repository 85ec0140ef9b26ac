"""Signaling between endpoints of one process, for tests, demonstrations and programs that are their own peers.

One thread delivers for all, so that no sender runs a receiver's code and no two endpoints wait for each other's locks. What
happens to a signal on its way is decided by a callable: nothing, unless one is given.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import random
import threading
from collections.abc import Callable

from peergram.config import IN_PROCESS_SIGNALS_MAX
from peergram.drivers.log_limit import LogLimit
from peergram.drivers.system import monotonic_us
from peergram.errors import ClosedError, UsageError
from peergram.identity import Identity
from peergram.signaling.service import Deliver, LocalParty

Fate = Callable[[Identity, Identity, bytes], list[int]]
"""Takes (sender, receiver, signal); returns the delay in microseconds of each copy that arrives: [] if it is lost."""

_CLOSE_TIMEOUT_S = 1.0
_log = logging.getLogger(__name__)


def bad_weather(seed: int, *, loss: float = 0.0, duplication: float = 0.0, delay_us_max: int = 0) -> Fate:
    """Loses and doubles signals with these probabilities and delays each copy evenly up to `delay_us_max`, out of order."""
    rng = random.Random(seed)

    def fate(_sender: Identity, _receiver: Identity, _signal: bytes) -> list[int]:
        copies = 0 if rng.random() < loss else 2 if rng.random() < duplication else 1
        return [rng.randint(0, delay_us_max) for _ in range(copies)]

    return fate


def fair_weather(_sender: Identity, _receiver: Identity, _signal: bytes) -> list[int]:
    """Every signal arrives once, at once, in order."""
    return [0]


class InProcessHub:
    """Joins the services it makes. It knows who sends, so that senders it names are true."""

    def __init__(self, fate: Fate = fair_weather) -> None:
        self._fate = fate
        self._changed = threading.Condition()
        self._members: dict[Identity, tuple[InProcessSignaling, Deliver]] = {}
        # A heap of (when, order of sending, (sender, receiver, signal)).
        self._under_way: list[tuple[int, int, tuple[Identity, Identity, bytes]]] = []
        self._order = itertools.count()
        self._thread: threading.Thread | None = None
        # To whom the thread is delivering right now.
        self._served: InProcessSignaling | None = None
        self._log_limit = LogLimit()

    def service(self) -> InProcessSignaling:
        """A new service, for one endpoint."""
        return InProcessSignaling(self)

    @property
    def under_way(self) -> int:
        """How many signals are on their way."""
        return len(self._under_way)

    # For the services

    def join(self, service: InProcessSignaling, identity: Identity, deliver: Deliver) -> None:
        """`service` gets what is sent to `identity`, until it leaves or another one joins under that name."""
        with self._changed:
            self._members[identity] = (service, deliver)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="peergram-hub", daemon=True)
                self._thread.start()

    def leave(self, service: InProcessSignaling, identity: Identity) -> None:
        """Nothing more is delivered to `service` once this has returned, unless the delivery itself calls it."""
        with self._changed:
            if self._members.get(identity, (None,))[0] is service:
                del self._members[identity]
            self._changed.notify_all()
            if self._thread is not threading.current_thread():
                self._changed.wait_for(lambda: self._served is not service, _CLOSE_TIMEOUT_S)

    def carry(self, sender: Identity, receiver: Identity, signal: bytes) -> None:
        """Send a signal on its way."""
        with self._changed:
            now_us = monotonic_us()
            for delay_us in self._fate(sender, receiver, signal):
                if len(self._under_way) < IN_PROCESS_SIGNALS_MAX:
                    heapq.heappush(self._under_way, (now_us + delay_us, next(self._order), (sender, receiver, signal)))
            self._changed.notify_all()

    # The thread

    def _run(self) -> None:
        while (due := self._next_due()) is not None:
            sender, receiver, signal = due
            with self._changed:
                member = self._members.get(receiver)
                self._served = member[0] if member is not None else None
            if member is not None:
                try:
                    member[1](sender, signal)
                except Exception:  # noqa: BLE001 - whoever takes signals must not end the service
                    note = self._log_limit.note("deliver", monotonic_us())
                    if note is not None:
                        _log.exception("defect: taking a signal failed%s", note)
            with self._changed:
                self._served = None
                self._changed.notify_all()

    def _next_due(self) -> tuple[Identity, Identity, bytes] | None:
        """Waits for the next signal; None once nobody is left to get one."""
        with self._changed:
            while self._members:
                now_us = monotonic_us()
                if self._under_way and self._under_way[0][0] <= now_us:
                    return heapq.heappop(self._under_way)[2]
                self._changed.wait((self._under_way[0][0] - now_us) / 1e6 if self._under_way else None)
            self._under_way.clear()
            self._thread = None
            return None


class InProcessSignaling:
    """One endpoint's way to the others of its hub."""

    def __init__(self, hub: InProcessHub) -> None:
        self._hub = hub
        self._identity: Identity | None = None
        self._closed = False

    def start(self, party: LocalParty, deliver: Deliver) -> None:
        """Take part under the party's name; whoever had it before gets nothing any more."""
        if self._closed:
            raise ClosedError("this signaling service was closed")
        if self._identity is not None:
            raise UsageError("a signaling service serves one endpoint: make another for the next one")
        self._identity = party.identity
        self._hub.join(self, party.identity, deliver)

    def send(self, to: Identity, signal: bytes) -> None:
        """Send a signal on its way; nothing happens before `start` and after `close`."""
        if self._identity is not None and not self._closed:
            self._hub.carry(self._identity, to, signal)

    @property
    def status(self) -> str:
        """Whether it takes part."""
        if self._closed:
            return "closed"
        return "not started" if self._identity is None else "connected inside this process"

    def close(self) -> None:
        """Take part no more. Harmless when repeated."""
        self._closed = True
        if self._identity is not None:
            self._hub.leave(self, self._identity)
