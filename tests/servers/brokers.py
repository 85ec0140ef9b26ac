"""NATS servers on loopback: one, or a cluster of three, each of which can be killed and started again."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

needs_nats = pytest.mark.skipif(shutil.which("nats-server") is None, reason="needs nats-server (apt: nats-server)")


def free_ports(count: int) -> list[int]:
    """Free a moment ago, at least."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


class Broker:
    """One server of a cluster."""

    def __init__(self, config: Path, port: int) -> None:
        self.port = port
        self.url = f"nats://127.0.0.1:{port}"
        self._config = config
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        log = self._config.with_suffix(".log").open("ab")
        self._process = subprocess.Popen(["nats-server", "-c", str(self._config)], stdout=log, stderr=log)
        log.close()
        until_s = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                assert time.monotonic() < until_s, self._config.with_suffix(".log").read_text()
                time.sleep(0.02)

    def pause(self) -> None:
        """Its connections stay, and it says nothing any more."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """At once, without a word to anybody."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextmanager
def brokers(folder: Path, count: int = 1, *, jetstream: bool = True, users: str = "") -> Iterator[list[Broker]]:
    """Started, and killed at the end; `users` is a block of their configuration."""
    ports, routes = free_ports(count), free_ports(count)
    made = []
    for number, (port, route) in enumerate(zip(ports, routes, strict=True)):
        lines = [f"server_name: n{number}", f"listen: 127.0.0.1:{port}", users]
        if jetstream:
            lines.append(f'jetstream {{ store_dir: "{folder}/n{number}", max_file_store: 1GB }}')
        if count > 1:
            others = ", ".join(f"nats-route://127.0.0.1:{each}" for each in routes if each != route)
            lines.append(f"cluster {{ name: test, listen: 127.0.0.1:{route}, routes: [{others}] }}")
        config = folder / f"n{number}.conf"
        config.write_text("\n".join(lines) + "\n")
        made.append(Broker(config, port))
    try:
        for broker in made:
            broker.start()
        yield made
    finally:
        for broker in made:
            broker.kill()
