"""Write to standard output: what people read without what their terminal would obey."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import TextIO

from anyconnpool.command._reasons import CommandError, printable, reason


def prepare_streams() -> None:
    """Open the standard streams that are closed, and let standard output take every character.

    Otherwise the next socket would get the number of a closed one. As with Python's own ``print``,
    what is written to one that was closed goes nowhere.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            fd = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, open(fd, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
    # As standard error has it: "\xe9" where a terminal or a locale can't show an "é".
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")


@contextmanager
def standard_output() -> Generator[TextIO]:
    """Write to standard output in the block.

    :raises CommandError: if nothing can be written there
    :raises BrokenPipeError: if its reader has gone
    """
    try:
        yield sys.stdout
        sys.stdout.flush()
    except OSError as error:
        discard_output()
        if isinstance(error, BrokenPipeError):
            raise
        raise CommandError(f"can't write to standard output: {reason(error)}") from error


def discard_output() -> None:
    """Throw away what is still to be written: Python would complain when it flushes at the end."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())
    os.close(devnull)


def write_reply(reply: bytes) -> None:
    """Write a reply and a newline: byte by byte to a file or pipe, escaped to a terminal.

    :raises CommandError: if nothing can be written there
    :raises BrokenPipeError: if its reader has gone
    """
    with standard_output() as output:
        if output.isatty():
            output.write(readable(reply) + "\n")
        else:
            output.buffer.write(reply + b"\n")


def readable(data: bytes) -> str:
    """Return what a peer has sent as text that does nothing to a terminal.

    Newlines, with a carriage return before them or without, and tabs are left; what is neither
    UTF-8 nor printable is escaped as in Python.
    """
    lines = data.decode("utf-8", "backslashreplace").split("\n")
    return "\n".join(
        "\t".join(map(printable, line.removesuffix("\r").split("\t"))) for line in lines
    )
