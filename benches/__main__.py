"""The command: `python -m benches [--only CASE] [--json FILE] [--write] [--seconds S] [--rounds N]`.

Without `--only`, all cases but the bad link run; `--write` adds that one.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benches import contestants, plot, report
from benches.cases import CASES
from benches.runner import run_all


def main(arguments: list[str] | None = None) -> int:
    """Run, print, and write what was asked for; 1 if a contestant failed."""
    options = _parser().parse_args(arguments)
    cases = options.only or [name for name, case in CASES.items() if case.is_default or options.write]
    names, remarks = _take_part(options.contestant or list(contestants.MODULES), cases)
    for remark in remarks:
        _tell(remark)
    if not names:
        return 1
    outcome = run_all(cases, names, seconds=options.seconds, rounds=options.rounds, repeats=options.repeats, tell=_tell)
    report.print_tables(outcome.results)
    if options.json:
        as_json = {
            case: {name: figures.as_json() for name, figures in of_case.items()} for case, of_case in outcome.results.items()
        }
        options.json.write_text(json.dumps(as_json, indent=2) + "\n", encoding="utf-8")
    if options.write:
        _tell(plot.missing() or f"writing {report.PAGE} and its picture")
        report.write_page(outcome.results, remarks + outcome.failures)
    return 1 if outcome.failures else 0


def _take_part(names: list[str], cases: list[str]) -> tuple[list[str], list[str]]:
    """The contestants that can run here; a sentence for each that cannot, or not in one of the cases."""
    here, remarks = [], []
    for name in names:
        loaded = contestants.load(name)
        if isinstance(loaded, str):
            remarks.append(loaded)
            continue
        here.append(name)
        invited = (case for case in cases if name in (CASES[case].contestants or names))
        remarks += [reason for case in invited if (reason := contestants.reason_left_out(name, case))]
    return here, remarks


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benches", description="Throughput, round trip and idle cost of all contestants, interleaved in one go."
    )
    parser.add_argument(
        "--only", metavar="CASE", action="append", choices=list(CASES), help=f"one of {', '.join(CASES)}; repeatable"
    )
    parser.add_argument(
        "--contestant", metavar="NAME", action="append", choices=list(contestants.MODULES), help="run only these; repeatable"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures to this file")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md and docs/benchmarks.svg")
    parser.add_argument("--seconds", metavar="S", type=_positive, default=3.0, help="length of the measuring window (3)")
    parser.add_argument("--rounds", metavar="N", type=_rounds, default=5, help="how often each contestant runs each case (5)")
    parser.add_argument(
        "--repeats", metavar="N", type=int, default=2, help="how often a run that others disturbed is made again (2)"
    )
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < 3600:
        raise argparse.ArgumentTypeError("a number of seconds above 0 is needed")
    return value


def _rounds(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("at least one round is needed")
    return value


def _tell(line: str) -> None:
    print(line, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
