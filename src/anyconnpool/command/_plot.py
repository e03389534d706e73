"""Draw throughput and latency against the size of the pool."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from anyconnpool.command._reasons import CommandError
from anyconnpool.command._results import Point, Report

#: what a plot's name may end with
SUFFIXES = (".svg", ".png")

_BLUE, _ORANGE = "#3b6ea8", "#d1792c"


def draw(title: str, report: Report, path: Path) -> None:
    """Write a plot of the report.

    :param path: where to; its suffix says in which format
    :raises CommandError: if the file can't be written
    """
    # Not pyplot, which looks for a display.
    figure: Any = import_module("matplotlib.figure").Figure(figsize=(7, 6.5), layout="constrained")
    upper, lower = figure.subplots(2, sharex=True)
    figure.suptitle(title, fontsize=10, parse_math=False)
    sizes = [point.max_size for point in report.pooled]
    _draw_throughput(upper, sizes, report)
    _draw_latency(lower, sizes, report)
    for axes in (upper, lower):
        axes.grid(linewidth=0.3)
        axes.legend(fontsize=9, edgecolor="none", framealpha=0.9)
    lower.set_xlabel("max_size: connections in the pool")
    lower.set_xscale("log", base=2)
    lower.set_xticks(sizes, [str(size) for size in sizes])
    lower.xaxis.set_minor_locator(import_module("matplotlib.ticker").NullLocator())
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise CommandError(f"--plot {path}: {error.strerror or error}") from error


def _draw_throughput(axes: Any, sizes: list[int | None], report: Report) -> None:
    throughputs = [point.throughput for point in report.pooled]
    axes.plot(sizes, throughputs, "o-", color=_BLUE, label="pooled")
    if report.unpooled is not None:
        axes.axhline(
            report.unpooled.throughput,
            color=_BLUE,
            linestyle="--",
            label="connect, exchange, close",
        )
    axes.set_ylabel("requests per second")
    axes.set_ylim(bottom=0)


def _draw_latency(axes: Any, sizes: list[int | None], report: Report) -> None:
    for name, colour, pick in (("p50", _BLUE, _p50), ("p99", _ORANGE, _p99)):
        latencies = [pick(point) for point in report.pooled]
        axes.plot(sizes, latencies, "o-", color=colour, label=f"{name} pooled")
        if report.unpooled is not None and report.unpooled.answered:
            latency = pick(report.unpooled)
            axes.axhline(latency, color=colour, linestyle="--", label=f"{name} unpooled")
    axes.set_ylabel("latency, ms")
    axes.set_yscale("log", subs=[2, 5])
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")


def _p50(point: Point) -> float:
    return point.latency["p50"] * 1000


def _p99(point: Point) -> float:
    return point.latency["p99"] * 1000
