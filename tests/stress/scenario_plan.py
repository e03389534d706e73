"""What a scenario consists of, drawn from one seed: remotes, settings, manners, clients, ending."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from random import Random
from typing import TYPE_CHECKING, Literal

from anyconnpool import Retry

from .oracle_wire import Manners
from .scenario_reading import LASTING, READINGS, HarmlessError

if TYPE_CHECKING:
    from anyconnpool._settings import PoolOptions

#: kinds of remotes: those of the oracle's server, one in memory, and the server by AnyIO's streams
KINDS = ("tcp", "tcp", "unix", "tls12", "tls13", "memory", "foreign", "foreign tls")
#: which kinds one manager can have; it speaks TLS to all addresses or to none
PLAIN_KINDS = ("tcp", "tcp2", "unix", "memory")
TLS_KINDS = ("tls12", "tls13")
#: of which several may stand in for one; those in memory are servers of their own
REPLICA_KINDS = ("foreign", "tcp2", "tcp3", "unix", "memory", "memory")

#: what hooks do when they don't do what they are for
MISDEEDS = ("raise", "hang", "cancelled", "discard", "hang up", "return False")
#: what only a check must not do: what ``on_connect`` leaves is for the first borrower
LEAVINGS = ("leave unread", "read in part")
#: what a function does that finds replicas
FINDINGS = ("raise", "hang", "cancelled", "nothing", "twice", "all", "all")
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

#: acts for which nobody has a connection of his own
SHARING_ACTS = frozenset(
    ["by pool", "exchange", "bulk", "surplus", "give up", "retire", "resize", "set"]
)

# Its pauses don't grow: the time of a scenario is short.
_PATIENT = Retry(2, interval=0.003, max_interval=0.003)
#: a patience that lasts
LONG = 20.0


@dataclass(frozen=True)
class ServerPlan:
    """One server, and how it behaves."""

    kind: str
    manners: Manners
    #: what its connectable does, call by call, if it needs one
    moods: tuple[str, ...] = ("",)


@dataclass(frozen=True)
class ReplicasPlan:
    """How several servers stand in for one; times are in seconds."""

    order: Literal["balanced", "in_order"]
    #: the shortest rest, and the longest
    rest: tuple[float, float]
    #: what a function does that finds them, call by call; they are given if there is none
    findings: tuple[str, ...] = ()
    refresh: float = math.inf


@dataclass(frozen=True)
class RemotePlan:
    """One remote: a server, or replicas."""

    servers: tuple[ServerPlan, ...]
    replicas: ReplicasPlan | None = None


@dataclass(frozen=True)
class Scenario:
    """One pool or manager, who uses it and what befalls it; times are in seconds."""

    seed: str
    remotes: tuple[RemotePlan, ...]
    settings: PoolOptions
    #: for a manager
    max_total: float | None = None
    #: what becomes of the calls of each, in turn; "" if it does what it is for
    on_connect: tuple[str, ...] = ()
    check: tuple[str, ...] = ()
    on_release: tuple[str, ...] = ()
    on_close: tuple[str, ...] = ()
    observers: tuple[str, ...] = ()
    #: those of all servers, as far as these don't differ
    manners: Manners = field(default_factory=Manners)
    #: what functions do that read replies
    readings: tuple[str, ...] = ("",)
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
    def uses_tls(self) -> bool:
        """Whether the pool or manager speaks TLS."""
        return self.remotes[0].servers[0].kind.startswith("tls")

    @property
    def one_way(self) -> bool:
        """Whether a send may be the last operation."""
        return self.settings.get("one_way", False)


def draw_scenario(seed: str, *, native: bool) -> Scenario:
    """Draw a scenario.

    :param native: whether tasks can be cancelled natively
    """
    rng = Random(seed)
    kinds, max_total = _draw_kinds(rng)
    settings = _draw_settings(rng)
    if max_total is not None:
        settings["min_idle"] = min(settings.get("min_idle", 0), int(max_total))
    on_connect, check, on_release, on_close = _draw_hooks(rng, settings)
    manners = _draw_manners(rng)
    if "read in part" in (*check, *on_release):
        # Of a reply whose rest is still on its way a pool can't know.
        manners = replace(manners, pieces=1)
    alone = rng.random() < 0.1
    if alone or any(len(group) > 1 for group in kinds):
        # What servers of several processes tell has no common order. Whoever asks first on a new
        # connection would get the greeting, and with replicas that may be a check.
        greets = manners.greets and (not check or bool(on_connect))
        manners = replace(manners, news_after=0, greets=greets)
        settings["max_size"] = max(settings.get("max_size", 1), rng.choice([1, 3, 4, 5]))
    remotes = _draw_remotes(rng, kinds, manners, alone=alone)
    servers = [server for remote in remotes for server in remote.servers]
    clients = rng.choice([1, 2, 3, 4, 8])
    acts = _draw_acts(rng, settings, manners, on_connect, alone=clients == 1)
    hooks = (*on_connect, *check, *on_release)
    findings = [remote.replicas.findings for remote in remotes if remote.replicas is not None]
    is_deaf = any("deaf" in server.manners.receives for server in servers)
    may_hang = "hang" in chain(hooks, *(server.moods for server in servers), *findings)
    patience = LONG
    if may_hang or is_deaf:
        # Now and then for longer than others rely on what hangs.
        limit = rng.choice([0.01, 0.01, 0.04, 0.04, 0.25])
        settings["connect_timeout"] = settings["check_timeout"] = limit
        # Who only shares needs no patience of his own: stall_timeout ends what a server owes.
        ends = limit == 0.01 and (not is_deaf or _share_only(acts, settings))
        patience = LONG if ends else _draw_patience(rng, settings)
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
        manners,
        _draw_readings(rng, settings),
        clients=clients,
        exchanges=rng.randrange(4, 24) * (2 if remotes[0].replicas else 1),
        acts=acts,
        ending=ending if native or not ending.startswith(("native", "timeout")) else "scope",
        ends_after=rng.choice([0, rng.uniform(0, 0.03)]),
        patience=patience,
        eager=native and rng.random() < 0.2,
        signals=rng.random() < 0.2,
        thread=rng.random() < 0.15,
    )


def _share_only(acts: Iterable[str], settings: PoolOptions) -> bool:
    """Return whether nobody has a connection of his own, and what is owed is not for ever."""
    stalls = settings.get("stall_timeout", LONG) < 1
    return settings.get("pipeline", 1) > 1 and stalls and set(acts) <= SHARING_ACTS


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


def _draw_kinds(rng: Random) -> tuple[list[tuple[str, ...]], float | None]:
    """Draw the kinds of the servers of each remote, and a manager's limit."""
    max_total = rng.choice([1, 2, 3, 5]) if rng.random() < 0.3 else None
    if rng.random() < 0.4:
        kinds = [*rng.choice([REPLICA_KINDS, REPLICA_KINDS, REPLICA_KINDS, TLS_KINDS])]
        rng.shuffle(kinds)
        sizes = [rng.choice([1, 2, 2, 3, 3])]
        if max_total is not None:
            sizes += rng.choices([1, 2, 3], k=2)
        groups = [tuple(kinds[sum(sizes[:n]) :][:size]) for n, size in enumerate(sizes)]
        return [group for group in groups if group], max_total
    if max_total is None:
        return [(rng.choice(KINDS),)], None
    chosen = rng.choice([PLAIN_KINDS, PLAIN_KINDS, TLS_KINDS])
    sample = rng.sample(chosen, rng.randrange(1, len(chosen) + 1))
    return [(kind,) for kind in sample], max_total


