"""A small endpoint that finds peers by name, to test worlds with NATs, servers and signaling with. No secrets, no elegance.

It opens a socket per address, asks STUN servers, allocates at TURN servers by UDP and by stream, repeats one signal with all its
candidates until a path works, pings every pair, sends frames in order over the first path that answers, and does all that again
when no ping is answered any more. A session is named by a nonce on either side; a peer with another nonce is another session.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from peergram.address import Address, canonical_address
from peergram.config import Config
from peergram.errors import EndReason, Result, UsageError, WireError
from peergram.events import (
    ConnectionInfo,
    ConnectionState,
    Event,
    Message,
    RealTimeStatus,
    SendFlags,
    SessionFailed,
    SessionRequested,
    Unconfirmed,
)
from peergram.identity import Identity
from peergram.io_requests import (
    CloseSocket,
    InterfaceAddress,
    IoRequest,
    OpenSocket,
    OpenStream,
    ResolveName,
    Transmit,
    WatchInterfaces,
)
from peergram.sim.p2p_scenario import ServerList
from peergram.sim.world import EndpointLike, MakeEndpoint
from peergram.timing import Deadline
from peergram.wire.stun import Class, Method, StunMessage, StunStream, decode_stun, encode_stun, long_term_key, looks_like_stun

TICK_US = 200_000
IDLE_TICK_US = 1_000_000
SIGNAL_US = 1_000_000
PING_US = 1_000_000
KEEP_US = 2_000_000
LOST_US = 5_000_000
ASK_US = 500_000
ASKS_MAX = 8
REFRESH_US = 20_000_000
GATHER_AGAIN_US = 5_000_000
PART_BYTES = 1_000
WINDOW = 16
PING, PONG, FRAME, ACK = range(4)
RELIABLE, MORE = 1, 2
_HEAD = struct.Struct("<BIHB4s4sB")

Base = tuple[str, int]
"""("socket", its number) or ("relay", the number of the socket or stream it is reached through)."""


@dataclass
class Frame:
    channel: int
    flags: int
    data: bytes
    message_bytes: int


@dataclass
class Relay:
    through: int
    server: Address
    is_stream: bool
    credentials: tuple[bytes, bytes]
    realm: bytes = b""
    nonce: bytes = b""
    relayed: Address | None = None
    permitted: dict[str, int] = field(default_factory=dict)
    refresh_us: int = 0


@dataclass
class Ask:
    through: int
    to: Address
    make: Callable[[bytes], bytes]
    done: Callable[[StunMessage, int], None]
    tries: int = 0
    next_us: int = 0


@dataclass
class Peer:
    identity: Identity
    my_nonce: bytes
    since_us: int
    nonce: bytes = b""
    accepted: bool = False
    announced: bool = False
    failed: bool = False
    exchanged: bool = False
    candidates: list[Address] = field(default_factory=list)
    paths: dict[tuple[Base, Address], int] = field(default_factory=dict)
    """When each last answered."""
    path: tuple[Base, Address] | None = None
    alive_us: int = 0
    signal_us: int = 0
    ping_us: int = 0
    resend_us: int = 0
    frames: deque[Frame] = field(default_factory=deque)
    first: int = 0
    expected: int = 0
    parts: bytes = b""
    messages: int = 0

    @property
    def unconfirmed(self) -> Unconfirmed:
        lasts = [frame for frame in self.frames if frame.flags & RELIABLE and not frame.flags & MORE]
        return Unconfirmed(len(lasts), sum(frame.message_bytes for frame in lasts))


class RendezvousEndpoint:
    def __init__(self, identity: Identity, *, config: Config, entropy: Callable[[int], bytes], servers: ServerList) -> None:
        self.identity = identity
        self.config = config
        self.servers = servers
        self._entropy = entropy
        self._ids = 0
        self._counter = 0
        self._requests: deque[IoRequest] = deque([WatchInterfaces(True)])
        names = [name for name, _ in servers.stun] + [name for name, *_ in servers.turn]
        self._requests.extend(ResolveName(name) for name in dict.fromkeys(names))
        self._hosts: dict[str, list[str]] = {}
        self._out: deque[Transmit] = deque()
        self._events: deque[Event] = deque()
        self._signals: deque[tuple[Identity, bytes]] = deque()
        self._peers: dict[str, Peer] = {}
        self._retired: set[bytes] = set()
        self._sockets: dict[int, Address] = {}
        self._by_host: dict[str, int] = {}
        self._reflexive: dict[int, Address] = {}
        self._streams: dict[int, StunStream] = {}
        self._relays: dict[int, Relay] = {}
        self._asks: dict[bytes, Ask] = {}
        self._gather_us = 0
        self._next_us = 0
        self._inbox: dict[int, deque[Message]] = {}
        self.told_interfaces: list[list[InterfaceAddress]] = []

    # What a driver asks and answers

    def listen(self, bind: Address) -> int:
        raise NotImplementedError

    def poll_socket_request(self) -> IoRequest | None:
        return self._requests.popleft() if self._requests else None

    def handle_interfaces(self, addresses: list[InterfaceAddress], now_us: int) -> None:
        self.told_interfaces.append(addresses)
        there = {address.address for address in addresses if not address.is_loopback}
        for host in [host for host in self._by_host if host not in there]:
            self._close(self._by_host.pop(host))
        for host in sorted(there - set(self._by_host)):
            self._by_host[host] = self._new_id()
            self._requests.append(OpenSocket(self._by_host[host], 6 if ":" in host else 4, (host, 0)))
        self._gather_us = 0

    def _close(self, socket_id: int) -> None:
        self._out = deque(transmit for transmit in self._out if transmit.socket_id != socket_id)
        if self._sockets.pop(socket_id, None) is not None:
            self._requests.append(CloseSocket(socket_id))
        self._reflexive.pop(socket_id, None)
        self._relays.pop(socket_id, None)
        self._asks = {id_: ask for id_, ask in self._asks.items() if ask.through != socket_id}
        for peer in self._peers.values():
            peer.paths = {path: at_us for path, at_us in peer.paths.items() if path[0][1] != socket_id}
            if peer.path is not None and peer.path not in peer.paths:
                peer.path, peer.signal_us = None, 0

    def handle_socket_opened(self, socket_id: int, local: Address, now_us: int) -> None:
        self._sockets[socket_id] = local
        self._gather(now_us)

    def handle_socket_failed(self, socket_id: int, text: str, now_us: int) -> None:
        self._by_host = {host: id_ for host, id_ in self._by_host.items() if id_ != socket_id}

    def handle_name_resolved(self, name: str, addresses: list[str], now_us: int) -> None:
        self._hosts[name] = addresses
        self._gather(now_us)

    def handle_stream_opened(self, stream_id: int, now_us: int) -> None:
        self._streams[stream_id] = StunStream()
        self._allocate(self._relays[stream_id], now_us)

    def handle_stream_data(self, stream_id: int, data: bytes, now_us: int) -> None:
        for message in self._streams[stream_id].handle_data(data):
            self._handle_stun(stream_id, message, now_us)

    def handle_stream_closed(self, stream_id: int, text: str, now_us: int) -> None:
        self._streams.pop(stream_id, None)
        self._close(stream_id)

    # Gathering

    def _new_id(self) -> int:
        self._ids += 1
        return self._ids

    def _gather(self, now_us: int) -> None:
        self._gather_us = now_us + GATHER_AGAIN_US
        for socket_id, local in list(self._sockets.items()):
            for name, port in self.servers.stun:
                self._ask_stun(socket_id, local, name, port, now_us)
        for name, port, transport, username, password in self.servers.turn:
            host = next((host for host in self._hosts.get(name, ()) if ":" not in host), None)
            if host is None:
                continue
            credentials = (username, password)
            if transport == "tcp" and not any(relay.is_stream for relay in self._relays.values()):
                stream_id = self._new_id()
                self._relays[stream_id] = Relay(stream_id, (host, port), True, credentials)
                self._requests.append(OpenStream(stream_id, (host, port)))
            for socket_id, local in self._sockets.items() if transport == "udp" else ():
                if ":" not in local[0] and socket_id not in self._relays:
                    self._relays[socket_id] = Relay(socket_id, (host, port), False, credentials)
                    self._allocate(self._relays[socket_id], now_us)

    def _ask_stun(self, socket_id: int, local: Address, name: str, port: int, now_us: int) -> None:
        host = next((host for host in self._hosts.get(name, ()) if (":" in host) == (":" in local[0])), None)
        if host is None or any(ask.through == socket_id and ask.to == (host, port) for ask in self._asks.values()):
            return

        def done(answer: StunMessage, now_us: int) -> None:
            if answer.xor_mapped_address is not None and self._reflexive.get(socket_id) != answer.xor_mapped_address:
                self._reflexive[socket_id] = answer.xor_mapped_address
                self._hurry()

        self._ask(socket_id, (host, port), lambda id_: encode_stun(StunMessage(Method.BINDING, 0, id_)), done, now_us)

    def _ask(
        self, through: int, to: Address, make: Callable[[bytes], bytes], done: Callable[[StunMessage, int], None], now_us: int
    ) -> None:
        self._asks[self._entropy(12)] = Ask(through, to, make, done, next_us=now_us)
        self._next_us = now_us + 1

    def _request(self, relay: Relay, message: StunMessage, done: Callable[[StunMessage, int], None], now_us: int) -> None:
        """A TURN request, with credentials as far as they are known."""

        def make(id_: bytes) -> bytes:
            message.transaction_id = id_
            if not relay.nonce:
                return encode_stun(message)
            message.username, message.realm, message.nonce = relay.credentials[0], relay.realm, relay.nonce
            return encode_stun(message, integrity_key=long_term_key(relay.credentials[0], relay.realm, relay.credentials[1]))

        def answered(answer: StunMessage, now_us: int) -> None:
            if answer.error_code in (401, 438) and answer.nonce is not None and answer.nonce != relay.nonce:
                relay.realm, relay.nonce = answer.realm or b"", answer.nonce
                self._request(relay, message, done, now_us)
            elif answer.message_class == Class.ERROR:
                self._relays.pop(relay.through, None)
                if (message.method, answer.error_code) == (Method.ALLOCATE, 437):
                    self._request(relay, StunMessage(Method.REFRESH, 0, b"", lifetime_s=0), lambda *_: None, now_us)
            else:
                done(answer, now_us)

        self._ask(relay.through, relay.server, make, answered, now_us)

    def _allocate(self, relay: Relay, now_us: int) -> None:
        def done(answer: StunMessage, now_us: int) -> None:
            relay.relayed, relay.refresh_us = answer.xor_relayed_address, now_us + REFRESH_US
            if answer.xor_mapped_address is not None and not relay.is_stream:
                self._reflexive.setdefault(relay.through, answer.xor_mapped_address)
            self._hurry()

        self._request(relay, StunMessage(Method.ALLOCATE, 0, b"", requested_transport=17), done, now_us)

    def _hurry(self) -> None:
        for peer in self._peers.values():
            if peer.path is None:
                peer.signal_us = 0

    def _permit(self, relay: Relay, host: str, now_us: int) -> None:
        def done(answer: StunMessage, now_us: int) -> None:
            relay.permitted[host] = now_us + REFRESH_US

        relay.permitted[host] = now_us + LOST_US
        self._request(relay, StunMessage(Method.CREATE_PERMISSION, 0, b"", xor_peer_addresses=[(host, 0)]), done, now_us)

    def _candidates(self) -> list[Address]:
        relayed = [relay.relayed for relay in self._relays.values() if relay.relayed is not None]
        return list(dict.fromkeys([*self._sockets.values(), *self._reflexive.values(), *relayed]))

    # Signals

    def poll_signal(self) -> tuple[Identity, bytes] | None:
        return self._signals.popleft() if self._signals else None

    def handle_signal(self, sender: Identity | None, blob: bytes, now_us: int) -> None:
        """What it says of its sender counts: this is a toy."""
        lines = blob.decode().split("\n")
        name, nonce = lines[0], bytes.fromhex(lines[1])
        if name == self.identity.text or nonce in self._retired:
            return
        peer = self._peers.get(name)
        if peer is None:
            peer = self._new_peer(Identity.parse(name), now_us)
        self._meet(peer, nonce, now_us)
        candidates = []
        for line in lines[2:]:
            words = line.split(" ")
            with suppress(UsageError):
                candidates.append(canonical_address(words[4], int(words[5])))
        peer.candidates = list(dict.fromkeys([*peer.candidates[-4:], *candidates]))
        peer.ping_us = 0
        self._work(now_us)

    def _new_peer(self, identity: Identity, now_us: int) -> Peer:
        peer = self._peers[identity.text] = Peer(identity, self._entropy(4), now_us, alive_us=now_us)
        return peer

    def _meet(self, peer: Peer, nonce: bytes, now_us: int) -> None:
        if peer.nonce == nonce:
            return
        if peer.nonce and peer.exchanged:
            self._fail(peer, "the peer began anew", now_us)
            peer.failed = False
        self._retired.add(peer.nonce)
        peer.nonce = nonce
        peer.candidates, peer.paths, peer.path, peer.parts = [], {}, None, b""
        peer.first = peer.expected = 0
        peer.since_us = peer.alive_us = now_us

    def _fail(self, peer: Peer, text: str, now_us: int) -> None:
        state = ConnectionState.PROBLEM_DETECTED_LOCALLY
        self._events.append(SessionFailed(peer.identity, EndReason.MISC_GENERIC, state, text, peer.unconfirmed))
        peer.frames.clear()
        peer.failed, peer.exchanged, peer.announced, peer.my_nonce = True, False, False, self._entropy(4)

    def _signal(self, peer: Peer) -> None:
        lines = [self.identity.text, peer.my_nonce.hex()]
        lines += [f"candidate:1 0 udp 1 {host} {port} typ host" for host, port in self._candidates()]
        self._signals.append((peer.identity, "\n".join(lines).encode()))

    # Packets

    def handle_datagrams(self, socket_id: int, remote: Address, data: bytes, segment_bytes: int, now_us: int) -> None:
        for at in range(0, len(data), max(segment_bytes, 1)):
            packet = data[at : at + segment_bytes]
            if looks_like_stun(packet):
                self._handle_stun(socket_id, packet, now_us)
            else:
                self._handle_packet(("socket", socket_id), remote, packet, now_us)

    def _handle_stun(self, through: int, packet: bytes, now_us: int) -> None:
        try:
            message = decode_stun(packet)
        except WireError:
            return
        if message.method == Method.DATA and message.data is not None and through in self._relays:
            self._handle_packet(("relay", through), message.xor_peer_addresses[0], message.data, now_us)
        elif (ask := self._asks.pop(message.transaction_id, None)) is not None:
            ask.done(message, now_us)
        self._work(now_us)

    def _handle_packet(self, base: Base, remote: Address, packet: bytes, now_us: int) -> None:
        if len(packet) < _HEAD.size:
            return
        lead, _, _, kind, nonce, my_nonce, name_bytes = _HEAD.unpack_from(packet)
        body = bytes(byte ^ 0x5A for byte in packet[_HEAD.size :])
        name = body[:name_bytes].decode(errors="replace")
        peer = self._peers.get(name)
        if lead != 0x80 or peer is None or nonce != peer.nonce or my_nonce != peer.my_nonce:
            return
        if (remote not in peer.candidates) and len(peer.candidates) < 12:
            peer.candidates.append(remote)
        body = body[name_bytes:]
        if kind == PING:
            self._send(peer, base, remote, PONG, body, now_us)
        elif kind == PONG:
            peer.paths[base, remote] = peer.alive_us = now_us
            peer.path = peer.path or (base, remote)
        elif kind == FRAME:
            self._frame(peer, base, remote, body, now_us)
        elif kind == ACK:
            (expected,) = struct.unpack("<I", body)
            while peer.frames and peer.first < expected:
                peer.frames.popleft()
                peer.first += 1
                peer.exchanged, peer.resend_us = True, 0
        self._work(now_us)

    def _frame(self, peer: Peer, base: Base, remote: Address, body: bytes, now_us: int) -> None:
        if not peer.accepted:
            if not peer.announced:
                peer.announced = True
                self._events.append(SessionRequested(peer.identity, "nothing", ""))
            return
        sequence, channel, flags = struct.unpack_from("<IiB", body)
        if sequence == peer.expected and sum(map(len, self._inbox.values())) < self.config.recv_buffer_messages:
            peer.expected, peer.exchanged = peer.expected + 1, True
            peer.parts += body[9:]
            if not flags & MORE:
                peer.messages += 1
                message = Message(peer.identity, channel, peer.parts, peer.messages, bool(flags & RELIABLE), now_us)
                self._inbox.setdefault(channel, deque()).append(message)
                peer.parts = b""
        self._send(peer, base, remote, ACK, struct.pack("<I", peer.expected), now_us)

    def _send(self, peer: Peer, base: Base, remote: Address, kind: int, body: bytes, now_us: int) -> None:
        self._counter += 1
        name = self.identity.text.encode()
        number = self._counter & 0xFFFF
        to = int.from_bytes(peer.nonce, "little")
        head = _HEAD.pack(0x80, to, number, kind, peer.my_nonce, peer.nonce, len(name))
        packet = head + bytes(byte ^ 0x5A for byte in name + body)
        if base[0] == "socket":
            if base[1] in self._sockets:
                self._out.append(Transmit(base[1], remote, [packet]))
            return
        relay = self._relays.get(base[1])
        if relay is None or relay.relayed is None or ":" in remote[0]:
            return
        if relay.permitted.get(remote[0], 0) <= now_us:
            self._permit(relay, remote[0], now_us)
        send = StunMessage(Method.SEND, Class.INDICATION, bytes(12), xor_peer_addresses=[remote], data=packet)
        self._out.append(Transmit(relay.through, relay.server, [encode_stun(send, fingerprint=False)]))

    # Time

    def handle_timeout(self, now_us: int) -> None:
        if now_us >= self._next_us:
            self._next_us = now_us + (TICK_US if self._is_busy else IDLE_TICK_US)
        self._work(now_us)

    @property
    def _is_busy(self) -> bool:
        return bool(self._asks) or any(peer.frames or peer.path is None for peer in self._peers.values())

    def poll_timeout(self) -> Deadline | None:
        return Deadline(self._next_us, "tick")

    def _work(self, now_us: int) -> None:
        for id_, ask in list(self._asks.items()):
            if ask.next_us <= now_us:
                ask.tries, ask.next_us = ask.tries + 1, now_us + ASK_US
                if ask.tries > ASKS_MAX:
                    del self._asks[id_]
                    relay = self._relays.get(ask.through)
                    if relay is not None and relay.server == ask.to and not relay.is_stream:
                        del self._relays[ask.through]
                elif ask.through in self._sockets or ask.through in self._streams:
                    self._out.append(Transmit(ask.through, ask.to, [ask.make(id_)]))
        if now_us >= self._gather_us:
            self._gather(now_us)
        for relay in list(self._relays.values()):
            if relay.relayed is not None and relay.refresh_us <= now_us:
                relay.refresh_us = now_us + REFRESH_US
                self._request(relay, StunMessage(Method.REFRESH, 0, b"", lifetime_s=600), lambda answer, now_us: None, now_us)
        for peer in list(self._peers.values()):
            if not peer.failed:
                self._work_peer(peer, now_us)

    def _work_peer(self, peer: Peer, now_us: int) -> None:
        if peer.path is not None and peer.paths.get(peer.path, 0) < now_us - LOST_US:
            working = [path for path, at_us in peer.paths.items() if at_us >= now_us - LOST_US]
            peer.path = working[0] if working else None
        if peer.path is None and now_us - peer.alive_us > self.config.timeout_initial_us:
            if peer.accepted:
                self._fail(peer, "no way", now_us)
            else:
                del self._peers[peer.identity.text]
            return
        if peer.path is None and peer.signal_us <= now_us:
            peer.signal_us = now_us + SIGNAL_US
            self._signal(peer)
        if peer.nonce and peer.ping_us <= now_us:
            peer.ping_us = now_us + (PING_US if peer.path is None else KEEP_US)
            self._ping(peer, now_us)
        if peer.path is not None and peer.frames and peer.resend_us <= now_us:
            peer.resend_us = now_us + 400_000
            for number, frame in enumerate(list(peer.frames)[:WINDOW]):
                head = struct.pack("<IiB", peer.first + number, frame.channel, frame.flags)
                self._send(peer, *peer.path, FRAME, head + frame.data, now_us)

    def _ping(self, peer: Peer, now_us: int) -> None:
        sockets: list[tuple[Base, int]] = [(("socket", id_), 6 if ":" in local[0] else 4) for id_, local in self._sockets.items()]
        relays: list[tuple[Base, int]] = [(("relay", relay.through), 4) for relay in self._relays.values() if relay.relayed]
        for base, family in sockets + relays:
            for remote in peer.candidates:
                if (6 if ":" in remote[0] else 4) == family:
                    self._send(peer, base, remote, PING, b"", now_us)

    # Commands

    def poll_transmit(self, now_us: int) -> Transmit | None:
        return self._out.popleft() if self._out else None

    def poll_event(self) -> Event | None:
        return self._events.popleft() if self._events else None

    def send_message(self, to: Identity, data: bytes, flags: int, channel: int, now_us: int) -> Result:
        peer = self._peers.get(to.text)
        if peer is not None and peer.failed:
            if not flags & SendFlags.AUTO_RESTART_BROKEN_SESSION:
                return Result.CONNECT_FAILED
            peer.failed, peer.alive_us = False, now_us
        peer = peer or self._new_peer(to, now_us)
        peer.accepted = True
        parts = [data[at : at + PART_BYTES] for at in range(0, len(data), PART_BYTES)] or [b""]
        reliable = RELIABLE if flags & SendFlags.RELIABLE else 0
        for number, part in enumerate(parts, 1):
            peer.frames.append(Frame(channel, reliable | (MORE if number < len(parts) else 0), part, len(data)))
        self._work(now_us)
        return Result.OK

    def receive_messages(self, channel: int, max_messages: int, now_us: int) -> list[Message]:
        inbox = self._inbox.get(channel, deque())
        return [inbox.popleft() for _ in range(min(max_messages, len(inbox)))]

    def accept_session(self, identity: Identity, now_us: int) -> bool:
        peer = self._peers.get(identity.text)
        if peer is None:
            return False
        peer.accepted = True
        return True

    def close_session(self, identity: Identity, now_us: int) -> bool:
        peer = self._peers.pop(identity.text, None)
        if peer is None:
            return False
        if peer.unconfirmed.messages:
            reason = EndReason.SESSION_CLOSED
            self._events.append(SessionFailed(identity, reason, ConnectionState.NONE, "closed", peer.unconfirmed))
        return True

    def close_channel(self, identity: Identity, channel: int, now_us: int) -> bool:
        return False

    def connection_info(self, identity: Identity, now_us: int) -> ConnectionInfo | None:
        return None

    def real_time_status(self, identity: Identity, now_us: int) -> RealTimeStatus | None:
        return None

    def close(self, now_us: int) -> None:
        for peer in list(self._peers.values()):
            self.close_session(peer.identity, now_us)

    @property
    def unread_messages(self) -> int:
        return sum(map(len, self._inbox.values()))

    # For tests

    def path_to(self, name: str) -> tuple[Base, Address] | None:
        peer = self._peers.get(name)
        return peer.path if peer else None


def make_rendezvous(servers: ServerList) -> MakeEndpoint:
    def make(identity: Identity, config: Config, entropy: Callable[[int], bytes], key_seed: bytes | None) -> EndpointLike:
        return RendezvousEndpoint(identity, config=config, entropy=entropy, servers=servers)

    return make
