"""Clients of the relay that come by TCP (R11): over loopback, in virtual time."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from peergram import config as limits
from peergram.drivers.tls import TlsClient, pinning_context
from peergram.servers.relay_streams import RelayStream
from peergram.servers.tls_files import own_tls
from peergram.wire.stun import Class, Method, StunMessage, encode_channel_data, encode_stun

SECOND_US = 1_000_000
REQUEST = encode_stun(StunMessage(Method.ALLOCATE, Class.REQUEST, bytes(12), requested_transport=17))


class Pair:
    """The relay's end of a connection, and the client's."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.client = socket.create_connection(listener.getsockname())
            end, _ = listener.accept()
        self.client.settimeout(5)
        self.relay = RelayStream(end, ("127.0.0.1", 1), context, 0)

    def receive(self) -> list[bytes]:
        """What the relay's end has once something has arrived."""
        self.relay._socket.settimeout(5)
        try:
            self.relay._socket.recv(1, socket.MSG_PEEK)
        finally:
            self.relay._socket.setblocking(False)
        return self.relay.receive()

    def close(self) -> None:
        self.client.close()
        self.relay.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.close()


def fill(pair: Pair, now_us: int) -> int:
    """Until the kernel takes no more; how many packets went."""
    sent = 0
    while not pair.relay.waiting:
        pair.relay.send([encode_channel_data(0x4000, sent.to_bytes(1_196, "big"))], now_us, is_data=True)
        sent += 1
    return sent


def read_rest(pair: Pair, now_us: int) -> bytes:
    """All that the client gets until nothing waits."""
    got = bytearray()
    while pair.relay.wants_writing:
        got += pair.client.recv(1 << 20)
        pair.relay.flush(now_us)
    pair.relay.close()
    while data := pair.client.recv(1 << 20):
        got += data
    return bytes(got)


def test_messages_come_out_whole_however_they_were_cut(pair: Pair) -> None:
    data = REQUEST + encode_channel_data(0x4000, b"abc", padded=True) + encode_channel_data(0x7FFE, b"", padded=True)
    found = []
    for byte in data:
        pair.client.sendall(bytes((byte,)))
        found += pair.receive()
    assert found == [REQUEST, encode_channel_data(0x4000, b"abc"), encode_channel_data(0x7FFE, b"")]
    assert not pair.relay.is_over


@pytest.mark.parametrize("data", [b"\x80" * 4, b"\x04GET / HTTP", bytes(20), b"\x16\x03\x01\x00\x05hello"])
def test_what_cannot_begin_a_message_ends_it(pair: Pair, data: bytes) -> None:
    pair.client.sendall(data)
    assert pair.receive() == []
    assert pair.relay.is_over


def test_of_a_stranger_no_long_message_is_taken(pair: Pair) -> None:
    start = encode_channel_data(0x4000, bytes(40_000))[: limits.TURN_STREAM_STRANGER_BYTES_MAX + 1]
    pair.client.sendall(start[:-1])
    pair.receive()
    assert not pair.relay.is_over
    pair.client.sendall(start[-1:])
    pair.receive()
    assert pair.relay.is_over


def test_channel_data_is_padded(pair: Pair) -> None:
    pair.relay.send([encode_channel_data(0x4000, b"abcde")], 0, is_data=True)
    assert pair.client.recv(100) == encode_channel_data(0x4000, b"abcde") + bytes(3)


def test_of_what_a_slow_reader_leaves_the_newest_is_kept(pair: Pair) -> None:
    sent = fill(pair, 0)
    for number in range(sent, sent + 10 * limits.TURN_STREAM_QUEUE_MAX):
        pair.relay.send([encode_channel_data(0x4000, number.to_bytes(1_196, "big"))], 0, is_data=True)
        assert pair.relay.waiting <= limits.TURN_STREAM_QUEUE_MAX
        sent += 1
    assert pair.relay.dropped >= 8 * limits.TURN_STREAM_QUEUE_MAX
    got = read_rest(pair, 0)
    assert len(got) % 1_200 == 0, "no packet is cut"
    numbers = [int.from_bytes(got[at + 4 : at + 1_200], "big") for at in range(0, len(got), 1_200)]
    assert numbers == sorted(numbers)
    assert numbers[-limits.TURN_STREAM_QUEUE_MAX :] == list(range(sent - limits.TURN_STREAM_QUEUE_MAX, sent))


