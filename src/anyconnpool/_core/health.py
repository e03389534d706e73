"""Which of several replicas a connection is opened to, which rest, and which get more of a share.

The rules:

- A failure sends its replica to rest, the longer the more there were in a row. A burst counts once:
  what began before the rest says nothing new (``epoch``). During the rest, only the pool's own
  attempts count.
- When its rest is over, a replica gets one connection, its trial. Only a reply on that ends the row
  of failures; until then the replica has no other new one, as long as another replica is well. If
  the trial is lost without a failure (its borrower was cancelled, say), another makes up for it.
- While all rest, whoever asks has the one tried whose rest ends first, one attempt at a time for
  each. Such attempts go in rounds: in one round each replica is tried once, and whoever waited is
  given the error when the round is over and nothing else is under way. Whoever comes begins one.
  Something may always be under way where all hang: so, too, is whoever has waited for a failure of
  each.
- A replica that came back, or is new, takes connections over from the fullest, in small steps.

What is decided here is carried out by :mod:`anyconnpool._core.replica_rules`, for a pool, and by a
:class:`Replicas` that is used without one. Nothing here does I/O, and the time is passed in.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from operator import attrgetter
from typing import Any

from anyconnpool._core.states import IN_USE, PoolEntry, State

# A replica gets its share in steps of this length, in seconds, and the last one so long after the
# first: the promise is 2 s.
_STEP = 0.1
_SHARING_TIME = 1.5

#: in the rank of one that rests: behind all that don't
_RESTING_RANK = 1 << 32

_FEWEST = attrgetter("size", "chosen_at")
_RESTS_UNTIL = attrgetter("rests_until")
_OWES = attrgetter("owes")


class Replica:
    """One of several servers of a service, and what is known of it.

    :param remote: what was given as its remote
    :param target: what connects to it
    :param key: what is equal for two remotes only if the same is meant
    :param name: what it is called in logs and errors
    """

    __slots__ = (
        "again_at",
        "attempts",
        "chosen_at",
        "closed_below",
        "epoch",
        "failed_number",
        "failures",
        "fresh_attempts",
        "in_use",
        "is_growing",
        "key",
        "last_error",
        "left",
        "name",
        "owes",
        "rank",
        "remote",
        "resting",
        "rests_since",
        "rests_until",
        "size",
        "stale",
        "target",
        "trial",
        "wants",
    )

    def __init__(self, remote: Any, target: Any, key: Hashable, name: str) -> None:
        self.remote, self.target = remote, target
        self.key, self.name = key, name
        #: its connections, from the decision to open one until it is to be closed
        self.size = 0
        self.in_use = 0
        #: how many attempts to connect are under way, and how many of them began since its last
        #: rest did: the others say nothing new
        self.attempts = self.fresh_attempts = 0
        #: failures in a row
        self.failures = 0
        self.last_error: Exception | None = None
        #: the highest number, among waiters and attempts, of an attempt that has failed on it
        self.failed_number = -1
        self.resting = False
        #: when its rest is over, if it rests
        self.rests_until = -math.inf
        #: since when it has not been well
        self.rests_since = 0.0
        #: counts its rests: what began before the last one says nothing new
        self.epoch = 0
        #: connections of earlier epochs are to be closed when they come back, and how many are left
        self.closed_below = 0
        self.stale = 0
        #: the connection that shows whether it is well again, from the attempt on
        self.trial: PoolEntry[Any] | None = None
        #: when to make up for a trial that was lost before a reply; infinity if that isn't planned
        self.again_at = math.inf
        #: a number that grows with each choice
        self.chosen_at = 0
        #: its place in the order, that of resting ones behind all others
        self.rank = 0
        #: whether it is no longer among the replicas
        self.left = False
        #: whether it is to take connections over from the fullest
        self.is_growing = False
        #: how many connections to it are to be opened in place of others' that were closed for it
        self.wants = 0
        #: how many of its connections are to be closed when they come back
        self.owes = 0

    def __repr__(self) -> str:
        return f"<Replica {self.name}>"

    def is_well(self) -> bool:
        """Return whether nothing is known against it."""
        return not self.failures

    def is_ready(self) -> bool:
        """Return whether a new connection may be opened to it."""
        return not self.failures or not (self.resting or self.trial is not None)

    def lacks_trial(self) -> bool:
        """Return whether its rest is over, and nothing is there that would show that it is well."""
        return bool(self.failures) and not (self.resting or self.trial is not None)

    def note_move(self, entry: PoolEntry[Any], state: State) -> None:
        """Take note that one of its connections gets another state."""
        if entry.state is IN_USE:
            self.in_use -= 1
        if state is IN_USE:
            self.in_use += 1
        elif state >= State.CLOSING and entry.state is not State.CLOSING:
            self.lose(entry)

    def lose(self, entry: PoolEntry[Any]) -> None:
        """Take note that it has one connection less, whatever that was closed for."""
        self.size -= 1
        if self.owes:
            self.owes -= 1
        if entry.epoch < self.closed_below:
            self.stale -= 1
        if self.trial is entry:
            self.trial = None

    def expected_size(self) -> int:
        """Return how many connections it has when what is planned has been done."""
        return self.size + self.wants - self.owes

    def begin_epoch(self) -> None:
        """Let what was begun before now say nothing new."""
        self.epoch += 1
        self.fresh_attempts = 0

    def end_attempt(self, entry: PoolEntry[Any]) -> None:
        """Take note that an attempt to connect is over."""
        self.attempts -= 1
        if entry.epoch == self.epoch:
            self.fresh_attempts -= 1

    def close_all(self) -> None:
        """Have the connections that it has now closed, those in use when they come back."""
        self.begin_epoch()
        self.closed_below, self.stale = self.epoch, self.size


class Health:
    """Choose replicas, send them to rest, and let them come back.

    :param pause: returns how long to rest after so many failures in a row, in seconds
    :param interval: the shortest rest, in seconds
    :param in_order: whether the first that is well gets all, instead of each the same
    """

    def __init__(
        self, pause: Callable[[int], float], interval: float, *, in_order: bool = False
    ) -> None:
        #: in the order in which they were given
        self.replicas: list[Replica] = []
        #: what happened that others want to know: a replica, its error and pause if it rests, or
        #: for how long it has rested if it is back
        self.news: deque[tuple[Replica, Exception | None, float]] = deque()
        self.in_order = in_order
        self._pause = pause
        self._interval = interval
        self._choices = 0
        #: those that were tried since all rest, for those who wait now
        self._round: set[Replica] = set()
        #: when to go on with shares, and until when to be done with that
        self._share_at = self._share_until = math.inf

    def update(self, replicas: Iterable[Replica], now: float) -> list[Replica]:
        """Replace the replicas; those that stay are known by their keys, and go on as they are.

        :return: those that are gone
        """
        former = {replica.key: replica for replica in self.replicas}
        self.replicas = [former.get(replica.key, replica) for replica in replicas]
        gone = [replica for replica in former.values() if replica not in self.replicas]
        for replica in gone:
            replica.left = True
            replica.close_all()
            self._forget_plans(replica)
        for replica in self.replicas:
            if replica.key not in former:
                self._begin_share(replica, now)
        if self.in_order:
            self._share_at = now
        self._rank()
        return gone

    def begin_round(self) -> None:
        """Take note that somebody asks: for those who come now, nothing was tried yet."""
        self._round.clear()

    def choose(
        self,
        tried: Collection[Replica] = (),
        avoided: Collection[Replica] = (),
        *,
        alone_at: float | None = None,
    ) -> Replica | None:
        """Choose a replica to connect to, if there is one.

        :param tried: those that have failed in the same attempt
        :param avoided: those to be taken only if there is no other one
        :param alone_at: the time, where no pool tries those whose rest is over, and the attempts of
            others don't matter
        """
        untried = [each for each in self.replicas if each not in tried]
        ready = [each for each in untried if each.is_ready()]
        # Where none is well, the trial of one is no reason to have others wait for its end.
        ready = ready or [each for each in untried if not each.resting]
        if alone_at is not None:
            ready = [each for each in untried if each.is_ready() or each.rests_until <= alone_at]
            ready = ready or sorted(untried, key=_RESTS_UNTIL)[:1]
        if avoided:
            ready = [each for each in ready if each not in avoided] or ready
        if ready:
            return ready[0] if self.in_order else min(ready, key=_FEWEST)
        # An attempt that goes on belongs to the round that may end with it.
        if not (tried or any(each.attempts for each in self.replicas)):
            self._round.clear()
        resting = [
            each
            for each in untried
            if each.resting and not each.attempts and each not in self._round
        ]
        return min(resting, key=_RESTS_UNTIL, default=None)

    def begin(self, entry: PoolEntry[Any], replica: Replica, *, own: bool = False) -> None:
        """Take note that a connection to a replica is being opened.

        :param own: whether the pool does so by itself, because the replica's rest is over
        """
        entry.replica, entry.epoch, entry.own = replica, replica.epoch, own
        replica.size += 1
        replica.attempts += 1
        replica.fresh_attempts += 1
        self._choices += 1
        replica.chosen_at = self._choices
        replica.wants = max(replica.wants - 1, 0)
        if replica.failures and replica.trial is None:
            replica.trial, replica.again_at = entry, math.inf

    def fail(self, entry: PoolEntry[Any], error: Exception, now: float) -> None:
        """Take note that a connection could not be opened; its entry has no replica any more."""
        replica = self._end(entry)
        if replica is None:
            return
        if entry.epoch == replica.epoch and (entry.own or not replica.resting):
            self._rest(replica, error, now)
        else:
            replica.last_error = error
        if entry.number is not None:
            replica.failed_number = max(replica.failed_number, entry.number)
        self._round.add(replica)

    def lose(self, entry: PoolEntry[Any]) -> None:
        """Take note that nobody will know whether a connection could have been opened."""
        self._end(entry)

    def succeed(self, entry: PoolEntry[Any]) -> None:
        """Take note that a connection is open."""
        replica = entry.replica
        if replica is None:
            return
        replica.end_attempt(entry)
        if replica.resting and entry.epoch == replica.epoch:
            replica.resting = False
            self._rank()

    def answer(self, entry: PoolEntry[Any], now: float) -> None:
        """Take note that a reply has come on a connection."""
        replica = entry.replica
        # One of its present epoch is open: so it doesn't rest, and hasn't left.
        if replica is None or not replica.failures or entry.epoch != replica.epoch:
            return
        replica.failures, replica.last_error, replica.trial = 0, None, None
        self.news.append((replica, None, now - replica.rests_since))
        self._begin_share(replica, now)

    def break_off(
        self, entry: PoolEntry[Any], error: Exception, now: float, *, silent: bool
    ) -> bool:
        """Take note that a new connection has ended before a reply had come on it.

        :param silent: whether time has run out, so that its other connections are worth nothing
        :return: whether the replica rests for it
        """
        replica = entry.replica
        if replica is None or entry.epoch != replica.epoch:
            return False
        self._rest(replica, error, now)
        if silent:
            replica.close_all()
        return True

    def give_up(self, entry: PoolEntry[Any], now: float) -> None:
        """Let an attempt count as failed that goes on, and that others have waited for too long."""
        replica = entry.replica
        text = f"connecting to {replica.name} was given up, since others needed its slot"
        self._rest(replica, TimeoutError(text), now)

    def forget_errors(self) -> None:
        """Keep no error any more: nobody connects to the replicas for now."""
        self.news.clear()
        for replica in self.replicas:
            replica.last_error = None

    def all_rest(self) -> bool:
        """Return whether there are replicas and all of them rest."""
        return all(replica.resting for replica in self.replicas) and bool(self.replicas)

    def is_hopeless(self) -> bool:
        """Return whether nothing is well, nothing on trial and nothing under way."""
        return not any(replica.attempts or not replica.resting for replica in self.replicas)

    def tried_since(self) -> float:
        """Return the number below which each who waits has had all replicas tried in vain."""
        if not self.all_rest():
            return -math.inf
        return min(replica.failed_number for replica in self.replicas)

    def due(self, now: float) -> list[Replica]:
        """Return those whose rest is over, and to which a connection is to be opened.

        What was begun before the rest and hangs is no reason to wait.
        """
        return [
            replica
            for replica in self.replicas
            if replica.resting and replica.rests_until <= now and not replica.fresh_attempts
        ]

    def lost_trials(self, now: float) -> list[Replica]:
        """Return those whose trial was lost before a reply, each when it is time for another.

        That is so long after the loss, and again after this call, as its rest would last.
        """
        due: list[Replica] = []
        for replica in filter(Replica.lacks_trial, self.replicas):
            if replica.again_at <= now:
                due.append(replica)
            if replica.again_at <= now or replica.again_at == math.inf:
                replica.again_at = now + self._pause(replica.failures)
        return due

    def next_change(self, now: float) -> float:
        """Return when a rest will be over, or a share is to be given; past rests wait for room."""
        times = [self._share_at]
        for each in self.replicas:
            if each.resting and each.rests_until > now:
                times.append(each.rests_until)
            elif each.lacks_trial():
                times.append(each.again_at)
        return min(times)

    def share(self, now: float) -> list[Replica]:
        """Return which replicas give a connection now, each as often as it gives one.

        What is given is planned by then: in :attr:`Replica.wants` of those that get some.
        """
        if now < self._share_at:
            return []
        givers = self._give_back() if self.in_order else self._even_out(now)
        more = self._has_later() if self.in_order else any(map(_IS_GROWING, self.replicas))
        step = max(self._interval, _STEP) if self.in_order else _STEP
        self._share_at = now + step if more else math.inf
        return givers

    def _end(self, entry: PoolEntry[Any]) -> Replica | None:
        """Take note that an attempt is over, and has led to nothing."""
        replica: Replica | None
        replica, entry.replica = entry.replica, None
        if replica is not None:
            replica.end_attempt(entry)
            replica.lose(entry)
        return replica

    def _rest(self, replica: Replica, error: Exception, now: float) -> None:
        """Send a replica to rest, or prolong its rest."""
        if replica.left:
            return
        if not replica.failures:
            replica.rests_since = now
        replica.failures += 1
        replica.begin_epoch()
        replica.last_error = error
        replica.resting = True
        pause = self._pause(replica.failures)
        replica.rests_until = now + pause
        replica.trial = None
        self._forget_plans(replica)
        self._rank()
        self.news.append((replica, error, pause))

    def _forget_plans(self, replica: Replica) -> None:
        """Plan nothing for a replica any more; others keep what they would have given to it."""
        spared = replica.wants
        replica.is_growing = False
        replica.wants = replica.owes = 0
        if self.in_order:
            later = self._later()
            for each in self.replicas:
                if each not in later:
                    each.owes = 0
            return
        for _ in range(spared):
            giver = max(self.replicas, key=_OWES, default=replica)
            giver.owes = max(giver.owes - 1, 0)

    def _rank(self) -> None:
        for place, replica in enumerate(self.replicas):
            replica.rank = place + _RESTING_RANK * replica.resting

    def _begin_share(self, replica: Replica, now: float) -> None:
        """Let a replica have its share from now on; in order, that follows from its place."""
        self._share_at = now
        if not self.in_order:
            replica.is_growing = True
            for each in self.replicas:
                # One that came back while this one rested could take nothing over from it.
                each.is_growing |= each.is_well()
            self._share_until = now + _SHARING_TIME

    def _even_out(self, now: float) -> list[Replica]:
        """Plan a step towards equal numbers of connections."""
        members = [replica for replica in self.replicas if replica.is_well()]
        steps = max(math.ceil((self._share_until - now) / _STEP), 1)
        givers: list[Replica] = []
        for replica in members:
            if not replica.is_growing:
                continue
            fair = sum(each.expected_size() for each in members) // len(members)
            missing = fair - replica.expected_size()
            for _ in range(math.ceil(missing / steps)):
                fullest = max(members, key=Replica.expected_size)
                replica.wants += 1
                fullest.owes += 1
                givers.append(fullest)
            replica.is_growing = fair > replica.expected_size()
        return givers

    def _give_back(self) -> list[Replica]:
        """Plan to close half of the connections that belong to the first one that is well."""
        givers: list[Replica] = []
        later = self._later()
        # What is still owed from the last time is part of it: it may all come back at once.
        half = math.ceil(sum(each.size for each in later) / 2)
        for _ in range(half - sum(each.owes for each in later)):
            giver = next(each for each in reversed(later) if each.expected_size() > 0)
            giver.owes += 1
            givers.append(giver)
        return givers

    def _later(self) -> Sequence[Replica]:
        """Return those behind the first one that is well."""
        for place, replica in enumerate(self.replicas):
            if replica.is_well():
                return self.replicas[place + 1 :]
        return ()

    def _has_later(self) -> bool:
        return any(each.expected_size() > 0 for each in self._later())


_IS_GROWING = attrgetter("is_growing")
