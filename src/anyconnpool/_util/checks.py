"""Checks of numbers that users give: durations, counts and sizes."""

from __future__ import annotations

import math
from typing import cast


def check_duration(name: str, value: object) -> float:
    """Return a duration in seconds as float.

    :raises TypeError: if it is not a number
    :raises ValueError: if it is negative or NaN
    """
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(
            f"{name} must be a number of seconds (math.inf for no limit), "
            f"not {type(value).__name__}"
        )
    if math.isnan(value) or value < 0:
        raise ValueError(f"{name} must be 0 or more seconds (math.inf for no limit), not {value}")
    return float(value)


def check_count(name: str, value: object, *, least: int, unlimited: bool = True) -> None:
    """Check a whole number.

    :raises TypeError: if it is not an integer, or ``math.inf`` where that is allowed
    :raises ValueError: if it is less than the least
    """
    if unlimited and isinstance(value, float) and value == math.inf:
        return
    if not isinstance(value, int) or isinstance(value, bool):
        alternative = " or math.inf" if unlimited else ""
        raise TypeError(f"{name} must be an int{alternative}, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be {least} or more, not {value}")


def check_size(name: str, value: int, least: int = 1) -> None:
    """Refuse a size in bytes that makes no sense.

    :raises ValueError: if it is less than the least
    """
    if value < least:
        raise ValueError(f"{name} must be {least} or more bytes, not {value}")


def check_delimiter(delimiter: bytes, max_bytes: int) -> None:
    """Refuse a delimiter or a limit that makes no sense.

    :raises ValueError: if the delimiter is empty or the limit less than 1
    """
    check_size("the delimiter", len(delimiter))
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
