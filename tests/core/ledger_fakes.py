"""What the ledger's tests need around it: settings, slots, and a ledger that can be watched."""

from __future__ import annotations

import math
from collections.abc import Callable

from anyio import WouldBlock

from anyconnpool._entry import Entry, Liveness, State
from anyconnpool._ledger import Ledger
from anyconnpool._package import PackageFormat
from anyconnpool._settings import IdleOrder, Settings


def make_settings(
    *,
    max_size: float = 10,
    min_idle: int = 0,
    max_idle_time: float = 600,
    max_lifetime: float = math.inf,
    max_waiting: float = math.inf,
    idle_order: IdleOrder = "lifo",
) -> Settings:
    return Settings(
        name="pool",
        max_size=max_size,
        min_idle=min_idle,
        max_idle_time=max_idle_time,
        max_lifetime=max_lifetime,
        max_waiting=max_waiting,
        acquire_timeout=math.inf,
        connect_timeout=30,
        close_timeout=5,
        idle_order=idle_order,
        one_way=False,
        package_format=PackageFormat(),
        max_line_bytes=65_536,
    )


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


class WatchedLedger(Ledger[int]):
    """Remember every change of state, also those that last for a moment only."""

    def __init__(
        self,
        settings: Settings,
        slots: SetSlots,
        inspect: Callable[[Entry[int]], Liveness],
        jitter: Callable[[], float],
    ) -> None:
        super().__init__(settings, slots, inspect, jitter=jitter)
        self.moves: list[tuple[State, State]] = []

    def _move(self, entry: Entry[int], state: State) -> None:
        self.moves.append((entry.state, state))
        super()._move(entry, state)
