"""Everybody who was called, or calls, by identity: signals in and out, checks in and out, one gathering for all of them.

The endpoint decides who is let in and which connection is whose; here is what it takes to reach them. Calls have no address of
their own: their packets are known by connection id wherever they come from, and go where the ICE agent says.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from contextlib import suppress
from typing import Final

from peergram.address import Address
from peergram.config import (
    ICE_BUDGETS_KEPT_MAX,
    ICE_BUDGETS_KEPT_US,
    ICE_TRANSACTIONS_KEPT,
    SIGNAL_DENIAL_KEYS_MAX,
    SIGNAL_DENIALS_ALL_BURST,
    SIGNAL_DENIALS_ALL_PER_S,
    SIGNAL_DENIALS_BURST,
    SIGNAL_DENIALS_PER_S,
    SIGNAL_TELL_AGAIN_MAX_US,
    SIGNAL_TELL_AGAIN_US,
    SIGNALS_QUEUED_MAX,
    Config,
)
from peergram.connection.connection import Connection
from peergram.connection.handshake_signaled import SignaledClientHandshake, SignaledServerHandshake
from peergram.crypto.keys import Entropy
from peergram.endpoint.call import Call
from peergram.endpoint.event_queue import EventQueue
from peergram.endpoint.link import Link
from peergram.endpoint.memory import Memory
from peergram.endpoint.schedule import Schedule
from peergram.errors import EndReason, UsageError, WireError
from peergram.events import ConnectionState, RelayNetworkChanged, RelayNetworkStatus, RouteChanged
from peergram.identity import Identity
from peergram.io_requests import InterfaceAddress, IoRequest, Transmit
from peergram.routes.candidates import Base, CandidateKind, LocalCandidate, decode_candidate, encode_candidate, ufrag_of
from peergram.routes.checks import HostBudgets
from peergram.routes.gather import CandidateAdded, CandidateRemoved, Gatherer
from peergram.routes.ice_agent import IceAgent
from peergram.routes.ping_location import PingLocation, parse_ping_location
from peergram.routes.relay_network import RelayNetwork
from peergram.signaling.rates import TokenBuckets
from peergram.signaling.rendezvous import NO_CONNECTION, Phase, Rendezvous, denial, rejection
from peergram.timing import NEVER, Deadline
from peergram.wire.relay_news import RelayNews, Tickets
from peergram.wire.signals import ReliableSignal, Signal
from peergram.wire.stun import Class, StunMessage

_PASSWORD_BYTES: Final = 18
_BASE64: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


class GatheringAlarm:
    """What the schedule wakes when the gathering's time has come."""

    def __init__(self) -> None:
        self.armed_at_us = NEVER


