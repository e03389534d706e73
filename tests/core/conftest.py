"""Run the tests of this directory on one loop: what they test knows of none.

Modules whose subject meets the loops' own ways choose others.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import BACKENDS


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Return the backend of every coroutine test here."""
    return BACKENDS["asyncio"]
