"""Every tunable of the library: unit, default, limit and reason.

`Config` is what a user may set; the module constants are what the protocol or our own safety fixes. Names follow the reference's
configuration values (its number in brackets) with the unit added. Limits that bound memory or work name the row of the threat
table they answer, so that a test can be found by it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final, Literal

from peergram.errors import UsageError

PROTOCOL_VERSION: Final = 13
"""What we speak; the reference 1.6 speaks the same."""
PROTOCOL_VERSION_MIN: Final = 8
"""Older peers are refused with reason 4006."""

DATAGRAM_BYTES_MAX: Final = 1300
"""Largest UDP payload sent, and largest plaintext accepted from a reference peer."""
DATAGRAM_BYTES_OWN_PEER_MAX: Final = 65_000
"""Largest UDP payload that an own peer may send us, and that the search for the path's MTU tries."""
DATAGRAM_BYTES_FLOOR: Final = 1_100
"""What packets shrink to where the path does not carry the protocol's size (E21)."""
PATH_MTU_PROBES_MAX: Final = 3
"""Probes of one size that must be lost before it counts as too large (RFC 8899, MAX_PROBES)."""
PATH_MTU_RAISE_US: Final = 600_000_000
"""When to look again whether more fits (RFC 8899, PMTU_RAISE_TIMER)."""
PATH_MTU_RETRY_US: Final = 60_000_000
"""The same after packets had vanished for their size."""
PATH_MTU_BLACK_HOLE_LOSSES: Final = 10
"""Packets larger than the floor that must be lost in a row before the path counts as narrower,"""
PATH_MTU_BLACK_HOLE_US: Final = 500_000
"""and for how long none may have arrived."""
DATAGRAM_BYTES_MIN: Final = 5
"""Shorter datagrams are ignored whatever they begin with."""
PADDED_BYTES_MIN: Final = 512
"""Requests that ask a stranger for an answer are at least this long, so that no answer is larger."""

MESSAGE_BYTES_MAX: Final = 524_288
"""Largest message a user may send."""
REFERENCE_MESSAGE_BYTES_MAX: Final = 524_283
"""Largest session message a reference peer takes: its limit less our five header bytes (G18)."""
STREAM_MESSAGE_BYTES_MAX: Final = 524_304
"""Largest message accepted inside a reliable stream, session header included (G18)."""
UNRELIABLE_SEND_BYTES_MAX: Final = 16_500
"""A larger unreliable message is sent reliably, as the reference does."""
UNRELIABLE_RECV_BYTES_MAX: Final = 26_000
"""An unreliable segment beyond this offset is ignored."""
UNRELIABLE_SEGMENT_BYTES_MAX: Final = 1300
"""A larger unreliable segment is ignored."""
UNRELIABLE_STORE_BYTES_MAX: Final = 262_144
"""Pieces of unfinished unreliable messages kept per lane; actual bytes, never claimed ones (E8)."""
UNRELIABLE_STORE_SEGMENTS_MAX: Final = 256
"""Pieces of unfinished unreliable messages kept per lane (E8); the reference keeps 20 (G23)."""
UNRELIABLE_STORE_AGE_US: Final = 5_000_000
"""An unfinished unreliable message older than this is given up (G23)."""

STREAM_SPAN_MAX: Final = 1_048_576 - 16_384
"""Stream bytes sent while the peer misses some: what his default receive buffer holds from the first unfinished message on."""
LANES_SEND_MAX: Final = 8
"""Lanes we send on: 0..7, since a reference sender and its logs break above (G1)."""
LANES_RECV_MAX: Final = 256
"""Lanes a peer may use: 0..255 on the wire."""
RELIABLE_GAPS_MAX: Final = 1_024
"""Holes kept in one reliable stream (E8); the reference keeps 30 when appending, 20 when splitting."""
ACK_GAPS_MAX: Final = 62
"""Runs of received packets kept for reporting, and so blocks in one ack frame (E13)."""
REPLAY_RANGES_MAX: Final = 1024
"""Runs of accepted packet numbers kept; the oldest run goes first and raises the floor (E6, E13)."""
REPLAY_REACH_PACKETS: Final = 8_192
"""How far below the highest packet number a late packet is still taken; a multiple of 64, counted from a block of 64 (E6)."""
PACKET_NUMBER_JUMP_MAX: Final = 0x7F00
"""A packet number further ahead than this ends the connection with 5001 (E13): the 16 bits sent would not tell one turn from the
next. The reference ends it at half of that; a process that was not scheduled for a second loses as many packets."""
PACKET_NUMBER_MAX: Final = 1 << 48
"""The connection ends long before a nonce could repeat (C6)."""
SEGMENTS_PER_PACKET_MAX: Final = 1300
"""More segments in one packet are not looked at (RecvMaxSegmentsPerPacket, 50; E9)."""
MESSAGE_NUMBER_STEP_MAX: Final = 10_000
"""Largest step between message numbers of a lane that a reference peer takes in every case (P7, G26)."""
MESSAGE_CHARGE_BYTES_MIN: Final = 256
"""What an unread message costs of the receive buffer at least: its bookkeeping (M1)."""

