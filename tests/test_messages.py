"""`Messages` over real loopback sockets: the six functions, callbacks, waiting, threads, and what wrong use is told.

Everything that waits has a deadline; nothing here measures speed.
"""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import linear_regression

import pytest

from peergram import (
    AddressInUseError,
    ClosedError,
    Config,
    ConnectionState,
    Identity,
    InfoFlags,
    Message,
    Messages,
    Result,
    SendFlags,
    SessionFailed,
    SessionRequested,
    UsageError,
)
from peergram.drivers.signaling.in_process import InProcessHub, InProcessSignaling
from peergram.drivers.thread_driver import ThreadDriver
from peergram.endpoint.endpoint import Endpoint

SOAK = bool(os.environ.get("PEERGRAM_SOAK"))
RELIABLE = SendFlags.RELIABLE
ANY_PORT = ("127.0.0.1", 0)
SLOPE_BYTES_MAX = 8
"""Resident memory a message may leave behind on the whole: a leak of the smallest object a message would be many times that."""
Start = Callable[..., Messages]


def until(condition: Callable[[], object], timeout_s: float = 5.0) -> None:
    """Wait until something holds; fails the test if it does not in time."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "did not happen in time"
        time.sleep(0.001)


@pytest.fixture(params=[True, False], ids=["batching", "plain"])
def batching(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def start() -> Iterator[Start]:
    """Makes `Messages` that are closed after the test."""
    with ExitStack() as stack:
        yield lambda *args, **options: stack.enter_context(Messages(*args, signaling=None, **options))


@pytest.fixture
def hurried() -> Iterator[None]:
    """Threads are switched as often as the interpreter can, and a hang shows where every thread stands (M9)."""
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    faulthandler.dump_traceback_later(900 if SOAK else 120)
    yield
    faulthandler.cancel_dump_traceback_later()
    sys.setswitchinterval(interval_s)


class Pair:
    """Alice, who dialed Bob, and Bob, who accepts everybody."""

    def __init__(self, start: Start, *, batching: bool = True, config: Config | None = None) -> None:
        self.bob = start("bob", listen=ANY_PORT, batching=batching, config=config)
        self.alice = start("alice", batching=batching, config=config)
        self.to_bob = dialed(self.bob)
        self.bob.on_session_request = lambda request: self.bob.accept_session_with_user(request.identity)
        self.at_alice: list[Message] = []
        self.at_bob: list[Message] = []

    def connect(self) -> Pair:
        self.alice.send_message_to_user(self.to_bob, b"hello", RELIABLE)
        self.read_at_bob(1)
        self.at_bob.clear()
        return self

    def read_at_bob(self, count: int, channel: int = 0, timeout_s: float = 5.0) -> list[bytes]:
        """Run callbacks and read until that many messages have come to Bob."""

        def read() -> bool:
            self.bob.run_callbacks()
            self.at_bob += self.bob.receive_messages_on_channel(channel, 1_000)
            return len(self.at_bob) >= count

        until(read, timeout_s)
        return [message.payload for message in self.at_bob]

    def read_at_alice(self, count: int) -> list[bytes]:
        def read() -> bool:
            self.at_alice += self.alice.receive_messages_on_channel(0, 1_000)
            return len(self.at_alice) >= count

        until(read)
        return [message.payload for message in self.at_alice]


def dialed(net: Messages) -> str:
    """The name by which others reach it."""
    host, port = net.local_addresses[0]
    return f"ip:{host}:{port}"


def is_readable(net: Messages, timeout_s: float = 0.0) -> bool:
    return bool(select.select([net.fileno()], [], [], timeout_s)[0])


# --- the two lines of the readme, and what follows ---


def test_a_message_there_and_an_answer_back(start: Start, batching: bool) -> None:
    pair = Pair(start, batching=batching)
    assert pair.alice.send_message_to_user(pair.to_bob, b"hi", RELIABLE) == Result.OK
    assert pair.read_at_bob(1) == [b"hi"]
    assert pair.at_bob[0].identity == Identity.of("alice")
    assert pair.bob.send_message_to_user("alice", b"hello yourself", RELIABLE) == Result.OK
    assert pair.read_at_alice(1) == [b"hello yourself"]
    assert str(pair.at_alice[0].identity) == pair.to_bob


def test_thousands_of_messages_arrive_once_and_in_order(start: Start, batching: bool) -> None:
    pair = Pair(start, batching=batching).connect()
    sent = 0
    deadline_s = time.monotonic() + 20
    while sent < 5_000:
        assert time.monotonic() < deadline_s
        if pair.alice.send_message_to_user(pair.to_bob, b"%d" % sent + bytes(sent % 3_000), RELIABLE) == Result.OK:
            sent += 1
        else:
            pair.read_at_bob(0)
    payloads = pair.read_at_bob(5_000, timeout_s=20)
    assert [int(payload.rstrip(b"\0") or b"0") for payload in payloads[1:]] == list(range(1, 5_000))


def test_large_messages_pass(start: Start, batching: bool) -> None:
    pair = Pair(start, batching=batching).connect()
    message = os.urandom(524_288)
    assert pair.alice.send_message_to_user(pair.to_bob, message, RELIABLE, 2) == Result.OK
    assert pair.read_at_bob(1, channel=2) == [message]


def test_two_listeners_that_dial_each_other_have_one_session(start: Start) -> None:
    first, second = start("first", listen=ANY_PORT), start("second", listen=ANY_PORT)
    requests: list[SessionRequested] = []
    failures: list[SessionFailed] = []
    for net in (first, second):
        net.on_session_request = requests.append
        net.on_session_failed = failures.append
    first.send_message_to_user(dialed(second), b"1", RELIABLE)
    second.send_message_to_user(dialed(first), b"2", RELIABLE)
    read: dict[str, list[Message]] = {"first": [], "second": []}

    def both() -> bool:
        for name, net in (("first", first), ("second", second)):
            net.run_callbacks()
            read[name] += net.receive_messages_on_channel(0, 10)
        return bool(read["first"] and read["second"])

    until(both)
    time.sleep(0.1)
    both()
    assert [message.payload for message in read["first"]] == [b"2"]
    assert [message.payload for message in read["second"]] == [b"1"]
    assert not failures


def test_without_a_name_the_identity_is_a_key_that_proves_itself(start: Start) -> None:
    bob, anonymous = start("bob", listen=ANY_PORT), start()
    assert anonymous.identity.public_key_bytes is not None
    requests: list[SessionRequested] = []
    bob.on_session_request = requests.append
    anonymous.send_message_to_user(dialed(bob), b"it is me", RELIABLE)

    def asked() -> bool:
        bob.run_callbacks()
        return bool(requests)

    until(asked)
    assert (requests[0].identity, requests[0].proven_by) == (anonymous.identity, "key")


def test_session_info_says_what_was_asked_for(start: Start) -> None:
    pair = Pair(start)
    nothing = pair.alice.get_session_connection_info("nobody")
    assert (nothing.state, nothing.connection, nothing.status) == (ConnectionState.NONE, None, None)
    pair.connect()
    both = pair.alice.get_session_connection_info(pair.to_bob)
    assert both.state == ConnectionState.CONNECTED
    assert both.connection is not None
    assert both.connection.identity == Identity.of("bob")
    assert both.connection.flags & InfoFlags.FAST
    assert both.status is not None
    neither = pair.alice.get_session_connection_info(pair.to_bob, False, False)
    assert (neither.state, neither.connection, neither.status) == (ConnectionState.CONNECTED, None, None)
    status = pair.alice.get_session_connection_info(pair.to_bob, get_connection=False).status
    assert status is not None
    assert status.state == ConnectionState.CONNECTED


def test_closing_a_session_and_a_channel(start: Start) -> None:
    pair = Pair(start).connect()
    assert not pair.alice.close_channel_with_user(pair.to_bob, 7)
    assert not pair.alice.close_session_with_user("nobody")
    assert pair.alice.close_channel_with_user(pair.to_bob, 0), "the last channel"
    assert pair.alice.get_session_connection_info(pair.to_bob).state == ConnectionState.NONE
    until(lambda: pair.bob.get_session_connection_info("alice").state == ConnectionState.NONE)
    assert pair.bob.send_message_to_user("alice", b"?") == Result.FAIL


def test_a_name_nobody_can_reach_fails_and_the_log_says_what_to_do(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    alice = start("alice")
    with caplog.at_level(logging.WARNING):
        assert alice.send_message_to_user("bob", b"?") == Result.FAIL
    assert "dial it as ip:ADDRESS:PORT" in caplog.text


def test_sends_that_are_refused_all_the_time_write_a_line_a_second_and_kind(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """A frame loop goes on sending to somebody the network took away."""
    alice = start("alice")
    begin_s = time.monotonic()
    with caplog.at_level(logging.DEBUG):
        for _ in range(2_000):
            assert alice.send_message_to_user("bob", b"?") == Result.FAIL
            assert alice.send_message_to_user("carol", bytes(524_289)) == Result.INVALID_PARAM
    assert len(caplog.records) <= 2 * (time.monotonic() - begin_s + 1)
    assert len({record.message for record in caplog.records}) >= 2


def test_closing_with_much_unconfirmed_writes_one_line(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """Twenty sessions whose peers have fallen silent."""
    alice = start("alice", config=Config(linger_us=20_000))
    for port in range(20_000, 20_020):
        assert alice.send_message_to_user(f"ip:127.0.0.1:{port}", b"hello?", RELIABLE) == Result.OK
    with caplog.at_level(logging.DEBUG):
        alice.close()
    (record,) = caplog.records
    assert "19 sessions more" in record.message


def test_the_log_says_why_a_parameter_is_invalid(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """Row: invalid identity, or more than 524288 bytes; the log says which."""
    pair = Pair(start).connect()
    with caplog.at_level(logging.WARNING):
        assert pair.alice.send_message_to_user(pair.to_bob, bytes(524_289)) == Result.INVALID_PARAM
    assert "524288" in caplog.text


def test_flush_sends_what_waits_for_company(start: Start) -> None:
    pair = Pair(start, config=Config(nagle_us=20_000)).connect()
    pair.alice.send_message_to_user(pair.to_bob, b"now", RELIABLE)
    pair.alice.flush_messages(pair.to_bob)
    assert pair.read_at_bob(1) == [b"now"]


def test_raw_framing_by_identity(start: Start) -> None:
    pair = Pair(start)
    pair.alice.set_framing(pair.to_bob, "raw")
    pair.bob.set_framing("alice", "raw")
    pair.alice.send_message_to_user(pair.to_bob, b"raw", RELIABLE)
    assert pair.read_at_bob(1) == [b"raw"]


# --- callbacks ---


def test_a_request_waits_for_its_handler(start: Start) -> None:
    """Row: request callback, kept until a handler exists."""
    pair = Pair(start)
    pair.bob.on_session_request = None
    pair.alice.send_message_to_user(pair.to_bob, b"hello", RELIABLE)
    until(lambda: pair.bob.get_session_connection_info("alice").state == ConnectionState.CONNECTING)
    failures: list[SessionFailed] = []
    for handler in (None, failures.append):
        pair.bob.on_session_failed = handler
        for _ in range(3):
            pair.bob.run_callbacks()
    pair.bob.on_session_request = lambda request: pair.bob.accept_session_with_user(request.identity)
    assert pair.read_at_bob(1) == [b"hello"]
    assert not failures


def test_a_failure_waits_for_its_handler_and_says_what_to_do(start: Start) -> None:
    alice = start("alice", config=Config(timeout_initial_us=50_000))
    alice.send_message_to_user("ip:127.0.0.1:9", b"anybody?", RELIABLE)
    until(lambda: alice.get_session_connection_info("ip:127.0.0.1:9").state == ConnectionState.PROBLEM_DETECTED_LOCALLY)
    requests: list[SessionRequested] = []
    alice.on_session_request = requests.append
    alice.run_callbacks()
    failures: list[SessionFailed] = []
    alice.on_session_failed = failures.append
    alice.run_callbacks()
    alice.run_callbacks()
    (failure,) = failures
    assert failure.unconfirmed.messages == 1
    assert "check that the peer is running" in failure.debug
    assert alice.send_message_to_user("ip:127.0.0.1:9", b"?") == Result.CONNECT_FAILED


def test_a_handler_that_raises_costs_no_other_event(start: Start) -> None:
    """M8: the exception is the application's, the events behind it stay."""
    alice = start("alice", config=Config(timeout_initial_us=20_000))
    targets = [f"ip:127.0.0.1:{port}" for port in (7, 9, 13)]
    for target in targets:
        alice.send_message_to_user(target, b"?")
    until(lambda: all(alice.get_session_connection_info(t).state == ConnectionState.PROBLEM_DETECTED_LOCALLY for t in targets))
    seen: list[str] = []

    def handler(failure: SessionFailed) -> None:
        seen.append(str(failure.identity))
        raise ZeroDivisionError

    alice.on_session_failed = handler
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            alice.run_callbacks()
    alice.run_callbacks()
    assert sorted(seen) == sorted(targets)


