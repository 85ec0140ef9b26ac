"""Runs contestants round after round, interleaved, and condenses the rounds to medians.

Every round visits every case and every contestant, so that a machine that grows busy or warm is busy or warm for all of them. A
contestant that fails in a case is out of that case; the others go on.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import IO, Any

from benches import contestants
from benches.cases import (
    CASES,
    FIRST_MESSAGE_TIMEOUT_S,
    IDLE_CONNECT_TIMEOUT_S,
    IDLE_SETTLE_S,
    MARGIN_S,
    ROLES,
    SILENCE_S,
    Held,
    Pinged,
    Received,
    Sent,
)
from benches.disturbance import Disturbance

_ROOT = Path(__file__).resolve().parents[1]
_GRACE_S = 40.0
"""A side that takes this much longer than it may is stuck; a starved machine needs a part of it to start two programs."""

OTHERS_SHARE_MAX = 0.08
"""A run during which others took more of the machine is a disturbed one."""


class BenchError(Exception):
    """A side failed, or nothing arrived; the text says which and why."""


@dataclass(frozen=True, slots=True)
class Run:
    """One contestant in one case, once."""

    figure: float
    others_share: float
    """What other programs took of the machine meanwhile, 0 to 1."""
    details: dict[str, float]
    """Further figures of this kind of case, by their name in the JSON file."""


@dataclass(slots=True)
class Figures:
    """All runs of one contestant in one case; `rounds` holds them in order."""

    unit: str
    seconds: float
    setting: str = ""
    rounds: list[Run] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Median, smallest and largest figure; the worst disturbance; medians of the rest."""
        figures = [run.figure for run in self.rounds]
        as_json: dict[str, Any] = {"median": median(figures), "min": min(figures), "max": max(figures), "unit": self.unit}
        as_json |= {name: median(run.details[name] for run in self.rounds) for name in self.rounds[0].details}
        as_json["others_share"] = max(run.others_share for run in self.rounds)
        as_json |= {"seconds": self.seconds, "rounds": len(figures)}
        return as_json | ({"setting": self.setting} if self.setting else {})


Results = dict[str, dict[str, Figures]]


@dataclass(slots=True)
class Outcome:
    """Everything measured, and a sentence for each contestant that left a case in failure."""

    results: Results
    failures: list[str]


