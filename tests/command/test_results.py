"""What is told about a measurement: advice, rows of the table, JSON."""

from __future__ import annotations

from anyconnpool.command._results import Point, Report, advise
from anyconnpool.command._screen import cells, milliseconds
from tests.cases import table


def point(
    max_size: int | None, throughput: float, errors: dict[str, int] | None = None, answered: int = 9
) -> Point:
    return Point(
        max_size=max_size,
        elapsed=3.0,
        answered=answered,
        throughput=throughput,
        p50=0.00123,
        p90=0.0123,
        p99=0.123,
        longest=1.23,
        waiting=0.25,
        opened=2,
        reused=0.999,
        errors=errors or {},
    )


def test_the_smallest_size_that_is_good_enough_is_advised() -> None:
    """The advice is the first size with 95 % of the best throughput, not the fastest size."""
    advice = advise([point(1, 500), point(2, 940), point(4, 950), point(8, 1000)], 32)
    assert advice.max_size == 4
    assert "950 of 1000 requests/s" in advice.text


def test_the_largest_size_may_not_be_large_enough() -> None:
    """If the largest size is the only good one, the advice is to try larger ones."""
    points = [point(1, 500), point(8, 1000)]
    assert "try larger ones" in advise(points, 32).text
    assert "8 tasks can't use more" in advise(points, 8).text


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


def test_rows_of_the_table() -> None:
    """A row has milliseconds and percentages; what makes no sense in it is a dash."""
    shown = ("500", "1.23", "12.3", "123", "1230", "25%")
    assert cells(point(4, 500.4, {"a": 1, "b": 2})) == ("4", *shown, "99.9%", "3")
    assert cells(point(None, 500.4)) == ("no pool", *shown, "-", "0")
    assert cells(point(4, 0, {"a": 1}, answered=0))[2:7] == ("-",) * 5


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
        "latency_seconds": {"p50": 0.00123, "p90": 0.0123, "p99": 0.123, "max": 1.23},
        "waiting_share": 0.25,
        "opened": 2,
        "reused_share": 0.999,
        "errors": {"a": 1},
    }


def test_the_point_without_a_pool_comes_last() -> None:
    """A report's points are those with a pool, then the one without."""
    report = Report(pooled=[point(1, 1)])
    assert [one.max_size for one in report.points] == [1]
    report.unpooled = point(None, 1)
    assert [one.max_size for one in report.points] == [1, None]
