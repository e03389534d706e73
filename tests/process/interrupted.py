"""Use a pool from many tasks, until Ctrl-C; a program of its own, for the signal."""

from __future__ import annotations

import signal
import sys

import anyio

from anyconnpool import ConnectionPool
from tests.conftest import BACKENDS


async def ask_for_ever(pool: ConnectionPool) -> None:
    while True:
        await pool.send_receive_line(b"ping")


async def main(port: int) -> None:
    async with (
        ConnectionPool(("127.0.0.1", port), max_size=4, min_idle=1) as pool,
        anyio.create_task_group() as tasks,
    ):
        for _ in range(8):
            tasks.start_soon(ask_for_ever, pool)
        await pool.send_receive_line(b"ping")
        print("running", flush=True)
        await ask_for_ever(pool)


if __name__ == "__main__":
    # It may have been started where Ctrl-C is ignored, as in the background of a script.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    backend, options = BACKENDS[sys.argv[2]]
    anyio.run(main, int(sys.argv[1]), backend=backend, backend_options=options)
