"""What the two directions of one established connection share: its ciphers, queues, records and counters.

`receive.py` and `transmit.py` hold the steps; this file holds what they work on. Nothing here decides anything by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from peergram.config import (
    ACK_DELAY_OWN_PEER_US,
    ACK_DELAY_US,
    ANSWER_INTERVAL_MAX_US,
    ANSWER_INTERVAL_MIN_US,
    BURST_BYTES_MAX,
    BURST_PACKETS,
    DATAGRAM_BYTES_MAX,
    DATAGRAM_BYTES_OWN_PEER_MAX,
    KEEPALIVE_DIALER_US,
    KEEPALIVE_US,
    Config,
)
from peergram.connection.auto_rate import AutoRate
from peergram.connection.handshake import LARGE_DATAGRAMS, Established
from peergram.connection.in_flight import PacketsInFlight
from peergram.connection.lanes import ACKED, IN_FLIGHT, REPORTS_MARGIN_BYTES, TO_RETRANSMIT, Lanes, Segment, SendLane
from peergram.connection.limits import OWN, ReceiveLimits
from peergram.connection.liveness import Liveness
from peergram.connection.pacing import TokenBucket
from peergram.connection.path_mtu import PathMtu
from peergram.connection.pings import Pings
from peergram.connection.rate import FixedRate, RateController
from peergram.connection.received import AcksOwed, ReplayWindow
from peergram.connection.reliable import ReliableReceiver
from peergram.connection.resend import ResendQueue
from peergram.connection.room import ReceiveRoom
from peergram.connection.rtt import RoundTrip
from peergram.connection.stats import Stats
from peergram.connection.unreliable import UnreliableReceiver
from peergram.events import DroppedDatagrams
from peergram.timing import NEVER

ASK_ACK: Final = 2
"""Ask for an ack within 50 ms (`ACK_REQUEST_E2E`)."""
ASK_ACK_NOW: Final = 6
"""Ask for an answer at once (`ACK_REQUEST_E2E | ACK_REQUEST_IMMEDIATE`)."""

_LARGE_DATAGRAMS_MIN: Final = 4
PADDING_LEAD: Final = 0xA1
"""A payload that begins so holds nothing; to own peers only."""
_TIMEOUTS_HARDLY_ANY: Final = 8
"""After more time-outs than that, with few acks in between, the path carries hardly anything (RFC 9002, section 7.6). A lossy
path to a peer that acknowledges late has some in a row."""
DATA_HEADER_BYTES: Final = 7
"""Lead byte, connection id and packet number of a data packet."""

Delivered = tuple[int, bool, Sequence[int], list[bytes], int]
"""Lane, whether reliable, the messages' numbers and payloads, and what they charge to the room together."""


class ReceiveLane:
    """What one lane of the peer holds on our side."""

    __slots__ = ("index", "message_number", "reliable", "unreliable")

    def __init__(self, index: int, config: Config, limits: ReceiveLimits, room: ReceiveRoom) -> None:
        self.index = index
        self.message_number = 0
        """Highest message number seen, reliable or not (H of the protocol text)."""
        self.reliable = ReliableReceiver(
            buffer_bytes_max=config.recv_buffer_bytes,
            message_bytes_max=min(config.recv_message_bytes_max + limits.message_slack_bytes, config.recv_buffer_bytes),
            limits=limits,
            room=room,
        )
        self.unreliable = UnreliableReceiver(limits, room)


