"""The promises watched in every run: one small class for each, named as in the list of invariants.

| V1 | reliable messages: once, in order, byte for byte, nothing left out within a session |
| V2 | unreliable messages: sent, whole, at most once |
| V3 | nothing from a stranger, another channel, another session, or from nobody |
| V4 | what `send_message` took is delivered, or reported as unconfirmed; reports do not exceed what was sent |
| V5 | both ends agree that they are connected, and who closed |
| V6 | one session per pair in the end; after closing, nothing is left: no session, no socket, no memory |
| V7 | memory within the configured limits, and the counters they are enforced by are right |
| V8 | bounded work for each call |
| V9 | no more bytes to an unproven address than came from it |
| V10 | a packet number is never used for two packets of a connection; no plain text on any link |
| V12 | when faults stop, sessions come up and stay up (the scenario also probes this) |
| V13 | no timer in the past, no busy timer, an idle session is quiet |
| V14 | never faster than the fixed rate |
| V15 | packets of an attacker without keys change nothing |
| V16 | no event twice, none after the final one |
| V18 | every packet is exactly what the format says |
| V20 | results are what the interface says (exceptions are caught by the world) |

V17, the same trace for the same seed, compares two runs (`swarm.check_replay`). Checkers see what an application and a wire-tap
see; only the accounts of V7 are read from inside.
"""

from __future__ import annotations

from collections import defaultdict, deque
from typing import TYPE_CHECKING, ClassVar

from peergram.address import Address
from peergram.config import DATAGRAM_BYTES_MAX, PACKETS_PER_TRANSMIT_MAX
from peergram.connection.flow import Flow
from peergram.connection.reliable import ReliableReceiver
from peergram.connection.room import ReceiveRoom, charge_of
from peergram.connection.unreliable import UnreliableReceiver
from peergram.endpoint.inbox import Inbox
from peergram.errors import EndReason, Result, WireError
from peergram.events import (
    ConnectionState,
    Delivered,
    Event,
    Message,
    PeerRefused,
    RelayNetworkChanged,
    RouteChanged,
    SessionFailed,
    SessionRequested,
)
from peergram.identity import Identity
from peergram.sim.footprint import belongings, footprint_bytes
from peergram.sim.ledger import MARKER, Sent
from peergram.sim.wire_check import CONNECT_REQUEST, DATA, StrictError, check_packet, connect_ok_ids
from peergram.wire.control import decode_control
from peergram.wire.data_packet import decode_data_header

if TYPE_CHECKING:
    from peergram.sim.world import Host, Turn, World

WORK_PACKETS_MAX = 1_500
"""Packets that one call may set free (V8); more than a seed's whole traffic to one peer needs at once."""
AGREE_AFTER_US = 15_000_000
QUIET_PACKET_US = 5_000_000
"""An idle session sends at most one packet in this time (V13)."""
QUIET_SLACK_PACKETS = 3
"""Beside these: a report that falls due, an acknowledgement on the edge of the time watched."""
IDLE_AFTER_QUIET_US = 80_000_000
"""A session with a shorter idle time may end while others are watched for quiet."""
BUSY_WINDOW_US = 10_000
BUSY_WAKES_MAX = 50
RATE_WINDOW_US = 100_000
RATE_BURST_BYTES = (PACKETS_PER_TRANSMIT_MAX + 4) * 1300
REQUEST_REPEAT_US = 500_000
REPLACED = "The peer opened a new session in place of this one."
"""Requests of one stranger are further apart than this (V16)."""
UNREAD_SLACK_MESSAGES = 32
PENDING_SLACK_BYTES = 8_192
SESSION_OVERHEAD_BYTES = 1 << 20
HOST_OVERHEAD_BYTES = 1 << 20
LEFT_OVER_BYTES_MAX = 128 << 10
"""Memory that a host may keep after all its sessions ended (V6): spent timers, log limits, free lists."""

LIVE_STATES = {ConnectionState.CONNECTING, ConnectionState.FINDING_ROUTE, ConnectionState.CONNECTED}


