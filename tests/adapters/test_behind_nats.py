"""Unmodified programs behind real NATs, directly where the NATs allow it and through a relay where they do not.

Short by default: small programs behind NATs that can be passed; PEERGRAM_SOAK=1 runs all programs with their full figures, and
behind NATs that want a relay, too.
"""

from __future__ import annotations

import random
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.cli.commands import environment
from tests.lab import SOAK
from tests.scenarios.lab_stun import PORT as STUN_PORT
from tests.scenarios.nat_lab import (
    OURS,
    SIGNAL_PORT,
    TURN_PASSWORD,
    TURN_PORT,
    TURN_USER,
    Kind,
    NatLab,
    nat_lab,
    route_expected,
)

from .test_aioquic import certificate_files

PROGRAMS = Path(__file__).parent / "programs"
TIMEOUT_S = 120.0
TFTP_BYTES = 640_000
QUIC_BYTES = 10_000_000 if SOAK else 200_000


@dataclass(frozen=True, slots=True)
class Program:
    """A server and a client of it, what they are told besides the port and the address, and what the client prints."""

    name: str
    server: tuple[str, ...]
    client: tuple[str, ...]
    prints: tuple[str, ...]


def programs(folder: Path) -> list[Program]:
    """Those to run, and what they need in this folder."""
    found = [
        Program("osc", (), (), ("pong 1 2.5 three",)),
        Program("coap", (), (), ("put 2.04 Changed and got 10240 bytes, the same: True", "observed 3 changes, each newer: True")),
    ]
    chain, key = certificate_files(folder)
    quic = (str(QUIC_BYTES), f"{QUIC_BYTES} bytes came back as they were")
    found.append(Program("quic", (str(chain), str(key)), (str(chain), quic[0]), quic[1:]))
    if SOAK:
        found.append(Program("dns", ("6",), ("5",), ("by.hand.example. 60 IN A 192.0.2.7", *["192.0.2.7"] * 5)))
        if find_spec("pygase") is not None:
            found.append(Program("pygase", (), (), ("the answer is 42",)))
        (folder / "served").mkdir()
        (folder / "served" / "file").write_bytes(random.Random(1).randbytes(TFTP_BYTES))
        found.append(Program("tftp", (str(folder / "served"),), ("file", str(folder / "got")), ("done",)))
    return found


class Running:
    """A program at work on a host of the lab; its log goes to a file."""

    def __init__(self, world: NatLab, host: str, name: str, home: Path, words: list[str], mapped: str = "") -> None:
        lab = world.lab
        options = ["--as", name, "--accept", "--signaling", f"line://{lab.addr('signal')}:{SIGNAL_PORT}"]
        options += ["--stun", f"{lab.addr('stun')}:{STUN_PORT}"]
        options += ["--turn", f"{TURN_USER}:{TURN_PASSWORD}@{lab.addr('turn')}:{TURN_PORT}"]
        options += ["--map", mapped] if mapped else []
        command = [sys.executable, "-m", "peergram.cli", "-v", "run", *options, "--", *words]
        home.mkdir(exist_ok=True)
        self._log = home / "log"
        with self._log.open("w") as log:
            self.process: subprocess.Popen[str] = lab.popen(
                host, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment(home)
            )

    def routes(self) -> list[str]:
        """Every way its peers were reached, in order of time."""
        return re.findall(r"is reached: (\w+)", self._log.read_text())

    @property
    def log(self) -> str:
        return self._log.read_text()[-5_000:]

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()


def run(world: NatLab, program: Program, number: int, folder: Path) -> list[str]:
    """Run server and client of it in two homes; the ways that the client's peer was reached by."""
    port = str(5_300 + number)
    server_words = [str(PROGRAMS / f"{program.name}_server.py"), port, *program.server]
    client_words = [str(PROGRAMS / f"{program.name}_client.py"), "10.0.0.2", port, *program.client]
    names = f"bob-{program.name}", f"alice-{program.name}"
    bob = Running(world, "bob", names[0], folder / names[0], server_words)
    alice = None
    try:
        assert bob.process.stdout is not None
        assert bob.process.stdout.readline() == "serving\n", bob.log
        alice = Running(world, "alice", names[1], folder / names[1], client_words, f"10.0.0.2={names[0]}")
        output, _ = alice.process.communicate(timeout=TIMEOUT_S)
        assert tuple(output.splitlines()) == program.prints, (program, alice.log, bob.log)
        return alice.routes()
    finally:
        for each in (alice, bob):
            if each is not None:
                each.stop()


@pytest.mark.parametrize(
    "kind",
    ["port-restricted", pytest.param("symmetric", marks=pytest.mark.skipif(not SOAK, reason="full figures only"))],
)
def test_programs_of_others_run_between_two_homes_directly_where_a_path_exists(kind: Kind, tmp_path: Path) -> None:
    expected = {"direct": "direct", "relay": "relayed"}[route_expected((kind, kind), OURS)]
    with nat_lab(kind, kind) as world, ThreadPoolExecutor() as pool:
        # At the same time, each as a peer of its own: they wait most of the time.
        at_work = {
            program.name: pool.submit(run, world, program, number, tmp_path) for number, program in enumerate(programs(tmp_path))
        }
        routes = {name: each.result() for name, each in at_work.items()}
    # A relay may be quicker to be found, the direct way follows.
    assert {name: found[-1:] for name, found in routes.items()} == {name: [expected] for name in routes}, routes
    if SOAK:
        content = random.Random(1).randbytes(TFTP_BYTES)
        assert (tmp_path / "got").read_bytes() == content
        assert (tmp_path / "served" / "again-file").read_bytes() == content