class Flow:
    """Everything an established connection keeps, apart from its state and its handshake."""

    __slots__ = (
        "_first_highest",
        "_path_bytes_max",
        "_takes_probes",
        "_window_bytes_min",
        "accepts_reliable",
        "accepts_unreliable",
        "acks",
        "answer_at_us",
        "answer_put_off",
        "answer_wanted",
        "blocked_lanes",
        "bucket",
        "burst_bytes",
        "config",
        "datagram_bytes",
        "datagrams_dropped",
        "delivered",
        "eliciting_sent_at_us",
        "flush_at_us",
        "full_bytes",
        "in_flight",
        "is_blocked",
        "lanes",
        "last_arrival_number",
        "last_arrival_us",
        "last_sent_at_us",
        "limits",
        "liveness",
        "own_peer",
        "path_mtu",
        "payload_bytes_max",
        "peer_ack_delay_us",
        "peer_connection_id",
        "peer_version",
        "pings",
        "probe_backoff",
        "probe_wanted",
        "queued_bytes",
        "rate",
        "receive_cipher",
        "receive_lanes",
        "replay",
        "retransmit",
        "retransmit_bytes",
        "room",
        "round_trip",
        "send_cipher",
        "send_lanes",
        "stalled_since_us",
        "stats",
        "unreliable_dropped",
    )

    def __init__(
        self,
        established: Established,
        config: Config,
        now_us: int,
        limits: ReceiveLimits = OWN,
        room: ReceiveRoom | None = None,
        dropped: DroppedDatagrams | None = None,
        *,
        dialed: bool = False,
    ) -> None:
        """`room` is shared by all connections of a peer, `dropped` by all of the endpoint; None makes one of its own. `dialed`:
        this side did."""
        self.config = config
        self.datagrams_dropped = dropped or DroppedDatagrams()
        self.limits = limits
        self.room = room or ReceiveRoom(messages_max=config.recv_buffer_messages, bytes_max=config.recv_buffer_bytes)
        self.own_peer = established.capabilities is not None
        self.peer_version = established.protocol_version
        self.peer_connection_id = established.peer_connection_id
        self.send_cipher = established.send_cipher
        self.receive_cipher = established.receive_cipher
        self.round_trip = RoundTrip()
        self.stats = Stats(now_us)
        self.liveness = Liveness(config.timeout_connected_us, now_us, KEEPALIVE_DIALER_US if dialed else KEEPALIVE_US)
        self._set_up_receiving(established)
        self._set_up_sending(established, now_us)
        self._set_up_rate(established, now_us)
        self.receive_lane(0)
        if established.rtt_us is not None:
            self.round_trip.add_sample(established.rtt_us, now_us)

    def _set_up_receiving(self, established: Established) -> None:
        self.accepts_reliable = self.accepts_unreliable = True
        """False while lingering: acks count, data does not. After a goodbye, unreliable messages still do for a moment."""
        self.replay = ReplayWindow(established.highest_received, self.limits)
        self.acks = AcksOwed(established.highest_received)
        self._first_highest = established.highest_received
        self.receive_lanes: dict[int, ReceiveLane] = {}
        self.delivered: list[Delivered] = []
        self.unreliable_dropped = 0
        """Unreliable messages that found no room because the application did not read."""
        self.blocked_lanes: list[int] = []
        """Lanes with complete messages that found no room."""
        self.last_arrival_us = 0
        self.last_arrival_number = 0
        self.answer_wanted = False
        """The peer asked for an answer at once."""
        self.answer_at_us = 0
        """From when on such a question is answered at once again."""
        self.answer_put_off = False
        """Whether one waits for that time."""

    def _set_up_sending(self, established: Established, now_us: int) -> None:
        self.lanes = Lanes()
        self.send_lanes = self.lanes.by_index
        """The lanes used so far, for those who ask very often."""
        self.queued_bytes = 0
        """Bytes queued for the first time, all lanes."""
        self.retransmit = ResendQueue()
        self.retransmit_bytes = 0
        self.in_flight = PacketsInFlight(established.next_packet_number)
        self.flush_at_us = NEVER
        """When what is queued must go although it fills no packet."""
        self.is_blocked = False
        """Whether data waits for tokens, the window or acks, rather than for a poll."""
        self.stalled_since_us = NEVER
        """Since when data waits and rate, window or record let none go."""
        self.probe_wanted = False
        self.pings = Pings()
        self.probe_backoff = 0
        self.eliciting_sent_at_us = now_us
        self.last_sent_at_us = 0

    def _set_up_rate(self, established: Established, now_us: int) -> None:
        config = self.config
        large = established.capabilities is not None and bool(established.capabilities.features & LARGE_DATAGRAMS)
        self.payload_bytes_max = DATAGRAM_BYTES_OWN_PEER_MAX if large else DATAGRAM_BYTES_MAX
        """Largest plaintext taken from the peer."""
        self.peer_ack_delay_us = ACK_DELAY_OWN_PEER_US if self.own_peer else ACK_DELAY_US
        self._takes_probes = large
        self._path_bytes_max = config.path_mtu_bytes_max if large else 0
        self._set_up_path(now_us, delivered_bytes=0)

    def _set_up_path(self, now_us: int, *, delivered_bytes: int) -> None:
        """What depends on the way that packets take."""
        config = self.config
        self.rate: RateController = (
            FixedRate(config.send_rate_bytes)
            if config.rate == "fixed"
            else AutoRate(self.peer_ack_delay_us, now_us, delivered_bytes=delivered_bytes)
        )
        self.bucket = TokenBucket(now_us)
        self.path_mtu = PathMtu(config.datagram_bytes, self._path_bytes_max, takes_probes=self._takes_probes)
        self.datagram_bytes = self.full_bytes = self.burst_bytes = 0
        self.set_datagram_bytes(self.path_mtu.size_bytes)

    def handle_new_route(self, now_us: int) -> None:
        """Packets take another way from now on: what was learned of the one before (rate, round trip, packet size) is void."""
        self._set_up_path(now_us, delivered_bytes=self.rate.delivered[0])
        self.round_trip = RoundTrip()
        self.probe_backoff = 0

    def set_datagram_bytes(self, size: int) -> None:
        """From now on packets are at most that long."""
        self.datagram_bytes = self.rate.datagram_bytes = self.bucket.datagram_bytes = size
        self.full_bytes = size - DATA_HEADER_BYTES - self.send_cipher.overhead_bytes
        """Payload of a packet with neither statistics nor a time; queued bytes that fill one."""
        self.burst_bytes = max(min(BURST_PACKETS * self.full_bytes, BURST_BYTES_MAX), self.full_bytes)
        """Queued bytes that are worth a system call at once."""
        self.lanes.set_bundle_bytes_max(self.full_bytes - REPORTS_MARGIN_BYTES)
        self._window_bytes_min = _LARGE_DATAGRAMS_MIN * size if size > DATAGRAM_BYTES_MAX else 0

    def correct(self, established: Established) -> None:
        """The same handshake with another connection id or certificate of the peer: other keys, everything else as it was.

        What was sent with the keys before is as good as lost; packet numbers go on.
        """
        self.peer_connection_id = established.peer_connection_id
        self.send_cipher = established.send_cipher
        self.receive_cipher = established.receive_cipher

    @property
    def window_bytes(self) -> int:
        """Bytes that may be in flight: what congestion control allows, and room for a few large datagrams, or their acks would be
        waited for one by one. After many time-outs in a row, two packets until acks have halved their count away."""
        if self.probe_backoff > _TIMEOUTS_HARDLY_ANY:
            return 2 * self.datagram_bytes
        return max(self.rate.window_bytes, self._window_bytes_min)

    # --- receiving ---

    @property
    def is_proven(self) -> bool:
        """Whether an authentic packet came."""
        return self.replay.highest > self._first_highest

    @property
    def answer_interval_us(self) -> int:
        """How long after an answer given at once the next question must wait."""
        return min(max(self.round_trip.smoothed_us >> 2, ANSWER_INTERVAL_MIN_US), ANSWER_INTERVAL_MAX_US)

    def receive_lane(self, index: int) -> ReceiveLane:
        """The peer's lane `index`, made on first use."""
        lane = self.receive_lanes.get(index)
        if lane is None:
            lane = self.receive_lanes[index] = ReceiveLane(index, self.config, self.limits, self.room)
        return lane

    def refuse_data(self) -> None:
        """From now on only acks count."""
        self.accepts_reliable = self.accepts_unreliable = False

    def deliver(self, lane: int, reliable: bool, numbers: Sequence[int], payloads: list[bytes], charge_bytes: int) -> None:
        """Hand whole messages to the application's queue."""
        self.room.add_unread(len(payloads), charge_bytes)
        self.delivered.append((lane, reliable, numbers, payloads, charge_bytes))

    @property
    def buffered_bytes(self) -> int:
        """Bytes held for the peer's messages that are not delivered yet."""
        return sum(lane.reliable.buffered_bytes + lane.unreliable.stored_bytes for lane in self.receive_lanes.values())

    # --- sending ---

    @property
    def pending_unreliable_bytes(self) -> int:
        """Queued and not sent; the part of a message already sent not counted."""
        return sum(lane.unreliable_bytes for lane in self.lanes.all())

    @property
    def pending_reliable_bytes(self) -> int:
        """Queued, framing included, and what must go again."""
        return sum(lane.reliable_bytes for lane in self.lanes.all()) + self.retransmit_bytes

    @property
    def unacked_reliable_bytes(self) -> int:
        """Stream bytes in flight."""
        return sum(lane.unacked_bytes for lane in self.lanes.all())

    @property
    def owes_reliable(self) -> bool:
        """Whether reliable data is unsent or unconfirmed."""
        return any(lane.messages_unacked for lane in self.lanes.all())

    @property
    def owes_anything(self) -> bool:
        """Whether anything is unsent, or reliable data unconfirmed."""
        return self.owes_reliable or self.lanes.any_waiting

    def confirm(self, lane: SendLane, begin: int, end: int) -> None:
        """The peer has these stream bytes."""
        segments = lane.segments
        if segments and segments[0].begin == begin and segments[0].end == end:
            parts = [segments[0]]
        else:
            parts = self._parts(lane, begin, end)
        for segment in parts:
            if segment.state == TO_RETRANSMIT:
                self.retransmit_bytes -= len(segment.data)
            if segment.state != ACKED:
                lane.handle_acked(segment)

    def send_again(self, lane: SendLane, begin: int, end: int) -> None:
        """These stream bytes must go once more, where they are not confirmed."""
        for segment in self._parts(lane, begin, end):
            if segment.state == IN_FLIGHT:
                segment.state = TO_RETRANSMIT
                lane.missing += segment.losses == 0
                segment.losses += 1
                lane.unacked_bytes -= len(segment.data)
                self.retransmit_bytes += len(segment.data)
                self.retransmit.push(segment)

    def _parts(self, lane: SendLane, begin: int, end: int) -> list[Segment]:
        """The unconfirmed segments within `[begin, end)`, cut where its borders lie inside one."""
        parts = lane.overlapping(begin, end)
        if parts and parts[0].begin < begin:
            parts[0] = self.split(parts[0], begin - parts[0].begin)
        if parts and parts[-1].end > end:
            self.split(parts[-1], end - parts[-1].begin)
        return parts

    def split(self, segment: Segment, size: int) -> Segment:
        """Cut a segment down to `size` bytes; the rest, in the same state."""
        tail = segment.lane.split(segment, size)
        if tail.state == TO_RETRANSMIT:
            self.retransmit.push(tail)
        return tail
