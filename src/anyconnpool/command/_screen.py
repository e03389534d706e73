"""What a person sees on a terminal: how it goes, and then a table."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

from anyconnpool import PoolStatistics
from anyconnpool.command._measure import Meter
from anyconnpool.command._results import Advice, Point, Report

if TYPE_CHECKING:
    from typing_extensions import Self

_COLUMNS = ("max_size", "requests/s", "p50", "p90", "p99", "max", "waiting", "reused", "errors")
_CAPTION = (
    "p50 to max: milliseconds from asking for a connection to the reply.\n"
    "waiting: the part of that time until there was a connection."
)
_BAR_WIDTH = 10


class LiveProgress:
    """A line for each point on standard error, if that is a terminal; removed at the end.

    :param duration: of a point, in seconds
    """

    def __init__(self, duration: float) -> None:
        console = Console(stderr=True)
        # Drawn when we say so, and not from a thread of its own.
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(_BAR_WIDTH),
            TextColumn("{task.fields[rate]}", justify="right"),
            TextColumn("{task.fields[state]}"),
            console=console,
            auto_refresh=False,
            transient=True,
            disable=not console.is_terminal,
        )
        self._duration = duration
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
            completed=meter.elapsed,
            rate=f"{meter.throughput:.0f}/s",
            state="" if statistics is None else _describe(statistics),
            refresh=True,
        )

    def _start_line(self, size: int | None) -> None:
        for earlier in self._progress.task_ids:
            self._progress.update(earlier, state="")
        title = "no pool" if size is None else f"max_size {size}"
        self._line = self._progress.add_task(title, total=self._duration, rate="", state="")


def _describe(statistics: PoolStatistics) -> str:
    return (
        f"{statistics.idle} idle, {statistics.in_use} in use, "
        f"{statistics.connecting} connecting, {statistics.tasks_waiting} waiting"
    )


def show_report(title: str, report: Report, advice: Advice) -> None:
    """Print what was measured, and what follows from it."""
    console = Console(highlight=False)
    if report.interrupted:
        console.print("Interrupted: this is what there is so far.\n", style="yellow")
    console.print(title, markup=False)
    if report.points:
        console.print(_table(report, advice), _CAPTION)
    for line in _error_lines(report.points):
        console.print(line, style="red", markup=False)
    console.print(f"\n{advice.text}", style="bold", markup=False)


def _table(report: Report, advice: Advice) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in _COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    for point in report.points:
        chosen = point.max_size is not None and point.max_size == advice.max_size
        table.add_row(*cells(point), style="bold green" if chosen else None)
    return table


def cells(point: Point) -> Sequence[str]:
    """Return a row of the table."""
    times = [milliseconds(time) for time in (point.p50, point.p90, point.p99, point.longest)]
    return (
        "no pool" if point.max_size is None else str(point.max_size),
        f"{point.throughput:.0f}",
        *(times if point.answered else ["-"] * 4),
        f"{point.waiting:.0%}" if point.answered else "-",
        "-" if point.max_size is None else f"{point.reused:.1%}",
        str(point.failed),
    )


def milliseconds(seconds: float) -> str:
    """Return a duration with as many digits as one can believe."""
    value = seconds * 1000
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


def _error_lines(points: Sequence[Point]) -> list[str]:
    return [
        f"{'without a pool' if point.max_size is None else f'max_size {point.max_size}'}: "
        f"{count} failed: {what}"
        for point in points
        for what, count in point.errors.items()
    ]
