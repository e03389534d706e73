"""Errors: what they stand for, and how to make another of the same kind for each caller."""

from __future__ import annotations

import copy
import pickle
import ssl
from typing import Any, TypeVar, cast

from anyio import BrokenResourceError, ConnectionFailed, EndOfStream, IncompleteRead

from anyconnpool._util.log import describe_with_cause

ErrorT = TypeVar("ErrorT", bound=BaseException)

# AnyIO lets an alert of TLS, other than the closing one, through as it is.
_HANG_UPS = (BrokenResourceError, EndOfStream, IncompleteRead, ConnectionError, ssl.SSLError)


def is_hang_up(error: BaseException) -> bool:
    """Return whether an operation on a dead connection fails like this.

    Any other ``OSError`` comes from something else that the user's code did.
    """
    return isinstance(error, _HANG_UPS)


def make_error(kind: type[ErrorT], arguments: tuple[Any, ...]) -> ErrorT:
    """Make an error of its ``args`` alone, without a call of its ``__init__``.

    :param kind: its class
    :param arguments: its ``args``, from which its text is made
    """
    error = kind.__new__(kind, *arguments)
    error.args = arguments
    return error


def survives_pickling(error: BaseException) -> bool:
    """Return whether another process would get an error as it is."""
    try:
        arrived: object = pickle.loads(pickle.dumps(error))
    except Exception:
        return False
    return _is_alike(arrived, error)


def copy_for_caller(error: Exception) -> Exception:
    """Return an error of a caller's own, equal to one that others are given as well.

    Raised in several tasks, one object would collect the tracebacks and contexts of all of them,
    and what one of them notes on it, all would read. The copy has the same class, arguments,
    attributes, notes and cause, and the traceback up to here. Of an error that can't be copied, a
    :exc:`~anyio.ConnectionFailed` is made that has it as its cause.
    """
    twin = _copy(error)
    if twin is None:
        failed = ConnectionFailed(describe_with_cause(error))
        failed.__cause__ = error
        return failed
    # Not all classes that copy themselves keep these.
    vars(twin).update(vars(error))
    notes: Any = getattr(error, "__notes__", None)
    if isinstance(notes, list):
        vars(twin)["__notes__"] = [*cast("list[str]", notes)]
    twin.__cause__ = error.__cause__
    twin.__context__ = error.__context__
    twin.__suppress_context__ = error.__suppress_context__
    return twin.with_traceback(error.__traceback__)


def without_frames(error: Exception) -> Exception:
    """Return a copy of an error that leads to no frame, to be kept by those who outlive its task.

    It has neither traceback nor cause nor context.
    """
    twin = copy_for_caller(error)
    twin.__cause__ = twin.__context__ = None
    return twin.with_traceback(None)


def _copy(error: Exception) -> Exception | None:
    for make in (copy.copy, _copy_without_init):
        try:
            twin = make(error)
            if _is_alike(twin, error):
                return twin
        except Exception:
            continue
    return None


def _copy_without_init(error: Exception) -> Exception:
    return make_error(type(error), error.args)


def _is_alike(twin: object, error: BaseException) -> bool:
    return type(twin) is type(error) and twin is not error and str(twin) == str(error)
