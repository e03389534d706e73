"""The program with the servers of the documentation's examples, run for a test."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

LINE = re.compile(r"127\.0\.0\.1:(\d+) \(instead of (\d+)\)  \S.*\n")


# The program, which also ends when whoever has started it is gone, however that came about.
PROGRAM = """
import os, threading
from anyconnpool.testing._example_servers import main
threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()
raise SystemExit(main())
"""


@contextmanager
def example_servers(*options: str) -> Generator[dict[int, int]]:
    """Run it, with whatever ports are free; yield these by the ports that the pages name."""
    command = [sys.executable, "-W", "error", "-c", PROGRAM, "--any-port", *options]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        ports: dict[int, int] = {}
        try:
            while (line := process.stdout.readline()) != "Ctrl-C ends them\n":
                announced = LINE.fullmatch(line)
                assert announced, line
                ports[int(announced[2])] = int(announced[1])
            yield ports
            assert process.poll() is None, "it has ended, although nobody asked it to"
        finally:
            process.terminate()


def certificates(directory: Path) -> list[Path]:
    """Return the files that it writes."""
    return [directory / "ca.pem", directory / "client.pem"]
