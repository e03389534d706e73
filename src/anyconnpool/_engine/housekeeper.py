"""The reaper and the refiller of a pool: what has to be done while nobody asks for anything."""

from __future__ import annotations

import math
from collections.abc import Callable

from anyio import CancelScope, sleep
from anyio.lowlevel import checkpoint

from anyconnpool._core.state_machine import PoolStateMachine
from anyconnpool._engine.event_loop import HomeLoop
from anyconnpool._engine.tasks import ConnectionTasks
from anyconnpool._settings import Settings
from anyconnpool._streams.transport import Transport
from anyconnpool._util.interrupts import defer_interrupts
from anyconnpool._util.log import GuardedLogger

_logger = GuardedLogger("anyconnpool.housekeeper")

# How often idle connections are looked at, in seconds: a failed refill is repeated, and a hang-up
# that no stream has reported is noticed, after this time at the latest.
_SWEEP_INTERVAL = 5.0
_SHORTEST_PAUSE = 0.01
# A look takes 1 µs an entry, starting a task to close one 30 µs: a slice stays under 2 ms.
_SLICE = 50


class Housekeeper:
    """Close what has been idle or alive for too long, or was closed by the peer; refill, check.

    :param settings: the pool's settings
    :param machine: decides
    :param connection_tasks: run what the machine decides
    :param home: the event loop of the pool
    :param look_for_leaks: called at each sweep
    """

    def __init__(
        self,
        settings: Settings,
        machine: PoolStateMachine[Transport],
        connection_tasks: ConnectionTasks,
        home: HomeLoop,
        look_for_leaks: Callable[[], object],
    ) -> None:
        self._name = settings.name
        self._machine = machine
        self._connection_tasks = connection_tasks
        self._now = home.now
        self._look_for_leaks = look_for_leaks
        self._scope = CancelScope()
        self._stopped = False
        self._look_at = self._refill_at = home.now()
        self._check_at = self._expiry_at = math.inf
        self._longest_pause = min(_SWEEP_INTERVAL, settings.check_every)
        self._interval = max(
            min(
                _SWEEP_INTERVAL,
                settings.max_idle_time / 4,
                settings.max_lifetime / 4,
                settings.leak_after / 4,
            ),
            _SHORTEST_PAUSE,
        )

    @defer_interrupts
    async def run(self) -> None:
        """Sweep again and again, until stopped; an error is logged and survived."""
        with CancelScope(shield=True) as self._scope:
            while not self._stopped:
                try:
                    await self._sweep()
                except Exception:
                    _logger.exception("pool %s: a sweep failed, the next follows", self._name)
                await sleep(self._pause())

    @defer_interrupts
    def stop(self) -> None:
        """Sweep no more."""
        self._stopped = True
        self._scope.cancel()

    def _pause(self) -> float:
        until = min(self._expiry_at, self._machine.next_expiry(), self._check_at) - self._now()
        return max(min(self._interval, self._longest_pause, until), _SHORTEST_PAUSE)

    async def _sweep(self) -> None:
        while self._machine.reap(self._now(), _SLICE):
            await checkpoint()
        # Before checks begin: what is being checked expires as well.
        self._expiry_at = self._machine.next_expiry()
        self._check_at = self._machine.check_idle(self._now())
        # Expiries may call more often; all idle entries are looked at once an interval.
        if self._now() >= self._look_at:
            self._look_at = self._now() + self._interval
            await self._look_over()
            self._look_for_leaks()
        if self._now() >= self._refill_at:
            self._refill_at = self._now() + _SWEEP_INTERVAL
            self._machine.refill(self._now())

    async def _look_over(self) -> None:
        start: int | None = 0
        while start is not None:
            start = self._machine.look_over(start, _SLICE, self._now())
            await checkpoint()
