"""Say in a few words what went wrong, for people who have never seen this program's code."""

from __future__ import annotations

import socket
import ssl
from importlib import import_module

from anyio import (
    BrokenResourceError,
    ConnectionFailed,
    DelimiterNotFound,
    EndOfStream,
    IncompleteRead,
)

from anyconnpool import AcquireTimeout, PackageTooLarge, PoolError

#: what an exchange with a server may fail with; a UnicodeError is a host name that none can have
EXCHANGE_ERRORS = (
    OSError,
    BrokenResourceError,
    DelimiterNotFound,
    EndOfStream,
    IncompleteRead,
    PoolError,
    UnicodeError,
)
# How OpenSSL says that the other end has hung up; which one depends on the version of Python.
_ENDS = (ssl.SSLEOFError, ssl.SSLZeroReturnError)
# The first that fits counts.
_REASONS: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str], ...] = (
    ((socket.gaierror, UnicodeError), "unknown host"),
    (ConnectionRefusedError, "connection refused: nothing listens there"),
    (AcquireTimeout, "timed out waiting for a connection (see --timeout)"),
    (TimeoutError, "no reply in time (see --timeout)"),
    # Without a cause, it was the time limit for connecting.
    (ConnectionFailed, "no connection in time (see --timeout)"),
    (
        (EndOfStream, IncompleteRead),
        "the server closed the connection before its reply was complete",
    ),
    ((BrokenResourceError, ConnectionError), "the connection broke"),
    (DelimiterNotFound, "the reply has no lines, or too long ones: is --format right?"),
    (
        PackageTooLarge,
        "a package of the reply is too large: are --format and --header-size right?",
    ),
)


class CommandError(Exception):
    """Raised to end the program with one line of text and an exit code."""

    def __init__(self, text: str, code: int = 1) -> None:
        super().__init__(text)
        self.code = code


def require(package: str, extra: str) -> None:
    """Refuse to go on without a package that an extra installs.

    :raises CommandError: if it can't be imported
    """
    try:
        import_module(package)
    except ImportError as error:
        text = f"this needs {package} ({error}): pip install 'anyconnpool[{extra}]'"
        raise CommandError(text, 2) from error


def printable(text: str) -> str:
    """Escape what is not printable, as Python does: control characters, changes of direction."""
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
    )


def reason(error: BaseException) -> str:
    """Return why an exchange failed, in one printable line.

    The texts are few, so that failures can be counted by them.
    """
    return printable(_describe(root_of(error)))


def _describe(root: BaseException) -> str:
    if isinstance(root, ssl.SSLError):
        return _describe_ssl(root)
    for kind, text in _REASONS:
        if isinstance(root, kind):
            return text
    if isinstance(root, OSError) and root.strerror:
        return root.strerror[0].lower() + root.strerror[1:]
    return f"{type(root).__name__}: {root}"


def root_of(error: BaseException) -> BaseException:
    """Return the system's own error that led to this one; of several attempts, the first one's."""
    cause = error.__cause__
    if isinstance(error, AcquireTimeout):
        cause = error.last_connect_error
    elif not isinstance(error, OSError):
        # The cause of the others is a detail of the stream.
        cause = None
    attempts = getattr(cause, "exceptions", None)
    if attempts:
        cause = attempts[0]
    return error if cause is None else root_of(cause)


def speaks_no_tls(error: ssl.SSLError) -> bool:
    """Tell whether nothing of TLS came from the other end, as far as one can know."""
    reason = getattr(error, "reason", None)
    return isinstance(error, _ENDS) or reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE")


def _describe_ssl(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS: the server's certificate is not trusted: {error.verify_message}"
    if isinstance(error, _ENDS):
        return "TLS: the other end has hung up"
    if speaks_no_tls(error):
        return "TLS: the other end does not speak it"
    code: str | None = getattr(error, "reason", None)
    return f"TLS: {(code or str(error)).replace('_', ' ').lower()}"
