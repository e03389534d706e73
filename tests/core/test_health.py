"""Which shares replicas get when more than one of them comes back."""

from __future__ import annotations

from typing import Any

from anyconnpool._core.health import Health, Replica
from anyconnpool._core.states import PoolEntry


def connect(health: Health, replica: Replica, count: int = 1, *, own: bool = False) -> None:
    """Open connections, and get a reply on each."""
    for _ in range(count):
        entry: PoolEntry[Any] = PoolEntry(0)
        health.begin(entry, replica, own=own)
        health.succeed(entry, 0.0)
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
