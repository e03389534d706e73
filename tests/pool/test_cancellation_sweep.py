"""Promise 3: whatever is cancelled at whatever point, nothing leaks and nobody else suffers."""

from __future__ import annotations

import pytest

from .scenarios import SCENARIOS
from .scenarios_exchanges import EXCHANGE_SCENARIOS
from .sweep import Blow, sweep

ALL = SCENARIOS | EXCHANGE_SCENARIOS


@pytest.mark.parametrize("blow", Blow, ids=lambda blow: blow.value)
@pytest.mark.parametrize("name", ALL)
def test_a_cancellation_at_any_step_leaks_nothing(name: str, blow: Blow) -> None:
    """Struck at every step of any task, books and sockets agree, and the others are served.

    The cancellation is delivered, no socket is left open after the pool's block, the books agree
    with the slots and the sockets, and every slot can be used again.
    """
    assert sweep(ALL[name], blow) > 0
