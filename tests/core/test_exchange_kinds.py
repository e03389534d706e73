"""What exchanges find in a buffer is what their formats find there, and nothing else."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from anyconnpool import FrameFormat, LineFormat, PackageFormat
from anyconnpool._streams.exchanges import Exchange, LineExchange, PackageExchange, SizedExchange

_PACKAGES = [
    PackageFormat(1, max_size=3),
    PackageFormat(2, max_size=3, byteorder="little"),
    PackageFormat(1, includes_header=True),
]


class _Settings:
    """Limits of which replies are at both sides."""

    package_format = _PACKAGES[0]
    max_line_bytes = 3
    newline = b"\r\n"


class _Sized:
    """Replies of three bytes, as a format."""

    def encode(self, data: bytes) -> bytes:
        return data

    def decode(self, buffer: bytes, start: int, eof: bool) -> tuple[bytes, int] | None:
        reply = buffer[start : start + 3]
        return (reply, start + 3) if len(reply) == 3 else None


_KINDS: list[tuple[Exchange[bytes], FrameFormat[bytes, bytes]]] = [
    (SizedExchange(b"", 3), _Sized()),
    (LineExchange(b"", None, None, _Settings()), LineFormat(b"\r\n", max_bytes=3)),
    (LineExchange(b"", b"\n", 2, _Settings()), LineFormat(b"\n", max_bytes=2)),
    *((PackageExchange(b"", each, each), each) for each in _PACKAGES),
]


def _find(format: FrameFormat[bytes, bytes], data: bytes, start: int) -> Any:
    try:
        return format.decode(data, start, False)
    except Exception:
        # Too long, or too short for itself: the general way says so.
        return None


@given(st.text("\0\1\2\3\4\r\nx", max_size=12).map(str.encode), st.integers(0, 12))
def test_replies_are_found_as_the_formats_find_them(data: bytes, start: int) -> None:
    """The next reply in a buffer, from an index on."""
    start = min(start, len(data))
    for exchange, format in _KINDS:
        assert exchange.finds_replies
        assert exchange.take(data, start) == _find(format, data, start)
