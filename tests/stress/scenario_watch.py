"""What has to be true all the time in a scenario, and what must not be left at its end."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack, contextmanager
from typing import Any

import anyio
import pytest

from anyconnpool import PoolStatistics
from tests.sockets.checks import open_sockets

from .scenario_remotes import ReplicaGroup
from .scenario_rules import RuleWatch

# How often statistics are looked at, in seconds.
_PERIOD = 0.002
# Threads that the event loops keep for the next time.
_WORKERS = ("AnyIO worker", "Trio thread", "asyncio_")

Look = Callable[[], Iterable[PoolStatistics]]
LookAtGroups = Callable[[], Iterable[tuple[PoolStatistics, ReplicaGroup]]]


class Limits:
    """What statistics and sockets must not exceed; a resize may change it.

    :param max_total: of all pools together
    :param takes_turns: whether attempts take turns while connecting fails (``connect_retry``)
    :param checks: whether connections may be idle that have to be checked first
    :param pipeline: most requests in flight on one connection
    """

    def __init__(
        self, max_size: float, max_total: float, *, takes_turns: bool, checks: bool, pipeline: int
    ) -> None:
        self.pipeline = pipeline
        self.takes_turns = takes_turns
        self.checks = checks
        #: the largest maximum so far: after it was lowered, the surplus goes when it comes back
        self.max_size = max_size
        self.max_total = max_total


class Monitor:
    """Look at statistics, from a task, a thread, a signal handler or an observer.

    :param look: returns the statistics of all pools
    :param look_at_groups: returns those of the pools that have replicas, with these
    :param limits: what must not be exceeded
    :param rules: the rules that the machines follow
    """

    def __init__(
        self, look: Look, look_at_groups: LookAtGroups, limits: Limits, rules: RuleWatch
    ) -> None:
        self.faults: list[str] = []
        self._look, self._look_at_groups, self._rules = look, look_at_groups, rules
        self._limits = limits
        self._sockets_before = len(open_sockets())
        self._looks = 0

    def check(self, statistics: PoolStatistics) -> None:
        """Note a fault if the statistics of a pool are not consistent."""
        s = statistics
        known = s.idle + s.in_use + s.closing + sum(s.closed.values())
        rules = {
            "the parts of size": s.idle + s.in_use + s.connecting + s.closing == s.size,
            "max_size": s.size <= self._limits.max_size,
            "opened": known <= s.opened <= known + s.connecting,
            "below zero": min(s.idle, s.in_use, s.connecting, s.closing, s.tasks_waiting) >= 0,
            "reused": s.reused <= s.acquired,
            "in use": s.in_use <= s.acquired,
            "in flight": 0 <= s.in_flight <= s.in_use * self._limits.pipeline,
        }
        self.faults.extend(f"{rule}: {s}" for rule, holds in rules.items() if not holds)

    def check_waiting(self) -> None:
        """Note a fault if somebody waits though there is room or something idle.

        Where pools share a limit, those of all of them count.
        """
        every = list(self._look())
        total = sum(s.size for s in every)
        if total > self._limits.max_total:
            self.faults.append(f"{total} connections in all: {every}")
        resting: set[str] = set()
        choosy: set[str] = set()
        for s, group in self._look_at_groups():
            self.faults.extend(group.check(s))
            if group.all_rest():
                resting.add(s.name)
            if s.replayed:
                # A repeat has a connection opened rather than go where it has failed.
                choosy.add(s.name)
        self._rules.look()
        for s in every:
            self.check(s)
            limits = self._limits
            room = s.size < s.max_size and total < limits.max_total and not limits.takes_turns
            lacking = room and s.tasks_waiting > s.connecting and s.name not in resting
            useless = limits.checks or s.name in choosy
            if s.tasks_waiting and ((s.idle and not useless) or lacking):
                self.faults.append(f"somebody waits in vain: {s}")

    def check_sockets(self) -> None:
        """Note a fault if more sockets are open than connections are counted."""
        every = list(self._look())
        counted = sum(s.size + s.closed.get("detached", 0) for s in every)
        sockets = len(open_sockets()) - self._sockets_before
        if sockets > counted:
            self.faults.append(f"{sockets} sockets for {counted} connections: {every}")

    async def run(self) -> None:
        """Look again and again."""
        while True:
            self.check_waiting()
            self._looks += 1
            if self._looks % 4 == 1:
                self.check_sockets()
            await anyio.sleep(_PERIOD)

    def _look_only(self, *arguments: object) -> None:
        list(self._look())

    def _check_all(self) -> None:
        for statistics in self._look():
            self.check(statistics)

    @contextmanager
    def by_signal(self) -> Generator[None]:
        """Look in a signal handler as well."""
        # A handler may find a change half made: that it gets an answer is what counts.
        before = signal.signal(signal.SIGVTALRM, self._look_only)
        # They come by the processor's time: the more is done here, the more of them.
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.001, 0.001)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.signal(signal.SIGVTALRM, before)

    @contextmanager
    def by_thread(self) -> Generator[None]:
        """Look in a thread as well, every millisecond."""
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(0.001):
                self._check_all()

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


class Leftovers:
    """What was there before a scenario; more must not be there after it."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self._sockets = open_sockets()
        self._tasks = len(anyio.get_running_tasks())
        self._threads = set(threading.enumerate())

    @contextmanager
    def hear_complaints(self) -> Generator[None]:
        """Take warnings of what nobody awaited, retrieved or closed for faults."""
        with ExitStack() as stack:
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            patch.setattr(sys, "unraisablehook", self._note_unraisable)
            stack.enter_context(_redirect_log("asyncio", self._note_record))
            # Formatted all the same.
            stack.enter_context(_redirect_log("anyconnpool", logging.LogRecord.getMessage))
            yield

    def _note_record(self, record: logging.LogRecord) -> None:
        self.faults.append(record.getMessage())

    def _note_unraisable(self, unraisable: Any) -> None:
        self.faults.append(f"{unraisable.err_msg or ''} {unraisable.exc_value!r}")

    async def check(self) -> list[str]:
        """Return what is left that was not there before."""
        for _ in range(200):
            if open_sockets() == self._sockets and self._count_tasks() <= self._tasks:
                break
            await anyio.sleep(0.005)
        gc.collect()
        if open_sockets() != self._sockets:
            self.faults.append(f"{len(open_sockets()) - len(self._sockets)} sockets are left")
        if self._count_tasks() > self._tasks:
            self.faults.append(f"tasks are left: {anyio.get_running_tasks()}")
        left = [t for t in threading.enumerate() if t not in self._threads]
        self.faults.extend(f"left: {t}" for t in left if not t.name.startswith(_WORKERS))
        return self.faults

    @staticmethod
    def _count_tasks() -> int:
        return len(anyio.get_running_tasks())


@contextmanager
def _redirect_log(name: str, handle: Callable[[logging.LogRecord], object]) -> Generator[None]:
    """Give what a logger is told to a function, and to nobody else."""
    log = logging.getLogger(name)
    handler = logging.Handler(logging.WARNING if name == "anyconnpool" else logging.ERROR)
    handler.emit = handle  # type: ignore[method-assign, assignment]
    log.addHandler(handler)
    log.propagate = False
    try:
        yield
    finally:
        log.propagate = True
        log.removeHandler(handler)


def uncancelled() -> int:
    """Return how many cancellations of the running task nobody has dealt with."""
    if sys.version_info < (3, 11):
        return 0
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return 0
    return task.cancelling() if task is not None else 0


def no_limit(value: float | None) -> float:
    """Return a limit, infinite if there is none."""
    return math.inf if value is None else value
