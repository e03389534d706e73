"""Show what the size of a pool does to a server that computes: `python -m benchmarks.sizing`.

The server has a process for each connection, as PostgreSQL has, and computes for about two
milliseconds a request. As many tasks as always ask it through pools of different sizes. More
connections than the machine has processors gain nothing: requests wait in the server instead of in
the pool, and its processes get into each other's way.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import socketserver
import statistics
from collections.abc import Generator
from contextlib import contextmanager, suppress
from hashlib import sha256
from time import perf_counter, process_time

import anyio

from anyconnpool import ConnectionPool

TASKS = 64
SIZES = (1, 2, 4, 8, 16, 32, 64)
WORK = 0.002


class Computer(socketserver.StreamRequestHandler):
    """Answer each line when so much processor time has been spent on it."""

    def handle(self) -> None:
        """Serve one connection, until the client has enough."""
        with suppress(ConnectionError):
            for line in self.rfile:
                self.wfile.write(compute(line).hex().encode() + b"\n")


def compute(line: bytes) -> bytes:
    """Keep a processor busy."""
    digest = line
    end = process_time() + WORK
    while process_time() < end:
        for _ in range(50):
            digest = sha256(digest).digest()
    return digest


class Server(socketserver.ForkingTCPServer):
    """Have a process for each connection."""

    max_children = 2 * max(SIZES)
    request_queue_size = 2 * max(SIZES)
    block_on_close = False


@contextmanager
def serving() -> Generator[tuple[str, int]]:
    """Run the server in a process of its own; its children end with their connections."""
    with Server(("127.0.0.1", 0), Computer) as server:
        process = multiprocessing.get_context("fork").Process(target=server.serve_forever)
        process.start()
        try:
            yield "127.0.0.1", server.server_address[1]
        finally:
            process.terminate()
            process.join()


async def ask_for(remote: tuple[str, int], size: int, seconds: float) -> list[float]:
    """Keep all tasks asking for so long; return how long each request took, in seconds."""
    took: list[float] = []
    async with ConnectionPool(remote, max_size=size, min_idle=size) as pool:
        await pool.wait_ready()

        async def ask() -> None:
            while True:
                begun = perf_counter()
                await pool.send_receive_line(b"%d" % len(took))
                took.append(perf_counter() - begun)

        with anyio.move_on_after(seconds):
            async with anyio.create_task_group() as tasks:
                for _ in range(TASKS):
                    tasks.start_soon(ask)
    return took


def report(size: int, took: list[float], seconds: float) -> str:
    """Return a row of the table."""
    percentiles = statistics.quantiles(took, n=100)
    return (
        f"{size:>8} {len(took) / seconds:>10.0f} {percentiles[49] * 1000:>10.0f} "
        f"{percentiles[98] * 1000:>10.0f}"
    )


def main() -> None:
    """Try every size, and print a table."""
    parser = argparse.ArgumentParser(description="Show what the size of a pool does.")
    parser.add_argument("--seconds", type=float, default=4.0, help="for each size")
    seconds = parser.parse_args().seconds
    print(f"{TASKS} tasks, {os.cpu_count()} processors")
    print("max_size requests/s  median ms     p99 ms")
    with serving() as remote:
        for size in SIZES:
            print(report(size, anyio.run(ask_for, remote, size, seconds), seconds), flush=True)


if __name__ == "__main__":
    main()
