"""Show what a borrow consists of: `python -m benchmarks.parts`.

Each part is left out in turn, and the borrows with it and without it take turns too: the difference
is what the part costs where it stands. Measured by itself, in a loop, it would look cheaper.
"""

from __future__ import annotations

import argparse
import random
import socket
from collections.abc import Generator
from contextlib import contextmanager
from operator import attrgetter
from statistics import median
from time import perf_counter
from typing import Any, TypeAlias

import anyio

from anyconnpool import ConnectionPool
from benchmarks.backends import BACKENDS, run_options
from benchmarks.processor import stay_on_one
from benchmarks.rounds import collector_at_rest

ROUNDS = 300
BORROWS = 300
WHOLE = "a borrow, all of it"
LOOK = "the look at the socket (one poll)"
MACHINE = "the state machine, with the look"

#: attributes that make up a part: whose, their names, what takes their place
Part: TypeAlias = list[tuple[Any, str, Any]]


async def do_nothing() -> None:
    """Take the place of what is awaited."""


class NoMachine:
    """Take the place of the state machine: have one connection at hand, always.

    :param entry: the connection
    :param machine: the state machine, for whatever else is asked meanwhile
    """

    def __init__(self, entry: object, machine: object) -> None:
        self._entry, self._machine = entry, machine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._machine, name)

    def acquire(self, now: float) -> object:
        """Return the connection."""
        return self._entry

    def release(self, entry: object, now: float, reason: object) -> None:
        """Do nothing."""


async def borrow(pool: ConnectionPool) -> float:
    """Return how long a borrow takes, in nanoseconds."""
    with collector_at_rest():
        begun = perf_counter()
        for _ in range(BORROWS):
            async with pool.acquire():
                pass
        return (perf_counter() - begun) / BORROWS * 1e9


def parts_of(pool: ConnectionPool) -> dict[str, Part]:
    """Return what to leave out of a borrow, and what takes its place."""
    leasing, machine = attrgetter("_leasing", "_machine")(pool)
    entry = machine.acquire(leasing.now())
    machine.release(entry, leasing.now(), None)
    alive = entry.look()
    return {
        "is the caller cancelled?": [(leasing, "_checkpoint_if_cancelled", do_nothing)],
        "which task borrows?": [(leasing, "_current_task", lambda: None)],
        LOOK: [(entry, "look", lambda: alive)],
        MACHINE: [(leasing, "_machine", NoMachine(entry, machine))],
    }


@contextmanager
def left_out(part: Part) -> Generator[None]:
    """Replace attributes until the block ends."""
    originals = [(owner, name, getattr(owner, name)) for owner, name, _ in part]
    for owner, name, substitute in part:
        setattr(owner, name, substitute)
    try:
        yield
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)


async def main() -> dict[str, float]:
    """Measure on a connection to nobody in particular, and return nanoseconds."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        async with ConnectionPool(server.getsockname()) as pool:
            await (await pool.acquire()).aclose()
            parts: dict[str, Part] = {WHOLE: [], **parts_of(pool)}
            times: dict[str, list[float]] = {name: [] for name in parts}
            for _ in range(ROUNDS):
                for name in random.sample(list(parts), len(parts)):
                    with left_out(parts[name]):
                        times[name].append(await borrow(pool))
    whole = times.pop(WHOLE)
    costs = {
        name: median(borrow - rest for borrow, rest in zip(whole, without, strict=True))
        for name, without in times.items()
    }
    # The look is a part of the machine's part.
    rest = median(whole) - sum(costs.values()) + costs[LOOK]
    return {**costs, "calls, coroutines, two objects": rest, WHOLE: median(whole)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Show what a borrow consists of.")
    parser.add_argument("--backend", choices=BACKENDS, default=BACKENDS[0])
    backend = parser.parse_args().backend
    stay_on_one()
    for part, nanoseconds in anyio.run(main, **run_options(backend)).items():
        print(f"{part:36}{nanoseconds:6.0f} ns")
