"""M8: whatever is called, in whatever order and from wherever, only documented errors come out, and the library stays whole.

A seed draws calls of all six functions and of what is beside them, with right and wrong arguments, from callbacks too; callbacks
raise, close, and block. Over real sockets from four threads, a second each and ten minutes with PEERGRAM_SOAK=1; in virtual time
by the endpoint's own functions. In the end everybody can talk to everybody.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from random import Random
from typing import Any

import pytest

from peergram import ClosedError, Config, ConnectionState, Identity, Messages, Result, SendFlags, UsageError
from peergram.events import SessionFailed, SessionRequested
from peergram.identity import INVALID
from tests.endpoint.world import SECOND_US, Host, World, rough

SOAK = bool(os.environ.get("PEERGRAM_SOAK"))
SPIN_S = 600 if SOAK else 1
NAMES = ("alice", "bob", "carol")
CONFIG = Config(
    timeout_initial_us=500_000,
    timeout_connected_us=500_000,
    resume_window_us=0,
    session_idle_us=1_000_000,
    linger_us=20_000,
    recv_buffer_messages=50,
    send_buffer_bytes=100_000,
)
WRONG_USERS: tuple[Any, ...] = (
    "",
    "nonsense:x",
    "str:" + "x" * 500,
    None,
    7,
    b"str:alice",
    "ip:127.0.0.1:0",
    Identity.of("nobody"),
)
CHANNELS: tuple[Any, ...] = (0, 1, 2, -1, 7, 1 << 40, "0", None)
PAYLOADS: tuple[Any, ...] = (
    b"",
    b"x" * 10,
    b"x" * 3_000,
    b"x" * 60_000,
    bytes(600_000),
    bytearray(5),
    memoryview(b"abc"),
    "text",
    None,
)
FLAGS: tuple[Any, ...] = (0, 8, 8, 8, 9, 12, 5, 32, 40, 1 << 20, -1, None)
COUNTS: tuple[Any, ...] = (1, 10, 0, -5, 1 << 70, "1")


class OwnMistakeError(Exception):
    """An application's handler went wrong: whoever dispatched it is told, and nothing else suffers."""


DOCUMENTED = (UsageError, ClosedError, TypeError, OwnMistakeError)


def spin_once(net: Messages, rng: Random, users: list[Any]) -> None:
    """One call, right or wrong. Results are of their documented kinds."""
    user = rng.choice(users) if rng.random() < 0.8 else rng.choice(WRONG_USERS)
    channel = rng.randrange(3) if rng.random() < 0.8 else rng.choice(CHANNELS)
    what = rng.randrange(11)
    if what <= 3:
        flags = 8 if rng.random() < 0.5 else rng.choice(FLAGS)
        assert net.send_message_to_user(user, rng.choice(PAYLOADS), flags, channel) in Result
    elif what == 4:
        result, receipt = net.send_with_receipt(user, rng.choice(PAYLOADS), channel=channel)
        assert (receipt is not None) == (result == Result.OK)
    elif what == 5:
        assert isinstance(net.receive_messages_on_channel(channel, rng.choice(COUNTS)), list)
    elif what == 6:
        assert net.accept_session_with_user(user) in (True, False)
    elif what == 7:
        assert net.close_channel_with_user(user, channel) in (True, False)
    elif what == 8:
        if rng.random() < 0.3:
            assert net.close_session_with_user(user) in (True, False)
    elif what == 9:
        info = net.get_session_connection_info(user)
        assert info.connection is None or info.connection.state == info.state
    else:
        net.run_callbacks()


class Handler:
    """A callback of an application at its worst: raises, calls anything, closes, blocks for a moment."""

    def __init__(self, net: Messages, rng: Random, users: list[Any]) -> None:
        self.net, self.rng, self.users = net, rng, users
        self.raised = 0

    def __call__(self, event: SessionRequested | SessionFailed) -> None:
        what = self.rng.randrange(6)
        if what == 0:
            self.raised += 1
            raise OwnMistakeError
        if what == 1:
            self.net.close_session_with_user(event.identity)
        elif what == 2:
            time.sleep(0.002)
        elif what == 3:
            quietly(lambda: spin_once(self.net, self.rng, self.users))
        else:
            self.net.accept_session_with_user(event.identity)


def quietly(action: Callable[[], None]) -> None:
    with suppress(*DOCUMENTED):
        action()


