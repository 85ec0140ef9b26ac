"""Signaling through a server, `peergram serve`: one WebSocket connection on a thread of its own, made again whenever it is lost.

Of several servers, the nodes of one fleet, any will do: where one is lost the connection is made again at another one.

A call in progress does not notice: what is to be sent waits a few seconds, and sessions that are up need no signaling.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import ssl
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from peergram import config as limits
from peergram.drivers.interfaces import InterfaceWatch
from peergram.drivers.log_limit import LogLimit
from peergram.drivers.signaling.network_change import MakeWatch, NetworkChange
from peergram.drivers.system import (
    give_up_unacknowledged,
    is_routed_as_before,
    monotonic_us,
    secure_entropy,
    watch_process,
)
from peergram.errors import UsageError, WireError
from peergram.identity import Identity
from peergram.signaling.server_choice import ServerChoice
from peergram.signaling.server_url import ServerUrl, parse_server_urls
from peergram.signaling.service import Deliver, LocalParty
from peergram.signaling.unsent import Unsent
from peergram.signaling.websocket_protocol import (
    LASTING_REFUSALS,
    NONCE_BYTES,
    SERVER_FRAME_BYTES_MAX,
    VERSION,
    CarriedSignal,
    Hello,
    Issued,
    Login,
    Refused,
    Replaced,
    ServerMessage,
    Welcome,
    check_name,
    decode_server_message,
    encode_client_message,
    login_text,
)
from peergram.timing import NEVER
from peergram.wire.relay_news import RelayNews, Tickets

_FAREWELL_S = 0.5

_log = logging.getLogger(__name__)
_frame_log = logging.getLogger(f"{__name__}.frames")
# What a server sends must not write lines (E15).
_frame_log.setLevel(logging.CRITICAL + 1)


class _Lost(Exception):
    """The connection came to nothing; the text says why, for people. `pause_us`: not to be tried again before."""

    def __init__(self, why: str, pause_us: int = 0) -> None:
        super().__init__(why)
        self.pause_us = pause_us


class _Replaced(Exception):
    """The same key has logged in elsewhere."""


class WebSocketSignaling:
    """A client of the server at `url`, as `peergram serve` prints it; or of one fleet, whose nodes are at several of them.

    Raises UsageError for a URL that is none; several may also stand in one text, with commas between. `ca_file` holds
    certificates to trust rather than those of the system, for servers without a fingerprint in their URL; `ping_us` is how often
    the connection is tried, `make_watch` is for tests. When another client logs in with the same key, this one stays away for
    good, and its status says so.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        *,
        ca_file: Path | None = None,
        ping_us: int = limits.SIGNALING_PING_US,
        make_watch: MakeWatch = InterfaceWatch,
    ) -> None:
        self.urls: tuple[ServerUrl, ...] = parse_server_urls(url)
        self._tls = {each: _tls_context(each, ca_file) for each in self.urls}
        self._servers = ServerChoice(len(self.urls), random.random())
        self._party: LocalParty | None = None
        self._deliver: Deliver | None = None
        self._ping_s = ping_us / 1e6
        self._unsent = Unsent()
        self._lock = threading.Lock()
        self._closed = False
        self._is_welcome = False
        self._status = "not started"
        self._about = self.url
        self._log_limit = LogLimit()
        self._thread = threading.Thread(target=self._run, name="peergram-signaling", daemon=True)
        # Made by the thread, set from any.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._bell = asyncio.Event()
        self._make_watch = make_watch
        self._has_moved = asyncio.Event()
        """Set when this machine's addresses have changed, until somebody has looked at that."""
        self._end = asyncio.Event()

    # For the library

    def start(self, party: LocalParty, deliver: Deliver) -> None:
        """As the protocol says; raises UsageError for an `ip:` identity, or when it was used before."""
        if self._party is not None or self._closed:
            raise UsageError("this WebSocketSignaling was used before: make a new one")
        check_name(party.identity)
        if len(party.certificate) > limits.LOGIN_CERTIFICATE_BYTES_MAX:
            most = f"at most {limits.LOGIN_CERTIFICATE_BYTES_MAX} fit into a login"
            raise UsageError(f"the certificate of {party.identity.printable} has {len(party.certificate)} bytes, and {most}")
        self._party, self._deliver = party, deliver
        self._status = "connecting"
        watch_process(self)
        self._thread.start()

    def send(self, to: Identity, signal: bytes) -> None:
        """As the protocol says; signals above 8 KiB are dropped, and the oldest where too many wait for the connection."""
        if self._closed or len(signal) > limits.CARRIED_BYTES_MAX:
            return
        self._unsent.put(to, signal, monotonic_us())
        self._set(self._bell)

    def close(self, timeout_s: float = 1.0) -> None:
        """As the protocol says."""
        with self._lock:
            was_closed, self._closed = self._closed, True
        if was_closed:
            return
        self._status = "closed"
        self._set(self._end)
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)

    def abandon(self) -> None:
        """In a forked child: thread and connection are the parent's."""
        self._closed = True
        self._loop = None

    @property
    def url(self) -> ServerUrl:
        """The server that this is about at the moment."""
        return self.urls[self._servers.current]

    @property
    def is_welcome(self) -> bool:
        """Whether the server has let us in, and the connection has not been lost since."""
        return self._is_welcome

    @property
    def status(self) -> str:
        """As the protocol says."""
        return f"Signaling server {self._about.connect_text}: {self._status}."

    # The thread

    def _set(self, event: asyncio.Event) -> None:
        loop = self._loop
        if loop is not None:
            with suppress(RuntimeError):
                # The loop may have ended in between.
                loop.call_soon_threadsafe(event.set)

    def _run(self) -> None:
        asyncio.run(self._live_until_closed())

    async def _live_until_closed(self) -> None:
        self._loop = asyncio.get_running_loop()
        if self._closed:
            return
        living, ending = asyncio.ensure_future(self._live()), asyncio.ensure_future(self._end.wait())
        watching = asyncio.ensure_future(self._watch_network())
        await asyncio.wait((living, ending), return_when=asyncio.FIRST_COMPLETED)
        for task in (ending, watching, living):
            task.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        with suppress(asyncio.CancelledError):
            await living

    async def _watch_network(self) -> None:
        """Until cancelled."""
        network, signs = NetworkChange(self._make_watch), asyncio.Event()
        loop, descriptor = asyncio.get_running_loop(), network.fileno()

        def take_signs() -> None:
            network.handle_signs()
            signs.set()

        try:
            if descriptor >= 0:
                loop.add_reader(descriptor, take_signs)
            while True:
                if network.has_changed:
                    network.forget()
                    self._has_moved.set()
                wait_s = None if network.due_us >= NEVER else max(0, network.due_us - monotonic_us()) / 1e6
                with suppress(TimeoutError):
                    await asyncio.wait_for(signs.wait(), wait_s)
                signs.clear()
        finally:
            if descriptor >= 0:
                loop.remove_reader(descriptor)
            network.close()

    async def _live(self) -> None:
        """Until cancelled, or replaced."""
        while True:
            try:
                await self._connect_once()
            except _Replaced:
                self._set_status("this identity has logged in elsewhere, so this program is no longer reachable through it")
                return
            except _Lost as lost:
                self._set_status(f"{lost}; trying {'again' if len(self.urls) == 1 else 'another one'}")
                pause_us = self._servers.handle_lost(monotonic_us(), random.random(), lost.pause_us)
            finally:
                self._is_welcome = False
            await self._pause(pause_us)

    async def _pause(self, pause_us: int) -> None:
        """Shorter if there is another network, which may be one that works."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._has_moved.wait(), pause_us / 1e6)
        self._has_moved.clear()

    async def _connect_once(self) -> NoReturn:
        """One connection from beginning to end, which is _Lost or _Replaced."""
        connection = await self._open()
        try:
            async with asyncio.timeout(limits.SIGNALING_CONNECT_TIMEOUT_US / 1e6):
                await self._log_in(connection)
            self._servers.handle_connected(monotonic_us())
            self._is_welcome = True
            self._set_status("connected")
            await self._carry(connection)
        except TimeoutError:
            raise _Lost("it does not answer the login") from None
        except ConnectionClosed:
            raise _Lost("the connection was lost") from None
        except WireError as error:
            raise _Lost(f"it does not speak our protocol ({error})") from None
        finally:
            if self._closed:
                await self._hang_up(connection)
            # Also after a server that did not answer our goodbye.
            connection.transport.abort()

    async def _open(self) -> ClientConnection:
        url = self.url
        try:
            connection = await connect(
                url.connect_text,
                ssl=self._tls[url],
                compression=None,
                max_size=SERVER_FRAME_BYTES_MAX,
                open_timeout=limits.SIGNALING_CONNECT_TIMEOUT_US / 1e6,
                ping_interval=self._ping_s,
                ping_timeout=self._ping_s,
                close_timeout=_FAREWELL_S,
                logger=_frame_log,
                # A proxy of the environment is for the internet.
                proxy=None if url.is_loopback else True,
            )
        except ssl.SSLCertVerificationError as error:
            why = f"its certificate is not to be trusted ({error.verify_message})"
            raise _Lost(why, limits.SIGNALING_REFUSED_PAUSE_US) from None
        except (OSError, TimeoutError, WebSocketException, ValueError, ImportError) as error:
            # The last two: names that DNS cannot have, and proxies that need a library which is not there.
            raise _Lost(f"it cannot be reached ({_why(error)})") from None
        give_up_unacknowledged(connection.transport.get_extra_info("socket"), limits.SIGNALING_UNACKNOWLEDGED_US)
        if url.fingerprint is not None:
            shown = connection.transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
            if hashlib.sha256(shown or b"").digest() != url.fingerprint:
                connection.transport.abort()
                raise _Lost("it shows another certificate than the one in its address", limits.SIGNALING_REFUSED_PAUSE_US)
        return connection

    async def _log_in(self, connection: ClientConnection) -> None:
        assert self._party is not None
        party, url = self._party, str(self.url)
        hello = _told(await connection.recv())
        if not isinstance(hello, Hello):
            raise WireError("no hello")
        if hello.version != VERSION:
            raise _Lost(f"it speaks version {hello.version}, we speak {VERSION}", limits.SIGNALING_REFUSED_PAUSE_US)
        nonce = secure_entropy(NONCE_BYTES)
        text = login_text(
            server_nonce=hello.nonce, client_nonce=nonce, url=url, identity=party.identity, public_key=party.public_key
        )
        login = Login(party.identity, party.public_key, nonce, url, party.sign(text), party.certificate)
        await connection.send(encode_client_message(login))
        if not isinstance(_told(await connection.recv()), Welcome):
            raise WireError("no welcome")

    async def _carry(self, connection: ClientConnection) -> NoReturn:
        """Both ways, as long as the connection lasts."""
        receiving = asyncio.ensure_future(self._receive(connection))
        try:
            while True:
                while (signal := self._unsent.take(monotonic_us())) is not None:
                    await connection.send(encode_client_message(CarriedSignal(*signal)))
                self._bell.clear()
                if self._unsent:
                    continue
                ringing, moving = asyncio.ensure_future(self._bell.wait()), asyncio.ensure_future(self._has_moved.wait())
                await asyncio.wait((ringing, moving, receiving), return_when=asyncio.FIRST_COMPLETED)
                ringing.cancel()
                moving.cancel()
                if receiving.done():
                    receiving.result()
                if self._has_moved.is_set():
                    self._look_at_network(connection)
        finally:
            receiving.cancel()

    def _look_at_network(self, connection: ClientConnection) -> None:
        """This machine's addresses have changed: does that concern this connection?"""
        if not is_routed_as_before(connection.transport.get_extra_info("socket")):
            # Left set, so that the next attempt does not wait.
            raise _Lost("this machine moved to another network")
        self._has_moved.clear()

    async def _receive(self, connection: ClientConnection) -> None:
        assert self._deliver is not None
        while True:
            message = _told(await connection.recv())
            if isinstance(message, Issued):
                self._take_certificate(message.certificate)
                continue
            if isinstance(message, RelayNews | Tickets):
                self._take_relays(message)
                continue
            if not isinstance(message, CarriedSignal):
                raise WireError("an answer to nothing")
            if self._closed:
                return
            try:
                self._deliver(message.peer, message.blob)
            except Exception:  # noqa: BLE001
                if (more := self._log_limit.note("deliver", monotonic_us())) is not None:
                    _log.exception("a signal could not be handed over%s", more)

    def _take_certificate(self, certificate: bytes) -> None:
        assert self._party is not None
        if self._party.take_certificate is None or self._closed:
            return
        try:
            self._party.take_certificate(certificate)
        except Exception:  # noqa: BLE001
            if (more := self._log_limit.note("certificate", monotonic_us())) is not None:
                _log.exception("a certificate could not be handed over%s", more)

    def _take_relays(self, message: RelayNews | Tickets) -> None:
        assert self._party is not None
        if self._party.take_relays is None or self._closed:
            return
        try:
            self._party.take_relays(message)
        except Exception:  # noqa: BLE001
            if (more := self._log_limit.note("relays", monotonic_us())) is not None:
                _log.exception("news of relays could not be handed over%s", more)

    @staticmethod
    async def _hang_up(connection: ClientConnection) -> None:
        with suppress(TimeoutError, OSError, WebSocketException):
            async with asyncio.timeout(_FAREWELL_S):
                await connection.close()

    def _set_status(self, text: str) -> None:
        if not self._closed:
            self._about, self._status = self.url, text


def _told(frame: str | bytes) -> ServerMessage:
    """What the server said; the end of the connection, if that is what it said."""
    if isinstance(frame, str):
        raise WireError("text where bytes belong")
    message = decode_server_message(frame)
    if isinstance(message, Replaced):
        raise _Replaced
    if isinstance(message, Refused):
        text = "".join(c if c.isprintable() else "?" for c in message.text)
        pause_us = limits.SIGNALING_REFUSED_PAUSE_US if message.code in LASTING_REFUSALS else 0
        raise _Lost(f"it refuses us: {text}", pause_us)
    return message


def _why(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer"
    return str((error.strerror if isinstance(error, OSError) else None) or error).rstrip(".")


def _tls_context(url: ServerUrl, ca_file: Path | None) -> ssl.SSLContext | None:
    if not url.is_secure:
        return None
    if url.fingerprint is None:
        try:
            return ssl.create_default_context(cafile=str(ca_file) if ca_file is not None else None)
        except OSError as error:
            raise UsageError(f"{str(ca_file)!r} holds no certificates: {error.strerror or error}") from None
    # The fingerprint says more than any authority could; it is checked before anything of ours is said.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
