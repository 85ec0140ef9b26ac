"""Runs the relay: UDP with batches, TCP and TLS around `TurnCore`, on a thread of its own, and STUN at the same UDP ports.

A thread with its own loop rather than the event loop of the signaling server: an event costs it 2 us less, which is as much as
forwarding a packet, and a long step of the other one, such as a login, holds it up for the interpreter's switch interval at most.
"""

from __future__ import annotations

import errno
import logging
import socket
import ssl
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from operator import itemgetter
from typing import Any, Final, Literal

from peergram import config as limits
from peergram.address import Address, canonical_address, format_address
from peergram.drivers.interfaces import list_interfaces
from peergram.drivers.ipv6 import address_from_ipv6
from peergram.drivers.system import default_source_host, monotonic_us, secure_entropy
from peergram.drivers.udp_batch import open_udp
from peergram.errors import AddressInUseError, PeergramError
from peergram.servers.relay_access import RelayAccess
from peergram.servers.relay_peers import PeerPolicy
from peergram.servers.relay_poller import make_poller
from peergram.servers.relay_quotas import RelayQuotas, one_owner
from peergram.servers.relay_sockets import CAN_FORBID_FRAGMENTS, PORT_TRIES_MAX, BatchSocket, open_at, open_relayed
from peergram.servers.relay_streams import RelayStream
from peergram.servers.stun_responder import StunResponder
from peergram.servers.turn_core import CloseRelay, OpenRelay, ToClient, ToPeer, TurnCore
from peergram.signaling.rates import TokenBuckets
from peergram.timing import Deadline
from peergram.wire.stun import FAMILY_IPV4, FAMILY_IPV6

if sys.platform != "win32":
    import resource

RELAY_PORTS: Final = range(49_152, 65_536)
"""RFC 8656 §7.2."""
_BINDING: Final = b"\x00\x01"
_MESSAGE_TYPE: Final = itemgetter(slice(0, 2))
_ACCEPTS_PER_TURN: Final = 64
_BACKLOG: Final = 1_024
_PAIR_TRIES: Final = 8
"""Ports that the system chooses for UDP, until one is free for TCP, too."""
_TICK_US: Final = 1_000_000
_EVERYWHERE: Final = {"0.0.0.0": FAMILY_IPV4, "::": FAMILY_IPV6}
_NO_FILES: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

_FILES_ELSEWHERE: Final = 8_192
"""Where the system has no limit of its own."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RelaySettings:
    """`binds` are for UDP and TCP, where the first byte tells TLS; `tls_binds` are more ports for TCP. Ports may be 0."""

    binds: tuple[Address, ...]
    access: RelayAccess
    tls_binds: tuple[Address, ...] = ()
    tls: ssl.SSLContext | None = None
    hosts: tuple[str, ...] = ()
    """Where others reach its relayed addresses, one of a family; without, the first address it listens at, or this machine's."""
    ports: range = RELAY_PORTS
    allow_loopback: bool = False
    allow_private: tuple[str, ...] = ()
    quotas: RelayQuotas = field(default_factory=RelayQuotas)
    stream_alone_us: int = limits.TURN_STREAM_ALONE_US


