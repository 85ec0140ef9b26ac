"""`peergram serve` with a relay map: its clients find the relays, open them with tickets, and hide behind them."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from peergram import InfoFlags, Messages, SendFlags, SessionRequested
from peergram.wire.stun import Class, Method, StunMessage, encode_stun

from .commands import run_command, running
from .test_serve import printed_url

SECRET = "a-long-secret"
needs_coturn = pytest.mark.skipif(shutil.which("turnserver") is None, reason="coturn's turnserver is not installed")


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[int]:
    """The port of a coturn that knows the secret."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    command = ["turnserver", "-n", "--no-cli", "--no-dtls", "--no-tls", "--use-auth-secret", f"--static-auth-secret={SECRET}"]
    command += ["--listening-ip=127.0.0.1", "--relay-ip=127.0.0.1", f"--listening-port={port}", "--allow-loopback-peers"]
    command += ["--realm=relay", f"--pidfile={tmp_path / 'pid'}", f"--userdb={tmp_path / 'db'}", "--log-file=stdout"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path)
    question = encode_stun(StunMessage(Method.BINDING, Class.REQUEST, bytes(12)))
    end_s = time.monotonic() + 10
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("127.0.0.1", port))
        probe.settimeout(0.05)
        while True:
            assert time.monotonic() < end_s, "turnserver does not answer"
            try:
                probe.send(question)
                probe.recv(1_000)
            except OSError:
                continue
            break
    yield port
    process.terminate()
    process.wait(10)


def files(tmp_path: Path, port: int) -> tuple[Path, Path]:
    pop = {"code": "fra", "name": "Here", "latitude": 50, "longitude": 8, "servers": [f"turn:127.0.0.1:{port}"]}
    map_file, secrets = tmp_path / "map.json", tmp_path / "secrets"
    map_file.write_text(json.dumps({"version": 1, "pops": [pop]}))
    secrets.write_text(f"fra {SECRET}\n")
    secrets.chmod(0o600)
    return map_file, secrets


@needs_coturn
def test_two_who_hide_meet_at_the_relay_that_the_server_names(tmp_path: Path, relay: int) -> None:
    map_file, secrets = files(tmp_path, relay)
    options = ("--relay-map", str(map_file), "--relay-secrets", str(secrets), "--names", "off")
    with running("serve", "--bind", "127.0.0.1:0", "--stun-bind", "off", *options) as command:
        url = printed_url(command)
        command.wait_line("1 place with relays, and get tickets for 1.")
        meet_hidden(url, "fra")
        command.interrupt()
        assert command.wait_end() == 0


def meet_hidden(url: str, place: str) -> None:
    """Two who hide find each other over the relays of this place, and are told so."""
    alice, bob = (
        Messages(name, signaling=url, hide_ip=True, trust="open", key=False, known_peers=False, state=False)
        for name in ("alice", "bob")
    )
    with alice, bob:

        def accept(request: SessionRequested) -> None:
            bob.accept_session_with_user(request.identity)

        bob.on_session_request = accept
        alice.send_message_to_user("str:bob", b"hello", SendFlags.RELIABLE)
        end_s = time.monotonic() + 15
        while not (received := bob.receive_messages_on_channel(0, 1)):
            assert time.monotonic() < end_s, alice.get_session_connection_info("str:bob")
            bob.run_callbacks()
            time.sleep(0.01)
        assert received[0].payload == b"hello"
        info = alice.get_session_connection_info("str:bob").connection
        assert info is not None
        assert (info.route, info.address, info.pop_relay) == ("relayed", "", place)
        assert info.flags & InfoFlags.RELAYED


def test_a_server_that_was_told_nothing_names_its_own_relay(tmp_path: Path) -> None:
    # On this machine peers and relay have loopback addresses, which a relay does not forward to unless it is told.
    options = ("--stun-bind", "127.0.0.1:0", "--allow-loopback-peers", "--names", "off", "--state", str(tmp_path))
    with running("serve", "--bind", "127.0.0.1:0", *options) as command:
        url = printed_url(command)
        command.wait_line("Clients get this relay, and passwords for it, by themselves.")
        meet_hidden(url, "box")
        command.interrupt()
        assert command.wait_end() == 0


def test_the_map_and_the_relays_secret_are_read_again(tmp_path: Path) -> None:
    map_file, secrets = files(tmp_path, 3_478)
    own_secret = tmp_path / "own"
    own_secret.write_text("one long secret of the relay\n")
    own_secret.chmod(0o600)
    files_named = ("--relay-map", str(map_file), "--relay-secrets", str(secrets), "--turn-secret-file", str(own_secret))
    options = ("--stun-bind", "127.0.0.1:0", "--names", "off", *files_named)
    with running("serve", "--bind", "127.0.0.1:0", *options) as command:
        url = printed_url(command)
        command.wait_line("1 place with relays")
        command.wait_line("own relay only if it is on the relay map")
        with Messages("alice", signaling=url, trust="open", key=False, known_peers=False, state=False) as alice:
            wait_for(lambda: [place.code for place in alice.relay_network.places] == ["fra"])
            map_file.write_text(map_file.read_text().replace('"fra"', '"ams"'))
            command.process.send_signal(signal.SIGHUP)
            command.wait_line("nothing is changed: relay secrets: there is no place 'fra' on the relay map")
            secrets.write_text(f"ams {SECRET}\n")
            command.process.send_signal(signal.SIGHUP)
            command.wait_line("read again: relay map, relay secret")
            wait_for(lambda: [place.code for place in alice.relay_network.places] == ["ams"])


def wait_for(condition: Callable[[], object]) -> None:
    end_s = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end_s, "did not happen in time"
        time.sleep(0.01)


def test_files_that_do_not_hold_are_named_at_the_start(tmp_path: Path) -> None:
    map_file, secrets = files(tmp_path, 3_478)
    bad = tmp_path / "bad.json"
    bad.write_text('{"version": 1, "pops": [{"code": "Frankfurt"}]}')
    secrets.chmod(0o644)
    for arguments, named in (
        (("--relay-map", str(bad)), "pops[0].name: it is missing"),
        (("--relay-secrets", str(secrets)), "--relay-map"),
        (("--relay-map", str(map_file), "--relay-secrets", str(secrets)), "chmod"),
    ):
        result = run_command("serve", "--bind", "127.0.0.1:0", "--stun-bind", "off", *arguments)
        assert result.returncode != 0
        assert named in result.stderr
        assert SECRET not in result.stderr


def test_hiding_on_the_local_network_is_refused_with_the_remedy(tmp_path: Path) -> None:
    for arguments in (("--hide-ip",), ("--hide-ip", "--signaling", "none"), ("--hide-ip", "--signaling", "lan")):
        result = run_command("ping", "bob", *arguments)
        assert result.returncode != 0
        assert "--signaling wss://" in result.stderr
    map_file, _ = files(tmp_path, 3_478)
    result = run_command("ping", "ip:127.0.0.1:9", "--relay-map", str(map_file))
    assert result.returncode != 0
    assert "--signaling" in result.stderr
