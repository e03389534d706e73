"""Settings are refused when the pool is made, with a text that says what to do.

The tables of wrong values follow from the checks that :class:`Settings` names, one row a check.
"""

from __future__ import annotations

import inspect
import math
from asyncio import CancelledError
from collections.abc import Iterable
from dataclasses import MISSING, fields
from typing import Any, Optional, get_type_hints

import pytest

from anyconnpool import ConnectionPool, KeepAlive, PackageFormat, PoolManager, Retry
from anyconnpool._settings import (
    Choice,
    Count,
    Hook,
    Kind,
    PoolOptions,
    RemoteOptions,
    Settings,
    check_harmless,
    check_hook,
    check_name,
    check_newline,
    check_observers,
    check_positive_duration,
)
from anyconnpool._util.checks import check_duration
from tests.cases import in_case

REMOTE = ("127.0.0.1", 8999)
CHECKS: dict[str, Any] = {field.name: field.metadata["check"] for field in fields(Settings)}
DURATIONS = (check_duration, check_positive_duration)
NO_NUMBERS: list[Any] = ["5", None, True, False, 1j, [5], b"5"]


def make(setting: str, value: object) -> ConnectionPool:
    settings: dict[str, Any] = {setting: value}
    return ConnectionPool(REMOTE, **settings)


def accept(settings: Iterable[str], values: Iterable[object]) -> None:
    """See that a pool can be made with any of the values for any of the settings."""
    for setting in settings:
        for value in values:
            with in_case(setting, value):
                make(setting, value)


def refuse(
    settings: Iterable[str], values: Iterable[object], error: type[Exception], text: str
) -> None:
    """See that a pool can't be made with any of the values for any of the settings.

    :param text: what the error says, given the setting, the value and the name of its type
    """
    for setting in settings:
        for value in values:
            with in_case(setting, value):
                with pytest.raises(error) as caught:
                    make(setting, value)
                assert type(caught.value) is error
                said = text.format(setting, value=value, type=type(value).__name__)
                assert str(caught.value) == said


def test_each_setting_has_a_check_of_a_kind_that_is_tested_here() -> None:
    """A new kind of check needs a table of its own."""
    functions = {check_duration, check_harmless, check_hook, check_name}
    functions |= {check_newline, check_observers, check_positive_duration}
    for name, check in CHECKS.items():
        assert check in functions or isinstance(check, Choice | Count | Kind), name


def test_options_and_settings_are_the_same() -> None:
    """What type checkers know of a pool's settings is what there is, in the same order.

    Except ``on_connect``, which is a parameter of its own; and what else a pool can be told.
    """
    settings, options = get_type_hints(Settings), get_type_hints(PoolOptions)
    assert settings.pop("on_connect") == Optional[Hook]  # noqa: UP045
    assert list(options) == list(settings)
    assert options == settings
    for maker in (ConnectionPool, ConnectionPool.from_url, PoolManager):
        assert inspect.signature(maker).parameters["on_connect"].annotation == "Hook | None"
    others = get_type_hints(RemoteOptions).keys() - options.keys()
    assert others < inspect.signature(ConnectionPool.from_url).parameters.keys()


def test_each_setting_is_explained_where_pools_are() -> None:
    """Its meaning stands in the docstring of the pool, with its default and the unit of a time."""
    text = " ".join((ConnectionPool.__doc__ or "").split())
    for field in fields(Settings):
        meaning = field.metadata["meaning"]
        assert meaning.strip(), field.name
        assert f":param {field.name}: {meaning}" in text
        unit = "in seconds; " if CHECKS[field.name] in DURATIONS else ""
        assert field.default is MISSING or f"{meaning} ({unit}default: " in text


def test_the_defaults_are_those_of_the_docs() -> None:
    """A pool that is told nothing has ten connections at most, and keeps none ready."""
    defaults = {field.name: field.default for field in fields(Settings)}
    assert defaults.pop("name") is MISSING
    endless = ["max_lifetime", "max_uses", "max_waiting", "acquire_timeout", "leak_after"]
    endless += ["max_connecting", "fail_fast_after", "check_every"]
    nothing = ["connect_retry", "on_connect", "check", "on_release", "on_unread", "on_close"]
    assert defaults == {
        **dict.fromkeys(endless, math.inf),
        **dict.fromkeys(nothing),
        "max_size": 10,
        "min_idle": 0,
        "max_idle_time": 600,
        "connect_timeout": 30,
        "close_timeout": 5,
        "idle_order": "lifo",
        "one_way": False,
        "pipeline": 1,
        "stall_timeout": 30,
        "check_after": 30,
        "check_timeout": 5,
        "keepalive": KeepAlive(),
        "package_format": PackageFormat(),
        "max_line_bytes": 65_536,
        "harmless": (),
        "newline": b"\n",
        "observers": (),
    }


