"""What is measured: every module a topic, all cases by name in :data:`CASES`."""

from __future__ import annotations

from functools import partial

from benchmarks.bench import Case
from benchmarks.cases.borrowing import borrow_sockets, borrow_stand_ins
from benchmarks.cases.crowds import crowd, throughput
from benchmarks.cases.exchanges import exchange
from benchmarks.cases.frames import large_frames, single_bytes, small_frames
from benchmarks.cases.giving_up import cancel
from benchmarks.cases.idle import memory, sweep
from benchmarks.cases.pipelined import lines, packages

CASES: dict[str, Case] = {
    "borrow": borrow_sockets,
    "borrow-standin": borrow_stand_ins,
    "tasks-100": partial(crowd, tasks=100),
    "tasks-10000": partial(crowd, tasks=10_000),
    "cancel": cancel,
    "exchange-tcp": partial(exchange, kind="tcp"),
    "exchange-tls": partial(exchange, kind="tls"),
    "exchange-unix": partial(exchange, kind="unix"),
    "packages": packages,
    "lines": lines,
    "frames-small": small_frames,
    "frames-large": large_frames,
    "single-bytes": single_bytes,
    "throughput": throughput,
    "sweep": sweep,
    "memory": memory,
}
