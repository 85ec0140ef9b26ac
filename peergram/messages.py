"""`Messages`: send to identities, receive from them. The interface most programs use.

The six functions and two callbacks of ISteamNetworkingMessages, for frame loops and threads. A background thread keeps sessions
alive, so the program may call or not call as it likes; `fileno()` is readable while something waits.

    with peergram.Messages("alice") as net:
        net.send_message_to_user("ip:192.0.2.7:27015", b"hi", SendFlags.RELIABLE)
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from time import monotonic_ns
from types import TracebackType
from typing import Literal, TypeVar

from peergram.address import Address
from peergram.blobs import Blob, BlobPort, BlobSource, Progress, Sink, Steps, Work, receive_steps, send_steps
from peergram.config import Config
from peergram.crypto.keys import SigningKey
from peergram.crypto.policy import PinOutgoing, Policy
from peergram.crypto.trust import TrustStore
from peergram.drivers.authority_files import Source, load_certificate
from peergram.drivers.dress import EXPLAINED, LINGER_MARGIN_US, Names, Told, bytes_of, session_info, text_of_losses
from peergram.drivers.fake_network import FakeNetwork
from peergram.drivers.log_limit import LogLimit
from peergram.drivers.opening import RelayMapSource, RelayTicketSource, open_endpoint
from peergram.drivers.relay_view import RelayView
from peergram.drivers.system import monotonic_us
from peergram.drivers.thread_driver import ThreadDriver
from peergram.drivers.trust_files import KeySource, open_authorities
from peergram.errors import ClosedError, Result, UsageError
from peergram.events import (
    Delivered,
    DroppedDatagrams,
    Message,
    PeerRefused,
    Receipt,
    RelayNetworkChanged,
    RouteChanged,
    SendFlags,
    SessionFailed,
    SessionInfo,
    SessionRequested,
)
from peergram.identity import Identity
from peergram.signaling.service import SignalingService
from peergram.timing import NEVER

_log = logging.getLogger(__name__)

T = TypeVar("T")

_CLOSE_TIMEOUT_S = 1.0
_LINGER_POLL_S = 0.002
_WAIT_MAX_S = 1e9
_MESSAGES_PER_TURN = 1_000
"""Of a long list so many are sent before the network and other threads have their turn: a few milliseconds' worth."""


_OK = Result.OK


