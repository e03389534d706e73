"""A naive model of the machine: plain lists, and after every event all the rules once more."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

from anyconnpool._core.states import PoolEntry, State, Waiter
from anyconnpool._settings import Settings
from anyconnpool._statistics import CloseReason, PoolStatistics
from anyconnpool._util.liveness import Liveness

News = tuple[Waiter[int], "Conn | Exception | None"]


class Conn:
    """What the model knows of a connection."""

    def __init__(self) -> None:
        self.entry: PoolEntry[int] | None = None
        self.state = State.OPENING
        self.liveness = Liveness.ALIVE
        self.borrows = 0
        self.retired = False
        self.spoken = False
        self.noticed = False
        self.tells = False
        self.expires_at = math.inf
        self.idle_since = 0.0
        #: whatever justifies that it is closed
        self.faults: set[CloseReason] = set()


class Model:
    """What a pool should look like after the same events."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.max_size = settings.max_size
        self.conns: list[Conn] = []
        self.idle: list[Conn] = []
        self.waiters: list[Waiter[int]] = []
        self.watchers: list[Waiter[int]] = []
        self.granted: dict[Waiter[int], Conn] = {}
        #: who is woken with what by the present event, in order
        self.news: list[News] = []
        self.shut_error: Exception | None = None
        self.refill_paused = False
        self.last_error: Exception | None = None
        self.acquired = self.reused = self.opened_ever = self.failed = 0
        self.closed_by: Counter[str] = Counter()

    def those(self, *states: State) -> list[Conn]:
        return [conn for conn in self.conns if conn.state in states]

    def statistics(self) -> PoolStatistics:
        return PoolStatistics(
            name="pool",
            max_size=self.max_size,
            size=len(self.conns),
            idle=len(self.idle),
            in_use=len(self.those(State.IN_USE)),
            connecting=len(self.those(State.OPENING, State.CHECKING)),
            closing=len(self.those(State.CLOSING)),
            tasks_waiting=len(self.waiters),
            acquired=self.acquired,
            reused=self.reused,
            opened=self.opened_ever,
            open_failed=self.failed,
            closed=dict(self.closed_by),
        )

    def checkout(self, now: float) -> Conn | None:
        lent: Conn | None = None
        while self.idle and lent is None:
            conn = self.idle.pop(-1 if self.settings.idle_order == "lifo" else 0)
            if self._drop_if_bad(conn, now):
                continue
            if self._is_check_due(conn, now):
                conn.state = State.CHECKING
                continue
            lent = conn
            self._grant(conn)
        self._order_missing()
        return lent

    def join(self, waiter: Waiter[int]) -> bool:
        under_way = len(self.those(State.OPENING, State.CHECKING))
        room = max(0, self.max_size - len(self.conns) + len(self.those(State.CLOSING)))
        without = len(self.waiters) - under_way - room
        if without >= 0 and without >= self.settings.max_waiting:
            return False
        self.waiters.append(waiter)
        self._order_missing()
        return True

    def abandon(self, waiter: Waiter[int], now: float) -> None:
        if waiter in self.waiters:
            self.waiters.remove(waiter)
        conn = self.granted.pop(waiter, None)
        if conn is not None and conn.state is State.IN_USE:
            conn.borrows -= 1
            self.acquired -= 1
            self.reused -= conn.borrows > 0
            self._route(conn, now, look=True)
        self._order_missing()

    def release(self, conn: Conn, now: float, reason: CloseReason | None) -> None:
        if conn.state is State.IN_USE:
            look = reason is None and (conn.noticed or bool(self.waiters))
            self._route(conn, now, () if reason is None else (reason,), look=look)
        self._order_missing()

    def notice(self, conn: Conn, now: float) -> None:
        conn.noticed = True
        if conn in self.idle and self._drop_if_bad(conn, now):
            self.idle.remove(conn)
        self._order_missing()

    def detach(self, conn: Conn) -> bool:
        if conn.state is not State.IN_USE:
            return False
        self.closed_by["detached"] += 1
        self._forget(conn)
        return True

    def opened(self, conn: Conn, now: float, expires_at: float) -> None:
        conn.expires_at = expires_at
        self.opened_ever += 1
        self.last_error = None
        look = not self.waiters
        self._route(conn, now, look=look)
        if not (look and self._seen(conn)):
            self.refill_paused = False
        self._order_missing()

    def open_failed(self, conn: Conn, error: Exception) -> None:
        self.failed += 1
        self.refill_paused = True
        self.last_error = error
        if self.waiters:
            self.news.append((self.waiters.pop(0), error))
        else:
            self._wake_watchers(error)
        self._forget(conn)

    def open_cancelled(self, conn: Conn) -> None:
        self._forget(conn)

    def checked(self, conn: Conn, liveness: Liveness, now: float) -> None:
        conn.liveness = liveness
        self._route(conn, now, self._seen(conn))
        self._order_missing()

    def closed(self, conn: Conn, reason: CloseReason) -> None:
        self.closed_by[reason.value] += 1
        self._forget(conn)

    def reap(self, now: float, limit: int) -> bool:
        stale = [conn for conn in self.idle if self._overstayed(conn, now)]
        for conn in stale[:limit]:
            self.idle.remove(conn)
            self._close(conn, self._faults(conn, now))
        self._order_missing()
        return len(stale) >= limit

    def judge_idle(self, conns: list[Conn], now: float) -> None:
        for conn in conns:
            # Who tells needs no look.
            if conn in self.idle and self._drop_if_bad(conn, now, look=not conn.tells):
                self.idle.remove(conn)
        self._order_missing()

    def refill(self) -> None:
        self.refill_paused = False
        self._order_missing()

    def watch(self, watcher: Waiter[int]) -> None:
        self.watchers.append(watcher)
        self._wake_if_ready()

    def unwatch(self, watcher: Waiter[int]) -> None:
        self.watchers = [other for other in self.watchers if other is not watcher]

    def retire(self) -> None:
        for conn in self.conns:
            conn.retired = True
        self._close_idle(CloseReason.RETIRED, most=0)
        self._order_missing()

    def resize(self, max_size: float) -> None:
        self.max_size = max_size
        busy = len(self.conns) - len(self.idle) - len(self.those(State.CLOSING))
        self._close_idle(CloseReason.SURPLUS, most=max(0, max_size - busy))
        self._order_missing()

    def shut(self, error: Exception) -> None:
        self.shut_error = error
        self.news += [(waiter, error) for waiter in self.waiters]
        self.waiters = []
        self._wake_watchers(error)
        self._close_idle(CloseReason.POOL_CLOSED, most=0)

    def seize(self, conn: Conn) -> None:
        if conn.state is State.IN_USE:
            self._close(conn, {CloseReason.SEIZED})
        self._order_missing()

    def _route(
        self,
        conn: Conn,
        now: float,
        given: Iterable[CloseReason] = (),
        *,
        look: bool = False,
    ) -> None:
        faults = self._faults(conn, now).union(given)
        if look:
            seen = self._seen(conn)
            self._pause_if_dead(conn, seen)
            faults |= seen
        if faults:
            self._close(conn, faults)
        elif self.waiters:
            waiter = self.waiters.pop(0)
            self.granted[waiter] = conn
            self.news.append((waiter, conn))
            self._grant(conn)
        else:
            conn.state = State.IDLE
            conn.idle_since = now
            self.idle.append(conn)
            self._wake_if_ready()

    def _faults(self, conn: Conn, now: float) -> set[CloseReason]:
        alive = len(self.conns) - len(self.those(State.CLOSING))
        # However short its life, a new connection stands ready until it is looked at again.
        may_end = conn.borrows > 0 or conn.state is State.IDLE
        facts = {
            CloseReason.POOL_CLOSED: self.shut_error is not None,
            CloseReason.RETIRED: conn.retired,
            CloseReason.USES: conn.borrows >= self.settings.max_uses,
            CloseReason.LIFETIME: may_end and now >= conn.expires_at,
            CloseReason.SURPLUS: alive > self.max_size,
            CloseReason.IDLE_TIME: conn.state is State.IDLE and self._overstayed(conn, now),
        }
        return {reason for reason, true in facts.items() if true}

    def _overstayed(self, conn: Conn, now: float) -> bool:
        return now - conn.idle_since >= self.settings.max_idle_time

    def _seen(self, conn: Conn) -> set[CloseReason]:
        if conn.liveness is Liveness.CLOSED:
            return {CloseReason.PEER_CLOSED}
        if conn.liveness is Liveness.UNREAD and (conn.borrows > 0 or conn.spoken):
            return {CloseReason.UNREAD_DATA}
        return set()

    def _drop_if_bad(self, conn: Conn, now: float, *, look: bool = True) -> bool:
        faults, seen = self._faults(conn, now), self._seen(conn) if look else set[CloseReason]()
        if faults.isdisjoint({CloseReason.IDLE_TIME, CloseReason.LIFETIME}):
            self._pause_if_dead(conn, seen)
        if faults | seen:
            self._close(conn, faults | seen)
        return bool(faults | seen)

    def _pause_if_dead(self, conn: Conn, seen: set[CloseReason]) -> None:
        """Refill no more for now if a connection died before anybody used it."""
        if seen and not conn.borrows:
            self.refill_paused = True

    def _is_check_due(self, conn: Conn, now: float) -> bool:
        due = self.settings.check is not None and conn.borrows > 0
        return due and now - conn.idle_since >= self.settings.check_after

    def _close_idle(self, reason: CloseReason, *, most: float) -> None:
        while len(self.idle) > most:
            self._close(self.idle.pop(0), {reason})

    def _close(self, conn: Conn, faults: set[CloseReason]) -> None:
        conn.state = State.CLOSING
        conn.faults = faults

    def _grant(self, conn: Conn) -> None:
        conn.state = State.IN_USE
        conn.noticed = False
        self.acquired += 1
        self.reused += conn.borrows > 0
        conn.borrows += 1

    def _forget(self, conn: Conn) -> None:
        conn.state = State.GONE
        self.conns.remove(conn)
        self._order_missing()

    def _order_missing(self) -> None:
        if self.shut_error is not None:
            return
        wanted = len(self.waiters) + (0 if self.refill_paused else self.settings.min_idle)
        coming = len(self.those(State.IDLE, State.OPENING, State.CHECKING))
        while coming < wanted and len(self.conns) < self.max_size:
            self.conns.append(Conn())
            coming += 1

    def _wake_if_ready(self) -> None:
        if len(self.idle) >= self.settings.min_idle:
            self._wake_watchers(None)

    def _wake_watchers(self, error: Exception | None) -> None:
        self.news += [(watcher, error) for watcher in self.watchers]
        self.watchers = []
