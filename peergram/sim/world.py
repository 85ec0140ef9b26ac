"""A world in virtual time: hosts with endpoints, links between them, one heap of things to happen.

Whatever can happen is an entry (time, tie-break, order, action); the loop takes the next one and sets the clock. A host is what
a driver and an application are outside: it opens sockets, hands batches to its endpoint, drains it after every call and keeps
its deadline. All chance comes from generators made from the seed, one per purpose, so that a run replays exactly and a feature
that is switched off leaves the others as they were. Checkers watch through the hooks of `checkers.Checker`.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Protocol, TypeVar
from zlib import crc32

from peergram.address import Address, format_address
from peergram.config import PACKETS_PER_TRANSMIT_MAX, Config
from peergram.errors import Result
from peergram.events import (
    ConnectionInfo,
    ConnectionState,
    Event,
    Message,
    RealTimeStatus,
    SendFlags,
    SessionFailed,
    SessionRequested,
)
from peergram.identity import Identity
from peergram.io_requests import CloseSocket, IoRequest, OpenSocket, Transmit
from peergram.sim.clock import HostClock
from peergram.sim.ledger import Failure, Ledger, Sent
from peergram.sim.link import Datagram, Link, LinkModel
from peergram.sim.trace import Trace
from peergram.timing import Deadline

if TYPE_CHECKING:
    from peergram.sim.checkers import Checker
    from peergram.sim.hub import SignalHub
    from peergram.sim.outside import Outside
    from peergram.sim.topology import Interface, Topology

LISTEN_PORT = 7000
ANY_HOST = "0.0.0.0"
BATCH_PACKETS_MAX = 64
BATCH_BYTES_MAX = 65_507
BATCHES_PER_TURN_MAX = 64
SOCKET_QUEUE_PACKETS = 256
"""What the kernel keeps for a host that does not run."""
DRAIN_ROUNDS_MAX = 1_000
EVENTS_MAX = 400_000
"""More heap entries than any healthy seed needs: a livelock."""
VIOLATIONS_MAX = 5
"""A run stops after this many."""

T = TypeVar("T")


class EndpointLike(Protocol):
    """What the world needs of an endpoint: the interface in docs/architecture.md."""

    def listen(self, bind: Address) -> int: ...
    def poll_socket_request(self) -> IoRequest | None: ...
    def handle_socket_opened(self, socket_id: int, local: Address, now_us: int) -> None: ...
    def handle_socket_failed(self, socket_id: int, text: str, now_us: int) -> None: ...
    def handle_datagrams(self, socket_id: int, remote: Address, data: bytes, segment_bytes: int, now_us: int) -> None: ...
    def handle_timeout(self, now_us: int) -> None: ...
    def poll_transmit(self, now_us: int) -> Transmit | None: ...
    def poll_timeout(self) -> Deadline | None: ...
    def poll_event(self) -> Event | None: ...
    def send_message(self, to: Identity, data: bytes, flags: int, channel: int, now_us: int) -> Result: ...
    def receive_messages(self, channel: int, max_messages: int, now_us: int) -> list[Message]: ...
    def accept_session(self, identity: Identity, now_us: int) -> bool: ...
    def close_session(self, identity: Identity, now_us: int) -> bool: ...
    def close_channel(self, identity: Identity, channel: int, now_us: int) -> bool: ...
    def connection_info(self, identity: Identity, now_us: int) -> ConnectionInfo | None: ...
    def real_time_status(self, identity: Identity, now_us: int) -> RealTimeStatus | None: ...
    def close(self, now_us: int) -> None: ...
    @property
    def unread_messages(self) -> int: ...


class MakeEndpoint(Protocol):
    """How a world makes an endpoint; `key_seed` (32 bytes) is the same for every run of a host that keeps its key, else None."""

    def __call__(
        self, identity: Identity, config: Config, entropy: Callable[[int], bytes], key_seed: bytes | None
    ) -> EndpointLike: ...


class Application(Protocol):
    """What runs on a host; called at the end of a turn, and free to give commands."""

    def on_event(self, event: Event) -> None: ...
    def on_readable(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken promise: which, when, where, and what was seen."""

    name: str
    at_us: int
    host: str
    text: str

    def __str__(self) -> str:
        return f"{self.name} at {self.at_us / 1e6:.6f} s, {self.host}: {self.text}"