class Checker:
    """A promise: overrides the hooks it needs; `violate` says that it was broken."""

    world: World

    @property
    def name(self) -> str:
        """As in the list of invariants."""
        return type(self).__name__

    def violate(self, host: Host | None, text: str) -> None:
        """Report what was seen."""
        self.world.violate(self.name, host.name if host else "world", text)

    # fmt: off
    def started(self, host: Host) -> None: """A host has a new endpoint, which listens."""
    def crashed(self, host: Host) -> None: """A host is about to lose its endpoint."""
    def sent(self, host: Host, record: Sent) -> None: """`send_message` returned OK."""
    def read(self, host: Host, channel: int, max_messages: int, messages: list[Message]) -> None: """`receive_messages` did."""
    def received(self, host: Host, channel: int, message: Message, record: Sent | None) -> None: """One of these messages."""
    def event(self, host: Host, event: Event) -> None: """`poll_event` returned one."""
    def failing(self, host: Host, event: SessionFailed, peer: Host) -> None: """It is a failure, not in the ledger yet."""
    def command(self, host: Host, verb: str, name: str, result: object) -> None: """Any other command returned."""
    def packet_out(self, host: Host, source: Address, destination: Address, packet: bytes) -> None: """On the wire."""
    def packets_in(self, host: Host, source: Address, packets: list[bytes]) -> None: """A batch is about to be handled."""
    def signal_out(self, host: Host, to: Identity, blob: bytes) -> None: """`poll_signal` returned one."""
    def signal_in(self, host: Host, sender: Identity | None, blob: bytes) -> None: """One is about to be handled."""
    def turn_done(self, host: Host, turn: Turn) -> None: """A call into the endpoint is drained."""
    def woken(self, host: Host, turn: Turn, useful: bool) -> None: """`handle_timeout` at its deadline is drained."""
    def attack_begins(self, host: Host, source: Address) -> None: """An attacker's packet is about to arrive."""
    def attack_ends(self, host: Host, source: Address) -> None: """It was handled."""
    def phase_entered(self, phase: str) -> None: """faults, calm, settled, quiet, quiet over, burst, ended."""
    # fmt: on


HOOKS = tuple(name for name in vars(Checker) if not name.startswith("_") and name not in ("name", "violate", "world"))


class V1(Checker):
    """Reliable messages."""

    def received(self, host: Host, channel: int, message: Message, record: Sent | None) -> None:
        ledger = self.world.ledger
        if record is None:
            double = ledger.find_delivered(host.index, channel, message.payload)
            altered = ledger.find_altered(message.payload)
            if double is not None and double.reliable:
                self.violate(host, f"reliable message {double.number} was delivered twice")
            elif double is None and altered is not None and altered.reliable and altered.payload != message.payload:
                self.violate(host, f"reliable message {altered.number} of {len(altered.payload)} bytes was altered")
            return
        if record.reliable and not record.is_ambiguous:
            self._check_order(host, record, message.identity.text)

    def _check_order(self, host: Host, record: Sent, session: str) -> None:
        ledger = self.world.ledger
        flow = ledger.flow_of(record)
        first = flow.passed.get(session, 0)
        if record.sequence < first:
            self.violate(host, f"reliable message {record.number} came after {flow.records[first - 1].number}")
        boundary_us = ledger.boundary_us(record.sender, record.receiver)
        for passed in flow.records[first : record.sequence]:
            if not passed.is_delivered and not passed.is_ambiguous:
                if boundary_us < passed.at_us and not ledger.is_excused(passed):
                    self.violate(host, f"reliable message {record.number} came before {passed.number} in the same session")
                    return
                self.world.mark("gap at the end of a session")