@pytest.mark.parametrize("seed", range(2))
def test_threads_that_call_anything_over_real_sockets(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    errors: list[BaseException] = []
    with ExitStack() as stack:
        nets = [
            stack.enter_context(Messages(name, listen=("127.0.0.1", 0), signaling=None, config=CONFIG, state=False))
            for name in NAMES
        ]
        users: list[Any] = [f"ip:127.0.0.1:{net.local_addresses[0][1]}" for net in nets] + [f"str:{name}" for name in NAMES]
        for number, net in enumerate(nets):
            net.on_session_request = Handler(net, Random(f"{seed} request {number}"), users)
            net.on_session_failed = Handler(net, Random(f"{seed} failed {number}"), users)
        until_s = time.monotonic() + SPIN_S

        def work(number: int) -> None:
            rng = Random(f"{seed} thread {number}")
            try:
                while time.monotonic() < until_s:
                    quietly(lambda: spin_once(rng.choice(nets), rng, users))
            except BaseException as error:  # noqa: BLE001 - shown by the test
                errors.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SPIN_S + 30)
        assert not errors
        assert not any(thread.is_alive() for thread in threads)
        for net in nets:
            net.on_session_failed = lambda failure: None
            net.on_session_request = lambda request, net=net: net.accept_session_with_user(request.identity)
        for sender, receiver, user in zip(nets, nets[1:] + nets[:1], users[1:3] + users[:1], strict=True):
            _talks(sender, receiver, user)
    for net in nets:
        with pytest.raises(ClosedError):
            net.send_message_to_user("str:bob", b"after the end")


def _talks(sender: Messages, receiver: Messages, user: str) -> None:
    """A message gets through, on a channel that nobody used."""
    deadline_s = time.monotonic() + 20
    sender.close_session_with_user(user)
    while not (messages := receiver.receive_messages_on_channel(42, 10)):
        assert time.monotonic() < deadline_s, "nobody hears"
        if sender.get_session_connection_info(user).state == ConnectionState.NONE:
            # Also when he was not heard in time: a stranger is announced once in 3 s, and patience here is shorter than that.
            sender.send_message_to_user(user, b"all is well", SendFlags.RELIABLE, 42)
        for net in (sender, receiver):
            net.run_callbacks()
            for channel in (0, 1, 2, -1, 7):
                net.receive_messages_on_channel(channel, 1_000)
        time.sleep(0.002)
    assert messages[-1].payload == b"all is well"


@pytest.mark.parametrize("seed", range(300 if SOAK else 10))
def test_calls_of_any_kind_in_virtual_time(seed: int) -> None:
    """The same below the sockets, with a network that loses, doubles and reorders, and processes that die."""
    rng = Random(seed)
    world = World(rough(rng, loss=rng.choice((0.0, 0.1)), delay_us=(1_000, 50_000), again=0.1), seed=seed)
    hosts = [world.add(name, CONFIG) for name in NAMES]
    for _ in range(400):
        host = rng.choice(hosts)
        quietly(lambda host=host: _call_below(host, rng, hosts))  # type: ignore[misc]
        host.drain()
        world.run(rng.choice((0, 0, 1_000, 20_000, 300_000)))
    world.network = rough(rng)
    for host in hosts:
        host.reads = True
        host.drain()
    world.run(3 * SECOND_US)
    for sender, receiver in zip(hosts, hosts[1:] + hosts[:1], strict=True):
        receiver.received.clear()
        sender.close_session(receiver)
        assert sender.send(receiver, b"all is well", 8 | 32, 42) == Result.OK
        world.run_until(lambda receiver=receiver: b"all is well" in receiver.payloads(42))  # type: ignore[misc]


def _call_below(host: Host, rng: Random, hosts: list[Host]) -> None:
    other = rng.choice(hosts)
    user: Any = rng.choice((other.dialed, other.identity, Identity.of("nobody"), INVALID))
    endpoint, now_us, channel = host.endpoint, host.world.now_us, rng.choice((0, 1, 2, -1, 1 << 40))
    what = rng.randrange(10)
    if what <= 3:
        data = rng.choice(PAYLOADS[:5])
        world_channels = host.world.channels
        if abs(channel) < 1 << 31:
            world_channels.setdefault(channel)
        assert endpoint.send_message(user, data, rng.choice(FLAGS[:9]), channel, now_us) in Result
    elif what == 4:
        endpoint.receive_messages(channel, rng.choice((1, 0, -1, 1 << 70)), now_us)
    elif what == 5:
        assert endpoint.accept_session(user, now_us) in (True, False)
    elif what == 6:
        assert endpoint.close_session(user, now_us) in (True, False)
    elif what == 7:
        assert endpoint.close_channel(user, channel, now_us) in (True, False)
    elif what == 8:
        endpoint.connection_info(user, now_us)
        endpoint.real_time_status(user, now_us)
    elif rng.random() < 0.2:
        endpoint.close(now_us)
        host.drain()
        host.kill()
        host.start()
    else:
        host.reads = not host.reads
