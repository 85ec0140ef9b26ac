"""The signals of one connection: which to send, when, and what a signal that came means. Protocol part 3, chapters 6 and 7.

The caller says a connect request until it is answered, the called side says nothing before its application accepts (M5), then
both tell each other passwords and candidates as they find them. What the reference does on a clock of 10 and 100 ms goes at once
here (D7), an answer is repeated until the caller shows that he has it (S8), a close until it is confirmed (D24), and a caller
whose entries got lost in a role change sends them again without waiting for their time (D6).

It knows no keys and no connection: the owner checks what it hears, and tells it what became of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum, auto

from peergram.config import (
    SIGNAL_ACK_US,
    SIGNAL_CLOSE_REPEATS_US,
    SIGNAL_DISTANCE_US,
    SIGNAL_OLD_RUN_US,
    SIGNAL_REQUEST_QUICK_US,
    SIGNAL_REQUEST_RETRY_US,
    SIGNAL_REQUESTS_QUICK,
)
from peergram.errors import EndReason
from peergram.signaling.delivery import SignalInbox, SignalKind, SignalOutbox
from peergram.signaling.rendezvous_rules import close_of_old_run
from peergram.timing import NEVER, Deadline
from peergram.wire.certificates import SignedCertificate, SignedCryptInfo
from peergram.wire.signals import (
    ReliableSignal,
    Signal,
    SignalClosed,
    SignalConnectOk,
    SignalConnectRequest,
    encode_signal,
)

MESSAGES_VIRTUAL_PORT = 0x7FFFFFFF
"""Both ends of a connection of the messages layer."""
NO_CONNECTION = 9999
"""The reason that confirms a close, and says that there is nothing (any more) to close. It is never answered."""


class Phase(Enum):
    """How far the two sides are."""

    CALLING = auto()
    """Our request waits for its answer."""
    RINGING = auto()
    """His request waits for our application."""
    TALKING = auto()
    CLOSED = auto()
    """By us; repeated until he confirms."""
    OVER = auto()
    """By him, or confirmed by him."""


@dataclass(slots=True)
class Heard:
    """What one signal said, for the owner to act on."""

    connect_ok: SignalConnectOk | None = None
    """To be checked; `Rendezvous.handle_answered` says that it held."""
    entries: list[ReliableSignal] = field(default_factory=list)
    closed: SignalClosed | None = None
    is_contradicted: bool = False
    """Whether the peer shows that he has not closed it: he asks on, or answers what he was asked since."""


class Rendezvous:
    """One connection's side of the conversation. After every call: drain `poll_signal`, re-arm from `poll_timeout`."""

    __slots__ = (
        "_ack_at_us",
        "_asked",
        "_close",
        "_close_repeats",
        "_inbox",
        "_is_heard",
        "_ok",
        "_old_ids",
        "_old_said",
        "_outbox",
        "_own_identity",
        "_peer_identity",
        "_request",
        "_requests_said",
        "_say_at_us",
        "_sent_at_us",
        "connection_id",
        "peer_connection_id",
        "phase",
    )

    def __init__(self, own_identity: bytes, peer_identity: bytes, connection_id: int) -> None:
        """Identities as text. Then `call` or `ring`."""
        self.phase = Phase.OVER
        self.connection_id = connection_id
        self.peer_connection_id = 0
        """0 while unknown."""
        self._own_identity = own_identity
        self._peer_identity = peer_identity
        self._request: SignalConnectRequest | None = None
        self._ok: SignalConnectOk | None = None
        self._close: SignalClosed | None = None
        self._close_repeats = 0
        self._is_heard = False
        """Whether the peer has our answer."""
        self._old_ids: list[int] = []
        """Connections of our earlier run that the peer may hold on to."""
        self._old_said = 0
        """How many of them were closed since the last request."""
        self._requests_said = 0
        self._asked: int | None = None
        """Number of the entry whose acknowledgement shows that the peer goes on."""
        self._outbox = SignalOutbox()
        self._inbox = SignalInbox()
        self._say_at_us = NEVER
        """When the request, the answer or the close goes (again)."""
        self._ack_at_us = NEVER
        self._sent_at_us = -SIGNAL_DISTANCE_US

    # --- what the owner decides ---

    def call(self, cert: SignedCertificate, crypt: SignedCryptInfo, now_us: int, old_ids: Iterable[int] = ()) -> None:
        """Ask the peer to connect, once he has heard that these connections of our earlier run are over."""
        self.phase = Phase.CALLING
        self._old_ids = list(old_ids)
        self._request = SignalConnectRequest(cert, crypt, MESSAGES_VIRTUAL_PORT, MESSAGES_VIRTUAL_PORT)
        self._say_at_us = now_us

    def ring(self, peer_connection_id: int) -> None:
        """His request waits for our application; nothing is said meanwhile."""
        self.phase = Phase.RINGING
        self.peer_connection_id = peer_connection_id
        self._request = None
        self._old_ids.clear()
        self._say_at_us = NEVER

    def accept(self, cert: SignedCertificate, crypt: SignedCryptInfo, now_us: int) -> None:
        """Our application lets him in."""
        self.phase = Phase.TALKING
        self._ok = SignalConnectOk(cert, crypt)
        self._say_at_us = now_us

    def handle_heard(self) -> None:
        """The caller has our answer: he speaks of this connection, or sends packets."""
        if not self._is_heard:
            self._is_heard = True
            if self.phase == Phase.TALKING:
                self._say_at_us = NEVER

    def handle_answered(self, peer_connection_id: int) -> None:
        """His answer to our request held."""
        if self.phase == Phase.CALLING:
            self.phase = Phase.TALKING
            self.peer_connection_id = peer_connection_id
            self._request = None
            self._old_ids.clear()
            self._say_at_us = NEVER

    def handle_old_run_over(self, old_id: int, now_us: int) -> None:
        """The peer confirms that a connection of our earlier run is over."""
        if old_id not in self._old_ids:
            return
        self._old_said -= self._old_ids.index(old_id) < self._old_said
        self._old_ids.remove(old_id)
        if not self._old_ids and self.phase == Phase.CALLING:
            self._say_at_us = min(self._say_at_us, now_us)

    def queue(self, entry: ReliableSignal, now_us: int) -> None:
        """A password or candidate for the peer. Where too much waits it is dropped: he has enough to try."""
        if self.phase not in (Phase.CLOSED, Phase.OVER):
            self._outbox.queue(entry, now_us)

    def ask(self, entry: ReliableSignal, now_us: int) -> None:
        """Somebody says that it is over for the peer: see whether he acknowledges one more entry."""
        if self.phase == Phase.TALKING:
            self._asked = self._outbox.queue(entry, now_us)

    @property
    def has_unconfirmed(self) -> bool:
        """Whether the peer has not taken all that was queued."""
        return len(self._outbox) > 0

    def close(self, reason: int, debug: str, now_us: int, goodbye: bytes = b"") -> None:
        """We are done with this connection; a peer whose request we never answered is told, too. `goodbye` proves it to him."""
        if self.phase in (Phase.CLOSED, Phase.OVER):
            return
        self.phase = Phase.CLOSED
        self._close = SignalClosed(reason, debug, goodbye)
        self._outbox.clear()
        self._ack_at_us = NEVER
        self._say_at_us = now_us
        self._close_repeats = 0

    def end_by_peer(self, now_us: int) -> None:
        """It is over for the peer: confirm that, now and when he asks again."""
        self.end()
        self._close = SignalClosed(NO_CONNECTION)
        self._say_at_us = now_us

    def end(self) -> None:
        """The peer knows that it is over: say nothing more."""
        self.phase = Phase.OVER
        self._outbox.clear()
        self._say_at_us = self._ack_at_us = NEVER

    # --- signals that come ---

    def handle_signal(self, signal: Signal, now_us: int) -> Heard:
        """Take a signal that names this connection and comes from its peer."""
        if signal.connection_closed is not None:
            return self._handle_closed(signal.connection_closed, now_us)
        if self.phase in (Phase.CLOSED, Phase.OVER):
            self._answer_late(now_us)
            return Heard()
        heard = Heard()
        if signal.ack_reliable is not None:
            self._outbox.ack(signal.ack_reliable)
            if self._asked is not None and self._outbox.acked >= self._asked:
                self._asked = None
                heard.is_contradicted = True
        self._note_sender(signal, now_us)
        if signal.to_connection_id and signal.connect_request is None:
            self.handle_heard()
        heard.entries = self._inbox.take(signal.first_reliable, signal.reliable)
        if self._inbox.ack_wanted and self.phase != Phase.RINGING:
            self._ack_at_us = min(self._ack_at_us, now_us + SIGNAL_ACK_US)
        if signal.connect_ok is not None and self.phase == Phase.CALLING:
            heard.connect_ok = signal.connect_ok
            if not signal.ack_reliable:
                self._outbox.resend_all(now_us)
        elif signal.connect_request is not None:
            heard.is_contradicted = True
            if self._ok is not None:
                # He has not heard our answer.
                self._say_at_us = min(self._say_at_us, now_us)
        return heard

    def _note_sender(self, signal: Signal, now_us: int) -> None:
        if not self.peer_connection_id and signal.from_connection_id and self.phase != Phase.CALLING:
            self.peer_connection_id = signal.from_connection_id

    def _handle_closed(self, closed: SignalClosed, now_us: int) -> Heard:
        """Nobody signed it: while the connection lives, it is for the owner to believe (D21); see `end_by_peer`."""
        if self.phase not in (Phase.CLOSED, Phase.OVER):
            if closed.reason == NO_CONNECTION:
                text = "Received unexpected P2P 'no connection' signal"
                return Heard(closed=SignalClosed(EndReason.MISC_PEER_SENT_NO_CONNECTION, text))
            return Heard(closed=closed)
        if closed.reason == NO_CONNECTION or self._close is None:
            # Whom nothing was ever said to is told nothing now.
            self.end()
        else:
            self.end_by_peer(now_us)
        return Heard()

    def _answer_late(self, now_us: int) -> None:
        """He has not heard that it is over."""
        if self._close is not None:
            self._say_at_us = min(self._say_at_us, now_us)

    # --- signals that go ---

    def poll_signal(self, now_us: int) -> bytes | None:
        """The next signal, if one is due."""
        if now_us < self._due_us:
            return None
        signal = self._next_signal(now_us)
        self._sent_at_us = now_us
        return encode_signal(signal)

    def poll_timeout(self) -> Deadline | None:
        """When a signal is due."""
        due_us = self._due_us
        return None if due_us >= NEVER else Deadline(due_us, "signal")

    @property
    def _due_us(self) -> int:
        due_us = min(self._say_at_us, self._ack_at_us)
        if self.phase == Phase.TALKING or (self.phase == Phase.CALLING and self._requests_said):
            due_us = min(due_us, self._outbox.next_due_us)
        return due_us if due_us >= NEVER else max(due_us, self._sent_at_us + SIGNAL_DISTANCE_US)

    def _next_signal(self, now_us: int) -> Signal:
        if self._close is not None and self.phase in (Phase.CLOSED, Phase.OVER):
            return self._closed_signal(self._close, now_us)
        if self._old_said < len(self._old_ids) and self._say_at_us <= now_us:
            return self._next_close_of_old_run(now_us)
        signal = self._plain_signal()
        kind: SignalKind = "other"
        if self._request is not None:
            kind = "request"
            signal.connect_request = self._request
            signal.to_connection_id = None
            # What was not confirmed may be lost: it is said again ahead of the next request.
            self._old_said = 0
            self._requests_said += 1
            is_quick = self._requests_said <= SIGNAL_REQUESTS_QUICK
            self._say_at_us = now_us + (SIGNAL_REQUEST_QUICK_US if is_quick else SIGNAL_REQUEST_RETRY_US)
        elif self._ok is not None and (self._say_at_us <= now_us or not self._is_heard):
            kind = "ok"
            signal.connect_ok = self._ok
            self._say_at_us = NEVER if self._is_heard else now_us + SIGNAL_REQUEST_RETRY_US
        signal.first_reliable, signal.reliable = self._outbox.take(kind, now_us)
        signal.ack_reliable = self._inbox.last
        self._inbox.ack_wanted = False
        self._ack_at_us = NEVER
        return signal

    def _next_close_of_old_run(self, now_us: int) -> Signal:
        signal = close_of_old_run(self._old_ids[self._old_said], self._own_identity, self._peer_identity)
        self._old_said += 1
        self._say_at_us = now_us if self._old_said < len(self._old_ids) else now_us + SIGNAL_OLD_RUN_US
        return signal

    def _closed_signal(self, closed: SignalClosed, now_us: int) -> Signal:
        signal = self._plain_signal()
        signal.connection_closed = closed
        if self.phase == Phase.CLOSED and self._close_repeats < len(SIGNAL_CLOSE_REPEATS_US):
            self._say_at_us = now_us + SIGNAL_CLOSE_REPEATS_US[self._close_repeats]
            self._close_repeats += 1
        else:
            self._say_at_us = NEVER
        return signal

    def _plain_signal(self) -> Signal:
        return Signal(
            to_connection_id=self.peer_connection_id or None,
            from_connection_id=self.connection_id,
            from_identity=self._own_identity,
            to_identity=self._peer_identity,
            ice_enabled=True,
        )


def rejection(to_connection_id: int, to_identity: bytes, reason: int, debug: str) -> bytes:
    """What somebody is told whose request cannot even be shown to the application (chapter 4, step 5)."""
    closed = SignalClosed(reason, debug)
    return encode_signal(Signal(to_connection_id=to_connection_id, to_identity=to_identity, connection_closed=closed))


def denial(signal: Signal, own_identity: bytes, peer_identity: bytes) -> bytes:
    """The answer to a signal about a connection that is not ours (any more); only that very connection heeds it."""
    return encode_signal(
        Signal(
            to_connection_id=signal.from_connection_id,
            from_connection_id=signal.to_connection_id,
            from_identity=own_identity,
            to_identity=peer_identity,
            connection_closed=SignalClosed(NO_CONNECTION),
        )
    )