class V2(Checker):
    """Unreliable messages."""

    def received(self, host: Host, channel: int, message: Message, record: Sent | None) -> None:
        if record is not None:
            return
        ledger = self.world.ledger
        double = ledger.find_delivered(host.index, channel, message.payload)
        altered = ledger.find_altered(message.payload)
        if double is not None and not double.reliable:
            self.violate(host, f"unreliable message {double.number} was delivered twice")
        elif double is None and altered is not None and not altered.reliable and altered.payload != message.payload:
            self.violate(host, f"unreliable message {altered.number} of {len(altered.payload)} bytes was altered")


class V3(Checker):
    """Nothing invented."""

    def __init__(self) -> None:
        self._welcome: set[tuple[int, int, str]] = set()
        self._newest_run: dict[tuple[int, int, str, int], int] = {}

    def command(self, host: Host, verb: str, name: str, result: object) -> None:
        who = (host.index, host.run, name)
        if verb == "send_message" or (verb == "accept_session" and result):
            self._welcome.add(who)
        elif verb == "close_session" and result:
            self._welcome.discard(who)

    def received(self, host: Host, channel: int, message: Message, record: Sent | None) -> None:
        name = message.identity.text
        if record is None:
            self._check_unknown(host, channel, message)
            return
        names = self.world.named(name).names if self.world.knows(name) else {name}
        if not any((host.index, host.run, alias) in self._welcome for alias in names):
            self.violate(host, f"message {record.number} of {name} was delivered, who was never accepted")
        if record.is_ambiguous:
            return
        where = (host.index, host.run, name, channel)
        if record.run < self._newest_run.get(where, 0):
            self.violate(host, f"message {record.number} of {name} is from before a restart that was seen already")
        self._newest_run[where] = max(record.run, self._newest_run.get(where, 0))

    def _check_unknown(self, host: Host, channel: int, message: Message) -> None:
        ledger = self.world.ledger
        if ledger.find_delivered(host.index, channel, message.payload) is not None:
            return
        like = ledger.find_altered(message.payload)
        what = f"{len(message.payload)} bytes from {message.identity.text} on channel {channel}"
        if like is None:
            self.violate(host, f"nobody sent these {what}")
        elif like.payload == message.payload:
            self.violate(host, f"message {like.number} ({like.to}, channel {like.channel}) was delivered as {what}")


class V4(Checker):
    """Nothing is lost silently."""

    def failing(self, host: Host, event: SessionFailed, peer: Host) -> None:
        sent = self.world.ledger.sent_since_failure(host.index, host.run, peer.index)
        if event.unconfirmed.messages > sent:
            text = f"{event.unconfirmed.messages} unconfirmed messages to {event.identity.text} reported"
            self.violate(host, f"{text}, {sent} were sent since the last failure")

    def event(self, host: Host, event: Event) -> None:
        if not isinstance(event, SessionFailed):
            return
        reported, accepted = event.unconfirmed.messages, 0
        if self.world.knows(event.identity.text):
            peer = self.world.named(event.identity.text)
            reported, accepted = self.world.ledger.reported_and_accepted(host.index, host.run, peer.index)
        if event.unconfirmed.messages < 0 or reported > accepted:
            self.violate(host, f"{reported} unconfirmed messages to {event.identity.text} reported, {accepted} were sent")

    def phase_entered(self, phase: str) -> None:
        if phase != "settled":
            return
        for (sender, run, to), talk in sorted(self.world.ledger.talks.items()):
            missing = self.world.ledger.missing(talk)
            if missing:
                numbers = ", ".join(str(record.number) for record in missing[:5])
                counts = [failure.messages for failure in talk.failures]
                self.violate(
                    self.world.hosts[sender],
                    f"{len(missing)} reliable messages of run {run} to {to} vanished ({numbers}), failures reported {counts}, "
                    f"{talk.reported_after_closing} after closing",
                )
            elif (bytes_ := self.world.ledger.too_few_bytes(talk)) is not None:
                self.violate(self.world.hosts[sender], f"{bytes_[0]} unconfirmed bytes to {to} reported, {bytes_[1]} were lost")


