from __future__ import annotations

import errno
import os
import select
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from peergram.drivers.socket_watch import ReadableFlag
from peergram.drivers.system import monotonic_us
from peergram.drivers.thread_driver import ThreadDriver
from peergram.errors import AddressInUseError, ClosedError, UsageError

from .conftest import send
from .fake_endpoint import FakeEndpoint, faulty_sockets, numbered, numbers, until, until_is

ERRNOS = [errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.EMSGSIZE, errno.ENETUNREACH, errno.EPERM, errno.ENOBUFS]
ERRNOS += [errno.EIO, errno.EINVAL, errno.EAGAIN]


@pytest.fixture(params=[True, False], ids=["batched", "plain"])
def batching(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def is_readable(fileno: int, timeout_s: float = 0) -> bool:
    return bool(select.select([fileno], [], [], timeout_s)[0])


def test_what_is_sent_comes_back_from_an_echo(start: Callable[..., ThreadDriver], batching: bool) -> None:
    echo, here = FakeEndpoint(echo=True), FakeEndpoint()
    start(echo, batching=batching)
    driver = start(here, batching=batching)
    for first in range(0, 440, 44):
        send(driver, echo.local, numbered(first, 44, 1272))
        assert until_is(lambda: len(here.inbox), first + 44)
    assert numbers(here.receive()) == list(range(440))


def test_a_send_leaves_in_the_calling_thread(start: Callable[..., ThreadDriver]) -> None:
    there, here = FakeEndpoint(), FakeEndpoint()
    start(there)
    driver = start(here)
    assert until(lambda: driver._armed_us)
    woken = driver.wakeups
    for number in range(100):
        send(driver, there.local, numbered(number, 1))
    assert until(lambda: there.received == 100)
    assert driver.wakeups == woken


def test_an_idle_driver_sleeps(start: Callable[..., ThreadDriver]) -> None:
    here = FakeEndpoint()
    driver = start(here, make_socket=faulty_sockets([errno.EAGAIN], 0.5, seed=3))
    # Wakes it in every way first: by a deadline, by a command, for reading, for writing.
    for number in range(20):
        assert until(lambda: driver._armed_us)
        send(driver, here.local, numbered(number, 1), delay_us=1_000)
        send(driver, here.local, numbered(number, 1))
    counters = driver.counters()[1]
    assert until(lambda: counters.datagrams_sent + counters.backlog_dropped == 40)
    assert until(lambda: here.received == counters.datagrams_sent)
    assert counters.sends_blocked > 0
    before = driver.wakeups
    time.sleep(1)
    assert driver.wakeups - before <= 2


def test_an_endpoint_that_is_always_due_does_not_eat_the_core(start: Callable[..., ThreadDriver]) -> None:
    endpoint = FakeEndpoint()
    endpoint.always_due = True
    driver = start(endpoint)
    used = time.process_time()
    time.sleep(0.3)
    assert driver.wakeups <= 320
    assert time.process_time() - used < 0.2


def test_an_earlier_deadline_wakes_the_thread_and_a_later_one_does_not(start: Callable[..., ThreadDriver]) -> None:
    there, here = FakeEndpoint(), FakeEndpoint()
    start(there)
    driver = start(here)
    send(driver, there.local, numbered(0, 1), delay_us=60_000_000)
    assert until(lambda: driver._armed_us)
    woken = driver.wakeups
    send(driver, there.local, numbered(1, 1), delay_us=61_000_000)
    assert driver.wakeups == woken
    began_us = monotonic_us()
    send(driver, there.local, numbered(2, 1), delay_us=2_000)
    assert until(lambda: there.received == 1)
    assert numbers(there.receive()) == [2]
    assert 2_000 <= monotonic_us() - began_us < 1_000_000


def test_the_descriptor_is_readable_while_messages_or_events_wait(start: Callable[..., ThreadDriver]) -> None:
    here = FakeEndpoint()
    driver = start(here)
    fileno = driver.readable_fileno()
    assert not is_readable(fileno)
    send(driver, here.local, numbered(0, 3))
    assert is_readable(fileno, 5)
    assert is_readable(fileno)
    assert until(lambda: len(here.inbox) == 3)
    driver.call(lambda now_us: here.receive())
    assert not is_readable(fileno)
    driver.call(lambda now_us: here.tell("event"))
    assert is_readable(fileno)
    assert list[object](driver.poll_events()) == ["event"]
    assert not is_readable(fileno)
    assert driver.readable_fileno() == fileno


def test_a_descriptor_asked_for_late_shows_what_waits_already(start: Callable[..., ThreadDriver]) -> None:
    here = FakeEndpoint()
    driver = start(here)
    driver.call(lambda now_us: here.tell("event"))
    assert is_readable(driver.readable_fileno())


def test_a_port_in_use_reaches_whoever_asked_for_it(start: Callable[..., ThreadDriver]) -> None:
    taken = FakeEndpoint()
    start(taken)
    late = ThreadDriver(FakeEndpoint(bind=taken.local))
    with pytest.raises(AddressInUseError, match="choose another port"):
        late.start()
    assert late.closed
    here = FakeEndpoint()
    driver = start(here)
    with pytest.raises(AddressInUseError):
        driver.call(lambda now_us: here.listen(taken.local))
    assert driver.call(lambda now_us: "still alive") == "still alive"


def test_a_socket_that_fails_for_the_endpoints_own_sake_is_nobody_elses_error(start: Callable[..., ThreadDriver]) -> None:
    taken, here = FakeEndpoint(), FakeEndpoint()
    start(taken)
    driver = start(here)
    here.on_timeout = partial(here.listen, taken.local)
    send(driver, here.local, numbered(0, 1), delay_us=1_000)
    assert until(lambda: here.failures)
    assert driver.call(lambda now_us: 5) == 5


def test_sockets_can_be_opened_and_closed_while_running(start: Callable[..., ThreadDriver]) -> None:
    there, here = FakeEndpoint(), FakeEndpoint(echo=True)
    driver_there = start(there)
    driver = start(here)
    for number in range(20):
        socket_id = driver.call(lambda now_us: here.listen(("127.0.0.1", 0)))
        send(driver_there, here.locals[socket_id], numbered(number, 1))
        assert until_is(lambda: there.received, number + 1)
        driver.call(partial(here.close_socket, socket_id))
    assert list(driver.counters()) == [1]
    assert until(lambda: not driver._pump.closing)


def test_a_command_inside_a_command_is_refused_and_harmless(start: Callable[..., ThreadDriver]) -> None:
    driver = start(FakeEndpoint())
    with pytest.raises(UsageError, match="busy"):
        driver.call(lambda now_us: driver.call(lambda now_us: None))
    assert driver.call(lambda now_us: 5) == 5


def test_what_a_command_raises_reaches_the_caller_and_what_it_sent_still_leaves(start: Callable[..., ThreadDriver]) -> None:
    here = FakeEndpoint()
    driver = start(here)

    def command(now_us: int) -> None:
        here.send(here.local, numbered(3, 1), now_us)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        driver.call(command)
    assert until(lambda: here.received == 1)


def test_a_callback_may_raise_command_and_close(start: Callable[..., ThreadDriver], caplog: pytest.LogCaptureFixture) -> None:
    here = FakeEndpoint()
    calls: list[int] = []

    def notify() -> None:
        calls.append(driver.call(lambda now_us: len(here.receive())))
        if len(calls) == 3:
            driver.close()
        raise RuntimeError("the application's")

    driver = start(here, notify=notify)
    for number in range(3):
        send(driver, here.local, numbered(number, 1))
        assert until_is(lambda: len(calls), number + 1)
    assert until(lambda: here.closed == 1)
    assert calls == [1, 1, 1]
    assert len(caplog.records) == 1, "a line a second: the network decides how often it is called"


def test_a_defect_in_the_endpoint_does_not_end_the_thread(
    start: Callable[..., ThreadDriver], caplog: pytest.LogCaptureFixture
) -> None:
    here = FakeEndpoint()
    driver = start(here)
    here.raise_in_handlers = 1
    send(driver, here.local, numbered(0, 1))
    assert until(lambda: here.raise_in_handlers == 0)
    send(driver, here.local, numbered(1, 1))
    assert until(lambda: here.received == 1)


def test_commands_after_closing_are_refused_and_closing_twice_is_harmless(start: Callable[..., ThreadDriver]) -> None:
    here = FakeEndpoint()
    driver = start(here)
    fileno = driver.readable_fileno()
    before = threading.active_count()
    driver.call(lambda now_us: here.tell("last words"))
    driver.close()
    driver.close()
    assert threading.active_count() == before - 1
    assert here.closed == 1
    assert list[object](driver.poll_events()) == ["last words"]
    for use in (lambda: driver.call(lambda now_us: 1), driver.readable_fileno, driver.start):
        with pytest.raises(ClosedError, match="closed"):
            use()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fileno)


