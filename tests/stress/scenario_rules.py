"""What the state machines of all pools must never decide, whatever happens in a scenario."""

# What nobody else has any business with is what is watched here.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Callable, Collection
from itertools import takewhile
from typing import Any

import anyio
import pytest

from anyconnpool._core import health as health_module
from anyconnpool._core import replica_rules
from anyconnpool._core.health import Health, Replica
from anyconnpool._core.pipeline import OPEN, Lane, Pipeline, Place
from anyconnpool._core.sharing import Sharing
from anyconnpool._core.state_machine import PoolStateMachine
from anyconnpool._core.states import PoolEntry
from anyconnpool._core.waiting_line import WaitingLine


def _wrap(
    patch: pytest.MonkeyPatch, kind: type[Any], watches: dict[str, Callable[..., Any]]
) -> None:
    """Have methods of a class called by what watches them, which gets the method first."""

    def wrapped(original: Callable[..., Any], watch: Callable[..., Any]) -> Callable[..., Any]:
        def method(owner: Any, *args: Any, **options: Any) -> Any:
            return watch(original, owner, *args, **options)

        return method

    for name, watch in watches.items():
        patch.setattr(kind, name, wrapped(getattr(kind, name), watch))


class OrderWatch:
    """Note a fault if somebody is served before one who has waited for longer.

    A borrower may be passed by requests that share, if a connection is on its way for it. Also a
    fault is a failed connect that is told to nobody though somebody waits.

    :param patch: changes what all pools do, for as long as it lasts
    :param faults: where the faults go
    """

    def __init__(self, patch: pytest.MonkeyPatch, faults: list[str]) -> None:
        self._faults = faults
        #: who waits in each line, in the order in which they came
        self._lines: dict[object, dict[Any, None]] = {}
        machine: dict[str, Callable[..., Any]] = {
            "join": self._join,
            "abandon": self._abandon,
            "acquire": self._acquire,
            "open_failed": self._open_failed,
        }
        _wrap(patch, PoolStateMachine, machine)
        _wrap(patch, Sharing, {"give_up": self._give_up, "begin": self._share})
        _wrap(patch, Pipeline, {"add": self._add})
        _wrap(patch, WaitingLine, {"add_again": self._add_again})

    def _join(self, join: Any, machine: Any, waiter: Any, now: float) -> bool:
        line = self._lines.setdefault(machine.line, {})
        line[waiter] = None
        self._watch_wake(line, waiter)
        joined: bool = join(machine, waiter, now)
        if not joined:
            line.pop(waiter)
        return joined

    def _watch_wake(self, line: dict[Any, None], waiter: Any) -> None:
        wake = waiter.wake

        def watched_wake() -> None:
            # One that shares has left the line when it has got a place.
            if waiter in line and next(iter(line)) is not waiter:
                self._faults.append("a waiter was served before an older one")
            line.pop(waiter, None)
            wake()

        waiter.wake = watched_wake

    def _abandon(self, abandon: Any, machine: Any, waiter: Any, now: float) -> None:
        self._lines[machine.line].pop(waiter, None)
        abandon(machine, waiter, now)

    def _give_up(self, give_up: Any, sharing: Any, place: Any, now: float) -> Any:
        if place.lane is None:
            self._line_of(place).pop(place, None)
        return give_up(sharing, place, now)

    def _share(self, begin: Any, sharing: Any, entry: Any, waiter: Any) -> bool:
        if waiter.shares and next(iter(self._line_of(waiter)), waiter) is not waiter:
            self._faults.append("a request has got a connection before an older waiter")
        shared: bool = begin(sharing, entry, waiter)
        return shared

    def _add(self, add: Any, pipeline: Any, lane: Any, place: Any) -> None:
        line = self._line_of(place)
        passed = [each for each in takewhile(lambda each: each is not place, line) if each.shares]
        # Each of them may rely on a connection that is being opened.
        fresh = place.owner.sharing._line.count_fresh() if place in line else 0
        if len(passed) > fresh:
            self._faults.append("a request has got a place before an older one")
        line.pop(place, None)
        add(pipeline, lane, place)

    def _add_again(self, add_again: Any, line: Any, returning: Collection[Any]) -> None:
        add_again(line, returning)
        known = self._lines.setdefault(line, {})
        for waiter in returning:
            # It may have got its place without waiting.
            self._watch_wake(known, waiter)
        again = sorted([*known, *returning], key=lambda waiter: waiter.number)
        known.clear()
        known.update(dict.fromkeys(again))

    def _line_of(self, place: Any) -> dict[Any, None]:
        return self._lines.setdefault(place.owner.sharing._line, {})

    def _acquire(self, acquire: Any, machine: Any, now: float) -> Any:
        entry = acquire(machine, now)
        if entry is not None and self._lines.get(machine.line):
            self._faults.append("somebody has overtaken those who wait")
        return entry

    def _open_failed(
        self,
        open_failed: Any,
        machine: Any,
        entry: Any,
        error: Exception,
        now: float,
        pause: float | None,
    ) -> None:
        line = machine.line
        waiting = len(line.waiters)
        # Who relies on it in this moment; with several replicas, others may be under way.
        line.pass_time(now)
        alone = machine.replicas is None
        concerned = alone and pause is None and any(line.concerned(entry, line.waiters))
        open_failed(machine, entry, error, now, pause)
        if concerned and len(line.waiters) >= waiting:
            self._faults.append("nobody was told of a failed connect")

    def forget(self) -> None:
        """Begin anew."""
        self._lines.clear()


