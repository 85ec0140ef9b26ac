"""The `peergram` command. Only this file can be imported without the extra packages that the commands need."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import NoReturn

_NEEDED = ("click", "rich")


def main() -> NoReturn:
    """Run the command line of this process and exit; the entry point of the installed script."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        pip = f"{sys.executable} -m pip install {' '.join(missing)}"
        sys.exit(f"peergram: the command line needs {' and '.join(missing)}, not installed here; install with: {pip}")
    try:
        from peergram.cli.run import run

        sys.exit(run())
    except KeyboardInterrupt:
        # While it was starting or ending; in between, run() knows better.
        sys.exit(130)
