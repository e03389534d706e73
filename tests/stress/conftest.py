"""What the tests of long runs and great numbers share."""

from __future__ import annotations

import pytest

from .soak import CostMeter


@pytest.fixture
def meter(monkeypatch: pytest.MonkeyPatch) -> CostMeter:
    """Return what counts the work of pools that are made after it."""
    return CostMeter(monkeypatch)


@pytest.fixture
def many(long_form: bool) -> int:
    """Return how many of something are a great number: 10 000 in the long form."""
    return 10_000 if long_form else 1_000
