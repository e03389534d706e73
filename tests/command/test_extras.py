"""Extras: nothing is imported without being asked for, and what is missing is told."""

from __future__ import annotations

import json

from tests.cases import table
from tests.sockets.servers import Server

from .programs import finish, start

_WITHOUT = """\
import sys


class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}")


sys.meta_path.insert(0, Absent())
from anyconnpool.command import main
sys.exit(main())
"""
_TELL_IMPORTS = """\
import json, sys
import {module}
print(json.dumps(sorted(name.partition(".")[0] for name in sys.modules)))
print(json.dumps([name for name in sys.modules if name.startswith("anyconnpool.command")]))
"""


def imported_by(module: str) -> tuple[set[str], list[str]]:
    """Return the packages that a module imports, and those modules of the command line."""
    code, output, errors = finish(start(program=_TELL_IMPORTS.format(module=module)))
    assert (code, errors) == (0, "")
    packages, commands = map(json.loads, output.splitlines())
    return set(packages), commands


def test_the_package_imports_nothing_of_it() -> None:
    """`import anyconnpool` imports neither the command line nor what it needs."""
    packages, commands = imported_by("anyconnpool")
    assert not packages & {"rich", "matplotlib", "numpy", "trio", "uvloop", "argparse"}
    assert not commands


def test_the_command_line_imports_no_extra_before_it_is_needed() -> None:
    """The command line itself starts without a package of an extra."""
    packages, _ = imported_by("anyconnpool.command")
    assert not packages & {"rich", "matplotlib", "numpy", "shtab", "trio", "uvloop"}


@table(
    "absent, options, install",
    [
        ("rich", (), "cli"),
        ("matplotlib", ("--json", "--plot", "sizes.svg"), "cli"),
        ("uvloop", ("--json", "--backend", "uvloop"), "uvloop"),
        ("trio", ("--json", "--backend", "trio"), "trio"),
        ("shtab", None, "cli"),
    ],
)
def test_what_is_missing_is_told(
    absent: str, options: tuple[str, ...] | None, install: str
) -> None:
    """Without its package an option ends with code 2, before anything is opened."""
    program = _WITHOUT.format(absent={absent})
    load = ("load", "tcp://127.0.0.1:1", *(options or ()))
    arguments = load if options is not None else ("--print-completion", "bash")
    code, output, errors = finish(start(*arguments, program=program))
    assert (code, output) == (2, "")
    assert errors.count("\n") == 1
    assert f"needs {absent}" in errors
    assert f"pip install 'anyconnpool[{install}]'" in errors


def test_json_needs_no_extra(url: str, server: Server) -> None:
    """A load whose results go to a machine works without any package of an extra."""
    program = _WITHOUT.format(absent={"rich", "matplotlib", "shtab", "trio", "uvloop"})
    options = ("--json", "--duration", 0.1, "--connections", 1)
    code, output, errors = finish(start("load", url, *options, program=program))
    assert (code, errors) == (0, "")
    assert json.loads(output)["pooled"][0]["answered"]
