"""What a case is given, and what it is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

from benchmarks.backends import is_asyncio
from benchmarks.remotes import Remotes
from benchmarks.results import Figure
from benchmarks.rounds import Timekeeper


@dataclass(frozen=True)
class Bench:
    """Where a case is measured.

    :param backend: the event loop that runs
    :param keeper: measures
    :param remotes: where the server listens
    """

    backend: str
    keeper: Timekeeper
    remotes: Remotes

    @property
    def on_asyncio(self) -> bool:
        """Whether what is made for asyncio only can take part."""
        return is_asyncio(self.backend)

    @property
    def quick(self) -> bool:
        """Whether to be done soon rather than to be exact."""
        return self.keeper.quick


#: measures something
Case: TypeAlias = Callable[[Bench], Awaitable[list[Figure]]]
