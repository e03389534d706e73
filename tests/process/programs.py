"""Run this directory's small programs, each in a process of its own, with warnings as errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[2]


def start(program: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a program of this directory; it is given 50 s at most by those who wait for it."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", f"tests.process.{program}", *map(str, arguments)],
        cwd=_ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Wait for the end of a program and return what it wrote to its two outputs."""
    with process:
        try:
            return process.communicate(timeout=50)
        finally:
            process.kill()
