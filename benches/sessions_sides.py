"""The processes of `benches.sessions`: hub and crowd, echo and pinger."""

from __future__ import annotations

import asyncio
import gc
import resource
import struct
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from benches.cases import anonymous_memory_bytes
from peergram import Config, ConnectionState, Identity, Messages, SendFlags, SessionRequested
from peergram.drivers.asyncio_driver import AsyncioDriver
from peergram.drivers.system import monotonic_us, secure_entropy, wall_offset_us
from peergram.drivers.thread_driver import ThreadDriver
from peergram.endpoint.endpoint import Endpoint
from peergram.events import Event, Message

SIDES = ("hub", "crowd", "echo", "pinger")

PORT = 27_490
FRAME_US = 16_667
MESSAGE_BYTES = 100
_KNOCK_CHANNEL, _START_CHANNEL = 1, 2
_GROUP = 8
"""Endpoints that knock at a time: fewer than may wait for an answer from one address."""
_POLL_S = 0.002
_START_DELAY_US = 2_000_000
_PAUSE_US = 1_000_000
"""Between two stages, so that what is late does not count for the next one."""
_MEMORY_FROM = 10
"""Memory is counted from this many sessions on: what the first ones cost is the program's."""
_STAMP = struct.Struct("<q")
_NO_NAGLE = SendFlags.UNRELIABLE_NO_NAGLE
_CONFIG = Config(session_idle_us=3_600_000_000)
"""Gathering ten thousand takes longer than an idle session may last by default."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What both sides do."""

    driver: str
    sessions: int
    rates: list[float]
    """Messages per second and session, each way: one stage each."""
    seconds: float
    """Length of a stage."""
    load: str = "calm"
    """What the echo's main thread does."""
    switch_interval_s: float = 0.005
    freezes: bool = False
    """Whether the hub's program calls `gc.freeze` once everybody is there."""

    def as_dict(self) -> dict[str, Any]:
        """For the other process."""
        return asdict(self)


def run_side(side: str, plan: Plan) -> dict[str, Any]:
    """Be one of `SIDES`; its account."""
    if side == "hub":
        return _threaded_hub(plan) if plan.driver == "thread" else asyncio.run(_asyncio_hub(plan))
    if side == "crowd":
        return asyncio.run(_crowd(plan))
    return _echo(plan) if side == "echo" else asyncio.run(_pinger(plan))


