"""The checks of this project; `nox -l` lists them, `nox -s tests -- --backend trio` narrows one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.sessions = [
    *("lint", "types", "verifytypes", "docs", "tests", "tests_min", "asyncio_only"),
    *("servers", "network", "package", "demo"),
]
nox.options.reuse_venv = "yes"

PROJECT = nox.project.load_toml("pyproject.toml")
# The tests wait more than they compute: two processes a core.
SPREAD = ["-n", str(2 * (os.cpu_count() or 1)), "--dist", "worksteal"]

RINGS = ["tests/core", "tests/pool", "tests/sockets"]
OTHERS = [
    *("tests/examples", "tests/instrumentation", "tests/process", "tests/testkit"),
    "tests/test_docs.py",
]
ASYNCIO = ["--backend", "asyncio"]
TRIO_AND_UVLOOP = ["--backend", "trio", "--backend", "asyncio+uvloop"]
# Kinds of sockets are the loops' own affair, not the interpreters'.
ONCE_A_KIND = ["-k", "not tls12 and not unix"]
QUICK = [*ONCE_A_KIND, "-m", "not newest and not sweep"]
OLDEST = ["anyio==4.16.0", "trio==0.32.0", "uvloop==0.21.0"]

# What runs where: the newest interpreter proves all, on all backends; any other what may differ
# there. For each run a dependency group, and what pytest is told.
RUNS = {
    "newest": ("test-all", []),
    "between": ("test", [*RINGS, "tests/process", *ASYNCIO, *QUICK]),
    "oldest": ("test", [*RINGS, *OTHERS, *ASYNCIO, *ONCE_A_KIND, "-m", "not newest"]),
    "tests_min": ("test-pool", ["tests/pool", "tests/sockets", *TRIO_AND_UVLOOP, *QUICK]),
    "asyncio_only": ("test-lean", ["tests/core", "tests/sockets", *ASYNCIO, *QUICK]),
    # What other platforms and interpreters may have in another way; it takes no UNIX sockets.
    "elsewhere": ("test-pool", [*RINGS, "tests/process", *ASYNCIO, *QUICK]),
    "servers": ("test-servers", ["tests/servers"]),
    # They only wait.
    "network": ("test-pool", ["tests/network", "-n", "12"]),
    "package": ("package", ["tests/packaging"]),
    "stress": ("test-pool", ["tests/stress", "tests/pool/test_interrupts.py", "--long", "-rP"]),
    "coverage": ("test-all", ["--cov"]),
}


def runs(python: str) -> bool:
    """Tell whether an interpreter starts: a version manager's shim may be there and fail."""
    path = shutil.which(python)
    return bool(path) and subprocess.run([path, "-V"], capture_output=True).returncode == 0


PYTHONS = [v for v in (f"3.{minor}" for minor in range(10, 16)) if runs(f"python{v}")] or [
    sys.executable
]
NEWEST = PYTHONS[-1]


def install(session: nox.Session, group: str, *requirements: str, extras: str = "") -> None:
    """Install the package from the work tree, a dependency group and further requirements."""
    requirements = (*nox.project.dependency_groups(PROJECT, group), *requirements)
    # Most of what is installed is never imported, and compiling takes longer than installing.
    session.install("--no-compile", "-e", f".{extras}", *requirements)


def run_tests(session: nox.Session, run: str, *requirements: str) -> None:
    """Install what one of the `RUNS` needs, and run its tests."""
    group, arguments = RUNS[run]
    install(session, group, *requirements)
    session.run("pytest", *SPREAD, *arguments, *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, formatting and the import contract."""
    install(session, "lint")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("lint-imports", "--no-cache", "--no-logo")


@nox.session
def types(session: nox.Session) -> None:
    """Check the types with mypy and pyright, both strict."""
    install(session, "types")
    session.run("mypy")
    session.run("pyright")


@nox.session
def verifytypes(session: nox.Session) -> None:
    """See that all the types a user meets are written down, in the package as it is installed."""
    extras = ".[cli,opentelemetry,prometheus,trio]"
    session.install("--no-compile", extras, "pyright>=1.1.400")
    session.run("pyright", "--verifytypes", "anyconnpool", "--ignoreexternal")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the tests: all on the newest interpreter, on the others what may differ, on asyncio."""
    run = {PYTHONS[0]: "oldest", NEWEST: "newest"}.get(str(session.python), "between")
    group, chosen = RUNS[run]
    install(session, group)
    session.run("pytest", *SPREAD, *(session.posargs or chosen))


@nox.session(python=NEWEST)
def coverage(session: nox.Session) -> None:
    """Run all tests and measure what they cover, which takes them half as long again."""
    run_tests(session, "coverage")


@nox.session(python=PYTHONS[0])
def tests_min(session: nox.Session) -> None:
    """Run the pool's own tests on the oldest interpreter, uvloop, trio and AnyIO allowed."""
    run_tests(session, "tests_min", *OLDEST)


@nox.session(python=NEWEST)
def asyncio_only(session: nox.Session) -> None:
    """Run the tests of core and sockets where neither trio nor uvloop is installed."""
    run_tests(session, "asyncio_only")
    absent = "from importlib.util import find_spec as f; assert not f('trio') and not f('uvloop')"
    session.run("python", "-c", absent)


@nox.session
def elsewhere(session: nox.Session) -> None:
    """Run what may differ on another platform or interpreter, on the Python that runs nox."""
    run_tests(session, "elsewhere")


@nox.session(python=NEWEST)
def servers(session: nox.Session) -> None:
    """Run the tests with programs of others, which have to be installed; Redis is one of them."""
    run_tests(session, "servers")


@nox.session(python=NEWEST)
def network(session: nox.Session) -> None:
    """Run the tests that cut a network between namespaces; it takes root and iproute2."""
    run_tests(session, "network")


@nox.session(python=NEWEST)
def stress(session: nox.Session) -> None:
    """Run the long forms for some minutes; `nox -s stress -- --seed 7` for other chances."""
    run_tests(session, "stress")


@nox.session(python=NEWEST)
def bench(session: nox.Session) -> None:
    """Measure the pool, its peers and its floors; `nox -s bench -- --quick` in a minute or two."""
    install(session, "bench")
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session(python=NEWEST)
def docs(session: nox.Session) -> None:
    """Build the documentation, with warnings as errors and without a network."""
    install(session, "docs", extras="[opentelemetry,prometheus]")
    options = session.posargs or ["-b", "html", "docs", "docs/_build/html"]
    session.run("sphinx-build", "-W", "--keep-going", "-n", *options)


@nox.session
def demo(session: nox.Session) -> None:
    """Run the echo server and client against each other on every backend."""
    session.install("-e", ".[trio,uvloop]")
    session.run("python", "examples/demo.py", *session.posargs)


@nox.session(python=NEWEST)
def package(session: nox.Session) -> None:
    """Build the sdist and the wheel in dist/, check them, and install them as a user would."""
    install(session, "package")
    shutil.rmtree("dist", ignore_errors=True)
    session.run("python", "-m", "build")
    session.run("twine", "check", "--strict", *map(str, Path("dist").iterdir()))
    session.run("check-wheel-contents", "dist")
    run_tests(session, "package")
