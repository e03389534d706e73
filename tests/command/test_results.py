"""What is told about a measurement: advice, rows of the table, JSON."""

from __future__ import annotations

import math
from dataclasses import replace

from anyconnpool.command._advice import advise
from anyconnpool.command._latency import Bar
from anyconnpool.command._results import LATENCIES, Point, PoolUse, Report
from anyconnpool.command._screen import cells, milliseconds, quantity
from tests.cases import table


def point(
    max_size: int | None,
    throughput: float,
    errors: dict[str, int] | None = None,
    answered: int = 9,
    noise: float = 0.01,
    missed: int = 0,
) -> Point:
    times = (0.00123, 0.0123, 0.123, 0.999, 1.23)
    return Point(
        pool=None if max_size is None else PoolUse(max_size, 2, 0.999, {"unclean": 1}),
        elapsed=3.0,
        answered=answered,
        throughput=throughput,
        noise=noise,
        latency=dict(zip(LATENCIES, times, strict=True)),
        histogram=[Bar(0.001, 0.002, 9)],
        waiting=0.25,
        sent=1000.0,
        received=234.0,
        missed=missed,
        errors=errors or {},
    )


def test_the_smallest_size_that_is_good_enough_is_advised() -> None:
    """The advice is the first size with 95 % of the best throughput, not the fastest size."""
    sizes = {1: 500, 2: 940, 4: 950, 8: 1000}
    advice = advise([point(size, most, noise=0.001) for size, most in sizes.items()], 32)
    assert advice.max_size == 4
    assert "950 of 1000 requests/s" in advice.text


def test_the_largest_size_may_not_be_large_enough() -> None:
    """If the largest size is the only good one, the advice is to try larger ones."""
    points = [point(1, 500), point(8, 1000)]
    assert "try larger ones" in advise(points, 32).text
    assert "8 tasks can't use more" in advise(points, 8).text


@table(
    "answered, reused, unread, unasked",
    [
        (9, 0.1, 9, 9),
        (9, 0.1, 4, 0),
        # Where requests share connections, hardly any is borrowed anew.
        (2000, 0.0, 3, 0),
        (9, 0.5, 9, 0),
    ],
)
def test_advice_where_more_comes_than_replies(
    answered: int, reused: float, unread: int, unasked: int
) -> None:
    """Connections that are lost to unread bytes forbid advice where that is usual, no earlier."""
    sound = point(2, 900)
    lost = replace(
        point(1, 500, answered=answered), pool=PoolUse(1, 9, reused, {"unread_data": unread})
    )
    assert lost.unasked == unasked
    advice = advise([lost, sound], 2)
    assert (advice.max_size is None) is bool(unasked)
    assert ("try --greeting" in advice.text) is bool(unasked)


@table(
    "points, text",
    [
        ([], "failed at every size"),
        ([point(1, 500, {"x": 1}), point(2, 500, {"x": 1})], "failed at every size"),
        ([point(1, 500)], "from one size"),
        ([point(1, 500), point(2, 900, {"x": 1})], "from one size"),
    ],
)
def test_no_advice_without_enough_to_go_by(points: list[Point], text: str) -> None:
    """Sizes at which requests failed are no ground for advice, nor is one size alone."""
    advice = advise(points, 32)
    assert advice.max_size is None
    assert text in advice.text


@table(
    "second, noise",
    [
        # 10 % apart, of which 5 % are let pass, and as much as that uncertain.
        (1100, 0.05),
        # The better one may be no better than 95 % of what it was.
        (1060, 0.02),
    ],
)
def test_a_difference_within_the_noise_is_no_advice(second: float, noise: float) -> None:
    """Sizes that can't be told apart are named, and what would tell them apart."""
    points = [point(1, 400, noise=0), point(2, 1000, noise=noise), point(4, second, noise=noise)]
    advice = advise(points, 32)
    assert advice.max_size is None
    assert f"max_size=2 and max_size=4 differ by is no more than the noise (±{noise:.0%})" in (
        advice.text
    )
    assert advise([replace(one, noise=0.001) for one in points], 32).max_size == 4


