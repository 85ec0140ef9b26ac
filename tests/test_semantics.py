"""docs/semantics.md is complete: every row has a test in virtual time and one over sockets, and all of them exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
ROWS = [
    [cell.strip() for cell in line.strip("|\n").split("|")]
    for line in (TESTS.parent / "docs" / "semantics.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith(("| row", "| ---"))
]
ONLY_OVER_SOCKETS = {"threads"}
"""Nothing in virtual time has threads."""
REAL = ("test_messages.py", "test_messages_semantics.py", "test_messages_receipts.py")


def places_in(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_every_row_has_a_name_of_its_own() -> None:
    names = [row[0] for row in ROWS]
    assert len(names) == len(set(names)) == 43


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_a_row_is_shown_in_virtual_time_and_over_sockets(row: list[str]) -> None:
    name, question, answer, simulated, real = row
    assert question
    assert answer
    assert bool(places_in(simulated)) == (name not in ONLY_OVER_SOCKETS)
    assert places_in(real)
    assert all(place.startswith("endpoint/") for place in places_in(simulated))
    assert all(place.split("::")[0] in REAL for place in places_in(real))
    for place in places_in(simulated) + places_in(real):
        path, _, test = place.partition("::")
        functions = {node.name for node in ast.parse((TESTS / path).read_text()).body if isinstance(node, ast.FunctionDef)}
        assert test in functions, f"{place} does not exist"
