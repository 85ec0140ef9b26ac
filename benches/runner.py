"""Runs contestants round after round, interleaved, and condenses the rounds to medians.

Every round visits every case and every contestant, so that a machine that grows busy or warm is busy or warm for all of them.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from benches.cases import CASES, FIRST_MESSAGE_TIMEOUT_S, MARGIN_S, SILENCE_S, Received, Sent
from benches.disturbance import Disturbance

_ROOT = Path(__file__).resolve().parents[1]
_GRACE_S = 10.0

OTHERS_SHARE_MAX = 0.08
"""A run during which others took more of the machine is a disturbed one."""


class BenchError(Exception):
    """A side failed, or nothing arrived; the text says which and why."""


@dataclass(frozen=True, slots=True)
class Run:
    """One contestant in one case, once."""

    figure: float
    loss_share: float
    sender_cpu_s: float
    receiver_cpu_s: float
    others_share: float
    """What other programs took of the machine meanwhile, 0 to 1."""


@dataclass(slots=True)
class Figures:
    """All runs of one contestant in one case; `rounds` holds them in order."""

    unit: str
    seconds: float
    rounds: list[Run] = field(default_factory=list)

    def as_json(self) -> dict[str, float | str]:
        """Median, smallest and largest figure; the worst disturbance; medians of the rest."""
        figures = [run.figure for run in self.rounds]
        return {
            "median": median(figures),
            "min": min(figures),
            "max": max(figures),
            "unit": self.unit,
            "loss_share": median(run.loss_share for run in self.rounds),
            "sender_cpu_s": median(run.sender_cpu_s for run in self.rounds),
            "receiver_cpu_s": median(run.receiver_cpu_s for run in self.rounds),
            "others_share": max(run.others_share for run in self.rounds),
            "seconds": self.seconds,
            "rounds": len(figures),
        }


Results = dict[str, dict[str, Figures]]


def run_all(
    case_names: Iterable[str],
    names: Iterable[str],
    *,
    seconds: float,
    rounds: int,
    repeats: int = 0,
    tell: Callable[[str], None] = lambda _: None,
) -> Results:
    """Every contestant in every case, `rounds` times; `tell` hears a line after each run.

    A run that others disturbed is made again, up to `repeats` times, and the least disturbed one counts.
    """
    names = list(names)
    results: Results = {case: {name: Figures(CASES[case].unit, seconds) for name in names} for case in case_names}
    for number in range(1, rounds + 1):
        for case, of_case in results.items():
            for name, figures in of_case.items():
                run = _run_undisturbed(name, case, seconds, repeats)
                figures.rounds.append(run)
                others = f"  (others took {run.others_share:.0%})" if run.others_share > OTHERS_SHARE_MAX else ""
                tell(f"round {number}/{rounds}  {case}  {name}  {run.figure:,.0f} {figures.unit}{others}")
    return results


def run_once(name: str, case_name: str, seconds: float) -> Run:
    """One run: two processes and a fresh port; raises `BenchError` if one of them fails."""
    disturbance = Disturbance()
    port = _free_port()
    receiver, sender = (_start(role, name, case_name, port, seconds) for role in ("receiver", "sender"))
    limit_s = seconds + MARGIN_S + SILENCE_S + FIRST_MESSAGE_TIMEOUT_S + _GRACE_S
    try:
        received = Received(**json.loads(_output(receiver, limit_s, f"the receiver of {name} in {case_name}")))
        sent = Sent(**json.loads(_output(sender, limit_s, f"the sender of {name} in {case_name}")))
    finally:
        for process in (receiver, sender):
            process.kill()
            process.communicate()
    if not received.messages:
        raise BenchError(f"{name} in {case_name}: nothing arrived within the window")
    return Run(
        figure=CASES[case_name].rate(received.messages, received.elapsed_s),
        loss_share=max(0.0, 1 - received.messages_total / sent.messages) if sent.messages else 0.0,
        sender_cpu_s=sent.cpu_s,
        receiver_cpu_s=received.cpu_s,
        others_share=disturbance.share(),
    )


def _run_undisturbed(name: str, case_name: str, seconds: float, repeats: int) -> Run:
    best = run_once(name, case_name, seconds)
    for _ in range(repeats):
        if best.others_share <= OTHERS_SHARE_MAX:
            break
        best = min(best, run_once(name, case_name, seconds), key=lambda run: run.others_share)
    return best


def _start(role: str, name: str, case_name: str, port: int, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benches.worker", role, name, case_name, str(port), str(seconds)]
    return subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))


def _output(process: subprocess.Popen[str], limit_s: float, what: str) -> str:
    try:
        output, complaints = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        raise BenchError(f"{what} did not end within {limit_s:.0f} s") from None
    if process.returncode:
        raise BenchError(f"{what} failed: {complaints.strip().splitlines()[-1:] or process.returncode}")
    return output


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
