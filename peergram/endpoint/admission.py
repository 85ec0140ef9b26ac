"""Strangers who ask for a session: who is refused at once, who waits for the application, and what a crossing of two calls is.

Dials leave from the listening socket, so when two of our own peers dial each other, each sees the other's request come from the
address it dials: the dial with the larger connection id goes on, the other side turns into its acceptor, and there is one
session. Calls by signal that cross are settled by the reference's rules.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from peergram.address import Address
from peergram.config import (
    CHALLENGE_TICK_US,
    CHALLENGE_TICKS_MAX,
    ENDED_CONNECTIONS_UNREAD_MAX,
    IMPOSTOR_REPEAT_US,
    IMPOSTORS_KEPT_MAX,
    PENDING_REQUESTS_PER_HOST_MAX,
)
from peergram.connection.handshake import Impostor, Refused
from peergram.connection.handshake_server import ServerHandshake
from peergram.connection.handshake_signaled import SignaledServerHandshake, check_signaled_request
from peergram.crypto.policy import KNOWN_OTHERWISE
from peergram.endpoint.call import Call
from peergram.endpoint.calls import Calls
from peergram.endpoint.link import CALLED, NOWHERE, Link
from peergram.endpoint.peer import Peer
from peergram.endpoint.remotes import REPLACED, Remotes
from peergram.errors import EndReason
from peergram.events import ConnectionState, PeerRefused
from peergram.identity import Identity
from peergram.signaling.rendezvous import MESSAGES_VIRTUAL_PORT
from peergram.signaling.rendezvous_rules import symmetric_outcome
from peergram.wire.control import ConnectRequest
from peergram.wire.signals import Signal

_CHALLENGE_AGE_US_MAX: Final = (CHALLENGE_TICKS_MAX + 1) * CHALLENGE_TICK_US


@dataclass(frozen=True, slots=True)
class Caller:
    """A stranger whose request passed the checks: over plain UDP from an address, or by signal."""

    handshake: ServerHandshake | SignaledServerHandshake
    socket_id: int = CALLED
    remote: Address = NOWHERE
    signal: Signal | None = None


class Admission:
    """Decides about requests that nothing we have answers."""

    def __init__(self, remotes: Remotes) -> None:
        self._remotes = remotes
        self._told_us: OrderedDict[Identity, int] = OrderedDict()
        """Of which names in false hands the application has heard, and when; the longest ago first."""

    def handle_signaled_request(self, calls: Calls, peer_identity: Identity, signal: Signal, now_us: int) -> None:
        """Somebody calls whom we do not know yet by this call."""
        request, caller_id = signal.connect_request, signal.from_connection_id
        assert request is not None
        assert caller_id is not None
        to_port = request.to_virtual_port
        if request.cert is None or request.crypt is None or to_port != MESSAGES_VIRTUAL_PORT or not signal.ice_enabled:
            self._remotes.dropped.refused += 1
            return
        remotes = self._remotes
        handshake = check_signaled_request(
            request.cert,
            request.crypt,
            peer_identity,
            caller_id,
            remotes.credentials,
            remotes.config,
            now_us,
            remotes.wall_s(now_us),
        )
        if isinstance(handshake, Refused):
            self._remotes.dropped.refused += 1
            self._remotes.strangers.last_refusal = handshake.text
            self._tell_of(handshake.impostor, now_us)
            why = KNOWN_OTHERWISE if handshake.impostor else handshake.text
            text = f"Internal error accepting connection.  {why}"
            calls.reject(peer_identity, caller_id, EndReason.MISC_GENERIC, text, now_us)
            return
        peer = self._remotes.peers.get(peer_identity)
        ours = peer.link if peer is not None else None
        if ours is not None and ours.connection.stranger is not None:
            # One key at a time: the application agrees to the one that it was shown.
            return
        if ours is not None and ours.call is not None and ours.connection.is_client and not ours.connection.is_answered:
            own_id, own_cert = ours.connection.connection_id, self._remotes.credentials.signed_certificate.cert
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
        self._remotes.links.remove(ours)
        self._remotes.schedule.arm(ours, None)
        link = Link(
            self._remotes.new_connection(handshake, connection_id, peer, now_us), socket_id=CALLED, remote=NOWHERE, peer=peer
        )
        ours.peer = None
        peer.link = link
        calls.take_over(call, link, signal, now_us)
        self._remotes.add_link(link)
        ours.connection.close(EndReason.MISC_GENERIC, "Both sides called", now_us, quiet=True)
        link.connection.send_held(held, now_us)
        self._remotes.accept_called(link, now_us)

    def _refuse(self, caller: Caller, reason: int, text: str, now_us: int) -> None:
        """Tell somebody why he does not get in."""
        if caller.signal is None:
            self._remotes.strangers.refuse(caller.socket_id, caller.remote, caller.handshake.client_connection_id, reason, text)
        elif self._remotes.calls is not None:
            handshake = caller.handshake
            self._remotes.calls.reject(handshake.peer_identity, handshake.client_connection_id, reason, text, now_us)

    def handle_connect_request(self, socket_id: int, remote: Address, message: ConnectRequest, now_us: int) -> None:
        strangers = self._remotes.strangers
        handshake = strangers.check(remote, message, self._remotes.credentials, now_us, self._remotes.wall_s(now_us))
        if handshake is None:
            self._tell_of(strangers.impostor, now_us)
            return
        identity = handshake.peer_identity
        if identity == self._remotes.identity:
            text = "The identity claimed is the one of the peer called; give both programs identities of their own"
            self._remotes.strangers.refuse(socket_id, remote, message.client_connection_id, EndReason.MISC_GENERIC, text)
            return
        if identity.ip_address is not None and identity != Identity.ip(remote):
            # No certificate vouches for an address (`proven_by`), and whoever dials this one means who is there.
            text = "The identity claimed is the address of somebody else"
            self._remotes.strangers.refuse(socket_id, remote, message.client_connection_id, EndReason.MISC_GENERIC, text)
            return
        if self._has_request(identity, message.client_connection_id):
            text = "A connection with that ID already exists."
            self._remotes.strangers.refuse(socket_id, remote, message.client_connection_id, EndReason.MISC_GENERIC, text)
            return
        crossed = self._crossed_dial(socket_id, remote, handshake, now_us)
        if crossed is not None:
            crossed.connection.probe(now_us)
            self._remotes.after(crossed, now_us)
            return
        if self._is_asked_about(socket_id, remote, identity):
            return
        crossing = self._crossing_dial(socket_id, remote, handshake)
        if crossing is not None:
            if message.client_connection_id > crossing.connection.connection_id:
                self._yield_dial(crossing, handshake, now_us)
            return
        dialed = self._peer_dialed(socket_id, remote, handshake)
        self._admit(dialed, Caller(handshake, socket_id=socket_id, remote=remote), now_us)

    def _tell_of(self, impostor: Impostor | None, now_us: int) -> None:
        """Whoever is kept out for his key tries again and again, maybe with a new one each time; people hear of it once in a
        while."""
        if impostor is None:
            return
        name = impostor.identity
        if now_us < self._told_us.get(name, now_us - IMPOSTOR_REPEAT_US) + IMPOSTOR_REPEAT_US:
            return
        self._told_us[name] = now_us
        self._told_us.move_to_end(name)
        if len(self._told_us) > IMPOSTORS_KEPT_MAX:
            self._told_us.popitem(last=False)
        self._remotes.events.tell(PeerRefused(impostor.identity, impostor.key_fingerprint, impostor.text))

    def _has_request(self, identity: Identity, client_connection_id: int) -> bool:
        """Whether this client has that very connection from another address already."""
        peer = self._remotes.peers.get(identity)
        if peer is None:
            return False
        keys = [link.client_key for link in (peer.link, peer.pending) if link is not None]
        return any(key is not None and key[2] == client_connection_id for key in keys)

    def _is_asked_about(self, socket_id: int, remote: Address, identity: Identity) -> bool:
        """Whether the application is to agree to the key of him, or of whoever is there: to the one that it was shown."""
        peer = self._remotes.peers.get(identity)
        links = [*self._remotes.links.at(socket_id, remote), *([peer.link] if peer is not None and peer.link is not None else [])]
        return any(link.peer is not None and link.connection.stranger is not None for link in links)

    def _crossing_dial(self, socket_id: int, remote: Address, handshake: ServerHandshake) -> Link | None:
        """Our own unanswered dial to the very address this request of an own peer comes from."""
        if handshake.capabilities is None:
            return None
        for link in self._remotes.links.at(socket_id, remote):
            if link.peer is not None and link.connection.is_client and link.connection.state == ConnectionState.CONNECTING:
                return link
        return None

    def _crossed_dial(self, socket_id: int, remote: Address, handshake: ServerHandshake, now_us: int) -> Link | None:
        """The session that our dial has just opened, if this request is the other half of the crossing that came late.

        It comes from the very same run of the same peer, and needs a challenge that is still good, so only a young session can
        meet it. If he has closed instead and asks anew, the answer to a probe tells before he tries again.
        """
        for link in self._remotes.links.at(socket_id, remote):
            if link.peer is not None and link.peer.link is link and link.connection.is_client and _is_same_run(link, handshake):
                return link if link.connection.age_us(now_us) < _CHALLENGE_AGE_US_MAX else None
        return None

    def _peer_dialed(self, socket_id: int, remote: Address, handshake: ServerHandshake) -> Peer | None:
        """Whom we dialed at the very address this request comes from, and who showed the same identity there."""
        for link in self._remotes.links.at(socket_id, remote):
            established = link.connection.established
            known = established is not None and established.peer_identity == handshake.peer_identity
            if known and link.peer is not None and link.connection.is_client and self._remotes.is_own_peer(link):
                self._remotes.add_alias(link.peer, handshake.peer_identity)
                return link.peer
        return None

    def _yield_dial(self, crossing: Link, handshake: ServerHandshake, now_us: int) -> None:
        """Two dials crossed and his goes on: accept it in place of ours, with everything that waits to be sent."""
        peer = crossing.peer
        assert peer is not None
        held = crossing.connection.take_held()
        crossing.peer = None
        crossing.connection.close(EndReason.MISC_GENERIC, "Both sides dialed", now_us, quiet=True)
        self._remotes.after(crossing, now_us)
        caller = Caller(handshake, socket_id=crossing.socket_id, remote=crossing.remote)
        peer.link = self._accept_link(caller, peer, now_us)
        self._remotes.add_alias(peer, handshake.peer_identity)
        peer.link.connection.send_held(held, now_us)
        self._remotes.accept_called(peer.link, now_us)

    def _accept_link(self, caller: Caller, peer: Peer, now_us: int) -> Link:
        connection_id = self._remotes.links.new_connection_id()
        connection = self._remotes.new_connection(caller.handshake, connection_id, peer, now_us)
        link = Link(connection, socket_id=caller.socket_id, remote=caller.remote, peer=peer)
        if caller.signal is None:
            link.client_key = (caller.socket_id, caller.remote, caller.handshake.client_connection_id)
        elif self._remotes.calls is not None:
            self._remotes.calls.ring(link, caller.signal, now_us)
        return self._remotes.add_link(link)

    def _admit(self, dialed: Peer | None, caller: Caller, now_us: int) -> None:
        """A proven stranger: his request waits for the application, or replaces the session he had."""
        handshake = caller.handshake
        if not self._make_room(caller, now_us):
            return
        peer = dialed or self._remotes.peer_who_comes(handshake.peer_identity, caller.remote, now_us)
        if len(peer.draining) >= ENDED_CONNECTIONS_UNREAD_MAX:
            text = "Messages of earlier connections are still unread; try again later"
            self._refuse(caller, EndReason.MISC_GENERIC, text, now_us)
            return
        if peer.pending is not None:
            waiting = peer.pending.connection.server_handshake
            if waiting is not None and waiting.peer_key != handshake.peer_key:
                text = "Somebody else waits under this name; try again later"
                self._refuse(caller, EndReason.MISC_GENERIC, text, now_us)
                return
            self._remotes.drop_pending(peer, "A newer request replaced this one", now_us)
            # Without that request there may have been nothing left worth remembering him for.
            peer = dialed or self._remotes.peer_of(handshake.peer_identity, now_us)
        link = self._accept_link(caller, peer, now_us)
        present = peer.link
        known = present or peer.successor
        if known is not None and _has_key(known, handshake.peer_key):
            self._remotes.accept_successor(peer, link, now_us)
            return
        peer.pending = link
        self._remotes.requests[link] = None
        if present is None:
            self._remotes.ask_application(peer, link, now_us)
        else:
            present.connection.doubt(REPLACED, now_us)
            self._remotes.after(present, now_us)

    def _make_room(self, caller: Caller, now_us: int) -> bool:
        """Whether one more request may wait; the oldest gives way (M4), but not to a flood from one host (E19)."""
        if not self._remotes.has_place(now_us):
            return False
        host = caller.remote[0]
        if host and sum(link.remote[0] == host for link in self._remotes.requests) >= PENDING_REQUESTS_PER_HOST_MAX:
            return False
        if len(self._remotes.requests) >= self._remotes.config.pending_requests_max:
            oldest = next(iter(self._remotes.requests)).peer
            if oldest is not None:
                self._remotes.drop_pending(oldest, "Too many requests wait here; try again later", now_us)
        return True


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
