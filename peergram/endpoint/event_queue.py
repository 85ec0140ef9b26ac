"""What the application has not been told yet: kept until it asks, bounded, and per peer only the newest of a kind.

A request that is replaced or dropped comes again while its sender tries, and a change of the way can be asked for; a report of
lost messages does not come again, so reports about one peer are added up and give way last.
"""

from __future__ import annotations

from collections import OrderedDict

from peergram.config import EVENTS_MAX, REQUEST_REPEAT_US
from peergram.events import ConnectionState, Event, SessionFailed, SessionRequested, Unconfirmed
from peergram.identity import Identity
from peergram.timing import NEVER, Deadline


class EventQueue:
    """Events in order of first arrival."""

    __slots__ = ("_announced", "_events", "_postponed", "armed_at_us")

    def __init__(self) -> None:
        self._announced: OrderedDict[Identity, int] = OrderedDict()
        """When the application was last told that a stranger asks."""
        self._events: OrderedDict[tuple[type, Identity], Event] = OrderedDict()
        self._postponed: dict[Identity, SessionRequested] = {}
        """Strangers who asked again too soon."""
        self.armed_at_us = NEVER

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

    def tell_request(self, event: SessionRequested, now_us: int) -> None:
        """Announce a stranger, but not again and again while he keeps trying."""
        identity = event.identity
        if now_us < self._may_announce_at_us(identity):
            self._postponed[identity] = event
            return
        self._announced[identity] = now_us
        self._announced.move_to_end(identity)
        if len(self._announced) > EVENTS_MAX:
            self._postponed.pop(self._announced.popitem(last=False)[0], None)
        self.tell(event)

    def _may_announce_at_us(self, identity: Identity) -> int:
        return self._announced.get(identity, -REQUEST_REPEAT_US) + REQUEST_REPEAT_US

    def handle_timeout(self, now_us: int) -> None:
        """Announce those whose time has come."""
        for identity in [identity for identity in self._postponed if self._may_announce_at_us(identity) <= now_us]:
            self.tell_request(self._postponed.pop(identity), now_us)

    def poll_timeout(self) -> Deadline | None:
        """When somebody may be announced again."""
        if not self._postponed:
            return None
        return Deadline(min(map(self._may_announce_at_us, self._postponed)), "announce a request again")

    def withdraw_request(self, identity: Identity, now_us: int) -> None:
        """This stranger gave up; if the application had not heard of him yet, his next request is news."""
        self._postponed.pop(identity, None)
        while self._announced and next(iter(self._announced.values())) + REQUEST_REPEAT_US <= now_us:
            self._announced.popitem(last=False)
        if self._events.pop((SessionRequested, identity), None) is not None:
            self._announced.pop(identity, None)

    def answer_request(self, identity: Identity) -> None:
        """The application answered; what he asks after that is a new request."""
        self._events.pop((SessionRequested, identity), None)
        self._announced.pop(identity, None)
        self._postponed.pop(identity, None)

    def poll(self) -> Event | None:
        """The oldest event."""
        return self._events.popitem(last=False)[1] if self._events else None

    def _drop_one(self) -> None:
        for key, event in self._events.items():
            if not isinstance(event, SessionFailed):
                del self._events[key]
                return
        self._events.popitem(last=False)


def _joined(earlier: SessionFailed, later: SessionFailed) -> SessionFailed:
    """Two reports about one peer in one, so that no loss goes unmentioned; that of a session we closed hides no failure."""
    lost = Unconfirmed(
        earlier.unconfirmed.messages + later.unconfirmed.messages, earlier.unconfirmed.bytes + later.unconfirmed.bytes
    )
    said = earlier if later.state == ConnectionState.NONE else later
    return SessionFailed(later.identity, said.reason, said.state, said.debug, lost)
