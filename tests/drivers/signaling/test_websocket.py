"""The client of `peergram serve`: reconnecting, being replaced, refused, and never in the way of the program."""

from __future__ import annotations

import gc
import signal
import socket
import threading
import time
import warnings
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue

import pytest
from websockets.http11 import Request
from websockets.server import ServerProtocol

from peergram import config
from peergram.crypto.authority import issue_certificate
from peergram.crypto.keys import SigningKey
from peergram.crypto.trust import TrustStore
from peergram.drivers.signaling.websocket import WebSocketSignaling
from peergram.errors import UsageError
from peergram.identity import Identity
from peergram.servers.login_certificates import LoginCertificates
from peergram.signaling.websocket_protocol import Hello, Welcome, encode_server_message
from peergram.wire.certificates import decode_certificate, decode_signed_certificate, encode_signed_certificate, read_identity
from tests.servers.processes import server_process
from tests.servers.running import RunningServer, running_server

from .moving import MovingMachine
from .parties import Inbox, key_of, party, wait_until

ALICE, BOB = Identity.of("alice"), Identity.of("bob")


def started(url: str, name: str, inbox: Inbox | None = None, key: SigningKey | None = None) -> WebSocketSignaling:
    service = WebSocketSignaling(url)
    service.start(party(name, key), inbox or Inbox())
    return service


def welcomed(url: str, name: str, inbox: Inbox | None = None) -> WebSocketSignaling:
    service = started(url, name, inbox)
    wait_until(lambda: service.is_welcome)
    return service


def free_tcp_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_keys_and_names_call_each_other() -> None:
    with running_server() as running:
        at_key, at_bob = Inbox(), Inbox()
        by_key, bob = welcomed(running.url, "key", at_key), welcomed(running.url, "bob", at_bob)
        by_key.send(BOB, b"hello")
        sender, blob = at_bob.next()
        assert sender == Identity.generic_bytes(key_of("key").public_bytes)
        assert blob == b"hello"
        bob.send(sender, b"hello yourself")
        assert at_key.next() == (BOB, b"hello yourself")
        assert by_key.status == f"Signaling server {running.url}: connected."
        by_key.close()
        bob.close()


def certificates_of_tests() -> tuple[LoginCertificates, bytes, bytes]:
    """What a server demands and issues, by one authority; and what it demands of alice and of bob."""
    root = SigningKey(bytes(31) + b"\1")
    store = TrustStore()
    store.add_root(root.public_bytes)
    now_s = int(time.time())
    alice, bob = (
        encode_signed_certificate(
            issue_certificate(
                root, subject_key=key_of(name).public_bytes, identity=Identity.of(name), app_ids=(0,), created_s=now_s,
                expires_s=now_s + 600,
            )
        )
        for name in ("alice", "bob")
    )  # fmt: skip
    return LoginCertificates(authorities=store, issuer_key=root, wall_s=lambda: int(time.time())), alice, bob


def test_a_certificate_opens_the_door_and_another_is_handed_over() -> None:
    demanded, alice, bob = certificates_of_tests()
    given: SimpleQueue[bytes] = SimpleQueue()
    at_bob = Inbox()

    def take(certificate: bytes) -> None:
        given.put(certificate)
        raise RuntimeError("what the program does with it harms nothing")

    with running_server(certificates=demanded) as running:
        caller, called = WebSocketSignaling(running.url), WebSocketSignaling(running.url)
        caller.start(replace(party("alice"), certificate=alice, take_certificate=take), Inbox())
        called.start(replace(party("bob"), certificate=bob), at_bob)
        wait_until(lambda: caller.is_welcome and called.is_welcome)
        issued = decode_certificate(decode_signed_certificate(given.get(timeout=10)).cert)
        assert read_identity(issued.identity_fields) == ALICE
        assert issued.key_data == key_of("alice").public_bytes
        caller.send(BOB, b"hello")
        assert at_bob.next() == (ALICE, b"hello")
        caller.close()
        called.close()


def test_without_a_certificate_nobody_comes_in_where_one_is_demanded_and_nobody_hammers() -> None:
    demanded, alice, _ = certificates_of_tests()
    with running_server(certificates=demanded) as running:
        for certificate, says in ((b"", "you have shown no certificate"), (alice, "your certificate is for str:alice")):
            client = WebSocketSignaling(running.url)
            client.start(replace(party("carol"), certificate=certificate), Inbox())
            wait_until(lambda client=client: "refuses us" in client.status)  # type: ignore[misc]
            assert says in client.status
            client.close()
        time.sleep(2.5 * config.SIGNALING_RECONNECT_MIN_US / 1e6)
        assert running.count("refused_11") == 2


def test_a_certificate_that_fits_no_login_is_refused_before_anything_is_sent() -> None:
    client = WebSocketSignaling("ws://127.0.0.1:1/")
    with pytest.raises(UsageError, match="has 1025 bytes, and at most 1024 fit into a login"):
        client.start(replace(party("alice"), certificate=bytes(1_025)), Inbox())