def run_all(
    case_names: Iterable[str],
    names: Iterable[str],
    *,
    seconds: float,
    rounds: int,
    repeats: int = 0,
    tell: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Every contestant in every case it takes part in, `rounds` times; `tell` hears a line after each run.

    A run that others disturbed is made again, up to `repeats` times, and the least disturbed one counts.
    """
    names = list(names)
    outcome = Outcome({case: _entries(case, names, seconds) for case in case_names}, [])
    for case, of_case in outcome.results.items():
        for name, figures in list(of_case.items()):
            with _out_on_failure(outcome, case, name, tell):
                figures.setting = _best_setting(name, case, figures.seconds, tell)
    for number in range(1, rounds + 1):
        for case, of_case in outcome.results.items():
            if number > CASES[case].rounds_max:
                continue
            for name, figures in list(of_case.items()):
                with _out_on_failure(outcome, case, name, tell):
                    run = _run_undisturbed(name, case, figures, repeats)
                    figures.rounds.append(run)
                    others = f"  (others took {run.others_share:.0%})" if run.others_share > OTHERS_SHARE_MAX else ""
                    tell(f"round {number}/{rounds}  {case}  {name}  {run.figure:,.0f} {figures.unit}{others}")
    outcome.results = {case: of_case for case, of_case in outcome.results.items() if of_case}
    return outcome


def run_once(name: str, case_name: str, seconds: float, setting: str = "") -> Run:
    """One run, on fresh ports; raises `BenchError` if a side of it fails."""
    disturbance = Disturbance()
    figure, details = _RUNS[CASES[case_name].kind](name, case_name, seconds, setting)
    return Run(figure, disturbance.share(), details)


def _entries(case: str, names: list[str], seconds: float) -> dict[str, Figures]:
    taking_part = (name for name in names if contestants.reason_left_out(name, case) is None)
    window_s = max(seconds * CASES[case].window_factor, CASES[case].window_s_min)
    return {name: Figures(CASES[case].unit, window_s) for name in taking_part}


@contextmanager
def _out_on_failure(outcome: Outcome, case: str, name: str, tell: Callable[[str], None]) -> Iterator[None]:
    try:
        yield
    except BenchError as error:
        del outcome.results[case][name]
        outcome.failures.append(f"{name} is out of {case}: {error}")
        tell(outcome.failures[-1])


def _best_setting(name: str, case_name: str, seconds: float, tell: Callable[[str], None]) -> str:
    """The setting with the best figure in one run each; runs that fail are no candidates as long as one does not."""
    choice = contestants.settings(name, case_name)
    if len(choice) == 1:
        return choice[0]
    figures: dict[str, float] = {}
    complaint = BenchError()
    for setting in choice:
        try:
            figures[setting] = run_once(name, case_name, seconds, setting).figure
        except BenchError as error:
            complaint = error
        else:
            tell(f"trial  {case_name}  {name}  {setting}  {figures[setting]:,.0f} {CASES[case_name].unit}")
    if not figures:
        raise complaint
    best = min if CASES[case_name].is_lower_better else max
    return best(figures, key=lambda setting: figures[setting])


def _run_undisturbed(name: str, case_name: str, figures: Figures, repeats: int) -> Run:
    best = run_once(name, case_name, figures.seconds, figures.setting)
    for _ in range(repeats):
        if best.others_share <= OTHERS_SHARE_MAX:
            break
        again = run_once(name, case_name, figures.seconds, figures.setting)
        best = min(best, again, key=lambda run: run.others_share)
    return best


def _run_flow(name: str, case_name: str, seconds: float, setting: str) -> tuple[float, dict[str, float]]:
    with _Sides(name, case_name) as sides:
        port = _free_port()
        target = sides.start_link(port) if CASES[case_name].kind == "lossy_link" else port
        limit_s = seconds + MARGIN_S + SILENCE_S + FIRST_MESSAGE_TIMEOUT_S + _GRACE_S
        sides.start(0, port, seconds, setting)
        sides.start(1, target, seconds, setting)
        received = Received(**sides.account(0, limit_s))
        sent = Sent(**sides.account(1, limit_s))
    if not received.messages:
        raise BenchError(f"{name} in {case_name}: nothing arrived within the window")
    # On the slow link a sender ends with its buffer still full, and nobody waits until that has gone out.
    loss_share = max(0.0, 1 - received.messages_total / sent.messages) if sent.messages else 0.0
    loss = {} if CASES[case_name].kind == "lossy_link" else {"loss_share": loss_share}
    return CASES[case_name].rate(received.messages, received.elapsed_s), loss | {
        "sender_cpu_s": sent.cpu_s,
        "receiver_cpu_s": received.cpu_s,
        "sender_cpu_us_per_message": 1e6 * sent.cpu_s / max(1, sent.window_messages),
        "receiver_cpu_us_per_message": 1e6 * received.cpu_s / received.messages,
    }


def _run_round_trip(name: str, case_name: str, seconds: float, setting: str) -> tuple[float, dict[str, float]]:
    with _Sides(name, case_name) as sides:
        port = _free_port()
        sides.start(0, port, seconds, setting)
        sides.start(1, port, seconds, setting)
        pinged = Pinged(**sides.account(1, seconds + FIRST_MESSAGE_TIMEOUT_S + _GRACE_S))
    if not pinged.round_trips:
        raise BenchError(f"{name} in {case_name}: no answer came within the window")
    trips = pinged.round_trips + pinged.lost
    return pinged.p50_us, {
        "p99_us": pinged.p99_us,
        "loss_share": pinged.lost / trips,
        "round_trips": pinged.round_trips,
        "sender_cpu_us_per_message": 1e6 * pinged.cpu_s / trips,
    }


def _run_idle(name: str, case_name: str, seconds: float, setting: str) -> tuple[float, dict[str, float]]:
    details: dict[str, float] = {}
    counts = CASES[case_name].connections
    for connections in counts:
        with _Sides(name, case_name) as sides:
            port = _free_port()
            sides.start(0, port, seconds, setting, connections)
            sides.start(1, port, seconds, setting, connections)
            held = Held(**sides.account(0, seconds + IDLE_SETTLE_S + IDLE_CONNECT_TIMEOUT_S + _GRACE_S))
        details[f"memory_bytes_{connections}"] = held.memory_bytes
        details[f"cpu_share_{connections}"] = held.cpu_s / held.elapsed_s
    first, last = counts[0], counts[-1]
    growth_bytes = details[f"memory_bytes_{last}"] - details[f"memory_bytes_{first}"]
    return growth_bytes / (last - first), details


_RUNS: dict[str, Callable[[str, str, float, str], tuple[float, dict[str, float]]]] = {
    "flow": _run_flow,
    "lossy_link": _run_flow,
    "round_trip": _run_round_trip,
    "idle": _run_idle,
}


class _Sides:
    """The processes of one run; leaving the context ends them all."""

    def __init__(self, name: str, case_name: str) -> None:
        self._name = name
        self._case_name = case_name
        self._roles = ROLES[CASES[case_name].kind]
        self._processes: dict[str, subprocess.Popen[str]] = {}

    def __enter__(self) -> _Sides:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            process.kill()
            process.communicate()

    def start(self, side: int, port: int, seconds: float, setting: str, connections: int = 0) -> None:
        """Start the first (0) or the second (1) role."""
        role = self._roles[side]
        arguments = (role, self._name, self._case_name, str(port), str(seconds), setting, str(connections))
        self._processes[role] = _start("benches.worker", *arguments, interpreter=contestants.interpreter(self._name))

    def start_link(self, target: int) -> int:
        """Put the bad link before a port; gives the port at its other end."""
        link = self._processes["link"] = _start("benches.link", str(target))
        return int(_first_line(link.stdout) or 0)

    def account(self, side: int, limit_s: float) -> dict[str, Any]:
        """What a side reports at its end."""
        role = self._roles[side]
        what = f"the {role} of {self._name} in {self._case_name}"
        output = _output(self._processes[role], limit_s, what)
        account: dict[str, Any] = json.loads(output.splitlines()[-1])
        return account


def _start(module: str, *arguments: str, interpreter: str | None = None) -> subprocess.Popen[str]:
    if interpreter is None:
        command = [sys.executable, "-m", module, *arguments]
    else:
        # What is installed there must win over what lies here.
        run = f"import runpy, sys; sys.path.append({str(_ROOT)!r}); runpy.run_module({module!r}, run_name='__main__')"
        command = [interpreter, "-I", "-c", run, *arguments]
    return subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))


def _first_line(stream: IO[str] | None) -> str:
    assert stream
    return stream.readline()


def _output(process: subprocess.Popen[str], limit_s: float, what: str) -> str:
    try:
        output, complaints = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        raise BenchError(f"{what} did not end within {limit_s:.0f} s") from None
    if process.returncode or not output.strip():
        raise BenchError(f"{what} failed: {' '.join(complaints.strip().splitlines()[-1:]) or process.returncode}")
    return output


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
