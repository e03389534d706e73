"""Ask a Redis of a name without end: ``python -m tests.servers.dns_program BACKEND NAME PORT CA``.

A line of standard output says each time which addresses have connections, when that has changed;
``done`` and the number of exchanges is the last one, after standard input has ended. An exchange
that fails is the end, with its error.
"""

from __future__ import annotations

import math
import ssl
import sys

import anyio
from anyio import create_task_group, to_thread

from anyconnpool import ConnectionPool, Replicas, Retry

from .resp import command
from .work import at_work

SIZE = 6


async def live(name: str, port: int, certificates: str) -> None:
    """Ask from many tasks until standard input ends."""
    rest = Retry(math.inf, interval=0.2, max_interval=1)
    replicas = Replicas.from_dns(name, port, refresh=0.2, rest=rest)
    context = ssl.create_default_context(cafile=certificates)

    async def ask(task: int, turn: int) -> None:
        reply = await pool.run(command, "PING", retry=Retry(2), timeout=60)
        assert reply == "PONG"

    async def report() -> None:
        last: list[str] = []
        while True:
            now = sorted(
                str(remote[0])
                for remote, state in replicas.states().items()
                if isinstance(remote, tuple) and state.connections
            )
            if now != last:
                print(*now, flush=True)
                last = now
            await anyio.sleep(0.01)

    async with ConnectionPool(replicas, tls=True, ssl_context=context, max_size=SIZE) as pool:
        # What is wrong with the certificates is told as it is.
        assert await pool.run(command, "PING", timeout=60) == "PONG"
        async with at_work(ask) as work, create_task_group() as reporting:
            reporting.start_soon(report)
            await to_thread.run_sync(sys.stdin.read)
            await work.go_on(1)
            reporting.cancel_scope.cancel()
    print("done", work.done)


def main() -> None:
    """Run with what the command line says."""
    backend, name, port, certificates = sys.argv[1:]
    options = {} if backend == "trio" else {"use_uvloop": backend == "uvloop"}
    anyio.run(
        live,
        name,
        int(port),
        certificates,
        backend="trio" if backend == "trio" else "asyncio",
        backend_options=options,
    )


if __name__ == "__main__":
    main()
