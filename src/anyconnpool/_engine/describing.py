"""Say in words what a pool is doing at one moment, for whoever looks into a running program.

Whoever asks may be in another thread, or in a signal handler that has interrupted the pool in the
middle of something. So the facts are copied in one step, and put into words after that. What was
sent, received or kept with a connection is not shown, and nothing leaves unescaped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

from anyconnpool._core.pipeline import Lane
from anyconnpool._core.state_machine import PoolStateMachine
from anyconnpool._core.states import Action, PoolEntry, State
from anyconnpool._engine.event_loop import HomeLoop
from anyconnpool._statistics import PoolStatistics
from anyconnpool._streams.transport import Transport
from anyconnpool._util.checks import make_printable
from anyconnpool._util.log import describe_error

# What a reader most often looks for comes first.
_ORDER = (State.IN_USE, State.OPENING, State.CHECKING, State.CLOSING, State.IDLE)
_HOOKS = {Action.CHECK: "check", Action.RESET: "on_release", Action.ANSWER: "on_unread"}


class _Connection(NamedTuple):
    """What is copied of a connection."""

    state: State
    #: since when it is in this state, in seconds on the event loop's clock; None if that isn't kept
    since: float | None
    #: what is done with it, or why
    detail: str
    #: its task, of the backend's own kind, if it is borrowed
    borrower: object
    transport: Transport | None
    opened_at: float
    borrows: int
    #: how many exchanges share it; None if none ever have
    load: int | None


def describe_pool(
    machine: PoolStateMachine[Transport],
    held: Callable[[], Iterable[PoolEntry[Transport]]],
    home: HomeLoop,
    limit: float,
) -> str:
    """Return a text of a few lines, and one for each connection and each task that waits.

    :param machine: the pool's state machine
    :param held: returns the pool's connections
    :param home: the event loop of the pool
    :param limit: most connections, and most tasks that wait, to show
    """

    def copy() -> tuple[list[_Connection], list[tuple[object, float]], Exception | None]:
        waiters = [(waiter.task, waiter.joined_at) for waiter in [*machine.line.waiters]]
        return [_copy(entry, machine) for entry in held()], waiters, machine.supply.last_error

    statistics, (connections, waiters, error) = machine.snapshot(home.now, copy)
    now = home.now()
    shown = [one for one in connections if one.state in _ORDER]
    shown.sort(key=lambda one: (_ORDER.index(one.state), one.since or 0.0))
    lines = _cut([_describe(one, now) for one in shown], limit, "connections")
    waiting = [
        f"task {_name(task)} has been waiting for {now - since:.1f} s" for task, since in waiters
    ]
    lines += _cut(waiting, limit, "tasks")
    return "\n  ".join([*_describe_figures(statistics, error), *lines])


def hook_of(entry: PoolEntry[Transport]) -> str | None:
    """Return the name of the hook that is at work on a connection, if one is."""
    if entry.state is State.CHECKING:
        return _HOOKS[entry.hook]
    return entry.running_hook if entry.state is State.OPENING else None


def _copy(entry: PoolEntry[Transport], machine: PoolStateMachine[Transport]) -> _Connection:
    state, since, detail, borrower = entry.state, None, "", None
    if state is State.IN_USE:
        since, detail, borrower = entry.acquired_at, entry.call_site, entry.borrower
    elif state is State.IDLE:
        since = entry.idle_since
    elif state is State.CLOSING:
        detail = entry.close_reason.value
    else:
        since = machine.line.begun_at(entry)
        detail = hook_of(entry) or ""
    transport = getattr(entry, "transport", None)
    lane: Lane[Transport] | None = entry.lane
    load = None if lane is None else lane.load
    opened_at, borrows = entry.opened_at, entry.borrows
    return _Connection(state, since, detail, borrower, transport, opened_at, borrows, load)


def _describe(one: _Connection, now: float) -> str:
    lasts = "" if one.since is None else f" for {now - one.since:.1f} s"
    if one.state is State.IN_USE:
        text = f"in use{lasts} by {_describe_borrower(one)}"
    elif one.state is State.IDLE:
        text = f"idle{lasts}"
    elif one.state is State.CLOSING:
        text = f"being closed: {one.detail}"
    elif one.state is State.OPENING:
        text = f"being opened{lasts}"
        return f"{text}: {one.transport}, in {one.detail}" if one.detail else text
    else:
        text = f"in {one.detail}{lasts}"
    times = "once" if one.borrows == 1 else f"{one.borrows} times"
    # An exchange that shares it is a use, and borrows nothing.
    used = "borrowed" if one.load is None else "used"
    return f"{text}: {one.transport}, open for {now - one.opened_at:.1f} s, {used} {times}"


def _describe_figures(statistics: PoolStatistics, error: Exception | None) -> list[str]:
    most = "" if statistics.max_size == math.inf else f" of {statistics.max_size}"
    lines = [
        f"pool {statistics.name!r}: connections: {statistics.size}{most} ({statistics.idle} idle, "
        f"{statistics.in_use} in use, {statistics.connecting} connecting, {statistics.closing} "
        f"closing), tasks waiting: {statistics.tasks_waiting}",
        f"peaks: {statistics.peak_in_use} in use, {statistics.peak_waiting} tasks waiting",
    ]
    if statistics.failing_for is not None and error is not None:
        reason = describe_error(error)
        lines.append(f"connecting has failed for {statistics.failing_for:.1f} s: {reason}")
    return lines


def _describe_borrower(one: _Connection) -> str:
    if one.load:
        return "one exchange" if one.load == 1 else f"{one.load} exchanges that share it"
    if one.borrower is None:
        # Woken with it, the task has not noted yet who and where it is.
        return "a task that is about to run"
    place = f" at {make_printable(one.detail)}" if one.detail else ""
    return f"task {_name(one.borrower)}{place}"


def _name(task: object) -> str:
    return make_printable(repr(HomeLoop.task_name(task)))


def _cut(lines: list[str], limit: float, what: str) -> list[str]:
    if len(lines) <= limit:
        return lines
    return [*lines[: int(limit)], f"and {len(lines) - int(limit)} {what} more"]