def test_what_waited_for_two_seconds_is_not_sent_any_more(pair: Pair) -> None:
    sent = fill(pair, 0)
    pair.relay.send([encode_channel_data(0x4000, b"old" + bytes(1_193))], 0, is_data=True)
    pair.relay.send([encode_channel_data(0x4000, b"new" + bytes(1_193))], limits.TURN_STREAM_QUEUE_US, is_data=True)
    got = read_rest(pair, limits.TURN_STREAM_QUEUE_US + 1)
    assert b"old" not in got
    assert b"new" in got
    assert pair.relay.dropped >= 1
    assert len(got) // 1_200 <= sent + 1


def test_large_packets_wait_within_a_mebibyte(pair: Pair) -> None:
    fill(pair, 0)
    for _ in range(40):
        pair.relay.send([encode_channel_data(0x4000, bytes(60_000))], 0, is_data=True)
    assert pair.relay.waiting <= limits.TURN_STREAM_QUEUE_BYTES_MAX // 60_000


def test_answers_pass_by_what_peers_sent(pair: Pair) -> None:
    fill(pair, 0)
    for _ in range(300):
        pair.relay.send([encode_channel_data(0x4000, bytes(1_196))], 0, is_data=True)
    waiting = pair.relay.waiting
    assert waiting > 10
    pair.relay.send([REQUEST], 0, is_data=False)
    got = read_rest(pair, 0)
    assert got.index(REQUEST) + len(REQUEST) <= len(got) - waiting * 1_200


def test_who_asks_and_never_reads_is_cut(pair: Pair) -> None:
    fill(pair, 0)
    for _ in range(limits.TURN_STREAM_QUEUE_MAX + 1):
        pair.relay.send([REQUEST], 0, is_data=False)
    assert pair.relay.is_over


@pytest.mark.skipif(not hasattr(socket, "TCP_NOTSENT_LOWAT"), reason="this system does not bound what waits in its kernel")
def test_little_waits_in_the_kernel(pair: Pair) -> None:
    pair.client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    sent = fill(pair, 0)
    received = 6_291_456
    assert sent * 1_200 <= received + 2 * limits.TURN_STREAM_UNSENT_BYTES


def test_tls_is_told_by_its_first_byte(tmp_path: Path) -> None:
    tls = own_tls(tmp_path)
    pair = Pair(tls.context)
    client = TlsClient(pinning_context(), "relay", tls.fingerprint.hex())
    while not client.is_ready:
        pair.client.sendall(client.take())
        pair.receive()
        pair.relay.flush(0)
        client.receive(pair.client.recv(65_536))
        assert client.failure is None
    client.write(REQUEST)
    pair.client.sendall(client.take())
    assert pair.receive() == [REQUEST]
    for size in (1, 60_000):
        pair.relay.send([encode_channel_data(0x4000, bytes(size))], 0, is_data=True)
        got = b""
        while len(got) < size + 4:
            pair.relay.flush(0)
            got += client.receive(pair.client.recv(65_536))
        assert got == encode_channel_data(0x4000, bytes(size), padded=True)
    pair.relay.send([REQUEST, REQUEST, REQUEST], 0, is_data=False)
    records, at = pair.client.recv(65_536), 0
    lengths = []
    while at < len(records):
        lengths.append(int.from_bytes(records[at + 3 : at + 5], "big"))
        at += 5 + lengths[-1]
    assert len(lengths) == 3, "a record for each message"
    client.receive(records)
    client.end()
    pair.client.sendall(client.take())
    pair.receive()
    assert pair.relay.is_over
    pair.close()


def test_what_tls_has_to_say_for_itself_does_not_wait_without_an_end(tmp_path: Path) -> None:
    tls = own_tls(tmp_path)
    pair = Pair(tls.context)
    client = TlsClient(pinning_context(), "relay", tls.fingerprint.hex())
    while not client.is_ready:
        pair.client.sendall(client.take())
        pair.receive()
        pair.relay.flush(0)
        client.receive(pair.client.recv(65_536))
    fill(pair, 0)
    outgoing = pair.relay._outgoing
    assert outgoing is not None
    client.write(REQUEST)
    pair.client.sendall(client.take())
    assert pair.receive() == [REQUEST]
    was_over = pair.relay.is_over
    # As after many a KeyUpdate of a client that does not read.
    outgoing.write(bytes(limits.TURN_STREAM_UNSENT_BYTES + 1))
    client.write(REQUEST)
    pair.client.sendall(client.take())
    pair.receive()
    assert (was_over, pair.relay.is_over) == (False, True)
    pair.close()


def test_the_end_of_a_connection_is_seen(pair: Pair) -> None:
    pair.client.close()
    assert pair.receive() == []
    assert pair.relay.is_over
    pair.relay.send([REQUEST], 0, is_data=True)
    assert not pair.relay.wants_writing
