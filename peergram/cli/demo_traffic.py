"""What the demonstration sends, and how it knows what became of it.

Every message carries its index and a hash of its content, so that damage and repeats are seen. Reliable messages are chained into
one hash per stream as well: both sides get the same one only if all arrived, once each, in order, unchanged.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

from peergram.cli.terminal import Failure
from peergram.config import Config
from peergram.errors import Result
from peergram.events import SendFlags
from peergram.identity import Identity
from peergram.messages import Messages

CONFIG = Config(send_time_since_previous=True)
HELLO_CHANNEL = 9
"""An empty message on it opens the session."""

_HEADER = struct.Struct(">I16s")
_HASH_BYTES = 16
_MESSAGES_PER_CALL = 256


@dataclass(frozen=True, slots=True)
class Stream:
    """Messages of one kind on one channel."""

    channel: int
    name: str
    reliable: bool
    per_second: float
    bytes_min: int
    bytes_max: int

    @property
    def kind(self) -> str:
        return "reliable" if self.reliable else "unreliable"


STREAMS = (
    Stream(0, "positions", False, 60, 24, 100),
    Stream(1, "events", True, 30, 24, 300),
    Stream(2, "pictures", False, 6, 3_000, 8_000),
    Stream(3, "levels", True, 2, 50_000, 150_000),
)


@dataclass(slots=True)
class Tally:
    """One stream in one direction, as one side counts it."""

    messages: int = 0
    size_bytes: int = 0
    damaged: int = 0
    repeated: int = 0
    chain: str = ""
    """Hash over the hashes of all messages, in the order of this side."""

    def add(self, payload: bytes) -> None:
        self.messages += 1
        self.size_bytes += len(payload)
        self.chain = hashlib.sha256(self.chain.encode() + hashlib.sha256(payload).digest()).hexdigest()


Tallies = dict[str, Tally]
"""By the stream's name."""


@dataclass(slots=True)
class Traffic:
    """Sends all streams to one peer, and checks what he sends."""

    net: Messages
    peer: Identity
    rng: Random
    sent: Tallies = field(default_factory=lambda: {stream.name: Tally() for stream in STREAMS})
    received: Tallies = field(default_factory=lambda: {stream.name: Tally() for stream in STREAMS})
    _waiting: dict[str, bytes] = field(default_factory=dict)
    _seen: dict[str, set[int]] = field(default_factory=lambda: {stream.name: set() for stream in STREAMS})

    def send_due(self, elapsed_s: float) -> None:
        """Send what is due after so many seconds; a reliable message that finds the buffer full is tried again next time."""
        for stream in STREAMS:
            tally = self.sent[stream.name]
            due = int(elapsed_s * stream.per_second) + 1
            while tally.messages < due and self._send_next(stream, tally):
                pass

    def receive(self) -> None:
        """Take and check everything that has arrived."""
        for stream in STREAMS:
            for payload in self._arrived(stream.channel):
                self._check(stream, payload)

    def _send_next(self, stream: Stream, tally: Tally) -> bool:
        payload = self._waiting.pop(stream.name, None) or self._make(stream, tally.messages)
        flags = SendFlags.RELIABLE if stream.reliable else SendFlags.UNRELIABLE
        result = self.net.send_message_to_user(self.peer, payload, flags, stream.channel)
        if result == Result.LIMIT_EXCEEDED:
            self._waiting[stream.name] = payload
            return False
        if result != Result.OK:
            raise Failure(f"Sending {stream.kind} messages failed ({result.name})")
        tally.add(payload)
        return True

    def _make(self, stream: Stream, index: int) -> bytes:
        body = self.rng.randbytes(self.rng.randint(stream.bytes_min, stream.bytes_max))
        return _HEADER.pack(index, _content_hash(index, body)) + body

    def _arrived(self, channel: int) -> Iterator[bytes]:
        while messages := self.net.receive_messages_on_channel(channel, _MESSAGES_PER_CALL):
            yield from (message.payload for message in messages if message.identity == self.peer)

    def _check(self, stream: Stream, payload: bytes) -> None:
        tally, seen = self.received[stream.name], self._seen[stream.name]
        body = payload[_HEADER.size :]
        index, content_hash = _HEADER.unpack_from(payload.ljust(_HEADER.size, b"\0"))
        if content_hash != _content_hash(index, body):
            tally.damaged += 1
        elif index in seen:
            tally.repeated += 1
        else:
            seen.add(index)
            tally.add(payload)


def _content_hash(index: int, body: bytes) -> bytes:
    return hashlib.sha256(index.to_bytes(4, "big") + body).digest()[:_HASH_BYTES]


def has_arrived(sent: Tallies, received: Tallies) -> bool:
    """Whether every reliable message sent has been received."""
    return all(received[stream.name].messages >= sent[stream.name].messages for stream in STREAMS if stream.reliable)


def is_intact(stream: Stream, sent: Tally, received: Tally) -> bool:
    """Nothing damaged or repeated; of a reliable stream everything, in order."""
    whole = not stream.reliable or (sent.messages, sent.chain) == (received.messages, received.chain)
    return whole and not received.damaged and not received.repeated and received.messages <= sent.messages
