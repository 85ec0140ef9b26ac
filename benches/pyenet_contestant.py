"""ENet through the PyPI package `pyenet`: reliable UDP in C, without encryption.

Its reliable window is 64 KiB, so a few messages queued keep it busy: as many as fill two windows. Unreliable messages use its
ordinary sequenced channel; those that ENet's own throttle drops before sending count as lost. A host allocates the memory of all
its peers when it is made, so that of N idle connections is that of a host for N.
"""

from __future__ import annotations

import importlib
import importlib.util
import time
from typing import Any

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

NAME = "pyenet"
DESCRIPTION = "ENet, reliable UDP in C with a Python binding; no encryption, fixed 64 KiB window"

_CHANNELS = 1
_SERVICE_WAIT_MS = 100
_RELIABLE_QUEUE_BYTES = 2 * 65_536
_UNRELIABLE_BATCH_BYTES = 3_000
_NOTE_EVERY_MESSAGES = 64
_FLUSH_TIMEOUT_S = 1.0


def missing() -> str | None:
    """It needs a package that is no dependency of ours."""
    return None if importlib.util.find_spec("enet") else "the package pyenet is not installed (pip install pyenet)"


def sender(task: Task) -> Sent:
    """Keep the window full, or send without pause where messages may be lost."""
    enet = _enet()
    host = enet.Host(None, 1, _CHANNELS, 0, 0)
    peer = _connect(enet, host, task.port)
    run = _send_reliable if task.case.is_reliable else _send_unreliable
    return run(enet, host, peer, bytes(task.case.message_bytes), SendClock(task.seconds))


def receiver(task: Task) -> Received:
    """Take one event after another, as the binding offers them."""
    enet = _enet()
    host = enet.Host(enet.Address(b"127.0.0.1", task.port), 1, _CHANNELS, 0, 0)
    clock = ReceiveClock(task.seconds)
    count = 0
    note_every = 1 if task.case.message_bytes > _UNRELIABLE_BATCH_BYTES else _NOTE_EVERY_MESSAGES
    while True:
        event = host.service(_SERVICE_WAIT_MS)
        if event.type == enet.EVENT_TYPE_RECEIVE:
            message = event.packet.data
            count += len(message) == task.case.message_bytes
            if count % note_every:
                continue
        if clock.note(count):
            return clock.account()


def pinger(task: Task) -> Pinged:
    """Queue, flush, serve until the answer is there."""
    enet = _enet()
    host = enet.Host(None, 1, _CHANNELS, 0, 0)
    peer = _connect(enet, host, task.port)
    clock = PingClock(task.seconds)
    message = bytes(task.case.message_bytes)
    while clock.is_running():
        start_ns = time.perf_counter_ns()
        peer.send(0, enet.Packet(message, 0))
        host.flush()
        while host.service(int(ECHO_TIMEOUT_S * 1000)).type != enet.EVENT_TYPE_RECEIVE:
            if time.perf_counter_ns() - start_ns > ECHO_TIMEOUT_S * 1e9:
                clock.note_lost()
                break
        else:
            clock.note((time.perf_counter_ns() - start_ns) / 1000)
    return clock.account()


def echo(task: Task) -> None:
    """Send back whatever comes, at once."""
    enet = _enet()
    host = enet.Host(enet.Address(b"127.0.0.1", task.port), 1, _CHANNELS, 0, 0)
    while True:
        event = host.service(_SERVICE_WAIT_MS)
        if event.type == enet.EVENT_TYPE_RECEIVE:
            event.peer.send(0, enet.Packet(event.packet.data, 0))
            host.flush()


def holder(task: Task) -> Held:
    """Count who comes and goes, and serve them."""
    enet = _enet()
    host = enet.Host(enet.Address(b"127.0.0.1", task.port), task.connections, _CHANNELS, 0, 0)
    clock = HoldClock(task.connections, task.seconds)
    count = 0
    while not clock.note(count):
        kind = host.service(int(HoldClock.POLL_S * 1000)).type
        count += (kind == enet.EVENT_TYPE_CONNECT) - (kind == enet.EVENT_TYPE_DISCONNECT)
    return clock.account()


def crowd(task: Task) -> None:
    """All connections from one host."""
    enet = _enet()
    host = enet.Host(None, task.connections, _CHANNELS, 0, 0)
    peers = [host.connect(enet.Address(b"127.0.0.1", task.port), _CHANNELS) for _ in range(task.connections)]
    while peers:
        host.service(_SERVICE_WAIT_MS)


def _send_reliable(enet: Any, host: Any, peer: Any, message: bytes, clock: SendClock) -> Sent:
    queued = sent = 0
    queue_messages = max(4, _RELIABLE_QUEUE_BYTES // len(message))

    def one_acknowledged(*_: Any) -> None:
        nonlocal queued
        queued -= 1

    while clock.is_running(sent):
        while queued < queue_messages:
            packet = enet.Packet(message, enet.PACKET_FLAG_RELIABLE)
            packet.set_free_callback(one_acknowledged)
            peer.send(0, packet)
            queued += 1
            sent += 1
        host.service(0)
    account = clock.account(sent)
    _serve_until(host, lambda: not queued)
    return account


def _send_unreliable(enet: Any, host: Any, peer: Any, message: bytes, clock: SendClock) -> Sent:
    sent = 0
    batch_messages = max(1, _UNRELIABLE_BATCH_BYTES // len(message))
    while clock.is_running(sent):
        for _ in range(batch_messages):
            peer.send(0, enet.Packet(message, 0))
        sent += batch_messages
        host.service(0)
    account = clock.account(sent)
    host.flush()
    return account


def _connect(enet: Any, host: Any, port: int) -> Any:
    deadline_s = time.perf_counter() + FIRST_MESSAGE_TIMEOUT_S
    peer = host.connect(enet.Address(b"127.0.0.1", port), _CHANNELS)
    while host.service(_SERVICE_WAIT_MS).type != enet.EVENT_TYPE_CONNECT:
        if time.perf_counter() > deadline_s:
            raise TimeoutError("the ENet receiver does not answer")
    return peer


def _serve_until(host: Any, is_over: Any) -> None:
    deadline_s = time.perf_counter() + _FLUSH_TIMEOUT_S
    while not is_over() and time.perf_counter() < deadline_s:
        host.service(1)


def _enet() -> Any:
    return importlib.import_module("enet")
