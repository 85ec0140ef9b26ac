"""All remotes behind one set of sockets: the core as drivers and the simulator see it.

Datagrams are given to the connection they name, commands to the peer they name; what the parts then have to send, to say and to
wait for is collected here. Nothing in it does I/O or reads a clock; see docs/architecture.md for how to drive it.

Dials leave from the listening socket, so when two of our own peers dial each other, each sees the other's request come from the
address it dials: the dial with the larger connection id goes on, the other side turns into its acceptor, and there is one
session.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from peergram.address import Address, format_address
from peergram.config import (
    CHALLENGE_TICK_US,
    CHALLENGE_TICKS_MAX,
    DATAGRAM_BYTES_MIN,
    ENDED_CONNECTIONS_UNREAD_MAX,
    ENDED_SESSIONS_MAX,
    MESSAGE_BYTES_MAX,
    PADDED_BYTES_MIN,
    PENDING_REQUESTS_PER_HOST_MAX,
    REFERENCE_MESSAGE_BYTES_MAX,
    Config,
)
from peergram.connection.connection import Connection, Ended, Opened
from peergram.connection.handshake import self_made_credentials
from peergram.connection.handshake_client import ClientHandshake
from peergram.connection.handshake_server import ServerHandshake
from peergram.connection.handshake_signaled import SignaledClientHandshake, SignaledServerHandshake, check_signaled_request
from peergram.connection.peer_checks import Failed
from peergram.connection.room import ReceiveRoom, charge_of
from peergram.crypto.keys import SigningKey, fingerprint
from peergram.endpoint.call import Call
from peergram.endpoint.calls import Calls
from peergram.endpoint.event_queue import EventQueue
from peergram.endpoint.inbox import Batch, Inbox, Release
from peergram.endpoint.link import CALLED, NOWHERE, Link
from peergram.endpoint.link_table import LinkTable
from peergram.endpoint.memory import Memory
from peergram.endpoint.peer import Peer, loopback_info
from peergram.endpoint.schedule import Schedule
from peergram.endpoint.sockets import SocketTable
from peergram.endpoint.strangers import Strangers
from peergram.errors import ClosedError, End, EndReason, Result, UsageError, WireError
from peergram.events import (
    ConnectionInfo,
    ConnectionState,
    DroppedDatagrams,
    Event,
    Message,
    RealTimeStatus,
    SendFlags,
    SessionFailed,
    SessionRequested,
    Unconfirmed,
)
from peergram.identity import Identity
from peergram.io_requests import CallNote, InterfaceAddress, IoRequest, Transmit
from peergram.routes.candidates import Base
from peergram.routes.gather import CandidatePolicy, Gatherer
from peergram.routes.ice_servers import IceServers
from peergram.sessions.session import Session
from peergram.sessions.states import SessionState
from peergram.signaling.rendezvous import MESSAGES_VIRTUAL_PORT
from peergram.signaling.rendezvous_rules import symmetric_outcome
from peergram.timing import Deadline
from peergram.wire.control import (
    ChallengeRequest,
    ConnectionClosed,
    ConnectRequest,
    ControlMessage,
    NoConnection,
    decode_control,
)
from peergram.wire.signals import Signal, decode_signal
from peergram.wire.stun import Class, Method, decode_stun, looks_like_stun

_RELIABLE: Final = int(SendFlags.RELIABLE)
_NO_DELAY: Final = int(SendFlags.NO_DELAY)
_AUTO_RESTART: Final = int(SendFlags.AUTO_RESTART_BROKEN_SESSION)
_OK: Final = Result.OK
_SESSION_CONNECTED: Final = SessionState.CONNECTED
_RUN_MESSAGES: Final = 64
"""Of many messages handed over together so many are looked at in one go: what does not fit as a whole is looked at singly."""
_SOCKET_WAIT_US: Final = 10_000
_DOUBT_US_MIN: Final = 20_000
_CHALLENGE_AGE_US_MAX: Final = (CHALLENGE_TICKS_MAX + 1) * CHALLENGE_TICK_US
_CHANNEL_MIN: Final = -(1 << 31)
_CHANNEL_MAX: Final = (1 << 31) - 1
_REPLACED: Final = End(EndReason.MISC_GENERIC, "The peer opened a new session in place of this one.", by_peer=True)


@dataclass(frozen=True, slots=True)
class Caller:
    """A stranger whose request passed the checks: over plain UDP from an address, or by signal."""

    handshake: ServerHandshake | SignaledServerHandshake
    socket_id: int = CALLED
    remote: Address = NOWHERE
    signal: Signal | None = None


class Endpoint:
    """Sends messages to identities and receives theirs."""

    def __init__(
        self,
        identity: Identity,
        *,
        config: Config | None = None,
        entropy: Callable[[int], bytes],
        key: SigningKey | None = None,
        wall_offset_us: int = 0,
        ice_servers: IceServers | None = None,
        remembered: Iterable[tuple[Identity, int]] = (),
    ) -> None:
        """`entropy(n)` gives n unpredictable bytes; `wall_offset_us` is Unix time minus the clock of `now_us`.

        `ice_servers`: what helps to find ways to peers (may be none of them), for an endpoint whose driver carries signals; None
        for one that knows peers by address only. `remembered`: peers and connection ids that `poll_memory` of an earlier run
        named and did not take back.
        """
        self.identity = identity
        self.config = config or Config()
        self.wall_offset_us = wall_offset_us
        self.is_closed = False
        self.dropped = DroppedDatagrams()
        """Datagrams that came to nothing, by reason."""
        self._entropy = entropy
        self._credentials = self_made_credentials(identity, key or SigningKey.generate(entropy), entropy(16))
        self._sockets = SocketTable()
        self._strangers = Strangers(self._credentials, self.config, entropy, self.dropped)
        self._schedule = Schedule()
        self._inbox = Inbox()
        self._events = EventQueue()
        self._peers: dict[Identity, Peer] = {}
        self._links = LinkTable(entropy)
        self._requests: dict[Link, None] = {}
        """Requests that wait for the application, oldest first."""
        self._ended_links: dict[Link, None] = {}
        """Connections that ended and still answer, in the order of their ends."""
        self._ended_peers: dict[Peer, None] = {}
        """Those whose session ended, in that order; some may have a new one since."""
        self._flushing: dict[Identity, list[Link]] = {}
        """Connections of sessions that we closed, until they have sent what they owe."""
        self._framing: dict[Identity, bool] = {}
        self._loopback_number = 0
        self._calls: Calls | None = None
        """Peers by identity; None without signaling."""
        if ice_servers is not None:
            gatherer = Gatherer(
                servers=ice_servers,
                policy=CandidatePolicy(self.config.candidates, port_mapping=self.config.port_mapping),
                entropy=entropy,
                next_id=self._sockets.new_id,
                config=self.config,
            )
            self._calls = Calls(identity, gatherer, self._schedule, self._events, entropy, self.config, Memory(remembered))

    # --- sockets ---

    def listen(self, bind: Address) -> int:
        """Be reachable for strangers at this local address (port 0: any); the id of the socket the driver is asked for."""
        self._check_open()
        return self._sockets.listen(bind)

    def tell_route_changes(self) -> None:
        """From now on, events say when the way to a peer that was called by identity changes."""
        if self._calls is not None:
            self._calls.tells_routes = True

    @property
    def knows_identities(self) -> bool:
        """Whether peers can be reached by identity."""
        return self._calls is not None

    @property
    def key_fingerprint(self) -> str:
        """Of our certificate's key, as peers see it."""
        return fingerprint(self._credentials.signing_key.public_bytes)

    @property
    def local_addresses(self) -> list[Address]:
        """Where it listens, once the driver has opened the sockets."""
        return self._sockets.local_addresses

    def poll_socket_request(self) -> IoRequest | None:
        """The next thing the driver must open, close or look up."""
        request = self._sockets.poll_request()
        if request is None and self._calls is not None:
            return self._calls.gatherer.poll_request()
        return request

    def handle_socket_opened(self, socket_id: int, local: Address, now_us: int) -> None:
        """That socket is bound to `local`."""
        if not self._sockets.knows(socket_id):
            if self._calls is not None:
                self._calls.gatherer.handle_socket_opened(socket_id, local, now_us)
                self._schedule.is_touched = True
            return
        self._sockets.handle_opened(socket_id, local)
        for link in self._links:
            if link.socket_id == socket_id:
                self._schedule.make_ready(link)

    def handle_socket_failed(self, socket_id: int, text: str, now_us: int) -> None:
        """That socket cannot be had, or broke; connections that need it end, or find another way."""
        if not self._sockets.knows(socket_id):
            if self._calls is not None:
                self._calls.gatherer.handle_socket_failed(socket_id, text, now_us)
                self._schedule.is_touched = True
            return
        self._sockets.handle_failed(socket_id)
        for link in [link for link in self._links if link.socket_id == socket_id]:
            link.connection.fail(EndReason.LOCAL_NETWORK_CONFIG, text, now_us)
            self._after(link, now_us)

    # --- what else the driver brings, for peers by identity ---

    def handle_stream_opened(self, stream_id: int, now_us: int) -> None:
        """That stream is connected."""
        if self._calls is not None:
            self._calls.gatherer.handle_stream_opened(stream_id, now_us)
            self._schedule.is_touched = True

    def handle_stream_data(self, stream_id: int, data: bytes, now_us: int) -> None:
        """Take what came on a stream; never raises, whatever it is."""
        if self._calls is not None:
            for base, remote, datagram in self._calls.gatherer.handle_stream_data(stream_id, data, now_us):
                self._handle_relayed(self._calls, base, remote, datagram, now_us)
            self._schedule.is_touched = True

    def handle_stream_closed(self, stream_id: int, text: str, now_us: int) -> None:
        """That stream is gone, or could not be had."""
        if self._calls is not None:
            self._calls.gatherer.handle_stream_closed(stream_id, text, now_us)
            self._schedule.is_touched = True

    def handle_name_resolved(self, name: str, addresses: list[str], now_us: int) -> None:
        """What a host name stands for; nothing if it could not be found out."""
        if self._calls is not None:
            self._calls.gatherer.handle_name_resolved(name, addresses, now_us)
            self._schedule.is_touched = True

    def handle_interfaces(self, addresses: list[InterfaceAddress], now_us: int) -> None:
        """Every address of this machine, now or since a change."""
        if self._calls is not None:
            self._calls.handle_interfaces(addresses, now_us)

    def poll_signal(self) -> tuple[Identity, bytes] | None:
        """The next signal for the signaling service: for whom, and what. Drain `poll_transmit` first."""
        return self._calls.poll_signal() if self._calls is not None else None

    def poll_memory(self) -> CallNote | None:
        """What the next run of this program should be told if this one ends without a word. Ask before signals go out."""
        return self._calls.memory.poll() if self._calls is not None else None

    def handle_signal(self, sender: Identity | None, blob: bytes, now_us: int) -> None:
        """Take a signal; `sender` is whom the service names, None if it cannot tell. Never raises, whatever it is."""
        if self._calls is None or self.is_closed:
            return
        try:
            signal = decode_signal(blob)
            peer = _speaker_of(signal, sender)
        except WireError:
            self.dropped.malformed += 1
            return
        # Who is named by an address is reached there, and nobody else speaks for it.
        if (sender is not None and sender != peer) or peer == self.identity or peer.ip_address is not None:
            self.dropped.refused += 1
            return
        call = self._calls.find(peer, signal)
        if call is not None:
            self._calls.handle_signal(call, signal, now_us)
            self._after(call.link, now_us)
        elif self._calls.handle_old_run_over(peer, signal, now_us):
            return
        elif signal.connect_request is not None and signal.to_connection_id is None and signal.from_connection_id:
            self._handle_signaled_request(self._calls, peer, signal, now_us)
        else:
            self.dropped.unknown += 1
            known = self._peers.get(peer)
            if known is not None and known.link is not None:
                # Before we had anything with him, he would learn that we are here.
                self._calls.deny(peer, signal)

    # --- the five verbs ---

    def handle_datagrams(self, socket_id: int, remote: Address, data: bytes, segment_bytes: int, now_us: int) -> None:
        """Take datagrams of one source, laid end to end; never raises, whatever they are."""
        if segment_bytes <= 0:
            self.dropped.short += 1
            return
        link = self._links.for_data(socket_id, remote, data) if data and data[0] >= 0x80 else None
        if link is not None:
            others = link.connection.handle_datagrams(data, segment_bytes, now_us)
            if link.call is not None:
                self._note_way(link, link.call, Base(socket_id), remote, now_us)
            self._after(link, now_us)
            for datagram in others:
                self._handle_datagram(socket_id, remote, datagram, now_us)
            return
        for begin in range(0, len(data), segment_bytes):
            self._handle_datagram(socket_id, remote, data[begin : begin + segment_bytes], now_us)

    def handle_timeout(self, now_us: int) -> None:
        """Do everything that is due."""
        while (owner := self._schedule.pop_due(now_us)) is not None:
            if isinstance(owner, Link):
                owner.connection.handle_timeout(now_us)
                self._after(owner, now_us)
            elif isinstance(owner, Peer):
                self._handle_idle(owner, now_us)
            elif owner is self._events:
                self._events.handle_timeout(now_us)
                self._schedule.arm(self._events, self._events.poll_timeout())
            elif self._calls is not None:
                if isinstance(owner, Call):
                    self._calls.handle_timeout(owner, now_us)
                else:
                    self._calls.handle_gatherer_timeout(now_us)

    def poll_transmit(self, now_us: int) -> Transmit | None:
        """The next datagrams to send; connections take turns."""
        reply = self._strangers.poll_transmit()
        if reply is not None:
            return reply
        if self._calls is not None and (asked := self._calls.poll_transmit(now_us)) is not None:
            return asked
        while (link := self._schedule.next_ready()) is not None:
            if link.call is not None:
                if (transmit := self._poll_call(link, link.call, now_us)) is not None:
                    return transmit
                continue
            if not self._sockets.is_open(link.socket_id):
                self._wait_for_socket(link, now_us)
                continue
            connection = link.connection
            packets = connection.poll_transmit(now_us)
            if not packets:
                self._schedule.arm(link, connection.poll_timeout(now_us))
                continue
            if connection.is_drained:
                self._schedule.arm(link, connection.poll_timeout(now_us))
            else:
                self._schedule.make_ready(link)
            return Transmit(link.socket_id, link.remote, packets, connection.is_probe(packets))
        self._schedule.is_touched = False
        if self.is_closed and self._calls is not None and not self._calls.is_closed:
            # Only now, since sockets and relays had to take the last words of all connections.
            self._calls.close(now_us)
            return self._calls.poll_transmit(now_us)
        return None

    def _poll_call(self, link: Link, call: Call, now_us: int) -> Transmit | None:
        """What a call has to send, by the way it takes now; without one it is lost, as on any network."""
        connection = link.connection
        packets = connection.poll_transmit(now_us)
        if not packets or call.way is None or connection.is_drained:
            self._schedule.arm(link, connection.poll_timeout(now_us))
        else:
            self._schedule.make_ready(link)
        if not packets or call.way is None or self._calls is None:
            return None
        base, remote = call.way
        routed = self._calls.route(base, remote, packets, now_us, is_probe=connection.is_probe(packets))
        # A relay that cannot take them yet may have something to ask its server.
        return routed or self._calls.poll_transmit(now_us)

    def _note_way(self, link: Link, call: Call, base: Base, remote: Address, now_us: int) -> None:
        """If what came was authentic, the way it came by works."""
        flow = link.connection.flow
        if self._calls is not None and flow is not None and flow.liveness.last_heard_us == now_us:
            self._calls.note_data(call, base, remote, now_us)

    def _wait_for_socket(self, link: Link, now_us: int) -> None:
        """What a link would send waits until its socket is open; where the socket is gone, it is lost as on any network."""
        if self._sockets.is_gone(link.socket_id):
            while link.connection.poll_transmit(now_us):
                pass
        deadline = link.connection.poll_timeout(now_us)
        if deadline is not None and deadline.at_us <= now_us:
            deadline = Deadline(now_us + _SOCKET_WAIT_US, deadline.reason)
        self._schedule.arm(link, deadline)

    def poll_timeout(self) -> Deadline | None:
        """When to call `handle_timeout` next, and why. Drain `poll_transmit` first."""
        return self._schedule.poll_timeout()

    @property
    def needs_service(self) -> bool:
        """Whether a command left something to drain or a new deadline; lets a driver skip the drain after most sends.

        False once `poll_transmit` returned None; whoever sleeps asks `poll_timeout` first."""
        return self._schedule.is_touched

    def poll_event(self) -> Event | None:
        """The next thing the application should know."""
        return self._events.poll()

    # --- commands ---

    def send_message(self, to: Identity, data: bytes, flags: int, channel: int, now_us: int) -> Result:
        """Send to an identity: opens a session, or accepts his. The result is about queueing; see `errors.Result`.

        Raises UsageError for a channel that is not a signed 32-bit number, ClosedError after `close`.
        """
        size = len(data)
        peer = self._peers.get(to)
        link = peer.link if peer is not None else None
        if (
            peer is None
            or link is None
            or peer.session.state is not _SESSION_CONNECTED
            or size > REFERENCE_MESSAGE_BYTES_MAX
            or flags & _NO_DELAY
            or self.is_closed
        ):
            result = self._prepare_send(to, size, flags, channel, now_us)
            if result is not _OK:
                return result
            if to == self.identity:
                return self._send_to_self(data, flags, channel, now_us)
            peer = self._peers[to]
            link = peer.link
            assert link is not None
        prefix, lane = peer.route_of(channel) or peer.route(channel)
        result = link.connection.send_message(prefix + data, flags, lane, now_us)
        if result is _OK:
            peer.session.last_used_us = now_us
        flow = link.connection.flow
        # Most sends find that the link is woken in time anyway.
        if flow is None or not (
            flow.is_blocked
            or (link.armed_at_us <= flow.flush_at_us > now_us and flow.queued_bytes < flow.burst_bytes and size < flow.full_bytes)
        ):
            self._plan_transmit(link, size, now_us)
        return result

    def send_messages(self, to: Identity, messages: Sequence[bytes], flags: int, channel: int, now_us: int) -> tuple[int, Result]:
        """Send several messages in order, until one is refused: how many were taken, and what `send_message` says of the last."""
        sent, result = 0, _OK
        while sent < len(messages):
            taken = self._send_run(to, messages[sent : sent + _RUN_MESSAGES], flags, channel, now_us)
            if not taken:
                result = self.send_message(to, messages[sent], flags, channel, now_us)
                if result is not _OK:
                    break
                taken = 1
            sent += taken
        return sent, result

    def _send_run(self, to: Identity, messages: Sequence[bytes], flags: int, channel: int, now_us: int) -> int:
        """Queue messages the quick way; how many, 0 if `send_message` must look at the first one."""
        peer = self._peers.get(to)
        link = peer.link if peer is not None else None
        if peer is None or link is None or peer.session.state is not _SESSION_CONNECTED or self.is_closed or len(messages) < 2:
            return 0
        prefix, lane = peer.route_of(channel) or peer.route(channel)
        size = max(map(len, messages))
        if size > REFERENCE_MESSAGE_BYTES_MAX:
            return 0
        taken = link.connection.send_run(prefix, messages, flags, lane, now_us)
        if taken:
            peer.session.last_used_us = now_us
            self._plan_transmit(link, size, now_us)
        return taken

    def _prepare_send(self, to: Identity, size: int, flags: int, channel: int, now_us: int) -> Result:
        """What is seldom the case before a send: look at everything, and have a session to send in; OK if it may go."""
        self._check_open()
        if size > MESSAGE_BYTES_MAX or (flags & _RELIABLE and flags & _NO_DELAY):
            return Result.INVALID_PARAM
        if not _CHANNEL_MIN <= channel <= _CHANNEL_MAX:
            raise UsageError(f"channel {channel}: use a whole number from {_CHANNEL_MIN} to {_CHANNEL_MAX}")
        peer = self._peers.get(to)
        if size > REFERENCE_MESSAGE_BYTES_MAX and not self._takes_largest(to, peer):
            return Result.LIMIT_EXCEEDED
        if peer is None or peer.session.state is not _SESSION_CONNECTED or peer.link is None:
            return self._prepare_session(to, flags, channel, now_us) or _OK
        return _OK

    def _takes_largest(self, to: Identity, peer: Peer | None) -> bool:
        """Whether a message of the largest size reaches this peer; a reference peer has no room for our header beside it."""
        is_raw = self._framing.get(to, self.config.framing == "raw") if peer is None else peer.is_raw
        return is_raw or to == self.identity or self._is_own_peer(peer.link if peer is not None else None)

    def _plan_transmit(self, link: Link, size: int, now_us: int) -> None:
        """After a message was queued: send now, or wait for company; most calls find that the link is woken in time anyway."""
        flow = link.connection.flow
        if flow is None:
            self._schedule.make_ready(link)
        elif flow.is_blocked:
            return
        elif flow.flush_at_us <= now_us or flow.queued_bytes >= flow.burst_bytes or size >= flow.full_bytes:
            self._schedule.make_ready(link)
        elif link.armed_at_us > flow.flush_at_us:
            self._schedule.arm(link, Deadline(flow.flush_at_us, "nagle"))

    def receive_messages(self, channel: int, max_messages: int, now_us: int) -> list[Message]:
        """The oldest unread messages of a channel, from all peers, at most `max_messages` (> 0, else UsageError)."""
        if max_messages <= 0:
            raise UsageError(f"max_messages must be at least 1, not {max_messages}")
        messages, released = self._inbox.take(channel, max_messages)
        if released:
            self._release(released, now_us)
        return messages

    def accept_session(self, identity: Identity, now_us: int) -> bool:
        """Let a stranger in; True also for a live session, False if there is nothing to accept."""
        self._check_open()
        peer = self._peers.get(identity)
        if peer is None:
            return False
        peer.session.last_used_us = now_us
        if identity == self.identity:
            return True
        if peer.session.state == SessionState.REQUESTED:
            self._accept_pending(peer, now_us)
        return peer.session.state in (SessionState.CONNECTING, SessionState.CONNECTED)

    def close_session(self, identity: Identity, now_us: int) -> bool:
        """End the session and throw away unread messages; False if there is none.

        Reliable data already sent goes on in the background for `config.linger_us`; what is unconfirmed after that is reported.
        """
        self._check_open()
        peer = self._peers.get(identity)
        if peer is None or (peer.is_forgettable and identity != self.identity):
            return False
        self._close_peer(peer, End(EndReason.SESSION_CLOSED, "CloseSessionWithUser"), now_us, linger_us=self.config.linger_us)
        return True

    def close_channel(self, identity: Identity, channel: int, now_us: int) -> bool:
        """Close one channel and throw away its unread messages; the last one closes the session. False if it is not open."""
        self._check_open()
        peer = self._peers.get(identity)
        if peer is None or not peer.session.channels.close(channel):
            return False
        peer.forget_route(channel)
        self._discard_unread(peer, channel, now_us)
        if not peer.session.channels.any_open:
            self.close_session(identity, now_us)
        return True

    def flush(self, identity: Identity) -> None:
        """Let what is queued for him go without waiting for company."""
        peer = self._peers.get(identity)
        if peer is not None and peer.link is not None:
            peer.link.connection.flush()
            self._schedule.make_ready(peer.link)

    def ping(self, identity: Identity, now_us: int) -> Result:
        """Have his library answer at once, to measure the round trip (`RealTimeStatus.ping_answers`); his program sees nothing.

        Opens a session, or accepts his, as a send does; what is asked before it is up is not counted. INVALID_STATE for our own
        identity, else as `send_message`.
        """
        self._check_open()
        if identity == self.identity:
            return Result.INVALID_STATE
        peer = self._peers.get(identity)
        if peer is None or peer.link is None:
            result = self._prepare_session(identity, 0, 0, now_us)
            if result is not None:
                return result
            peer = self._peers[identity]
        assert peer.link is not None
        peer.link.connection.ping()
        peer.session.last_used_us = now_us
        self._schedule.make_ready(peer.link)
        return _OK

    def set_framing(self, identity: Identity, framing: str) -> None:
        """How messages to and from this identity are framed, from its next session on: `messages` or `raw` (see `Config`)."""
        if framing not in ("messages", "raw"):
            raise UsageError(f"framing must be 'messages' or 'raw', not {framing!r}")
        self._framing[identity] = framing == "raw"

    def connection_info(self, identity: Identity, now_us: int) -> ConnectionInfo | None:
        """What is known about a session's connection; None if there is no session."""
        if identity == self.identity and identity in self._peers:
            return loopback_info(identity)
        peer = self._peers.get(identity)
        return None if peer is None else peer.info()

    def real_time_status(self, identity: Identity, now_us: int) -> RealTimeStatus | None:
        """How a session's connection is doing now; None if there is no session."""
        peer = self._peers.get(identity)
        if peer is not None and identity == self.identity:
            return replace(peer.status(now_us), state=ConnectionState.CONNECTED)
        return None if peer is None else peer.status(now_us)

    @property
    def unread_messages(self) -> int:
        """Messages that wait to be received, all channels."""
        return self._inbox.count

    def has_room(self, identity: Identity) -> bool:
        """Whether a good many messages to this identity would find room; True also where none would wait for it."""
        peer = self._peers.get(identity)
        return peer is None or peer.link is None or peer.link.connection.has_room

    def pending_request(self, identity: Identity) -> SessionRequested | None:
        """The request of this identity that waits for an answer now; None if there is none (any more)."""
        peer = self._peers.get(identity)
        return None if peer is None or peer.pending is None else _request_of(peer, peer.pending)

    @property
    def known_peers(self) -> list[Identity]:
        """Every identity there is a session with, in whatever state."""
        return list(self._peers)

    def close_all(self, now_us: int, *, linger_us: int) -> None:
        """End every session; reliable data already sent gets `linger_us` to arrive, see `is_flushing`."""
        for peer in list(dict.fromkeys(self._peers.values())):
            self._close_peer(peer, End(EndReason.SESSION_CLOSED, "The program closed its endpoint"), now_us, linger_us=linger_us)

    @property
    def is_flushing(self) -> bool:
        """Whether a closed session still sends what it owes."""
        return bool(self._flushing)

    def close(self, now_us: int) -> None:
        """End every session at once; drain the transmits, then close the sockets."""
        if self.is_closed:
            return
        self.close_all(now_us, linger_us=0)
        for link in self._links:
            link.connection.close(EndReason.SESSION_CLOSED, "The program closed its endpoint", now_us)
            self._after(link, now_us)
        self.is_closed = True
        self._schedule.is_touched = True

    # --- datagrams ---

    def _handle_datagram(self, socket_id: int, remote: Address, datagram: bytes, now_us: int) -> None:
        if len(datagram) < DATAGRAM_BYTES_MIN:
            self.dropped.short += 1
            return
        if datagram[0] >= 0x80:
            self._handle_data(socket_id, remote, datagram, now_us)
            return
        if self._calls is not None and (looks_like_stun(datagram) or 0x40 <= datagram[0] < 0x50):
            self._handle_stun(self._calls, socket_id, remote, datagram, now_us)
            return
        if self._calls is not None and self._calls.gatherer.handle_router(socket_id, remote, datagram, now_us):
            self._schedule.is_touched = True
            return
        try:
            message = decode_control(datagram)
        except WireError:
            self.dropped.malformed += 1
            return
        self._handle_control(socket_id, remote, message, now_us)

    def _handle_stun(self, calls: Calls, socket_id: int, remote: Address, datagram: bytes, now_us: int) -> None:
        """A check, an answer, or what a relay brings."""
        inner = calls.gatherer.unwrap(socket_id, remote, datagram, now_us)
        if inner is not None:
            self._handle_relayed(calls, *inner, now_us)
            return
        try:
            message = decode_stun(datagram)
        except WireError:
            self.dropped.malformed += 1
            return
        if calls.gatherer.handle_stun(socket_id, remote, message, datagram, now_us):
            self._schedule.is_touched = True
        elif message.method == Method.BINDING and message.message_class != Class.INDICATION:
            calls.handle_stun(Base(socket_id), remote, message, datagram, now_us)

    def _handle_relayed(self, calls: Calls, base: Base, remote: Address, datagram: bytes, now_us: int) -> None:
        """What somebody sent to a relayed address of ours."""
        if len(datagram) < DATAGRAM_BYTES_MIN:
            self.dropped.short += 1
        elif datagram[0] >= 0x80:
            link = self._links.for_data(base.socket_id, remote, datagram)
            if link is None or link.call is None:
                self.dropped.unknown += 1
                return
            self.dropped.malformed += len(link.connection.handle_datagrams(datagram, len(datagram), now_us))
            self._note_way(link, link.call, base, remote, now_us)
            self._after(link, now_us)
        elif looks_like_stun(datagram):
            try:
                message = decode_stun(datagram)
            except WireError:
                self.dropped.malformed += 1
                return
            calls.handle_stun(base, remote, message, datagram, now_us)
        else:
            self._handle_relayed_control(base, remote, datagram, now_us)

    def _handle_relayed_control(self, base: Base, remote: Address, datagram: bytes, now_us: int) -> None:
        """The goodbye of a peer behind a relay. Others get no answer: it would leave from an address of ours."""
        try:
            message = decode_control(datagram)
        except WireError:
            self.dropped.malformed += 1
            return
        link = self._links.for_control(base.socket_id, remote, message)
        if link is None or link.call is None:
            self.dropped.unknown += 1
            return
        link.connection.handle_control(message, remote, now_us)
        self._after(link, now_us)

    def _handle_data(self, socket_id: int, remote: Address, datagram: bytes, now_us: int) -> None:
        link = self._links.for_data(socket_id, remote, datagram)
        if link is not None:
            self.dropped.malformed += len(link.connection.handle_datagrams(datagram, len(datagram), now_us))
            if link.call is not None:
                self._note_way(link, link.call, Base(socket_id), remote, now_us)
            self._after(link, now_us)
            return
        self.dropped.unknown += 1
        if self._links.knows_address(socket_id, remote):
            answer = NoConnection(from_connection_id=int.from_bytes(datagram[1:5], "little"), to_connection_id=0)
            self._strangers.say_no_connection(socket_id, remote, answer, len(datagram), now_us)

    def _handle_control(self, socket_id: int, remote: Address, message: ControlMessage, now_us: int) -> None:
        link = self._links.for_control(socket_id, remote, message)
        if link is not None:
            link.connection.handle_control(message, remote, now_us)
            self._after(link, now_us)
        elif isinstance(message, ChallengeRequest | ConnectRequest) and not self._sockets.is_listening(socket_id):
            return
        elif isinstance(message, ChallengeRequest):
            self._strangers.handle_challenge_request(socket_id, remote, message, now_us)
        elif isinstance(message, ConnectRequest):
            self._handle_connect_request(socket_id, remote, message, now_us)
        else:
            self.dropped.unknown += 1
            if isinstance(message, ConnectionClosed) and message.from_connection_id:
                answer = NoConnection(message.to_connection_id, message.from_connection_id)
                self._strangers.say_no_connection(socket_id, remote, answer, PADDED_BYTES_MIN, now_us)

    # --- after anything happened to a link ---

    def _after(self, link: Link, now_us: int) -> None:
        """Hand on what the connection has for the application, and let it send and sleep."""
        connection = link.connection
        if link.peer is not None and link.peer.successor is not None:
            if link is not link.peer.successor:
                self._settle_doubt(link.peer, now_us)
            elif connection.is_proven:
                self._promote_successor(link.peer, now_us)
        if connection.has_delivered:
            owner = link.owner
            if owner is None:
                connection.drop_delivered()
            elif owner.may_deliver(link):
                owner.deliver(connection.take_delivered(), self._inbox, now_us)
        while (event := connection.poll_event()) is not None:
            if isinstance(event, Opened):
                self._handle_opened(link, now_us)
            if not isinstance(event, Ended):
                continue
            self._handle_ended(link, event, now_us)
            if link.owner is None:
                connection.discard_received()
        if link.call is not None and self._calls is not None:
            self._calls.note_connection(link.call)
        if connection.state == ConnectionState.DEAD:
            self._forget_link(link, now_us)
        else:
            self._schedule.make_ready(link)

    def _handle_opened(self, link: Link, now_us: int) -> None:
        peer = link.peer
        # A successor that took over is up already.
        if peer is not None and peer.link is link and peer.session.state is not _SESSION_CONNECTED:
            peer.session.handle_opened(now_us)

    def _handle_ended(self, link: Link, ended: Ended, now_us: int) -> None:
        self._ended_links[link] = None
        peer = link.peer
        if peer is None:
            self._report_linger(link, ended)
            return
        link.peer = None
        if peer.successor is link:
            peer.successor = None
            return
        if peer.pending is link:
            self._handle_request_gone(peer, link, ended, now_us)
            return
        peer.link = None
        peer.note_gone(link)
        if link.connection.has_messages_left:
            peer.draining.append(link)
            link.drains_to = peer
        unconfirmed = peer.without_headers(ended.unconfirmed)
        self._tell(peer.session.handle_ended(ended.end, ended.state, unconfirmed))
        if peer.successor is not None and (peer.successor.connection.is_proven or ended.end is _REPLACED):
            self._promote_successor(peer, now_us)
        elif peer.pending is not None:
            self._ask_application(peer, peer.pending, now_us)
        else:
            self._note_ended(peer)

    def _note_ended(self, peer: Peer) -> None:
        """His session is remembered for a while, but not those of a crowd."""
        self._ended_peers.pop(peer, None)
        self._ended_peers[peer] = None
        if len(self._ended_peers) > ENDED_SESSIONS_MAX:
            oldest = next(iter(self._ended_peers))
            del self._ended_peers[oldest]
            if oldest.is_over:
                self._drop_peer(oldest)

    def _handle_request_gone(self, peer: Peer, link: Link, ended: Ended, now_us: int) -> None:
        """A stranger gave up, or was given up, before anybody let him in."""
        peer.pending = None
        self._requests.pop(link, None)
        self._events.withdraw_request(peer.identity, now_us)
        if peer.link is None:
            peer.note_gone(link)
            peer.session.handle_ended(ended.end, ended.state, ended.unconfirmed)
            self._forget_peer(peer)

    def _forget_peer(self, peer: Peer) -> None:
        """Keep nothing of somebody with whom there is nothing."""
        if peer.is_forgettable:
            self._drop_peer(peer)

    def _drop_peer(self, peer: Peer) -> None:
        for identity in (peer.identity, *peer.aliases):
            if self._peers.get(identity) is peer:
                del self._peers[identity]
        self._ended_peers.pop(peer, None)
        self._schedule.arm(peer, None)

    def _report_linger(self, link: Link, ended: Ended) -> None:
        """A session that we closed ourselves has now flushed what it could; say what is still unconfirmed."""
        if link.closed_identity is None:
            return
        if ended.unconfirmed.messages:
            debug = f"{ended.end.debug}: {ended.unconfirmed.messages} reliable messages were still unconfirmed"
            headers_bytes = ended.unconfirmed.messages * link.closed_header_bytes
            unconfirmed = Unconfirmed(ended.unconfirmed.messages, ended.unconfirmed.bytes - headers_bytes)
            self._tell(SessionFailed(link.closed_identity, ended.end.reason, ConnectionState.NONE, debug, unconfirmed))
        flushing = self._flushing[link.closed_identity]
        flushing.remove(link)
        if not flushing:
            del self._flushing[link.closed_identity]
        link.closed_identity = None

    def _forget_link(self, link: Link, now_us: int) -> None:
        self._schedule.arm(link, None)
        self._ended_links.pop(link, None)
        if not self._links.remove(link):
            return
        if link.call is not None and self._calls is not None:
            self._calls.forget(link.call, now_us)
            return
        if self._may_be_held(link):
            self._sockets.note_dialed(link.socket_id, link.remote, now_us)
        self._sockets.release(link.socket_id)

    def _tell(self, event: Event | None) -> None:
        if event is not None:
            self._events.tell(event)

    # --- opening ---

    def _prepare_session(self, to: Identity, flags: int, channel: int, now_us: int) -> Result | None:
        """Have a session to send in; what the send returns if there can be none."""
        if not to.is_valid:
            return Result.INVALID_PARAM
        if to == self.identity:
            self._peer(to, now_us)
            return None
        if channel and self._framing.get(to, self.config.framing == "raw"):
            raise UsageError(f"channel {channel}: use 0 with raw framing, which carries no channel")
        peer = self._peers.get(to) or self._peer_at(to, now_us)
        if peer is not None and peer.session.state == SessionState.REQUESTED:
            self._accept_pending(peer, now_us)
            return None if peer.link is not None else Result.FAIL
        if peer is not None and peer.link is not None:
            return None
        if peer is not None and (refusal := peer.session.refusal(restarts=bool(flags & _AUTO_RESTART))) is not None:
            return refusal
        if not self._has_place(now_us):
            return Result.FAIL
        remote = to.ip_address
        if remote is not None and remote[1]:
            self._dial(peer or self._peer(to, now_us), remote, now_us)
        elif remote is None and self._calls is not None:
            self._call(self._calls, peer or self._peer(to, now_us), now_us)
        else:
            return Result.FAIL
        return None

    def _peer(self, identity: Identity, now_us: int) -> Peer:
        peer = self._peers.get(identity)
        if peer is None:
            session = Session(identity, idle_us=self.config.session_idle_us, now_us=now_us)
            is_raw = self._framing.get(identity, self.config.framing == "raw")
            room = ReceiveRoom(messages_max=self.config.recv_buffer_messages, bytes_max=self.config.recv_buffer_bytes)
            peer = self._peers[identity] = Peer(identity, session, room, is_raw=is_raw)
            self._schedule.arm(peer, Deadline(session.idle_at_us, "session idle"))
        return peer

    def _peer_at(self, to: Identity, now_us: int) -> Peer | None:
        """Whoever already talks to us from the address that is now to be dialed, if he is an own peer."""
        remote = to.ip_address
        if remote is None:
            return None
        links = [link for socket_id in self._sockets.listening for link in self._links.at(socket_id, remote)]
        for link in [link for link in links if link.client_key is not None]:
            if link.peer is not None and link.connection.is_live and self._is_own_peer(link):
                self._add_alias(link.peer, to)
                return link.peer
        return None

    def _add_alias(self, peer: Peer, identity: Identity) -> None:
        earlier = self._peers.get(identity)
        if earlier is not None and earlier is not peer:
            self._forget_peer(earlier)
        if identity not in self._peers:
            self._peers[identity] = peer
            peer.aliases.append(identity)

    def _is_own_peer(self, link: Link | None) -> bool:
        """The one value that says whether rules for a reference peer apply (promise 6)."""
        if link is None:
            return False
        established = link.connection.established or link.connection.server_handshake
        return established is not None and established.capabilities is not None

    def _dial(self, peer: Peer, remote: Address, now_us: int) -> None:
        connection_id = self._links.new_connection_id()
        self._stop_flushing(peer, remote, now_us)
        handshake = ClientHandshake(
            self._credentials, self.config, connection_id, self._entropy, now_us, wall_s=self._wall_s(now_us)
        )
        connection = self._connection(handshake, connection_id, peer, now_us)
        socket_id = self._sockets.for_dial(remote, now_us, is_held=self._is_held)
        peer.link = self._add_link(Link(connection, socket_id=socket_id, remote=remote, peer=peer))
        peer.session.handle_dialed(now_us)

    def _call(self, calls: Calls, peer: Peer, now_us: int) -> None:
        """Call a peer by his identity."""
        connection_id = self._links.new_connection_id()
        self._stop_flushing(peer, NOWHERE, now_us)
        handshake = SignaledClientHandshake(
            self._credentials,
            self.config,
            connection_id,
            self._entropy,
            now_us,
            peer_identity=peer.identity,
            wall_s=self._wall_s(now_us),
        )
        link = Link(self._connection(handshake, connection_id, peer, now_us), socket_id=CALLED, remote=NOWHERE, peer=peer)
        peer.link = self._add_link(link)
        peer.session.handle_dialed(now_us)
        calls.dial(link, handshake, now_us)

    def _connection(
        self,
        handshake: ClientHandshake | ServerHandshake | SignaledClientHandshake | SignaledServerHandshake,
        connection_id: int,
        peer: Peer,
        now_us: int,
    ) -> Connection:
        return Connection(
            handshake,
            connection_id=connection_id,
            config=self.config,
            entropy=self._entropy,
            now_us=now_us,
            room=peer.room,
            dropped=self.dropped,
        )

    def _stop_flushing(self, peer: Peer, remote: Address, now_us: int) -> None:
        """A session with this peer begins: nothing of one that was closed while it opened may come after it. He may have gone by
        another name then, if dials had crossed; the address is the same."""
        flushing = [link for links in self._flushing.values() for link in links]
        for link in flushing:
            if link.closed_identity == peer.identity or (link.remote == remote and remote != NOWHERE):
                link.connection.stop_flushing(now_us)
                self._after(link, now_us)

    def _is_held(self, socket_id: int, remote: Address) -> bool:
        """Whether a connection we dialed from there is not wholly over and would be in the way."""
        return any(self._may_be_held(link) for link in self._links.at(socket_id, remote))

    def _may_be_held(self, link: Link) -> bool:
        """Whether the other side may be a reference peer that goes on holding this connection of ours.

        As long as nobody ever answered, a dial from a listening socket stays there: own peers that dial each other meet only so.
        """
        if not link.connection.is_client or self._is_own_peer(link):
            return False
        return link.connection.established is not None or not self._sockets.is_listening(link.socket_id)

    def _add_link(self, link: Link) -> Link:
        self._links.add(link)
        self._schedule.make_ready(link)
        return link

    def _wall_s(self, now_us: int) -> int:
        return (now_us + self.wall_offset_us) // 1_000_000

    # --- requests of strangers ---

    def _handle_signaled_request(self, calls: Calls, peer_identity: Identity, signal: Signal, now_us: int) -> None:
        """Somebody calls whom we do not know yet by this call."""
        request, caller_id = signal.connect_request, signal.from_connection_id
        assert request is not None
        assert caller_id is not None
        to_port = request.to_virtual_port
        if request.cert is None or request.crypt is None or to_port != MESSAGES_VIRTUAL_PORT or not signal.ice_enabled:
            self.dropped.refused += 1
            return
        handshake = check_signaled_request(
            request.cert, request.crypt, peer_identity, caller_id, self._credentials, self.config, now_us, self._wall_s(now_us)
        )
        if isinstance(handshake, Failed):
            self.dropped.refused += 1
            text = f"Internal error accepting connection.  {handshake.debug}"
            calls.reject(peer_identity, caller_id, EndReason.MISC_GENERIC, text)
            return
        peer = self._peers.get(peer_identity)
        ours = peer.link if peer is not None else None
        if ours is not None and ours.call is not None and ours.connection.is_client and not ours.connection.is_answered:
            own_id, own_cert = ours.connection.connection_id, self._credentials.signed_certificate.cert
            if symmetric_outcome(own_id, caller_id, own_cert, request.cert.cert) == "server":
                self._yield_call(calls, ours, ours.call, handshake, signal, now_us)
            return
        self._admit(None, Caller(handshake, signal=signal), now_us)

    def _yield_call(
        self, calls: Calls, ours: Link, call: Call, handshake: SignaledServerHandshake, signal: Signal, now_us: int
    ) -> None:
        """Two calls crossed and his goes on: accept it in place of ours, under the connection id that he may know already. What
        waits to be sent goes with it."""
        peer = ours.peer
        assert peer is not None
        held = ours.connection.take_held()
        connection_id = ours.connection.connection_id
        self._links.remove(ours)
        self._schedule.arm(ours, None)
        link = Link(self._connection(handshake, connection_id, peer, now_us), socket_id=CALLED, remote=NOWHERE, peer=peer)
        ours.peer = None
        peer.link = link
        calls.take_over(call, link, signal, now_us)
        self._add_link(link)
        ours.connection.close(EndReason.MISC_GENERIC, "Both sides called", now_us, quiet=True)
        for data, flags, lane in held:
            link.connection.send_message(data, flags, lane, now_us)
        self._accept(link, now_us)

    def _accept(self, link: Link, now_us: int) -> None:
        """Let the stranger of this link in."""
        link.connection.accept(now_us)
        if link.call is not None and self._calls is not None:
            self._calls.accept(link, now_us)
        self._after(link, now_us)

    def _refuse(self, caller: Caller, reason: int, text: str) -> None:
        """Tell somebody why he does not get in."""
        if caller.signal is None:
            self._strangers.refuse(caller.socket_id, caller.remote, caller.handshake.client_connection_id, reason, text)
        elif self._calls is not None:
            self._calls.reject(caller.handshake.peer_identity, caller.handshake.client_connection_id, reason, text)

    def _handle_connect_request(self, socket_id: int, remote: Address, message: ConnectRequest, now_us: int) -> None:
        handshake = self._strangers.check(remote, message, now_us, self._wall_s(now_us))
        if handshake is None or self.is_closed:
            return
        identity = handshake.peer_identity
        if identity == self.identity:
            text = "The identity claimed is the one of the peer called; give both programs identities of their own"
            self._strangers.refuse(socket_id, remote, message.client_connection_id, EndReason.MISC_GENERIC, text)
            return
        if identity.ip_address is not None and identity != Identity.ip(remote):
            # No certificate vouches for an address (`proven_by`), and whoever dials this one means who is there.
            text = "The identity claimed is the address of somebody else"
            self._strangers.refuse(socket_id, remote, message.client_connection_id, EndReason.MISC_GENERIC, text)
            return
        if self._has_request(identity, message.client_connection_id):
            text = "A connection with that ID already exists."
            self._strangers.refuse(socket_id, remote, message.client_connection_id, EndReason.MISC_GENERIC, text)
            return
        crossed = self._crossed_dial(socket_id, remote, handshake, now_us)
        if crossed is not None:
            crossed.connection.probe(now_us)
            self._after(crossed, now_us)
            return
        crossing = self._crossing_dial(socket_id, remote, handshake)
        if crossing is not None:
            if message.client_connection_id > crossing.connection.connection_id:
                self._yield_dial(crossing, handshake, now_us)
            return
        dialed = self._peer_dialed(socket_id, remote, handshake)
        self._admit(dialed, Caller(handshake, socket_id=socket_id, remote=remote), now_us)

    def _has_request(self, identity: Identity, client_connection_id: int) -> bool:
        """Whether this client has that very connection from another address already."""
        peer = self._peers.get(identity)
        if peer is None:
            return False
        keys = [link.client_key for link in (peer.link, peer.pending) if link is not None]
        return any(key is not None and key[2] == client_connection_id for key in keys)

    def _crossing_dial(self, socket_id: int, remote: Address, handshake: ServerHandshake) -> Link | None:
        """Our own unanswered dial to the very address this request of an own peer comes from."""
        if handshake.capabilities is None:
            return None
        for link in self._links.at(socket_id, remote):
            if link.peer is not None and link.connection.is_client and link.connection.state == ConnectionState.CONNECTING:
                return link
        return None

    def _crossed_dial(self, socket_id: int, remote: Address, handshake: ServerHandshake, now_us: int) -> Link | None:
        """The session that our dial has just opened, if this request is the other half of the crossing that came late.

        It comes from the very same run of the same peer, and needs a challenge that is still good, so only a young session can
        meet it. If he has closed instead and asks anew, the answer to a probe tells before he tries again.
        """
        for link in self._links.at(socket_id, remote):
            if link.peer is not None and link.peer.link is link and link.connection.is_client and _is_same_run(link, handshake):
                return link if link.connection.age_us(now_us) < _CHALLENGE_AGE_US_MAX else None
        return None

    def _peer_dialed(self, socket_id: int, remote: Address, handshake: ServerHandshake) -> Peer | None:
        """Whom we dialed at the very address this request comes from, and who showed the same identity there."""
        for link in self._links.at(socket_id, remote):
            established = link.connection.established
            known = established is not None and established.peer_identity == handshake.peer_identity
            if known and link.peer is not None and link.connection.is_client and self._is_own_peer(link):
                self._add_alias(link.peer, handshake.peer_identity)
                return link.peer
        return None

    def _yield_dial(self, crossing: Link, handshake: ServerHandshake, now_us: int) -> None:
        """Two dials crossed and his goes on: accept it in place of ours, with everything that waits to be sent."""
        peer = crossing.peer
        assert peer is not None
        held = crossing.connection.take_held()
        crossing.peer = None
        crossing.connection.close(EndReason.MISC_GENERIC, "Both sides dialed", now_us, quiet=True)
        self._after(crossing, now_us)
        caller = Caller(handshake, socket_id=crossing.socket_id, remote=crossing.remote)
        peer.link = self._accept_link(caller, peer, now_us)
        self._add_alias(peer, handshake.peer_identity)
        for data, flags, lane in held:
            peer.link.connection.send_message(data, flags, lane, now_us)
        self._accept(peer.link, now_us)

    def _accept_link(self, caller: Caller, peer: Peer, now_us: int) -> Link:
        connection_id = self._links.new_connection_id()
        connection = self._connection(caller.handshake, connection_id, peer, now_us)
        link = Link(connection, socket_id=caller.socket_id, remote=caller.remote, peer=peer)
        if caller.signal is None:
            link.client_key = (caller.socket_id, caller.remote, caller.handshake.client_connection_id)
        elif self._calls is not None:
            self._calls.ring(link, caller.signal, now_us)
        return self._add_link(link)

    def _admit(self, dialed: Peer | None, caller: Caller, now_us: int) -> None:
        """A proven stranger: his request waits for the application, or replaces the session he had."""
        handshake = caller.handshake
        if not self._make_room(caller, now_us):
            return
        peer = dialed or self._peer(handshake.peer_identity, now_us)
        if len(peer.draining) >= ENDED_CONNECTIONS_UNREAD_MAX:
            text = "Messages of earlier connections are still unread; try again later"
            self._refuse(caller, EndReason.MISC_GENERIC, text)
            return
        if peer.pending is not None:
            waiting = peer.pending.connection.server_handshake
            if waiting is not None and waiting.peer_key != handshake.peer_key:
                text = "Somebody else waits under this name; try again later"
                self._refuse(caller, EndReason.MISC_GENERIC, text)
                return
            self._drop_pending(peer, "A newer request replaced this one", now_us)
            # Without that request there may have been nothing left worth remembering him for.
            peer = dialed or self._peer(handshake.peer_identity, now_us)
        link = self._accept_link(caller, peer, now_us)
        present = peer.link
        if present is not None and _has_key(present, handshake.peer_key):
            self._accept_successor(peer, link, now_us)
            return
        peer.pending = link
        self._requests[link] = None
        if present is None:
            self._ask_application(peer, link, now_us)
        else:
            present.connection.doubt(_REPLACED, now_us)
            self._after(present, now_us)

    def _accept_successor(self, peer: Peer, link: Link, now_us: int) -> None:
        """The same key asks again: he started over, and is accepted already. His hello may be a replay, though: the present
        session ends only when something authentic came over the new connection, or when it ends by itself."""
        if peer.successor is not None:
            peer.successor.peer = None
            peer.successor.connection.close(EndReason.MISC_GENERIC, _REPLACED.debug, now_us, quiet=True)
            self._after(peer.successor, now_us)
        peer.successor = link
        link.accepted_at_us = now_us
        self._accept(link, now_us)
        if peer.link is not None:
            peer.link.connection.doubt(_REPLACED, now_us)
            self._after(peer.link, now_us)

    def _settle_doubt(self, peer: Peer, now_us: int) -> None:
        """Something came over the present connection: if it was sent after the newer one was accepted, that was no restart."""
        present, successor = peer.link, peer.successor
        flow = present.connection.flow if present is not None else None
        if successor is None or flow is None:
            return
        wait_us = max(2 * flow.round_trip.smoothed_us, _DOUBT_US_MIN)
        if flow.liveness.last_heard_us > successor.accepted_at_us + wait_us:
            peer.successor = successor.peer = None
            successor.connection.close(EndReason.MISC_GENERIC, "The session before this one is alive", now_us, quiet=True)
            self._after(successor, now_us)

    def _promote_successor(self, peer: Peer, now_us: int) -> None:
        """The new connection takes the place of the present one, if that is still there."""
        old, link = peer.link, peer.successor
        assert link is not None
        if old is not None:
            old.connection.end_for_peer(_REPLACED, now_us)
            self._after(old, now_us)
            return
        peer.successor = None
        peer.link = link
        peer.session.handle_requested(now_us)
        peer.session.handle_accepted(now_us)
        peer.session.handle_opened(now_us)
        self._resume_delivery(peer, now_us)
        self._schedule.make_ready(link)

    def _make_room(self, caller: Caller, now_us: int) -> bool:
        """Whether one more request may wait; the oldest gives way (M4), but not to a flood from one host (E19)."""
        if not self._has_place(now_us):
            return False
        host = caller.remote[0]
        if host and sum(link.remote[0] == host for link in self._requests) >= PENDING_REQUESTS_PER_HOST_MAX:
            return False
        if len(self._requests) >= self.config.pending_requests_max:
            oldest = next(iter(self._requests)).peer
            if oldest is not None:
                self._drop_pending(oldest, "Too many requests wait here; try again later", now_us)
        return True

    def _has_place(self, now_us: int) -> bool:
        """Whether there may be one more connection; the one that ended first gives way (E25)."""
        if not self._links.is_full:
            return True
        ended = next(iter(self._ended_links), None)
        if ended is None:
            return False
        ended.connection.stop_answering()
        self._forget_link(ended, now_us)
        return True

    def _drop_pending(self, peer: Peer, debug: str, now_us: int) -> None:
        """A waiting request gives way: he is told once, and nothing of him is kept."""
        link = peer.pending
        if link is not None:
            if link.call is None:
                self._strangers.refuse(
                    link.socket_id, link.remote, link.connection.peer_connection_id, EndReason.MISC_GENERIC, debug
                )
            link.connection.close(EndReason.MISC_GENERIC, debug, now_us, quiet=True)
            self._after(link, now_us)

    def _ask_application(self, peer: Peer, link: Link, now_us: int) -> None:
        if peer.session.state != SessionState.REQUESTED:
            peer.session.handle_requested(now_us)
        self._events.tell_request(_request_of(peer, link), now_us)
        self._schedule.arm(self._events, self._events.poll_timeout())

    def _accept_pending(self, peer: Peer, now_us: int) -> None:
        link = peer.pending
        assert link is not None
        peer.pending = None
        peer.link = link
        self._requests.pop(link, None)
        self._stop_flushing(peer, link.remote, now_us)
        peer.session.handle_accepted(now_us)
        self._events.answer_request(peer.identity)
        self._accept(link, now_us)

    # --- ending ---

    def _close_peer(self, peer: Peer, end: End, now_us: int, *, linger_us: int) -> None:
        for identity in (peer.identity, *peer.aliases):
            self._peers.pop(identity, None)
            self._events.answer_request(identity)
        self._ended_peers.pop(peer, None)
        self._schedule.arm(peer, None)
        links = [link for link in (peer.link, peer.successor, peer.pending) if link is not None]
        peer.link = peer.successor = peer.pending = None
        for drained in peer.draining:
            drained.drains_to = None
            drained.connection.discard_received()
        peer.draining.clear()
        self._discard_unread(peer, None, now_us)
        for link in links:
            link.peer = None
            link.closed_identity = peer.identity
            self._flushing.setdefault(peer.identity, []).append(link)
            link.closed_header_bytes = peer.header_bytes
            self._requests.pop(link, None)
            link.connection.close(end.reason, end.debug, now_us, linger_us=linger_us)
            self._after(link, now_us)

    def _discard_unread(self, peer: Peer, channel: int | None, now_us: int) -> None:
        identity = peer.identity
        released = self._inbox.discard(lambda sender: sender.identity == identity, channel)
        self._release(released, now_us)

    def _release(self, released: list[Release], now_us: int) -> None:
        """Tell connections that there is room again."""
        for peer, messages, charge_bytes in released:
            assert isinstance(peer, Peer)
            peer.room.release(messages, charge_bytes)
        for peer in dict.fromkeys(release[0] for release in released):
            assert isinstance(peer, Peer)
            self._resume_delivery(peer, now_us)

    def _resume_delivery(self, peer: Peer, now_us: int) -> None:
        """Messages that waited for room go to the application, those of an earlier connection first."""
        for link in (*peer.draining, peer.link):
            if link is not None and link.connection.has_messages_left:
                link.connection.resume_delivery(now_us)
                self._after(link, now_us)
                if link.connection.has_messages_left:
                    return
            if link in peer.draining and link is not None:
                peer.draining.remove(link)
                link.connection.discard_received()

    def _handle_idle(self, peer: Peer, now_us: int) -> None:
        session = peer.session
        owes = peer.link is not None and peer.link.connection.unconfirmed.messages > 0
        if now_us < session.idle_at_us or owes or peer.room.unread_messages:
            at_us = max(session.idle_at_us, now_us + 1_000_000)
            self._schedule.arm(peer, Deadline(at_us, "session idle"))
            return
        self._close_peer(peer, End(EndReason.SESSION_IDLE, "Session Idle Timeout"), now_us, linger_us=0)

    def _check_open(self) -> None:
        if self.is_closed:
            raise ClosedError("this endpoint is closed; make a new one to go on")

    # --- to oneself ---

    def _send_to_self(self, data: bytes, flags: int, channel: int, now_us: int) -> Result:
        """Deliver at once, without a connection."""
        peer = self._peers[self.identity]
        charge = charge_of(len(data) + peer.header_bytes)
        if peer.room.messages_left <= 0 or charge > peer.room.bytes_left:
            return Result.LIMIT_EXCEEDED
        peer.room.add_unread(1, charge)
        self._loopback_number += 1
        is_reliable = bool(flags & _RELIABLE)
        self._inbox.add(channel, Batch(peer, self.identity, is_reliable, (self._loopback_number,), [data], charge, now_us))
        self._schedule.is_touched = True
        peer.session.channels.note_used(channel)
        peer.session.last_used_us = now_us
        return Result.OK


