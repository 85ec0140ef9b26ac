"""The checkers find mistakes made inside the core, with the real endpoint."""

from __future__ import annotations

import pytest

from peergram.sim.planted_deep import PLANTED_DEEP
from peergram.sim.swarm import run_seed
from tests.compiled import REPLACES

SEEDS_MAX = 60


@REPLACES
@pytest.mark.parametrize("defect", sorted(PLANTED_DEEP))
def test_a_defect_inside_the_core_is_found(defect: str) -> None:
    for seed in range(SEEDS_MAX):
        if not run_seed(seed, plant=PLANTED_DEEP[defect]).ok:
            return
    pytest.fail(f"not found in {SEEDS_MAX} seeds")
