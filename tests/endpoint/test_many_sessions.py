"""One endpoint with many sessions: what each takes of memory and time, counted rather than timed."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from math import log2

import pytest

from peergram.config import FIN_WAIT_US, KEEPALIVE_SLOT_US, KEEPALIVE_US, Config
from peergram.connection.connection import Connection
from peergram.endpoint.schedule import Schedule
from peergram.events import SendFlags
from peergram.timing import NEVER, Deadline
from tests.endpoint.world import SECOND_US, Host, World

PYTHON_BYTES_MAX = 14_000
"""A session's own objects: 20 kB, less what two contexts of the cipher take outside Python (2.8 kB each)."""


def crowd(count: int, *, config: Config | None = None) -> tuple[World, Host, list[Host]]:
    """A hub, and so many hosts that dialed it and said one thing."""
    world = World()
    hub = world.add("hub", config)
    return world, hub, gather(world, hub, count)


def gather(world: World, hub: Host, count: int) -> list[Host]:
    """So many more of them."""
    hosts = [world.add(f"host-{len(world.hosts) + number}") for number in range(count)]
    before = len(hub.received)
    for host in hosts:
        host.send(hub, b"here")
    world.run_until(lambda: len(hub.received) == before + count)
    world.run(SECOND_US)
    return hosts


def leave_behind(world: World, hosts: list[Host]) -> None:
    """Forget everything but the hub: what is still held is held for the sessions."""
    for host in hosts:
        host.kill()
        world.hosts.remove(host)
    world.sent.clear()
    hosts.clear()
    gc.collect()


def bytes_per_session(count: int, *, talks: bool = False) -> float:
    """What the hub's Python objects take for each of so many idle sessions."""
    world, hub, _hosts = crowd(3)
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        more = gather(world, hub, count)
        if talks:
            for host in more:
                for flags in (SendFlags.RELIABLE, SendFlags.UNRELIABLE):
                    host.send(hub, bytes(100), flags)
                    hub.send(host.identity, bytes(100), flags)
            world.run(2 * KEEPALIVE_US)
        hub.received.clear()
        hub.requests.clear()
        leave_behind(world, more)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(hub.live) == 3 + count
    return (after - before) / count


@pytest.mark.parametrize("talks", [False, True], ids=["who said one thing", "who talked and fell silent"])
def test_an_idle_session_takes_no_more_than_20_kilobytes(talks: bool) -> None:
    assert bytes_per_session(40, talks=talks) < PYTHON_BYTES_MAX


def test_what_a_session_takes_does_not_grow_with_their_number() -> None:
    assert bytes_per_session(160) < 1.1 * bytes_per_session(40)


def test_sessions_that_are_over_give_back_what_they_took() -> None:
    """Both ways of ending: the hub closes one half, the other half closes by itself."""
    world, hub, _hosts = crowd(3)
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        more = gather(world, hub, 60)
        during, _ = tracemalloc.get_traced_memory()
        for at, host in enumerate(more):
            if at % 2:
                hub.close_session(host.identity)
            else:
                host.close_session(hub)
        world.run(FIN_WAIT_US + hub.config.session_idle_us + SECOND_US)
        hub.received.clear()
        hub.requests.clear()
        leave_behind(world, more)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert not hub.links
    assert after - before < (during - before) / 20


class Counter:
    """How often the parts of an endpoint that belong to one connection were asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        for name in ("handle_timeout", "handle_datagrams", "poll_transmit", "poll_timeout"):
            monkeypatch.setattr(Connection, name, self._counting(getattr(Connection, name)))

    def _counting(self, original: Callable[..., object]) -> Callable[..., object]:
        def counted(*arguments: object) -> object:
            self.calls += 1
            return original(*arguments)

        return counted


@pytest.mark.parametrize("count", [2, 50])
def test_a_message_to_one_session_touches_no_other(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    world, hub, hosts = crowd(count)
    counter = Counter(monkeypatch)
    hosts[0].send(hub, b"hello", SendFlags.UNRELIABLE)
    world.run(KEEPALIVE_US // 5)
    assert hub.received[-1].payload == b"hello"
    assert counter.calls < 30


def test_idle_sessions_are_left_alone_until_something_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    world, _hub, _ = crowd(50)
    counter = Counter(monkeypatch)
    begin_us = world.now_us
    world.run(KEEPALIVE_US - 2 * SECOND_US)
    assert world.now_us > begin_us
    assert counter.calls == 0


def test_one_side_asks_all_idle_sessions_of_a_moment_in_one_go() -> None:
    """One question and one answer per session and interval, and a wake-up for a slot of time rather than for a session."""
    count, intervals = 50, 4
    world, hub, _hosts = crowd(count)
    world.run(KEEPALIVE_US + SECOND_US)
    world.records = True
    woken_us: set[int] = set()
    end_us = world.now_us + intervals * KEEPALIVE_US
    while hub.armed_at_us <= end_us:
        woken_us.add(hub.armed_at_us)
        world.run(hub.armed_at_us - world.now_us)
        assert len(woken_us) <= intervals * (KEEPALIVE_US // KEEPALIVE_SLOT_US)
    questions = [sent for sent in world.sent if sent[1] == hub.address]
    answers = [sent for sent in world.sent if sent[2] == hub.address]
    assert count * (intervals - 1) <= len(questions) <= count * intervals
    assert len(answers) <= len(questions)
    assert len(woken_us) < len(questions) / 5


class Countable(int):
    """A time that counts how often it is compared."""

    comparisons = 0

    def __lt__(self, other: int) -> bool:
        Countable.comparisons += 1
        return int(self) < int(other)

    def __eq__(self, other: object) -> bool:
        Countable.comparisons += 1
        return isinstance(other, int) and int(self) == int(other)

    def __hash__(self) -> int:
        return hash(int(self))


class Sleeper:
    """Somebody who can be woken."""

    def __init__(self) -> None:
        self.armed_at_us = NEVER


@pytest.mark.parametrize("sleeping", [100, 10_000])
def test_a_timer_costs_as_much_as_the_logarithm_of_those_that_sleep(sleeping: int) -> None:
    schedule = Schedule()
    for number in range(sleeping):
        schedule.arm(Sleeper(), Deadline(Countable(1_000_000 + number * 7_919 % sleeping), "sleeps"))
    Countable.comparisons = 0
    rounds = 200
    for number in range(rounds):
        schedule.arm(Sleeper(), Deadline(Countable(number), "due"))
        schedule.poll_timeout()
        assert schedule.pop_due(Countable(number)) is not None
        assert schedule.pop_due(Countable(number)) is None
    # A push and a pop each walk one path through the heap, two comparisons of two kinds a step.
    assert Countable.comparisons / rounds < 4 * (2 * log2(sleeping) + 4)
