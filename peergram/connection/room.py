"""How much of one peer's data we hold: messages nobody has read, and stream bytes that are not messages yet.

All connections of a peer share one `ReceiveRoom`, so that reconnecting buys no memory (M1). What does not fit is not
acknowledged and stays with the sender. To keep several lanes from filling the room with halves of large messages, one lane at a
time may go beyond the limit to finish the message at its front.
"""

from __future__ import annotations

from typing import Final

from peergram.config import MESSAGE_CHARGE_BYTES_MIN

_NO_LIMIT: Final = 1 << 60


def charge_of(size: int) -> int:
    """What an unread message of `size` bytes costs: its bookkeeping at least."""
    return size if size > MESSAGE_CHARGE_BYTES_MIN else MESSAGE_CHARGE_BYTES_MIN


def charge_of_all(payloads: list[bytes]) -> int:
    """What unread messages cost together."""
    sizes = list(map(len, payloads))
    if max(sizes, default=0) <= MESSAGE_CHARGE_BYTES_MIN:
        return MESSAGE_CHARGE_BYTES_MIN * len(sizes)
    return sum([size if size > MESSAGE_CHARGE_BYTES_MIN else MESSAGE_CHARGE_BYTES_MIN for size in sizes])


class ReceiveRoom:
    """Counters and limits of one peer."""

    __slots__ = ("bytes_max", "favoured", "messages_max", "stream_bytes", "unread_bytes", "unread_messages")

    def __init__(self, *, messages_max: int, bytes_max: int) -> None:
        self.messages_max = messages_max
        self.bytes_max = bytes_max
        self.unread_messages = 0
        self.unread_bytes = 0
        self.stream_bytes = 0
        """Bytes in the reliable streams and the stores of unfinished unreliable messages, bookkeeping of single pieces
        included."""
        self.favoured: object | None = None
        """The stream that may exceed the limit until its front message is whole."""

    @property
    def messages_left(self) -> int:
        """Messages the application's queue still takes."""
        return self.messages_max - self.unread_messages

    @property
    def bytes_left(self) -> int:
        """Bytes it still takes; an empty queue takes any one message."""
        return self.bytes_max - self.unread_bytes if self.unread_messages else _NO_LIMIT

    def add_unread(self, messages: int, charge_bytes: int) -> None:
        """Messages went into the application's queue."""
        self.unread_messages += messages
        self.unread_bytes += charge_bytes

    def release(self, messages: int, charge_bytes: int) -> None:
        """The application took messages out of its queue."""
        self.unread_messages -= messages
        self.unread_bytes -= charge_bytes

    def takes(self, stream: object, size: int, *, finishes_front: bool) -> bool:
        """Whether a stream may hold `size` more bytes; `finishes_front`: they belong to the unfinished message at its front."""
        if self.stream_bytes + size <= self.bytes_max:
            return True
        if not finishes_front or self.favoured not in (None, stream):
            return False
        self.favoured = stream
        return True

    def finished(self, stream: object) -> None:
        """That stream's front message is whole, or the stream is gone."""
        if self.favoured is stream:
            self.favoured = None
