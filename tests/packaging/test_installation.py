"""The wheel works where a user installs it, and so does each extra on its own."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .conftest import Install, run

pytestmark = pytest.mark.timeout(600)

ECHO = Path(__file__).parent / "echo.py"
# -I: nothing but the environment, not even this directory, is looked into.
STRICT = ["-I", "-W", "error"]
OPTIONAL = (
    *("trio", "uvloop", "opentelemetry", "prometheus_client"),
    *("rich", "matplotlib", "shtab"),
)

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


def script(python: Path, *arguments: str) -> tuple[int, str, str]:
    """Run the installed script; return its exit code and what it writes to its two outputs."""
    command = [str(python.with_name("anyconnpool")), *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return ended.returncode, ended.stdout, ended.stderr


@contextmanager
def echo_server(python: Path) -> Generator[str]:
    """Run the installed script's echo server; return its URL."""
    command = [str(python.with_name("anyconnpool")), "echo-server", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield server.stdout.readline().split()[2].rstrip(",")
        finally:
            server.terminate()


def test_the_script_without_the_extra(wheel: Path, install: Install) -> None:
    """It serves, asks and measures for machines; what needs the extra says so, with code 2."""
    python = install(str(wheel))
    installed = run(python, "-c", "import importlib.metadata as m; print(m.version('anyconnpool'))")
    code, output, _ = script(python, "--version")
    assert (code, output.split()[:2]) == (0, ["anyconnpool", installed.strip()])
    assert script(python, "load", "-h")[1].startswith("usage: anyconnpool load ")
    with echo_server(python) as url:
        assert script(python, "echo-client", url, "hi") == (0, "hi\n", "")
        load = ("load", url, "--requests", "5", "--connections", "1")
        code, output, errors = script(python, *load, "--json")
        assert (code, errors) == (0, "")
        assert json.loads(output)["pooled"][0]["answered"] == 5
        for missing, command in (("rich", load), ("shtab", ("--print-completion", "bash"))):
            code, output, errors = script(python, *command)
            assert (code, output) == (2, "")
            assert errors.startswith(f"anyconnpool: this needs {missing} ")
            assert errors.endswith(": pip install 'anyconnpool[cli]'\n")


def test_the_script_with_the_extra(wheel: Path, install: Install, tmp_path: Path) -> None:
    """It shows a table, draws, and makes shells complete."""
    python = install(f"{wheel}[cli]")
    code, output, errors = script(python, "--print-completion", "bash")
    assert (code, errors) == (0, "")
    assert re.search(r"^complete .* anyconnpool$", output, re.MULTILINE)
    with echo_server(python) as url:
        plot = tmp_path / "sizes.svg"
        options = ("--requests", "5", "--connections", "1,2", "--plot", str(plot))
        code, output, errors = script(python, "load", url, *options)
    assert (code, errors) == (0, "")
    assert "requests/s" in output
    assert plot.exists()


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
