"""The command ``load``: measure, show, draw."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from anyconnpool.command._advice import Advice, advise, unasked
from anyconnpool.command._output import standard_output
from anyconnpool.command._reasons import CommandError, require
from anyconnpool.command._results import Report
from anyconnpool.command._run import INTERRUPTED, run
from anyconnpool.command._sweep import Plan, Watcher, measure
from anyconnpool.command._target import Service

_ASKED = "asking for a connection"


@dataclass(frozen=True)
class Load:
    """A load, and where its results go.

    :ivar plan: what to measure
    :ivar backend: on which event loop
    :ivar format: of the messages
    :ivar payload_bytes: their size; ``None`` if they differ in size
    :ivar json: whether a machine reads the results, instead of a person
    :ivar histogram: whether people are shown histograms
    :ivar plot: where to draw them
    :ivar limits: by the name of a latency, what it must not exceed with a pool, in seconds
    """

    plan: Plan
    backend: str
    format: str
    payload_bytes: int | None
    json: bool
    histogram: bool
    plot: Path | None
    limits: Sequence[tuple[str, float]]

    def run(self) -> int:
        """Measure, and show the results.

        :return: the program's exit code
        :raises CommandError: if a request failed, more came than replies, or a latency exceeds its
            limit
        """
        if self.plot is not None:
            require("matplotlib", "cli")
        report = Report()
        if self.json:
            self._measure(report, None)
        else:
            require("rich", "cli")
            screen = import_module("anyconnpool.command._screen")
            servers = [*map(str, self.plan.target.servers)]
            with screen.LiveProgress(servers if len(servers) > 1 else ()) as progress:
                self._measure(report, progress)
        self._show(report)
        if report.interrupted:
            return INTERRUPTED
        _check_failures(report)
        self._check_limits(report)
        return 0

    def _measure(self, report: Report, watcher: Watcher | None) -> None:
        report.interrupted = run(self.backend, lambda: measure(self.plan, report, watcher))

    def _show(self, report: Report) -> None:
        advice = advise(report.pooled, self.plan.tasks, self.plan.extent.rate)
        with standard_output() as output:
            if self.json:
                json.dump(self._as_json(report, advice), output, indent=2)
                output.write("\n")
            else:
                screen: Any = import_module("anyconnpool.command._screen")
                since = "when a request was due" if self.plan.extent.rate else _ASKED
                screen.show_report(
                    self._title, report, advice, since=since, histogram=self.histogram
                )
        if self.plot is not None and report.pooled:
            import_module("anyconnpool.command._plot").draw(self._title, report, self.plot)

    def _check_limits(self, report: Report) -> None:
        exceeded = [
            f"{name} is {point.latency[name]:.4g} s with {point.name}, above {limit:g} s"
            for point in report.pooled
            for name, limit in self.limits
            if point.latency[name] > limit
        ]
        if exceeded:
            raise CommandError(f"--fail-above: {'; '.join(exceeded)}")

    @property
    def _title(self) -> str:
        extent = self.plan.extent
        size = "varying size" if self.payload_bytes is None else f"{self.payload_bytes} bytes"
        each = f"{extent.duration:g} s" if math.isfinite(extent.duration) else ""
        each = each or f"{extent.requests:g} requests"
        shared = f", pipeline {self.plan.pipeline}" if self.plan.pipeline > 1 else ""
        rate = "" if extent.rate is None else f"{extent.rate:g} requests/s, "
        order = ", in order" if self._order == "in_order" else ""
        return (
            f"{self.plan.target}{order}, {self.format} of {size}, {rate}"
            f"{self.plan.tasks} tasks, {each} each, {self.backend}{shared}"
        )

    @property
    def _order(self) -> str | None:
        target = self.plan.target
        return target.order if isinstance(target, Service) else None

    def _as_json(self, report: Report, advice: Advice) -> dict[str, object]:
        extent = self.plan.extent
        return {
            "remote": str(self.plan.target),
            "servers": [str(server) for server in self.plan.target.servers],
            "order": self._order,
            "format": self.format,
            "payload_bytes": self.payload_bytes,
            "tasks": self.plan.tasks,
            "pipeline": self.plan.pipeline,
            "duration_seconds": extent.duration if math.isfinite(extent.duration) else None,
            "requests": int(extent.requests) if math.isfinite(extent.requests) else None,
            "rate_per_second": extent.rate,
            "warm_up_seconds": self.plan.warm_up,
            "timeout_seconds": self.plan.timeout,
            "backend": self.backend,
            "interrupted": report.interrupted,
            "pooled": [point.as_json() for point in report.pooled],
            "unpooled": None if report.unpooled is None else report.unpooled.as_json(),
            "advice": {"max_size": advice.max_size, "text": advice.text},
        }


def _check_failures(report: Report) -> None:
    answered = sum(point.answered for point in report.points)
    errors: Counter[str] = Counter()
    for point in report.points:
        errors.update(point.errors)
    common = errors.most_common(1)
    if not answered:
        raise CommandError(
            f"no request was answered: {common[0][0] if common else 'there was no time'}"
        )
    if common:
        failed = errors.total()
        raise CommandError(
            f"{failed} of {failed + answered} requests failed, most of them: {common[0][0]}"
        )
    if lost := unasked(report.pooled):
        raise CommandError(lost)
