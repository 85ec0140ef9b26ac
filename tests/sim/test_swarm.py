from __future__ import annotations

import subprocess
import sys

from peergram.sim.planted import PLANTED
from peergram.sim.scenario import FEATURES, draw_scenario
from peergram.sim.swarm import check_replay, run_seed, shrink
from tests.sim.toy_endpoint import make_toy

HASHES = "from peergram.sim.swarm import run_seed; from tests.sim.toy_endpoint import make_toy; "
HASHES += "print([run_seed(s, make_endpoint=make_toy).trace_hash for s in range(6)])"


def test_the_same_seed_twice_gives_the_same_trace() -> None:
    results = [check_replay(seed, make_endpoint=make_toy) for seed in range(10)]
    assert all(result.ok for result in results)
    assert len({result.trace_hash for result in results}) == 10


def test_the_trace_does_not_depend_on_the_hash_seed_of_the_process() -> None:
    def hashes(seed: str) -> str:
        environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(path for path in sys.path if path)}
        return subprocess.run([sys.executable, "-c", HASHES], env=environment, capture_output=True, text=True, check=True).stdout

    assert hashes("1") == hashes("2") != ""


def test_keeping_the_trace_changes_nothing() -> None:
    with_lines, without = (run_seed(3, make_endpoint=make_toy, trace=keep) for keep in (True, False))
    assert with_lines.trace_hash == without.trace_hash
    assert with_lines.trace
    assert not without.trace


def test_every_feature_is_drawn_in_some_seed_and_left_out_in_others() -> None:
    drawn = [draw_scenario(seed).features for seed in range(60)]
    for feature in FEATURES:
        assert 0 < sum(feature in features for features in drawn) < 60, feature


def test_leaving_a_feature_out_does_not_change_the_others() -> None:
    whole = next(s for s in map(draw_scenario, range(100)) if {"loss", "crash", "pause"} <= s.features)
    part = draw_scenario(whole.seed, frozenset({"crash"}))
    assert part.features == whole.features - {"crash"}
    assert part.hosts == whole.hosts
    assert part.links == whole.links
    assert part.steps == [step for step in whole.steps if step.action != "crash" or step.for_us == 0]


def test_a_failing_seed_is_made_smaller_and_says_how_to_replay_it() -> None:
    plant = PLANTED["swap two"]
    result = next(r for seed in range(20) if not (r := run_seed(seed, make_endpoint=make_toy, plant=plant)).ok)
    small = shrink(result, make_endpoint=make_toy, plant=plant)
    assert not small.ok
    assert len(draw_scenario(result.seed, small.off).features) < len(draw_scenario(result.seed).features)
    assert f"peergram sim --seeds 1 --from {result.seed} --trace" in small.report()
    assert "VIOLATION V1" in small.report()


def test_many_interesting_states_are_reached() -> None:
    marks = frozenset().union(*(run_seed(seed, make_endpoint=make_toy).marks for seed in range(60)))
    assert len(marks) >= 38, sorted(marks)
