"""The compiled build of this library, driven as `peergram_contestant` drives the pure one.

It lives in an environment of its own, whose interpreter `PEERGRAM_COMPILED_PYTHON` names: for example one made with
`python -m venv compiled && PEERGRAM_COMPILE=1 compiled/bin/pip install .`
"""

from __future__ import annotations

import os
import subprocess

import peergram
from benches.peergram_contestant import crowd, echo, holder, pinger, receiver, sender

__all__ = ["DESCRIPTION", "NAME", "crowd", "echo", "holder", "interpreter", "missing", "pinger", "receiver", "sender"]

NAME = "peergram_compiled"
DESCRIPTION = "the same source, compiled by mypyc (docs/performance.md), otherwise as peergram"
INTERPRETER_VARIABLE = "PEERGRAM_COMPILED_PYTHON"


def interpreter() -> str:
    """The Python that runs both sides."""
    return os.environ[INTERPRETER_VARIABLE]


def missing() -> str | None:
    """It needs an environment with the compiled build."""
    if peergram.COMPILED:
        return None
    python = os.environ.get(INTERPRETER_VARIABLE)
    if not python:
        return f"{INTERPRETER_VARIABLE} does not name a Python with the compiled build"
    asked = subprocess.run(
        [python, "-I", "-c", "import peergram, sys; sys.exit(not peergram.COMPILED)"], capture_output=True, check=False
    )
    return None if asked.returncode == 0 else f"{python} has no compiled build of peergram"
