"""The application on a simulated host: it sends, reads, accepts, closes and answers as its plan says."""

from __future__ import annotations

from random import Random

from peergram.errors import Result
from peergram.events import Event, SendFlags, SessionFailed, SessionRequested
from peergram.sim.scenario import HostPlan
from peergram.sim.world import Host

ECHO_BYTES_MAX = 400
READ_AT_ONCE = 3
"""Messages a slow reader takes each time."""


class Player:
    """Uses one host; becomes well-behaved when `calm` is called."""

    def __init__(self, host: Host, plan: HostPlan, rng: Random) -> None:
        self.host = host
        self.plan = plan
        self.is_calm = False
        self._rng = rng
        self._read_planned = False

    # What the host tells

    def on_event(self, event: Event) -> None:
        """Answer requests and failures: not inside the call that reported them, but in a turn of its own."""
        run, name = self.host.run, event.identity.text
        if not self.host.world.knows(name):
            return
        delay_us = self._accept_delay_us() if isinstance(event, SessionRequested) else 0
        self.host.world.after(delay_us, lambda: self._answer(event, name, run))

    def on_readable(self) -> None:
        """Read now, a little, or later."""
        if self.is_calm or self.plan.read == "at once":
            self._read_all()
        elif self.plan.read == "slowly" and not self._read_planned:
            self._read_planned = True
            self.host.world.after(self.plan.read_every_us, lambda: self.host.when_running(self._read_some))

    # What the scenario wants

    def send(self, to: str, size_bytes: int, *, channel: int, reliable: bool, flags: int) -> Result | None:
        """Send one message; a full buffer is only noted."""
        all_flags = flags & ~SendFlags.NO_DELAY if reliable else flags
        if self.plan.on_failure == "auto restart":
            all_flags |= SendFlags.AUTO_RESTART_BROKEN_SESSION
        result = self.host.send(to, size_bytes, reliable=reliable, channel=channel, flags=all_flags)
        if result not in (Result.OK, None):
            self.host.world.mark(f"send returned {result.name if result else result}")
        return result

    def calm(self) -> None:
        """From now on read and accept at once, and clear away what failed."""
        self.is_calm = True
        self._read_all()
        for name in sorted(self.host.known):
            self._clear_failed(name)
            if self.plan.accept != "never" and self.host.world.knows(name):
                self.host.accept(name)

    def _accept_delay_us(self) -> int:
        return self.plan.accept_late_us if self.plan.accept == "late" and not self.is_calm else 0

    def _answer(self, event: Event, name: str, run: int) -> None:
        def act() -> None:
            if self.host.run != run:
                return
            if isinstance(event, SessionFailed):
                self._failed(name)
            else:
                self._requested(name)

        self.host.when_running(act)

    def _requested(self, name: str) -> None:
        world = self.host.world
        if self.plan.accept == "never":
            world.mark("request ignored")
        elif self.plan.accept == "by sending":
            world.mark("accepted by sending")
            self.send(name, 30, channel=0, reliable=True, flags=0)
        else:
            world.mark("accepted late" if self.plan.accept == "late" else "accepted at once")
            self.host.accept(name)

    def _failed(self, name: str) -> None:
        if self.is_calm or self.plan.on_failure == "close":
            self._clear_failed(name)

    def _clear_failed(self, name: str) -> None:
        """A failed session refuses sends until it is closed; a live one is left alone."""
        info = self.host.info(name)
        if info is not None and info.end_reason:
            self.host.close_session(name)

    def _read_some(self) -> None:
        self._read_planned = False
        world, host = self.host.world, self.host
        for channel in sorted(world.channels):
            for message in host.receive(channel, READ_AT_ONCE):
                self._maybe_echo(message.identity.text, channel, message.size)
        if host.unread_messages and not self._read_planned:
            self._read_planned = True
            world.after(self.plan.read_every_us, lambda: host.when_running(self._read_some))

    def _read_all(self) -> None:
        for message in self.host.receive_all():
            self._maybe_echo(message.identity.text, message.channel, message.size)

    def _maybe_echo(self, name: str, channel: int, size_bytes: int) -> None:
        """Answer some messages, with something smaller, so that two players do not go on for ever."""
        if self._rng.random() < self.plan.echo and size_bytes > 0 and self.host.world.knows(name):
            reliable = self._rng.random() < 0.7
            self.send(name, min(size_bytes // 2, ECHO_BYTES_MAX), channel=channel, reliable=reliable, flags=0)