class RelayServer:
    """One relay: `start`, then `close`. Everything else happens on its thread."""

    def __init__(self, settings: RelaySettings) -> None:
        self.settings = settings
        self.addresses: list[Address] = []
        """Where clients are answered by UDP and TCP."""
        self.tls_addresses: list[Address] = []
        self.stun = StunResponder()
        self.counters: Counter[str] = Counter()
        """Of sockets; those of the protocol are the core's."""
        self._hosts = dict(_relay_hosts(settings))
        self._listeners: list[BatchSocket] = []
        self._acceptors: list[socket.socket] = []
        self._relayed: dict[int, BatchSocket] = {}
        self._streams: dict[RelayStream, None] = {}
        self._streams_of_host: Counter[str] = Counter()
        self._new_streams = TokenBuckets(
            limits.TURN_STREAMS_PER_HOST_PER_S, limits.TURN_STREAMS_PER_HOST_BURST, limits.SERVER_HOSTS_WATCHED_MAX
        )
        self._poller = make_poller()
        self._ready: dict[int, BatchSocket | Callable[[], None]] = {}
        """By descriptor, whom to tell that there is something: a relayed address, or anything else."""
        self._wake_in, self._wake_out = socket.socketpair()
        self._calls: deque[Callable[[], None]] = deque()
        self._thread = threading.Thread(target=self._run, name="peergram relay", daemon=True)
        self._ending = False
        self._accepts_paused = False
        self._ticks_at_us = 0
        self._look_at_own_at_us = 0
        self._own: frozenset[str] = frozenset()
        self._files = _raise_file_limit()
        self._loaded = (monotonic_us(), 0)
        self.core: TurnCore

    # Life; called by others

    def start(self) -> None:
        """Open every port. Raises AddressInUseError or another PeergramError; nothing stays open then."""
        try:
            for bind in self.settings.binds:
                self._open_pair(bind)
            for bind in self.settings.tls_binds:
                self.tls_addresses.append(self._open_acceptor(bind))
            self.core = self._make_core()
        except PeergramError:
            self._close_sockets()
            raise
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._add(self._wake_out.fileno(), self._handle_wake)
        self._ticks_at_us = monotonic_us() + _TICK_US
        self._look_at_own_at_us = monotonic_us() + limits.TURN_OWN_ADDRESSES_US
        self._thread.start()

    def close(self) -> None:
        """End at once; harmless when repeated."""
        if self._thread.is_alive():
            self._do(self._end)
            self._thread.join()
        else:
            self._close_sockets()

    def drain(self, seconds: float) -> None:
        """Take no new allocations, and let those there are end within so many seconds; their clients go elsewhere meanwhile."""
        self._do(lambda: self.core.drain(monotonic_us() + round(seconds * 1_000_000)))

    def replace_access(self, access: RelayAccess) -> None:
        """Other passwords from now on."""
        self.settings = replace(self.settings, access=access)
        self._do(lambda: self.core.replace_access(access))

    def replace_tls(self, tls: ssl.SSLContext) -> None:
        """Another certificate, for streams that come from now on."""
        self.settings = replace(self.settings, tls=tls)

    @property
    def hosts(self) -> list[str]:
        """Where its relayed addresses are, as others see them."""
        return [shown for _, shown in self._hosts.values()]

    @property
    def allocations(self) -> int:
        """How many there are."""
        return self.core.allocations

    def load(self) -> tuple[int, int]:
        """Allocations, and bytes a second through them since this was asked last."""
        now_us, taken_bytes = monotonic_us(), self.core.taken_bytes
        (was_us, was_bytes), self._loaded = self._loaded, (now_us, taken_bytes)
        return self.core.allocations, (taken_bytes - was_bytes) * 1_000_000 // max(1, now_us - was_us)

    def metrics(self) -> list[str]:
        """Numbers in the text form of Prometheus."""
        lines = [
            f"peergram_relay_allocations {self.core.allocations}",
            f"peergram_relay_streams {len(self._streams)}",
            f"peergram_relay_sockets {len(self._relayed)}",
        ]
        # Copies, which are made in one step: the relay's thread goes on counting.
        counted = dict(self.core.counters) | dict(self.counters)
        counted |= {f"stun_{name}": count for name, count in dict(self.stun.counters).items()}
        return lines + [f"peergram_relay_{name}_total {count}" for name, count in sorted(counted.items())]

    def _do(self, work: Callable[[], None]) -> None:
        self._calls.append(work)
        with suppress(OSError):
            self._wake_in.send(b"\0")

    # The thread

    def _run(self) -> None:
        while not self._ending:
            self._turn()
        self._close_sockets()

    def _turn(self) -> None:
        deadline = self.core.poll_timeout()
        at_us = self._ticks_at_us if deadline is None else min(self._ticks_at_us, deadline.at_us)
        wait_us = max(0, at_us - monotonic_us())
        for fd in self._poller.wait(wait_us / 1e6):
            ready = self._ready.get(fd)
            try:
                if isinstance(ready, BatchSocket):
                    self._read_relayed(ready)
                elif ready is not None:
                    ready()
            except Exception:  # noqa: BLE001
                self._note_failure()
        try:
            self._look_at_the_time(deadline)
        except Exception:  # noqa: BLE001
            self._note_failure()

    def _note_failure(self) -> None:
        """A defect of ours must not end everybody's calls."""
        self.counters["failures"] += 1
        if self.counters["failures"] == 1:
            _log.exception("the relay failed at one event, and goes on")

    def _look_at_the_time(self, deadline: Deadline | None) -> None:
        now_us = monotonic_us()
        if deadline is not None and now_us >= deadline.at_us:
            self.core.handle_timeout(now_us)
            self._drain_core(now_us)
        if now_us >= self._ticks_at_us:
            self._ticks_at_us = now_us + _TICK_US
            self._look_after_streams(now_us)
        if now_us >= self._look_at_own_at_us:
            self._look_at_own_at_us = now_us + limits.TURN_OWN_ADDRESSES_US
            if (own := self._find_own_hosts()) != self._own:
                self._own = own
                self.core.replace_policy(self._make_policy())

    def _add(self, fd: int, ready: BatchSocket | Callable[[], None]) -> None:
        self._ready[fd] = ready
        self._poller.add(fd)

    def _remove(self, fd: int) -> None:
        del self._ready[fd]
        self._poller.remove(fd)

    def _handle_wake(self) -> None:
        with suppress(OSError):
            self._wake_out.recv(4_096)
        while self._calls:
            self._calls.popleft()()

    def _end(self) -> None:
        self._ending = True

    def _close_sockets(self) -> None:
        for opened in (*self._acceptors, self._wake_in, self._wake_out):
            opened.close()
        for stream in self._streams:
            stream.close()
        for relayed in self._relayed.values():
            relayed.close()
        for listener in self._listeners:
            listener.close()
        self._poller.close()

    # From clients

    def _read_listener(self, listener: BatchSocket) -> None:
        found = listener.receive()
        now_us, wall_s = monotonic_us(), int(time.time())
        for source, packets in found.items():
            if _BINDING in map(_MESSAGE_TYPE, packets):
                self._answer_bindings(listener, source, packets, now_us)
                packets = [packet for packet in packets if packet[:2] != _BINDING]
            self.core.handle_client((listener.number, source), source, packets, now_us, wall_s)
        self._drain_core(now_us)

    def _answer_bindings(self, listener: BatchSocket, source: Address, packets: list[bytes], now_us: int) -> None:
        for packet in packets:
            if packet[:2] == _BINDING and (answer := self.stun.handle_datagram(source, packet, now_us)) is not None:
                listener.send([answer], source)

    def _read_stream(self, stream: RelayStream) -> None:
        now_us = monotonic_us()
        if stream.watches_writing:
            stream.flush(now_us)
        frames = stream.receive()
        if frames:
            for frame in frames:
                if frame[:2] == _BINDING and (answer := self.stun.handle_datagram(stream.source, frame, now_us)) is not None:
                    stream.send([answer], now_us, is_data=False)
            requests = [frame for frame in frames if frame[:2] != _BINDING]
            self.core.handle_client(stream, stream.source, requests, now_us, int(time.time()), is_stream=True)
            self._drain_core(now_us)
            stream.is_known = stream.is_known or self.core.has_allocation(stream)
        stream.flush(now_us)
        self._watch(stream, now_us)

    # What the core wants

    def _drain_core(self, now_us: int) -> None:
        poll = self.core.poll_output
        while (output := poll()) is not None:
            if isinstance(output, ToPeer):
                relayed = self._relayed.get(output.relay_id)
                if relayed is None:
                    continue
                if output.dont_fragment:
                    relayed.send_whole(output.packets, output.peer)
                else:
                    relayed.send(output.packets, output.peer)
            elif isinstance(output, ToClient):
                self._send_to_client(output, now_us)
            elif isinstance(output, OpenRelay):
                self._open_relay(output, now_us)
            else:
                self._close_relay(output)

    def _send_to_client(self, output: ToClient, now_us: int) -> None:
        client: Any = output.client
        if isinstance(client, RelayStream):
            client.send(output.packets, now_us, is_data=output.is_data)
            self._watch(client, now_us)
            return
        number, source = client
        self._listeners[number].send(output.packets, source)

    def _open_relay(self, wanted: OpenRelay, now_us: int) -> None:
        bind_host, shown_host = self._hosts[wanted.family]
        above: socket.socket | None = None
        for _ in range(PORT_TRIES_MAX):
            opened = open_relayed(bind_host, wanted.family, self.settings.ports, secure_entropy, even=wanted.even)
            if opened is None or wanted.next_relay_id is None:
                break
            above = open_at(bind_host, wanted.family, opened.getsockname()[1] + 1)
            if above is not None:
                break
            opened.close()
            opened = None
        if opened is None:
            self.counters["no_port"] += 1
            self.core.handle_relay_opened(wanted.relay_id, None, now_us)
            return
        self._take_relayed(wanted.relay_id, opened)
        if above is not None and wanted.next_relay_id is not None:
            self._take_relayed(wanted.next_relay_id, above)
        self.core.handle_relay_opened(wanted.relay_id, (shown_host, opened.getsockname()[1]), now_us)

    def _take_relayed(self, relay_id: int, opened: socket.socket) -> None:
        relayed = self._relayed[relay_id] = BatchSocket(relay_id, opened, self.counters)
        self._add(relayed.fileno(), relayed)

    def _read_relayed(self, relayed: BatchSocket) -> None:
        found = relayed.receive()
        now_us = monotonic_us()
        for source, packets in found.items():
            self.core.handle_peer(relayed.number, source, packets, now_us)
        self._drain_core(now_us)

    def _close_relay(self, output: CloseRelay) -> None:
        relayed = self._relayed.pop(output.relay_id, None)
        if relayed is not None:
            self._remove(relayed.fileno())
            relayed.close()

    # Streams

    def _accept(self, acceptor: socket.socket) -> None:
        for _ in range(_ACCEPTS_PER_TURN):
            try:
                connection, name = acceptor.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _NO_FILES:
                    self._pause_accepting()
                    return
                continue
            self._take_stream(connection, address_from_ipv6(name) if len(name) > 2 else name)

    def _take_stream(self, connection: socket.socket, source: Address) -> None:
        quotas, host, now_us = self.settings.quotas, one_owner(source[0]), monotonic_us()
        is_full = len(self._streams) >= min(quotas.streams_max, self._files // 4)
        is_host_full = self._streams_of_host.get(host, 0) >= quotas.streams_per_host_max
        if is_full or is_host_full or not self._new_streams.take(host, now_us):
            self.counters["streams_refused"] += 1
            connection.close()
            return
        try:
            stream = RelayStream(connection, source, self.settings.tls, now_us)
        except OSError:
            connection.close()
            return
        self.counters["streams"] += 1
        self._streams[stream] = None
        self._streams_of_host[host] += 1
        self._add(stream.fileno(), partial(self._read_stream, stream))

    def _watch(self, stream: RelayStream, now_us: int) -> None:
        """Wait for what it needs, or let it go."""
        if stream.is_over:
            self._let_go(stream, now_us)
        elif stream.wants_writing != stream.watches_writing:
            stream.watches_writing = stream.wants_writing
            self._poller.watch_writing(stream.fileno(), wanted=stream.watches_writing)

    def _let_go(self, stream: RelayStream, now_us: int) -> None:
        if stream not in self._streams:
            return
        del self._streams[stream]
        host = one_owner(stream.source[0])
        self._streams_of_host[host] -= 1
        if not self._streams_of_host[host]:
            del self._streams_of_host[host]
        self.counters["stream_packets_dropped"] += stream.dropped
        self._remove(stream.fileno())
        stream.close()
        self.core.handle_client_gone(stream)
        self._drain_core(now_us)

    def _look_after_streams(self, now_us: int) -> None:
        """Once a second: who has no allocation leaves, and what waited too long is dropped."""
        if self._accepts_paused:
            self._accepts_paused = False
            for acceptor in self._acceptors:
                self._add(acceptor.fileno(), partial(self._accept, acceptor))
        for stream in list(self._streams):
            stream.flush(now_us)
            if self.core.has_allocation(stream):
                stream.alone_since_us = now_us
            elif now_us - stream.alone_since_us > self.settings.stream_alone_us:
                self.counters["streams_alone"] += 1
                stream.is_over = True
            self._watch(stream, now_us)

    def _pause_accepting(self) -> None:
        """Until the next tick: without descriptors an accept would only fail again at once."""
        if not self._accepts_paused:
            self.counters["accepts_paused"] += 1
            self._accepts_paused = True
            for acceptor in self._acceptors:
                self._remove(acceptor.fileno())

    # The start

    def _open_pair(self, bind: Address) -> None:
        """UDP and TCP at the same port."""
        for tries_left in reversed(range(1 if bind[1] else _PAIR_TRIES)):
            udp = open_udp(bind, 6 if ":" in bind[0] else 4)
            listener = BatchSocket(len(self._listeners), udp, self.counters)
            try:
                self._open_acceptor((bind[0], listener.local[1]))
            except AddressInUseError:
                listener.close()
                if not tries_left:
                    raise
            else:
                break
        self._listeners.append(listener)
        self._add(listener.fileno(), partial(self._read_listener, listener))
        self.addresses.append(listener.local)

    def _open_acceptor(self, bind: Address) -> Address:
        host, port = bind
        acceptor = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        try:
            acceptor.setblocking(False)
            if sys.platform != "win32":
                acceptor.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if ":" in host:
                acceptor.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            acceptor.bind((host, port))
            acceptor.listen(_BACKLOG)
        except OSError as error:
            acceptor.close()
            text = f"TCP address {format_address(bind)} cannot be used: {error.strerror or error}"
            raise AddressInUseError(f"{text}; choose another one") from None
        self._acceptors.append(acceptor)
        self._add(acceptor.fileno(), partial(self._accept, acceptor))
        name = acceptor.getsockname()
        return canonical_address(name[0], name[1])

    def _find_own_hosts(self) -> frozenset[str]:
        settings = self.settings
        own = [host for pair in self._hosts.values() for host in pair if host not in _EVERYWHERE]
        own += [host for host, _ in settings.binds if host not in _EVERYWHERE]
        try:
            own += [each.address for each in list_interfaces()]
        except OSError:
            # Such as for want of descriptors: what was known counts on.
            own += self._own
        return frozenset(own)

    def _make_policy(self) -> PeerPolicy:
        return PeerPolicy(
            self._own,
            allow_loopback=self.settings.allow_loopback,
            allow_private=self.settings.allow_private,
            control_ports=[port for _, port in (*self.addresses, *self.tls_addresses)],
        )

    def _make_core(self) -> TurnCore:
        settings = self.settings
        quotas = settings.quotas
        self._own = self._find_own_hosts()
        return TurnCore(
            access=settings.access,
            policy=self._make_policy(),
            families=frozenset(self._hosts),
            entropy=secure_entropy,
            # Each has a socket; the rest of the descriptors is for streams and the signaling server.
            quotas=replace(quotas, allocations_max=min(quotas.allocations_max, self._files // 2)),
            can_forbid_fragments=CAN_FORBID_FRAGMENTS,
        )


def _relay_hosts(settings: RelaySettings) -> list[tuple[int, tuple[str, str]]]:
    """By family: where relayed addresses are bound, and how others see that."""
    found = []
    versions: list[tuple[int, Literal[4, 6]]] = [(FAMILY_IPV4, 4), (FAMILY_IPV6, 6)]
    for family, version in versions:
        binds = [host for host, _ in settings.binds if (":" in host) == (version == 6)]
        if not binds:
            continue
        named = [host for host in binds if host not in _EVERYWHERE]
        own = named[0] if named else default_source_host(version) or ("127.0.0.1" if version == 4 else None)
        shown = [canonical_address(host, 0)[0] for host in settings.hosts if (":" in host) == (version == 6)]
        if own is None and not shown:
            continue
        bind = own or "::"
        if shown and shown[0] != bind:
            # An address of this machine, or that of a router in front which passes everything on.
            bind = shown[0] if _is_here(shown[0]) else bind
        found.append((family, (bind, shown[0] if shown else bind)))
    return found


def _is_here(host: str) -> bool:
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))
    except OSError:
        return False
    return True


def _raise_file_limit() -> int:
    """As many descriptors as this process may have."""
    if sys.platform == "win32":
        return _FILES_ELSEWHERE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = 1 << 20
    if soft != hard:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
