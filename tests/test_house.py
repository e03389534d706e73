"""The rules of the house: sizes, imports, docstrings and the public names."""

import ast
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import anyconnpool
import anyconnpool.testing

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))
MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 40

PUBLIC_NAMES = {
    "AcquireTimeout",
    "ConnectionPool",
    "FrameFormat",
    "FramedStream",
    "KeepAlive",
    "LineFormat",
    "PackageFormat",
    "PackageTooLarge",
    "PackageTooSmall",
    "PoolClosed",
    "PoolError",
    "PoolFull",
    "PoolManager",
    "PoolStatistics",
    "PooledConnection",
    "Retry",
}
TESTING_NAMES = {
    "AutojumpLoop",
    "FaultProxy",
    "Faults",
    "Flow",
    "MemoryConnectable",
    "ProxiedConnection",
    "ScriptedPeer",
    "assert_clean",
    "virtual_clock_backend",
}
PUBLIC = [getattr(anyconnpool, name) for name in sorted(PUBLIC_NAMES)] + [
    getattr(anyconnpool.testing, name) for name in sorted(TESTING_NAMES)
]


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Yield the place and the length in lines, docstring aside, of every function of a file."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            text = 0
            if ast.get_docstring(node, clean=False) is not None:
                text = (first.end_lineno or first.lineno) - first.lineno + 1
            length = (node.end_lineno or node.lineno) - node.lineno + 1 - text
            yield f"{path.name}:{node.lineno} {node.name}", length


def public_members(cls: type) -> Iterator[tuple[str, object]]:
    """Yield the public methods and properties that a class defines itself."""
    for name in vars(cls):
        member = inspect.getattr_static(cls, name)
        member = getattr(member, "__func__", member)
        if not name.startswith("_") and (
            inspect.isfunction(member) or isinstance(member, property)
        ):
            yield f"{cls.__name__}.{name}", member


def test_there_are_sources_to_check() -> None:
    """The checks of sizes don't pass for want of files."""
    assert ROOT / "src" / "anyconnpool" / "__init__.py" in SOURCES


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_file_is_long(path: Path) -> None:
    """A file of src has at most 600 lines."""
    assert len(path.read_text("utf-8").splitlines()) <= MAX_FILE_LINES


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_function_is_long(path: Path) -> None:
    """A function of src has at most 40 lines, its docstring aside."""
    assert not [place for place, length in functions(path) if length > MAX_FUNCTION_LINES]


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name)
def test_every_test_states_its_property(path: Path) -> None:
    """Every test has a docstring."""
    assert not [
        f"{path.name}:{node.lineno} {node.name}"
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]


def test_imports_go_down_only() -> None:
    """The import contracts of pyproject.toml hold."""
    # In a process of its own: import-linter configures logging, which disables our loggers.
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    checked = subprocess.run(
        [sys.executable, "-c", command, "--no-cache", "--no-logo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not checked.returncode, checked.stdout + checked.stderr


def test_the_public_names_are_those_of_the_contract() -> None:
    """The package shows what it promises, nothing more and nothing less, nothing twice."""
    assert sorted(anyconnpool.__all__) == sorted(PUBLIC_NAMES)
    assert sorted(anyconnpool.testing.__all__) == sorted(TESTING_NAMES)


@pytest.mark.parametrize("thing", PUBLIC, ids=lambda thing: thing.__name__)
def test_every_public_name_has_a_docstring(thing: object) -> None:
    """Every public name is documented, and so is every method and property of ours on it."""
    assert thing.__doc__
    for base in getattr(thing, "__mro__", ()):
        if base.__module__.startswith("anyconnpool"):
            assert not [place for place, member in public_members(base) if not member.__doc__]


def test_who_imports_the_package_pays_for_no_test_kit() -> None:
    """The testing tools are imported by those who ask for them only."""
    command = "import sys, anyconnpool; raise SystemExit('anyconnpool.testing' in sys.modules)"
    assert not subprocess.run([sys.executable, "-c", command], check=False).returncode


def test_the_package_says_that_it_is_typed() -> None:
    """The marker that makes type checkers read our annotations is shipped."""
    assert (Path(anyconnpool.__file__).parent / "py.typed").is_file()


# What is derived from another class of ours because it is a variant of it. Nothing else is: a class
# is never cut in two to fit a file.
VARIANTS = {
    ("FramedStream", "ReadAheadStream"),
    ("ManagedPool", "ConnectionPool"),
    ("ObservedLeasing", "Leasing"),
    ("PooledConnection", "FramedStream"),
    ("SharedPoolStateMachine", "PoolStateMachine"),
    ("_HookConnection", "PooledConnection"),
}


def test_a_class_is_cut_in_two_nowhere() -> None:
    """Classes of ours derive from each other only where one is a variant of the other."""
    classes: dict[str, list[str]] = {}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                bases = [ast.unparse(base).partition("[")[0] for base in node.bases]
                classes.setdefault(node.name, []).extend(bases)
    pairs = {(name, base) for name, bases in classes.items() for base in bases if base in classes}
    values = {"PoolError", "PoolEvent", "PoolObserver"}
    assert {pair for pair in pairs if pair[1] not in values} == VARIANTS
