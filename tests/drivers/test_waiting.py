"""A program that waits through the thread driver does the network's work itself; the thread stands in when it stays away."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from peergram.drivers.system import monotonic_us
from peergram.drivers.thread_driver import ThreadDriver
from peergram.errors import ClosedError, UsageError
from peergram.timing import NEVER
from tests.threats.world import SOAK

from .conftest import send as send_packets
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


def send(driver: ThreadDriver, remote: tuple[str, int], number: int, *, delay_us: int = 0) -> None:
    send_packets(driver, remote, numbered(number, 1), delay_us=delay_us)


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


def test_what_a_signal_handler_raises_comes_out_of_a_wait() -> None:
    done, _ = run_script("""
        class Alarm(Exception):
            pass
        class Handler:
            def __call__(self, *_):
                raise OSError("at once")
        def interrupt(*_):
            raise Alarm
        def handle(*_):
            os.kill(os.getpid(), signal.SIGALRM)
            sum(range(10))
        caught = []
        for handler in (interrupt, Handler()):
            signal.signal(signal.SIGALRM, handler)
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            try:
                driver.wait(monotonic_us() + 5_000_000, lambda: False)
            except (Alarm, OSError) as error:
                caught.append(type(error).__name__)
            driver.wait(monotonic_us() + 5_000, lambda: False)
            handle_datagrams, here.handle_datagrams = here.handle_datagrams, handle
            try:
                # On a slow machine the datagram may come in passing, before the call returns.
                driver.call(lambda now_us: here.send(here.local, numbered(1, 1), now_us))
                driver.wait(monotonic_us() + 5_000_000, lambda: False)
            except (Alarm, OSError) as error:
                caught.append(type(error).__name__)
            here.handle_datagrams = handle_datagrams
            before = here.received
            driver.call(lambda now_us: here.send(here.local, numbered(1, 1), now_us))
            assert until(lambda: here.received == before + 1)
        driver.close()
        print(*caught)
    """)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Alarm Alarm OSError OSError\n", "")


def test_a_signal_handler_may_close_while_its_thread_waits() -> None:
    done, _ = run_script("""
        took = []
        def close(*_):
            began_s = time.monotonic()
            driver.close()
            took.append(time.monotonic() - began_s)
        signal.signal(signal.SIGALRM, close)
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        try:
            driver.wait(monotonic_us() + 5_000_000, lambda: False)
        except ClosedError:
            print("closed", here.closed, took[0] < 0.5, time.monotonic() - ready_s < 2)
    """)
    assert (done.returncode, done.stdout, done.stderr) == (0, "closed 1 True True\n", "")


def test_a_child_forked_by_a_signal_handler_waits_no_longer() -> None:
    done, _ = run_script("""
        children = []
        signal.signal(signal.SIGALRM, lambda *_: children.append(os.fork()))
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        try:
            driver.wait(monotonic_us() + 200_000, lambda: False)
        except ClosedError as error:
            os._exit(7 if children == [0] and "forked" in str(error) else 8)
        code = os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1])
        driver.close()
        print(code)
    """)
    assert (done.returncode, done.stdout, done.stderr) == (0, "7\n", "")


def test_an_interrupted_command_leaves_the_driver_free_for_others() -> None:
    done, _ = run_script("""
        def interrupt(*_):
            raise KeyboardInterrupt
        signal.signal(signal.SIGALRM, interrupt)
        monotonic_ns = time.monotonic_ns
        def at_the_worst_moment():
            time.monotonic_ns = monotonic_ns
            os.kill(os.getpid(), signal.SIGALRM)
            return monotonic_ns()
        time.monotonic_ns = at_the_worst_moment
        try:
            driver.call(lambda now_us: None)
        except KeyboardInterrupt:
            driver.call(lambda now_us: print("free"))
        driver.close()
    """)
    assert (done.returncode, done.stdout, done.stderr) == (0, "free\n", "")


def test_what_a_condition_raises_comes_out_of_its_own_wait(start: Callable[..., ThreadDriver]) -> None:
    here = FakeEndpoint()
    driver = start(here)
    outcomes: list[object] = []

    def wait(wanted: Callable[[], object]) -> None:
        try:
            outcomes.append(driver.wait(soon(), lambda: bool(wanted())))
        except ZeroDivisionError:
            outcomes.append("raised")

    threads = [threading.Thread(target=wait, args=(lambda: here.received and 1 // 0,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert until_is(lambda: len(driver._waiters), 3)
    began_us = monotonic_us()
    for number in range(5):
        send(driver, here.local, number)
    for thread in threads:
        thread.join(10)
    assert outcomes == ["raised"] * 3
    assert monotonic_us() - began_us < 2_000_000
    assert until(lambda: here.received == 5)


def test_what_a_command_of_another_thread_brings_about_ends_a_wait(start: Callable[..., ThreadDriver]) -> None:
    here = FakeEndpoint()
    driver = start(here)
    outcomes: dict[int, bool] = {}

    def wait(count: int) -> None:
        outcomes[count] = driver.wait(soon(), lambda: len(here.inbox) >= count)

    threads = [threading.Thread(target=wait, args=(count,)) for count in (2, 1, 3)]
    for thread in threads:
        thread.start()
    for number in range(1, 4):
        assert until(lambda: driver._armed_us)
        driver.call(lambda _now_us: here.inbox.append(b"to oneself"))
        assert until_is(lambda: sorted(outcomes), list(range(1, number + 1)))
    for thread in threads:
        thread.join(5)
    assert outcomes == dict.fromkeys((1, 2, 3), True)


def test_datagrams_that_wait_for_the_kernel_go_although_the_program_never_waits_again() -> None:
    here, there = FakeEndpoint(), FakeEndpoint()
    is_full = False

    class Full(socket.socket):
        def sendto(self, *arguments: Any) -> int:
            if is_full:
                raise BlockingIOError
            return super().sendto(*arguments)

    driver, other = ThreadDriver(here, make_socket=Full), ThreadDriver(there)
    driver.start()
    other.start()
    driver.wait(soon(10_000), lambda: False)
    is_full = True
    send(driver, there.local, 1)
    is_full = False
    rests_until_us, until_us = driver._rests_until_us, soon()
    while (not there.received or monotonic_us() < rests_until_us) and monotonic_us() < until_us:
        driver.call(lambda _now_us: None)
    assert numbers(there.receive()) == [1]
    assert driver._rests_until_us == rests_until_us, "the thread was not kept from its work"
    driver.close()
    other.close()


def test_interrupts_at_any_moment_of_waits_by_turns_leave_the_driver_at_work() -> None:
    done, _ = run_script(f"""
        import random
        rng = random.Random(1)
        may_interrupt = False
        def interrupt(*_):
            if may_interrupt:
                raise KeyboardInterrupt
        signal.signal(signal.SIGALRM, interrupt)
        def wait_too():
            try:
                while True:
                    driver.wait(monotonic_us() + rng.randrange(5_000), lambda: here.unread_messages > 0)
            except ClosedError:
                return
        others = [threading.Thread(target=wait_too) for _ in range(2)]
        for other in others:
            other.start()
        turns = 0
        while time.monotonic() < ready_s + {15 if SOAK else 0.7}:
            turns += 1
            try:
                may_interrupt = True
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.00001, 0.0015))
                while True:
                    driver.wait(monotonic_us() + rng.randrange(100), lambda: False)
            except KeyboardInterrupt:
                may_interrupt = False
        driver.call(lambda now_us: here.send(here.local, numbered(1, 1), now_us))
        assert until(lambda: here.received)
        driver.close()
        for other in others:
            other.join()
        print("closed", here.closed, turns > 50)
    """)
    assert (done.returncode, done.stdout, done.stderr) == (0, "closed 1 True\n", "")
