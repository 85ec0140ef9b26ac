"""A small endpoint with the interface of the real one, to test the simulator with: one go-back stream per session, no secrets.

Every packet is a data packet: header, full number, masked body, check. A client says hello, gets a cookie, joins with it, is
welcomed when the other application accepts; then frames with a sequence number are acknowledged cumulatively. Reliable and
unreliable messages share the stream.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from peergram.address import Address
from peergram.config import Config
from peergram.errors import EndReason, Result
from peergram.events import (
    ConnectionInfo,
    ConnectionState,
    Event,
    InfoFlags,
    Message,
    RealTimeStatus,
    SendFlags,
    SessionFailed,
    SessionRequested,
    Unconfirmed,
)
from peergram.identity import Identity
from peergram.io_requests import CloseSocket, OpenSocket, Transmit
from peergram.sim.world import EndpointLike
from peergram.timing import NEVER, Deadline

HELLO, COOKIE, JOIN, WELCOME, FRAME, ACK, CLOSE, CLOSED, NO_SESSION, PING, PONG = range(1, 12)
WINDOW = 16
RETRY_US = 500_000
RTO_US, RTO_MAX_US = 300_000, 2_000_000
KEEPALIVE_US, PING_US = 10_000_000, 2_000_000
CLOSE_RETRY_US, CLOSE_TRIES = 300_000, 10
COOKIE_TICK_US = 1 << 21
HELLO_BYTES = 512
OVERHEAD_BYTES = 48
CHARGE_BYTES = 256

_HEAD = struct.Struct("<BIHQ")
_FRAME = struct.Struct("<IIiBI")
_KEY = b"toy"


@dataclass
class Frame:
    sequence: int
    channel: int
    flags: int
    number: int
    data: bytes
    message_bytes: int = 0
    """Of the whole message; only the sender knows."""


@dataclass
class Session:
    identity: Identity
    my_id: int
    is_client: bool
    remote: Address
    started_us: int
    state: str
    """socket, hello, join, pending, open, failed, closing"""
    socket_id: int = 0
    peer_id: int = 0
    cookie: bytes = b""
    next_try_us: int = 0
    tries: int = 0
    frames: deque[Frame] = field(default_factory=deque)
    next_sequence: int = 0
    base: int = 0
    to_send: int = 0
    queued_bytes: int = 0
    unacked_since_us: int = NEVER
    heard_us: int = 0
    rto_us: int = RTO_US
    rto_at_us: int = NEVER
    pace_at_us: int = 0
    ping_since_us: int = NEVER
    next_ping_us: int = 0
    last_message_us: int = 0
    expected: int = 0
    early: dict[int, Frame] = field(default_factory=dict)
    parts: bytes = b""
    messages_out: int = 0
    end_reason: int = 0
    wake_us: int = NEVER
    channels: set[int] = field(default_factory=set)

    @property
    def unconfirmed(self) -> Unconfirmed:
        lasts = [frame for frame in self.frames if frame.flags & 2 and frame.flags & 1]
        return Unconfirmed(len(lasts), sum(frame.message_bytes for frame in lasts))


class ToyEndpoint:
    def __init__(self, identity: Identity, *, config: Config, entropy: Callable[[int], bytes]) -> None:
        self.identity = identity
        self.config = config
        self._entropy = entropy
        self._secret = entropy(16)
        self._numbers = 0
        self._sockets = 0
        self._listen_id = 0
        self._requests: deque[OpenSocket | CloseSocket] = deque()
        self._out: deque[Transmit] = deque()
        self._events: deque[Event] = deque()
        self._sessions: dict[str, Session] = {}
        self._closing: dict[int, Session] = {}
        self._retired: deque[int] = deque(maxlen=256)
        self._inbox: dict[int, deque[Message]] = {}
        self._unread: dict[str, list[int]] = {}
        """Messages and bytes by identity."""

    # Sockets

    def listen(self, bind: Address) -> int:
        self._listen_id = self._open_socket(bind)
        return self._listen_id

    def _open_socket(self, bind: Address) -> int:
        self._sockets += 1
        self._requests.append(OpenSocket(self._sockets, 4, bind))
        return self._sockets

    def poll_socket_request(self) -> OpenSocket | CloseSocket | None:
        """A socket is closed only when nothing waits to go through it."""
        if not self._requests:
            return None
        waiting = {transmit.socket_id for transmit in self._out}
        if isinstance(self._requests[0], CloseSocket) and self._requests[0].socket_id in waiting:
            return None
        return self._requests.popleft()

    def handle_socket_opened(self, socket_id: int, local: Address, now_us: int) -> None:
        for session in self._of_socket(socket_id):
            session.state = "hello"
            self._work(session, now_us)

    def handle_socket_failed(self, socket_id: int, text: str, now_us: int) -> None:
        for session in self._of_socket(socket_id):
            session.socket_id = 0
            self._fail(session, EndReason.MISC_GENERIC, text)

    def _of_socket(self, socket_id: int) -> list[Session]:
        return [session for session in self._sessions.values() if session.is_client and session.socket_id == socket_id]

    # Packets

    def handle_datagrams(self, socket_id: int, remote: Address, data: bytes, segment_bytes: int, now_us: int) -> None:
        for at in range(0, len(data), max(segment_bytes, 1)):
            self._handle_packet(socket_id, remote, data[at : at + segment_bytes], now_us)

    def _handle_packet(self, socket_id: int, remote: Address, packet: bytes, now_us: int) -> None:
        if len(packet) < _HEAD.size + 9 or packet[0] != 0x80 or len(packet) > 1300:
            return
        if not hmac.compare_digest(_check(packet[:-8]), packet[-8:]):
            return
        body = _mask(packet[: _HEAD.size], packet[_HEAD.size : -8])
        kind, to_id = body[0], int.from_bytes(packet[1:5], "little")
        if kind in (HELLO, JOIN):
            if socket_id == self._listen_id and len(packet) >= HELLO_BYTES:
                self._stranger(kind, remote, body, now_us)
            return
        session = self._closing.get(to_id) or next((s for s in self._sessions.values() if s.my_id == to_id), None)
        if session is None or session.state == "failed":
            if kind in (FRAME, PING):
                self._send(socket_id, remote, int.from_bytes(body[1:5], "little"), bytes((NO_SESSION,)) + packet[1:5])
            elif kind == CLOSE:
                self._send(socket_id, remote, int.from_bytes(body[1:5], "little"), bytes((CLOSED,)))
            return
        if remote == session.remote and (session.socket_id == socket_id):
            self._for_session(session, kind, body, now_us)

    def _stranger(self, kind: int, remote: Address, body: bytes, now_us: int) -> None:
        client_id = int.from_bytes(body[1:5], "little")
        if kind == HELLO:
            cookie = self._cookie(remote, now_us // COOKIE_TICK_US)
            self._send(self._listen_id, remote, client_id, bytes((COOKIE,)) + cookie)
            return
        ticks = now_us // COOKIE_TICK_US
        if body[5:21] not in (self._cookie(remote, ticks), self._cookie(remote, ticks - 1)):
            return
        identity = Identity.parse_bytes(body[22 : 22 + body[21]])
        session = self._sessions.get(identity.text)
        if session is not None and not session.is_client and session.peer_id == client_id:
            if session.state == "open":
                self._welcome(session)
            return
        if client_id in self._retired:
            return
        accepted = session is not None and session.state not in ("failed", "pending")
        if session is not None and session.is_client and session.state in ("hello", "join", "socket"):
            if self.identity.text < identity.text:
                return
            self._become_server(session, remote, client_id, now_us)
            return
        if session is not None:
            self._drop(session, EndReason.MISC_GENERIC, "replaced by a new session")
        session = Session(identity, self._id(), False, remote, now_us, "pending", self._listen_id, client_id)
        self._sessions[identity.text] = session
        if accepted:
            self._open(session, now_us)
        else:
            self._events.append(SessionRequested(identity, "nothing", "", remote[0]))
            self._work(session, now_us)

    def _become_server(self, session: Session, remote: Address, client_id: int, now_us: int) -> None:
        self._requests.append(CloseSocket(session.socket_id))
        session.is_client, session.remote, session.peer_id, session.socket_id = False, remote, client_id, self._listen_id
        self._open(session, now_us)

    def _for_session(self, session: Session, kind: int, body: bytes, now_us: int) -> None:
        if session.state == "closing":
            if kind in (CLOSED, NO_SESSION):
                self._forget_closing(session)
            elif kind == CLOSE:
                self._send_to(session, bytes((CLOSED,)))
            return
        if kind == COOKIE and session.state == "hello":
            session.cookie, session.state, session.next_try_us = body[1:17], "join", now_us
        elif kind == WELCOME and session.state == "join":
            session.peer_id = int.from_bytes(body[1:5], "little")
            self._open(session, now_us)
        elif session.state != "open":
            return
        session.heard_us = now_us
        session.ping_since_us = NEVER
        if kind == FRAME:
            self._take_frame(session, body, now_us)
        elif kind == ACK:
            self._take_ack(session, int.from_bytes(body[1:5], "little"), now_us)
        elif kind == PING:
            self._send_to(session, bytes((PONG,)))
        elif kind == CLOSE:
            self._send_to(session, bytes((CLOSED,)))
            self._drop(session, EndReason.MISC_GENERIC, "closed by the peer", ConnectionState.CLOSED_BY_PEER)
            return
        elif kind == NO_SESSION and body[1:5] == session.peer_id.to_bytes(4, "little"):
            self._drop(session, EndReason.REMOTE_TIMEOUT, "the peer does not know the session")
            return
        self._work(session, now_us)

    def _take_frame(self, session: Session, body: bytes, now_us: int) -> None:
        _, sequence, channel, flags, number = _FRAME.unpack_from(body, 1)
        if session.expected <= sequence < session.expected + 4 * WINDOW:
            session.early[sequence] = Frame(sequence, channel, flags, number, body[1 + _FRAME.size :])
        self._assemble(session, now_us)

    def _assemble(self, session: Session, now_us: int) -> None:
        """Move what is in order into the inbox, as far as the reader's limits allow, and acknowledge it."""
        while (frame := session.early.get(session.expected)) is not None:
            if frame.flags & 2:
                size = len(session.parts) + len(frame.data)
                unread, unread_bytes = self._unread.get(session.identity.text, (0, 0))
                too_long = unread_bytes + max(size, CHARGE_BYTES) > self.config.recv_buffer_bytes
                if unread >= self.config.recv_buffer_messages or (unread and too_long):
                    break
                self._deliver(session, frame, session.parts + frame.data, now_us)
                session.parts = b""
            else:
                session.parts += frame.data
            del session.early[session.expected]
            session.expected += 1
        self._send_to(session, bytes((ACK,)) + session.expected.to_bytes(4, "little"))

    def _deliver(self, session: Session, frame: Frame, payload: bytes, now_us: int) -> None:
        message = Message(session.identity, frame.channel, payload, frame.number, bool(frame.flags & 1), now_us)
        self._inbox.setdefault(frame.channel, deque()).append(message)
        self._charge(message, 1)
        session.last_message_us = now_us
        session.channels.add(frame.channel)

    def _take_ack(self, session: Session, expected: int, now_us: int) -> None:
        if not session.base < expected <= session.to_send:
            return
        while session.frames and session.frames[0].sequence < expected:
            session.queued_bytes -= len(session.frames.popleft().data)
        session.base = expected
        session.rto_us = RTO_US
        session.rto_at_us = now_us + session.rto_us if session.base < session.to_send else NEVER
        session.unacked_since_us = now_us if session.base < session.to_send else NEVER

    # Time

    def handle_timeout(self, now_us: int) -> None:
        for session in [*self._sessions.values(), *self._closing.values()]:
            self._work(session, now_us)

    def poll_timeout(self) -> Deadline | None:
        wakes = [session.wake_us for session in (*self._sessions.values(), *self._closing.values())]
        earliest = min(wakes, default=NEVER)
        return None if earliest == NEVER else Deadline(earliest, "session")

    def _work(self, session: Session, now_us: int) -> None:
        session.wake_us = NEVER
        if session.state in ("hello", "join"):
            self._connect(session, now_us)
        elif session.state == "pending":
            session.wake_us = session.started_us + self.config.timeout_initial_us
            if now_us >= session.wake_us:
                self._drop(session, EndReason.MISC_TIMEOUT, "nobody accepted")
        elif session.state == "open":
            self._talk(session, now_us)
        elif session.state == "closing":
            if session.tries >= CLOSE_TRIES:
                self._forget_closing(session)
            elif now_us >= session.next_try_us:
                session.tries += 1
                session.next_try_us = now_us + CLOSE_RETRY_US
                self._send_to(session, bytes((CLOSE,)) + session.my_id.to_bytes(4, "little"))
            session.wake_us = session.next_try_us

    def _connect(self, session: Session, now_us: int) -> None:
        if now_us >= session.started_us + self.config.timeout_initial_us:
            self._fail(session, EndReason.MISC_TIMEOUT, "timed out attempting to connect")
            return
        if now_us >= session.next_try_us:
            session.next_try_us = now_us + RETRY_US
            head = session.my_id.to_bytes(4, "little")
            if session.tries % 4 == 3:
                session.state = "hello"
            session.tries += 1
            if session.state == "hello":
                body = bytes((HELLO,)) + head
            else:
                name = self.identity.text_bytes
                body = bytes((JOIN,)) + head + session.cookie + bytes((len(name),)) + name
            self._send(session.socket_id, session.remote, 0, body.ljust(HELLO_BYTES - _HEAD.size - 8, b"\0"))
        session.wake_us = min(session.next_try_us, session.started_us + self.config.timeout_initial_us)

    def _talk(self, session: Session, now_us: int) -> None:
        config = self.config
        if now_us >= session.rto_at_us:
            session.to_send = session.base
            session.rto_us = min(2 * session.rto_us, RTO_MAX_US)
            session.rto_at_us = NEVER
        self._send_frames(session, now_us)
        if now_us - session.heard_us >= KEEPALIVE_US and now_us >= session.next_ping_us:
            session.next_ping_us = now_us + PING_US
            session.ping_since_us = min(session.ping_since_us, now_us)
            self._send_to(session, bytes((PING,)) + session.my_id.to_bytes(4, "little"))
        waiting_us = min(session.unacked_since_us, session.ping_since_us)
        dead_us = NEVER if waiting_us == NEVER else max(session.heard_us, waiting_us) + config.timeout_connected_us
        if now_us >= dead_us:
            self._drop(session, EndReason.MISC_TIMEOUT, "connection dropped")
            return
        idle_us = session.last_message_us + config.session_idle_us if not session.frames else NEVER
        if now_us >= idle_us:
            self._close(session, now_us)
            return
        ping_us = max(session.heard_us + KEEPALIVE_US, session.next_ping_us)
        pace_us = session.pace_at_us if self._may_send(session) else NEVER
        session.wake_us = min(session.rto_at_us, dead_us, idle_us, ping_us, pace_us)

    def _may_send(self, session: Session) -> bool:
        return session.to_send < min(session.base + WINDOW, session.base + len(session.frames))

    def _send_frames(self, session: Session, now_us: int) -> None:
        while self._may_send(session) and now_us >= session.pace_at_us:
            frame = session.frames[session.to_send - session.base]
            head = _FRAME.pack(session.my_id, frame.sequence, frame.channel, frame.flags, frame.number)
            sent_bytes = self._send_to(session, bytes((FRAME,)) + head + frame.data)
            session.to_send += 1
            if self.config.rate == "fixed":
                session.pace_at_us = now_us + sent_bytes * 1_000_000 // self.config.send_rate_bytes
            if session.unacked_since_us == NEVER:
                session.unacked_since_us = now_us
            if session.rto_at_us == NEVER:
                session.rto_at_us = now_us + session.rto_us

    # Commands

    def send_message(self, to: Identity, data: bytes, flags: int, channel: int, now_us: int) -> Result:
        reliable = bool(flags & SendFlags.RELIABLE) or len(data) > 16_500
        session = self._sessions.get(to.text)
        if session is not None and session.state == "failed":
            if not flags & SendFlags.AUTO_RESTART_BROKEN_SESSION:
                return Result.CONNECT_FAILED
            self._remove(session)
            session = None
        if session is None:
            if to.ip_address is None or not to.ip_address[1]:
                return Result.NO_CONNECTION
            session = self._dial(to, to.ip_address, now_us)
        elif session.state == "pending":
            self._open(session, now_us)
        if session.queued_bytes + len(data) > self.config.send_buffer_bytes:
            return Result.LIMIT_EXCEEDED
        self._queue(session, data, reliable, channel)
        session.last_message_us = now_us
        session.channels.add(channel)
        self._work(session, now_us)
        return Result.OK

    def _dial(self, to: Identity, remote: Address, now_us: int) -> Session:
        session = Session(to, self._id(), True, remote, now_us, "socket")
        session.socket_id = self._open_socket(("0.0.0.0", 0))
        session.last_message_us = session.heard_us = now_us
        self._sessions[to.text] = session
        return session

    def _queue(self, session: Session, data: bytes, reliable: bool, channel: int) -> None:
        session.messages_out += 1
        size = self.config.datagram_bytes - OVERHEAD_BYTES
        chunks = [data[at : at + size] for at in range(0, len(data), size)] or [b""]
        for chunk in chunks:
            flags = int(reliable) | 2 * (chunk is chunks[-1])
            session.frames.append(Frame(session.next_sequence, channel, flags, session.messages_out, chunk, len(data)))
            session.next_sequence += 1
        session.queued_bytes += len(data)

    def receive_messages(self, channel: int, max_messages: int, now_us: int) -> list[Message]:
        inbox = self._inbox.get(channel, deque())
        messages: list[Message] = []
        while inbox and len(messages) < max_messages:
            messages.append(inbox.popleft())
            self._charge(messages[-1], -1)
        for name in dict.fromkeys(message.identity.text for message in messages):
            session = self._sessions.get(name)
            if session is not None and session.state == "open" and session.expected in session.early:
                self._assemble(session, now_us)
                self._work(session, now_us)
        return messages

    def _charge(self, message: Message, sign: int) -> None:
        account = self._unread.setdefault(message.identity.text, [0, 0])
        account[0] += sign
        account[1] += sign * max(message.size, CHARGE_BYTES)
        if account[0] == 0:
            del self._unread[message.identity.text]

    @property
    def unread_messages(self) -> int:
        return sum(map(len, self._inbox.values()))

    def accept_session(self, identity: Identity, now_us: int) -> bool:
        session = self._sessions.get(identity.text)
        if session is None or session.state == "failed":
            return False
        if session.state == "pending":
            self._open(session, now_us)
        return True

    def close_session(self, identity: Identity, now_us: int) -> bool:
        session = self._sessions.get(identity.text)
        self._discard_unread(identity, None)
        if session is None:
            return False
        self._close(session, now_us)
        return True

    def close_channel(self, identity: Identity, channel: int, now_us: int) -> bool:
        session = self._sessions.get(identity.text)
        if session is None or channel not in session.channels:
            return False
        self._discard_unread(identity, channel)
        session.channels.discard(channel)
        if not session.channels:
            self._close(session, now_us)
        return True

    def connection_info(self, identity: Identity, now_us: int) -> ConnectionInfo | None:
        session = self._sessions.get(identity.text)
        if session is None:
            return None
        states = {"open": ConnectionState.CONNECTED, "failed": ConnectionState.PROBLEM_DETECTED_LOCALLY}
        return ConnectionInfo(
            identity=identity,
            address="",
            state=states.get(session.state, ConnectionState.CONNECTING),
            end_reason=session.end_reason,
            end_debug="",
            description="toy",
            flags=InfoFlags.UNAUTHENTICATED,
            own_peer=True,
            proven_by="nothing",
            key_fingerprint="",
        )

    def real_time_status(self, identity: Identity, now_us: int) -> RealTimeStatus | None:
        session = self._sessions.get(identity.text)
        if session is None:
            return None
        return RealTimeStatus(
            state=ConnectionState.CONNECTED,
            ping_ms=None,
            quality_local=None,
            quality_remote=None,
            out_packets_per_s=0.0,
            out_bytes_per_s=0.0,
            in_packets_per_s=0.0,
            in_bytes_per_s=0.0,
            send_rate_bytes_per_s=0,
            pending_unreliable_bytes=0,
            pending_reliable_bytes=session.queued_bytes,
            sent_unacked_reliable_bytes=0,
            queue_time_us=None,
            max_jitter_us=None,
        )

    def close(self, now_us: int) -> None:
        for session in list(self._sessions.values()):
            self._close(session, now_us)
        self._inbox.clear()
        self._unread.clear()

    # Ends

    def _open(self, session: Session, now_us: int) -> None:
        session.state = "open"
        session.heard_us = now_us
        session.last_message_us = now_us
        if not session.is_client:
            self._welcome(session)
        self._work(session, now_us)

    def _welcome(self, session: Session) -> None:
        self._send_to(session, bytes((WELCOME,)) + session.my_id.to_bytes(4, "little"))

    def _drop(
        self,
        session: Session,
        reason: EndReason,
        text: str,
        state: ConnectionState = ConnectionState.PROBLEM_DETECTED_LOCALLY,
    ) -> None:
        """End a session; it is reported if something was lost, and then refuses sends unless the peer closed it."""
        if session.unconfirmed.messages and state == ConnectionState.PROBLEM_DETECTED_LOCALLY:
            self._fail(session, reason, text)
            return
        if session.unconfirmed.messages:
            self._events.append(SessionFailed(session.identity, reason, state, text, session.unconfirmed))
        self._remove(session)

    def _fail(self, session: Session, reason: EndReason, text: str) -> None:
        failed = SessionFailed(session.identity, reason, ConnectionState.PROBLEM_DETECTED_LOCALLY, text, session.unconfirmed)
        self._events.append(failed)
        session.end_reason = reason
        self._release(session)
        session.state = "failed"
        session.frames.clear()
        session.early.clear()
        session.wake_us = NEVER

    def _close(self, session: Session, now_us: int) -> None:
        was_open = session.state == "open"
        del self._sessions[session.identity.text]
        if session.unconfirmed.messages:
            lost = session.unconfirmed
            self._events.append(SessionFailed(session.identity, EndReason.SESSION_CLOSED, ConnectionState.NONE, "closed", lost))
        if not was_open:
            self._release(session)
            return
        session.state, session.tries, session.next_try_us = "closing", 0, now_us
        session.frames.clear()
        self._closing[session.my_id] = session
        self._retired.append(session.peer_id)
        self._work(session, now_us)

    def _forget_closing(self, session: Session) -> None:
        self._closing.pop(session.my_id, None)
        self._release(session)
        session.state = "gone"

    def _remove(self, session: Session) -> None:
        self._sessions.pop(session.identity.text, None)
        self._release(session)
        session.state = "gone"

    def _release(self, session: Session) -> None:
        self._retired.append(session.peer_id)
        if session.is_client and session.socket_id:
            self._requests.append(CloseSocket(session.socket_id))
            session.socket_id = 0

    def _discard_unread(self, identity: Identity, channel: int | None) -> None:
        for of, inbox in self._inbox.items():
            if channel in (None, of):
                for message in inbox:
                    if message.identity == identity:
                        self._charge(message, -1)
                self._inbox[of] = deque(message for message in inbox if message.identity != identity)

    # Sending

    def poll_transmit(self, now_us: int) -> Transmit | None:
        return self._out.popleft() if self._out else None

    def poll_event(self) -> Event | None:
        return self._events.popleft() if self._events else None

    def _send_to(self, session: Session, body: bytes) -> int:
        return self._send(session.socket_id, session.remote, session.peer_id, body)

    def _send(self, socket_id: int, remote: Address, to_id: int, body: bytes) -> int:
        self._numbers += 1
        head = _HEAD.pack(0x80, to_id, self._numbers & 0xFFFF, self._numbers)
        sealed = head + _mask(head, body)
        packet = sealed + _check(sealed)
        if self._out and self._out[-1][:2] == (socket_id, remote) and len(self._out[-1].packets) < 44:
            self._out[-1].packets.append(packet)
        else:
            self._out.append(Transmit(socket_id, remote, [packet]))
        return len(packet)

    def _id(self) -> int:
        return int.from_bytes(self._entropy(4), "little") | 1

    def _cookie(self, remote: Address, tick: int) -> bytes:
        return hashlib.blake2b(f"{remote}{tick}".encode(), key=self._secret, digest_size=16).digest()


def _mask(head: bytes, body: bytes) -> bytes:
    stream = hashlib.shake_128(_KEY + head).digest(len(body))
    return (int.from_bytes(body, "little") ^ int.from_bytes(stream, "little")).to_bytes(len(body), "little")


def _check(sealed: bytes) -> bytes:
    return hashlib.blake2b(sealed, key=_KEY, digest_size=8).digest()


def make_toy(identity: Identity, config: Config, entropy: Callable[[int], bytes], key_seed: bytes | None) -> EndpointLike:
    return ToyEndpoint(identity, config=config, entropy=entropy)