def test_a_driver_that_was_never_started_closes(start: Callable[..., ThreadDriver]) -> None:
    driver = ThreadDriver(FakeEndpoint())
    driver.close()
    assert driver.closed


def test_closing_gives_the_port_back(start: Callable[..., ThreadDriver]) -> None:
    first = FakeEndpoint()
    start(first).close()
    second = FakeEndpoint(bind=first.local)
    start(second)
    assert second.local == first.local


def test_sends_that_fail_one_time_in_ten_lose_packets_and_nothing_else(
    start: Callable[..., ThreadDriver], batching: bool
) -> None:
    there, here = FakeEndpoint(), FakeEndpoint()
    start(there, batching=batching)
    driver = start(here, batching=batching, make_socket=faulty_sockets(ERRNOS, 0.1, seed=20))
    for first in range(0, 4_000, 4):
        send(driver, there.local, numbered(first, 4))
    counters = driver.counters()[1]
    assert until(lambda: counters.datagrams_sent + counters.datagrams_lost + counters.backlog_dropped == 4_000)
    assert until(lambda: there.received == counters.datagrams_sent)
    assert set(counters.send_errors) == {errno.errorcode[code] for code in ERRNOS if code != errno.EAGAIN}
    assert counters.sends_blocked > 0
    arrived = numbers(there.receive())
    assert arrived == sorted(arrived)


