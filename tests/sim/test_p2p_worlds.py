"""Real endpoints behind NATs who find each other by name, in worlds drawn from seeds in which every promise must hold; and all
seeds that ever failed. PEERGRAM_SOAK=1 runs many more of them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from peergram.sim.p2p_swarm import run_p2p_seed
from tests.lab import SOAK

SEEDS = 2_000 if SOAK else 12
SEEDS_PER_TEST = 4
ONCE_FAILED = (1057, 1255, 1429, 32068, 401186, 401212)
"""Each showed a defect of the endpoint once, or of what is expected of it."""


@pytest.mark.parametrize("first", range(0, SEEDS, SEEDS_PER_TEST))
def test_every_promise_holds_in_worlds_drawn_from(first: int) -> None:
    for seed in range(first, first + SEEDS_PER_TEST):
        result = run_p2p_seed(seed)
        assert result.ok, result.report()


@pytest.mark.parametrize("seed", ONCE_FAILED)
def test_a_world_that_once_broke_a_promise_no_longer_does(seed: int) -> None:
    result = run_p2p_seed(seed)
    assert result.ok, result.report()


def test_the_same_seed_gives_the_same_run() -> None:
    result = run_p2p_seed(7, twice=True)
    assert result.ok, result.report()
    assert "peergram sim --p2p --seeds 1 --from 7" in result.report()


def test_the_run_does_not_depend_on_the_hash_seed_of_the_process() -> None:
    code = "from peergram.sim.p2p_swarm import run_p2p_seed; print([run_p2p_seed(seed).trace_hash for seed in (3, 9)])"

    def hashes(seed: str) -> str:
        environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(path for path in sys.path if path)}
        return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True).stdout

    assert hashes("1") == hashes("2") != ""
