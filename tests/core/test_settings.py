"""Wrong settings are refused when the pool is made, with a text that says what to do."""

from __future__ import annotations

import math
from typing import Any

import pytest

from anyconnpool import ConnectionPool, PackageFormat
from anyconnpool._util.checks import check_duration

REMOTE = ("127.0.0.1", 8999)
DURATIONS = ["max_idle_time", "max_lifetime", "acquire_timeout", "connect_timeout", "close_timeout"]
NO_NUMBERS: list[Any] = ["5", None, True, False, 1j, [5], b"5"]
UNLIMITED = ["max_size", "max_waiting"]
LIMITED = ["min_idle", "max_line_bytes"]


def refusal(error: type[Exception], **settings: Any) -> str:
    """Make a pool that can't be made, and return why."""
    with pytest.raises(error) as caught:
        ConnectionPool(REMOTE, **settings)
    assert type(caught.value) is error
    return str(caught.value)


@pytest.mark.parametrize("setting", DURATIONS)
@pytest.mark.parametrize("value", NO_NUMBERS, ids=repr)
def test_a_duration_must_be_a_number(setting: str, value: object) -> None:
    """Other types, bool among them, are a TypeError that names the setting, unit and way out."""
    text = refusal(TypeError, **{setting: value})
    assert text == (
        f"{setting} must be a number of seconds (math.inf for no limit), not {type(value).__name__}"
    )


@pytest.mark.parametrize("setting", DURATIONS)
@pytest.mark.parametrize("value", [-1, -0.001, -math.inf, math.nan], ids=repr)
def test_a_duration_must_not_be_negative_nor_nan(setting: str, value: float) -> None:
    """Such a number is a ValueError that shows it."""
    text = refusal(ValueError, **{setting: value})
    assert text == f"{setting} must be 0 or more seconds (math.inf for no limit), not {value}"


@pytest.mark.parametrize("setting", DURATIONS)
@pytest.mark.parametrize("value", [0, 1, 0.5, math.inf], ids=repr)
def test_a_duration_may_be_any_other_number(setting: str, value: float) -> None:
    """Zero, integers, fractions and infinity are durations."""
    settings: dict[str, Any] = {setting: value}
    ConnectionPool(REMOTE, **settings)


def test_a_duration_becomes_a_float() -> None:
    """An int is as good as a float, and turned into one."""
    assert type(check_duration("timeout", 5)) is float


@pytest.mark.parametrize("value", ["5", None, True, 2.0, -math.inf, math.nan, 1j], ids=repr)
@pytest.mark.parametrize("setting", UNLIMITED)
def test_a_count_must_be_an_int_or_infinite(setting: str, value: object) -> None:
    """Other types, bool and whole floats among them, are a TypeError that offers infinity."""
    text = refusal(TypeError, **{setting: value})
    assert text == f"{setting} must be an int or math.inf, not {value!r}"


@pytest.mark.parametrize("value", ["5", None, True, 2.0, math.inf, math.nan], ids=repr)
@pytest.mark.parametrize("setting", LIMITED)
def test_some_counts_cannot_be_infinite(setting: str, value: object) -> None:
    """Nobody can keep infinitely many connections ready, or take a line without end."""
    text = refusal(TypeError, **{setting: value})
    assert text == f"{setting} must be an int, not {value!r}"


@pytest.mark.parametrize(
    ("setting", "least"),
    [("max_size", 1), ("min_idle", 0), ("max_waiting", 0), ("max_line_bytes", 1)],
)
def test_a_count_must_not_be_too_small(setting: str, least: int) -> None:
    """The least value is allowed and named by the error of the one below."""
    settings: dict[str, Any] = {setting: least}
    ConnectionPool(REMOTE, **settings)
    text = refusal(ValueError, **{setting: least - 1})
    assert text == f"{setting} must be {least} or more, not {least - 1}"


@pytest.mark.parametrize("setting", UNLIMITED)
def test_max_size_and_max_waiting_may_be_infinite(setting: str) -> None:
    """Infinity means no limit."""
    settings: dict[str, Any] = {setting: math.inf}
    ConnectionPool(REMOTE, **settings)


def test_min_idle_must_fit_into_max_size() -> None:
    """What can never be ready is refused; as many as there is room for are not."""
    ConnectionPool(REMOTE, max_size=3, min_idle=3)
    text = refusal(ValueError, max_size=3, min_idle=4)
    assert text == "min_idle must not exceed max_size, but 4 exceeds 3"


@pytest.mark.parametrize("value", ["LIFO", "random", "", None, True, ["lifo"]], ids=repr)
def test_the_idle_order_is_one_of_two(value: object) -> None:
    """The error names both."""
    text = refusal(ValueError, idle_order=value)
    assert text == f'idle_order must be "lifo" or "fifo", not {value!r}'


@pytest.mark.parametrize(
    ("setting", "value", "kind"),
    [
        ("one_way", 1, "bool"),
        ("one_way", None, "bool"),
        ("package_format", 2, "PackageFormat"),
        ("package_format", PackageFormat, "PackageFormat"),
        ("name", b"pool", "str"),
        ("name", 5, "str"),
    ],
)
def test_other_settings_have_their_type(setting: str, value: object, kind: str) -> None:
    """The error names the setting and the type it takes."""
    text = refusal(TypeError, **{setting: value})
    assert text == f"{setting} must be a {kind}, not {type(value).__name__}"


def test_an_unknown_setting_is_refused() -> None:
    """A misspelt name is no setting."""
    assert "max_sise" in refusal(TypeError, max_sise=5)


def test_from_url_checks_the_same_settings() -> None:
    """A pool made from a URL refuses what the constructor refuses."""
    with pytest.raises(ValueError, match="max_size must be 1 or more"):
        ConnectionPool.from_url("tcp://localhost:1", max_size=0)


@pytest.mark.parametrize("value", [0, -1, 1], ids=repr)
def test_max_size_is_checked_when_it_is_changed(value: int) -> None:
    """Less than 1, or than ``min_idle``, is refused, and the old value stays."""
    pool = ConnectionPool(REMOTE, max_size=4, min_idle=2)
    with pytest.raises(ValueError, match=r"max_size must be 1 or more|min_idle must not exceed"):
        pool.max_size = value
    assert pool.max_size == pool.statistics().max_size == 4


@pytest.mark.parametrize("value", [True, "9", 9.0, None, math.nan], ids=repr)
def test_max_size_keeps_its_type_when_it_is_changed(value: Any) -> None:
    """What is not a count is refused, and the old value stays."""
    pool = ConnectionPool(REMOTE, max_size=4)
    with pytest.raises(TypeError, match=r"max_size must be an int or math\.inf"):
        pool.max_size = value
    assert pool.max_size == 4


def test_max_size_can_be_changed_before_the_block() -> None:
    """A pool that runs nowhere yet takes the new value."""
    pool = ConnectionPool(REMOTE, max_size=4)
    pool.max_size = math.inf
    assert pool.max_size == pool.statistics().max_size == math.inf


@pytest.mark.parametrize("value", [-1, -math.inf, math.nan, "1", True], ids=repr)
def test_the_timeout_of_one_acquire_is_checked_like_a_setting(value: Any) -> None:
    """A wrong timeout is refused before anything else, even outside the pool's block."""
    pool = ConnectionPool(REMOTE)
    with pytest.raises((TypeError, ValueError), match=r"timeout must be .* seconds"):
        pool.acquire(timeout=value)
