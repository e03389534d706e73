"""What the machine's tests need around it: settings, slots, and a machine that can be watched."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from anyio import WouldBlock

from anyconnpool._core.hooks import Verdict
from anyconnpool._core.state_machine import PoolStateMachine
from anyconnpool._core.states import Action, PoolEntry, State, Waiter
from anyconnpool._settings import PoolOptions, Settings
from anyconnpool._util.liveness import Liveness

if TYPE_CHECKING:
    from typing_extensions import Unpack


def make_settings(**chosen: Unpack[PoolOptions]) -> Settings:
    return Settings.from_options({"name": "pool", **chosen})


async def ask(connection: object) -> None:
    """Stand for a check: tests say what it finds."""


class SetSlots:
    """Refuse what AnyIO's capacity limiter refuses; a set of borrowers is all it needs."""

    def __init__(self, total_tokens: float) -> None:
        self.total_tokens = total_tokens
        self.borrowers: set[object] = set()

    def acquire_on_behalf_of_nowait(self, borrower: object) -> None:
        if borrower in self.borrowers:
            raise RuntimeError("this borrower holds a token already")
        if len(self.borrowers) >= self.total_tokens:
            raise WouldBlock
        self.borrowers.add(borrower)

    def release_on_behalf_of(self, borrower: object) -> None:
        if borrower not in self.borrowers:
            raise RuntimeError("this borrower holds no token")
        self.borrowers.remove(borrower)


class Watched(PoolStateMachine[int]):
    """Remember every change of state, also those that last for a moment only."""

    moves: list[tuple[State, State]]

    def idle_entries(self) -> list[PoolEntry[int]]:
        """Return the entries that are idle now, those that stood longest first."""
        return [entry for entry in self._idle.entries if entry.state is State.IDLE]

    def acquire(self, now: float) -> PoolEntry[int] | None:
        known = len(self.moves)
        entry = super().acquire(now)
        if entry is not None:
            self._remember_short_way(known, (State.IDLE, State.IN_USE))
        return entry

    def release(self, entry: PoolEntry[int], now: float, reason: Verdict) -> None:
        known, before = len(self.moves), entry.state
        super().release(entry, now, reason)
        if (before, entry.state) == (State.IN_USE, State.IDLE):
            self._remember_short_way(known, (before, entry.state))

    def _remember_short_way(self, known: int, move: tuple[State, State]) -> None:
        if move not in self.moves[known:]:
            self.moves.append(move)

    def _grant(self, entry: PoolEntry[int], now: float) -> None:
        # What else is lent is moved.
        if entry.state in (State.IDLE, State.IN_USE):
            self.moves.append((entry.state, State.IN_USE))
        super()._grant(entry, now)

    def _make_idle(self, entry: PoolEntry[int], now: float) -> None:
        self.moves.append((entry.state, State.IDLE))
        super()._make_idle(entry, now)

    def watch_moves(self) -> None:
        """Remember the moves from now on."""
        self.moves = []
        group = self._group
        move = group.move

        def remember(entry: PoolEntry[int], state: State) -> None:
            self.moves.append((entry.state, state))
            move(entry, state)

        group.move = remember  # type: ignore[method-assign]


class WatchedMachine(Watched):
    def __init__(
        self,
        settings: Settings,
        slots: SetSlots,
        jitter: Callable[[], float],
    ) -> None:
        super().__init__(settings, slots, lambda: None, jitter=jitter)
        self.watch_moves()


class Pool:
    """A machine with all that surrounds it, for tests that tell a story."""

    def __init__(self, *, jitter: float = 0.0, **chosen: Unpack[PoolOptions]) -> None:
        settings = make_settings(**chosen)
        self.slots = SetSlots(settings.max_size)
        #: what a look at an entry shows, if not that it is alive
        self.shows: dict[PoolEntry[int], Liveness] = {}
        self.machine = WatchedMachine(settings, self.slots, lambda: jitter)
        self.woken: list[Waiter[int]] = []

    def join(self, *, now: float = 0.0) -> Waiter[int]:
        waiter = self.try_join(now=now)
        assert waiter is not None
        return waiter

    def try_join(self, *, now: float = 0.0) -> Waiter[int] | None:
        waiter = self.new_waiter()
        return waiter if self.machine.join(waiter, now) else None

    def new_waiter(self) -> Waiter[int]:
        waiter: Waiter[int] = Waiter(lambda: self.woken.append(waiter))
        return waiter

    def ordered(self, order: Action) -> PoolEntry[int]:
        """Take the next action, which must be of this kind."""
        given, entry = self.machine.actions.popleft()
        while given is Action.HURRY is not order:
            given, entry = self.machine.actions.popleft()
        assert given is order
        return entry

    def open(self, *, now: float = 0.0) -> PoolEntry[int]:
        entry = self.ordered(Action.OPEN)
        entry.transport = 1
        entry.look = lambda: self.shows.get(entry, Liveness.ALIVE)
        self.machine.opened(entry, now)
        return entry

    def fail(
        self, error: Exception, *, now: float = 0.0, pause: float | None = None
    ) -> PoolEntry[int]:
        """Have the next opening fail."""
        entry = self.ordered(Action.OPEN)
        self.machine.open_failed(entry, error, now, pause)
        return entry

    def close(self, *, now: float = 0.0) -> PoolEntry[int]:
        entry = self.ordered(Action.CLOSE)
        self.machine.closed(entry, now)
        return entry

    def borrow(self, *, now: float = 0.0) -> PoolEntry[int]:
        """Borrow an idle connection, or a new one."""
        entry = self.machine.acquire(now)
        if entry is None:
            waiter = self.join(now=now)
            entry = self.open(now=now)
            assert waiter.entry is entry
        return entry

    def idle(self, count: int, *, now: float = 0.0) -> list[PoolEntry[int]]:
        """Have connections idle that were borrowed once, given back in this order."""
        entries = [self.borrow(now=now) for _ in range(count)]
        for entry in entries:
            self.machine.release(entry, now, None)
        return entries