def _draw_remotes(
    rng: Random, kinds: list[tuple[str, ...]], manners: Manners, *, alone: bool
) -> tuple[RemotePlan, ...]:
    """Draw what becomes of each server.

    :param alone: whether one without others is a replica, too
    """
    remotes: list[RemotePlan] = []
    for group in kinds:
        if len(group) == 1 and not alone:
            (kind,) = group
            remotes.append(RemotePlan((ServerPlan(kind, manners, _draw_connects(rng, kind)),)))
            continue
        servers = tuple(
            ServerPlan(
                kind,
                _draw_trouble(rng, manners),
                _draw_connects(rng, kind) if rng.random() < 0.5 else ("",),
            )
            for kind in group
        )
        remotes.append(RemotePlan(servers, _draw_replicas(rng)))
    return tuple(remotes)


def _draw_connects(rng: Random, kind: str) -> tuple[str, ...]:
    """Draw what a connectable does, call by call; an address needs none."""
    moods = _draw_moods(rng, MOODS, 0.3)
    return moods if moods and kind.startswith(("memory", "foreign")) else ("",)


def _draw_trouble(rng: Random, manners: Manners) -> Manners:
    """Draw what befalls one of several replicas."""
    away = rng.random() < 0.4
    return replace(
        manners,
        receives=rng.choice([("serve",), _draw_receives(rng)]),
        away_at=rng.randrange(20_000) if away else 0,
        away_for=rng.randrange(1_000, 8_000) if away else 0,
        dies=rng.random() < 0.7,
        times=rng.choice([1, 3]),
    )


