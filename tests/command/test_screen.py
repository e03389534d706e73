"""The table and the live lines on screens of any width: columns go, digits stay."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from anyconnpool.command import main
from anyconnpool.command._advice import Advice
from anyconnpool.command._results import Report
from anyconnpool.command._screen import cells, show_report
from tests.cases import table

from .test_results import point

ALWAYS = {"max_size", "requests/s", "p99", "errors"}


def shown(capsys: pytest.CaptureFixture[str], report: Report) -> tuple[str, list[str]]:
    """Show a report; return all that was written, and the names of the table's columns."""
    show_report("title", report, Advice(None, "advice"), since="asking", histogram=False)
    output = capsys.readouterr().out
    (heading,) = re.findall(r"^ *max_size .*$", output, re.MULTILINE)
    return output, heading.split()


@table("width", range(15, 125))
def test_columns_go_digits_stay(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the width, what is shown is whole, and what is left out is told."""
    monkeypatch.setenv("COLUMNS", str(width))
    report = Report([point(1, 123_456), point(16, 123_456)], point(None, 99))
    output, columns = shown(capsys, report)
    assert "…" not in output
    assert set(columns) >= ALWAYS
    rows = [line.split() for line in output.splitlines() if re.match(r" *(1|16|no pool) +\d", line)]
    for one, row in zip(report.points, rows, strict=True):
        values = cells(one)
        assert " ".join(row) == " ".join(values[name] for name in columns)
    left_out = cells(report.points[0]).keys() - set(columns)
    names = re.search(r"narrow: ([^(]*) \(see --json\)", " ".join(output.split()))
    assert (set(names[1].split(", ")) if names else set()) == left_out
    if left_out != cells(report.points[0]).keys() - ALWAYS:
        assert all(len(line.rstrip()) <= width for line in output.splitlines())


def test_a_wide_screen_has_every_column(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is room, nothing is left out; a file has room for everything."""
    report = Report([point(1, 1000)])
    monkeypatch.setenv("COLUMNS", "120")
    output, columns = shown(capsys, report)
    assert columns == list(cells(report.points[0]))
    assert "Left out" not in output
    monkeypatch.delenv("COLUMNS")
    assert shown(capsys, report)[1] == columns


def test_the_first_column_to_go_is_the_least_needed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On 80 columns, the figures that most people look for are there."""
    monkeypatch.setenv("COLUMNS", "80")
    _, columns = shown(capsys, Report([point(1, 1000)]))
    assert set(columns) >= {*ALWAYS, "p50", "p99.9", "waiting", "reused"}


@table("width, told, untold", [(100, "in use", ""), (60, "━", "in use"), (30, "/s", "━")])
def test_live_lines(
    width: int,
    told: str,
    untold: str,
    url: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a narrow terminal the live lines have the size and the throughput, whole."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(["load", url, "--requests", "20", "--connections", "1,2"]) == 0
    errors = capfd.readouterr().err
    assert "max_size 2" in errors
    assert "…" not in errors
    assert told in errors
    assert not untold or untold not in errors


def test_remarks(capsys: pytest.CaptureFixture[str]) -> None:
    """Failures, a rate that was missed, and connections that aren't reused are told in words."""
    failed, late, lost = (
        point(1, 10, {"the connection broke": 3}),
        point(2, 10, missed=5),
        point(4, 10),
    )
    assert lost.pool is not None
    show_report(
        "title",
        Report([failed, late, replace(lost, pool=replace(lost.pool, reused=0.1))]),
        Advice(None, "advice"),
        since="asking",
        histogram=False,
    )
    output = " ".join(capsys.readouterr().out.split())
    assert "max_size 1: 3 failed: " in output
    assert "max_size 2: the rate was not reached: 5 requests were due" in output
    assert "max_size 4: connections are seldom reused; closed: unclean 1" in output
