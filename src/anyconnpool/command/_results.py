"""What was measured, and what it says to machines."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from anyconnpool.command._latency import Bar

#: below this share of reused connections, one should know why
SELDOM = 0.5
#: the percentiles that are told of each measurement
PERCENTILES = (50.0, 90.0, 99.0, 99.9)
#: their names, and that of the longest latency
LATENCIES = (*(f"p{percent:g}" for percent in PERCENTILES), "max")


@dataclass(frozen=True)
class PoolUse:
    """How a pool was used while it was measured.

    :ivar max_size: its size
    :ivar opened: connections opened
    :ivar reused: which share of the borrows got a connection that was open already, 0 to 1
    :ivar closed: why how many connections were closed
    """

    max_size: int
    opened: int
    reused: float
    closed: Mapping[str, int]


class Rest(NamedTuple):
    """For how long one of several servers got no new connections, since it had failed.

    :ivar began: when that began, in seconds since the measurement did
    :ivar ended: when the server answered again; ``None`` if it did not
    :ivar error: why it rested
    """

    began: float
    ended: float | None
    error: str


@dataclass(frozen=True)
class Share:
    """What one of several servers had of a measurement.

    :ivar remote: what the server is called; ``None`` for requests of which it isn't known
    :ivar answered: requests that it answered
    :ivar errors: how often what went wrong there
    :ivar connections: how many it had in the end; ``None`` without a pool
    :ivar rests: when it rested; nobody knows without a pool
    """

    remote: str | None
    answered: int
    errors: Mapping[str, int]
    connections: int | None
    rests: Sequence[Rest]

    @property
    def failed(self) -> int:
        """How many requests failed there."""
        return sum(self.errors.values())

    def as_json(self) -> dict[str, object]:
        """Return it as JSON is made of it."""
        return {
            "remote": self.remote,
            "answered": self.answered,
            "errors": dict(self.errors),
            "connections": self.connections,
            "rests": [
                {"from_seconds": rest.began, "to_seconds": rest.ended, "error": rest.error}
                for rest in self.rests
            ],
        }


@dataclass(frozen=True)
class Point:
    """One measurement; all durations are in seconds.

    :ivar pool: how the pool was used; ``None`` means that it was measured without one
    :ivar elapsed: how long requests were begun
    :ivar answered: requests answered, also those that were answered after ``elapsed``
    :ivar throughput: requests answered within ``elapsed``, per second
    :ivar noise: how far off that may be, as a share of it; infinite if nobody can tell
    :ivar latency: by the names in ``LATENCIES``, from when a request was due to its reply
    :ivar histogram: how many latencies were how long
    :ivar waiting: which share of the latencies was spent until there was a connection, 0 to 1
    :ivar sent, received: bytes of messages per second, as for ``throughput``
    :ivar missed: requests that a rate demanded and that were not begun within ``elapsed``
    :ivar errors: how often what went wrong
    :ivar shares: what each of several servers had of it; empty if there is one server
    """

    pool: PoolUse | None
    elapsed: float
    answered: int
    throughput: float
    noise: float
    latency: Mapping[str, float]
    histogram: Sequence[Bar]
    waiting: float
    sent: float
    received: float
    missed: int
    errors: Mapping[str, int]
    shares: Sequence[Share] = ()

    @property
    def max_size(self) -> int | None:
        """The size of the pool, if there was one."""
        return None if self.pool is None else self.pool.max_size

    @property
    def name(self) -> str:
        """What was measured, for people."""
        return "without a pool" if self.pool is None else f"max_size {self.pool.max_size}"

    @property
    def failed(self) -> int:
        """How many requests failed."""
        return sum(self.errors.values())

    @property
    def unasked(self) -> int:
        """How many connections were closed with unread bytes, if that is what usually happens.

        One may be an accident. One for more than half of the requests is what the server always
        does. Otherwise it is 0.
        """
        pool = self.pool
        count = 0 if pool is None else pool.closed.get("unread_data", 0)
        usual = pool is not None and pool.reused < SELDOM and count > SELDOM * self.requests
        return count if usual else 0

    @property
    def requests(self) -> int:
        """How many requests were answered, or failed."""
        return self.answered + self.failed

    @property
    def fell_behind(self) -> bool:
        """Whether more than one in a hundred of the requests that a rate demanded were missed."""
        return self.missed > (self.requests + self.missed) / 100

    def as_json(self) -> dict[str, object]:
        """Return it as JSON is made of it."""
        pool = self.pool
        return {
            "max_size": self.max_size,
            "elapsed_seconds": self.elapsed,
            "answered": self.answered,
            "requests_per_second": self.throughput,
            "noise_share": self.noise if math.isfinite(self.noise) else None,
            "latency_seconds": dict(self.latency),
            "histogram": [
                {"from_seconds": bar.lower, "to_seconds": bar.upper, "count": bar.count}
                for bar in self.histogram
            ],
            "waiting_share": self.waiting,
            "bytes_per_second": {"sent": self.sent, "received": self.received},
            "missed": self.missed,
            "opened": self.answered if pool is None else pool.opened,
            "reused_share": 0.0 if pool is None else pool.reused,
            "closed": {} if pool is None else dict(pool.closed),
            "errors": dict(self.errors),
            "servers": [share.as_json() for share in self.shares],
        }


@dataclass
class Report:
    """What has been measured so far.

    :ivar pooled: a point for each size, in the order of the sizes
    :ivar unpooled: the same without a pool, if that was wanted and there was time for it
    :ivar interrupted: whether there would have been more
    """

    pooled: list[Point] = field(default_factory=list["Point"])
    unpooled: Point | None = None
    interrupted: bool = False

    @property
    def points(self) -> list[Point]:
        """All points, the one without a pool last."""
        return self.pooled if self.unpooled is None else [*self.pooled, self.unpooled]
