#!/usr/bin/env python3
"""Whether tests would notice wrong decisions: tools/mutate.py [--jobs N] [FILE ...]

Every condition of a module is turned around, one at a time: tests of `if`, `while` and conditional expressions are negated,
comparisons get their opposite and the neighbour that differs at the boundary, `and` and `or` change places. For each such mutant
the module's tests run in a copy of the project; a mutant under which they all pass has survived, and a test is missing. Without
FILE: the modules that decide whom to let in.
"""

from __future__ import annotations

import argparse
import ast
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

ROOT = Path(__file__).resolve().parent.parent
TESTS: dict[str, list[str]] = {
    "peergram/crypto/trust.py": ["tests/crypto/test_trust.py", "tests/connection/test_peer_checks.py"],
    "peergram/crypto/policy.py": [
        "tests/crypto/test_policy.py",
        "tests/connection/test_peer_checks.py",
        "tests/endpoint/test_trust.py",
    ],
    "peergram/connection/peer_checks.py": [
        "tests/connection/test_peer_checks.py",
        "tests/endpoint/test_trust.py",
        "tests/threats/test_tampered_handshakes.py",
    ],
}
"""The tests of each module, those that find most of it first."""
PATIENCE_S = 300
"""A mutant whose tests take longer hangs, which is noticed as well."""

SIGNS: dict[type[ast.cmpop], str] = {
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.In: "in",
    ast.NotIn: "not in",
    ast.Is: "is",
    ast.IsNot: "is not",
}
OPPOSITES: dict[type[ast.cmpop], tuple[str, ...]] = {
    ast.Eq: ("!=",),
    ast.NotEq: ("==",),
    ast.Lt: (">=", "<="),
    ast.LtE: (">", "<"),
    ast.Gt: ("<=", ">="),
    ast.GtE: ("<", ">"),
    ast.In: ("not in",),
    ast.NotIn: ("in",),
    ast.Is: ("is not",),
    ast.IsNot: ("is",),
}
"""First the negation, then what differs at the boundary only."""


@dataclass(frozen=True)
class Mutant:
    """A module with one decision turned around."""

    line: int
    was: str
    now: str
    source: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.was}  ->  {self.now}"


def mutants(source: str) -> Iterator[Mutant]:
    """All of them, in the order of the module."""
    starts = [0]
    for line in source.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    data = source.encode()

    def span(node: ast.expr) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset

    def replaced(node: ast.expr, now: str) -> Mutant:
        begin, end = span(node)
        changed = (data[:begin] + now.encode() + data[end:]).decode()
        was = data[begin:end].decode()
        return Mutant(node.lineno, " ".join(was.split()), " ".join(now.split()), changed)

    def text(node: ast.expr) -> str:
        begin, end = span(node)
        return data[begin:end].decode()

    for node in ast.walk(ast.parse(source)):
        tests: list[ast.expr] = []
        if isinstance(node, ast.If | ast.While | ast.IfExp):
            tests.append(node.test)
        elif isinstance(node, ast.comprehension):
            tests += node.ifs
        for test in tests:
            yield replaced(test, f"(not ({text(test)}))")
        if isinstance(node, ast.Compare):
            left, operands = node.left, node.comparators
            for index, operator in enumerate(node.ops):
                for other in OPPOSITES[type(operator)]:
                    signs = [other if at == index else SIGNS[type(each)] for at, each in enumerate(node.ops)]
                    parts = [text(left)]
                    for sign, operand in zip(signs, operands, strict=True):
                        parts += [sign, text(operand)]
                    yield replaced(node, "(" + " ".join(parts) + ")")
        if isinstance(node, ast.BoolOp):
            other = " or " if isinstance(node.op, ast.And) else " and "
            yield replaced(node, "(" + other.join(f"({text(value)})" for value in node.values) + ")")


def distinct(source: str) -> list[Mutant]:
    """Each once: negating the test of an `if` and turning around its only comparison is the same."""
    found: dict[str, Mutant] = {}
    for mutant in mutants(source):
        found.setdefault(ast.dump(_plain(ast.parse(mutant.source))), mutant)
    return sorted(found.values(), key=lambda mutant: mutant.line)


class _Unnegated(ast.NodeTransformer):
    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        inner = node.operand
        if isinstance(node.op, ast.Not) and isinstance(inner, ast.Compare) and len(inner.ops) == 1:
            opposite = ast.parse(f"a {OPPOSITES[type(inner.ops[0])][0]} b", mode="eval").body
            assert isinstance(opposite, ast.Compare)
            return ast.Compare(inner.left, opposite.ops, inner.comparators)
        return node


def _plain(tree: ast.Module) -> ast.AST:
    return _Unnegated().visit(tree)  # type: ignore[no-any-return]


def copy_of_project(place: Path) -> Path:
    """What the tests need, in a folder of its own."""
    for name in ("peergram", "tests", "tools"):
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    shutil.copy(ROOT / "pyproject.toml", place / "pyproject.toml")
    return place


def survives(mutant: Mutant, module: str, tests: list[str], place: Path) -> bool:
    """Whether all tests pass although the decision is wrong."""
    original = (place / module).read_text()
    (place / module).write_text(mutant.source)
    environment = os.environ | {"PYTHONPATH": str(place), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("PEERGRAM_SOAK", None)
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    try:
        finished = subprocess.run(
            command, cwd=place, env=environment, capture_output=True, check=False, timeout=PATIENCE_S
        ).returncode
    except subprocess.TimeoutExpired:
        return False
    finally:
        (place / module).write_text(original)
    return finished == 0


def survivors_of(module: str, tests: list[str], jobs: int) -> tuple[int, list[Mutant]]:
    """How many mutants a module has, and those that no test noticed."""
    every = distinct((ROOT / module).read_text())
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        places: SimpleQueue[Path] = SimpleQueue()
        for number in range(jobs):
            places.put(copy_of_project(Path(folder) / str(number)))

        def judge(mutant: Mutant) -> bool:
            place = places.get()
            try:
                return survives(mutant, module, tests, place)
            finally:
                places.put(place)

        untouched = Mutant(0, "", "", (ROOT / module).read_text())
        if not judge(untouched):
            raise SystemExit(f"{module}: its tests fail without any change")
        with ThreadPoolExecutor(jobs) as pool:
            return len(every), [mutant for mutant, alive in zip(every, pool.map(judge, every), strict=True) if alive]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="*", help="modules with an entry in TESTS; all of those if none is named")
    parser.add_argument("--jobs", type=int, default=1, help="how many at once")
    parser.add_argument("--least", type=float, default=95.0, help="percent that must be noticed")
    options = parser.parse_args()
    total = missed = 0
    for module in options.files or TESTS:
        count, survivors = survivors_of(module, TESTS[module], options.jobs)
        total, missed = total + count, missed + len(survivors)
        print(f"{module}: {count - len(survivors)} of {count} noticed", flush=True)
        for mutant in survivors:
            print(f"  survived: {module} {mutant}", flush=True)
    score = 100 * (total - missed) / total if total else 100.0
    print(f"{total - missed} of {total} wrong decisions are noticed: {score:.1f} %")
    return 0 if score >= options.least else 1


if __name__ == "__main__":
    sys.exit(main())
