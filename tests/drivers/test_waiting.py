"""A program that waits through the thread driver does the network's work itself; the thread stands in when it stays away."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from peergram.drivers.system import monotonic_us
from peergram.drivers.thread_driver import ThreadDriver
from peergram.errors import ClosedError, UsageError
from peergram.timing import NEVER

from .fake_endpoint import FakeEndpoint, numbered, numbers, until, until_is
from .test_thread_driver import run_script


class Remembering(FakeEndpoint):
    """Knows in which threads datagrams were handled."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.handled_by: list[int] = []

    def handle_datagrams(self, *arguments: Any) -> None:
        self.handled_by.append(threading.get_ident())
        super().handle_datagrams(*arguments)


@pytest.fixture
def start() -> Iterator[Callable[..., ThreadDriver]]:
    drivers: list[ThreadDriver] = []

    def start(endpoint: FakeEndpoint) -> ThreadDriver:
        drivers.append(ThreadDriver(endpoint))
        drivers[-1].start()
        return drivers[-1]

    yield start
    for each in drivers:
        each.close()
        assert isinstance(each.endpoint, FakeEndpoint)
        assert each.endpoint.broken_promises == []


def send(driver: ThreadDriver, remote: tuple[str, int], number: int, *, delay_us: int = 0) -> None:
    endpoint = driver.endpoint
    assert isinstance(endpoint, FakeEndpoint)
    driver.call(lambda now_us: endpoint.send(remote, numbered(number, 1), now_us, delay_us=delay_us))


def soon(timeout_us: int = 5_000_000) -> int:
    return monotonic_us() + timeout_us


def test_what_arrives_is_handled_by_the_thread_that_waits(start: Callable[..., ThreadDriver]) -> None:
    echo, here = FakeEndpoint(echo=True), Remembering()
    start(echo)
    driver = start(here)
    for number in range(200):
        send(driver, echo.local, number)
        assert driver.wait(soon(), lambda: here.unread_messages > 0)
        assert numbers(here.receive()) == [number]
    ours = here.handled_by.count(threading.get_ident())
    assert ours > 150, "the first ones, and those the machine held us up for, may be the other thread's"


def test_a_wait_ends_with_its_time(start: Callable[..., ThreadDriver]) -> None:
    driver = start(FakeEndpoint())
    began_us = monotonic_us()
    assert not driver.wait(began_us + 30_000, lambda: False)
    assert 30_000 <= monotonic_us() - began_us < 1_000_000
    assert not driver.wait(0, lambda: False), "a time that is over already"


def test_a_wait_without_time_still_looks(start: Callable[..., ThreadDriver]) -> None:
    here = FakeEndpoint()
    driver = start(here)
    driver.wait(soon(5_000), lambda: False)
    for number in range(50):
        send(driver, here.local, number)
        assert until(lambda: driver.wait(0, lambda: here.unread_messages > 0))
        assert numbers(here.receive()) == [number]


def test_timers_run_while_somebody_waits(start: Callable[..., ThreadDriver]) -> None:
    here = FakeEndpoint()
    driver = start(here)
    for number in range(20):
        send(driver, here.local, number, delay_us=1_500)
        assert driver.wait(soon(), lambda: here.unread_messages > 0)
        assert numbers(here.receive()) == [number]


def test_the_thread_stands_in_once_the_program_stays_away(start: Callable[..., ThreadDriver]) -> None:
    here = Remembering()
    driver = start(here)
    for waited_us in (100, 20_000):
        driver.wait(soon(waited_us), lambda: False)
        before = here.received
        send(driver, here.local, 1)
        send(driver, here.local, 2, delay_us=3_000)
        assert until_is(lambda: here.received, before + 2)
        assert here.handled_by[-1] != threading.get_ident()


def test_a_program_that_sends_on_after_a_wait_reads_in_passing(start: Callable[..., ThreadDriver]) -> None:
    here = Remembering()
    driver = start(here)
    in_passing = 0
    until_us = soon()
    while in_passing < 5 and monotonic_us() < until_us:
        # The other thread has taken over wherever the machine held us up for long.
        driver.wait(soon(1_000), lambda: False)
        before = here.handled_by.count(threading.get_ident())
        for number in range(50):
            send(driver, here.local, number)
        in_passing += here.handled_by.count(threading.get_ident()) - before
    assert in_passing >= 5


def test_of_several_threads_that_wait_each_gets_what_it_waits_for(start: Callable[..., ThreadDriver]) -> None:
    here = FakeEndpoint()
    driver = start(here)
    outcomes: dict[int, bool] = {}

    def wait(count: int) -> None:
        outcomes[count] = driver.wait(soon(), lambda: here.received >= count)

    threads = [threading.Thread(target=wait, args=(count,)) for count in (3, 1, 2, 5, 4)]
    for thread in threads:
        thread.start()
    for number in range(1, 6):
        time.sleep(0.005)
        send(driver, here.local, number)
        assert until_is(lambda: sorted(outcomes), list(range(1, number + 1)))
    for thread in threads:
        thread.join(5)
    assert outcomes == dict.fromkeys(range(1, 6), True)
    send(driver, here.local, 6)
    assert until(lambda: here.received == 6), "the last one has handed the work back"