@dataclass(slots=True)
class Turn:
    """What one call into an endpoint led to."""

    verb: str
    packets: int = 0
    events: int = 0
    socket_requests: int = 0
    signals: int = 0

    @property
    def did_something(self) -> bool:
        """Whether anything came out."""
        return bool(self.packets or self.events or self.socket_requests or self.signals)


@dataclass(slots=True)
class _Batch:
    """Datagrams of one source that arrive together, as `UDP_GRO` would return them."""

    source: Address
    destination: Address
    packets: list[bytes]
    tampered: bool
    link: Link | None = None
    host: Host | None = None
    """Whom the way led to; else the owner of the destination gets it."""

    def takes(self, datagram: Datagram) -> bool:
        first, last, size = len(self.packets[0]), len(self.packets[-1]), len(datagram.data)
        return (
            (self.source, self.destination, self.tampered) == (datagram.source, datagram.destination, datagram.tampered)
            and 0 < size <= first == last
            and len(self.packets) < BATCH_PACKETS_MAX
            and first * len(self.packets) + size <= BATCH_BYTES_MAX
        )


@dataclass(slots=True)
class HostOptions:
    """How a host's driver behaves."""

    late_us: int = 0
    """Timers fire up to this much late."""
    lazy_us: int = 0
    """Packets to send are fetched up to this much late."""
    bind_failures: float = 0.0
    """Chance that a socket other than the listening one cannot be opened."""
    keeps_key: bool = True
    listens: bool = True
    """Whether an endpoint listens on port 7000 from its start."""


