"""The sending side of an established connection: choose frames in a byte budget, encode, seal.

A packet is built in a row of steps: statistics and questions outside the encryption, then stop-waiting and ack frames where
they are owed, then what was lost, then new data by lane. Reports ride on the first packet of a burst only; the packets behind it,
as long as they carry new data of one lane and nothing else, are built by `_build_run` in one go: they are what the steps would
build, only quicker, and share one record. Frame forms are the reference's (48-bit positions, 32-bit numbers, explicit sizes but
for the last segment), except that a segment takes as many stream bytes as fit (G7). Protocol part 2, sections 9 to 12; pitfalls
P1, P2, P4, P6.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from peergram.config import (
    ACK_GAPS_MAX,
    LANES_SEND_MAX,
    PACKET_NUMBER_MAX,
    PACKET_REPORT_AGE_US,
    PACKETS_IN_FLIGHT_MAX,
    PACKETS_PER_TRANSMIT_MAX,
)
from peergram.connection.flow import ASK_ACK, ASK_ACK_NOW, PADDING_LEAD, Flow
from peergram.connection.in_flight import PATH_PROBE, REPORTS, SentPacket
from peergram.connection.lanes import IN_FLIGHT, Bundle, LargeMessage, Segment, SendLane, StreamRange
from peergram.connection.received import AckReport
from peergram.connection.stats import REPORT_INSTANT, REPORT_LIFETIME
from peergram.timing import NEVER, Deadline
from peergram.wire.frames import EXPLICIT_SIZE_MAX, WIDE_ACK_VERSION_MIN, encode_ack, encode_select_lane, encode_stop_waiting
from peergram.wire.link_stats import UdpStats, encode_stats
from peergram.wire.varint import encode_varint

_HEADER: Final = struct.Struct("<BIH")
_BLOB_FLAG: Final = 0x01
_TIME_FLAG: Final = 0x02
_RELIABLE_FIRST: Final = struct.Struct("<BIH")
_UNRELIABLE_FIRST: Final = struct.Struct("<BI")
_RELIABLE_HEADER_BYTES: Final = 7
_RELIABLE_COST_BYTES: Final = 8
"""Header of a reliable segment with its size byte: charged for every segment but the last."""
_REST: Final = 7
"""Size code: the data runs to the end of the payload."""
_SPLIT_BYTES_MIN: Final = 64
"""A retransmission is not cut into smaller pieces than this."""
_FRAGMENT_BYTES_MIN: Final = 64
_SMALLER_TRIES_END: Final = 5
"""Time-outs in a row after which it is not the size of packets that keeps them from arriving."""
_PROBES_PER_SECOND_MIN: Final = 100
"""A path is not probed with packets of which the rate carries fewer than this."""
_SELECT_LANE: Final = [b"" if lane == 0 else encode_select_lane(lane) for lane in range(LANES_SEND_MAX)]
"""What selects a lane at the beginning of a payload."""
_ASK_INTERVAL_MIN_US: Final = 20_000
_OPEN_PACKETS_ASKED: Final = PACKETS_IN_FLIGHT_MAX // 4
"""Nobody acknowledges bare acks. Once so many packets are open we ask, or one who only receives could not send any more."""
_TIME_FIELD_INTERVAL_US: Final = 20_000
_TIME_FIELD_MAX_US: Final = 250_000
_ACK_BLOCK_BYTES: Final = 7
"""An ack block takes no more than this in any case that matters."""
_ACK_FIXED_BYTES: Final = 24
_ACK_BEHIND_MAX: Final = 8_192
"""How many packets may have come after the one acknowledged, for its 16 bits to be enough: with those under way below 32768."""
_BLOB_EXTRA_BYTES: Final = 6
"""Length, flags and the time field, beside a statistics record."""

FillReport = Callable[[Flow, int, int], UdpStats]
"""Makes the statistics record of a connection for (kinds, now)."""


class _Section:
    """What one lane puts into the packet being built."""

    __slots__ = ("lane", "segments", "unreliable")

    def __init__(self, lane: SendLane) -> None:
        self.lane = lane
        self.unreliable: list[bytes] = []
        self.segments: list[Segment] = []


class Transmitter:
    """Builds the data packets of one connection."""

    __slots__ = (
        "_asked_at_us",
        "_fill_report",
        "_flow",
        "_stop_waiting_sent",
        "_time_field_at_us",
        "is_drained",
        "straight",
    )

    def __init__(self, flow: Flow, fill_report: FillReport) -> None:
        self._flow = flow
        self.straight = True
        """Whether bursts take the short way; off in the test that holds both ways equal."""
        self.is_drained = False
        """Whether the last `poll` gave all there was to send then."""
        self._fill_report = fill_report
        self._stop_waiting_sent = 0
        self._asked_at_us = 0
        self._time_field_at_us = 0

    # --- when ---

    def poll(self, now_us: int, packets_max: int = PACKETS_PER_TRANSMIT_MAX) -> list[bytes]:
        """The packets that should go now, at most `packets_max`."""
        flow = self._flow
        flow.bucket.fill(flow.rate.rate_bytes_per_s, now_us)
        packets: list[bytes] = []
        flow.is_blocked = self.is_drained = False
        if flow.queued_bytes >= flow.burst_bytes:
            if self._may_probe_path(now_us):
                return [self._build_probe(now_us)]
            if flow.path_mtu.is_worth_a_try(now_us) and flow.path_mtu.absolve():
                flow.set_datagram_bytes(flow.path_mtu.size_bytes)
        while len(packets) < packets_max:
            sends_data = self._data_wanted(now_us)
            if (sends_data or flow.stalled_since_us != NEVER) and self._has_room():
                flow.stalled_since_us = NEVER
            elif sends_data and not flow.probe_wanted:
                flow.stalled_since_us = min(flow.stalled_since_us, now_us)
                flow.is_blocked = True
                sends_data = False
            if not sends_data and not self._control_wanted(now_us):
                self.is_drained = True
                break
            if sends_data and self.straight and self._owes_nothing(now_us):
                before = len(packets)
                self._build_run(packets, packets_max, now_us)
                if len(packets) > before:
                    continue
            packets.append(self._build_packet(sends_data, now_us))
        if flow.queued_bytes and flow.lanes.next_lane() is None:
            flow.is_blocked = True
        if packets:
            self._plan_flush(now_us)
            # What was begun must not wait, whatever is still to come of it.
            self.is_drained &= flow.flush_at_us > now_us
        return packets

    def _data_wanted(self, now_us: int) -> bool:
        flow = self._flow
        if flow.retransmit_bytes > 0:
            return True
        if flow.flush_at_us > now_us and flow.queued_bytes < flow.full_bytes:
            return False
        return flow.lanes.next_lane() is not None

    def _has_room(self) -> bool:
        """Whether rate, window and record take one more packet of data; a probe does not ask."""
        flow = self._flow
        in_flight = flow.in_flight
        return (
            flow.bucket.tokens >= 0
            and (not in_flight.bytes or in_flight.bytes + flow.datagram_bytes <= flow.window_bytes)
            and len(in_flight) < PACKETS_IN_FLIGHT_MAX
        )

    def _control_wanted(self, now_us: int) -> bool:
        flow = self._flow
        return (
            flow.acks.due_at_us <= now_us
            or flow.probe_wanted
            or flow.answer_wanted
            or flow.liveness.asks_at_us <= now_us
            or (flow.stats.forced_at_us <= now_us and flow.stats.report_forced(now_us) > 0)
        )

    def _plan_flush(self, now_us: int) -> None:
        """When the rest must go: at once if a flush is under way, else when its oldest message says."""
        flow = self._flow
        if flow.flush_at_us == NEVER:
            if not flow.retransmit_bytes:
                flow.rate.handle_idle(flow.in_flight.open_bytes)
        elif flow.flush_at_us > now_us:
            flow.flush_at_us = min(lane.head_deadline_us for lane in flow.lanes.all())

    def poll_timeout(self, now_us: int) -> Deadline:
        """When `poll` may have something, as far as that depends on time."""
        flow = self._flow
        if flow.probe_wanted or flow.answer_wanted:
            return Deadline(now_us, "answer")
        at_us, reason = flow.acks.due_at_us, "ack"
        if (flow.flush_at_us != NEVER or flow.retransmit_bytes) and (data_at_us := self._data_at_us(now_us)) < at_us:
            at_us, reason = data_at_us, "data"
        if flow.stats.forced_at_us < at_us:
            at_us, reason = flow.stats.forced_at_us, "statistics"
        return Deadline(at_us, reason)

    def _data_at_us(self, now_us: int) -> int:
        flow = self._flow
        if not flow.retransmit_bytes and flow.lanes.next_lane() is None:
            return NEVER
        wanted_at_us = now_us if self._data_wanted(now_us) else flow.flush_at_us
        in_flight_bytes = flow.in_flight.bytes
        if wanted_at_us == NEVER or (in_flight_bytes and in_flight_bytes + flow.datagram_bytes > flow.window_bytes):
            return NEVER
        if len(flow.in_flight) >= PACKETS_IN_FLIGHT_MAX:
            return NEVER
        return max(wanted_at_us, flow.bucket.ready_at_us(flow.rate.rate_bytes_per_s, now_us))

    @property
    def probe_at_us(self) -> int:
        """When silence about what is in flight calls for a probe."""
        flow = self._flow
        if not flow.in_flight.eliciting_count:
            return NEVER
        timeout_us = flow.round_trip.timeout_us(flow.peer_ack_delay_us)
        return flow.eliciting_sent_at_us + (timeout_us << min(flow.probe_backoff, 5))

    def handle_timeout(self, now_us: int) -> None:
        """Send the oldest open data again, with a question, when nobody reported on it for too long (RFC 9002 section 6.2)."""
        flow = self._flow
        while (oldest := flow.in_flight.oldest) is not None and oldest.sent_at_us < now_us - PACKET_REPORT_AGE_US:
            self._give_up_oldest(now_us)
        if now_us < self.probe_at_us:
            return
        flow.probe_wanted = True
        flow.probe_backoff += 1
        if flow.probe_backoff > 2:
            flow.rate.handle_timeout()
            self._doubt_path(now_us)
        for packet in flow.in_flight.open_packets():
            if packet.ranges:
                oldest = packet if packet.packets == 1 else packet.split(1)[0]
                for lane, begin, end in oldest.ranges:
                    flow.send_again(lane, begin, end)
                break

    def _doubt_path(self, now_us: int) -> None:
        """Nothing is acknowledged any more: perhaps for its size. Smaller packets are tried, and if they fare no better, it is
        not the size."""
        flow = self._flow
        smaller = flow.probe_backoff <= _SMALLER_TRIES_END
        if flow.path_mtu.shrink(now_us) if smaller else flow.path_mtu.absolve():
            flow.set_datagram_bytes(flow.path_mtu.size_bytes)

    def _may_probe_path(self, now_us: int) -> bool:
        """Whether a probe of the path's MTU is due, the peer answers, and it takes no more than a moment's worth of the rate."""
        flow = self._flow
        path_mtu = flow.path_mtu
        return (
            path_mtu.wants_probe(now_us)
            and path_mtu.probe_bytes <= flow.rate.rate_bytes_per_s // _PROBES_PER_SECOND_MIN
            and flow.in_flight.bytes + path_mtu.probe_bytes <= flow.window_bytes
            and not flow.probe_backoff
            and self._has_room()
        )

    def _build_probe(self, now_us: int) -> bytes:
        """A packet of padding that asks for an answer, larger than what is known to pass."""
        flow = self._flow
        prefix = self._encode_prefix(ASK_ACK_NOW, None, now_us)
        padding_bytes = flow.path_mtu.probe_bytes - len(prefix) - flow.send_cipher.overhead_bytes
        payload = bytes((PADDING_LEAD,)) + bytes(padding_bytes - 1)
        packet = prefix + flow.send_cipher.seal(flow.in_flight.next_number, payload)
        flow.path_mtu.handle_probe_sent()
        self._asked_at_us = now_us
        self._record_sent(packet, [], True, PATH_PROBE, now_us)
        flow.liveness.expect_reply(flow.round_trip, now_us, may_be_delayed=False)
        return packet

    # --- one packet ---

    def _build_packet(self, sends_data: bool, now_us: int) -> bytes:
        flow = self._flow
        flags, report, carries = self._choose_questions(sends_data, now_us)
        if flags == ASK_ACK_NOW:
            carries |= flow.pings.take()
        prefix = self._encode_prefix(flags, report, now_us)
        limit = flow.datagram_bytes - len(prefix) - flow.send_cipher.overhead_bytes
        pieces: list[bytes] = []
        left = limit - self._add_reports(pieces, limit, sends_data, now_us)
        segments: list[Segment] = []
        carries_data = False
        if sends_data:
            carries_data = self._add_data(pieces, left, segments)
        packet = prefix + flow.send_cipher.seal(flow.in_flight.next_number, b"".join(pieces))
        eliciting = bool(segments) or bool(flags) or (carries_data and flow.own_peer)
        self._record_sent(packet, segments, eliciting, carries, now_us)
        if segments or flags:
            flow.liveness.expect_reply(flow.round_trip, now_us, may_be_delayed=flags != ASK_ACK_NOW)
        return packet

    def _choose_questions(self, sends_data: bool, now_us: int) -> tuple[int, UdpStats | None, int]:
        """Flags that ask for an ack, and a statistics record if one is due."""
        flow = self._flow
        flags = 0
        if flow.probe_wanted or flow.liveness.wants_urgent_ping(now_us):
            flags = ASK_ACK_NOW
            flow.probe_wanted = False
            flow.liveness.pinged(now_us)
        elif sends_data and self._fills_window(now_us):
            flags = ASK_ACK_NOW
        elif (
            flow.liveness.wants_keepalive(now_us)
            or (sends_data and self._must_ask(now_us))
            or (len(flow.in_flight) >= _OPEN_PACKETS_ASKED and self._may_ask(now_us))
        ):
            flags = ASK_ACK
        flow.answer_wanted = False
        report: UdpStats | None = None
        kinds = 0
        if now_us >= flow.stats.look_at_us:
            kinds = flow.stats.report_due(now_us, own_peer=flow.own_peer)
        if now_us >= flow.stats.forced_at_us:
            kinds |= flow.stats.report_forced(now_us)
        if kinds:
            report, kinds = self._fitting_report(kinds, now_us)
        if report is not None:
            flow.stats.report_sent(kinds)
            flags |= ASK_ACK
        if flags:
            self._asked_at_us = now_us
        return flags, report, kinds

    def _fitting_report(self, kinds: int, now_us: int) -> tuple[UdpStats | None, int]:
        """The record of these kinds and what it holds: one too long for a packet goes without its totals (G20)."""
        report = self._fill_report(self._flow, kinds, now_us)
        if len(encode_stats(report)) <= self._flow.full_bytes - _ACK_FIXED_BYTES - _BLOB_EXTRA_BYTES:
            return report, kinds
        self._flow.stats.report_dropped(REPORT_LIFETIME, now_us)
        report.lifetime = None
        return (report, REPORT_INSTANT) if report.instantaneous is not None else (None, 0)

    def _fills_window(self, now_us: int) -> bool:
        """Whether this packet uses up the window: the peer's ack delay must not be what we wait for then."""
        flow = self._flow
        if flow.in_flight.bytes + 2 * flow.datagram_bytes <= flow.window_bytes:
            return False
        return now_us - self._asked_at_us >= flow.round_trip.smoothed_us >> 1

    def _must_ask(self, now_us: int) -> bool:
        """Whether packets without reliable data need a question, since a reference peer does not answer them in time."""
        flow = self._flow
        return not flow.own_peer and self._may_ask(now_us) and flow.eliciting_sent_at_us + self._ask_interval_us <= now_us

    def _may_ask(self, now_us: int) -> bool:
        return now_us - self._asked_at_us >= self._ask_interval_us

    @property
    def _ask_interval_us(self) -> int:
        return max(self._flow.round_trip.smoothed_us, _ASK_INTERVAL_MIN_US)

    def _encode_prefix(self, flags: int, report: UdpStats | None, now_us: int) -> bytes:
        """Header, blob and time field: all that stands before the encrypted part."""
        flow = self._flow
        blob = b""
        lead = 0x80
        if flags or report is not None:
            record = report if report is not None else UdpStats()
            record.flags = flags
            encoded = encode_stats(record)
            blob = encode_varint(len(encoded)) + encoded
            lead |= _BLOB_FLAG
        time_field = self._time_field(now_us)
        if time_field:
            lead |= _TIME_FLAG
        number = flow.in_flight.next_number
        return _HEADER.pack(lead, flow.peer_connection_id, number & 0xFFFF) + blob + time_field

    def _time_field(self, now_us: int) -> bytes:
        """The time since the packet before, now and then: the peer measures jitter by it."""
        flow = self._flow
        if not (flow.config.send_time_since_previous or flow.own_peer) or flow.peer_version < 12 or not flow.last_sent_at_us:
            return b""
        elapsed_us = now_us - flow.last_sent_at_us
        if not 0 < elapsed_us <= _TIME_FIELD_MAX_US or now_us - self._time_field_at_us < _TIME_FIELD_INTERVAL_US:
            return b""
        self._time_field_at_us = now_us
        return (elapsed_us >> 4).to_bytes(2, "little")

    def _add_reports(self, pieces: list[bytes], limit: int, sends_data: bool, now_us: int) -> int:
        """Stop-waiting and ack frames where they are owed; how many bytes they take."""
        flow = self._flow
        acks = flow.acks
        if sends_data and not acks.packets_unreported and acks.due_at_us > now_us:
            if self._stop_waiting_sent == flow.in_flight.reported:
                return 0
            return self._add_stop_waiting(pieces)
        size = self._add_stop_waiting(pieces)
        report = acks.report(now_us, max(min(ACK_GAPS_MAX, (limit - _ACK_FIXED_BYTES) // _ACK_BLOCK_BYTES), 1))
        frame = self._encode_ack(report)
        pieces.append(frame)
        return size + len(frame)

    def _encode_ack(self, report: AckReport) -> bytes:
        """While packets find no room, none is acknowledged, and the newest that was falls behind: 16 bits of it would in the end
        name another, which the peer would take for confirmed (P2). One who cannot read more hears nothing of it then."""
        flow = self._flow
        is_far_behind = flow.replay.highest - report.latest > _ACK_BEHIND_MAX
        if is_far_behind and flow.peer_version < WIDE_ACK_VERSION_MIN:
            return b""
        return encode_ack(report.latest, report.delay_us, report.blocks, wide=is_far_behind)

    def _add_stop_waiting(self, pieces: list[bytes]) -> int:
        flow = self._flow
        frame = encode_stop_waiting(flow.in_flight.reported, flow.in_flight.next_number)
        self._stop_waiting_sent = flow.in_flight.reported
        pieces.append(frame)
        return len(frame)

    def _record_sent(self, packet: bytes, segments: list[Segment], eliciting: bool, carries: int, now_us: int) -> None:
        flow = self._flow
        size = len(packet)
        delivered_bytes, delivered_at_us = flow.rate.delivered
        if not flow.in_flight.bytes:
            delivered_at_us = now_us
        ranges = [(segment.lane, segment.begin, segment.end) for segment in segments]
        flow.in_flight.add(SentPacket(now_us, size, ranges, eliciting, delivered_bytes, delivered_at_us, carries))
        while len(flow.in_flight) > PACKETS_IN_FLIGHT_MAX:
            self._give_up_oldest(now_us)
        flow.bucket.tokens -= size
        flow.stats.packets_sent += 1
        flow.stats.bytes_sent += size
        flow.last_sent_at_us = now_us
        if eliciting:
            flow.eliciting_sent_at_us = now_us

    def _give_up_oldest(self, now_us: int) -> None:
        """Nobody will report on the oldest packet: what it carried goes again."""
        flow = self._flow
        given_up = flow.in_flight.give_up_oldest()
        for lane, begin, end in given_up.ranges:
            flow.send_again(lane, begin, end)
        if given_up.carries & REPORTS:
            flow.stats.report_settled(given_up.carries & REPORTS, arrived=False, now_us=now_us)
        if given_up.carries & PATH_PROBE:
            flow.path_mtu.handle_probe_settled(arrived=False, now_us=now_us)

    @property
    def is_exhausted(self) -> bool:
        """Whether packet numbers are used up: the connection must end before a nonce could repeat (C6)."""
        return self._flow.in_flight.next_number >= PACKET_NUMBER_MAX

    def seal_goodbye(self, goodbye: bytes) -> bytes:
        """A last packet: the end, and what we received until then."""
        flow = self._flow
        report = flow.acks.report(1 << 60)
        frames = goodbye + self._encode_ack(report)
        number = flow.in_flight.next_number
        header = _HEADER.pack(0x80, flow.peer_connection_id, number & 0xFFFF)
        packet = header + flow.send_cipher.seal(number, frames)
        self._record_sent(packet, [], False, 0, flow.last_sent_at_us)
        return packet

    # --- content ---

    def _add_data(self, pieces: list[bytes], left: int, segments: list[Segment]) -> bool:
        """Fill the packet with what was lost and with new data; whether anything went in."""
        flow = self._flow
        if not flow.retransmit and (bundle := self._only_bundle(left)) is not None:
            pieces += bundle.frames
            return True
        sections: dict[int, _Section] = {}
        if flow.retransmit:
            untried = self._untried_lane()
            if untried is not None:
                left = self._take_new(sections, untried, left)
            if not sections:
                left = self._take_retransmissions(sections, left)
        if not flow.retransmit_bytes:
            taken: set[int] = set()
            lane = flow.lanes.next_lane()
            while lane is not None and left > _RELIABLE_COST_BYTES:
                left = self._take_new(sections, lane, left)
                taken.add(lane.index)
                lane = flow.lanes.next_lane(taken)
            if lane is None and not flow.lanes.any_waiting:
                flow.flush_at_us = NEVER
        ordered = _in_sending_order(sections)
        for section in ordered:
            _encode_section(section, section is ordered[0], section is ordered[-1], pieces)
            segments.extend(section.segments)
        return bool(sections)

    def _only_bundle(self, left: int) -> Bundle | None:
        """Take the one bundle of unreliable messages on lane 0 that waits, if that is all and fits: a game's usual packet."""
        flow = self._flow
        lane = flow.lanes.only_ready()
        if lane is None or lane.index or lane.reliable or not lane.unreliable or len(lane.unreliable) > 1:
            return None
        bundle = lane.unreliable[0]
        if bundle.frames_bytes > left or flow.queued_bytes > bundle.message_bytes:
            return None
        lane.unreliable.clear()
        lane.unreliable_bytes = flow.queued_bytes = 0
        flow.lanes.charge(lane, bundle.frames_bytes)
        flow.flush_at_us = NEVER
        return bundle

    def _untried_lane(self) -> SendLane | None:
        """Where every lane that lost something is refused again and again, the peer may have room for the end of another lane's
        message only, and that may never have been sent: a lane of which nothing is missing has its try first."""
        flow = self._flow
        first = flow.retransmit.first()
        if first is None or first.losses < 2:
            return None
        lanes = flow.lanes.all()
        return next((lane for lane in lanes if lane.reliable and not lane.missing), None)

    def _open_section(self, sections: dict[int, _Section], lane: SendLane) -> tuple[_Section, int]:
        """The lane's section, and what selecting the lane may cost."""
        cost = self._section_cost(sections, lane)
        section = sections.get(lane.index)
        if section is None:
            section = sections[lane.index] = _Section(lane)
        return section, cost

    def _section_cost(self, sections: dict[int, _Section], lane: SendLane) -> int:
        """Bytes that selecting this lane takes in the packet being built, at most."""
        if lane.index in sections:
            return 0
        return 2 if lane.index or self._flow.lanes.count > 1 else 0

    def _take_retransmissions(self, sections: dict[int, _Section], left: int) -> int:
        """Move lost segments into the packet, cut where they no longer fit; how many bytes are left then.

        What was lost twice travels without other lanes: the peer may have no room for those, and refuses a packet as a whole.
        """
        flow = self._flow
        queue = flow.retransmit
        losses = 0
        while (segment := queue.first()) is not None:
            losses = max(losses, segment.losses)
            if losses > 1 and sections and segment.lane.index not in sections:
                break
            room = left - _RELIABLE_HEADER_BYTES - self._section_cost(sections, segment.lane)
            if len(segment.data) > room and (sections or room < _SPLIT_BYTES_MIN):
                break
            queue.pop()
            if len(segment.data) > min(room, EXPLICIT_SIZE_MAX):
                flow.split(segment, min(room, EXPLICIT_SIZE_MAX))
            section, cost = self._open_section(sections, segment.lane)
            section.segments.append(segment)
            segment.state = IN_FLIGHT
            segment.lane.unacked_bytes += len(segment.data)
            flow.retransmit_bytes -= len(segment.data)
            flow.stats.retransmitted_segments += 1
            left -= len(segment.data) + _RELIABLE_COST_BYTES + cost
        queue.end_turn(sections)
        return left

    def _take_new(self, sections: dict[int, _Section], lane: SendLane, left: int) -> int:
        """Move queued data of one lane into the packet; how many bytes are left then."""
        flow = self._flow
        section, cost = self._open_section(sections, lane)
        before = left
        left -= cost
        if lane.unreliable:
            reliable_waits_longer = lane.reliable and lane.reliable[0][1] < lane.unreliable[0].deadline_us
            left -= self._take_unreliable(section, left, left // 2 if reliable_waits_longer else left)
        # What nothing follows runs to the packet's end, however long it is.
        ends_packet = len(sections) == 1 and not lane.missing and flow.lanes.only_ready() is lane
        while lane.may_cut and left > _RELIABLE_COST_BYTES:
            room = left - (_RELIABLE_COST_BYTES if section.segments else _RELIABLE_HEADER_BYTES)
            segment = lane.cut_segment(room if ends_packet else min(room, EXPLICIT_SIZE_MAX))
            section.segments.append(segment)
            flow.queued_bytes -= len(segment.data)
            left -= len(segment.data) + _RELIABLE_COST_BYTES
        if not section.unreliable and not section.segments:
            del sections[lane.index]
            return before
        flow.lanes.charge(lane, before - left)
        return left

    def _take_unreliable(self, section: _Section, left: int, share: int) -> int:
        """Move bundles of whole unreliable messages, and pieces of large ones, into the packet; how many bytes that took.

        The first one may take all that is left, so that there is progress; others stay within the share.
        """
        lane = section.lane
        queue = lane.unreliable
        assert queue is not None
        used = taken = previous = 0
        while queue:
            head = queue[0]
            if isinstance(head, LargeMessage):
                if not used:
                    used, taken = self._take_fragment(section, head, left)
                break
            if used + head.frames_bytes > (share if used else left):
                break
            if previous:
                head.follow(previous)
            section.unreliable += head.frames
            used += head.frames_bytes
            taken += head.message_bytes
            previous = head.last_number
            queue.popleft()
        lane.unreliable_bytes -= taken
        self._flow.queued_bytes -= taken
        return used

    def _take_fragment(self, section: _Section, message: LargeMessage, left: int) -> tuple[int, int]:
        """The next piece of a message too large for one packet: (bytes used, message bytes taken)."""
        offset, data = message.offset, message.data
        offset_field = encode_varint(offset) if offset else b""
        room = left - _UNRELIABLE_FIRST.size - 1 - len(offset_field)
        if room < min(_FRAGMENT_BYTES_MIN, len(data) - offset):
            return 0, 0
        piece = data[offset : offset + min(room, EXPLICIT_SIZE_MAX)]
        last = offset + len(piece) == len(data)
        lead = 0x10 | (0x20 if last else 0) | (0x08 if offset else 0) | len(piece) >> 8
        frame = _UNRELIABLE_FIRST.pack(lead, message.number & 0xFFFFFFFF) + offset_field + bytes((len(piece) & 255,))
        section.unreliable += (frame, piece)
        message.offset += len(piece)
        if last and section.lane.unreliable is not None:
            section.lane.unreliable.popleft()
        return len(frame) + len(piece), len(piece)

    # --- many packets at once ---

    def _owes_nothing(self, now_us: int) -> bool:
        """Whether the next packet would carry new data and nothing else."""
        flow = self._flow
        acks = flow.acks
        return not (
            flow.retransmit_bytes
            or acks.packets_unreported
            or acks.due_at_us <= now_us
            or self._stop_waiting_sent != flow.in_flight.reported
            or flow.probe_wanted
            or flow.answer_wanted
            or flow.liveness.failures
            or flow.stats.look_at_us <= now_us
            or (flow.own_peer and now_us - self._time_field_at_us >= _TIME_FIELD_INTERVAL_US)
            or flow.config.send_time_since_previous
            or flow.liveness.wants_keepalive(now_us)
            or self._must_ask(now_us)
            or (len(flow.in_flight) >= _OPEN_PACKETS_ASKED and self._may_ask(now_us))
        )

    def _build_run(self, packets: list[bytes], packets_max: int, now_us: int) -> None:
        """Append full packets of new data of the one lane that has any, as many as may go; none if that is not so simple."""
        flow = self._flow
        lane = flow.lanes.only_ready()
        if lane is None:
            return
        # The packet that fills the window asks for an answer, so it is not of these.
        window = (flow.window_bytes - flow.in_flight.bytes) // flow.datagram_bytes - 2
        count = min(
            packets_max - len(packets),
            window,
            int(flow.bucket.tokens) // flow.datagram_bytes + 1,
            PACKETS_IN_FLIGHT_MAX - len(flow.in_flight),
        )
        if count <= 0:
            return
        if not lane.unreliable:
            if not lane.missing:
                self._build_stream_run(packets, lane, count, now_us)
        elif not lane.reliable:
            self._build_bundle_run(packets, lane, count, now_us)

    def _build_stream_run(self, packets: list[bytes], lane: SendLane, count: int, now_us: int) -> None:
        """Packets that are one reliable segment each, all of one size."""
        flow = self._flow
        select = _SELECT_LANE[lane.index]
        piece_bytes = flow.full_bytes - len(select) - _RELIABLE_HEADER_BYTES
        count = min(count, lane.reliable_bytes // piece_bytes)
        if count <= 0:
            return
        segment = lane.cut_segment(count * piece_bytes)
        flow.queued_bytes -= count * piece_bytes
        data, position = segment.data, segment.begin
        number, peer_id = flow.in_flight.next_number, flow.peer_connection_id
        header, segment_header = _HEADER.pack, _RELIABLE_FIRST.pack
        payloads = [
            select
            + segment_header(0x57, position + begin & 0xFFFFFFFF, position + begin >> 32 & 0xFFFF)
            + data[begin : begin + piece_bytes]
            for begin in range(0, count * piece_bytes, piece_bytes)
        ]
        for at, sealed in enumerate(flow.send_cipher.seal_run(number, payloads), number):
            packets.append(header(0x80, peer_id, at & 0xFFFF) + sealed)
        flow.lanes.charge(lane, count * flow.full_bytes)
        self._record_run(count, len(packets[-1]), [(lane, segment.begin, segment.end)], now_us)
        flow.liveness.expect_reply(flow.round_trip, now_us, may_be_delayed=True)
        if not flow.lanes.any_waiting:
            flow.flush_at_us = NEVER

    def _build_bundle_run(self, packets: list[bytes], lane: SendLane, count: int, now_us: int) -> None:
        """Packets that are one bundle of unreliable messages each."""
        flow = self._flow
        queue = lane.unreliable
        assert queue is not None
        select = _SELECT_LANE[lane.index]
        number, peer_id = flow.in_flight.next_number, flow.peer_connection_id
        flushes = flow.flush_at_us <= now_us
        size = alike = taken = sent_bytes = 0
        while count and queue:
            bundle = queue[0]
            if isinstance(bundle, LargeMessage) or (len(queue) == 1 and not flushes):
                break
            queue.popleft()
            taken += bundle.message_bytes
            sent_bytes += bundle.frames_bytes
            sealed = flow.send_cipher.seal(number, select + b"".join(bundle.frames))
            packets.append(_HEADER.pack(0x80, peer_id, number & 0xFFFF) + sealed)
            if len(packets[-1]) != size:
                if alike:
                    self._record_run(alike, size, [], now_us)
                alike, size = 0, len(packets[-1])
            alike += 1
            number += 1
            count -= 1
        if not alike:
            return
        self._record_run(alike, size, [], now_us)
        lane.unreliable_bytes -= taken
        flow.queued_bytes -= taken
        flow.lanes.charge(lane, sent_bytes)
        if not queue and not flow.lanes.any_waiting:
            flow.flush_at_us = NEVER

    def _record_run(self, count: int, size: int, ranges: list[StreamRange], now_us: int) -> None:
        """Account for equal packets with consecutive numbers."""
        flow = self._flow
        delivered_bytes, delivered_at_us = flow.rate.delivered
        if not flow.in_flight.bytes:
            delivered_at_us = now_us
        eliciting = bool(ranges) or flow.own_peer
        flow.in_flight.add(SentPacket(now_us, size, ranges, eliciting, delivered_bytes, delivered_at_us, 0, count))
        flow.bucket.tokens -= size * count
        flow.stats.packets_sent += count
        flow.stats.bytes_sent += size * count
        flow.last_sent_at_us = now_us
        if eliciting:
            flow.eliciting_sent_at_us = now_us


def _in_sending_order(sections: dict[int, _Section]) -> list[_Section]:
    """Lanes with reliable segments last, since a reference receiver looks only there when it plans its ack (P6)."""
    if len(sections) == 1:
        return list(sections.values())
    return sorted(sections.values(), key=lambda section: (bool(section.segments), section.lane.index))


def _encode_section(section: _Section, first: bool, last: bool, pieces: list[bytes]) -> None:
    """Append one lane's frames; the packet's last segment runs to its end."""
    # A payload begins in lane 0; coming back to it takes the long form of the frame.
    if section.lane.index or not first:
        pieces.append(encode_select_lane(section.lane.index))
    pieces += section.unreliable
    position = 0
    section.segments.sort(key=_begin_of)
    for segment in section.segments:
        to_the_end = last and segment is section.segments[-1]
        pieces.append(_segment_header(segment.begin, position, len(segment.data), to_the_end))
        pieces.append(segment.data)
        position = segment.end


def _begin_of(segment: Segment) -> int:
    return segment.begin


def _segment_header(begin: int, previous_end: int, size: int, to_the_end: bool) -> bytes:
    """Header of a reliable segment: 48-bit position for the first of a section, else the shortest distance."""
    size_code = _REST if to_the_end else size >> 8
    size_field = b"" if to_the_end else bytes((size & 255,))
    if not previous_end:
        return _RELIABLE_FIRST.pack(0x50 | size_code, begin & 0xFFFFFFFF, begin >> 32 & 0xFFFF) + size_field
    distance = begin - previous_end
    for form, (bits, width) in enumerate(((0, 0), (8, 1), (16, 2))):
        if distance < 1 << bits:
            return bytes((0x40 | form << 3 | size_code,)) + distance.to_bytes(width, "little") + size_field
    return bytes((0x58 | size_code,)) + distance.to_bytes(4, "little") + size_field