def test_a_handler_may_run_callbacks_itself(start: Start) -> None:
    """M8: re-enters the API."""
    alice = start("alice", config=Config(timeout_initial_us=20_000))
    targets = [f"ip:127.0.0.1:{port}" for port in (7, 9, 13)]
    for target in targets:
        alice.send_message_to_user(target, b"?")
    until(lambda: all(alice.get_session_connection_info(t).state == ConnectionState.PROBLEM_DETECTED_LOCALLY for t in targets))
    seen: list[str] = []

    def handler(failure: SessionFailed) -> None:
        seen.append(str(failure.identity))
        alice.run_callbacks()

    alice.on_session_failed = handler
    alice.run_callbacks()
    assert sorted(seen) == sorted(targets)


def test_a_handler_may_use_and_close_everything(start: Start) -> None:
    """M8: re-enters the API, closes inside a callback."""
    pair = Pair(start)
    done: list[Result] = []

    def handler(request: SessionRequested) -> None:
        pair.bob.accept_session_with_user(request.identity)
        done.append(pair.bob.send_message_to_user(request.identity, b"welcome", RELIABLE))
        pair.bob.get_session_connection_info(request.identity)
        pair.bob.receive_messages_on_channel(0, 10)
        pair.bob.close_session_with_user(request.identity)
        pair.bob.close()

    pair.bob.on_session_request = handler
    pair.alice.send_message_to_user(pair.to_bob, b"hello", RELIABLE)

    def called() -> bool:
        if not done:
            pair.bob.run_callbacks()
        return bool(done)

    until(called)
    assert done == [Result.OK]
    with pytest.raises(ClosedError):
        pair.bob.send_message_to_user("alice", b"?")