class Host:
    """A machine with one address, a clock, at most one living endpoint, and an application."""

    def __init__(self, world: World, index: int, identity: Identity, config: Config, options: HostOptions) -> None:
        self.world = world
        self.index = index
        self.name = f"host-{index}"
        self.ip = f"10.0.0.{index + 1}" if world.topology is None else ANY_HOST
        self.identity = identity
        self.dial_name = Identity.ip((self.ip, LISTEN_PORT)).text if world.topology is None else identity.text
        self.names = frozenset((identity.text, self.dial_name))
        self.config = config
        self.options = options
        self.clock = HostClock(world.seeded(f"clock/{index}").randrange(1, 4_000_000_000_000))
        self.application: Application | None = None
        self.events: list[Event] = []
        self.endpoint: EndpointLike | None = None
        self.sockets: dict[int, Address] = {}
        self.bound: dict[Address, int] = {}
        self.outside: Outside | None = None
        """What this host sees of a topology, if the world has one."""
        self.run = -1
        self.known: set[str] = set()
        """Names this run has had to do with."""
        self._rng = world.seeded(f"driver/{index}")
        self._ports = 40_000
        self._alarm = 0
        self._alarm_at_us: int | None = None
        self._paused_until_us = 0
        self._waiting: list[_Batch] = []
        self._draining = False
        self._flush_planned = False
        self._reading = False

    # Life

    def start(self) -> None:
        """A new process: a new endpoint, which listens on port 7000 unless the options say otherwise."""
        assert self.endpoint is None, "the host runs already"
        self.run += 1
        self.known = set()
        key_seed = self.world.bytes_for(f"key/{self.index}") if self.options.keeps_key else None
        self.endpoint = self.world.make_endpoint(self.identity, self.config, self.world.entropy(self), key_seed)
        self.world.note(self.name, f"starts run {self.run} as {self.identity.text}")
        if self.outside is not None:
            self.outside.started()
        if self.options.listens:
            self.turn("listen", lambda endpoint, _: endpoint.listen((self.ip, LISTEN_PORT)))
        else:
            self.drain(Turn("start"))
        self.world.hook("started", self)

    def crash(self) -> None:
        """The process is gone, with everything it knew."""
        if self.endpoint is None:
            return
        self.world.note(self.name, "crashes")
        self.world.hook("crashed", self)
        self.world.ledger.sender_crashed(self.index, self.run)
        for other in self.world.hosts:
            self.world.ledger.boundary(self.index, other.index, self.world.now_us)
            if self.unread_messages:
                self.world.ledger.receiver_closed(self.index, other.index, self.world.now_us)
        self.endpoint = None
        if self.outside is not None:
            self.outside.crashed()
        self.bound.clear()
        self.sockets.clear()
        self._waiting.clear()
        self._disarm()

    def pause(self, for_us: int) -> None:
        """The process is stopped for a while; its clock runs on."""
        self.world.note(self.name, f"is paused for {for_us} us")
        self._paused_until_us = max(self._paused_until_us, self.world.now_us + for_us)
        self.world.at(self._paused_until_us, self._resume)

    def resume_now(self) -> None:
        """End any pause."""
        if self.is_paused:
            self._paused_until_us = self.world.now_us
            self._resume()

    @property
    def is_alive(self) -> bool:
        """Whether a process exists, running or paused."""
        return self.endpoint is not None

    @property
    def is_paused(self) -> bool:
        """Whether the process stands still."""
        return self._paused_until_us > self.world.now_us

    def jump_clock(self, by_us: int) -> None:
        """The monotonic clock is suddenly further on."""
        self.world.note(self.name, f"clock jumps by {by_us} us")
        self.clock.jump(self.world.now_us, by_us)
        self._rearm()

    def when_running(self, action: Callable[[], None]) -> None:
        """Do it now, or when the process goes on; not at all if there is none."""
        if self.is_paused:
            self.world.at(self._paused_until_us, lambda: self.when_running(action))
        elif self.is_alive:
            action()

    # Commands of the application

    def send(
        self, to: str, data: bytes | int, *, reliable: bool = True, channel: int = 0, flags: int = 0, receiver: Host | None = None
    ) -> Result | None:
        """Send `data`, or a checkable message of that many bytes; None if the endpoint raised."""
        target = receiver or self.world.named(to)
        payload = self.world.ledger.payload(data) if isinstance(data, int) else data
        all_flags = flags | (SendFlags.RELIABLE if reliable else SendFlags.UNRELIABLE)
        self.known.add(to)
        result = self._call("send_message", lambda e, now: e.send_message(Identity.parse(to), payload, all_flags, channel, now))
        self.world.note(self.name, f"sends {len(payload)} bytes to {to} on {channel} flags {all_flags}: {result}")
        self.world.channels.add(channel)
        if result == Result.OK:
            record = Sent(0, self.index, self.run, to, target.index, channel, reliable, payload, self.world.now_us)
            self.world.ledger.accepted(record)
            self.world.hook("sent", self, record)
        self._command_done("send_message", to, result)
        return result

    def receive(self, channel: int, max_messages: int = 100) -> list[Message]:
        """Messages of one channel; every one is shown to the checkers."""
        messages = self._call("receive_messages", lambda e, now: e.receive_messages(channel, max_messages, now)) or []
        self.world.hook("read", self, channel, max_messages, messages)
        for message in messages:
            self.world.message_received(self, channel, message)
        return messages

    def receive_all(self, max_messages: int = 100) -> list[Message]:
        """Everything unread, channel by channel, then the turn ends."""
        messages: list[Message] = []
        while self.unread_messages:
            some = [message for channel in sorted(self.world.channels) for message in self.receive(channel, max_messages)]
            if not some:
                break
            messages += some
            self.drain(Turn("receive_messages"))
        return messages

    def accept(self, name: str) -> bool:
        """Accept a session request."""
        accepted = self._call("accept_session", lambda e, now: e.accept_session(Identity.parse(name), now))
        self.known.add(name)
        self._command_done("accept_session", name, accepted)
        return bool(accepted)

    def close_session(self, name: str) -> bool:
        """End the session to this name, throwing away what is unread and, after the linger time, unsent."""
        unread = self.unread_messages
        closed = self._call("close_session", lambda e, now: e.close_session(Identity.parse(name), now))
        self._session_closed(name, bool(closed), unread)
        self._command_done("close_session", name, closed)
        return bool(closed)

    def close_channel(self, name: str, channel: int) -> bool:
        """Close one channel of a session; the last one closes the session."""
        unread = self.unread_messages
        closed = self._call("close_channel", lambda e, now: e.close_channel(Identity.parse(name), channel, now))
        peer = self.world.named(name)
        if unread:
            self.world.ledger.receiver_closed(self.index, peer.index, self.world.now_us, channel)
        self.world.ledger.boundary(self.index, peer.index, self.world.now_us)
        if closed and self.info(name) is None:
            self._session_closed(name, True, unread)
        self._command_done("close_channel", name, closed)
        return bool(closed)

    def close(self) -> None:
        """End every session."""
        for name in sorted(self.known):
            self._session_closed(name, True, self.unread_messages)
        self._call("close", lambda e, now: e.close(now))
        self._command_done("close", "", None)

    def info(self, name: str) -> ConnectionInfo | None:
        """What the endpoint says about a session; changes nothing."""
        return self._call("connection_info", lambda e, now: e.connection_info(Identity.parse(name), now))

    def status(self, name: str) -> RealTimeStatus | None:
        """How a session is doing; changes nothing."""
        return self._call("real_time_status", lambda e, now: e.real_time_status(Identity.parse(name), now))

    @property
    def unread_messages(self) -> int:
        """Messages that wait for the application."""
        return self.endpoint.unread_messages if self.endpoint else 0

    def _session_closed(self, name: str, existed: bool, unread: int) -> None:
        """What was taken is thrown away only where something was unread; all that came too late is for the sender to report."""
        peer, ledger = self.world.named(name), self.world.ledger
        until_us = self.world.now_us + self.config.linger_us
        if existed:
            ledger.sender_closed(self.index, self.run, peer.index)
        if unread:
            ledger.receiver_closed(self.index, peer.index, until_us)
        ledger.boundary(self.index, peer.index, until_us)

    def _command_done(self, verb: str, name: str, result: object) -> None:
        if verb != "send_message":
            self.world.note(self.name, f"{verb} {name}: {result}")
        self.world.hook("command", self, verb, name, result)
        self.drain(Turn(verb))

    # The driver

    def turn(self, verb: str, action: Callable[[EndpointLike, int], T]) -> Turn:
        """Call the endpoint, then drain it."""
        self._call(verb, action)
        turn = Turn(verb)
        self.drain(turn)
        return turn

    def deliver(self, batch: _Batch) -> None:
        """A batch has arrived at this host."""
        if self.is_paused:
            if sum(len(waiting.packets) for waiting in self._waiting) < SOCKET_QUEUE_PACKETS:
                self._waiting.append(batch)
            return
        socket_id = self.bound.get(batch.destination)
        if socket_id is None and self.outside is not None:
            socket_id = self.outside.socket_for(batch.destination)
        if socket_id is None:
            self.world.mark("packet for a closed port")
            return
        data = b"".join(batch.packets)
        self.world.hook("packets_in", self, batch.source, batch.packets)
        if len(batch.packets) > 1:
            self.world.mark("several packets in one batch")
        segment = len(batch.packets[0])
        self.turn("handle_datagrams", lambda e, now: e.handle_datagrams(socket_id, batch.source, data, segment, now))

    def drain(self, turn: Turn) -> None:
        """Socket requests, transmits, events, unread messages; then the deadline."""
        if self._draining or self.endpoint is None:
            return
        self._draining = True
        for _ in range(DRAIN_ROUNDS_MAX):
            drained = self._drain_sockets(turn) or self._drain_transmits(turn) or self._drain_events(turn)
            if not drained and not (self.outside is not None and self.outside.drain_signals(turn)):
                break
        else:
            self.world.violate("V8", self.name, f"{DRAIN_ROUNDS_MAX} rounds of draining after {turn.verb} were not enough")
        self._draining = False
        self.world.hook("turn_done", self, turn)
        self._rearm()
        if self.application is not None and self.unread_messages and not self._reading:
            self._reading = True
            self.application.on_readable()
            self._reading = False

    def _call(self, verb: str, action: Callable[[EndpointLike, int], T]) -> T | None:
        if self.endpoint is None:
            return None
        try:
            return action(self.endpoint, self.clock.local_us(self.world.now_us))
        except Exception as error:  # noqa: BLE001 - whatever leaves the endpoint is the finding
            self.world.violate("V20", self.name, f"{verb} raised {type(error).__name__}: {error}")
            return None

    def _drain_sockets(self, turn: Turn) -> bool:
        drained = False
        while (request := self._call("poll_socket_request", lambda e, _: e.poll_socket_request())) is not None:
            drained = True
            turn.socket_requests += 1
            if isinstance(request, CloseSocket):
                self.bound.pop(self.sockets.pop(request.socket_id, ("", 0)), None)
                self.world.note(self.name, f"closes socket {request.socket_id}")
            elif isinstance(request, OpenSocket):
                self._open_socket(request)
            elif self.outside is not None:
                self.outside.serve(request)
            else:
                self.world.violate("V20", self.name, f"asks for {request} in a world without a topology")
        return drained

    def _open_socket(self, request: OpenSocket) -> None:
        socket_id, port = request.socket_id, request.bind[1]
        failing = port == 0 and self.options.bind_failures and self._rng.random() < self.options.bind_failures
        if port == 0:
            self._ports += 1
            port = self._ports
        local = (self.ip if self.outside is None else request.bind[0], port)
        failing = failing or (self.outside is not None and not self.outside.may_bind(local[0]))
        if failing or local in self.bound:
            self.world.note(self.name, f"cannot open socket {socket_id}")
            self.world.mark("socket failed")
            self._call("handle_socket_failed", lambda e, now: e.handle_socket_failed(socket_id, "no free socket", now))
            return
        self.bound[local] = socket_id
        self.sockets[socket_id] = local
        self.world.note(self.name, f"opens socket {socket_id} at {format_address(local)}")
        self._call("handle_socket_opened", lambda e, now: e.handle_socket_opened(socket_id, local, now))

    def _drain_transmits(self, turn: Turn) -> bool:
        if self.options.lazy_us and turn.verb != "flush":
            if not self._flush_planned:
                self._flush_planned = True
                self.world.after(self._rng.randrange(self.options.lazy_us), self._flush)
            return False
        drained = False
        while (transmit := self._call("poll_transmit", lambda e, now: e.poll_transmit(now))) is not None:
            drained = True
            turn.packets += len(transmit.packets)
            self._transmit(transmit)
            if turn.packets > DRAIN_ROUNDS_MAX * PACKETS_PER_TRANSMIT_MAX:
                self.world.violate("V8", self.name, f"transmits without end after {turn.verb}")
                break
        return drained

    def _flush(self) -> None:
        self._flush_planned = False
        self.when_running(lambda: self.drain(Turn("flush")))

    def _transmit(self, transmit: Transmit) -> None:
        source = self.sockets.get(transmit.socket_id)
        if source is None and self.outside is not None and self.outside.write(transmit):
            return
        if source is None:
            self.world.violate("V20", self.name, f"transmit through socket {transmit.socket_id}, which is not open")
            return
        if not 0 < len(transmit.packets) <= PACKETS_PER_TRANSMIT_MAX:
            self.world.violate("V20", self.name, f"transmit of {len(transmit.packets)} packets")
        self.world.transmit(self, source, transmit.remote, transmit.packets)

    def _drain_events(self, turn: Turn) -> bool:
        drained = False
        while (event := self._call("poll_event", lambda e, _: e.poll_event())) is not None:
            drained = True
            turn.events += 1
            self.known.add(event.identity.text)
            self.events.append(event)
            self.world.event_polled(self, event)
            if self.application is not None:
                self.application.on_event(event)
        return drained

    def _rearm(self) -> None:
        deadline = self._call("poll_timeout", lambda e, _: e.poll_timeout())
        if deadline is None:
            self._disarm()
            return
        at_us = self.clock.world_us(deadline.at_us)
        if at_us == self._alarm_at_us:
            return
        self._disarm()
        self._alarm_at_us = at_us
        late_us = self._rng.randrange(self.options.late_us) if self.options.late_us else 0
        alarm = self._alarm
        self.world.at(max(at_us, self.world.now_us + 1) + late_us, lambda: self._wake(alarm))

    def _disarm(self) -> None:
        self._alarm_at_us = None
        self._alarm += 1

    def _wake(self, alarm: int) -> None:
        if alarm != self._alarm:
            return
        self._disarm()
        if self.endpoint is None or self.is_paused:
            return
        deadline = self._call("poll_timeout", lambda e, _: e.poll_timeout())
        self.world.note(self.name, f"wakes: {deadline.reason if deadline else '-'}")
        unread = self.unread_messages
        turn = self.turn("handle_timeout", lambda e, now: e.handle_timeout(now))
        self.world.hook("woken", self, turn, turn.did_something or unread != self.unread_messages)

    def _resume(self) -> None:
        """What waited in the socket, in turns of at most 64 batches, then timers, in either order."""
        if self.is_paused or self.endpoint is None:
            return
        self.world.note(self.name, f"goes on, {len(self._waiting)} batches waiting")
        if self._rng.random() < 0.5:
            self.turn("handle_timeout", lambda e, now: e.handle_timeout(now))
        waiting, self._waiting = self._waiting, []
        for count, batch in enumerate(waiting, 1):
            self.deliver(batch)
            if count % BATCHES_PER_TURN_MAX == 0:
                self.turn("handle_timeout", lambda e, now: e.handle_timeout(now))
        self.turn("handle_timeout", lambda e, now: e.handle_timeout(now))
        if self.outside is not None:
            self.outside.resumed()

    def carry(self, at_us: int, datagram: Datagram, interface: Interface) -> None:
        """A packet will arrive through that interface."""
        self.world.arrives(at_us, datagram, interface.down, self)


