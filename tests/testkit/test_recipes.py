"""The tests that docs/testing.rst shows pass, each with the plugin that it is written for."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_docs import blocks_of

_PAGE = Path(__file__).parents[2] / "docs" / "testing.rst"
_SUITES = [
    pytest.param(block, id=f"line {line}")
    for line, block in blocks_of(_PAGE)
    if "def test_" in block
]
_PLUGINS = ("anyio", "asyncio", "trio")
_OTHERS = ("xdist", "cacheprovider", "randomly")
# In this mode of pytest-asyncio's, tests need no mark.
_AUTO_MODE = ["-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function"]


@pytest.mark.newest
@pytest.mark.parametrize("suite", _SUITES)
def test_a_suite_of_the_page_passes(suite: str, tmp_path: Path) -> None:
    """In a process of its own, where warnings are errors, and no other plugin helps."""
    (plugin,) = set(re.findall(r"@pytest\.mark\.(\w+)", suite)) or {"asyncio"}
    without = [name for name in (*_PLUGINS, *_OTHERS) if name != plugin]
    program = tmp_path / "test_of_a_user.py"
    program.write_text(suite)
    run = subprocess.run(
        [sys.executable, "-W", "error", "-m", "pytest", "-q", program.name]
        + [f"-pno:{name}" for name in without]
        + (_AUTO_MODE if plugin == "asyncio" else []),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert not run.returncode, run.stdout + run.stderr
    assert re.search(r"\d passed", run.stdout)
    assert "skipped" not in run.stdout


def test_the_page_has_a_suite_for_each_plugin() -> None:
    """None is lost when the page changes."""
    assert len(_SUITES) >= len(_PLUGINS)
