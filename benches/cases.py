"""What is measured: the cases, and what both sides of a contestant report about one run of a case."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

MARGIN_S = 0.25
"""How much longer than the receiver's window the sender sends, so that the window never looks at its end."""
SILENCE_S = 0.3
"""After its window a receiver goes on counting until nothing has come for this long, so that loss can be told."""
FIRST_MESSAGE_TIMEOUT_S = 20.0
"""A side that has not met the other within this time gives up."""
WARM_UP_ROUND_TRIPS = 50
"""Round trips made before the first one that counts: by then both sides have run every line of their code."""
ECHO_TIMEOUT_S = 0.1
"""An unreliable message whose answer has not come by then is lost; the next one goes."""
IDLE_CONNECT_TIMEOUT_S = 90.0
"""All connections of a crowd are there by then, or the run has failed."""
IDLE_WINDOW_S_MIN = 20.0
"""Two periods of the keepalives that are sent every ten seconds: a shorter window could miss them all."""
IDLE_SETTLE_S = 1.0
"""Pause between the last connection's arrival and the window: handshakes are over, their garbage is gone."""

LINK_BYTES_PER_S = 2_500_000
"""The bad link's rate, 20 Mbit/s of UDP payload."""
LINK_DELAY_S = 0.025
"""The bad link's delay each way: a round trip of 50 ms."""
LINK_LOSS = 0.01
"""Share of datagrams lost on the bad link, each way, independently."""
LINK_DATAGRAM_BYTES_MAX = 1_472
"""What fits into an Ethernet frame behind IPv4 and UDP headers; larger datagrams do not pass."""
LINK_QUEUE_BYTES = 250_000
"""What waits before the bad link, 100 ms of its rate; what comes beyond is lost."""

Kind = Literal["flow", "round_trip", "idle", "lossy_link"]

ROLES: dict[Kind, tuple[str, str]] = {
    "flow": ("receiver", "sender"),
    "lossy_link": ("receiver", "sender"),
    "round_trip": ("echo", "pinger"),
    "idle": ("holder", "crowd"),
}
"""The two functions of a contestant that a kind of case needs; the first one binds the port."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One thing to measure. In a flow the figure is bytes (MB/s) or messages (messages/s) received per second of the window."""

    name: str
    unit: str
    description: str
    kind: Kind = "flow"
    message_bytes: int = 0
    connections: tuple[int, ...] = ()
    """Numbers of idle connections, each in processes of its own."""
    is_reliable: bool = False
    is_lower_better: bool = False
    is_default: bool = True
    """Whether it runs when no case is named."""
    contestants: tuple[str, ...] | None = None
    """Those that take part; None for all."""
    window_factor: float = 1.0
    """The window's length in units of the run's `--seconds`."""
    window_s_min: float = 0.0
    """It is at least that long."""
    rounds_max: int = 1_000
    """More rounds would only repeat what is known."""

    def rate(self, count: float, elapsed_s: float) -> float:
        """The figure for so many messages received in so many seconds."""
        per_s = count / elapsed_s if elapsed_s > 0 else 0.0
        if self.kind == "lossy_link":
            return 100 * per_s * self.message_bytes / LINK_BYTES_PER_S
        return per_s * self.message_bytes / 1e6 if self.unit == "MB/s" else per_s


def _small(message_bytes: int, is_reliable: bool) -> Case:
    word = "reliable" if is_reliable else "unreliable"
    lost = "" if is_reliable else ", and the share that was lost"
    return Case(
        name=f"{word}_{message_bytes}",
        unit="messages/s",
        description=f"{message_bytes}-byte {word} messages received per second{lost}",
        message_bytes=message_bytes,
        is_reliable=is_reliable,
    )


