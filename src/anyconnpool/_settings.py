"""The pool's settings: one frozen value, checked when it is made, before anything is opened."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypedDict

from anyconnpool._package import PackageFormat

IdleOrder = Literal["lifo", "fifo"]


def check_duration(name: str, value: object) -> float:
    """Return a duration in seconds as float.

    :raises TypeError: if it is not a number
    :raises ValueError: if it is negative or NaN
    """
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(
            f"{name} must be a number of seconds (math.inf for no limit), "
            f"not {type(value).__name__}"
        )
    if math.isnan(value) or value < 0:
        raise ValueError(f"{name} must be 0 or more seconds (math.inf for no limit), not {value}")
    return float(value)


def check_count(name: str, value: object, *, least: int, unlimited: bool = True) -> None:
    """Check a whole number.

    :raises TypeError: if it is not an integer, nor ``math.inf`` where that is allowed
    :raises ValueError: if it is less than the least
    """
    if unlimited and isinstance(value, float) and value == math.inf:
        return
    if not isinstance(value, int) or isinstance(value, bool):
        alternative = " or math.inf" if unlimited else ""
        raise TypeError(f"{name} must be an int{alternative}, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be {least} or more, not {value}")


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
    close_timeout: float
    idle_order: IdleOrder
    one_way: bool
    package_format: PackageFormat | None
    max_line_bytes: int
    name: str | None


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All that can be chosen about a pool but its remote; see :class:`ConnectionPool`."""

    name: str
    max_size: float
    min_idle: int
    max_idle_time: float
    max_lifetime: float
    max_waiting: float
    acquire_timeout: float
    connect_timeout: float
    close_timeout: float
    idle_order: IdleOrder
    one_way: bool
    package_format: PackageFormat
    max_line_bytes: int

    def __post_init__(self) -> None:
        self._check_counts()
        for setting in (
            "max_idle_time",
            "max_lifetime",
            "acquire_timeout",
            "connect_timeout",
            "close_timeout",
        ):
            object.__setattr__(self, setting, check_duration(setting, getattr(self, setting)))
        self._check_choices()

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
        for setting, kind in (("one_way", bool), ("package_format", PackageFormat), ("name", str)):
            value: object = getattr(self, setting)
            if not isinstance(value, kind):
                raise TypeError(f"{setting} must be a {kind.__name__}, not {type(value).__name__}")
