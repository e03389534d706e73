"""Find the built sdist and wheel, and make environments of a user's to install them in."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def _only(pattern: str) -> Path:
    found = list((ROOT / "dist").glob(pattern))
    if len(found) != 1:
        pytest.fail(f"there should be one dist/{pattern}: run `nox -s package`", pytrace=False)
    return found[0]


@pytest.fixture(scope="session")
def wheel() -> Path:
    """Return the wheel."""
    return _only("*.whl")


@pytest.fixture(scope="session")
def sdist() -> Path:
    """Return the sdist."""
    return _only("*.tar.gz")


Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path) -> Install:
    """Return a function that makes an environment, installs something, and returns its Python."""

    def install(requirement: str) -> Path:
        directory = tmp_path / "environment"
        here = Path(sys.executable)
        run(here, "-m", "venv", "--without-pip", directory)
        python = directory / "bin" / "python"
        pip = ["-m", "pip", "--python", python]
        run(here, *pip, "install", "--quiet", "--no-compile", requirement)
        run(here, *pip, "check")
        return python

    return install


def run(python: Path, *arguments: object) -> str:
    """Run a Python to the end of what it is told, and return what it prints."""
    command = [str(python), *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert not ended.returncode, ended.stdout + ended.stderr
    return ended.stdout
