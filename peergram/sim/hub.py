"""The signaling service of a world: it carries signals between hosts by identity, late, doubled, out of order, or not at all.

A hub may also lie. It names a wrong sender, changes addresses inside candidates, or sends old signals again: it has no keys, so
what it can do must end at a connection that does not come up, or comes up with whom it should.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING
from zlib import crc32

from peergram.identity import Identity

if TYPE_CHECKING:
    from peergram.sim.world import Host, World

REPLAY_STORE_SIGNALS = 32
REPLAY_DELAY_US_MAX = 20_000_000
_CANDIDATE = re.compile(rb"(candidate:[!-~]+ +[0-9]+ +[A-Za-z]+ +[0-9]+ +)([0-9a-fA-F.:]+)( +)([0-9]+)(?= +typ )")


@dataclass(slots=True, kw_only=True)
class SignalModel:
    """How the service behaves: probabilities 0..1, times in microseconds; the defaults are a good one."""

    delay_us: int = 30_000
    jitter_us: int = 0
    """Added evenly from 0, to each signal for itself: that changes the order."""
    loss: float = 0.0
    duplicate: float = 0.0
    names_sender: bool = True
    """Whether it can tell who sent a signal."""
    wrong_sender: float = 0.0
    altered_candidates: float = 0.0
    replay: float = 0.0
    """Chance per signal that an old one is sent again, to its own receiver."""

    @property
    def lies(self) -> bool:
        """Whether anything it delivers may be false."""
        return bool(self.wrong_sender or self.altered_candidates or self.replay)


@dataclass(slots=True)
class HubCounts:
    """What the hub did with its signals."""

    sent: int = 0
    lost: int = 0
    duplicated: int = 0
    forged: int = 0
    replayed: int = 0
    delivered: int = 0


class SignalHub:
    """Sets itself as the world's hub."""

    def __init__(self, world: World, model: SignalModel | None = None) -> None:
        self.world = world
        self.model = model or SignalModel()
        self.counts = HubCounts()
        self.up = True
        self._rng: Random = world.seeded("signals")
        self._recorded: deque[tuple[Host, Identity | None, bytes]] = deque(maxlen=REPLAY_STORE_SIGNALS)
        world.hub = self

    def outage(self, for_us: int) -> None:
        """For a while nothing is taken; what is under way still arrives."""
        self.world.note("hub", f"is down for {for_us} us")
        self.up = False

        def back() -> None:
            self.up = True

        self.world.after(for_us, back)

    def calm(self) -> None:
        """From now on a good and honest service."""
        self.model = SignalModel()
        self.up = True

    def send(self, host: Host, to: Identity, blob: bytes) -> None:
        """Take a signal of a host, as a service does: without an answer."""
        self.counts.sent += 1
        world, model = self.world, self.model
        world.note(host.name, f"signals {to.text}: {len(blob)} bytes, check {crc32(blob):08x}")
        if not self.up or not world.knows(to.text) or self._hits(model.loss):
            self.counts.lost += 1
            return
        receiver = world.named(to.text)
        sender = host.identity if model.names_sender else None
        if self._hits(model.replay) and self._recorded:
            self.counts.replayed += 1
            old_receiver, old_sender, old_blob = self._rng.choice(self._recorded)
            self._deliver_after(self._rng.randrange(REPLAY_DELAY_US_MAX), old_receiver, old_sender, old_blob)
        self._recorded.append((receiver, sender, blob))
        self._carry(receiver, sender, blob)
        if self._hits(model.duplicate):
            self.counts.duplicated += 1
            self._carry(receiver, sender, blob)

    def _carry(self, receiver: Host, sender: Identity | None, blob: bytes) -> None:
        model = self.model
        if self._hits(model.wrong_sender):
            self.counts.forged += 1
            sender = self._rng.choice([None, Identity.string("somebody"), *(host.identity for host in self.world.hosts)])
        if self._hits(model.altered_candidates):
            altered = alter_candidates(blob, self._rng)
            self.counts.forged += altered != blob
            blob = altered
        delay_us = model.delay_us + (self._rng.randrange(model.jitter_us + 1) if model.jitter_us else 0)
        self._deliver_after(delay_us, receiver, sender, blob)

    def _deliver_after(self, delay_us: int, receiver: Host, sender: Identity | None, blob: bytes) -> None:
        def arrive() -> None:
            self.counts.delivered += 1
            who = sender.text if sender else "nobody"
            self.world.note(receiver.name, f"gets a signal of {who}: {len(blob)} bytes, check {crc32(blob):08x}")
            if receiver.outside is not None:
                receiver.outside.deliver_signal(sender, blob)

        self.world.after(delay_us, arrive)

    def _hits(self, chance: float) -> bool:
        return bool(chance) and self._rng.random() < chance


def alter_candidates(blob: bytes, rng: Random) -> bytes:
    """The signal with other numbers in the addresses and ports of its candidates; no length changes, so that it still parses."""

    def other(number: re.Match[bytes]) -> bytes:
        first, rest = number[0][:1], number[0][1:]
        if not rest:
            return bytes((rng.choice(b"123456789"),))
        return first + bytes(rng.choice(b"0123456789") for _ in rest)

    def altered(candidate: re.Match[bytes]) -> bytes:
        host, port = (re.sub(rb"[0-9]+", other, part) for part in (candidate[2], candidate[4]))
        return candidate[1] + host + candidate[3] + port

    return _CANDIDATE.sub(altered, blob)
