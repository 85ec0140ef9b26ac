"""S8: half of the signals lost, half of those that are left doubled, each copy late by anything up to five seconds and thus out
of order. 99.9 % of the calls are up within ten seconds, and the others end with a reason.

Short by default; PEERGRAM_SOAK=1 makes all 10 000 calls and prints what they took.
"""

from __future__ import annotations

from peergram.events import SessionFailed, SessionRequested
from peergram.identity import Identity
from tests.endpoint.by_identity import Host, World
from tests.lab import SOAK

CALLS = 10_000 if SOAK else 100
DELAY_US_MAX = 5_000_000
WITHIN_US = 10_000_000
PATIENCE_US = 40_000_000
UP_PERCENT = 99.9


class BadService(World):
    """Alice and bob, and such a service between them."""

    def __init__(self, seed: int) -> None:
        super().__init__("alice", "bob", seed=seed)
        self.alice, self.bob = self.hosts["alice"], self.hosts["bob"]

    def carry_signal(self, sender: Host, to: Identity, blob: bytes) -> None:
        if self.random.random() < 0.5:
            return
        for _ in range(1 + (self.random.random() < 0.5)):
            self.at(self.random.randrange(DELAY_US_MAX + 1), lambda: self.deliver_signal(sender.identity, to, blob))

    def is_over(self) -> bool:
        """The message has arrived, or alice knows that it does not; bob lets everybody in."""
        if self.bob.events and any(isinstance(event, SessionRequested) for event in self.bob.events):
            self.bob.events.clear()
            self.bob.accept(self.alice)
        return self.bob.endpoint.unread_messages > 0 or any(isinstance(event, SessionFailed) for event in self.alice.events)


def call_took_us(seed: int) -> int | None:
    """Until bob has alice's message; None if she was told that it failed."""
    world = BadService(seed)
    began_us = world.now_us
    world.alice.send(world.bob)
    assert world.run(PATIENCE_US, world.is_over), f"seed {seed}: neither came up nor ended"
    return world.now_us - began_us if world.bob.endpoint.unread_messages else None


def test_nearly_every_call_is_up_within_ten_seconds() -> None:
    took = [call_took_us(seed) for seed in range(CALLS)]
    in_time = sorted(us for us in took if us is not None and us <= WITHIN_US)
    failed = took.count(None)
    print(
        f"\n{len(in_time)} of {CALLS} calls in time, median {in_time[len(in_time) // 2] / 1e6:.2f} s, "
        f"99 % in {in_time[len(in_time) * 99 // 100] / 1e6:.2f} s, {failed} failed, {CALLS - len(in_time) - failed} later"
    )
    assert len(in_time) * 100 >= UP_PERCENT * CALLS
