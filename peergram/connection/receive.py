"""The receiving side of an established connection: open, decode, check, apply.

A packet is decoded whole before any of it is applied. Nearly all packets have one of a few simple shapes (reports; the next
piece of one lane's reliable stream; whole unreliable messages), which `_read_straight` takes without making frame objects, and
of a batch `handle_run` takes the packets that continue one another together; everything else goes through `wire.frames`, which
is the specification of all. Order and outcomes: protocol part 1, chapter 11 and part 2, section 6.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Final

from peergram.config import (
    ACK_EVERY_PACKETS,
    DATAGRAM_BYTES_MAX,
    MESSAGE_CHARGE_BYTES_MIN,
    PACKETS_UNREPORTED_MAX,
    SEGMENTS_PER_PACKET_MAX,
)
from peergram.connection.flow import PADDING_LEAD, Flow, ReceiveLane
from peergram.connection.goodbye import GOODBYE_LEAD, Goodbye, decode_goodbye
from peergram.connection.in_flight import PATH_PROBE, PING_UNIT, REPORTS, SentPacket, Settled
from peergram.connection.room import charge_of, charge_of_all
from peergram.errors import EndReason, WireError
from peergram.wire.alike import count_alike
from peergram.wire.data_packet import decode_data_header
from peergram.wire.frames import (
    EXPLICIT_SIZE_MAX,
    Ack,
    AckOfUnsent,
    DecodeContext,
    Frame,
    LaneSelected,
    ReliableSegment,
    StopWaiting,
    TooManySegments,
    UnreliableSegment,
    decode_frames,
)
from peergram.wire.link_stats import ACK_REQUEST, ACK_REQUEST_IMMEDIATE, UdpStats, decode_stats

_HEADER: Final = struct.Struct("<BIH")
_ACK16: Final = struct.Struct("<HH")
_POSITION48: Final = struct.Struct("<IH")
_NUMBER32: Final = struct.Struct("<I")
_PLAIN_DATA: Final = 0x80
_TIMED_DATA: Final = 0x82
"""Lead byte of a packet that also tells the time since the one before."""
_OWN_LEADS: Final = (GOODBYE_LEAD, PADDING_LEAD)
_NO_DELAY: Final = 0xFFFF
_NO_BLOCKS: Final[list[tuple[int, int]]] = []
_SEGMENT_HEADER_BYTES: Final = 7
_MASK48: Final = (1 << 48) - 1
_PLAIN_NUMBER_MAX: Final = 1 << 31
"""Below this, the 32 bits of a message number are the number."""
_REPORT_ANSWER_US: Final = 250_000
"""A report of losses is answered within this time divided by its blocks, so that the peer may forget them."""
_JITTER_SPACING_MAX_US: Final = 250_000
_REFUSED_ACK_DELAY_MAX_MS: Final = 100
_REVIVE_INTERVAL_US: Final = 5_000
"""A peer that reports losses repeats itself in every packet; late reports are looked for this often."""
_LOST_KEPT_US_MIN: Final = 1_000_000

OK: Final = 0
REFUSED: Final = 1
"""Content was taken or dropped, but the packet is not acknowledged ("treated as lost")."""
DISCARDED: Final = 2
"""The rest of the packet was not looked at, and nobody hears about it."""


class ConnectionViolated(Exception):
    """The peer broke the protocol in a way that ends the connection; never leaves this package."""

    def __init__(self, reason: int, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class Receiver:
    """Takes the data packets of one connection."""

    __slots__ = ("_flow", "_has_segments", "_revive_at_us", "_segments_max", "_take_report", "goodbye", "straight")

    def __init__(self, flow: Flow, take_report: Callable[[Flow, UdpStats], None]) -> None:
        self._flow = flow
        self._take_report = take_report
        self._has_segments = False
        self._revive_at_us = 0
        """From when on an ack frame may be searched for late reports again."""
        self.goodbye: Goodbye | None = None
        """Set when an own peer said that it is over."""
        self.straight = True
        """Whether packets of simple shape take the short way; off in the test that holds both ways equal."""
        self._segments_max = min(flow.config.recv_segments_per_packet_max, SEGMENTS_PER_PACKET_MAX)

    # --- the datagram ---

    def handle_packet(self, datagram: bytes, now_us: int) -> bool:
        """Take one data packet for this connection; whether it was authentic and new.

        Raises `ConnectionViolated` when the peer broke the protocol.
        """
        flow = self._flow
        lead, _, number16 = _HEADER.unpack_from(datagram)
        blob: bytes | None = None
        time_since_previous_us: int | None = None
        if lead == _PLAIN_DATA:
            payload_at = 7
        elif lead == _TIMED_DATA and len(datagram) >= 9:
            time_since_previous_us, payload_at = (datagram[7] | datagram[8] << 8) << 4, 9
        else:
            try:
                header = decode_data_header(datagram)
            except WireError:
                flow.datagrams_dropped.malformed += 1
                return False
            blob, time_since_previous_us, payload_at = header.stats_blob, header.time_since_previous_us, header.payload_at
        replay = flow.replay
        highest = replay.highest
        number = highest + ((number16 - highest + 0x8000 & 0xFFFF) - 0x8000)
        flow.stats.packets_received += 1
        flow.stats.bytes_received += len(datagram)
        if not replay.is_new(number):
            self._count_old(number)
            return False
        payload = flow.receive_cipher.open(number, datagram[payload_at:])
        if payload is None or len(payload) > flow.payload_bytes_max:
            flow.datagrams_dropped.forged += 1
            return False
        self._accept_number(number, highest, time_since_previous_us, now_us)
        outcome = self.handle_payload(payload, number, now_us)
        if blob is not None and outcome != DISCARDED:
            self._handle_blob(blob, now_us)
        return True

    def handle_run(self, data: bytes, begin: int, segment_bytes: int, connection_id: int, now_us: int) -> int:
        """Take packets of a batch together, from `begin` on, as long as each is the next one and plain.

        Where to go on: at the first packet that `handle_packet` must look at. Raises `ConnectionViolated`.
        """
        flow = self._flow
        first = flow.replay.highest + 1
        number = first & 0xFFFF
        sealed: list[bytes] = []
        total = len(data)
        end = begin
        while end + _HEADER.size < total and _HEADER.unpack_from(data, end) == (_PLAIN_DATA, connection_id, number):
            sealed.append(data[end + _HEADER.size : end + segment_bytes])
            number = number + 1 & 0xFFFF
            end += segment_bytes
        if not sealed:
            return begin
        payloads = flow.receive_cipher.open_run(first, sealed)
        end = min(begin + len(payloads) * segment_bytes, total)
        flow.stats.packets_received += len(payloads)
        flow.stats.bytes_received += end - begin
        self.handle_payloads(payloads, first, now_us)
        return end

    def handle_payloads(self, payloads: list[bytes], first: int, now_us: int) -> None:
        """Apply decrypted payloads of packets with consecutive numbers that are all new; stops at the peer's goodbye."""
        at = 0
        while at < len(payloads) and self.goodbye is None:
            stretch = self._take_stretch(payloads, at, now_us) if self.straight else at
            if stretch > at:
                self._finish_stretch(first + at, payloads[at:stretch], now_us)
                at = stretch
            else:
                self._accept_number(first + at, first + at - 1, None, now_us)
                self.handle_payload(payloads[at], first + at, now_us)
                at += 1

    def _take_stretch(self, payloads: list[bytes], at: int, now_us: int) -> int:
        """Apply payloads from `at` on while they are new data of a known lane and nothing else; the end of what was taken."""
        lanes = self._flow.receive_lanes
        count = len(payloads)
        try:
            while at < count:
                payload = payloads[at]
                index = payload[0] - 0x87 if payload and 0x88 <= payload[0] <= 0x8E else 0
                lane = lanes.get(index)
                skip = 1 if index else 0
                if lane is None or len(payload) <= skip:
                    break
                if payload[skip] == 0x57:
                    end = self._take_stream(lane, payloads, at, skip)
                elif payload[skip] & 0xF8 == 0x30:
                    end = self._take_bundles(lane, payloads, at, skip)
                else:
                    break
                if end == at:
                    break
                at = end
        except WireError as error:
            raise ConnectionViolated(EndReason.MISC_INTERNAL_ERROR, str(error)) from None
        return at

    def _take_stream(self, lane: ReceiveLane, payloads: list[bytes], at: int, skip: int) -> int:
        """Segments that continue the lane's stream, one a packet; the end of what was taken."""
        flow = self._flow
        select = payloads[at][:skip]
        position = lane.reliable.end_position
        begin = skip + _SEGMENT_HEADER_BYTES
        pieces: list[bytes] = []
        for payload in payloads[at:] if at else payloads:
            if len(payload) <= begin or payload[skip] != 0x57 or payload[:skip] != select:
                break
            low, high = _POSITION48.unpack_from(payload, skip + 1)
            if position & _MASK48 != low | high << 32:
                break
            pieces.append(payload[begin:])
            position += len(payload) - begin
        if not pieces or not flow.accepts_reliable or not lane.reliable.add_run(pieces, position - lane.reliable.end_position):
            return at
        if lane.reliable.is_ready and lane.index not in flow.blocked_lanes:
            self.deliver_ready(lane)
        return at + len(pieces)

    def _take_bundles(self, lane: ReceiveLane, payloads: list[bytes], at: int, skip: int) -> int:
        """Packets of whole unreliable messages; the end of what was taken."""
        flow = self._flow
        if not flow.accepts_unreliable:
            return at
        select = payloads[at][:skip]
        numbers: list[int] = []
        taken: list[bytes] = []
        for payload in payloads[at:] if at else payloads:
            if len(payload) <= skip or payload[:skip] != select:
                break
            messages = _read_whole_unreliable(lane, payload, skip, self._segments_max)
            if messages is None or self._any_too_large(messages):
                break
            number = _NUMBER32.unpack_from(payload, skip + 1)[0]
            lane.message_number = max(lane.message_number, number + len(messages) - 1)
            numbers += range(number, number + len(messages))
            taken += messages
            at += 1
        if taken:
            self._deliver_unreliable(lane.index, numbers, taken)
        return at

    def _finish_stretch(self, first: int, payloads: list[bytes], now_us: int) -> None:
        """Account for packets with consecutive numbers whose content was taken."""
        flow = self._flow
        count = len(payloads)
        last = first + count - 1
        flow.replay.add_run(last)
        flow.stats.sequenced += count
        flow.liveness.heard(now_us)
        flow.last_arrival_us, flow.last_arrival_number = now_us, last
        flow.acks.add_run(first, last, now_us)
        self._check_unreported()
        self._plan_ack(sum([1 + len(payload) // DATAGRAM_BYTES_MAX for payload in payloads]), now_us)

    def _count_old(self, number: int) -> None:
        stats = self._flow.stats
        self._flow.datagrams_dropped.repeated += 1
        if number < self._flow.replay.floor:
            stats.lurch += 1
        else:
            stats.duplicate += 1

    def _accept_number(self, number: int, highest: int, time_since_previous_us: int | None, now_us: int) -> None:
        flow = self._flow
        jump = number - highest
        if jump > flow.limits.packet_number_jump_max:
            text = f"Pkt number lurch by {jump}; {highest & 0xFFFF:04x}->{number & 0xFFFF:04x}"
            raise ConnectionViolated(EndReason.MISC_GENERIC, text)
        flow.replay.add(number)
        flow.stats.count_number(jump)
        flow.liveness.heard(now_us)
        if time_since_previous_us is not None and jump == 1 and number == flow.last_arrival_number + 1:
            spacing_us = now_us - flow.last_arrival_us
            if spacing_us < _JITTER_SPACING_MAX_US and time_since_previous_us < _JITTER_SPACING_MAX_US:
                flow.stats.count_jitter(abs(spacing_us - time_since_previous_us))
        flow.last_arrival_us = now_us
        flow.last_arrival_number = number

    def _handle_blob(self, blob: bytes, now_us: int) -> None:
        """Statistics and questions of the peer. They are not authenticated, so they may only make us answer, and seldom (G19)."""
        try:
            record = decode_stats(blob)
        except WireError:
            return
        if record.flags & ACK_REQUEST_IMMEDIATE:
            self._answer_at_once(now_us)
        elif record.flags & ACK_REQUEST:
            self._flow.acks.schedule(now_us + self._flow.peer_ack_delay_us)
        if record.instantaneous is not None or record.lifetime is not None:
            self._take_report(self._flow, record)

    def _answer_at_once(self, now_us: int) -> None:
        flow = self._flow
        if flow.answer_put_off and now_us >= flow.answer_at_us:
            # The answer that waited until then was one, too.
            flow.answer_put_off = False
            flow.answer_at_us += flow.answer_interval_us
        if now_us >= flow.answer_at_us:
            flow.answer_at_us = now_us + flow.answer_interval_us
            flow.answer_wanted = True
        else:
            flow.answer_put_off = True
            flow.acks.schedule(flow.answer_at_us)

    # --- the payload ---

    def handle_payload(self, payload: bytes, number: int, now_us: int) -> int:
        """Apply one decrypted payload; the outcome (OK, REFUSED, DISCARDED)."""
        flow = self._flow
        self._has_segments = False
        if now_us >= self._revive_at_us:
            self._revive_at_us = now_us + _REVIVE_INTERVAL_US
            flow.in_flight.may_revive = True
        try:
            if payload and payload[0] in _OWN_LEADS and flow.own_peer:
                payload = self._read_own(payload)
            outcome = self._read_straight(payload, number, now_us) if self.straight else None
            if outcome is None:
                outcome = self._read_carefully(payload, number, now_us)
        except WireError as error:
            raise ConnectionViolated(EndReason.MISC_INTERNAL_ERROR, str(error)) from None
        if outcome == OK:
            flow.acks.add(number, now_us)
            self._check_unreported()
            if self._has_segments:
                self._plan_ack(1 + len(payload) // DATAGRAM_BYTES_MAX, now_us)
        elif outcome == REFUSED:
            ping_ms = flow.round_trip.ping_ms
            wait_ms = _REFUSED_ACK_DELAY_MAX_MS if ping_ms is None else min(ping_ms, _REFUSED_ACK_DELAY_MAX_MS)
            flow.acks.schedule(now_us + (wait_ms + 5) * 2_000)
        return outcome

    def _read_own(self, payload: bytes) -> bytes:
        """What only own peers say: the goodbye, or nothing at all; the rest is as ever."""
        if payload[0] == PADDING_LEAD:
            return b""
        self.goodbye, rest = decode_goodbye(payload)
        for lane, position in self.goodbye.taken:
            self._flow.lanes.handle_taken(lane, position)
        return rest

    def _check_unreported(self) -> None:
        acks = self._flow.acks
        if acks.top - acks.stop_waiting > PACKETS_UNREPORTED_MAX:
            acks.catch_up()
        if acks.top - acks.stop_waiting > PACKETS_UNREPORTED_MAX:
            raise ConnectionViolated(EndReason.MISC_GENERIC, "The peer never gives up on old packets")

    def _plan_ack(self, packets: int, now_us: int) -> None:
        """So many packets of the protocol's size, or as much in larger ones, want an ack."""
        acks = self._flow.acks
        acks.packets_unreported += packets
        acks.schedule(now_us if acks.packets_unreported >= ACK_EVERY_PACKETS else now_us + self._flow.peer_ack_delay_us)

    def _read_carefully(self, payload: bytes, number: int, now_us: int) -> int:
        """Decode whatever the format allows, then apply frame by frame."""
        flow = self._flow
        context = DecodeContext(
            packet_number=number,
            next_packet_number=flow.in_flight.next_number,
            highest_number=lambda lane: flow.receive_lane(lane).message_number,
            expected_position=lambda lane: flow.receive_lane(lane).reliable.end_position,
            segments_max=self._segments_max,
        )
        return self._apply(decode_frames(payload, context), number, now_us)

    def _apply(self, frames: list[Frame], number: int, now_us: int) -> int:
        outcome = OK
        for frame in frames:
            if isinstance(frame, ReliableSegment):
                if not self._take_reliable(self._flow.receive_lane(frame.lane), frame.position, frame.data):
                    outcome = REFUSED
            elif isinstance(frame, UnreliableSegment):
                if not self._take_unreliable(frame, now_us):
                    outcome = REFUSED
            elif isinstance(frame, Ack):
                self._take_ack(frame.latest, frame.delay_us, frame.blocks, now_us)
            elif isinstance(frame, StopWaiting):
                self._take_stop_waiting(frame.value, number)
            elif isinstance(frame, LaneSelected):
                self._flow.receive_lane(frame.lane)
            elif isinstance(frame, AckOfUnsent):
                return DISCARDED
            elif isinstance(frame, TooManySegments):
                return REFUSED
        return outcome

    # --- the short way ---

    def _read_straight(self, payload: bytes, number: int, now_us: int) -> int | None:
        """Take a packet of simple shape; None, with nothing applied, if it has another."""
        reports = self._read_reports(payload, number)
        if reports is None:
            return None
        at, stop_waiting, latest, delay = reports
        size = len(payload)
        lane_index = 0
        if at < size and 0x88 <= payload[at] <= 0x8E:
            lane_index = payload[at] - 0x87
            at += 1
        lane = self._flow.receive_lanes.get(lane_index)
        if lane is None:
            return None
        if at == size:
            self._take_reports(stop_waiting, latest, delay, number, now_us)
            return OK
        if payload[at] == 0x57:
            if not _is_next_reliable(lane, payload, at):
                return None
            self._take_reports(stop_waiting, latest, delay, number, now_us)
            return OK if self._take_reliable(lane, lane.reliable.end_position, payload[at + 7 :]) else REFUSED
        messages = _read_whole_unreliable(lane, payload, at, self._segments_max)
        if messages is None or self._any_too_large(messages):
            return None
        self._take_reports(stop_waiting, latest, delay, number, now_us)
        return self._take_whole_unreliable(lane, _NUMBER32.unpack_from(payload, at + 1)[0], messages)

    def _read_reports(self, payload: bytes, number: int) -> tuple[int, int, int, int] | None:
        """Stop-waiting and ack frames at the front: (where they end, stop-waiting value or -1, latest or -1, raw delay)."""
        at = 0
        size = len(payload)
        stop_waiting = latest = -1
        delay = _NO_DELAY
        if size > 2 and payload[0] & 0xFE == 0x80:
            if payload[0] == 0x80:
                stop_waiting = number - payload[1] - 1
                at = 2
            else:
                stop_waiting = number - (payload[1] | payload[2] << 8) - 1
                at = 3
            if stop_waiting < 0:
                return None
        if at + 5 <= size and payload[at] == 0x98:
            low, delay = _ACK16.unpack_from(payload, at + 1)
            next_number = self._flow.in_flight.next_number
            latest = next_number + ((low - next_number + 0x8000 & 0xFFFF) - 0x8000)
            if not 0 <= latest < next_number:
                return None
            at += 5
        return at, stop_waiting, latest, delay

    def _take_reports(self, stop_waiting: int, latest: int, delay: int, number: int, now_us: int) -> None:
        if stop_waiting >= 0:
            self._take_stop_waiting(stop_waiting, number)
        if latest >= 0:
            self._take_ack(latest, None if delay == _NO_DELAY else delay << 5, _NO_BLOCKS, now_us)

    def _take_whole_unreliable(self, lane: ReceiveLane, number: int, messages: list[bytes]) -> int:
        flow = self._flow
        self._has_segments = True
        lane.message_number = max(lane.message_number, number + len(messages) - 1)
        if not flow.accepts_unreliable:
            return REFUSED
        self._deliver_unreliable(lane.index, range(number, number + len(messages)), messages)
        return OK

    def _deliver_unreliable(self, lane: int, numbers: Sequence[int], messages: list[bytes]) -> None:
        """Hand out what finds room, and drop and count the rest."""
        flow = self._flow
        flow.stats.messages_received_unreliable += len(messages)
        room = flow.room
        if room.messages_left <= 0 or room.bytes_left < MESSAGE_CHARGE_BYTES_MIN:
            flow.unreliable_dropped += len(messages)
            return
        charge = charge_of_all(messages)
        if len(messages) <= room.messages_left and room.unread_bytes + charge <= room.bytes_max:
            flow.deliver(lane, False, numbers, messages, charge)
            return
        for number, message in zip(numbers, messages, strict=True):
            charge = charge_of(len(message))
            if room.messages_left > 0 and charge <= room.bytes_left:
                flow.deliver(lane, False, (number,), [message], charge)
            else:
                flow.unreliable_dropped += 1

    def _any_too_large(self, messages: list[bytes]) -> bool:
        """Whether a message exceeds a limit set below what a packet can hold."""
        limit = self._flow.config.recv_message_bytes_max
        return limit < EXPLICIT_SIZE_MAX and any(len(message) > limit for message in messages)

    # --- frames ---

    def _take_reliable(self, lane: ReceiveLane, position: int, data: bytes) -> bool:
        """Add stream bytes and deliver what is complete; False if there is no room for them."""
        flow = self._flow
        self._has_segments = True
        if not flow.accepts_reliable or not lane.reliable.add(position, data):
            return False
        if lane.reliable.is_ready and lane.index not in flow.blocked_lanes:
            self.deliver_ready(lane)
        return True

    def deliver_ready(self, lane: ReceiveLane) -> None:
        """Hand out what is complete and finds room; the lane counts as blocked if something is left. May raise `WireError`."""
        flow = self._flow
        room = flow.room
        numbers, messages, charge = lane.reliable.take_ready(
            lane.message_number, room.messages_left, room.bytes_max - room.unread_bytes, takes_any=not room.unread_messages
        )
        if messages:
            lane.message_number = max(lane.message_number, numbers[-1])
            flow.stats.messages_received_reliable += len(messages)
            flow.deliver(lane.index, True, numbers, messages, charge)
        is_blocked = lane.index in flow.blocked_lanes
        if lane.reliable.is_ready and not is_blocked:
            flow.blocked_lanes.append(lane.index)
        elif is_blocked and not lane.reliable.is_ready:
            flow.blocked_lanes.remove(lane.index)

    def discard(self) -> None:
        """Nobody wants the rest: give back the room it takes."""
        for lane in self._flow.receive_lanes.values():
            lane.reliable.discard()
            lane.unreliable.discard()
        self._flow.blocked_lanes.clear()

    def discard_unfinished(self, *, keeps_unreliable: bool = False) -> None:
        """Nothing more will come: give back the room of all but the lanes whose messages wait for the application."""
        for index, lane in self._flow.receive_lanes.items():
            if not keeps_unreliable:
                lane.unreliable.discard()
            if index not in self._flow.blocked_lanes:
                lane.reliable.discard()

    def handle_timeout(self, now_us: int) -> None:
        """Give up what is too old to be finished."""
        for lane in self._flow.receive_lanes.values():
            lane.unreliable.give_up_old(now_us)

    def resume(self) -> None:
        """The application read something: hand out what waited for room."""
        flow = self._flow
        try:
            for index in sorted(flow.blocked_lanes):
                self.deliver_ready(flow.receive_lane(index))
        except WireError as error:
            raise ConnectionViolated(EndReason.MISC_INTERNAL_ERROR, str(error)) from None

    def _take_unreliable(self, segment: UnreliableSegment, now_us: int) -> bool:
        """Add a piece and deliver its message if complete; False if the connection takes no data now."""
        flow = self._flow
        lane = flow.receive_lane(segment.lane)
        self._has_segments = True
        lane.message_number = max(lane.message_number, segment.message_number)
        if not flow.accepts_unreliable:
            return False
        message = lane.unreliable.add(segment.message_number, segment.offset, segment.data, segment.last, now_us)
        if message is None:
            return True
        if len(message) > flow.config.recv_message_bytes_max:
            raise WireError(f"Unreliable message size too large: {len(message)} bytes")
        self._deliver_unreliable(lane.index, (segment.message_number,), [message])
        return True

    def _take_stop_waiting(self, value: int, number: int) -> None:
        if not self._flow.acks.handle_stop_waiting(value, number):
            raise WireError(f"stop waiting went down to {value} in packet {number}")

    def _take_ack(self, latest: int, delay_us: int | None, blocks: list[tuple[int, int]], now_us: int) -> None:
        """Settle packets in flight, measure the round trip, send again at once what was lost (G4)."""
        flow = self._flow
        settled = flow.in_flight.settle(latest, blocks)
        if settled.newest is not None and delay_us is not None:
            self._measure(now_us - settled.newest.sent_at_us - delay_us, now_us)
        acked_bytes = lost_bytes = largest_bytes = asked = 0
        for packet in settled.acked:
            acked_bytes += packet.size_bytes * packet.packets
            if packet.size_bytes > largest_bytes:
                largest_bytes = packet.size_bytes
            for lane, begin, end in packet.ranges:
                flow.confirm(lane, begin, end)
            if packet.carries:
                self._settle_extras(packet, arrived=True, now_us=now_us)
                asked = packet.carries if packet.carries >= PING_UNIT else asked
        if asked and settled.newest is not None:
            # Of several pings in one ack, the answers to the older ones were lost on their way.
            flow.pings.handle_answer(asked, now_us - settled.newest.sent_at_us - (delay_us or 0))
        for packet in settled.lost:
            if not packet.carries & PATH_PROBE:
                lost_bytes += packet.size_bytes * packet.packets
            self._handle_lost(packet, now_us)
        if settled.lost or largest_bytes > flow.path_mtu.smaller_bytes:
            self._watch_path(settled, largest_bytes, now_us)
        for packet in settled.revived:
            for lane, begin, end in packet.ranges:
                flow.confirm(lane, begin, end)
        if acked_bytes:
            # Not all at once: a peer that acknowledges one packet in fifty gets no burst for it.
            flow.probe_backoff >>= 1
        flow.rate.handle_acked(acked_bytes, lost_bytes, settled.newest, flow.round_trip, now_us)
        if blocks:
            flow.acks.schedule(now_us + _REPORT_ANSWER_US // len(blocks))
            keep_us = max(2 * flow.round_trip.timeout_us(flow.peer_ack_delay_us), _LOST_KEPT_US_MIN)
            flow.in_flight.forget_lost(now_us - keep_us)

    def _handle_lost(self, packet: SentPacket, now_us: int) -> None:
        flow = self._flow
        for lane, begin, end in packet.ranges:
            flow.send_again(lane, begin, end)
        if packet.carries:
            self._settle_extras(packet, arrived=False, now_us=now_us)

    def _settle_extras(self, packet: SentPacket, *, arrived: bool, now_us: int) -> None:
        """A packet that carried a statistics report, or was a path probe."""
        flow = self._flow
        if packet.carries & REPORTS:
            flow.stats.report_settled(packet.carries & REPORTS, arrived=arrived, now_us=now_us)
        if packet.carries & PATH_PROBE:
            flow.path_mtu.handle_probe_settled(arrived=arrived, now_us=now_us)
            flow.set_datagram_bytes(flow.path_mtu.size_bytes)

    def _watch_path(self, settled: Settled, arrived_bytes: int, now_us: int) -> None:
        """Large packets that vanish while none arrives mean that the path carries them no longer."""
        flow = self._flow
        lost = [packet for packet in settled.lost if not packet.carries & PATH_PROBE] if settled.lost else settled.lost
        lost_bytes = max([packet.size_bytes for packet in lost], default=0)
        if flow.path_mtu.handle_report(arrived_bytes, lost_bytes, sum([packet.packets for packet in lost]), now_us):
            flow.set_datagram_bytes(flow.path_mtu.size_bytes)

    def _measure(self, sample_us: int, now_us: int) -> None:
        flow = self._flow
        ping_ms = flow.round_trip.add_sample(sample_us, now_us)
        if ping_ms is not None:
            flow.stats.count_ping(ping_ms)


def _is_next_reliable(lane: ReceiveLane, payload: bytes, at: int) -> bool:
    """Whether the rest is one reliable segment that begins just where the lane's stream ends."""
    if at + 7 >= len(payload):
        return False
    low, high = _POSITION48.unpack_from(payload, at + 1)
    end = lane.reliable.end_position
    return bool(end & _MASK48 == low | high << 32)


def _read_whole_unreliable(lane: ReceiveLane, payload: bytes, at: int, messages_max: int) -> list[bytes] | None:
    """The rest as whole unreliable messages of explicit size and consecutive numbers, the first number written in 32 bits; None
    if it is not that, or more than `messages_max`."""
    size = len(payload)
    if payload[at] & 0xF8 != 0x30 or at + 6 > size:
        return None
    number = _NUMBER32.unpack_from(payload, at + 1)[0]
    if not 0 < number < _PLAIN_NUMBER_MAX or lane.message_number >= _PLAIN_NUMBER_MAX:
        return None
    messages: list[bytes] = []
    code, end = payload[at] & 7, at + 4
    while code <= 4 and len(messages) < messages_max:
        begin = end + 2
        length = code << 8 | payload[begin - 1]
        end = begin + length
        if end > size:
            return None
        messages.append(payload[begin:end])
        if end + 1 < size and payload[end + 1] == length & 255 and payload[end] == 0x20 | length >> 8:
            first, stride = end + 2, length + 2
            end += count_alike(payload, end, 2, stride, messages_max - len(messages)) * stride
            messages += [payload[begin : begin + length] for begin in range(first, end + 1, stride)]
        if end == size:
            return messages
        if payload[end] & 0xF8 != 0x20 or end + 1 == size:
            return None
        code = payload[end] & 7
    return None