@dataclass(slots=True)
class _Stage:
    """One rate, measured."""

    rate: float
    begin_us: int
    end_us: int
    began_at_us: int = 0
    cpu_s: float = 0.0
    received: int = 0
    sent: int = 0
    delays_us: list[int] = field(default_factory=list)
    elapsed_s: float = 0.0

    def account(self) -> dict[str, Any]:
        delays = sorted(self.delays_us) or [0]
        return {
            "rate": self.rate,
            "received": self.received,
            "sent": self.sent,
            "cpu_s": self.cpu_s,
            "elapsed_s": self.elapsed_s,
            "p50_us": delays[len(delays) // 2],
            "p99_us": delays[len(delays) * 99 // 100],
        }


class _Stages:
    """Frame after frame: who is to be sent something now, and what belongs to the stage."""

    def __init__(self, plan: Plan, start_us: int, sends: list[Callable[[bytes], object]]) -> None:
        length_us = int(plan.seconds * 1e6)
        self.stages = [
            _Stage(rate, begin_us := start_us + at * (length_us + _PAUSE_US), begin_us + length_us)
            for at, rate in enumerate(plan.rates)
        ]
        self._sends = sends
        self._next = 0
        self._owed = 0.0
        self._last_frame_us = 0
        self._current = 0
        self.frame_at_us = start_us

    @property
    def is_over(self) -> bool:
        return self._current >= len(self.stages)

    def note(self, messages: list[Message], now_us: int, *, by_arrival: bool = False) -> None:
        """Messages that came just now; `by_arrival` takes the time when the endpoint got them."""
        if self.is_over:
            return
        stage = self.stages[self._current]
        if stage.began_at_us:
            stage.received += len(messages)
            stage.delays_us += [
                (message.received_at_us if by_arrival else now_us) - _STAMP.unpack_from(message.payload)[0]
                for message in messages
            ]

    def frame(self, now_us: int) -> None:
        """Send what this frame owes, if its time has come."""
        if self.is_over or now_us < self.frame_at_us:
            return
        stage = self.stages[self._current]
        # Who has nothing to send sleeps.
        is_idle = not stage.rate and stage.began_at_us
        self.frame_at_us = stage.end_us if is_idle else max(self.frame_at_us + FRAME_US, now_us)
        if now_us >= stage.end_us:
            stage.cpu_s = time.process_time() - stage.cpu_s
            stage.elapsed_s = (now_us - stage.began_at_us) / 1e6
            self._current += 1
            return
        if now_us < stage.begin_us:
            return
        if not stage.began_at_us:
            stage.began_at_us, stage.cpu_s = now_us, time.process_time()
        # Whoever is late owes no session more than one message.
        passed_us = now_us - self._last_frame_us if self._last_frame_us > stage.begin_us else FRAME_US
        self._last_frame_us = now_us
        self._owed = min(self._owed + len(self._sends) * stage.rate * passed_us / 1e6, float(len(self._sends)))
        while self._owed >= 1:
            self._owed -= 1
            self._sends[self._next](_STAMP.pack(monotonic_us()).ljust(MESSAGE_BYTES, b"\0"))
            self._next = (self._next + 1) % len(self._sends)
            stage.sent += 1

    def accounts(self) -> list[dict[str, Any]]:
        return [stage.account() for stage in self.stages]


class CollectorPauses:
    """How long the garbage collector held up the process, from now on."""

    def __init__(self) -> None:
        self._began_s = time.perf_counter()
        self._pause_began_s = 0.0
        self._longest_s = self._total_s = 0.0
        gc.callbacks.append(self._note)

    def _note(self, phase: str, _info: dict[str, int]) -> None:
        if phase == "start":
            self._pause_began_s = time.perf_counter()
            return
        pause_s = time.perf_counter() - self._pause_began_s
        self._total_s += pause_s
        self._longest_s = max(self._longest_s, pause_s)

    def account(self) -> dict[str, float]:
        """The longest pause in ms, and the share of the time since the beginning."""
        gc.callbacks.remove(self._note)
        return {"longest_ms": self._longest_s * 1e3, "share": self._total_s / (time.perf_counter() - self._began_s)}


class _Gathering:
    """Waits for the crowd, and measures what it takes."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.present: dict[Identity, None] = {}
        self._memory_before = 0
        self.memory_bytes_per_session = 0.0

    def note(self, knocks: list[Message]) -> None:
        for message in knocks:
            self.present[message.identity] = None
            if len(self.present) == min(_MEMORY_FROM, self._plan.sessions):
                self._memory_before = anonymous_memory_bytes()

    def finish(self) -> None:
        if self._plan.freezes:
            gc.collect()
            gc.freeze()
        grown = anonymous_memory_bytes() - self._memory_before
        self.memory_bytes_per_session = grown / max(self._plan.sessions - _MEMORY_FROM, 1)


# --- the measured process ---


def _threaded_hub(plan: Plan) -> dict[str, Any]:
    """A plain `Messages`: its driver thread, and a main thread that waits for messages and frames."""
    gathering, stages = _Gathering(plan), None
    with Messages("hub", listen=f"127.0.0.1:{PORT}", key=False, trust="open", config=_CONFIG, signaling=None) as net:
        net.on_session_request = lambda request: net.accept_session_with_user(request.identity)
        while stages is None:
            net.wait(0.05)
            net.run_callbacks()
            gathering.note(net.receive_messages_on_channel(_KNOCK_CHANNEL, 1_000))
            for message in net.receive_messages_on_channel(_START_CHANNEL, 1):
                gathering.finish()
                stages = _Stages(plan, _STAMP.unpack(message.payload)[0], [_sender_of(net, who) for who in gathering.present])
        pauses = CollectorPauses()
        while not stages.is_over:
            wait_us = stages.frame_at_us - monotonic_us()
            if wait_us > 0:
                net.wait(wait_us / 1e6)
            stages.note(net.receive_messages_on_channel(0, 100_000), monotonic_us())
            stages.frame(monotonic_us())
        return _hub_account(gathering, stages, pauses)


def _hub_account(gathering: _Gathering, stages: _Stages, pauses: CollectorPauses) -> dict[str, Any]:
    memory_bytes = gathering.memory_bytes_per_session
    return {"stages": stages.accounts(), "memory_bytes_per_session": memory_bytes, "collector": pauses.account()}


def _sender_of(net: Messages, who: Identity) -> Callable[[bytes], object]:
    send = net.send_message_to_user
    return lambda payload: send(who, payload, _NO_NAGLE)


async def _asyncio_hub(plan: Plan) -> dict[str, Any]:
    """An endpoint in an event loop."""
    gathering, stages = _Gathering(plan), None
    endpoint = _endpoint("hub")
    endpoint.listen(("127.0.0.1", PORT))
    driver = AsyncioDriver(endpoint)
    await driver.start()
    while stages is None:
        await _next_messages(driver, 0.05)
        for event in driver.poll_events():
            _accept(driver, endpoint, event)
        gathering.note(_receive(driver, endpoint, _KNOCK_CHANNEL))
        for message in _receive(driver, endpoint, _START_CHANNEL):
            gathering.finish()
            sends = [_caller_of(driver, endpoint, who) for who in gathering.present]
            stages = _Stages(plan, _STAMP.unpack(message.payload)[0], sends)
    pauses = CollectorPauses()
    while not stages.is_over:
        wait_us = stages.frame_at_us - monotonic_us()
        if not endpoint.unread_messages:
            await _next_messages(driver, max(wait_us, 0) / 1e6)
        stages.note(_receive(driver, endpoint, 0), monotonic_us())
        stages.frame(monotonic_us())
        await asyncio.sleep(0)
    driver.close()
    return _hub_account(gathering, stages, pauses)


def _accept(driver: AsyncioDriver, endpoint: Endpoint, event: Event) -> None:
    if isinstance(event, SessionRequested):
        driver.call(partial(endpoint.accept_session, event.identity))


def _caller_of(driver: AsyncioDriver, endpoint: Endpoint, who: Identity) -> Callable[[bytes], object]:
    return lambda payload: driver.call(lambda now_us: endpoint.send_message(who, payload, int(_NO_NAGLE), 0, now_us))


def _receive(driver: AsyncioDriver, endpoint: Endpoint, channel: int) -> list[Message]:
    return driver.call(lambda now_us: endpoint.receive_messages(channel, 100_000, now_us))


async def _next_messages(driver: AsyncioDriver, timeout_s: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(driver.messages_arrived(), timeout_s)


def _endpoint(name: str) -> Endpoint:
    return Endpoint(Identity.of(name), config=_CONFIG, entropy=secure_entropy, wall_offset_us=wall_offset_us())


# --- the crowd ---


class _OneOfCrowd:
    """An endpoint with a socket and an identity of its own."""

    def __init__(self, number: int) -> None:
        self._to = Identity.of(f"ip:127.0.0.1:{PORT}")
        self.endpoint = _endpoint(f"crowd-{number}")
        self.driver = AsyncioDriver(self.endpoint)

    def send(self, payload: bytes, flags: SendFlags = _NO_NAGLE, channel: int = 0) -> None:
        self.driver.call(lambda now_us: self.endpoint.send_message(self._to, payload, int(flags), channel, now_us))

    def is_let_in(self) -> bool:
        info = self.endpoint.connection_info(self._to, monotonic_us())
        if info is None or info.state in (ConnectionState.CLOSED_BY_PEER, ConnectionState.PROBLEM_DETECTED_LOCALLY):
            raise ConnectionError(f"the hub refuses one of the crowd: {info and info.end_debug}")
        return info.state == ConnectionState.CONNECTED


async def _crowd(plan: Plan) -> dict[str, Any]:
    _, descriptors_max = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors_max, descriptors_max))
    everybody: list[_OneOfCrowd] = []
    for start in range(0, plan.sessions, _GROUP):
        group = [_OneOfCrowd(number) for number in range(start, min(start + _GROUP, plan.sessions))]
        for one in group:
            await one.driver.start()
            one.send(b"here", SendFlags.RELIABLE, _KNOCK_CHANNEL)
        while not all(one.is_let_in() for one in group):
            await asyncio.sleep(_POLL_S)
        everybody += group
    start_us = monotonic_us() + _START_DELAY_US
    everybody[0].send(_STAMP.pack(start_us), SendFlags.RELIABLE, _START_CHANNEL)
    stages = _Stages(plan, start_us, [one.send for one in everybody])
    is_busy = any(plan.rates)
    while not stages.is_over:
        await asyncio.sleep(max(stages.frame_at_us - monotonic_us(), 0) / 1e6)
        if is_busy:
            for one in everybody:
                if one.endpoint.unread_messages:
                    stages.note(_receive(one.driver, one.endpoint, 0), monotonic_us(), by_arrival=True)
        stages.frame(monotonic_us())
    return {"stages": stages.accounts()}


# --- a thread driver beside a main thread that never pauses ---


def _echo(plan: Plan) -> dict[str, Any]:
    """Answers from the driver's own thread, so that only this thread's waits for the interpreter count."""
    sys.setswitchinterval(plan.switch_interval_s)
    endpoint = _endpoint("echo")
    endpoint.listen(("127.0.0.1", PORT))
    driver = ThreadDriver(endpoint, notify=lambda: _answer(driver, endpoint))
    driver.start()
    end_s = time.monotonic() + plan.seconds + 3.0
    while time.monotonic() < end_s:
        if plan.load == "busy":
            _compute()
        else:
            time.sleep(0.05)
    driver.close()
    return {}


def _answer(driver: ThreadDriver, endpoint: Endpoint) -> None:
    for event in driver.poll_events():
        if isinstance(event, SessionRequested):
            driver.call(partial(endpoint.accept_session, event.identity))
    with driver.lock:
        now_us = monotonic_us()
        for message in endpoint.receive_messages(0, 100, now_us):
            endpoint.send_message(message.identity, message.payload, int(_NO_NAGLE), 0, now_us)
        driver.flush(now_us)


def _compute() -> int:
    total = 0
    for number in range(200_000):
        total += number & 3
    return total


async def _pinger(plan: Plan) -> dict[str, Any]:
    one = _OneOfCrowd(0)
    await one.driver.start()
    one.send(bytes(64), SendFlags.RELIABLE)
    while not one.is_let_in() or not one.endpoint.unread_messages:
        await asyncio.sleep(_POLL_S)
    trips_us: list[int] = []
    end_us = monotonic_us() + int(plan.seconds * 1e6)
    while monotonic_us() < end_us:
        _receive(one.driver, one.endpoint, 0)
        sent_us = monotonic_us()
        one.send(bytes(64))
        await _next_messages(one.driver, 1.0)
        trips_us.append(monotonic_us() - sent_us)
        # Not in step with anything the other side does.
        await asyncio.sleep(0.001 * (1 + len(trips_us) % 7))
    trips_us.sort()
    return {"trips": len(trips_us), "p50_us": trips_us[len(trips_us) // 2], "p99_us": trips_us[len(trips_us) * 99 // 100]}
