"""Relays over the loopback interface, coturn and ours by the same tests: what each makes of our requests and of aioice's.

Those of coturn are skipped where `turnserver` is not installed. The clock is real here; nothing waits longer than it must.
"""

from __future__ import annotations

import asyncio
import datetime
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from peergram.address import Address
from peergram.drivers.system import has_family, secure_entropy
from peergram.io_requests import InterfaceAddress
from peergram.routes.gather import CandidatePolicy
from peergram.routes.turn_client import Credentials, TurnClient, TurnState
from peergram.servers.relay_access import password_for, temporary_name
from peergram.wire.stun import Class, Method, StunMessage, decode_stun, encode_stun, looks_like_stun
from tests.routes.real_loop import RealGatherer, now_us, run_until

NEEDS_COTURN = pytest.mark.skipif(shutil.which("turnserver") is None, reason="coturn's turnserver is not installed")
RELAYS = [pytest.param("coturn", marks=NEEDS_COTURN), "ours"]
ROOT = Path(__file__).resolve().parents[2]
LOOPBACK = [InterfaceAddress("127.0.0.1", 8, "lo", True)]
LOOPBACK_6 = [InterfaceAddress("::1", 128, "lo", True)]
DATA = b"\xc0data"


@dataclass
class Server:
    port: int
    tls_port: int
    process: subprocess.Popen[bytes]

    def url(self, transport: str) -> str:
        if transport == "tls":
            return f"turns:ann:secret@127.0.0.1:{self.tls_port}"
        return f"turn:ann:secret@127.0.0.1:{self.port}?transport={transport}"


Start = Callable[..., Server]
Gather = Callable[..., RealGatherer]


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def write_certificate(folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


@pytest.fixture
def coturn(tmp_path: Path) -> Iterator[Start]:
    """Starts servers: call it with further options of `turnserver`."""
    started: list[Server] = []
    write_certificate(tmp_path)

    def start(*options: str) -> Server:
        port, tls_port = free_port(), free_port()
        hosts = ["127.0.0.1", *(["::1"] if has_family(6) else [])]
        command = ["turnserver", "-n", "--no-cli", "--no-dtls", "--lt-cred-mech", "--user=ann:secret", "--realm=example.org"]
        command += [f"--{kind}-ip={host}" for host in hosts for kind in ("listening", "relay")]
        command += [f"--listening-port={port}", f"--tls-listening-port={tls_port}", "--allow-loopback-peers"]
        command += [f"--cert={tmp_path / 'cert.pem'}", f"--pkey={tmp_path / 'key.pem'}", f"--pidfile={tmp_path / 'pid'}"]
        command += [f"--userdb={tmp_path / 'db'}", "--log-file=stdout", "--relay-threads=1", *options]
        with (tmp_path / "log").open("ab") as log:
            server = Server(port, tls_port, subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path))
        started.append(server)
        wait_for(server, tmp_path / "log")
        return server

    yield start
    for server in started:
        server.process.terminate()
        server.process.wait(10)


@pytest.fixture
def ours(tmp_path: Path) -> Iterator[Start]:
    """Starts relays of ours."""
    started: list[Server] = []
    write_certificate(tmp_path)

    def start() -> Server:
        port, tls_port = free_port(), free_port()
        command = [sys.executable, "-m", "tests.servers.relay_process", "--user=ann", "--password=secret", "--realm=example.org"]
        for host in ("127.0.0.1", *(["[::1]"] if has_family(6) else [])):
            command += [f"--bind={host}:{port}", f"--tls-bind={host}:{tls_port}"]
        command += [f"--certificate={tmp_path / 'cert.pem'}", f"--key={tmp_path / 'key.pem'}", "--allow-loopback-peers"]
        with (tmp_path / "log").open("ab") as log:
            server = Server(port, tls_port, subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT))
        started.append(server)
        wait_for(server, tmp_path / "log")
        return server

    yield start
    for server in started:
        server.process.terminate()
        server.process.wait(10)


@pytest.fixture(params=RELAYS)
def relay(request: pytest.FixtureRequest) -> Start:
    """Starts servers of either."""
    start: Start = request.getfixturevalue(request.param)
    return start


def wait_for(server: Server, log: Path) -> None:
    """Until it answers: questions go out every 50 ms."""
    question = encode_stun(StunMessage(Method.BINDING, Class.REQUEST, bytes(12)))
    end_us = now_us() + 20_000_000
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("127.0.0.1", server.port))
        probe.settimeout(0.05)
        while True:
            assert server.process.poll() is None, log.read_text(errors="replace")[-2_000:]
            assert now_us() < end_us, "it does not answer"
            try:
                probe.send(question)
                probe.recv(1_000)
            except OSError:
                # Refused at once, while it starts: the processor is better left to it.
                time.sleep(0.05)
                continue
            return


