"""Programs that others wrote for UDP, unmodified, in two processes of `peergram run` that find each other by name.

Each is a small script in programs/ that uses a library as its manual shows, and knows nothing of peers.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.cli.commands import Running, free_port, run_command, running, unique_name

SOAK = bool(os.environ.get("PEERGRAM_SOAK"))
PROGRAMS = Path(__file__).parent / "programs"


class Server:
    """A program at work as a peer, and what its clients need to reach it at 10.0.0.2."""

    def __init__(self, command: Running, name: str, port: str) -> None:
        self.command, self.name, self.port = command, name, port

    def client(self, program: str, *arguments: str) -> str:
        """What such a client prints, run to its end."""
        path = str(PROGRAMS / program)
        mapped = f"10.0.0.2={self.name}"
        done = run_command("run", "--as", unique_name("c"), "--map", mapped, "--", path, "10.0.0.2", self.port, *arguments)
        assert done.returncode == 0, (done.stdout, done.stderr, self.command.errors)
        return done.stdout


@contextmanager
def serving(program: str, *arguments: str) -> Iterator[Server]:
    name, port = unique_name("server"), str(free_port())
    with running("run", "--as", name, "--accept", "--", str(PROGRAMS / program), port, *arguments) as command:
        command.wait_line("serving")
        yield Server(command, name, port)


def test_python_osc_sends_and_answers() -> None:
    with serving("osc_server.py") as server:
        assert server.client("osc_client.py") == "pong 1 2.5 three\n"
        assert server.command.wait_end() == 0


@pytest.mark.parametrize("count", [3, pytest.param(300, marks=pytest.mark.skipif(not SOAK, reason="full figures only"))])
def test_dnspython_asks_and_resolves(count: int) -> None:
    with serving("dns_server.py", str(count + 1)) as server:
        lines = server.client("dns_client.py", str(count)).splitlines()
        assert lines == ["by.hand.example. 60 IN A 192.0.2.7", *["192.0.2.7"] * count]
        assert server.command.wait_end() == 0


@pytest.mark.parametrize("size", [64_000, pytest.param(640_000, marks=pytest.mark.skipif(not SOAK, reason="full figures only"))])
def test_tftpy_carries_a_file_down_and_up_again(tmp_path: Path, size: int) -> None:
    content = random.Random(1).randbytes(size)
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "file").write_bytes(content)
    with serving("tftp_server.py", str(folder)) as server:
        assert server.client("tftp_client.py", "file", str(tmp_path / "got")) == "done\n"
        assert (tmp_path / "got").read_bytes() == content
        assert (folder / "again-file").read_bytes() == content


@pytest.mark.parametrize(
    ("client", "server"),
    [
        pytest.param("udp6", "udp6", marks=pytest.mark.skipif(sys.platform != "linux", reason="for Linux only")),
        pytest.param("simple6", "simplesocketserver", marks=pytest.mark.skipif(not SOAK, reason="full figures only")),
    ],
)
def test_aiocoap_puts_blocks_and_observes(client: str, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the transports that it takes on Linux, and those that it takes elsewhere."""
    monkeypatch.setenv("AIOCOAP_CLIENT_TRANSPORT", client)
    monkeypatch.setenv("AIOCOAP_SERVER_TRANSPORT", server)
    with serving("coap_server.py") as peer:
        assert peer.client("coap_client.py").splitlines() == [
            "put 2.04 Changed and got 10240 bytes, the same: True",
            "observed 3 changes, each newer: True",
        ]
        peer.command.end_input()
        assert peer.command.wait_end() == 0


@pytest.mark.skipif(not SOAK, reason="full figures only: it takes its time to end")
@pytest.mark.skipif(find_spec("pygase") is None, reason="pygase is not installed; pip does so with --no-deps only")
def test_pygase_plays() -> None:
    with serving("pygase_server.py") as server:
        assert server.client("pygase_client.py") == "the answer is 42\n"
