"""Results for people: tables for the terminal, and the page `docs/benchmarks.md` with its picture."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benches import plot
from benches.cases import CASES, Case
from benches.contestants import MODULES, describe
from benches.runner import Figures, Results

PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"

_WIDTH_MIN = 120
_FLOOR = next(iter(MODULES))

_Values = dict[str, Any]
"""What `Figures.as_json` gives."""
_Column = tuple[str, Callable[[_Values], str]]


def headings(case_name: str) -> tuple[str, ...]:
    """Of the table of this case."""
    return ("contestant", *(heading for heading, _ in _columns(CASES[case_name], None)))


def table_rows(case_name: str, of_case: dict[str, Figures]) -> list[tuple[str, ...]]:
    """One row of texts per contestant, in the order of the headings."""
    floor = of_case[_FLOOR].as_json()["median"] if _FLOOR in of_case else None
    columns = _columns(CASES[case_name], floor)
    return [(name, *(text(figures.as_json()) for _, text in columns)) for name, figures in of_case.items()]


def print_tables(results: Results) -> None:
    """To the terminal: with rich where it is installed, else in plain columns."""
    for case, of_case in results.items():
        title = f"{case}: {CASES[case].description} ({_unit(CASES[case])})"
        rows = [headings(case), *table_rows(case, of_case)]
        try:
            _print_rich(title, rows)
        except ModuleNotFoundError:
            _print_plain(title, rows)


def write_page(results: Results, remarks: Iterable[str], path: Path = PAGE) -> None:
    """The page with tables, picture, machine and method; it replaces the one before.

    `remarks` are sentences about contestants that did not take part somewhere.
    """
    parts = [_INTRODUCTION]
    if plot.missing() is None:
        plot.draw(results, path.with_suffix(".svg"))
        parts.append(f"![Medians of all cases, with their range]({path.with_suffix('.svg').name})")
    parts += [_case_section(case, of_case) for case, of_case in results.items()]
    parts.append(_contestants_section(results, remarks))
    parts.append("## The machine\n\n" + "\n".join(f"* {line}" for line in machine()))
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def machine() -> list[str]:
    """What the figures were measured on, one fact a line."""
    return [
        f"processor: {_cpu_model()}, {os.cpu_count()} cores",
        f"kernel: {platform.system()} {platform.release()}, {platform.machine()}",
        f"Python: {platform.python_implementation()} {platform.python_version()}",
    ]


_INTRODUCTION = """# Benchmarks

Written by `python -m benches --write`; run it on your own machine, since only ratios carry over from one to another. Each
contestant is two processes that talk UDP over the loopback interface: a sender and a receiver, somebody who pings and an echo, or
one process that holds idle connections and one that made them. All contestants run interleaved in one go, round after round; a
run during which other programs were busy is made again, and the least disturbed one counts. The receiver counts what arrives
within its window, which opens with the first message; handshakes and start-up are not in it.

*spread* is (max − min) / median over the rounds; *to floor* compares medians; *lost* is the share of all messages handed to the
sender that had not arrived when the run ended (reliable ones were still under way); *CPU out* and *CPU in* are the CPU time of
the whole sending and receiving process by message; *others* is what other programs took of the machine in the worst round: far
above a few percent, the figures are worth little."""


def _columns(case: Case, floor: float | None) -> tuple[_Column, ...]:
    common: tuple[_Column, ...] = (
        ("median", lambda values: _figure(values["median"])),
        ("min", lambda values: _figure(values["min"])),
        ("max", lambda values: _figure(values["max"])),
        ("spread", lambda values: f"{(values['max'] - values['min']) / values['median']:.0%}" if values["median"] else ""),
    )
    to_floor: _Column = ("to floor", lambda values: f"{values['median'] / floor:.2f} ×" if floor else "")
    lost: _Column = ("lost", lambda values: f"{values['loss_share']:.1%}")
    out: _Column = ("CPU out", lambda values: f"{values['sender_cpu_us_per_message']:.2f} µs")
    into: _Column = ("CPU in", lambda values: f"{values['receiver_cpu_us_per_message']:.2f} µs")
    others: _Column = ("others", lambda values: f"{values['others_share']:.0%}")
    if case.kind == "flow":
        return (*common, to_floor, lost, out, into, others)
    if case.kind == "round_trip":
        slowest: _Column = ("p99", lambda values: _figure(values["p99_us"]))
        return (*common, to_floor, slowest, lost, out, others)
    if case.kind == "idle":
        return (*common, *(_cpu_of_idle(connections) for connections in case.connections), others)
    return (*common, out, into, others)


def _cpu_of_idle(connections: int) -> _Column:
    return (f"CPU, {connections}", lambda values: f"{values[f'cpu_share_{connections}']:.2%}")


def _case_section(case_name: str, of_case: dict[str, Figures]) -> str:
    case, first = CASES[case_name], next(iter(of_case.values()))
    rounds = f"{len(first.rounds)} round" + ("s" if len(first.rounds) != 1 else "")
    lines = [f"## {case_name}", "", f"{case.description}; {rounds} of {first.seconds:g} s, in {_unit(case)}.", ""]
    titles = headings(case_name)
    lines.append("| " + " | ".join(titles) + " |")
    lines.append("| --- |" + " --: |" * (len(titles) - 1))
    lines += ["| " + " | ".join(row) + " |" for row in table_rows(case_name, of_case)]
    return "\n".join(lines)


def _contestants_section(results: Results, remarks: Iterable[str]) -> str:
    names = list(dict.fromkeys(name for of_case in results.values() for name in of_case))
    lines = [f"* **{name}**: {describe(name)}{_settings_used(name, results)}" for name in names]
    lines += [f"* {sentence}" for sentence in remarks]
    return "## The contestants\n\n" + "\n".join(lines)


def _settings_used(name: str, results: Results) -> str:
    used = {case: of_case[name].setting for case, of_case in results.items() if name in of_case}
    chosen = ", ".join(f"{setting} in {case}" for case, setting in used.items() if setting)
    return f"; here: {chosen}" if chosen else ""


def _unit(case: Case) -> str:
    return f"{case.unit}, lower is better" if case.is_lower_better else case.unit


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}"


def _print_rich(title: str, rows: Sequence[tuple[str, ...]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    for column, heading in enumerate(rows[0]):
        table.add_column(heading, justify="right" if column else "left", no_wrap=True)
    for row in rows[1:]:
        table.add_row(*row)
    Console(width=max(Console().width, _WIDTH_MIN)).print(table)


def _print_plain(title: str, rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    print(title)
    for name, *figures in rows:
        print(name.ljust(widths[0]), *(text.rjust(width) for text, width in zip(figures, widths[1:], strict=True)), sep="  ")


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or "unknown"
