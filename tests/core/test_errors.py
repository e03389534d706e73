"""Errors, statistics, events and settings travel: copied and pickled, they are what they were."""

from __future__ import annotations

import copy
import dataclasses
import errno
import json
import pickle
import ssl
import sys
import threading
from collections.abc import Callable
from typing import Any, get_type_hints

import anyio
import pytest

import anyconnpool
import anyconnpool.testing
from anyconnpool import (
    AcquireTimeout,
    ExchangeError,
    KeepAlive,
    LineFormat,
    PackageFormat,
    PackageTooLarge,
    PackageTooSmall,
    PoolClosed,
    PoolError,
    PoolFull,
    PoolStatistics,
    Retry,
    events,
)
from anyconnpool._exceptions import FrameCut, FrameTooLong, StreamBusy
from anyconnpool._statistics import CloseReason, freeze_counts
from anyconnpool._util.errors import copy_for_caller
from tests.cases import in_case

FACTS = PoolStatistics(name="cache", max_size=4, closed=freeze_counts({CloseReason.USES: 2}))
WAYS: list[Callable[[Any], Any]] = [
    copy.copy,
    copy.deepcopy,
    lambda value: pickle.loads(pickle.dumps(value)),
]


class Awkward(Exception):
    """An error that can be neither pickled nor made of its args."""

    def __init__(self, code: int, *, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.lock = threading.Lock()


class Doubling(Exception):
    """An error whose text grows each time it is made of its args, like some of AnyIO's."""

    def __init__(self, what: str) -> None:
        super().__init__(f"there is no {what}")


class Unique(Exception):
    """An error that won't be copied at all."""

    def __new__(cls, *args: object) -> Unique:
        if args:
            raise RuntimeError("no more of these")
        return super().__new__(cls)

    def __copy__(self) -> Unique:
        return self


class OwnError(PoolError):
    """An error that a user derives from ours."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(f"{host} is down")
        self.port = port


def test_errors_can_be_copied_and_pickled() -> None:
    """With their text, their facts and their notes; no two share a list of notes."""
    own: list[Exception] = [
        PoolError("text"),
        PoolClosed("cache", "has been left"),
        PoolFull(FACTS, "is full"),
        AcquireTimeout(1.5, FACTS, None, held=2),
        PackageTooLarge(70_000, 65_535),
        PackageTooSmall(1, 2),
        OwnError("cache", 1),
    ]
    for error in own:
        vars(error)["__notes__"] = ["noted"]
        for way in WAYS:
            with in_case(error):
                twin = way(error)
                assert type(twin) is type(error)
                assert str(twin) == str(error)
                assert vars(twin) == vars(error)
                vars(twin)["__notes__"].append("more")
                assert vars(error)["__notes__"] == ["noted"]


def test_a_timeout_can_be_pickled_whatever_connecting_failed_with() -> None:
    """What ``on_connect`` raises may be anything; then a text takes its place."""
    good = AcquireTimeout(1, FACTS, ConnectionRefusedError(errno.ECONNREFUSED, "refused"))
    assert repr(pickle.loads(pickle.dumps(good)).last_connect_error) == repr(
        good.last_connect_error
    )
    for cause in (Awkward(5, reason="down"), Doubling("way")):
        arrived = pickle.loads(pickle.dumps(AcquireTimeout(1, FACTS, cause)))
        assert isinstance(arrived.last_connect_error, PoolError)
        assert str(cause) in str(arrived.last_connect_error)


def test_anyios_errors_say_what_to_do_and_can_be_pickled() -> None:
    """They are called as AnyIO calls them; what arrives elsewhere is one of AnyIO's own."""
    own: list[tuple[Exception, type[Exception], str]] = [
        (StreamBusy("reading from"), anyio.BusyResourceError, "a connection of its own"),
        (FrameTooLong(9), anyio.DelimiterNotFound, "the first 9 bytes: raise max_bytes or the"),
        (FrameCut(3), anyio.IncompleteRead, "3 bytes of it had arrived"),
    ]
    for error, kind, text in own:
        assert isinstance(error, kind)
        assert text in str(error)
        shown = type(error)
        assert f"{shown.__module__}.{shown.__qualname__}" == f"anyio.{kind.__name__}"
        for way in WAYS:
            twin = way(error)
            assert isinstance(twin, kind)
            assert str(twin) == str(error)


def test_statistics_can_be_copied_pickled_and_dumped() -> None:
    """Also the counts by reason, which can be read only."""
    for way in WAYS:
        twin = way(FACTS)
        assert twin == FACTS
        with pytest.raises(TypeError, match="read-only"):
            twin.closed["max_uses"] = 3
    assert json.loads(json.dumps(dataclasses.asdict(FACTS)))["closed"] == {"max_uses": 2}
    closed: Any = FACTS.closed
    for change in ("clear", "popitem", "update"):
        with pytest.raises(TypeError, match="read-only"):
            getattr(closed, change)()


def test_settings_and_events_can_be_copied_and_pickled() -> None:
    """An event that reads statistics reads, elsewhere, what they were when it was pickled."""
    lock = threading.Lock()

    def read() -> PoolStatistics:
        with lock:
            return FACTS

    values: list[Any] = [
        *(Retry(3), KeepAlive(), PackageFormat(4), LineFormat(b"\0")),
        events.OpenFailed("cache", 1.0, PoolError("down")),
        events.ConnectionClosed("cache", CloseReason.USES, 1.0),
        events.PoolStarted("cache", read, 2),
        events.PoolStarted("cache", read, 2, lambda: {lock: None}),
        events.PoolEnded("cache", read),
    ]
    for value in values:
        dataclasses.asdict(value)
        for way in WAYS:
            with in_case(value):
                twin = way(value)
                assert type(twin) is type(value)
                if isinstance(value, (events.PoolStarted, events.PoolEnded)):
                    assert twin.statistics() == FACTS
                    replicas = getattr(twin, "replicas", None)
                    # Locks can't be pickled, and nor can some remotes.
                    assert replicas is None or replicas() in ({lock: None}, {})
                elif not isinstance(value, events.OpenFailed):
                    assert twin == value
    started, _, ended = values[-3:]
    assert vars(started)["statistics"] == vars(ended)["statistics"]
    assert started in {started, ended}


def test_public_classes_say_where_to_import_them_from() -> None:
    """Tracebacks, pickles and those who read the types of fields look there."""
    for module in (anyconnpool, anyconnpool.testing, events):
        for name in module.__all__:
            thing = getattr(module, name)
            said = getattr(thing, "__module__", module.__name__)
            if said.startswith("anyconnpool"):
                assert getattr(sys.modules[said], name) is thing
                assert said == module.__name__, name
    assert get_type_hints(PoolStatistics)["max_size"] is float
    for kind in (Retry, KeepAlive, LineFormat, PackageFormat):
        assert all(isinstance(hint, str) is False for hint in kind.__annotations__.values())


def test_one_name_catches_what_can_go_wrong_in_an_exchange() -> None:
    """Errors of the pool, the connection and the peer; not mistakes of the caller."""
    caught = [
        PoolClosed("cache", ""),
        AcquireTimeout(1, FACTS, None),
        TimeoutError(),
        anyio.ConnectionFailed(),
        ssl.SSLError(),
        FrameCut(1),
        FrameTooLong(1),
        anyio.EndOfStream(),
        anyio.BrokenResourceError(),
        anyio.ClosedResourceError(),
    ]
    assert all(isinstance(error, ExchangeError) for error in caught)
    for mistake in (StreamBusy("reading from"), TypeError(), ValueError(), RuntimeError()):
        assert not isinstance(mistake, ExchangeError)
    for name in ("ConnectionFailed", "BusyResourceError", "EndOfStream", "IncompleteRead"):
        assert getattr(anyconnpool, name) is getattr(anyio, name)


def raised(error: Exception) -> Exception:
    """Return an error that was raised and has a cause, notes and an attribute of its own."""
    vars(error).update(__notes__=["noted"], own="fact")
    try:
        raise error from LookupError("the cause")
    except Exception as caught:
        return caught


def test_a_callers_copy_is_like_the_original() -> None:
    """Class, args, attributes, notes, cause and the traceback up to there are the same."""
    originals = [
        anyio.ConnectionFailed("refused"),
        OSError(errno.EACCES, "denied", "/run/x"),
        ssl.SSLCertVerificationError(1, "expired"),
        AcquireTimeout(1, FACTS, None),
        Awkward(5, reason="down"),
        Doubling("way"),
        UnicodeDecodeError("ascii", b"\xff", 0, 1, "no"),
        KeyError("key"),
    ]
    for error in map(raised, originals):
        with in_case(error):
            twin = copy_for_caller(error)
            assert twin is not error
            assert type(twin) is type(error)
            assert (twin.args, str(twin), vars(twin)) == (error.args, str(error), vars(error))
            assert twin.__cause__ is error.__cause__
            assert twin.__traceback__ is error.__traceback__
            vars(twin)["__notes__"].append("more")
            with pytest.raises(type(error)):
                raise twin from None
            assert vars(error)["__notes__"] == ["noted"]
            assert twin.__traceback__ is not error.__traceback__
            assert error.__suppress_context__
            assert isinstance(error.__cause__, LookupError)


def test_of_what_cannot_be_copied_a_failed_connect_is_made() -> None:
    """The original is its cause."""
    error = Unique()
    error.args = ("out of order",)
    twin = copy_for_caller(error)
    assert type(twin) is anyio.ConnectionFailed
    assert str(twin) == "Unique: out of order"
    assert twin.__cause__ is error
