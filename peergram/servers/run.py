"""Runs the signaling server: TCP, TLS, HTTP and WebSocket around `SignalingCore`, and UDP around `StunResponder`.

The WebSocket framing is the `websockets` library's sans-I/O half; each connection is one object without tasks of its own, so that
ten thousand idle clients cost memory for their sockets and little else. Plain HTTP on the same port answers `/healthz` and
`/metrics`.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
import time
from asyncio.sslproto import SSLProtocol
from collections import Counter, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, cast

from websockets.exceptions import InvalidState
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol

from peergram import config as limits
from peergram.address import Address, canonical_address, format_address
from peergram.drivers.system import default_source_host, monotonic_us, secure_entropy, wall_offset_us
from peergram.errors import AddressInUseError, PeergramError, UsageError
from peergram.routes.relay_map import RelayMap
from peergram.servers.fleet_core import FleetSettings, Load
from peergram.servers.fleet_names import LeasedNames
from peergram.servers.lifecycle import RelayInUse, Reloader, Reloaders, retire
from peergram.servers.login_certificates import LoginCertificates
from peergram.servers.names_file import NamesFile, pause_between_saves_us
from peergram.servers.operator_log import tell
from peergram.servers.own_relay import own_relays
from peergram.servers.relay_desk import RelayDesk
from peergram.servers.relay_run import RelayServer, RelaySettings
from peergram.servers.signaling_core import (
    NOBODY,
    Ask,
    Cut,
    FleetOutput,
    NamesChanged,
    Send,
    SignalingCore,
)
from peergram.servers.stun_responder import StunResponder
from peergram.servers.tls_files import ServerTls
from peergram.signaling.server_url import ServerUrl
from peergram.signaling.websocket_protocol import FRAME_BYTES_MAX

if TYPE_CHECKING:
    from peergram.servers.fleet import Fleet

_ACCEPTS_PER_TURN = 64
_BACKLOG = 4_096
_FEED_BYTES = 4_096
_FAREWELL_S = 1.0

_log = logging.getLogger(__name__)
_frame_log = logging.getLogger(f"{__name__}.frames")
# What strangers send must not write lines (E15).
_frame_log.setLevel(logging.CRITICAL + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """`binds` and `stun_binds` may have port 0. Without `tls` everything is plain. `urls` are more addresses of this server.

    Without `names`, which the server closes at its end, it forgets who has which name.
    """

    binds: tuple[Address, ...]
    stun_binds: tuple[Address, ...] = ()
    tls: ServerTls | None = None
    urls: tuple[ServerUrl, ...] = ()
    names: NamesFile | None = None
    clients_max: int = limits.SERVER_CLIENTS_MAX
    login_us: int = limits.SERVER_LOGIN_US
    unsent_total_bytes: int = limits.SERVER_UNSENT_TOTAL_BYTES_MAX
    certificates: LoginCertificates | None = None
    """Which it demands and issues."""
    relay: RelaySettings | None = None
    """A relay beside it, which answers STUN, too."""
    relays: RelayDesk | None = None
    """What clients are told of relays."""
    fleet: FleetSettings | None = None
    """The bus that it shares with others; then `names` are not used."""
    reloaders: Mapping[str, Reloader] = field(default_factory=dict)
    """What `reload` reads again, by what people call it."""


class SignalingServer:
    """One server on the running event loop: `start`, then `close`."""

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        offset_us = wall_offset_us()
        names = settings.names.names if settings.names is not None else ()
        self.desk = settings.relays or RelayDesk(RelayMap(), {}, wall_s=lambda: int(time.time()))
        """What clients are told of relays; after a change, `handle_relays_changed`."""
        self.core = SignalingCore(
            entropy=secure_entropy,
            accepts_url=self._accepts_url,
            now_us=monotonic_us(),
            clients_max=settings.clients_max,
            login_us=settings.login_us,
            names=[replace(each, used_at_us=each.used_at_us - offset_us) for each in names],
            certificates=settings.certificates,
            relays=self.desk,
            is_in_fleet=settings.fleet is not None,
            leases=LeasedNames(limits.SERVER_NAMES_MAX) if settings.fleet is not None and settings.fleet.keeps_names else None,
        )
        self.fleet: Fleet | None = None
        self.reloaders = Reloaders()
        for name, reloader in settings.reloaders.items():
            self.reloaders.add(name, reloader)
        self.stun = StunResponder()
        self.addresses: list[Address] = []
        """Where clients are accepted."""
        self.stun_addresses: list[Address] = []
        self.relay = RelayServer(settings.relay) if settings.relay is not None else None
        self._started_us = monotonic_us()
        self._connections: dict[int, _Connection] = {}
        self._nobodies = _Nobodies(self)
        self._last_id = 0
        self._servers: list[asyncio.Server] = []
        self._stun_transports: list[asyncio.DatagramTransport] = []
        self._timer: asyncio.TimerHandle | None = None
        self._timer_us = 0
        # By connection, bytes that waited when it last wrote; and their sum, which is therefore rather too high than too low.
        self._unsent: dict[int, int] = {}
        self._unsent_total = 0
        self._will_drain = False
        self._closing = asyncio.Event()
        self._names_changed = asyncio.Event()
        self._keeping_names: asyncio.Task[None] | None = None

    # Life

    async def start(self) -> None:
        """Open every socket. Raises AddressInUseError or another PeergramError; nothing stays open then."""
        loop = asyncio.get_running_loop()
        if self.settings.tls is not None:
            # There is no other way to say so; what else uses TLS in this process reads in smaller pieces then, and no less.
            SSLProtocol.max_size = limits.SERVER_TLS_BUFFER_BYTES
        try:
            if self.relay is not None:
                # First, since other nodes and whoever reads the counters are told of it at once.
                self.relay.start()
                self.stun_addresses += self.relay.addresses
                self._tell_of_own_relay(self.relay)
            if self.settings.fleet is not None:
                await self._join(self.settings.fleet)
            for bind in self.settings.binds:
                listener = _open_socket(bind, socket.SOCK_STREAM)
                self.addresses.append(_address_of(listener.getsockname()))
                self._servers.append(
                    await loop.create_server(partial(_Connection, self), sock=listener, backlog=_ACCEPTS_PER_TURN)
                )
                # The kernel may hold many that want in; a turn of the loop takes a few of them, and serves others in between.
                listener.listen(_BACKLOG)
            await self._nobodies.open()
            for bind in self.settings.stun_binds:
                udp = _open_socket(bind, socket.SOCK_DGRAM)
                self.stun_addresses.append(_address_of(udp.getsockname()))
                transport, _ = await loop.create_datagram_endpoint(partial(_StunSocket, self), sock=udp)
                self._stun_transports.append(transport)
        except (PeergramError, OSError):
            await self.close()
            raise
        if self.settings.names is not None:
            self._keeping_names = loop.create_task(self._keep_names(self.settings.names))
        self.arm()

    async def _join(self, settings: FleetSettings) -> None:
        # Only who has a fleet needs a client for NATS.
        try:
            from peergram.servers.fleet import Fleet
        except ImportError:
            raise UsageError("a fleet needs nats-py: pip install 'peergram[nats]'") from None
        fleet = Fleet(settings, self)
        await fleet.start()
        self.fleet = fleet

    async def retire(self) -> None:
        """Let nobody in, tell clients to go elsewhere, and wait for those who need time; `close` comes after it."""
        clients, allocations = self.core.clients, 0 if self.relay is None else self.relay.allocations
        waits = f"; clients that are told to go elsewhere: {clients}, relayed addresses in use: {allocations}"
        ends = f"; the end comes in {limits.SERVER_DRAIN_US // 1_000_000} s at most, and at once with a second signal"
        text = "nobody new is let in" + (waits + ends if clients or allocations else "")
        tell("draining", text, clients=clients, allocations=allocations)
        self.core.drain(monotonic_us())
        self.drain()
        if self.fleet is not None:
            self.fleet.tell_load()
        await retire([] if self.relay is None else [RelayInUse(self.relay)], lambda: self.core.clients == 0)

    def reload(self) -> None:
        """Read again what may have changed; a file that is bad changes nothing, and is named to the operator."""
        try:
            names = self.reloaders.reload()
        except UsageError as error:
            tell("reload refused", f"nothing is changed: {error}", level=logging.ERROR)
        else:
            tell("reloaded", f"read again: {', '.join(names) or 'nothing, there is nothing to read'}", what=names)

    @property
    def names_own_relay(self) -> bool:
        """Whether clients are told of its own relay, since nobody has named other places."""
        is_alone = self.settings.relays is None and self.settings.fleet is None
        return is_alone and self.relay is not None and self.relay.settings.access.secret is not None

    def _tell_of_own_relay(self, relay: RelayServer) -> None:
        if self.names_own_relay:
            self.desk.replace(*own_relays(relay, self.settings.tls))
            self.handle_relays_changed()

    def replace_relay_secret(self, secret: bytes) -> None:
        """Of its own relay; what was made with the old one opens nothing any more."""
        if self.relay is not None:
            self.relay.replace_access(replace(self.relay.settings.access, secret=secret))
            self._tell_of_own_relay(self.relay)

    def handle_relays_changed(self) -> None:
        """The desk has another map, or other secrets: clients are told."""
        self.core.handle_relays_changed(monotonic_us())
        self.drain()

    def load(self) -> Load:
        """What there is to do."""
        relayed = (0, 0) if self.relay is None else self.relay.load()
        return Load(self.core.clients, *relayed, self.core.is_draining)

    async def close(self) -> None:
        """Say goodbye to all clients and end, in less than a second."""
        self._closing.set()
        for server in self._servers:
            server.close()
        for transport in self._stun_transports:
            transport.close()
        if self.relay is not None:
            self.relay.close()
        self.core.close(monotonic_us())
        self.drain()
        until_s = time.monotonic() + limits.SERVER_CLOSE_US / 1e6
        while self._connections and time.monotonic() < until_s:
            await asyncio.sleep(0.01)
        for connection in list(self._connections.values()):
            connection.abort()
        self._nobodies.close()
        if self._timer is not None:
            self._timer.cancel()
        if self._keeping_names is not None:
            self._names_changed.set()
            await self._keeping_names
        if self.settings.names is not None:
            self.settings.names.close()
        if self.fleet is not None:
            await self.fleet.close()
        # Transports report their end on the next turns.
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    def urls(self) -> list[ServerUrl]:
        """How clients reach this server, as far as it can know: what it was told, or the addresses it listens at."""
        tls = self.settings.tls
        if self.settings.urls:
            return list(self.settings.urls)
        if tls is not None and not tls.is_own:
            hosts = [name for name in tls.host_names if "*" not in name]
            return [ServerUrl(True, host, port) for host in hosts for port in {port for _, port in self.addresses}]
        pin = tls.fingerprint if tls is not None else None
        return [ServerUrl(tls is not None, host, port, "/", pin) for host, port in map(_reachable, self.addresses) if host]

    @property
    def relay_addresses(self) -> list[Address]:
        """Where it relays by UDP and TCP."""
        return [] if self.relay is None else self.relay.addresses

    @property
    def unsent_total_bytes(self) -> int:
        """Bytes that wait for all clients together, or a few more."""
        return self._unsent_total

    # For connections

    def take_in(self, connection: _Connection) -> int:
        """A number for a new connection."""
        self._last_id += 1
        self._connections[self._last_id] = connection
        return self._last_id

    def let_go(self, client_id: int) -> None:
        """The connection is gone."""
        self._connections.pop(client_id, None)
        self._unsent_total -= self._unsent.pop(client_id, 0)
        self.core.handle_closed(client_id, monotonic_us())

    def note_unsent(self, client_id: int, unsent_bytes: int) -> None:
        """So many bytes wait for this client now; if too many wait in all, those with the most are cut."""
        before = self._unsent.pop(client_id, 0)
        if unsent_bytes:
            self._unsent[client_id] = unsent_bytes
        self._unsent_total += unsent_bytes - before
        if self._unsent_total <= self.settings.unsent_total_bytes:
            return
        still = {number: self._connections[number].unsent_bytes for number in self._unsent}
        self._unsent = {number: count for number, count in still.items() if count}
        self._unsent_total = sum(still.values())
        while self._unsent_total > self.settings.unsent_total_bytes:
            worst = max(self._unsent, key=self._unsent.__getitem__)
            self.core.counters["cut_not_reading"] += 1
            self._connections[worst].abort()

    def drain_soon(self) -> None:
        """Do what the core wants, once the connection whose turn it is has answered what was its own to answer.

        So nobody learns from the time his pong takes whether somebody else is here (S6).
        """
        if not self._will_drain:
            self._will_drain = True
            asyncio.get_running_loop().call_soon(self.drain)

    def drain(self) -> None:
        """Do everything the core wants."""
        self._will_drain = False
        while (output := self.core.poll_output()) is not None:
            if isinstance(output, NamesChanged):
                self._names_changed.set()
                continue
            if isinstance(output, FleetOutput):
                if self.fleet is not None:
                    self.fleet.handle_output(output)
                continue
            if output.client_id == NOBODY:
                assert isinstance(output, Send)
                self._nobodies.send(output.frame)
                continue
            connection = self._connections.get(output.client_id)
            if connection is None:
                continue
            if isinstance(output, Send):
                connection.send(output.frame)
            elif isinstance(output, Ask):
                connection.ask()
            else:
                assert isinstance(output, Cut)
                connection.cut(output.frame)
        self.arm()

    def arm(self) -> None:
        """See that the core is called in time."""
        deadline = self.core.poll_timeout()
        if deadline is None or self._closing.is_set():
            return
        if self._timer is None or deadline.at_us < self._timer_us or self._timer.when() <= time.monotonic():
            if self._timer is not None:
                self._timer.cancel()
            loop = asyncio.get_running_loop()
            self._timer_us = deadline.at_us
            self._timer = loop.call_later(max(0, deadline.at_us - monotonic_us()) / 1e6, self._handle_timer)

    def _handle_timer(self) -> None:
        self._timer = None
        self.core.handle_timeout(monotonic_us())
        self.drain()

    # Names and numbers

    async def _keep_names(self, file: NamesFile) -> None:
        """Save names soon after they have changed, and a last time at the end; the file is written by another thread."""
        took_us: int | None = 0
        is_last = False
        while not is_last:
            await self._names_changed.wait()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), pause_between_saves_us(took_us) / 1e6)
            self._names_changed.clear()
            is_last, was_failing = self._closing.is_set(), took_us is None
            begin_us = monotonic_us()
            work = partial(file.save, self.core.owned_names(), wall_offset_us())
            try:
                await asyncio.get_running_loop().run_in_executor(None, work)
            except OSError as error:
                if is_last or not was_failing:
                    _log.error("names cannot be kept in %s: %s", file.path, error.strerror or error)
                self.core.counters["names_not_saved"] += 1
                self._names_changed.set()
                took_us = None
            else:
                self.core.counters["names_saved"] += 1
                took_us = monotonic_us() - begin_us

    def _accepts_url(self, url: ServerUrl, local: Address) -> bool:
        """Whether this URL is ours. By its certificate, where the client checked that; else by host and port.

        A server of somebody else that was dialed must not be able to log in here with what its clients sign (S1).
        """
        tls = self.settings.tls
        if url.fingerprint is not None:
            return tls is not None and url.fingerprint == tls.fingerprint
        if any((url.host, url.port) == (own.host, own.port) for own in self.settings.urls):
            return True
        if tls is not None:
            return not tls.is_own and any(_host_matches(url.host, name) for name in tls.host_names)
        is_own_name = url.host == local[0] or (url.host == "localhost" and url.is_loopback and _is_loopback_host(local[0]))
        return is_own_name and url.port == local[1]

    def health(self) -> tuple[int, str]:
        """An HTTP status and what it means: whether new clients should come here."""
        if self.core.is_draining:
            return 503, "draining\n"
        if self.fleet is None:
            return 200, "ok\n"
        bus = "connected" if self.fleet.is_connected else "lost"
        names = "reachable" if self.fleet.are_names_reachable or not self.fleet.settings.keeps_names else "lost"
        return 200, f"ok\nbus {bus}\nnames {names}\n"

    def metrics(self) -> str:
        """Numbers in the text form of Prometheus."""
        lines = [
            f"peergram_serve_uptime_seconds {(monotonic_us() - self._started_us) // 1_000_000}",
            f"peergram_serve_clients {self.core.clients}",
            f"peergram_serve_pending {self.core.pending}",
            f"peergram_serve_names {self.core.names}",
            f"peergram_serve_draining {int(self.core.is_draining)}",
            f"peergram_serve_unsent_bytes {self._unsent_total}",
        ]
        lines += [f"peergram_serve_{line}" for line in (self.fleet.metrics() if self.fleet is not None else ())]
        lines += [f"peergram_serve_{name}_total {count}" for name, count in sorted(self.core.counters.items())]
        lines += [f"peergram_serve_stun_{name}_total {count}" for name, count in sorted(self.stun.counters.items())]
        lines += [] if self.relay is None else self.relay.metrics()
        return "\n".join(lines) + "\n"


class _Connection(asyncio.Protocol):
    """One TCP connection: HTTP first, then WebSocket frames."""

    __slots__ = ("_cut_off", "_header_bytes", "_id", "_raw", "_server", "_transport", "_ws")

    def __init__(self, server: SignalingServer) -> None:
        self._server = server
        self._id = 0
        self._header_bytes = 0
        self._cut_off = False
        self._ws: ServerProtocol | None = None
        self._raw: asyncio.Transport | None = None
        self._transport: asyncio.Transport | None = None

    @classmethod
    def to_nobody(cls, server: SignalingServer, transport: asyncio.Transport) -> _Connection:
        """One that is open and has no client."""
        made = cls(server)
        made._id = NOBODY
        made._ws = ServerProtocol(state=State.OPEN, max_size=FRAME_BYTES_MAX, logger=_frame_log)
        made._raw = made._transport = transport
        return made

    # From the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._raw is not None:
            # The same connection, now inside TLS.
            return
        self._raw = cast("asyncio.Transport", transport)
        tcp = transport.get_extra_info("socket")
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            tcp.setsockopt(socket.SOL_SOCKET, option, limits.SERVER_SOCKET_BUFFER_BYTES // 2)
        self._id = self._server.take_in(self)
        try:
            remote, local = _address_of(tcp.getpeername()), _address_of(tcp.getsockname())
        except OSError:
            self.abort()
            return
        self._server.core.handle_connected(self._id, remote, local, monotonic_us())
        tls = self._server.settings.tls
        if tls is None:
            self._transport = self._raw
        else:
            self._raw.pause_reading()
            task = asyncio.get_running_loop().create_task(self._start_tls(tls))
            _tasks.add(task)
            task.add_done_callback(_tasks.discard)
        self._server.drain_soon()

    async def _start_tls(self, tls: ServerTls) -> None:
        """Only here, and not by the listening socket, so that the time for a login has begun."""
        assert self._raw is not None
        loop = asyncio.get_running_loop()
        try:
            self._transport = await loop.start_tls(
                self._raw, self, tls.context, server_side=True, ssl_handshake_timeout=self._server.settings.login_us / 1e6
            )
        except OSError:
            self._server.core.counters["tls_failed"] += 1
            self.abort()
            return
        if self._ws is not None:
            # Its first words may have come with the end of the handshake.
            self._flush()

    def data_received(self, data: bytes) -> None:
        # In small steps, so that no more frames are taken apart than the core wants to see.
        for start in range(0, len(data), _FEED_BYTES):
            if self._cut_off:
                return
            self._feed(data[start : start + _FEED_BYTES])
        self._server.drain_soon()

    def _feed(self, data: bytes) -> None:
        if self._ws is None:
            self._ws = ServerProtocol(max_size=FRAME_BYTES_MAX, logger=_frame_log)
        if self._ws.state is State.CONNECTING:
            self._header_bytes += len(data)
            if self._header_bytes > limits.SERVER_HEADER_BYTES_MAX:
                self._server.core.counters["header_too_long"] += 1
                self.abort()
                return
        self._ws.receive_data(data)
        # A pong goes before anything is done for others, which might delay it (S6).
        self._flush()
        for event in self._ws.events_received():
            if self._cut_off:
                return
            if isinstance(event, Request):
                self._handle_request(event)
            else:
                self._handle_frame(cast("Frame", event))
        self._flush()

    def eof_received(self) -> None:
        """Half-closed is closed."""

    def connection_lost(self, error: Exception | None) -> None:
        self._cut_off = True
        self._server.let_go(self._id)

    # What came

    def _handle_request(self, request: Request) -> None:
        assert self._ws is not None
        path = request.path.partition("?")[0]
        if path == "/healthz":
            response = self._ws.reject(*self._server.health())
        elif path == "/metrics":
            response = self._ws.reject(200, self._server.metrics())
        else:
            response = self._ws.accept(request)
        self._ws.send_response(response)
        if self._ws.state is State.OPEN:
            self._server.core.handle_ready(self._id, monotonic_us())

    def _handle_frame(self, frame: Frame) -> None:
        is_message = frame.opcode not in (Opcode.PING, Opcode.PONG, Opcode.CLOSE)
        if frame.opcode is Opcode.CLOSE:
            return
        content = bytes(frame.data) if frame.opcode is Opcode.BINARY and frame.fin else b""
        self._server.core.handle_frame(self._id, content if is_message else None, monotonic_us())

    # What goes

    @property
    def unsent_bytes(self) -> int:
        """What the kernel has not taken yet."""
        transport, raw = self._transport, self._raw
        in_tls = transport.get_write_buffer_size() if transport is not None and transport is not raw else 0
        return in_tls + (raw.get_write_buffer_size() if raw is not None else 0)

    def send(self, frame: bytes) -> None:
        """One binary frame, if the connection takes it."""
        if self._ws is not None and self._ws.state is State.OPEN:
            self._ws.send_binary(frame)
            self._flush()

    def ask(self) -> None:
        """A ping."""
        if self._ws is not None and self._ws.state is State.OPEN:
            self._ws.send_ping(b"")
            self._flush()

    def cut(self, frame: bytes | None) -> None:
        """A last frame, if the connection takes it, and the end."""
        if self._cut_off:
            return
        if self._ws is None or self._ws.state is not State.OPEN:
            self.abort()
            return
        with suppress(InvalidState):
            if frame is not None:
                self._ws.send_binary(frame)
            self._ws.send_close(CloseCode.NORMAL_CLOSURE)
        self._flush()
        self._end_soon()

    def abort(self) -> None:
        """The end, at once."""
        self._cut_off = True
        if self._raw is not None:
            self._raw.abort()
        # The event loop says so a turn later; until then nothing more must be carried to it.
        self._server.let_go(self._id)

    def _end_soon(self) -> None:
        """Once what was written is sent; a peer that does not read gets a second."""
        if not self._cut_off:
            self._cut_off = True
            assert self._transport is not None
            self._transport.close()
            asyncio.get_running_loop().call_later(_FAREWELL_S, self.abort)

    def _flush(self) -> None:
        assert self._ws is not None
        transport = self._transport
        if transport is None or self._cut_off:
            return
        for data in self._ws.data_to_send():
            if data:
                transport.write(data)
            else:
                # The library's word for the end of what it has to say.
                self._end_soon()
                return
        unsent = self.unsent_bytes
        if unsent > limits.SERVER_UNSENT_BYTES_MAX:
            self._server.core.counters["cut_not_reading"] += 1
            self.abort()
        else:
            self._server.note_unsent(self._id, unsent)


class _Nobodies:
    """Take what is for those who are not here, and take as long for it as a client's connection does (S6).

    They are connections of the server to itself, so the system does the same work, too; several, by turns, since what was in use
    a moment ago is faster. What arrives is thrown away in large pieces.
    """

    def __init__(self, server: SignalingServer) -> None:
        self._server = server
        self._ends: deque[tuple[_Connection, socket.socket]] = deque()
        self._sent_bytes: Counter[_Connection] = Counter()

    async def open(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            for _ in range(limits.SERVER_NOBODIES):
                near_end = socket.create_connection(listener.getsockname())
                far_end, _ = listener.accept()
                for end in (near_end, far_end):
                    end.setblocking(False)
                transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=near_end)
                self._ends.append((_Connection.to_nobody(self._server, transport), far_end))

    def send(self, frame: bytes) -> None:
        """One frame, as if somebody were here."""
        if not self._ends:
            return
        connection, far_end = self._ends[0]
        self._ends.rotate()
        self._sent_bytes[connection] += len(frame)
        if self._sent_bytes[connection] > limits.SERVER_SOCKET_BUFFER_BYTES // 4:
            self._sent_bytes[connection] = 0
            with suppress(BlockingIOError):
                far_end.recv(limits.SERVER_SOCKET_BUFFER_BYTES)
        if not connection.unsent_bytes:
            connection.send(frame)

    def close(self) -> None:
        while self._ends:
            connection, far_end = self._ends.popleft()
            connection.abort()
            far_end.close()


_tasks: set[asyncio.Task[None]] = set()
"""The event loop itself keeps no more than a weak reference to a task."""


class _StunSocket(asyncio.DatagramProtocol):
    def __init__(self, server: SignalingServer) -> None:
        self._server = server
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, source: tuple[str | int, ...]) -> None:
        assert self._transport is not None
        answer = self._server.stun.handle_datagram(_address_of(source), data, monotonic_us())
        if answer is not None:
            self._transport.sendto(answer, source)

    def error_received(self, error: Exception) -> None:
        """An earlier answer could not be delivered; nobody waits for it."""


async def run_until_stopped(settings: ServerSettings, say_started: Callable[[SignalingServer], None]) -> int:
    """Serve until SIGINT, or until cancelled; `say_started` is called once every socket is open.

    SIGTERM lets clients go elsewhere first, and a second one, or SIGINT, ends that; SIGHUP reads again what can be. Returns how
    many clients were told of the end.
    """
    server = SignalingServer(settings)
    await server.start()
    stopped, retiring = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def handle_term() -> None:
        (stopped if retiring.is_set() else retiring).set()

    # Windows has no handlers for an event loop; there Ctrl-C cancels it.
    with suppress(NotImplementedError):
        loop.add_signal_handler(signal.SIGINT, stopped.set)
        loop.add_signal_handler(signal.SIGTERM, handle_term)
        loop.add_signal_handler(signal.SIGHUP, server.reload)
    try:
        say_started(server)
        told = await _wait_for_end(server, stopped, retiring)
        tell("stopping", "the server stops", clients=told)
        return told
    finally:
        await server.close()


async def _wait_for_end(server: SignalingServer, stopped: asyncio.Event, retiring: asyncio.Event) -> int:
    ending, leaving = asyncio.ensure_future(stopped.wait()), asyncio.ensure_future(retiring.wait())
    try:
        await asyncio.wait((ending, leaving), return_when=asyncio.FIRST_COMPLETED)
        told = server.core.clients
        if not stopped.is_set():
            retirement = asyncio.ensure_future(server.retire())
            await asyncio.wait((ending, retirement), return_when=asyncio.FIRST_COMPLETED)
            retirement.cancel()
        return told
    finally:
        ending.cancel()
        leaving.cancel()


def _open_socket(bind: Address, kind: socket.SocketKind) -> socket.socket:
    host, port = bind
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.socket(family, kind)
    try:
        opened.setblocking(False)
        if kind == socket.SOCK_STREAM and sys.platform != "win32":
            # Connections of the server before this one, which time out in the kernel, do not keep the port.
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        opened.bind((host, port))
        if kind == socket.SOCK_STREAM:
            opened.listen(_BACKLOG)
    except OSError as error:
        opened.close()
        what = "TCP" if kind == socket.SOCK_STREAM else "UDP"
        text = f"{what} address {format_address(bind)} cannot be used: {error.strerror or error}"
        raise AddressInUseError(f"{text}; choose another one") from None
    return opened


def _address_of(name: tuple[str | int, ...]) -> Address:
    return canonical_address(str(name[0]), int(name[1]))


def _reachable(address: Address) -> tuple[str | None, int]:
    """Where clients find what listens at `address`; None where this machine has no such address."""
    host, port = address
    if host == "0.0.0.0":
        return default_source_host(4) or "127.0.0.1", port
    if host == "::":
        return default_source_host(6), port
    return host, port


def _is_loopback_host(host: str) -> bool:
    return ServerUrl(False, host, 0).is_loopback


def _host_matches(host: str, name: str) -> bool:
    """Whether a certificate for `name` is good for `host`; a wildcard stands for one label (RFC 6125)."""
    if name.startswith("*."):
        return host.partition(".")[2] == name[2:]
    return host == name