CASES: dict[str, Case] = {
    case.name: case
    for case in (
        Case(
            name="bulk_reliable",
            unit="MB/s",
            description="64 KiB reliable messages; payload received, in units of 10⁶ bytes per second",
            message_bytes=65_536,
            is_reliable=True,
        ),
        _small(1_000, True),
        _small(100, True),
        _small(1_000, False),
        _small(100, False),
        Case(
            name="round_trip_64",
            unit="µs",
            description="one unreliable 64-byte message there and back, sent at once (no Nagle), one at a time; the median trip",
            kind="round_trip",
            message_bytes=64,
            is_lower_better=True,
        ),
        Case(
            name="idle",
            unit="B/connection",
            description="memory of the process that holds accepted connections nobody uses: what it has with 1000 of them less "
            "what it has with 10 (its own pages, not the kernel's buffers), by connection; and the share of a core it takes",
            kind="idle",
            connections=(10, 100, 1000),
            is_lower_better=True,
            window_factor=4.0,
            window_s_min=IDLE_WINDOW_S_MIN,
            rounds_max=3,
        ),
        Case(
            name="lossy_link",
            unit="% of the link",
            description="16 KiB reliable messages over a link of 20 Mbit/s with 50 ms of round trip, 1 % loss each way and "
            "100 ms of queue, for datagrams that fit into an Ethernet frame; payload received, as a share of the link's rate",
            kind="lossy_link",
            message_bytes=16_384,
            is_reliable=True,
            is_default=False,
            contestants=("peergram", "reference_default", "reference"),
            window_factor=4.0,
            rounds_max=3,
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Task:
    """One run of a case, as a side sees it."""

    case: Case
    port: int
    """Where the first role listens on 127.0.0.1, and the second one reaches it."""
    seconds: float
    """Length of the window."""
    setting: str = ""
    """Which of the contestant's own settings to use; empty where it has none."""
    connections: int = 0
    """How many, for a holder and its crowd."""


@dataclass(slots=True)
class Sent:
    """The sender's account: every message handed over, and messages and CPU time of the first `seconds` of sending."""

    messages: int
    window_messages: int
    cpu_s: float


@dataclass(slots=True)
class Received:
    """The receiver's account: the window's figures, and every message that came up to the final silence."""

    messages: float
    elapsed_s: float
    cpu_s: float
    messages_total: float


@dataclass(slots=True)
class Pinged:
    """The pinger's account, over all round trips of its window."""

    round_trips: int
    lost: int
    p50_us: float
    p99_us: float
    cpu_s: float


@dataclass(slots=True)
class Held:
    """The holder's account: memory at the end of its window, CPU during it."""

    connections: int
    memory_bytes: int
    cpu_s: float
    elapsed_s: float


@dataclass(slots=True)
class SendClock:
    """Tells a sender when to stop, and keeps the account of its first `seconds`; start it when the way to the peer is open."""

    seconds: float
    _start_s: float = field(default_factory=time.perf_counter)
    _start_cpu_s: float = field(default_factory=time.process_time)
    _window: tuple[int, float] | None = None

    def is_running(self, sent: int) -> bool:
        """Ask between batches, with the running total of messages; False ends the sending."""
        elapsed_s = time.perf_counter() - self._start_s
        if self._window is None and elapsed_s >= self.seconds:
            self._close(sent)
        return elapsed_s < self.seconds + MARGIN_S

    def account(self, sent: int) -> Sent:
        """To be returned by the sender."""
        if self._window is None:
            self._close(sent)
        assert self._window
        return Sent(sent, *self._window)

    def _close(self, sent: int) -> None:
        self._window = sent, time.process_time() - self._start_cpu_s


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


class PingClock:
    """The pinger's window: opens after the warm-up; start it when the way to the peer is open.

    In a loop while `is_running`: send one message, then `note` its round trip, or `note_lost` after `ECHO_TIMEOUT_S`.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._trips_us: list[float] = []
        self._lost = 0
        self._warm_up = WARM_UP_ROUND_TRIPS
        self._open()

    def is_running(self) -> bool:
        """Ask before each message."""
        return bool(self._warm_up) or time.perf_counter() - self._start_s < self._seconds

    def note(self, trip_us: float) -> None:
        """One answer came."""
        if self._warm_up:
            self._end_warm_up()
        else:
            self._trips_us.append(trip_us)

    def note_lost(self) -> None:
        """One answer did not come."""
        if self._warm_up:
            self._end_warm_up()
        else:
            self._lost += 1

    def account(self) -> Pinged:
        """To be returned by the pinger."""
        cpu_s = time.process_time() - self._start_cpu_s
        trips_us = sorted(self._trips_us)
        return Pinged(len(trips_us), self._lost, _quantile(trips_us, 0.5), _quantile(trips_us, 0.99), cpu_s)

    def _end_warm_up(self) -> None:
        self._warm_up -= 1
        if not self._warm_up:
            self._open()

    def _open(self) -> None:
        self._start_s = time.perf_counter()
        self._start_cpu_s = time.process_time()


class HoldClock:
    """The holder's window: opens when all connections are there and have settled, closes `seconds` later.

    Call `note` with the number of connections now and then, at least every tenth of a second; True means that the run is over.
    A connection that goes again before the end, or a crowd that does not gather, raises `TimeoutError`.
    """

    POLL_S = 0.05
    """How long a holder may wait between two notes."""

    def __init__(self, connections: int, seconds: float) -> None:
        self._connections = connections
        self._seconds = seconds
        self._created_s = time.perf_counter()
        self._complete_s = self._start_s = self._start_cpu_s = 0.0
        self._held: Held | None = None

    def note(self, connections: int) -> bool:
        """Take the number of connections that are up; True when the holder should return."""
        now_s = time.perf_counter()
        if connections < self._connections:
            if self._complete_s or now_s - self._created_s > IDLE_CONNECT_TIMEOUT_S:
                raise TimeoutError(f"only {connections} of {self._connections} connections are there")
            return False
        if not self._complete_s:
            self._complete_s = now_s
        elif not self._start_s:
            if now_s - self._complete_s >= min(IDLE_SETTLE_S, self._seconds):
                self._start_s, self._start_cpu_s = now_s, time.process_time()
        elif now_s - self._start_s >= self._seconds:
            cpu_s = time.process_time() - self._start_cpu_s
            self._held = Held(connections, anonymous_memory_bytes(), cpu_s, now_s - self._start_s)
        return self._held is not None

    def account(self) -> Held:
        """To be returned by the holder."""
        assert self._held
        return self._held


def anonymous_memory_bytes() -> int:
    """Memory of this process that is its own: heap and stacks, without the pages of programs and libraries (Linux)."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status does not tell RssAnon")


def _quantile(ordered: list[float], share: float) -> float:
    """The smallest of these sorted values that at least this share of them does not exceed; 0 of none."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0
