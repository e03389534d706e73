"""Log repeated failures without flooding the log, and warn of what was forgotten.

This module decides what is worth a line; the time is passed in. Payload is never logged.
"""

from __future__ import annotations

import logging
import warnings

from anyio import ConnectionFailed

# A log that somebody watches should say that an outage goes on, not that it goes on and on.
_INTERVAL = 60.0


def describe_error(error: Exception) -> str:
    """Describe an error for the log: a failure to connect by its text, others by their type.

    The text of what a user's hook raises may quote what it has received.
    """
    return (
        describe_with_cause(error) if isinstance(error, ConnectionFailed) else type(error).__name__
    )


def describe_with_cause(error: BaseException) -> str:
    """Return the type and the text of an error, and the system's own error that led to it.

    AnyIO's text for a refused connection, and for a process out of descriptors, is the same.
    """
    text = f"{type(error).__name__}: {error}".removesuffix(": ")
    root = error
    while root.__cause__ is not None:
        root = root.__cause__
    if not isinstance(root, OSError) or str(root) in text:
        return text
    return f"{text} ({root})"


class OutageLog:
    """Log the failures of one thing that a pool does: one WARNING a minute at most.

    The first failure is logged at once, the end of what was logged at INFO. Failures that were not
    logged are counted in the next line.

    :param logger: writes the lines
    :param pool: name of the pool
    :param action: what fails, as in "connecting"
    """

    def __init__(self, logger: logging.Logger, pool: str, action: str) -> None:
        self._logger = logger
        self._pool = pool
        self._action = action
        self._failures = 0
        self._began_at = 0.0
        self._unlogged = 0
        self._logged_at: float | None = None
        self._outage_logged = False

    def failed(self, error: Exception, now: float) -> None:
        """Record a failure.

        :param error: what it failed with
        :param now: the time, in seconds
        """
        if not self._failures:
            self._began_at = now
        self._failures += 1
        self._unlogged += 1
        if self._logged_at is None or now - self._logged_at >= _INTERVAL:
            self._log(error)
            self._logged_at = now

    def succeeded(self, now: float) -> None:
        """Record a success, which ends an outage.

        :param now: the time, in seconds
        """
        if self._outage_logged:
            self._logger.info(
                "pool %s: %s works again after %.1f s (failures: %d)",
                self._pool,
                self._action,
                now - self._began_at,
                self._failures,
            )
        self._failures = 0
        self._outage_logged = False

    def _log(self, error: Exception) -> None:
        times = "" if self._unlogged == 1 else f" {self._unlogged} times since the last warning"
        self._logger.warning(
            "pool %s: %s failed%s: %s", self._pool, self._action, times, describe_error(error)
        )
        self._unlogged = 0
        self._outage_logged = True


def warn_of_neglect(owner: object, missed: str) -> None:
    """Warn that a pool or manager is deleted although its block has not been run to the end.

    :param owner: the pool or manager
    :param missed: what was not done with it: "entered" or "left"
    """
    message = f'{owner!r} was never {missed}: use it with "async with"'
    warnings.warn(message, ResourceWarning, stacklevel=2, source=owner)
