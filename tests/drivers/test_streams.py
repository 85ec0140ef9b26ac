from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from peergram.address import Address
from peergram.config import STREAM_CONNECT_US, STREAM_QUEUE_BYTES_MAX
from peergram.drivers import tls
from peergram.drivers.asyncio_driver import AsyncioDriver
from peergram.drivers.pump import Pump
from peergram.drivers.streams import STREAM_READ_BYTES, DriverStream
from peergram.drivers.system import monotonic_us
from peergram.io_requests import CloseStream, WatchInterfaces

from .fake_endpoint import FakeEndpoint, numbered, numbers, until
from .rigs import MakeRig, Rig, quiet_for
from .stream_server import Certificate, Serve, StreamServer, echo, make_certificate

MB = 1_000_000
MakeServer = Callable[..., StreamServer]


@pytest.fixture
def serve() -> Iterator[MakeServer]:
    servers: list[StreamServer] = []

    def make(handler: Serve, **options: Any) -> StreamServer:
        servers.append(StreamServer(handler, **options))
        return servers[-1]

    yield make
    for each in servers:
        each.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def trusted(certificate: Certificate, monkeypatch: pytest.MonkeyPatch) -> Iterator[Certificate]:
    """Our certificate is the only one this machine trusts."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.path))
    monkeypatch.setenv("SSL_CERT_DIR", os.devnull)
    tls.trusting_context.cache_clear()
    yield certificate
    tls.trusting_context.cache_clear()


def opened(made: Rig, endpoint: FakeEndpoint, remote: Address, **options: str) -> int:
    """A stream that is open, or over."""
    stream_ids: list[int] = []
    made.call(lambda _: stream_ids.append(endpoint.open_stream(remote, **options)))
    assert made.until(lambda: endpoint.streams[stream_ids[0]])
    return stream_ids[0]


def send(made: Rig, endpoint: FakeEndpoint, stream_id: int, packets: list[bytes]) -> None:
    made.call(lambda now_us: endpoint.send(("", 0), packets, now_us, socket_id=stream_id))


def has_arrived(made: Rig, endpoint: FakeEndpoint, stream_id: int, byte_count: int) -> bool:
    return made.until(lambda: len(endpoint.arrived[stream_id]) == byte_count)


def send_datagram(made: Rig, endpoint: FakeEndpoint, remote: Address, number: int) -> None:
    made.call(lambda now_us: endpoint.send(remote, numbered(number, 1), now_us))


def how_it_ended(made: Rig, endpoint: FakeEndpoint, stream_id: int) -> str:
    """The sentence, after which nothing more may come."""
    assert made.until(lambda: "closed" in "".join(endpoint.streams[stream_id]))
    assert endpoint.streams[stream_id][:-1] in ([], ["opened"])
    return endpoint.streams[stream_id][-1]


def test_what_is_sent_comes_back_from_an_echo(rig: MakeRig, serve: MakeServer) -> None:
    endpoint = FakeEndpoint()
    made = rig(endpoint)
    stream_id = opened(made, endpoint, serve(echo).address)
    for first in range(0, 400, 40):
        send(made, endpoint, stream_id, numbered(first, 40, 1_000))
        assert has_arrived(made, endpoint, stream_id, (first + 40) * 1_000)
    assert endpoint.arrived[stream_id] == b"".join(numbered(0, 400, 1_000))
    counters = made.driver.stream_counters()[stream_id]
    assert (counters.bytes_sent, counters.bytes_received, counters.packets_dropped) == (400_000, 400_000, 0)


def test_two_streams_and_a_socket_do_not_disturb_one_another(rig: MakeRig, serve: MakeServer) -> None:
    endpoint, other = FakeEndpoint(), FakeEndpoint(echo=True)
    made, _ = rig(endpoint), rig(other)
    address = serve(echo).address
    streams = [opened(made, endpoint, address) for _ in range(2)]
    for number in range(50):
        for stream_id in streams:
            send(made, endpoint, stream_id, [bytes([stream_id]) * 100])
        send_datagram(made, endpoint, other.local, number)
    assert made.until(lambda: endpoint.received == 50 and all(len(endpoint.arrived[each]) == 5_000 for each in streams))
    assert [set(endpoint.arrived[each]) for each in streams] == [{each} for each in streams]


def test_a_refused_connection_is_told_once_with_its_reason(rig: MakeRig) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        endpoint = FakeEndpoint()
        made = rig(endpoint)
        stream_id = opened(made, endpoint, reserved.getsockname())
        assert "nobody listens there" in how_it_ended(made, endpoint, stream_id)
        send(made, endpoint, stream_id, [b"too late"])
        assert quiet_for(lambda: len(endpoint.streams[stream_id]) == 1, 0.05)


def test_a_network_that_cannot_be_reached_is_told_in_the_same_turn() -> None:
    endpoint = FakeEndpoint()
    pump = Pump(endpoint)
    # A group, not a host.
    stream_id = endpoint.open_stream(("224.0.0.1", 9))
    pump.drain(monotonic_us())
    pump.abandon()
    (told,) = endpoint.streams[stream_id]
    assert told.startswith("closed: no TCP connection to 224.0.0.1:9: ")


def test_who_does_not_answer_is_given_up_after_five_seconds() -> None:
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for filler in (first, second):
            # The queue of a listener that accepts nobody: full, further requests are dropped.
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        endpoint = FakeEndpoint()
        pump = Pump(endpoint)
        stream_id = endpoint.open_stream(listener.getsockname())
        began_us = monotonic_us()
        pump.drain(began_us)
        assert pump.wake_at_us() == began_us + STREAM_CONNECT_US
        pump.handle_due(began_us + STREAM_CONNECT_US - 1)
        assert endpoint.streams[stream_id] == []
        pump.handle_due(began_us + STREAM_CONNECT_US)
        assert "no answer within 5 s" in endpoint.streams[stream_id][0]
        assert [entry.fileno() >= 0 for entry in pump.closing] == [True]
        pump.abandon()


def test_a_server_that_never_speaks_tls_is_given_up_after_five_seconds(serve: MakeServer, certificate: Certificate) -> None:
    done = threading.Event()
    endpoint = FakeEndpoint()
    pump = Pump(endpoint)
    server = serve(lambda _: bool(done.wait(10)))
    stream_id = endpoint.open_stream(server.address, tls_name="x", tls_fingerprint=certificate.fingerprint)
    began_us = monotonic_us()
    pump.drain(began_us)
    assert until(lambda: server.accepted == 1)
    for entry in pump.watched:
        pump.handle_writable(entry)
    pump.handle_due(began_us + STREAM_CONNECT_US)
    done.set()
    pump.abandon()
    assert "did not agree on TLS within 5 s" in endpoint.streams[stream_id][0]


def test_a_peer_that_never_reads_costs_a_bounded_queue_and_whole_packets(rig: MakeRig, serve: MakeServer) -> None:
    read_now = threading.Event()
    received: list[bytes] = []

    def lazy(connection: socket.socket) -> None:
        read_now.wait(10)
        while data := connection.recv(65_536):
            received.append(data)

    endpoint = FakeEndpoint()
    made = rig(endpoint)
    stream_id = opened(made, endpoint, serve(lazy).address)
    sent = 0
    while not made.driver.stream_counters()[stream_id].packets_dropped:
        send(made, endpoint, stream_id, numbered(sent, 40, 1_000))
        sent += 40
        assert sent < 100_000, "the kernel keeps some megabytes, no more"
    driver = made.driver
    pump = driver._thread._pump if isinstance(driver, AsyncioDriver) and driver._thread is not None else driver._pump
    stream = next(entry for entry in pump.watched if isinstance(entry, DriverStream))
    assert STREAM_QUEUE_BYTES_MAX - 40_000 <= stream.queued_bytes <= STREAM_QUEUE_BYTES_MAX
    dropped = made.driver.stream_counters()[stream_id].packets_dropped
    read_now.set()
    assert made.until(lambda: sum(map(len, received)) == (sent - dropped) * 1_000)
    data = b"".join(received)
    packets = [data[at : at + 1_000] for at in range(0, len(data), 1_000)]
    # The last batch met a full queue; of it the newest were dropped.
    assert numbers(packets) == list(range(sent - dropped))
    assert endpoint.streams[stream_id] == ["opened"]


def test_the_other_sides_last_words_come_before_the_end(rig: MakeRig, serve: MakeServer) -> None:
    def half_close(connection: socket.socket) -> None:
        connection.sendall(b"last words")
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)

    endpoint = FakeEndpoint()
    made = rig(endpoint)
    address = serve(half_close).address
    stream_id = opened(made, endpoint, address)
    assert how_it_ended(made, endpoint, stream_id) == f"closed: 127.0.0.1:{address[1]} closed the stream"
    assert endpoint.arrived[stream_id] == b"last words"


def test_a_stream_that_breaks_is_told_once(rig: MakeRig, serve: MakeServer) -> None:
    def reset(connection: socket.socket) -> None:
        connection.recv(1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    endpoint = FakeEndpoint()
    made = rig(endpoint)
    stream_id = opened(made, endpoint, serve(reset).address)
    for _ in range(20):
        send(made, endpoint, stream_id, [b"x" * 1_000])
    assert "broke the stream off" in how_it_ended(made, endpoint, stream_id)
    assert quiet_for(lambda: len(endpoint.streams[stream_id]) == 2, 0.05)


def opened_by_hand(endpoint: FakeEndpoint, remote: Address) -> tuple[Pump, DriverStream]:
    """A stream that is open, under a pump whose turns are the test's."""
    pump = Pump(endpoint)
    stream_id = endpoint.open_stream(remote)
    pump.drain(monotonic_us())
    (stream,) = (entry for entry in pump.watched if isinstance(entry, DriverStream))

    def is_open() -> bool:
        pump.handle_writable(stream)
        return endpoint.streams[stream_id] == ["opened"]

    assert until(is_open)
    return pump, stream


