"""Show figures as a table of text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.results import Figure, Spread, Unit, round_ratio

_HEADER = ("", "median", "quartiles", "ours/it", "quartiles", "goal", "")
_SCALES: dict[Unit, tuple[tuple[float, str], ...]] = {
    "s": ((1, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")),
    "s/s": ((1e-3, "ms/s"),),
    "B": ((1, "B"),),
}


def render(facts: Mapping[str, Any], figures: Sequence[Figure]) -> str:
    """Return the whole table."""
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    cells = [_cells(figure) for figure in figures]
    widths = [max(map(len, column)) for column in zip(_HEADER, *cells, strict=True)]
    lines = [
        f"{facts['python']} on {facts['platform']}, {facts['processors']} processors, "
        f"of which {'one is used' if facts['one_processor'] else 'all are used'}, "
        f"load {facts['load'][0]} at the start",
        versions,
        "",
        _line(_HEADER, widths),
    ]
    previous = None
    for figure, row in zip(figures, cells, strict=True):
        title = f"{figure.backend} · {figure.case}, per {figure.per}"
        if title != previous:
            lines += ["", title]
        lines.append(_line(row, widths))
        previous = title
    return "\n".join([*lines, "", _verdict(figures)])


def show_value(value: float, unit: Unit) -> str:
    """Return a value in the unit that suits its size."""
    scales = _SCALES[unit]
    scale, name = next((one for one in scales if abs(value) >= one[0]), scales[-1])
    return f"{_three_digits(value / scale)} {name}"


def show_ratio(ratio: float) -> str:
    """Return a ratio with as many digits as mean something."""
    return f"{round_ratio(ratio):g}"


def _cells(figure: Figure) -> tuple[str, ...]:
    spread = figure.value
    quartiles = "" if figure.rounds == 1 else _quartiles(spread, figure.unit)
    ratio, ratio_quartiles = "", ""
    if figure.ratio is not None:
        ratio = show_ratio(figure.ratio.median)
        ratio_quartiles = f"{show_ratio(figure.ratio.low)} - {show_ratio(figure.ratio.high)}"
    return (
        figure.name,
        show_value(spread.median, figure.unit),
        quartiles,
        ratio,
        ratio_quartiles,
        _goal(figure),
        _judge(figure),
    )


def _quartiles(spread: Spread, unit: Unit) -> str:
    return f"{show_value(spread.low, unit)} - {show_value(spread.high, unit)}"


def _goal(figure: Figure) -> str:
    if figure.goal is None:
        return ""
    if figure.ratio is None:
        return f"≤ {show_value(figure.goal, figure.unit)}"
    return f"≤ {figure.goal:.3g}"


def _judge(figure: Figure) -> str:
    if figure.met is None:
        return ""
    return ("met" if figure.met else "MISSED") + ("?" if figure.in_doubt else "")


def _three_digits(number: float) -> str:
    decimals = 2 if abs(number) < 10 else 1 if abs(number) < 100 else 0
    return f"{number:.{decimals}f}"


def _line(cells: Iterable[str], widths: Sequence[int]) -> str:
    first, *others = zip(cells, widths, strict=True)
    line = "  " + first[0].ljust(first[1])
    return (line + "".join("  " + cell.rjust(width) for cell, width in others)).rstrip()


def _verdict(figures: Iterable[Figure]) -> str:
    judged = [figure for figure in figures if figure.met is not None]
    met = sum(bool(figure.met) for figure in judged)
    in_doubt = sum(figure.in_doubt for figure in judged)
    return f"{met} of {len(judged)} goals met; {in_doubt} of these verdicts in doubt (?)"
