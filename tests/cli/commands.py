"""Runs `peergram` commands as users do: as processes, on loopback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from secrets import token_hex
from typing import IO

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 30.0


def environment(home: Path | None = None) -> dict[str, str]:
    user = {} if home is None else {"PEERGRAM_HOME": str(home)}
    return os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "NO_COLOR": "1", "COLUMNS": "100"} | user


def run_command(*arguments: str, cwd: Path | None = None, typed: str = "") -> subprocess.CompletedProcess[str]:
    """To its end."""
    return subprocess.run(
        [sys.executable, "-m", "peergram.cli", *arguments],
        cwd=cwd, input=typed, capture_output=True, text=True, timeout=TIMEOUT_S, env=environment(), check=False,
    )  # fmt: skip


class Running:
    """A command at work; its lines can be waited for."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        self.process = process
        self.seen: list[str] = []
        self.errors: list[str] = []
        self._lines: SimpleQueue[str] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._read, args=(process.stdout, self._lines.put), daemon=True),
            threading.Thread(target=self._read, args=(process.stderr, self.errors.append), daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def wait_line(self, part: str) -> str:
        """The next line with this text in it."""
        until_s = time.monotonic() + TIMEOUT_S
        while True:
            try:
                self.seen.append(self._lines.get(timeout=max(until_s - time.monotonic(), 0)))
            except Empty:
                raise AssertionError(f"no line with {part!r} in {self.seen}; errors: {self.errors}") from None
            if part in self.seen[-1]:
                return self.seen[-1]

    def type(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def end_input(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def wait_end(self) -> int:
        code = self.process.wait(TIMEOUT_S)
        for thread in self._threads:
            thread.join(TIMEOUT_S)
        return code

    @property
    def output(self) -> str:
        """Everything it printed and nobody waited for yet included."""
        while not self._lines.empty():
            self.seen.append(self._lines.get())
        return "".join(self.seen)

    @staticmethod
    def _read(pipe: IO[str], put: object) -> None:
        assert callable(put)
        for line in pipe:
            put(line)


@contextmanager
def running(*arguments: str, cwd: Path | None = None, home: Path | None = None) -> Iterator[Running]:
    """Started, and killed at the end if it still runs; `home` is the folder of another user, for keys and known peers."""
    process = subprocess.Popen(
        [sys.executable, "-m", "peergram.cli", *arguments],
        cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(home),
        preexec_fn=heed_interrupts,
    )  # fmt: skip
    command = Running(process)
    try:
        yield command
    finally:
        process.kill()
        command.wait_end()
        for pipe in (process.stdin, process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()


def heed_interrupts() -> None:
    """In a child before it becomes the command."""
    # A test run in the background of a shell may have been told to ignore them, and children inherit that.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def unique_name(name: str) -> str:
    """A name that nobody else on this network has, whoever runs these tests beside us."""
    return f"{name}-{token_hex(6)}"


def free_port() -> int:
    """Free a moment ago, at least."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def port_in(line: str) -> str:
    """Of `… at 127.0.0.1:7777 …`."""
    return line.partition("127.0.0.1:")[2].split()[0].rstrip(".")
