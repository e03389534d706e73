"""Put the tests of this directory on virtual clocks: they wait for hours without waiting.

There is none for uvloop, whose loop takes its time from libuv: `--backend asyncio+uvloop` alone
leaves all these tests out.
"""

from typing import Any

import pytest

from anyconnpool.testing import virtual_clock_backend


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Return the backend of one test, with a clock of its own that starts at zero."""
    return virtual_clock_backend(request.param)


@pytest.fixture
def on_asyncio(anyio_backend_name: str) -> None:
    """Leave trio out."""
    if anyio_backend_name != "asyncio":
        pytest.skip("open() is asyncio's")


@pytest.fixture
def ways(anyio_backend_name: str) -> list[str]:
    """Return the ways to run a block in a task."""
    return ["serve", "open"] if anyio_backend_name == "asyncio" else ["serve"]
