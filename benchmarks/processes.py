"""Start the programs that take part: one server, and one worker for each backend."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.remotes import Remotes
from benchmarks.results import Figure

_ROOT = Path(__file__).parents[1]


@contextmanager
def serving() -> Generator[Remotes]:
    """Run the server for the length of the block."""
    with _program("server") as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            yield Remotes.from_json(json.loads(server.stdout.readline()))
        finally:
            server.stdin.close()


def measure(
    backend: str, cases: Sequence[str], remotes: Remotes, seed: int, *, quick: bool
) -> list[Figure]:
    """Run cases in a process of their own, and return what they measured."""
    actions = {
        "backend": backend,
        "cases": cases,
        "remotes": dataclasses.asdict(remotes),
        "seed": seed,
        "quick": quick,
    }
    with _program("worker") as worker:
        try:
            output, _ = worker.communicate(json.dumps(actions))
        except BaseException:
            worker.terminate()
            raise
    if worker.returncode:
        raise SystemExit(f"measuring {backend} failed")
    return [Figure.from_json(fields) for fields in json.loads(output)]


def _program(module: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", f"benchmarks.{module}"],
        cwd=_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
