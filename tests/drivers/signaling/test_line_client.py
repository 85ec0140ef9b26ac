"""The TCP client of the reference's line protocol, over loopback."""

from __future__ import annotations

import inspect
import os
import socket
import sys
import threading
import time

import pytest

from peergram.config import (
    SIGNALING_CONNECT_TIMEOUT_US,
    SIGNALING_RECONNECT_MAX_US,
    SIGNALING_UNACKNOWLEDGED_US,
    SIGNALING_UNSENT_MAX,
)
from peergram.drivers.signaling.line_client import LineSignaling
from peergram.drivers.system import has_family
from peergram.errors import ClosedError, UsageError
from peergram.identity import Identity
from peergram.servers.line_server import LineServer
from tests.drivers.fake_endpoint import until

from .mailbox import WAIT_S, Join, Mailbox, party
from .moving import MovingMachine

ALICE, BOB = Identity.string("alice"), Identity.string("bob")


class Listener:
    """A server by hand, for one client at a time."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self._socket = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        self._socket.settimeout(WAIT_S)
        self.port: int = self._socket.getsockname()[1]

    def accept(self) -> socket.socket:
        connection, _ = self._socket.accept()
        connection.settimeout(WAIT_S)
        return connection

    def close(self) -> None:
        self._socket.close()


def read_lines(connection: socket.socket, count: int) -> list[bytes]:
    data = b""
    while data.count(b"\n") < count:
        piece = connection.recv(65_536)
        assert piece, f"the connection ended after {data!r}"
        data += piece
    return data.splitlines()


def test_two_clients_meet_at_a_server(server: LineServer, join: Join) -> None:
    alice, bob = LineSignaling(*server.address), LineSignaling(*server.address)
    mail_of_alice, mail_of_bob = join(alice, "alice"), join(bob, "bob")
    assert until(lambda: server.named == 2)
    alice.send(BOB, b"\x01\x02")
    assert mail_of_bob.get() == (ALICE, b"\x01\x02")
    bob.send(ALICE, b"\x03")
    assert mail_of_alice.get() == (BOB, b"\x03")
    assert alice.status == f"connected to the line server at 127.0.0.1:{server.address[1]}"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_a_server_is_found_by_address_and_by_name(host: str, join: Join) -> None:
    if host == "::1" and not has_family(6):
        pytest.skip("no IPv6 here")
    listener = Listener("::1" if host == "::1" else "127.0.0.1")
    join(LineSignaling(host, listener.port), "alice")
    with listener.accept() as connection:
        assert read_lines(connection, 1) == [b"str:alice"]
    listener.close()


def test_signals_wait_for_the_server_and_the_oldest_give_way(join: Join) -> None:
    listener = Listener()
    service = LineSignaling("127.0.0.1", listener.port)
    listener.close()
    join(service, "alice")
    assert until(lambda: service.status.startswith("not connected"))
    for number in range(SIGNALING_UNSENT_MAX + 5):
        service.send(BOB, bytes((number,)))
    listener = Listener(port=listener.port)
    with listener.accept() as connection:
        lines = read_lines(connection, 1 + SIGNALING_UNSENT_MAX)
    assert lines == [b"str:alice", *(b"str:bob %02x" % number for number in range(5, SIGNALING_UNSENT_MAX + 5))]
    listener.close()


def test_a_client_comes_back_after_its_server_went_away(join: Join) -> None:
    listener = Listener()
    service = LineSignaling("127.0.0.1", listener.port)
    mail = join(service, "alice")
    with listener.accept() as connection:
        read_lines(connection, 1)
    assert until(lambda: "the server closed the connection" in service.status)
    service.send(BOB, b"\x07")
    began_s = time.monotonic()
    with listener.accept() as connection:
        assert read_lines(connection, 2) == [b"str:alice", b"str:bob 07"]
        connection.sendall(b"str:bob 08\n")
        assert mail.get() == (BOB, b"\x08")
    assert time.monotonic() - began_s < SIGNALING_RECONNECT_MAX_US / 1e6
    listener.close()


def test_garbage_from_the_server_is_skipped(join: Join) -> None:
    listener = Listener()
    mail = join(LineSignaling("127.0.0.1", listener.port), "alice")
    with listener.accept() as connection:
        connection.sendall(b"\xff\xfe\n" + b"x" * 100_000 + b"\nstr:bob zz\nstr:bob 01\n")
        assert mail.get() == (BOB, b"\x01")
    listener.close()


def test_a_server_that_does_not_read_holds_up_nobody(join: Join) -> None:
    listener = Listener()
    service = LineSignaling("127.0.0.1", listener.port)
    join(service, "alice")
    connection = listener.accept()
    began_s = time.monotonic()
    for _ in range(2_000):
        service.send(BOB, bytes(8_000))
    assert time.monotonic() - began_s < 2
    service.close()
    assert until(lambda: not any(thread.name == "peergram-lines" for thread in threading.enumerate()))
    connection.close()
    listener.close()


def test_a_server_that_cannot_be_found_is_named_with_the_reason(join: Join) -> None:
    service = LineSignaling("bad..name", 1)
    join(service, "alice")
    assert until(
        lambda: service.status.startswith("not connected to the line server at bad..name:1 (its name is not one); trying")
    )


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="how a full listener behaves is the system's choice")
def test_a_server_that_does_not_answer_is_given_up_after_a_while(join: Join) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        callers = [socket.socket() for _ in range(4)]
        for caller in callers:
            caller.setblocking(False)
            caller.connect_ex(full.getsockname())
        service = LineSignaling(*full.getsockname(), connect_timeout_us=50_000)
        join(service, "alice")
        assert until(lambda: "(timed out)" in service.status)
        service.close()
        for caller in callers:
            caller.close()
    assert inspect.signature(LineSignaling).parameters["connect_timeout_us"].default == SIGNALING_CONNECT_TIMEOUT_US


def test_a_receiver_that_raises_ends_nothing(server: LineServer, join: Join, caplog: pytest.LogCaptureFixture) -> None:
    taken: list[bytes] = []

    def broken(_sender: Identity | None, signal: bytes) -> None:
        taken.append(signal)
        raise RuntimeError("broken")

    service, other = LineSignaling(*server.address), LineSignaling(*server.address)
    service.start(party("bob"), broken)
    join(other, "alice")
    assert until(lambda: server.named == 2)
    other.send(BOB, b"\x01")
    other.send(BOB, b"\x02")
    assert until(lambda: taken == [b"\x01", b"\x02"])
    service.close()
    assert len(caplog.records) == 1


@pytest.mark.parametrize("has_server", [True, False])
def test_closing_is_quick_whether_connected_or_not(has_server: bool, server: LineServer) -> None:
    if not has_server:
        server.close()
    service = LineSignaling(*server.address)
    service.start(party("alice"), Mailbox())
    assert until(lambda: service.status.startswith("connected" if has_server else "not connected"))
    began_s = time.monotonic()
    service.close()
    assert time.monotonic() - began_s < 0.5
    assert service.status == "closed"
    service.send(BOB, b"x")
    service.close()
    assert until(lambda: server.clients == 0)


def test_a_closed_service_cannot_be_started() -> None:
    service = LineSignaling("127.0.0.1", 1)
    service.close()
    with pytest.raises(ClosedError):
        service.start(party("alice"), Mailbox())


@pytest.mark.parametrize(("host", "port"), [("", 10_000), ("localhost", 0), ("localhost", 65_536)])
def test_an_impossible_server_is_refused_at_once(host: str, port: int) -> None:
    with pytest.raises(UsageError, match="needs a host and a port"):
        LineSignaling(host, port)


def test_a_name_that_lines_cannot_carry_is_refused_and_a_service_serves_one_endpoint(server: LineServer, join: Join) -> None:
    service = LineSignaling(*server.address)
    assert service.status == "not started"
    with pytest.raises(UsageError, match="cannot be named"):
        service.start(party("a b"), Mailbox())
    join(service, "alice")
    with pytest.raises(UsageError, match="serves one endpoint"):
        service.start(party("alice"), Mailbox())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_lets_go_of_the_connection_and_the_parent_keeps_it(server: LineServer, join: Join) -> None:
    service = LineSignaling(*server.address)
    mail = join(service, "alice")
    assert until(lambda: server.named == 1)
    child = os.fork()
    if child == 0:
        service.send(ALICE, b"from the child")
        os._exit(0 if service.status.startswith("closed") else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    service.send(ALICE, b"from the parent")
    assert mail.get() == (ALICE, b"from the parent")


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="this system does not know such a limit")
def test_what_a_server_does_not_acknowledge_ends_the_connection_soon(server: LineServer, join: Join) -> None:
    alice = LineSignaling(*server.address)
    join(alice, "alice")
    assert until(lambda: server.named == 1)
    assert alice._socket is not None
    assert alice._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) * 1_000 == SIGNALING_UNACKNOWLEDGED_US


def test_who_moves_to_another_network_connects_again_at_once(join: Join, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who only waits to be called would find out at the next keepalive."""
    machine, listener = MovingMachine(monkeypatch), Listener()
    join(LineSignaling("127.0.0.1", listener.port, make_watch=machine.watch), "alice")
    with listener.accept() as first:
        assert read_lines(first, 1) == [b"str:alice"]
        machine.move()
        with listener.accept() as second:
            assert read_lines(second, 1) == [b"str:alice"]
            assert first.recv(1) == b""
    listener.close()


def test_a_change_that_does_not_concern_the_way_to_the_server_leaves_the_connection(
    join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, listener = MovingMachine(monkeypatch), Listener()
    alice = LineSignaling("127.0.0.1", listener.port, make_watch=machine.watch)
    join(alice, "alice")
    with listener.accept() as first:
        assert read_lines(first, 1) == [b"str:alice"]
        machine.change()
        time.sleep(0.1)
        alice.send(BOB, b"\x01")
        assert read_lines(first, 1) == [b"str:bob 01"]
    listener.close()


def test_another_network_ends_the_wait_after_failures(join: Join, monkeypatch: pytest.MonkeyPatch) -> None:
    machine, listener = MovingMachine(monkeypatch), Listener()
    listener.close()
    alice = LineSignaling("127.0.0.1", listener.port, make_watch=machine.watch)
    join(alice, "alice")
    assert until(lambda: "trying again" in alice.status)
    listener = Listener(port=listener.port)
    machine.change()
    listener.accept().close()
    listener.close()