@pytest.mark.parametrize("kind", ["request", "failure"])
def test_a_handler_that_blocks_holds_up_no_session(start: Start, kind: str) -> None:
    """M8: blocks, 5 s under PEERGRAM_SOAK; the other sessions of the process go on meanwhile."""
    pair = Pair(start, config=Config(timeout_initial_us=1_000_000, timeout_connected_us=3_000_000)).connect()
    entered, released = threading.Event(), threading.Event()

    def block(event: object) -> None:
        entered.set()
        released.wait(30)

    pair.bob.on_session_request = pair.bob.on_session_failed = block
    if kind == "request":
        start("carol", listen=ANY_PORT).send_message_to_user(pair.to_bob, b"hello", RELIABLE)
    else:
        pair.bob.send_message_to_user("ip:127.0.0.1:9", b"anybody?", RELIABLE)
    until(lambda: is_readable(pair.bob), 20)
    caller = threading.Thread(target=pair.bob.run_callbacks)
    caller.start()
    assert entered.wait(5)
    until_s = time.monotonic() + (5 if SOAK else 0.1)
    sent: list[bytes] = []
    got: list[bytes] = []

    def read() -> bool:
        got.extend(message.payload for message in pair.bob.receive_messages_on_channel(0, 100))
        return len(got) == len(sent)

    while len(sent) < 20 or time.monotonic() < until_s:
        sent.append(b"%d" % len(sent))
        assert pair.alice.send_message_to_user(pair.to_bob, sent[-1], RELIABLE) == Result.OK
        until(read)
    assert got == sent
    assert caller.is_alive(), "the handler was still blocked all that time"
    released.set()
    caller.join(5)
    assert not caller.is_alive()


