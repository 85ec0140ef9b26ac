"""peergram for asyncio: what waits is awaited, what cannot be done raises.

    async with aio.open("alice") as net:
        await net.send("bob", b"hi", channel=3)
        async for message in net.channel(3):
            ...

Everything belongs to the event loop's thread. Methods that never wait (`accept`, `close`, `info`) are plain functions. No
cancellation loses a message: what was not returned is still unread, and a `send` that was cancelled was not sent,
unless only the word of its delivery was missing. More in docs/asyncio.md.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from types import TracebackType
from typing import Any, Generic, TypeVar, Unpack, overload

from peergram.address import Address
from peergram.blobs import Blob, BlobPort, BlobSource, Progress, Sink, Steps, Work, receive_steps, send_steps
from peergram.config import REFERENCE_MESSAGE_BYTES_MAX
from peergram.crypto.trust import TrustStore
from peergram.drivers.asyncio_driver import AsyncioDriver
from peergram.drivers.authority_files import Source, load_certificate
from peergram.drivers.dress import EXPLAINED, LINGER_MARGIN_US, Names, Told, bytes_of, session_info, text_of_losses
from peergram.drivers.opening import Opened, OpenOptions, open_endpoint
from peergram.drivers.relay_view import RelayView
from peergram.drivers.system import monotonic_us
from peergram.drivers.trust_files import open_authorities
from peergram.errors import (
    ClosedError,
    EndReason,
    MessageTooLargeError,
    NoRouteError,
    Result,
    SendError,
    SessionBrokenError,
    UsageError,
)
from peergram.events import (
    ConnectionState,
    Event,
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
from peergram.timing import NEVER

__all__ = ["Net", "open"]

_log = logging.getLogger(__name__)

T = TypeVar("T")
E = TypeVar("E", bound=Event)

_CLOSED_TEXT = "this network was closed: open a new one to go on"
_OK = Result.OK
_LIMIT_EXCEEDED = Result.LIMIT_EXCEEDED
_BROKEN_STATES = (ConnectionState.CLOSED_BY_PEER, ConnectionState.PROBLEM_DETECTED_LOCALLY)


def open(identity: str | Identity | None = None, **options: Unpack[OpenOptions]) -> Net:  # noqa: A001 - as aio.open it reads well
    """One identity on the network, for `async with`; the arguments are those of `peergram.Messages`, and raise the same."""
    return Net(open_endpoint(identity, **options))


class _Handler(Generic[E]):
    """An attribute of `Net` that holds a callback; one that is set late hears what has waited for it."""

    def __set_name__(self, owner: type[Net], name: str) -> None:
        self._name = "_" + name

    @overload
    def __get__(self, net: None, owner: type[Net]) -> _Handler[E]: ...
    @overload
    def __get__(self, net: Net, owner: type[Net]) -> Callable[[E], object] | None: ...
    def __get__(self, net: Net | None, owner: type[Net]) -> _Handler[E] | Callable[[E], object] | None:
        if net is None:
            return self
        handler: Callable[[E], object] | None = vars(net).get(self._name)
        return handler

    def __set__(self, net: Net, handler: Callable[[E], object] | None) -> None:
        vars(net)[self._name] = handler
        net._handler_changed(self._name)


class _Turn:
    """Who waits to send to one identity on one channel, in the order they came."""

    __slots__ = ("is_over", "lock", "users")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.users = 0
        self.is_over = False
        """The session or channel that they wait for was closed: what they have must not open another one."""


class _Stream(Generic[T]):
    """An endless `async for` that keeps nothing between its steps, so that it may be dropped or cancelled anywhere."""

    def __init__(self, step: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._step = step

    def __aiter__(self) -> _Stream[T]:
        return self

    async def __anext__(self) -> T:
        return await self._step()


class Net:
    """What `open` returns. Methods raise ClosedError once it is closed, also in those that wait at that moment.

    Callbacks run in the loop, one after the other; one that is a coroutine function becomes a task. What they raise goes to the
    loop's exception handler.
    """

    on_session_request = _Handler[SessionRequested]()
    """A stranger wants to talk: answer with `accept`, or send to him. Without it, `requests` tells."""
    on_session_failed = _Handler[SessionFailed]()
    """A session ended in a way that must be known, with what was lost. Without it, `failures` tells."""
    on_peer_refused = _Handler[PeerRefused]()
    """Somebody used a name that is known with another key; it is logged without a handler."""
    on_route_changed = _Handler[RouteChanged]()
    """Packets to a peer that was called by identity take another way."""

    on_relay_network_status = _Handler[RelayNetworkChanged]()
    """The relay network stands differently (see `relay_network`), such as when pings are measured."""

    def __init__(self, opened: Opened) -> None:
        self.identity = opened.standing.identity
        self._opened = opened
        self._endpoint = opened.endpoint
        self._names = Names()
        self._told = Told(opened.endpoint)
        self._turns: dict[tuple[Identity, int], _Turn] = {}
        self._tasks: set[asyncio.Future[Any]] = set()
        self._is_closing = False
        self._answers_blobs = False
        self.relay_network = RelayView(opened.endpoint, lambda command: self._call(command))
        """How the relay network stands, where we are in it, and what pings follow."""
        self._blobs = BlobPort(opened.endpoint, self._call, lambda: self._driver.look_again())
        self._dispatcher: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._driver = AsyncioDriver(
            opened.driven,
            batching=opened.batching,
            signaling=opened.service,
            memory=opened.memory,
            keeper=opened.standing.known_file,
        )

    async def __aenter__(self) -> Net:
        try:
            self._loop = asyncio.get_running_loop()
            await self._driver.start()
            self._opened.start_service(self._driver, self._driver.close)
        except BaseException:
            self._opened.standing.release()
            raise
        self._dispatcher = asyncio.create_task(self._dispatch(), name="peergram events")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    # --- sending ---

    async def send(
        self, identity: str | Identity, data: bytes, *, reliable: bool = True, channel: int = 0, delivered: bool = False
    ) -> None:
        """Send one message of at most 524288 bytes; opens a session if there is none, accepts one that is asked for.

        Returns once the message is on its way, or, with `delivered`, once the peer's library has all of it. Waits while the send
        buffer to this identity is full, until half of it is free; those who wait on one channel are served in the order they
        came, and do not keep other channels waiting. A `send` that is cancelled was not sent, unless it waited for delivery only.
        Raises SessionBrokenError (close the session to begin anew; with `delivered` the message may have arrived all the same;
        also if the session or channel is closed while this waits for room: then it was not sent), NoRouteError,
        MessageTooLargeError, UsageError for wrong arguments.
        """
        if delivered and not reliable:
            raise UsageError("delivered: nobody learns what becomes of an unreliable message; send it reliably")
        who = self._names.resolve(identity)
        payload = data if type(data) is bytes else bytes_of(data)
        flags = int(SendFlags.RELIABLE if reliable else SendFlags.UNRELIABLE)
        endpoint = self._endpoint
        if delivered:
            await self._deliver(who, payload, flags, channel)
        else:
            await self._send(who, payload, channel, lambda now_us: endpoint.send_message(who, payload, flags, channel, now_us))

    async def _deliver(self, who: Identity, payload: bytes, flags: int, channel: int) -> None:
        receipt: Receipt | None = None

        def send(now_us: int) -> Result:
            nonlocal receipt
            result, receipt = self._endpoint.send_with_receipt(who, payload, flags, channel, now_us)
            return result

        await self._send(who, payload, channel, send)
        if (kept := receipt) is None:
            return
        await self._until(lambda: kept.state != "pending")
        if kept.state != "delivered":
            text = f"to {who.printable}: the session ended before anybody confirmed the message: {kept.debug} ({kept.reason})"
            raise SessionBrokenError(text, who, Result.CONNECT_FAILED, kept.reason, kept.debug)

    async def _send(self, who: Identity, payload: bytes, channel: int, send: Callable[[int], Result]) -> None:
        if (who, channel) not in self._turns:
            result = self._call(send)
            if result is _OK:
                return
            if result is not _LIMIT_EXCEEDED:
                raise self._error(who, result)
        await self._send_in_turn(who, payload, channel, send)

    async def _send_in_turn(self, who: Identity, payload: bytes, channel: int, send: Callable[[int], Result]) -> None:
        turn = self._turns.setdefault((who, channel), _Turn())
        turn.users += 1
        # Without one it is receipts that are short.
        had_session = self._state(who) is not ConnectionState.NONE
        try:
            async with turn.lock:
                self._refuse_if_over(turn, who, had_session=had_session)
                if len(payload) > REFERENCE_MESSAGE_BYTES_MAX:
                    # Whether he takes the last few bytes is known only then.
                    await self.connected(who)
                    self._refuse_if_over(turn, who, had_session=had_session)
                while (result := self._call(send)) is _LIMIT_EXCEEDED:
                    if not self._endpoint.may_fit_later(who):
                        raise self._error(who, result)
                    await self._until(lambda: turn.is_over or self._endpoint.has_room_for(who, len(payload)))
                    self._refuse_if_over(turn, who, had_session=had_session)
        finally:
            turn.users -= 1
            if not turn.users and not turn.is_over:
                del self._turns[who, channel]
        if result is not _OK:
            raise self._error(who, result)

    def _refuse_if_over(self, turn: _Turn, who: Identity, *, had_session: bool) -> None:
        if had_session and not turn.is_over and self._state(who) is ConnectionState.NONE:
            # The peer has closed it.
            self._end_turns(who)
        if turn.is_over:
            text = f"to {who.printable}: the session was closed while the message waited for room: it was not sent"
            raise SessionBrokenError(text, who, Result.CONNECT_FAILED, EndReason.SESSION_CLOSED, "it was closed")

    def _end_turns(self, who: Identity, channel: int | None = None) -> None:
        """Whoever waits for room in a session or channel that was closed goes away empty-handed."""
        for key in [key for key in self._turns if key[0] == who and channel in (None, key[1])]:
            self._turns.pop(key).is_over = True
        self._driver.look_again()

    async def connected(self, identity: str | Identity) -> SessionInfo:
        """Call this identity if there is no session (accept it, if it asks for one), and wait until the session is up.

        Raises SessionBrokenError or NoRouteError if it cannot be; use `asyncio.timeout` to wait no longer than you like.
        """
        who = self._names.resolve(identity)
        if who == self.identity:
            return self.info(who)
        result = self._call(lambda now_us: self._endpoint.ping(who, now_us))
        if result is not _OK:
            raise self._error(who, result)
        await self._until(lambda: self._state(who) not in (ConnectionState.CONNECTING, ConnectionState.FINDING_ROUTE))
        info = self.info(who)
        if info.state is not ConnectionState.CONNECTED:
            raise self._error(who, Result.CONNECT_FAILED)
        return info

    def flush(self, identity: str | Identity) -> None:
        """Send what waits for company (Nagle) now."""
        who = self._names.resolve(identity)
        self._call(lambda now_us: self._endpoint.flush(who))

    # --- receiving ---

    async def receive(self, channel: int = 0) -> Message:
        """The oldest unread message of a channel. Several tasks may wait on one channel; each message goes to one of them."""
        while True:
            if taken := self._call(lambda now_us: self._endpoint.receive_messages(channel, 1, now_us)):
                return taken[0]
            await self._until(lambda: self._endpoint.has_unread(channel))

    def channel(self, channel: int) -> _Stream[Message]:
        """The messages of a channel, for `async for`, for ever."""
        return _Stream(lambda: self.receive(channel))

    # --- blobs ---

    async def send_blob(
        self,
        identity: str | Identity,
        source: BlobSource,
        *,
        channel: int,
        name: str = "",
        progress: Progress | None = None,
        give_up_after_s: float = 30.0,
    ) -> None:
        """Send data of any size (bytes, a path, a binary file object that can seek), on a channel for blobs only.

        Returns once the receiver's `receive_blob` has all of it with the right checksum. Goes on by itself after the session
        broke, until nobody has been reached for `give_up_after_s`; called again, also by another run of the program, it goes on
        where it stopped. `progress(received, size)` is called on the way. If this is cancelled, the receiver is told. Raises
        BlobError, OSError for a file that cannot be read.
        """
        who = self._names.resolve(identity)
        steps = send_steps(
            self._blobs, who, source, channel=channel, name=name, progress=progress, give_up_after_s=give_up_after_s
        )
        await self._run_steps(steps)

    async def receive_blob(
        self,
        *,
        channel: int,
        into: Sink = None,
        identity: str | Identity | None = None,
        size_max: int | None = None,
        progress: Progress | None = None,
    ) -> Blob:
        """Wait for the next blob on a channel, from `identity` or anyone, and take it whole.

        `into`: a path (the beginning is kept in a `.part` file beside it until all is there), a binary file object, or None for
        memory. Larger ones than `size_max` are refused; in memory that is 64 MiB unless you say otherwise. Stays through a broken
        session, since its sender may come back; use `asyncio.timeout` to wait no longer than you like. Raises BlobError, OSError
        for a path that cannot be written.
        """
        who = None if identity is None else self._names.resolve(identity)
        steps = receive_steps(self._blobs, channel=channel, into=into, identity=who, size_max=size_max, progress=progress)
        try:
            return await self._run_steps(steps)
        finally:
            if self._blobs.owing and not self._answers_blobs and not self._is_closing:
                self._answers_blobs = True
                self._keep(asyncio.create_task(self._answer_blobs(), name="peergram blobs"))

    async def _answer_blobs(self) -> None:
        """Until every sender knows how his blob ended; he may come back for it after a broken session."""
        try:
            while self._blobs.owing:
                await self._until(lambda: self._blobs.may_answer)
                self._blobs.answer()
        except ClosedError:
            pass
        finally:
            self._answers_blobs = False

    async def _run_steps(self, steps: Steps[T]) -> T:
        try:
            while True:
                try:
                    step = next(steps)
                except StopIteration as end:
                    value: T = end.value
                    return value
                if isinstance(step, Work):
                    await asyncio.to_thread(step.run)
                elif step.until_us == NEVER:
                    await self._until(step.wanted)
                else:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(max(0, step.until_us - monotonic_us()) / 1e6):
                            await self._until(step.wanted)
        finally:
            steps.close()

    # --- sessions ---

    def requests(self) -> _Stream[SessionRequested]:
        """Strangers who want to talk, for `async for`: answer with `accept`, send to them, or let them be. `on_session_request`
        goes first, if it is set."""
        return _Stream(lambda: self._next(self._told.next_request, lambda: len(self._told.requests)))

    def failures(self) -> _Stream[SessionFailed]:
        """Sessions that ended in a way that must be known, for `async for`. `on_session_failed` goes first, if it is set."""
        return _Stream(lambda: self._next(self._told.next_failure, lambda: len(self._told.failures)))

    async def _next(self, poll: Callable[[], E | None], waiting: Callable[[], int]) -> E:
        while True:
            self._refuse_if_closing()
            with self._driver.lock:
                event = poll()
            if event is not None:
                return event
            await self._until(lambda: waiting() > 0)

    def accept(self, identity: str | Identity) -> bool:
        """Let a stranger in who asked; True also for a live session, False without any."""
        who = self._names.resolve(identity)
        return self._call(lambda now_us: self._endpoint.accept_session(who, now_us))

    def close(self, identity: str | Identity) -> bool:
        """End the session and throw away its unread messages; False if there is none. After a failure: the next send begins
        anew. A `send` that waits for room raises SessionBrokenError."""
        who = self._names.resolve(identity)
        closed = self._call(lambda now_us: self._endpoint.close_session(who, now_us))
        self._end_turns(who)
        return closed

    def close_channel(self, identity: str | Identity, channel: int) -> bool:
        """Close one channel; the last one closes the session. False if the channel is not open. A `send` that waits for room in
        what is closed raises SessionBrokenError."""
        who = self._names.resolve(identity)
        closed = self._call(lambda now_us: self._endpoint.close_channel(who, channel, now_us))
        self._end_turns(who, None if self._state(who) is ConnectionState.NONE else channel)
        return closed

    def info(self, identity: str | Identity) -> SessionInfo:
        """State of the session with this identity, what is known about its connection, and how that is doing."""
        who = self._names.resolve(identity)
        return self._call(lambda now_us: session_info(self._endpoint, who, now_us, connection=True, status=True))

    # --- the rest ---

    @property
    def key_fingerprint(self) -> str:
        """Our own key as others see it, for people to compare (`SHA256:` and base64)."""
        return self._endpoint.key_fingerprint

    @property
    def signaling_status(self) -> str:
        """How the signaling service stands, in one sentence for people."""
        service = self._opened.service
        return "no signaling: peers are reached by address only" if service is None else service.status

    @property
    def local_addresses(self) -> list[Address]:
        """Where we listen."""
        return self._endpoint.local_addresses

    def renew_certificate(self, certificate: Source) -> None:
        """Show this certificate in new sessions, in place of one that expires; sessions that are up go on. Raises UsageError if
        it is not for our identity and key."""
        signed, _ = load_certificate(certificate, self.identity)
        self._call(lambda now_us: self._endpoint.renew_certificate(signed))

    def renew_authorities(self, authorities: Source | Iterable[Source] | TrustStore) -> None:
        """Believe these authorities from now on, such as when one of them has revoked a key; sessions that are up go on. Raises
        UsageError for a file that cannot be read; then nothing changes."""
        store = open_authorities(authorities)
        self._call(lambda now_us: self._endpoint.renew_authorities(store))

    async def aclose(self) -> None:
        """End all sessions and tell the peers; whoever waits gets ClosedError at once. `async with` does it.

        Reliable messages already sent get up to `config.linger_us` to arrive; what is unconfirmed then is logged. If this is
        cancelled, they get no more time.
        """
        if self._is_closing:
            await self._driver.wait_closed()
            return
        self._is_closing = True
        self._driver.look_again()
        try:
            if self._loop is not None and not self._driver.closed:
                await self._flush_all()
        finally:
            if self._dispatcher is not None:
                self._dispatcher.cancel()
            self._driver.close()
            self._opened.standing.release()

    async def _flush_all(self) -> None:
        linger_us = self._endpoint.config.linger_us
        self._driver.call(lambda now_us: self._endpoint.close_all(now_us, linger_us=linger_us))
        try:
            async with asyncio.timeout((linger_us + LINGER_MARGIN_US) / 1e6):
                await self._driver.until(lambda: not self._endpoint.is_flushing)
        except TimeoutError:
            pass
        if (text := text_of_losses(self._driver.poll_events())) is not None:
            _log.warning("%s", text)

    # --- inside ---

    def _call(self, command: Callable[[int], T]) -> T:
        self._refuse_if_closing()
        return self._driver.call(command)

    async def _until(self, wanted: Callable[[], bool]) -> None:
        await self._driver.until(lambda: self._is_closing or wanted())
        self._refuse_if_closing()

    def _refuse_if_closing(self) -> None:
        if self._is_closing:
            raise ClosedError(_CLOSED_TEXT)

    def _state(self, who: Identity) -> ConnectionState:
        known = self._endpoint.connection_info(who, 0)
        return ConnectionState.NONE if known is None else known.state

    def _error(self, who: Identity, result: Result) -> SendError:
        """Why a send was refused, and what may help."""
        name = who.printable
        if result is Result.FAIL:
            return NoRouteError(f"to {name}: {EXPLAINED[result]}", who, result)
        if result in (Result.INVALID_PARAM, _LIMIT_EXCEEDED):
            text = f"to {name}: a message has at most {REFERENCE_MESSAGE_BYTES_MAX} bytes; use send_blob for what is larger"
            return MessageTooLargeError(text, who, result)
        known = self._endpoint.connection_info(who, 0)
        reason, debug = (0, "it was closed here") if known is None else (known.end_reason, known.end_debug)
        text = f"the session with {name} broke: {debug} ({reason}); close it, and the next send begins anew"
        return SessionBrokenError(text, who, result, reason, debug)

    async def _dispatch(self) -> None:
        """Take events as they come, and give them to whom they concern."""
        while True:
            try:
                await self._driver.events_arrived()
            except ClosedError:
                return
            if self._is_closing:
                # What closing itself causes is `aclose`'s to tell.
                return
            with self._driver.lock:
                self._told.take(self._driver.poll_events())
            self._run_handlers()
            self._driver.look_again()

    def _handler_changed(self, name: str) -> None:
        if name == "_on_route_changed":
            with self._driver.lock:
                self._endpoint.tell_route_changes()
        if name == "_on_relay_network_status":
            with self._driver.lock:
                self._endpoint.tell_relay_status(tells=self.on_relay_network_status is not None)
        if self._loop is not None and not self._is_closing:
            self._loop.call_soon(self._run_handlers)

    def _run_handlers(self) -> None:
        told = self._told
        self._hand_over(self.on_session_failed, told.next_failure)
        self._hand_over(self.on_session_request, told.next_request)
        self._hand_over(self.on_peer_refused or _log_refused, told.next_refused)
        self._hand_over(self.on_route_changed, told.next_route_change)
        self._hand_over(self.on_relay_network_status, told.next_relay_change)

    def _hand_over(self, handler: Callable[[E], object] | None, poll: Callable[[], E | None]) -> None:
        while handler is not None and not self._is_closing:
            with self._driver.lock:
                event = poll()
            if event is None:
                return
            try:
                result = handler(event)
                if inspect.isawaitable(result):
                    self._keep(asyncio.ensure_future(result))
            except Exception as error:  # noqa: BLE001 - the loop's handler decides
                self._report(error)

    def _keep(self, task: asyncio.Future[Any]) -> None:
        """Until it is done: the loop itself does not."""
        self._tasks.add(task)
        task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Future[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._report(error)

    def _report(self, error: BaseException) -> None:
        assert self._loop is not None, "started"
        self._loop.call_exception_handler({"message": "a callback of peergram raised", "exception": error})


def _log_refused(refused: PeerRefused) -> None:
    _log.warning("%s", refused.text)