def _draw_replicas(rng: Random) -> ReplicasPlan:
    shortest = rng.choice([0.002, 0.01])
    findings: tuple[str, ...] = ()
    if rng.random() < 0.25:
        findings = tuple(rng.choice([rng.choice(FINDINGS), ""]) for _ in range(rng.randrange(1, 6)))
    return ReplicasPlan(
        rng.choice(["balanced", "in_order"]),
        (shortest, shortest * rng.choice([1, 4])),
        findings,
        rng.choice([math.inf, 0.002, 0.01]) if findings else math.inf,
    )


def _draw_readings(rng: Random, settings: PoolOptions) -> tuple[str, ...]:
    """Draw what functions do that read replies: what lasts only where it is ended."""
    if rng.random() < 0.4:
        return ("",)
    lasting = LASTING if settings.get("stall_timeout", LONG) < 1 else ()
    return ("", "", *rng.choices([*READINGS, *lasting], k=rng.randrange(1, 4)))


def _draw_settings(rng: Random) -> PoolOptions:
    max_size = rng.choice([1, 1, 2, 3, 4])
    settings: PoolOptions = {"max_size": max_size, "close_timeout": rng.choice([0.01, 0.1, 1])}
    choices: dict[str, Sequence[object]] = {
        "min_idle": [0, 0, 0, 1, max_size],
        "idle_order": ["lifo", "fifo"],
        "one_way": [False] * 7 + [True],
        "harmless": [(), (HarmlessError,)],
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
    if not settings.get("one_way") and rng.random() < 0.4:
        settings["pipeline"] = rng.choice([2, 3, 4, 16])
        settings["stall_timeout"] = rng.choice([30, 30, 0.003, 0.02])
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
    receives = _draw_receives(rng)
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


def _draw_receives(rng: Random) -> tuple[str, ...]:
    if rng.random() > 0.25:
        return ("serve",)
    deeds = ["serve", "serve", "hang up", "reset", "deaf", "half close"]
    return tuple(rng.choices(deeds, k=rng.randrange(2, 6)))


def _draw_acts(
    rng: Random,
    settings: PoolOptions,
    manners: Manners,
    on_connect: tuple[str, ...],
    *,
    alone: bool,
) -> dict[str, int]:
    """Draw what clients do, with weights.

    :param alone: whether there is one client
    """
    acts = {"in block": 6, "by hand": 2, "by run": 2, "connect": 1, "nowait": 1, "use late": 1}
    acts |= {"wait ready": 1, "retire": 1, "resize": 1, "hold": 1, "set": 3}
    if manners.greets and not on_connect:
        return acts
    acts |= {"nothing": 1, "crowd": 1}
    if settings.get("one_way"):
        acts |= {"send": 10}
    elif not manners.news_after:
        acts |= {"by pool": 10, "give up": 4, "frame": 1, "exchange": 4, "bulk": 1}
        if settings.get("pipeline", 1) > 1:
            # If others shared its connection, no pool could know whose a surplus is.
            acts |= {"exchange": 8, "bulk": 10, "surplus": 8 * alone}
            if rng.random() < 0.3:
                return {name: weight for name, weight in acts.items() if name in SHARING_ACTS}
    # Some scenarios are of a few acts only.
    if rng.random() < 0.5:
        return acts
    kept = {name: weight for name, weight in acts.items() if weight and rng.random() < 0.4}
    return kept or {"in block": 1}