def test_who_logs_in_with_the_same_key_takes_over_and_the_first_one_stays_away() -> None:
    with running_server() as running:
        first = welcomed(running.url, "alice")
        second = welcomed(running.url, "alice")
        wait_until(lambda: not first.is_welcome)
        assert "logged in elsewhere" in first.status
        time.sleep(2.5 * config.SIGNALING_RECONNECT_MIN_US / 1e6)
        assert second.is_welcome
        assert running.count("logins") == 2
        assert running.count("replaced") == 1
        first.send(BOB, b"into nowhere")
        first.close()
        second.close()


def test_somebody_with_another_key_does_not_get_the_name_and_does_not_hammer() -> None:
    with running_server() as running:
        alice = welcomed(running.url, "alice")
        mallory = started(running.url, "alice", key=key_of("mallory"))
        wait_until(lambda: "somebody with another key has this name" in mallory.status)
        time.sleep(2.5 * config.SIGNALING_RECONNECT_MIN_US / 1e6)
        assert alice.is_welcome
        assert running.count("refused_4") == 1
        mallory.close()
        alice.close()


def test_after_the_server_was_away_everything_goes_on_and_what_waited_is_sent() -> None:
    port = free_tcp_port()
    at_bob = Inbox()
    with running_server(bind=("127.0.0.1", port)) as running:
        alice, bob = welcomed(running.url, "alice"), welcomed(running.url, "bob", at_bob)
    wait_until(lambda: not alice.is_welcome and not bob.is_welcome)
    with running_server(bind=("127.0.0.1", port)):
        wait_until(lambda: bob.is_welcome)
        alice.send(BOB, b"sent while away, or not")
        wait_until(lambda: alice.is_welcome)
        assert at_bob.next() == (ALICE, b"sent while away, or not")
    alice.close()
    bob.close()


def test_while_there_is_no_server_the_newest_signals_wait_and_sending_never_blocks() -> None:
    port = free_tcp_port()
    alice = started(f"ws://127.0.0.1:{port}/", "alice")
    wait_until(lambda: "cannot be reached" in alice.status)
    begin_s = time.perf_counter()
    for number in range(1_000):
        alice.send(BOB, b"%d" % number)
    assert time.perf_counter() - begin_s < 0.5
    alice.send(BOB, bytes(config.CARRIED_BYTES_MAX + 1))
    at_bob = Inbox()
    with running_server(bind=("127.0.0.1", port)) as running:
        bob = welcomed(running.url, "bob", at_bob)
        wait_until(lambda: alice.is_welcome)
        # More than the burst for one receiver is not carried.
        expected = [b"%d" % number for number in range(1_000)][-config.SIGNALING_UNSENT_MAX :][: config.SIGNALS_PAIR_BURST]
        assert [at_bob.next()[1] for _ in expected] == expected
        bob.close()
    alice.close()


def test_a_server_that_accepts_and_says_nothing_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        service = started(f"ws://127.0.0.1:{mute.getsockname()[1]}/", "alice")
        time.sleep(0.1)
        begin_s = time.monotonic()
        service.close()
        assert time.monotonic() - begin_s < 1.0


def test_a_connection_that_no_longer_carries_is_given_up() -> None:
    """As when a network is pulled out: nothing says so, only the answers to pings are missing."""
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve_and_fall_silent() -> None:
            connection, _ = listener.accept()
            with connection:
                server = ServerProtocol()
                for answer in (Hello(1, bytes(32)), Welcome()):
                    server.receive_data(connection.recv(4_096))
                    for event in server.events_received():
                        if isinstance(event, Request):
                            server.send_response(server.accept(event))
                    server.send_binary(encode_server_message(answer))
                    connection.sendall(b"".join(server.data_to_send()))
                ended.wait(10)

        thread = threading.Thread(target=serve_and_fall_silent)
        thread.start()
        service = WebSocketSignaling(f"ws://127.0.0.1:{listener.getsockname()[1]}/", ping_us=50_000)
        service.start(party("alice"), Inbox())
        wait_until(lambda: service.is_welcome)
        wait_until(lambda: "the connection was lost" in service.status)
        ended.set()
        service.close()
        thread.join(10)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\n\r\n", b"\0" * 1_000, b"SSH-2.0-OpenSSH_9\r\n"])
