"""Messages received and not yet read, by channel, in order of arrival from all peers.

A channel costs nothing while it is empty (M2); what one peer may have lying here is limited by its connection, which is told
when the application reads (M1).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from peergram.events import Message


class Inbox:
    """Unread messages of an endpoint."""

    __slots__ = ("_channels", "count")

    def __init__(self) -> None:
        self._channels: dict[int, deque[Message]] = {}
        self.count = 0
        """Messages in all channels; whoever appends to a queue adds to it."""

    def queue(self, channel: int) -> deque[Message]:
        """The unread messages of a channel, to append to; valid until the next `take` or `discard`."""
        queue = self._channels.get(channel)
        if queue is None:
            queue = self._channels[channel] = deque()
        return queue

    def take(self, channel: int, messages_max: int) -> list[Message]:
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

    def discard(self, unwanted: Callable[[Message], bool], channel: int | None = None) -> list[Message]:
        """Throw away unread messages, of one channel or of all; what went."""
        gone: list[Message] = []
        for number in [channel] if channel is not None else list(self._channels):
            queue = self._channels.pop(number, None)
            if queue is None:
                continue
            gone += [message for message in queue if unwanted(message)]
            kept = deque(message for message in queue if not unwanted(message))
            if kept:
                self._channels[number] = kept
        self.count -= len(gone)
        return gone