def test_a_duration_is_a_number_of_seconds() -> None:
    """It may be an integer, a fraction or infinite; the errors name the way out."""
    durations = [name for name, check in CHECKS.items() if check is check_duration]
    assert len(durations) >= 6
    accept(durations, [0, 1, 0.5, math.inf])
    must = "{} must be a number of seconds (math.inf for no limit), not {type}"
    refuse(durations, NO_NUMBERS, TypeError, must)
    must = "{} must be 0 or more seconds (math.inf for no limit), not {value}"
    refuse(durations, [-1, -0.001, -math.inf, math.nan], ValueError, must)
    assert type(check_duration("timeout", 5)) is float


def test_some_durations_are_not_zero() -> None:
    """With nothing for it, each hook would fail, or the server be asked without a break."""
    durations = [name for name, check in CHECKS.items() if check is check_positive_duration]
    assert durations == ["stall_timeout", "check_timeout", "check_every"]
    # A setting that needs another one.
    accept(durations[:2], [1, 0.5, math.inf])
    must = "{} must be a number of seconds (math.inf for no limit), not {type}"
    refuse(durations, NO_NUMBERS, TypeError, must)
    must = "{} must be more than 0; math.inf switches it off"
    refuse(durations, [0, 0.0], ValueError, must)


def test_a_count_is_a_whole_number() -> None:
    """Some may be infinite: nobody can take a line without end. Each has a least value."""
    counts = {name: check for name, check in CHECKS.items() if isinstance(check, Count)}
    assert {check.unlimited for check in counts.values()} == {False, True}
    for name, check in counts.items():
        accept([name], [check.least, *([math.inf] if check.unlimited else [])])
        kind = "an int or math.inf" if check.unlimited else "an int"
        wrong = ["5", None, True, 2.0, -math.inf, math.nan, 1j]
        wrong += [] if check.unlimited else [math.inf]
        refuse([name], wrong, TypeError, "{} must be " + kind + ", not {value!r}")
        must = f"{{}} must be {check.least} or more, not {check.least - 1}"
        refuse([name], [check.least - 1], ValueError, must)


def test_a_choice_is_one_of_a_few() -> None:
    """The error names them."""
    assert CHECKS["idle_order"] == Choice(("lifo", "fifo"))
    accept(["idle_order"], ["lifo", "fifo"])
    wrong = ["LIFO", "random", "", None, True, ["lifo"]]
    refuse(["idle_order"], wrong, ValueError, '{} must be "lifo" or "fifo", not {value!r}')


def test_other_settings_have_their_type() -> None:
    """The error names the setting and the type it takes, of which a class is no object."""
    right: dict[str, list[object]] = {
        "connect_retry": [None, Retry(3)],
        "keepalive": [None, KeepAlive(idle=5)],
        "one_way": [False, True],
        "package_format": [PackageFormat(4)],
    }
    kinds = {name: check for name, check in CHECKS.items() if isinstance(check, Kind)}
    assert kinds.keys() == right.keys()
    for name, check in kinds.items():
        accept([name], right[name])
        wrong = [2, math.inf, b"pool", check.type]
        wrong += [] if check.optional else [None]
        kind = check.type.__name__ + (" or None" if check.optional else "")
        for value in wrong:
            given = "the class itself" if value is check.type else type(value).__name__
            number = value == 2 and check.type in (Retry, PackageFormat)
            advice = f": write {check.type.__name__}(2)" if number else ""
            refuse([name], [value], TypeError, f"{{}} must be a {kind}, not {given}{advice}")


def test_a_name_is_a_string_that_a_log_can_take() -> None:
    """What a log or a terminal could choke on is escaped."""
    # Without a name a pool is called as its remote.
    accept(["name"], ["", "cache", None])
    refuse(["name"], [5, b"cache", ["cache"]], TypeError, "{} must be a str, not {type}")
    assert ConnectionPool(REMOTE, name="a\nb\x1b[31m\0\udcff").name == r"a\nb\x1b[31m\x00\udcff"


def test_harmless_is_a_tuple_of_exceptions() -> None:
    """Not a class alone, which the error says how to write, and nothing that may be an end.

    A cancellation, ``KeyboardInterrupt`` and their like are no subclasses of ``Exception``.
    """
    assert [name for name, check in CHECKS.items() if check is check_harmless] == ["harmless"]
    accept(["harmless"], [(), (ValueError,), (OSError, Exception)])
    must = "{} must be a tuple of subclasses of Exception, not {value!r}"
    refuse(["harmless"], [ValueError], TypeError, must + ": write (ValueError,)")
    wrong: list[Any] = [None, 5, "ValueError", [ValueError], {ValueError}, BaseException]
    refuse(["harmless"], wrong, TypeError, must)
    wrong = [ValueError(), None, int, BaseException, KeyboardInterrupt, CancelledError]
    for each in [*wrong, (ValueError,), list[int]]:
        with in_case(each), pytest.raises(TypeError) as caught:
            make("harmless", (OSError, each))
        assert str(caught.value) == f"harmless must hold subclasses of Exception only, not {each!r}"


