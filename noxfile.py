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
OLDEST = ["anyio==4.16.0", "trio==0.32.0", "uvloop==0.21.0"]

# What the tests need that run in an environment with neither trio nor uvloop.
LEAN = [
    "hypothesis>=6.100",
    "pytest>=8.2",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.6",
    "trustme>=1.2",
]

# The tests wait more than they compute: two processes a core.
SPREAD = ["-n", str(2 * (os.cpu_count() or 1)), "--dist", "worksteal"]
# Neither what takes long and isn't worth it on every interpreter, nor every kind of socket.
QUICK = ["-m", "not newest and not sweep", "-k", "not tls12 and not unix"]
# What may differ from one interpreter to the next. The rest needs the newest only, and so do uvloop
# and trio; tests_min has those two on the oldest.
BASIC = [
    *("tests/core", "tests/examples", "tests/instrumentation", "tests/pool", "tests/process"),
    *("tests/sockets", "tests/testkit", "tests/test_docs.py", "--backend", "asyncio", *QUICK),
]


def runs(python: str) -> bool:
    """Tell whether an interpreter starts: a version manager's shim may be there and fail."""
    path = shutil.which(python)
    return bool(path) and subprocess.run([path, "-V"], capture_output=True).returncode == 0


PYTHONS = [v for v in (f"3.{minor}" for minor in range(10, 16)) if runs(f"python{v}")] or [
    sys.executable
]


def install(session: nox.Session, group: str, *requirements: str, extras: str = "") -> None:
    """Install the package from the work tree, a dependency group and further requirements."""
    requirements = (*nox.project.dependency_groups(PROJECT, group), *requirements)
    # Most of what is installed is never imported, and compiling takes longer than installing.
    session.install("--no-compile", "-e", f".{extras}", *requirements)


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
    """Run the tests: all on the newest interpreter, on the others the basic ones, on asyncio."""
    oldest, newest = session.python == PYTHONS[0], session.python == PYTHONS[-1]
    install(session, "test-all" if newest else "test")
    chosen = [] if newest else [*BASIC, "-m", "not newest"] if oldest else BASIC
    session.run("pytest", *SPREAD, *(session.posargs or chosen))


@nox.session(python=PYTHONS[-1])
def coverage(session: nox.Session) -> None:
    """Run all tests and measure what they cover, which takes them half as long again."""
    install(session, "test-all")
    session.run("pytest", *SPREAD, "--cov", *session.posargs)


@nox.session(python=PYTHONS[0])
def tests_min(session: nox.Session) -> None:
    """Run the pool's own tests on the oldest interpreter, uvloop, trio and AnyIO allowed."""
    install(session, "test-pool", *OLDEST)
    tests = ["tests/core", "tests/pool", "tests/sockets"]
    backends = ["--backend", "asyncio+uvloop", "--backend", "trio"]
    session.run("pytest", *tests, *backends, *QUICK, *SPREAD, *session.posargs)


@nox.session(python=PYTHONS[-1])
def asyncio_only(session: nox.Session) -> None:
    """Run the tests of core and sockets where neither trio nor uvloop is installed."""
    session.install("--no-compile", ".", *LEAN)
    absent = "from importlib.util import find_spec as f; assert not f('trio') and not f('uvloop')"
    session.run("python", "-c", absent)
    chosen = ["tests/core", "tests/sockets", "--backend", "asyncio", *QUICK]
    session.run("pytest", *chosen, *SPREAD, *session.posargs)


@nox.session(python=PYTHONS[-1])
def servers(session: nox.Session) -> None:
    """Run the tests with Redis, memcached, HAProxy and stunnel, which have to be installed."""
    install(session, "test-pool")
    session.run("pytest", "tests/servers", *SPREAD, *session.posargs)


@nox.session(python=PYTHONS[-1])
def network(session: nox.Session) -> None:
    """Run the tests that cut a network between namespaces; it takes root and iproute2."""
    install(session, "test-pool")
    # They only wait.
    session.run("pytest", "tests/network", "-n", "12", *session.posargs)


@nox.session(python=PYTHONS[-1])
def stress(session: nox.Session) -> None:
    """Run the long forms for some minutes; `nox -s stress -- --seed 7` for other chances."""
    install(session, "test-pool")
    long_forms = ["tests/stress", "tests/pool/test_interrupts.py", "--long", "-rP"]
    session.run("pytest", *long_forms, *SPREAD, *session.posargs)


@nox.session(python=PYTHONS[-1])
def bench(session: nox.Session) -> None:
    """Measure the pool, its peers and its floors; `nox -s bench -- --quick` in a minute or two."""
    install(session, "bench")
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session(python=PYTHONS[-1])
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


@nox.session(python=PYTHONS[-1])
def package(session: nox.Session) -> None:
    """Build the sdist and the wheel in dist/, check them, and install them as a user would."""
    session.install("--no-compile", *nox.project.dependency_groups(PROJECT, "package"))
    shutil.rmtree("dist", ignore_errors=True)
    session.run("python", "-m", "build")
    session.run("twine", "check", "--strict", *map(str, Path("dist").iterdir()))
    session.run("check-wheel-contents", "dist")
    session.run("pytest", "tests/packaging", *SPREAD, *session.posargs)
