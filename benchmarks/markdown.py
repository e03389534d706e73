"""Show the figures that have a goal as a Markdown table, as the documentation has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.backends import BACKENDS
from benchmarks.results import Figure
from benchmarks.table import show_value

_TITLES = {
    "tasks-100": "100 tasks over 10 connections",
    "tasks-10000": "10 000 tasks over 10 connections",
    "exchange-tcp": "exchange of 64 B, TCP",
    "exchange-tls": "exchange of 64 B, TLS",
    "exchange-unix": "exchange of 64 B, UNIX",
    "packages": "a buffered package",
    "lines": "a buffered line",
    "sweep": "sweep over 10 000 idle connections",
    "memory": "memory of an idle connection",
}


def write_markdown(figures: Sequence[Figure], path: Path) -> None:
    """Write the table, and how many goals are met."""
    judged = [figure for figure in figures if figure.met is not None]
    rows: dict[str, dict[str, Figure]] = {}
    for figure in judged:
        rows.setdefault(_title(figure), {})[figure.backend] = figure
    met = sum(bool(figure.met) for figure in judged)
    lines = [
        f"| ours / theirs | goal | {' | '.join(BACKENDS)} |",
        "|---" * (len(BACKENDS) + 2) + "|",
        *(_row(title, row) for title, row in rows.items()),
        "",
        f"{met} of {len(judged)} goals are met.",
    ]
    path.write_text("\n".join(lines) + "\n", "utf-8")


def _title(figure: Figure) -> str:
    joint = " / " if figure.ratio is not None else ": "
    return _TITLES.get(figure.case, figure.case) + joint + figure.name


def _row(title: str, row: Mapping[str, Figure]) -> str:
    goal = next(_show(figure, figure.goal or 0) for figure in row.values())
    cells = (_judged(row[backend]) if backend in row else "" for backend in BACKENDS)
    return f"| {title} | {goal} | {' | '.join(cells)} |"


def _judged(figure: Figure) -> str:
    """Return the median: bold if the goal is met, with a question mark if that is in doubt."""
    text = _show(figure, (figure.ratio or figure.value).median) + "?" * figure.in_doubt
    return f"**{text}**" if figure.met else text


def _show(figure: Figure, number: float) -> str:
    return show_value(number, figure.unit) if figure.ratio is None else f"{number:.3g}"
