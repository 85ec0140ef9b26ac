"""SNP frames: the decrypted payload of a data packet, as values and back.

A payload is a row of frames, each led by a byte that says its kind and the form of its fields. Many fields are cut short and
mean something only beside what came before, so that reader and writer keep a context (lane, message number, stream position)
that starts anew with the payload and with every lane selection. This module is the specification: a faster path must give the
same values.

The reader refuses what section 6.2 of our description (02) calls violations, as far as the bytes show them; what depends on the
connection (limits, repeated data, order of stop-waiting values) is judged by whoever applies the frames. Packets named in an
ack stay ranges, so that work is proportional to the bytes read (E10), and each frame takes at least its lead byte (E9).
Reference: SNP_WIRE_FORMAT.md and steamnetworkingsockets_snp.cpp, `ProcessPlainTextDataChunk`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, assert_never

from peergram.config import LANES_RECV_MAX, SEGMENTS_PER_PACKET_MAX
from peergram.errors import UsageError, WireError
from peergram.wire.varint import decode_varint, encode_varint, nearest

MESSAGE_NUMBER_MAX: Final = (1 << 61) - 1
"""Higher message numbers are refused: integers from here on would be bad keys of our tables (E18)."""
EXPLICIT_SIZE_MAX: Final = 4 * 256 + 255
"""A larger segment can only be the last frame of its payload."""
ACK_DELAY_MAX_US: Final = 0xFFFE << 5
"""A longer delay is written as "no timing"."""
WIDE_ACK_VERSION_MIN: Final = 13
"""Peers that read 32 bits of an acknowledged number."""
ACK_BLOCKS_WIRE_MAX: Final = 255
"""Most blocks that the count byte can say."""
ACK_COUNT_MAX: Final = 100_000 << 3 | 0x7
"""Most packets one half of an ack block may cover."""

_ACK_DELAY_UNIT_BITS: Final = 5
_ACK_NO_DELAY: Final = 0xFFFF
_PLAIN_ACK: Final = struct.Struct("<BHH")
_REST: Final = 7
"""Size code: the data runs to the end of the payload."""


# --- values ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class StopWaiting:
    """The receiver need not report on packets numbered below `value` any more."""

    value: int


@dataclass(slots=True)
class Ack:
    """What the peer received, newest first: `blocks` of (packets received, packets missing just below them).

    `delay_us` is the time between the arrival of packet `latest` and the sending of this frame, or None when unknown.
    """

    latest: int
    delay_us: int | None
    blocks: list[tuple[int, int]]

    def ranges(self) -> list[tuple[int, int, int, int]]:
        """Per block the half-open ranges received and missing: (received begin, received end, missing begin, missing end)."""
        ranges = []
        end = self.latest + 1
        for received, missing in self.blocks:
            middle = end - received
            begin = middle - missing
            ranges.append((middle, end, begin, middle))
            end = begin
        return ranges

    def implicit_end(self) -> int:
        """Packets below this number, down to the newest stop-waiting value, were received although no block says so."""
        return self.latest + 1 - sum(received + missing for received, missing in self.blocks)


@dataclass(slots=True)
class LaneSelected:
    """The segments that follow belong to `lane`; a lane not seen before exists from now on."""

    lane: int


@dataclass(slots=True)
class UnreliableSegment:
    """Bytes from `offset` on of the lane's unreliable message `message_number`; `last` when they end it."""

    lane: int
    message_number: int
    offset: int
    last: bool
    data: bytes


@dataclass(slots=True)
class ReliableSegment:
    """Bytes of the lane's reliable stream, whose first byte has position 1."""

    lane: int
    position: int
    data: bytes


@dataclass(slots=True)
class AckOfUnsent:
    """Marks the end of decoding: an ack named a packet we have not sent. Forget the packet; the connection goes on."""


@dataclass(slots=True)
class TooManySegments:
    """Marks the end of decoding: the packet has more segments than we look at, and is to be treated as lost."""


Frame = StopWaiting | Ack | LaneSelected | UnreliableSegment | ReliableSegment | AckOfUnsent | TooManySegments


@dataclass(slots=True)
class DecodeContext:
    """What a payload's short forms refer to, as of the moment its packet begins."""

    packet_number: int
    """Number of the packet that carries the payload."""
    next_packet_number: int
    """Number of the next packet that we, who read, will send."""
    highest_number: Callable[[int], int]
    """Highest message number seen on a lane, reliable or not; 0 at first."""
    expected_position: Callable[[int], int]
    """Position after the last byte a lane's stream buffer covers, holes included; 1 at first."""
    segments_max: int = SEGMENTS_PER_PACKET_MAX


