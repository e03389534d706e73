"""A naive model of the machine: plain lists, and after every event all the rules once more."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from itertools import count

from anyconnpool._core.states import Action, PoolEntry, State, Waiter
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
        #: its number among all that became idle
        self.idle_number = 0
        self.asked_at = -math.inf
        #: which hook is at work on it, or was so last
        self.hook: Action | None = None
        #: whether on_release is to be called before anybody gets it
        self.unreset = False
        #: whether it is checked in the background, and that was interrupted to make room
        self.in_background = self.interrupted = False
        #: when it was begun to be opened or checked, and who waited then
        self.begun_at = 0.0
        self.begun_for: list[Waiter[int]] = []
        #: how many failures were known then; None in a pause
        self.known_failures: int | None = 0
        #: how many failures of an outage were known then
        self.known_outage = 0
        self.hurried = False
        #: when it is closed if it is idle, and its place among those that are closed then
        self.retire_at: tuple[float, int] = (math.inf, 0)
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
        #: numbers what becomes idle
        self.rests = count()
        self.granted: dict[Waiter[int], Conn] = {}
        #: who is woken with what by the present event, in order
        self.news: list[News] = []
        self.shut_error: Exception | None = None
        self.refill_paused = self.ends_early = False
        self.now = 0.0
        #: those that are being closed, the first to be so first
        self.closing: list[Conn] = []
        self.failures = self.all_failures = 0
        self.retry_at = -math.inf
        #: those who waited for the end of the last outage
        self.awaited_by: list[Waiter[int]] = []
        #: since when connecting has failed, how often, and when to try without being asked
        self.failing_since: float | None = None
        self.outage_failures = 0
        self.try_at = -math.inf
        self.asked_at = -math.inf
        self.longest_unasked = math.inf
        #: stands in line for an attempt of the pool's own
        self.trier: Waiter[int] | None = None
        #: what a random number is, and how many have been retired
        self.jitter = 0.0
        self.retired = 0
        self.charges: Counter[Waiter[int]] = Counter()
        self.last_error: Exception | None = None
        self.acquired = self.reused = self.opened_ever = self.failed = 0
        self.closed_by: Counter[str] = Counter()
        self.refused = self.peak_in_use = self.peak_waiting = 0

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
            failing_for=None if self.failing_since is None else self.now - self.failing_since,
            acquired=self.acquired,
            reused=self.reused,
            opened=self.opened_ever,
            open_failed=self.failed,
            closed=dict(self.closed_by),
            refused=self.refused,
            in_hook=len(self.those(State.CHECKING)),
            peak_in_use=self.peak_in_use,
            peak_waiting=self.peak_waiting,
        )

    def pass_time(self, now: float) -> None:
        self.now = now
        self._order_missing()

    def checkout(self, now: float) -> Conn | None:
        self.now = now
        lent: Conn | None = None
        asked = False
        while self.idle and lent is None:
            fifo = self.settings.idle_order == "fifo" and not asked
            conn = self.idle.pop(0 if fifo else -1)
            if self._drop_if_bad(conn, now):
                continue
            if self._is_check_due(conn, now):
                if asked:
                    self.idle.append(conn)
                    break
                asked = True
                self._begin_hook(conn, Action.CHECK)
            elif self.waiters:
                self._route(conn, now)
            else:
                lent = conn
                self._grant(conn)
        self._order_missing()
        return lent

    def provided(self) -> int:
        """Count for how many something is under way; those who waited longest come first."""
        supply = sorted(self.those(State.OPENING, State.CHECKING), key=lambda conn: conn.begun_at)
        slow = [conn for conn in supply if conn.begun_at + 0.1 <= self.now]
        fresh = [conn for conn in supply if conn not in slow]
        for place, waiter in enumerate(self.waiters):
            usable = [conn for conn in slow if waiter in conn.begun_for] or fresh
            if not usable:
                return place
            # The one that serves the fewest others.
            least = min(
                usable, key=lambda conn: len([w for w in self.waiters if w in conn.begun_for])
            )
            (slow if least in slow else fresh).remove(least)
        return len(self.waiters)

    def needy(self) -> int:
        return len(self.waiters) - self.provided()

    def freeing(self) -> int:
        return len(self.closing) - int(max(len(self.conns) - self.max_size, 0))

    def is_retrying(self) -> bool:
        recovering = any(waiter in self.awaited_by for waiter in self.waiters)
        troubled = self.failures > 0 or recovering
        return self.settings.connect_retry is not None and troubled

    def wanted(self) -> int:
        """Count the connections that may be opened now for those who need one."""
        if self.fails_fast():
            return int(self.trier is not None)
        room = self.settings.max_connecting - len(self.those(State.OPENING))
        return int(min(self._wanted(), room))

    def _wanted(self) -> int:
        needy = self.needy()
        if not needy or not self.is_retrying():
            return needy
        newest = self.waiters[-1]
        for conn in self.those(State.OPENING, State.CHECKING):
            if conn.begun_at + 0.1 > self.now or newest in conn.begun_for:
                return 0
        return 0 if self.now < self.retry_at and self.charges[newest] else 1

    def concerned(self, conn: Conn) -> list[Waiter[int]]:
        """Return those who may rely on an attempt."""
        return self._relying(conn, self.waiters)

    def _relying(self, conn: Conn, waiters: list[Waiter[int]]) -> list[Waiter[int]]:
        fresh = self.now < conn.begun_at + 0.1
        return [waiter for waiter in waiters if fresh or waiter in conn.begun_for]

    def _may_wait(self) -> bool:
        if len(self.conns) < self.max_size or self.fails_fast():
            return True
        if self.needy() - max(self.freeing(), 0) < self.settings.max_waiting:
            return True
        return self.has_spare()

    def has_spare(self) -> bool:
        """Tell whether one more waiter could rely on what is under way."""
        one_more: Waiter[int] = Waiter(list)
        self.waiters.append(one_more)
        provided = self.provided() == len(self.waiters)
        self.waiters.pop()
        return provided

    def fails_fast(self) -> bool:
        """Tell whether whoever asks is refused."""
        if self.failing_since is None:
            return False
        long = self.now >= self.failing_since + self.settings.fail_fast_after
        return long and not self.those(State.IDLE, State.IN_USE, State.CHECKING)

    def keep_time(self) -> None:
        """Close what was retired, refuse those who wait for nothing, stand in line for a try."""
        due = [conn for conn in self.idle if conn.retire_at[0] <= self.now]
        for conn in sorted(due, key=lambda conn: conn.retire_at):
            self.idle.remove(conn)
            self._close(conn, {CloseReason.RETIRED})
        if self.failing_since is not None and self.those(State.IDLE, State.IN_USE, State.CHECKING):
            self.asked_at = self.now
        if not self.fails_fast():
            self.trier = None
            return
        self.news += [(waiter, self.last_error) for waiter in [*self.waiters, *self.watchers]]
        self.refused += len(self.waiters)
        self.waiters, self.watchers = [], []
        wanted = self.now - self.asked_at < self.longest_unasked
        if not wanted or self.those(State.OPENING):
            self.trier = None
        elif self.trier is None and self.now >= self.try_at:
            self.trier = Waiter(list)
            self.stand_in_line(self.trier)

    def stand_in_line(self, trier: Waiter[int]) -> None:
        """Take note that an attempt is due that nobody has asked for."""

    def join(self, waiter: Waiter[int], now: float) -> bool:
        self.now = self.asked_at = now
        if not self._may_wait():
            self.refused += 1
            return False
        self.waiters.append(waiter)
        self._order_missing()
        self.peak_waiting = max(self.peak_waiting, len(self.waiters))
        return True

    def abandon(self, waiter: Waiter[int], now: float) -> None:
        self.now = now
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
        self.now = now
        if conn.state is State.IN_USE:
            look = reason is None and (conn.noticed or bool(self.waiters))
            conn.unreset = self.settings.on_release is not None
            self._route(conn, now, () if reason is None else (reason,), look=look)
        self._order_missing()

    def notice(self, conn: Conn, now: float) -> None:
        self.now = now
        conn.noticed = True
        if conn in self.idle and self._drop_if_bad(conn, now):
            self.idle.remove(conn)
        self._order_missing()

    def detach(self, conn: Conn, now: float) -> bool:
        self.now = now
        if conn.state is not State.IN_USE:
            return False
        self.closed_by["detached"] += 1
        self._forget(conn)
        return True

    def opened(self, conn: Conn, now: float, expires_at: float) -> None:
        self.now = now
        conn.expires_at = expires_at
        conn.idle_since = now
        self.opened_ever += 1
        self.last_error = self.failing_since = None
        if self.failures:
            self.awaited_by = list(self.waiters)
        self.failures, self.retry_at = 0, -math.inf
        look = not self.waiters
        self._route(conn, now, look=look)
        if not (look and self._seen(conn)):
            self.refill_paused = self.ends_early
        self._order_missing()

    def open_failed(
        self, conn: Conn, error: Exception, now: float, pause: float | None, rest: float
    ) -> None:
        self.now = now
        self.failed += 1
        self.last_error = error
        if self.shut_error is None:
            if self.failing_since is None or conn.known_outage == self.outage_failures:
                self.outage_failures += 1
                self.try_at = now + rest
            if self.failing_since is None:
                self.failing_since = now
                self.asked_at = max(self.asked_at, now)
        retry = self.settings.connect_retry
        if retry is not None and pause is not None:
            self._charge(conn, error, retry.count, pause)
            self.refill_paused = self.failures > retry.count and not self.watchers
        else:
            self.refill_paused = True
            if self.concerned(conn):
                self.news.append((self.waiters.pop(0), error))
            else:
                self._wake_watchers(error)
        self._forget(conn)

    def _charge(self, conn: Conn, error: Exception, most: float, pause: float) -> None:
        charged = self.concerned(conn) + self._relying(conn, self.watchers)
        oldest = (*self.waiters[:1], *self.watchers[:1])
        if conn.known_failures is None and any(self.charges[waiter] for waiter in oldest):
            charged = [waiter for waiter in charged if not self.charges[waiter]]
        elif conn.known_failures not in (None, self.all_failures):
            return
        else:
            self.failures += 1
            self.all_failures += 1
            self.retry_at = self.now + pause
        self.charges.update(charged)
        for waiter in charged:
            if self.charges[waiter] > most:
                self.news.append((waiter, error))
                self.waiters = [other for other in self.waiters if other is not waiter]
                self.watchers = [other for other in self.watchers if other is not waiter]

    def open_cancelled(self, conn: Conn, now: float) -> None:
        self.now = now
        self._forget(conn)

    def hook_ends(self, conn: Conn, found: Liveness | CloseReason | None, now: float) -> None:
        self.now = now
        given: set[CloseReason] = set()
        if isinstance(found, Liveness):
            conn.liveness = found
            if conn.hook is Action.CHECK:
                conn.asked_at = now
        elif found is None:
            reason = CloseReason.CHECK_FAILED if conn.interrupted else CloseReason.POOL_CLOSED
            given, conn.hurried = {reason}, True
        else:
            given = {found}
        conn.in_background = False
        self._route(conn, now, given, look=not given, pause=False)
        self._check_background()
        self._order_missing()

    def check_background(self, now: float) -> None:
        self.now = now
        self._check_background()
        self._order_missing()

    def _check_background(self) -> None:
        """Have those checked that have rested longest, four at a time."""
        due = [conn for conn in self.idle if self.background_due_at(conn) <= self.now]
        for conn in sorted(due, key=lambda conn: max(conn.idle_since, conn.asked_at)):
            if len([conn for conn in self.conns if conn.in_background]) < 4:
                self.idle.remove(conn)
                self._begin_hook(conn, Action.CHECK)
                conn.in_background, conn.interrupted = True, False

    def background_due_at(self, conn: Conn) -> float:
        since = max(conn.idle_since, conn.asked_at)
        return since + self.settings.check_every if conn.borrows else math.inf

    def _begin_hook(self, conn: Conn, hook: Action) -> None:
        conn.hook = hook
        if conn.state is State.CHECKING:
            # Nobody relies on a hook that follows another.
            conn.begun_at = -math.inf
        else:
            conn.begun_at = self.now
        conn.begun_for = []
        if conn.state is State.IN_USE:
            self._begin_rest(conn)
        conn.state = State.CHECKING

    def _begin_rest(self, conn: Conn) -> None:
        conn.idle_since, conn.asked_at = self.now, -math.inf
        conn.idle_number = next(self.rests)

    def closed(self, conn: Conn, reason: CloseReason, now: float) -> None:
        self.now = now
        self.closing.remove(conn)
        self.closed_by[reason.value] += 1
        self._forget(conn)

    def reap(self, now: float, limit: int) -> bool:
        self.now = now
        stale = [conn for conn in self.idle if self._overstayed(conn, now)]
        for conn in stale[:limit]:
            self.idle.remove(conn)
            self._close(conn, self._faults(conn, now))
        self._order_missing()
        return len(stale) >= limit

    def judge_idle(self, conns: list[Conn], now: float) -> None:
        self.now = now
        for conn in conns:
            # Who tells needs no look.
            if conn in self.idle and self._drop_if_bad(conn, now, look=not conn.tells):
                self.idle.remove(conn)
        self._order_missing()

    def refill(self, now: float) -> None:
        self.now = now
        self.refill_paused = self.ends_early = False
        self._order_missing()

    def watch(self, watcher: Waiter[int], now: float) -> None:
        self.now = self.asked_at = now
        self.watchers.append(watcher)
        self._wake_if_ready()
        self._order_missing()

    def unwatch(self, watcher: Waiter[int]) -> None:
        self.watchers = [other for other in self.watchers if other is not watcher]

    def retire(self, now: float, chosen: list[Conn], within: float) -> None:
        self.now = now
        for conn in chosen:
            conn.retired = True
        idle = [conn for conn in self.idle if conn in chosen]
        for place, conn in enumerate(idle):
            self.retired += 1
            at = now + within * (place + self.jitter) / len(idle)
            conn.retire_at = min(conn.retire_at, (at, self.retired))
        self._order_missing()

    def resize(self, max_size: float, now: float) -> None:
        self.now = now
        self.max_size = max_size
        busy = len(self.conns) - len(self.idle) - len(self.those(State.CLOSING))
        self._close_idle(CloseReason.SURPLUS, most=max(0, max_size - busy))
        self._order_missing()

    def shut(self, error: Exception) -> None:
        self.shut_error = error
        self.last_error = self.failing_since = None
        self.news += [(waiter, error) for waiter in self.waiters]
        self.waiters = []
        self._wake_watchers(error)
        self._close_idle(CloseReason.POOL_CLOSED, most=0)

    def seize(self, conn: Conn, now: float) -> None:
        self.now = now
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
        pause: bool = True,
    ) -> None:
        faults = self._faults(conn, now).union(given)
        seen = self._seen(conn) if look else set[CloseReason]()
        if self._is_answered(conn, seen) and conn.state is not State.OPENING:
            if not faults:
                self._begin_hook(conn, Action.ANSWER)
                return
            seen = set[CloseReason]()
        self._pause_if_dead(conn, seen)
        faults |= seen
        if faults:
            self._close(conn, faults)
        elif conn.unreset:
            self._begin_hook(conn, Action.RESET)
        elif self.waiters:
            waiter = self.waiters.pop(0)
            self.granted[waiter] = conn
            self.news.append((waiter, conn))
            self._grant(conn)
        else:
            # A check is no use: its idle time goes on, and it stands where it stood.
            if conn.state is not State.CHECKING:
                self._begin_rest(conn)
            conn.state = State.IDLE
            self.idle.append(conn)
            self.idle.sort(key=lambda conn: conn.idle_number)
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
        return now >= conn.idle_since + self.settings.max_idle_time

    def _seen(self, conn: Conn) -> set[CloseReason]:
        if conn.liveness is Liveness.CLOSED:
            return {CloseReason.PEER_CLOSED}
        if conn.liveness is Liveness.UNREAD and (conn.borrows > 0 or conn.spoken):
            return {CloseReason.UNREAD_DATA}
        return set()

    def _drop_if_bad(self, conn: Conn, now: float, *, look: bool = True) -> bool:
        faults, seen = self._faults(conn, now), self._seen(conn) if look else set[CloseReason]()
        # It is lent until its time has come.
        retired = CloseReason.RETIRED in faults
        faults.discard(CloseReason.RETIRED)
        if not faults and self._is_answered(conn, seen):
            if retired:
                self._close(conn, {CloseReason.RETIRED})
            else:
                self._begin_hook(conn, Action.ANSWER)
            return True
        if faults.isdisjoint({CloseReason.IDLE_TIME, CloseReason.LIFETIME}):
            self._pause_if_dead(conn, seen)
        if faults | seen:
            self._close(conn, faults | seen)
        return bool(faults | seen)

    def _is_answered(self, conn: Conn, seen: set[CloseReason]) -> bool:
        return self.settings.on_unread is not None and CloseReason.UNREAD_DATA in seen

    def _pause_if_dead(self, conn: Conn, seen: set[CloseReason]) -> None:
        """Refill no more for now if a new connection died before anybody used it."""
        if seen and not conn.borrows and self.now - conn.idle_since < 10:
            self.refill_paused = self.ends_early = True

    def _is_check_due(self, conn: Conn, now: float) -> bool:
        due = self.settings.check is not None and conn.borrows > 0
        since = max(conn.idle_since, conn.asked_at)
        return due and now >= since + self.settings.check_after

    def _close_idle(self, reason: CloseReason, *, most: float) -> None:
        while len(self.idle) > most:
            self._close(self.idle.pop(0), {reason})

    def _close(self, conn: Conn, faults: set[CloseReason]) -> None:
        conn.state = State.CLOSING
        conn.faults = faults
        self.closing.append(conn)

    def _grant(self, conn: Conn) -> None:
        conn.state = State.IN_USE
        conn.noticed = False
        self.acquired += 1
        self.reused += conn.borrows > 0
        conn.borrows += 1
        self.peak_in_use = max(self.peak_in_use, len(self.those(State.IN_USE)))

    def reset_peaks(self) -> None:
        self.peak_in_use = len(self.those(State.IN_USE))
        self.peak_waiting = len(self.waiters)

    def _forget(self, conn: Conn) -> None:
        conn.state = State.GONE
        self.conns.remove(conn)
        self._order_missing()

    def _order_missing(self) -> None:
        if self.shut_error is not None:
            return
        self.keep_time()
        while len(self.conns) < self.max_size and (self.wanted() or self.missing_idle() > 0):
            self.open_one()
        self.make_room()

    def missing_idle(self) -> int:
        """Count the idle connections that are missing and nothing is under way for."""
        opening = self.those(State.OPENING)
        if self.fails_fast() or len(opening) >= self.settings.max_connecting:
            return 0
        pausing = self.now < self.retry_at and all(self.charges[it] for it in self.watchers[-1:])
        if self.refill_paused or (self.is_retrying() and (opening or pausing)):
            return 0
        coming = len(self.those(State.OPENING, State.CHECKING)) - self.provided()
        return self.settings.min_idle - len(self.idle) - coming

    def open_one(self) -> None:
        conn = Conn()
        conn.begun_at, conn.begun_for = self.now, [*self.waiters, *self.watchers]
        conn.known_outage, self.trier = self.outage_failures, None
        conn.known_failures = None if self.now < self.retry_at else self.all_failures
        self.conns.append(conn)

    def make_room(self) -> None:
        """Have idle connections give way, and slow ones close at once, for those who need room."""
        if len(self.conns) < self.max_size:
            return
        wanted = self.wanted()
        while wanted > self.freeing() and self.idle:
            self._close(self.idle.pop(0), {CloseReason.GAVE_WAY})
        checks = sorted(
            (conn for conn in self.conns if conn.in_background), key=lambda conn: conn.begun_at
        )
        for conn in checks:
            interrupted = len([conn for conn in checks if conn.interrupted])
            slow = conn.begun_at + 0.1 <= self.now
            if slow and wanted > self.freeing() + interrupted:
                conn.interrupted = True
        useful = min(wanted, self.freeing())
        for conn in self.slow_to_close():
            if useful > 0 and useful > self.freeing() - len(self.slow_to_close()):
                conn.hurried = True

    def slow_to_close(self) -> list[Conn]:
        """Return those that have a grace to be closed in, which the machine has chosen."""
        return [
            conn
            for conn in self.closing
            if not conn.hurried and conn.entry is not None and conn.entry.close_reason.orderly
        ]

    def _wake_if_ready(self) -> None:
        if len(self.idle) >= self.settings.min_idle:
            self._wake_watchers(None)

    def _wake_watchers(self, error: Exception | None) -> None:
        self.news += [(watcher, error) for watcher in self.watchers]
        self.watchers = []
