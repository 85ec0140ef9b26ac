"""The ladder of bad lines: alice's link gets worse rung by rung, both peers are behind port-restricted NATs.

On the first seven rungs every attempt must succeed and come to a direct path within ten seconds; on the last two, where a line is
hardly usable, most and half of them must succeed in thirty. Signals take the bad line too. Loss comes in bursts counted in
packets, so that a burst outlasts many repeats of a silent program.

Short by default: one seed of the seven rungs; PEERGRAM_SOAK=1 runs SEEDS of all nine and prints what they took. Needs root, the
`netlab` module (see `tests.lab`) and coturn.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from tests.interop.child import ChildError
from tests.interop.party import PartyProcess, now_us
from tests.lab import SOAK

from .nat_lab import NatLab, nat_lab

SEEDS = 100
DIRECT_S_MAX = 10.0
PATIENCE_S = 30.0
"""How long an attempt may take on the last rungs."""


@dataclass(frozen=True, slots=True)
class Rung:
    """Each way."""

    delay: float
    jitter: float
    loss: float
    burst: float
    rate: float
    """kbit/s; 0: no limit."""
    succeed_percent: float = 100.0
    """Of the attempts, at least."""
    must_be_direct: bool = True

    def __str__(self) -> str:
        rate = f"{self.rate:g} kbit/s" if self.rate else "no limit"
        return f"{self.delay:g} + {self.jitter:g} ms, {self.loss:g} % in bursts of {self.burst:g}, {rate}"


RUNGS = [
    Rung(3, 3, 0.1, 1, 0),
    Rung(10, 12, 1, 6, 20_000),
    Rung(20, 15, 2, 8, 10_000),
    Rung(35, 30, 3, 10, 5_000),
    Rung(60, 40, 5, 12, 2_000),
    Rung(100, 60, 8, 20, 1_000),
    Rung(300, 40, 1.5, 6, 10_000),
    Rung(150, 80, 12, 25, 500, succeed_percent=95, must_be_direct=False),
    Rung(300, 150, 25, 40, 250, succeed_percent=50, must_be_direct=False),
]


@dataclass(frozen=True, slots=True)
class Attempt:
    """What became of one; None: nothing in time."""

    first_us: int | None = None
    """Until bob has alice's first message."""
    answer_us: int | None = None
    """Until alice has bob's answer to it."""
    direct_us: int | None = None
    """Until both use a direct path."""


def attempt(lab: NatLab, rung: Rung, seed: int) -> Attempt:
    limit = {"rate": rung.rate} if rung.rate else {}
    lab.lab.impair("alice", delay=rung.delay, jitter=rung.jitter, loss=rung.loss, burst=rung.burst, seed=seed, **limit)
    with pair(lab) as (alice, bob):
        began_us = alice.send(bob.identity, b"hello")
        try:
            first_us = bob.take(timeout_s=PATIENCE_S)[2] - began_us
            bob.send(alice.identity, b"welcome")
            answer_us = alice.take(timeout_s=PATIENCE_S)[2] - began_us
        except ChildError:
            return Attempt()
        direct_us = None
        while direct_us is None and now_us() - began_us < DIRECT_S_MAX * 1_000_000:
            standings = alice.standing(bob.identity), bob.standing(alice.identity)
            if all(each is not None and each.route == "direct" for each in standings):
                direct_us = now_us() - began_us
            time.sleep(0.02)
        return Attempt(first_us, answer_us, direct_us)


@contextmanager
def pair(lab: NatLab) -> Iterator[tuple[PartyProcess, PartyProcess]]:
    patience = {"timeout_initial_us": int(PATIENCE_S * 1_000_000)}
    alice, bob = lab.pair(("ours", "ours"), settings=patience)
    try:
        yield alice, bob
    finally:
        alice.kill()
        bob.kill()


def report(rung: Rung, attempts: list[Attempt]) -> str:
    def figures(values: list[int | None]) -> str:
        known = sorted(value / 1e6 for value in values if value is not None)
        if not known:
            return f"0 of {len(values)}"
        return f"{len(known)} of {len(values)}, median {statistics.median(known):.2f} s, longest {known[-1]:.2f} s"

    return (
        f"{rung}: first message {figures([each.first_us for each in attempts])}; "
        f"answer {figures([each.answer_us for each in attempts])}; direct {figures([each.direct_us for each in attempts])}"
    )


def check(rung: Rung, attempts: list[Attempt]) -> None:
    print(f"\n{report(rung, attempts)}")
    succeeded = [each for each in attempts if each.answer_us is not None]
    assert len(succeeded) * 100 >= rung.succeed_percent * len(attempts)
    if rung.must_be_direct:
        assert all(each.direct_us is not None for each in attempts)


def test_every_usable_line_leads_to_a_direct_path() -> None:
    with nat_lab("port-restricted", "port-restricted") as lab:
        for rung in RUNGS:
            if rung.must_be_direct:
                check(rung, [attempt(lab, rung, seed=1)])


@pytest.mark.skipif(not SOAK, reason="minutes per rung: set PEERGRAM_SOAK=1")
@pytest.mark.parametrize("rung", [pytest.param(rung, id=f"rung {number}") for number, rung in enumerate(RUNGS, 1)])
def test_many_attempts_on(rung: Rung) -> None:
    with nat_lab("port-restricted", "port-restricted") as lab:
        check(rung, [attempt(lab, rung, seed) for seed in range(1, SEEDS + 1)])