@dataclass(frozen=True, slots=True)
class Forms:
    """Which of the equivalent forms a writer takes; the defaults are the reference's.

    Short numbers and positions are for a writer who knows what the reader has seen (P4). `stop_waiting_bits` 0 means the
    shortest form that holds the value.
    """

    number_bits: int = 32
    position_bits: int = 48
    ack_bits: int = 16
    stop_waiting_bits: int = 0
    lane_varint: bool = False
    rest_size: bool = True


REFERENCE_FORMS: Final = Forms()


# --- reading --------------------------------------------------------------------------------------


def decode_frames(payload: bytes, context: DecodeContext) -> list[Frame]:
    """All frames of `payload`, in order; the list may end with a marker, `AckOfUnsent` or `TooManySegments`.

    Raises `WireError` for a violation, which ends the connection with reason 5002.
    """
    reader = FrameReader(payload, context)
    frames: list[Frame] = []
    while reader.at < len(payload):
        frames.append(reader.read())
    return frames


class FrameReader:
    """Reads a payload frame by frame; `at` is the position of the next lead byte, and the end of the payload when all is read.

    Within a payload the highest message number and the expected stream position of a lane rise with the segments read, as they
    do in a receiver that applies each frame at once. Two things it cannot know are left out: message numbers inside reliable
    data, and segments that the receiver refuses. They matter only to a sender that uses short forms across a jump of half their
    range.
    """

    __slots__ = (
        "_context",
        "_expected_position",
        "_highest_number",
        "_lane",
        "_number",
        "_payload",
        "_position",
        "_segments",
        "at",
    )

    def __init__(self, payload: bytes, context: DecodeContext) -> None:
        self.at = 0
        self._payload = payload
        self._context = context
        self._lane = 0
        self._number: int | None = None
        self._position: int | None = None
        self._segments = 0
        self._highest_number: dict[int, int] = {}
        self._expected_position: dict[int, int] = {}

    def read(self) -> Frame:
        """The next frame. There must be one: `at` is less than the payload's length."""
        lead = self._payload[self.at]
        self.at += 1
        return _READERS[lead](self, lead)

    def _read_unreliable(self, lead: int) -> Frame:
        """`00emosss [number] [offset] [size] data`"""
        if self._segments >= self._context.segments_max:
            return self._stop(TooManySegments())
        self._segments += 1
        number = self._read_message_number(bool(lead & 0x10))
        offset = self._read_varint(32) if lead & 0x08 else 0
        data = self._read_data(lead & 0x07)
        self._number = number
        self._highest_number[self._lane] = max(self._highest(), number)
        return UnreliableSegment(self._lane, number, offset, bool(lead & 0x20), data)

    def _read_message_number(self, long_form: bool) -> int:
        if self._number is None:
            bits = 32 if long_form else 16
            number = nearest(self._read_uint(bits), bits, self._highest())
        else:
            number = self._number + (self._read_varint(64) if long_form else 1)
        if not 0 < number <= MESSAGE_NUMBER_MAX:
            raise WireError(f"message number {number}")
        return number

    def _read_reliable(self, lead: int) -> Frame:
        """`010mmsss [position] [size] data`"""
        if self._segments >= self._context.segments_max:
            return self._stop(TooManySegments())
        self._segments += 1
        position = self._read_position(lead >> 3 & 3)
        data = self._read_data(lead & 0x07)
        end = position + len(data)
        self._position = end
        if self._number is not None:
            self._number += 1
        if data:
            self._expected_position[self._lane] = max(self._expected(), end)
        return ReliableSegment(self._lane, position, data)

    def _read_position(self, form: int) -> int:
        if self._position is not None:
            return self._position + (self._read_uint(_DISTANCE_BITS[form]) if form else 0)
        if form == _RESERVED_POSITION:
            raise WireError("reserved form of a stream position")
        bits = _POSITION_BITS[form]
        position = expand_position(self._read_uint(bits), bits, self._expected())
        if position <= 0:
            raise WireError(f"stream position {position}")
        return position

    def _read_data(self, size_code: int) -> bytes:
        size = len(self._payload) - self.at if size_code == _REST else size_code << 8 | self._read_uint(8)
        return self._take(size)

    def _read_stop_waiting(self, lead: int) -> Frame:
        """`100000ww offset`"""
        offset = self._read_uint(_STOP_WAITING_BITS[lead & 3])
        value = self._context.packet_number - offset - 1
        if value < 0:
            raise WireError(f"stop waiting value {value}")
        return StopWaiting(value)

    def _read_lane(self, lead: int) -> Frame:
        """`10001nnn`: lane nnn + 1, or a varint after `nnn` = 7."""
        short = lead & 0x07
        lane = short + 1 if short < 7 else self._read_varint(32)
        if lane >= LANES_RECV_MAX:
            raise WireError(f"lane {lane}")
        self._lane = lane
        self._number = None
        self._position = None
        return LaneSelected(lane)

    def _read_ack(self, lead: int) -> Frame:
        """`1001wnnn latest delay [count] blocks`"""
        bits = 16 if lead & 0x08 else 32
        next_number = self._context.next_packet_number
        latest = nearest(self._read_uint(bits), bits, next_number)
        if latest < 0:
            raise WireError(f"ack of packet {latest}")
        if latest >= next_number:
            return self._stop(AckOfUnsent())
        delay = self._read_uint(16)
        count = lead & 0x07
        if count == 7:
            count = self._read_uint(8)
        delay_us = None if delay == _ACK_NO_DELAY else delay << _ACK_DELAY_UNIT_BITS
        return Ack(latest, delay_us, self._read_ack_blocks(count, latest))

    def _read_ack_blocks(self, count: int, latest: int) -> list[tuple[int, int]]:
        blocks = []
        begin = latest + 1
        payload = self._payload
        # On a lossy path every packet of a reference peer brings dozens of these.
        for _ in range(count):
            if self.at >= len(payload):
                raise WireError("frame runs past the end of the payload")
            nibbles = payload[self.at]
            self.at += 1
            received, missing = nibbles >> 4, nibbles & 0x0F
            if received > 7:
                received = self._read_ack_count(received)
            if missing > 7:
                missing = self._read_ack_count(missing)
            begin -= received + missing
            if begin < 0:
                raise WireError("ack block reaches below packet 0")
            blocks.append((received, missing))
        return blocks

    def _read_ack_count(self, nibble: int) -> int:
        """A count that continues in a varint."""
        count = self._read_varint(64) << 3 | nibble & 0x7
        if count > ACK_COUNT_MAX:
            raise WireError(f"ack block of {count} packets")
        return count

    def _read_invalid(self, lead: int) -> Frame:
        raise WireError(f"no frame begins with {lead:#04x}")

    def _stop(self, marker: Frame) -> Frame:
        self.at = len(self._payload)
        return marker

    def _highest(self) -> int:
        known = self._highest_number.get(self._lane)
        return self._context.highest_number(self._lane) if known is None else known

    def _expected(self) -> int:
        known = self._expected_position.get(self._lane)
        return self._context.expected_position(self._lane) if known is None else known

    def _read_uint(self, bits: int) -> int:
        return int.from_bytes(self._take(bits >> 3), "little")

    def _read_varint(self, bits: int) -> int:
        value, self.at = decode_varint(self._payload, self.at, bits)
        return value

    def _take(self, size: int) -> bytes:
        end = self.at + size
        if end > len(self._payload):
            raise WireError("frame runs past the end of the payload")
        taken = self._payload[self.at : end]
        self.at = end
        return taken


