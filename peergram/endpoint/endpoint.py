"""All remotes behind one set of sockets: the core as drivers and the simulator see it.

Datagrams are given to the connection they name, commands to the peer they name; what the parts then have to send, to say and to
wait for is collected here. Nothing in it does I/O or reads a clock; see docs/architecture.md for how to drive it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final

from peergram.address import Address
from peergram.config import (
    DATAGRAM_BYTES_MIN,
    MESSAGE_BYTES_MAX,
    PADDED_BYTES_MIN,
    REFERENCE_MESSAGE_BYTES_MAX,
    UNRELIABLE_SEND_BYTES_MAX,
    Config,
)
from peergram.connection.handshake import issued_credentials, self_made_credentials
from peergram.connection.room import charge_of
from peergram.crypto.keys import SigningKey, fingerprint
from peergram.crypto.policy import Trust
from peergram.crypto.trust import TrustStore
from peergram.endpoint.admission import Admission
from peergram.endpoint.call import Call
from peergram.endpoint.calls import Calls
from peergram.endpoint.inbox import Batch
from peergram.endpoint.link import Link
from peergram.endpoint.memory import Memory
from peergram.endpoint.peer import Peer, loopback_info
from peergram.endpoint.remotes import Remotes
from peergram.endpoint.sockets import SocketTable
from peergram.errors import ClosedError, End, EndReason, Result, UsageError, WireError
from peergram.events import (
    ConnectionInfo,
    ConnectionState,
    DroppedDatagrams,
    Event,
    Message,
    RealTimeStatus,
    Receipt,
    SendFlags,
    SessionRequested,
)
from peergram.identity import Identity
from peergram.io_requests import CallNote, InterfaceAddress, IoRequest, Transmit
from peergram.routes.candidates import Base
from peergram.routes.gather import CandidatePolicy, Gatherer
from peergram.routes.ice_servers import IceServers
from peergram.routes.relay_network import RelayNetwork, RelayOptions
from peergram.sessions.states import SessionState
from peergram.timing import Deadline
from peergram.wire.certificates import SignedCertificate
from peergram.wire.channel_header import CHANNEL_HEADER_BYTES
from peergram.wire.control import (
    ChallengeRequest,
    ConnectionClosed,
    ConnectRequest,
    ControlMessage,
    NoConnection,
    decode_control,
)
from peergram.wire.relay_news import RelayNews, Tickets
from peergram.wire.signals import Signal, decode_signal
from peergram.wire.stun import Class, Method, decode_stun, looks_like_stun

_RELIABLE: Final = int(SendFlags.RELIABLE)
_NO_DELAY: Final = int(SendFlags.NO_DELAY)
_OK: Final = Result.OK
_SESSION_CONNECTED: Final = SessionState.CONNECTED
_RUN_MESSAGES: Final = 64
"""Of many messages handed over together so many are looked at in one go: what does not fit as a whole is looked at singly."""
_SOCKET_WAIT_US: Final = 10_000
_CHANNEL_MIN: Final = -(1 << 31)
_CHANNEL_MAX: Final = (1 << 31) - 1


class Endpoint:
    """Sends messages to identities and receives theirs."""

    def __init__(
        self,
        identity: Identity,
        *,
        config: Config | None = None,
        entropy: Callable[[int], bytes],
        key: SigningKey | None = None,
        certificate: SignedCertificate | None = None,
        trust: Trust | None = None,
        wall_offset_us: int = 0,
        ice_servers: IceServers | None = None,
        remembered: Iterable[tuple[Identity, int]] = (),
        relay_options: RelayOptions | None = None,
    ) -> None:
        """`entropy(n)` gives n unpredictable bytes; `wall_offset_us` is Unix time minus the clock of `now_us`.

        `ice_servers`: what helps to find ways to peers (may be none of them), for an endpoint whose driver carries signals; None
        for one that knows peers by address only. `remembered`: peers and connection ids that `poll_memory` of an earlier run
        named and did not take back. `relay_options`: what is known of a relay network. `key` is made up if there is none;
        `certificate` is an authority's, for that key and this identity (else UsageError).
        `trust`: whom to let in; None lets in anyone, unauthenticated.
        """
        self.identity = identity
        self.config = config or Config()
        self.is_closed = False
        self.dropped = DroppedDatagrams()
        """Datagrams that came to nothing, by reason."""
        self._sockets = SocketTable()
        credentials = self_made_credentials(identity, key or SigningKey.generate(entropy), entropy(16), trust)
        if certificate is not None:
            credentials = issued_credentials(credentials, certificate)
        self._remotes = Remotes(
            identity, self.config, credentials, entropy, self.dropped, self._sockets, wall_offset_us=wall_offset_us
        )
        self._admission = Admission(self._remotes)
        self._strangers = self._remotes.strangers
        self._schedule = self._remotes.schedule
        self._inbox = self._remotes.inbox
        self._events = self._remotes.events
        self._receipts = self._remotes.receipts
        self._peers = self._remotes.peers
        self._links = self._remotes.links
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
            network = RelayNetwork(entropy=entropy, next_id=self._sockets.new_id, options=relay_options or RelayOptions())
            self._calls = Calls(
                identity, gatherer, self._schedule, self._events, entropy, self.config, Memory(remembered), network
            )
            self._remotes.calls = self._calls

    @property
    def wall_offset_us(self) -> int:
        """Unix time minus the clock of `now_us`; may be corrected at any time."""
        return self._remotes.wall_offset_us

    @wall_offset_us.setter
    def wall_offset_us(self, offset_us: int) -> None:
        self._remotes.wall_offset_us = offset_us

    # --- sockets ---

    def listen(self, bind: Address) -> int:
        """Be reachable for strangers at this local address (port 0: any); the id of the socket the driver is asked for."""
        self._check_open()
        return self._sockets.listen(bind)

    def tell_route_changes(self) -> None:
        """From now on, events say when the way to a peer that was called by identity changes."""
        if self._calls is not None:
            self._calls.tells_routes = True

    def tell_receipts(self, *, tells: bool) -> None:
        """Whether, from now on, an event says when a receipt is settled."""
        self._receipts.tell(tells=tells)

    @property
    def knows_identities(self) -> bool:
        """Whether peers can be reached by identity."""
        return self._calls is not None

    @property
    def key_fingerprint(self) -> str:
        """Of our certificate's key, as peers see it."""
        return fingerprint(self._remotes.credentials.signing_key.public_bytes)

    def renew_certificate(self, certificate: SignedCertificate) -> None:
        """New sessions show this certificate of an authority; those that are up go on. Raises UsageError if it is not for us."""
        self._remotes.credentials = issued_credentials(self._remotes.credentials, certificate)

    def renew_authorities(self, authorities: TrustStore) -> None:
        """Believe these from now on, such as when a key was revoked; sessions that are up go on."""
        self._remotes.credentials.trust.authorities = authorities

    @property
    def local_addresses(self) -> list[Address]:
        """Where it listens, once the driver has opened the sockets."""
        return self._sockets.local_addresses

    def poll_socket_request(self) -> IoRequest | None:
        """The next thing the driver must open, close or look up."""
        request = self._sockets.poll_request()
        if request is None and self._calls is not None:
            return self._calls.poll_request()
        return request

    def handle_socket_opened(self, socket_id: int, local: Address, now_us: int) -> None:
        """That socket is bound to `local`."""
        if not self._sockets.knows(socket_id):
            if self._calls is not None:
                self._calls.handle_socket_opened(socket_id, local, now_us)
            return
        self._sockets.handle_opened(socket_id, local)
        for link in self._links:
            if link.socket_id == socket_id:
                self._schedule.make_ready(link)

    def handle_socket_failed(self, socket_id: int, text: str, now_us: int) -> None:
        """That socket cannot be had, or broke; connections that need it end, or find another way."""
        if not self._sockets.knows(socket_id):
            if self._calls is not None:
                self._calls.handle_socket_failed(socket_id, text, now_us)
            return
        self._sockets.handle_failed(socket_id)
        for link in [link for link in self._links if link.socket_id == socket_id]:
            link.connection.fail(EndReason.LOCAL_NETWORK_CONFIG, text, now_us)
            self._remotes.after(link, now_us)

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
            self._calls.handle_name_resolved(name, addresses, now_us)

    def handle_interfaces(self, addresses: list[InterfaceAddress], now_us: int) -> None:
        """Every address of this machine, now or since a change."""
        if self._calls is not None:
            self._calls.handle_interfaces(addresses, now_us)

    def handle_relays(self, message: RelayNews | Tickets, now_us: int) -> None:
        """A signaling service tells the relay map, or gives tickets. Raises UsageError for a map that is none; the old one
        stays."""
        if self._calls is not None and not self.is_closed:
            self._calls.handle_relays(message, now_us)

    def poll_signal(self) -> tuple[Identity, bytes] | None:
        """The next signal for the signaling service: for whom, and what. Drain `poll_transmit` first."""
        return self._calls.poll_signal() if self._calls is not None else None

    def poll_memory(self) -> CallNote | None:
        """What the next run of this program should be told if this one ends without a word. Ask before signals go out."""
        return self._calls.memory.poll() if self._calls is not None else None

    def poll_known_peer(self) -> tuple[Identity, str] | None:
        """A name and the fingerprint of its key that the next run should know, under `trust="pinned"`."""
        known = self._remotes.credentials.trust.known
        return known.poll_new() if known is not None else None

    def handle_known_peers(self, entries: Iterable[tuple[Identity, str]]) -> None:
        """Names and keys to know from now on; what `poll_known_peer` did not give away yet is kept."""
        known = self._remotes.credentials.trust.known
        if known is not None:
            known.replace_all(entries)

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
            self._remotes.after(call.link, now_us)
        elif self._calls.handle_old_run_over(peer, signal, now_us):
            return
        elif signal.connect_request is not None and signal.to_connection_id is None and signal.from_connection_id:
            self._admission.handle_signaled_request(self._calls, peer, signal, now_us)
        else:
            self.dropped.unknown += 1
            known = self._peers.get(peer)
            if known is not None and known.link is not None:
                # Before we had anything with him, he would learn that we are here.
                self._calls.deny(peer, signal, now_us)

    # --- the five verbs ---

    def handle_datagrams(self, socket_id: int, remote: Address, data: bytes, segment_bytes: int, now_us: int) -> None:
        """Take datagrams of one source, laid end to end; never raises, whatever they are."""
        if segment_bytes <= 0:
            self.dropped.short += 1
            return
        link = self._links.for_data(socket_id, remote, data) if data and data[0] >= 0x80 else None
        if link is not None:
            if link.call is None:
                others = link.connection.handle_datagrams(data, segment_bytes, now_us)
            else:
                others = self._handle_called(link, link.call, Base(socket_id), remote, data, segment_bytes, now_us)
            self._remotes.after(link, now_us)
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
                self._remotes.after(owner, now_us)
            elif isinstance(owner, Peer):
                self._remotes.handle_idle(owner, now_us)
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

    def _handle_called(
        self, link: Link, call: Call, base: Base, remote: Address, data: bytes, segment_bytes: int, now_us: int
    ) -> list[bytes]:
        """Give datagrams to a connection that was called; if there is something authentic and new in them, the way they came by
        works."""
        connection = link.connection
        heard = connection.authentic_packets
        others = connection.handle_datagrams(data, segment_bytes, now_us)
        if self._calls is not None and connection.authentic_packets > heard:
            self._calls.note_data(call, base, remote, now_us)
        return others

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
        return self._events.poll() or self._receipts.poll()

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

    def send_with_receipt(
        self, to: Identity, data: bytes, flags: int, channel: int, now_us: int
    ) -> tuple[Result, Receipt | None]:
        """`send_message`, and what tells of the message's fate; no receipt for one that was refused, or goes unreliably.

        LIMIT_EXCEEDED also while `receipts_max` of them are open, or settled and not told.
        """
        if self._receipts.is_full and (flags & _RELIABLE or len(data) + CHANNEL_HEADER_BYTES > UNRELIABLE_SEND_BYTES_MAX):
            return Result.LIMIT_EXCEEDED, None
        result = self.send_message(to, data, flags, channel, now_us)
        if result is not _OK:
            return result, None
        peer = self._peers[to]
        goes_reliably = flags & _RELIABLE or len(data) + peer.header_bytes > UNRELIABLE_SEND_BYTES_MAX
        if not goes_reliably or (peer.link is None and not flags & _RELIABLE):
            return result, None
        receipt = Receipt(to, channel)
        self._receipts.note_opened()
        if peer.link is None:
            self._receipts.settle_delivered([receipt])
        else:
            peer.link.connection.attach_receipt(receipt, flags, peer.route(channel)[1])
        return result, receipt

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
            return self._remotes.prepare_session(to, flags, channel, now_us) or _OK
        return _OK

    def _takes_largest(self, to: Identity, peer: Peer | None) -> bool:
        """Whether a message of the largest size reaches this peer; a reference peer has no room for our header beside it."""
        is_raw = self._remotes.framing.get(to, self.config.framing == "raw") if peer is None else peer.is_raw
        return is_raw or to == self.identity or self._remotes.is_own_peer(peer.link if peer is not None else None)

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
            self._remotes.release(released, now_us)
        return messages

    def accept_session(self, identity: Identity, now_us: int) -> bool:
        """Let a stranger in, or agree to the key of one we called; True also for a live session, False if there is nothing to
        accept."""
        self._check_open()
        peer = self._peers.get(identity)
        if peer is None:
            return False
        peer.session.last_used_us = now_us
        if identity == self.identity:
            return True
        if peer.session.state == SessionState.REQUESTED:
            self._remotes.accept_pending(peer, now_us)
        elif peer.link is not None and peer.link.connection.stranger is not None:
            self._remotes.agree(peer, peer.link, now_us)
        return peer.session.state in (SessionState.CONNECTING, SessionState.CONNECTED)

    def close_session(self, identity: Identity, now_us: int) -> bool:
        """End the session and throw away unread messages; False if there is none.

        Reliable data already sent goes on in the background for `config.linger_us`; what is unconfirmed after that is reported.
        """
        self._check_open()
        peer = self._peers.get(identity)
        if peer is None:
            return False
        if peer.is_forgettable and identity != self.identity:
            self._remotes.forget_late(peer)
            return False
        self._remotes.close_peer(
            peer, End(EndReason.SESSION_CLOSED, "CloseSessionWithUser"), now_us, linger_us=self.config.linger_us
        )
        return True

    def close_channel(self, identity: Identity, channel: int, now_us: int) -> bool:
        """Close one channel and throw away its unread messages; the last one closes the session. False if it is not open."""
        self._check_open()
        peer = self._peers.get(identity)
        if peer is None or not peer.session.channels.close(channel):
            return False
        peer.forget_route(channel)
        self._remotes.discard_unread(peer, channel, now_us)
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
            result = self._remotes.prepare_session(identity, 0, 0, now_us)
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
        self._remotes.framing[identity] = framing == "raw"

    def connection_info(self, identity: Identity, now_us: int) -> ConnectionInfo | None:
        """What is known about a session's connection; None if there is no session."""
        if identity == self.identity and identity in self._peers:
            return loopback_info(identity)
        peer = self._peers.get(identity)
        if peer is None:
            return None
        link = peer.link
        if self._calls is None or link is None or link.call is None:
            return peer.info()
        remote_pop, pop_relay = self._calls.pops_of(link.call)
        return replace(peer.info(), remote_pop=remote_pop, pop_relay=pop_relay)

    def real_time_status(self, identity: Identity, now_us: int) -> RealTimeStatus | None:
        """How a session's connection is doing now; None if there is no session."""
        peer = self._peers.get(identity)
        if peer is not None and identity == self.identity:
            return replace(peer.status(now_us), state=ConnectionState.CONNECTED)
        return None if peer is None else peer.status(now_us)

    # --- the relay network ---

    def tell_relay_status(self, *, tells: bool) -> None:
        """Whether, from now on, an event says when the relay network stands differently."""
        if self._calls is not None:
            self._calls.tells_relay_status = tells

    def give_relays(self, options: RelayOptions, now_us: int) -> None:
        """Another map, other tickets; None leaves what there is."""
        if self._calls is not None:
            self._calls.relays.give(options, now_us)
            self._calls.settle_relays(now_us)

    def want_relay_pings(self, now_us: int) -> None:
        """Measure the pings to points of presence if they are not known, and keep them up to date for a while."""
        if self._calls is not None and not self.is_closed:
            self._calls.relays.want_pings(now_us)
            self._calls.settle_relays(now_us)

    def refresh_relay_pings(self, max_age_us: int, now_us: int) -> bool:
        """Whether the pings are younger than that; if not, they are being measured from now on."""
        if self._calls is None or self.is_closed:
            return False
        self._calls.relays.want_pings(now_us)
        is_recent = self._calls.relays.pings.refresh(max_age_us, now_us)
        self._calls.settle_relays(now_us)
        return is_recent

    @property
    def relay_network(self) -> RelayNetwork | None:
        """What is known of it, to be looked at; None without signaling."""
        return self._calls.relays if self._calls is not None else None

    @property
    def unread_messages(self) -> int:
        """Messages that wait to be received, all channels."""
        return self._inbox.count

    def has_unread(self, channel: int) -> bool:
        """Whether messages of this channel wait to be received."""
        return self._inbox.has(channel)

    def has_room(self, identity: Identity) -> bool:
        """Whether a good many messages to this identity would find room; True also where none would wait for it."""
        peer = self._peers.get(identity)
        return self._receipts.has_room and (peer is None or peer.link is None or peer.link.connection.has_room)

    def has_room_for(self, identity: Identity, size: int) -> bool:
        """Whether `has_room`, and a message of that many bytes is taken now or never."""
        peer = self._peers.get(identity)
        header_bytes = MESSAGE_BYTES_MAX - REFERENCE_MESSAGE_BYTES_MAX
        fits = peer is None or peer.link is None or peer.link.connection.has_room_for(size + header_bytes)
        return fits and self._receipts.has_room

    def may_fit_later(self, identity: Identity) -> bool:
        """After LIMIT_EXCEEDED: whether something is in the way that will be gone."""
        peer = self._peers.get(identity)
        return self._receipts.is_full or (peer is not None and peer.link is not None and peer.link.connection.has_waiting)

    def pending_request(self, identity: Identity) -> SessionRequested | None:
        """The request of this identity that waits for an answer now; None if there is none (any more)."""
        peer = self._peers.get(identity)
        if peer is None:
            return None
        if peer.pending is not None:
            return peer.request(peer.pending)
        called = peer.link
        return peer.request(called) if called is not None and called.connection.stranger is not None else None

    @property
    def known_peers(self) -> list[Identity]:
        """Every identity there is a session with, in whatever state."""
        return list(self._peers)

    def close_all(self, now_us: int, *, linger_us: int) -> None:
        """End every session; reliable data already sent gets `linger_us` to arrive, see `is_flushing`."""
        for peer in list(dict.fromkeys(self._peers.values())):
            self._remotes.close_peer(
                peer, End(EndReason.SESSION_CLOSED, "The program closed its endpoint"), now_us, linger_us=linger_us
            )

    @property
    def has_unsent(self) -> bool:
        """Whether a message has not left yet, such as one that waits for its session to come up."""
        return any(link.connection.has_unsent for link in self._links)

    @property
    def is_flushing(self) -> bool:
        """Whether a closed session still sends what it owes."""
        return bool(self._remotes.flushing)

    def close(self, now_us: int) -> None:
        """End every session at once; drain the transmits, then close the sockets."""
        if self.is_closed:
            return
        self.close_all(now_us, linger_us=0)
        for link in self._links:
            link.connection.close(EndReason.SESSION_CLOSED, "The program closed its endpoint", now_us)
            self._remotes.after(link, now_us)
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
        if calls.handle_ping_answer(socket_id, remote, message, now_us):
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
            others = self._handle_called(link, link.call, base, remote, datagram, len(datagram), now_us)
            self.dropped.malformed += len(others)
            self._remotes.after(link, now_us)
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
        self._remotes.after(link, now_us)

    def _handle_data(self, socket_id: int, remote: Address, datagram: bytes, now_us: int) -> None:
        link = self._links.for_data(socket_id, remote, datagram)
        if link is not None:
            if link.call is None:
                others = link.connection.handle_datagrams(datagram, len(datagram), now_us)
            else:
                others = self._handle_called(link, link.call, Base(socket_id), remote, datagram, len(datagram), now_us)
            self.dropped.malformed += len(others)
            self._remotes.after(link, now_us)
            return
        self.dropped.unknown += 1
        if self._links.knows_address(socket_id, remote):
            answer = NoConnection(from_connection_id=int.from_bytes(datagram[1:5], "little"), to_connection_id=0)
            self._strangers.say_no_connection(socket_id, remote, answer, len(datagram), now_us)

    def _handle_control(self, socket_id: int, remote: Address, message: ControlMessage, now_us: int) -> None:
        link = self._links.for_control(socket_id, remote, message)
        if link is not None:
            link.connection.handle_control(message, remote, now_us)
            self._remotes.after(link, now_us)
        elif isinstance(message, ChallengeRequest | ConnectRequest) and not self._sockets.is_listening(socket_id):
            return
        elif isinstance(message, ChallengeRequest):
            self._strangers.handle_challenge_request(socket_id, remote, message, now_us)
        elif isinstance(message, ConnectRequest) and not self.is_closed:
            self._admission.handle_connect_request(socket_id, remote, message, now_us)
        else:
            self.dropped.unknown += 1
            if isinstance(message, ConnectionClosed) and message.from_connection_id:
                answer = NoConnection(message.to_connection_id, message.from_connection_id)
                self._strangers.say_no_connection(socket_id, remote, answer, PADDED_BYTES_MIN, now_us)

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
