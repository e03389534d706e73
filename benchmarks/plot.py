"""Draw figures: a borrow beside the peers' on top, every figure beside its goal below."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.results import Figure

_BORROW = "borrow"
_COLOURS = {"asyncio": "#3b6ea8", "asyncio+uvloop": "#d1792c", "trio": "#4b9a5f"}
_INCHES_A_LINE = 0.27


def draw(figures: Sequence[Figure], path: Path) -> None:
    """Draw what there is to see in some figures as an SVG file."""
    borrows = [one for one in figures if one.case == _BORROW and one.name != "no pool"]
    with_goal = [one for one in figures if one.goal is not None]
    pyplot = import_module("matplotlib.pyplot")
    parameters = {"svg.hashsalt": "anyconnpool", "svg.fonttype": "none", "font.size": 9}
    with pyplot.rc_context(parameters):
        lines = [len(set(map(_full_name, shown))) + 2 for shown in (borrows, with_goal)]
        drawing, (upper, lower) = pyplot.subplots(
            2, figsize=(8, sum(lines) * _INCHES_A_LINE + 1), height_ratios=lines
        )
        _draw_borrows(upper, borrows)
        _draw_goals(lower, with_goal)
        drawing.tight_layout()
        drawing.savefig(path, format="svg", metadata={"Date": None})


def _draw_borrows(axes: Any, figures: Sequence[Figure]) -> None:
    axes.set_title("Borrow and give back, with idle connections: µs", loc="left")
    names = [one.name for one in figures]
    _draw_dots(axes, names, figures, [(one.value.median * 1e6, None) for one in figures])


def _draw_goals(axes: Any, figures: Sequence[Figure]) -> None:
    axes.set_title("In relation to the goal: met at 1 and to the left of it", loc="left")
    axes.axvline(1, color="grey", linewidth=0.8)
    dots: list[tuple[float, tuple[float, float] | None]] = []
    for one in figures:
        goal = one.goal or 1
        spread = one.ratio or one.value
        dots.append((spread.median / goal, (spread.low / goal, spread.high / goal)))
    _draw_dots(axes, list(map(_full_name, figures)), figures, dots)


def _draw_dots(
    axes: Any,
    names: Sequence[str],
    figures: Sequence[Figure],
    dots: Sequence[tuple[float, tuple[float, float] | None]],
) -> None:
    """Draw a dot, and where it is given its range, on the line of each figure's name."""
    lines = list(dict.fromkeys(names))
    for name, figure, (middle, ends) in zip(names, figures, dots, strict=True):
        colour = _COLOURS.get(figure.backend, "black")
        # Backends side by side: a little above or below the line.
        row = lines.index(name) + 0.22 * (list(_COLOURS).index(figure.backend) - 1)
        axes.plot(middle, row, "o", color=colour, markersize=4)
        if ends is not None:
            axes.plot(ends, (row, row), color=colour, linewidth=1.2)
    for backend, colour in _COLOURS.items():
        axes.plot([], [], "o", color=colour, markersize=4, label=backend)
    axes.legend(loc="best", frameon=False)
    axes.set_xscale("log", subs=[2, 5])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.set_yticks(range(len(lines)), lines)
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.grid(axis="x", linewidth=0.3)


def _full_name(figure: Figure) -> str:
    return f"{figure.case}: {figure.name}"
