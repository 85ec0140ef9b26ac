from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from peergram.config import NAME_LOOKUP_US, NAME_THREADS_MAX, NAMES_WAITING_MAX
from peergram.drivers.mailbox import Mailbox
from peergram.drivers.names import NameResolver, look_up
from peergram.drivers.workers import Workers
from peergram.io_requests import ResolveName
from peergram.timing import NEVER

from .fake_endpoint import FakeEndpoint, until
from .rigs import MakeRig


class Desk:
    """A resolver whose look-ups wait for the test, and whose clock the test turns."""

    def __init__(self) -> None:
        self.answers: list[tuple[str, list[str]]] = []
        self.go_on = threading.Event()
        self.looked_up: list[str] = []
        self.mailbox = Mailbox(lambda: None)
        self.resolver = NameResolver(lambda name, hosts, _: self.answers.append((name, hosts)), self.mailbox, self._look_up)

    def _look_up(self, name: str) -> list[str]:
        self.looked_up.append(name)
        self.go_on.wait(10)
        return ["192.0.2.1"]

    def take(self, now_us: int) -> None:
        while self.mailbox.works:
            self.mailbox.works.popleft()(now_us)


@pytest.fixture
def desk() -> Iterator[Desk]:
    made = Desk()
    yield made
    made.resolver.close()
    made.go_on.set()


def test_names_are_resolved_off_the_driver(rig: MakeRig) -> None:
    endpoint = FakeEndpoint()
    made = rig(endpoint)
    names = ["127.0.0.1", "::1", "localhost", "no-such-name.invalid", "", "a..b", "x" * 300, "a\0b"]
    for name in names:
        endpoint.ask(ResolveName(name))
    made.call(lambda _: None)
    assert made.until(lambda: len(endpoint.resolved) == len(names))
    answers = dict(endpoint.resolved)
    assert (answers["127.0.0.1"], answers["::1"]) == (["127.0.0.1"], ["::1"])
    assert set(answers["localhost"]) & {"127.0.0.1", "::1"}
    assert [answers[name] for name in names[3:] if name] == [[]] * 4


def test_both_families_are_found_each_host_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(*_: object, **__: object) -> list[tuple[object, ...]]:
        six = ("2001:DB8:0::1", 0, 0, 0)
        return [
            (socket.AF_INET6, 2, 17, "", six),
            (socket.AF_INET, 2, 17, "", ("192.0.2.1", 0)),
            (socket.AF_INET6, 2, 17, "", six),
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert look_up("both.example") == ["2001:db8::1", "192.0.2.1"]


def test_what_takes_too_long_is_answered_with_nothing_and_the_late_answer_dropped(desk: Desk) -> None:
    desk.resolver.resolve("slow.example", 1_000)
    assert desk.resolver.wake_at_us == 1_000 + NAME_LOOKUP_US
    desk.resolver.handle_due(1_000 + NAME_LOOKUP_US - 1)
    assert desk.answers == []
    desk.resolver.handle_due(1_000 + NAME_LOOKUP_US)
    assert (desk.answers, desk.resolver.wake_at_us) == ([("slow.example", [])], NEVER)
    assert until(lambda: desk.looked_up)
    desk.go_on.set()
    desk.resolver.resolve("next.example", 5_000_000)
    assert until(lambda: len(desk.looked_up) == 2 and desk.mailbox.works)
    desk.take(5_000_001)
    assert desk.answers == [("slow.example", []), ("next.example", ["192.0.2.1"])]


def test_a_late_answer_is_not_taken_for_that_of_a_second_try(desk: Desk) -> None:
    desk.resolver.resolve("slow.example", 0)
    desk.resolver.handle_due(NAME_LOOKUP_US)
    desk.resolver.resolve("slow.example", NAME_LOOKUP_US)
    desk.resolver._handle_found("slow.example", NAME_LOOKUP_US, ["192.0.2.8"], NAME_LOOKUP_US + 1)
    assert desk.answers == [("slow.example", [])]
    desk.resolver._handle_found("slow.example", 2 * NAME_LOOKUP_US, ["192.0.2.9"], NAME_LOOKUP_US + 2)
    assert desk.answers[1:] == [("slow.example", ["192.0.2.9"])]


def test_a_name_asked_for_twice_at_once_gets_one_answer(desk: Desk) -> None:
    for _ in range(2):
        desk.resolver.resolve("twice.example", 0)
    desk.go_on.set()
    assert until(lambda: desk.mailbox.works)
    desk.take(1)
    assert (desk.answers, desk.looked_up) == ([("twice.example", ["192.0.2.1"])], ["twice.example"])


def test_more_names_than_may_wait_are_answered_with_nothing_at_once(desk: Desk) -> None:
    for number in range(NAMES_WAITING_MAX + 3):
        desk.resolver.resolve(f"{number}.example", 0)
    assert desk.answers == [(f"{number}.example", []) for number in range(NAMES_WAITING_MAX, NAMES_WAITING_MAX + 3)]
    assert until(lambda: len(desk.looked_up) == NAME_THREADS_MAX)
    desk.go_on.set()
    assert until(lambda: len(desk.mailbox.works) == NAMES_WAITING_MAX)
    desk.take(1)
    assert len(desk.answers) == NAMES_WAITING_MAX + 3


def test_dead_name_servers_hold_two_threads_and_no_more_jobs_than_may_wait(desk: Desk) -> None:
    for second in range(0, 100_000_000, NAME_LOOKUP_US):
        for number in range(NAMES_WAITING_MAX):
            desk.resolver.resolve(f"{second}.{number}.example", second)
        desk.resolver.handle_due(second + NAME_LOOKUP_US)
    assert len(desk.looked_up) <= NAME_THREADS_MAX
    assert len(desk.resolver._workers._jobs) <= NAMES_WAITING_MAX
    desk.go_on.set()
    assert until(lambda: not desk.resolver._workers._jobs)
    # What nobody waits for any more is not looked up.
    assert len(desk.looked_up) <= NAME_THREADS_MAX


def test_workers_come_with_the_work_and_go_with_it() -> None:
    def names() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name == "some work"]

    workers = Workers("some work", threads_max=2, jobs_max=10)
    hold = threading.Event()
    done: list[int] = []

    def job() -> None:
        hold.wait(10)
        done.append(1)

    for _ in range(5):
        assert workers.submit(job)
    assert len(names()) == 2
    hold.set()
    assert until(lambda: len(done) == 5 and names() == [])


def test_without_threads_names_are_answered_with_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_thread)
    desk.resolver.resolve("any.example", 0)
    assert (desk.answers, desk.resolver.wake_at_us) == ([("any.example", [])], NEVER)
