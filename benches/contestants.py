"""Who takes part: modules of this package, by name.

A contestant is a module with

* `NAME: str` and `DESCRIPTION: str` (what it does and what it does not do, for the report);
* `missing() -> str | None`: why it cannot run here, as a sentence, or None;
* `sender(case, port, seconds) -> Sent` and `receiver(case, port, seconds) -> Received`, each called in a process of its own,
  which may know each other by the UDP port on 127.0.0.1 alone. The receiver binds the port. The sender finds out by itself when
  it is there, and then sends for `seconds` + `MARGIN_S` (`cases.SendClock`); the receiver counts with `cases.ReceiveClock`.

A sender always has a message ready; it may hold no more of the reliable ones in its buffers than the contestant's own flow
control asks. A module that is not there yet, or whose library is not installed, is skipped with its sentence.
"""

from __future__ import annotations

import importlib
from typing import Protocol, cast

from benches.cases import Case, Received, Sent

MODULES: dict[str, str] = {
    "floor": "benches.floor",
    "pyenet": "benches.pyenet_contestant",
    "peergram": "benches.peergram_contestant",
}
"""Contestants in the order in which they run and are printed; ratios are to the first."""


class Contestant(Protocol):
    """The shape of a contestant's module."""

    NAME: str
    DESCRIPTION: str

    def missing(self) -> str | None:
        """Why it cannot run here."""

    def sender(self, case: Case, port: int, seconds: float) -> Sent:
        """Send to 127.0.0.1 at this port."""

    def receiver(self, case: Case, port: int, seconds: float) -> Received:
        """Receive on 127.0.0.1 at this port."""


def load(name: str) -> Contestant | str:
    """The contestant, or a sentence that says why it does not take part."""
    try:
        contestant = cast(Contestant, importlib.import_module(MODULES[name]))
    except ModuleNotFoundError as error:
        return f"{name} is skipped: there is no module {error.name}"
    reason = contestant.missing()
    return f"{name} is skipped: {reason}" if reason else contestant