class V5(Checker):
    """Both ends agree, and a peer is said to have closed only if he did."""

    def __init__(self) -> None:
        self._since_us: dict[int, int] = {}
        self._closers: set[tuple[int, int]] = set()
        """(who closed, whose session)."""

    def command(self, host: Host, verb: str, name: str, result: object) -> None:
        if verb in ("close_session", "close_channel") and result:
            self._closers.add((host.index, self.world.named(name).index))
        elif verb == "close":
            self._closers.update((host.index, other.index) for other in self.world.hosts)

    def failing(self, host: Host, event: SessionFailed, peer: Host) -> None:
        closed_by_peer = event.state == ConnectionState.CLOSED_BY_PEER and event.reason == EndReason.SESSION_CLOSED
        if closed_by_peer and (peer.index, host.index) not in self._closers:
            self.violate(host, f"says that {event.identity.text} closed the session; he did not")

    def started(self, host: Host) -> None:
        self._since_us[host.index] = self.world.now_us

    def phase_entered(self, phase: str) -> None:
        if phase != "quiet over":
            return
        for host in self.world.hosts:
            for name in sorted(host.known) if host.is_alive else ():
                self._check(host, name)

    def _check(self, host: Host, name: str) -> None:
        info = host.info(name)
        if info is None or info.state != ConnectionState.CONNECTED or not self.world.knows(name):
            return
        peer = self.world.named(name)
        if not peer.is_alive or self.world.now_us - self._since_us[peer.index] < 2 * AGREE_AFTER_US:
            return
        views = [peer.info(own) for own in sorted(host.names)]
        if not any(view is not None and view.state == ConnectionState.CONNECTED for view in views):
            self.violate(host, f"says it is connected with {name}; {peer.name} does not")


class V6(Checker):
    """After closing, nothing is left."""

    def __init__(self) -> None:
        self._empty_bytes: dict[int, int] = {}
        self._in_use: dict[tuple[int, Address, Address], set[bytes]] = defaultdict(set)
        """Connection ids that data of the last burst went to, by sender and both addresses."""

    def started(self, host: Host) -> None:
        self._empty_bytes[host.index] = _held_bytes(host)

    def packet_out(self, host: Host, source: Address, destination: Address, packet: bytes) -> None:
        if self.world.phase == "burst" and packet[0] & DATA and any(packet[1:5]):
            self._in_use[host.index, source, destination].add(packet[1:5])

    def phase_entered(self, phase: str) -> None:
        if phase != "ended":
            return
        for (index, source, destination), ids in sorted(self._in_use.items()):
            if len(ids) > 1:
                self.violate(self.world.hosts[index], f"{len(ids)} sessions from {source} to {destination} carry data at once")
        for host in self.world.hosts:
            if host.is_alive:
                self._check(host)

    def _check(self, host: Host) -> None:
        for name in sorted(host.known):
            info = host.info(name)
            if info is not None and info.state in LIVE_STATES:
                self.violate(host, f"the session with {name} is {info.state.name} long after its end")
        if len(host.sockets) > 1:
            self.violate(host, f"{len(host.sockets)} sockets are open without a session")
        left = _held_bytes(host) - self._empty_bytes[host.index]
        if left > LEFT_OVER_BYTES_MAX:
            self.violate(host, f"{left} bytes are held without a session")


