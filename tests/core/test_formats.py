"""The formats of frames: what they refuse, and the bytes they make, without a loop."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
from anyio import DelimiterNotFound
from hypothesis import given
from hypothesis import strategies as st

from anyconnpool import LineFormat, PackageFormat, PackageTooLarge, PackageTooSmall, PoolError
from tests.cases import in_case, table

VECTORS: dict[str, Any] = json.loads(
    Path(__file__).with_name("gtcp_pkg_vectors.json").read_text(encoding="utf-8")
)
SEND_ROWS: list[dict[str, Any]] = VECTORS["send"]
RIGHT_ROWS = [row for row in SEND_ROWS if not row.get("gtcp_bug") and row["error"] is None]
BUG_ROWS = [row for row in SEND_ROWS if row.get("gtcp_bug")]
REFUSED_ROWS = [row for row in SEND_ROWS if row["error"] is not None]

MOST_A_HEADER_HOLDS = {1: 0xFF, 2: 0xFFFF, 3: 0xFFFFFF, 4: 0xFFFFFFFF}


def row_name(row: dict[str, Any]) -> str:
    return str(row["name"])


def payload_of(row: dict[str, Any]) -> bytes:
    """Return the row's payload, which long rows give as a rule instead of as bytes."""
    if "payload_hex" in row:
        return bytes.fromhex(row["payload_hex"])
    assert row["payload_kind"] == "pattern"
    size: int = row["payload_len"]
    return (bytes(range(251)) * (size // 251 + 1))[:size]


def format_of(row: dict[str, Any]) -> PackageFormat:
    """Return the row's format; gtcp's limit of 0 means the default."""
    return PackageFormat(row["header_size"], max_size=row["max_data_size_option"] or None)


def pack_row(row: dict[str, Any]) -> bytes:
    packages = [bytes.fromhex(item) for item in row.get("packages_hex", [])] or [payload_of(row)]
    return b"".join(format_of(row).pack(package) for package in packages)


def test_the_vectors_hold_rows_of_every_kind() -> None:
    """The table is whole: 28 packages sent, 3 rows of gtcp's bugs, 2 refusals."""
    assert (len(RIGHT_ROWS), len(BUG_ROWS), len(REFUSED_ROWS)) == (28, 3, 2)


@table("row", SEND_ROWS)
def test_the_payload_of_a_row_is_the_one_that_was_sent(row: dict[str, Any]) -> None:
    """The payload made from a row's rule has the digest that was captured with it."""
    payload = payload_of(row)
    assert len(payload) == row["payload_len"]
    assert hashlib.sha256(payload).hexdigest() == row["payload_sha256"]


@table("row", RIGHT_ROWS)
def test_packs_the_bytes_that_gtcp_sends(row: dict[str, Any]) -> None:
    """A packed package is byte for byte what gtcp put on the wire."""
    wire = pack_row(row)
    assert len(wire) == row["wire_len"]
    assert wire[: row["header_size"]].hex() == row["wire_header_hex"]
    assert hashlib.sha256(wire).hexdigest() == row["wire_sha256"]
    if "wire_hex" in row:
        assert wire.hex() == row["wire_hex"]


@table("row", BUG_ROWS)
def test_a_format_with_which_gtcp_corrupts_the_stream_cannot_be_made(row: dict[str, Any]) -> None:
    """Where gtcp sends a wrong length or loses a byte, making the format is the error."""
    with pytest.raises(ValueError, match="size"):
        format_of(row)


@table("row", REFUSED_ROWS)
def test_what_gtcp_refuses_is_refused(row: dict[str, Any]) -> None:
    """A row that gtcp answered with an error is an error here too."""
    with pytest.raises(ValueError, match="size"):
        pack_row(row)


@table("header_size, limit", [(1, 0xFF), (2, 0xFFFF), (3, 0xFFFFFF), (4, 0x7FFFFFFF)])
def test_the_default_limit_follows_from_the_header(header_size: int, limit: int) -> None:
    """Without a limit of its own a format has gtcp's for its header size."""
    assert PackageFormat(header_size).max_size == limit
    assert PackageFormat(header_size).header_size == header_size


def test_the_default_header_has_two_bytes() -> None:
    """A format made without arguments is gtcp's default."""
    assert PackageFormat() == PackageFormat(2, max_size=0xFFFF)


@table("header_size", [-1, 0, 5, 8, 1 << 40])
def test_refuses_a_header_of_another_size(header_size: int) -> None:
    """A header has one to four bytes, and the text says which value was wrong."""
    with pytest.raises(ValueError, match=str(header_size)):
        PackageFormat(header_size)


@table("header_size", [1, 2, 3, 4])
def test_the_limit_may_be_all_that_the_header_holds_and_no_more(header_size: int) -> None:
    """The largest length that fits the header is allowed, one more is not."""
    most = MOST_A_HEADER_HOLDS[header_size]
    assert PackageFormat(header_size, max_size=most).max_size == most
    with pytest.raises(ValueError, match=str(most + 1)):
        PackageFormat(header_size, max_size=most + 1)


@table("header_size", [1, 2, 3, 4])
def test_refuses_a_negative_limit(header_size: int) -> None:
    """A negative limit is an error; zero is a limit that lets only empty packages pass."""
    with pytest.raises(ValueError, match="-1"):
        PackageFormat(header_size, max_size=-1)
    nothing_but_empty = PackageFormat(header_size, max_size=0)
    assert nothing_but_empty.pack(b"") == bytes(header_size)
    with pytest.raises(PackageTooLarge):
        nothing_but_empty.pack(b"x")


@table("wrong", [True, False, 2.0, 2.5, float("nan"), "2", b"2"])
def test_refuses_what_is_no_whole_number(wrong: Any) -> None:
    """A truth value or a float is a mistake, also where it equals a legal number."""
    with pytest.raises(TypeError):
        PackageFormat(wrong)
    with pytest.raises(TypeError):
        PackageFormat(2, max_size=wrong)


def test_the_limit_is_a_keyword() -> None:
    """The limit cannot be passed by position, where it would be taken for something else."""
    positional: Any = PackageFormat
    with pytest.raises(TypeError):
        positional(2, 100)


@table("field", ["header_size", "max_size"])
def test_is_a_value(field: str) -> None:
    """A format never changes; equal fields make equal formats with equal hashes."""
    one, other = PackageFormat(4, max_size=100), PackageFormat(4, max_size=100)
    with pytest.raises((AttributeError, dataclasses.FrozenInstanceError)):
        setattr(one, field, 1)
    assert one == other
    assert hash(one) == hash(other)
    assert one != PackageFormat(4)
    assert one != PackageFormat(3, max_size=100)


def test_too_large_says_how_large_and_how_large_it_may_be() -> None:
    """The error carries both sizes, in its attributes and in its text."""
    with pytest.raises(PackageTooLarge) as caught:
        PackageFormat(2, max_size=321).pack(bytes(4567))
    assert (caught.value.size, caught.value.max_size) == (4567, 321)
    assert "4567" in str(caught.value)
    assert "321" in str(caught.value)
    assert isinstance(caught.value, PoolError)
    assert isinstance(caught.value, ValueError)


@given(header_size=st.integers(1, 4), data=st.binary(max_size=300))
def test_a_package_is_its_length_and_its_body(header_size: int, data: bytes) -> None:
    """What is packed is the big-endian length and then the body, or the package is too large."""
    package_format = PackageFormat(header_size)
    if len(data) > package_format.max_size:
        with pytest.raises(PackageTooLarge):
            package_format.pack(data)
    else:
        wire = package_format.pack(data)
        assert wire == len(data).to_bytes(header_size, "big") + data


@given(header_size=st.integers(1, 4), limit=st.integers(0, 255), size=st.integers(0, 300))
def test_a_package_passes_up_to_the_limit(header_size: int, limit: int, size: int) -> None:
    """Exactly the limit still passes, one byte more does not."""
    package_format = PackageFormat(header_size, max_size=limit)
    if size <= limit:
        assert len(package_format.pack(bytes(size))) == header_size + size
    else:
        with pytest.raises(PackageTooLarge):
            package_format.pack(bytes(size))


def test_a_header_may_be_little_endian_and_count_itself() -> None:
    """The defaults are a big-endian length of the body alone; both are written as they are."""
    formats = {
        PackageFormat(4): b"\0\0\0\3abc",
        PackageFormat(4, byteorder="little"): b"\3\0\0\0abc",
        PackageFormat(4, includes_header=True): b"\0\0\0\7abc",
        PackageFormat(2, byteorder="little", includes_header=True): b"\5\0abc",
    }
    assert len(formats) == 4
    for package_format, wire in formats.items():
        assert package_format.encode(b"abc") == package_format.pack(b"abc") == wire
        assert package_format.decode(b"xx" + wire + b"yy", 2, False) == (b"abc", len(wire) + 2)
        for size in range(len(wire)):
            assert package_format.decode(wire[:size], 0, True) is None


def test_what_the_header_counts_of_itself_is_no_room_for_the_body() -> None:
    """The limit is the body's, and never more than the header can express."""
    assert PackageFormat(1, includes_header=True).max_size == 254
    assert PackageFormat(4, includes_header=True).max_size == 0x7FFFFFFF
    assert PackageFormat(1, includes_header=True, max_size=254).pack(bytes(254))[0] == 255
    with pytest.raises(ValueError, match="max_size must be 0 to 254 bytes"):
        PackageFormat(1, includes_header=True, max_size=255)


def test_a_header_that_announces_less_than_itself_is_an_error() -> None:
    """It carries both sizes, and the text says what the peer may mean."""
    package_format = PackageFormat(4, includes_header=True)
    assert package_format.decode(b"\0\0\0\4", 0, False) == (b"", 4)
    with pytest.raises(PackageTooSmall) as caught:
        package_format.decode(b"\0\0\0\3abc", 0, False)
    assert (caught.value.size, caught.value.header_size) == (3, 4)
    assert "announces 3 bytes, less than the 4 bytes of its header" in str(caught.value)
    assert "includes_header=False" in str(caught.value)
    assert isinstance(caught.value, PoolError)
    assert isinstance(caught.value, ValueError)


def test_wrong_options_of_a_header_are_refused() -> None:
    """There are two orders of bytes, and a truth value is one."""
    make: Any = PackageFormat
    with pytest.raises(ValueError, match='byteorder must be "big" or "little", not \'middle\''):
        make(2, byteorder="middle")
    with pytest.raises(TypeError, match="includes_header must be a bool, not int"):
        make(2, includes_header=1)


def test_a_format_shows_what_it_was_made_of() -> None:
    """Its representation makes it again."""
    assert repr(PackageFormat(1, includes_header=True)) == (
        "PackageFormat(header_size=1, max_size=254, byteorder='big', includes_header=True)"
    )


@table("newline", [b"\n", b"\r\n", b"--"])
def test_a_line_ends_where_its_newline_does(newline: bytes) -> None:
    """It is added when a line is sent, and taken away when one is found."""
    lines = LineFormat(newline)
    assert lines.encode(b"abc") == b"abc" + newline
    assert lines.decode(b"xx" + b"abc" + newline + b"de", 2, False) == (b"abc", 5 + len(newline))
    assert lines.decode(newline, 0, False) == (b"", len(newline))
    assert lines.decode(b"abc" + newline[:-1], 0, True) is None


def test_a_line_has_so_many_bytes_at_most_without_its_end() -> None:
    """Both ways; a longer one is refused before its end has come."""
    lines = LineFormat(b"\r\n", max_bytes=3)
    assert lines.encode(b"abc") == b"abc\r\n"
    with pytest.raises(ValueError, match="a line of 4 bytes exceeds max_bytes, 3"):
        lines.encode(b"abcd")
    assert lines.decode(b"abc\r\n", 0, False) == (b"abc", 5)
    assert lines.decode(b"abcd", 0, False) is None
    for wire in (b"abcd\r\n", b"abcde"):
        with pytest.raises(DelimiterNotFound, match="use a LineFormat with a larger max_bytes"):
            lines.decode(wire, 0, False)


def test_wrong_options_of_lines_are_refused() -> None:
    """Nothing ends no line, and a limit is a number of bytes."""
    make: Any = LineFormat
    for options, error in (
        ({"newline": b""}, ValueError),
        ({"newline": "\n"}, TypeError),
        ({"max_bytes": 0}, ValueError),
        ({"max_bytes": math.inf}, TypeError),
    ):
        with in_case(options), pytest.raises(error):
            make(**options)
    assert LineFormat() == LineFormat(b"\n", max_bytes=65_536)
