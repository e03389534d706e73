"""Run the tests of this directory on both kinds of loops; uvloop does nothing of its own here."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import BACKENDS


@pytest.fixture(scope="module", params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Return the backend of a coroutine test."""
    return BACKENDS[request.param]
