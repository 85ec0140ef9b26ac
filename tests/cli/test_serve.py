"""`peergram serve` as a user meets it."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from peergram import config
from peergram.cli.serve_relay import relay_settings
from peergram.crypto.keys import SigningKey
from peergram.drivers.authority_files import make_authority
from peergram.drivers.signaling.websocket import WebSocketSignaling
from peergram.identity import Identity
from peergram.servers.relay_access import password_for, temporary_name
from peergram.servers.tls_files import own_tls
from peergram.signaling.server_url import parse_server_url
from peergram.wire.stun import Class, Method, StunMessage, decode_stun, encode_stun, long_term_key
from tests.drivers.signaling.parties import Inbox, key_of, party, wait_until

from .commands import Running, environment, heed_interrupts, run_command, running


def printed_url(command: Running) -> str:
    command.wait_line("Clients use")
    return command.wait_line("://").strip()


def exchange(url: str) -> None:
    at_bob = Inbox()
    alice, bob = WebSocketSignaling(url), WebSocketSignaling(url)
    alice.start(party("alice"), Inbox())
    bob.start(party("bob"), at_bob)
    wait_until(lambda: alice.is_welcome and bob.is_welcome)
    alice.send(Identity.of("bob"), b"hello")
    assert at_bob.next() == (Identity.of("alice"), b"hello")
    alice.close()
    bob.close()


def test_on_loopback_it_serves_plainly_and_the_url_it_prints_works() -> None:
    with running("serve", "--bind", "127.0.0.1:0", "--stun-bind", "127.0.0.1:0") as command:
        url = printed_url(command)
        assert url.startswith("ws://127.0.0.1:")
        exchange(url)
        command.interrupt()
        assert command.wait_end() == 0
        assert "Stopped." in command.output
        assert command.errors == []


def test_it_demands_and_issues_certificates(tmp_path: Path) -> None:
    make_authority(tmp_path / "club", SigningKey(bytes(32)))
    arguments = ("--bind", "127.0.0.1:0", "--stun-bind", "off", "--authority", str(tmp_path / "club"))
    with running("serve", *arguments, "--issue-ca", str(tmp_path / "club")) as command:
        url = printed_url(command)
        command.wait_line("Only those whom the authority has certified are let in.")
        command.wait_line("Everybody gets a certificate for the name he has here")
        client = WebSocketSignaling(url)
        client.start(party("alice"), Inbox())
        wait_until(lambda: "you have shown no certificate" in client.status)
        client.close()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--authority", "absent"), "authorities in 'absent': it cannot be read"),
        (("--issue-ca", "absent"), "there is no authority in 'absent'"),
    ],
)
def test_authorities_that_are_none_are_refused(tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    done = run_command("serve", "--bind", "127.0.0.1:0", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr


def relay_address(command: Running) -> tuple[str, int]:
    found = re.search(r"at (127\.0\.0\.1):(\d+)", command.wait_line("Relaying (TURN) by UDP and TCP"))
    assert found is not None
    return found[1], int(found[2])


def allocate(address: tuple[str, int], username: bytes, password: bytes) -> StunMessage:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.settimeout(10)
        asker.connect(address)
        message = StunMessage(Method.ALLOCATE, Class.REQUEST, bytes(12), requested_transport=17)
        asker.send(encode_stun(message))
        message.nonce = decode_stun(asker.recv(1_000)).nonce
        message.username, message.realm, message.transaction_id = username, b"peergram", bytes(11) + b"1"
        asker.send(encode_stun(message, integrity_key=long_term_key(username, b"peergram", password)))
        return decode_stun(asker.recv(1_000))


def test_it_relays_with_names_made_from_the_secret_that_it_keeps(tmp_path: Path) -> None:
    name = temporary_name("str:ada", int(time.time()) + 600)
    secrets = set()
    for _ in range(2):
        arguments = ("--bind", "127.0.0.1:0", "--stun-bind", "127.0.0.1:0", "--state", str(tmp_path / "state"))
        with running("serve", *arguments) as command:
            address = relay_address(command)
            kept = tmp_path / "state" / "turn-secret"
            assert kept.stat().st_mode & 0o077 == 0
            secrets.add(kept.read_bytes().strip())
            (secret,) = secrets
            assert allocate(address, name, password_for(secret, name)).xor_relayed_address is not None
            assert allocate(address, name, password_for(b"another" * 5, name)).error_code == 401


def test_it_relays_for_a_name_that_does_not_end_and_counts(tmp_path: Path) -> None:
    arguments = ("--bind", "127.0.0.1:0", "--stun-bind", "off", "--turn-bind", "127.0.0.1:0", "--state", str(tmp_path))
    with running("serve", *arguments, "--turn-user", "ann", "--turn-password", "secret", "--turn-allocations", "1") as command:
        url = printed_url(command)
        address = relay_address(command)
        command.wait_line("Its name that does not end: 'ann'.")
        assert allocate(address, b"ann", b"secret").xor_relayed_address is not None
        assert allocate(address, b"ann", b"secret").error_code == 508
        connection = http.client.HTTPConnection("127.0.0.1", parse_server_url(url).port, timeout=10)
        connection.request("GET", "/metrics")
        assert b"peergram_relay_allocations 1\n" in connection.getresponse().read()
        connection.close()


def test_with_turn_off_it_relays_nothing(tmp_path: Path) -> None:
    arguments = ("--bind", "127.0.0.1:0", "--stun-bind", "127.0.0.1:0", "--state", str(tmp_path), "--turn", "off")
    with running("serve", *arguments) as command:
        command.wait_line("Health and counters")
        assert "Relaying" not in command.output
        assert "STUN is answered" in command.output
    assert not (tmp_path / "turn-secret").exists()


def test_tls_is_at_its_usual_port_too(tmp_path: Path) -> None:
    usual: dict[str, Any] = {"turn": "on", "turn_user": None, "turn_password": None, "turn_secret_file": None, "turn_bind": None}
    usual |= {"turn_addresses": (), "turn_rate": None, "turn_rate_total": None, "turn_allocations": None, "turn_allowed": ()}
    usual |= {"allow_loopback_peers": False}
    for port, tls_binds in ((config.STUN_PORT, (("192.0.2.1", 5_349),)), (4_000, ())):
        settings = relay_settings(usual, (("192.0.2.1", port),), own_tls(tmp_path), tmp_path)
        assert settings is not None
        assert settings.tls_binds == tls_binds
        assert settings.tls is not None, "TLS is taken at the other port as well"


@pytest.mark.parametrize(
    ("content", "mode", "says"),
    [
        (None, 0, "there is no"),
        (b"short\n", 0o600, "holds no secret: write one line of 16 characters at least"),
        (b"two lines that are\nlong enough both\n", 0o600, "holds no secret"),
        (b"readable by everybody\n", 0o644, "chmod"),
    ],
)
def test_a_file_that_is_no_secret_is_refused(tmp_path: Path, content: bytes | None, mode: int, says: str) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
        file.chmod(mode)
    done = run_command("serve", "--bind", "127.0.0.1:0", "--stun-bind", "127.0.0.1:0", "--turn-secret-file", str(file))
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr


def test_elsewhere_it_has_a_certificate_that_stays_the_same(tmp_path: Path) -> None:
    urls = []
    for _ in range(2):
        with running("serve", "--bind", "0.0.0.0:0", "--stun-bind", "off", "--state", str(tmp_path)) as command:
            url = parse_server_url(printed_url(command))
            urls.append(url)
            exchange(f"wss://127.0.0.1:{url.port}/#sha256={url.fingerprint.hex()}" if url.fingerprint else "")
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            page = http.client.HTTPSConnection("127.0.0.1", url.port, timeout=10, context=context)
            page.request("GET", "/healthz")
            assert page.getresponse().read() == b"ok\n"
            page.close()
    assert urls[0].fingerprint == urls[1].fingerprint is not None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_within_a_second(number: int) -> None:
    with running("serve", "--bind", "127.0.0.1:0", "--stun-bind", "off") as command:
        url = printed_url(command)
        service = WebSocketSignaling(url)
        service.start(party("alice"), Inbox())
        wait_until(lambda: service.is_welcome)
        begin_s = time.monotonic()
        command.process.send_signal(number)
        assert command.process.wait(10) == 0
        assert time.monotonic() - begin_s < 1.5
        wait_until(lambda: not service.is_welcome)
        service.close()
        assert command.errors == []


def restart_command(tmp_path: Path) -> tuple[str, ...]:
    return "serve", "--bind", "127.0.0.1:0", "--stun-bind", "off", "--names", str(tmp_path / "names.txt")


def log_in(url: str, name: str, key_name: str) -> str:
    """What the client says of the server once that has answered."""
    service = WebSocketSignaling(url)
    service.start(party(name, key_of(key_name)), Inbox())
    wait_until(lambda: service.is_welcome or "refuses" in service.status)
    status = service.status
    service.close()
    return status


def test_names_outlast_a_server_that_is_killed(tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    with running(*restart_command(tmp_path)) as command:
        assert "connected" in log_in(printed_url(command), "alice", "alice")
        wait_until(lambda: names.exists() and "str:alice  " in names.read_text())
        command.process.kill()
    with running(*restart_command(tmp_path)) as command:
        url = printed_url(command)
        command.wait_line(f"Who has which name is kept in {str(names)!r}: 1 so far.")
        assert "another key has this name" in log_in(url, "alice", "mallory")
        assert "connected" in log_in(url, "alice", "alice")


def test_lines_of_the_names_that_cannot_be_read_are_told_and_the_rest_counts(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text(
        f"# peergram names 1\nstr:alice {key_of('alice').public_bytes.hex()} 2099-01-01\nstr:bob\n"
    )
    with running(*restart_command(tmp_path)) as command:
        url = printed_url(command)
        command.wait_line("Line 3 of ")
        assert "another key has this name" in log_in(url, "alice", "mallory")


def test_a_second_server_is_told_that_the_names_are_in_use(tmp_path: Path) -> None:
    with running(*restart_command(tmp_path)) as command:
        command.wait_line("Health")
        second = run_command(*restart_command(tmp_path))
        assert second.returncode == 2
        assert "those of another server that runs; give this one a file of its own with --names, or 'off'" in second.stderr
        assert len(second.stderr.splitlines()) == 1
    with running("serve", "--bind", "127.0.0.1:0", "--stun-bind", "off", "--names", "off") as command:
        command.wait_line("is forgotten when this server stops")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_ctrl_c_in_a_terminal_ends_with_a_line_of_its_own() -> None:
    terminal, far_end = os.openpty()

    def enter_terminal() -> None:
        heed_interrupts()
        os.login_tty(far_end)

    command = [sys.executable, "-m", "peergram.cli", "serve", "--bind", "127.0.0.1:0", "--stun-bind", "off", "--names", "off"]
    process = subprocess.Popen(command, env=environment() | {"TERM": "xterm"}, pass_fds=(far_end,), preexec_fn=enter_terminal)
    os.close(far_end)
    shown = b""
    while b"/metrics." not in shown:
        shown += os.read(terminal, 4_096)
    url = next(line.strip() for line in shown.decode().splitlines() if "://" in line)
    service = WebSocketSignaling(url)
    service.start(party("alice"), Inbox())
    wait_until(lambda: service.is_welcome)
    os.write(terminal, b"\x03")
    with suppress(OSError):
        # Linux reports the other end's exit as an error.
        while piece := os.read(terminal, 4_096):
            shown += piece
    service.close()
    os.close(terminal)
    assert process.wait(10) == 0
    # The terminal's own `^C` is written over.
    assert shown.endswith(b"^C\rStopped; 1 client was told, and will try this server again.\r\n")


def test_the_help_names_the_ports() -> None:
    ran = run_command("serve", "--help")
    assert ran.returncode == 0
    assert str(config.SERVE_PORT) in ran.stdout
    assert str(config.STUN_PORT) in ran.stdout


def test_a_taken_port_is_a_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ran = run_command("serve", "--bind", f"127.0.0.1:{taken.getsockname()[1]}", "--stun-bind", "off")
    assert ran.returncode == 1
    assert "cannot be used" in ran.stderr
    assert len(ran.stderr.splitlines()) <= 2


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--tls-cert", "c.pem"], "belong together"),
        (["--tls-cert", "c.pem", "--tls-key", "k.pem"], "cannot be read"),
        (["--tls-cert", "c.pem", "--tls-key", "k.pem", "--no-tls"], "contradicts"),
        (["--turn-user", "ann"], "belong together"),
        (["--turn-bind", "nonsense"], "no port"),
        (["--turn-allow", "nonsense"], "is no network"),
        (["--bind", "nonsense"], "no port"),
        (["--url", "http://x"], "address of a server"),
    ],
)
def test_what_is_asked_for_wrongly_is_a_sentence(tmp_path: Path, arguments: list[str], text: str) -> None:
    ran = run_command("serve", *arguments, cwd=tmp_path)
    assert ran.returncode == 2
    assert text in " ".join(ran.stderr.split())
