"""What comes out of a measurement, and how it travels between processes."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

#: of a figure: seconds, bytes, or seconds of processor time in a second
Unit: TypeAlias = Literal["s", "B", "s/s"]


def round_ratio(ratio: float) -> float:
    """Return a ratio as it is shown: its third digit is chance."""
    return round(ratio, 2 if ratio >= 0.1 else 3)


@dataclass(frozen=True)
class Spread:
    """A median and the quartiles around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Summarize some values, at least one."""
        sample = sorted(values)
        if len(sample) == 1:
            sample *= 2
        low, median, high = statistics.quantiles(sample, n=4, method="inclusive")
        return cls(median, low, high)


@dataclass(frozen=True)
class Figure:
    """One line of the results.

    :param case: the case that it belongs to
    :param per: what one operation of the case is
    :param name: the contestant
    :param value: of one operation
    :param unit: of the value
    :param ratio: of our value to this one, by rounds; none for our own
    :param goal: the most that the ratio should be, or where there is none, the value
    :param rounds: how many times it was measured
    :param backend: where it was measured
    """

    case: str
    per: str
    name: str
    value: Spread
    unit: Unit = "s"
    ratio: Spread | None = None
    goal: float | None = None
    rounds: int = 1
    backend: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached, where there is one."""
        if self.goal is None:
            return None
        # As it is shown: nobody should read "1.00" and "missed" in one line.
        median = self.value.median if self.ratio is None else round_ratio(self.ratio.median)
        return median <= self.goal

    @property
    def in_doubt(self) -> bool:
        """Whether the goal lies between the quartiles, so that another run may say otherwise."""
        spread = self.ratio or self.value
        return self.goal is not None and spread.low <= self.goal <= spread.high

    def to_json(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {**dataclasses.asdict(self), "met": self.met, "in_doubt": self.in_doubt}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Figure:
        """Undo :meth:`to_json`."""
        known = {field.name for field in dataclasses.fields(cls)}
        values = {name: value for name, value in fields.items() if name in known}
        values["value"] = Spread(**values["value"])
        values["ratio"] = values["ratio"] and Spread(**values["ratio"])
        return cls(**values)
