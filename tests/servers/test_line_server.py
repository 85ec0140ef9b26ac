"""The line server over loopback."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from peergram.address import Address
from peergram.drivers.system import has_family
from peergram.errors import AddressInUseError, PeergramError
from peergram.servers.line_server import LineServer
from tests.drivers.fake_endpoint import until
from tests.drivers.signaling.mailbox import WAIT_S


@pytest.fixture
def server() -> Iterator[LineServer]:
    server = LineServer(("127.0.0.1", 0))
    yield server
    server.close()


def connect(address: Address, greeting: bytes = b"") -> socket.socket:
    connection = socket.create_connection(address, WAIT_S)
    connection.sendall(greeting)
    return connection


def read_line(connection: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\n"):
        piece = connection.recv(1)
        if not piece:
            return data
        data += piece
    return data


def test_a_line_goes_to_whom_it_names(server: LineServer) -> None:
    with connect(server.address, b"str:alice\n") as alice, connect(server.address, b"str:bob\n") as bob:
        assert until(lambda: server.named == 2)
        alice.sendall(b"str:bob 22c1\nstr:bob ")
        assert read_line(bob) == b"str:alice 22c1\n"
        alice.sendall(b"00\n")
        assert read_line(bob) == b"str:alice 00\n"


def test_a_second_connection_with_the_same_name_replaces_the_first(server: LineServer) -> None:
    with connect(server.address, b"str:bob\n") as first:
        assert until(lambda: server.named == 1)
        with connect(server.address, b"str:bob\n") as second:
            assert read_line(first) == b""
            second.sendall(b"str:bob 01\n")
            assert read_line(second) == b"str:bob 01\n"


def test_an_empty_greeting_ends_the_connection(server: LineServer) -> None:
    with connect(server.address, b"\n") as connection:
        assert read_line(connection) == b""
    assert until(lambda: server.clients == 0)


def test_connections_that_end_are_forgotten(server: LineServer) -> None:
    connections = [connect(server.address, b"str:%d\n" % number) for number in range(20)]
    assert until(lambda: server.named == 20)
    for connection in connections:
        connection.close()
    assert until(lambda: server.clients == 0)


def test_who_does_not_read_is_cut_off_and_the_others_go_on(server: LineServer) -> None:
    with connect(server.address, b"str:slow\n"), connect(server.address, b"str:alice\n") as alice:
        assert until(lambda: server.named == 2)
        line = b"str:slow " + b"0" * 16_000 + b"\n"
        while server.named == 2:
            alice.sendall(line)
        alice.sendall(b"str:alice 01\n")
        assert read_line(alice) == b"str:alice 01\n"


def test_one_socket_serves_both_families() -> None:
    if not has_family(6):
        pytest.skip("no IPv6 here")
    server = LineServer(("::", 0))
    try:
        port = server.address[1]
        with connect(("127.0.0.1", port), b"str:four\n") as four, connect(("::1", port), b"str:six\n") as six:
            assert until(lambda: server.named == 2)
            six.sendall(b"str:four 01\n")
            assert read_line(four) == b"str:six 01\n"
    finally:
        server.close()


def test_an_address_that_cannot_be_had_is_named(server: LineServer) -> None:
    with pytest.raises(AddressInUseError, match=f"127.0.0.1:{server.address[1]} belongs to somebody else"):
        LineServer(server.address)
    with pytest.raises(PeergramError, match=r"cannot listen on 192\.0\.2\.1:1"):
        LineServer(("192.0.2.1", 1))


def test_closing_ends_every_connection_and_may_be_repeated() -> None:
    server = LineServer(("127.0.0.1", 0))
    with connect(server.address, b"str:alice\n") as connection:
        assert until(lambda: server.named == 1)
        server.close()
        assert read_line(connection) == b""
        server.close()
    with pytest.raises(ConnectionRefusedError):
        connect(server.address)
