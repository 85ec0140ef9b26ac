"""What a node of a fleet costs: `python -m benches.fleet [--clients N] [--calls-per-second N] [--seconds S] [--tls]`.

Real processes over loopback: a NATS server, two nodes of `peergram serve`, and the library's own clients, half at each node, who
first log in, then say nothing, then call each other across (a signal of 600 bytes and its answer). CPU times are those of the
processes, from /proc; other work on the machine disturbs them little. Needs nats-server and Linux.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

from peergram.crypto.keys import SigningKey
from peergram.drivers.signaling.websocket import WebSocketSignaling
from peergram.identity import Identity
from peergram.signaling.service import LocalParty

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_BLOB = bytes(599)
_LOGINS_PER_S = 200


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds and memory of a process."""

    cpu_s: float
    rss_kib: int

    @classmethod
    def of(cls, pid: int) -> Usage:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return cls((int(fields[11]) + int(fields[12])) / _TICKS_PER_S, int(fields[21]) * os.sysconf("SC_PAGE_SIZE") // 1_024)


class Client(WebSocketSignaling):
    """On the loop that it is called from."""

    def __init__(self, url: str, number: int) -> None:
        super().__init__(url)
        self.answers: asyncio.Queue[bytes] = asyncio.Queue()
        self._number = number

    async def live(self) -> None:
        key = SigningKey.generate(Random(self._number).randbytes)
        self._party = LocalParty(Identity.of(f"peer {self._number}"), key.public_bytes, key.sign)
        self._deliver = self._hear
        self._loop = asyncio.get_running_loop()
        await self._live()

    def _hear(self, sender: Identity | None, signal: bytes) -> None:
        if signal[:1] == b"?" and sender is not None:
            self.send(sender, b"!" + signal[1:])
        else:
            self.answers.put_nowait(signal)


async def crowd(urls: list[str], count: int, calls_per_s: float, seconds: float) -> None:
    """Clients who do what they are told on the input, one word a line; says when that is done."""
    clients = [Client(urls[number % 2], number) for number in range(count)]
    tasks = []
    for client in clients:
        tasks.append(asyncio.ensure_future(client.live()))
        await asyncio.sleep(1 / _LOGINS_PER_S)
    while not all(client.is_welcome for client in clients):
        await asyncio.sleep(0.05)
    print("in", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    took_s: list[float] = []

    async def call(one: Client, other: int) -> None:
        begin_s = time.perf_counter()
        one.send(Identity.of(f"peer {other}"), b"?" + _BLOB)
        with suppress(TimeoutError):
            await asyncio.wait_for(one.answers.get(), 5)
            took_s.append(time.perf_counter() - begin_s)

    rng, calls = Random(3), set()
    for number in range(int(calls_per_s * seconds)):
        one = rng.randrange(0, count, 2)
        calls.add(asyncio.ensure_future(call(clients[one], rng.randrange(1, count, 2))))
        if number % 10 == 0:
            await asyncio.sleep(10 / calls_per_s)
    await asyncio.gather(*calls)
    print(json.dumps({"calls": len(calls), "took_s": sorted(took_s)}), flush=True)
    for task in tasks:
        task.cancel()


@contextmanager
def _process(*command: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def _node(bus: str, name: str, folder: str, tls: bool) -> Iterator[tuple[int, str]]:
    bind = "0.0.0.0:0" if tls else "127.0.0.1:0"
    options = ["--bind", bind, "--stun-bind", "off", "--nats", bus, "--node", name, "--state", f"{folder}/{name}"]
    with _process(sys.executable, "-m", "peergram.cli", "serve", *options, "--log-format", "json") as process:
        started = json.loads(_line(process))
        port = started["addresses"][0].rpartition(":")[2]
        pin = started["urls"][0].partition("#")[2]
        yield process.pid, f"wss://127.0.0.1:{port}/#{pin}" if tls else f"ws://127.0.0.1:{port}/"


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def measure(count: int, calls_per_s: float, seconds: float, tls: bool) -> None:
    """One run, printed."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    bus = f"nats://127.0.0.1:{port}"
    with (
        tempfile.TemporaryDirectory() as folder,
        _process("nats-server", "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", folder) as broker,
        _node(bus, "a", folder, tls) as (node, one_url),
        _node(bus, "b", folder, tls) as (_, other_url),
    ):
        arguments = ("--crowd", f"{one_url} {other_url}", "--clients", str(count), "--seconds", str(seconds))
        begin, broker_begin = Usage.of(node), Usage.of(broker.pid)
        with _process(sys.executable, "-m", "benches.fleet", *arguments, "--calls-per-second", str(calls_per_s)) as clients:
            assert _line(clients).strip() == "in"
            time.sleep(2)
            came_in = Usage.of(node)
            time.sleep(seconds)
            idle = Usage.of(node)
            assert clients.stdin is not None
            clients.stdin.write("call\n")
            clients.stdin.flush()
            told = json.loads(_line(clients))
            called, broker_end = Usage.of(node), Usage.of(broker.pid)
    here, took_s = count / 2, told["took_s"]
    print(f"{count} clients at two nodes, {'TLS' if tls else 'plain'}; of one node:")
    print(f"  login: {(came_in.cpu_s - begin.cpu_s) / here * 1e3:.2f} ms of CPU")
    idle_us = (idle.cpu_s - came_in.cpu_s) / here / seconds * 1e6
    print(f"  idle client: {(idle.rss_kib - begin.rss_kib) / here:.1f} KiB, {idle_us:.1f} us a second")
    # Each call is a signal that comes from a client and goes to the bus, and another one the other way round.
    print(f"  signal from a client to the bus, or from it: {(called.cpu_s - idle.cpu_s) / told['calls'] / 2 * 1e6:.0f} us of CPU")
    print(f"  {len(took_s)} of {told['calls']} answered, median {took_s[len(took_s) // 2] * 1e3:.2f} ms", end="")
    print(f", 99 % {took_s[len(took_s) * 99 // 100] * 1e3:.2f} ms")
    print(f"  broker: {broker_end.cpu_s - broker_begin.cpu_s:.2f} s of CPU, {broker_end.rss_kib / 1_024:.0f} MiB at the end")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clients", type=int, default=2_000)
    parser.add_argument("--calls-per-second", type=float, default=500)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--crowd", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.crowd:
        asyncio.run(crowd(options.crowd.split(), options.clients, options.calls_per_second, options.seconds))
    else:
        measure(options.clients, options.calls_per_second, options.seconds, options.tls)


if __name__ == "__main__":
    main()