def test_a_turn_reads_as_often_as_it_may_and_no_more(serve: MakeServer) -> None:
    endpoint = FakeEndpoint()
    pump, stream = opened_by_hand(endpoint, serve(lambda connection: connection.sendall(bytes(MB))).address)
    assert stream._socket is not None
    stream._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, MB)
    wanted = 3 * STREAM_READ_BYTES

    def is_there() -> bool:
        assert stream._socket is not None
        with suppress(BlockingIOError):
            return len(stream._socket.recv(wanted, socket.MSG_PEEK)) == wanted
        return False

    assert until(is_there)
    pump.read(stream, 2, nullcontext())
    assert len(endpoint.arrived[stream.stream_id]) == 2 * STREAM_READ_BYTES
    pump.abandon()


def test_packets_of_other_protocols_do_not_wait_for_acknowledgements(serve: MakeServer) -> None:
    pump, stream = opened_by_hand(FakeEndpoint(), serve(echo).address)
    assert stream._socket is not None
    assert stream._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    pump.abandon()


def test_a_stream_that_has_nothing_to_say_costs_no_turns(rig: MakeRig, serve: MakeServer) -> None:
    endpoint = FakeEndpoint()
    made = rig(endpoint)
    stream_id = opened(made, endpoint, serve(echo).address)
    send(made, endpoint, stream_id, numbered(0, 200, 1_000))
    assert has_arrived(made, endpoint, stream_id, 200_000)
    wakeups = made.driver.wakeups
    time.sleep(0.05)
    assert made.driver.wakeups - wakeups <= 5


