"""What a running pool does for its replicas: find them, note how borrows end, log and notify."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

from anyio import ConnectionFailed

from anyconnpool._core.health import Health, Replica
from anyconnpool._core.pipeline import Lane, Place
from anyconnpool._core.replica_rules import ReplicaRules
from anyconnpool._core.sharing import Sharing
from anyconnpool._core.state_machine import PoolStateMachine
from anyconnpool._core.states import PoolEntry, Waiter
from anyconnpool._engine.discovery import Discovery
from anyconnpool._engine.event_loop import HomeLoop
from anyconnpool._settings import Settings
from anyconnpool._streams.transport import Transport
from anyconnpool._util.errors import is_hang_up
from anyconnpool._util.log import GuardedLogger, OutageLog
from anyconnpool.events import ReplicaBack, ReplicaResting, notify

_logger = GuardedLogger("anyconnpool.pool")


class ReplicaSource(Protocol):
    """Where a pool has its replicas from: the part of a ``Replicas`` that the engine knows."""

    @property
    def find(self) -> Callable[[], Awaitable[Sequence[Replica]]] | None:
        """Finds the replicas; None if they were given."""

    @property
    def refresh(self) -> float:
        """How often to find them, in seconds."""
        ...

    def states(self) -> Mapping[Any, Any]:
        """Return what is known of each replica, by its remote, from any thread."""
        ...

    def begin(
        self, update: Callable[[Sequence[Replica]], object], is_lost: Callable[[], bool]
    ) -> Health:
        """Belong to a pool from now on, and return what decides about its replicas.

        :param update: takes other replicas than those
        :param is_lost: returns whether the pool can't run any more, although it has not ended
        :raises RuntimeError: if it belongs to another pool
        """
        ...

    def end(self) -> None:
        """Belong to no pool any more."""


class RunningReplicas:
    """Let a running pool have several replicas.

    :param source: where it has them from
    :param settings: the pool's settings
    :param machine: the pool's machine
    :param home: the event loop of the pool
    :raises RuntimeError: if the source belongs to another pool
    """

    def __init__(
        self,
        source: ReplicaSource,
        settings: Settings,
        machine: PoolStateMachine[Transport],
        home: HomeLoop,
    ) -> None:
        self._source, self._machine, self._home = source, machine, home
        health = source.begin(self.update, home.is_lost)
        machine.use_replicas(health)
        #: finds them, if they were not given
        self.discovery: Discovery | None = None
        if source.find is not None:
            self.discovery = Discovery(
                source.find, source.refresh, settings, home.now, health, self.update
            )

    def update(self, replicas: Sequence[Replica]) -> None:
        """Replace the replicas.

        :raises PoolError: in another event loop or thread
        """
        self._home.check()
        if self._machine.replicas is not None:
            self._machine.replicas.update(replicas, self._home.now())

    def end(self) -> None:
        """Let the source belong to no pool any more."""
        self._source.end()


class ReplicaNews:
    """Log and notify that replicas rest, and that they are back.

    :param settings: the pool's settings
    :param now: returns the time, in seconds
    """

    def __init__(self, settings: Settings, now: Callable[[], float]) -> None:
        self._settings = settings
        self._now = now
        self._logs: dict[Replica, OutageLog] = {}

    def report(self, health: Health) -> bool:
        """Log and notify what is new, in a task of the pool; return whether one has begun to rest.

        An observer may end the program: what it was to be notified of is off the list by then.
        """
        rests = False
        name, observers = self._settings.name, self._settings.observers
        while health.news:
            replica, error, seconds = health.news.popleft()
            log = self._logs.get(replica)
            if log is None:
                log = self._logs[replica] = OutageLog(_logger, name, f"replica {replica.name}")
            if error is None:
                log.succeeded(self._now())
                notify(observers, ReplicaBack(name, replica.remote, seconds))
            else:
                rests = True
                log.failed(error, self._now())
                notify(observers, ReplicaResting(name, replica.remote, error, seconds))
        known = health.replicas
        if len(self._logs) > len(known):
            self._logs = {each: log for each, log in self._logs.items() if each in known}
        return rests


def note_failure(
    replicas: ReplicaRules[Transport] | None,
    entry: PoolEntry[Transport],
    error: BaseException | None,
    now: float,
) -> None:
    """Take note that a borrow has failed before the first byte of a reply had come.

    On a reused connection that says nothing, nor does a cancellation.

    :param error: what the borrower has got
    """
    if error is not None and entry.borrows == 1:
        break_off(replicas, entry, error, now)


def break_off(
    replicas: ReplicaRules[Transport] | None,
    entry: PoolEntry[Transport],
    error: BaseException,
    now: float,
) -> None:
    """Take note that the first use of a connection has failed before a reply had come.

    :param error: what whoever used it has got
    """
    if replicas is None or entry.replica is None:
        return
    # The error itself would keep all that its traceback leads to.
    if isinstance(error, TimeoutError):
        failure = ConnectionFailed(f"{entry.replica.name} did not answer in time")
        replicas.break_off(entry, failure, now, True)
    elif is_hang_up(error):
        failure = ConnectionFailed(
            f"{entry.replica.name} ended a new connection before it had answered: "
            f"{type(error).__name__}"
        )
        replicas.break_off(entry, failure, now, False)


def note_answer(
    replicas: ReplicaRules[Transport] | None, entry: PoolEntry[Any], now: float
) -> None:
    """Take note that a reply has come, if the replica has failed before."""
    if replicas is not None and entry.replica is not None and entry.replica.failures:
        replicas.answer(entry, now)


def acquire_elsewhere(
    machine: PoolStateMachine[Transport], avoided: Collection[Replica], now: float
) -> PoolEntry[Transport] | None:
    """Acquire an idle connection to another replica than some, or any if there is no other one.

    :return: None if there is none, or if one is to be opened to another replica instead
    """
    replicas = machine.replicas
    if replicas is None:
        return machine.acquire(now)
    with replicas.avoiding(avoided):
        return None if replicas.prefers_new() else machine.acquire(now)


def place_elsewhere(
    machine: PoolStateMachine[Transport],
    sharing: Sharing[Transport],
    place: Place[Transport],
    avoided: Collection[Replica],
    now: float,
) -> Lane[Transport] | None:
    """Give a request a place at another replica than some, or anywhere if there is no other one.

    :return: where its place is; None if it has to join the line
    """
    replicas = machine.replicas
    if replicas is None:
        return sharing.place(place, now)
    with replicas.avoiding(avoided):
        if replicas.prefers_new():
            return None
        if replicas.idles_elsewhere():
            return sharing.place(place, now)
        return sharing.place_elsewhere(place, avoided, now) or sharing.place(place, now)


def join(
    machine: PoolStateMachine[Transport],
    waiter: Waiter[Transport],
    avoided: Collection[Replica],
    now: float,
) -> bool:
    """Put a task in line; what is opened for it at once is opened to another replica than some.

    :return: false if too many are waiting already
    """
    replicas = machine.replicas
    if replicas is None or not avoided:
        return machine.join(waiter, now)
    with replicas.avoiding(avoided):
        return machine.join(waiter, now)
