"""Virtual clocks for asyncio and trio: time stands still while anything can run, then jumps."""

from __future__ import annotations

import asyncio
import math
import selectors
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from contextvars import Context

    from typing_extensions import TypeVarTuple, Unpack

    _Ts = TypeVarTuple("_Ts")


class _AutojumpSelector(selectors.DefaultSelector):
    """A selector that never waits for a timer: it adds the waiting time to :attr:`now` instead."""

    def __init__(self) -> None:
        super().__init__()
        #: the virtual time, in seconds
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Poll for I/O and, if there is none, jump to the end of the timeout.

        :param timeout: the time until the loop's next timer in seconds; None if it has none: then
            block, since only a thread or a socket can still wake the loop
        :return: the file objects that are ready
        """
        if timeout is None:
            return super().select(None)
        ready = super().select(0)
        if not ready:
            self.now += max(timeout, 0.0)
        return ready


class AutojumpLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop on a virtual clock, in the manner of trio's ``MockClock``.

    Its time starts at zero and stands still while anything is ready to run. When nothing is, it
    jumps to the next timer: hours pass at once, and a limit of a microsecond is never overtaken by
    a busy machine. It is the ``loop_factory`` of asyncio's runners and AnyIO's.

    It doesn't see work outside the event loop: a thread (also the one that looks up a host name) or
    bytes on their way between real sockets. If there is a timer, the clock jumps past them. Without
    a timer it waits, as every loop does; a timer for ``math.inf`` is none, as on trio.
    """

    def __init__(self) -> None:
        # The base class keeps its selector to itself; time() needs ours.
        self._clock = _AutojumpSelector()
        super().__init__(self._clock)

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self._clock.now

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[_Ts]], object],
        *args: Unpack[_Ts],
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Call back at a virtual time.

        :param when: the time in seconds; with ``math.inf``, never
        :param callback: what to call
        :param args: what it is called with
        :param context: the context variables that it sees
        :return: what cancels it
        """
        if math.isinf(when):
            # asyncio would look again once a day, and a day takes no time here.
            return asyncio.TimerHandle(when, callback, args, self, context)
        return super().call_at(when, callback, *args, context=context)


def virtual_clock_backend(name: str) -> tuple[str, dict[str, Any]]:
    """Return a backend on a virtual clock of its own, which starts at zero.

    The pair is what a fixture ``anyio_backend`` of AnyIO's pytest plugin returns, or ``backend``
    and ``backend_options`` of :func:`anyio.run`. Use it for one run. asyncio runs on an
    :class:`AutojumpLoop`, trio on a ``MockClock`` with ``autojump_threshold=0``. uvloop has none,
    because it takes its time from the system.

    :param name: ``"asyncio"`` or ``"trio"``
    :raises ValueError: if it is neither
    :raises ImportError: if it is trio and that is not installed
    """
    if name == "asyncio":
        return name, {"loop_factory": AutojumpLoop}
    if name == "trio":
        from trio.testing import MockClock

        return name, {"clock": MockClock(autojump_threshold=0)}
    raise ValueError(f'the backends with a virtual clock are "asyncio" and "trio", not {name!r}')
