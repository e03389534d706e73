"""Show figures as a table of text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from benchmarks.results import Figure, Spread, Unit

_HEADER = ("", "median", "quartiles", "ours/it", "quartiles", "goal", "")
_SCALES: dict[Unit, tuple[tuple[float, str], ...]] = {
    "s": ((1, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")),
    "s/s": ((1e-3, "ms/s"),),
    "B": ((1, "B"),),
}


def render(facts: Mapping[str, Any], figures: Sequence[Figure]) -> str:
    """Return the whole table."""
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    lines = [
        f"{facts['python']} on {facts['platform']}, {facts['processors']} processors, "
        f"load {facts['load'][0]} at the start",
        versions,
    ]
    blocks = [
        ((f"{backend} · {case}, per {per}", "", "", "", "", "", ""), *map(_cells, group))
        for (backend, case, per), group in groupby(
            figures, key=lambda figure: (figure.backend, figure.case, figure.per)
        )
    ]
    widths = [
        max(len(row[column]) for row in (_HEADER, *(row for block in blocks for row in block[1:])))
        for column in range(len(_HEADER))
    ]
    for block in blocks:
        lines += ["", _line((block[0][0], *_HEADER[1:]), widths)]
        lines += [_line((f"  {row[0]}", *row[1:]), widths) for row in block[1:]]
    return "\n".join([*lines, "", _verdict(figures)])


def show_value(value: float, unit: Unit) -> str:
    """Return a value in the unit that suits its size."""
    scales = _SCALES[unit]
    scale, name = next((one for one in scales if abs(value) >= one[0]), scales[-1])
    return f"{value / scale:#.3g}".rstrip(".") + f" {name}"


def _cells(figure: Figure) -> tuple[str, ...]:
    spread = figure.value
    quartiles = "" if figure.rounds == 1 else _quartiles(spread, figure.unit)
    ratio, ratio_quartiles = "", ""
    if figure.ratio is not None:
        ratio = f"{figure.ratio.median:.3f}"
        ratio_quartiles = f"{figure.ratio.low:.3f} – {figure.ratio.high:.3f}"
    return (
        figure.name,
        show_value(spread.median, figure.unit),
        quartiles,
        ratio,
        ratio_quartiles,
        _goal(figure),
        {None: "", True: "met", False: "NOT MET"}[figure.met],
    )


def _quartiles(spread: Spread, unit: Unit) -> str:
    return f"{show_value(spread.low, unit)} – {show_value(spread.high, unit)}"


def _goal(figure: Figure) -> str:
    if figure.goal is None:
        return ""
    if figure.ratio is None:
        return f"≤ {show_value(figure.goal, figure.unit)}"
    return f"≤ {figure.goal:.3g}"


def _line(cells: Iterable[str], widths: Sequence[int]) -> str:
    first, *others = zip(cells, widths, strict=True)
    line = first[0].ljust(first[1] + 2)
    return (line + "".join("  " + cell.rjust(width) for cell, width in others)).rstrip()


def _verdict(figures: Iterable[Figure]) -> str:
    verdicts = [figure.met for figure in figures if figure.met is not None]
    return f"{sum(verdicts)} of {len(verdicts)} goals met"
