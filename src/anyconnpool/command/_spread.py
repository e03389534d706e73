"""How a load is spread over several servers: the requests, the connections, and who rests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence

# Not the event loop's clock: that of uvloop goes in steps of 1 ms.
from time import perf_counter  # noqa: TID251
from typing import TypeVar

from anyconnpool import ReplicaState
from anyconnpool._remote import Remote
from anyconnpool.command._reasons import EXCHANGE_ERRORS, printable, reason
from anyconnpool.command._results import Rest, Share
from anyconnpool.events import PoolEvent, ReplicaBack, ReplicaResting

T = TypeVar("T")


class Visit:
    """One request, and which server it has come to.

    :ivar remote: that server; ``None`` as long as there is no connection
    """

    __slots__ = ("remote",)

    def __init__(self) -> None:
        self.remote: Remote | None = None


class Spread:
    """Count by servers what becomes of requests, and note which servers rest.

    :param names: what the servers are called, by their remotes
    """

    def __init__(self, names: Mapping[Remote, str]) -> None:
        self._names = names
        self._states: Callable[[], Mapping[Remote, ReplicaState]] | None = None
        self._rests: dict[Remote, list[Rest]] = {remote: [] for remote in names}
        self.begin()

    def begin(self) -> None:
        """Count from now on; of the rests so far, only those that last are left."""
        self._begun_at = perf_counter()
        self._answered: Counter[Remote | None] = Counter()
        self._errors: dict[Remote | None, Counter[str]] = {}
        for rests in self._rests.values():
            rests[:] = [Rest(0.0, None, rest.error) for rest in rests if rest.ended is None]

    def watch(self, states: Callable[[], Mapping[Remote, ReplicaState]]) -> None:
        """Ask for the number of connections there.

        :param states: returns what is known of each server
        """
        self._states = states

    def observe(self, event: PoolEvent) -> None:
        """Note that a server rests or is back: an observer of the pool."""
        if isinstance(event, ReplicaResting):
            rests = self._rests[event.remote]
            # Else the rest is prolonged.
            if not rests or rests[-1].ended is not None:
                rests.append(Rest(perf_counter() - self._begun_at, None, self._why(event)))
        elif isinstance(event, ReplicaBack):
            rests = self._rests[event.remote]
            if rests and rests[-1].ended is None:
                rests[-1] = rests[-1]._replace(ended=perf_counter() - self._begun_at)

    def _why(self, event: ReplicaResting) -> str:
        # The pool's own words for what ends a new connection begin with the server's name.
        text, name = printable(str(event.error)), self._names[event.remote]
        return text.removeprefix(f"{name} ") if text.startswith(f"{name} ") else reason(event.error)

    def counting(self, ask: Callable[[Visit], Awaitable[T]]) -> Callable[[], Awaitable[T]]:
        """Return what makes a request and counts what has become of it.

        :param ask: makes it, and notes which server it has come to
        """

        async def ask_and_count() -> T:
            visit = Visit()
            try:
                answer = await ask(visit)
            except EXCHANGE_ERRORS as error:
                self._errors.setdefault(visit.remote, Counter())[reason(error)] += 1
                raise
            self._answered[visit.remote] += 1
            return answer

        return ask_and_count

    def shares(self) -> Sequence[Share]:
        """Return what has become of each server, and of the requests that have come to none."""
        states = None if self._states is None else self._states()
        shares = [
            self._share(remote, name, None if states is None else states[remote].connections)
            for remote, name in self._names.items()
        ]
        return [*shares, self._share(None, None, None)] if None in self._errors else shares

    def _share(self, remote: Remote | None, name: str | None, connections: int | None) -> Share:
        return Share(
            remote=name,
            answered=self._answered[remote],
            errors=dict(self._errors.get(remote, {})),
            connections=connections,
            rests=() if remote is None else tuple(self._rests[remote]),
        )