def test_sizes_that_are_all_the_same_are_no_advice() -> None:
    """Where nothing is gained by more connections, that is told instead of a size."""
    advice = advise([point(1, 1000), point(2, 1010), point(4, 990)], 32)
    assert advice.max_size is None
    assert "no size is faster than max_size=1 by more than the noise (±1%)" in advice.text
    # A small gain that is none of the noise's is not worth more connections.
    assert advise([point(1, 1000, noise=0.001), point(2, 1030, noise=0.001)], 32).max_size == 1


def test_too_short_to_tell() -> None:
    """Where the noise is unknown, there is no advice."""
    advice = advise([point(1, 100), point(2, 1000, noise=math.inf)], 32)
    assert advice.max_size is None
    assert "too short" in advice.text


@table(
    "missed, max_size, text",
    [
        ((0, 0), None, "Every size kept up with 100 requests/s"),
        ((500, 0), 2, "max_size=2 is the smallest size measured that kept up with 100 requests/s"),
        ((500, 500), None, "no size kept up"),
        # Not more than one in a hundred.
        ((9, 9), None, "Every size kept up"),
    ],
)
def test_advice_at_a_rate(missed: tuple[int, int], max_size: int | None, text: str) -> None:
    """At a rate, what counts is whether it is kept up with; the throughput is the same anyway."""
    sizes = [point(size, 100, answered=1000, missed=one) for size, one in enumerate(missed, 1)]
    advice = advise(sizes, 32, rate=100)
    assert advice.max_size == max_size
    assert text in advice.text


def test_rows_of_the_table() -> None:
    """A row has milliseconds and percentages; what makes no sense in it is a dash."""
    times = ("1.23", "12.3", "123", "999", "1230")
    shown = ("500", "1%", *times, "25%")
    row = cells(point(4, 500.4, {"a": 1, "b": 2}))
    assert tuple(row.values()) == ("4", *shown, "99.9%", "1.23 k", "3")
    assert tuple(cells(point(None, 500.4)).values()) == ("no pool", *shown, "-", "1.23 k", "0")
    nothing = cells(point(4, 0, {"a": 1}, answered=0, noise=math.inf))
    assert [nothing[name] for name in ("±", *LATENCIES, "waiting")] == ["-"] * 7


@table(
    "value, shown",
    [
        (0, "0"),
        (12.34, "12"),
        (999, "999"),
        (999.6, "1.00 k"),
        (1234, "1.23 k"),
        (99_950, "100 k"),
        (9_876_543, "9.88 M"),
        (12e9, "12.0 G"),
        (12e13, "120000 G"),
    ],
)
def test_quantities_are_short(value: float, shown: str) -> None:
    """A large number has three digits and a unit."""
    assert quantity(value) == shown


@table(
    "seconds, shown",
    [(0.0000512, "0.05"), (0.00999, "9.99"), (0.01, "10.0"), (0.0999, "99.9"), (2, "2000")],
)
def test_milliseconds_have_three_digits(seconds: float, shown: str) -> None:
    """A duration has no more digits than the histogram knows."""
    assert milliseconds(seconds) == shown


def test_json_has_all_that_was_measured() -> None:
    """The JSON of a point has its numbers, with their units in the names."""
    assert point(4, 500, {"a": 1}).as_json() == {
        "max_size": 4,
        "elapsed_seconds": 3.0,
        "answered": 9,
        "requests_per_second": 500,
        "noise_share": 0.01,
        "latency_seconds": {
            "p50": 0.00123,
            "p90": 0.0123,
            "p99": 0.123,
            "p99.9": 0.999,
            "max": 1.23,
        },
        "histogram": [{"from_seconds": 0.001, "to_seconds": 0.002, "count": 9}],
        "waiting_share": 0.25,
        "bytes_per_second": {"sent": 1000.0, "received": 234.0},
        "missed": 0,
        "opened": 2,
        "reused_share": 0.999,
        "closed": {"unclean": 1},
        "errors": {"a": 1},
        "servers": [],
    }
    # Infinity is no JSON.
    assert point(None, 500, noise=math.inf).as_json()["noise_share"] is None


def test_the_point_without_a_pool_comes_last() -> None:
    """A report's points are those with a pool, then the one without."""
    report = Report(pooled=[point(1, 1)])
    assert [one.max_size for one in report.points] == [1]
    report.unpooled = point(None, 1)
    assert [one.max_size for one in report.points] == [1, None]
