"""Run the command line in processes of their own, as its users do, with warnings as errors."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager

# It may be started where Ctrl-C is ignored, as in the background of a script.
_HEARS_CTRL_C = """\
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from anyconnpool.command import main
sys.exit(main())
"""


def start(
    *arguments: object,
    program: str = _HEARS_CTRL_C,
    stdout: int = subprocess.PIPE,
    env: Mapping[str, str] | None = None,
) -> subprocess.Popen[str]:
    """Start a command; it is given 40 s at most by those who wait for it.

    :param stdout: what its standard output is
    :param env: what is added to its environment
    """
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(env or {})},
    )


def finish(process: subprocess.Popen[str], text: str = "") -> tuple[int, str, str]:
    """Wait for the end of a command; return its exit code and what it wrote to its two outputs.

    :param text: what it reads from standard input
    """
    with process:
        try:
            output, errors = process.communicate(text, timeout=40)
        finally:
            process.kill()
    return process.returncode, output, errors


def make_echo(client: subprocess.Popen[str], line: str) -> None:
    """Give an echo client a line to send, and see that the reply comes."""
    assert client.stdin is not None
    assert client.stdout is not None
    client.stdin.write(f"{line}\n")
    client.stdin.flush()
    assert client.stdout.readline() == f"{line}\n"


@contextmanager
def echo_server(*arguments: object, program: str = _HEARS_CTRL_C) -> Generator[str]:
    """Run an echo server on any free port; at the end, see that it ends cleanly.

    :return: its URL
    """
    process = start("echo-server", "--port", 0, *arguments, program=program)
    try:
        assert process.stdout is not None
        announced = re.fullmatch(
            r"listening on (\S+), format \w+; Ctrl-C ends it\n", process.stdout.readline()
        )
        assert announced, "the server announces its URL"
        yield announced[1]
    finally:
        process.terminate()
        code, output, errors = finish(process)
    assert (code, output, errors) == (0, "", "")
