"""aiortc: WebRTC data channels in Python: SCTP over DTLS over ICE, through its ordinary interface on asyncio.

Reliable messages use an ordered channel, unreliable ones a channel without order and repetition. The sender fills the channel up
to 1 MiB and waits for it to fall to half of that. The two descriptions that WebRTC wants exchanged beforehand go over TCP at the
same port number. ICE is made to use 127.0.0.1, which it otherwise leaves out, so that it goes the same way as all the others.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
import time
from typing import Any

from benches.cases import (
    ECHO_TIMEOUT_S,
    FIRST_MESSAGE_TIMEOUT_S,
    PingClock,
    Pinged,
    ReceiveClock,
    Received,
    SendClock,
    Sent,
    Task,
)

NAME = "aiortc"
DESCRIPTION = (
    "WebRTC data channels in Python, asyncio: SCTP over DTLS over ICE, congestion control; ordered and reliable, or unordered "
    "without repetition"
)
LEFT_OUT = {"idle": "a peer connection cannot share its socket with others, so no one endpoint holds them all"}

_QUEUE_BYTES_MAX = 1 << 20
_BATCH_BYTES = 65_536
_BATCH_MESSAGES_MAX = 64
_FLUSH_TIMEOUT_S = 5.0
_POLL_S = 0.02


def missing() -> str | None:
    """It needs a package of the extra `bench`."""
    return None if importlib.util.find_spec("aiortc") else "the package aiortc is not installed (pip install 'peergram[bench]')"


def sender(task: Task) -> Sent:
    """Fill the channel, wait for room, look again."""
    return asyncio.run(_send(task))


def receiver(task: Task) -> Received:
    """Count messages as they come."""
    return asyncio.run(_receive(task))


def pinger(task: Task) -> Pinged:
    """One message at a time."""
    return asyncio.run(_ping(task))


def echo(task: Task) -> None:
    """Send back each message."""
    asyncio.run(_echo(task))


async def _send(task: Task) -> Sent:
    channel = await _open_channel(task)
    message = bytes(task.case.message_bytes)
    batch = max(1, min(_BATCH_MESSAGES_MAX, _BATCH_BYTES // len(message)))
    room = asyncio.Event()
    channel.bufferedAmountLowThreshold = _QUEUE_BYTES_MAX // 2
    channel.on("bufferedamountlow", room.set)
    clock, sent = SendClock(task.seconds), 0
    while clock.is_running(sent):
        for _ in range(batch):
            channel.send(message)
        sent += batch
        if channel.bufferedAmount < _QUEUE_BYTES_MAX:
            await asyncio.sleep(0)
        else:
            room.clear()
            timer = asyncio.get_running_loop().call_later(_POLL_S, room.set)
            await room.wait()
            timer.cancel()
    account = clock.account(sent)
    deadline_s = time.perf_counter() + _FLUSH_TIMEOUT_S
    while channel.bufferedAmount and time.perf_counter() < deadline_s:
        await asyncio.sleep(_POLL_S)
    return account


async def _receive(task: Task) -> Received:
    count = 0

    def take(_channel: Any, message: bytes) -> None:
        nonlocal count
        count += len(message) == task.case.message_bytes

    _peer = await _answer_peer(task, take)
    clock = ReceiveClock(task.seconds)
    while not clock.note(count):
        await asyncio.sleep(0.002 if not count else _POLL_S)
    return clock.account()


async def _ping(task: Task) -> Pinged:
    answered = asyncio.Event()
    channel = await _open_channel(task)
    channel.on("message", lambda _message: answered.set())
    message = bytes(task.case.message_bytes)
    clock = PingClock(task.seconds)
    while clock.is_running():
        answered.clear()
        start_ns = time.perf_counter_ns()
        channel.send(message)
        lost = asyncio.get_running_loop().call_later(ECHO_TIMEOUT_S, answered.set)
        await answered.wait()
        lost.cancel()
        trip_us = (time.perf_counter_ns() - start_ns) / 1000
        if trip_us < ECHO_TIMEOUT_S * 1e6:
            clock.note(trip_us)
        else:
            clock.note_lost()
    return clock.account()


async def _echo(task: Task) -> None:
    _peer = await _answer_peer(task, lambda channel, message: channel.send(message))
    await asyncio.Event().wait()


async def _open_channel(task: Task) -> Any:
    """The offering side: a channel that is open."""
    peer = _peer_connection()
    options: dict[str, Any] = {} if task.case.is_reliable else {"ordered": False, "maxRetransmits": 0}
    channel = peer.createDataChannel("bench", **options)
    is_open = asyncio.Event()
    channel.on("open", is_open.set)
    await peer.setLocalDescription(await peer.createOffer())
    reader, writer = await _reach(task.port)
    _write(writer, peer.localDescription)
    await peer.setRemoteDescription(await _read(reader))
    await asyncio.wait_for(is_open.wait(), FIRST_MESSAGE_TIMEOUT_S)
    return channel


async def _answer_peer(task: Task, take: Any) -> Any:
    """The answering side: its peer connection, once it has answered; `take` hears the channel and each message."""
    peer = _peer_connection()

    def on_channel(channel: Any) -> None:
        channel.on("message", lambda message: take(channel, message))

    peer.on("datachannel", on_channel)
    is_answered = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await peer.setRemoteDescription(await _read(reader))
        await peer.setLocalDescription(await peer.createAnswer())
        _write(writer, peer.localDescription)
        await writer.drain()
        is_answered.set()

    await asyncio.start_server(answer, "127.0.0.1", task.port)
    await asyncio.wait_for(is_answered.wait(), FIRST_MESSAGE_TIMEOUT_S)
    return peer


async def _reach(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    deadline_s = time.perf_counter() + FIRST_MESSAGE_TIMEOUT_S
    while True:
        try:
            return await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            if time.perf_counter() > deadline_s:
                raise
            await asyncio.sleep(_POLL_S)


def _write(writer: asyncio.StreamWriter, description: Any) -> None:
    writer.write(json.dumps({"sdp": description.sdp, "type": description.type}).encode() + b"\n")


async def _read(reader: asyncio.StreamReader) -> Any:
    return importlib.import_module("aiortc").RTCSessionDescription(**json.loads(await reader.readline()))


def _peer_connection() -> Any:
    aiortc = importlib.import_module("aiortc")
    ice: Any = importlib.import_module("aioice.ice")
    ice.get_host_addresses = lambda use_ipv4, use_ipv6: ["127.0.0.1"]
    return aiortc.RTCPeerConnection(aiortc.RTCConfiguration(iceServers=[]))
