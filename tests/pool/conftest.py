"""Put the tests of this directory on virtual clocks: they wait for hours without waiting.

There is none for uvloop, whose loop takes its time from libuv: `--backend asyncio+uvloop` alone
leaves all these tests out.
"""

from typing import Any

import pytest
from trio.testing import MockClock

from .virtual_clock import AutojumpLoop


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Return the backend of one test, with a clock of its own that starts at zero."""
    if request.param == "asyncio":
        return ("asyncio", {"loop_factory": AutojumpLoop})
    return ("trio", {"clock": MockClock(autojump_threshold=0)})
