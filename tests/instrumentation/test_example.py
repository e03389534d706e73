"""The example reads the figures of its own pool."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.examples.programs import load, run
from tests.sockets.checks import eventually, open_sockets


def check(lines: list[str]) -> None:
    """See that the printed metrics are those of 20 borrows over at most 4 connections."""
    figures = {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}
    states = [f'anyconnpool_connections{{pool="echo",state="{s}"}}' for s in ("idle", "connecting")]
    assert 1 <= sum(figures.pop(state) for state in states) <= 4
    assert figures == {
        'anyconnpool_connections{pool="echo",state="in_use"}': 0,
        'anyconnpool_connections{pool="echo",state="closing"}': 0,
        'anyconnpool_max_connections{pool="echo"}': 4,
        'anyconnpool_acquired_total{pool="echo"}': 20,
    }


async def test_the_example_runs_on_every_backend(capsys: pytest.CaptureFixture[str]) -> None:
    """It prints the figures of its pool on every backend, and leaves no socket open."""
    before = open_sockets()
    await load("metrics_endpoint").main()
    check(capsys.readouterr().out.splitlines())
    # The endpoint's thread for a request may be about to close its socket.
    await eventually(lambda: open_sockets() == before)


def test_the_example_runs_as_a_program(tmp_path: Path) -> None:
    """The command of its docstring runs it to its end, without a warning."""
    check(run("metrics_endpoint", directory=tmp_path))