def test_a_failure_to_send_is_told_in_a_turn_of_its_own(serve: MakeServer) -> None:
    endpoint = FakeEndpoint()
    pump, stream = opened_by_hand(endpoint, serve(echo).address)
    stream_id = stream.stream_id
    assert stream._socket is not None
    stream._socket.shutdown(socket.SHUT_WR)
    now_us = monotonic_us()
    endpoint.send(("", 0), [b"x"], now_us, socket_id=stream_id)
    pump.drain(now_us)
    assert endpoint.streams[stream_id] == ["opened"]
    assert pump.wake_at_us() <= now_us
    pump.handle_due(now_us)
    pump.handle_due(now_us)
    assert len(endpoint.streams[stream_id]) == 2
    pump.abandon()


def test_a_stream_that_is_closed_sends_its_last_packets_and_is_not_heard_of_again(rig: MakeRig, serve: MakeServer) -> None:
    received: list[bytes] = []

    def keep(connection: socket.socket) -> None:
        while data := connection.recv(65_536):
            received.append(data)
        received.append(b"end")

    endpoint = FakeEndpoint()
    made = rig(endpoint)
    stream_id = opened(made, endpoint, serve(keep).address)
    send(made, endpoint, stream_id, [b"farewell, "])
    made.call(lambda _: endpoint.ask(CloseStream(stream_id)))
    assert made.until(lambda: b"".join(received) == b"farewell, end")
    send(made, endpoint, stream_id, [b"too late"])
    assert endpoint.streams[stream_id] == ["opened"]
    assert made.driver.stream_counters() == {}