class V7(Checker):
    """Memory within limits."""

    def __init__(self) -> None:
        self._burst: dict[tuple[int, str], tuple[int, int, int]] = {}
        """By reader and sender: when, bytes read at that instant, the largest message among them. Packets begin another count: a
        host that stood still handles many at one instant, and reads in between."""
        self._sends = 0

    def turn_done(self, host: Host, turn: Turn) -> None:
        """When a session ends, what it had acknowledged may join the unread messages, so that twice the limit can be there."""
        limit = (2 * host.config.recv_buffer_messages + UNREAD_SLACK_MESSAGES) * max(len(host.known), 1)
        if host.unread_messages > limit:
            self.violate(host, f"{host.unread_messages} unread messages of {len(host.known)} peers")

    def received(self, host: Host, channel: int, message: Message, record: Sent | None) -> None:
        """What is read at one instant was held before it: in the queue, or in the stream behind it, whose front message may go
        beyond the limit."""
        who = (host.index, message.identity.text)
        at_us, held_bytes, largest = self._burst.get(who, (-1, 0, 0))
        if at_us != self.world.now_us:
            held_bytes = largest = 0
        held_bytes, largest = held_bytes + len(message.payload), max(largest, len(message.payload))
        self._burst[who] = (self.world.now_us, held_bytes, largest)
        if held_bytes > 2 * host.config.recv_buffer_bytes + largest:
            self.violate(host, f"{held_bytes} bytes of {message.identity.text} were held")

    def packets_in(self, host: Host, source: Address, packets: list[bytes]) -> None:
        for who in [who for who in self._burst if who[0] == host.index]:
            del self._burst[who]

    def sent(self, host: Host, record: Sent) -> None:
        self._sends += 1
        if self._sends % 8:
            return
        status = host.status(record.to)
        if status is None:
            return
        pending = status.pending_reliable_bytes + status.pending_unreliable_bytes
        if pending > host.config.send_buffer_bytes * 5 // 4 + PENDING_SLACK_BYTES:
            self.violate(host, f"{pending} bytes wait for {record.to}, the limit is {host.config.send_buffer_bytes}")

    def phase_entered(self, phase: str) -> None:
        if phase not in ("calm", "settled", "quiet over"):
            return
        for host in self.world.hosts:
            session_bytes = 2 * (host.config.send_buffer_bytes + host.config.recv_buffer_bytes) + SESSION_OVERHEAD_BYTES
            if host.is_alive:
                self._check_accounts(host)
            if host.is_alive and (held := _held_bytes(host)) > HOST_OVERHEAD_BYTES + session_bytes * max(len(host.known), 1):
                self.violate(host, f"{held} bytes are held for {len(host.known)} peers")

    def _check_accounts(self, host: Host) -> None:
        """The counters that limits are enforced by say what is there: a leak would starve a peer in the end."""
        held = list(belongings(host.endpoint, _shared(host)))
        rooms = [some for some in held if isinstance(some, ReceiveRoom)]
        if not rooms:
            return
        unread = [entry for some in held if isinstance(some, Inbox) for entry in some.waiting()]
        charges = [charge_of(len(message.payload) + sender.header_bytes) for sender, message in unread]
        # Messages of a newer connection wait in it until those of the earlier one are read.
        held_back = [batch for some in held if isinstance(some, Flow) for batch in some.delivered]
        charges += [charge_of(len(payload)) for _, _, _, payloads, _ in held_back for payload in payloads]
        counted = (sum(room.unread_messages for room in rooms), sum(room.unread_bytes for room in rooms))
        if counted != (len(charges), sum(charges)):
            self.violate(host, f"{counted} messages and bytes count as unread, {(len(charges), sum(charges))} are")
        streams = sum(some.charged_bytes for some in held if isinstance(some, ReliableReceiver | UnreliableReceiver))
        if (stream_bytes := sum(room.stream_bytes for room in rooms)) != streams:
            self.violate(host, f"{stream_bytes} bytes of streams are counted, {streams} are held")


class V8(Checker):
    """Bounded work."""

    def turn_done(self, host: Host, turn: Turn) -> None:
        if turn.packets > WORK_PACKETS_MAX or turn.events > WORK_PACKETS_MAX:
            self.violate(host, f"{turn.verb} led to {turn.packets} packets and {turn.events} events")


