"""What the application has not been told yet: kept until it asks, bounded, and per peer only the newest of a kind.

A request that is replaced or dropped comes again while its sender tries; a report of lost messages does not, so reports about
one peer are added up and give way last.
"""

from __future__ import annotations

from collections import OrderedDict

from peergram.config import EVENTS_MAX
from peergram.events import Event, SessionFailed, SessionRequested, Unconfirmed
from peergram.identity import Identity


class EventQueue:
    """Events in order of first arrival."""

    __slots__ = ("_events",)

    def __init__(self) -> None:
        self._events: OrderedDict[tuple[type, Identity], Event] = OrderedDict()

    def __len__(self) -> int:
        return len(self._events)

    def tell(self, event: Event) -> None:
        """Queue an event."""
        key = (type(event), event.identity)
        earlier = self._events.get(key)
        if isinstance(event, SessionFailed) and isinstance(earlier, SessionFailed):
            event = _joined(earlier, event)
        self._events[key] = event
        if len(self._events) > EVENTS_MAX:
            self._drop_one()

    def withdraw_request(self, identity: Identity) -> None:
        """The request of this stranger was answered or is gone."""
        self._events.pop((SessionRequested, identity), None)

    def poll(self) -> Event | None:
        """The oldest event."""
        return self._events.popitem(last=False)[1] if self._events else None

    def _drop_one(self) -> None:
        for key, event in self._events.items():
            if isinstance(event, SessionRequested):
                del self._events[key]
                return
        self._events.popitem(last=False)


def _joined(earlier: SessionFailed, later: SessionFailed) -> SessionFailed:
    """Two reports about one peer in one, so that no loss goes unmentioned."""
    lost = Unconfirmed(
        earlier.unconfirmed.messages + later.unconfirmed.messages, earlier.unconfirmed.bytes + later.unconfirmed.bytes
    )
    return SessionFailed(later.identity, later.reason, later.state, later.debug, lost)
