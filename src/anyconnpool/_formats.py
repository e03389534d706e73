"""The package format of gtcp and its many relatives: a big-endian length, then the body.

A value and its arithmetic; nothing here knows streams.
"""

from __future__ import annotations

from dataclasses import dataclass

from anyconnpool._exceptions import PackageTooLarge

_LARGEST_HEADER = 4
_GTCP_MAX_SIZE = (0xFF, 0xFFFF, 0xFFFFFF, 0x7FFFFFFF)


def _require_int(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")


@dataclass(frozen=True, init=False)
class PackageFormat:
    """Describe length-prefixed packages: a big-endian header with the length of the body.

    The header counts the body alone, not itself. A package without a body is legal. The defaults
    are those of GoFrame's ``gtcp.PkgOption``.

    :param header_size: length of the header in bytes, 1 to 4
    :param max_size: largest body to send or to accept, in bytes; by default what gtcp allows for
        the header: 255, 65 535, 16 777 215 or 2 147 483 647
    :raises ValueError: if the header size is not 1 to 4, or the header can't express ``max_size``
    :raises TypeError: if an argument is not an integer
    """

    #: length of the header in bytes
    header_size: int
    #: largest body, in bytes
    max_size: int

    def __init__(self, header_size: int = 2, *, max_size: int | None = None) -> None:
        _require_int("header_size", header_size)
        if not 1 <= header_size <= _LARGEST_HEADER:
            raise ValueError(f"header_size must be 1, 2, 3 or 4 bytes, not {header_size}")
        if max_size is None:
            max_size = _GTCP_MAX_SIZE[header_size - 1]
        _require_int("max_size", max_size)
        most = 256**header_size - 1
        if not 0 <= max_size <= most:
            raise ValueError(
                f"max_size must be 0 to {most} bytes, which is what a header of "
                f"{header_size} bytes can express, not {max_size}"
            )
        object.__setattr__(self, "header_size", header_size)
        object.__setattr__(self, "max_size", max_size)

    def check_size(self, size: int) -> None:
        """Refuse a body that is too large for this format.

        :param size: length of the body in bytes
        :raises PackageTooLarge: if it exceeds :attr:`max_size`
        """
        if size > self.max_size:
            raise PackageTooLarge(size, self.max_size)

    def pack(self, data: bytes) -> bytes:
        """Put the header before a body.

        :param data: the body
        :return: header and body
        :raises PackageTooLarge: if the body exceeds :attr:`max_size`
        """
        size = len(data)
        self.check_size(size)
        return size.to_bytes(self.header_size, "big") + data
