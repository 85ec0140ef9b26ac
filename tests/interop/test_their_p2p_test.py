"""The reference's own P2P test program, `test_p2p`, with one of its two peers replaced by ours, and with our servers.

That program ends with 0 if it was connected, every reliable message came once and in order, and the connection was closed as it
should be. It lies beside the reference's library (or where PEERGRAM_GNS_TEST_P2P says); signals go by our line server, and our
STUN responder tells both peers their addresses. See `plain_peer` for what ours does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.lab import SOAK, open_lab

from .child import ROOT
from .gns import GnsError, library_path
from .our_services import LINE_PORT, STUN_PORT

pytestmark = pytest.mark.interop

WORLDS = {"public hosts": "alice@inet bob@inet", "homes": "alice@home1:port-restricted bob@home2:port-restricted"}
OPPOSITE = {"server": "client", "client": "server", "symmetric": "symmetric"}
ATTEMPTS = 10 if SOAK else 1
WHOLE_S = 40


def their_program() -> Path:
    try:
        beside = Path(library_path()).with_name("test_p2p")
    except GnsError as error:
        pytest.skip(f"no reference to test against: {error}")
    program = Path(os.environ.get("PEERGRAM_GNS_TEST_P2P", beside))
    if not program.is_file():
        pytest.skip("needs the reference's test_p2p: set PEERGRAM_GNS_TEST_P2P")
    return program


@contextmanager
def lab_with_our_services(words: str) -> Iterator[Any]:
    with open_lab(f"{words} services@inet", "t") as lab:
        command = [sys.executable, "-m", "tests.interop.our_services", "{services}"]
        with lab.popen("services", command, cwd=ROOT, stdout=subprocess.PIPE) as server:
            assert server.stdout.readline() == b"listening\n"
            yield lab
            server.kill()


@pytest.mark.parametrize("words", WORLDS.values(), ids=WORLDS.keys())
@pytest.mark.parametrize("role", OPPOSITE)
def test_their_program_is_content_with_ours_as(role: str, words: str, tmp_path: Path) -> None:
    program = their_program()
    with lab_with_our_services(words) as lab:
        line, stun = f"{lab.addr('services')}:{LINE_PORT}", f"{lab.addr('services')}:{STUN_PORT}"
        for attempt in range(ATTEMPTS):
            theirs = lab.popen(
                "bob",
                [
                    *(str(program), f"--{OPPOSITE[role]}", "--identity-local", "str:theirs", "--identity-remote", "str:ours"),
                    *("--signaling-server", line, "--stun-server", stun, "--ice-implementation", "1"),
                    *("--log", str(tmp_path / "theirs.log")),
                ],
                cwd=program.parent,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            # Their client's first request is repeated after half a second only, and their server must be there for ours.
            time.sleep(0.3)
            ours = lab.popen(
                "alice",
                [sys.executable, "-m", "tests.interop.plain_peer", role, "str:ours", "str:theirs", line, stun],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            try:
                our_report, our_errors = ours.communicate(timeout=WHOLE_S)
                their_report, _ = theirs.communicate(timeout=WHOLE_S)
            finally:
                ours.kill()
                theirs.kill()
            assert ours.returncode == 0, our_errors
            assert theirs.returncode == 0, their_report
            report = json.loads(our_report)
            routes = [row for row in their_report.splitlines() if "TEST ROUTE" in row]
            print(f"\n{role}, attempt {attempt + 1}: {report}; {routes[-1:]}")
            assert report["received_reliable"] > 0
            assert report["sent_reliable"] > 0
