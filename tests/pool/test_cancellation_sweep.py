"""Promise 3: whatever is cancelled at whatever point, nothing leaks and nobody else suffers."""

from __future__ import annotations

import pytest

from .scenarios import SCENARIOS
from .scenarios_exchanges import EXCHANGE_SCENARIOS
from .scenarios_hooks import HOOK_SCENARIOS
from .scenarios_pipelines import PIPELINE_SCENARIOS
from .scenarios_replicas import REPLICA_SCENARIOS
from .sweep import ON_POOL_TASKS, Blow, sweep

ALL = SCENARIOS | EXCHANGE_SCENARIOS | HOOK_SCENARIOS | PIPELINE_SCENARIOS | REPLICA_SCENARIOS


@pytest.mark.sweep
@pytest.mark.parametrize(
    "blow", [blow for blow in Blow if blow not in ON_POOL_TASKS], ids=lambda blow: blow.value
)
@pytest.mark.parametrize("name", ALL)
def test_a_cancellation_at_any_step_leaks_nothing(name: str, blow: Blow) -> None:
    """Struck at every step of any task, books and sockets agree, and the others are served.

    The cancellation is delivered, no socket is left open after the pool's block, the books agree
    with the slots and the sockets, and every slot can be used again.
    """
    assert sweep(ALL[name], blow) > 0


@pytest.mark.newest
@pytest.mark.parametrize(
    "blow", [Blow.SCOPE_ASYNCIO, Blow.SCOPE_TRIO, Blow.NATIVE_TWICE], ids=lambda blow: blow.value
)
@pytest.mark.parametrize("name", SCENARIOS)
def test_observers_are_told_the_end_of_all_that_began(name: str, blow: Blow) -> None:
    """The same with an observer: each connection is closed, each borrow released, each pool ended.

    Neither does the class that tells of borrows lose a connection where the plain one doesn't.
    """
    assert sweep(SCENARIOS[name], blow, observed=True) > 0
