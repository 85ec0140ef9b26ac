"""One remote: where its session and its connection meet.

Session and connection do not know each other. The endpoint calls the parts; what only concerns this one remote is here: which
link is the present one, which request waits, how messages are framed, and what the application may know about it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from peergram.address import format_address, is_local, is_loopback
from peergram.config import CHANNELS_PER_SESSION_MAX
from peergram.connection.flow import Delivered, Flow
from peergram.connection.handshake import Established
from peergram.connection.room import ReceiveRoom, charge_of
from peergram.endpoint.inbox import Batch, Inbox
from peergram.endpoint.link import Link
from peergram.errors import End, UsageError, WireError
from peergram.events import ConnectionInfo, ConnectionState, InfoFlags, RealTimeStatus, SessionRequested, Unconfirmed
from peergram.identity import Identity
from peergram.sessions.session import Session
from peergram.sessions.states import SessionState
from peergram.timing import NEVER
from peergram.wire.certificates import CIPHER_NONE
from peergram.wire.channel_header import CHANNEL_HEADER_BYTES, decode_channel_header, encode_channel_header

_FAST_PING_MS: Final = 5
"""Makes a message from its fields at a third of what calling the class costs."""
_CHANNEL_MIN: Final = -(1 << 31)
_CHANNEL_MAX: Final = (1 << 31) - 1
_STATES: Final = {
    SessionState.IDLE: ConnectionState.NONE,
    SessionState.REQUESTED: ConnectionState.CONNECTING,
    SessionState.CONNECTING: ConnectionState.CONNECTING,
    SessionState.CONNECTED: ConnectionState.CONNECTED,
}


class Peer:
    """A remote under one identity (a second one, if two dials crossed, leads here as well)."""

    __slots__ = (
        "_routes",
        "aliases",
        "armed_at_us",
        "draining",
        "header_bytes",
        "identity",
        "is_raw",
        "last_end",
        "last_established",
        "last_remote",
        "late",
        "link",
        "messages_malformed",
        "pending",
        "room",
        "route_of",
        "session",
        "successor",
    )

    def __init__(self, identity: Identity, session: Session, room: ReceiveRoom, *, is_raw: bool) -> None:
        self.identity = identity
        self.session = session
        self.is_raw = is_raw
        self.header_bytes = 0 if is_raw else CHANNEL_HEADER_BYTES
        """What our framing adds to each message."""
        self.link: Link | None = None
        """The present connection."""
        self.pending: Link | None = None
        """A request that nobody accepted yet."""
        self.successor: Link | None = None
        """A newer connection of the same key, accepted, that has not proven yet that its hello was no replay."""
        self.room = room
        """What all his connections together may have us hold."""
        self.draining: list[Link] = []
        """Connections that ended with messages the application had no room for; it gets them as it reads."""
        self.late: Link | None = None
        """The connection that ended last, while messages may come that its goodbye overtook."""
        self.aliases: list[Identity] = []
        self.armed_at_us = NEVER
        self.last_end: End | None = None
        self.last_remote = ""
        self.last_established: Established | None = None
        self._routes: dict[int, tuple[bytes, int]] = {}
        self.route_of = self._routes.get
        """What `route` remembers of a channel, or None."""
        self.messages_malformed = 0
        """Messages too short for their header (M7)."""

    @property
    def is_forgettable(self) -> bool:
        """Whether nothing about him is worth keeping: no connection, no request, nothing unread, nothing failed."""
        return self.is_over and self.session.state == SessionState.IDLE

    @property
    def is_over(self) -> bool:
        """Whether only the memory of a session is left, failed or not."""
        present = self.link or self.pending or self.successor or self.draining
        return not present and not self.room.unread_messages

    def without_headers(self, unconfirmed: Unconfirmed) -> Unconfirmed:
        """The count in bytes of the application."""
        return Unconfirmed(unconfirmed.messages, unconfirmed.bytes - unconfirmed.messages * self.header_bytes)

    def request(self, link: Link) -> SessionRequested:
        """What the application is told of him who asks by this connection, or whose key it is asked about."""
        asks = link.connection.server_handshake or link.connection.stranger
        assert asks is not None
        return SessionRequested(
            identity=self.identity,
            proven_by=asks.proven_by,
            key_fingerprint=asks.peer_fingerprint,
            address="" if link.call is not None else format_address(link.remote),
            is_outgoing=link is self.link,
        )

    # --- messages ---

    def may_deliver(self, link: Link) -> bool:
        """Whether it is the turn of this connection: what an earlier one took comes first, but for late messages, which have no
        order."""
        if link is self.late and link not in self.draining:
            return True
        if self.draining:
            return link is self.draining[0]
        return link is not self.successor

    def route(self, channel: int) -> tuple[bytes, int]:
        """What goes before a message on this channel, and the lane it goes on; remembered, since every send asks.

        Raises UsageError for a channel that cannot be used.
        """
        route = self._routes.get(channel)
        if route is None:
            if not _CHANNEL_MIN <= channel <= _CHANNEL_MAX or (self.is_raw and channel):
                allowed = "0 with raw framing, else a number"
                raise UsageError(f"channel {channel}: use {allowed} from {_CHANNEL_MIN} to {_CHANNEL_MAX}")
            if len(self._routes) >= CHANNELS_PER_SESSION_MAX:
                self._routes.clear()
            channels = self.session.channels
            channels.note_used(channel)
            route = (b"", 0) if self.is_raw else (encode_channel_header(channel), channels.lane_of(channel))
            self._routes[channel] = route
        return route

    def forget_route(self, channel: int) -> None:
        """This channel was closed: the next send opens it again."""
        self._routes.pop(channel, None)

    def deliver(self, delivered: list[Delivered], inbox: Inbox, now_us: int) -> None:
        """Put complete messages into the inbox, by channel."""
        begin = self.header_bytes
        for _, reliable, numbers, messages, charge_bytes in delivered:
            header = messages[0][:begin]
            contents = [message.removeprefix(header) for message in messages]
            if len(header) == begin and sum(map(len, messages)) - sum(map(len, contents)) == begin * len(messages):
                self._deliver_alike(header, reliable, numbers, contents, charge_bytes, inbox, now_us)
                continue
            for number, message in zip(numbers, messages, strict=True):
                charge = charge_of(len(message))
                self._deliver_alike(message[:begin], reliable, (number,), [message[begin:]], charge, inbox, now_us)
        self.session.last_used_us = now_us

    def _deliver_alike(
        self,
        header: bytes,
        reliable: bool,
        numbers: Sequence[int],
        contents: list[bytes],
        charge_bytes: int,
        inbox: Inbox,
        now_us: int,
    ) -> None:
        """Messages that had the same header."""
        channel = self._channel_of(header)
        if channel is None:
            self.messages_malformed += len(contents)
            self.room.release(len(contents), charge_bytes)
            return
        inbox.add(channel, Batch(self, self.identity, reliable, numbers, contents, charge_bytes, now_us))

    def _channel_of(self, header: bytes) -> int | None:
        """The channel a header names, from now on open; None if the message is too short to have one."""
        if self.is_raw:
            return 0
        try:
            channel = decode_channel_header(header)
        except WireError:
            return None
        self.session.channels.note_used(channel)
        return channel

    # --- what the application may know ---

    def note_gone(self, link: Link) -> None:
        """Keep what the application may still ask for after the end."""
        self.last_end = link.connection.end
        self.last_remote = link.address
        self.last_established = link.connection.established

    def info(self) -> ConnectionInfo:
        """As of now, or of the end."""
        link = self.link or self.pending
        if link is not None:
            end, remote, established = link.connection.end, link.address, link.connection.established
        else:
            end, remote, established = self.last_end, self.last_remote, self.last_established
        failed = self.session.state == SessionState.FAILED
        handshake = link.connection.server_handshake if link is not None else None
        stranger = link.connection.stranger if link is not None else None
        claimed = established or handshake or stranger
        return ConnectionInfo(
            identity=claimed.peer_identity if claimed is not None else None,
            address=remote,
            state=self._state,
            end_reason=end.reason if failed and end is not None else 0,
            end_debug=end.debug if failed and end is not None else "",
            description=f"{'raw' if self.is_raw else 'messages'} {self._way} {self.identity}",
            flags=_flags(established, link),
            own_peer=claimed is not None and claimed.capabilities is not None,
            proven_by=claimed.proven_by if claimed is not None else "nothing",
            key_fingerprint=claimed.peer_fingerprint if claimed is not None else "",
            route=link.route if link is not None else "",
        )

    @property
    def _way(self) -> str:
        return "UDP" if self.link is None or self.link.call is None else f"P2P {self.link.route or 'no route'}"

    @property
    def _state(self) -> ConnectionState:
        """What the application is told."""
        if self.session.state == SessionState.FAILED:
            return self.session.failed_state
        if self.link is not None and self.link.connection.state == ConnectionState.FINDING_ROUTE:
            return ConnectionState.FINDING_ROUTE
        return _STATES[self.session.state]

    def status(self, now_us: int) -> RealTimeStatus:
        """How the connection is doing; zeros and None where there is none."""
        state = self._state
        flow = self.link.connection.flow if self.link is not None else None
        if self.link is None or flow is None:
            reliable, unreliable = self.link.connection.held_bytes if self.link is not None else (0, 0)
            return RealTimeStatus(
                state=state,
                ping_ms=None,
                quality_local=None,
                quality_remote=None,
                out_packets_per_s=0.0,
                out_bytes_per_s=0.0,
                in_packets_per_s=0.0,
                in_bytes_per_s=0.0,
                send_rate_bytes_per_s=0,
                pending_unreliable_bytes=unreliable,
                pending_reliable_bytes=reliable,
                sent_unacked_reliable_bytes=0,
                queue_time_us=None,
                max_jitter_us=None,
            )
        return _status_of(self.link, flow, state, now_us)


def loopback_info(identity: Identity) -> ConnectionInfo:
    """The session with oneself, which has no connection."""
    return ConnectionInfo(
        identity=identity,
        address="",
        state=ConnectionState.CONNECTED,
        end_reason=0,
        end_debug="",
        description=f"loopback {identity}",
        flags=InfoFlags.LOOPBACK_BUFFERS | InfoFlags.FAST,
        own_peer=True,
        proven_by="key",
        key_fingerprint="",
    )


def _status_of(link: Link, flow: Flow, state: ConnectionState, now_us: int) -> RealTimeStatus:
    rates = flow.stats.rates(now_us)
    max_jitter_us, flow.stats.max_jitter_us = flow.stats.max_jitter_us, None
    return RealTimeStatus(
        state=state,
        ping_ms=flow.round_trip.ping_ms,
        quality_local=flow.stats.local_quality(now_us),
        quality_remote=flow.stats.remote_quality,
        out_packets_per_s=rates.out_packets,
        out_bytes_per_s=rates.out_bytes,
        in_packets_per_s=rates.in_packets,
        in_bytes_per_s=rates.in_bytes,
        send_rate_bytes_per_s=flow.rate.rate_bytes_per_s,
        pending_unreliable_bytes=flow.pending_unreliable_bytes,
        pending_reliable_bytes=flow.pending_reliable_bytes,
        sent_unacked_reliable_bytes=flow.unacked_reliable_bytes,
        queue_time_us=link.connection.queue_time_us(now_us),
        max_jitter_us=max_jitter_us,
        pings_asked=flow.pings.asked,
        ping_answers=flow.pings.answers,
    )


def _flags(established: Established | None, link: Link | None) -> InfoFlags:
    flags = InfoFlags.NONE
    if established is None or not established.authenticated:
        flags |= InfoFlags.UNAUTHENTICATED
    if established is None or established.cipher == CIPHER_NONE:
        flags |= InfoFlags.UNENCRYPTED
    if link is not None and established is not None and _is_fast(link):
        flags |= InfoFlags.FAST
    if link is not None and link.route == "relayed":
        flags |= InfoFlags.RELAYED
    return flags


def _is_fast(link: Link) -> bool:
    """Loopback, or a local address that answers within 5 ms (the reference's rule; an unknown ping passes)."""
    if link.call is not None:
        return link.route == "local"
    if is_loopback(link.remote):
        return True
    ping_ms = link.connection.flow.round_trip.ping_ms if link.connection.flow is not None else None
    return is_local(link.remote) and (ping_ms is None or ping_ms <= _FAST_PING_MS)
