"""The command: `python -m benches [--only CASE] [--json FILE] [--write] [--seconds S] [--rounds N]`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benches import contestants, report
from benches.cases import CASES
from benches.runner import BenchError, run_all


def main(arguments: list[str] | None = None) -> int:
    """Run, print, and write what was asked for; 1 if a contestant failed."""
    options = _parser().parse_args(arguments)
    skipped, names = [], []
    for name in options.contestant or contestants.MODULES:
        loaded = contestants.load(name)
        if isinstance(loaded, str):
            skipped.append(loaded)
            print(loaded, file=sys.stderr)
        else:
            names.append(name)
    if not names:
        return 1
    try:
        cases = options.only or CASES
        results = run_all(cases, names, seconds=options.seconds, rounds=options.rounds, repeats=options.repeats, tell=_tell)
    except BenchError as error:
        print(error, file=sys.stderr)
        return 1
    report.print_tables(results)
    if options.json:
        as_json = {case: {name: figures.as_json() for name, figures in of_case.items()} for case, of_case in results.items()}
        options.json.write_text(json.dumps(as_json, indent=2) + "\n", encoding="utf-8")
    if options.write:
        report.write_page(results, skipped)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benches", description="Throughput of all contestants, interleaved in one go."
    )
    parser.add_argument(
        "--only", metavar="CASE", action="append", choices=list(CASES), help=f"one of {', '.join(CASES)}; repeatable"
    )
    parser.add_argument(
        "--contestant", metavar="NAME", action="append", choices=list(contestants.MODULES), help="run only these; repeatable"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures to this file")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
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
