"""Messages received and not yet read, by channel, in order of arrival from all peers.

A channel costs nothing while it is empty (M2); what one peer may have lying here is limited by its connection, which is told
when the application reads (M1).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from peergram.config import MESSAGE_CHARGE_BYTES_MIN
from peergram.events import Message

if TYPE_CHECKING:
    from peergram.endpoint.link import Link

Entry = tuple["Link | None", int, Message]
"""Whose receive buffer the message is charged to, how much, and the message."""


def charge_of(size: int) -> int:
    """What a message of `size` bytes costs of the receive buffer."""
    return size if size > MESSAGE_CHARGE_BYTES_MIN else MESSAGE_CHARGE_BYTES_MIN


class Inbox:
    """Unread messages of an endpoint."""

    __slots__ = ("_channels", "count")

    def __init__(self) -> None:
        self._channels: dict[int, deque[Entry]] = {}
        self.count = 0

    def add(self, link: Link | None, charge: int, message: Message) -> None:
        """Put a message last on its channel."""
        queue = self._channels.get(message.channel)
        if queue is None:
            queue = self._channels[message.channel] = deque()
        queue.append((link, charge, message))
        self.count += 1

    def take(self, channel: int, messages_max: int) -> list[Entry]:
        """The oldest messages of a channel, at most that many."""
        queue = self._channels.get(channel)
        if queue is None:
            return []
        if len(queue) <= messages_max:
            del self._channels[channel]
            taken = list(queue)
        else:
            taken = [queue.popleft() for _ in range(messages_max)]
        self.count -= len(taken)
        return taken

    def discard(self, unwanted: Callable[[Message], bool], channel: int | None = None) -> Iterator[Entry]:
        """Throw away unread messages, of one channel or of all; yields what went."""
        for number in [channel] if channel is not None else list(self._channels):
            queue = self._channels.get(number)
            if queue is None:
                continue
            gone = [entry for entry in queue if unwanted(entry[2])]
            if not gone:
                continue
            kept = deque(entry for entry in queue if not unwanted(entry[2]))
            if kept:
                self._channels[number] = kept
            else:
                del self._channels[number]
            self.count -= len(gone)
            yield from gone
