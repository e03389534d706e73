"""Read the values of options, and refuse those that make no sense."""

from __future__ import annotations

import math
import os
from argparse import ArgumentTypeError
from pathlib import Path

from anyconnpool._remote import Endpoint, Remote, parse_url
from anyconnpool.command._framing import MAX_PACKAGE_BYTES
from anyconnpool.command._plot import SUFFIXES
from anyconnpool.command._results import LATENCIES

#: how connections are spread over several servers
ORDERS = ("balanced", "in-order")

_LONGEST = 86_400
_MOST = 1_000_000
_MOST_REQUESTS = 1_000_000_000
_LARGEST = 2**24
# How much of what was typed is quoted, in characters.
_QUOTED = 40


def url(text: str) -> tuple[Remote, bool]:
    """Return the remote, and whether TLS is to be spoken."""
    try:
        remote, tls = parse_url(text)
        Endpoint.of(remote)
    except ValueError as error:
        advice = "; several URLs are separated by spaces" if "," in text else ""
        raise ArgumentTypeError(f"{error}{advice}") from error
    return remote, tls


def seconds(text: str) -> float:
    """Return a duration above 0."""
    value = delay(text)
    if not value:
        raise ArgumentTypeError("it must be more than 0 seconds")
    return value


def delay(text: str) -> float:
    """Return a duration that may be 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= _LONGEST:
        raise ArgumentTypeError(f"{_quote(text)} is not a number of seconds from 0 to {_LONGEST}")
    return value


def count(text: str) -> int:
    """Return a number of things of which there is at least one."""
    return _at_least_one(number(text))


def requests(text: str) -> int:
    """Return a number of requests."""
    return _at_least_one(number(text, _MOST_REQUESTS))


def number(text: str, largest: int = _MOST) -> int:
    """Return a number of things."""
    # Python refuses to make a number of more than some thousand digits.
    digits = text.lstrip("0") or "0" if text.isascii() and text.isdigit() else ""
    if not 0 < len(digits) <= len(str(largest)) or int(digits) > largest:
        raise ArgumentTypeError(f"{_quote(text)} is not a whole number from 0 to {largest}")
    return int(digits)


def reply_size(text: str) -> int:
    """Return a number of bytes of which there is at least one."""
    return _at_least_one(size(text))


def size(text: str) -> int:
    """Return a number of bytes."""
    return number(text, _LARGEST)


def sizes(text: str) -> tuple[int, ...]:
    """Return the sizes of a pool that are to be compared, ascending."""
    return tuple(sorted({count(part.strip()) for part in text.split(",")}))


def payload_file(text: str) -> bytes:
    """Return what a file contains, if that is no more than can be sent."""
    try:
        with open(text, "rb") as file:
            # No more: a device may never end.
            content = file.read(MAX_PACKAGE_BYTES + 1)
    except OSError as error:
        raise ArgumentTypeError(f"{text}: {error.strerror or error}") from error
    if len(content) > MAX_PACKAGE_BYTES:
        raise ArgumentTypeError(f"{text}: it has more than {MAX_PACKAGE_BYTES} bytes")
    return content


def rate(text: str) -> float:
    """Return a number of requests per second."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= _MOST:
        raise ArgumentTypeError(
            f"{_quote(text)} is not a number of requests per second, above 0 and up to {_MOST}"
        )
    return value


def limits(text: str) -> tuple[tuple[str, float], ...]:
    """Return what latencies must not exceed, by their names."""
    read: list[tuple[str, float]] = []
    for part in text.split(","):
        name, equals, limit = part.strip().partition("=")
        if name not in LATENCIES or not equals:
            names = ", ".join(LATENCIES)
            raise ArgumentTypeError(f"{_quote(part)} is not NAME=SECONDS with a name of {names}")
        read.append((name, seconds(limit)))
    return tuple(read)


def port(text: str) -> int:
    """Return a port, or 0."""
    return number(text, 65_535)


def plot_path(text: str) -> Path:
    """Return where to draw, having looked whether that will be possible."""
    path = Path(text)
    if path.suffix.lower() not in SUFFIXES:
        raise ArgumentTypeError(f"{text!r} does not end with {' or '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise ArgumentTypeError(f"there is no directory {str(path.parent)!r}")
    if not os.access(path.parent, os.W_OK):
        raise ArgumentTypeError(f"the directory {str(path.parent)!r} can't be written to")
    return path


def _at_least_one(value: int) -> int:
    if not value:
        raise ArgumentTypeError("it must be 1 at least")
    return value


def _quote(text: str) -> str:
    return repr(text if len(text) <= _QUOTED else f"{text[:_QUOTED]}…")
