"""A mail server as the SMTP client of examples/ meets it, and what it has written down."""

from __future__ import annotations

import json
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .programs import Program, reserved_port

_SCRIPT = Path(__file__).with_name("mail_server.py")


class MailServer(Program):
    """The mail server.

    :param port: where it listens
    :param directory: for its journal
    """

    def __init__(self, port: int, directory: Path) -> None:
        self._journal = directory / "journal"
        command = [sys.executable, str(_SCRIPT), str(port), str(self._journal)]
        super().__init__("python3", command, port, directory / "mail.log")

    def written(self, what: str) -> list[dict[str, Any]]:
        """Return what was written down of one kind: ``message``, ``RSET`` or ``QUIT``."""
        lines = map(json.loads, self._journal.read_text("utf-8").splitlines())
        return [line for line in lines if line["what"] == what]


@contextmanager
def mail_server(directory: Path) -> Generator[MailServer]:
    """Run a mail server.

    :param directory: for its journal
    """
    with reserved_port() as port, MailServer(port, directory) as program:
        yield program