class V9(Checker):
    """No amplification."""

    def __init__(self) -> None:
        self._unproven: dict[tuple[int, int, Address], int] = defaultdict(int)
        self._proven: set[tuple[int, int, Address]] = set()
        self._forged = False

    def attack_begins(self, host: Host, source: Address) -> None:
        self._forged = True

    def attack_ends(self, host: Host, source: Address) -> None:
        self._forged = False

    def packets_in(self, host: Host, source: Address, packets: list[bytes]) -> None:
        who = (host.index, host.run, source)
        self._unproven[who] += sum(map(len, packets))
        if not self._forged and any(packet and (packet[0] == CONNECT_REQUEST or packet[0] & DATA) for packet in packets):
            self._proven.add(who)

    def packet_out(self, host: Host, source: Address, destination: Address, packet: bytes) -> None:
        who = (host.index, host.run, destination)
        if who in self._proven or any(peer.dial_name in host.known for peer in self.world.hosts if peer.ip == destination[0]):
            return
        self._unproven[who] -= len(packet)
        if self._unproven[who] < 0:
            self.violate(host, f"{-self._unproven[who]} bytes more to {destination} than came from there")


class V10(Checker):
    """Every nonce once; no plain text. A key is known by both connection ids, and a data packet shows only the recipient's."""

    def __init__(self) -> None:
        self._used: dict[tuple[int, int, Address, int, int], dict[int, bytes]] = defaultdict(dict)
        self._last: dict[tuple[int, int, Address, int, int], int] = defaultdict(int)
        self._server_ids: dict[tuple[int, int, Address, int], int] = {}

    def packet_out(self, host: Host, source: Address, destination: Address, packet: bytes) -> None:
        if MARKER in packet:
            self.violate(host, f"plain text in a packet to {destination}")
        if ids := connect_ok_ids(packet):
            self._server_ids[host.index, host.run, destination, ids[0]] = ids[1]
        if len(packet) < 7 or not packet[0] & DATA:
            return
        peer = (host.index, host.run, destination, int.from_bytes(packet[1:5], "little"))
        where = (*peer, self._server_ids.get(peer, 0))
        last = self._last[where]
        gap = (int.from_bytes(packet[5:7], "little") - last + 0x8000 & 0xFFFF) - 0x8000
        number = last + gap
        if self._used[where].setdefault(number, packet) != packet:
            self.violate(host, f"packet number {number} to {destination} is used twice")
        self._last[where] = max(number, last)


class V12(Checker):
    """Sessions that came up when the faults had stopped stay up; the scenario adds them to `healthy`."""

    def __init__(self) -> None:
        self.healthy: set[tuple[Host, Host]] = set()

    def event(self, host: Host, event: Event) -> None:
        if not isinstance(event, SessionFailed) or not self.world.knows(event.identity.text):
            return
        if (host, self.world.named(event.identity.text)) in self.healthy:
            self.violate(host, f"the session with {event.identity.text} failed without a fault: {event.reason} {event.debug}")

    def phase_entered(self, phase: str) -> None:
        if phase == "ended":
            self.healthy.clear()


class V13(Checker):
    """Quiet when there is nothing to do."""

    def __init__(self) -> None:
        self._idle_wakes_us: dict[int, deque[int]] = defaultdict(lambda: deque(maxlen=BUSY_WAKES_MAX + 1))
        self._quiet_since_us: int | None = None
        self._quiet_packets: dict[tuple[int, Address, bytes], int] = defaultdict(int)
        """By sender, destination and connection id."""

    def woken(self, host: Host, turn: Turn, useful: bool) -> None:
        deadline = host.endpoint.poll_timeout() if host.endpoint else None
        if deadline is not None and deadline.at_us <= host.clock.local_us(self.world.now_us):
            self.violate(host, f"after handle_timeout the deadline is in the past ({deadline.reason})")
        wakes = self._idle_wakes_us[host.index]
        if useful:
            wakes.clear()
            return
        wakes.append(self.world.now_us)
        if len(wakes) > BUSY_WAKES_MAX and wakes[-1] - wakes[0] < BUSY_WINDOW_US:
            reason = deadline.reason if deadline else "none"
            self.violate(host, f"{len(wakes)} idle wake-ups in {wakes[-1] - wakes[0]} us (next: {reason})")
            wakes.clear()

    def packet_out(self, host: Host, source: Address, destination: Address, packet: bytes) -> None:
        # A lazy driver fetches what a wake-up led to in a turn of its own.
        self._idle_wakes_us[host.index].clear()
        ends = [peer for peer in self.world.hosts if peer is host or peer.ip == destination[0]]
        if self._quiet_since_us is not None and all(end.config.session_idle_us >= IDLE_AFTER_QUIET_US for end in ends):
            self._quiet_packets[host.index, destination, packet[1:5] if packet[0] & DATA else b""] += 1

    def phase_entered(self, phase: str) -> None:
        if phase == "quiet":
            self._quiet_since_us = self.world.now_us
        elif phase == "quiet over" and self._quiet_since_us is not None:
            allowed = (self.world.now_us - self._quiet_since_us) // QUIET_PACKET_US + QUIET_SLACK_PACKETS
            self._quiet_since_us = None
            for (index, destination, _), count in sorted(self._quiet_packets.items()):
                if count > allowed:
                    self.violate(self.world.hosts[index], f"{count} packets to {destination} while idle, {allowed} are allowed")


