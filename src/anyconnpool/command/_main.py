"""Read the command line, run the command, and turn failures into one line and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from anyconnpool.command._arguments import parse
from anyconnpool.command._reasons import CommandError
from anyconnpool.command._run import INTERRUPTED


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    :param arguments: what follows the program's name, by default the process's own
    :return: the exit code: 0, 1 if it failed, 2 if it was called wrongly, 130 after Ctrl-C
    """
    try:
        return parse(arguments).run()
    except CommandError as error:
        sys.stderr.write(f"anyconnpool: {error}\n")
        return error.code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Who reads our output has had enough; Python would complain when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
