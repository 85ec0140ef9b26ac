"""aioquic: QUIC in Python, through its asyncio interface, with UDP of one datagram per call as asyncio does it.

Reliable messages go through one stream, with a length of four bytes before each, since a stream knows no messages; unreliable
ones are QUIC datagrams. Flow-control windows are raised to 16 MiB. aioquic bounds nothing that waits to be sent, so the sender
looks at its queues (which are private) and holds 1 MiB at most. Certificates are made for the run and not verified.
"""

from __future__ import annotations

import asyncio
import datetime
import importlib
import importlib.util
import ssl
import time
from collections.abc import Callable
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

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

NAME = "aioquic"
DESCRIPTION = (
    "QUIC in Python, asyncio: TLS 1.3 with AES-256-GCM, acknowledgements, congestion control; one stream with lengths for "
    "reliable messages, QUIC datagrams for unreliable ones; flow-control windows of 16 MiB"
)

_WINDOW_BYTES = 16 << 20
_QUEUE_BYTES_MAX = 1 << 20
_DATAGRAM_BYTES_MAX = 65_535
_PACKET_BYTES_MAX = 1_300
_IDLE_TIMEOUT_S = 600.0
_BATCH_BYTES = 65_536
_BATCH_MESSAGES_MAX = 64
_LENGTH_BYTES = 4
_FLUSH_TIMEOUT_S = 5.0
_POLL_S = 0.02
_CROWD_GROUP = 20

_OnEvent = Callable[[Any, Any], None]
"""Called with the connection's protocol and one of its events."""


def missing() -> str | None:
    """It needs a package of the extra `bench`."""
    return None if importlib.util.find_spec("aioquic") else "the package aioquic is not installed (pip install 'peergram[bench]')"


def sender(task: Task) -> Sent:
    """Fill the queues, let the loop work, look again."""
    return asyncio.run(_send(task))


def receiver(task: Task) -> Received:
    """Count whole messages as they come."""
    return asyncio.run(_receive(task))


def pinger(task: Task) -> Pinged:
    """Datagram frames, one at a time."""
    return asyncio.run(_ping(task))


def echo(task: Task) -> None:
    """Send back each datagram frame."""
    asyncio.run(_echo(task))


def holder(task: Task) -> Held:
    """Serve, and count handshakes."""
    return asyncio.run(_hold(task))


def crowd(task: Task) -> None:
    """All connections on one loop, each with a socket of its own."""
    asyncio.run(_gather_crowd(task))


