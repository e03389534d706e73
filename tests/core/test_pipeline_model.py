"""Whatever happens in whatever order, requests and borrowers share connections by the rules."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from .pipeline_events import PipelineEvents


@pytest.mark.newest
@pytest.mark.timeout(300)
def test_sharing_agrees_with_naive_rules() -> None:
    """Any sequence of events leaves every request where the rules say, and nobody is forgotten."""
    run_state_machine_as_test(
        PipelineEvents, settings=settings(max_examples=250, stateful_step_count=50)
    )
