"""What a person sees on a terminal: how it goes, and then a table."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from anyconnpool import PoolStatistics
from anyconnpool.command._advice import Advice
from anyconnpool.command._measure import Meter
from anyconnpool.command._results import LATENCIES, SELDOM, Point, Report, Rest, Share

if TYPE_CHECKING:
    from typing_extensions import Self

_COLUMNS = ("max_size", "requests/s", "±", *LATENCIES, "waiting", "reused", "bytes/s", "errors")
# On a narrow screen, columns go in this order. The others stay.
_DISPENSABLE = ("bytes/s", "±", "max", "p90", "p99.9", "waiting", "reused", "p50")
_SHARE_COLUMNS = ("max_size", "server", "requests", "share", "errors", "connections", "rests")
_DISPENSABLE_SHARES = ("share", "connections", "rests")
_NO_SERVER = "(not known)"
# So many rests of a server are told one by one.
_MOST_RESTS = 5
_CAPTION = """\
p50 to max: milliseconds from {since} to the reply.
waiting: the part of that time until there was a connection.
"""
# Narrower than this, the live lines have no room for the pool's state, and then for a bar; or for
# those of servers, whose names may be longer than "max_size 1000000".
_STATE_WIDTH, _BAR_SCREEN_WIDTH = 80, 40
_SIZE_WIDTH, _RATE_WIDTH = 16, 10
_HISTOGRAM_WIDTH = 40
_UNBOUNDED = 1_000
_UNITS = ("", " k", " M", " G")
_BAR_WIDTH = 10


class LiveProgress:
    """A line for each point on standard error, if that is a terminal; removed at the end.

    :param servers: the names of several servers, each of which has a line below the last one
    """

    def __init__(self, servers: Collection[str] = ()) -> None:
        console = Console(stderr=True)
        indented = max((len(name) + 2 for name in servers), default=0)
        room = console.width
        self._shows_servers = 0 < indented <= room - _RATE_WIDTH
        if self._shows_servers:
            room -= max(0, indented - _SIZE_WIDTH)
        # Names may have brackets.
        columns: list[ProgressColumn] = [TextColumn("{task.description}", markup=False)]
        if room >= _BAR_SCREEN_WIDTH:
            columns.append(BarColumn(_BAR_WIDTH))
        columns.append(TextColumn("{task.fields[rate]}", justify="right"))
        if room >= _STATE_WIDTH:
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
        #: those of servers
        self._lines: list[TaskID] = []
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
        )
        if self._shows_servers and meter.spread is not None:
            self._show_servers(meter.spread.shares(), meter.elapsed)
        self._progress.refresh()

    def _start_line(self, size: int | None) -> None:
        for line in self._lines:
            self._progress.remove_task(line)
        self._lines.clear()
        for earlier in self._progress.task_ids:
            self._progress.update(earlier, state="")
        title = "no pool" if size is None else f"max_size {size}"
        self._line = self._progress.add_task(title, total=1, rate="", state="")

    def _show_servers(self, shares: Sequence[Share], elapsed: float) -> None:
        known = [share for share in shares if share.remote is not None]
        total = max(sum(share.answered for share in known), 1)
        while len(self._lines) < len(known):
            self._lines.append(self._progress.add_task("", total=1, rate="", state=""))
        for line, share in zip(self._lines, known, strict=True):
            rests = bool(share.rests) and share.rests[-1].ended is None
            self._progress.update(
                line,
                description=f"  {share.remote}",
                completed=share.answered / total,
                rate="rests" if rests else f"{share.answered / elapsed:.0f}/s",
                state="" if share.connections is None else f"{share.connections} connections",
            )


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
        _print_fitting(console, _COLUMNS, _DISPENSABLE, lambda shown: _table(shown, report, advice))
        console.print(_CAPTION.format(since=since), end="")
        if any(point.shares for point in report.points):
            _print_fitting(
                console,
                _SHARE_COLUMNS,
                _DISPENSABLE_SHARES,
                lambda shown: _share_table(shown, report),
            )
    for point in report.points if histogram else ():
        _print_histogram(console, point)
    for line in _remarks(report.points):
        console.print(line, style="red", markup=False)
    console.print(f"\n{advice.text}", style="bold", markup=False)


def _print_fitting(
    console: Console,
    columns: Sequence[str],
    dispensable: Sequence[str],
    make: Callable[[Sequence[str]], Table],
) -> None:
    """Print a table with as many columns as there is room for.

    :param dispensable: the columns that may be left out, the first one first
    :param make: makes the table with some of the columns
    """
    shown = list(columns)
    table = make(shown)
    # A file or a pipe has no width, unless somebody says so.
    bounded = console.is_terminal or "COLUMNS" in os.environ
    left_out: list[str] = []
    for column in dispensable if bounded else ():
        if _width(console, table) <= console.width:
            break
        shown.remove(column)
        left_out.append(column)
        table = make(shown)
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


def _share_table(shown: Sequence[str], report: Report) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in shown:
        is_name = column == "server"
        table.add_column(column, justify="left" if is_name else "right", no_wrap=True)
    for point in report.points:
        # The size stands in the first row of it only.
        size = "no pool" if point.max_size is None else str(point.max_size)
        for share in point.shares:
            row = {"max_size": size, **share_cells(share, point.answered)}
            # A name is no markup.
            table.add_row(*(Text(row[name]) for name in shown))
            size = ""
    return table


def share_cells(share: Share, answered: int) -> Mapping[str, str]:
    """Return a row of the table of servers, by the names of the columns except the size.

    :param answered: requests that all of them have answered
    """
    return {
        "server": share.remote or _NO_SERVER,
        "requests": str(share.answered),
        "share": f"{share.answered / answered:.0%}" if answered else "-",
        "errors": str(share.failed),
        "connections": "-" if share.connections is None else str(share.connections),
        "rests": "-" if share.connections is None else str(len(share.rests)),
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
        if point.pool is not None and point.pool.reused < SELDOM and not point.errors:
            reasons = ", ".join(f"{why} {count}" for why, count in point.pool.closed.items())
            closed = f"; closed: {reasons}" if reasons else ""
            remarks.append(f"{point.name}: connections are seldom reused{closed}")
        for share in point.shares:
            remarks += [
                f"{point.name}: {share.remote} {_describe_rest(rest)}"
                for rest in share.rests[:_MOST_RESTS]
            ]
            if (more := len(share.rests) - _MOST_RESTS) > 0:
                remarks.append(f"{point.name}: {share.remote} rested {more} more times")
    return remarks


def _describe_rest(rest: Rest) -> str:
    end = "was not back at the end" if rest.ended is None else f"was back at {rest.ended:.1f} s"
    return f"rested from {rest.began:.1f} s on ({rest.error}) and {end}"
