"""The pool's settings: one frozen value, checked when it is made, before anything is opened."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypedDict, cast

from anyconnpool._formats import PackageFormat
from anyconnpool._keepalive import KeepAlive
from anyconnpool._retry import Retry
from anyconnpool._util.checks import check_count, check_duration
from anyconnpool.events import Observer

_DEFAULT_KEEPALIVE = KeepAlive()
_DEFAULT_FORMAT = PackageFormat()

IdleOrder = Literal["lifo", "fifo"]
#: an asynchronous function that is given a :class:`PooledConnection`
Hook: TypeAlias = Callable[[Any], Awaitable[object]]


def check_max_size(value: object) -> None:
    """Check a pool's ``max_size``."""
    check_count("max_size", value, least=1)


class PoolOptions(TypedDict, total=False):
    """The keyword settings of a pool, for those that pass them on."""

    max_size: float
    min_idle: int
    max_idle_time: float
    max_lifetime: float
    max_waiting: float
    acquire_timeout: float
    connect_timeout: float
    connect_retry: Retry | None
    close_timeout: float
    idle_order: IdleOrder
    one_way: bool
    on_connect: Hook | None
    check: Hook | None
    check_after: float
    keepalive: KeepAlive | None
    package_format: PackageFormat
    max_line_bytes: int
    observers: Iterable[Observer]
    leak_after: float
    name: str


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All that can be chosen about a pool but its remote; see :class:`ConnectionPool`."""

    name: str
    max_size: float = 10
    min_idle: int = 0
    # What gtcp documents; its code uses 10 s.
    max_idle_time: float = 600
    max_lifetime: float = math.inf
    max_waiting: float = math.inf
    acquire_timeout: float = math.inf
    # gtcp's limit for dialling.
    connect_timeout: float = 30
    connect_retry: Retry | None = None
    close_timeout: float = 5
    idle_order: IdleOrder = "lifo"
    one_way: bool = False
    on_connect: Hook | None = None
    check: Hook | None = None
    check_after: float = 30
    keepalive: KeepAlive | None = _DEFAULT_KEEPALIVE
    package_format: PackageFormat = _DEFAULT_FORMAT
    # AnyIO's default for one receive.
    max_line_bytes: int = 65_536
    observers: Iterable[Observer] = ()
    leak_after: float = math.inf

    def __post_init__(self) -> None:
        self._check_counts()
        for setting in (
            "max_idle_time",
            "max_lifetime",
            "acquire_timeout",
            "connect_timeout",
            "close_timeout",
            "check_after",
            "leak_after",
        ):
            object.__setattr__(self, setting, check_duration(setting, getattr(self, setting)))
        self._check_choices()
        self._check_observers()

    def _check_counts(self) -> None:
        check_max_size(self.max_size)
        check_count("min_idle", self.min_idle, least=0, unlimited=False)
        if self.min_idle > self.max_size:
            raise ValueError(
                f"min_idle must not exceed max_size, but {self.min_idle} > {self.max_size}"
            )
        check_count("max_waiting", self.max_waiting, least=0)
        check_count("max_line_bytes", self.max_line_bytes, least=1, unlimited=False)

    def _check_choices(self) -> None:
        if self.idle_order not in ("lifo", "fifo"):
            raise ValueError(f'idle_order must be "lifo" or "fifo", not {self.idle_order!r}')
        for setting in ("on_connect", "check"):
            hook: object = getattr(self, setting)
            if hook is not None and not callable(hook):
                raise TypeError(f"{setting} must be an async function, not {hook!r}")
        for setting, kind, optional in (
            ("name", str, False),
            ("one_way", bool, False),
            ("package_format", PackageFormat, False),
            ("connect_retry", Retry, True),
            ("keepalive", KeepAlive, True),
        ):
            value: object = getattr(self, setting)
            if not (isinstance(value, kind) or (optional and value is None)):
                given = type(value).__name__
                raise TypeError(f"{setting} must be a {kind.__name__}, not {given}")

    def _check_observers(self) -> None:
        given = cast("object", self.observers)
        observers = tuple(self.observers) if isinstance(given, Iterable) else ()
        if not isinstance(given, Iterable) or not all(map(callable, observers)):
            raise TypeError(f"observers must be an iterable of callables, not {given!r}")
        object.__setattr__(self, "observers", observers)
