"""The connections of one pool, by their states, and the slots that they hold.

Slots are sockets: every connection holds one from the decision to open it until its socket is
closed, and there are ``max_size`` of them. What is to become of a connection is decided elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from typing import Any, Generic

from anyconnpool._core.background_checks import BackgroundChecks
from anyconnpool._core.idle_connections import IdleConnections
from anyconnpool._core.retirement import Retirement
from anyconnpool._core.states import IDLE, Action, PoolEntry, Slots, State, TransportT
from anyconnpool._settings import Settings
from anyconnpool._statistics import CloseReason

# The generation of what was retired by itself: no other has this number.
_RETIRED = -1


class ConnectionGroup(Generic[TransportT]):
    """Keep the connections of one pool, and count them.

    :param slots: one token for every connection
    :param settings: the pool's settings
    """

    def __init__(self, slots: Slots, settings: Settings) -> None:
        self.idle: IdleConnections[TransportT] = IdleConnections(settings.idle_order)
        #: those that are being closed and take their time for it, the longest closing first
        self.graceful: dict[PoolEntry[TransportT], None] = {}
        self.retirement: Retirement[TransportT] = Retirement()
        #: whether the pool's block has ended
        self.ended = False
        #: whether something else may speak against any of them than its age, number and use
        self.alert = False
        #: returns why one must not be lent any more for the sake of replicas, if there are any
        self.replica_fault: Callable[[PoolEntry[TransportT]], CloseReason | None] | None = None
        #: chooses what is checked in the background; None if nothing is
        self.background: BackgroundChecks[TransportT] | None = None
        #: whether nothing follows, for other connections or tasks, when an idle one is granted
        self.grants_plainly = not settings.min_idle
        #: whether nothing follows when a borrowed one becomes idle: no hook, and nobody is woken,
        #: since those who wait until enough are idle don't wait where none have to be
        self.rests_plainly = not (
            settings.min_idle or settings.on_release or settings.max_uses < math.inf
        )
        #: most that were borrowed at once
        self.peak_in_use = 0
        #: only if a borrow leaves fewer idle ones than this, it may make a new peak
        self.peak_below: float = 0
        self.size = 0
        self.max_size = settings.max_size
        #: counts the calls of ``retire()``: what was begun before the last one is out of date
        self.generation = 0
        #: how many are in the states that pass; from these follows how many are in use
        self.passing = {State.OPENING: 0, State.CHECKING: 0, State.CLOSING: 0}
        self._slots = slots

    def open(self) -> PoolEntry[TransportT]:
        """Add a connection that is to be opened; there must be room."""
        entry: PoolEntry[TransportT] = PoolEntry(self.generation)
        self._slots.acquire_on_behalf_of_nowait(entry)
        self.passing[State.OPENING] += 1
        self.size += 1
        return entry

    def move(self, entry: PoolEntry[TransportT], state: State) -> None:
        """Give a connection another state, except idle."""
        passing = self.passing
        if entry.state in passing:
            passing[entry.state] -= 1
        if state in passing:
            passing[state] += 1
        if entry.replica is not None:
            entry.replica.note_move(entry, state)
        entry.state = state

    def make_idle(self, entry: PoolEntry[TransportT], now: float) -> None:
        """Make a connection idle; after a hook, which is no use, it returns to its place."""
        if entry.state in self.passing:
            self.passing[entry.state] -= 1
        if entry.replica is not None:
            entry.replica.note_move(entry, IDLE)
        if entry.state is State.CHECKING:
            self.idle.put_back(entry)
        else:
            self.idle.begin_rest(entry, now)
            self.idle.entries.append(entry)
        entry.state = IDLE
        # The next borrow has to be counted.
        self.peak_below = math.inf

    def close(self, entry: PoolEntry[TransportT], reason: CloseReason) -> None:
        """Give a connection the state of one that is being closed."""
        entry.close_reason = reason
        entry.parts_well = reason.orderly and not (
            entry.state is State.CHECKING and entry.hook is Action.CHECK
        )
        self.move(entry, State.CLOSING)
        if self.background is not None:
            self.background.forget(entry)
        if reason.orderly:
            self.graceful[entry] = None

    def hurry(self) -> PoolEntry[TransportT]:
        """Let the one take its time no longer that has been closing longest."""
        entry = next(iter(self.graceful))
        del self.graceful[entry]
        entry.hurried = True
        return entry

    def hurry_for(self, wanted: int) -> Iterator[PoolEntry[TransportT]]:
        """Let those take their time no longer whose slots are needed, and yield them.

        :param wanted: how many connections are needed that have no slot
        """
        # What is surplus leaves no slot when it is closed.
        useful = min(wanted, self.freeing())
        while useful > 0 and self.graceful and useful > self.freeing() - len(self.graceful):
            yield self.hurry()

    def forget(self, entry: PoolEntry[TransportT]) -> None:
        """Take out a connection whose socket is closed, and free its slot."""
        self.graceful.pop(entry, None)
        self.move(entry, State.GONE)
        self._slots.release_on_behalf_of(entry)
        self.size -= 1
        self._fit_slots()

    def resize(self, max_size: float) -> None:
        """Change how many there may be."""
        self.max_size = max_size
        self._fit_slots()

    def retire(
        self,
        chosen: Collection[PoolEntry[TransportT]] | None,
        now: float,
        within: float,
        jitter: Callable[[], float],
    ) -> None:
        """Let connections not become idle again, and plan when to close those that are.

        :param chosen: which ones; None for all, also those that are being opened
        :param within: over how many seconds to spread it
        :param jitter: returns a random number from 0 to 1
        """
        if chosen is None:
            self.generation += 1
        else:
            for entry in chosen:
                entry.generation = _RETIRED
        idle = [
            entry
            for entry in self.idle.entries
            if entry.state is IDLE and (chosen is None or entry in chosen)
        ]
        self.retirement.add(idle, now, within, jitter)

    def end(self) -> None:
        """Let nothing become idle any more: the pool's block has ended."""
        self.ended = self.alert = True

    def any_open(self) -> bool:
        """Return whether any of them can be used, now or when somebody is done with it."""
        passing = self.passing
        return self.size > passing[State.OPENING] + passing[State.CLOSING]

    def under_way(self) -> int:
        """Count those that are being opened, or that a hook is at work on."""
        return self.passing[State.OPENING] + self.passing[State.CHECKING]

    def in_use(self) -> int:
        """Count those that are borrowed."""
        return self.size - len(self.idle) - self.under_way() - self.passing[State.CLOSING]

    def note_peak(self) -> None:
        """Take note of how many are borrowed, if there have never been more.

        In most pools all that were ever opened have been borrowed at once. Then no borrow makes a
        new peak until there is one more, and none has to be counted.
        """
        in_use = self.in_use()
        if in_use > self.peak_in_use:
            self.peak_in_use = in_use
        # Those in use and the idle ones together are no more than now until one becomes idle that
        # was not in use. Those in the deque that are idle no longer count on both sides.
        self.peak_below = in_use + len(self.idle.entries) - self.peak_in_use

    def reset_peak(self) -> None:
        """Begin the peak anew with what is borrowed now."""
        # Not negative: this may be called in the middle of an event, by a signal handler.
        self.peak_in_use = max(self.in_use(), 0)
        self.peak_below = math.inf

    def surplus(self) -> float:
        """Count by how many there are too many, those not counted that are being closed."""
        return self.size - self.passing[State.CLOSING] - self.max_size

    def freeing(self) -> int:
        """Count the closing ones that will leave a slot for another one."""
        return self.passing[State.CLOSING] - int(max(self.size - self.max_size, 0))

    def unfit(
        self, entry: PoolEntry[TransportT], now: float, max_uses: float
    ) -> CloseReason | None:
        """Return why a connection must not be lent any more, whatever it looks like, if so."""
        if self.ended:
            return CloseReason.POOL_CLOSED
        if entry.generation != self.generation:
            return CloseReason.RETIRED
        if entry.borrows >= max_uses:
            return CloseReason.USES
        # However short its life, a new connection serves whoever waits for it.
        if entry.borrows and now >= entry.expires_at:
            return CloseReason.LIFETIME
        if self.surplus() > 0:
            return CloseReason.SURPLUS
        return None if self.replica_fault is None else self.replica_fault(entry)

    def figures(self) -> dict[str, Any]:
        """Return how many there are, by the names that :class:`PoolStatistics` has for them."""
        # The idle ones are counted once: while another thread reads, plain borrows go on.
        idle, connecting, closing = len(self.idle), self.under_way(), self.passing[State.CLOSING]
        # Not negative: this may be asked in the middle of an event, by a signal handler.
        in_use = max(self.size - idle - connecting - closing, 0)
        return {
            "max_size": self.max_size,
            "size": idle + in_use + connecting + closing,
            "idle": idle,
            "in_use": in_use,
            "connecting": connecting,
            "in_hook": self.passing[State.CHECKING],
            "closing": closing,
            "peak_in_use": self.peak_in_use,
        }

    def _fit_slots(self) -> None:
        # After max_size was lowered, the surplus keeps its slots until it is gone.
        tokens = max(self.max_size, self.size)
        if self._slots.total_tokens != tokens:
            self._slots.total_tokens = tokens
