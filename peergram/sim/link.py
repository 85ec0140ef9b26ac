"""One direction of a network path, as a function from a datagram to its arrivals.

A link drops, delays, repeats, reorders and damages; it knows neither hosts nor the heap: `send` answers with the arrivals and
the world schedules them. All chance comes from the generator given, so that links do not disturb one another when a feature is
switched off.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from random import Random

from peergram.address import Address

UDP_OVERHEAD_BYTES = 28
"""IPv4 and UDP headers: a path of MTU 1500 carries datagrams of 1472 bytes."""
REPLAY_STORE_PACKETS = 64
"""Old packets that a link or an attacker may send again."""


@dataclass(slots=True)
class Datagram:
    """One packet under way; `tampered` when it is not what its sender sent, or not when he sent it."""

    source: Address
    destination: Address
    data: bytes
    tampered: bool = False


@dataclass(slots=True, kw_only=True)
class LinkModel:
    """How a link behaves: probabilities 0..1, times in microseconds; the defaults are a good local network."""

    delay_us: int = 10_000
    jitter_us: int = 0
    """Added to the delay, evenly from 0; it does not change the order."""
    loss: float = 0.0
    burst_begin: float = 0.0
    """Chance per packet that a Gilbert burst begins, in which every packet is lost."""
    burst_packets: int = 1
    """Mean length of such a burst."""
    duplicate: float = 0.0
    replay: float = 0.0
    """Chance per packet that an old one is sent again, up to `replay_delay_us` later."""
    replay_delay_us: int = 5_000_000
    reorder: float = 0.0
    reorder_us: int = 50_000
    corrupt: float = 0.0
    rate_bytes_per_s: int = 0
    """0: no limit."""
    queue_packets: int = 200
    """Packets that may wait for a limited rate; more are dropped."""
    mtu_bytes: int = 1500
    coalesce_us: int = 0
    """Arrivals are held back to multiples of this, so that several arrive at once."""


@dataclass(slots=True)
class LinkCounts:
    """What a link did with its packets."""

    sent: int = 0
    lost: int = 0
    overflowed: int = 0
    oversize: int = 0
    duplicated: int = 0
    replayed: int = 0
    reordered: int = 0
    corrupted: int = 0


@dataclass(slots=True)
class Link:
    """A one-way path with its queue, burst state and memory of its last packets."""

    model: LinkModel
    rng: Random
    up: bool = True
    counts: LinkCounts = field(default_factory=LinkCounts)
    recorded: deque[Datagram] = field(default_factory=lambda: deque(maxlen=REPLAY_STORE_PACKETS))
    """The last packets sent."""
    _in_burst: bool = False
    _free_at_us: int = 0
    _departures_us: deque[int] = field(default_factory=deque)
    _last_arrival_us: int = 0

    def send(self, datagram: Datagram, now_us: int) -> list[tuple[int, Datagram]]:
        """Every arrival that this packet causes, with its time."""
        self.counts.sent += 1
        if not self.up:
            self.counts.lost += 1
            return []
        arrivals = self._replayed(now_us)
        if len(datagram.data) + UDP_OVERHEAD_BYTES > self.model.mtu_bytes:
            self.counts.oversize += 1
            return arrivals
        departure_us = self._depart(len(datagram.data), now_us)
        if departure_us is None:
            self.counts.overflowed += 1
        elif self._lost():
            self.counts.lost += 1
        else:
            arrivals += self._arrive(datagram, departure_us)
        self.recorded.append(datagram)
        return arrivals

    def calm(self, delay_us: int) -> None:
        """From now on a good path; what is under way still arrives."""
        self.model = LinkModel(delay_us=delay_us)
        self.up = True
        self._in_burst = False

    def _depart(self, size_bytes: int, now_us: int) -> int | None:
        """When the last bit leaves, or None if the queue is full."""
        rate = self.model.rate_bytes_per_s
        if not rate:
            return now_us
        waiting = self._departures_us
        while waiting and waiting[0] <= now_us:
            waiting.popleft()
        if len(waiting) >= self.model.queue_packets:
            return None
        self._free_at_us = max(self._free_at_us, now_us) + (size_bytes + UDP_OVERHEAD_BYTES) * 1_000_000 // rate
        waiting.append(self._free_at_us)
        return self._free_at_us

    def _lost(self) -> bool:
        model, rng = self.model, self.rng
        if self._in_burst:
            self._in_burst = rng.random() >= 1 / model.burst_packets
            return True
        if model.burst_begin and rng.random() < model.burst_begin:
            self._in_burst = True
            return True
        return bool(model.loss) and rng.random() < model.loss

    def _arrive(self, datagram: Datagram, departure_us: int) -> list[tuple[int, Datagram]]:
        model, rng = self.model, self.rng
        arrivals = [(self._in_order(departure_us), datagram)]
        if model.duplicate and rng.random() < model.duplicate:
            self.counts.duplicated += 1
            arrivals.append((self._in_order(departure_us) + rng.randrange(20_000), datagram))
        if model.reorder and rng.random() < model.reorder:
            self.counts.reordered += 1
            at_us, moved = arrivals[0]
            arrivals[0] = (at_us + rng.randint(1_000, model.reorder_us), moved)
        if model.corrupt and rng.random() < model.corrupt:
            self.counts.corrupted += 1
            arrivals[0] = (arrivals[0][0], damaged(datagram, rng))
        return arrivals

    def _in_order(self, departure_us: int) -> int:
        model = self.model
        at_us = departure_us + model.delay_us
        if model.jitter_us:
            at_us += self.rng.randrange(model.jitter_us + 1)
        if model.coalesce_us:
            at_us += -at_us % model.coalesce_us
        self._last_arrival_us = max(at_us, self._last_arrival_us)
        return self._last_arrival_us

    def _replayed(self, now_us: int) -> list[tuple[int, Datagram]]:
        model, rng = self.model, self.rng
        if not model.replay or not self.recorded or rng.random() >= model.replay:
            return []
        self.counts.replayed += 1
        old = self.recorded[rng.randrange(len(self.recorded))]
        at_us = now_us + model.delay_us + rng.randrange(model.replay_delay_us)
        return [(at_us, Datagram(old.source, old.destination, old.data, tampered=True))]


def damaged(datagram: Datagram, rng: Random) -> Datagram:
    """A copy with a few bits flipped, cut short, or made longer."""
    data = bytearray(datagram.data)
    kind = rng.randrange(8)
    if kind == 0:
        del data[rng.randrange(len(data) + 1) :]
    elif kind == 1:
        data += rng.randbytes(rng.randint(1, 16))
    elif data:
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return Datagram(datagram.source, datagram.destination, bytes(data), tampered=True)
