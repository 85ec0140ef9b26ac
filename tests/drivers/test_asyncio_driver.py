from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

import pytest

from peergram.drivers.asyncio_driver import AsyncioDriver
from peergram.errors import AddressInUseError, ClosedError, UsageError

from .fake_endpoint import FakeEndpoint, faulty_sockets, numbered, numbers
from .rigs import LoopWithoutReaders


@pytest.fixture(params=[asyncio.SelectorEventLoop, LoopWithoutReaders], ids=["selector", "no readers"])
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, None]], None]:
    def run(main: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(asyncio.wait_for(main, 20))

    return run


async def started(endpoint: FakeEndpoint, **options: Any) -> AsyncioDriver:
    driver = AsyncioDriver(endpoint, **options)
    await driver.start()
    return driver


def send(driver: AsyncioDriver, remote: tuple[str, int], packets: list[bytes], **options: int) -> None:
    endpoint = driver.endpoint
    assert isinstance(endpoint, FakeEndpoint)
    driver.call(lambda now_us: endpoint.send(remote, packets, now_us, **options))


async def receive(driver: AsyncioDriver, count: int) -> list[int]:
    endpoint = driver.endpoint
    assert isinstance(endpoint, FakeEndpoint)
    received: list[int] = []
    while True:
        received += numbers(driver.call(lambda now_us: endpoint.receive()))
        if len(received) >= count:
            return received
        await asyncio.wait_for(driver.messages_arrived(), 5)


async def until(condition: Callable[[], object], timeout_s: float = 5.0) -> bool:
    give_up_at_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > give_up_at_s:
            return False
        await asyncio.sleep(0.001)
    return True


Run = Callable[[Awaitable[None]], None]


@pytest.mark.parametrize("batching", [True, False], ids=["batched", "plain"])
def test_what_is_sent_comes_back_from_an_echo(run: Run, batching: bool) -> None:
    async def main() -> None:
        echo, here = FakeEndpoint(echo=True), FakeEndpoint()
        there, driver = await started(echo, batching=batching), await started(here, batching=batching)
        for first in range(0, 440, 44):
            send(driver, echo.local, numbered(first, 44, 1272))
            assert await receive(driver, 44) == list(range(first, first + 44))
        for each in (there, driver):
            each.close()
            await each.wait_closed()
        assert echo.broken_promises == here.broken_promises == []

    run(main())


def test_timers_run_in_time_and_the_earlier_one_first(run: Run) -> None:
    async def main() -> None:
        here = FakeEndpoint()
        driver = await started(here)
        began_s = time.monotonic()
        for number, delay_us in ((0, 60_000_000), (1, 40_000), (2, 5_000), (3, 20_000)):
            send(driver, here.local, numbered(number, 1), delay_us=delay_us)
        assert await receive(driver, 3) == [2, 3, 1]
        assert 0.04 <= time.monotonic() - began_s < 1
        driver.close()
        assert here.broken_promises == []

    run(main())


def test_an_idle_driver_sleeps(run: Run) -> None:
    async def main() -> None:
        here = FakeEndpoint()
        driver = await started(here, make_socket=faulty_sockets([errno.EAGAIN], 0.5, seed=3))
        for number in range(20):
            send(driver, here.local, numbered(number, 1), delay_us=1_000)
            send(driver, here.local, numbered(number, 1))
        counters = driver.counters()[1]
        assert await until(lambda: counters.datagrams_sent + counters.backlog_dropped == 40)
        assert await until(lambda: here.received == counters.datagrams_sent)
        assert counters.sends_blocked > 0
        await asyncio.sleep(0.05)
        before = driver.wakeups
        await asyncio.sleep(1)
        assert driver.wakeups - before <= 2
        driver.close()

    run(main())


def test_sending_without_new_deadlines_does_not_touch_the_timer() -> None:
    async def main() -> None:
        here, there = FakeEndpoint(), FakeEndpoint()
        driver, other = await started(here), await started(there)
        send(driver, there.local, numbered(0, 1), delay_us=50_000_000)
        timer = driver._timer
        for number in range(100):
            send(driver, there.local, numbered(number, 1), delay_us=51_000_000)
        assert driver._timer is timer
        driver.close()
        other.close()

    asyncio.run(main())


def test_an_endpoint_that_is_always_due_leaves_the_loop_time() -> None:
    async def main() -> None:
        endpoint = FakeEndpoint()
        endpoint.always_due = True
        driver = await started(endpoint)
        await asyncio.sleep(0.3)
        assert driver.wakeups <= 320
        driver.close()

    asyncio.run(main())


def test_a_flood_does_not_starve_timers() -> None:
    async def main() -> None:
        here, flood = FakeEndpoint(), FakeEndpoint()
        driver, flooder = await started(here, batching=False), await started(flood, batching=False)
        lateness: list[float] = []

        async def tick() -> None:
            for _ in range(50):
                began_s = time.monotonic()
                await asyncio.sleep(0.005)
                lateness.append(time.monotonic() - began_s - 0.005)

        ticker = asyncio.create_task(tick())
        while not ticker.done():
            send(flooder, here.local, numbered(0, 40))
            await asyncio.sleep(0)
        assert here.received > 1_000
        assert sorted(lateness)[-3] < 0.05
        driver.close()
        flooder.close()

    asyncio.run(main())


def test_events_wake_those_who_wait_for_them(run: Run) -> None:
    async def main() -> None:
        here = FakeEndpoint()
        driver = await started(here)
        waiting = driver.events_arrived()
        await asyncio.sleep(0)
        assert not waiting.done()
        driver.call(lambda now_us: here.tell("one"))
        await asyncio.wait_for(waiting, 5)
        assert driver.events_arrived().done()
        assert list[object](driver.poll_events()) == ["one"]
        assert not driver.events_arrived().done()
        driver.close()

    run(main())


def test_waiting_for_messages_looks_for_new_ones_and_may_be_cancelled(run: Run) -> None:
    async def main() -> None:
        here = FakeEndpoint()
        driver = await started(here)
        send(driver, here.local, numbered(0, 1))
        assert await until(lambda: here.unread_messages == 1)
        await asyncio.sleep(0.02)
        first, second = driver.messages_arrived(), driver.messages_arrived()
        await asyncio.sleep(0.02)
        assert not first.done()
        first.cancel()
        send(driver, here.local, numbered(1, 1))
        await asyncio.wait_for(second, 5)
        assert numbers(here.receive()) == [0, 1]
        driver.close()

    run(main())


def test_a_port_in_use_reaches_whoever_asked_for_it(run: Run) -> None:
    async def main() -> None:
        taken, here = FakeEndpoint(), FakeEndpoint()
        first, driver = await started(taken), await started(here)
        late = AsyncioDriver(FakeEndpoint(bind=taken.local))
        with pytest.raises(AddressInUseError, match="choose another port"):
            await late.start()
        assert late.closed
        with pytest.raises(AddressInUseError):
            driver.call(lambda now_us: here.listen(taken.local))
        assert driver.call(lambda now_us: 5) == 5
        first.close()
        driver.close()

    run(main())


def test_a_socket_that_fails_for_the_endpoints_own_sake_is_nobody_elses_error(run: Run) -> None:
    async def main() -> None:
        taken, here = FakeEndpoint(), FakeEndpoint()
        first, driver = await started(taken), await started(here)
        here.on_timeout = partial(here.listen, taken.local)
        send(driver, here.local, numbered(0, 1), delay_us=1_000)
        assert await until(lambda: here.failures)
        assert driver.call(lambda now_us: 5) == 5
        first.close()
        driver.close()

    run(main())


def test_sockets_can_be_opened_and_closed_while_running(run: Run) -> None:
    async def main() -> None:
        echo, here = FakeEndpoint(echo=True), FakeEndpoint()
        there, driver = await started(echo), await started(here)
        for number in range(10):
            socket_id = there.call(lambda now_us: echo.listen(("127.0.0.1", 0)))
            send(driver, echo.locals[socket_id], numbered(number, 1))
            assert await receive(driver, 1) == [number]
            there.call(partial(echo.close_socket, socket_id))
        assert list(there.counters()) == [1]
        there.close()
        driver.close()

    run(main())


def test_closing_refuses_commands_and_releases_those_who_wait(run: Run) -> None:
    async def main() -> None:
        here = FakeEndpoint()
        driver = AsyncioDriver(here)
        with pytest.raises(UsageError, match="await its start"):
            driver.call(lambda now_us: 1)
        await driver.start()
        messages, events = driver.messages_arrived(), driver.events_arrived()
        driver.close()
        driver.close()
        await driver.wait_closed()
        for waiting in (messages, events):
            with pytest.raises(ClosedError):
                await waiting
        with pytest.raises(ClosedError):
            driver.call(lambda now_us: 1)
        assert here.closed == 1
        again = FakeEndpoint(bind=here.local)
        (await started(again)).close()

    run(main())


def test_sends_that_fail_one_time_in_ten_lose_packets_and_nothing_else(run: Run) -> None:
    codes = [errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.EMSGSIZE, errno.ENOBUFS, errno.EAGAIN]

    async def main() -> None:
        there, here = FakeEndpoint(), FakeEndpoint()
        other = await started(there)
        driver = await started(here, make_socket=faulty_sockets(codes, 0.1, seed=20))
        for first in range(0, 2_000, 4):
            send(driver, there.local, numbered(first, 4))
        counters = driver.counters()[1]
        assert await until(lambda: counters.datagrams_sent + counters.datagrams_lost + counters.backlog_dropped == 2_000)
        assert await until(lambda: there.received == counters.datagrams_sent)
        assert counters.sends_blocked > 0
        arrived = numbers(there.receive())
        assert arrived == sorted(arrived)
        driver.close()
        other.close()

    run(main())


def test_a_defect_in_the_endpoint_does_not_end_the_driver(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        here = FakeEndpoint()
        driver = await started(here)
        here.raise_in_handlers = 1
        send(driver, here.local, numbered(0, 1))
        assert await until(lambda: here.raise_in_handlers == 0)
        send(driver, here.local, numbered(1, 1))
        assert await receive(driver, 1) == [1]
        driver.close()

    run(main())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_gives_up_its_sockets_and_leaves_the_loop_to_its_parent() -> None:
    async def main() -> None:
        here = FakeEndpoint()
        driver = await started(here)
        pid = os.fork()
        if pid == 0:
            try:
                driver.call(lambda now_us: 1)
            except ClosedError:
                os._exit(0 if not driver.counters() else 2)
            os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0
        send(driver, here.local, numbered(4, 1))
        assert await receive(driver, 1) == [4]
        driver.close()

    asyncio.run(main())
