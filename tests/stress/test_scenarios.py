"""Random scenarios: whatever users, hooks and servers do, a pool keeps its promises.

A failure prints the scenario, whose seed plays it again, alone: see `scenario_run`. `--long` plays
thousands, `--seed` draws others.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from .oracle_process import OracleServer
from .scenario_plan import draw_scenario
from .scenario_rules import RuleWatch
from .scenario_run import forget_garbage, run_scenario

SHORT = 120
LONG_SECONDS = 180.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OracleServer]:
    """Return the server, a process that serves all kinds of sockets."""
    with OracleServer(tmp_path_factory.mktemp("scenarios")) as running:
        yield running


def numbers(long_form: bool) -> Iterator[int]:
    """Count the scenarios: a few, or as many as there is time for in the long form."""
    ends_at = time.monotonic() + LONG_SECONDS
    number = 0
    while number < SHORT or (long_form and time.monotonic() < ends_at):
        yield number
        number += 1


@pytest.mark.timeout(600)
async def test_pools_keep_their_promises(
    request: pytest.FixtureRequest,
    server: OracleServer,
    anyio_backend_name: str,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
    long_form: bool,
) -> None:
    """Limits, order, bytes, errors, ends: none of it is broken by any scenario."""
    native = anyio_backend_name == "asyncio"
    rules = RuleWatch(monkeypatch)
    counts: Counter[str] = Counter()
    forget_garbage()
    for number in numbers(long_form):
        scenario = draw_scenario(f"{seed}/{number}", native=native)
        try:
            report = await run_scenario(scenario, server, rules, native=native)
        except BaseException:
            # It stands still: the time limit of the test has struck.
            sys.stderr.write(f"{scenario}\n")
            raise
        if report.faults:
            pytest.fail(f"{scenario}\n" + "\n".join(report.faults[:5]))
        counts += report.counts
        counts["scenarios"] += 1
    if long_form:
        listed = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
        sys.stdout.write(f"{request.node.name}: {listed}\n")
