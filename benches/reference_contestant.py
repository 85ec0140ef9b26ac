"""The reference, Valve's GameNetworkingSockets, at its best: found through `PEERGRAM_GNS_LIBRARY`, driven through `ctypes`.

Plain UDP connections (`CreateListenSocketIP`, `ConnectByIPAddress`), self-made certificates, AES-256-GCM. It paces itself by a
fixed send rate, whatever happens, and never above 100 MiB/s; so each flow is tried at several rates and then runs at the best
one. Buffers are raised as far as they help. A full send buffer, and an empty receive queue, make the application's thread sleep
for half a millisecond, while the library works in its own.

The library offers nothing to wait for, so in the round trip both sides ask for messages without pause; the other setting, its
manual poll mode (exported, though not in its public headers), waits for packets in the calling thread instead of one of its own.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from benches.cases import (
    ECHO_TIMEOUT_S,
    FIRST_MESSAGE_TIMEOUT_S,
    LINK_BYTES_PER_S,
    Case,
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
from benches.reference_library import (
    LIBRARY_VARIABLE,
    RECV_BUFFER_MESSAGES,
    RECV_BUFFER_SIZE,
    RELIABLE,
    SEND_BUFFER_SIZE,
    SEND_RATE_MAX,
    SEND_RATE_MIN,
    UNRELIABLE_NO_NAGLE,
    USE_CURRENT_THREAD,
    Incoming,
    Outgoing,
    ReferenceLibrary,
)

NAME = "reference"
DESCRIPTION = (
    "GameNetworkingSockets (C++), AES-256-GCM; best of the send rates 25, 50, 75 and 104.8 MB/s (it takes no more) by case, "
    "the link's own rate on the bad link; send buffer of 4 MiB, receive buffer of 64 MiB and a million messages; `SendMessages` "
    "and `ReceiveMessagesOnConnection` with preallocated arrays through ctypes; round trips by the better of its own thread and "
    "its manual poll mode"
)

_RATES_MB_PER_S = ("25", "50", "75", "104.8")
_RATE_UNIT = " MB/s"
_OWN_THREAD = "own thread"
_MANUAL_POLL = "manual poll"
_SEND_BUFFER_BYTES = 4 << 20
_RECV_BUFFER_BYTES = 64 << 20
_RECV_BUFFER_MESSAGES = 1_000_000

_BATCH_BYTES = 1 << 20
_BATCH_MESSAGES_MAX = 256
_UNDER_WAY_MESSAGES_MAX = 48_000
_UNDER_WAY_BYTES_MAX = 16 << 20
"""Messages that the library has and that are not confirmed: enough for its fastest rate and its acknowledgements after 50 ms. It
numbers their pieces with 16 bits, and with ever more of them under way it loses itself in searching its lists."""
_ROUND_TRIP_MESSAGES = 64
_RECEIVE_MAX = 4_096
_PAUSE_S = 0.0005
_FLUSH_TIMEOUT_S = 5.0
_CROWD_GROUP = 20


def missing() -> str | None:
    """It needs the shared library, which is no dependency of ours."""
    path = os.environ.get(LIBRARY_VARIABLE)
    if not path:
        return f"{LIBRARY_VARIABLE} does not name its shared library"
    return None if Path(path).is_file() else f"{LIBRARY_VARIABLE} names a file that is not there"


def settings(case: Case) -> tuple[str, ...]:
    """Send rates for flows; who waits for packets in the round trip."""
    if case.kind == "flow":
        return tuple(rate + _RATE_UNIT for rate in _RATES_MB_PER_S)
    if case.kind == "lossy_link":
        return (f"{LINK_BYTES_PER_S / 1e6:g}{_RATE_UNIT}",)
    return (_OWN_THREAD, _MANUAL_POLL) if case.kind == "round_trip" else ("",)


def sender(task: Task) -> Sent:
    """Keep the send buffer filled, a batch of messages at a time."""
    library = _library(task)
    connection = _connect(library, task)
    size = task.case.message_bytes
    batch = max(8, min(_BATCH_MESSAGES_MAX, _BATCH_BYTES // size))
    batches = min(_UNDER_WAY_MESSAGES_MAX, _UNDER_WAY_BYTES_MAX // size) // batch
    flags = RELIABLE if task.case.is_reliable else 0
    outgoing = Outgoing(connection, size, flags, batch=batch, batches=batches)
    clock = SendClock(task.seconds)
    sent = 0
    while clock.is_running(sent):
        if not outgoing.refill():
            time.sleep(_PAUSE_S)
            continue
        sent += library.send(outgoing)
        if not outgoing.is_taken():
            time.sleep(_PAUSE_S)
    account = clock.account(sent)
    deadline_s = time.perf_counter() + _FLUSH_TIMEOUT_S
    while library.queued_bytes(connection) and time.perf_counter() < deadline_s:
        time.sleep(0.01)
    library.close()
    return account


def receiver(task: Task) -> Received:
    """Take whatever there is, thousands at a time."""
    library = _library(task)
    library.listen(task.port)
    clock = ReceiveClock(task.seconds)
    incoming = Incoming(_RECEIVE_MAX)
    count = 0
    while not clock.note(count):
        library.run_callbacks()
        received = library.receive(library.accepted[0], incoming) if library.accepted else 0
        count += max(0, received)
        if received < _RECEIVE_MAX // 2:
            time.sleep(_PAUSE_S)
    library.close()
    return clock.account()


def pinger(task: Task) -> Pinged:
    """Send in this thread, then ask until the answer is there."""
    library = _library(task)
    is_polled = task.setting == _MANUAL_POLL
    connection = _connect(library, task)
    out, back = _one_by_one(connection, task.case.message_bytes)
    clock = PingClock(task.seconds)
    while clock.is_running():
        out.refill()
        start_ns = time.perf_counter_ns()
        limit_ns = start_ns + int(ECHO_TIMEOUT_S * 1e9)
        library.send(out)
        while library.receive(connection, back) < 1:
            if time.perf_counter_ns() > limit_ns:
                clock.note_lost()
                break
            _await_packet(library, is_polled)
        else:
            clock.note((time.perf_counter_ns() - start_ns) / 1000)
    library.close()
    return clock.account()


def echo(task: Task) -> None:
    """Answer each message with one of the same size."""
    library = _library(task)
    is_polled = task.setting == _MANUAL_POLL
    library.listen(task.port)
    while not library.accepted:
        _step(library, is_polled)
    connection = library.accepted[0]
    out, back = _one_by_one(connection, task.case.message_bytes)
    while True:
        out.refill()
        if library.receive(connection, back) == 1:
            library.send(out)
        else:
            _await_packet(library, is_polled)


def holder(task: Task) -> Held:
    """Let everybody in, then look once in a while."""
    library = _library(task)
    library.listen(task.port)
    clock = HoldClock(task.connections, task.seconds)
    while not clock.note(len(library.accepted) - library.ended):
        library.run_callbacks()
        time.sleep(0.001 if len(library.accepted) < task.connections else HoldClock.POLL_S)
    account = clock.account()
    library.close()
    return account


def crowd(task: Task) -> None:
    """All connections from one process, in groups."""
    library = _library(task)
    for start in range(0, task.connections, _CROWD_GROUP):
        group = [library.connect(task.port) for _ in range(min(_CROWD_GROUP, task.connections - start))]
        while not all(library.is_connected(connection) for connection in group):
            _step(library, is_polled=False)
    while True:
        _step(library, is_polled=False)
        time.sleep(HoldClock.POLL_S)


def _library(task: Task) -> ReferenceLibrary:
    """With a setting, at its rate and with raised buffers; without one, as it comes."""
    if not task.setting:
        return ReferenceLibrary({})
    raised = {
        SEND_BUFFER_SIZE: _SEND_BUFFER_BYTES,
        RECV_BUFFER_SIZE: _RECV_BUFFER_BYTES,
        RECV_BUFFER_MESSAGES: _RECV_BUFFER_MESSAGES,
    }
    if task.setting.endswith(_RATE_UNIT):
        rate = round(float(task.setting.removesuffix(_RATE_UNIT)) * 1e6)
        raised |= {SEND_RATE_MIN: rate, SEND_RATE_MAX: rate}
    return ReferenceLibrary(raised, is_polled=task.setting == _MANUAL_POLL)


def _one_by_one(connection: int, message_bytes: int) -> tuple[Outgoing, Incoming]:
    flags = UNRELIABLE_NO_NAGLE | USE_CURRENT_THREAD
    return Outgoing(connection, message_bytes, flags, batch=1, batches=_ROUND_TRIP_MESSAGES), Incoming(1)


def _connect(library: ReferenceLibrary, task: Task) -> int:
    connection = library.connect(task.port)
    deadline_s = time.perf_counter() + FIRST_MESSAGE_TIMEOUT_S
    while not library.is_connected(connection):
        if time.perf_counter() > deadline_s or library.ended:
            raise TimeoutError("the reference's receiver does not answer")
        _step(library, task.setting == _MANUAL_POLL)
    return connection


def _await_packet(library: ReferenceLibrary, is_polled: bool) -> None:
    """By itself, or by letting the library's thread run if it waits for this core."""
    if is_polled:
        library.wait(1)
    else:
        os.sched_yield()


def _step(library: ReferenceLibrary, is_polled: bool) -> None:
    if is_polled:
        library.wait(1)
    else:
        time.sleep(0.001)
    library.run_callbacks()
