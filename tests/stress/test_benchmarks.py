"""The benchmark that reaches into the pool still finds there what it leaves out."""

from __future__ import annotations

import pytest
from benchmarks import parts

from tests.pool.conftest import anyio_backend as anyio_backend


async def test_a_borrow_is_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part has a time, and the borrows without it work."""
    monkeypatch.setattr(parts, "ROUNDS", 1)
    monkeypatch.setattr(parts, "BORROWS", 1)
    times = await parts.main()
    assert parts.WHOLE in times
    assert len(times) == 6