@pytest.fixture
def gatherer() -> Iterator[Gather]:
    """Makes gatherers; their sockets are closed with the test."""
    made: list[RealGatherer] = []

    def make(*urls: str, interfaces: list[InterfaceAddress] = LOOPBACK) -> RealGatherer:
        made.append(RealGatherer(urls, interfaces, CandidatePolicy(loopback=True)))
        return made[-1]

    yield make
    for each in made:
        for sock in each.sockets.values():
            sock.close()


@pytest.mark.parametrize("transport", ["udp", "tcp", "tls"])
def test_two_allocations_exchange_data_by_channel(relay: Start, gatherer: Gather, transport: str) -> None:
    server = relay()
    one, two = gatherer(server.url(transport)), gatherer(server.url("udp"))
    run_until(lambda: bool(one.relays() and two.relays()), one, two, seconds=3)
    base_1, address_1 = one.relays()[0].base, one.relays()[0].candidate.address
    base_2, address_2 = two.relays()[0].base, two.relays()[0].candidate.address
    sizes: list[int] = []
    for sequence in range(6):
        for sender, base, receiver, remote in ((one, base_1, two, address_2), (two, base_2, one, address_1)):
            receiver.gatherer.permit(receiver.relays()[0].base, [remote[0]], now_us())
            heard = len(receiver.inner)
            payload = DATA + bytes((sequence,))
            attempts = 0
            while len(receiver.inner) == heard:
                attempts += 1
                assert attempts <= 20
                sender.wire_bytes.clear()
                assert sender.send(base, remote, payload)
                for _ in range(4):
                    one.turn(0.005)
                    two.turn(0.005)
            sizes.append(sender.wire_bytes[-1])
            assert receiver.inner[-1][2] == payload
    assert {inner[:2] for inner in one.inner} == {(base_1, address_2)}
    assert {inner[:2] for inner in two.inner} == {(base_2, address_1)}
    assert sizes[-1] == 4 + len(DATA) + 1
    assert sizes[-2] == 4 + len(DATA) + 1 + (-(len(DATA) + 1) % 4 if transport != "udp" else 0)
    one.close()
    two.close()


@pytest.mark.skipif(not has_family(6), reason="no IPv6 on this machine")
@pytest.mark.parametrize("interfaces", [LOOPBACK, LOOPBACK_6], ids=["IPv4", "IPv6"])
def test_one_allocation_has_addresses_of_both_families(
    relay: Start, gatherer: Gather, interfaces: list[InterfaceAddress]
) -> None:
    server = relay()
    host = "127.0.0.1" if interfaces is LOOPBACK else "[::1]"
    one = gatherer(f"turn:ann:secret@{host}:{server.port}", interfaces=interfaces)
    run_until(lambda: len(one.relays()) == 2, one)
    assert {local.candidate.address[0] for local in one.relays()} == {"127.0.0.1", "::1"}
    one.close()


def test_a_wrong_password_gets_no_relay(relay: Start, gatherer: Gather) -> None:
    server = relay()
    one = gatherer(f"turn:ann:wrong@127.0.0.1:{server.port}")
    run_until(lambda: not one.gatherer.is_gathering, one)
    assert one.relays() == []
    one.close()


def test_the_relay_of_a_server_that_died_is_withdrawn(relay: Start, gatherer: Gather) -> None:
    server = relay()
    one = gatherer(server.url("tcp"))
    run_until(lambda: bool(one.relays()), one)
    server.process.kill()
    server.process.wait()
    run_until(lambda: not one.relays(), one)
    one.close()


