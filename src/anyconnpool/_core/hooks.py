"""When a hook is run on an open connection, and what becomes of the connection after it.

The rules:

- While a hook is at work on a connection, nobody gets it. Tasks that wait may rely on it for a
  tenth of a second (:mod:`anyconnpool._core.waiting_line`), except on a hook that follows another.
- A hook is no use. The connection goes back to its place among the idle ones, and its idle time
  goes on. It ends with the borrow; only a check satisfies ``check_after`` and ``check_every``.
- What was used is reset (``on_release``) before anybody else gets it. Bytes that wait on a
  connection that nobody holds are answered (``on_unread``), before that if need be.
- In the background, four connections at most are checked at a time. A check there that may hang is
  interrupted if somebody needs its room.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Generic, TypeAlias

from anyconnpool._core.background_checks import BackgroundChecks
from anyconnpool._core.connection_group import ConnectionGroup
from anyconnpool._core.states import IN_USE, Action, PoolEntry, State, TransportT
from anyconnpool._core.waiting_line import WaitingLine
from anyconnpool._settings import Settings
from anyconnpool._statistics import CloseReason
from anyconnpool._util.liveness import Liveness

#: what is to be done with a connection that nobody holds: to close it for a reason, to run a hook,
#: or to make it available
Verdict: TypeAlias = CloseReason | Action | None


class HookRules(Generic[TransportT]):
    """Decide when ``on_release`` and ``on_unread`` are run, and what a hook leads to.

    :param settings: the pool's settings
    :param group: the pool's connections
    :param line: those who wait for one
    :param request: notes what has to be done with a connection
    """

    def __init__(
        self,
        settings: Settings,
        group: ConnectionGroup[TransportT],
        line: WaitingLine[TransportT],
        request: Callable[[Action, PoolEntry[TransportT]], object],
    ) -> None:
        #: whether connections that come back have to be reset
        self.resets = settings.on_release is not None
        check_after = math.inf if settings.check is None else settings.check_after
        group.idle.longest_rest = min(settings.max_idle_time, check_after)
        if settings.check_every < math.inf:
            group.background = BackgroundChecks(settings.check_every)
            group.rests_plainly = False
        self._longest_idle = settings.max_idle_time
        self._answers = settings.on_unread is not None
        self._group = group
        self._line = line
        self._request = request

    def judge(self, entry: PoolEntry[TransportT], liveness: Liveness) -> Verdict:
        """Return what is to be done with a connection that looks like this, if anything."""
        reason = entry.fault(liveness)
        answers = self._answers and reason is CloseReason.UNREAD_DATA
        return Action.ANSWER if answers else reason

    def judge_idle(self, entry: PoolEntry[TransportT], now: float, *, look: bool = True) -> Verdict:
        """Return what is to be done with an idle connection, if anything."""
        fault = entry.age_fault(now, self._longest_idle)
        if fault is None and look:
            return self.judge(entry, entry.look())
        return fault

    def note_use(self, entry: PoolEntry[TransportT], verdict: Verdict) -> Verdict:
        """Take note that a connection came back; return the first step, which is to reset it."""
        if not entry.borrows:
            # The request for which it was acquired was taken out before it was sent.
            return verdict
        entry.unreset = True
        return Action.RESET if verdict is None else verdict

    def begin(self, entry: PoolEntry[TransportT], hook: Action, now: float) -> None:
        """Have a hook run."""
        entry.hook = hook
        self._request(hook, entry)
        if entry.state is State.CHECKING:
            # One that follows another; nobody is to rely on a chain of them.
            return
        if entry.state is IN_USE:
            self._group.idle.begin_rest(entry, now)
        self._group.move(entry, State.CHECKING)
        self._line.begin(entry, now)

    def end(
        self, entry: PoolEntry[TransportT], found: Liveness | CloseReason | None, now: float
    ) -> Verdict:
        """Take note that a hook has ended; return what is to be done next.

        :param found: how the connection looks now, or why it has to be closed; None if the hook
            was interrupted
        """
        self._line.end(entry)
        interrupted = self._group.background is not None and self._group.background.end(entry)
        if found is None:
            # In doubt, and the time for it is over.
            entry.hurried = True
            return CloseReason.CHECK_FAILED if interrupted else CloseReason.POOL_CLOSED
        if isinstance(found, CloseReason):
            return found
        if entry.hook is Action.CHECK:
            entry.rested_since = now
        verdict = self.judge(entry, found)
        return Action.RESET if verdict is None and entry.unreset else verdict

    def check_idle(self, now: float) -> float:
        """Have checked what has been idle for ``check_every``; return when to call this again."""
        background = self._group.background
        if background is None:
            return math.inf
        while (entry := background.take(now)) is not None:
            self._group.idle.take_out(entry)
            self.begin(entry, Action.CHECK, now)
        return background.next_at()

    def interrupt(self, count: float) -> None:
        """Interrupt checks in the background, to make room.

        :param count: for how many tasks room is needed, those included for which some were
            interrupted before
        """
        background = self._group.background
        if background is not None:
            for entry in background.interrupt(count, self._line):
                self._request(Action.INTERRUPT, entry)
