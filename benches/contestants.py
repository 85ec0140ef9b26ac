"""Who takes part: modules of this package, by name.

A contestant is a module with

* `NAME: str` and `DESCRIPTION: str` (what it does and what it does not do, for the report);
* `missing() -> str | None`: why it cannot run here, as a sentence, or None;
* `sender(task) -> Sent` and `receiver(task) -> Received` for flows, `pinger(task) -> Pinged` and `echo(task)` for round trips,
  `holder(task) -> Held` and `crowd(task)` for idle connections. Each is called in a process of its own; the two may know each
  other by the UDP port on 127.0.0.1 alone. The one of `cases.ROLES` that stands first binds the port, the other one finds out by
  itself when it is there. `echo` and `crowd` need not return; they are ended from outside;
* where it cannot run a case, `LEFT_OUT: dict[str, str]`, by the case's kind, with the reason as a sentence;
* where it runs in a Python of its own, `interpreter() -> str`, its path; what is installed there comes before this folder;
* where it has settings to choose from, `settings(case) -> tuple[str, ...]`: each is tried once and the best one then runs.

A sender always has a message ready; it may hold no more of the reliable ones in its buffers than the contestant's own flow
control asks. It sends for `seconds` + `MARGIN_S` (`cases.SendClock`); the receiver counts with `cases.ReceiveClock`. A contestant
whose library is not installed is skipped with its sentence.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from benches.cases import CASES, ROLES

MODULES: dict[str, str] = {
    "floor": "benches.floor",
    "pyenet": "benches.pyenet_contestant",
    "aioquic": "benches.aioquic_contestant",
    "aiortc": "benches.aiortc_contestant",
    "reference": "benches.reference_contestant",
    "reference_default": "benches.reference_default_contestant",
    "peergram": "benches.peergram_contestant",
    "peergram_compiled": "benches.peergram_compiled_contestant",
}
"""Contestants in the order in which they run and are printed; ratios are to the first."""


def load(name: str) -> ModuleType | str:
    """The contestant, or a sentence that says why it does not take part."""
    try:
        contestant = importlib.import_module(MODULES[name])
    except ModuleNotFoundError as error:
        return f"{name} is skipped: there is no module {error.name}"
    reason = contestant.missing()
    return f"{name} is skipped: {reason}" if reason else contestant


def reason_left_out(name: str, case_name: str) -> str | None:
    """Why a contestant that is here does not run this case, as a sentence; None if it does."""
    case, contestant = CASES[case_name], importlib.import_module(MODULES[name])
    if case.contestants is not None and name not in case.contestants:
        return f"{name} is not in {case_name}: that case is between {', '.join(case.contestants)}"
    reason = getattr(contestant, "LEFT_OUT", {}).get(case.kind)
    if reason:
        return f"{name} is not in {case_name}: {reason}"
    assert all(hasattr(contestant, role) for role in ROLES[case.kind]), f"{name} neither runs {case_name} nor says why"
    return None


def settings(name: str, case_name: str) -> tuple[str, ...]:
    """The settings to choose from, at least one; `("",)` for a contestant that has none."""
    choose = getattr(importlib.import_module(MODULES[name]), "settings", None)
    return tuple(choose(CASES[case_name])) if choose else ("",)


def interpreter(name: str) -> str | None:
    """The Python of a contestant that has one of its own."""
    choose = getattr(importlib.import_module(MODULES[name]), "interpreter", None)
    return str(choose()) if choose else None


def describe(name: str) -> str:
    """What the report says about a contestant."""
    return str(importlib.import_module(MODULES[name]).DESCRIPTION)