class Messages:
    """One identity on the network. May be used from several threads; a context manager closes it."""

    def __init__(
        self,
        identity: str | Identity | None = None,
        *,
        listen: str | Address | None = None,
        trust: Policy | Iterable[Policy] = "pinned",
        key: KeySource | SigningKey | Literal[False] | None = None,
        certificate: Source | None = None,
        authorities: Source | Iterable[Source] | TrustStore = (),
        pin_outgoing: PinOutgoing = "remember",
        known_peers: str | os.PathLike[str] | bool = True,
        signaling: str | Sequence[str] | SignalingService | None = "lan",
        stun: str | Sequence[str] = (),
        turn: str | Sequence[str] = (),
        config: Config | None = None,
        batching: bool = True,
        fake_network: FakeNetwork | None = None,
        state: str | os.PathLike[str] | bool = True,
        relay_map: RelayMapSource | None = None,
        relay_tickets: RelayTicketSource | None = None,
        hide_ip: bool = False,
    ) -> None:
        """`identity`: who we are (`"alice"` means `str:alice`); None is an identity that is its key, and proves itself.

        `trust`: whom to let in, by one or several of `"key"` (always on: who is his key), `"pinned"` (a name keeps the key it was
        first met with), `"ca"` (who has a certificate of one of `authorities`), `"open"` (anyone, unauthenticated: for peers of
        the reference, which have a new key each time). `key`: our private key, as a file, its content or 32 bytes; None is
        `PEERGRAM_KEY`, `PEERGRAM_KEY_FILE`, or this identity's file in the user's folder, made on first use and held by one
        program at a time; False makes one for this run only. `certificate`: what an authority has issued to us.
        `pin_outgoing="ask"`: nothing goes to somebody we call and never met before `accept_session_with_user` agrees to his key,
        which `on_session_request` shows; to send to him while his own request waits is a call, too. `known_peers`: the file of
        remembered keys; True is the user's usual one, False is none.
        `signaling`: how peers are found by identity: `"lan"` (this machine and its networks, no server), the address of a server
        (`"wss://host:port/"` of `peergram serve`, several of one fleet with commas between or as a list, or
        `"line://host:port"`), a service of your own, or None for none. `stun` and `turn` name servers that help to find a way
        through the internet: `"stun:host:port"`,
        `"turn:user:password@host:port?transport=udp"` (or `tcp`), `"turns:..."`.
        `listen`: a local address such as `"0.0.0.0:27015"` at which strangers may reach us without signaling; peers are then
        dialed as `ip:ADDRESS:PORT`. `batching=False` sends and receives one datagram per system call; `fake_network` makes
        the network bad on purpose. `state`: the folder in which a small file remembers calls to peers of the reference, so that
        they let us in at once after a crash; True for the user's usual one, False for none.
        `relay_map`: a file that names the relays of a network (docs/relay_network.md), `relay_tickets`: a file with what opens
        them, or one user and password; a server of `peergram serve` tells both by itself. `hide_ip`: peers are reached through
        relays only and learn no address of ours, nor is anything sent to theirs. Raises UsageError for a bad identity,
        address or file, IdentityInUseError (one of them) if another program uses this identity's key, AddressInUseError if the
        port is taken.
        """
        opened = open_endpoint(
            identity,
            listen=listen,
            trust=trust,
            key=key,
            certificate=certificate,
            authorities=authorities,
            pin_outgoing=pin_outgoing,
            known_peers=known_peers,
            signaling=signaling,
            stun=stun,
            turn=turn,
            config=config,
            batching=batching,
            fake_network=fake_network,
            state=state,
            relay_map=relay_map,
            relay_tickets=relay_tickets,
            hide_ip=hide_ip,
        )
        self._standing, self._service, self._endpoint = opened.standing, opened.service, opened.endpoint
        self.identity = opened.standing.identity
        self.on_session_request: Callable[[SessionRequested], object] | None = None
        """Called by `run_callbacks` when a stranger wants to talk: answer with `accept_session_with_user`, or send to him."""
        self.on_session_failed: Callable[[SessionFailed], object] | None = None
        """Called by `run_callbacks` when a session ended in a way that must be known, with what was lost."""
        self.on_peer_refused: Callable[[PeerRefused], object] | None = None
        """Called by `run_callbacks` when somebody used a name that is known with another key; it is logged without a handler."""
        self._on_route_changed: Callable[[RouteChanged], object] | None = None
        self._on_delivered: Callable[[Delivered], object] | None = None
        self._log_limit = LogLimit()
        self._names = Names()
        self._told = Told(self._endpoint)
        self._on_relay_network_status: Callable[[RelayNetworkChanged], object] | None = None
        self._driver: ThreadDriver
        self.relay_network = RelayView(self._endpoint, lambda command: self._driver.call(command))
        """How the relay network stands, where we are in it, and what pings follow."""
        self._blobs = BlobPort(
            self._endpoint, lambda command: self._driver.call(command), lambda: self._driver.call(lambda now_us: None)
        )
        try:
            self._driver = ThreadDriver(
                opened.driven,
                batching=batching,
                signaling=opened.service,
                memory=opened.memory,
                keeper=self._standing.known_file,
            )
            self._driver.start()
            opened.start_service(self._driver, lambda: self._driver.close(_CLOSE_TIMEOUT_S))
        except BaseException:
            self._standing.release()
            raise

    def __enter__(self) -> Messages:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # --- the six functions ---

    def send_message_to_user(
        self, identity: str | Identity, data: bytes, flags: int = SendFlags.UNRELIABLE, channel: int = 0
    ) -> Result:
        """Send one message of at most 524288 bytes; opens a session if there is none, accepts one that is asked for.

        OK: it is on its way (not: arrived). Otherwise INVALID_PARAM, LIMIT_EXCEEDED (send buffer full: try again), IGNORED
        (NoDelay), CONNECT_FAILED (the session broke: close it, or send with AUTO_RESTART_BROKEN_SESSION), FAIL (no way to reach
        this identity). Raises UsageError for text that is no identity or a channel that is no signed 32-bit number.
        """
        to = self._names.known.get(identity) if type(identity) is str else None
        if to is None:
            to = self._names.resolve(identity)
        payload = data if type(data) is bytes else bytes_of(data)
        if type(flags) is not int:
            # Arithmetic on enum flags costs more than all the rest of a send.
            flags = int(flags)
        driver, endpoint = self._driver, self._endpoint
        with driver.lock:
            now_us = monotonic_ns() // 1_000
            result = endpoint.send_message(to, payload, flags, channel, now_us)
            if endpoint.needs_service:
                driver.flush(now_us)
        if result is not _OK:
            self._explain(to, result, now_us)
        return result

    def send_messages_to_user(
        self, identity: str | Identity, messages: Sequence[bytes], flags: int = SendFlags.UNRELIABLE, channel: int = 0
    ) -> tuple[int, Result]:
        """Send several messages in order, for a fraction of the price of as many `send_message_to_user`.

        Stops at the first one that is refused: (how many are on their way, the result of the last one looked at). Raises as
        `send_message_to_user`.
        """
        to = self._names.resolve(identity)
        payloads = list(messages)
        if set(map(type, payloads)) != {bytes}:
            payloads = [bytes_of(data) for data in payloads]
        flags = int(flags)
        driver, endpoint = self._driver, self._endpoint
        sent, result = 0, _OK
        while True:
            with driver.lock:
                now_us = monotonic_us()
                taken, result = endpoint.send_messages(to, payloads[sent : sent + _MESSAGES_PER_TURN], flags, channel, now_us)
                driver.flush(now_us)
            sent += taken
            if result is not _OK or sent >= len(payloads):
                break
        self._explain(to, result, now_us)
        return sent, result

    def send_with_receipt(
        self, identity: str | Identity, data: bytes, flags: int = SendFlags.RELIABLE, channel: int = 0
    ) -> tuple[Result, Receipt | None]:
        """`send_message_to_user`, and a receipt that tells what becomes of the message: `state` is `"pending"`, then for good
        `"delivered"` (the peer's library has all of it) or `"unconfirmed"` (the session ended first; `debug` says why).

        None instead of a receipt if the message was refused, or goes unreliably, so that nobody learns what becomes of it; a
        large unreliable message is sent reliably and has one. LIMIT_EXCEEDED also while `config.receipts_max` receipts are
        pending, or wait to be told by `on_delivered`. Raises as `send_message_to_user`.
        """
        to = self._names.resolve(identity)
        payload = bytes_of(data)
        driver, endpoint = self._driver, self._endpoint
        with driver.lock:
            now_us = monotonic_us()
            result, receipt = endpoint.send_with_receipt(to, payload, int(flags), channel, now_us)
            if endpoint.needs_service:
                driver.flush(now_us)
        if result is not _OK:
            self._explain(to, result, now_us)
        return result, receipt

    def receive_messages_on_channel(self, channel: int, max_messages: int) -> list[Message]:
        """The oldest unread messages of a channel, at most `max_messages` of them (at least 1)."""
        driver, endpoint = self._driver, self._endpoint
        if not endpoint.has_unread(channel) and max_messages > 0 and not driver.closed:
            # Most often so in a frame loop, which then need not wait for a turn of the background thread to end.
            return []
        with driver.lock:
            if driver.closed:
                raise ClosedError("this Messages is closed; make a new one to go on")
            now_us = monotonic_us()
            received = endpoint.receive_messages(channel, max_messages, now_us)
            if endpoint.needs_service:
                driver.flush(now_us)
            elif received:
                driver.note_taken()
        return received

    def accept_session_with_user(self, identity: str | Identity) -> bool:
        """Let a stranger in who asked; True also for a live session, False without any."""
        who = self._names.resolve(identity)
        return self._driver.call(lambda now_us: self._endpoint.accept_session(who, now_us))

    def close_session_with_user(self, identity: str | Identity) -> bool:
        """End the session and throw away its unread messages; False if there is none."""
        who = self._names.resolve(identity)
        return self._driver.call(lambda now_us: self._endpoint.close_session(who, now_us))

    def close_channel_with_user(self, identity: str | Identity, channel: int) -> bool:
        """Close one channel; the last one closes the session. False if the channel is not open."""
        who = self._names.resolve(identity)
        return self._driver.call(lambda now_us: self._endpoint.close_channel(who, channel, now_us))

    def get_session_connection_info(
        self, identity: str | Identity, get_connection: bool = True, get_status: bool = True
    ) -> SessionInfo:
        """State of the session with this identity, and on request what is known about its connection and how that is doing."""
        who = self._names.resolve(identity)
        return self._driver.call(
            lambda now_us: session_info(self._endpoint, who, now_us, connection=get_connection, status=get_status)
        )

    # --- callbacks and waiting ---

    def run_callbacks(self) -> None:
        """Call `on_session_failed` and `on_session_request` for what happened; events without a handler are kept.

        Of several events of one peer the newest counts, what they report as lost is added up, and a request is delivered only
        while it waits for an answer. What a handler raises comes out here; the events behind it stay for the next call.
        """
        if self._told.is_empty and not (self._driver.has_events or self._blobs.owing or self._driver.closed):
            # The usual frame: it need not wait for a turn of the background thread to end.
            return
        self._take_events()
        while (on_failed := self.on_session_failed) is not None and (failure := self._next_failure()) is not None:
            on_failed(failure)
        while (on_request := self.on_session_request) is not None and (request := self._next_request()) is not None:
            on_request(request)
        while (refused := self._next_refused()) is not None:
            if self.on_peer_refused is not None:
                self.on_peer_refused(refused)
            else:
                _log.warning("%s", refused.text)
        while (on_changed := self._on_route_changed) is not None and (change := self._next_route_change()) is not None:
            on_changed(change)
        while (on_status := self._on_relay_network_status) is not None and (stands := self._next_relay_change()) is not None:
            on_status(stands)
        while (on_delivered := self._on_delivered) is not None and (settled := self._next_delivered()) is not None:
            on_delivered(settled)
        if self._blobs.owing and not self._driver.closed:
            self._blobs.answer()

    @property
    def on_route_changed(self) -> Callable[[RouteChanged], object] | None:
        """Called by `run_callbacks` when packets to a peer that was called by identity take another way."""
        return self._on_route_changed

    @on_route_changed.setter
    def on_route_changed(self, handler: Callable[[RouteChanged], object] | None) -> None:
        self._on_route_changed = handler
        with self._driver.lock:
            self._endpoint.tell_route_changes()

    @property
    def on_relay_network_status(self) -> Callable[[RelayNetworkChanged], object] | None:
        """Called by `run_callbacks` when the relay network stands differently (see `relay_network`), such as when pings are
        measured."""
        return self._on_relay_network_status

    @on_relay_network_status.setter
    def on_relay_network_status(self, handler: Callable[[RelayNetworkChanged], object] | None) -> None:
        self._on_relay_network_status = handler
        with self._driver.lock:
            self._endpoint.tell_relay_status(tells=handler is not None)

    @property
    def on_delivered(self) -> Callable[[Delivered], object] | None:
        """Called by `run_callbacks` when a receipt of `send_with_receipt` is settled, one way or the other: look at
        `receipt.state`. Of receipts settled before there was a handler, only they themselves tell."""
        return self._on_delivered

    @on_delivered.setter
    def on_delivered(self, handler: Callable[[Delivered], object] | None) -> None:
        with self._driver.lock:
            self._on_delivered = handler
            self._endpoint.tell_receipts(tells=handler is not None)
            if handler is None:
                self._told.delivered.clear()

    def _next_delivered(self) -> Delivered | None:
        with self._driver.lock:
            return self._told.next_delivered()

    def _next_relay_change(self) -> RelayNetworkChanged | None:
        with self._driver.lock:
            return self._told.next_relay_change()

    def _next_route_change(self) -> RouteChanged | None:
        with self._driver.lock:
            return self._told.next_route_change()

    def _take_events(self) -> None:
        with self._driver.lock:
            self._told.take(self._driver.poll_events())

    def _next_refused(self) -> PeerRefused | None:
        with self._driver.lock:
            return self._told.next_refused()

    def _next_failure(self) -> SessionFailed | None:
        with self._driver.lock:
            return self._told.next_failure()

    def _next_request(self) -> SessionRequested | None:
        with self._driver.lock:
            return self._told.next_request()

    def wait(self, timeout_s: float | None = None, channel: int | None = None) -> bool:
        """Wait until messages or events wait, at most `timeout_s` (None: for ever); whether they do.

        With `channel`, messages of other channels do not count: who reads some channels only waits so, or a peer who fills
        another one would end every wait at once. The quickest way to wait: the calling thread itself does the network's work
        meanwhile, so that what arrives reaches it without a change of threads. 0 looks without waiting. Raises ClosedError if
        this Messages is or gets closed.
        """
        return self._wait(timeout_s, self._has_news if channel is None else self._has_news_on(channel))

    def wait_for_room(self, identity: str | Identity, timeout_s: float | None = None) -> bool:
        """After `LIMIT_EXCEEDED`: wait until at least half of the send buffer to this identity is free; whether it is.

        At most `timeout_s` (None: for ever). True also if the session is gone: the next send tells. As `wait`, it does the
        network's work meanwhile.
        """
        who = self._names.resolve(identity)
        return self._wait(timeout_s, lambda: self._endpoint.has_room(who))

    def wait_until_sent(self, timeout_s: float | None = None) -> bool:
        """Wait until every message has left, at most `timeout_s` (None: for ever); whether all have.

        Before `close`, for unreliable messages that wait for their session to come up: closing gives time to reliable ones only.
        As `wait`, it does the network's work meanwhile.
        """
        return self._wait(timeout_s, lambda: not self._endpoint.has_unsent)

    def _has_news(self) -> bool:
        return self._endpoint.unread_messages > 0 or self._driver.has_events

    def _has_news_on(self, channel: int) -> Callable[[], bool]:
        return lambda: self._endpoint.has_unread(channel) or self._driver.has_events

    def _wait(self, timeout_s: float | None, wanted: Callable[[], bool]) -> bool:
        if timeout_s is not None and not timeout_s >= 0:
            raise UsageError(f"timeout_s: give seconds from 0 on, or None to wait for ever, not {timeout_s!r}")
        until_us = NEVER if timeout_s is None else monotonic_us() + int(min(timeout_s, _WAIT_MAX_S) * 1e6)
        return self._driver.wait(until_us, wanted)

    def fileno(self, channel: int | None = None) -> int:
        """A descriptor for `select` and foreign event loops: readable while messages or events wait. With `channel`, messages of
        other channels do not count; each such channel has a descriptor of its own until all is closed."""
        if channel is None:
            return self._driver.readable_fileno()
        return self._driver.narrow_fileno(channel, self._has_news_on(channel))

    # --- blobs ---

    def send_blob_to_user(
        self,
        identity: str | Identity,
        source: BlobSource,
        channel: int = 0,
        *,
        name: str = "",
        progress: Progress | None = None,
        give_up_after_s: float = 30.0,
    ) -> None:
        """Send data of any size (bytes, a path, a binary file object that can seek), on a channel for blobs only.

        Returns once the receiver has all of it with the right checksum; for threads, not for frame loops. Goes on by itself after
        the session broke, until nobody has been reached for `give_up_after_s`; called again, also by another run of the program,
        it goes on where it stopped. `progress(received, size)` is called on the way. Raises BlobError, OSError for a file that
        cannot be read.
        """
        who = self._names.resolve(identity)
        steps = send_steps(
            self._blobs, who, source, channel=channel, name=name, progress=progress, give_up_after_s=give_up_after_s
        )
        self._run_steps(steps, NEVER)

    def receive_blob_on_channel(
        self,
        channel: int,
        into: Sink = None,
        *,
        identity: str | Identity | None = None,
        size_max: int | None = None,
        progress: Progress | None = None,
        timeout_s: float | None = None,
    ) -> Blob:
        """Wait for the next blob on a channel, from `identity` or anyone, and take it whole; for threads, not for frame loops.

        `into`: a path (the beginning is kept in a `.part` file beside it until all is there), a binary file object, or None for
        memory. Larger ones than `size_max` are refused; in memory that is 64 MiB unless you say otherwise. Stays through a broken
        session, since its sender may come back, for at most `timeout_s` altogether. Raises BlobError, TimeoutError, OSError for a
        path that cannot be written.
        """
        who = None if identity is None else self._names.resolve(identity)
        steps = receive_steps(self._blobs, channel=channel, into=into, identity=who, size_max=size_max, progress=progress)
        return self._run_steps(steps, NEVER if timeout_s is None else monotonic_us() + int(timeout_s * 1e6))

    def _run_steps(self, steps: Steps[T], until_us: int) -> T:
        try:
            while True:
                try:
                    step = next(steps)
                except StopIteration as end:
                    value: T = end.value
                    return value
                if isinstance(step, Work):
                    step.run()
                elif not self._driver.wait(min(step.until_us, until_us), step.wanted) and monotonic_us() >= until_us:
                    raise TimeoutError("no blob has come to its end in time")
        finally:
            steps.close()

    # --- the rest ---

    @property
    def key_fingerprint(self) -> str:
        """Our own key as others see it, for people to compare (`SHA256:` and base64)."""
        return self._endpoint.key_fingerprint

    @property
    def signaling_status(self) -> str:
        """How the signaling service stands, in one sentence for people."""
        return "no signaling: peers are reached by address only" if self._service is None else self._service.status

    @property
    def local_addresses(self) -> list[Address]:
        """Where we listen."""
        return self._endpoint.local_addresses

    def dropped_datagrams(self) -> DroppedDatagrams:
        """How many datagrams came to nothing so far, by reason; for those who watch over a server."""
        return replace(self._endpoint.dropped)

    def renew_certificate(self, certificate: Source) -> None:
        """Show this certificate in new sessions, in place of one that expires; sessions that are up go on. Raises UsageError if
        it is not for our identity and key."""
        signed, _ = load_certificate(certificate, self.identity)
        self._driver.call(lambda now_us: self._endpoint.renew_certificate(signed))

    def renew_authorities(self, authorities: Source | Iterable[Source] | TrustStore) -> None:
        """Believe these authorities from now on, such as when one of them has revoked a key; sessions that are up go on. Raises
        UsageError for a file that cannot be read; then nothing changes."""
        store = open_authorities(authorities)
        self._driver.call(lambda now_us: self._endpoint.renew_authorities(store))

    def flush_messages(self, identity: str | Identity) -> None:
        """Send what waits for company (Nagle) now."""
        who = self._names.resolve(identity)
        self._driver.call(lambda now_us: self._endpoint.flush(who))

    def ping_user(self, identity: str | Identity) -> Result:
        """Measure a round trip to this identity now: its library answers at once, its program sees nothing.

        The answers are `ping_answers` of the session's status, in microseconds. Opens a session if there is none, and accepts one
        that is asked for, as a send does; only pings of a session that is up are counted (`pings_asked`). Our side is in use by
        that, the peer's is not. OK, CONNECT_FAILED, FAIL (no way to reach this identity), INVALID_STATE (it is our own).
        """
        who = self._names.resolve(identity)
        return self._driver.call(lambda now_us: self._endpoint.ping(who, now_us))

    def set_framing(self, identity: str | Identity, framing: str) -> None:
        """`"raw"` leaves out the header of the messages layer in sessions with this identity (channel 0 only)."""
        who = self._names.resolve(identity)
        self._driver.call(lambda now_us: self._endpoint.set_framing(who, framing))

    def close(self) -> None:
        """End all sessions, tell the peers, stop the thread. May be called twice.

        Reliable messages already sent get up to `config.linger_us` to arrive; what is unconfirmed then is logged.
        """
        try:
            # Another thread may close at the same moment.
            with suppress(ClosedError):
                self._driver.step_back()
                self._flush()
        finally:
            self._driver.close(_CLOSE_TIMEOUT_S)
            self._standing.release()

    def _flush(self) -> None:
        linger_us = self._endpoint.config.linger_us
        self._driver.call(lambda now_us: self._endpoint.close_all(now_us, linger_us=linger_us))
        deadline_us = monotonic_us() + linger_us + LINGER_MARGIN_US
        while self._driver.call(lambda _now_us: self._endpoint.is_flushing) and monotonic_us() < deadline_us:
            time.sleep(_LINGER_POLL_S)
        events = self._driver.poll_events()
        self._told.take(events)
        if (text := text_of_losses(events)) is not None:
            _log.warning("%s", text)

    def _explain(self, to: Identity, result: Result, now_us: int) -> None:
        if result in EXPLAINED:
            note = self._log_limit.note(result, now_us)
            if note is not None:
                _log.warning("to %s: %s%s", to.printable, EXPLAINED[result], note)