def test_eight_threads_keep_their_order_and_lose_no_wake_up(start: Callable[..., ThreadDriver], batching: bool) -> None:
    """M9 shortened: half of all messages wait for a timer of their own, so that a lost wake-up is a message that never comes."""
    there, here = FakeEndpoint(echo=True), FakeEndpoint()
    start(there, batching=batching)
    driver = start(here, batching=batching)
    answered: list[list[int]] = [[] for _ in range(8)]
    until_s = time.monotonic() + 2.0

    def sort_in(_: int) -> None:
        for number in numbers(here.receive()):
            answered[number % 8].append(number)

    def newest(mine: int) -> list[int]:
        driver.call(sort_in)
        return answered[mine][-1:]

    def work(mine: int) -> None:
        number = mine
        while time.monotonic() < until_s:
            send(driver, there.local, numbered(number, 1), delay_us=300 if number & 8 else 0)
            assert until_is(lambda: newest(mine), [number]), "no answer"
            number += 8

    failures: list[BaseException] = []

    def guarded(mine: int) -> None:
        try:
            work(mine)
        except BaseException as error:
            failures.append(error)
            raise

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=guarded, args=(mine,)) for mine in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert failures == []
    for mine in range(8):
        assert len(answered[mine]) > 50
        assert answered[mine] == list(range(mine, mine + 8 * len(answered[mine]), 8))


def test_threads_that_send_while_another_closes_get_closed_errors(start: Callable[..., ThreadDriver]) -> None:
    there = FakeEndpoint()
    start(there)
    driver = start(FakeEndpoint())
    outcomes: list[type[Exception]] = []

    def work() -> None:
        try:
            while True:
                send(driver, there.local, numbered(0, 1))
        except Exception as error:  # noqa: BLE001 - compared below
            outcomes.append(type(error))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert until(lambda: there.received > 100)
    driver.close()
    for thread in threads:
        thread.join(5)
    assert outcomes == [ClosedError] * 4


def run_script(body: str) -> tuple[subprocess.CompletedProcess[str], float]:
    prelude = """
        import os, signal, sys, threading, time
        from peergram.drivers.system import monotonic_us
        from peergram.drivers.thread_driver import ThreadDriver
        from drivers.fake_endpoint import FakeEndpoint, numbered, until
        from peergram.errors import ClosedError
        here = FakeEndpoint()
        driver = ThreadDriver(here)
        driver.start()
        ready_s = time.monotonic()
    """
    tests = Path(__file__).parents[1]
    began_s = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", textwrap.dedent(prelude) + textwrap.dedent(body)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent)])},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done, time.monotonic() - began_s


BUSY_THREAD = """
def spin():
    while True:
        try:
            driver.call(lambda now_us: here.send(here.local, numbered(0, 1), now_us))
        except ClosedError:
            return
threading.Thread(target=spin, daemon=True).start()
time.sleep(0.1)
"""
CLOSED_BY_SIGNAL = """
signal.signal(signal.SIGALRM, lambda *_: driver.close())
signal.setitimer(signal.ITIMER_REAL, 0.05)
spin()
"""