def test_a_request_is_not_delivered_after_its_sender_gave_up(start: Start) -> None:
    """Row: request callback, kept until a handler exists or the attempt ends."""
    pair = Pair(start)
    asked: list[SessionRequested] = []
    pair.bob.on_session_request = None
    pair.bob.on_session_failed = lambda failure: None
    pair.alice.send_message_to_user(pair.to_bob, b"hello", RELIABLE)
    until(lambda: pair.bob.get_session_connection_info("alice").state == ConnectionState.CONNECTING)
    pair.bob.run_callbacks()
    pair.alice.close()
    until(lambda: pair.bob.get_session_connection_info("alice").state == ConnectionState.NONE)
    pair.bob.on_session_request = asked.append
    pair.bob.run_callbacks()
    assert asked == []


def test_of_several_requests_of_one_name_the_latest_is_delivered(start: Start) -> None:
    """Row: request callback; what it says of the key is what accepting accepts."""
    bob = start("bob", listen=ANY_PORT)
    first, second = start("alice", key=False), start("alice", key=False)
    first.send_message_to_user(dialed(bob), b"1", RELIABLE)
    until(lambda: bob.get_session_connection_info("alice").state == ConnectionState.CONNECTING)
    first.close()
    until(lambda: bob.get_session_connection_info("alice").state == ConnectionState.NONE)
    second.send_message_to_user(dialed(bob), b"2", RELIABLE)
    until(lambda: bob.get_session_connection_info("alice").state == ConnectionState.CONNECTING)
    asked: list[SessionRequested] = []
    bob.on_session_request = asked.append
    bob.run_callbacks()
    assert [request.key_fingerprint for request in asked] == [second.key_fingerprint]


def test_events_without_a_handler_leave_the_descriptor_quiet_once_callbacks_ran(start: Start) -> None:
    """A loop of `select` and `run_callbacks` must not spin because nobody handles failures."""
    alice = start("alice", config=Config(timeout_initial_us=50_000))
    alice.send_message_to_user("ip:127.0.0.1:9", b"anybody?", RELIABLE)
    until(lambda: is_readable(alice))
    alice.run_callbacks()
    assert not is_readable(alice)
    failures: list[SessionFailed] = []
    alice.on_session_failed = failures.append
    alice.run_callbacks()
    assert [failure.unconfirmed.messages for failure in failures] == [1]


def test_a_handler_that_raises_costs_no_event_of_another_kind(start: Start) -> None:
    """M8: a request that nobody handles yet waits, although the handler of failures raises."""
    bob, carol = start("bob", listen=ANY_PORT), start("carol")
    carol.send_message_to_user(dialed(bob), b"hello", RELIABLE)
    until(lambda: bob.get_session_connection_info("carol").state == ConnectionState.CONNECTING)
    bob.send_message_to_user(dialed(bob), b"to my own address, which fails", RELIABLE)
    until(lambda: bob.get_session_connection_info(dialed(bob)).state != ConnectionState.CONNECTING)

    def handler(failure: SessionFailed) -> None:
        raise ZeroDivisionError

    bob.on_session_failed = handler
    with pytest.raises(ZeroDivisionError):
        bob.run_callbacks()
    asked: list[SessionRequested] = []
    bob.on_session_request = asked.append
    bob.run_callbacks()
    assert [str(request.identity) for request in asked] == ["str:carol"]


def test_failures_that_closing_brings_can_be_fetched_afterwards(start: Start) -> None:
    alice = Messages("alice", config=Config(linger_us=0), signaling=None)
    failures: list[SessionFailed] = []
    alice.on_session_failed = failures.append
    alice.send_message_to_user("ip:127.0.0.1:9", b"lost", RELIABLE)
    alice.close()
    alice.run_callbacks()
    assert [failure.unconfirmed.messages for failure in failures] == [1]


