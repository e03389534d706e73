"""What our time should be at most, in relation to each contestant's: all goals, in one table."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks import peers

# Contestants that goals are for.
OWN_PARTS = "own parts, straight-line"
PROBING_PEER = f"{peers.ACP}, probing"
FASTEST_PEER = "the fastest peer"
HELD = "held SocketStream of AnyIO"
HELD_ASYNCIO = "held streams of asyncio"
NOT_SHARED = "ours: send_receive_line, not shared"
BY_HAND = "one sender, one reader, by hand"
REDIS_PY = "redis-py, asyncio, hiredis"
COREDIS = "coredis"
NO_LIMIT = "ours, without a time limit"
ANYIO_PACKAGES = "AnyIO: receive_exactly twice"
ASYNCIO_PACKAGES = "asyncio: readexactly twice"
ANYIO_LINES = "AnyIO: receive_until"
SMALLER_PACKAGES = "ours, packages of 64 KiB"
LONGEST_STRETCH = "longest stretch of the loop"
OVER_BARE = {"tcp": "TCP: ours over a bare stream", "unix": "UNIX: ours over a bare stream"}

_ASYNCIO, _UVLOOP, _TRIO = "asyncio", "asyncio+uvloop", "trio"

#: by case and contestant: the same on every event loop, or what it is on each. Ratios of our time
#: to theirs; for a contestant that is a figure of ours, seconds or bytes.
_GOALS: dict[tuple[str, str], float | Mapping[str, float]] = {
    ("borrow", OWN_PARTS): 0.7,
    ("borrow", peers.ACP): 1.0,
    ("borrow", PROBING_PEER): 0.8,
    ("borrow", peers.CONNPOOL): 0.4,
    ("tasks-100", FASTEST_PEER): 1.2,
    ("tasks-10000", FASTEST_PEER): 1.0,
    ("exchange-tcp", HELD): {_ASYNCIO: 0.8, _UVLOOP: 0.95, _TRIO: 0.75},
    ("exchange-tcp", HELD_ASYNCIO): {_ASYNCIO: 1.45, _UVLOOP: 1.5},
    ("time-limit", NO_LIMIT): 1.2,
    # At least 0.75 and 0.65 of asyncio's exchanges a second.
    ("exchange-16", HELD_ASYNCIO): {_ASYNCIO: 1.33, _UVLOOP: 1.54},
    # At least 5, 2.8 and 2.2 times the exchanges a second; 0.45 or 0.4 of them.
    ("shared-64", HELD): {_ASYNCIO: 0.2, _UVLOOP: 0.357, _TRIO: 0.455},
    ("shared-1", NOT_SHARED): {_ASYNCIO: 2.22, _UVLOOP: 2.5, _TRIO: 2.5},
    ("bulk", BY_HAND): 2.22,
    # At least 4.5 and 4 times their commands a second.
    ("redis-64", REDIS_PY): 0.222,
    ("redis-64", f"{REDIS_PY}, 16 connections"): 0.222,
    ("redis-64", f"{REDIS_PY}, 64 connections"): 0.222,
    ("redis-64", COREDIS): 0.25,
    ("packages", ANYIO_PACKAGES): 0.08,
    ("packages", ASYNCIO_PACKAGES): 0.45,
    ("lines", ANYIO_LINES): 0.9,
    ("large-packages", SMALLER_PACKAGES): 1.5,
    ("sweep", LONGEST_STRETCH): 0.002,
    ("memory", OVER_BARE["tcp"]): 2048,
    ("memory", OVER_BARE["unix"]): 2048,
}


def goal_of(case: str, name: str, backend: str) -> float | None:
    """Return the goal for a contestant, if there is one.

    :param case: name of the case
    :param name: the contestant
    :param backend: the event loop
    """
    goal = _GOALS.get((case, name))
    return goal.get(backend) if isinstance(goal, Mapping) else goal
