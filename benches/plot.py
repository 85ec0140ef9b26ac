"""The picture of `docs/benchmarks.md`: a panel per case, a dot per contestant at its median, a line from minimum to maximum.

The scale is logarithmic (but for shares), since contestants lie up to a thousandfold apart; bars would have no honest foot on it.
The same results give the same file, byte for byte.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from pathlib import Path
from typing import Any

from benches.cases import CASES
from benches.runner import Figures, Results

_COLUMNS = 2
_PANEL_INCHES = (4.6, 1.75)
_OWN = "peergram"
_COLOR = "#6b7785"
_OWN_COLOR = "#c2410c"
_GRID_COLOR = "#e3e6ea"
_STYLE = {
    "svg.hashsalt": "benchmarks",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
}


def missing() -> str | None:
    """It needs a package of the extra `bench`."""
    found = importlib.util.find_spec("matplotlib")
    return None if found else "the picture is left out: matplotlib is not installed (pip install 'peergram[bench]')"


def draw(results: Results, path: Path) -> None:
    """Write the picture as the path's suffix says (`.svg`, `.png`)."""
    matplotlib: Any = importlib.import_module("matplotlib")
    figure_class: Any = importlib.import_module("matplotlib.figure").Figure
    with matplotlib.rc_context(_STYLE):
        rows = math.ceil(len(results) / _COLUMNS)
        columns = min(_COLUMNS, len(results))
        size = (_PANEL_INCHES[0] * columns, _PANEL_INCHES[1] * rows)
        figure = figure_class(figsize=size, layout="constrained", facecolor="white")
        panels = figure.subplots(rows, columns, squeeze=False).flatten()
        for panel, (case, of_case) in zip(panels, results.items(), strict=False):
            _draw_panel(panel, case, of_case)
        for panel in panels[len(results) :]:
            panel.axis("off")
        # No date and no program version: the file changes when the figures do.
        metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
        figure.savefig(path, metadata=metadata, dpi=110)


def _draw_panel(panel: Any, case_name: str, of_case: dict[str, Figures]) -> None:
    case = CASES[case_name]
    direction = "lower is better" if case.is_lower_better else "higher is better"
    panel.set_title(f"{case_name}  ({case.unit}, {direction})", loc="left")
    is_share = case.unit.startswith("%")
    panel.set_xscale("linear" if is_share else "log")
    names = list(of_case)
    for row, name in enumerate(names):
        values = of_case[name].as_json()
        # Memory does not always grow; a logarithmic scale ends above nothing.
        low, middle, high = (max(values[key], 0.1) for key in ("min", "median", "max"))
        color = _OWN_COLOR if name == _OWN else _COLOR
        panel.plot([low, high], [row, row], color=color, linewidth=2, solid_capstyle="round")
        panel.plot([middle], [row], marker="o", markersize=5, color=color)
        panel.annotate(
            _label(values["median"]), (high, row), xytext=(6, 0), textcoords="offset points", va="center", color=color, fontsize=7
        )
    panel.set_yticks(range(len(names)), names)
    for tick, name in zip(panel.get_yticklabels(), names, strict=True):
        tick.set_color(_OWN_COLOR if name == _OWN else "black")
    panel.set_ylim(len(names) - 0.5, -0.5)
    # Room for the label to the right of the largest dot.
    left, right = panel.get_xlim()
    panel.set_xlim((0, 115) if is_share else (left, right * (right / left) ** 0.16))
    panel.xaxis.set_major_formatter(lambda value, _position: _tick(value))
    panel.grid(axis="x", color=_GRID_COLOR, linewidth=0.7)
    panel.set_axisbelow(True)
    panel.minorticks_off()
    for side in ("top", "right", "left"):
        panel.spines[side].set_visible(False)
    panel.tick_params(axis="y", length=0)


def _tick(value: float) -> str:
    for size, letter in ((1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _label(value: float) -> str:
    if value >= 1e6:
        return f"{value / 1e6:.2f} M"
    if value >= 1e4:
        return f"{value / 1e3:.0f} k"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
