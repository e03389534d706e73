"""Find the replicas of a service, again and again, in a task of the pool."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence

from anyio import (
    CancelScope,
    ConnectionFailed,
    Event,
    get_cancelled_exc_class,
    move_on_after,
)

from anyconnpool._core.health import Health, Replica
from anyconnpool._settings import Settings
from anyconnpool._util.cancellation import fence
from anyconnpool._util.interrupts import defer_interrupts
from anyconnpool._util.log import GuardedLogger, OutageLog, describe_error

_logger = GuardedLogger("anyconnpool.pool")

# How often it is called while there is nothing to connect to, in seconds.
_URGENT_INTERVAL = 1.0
# Whatever the user says: added to the time, less may be nothing at all.
_SHORTEST_INTERVAL = 0.001


class Discovery:
    """Call an async function that finds the replicas, and pass on what it has found.

    It is called before the first connect, after every ``refresh``, and once a second while no
    replica is known or all of them rest. If it fails, or finds nothing, the last ones stay.

    :param find: finds the replicas
    :param refresh: how often, in seconds
    :param settings: the pool's settings; ``connect_timeout`` is the limit of one call
    :param now: returns the time, in seconds
    :param health: knows whether all of them rest
    :param update: takes what was found
    """

    def __init__(
        self,
        find: Callable[[], Awaitable[Sequence[Replica]]],
        refresh: float,
        settings: Settings,
        now: Callable[[], float],
        health: Health,
        update: Callable[[Sequence[Replica]], object],
    ) -> None:
        self._find = find
        self._refresh = max(refresh, _SHORTEST_INTERVAL)
        self._name = settings.name
        self._limit = settings.connect_timeout
        self._now = now
        self._health = health
        self._update = update
        self._log = OutageLog(_logger, settings.name, "the discovery of replicas")
        self._scope = CancelScope()
        self._stopped = False
        self._error: Exception | None = None
        self._called_at = -math.inf
        self._is_wanted = self._is_under_way = False
        self._changed = Event()
        self._ended = Event()

    @defer_interrupts
    async def run(self) -> bool:
        """Call it whenever it is time, until stopped.

        :return: whether this task is to end, and another one to go on
        """
        with CancelScope(shield=True) as self._scope:
            while not self._stopped:
                while (pause := self._next_at() - self._now()) > 0:
                    self._changed = Event()
                    with move_on_after(pause):
                        await self._changed.wait()
                if await self._call():
                    # Maybe it is this task that somebody has cancelled, and waits for.
                    return True
        return False

    @defer_interrupts
    def stop(self) -> None:
        """Call it no more."""
        self._stopped = True
        self._scope.cancel()
        # Its traceback leads to the user's code.
        self._error = None

    def wake(self) -> None:
        """Look again whether it is time: a replica has begun to rest."""
        self._changed.set()

    async def wait(self) -> None:
        """Wait until a replica is known.

        :raises ~anyio.ConnectionFailed: if none is found
        """
        if self._is_under_way or self._next_at() <= self._now() or not self._is_wanted:
            self._is_wanted = True
            self._changed.set()
            await self._ended.wait()
        if not self._health.replicas:
            error = self._error or ConnectionFailed("nothing was found")
            raise ConnectionFailed(
                f"no replica of {self._name} is known: {describe_error(error)}"
            ) from error

    def _next_at(self) -> float:
        if not self._is_wanted:
            return math.inf
        is_urgent = not self._health.replicas or self._health.all_rest()
        interval = min(self._refresh, _URGENT_INTERVAL) if is_urgent else self._refresh
        return self._called_at + interval

    async def _find_in_time(self) -> Sequence[Replica]:
        with fence("the discovery", ConnectionFailed), move_on_after(self._limit):
            return await self._find()
        raise ConnectionFailed(f"it took longer than connect_timeout, {self._limit:g} s")

    async def _call(self) -> bool:
        """Call it, and return whether it, or what it waited for, was cancelled."""
        self._is_under_way = True
        cancelled = False
        try:
            found = await self._find_in_time()
            self._error = None
            self._log.succeeded(self._now())
            self._update(found)
        except Exception as error:
            self._error = error
            cancelled = isinstance(error.__cause__, get_cancelled_exc_class())
            self._log.failed(error, self._now())
        finally:
            self._called_at, self._is_under_way = self._now(), False
            ended, self._ended = self._ended, Event()
            ended.set()
        return cancelled
