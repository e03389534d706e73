"""A naive model of machines that share a limit: every decision by looking at everything again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import count

from anyconnpool._core.shared_limit import SharedLimit, SharedPoolStateMachine
from anyconnpool._core.states import State, Waiter
from anyconnpool._settings import Settings
from anyconnpool._statistics import CloseReason

from .machine_fakes import SetSlots, Watched
from .machine_model import Conn, Model


class WatchedSharedMachine(Watched, SharedPoolStateMachine[int]):
    def __init__(
        self,
        settings: Settings,
        slots: SetSlots,
        run_actions: Callable[[WatchedSharedMachine], object],
        shared_limit: SharedLimit[int],
        jitter: Callable[[], float],
    ) -> None:
        super().__init__(settings, slots, lambda: run_actions(self), shared_limit, jitter=jitter)
        self.slots = slots
        self.watch_moves()


class Common:
    """What several pools have in common.

    :param max_total: most connections of all of them together
    """

    def __init__(self, max_total: float) -> None:
        self.max_total = max_total
        #: numbers what becomes idle
        self.rests = count()
        #: the time of the latest event
        self.now = 0.0
        self.models: list[SharingModel] = []
        #: whoever has ever waited, in the order of their joining
        self.line: list[Waiter[int]] = []
        #: those that are idle, in the order in which they became so
        self.rested: list[Conn] = []
        #: those that are being closed, or were, in the order in which that began
        self.graceful: list[Conn] = []

    def total(self) -> int:
        return sum(len(model.conns) for model in self.models)

    def closing(self) -> int:
        return sum(len(model.those(State.CLOSING)) for model in self.models)

    def idle(self) -> list[Conn]:
        return [conn for conn in self.rested if conn.state is State.IDLE]

    def needs(self) -> list[Waiter[int]]:
        """Return the waiters who need room: first who has waited longest."""
        found = [waiter for model in self.models for waiter in model.needs()]
        return sorted(found, key=self.line.index)

    def claims(self, waiter: Waiter[int] | None) -> bool:
        """Tell whether somebody has waited longer, beyond those for whom something closes."""
        needs = self.needs()[self.closing() :]
        if self.total() < self.max_total or not needs:
            return False
        return waiter is None or self.line.index(needs[0]) < self.line.index(waiter)

    def in_full_use(self) -> bool:
        """Tell whether a newcomer has to wait for somebody to give back."""
        full = self.total() >= self.max_total and not self.idle()
        return full and len(self.needs()) >= self.closing()

    def slow_to_close(self) -> list[Conn]:
        """Return those of all that have a grace to be closed in, the first to close first."""
        slow = [conn for model in self.models for conn in model.slow_to_close()]
        return sorted(slow, key=self.graceful.index)

    def settle(self) -> None:
        while needs := self.needs():
            if self.total() < self.max_total:
                model = self._model_of(needs[0])
                model.open_one()
                model.make_room()
            elif self.idle() and len(needs) > self.closing():
                self._give_way(self.idle()[0])
            elif (slow := self.slow_to_close()) and len(needs) > self.closing() - len(slow):
                slow[0].hurried = True
            else:
                break

    def _model_of(self, waiter: Waiter[int]) -> SharingModel:
        return next(
            model for model in self.models if waiter in model.waiters or waiter is model.trier
        )

    def _give_way(self, conn: Conn) -> None:
        next(model for model in self.models if conn in model.idle).give_way(conn)


class SharingModel(Model):
    """What a pool of several should look like after the same events.

    Whether refills come at once it leaves open, but for :meth:`refill`.
    """

    def __init__(self, settings: Settings, common: Common) -> None:
        super().__init__(settings)
        self.longest_unasked = settings.max_idle_time
        self.common = common
        self.rests = common.rests
        common.models.append(self)

    def needs(self) -> list[Waiter[int]]:
        room = min(max(self.max_size - len(self.conns), 0), self.wanted())
        if self.trier is not None:
            return [self.trier] if room else []
        unserved = self.waiters[self.provided() :]
        return [waiter for place, waiter in enumerate(unserved) if place < room]

    def lacks_idle(self) -> bool:
        """Tell whether a refill is in order."""
        room = self.common.total() < self.common.max_total and len(self.conns) < self.max_size
        return self.missing_idle() > 0 and room and not self.common.needs()

    def _may_wait(self) -> bool:
        if self.common.in_full_use() and self.needy() >= self.settings.max_waiting:
            return self.has_spare()
        return super()._may_wait()

    def join(self, waiter: Waiter[int], now: float) -> bool:
        self.common.line.append(waiter)
        return super().join(waiter, now)

    def watch(self, watcher: Waiter[int], now: float) -> None:
        self.common.line.append(watcher)
        super().watch(watcher, now)

    def stand_in_line(self, trier: Waiter[int]) -> None:
        self.common.line.append(trier)

    def refill(self, now: float) -> None:
        super().refill(now)
        while self.lacks_idle():
            self.open_one()

    def give_way(self, conn: Conn) -> None:
        self.idle.remove(conn)
        self._close(conn, {CloseReason.GAVE_WAY})
        self.now = self.common.now
        self.keep_time()

    def _route(
        self,
        conn: Conn,
        now: float,
        given: Iterable[CloseReason] = (),
        *,
        look: bool = False,
        pause: bool = True,
    ) -> None:
        if self.common.claims(self.waiters[0] if self.waiters else None):
            given = (*given, CloseReason.GAVE_WAY)
        super()._route(conn, now, given, look=look, pause=pause)
        if conn.state is State.IDLE:
            self.common.rested = [other for other in self.common.rested if other is not conn]
            self.common.rested.append(conn)
            self.common.rested.sort(key=lambda other: other.idle_number)

    def _close(self, conn: Conn, faults: set[CloseReason]) -> None:
        super()._close(conn, faults)
        self.common.graceful.append(conn)

    def open_one(self) -> None:
        super().open_one()
        self.conns[-1].begun_at = self.common.now

    def _order_missing(self) -> None:
        self.common.now = self.now
        if self.shut_error is None:
            self.keep_time()
            self.make_room()
        self.common.settle()