def test_a_newline_is_bytes() -> None:
    """At least one, and the pool keeps a copy; the error says what to do with a string."""
    assert [name for name, check in CHECKS.items() if check is check_newline] == ["newline"]
    accept(["newline"], [b"\n", b"\r\n", bytearray(b"\0"), memoryview(b"!")])
    refuse(["newline"], [b"", bytearray()], ValueError, "{} must be 1 or more bytes, not 0")
    refuse(["newline"], ["\n"], TypeError, "{} must be bytes, not str: encode it first")
    refuse(["newline"], [None, 10, [10]], TypeError, "{} must be bytes, not {type}")
    given = bytearray(b"!")
    kept = check_newline("newline", given)
    given[:] = b"?"
    assert kept == b"!"


def test_hooks_and_observers_can_be_called() -> None:
    """A hook is one function or none, observers are as many as there are."""

    async def hook(connection: object) -> None:
        raise AssertionError("nobody calls")

    hooks = [name for name, check in CHECKS.items() if check is check_hook]
    assert hooks == ["on_connect", "check", "on_release", "on_unread", "on_close"]
    accept(hooks, [None, hook])
    refuse(hooks, ["check", 5, [hook]], TypeError, "{} must be an async function, not {value!r}")
    called = hook(None)
    refuse(
        hooks,
        [called],
        TypeError,
        "{} must be an async function, not {value!r}: give the function without a call of it",
    )
    called.close()
    accept(["observers"], [(), [print], {print, repr}, iter([print])])
    must = "{} must be an iterable of callables, not {value!r}"
    refuse(["observers"], [None, 5, print, [print, 5], "log"], TypeError, must)


def test_checks_in_the_background_need_a_check() -> None:
    """Without one there is nothing to be done every so often."""

    async def hook(connection: object) -> None:
        raise AssertionError("nobody calls")

    ConnectionPool(REMOTE, check=hook, check_every=5)
    ConnectionPool(REMOTE, check_every=math.inf)
    with pytest.raises(ValueError, match="check_every needs a check"):
        ConnectionPool(REMOTE, check_every=5)
    with pytest.raises(ValueError, match="check_every must be 0 or more seconds"):
        ConnectionPool(REMOTE, check=hook, check_every=-5)


def test_min_idle_must_fit_into_max_size() -> None:
    """What can never be ready is refused; as many as there is room for are not."""
    ConnectionPool(REMOTE, max_size=3, min_idle=3)
    with pytest.raises(ValueError, match="min_idle must not exceed max_size, but 4 exceeds 3"):
        ConnectionPool(REMOTE, max_size=3, min_idle=4)


def test_an_unknown_setting_is_refused_with_the_one_that_was_meant() -> None:
    """What other libraries call it, and what is spelt alike, is suggested; else nothing is."""
    meant = {
        "limit": "max_size",
        "max_sise": "max_size",
        "maxsize": "max_size",
        "minsize": "min_idle",
        "on_conect": "on_connect",
        "pool_size": "max_size",
        "size": "max_size",
        "timeout": "acquire_timeout",
        "ssl": "tls",
        "retry": "connect_retry",
        "max_connections": "max_size",
    }
    for option, setting in meant.items():
        with in_case(option), pytest.raises(TypeError) as caught:
            make(option, 5)
        said = f"a pool has no setting {option!r}: did you mean {setting}?"
        assert str(caught.value) == said
    with pytest.raises(TypeError) as caught:
        make("colour", "red")
    assert str(caught.value) == "a pool has no setting 'colour'"


def test_from_url_checks_the_same_settings() -> None:
    """A pool made from a URL refuses what the constructor refuses."""
    with pytest.raises(ValueError, match="max_size must be 1 or more"):
        ConnectionPool.from_url("tcp://localhost:1", max_size=0)


def test_max_size_is_checked_when_it_is_changed() -> None:
    """What makes no sense is refused, and the old value stays."""
    pool = ConnectionPool(REMOTE, max_size=4, min_idle=2)
    wrong: list[Any] = [0, -1, 1, True, "9", 9.0, None, math.nan]
    for value in wrong:
        must = r"max_size must be (1 or more|an int or math\.inf)|min_idle must not exceed"
        with in_case(value), pytest.raises((TypeError, ValueError), match=must):
            pool.max_size = value
        assert pool.max_size == pool.statistics().max_size == 4
    pool.max_size = math.inf
    assert pool.max_size == pool.statistics().max_size == math.inf


def test_the_timeout_of_one_acquire_is_checked_like_a_setting() -> None:
    """A wrong timeout is refused before anything else, even outside the pool's block."""
    wrong: list[Any] = [-1, -math.inf, math.nan, "1", True]
    for value in wrong:
        must = r"timeout must be .* seconds"
        with in_case(value), pytest.raises((TypeError, ValueError), match=must):
            ConnectionPool(REMOTE).acquire(timeout=value)
