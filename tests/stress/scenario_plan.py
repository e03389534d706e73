"""What a scenario consists of, drawn from one seed: remotes, settings, manners, clients, ending."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import TYPE_CHECKING

from anyconnpool import Retry

from .oracle_wire import Manners

if TYPE_CHECKING:
    from anyconnpool._settings import PoolOptions

#: kinds of remotes: those of the oracle's server, one in memory, and the server by AnyIO's streams
KINDS = ("tcp", "tcp", "unix", "tls12", "tls13", "memory", "foreign", "foreign tls")
#: which kinds one manager can have; it speaks TLS to all addresses or to none
PLAIN_KINDS = ("tcp", "tcp2", "unix", "memory")
TLS_KINDS = ("tls12", "tls13")

#: what hooks do when they don't do what they are for
MISDEEDS = ("raise", "hang", "cancelled", "discard", "hang up", "return False")
#: what only a check must not do: what ``on_connect`` leaves is for the first borrower
LEAVINGS = ("leave unread", "read in part")
#: what observers do
OBSERVERS = ("", "", "raise", "look")
#: what a foreign connectable does
MOODS = ("raise", "refuse", "cancelled", "hang")
#: how the block ends: when all clients are done, or after some time by a return, an error, or a
#: cancellation by AnyIO's scope, asyncio's timeout or a native one; with "late error", the body
#: answers that with an error of its own
ENDINGS = (
    *("done", "done", "done", "done", "return", "error", "scope", "scope, late error"),
    *("native", "native twice", "native, late error", "timeout", "timeout, late error"),
)

# Its pauses don't grow: the time of a scenario is short.
_PATIENT = Retry(2, interval=0.003, max_interval=0.003)
#: a patience that lasts
LONG = 20.0


@dataclass(frozen=True)
class Scenario:
    """One pool or manager, who uses it and what befalls it; times are in seconds."""

    seed: str
    remotes: tuple[str, ...]
    settings: PoolOptions
    #: for a manager
    max_total: float | None = None
    #: what becomes of the calls of each, in turn; "" if it does what it is for
    on_connect: tuple[str, ...] = ()
    check: tuple[str, ...] = ()
    on_release: tuple[str, ...] = ()
    on_close: tuple[str, ...] = ()
    observers: tuple[str, ...] = ()
    moods: tuple[str, ...] = ("",)
    manners: Manners = field(default_factory=Manners)
    clients: int = 3
    exchanges: int = 12
    #: weights of what clients do
    acts: dict[str, int] = field(default_factory=dict[str, int])
    ending: str = "done"
    ends_after: float = 0.0
    #: how long a client waits for an exchange
    patience: float = LONG
    #: whether tasks begin to run as soon as they are made
    eager: bool = False
    #: whether statistics are read by a signal handler, by a thread
    signals: bool = False
    thread: bool = False

    @property
    def greets_clients(self) -> bool:
        """Whether the greeting is the first borrower's, not the hook's."""
        return self.manners.greets and not self.on_connect

    @property
    def one_way(self) -> bool:
        """Whether a send may be the last operation."""
        return self.settings.get("one_way", False)


def draw_scenario(seed: str, *, native: bool) -> Scenario:
    """Draw a scenario.

    :param native: whether tasks can be cancelled natively
    """
    rng = Random(seed)
    remotes, max_total = _draw_remotes(rng)
    settings = _draw_settings(rng)
    if max_total is not None:
        settings["min_idle"] = min(settings.get("min_idle", 0), int(max_total))
    on_connect, check, on_release, on_close = _draw_hooks(rng, settings)
    moods = _draw_moods(rng, MOODS, 0.3) or ("",)
    manners = _draw_manners(rng)
    if "read in part" in (*check, *on_release):
        # Of a reply whose rest is still on its way a pool can't know.
        manners = replace(manners, pieces=1)
    hooks = (*on_connect, *check, *on_release)
    hangs = "hang" in (*hooks, *moods) or "deaf" in manners.receives
    if hangs:
        # Now and then for longer than others rely on what hangs.
        limit = rng.choice([0.01, 0.01, 0.04, 0.04, 0.25])
        settings["connect_timeout"] = settings["check_timeout"] = limit
    ending = rng.choice(ENDINGS)
    return Scenario(
        seed,
        remotes,
        settings,
        max_total,
        on_connect,
        check,
        on_release,
        on_close,
        _draw_observers(rng),
        moods,
        manners,
        clients=rng.choice([1, 2, 3, 4, 8]),
        exchanges=rng.randrange(4, 24),
        acts=_draw_acts(rng, settings, manners, on_connect),
        ending=ending if native or not ending.startswith(("native", "timeout")) else "scope",
        ends_after=rng.choice([0, rng.uniform(0, 0.03)]),
        patience=_draw_patience(rng, settings) if hangs else LONG,
        eager=native and rng.random() < 0.2,
        signals=rng.random() < 0.2,
        thread=rng.random() < 0.15,
    )


def _draw_patience(rng: Random, settings: PoolOptions) -> float:
    """Draw how long clients wait where something hangs: about as long as that takes."""
    return rng.uniform(0.02, max(0.06, 1.5 * settings.get("connect_timeout", 0)))


def _draw_hooks(rng: Random, settings: PoolOptions) -> list[tuple[str, ...]]:
    """Draw what becomes of the calls of the hooks: on_connect, check, on_release, on_close."""
    on_connect = _draw_moods(rng, MISDEEDS, 0.35)
    # Of a pool that is one_way, a hook may send what it doesn't read the reply to.
    leavings = () if settings.get("one_way") else LEAVINGS
    check = _draw_moods(rng, (*MISDEEDS, *leavings), 0.3)
    if check:
        settings["check_after"] = rng.choice([0, 0, 0.003])
        settings["check_every"] = rng.choice([math.inf, 0.003])
    on_release = _draw_moods(rng, (*MISDEEDS, *leavings), 0.2)
    on_close = _draw_moods(rng, (*MISDEEDS, *leavings), 0.2)
    return [on_connect, check, on_release, on_close]


def _draw_remotes(rng: Random) -> tuple[tuple[str, ...], float | None]:
    if rng.random() < 0.7:
        return (rng.choice(KINDS),), None
    kinds = rng.choice([PLAIN_KINDS, PLAIN_KINDS, TLS_KINDS])
    return tuple(rng.sample(kinds, rng.randrange(1, len(kinds) + 1))), rng.choice([1, 2, 3, 5])


def _draw_settings(rng: Random) -> PoolOptions:
    max_size = rng.choice([1, 1, 2, 3, 4])
    settings: PoolOptions = {"max_size": max_size, "close_timeout": rng.choice([0.01, 0.1, 1])}
    choices: dict[str, Sequence[object]] = {
        "min_idle": [0, 0, 0, 1, max_size],
        "idle_order": ["lifo", "fifo"],
        "one_way": [False] * 7 + [True],
    }
    # In half of the scenarios connections live for long and go from hand to hand.
    hasty: dict[str, Sequence[object]] = {
        "max_idle_time": [600, 600, 0, 0.004, 0.02],
        "max_lifetime": [math.inf, math.inf, 0, 0.005, 0.03],
        "max_uses": [math.inf, math.inf, 1, 2, 5],
        "max_waiting": [math.inf, math.inf, math.inf, 0, 1, 3],
        "acquire_timeout": [math.inf, math.inf, math.inf, 0, 0.005],
        "connect_retry": [None, None, _PATIENT, Retry(1, interval=0)],
        "leak_after": [math.inf] * 4 + [0],
        "max_connecting": [math.inf] * 3 + [1],
        "fail_fast_after": [math.inf] * 3 + [0, 0.01],
    }
    if rng.random() < 0.5:
        choices |= hasty
    for name, values in choices.items():
        settings[name] = rng.choice(values)  # type: ignore[literal-required]
    return settings


def _draw_moods(rng: Random, misdeeds: tuple[str, ...], probability: float) -> tuple[str, ...]:
    """Draw what a hook does, call by call; nothing if there is no hook."""
    if rng.random() > probability:
        return ()
    if rng.random() < 0.5:
        return ("",)
    return tuple(rng.choice([rng.choice(misdeeds), "", ""]) for _ in range(rng.randrange(2, 7)))


def _draw_observers(rng: Random) -> tuple[str, ...]:
    return tuple(rng.choices(OBSERVERS, k=rng.choice([0, 0, 1, 2])))


def _draw_manners(rng: Random) -> Manners:
    receives: tuple[str, ...] = ("serve",)
    if rng.random() < 0.25:
        deeds = ["serve", "serve", "hang up", "reset", "deaf", "half close"]
        receives = tuple(rng.choices(deeds, k=rng.randrange(2, 6)))
    greets = rng.random() < 0.15
    away = rng.random() < 0.15
    return Manners(
        receives,
        greets,
        rng.choice([0, rng.randrange(3_000)]) if greets else 0,
        pieces=rng.choice([1, 1, 1, 2, 4]),
        news_after=rng.randrange(1, 5_000) if not greets and rng.random() < 0.2 else 0,
        away_at=rng.randrange(20_000) if away else 0,
        away_for=rng.randrange(1_000, 30_000) if away else 0,
    )


def _draw_acts(
    rng: Random, settings: PoolOptions, manners: Manners, on_connect: tuple[str, ...]
) -> dict[str, int]:
    acts = {"in block": 6, "by hand": 2, "by run": 2, "connect": 1, "nowait": 1, "use late": 1}
    acts |= {"wait ready": 1, "retire": 1, "resize": 1, "hold": 1}
    if manners.greets and not on_connect:
        return acts
    acts |= {"nothing": 1, "crowd": 1}
    if settings.get("one_way"):
        acts |= {"send": 10}
    elif not manners.news_after:
        acts |= {"by pool": 10, "give up": 4}
    # Some scenarios are of a few acts only.
    if rng.random() < 0.5:
        return acts
    kept = {name: weight for name, weight in acts.items() if rng.random() < 0.4}
    return kept or {"in block": 1}
