"""A NATS server, from Debian's package."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from .programs import Program, reserved_port


@contextmanager
def nats_server(directory: Path, *settings: str) -> Generator[Program]:
    """Run a NATS server.

    :param directory: for its configuration and its log
    :param settings: lines of its configuration
    """
    with reserved_port() as port:
        configuration = directory / "nats.conf"
        configuration.write_text("\n".join(settings) + "\n", "utf-8")
        command = ["nats-server", "-c", str(configuration), "-a", "127.0.0.1", "-p", str(port)]
        with Program("nats-server", command, port, directory / "nats.log") as program:
            yield program
