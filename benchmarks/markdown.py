"""Show the exchanges, and what has a goal, as Markdown tables, as the documentation has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.backends import BACKENDS
from benchmarks.goals import FASTEST_PEER, HELD, HELD_ASYNCIO
from benchmarks.peers import PEERS
from benchmarks.results import Figure
from benchmarks.table import show_ratio, show_value

_TITLES = {
    "exchange-tcp": "an exchange, one task",
    "exchange-16": "an exchange, 16 tasks on 16 connections",
    "time-limit": "an exchange with `timeout=5`",
    "shared-64": "an exchange, 64 tasks on one shared connection",
    "shared-1": "an exchange, one task, shared",
    "bulk": "an exchange of a bulk of 10 000, shared",
    "redis-64": "a `GET` of Redis, 64 tasks",
    "borrow": "a borrow",
    "tasks-100": "a borrow, 100 tasks on 10 connections",
    "tasks-10000": "a borrow, 10 000 tasks on 10 connections",
    "packages": "a buffered package",
    "lines": "a buffered line",
    "large-packages": "a byte of a package of 16 MiB",
    "sweep": "looking over 10 000 idle connections",
    "memory": "memory of an idle connection",
}
#: the ways to exchange, as the page calls them; of the time limits, one is with the others
_WAYS = {
    ("exchange-tcp", "blocking socket"): "a blocking socket, without an event loop",
    ("exchange-tcp", HELD_ASYNCIO): "asyncio's reader and writer, kept open",
    ("exchange-tcp", "ours: a detached connection, held"): "the pool's own stream, kept open",
    ("exchange-tcp", HELD): "AnyIO's `SocketStream`, kept open",
    ("exchange-tcp", "ours: send_receive_line"): "`pool.send_receive_line()`",
    ("time-limit", "ours, timeout=5"): "the same with `timeout=5`",
    (
        "exchange-tcp",
        "ours: acquire, send, receive",
    ): "`acquire()`, `send_line()`, `receive_line()`",
    ("exchange-tcp", "ours: run"): "the same two calls by `pool.run()`",
    ("exchange-tcp", "connect, exchange, close"): "connect, exchange, close",
}


def write_markdown(figures: Sequence[Figure], path: Path) -> None:
    """Write two tables: what exchanges take, and which goals are met."""
    judged = [figure for figure in figures if figure.met is not None]
    rows: dict[str, dict[str, Figure]] = {}
    for figure in judged:
        rows.setdefault(_title(figure), {})[figure.backend] = figure
    met = sum(bool(figure.met) for figure in judged)
    lines = [
        _head("an exchange of 64 bytes over TCP, µs"),
        *_ways(figures),
        "",
        _head("our time / theirs", "goal"),
        *(_row(title, row) for title, row in rows.items()),
        "",
        f"{met} of {len(judged)} goals are met.",
    ]
    path.write_text("\n".join(lines) + "\n", "utf-8")


def _head(*columns: str) -> str:
    names = [*columns, *(backend.rpartition("+")[2] for backend in BACKENDS)]
    return f"| {' | '.join(names)} |\n{'|---' * len(names)}|"


def _ways(figures: Sequence[Figure]) -> Iterator[str]:
    for (case, name), title in _WAYS.items():
        found = {one.backend: one for one in figures if (one.case, one.name) == (case, name)}
        if found:
            cells = (
                f"{found[backend].value.median * 1e6:.3g}" if backend in found else ""
                for backend in BACKENDS
            )
            yield f"| {title} | {' | '.join(cells)} |"


def _title(figure: Figure) -> str:
    joint = " / " if figure.ratio is not None else ": "
    # Who is the fastest may differ from one event loop to the other.
    name = FASTEST_PEER if figure.name in PEERS and figure.case != "borrow" else figure.name
    return _TITLES.get(figure.case, figure.case) + joint + name


def _row(title: str, row: Mapping[str, Figure]) -> str:
    goals = dict.fromkeys(_show(figure, figure.goal or 0) for figure in row.values())
    cells = (_judged(row[backend]) if backend in row else "" for backend in BACKENDS)
    return f"| {title} | {', '.join(goals)} | {' | '.join(cells)} |"


def _judged(figure: Figure) -> str:
    """Return the median, bold if the goal is met, and the quartiles."""
    spread = figure.ratio or figure.value
    median = _show(figure, spread.median)
    text = f"**{median}**" if figure.met else median
    if figure.rounds == 1:
        return text
    return f"{text} ({_show(figure, spread.low)} to {_show(figure, spread.high)})"


def _show(figure: Figure, number: float) -> str:
    return show_value(number, figure.unit) if figure.ratio is None else show_ratio(number)