def _has_key(link: Link, key: bytes) -> bool:
    """Whether the other end of this connection is the owner of that certificate key."""
    established = link.connection.established
    return established is not None and established.peer_key == key


def _is_same_run(link: Link, handshake: ServerHandshake) -> bool:
    """Whether the other end of this connection and the one who asks are one running endpoint."""
    established, asking = link.connection.established, handshake.capabilities
    if established is None or established.capabilities is None or asking is None:
        return False
    return _has_key(link, handshake.peer_key) and established.capabilities.run_id == asking.run_id


def _request_of(peer: Peer, link: Link) -> SessionRequested:
    handshake = link.connection.server_handshake
    assert handshake is not None
    return SessionRequested(
        identity=peer.identity,
        proven_by=handshake.proven_by,
        key_fingerprint=handshake.peer_fingerprint,
        address="" if link.call is not None else format_address(link.remote),
    )


def _speaker_of(signal: Signal, sender: Identity | None) -> Identity:
    """Who a signal says it is from; a rejection does not say, so that the service's word counts. Raises WireError if nobody can
    tell."""
    if signal.from_identity is not None:
        try:
            return Identity.parse_bytes(signal.from_identity)
        except UsageError as error:
            raise WireError(str(error)) from None
    if sender is None or signal.connection_closed is None:
        raise WireError("a signal must say whom it is from")
    return sender
