"""ENet through the PyPI package `pyenet`: reliable UDP in C, without encryption.

Its reliable window is 64 KiB, so a handful of messages queued keeps it busy. Unreliable messages use its ordinary sequenced
channel; those that ENet's own throttle drops before sending count as lost.
"""

from __future__ import annotations

import importlib
import importlib.util
import time
from typing import Any

from benches.cases import FIRST_MESSAGE_TIMEOUT_S, Case, ReceiveClock, Received, SendClock, Sent

NAME = "pyenet"
DESCRIPTION = "ENet, reliable UDP in C with a Python binding; no encryption, fixed 64 KiB window"

_CHANNELS = 1
_SERVICE_WAIT_MS = 100
_RELIABLE_QUEUE_MESSAGES = 4
_UNRELIABLE_BATCH_MESSAGES = 30
_NOTE_EVERY_MESSAGES = 64
_FLUSH_TIMEOUT_S = 1.0


def missing() -> str | None:
    """It needs a package that is no dependency of ours."""
    return None if importlib.util.find_spec("enet") else "the package pyenet is not installed (pip install pyenet)"


def sender(case: Case, port: int, seconds: float) -> Sent:
    """Keep the window full, or send without pause where messages may be lost."""
    enet = _enet()
    host = enet.Host(None, 1, _CHANNELS, 0, 0)
    peer = _connect(enet, host, port)
    run = _send_reliable if case.is_reliable else _send_unreliable
    return run(enet, host, peer, bytes(case.message_bytes), SendClock(seconds))


def receiver(case: Case, port: int, seconds: float) -> Received:
    """Take one event after another, as the binding offers them."""
    enet = _enet()
    host = enet.Host(enet.Address(b"127.0.0.1", port), 1, _CHANNELS, 0, 0)
    clock = ReceiveClock(seconds)
    count = 0
    while True:
        event = host.service(_SERVICE_WAIT_MS)
        if event.type == enet.EVENT_TYPE_RECEIVE:
            message = event.packet.data
            count += len(message) == case.message_bytes
            if count % _NOTE_EVERY_MESSAGES and not case.is_reliable:
                continue
        if clock.note(count):
            return clock.account()


def _send_reliable(enet: Any, host: Any, peer: Any, message: bytes, clock: SendClock) -> Sent:
    queued = sent = 0

    def one_acknowledged(*_: Any) -> None:
        nonlocal queued
        queued -= 1

    while clock.is_running():
        while queued < _RELIABLE_QUEUE_MESSAGES:
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
    while clock.is_running():
        for _ in range(_UNRELIABLE_BATCH_MESSAGES):
            peer.send(0, enet.Packet(message, 0))
        sent += _UNRELIABLE_BATCH_MESSAGES
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
