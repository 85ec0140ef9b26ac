"""`peergram sim`: run seeds of the simulator on all processors, report what failed and how to replay it."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from multiprocessing import get_context
from statistics import median

import click

from peergram.sim.p2p_swarm import run_p2p_seed
from peergram.sim.planted import PLANTED
from peergram.sim.scenario import FEATURES
from peergram.sim.swarm import SeedResult, check_replay, run_seed, shrink
from peergram.sim.trace import render, replay_command
from peergram.sim.world import Violation

WORK_FACTOR_MAX = 20
"""A seed that needs more than this many times the median of events is a livelock."""
REPLAY_EVERY = 50
"""Every so many seeds one is run twice and compared (V17)."""
REPORTED_MAX = 10


@click.command(short_help="Run the protocol in a simulated, hostile world.")
@click.option("--seeds", type=click.IntRange(1), default=100, show_default=True, metavar="N", help="How many seeds to run.")
@click.option("--from", "first", type=click.IntRange(0), default=0, show_default=True, metavar="SEED", help="The first seed.")
@click.option("--trace", is_flag=True, help="Print everything that happened (for one seed or a few).")
@click.option("--off", multiple=True, type=click.Choice(FEATURES), metavar="FEATURE", help="Leave a feature out; repeatable.")
@click.option("--plant", type=click.Choice(sorted(PLANTED)), metavar="DEFECT", help="Plant a deliberate defect.")
@click.option("--p2p", is_flag=True, help="Two peers behind NATs who find each other by name, in place of the usual worlds.")
@click.option("--shrink/--no-shrink", "shrinks", default=True, help="Make failing seeds smaller before reporting them.")
@click.option(
    "--jobs", type=click.IntRange(1), default=os.cpu_count() or 1, show_default=True, metavar="N", help="Processes to use."
)
@click.option("--list", "lists", is_flag=True, help="List features and defects, and stop.")
def sim(
    seeds: int,
    first: int,
    trace: bool,
    off: tuple[str, ...],
    plant: str | None,
    p2p: bool,
    shrinks: bool,
    jobs: int,
    lists: bool,
) -> None:
    """Run endpoints in a simulated, hostile world and check every promise. Exits with 1 when one is broken."""
    if lists:
        click.echo("features: " + ", ".join(FEATURES))
        click.echo("defects:  " + ", ".join(sorted(PLANTED)))
        return
    if p2p and (off or plant):
        raise click.UsageError("--p2p has no features to leave out and no defects to plant")
    started_s = time.monotonic()
    run = partial(_run_p2p, trace=trace) if p2p else partial(_run, off=frozenset(off), plant=plant, trace=trace, shrinks=shrinks)
    results: list[SeedResult] = []
    for result in _results(run, range(first, first + seeds), jobs):
        results.append(result)
        if trace:
            click.echo(render(result.trace))
    _find_livelocks(results)
    failing = [result for result in results if not result.ok]
    for result in failing[:REPORTED_MAX]:
        click.echo(result.report(), err=True)
    for result in failing[REPORTED_MAX:]:
        click.echo(f"also: {result.violations[0]}; replay: {result.command or replay_command(result.seed, result.off)}", err=True)
    click.echo(_summary(results, failing, time.monotonic() - started_s))
    sys.exit(1 if failing else 0)


def _results(run: partial[SeedResult], seeds: range, jobs: int) -> Iterator[SeedResult]:
    """In order of seeds, whatever the number of processes."""
    if jobs <= 1 or len(seeds) < 2:
        yield from map(run, seeds)
        return
    with get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap(run, seeds, chunksize=4)


def _run(seed: int, *, off: frozenset[str], plant: str | None, trace: bool, shrinks: bool) -> SeedResult:
    planted = PLANTED[plant] if plant else None
    if seed % REPLAY_EVERY == 0 and not off:
        result = check_replay(seed, plant=planted)
        if not trace:
            result.trace = []
    else:
        result = run_seed(seed, trace=trace, off=off, plant=planted)
    if not result.ok and shrinks and not trace:
        return shrink(result, plant=planted)
    return result


def _run_p2p(seed: int, *, trace: bool) -> SeedResult:
    return run_p2p_seed(seed, trace=trace, twice=seed % REPLAY_EVERY == 0)


def _find_livelocks(results: list[SeedResult]) -> None:
    """A seed that works much harder than the others is one of them."""
    bound = WORK_FACTOR_MAX * median(result.events for result in results) if len(results) >= WORK_FACTOR_MAX else 0
    for result in results:
        if bound and result.events > bound:
            text = f"{result.events} events, the median of {len(results)} seeds is {bound / WORK_FACTOR_MAX:.0f}"
            result.violations.append(Violation("work", result.virtual_us, "world", text))
            result.ok = False


def _summary(results: list[SeedResult], failing: list[SeedResult], took_s: float) -> str:
    marks = Counter(mark for result in results for mark in result.marks)
    packets = sum(result.packets for result in results)
    virtual_s = sum(result.virtual_us for result in results) / 1e6
    rare = ", ".join(f"{mark} ({count})" for mark, count in sorted(marks.items(), key=lambda pair: (pair[1], pair[0]))[:8])
    broken = Counter(result.violations[0].name for result in failing)
    return "\n".join(
        (
            f"{len(results)} seeds, {packets} packets, {virtual_s:.0f} virtual seconds in {took_s:.1f} s",
            f"{len(marks)} kinds of states seen, the rarest: {rare or 'none'}",
            "no promise was broken"
            if not failing
            else f"{len(failing)} seeds failed: " + ", ".join(f"{name} {count}" for name, count in sorted(broken.items())),
        )
    )
