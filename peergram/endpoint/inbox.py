"""Messages received and not yet read, by channel, in order of arrival from all peers.

A channel costs nothing while it is empty (M2). Messages stay in the batches they came in, each with what it charges to the room
of its peer, who is told when the application reads (M1).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol

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


class Inbox:
    """Unread messages of an endpoint."""

    __slots__ = ("_channels", "count")

    def __init__(self) -> None:
        self._channels: dict[int, deque[tuple[Sender, list[Message], int]]] = {}
        self.count = 0
        """Messages in all channels."""

    def add(self, channel: int, sender: Sender, messages: list[Message], charge_bytes: int) -> None:
        """Append messages of one sender, which charge that much together."""
        queue = self._channels.get(channel)
        if queue is None:
            queue = self._channels[channel] = deque()
        queue.append((sender, messages, charge_bytes))
        self.count += len(messages)

    def take(self, channel: int, messages_max: int) -> tuple[list[Message], list[Release]]:
        """The oldest messages of a channel, at most that many, and whom that gives room."""
        queue = self._channels.get(channel)
        taken: list[Message] = []
        released: list[Release] = []
        while queue and messages_max > len(taken):
            sender, messages, charge_bytes = queue.popleft()
            left = messages_max - len(taken)
            if len(messages) > left:
                rest_bytes = sum(charge_of(len(message.payload) + sender.header_bytes) for message in messages[left:])
                queue.appendleft((sender, messages[left:], rest_bytes))
                messages, charge_bytes = messages[:left], charge_bytes - rest_bytes
            taken += messages
            released.append((sender, len(messages), charge_bytes))
        if queue is not None and not queue:
            del self._channels[channel]
        self.count -= len(taken)
        return taken, released

    def waiting(self) -> Iterator[tuple[Sender, Message]]:
        """Every unread message and who sent it; for those who check the accounts."""
        for queue in self._channels.values():
            for sender, messages, _ in queue:
                for message in messages:
                    yield sender, message

    def discard(self, unwanted: Callable[[Sender], bool], channel: int | None = None) -> list[Release]:
        """Throw away unread messages of some senders, of one channel or of all; whom that gives room."""
        released: list[Release] = []
        for number in [channel] if channel is not None else list(self._channels):
            queue = self._channels.pop(number, None)
            if queue is None:
                continue
            released += [(sender, len(messages), charge) for sender, messages, charge in queue if unwanted(sender)]
            kept = deque(batch for batch in queue if not unwanted(batch[0]))
            if kept:
                self._channels[number] = kept
        self.count -= sum(messages for _, messages, _ in released)
        return released
