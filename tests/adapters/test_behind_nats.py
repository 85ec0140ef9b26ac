"""Unmodified programs behind real NATs, directly where the NATs allow it and through a relay where they do not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.commands import TIMEOUT_S, environment
from tests.scenarios.lab_stun import PORT as STUN_PORT
from tests.scenarios.nat_lab import SIGNAL_PORT, TURN_PASSWORD, TURN_PORT, TURN_USER, Kind, NatLab, nat_lab

pytestmark = pytest.mark.skipif(not os.environ.get("PEERGRAM_SOAK"), reason="full figures only")
PROGRAMS = Path(__file__).parent / "programs"


def start(world: NatLab, host: str, home: Path, program: str, *words: str, mapped: str = "") -> subprocess.Popen[str]:
    """A program on a host of the lab, as the peer of that name."""
    lab = world.lab
    options = ["--as", host, "--accept", "--signaling", f"line://{lab.addr('signal')}:{SIGNAL_PORT}"]
    options += ["--stun", f"{lab.addr('stun')}:{STUN_PORT}"]
    options += ["--turn", f"{TURN_USER}:{TURN_PASSWORD}@{lab.addr('turn')}:{TURN_PORT}"]
    options += ["--map", mapped] if mapped else []
    command = [sys.executable, "-m", "peergram.cli", "run", *options, "--", str(PROGRAMS / program), *words]
    process: subprocess.Popen[str] = lab.popen(
        host, command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(home / host)
    )
    return process


@pytest.mark.parametrize("kind", ["port-restricted", "symmetric"])
def test_a_resolver_asks_a_server_in_another_home(kind: Kind, tmp_path: Path) -> None:
    with nat_lab(kind, kind) as world:
        bob = start(world, "bob", tmp_path, "dns_server.py", "5300", "6")
        alice = None
        try:
            assert bob.stdout is not None
            assert bob.stdout.readline() == "serving\n"
            alice = start(world, "alice", tmp_path, "dns_client.py", "10.0.0.2", "5300", "5", mapped="10.0.0.2:5300=bob")
            output, errors = alice.communicate(timeout=TIMEOUT_S)
            assert output.splitlines() == ["by.hand.example. 60 IN A 192.0.2.7", *["192.0.2.7"] * 5], errors
        finally:
            for process in (alice, bob):
                if process is not None:
                    process.kill()
                    process.communicate()
