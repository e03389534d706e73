"""Which failures are worth a repeat: those that say that the connection or the remote is gone."""

from __future__ import annotations

import ssl

from anyio import BrokenResourceError, EndOfStream, IncompleteRead

from anyconnpool._exceptions import PoolError

# AnyIO lets an alert of TLS, other than the closing one, through as it is.
_HANG_UPS = (BrokenResourceError, EndOfStream, IncompleteRead, ConnectionError, ssl.SSLError)


def is_retryable(error: BaseException) -> bool:
    """Tell whether a repeat, on another connection, may succeed.

    Never after a timeout, which says nothing of the connection, nor after an error of the pool.
    """
    if isinstance(error, (PoolError, TimeoutError)):
        return False
    return isinstance(error, (OSError, BrokenResourceError, EndOfStream, IncompleteRead))


def is_hang_up(error: BaseException) -> bool:
    """Tell whether this is what a dead connection makes of an operation on it.

    An OSError of another kind is about something else that the user's code did.
    """
    return isinstance(error, _HANG_UPS)
