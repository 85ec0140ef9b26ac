"""Nodes of a fleet as operators run them: `peergram serve --nats …`, each a process."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from tests.cli.commands import ROOT, environment, heed_interrupts

from .brokers import Broker, free_ports


class NodeProcess:
    """One node, at a port that it keeps."""

    def __init__(self, name: str, arguments: Iterable[str]) -> None:
        self.name = name
        self.port = free_ports(1)[0]
        self.url = f"ws://127.0.0.1:{self.port}/"
        self.bus = ""
        """The broker that it has chosen."""
        self._arguments = list(arguments)
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Back when it serves."""
        command = [sys.executable, "-m", "peergram.cli", "serve", "--bind", f"127.0.0.1:{self.port}", "--stun-bind", "off"]
        self.process = subprocess.Popen(
            [*command, "--node", self.name, "--log-format", "json", *self._arguments],
            stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment(), preexec_fn=heed_interrupts,
        )  # fmt: skip
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert '"event": "started"' in line, line
        self.bus = str(json.loads(line)["bus"])

    def kill(self) -> None:
        """At once, without a word to anybody."""
        self._end(signal.SIGKILL)

    def stop(self) -> float:
        """Gently; how many seconds it took."""
        begin_s = time.monotonic()
        self._end(signal.SIGTERM)
        return time.monotonic() - begin_s

    def _end(self, number: int) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(90)
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None

    def page(self, path: str) -> tuple[int, str]:
        """Status and text."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("GET", path)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, text

    def metric(self, name: str) -> int:
        lines = dict(line.rsplit(" ", 1) for line in self.page("/metrics")[1].splitlines())
        return int(lines.get(f"peergram_serve_{name}", 0))


@contextmanager
def fleet(names: Iterable[str], bus: Iterable[Broker], *arguments: str) -> Iterator[list[NodeProcess]]:
    """Started together, and killed at the end."""
    options = [text for broker in bus for text in ("--nats", broker.url)]
    nodes = [NodeProcess(name, [*options, *arguments]) for name in names]
    try:
        for node in nodes:
            node.start()
        yield nodes
    finally:
        for node in nodes:
            node.kill()