class V14(Checker):
    """The fixed rate."""

    def __init__(self) -> None:
        self._recent: dict[tuple[int, Address, int], deque[tuple[int, int]]] = defaultdict(deque)
        self._sum: dict[tuple[int, Address, int], int] = defaultdict(int)

    def packet_out(self, host: Host, source: Address, destination: Address, packet: bytes) -> None:
        if host.config.rate != "fixed" or len(packet) < 7 or not packet[0] & DATA:
            return
        where = (host.index, destination, int.from_bytes(packet[1:5], "little"))
        recent, now_us = self._recent[where], host.clock.local_us(self.world.now_us)
        recent.append((now_us, len(packet)))
        self._sum[where] += len(packet)
        while recent[0][0] <= now_us - RATE_WINDOW_US:
            self._sum[where] -= recent.popleft()[1]
        allowed = host.config.send_rate_bytes * RATE_WINDOW_US // 1_000_000 + RATE_BURST_BYTES
        if self._sum[where] > allowed:
            self.violate(host, f"{self._sum[where]} bytes to {destination} in {RATE_WINDOW_US} us, {allowed} are allowed")


class V15(Checker):
    """Attackers change nothing."""

    def __init__(self) -> None:
        self._before: dict[int, list[tuple[str, int, int]]] = {}
        self._events = 0
        self._unread = 0

    def attack_begins(self, host: Host, source: Address) -> None:
        self._before[host.index] = self._view(host)
        self._events, self._unread = len(host.events), host.unread_messages

    def attack_ends(self, host: Host, source: Address) -> None:
        before = self._before.pop(host.index)
        if host.is_paused:
            return
        if len(host.events) != self._events or host.unread_messages > self._unread:
            self.violate(host, f"a forged packet from {source} led to an event or a message")
        elif (after := self._view(host)) != before:
            self.violate(host, f"a forged packet from {source} changed sessions from {before} to {after}")

    def _view(self, host: Host) -> list[tuple[str, int, int]]:
        infos = ((name, host.info(name)) for name in sorted(host.known))
        return [(name, int(info.state), info.end_reason) for name, info in infos if info is not None]


