"""Read the command line, run the command, and turn failures into one line and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from anyconnpool.command._arguments import parse
from anyconnpool.command._output import discard_output, prepare_streams
from anyconnpool.command._reasons import CommandError, printable, reason
from anyconnpool.command._run import INTERRUPTED


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    :param arguments: what follows the program's name, by default the process's own
    :return: the exit code: 0, 1 if it failed, 2 if it was called wrongly, 130 after Ctrl-C
    """
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        # Also one that comes while a failure is being told.
        return INTERRUPTED


def _run(arguments: Sequence[str] | None) -> int:
    prepare_streams()
    try:
        return parse(arguments).run()
    except CommandError as error:
        return _fail(str(error), error.code)
    except BrokenPipeError:
        # Who reads our output has had enough.
        discard_output()
        return 1
    except OSError as error:
        # No descriptor is left to make an event loop with, for example.
        return _fail(reason(error), 1)


def _fail(text: str, code: int) -> int:
    # It may quote what was typed, or what a server has sent.
    sys.stderr.write(f"anyconnpool: {printable(text)}\n")
    return code
