"""A mail server, aiosmtpd, as a program of its own: ``mail_server.py port journal``.

It refuses recipients whose names begin with "nobody". What it answers to a message names the
subject. In the journal, a line of JSON each, it writes down which messages it has accepted, and
when a session was reset or ended by a farewell.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from email import message_from_bytes
from typing import Any

from aiosmtpd.smtp import SMTP

Envelope = Any


class Clerk:
    """Decide what is accepted.

    :param journal: the path of the journal
    """

    def __init__(self, journal: str) -> None:
        # A write is one call of the system: a SIGKILL leaves no half of a line.
        self._journal = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write_down(self, what: str, **details: object) -> None:
        line = json.dumps({"what": what, **details})
        os.write(self._journal, line.encode() + b"\n")

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Any, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address.startswith("nobody"):
            return "550 5.1.1 there is no such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Any, envelope: Envelope) -> str:  # noqa: N802
        subject = message_from_bytes(envelope.content)["Subject"]
        self.write_down(
            "message",
            subject=subject,
            sender=envelope.mail_from,
            recipients=envelope.rcpt_tos,
            content=envelope.content.decode(),
        )
        return f"250 kept {subject}"

    async def handle_RSET(self, server: SMTP, session: Any, envelope: Envelope) -> str:  # noqa: N802
        self.write_down("RSET")
        return "250 OK"

    async def handle_QUIT(self, server: SMTP, session: Any, envelope: Envelope) -> str:  # noqa: N802
        self.write_down("QUIT")
        return "221 Bye"


async def main(port: int, journal: str) -> None:
    """Serve until the program is killed."""
    clerk = Clerk(journal)
    # With a host name given, it asks no name server for one.
    server = await asyncio.get_running_loop().create_server(
        lambda: SMTP(clerk, hostname="localhost"), "127.0.0.1", port
    )
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
