"""Run an example as a program of its own, or load it to run it on the backend of a test."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(name: str) -> Any:
    """Return an example as a module."""
    spec = spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    # A dataclass looks for its module there.
    sys.modules[spec.name] = module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(name: str, *arguments: object, directory: Path) -> list[str]:
    """Run an example from another directory, with warnings as errors, and return what it prints."""
    command = [sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py"), *map(str, arguments)]
    ended = subprocess.run(
        command, cwd=directory, capture_output=True, text=True, timeout=50, check=False
    )
    assert not ended.returncode, ended.stderr
    return ended.stdout.splitlines()
