"""What :class:`Health` decides, told again in the simplest way: by searching lists.

A replica is well, rests, or is on trial. Numbers of connections are counted, and choices compared
by looking at all that was ever chosen.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(eq=False)
class ModelConnection:
    """A connection of the model, from the attempt on."""

    server: str
    #: how many rests its replica had had when it was begun
    rests: int
    own: bool
    is_open: bool = False
    is_trial: bool = False


@dataclass
class ModelReplica:
    name: str
    failures: int = 0
    resting: bool = False
    rests_until: float = 0.0
    #: how many rests and prolongings it has had
    rests: int = 0


@dataclass
class HealthModel:
    in_order: bool
    names: list[str] = field(default_factory=list[str])
    replicas: dict[str, ModelReplica] = field(default_factory=dict[str, ModelReplica])
    connections: list[ModelConnection] = field(default_factory=list[ModelConnection])
    #: all choices, in order
    chosen: list[str] = field(default_factory=list[str])
    #: what was tried since something was well, on trial or under way
    round: set[str] = field(default_factory=set[str])

    def of(self, name: str) -> list[ModelConnection]:
        return [each for each in self.connections if each.server == name]

    def attempts(self, name: str) -> list[ModelConnection]:
        return [each for each in self.of(name) if not each.is_open]

    def fresh_attempts(self, name: str) -> list[ModelConnection]:
        """Those that are as new as the last rest."""
        rests = self.replicas[name].rests
        return [each for each in self.attempts(name) if each.rests == rests]

    def has_trial(self, name: str) -> bool:
        return any(each.is_trial for each in self.of(name))

    def ready(self, name: str) -> bool:
        replica = self.replicas[name]
        return not replica.failures or not (replica.resting or self.has_trial(name))

    def last_choice(self, name: str) -> int:
        return max((at for at, each in enumerate(self.chosen) if each == name), default=-1)

    def choose(self, tried: tuple[str, ...], avoided: tuple[str, ...]) -> str | None:
        ready = [name for name in self.names if self.ready(name) and name not in tried]
        if not ready:
            ready = [
                name for name in self.names if not self.replicas[name].resting and name not in tried
            ]
        better = [name for name in ready if name not in avoided]
        ready = better if better else ready
        if ready and self.in_order:
            return ready[0]
        if ready:
            fewest = min(len(self.of(name)) for name in ready)
            return min(
                (name for name in ready if len(self.of(name)) == fewest), key=self.last_choice
            )
        if not tried and not any(
            self.attempts(name) or self.has_trial(name) for name in self.names
        ):
            self.round.clear()
        left = [
            name
            for name in self.names
            if self.replicas[name].resting
            and not self.attempts(name)
            and name not in tried
            and name not in self.round
        ]
        return min(left, key=lambda name: self.replicas[name].rests_until, default=None)

    def rest(self, name: str, until: float) -> None:
        replica = self.replicas[name]
        replica.failures += 1
        replica.rests += 1
        replica.resting = True
        replica.rests_until = until
        for each in self.of(name):
            each.is_trial = False

    def all_rest(self) -> bool:
        return bool(self.names) and all(self.replicas[name].resting for name in self.names)

    def hopeless(self) -> bool:
        return all(self.replicas[name].resting and not self.attempts(name) for name in self.names)