PACKETS_IN_FLIGHT_MAX: Final = 7_999
"""Packets neither acknowledged nor given up, fewer than 8 000; a reference peer's 16-bit numbers break at 32768 (P2). Data waits
then; answers go on, and the oldest packet is given up for each (E12, E14)."""
PACKET_REPORT_AGE_US: Final = 60_000_000
"""A packet nobody reported on for this long, several times what any path takes, is given up; so a peer who talks and never
acknowledges costs a minute's record of packets, not an hour's (E12)."""
PACKETS_UNREPORTED_MAX: Final = 1 << 19
"""Span of packet numbers a peer may have us report on at once; one that never gives up on old packets is ended (E10, E13)."""
LOST_PACKETS_KEPT: Final = 640
"""Packets reported missing that a late report may still confirm (E10); more would double the table that finds them."""
BURST_PACKETS: Final = 16
"""Small messages are sent once they fill this many packets, or when the oldest has waited for `nagle_us`: one call carries them
all."""
BURST_BYTES_MAX: Final = BURST_PACKETS * DATAGRAM_BYTES_MAX
"""The same in bytes, where packets are larger."""
PACKETS_PER_TRANSMIT_MAX: Final = 44
"""Packets handed to the socket at once: one UDP_SEGMENT call of at most 65507 bytes."""

ACK_DELAY_US: Final = 50_000
"""Reliable data is acknowledged within this time (the reference's promise, and what its senders expect)."""
ACK_DELAY_OWN_PEER_US: Final = 10_000
"""The same toward our own peers, whose senders pace by acknowledgements."""
ACK_EVERY_PACKETS: Final = 64
"""Packets with reliable data after which an acknowledgement goes at once."""
NACK_DELAY_US: Final = 3_000
"""How long a missing packet may merely be late, at first."""
NACK_DELAY_MAX_US: Final = 25_000
"""The same where packets were seen to overtake each other."""
ANSWER_INTERVAL_MIN_US: Final = 1_000
ANSWER_INTERVAL_MAX_US: Final = 10_000
"""Between two answers given at once because the peer, or somebody on the path, asked for them: a quarter of the round trip within
these bounds (E14, G19). A sender whose window is full asks twice a round trip and must not wait; above the upper bound an
ordinary acknowledgement would be due anyway."""
CONTROL_REPLIES_MAX: Final = 16
"""Packets outside the encryption that one connection wants to send; the newest win (E14)."""

