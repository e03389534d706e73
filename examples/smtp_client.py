"""An SMTP client: it is greeted, says hello and goodbye, and resets what a refusal has left open.

Start a mail server, for example with ``pip install aiosmtpd`` and ``python -m aiosmtpd -n``, then
run ``python examples/smtp_client.py [port]``. It sends three messages over one connection. Logging
in and STARTTLS are left out; where a server speaks TLS from the first byte, give the pool
``tls=True``.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass

import anyio

from anyconnpool import ConnectionPool, PooledConnection, Retry

ADDRESS = re.compile(r"[!#-;=?-~]+@[!#-;=?-~]+")
LAST_LINE = re.compile(rb"\d{3}( .*)?")
MAX_LINES = 100


class SMTPError(Exception):
    """The server has refused a command; the arguments are the code and the text of its reply."""


@dataclass
class Session:
    """What the server can do, and whether it is in the middle of a message."""

    extensions: frozenset[str]
    in_transaction: bool = False


async def receive_reply(connection: PooledConnection[object], expected: str) -> str:
    """Receive a reply of one or more lines (RFC 5321, section 4.2), and return their texts."""
    lines = [await connection.receive_line()]
    while lines[-1][3:4] == b"-" and len(lines) < MAX_LINES:
        lines.append(await connection.receive_line())
    if not LAST_LINE.fullmatch(lines[-1]):
        raise ValueError(f"{lines[-1]!r} is not the last line of a reply")
    code = lines[-1][:3].decode()
    text = b"\n".join(line[4:] for line in lines).decode("utf-8", "replace")
    if code == "421":
        raise ConnectionAbortedError(text)  # the server is about to hang up: no SMTPError
    if not code.startswith(expected):
        raise SMTPError(code, text)
    return text


async def command(connection: PooledConnection[object], line: str, expected: str = "2") -> str:
    """Send a command and receive its reply, whose code has to begin with certain digits."""
    await connection.send_line(line.encode())
    return await receive_reply(connection, expected)


async def say_hello(connection: PooledConnection) -> Session:
    """Read the greeting of a new connection, and ask what the server can do."""
    await receive_reply(connection, "220")
    _, *extensions = (await command(connection, "EHLO [127.0.0.1]")).split("\n")
    return Session(frozenset(line.split()[0].upper() for line in extensions))


async def reset(connection: PooledConnection[Session]) -> None:
    """End the transaction that a refusal has left open: the next message begins a new one."""
    if connection.session.in_transaction:
        await command(connection, "RSET")
        connection.session.in_transaction = False


async def say_goodbye(connection: PooledConnection[Session]) -> None:
    """Tell the server that nothing more will come."""
    await command(connection, "QUIT")


def make_pool(host: str, port: int, max_size: int = 4) -> ConnectionPool[Session]:
    """Make a pool that keeps to the protocol from the greeting to the farewell."""
    return ConnectionPool(
        (host, port),
        max_size=max_size,
        newline=b"\r\n",
        on_connect=say_hello,
        on_release=reset,
        on_close=say_goodbye,
        harmless=(SMTPError,),
    )


async def deliver(
    connection: PooledConnection[Session], sender: str, recipients: list[str], text: bytes
) -> str:
    """Make one transaction, and return what the server says to the message."""
    session = connection.session
    size = f" SIZE={len(text)}" if "SIZE" in session.extensions else ""
    session.in_transaction = True
    await command(connection, f"MAIL FROM:<{sender}>{size}")
    for recipient in recipients:
        await command(connection, f"RCPT TO:<{recipient}>")
    await command(connection, "DATA", "354")
    await connection.send(text)
    reply = await receive_reply(connection, "250")
    session.in_transaction = False
    return reply


class Mailer:
    """Send each message on a connection of a pool."""

    def __init__(self, pool: ConnectionPool[Session]) -> None:
        self._pool = pool

    async def send(
        self, sender: str, recipients: list[str], message: bytes, *, retry: Retry | None = None
    ) -> str:
        """Send a message to all recipients or to none; with a retry, it may arrive twice."""
        for address in (sender, *recipients):
            if not ADDRESS.fullmatch(address):
                raise ValueError(f"{address!r} is not an address")
        # Every line ends alike, and one that begins with a dot gets another one: so a line of one
        # dot, and nothing in the message, is its end.
        text = re.sub(rb"\r\n|\r|\n", b"\r\n", message.rstrip(b"\r\n")) + b"\r\n"
        text = re.sub(rb"(?m)^\.", b"..", text) + b".\r\n"
        return await self._pool.run(deliver, sender, recipients, text, timeout=60, retry=retry)


async def main(port: int) -> None:
    """Send three messages, one after the other."""
    async with make_pool("127.0.0.1", port) as pool:
        mailer = Mailer(pool)
        for number in range(1, 4):
            message = b"Subject: number %d\n\nHello.\n.\n" % number
            print(await mailer.send("me@example.com", ["you@example.com"], message))
        print("connections opened:", pool.statistics().opened)


if __name__ == "__main__":
    # backend="trio" would do as well.
    anyio.run(main, int(sys.argv[1]) if sys.argv[1:] else 8025)
