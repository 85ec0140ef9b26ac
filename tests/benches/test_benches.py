"""The benchmark program itself: a very short run has the promised shape, and absent contestants are skipped with a sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benches import contestants, floor, report
from benches.__main__ import main
from benches.cases import CASES
from benches.runner import Figures, Run

needs_floor = pytest.mark.skipif(floor.missing() is not None, reason=f"the floor cannot run here: {floor.missing()}")


@needs_floor
def test_a_short_round_of_the_floor_gives_figures_of_the_promised_shape(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    assert main(["--contestant", "floor", "--seconds", "0.2", "--rounds", "1", "--repeats", "0", "--json", str(file)]) == 0
    figures = json.loads(file.read_text(encoding="utf-8"))
    assert list(figures) == ["bulk_reliable", "unreliable_100"]
    for case, of_case in figures.items():
        assert list(of_case) == ["floor"]
        of_floor = of_case["floor"]
        assert of_floor["unit"] == CASES[case].unit
        assert 0 < of_floor["min"] <= of_floor["median"] <= of_floor["max"]
        assert 0 <= of_floor["loss_share"] <= 1
        assert of_floor["sender_cpu_s"] > 0
        assert of_floor["receiver_cpu_s"] > 0


def test_the_page_shows_every_contestant_with_its_ratio_to_the_floor(tmp_path: Path) -> None:
    slow, fast = (
        Figures("MB/s", 1.0, [Run(figure, 0.25, 0.5, 0.5, 0.02) for figure in row]) for row in ((40, 50, 60), (200, 100, 90))
    )
    page = tmp_path / "page.md"
    report.write_page({"bulk_reliable": {"floor": fast, "pyenet": slow}}, ["nobody is skipped: it is tired"], page)
    text = page.read_text(encoding="utf-8")
    assert "| pyenet | 50.0 | 40.0 | 60.0 | 40% | 0.50 × | 25.0% | 0.50 s | 0.50 s | 2% |" in text
    assert "* nobody is skipped: it is tired" in text


def test_a_contestant_without_a_module_is_skipped_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(contestants.MODULES, "nobody", "benches.nobody")
    assert contestants.load("nobody") == "nobody is skipped: there is no module benches.nobody"