MESSAGE_HEADROOM_BYTES: Final = 16
"""A send buffer holds one message of its size with the header of the messages layer."""
CONNECT_OK_INTERVAL_US: Final = 100_000
"""Between two repeats of a ConnectOK for one client (E14)."""
CONNECT_RETRY_US: Final = 500_000
"""Between two challenge requests."""
BAD_ANSWERS_MAX: Final = 3
"""The same failing answer in so many retry intervals is what the server says, and not damage on the way (E22)."""
CHALLENGE_TICK_US: Final = 1 << 20
"""Unit of the coarse time inside a challenge."""
CHALLENGE_TICKS_MAX: Final = 3
"""A challenge is good for 3 to 4 ticks."""
CLAIM_WAIT_US: Final = 250_000
CLAIM_WAIT_OWN_PEER_US: Final = 2_000_000
"""How long an unauthenticated close of a live connection must stay uncontradicted; own peers say goodbye inside the encryption,
so
from them it means little (E16)."""
PIECE_CHARGE_BYTES: Final = 128
"""What a piece kept by itself costs beside its bytes (E8)."""
KEEPALIVE_US: Final = 10_000_000
"""Silence after which the peer is asked for a sign of life."""
KEEPALIVE_DIALER_US: Final = 11_000_000
"""The same on the side that dialed: of two silent sides one asks, or each exchange would happen twice. It is the called side,
which may have thousands of them and asks all whose time has come together."""
KEEPALIVE_SLOT_US: Final = 100_000
"""Questions to silent peers wait for the end of such a slot, so that thousands of idle sessions wake a program ten times a second
rather than a thousand times."""
URGENT_PING_US: Final = 200_000
"""Between two such questions while answers are missing."""
REPLY_TIMEOUT_MAX_US: Final = 1_250_000
REPLY_TIMEOUT_MARGIN_US: Final = 250_000
REPLY_TIMEOUT_DELAYED_US: Final = 200_000
REPLY_FAILURES_MIN: Final = 4
"""Unanswered questions before silence can end a connection."""
FIN_WAIT_US: Final = 5_000_000
"""How long an ended connection still answers its peer."""
NO_CONNECTION_INTERVAL_US: Final = 250_000
"""Between two unauthenticated answers to strangers, in all (E14)."""
REDIAL_QUIET_US: Final = 26_000_000
"""A reference server may hold an old connection of a local port this long; until then a new dial takes a fresh port."""

STRANGER_REPLIES_MAX: Final = 64
"""Answers to strangers that wait to be sent; the newest win (E14)."""
CLOSE_DEBUG_BYTES_MAX: Final = 127
"""Text sent and kept with a close."""
CLOSE_REPLIES_MAX: Final = 64
"""Answers an ended connection gives its peer before it falls silent (E14)."""

RTO_MIN_US: Final = 30_000
RTO_MAX_US: Final = 2_000_000
RTO_INITIAL_US: Final = 1_000_000
"""Retransmission time-out: RFC 6298 with a granularity of 1 ms and these bounds."""

STATS_INTERVAL_US: Final = 5_000_000
"""Rates and quality are averaged over this time and then kept for the next one."""
STATS_INSTANT_US: Final = 20_000_000
STATS_INSTANT_FORCED_US: Final = 30_000_000
STATS_LIFETIME_US: Final = 120_000_000
STATS_LIFETIME_FORCED_US: Final = 140_000_000
"""When a report goes to the peer: with traffic, and without."""
PING_MS_MAX: Final = 2_000
"""A slower sample says more about a stalled process than about the network."""

CONNECTIONS_MAX: Final = 16_384
"""Connections of one endpoint, ended ones that still answer included; the one that ended first gives way to a new one (E25)."""
ENDED_SESSIONS_MAX: Final = 4_096
"""Ended sessions remembered for questions until their idle time; beyond, the oldest is forgotten, as if it were closed (E25)."""
REQUEST_REPEAT_US: Final = 3_000_000
"""Between two announcements of a stranger who keeps asking."""
PENDING_REQUESTS_MAX: Final = 256
"""Strangers waiting to be accepted; the oldest gives way (M4). Of each only the hello is kept, whose fields have limits."""
PENDING_REQUESTS_PER_HOST_MAX: Final = 16
"""Strangers of one IP address waiting to be accepted (E19)."""
ENDED_CONNECTIONS_UNREAD_MAX: Final = 16
"""Ended connections of one peer whose last messages wait for the application; until it reads, he gets no new one (M1)."""
EVENTS_MAX: Final = 1_024
"""Undelivered callbacks kept; per peer the newest state wins."""
CHANNELS_PER_SESSION_MAX: Final = 4_096
"""Channels remembered as open per session; others still carry messages (M2)."""

