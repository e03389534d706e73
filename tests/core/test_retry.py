"""Retry and KeepAlive: what they accept, and the pauses that follow from it."""

from __future__ import annotations

import math
import random
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyconnpool import ConnectionPool, KeepAlive, Retry
from tests.cases import table

NO_NUMBERS: list[Any] = ["5", None, True, False, 1j, [5], b"5"]
DURATIONS = ["interval", "max_interval"]
MIDDLE = 0.5


def refusal(make: Any, error: type[Exception], *arguments: Any, **settings: Any) -> str:
    """Make what can't be made, and return why."""
    with pytest.raises(error) as caught:
        make(*arguments, **settings)
    assert type(caught.value) is error
    return str(caught.value)


def pauses(retry: Retry, count: int, drawn: float = MIDDLE) -> list[float]:
    """Return the first pauses, with a random number that is always the same."""
    return [retry.pause(repeat, lambda: drawn) for repeat in range(1, count + 1)]


def test_the_defaults_are_those_of_the_ancestors() -> None:
    """100 ms at first, as gtcp, doubled up to 60 s, as goperconn, give or take a tenth."""
    assert Retry(3) == Retry(3, interval=0.1, backoff=2, max_interval=60, jitter=0.1)


def test_each_pause_is_longer_than_the_last_up_to_the_cap() -> None:
    """They grow by the factor, and stay at ``max_interval`` from then on."""
    assert pauses(Retry(8), 12) == pytest.approx(
        [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 60, 60]
    )
    assert pauses(Retry(1, interval=1, backoff=10, max_interval=500), 4) == [1, 10, 100, 500]


def test_a_factor_of_one_keeps_all_pauses_alike() -> None:
    """That is gtcp's fixed interval."""
    assert pauses(Retry(3, interval=0.3, backoff=1), 3) == [0.3, 0.3, 0.3]


def test_the_cap_holds_for_the_first_pause_too() -> None:
    """An interval longer than the cap is cut."""
    assert pauses(Retry(3, interval=7, max_interval=2), 2) == [2, 2]


def test_no_interval_means_no_pause() -> None:
    """However often it is repeated, and however much that is doubled."""
    retry = Retry(math.inf, interval=0)
    assert [retry.pause(repeat) for repeat in (1, 2, 5000)] == [0, 0, 0]


@table("repeat", [1_023, 1_100, 1_000_000])
@table("interval", [1, 0.1])
@table("backoff", [2, 2.0, 1e300])
def test_a_repeat_without_end_stays_at_the_cap(
    repeat: int, interval: float, backoff: float
) -> None:
    """The power that no float can hold is no error."""
    assert Retry(math.inf, interval=interval, backoff=backoff).pause(repeat, lambda: 0.5) == 60


@table("backoff", [2, 2.0])
def test_without_a_cap_the_pauses_grow_for_ever(backoff: float) -> None:
    """In the end they are infinite, which is no error either."""
    retry = Retry(math.inf, interval=1, backoff=backoff, max_interval=math.inf)
    assert retry.pause(11, lambda: 0.5) == 1024
    assert retry.pause(5000, lambda: 0.5) == math.inf


def test_jitter_makes_a_pause_longer_or_shorter_by_its_fraction_at_most() -> None:
    """The ends of the range are the pause, less and more the fraction of it."""
    retry = Retry(3, interval=10, jitter=0.25)
    assert retry.pause(1, lambda: 0.0) == 7.5
    assert retry.pause(1, lambda: 0.5) == 10
    assert retry.pause(1, lambda: 1.0) == 12.5
    assert pauses(Retry(3, jitter=0), 1, drawn=0.99) == [0.1]


def test_jitter_applies_beyond_the_cap_too() -> None:
    """Clients that have long been waiting don't come back in step."""
    assert Retry(9, max_interval=4, jitter=0.5).pause(100, lambda: 1.0) == 6


def test_the_pauses_are_drawn_at_random() -> None:
    """Without being told another source, two pauses are not the same."""
    assert len({Retry(1).pause(1) for _ in range(20)}) > 10


@given(
    interval=st.floats(0, 1e6),
    backoff=st.one_of(st.floats(1, 1e6), st.integers(1, 10**6)),
    max_interval=st.floats(0, 1e9),
    jitter=st.floats(0, 1),
    repeat=st.integers(1, 10_000),
    seed=st.integers(),
)
def test_a_pause_keeps_within_its_bounds(
    interval: float, backoff: float, max_interval: float, jitter: float, repeat: int, seed: int
) -> None:
    """Whatever the settings, it is neither negative nor longer than the cap and its jitter."""
    retry = Retry(1, interval=interval, backoff=backoff, max_interval=max_interval, jitter=jitter)
    pause = retry.pause(repeat, random.Random(seed).random)
    assert 0 <= pause <= max_interval * (1 + jitter)
    assert pause >= min(interval, max_interval) * (1 - jitter) * 0.999_999


@table("count", ["3", None, True, 2.0, -math.inf, math.nan])
def test_the_count_must_be_an_int_or_infinite(count: Any) -> None:
    """Anything else is a TypeError that offers infinity."""
    assert refusal(Retry, TypeError, count) == f"count must be an int or math.inf, not {count!r}"


