"""Choose the backends: coroutine tests run on asyncio, asyncio+uvloop and trio.

`--backend NAME`, which may be repeated, narrows the choice. Tests without a backend always run.
`--long` asks for the long form of the tests that have one, `--seed N` for another course of chance,
`--jitter N` for events, turns and threads that are late.
"""

import gc
from collections.abc import Callable
from inspect import iscoroutinefunction
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, settings

from tests.jitter import Jitter

BACKENDS: dict[str, tuple[str, dict[str, Any]]] = {
    "asyncio": ("asyncio", {"use_uvloop": False}),
    "asyncio+uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}

# The same examples in every run, and no deadline on busy machines; `--hypothesis-profile explore`
# looks further. The fixture that hypothesis would warn of only chooses the backend.
settings.register_profile(
    "same",
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.register_profile("explore", settings.get_profile("same"), derandomize=False)
settings.load_profile("same")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--backend`, `--long`, `--seed` and `--jitter`."""
    parser.addoption(
        "--backend",
        action="append",
        choices=list(BACKENDS),
        help="run the tests that need a backend on this one only; may be repeated",
    )
    parser.addoption("--long", action="store_true", help="run the long form of tests with one")
    parser.addoption("--seed", type=int, default=1, help="what tests draw their chances from")
    parser.addoption("--jitter", type=int, help="the seed of delays that make races show")


def pytest_configure(config: pytest.Config) -> None:
    """Make things late from now on, if `--jitter` asks for it."""
    seed = config.getoption("jitter")
    if seed is not None:
        Jitter(cast("int", seed))


@pytest.fixture(scope="module", params=list(BACKENDS))
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Return the backend that AnyIO's pytest plugin runs a coroutine test on."""
    if request.param == "asyncio+uvloop":
        try:
            import uvloop  # noqa: F401  # pyright: ignore[reportUnusedImport]
        except ImportError as error:
            pytest.skip(f"uvloop is not there: {error}")
    return BACKENDS[request.param]


@pytest.fixture(scope="session")
def long_form(pytestconfig: pytest.Config) -> bool:
    """Tell whether a test that has a long form should run it."""
    return bool(pytestconfig.getoption("long"))


@pytest.fixture(scope="session")
def seed(pytestconfig: pytest.Config) -> int:
    """Return what a test's random numbers start from."""
    return cast("int", pytestconfig.getoption("seed"))


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: pytest.Collector, obj: Callable[..., object]) -> None:
    """Give coroutine tests to AnyIO's plugin, except those that say that they are trio's own."""
    marks = {mark.name for mark in getattr(obj, "pytestmark", ())}
    marks.update(mark.name for mark in collector.iter_markers())
    test = getattr(getattr(obj, "hypothesis", None), "inner_test", obj)
    if iscoroutinefunction(test) and "trio" not in marks:
        pytest.mark.anyio(obj)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests of the backends that `--backend` does not name."""
    chosen = config.getoption("backend") or list(BACKENDS)
    kept: list[pytest.Item] = []
    left_out: list[pytest.Item] = []
    for item in items:
        (kept if _backend_of(item) in (None, *chosen) else left_out).append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


def _backend_of(item: pytest.Item) -> str | None:
    if item.get_closest_marker("trio"):
        return "trio"
    callspec = getattr(item, "callspec", None)
    return callspec.params.get("anyio_backend") if callspec else None


def pytest_collection_finish(session: pytest.Session) -> None:
    """Keep what was collected out of the garbage collector's sight: many tests ask it to run."""
    gc.collect()
    if hasattr(gc, "freeze"):  # not on PyPy
        gc.freeze()
