"""C4: the tool that turns decisions around, and what it finds in the modules that decide whom to let in."""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.threats.world import SOAK

ROOT = Path(__file__).resolve().parent.parent.parent
SCORE_MIN = 95.0


def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mutate_tool", ROOT / "tools" / "mutate.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def changes(source: str) -> list[str]:
    return [f"{mutant.was} -> {mutant.now}" for mutant in tool().distinct(source)]


def test_every_decision_is_turned_around_once() -> None:
    assert changes("if ready:\n    go()\n") == ["ready -> (not (ready))"]
    assert changes("if a == b:\n    go()\n") == ["a == b -> (not (a == b))"]
    assert changes("late = now > end\n") == ["now > end -> (now <= end)", "now > end -> (now >= end)"]
    assert changes("x = a and b or c\n") == ["a and b or c -> ((a and b) and (c))", "a and b -> ((a) or (b))"]
    assert changes("some = [each for each in many if each is not None]\n") == ["each is not None -> (not (each is not None))"]
    assert changes("x = 1 if not a <= b < c else 2\n") == [
        "not a <= b < c -> (not (not a <= b < c))",
        "a <= b < c -> (a > b < c)",
        "a <= b < c -> (a < b < c)",
        "a <= b < c -> (a <= b >= c)",
        "a <= b < c -> (a <= b <= c)",
    ]
    assert changes("go()\n") == []


def test_mutants_are_whole_modules_also_where_characters_take_several_bytes() -> None:
    for module in tool().TESTS:
        source = (ROOT / module).read_text()
        for mutant in tool().distinct("# °\n" + source):
            ast.parse(mutant.source)
            assert mutant.source != source


def test_every_module_and_test_that_the_tool_names_exists() -> None:
    for module, tests in tool().TESTS.items():
        assert (ROOT / module).exists()
        assert all((ROOT / test).exists() for test in tests)


@pytest.mark.skipif(not SOAK, reason="turns around each decision and runs the tests of it: tools/soak")
def test_nearly_every_wrong_decision_about_whom_to_let_in_is_noticed() -> None:
    command = [sys.executable, "tools/mutate.py", "--jobs", str(os.cpu_count() or 1), "--least", str(SCORE_MIN)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=3_600)
    assert done.returncode == 0, done.stdout + done.stderr