class Echo(asyncio.DatagramProtocol):
    """Sends everything back."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, source: Any) -> None:
        self.transport.sendto(data, source)


class Inbox(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.found: asyncio.Queue[tuple[bytes, Any]] = asyncio.Queue()

    def datagram_received(self, data: bytes, source: Any) -> None:
        self.found.put_nowait((data, source))


@pytest.mark.parametrize("transport", ["udp", "tcp", "tls"])
def test_the_client_of_aioice_talks_through_it(relay: Start, transport: str) -> None:
    turn = pytest.importorskip("aioice.turn")
    server = relay()

    async def talk() -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        loop = asyncio.get_running_loop()
        echo, _ = await loop.create_datagram_endpoint(Echo, local_addr=("127.0.0.1", 0))
        port = server.tls_port if transport == "tls" else server.port
        relayed, inbox = await turn.create_turn_endpoint(
            Inbox,
            server_addr=("127.0.0.1", port),
            username="ann",
            password="secret",
            ssl=context if transport == "tls" else None,
            transport="udp" if transport == "udp" else "tcp",
        )
        to = echo.get_extra_info("sockname")
        for size in (1, 2, 3, 4, 500, 1_199):
            relayed.sendto(bytes(size), to)
            assert await asyncio.wait_for(inbox.found.get(), 5) == (bytes(size), to)
        relayed.close()
        echo.close()
        await asyncio.sleep(0.05)

    asyncio.run(talk())


class RealTurn:
    """One allocation through a socket of its own."""

    def __init__(self, server: Server, permission_refresh_us: int, credentials: Credentials | None = None) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 0))
        self.server: Address = ("127.0.0.1", server.port)
        self.client = TurnClient(
            server=self.server,
            credentials=credentials or Credentials(b"ann", b"secret"),
            entropy=secure_entropy,
            now_us=now_us(),
            permission_refresh_us=permission_refresh_us,
        )
        self.inner: list[tuple[Address, bytes]] = []
        self.errors: list[int | None] = []

    def turn(self) -> None:
        while (datagram := self.client.poll_transmit(now_us())) is not None:
            self.sock.sendto(datagram, self.server)
        self.sock.settimeout(0.01)
        try:
            datagram, _ = self.sock.recvfrom(65_536)
        except TimeoutError:
            datagram = b""
        if (found := self.client.unwrap(datagram)) is not None:
            self.inner.append(found)
        elif looks_like_stun(datagram):
            message = decode_stun(datagram)
            self.errors.append(message.error_code)
            self.client.handle_response(message, datagram, now_us())
        deadline = self.client.poll_timeout()
        if deadline is not None and deadline.at_us <= now_us():
            self.client.handle_timeout(now_us())

    def until(self, done: Callable[[], bool], seconds: float = 5) -> None:
        end_us = now_us() + round(seconds * 1_000_000)
        while not done():
            assert now_us() < end_us, "it takes too long"
            self.turn()

    def until_us(self, at_us: int) -> None:
        while now_us() < at_us:
            self.turn()

    def send(self, remote: Address, packet: bytes) -> None:
        for datagram in self.client.wrap(remote, [packet], now_us()) or []:
            self.sock.sendto(datagram, self.server)


@NEEDS_COTURN
def test_stale_nonces_and_short_permissions_cut_nothing(coturn: Start) -> None:
    """Nonces that last a second and permissions that last two: data still flows after four, and the release is heard."""
    server = coturn("--stale-nonce=1", "--permission-lifetime=2", "--channel-lifetime=2")
    turn = RealTurn(server, permission_refresh_us=500_000)
    turn.until(lambda: turn.client.state == TurnState.READY)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        peer.settimeout(2)
        remote: Address = peer.getsockname()
        begin_us = now_us()
        turn.send(remote, b"\x00check")
        assert peer.recv(100) == b"\x00check"
        turn.until_us(begin_us + 4_000_000)
        turn.send(remote, b"\x00again")
        data, source = peer.recvfrom(100)
        assert (data, source) == (b"\x00again", turn.client.addresses[0])
        peer.sendto(b"back", turn.client.addresses[0])
        turn.until(lambda: turn.inner == [(remote, b"back")])
        assert 438 in turn.errors, "the nonce did run out"
    turn.client.release(now_us())
    turn.until(lambda: turn.client.state == TurnState.GONE, seconds=1)
    assert turn.errors[-1] is None
    turn.sock.close()


def ticket(life_s: int) -> Credentials:
    name = temporary_name("str:ann", int(time.time()) + life_s)
    return Credentials(name, password_for(b"a long secret", name))


@pytest.mark.parametrize("options", [(), ("--stale-nonce=1",)], ids=["steady nonces", "stale nonces"])
def test_an_allocation_outlives_the_ticket_it_was_made_with(coturn: Start, options: tuple[str, ...]) -> None:
    """coturn refuses a live allocation another name (441), and goes on with the old one after its end: so do we, with both."""
    server = coturn("--use-auth-secret", "--static-auth-secret=a long secret", *options)
    turn = RealTurn(server, permission_refresh_us=300_000, credentials=ticket(2))
    turn.until(lambda: turn.client.state == TurnState.READY)
    made_at_us = now_us()
    turn.client.renew(ticket(600), now_us())
    turn.until(lambda: 441 in turn.errors)
    assert turn.client.state == TurnState.READY
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        peer.settimeout(2)
        turn.until_us(made_at_us + 3_500_000)
        turn.client.check(now_us())
        turn.until(lambda: turn.client.requests_under_way == 0)
        turn.send(peer.getsockname(), b"\x00after its end")
        assert peer.recv(100) == b"\x00after its end"
    assert turn.client.state == TurnState.READY
    late = RealTurn(server, permission_refresh_us=300_000, credentials=ticket(-1))
    late.until(lambda: late.client.state == TurnState.GONE)
    late.sock.close()
    turn.client.release(now_us())
    turn.until(lambda: turn.client.state == TurnState.GONE, seconds=1)
    assert turn.errors[-1] is None
    turn.sock.close()