def test_closing_the_driver_closes_its_streams(rig: MakeRig, serve: MakeServer) -> None:
    ended = threading.Event()

    def wait_for_end(connection: socket.socket) -> None:
        while connection.recv(100):
            pass
        ended.set()

    endpoint = FakeEndpoint()
    made = rig(endpoint)
    stream_id = opened(made, endpoint, serve(wait_for_end).address)
    made.close()
    assert ended.wait(5)
    assert endpoint.streams[stream_id] == ["opened"]


def test_a_flood_is_read_in_portions_and_datagrams_get_through(rig: MakeRig, serve: MakeServer) -> None:
    stop = threading.Event()

    def flood(connection: socket.socket) -> None:
        while not stop.is_set():
            connection.sendall(bytes(MB))

    endpoint, other = FakeEndpoint(), FakeEndpoint(echo=True)
    made, _ = rig(endpoint), rig(other)
    stream_id = opened(made, endpoint, serve(flood).address)
    assert made.until(lambda: len(endpoint.arrived[stream_id]) > MB)
    endpoint.arrived[stream_id].clear()

    def has_received(count: int) -> bool:
        return endpoint.received == count

    for number in range(20):
        send_datagram(made, endpoint, other.local, number)
        assert made.until(partial(has_received, number + 1))
        endpoint.arrived[stream_id].clear()
    stop.set()


def test_a_forked_child_gives_up_every_descriptor_without_a_word(serve: MakeServer) -> None:
    received = threading.Event()

    def note(connection: socket.socket) -> None:
        if connection.recv(100):
            received.set()

    endpoint = FakeEndpoint()
    pump = Pump(endpoint)
    stream_id = endpoint.open_stream(serve(note).address)
    endpoint.ask(WatchInterfaces(True))
    pump.drain(monotonic_us())
    watched = pump.watched
    pump.abandon()
    assert [entry.fileno() for entry in watched] == [-1] * len(watched)
    assert (endpoint.streams[stream_id], pump.watched, received.is_set()) == ([], [], False)


# TLS


def test_tls_with_a_certificate_this_machine_trusts(rig: MakeRig, serve: MakeServer, trusted: Certificate) -> None:
    endpoint = FakeEndpoint()
    made = rig(endpoint)
    address = serve(echo, context=trusted.context).address
    by_name = opened(made, endpoint, address, tls_name="relay.example")
    by_address = opened(made, endpoint, address, tls_name="127.0.0.1")
    for stream_id in (by_name, by_address):
        send(made, endpoint, stream_id, numbered(0, 200, 1_000))
        assert has_arrived(made, endpoint, stream_id, 200_000)
        assert endpoint.arrived[stream_id] == b"".join(numbered(0, 200, 1_000))
        assert made.driver.stream_counters()[stream_id].bytes_sent > 200_000


def test_a_certificate_of_another_name_is_refused_before_anything_is_sent(
    rig: MakeRig, serve: MakeServer, trusted: Certificate
) -> None:
    seen: list[bytes] = []
    endpoint = FakeEndpoint()
    made = rig(endpoint)
    server = serve(lambda connection: seen.append(connection.recv(100)), context=trusted.context)
    stream_id = opened(made, endpoint, server.address, tls_name="other.example")
    assert "has no certificate for 'other.example' that this machine trusts" in how_it_ended(made, endpoint, stream_id)
    assert (endpoint.streams[stream_id][0] != "opened", seen) == (True, [])


