"""R10 with real processes: relays in use are told to end, and those who talk over them move and lose nothing."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from peergram import Messages
from tests.cli.commands import ROOT, environment, heed_interrupts, running
from tests.cli.test_serve import printed_url
from tests.drivers.signaling.parties import wait_until
from tests.threats.world import SOAK

from .brokers import free_ports
from .mesh_process import MeshProcess
from .talk import Talk

SECRET = "a-secret-of-all-the-relays"
DRAIN_S = 60 if SOAK else 3
PEERS: dict[str, Any] = {"hide_ip": True, "trust": "open", "key": False, "known_peers": False}

_SERVE = """
import sys
from peergram import config
config.SERVER_DRAIN_US = int(sys.argv.pop(1)) * 1_000_000
from peergram.cli import main
main()
"""


class RelayProcess:
    """`peergram serve` as the relay of a place, at an address and ports that it keeps."""

    def __init__(self, number: int, folder: Path, drain_s: int) -> None:
        self.code = f"rl{number}"
        self.host = f"127.0.0.{number}"
        self.port, self._relay_port = free_ports(2)
        self._folder = folder
        self._drain_s = drain_s
        self.process: subprocess.Popen[str] | None = None

    @property
    def place(self) -> dict[str, object]:
        server = f"turn:{self.host}:{self._relay_port}"
        return {"code": self.code, "name": self.code, "latitude": 0, "longitude": 0, "servers": [server]}

    def start(self) -> None:
        """Back when it serves."""
        command = [
            sys.executable,
            "-c",
            _SERVE,
            str(self._drain_s),
            "serve",
            "--bind",
            f"127.0.0.1:{self.port}",
            "--names",
            "off",
        ]
        command += ["--stun-bind", "off", "--turn-bind", f"{self.host}:{self._relay_port}", "--log-format", "json"]
        command += ["--turn-secret-file", str(self._folder / "secret"), "--allow-loopback-peers"]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment(), preexec_fn=heed_interrupts
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert '"event": "started"' in line, line

    def tell_to_end(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)

    def wait_end(self, timeout_s: float) -> int:
        assert self.process is not None
        assert self.process.stdout is not None
        code = self.process.wait(timeout_s)
        self.process.stdout.close()
        self.process = None
        return code

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.wait_end(10)

    def page(self, path: str) -> tuple[int, str]:
        """Status and text."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("GET", path)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, text

    @property
    def allocations(self) -> int:
        lines = dict(line.rsplit(" ", 1) for line in self.page("/metrics")[1].splitlines())
        return int(lines["peergram_relay_allocations"])


@contextmanager
def relays(folder: Path, count: int, *, drain_s: int = DRAIN_S) -> Iterator[tuple[str, list[RelayProcess]]]:
    """A signaling server's URL, and relays at as many places, which it names."""
    made = [RelayProcess(number + 1, folder, drain_s) for number in range(count)]
    (folder / "secret").write_text(SECRET + "\n")
    (folder / "secrets").write_text("".join(f"{relay.code} {SECRET}\n" for relay in made))
    (folder / "map").write_text(json.dumps({"version": 1, "pops": [relay.place for relay in made]}))
    for name in ("secret", "secrets"):
        (folder / name).chmod(0o600)
    options = ("--relay-map", str(folder / "map"), "--relay-secrets", str(folder / "secrets"), "--turn", "off", "--names", "off")
    try:
        for relay in made:
            relay.start()
        with running("serve", "--bind", "127.0.0.1:0", "--stun-bind", "off", *options) as command:
            yield printed_url(command), made
            command.interrupt()
            assert command.wait_end() == 0
    finally:
        for relay in made:
            relay.kill()


def relay_of(peer: Messages, other: str) -> str:
    """The code of the place that relays between them; empty while nothing is known."""
    connection = peer.get_session_connection_info(other).connection
    return "" if connection is None else connection.pop_relay


def test_a_relay_in_use_that_is_told_to_end_takes_nobody_new_and_its_session_moves_without_loss(tmp_path: Path) -> None:
    with relays(tmp_path, 2) as (url, both):
        talk = Talk(url, **PEERS)
        wait_until(lambda: len(talk.came) >= 10, 20)
        in_use = next(relay for relay in both if relay.code == relay_of(talk.alice, "bob"))
        wait_until(lambda: all(relay.allocations == 2 for relay in both), 10)
        in_use.tell_to_end()
        begin_s = time.monotonic()
        wait_until(lambda: in_use.page("/healthz") == (503, "draining\n"))
        newcomers = Talk(url, ("carol", "dave"), **PEERS)
        wait_until(lambda: len(newcomers.came) >= 10, 20)
        assert in_use.allocations == 2
        assert relay_of(newcomers.alice, "dave") not in ("", in_use.code)
        assert in_use.wait_end(DRAIN_S + 10) == 0
        took_s = time.monotonic() - begin_s
        so_far = talk.sent
        wait_until(lambda: len(talk.came) > so_far + 20, 20)
        assert relay_of(talk.alice, "bob") not in ("", in_use.code)
        for each in (talk, newcomers):
            each.end()
    print(f"of {talk.sent} messages none lost; the longest pause was {talk.longest_gap_s:.2f} s, the end took {took_s:.1f} s")
    assert took_s < DRAIN_S + 5
    assert talk.longest_gap_s < 5


def test_a_relay_ends_at_once_when_nobody_uses_it_any_more(tmp_path: Path) -> None:
    with relays(tmp_path, 1, drain_s=60) as (url, [relay]):
        talk = Talk(url, **PEERS)
        wait_until(lambda: len(talk.came) >= 10, 20)
        assert relay.allocations == 2
        relay.tell_to_end()
        wait_until(lambda: relay.page("/healthz")[0] == 503)
        assert relay.process is not None
        assert relay.process.poll() is None
        talk.end()
        assert relay.wait_end(10) == 0


@pytest.mark.skipif(not SOAK, reason="the full form of R10: PEERGRAM_SOAK=1")
def test_a_rolling_restart_of_three_relays_under_500_sessions_costs_none_and_not_one_message(tmp_path: Path) -> None:
    with relays(tmp_path, 3) as (url, all_three), ExitStack() as stack:
        meshes: list[MeshProcess] = []
        for number in range(5):
            meshes.append(MeshProcess(url, f"mesh {number} peer", 15, 12.0, PEERS))
            stack.callback(meshes[-1].close)
        sessions = sum(mesh.sessions for mesh in meshes)
        took_s = []
        for relay in all_three:
            begin_s = time.monotonic()
            relay.tell_to_end()
            assert relay.wait_end(DRAIN_S + 20) == 0
            took_s.append(time.monotonic() - begin_s)
            relay.start()
            for mesh in meshes:
                mesh.tell(f"complete {mesh.ask('sent') + 2}")
            for mesh in meshes:
                mesh.hear()
        messages = sum(mesh.end() * 2 * mesh.sessions for mesh in meshes)
    print(f"{sessions} sessions, {messages} messages, none lost; ends took {took_s}")
    assert sessions >= 500
