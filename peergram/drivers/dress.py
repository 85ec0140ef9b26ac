"""What `Messages` and `peergram.aio` do alike around an endpoint: names, payloads, events by kind, and words for refusals."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from peergram.endpoint.endpoint import Endpoint
from peergram.endpoint.event_queue import EventQueue
from peergram.errors import Result, UsageError
from peergram.events import (
    ConnectionState,
    Delivered,
    Event,
    PeerRefused,
    RelayNetworkChanged,
    RouteChanged,
    SessionFailed,
    SessionInfo,
    SessionRequested,
)
from peergram.identity import Identity

LINGER_MARGIN_US = 100_000
"""Beyond the time that closed sessions have to send what they owe, before all is given up."""
_NAMES_CACHED_MAX = 4_096

EXPLAINED = {
    Result.FAIL: "no way to reach this identity: give a signaling service, dial it as ip:ADDRESS:PORT (which hide_ip forbids), or"
    " wait until it calls us",
    Result.INVALID_PARAM: "a message has at most 524288 bytes, and Reliable and NoDelay exclude each other",
}
"""Why a send is refused, where the result does not tell."""


class Names:
    """Identities by the text they are given as; reading one costs more than a send."""

    def __init__(self) -> None:
        self.known: dict[str, Identity] = {}

    def resolve(self, identity: str | Identity) -> Identity:
        """Raises UsageError for text that is no identity."""
        if isinstance(identity, Identity):
            return identity
        known = self.known.get(identity)
        if known is None:
            known = Identity.of(identity)
            if len(self.known) >= _NAMES_CACHED_MAX:
                self.known.clear()
            self.known[identity] = known
        return known


class Told:
    """What happened and the application has not heard yet, by kind; used with the driver's lock held."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self.requests, self.failures, self.routes, self.refused, self.relays = (EventQueue() for _ in range(5))
        self.delivered: deque[Delivered] = deque(maxlen=endpoint.config.receipts_max)

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits to be told; may be asked without the lock."""
        return not (self.requests or self.failures or self.routes or self.refused or self.relays or self.delivered)

    def take(self, events: Iterable[Event]) -> None:
        """Put events in their queues."""
        for event in events:
            if isinstance(event, SessionRequested):
                self.requests.tell(event)
            elif isinstance(event, SessionFailed):
                self.failures.tell(event)
            elif isinstance(event, Delivered):
                self.delivered.append(event)
            elif isinstance(event, RelayNetworkChanged):
                self.relays.tell(event)
            else:
                (self.routes if isinstance(event, RouteChanged) else self.refused).tell(event)

    def next_failure(self) -> SessionFailed | None:
        """The oldest failure."""
        event = self.failures.poll()
        assert event is None or isinstance(event, SessionFailed)
        return event

    def next_request(self) -> SessionRequested | None:
        """The oldest request that still waits for an answer."""
        while (event := self.requests.poll()) is not None:
            # He may have given up since, been answered, or asked again with another key.
            request = self._endpoint.pending_request(event.identity)
            if request is not None:
                return request
        return None

    def next_refused(self) -> PeerRefused | None:
        """The oldest report of somebody kept out."""
        event = self.refused.poll()
        assert event is None or isinstance(event, PeerRefused)
        return event

    def next_route_change(self) -> RouteChanged | None:
        """The oldest change of a way."""
        event = self.routes.poll()
        assert event is None or isinstance(event, RouteChanged)
        return event

    def next_relay_change(self) -> RelayNetworkChanged | None:
        """How the relay network stands, if that has changed."""
        event = self.relays.poll()
        assert event is None or isinstance(event, RelayNetworkChanged)
        return event

    def next_delivered(self) -> Delivered | None:
        """The oldest receipt that is settled."""
        return self.delivered.popleft() if self.delivered else None


def text_of_losses(events: Iterable[Event]) -> str | None:
    """A sentence about what was unconfirmed when all sessions were closed; None if nothing was."""
    lost = [event for event in events if isinstance(event, SessionFailed) and event.unconfirmed.messages]
    if not lost:
        return None
    more = f" (and {len(lost) - 1} sessions more)" if len(lost) > 1 else ""
    return f"{lost[0].identity}: {lost[0].debug}{more}"


def bytes_of(data: object) -> bytes:
    """The payload as bytes; a number or text is refused rather than turned into something unexpected."""
    if not isinstance(data, bytearray | memoryview | bytes):
        raise UsageError(f"a message is bytes (encode text first), not {type(data).__name__}")
    return bytes(data)


def session_info(endpoint: Endpoint, who: Identity, now_us: int, *, connection: bool, status: bool) -> SessionInfo:
    """What is known about the session with `who`; the parts that are not asked for are None."""
    known = endpoint.connection_info(who, now_us)
    if known is None:
        return SessionInfo(ConnectionState.NONE)
    real_time = endpoint.real_time_status(who, now_us) if status else None
    return SessionInfo(known.state, known if connection else None, real_time)