def expand_position(low: int, bits: int, expected: int) -> int:
    """The stream position whose lowest `bits` bits are `low`, seen from `expected`; never corrected downwards (P4)."""
    mask = (1 << bits) - 1
    position = (expected & ~mask) + low
    return position + mask + 1 if position + (mask >> 1) < expected else position


_POSITION_BITS: Final = (24, 32, 48)
_RESERVED_POSITION: Final = 3
_DISTANCE_BITS: Final = (0, 8, 16, 32)
_STOP_WAITING_BITS: Final = (8, 16, 24, 64)


def _reader_of(lead: int) -> Callable[[FrameReader, int], Frame]:
    if lead < 0x60 and lead & 0x07 in (5, 6):
        return FrameReader._read_invalid
    if lead < 0x40:
        return FrameReader._read_unreliable
    if lead < 0x60:
        return FrameReader._read_reliable
    if 0x80 <= lead < 0x84:
        return FrameReader._read_stop_waiting
    if 0x88 <= lead < 0x90:
        return FrameReader._read_lane
    if 0x90 <= lead < 0xA0:
        return FrameReader._read_ack
    return FrameReader._read_invalid


_READERS: Final = tuple(_reader_of(lead) for lead in range(256))


# --- writing --------------------------------------------------------------------------------------


