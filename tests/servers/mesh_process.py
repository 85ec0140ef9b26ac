"""A `Mesh` in a process of its own, so that more peers than one interpreter keeps up with are there at once.

    python -m tests.servers.mesh_process URLS NAME COUNT PAUSE_S OPTIONS(JSON)

It says `ready SESSIONS`, then answers `sent`, `complete LEAST` and `end`, each with `done NUMBER`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import IO

from tests.cli.commands import ROOT, environment

from .mesh import Mesh


class MeshProcess:
    """The parent's end."""

    def __init__(self, urls: str, name: str, count: int, pause_s: float, options: dict[str, object]) -> None:
        """Back when everybody has met."""
        words = [urls, name, str(count), str(pause_s), json.dumps(options)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.servers.mesh_process", *words],
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to: IO[str] = self._process.stdin
        self._from: IO[str] = self._process.stdout
        self.sessions = self._hear("ready")

    def tell(self, command: str) -> None:
        self._to.write(f"{command}\n")
        self._to.flush()

    def hear(self) -> int:
        """The number that answers the last command."""
        return self._hear("done")

    def ask(self, command: str) -> int:
        self.tell(command)
        return self.hear()

    def end(self) -> int:
        """How many messages each said to each; nothing of it was lost, came twice or out of order."""
        sent = self.ask("end")
        assert self._process.wait(20) == 0
        return sent

    def close(self) -> None:
        """Whatever it is doing."""
        self._process.kill()
        self._process.wait()
        self._to.close()
        self._from.close()

    def _hear(self, word: str) -> int:
        said = self._from.readline().split()
        assert said[:1] == [word], f"instead of {word!r}: {said}"
        return int(said[1])


def main() -> None:
    """The child's end."""
    urls, name, count, pause_s, options = sys.argv[1:]
    mesh = Mesh(urls, int(count), float(pause_s), name=name, **json.loads(options))
    print("ready", mesh.sessions, flush=True)
    for line in sys.stdin:
        command, *words = line.split()
        if command == "complete":
            mesh.wait_complete(int(words[0]))
        elif command == "end":
            mesh.end()
        print("done", mesh.sent, flush=True)
        if command == "end":
            return


if __name__ == "__main__":
    main()