class Calls:
    """All calls of one endpoint. After every `handle_*` and every command: drain the polls."""

    def __init__(
        self,
        identity: Identity,
        gatherer: Gatherer,
        schedule: Schedule,
        events: EventQueue,
        entropy: Entropy,
        config: Config,
        memory: Memory,
        relays: RelayNetwork,
    ) -> None:
        self.tells_routes = False
        """Whether the application wants to know when a way changes."""
        self.is_closed = False
        self.gathering_alarm = GatheringAlarm()
        self.relays = relays
        """What is known of points of presence."""
        self.tells_relay_status = False
        """Whether the application wants to know how the relay network stands."""
        self._relay_status: RelayNetworkStatus | None = None
        self._ping_changes = 0
        self.memory = memory
        """For a peer of the reference, across a crash of ours."""
        self._interfaces: list[InterfaceAddress] | None = None
        self._events = events
        self._identity = identity
        self._gatherer = gatherer
        self._schedule = schedule
        self._entropy = entropy
        self._config = config
        self._calls: dict[int, Call] = {}
        """By our connection id."""
        self._callers: dict[tuple[Identity, int], Call] = {}
        """By peer and his connection id."""
        self._ufrags: dict[bytes, Call] = {}
        self._transactions: OrderedDict[bytes, int] = OrderedDict()
        """Whose question an answer belongs to: our connection id."""
        self._budgets: OrderedDict[Identity, tuple[HostBudgets, int]] = OrderedDict()
        """What each peer may still have us send, and since when that counts; the longest ago first."""
        self._denials = TokenBuckets(SIGNAL_DENIALS_PER_S, SIGNAL_DENIALS_BURST, SIGNAL_DENIAL_KEYS_MAX)
        self._all_denials = TokenBuckets(SIGNAL_DENIALS_ALL_PER_S, SIGNAL_DENIALS_ALL_BURST, 1)
        self._has_relay_news = False
        """Whether the pings may have something to send, or another deadline."""
        self._signals: deque[tuple[Identity, bytes]] = deque(maxlen=SIGNALS_QUEUED_MAX)
        self._ready: deque[Call] = deque()

    @property
    def gatherer(self) -> Gatherer:
        """What finds our addresses."""
        return self._gatherer

    # --- opening ---

    def dial(self, link: Link, handshake: SignaledClientHandshake, now_us: int) -> None:
        """Call the peer of this new connection."""
        call = self._add(link, handshake.peer_identity)
        self.memory.keep(call.peer_identity, call.rendezvous.connection_id)
        call.rendezvous.call(handshake.cert, handshake.crypt, now_us, self.memory.old_ids(call.peer_identity))
        self._start_agent(call, now_us, controlling=False)

    def ring(self, link: Link, signal: Signal, now_us: int) -> None:
        """A caller waits for the application."""
        handshake = link.connection.server_handshake
        assert handshake is not None
        call = self._add(link, handshake.peer_identity)
        call.rendezvous.ring(handshake.client_connection_id)
        self._note_peer_id(call)
        self._hear(call, signal, now_us)

    def accept(self, link: Link, now_us: int) -> None:
        """The application lets the caller in, and the connection has agreed to that."""
        call, handshake = link.call, link.connection.server_handshake
        assert call is not None
        assert isinstance(handshake, SignaledServerHandshake)
        if handshake.crypt is None:
            return
        if call.agent is None:
            self._start_agent(call, now_us, controlling=True)
        # Whoever asks anew holds on to nothing.
        self.memory.forget_old(call.peer_identity)
        if not _is_own_peer(link.connection):
            self.memory.keep(call.peer_identity, link.connection.connection_id)
        call.rendezvous.accept(handshake.cert, handshake.crypt, now_us)
        self.touch(call)

    def take_over(self, call: Call, link: Link, signal: Signal, now_us: int) -> None:
        """Both sides called, and his call goes on: our own becomes the answer to it, with what was gathered and said so far."""
        handshake = link.connection.server_handshake
        assert handshake is not None
        call.link.call = None
        self.memory.forget(call.link.connection.connection_id)
        call.link, link.call = link, call
        call.is_end_said = False
        call.rendezvous.ring(handshake.client_connection_id)
        self._calls[link.connection.connection_id] = call
        self._note_peer_id(call)
        assert call.agent is not None
        call.agent.own_peer = _is_own_peer(link.connection)
        call.agent.set_role(True, now_us)
        self._set_remote(call, now_us)
        self._hear(call, signal, now_us)

    def reject(self, to: Identity, to_connection_id: int, reason: int, debug: str, now_us: int) -> None:
        """Tell somebody whose request nobody will see why that is so."""
        if self._may_deny(to, now_us):
            self._signals.append((to, rejection(to_connection_id, to.text_bytes, reason, debug)))

    def deny(self, to: Identity, signal: Signal, now_us: int) -> None:
        """Tell a peer that the connection he speaks of is not one of ours: he took a request for new that was an old one, or we
        started over."""
        closed = signal.connection_closed
        is_heeded = bool(signal.to_connection_id and signal.from_connection_id)
        if is_heeded and (closed is None or closed.reason != NO_CONNECTION) and self._may_deny(to, now_us):
            self._signals.append((to, denial(signal, self._identity.text_bytes, to.text_bytes)))

    def _may_deny(self, to: Identity, now_us: int) -> bool:
        return self._denials.has(to, now_us) and self._all_denials.take(None, now_us) and self._denials.take(to, now_us)

    def _add(self, link: Link, peer_identity: Identity) -> Call:
        connection_id = link.connection.connection_id
        rendezvous = Rendezvous(self._identity.text_bytes, peer_identity.text_bytes, connection_id)
        call = link.call = Call(link, rendezvous, peer_identity)
        self._calls[connection_id] = call
        self._ufrags[ufrag_of(connection_id)] = call
        self.touch(call)
        return call

    def _start_agent(self, call: Call, now_us: int, *, controlling: bool) -> None:
        """Say our password, then our candidates as they are found; begin with what the peer said so far."""
        self.relays.add_peer(call, now_us)
        self._use_relays(now_us)
        self._gatherer.want(now_us)
        # What was found before now is not news to this call.
        self._take_candidates(now_us)
        call.local_password = _printable(self._entropy(_PASSWORD_BYTES))
        call.agent = IceAgent(
            local_ufrag=ufrag_of(call.rendezvous.connection_id),
            local_password=call.local_password,
            controlling=controlling,
            entropy=self._entropy,
            now_us=now_us,
            own_peer=_is_own_peer(call.link.connection),
            budgets=self._budgets_of(call.peer_identity, now_us),
            config=self._config,
        )
        call.rendezvous.queue(ReliableSignal(password=call.local_password), now_us)
        self._tell_location(call, self._own_location(), now_us)
        for candidate in self._gatherer.candidates:
            self._offer(call, call.agent, candidate, now_us)
        entries, call.entries = call.entries, []
        self._take_entries(call, entries, now_us)
        self._set_remote(call, now_us)

    def _budgets_of(self, peer: Identity, now_us: int) -> HostBudgets:
        """Those of his earlier calls, if they were not long ago."""
        known = self._budgets.get(peer)
        if known is not None and now_us < known[1] + ICE_BUDGETS_KEPT_US:
            return known[0]
        budgets = HostBudgets()
        self._budgets[peer] = (budgets, now_us)
        self._budgets.move_to_end(peer)
        if len(self._budgets) > ICE_BUDGETS_KEPT_MAX:
            self._budgets.popitem(last=False)
        return budgets

    @staticmethod
    def _offer(call: Call, agent: IceAgent, candidate: LocalCandidate, now_us: int) -> None:
        """Use one of our addresses for this call, and tell the peer."""
        agent.add_local(candidate, now_us)
        _tell_candidate(call, agent, candidate, now_us)

    def _own_location(self) -> PingLocation | None:
        """Where we are in the relay network, once that is measured, unless that is kept to ourselves."""
        if not self._config.tells_ping_location:
            return None
        location = self.relays.pings.location() if self.relays.pings.measured_at_us is not None else None
        return location if location is not None and location.pings else None

    def _tell_location(self, call: Call, location: PingLocation | None, now_us: int) -> None:
        """For a peer who can make use of it: once measured, and again when it is another one."""
        if location is None or call.rendezvous.phase in (Phase.CLOSED, Phase.OVER):
            return
        if call.told_location is None or not location.is_like(call.told_location):
            call.told_location = location
            call.rendezvous.queue(ReliableSignal(location=str(location).encode()), now_us)
            self.touch(call)

    def _tell_again(self, call: Call, agent: IceAgent, now_us: int) -> None:
        """Where no way is found although everything was said, somebody may have changed it on the way: say it once more."""
        if call.way is not None or call.rendezvous.phase != Phase.TALKING:
            call.tell_again_at_us, call.tell_again_wait_us = NEVER, SIGNAL_TELL_AGAIN_US
            return
        if now_us >= call.tell_again_at_us and not call.rendezvous.has_unconfirmed:
            call.tell_again_wait_us = min(2 * call.tell_again_wait_us, SIGNAL_TELL_AGAIN_MAX_US)
            call.tell_again_at_us = NEVER
            call.rendezvous.queue(ReliableSignal(password=call.local_password), now_us)
            call.told_location = None
            self._tell_location(call, self._own_location(), now_us)
            for candidate in self._gatherer.candidates:
                _tell_candidate(call, agent, candidate, now_us)
        if call.rendezvous.has_unconfirmed:
            # Until it is taken it is repeated anyway.
            call.tell_again_at_us = NEVER
        elif call.tell_again_at_us == NEVER:
            call.tell_again_at_us = now_us + call.tell_again_wait_us

    def _note_peer_id(self, call: Call) -> None:
        peer_id = call.rendezvous.peer_connection_id
        if peer_id and call.caller_key is None:
            call.caller_key = (call.peer_identity, peer_id)
            self._callers[call.caller_key] = call

    def _set_remote(self, call: Call, now_us: int) -> None:
        if call.agent is not None and call.peer_password and call.rendezvous.peer_connection_id:
            call.agent.set_remote(ufrag_of(call.rendezvous.peer_connection_id), call.peer_password, now_us)

    # --- signals ---

    def find(self, peer: Identity, signal: Signal) -> Call | None:
        """The call this signal is about; None if there is none, or if it is not for this peer to speak about it."""
        if signal.to_connection_id is None:
            return self._callers.get((peer, signal.from_connection_id or 0))
        call = self._calls.get(signal.to_connection_id)
        if call is None or call.peer_identity != peer:
            return None
        known_id = call.rendezvous.peer_connection_id
        return call if not known_id or known_id == signal.from_connection_id else None

    def handle_signal(self, call: Call, signal: Signal, now_us: int) -> None:
        """Take a signal about a call that exists."""
        self._hear(call, signal, now_us)
        self.touch(call)

    def handle_old_run_over(self, peer: Identity, signal: Signal, now_us: int) -> bool:
        """A peer may confirm that a connection of our earlier run is over; whether it is that."""
        old_id = signal.to_connection_id
        if signal.connection_closed is None or not old_id or not self.memory.forget_old(peer, old_id):
            return False
        for call in self._calls.values():
            if call.peer_identity == peer:
                call.rendezvous.handle_old_run_over(old_id, now_us)
                self.touch(call)
        return True

    def _hear(self, call: Call, signal: Signal, now_us: int) -> None:
        heard = call.rendezvous.handle_signal(signal, now_us)
        connection = call.link.connection
        if heard.closed is not None:
            if heard.closed.goodbye:
                connection.handle_signaled_goodbye(heard.closed.goodbye, now_us)
            connection.handle_signaled_close(heard.closed.reason, heard.closed.debug, now_us)
            return
        if heard.is_contradicted:
            connection.handle_contradiction()
        if call.agent is None:
            call.entries += heard.entries[: self._config_entries_left(call)]
        else:
            self._take_entries(call, heard.entries, now_us)
        ok = heard.connect_ok
        if ok is not None and ok.cert is not None and ok.crypt is not None and signal.from_connection_id:
            connection.handle_signaled_ok(ok.cert, ok.crypt, signal.from_connection_id, now_us)
            if connection.state == ConnectionState.FINDING_ROUTE:
                self._note_answered(call)
        self._set_remote(call, now_us)

    def agree(self, link: Link, now_us: int) -> None:
        """The application agrees to the key of the one who answered, and the connection goes on."""
        call = link.call
        if call is not None and link.connection.state == ConnectionState.FINDING_ROUTE:
            self._note_answered(call)
            self._set_remote(call, now_us)
            self.touch(call)

    def _note_answered(self, call: Call) -> None:
        connection = call.link.connection
        call.rendezvous.handle_answered(connection.peer_connection_id)
        self._note_peer_id(call)
        self.memory.forget_old(call.peer_identity)
        if _is_own_peer(connection):
            self.memory.forget(connection.connection_id)
            if call.agent is not None:
                call.agent.own_peer = True

    @staticmethod
    def _config_entries_left(call: Call) -> int:
        return max(0, SIGNALS_QUEUED_MAX - len(call.entries))

    def _take_entries(self, call: Call, entries: list[ReliableSignal], now_us: int) -> None:
        """Passwords and candidates, in order."""
        assert call.agent is not None
        for entry in entries:
            if entry.password is not None:
                call.peer_password = entry.password
                self._set_remote(call, now_us)
            if entry.location is not None:
                with suppress(UsageError):
                    self.relays.locate_peer(call, parse_ping_location(entry.location), now_us)
                self._use_relays(now_us)
            if entry.candidate is not None:
                try:
                    candidate = decode_candidate(entry.candidate)
                except WireError:
                    continue
                call.agent.add_remote(candidate, now_us)
                if candidate.kind is CandidateKind.RELAYED and self.relays.see_relay(call, candidate.address[0]):
                    self._use_relays(now_us)

    def poll_signal(self) -> tuple[Identity, bytes] | None:
        """The next signal to hand to the signaling service."""
        return self._signals.popleft() if self._signals else None

    # --- checks ---

    def handle_stun(self, base: Base, source: Address, message: StunMessage, datagram: bytes, now_us: int) -> None:
        """A check of a peer, or the answer to one of ours."""
        call: Call | None = None
        if message.message_class == Class.REQUEST:
            if message.username is not None:
                call = self._ufrags.get(message.username.partition(b":")[0])
        else:
            call = self._calls.get(self._transactions.get(message.transaction_id, 0))
        if call is not None and call.agent is not None:
            dropped = call.agent.dropped
            call.agent.handle_stun(base, source, message, datagram, now_us)
            if message.message_class != Class.REQUEST and not call.agent.owns(message.transaction_id):
                # Only then was it the answer: others may have seen the question, and must not be able to settle it.
                del self._transactions[message.transaction_id]
            is_check = message.message_class == Class.REQUEST and call.agent.dropped == dropped
            call.was_checked = call.was_checked or (is_check and call.way == (base, source))
            self.touch(call)

    def note_data(self, call: Call, base: Base, source: Address, now_us: int) -> None:
        """Authentic data came this way."""
        if call.agent is not None and call.agent.note_received(base, source, now_us):
            self.touch(call)

    def handle_interfaces(self, addresses: list[InterfaceAddress], now_us: int) -> None:
        """This machine's addresses, at first and whenever they changed: ways that worked may not work now, and others may."""
        changed = self._interfaces is not None and addresses != self._interfaces
        if self._interfaces is not None and set(addresses) != set(self._interfaces):
            self.relays.pings.handle_network_changed(now_us)
        self._interfaces = addresses
        self._gatherer.set_interfaces(addresses, now_us)
        self._take_candidates(now_us)
        for call in self._calls.values() if changed else ():
            if call.agent is not None:
                call.agent.network_changed(now_us)
            self.touch(call)
        self._schedule.is_touched = True

    # --- time, and what goes out ---

    def touch(self, call: Call) -> None:
        """Something happened to it: look at it before anything is sent."""
        if not call.is_ready:
            call.is_ready = True
            self._ready.append(call)
            self._schedule.is_touched = True

    def note_connection(self, call: Call) -> None:
        """Something happened to its connection, which is no matter of ours while all is well: packets come by the thousand."""
        connection = call.link.connection
        if connection.doubts_route or connection.is_doubted or not (connection.is_live or call.is_end_said):
            self.touch(call)

    def handle_timeout(self, call: Call, now_us: int) -> None:
        """Its time has come."""
        if call.agent is not None:
            call.agent.handle_timeout(now_us)
        self.touch(call)

    def handle_gatherer_timeout(self, now_us: int) -> None:
        """The gathering's time has come."""
        self._gatherer.handle_timeout(now_us)
        self.relays.pings.handle_timeout(now_us)
        self.settle_relays(now_us)

    # --- the relay network ---

    def handle_relays(self, message: RelayNews | Tickets, now_us: int) -> None:
        """A signaling service tells of relays. Raises UsageError for a map that is none."""
        self.relays.take(message, now_us)
        self.settle_relays(now_us)

    def settle_relays(self, now_us: int) -> None:
        """What follows from what is known of places now; after whatever may have changed that."""
        self._schedule.is_touched = True
        self._has_relay_news = True
        self._use_relays(now_us)
        if self._ping_changes != self.relays.pings.changes:
            self._ping_changes = self.relays.pings.changes
            location = self._own_location()
            for call in self._calls.values():
                if call.agent is not None:
                    self._tell_location(call, location, now_us)
        status = self.relays.status()
        if status != self._relay_status:
            self._relay_status = status
            if self.tells_relay_status:
                self._events.tell(RelayNetworkChanged(self._identity, status))

    def _use_relays(self, now_us: int) -> None:
        """Have relays at the places that are wanted now; what carries a session stays."""
        pairs = [call.agent.selected for call in self._calls.values() if call.agent is not None]
        held = {self._gatherer.pop_of(pair.base) for pair in pairs if pair is not None and pair.is_relayed}
        self._gatherer.set_pops(self.relays.choose(held), now_us)

    def poll_request(self) -> IoRequest | None:
        """What the driver is to open, close or look up for gathering and pings."""
        return self._gatherer.poll_request() or self.relays.pings.poll_request()

    def handle_socket_opened(self, socket_id: int, local: Address, now_us: int) -> None:
        """The driver's answer."""
        if not self.relays.pings.handle_socket_opened(socket_id, now_us):
            self._gatherer.handle_socket_opened(socket_id, local, now_us)
        self._has_relay_news = self._schedule.is_touched = True

    def handle_socket_failed(self, socket_id: int, text: str, now_us: int) -> None:
        """The driver's other answer."""
        if not self.relays.pings.handle_socket_failed(socket_id, now_us):
            self._gatherer.handle_socket_failed(socket_id, text, now_us)
        self._has_relay_news = self._schedule.is_touched = True

    def handle_name_resolved(self, name: str, hosts: list[str], now_us: int) -> None:
        """What a host name stands for, for whoever asked."""
        self._gatherer.handle_name_resolved(name, hosts, now_us)
        self.relays.pings.handle_name_resolved(name, hosts, now_us)
        self._has_relay_news = self._schedule.is_touched = True

    def handle_ping_answer(self, socket_id: int, source: Address, message: StunMessage, now_us: int) -> bool:
        """Whether this came on a socket of the pings."""
        if not self.relays.pings.handle_stun(socket_id, source, message, now_us):
            return False
        self.settle_relays(now_us)
        return True

    def pops_of(self, call: Call) -> tuple[str, str]:
        """Codes of the place the peer is nearest to, and of the one that relays; empty where there is none, or nobody knows."""
        location = self.relays.location_of(call)
        near_peer = "" if location is None else location.nearest
        pair = call.agent.selected if call.agent is not None else None
        if pair is None or not pair.is_relayed:
            return near_peer, ""
        peers = self.relays.code_at(pair.remote[0]) if pair.remote_kind is CandidateKind.RELAYED else ""
        return peers or near_peer, self._gatherer.pop_of(pair.base) or peers

    def poll_transmit(self, now_us: int) -> Transmit | None:
        """The next check, or question of the gathering."""
        if not self._ready and not self._gatherer.needs_service and not self._has_relay_news:
            return None
        self._take_candidates(now_us)
        # Twice, since looking at the calls may lead to questions about a relay.
        transmit = self._poll_gatherer(now_us) or self._poll_calls(now_us) or self._poll_gatherer(now_us)
        if transmit is None:
            asked = self.relays.pings.poll_transmit(now_us)
            if asked is not None:
                return Transmit(asked[0], asked[1], [asked[2]])
            self._has_relay_news = False
            deadlines = [self._gatherer.poll_timeout(), self.relays.pings.poll_timeout()]
            deadline = min((each for each in deadlines if each is not None), default=None)
            self._schedule.arm(self.gathering_alarm, deadline)
        return transmit

    def _poll_gatherer(self, now_us: int) -> Transmit | None:
        asked = self._gatherer.poll_transmit(now_us)
        return None if asked is None else Transmit(asked[0], asked[1], [asked[2]])

    def _poll_calls(self, now_us: int) -> Transmit | None:
        while self._ready:
            call = self._ready[0]
            check = call.agent.poll_transmit(now_us) if call.agent is not None else None
            if check is not None:
                base, remote, datagram = check
                self._note_transaction(call, datagram)
                wrapped = self.route(base, remote, [datagram], now_us)
                if wrapped is not None:
                    return wrapped
                continue
            self._ready.popleft()
            call.is_ready = False
            self._settle(call, now_us)
        return None

    def route(self, base: Base, remote: Address, packets: list[bytes], now_us: int, *, is_probe: bool = False) -> Transmit | None:
        """Packets as they leave this machine: as they are, or wrapped for a relay; None if the socket or relay is gone."""
        wrapped = self._gatherer.wrap(base, remote, packets, now_us)
        return None if wrapped is None else Transmit(*wrapped, is_probe and not base.relay_id)

    def _note_transaction(self, call: Call, datagram: bytes) -> None:
        if datagram[0] == 0 and datagram[1] == 1:
            self._transactions[datagram[8:20]] = call.rendezvous.connection_id
            if len(self._transactions) > ICE_TRANSACTIONS_KEPT:
                self._transactions.popitem(last=False)

    def _take_candidates(self, now_us: int) -> None:
        """Tell every call what the gathering found, or lost."""
        while (event := self._gatherer.poll_event()) is not None:
            for call in self._calls.values():
                agent = call.agent
                if agent is None or call.rendezvous.phase in (Phase.CLOSED, Phase.OVER):
                    continue
                if isinstance(event, CandidateAdded):
                    self._offer(call, agent, event.local, now_us)
                elif isinstance(event, CandidateRemoved) and not self._has_base(event.local.base):
                    agent.remove_base(event.local.base, now_us)
                self.touch(call)

    def _has_base(self, base: Base) -> bool:
        """Whether a candidate that is gone leaves its socket or relay behind."""
        return any(local.base == base for local in self._gatherer.candidates)

    def _settle(self, call: Call, now_us: int) -> None:
        """Follow the agent, say what is to be said, and sleep until something is due."""
        agent, connection = call.agent, call.link.connection
        if agent is not None:
            while agent.poll_event() is not None:
                pass
            self._follow(call, agent, now_us)
            if call.way is None and connection.state == ConnectionState.FINDING_ROUTE:
                connection.route_trouble = self._trouble(call, agent)
            self._tell_again(call, agent, now_us)
            if connection.doubts_route:
                agent.note_silent(now_us)
                if call.way is not None and call.way[0].relay_id:
                    self._gatherer.check_relay(call.way[0], now_us)
        if connection.is_proven:
            call.rendezvous.handle_heard()
        if not connection.is_doubted:
            call.is_asked = False
        elif not call.is_asked:
            call.is_asked = True
            call.rendezvous.ask(ReliableSignal(password=call.local_password), now_us)
        if not connection.is_live and not call.is_end_said:
            self._say_end(call, connection, now_us)
        while (signal := call.rendezvous.poll_signal(now_us)) is not None:
            self._signals.append((call.peer_identity, signal))
        if self._calls.get(call.rendezvous.connection_id) is not call:
            # Forgotten while it waited for its turn: nothing would ever become of what it is still due for.
            return
        deadlines = [call.rendezvous.poll_timeout(), agent.poll_timeout() if agent is not None else None]
        if call.tell_again_at_us != NEVER:
            deadlines.append(Deadline(call.tell_again_at_us, "no way found"))
        self._schedule.arm(call, min((deadline for deadline in deadlines if deadline is not None), default=None))

    def _trouble(self, call: Call, agent: IceAgent) -> str:
        """Why there is no way to this peer yet, and what may help, as far as it can be told."""
        ours = self._gatherer.candidates
        if not ours:
            return "this machine has no address that peers may use"
        if not call.peer_password:
            return "the peer told nothing about himself; his signals may get lost"
        if not agent.has_remotes:
            return "the peer told no address of his"
        text = "nothing got through between the addresses of both sides"
        if not any(local.base.relay_id for local in ours):
            text += "; a TURN server (turn=...) carries what NATs and firewalls block"
        return text

    def _follow(self, call: Call, agent: IceAgent, now_us: int) -> None:
        """Packets take the pair that the agent has chosen."""
        pair = agent.selected
        way = None if pair is None else (pair.base, pair.remote)
        was_checked, call.was_checked = call.was_checked, False
        if way == call.way:
            was_nominated = call.is_nominated
            call.is_nominated = was_nominated or (pair is not None and pair.is_nominated)
            # A reference peer does not count what came before it took the pair; without another packet it waits for a second. It
            # takes a nominated pair once its own check of it is answered, which may be later than our nomination.
            if (call.is_nominated and not was_nominated) or (was_checked and _waits_for_reference(call.link.connection)):
                call.link.connection.handle_route(True, now_us, changed=False)
                self._schedule.make_ready(call.link)
            return
        was = call.way
        call.way = way
        call.is_nominated = pair is not None and pair.is_nominated
        call.link.connection.handle_route(way is not None, now_us, changed=was is not None and way is not None)
        self._schedule.make_ready(call.link)
        self._tell_route(call)

    def _tell_route(self, call: Call) -> None:
        told = (call.link.route, call.link.address)
        if self.tells_routes and call.told != told and call.link.connection.is_live:
            call.told = told
            self._events.tell(RouteChanged(call.peer_identity, *told))

    def _say_end(self, call: Call, connection: Connection, now_us: int) -> None:
        call.is_end_said = True
        end = connection.end
        if call.rendezvous.phase == Phase.RINGING and (end is None or end.by_peer or end.reason == EndReason.MISC_TIMEOUT):
            # Our application said nothing to him, so that he learns nothing, not even that we are here (M5).
            call.rendezvous.end()
        elif end is None or end.by_peer:
            call.rendezvous.end_by_peer(now_us)
        else:
            call.rendezvous.close(end.reason, end.text_for_peer, now_us, connection.seal_goodbye())

    # --- ending ---

    def forget(self, call: Call, now_us: int) -> None:
        """Its connection is gone; without any, the gathering rests."""
        connection_id = call.rendezvous.connection_id
        if self._calls.get(connection_id) is not call:
            return
        del self._calls[connection_id]
        self.memory.forget(connection_id)
        self._ufrags.pop(ufrag_of(connection_id), None)
        if call.caller_key is not None and self._callers.get(call.caller_key) is call:
            del self._callers[call.caller_key]
        self._schedule.arm(call, None)
        call.agent = None
        self.relays.remove_peer(call, now_us)
        self.settle_relays(now_us)
        if not any(other.agent is not None for other in self._calls.values()):
            self._gatherer.nobody_wants(now_us)

    def close(self, now_us: int) -> None:
        """Give back sockets and relays."""
        self.is_closed = True
        self.relays.pings.close(now_us)
        self._gatherer.close(now_us)
        self._schedule.is_touched = True


def _tell_candidate(call: Call, agent: IceAgent, candidate: LocalCandidate, now_us: int) -> None:
    text = encode_candidate(agent.announced(candidate))
    call.rendezvous.queue(ReliableSignal(candidate=text.encode()), now_us)


def _is_own_peer(connection: Connection) -> bool:
    known = connection.established or connection.server_handshake
    return known is not None and known.capabilities is not None


def _waits_for_reference(connection: Connection) -> bool:
    """Whether nothing has come yet from a reference peer."""
    return connection.state == ConnectionState.FINDING_ROUTE and not _is_own_peer(connection)


def _printable(random: bytes) -> bytes:
    """Random bytes as ICE characters, 4 for 3 bytes."""
    bits = int.from_bytes(random, "big")
    return bytes(_BASE64[bits >> shift & 0x3F] for shift in range(len(random) * 8 - 6, -1, -6))
