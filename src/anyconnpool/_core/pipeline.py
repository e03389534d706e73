"""Who has a place on which shared connection, in which order, and which connection is next.

A shared connection carries many exchanges at once: their requests leave in the order in which they
got their places, and reply number n belongs to request number n. The rules:

- A request goes to the connection with the fewest in flight, and on one connection there are at
  most ``pipeline``. It shares only while nothing is idle and there is no room for a connection of
  its own: that is for the state machine to find out.
- What was not sent yet can be taken out, or go to another connection. What was sent keeps its place
  until its reply was read, whether or not anybody still waits for that: one that was abandoned is
  in flight, too.
- A connection that *leaves* takes no new requests, since somebody waits for a connection of his
  own. It may be opened to requests again. One that is *worn* never is: it was retired, is too old,
  was used often enough, or has failed.
- If replies are owed, or the peer doesn't take what is being sent, and nothing has been heard for
  ``stall_timeout``, a connection has stalled.

Nothing here knows who waits; see ``PoolStateMachine.settle`` for that.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Callable, Collection
from enum import Enum, auto
from operator import attrgetter
from typing import Any, ClassVar, Generic

from anyconnpool._core.health import Replica
from anyconnpool._core.states import PoolEntry, TransportT, Waiter
from anyconnpool._settings import Settings

#: most bytes of requests that are sent at once, unless one request alone has more
BATCH_BYTES = 262_144
# So often a request may find a dead connection before that counts as its failure.
_MOST_MOVES = 100


class Openness(Enum):
    """Whether a shared connection takes new requests."""

    OPEN = auto()
    #: not now: somebody waits for it
    LEAVING = auto()
    #: never again
    WORN = auto()


OPEN = Openness.OPEN
LEAVING = Openness.LEAVING
WORN = Openness.WORN


class Place(Waiter[TransportT]):
    """A request that is in flight on a shared connection, or waits for a place on one.

    :param wake: wakes the task that waits for the reply; must not call the state machine
    :param request: what is to be sent
    """

    __slots__ = ("abandoned", "floor", "lane", "moves", "request", "sent")

    shares: ClassVar[bool] = True

    def __init__(self, wake: Callable[[], object], request: bytes) -> None:
        super().__init__(wake)
        self.request = request
        #: where it is in flight; None while it waits in line, and afterwards
        self.lane: Lane[TransportT] | None = None
        #: whether the operating system may have got a part of it
        self.sent = False
        #: whether nobody waits for its reply any more
        self.abandoned = False
        #: how many bytes had been received on its connection when it was sent: none of them can be
        #: its reply's
        self.floor = 0
        #: how many connections were lost under it before it was sent
        self.moves = 0

    def wait_again(self) -> None:
        """Take note that it has lost its place, and waits for another one from now on."""


class Lane(Generic[TransportT]):
    """A connection with the requests that share it, while there are any.

    :param entry: the connection
    """

    __slots__ = (
        "abandoned",
        "entry",
        "heard_at",
        "is_blocked",
        "is_mute",
        "is_shared",
        "load",
        "openness",
        "owed",
        "reused",
        "tasks",
        "unsent",
    )

    def __init__(self, entry: PoolEntry[TransportT]) -> None:
        self.entry = entry
        #: requests of which nothing was sent, in order
        self.unsent: dict[Place[TransportT], None] = {}
        #: requests whose replies have not been read, in order
        self.owed: deque[Place[TransportT]] = deque()
        #: how many are in flight
        self.load = 0
        #: how many of those that are owed were abandoned
        self.abandoned = 0
        self.openness = OPEN
        #: whether requests are in flight on it, or about to be
        self.is_shared = False
        #: whether the peer doesn't take what is being sent, if only for now
        self.is_blocked = False
        #: whether it may hang with its replica: nothing came in the time of one that was sent
        self.is_mute = False
        #: whether it had been used before, when it ended with requests in flight
        self.reused = False
        #: when the last byte came, or the first request was sent after which none has come
        self.heard_at = -math.inf
        #: the tasks that write and read, which are the shell's
        self.tasks: Any = None

    def stop(self) -> None:
        """End the tasks, if there are any: the connection is not the pool's any more."""
        tasks, self.tasks = self.tasks, None
        # Nothing is left that leads from one to the other and back.
        self.entry.lane = None
        if tasks is not None:
            tasks.stop()


