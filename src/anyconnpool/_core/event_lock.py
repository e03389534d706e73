"""The lock of a state machine: readers in other threads wait, an event that interrupts another too.

The garbage collector runs finalizers, and Python runs signal handlers, between any two lines: also
in the middle of an event, in its own thread. What they do to a pool there:

- They read its statistics. The lock can be taken again by the thread that has it.
- They cause an event, by ``discard()`` in a ``__del__`` for example. It must not find a change half
  made: it is postponed until the event under way is over.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container
from functools import partial, wraps
from types import TracebackType
from typing import Any, Protocol, TypeVar

from anyconnpool._util.locks import make_lock

_Event = TypeVar("_Event", bound=Callable[..., None])
_Machine = TypeVar("_Machine")


class EventLock:
    """Let one event at a time change a machine, or the machines that share a limit."""

    __slots__ = ("_catching_up", "busy", "lock", "postponed")

    def __init__(self) -> None:
        self.lock = make_lock()
        #: whether an event is under way; events take place in one thread
        self.busy = False
        #: what came in the middle of an event
        self.postponed: deque[Callable[[], object]] = deque()
        self._catching_up = False

    def begin(self) -> None:
        """Begin an event.

        :raises RuntimeError: in the middle of another one
        """
        if self.busy:
            raise RuntimeError(
                "the pool can't do this in the middle of something else it does: have a task do "
                "it, not a signal handler, a finalizer or an observer"
            )
        self.lock.acquire()
        self.busy = True

    def end(self) -> None:
        """End an event; what was postponed meanwhile has to be caught up with."""
        self.busy = False
        self.lock.release()

    def postpone(self, event: Callable[..., None], *args: Any, **options: Any) -> None:
        """Have an event take place when the one under way is over."""
        self.postponed.append(partial(event, *args, **options))

    def catch_up(self) -> None:
        """Have the events take place that were postponed; called without the lock."""
        # Each of them ends by calling this: a thousand must not stand on each other.
        if self._catching_up:
            return
        self._catching_up = True
        try:
            while self.postponed:
                self.postponed.popleft()()
        finally:
            self._catching_up = False


class LockedEvent:
    """Hold a lock for one event, then have done what the event has led to.

    :param lock: the lock
    :param finish: called when the lock is free again
    """

    __slots__ = ("_finish", "lock")

    def __init__(self, lock: EventLock, finish: Callable[[], object]) -> None:
        self.lock = lock
        self._finish = finish

    def __enter__(self) -> None:
        self.lock.begin()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.lock.end()
        self._finish()


class HasEvents(Protocol):
    """What :func:`postponable` needs of a machine."""

    event_lock: EventLock


def postponable(event: _Event) -> _Event:
    """Mark an event that waits until the one is over that it has interrupted."""

    @wraps(event)
    def take_place(machine: HasEvents, *args: Any, **options: Any) -> None:
        if machine.event_lock.busy:
            machine.event_lock.postpone(event, machine, *args, **options)
        else:
            event(machine, *args, **options)

    return take_place  # type: ignore[return-value]


def postpone_events(besides: Container[str]) -> Callable[[type[_Machine]], type[_Machine]]:
    """Make every event of a class postponable that returns nothing.

    :param besides: names of those that see to it themselves, where a call more would show
    """

    def decorate(machine: type[_Machine]) -> type[_Machine]:
        for name, method in [*vars(machine).items()]:
            returned = getattr(method, "__annotations__", {}).get("return", ...)
            if not name.startswith("_") and name not in besides and returned in ("None", None):
                setattr(machine, name, postponable(method))
        return machine

    return decorate
