"""An hour of virtual time: whatever happens to a pool, its books are right and nothing grows."""

from __future__ import annotations

import logging

import pytest

from tests.pool.conftest import anyio_backend as anyio_backend

from .soak import Figures
from .soak_churn import Churn

# The long form takes minutes where other things load the machine.
pytestmark = pytest.mark.timeout(600)

MINUTE = 60
#: what an hour of churn makes happen, so that the test is about something
ALL_THAT_HAPPENS = {
    "exchanged", "cancelled", "failed", "discarded", "detached", "full", "late", "server down",
    "restart", "retire", "resize", "push_unasked",
}  # fmt: skip
ALL_REASONS = {
    "max_idle_time", "max_lifetime", "retired", "peer_closed", "unread_data", "unclean",
    "discarded", "surplus", "detached",
}  # fmt: skip


@pytest.mark.parametrize("course", range(10))
async def test_an_hour_of_churn_leaves_the_pool_as_it_was(
    course: int, seed: int, long_form: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Counts add up at every step, and after an hour nothing has grown since minute ten."""
    if course and not long_form:
        pytest.skip("one course of chance will do in the short form")
    # What pytest keeps of the log would grow.
    caplog.set_level(logging.CRITICAL, "anyconnpool")
    churn = Churn(seed + course)
    try:
        async with churn.pool as pool:
            await churn.run(10 * MINUTE)
            early = Figures.now()
            await churn.run(50 * MINUTE)
            Figures.now().assert_no_more_than(early, "an hour of churn")
            statistics = pool.statistics()
    except BaseException as error:
        raise AssertionError(f"seed {seed + course}: {dict(churn.seen)}") from error
    assert set(churn.seen) == ALL_THAT_HAPPENS, f"seed {seed + course}"
    assert set(statistics.closed) == ALL_REASONS, f"seed {seed + course}"
    assert churn.network.open_now == 0
