"""Imports point one way: the level table of the design as data, held against the syntax tree of every module.

A file imports lower levels and its own folder; the notes of the table narrow that. Imports inside functions and under
TYPE_CHECKING count like all others.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "peergram"

LEVELS: dict[str, int] = {
    "identity": 0,
    "address": 0,
    "config": 0,
    "errors": 0,
    "events": 0,
    "io_requests": 0,
    "timing": 0,
    "wire": 1,
    "crypto": 2,
    "sessions": 3,
    "connection": 3,
    "routes": 3,
    "signaling": 3,
    "endpoint": 4,
    "drivers": 5,
    "servers": 5,
    "sim": 5,
    "blobs": 5,
    "messages": 6,
    "aio": 6,
    "": 6,
    "cli": 7,
    "adapters": 7,
    "__main__": 7,
}
"""By folder or file under `peergram`; "" is the package itself, which only gathers the public names."""
BASE = {name for name, level in LEVELS.items() if level == 0}
ONLY: dict[str, set[str]] = {
    "adapters": BASE | {"", "messages", "aio", "adapters"},
    "servers": BASE | {"servers", "drivers", "signaling", "routes", "wire", "crypto"},
    "": BASE | {"messages", "aio", "blobs"},
}
"""Where the table's notes allow less than the levels would."""
SAME_LEVEL: set[tuple[str, str]] = {("servers", "drivers"), ("", "messages"), ("", "aio"), ("cli", "adapters")}
"""Neighbours that may be imported all the same."""
ONLY_BY: dict[str, set[str]] = {"sim": {"cli", "sim"}, "cli": {"cli", "__main__"}}
"""Parts that nobody else may import."""

CORE = {name for name, level in LEVELS.items() if level <= 4}
CORE_FORBIDDEN = {
    *("time", "random", "secrets", "os", "asyncio", "socket", "select", "selectors", "threading", "datetime"),
    # What the network does to the core must never write a line.
    "logging",
}
CORE_ALLOWED: set[tuple[str, str]] = {("peergram.crypto.tls", "datetime")}
"""X.509 certificates hold calendar dates; which ones, the caller says."""
BOUND: dict[str, str] = {"cryptography": "crypto", "google": "wire"}
"""Libraries that only one folder may import."""
BASE_ALLOWED_OUTSIDE = {
    *(
        "cryptography",
        "google",
        "websockets",
        "nats",
        "ifaddr",
        "rich",
        "click",
        "segno",
        "textual",
        "prometheus_client",
    ),
    *(),
}


def part_of(module: str) -> str:
    """`peergram.wire.cursor` is part of `wire`."""
    return module.split(".")[1] if "." in module else ""


