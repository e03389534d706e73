"""Any bytes, cut anywhere, read in any order, cancelled anywhere: as a naive model reads them.

The model knows the bytes as one string and takes from its front. It has no buffer, no chunks and
no cancellations, since none of these may show.
"""

from __future__ import annotations

from dataclasses import dataclass

import anyio
import pytest
from anyio import CancelScope, DelimiterNotFound, EndOfStream, IncompleteRead
from hypothesis import given, settings
from hypothesis import strategies as st

from anyconnpool import FramedStream, PackageFormat, PackageTooLarge

from .scripted import ScriptedStream, cut

Outcome = bytes | type[Exception]
ERRORS = (
    EndOfStream,
    IncompleteRead,
    DelimiterNotFound,
    PackageTooLarge,
    anyio.BrokenResourceError,
)


@dataclass(frozen=True)
class Line:
    """Read a line; ``until`` reads with AnyIO's method, which tells the end otherwise."""

    newline: bytes
    limit: int
    until: bool

    async def read(self, stream: FramedStream) -> bytes:
        if self.until:
            return await stream.receive_until(self.newline, self.limit)
        return await stream.receive_line(newline=self.newline, max_bytes=self.limit)

    def model(self, rest: bytes, end: type[Exception]) -> tuple[set[Outcome], int]:
        place = rest.find(self.newline)
        if 0 <= place <= self.limit:
            return {rest[:place]}, place + len(self.newline)
        if len(rest) >= self.limit + len(self.newline):
            return {DelimiterNotFound}, 0
        outcomes: set[Outcome] = {at_end(end, in_frame=self.until or bool(rest))}
        # The end came while a longer newline could still have begun within the limit or not:
        # either error is true then.
        if len(rest) > self.limit:
            outcomes.add(DelimiterNotFound)
        return outcomes, 0


@dataclass(frozen=True)
class Exactly:
    """Read a number of bytes."""

    size: int

    async def read(self, stream: FramedStream) -> bytes:
        return await stream.receive_exactly(self.size)

    def model(self, rest: bytes, end: type[Exception]) -> tuple[set[Outcome], int]:
        if len(rest) >= self.size:
            return {rest[: self.size]}, self.size
        return {at_end(end, in_frame=True)}, 0


@dataclass(frozen=True)
class Package:
    """Read a package."""

    format: PackageFormat

    async def read(self, stream: FramedStream) -> bytes:
        return await stream.receive_package(self.format)

    def model(self, rest: bytes, end: type[Exception]) -> tuple[set[Outcome], int]:
        head = self.format.header_size
        if len(rest) >= head:
            size = int.from_bytes(rest[:head], "big")
            if size > self.format.max_size:
                return {PackageTooLarge}, 0
            if len(rest) >= head + size:
                return {rest[head : head + size]}, head + size
        return {at_end(end, in_frame=bool(rest))}, 0


@dataclass(frozen=True)
class Receive:
    """Read what there is, which any cut may make less than there is."""

    limit: int

    async def read(self, stream: FramedStream) -> bytes:
        return await stream.receive(self.limit)

    def model(self, rest: bytes, end: type[Exception]) -> tuple[set[Outcome], int]:
        return {rest[:size] for size in range(1, min(self.limit, len(rest)) + 1)} or {end}, -1


Operation = Line | Exactly | Package | Receive


def at_end(end: type[Exception], *, in_frame: bool) -> type[Exception]:
    """Return the error of a read that meets the end, or the broken connection."""
    return IncompleteRead if end is EndOfStream and in_frame else end


@dataclass(frozen=True)
class Step:
    """An operation, and the points at which it is cancelled before it may finish."""

    operation: Operation
    strikes: tuple[int, ...]


wires = st.lists(
    st.sampled_from([b"\n", b"\r\n", b"\r", b"\0", b"\1", b"\2", b"\0\3abc", b"ab", b"--", b"-"]),
    max_size=25,
).map(b"".join)
formats = st.builds(PackageFormat, st.integers(1, 4), max_size=st.integers(0, 20))
operations: st.SearchStrategy[Operation] = st.one_of(
    st.builds(
        Line, st.sampled_from([b"\n", b"\r\n", b"--", b"\0"]), st.integers(1, 20), st.booleans()
    ),
    st.builds(Exactly, st.integers(0, 12)),
    st.builds(Package, formats),
    st.builds(Receive, st.integers(1, 12)),
)
steps = st.builds(Step, operations, st.lists(st.integers(0, 6), max_size=3).map(tuple))


async def perform(step: Step, stream: FramedStream, source: ScriptedStream, rest: bytes) -> Outcome:
    """Run the step's operation, cancelled at each of its strikes until it finishes."""
    for strike in (*step.strikes, None):
        with CancelScope() as scope:
            if strike is not None:
                source.at_point(strike, scope.cancel)
            try:
                return await step.operation.read(stream)
            except ERRORS as error:
                # A class of ours that stands for one of AnyIO's has that as its only base.
                return type(error) if type(error) in ERRORS else type(error).__bases__[0]
        assert rest.startswith(stream.buffer)
        assert len(stream.buffer) + source.undelivered == len(rest)
    raise AssertionError("cancelled without a strike")


@pytest.mark.newest
@settings(max_examples=150)
@given(
    wire=wires,
    places=st.lists(st.integers(1, 60), max_size=30),
    broken=st.booleans(),
    fed=st.integers(0, 5),
    script=st.lists(steps, max_size=15),
)
async def test_reads_as_the_model_reads(
    wire: bytes, places: list[int], broken: bool, fed: int, script: list[Step]
) -> None:
    """Every outcome is the model's, and after every step every unread byte is still there."""
    end: type[Exception] = anyio.BrokenResourceError if broken else EndOfStream
    source = ScriptedStream(*cut(wire[fed:], *places))
    if broken:
        source.at_end = anyio.BrokenResourceError
    stream = FramedStream(source)
    stream.feed_data(wire[:fed])
    rest = wire
    for step in script:
        expected, taken = step.operation.model(rest, end)
        outcome = await perform(step, stream, source, rest)
        assert outcome in expected, (step, rest)
        if taken < 0:
            taken = len(outcome) if isinstance(outcome, bytes) else 0
        rest = rest[taken:]
        assert rest.startswith(stream.buffer)
        assert len(stream.buffer) + source.undelivered == len(rest)
    assert await stream.receive_exactly(len(rest)) == rest
