"""peergram through its public interface: `Messages`, encrypted, with its driver thread and default rate control.

Buffers are raised above the defaults, as a program that moves this much would: a send buffer of 4 MiB, a receive buffer of 16
MiB and as many unread messages as fit. When the send buffer is full the sender sleeps for half a millisecond and tries again.
"""

from __future__ import annotations

import select
import time

from benches.cases import FIRST_MESSAGE_TIMEOUT_S, Case, ReceiveClock, Received, SendClock, Sent
from peergram import Config, ConnectionState, Messages, Result, SendFlags

NAME = "peergram"
DESCRIPTION = "this library: sessions, AES-256-GCM, acknowledgements, congestion control; public interface, thread driver"

_FULL_PAUSE_S = 0.0005
_WAIT_S = 0.05
_RECEIVE_MAX = 1_000
_BATCH_MESSAGES = 32
_KNOCK_CHANNEL = 1


def _config() -> Config:
    return Config(send_buffer_bytes=4 << 20, recv_buffer_bytes=16 << 20, recv_buffer_messages=200_000)


def missing() -> str | None:
    """It is always here."""
    return None


def sender(case: Case, port: int, seconds: float) -> Sent:
    """Keep the send buffer filled."""
    flags = SendFlags.RELIABLE if case.is_reliable else SendFlags.UNRELIABLE
    message = bytes(case.message_bytes)
    to = f"ip:127.0.0.1:{port}"
    with Messages("bench-sender", config=_config()) as net:
        _connect(net, to)
        clock = SendClock(seconds)
        send = net.send_message_to_user
        sent = 0
        while clock.is_running():
            for _ in range(_BATCH_MESSAGES):
                if send(to, message, flags) != Result.OK:
                    time.sleep(_FULL_PAUSE_S)
                    break
                sent += 1
        account = clock.account(sent)
        _flush(net, to)
        return account


def receiver(case: Case, port: int, seconds: float) -> Received:
    """Read whatever there is as soon as the descriptor says so."""
    clock = ReceiveClock(seconds)
    count = 0
    with Messages("bench-receiver", listen=f"127.0.0.1:{port}", config=_config()) as net:
        net.on_session_request = lambda request: net.accept_session_with_user(request.identity)
        while True:
            select.select([net], [], [], _WAIT_S)
            net.run_callbacks()
            net.receive_messages_on_channel(_KNOCK_CHANNEL, _RECEIVE_MAX)
            received = net.receive_messages_on_channel(0, _RECEIVE_MAX)
            count += sum(message.size == case.message_bytes for message in received)
            if clock.note(count):
                return clock.account()


def _connect(net: Messages, to: str) -> None:
    deadline_s = time.perf_counter() + FIRST_MESSAGE_TIMEOUT_S
    while net.get_session_connection_info(to).state != ConnectionState.CONNECTED:
        if time.perf_counter() > deadline_s:
            raise TimeoutError("the receiver does not answer")
        net.send_message_to_user(to, b"", SendFlags.RELIABLE | SendFlags.AUTO_RESTART_BROKEN_SESSION, _KNOCK_CHANNEL)
        time.sleep(0.01)


def _flush(net: Messages, to: str) -> None:
    deadline_s = time.perf_counter() + 1.0
    while time.perf_counter() < deadline_s:
        status = net.get_session_connection_info(to, get_connection=False).status
        if status is None:
            return
        if not status.pending_reliable_bytes + status.pending_unreliable_bytes + status.sent_unacked_reliable_bytes:
            return
        time.sleep(0.01)