SESSION_IDLE_US: Final = 180_000_000
LOG_INTERVAL_US: Final = 1_000_000
"""One log line per kind and second (E15)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a user may set; every instance is checked when made. Times are microseconds, sizes bytes, rates bytes per second."""

    timeout_initial_us: int = 10_000_000
    """Whole time a connection may take to come up (TimeoutInitial, 24)."""
    timeout_connected_us: int = 10_000_000
    """Silence, with questions unanswered, that ends a connection (TimeoutConnected, 25)."""
    send_buffer_bytes: int = 524_288
    """Data queued and not yet sent, all lanes together; more is refused with LimitExceeded (SendBufferSize, 9)."""
    recv_buffer_bytes: int = 1_048_576
    """Unread data of one peer (RecvBufferSize, 47; M1)."""
    recv_buffer_messages: int = 1_000
    """Unread messages of one peer (RecvBufferMessages, 48; M1)."""
    recv_message_bytes_max: int = MESSAGE_BYTES_MAX
    """Larger messages end the connection with 5002 (RecvMaxMessageSize, 49)."""
    recv_segments_per_packet_max: int = SEGMENTS_PER_PACKET_MAX
    """RecvMaxSegmentsPerPacket (50)."""
    rate: Literal["auto", "fixed"] = "auto"
    """`auto`: congestion control; `fixed`: the reference's rule, `send_rate_bytes` whatever happens."""
    send_rate_bytes: int = 262_144
    """Bytes of UDP payload per second under `rate="fixed"` (SendRateMin = SendRateMax, 10 and 11)."""
    nagle_us: int = 5_000
    """How long a small message waits for company (NagleTime, 12)."""
    no_delay_queue_us: int = 200_000
    """A NoDelay message is dropped when it would wait longer than this (the header's promise, G9)."""
    datagram_bytes: int = DATAGRAM_BYTES_MAX
    """Largest UDP payload sent, to a reference peer and at first (MTU_PacketSize, 32)."""
    path_mtu_bytes_max: int = DATAGRAM_BYTES_OWN_PEER_MAX
    """Up to which UDP payload the path to an own peer is searched for what it carries; from `datagram_bytes` = 1300 only."""
    unencrypted: int = 0
    """Ciphers offered: 0 AES only, 1 AES or none, 2 none or AES, 3 none (Unencrypted, 34). Anything but 0 is for tests."""
    send_time_since_previous: bool = False
    """Whether packets tell the time since the one before, for the peer's jitter (SendTimeSincePreviousPacket, 59)."""
    framing: Literal["messages", "raw"] = "messages"
    """`messages`: each message carries its channel, as the messages API does. `raw`: no header, channel 0 only, for reference
    programs
    that use plain connections."""
    trust: Literal["open", "key"] = "open"
    """`open`: any self-made certificate connects and is flagged unauthenticated. `key`: only `gen:` identities that are their
    own key."""
    linger_us: int = 500_000
    """How long reliable data is flushed in the background after `close_session` (0: not at all, as the reference)."""
    session_idle_us: int = SESSION_IDLE_US
    """A session without a message either way ends after this time, without a callback."""
    pending_requests_max: int = PENDING_REQUESTS_MAX
    """Strangers waiting to be accepted (M4)."""

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not isinstance(value, int) or not low <= value <= high:
                raise UsageError(f"config: {name} must be a whole number from {low} to {high}, not {value!r}")
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise UsageError(f"config: {name} must be one of {', '.join(allowed)}, not {getattr(self, name)!r}")


_RANGES: Final[dict[str, tuple[int, int]]] = {
    "timeout_initial_us": (1_000, 3_600_000_000),
    "timeout_connected_us": (1_000, 3_600_000_000),
    "send_buffer_bytes": (4_096, 268_435_456),
    "recv_buffer_bytes": (4_096, 268_435_456),
    "recv_buffer_messages": (2, 268_435_456),
    "recv_message_bytes_max": (64, 268_435_456),
    "recv_segments_per_packet_max": (1, SEGMENTS_PER_PACKET_MAX),
    "send_rate_bytes": (1_024, 1_073_741_824),
    "nagle_us": (0, 20_000),
    "no_delay_queue_us": (0, 10_000_000),
    "datagram_bytes": (200, DATAGRAM_BYTES_MAX),
    "path_mtu_bytes_max": (0, DATAGRAM_BYTES_OWN_PEER_MAX),
    "unencrypted": (0, 3),
    "linger_us": (0, 60_000_000),
    "session_idle_us": (1_000_000, 86_400_000_000),
    "pending_requests_max": (1, 65_536),
}
_CHOICES: Final[dict[str, tuple[str, ...]]] = {
    "rate": ("auto", "fixed"),
    "trust": ("open", "key"),
    "framing": ("messages", "raw"),
}

assert set(_RANGES) | set(_CHOICES) | {"send_time_since_previous"} == {field.name for field in fields(Config)}