class SharingWatch:
    """Note a fault if a request gets a place where it must not have one, or none where it could.

    :param patch: changes what all pools do, for as long as it lasts
    :param faults: where the faults go
    """

    def __init__(self, patch: pytest.MonkeyPatch, faults: list[str]) -> None:
        self._faults = faults
        self._sharings: list[Any] = []
        _wrap(patch, Sharing, {"__init__": self._begin})
        _wrap(patch, Pipeline, {"add": self._add, "find": self._find})

    def _begin(self, begin: Any, sharing: Any, *args: Any) -> None:
        begin(sharing, *args)
        self._sharings.append(sharing)

    def _find(self, find: Any, pipeline: Any, now: float) -> Lane[Any] | None:
        lane: Lane[Any] | None = find(pipeline, now)
        if lane is not None and now >= lane.entry.expires_at:
            self._faults.append("a request was to share a connection after its lifetime")
        return lane

    def _add(self, add: Any, pipeline: Any, lane: Lane[Any], place: Any) -> None:
        entry = lane.entry
        replica: Replica | None = entry.replica
        retired = entry.generation != place.owner.sharing._group.generation
        if lane.openness is not OPEN or (retired and lane.load):
            self._faults.append("a request has got a place on a connection that is to end")
        if replica is not None and lane.load and replica.trial is entry and replica.failures:
            self._faults.append("a second request was to be answered by a replica on trial")
        add(pipeline, lane, place)
        if lane.load > pipeline._depth or entry.borrows > pipeline._max_uses:
            self._faults.append(f"{lane.load} requests on one connection, {entry.borrows} uses")

    def look(self) -> None:
        """See that nobody waits in vain, between two steps of the event loop."""
        # Where pools share a limit, what ends in one of them is room for another.
        ending = any(
            any(sharing._group.passing.values())
            or any(lane.openness is not OPEN for lane in sharing.pipeline.lanes)
            for sharing in self._sharings
        )
        for sharing in self._sharings:
            line, group = sharing._line, sharing._group
            first = next(iter(line.waiters), None)
            if first is None or group.ended:
                continue
            if isinstance(first, Place):
                if self._has_place(sharing.pipeline) and not line.count_fresh():
                    self._faults.append(f"a request waits, and there are places: {group.figures()}")
            elif sharing.pipeline.lanes and not ending:
                self._faults.append(f"nothing leaves for who waits: {group.figures()}")

    @staticmethod
    def _has_place(pipeline: Pipeline[Any]) -> bool:
        # Of some, nobody may have noticed yet that their time is over.
        now = anyio.current_time()
        return any(
            lane.openness is OPEN and lane.load < pipeline._depth and now < lane.entry.expires_at
            for lane in pipeline.lanes
        )

    def forget(self) -> None:
        """Begin anew."""
        self._sharings.clear()


class ReplicaWatch:
    """Note a fault if a replica gets a connection that it must not have.

    It also makes the steps towards equal shares shorter, as short as scenarios are.

    :param patch: changes what all pools do, for as long as it lasts
    :param faults: where the faults go
    """

    def __init__(self, patch: pytest.MonkeyPatch, faults: list[str]) -> None:
        self._faults = faults
        _wrap(patch, Health, {"begin": self._begin})
        _wrap(patch, PoolStateMachine, {"_grant": self._grant})
        _wrap(patch, Pipeline, {"add": self._add})
        patch.setattr(health_module, "_STEP", 0.003)
        patch.setattr(health_module, "_SHARING_TIME", 0.03)
        patch.setattr(replica_rules, "_GRACE", 0.01)

    def _begin(
        self, begin: Any, health: Any, entry: Any, replica: Replica, *, own: bool = False
    ) -> None:
        others = [each for each in health.replicas if each not in (replica, *entry.tried)]
        if replica.left or replica not in health.replicas:
            self._faults.append("a connection is opened to a replica that has left")
        elif replica.resting:
            if own and (replica.rests_until > anyio.current_time() or replica.fresh_attempts):
                self._faults.append("a replica is tried during its rest")
            if not own and not all(each.resting for each in others):
                self._faults.append("a replica that rests gets a connection, and others are well")
        elif replica.failures and replica.trial is not None and any(map(_is_well, others)):
            self._faults.append("a replica on trial gets a second connection")
        begin(health, entry, replica, own=own)

    def _grant(self, grant: Any, machine: Any, entry: PoolEntry[Any], now: float) -> None:
        self._check(entry)
        grant(machine, entry, now)

    def _add(self, add: Any, pipeline: Any, lane: Lane[Any], place: Any) -> None:
        self._check(lane.entry)
        add(pipeline, lane, place)

    def _check(self, entry: PoolEntry[Any]) -> None:
        replica: Replica | None = entry.replica
        if replica is not None and entry.epoch < replica.closed_below:
            left = "has left" if replica.left else "hangs"
            self._faults.append(f"a connection was lent to a replica that {left}")

    def forget(self) -> None:
        """Begin anew."""


def _is_well(replica: Replica) -> bool:
    return not replica.failures


class RuleWatch:
    """Note a fault whenever a state machine breaks a rule.

    :param patch: changes what all pools do, for as long as it lasts
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._faults: list[str] = []
        self._sharing = SharingWatch(patch, self._faults)
        self._watches = (
            OrderWatch(patch, self._faults),
            self._sharing,
            ReplicaWatch(patch, self._faults),
        )

    def look(self) -> None:
        """Look at what can be seen at any time, between two steps of the event loop."""
        self._sharing.look()

    def forget(self) -> list[str]:
        """Return the faults, and begin anew."""
        faults = [*self._faults]
        self._faults.clear()
        for watch in self._watches:
            watch.forget()
        return faults