def test_a_certificate_this_machine_does_not_trust_is_refused(
    rig: MakeRig, serve: MakeServer, trusted: Certificate, tmp_path: Path
) -> None:
    endpoint = FakeEndpoint()
    made = rig(endpoint)
    unknown = make_certificate(tmp_path)
    stream_id = opened(made, endpoint, serve(echo, context=unknown.context).address, tls_name="relay.example")
    assert "self-signed certificate" in how_it_ended(made, endpoint, stream_id)


def test_a_known_fingerprint_is_enough_whoever_signed_and_whatever_the_name(
    rig: MakeRig, serve: MakeServer, certificate: Certificate
) -> None:
    endpoint = FakeEndpoint()
    made = rig(endpoint)
    address = serve(echo, context=certificate.context).address
    with_colons = ":".join(certificate.fingerprint[at : at + 2] for at in range(0, 64, 2)).upper()
    for fingerprint in (certificate.fingerprint, with_colons):
        stream_id = opened(made, endpoint, address, tls_name="any.example", tls_fingerprint=fingerprint)
        send(made, endpoint, stream_id, [b"hello"])
        assert has_arrived(made, endpoint, stream_id, 5)
        assert endpoint.arrived[stream_id] == b"hello"


@pytest.mark.parametrize("fingerprint", ["00" * 32, "", "no fingerprint", "\udc80"])
def test_another_fingerprint_is_refused_and_named(
    rig: MakeRig, serve: MakeServer, certificate: Certificate, fingerprint: str
) -> None:
    endpoint = FakeEndpoint()
    made = rig(endpoint)
    address = serve(echo, context=certificate.context).address
    stream_id = opened(made, endpoint, address, tls_name="relay.example", tls_fingerprint=fingerprint)
    assert certificate.fingerprint in how_it_ended(made, endpoint, stream_id)
    assert endpoint.streams[stream_id][0] != "opened"


@pytest.mark.parametrize("name", ["", ".example", "a\0b", "\udc80", "x" * 300])
def test_a_name_no_certificate_can_have_is_refused(rig: MakeRig, serve: MakeServer, trusted: Certificate, name: str) -> None:
    endpoint = FakeEndpoint()
    made = rig(endpoint)
    stream_id = opened(made, endpoint, serve(echo, context=trusted.context).address, tls_name=name)
    assert how_it_ended(made, endpoint, stream_id)
    assert endpoint.streams[stream_id][0] != "opened"


def test_a_server_that_speaks_something_else_is_refused(rig: MakeRig, serve: MakeServer, certificate: Certificate) -> None:
    endpoint = FakeEndpoint()
    made = rig(endpoint)
    address = serve(lambda connection: connection.sendall(b"220 mail.example\r\n" * 20)).address
    stream_id = opened(made, endpoint, address, tls_name="x", tls_fingerprint=certificate.fingerprint)
    assert "broke the TLS session" in how_it_ended(made, endpoint, stream_id)


def test_the_end_of_a_tls_session_is_told_after_its_last_words(rig: MakeRig, serve: MakeServer, certificate: Certificate) -> None:
    endpoint = FakeEndpoint()
    made = rig(endpoint)
    address = serve(lambda connection: connection.sendall(b"last words"), context=certificate.context).address
    stream_id = opened(made, endpoint, address, tls_name="x", tls_fingerprint=certificate.fingerprint)
    assert "ended the TLS session" in how_it_ended(made, endpoint, stream_id)
    assert endpoint.arrived[stream_id] == b"last words"


def test_our_end_of_a_tls_session_is_a_proper_one(rig: MakeRig, serve: MakeServer, certificate: Certificate) -> None:
    seen: list[bytes] = []

    def keep(connection: socket.socket) -> None:
        # Raises unless the session was ended before the stream.
        while data := connection.recv(1_000):
            seen.append(data)
        seen.append(b"end")

    endpoint = FakeEndpoint()
    made = rig(endpoint)
    stream_id = opened(
        made,
        endpoint,
        serve(keep, context=certificate.context).address,
        tls_name="x",
        tls_fingerprint=certificate.fingerprint,
    )
    send(made, endpoint, stream_id, [b"farewell, "])
    made.call(lambda _: endpoint.ask(CloseStream(stream_id)))
    assert made.until(lambda: b"".join(seen) == b"farewell, end")
