"""Runs one target under atheris, started from recorded packets.

`python -m fuzz.fuzz_control -max_total_time=60` from the project folder. Found inputs go to a folder given as an argument, else
to a temporary one; crashes are written to the current folder. The targets themselves need no atheris: `tests/properties` runs
them under hypothesis.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

VECTORS = Path(__file__).resolve().parent.parent / "tests" / "vectors"


def load_vectors(name: str) -> Any:
    """A file of recorded traffic, such as `load_vectors("01-crypto")`."""
    return json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))


def run(fuzz_one: Callable[[bytes], None], seeds: Iterable[bytes] = ()) -> None:
    """Fuzz until libFuzzer's limits or a failure; never returns."""
    import atheris  # type: ignore[import-not-found, import-untyped, unused-ignore]

    with tempfile.TemporaryDirectory(prefix="seeds-") as folder:
        for index, seed in enumerate(seeds):
            (Path(folder) / f"seed-{index:04}").write_bytes(seed)
        folders = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
        found = [] if folders else [tempfile.mkdtemp(prefix="found-")]
        atheris.instrument_all()
        atheris.Setup([*sys.argv, *found, folder], fuzz_one)
        atheris.Fuzz()