class Pipeline(Generic[TransportT]):
    """Give requests places on the shared connections of one pool.

    :param settings: the pool's settings
    """

    def __init__(self, settings: Settings) -> None:
        #: how many requests have a place
        self.in_flight = 0
        #: the connections that are shared now
        self.lanes: dict[Lane[TransportT], None] = {}
        #: those that leave; the one that has done so longest comes first
        self.leaving: dict[Lane[TransportT], None] = {}
        #: how many are worn
        self.worn = 0
        self._depth, self._max_uses = settings.pipeline, settings.max_uses
        self._stall_timeout = settings.stall_timeout
        #: the open ones, by how many are in flight on them
        self._open: defaultdict[int, dict[Lane[TransportT], None]] = defaultdict(dict)
        #: none of the open ones has fewer in flight
        self._least = 0
        self._open_count = 0

    def begin(self, entry: PoolEntry[TransportT], place: Place[TransportT]) -> Lane[TransportT]:
        """Share a connection that was granted for a request, which gets the first place."""
        lane: Lane[TransportT] | None = entry.lane
        if lane is None:
            lane = entry.lane = Lane(entry)
        lane.is_shared, lane.is_mute, lane.openness = True, False, OPEN
        self.lanes[lane] = None
        self._open[0][lane] = None
        self._open_count += 1
        self._least = 0
        # The grant was the first use.
        entry.borrows -= 1
        self.add(lane, place)
        return lane

    def find(self, now: float) -> Lane[TransportT] | None:
        """Return the open connection with the fewest in flight, if a request may go there."""
        while self._open_count:
            of_least = self._open[self._least]
            lane = next(iter(of_least)) if of_least else self._first()
            if now < lane.entry.expires_at:
                return lane if lane.load < self._depth else None
            self.wear_out(lane)
        return None

    def find_elsewhere(self, avoided: Collection[Replica], now: float) -> Lane[TransportT] | None:
        """Return the open connection to another replica than some with the fewest in flight."""
        open_ones = (
            lane
            for lane in self.lanes
            if lane.openness is OPEN
            and lane.load < self._depth
            and now < lane.entry.expires_at
            and lane.entry.replica not in avoided
        )
        return min(open_ones, key=attrgetter("load"), default=None)

    def least_loaded(self) -> Lane[TransportT] | None:
        """Return the open connection with the fewest in flight, if any is open."""
        return self._first() if self._open_count else None

    def _first(self) -> Lane[TransportT]:
        by_load, least = self._open, self._least
        while not by_load[least]:
            least += 1
        self._least = least
        return next(iter(by_load[least]))

    def add(self, lane: Lane[TransportT], place: Place[TransportT]) -> None:
        """Give a request the last place on an open connection: a use of it."""
        load, entry = lane.load, lane.entry
        del self._open[load][lane]
        load += 1
        self._open[load][lane] = None
        lane.load = load
        if load - 1 == self._least and not self._open[self._least]:
            # It was the last one with the fewest.
            self._least = load
        lane.unsent[place] = None
        place.lane = lane
        self.in_flight += 1
        entry.borrows += 1
        if entry.borrows >= self._max_uses:
            self.wear_out(lane)

    def take_batch(
        self, lane: Lane[TransportT], received: int, now: float
    ) -> list[Place[TransportT]]:
        """Take the requests that are to be sent now, which are owed replies from now on.

        :param received: how many bytes have been received on the connection
        """
        unsent, owed = lane.unsent, lane.owed
        if not owed:
            lane.heard_at = now
        batch: list[Place[TransportT]] = []
        size = 0
        for place in unsent:
            size += len(place.request)
            if size > BATCH_BYTES and batch:
                break
            place.sent = True
            place.floor = received
            batch.append(place)
        if len(batch) == len(unsent):
            unsent.clear()
        else:
            for place in batch:
                del unsent[place]
        owed.extend(batch)
        return batch

    def finish(self, lane: Lane[TransportT], count: int, abandoned: int = 0) -> None:
        """Take note that the replies of some requests were read; they have left ``owed``.

        :param abandoned: how many of them nobody waited for
        """
        self._set_load(lane, lane.load - count)
        lane.abandoned -= abandoned

    def withdraw(self, place: Place[TransportT]) -> None:
        """Take out a request of which nothing was sent."""
        lane = place.lane
        assert lane is not None
        del lane.unsent[place]
        place.lane = None
        lane.entry.borrows -= 1
        self._set_load(lane, lane.load - 1)

    def take_unsent(self, lane: Lane[TransportT]) -> list[Place[TransportT]]:
        """Take out the requests of which nothing was sent, except those moved too often."""
        unsent = [place for place in lane.unsent if place.moves < _MOST_MOVES]
        for place in unsent:
            place.moves += 1
            self.withdraw(place)
            place.wait_again()
        return unsent

    def abandon(self, place: Place[TransportT]) -> None:
        """Take note that nobody waits for a reply that is owed."""
        lane = place.lane
        if lane is not None and not place.abandoned:
            place.abandoned = True
            lane.abandoned += 1

    def _set_load(self, lane: Lane[TransportT], load: int) -> None:
        if lane.openness is OPEN:
            del self._open[lane.load][lane]
            self._open[load][lane] = None
            self._least = min(self._least, load)
        self.in_flight -= lane.load - load
        lane.load = load

    def leave(self, lane: Lane[TransportT]) -> None:
        """Let an open connection take no new requests for now."""
        self._close_to_requests(lane, LEAVING)
        self.leaving[lane] = None

    def reopen(self, lane: Lane[TransportT]) -> None:
        """Let one take requests again that leaves."""
        del self.leaving[lane]
        lane.openness = OPEN
        self._open[lane.load][lane] = None
        self._open_count += 1
        self._least = min(self._least, lane.load)

    def wear_out(self, lane: Lane[TransportT]) -> None:
        """Let a connection never take new requests again."""
        if lane.openness is OPEN:
            self._close_to_requests(lane, WORN)
        elif lane.openness is LEAVING:
            del self.leaving[lane]
        else:
            return
        lane.openness = WORN
        self.worn += 1

    def _close_to_requests(self, lane: Lane[TransportT], openness: Openness) -> None:
        del self._open[lane.load][lane]
        self._open_count -= 1
        lane.openness = openness

    def wear_out_retired(self, generation: int) -> None:
        """Let those take no new requests that ``retire()`` has chosen.

        :param generation: of those that are not retired
        """
        for lane in self.lanes:
            if lane.entry.generation != generation:
                self.wear_out(lane)

    def wear_out_all(self) -> None:
        """Let none take new requests: the pool's block ends."""
        for lane in self.lanes:
            self.wear_out(lane)

    def end(self, lane: Lane[TransportT]) -> None:
        """Take note that a connection is not shared any more, whatever is in flight on it."""
        if lane.openness is OPEN:
            self._close_to_requests(lane, WORN)
        elif lane.openness is LEAVING:
            del self.leaving[lane]
        else:
            self.worn -= 1
        lane.openness = WORN
        del self.lanes[lane]
        lane.is_shared = False
        self.in_flight -= lane.load
        lane.load = lane.abandoned = 0

    def dissolve(
        self, lane: Lane[TransportT]
    ) -> tuple[list[Place[TransportT]], list[Place[TransportT]]]:
        """End a connection that has failed, in the middle of exchanges.

        If nothing was ever sent on it, and so it came to nothing, that is the failure of the
        request for which it was opened, which is owed a reply then.

        :return: the requests that were owed a reply, and those of which nothing was sent
        """
        owed, unsent = [*lane.owed], [*lane.unsent]
        lane.reused = lane.entry.borrows > lane.load
        if unsent and not owed and not lane.reused:
            first = unsent.pop(0)
            owed.append(first)
            del lane.unsent[first]
        moved = self.take_unsent(lane)
        owed += [place for place in unsent if place in lane.unsent]
        for place in owed:
            place.lane = None
        lane.owed.clear()
        lane.unsent.clear()
        self.end(lane)
        return owed, moved

    def is_abandoned(self, lane: Lane[TransportT]) -> bool:
        """Return whether nobody waits for anything that is in flight on a connection."""
        return lane.abandoned == lane.load

    def stalled(self, now: float) -> list[Lane[TransportT]]:
        """Return the connections that owe something and of which nothing was heard for too long."""
        # The sum that next_stall() returns: the difference of the two others may be rounded to
        # something later than it, and the alarm would ring for nothing again and again.
        timeout = self._stall_timeout
        return [lane for lane in self._owing() if lane.heard_at + timeout <= now]

    def next_stall(self) -> float:
        """Return when the next connection will have stalled, if nothing is heard of it."""
        heard = [lane.heard_at for lane in self._owing()]
        return min(heard, default=math.inf) + self._stall_timeout

    def _owing(self) -> list[Lane[TransportT]]:
        # A peer may answer what it doesn't take as a whole: then it owes that, and no reply.
        return [lane for lane in self.lanes if lane.owed or lane.is_blocked]
