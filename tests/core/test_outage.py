"""How failures to connect are counted, told as short stories."""

from __future__ import annotations

import math

from .machine_fakes import Pool

REFUSED = ConnectionRefusedError("no")


def test_a_burst_counts_once() -> None:
    """The pause follows the first failure; what was begun after that counts again."""
    pool = Pool(fail_fast_after=10)
    for _ in range(3):
        pool.join()
    outage = pool.machine.line.outage
    for _ in range(3):
        pool.fail(REFUSED, now=1)
    assert (outage.since, outage.failures) == (1, 1)
    pool.join(now=2)
    pool.fail(REFUSED, now=3)
    assert (outage.since, outage.failures) == (1, 2)


def test_what_was_begun_in_the_last_outage_counts_in_the_next_one() -> None:
    """It is the first failure after a success, whenever it was begun."""
    pool = Pool(fail_fast_after=10)
    for _ in range(3):
        pool.join()
    outage = pool.machine.line.outage
    pool.fail(REFUSED, now=1)
    pool.open(now=2)
    assert (outage.since, outage.failures) == (None, 0)
    pool.fail(REFUSED, now=3)
    assert (outage.since, outage.failures) == (3, 1)


def test_an_attempt_that_is_late_may_not_be_wanted_any_more() -> None:
    """On a busy machine, the time can come too late; then there is nothing to come back for."""
    pool = Pool(fail_fast_after=0)
    outage = pool.machine.line.outage
    outage.longest_unasked = 10
    pool.join()
    pool.machine.actions[0][1].rest = 9
    pool.fail(REFUSED, now=0.5)
    pool.machine.tick(5)
    assert pool.machine.alarm_at == 9.5
    pool.machine.tick(11)
    assert (outage.number, pool.machine.alarm_at) == (None, math.inf)


def test_a_failure_after_the_end_says_nothing() -> None:
    """Outside the block, connecting doesn't fail for any time."""
    pool = Pool()
    pool.join()
    pool.machine.end(lambda: REFUSED, list)
    pool.fail(REFUSED, now=1)
    assert pool.machine.statistics(lambda: 5.0).failing_for is None
