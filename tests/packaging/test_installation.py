"""The wheel works where a user installs it, and so does each extra on its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Install, run

pytestmark = pytest.mark.timeout(600)

ECHO = Path(__file__).parent / "echo.py"
# -I: nothing but the environment, not even this directory, is looked into.
STRICT = ["-I", "-W", "error"]
OPTIONAL = ("trio", "uvloop", "opentelemetry", "prometheus_client", "rich", "matplotlib")

EXTRAS: dict[str, list[object]] = {
    "trio": [ECHO, "trio"],
    "uvloop": [ECHO, "asyncio+uvloop"],
    "opentelemetry": ["-c", "import anyconnpool.instrumentation.opentelemetry"],
    "prometheus": ["-c", "import anyconnpool.instrumentation.prometheus"],
    "cli": ["-m", "anyconnpool", "load", "--help"],
}


def test_the_wheel_works_alone(wheel: Path, install: Install) -> None:
    """With AnyIO as its only dependency, the installed package makes an exchange on asyncio."""
    python = install(str(wheel))
    place = run(python, *STRICT, "-c", "import anyconnpool; print(anyconnpool.__file__)")
    assert Path(place.strip()).is_relative_to(python.parents[1])
    run(python, *STRICT, ECHO, "asyncio")
    find = f"from importlib.util import find_spec; print([*filter(find_spec, {OPTIONAL})])"
    assert run(python, *STRICT, "-c", find).strip() == "[]"


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_works_alone(wheel: Path, install: Install, extra: str) -> None:
    """With one extra installed, what it is for works; to import the package imports none of it."""
    python = install(f"{wheel}[{extra}]")
    run(python, *STRICT, *EXTRAS[extra])
    unasked = f"import sys, anyconnpool; print([*filter(sys.modules.get, {OPTIONAL})])"
    assert run(python, *STRICT, "-c", unasked).strip() == "[]"


def test_the_sdist_builds_what_works_too(sdist: Path, install: Install) -> None:
    """What pip builds from the sdist makes an exchange on asyncio."""
    run(install(str(sdist)), *STRICT, ECHO, "asyncio")
