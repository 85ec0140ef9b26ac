"""Results for people: a table for the terminal, and the page `docs/benchmarks.md`."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path

from benches.cases import CASES
from benches.contestants import MODULES, load
from benches.runner import Figures, Results

PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"

_HEADINGS = ("contestant", "median", "min", "max", "spread", "to floor", "lost", "CPU out", "CPU in", "others")
_WIDTH_MIN = 110
_FLOOR = next(iter(MODULES))


def table_rows(of_case: dict[str, Figures]) -> list[tuple[str, ...]]:
    """One row of texts per contestant, in the order of the headings."""
    floor = of_case[_FLOOR].as_json()["median"] if _FLOOR in of_case else None
    return [_row(name, figures.as_json(), floor) for name, figures in of_case.items()]


def print_tables(results: Results) -> None:
    """To the terminal: with rich where it is installed, else in plain columns."""
    for case, of_case in results.items():
        title = f"{case}: {CASES[case].description} ({CASES[case].unit})"
        rows = table_rows(of_case)
        try:
            _print_rich(title, rows)
        except ModuleNotFoundError:
            _print_plain(title, rows)


def write_page(results: Results, skipped: Iterable[str], path: Path = PAGE) -> None:
    """The page with tables, machine and method; it replaces the one before."""
    parts = [_INTRODUCTION, *(_case_section(case, of_case) for case, of_case in results.items())]
    parts.append(_contestants_section(results, skipped))
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
contestant is two processes, a sender and a receiver, that talk UDP over the loopback interface. All contestants run interleaved
in one go, round after round; a run during which other programs were busy is made again, and the least disturbed one counts. The
receiver counts what arrives within its window, which opens with the first message; handshakes and start-up are not in it.
*spread* is (max − min) / median over the rounds; *to floor* compares medians; *lost* is the share of all messages handed to the
sender that never arrived; *CPU out* and *CPU in* are the CPU seconds of sender and receiver in one window (medians); *others*
is what other programs took of the machine in the worst round: far above a few percent, the figures are too low."""


def _case_section(case: str, of_case: dict[str, Figures]) -> str:
    first = next(iter(of_case.values()))
    rounds = f"{len(first.rounds)} round" + ("s" if len(first.rounds) != 1 else "")
    lines = [f"## {case}", "", f"{CASES[case].description}; {rounds} of {first.seconds:g} s, in {first.unit}.", ""]
    lines.append("| " + " | ".join(_HEADINGS) + " |")
    lines.append("| --- |" + " --: |" * (len(_HEADINGS) - 1))
    lines += ["| " + " | ".join(row) + " |" for row in table_rows(of_case)]
    return "\n".join(lines)


def _contestants_section(results: Results, skipped: Iterable[str]) -> str:
    names = list(dict.fromkeys(name for of_case in results.values() for name in of_case))
    lines = []
    for name in names:
        contestant = load(name)
        lines.append(f"* **{name}**: " + (contestant if isinstance(contestant, str) else contestant.DESCRIPTION))
    lines += [f"* {sentence}" for sentence in skipped]
    return "## The contestants\n\n" + "\n".join(lines)


def _row(name: str, figures: dict[str, float | str], floor: float | str | None) -> tuple[str, ...]:
    middle, low, high = (float(figures[key]) for key in ("median", "min", "max"))
    return (
        name,
        _figure(middle),
        _figure(low),
        _figure(high),
        f"{(high - low) / middle:.0%}",
        f"{middle / float(floor):.2f} ×" if floor else "",
        f"{float(figures['loss_share']):.1%}",
        f"{float(figures['sender_cpu_s']):.2f} s",
        f"{float(figures['receiver_cpu_s']):.2f} s",
        f"{float(figures['others_share']):.0%}",
    )


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}"


def _print_rich(title: str, rows: Sequence[tuple[str, ...]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    for column, heading in enumerate(_HEADINGS):
        table.add_column(heading, justify="right" if column else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    Console(width=max(Console().width, _WIDTH_MIN)).print(table)


def _print_plain(title: str, rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in (_HEADINGS, *rows)) for column in range(len(_HEADINGS))]
    print(title)
    for name, *figures in (_HEADINGS, *rows):
        print(name.ljust(widths[0]), *(text.rjust(width) for text, width in zip(figures, widths[1:], strict=True)), sep="  ")


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or "unknown"
