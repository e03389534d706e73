"""What went wrong, in words."""

from __future__ import annotations

import socket
import ssl
import sys
from importlib import import_module

import pytest
from anyio import (
    BrokenResourceError,
    ConnectionFailed,
    DelimiterNotFound,
    EndOfStream,
    IncompleteRead,
)

from anyconnpool import AcquireTimeout, PackageTooLarge, PoolStatistics
from anyconnpool.command._reasons import CommandError, reason, require
from tests.cases import table

STATE = PoolStatistics(name="tcp://x:1", max_size=1)


def caused_by(cause: BaseException) -> ConnectionFailed:
    error = ConnectionFailed("All connection attempts failed")
    error.__cause__ = cause
    return error


def group(*errors: Exception) -> BaseException:
    home = import_module("exceptiongroup" if sys.version_info < (3, 11) else "builtins")
    made: BaseException = home.ExceptionGroup("several attempts", errors)
    return made


def wrong_version() -> ssl.SSLError:
    error = ssl.SSLError(1, "wrong version")
    error.reason = "WRONG_VERSION_NUMBER"
    return error


def not_trusted() -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "verification failed")
    error.verify_message = "self-signed"
    return error


@table(
    "error, words",
    [
        (caused_by(ConnectionRefusedError(111, "refused")), "connection refused"),
        (caused_by(group(ConnectionRefusedError(), OSError())), "connection refused"),
        (caused_by(socket.gaierror(-2, "Name or service not known")), "unknown host"),
        (UnicodeError("label empty or too long"), "unknown host"),
        (caused_by(wrong_version()), "does not speak it"),
        (ssl.SSLError(1, "certificate required"), "TLS: "),
        (not_trusted(), "is not trusted: self-signed"),
        (TimeoutError(), "no reply in time"),
        (ConnectionFailed("it took too long"), "no connection in time (see --timeout)"),
        (AcquireTimeout(1, STATE, None), "timed out waiting"),
        (AcquireTimeout(1, STATE, ConnectionRefusedError()), "connection refused"),
        (EndOfStream(), "before its reply was complete"),
        (IncompleteRead(), "before its reply was complete"),
        (BrokenResourceError(), "the connection broke"),
        (ConnectionResetError(), "the connection broke"),
        (DelimiterNotFound(9), "is --format right?"),
        (PackageTooLarge(10, 5), "are --format and --header-size right?"),
        (OSError(24, "Too many open files"), "too many open files"),
        (OSError("something"), "OSError: something"),
    ],
)
def test_reasons(error: BaseException, words: str) -> None:
    """A failure is told by what the system said in the first place."""
    assert words in reason(error)


def test_a_package_that_is_not_there() -> None:
    """A missing package is told with the extra that installs it, and is wrong usage."""
    with pytest.raises(CommandError, match=r"pip install 'anyconnpool\[cli\]'") as raised:
        require("no_such_package_anywhere", "cli")
    assert raised.value.code == 2
