"""Delay what may come late: events of the kernel, turns of event loops, threads.

A busy machine does all of this, and seldom what it takes to see a race in a test. Here it happens
all the time, so that a test which counts on the usual order fails in one run of a few. uvloop asks
the kernel by itself: for it, only threads are late.
"""

from __future__ import annotations

import random
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

# How likely an event is held back until the next turn, and then again.
_HELD_BACK = 0.5
# How likely a turn is late, and by how many seconds at most; the same goes for a thread's calls.
_LATE = 0.03
_LATE_BY = 0.02

Method = Callable[..., Any]


class Jitter:
    """Make things late in this process, from now on.

    :param seed: what the chances are drawn from
    """

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        # What trio's epoll has reported and trio hasn't been told.
        self._held_back: dict[int, list[Any]] = {}
        # Threads give way far more often than every 5 ms.
        sys.setswitchinterval(0.0005)
        _wrap(selectors.DefaultSelector, "select", self._select)
        for name in ("accept", "recv", "sendall"):
            _wrap(socket.socket, name, self._call_in_thread)
        _wrap(threading.Thread, "run", self._call_in_thread)
        self._wrap_trio()

    def _wrap_trio(self) -> None:
        try:
            from trio._core._io_epoll import EpollIOManager
        except ImportError:
            return
        _wrap(EpollIOManager, "get_events", self._get_events)
        _wrap(EpollIOManager, "close", self._close)

    def _happens(self, likely: float) -> bool:
        return self._chance.random() < likely

    def _nap(self) -> None:
        if self._happens(_LATE):
            time.sleep(self._chance.random() * _LATE_BY)

    def _call_in_thread(self, method: Method, *args: Any, **options: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            self._nap()
        return method(*args, **options)

    def _select(self, select: Method, *args: Any) -> list[Any]:
        """Ask for asyncio: what isn't reported now is ready the next time, too."""
        self._nap()
        return [event for event in select(*args) if not self._happens(_HELD_BACK)]

    def _get_events(self, get_events: Method, manager: object, timeout: float) -> list[Any]:
        """Ask for trio, whose epoll reports an event only once."""
        self._nap()
        late = self._held_back.pop(id(manager), [])
        now: list[Any] = []
        later: list[Any] = []
        for event in [*late, *get_events(manager, 0 if late else timeout)]:
            (later if self._happens(_HELD_BACK) else now).append(event)
        self._held_back[id(manager)] = later
        return now

    def _close(self, close: Method, manager: object) -> None:
        self._held_back.pop(id(manager), None)
        close(manager)


def _wrap(cls: type, name: str, call: Method) -> None:
    """Have a method called by something else, which gets it before the arguments."""
    method = getattr(cls, name)

    def wrapped(*args: Any, **options: Any) -> Any:
        return call(method, *args, **options)

    setattr(cls, name, wrapped)
