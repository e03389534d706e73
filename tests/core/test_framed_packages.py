"""Receiving packages: the bytes that gtcp was fed, in every cut, and what comes of them here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from anyio import CancelScope, EndOfStream, IncompleteRead

from anyconnpool import FramedStream, PackageFormat, PackageTooLarge
from tests.cases import table

from .scripted import ScriptedStream, every_cut

ROWS: list[dict[str, Any]] = json.loads(
    Path(__file__).with_name("gtcp_pkg_vectors.json").read_text(encoding="utf-8")
)["recv"]

SILENCE = "silence"
Outcome = bytes | type[Exception] | str

SAME_AS_GTCP: dict[str, list[Outcome]] = {
    "one package": [b"hello"],
    "two packages in one segment": [b"a", b"bc"],
    "h1 zero-length package": [b""],
    "h4 length 0x80000000 with default MaxDataSize 0x7fffffff": [PackageTooLarge],
    "EOF mid-header": [IncompleteRead],
    "timeout before any byte": [SILENCE],
}
# gtcp takes a body for a header after an error or a timeout; here nothing is taken of a package
# until it is whole. And gtcp forbids a limit that four bytes can hold.
BETTER_THAN_GTCP: dict[str, list[Outcome]] = {
    "MaxDataSize exceeded (5 > 4); second call reads the body as a header": [
        PackageTooLarge,
        PackageTooLarge,
    ],
    "timeout mid-body (3 of 5), rest comes later: second call on the same Conn reads the rest "
    "as a header": [b"\0\1a\0\1"],
    "MaxDataSize 0x80000000": [b"\xaa"],
}


def gtcp_outcome(call: dict[str, Any]) -> Outcome:
    """Say in this library's terms what a call of gtcp's gave."""
    error = call["error"]
    if error is None:
        return bytes.fromhex(call["data_hex"])
    if error["is_io_EOF"]:
        return IncompleteRead
    if error["is_timeout"]:
        return SILENCE
    assert "invalid package size" in error["text"]
    return PackageTooLarge


def row_name(row: dict[str, Any]) -> str:
    return str(row["name"])


def format_of(row: dict[str, Any]) -> PackageFormat:
    return PackageFormat(row["header_size"], max_size=row["max_data_size_option"] or None)


async def outcome(stream: FramedStream, source: ScriptedStream) -> Outcome:
    """Receive one package; a wait in silence is cancelled."""
    with CancelScope() as scope:
        source.on_silence = scope.cancel
        try:
            return await stream.receive_package()
        except (EndOfStream, IncompleteRead, PackageTooLarge) as error:
            return IncompleteRead if isinstance(error, IncompleteRead) else type(error)
    return SILENCE


def test_every_row_has_its_outcome() -> None:
    """No row of the table is left out."""
    assert sorted(map(row_name, ROWS)) == sorted(SAME_AS_GTCP | BETTER_THAN_GTCP)


@table("row", [row for row in ROWS if row["name"] in SAME_AS_GTCP])
def test_the_expected_outcome_is_the_one_that_gtcp_gave(row: dict[str, Any]) -> None:
    """Where nothing has to be better, the table of this file says what was captured."""
    assert [gtcp_outcome(call) for call in row["recv_calls"]] == SAME_AS_GTCP[row["name"]]


@table("row", ROWS)
async def test_gives_what_the_peer_sent_however_it_was_cut(row: dict[str, Any]) -> None:
    """The packages don't depend on the segments, and nothing comes after the last one."""
    wire = bytes.fromhex(row["peer_sent_hex"])
    expected = (SAME_AS_GTCP | BETTER_THAN_GTCP)[row["name"]]
    for chunks in every_cut(wire):
        source = ScriptedStream(*chunks, then="end" if row["peer_then"] == "close" else "silence")
        stream = FramedStream(source, package_format=format_of(row))
        assert [await outcome(stream, source) for _ in expected] == expected, chunks
        if isinstance(expected[-1], bytes):
            assert await outcome(stream, source) == SILENCE
            assert stream.buffer == b""


@table("header_size", [1, 2, 3, 4])
async def test_the_format_of_a_call_goes_before_that_of_the_stream(header_size: int) -> None:
    """A format passed to a call holds for this call alone."""
    other = PackageFormat(header_size, max_size=7)
    stream = FramedStream(
        ScriptedStream(other.pack(b"special") + b"\0\3def" + other.pack(b"again"))
    )
    assert await stream.receive_package(other) == b"special"
    assert await stream.receive_package() == b"def"
    assert await stream.receive_package(format=other) == b"again"
    with pytest.raises(EndOfStream):
        await stream.receive_package(other)


async def test_what_is_no_package_format_is_refused() -> None:
    """Before anything is sent or received."""
    source = ScriptedStream(b"\0\1x")
    stream: Any = FramedStream(source)
    for call in (stream.receive_package(4), stream.send_package(b"x", 4)):
        with pytest.raises(TypeError, match="format must be a PackageFormat, not int"):
            await call
    assert (source.receives, source.sent) == (0, [])


async def test_a_package_too_large_for_one_format_is_there_for_another() -> None:
    """A refused package stays where it is, header and all."""
    stream = FramedStream(ScriptedStream(b"\0\5hello"))
    with pytest.raises(PackageTooLarge) as caught:
        await stream.receive_package(PackageFormat(max_size=4))
    assert (caught.value.size, caught.value.max_size) == (5, 4)
    assert await stream.receive_package() == b"hello"
