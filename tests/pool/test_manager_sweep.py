"""Promise 3 for a manager: whatever is cancelled at whatever point, nothing leaks."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import anyio
import pytest
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from anyconnpool import PoolManager

from .metering import Meter, run_on_asyncio, run_on_trio
from .network import MemoryNetwork, check_books, delayed, fill
from .sweep import Blow, be_struck, sweep_steps


@dataclass
class Stage:
    """What a scenario plays on."""

    manager: PoolManager
    tasks: TaskGroup
    networks: list[MemoryNetwork]
    got: list[str] = field(default_factory=list[str])
