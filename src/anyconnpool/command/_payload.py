"""What a load sends: the same bytes each time, or a template that is filled in for each request."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Literal, TypeAlias

from anyconnpool.command._framing import MAX_PACKAGE_BYTES

_TOKEN = re.compile(rb"\{\{|\}\}|\{([a-z]+)(?::([0-9a-z]{1,9}))?\}|[{}]")
_UNSIGNED = re.compile(r"u(8|16|32|64)(le)?")
_PADDED = re.compile(r"0([0-9]+)")
# How many digits the number of a request may have, and a field's decimal digits.
_NUMBER_DIGITS = 20
_MOST_DIGITS = 1_000
_ADVICE = "a field is {n}, {n:08}, {n:u32}, {length:u16}, {digits:6} or {bytes:16}; a brace is {{"

#: makes a field of the request's number and the length of what follows the field
Fill: TypeAlias = Callable[[int, int], bytes]


@dataclass(frozen=True)
class Field:
    """A part of a template that differs from one request to the next.

    :ivar fill: makes it
    :ivar size: its length in bytes; ``None`` if that differs, too
    :ivar is_binary: whether it may contain any byte
    """

    fill: Fill
    size: int | None
    is_binary: bool = False


class Payload:
    """What is sent with each request.

    :param parts: the bytes that stay the same, and the fields
    """

    def __init__(self, parts: Sequence[bytes | Field]) -> None:
        self._parts = parts
        self._numbers = count()
        fields = [part for part in parts if isinstance(part, Field)]
        #: the message, if it is always the same
        self.constant = None if fields else self._fill(0)
        #: whether a field may contain any byte
        self.is_binary = any(field.is_binary for field in fields)
        #: the length of each message, in bytes; ``None`` if they differ in length
        self.size = None if any(field.size is None for field in fields) else len(self._fill(0))

    def make(self) -> bytes:
        """Return the next request's message."""
        return self.constant if self.constant is not None else self._fill(next(self._numbers))

    def longest(self) -> bytes:
        """Return a message that is as long as any."""
        return self._fill(10**_NUMBER_DIGITS - 1)

    def _fill(self, number: int) -> bytes:
        # From the end, since a field may hold the length of what follows it.
        message = b""
        for part in reversed(self._parts):
            filled = part.fill(number, len(message)) if isinstance(part, Field) else part
            message = filled + message
        return message


def parse_template(text: bytes, decode: Callable[[bytes], bytes]) -> Payload:
    """Read a template.

    :param text: the template
    :param decode: reads what is between two fields
    :raises ValueError: if it can't be read; the text of the error quotes nothing of it
    """
    return Payload(list(_parts(text, decode)))


def _parts(text: bytes, decode: Callable[[bytes], bytes]) -> Iterator[bytes | Field]:
    position = 0
    size = 0
    for token in _TOKEN.finditer(text):
        yield decode(text[position : token.start()])
        position = token.end()
        if token[0] in (b"{{", b"}}"):
            yield token[0][:1]
            continue
        field = _field(token[1], token[2])
        if field is None:
            raise ValueError(f"byte {token.start() + 1} begins no field of a template: {_ADVICE}")
        size += field.size or 0
        if size > MAX_PACKAGE_BYTES:
            raise ValueError(f"the fields of a template have {MAX_PACKAGE_BYTES} bytes at most")
        yield field
    yield decode(text[position:])


def _field(name: bytes | None, format: bytes | None) -> Field | None:
    kind, how = (name or b"").decode(), (format or b"").decode()
    if kind == "n":
        return _number(how, lambda number, following: number)
    if kind == "length":
        # Without a length of its own, it would be one more thing that messages can't agree on.
        return _number(how, lambda number, following: following) if how else None
    size = int(how) if how.isdigit() else 0
    if kind == "digits" and 0 < size <= _MOST_DIGITS:
        return Field(lambda number, following: b"%0*d" % (size, random.randrange(10**size)), size)
    if kind == "bytes" and 0 < size <= MAX_PACKAGE_BYTES:
        return Field(lambda number, following: random.randbytes(size), size, is_binary=True)
    return None


def _number(format: str, pick: Callable[[int, int], int]) -> Field | None:
    """Return the field of a number; one that is too large loses its first digits."""
    if not format:
        return Field(lambda number, following: b"%d" % pick(number, following), None)
    if unsigned := _UNSIGNED.fullmatch(format):
        size = int(unsigned[1]) // 8
        return Field(_packed(pick, size, "little" if unsigned[2] else "big"), size, is_binary=True)
    padded = _PADDED.fullmatch(format)
    width = int(padded[1]) if padded else 0
    if not 0 < width <= _NUMBER_DIGITS:
        return None

    def fill(number: int, following: int) -> bytes:
        return b"%0*d" % (width, pick(number, following) % 10**width)

    return Field(fill, width)


def _packed(pick: Callable[[int, int], int], size: int, order: Literal["little", "big"]) -> Fill:
    return lambda number, following: (pick(number, following) % 256**size).to_bytes(size, order)


def from_hex(text: bytes) -> bytes:
    """Return the bytes that hexadecimal digits stand for.

    :raises ValueError: if they are none; the text of the error quotes nothing of them
    """
    try:
        return bytes.fromhex(text.decode("ascii"))
    except ValueError:
        raise ValueError("it takes pairs of hexadecimal digits, as in 00ff or '00 ff'") from None
