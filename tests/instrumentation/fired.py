"""A pool of which there are only the events, and readers in other threads."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from anyconnpool import PoolStatistics, ReplicaState
from anyconnpool._remote import Remote
from anyconnpool.events import Observer, PoolEnded, PoolStarted


class FiredPool:
    """Tell an observer that a pool starts and ends; what it is doing is for the test to say.

    :param observer: whom to tell
    :param name: the pool's name
    :param min_idle: how many connections it keeps ready
    :param max_size: most sockets at once
    :param states: what is known of each of several replicas
    """

    def __init__(
        self,
        observer: Observer,
        name: str = "echo",
        *,
        min_idle: int = 0,
        max_size: float = 10,
        states: Mapping[Remote, ReplicaState] | None = None,
    ) -> None:
        self._observer = observer
        self._min_idle = min_idle
        self.figures = PoolStatistics(name, max_size)
        self.states = states

    def statistics(self) -> PoolStatistics:
        return self.figures

    def start(self) -> None:
        states = None if self.states is None else self._read_states
        self._observer(PoolStarted(self.figures.name, self.statistics, self._min_idle, states))

    def _read_states(self) -> Mapping[Remote, ReplicaState]:
        assert self.states is not None
        return self.states

    def end(self) -> None:
        self._observer(PoolEnded(self.figures.name, self.statistics))

    def show(self, **figures: Any) -> None:
        """Change some of the statistics."""
        self.figures = replace(self.figures, **figures)


@contextmanager
def in_two_threads(function: Callable[[], object]) -> Generator[None]:
    """Call a function over and over in two other threads, for the length of the block.

    They take turns as often as Python can, so that each step of one meets each step of another.
    """
    done = threading.Event()
    errors: list[Exception] = []

    def repeat() -> None:
        try:
            while not done.is_set():
                function()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=repeat) for _ in range(2)]
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        sys.setswitchinterval(usual)
        done.set()
        for thread in threads:
            thread.join()
    assert not errors