def modules() -> list[tuple[str, Path]]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        names = list(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        if names[-1] == "__init__":
            names.pop()
        found.append((".".join(names), path))
    return found


MODULES = modules()
NAMES = {name for name, _ in MODULES}


def imports_of(name: str, path: Path) -> Iterator[tuple[str, int]]:
    """Every module a file imports, with the line."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                parts = package.split(".")
                base = ".".join(parts[: len(parts) - node.level + 1])
                source = f"{base}.{source}" if source else base
            for alias in node.names:
                full = f"{source}.{alias.name}"
                yield (full if full in NAMES else source), node.lineno


def faults_of(name: str, imported: str) -> str | None:
    """What is wrong with module `name` importing `imported`; None if nothing is."""
    part = part_of(name)
    root = imported.split(".")[0]
    if root != "peergram":
        if part in CORE and root in CORE_FORBIDDEN and (name, root) not in CORE_ALLOWED:
            return f"the core does without {root}"
        if root in BOUND and BOUND[root] != part:
            return f"only {BOUND[root]} imports {root}"
        if LEVELS[part] == 0 and root in BASE_ALLOWED_OUTSIDE:
            return "the base needs the standard library only"
        return None
    other = part_of(imported)
    if other == part:
        return None
    if other in ONLY_BY and part not in ONLY_BY[other]:
        return f"{other} is for {', '.join(sorted(ONLY_BY[other]))} only"
    if part in ONLY and other not in ONLY[part]:
        return f"{part or 'peergram'} may not use {other or 'the package'}"
    is_lower = LEVELS[other] < LEVELS[part] or LEVELS[other] == LEVELS[part] == 0
    if not is_lower and (part, other) not in SAME_LEVEL:
        return f"{part} (level {LEVELS[part]}) may not use {other or 'the package'} (level {LEVELS[other]})"
    return None


def test_every_part_has_a_level() -> None:
    assert {part_of(name) for name, _ in MODULES} <= set(LEVELS)


@pytest.mark.parametrize(("name", "path"), MODULES, ids=[name for name, _ in MODULES])
def test_imports_point_down(name: str, path: Path) -> None:
    faults = [
        f"line {line}: {imported}: {fault}"
        for imported, line in imports_of(name, path)
        if (fault := faults_of(name, imported)) is not None
    ]
    assert not faults, f"{name}: " + "; ".join(faults)


def test_modules_import_each_other_in_no_circle() -> None:
    """At run time: what stands under TYPE_CHECKING may point back inside a folder."""
    graph = {name: {other for other in runtime_imports(name, path) if other in NAMES} for name, path in MODULES}
    done: set[str] = set()
    while free := {name for name, others in graph.items() if name not in done and others <= done}:
        done |= free
    assert set(graph) - done == set()


def runtime_imports(name: str, path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            skipped |= {child.lineno for statement in node.body for child in ast.walk(statement) if hasattr(child, "lineno")}
    return {imported for imported, line in imports_of(name, path) if line not in skipped} - {name}


@pytest.mark.parametrize(
    ("name", "imported"),
    [
        ("peergram.identity", "peergram.wire.varint"),
        ("peergram.wire.frames", "peergram.crypto.keys"),
        ("peergram.sessions.session", "peergram.connection.connection"),
        ("peergram.connection.connection", "peergram.endpoint.peer"),
        ("peergram.endpoint.endpoint", "time"),
        ("peergram.endpoint.endpoint", "peergram.drivers.pump"),
        ("peergram.endpoint.endpoint", "cryptography.x509"),
        ("peergram.crypto.keys", "google.protobuf"),
        ("peergram.events", "google.protobuf"),
        ("peergram.messages", "peergram.sim.world"),
        ("peergram.adapters.socket_shim", "peergram.endpoint.endpoint"),
        ("peergram.adapters.run_program", "peergram.cli.run_program"),
        ("peergram.drivers.pump", "peergram"),
        ("peergram.servers.run", "peergram.endpoint.endpoint"),
        ("peergram.signaling.delivery", "peergram.routes.candidates"),
        ("peergram.signaling.line_protocol", "peergram.drivers.signaling.line_client"),
        ("peergram.signaling.line_protocol", "socket"),
        ("peergram.drivers.signaling.line_client", "peergram.servers.line_server"),
    ],
)
def test_the_check_would_notice(name: str, imported: str) -> None:
    assert faults_of(name, imported) is not None


@pytest.mark.parametrize(
    ("name", "imported"),
    [
        ("peergram.endpoint.peer", "peergram.endpoint.inbox"),
        ("peergram.connection.flow", "peergram.wire.frames"),
        ("peergram.drivers.pump", "socket"),
        ("peergram.servers.run", "peergram.drivers.pump"),
        ("peergram.servers.line_server", "peergram.signaling.line_protocol"),
        ("peergram.drivers.signaling.line_client", "peergram.signaling.line_protocol"),
        ("peergram.drivers.signaling.line_client", "peergram.drivers.socket_watch"),
        ("peergram.signaling.delivery", "peergram.wire.signals"),
        ("peergram.endpoint.endpoint", "peergram.signaling.delivery"),
        ("peergram.cli", "peergram.sim.world"),
        ("peergram.config", "peergram.errors"),
    ],
)
def test_the_check_allows_what_is_meant(name: str, imported: str) -> None:
    assert faults_of(name, imported) is None
