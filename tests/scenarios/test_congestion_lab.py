"""The figures of congestion control on real sockets: a link of 20 Mbit/s and 50 ms in a lab of network namespaces.

Only with PEERGRAM_SOAK=1, since a minute passes for each; needs root and the `netlab` module, see `tests.threats.test_lab`.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from peergram.sim.bottleneck import jain
from tests.threats.test_lab import LAB_FOLDER, ROOT, SOAK

RATE = 2_500_000
SECONDS = 30
WARM_S = 8
WORDS = "sink@inet one@inet two@inet three@inet four@inet"

pytestmark = pytest.mark.skipif(not SOAK, reason="a minute for each figure: set PEERGRAM_SOAK=1")


@pytest.fixture(scope="module")
def lab() -> Iterator[Any]:
    if not (LAB_FOLDER / "netlab.py").is_file() or sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("needs Linux, root and the netlab module")
    sys.path.insert(0, str(LAB_FOLDER))
    try:
        netlab = importlib.import_module("netlab")
    finally:
        sys.path.remove(str(LAB_FOLDER))
    with netlab.Lab.create(WORDS, f"c{os.getpid() % 10_000_000}", v6=False) as running:
        yield running


class Flow:
    """One of the programs of `lab_flow` on a host."""

    def __init__(self, lab: Any, stack: ExitStack, host: str, *words: str) -> None:
        command = [sys.executable, "-m", "tests.scenarios.lab_flow", *words]
        self._process: subprocess.Popen[bytes] = lab.popen(host, command, cwd=ROOT, stdout=subprocess.PIPE)
        stack.enter_context(self._process)
        stack.callback(self._process.kill)

    def answer(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())


def run(lab: Any, senders: list[str], *, queue_ms: int, loss: float = 0.0, tcp: bool = False) -> tuple[list[float], list[int]]:
    """Rates in bytes per second (TCP's last) and the round trips that the first sender saw."""
    lab.impair("sink", "down", delay=25, rate=RATE * 8 // 1_000, queue=queue_ms, loss=loss)
    lab.impair("sink", "up", delay=25)
    address, seconds = lab.addr("sink"), str(SECONDS)
    with ExitStack() as stack:
        receivers = [Flow(lab, stack, "sink", "receive", f"{address}:7000", seconds)]
        if tcp:
            receivers.append(Flow(lab, stack, "sink", "tcp-receive", f"{address}:8000", seconds))
        for receiver in receivers:
            receiver.answer()
        running = [Flow(lab, stack, name, "send", f"{address}:7000", str(SECONDS - 1), name) for name in senders]
        if tcp:
            Flow(lab, stack, "four", "tcp-send", f"{address}:8000", str(SECONDS - 1))
        seen = [process.answer() for process in running]
        taken = {name: counts for receiver in receivers for name, counts in receiver.answer().items()}
    rates = [sum(counts[WARM_S : SECONDS - 2]) / (SECONDS - 2 - WARM_S) for counts in taken.values()]
    shares = [round(rate / RATE, 3) for rate in rates]
    pings = seen[0][len(seen[0]) * WARM_S // SECONDS :]
    median = sorted(pings)[len(pings) // 2]
    print(f"\n{senders}{' and TCP' if tcp else ''}, queue {queue_ms} ms, loss {loss} %: {shares}, median ping {median} ms")
    return rates, pings


def test_a_lossy_link_is_filled(lab: Any) -> None:
    rates, _ = run(lab, ["one"], queue_ms=50, loss=1)
    assert sum(rates) >= 0.9 * RATE


def test_the_queue_of_a_deep_buffer_stays_short(lab: Any) -> None:
    rates, pings = run(lab, ["one"], queue_ms=500)
    assert sorted(pings)[len(pings) // 2] - 50 < 50
    assert sum(rates) >= 0.9 * RATE


def test_four_flows_share_fairly(lab: Any) -> None:
    rates, _ = run(lab, ["one", "two", "three", "four"], queue_ms=200)
    assert len(rates) == 4
    assert jain(rates) >= 0.95
    assert sum(rates) >= 0.9 * RATE


@pytest.mark.parametrize("queue_ms", [50, 100])
def test_neither_we_nor_the_kernels_cubic_starve(lab: Any, queue_ms: int) -> None:
    rates, _ = run(lab, ["one"], queue_ms=queue_ms, tcp=True)
    assert len(rates) == 2
    assert min(rates) >= 0.25 * sum(rates)
