"""Which shares replicas get, and what a trial, a change of the replicas and other users lead to."""

from __future__ import annotations

from typing import Any

from anyconnpool._core.health import Health, Replica
from anyconnpool._core.states import PoolEntry


def connect(health: Health, replica: Replica, count: int = 1, *, own: bool = False) -> None:
    """Open connections, and get a reply on each."""
    for _ in range(count):
        entry: PoolEntry[Any] = PoolEntry(0)
        health.begin(entry, replica, own=own)
        health.succeed(entry)
        health.answer(entry, 0.0)


def fail(health: Health, replica: Replica) -> None:
    """Let an attempt to connect fail."""
    entry: PoolEntry[Any] = PoolEntry(0)
    health.begin(entry, replica)
    health.fail(entry, OSError("refused"), 0.0)


def share(health: Health, since: float) -> list[Replica]:
    """Return which replicas give connections within two seconds."""
    return [giver for tenth in range(21) for giver in health.share(since + tenth / 10)]


def test_what_came_back_first_gets_its_share_when_the_others_are_back() -> None:
    """One that has most connections serves on while it rests, and gives none away meanwhile."""
    health = Health(lambda failures: 1.0, 1.0)
    few, most = (Replica(name, None, name, name) for name in ("few", "most"))
    health.update([few, most], 0.0)
    connect(health, most, 7)
    for replica in (few, most):
        fail(health, replica)
    connect(health, few, own=True)
    assert share(health, 0.0) == []
    connect(health, most, own=True)
    assert share(health, 10.0) == [most] * 3
    assert (few.expected_size(), most.expected_size()) == (4, 5)
    assert health.next_change(20.0) > 20.0


def make(*names: str, in_order: bool = False) -> tuple[Health, list[Replica]]:
    """Return what decides about some replicas, each of which rests for a second."""
    health = Health(lambda failures: 1.0, 1.0, in_order=in_order)
    replicas = [Replica(name, None, name, name) for name in names]
    health.update(replicas, 0.0)
    assert not health.share(0.0)
    return health, replicas


def test_a_trial_that_goes_on_is_not_made_up_for() -> None:
    """However long nobody uses it: until a reply has come, one connection is enough."""
    health, [replica, _] = make("failed", "well")
    fail(health, replica)
    trial: PoolEntry[Any] = PoolEntry(0)
    health.begin(trial, replica, own=True)
    health.succeed(trial)
    for now in (1.0, 100.0, 200.0):
        assert health.lost_trials(now) == []
    health.lose(trial)
    assert health.lost_trials(300.0) == []
    assert health.lost_trials(301.0) == [replica]
    assert health.next_change(301.0) == 302.0, "as long as there is no room for it"
    # What was planned for the first loss says nothing about the next one.
    again: PoolEntry[Any] = PoolEntry(0)
    health.begin(again, replica, own=True)
    health.lose(again)
    assert health.lost_trials(400.0) == []


def test_the_newest_error_is_known_also_where_it_does_not_count() -> None:
    """It may be another one than that for which the replica rests."""
    health, [replica] = make("a")
    entries: list[PoolEntry[Any]] = [PoolEntry(0), PoolEntry(0)]
    for entry in entries:
        health.begin(entry, replica)
    errors = OSError("first"), OSError("second")
    for entry, error in zip(entries, errors, strict=True):
        health.fail(entry, error, 0.0)
    assert (replica.failures, replica.last_error) == (1, errors[1])


def test_shares_are_given_in_steps_however_short_the_rests_are() -> None:
    """Otherwise a pool would do nothing else."""
    health = Health(lambda failures: 0.001, 0.001, in_order=True)
    replicas = [Replica(name, None, name, name) for name in ("primary", "stand-by")]
    health.update(replicas, 0.0)
    connect(health, replicas[1], 4)
    health.update(replicas, 1.0)
    assert health.share(1.0) == [replicas[1]] * 2
    assert health.next_change(1.0) >= 1.1


def test_what_one_that_leaves_would_have_got_stays_where_it_is() -> None:
    """Otherwise connections would be closed for nobody."""
    health, [full] = make("full")
    connect(health, full, 6)
    new = Replica("new", None, "new", "new")
    health.update([full, new], 0.0)
    share(health, 0.0)
    assert (full.owes, new.wants) == (3, 3)
    health.update([full], 0.0)
    assert (full.owes, new.wants) == (0, 0)


def test_the_order_of_those_that_stay_may_change() -> None:
    """Of the idle connections, those to the new first one are lent first."""
    health, [first, second] = make("first", "second", in_order=True)
    assert first.rank < second.rank
    health.update([second, first], 0.0)
    assert second.rank < first.rank


def test_an_old_attempt_that_fails_late_undoes_nothing() -> None:
    """Who came after it and has seen a newer one fail has still had that replica tried."""
    health, [replica] = make("a")
    entries: list[PoolEntry[Any]] = [PoolEntry(0), PoolEntry(0)]
    for number, entry in enumerate(entries):
        entry.number = number
        health.begin(entry, replica)
    for entry in reversed(entries):
        health.fail(entry, OSError("refused"), 0.0)
    assert health.tried_since() == 1
    trial: PoolEntry[Any] = PoolEntry(0)
    health.begin(trial, replica, own=True)
    health.succeed(trial)
    assert health.tried_since() < 0, "it may serve whoever waits"


def test_without_a_pool_nobody_waits_for_the_attempts_of_others() -> None:
    """Each of them may hang, and there is no line in which to wait."""
    health, replicas = make("a", "b")
    for replica in replicas:
        fail(health, replica)
        health.begin(PoolEntry(0), replica)
    assert health.choose(alone_at=0.5) is replicas[0]
    assert health.choose([replicas[0]], alone_at=0.5) is replicas[1]
