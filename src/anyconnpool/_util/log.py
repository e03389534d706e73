"""Log repeated failures without flooding the log, and warn of what was forgotten.

This module decides what is worth a line; the time is passed in. Payload is never logged.
"""

from __future__ import annotations

import logging
import sys
import traceback
import warnings
from contextlib import suppress

from anyio import ConnectionFailed

from anyconnpool._util.cancellation import ends_program
from anyconnpool._util.checks import make_printable
from anyconnpool._util.functions import NotAsyncError

# A log that somebody watches should say that an outage goes on, not that it goes on and on.
_INTERVAL = 60.0


def describe_error(error: BaseException) -> str:
    """Describe an error for the log: a failure to connect by its text, others by their type.

    The text of what a user's hook raises may quote what it has received; the system's text of an
    error of its own, such as a name that can't be looked up, does not.
    """
    if isinstance(error, (ConnectionFailed, NotAsyncError)):
        return describe_with_cause(error)
    kind = type(error).__name__
    said: object = error.strerror if isinstance(error, OSError) else None
    return make_printable(f"{kind}: {said}") if isinstance(said, str) else kind


def describe_with_cause(error: BaseException) -> str:
    """Return the type and the text of an error, and the system's own error that led to it.

    AnyIO's text for a refused connection, and for a process out of descriptors, is the same.
    """
    said = _text_of(error)
    text = f"{type(error).__name__}: {said}" if said else type(error).__name__
    root, seen = error, {id(error)}
    # Whoever writes "raise error from error" makes an error its own cause.
    while root.__cause__ is not None and id(root.__cause__) not in seen:
        root = root.__cause__
        seen.add(id(root))
    if isinstance(root, OSError) and str(root.strerror or _text_of(root)) not in text:
        text = f"{text} ({_text_of(root)})"
    # A hook may have quoted what a hostile server sent.
    return make_printable(text)


def _text_of(error: BaseException) -> str:
    """Return an error's own text; a class of the user's may fail to make one."""
    try:
        return str(error)
    except Exception as failure:
        return f"its text can't be made: {type(failure).__name__}"


class GuardedLogger:
    """Write to one of the library's loggers, and let nothing through that is raised there.

    Filters and handlers are code of the user's. It runs in the middle of what a pool does: there,
    an error of theirs would lose a connection, or end the pool.

    :param name: name of the logger
    """

    __slots__ = ("_logger",)

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, text: str, *values: object) -> None:
        """Log at DEBUG."""
        self._log(logging.DEBUG, text, values)

    def info(self, text: str, *values: object) -> None:
        """Log at INFO."""
        self._log(logging.INFO, text, values)

    def warning(
        self, text: str, *values: object, exc_info: bool | BaseException | None = False
    ) -> None:
        """Log at WARNING."""
        self._log(logging.WARNING, text, values, exc_info=exc_info)

    def error(
        self, text: str, *values: object, exc_info: bool | BaseException | None = False
    ) -> None:
        """Log at ERROR."""
        self._log(logging.ERROR, text, values, exc_info=exc_info)

    def exception(self, text: str, *values: object) -> None:
        """Log at ERROR, with the exception that is being handled."""
        self._log(logging.ERROR, text, values, exc_info=True)

    def _log(
        self,
        level: int,
        text: str,
        values: tuple[object, ...],
        *,
        exc_info: bool | BaseException | None = False,
    ) -> None:
        try:
            self._logger.log(level, text, *values, exc_info=exc_info, stacklevel=3)
        except BaseException as error:
            if ends_program(error):
                raise
            # As logging itself tells of what a handler meets.
            if logging.raiseExceptions and sys.stderr is not None:
                with suppress(Exception):
                    traceback.print_exception(type(error), error, error.__traceback__)


class OutageLog:
    """Log the failures of one thing that a pool does: one WARNING a minute at most.

    The first failure is logged at once, the end of what was logged at INFO. Failures that were not
    logged are counted in the next line.

    :param logger: writes the lines
    :param pool: name of the pool
    :param action: what fails, as in "connecting"
    """

    def __init__(self, logger: GuardedLogger, pool: str, action: str) -> None:
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


def warn_of_neglect(owner: object, missed: str, advice: str = 'use it with "async with"') -> None:
    """Warn that a pool or manager is deleted although its block has not been run to the end.

    :param owner: the pool or manager
    :param missed: what was not done with it: "entered", "left" or "closed"
    :param advice: what to do
    """
    message = f"{owner!r} was never {missed}: {advice}"
    warnings.warn(message, ResourceWarning, stacklevel=2, source=owner)
