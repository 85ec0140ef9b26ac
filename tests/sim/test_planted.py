"""The simulator finds what was planted, and finds nothing where nothing was."""

from __future__ import annotations

import pytest

from peergram.sim.planted import PLANTED, UNSTEADY
from peergram.sim.swarm import check_replay, run_seed
from tests.sim.toy_endpoint import make_toy

SEEDS_MAX = 80
FOUND_BY = {
    "deliver twice": {"V1", "V2"},
    "swap two": {"V1"},
    "lose one": {"V1", "V4"},
    "invent one": {"V3"},
    "truncate": {"V1", "V2"},
    "flip a byte": {"V1", "V2"},
    "wrong sender": {"V3"},
    "wrong channel": {"V3"},
    "accept all": {"V3", "V12"},
    "forget the timer": {"V4", "V12"},
    "timer in the past": {"V13"},
    "busy timer": {"V13"},
    "repeat a failure": {"V16"},
    "swallow a failure": {"V1", "V4"},
    "count too few": {"V4"},
    "count too many": {"V4"},
    "count one too many": {"V4"},
    "count too few bytes": {"V4"},
    "silent after closing": {"V4"},
    "take and drop": {"V1", "V4"},
    "repeat a nonce": {"V10"},
    "oversize packet": {"V18"},
    "reserved bits": {"V18"},
    "leak plain text": {"V10"},
    "answer strangers": {"V9"},
    "raise on noise": {"V20"},
    "chatter": {"V13"},
    "sessions never go": {"V5", "V6"},
    "keep everything": {"V6"},
    "obey noise": {"V15"},
    "deaf after a while": {"V4", "V12"},
    "no receive limit": {"V7"},
    "no send limit": {"V7"},
    "no rate limit": {"V14"},
}


def test_every_planted_defect_is_listed_with_the_promise_it_breaks() -> None:
    assert set(FOUND_BY) == set(PLANTED)


@pytest.mark.parametrize("defect", sorted(PLANTED))
def test_a_planted_defect_is_found_within_few_seeds(defect: str) -> None:
    for seed in range(SEEDS_MAX):
        result = run_seed(seed, make_endpoint=make_toy, plant=PLANTED[defect])
        if not result.ok:
            assert result.violations[0].name in FOUND_BY[defect], str(result.violations[0])
            return
    pytest.fail(f"not found in {SEEDS_MAX} seeds")


def test_without_a_defect_nothing_is_found() -> None:
    failing = [result.report() for seed in range(60) if not (result := run_seed(seed, make_endpoint=make_toy)).ok]
    assert failing == []


def test_an_endpoint_that_differs_from_run_to_run_is_found() -> None:
    results = [check_replay(seed, make_endpoint=make_toy, plant=UNSTEADY["other every run"]) for seed in range(5)]
    assert "V17" in {violation.name for result in results for violation in result.violations}
