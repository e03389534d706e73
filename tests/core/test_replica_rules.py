"""Stories of one machine with several replicas: who makes way for whom."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyconnpool._core.health import Health, Replica
from anyconnpool._core.pipeline import WORN, Place
from anyconnpool._core.states import Action, PoolEntry
from anyconnpool._settings import PoolOptions

from .machine_fakes import Pool

if TYPE_CHECKING:
    from typing_extensions import Unpack

ERROR = ConnectionRefusedError("no")


class ReplicaPool(Pool):
    """A machine with replicas named a, b, c, …, each of which rests for a second."""

    def __init__(
        self, names: str = "ab", *, in_order: bool = False, **chosen: Unpack[PoolOptions]
    ) -> None:
        super().__init__(**chosen)
        self.health = Health(lambda failures: 1.0, 1.0, in_order=in_order)
        self.all = {name: Replica(name, None, name, name) for name in names}
        self.health.update(self.all.values(), 0.0)
        self.machine.use_replicas(self.health)
        rules = self.machine.replicas
        assert rules is not None
        self.rules = rules

    def begun(self, name: str) -> PoolEntry[int]:
        """Take the next action, which must be to open a connection to a replica."""
        entry = self.ordered(Action.OPEN)
        assert entry.replica is self.all[name]
        return entry


def test_a_replica_that_owes_one_has_one_of_its_shared_connections_finish() -> None:
    """The others go on taking requests."""
    pool = ReplicaPool("a", max_size=3, pipeline=2)
    sharing = pool.machine.sharing
    assert sharing is not None
    for _ in range(3):
        place: Place[int] = Place(lambda: None, b"?")
        assert sharing.place(place, 0.0) is None
        assert pool.machine.join(place, 0.0)
        pool.open()
        pool.machine.actions.clear()
    pool.all["a"].owes = 1
    for _ in range(2):
        pool.machine.tick(0.0)
        assert [lane.openness for lane in sharing.pipeline.lanes].count(WORN) == 1


def rest(pool: ReplicaPool, name: str, *, now: float = 0.0) -> None:
    """Send a replica to rest."""
    entry: PoolEntry[int] = PoolEntry(0)
    pool.health.begin(entry, pool.all[name])
    pool.health.fail(entry, ERROR, now)


def test_one_connection_gives_way_to_one_trial() -> None:
    """The next one that comes back finds that there will be room already."""
    pool = ReplicaPool(max_size=2)
    rest(pool, "b")
    used = [pool.borrow() for _ in range(2)]
    pool.machine.tick(1.0)
    for entry in used:
        pool.machine.release(entry, 1.0, None)
    facts = pool.machine.statistics()
    assert (facts.closing, facts.idle) == (1, 1)
    assert pool.close(now=1.0) is used[0]
    assert pool.begun("b").own


def test_one_shared_connection_finishes_for_one_trial() -> None:
    """The others go on taking requests."""
    pool = ReplicaPool("abc", max_size=2, pipeline=2)
    rest(pool, "c")
    sharing = pool.machine.sharing
    assert sharing is not None
    for _ in range(2):
        assert pool.machine.join(Place(lambda: None, b"?"), 0.0)
        pool.open()
        pool.machine.actions.clear()
    for now in (1.0, 1.1):
        pool.machine.tick(now)
        assert [lane.openness for lane in sharing.pipeline.lanes].count(WORN) == 1


def test_a_repeat_takes_what_is_idle_rather_than_try_one_that_rests() -> None:
    """What has failed on it once may be good; what rests is known to be bad."""
    pool = ReplicaPool(max_size=4)
    pool.machine.release(pool.borrow(), 0.0, None)
    with pool.rules.avoiding([pool.all["a"]]):
        assert pool.rules.prefers_new()
        rest(pool, "b")
        rest(pool, "a", now=0.5)
        assert not pool.rules.prefers_new()


def test_who_waits_for_what_is_in_use_gets_no_error_of_the_pools_own_attempts() -> None:
    """Although each replica has failed since he came, he gets what comes back."""
    pool = ReplicaPool(max_size=2)
    used, other = pool.borrow(), pool.borrow()
    for name in "ab":
        rest(pool, name)
    waiter = pool.join(now=0.5)
    pool.machine.tick(1.0)
    assert pool.machine.detach(other, 1.0)
    for name in "ab":
        trial = pool.begun(name)
        assert trial.own
        assert not pool.rules.go_on(trial, ERROR, 1.0)
        pool.machine.open_failed(trial, ERROR, 1.0, None)
    assert waiter.error is None
    pool.machine.release(used, 1.0, None)
    assert waiter.entry is used


def test_while_none_is_known_nothing_has_failed() -> None:
    """The function that finds them may just take its time."""
    pool = ReplicaPool("")
    pool.join()
    pool.ordered(Action.OPEN)
    assert pool.machine.statistics(lambda: 5.0).failing_for is None


def fail_first_attempt(pool: ReplicaPool) -> list[PoolEntry[int]]:
    """Have three wait, for whom two attempts are made to the first; let one of them fail.

    :return: the other one, which goes on, and two connections to the second, both in use
    """
    for _ in range(3):
        pool.join()
    hanging, second, failing = (pool.begun(name) for name in "aba")
    assert pool.rules.go_on(failing, ERROR, 0.0)
    assert failing.replica is pool.all["b"]
    for entry in (second, failing):
        pool.machine.actions.appendleft((Action.OPEN, entry))
        pool.open()
    return [hanging, second, failing]


def test_an_attempt_that_hangs_since_before_the_rest_delays_no_trial() -> None:
    """What it would show is out of date, and it may take as long as connect_timeout."""
    pool = ReplicaPool(max_size=4)
    hanging, *_ = fail_first_attempt(pool)
    pool.machine.tick(1.0)
    trial = pool.begun("a")
    assert trial.own
    assert not pool.machine.actions
    pool.machine.lost(hanging, 2.0)
    assert not pool.machine.actions


def test_where_that_attempt_will_leave_its_slot_nothing_else_gives_way() -> None:
    """A connection that is good would be lost, and one that hangs be kept."""
    pool = ReplicaPool(max_size=3)
    hanging, second, _ = fail_first_attempt(pool)
    pool.machine.tick(1.0)
    pool.machine.release(second, 1.0, None)
    assert not pool.machine.actions
    pool.machine.lost(hanging, 2.0)
    assert pool.begun("a").own
