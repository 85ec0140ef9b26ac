"""One connection, in either role: from handshake to the last answer to a straggler.

It knows no addresses and no sockets: hellos, closes and data packets come in and go out as bytes, and the owner knows where
they belong. After every `handle_*` and every command: drain `poll_transmit`, take `delivered`, look at `poll_event`, re-arm
from `poll_timeout`.

Closing is believed at once when it is authentic (own peers say goodbye inside the encryption, with a last ack, so that both
sides agree on what arrived). A ConnectionClosed from the outside of a live connection is believed only if nothing authentic
follows (E16).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from peergram.address import Address
from peergram.config import (
    CLAIM_WAIT_OWN_PEER_US,
    CLAIM_WAIT_SIGNALED_US,
    CLAIM_WAIT_US,
    CLOSE_DEBUG_BYTES_MAX,
    CLOSE_REPLIES_MAX,
    CONNECT_OK_INTERVAL_US,
    CONTROL_REPLIES_MAX,
    FIN_WAIT_US,
    GOODBYE_WAIT_US,
    MESSAGE_CHARGE_BYTES_MIN,
    MESSAGE_HEADROOM_BYTES,
    PACKETS_PER_TRANSMIT_MAX,
    UNRELIABLE_SEND_BYTES_MAX,
    Config,
)
from peergram.connection.flow import DATA_HEADER_BYTES, Delivered, Flow
from peergram.connection.goodbye import Goodbye, encode_goodbye
from peergram.connection.handshake import Established
from peergram.connection.handshake_client import ClientHandshake
from peergram.connection.handshake_server import ServerHandshake
from peergram.connection.handshake_signaled import SignaledClientHandshake, SignaledServerHandshake
from peergram.connection.limits import OWN, ReceiveLimits
from peergram.connection.open_receipts import OpenReceipts
from peergram.connection.peer_checks import LANES_VERSION_MIN, Failed
from peergram.connection.receive import ConnectionViolated, Receiver
from peergram.connection.reports import fill_report, take_report
from peergram.connection.room import ReceiveRoom
from peergram.connection.states import TRANSITIONS, Cause
from peergram.connection.transmit import Transmitter
from peergram.crypto.keys import Entropy
from peergram.errors import End, EndReason, Result
from peergram.events import ConnectionState, DroppedDatagrams, Receipt, SendFlags, Unconfirmed
from peergram.timing import NEVER, Deadline
from peergram.wire.certificates import SignedCertificate, SignedCryptInfo
from peergram.wire.control import (
    ChallengeReply,
    ChallengeRequest,
    ConnectionClosed,
    ConnectOk,
    ConnectRequest,
    ControlMessage,
    NoConnection,
    encode_control,
)
from peergram.wire.reliable_framing import MESSAGE_HEADER_BYTES_MAX

_CLAIM_PROBES: Final = 3
_CLOSE_REPEATS_US: Final = (100_000, 400_000, 1_500_000)
"""A close nobody answered is said again this long after the first time."""
_FLOWING: Final = (ConnectionState.CONNECTED, ConnectionState.LINGER, ConnectionState.FINDING_ROUTE)
_LIVE: Final = (ConnectionState.CONNECTING, ConnectionState.FINDING_ROUTE, ConnectionState.CONNECTED, ConnectionState.LINGER)
_NO_OTHERS: Final[list[bytes]] = []
_TIMEOUTS_DOUBTED: Final = 2
"""Time-outs of acknowledgements in a row after which the route is looked at."""
_UPKEEP_US: Final = 100_000
"""What need not be done on time is looked at this often, if anything else is due."""
_OK: Final = Result.OK
_CONNECTED: Final = ConnectionState.CONNECTED
_FINDING_ROUTE: Final = ConnectionState.FINDING_ROUTE
_RELIABLE: Final = int(SendFlags.RELIABLE)
_NO_NAGLE: Final = int(SendFlags.NO_NAGLE)
_NO_DELAY: Final = int(SendFlags.NO_DELAY)


@dataclass(frozen=True, slots=True)
class Opened:
    """The handshake is done: data flows."""

    established: Established


@dataclass(frozen=True, slots=True)
class Ended:
    """The connection ended, for good; what was not confirmed by then."""

    end: End
    state: ConnectionState
    unconfirmed: Unconfirmed
    receipts: Sequence[Receipt] = ()
    """Those of the unconfirmed messages that have one."""


Held = tuple[bytes, int, int, Receipt | None]
"""(payload, flags, lane, receipt) of a message that waits for the handshake."""
ConnectionEvent = Opened | Ended


class Connection:
    """A client's (made with a `ClientHandshake`) or a server's (`ServerHandshake`, until `accept`) connection.

    With a signaled handshake the hellos travel elsewhere, and packets go only while the owner says that there is a route
    (`handle_route`).
    """

    __slots__ = (
        "_agree_until_us",
        "_asks_at_us",
        "_claim_probe_at_us",
        "_claim_probes_left",
        "_claim_step_us",
        "_claimed",
        "_close_repeats_at_us",
        "_close_replies_left",
        "_close_when_open",
        "_config",
        "_connect_ok_at_us",
        "_control",
        "_datagrams_dropped",
        "_ends_at_us",
        "_entropy",
        "_events",
        "_handshake",
        "_held",
        "_held_bytes",
        "_late_until_us",
        "_limits",
        "_nagle_us",
        "_queue_bytes_max",
        "_receiver",
        "_room",
        "_route_is_open",
        "_route_until_us",
        "_taken_at_end",
        "_transmitter",
        "_unconfirmed_at_end",
        "_unconfirmed_handshake",
        "_upkeep_at_us",
        "connection_id",
        "end",
        "established",
        "flow",
        "open_receipts",
        "route_trouble",
        "state",
        "stranger",
    )

    def __init__(
        self,
        handshake: ClientHandshake | ServerHandshake | SignaledClientHandshake | SignaledServerHandshake,
        *,
        connection_id: int,
        config: Config,
        entropy: Entropy,
        now_us: int,
        limits: ReceiveLimits = OWN,
        room: ReceiveRoom | None = None,
        dropped: DroppedDatagrams | None = None,
    ) -> None:
        """`room` is what all connections of this peer may have us hold, `dropped` counts for the endpoint; None makes one of its
        own."""
        self.connection_id = connection_id
        self.state = ConnectionState.CONNECTING
        self.end: End | None = None
        self.established: Established | None = None
        self.flow: Flow | None = None
        self._handshake = handshake
        self._unconfirmed_handshake: ClientHandshake | None = None
        """Ours while no packet of the peer has opened: what it established may still be corrected."""
        self._config = config
        self._entropy = entropy
        self._limits = limits
        self._room = room
        self._nagle_us = config.nagle_us
        self._datagrams_dropped = dropped or DroppedDatagrams()
        self._queue_bytes_max = config.send_buffer_bytes + MESSAGE_HEADROOM_BYTES
        self._receiver: Receiver | None = None
        self._transmitter: Transmitter | None = None
        self._control: list[bytes] = []
        self._events: list[ConnectionEvent] = []
        self._held: list[Held] = []
        """Messages sent before the connection is up."""
        self.open_receipts: OpenReceipts | None = None
        """Of messages whose way through the queues began; None if there are none."""
        self._held_bytes = 0
        self._ends_at_us = NEVER
        """When lingering, or answering stragglers, is over."""
        self._claimed: End | None = None
        self._claim_probes_left = 0
        self._claim_probe_at_us = NEVER
        self._claim_step_us = 0
        self._asks_at_us = 0
        """From when on somebody's word makes us ask the peer at once again."""
        self._late_until_us = 0
        """Until when unreliable messages are still taken that the peer sent before his goodbye."""
        self._close_repeats_at_us: list[int] = []
        self._connect_ok_at_us = 0
        """From when on another ConnectOK may be repeated."""
        self._close_replies_left = CLOSE_REPLIES_MAX
        self._upkeep_at_us = 0
        self._unconfirmed_at_end = Unconfirmed()
        self._taken_at_end: list[tuple[int, int]] = []
        """(lane, position) up to which the peer's reliable data was taken."""
        self._route_is_open = not self._is_signaled
        """Whether packets can go at all."""
        self.route_trouble = ""
        """What is known about why there is no route; for the sentence that goes with the end (D27)."""
        self._route_until_us = NEVER
        """When looking for a route is given up."""
        self.stranger: Established | ServerHandshake | SignaledServerHandshake | None = None
        """Whom we called and never met: nothing goes to him before `agree`, or, if his own call goes on, `accept`."""
        self._agree_until_us = NEVER
        self._close_when_open: tuple[End, int] | None = None
        """Closed by the application while it still opens: why, and until when it may go on."""

    # --- what the owner may ask ---

    @property
    def is_live(self) -> bool:
        """Whether it may still carry data."""
        return self.state in _LIVE

    @property
    def is_client(self) -> bool:
        """Whether this side dialed."""
        return isinstance(self._handshake, ClientHandshake | SignaledClientHandshake)

    @property
    def is_answered(self) -> bool:
        """Whether the peer agreed to the keys, or it is over."""
        return self.state != ConnectionState.CONNECTING

    @property
    def is_proven(self) -> bool:
        """Whether the peer has shown that he holds the keys: his first hello may have been a replay."""
        return self.flow is not None and self.flow.is_proven

    @property
    def authentic_packets(self) -> int:
        """How many packets of the peer have opened, none counted twice."""
        return 0 if self.flow is None else self.flow.stats.sequenced

    @property
    def server_handshake(self) -> ServerHandshake | SignaledServerHandshake | None:
        """The request of a stranger this connection stems from; None on the dialing side."""
        return self._handshake if isinstance(self._handshake, ServerHandshake | SignaledServerHandshake) else None

    @property
    def peer_connection_id(self) -> int:
        """The peer's id for this connection; 0 while unknown."""
        if isinstance(self._handshake, ServerHandshake | SignaledServerHandshake):
            return self._handshake.client_connection_id
        return self._handshake.peer_connection_id

    @property
    def unconfirmed(self) -> Unconfirmed:
        """Reliable messages sent and not wholly confirmed; after the end, those that were not then."""
        if not self.is_live:
            return self._unconfirmed_at_end
        held = [len(data) for data, flags, _, _ in self._held if _goes_reliably(data, flags)]
        count, size = len(held), sum(held)
        if self.flow is not None:
            for lane in self.flow.lanes.all():
                if lane.messages_unacked:
                    count += len(lane.messages_unacked)
                    size += sum(message[2] for message in lane.messages_unacked)
        return Unconfirmed(count, size)

    @property
    def held_bytes(self) -> tuple[int, int]:
        """(reliable, unreliable) bytes that wait for the handshake."""
        reliable = sum(len(data) for data, flags, _, _ in self._held if _goes_reliably(data, flags))
        return reliable, sum(len(data) for data, _, _, _ in self._held) - reliable

    @property
    def is_flushing(self) -> bool:
        """Whether it was closed and still sends what it owes."""
        return self.state == ConnectionState.LINGER or (self._close_when_open is not None and self.is_live)

    def queue_time_us(self, now_us: int) -> int | None:
        """How long a message sent now would wait before it leaves; None while the connection is not up."""
        flow = self.flow
        if flow is None or self.state != ConnectionState.CONNECTED:
            return None
        waiting = flow.queued_bytes + flow.retransmit_bytes
        debt = max(-flow.bucket.tokens, 0.0)
        paced_us = int((waiting + debt) * 1_000_000 / flow.rate.rate_bytes_per_s)
        # Nobody knows when a path that stands still goes on; what has waited so long already, waits on.
        return max(paced_us, now_us - flow.stalled_since_us)

    # --- commands ---

    def accept(self, now_us: int) -> None:
        """Let the stranger in (server role, once)."""
        handshake = self._handshake
        assert isinstance(handshake, ServerHandshake | SignaledServerHandshake)
        assert self.state == ConnectionState.CONNECTING
        self.stranger = None
        outcome = handshake.accept(self.connection_id, self._entropy, now_us)
        if isinstance(outcome, Failed):
            self._fail(outcome.reason, outcome.debug, now_us)
            return
        if isinstance(handshake, ServerHandshake):
            self._say(handshake.connect_ok(now_us))
        self._open(outcome, now_us)

    def ask_before_accepting(self) -> None:
        """The application called him, too, and wants to see his key first (server role)."""
        self.stranger = self.server_handshake

    def agree(self, now_us: int) -> None:
        """The application agrees to the key of the stranger it called (client role)."""
        handshake, stranger = self._handshake, self.stranger
        if stranger is None or self.state != ConnectionState.CONNECTING:
            return
        assert isinstance(handshake, ClientHandshake | SignaledClientHandshake)
        assert isinstance(stranger, Established)
        self.stranger = None
        stranger.needs_agreement = False
        self._look_at_handshake(handshake, now_us)

    def handle_signaled_ok(self, cert: SignedCertificate, crypt: SignedCryptInfo, peer_connection_id: int, now_us: int) -> None:
        """The peer accepts our call, by signal."""
        handshake = self._handshake
        if isinstance(handshake, SignaledClientHandshake) and self.state == ConnectionState.CONNECTING:
            handshake.handle_connect_ok(cert, crypt, peer_connection_id, now_us)
            self._look_at_handshake(handshake, now_us)

    def handle_signaled_close(self, reason: int, debug: str, now_us: int) -> None:
        """A signal says that the peer is done with this connection; nobody signed that (D21)."""
        if self.is_live:
            end = End(reason, debug or "The remote host closed the connection.", by_peer=True)
            self._believe_later(end, self._claim_wait_us, now_us)

    def handle_signaled_goodbye(self, packet: bytes, now_us: int) -> None:
        """Take the packet that came inside a close by signal: where it opens, the peer himself says that it is over."""
        if packet[1:5] == self.connection_id.to_bytes(4, "little") and packet[0] >= 0x80:
            self.handle_datagrams(packet, len(packet), now_us)

    def seal_goodbye(self) -> bytes:
        """The packet for such a close; b"" if the peer is not our own, or knows already."""
        transmitter, end = self._transmitter, self.end
        if end is None or end.by_peer or self.flow is None or not self.flow.own_peer:
            return b""
        return b"" if transmitter is None or transmitter.is_exhausted else transmitter.seal_goodbye(self._goodbye(end))

    @property
    def is_doubted(self) -> bool:
        """Whether somebody said, unsigned, that the peer is done with this connection; it ends if nothing contradicts."""
        return self._claimed is not None

    def handle_contradiction(self) -> None:
        """The peer speaks of this connection as one that goes on. Who forges that only makes us wait longer."""
        self._claimed = None

    def handle_route(self, is_open: bool, now_us: int, *, changed: bool = True) -> None:
        """Whether there is a way for packets now; `changed`: another one than before, about which nothing is known."""
        self._route_is_open = is_open
        flow = self.flow
        if flow is None or not is_open or self.state not in _FLOWING:
            return
        if changed:
            flow.handle_new_route(now_us)
        flow.probe_wanted = True
        if self.state == ConnectionState.FINDING_ROUTE:
            self._queue_held(flow, now_us, only_reliable=not flow.is_proven)

    @property
    def doubts_route(self) -> bool:
        """Whether answers are missing for so long that another way should be tried."""
        flow = self.flow
        return flow is not None and (flow.liveness.failures > 0 or flow.probe_backoff >= _TIMEOUTS_DOUBTED)

    def send_message(self, data: bytes, flags: int, lane: int, now_us: int) -> Result:
        """Queue one message; what it says is about queueing, not about arrival.

        OK, LIMIT_EXCEEDED (the send buffer is full), IGNORED (NoDelay, and it could not go at once), NO_CONNECTION,
        INVALID_STATE.
        """
        flow = self.flow
        if flow is None or (self.state is not _CONNECTED and not self._may_queue(flow, flags)):
            return self._hold_message(data, flags, lane)
        if flow.queued_bytes + flow.retransmit_bytes + len(data) > self._queue_bytes_max:
            return Result.LIMIT_EXCEEDED
        if flags & _NO_DELAY and (self.queue_time_us(now_us) or 0) > self._config.no_delay_queue_us:
            return Result.IGNORED
        # What `_queue_message` does, once more: this is called for every message.
        sends_on = flow.send_lanes.get(lane)
        if sends_on is None or not (sends_on.reliable or sends_on.unreliable) or flow.peer_version < LANES_VERSION_MIN:
            self._queue_message(flow, data, flags, lane, now_us)
            return _OK
        deadline_us = 0 if flags & _NO_NAGLE else now_us + self._nagle_us
        if flags & _RELIABLE or len(data) > UNRELIABLE_SEND_BYTES_MAX:
            flow.queued_bytes += sends_on.queue_reliable(data, deadline_us)
            flow.stats.messages_sent_reliable += 1
        else:
            flow.queued_bytes += sends_on.queue_unreliable(data, deadline_us)
            flow.stats.messages_sent_unreliable += 1
        if deadline_us < flow.flush_at_us:
            flow.flush_at_us = deadline_us
        return _OK

    def attach_receipt(self, receipt: Receipt, flags: int, lane: int) -> None:
        """To the reliable message that `send_message` just took, with these flags on this lane."""
        flow = self.flow
        if flow is None or (self.state is not _CONNECTED and not self._may_queue(flow, flags)):
            data, flags, lane, _ = self._held[-1]
            self._held[-1] = (data, flags, lane, receipt)
        else:
            self._open_receipt(flow, receipt, lane)

    def _open_receipt(self, flow: Flow, receipt: Receipt, lane_index: int) -> None:
        if self.open_receipts is None:
            self.open_receipts = OpenReceipts()
        self.open_receipts.add(flow.lanes.lane(self._lane_for(flow, lane_index)), receipt)

    def take_confirmed_receipts(self) -> list[Receipt]:
        """Of messages that the peer has now; for whoever saw that there are `open_receipts`."""
        assert self.open_receipts is not None
        confirmed = self.open_receipts.take_confirmed()
        if self.open_receipts.is_empty:
            self.open_receipts = None
        return confirmed

    def send_run(self, prefix: bytes, messages: Sequence[bytes], flags: int, lane: int, now_us: int) -> int:
        """Queue messages, each behind `prefix`, as `send_message` would one by one, only quicker; how many: all, or 0 if it must
        look at each."""
        flow = self.flow
        if self.state is not _CONNECTED or flow is None or flags & _NO_DELAY or flow.peer_version < LANES_VERSION_MIN:
            return 0
        sends_on = flow.send_lanes.get(lane)
        if sends_on is None or not (sends_on.reliable or sends_on.unreliable):
            return 0
        size_max = len(prefix) + max(map(len, messages))
        total = len(prefix) * len(messages) + sum(map(len, messages))
        left = self._queue_bytes_max - flow.queued_bytes - flow.retransmit_bytes
        is_reliable = flags & _RELIABLE
        if is_reliable:
            # As `send_message` counts: what is queued already with its framing, the message at hand without.
            left -= len(messages) * MESSAGE_HEADER_BYTES_MAX
        if total > left or (not is_reliable and size_max > UNRELIABLE_SEND_BYTES_MAX):
            return 0
        # Only now: whoever is refused comes again with each message less.
        framed = [prefix + data for data in messages]
        deadline_us = 0 if flags & _NO_NAGLE else now_us + self._nagle_us
        if is_reliable:
            flow.queued_bytes += sends_on.queue_reliable_run(framed, deadline_us)
            flow.stats.messages_sent_reliable += len(messages)
        else:
            flow.queued_bytes += sends_on.queue_unreliable_run(framed, deadline_us)
            flow.stats.messages_sent_unreliable += len(messages)
        if deadline_us < flow.flush_at_us:
            flow.flush_at_us = deadline_us
        return len(messages)

    def _may_queue(self, flow: Flow, flags: int) -> bool:
        """Whether a message goes to the queues before the connection is up: reliable ones once there is a route, so that they
        travel with the first packet; the others once the peer was heard (part 2, P5)."""
        if self.state is not _FINDING_ROUTE:
            return False
        return flow.is_proven or (self._route_is_open and bool(flags & _RELIABLE))

    @property
    def has_room(self) -> bool:
        """Whether at least half of the send buffer is free, so that a good many messages would find room."""
        return self._waiting_bytes * 2 <= self._queue_bytes_max

    def has_room_for(self, size: int) -> bool:
        """Whether `has_room`, and a message of that size is taken now or never."""
        waiting_bytes = self._waiting_bytes
        return not waiting_bytes or (self.has_room and waiting_bytes + size <= self._queue_bytes_max)

    @property
    def _waiting_bytes(self) -> int:
        flow = self.flow
        # Between the handshake and the way that it finds there may be both.
        return self._held_bytes if flow is None else self._held_bytes + flow.queued_bytes + flow.retransmit_bytes

    @property
    def has_waiting(self) -> bool:
        """Whether anything is in the send buffer."""
        return self._waiting_bytes > 0

    @property
    def has_unsent(self) -> bool:
        """Whether anything has not left for the first time."""
        return self.is_live and (bool(self._held) or (self.flow is not None and self.flow.lanes.any_waiting))

    def _hold_message(self, data: bytes, flags: int, lane: int) -> Result:
        if self.state in (ConnectionState.CLOSED_BY_PEER, ConnectionState.PROBLEM_DETECTED_LOCALLY):
            return Result.NO_CONNECTION
        if self.state not in (ConnectionState.CONNECTING, ConnectionState.FINDING_ROUTE):
            return Result.INVALID_STATE
        if flags & _NO_DELAY:
            return Result.IGNORED
        charge = max(len(data), MESSAGE_CHARGE_BYTES_MIN)
        if self._held_bytes + charge > self._queue_bytes_max:
            return Result.LIMIT_EXCEEDED
        self._held.append((data, flags, lane, None))
        self._held_bytes += charge
        return Result.OK

    def _queue_message(self, flow: Flow, data: bytes, flags: int, lane_index: int, now_us: int) -> None:
        index = self._lane_for(flow, lane_index)
        lane = flow.send_lanes.get(index) or flow.lanes.lane(index)
        if not lane.reliable and not lane.unreliable:
            flow.lanes.wake(lane)
        deadline_us = 0 if flags & _NO_NAGLE else now_us + self._nagle_us
        if flags & _RELIABLE or len(data) > UNRELIABLE_SEND_BYTES_MAX:
            flow.queued_bytes += lane.queue_reliable(data, deadline_us)
            flow.stats.messages_sent_reliable += 1
        else:
            flow.queued_bytes += lane.queue_unreliable(data, deadline_us)
            flow.stats.messages_sent_unreliable += 1
        if deadline_us < flow.flush_at_us:
            flow.flush_at_us = deadline_us

    @staticmethod
    def _lane_for(flow: Flow, lane_index: int) -> int:
        return lane_index if flow.peer_version >= LANES_VERSION_MIN else 0

    def flush(self) -> None:
        """Let everything queued go without waiting for company."""
        if self.flow is not None and self.flow.lanes.any_waiting:
            self.flow.flush_at_us = 0

    def resume_delivery(self, now_us: int) -> None:
        """The application read something: hand out what waited for room (`flow.blocked_lanes`), also after the end."""
        if self._receiver is None:
            return
        try:
            self._receiver.resume()
        except ConnectionViolated as violation:
            # What comes behind broken framing cannot be read, so that nothing waits for room any more.
            self._receiver.discard()
            self._fail(violation.reason, str(violation), now_us)

    @property
    def has_messages_left(self) -> bool:
        """Whether whole messages wait here for room, or for their turn."""
        flow = self.flow
        return flow is not None and bool(flow.blocked_lanes or flow.delivered)

    def hears_late(self, now_us: int) -> bool:
        """Whether unreliable messages may still come although the peer said goodbye."""
        return now_us < self._late_until_us

    def stop_hearing_late(self) -> None:
        """Nothing more is taken of what the peer sent before his goodbye."""
        if self._late_until_us and self._receiver is not None:
            self._late_until_us = 0
            self._receiver.discard_unfinished()

    def drop_delivered(self) -> None:
        """Nobody wants the messages that are complete: give back their room."""
        for _, _, _, payloads, charge_bytes in self.take_delivered():
            assert self.flow is not None
            self.flow.room.release(len(payloads), charge_bytes)

    def discard_received(self) -> None:
        """Throw away what is not delivered yet; for a connection that ended and whose application wants no more."""
        self.drop_delivered()
        if self._receiver is not None:
            self._receiver.discard()

    def close(self, reason: int, debug: str, now_us: int, *, linger_us: int = 0, quiet: bool = False) -> None:
        """End it from this side. With `linger_us`, reliable data queued gets that long to arrive; `quiet` tells nobody."""
        is_opening = self.state in (ConnectionState.CONNECTING, ConnectionState.FINDING_ROUTE)
        if is_opening and linger_us > 0 and self.unconfirmed.messages:
            self._close_when_open = (End(reason, debug), now_us + linger_us)
            self._ends_at_us = now_us + linger_us
            if self.flow is not None:
                # Nobody will read it: unconfirmed, its sender is told of it.
                self.flow.refuse_data()
        elif self.state == ConnectionState.CONNECTED and linger_us > 0 and self.flow is not None and self.flow.owes_anything:
            self.end = End(reason, debug)
            self.flow.refuse_data()
            self.flush()
            self._enter(Cause.APPLICATION_CLOSED_LINGERING)
            self._ends_at_us = now_us + linger_us
        elif self.is_live:
            self._finish(Cause.APPLICATION_CLOSED, End(reason, debug), now_us)
            if quiet:
                self._control.clear()
                self._close_repeats_at_us.clear()
                self._ends_at_us = now_us

    def stop_flushing(self, now_us: int) -> None:
        """A newer session with the same peer begins: what waits for this handshake must not arrive after the new one's
        messages."""
        if self._close_when_open is not None and self.state in (ConnectionState.CONNECTING, ConnectionState.FINDING_ROUTE):
            self._finish(Cause.APPLICATION_CLOSED, self._close_when_open[0], now_us)

    def is_probe(self, packets: list[bytes]) -> bool:
        """Whether what `poll_transmit` just gave is a probe of the path's MTU."""
        return self.flow is not None and len(packets) == 1 and len(packets[0]) > self.flow.datagram_bytes

    def stop_answering(self) -> None:
        """It ended, and its place is wanted: the peer hears no more of it."""
        if not self.is_live and self.state != ConnectionState.DEAD:
            self._die()
            self._control.clear()
            self._close_repeats_at_us.clear()

    def probe(self, now_us: int) -> None:
        """Somebody asks as if he did not know this connection: see whether the peer still does."""
        if self.flow is not None:
            self._ask(self.flow, now_us + CONNECT_OK_INTERVAL_US, now_us)

    def ping(self) -> None:
        """Measure a round trip, as soon as a packet can go (`flow.pings`); nothing before the handshake is done."""
        if self.flow is not None and self.is_live:
            self.flow.pings.ask()
            self.flow.probe_wanted = True

    def age_us(self, now_us: int) -> int:
        """Time since the handshake was done; 0 before."""
        return 0 if self.flow is None else now_us - self.flow.stats.connected_at_us

    def fail(self, reason: int, debug: str, now_us: int, *, told: str = "") -> None:
        """Something on this host makes it impossible to go on; `told`: what the peer hears of it, if it is not `debug`."""
        self._fail(reason, debug, now_us, told)

    def end_for_peer(self, end: End, now_us: int) -> None:
        """It is certain that the peer is done with this connection."""
        if self.is_live:
            self._finish(Cause.PEER_CLOSED, end, now_us)

    def doubt(self, end: End, now_us: int) -> None:
        """The peer seems to have started over: end it so, unless he answers a probe soon."""
        if self.is_live:
            self._believe_later(end, CLAIM_WAIT_US, now_us)

    def send_held(self, held: Sequence[Held], now_us: int) -> None:
        """Send what waited for the handshake of another connection, which gave way to this one."""
        for data, flags, lane, receipt in held:
            result = self.send_message(data, flags, lane, now_us)
            assert result is _OK
            if receipt is not None:
                self.attach_receipt(receipt, flags, lane)

    def take_held(self) -> list[Held]:
        """The messages that wait for the handshake, to be sent over another connection."""
        held, self._held = self._held, []
        self._held_bytes = 0
        return held

    @property
    def has_delivered(self) -> bool:
        """Whether messages are complete that nobody took yet."""
        return self.flow is not None and bool(self.flow.delivered)

    @property
    def is_drained(self) -> bool:
        """Whether `poll_transmit` gave all there was to send at that time."""
        return self._transmitter is not None and self._transmitter.is_drained

    def take_delivered(self) -> list[Delivered]:
        """Messages complete since the last call, each lane's reliable ones in order."""
        flow = self.flow
        if flow is None or not flow.delivered:
            return []
        delivered, flow.delivered = flow.delivered, []
        return delivered

    # --- the five verbs ---

    def handle_datagrams(self, data: bytes, segment_bytes: int, now_us: int) -> list[bytes]:
        """Take a batch of datagrams from the peer's address; those that are not data packets of this connection come back."""
        receiver = self._receiver
        own_id = self.connection_id.to_bytes(4, "little")
        is_alone = DATA_HEADER_BYTES <= len(data) <= segment_bytes and data[0] >= 0x80
        if is_alone and receiver is not None and self.state in _FLOWING and data[1:5] == own_id:
            self._handle_data(receiver, data, now_us)
            if self.state is not _CONNECTED:
                self._settle(now_us)
            return _NO_OTHERS
        others: list[bytes] = []
        begin = 0
        while begin < len(data):
            if receiver is not None and self.state in _FLOWING:
                begin = self._handle_run(receiver, data, begin, segment_bytes, now_us)
                if begin >= len(data):
                    break
            datagram = data[begin : begin + segment_bytes]
            begin += segment_bytes
            if len(datagram) < 7 or datagram[0] < 0x80 or datagram[1:5] != own_id:
                others.append(datagram)
            elif receiver is not None and self.state in _FLOWING:
                self._handle_data(receiver, datagram, now_us)
            elif not self.is_live:
                if receiver is not None and self.hears_late(now_us):
                    self._handle_late(receiver, datagram, now_us)
                self._answer_straggler()
            else:
                self._datagrams_dropped.unknown += 1
        if self.state is not _CONNECTED:
            self._settle(now_us)
        return others

    def _handle_run(self, receiver: Receiver, data: bytes, begin: int, segment_bytes: int, now_us: int) -> int:
        """Take plain packets together; where the rest begins."""
        heard = begin
        try:
            heard = receiver.handle_run(data, begin, segment_bytes, self.connection_id, now_us)
        except ConnectionViolated as violation:
            self._datagrams_dropped.violating += 1
            self._fail(violation.reason, str(violation), now_us)
        if heard > begin:
            self._note_authentic()
            self._heed_goodbye(receiver, now_us)
        return heard

    def _note_authentic(self) -> None:
        """The peer lives, and has the keys."""
        self._claimed = None
        if self._unconfirmed_handshake is not None:
            self._unconfirmed_handshake.confirm()
            self._unconfirmed_handshake = None

    def _heed_goodbye(self, receiver: Receiver, now_us: int) -> None:
        goodbye, flow = receiver.goodbye, self.flow
        if goodbye is not None and flow is not None and self.is_live:
            # A signal may be faster than the packets before it, and so may a packet.
            self._late_until_us = now_us + max(GOODBYE_WAIT_US, 2 * flow.round_trip.smoothed_us)
            self._finish(Cause.PEER_CLOSED, End(goodbye.reason, goodbye.debug, by_peer=True), now_us)

    def _handle_late(self, receiver: Receiver, datagram: bytes, now_us: int) -> None:
        """Take a packet that the goodbye may have overtaken."""
        try:
            receiver.handle_packet(datagram, now_us)
        except ConnectionViolated:
            self._datagrams_dropped.violating += 1
            self.stop_hearing_late()

    def _handle_data(self, receiver: Receiver, datagram: bytes, now_us: int) -> None:
        try:
            if receiver.handle_packet(datagram, now_us):
                self._note_authentic()
        except ConnectionViolated as violation:
            self._datagrams_dropped.violating += 1
            self._fail(violation.reason, str(violation), now_us)
        if receiver.goodbye is not None:
            self._heed_goodbye(receiver, now_us)

    def handle_control(self, message: ControlMessage, remote: Address, now_us: int) -> None:
        """Take a control packet from the peer's address that names this connection (or, for repeats, the client's id)."""
        handshake = self._handshake
        if isinstance(message, ChallengeReply | ConnectOk):
            if isinstance(handshake, ClientHandshake):
                self._handle_server_hello(handshake, message, remote, now_us)
        elif isinstance(message, ChallengeRequest | ConnectRequest):
            self._handle_repeat(now_us)
        elif isinstance(message, ConnectionClosed):
            self._handle_closed(message, now_us)
        elif isinstance(message, NoConnection):
            self._handle_no_connection(message, now_us)

    def _handle_server_hello(
        self, handshake: ClientHandshake, message: ChallengeReply | ConnectOk, remote: Address, now_us: int
    ) -> None:
        if not self.is_live:
            if isinstance(message, ConnectOk) and message.client_connection_id == self.connection_id:
                self._answer_straggler()
            return
        if isinstance(message, ChallengeReply):
            handshake.handle_challenge_reply(message, now_us)
        else:
            handshake.handle_connect_ok(message, remote, now_us)
        self._look_at_handshake(handshake, now_us)

    def _look_at_handshake(self, handshake: ClientHandshake | SignaledClientHandshake, now_us: int) -> None:
        outcome = handshake.outcome
        if outcome is None or outcome is self.established:
            return
        if isinstance(outcome, Failed):
            self._fail(outcome.reason, outcome.debug, now_us, outcome.told)
        elif outcome.needs_agreement:
            if self.stranger is None:
                self._agree_until_us = now_us + self._config.timeout_initial_us
            self.stranger = outcome
        elif self.flow is None:
            self._claimed = None
            self._open(outcome, now_us)
            if isinstance(handshake, ClientHandshake):
                self._unconfirmed_handshake = handshake
        else:
            self.established = outcome
            self.flow.correct(outcome)
            self.flow.probe_wanted = True

    def _handle_repeat(self, now_us: int) -> None:
        """The client asks again: our ConnectOK was lost, or we are gone already."""
        handshake = self._handshake
        if not isinstance(handshake, ServerHandshake):
            return
        if self.state in (ConnectionState.CONNECTED, ConnectionState.LINGER):
            if now_us >= self._connect_ok_at_us:
                self._connect_ok_at_us = now_us + CONNECT_OK_INTERVAL_US
                self._say(handshake.connect_ok(now_us))
        elif not self.is_live:
            self._answer_straggler()

    def handle_timeout(self, now_us: int) -> None:
        """Do what is due."""
        if self.state == ConnectionState.CONNECTING:
            self._handle_handshake_timeout(now_us)
            if self.state == ConnectionState.CONNECTING:
                self._look_at_claim(now_us)
        if self.state in _FLOWING:
            if self._unconfirmed_handshake is not None:
                self._unconfirmed_handshake.handle_timeout(now_us)
            self._handle_flow_timeout(now_us)
        if self._close_repeats_at_us and now_us >= self._close_repeats_at_us[0]:
            self._close_repeats_at_us = [at_us for at_us in self._close_repeats_at_us if at_us > now_us]
            self._say_close()
        if 0 < self._late_until_us <= now_us:
            self.stop_hearing_late()
        if now_us >= self._ends_at_us:
            if self.state == ConnectionState.LINGER:
                self._finish(Cause.LINGER_DONE, self.end or End(0, ""), now_us)
            elif self._close_when_open is not None and self.is_live:
                self._finish(Cause.APPLICATION_CLOSED, self._close_when_open[0], now_us)
            elif self.is_live:
                self._ends_at_us = NEVER
            else:
                self._die()

    def _handle_handshake_timeout(self, now_us: int) -> None:
        handshake = self._handshake
        if isinstance(handshake, ClientHandshake | SignaledClientHandshake):
            handshake.handle_timeout(now_us)
            self._look_at_handshake(handshake, now_us)
            if self.stranger is not None and now_us >= self._agree_until_us:
                self._fail(EndReason.MISC_TIMEOUT, "Nobody agreed to the key of this peer in time", now_us)
        else:
            failed = handshake.handle_timeout(now_us)
            if failed is not None:
                self._fail(failed.reason, failed.debug, now_us)

    def _handle_flow_timeout(self, now_us: int) -> None:
        flow, transmitter, receiver = self.flow, self._transmitter, self._receiver
        assert flow is not None
        assert transmitter is not None
        assert receiver is not None
        if self.state is _FINDING_ROUTE and self._gives_up_route(flow, now_us):
            return
        if self._route_is_open:
            flow.liveness.handle_timeout(now_us)
            is_lost = flow.liveness.failures > 0 and flow.liveness.is_lost(now_us)
        else:
            is_lost = now_us >= flow.liveness.silent_at_us
        if is_lost and self.state is not _FINDING_ROUTE:
            if not self._may_resume(flow, now_us):
                self._fail(EndReason.MISC_TIMEOUT, "Connection dropped", now_us)
                return
            self._lose_route(now_us)
        if transmitter.is_exhausted:
            self._fail(EndReason.MISC_INTERNAL_ERROR, "Packet numbers are used up; open a new session", now_us)
            return
        if now_us >= self._upkeep_at_us:
            self._upkeep_at_us = now_us + _UPKEEP_US
            if flow.liveness.wants_keepalive(now_us):
                flow.lanes.shed()
            flow.stats.sample_quality(now_us)
            receiver.handle_timeout(now_us)
        if self._route_is_open:
            transmitter.handle_timeout(now_us)
        self._look_at_claim(now_us)

    def _look_at_claim(self, now_us: int) -> None:
        if self._claimed is None or now_us < self._claim_probe_at_us:
            return
        self._claim_probes_left -= 1
        if not self._claim_probes_left:
            self._finish(Cause.PEER_CLOSED, self._claimed, now_us)
            return
        # From now on, however late we are: he has as long to answer this probe as any other.
        self._claim_probe_at_us = now_us + self._claim_step_us
        if self.flow is not None:
            self.flow.probe_wanted = True

    def _may_resume(self, flow: Flow, now_us: int) -> bool:
        """Whether silence means that another route must be found, rather than the end: own peers that meet by signals."""
        return self._is_signaled and flow.own_peer and self.state is _CONNECTED and now_us < self._resume_until_us(flow)

    def _resume_until_us(self, flow: Flow) -> int:
        """How long a silent peer may take to be heard again."""
        return flow.liveness.last_heard_us + self._config.resume_window_us

    def _gives_up_route(self, flow: Flow, now_us: int) -> bool:
        """End it if no way was found in time."""
        if now_us >= self._route_until_us:
            cause = f": {self.route_trouble}" if self.route_trouble else ""
            self._fail(EndReason.MISC_P2P_RENDEZVOUS, f"Timed out attempting to negotiate rendezvous{cause}", now_us)
        elif self._route_until_us == NEVER and now_us >= self._resume_until_us(flow):
            self._fail(EndReason.MISC_TIMEOUT, "Connection dropped", now_us)
        return not self.is_live

    def poll_transmit(self, now_us: int, packets_max: int = PACKETS_PER_TRANSMIT_MAX) -> list[bytes]:
        """Datagrams to send to the peer now, in order; empty when there is nothing."""
        packets: list[bytes] = []
        if self._control:
            packets.extend(self._control)
            self._control.clear()
        asking = self._handshake if self.state == ConnectionState.CONNECTING else self._unconfirmed_handshake
        if isinstance(asking, ClientHandshake) and self.is_live:
            hello = asking.poll_transmit(now_us)
            if hello is not None:
                packets.append(hello)
                if self.flow is not None:
                    self.flow.probe_wanted = True
        if self._transmitter is not None and self._route_is_open and self.state in _FLOWING:
            packets += self._transmitter.poll(now_us, packets_max)
        return packets

    def poll_timeout(self, now_us: int) -> Deadline | None:
        """When to call `handle_timeout` or `poll_transmit` next."""
        earliest: Deadline | None = None
        if self.flow is not None and self._transmitter is not None and self.state in _FLOWING:
            if self._route_is_open:
                ends = self.state is not _FINDING_ROUTE
                earliest = min(self._transmitter.poll_timeout(now_us), self.flow.liveness.poll_timeout(ends=ends))
                if self._transmitter.probe_at_us < earliest.at_us:
                    earliest = Deadline(self._transmitter.probe_at_us, "probe")
            elif self.state is not _FINDING_ROUTE:
                # Nothing can be asked, so nothing is missing either; only the silence tells. It may be long enough already.
                earliest = Deadline(max(self.flow.liveness.silent_at_us, now_us + 1), "peer lost")
            if self.state is _FINDING_ROUTE:
                until_us = self._route_until_us
                if until_us == NEVER:
                    until_us = self._resume_until_us(self.flow)
                earliest = _earlier(earliest, Deadline(until_us, "finding a route"))
            if self._unconfirmed_handshake is not None:
                earliest = _earlier(earliest, self._unconfirmed_handshake.poll_timeout())
            if self._claimed is not None:
                earliest = _earlier(earliest, Deadline(self._claim_probe_at_us, "close to be confirmed"))
        elif self.state == ConnectionState.CONNECTING:
            earliest = self._handshake.poll_timeout()
            if self.stranger is not None:
                earliest = _earlier(earliest, Deadline(self._agree_until_us, "agreement to a key"))
            if self._claimed is not None:
                earliest = _earlier(earliest, Deadline(self._claim_probe_at_us, "close to be confirmed"))
        if self._late_until_us:
            earliest = _earlier(earliest, Deadline(self._late_until_us, "late messages"))
        if self._ends_at_us != NEVER:
            earliest = _earlier(earliest, Deadline(self._ends_at_us, "end"))
        if self._control:
            earliest = _earlier(earliest, Deadline(now_us, "control"))
        if self._close_repeats_at_us:
            earliest = _earlier(earliest, Deadline(self._close_repeats_at_us[0], "say close again"))
        return None if earliest is None or earliest.at_us >= NEVER else earliest

    def poll_event(self) -> ConnectionEvent | None:
        """The next thing that happened to the connection itself."""
        return self._events.pop(0) if self._events else None

    # --- opening and ending ---

    def _enter(self, cause: Cause) -> None:
        self.state = TRANSITIONS[self.state, cause]

    def _open(self, established: Established, now_us: int) -> None:
        self.established = established
        flow = self.flow = Flow(
            established,
            self._config,
            now_us,
            self._limits,
            self._room,
            self._datagrams_dropped,
            dialed=self.is_client,
        )
        if self._close_when_open is not None:
            flow.refuse_data()
        self._receiver = Receiver(flow, take_report)
        self._transmitter = Transmitter(flow, fill_report)
        if self._is_signaled:
            self._enter(Cause.RENDEZVOUS_DONE)
            self._route_until_us = now_us + self._config.timeout_initial_us
            if self._route_is_open:
                self.handle_route(True, now_us, changed=False)
            return
        self._enter(Cause.HANDSHAKE_DONE)
        self._queue_held(flow, now_us, only_reliable=False)
        self._events.append(Opened(established))
        self._close_if_wanted(now_us)

    def _queue_held(self, flow: Flow, now_us: int, *, only_reliable: bool) -> None:
        for message in self.take_held():
            data, flags, lane, receipt = message
            if only_reliable and not _goes_reliably(data, flags):
                self._held.append(message)
                self._held_bytes += max(len(data), MESSAGE_CHARGE_BYTES_MIN)
            else:
                self._queue_message(flow, data, flags, lane, now_us)
                if receipt is not None:
                    self._open_receipt(flow, receipt, lane)

    def _close_if_wanted(self, now_us: int) -> None:
        if self._close_when_open is not None:
            end, until_us = self._close_when_open
            self._close_when_open = None
            self.close(end.reason, end.debug, now_us, linger_us=max(until_us - now_us, 1))

    def _fail(self, reason: int, debug: str, now_us: int, told: str = "") -> None:
        if self.is_live:
            self._finish(Cause.PROBLEM, End(reason, debug, told=told), now_us)

    def _finish(self, cause: Cause, end: End, now_us: int) -> None:
        """The one way a connection ends: note what is owed, tell the peer, keep answering for a while."""
        self._unconfirmed_at_end = self.unconfirmed
        if self._receiver is not None and self.flow is not None:
            blocked = self.flow.blocked_lanes
            for index, lane in self.flow.receive_lanes.items():
                stream = lane.reliable
                self._taken_at_end.append((index, stream.in_order_position if index in blocked else stream.consumed_position))
            self.flow.accepts_reliable = False
            self._receiver.discard_unfinished(keeps_unreliable=self.hears_late(now_us))
        was_lingering = self.state == ConnectionState.LINGER
        self._enter(cause)
        if not was_lingering or self.end is None:
            self.end = end
        lost = self._lose_receipts()
        self._held.clear()
        self._claimed = None
        self._ends_at_us = now_us + FIN_WAIT_US
        if cause == Cause.PEER_CLOSED:
            self._say(self._no_connection())
        else:
            self._say_close()
            if self.peer_connection_id:
                self._close_repeats_at_us = [now_us + after_us for after_us in _CLOSE_REPEATS_US]
        self._events.append(Ended(end, self.state, self._unconfirmed_at_end, lost))

    def _die(self) -> None:
        """Whoever still sends hears nothing more."""
        self._enter(Cause.ANSWERED_LONG_ENOUGH)
        self._ends_at_us = NEVER
        self.stop_hearing_late()

    def _lose_receipts(self) -> Sequence[Receipt]:
        """Those that nobody confirms any more; what was confirmed until now stays in `open_receipts`."""
        lost = [receipt for _, _, _, receipt in self._held if receipt is not None]
        return lost if self.open_receipts is None else self.open_receipts.take_lost() + lost

    def _say(self, packet: bytes) -> None:
        """Send this with what goes next; where too much waits, the newest counts."""
        self._control.append(packet)
        del self._control[:-CONTROL_REPLIES_MAX]

    def _say_close(self) -> None:
        """Tell the peer; an own peer hears it inside the encryption, where nobody can forge it."""
        assert self.end is not None
        goodbye = self.seal_goodbye()
        if goodbye:
            self._say(goodbye)
            return
        debug = self.end.text_for_peer.encode("utf-8", "surrogateescape")[:CLOSE_DEBUG_BYTES_MAX].decode("utf-8", "ignore")
        closed = ConnectionClosed(self.peer_connection_id, self.connection_id, self.end.reason, debug)
        self._say(encode_control(closed))

    def _goodbye(self, end: End) -> bytes:
        return encode_goodbye(Goodbye(end.reason, end.text_for_peer, tuple(self._taken_at_end)))

    def _no_connection(self) -> bytes:
        return encode_control(NoConnection(self.connection_id, self.peer_connection_id))

    def _answer_straggler(self) -> None:
        """The peer has not heard that it is over."""
        if self._close_replies_left <= 0 or self._control:
            return
        self._close_replies_left -= 1
        if self.state == ConnectionState.CLOSED_BY_PEER:
            self._say(self._no_connection())
        elif self.state != ConnectionState.DEAD:
            self._say_close()

    # --- closing by the peer ---

    def _handle_closed(self, message: ConnectionClosed, now_us: int) -> None:
        peer_id = self.peer_connection_id
        to_us = message.to_connection_id == self.connection_id
        from_peer = message.from_connection_id == peer_id
        if not (to_us and (from_peer or not peer_id)) and not (not message.to_connection_id and from_peer and peer_id):
            return
        if not self.is_live:
            self._close_repeats_at_us.clear()
            if not self._control:
                self._say(self._no_connection())
            return
        debug = message.debug or "The remote host closed the connection."
        self._believe_later(End(message.reason_code, debug, by_peer=True), self._claim_wait_us, now_us)

    def _handle_no_connection(self, message: NoConnection, now_us: int) -> None:
        if message.to_connection_id != self.connection_id or message.from_connection_id != self.peer_connection_id:
            return
        if not self.is_live:
            self._close_repeats_at_us.clear()
            return
        text = "Received unexpected 'no connection' from peer"
        self._believe_later(End(EndReason.MISC_PEER_SENT_NO_CONNECTION, text, by_peer=True), self._claim_wait_us, now_us)

    @property
    def _claim_wait_us(self) -> int:
        return CLAIM_WAIT_OWN_PEER_US if self.flow is not None and self.flow.own_peer else CLAIM_WAIT_US

    @property
    def _is_signaled(self) -> bool:
        return isinstance(self._handshake, SignaledClientHandshake | SignaledServerHandshake)

    def _believe_later(self, end: End, wait_us: int, now_us: int) -> None:
        """Nobody signed this close: it counts if a probe stays unanswered, or at once in a handshake that goes by packets. Where
        no packet can go, the peer has to answer by signal (`is_doubted`), which takes longer."""
        flow = self.flow
        if flow is None and not self._is_signaled:
            self._finish(Cause.PEER_CLOSED, end, now_us)
        elif self._claimed is None:
            self._claimed = end
            if flow is None or self.state is _FINDING_ROUTE:
                wait_us = max(wait_us, CLAIM_WAIT_SIGNALED_US)
            trip_us = flow.round_trip.smoothed_us if flow is not None else 0
            self._claim_step_us = -(-max(3 * trip_us, wait_us) // _CLAIM_PROBES)
            self._claim_probe_at_us = now_us + self._claim_step_us
            self._claim_probes_left = _CLAIM_PROBES
            if flow is not None:
                self._ask(flow, self._claim_probe_at_us, now_us)

    def _ask(self, flow: Flow, again_at_us: int, now_us: int) -> None:
        """Ask the peer for a sign of life, unless that was done a moment ago: others could make us talk all the time (E14)."""
        if now_us >= self._asks_at_us:
            self._asks_at_us = again_at_us
            flow.probe_wanted = True

    def _settle(self, now_us: int) -> None:
        """Something came while the connection was not simply up."""
        flow = self.flow
        if self.state is _FINDING_ROUTE and flow is not None and flow.liveness.last_heard_us >= now_us and flow.is_proven:
            self._find_route(flow, now_us)
        self._settle_linger(now_us)

    def _find_route(self, flow: Flow, now_us: int) -> None:
        """The peer is heard: what waited goes."""
        was_open = self._route_until_us == NEVER
        self._route_until_us = NEVER
        self._enter(Cause.ROUTE_FOUND)
        self._queue_held(flow, now_us, only_reliable=False)
        if was_open:
            flow.probe_wanted = True
        else:
            assert self.established is not None
            self._events.append(Opened(self.established))
        self._close_if_wanted(now_us)

    def _lose_route(self, now_us: int) -> None:
        """The peer is silent: keep what there is for a while, in case he comes back by another way."""
        self._enter(Cause.ROUTE_LOST)

    def _settle_linger(self, now_us: int) -> None:
        if self.state == ConnectionState.LINGER and self.flow is not None and not self.flow.owes_anything:
            self._finish(Cause.LINGER_DONE, self.end or End(0, ""), now_us)


def _earlier(one: Deadline | None, other: Deadline | None) -> Deadline | None:
    if one is None or other is None:
        return one or other
    return min(one, other)


def _goes_reliably(data: bytes, flags: int) -> bool:
    """Whether a message is sent reliably: asked for, or too large for anything else."""
    return bool(flags & _RELIABLE) or len(data) > UNRELIABLE_SEND_BYTES_MAX