def test_threads_that_wait_by_turns_lose_nothing(start: Callable[..., ThreadDriver]) -> None:
    here = FakeEndpoint()
    driver = start(here)
    total, got = 400, []
    over = threading.Event()

    def take() -> None:
        while not over.is_set():
            driver.wait(soon(2_000), lambda: here.unread_messages > 0)
            with driver.lock:
                got.extend(numbers(here.receive()))

    threads = [threading.Thread(target=take) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(total):
        send(driver, here.local, number)
    assert until(lambda: len(got) >= total)
    over.set()
    for thread in threads:
        thread.join(5)
    assert sorted(got) == list(range(total))


def test_an_earlier_deadline_from_elsewhere_wakes_whoever_waits(start: Callable[..., ThreadDriver]) -> None:
    here = FakeEndpoint()
    driver = start(here)
    threading.Timer(0.02, lambda: send(driver, here.local, 1, delay_us=1_000)).start()
    began_us = monotonic_us()
    assert driver.wait(soon(), lambda: here.unread_messages > 0)
    assert monotonic_us() - began_us < 2_000_000


def test_sockets_opened_while_somebody_waits_are_read(start: Callable[..., ThreadDriver]) -> None:
    here = FakeEndpoint()
    driver = start(here)
    threading.Timer(0.02, lambda: driver.call(lambda _now_us: here.listen(("127.0.0.1", 0)))).start()
    assert driver.wait(soon(), lambda: 2 in here.locals)
    driver.call(lambda now_us: here.send(here.locals[2], numbered(7, 1), now_us))
    assert driver.wait(soon(), lambda: here.unread_messages > 0)


def test_closing_ends_every_wait(start: Callable[..., ThreadDriver]) -> None:
    driver = start(FakeEndpoint())
    outcomes: list[object] = []

    def wait() -> None:
        try:
            outcomes.append(driver.wait(NEVER, lambda: False))
        except ClosedError as error:
            outcomes.append("closed" in str(error))

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert until_is(lambda: len(driver._waiters), 3)
    began_s = time.monotonic()
    driver.close()
    for thread in threads:
        thread.join(5)
    assert outcomes == [True] * 3
    assert time.monotonic() - began_s < 0.9
    with pytest.raises(ClosedError):
        driver.wait(NEVER, lambda: True)


def test_waiting_inside_a_command_or_inside_a_wait_is_refused(start: Callable[..., ThreadDriver]) -> None:
    here = FakeEndpoint()
    driver = start(here)
    with pytest.raises(UsageError, match="busy"):
        driver.call(lambda _now_us: driver.wait(NEVER, lambda: False))
    refusals: list[str] = []

    def nested() -> bool:
        if driver._wheel == threading.get_ident():
            try:
                driver.wait(NEVER, lambda: False)
            except UsageError as error:
                refusals.append(str(error))
        return bool(refusals)

    assert driver.wait(soon(), nested)
    assert "busy" in refusals[0]


def test_a_defect_in_the_endpoint_does_not_reach_whoever_waits(
    start: Callable[..., ThreadDriver], caplog: pytest.LogCaptureFixture
) -> None:
    here = FakeEndpoint()
    driver = start(here)
    here.raise_in_handlers = 1
    send(driver, here.local, 1)
    assert not driver.wait(soon(50_000), lambda: False)
    assert here.raise_in_handlers == 0
    send(driver, here.local, 2)
    assert driver.wait(soon(), lambda: here.unread_messages > 0)
    assert "defect" in caplog.text


def test_waiting_for_long_costs_nothing(start: Callable[..., ThreadDriver]) -> None:
    driver = start(FakeEndpoint())
    driver.wait(soon(20_000), lambda: False)
    before, used_s = driver.wakeups, time.process_time()
    driver.wait(soon(500_000), lambda: False)
    assert driver.wakeups - before <= 2
    assert time.process_time() - used_s < 0.05


def test_an_interrupted_wait_leaves_the_driver_at_work() -> None:
    done, _ = run_script("""
        def interrupt(*_):
            raise KeyboardInterrupt
        signal.signal(signal.SIGALRM, interrupt)
        for turn in range(20):
            signal.setitimer(signal.ITIMER_REAL, 0.002 + turn * 0.0001)
            try:
                driver.wait(monotonic_us() + 5_000_000, lambda: False)
            except KeyboardInterrupt:
                pass
            driver.call(lambda now_us: here.send(here.local, numbered(turn, 1), now_us))
            assert until(lambda: here.received == turn + 1)
        driver.close()
        print("closed", here.closed)
    """)
    assert (done.returncode, done.stdout, done.stderr) == (0, "closed 1\n", "")
