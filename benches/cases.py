"""What is measured: the cases, and what both sides of a contestant report about one run of a case."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

MARGIN_S = 0.25
"""How much longer than the receiver's window the sender sends, so that the window never looks at its end."""
SILENCE_S = 0.3
"""After its window a receiver goes on counting until nothing has come for this long, so that loss can be told."""
FIRST_MESSAGE_TIMEOUT_S = 10.0
"""A side that has not met the other within this time gives up."""


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to measure; the figure is bytes (MB/s) or messages (messages/s) received per second of the window."""

    name: str
    message_bytes: int
    is_reliable: bool
    unit: str
    description: str

    def rate(self, count: float, elapsed_s: float) -> float:
        """The figure for so many messages received in so many seconds."""
        amount = count * self.message_bytes / 1e6 if self.unit == "MB/s" else count
        return amount / elapsed_s if elapsed_s > 0 else 0.0


CASES: dict[str, Case] = {
    case.name: case
    for case in (
        Case(
            "bulk_reliable", 65_536, True, "MB/s", "64 KiB reliable messages; payload received, in units of 10⁶ bytes per second"
        ),
        Case(
            "unreliable_100",
            100,
            False,
            "messages/s",
            "100-byte unreliable messages received per second, and the share that was lost",
        ),
    )
}


@dataclass(slots=True)
class Sent:
    """The sender's account: every message handed over, and the CPU time of the first `seconds` of sending."""

    messages: int
    cpu_s: float


@dataclass(slots=True)
class Received:
    """The receiver's account: the window's figures, and every message that came up to the final silence."""

    messages: float
    elapsed_s: float
    cpu_s: float
    messages_total: float


@dataclass(slots=True)
class SendClock:
    """Tells a sender when to stop, and keeps the CPU time of its first `seconds`; start it when the way to the peer is open."""

    seconds: float
    _start_s: float = field(default_factory=time.perf_counter)
    _start_cpu_s: float = field(default_factory=time.process_time)
    _cpu_s: float | None = None

    def is_running(self) -> bool:
        """Ask between batches; False ends the sending."""
        elapsed_s = time.perf_counter() - self._start_s
        if self._cpu_s is None and elapsed_s >= self.seconds:
            self._cpu_s = time.process_time() - self._start_cpu_s
        return elapsed_s < self.seconds + MARGIN_S

    def account(self, messages: int) -> Sent:
        """To be returned by the sender."""
        return Sent(messages, self._cpu_s if self._cpu_s is not None else time.process_time() - self._start_cpu_s)


class ReceiveClock:
    """The receiver's window: opens with the first message, closes `seconds` later, then waits for silence.

    Call `note` with the running total of messages after every batch, and with an unchanged total when nothing came for a moment;
    True means that the run is over.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._created_s = time.perf_counter()
        self._start_s = self._start_cpu_s = self._last_s = 0.0
        self._before = self._total = 0.0
        self._window: tuple[float, float, float] | None = None

    def note(self, total: float) -> bool:
        """Take the running total; True when the receiver should return."""
        now_s = time.perf_counter()
        if not self._start_s:
            return self._open(total, now_s)
        if total != self._total:
            self._total, self._last_s = total, now_s
        if self._window is None and now_s - self._start_s >= self._seconds:
            self._window = (total - self._before, now_s - self._start_s, time.process_time() - self._start_cpu_s)
        return self._window is not None and now_s - self._last_s > SILENCE_S

    def account(self) -> Received:
        """To be returned by the receiver; all zero if nothing ever came."""
        messages, elapsed_s, cpu_s = self._window or (0.0, 0.0, 0.0)
        return Received(messages, elapsed_s, cpu_s, self._total)

    def _open(self, total: float, now_s: float) -> bool:
        if not total:
            return now_s - self._created_s > FIRST_MESSAGE_TIMEOUT_S
        # The first batch opens the window and so is not part of it.
        self._before = self._total = total
        self._start_s = self._last_s = now_s
        self._start_cpu_s = time.process_time()
        return False
