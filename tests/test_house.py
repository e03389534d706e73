"""The rules of the house: sizes, imports, docstrings and the public names."""

import ast
import inspect
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

import anyconnpool
import anyconnpool.testing
from anyconnpool import FramedStream

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))
Function: TypeAlias = "ast.FunctionDef | ast.AsyncFunctionDef"

MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 40

PUBLIC_NAMES = {
    "AcquireTimeout",
    "BrokenResourceError",
    "BusyResourceError",
    "ClosedResourceError",
    "ConnectionFailed",
    "ConnectionInfo",
    "ConnectionPool",
    "DelimiterNotFound",
    "EndOfStream",
    "ExchangeError",
    "FrameFormat",
    "FramedStream",
    "IncompleteRead",
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
    "ReplicaState",
    "Replicas",
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


def public_members(cls: type) -> Iterator[tuple[str, object]]:
    """Yield the public methods and properties that a class defines itself."""
    for name in vars(cls):
        member = inspect.getattr_static(cls, name)
        member = getattr(member, "__func__", member)
        if not name.startswith("_") and (
            inspect.isfunction(member) or isinstance(member, property)
        ):
            yield f"{cls.__name__}.{name}", member


def functions(paths: Iterable[Path]) -> Iterator[tuple[str, Function]]:
    """Yield the place of every function of some files, and the function."""
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", node


def length(function: Function) -> int:
    """Return how many lines a function has, its docstring aside."""
    text = function.body[0] if ast.get_docstring(function, clean=False) is not None else None
    documented = (text.end_lineno or text.lineno) - text.lineno + 1 if text else 0
    return (function.end_lineno or function.lineno) - function.lineno + 1 - documented


def test_files_and_functions_are_short() -> None:
    """A file of src has at most 600 lines, a function at most 40, its docstring aside."""
    assert ROOT / "src" / "anyconnpool" / "__init__.py" in SOURCES
    sizes = {path.name: len(path.read_text("utf-8").splitlines()) for path in SOURCES}
    assert not {name: size for name, size in sizes.items() if size > MAX_FILE_LINES}
    assert not [place for place, node in functions(SOURCES) if length(node) > MAX_FUNCTION_LINES]


def test_every_test_states_its_property() -> None:
    """Every test has a docstring."""
    names = [
        place
        for place, node in functions(TESTS)
        if node.name.startswith("test_") and not ast.get_docstring(node)
    ]
    assert names == []


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


def test_every_public_name_has_a_docstring() -> None:
    """Every public name is documented, and so is every method and property of ours on it."""
    for thing in PUBLIC:
        assert thing.__doc__, thing
        for base in getattr(thing, "__mro__", ()):
            if base.__module__.startswith("anyconnpool"):
                assert not [place for place, member in public_members(base) if not member.__doc__]


def test_the_docstring_of_each_exchange_of_a_stream_stands_by_itself() -> None:
    """Whoever asks for the help of a method needs no other page for its arguments and errors."""
    for place, member in public_members(FramedStream):
        name = place.rpartition(".")[2]
        if not name.startswith("send"):
            continue
        assert inspect.isfunction(member)
        fields = [f":param {name}:" for name in inspect.signature(member).parameters]
        if "receive" in name:
            fields += [":return:", ":raises ~anyio.EndOfStream:", ":raises TimeoutError:"]
        missing = [field for field in fields if field not in (member.__doc__ or "")]
        assert missing == [":param self:"], place


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
    ("AsyncioSocketStream", "PoolSocketStream"),
    ("AsyncioTLSStream", "AsyncioSocketStream"),
    ("ConnectedStream", "PooledConnection"),
    ("FramedStream", "ReadAheadStream"),
    ("ManagedPool", "ConnectionPool"),
    ("ObservedLeasing", "Leasing"),
    ("Place", "Waiter"),
    ("PooledConnection", "FramedStream"),
    ("RemoteOptions", "PoolOptions"),
    ("ReplyConnection", "PooledConnection"),
    ("SharedConnection", "ReplyConnection"),
    ("SharedExchange", "Place"),
    ("Replicas", "RemoteGroup"),
    ("TrioSocketStream", "PoolSocketStream"),
    ("TrioTLSStream", "TrioSocketStream"),
    ("_BufferedProtocol", "_Protocol"),
    ("SharedConnectionGroup", "ConnectionGroup"),
    ("SharedPoolStateMachine", "PoolStateMachine"),
    ("SharedSupply", "Supply"),
    ("_HookConnection", "PooledConnection"),
    ("_PlainProtocol", "_Protocol"),
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
    values = {"Exchange", "PoolError", "PoolEvent", "PoolObserver"}
    assert {pair for pair in pairs if pair[1] not in values} == VARIANTS
