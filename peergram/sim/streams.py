"""Reliable byte streams across a topology, as TCP gives them: in order, whole, late, cut anywhere, or broken.

Loss on the way costs a retransmission; while the way is cut, bytes wait, and after a while the stream breaks at both ends. A
router that restarted knows nothing of the stream: it breaks too, for the same reason. A server that ends closes it at once.
"""

from __future__ import annotations

from collections import deque
from random import Random
from typing import TYPE_CHECKING, Protocol

from peergram.sim.link import Link
from peergram.sim.topology import StreamPath

if TYPE_CHECKING:
    from peergram.sim.world import World

RETRANSMIT_US = 200_000
RETRY_US = 250_000
"""How often a stream looks whether a way that was cut carries again."""
BROKEN_AFTER_US = 10_000_000
"""Of nothing getting through."""
PIECES_MAX = 3
"""Into so many pieces what was written at once may arrive."""


class StreamEnd(Protocol):
    """Who holds one end."""

    def stream_opened(self, stream: Stream) -> None: ...
    def stream_data(self, stream: Stream, data: bytes) -> None: ...
    def stream_closed(self, stream: Stream, text: str) -> None: ...


class _Direction:
    """Bytes one way."""

    def __init__(self, stream: Stream, links: list[Link], to: StreamEnd) -> None:
        self.stream = stream
        self.links = links
        self.to = to
        self._waiting: deque[bytes] = deque()
        self._stuck_since_us: int | None = None
        self.last_arrival_us = 0

    def send(self, data: bytes) -> None:
        self._waiting.append(data)
        if len(self._waiting) == 1:
            self._pump()

    def _pump(self) -> None:
        stream, world = self.stream, self.stream.world
        if stream.is_over or not self._waiting:
            return
        if not stream.path.is_whole or stream.path.is_forgotten:
            self._stuck_since_us = world.now_us if self._stuck_since_us is None else self._stuck_since_us
            if world.now_us - self._stuck_since_us >= BROKEN_AFTER_US:
                stream.end("the stream timed out")
            else:
                world.after(RETRY_US, self._pump)
            return
        self._stuck_since_us = None
        while self._waiting:
            for piece in stream.cut_up(self._waiting.popleft()):
                self.last_arrival_us = max(self.last_arrival_us, world.now_us + self.delay_us())
                world.at(self.last_arrival_us, lambda piece=piece: self._arrive(piece))  # type: ignore[misc]

    def _arrive(self, data: bytes) -> None:
        if not self.stream.is_broken:
            self.to.stream_data(self.stream, data)

    def delay_us(self) -> int:
        """Of one piece, with what was lost of it sent again."""
        total, rng = 0, self.stream.rng
        for link in self.links:
            total += link.model.delay_us + (rng.randrange(link.model.jitter_us + 1) if link.model.jitter_us else 0)
            while link.model.loss and rng.random() < min(link.model.loss, 0.9):
                total += RETRANSMIT_US
        return total


class Stream:
    """One connection; `open` begins it."""

    def __init__(
        self, world: World, path: StreamPath, remote_port: int, rng: Random, client: StreamEnd, server: StreamEnd
    ) -> None:
        self.world = world
        self.path = path
        self.rng = rng
        self.client = client
        self.server = server
        self.is_over = False
        """Nothing more can be written."""
        self.is_broken = False
        """Nothing more arrives."""
        self.source = (path.source_host, rng.randint(1_024, 65_535))
        """What the server sees."""
        self.remote_port = remote_port
        self._there = _Direction(self, path.there, server)
        self._back = _Direction(self, path.back, client)

    def open(self) -> None:
        """Both ends learn of it, the server after one way, the client after both."""
        if not self.path.is_whole:
            self.world.after(BROKEN_AFTER_US, lambda: self.end("no answer"))
            return
        there_us = self._there.delay_us()
        self.world.after(there_us, lambda: None if self.is_over else self.server.stream_opened(self))
        self.world.after(there_us + self._back.delay_us(), lambda: None if self.is_over else self.client.stream_opened(self))

    def send(self, sender: StreamEnd, data: bytes) -> None:
        """One end writes."""
        if not self.is_over:
            (self._there if sender is self.client else self._back).send(data)

    def close(self, closer: StreamEnd) -> None:
        """One end closes; the other learns of it when the last bytes are there."""
        if self.is_over:
            return
        other, way = (self.server, self._there) if closer is self.client else (self.client, self._back)
        self.is_over = True

        def arrive() -> None:
            if not self.is_broken:
                self.is_broken = True
                other.stream_closed(self, "closed by the other end")

        self.world.at(max(way.last_arrival_us, self.world.now_us + way.delay_us()), arrive)

    def end(self, text: str) -> None:
        """Broken: both ends learn of it now."""
        if not self.is_over:
            self.is_over = self.is_broken = True
            self.client.stream_closed(self, text)
            self.server.stream_closed(self, text)

    def cut_up(self, data: bytes) -> list[bytes]:
        """Into a few pieces, at drawn places."""
        cuts = sorted(self.rng.randrange(1, len(data)) for _ in range(self.rng.randrange(PIECES_MAX))) if len(data) > 1 else []
        pieces = [data[low:high] for low, high in zip([0, *cuts], [*cuts, len(data)], strict=True)]
        return [piece for piece in pieces if piece]
