"""The wheel and the sdist contain what they should, and say what they are."""

from __future__ import annotations

import re
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

from .conftest import ROOT

EXTRAS = {"cli", "opentelemetry", "prometheus", "trio", "uvloop"}
TOP = {"CHANGELOG.md", "LICENSE", "PKG-INFO", "README.md", "noxfile.py", "pyproject.toml"}
TREES = ("src", "tests", "docs", "examples", "benchmarks")
LEFT_OUT = ("/.", "/__pycache__/", "/_build/", "/dist/", "/build/")


@pytest.fixture(scope="session")
def in_wheel(wheel: Path) -> set[str]:
    """Return the names of the wheel's files."""
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="session")
def in_sdist(sdist: Path) -> set[str]:
    """Return the names of the sdist's files, below its only directory."""
    with tarfile.open(sdist) as archive:
        names = [member.name.partition("/") for member in archive.getmembers() if member.isfile()]
    assert {directory for directory, _, _ in names} == {sdist.name.removesuffix(".tar.gz")}
    return {name for _, _, name in names}


@pytest.fixture(scope="session")
def metadata(wheel: Path) -> Message:
    """Return what the wheel says of itself."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


def files_below(directory: Path) -> set[Path]:
    return {
        path
        for path in directory.rglob("*")
        if path.is_file() and not any(part in f"/{path.relative_to(ROOT)}" for part in LEFT_OUT)
    }


def test_the_wheel_has_the_package_and_nothing_else(in_wheel: set[str]) -> None:
    """The wheel contains every file of the package, the marker for type checkers, no tests."""
    source = ROOT / "src"
    package = {str(path.relative_to(source)) for path in files_below(source / "anyconnpool")}
    about = {name for name in in_wheel if ".dist-info/" in name}
    assert in_wheel - about == package
    assert "anyconnpool/py.typed" in package
    assert {name.partition("/")[2] for name in about} == {
        "METADATA",
        "RECORD",
        "WHEEL",
        "entry_points.txt",
        "licenses/LICENSE",
    }


def test_the_sdist_can_be_tested(in_sdist: set[str]) -> None:
    """The sdist contains the tests and all that they read, as the tree has it."""
    wanted = {str(path.relative_to(ROOT)) for tree in TREES for path in files_below(ROOT / tree)}
    assert wanted | TOP <= in_sdist


def test_the_sdist_has_no_rubbish(in_sdist: set[str]) -> None:
    """Nothing is published that tools have left in the tree."""
    hidden = {".ci", ".github", ".gitignore"}
    rubbish = [name for name in in_sdist if any(part in f"/{name}" for part in LEFT_OUT)]
    assert not [name for name in rubbish if name.split("/")[0] not in hidden]


def test_the_metadata_are_those_of_the_project(metadata: Message) -> None:
    """Name, licence, Python, extras and the one dependency are what the documentation says."""
    assert metadata["Name"] == "anyconnpool"
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == ">=3.10"
    assert set(metadata.get_all("Provides-Extra", [])) == EXTRAS
    required = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert [line.partition(">")[0] for line in required] == ["anyio"]
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])


def test_the_page_of_the_project_is_its_readme(metadata: Message) -> None:
    """The long description is README.md, as Markdown, without a clone and links to its files."""
    assert metadata["Description-Content-Type"] == "text/markdown"
    page, readme = str(metadata.get_payload()), (ROOT / "README.md").read_text("utf-8")
    link = r"\[([^\]]+)\]\(([^)]+)\)"
    targets = [target for _, target in re.findall(link, page)]
    assert len(targets) > 3
    assert not [target for target in targets if not target.startswith("https://")]
    above, _, below = re.split(r"<!-- in a clone -->|<!-- end -->", readme)
    page, above, below = (re.sub(link, r"\1", text).strip() for text in (page, above, below))
    assert page.startswith(above)
    assert page.endswith(below)
    install = page.removeprefix(above).removesuffix(below)
    assert "/bin/pip install --quiet anyconnpool\n" in install
    assert "clone" not in install