def test_a_server_of_another_kind_is_told_apart(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:

        def serve() -> None:
            connection, _ = other.accept()
            with connection:
                connection.recv(4_096)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        service = started(f"ws://127.0.0.1:{other.getsockname()[1]}/", "alice")
        wait_until(lambda: "cannot be reached" in service.status)
        service.close()
        thread.join(10)


def test_what_the_program_does_in_deliver_harms_nothing() -> None:
    came = Inbox()
    with running_server() as running:

        def answer(sender: Identity | None, signal: bytes) -> None:
            came(sender, signal)
            raise RuntimeError("the program's own mistake")

        bob = WebSocketSignaling(running.url)
        bob.start(party("bob"), answer)
        alice = welcomed(running.url, "alice")
        wait_until(lambda: bob.is_welcome)
        for number in range(3):
            alice.send(BOB, b"%d" % number)
            assert came.next() == (ALICE, b"%d" % number)
        bob.close()
        alice.close()


def test_closing_from_inside_deliver_works() -> None:
    with running_server() as running:
        closed = threading.Event()

        def close(sender: Identity | None, signal: bytes) -> None:
            bob.close()
            closed.set()

        bob = WebSocketSignaling(running.url)
        bob.start(party("bob"), close)
        alice = welcomed(running.url, "alice")
        wait_until(lambda: bob.is_welcome)
        alice.send(BOB, b"hello")
        assert closed.wait(10)
        alice.close()


def test_closing_is_quick_and_for_good_and_leaves_no_thread() -> None:
    with running_server() as running:
        welcomed(running.url, "warm").close()
        threads = threading.active_count()
        service = welcomed(running.url, "alice")
        begin_s = time.monotonic()
        service.close()
        service.close()
        assert time.monotonic() - begin_s < 0.8
        service.send(BOB, b"hello")
        assert threading.active_count() == threads
        with pytest.raises(UsageError):
            service.start(party("alice"), Inbox())
        wait_until(lambda: running.ask(lambda: running.server.core.clients) == 0)


def test_closing_beside_a_server_that_does_not_answer_the_goodbye_leaves_no_socket() -> None:
    with server_process() as server:
        service = WebSocketSignaling(f"ws://127.0.0.1:{server.address[1]}/")
        service.start(party("alice"), Inbox())
        wait_until(lambda: service.is_welcome)
        server.process.send_signal(signal.SIGSTOP)
        try:
            with warnings.catch_warnings(record=True) as complaints:
                warnings.simplefilter("always")
                service.close(5)
                gc.collect()
        finally:
            server.process.send_signal(signal.SIGCONT)
    assert complaints == []


def test_what_cannot_work_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        WebSocketSignaling("http://chat.example.org")
    with pytest.raises(UsageError):
        WebSocketSignaling("wss://chat.example.org", ca_file=tmp_path / "missing.pem")
    service = WebSocketSignaling("ws://127.0.0.1:1/")
    with pytest.raises(UsageError):
        service.start(party("ip:::1"), Inbox())
    service.close()


def latency_us(running: RunningServer, count: int) -> list[float]:
    at_bob = Inbox()
    alice, bob = welcomed(running.url, "alice"), welcomed(running.url, "bob", at_bob)
    took = []
    for number in range(count):
        begin_s = time.perf_counter()
        alice.send(BOB, b"%d" % number)
        at_bob.next()
        took.append((at_bob.came_at_s - begin_s) * 1e6)
        time.sleep(0.11)
    alice.close()
    bob.close()
    return took


def test_a_signal_arrives_without_any_waiting() -> None:
    with running_server() as running:
        took = sorted(latency_us(running, 5))
        print(f"through the server, all three in one process: median {took[len(took) // 2]:.0f} us")
        assert took[0] < 100_000


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="this system does not know such a limit")
def test_what_a_server_does_not_acknowledge_ends_the_connection_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    limits_us: list[int] = []
    monkeypatch.setattr(
        "peergram.drivers.signaling.websocket.give_up_unacknowledged", lambda _connection, after_us: limits_us.append(after_us)
    )
    with running_server() as running:
        welcomed(running.url, "alice").close()
    assert limits_us == [config.SIGNALING_UNACKNOWLEDGED_US]


def test_who_moves_to_another_network_logs_in_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who only waits to be called would find out at the next ping."""
    machine = MovingMachine(monkeypatch)
    with running_server() as running:
        alice = WebSocketSignaling(running.url, make_watch=machine.watch)
        alice.start(party("alice"), Inbox())
        wait_until(lambda: alice.is_welcome and machine.is_watched)
        machine.change()
        time.sleep(0.1)
        assert running.count("logins") == 1, "the way to the server is as before"
        machine.move()
        wait_until(lambda: running.count("logins") == 2 and alice.is_welcome)
        alice.close()


def test_another_network_ends_the_wait_after_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, port = MovingMachine(monkeypatch), free_tcp_port()
    alice = WebSocketSignaling(f"ws://127.0.0.1:{port}/", make_watch=machine.watch)
    alice.start(party("alice"), Inbox())
    wait_until(lambda: "trying again" in alice.status)
    with running_server(bind=("127.0.0.1", port)):
        machine.change()
        wait_until(lambda: alice.is_welcome)
        alice.close()
