"""Options that print something about the program itself, and end it."""

from __future__ import annotations

import argparse
import platform
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import PurePath
from typing import Any

from anyconnpool.command._output import standard_output
from anyconnpool.command._reasons import require

#: the shells that can complete commands and options
SHELLS = ("bash", "fish", "tcsh", "zsh")

_SCRIPT = "anyconnpool"


def program_name() -> str:
    """Return how the program was called: by its script, or as a module."""
    called = PurePath(sys.argv[0]).stem
    return _SCRIPT if called == _SCRIPT else f"python -m {_SCRIPT}"


def completes_files(action: argparse.Action) -> None:
    """Let shells complete the argument of an option with the names of files."""
    # Where shtab looks for it.
    vars(action)["complete"] = "file"


class PrintAndEnd(argparse.Action):
    """An option that prints something and ends the program.

    :param text: makes what is printed, from the parser and the option's argument
    """

    def __init__(self, *, text: Callable[[ArgumentParser, str], str], **options: Any) -> None:
        super().__init__(**options)
        self._text = text

    def __call__(
        self,
        parser: ArgumentParser,
        namespace: Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        text = self._text(parser, str(values))
        with standard_output() as output:
            output.write(f"{text}\n")
        parser.exit()


def version_text(parser: ArgumentParser, value: str) -> str:
    """Return the versions of the package and of what it runs on."""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{_SCRIPT} {_version_of(_SCRIPT)} (AnyIO {_version_of('anyio')}, {python})"


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        # It runs where it was unpacked.
        return "of unknown version"


def completion_text(parser: ArgumentParser, shell: str) -> str:
    """Return the script that makes a shell complete the program's commands and options.

    :raises CommandError: if the package that makes it is not installed
    """
    require("shtab", "cli")
    # A shell completes the installed script, whichever way this was called.
    parser.prog = _SCRIPT
    text: str = import_module("shtab").complete(parser, shell)
    return text