def test_threads_that_close_at_once_raise_nothing() -> None:
    for _ in range(20):
        alice = Messages("alice", signaling=None)
        errors: list[BaseException] = []
        start_at_once = threading.Barrier(4)

        def close(
            alice: Messages = alice, barrier: threading.Barrier = start_at_once, errors: list[BaseException] = errors
        ) -> None:
            barrier.wait()
            try:
                alice.close()
            except BaseException as error:  # noqa: BLE001 - shown by the test
                errors.append(error)

        threads = [threading.Thread(target=close) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(5)
        assert not errors


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_is_told_so_by_every_use(start: Start) -> None:
    """C6: also by a send that would only queue."""
    script = f"""
import os, sys, warnings
sys.path.insert(0, {os.getcwd()!r})
warnings.simplefilter("ignore")
import peergram
from peergram import SendFlags
bob = peergram.Messages("bob", listen="127.0.0.1:0", config=peergram.Config(nagle_us=20_000), signaling=None)
alice = peergram.Messages("alice", config=peergram.Config(nagle_us=20_000), signaling=None)
bob.on_session_request = lambda request: bob.accept_session_with_user(request.identity)
to = "ip:%s:%d" % bob.local_addresses[0]
alice.send_message_to_user(to, b"1", SendFlags.RELIABLE)
while not bob.receive_messages_on_channel(0, 1):
    bob.run_callbacks()
alice.send_message_to_user(to, b"2", SendFlags.RELIABLE)
if os.fork() == 0:
    told = 0
    for use in (
        lambda: alice.send_message_to_user(to, b"3", SendFlags.RELIABLE),
        lambda: alice.send_message_to_user("alice", b"3"),
        lambda: alice.receive_messages_on_channel(0, 1),
        alice.run_callbacks,
        alice.fileno,
        lambda: alice.close_session_with_user(to),
    ):
        try:
            use()
        except peergram.ClosedError as error:
            told += "forked child" in str(error)
    alice.close()
    os._exit(told)
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False)
    assert (done.stdout, done.stderr) == ("6\n", "")


def test_a_handler_that_raises_in_one_process_leaves_its_other_sessions_as_they_were(start: Start) -> None:
    """M8: the session that failed, and the one that goes on, are consistent after the exception."""
    pair = Pair(start, config=Config(timeout_initial_us=1_000_000)).connect()

    def handler(event: object) -> None:
        raise ZeroDivisionError

    pair.bob.on_session_failed = handler
    pair.bob.send_message_to_user("ip:127.0.0.1:9", b"anybody?", RELIABLE)
    until(lambda: is_readable(pair.bob), 20)
    with pytest.raises(ZeroDivisionError):
        pair.bob.run_callbacks()
    pair.bob.run_callbacks()
    assert pair.bob.send_message_to_user("ip:127.0.0.1:9", b"?", RELIABLE) == Result.CONNECT_FAILED
    assert pair.bob.close_session_with_user("ip:127.0.0.1:9")
    assert pair.bob.get_session_connection_info("alice").state == ConnectionState.CONNECTED
    pair.alice.send_message_to_user(pair.to_bob, b"still here", RELIABLE)
    assert pair.read_at_bob(1) == [b"still here"]


def test_several_messages_at_once_may_be_of_any_bytes_like_kind(start: Start) -> None:
    pair = Pair(start).connect()
    messages = [b"1", bytearray(b"2"), memoryview(b"3")]
    assert pair.alice.send_messages_to_user(pair.to_bob, messages, RELIABLE) == (3, Result.OK)  # type: ignore[arg-type]
    assert pair.read_at_bob(3) == [b"1", b"2", b"3"]
    with pytest.raises(UsageError, match="encode text first"):
        pair.alice.send_messages_to_user(pair.to_bob, [b"1", "text"], RELIABLE)  # type: ignore[list-item]
    assert pair.alice.send_messages_to_user(pair.to_bob, [], RELIABLE) == (0, Result.OK)


def test_a_long_list_of_messages_does_not_keep_others_waiting(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair(start).connect()
    at_once: list[int] = []
    send_messages = Endpoint.send_messages

    def note(endpoint: Endpoint, to: Identity, messages: list[bytes], *rest: int) -> tuple[int, Result]:
        at_once.append(len(messages))
        return send_messages(endpoint, to, messages, *rest)

    monkeypatch.setattr(Endpoint, "send_messages", note)
    messages = [b"%d" % number for number in range(2_500)]
    outcome = pair.alice.send_messages_to_user(pair.to_bob, [*messages, bytes(600_000), b"x"], RELIABLE)
    assert outcome == (2_500, Result.INVALID_PARAM)
    assert at_once == [1_000, 1_000, 502]
    assert pair.read_at_bob(2_500) == messages


# --- waiting ---


def test_wait_returns_once_messages_or_events_wait(start: Start) -> None:
    pair = Pair(start)
    assert not pair.bob.wait(0)
    assert pair.alice.send_message_to_user(pair.to_bob, b"1", RELIABLE) == Result.OK
    assert pair.bob.wait(5), "he is asked"
    pair.bob.on_session_request = lambda request: pair.bob.accept_session_with_user(request.identity)
    pair.bob.run_callbacks()
    until(lambda: pair.bob.wait(5) and pair.read_at_bob(1) == [b"1"])
    assert not pair.bob.wait(0.01)


def test_of_what_others_send_on_other_channels_a_wait_for_one_takes_no_notice(start: Start) -> None:
    pair = Pair(start)
    pair.alice.send_message_to_user(pair.to_bob, b"elsewhere", RELIABLE, 5)
    assert pair.bob.wait(5, channel=3), "he is asked, and events count"
    pair.bob.run_callbacks()
    assert pair.bob.wait(5)
    assert pair.bob.wait(0, channel=5)
    assert not pair.bob.wait(0.01, channel=3)
    pair.alice.send_message_to_user(pair.to_bob, b"here", RELIABLE, 3)
    assert pair.bob.wait(5, channel=3)
    assert pair.read_at_bob(1, channel=3) == [b"here"]
    assert not pair.bob.wait(0, channel=3)


def test_all_has_been_sent_once_the_session_is_up(start: Start) -> None:
    pair = Pair(start)
    assert pair.alice.wait_until_sent(0)
    pair.alice.send_message_to_user(pair.to_bob, b"unreliable")
    assert not pair.alice.wait_until_sent(0.01), "nobody has let her in"
    pair.read_at_bob(1)
    assert pair.alice.wait_until_sent(5)
    assert [message.payload for message in pair.at_bob] == [b"unreliable"]


def test_waiting_for_room_lasts_until_half_of_the_send_buffer_is_free(start: Start) -> None:
    pair = Pair(start, config=Config(send_buffer_bytes=64_000)).connect()
    sent = 0
    while pair.alice.send_message_to_user(pair.to_bob, bytes(1_000), RELIABLE) == Result.OK:
        sent += 1
    assert pair.alice.wait_for_room(pair.to_bob, 5)
    for _ in range(25):
        assert pair.alice.send_message_to_user(pair.to_bob, bytes(1_000), RELIABLE) == Result.OK


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a signal that comes by itself")
def test_a_signal_handler_that_closes_while_its_thread_waits_still_delivers_what_was_sent(start: Start) -> None:
    pair = Pair(start, config=Config(linger_us=5_000_000)).connect()

    def close(*_: object) -> None:
        assert pair.alice.send_messages_to_user(pair.to_bob, [bytes(1_000)] * 400, RELIABLE) == (400, Result.OK)
        pair.alice.close()

    before = signal.signal(signal.SIGALRM, close)
    began_s = time.monotonic()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(ClosedError):
            pair.alice.wait(10)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - began_s < 4
    assert len(pair.read_at_bob(400)) == 400


def test_without_a_session_there_is_room(start: Start) -> None:
    assert start("alice").wait_for_room("ip:127.0.0.1:9", 0)


def test_there_is_no_room_while_nobody_answers(start: Start) -> None:
    alice = start("alice", config=Config(send_buffer_bytes=64_000))
    while alice.send_message_to_user("ip:127.0.0.1:9", bytes(1_000), RELIABLE) == Result.OK:
        pass
    assert not alice.wait_for_room("ip:127.0.0.1:9", 0.01)


@pytest.mark.parametrize("timeout_s", [-1, -0.001, float("nan")])
def test_a_time_to_wait_that_is_none_is_refused(start: Start, timeout_s: float) -> None:
    with pytest.raises(UsageError, match="seconds from 0 on"):
        start("alice").wait(timeout_s)
    assert not start("carol").wait(1e-6)


def test_a_frame_without_news_does_not_wait_for_the_network_thread(start: Start) -> None:
    net = start("alice")

    def frame() -> None:
        net.run_callbacks()
        net.receive_messages_on_channel(0, 10)

    thread = threading.Thread(target=frame)
    with net._driver.lock:  # as the thread holds it while it reads
        thread.start()
        thread.join(5)
        assert not thread.is_alive()


def test_fileno_is_readable_while_messages_wait(start: Start) -> None:
    pair = Pair(start).connect()
    assert not is_readable(pair.bob)
    pair.alice.send_message_to_user(pair.to_bob, b"1", RELIABLE)
    pair.alice.send_message_to_user(pair.to_bob, b"2", RELIABLE)
    assert is_readable(pair.bob, 5)
    first = pair.bob.receive_messages_on_channel(0, 1)
    assert [message.payload for message in first] == [b"1"]
    until(lambda: is_readable(pair.bob))
    assert pair.read_at_bob(1) == [b"2"]
    assert not is_readable(pair.bob)


def test_a_descriptor_may_be_of_one_channel(start: Start) -> None:
    pair = Pair(start)

    def readable(timeout_s: float = 0.0) -> list[int]:
        of_channel = {pair.bob.fileno(channel): channel for channel in (3, 5)}
        return [of_channel[found] for found in select.select(list(of_channel), [], [], timeout_s)[0]]

    assert readable() == []
    pair.alice.send_message_to_user(pair.to_bob, b"elsewhere", RELIABLE, 4)
    until(lambda: readable() == [3, 5])
    pair.bob.run_callbacks()
    assert is_readable(pair.bob, 5)
    assert readable() == []
    pair.alice.send_message_to_user(pair.to_bob, b"here", RELIABLE, 5)
    assert readable(5) == [5]
    assert pair.read_at_bob(1, channel=5) == [b"here"]
    assert readable() == []


def test_fileno_is_readable_while_events_wait(start: Start) -> None:
    pair = Pair(start)
    pair.alice.send_message_to_user(pair.to_bob, b"hello", RELIABLE)
    assert is_readable(pair.bob, 5)
    pair.bob.on_session_request = lambda request: None
    pair.bob.run_callbacks()
    assert not is_readable(pair.bob)


def test_fileno_is_readable_while_a_message_to_oneself_waits(start: Start) -> None:
    alice = start("alice")
    alice.send_message_to_user("alice", b"the first one sets a timer")
    alice.receive_messages_on_channel(0, 1)
    assert not is_readable(alice)
    time.sleep(0.05)
    for number in range(3):
        assert alice.send_message_to_user("alice", b"%d" % number) == Result.OK
        assert is_readable(alice)
        assert [message.payload for message in alice.receive_messages_on_channel(0, 10)] == [b"%d" % number]
        assert not is_readable(alice)


# --- threads ---


def test_eight_threads_keep_their_order_per_channel(start: Start, batching: bool, hurried: None) -> None:
    """M9: 8 threads send, receive, close; 4e6 messages in about a minute under PEERGRAM_SOAK, 8000 without.

    Nothing of them stays in memory: by the second half everything has been as full as it gets.
    """
    each = 500_000 if SOAK else 1_000
    pair = Pair(start, batching=batching, config=Config(send_buffer_bytes=4_000_000)).connect()
    received = [0] * 8
    wrong: list[tuple[int, int, bytes]] = []
    stop = threading.Event()

    def send(channel: int) -> None:
        for number in range(each):
            while pair.alice.send_message_to_user(pair.to_bob, b"%d" % number, RELIABLE, channel) != Result.OK:
                time.sleep(0.001)

    def read(channel: int) -> None:
        while received[channel] < each and not stop.is_set():
            messages = pair.bob.receive_messages_on_channel(channel, 100)
            for message in messages:
                if message.payload != b"%d" % received[channel]:
                    wrong.append((channel, received[channel], message.payload))
                received[channel] += 1
            if not messages:
                time.sleep(0.0005)

    def disturb() -> None:
        while not stop.is_set():
            pair.alice.get_session_connection_info(pair.to_bob)
            pair.alice.close_session_with_user("nobody")
            pair.alice.close_channel_with_user(pair.to_bob, 99)
            pair.bob.run_callbacks()
            time.sleep(0.001)

    workers = [threading.Thread(target=work, args=(channel,)) for channel in range(8) for work in (send, read)]
    extra = threading.Thread(target=disturb)
    for thread in (*workers, extra):
        thread.start()
    deadline_s = time.monotonic() + (600 if SOAK else 30)
    held: list[tuple[int, int]] = []
    while any(thread.is_alive() for thread in workers) and time.monotonic() < deadline_s and not wrong:
        held.append((sum(received), resident_bytes()))
        time.sleep(1 if SOAK else 0.01)
    stop.set()
    for thread in (*workers, extra):
        thread.join(5)
    assert not wrong[:5]
    assert received == [each] * 8
    if SOAK:
        slope = bytes_per_message([sample for sample in held if sample[0] > 4 * each])
        print(f"{sum(received)} messages, {len(held)} s, resident memory {held[-1][1] >> 20} MiB, {slope:+.2f} B a message")
        assert slope <= SLOPE_BYTES_MAX


def resident_bytes() -> int:
    """What this process has in memory; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def bytes_per_message(held: list[tuple[int, int]]) -> float:
    """The slope of the straight line that is nearest to all samples."""
    return linear_regression(*zip(*held, strict=True)).slope


def test_threads_that_open_and_close_sessions_break_nothing(start: Start, hurried: None) -> None:
    """M9: whatever eight threads do at once, calls raise nothing and return what they may; afterwards everybody can talk."""
    nets = [start(name, listen=ANY_PORT) for name in ("a", "b", "c")]
    for net in nets:
        net.on_session_request = lambda request, net=net: net.accept_session_with_user(request.identity)
    errors: list[BaseException] = []
    until_s = time.monotonic() + (60 if SOAK else 1)

    def work(number: int) -> None:
        mine, other = nets[number % 3], nets[(number + 1) % 3]
        try:
            while time.monotonic() < until_s:
                assert mine.send_message_to_user(dialed(other), bytes(number * 50), RELIABLE, number) in Result
                mine.receive_messages_on_channel(number, 5)
                mine.run_callbacks()
                mine.close_session_with_user(dialed(other))
        except BaseException as error:  # noqa: BLE001 - shown by the test
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not errors
    assert not any(thread.is_alive() for thread in threads)
    for mine, other in zip(nets, nets[1:] + nets[:1], strict=True):
        _talks_again(mine, other)


def _talks_again(mine: Messages, other: Messages) -> None:
    """A message gets through, whatever was left over from before."""
    mine.close_session_with_user(dialed(other))
    mine.send_message_to_user(dialed(other), b"the last word", RELIABLE | SendFlags.AUTO_RESTART_BROKEN_SESSION, 42)
    payloads: list[bytes] = []

    def read() -> bool:
        for net in (mine, other):
            net.run_callbacks()
        payloads.extend(message.payload for message in other.receive_messages_on_channel(42, 100))
        return b"the last word" in payloads

    until(read, 20)


# --- beginning and ending ---


def test_a_context_manager_closes(start: Start) -> None:
    with Messages("alice", listen=ANY_PORT, signaling=None) as alice:
        address = alice.local_addresses[0]
    with pytest.raises(ClosedError):
        alice.send_message_to_user("ip:127.0.0.1:9", b"?")
    assert start("again", listen=address).local_addresses == [address], "the port is free again"


def test_an_exception_inside_passes_through() -> None:
    with pytest.raises(ZeroDivisionError), Messages("alice", signaling=None):
        raise ZeroDivisionError


def test_closing_twice_is_harmless_and_ends_the_thread() -> None:
    before = threading.active_count()
    alice = Messages("alice", signaling=None)
    assert threading.active_count() == before + 1
    alice.close()
    alice.close()
    assert threading.active_count() == before


USES: dict[str, Callable[[Messages], object]] = {
    "send_message_to_user": lambda net: net.send_message_to_user("ip:127.0.0.1:9", b"x"),
    "send_messages_to_user": lambda net: net.send_messages_to_user("ip:127.0.0.1:9", [b"x"]),
    "send_message_to_user to oneself": lambda net: net.send_message_to_user("alice", b"x"),
    "receive_messages_on_channel": lambda net: net.receive_messages_on_channel(0, 1),
    "accept_session_with_user": lambda net: net.accept_session_with_user("bob"),
    "close_session_with_user": lambda net: net.close_session_with_user("bob"),
    "close_channel_with_user": lambda net: net.close_channel_with_user("bob", 0),
    "get_session_connection_info": lambda net: net.get_session_connection_info("bob"),
    "flush_messages": lambda net: net.flush_messages("bob"),
    "set_framing": lambda net: net.set_framing("bob", "raw"),
    "fileno": lambda net: net.fileno(),
    "wait": lambda net: net.wait(0),
    "wait_for_room": lambda net: net.wait_for_room("bob", 0),
    "wait_until_sent": lambda net: net.wait_until_sent(0),
}


@pytest.mark.parametrize("name", list(USES))
def test_every_use_after_closing_says_what_to_do(name: str) -> None:
    alice = Messages("alice", signaling=None)
    alice.close()
    with pytest.raises(ClosedError, match="make a new one"):
        USES[name](alice)


def test_callbacks_can_be_run_after_closing() -> None:
    alice = Messages("alice", signaling=None)
    alice.on_session_failed = lambda failure: None
    alice.close()
    alice.run_callbacks()


def test_reliable_messages_arrive_although_the_sender_closes_at_once(start: Start) -> None:
    """`close` gives what was sent up to `linger_us`."""
    pair = Pair(start).connect()
    for number in range(100):
        pair.alice.send_message_to_user(pair.to_bob, b"%02d" % number + bytes(1_000), RELIABLE)
    pair.alice.close()
    assert [payload[:2] for payload in pair.read_at_bob(100)] == [b"%02d" % number for number in range(100)]


def test_a_port_in_use_says_so_and_leaves_nothing_behind(start: Start) -> None:
    taken = start("first", listen=ANY_PORT).local_addresses[0]
    before = threading.active_count()
    with pytest.raises(AddressInUseError, match="choose another port"):
        Messages("second", listen=taken, signaling=None)
    with pytest.raises(OSError, match="choose another port"):
        Messages("second", listen=f"127.0.0.1:{taken[1]}", signaling=None)
    assert threading.active_count() == before


# --- wrong arguments, each with its remedy ---


@pytest.mark.parametrize(
    ("identity", "remedy"),
    [
        ("", "use a text such as"),
        ("x" * 32, "31 bytes"),
        ("steamid:notanumber", "decimal number"),
        ("ip:example.org:1", "numeric address"),
        ("NoSuchKind:1", "needs a prefix"),
        ("gen:123", "hexadecimal digits"),
        (42, "an identity is a text such as"),
        (None, "an identity is a text such as"),
    ],
)
def test_wrong_identities(start: Start, identity: str, remedy: str) -> None:
    alice = start("alice")
    with pytest.raises(UsageError, match=remedy):
        alice.send_message_to_user(identity, b"x")
    for use in (alice.accept_session_with_user, alice.close_session_with_user, alice.get_session_connection_info):
        with pytest.raises(UsageError, match=remedy):
            use(identity)


@pytest.mark.parametrize("identity", ["ip:example.org:1", "x" * 32, 42])
def test_a_wrong_identity_of_ones_own(identity: str) -> None:
    before = threading.active_count()
    with pytest.raises(UsageError):
        Messages(identity, signaling=None)
    assert threading.active_count() == before


def refusal_of(listen: object) -> tuple[type[Exception] | None, str, int]:
    """What making `Messages` with that address raises, its text, and how many sockets it leaves open."""
    kind, text, before = None, "", open_sockets()
    try:
        Messages("alice", listen=listen, signaling=None).close()  # type: ignore[arg-type]
    except Exception as error:  # noqa: BLE001 - looked at by the test
        kind, text = type(error), str(error)
        leaked = open_sockets() - before
        for abandoned in [each for each in gc.get_objects() if isinstance(each, ThreadDriver) and not each.closed]:
            abandoned.close()
        return kind, text, leaked
    return kind, text, 0


def open_sockets() -> int:
    return sum(isinstance(each, socket.socket) and each.fileno() >= 0 for each in gc.get_objects())


@pytest.mark.parametrize(
    ("listen", "remedy"),
    [
        ("27015", "no port: write it as"),
        ("localhost:27015", "look host names up first"),
        ("127.0.0.1:70000", "from 0 to 65535"),
        pytest.param(27015, "write"),
        pytest.param(("127.0.0.1", "0"), "port"),
    ],
)
def test_wrong_addresses_to_listen_at(listen: object, remedy: str) -> None:
    kind, text, _ = refusal_of(listen)
    assert kind is UsageError
    assert remedy in text


def test_a_wrong_address_leaves_no_socket_open() -> None:
    assert refusal_of("localhost:27015") == (UsageError, refusal_of("localhost:27015")[1], 0)


@pytest.mark.parametrize("channel", [1 << 31, -(1 << 31) - 1])
def test_wrong_channels(start: Start, channel: int) -> None:
    alice = start("alice")
    with pytest.raises(UsageError, match="-2147483648 to 2147483647"):
        alice.send_message_to_user("ip:127.0.0.1:9", b"x", RELIABLE, channel)


@pytest.mark.parametrize("count", [0, -5])
def test_wrong_numbers_of_messages(start: Start, count: int) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        start("alice").receive_messages_on_channel(0, count)


@pytest.mark.parametrize("data", [5, "text", None])
def test_wrong_data(start: Start, data: bytes) -> None:
    with pytest.raises(UsageError, match="bytes"):
        start("alice").send_message_to_user("ip:127.0.0.1:9", data)


@pytest.mark.parametrize("data", [bytearray(b"abc"), memoryview(b"abc")])
def test_data_may_be_anything_like_bytes(start: Start, data: bytes) -> None:
    pair = Pair(start).connect()
    assert pair.alice.send_message_to_user(pair.to_bob, data, RELIABLE) == Result.OK
    assert pair.read_at_bob(1) == [b"abc"]


def test_wrong_framing(start: Start) -> None:
    with pytest.raises(UsageError, match="'messages' or 'raw'"):
        start("alice").set_framing("bob", "none")


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ({"nagle_us": 1_000_000}, "from 0 to 20000"),
        ({"rate": "fast"}, "auto, fixed"),
        ({"send_buffer_bytes": 0}, "from 4096"),
        ({"timeout_initial_us": 1.5}, "whole number"),
    ],
)
def test_wrong_configurations(options: dict[str, int], remedy: str) -> None:
    with pytest.raises(UsageError, match=remedy):
        Config(**options)  # type: ignore[arg-type]


def test_a_state_that_is_no_folder_is_refused() -> None:
    with pytest.raises(UsageError, match="state"):
        Messages("alice", state=7)  # type: ignore[arg-type]


def test_a_call_leaves_a_note_for_the_next_run_until_this_one_closes(tmp_path: Path) -> None:
    with Messages("alice", signaling=InProcessSignaling(InProcessHub()), state=tmp_path) as net:
        assert list(tmp_path.iterdir()) == []
        net.send_message_to_user("str:nobody", b"hello", SendFlags.RELIABLE)
        [file] = tmp_path.iterdir()
        assert b"str:nobody" in file.read_bytes()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("identity", "state"), [("alice", False), (None, True)])
def test_without_a_folder_or_a_name_nothing_is_noted(
    identity: str | None, state: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with Messages(identity, signaling=InProcessSignaling(InProcessHub()), state=state) as net:
        net.send_message_to_user("str:nobody", b"hello", SendFlags.RELIABLE)
        assert list(tmp_path.iterdir()) == []
