"""One session as a command sees it: dial, send without filling memory, wait, and know why it ended."""

from __future__ import annotations

import time
from collections.abc import Callable

from peergram.cli.paths import GOING_ON, PathNews
from peergram.cli.terminal import Failure, name_of, printable, say, seconds_text
from peergram.errors import EndReason, Result
from peergram.events import ConnectionInfo, ConnectionState, Message, RealTimeStatus, SendFlags, SessionFailed
from peergram.identity import Identity
from peergram.messages import Messages

_TICK_S = 0.05
_CHECK_INTERVAL_S = 0.1
_OPENING = (ConnectionState.CONNECTING, ConnectionState.FINDING_ROUTE, ConnectionState.CONNECTED)


def wait_for_news(net: Messages, timeout_s: float) -> None:
    """Return once messages or events wait, or after `timeout_s`."""
    net.wait(max(0.0, timeout_s))


class Call:
    """A session with one peer, on one channel; takes over `net.on_session_failed`."""

    def __init__(self, net: Messages, peer: Identity, channel: int) -> None:
        self.net = net
        self.peer = peer
        self.channel = channel
        self._failed: SessionFailed | None = None
        self._was_connected = False
        self._name = ""
        self._checked_at_s = 0.0
        self._path = PathNews()
        self._path_at_s = 0.0
        net.on_session_failed = self._note_failure

    @property
    def name(self) -> str:
        """Who he says he is, or what was dialed."""
        return self._name or name_of(self.peer)

    def wait_connected(self, timeout_s: float) -> None:
        """Raises Failure if nobody answers in `timeout_s`, or he refuses."""
        until_s = time.monotonic() + timeout_s
        while not self._is_connected():
            self.net.run_callbacks()
            if self._failed is not None:
                raise Failure(self._why_not_connected(self._failed, timeout_s))
            if time.monotonic() > until_s:
                raise Failure(self._nobody_there(timeout_s))
            time.sleep(_TICK_S / 5)

    def send(self, data: bytes, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Send reliably, waiting while the send buffer is full; `meanwhile` is called now and then. Raises Failure at the end."""
        while True:
            if self._was_connected and self._is_over():
                self.check(meanwhile, now=True)
            result = self.net.send_message_to_user(self.peer, data, SendFlags.RELIABLE, self.channel)
            if self._was_connected:
                # Before that `wait_connected` knows better what an end means.
                self.check(meanwhile)
            if result == Result.OK:
                return
            if result != Result.LIMIT_EXCEEDED:
                self.check(meanwhile, now=True)
                raise Failure(f"Sending to {self.name} failed ({result.name})")
            self.net.wait_for_room(self.peer, _TICK_S)

    def receive(self, timeout_s: float) -> Message | None:
        """The next message of this peer, None if none comes in time; raises Failure once the session is over and all is read."""
        until_s = time.monotonic() + timeout_s
        while True:
            # Asked first: what arrives between the two questions is then seen by the second.
            is_over = self._is_over()
            for message in self.net.receive_messages_on_channel(self.channel, 1):
                if message.identity == self.peer:
                    return message
            if is_over:
                self.check(now=True)
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                return None
            self.tell_path()
            wait_for_news(self.net, min(left_s, _CHECK_INTERVAL_S))

    def wait_delivered(self, timeout_s: float, meanwhile: Callable[[], object] = lambda: None) -> bool:
        """Whether the peer's library has confirmed everything within `timeout_s`."""
        until_s = time.monotonic() + timeout_s
        while self.unconfirmed_bytes:
            meanwhile()
            if time.monotonic() > until_s:
                return False
            time.sleep(_TICK_S / 10)
        return True

    @property
    def unconfirmed_bytes(self) -> int:
        """Reliable data that waits or is under way; 0 once the session is over."""
        status = self.status
        return 0 if status is None else status.pending_reliable_bytes + status.sent_unacked_reliable_bytes

    @property
    def connection(self) -> ConnectionInfo | None:
        """What is known about it."""
        return self.net.get_session_connection_info(self.peer, get_status=False).connection

    def tell_path(self) -> None:
        """Say which way packets take, if that is news; looks ten times a second at most."""
        at_s = time.monotonic()
        if at_s < self._path_at_s + _CHECK_INTERVAL_S:
            return
        self._path_at_s = at_s
        if (news := self._path.sentence(self.name, self.connection)) is not None:
            say(news)

    @property
    def status(self) -> RealTimeStatus | None:
        """How the connection is doing."""
        return self.net.get_session_connection_info(self.peer, get_connection=False).status

    def check(self, meanwhile: Callable[[], object] = lambda: None, *, now: bool = False) -> None:
        """Raise Failure if the session is over; looks ten times a second at most, or `now`."""
        at_s = time.monotonic()
        if not now and at_s < self._checked_at_s + _CHECK_INTERVAL_S:
            return
        self._checked_at_s = at_s
        self.net.run_callbacks()
        is_over = self._failed is not None or self._is_over()
        # Asked afterwards: what the peer said before he went is there by now.
        meanwhile()
        if self._failed is not None and self._failed.state != ConnectionState.CLOSED_BY_PEER:
            raise Failure(f"The session with {self.name} broke: {printable(self._failed.debug)}")
        if not is_over:
            self.tell_path()
        else:
            raise Failure(f"{self.name} is gone: it ended the session before everything was done; start over when it is back")

    def _is_connected(self) -> bool:
        if self._state() != ConnectionState.CONNECTED:
            return False
        if not self._was_connected:
            self._was_connected = True
            connection = self.connection
            if connection is not None and connection.identity is not None:
                self._name = name_of(connection.identity)
        return True

    def _is_over(self) -> bool:
        # A send after the end opens a new session; for a command, connecting again is the end as well.
        return not self._is_connected() and self._state() not in (GOING_ON if self._was_connected else _OPENING)

    def _state(self) -> ConnectionState:
        return self.net.get_session_connection_info(self.peer, False, False).state

    def _note_failure(self, event: SessionFailed) -> None:
        if event.identity == self.peer:
            self._failed = event

    def _why_not_connected(self, event: SessionFailed, timeout_s: float) -> str:
        if event.state == ConnectionState.CLOSED_BY_PEER:
            if event.reason == EndReason.SESSION_CLOSED:
                return f"{self._place} refused: ask there to accept, then try again"
            return f"{self._place} ended the session: {printable(event.debug)}"
        if event.reason == EndReason.MISC_P2P_RENDEZVOUS:
            return self._no_way()
        if event.reason in (EndReason.MISC_TIMEOUT, EndReason.REMOTE_TIMEOUT):
            return self._nobody_there(timeout_s)
        return f"No session with {self._place}: {printable(event.debug)}"

    def _nobody_there(self, timeout_s: float) -> str:
        waited = seconds_text(timeout_s)
        if self._state() == ConnectionState.FINDING_ROUTE:
            return self._no_way()
        if self.peer.ip_address is None:
            return (
                f"No answer from {self._place} in {waited}: check that a peergram program of this name runs, that its user has"
                f" accepted, and that both use the same signaling ({self.net.signaling_status.rstrip('.')})"
            )
        return (
            f"No answer from {self._place} in {waited}: check that the other side runs and listens there, that its user"
            " has accepted, and that no firewall blocks UDP between you"
        )

    def _no_way(self) -> str:
        return (
            f"{self._place} has accepted, but no way for packets between you was found: let both sides use a `peergram"
            " serve` with --signaling, which relays, or --turn servers, and check that no firewall blocks UDP"
        )

    @property
    def _place(self) -> str:
        return place_of(self.peer)


def place_of(peer: Identity) -> str:
    """A peer as he was dialed, in short: an address, or a name."""
    return peer.printable.removeprefix("ip:") if peer.ip_address is not None else name_of(peer)