@dataclass(order=True, slots=True)
class _Entry:
    at_us: int
    tie: int
    order: int
    action: Callable[[], object] = field(compare=False)


class World:
    """The clock, the heap and everything reachable from them; `run_until` lets time pass."""

    def __init__(
        self, seed: int | str, *, make_endpoint: MakeEndpoint, checkers: Sequence[Checker] = (), trace: bool = False
    ) -> None:
        self.seed = seed
        self.make_endpoint = make_endpoint
        self.now_us = 0
        self.trace = Trace(keep=trace)
        self.ledger = Ledger()
        self.hosts: list[Host] = []
        self.links: dict[tuple[int, int], Link] = {}
        self.topology: Topology | None = None
        """Set by the topology itself, before any host is there: packets go its ways then; hosts have no links of their own."""
        self.hub: SignalHub | None = None
        self.channels: set[int] = {0}
        self.violations: list[Violation] = []
        self.marks: set[str] = set()
        self.phase = ""
        self.event_count = 0
        self.packet_count = 0
        self.events_max = EVENTS_MAX
        self.shuffle_ties = False
        self.stopped = False
        self._heap: list[_Entry] = []
        self._order = 0
        self._ties = self.seeded("ties")
        self._last_batch: tuple[int, _Batch] | None = None
        self._by_name: dict[str, Host] = {}
        self._by_ip: dict[str, Host] = {}
        self._hooks = _collect_hooks(checkers)
        for checker in checkers:
            checker.world = self

    # Chance

    def seeded(self, purpose: str) -> Random:
        """The generator for one purpose; the same for the same seed."""
        return Random(f"{self.seed}/{purpose}")

    def bytes_for(self, purpose: str) -> bytes:
        """32 bytes for one purpose."""
        return hashlib.blake2b(f"{self.seed}/{purpose}".encode(), digest_size=32).digest()

    def entropy(self, host: Host) -> Callable[[int], bytes]:
        """What an endpoint of this run of the host draws its keys from: a counter, hashed with the seed."""
        drawn = 0
        prefix = f"{self.seed}/entropy/{host.index}/{host.run}"

        def draw(size_bytes: int) -> bytes:
            nonlocal drawn
            drawn += 1
            return hashlib.shake_128(f"{prefix}/{drawn}".encode()).digest(size_bytes)

        return draw

    # Building

    def add_host(
        self, identity: str | None = None, *, config: Config | None = None, options: HostOptions | None = None, start: bool = True
    ) -> Host:
        """A host with the next free address, linked with all others both ways by good links."""
        index = len(self.hosts)
        who = Identity.parse(identity) if identity else Identity.string(f"host-{index}")
        host = Host(self, index, who, config or Config(), options or HostOptions())
        if self.topology is None:
            for other in self.hosts:
                for pair in ((other.index, index), (index, other.index)):
                    self.links[pair] = Link(LinkModel(), self.seeded(f"link/{pair[0]}/{pair[1]}"))
            self._by_ip[host.ip] = host
        self.hosts.append(host)
        self._by_name.update(dict.fromkeys(host.names, host))
        if start:
            host.start()
        return host

    def named(self, name: str) -> Host:
        """The host that goes by this identity or is dialed by it."""
        return self._by_name[name]

    def knows(self, name: str) -> bool:
        """Whether any host goes by this name."""
        return name in self._by_name

    # Time

    def at(self, at_us: int, action: Callable[[], object]) -> None:
        """Let `action` happen then (or now, if that is past)."""
        self._order += 1
        tie = self._ties.getrandbits(8) if self.shuffle_ties else 0
        heapq.heappush(self._heap, _Entry(max(at_us, self.now_us), tie, self._order, action))

    def after(self, delay_us: int, action: Callable[[], object]) -> None:
        """Let `action` happen `delay_us` from now."""
        self.at(self.now_us + delay_us, action)

    def run_until(self, until_us: int) -> None:
        """Let everything up to that time happen, unless enough went wrong."""
        heap = self._heap
        while heap and heap[0].at_us <= until_us and not self.stopped:
            entry = heapq.heappop(heap)
            self.now_us = entry.at_us
            self.event_count += 1
            if self.event_count > self.events_max:
                self.violate("work", "world", f"more than {self.events_max} events: a livelock")
                self.stopped = True
                return
            entry.action()
        if not self.stopped:
            self.now_us = until_us

    def run_for(self, duration_us: int) -> None:
        """As `run_until`, from now."""
        self.run_until(self.now_us + duration_us)

    def enter(self, phase: str) -> None:
        """Tell the checkers that another part of the run begins."""
        self.phase = phase
        self.note("world", f"phase {phase}")
        self.hook("phase_entered", phase)

    # Packets

    def transmit(self, host: Host, source: Address, destination: Address, packets: Iterable[bytes]) -> None:
        """A host's socket sends these packets."""
        packets = list(packets)
        self.packet_count += len(packets)
        total, check = sum(map(len, packets)), crc32(b"".join(packets))
        where = f"{format_address(source)} > {format_address(destination)}"
        self.note(host.name, f"packets {where}: {len(packets)}, {total} bytes, check {check:08x}")
        target = self._by_ip.get(destination[0])
        link = self.links.get((host.index, target.index)) if target else None
        for packet in packets:
            self.hook("packet_out", host, source, destination, packet)
            if link is not None:
                for at_us, datagram in link.send(Datagram(source, destination, packet), self.now_us):
                    self.arrives(at_us, datagram, link)
            elif host.outside is not None:
                host.outside.send(Datagram(source, destination, packet))

    def inject(self, datagram: Datagram, delay_us: int = 0) -> None:
        """A packet of an attacker, past all links; in a topology it appears on the internet, whatever its source says."""
        datagram.tampered = True
        if (topology := self.topology) is not None:
            self.after(delay_us, lambda: topology.arrive(topology.internet, datagram, 0))
            return
        self.arrives(self.now_us + delay_us, datagram, None)

    def arrives(self, at_us: int, datagram: Datagram, link: Link | None, host: Host | None = None) -> None:
        """A packet will be there then; in one batch with others of its kind."""
        if link is not None and self._last_batch is not None:
            last_at_us, batch = self._last_batch
            if last_at_us == at_us > self.now_us and batch.link is link and batch.takes(datagram):
                batch.packets.append(datagram.data)
                return
        batch = _Batch(datagram.source, datagram.destination, [datagram.data], datagram.tampered, link, host)
        self._last_batch = (at_us, batch)
        self.at(at_us, lambda: self._deliver(batch))

    def _deliver(self, batch: _Batch) -> None:
        host = batch.host or self._by_ip.get(batch.destination[0])
        if host is None or not host.is_alive:
            return
        note = f"gets {len(batch.packets)} from {format_address(batch.source)}{' (tampered)' if batch.tampered else ''}"
        self.note(host.name, note)
        if not batch.tampered or batch.link is not None:
            host.deliver(batch)
            return
        self.hook("attack_begins", host, batch.source)
        host.deliver(batch)
        self.hook("attack_ends", host, batch.source)

    # What hosts report

    def message_received(self, host: Host, channel: int, message: Message) -> None:
        """An application got a message: find what it is and tell the checkers."""
        name, payload = message.identity.text, message.payload
        senders = frozenset(other.index for other in self.hosts if name in other.names)
        was_dialed = any(name == other.dial_name != other.identity.text for other in self.hosts)
        to = host.identity.text if was_dialed else host.dial_name
        record = self.ledger.find(host.index, channel, message, senders, to)
        self.note(host.name, f"receives {len(payload)} bytes on {channel} from {name}: {record.number if record else 'unknown'}")
        self.hook("received", host, channel, message, record)
        if record is not None:
            self.ledger.delivered(record, name, self.now_us)

    def event_polled(self, host: Host, event: Event) -> None:
        """An endpoint reported something."""
        name = event.identity.text
        if isinstance(event, SessionFailed):
            lost = event.unconfirmed.messages
            self.note(host.name, f"failed {name}: {int(event.reason)} {event.debug!r}, {lost} unconfirmed")
            self.mark(f"failed with {int(event.reason)}")
            peer = self._by_name.get(name)
            if peer is not None and event.state == ConnectionState.NONE:
                self.mark("loss reported after closing")
                self.ledger.reported_after_closing(host.index, host.run, name, peer.index, lost)
            elif peer is not None:
                self.hook("failing", host, event, peer)
                failure = Failure(self.now_us, lost, event.unconfirmed.bytes, int(event.reason))
                self.ledger.failed(host.index, host.run, name, peer.index, failure)
        elif isinstance(event, SessionRequested):
            self.note(host.name, f"requested by {name}")
        self.hook("event", host, event)

    def note(self, who: str, what: str) -> None:
        """A line in the trace."""
        self.trace.add(self.now_us, who, what)

    def mark(self, state: str) -> None:
        """An interesting state was reached."""
        self.marks.add(state)

    def violate(self, name: str, host: str, text: str) -> None:
        """A promise was broken; the run stops after a few."""
        if self.stopped:
            return
        self.note(host, f"VIOLATION {name}: {text}")
        self.violations.append(Violation(name, self.now_us, host, text))
        if len(self.violations) >= VIOLATIONS_MAX:
            self.stopped = True

    def hook(self, name: str, *args: object) -> None:
        """Tell every checker that wants to know."""
        for call in self._hooks[name]:
            call(*args)


def _collect_hooks(checkers: Sequence[Checker]) -> dict[str, list[Callable[..., None]]]:
    from peergram.sim.checkers import HOOKS, Checker

    return {
        name: [getattr(checker, name) for checker in checkers if getattr(type(checker), name) is not getattr(Checker, name)]
        for name in HOOKS
    }
