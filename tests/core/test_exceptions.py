"""The pool's errors: what they derive from, what they know, and how they read."""

from __future__ import annotations

import anyio

from anyconnpool import (
    AcquireTimeout,
    PackageTooLarge,
    PoolClosed,
    PoolError,
    PoolFull,
    PoolStatistics,
)
from anyconnpool._util.deadline import describe_timeout
from tests.cases import table

FACTS = PoolStatistics(
    name="cache", max_size=4, size=4, idle=0, in_use=2, connecting=1, closing=1, tasks_waiting=7
)
STATE = "(max_size 4, 2 in use, 0 idle, 1 connecting, 1 closing, 7 tasks waiting)"


@table(
    "error, other",
    [
        (PoolClosed, anyio.ClosedResourceError),
        (PoolFull, anyio.WouldBlock),
        (AcquireTimeout, TimeoutError),
        (PackageTooLarge, ValueError),
    ],
)
def test_every_error_is_a_pool_error_and_of_a_kind_known_elsewhere(
    error: type[Exception], other: type[Exception]
) -> None:
    """Code that knows only AnyIO or Python handles the pool's errors rightly."""
    assert error.__bases__ == (PoolError, other)


def test_the_common_base_is_a_plain_exception() -> None:
    """Nobody catches the pool's errors by accident."""
    assert PoolError.__bases__ == (Exception,)


def test_pool_closed_names_the_pool_and_says_what_to_do() -> None:
    """The text is a sentence about the pool."""
    error = PoolClosed("cache", "has been left: its async with block has ended")
    assert str(error) == "pool 'cache' has been left: its async with block has ended"
    assert error.name == "cache"


def test_pool_full_tells_the_state_of_the_pool() -> None:
    """The text and the attribute have the facts of that moment."""
    error = PoolFull(FACTS, "has no idle connection to lend at once")
    assert str(error) == f"pool 'cache' has no idle connection to lend at once {STATE}"
    assert error.statistics is FACTS


def test_acquire_timeout_tells_the_last_connect_error() -> None:
    """Who can't get a connection because none can be opened learns why."""
    cause = ConnectionRefusedError("refused")
    error = AcquireTimeout(1.5, FACTS, cause)
    assert str(error) == (
        f"no connection of pool 'cache' within 1.5 s {STATE}; "
        "last connect error: ConnectionRefusedError: refused"
    )
    assert (error.timeout, error.statistics, error.last_connect_error) == (1.5, FACTS, cause)


def test_acquire_timeout_of_a_pool_in_full_use_says_what_to_do() -> None:
    """With every connection lent, the advice is to lend less or to allow more."""
    facts = PoolStatistics(name="cache", max_size=2, size=2, in_use=2)
    error = AcquireTimeout(60.0, facts, None)
    assert str(error).endswith("; give connections back sooner or raise max_size")
    assert "within 60 s" in str(error)
    assert error.last_connect_error is None
    facts = PoolStatistics(name="cache", max_size=2, size=2, in_use=2, in_flight=128)
    error = AcquireTimeout(60.0, facts, None)
    assert "2 in use, 128 exchanges in flight, 0 idle" in str(error)
    assert str(error).endswith("; give connections back sooner or raise max_size or pipeline")


def test_a_short_limit_is_not_rounded_to_nothing() -> None:
    """Thousandths are enough for what is longer."""
    for timeout, told in ((1e-05, "1e-05"), (0.0004, "0.0004"), (0.1 + 0.2, "0.3"), (0, "0")):
        assert f" within {told} s (" in str(AcquireTimeout(timeout, FACTS, None))
        assert describe_timeout("no reply", timeout, 1, 0).startswith(f"no reply within {told} s: ")


def test_acquire_timeout_gives_no_advice_that_does_not_fit() -> None:
    """While connections are still being opened, nothing suggests a larger pool."""
    assert (
        str(AcquireTimeout(1, FACTS, None)) == f"no connection of pool 'cache' within 1 s {STATE}"
    )


def test_package_too_large_tells_both_sizes() -> None:
    """The text says what to change."""
    error = PackageTooLarge(70_000, 65_535)
    assert str(error) == (
        "a package of 70000 bytes exceeds the 65535 bytes that its format allows; "
        "use a PackageFormat with a larger max_size or header_size"
    )
    assert (error.size, error.max_size) == (70_000, 65_535)