class MeanwhileSender:
    """The sending end of a flag, before whose every byte another thread puts the flag down."""

    def __init__(self, flag: ReadableFlag, real: socket.socket) -> None:
        self._flag = flag
        self._real = real

    def send(self, data: bytes) -> int:
        self._flag.put_down()
        return self._real.send(data)

    def close(self) -> None:
        self._real.close()


def test_a_flag_put_down_while_it_goes_up_can_be_put_down_again() -> None:
    """Otherwise its descriptor stays readable, and the thread that waits for it spins."""
    flag = ReadableFlag()
    flag._sender = MeanwhileSender(flag, flag._sender)  # type: ignore[assignment]
    flag.put_up()
    flag.put_down()
    assert not is_readable(flag.fileno())
    flag.put_up()
    assert is_readable(flag.fileno())
    flag.close()


@pytest.mark.parametrize(
    ("ending", "status"),
    [
        ("", 0),
        ("driver.close(); driver.close()", 0),
        (BUSY_THREAD, 0),
        ("sys.exit(3)", 3),
        ("del driver, here\nimport gc; gc.collect()", 0),
        (BUSY_THREAD + CLOSED_BY_SIGNAL, 0),
    ],
    ids=["forgotten", "closed twice", "busy", "sys.exit", "collected", "closed by a signal"],
)
def test_the_interpreter_ends_at_once_and_in_silence(ending: str, status: int) -> None:
    done, _ = run_script(ending + "\nprint(time.monotonic())") if status == 0 else run_script(ending)
    ended_s = time.monotonic()
    assert (done.returncode, done.stderr) == (status, "")
    if status == 0:
        assert ended_s - float(done.stdout) < 1.0


def test_a_program_that_forgets_to_close_still_says_goodbye() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        peer.settimeout(5)
        run_script(f"here.farewell_to = {peer.getsockname()!r}")
        assert peer.recv(100) == b"farewell"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows numbers descriptors differently")
@pytest.mark.parametrize("full", [False, True], ids=["socket only", "all"])
def test_descriptors_beyond_what_select_takes_work(start: Callable[..., ThreadDriver], full: bool) -> None:
    import fcntl
    import resource

    def make_high(family: int, kind: int) -> socket.socket:
        with socket.socket(family, kind) as low:
            return socket.socket(fileno=fcntl.fcntl(low.fileno(), fcntl.F_DUPFD_CLOEXEC, 1_100))

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 1_200:
        pytest.skip("so many descriptors are not allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1_200), hard))
    fillers = [os.dup(1) for _ in range(1_030)] if full else []
    try:
        here = FakeEndpoint()
        driver = start(here, make_socket=make_high)
        send(driver, here.local, numbered(0, 1))
        send(driver, here.local, numbered(1, 1), delay_us=2_000)
        assert until(lambda: here.received == 2)
        driver.close()
    finally:
        for filler in fillers:
            os.close(filler)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_cannot_send_and_its_parent_goes_on() -> None:
    done, _ = run_script("""
        import warnings
        warnings.simplefilter("ignore")
        other = FakeEndpoint()
        observer = ThreadDriver(other)
        observer.start()
        spinning = True
        def spin():
            while spinning:
                with driver.lock:
                    time.sleep(0.0001)
        threading.Thread(target=spin, daemon=True).start()
        for child in range(20):
            pid = os.fork()
            if pid == 0:
                outcomes = []
                for use in (
                    lambda: driver.call(lambda now_us: here.send(other.local, numbered(666, 1), now_us)),
                    lambda: driver.flush(monotonic_us()),
                    driver.readable_fileno,
                ):
                    try:
                        with driver.lock:
                            use()
                    except ClosedError as error:
                        outcomes.append("forked child" in str(error))
                driver.close()
                sys.exit(0 if outcomes == [True] * 3 else 1)
            assert os.waitpid(pid, 0)[1] == 0
            driver.call(lambda now_us: here.send(other.local, numbered(child, 1), now_us))
            driver.call(lambda now_us: here.send(here.local, numbered(child, 1), now_us, delay_us=1000))
            assert until(lambda: here.received == other.received == child + 1)
        spinning = False
        print(sorted(set(int.from_bytes(packet[:8], "big") for packet in other.receive())) == list(range(20)))
    """)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")
