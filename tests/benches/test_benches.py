"""The benchmark program itself: very short runs have the promised shape, and who cannot take part is told in a sentence."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from benches import contestants, frame_loop, plot, report, runner
from benches.__main__ import main
from benches.cases import CASES
from benches.runner import BenchError, Figures, Outcome, Run, run_all

CONTESTANTS = [
    pytest.param(name, marks=pytest.mark.skipif(isinstance(loaded, str), reason=str(loaded)))
    for name, loaded in ((name, contestants.load(name)) for name in contestants.MODULES)
]
KINDS = {"flow": "unreliable_100", "round_trip": "round_trip_64", "idle": "idle", "lossy_link": "lossy_link"}


def test_the_cases_have_the_promised_names() -> None:
    promised = ["bulk_reliable", "reliable_1000", "reliable_100", "unreliable_1000", "unreliable_100", "round_trip_64", "idle"]
    assert list(CASES) == [*promised, "lossy_link"]
    assert [name for name, case in CASES.items() if case.is_default] == promised


def test_the_contestants_have_the_promised_names() -> None:
    promised = {"peergram", "floor", "pyenet", "aioquic", "aiortc", "reference", "reference_default", "peergram_compiled"}
    assert set(contestants.MODULES) == promised


@pytest.mark.parametrize("name", CONTESTANTS)
def test_a_short_round_gives_figures_of_the_promised_shape(name: str, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    cases = ["reliable_1000", "round_trip_64"]
    arguments = [argument for case in cases for argument in ("--only", case)]
    arguments += ["--contestant", name, "--seconds", "0.2", "--rounds", "1", "--repeats", "0", "--json", str(file)]
    assert main(arguments) == 0
    figures = json.loads(file.read_text(encoding="utf-8"))
    assert list(figures) == cases
    for case, of_case in figures.items():
        assert list(of_case) == [name]
        assert of_case[name]["unit"] == CASES[case].unit
        assert 0 < of_case[name]["min"] <= of_case[name]["median"] <= of_case[name]["max"]
        assert 0 <= of_case[name]["loss_share"] <= 1
        assert of_case[name]["sender_cpu_us_per_message"] > 0
    assert figures["reliable_1000"][name]["receiver_cpu_us_per_message"] > 0
    assert figures["round_trip_64"][name]["p99_us"] >= figures["round_trip_64"][name]["median"]


@pytest.mark.parametrize("name", CONTESTANTS)
def test_idle_connections_are_held_or_left_out_with_a_sentence(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = contestants.reason_left_out(name, "idle")
    if reason:
        assert reason.startswith(f"{name} is not in idle: ")
        return
    monkeypatch.setitem(CASES, "idle", dataclasses.replace(CASES["idle"], connections=(2, 12)))
    details = runner.run_once(name, "idle", 0.1).details
    assert details["memory_bytes_12"] > 1_000_000
    assert 0 <= details["cpu_share_2"] < 2


def test_the_bad_link_carries_our_messages() -> None:
    # The buffers let the first of them out at once, so this short window tells only that they arrive.
    assert runner.run_once("peergram", "lossy_link", 0.5).figure > 0


def test_the_page_shows_every_contestant_with_its_ratio_to_the_floor(tmp_path: Path) -> None:
    slow, fast = (flow_figures(row) for row in ((40, 50, 60), (200, 100, 90)))
    page = tmp_path / "page.md"
    report.write_page({"bulk_reliable": {"floor": fast, "pyenet": slow}}, ["nobody is skipped: it is tired"], page)
    text = page.read_text(encoding="utf-8")
    assert "| pyenet | 50.0 | 40.0 | 60.0 | 40% | 0.50 × | 25.0% | 2.50 µs | 1.50 µs | 2% |" in text
    assert "* nobody is skipped: it is tired" in text


def test_the_page_says_where_lower_is_better_and_which_setting_was_used(tmp_path: Path) -> None:
    trips = Figures("µs", 1.0, "manual poll", [Run(80.0, 0.0, {"p99_us": 95.0, "loss_share": 0.0, **cpu(2.0)})])
    held = {f"{key}_{count}": 0.5 for count in CASES["idle"].connections for key in ("cpu_share", "memory_bytes")}
    idle = Figures("B/connection", 1.0, "", [Run(0.0, 0.0, held)])
    page = tmp_path / "page.md"
    report.write_page({"round_trip_64": {"reference": trips}, "idle": {"pyenet": idle}}, [], page)
    text = page.read_text(encoding="utf-8")
    assert "in µs, lower is better." in text
    assert "| reference | 80.0 | 80.0 | 80.0 | 0% |  | 95.0 | 0.0% | 2.00 µs | 0% |" in text
    assert "| pyenet | 0.0 | 0.0 | 0.0 |  | 50.00% | 50.00% | 50.00% | 0% |" in text
    assert "; here: manual poll in round_trip_64" in text


@pytest.mark.skipif(plot.missing() is not None, reason=str(plot.missing()))
def test_the_same_results_give_the_same_picture_byte_for_byte(tmp_path: Path) -> None:
    results = {"bulk_reliable": {"floor": flow_figures((900, 1000, 1100)), "peergram": flow_figures((90, 100, 120))}}
    for name in ("one.svg", "two.svg"):
        plot.draw(results, tmp_path / name)
    drawn = (tmp_path / "one.svg").read_bytes()
    assert drawn == (tmp_path / "two.svg").read_bytes()
    assert b"peergram" in drawn
    assert len(drawn) < 100_000


def test_a_contestant_without_a_module_is_skipped_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(contestants.MODULES, "nobody", "benches.nobody")
    assert contestants.load("nobody") == "nobody is skipped: there is no module benches.nobody"


def test_the_reference_is_skipped_with_a_sentence_where_its_library_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PEERGRAM_GNS_LIBRARY", raising=False)
    told = contestants.load("reference")
    assert told == "reference is skipped: PEERGRAM_GNS_LIBRARY does not name its shared library"


@pytest.mark.parametrize("name", list(contestants.MODULES))
@pytest.mark.parametrize("kind", KINDS)
def test_every_contestant_runs_a_case_or_says_why_not(name: str, kind: str) -> None:
    reason = contestants.reason_left_out(name, KINDS[kind])
    assert reason is None or reason.startswith(f"{name} is not in {KINDS[kind]}: ")


def test_a_contestant_that_fails_is_out_of_its_case_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_once(name: str, case_name: str, seconds: float, setting: str = "") -> Run:
        if name == "pyenet":
            raise BenchError("it fell over")
        return Run(1.0, 0.0, {})

    monkeypatch.setattr(runner, "run_once", run_once)
    outcome = run_all(["bulk_reliable"], ["floor", "pyenet"], seconds=1.0, rounds=2)
    assert list(outcome.results["bulk_reliable"]) == ["floor"]
    assert len(outcome.results["bulk_reliable"]["floor"].rounds) == 2
    assert outcome.failures == ["pyenet is out of bulk_reliable: it fell over"]


def test_a_failure_shows_in_the_exit_code_and_in_no_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benches.__main__.run_all", lambda *_, **__: Outcome({}, ["peergram is out of idle: it fell over"]))
    assert main(["--only", "idle", "--contestant", "peergram"]) == 1
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("case", "best"), [("bulk_reliable", "b"), ("round_trip_64", "a")])
def test_each_setting_is_tried_once_and_the_best_one_runs(monkeypatch: pytest.MonkeyPatch, case: str, best: str) -> None:
    figures = {"a": 10.0, "b": 20.0}
    runs: list[str] = []

    def run_once(name: str, case_name: str, seconds: float, setting: str = "") -> Run:
        runs.append(setting)
        if setting == "c":
            raise BenchError("it fell over")
        return Run(figures[setting], 0.0, {})

    monkeypatch.setattr(runner, "run_once", run_once)
    monkeypatch.setattr(contestants, "settings", lambda name, case_name: ("a", "b", "c"))
    outcome = run_all([case], ["reference"], seconds=1.0, rounds=2)
    assert runs == ["a", "b", "c", best, best]
    as_json: dict[str, Any] = outcome.results[case]["reference"].as_json()
    assert as_json["setting"] == best


def test_a_disturbed_run_is_made_again_and_the_least_disturbed_one_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = iter([Run(10.0, 0.9, {}), Run(20.0, 0.4, {}), Run(15.0, 0.6, {})])
    monkeypatch.setattr(runner, "run_once", lambda *_: next(runs))
    outcome = run_all(["bulk_reliable"], ["floor"], seconds=1.0, rounds=1, repeats=2)
    assert outcome.results["bulk_reliable"]["floor"].as_json()["median"] == 20.0


def flow_figures(row: tuple[float, ...]) -> Figures:
    """Rounds of a flow with these figures."""
    return Figures("MB/s", 1.0, "", [Run(figure, 0.02, {"loss_share": 0.25, **cpu(2.5, 1.5)}) for figure in row])


def cpu(sender_us: float, receiver_us: float = 0.0) -> dict[str, float]:
    """CPU by message, as a run's details have it."""
    return {"sender_cpu_us_per_message": sender_us, "receiver_cpu_us_per_message": receiver_us}


def test_the_bench_of_frame_loops_reports_both_loops(capsys: pytest.CaptureFixture[str]) -> None:
    assert frame_loop.main(["--seconds", "0.2", "--peers", "2", "--busy", "0.2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("main loop")] == [
        "main loop busy for 0% of a frame",
        "main loop busy for 20% of a frame",
    ]
    assert sum("missed frames" in line for line in lines) == 2
