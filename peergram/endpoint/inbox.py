"""Messages received and not yet read, by channel, in order of arrival from all peers.

A channel costs nothing while it is empty (M2). Messages stay in the batches they came in, each with what it charges to the room
of its peer, who is told when the application reads (M1). A `Message` is made when it is taken: the interpreter's garbage
collector looks again and again at every object that holds others, and there may be hundreds of thousands that nobody has read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from typing import Final, NamedTuple, Protocol

from peergram.connection.room import charge_of
from peergram.events import Message
from peergram.identity import Identity


class Sender(Protocol):
    """Whose messages wait: what the inbox must know of a peer."""

    @property
    def identity(self) -> Identity:
        """Who he is."""

    @property
    def header_bytes(self) -> int:
        """What each of his messages had before its payload."""


Release = tuple[Sender, int, int]
"""Messages and charged bytes that a peer may have lying here again."""


_new: Final = tuple.__new__


class Batch(NamedTuple):
    """Messages of one sender on one channel that came together."""

    sender: Sender
    identity: Identity
    reliable: bool
    numbers: Sequence[int]
    payloads: list[bytes]
    charge_bytes: int
    received_at_us: int

    def messages(self, channel: int) -> list[Message]:
        """As the application sees them."""
        fields = zip(
            repeat(self.identity),
            repeat(channel),
            self.payloads,
            self.numbers,
            repeat(self.reliable),
            repeat(self.received_at_us, len(self.payloads)),
            strict=False,
        )
        return list(map(_new, repeat(Message), fields))

    def split(self, count: int) -> tuple[Batch, Batch]:
        """The first `count` messages, and the others."""
        header_bytes = self.sender.header_bytes
        rest_bytes = sum([charge_of(len(payload) + header_bytes) for payload in self.payloads[count:]])
        first = self._replace(
            numbers=self.numbers[:count], payloads=self.payloads[:count], charge_bytes=self.charge_bytes - rest_bytes
        )
        return first, self._replace(numbers=self.numbers[count:], payloads=self.payloads[count:], charge_bytes=rest_bytes)


class Inbox:
    """Unread messages of an endpoint."""

    __slots__ = ("_channels", "count")

    def __init__(self) -> None:
        self._channels: dict[int, deque[Batch]] = {}
        self.count = 0
        """Messages in all channels."""

    def add(self, channel: int, batch: Batch) -> None:
        """Append messages."""
        queue = self._channels.get(channel)
        if queue is None:
            queue = self._channels[channel] = deque()
        queue.append(batch)
        self.count += len(batch.payloads)

    def has(self, channel: int) -> bool:
        """Whether a channel has messages."""
        return channel in self._channels

    def take(self, channel: int, messages_max: int) -> tuple[list[Message], list[Release]]:
        """The oldest messages of a channel, at most that many, and whom that gives room."""
        queue = self._channels.get(channel)
        taken: list[Message] = []
        released: list[Release] = []
        while queue and messages_max > len(taken):
            batch = queue.popleft()
            left = messages_max - len(taken)
            if len(batch.payloads) > left:
                batch, rest = batch.split(left)
                queue.appendleft(rest)
            taken += batch.messages(channel)
            released.append((batch.sender, len(batch.payloads), batch.charge_bytes))
        if queue is not None and not queue:
            del self._channels[channel]
        self.count -= len(taken)
        return taken, released

    def waiting(self) -> Iterator[tuple[Sender, Message]]:
        """Every unread message and who sent it; for those who check the accounts."""
        for channel, queue in self._channels.items():
            for batch in queue:
                for message in batch.messages(channel):
                    yield batch.sender, message

    def discard(self, unwanted: Callable[[Sender], bool], channel: int | None = None) -> list[Release]:
        """Throw away unread messages of some senders, of one channel or of all; whom that gives room."""
        released: list[Release] = []
        for number in [channel] if channel is not None else list(self._channels):
            queue = self._channels.pop(number, None)
            if queue is None:
                continue
            released += [(batch.sender, len(batch.payloads), batch.charge_bytes) for batch in queue if unwanted(batch.sender)]
            kept = deque(batch for batch in queue if not unwanted(batch.sender))
            if kept:
                self._channels[number] = kept
        self.count -= sum(messages for _, messages, _ in released)
        return released
