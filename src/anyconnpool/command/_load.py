"""The command ``load``: measure, show, draw."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from anyconnpool.command._output import standard_output
from anyconnpool.command._reasons import CommandError, require
from anyconnpool.command._results import Advice, Report, advise
from anyconnpool.command._run import INTERRUPTED, run
from anyconnpool.command._sweep import Plan, Watcher, measure


@dataclass(frozen=True)
class Load:
    """A load, and where its results go.

    :ivar plan: what to measure
    :ivar backend: on which event loop
    :ivar format: of the messages
    :ivar payload_bytes: their size
    :ivar json: whether a machine reads the results, instead of a person
    :ivar plot: where to draw them
    """

    plan: Plan
    backend: str
    format: str
    payload_bytes: int
    json: bool
    plot: Path | None

    def run(self) -> int:
        """Measure, and show the results.

        :return: the program's exit code
        :raises CommandError: if no request was answered
        """
        if self.plot is not None:
            require("matplotlib", "cli")
        report = Report()
        if self.json:
            self._measure(report, None)
        else:
            require("rich", "cli")
            screen = import_module("anyconnpool.command._screen")
            with screen.LiveProgress(self.plan.duration) as progress:
                self._measure(report, progress)
        self._show(report)
        if report.interrupted:
            return INTERRUPTED
        _check_answered(report)
        return 0

    def _measure(self, report: Report, watcher: Watcher | None) -> None:
        report.interrupted = run(self.backend, lambda: measure(self.plan, report, watcher))

    def _show(self, report: Report) -> None:
        advice = advise(report.pooled, self.plan.tasks)
        with standard_output() as output:
            if self.json:
                json.dump(self._as_json(report, advice), output, indent=2)
                output.write("\n")
            else:
                screen = import_module("anyconnpool.command._screen")
                screen.show_report(self._title, report, advice)
        if self.plot is not None and report.pooled:
            import_module("anyconnpool.command._plot").draw(self._title, report, self.plot)

    @property
    def _title(self) -> str:
        return (
            f"{self.plan.target}, {self.format} of {self.payload_bytes} bytes, "
            f"{self.plan.tasks} tasks, {self.plan.duration:g} s each, {self.backend}"
        )

    def _as_json(self, report: Report, advice: Advice) -> dict[str, object]:
        return {
            "remote": str(self.plan.target),
            "format": self.format,
            "payload_bytes": self.payload_bytes,
            "tasks": self.plan.tasks,
            "duration_seconds": self.plan.duration,
            "timeout_seconds": self.plan.timeout,
            "backend": self.backend,
            "interrupted": report.interrupted,
            "pooled": [point.as_json() for point in report.pooled],
            "unpooled": None if report.unpooled is None else report.unpooled.as_json(),
            "advice": {"max_size": advice.max_size, "text": advice.text},
        }


def _check_answered(report: Report) -> None:
    if not any(point.answered for point in report.points):
        errors: Counter[str] = Counter()
        for point in report.points:
            errors.update(point.errors)
        common = errors.most_common(1)
        raise CommandError(
            f"no request was answered: {common[0][0] if common else 'there was no time'}"
        )
