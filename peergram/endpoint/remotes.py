"""Every peer of an endpoint and his connections: opening them, what becomes of them, and how they end.

Whatever happens to a connection ends in `Remotes.after`, which hands on what it has for the application and lets it send and
sleep. Who is let in is decided in `admission.py` and by the application.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from peergram.address import Address
from peergram.config import ENDED_SESSIONS_MAX, Config
from peergram.connection.connection import Connection, Ended, Opened
from peergram.connection.handshake import LocalCredentials
from peergram.connection.handshake_client import ClientHandshake
from peergram.connection.handshake_server import ServerHandshake
from peergram.connection.handshake_signaled import SignaledClientHandshake, SignaledServerHandshake
from peergram.connection.room import ReceiveRoom
from peergram.crypto.policy import KeptOut
from peergram.endpoint.calls import Calls
from peergram.endpoint.event_queue import EventQueue
from peergram.endpoint.inbox import Inbox, Release
from peergram.endpoint.link import CALLED, NOWHERE, Link
from peergram.endpoint.link_table import LinkTable
from peergram.endpoint.peer import Peer
from peergram.endpoint.receipts import Receipts
from peergram.endpoint.schedule import Schedule
from peergram.endpoint.sockets import SocketTable
from peergram.endpoint.strangers import Strangers
from peergram.errors import End, EndReason, Result, UsageError
from peergram.events import ConnectionState, DroppedDatagrams, Event, SendFlags, SessionFailed, Unconfirmed
from peergram.identity import Identity
from peergram.sessions.session import Session
from peergram.sessions.states import SessionState
from peergram.timing import Deadline

REPLACED: Final = End(EndReason.MISC_GENERIC, "The peer opened a new session in place of this one.", by_peer=True)
_AUTO_RESTART: Final = int(SendFlags.AUTO_RESTART_BROKEN_SESSION)
_SESSION_CONNECTED: Final = SessionState.CONNECTED
_DOUBT_US_MIN: Final = 20_000


class Remotes:
    """What the endpoint, and those who decide about strangers, know of everybody else."""

    def __init__(
        self,
        identity: Identity,
        config: Config,
        credentials: LocalCredentials,
        entropy: Callable[[int], bytes],
        dropped: DroppedDatagrams,
        sockets: SocketTable,
        *,
        wall_offset_us: int,
    ) -> None:
        self.identity = identity
        self.config = config
        self.credentials = credentials
        self.entropy = entropy
        self.dropped = dropped
        self.sockets = sockets
        self.wall_offset_us = wall_offset_us
        self.strangers = Strangers(config, entropy, dropped)
        self.schedule = Schedule()
        self.inbox = Inbox()
        self.events = EventQueue()
        self.receipts = Receipts(config.receipts_max)
        self.calls: Calls | None = None
        """Peers by identity; None without signaling."""
        self.peers: dict[Identity, Peer] = {}
        self.links = LinkTable(entropy)
        self.requests: dict[Link, None] = {}
        """Requests that wait for the application, oldest first."""
        self.ended_links: dict[Link, None] = {}
        """Connections that ended and still answer, in the order of their ends."""
        self._ended_peers: dict[Peer, None] = {}
        """Those whose session ended, in that order; some may have a new one since."""
        self.flushing: dict[Identity, list[Link]] = {}
        """Connections of sessions that we closed, until they have sent what they owe."""
        self.framing: dict[Identity, bool] = {}

    # --- after anything happened to a link ---

    def after(self, link: Link, now_us: int) -> None:
        """Hand on what the connection has for the application, and let it send and sleep."""
        connection = link.connection
        if link.peer is not None and link.peer.successor is not None:
            if link is not link.peer.successor:
                self._settle_doubt(link.peer, now_us)
            elif connection.is_proven:
                self._promote_successor(link.peer, now_us)
        if link.pins and connection.is_proven:
            self._pin(link, now_us)
        if connection.has_delivered:
            owner = link.owner
            if owner is None:
                connection.drop_delivered()
            elif owner.may_deliver(link):
                owner.deliver(connection.take_delivered(), self.inbox, now_us)
        if connection.open_receipts is not None:
            self.receipts.settle_delivered(connection.take_confirmed_receipts())
        while (event := connection.poll_event()) is not None:
            if isinstance(event, Opened):
                self._handle_opened(link, now_us)
                established = connection.established
                link.pins = established is not None and established.proven_by == "first_contact"
                if link.pins and connection.is_proven:
                    self._pin(link, now_us)
            if not isinstance(event, Ended):
                continue
            if event.receipts:
                self.receipts.settle_unconfirmed(event.receipts, event.end)
            self._handle_ended(link, event, now_us)
            if link.owner is None:
                connection.discard_received()
        if connection.stranger is not None and link.peer is not None and link.peer.link is link:
            self._ask_about(link.peer, link, now_us)
        if link.call is not None and self.calls is not None:
            self.calls.note_connection(link.call)
        owner = link.drains_to
        if owner is not None and owner.late is link and not connection.hears_late(now_us):
            self.forget_late(owner)
        if connection.state == ConnectionState.DEAD:
            self._forget_link(link, now_us)
        else:
            self.schedule.make_ready(link)

    def _handle_opened(self, link: Link, now_us: int) -> None:
        peer = link.peer
        # A successor that took over is up already.
        if peer is not None and peer.link is link and peer.session.state is not _SESSION_CONNECTED:
            peer.session.handle_opened(now_us)

    def _pin(self, link: Link, now_us: int) -> None:
        """Remember the key of somebody met for the first time, unless the name got another key meanwhile."""
        link.pins = False
        established, trust = link.connection.established, self.credentials.trust
        if established is None or trust.known is None:
            return
        verdict = trust.judge(established.peer_identity, established.peer_key, None)
        if isinstance(verdict, KeptOut):
            link.connection.fail(EndReason.REMOTE_BAD_CERT, verdict.text, now_us, told=verdict.told)
        else:
            trust.known.remember(established.peer_identity, established.peer_fingerprint)

    def _ask_about(self, peer: Peer, link: Link, now_us: int) -> None:
        """Whether this is the key of the one whom we called."""
        if not link.is_asked_about:
            link.is_asked_about = True
            self.events.tell_request(peer.request(link), now_us)
            self.schedule.arm(self.events, self.events.poll_timeout())

    def _handle_ended(self, link: Link, ended: Ended, now_us: int) -> None:
        self.ended_links[link] = None
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
        if link.is_asked_about:
            self.events.withdraw_request(peer.identity, now_us)
        peer.note_gone(link)
        if link.connection.has_messages_left:
            peer.draining.append(link)
            link.drains_to = peer
        if link.connection.hears_late(now_us):
            self.forget_late(peer)
            peer.late = link
            link.drains_to = peer
        unconfirmed = peer.without_headers(ended.unconfirmed)
        self._tell(peer.session.handle_ended(ended.end, ended.state, unconfirmed))
        if peer.successor is not None and (peer.successor.connection.is_proven or ended.end is REPLACED):
            self._promote_successor(peer, now_us)
        elif peer.pending is not None:
            self.ask_application(peer, peer.pending, now_us)
        else:
            self._note_ended(peer)

    def forget_late(self, peer: Peer) -> None:
        """Nothing more is taken that a goodbye overtook."""
        late, peer.late = peer.late, None
        if late is None:
            return
        late.connection.stop_hearing_late()
        if late not in peer.draining:
            late.drains_to = None
            late.connection.discard_received()

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
        self.requests.pop(link, None)
        self.events.withdraw_request(peer.identity, now_us)
        if peer.link is None:
            peer.note_gone(link)
            peer.session.handle_ended(ended.end, ended.state, ended.unconfirmed)
            self._forget_peer(peer)

    def _forget_peer(self, peer: Peer) -> None:
        """Keep nothing of somebody with whom there is nothing."""
        if peer.is_forgettable and peer.late is None:
            self._drop_peer(peer)

    def _drop_peer(self, peer: Peer) -> None:
        self.forget_late(peer)
        for identity in (peer.identity, *peer.aliases):
            if self.peers.get(identity) is peer:
                del self.peers[identity]
        self._ended_peers.pop(peer, None)
        self.schedule.arm(peer, None)

    def _report_linger(self, link: Link, ended: Ended) -> None:
        """A session that we closed ourselves has now flushed what it could; say what is still unconfirmed."""
        if link.closed_identity is None:
            return
        if ended.unconfirmed.messages:
            debug = f"{ended.end.debug}: {ended.unconfirmed.messages} reliable messages were still unconfirmed"
            headers_bytes = ended.unconfirmed.messages * link.closed_header_bytes
            unconfirmed = Unconfirmed(ended.unconfirmed.messages, ended.unconfirmed.bytes - headers_bytes)
            self._tell(SessionFailed(link.closed_identity, ended.end.reason, ConnectionState.NONE, debug, unconfirmed))
        flushing = self.flushing[link.closed_identity]
        flushing.remove(link)
        if not flushing:
            del self.flushing[link.closed_identity]
        link.closed_identity = None

    def _forget_link(self, link: Link, now_us: int) -> None:
        self.schedule.arm(link, None)
        self.ended_links.pop(link, None)
        if not self.links.remove(link):
            return
        if link.call is not None and self.calls is not None:
            self.calls.forget(link.call, now_us)
            return
        if self.may_be_held(link):
            self.sockets.note_dialed(link.socket_id, link.remote, now_us)
        self.sockets.release(link.socket_id)

    def _tell(self, event: Event | None) -> None:
        if event is not None:
            self.events.tell(event)

    # --- opening ---

    def prepare_session(self, to: Identity, flags: int, channel: int, now_us: int) -> Result | None:
        """Have a session to send in; what the send returns if there can be none."""
        if not to.is_valid:
            return Result.INVALID_PARAM
        if to == self.identity:
            self.peer_of(to, now_us)
            return None
        if channel and self.framing.get(to, self.config.framing == "raw"):
            raise UsageError(f"channel {channel}: use 0 with raw framing, which carries no channel")
        peer = self.peers.get(to) or self._peer_at(to, now_us)
        if peer is not None and peer.session.state == SessionState.REQUESTED:
            self.accept_pending(peer, now_us, is_call=True)
            return None if peer.link is not None else Result.FAIL
        if peer is not None and peer.link is not None:
            return None
        if peer is not None and (refusal := peer.session.refusal(restarts=bool(flags & _AUTO_RESTART))) is not None:
            return refusal
        if not self.has_place(now_us):
            return Result.FAIL
        remote = to.ip_address
        if remote is not None and self.config.candidates == "relay":
            # He would see where we are.
            return Result.FAIL
        if remote is not None and remote[1]:
            self._dial(self._peer_anew(to, now_us), remote, now_us)
        elif remote is None and self.calls is not None:
            self._call(self.calls, self._peer_anew(to, now_us), now_us)
        else:
            return Result.FAIL
        return None

    def _peer_anew(self, identity: Identity, now_us: int) -> Peer:
        """Whoever bears this name, for a connection that is to show who that is."""
        peer = self.peers.get(identity)
        if peer is not None:
            self._drop_aliases(peer)
        return self.peer_of(identity, now_us)

    def peer_who_comes(self, identity: Identity, remote: Address, now_us: int) -> Peer:
        """Whoever bears this name and asks from that address (`NOWHERE` for a call)."""
        peer = self.peers.get(identity)
        if peer is not None and peer.link is None and peer.pending is None:
            addresses = [name for name in (peer.identity, *peer.aliases) if name.ip_address is not None]
            if any(name.ip_address != remote for name in addresses):
                self._drop_aliases(peer)
        return self.peer_of(identity, now_us)

    def _drop_aliases(self, peer: Peer) -> None:
        """What made a name and an address one was a connection that is gone: others may be at that address now."""
        for identity in peer.aliases:
            if self.peers.get(identity) is peer:
                del self.peers[identity]
        peer.aliases.clear()

    def peer_of(self, identity: Identity, now_us: int) -> Peer:
        peer = self.peers.get(identity)
        if peer is None:
            session = Session(identity, idle_us=self.config.session_idle_us, now_us=now_us)
            is_raw = self.framing.get(identity, self.config.framing == "raw")
            room = ReceiveRoom(messages_max=self.config.recv_buffer_messages, bytes_max=self.config.recv_buffer_bytes)
            peer = self.peers[identity] = Peer(identity, session, room, is_raw=is_raw)
            self.schedule.arm(peer, Deadline(session.idle_at_us, "session idle"))
        return peer

    def _peer_at(self, to: Identity, now_us: int) -> Peer | None:
        """Whoever already talks to us from the address that is now to be dialed, if he is an own peer."""
        remote = to.ip_address
        if remote is None:
            return None
        links = [link for socket_id in self.sockets.listening for link in self.links.at(socket_id, remote)]
        for link in [link for link in links if link.client_key is not None]:
            if link.peer is not None and link.connection.is_live and self.is_own_peer(link):
                self.add_alias(link.peer, to)
                return link.peer
        return None

    def add_alias(self, peer: Peer, identity: Identity) -> None:
        earlier = self.peers.get(identity)
        if earlier is not None and earlier is not peer:
            self._forget_peer(earlier)
        if identity not in self.peers:
            self.peers[identity] = peer
            peer.aliases.append(identity)

    def is_own_peer(self, link: Link | None) -> bool:
        """The one value that says whether rules for a reference peer apply (promise 6)."""
        if link is None:
            return False
        established = link.connection.established or link.connection.server_handshake
        return established is not None and established.capabilities is not None

    def _dial(self, peer: Peer, remote: Address, now_us: int) -> None:
        connection_id = self.links.new_connection_id()
        self.stop_flushing(peer, remote, now_us)
        handshake = ClientHandshake(
            self.credentials, self.config, connection_id, self.entropy, now_us, wall_s=self.wall_s(now_us)
        )
        connection = self.new_connection(handshake, connection_id, peer, now_us)
        socket_id = self.sockets.for_dial(remote, now_us, is_held=self.is_held)
        peer.link = self.add_link(Link(connection, socket_id=socket_id, remote=remote, peer=peer))
        peer.session.handle_dialed(now_us)

    def _call(self, calls: Calls, peer: Peer, now_us: int) -> None:
        """Call a peer by his identity."""
        connection_id = self.links.new_connection_id()
        self.stop_flushing(peer, NOWHERE, now_us)
        handshake = SignaledClientHandshake(
            self.credentials,
            self.config,
            connection_id,
            self.entropy,
            now_us,
            peer_identity=peer.identity,
            wall_s=self.wall_s(now_us),
        )
        link = Link(self.new_connection(handshake, connection_id, peer, now_us), socket_id=CALLED, remote=NOWHERE, peer=peer)
        peer.link = self.add_link(link)
        peer.session.handle_dialed(now_us)
        calls.dial(link, handshake, now_us)

    def new_connection(
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
            entropy=self.entropy,
            now_us=now_us,
            room=peer.room,
            dropped=self.dropped,
        )

    def stop_flushing(self, peer: Peer, remote: Address, now_us: int) -> None:
        """A session with this peer begins: nothing of one that was closed while it opened may come after it. He may have gone by
        another name then, if dials had crossed; the address is the same."""
        flushing = [link for links in self.flushing.values() for link in links]
        for link in flushing:
            if link.closed_identity == peer.identity or (link.remote == remote and remote != NOWHERE):
                link.connection.stop_flushing(now_us)
                self.after(link, now_us)

    def is_held(self, socket_id: int, remote: Address) -> bool:
        """Whether a connection we dialed from there is not wholly over and would be in the way."""
        return any(self.may_be_held(link) for link in self.links.at(socket_id, remote))

    def may_be_held(self, link: Link) -> bool:
        """Whether the other side may be a reference peer that goes on holding this connection of ours.

        As long as nobody ever answered, a dial from a listening socket stays there: own peers that dial each other meet only so.
        """
        if not link.connection.is_client or self.is_own_peer(link):
            return False
        return link.connection.established is not None or not self.sockets.is_listening(link.socket_id)

    def add_link(self, link: Link) -> Link:
        self.links.add(link)
        self.schedule.make_ready(link)
        return link

    def wall_s(self, now_us: int) -> int:
        return (now_us + self.wall_offset_us) // 1_000_000

    def accept_called(self, link: Link, now_us: int) -> None:
        """Let him in whom we called ourselves, and whose own call goes on; if need be, once the application agrees to his key."""
        handshake = link.connection.server_handshake
        is_new = handshake is not None and handshake.proven_by == "first_contact"
        if is_new and self.credentials.trust.pin_outgoing == "ask":
            link.connection.ask_before_accepting()
            self.after(link, now_us)
        else:
            self.accept(link, now_us)

    def accept(self, link: Link, now_us: int) -> None:
        """Let the stranger of this link in."""
        link.connection.accept(now_us)
        if link.call is not None and self.calls is not None:
            self.calls.accept(link, now_us)
        self.after(link, now_us)

    # --- a new connection in place of the present one ---

    def accept_successor(self, peer: Peer, link: Link, now_us: int) -> None:
        """The same key asks again: he started over, and is accepted already. His hello may be a replay, though: the present
        session ends only when something authentic came over the new connection, or when it ends by itself."""
        if peer.successor is not None:
            peer.successor.peer = None
            peer.successor.connection.close(EndReason.MISC_GENERIC, REPLACED.debug, now_us, quiet=True)
            self.after(peer.successor, now_us)
        peer.successor = link
        link.accepted_at_us = now_us
        self.accept(link, now_us)
        if peer.link is not None:
            peer.link.connection.doubt(REPLACED, now_us)
            self.after(peer.link, now_us)

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
            self.after(successor, now_us)

    def _promote_successor(self, peer: Peer, now_us: int) -> None:
        """The new connection takes the place of the present one, if that is still there."""
        old, link = peer.link, peer.successor
        assert link is not None
        if old is not None:
            old.connection.end_for_peer(REPLACED, now_us)
            self.after(old, now_us)
            return
        if peer.session.state == SessionState.REQUESTED:
            self.drop_pending(peer, "An earlier request of another program was accepted", now_us)
        peer.successor = None
        peer.link = link
        peer.session.handle_requested(now_us)
        peer.session.handle_accepted(now_us)
        peer.session.handle_opened(now_us)
        self._resume_delivery(peer, now_us)
        self.schedule.make_ready(link)

    # --- requests that wait ---

    def has_place(self, now_us: int) -> bool:
        """Whether there may be one more connection; the one that ended first gives way (E25)."""
        if not self.links.is_full:
            return True
        ended = next(iter(self.ended_links), None)
        if ended is None:
            return False
        ended.connection.stop_answering()
        self._forget_link(ended, now_us)
        return True

    def drop_pending(self, peer: Peer, debug: str, now_us: int) -> None:
        """A waiting request gives way: he is told once, and nothing of him is kept."""
        link = peer.pending
        if link is not None:
            if link.call is None:
                self.strangers.refuse(
                    link.socket_id, link.remote, link.connection.peer_connection_id, EndReason.MISC_GENERIC, debug
                )
            link.connection.close(EndReason.MISC_GENERIC, debug, now_us, quiet=True)
            self.after(link, now_us)

    def ask_application(self, peer: Peer, link: Link, now_us: int) -> None:
        if peer.session.state != SessionState.REQUESTED:
            peer.session.handle_requested(now_us)
        self.events.tell_request(peer.request(link), now_us)
        self.schedule.arm(self.events, self.events.poll_timeout())

    def agree(self, peer: Peer, link: Link, now_us: int) -> None:
        """The application agrees to the key of somebody we called."""
        self.events.answer_request(peer.identity)
        if link.connection.is_client:
            link.connection.agree(now_us)
            if self.calls is not None:
                self.calls.agree(link, now_us)
            self.after(link, now_us)
        else:
            self.accept(link, now_us)

    def accept_pending(self, peer: Peer, now_us: int, *, is_call: bool = False) -> None:
        """Let him in whose request waits; `is_call`: by calling him."""
        link = peer.pending
        assert link is not None
        peer.pending = None
        peer.link = link
        self.requests.pop(link, None)
        self.stop_flushing(peer, link.remote, now_us)
        peer.session.handle_accepted(now_us)
        self.events.answer_request(peer.identity)
        if is_call:
            self.accept_called(link, now_us)
        else:
            self.accept(link, now_us)

    # --- ending ---

    def close_peer(self, peer: Peer, end: End, now_us: int, *, linger_us: int) -> None:
        for identity in (peer.identity, *peer.aliases):
            self.peers.pop(identity, None)
            self.events.answer_request(identity)
        self._ended_peers.pop(peer, None)
        self.schedule.arm(peer, None)
        links = [link for link in (peer.link, peer.successor, peer.pending) if link is not None]
        peer.link = peer.successor = peer.pending = None
        self.forget_late(peer)
        for drained in peer.draining:
            drained.drains_to = None
            drained.connection.discard_received()
        peer.draining.clear()
        self.discard_unread(peer, None, now_us)
        for link in links:
            link.peer = None
            link.closed_identity = peer.identity
            self.flushing.setdefault(peer.identity, []).append(link)
            link.closed_header_bytes = peer.header_bytes
            self.requests.pop(link, None)
            link.connection.close(end.reason, end.debug, now_us, linger_us=linger_us)
            self.after(link, now_us)

    def discard_unread(self, peer: Peer, channel: int | None, now_us: int) -> None:
        identity = peer.identity
        released = self.inbox.discard(lambda sender: sender.identity == identity, channel)
        self.release(released, now_us)

    def release(self, released: list[Release], now_us: int) -> None:
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
                self.after(link, now_us)
                if link.connection.has_messages_left:
                    return
            if link in peer.draining and link is not None:
                peer.draining.remove(link)
                if link is not peer.late:
                    link.drains_to = None
                    link.connection.discard_received()

    def handle_idle(self, peer: Peer, now_us: int) -> None:
        session = peer.session
        owes = peer.link is not None and peer.link.connection.unconfirmed.messages > 0
        if now_us < session.idle_at_us or owes or peer.room.unread_messages:
            at_us = max(session.idle_at_us, now_us + 1_000_000)
            self.schedule.arm(peer, Deadline(at_us, "session idle"))
            return
        self.close_peer(peer, End(EndReason.SESSION_IDLE, "Session Idle Timeout"), now_us, linger_us=0)
