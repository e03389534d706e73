"""Run cases on one backend, in this process: a program that is given actions and prints figures.

Both are a line of JSON. ``processes`` starts it.
"""

from __future__ import annotations

import dataclasses
import json
import sys

import anyio

from benchmarks.backends import run_options
from benchmarks.bench import Bench
from benchmarks.cases import CASES
from benchmarks.processor import free_a_large_block
from benchmarks.remotes import Remotes
from benchmarks.results import Figure
from benchmarks.rounds import Timekeeper


async def _run(bench: Bench, names: list[str]) -> list[Figure]:
    figures: list[Figure] = []
    for name in names:
        figures += await CASES[name](bench)
    return [dataclasses.replace(figure, backend=bench.backend) for figure in figures]


def main() -> None:
    """Do what standard input says."""
    actions = json.loads(sys.stdin.readline())
    backend = actions["backend"]
    keeper = Timekeeper(backend, actions["seed"], actions["quick"])
    bench = Bench(backend, keeper, Remotes.from_json(actions["remotes"]))
    free_a_large_block()
    figures = anyio.run(_run, bench, actions["cases"], **run_options(backend))
    print(json.dumps([figure.to_json() for figure in figures]))


if __name__ == "__main__":
    main()
