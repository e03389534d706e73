"""What a person sees on a terminal: how it goes, and then a table."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TaskID, TextColumn
from rich.table import Table

from anyconnpool import PoolStatistics
from anyconnpool.command._advice import Advice
from anyconnpool.command._measure import Meter
from anyconnpool.command._results import LATENCIES, Point, Report

if TYPE_CHECKING:
    from typing_extensions import Self

_COLUMNS = ("max_size", "requests/s", "±", *LATENCIES, "waiting", "reused", "bytes/s", "errors")
# On a narrow screen, columns go in this order. The others stay.
_DISPENSABLE = ("bytes/s", "±", "max", "p90", "p99.9", "waiting", "reused", "p50")
_CAPTION = """\
p50 to max: milliseconds from {since} to the reply.
waiting: the part of that time until there was a connection.
"""
# Narrower than this, the live lines have no room for the pool's state, and then for a bar.
_STATE_WIDTH, _BAR_SCREEN_WIDTH = 80, 40
_HISTOGRAM_WIDTH = 40
_UNBOUNDED = 1_000
_UNITS = ("", " k", " M", " G")
# Below this share of reused connections, one should know why.
_SELDOM = 0.5
_BAR_WIDTH = 10


class LiveProgress:
    """A line for each point on standard error, if that is a terminal; removed at the end."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        columns: list[ProgressColumn] = [TextColumn("{task.description}")]
        if console.width >= _BAR_SCREEN_WIDTH:
            columns.append(BarColumn(_BAR_WIDTH))
        columns.append(TextColumn("{task.fields[rate]}", justify="right"))
        if console.width >= _STATE_WIDTH:
            columns.append(TextColumn("{task.fields[state]}"))
        # Drawn when we say so, and not from a thread of its own.
        self._progress = Progress(
            *columns,
            console=console,
            auto_refresh=False,
            transient=True,
            disable=not console.is_terminal,
        )
        self._line = TaskID(0)
        self._meter: Meter | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def look(self, size: int | None, meter: Meter, statistics: PoolStatistics | None) -> None:
        """Draw where things stand."""
        if meter is not self._meter:
            self._meter = meter
            self._start_line(size)
        self._progress.update(
            self._line,
            completed=meter.progress,
            rate=f"{meter.throughput:.0f}/s",
            state="" if statistics is None else _describe(statistics),
            refresh=True,
        )

    def _start_line(self, size: int | None) -> None:
        for earlier in self._progress.task_ids:
            self._progress.update(earlier, state="")
        title = "no pool" if size is None else f"max_size {size}"
        self._line = self._progress.add_task(title, total=1, rate="", state="")


def _describe(statistics: PoolStatistics) -> str:
    return (
        f"{statistics.idle} idle, {statistics.in_use} in use, "
        f"{statistics.connecting} connecting, {statistics.tasks_waiting} waiting"
    )


def show_report(title: str, report: Report, advice: Advice, *, since: str, histogram: bool) -> None:
    """Print what was measured, and what follows from it.

    :param since: from when latencies count
    """
    console = Console(highlight=False)
    if report.interrupted:
        console.print("Interrupted: this is what there is so far.\n", style="yellow")
    console.print(title, markup=False)
    if report.points:
        _print_table(console, report, advice)
        console.print(_CAPTION.format(since=since), end="")
    for point in report.points if histogram else ():
        _print_histogram(console, point)
    for line in _remarks(report.points):
        console.print(line, style="red", markup=False)
    console.print(f"\n{advice.text}", style="bold", markup=False)


def _print_table(console: Console, report: Report, advice: Advice) -> None:
    shown = list(_COLUMNS)
    table = _table(shown, report, advice)
    # A file or a pipe has no width, unless somebody says so.
    bounded = console.is_terminal or "COLUMNS" in os.environ
    left_out: list[str] = []
    for column in _DISPENSABLE if bounded else ():
        if _width(console, table) <= console.width:
            break
        shown.remove(column)
        left_out.append(column)
        table = _table(shown, report, advice)
    # Also where the rest is too wide for the screen: digits that go on below are still digits.
    wide = Console(highlight=False, width=max(console.width, _width(console, table)))
    wide.print(table, crop=False)
    if left_out:
        console.print(f"Left out, as the screen is narrow: {', '.join(left_out)} (see --json).")


def _width(console: Console, table: Table) -> int:
    return console.measure(table, options=console.options.update(max_width=_UNBOUNDED)).maximum


def _table(shown: Sequence[str], report: Report, advice: Advice) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in shown:
        table.add_column(column, justify="right", no_wrap=True)
    for point in report.points:
        chosen = point.max_size is not None and point.max_size == advice.max_size
        row = cells(point)
        table.add_row(*(row[name] for name in shown), style="bold green" if chosen else None)
    return table


def cells(point: Point) -> Mapping[str, str]:
    """Return a row of the table, by the names of the columns."""
    latencies = {
        name: milliseconds(time) if point.answered else "-" for name, time in point.latency.items()
    }
    return {
        "max_size": "no pool" if point.max_size is None else str(point.max_size),
        "requests/s": f"{point.throughput:.0f}",
        "±": "-" if math.isinf(point.noise) else f"{point.noise:.0%}",
        **latencies,
        "waiting": f"{point.waiting:.0%}" if point.answered else "-",
        "reused": "-" if point.pool is None else f"{point.pool.reused:.1%}",
        "bytes/s": quantity(point.sent + point.received),
        "errors": str(point.failed),
    }


def milliseconds(seconds: float) -> str:
    """Return a duration with as many digits as one can believe."""
    value = seconds * 1000
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


def quantity(value: float) -> str:
    """Return a large number in a few letters: 1.23 M."""
    unit = 0
    # What would be rounded to 1000 belongs to the next unit.
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value /= 1000
        unit += 1
    digits = 0 if not unit or value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f}{_UNITS[unit]}"


def _print_histogram(console: Console, point: Point) -> None:
    console.print(f"\nlatencies {point.name}, in milliseconds:", markup=False)
    most = max((bar.count for bar in point.histogram), default=0)
    for bar in point.histogram:
        row = (
            f"{milliseconds(bar.lower):>6} to {milliseconds(bar.upper):>6} "
            f"{bar.count:>8} {bar.count / point.answered:>6.1%} "
        )
        room = max(0, min(_HISTOGRAM_WIDTH, console.width - len(row)))
        # One that is not empty is seen.
        length = math.ceil(bar.count / most * room)
        console.print((row + "#" * length).rstrip(), markup=False, crop=False, soft_wrap=True)


def _remarks(points: Sequence[Point]) -> list[str]:
    """Return what has to be known beside the figures."""
    remarks: list[str] = []
    for point in points:
        remarks += [f"{point.name}: {count} failed: {what}" for what, count in point.errors.items()]
        if point.fell_behind:
            remarks.append(
                f"{point.name}: the rate was not reached: {point.missed} requests were due and had "
                f"not been begun at the end; their latencies are not in the figures"
            )
        if point.pool is not None and point.pool.reused < _SELDOM and not point.errors:
            reasons = ", ".join(f"{why} {count}" for why, count in point.pool.closed.items())
            closed = f"; closed: {reasons}" if reasons else ""
            remarks.append(f"{point.name}: connections are seldom reused{closed}")
    return remarks
