"""The stale-reply oracle: whoever is cancelled, nobody ever gets another one's reply.

All that clients and server do is drawn from `--seed`, the round and the key of the exchange, which
a failure names. `--long -rP` makes hundreds of thousands of exchanges and prints what they were.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from tests.sockets.checks import open_sockets
from tests.sockets.conftest import no_unix_noise
from tests.sockets.servers import KINDS

from .oracle_clients import ROUNDS, Run, run_round
from .oracle_dialog import Report
from .oracle_process import OracleServer

__all__ = ["no_unix_noise"]

SHORT = {"tcp": 300, "tls12": 250, "tls13": 250, "unix": 300}
LONG = {"tcp": 40_000, "tls12": 16_000, "tls13": 16_000, "unix": 40_000}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OracleServer]:
    """Return the server, a process that serves all kinds of sockets."""
    with OracleServer(tmp_path_factory.mktemp("oracle")) as running:
        yield running


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("no_unix_noise")
@pytest.mark.parametrize("kind", KINDS)
async def test_no_reply_reaches_anybody_but_its_asker(
    request: pytest.FixtureRequest,
    server: OracleServer,
    kind: str,
    anyio_backend_name: str,
    seed: int,
    long_form: bool,
) -> None:
    """However exchanges end, every byte received is the receiver's own, and nothing leaks."""
    before = open_sockets()
    report = Report()
    run = Run(server.endpoint(kind), seed, anyio_backend_name == "asyncio", report)
    exchanges = (LONG if long_form else SHORT)[kind]
    for plan in ROUNDS:
        await run_round(plan, run, round(exchanges * plan.share))
        if report.faults:
            pytest.fail(report.faults[0])
    assert open_sockets() == before
    if long_form:
        counts = ", ".join(f"{count} {name}" for name, count in sorted(report.counts.items()))
        sys.stdout.write(f"{request.node.name}: {counts}\n")
