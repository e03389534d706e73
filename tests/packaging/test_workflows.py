"""The workflows run what there is, and nothing that somebody else could replace."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .conftest import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
CI = (ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8")
PINNED = re.compile(r"[\w.-]+/[\w.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned(path: Path) -> None:
    """Each action is named by its full commit, with the version beside it."""
    used = re.findall(r"uses: (.*)", path.read_text("utf-8"))
    assert used
    assert not [action for action in used if not PINNED.fullmatch(action)]


def test_the_sessions_exist() -> None:
    """CI runs sessions that the noxfile has."""
    sessions = set(re.findall(r"^def (\w+)\(session: ", (ROOT / "noxfile.py").read_text(), re.M))
    (matrix,) = re.findall(r"^ +session: \[(.*)\]", CI, re.M)
    named = set(matrix.split(", ")) | set(re.findall(r"nox -s (\w+)", CI))
    assert len(named) > 2
    assert named <= sessions


def test_other_platforms_and_interpreters_are_tried() -> None:
    """Not only Linux, and neither CPython alone nor its form with the GIL alone."""
    tried = set(re.findall(r'^ +- os: (\S+)\n +python: "?([\w.-]+)', CI, re.M))
    systems = {system.partition("-")[0] for system, _ in tried}
    assert systems == {"macos", "windows", "ubuntu"}
    assert any(version.startswith("pypy") for _, version in tried)
    assert any(version.endswith("t") for _, version in tried)


def test_every_python_of_the_classifiers_is_tested() -> None:
    """The matrix has the versions that the metadata name, no more and no fewer."""
    (matrix,) = re.findall(r"^ +python: \[(.*)\]", CI, re.M)
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    named = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', project)
    assert [version.strip('"') for version in matrix.split(", ")] == named
