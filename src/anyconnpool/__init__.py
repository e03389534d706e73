"""A connection pool for raw byte streams (TCP, TLS, UNIX sockets) on trio, asyncio and uvloop."""

from __future__ import annotations

from dataclasses import is_dataclass as _is_dataclass
from inspect import get_annotations as _get_annotations
from typing import Any as _Any

from anyio import (
    BrokenResourceError,
    BusyResourceError,
    ClosedResourceError,
    ConnectionFailed,
    DelimiterNotFound,
    EndOfStream,
    IncompleteRead,
)

from anyconnpool._engine.connection import PooledConnection
from anyconnpool._exceptions import (
    AcquireTimeout,
    ExchangeError,
    PackageTooLarge,
    PackageTooSmall,
    PoolClosed,
    PoolError,
    PoolFull,
)
from anyconnpool._formats import FrameFormat, LineFormat, PackageFormat
from anyconnpool._keepalive import KeepAlive
from anyconnpool._manager import PoolManager
from anyconnpool._pool import ConnectionPool
from anyconnpool._replicas import Replicas, ReplicaState
from anyconnpool._retry import Retry
from anyconnpool._statistics import ConnectionInfo, PoolStatistics
from anyconnpool._streams.framed import FramedStream

__all__ = [
    "AcquireTimeout",
    "BrokenResourceError",
    "BusyResourceError",
    "ClosedResourceError",
    "ConnectionFailed",
    "ConnectionInfo",
    "ConnectionPool",
    "DelimiterNotFound",
    "EndOfStream",
    "ExchangeError",
    "FrameFormat",
    "FramedStream",
    "IncompleteRead",
    "KeepAlive",
    "LineFormat",
    "PackageFormat",
    "PackageTooLarge",
    "PackageTooSmall",
    "PoolClosed",
    "PoolError",
    "PoolFull",
    "PoolManager",
    "PoolStatistics",
    "PooledConnection",
    "ReplicaState",
    "Replicas",
    "Retry",
]

# What is public says where it is to be imported from: in tracebacks, and to pickle.
_value: _Any = None
for _value in [globals()[_name] for _name in __all__]:
    if getattr(_value, "__module__", "").startswith(f"{__name__}."):
        if isinstance(_value, type) and _is_dataclass(_value):
            # Whoever reads the types of its fields looks for their names where it says it is from.
            _value.__annotations__ = _get_annotations(_value, eval_str=True)
        _value.__module__ = __name__
del _value