class V16(Checker):
    """Every event once; a loss report about a session that we closed ourselves (state NONE), or that another one has replaced,
    is no end of the next one."""

    def __init__(self) -> None:
        self._over: set[tuple[int, int, str]] = set()
        self._asked_us: dict[tuple[int, int, object], int] = {}

    def event(self, host: Host, event: Event) -> None:
        who = self._who(host, event.identity.text)
        if isinstance(event, SessionRequested):
            self._check_request(host, who, event.identity.text)
        elif (
            isinstance(event, RouteChanged | PeerRefused | Delivered | RelayNetworkChanged) or event.state == ConnectionState.NONE
        ):
            return
        elif (host.index, host.run, event.identity.text) in self._over:
            self.violate(host, f"a second failure of the session with {event.identity.text}")
        elif REPLACED not in event.debug:
            self._over.add((host.index, host.run, event.identity.text))

    def _who(self, host: Host, name: str) -> tuple[int, int, object]:
        """The peer, whichever name is used for him."""
        return host.index, host.run, self.world.named(name).index if self.world.knows(name) else name

    def _check_request(self, host: Host, who: tuple[int, int, object], name: str) -> None:
        self._goes_on(host, name)
        asked_us = self._asked_us.get(who)
        self._asked_us[who] = self.world.now_us
        if asked_us is None or self.world.now_us - asked_us >= REQUEST_REPEAT_US or not self.world.knows(name):
            return
        if self.world.ledger.boundary_us(host.index, self.world.named(name).index) < asked_us:
            self.violate(host, f"{name} was announced again after {self.world.now_us - asked_us} us")

    def command(self, host: Host, verb: str, name: str, result: object) -> None:
        """Whatever is done to a session may begin a new one; a request that was answered may come again."""
        self._goes_on(host, name)
        self._asked_us.pop(self._who(host, name), None)

    def received(self, host: Host, channel: int, message: Message, record: Sent | None) -> None:
        self._goes_on(host, message.identity.text)

    def _goes_on(self, host: Host, name: str) -> None:
        """There may be a new session with this peer, under any of his names."""
        for alias in self.world.named(name).names if self.world.knows(name) else {name}:
            self._over.discard((host.index, host.run, alias))


class V18(Checker):
    """Every packet as written in the format, by two readers that share no code."""

    def packet_out(self, host: Host, source: Address, destination: Address, packet: bytes) -> None:
        try:
            check_packet(packet)
            decode_data_header(packet) if packet[0] & DATA else decode_control(packet)
        except (StrictError, WireError) as error:
            self.violate(host, f"packet of {len(packet)} bytes to {destination}: {error}")
            return
        # Only at the protocol's own size is the path searched for more; what it carries is the link's to say.
        searched = host.config.path_mtu_bytes_max if host.config.datagram_bytes == DATAGRAM_BYTES_MAX else 0
        if len(packet) > max(host.config.datagram_bytes, searched, 512) and packet[0] & DATA:
            self.violate(host, f"data packet of {len(packet)} bytes, configured are {host.config.datagram_bytes}")


class V20(Checker):
    """Results within the documented ranges."""

    _KINDS: ClassVar[dict[str, type]] = {
        "send_message": Result,
        "accept_session": bool,
        "close_session": bool,
        "close_channel": bool,
    }

    def command(self, host: Host, verb: str, name: str, result: object) -> None:
        kind = self._KINDS.get(verb)
        if kind is not None and result is not None and not isinstance(result, kind):
            self.violate(host, f"{verb} returned {result!r}")

    def read(self, host: Host, channel: int, max_messages: int, messages: list[Message]) -> None:
        if len(messages) > max_messages:
            self.violate(host, f"{len(messages)} messages, {max_messages} were asked for")
        for message in messages:
            if message.channel != channel:
                self.violate(host, f"a message of channel {message.channel} came on channel {channel}")

    def event(self, host: Host, event: Event) -> None:
        if isinstance(event, SessionFailed) and event.state not in (
            ConnectionState.CLOSED_BY_PEER,
            ConnectionState.PROBLEM_DETECTED_LOCALLY,
            ConnectionState.NONE,
        ):
            self.violate(host, f"a session failed in state {event.state!r}")


CHECKERS: tuple[type[Checker], ...] = (V1, V2, V3, V4, V5, V6, V7, V8, V9, V10, V12, V13, V14, V15, V16, V18, V20)


def all_checkers() -> list[Checker]:
    """One of each, for one world."""
    return [checker() for checker in CHECKERS]


def _held_bytes(host: Host) -> int:
    """Memory of the endpoint alone."""
    return footprint_bytes(host.endpoint, _shared(host))


def _shared(host: Host) -> tuple[object, ...]:
    return host.config, host.identity, host.world, *host.world.hosts
