"""peergram through its public interface: `Messages`, encrypted, with its driver thread and default rate control.

Buffers are raised above the defaults, as a program that moves this much would: a send buffer of 4 MiB, a receive buffer of 16
MiB and as many unread messages as fit. Messages are handed over in batches (`send_messages_to_user`), as the reference's are;
both sides wait through the library (`wait`, `wait_for_room`). The crowd of idle connections is many endpoints on one event loop,
since a thread each would measure threads; the process that holds them is a plain `Messages`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benches.cases import (
    ECHO_TIMEOUT_S,
    FIRST_MESSAGE_TIMEOUT_S,
    Held,
    HoldClock,
    PingClock,
    Pinged,
    ReceiveClock,
    Received,
    SendClock,
    Sent,
    Task,
)
from peergram import Config, ConnectionState, Identity, Messages, RealTimeStatus, Result, SendFlags
from peergram.drivers.asyncio_driver import AsyncioDriver
from peergram.drivers.system import monotonic_us, secure_entropy, wall_offset_us
from peergram.endpoint.endpoint import Endpoint

NAME = "peergram"
DESCRIPTION = (
    "this library: sessions, AES-256-GCM, acknowledgements, congestion control; public interface, thread driver; send buffer of "
    "4 MiB, receive buffer of 16 MiB and 200,000 messages"
)

_WAIT_S = 0.05
_FLUSH_TIMEOUT_S = 5.0
_RECEIVE_MAX = 1_000
_BATCH_BYTES = 1 << 20
_BATCH_MESSAGES_MAX = 256
"""As for the reference: so many messages in one call."""
_KNOCK_CHANNEL = 1
_CROWD_GROUP = 8
"""Endpoints that knock at a time: fewer than may wait for an answer from one address."""
_CROWD_POLL_S = 0.002


def _config() -> Config:
    return Config(send_buffer_bytes=4 << 20, recv_buffer_bytes=16 << 20, recv_buffer_messages=200_000)


def missing() -> str | None:
    """It is always here."""
    return None


def sender(task: Task) -> Sent:
    """Keep the send buffer filled, a batch of messages at a time."""
    flags = SendFlags.RELIABLE if task.case.is_reliable else SendFlags.UNRELIABLE
    messages = [bytes(task.case.message_bytes)] * max(8, min(_BATCH_MESSAGES_MAX, _BATCH_BYTES // task.case.message_bytes))
    to = f"ip:127.0.0.1:{task.port}"
    with Messages("bench-sender", key=False, trust="open", config=_config(), signaling=None) as net:
        _connect(net, to)
        clock = SendClock(task.seconds)
        sent = 0
        while clock.is_running(sent):
            taken, result = net.send_messages_to_user(to, messages, flags)
            sent += taken
            if result != Result.OK:
                net.wait_for_room(to, _WAIT_S)
        account = clock.account(sent)
        _flush(net, to)
        return account


def receiver(task: Task) -> Received:
    """Read whatever there is as soon as it is there."""
    clock = ReceiveClock(task.seconds)
    count = 0
    with _listening(task) as net:
        while True:
            net.wait(_WAIT_S)
            net.run_callbacks()
            net.receive_messages_on_channel(_KNOCK_CHANNEL, _RECEIVE_MAX)
            received = net.receive_messages_on_channel(0, _RECEIVE_MAX)
            count += sum(message.size == task.case.message_bytes for message in received)
            if clock.note(count):
                return clock.account()


def pinger(task: Task) -> Pinged:
    """Send, wait, receive."""
    to = f"ip:127.0.0.1:{task.port}"
    message = bytes(task.case.message_bytes)
    with Messages("bench-sender", key=False, trust="open", config=_config(), signaling=None) as net:
        _connect(net, to)
        clock = PingClock(task.seconds)
        while clock.is_running():
            start_ns = time.perf_counter_ns()
            net.send_message_to_user(to, message, SendFlags.UNRELIABLE_NO_NAGLE)
            while net.wait(ECHO_TIMEOUT_S):
                if net.receive_messages_on_channel(0, 1):
                    clock.note((time.perf_counter_ns() - start_ns) / 1000)
                    break
            else:
                clock.note_lost()
        return clock.account()


def echo(task: Task) -> None:
    """Wait, send back."""
    with _listening(task) as net:
        while True:
            net.wait(_WAIT_S)
            for message in net.receive_messages_on_channel(0, 1):
                net.send_message_to_user(message.identity, message.payload, SendFlags.UNRELIABLE_NO_NAGLE)
                break
            else:
                net.run_callbacks()
                net.receive_messages_on_channel(_KNOCK_CHANNEL, _RECEIVE_MAX)


def holder(task: Task) -> Held:
    """Accept everybody, read their one message, sleep."""
    clock = HoldClock(task.connections, task.seconds)
    count = 0
    with _listening(task) as net:
        while not clock.note(count):
            net.wait(HoldClock.POLL_S)
            net.run_callbacks()
            count += len(net.receive_messages_on_channel(_KNOCK_CHANNEL, _RECEIVE_MAX))
        return clock.account()


def crowd(task: Task) -> None:
    """Many endpoints, each with a socket and an identity of its own; they come in groups and then say nothing."""
    asyncio.run(_gather_crowd(task))


async def _gather_crowd(task: Task) -> None:
    everybody: list[_OneOfCrowd] = []
    for start in range(0, task.connections, _CROWD_GROUP):
        group = [_OneOfCrowd(number, task.port) for number in range(start, min(start + _CROWD_GROUP, task.connections))]
        for one in group:
            await one.knock()
        while not all(one.is_let_in() for one in group):
            await asyncio.sleep(_CROWD_POLL_S)
        everybody += group
    await asyncio.Event().wait()


class _OneOfCrowd:
    """An endpoint with a socket and an identity of its own that says one thing and then nothing."""

    def __init__(self, number: int, port: int) -> None:
        self._to = Identity.of(f"ip:127.0.0.1:{port}")
        self._endpoint = Endpoint(Identity.of(f"crowd-{number}"), entropy=secure_entropy, wall_offset_us=wall_offset_us())
        self._driver = AsyncioDriver(self._endpoint)

    async def knock(self) -> None:
        await self._driver.start()
        self._driver.call(
            lambda now_us: self._endpoint.send_message(self._to, b"here", SendFlags.RELIABLE, _KNOCK_CHANNEL, now_us)
        )

    def is_let_in(self) -> bool:
        info = self._endpoint.connection_info(self._to, monotonic_us())
        if info is None or info.state in (ConnectionState.CLOSED_BY_PEER, ConnectionState.PROBLEM_DETECTED_LOCALLY):
            raise ConnectionError("the holder of the connections refuses one")
        return info.state == ConnectionState.CONNECTED


@contextmanager
def _listening(task: Task) -> Iterator[Messages]:
    with Messages(
        "bench-receiver", listen=f"127.0.0.1:{task.port}", key=False, trust="open", config=_config(), signaling=None
    ) as net:
        net.on_session_request = lambda request: net.accept_session_with_user(request.identity)
        yield net


def _connect(net: Messages, to: str) -> None:
    deadline_s = time.perf_counter() + FIRST_MESSAGE_TIMEOUT_S
    while net.get_session_connection_info(to).state != ConnectionState.CONNECTED:
        if time.perf_counter() > deadline_s:
            raise TimeoutError("the receiver does not answer")
        net.send_message_to_user(to, b"", SendFlags.RELIABLE | SendFlags.AUTO_RESTART_BROKEN_SESSION, _KNOCK_CHANNEL)
        time.sleep(0.01)


def _flush(net: Messages, to: str) -> None:
    deadline_s = time.perf_counter() + _FLUSH_TIMEOUT_S
    while time.perf_counter() < deadline_s:
        status = net.get_session_connection_info(to, get_connection=False).status
        if status is None or not _unconfirmed_bytes(status):
            return
        time.sleep(0.01)


def _unconfirmed_bytes(status: RealTimeStatus) -> int:
    return status.pending_reliable_bytes + status.pending_unreliable_bytes + status.sent_unacked_reliable_bytes
