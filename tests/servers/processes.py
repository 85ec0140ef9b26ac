"""A server in a process of its own, and what it costs."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from peergram.address import Address

ROOT = Path(__file__).resolve().parents[2]

_SERVE = """
import asyncio, sys
from peergram.servers.run import ServerSettings, run_until_stopped
settings = ServerSettings(binds=(("127.0.0.1", int(sys.argv[1])),))
asyncio.run(run_until_stopped(settings, lambda server: print(server.addresses[0][1], flush=True)))
"""


class ServerProcess:
    """A server that runs."""

    def __init__(self, process: subprocess.Popen[str], address: Address) -> None:
        self.process = process
        self.address = address
        self.was_killed = False

    def kill(self) -> None:
        """At once, without a word to anybody."""
        self.was_killed = True
        self.process.kill()
        self.process.wait()

    @property
    def rss_kib(self) -> int:
        """Its memory; from /proc."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        raise AssertionError("no VmRSS")


@contextmanager
def server_process(port: int = 0, *, script: str = _SERVE) -> Iterator[ServerProcess]:
    """Started, and stopped at the end."""
    with python("-c", script, str(port)) as process:
        try:
            server = ServerProcess(process, ("127.0.0.1", int(said_by(process))))
            yield server
        finally:
            process.terminate()
            code = process.wait(20)
        assert server.was_killed or code == 0


def python(*arguments: str) -> subprocess.Popen[str]:
    """A child whose output can be read, and whose input can be written."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def said_by(process: subprocess.Popen[str]) -> str:
    """Its next line."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, "it ended without a word"
    return line.strip()


def allow_files(count: int) -> None:
    """Let this process and its children have so many open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        assert hard >= count or hard == resource.RLIM_INFINITY, f"no more than {hard} open files are allowed here"
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
