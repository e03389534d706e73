"""A connection pool for raw byte streams (TCP, TLS, UNIX sockets) on trio, asyncio and uvloop."""

from __future__ import annotations

from anyconnpool._engine.connection import PooledConnection
from anyconnpool._exceptions import (
    AcquireTimeout,
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
from anyconnpool._retry import Retry
from anyconnpool._statistics import PoolStatistics
from anyconnpool._streams.framed import FramedStream

__all__ = [
    "AcquireTimeout",
    "ConnectionPool",
    "FrameFormat",
    "FramedStream",
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
    "Retry",
]
