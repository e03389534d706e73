"""What is measured: every module a topic, all cases by name in :data:`CASES`."""

from __future__ import annotations

from functools import partial

from benchmarks.bench import Case
from benchmarks.cases.borrowing import borrow
from benchmarks.cases.crowds import crowd
from benchmarks.cases.exchanges import exchange, exchange_by_many, time_limit
from benchmarks.cases.giving_up import cancel
from benchmarks.cases.idle import memory, sweep
from benchmarks.cases.large import large_packages
from benchmarks.cases.pipelined import lines, packages
from benchmarks.cases.redis import redis
from benchmarks.cases.sharing import bulk, shared_by_many, shared_by_one

CASES: dict[str, Case] = {
    "exchange-tcp": partial(exchange, kind="tcp"),
    "exchange-tls": partial(exchange, kind="tls"),
    "exchange-unix": partial(exchange, kind="unix"),
    "time-limit": time_limit,
    "exchange-16": exchange_by_many,
    "shared-64": shared_by_many,
    "shared-1": shared_by_one,
    "bulk": bulk,
    "redis-64": redis,
    "borrow": borrow,
    "tasks-100": partial(crowd, tasks=100),
    "tasks-10000": partial(crowd, tasks=10_000),
    "cancel": cancel,
    "packages": packages,
    "lines": lines,
    "large-packages": large_packages,
    "sweep": sweep,
    "memory": memory,
}
