"""A node of a fleet on its bus: NATS around `FleetCore`, and the store of names.

No client has to wait for anything here, but with a name that no node has heard of. A broker that is lost is replaced by another
one of the cluster; what is published meanwhile waits for a moment, up to a limit, and is repeated by clients anyway.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import AuthorizationError, NoRespondersError
from nats.errors import Error as NatsError
from nats.js.errors import ServiceUnavailableError

from peergram import config as limits
from peergram.address import is_loopback
from peergram.drivers.system import monotonic_us, secure_entropy, wall_offset_us
from peergram.errors import UsageError
from peergram.identity import Identity
from peergram.servers.fleet_core import (
    Deliver,
    Displace,
    DocumentTold,
    FleetCore,
    FleetSettings,
    Load,
    NameTold,
    Publish,
    Subscribe,
    Unsubscribe,
)
from peergram.servers.fleet_store import NameStore
from peergram.servers.operator_log import tell
from peergram.servers.signaling_core import Arrived, Claimed, ClaimName, Elsewhere, FleetOutput, Left, RenewName, SignalingCore

# The library's own words for what `tell` says better.
logging.getLogger("nats").setLevel(logging.CRITICAL + 1)

_UNREACHABLE = (NatsError, OSError, TimeoutError)


class Home(Protocol):
    """The server that a node is."""

    core: SignalingCore

    def drain_soon(self) -> None:
        """Do what the core wants."""

    def load(self) -> Load:
        """What there is to do."""


class Fleet:
    """One node: `start`, then outputs of the server's core go to `handle_output`; `close` ends it."""

    def __init__(self, settings: FleetSettings, home: Home) -> None:
        self.settings = settings
        self.counters: Counter[str] = Counter()
        self.core = FleetCore(
            name=settings.node,
            entropy=secure_entropy,
            load=home.load,
            now_us=monotonic_us(),
            wall_offset_us=wall_offset_us(),
            newer_key_wins=settings.newer_key_wins,
        )
        self.are_names_reachable = settings.keeps_names
        self._home = home
        self._on_document: Callable[[bytes], None] | None = None
        self._client = Client()
        self._store: NameStore | None = None
        self._subscriptions: dict[str, Subscription] = {}
        self.changes: dict[str, bool] = {}
        """Subjects at which it is to listen from now on, or no more; they go before what is published."""
        self._work: deque[tuple[int, Publish]] = deque()
        """With the time at which it began to wait."""
        self._publishing_bytes = 0
        self._is_found = asyncio.Event()
        self._has_work = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._renewing = asyncio.Semaphore(limits.FLEET_RENEWALS_AT_ONCE)
        self._to_renew: set[Identity] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False
        self._refused = asyncio.Event()

    @property
    def is_connected(self) -> bool:
        """Whether there is a broker."""
        return bool(self._client.is_connected)

    @property
    def where(self) -> str:
        """The broker that it is connected to."""
        url = self._client.connected_url
        return url.netloc.rpartition("@")[2] if url is not None else "nowhere"

    @property
    def is_bus_private(self) -> bool:
        """Whether nobody on the way can read or forge what nodes say."""
        urls = [urlsplit(each if "://" in each else f"nats://{each}") for each in self.settings.urls]
        plain = [url.hostname or "" for url in urls if url.scheme not in ("tls", "wss")]
        return self.settings.tls_ca is not None or all(_is_loopback(host) for host in plain)

    # Life

    async def start(self) -> None:
        """Find a broker, and the store of names. Raises UsageError that says what is missing."""
        until_s = time.monotonic() + limits.FLEET_START_US / 1e6
        try:
            async with asyncio.timeout(limits.FLEET_START_US / 1e6):
                await self._connect_unless_refused()
        except _UNREACHABLE as error:
            with suppress(*_UNREACHABLE):
                await self._client.close()
            raise UsageError(f"no NATS server can be used at {_printable(self.settings.urls)} ({_why(error)})") from None
        if self.settings.keeps_names:
            try:
                await self._open_store(until_s)
            except UsageError:
                await self._client.close()
                raise
        self._is_found.set()
        self._worker = asyncio.get_running_loop().create_task(self._do_work())
        self._drain()

    async def close(self) -> None:
        """Leave the bus."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        with suppress(*_UNREACHABLE):
            async with asyncio.timeout(limits.SERVER_CLOSE_US / 1e6):
                while (self.changes or self._work) and self.is_connected:
                    await asyncio.sleep(0.01)
                await self._client.flush()
        for task in (self._worker, *self._tasks):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
        with suppress(*_UNREACHABLE):
            await self._client.close()

    async def _connect_unless_refused(self) -> None:
        """Who is refused once by a broker is refused by all, so that is no reason to go on looking."""
        connecting = asyncio.ensure_future(self._connect())
        refused = asyncio.ensure_future(self._refused.wait())
        try:
            await asyncio.wait((connecting, refused), return_when=asyncio.FIRST_COMPLETED)
            if not connecting.done():
                raise AuthorizationError
            await connecting
        finally:
            for task in (connecting, refused):
                task.cancel()

    async def _connect(self) -> None:
        settings = self.settings
        options: dict[str, object] = {}
        if settings.credentials is not None:
            options["user_credentials"] = str(settings.credentials)
        if settings.login is not None:
            options["user"], options["password"] = _read_login(settings.login)
        if (context := _tls_context(settings)) is not None:
            options["tls"] = context
        await self._client.connect(
            servers=list(settings.urls),
            name=f"peergram {settings.node}",
            no_echo=True,
            error_cb=self._handle_error,
            disconnected_cb=self._handle_lost,
            reconnected_cb=self._handle_found,
            connect_timeout=limits.FLEET_CONNECT_US / 1e6,  # type: ignore[arg-type]
            reconnect_time_wait=limits.FLEET_RETRY_US / 1e6,  # type: ignore[arg-type]
            max_reconnect_attempts=-1,
            ping_interval=limits.FLEET_PING_US / 1e6,  # type: ignore[arg-type]
            max_outstanding_pings=limits.FLEET_PINGS_LOST_MAX,
            pending_size=limits.FLEET_PENDING_BYTES_MAX,
            **options,  # type: ignore[arg-type]
        )

    async def _open_store(self, until_s: float) -> None:
        """A cluster that starts has to elect first, so one that has no answer yet is asked again."""
        began_s = time.monotonic()
        while True:
            stream = self._client.jetstream(timeout=limits.FLEET_CLAIM_US / 1e6)
            brokers = max(len(self.settings.urls), len(self._client.servers))
            try:
                self._store = await NameStore.open(stream, brokers)
                break
            except _UNREACHABLE as error:
                # Brokers that have none at all do not even refuse.
                if isinstance(error, ServiceUnavailableError | NoRespondersError):
                    until_s = min(until_s, began_s + limits.FLEET_CONNECT_US / 1e6)
                if time.monotonic() > until_s:
                    text = f"the names of a fleet are kept in NATS JetStream, which does not answer ({_why(error)})"
                    raise UsageError(
                        f"{text}: turn it on there, or give --authority, or --names off to let each node decide alone"
                    ) from None
            await asyncio.sleep(limits.FLEET_RETRY_US / 1e6)
        now_us, now_ns = monotonic_us(), time.time_ns()

        def learn(identity: Identity, public_key: bytes, is_proven: bool, created_ns: int) -> None:
            self._home.core.learn_name(identity, public_key, is_proven, now_us - max(0, now_ns - created_ns) // 1_000)

        # What is not read now is asked for when it is needed.
        with suppress(*_UNREACHABLE):
            await self._store.read_all(learn, limits.SERVER_NAMES_MAX)

    # For the server

    def handle_output(self, output: FleetOutput) -> None:
        """What the server's core wants of its fleet."""
        now_us = monotonic_us()
        if isinstance(output, Elsewhere):
            self.core.carry(output.sender, output.host, output.receiver, output.blob, is_here=output.is_here)
        elif isinstance(output, Arrived):
            self.core.handle_arrived(output.identity, output.public_key, now_us)
        elif isinstance(output, Left):
            self.core.handle_left(output.identity)
        elif isinstance(output, ClaimName):
            self._begin(self._claim(output))
        elif output.identity not in self._to_renew:
            self._to_renew.add(output.identity)
            self._begin(self._renew(output))
        self._drain()

    def share(self, content: bytes, version: int) -> None:
        """A document for all nodes, as `FleetCore.share`; the version is a time, so that the newest counts. Where another node's
        is newer, that one is taken again."""
        self.core.share(content, version)
        if self.core.document != content:
            self._take_document(self.core.document)
        self._drain()

    def watch_document(self, take: Callable[[bytes], None]) -> None:
        """`take` is given what other nodes have shared, now and later; it may raise UsageError if that is no good."""
        self._on_document = take
        self.take_document_again()

    def take_document_again(self) -> None:
        """What the fleet has, if it has one, since something else that goes with it has changed here."""
        if self.core.document:
            self._take_document(self.core.document)

    def tell_load(self) -> None:
        """At once, since it has changed much."""
        self.core.handle_bus_up(monotonic_us())
        self._drain()

    def metrics(self) -> list[str]:
        """Lines for Prometheus, without their prefix."""
        lines = [
            f"bus_connected {int(self.is_connected)}",
            f"bus_waiting {len(self.changes) + len(self._work)}",
            f"fleet_nodes {1 + len(self.core.nodes)}",
            f"fleet_clients {self._home.core.clients + sum(node.load.clients for node in self.core.nodes.values())}",
            f"fleet_names_reachable {int(self.are_names_reachable)}",
        ]
        counters = {**self.core.counters, **self.counters}
        return lines + [f"bus_{name}_total {count}" for name, count in sorted(counters.items())]

    # The bus

    def _drain(self) -> None:
        """Do everything the core wants."""
        home = self._home
        while (output := self.core.poll_output()) is not None:
            if isinstance(output, Publish):
                self._put(output)
            elif isinstance(output, Subscribe | Unsubscribe):
                self._change(output.subject, isinstance(output, Subscribe))
            elif isinstance(output, Deliver):
                home.core.handle_from_elsewhere(output.sender, output.host, output.receiver, output.blob, monotonic_us())
                home.drain_soon()
            elif isinstance(output, Displace):
                home.core.handle_displaced(output.identity, output.has_same_key, monotonic_us())
                home.drain_soon()
            elif isinstance(output, NameTold):
                home.core.learn_name(output.identity, output.public_key, output.is_proven, monotonic_us())
            else:
                assert isinstance(output, DocumentTold)
                self._take_document(output.content)
        if self.changes or self._work:
            self._has_work.set()
        self._arm()

    def _change(self, subject: str, is_wanted: bool) -> None:
        """Of one that still waits, the opposite is nothing to do: clients may come and go for as long as there is no broker."""
        if self.changes.pop(subject, is_wanted) == is_wanted:
            self.changes[subject] = is_wanted

    def _put(self, message: Publish) -> None:
        too_many = len(self._work) >= limits.FLEET_QUEUE_MAX
        if too_many or self._publishing_bytes + len(message.payload) > limits.FLEET_PENDING_BYTES_MAX:
            self.counters["dropped"] += 1
            return
        self._publishing_bytes += len(message.payload)
        self._work.append((monotonic_us(), message))

    def _take_document(self, content: bytes) -> None:
        if self._on_document is None:
            return
        try:
            self._on_document(content)
        except UsageError as error:
            tell("document refused", f"what another node shares cannot be used: {error}", level=logging.ERROR)

    async def _do_work(self) -> None:
        """What waits for the bus."""
        while True:
            await self._has_work.wait()
            self._has_work.clear()
            while self.changes or self._work:
                # The library swallows being cancelled while it waits for its own queue.
                if self._is_closed and not self.is_connected:
                    return
                if not self.is_connected:
                    await self._is_found.wait()
                try:
                    if self.changes:
                        await self._change_first()
                    elif self._work:
                        await self._publish(*self._work.popleft())
                except _UNREACHABLE:
                    self.counters["failed"] += 1

    async def _change_first(self) -> None:
        subject, is_wanted = next(iter(self.changes.items()))
        del self.changes[subject]
        if is_wanted:
            self._subscriptions[subject] = await self._client.subscribe(subject, cb=self._handle_message)
        elif (subscription := self._subscriptions.pop(subject, None)) is not None:
            await subscription.unsubscribe()

    async def _publish(self, at_us: int, message: Publish) -> None:
        self._publishing_bytes -= len(message.payload)
        if monotonic_us() - at_us > limits.SIGNALING_UNSENT_AGE_US:
            self.counters["stale"] += 1
            return
        await self._client.publish(message.subject, message.payload)

    async def _handle_message(self, message: Msg) -> None:
        self.core.handle_message(message.data, monotonic_us())
        self._drain()

    def _arm(self) -> None:
        deadline = self.core.poll_timeout()
        if self._timer is not None:
            self._timer.cancel()
        if deadline is not None and not self._is_closed:
            delay_s = max(0, deadline.at_us - monotonic_us()) / 1e6
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._handle_timer)

    def _handle_timer(self) -> None:
        self.core.handle_timeout(monotonic_us())
        self._drain()

    async def _handle_error(self, error: Exception) -> None:
        """Of the library: brokers that were tried in vain, and things it says otherwise, too."""
        self.counters["errors"] += 1
        if isinstance(error, AuthorizationError) or "Authorization" in str(error):
            self._refused.set()

    async def _handle_lost(self) -> None:
        if self._is_closed:
            return
        self.counters["lost"] += 1
        self._is_found.clear()
        tell("bus lost", "the connection to the NATS server is lost; looking for another one", level=logging.WARNING)

    async def _handle_found(self) -> None:
        self._is_found.set()
        tell("bus connected", f"connected to the NATS server at {self.where}", server=self.where)
        self.core.handle_bus_up(monotonic_us())
        self._drain()

    # Names

    def _begin(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        assert isinstance(task, asyncio.Task)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _claim(self, wanted: ClaimName) -> None:
        """An answer in time, whatever the store does: its brokers may be electing."""
        claimed = None
        try:
            claimed = await self._ask_whose(wanted)
            self._note_reach(claimed is not None)
            self._tell_written(wanted.identity, wanted.public_key, claimed)
        finally:
            # Also after a defect: so many logins may wait and no more, and one that nobody answers would count for ever.
            self._home.core.handle_claimed(wanted.client_id, claimed, monotonic_us())
            self._home.drain_soon()

    async def _ask_whose(self, wanted: ClaimName) -> Claimed | None:
        assert self._store is not None
        claimed = None
        with suppress(TimeoutError):
            async with asyncio.timeout(limits.FLEET_CLAIM_US / 1e6):
                while claimed is None:
                    with suppress(*_UNREACHABLE):
                        async with asyncio.timeout(limits.FLEET_CLAIM_TRY_US / 1e6):
                            claimed = await self._store.claim(wanted.identity, wanted.public_key, wanted.may_create)
                    if claimed is None:
                        await asyncio.sleep(limits.FLEET_CLAIM_RETRY_US / 1e6)
        return claimed

    async def _renew(self, wanted: RenewName) -> None:
        assert self._store is not None
        try:
            async with self._renewing, asyncio.timeout(limits.FLEET_CLAIM_US / 1e6):
                claimed = await self._store.renew(wanted.identity, wanted.public_key, wanted.is_proven)
        except _UNREACHABLE:
            # It is asked again in the next sweep; there is time until the lease ends.
            self._note_reach(False)
            return
        finally:
            self._to_renew.discard(wanted.identity)
        self._note_reach(True)
        self._tell_written(wanted.identity, wanted.public_key, claimed)
        self._home.core.handle_renewed(wanted.identity, claimed, monotonic_us())
        self._home.drain_soon()

    def _tell_written(self, identity: Identity, public_key: bytes, claimed: Claimed | None) -> None:
        if claimed is not None and claimed.owner == public_key:
            self.core.tell_name(identity, public_key, claimed.is_proven)
            self._drain()

    def _note_reach(self, is_reachable: bool) -> None:
        self.counters["names_asked"] += 1
        if is_reachable != self.are_names_reachable:
            self.are_names_reachable = is_reachable
            if is_reachable:
                tell("names found", "the fleet's store of names answers again")
            else:
                tell("names lost", "the fleet's store of names does not answer; only known names come in", level=logging.WARNING)


def check_login_file(path: Path) -> None:
    """Raises UsageError if there is no user and password in it."""
    _read_login(path)


def _read_login(path: Path) -> tuple[str, str]:
    try:
        user, _, password = path.read_text(encoding="utf-8").strip().partition(" ")
        is_open = bool(path.stat().st_mode & 0o077)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--nats-login {str(path)!r} cannot be read: {error}") from None
    if is_open:
        raise UsageError(f"--nats-login {str(path)!r} may be read by others: chmod 600 it")
    if not user or not password:
        raise UsageError(f"--nats-login {str(path)!r}: write one line, USER PASSWORD")
    return user, password


def _tls_context(settings: FleetSettings) -> ssl.SSLContext | None:
    if settings.tls_ca is None and settings.tls_certificate is None:
        return None
    try:
        context = ssl.create_default_context(cafile=str(settings.tls_ca) if settings.tls_ca is not None else None)
        if settings.tls_certificate is not None:
            context.load_cert_chain(settings.tls_certificate, settings.tls_key)
    except OSError as error:
        raise UsageError(f"the files for TLS to NATS cannot be used: {error.strerror or error}") from None
    return context


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or is_loopback((host, 0))
    except UsageError:
        return False


def _printable(urls: tuple[str, ...]) -> str:
    """Without passwords."""
    return ", ".join(url.partition("://")[0] + "://" + url.partition("://")[2].rpartition("@")[2] for url in urls)


def _why(error: BaseException) -> str:
    return str(error) or ("no answer in time" if isinstance(error, TimeoutError) else type(error).__name__)