def encode_frames(frames: Sequence[Frame], packet_number: int, forms: Forms = REFERENCE_FORMS) -> bytes:
    """The payload of packet `packet_number` made of `frames`; with the default forms it is what the reference writes.

    Raises `UsageError` for frames that cannot be written: values out of range, a segment whose lane is not the one selected
    before it, a message number or stream position that goes back within a lane section (select the lane again), or a marker.
    """
    segments = SegmentEncoder(forms.number_bits, forms.position_bits)
    parts: list[bytes] = []
    for index, frame in enumerate(frames):
        rest = forms.rest_size and index == len(frames) - 1
        match frame:
            case StopWaiting(value):
                parts.append(encode_stop_waiting(value, packet_number, forms.stop_waiting_bits))
            case Ack(latest, delay_us, blocks):
                parts.append(encode_ack(latest, delay_us, blocks, wide=forms.ack_bits == 32))
            case LaneSelected(lane):
                parts.append(segments.select_lane(lane, varint=forms.lane_varint))
            case UnreliableSegment(lane, number, offset, last, data):
                _check_lane(lane, segments.lane)
                parts += segments.unreliable_header(number, offset, last, len(data), rest=rest), data
            case ReliableSegment(lane, position, data):
                _check_lane(lane, segments.lane)
                parts += segments.reliable_header(position, len(data), rest=rest), data
            case AckOfUnsent() | TooManySegments():
                raise UsageError(f"{frame} marks the end of decoding and cannot be sent")
            case _:
                assert_never(frame)
    return b"".join(parts)


def encode_stop_waiting(value: int, packet_number: int, bits: int = 0) -> bytes:
    """A stop-waiting frame for packet `packet_number`, which is above `value`, in the shortest form of at least `bits` bits."""
    offset = packet_number - value - 1
    if not bits and 0 <= offset < 256 and value >= 0:
        return bytes((0x80, offset))
    if value < 0 or offset < 0:
        raise UsageError(f"packet {packet_number} cannot say stop waiting below {value}: use 0 to {packet_number - 1}")
    for code, width in enumerate(_STOP_WAITING_BITS):
        if width >= bits and not offset >> width:
            return bytes((0x80 | code,)) + offset.to_bytes(width >> 3, "little")
    raise UsageError(f"stop waiting offset {offset} does not fit 64 bits")


def encode_ack(latest: int, delay_us: int | None, blocks: Sequence[tuple[int, int]], *, wide: bool = False) -> bytes:
    """An ack frame; `wide` writes 32 bits of `latest`, for peers from `WIDE_ACK_VERSION_MIN` on.

    A delay that is None or above `ACK_DELAY_MAX_US` is written as "no timing".
    """
    if latest < 0 or len(blocks) > ACK_BLOCKS_WIRE_MAX:
        raise UsageError(
            f"an ack names a packet from 0 on and at most {ACK_BLOCKS_WIRE_MAX} blocks, not {latest} and {len(blocks)}"
        )
    if not blocks and not wide:
        return _PLAIN_ACK.pack(0x98, latest & 0xFFFF, _encode_ack_delay(delay_us))
    number_bytes, lead = (4, 0x90) if wide else (2, 0x98)
    low = latest & (1 << 8 * number_bytes) - 1
    return b"".join(
        (
            bytes((lead | min(len(blocks), 7),)),
            low.to_bytes(number_bytes, "little"),
            _encode_ack_delay(delay_us).to_bytes(2, "little"),
            bytes((len(blocks),)) if len(blocks) >= 7 else b"",
            *(encode_ack_block(received, missing) for received, missing in blocks),
        )
    )


def encode_ack_block(received: int, missing: int) -> bytes:
    """One block of an ack frame: packets received, and packets missing just below them."""
    high, received_tail = _encode_ack_count(received)
    low, missing_tail = _encode_ack_count(missing)
    return bytes((high << 4 | low,)) + received_tail + missing_tail


def encode_select_lane(lane: int, *, varint: bool = False) -> bytes:
    """A select-lane frame; lane 0 and lanes from 8 on need the varint form, which the reference writes wrongly itself (G1)."""
    if not 0 <= lane < LANES_RECV_MAX:
        raise UsageError(f"a lane is 0 to {LANES_RECV_MAX - 1}, not {lane}")
    if 1 <= lane <= 7 and not varint:
        return bytes((0x88 | lane - 1,))
    return b"\x8f" + encode_varint(lane)