def test_the_count_must_not_be_negative() -> None:
    """None at all is allowed."""
    assert Retry(0).count == 0
    assert Retry(math.inf).count == math.inf
    assert refusal(Retry, ValueError, -1) == "count must be 0 or more, not -1"


@table("setting", [*DURATIONS, "backoff", "jitter"])
@table("value", NO_NUMBERS)
def test_all_else_of_a_retry_must_be_numbers(setting: str, value: Any) -> None:
    """The error names what is not, and its type."""
    text = refusal(Retry, TypeError, 3, **{setting: value})
    assert text.startswith(f"{setting} must be a number")
    assert text.endswith(f"not {type(value).__name__}")


@table(
    "setting, value, advice",
    [
        ("interval", -0.1, "0 or more seconds"),
        ("interval", math.nan, "0 or more seconds"),
        ("interval", math.inf, "finite"),
        ("max_interval", -1, "0 or more seconds"),
        ("max_interval", math.nan, "0 or more seconds"),
        ("backoff", 0.99, "from 1 to inf"),
        ("backoff", math.nan, "from 1 to inf"),
        ("backoff", math.inf, "from 1 to inf"),
        ("jitter", -0.01, "from 0 to 1"),
        ("jitter", 1.01, "from 0 to 1"),
        ("jitter", math.nan, "from 0 to 1"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(setting: str, value: float, advice: str) -> None:
    """The error names the setting and what it may be."""
    text = refusal(Retry, ValueError, 3, **{setting: value})
    assert text.startswith(f"{setting} must be ")
    assert advice in text


def test_only_the_count_is_given_by_position() -> None:
    """Nobody mistakes one number for another."""
    make: Any = Retry
    with pytest.raises(TypeError):
        make(3, 0.1)


@table("value", [math.inf, True, "3"])
def test_a_pool_takes_no_other_connect_retry(value: object) -> None:
    """A bare number is refused when the pool is made."""
    settings: dict[str, Any] = {"connect_retry": value}
    text = refusal(ConnectionPool, TypeError, ("127.0.0.1", 1), **settings)
    assert text == f"connect_retry must be a Retry or None, not {type(value).__name__}"


@table("setting", ["idle", "interval", "count", "user_timeout"])
@table("value", NO_NUMBERS)
def test_keepalive_takes_only_numbers(setting: str, value: object) -> None:
    """The error names the setting."""
    text = refusal(KeepAlive, TypeError, **{setting: value})
    assert text.startswith(f"{setting} must be a")


@table("setting", ["idle", "interval", "count"])
@table("value", [0, -1, 32_768, 10**9])
def test_keepalive_takes_what_the_kernel_does(setting: str, value: int) -> None:
    """What a system would refuse, or cut, is refused when it is made."""
    text = refusal(KeepAlive, ValueError, **{setting: value})
    assert text.startswith(f"{setting} must be ")
    assert text.endswith(f"not {value}")


@table("value", [0, 0.0009, -1, math.nan, 2_147_484, 1e12])
def test_a_user_timeout_of_no_use_is_refused(value: float) -> None:
    """None of them ends up as another limit than the one that was asked for."""
    text = refusal(KeepAlive, ValueError, user_timeout=value)
    assert text.startswith("user_timeout must be ")
    assert "math.inf" in text


class RecordingSocket:
    """A socket that notes the options which are set, or refuses them."""

    def __init__(self, *, refuses: bool = False) -> None:
        self.options: dict[tuple[int, int], int] = {}
        self._refuses = refuses

    def setsockopt(self, level: int, option: int, value: int) -> None:
        if self._refuses:
            raise OSError("gone")
        assert type(value) is int
        self.options[level, option] = value


def test_the_ends_of_every_range_reach_the_socket() -> None:
    """Least and most are set as they are, in the units that the kernel takes."""
    tcp = socket.IPPROTO_TCP
    for keepalive, user_timeout in (
        (KeepAlive(idle=1, interval=1, count=1, user_timeout=0.001), 1),
        (KeepAlive(idle=32_767, interval=32_767, count=127, user_timeout=2_147_483), 2_147_483_000),
    ):
        raw = RecordingSocket()
        keepalive.apply(raw)
        assert raw.options == {
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE): 1,
            (tcp, socket.TCP_KEEPIDLE): keepalive.idle,
            (tcp, socket.TCP_KEEPINTVL): keepalive.interval,
            (tcp, socket.TCP_KEEPCNT): keepalive.count,
            (tcp, socket.TCP_USER_TIMEOUT): user_timeout,
        }


def test_no_user_timeout_leaves_it_to_the_system() -> None:
    """The option is not set at all."""
    raw = RecordingSocket()
    KeepAlive(user_timeout=math.inf).apply(raw)
    assert (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) not in raw.options
    assert len(raw.options) == 4


def test_a_socket_that_is_gone_is_no_error() -> None:
    """That shows at its first use."""
    raw = RecordingSocket(refuses=True)
    KeepAlive().apply(raw)
    assert not raw.options


def test_an_option_that_the_system_lacks_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS and Windows have no TCP_USER_TIMEOUT; the others are set there."""
    monkeypatch.setattr("anyconnpool._keepalive._USER_TIMEOUT_OPTION", None)
    raw = RecordingSocket()
    KeepAlive().apply(raw)
    assert len(raw.options) == 4
