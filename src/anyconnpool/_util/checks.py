"""Checks of what users give: durations, counts, sizes and bytes; how to quote it in errors."""

from __future__ import annotations

import math
import sys
from typing import cast

# The longest quotation of a wrong value in an error, and the longest int that is quoted, in bits.
_LONGEST_QUOTE = 100
_LONGEST_INT = 128


def quoted(value: object) -> str:
    """Return how a wrong value is quoted in an error: short, printable, whatever it is."""
    if isinstance(value, int) and value.bit_length() > _LONGEST_INT:
        return f"an int of {value.bit_length()} bits"
    try:
        text = repr(value)
    except Exception:  # What is foreign may do anything.
        text = f"an object of type {type(value).__name__}"
    text = make_printable(text)
    return text if len(text) <= _LONGEST_QUOTE else f"{text[: _LONGEST_QUOTE - 1]}…"


def make_printable(text: str) -> str:
    """Return a text with everything escaped that a terminal or a log shouldn't get."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def check_number(name: str, value: object, what: str = "a number") -> float:
    """Return a number as float.

    :param what: what it has to be, for the error
    :raises TypeError: if it is neither an int nor a float
    :raises ValueError: if it is too large for a float
    """
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name} must be {what}, not {type(value).__name__}{_conversion(value)}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name} is too large for {what}: {quoted(value)}") from None


def _conversion(value: object) -> str:
    """Say how to convert what is a number to others: a Decimal, a Fraction, one of NumPy's."""
    if isinstance(value, (bool, str)):
        return ""
    if hasattr(value, "total_seconds"):
        return ": convert it with total_seconds()"
    return ": convert it with float()" if hasattr(value, "__float__") else ""


def advise(kind: type, value: object) -> str:
    """Say how to make what is wanted of a number that was given instead.

    :param kind: what is wanted: a class whose first parameter is a number, maybe
    :param value: what was given
    """
    takes_number = bool(getattr(kind, "__match_args__", ()))
    if not takes_number or not isinstance(value, int) or isinstance(value, bool):
        return ""
    return f": write {kind.__name__}({quoted(value)})"


def check_duration(name: str, value: object) -> float:
    """Return a duration in seconds as float.

    :raises TypeError: if it is not a number
    :raises ValueError: if it is negative, NaN or too large
    """
    seconds = check_number(name, value, "a number of seconds (math.inf for no limit)")
    if not seconds >= 0:
        raise ValueError(
            f"{name} must be 0 or more seconds (math.inf for no limit), not {quoted(value)}"
        )
    return seconds


def check_count(name: str, value: object, *, least: int, unlimited: bool = True) -> None:
    """Check a whole number.

    :raises TypeError: if it is not an integer, or ``math.inf`` where that is allowed
    :raises ValueError: if it is less than the least, or larger than any size
    """
    if unlimited and isinstance(value, float) and value == math.inf:
        return
    if not isinstance(value, int) or isinstance(value, bool):
        alternative = " or math.inf" if unlimited else ""
        advice = ": convert it with int()" if hasattr(value, "__index__") else ""
        advice = "" if isinstance(value, bool) else advice
        raise TypeError(f"{name} must be an int{alternative}, not {quoted(value)}{advice}")
    if value < least:
        raise ValueError(f"{name} must be {least} or more, not {quoted(value)}")
    if value > sys.maxsize:
        advice = ": use math.inf for no limit" if unlimited else ""
        raise ValueError(f"{name} must be {sys.maxsize} or less, not {quoted(value)}{advice}")


def check_size(name: str, value: int, least: int = 1) -> None:
    """Refuse a size in bytes that makes no sense.

    :raises TypeError: if it is not an integer
    :raises ValueError: if it is less than the least
    """
    # What has an index, one of NumPy's integers for example, is as good as an int here.
    if type(value) is not int and (isinstance(value, bool) or not hasattr(value, "__index__")):
        raise TypeError(f"{name} must be an int, a number of bytes, not {quoted(value)}")
    if value < least:
        raise ValueError(f"{name} must be {least} or more bytes, not {quoted(value)}")


def check_delimiter(delimiter: bytes, max_bytes: int) -> None:
    """Refuse a delimiter or a limit that makes no sense.

    :raises TypeError: if the delimiter is not bytes, or the limit not an integer
    :raises ValueError: if the delimiter is empty or the limit less than 1
    """
    check_size("the delimiter", byte_size("the delimiter", delimiter))
    check_size("max_bytes", max_bytes)


def byte_size(name: str, data: object) -> int:
    """Return the size in bytes of something to be sent.

    :raises TypeError: if it is not bytes-like
    """
    if isinstance(data, (bytes, bytearray)):
        return len(data)
    # The length of a memoryview counts its items, which may be larger than bytes.
    if isinstance(data, memoryview):
        return data.nbytes
    advice = ": encode it first" if isinstance(data, str) else ""
    raise TypeError(f"{name} must be bytes, not {type(data).__name__}{advice}")


def as_bytes(name: str, data: object) -> bytes:
    """Return something to be sent as bytes of its own.

    :raises TypeError: if it is not bytes-like
    """
    if type(data) is bytes:
        return data
    byte_size(name, data)
    return bytes(cast("bytes", data))
