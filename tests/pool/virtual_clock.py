"""A virtual clock for asyncio, in the manner of trio's MockClock with autojump.

Time stands still while anything is ready to run. When nothing is, it jumps to the next timer.

What it can't see: threads. A lookup of a host name runs in one, and the clock would jump past it,
so use IP literals or fakes here. Real sockets are polled before each jump, but bytes still on their
way are missed in the same manner. A deadlock without any timer blocks, as it does in real time:
pytest-timeout ends it.
"""

import asyncio
import selectors


class AutojumpSelector(selectors.DefaultSelector):
    """A selector that never waits for a timer: it adds the waiting time to :attr:`now` instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        """The virtual time, in seconds."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Poll for I/O and, if there is none, jump to the end of the timeout.

        :param timeout: the time until the loop's next timer in seconds; None if it has none: then
            block, since only another thread can still wake the loop
        :return: the file objects that are ready
        """
        if timeout is None:
            return super().select(None)
        ready = super().select(0)
        if not ready:
            self.now += max(timeout, 0.0)
        return ready


class AutojumpLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop whose time jumps from timer to timer; it starts at zero."""

    def __init__(self) -> None:
        # The base class keeps its selector to itself; time() needs ours.
        self._clock = AutojumpSelector()
        super().__init__(self._clock)

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self._clock.now
