"""What a host's driver does in a world with a topology, beside sockets and clocks: addresses, streams, names, signals.

The endpoint asks through `poll_socket_request` and `poll_signal`; answers come in turns of their own, later in virtual time, in
the order in which they were caused, also when the process stood still in between. An endpoint without these methods is left
alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, cast
from zlib import crc32

from peergram.address import Address, canonical_address, format_address
from peergram.errors import UsageError
from peergram.identity import Identity
from peergram.io_requests import CloseStream, InterfaceAddress, IoRequest, OpenStream, ResolveName, Transmit, WatchInterfaces
from peergram.sim.link import Datagram, LinkModel
from peergram.sim.streams import Stream, StreamEnd
from peergram.sim.topology import ANY_HOSTS, LOOPBACK_HOSTS, Interface, Router, Topology, family_of

if TYPE_CHECKING:
    from peergram.sim.world import EndpointLike, Host, Turn

REFUSED_US = 20_000
RESOLVE_US_MAX = 50_000
"""A name is found within this time; where it is drawn to be."""
SIGNALS_MAX = 1_000
"""More signals from one turn are a fault of the endpoint."""


class RendezvousEndpoint(Protocol):
    """What an endpoint has beyond `EndpointLike` to find peers by identity."""

    def handle_stream_opened(self, stream_id: int, now_us: int) -> None: ...
    def handle_stream_data(self, stream_id: int, data: bytes, now_us: int) -> None: ...
    def handle_stream_closed(self, stream_id: int, text: str, now_us: int) -> None: ...
    def handle_name_resolved(self, name: str, addresses: list[str], now_us: int) -> None: ...
    def handle_interfaces(self, addresses: list[InterfaceAddress], now_us: int) -> None: ...
    def poll_signal(self) -> tuple[Identity, bytes] | None: ...
    def handle_signal(self, sender: Identity | None, blob: bytes, now_us: int) -> None: ...


class StreamServer(StreamEnd, Protocol):
    """A node that takes streams."""

    def takes_streams(self, port: int) -> bool: ...


class Outside:
    """One host's part of it; made once, and as good as new after each crash."""

    def __init__(self, host: Host, topology: Topology) -> None:
        self.host = host
        self.topology = topology
        self.interfaces: list[Interface] = []
        self._rng = host.world.seeded(f"outside/{host.index}")
        self._streams: dict[int, Stream] = {}
        self._stream_ids: set[int] = set()
        """All of this run: what is written after the end of a stream is lost, as it would be in a driver."""
        self._watches = False
        self._told: list[InterfaceAddress] | None = None
        self._waiting: deque[Callable[[], None]] = deque()
        host.outside = self
        topology.watchers[host] = self.changed

    def attach(
        self, router: Router | None = None, *, name: str = "eth0", v6: bool = False, link: LinkModel | None = None
    ) -> Interface:
        """Give the host an interface, behind this router or on the internet itself."""
        interface = self.topology.attach(self.host, router, name=name, v6=v6, link=link)
        self.interfaces.append(interface)
        return interface

    # Life of the process

    def started(self) -> None:
        """A new process."""
        self._watches, self._told = False, None

    def crashed(self) -> None:
        """The system closes its streams."""
        for stream in list(self._streams.values()):
            stream.close(self)
        self._streams.clear()
        self._stream_ids.clear()
        self._waiting.clear()

    def resumed(self) -> None:
        """What came while the process stood still, in order."""
        waiting, self._waiting = self._waiting, deque()
        for action in waiting:
            action()

    # Addresses

    def addresses(self) -> list[InterfaceAddress]:
        """Loopback and every interface that is plugged in."""
        loopback = InterfaceAddress(LOOPBACK_HOSTS[4], 8, "lo", True)
        return [loopback, *(address for interface in self.interfaces for address in interface.addresses)]

    def may_bind(self, host: str) -> bool:
        """Whether a socket can have this address."""
        return host in ANY_HOSTS.values() or any(host == own.address for own in self.addresses())

    def socket_for(self, destination: Address) -> int | None:
        """The socket bound to any address that gets what no other takes."""
        return self.host.bound.get((ANY_HOSTS[family_of(destination[0])], destination[1]))

    def changed(self) -> None:
        """Addresses may have changed: the endpoint is told, if it watches and they did."""
        run = self.host.run
        self._later(lambda: self._tell_addresses(run))

    def _tell_addresses(self, run: int) -> None:
        addresses = self.addresses()
        if self.host.run != run or not self._watches or addresses == self._told:
            return
        self._told = addresses
        self.host.world.note(self.host.name, "has " + ", ".join(own.address for own in addresses))
        self._turn("handle_interfaces", lambda e, now: e.handle_interfaces(addresses, now))

    # Packets

    def send(self, datagram: Datagram) -> None:
        """Out through the interface of its source."""
        if not _is_canonical(datagram.destination):
            self.host.world.violate("V20", self.host.name, f"sends to {datagram.destination}, which is no numeric address")
        elif self.interfaces:
            self.topology.send(self.interfaces, datagram)

    def write(self, transmit: Transmit) -> bool:
        """Whether this was for a stream, past or present."""
        if transmit.socket_id not in self._stream_ids:
            return False
        stream = self._streams.get(transmit.socket_id)
        if stream is not None:
            data = b"".join(transmit.packets)
            self.host.world.note(self.host.name, f"stream {transmit.socket_id}: {len(data)} bytes, check {crc32(data):08x}")
            stream.send(self, data)
        return True

    # Requests

    def serve(self, request: IoRequest) -> None:
        """Anything but sockets."""
        self.host.world.note(self.host.name, f"asks for {request}")
        if isinstance(request, WatchInterfaces):
            self._watches, self._told = request.on, None
            self.host.world.after(0, self.changed)
        elif isinstance(request, ResolveName):
            self._resolve(request.name)
        elif isinstance(request, OpenStream):
            self._open(request.stream_id, request.remote)
        elif isinstance(request, CloseStream) and (stream := self._streams.pop(request.stream_id, None)) is not None:
            stream.close(self)

    def _resolve(self, name: str) -> None:
        found, run = list(self.topology.names.get(name, ())), self.host.run

        def answer() -> None:
            if self.host.run == run:
                self._turn("handle_name_resolved", lambda e, now: e.handle_name_resolved(name, found, now))

        self.host.world.after(self._rng.randrange(RESOLVE_US_MAX), lambda: self._later(answer))

    # Streams

    def _open(self, stream_id: int, remote: Address) -> None:
        self._stream_ids.add(stream_id)
        path = self.topology.stream_path(self.interfaces, remote)
        server = cast("StreamServer | None", path.server if path and hasattr(path.server, "takes_streams") else None)
        if path is None or server is None or not server.takes_streams(remote[1]):
            run = self.host.run
            self.host.world.after(REFUSED_US, lambda: self._later(lambda: self._closed(stream_id, "refused", run)))
            return
        self.host.world.note(self.host.name, f"opens stream {stream_id} to {format_address(remote)}")
        stream = Stream(self.host.world, path, remote[1], self._rng, self, server)
        self._streams[stream_id] = stream
        stream.open()

    def stream_opened(self, stream: Stream) -> None:
        """The other end answered."""
        self._for_stream(stream, lambda id_: self._turn("handle_stream_opened", lambda e, now: e.handle_stream_opened(id_, now)))

    def stream_data(self, stream: Stream, data: bytes) -> None:
        """Bytes arrived."""
        self._for_stream(
            stream, lambda id_: self._turn("handle_stream_data", lambda e, now: e.handle_stream_data(id_, data, now))
        )

    def stream_closed(self, stream: Stream, text: str) -> None:
        """Ended by somebody else."""
        run = self.host.run
        self._for_stream(stream, lambda id_: self._closed(id_, text, run))

    def _for_stream(self, stream: Stream, action: Callable[[int], None]) -> None:
        def act() -> None:
            stream_id = next((id_ for id_, one in self._streams.items() if one is stream), None)
            if stream_id is not None:
                action(stream_id)

        self._later(act)

    def _closed(self, stream_id: int, text: str, run: int) -> None:
        if self.host.run == run:
            self._streams.pop(stream_id, None)
            self.host.world.note(self.host.name, f"stream {stream_id} ended: {text}")
            self._turn("handle_stream_closed", lambda e, now: e.handle_stream_closed(stream_id, text, now))

    # Signals

    def drain_signals(self, turn: Turn) -> bool:
        """Hand the endpoint's signals to the hub; whether there were any."""
        hub, drained = self.host.world.hub, False
        endpoint = self._rendezvous_endpoint()
        if endpoint is None:
            return False
        while (signal := self._poll_signal(endpoint)) is not None:
            drained = True
            turn.signals += 1
            to, blob = signal
            self.host.world.hook("signal_out", self.host, to, blob)
            if hub is not None:
                hub.send(self.host, to, blob)
            if turn.signals > SIGNALS_MAX:
                self.host.world.violate("V8", self.host.name, f"more than {SIGNALS_MAX} signals after {turn.verb}")
                break
        return drained

    def _poll_signal(self, endpoint: RendezvousEndpoint) -> tuple[Identity, bytes] | None:
        try:
            return endpoint.poll_signal()
        except Exception as error:  # noqa: BLE001 - whatever leaves the endpoint is the finding
            self.host.world.violate("V20", self.host.name, f"poll_signal raised {type(error).__name__}: {error}")
            return None

    def deliver_signal(self, sender: Identity | None, blob: bytes) -> None:
        """One arrived."""
        run = self.host.run

        def act() -> None:
            if self.host.run == run:
                self.host.world.hook("signal_in", self.host, sender, blob)
                self._turn("handle_signal", lambda e, now: e.handle_signal(sender, blob, now))

        self._later(act)

    # Calls

    def _later(self, action: Callable[[], None]) -> None:
        """Now, or behind everything that waits for the process to go on."""
        if not self.host.is_alive:
            return
        if self.host.is_paused:
            self._waiting.append(action)
        else:
            action()

    def _turn(self, verb: str, action: Callable[[RendezvousEndpoint, int], None]) -> None:
        if self._rendezvous_endpoint() is not None:
            self.host.turn(verb, cast("Callable[[EndpointLike, int], None]", action))

    def _rendezvous_endpoint(self) -> RendezvousEndpoint | None:
        endpoint = self.host.endpoint
        return cast("RendezvousEndpoint", endpoint) if hasattr(endpoint, "poll_signal") else None


def _is_canonical(address: Address) -> bool:
    try:
        return canonical_address(*address) == address
    except UsageError:
        return False