async def _send(task: Task) -> Sent:
    protocol = await _connect(task, lambda _protocol, _event: None)
    quic = protocol._quic
    size = task.case.message_bytes
    message = bytes(size) if not task.case.is_reliable else size.to_bytes(_LENGTH_BYTES, "big") + bytes(size)
    batch = max(1, min(_BATCH_MESSAGES_MAX, _BATCH_BYTES // size))
    stream = quic.get_next_available_stream_id(is_unidirectional=True)
    clock, sent = SendClock(task.seconds), 0
    while clock.is_running(sent):
        if _queued_bytes(quic, stream, size) < _QUEUE_BYTES_MAX:
            for _ in range(batch):
                if task.case.is_reliable:
                    quic.send_stream_data(stream, message)
                else:
                    quic.send_datagram_frame(message)
            sent += batch
            protocol.transmit()
            await asyncio.sleep(0)
        else:
            await asyncio.sleep(0.0005)
    account = clock.account(sent)
    deadline_s = time.perf_counter() + _FLUSH_TIMEOUT_S
    while _queued_bytes(quic, stream, size) and time.perf_counter() < deadline_s:
        await asyncio.sleep(_POLL_S)
    return account


def _queued_bytes(quic: Any, stream: int, message_bytes: int) -> int:
    """What was sent and is not yet confirmed (streams), or not yet on its way (datagrams)."""
    known = quic._streams.get(stream)
    in_stream = known.sender._buffer_stop - known.sender._buffer_start if known else 0
    return int(in_stream + len(quic._datagrams_pending) * message_bytes)


async def _receive(task: Task) -> Received:
    counter = _StreamCounter()
    count = 0

    def take(_protocol: Any, event: Any) -> None:
        nonlocal count
        kind = type(event).__name__
        if kind == "StreamDataReceived":
            count += counter.feed(event.data)
        elif kind == "DatagramFrameReceived":
            count += len(event.data) == task.case.message_bytes

    await _serve(task, take)
    clock = ReceiveClock(task.seconds)
    while not clock.note(count):
        # Long sleeps would open and close the window late, short ones cost the contestant time.
        await asyncio.sleep(0.002 if not count else _POLL_S)
    return clock.account()


class _StreamCounter:
    """Cuts a stream into messages, each with its length before it, and counts them."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> int:
        """How many messages this piece completes; each is cut out, as an application would need it."""
        rest = self._rest
        rest += data
        at = count = 0
        while len(rest) - at >= _LENGTH_BYTES:
            end = at + _LENGTH_BYTES + int.from_bytes(rest[at : at + _LENGTH_BYTES], "big")
            if end > len(rest):
                break
            bytes(memoryview(rest)[at + _LENGTH_BYTES : end])
            at = end
            count += 1
        if at:
            del rest[:at]
        return count


async def _ping(task: Task) -> Pinged:
    answered = asyncio.Event()
    protocol = await _connect(task, lambda _protocol, event: _set_on_datagram(answered, event))
    message = bytes(task.case.message_bytes)
    clock = PingClock(task.seconds)
    while clock.is_running():
        answered.clear()
        start_ns = time.perf_counter_ns()
        protocol._quic.send_datagram_frame(message)
        protocol.transmit()
        lost = asyncio.get_running_loop().call_later(ECHO_TIMEOUT_S, answered.set)
        await answered.wait()
        lost.cancel()
        trip_us = (time.perf_counter_ns() - start_ns) / 1000
        if trip_us < ECHO_TIMEOUT_S * 1e6:
            clock.note(trip_us)
        else:
            clock.note_lost()
    return clock.account()


def _set_on_datagram(answered: asyncio.Event, event: Any) -> None:
    if type(event).__name__ == "DatagramFrameReceived":
        answered.set()


async def _echo(task: Task) -> None:
    def answer(protocol: Any, event: Any) -> None:
        # The protocol sends what is queued as soon as it has passed on all events of a packet.
        if type(event).__name__ == "DatagramFrameReceived":
            protocol._quic.send_datagram_frame(event.data)

    await _serve(task, answer)
    await asyncio.Event().wait()


async def _hold(task: Task) -> Held:
    count = 0

    def note(_protocol: Any, event: Any) -> None:
        nonlocal count
        kind = type(event).__name__
        count += (kind == "HandshakeCompleted") - (kind == "ConnectionTerminated")

    await _serve(task, note)
    clock = HoldClock(task.connections, task.seconds)
    while not clock.note(count):
        await asyncio.sleep(HoldClock.POLL_S)
    return clock.account()


async def _gather_crowd(task: Task) -> None:
    everybody: list[Any] = []
    for start in range(0, task.connections, _CROWD_GROUP):
        size = min(_CROWD_GROUP, task.connections - start)
        everybody += await asyncio.gather(*(_connect(task, lambda _protocol, _event: None) for _ in range(size)))
    await asyncio.Event().wait()


async def _serve(task: Task, on_event: _OnEvent) -> Any:
    configuration = _configuration(is_client=False)
    configuration.private_key, configuration.certificate = _self_signed()
    serve = importlib.import_module("aioquic.asyncio").serve
    return await serve("127.0.0.1", task.port, configuration=configuration, create_protocol=_protocol_maker(on_event))


async def _connect(task: Task, on_event: _OnEvent) -> Any:
    """A connected protocol; the QUIC layer repeats its first packet until the server is there."""
    connection = importlib.import_module("aioquic.quic.connection")
    loop = asyncio.get_running_loop()
    quic = connection.QuicConnection(configuration=_configuration(is_client=True))
    make = _protocol_maker(on_event)
    _, protocol = await loop.create_datagram_endpoint(lambda: make(quic), local_addr=("127.0.0.1", 0))
    protocol.connect(("127.0.0.1", task.port))
    await asyncio.wait_for(protocol.wait_connected(), FIRST_MESSAGE_TIMEOUT_S)
    return protocol


def _protocol_maker(on_event: _OnEvent) -> Callable[..., Any]:
    protocol_class = importlib.import_module("aioquic.asyncio").QuicConnectionProtocol

    def make(*arguments: Any, **named: Any) -> Any:
        protocol = protocol_class(*arguments, **named)
        protocol.quic_event_received = lambda event: on_event(protocol, event)
        return protocol

    return make


def _configuration(*, is_client: bool) -> Any:
    configuration_class = importlib.import_module("aioquic.quic.configuration").QuicConfiguration
    cipher_suites = importlib.import_module("aioquic.tls").CipherSuite
    return configuration_class(
        alpn_protocols=["bench"],
        is_client=is_client,
        idle_timeout=_IDLE_TIMEOUT_S,
        max_data=_WINDOW_BYTES,
        max_stream_data=_WINDOW_BYTES,
        max_datagram_frame_size=_DATAGRAM_BYTES_MAX,
        max_datagram_size=_PACKET_BYTES_MAX,
        cipher_suites=[cipher_suites.AES_256_GCM_SHA384],
        verify_mode=ssl.CERT_NONE if is_client else None,
    )


def _self_signed() -> tuple[Any, Any]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bench")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
    return key, builder.sign(key, hashes.SHA256())