class SegmentEncoder:
    """Writes the headers of the segments of one payload, in order, and keeps the context their short forms refer to.

    A header is everything in front of the data. The `*_field_bytes` questions say how long a header would be, without its size
    byte, and change nothing.
    """

    __slots__ = ("_number", "_number_bits", "_position", "_position_bits", "lane")

    def __init__(self, number_bits: int = 32, position_bits: int = 48) -> None:
        if number_bits not in (16, 32) or position_bits not in _POSITION_BITS:
            raise UsageError(
                f"message numbers have 16 or 32 bits and positions 24, 32 or 48, not {number_bits} and {position_bits}"
            )
        self.lane = 0
        self._number: int | None = None
        self._position: int | None = None
        self._number_bits = number_bits
        self._position_bits = position_bits

    def select_lane(self, lane: int, *, varint: bool = False) -> bytes:
        """The select-lane frame; numbers and positions start anew behind it, also when the lane was selected already."""
        frame = encode_select_lane(lane, varint=varint)
        self.lane = lane
        self._number = None
        self._position = None
        return frame

    def unreliable_header(self, number: int, offset: int, last: bool, size: int, *, rest: bool = False) -> bytes:
        """Header of `size` bytes from `offset` on of message `number`; `rest` when nothing follows the data in the payload."""
        form, number_field = self._number_field(number)
        if not 0 <= offset < 1 << 32:
            raise UsageError(f"an offset has 32 bits, not {offset}")
        size_code, size_field = _size_field(size, rest)
        self._number = number
        lead = (0x20 if last else 0) | form << 4 | (0x08 if offset else 0) | size_code
        return bytes((lead,)) + number_field + (encode_varint(offset) if offset else b"") + size_field

    def reliable_header(self, position: int, size: int, *, rest: bool = False) -> bytes:
        """Header of `size` stream bytes from `position` on; `rest` when nothing follows the data in the payload."""
        form, position_field = self._position_field(position)
        size_code, size_field = _size_field(size, rest)
        self._position = position + size
        if self._number is not None:
            self._number += 1
        return bytes((0x40 | form << 3 | size_code,)) + position_field + size_field

    def unreliable_field_bytes(self, number: int, offset: int) -> int:
        """Size of the next unreliable header without its size byte."""
        return 1 + len(self._number_field(number)[1]) + (len(encode_varint(offset)) if offset else 0)

    def reliable_field_bytes(self, position: int) -> int:
        """Size of the next reliable header without its size byte."""
        return 1 + len(self._position_field(position)[1])

    def _number_field(self, number: int) -> tuple[int, bytes]:
        if not 0 < number <= MESSAGE_NUMBER_MAX:
            raise UsageError(f"a message number is 1 to 2^61 - 1, not {number}")
        if self._number is None:
            low = number & (1 << self._number_bits) - 1
            return int(self._number_bits == 32), low.to_bytes(self._number_bits >> 3, "little")
        step = number - self._number
        if step < 0:
            raise UsageError(f"message {number} cannot follow {self._number}: select the lane again")
        return (0, b"") if step == 1 else (1, encode_varint(step))

    def _position_field(self, position: int) -> tuple[int, bytes]:
        if position <= 0:
            raise UsageError(f"stream positions begin at 1, not {position}")
        if self._position is None:
            low = position & (1 << self._position_bits) - 1
            return _POSITION_BITS.index(self._position_bits), low.to_bytes(self._position_bits >> 3, "little")
        distance = position - self._position
        for form, bits in enumerate(_DISTANCE_BITS):
            if 0 <= distance < 1 << bits:
                return form, distance.to_bytes(bits >> 3, "little")
        raise UsageError(f"position {position} cannot follow {self._position}: select the lane again")


def _check_lane(lane: int, selected: int) -> None:
    if lane != selected:
        raise UsageError(f"a segment of lane {lane} needs LaneSelected({lane}) before it; lane {selected} is selected")


def _size_field(size: int, rest: bool) -> tuple[int, bytes]:
    if rest:
        return _REST, b""
    if size > EXPLICIT_SIZE_MAX:
        raise UsageError(f"a segment of {size} bytes must be the last frame; others have at most {EXPLICIT_SIZE_MAX}")
    return size >> 8, bytes((size & 0xFF,))


def _encode_ack_delay(delay_us: int | None) -> int:
    if delay_us is None or delay_us > ACK_DELAY_MAX_US:
        return _ACK_NO_DELAY
    if delay_us < 0:
        raise UsageError(f"an ack delay is 0 us or more, not {delay_us}")
    return delay_us >> _ACK_DELAY_UNIT_BITS


def _encode_ack_count(count: int) -> tuple[int, bytes]:
    if not 0 <= count <= ACK_COUNT_MAX:
        raise UsageError(f"an ack block covers 0 to {ACK_COUNT_MAX} packets, not {count}")
    return (count, b"") if count < 8 else (0x8 | count & 0x7, encode_varint(count >> 3))
