"""Many sessions on one endpoint: `python -m benches.sessions [--busy N] [--rates R,R] [--idle N] [--seconds S] [--driver NAME]`.

Two processes, the measured one (hub) and a crowd of endpoints with a socket each, over the loopback interface. Every message of
the hub goes alone in its packet, as in a game that tells every player something in every frame, so nothing is shared. Three
tables:

* busy: so many messages per second and session each way, 100 bytes, unreliable, without Nagle's delay: what arrived, how long it
  took from the send to the application, and the CPU time of the hub;
* idle: memory and CPU share of the hub while nobody says anything;
* beside a busy main thread: a peer pings a thread driver whose program computes and never pauses.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from typing import Any

from benches.disturbance import Disturbance
from benches.sessions_sides import SIDES, Plan, run_side

_DRIVERS = ("thread", "asyncio")
_GROUP_TIMEOUT_S = 900.0


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for and print it."""
    options = _parser().parse_args(arguments)
    if options.side:
        print(json.dumps(run_side(options.side, Plan(**json.loads(options.plan)))))
        return 0
    for driver in options.driver or _DRIVERS:
        if options.busy:
            rates = [float(text) for text in options.rates.split(",")]
            _print_busy(_run(Plan(driver, options.busy, rates, options.seconds, freezes=options.freeze)))
        if options.idle:
            _print_idle(_run(Plan(driver, options.idle, [0.0], max(options.seconds, 20.0), freezes=options.freeze)))
    if options.pings:
        _print_pings([_run_pings(load, interval_s, options.seconds) for load, interval_s in _LOADS])
    return 0


_LOADS = (("calm", 0.005), ("busy", 0.005), ("busy", 0.0005))
"""What the main thread does, and the interpreter's switch interval."""


def _run(plan: Plan) -> dict[str, Any]:
    disturbance = Disturbance()
    crowd, hub = _accounts(_spawn("hub", plan), _spawn("crowd", plan))
    return {"plan": plan, "hub": hub, "crowd": crowd, "others": disturbance.share()}


def _run_pings(load: str, interval_s: float, seconds: float) -> dict[str, Any]:
    plan = Plan("thread", 1, [], seconds, load=load, switch_interval_s=interval_s)
    disturbance = Disturbance()
    pinger, _ = _accounts(_spawn("echo", plan), _spawn("pinger", plan))
    return {"load": load, "interval_s": interval_s, "others": disturbance.share(), **pinger}


def _spawn(side: str, plan: Plan) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benches.sessions", "--side", side, "--plan", json.dumps(plan.as_dict())]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONHASHSEED": "0"})


def _accounts(called: subprocess.Popen[str], calling: subprocess.Popen[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Those of the calling and the called side. Without the one that calls, the other would wait for ever."""
    try:
        return _account(calling), _account(called)
    finally:
        for process in (calling, called):
            process.kill()
            process.wait()


def _account(process: subprocess.Popen[str]) -> dict[str, Any]:
    output, _ = process.communicate(timeout=_GROUP_TIMEOUT_S)
    if process.returncode:
        raise SystemExit(f"a side ended with {process.returncode}")
    account: dict[str, Any] = json.loads(output.splitlines()[-1])
    return account


def _print_busy(run: dict[str, Any]) -> None:
    plan: Plan = run["plan"]
    print(f"\n{plan.sessions} busy sessions, {plan.driver} driver, {plan.seconds:g} s each; others took {run['others']:.0%}")
    _print_row("asked/s", "in/s", "out/s", "in p50", "in p99", "out p50", "out p99", "hub CPU", "us/pair", "crowd CPU")
    for hub, crowd in zip(run["hub"]["stages"], run["crowd"]["stages"], strict=True):
        came, went = hub["received"] / hub["elapsed_s"], crowd["received"] / crowd["elapsed_s"]
        pairs = min(hub["received"], crowd["received"])
        _print_row(
            f"{hub['rate'] * plan.sessions:,.0f}",
            f"{came:,.0f}",
            f"{went:,.0f}",
            *(f"{side[name] / 1000:.1f} ms" for side in (hub, crowd) for name in ("p50_us", "p99_us")),
            f"{hub['cpu_s'] / hub['elapsed_s']:.0%}",
            f"{hub['cpu_s'] / pairs * 1e6:.0f}" if pairs else "",
            f"{crowd['cpu_s'] / crowd['elapsed_s']:.0%}",
        )
    _print_collector(run)


def _print_idle(run: dict[str, Any]) -> None:
    plan: Plan = run["plan"]
    (stage,) = run["hub"]["stages"]
    kb = run["hub"]["memory_bytes_per_session"] / 1000
    print(f"\n{plan.sessions} idle sessions, {plan.driver} driver, {stage['elapsed_s']:.0f} s; others took {run['others']:.0%}")
    print(f"  memory {kb:.1f} kB a session, CPU {stage['cpu_s'] / stage['elapsed_s']:.2%}")
    _print_collector(run)


def _print_collector(run: dict[str, Any]) -> None:
    collector = run["hub"]["collector"]
    print(f"  garbage collector: longest pause {collector['longest_ms']:.1f} ms, {collector['share']:.2%} of the time")


def _print_pings(runs: list[dict[str, Any]]) -> None:
    print("\nround trips of a peer to a thread driver that answers from its own thread, beside the program's main thread")
    _print_row("main", "interval", "trips", "p50", "p99", "others")
    for run in runs:
        _print_row(
            run["load"],
            f"{run['interval_s'] * 1000:g} ms",
            str(run["trips"]),
            f"{run['p50_us'] / 1000:.2f} ms",
            f"{run['p99_us'] / 1000:.2f} ms",
            f"{run['others']:.0%}",
        )


def _print_row(*cells: str) -> None:
    print("  " + "".join(cell.rjust(11) for cell in cells), flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benches.sessions", description="Many sessions on one endpoint.")
    parser.add_argument("--busy", type=int, default=1000, metavar="N", help="busy sessions (default 1000; 0 for none)")
    parser.add_argument("--rates", default="1,4,60", metavar="R,R", help="messages per second of a busy session, each way")
    parser.add_argument("--idle", type=int, default=10_000, metavar="N", help="idle sessions (default 10000; 0 for none)")
    parser.add_argument("--seconds", type=float, default=5.0, metavar="S", help="length of each measurement (idle: at least 20)")
    parser.add_argument("--driver", action="append", choices=_DRIVERS, help="repeatable; default: both")
    parser.add_argument("--freeze", action="store_true", help="the hub's program calls gc.freeze() once everybody is there")
    parser.add_argument("--pings", action=argparse.BooleanOptionalAction, default=True, help="the thread beside a busy program")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--plan", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
