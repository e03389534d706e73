"""The SMTP client of examples/ talks to aiosmtpd."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anyconnpool import ConnectionPool, FramedStream
from anyconnpool.testing import MemoryConnectable
from tests.cases import table
from tests.examples.programs import load, run

from .checks import fill, until_at_rest
from .mail import MailServer, mail_server
from .upheaval import live_through_deaths

example = load("smtp_client")

ME, YOU = "me@example.com", "you@example.com"
SAYS = ["kept number 1", "kept number 2", "kept number 3"]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MailServer]:
    """Run a mail server."""
    with mail_server(tmp_path) as program:
        yield program


async def test_the_smtp_client(server: MailServer, capsys: pytest.CaptureFixture[str]) -> None:
    """It sends three messages, on every backend, and says goodbye on each connection."""
    await example.main(server.remote[1])
    *lines, last = capsys.readouterr().out.splitlines()
    assert lines == SAYS
    assert last == f"connections opened: {len(server.written('QUIT'))}"


def test_the_smtp_client_as_a_program(server: MailServer, tmp_path: Path) -> None:
    """Its command runs it to its end."""
    assert run("smtp_client", server.remote[1], directory=tmp_path)[:-1] == SAYS


async def test_every_connection_ends_with_a_farewell(server: MailServer) -> None:
    """As many sessions are ended by QUIT as were begun."""
    async with example.make_pool(*server.remote) as pool:
        await fill(pool)
        pool.retire()
        await until_at_rest(pool)
        assert len(server.written("QUIT")) == pool.max_size
        await fill(pool)
    assert len(server.written("QUIT")) == 2 * pool.max_size


async def test_a_refusal_leaves_nothing_to_the_next_message(server: MailServer) -> None:
    """The connection stays, but its transaction is reset, once, before the next one begins."""
    async with example.make_pool(*server.remote, max_size=1) as pool:
        mailer = example.Mailer(pool)
        for number in range(3):
            with pytest.raises(example.SMTPError, match="no such mailbox") as caught:
                await mailer.send(ME, [YOU, "nobody@example.com"], b"Subject: no\n\n")
            assert caught.value.args[0] == "550"
            assert await mailer.send(ME, [YOU], b"Subject: %d\n\n" % number) == f"kept {number}"
        await until_at_rest(pool)
        assert pool.statistics().opened == 1
        assert len(server.written("RSET")) == 3
        assert [message["recipients"] for message in server.written("message")] == [[YOU]] * 3


async def test_no_line_of_a_message_ends_it(server: MailServer) -> None:
    """Dots and line ends of every kind arrive as lines of the message."""
    text = b"Subject: dots\n\n.\n..\r\n.\r.one\n\r\n.\r\nMAIL FROM:<you@example.com>\nlast"
    async with example.make_pool(*server.remote) as pool:
        assert await example.Mailer(pool).send(ME, [YOU], text) == "kept dots"
    (message,) = server.written("message")
    expected = "Subject: dots\n\n.\n..\n.\n.one\n\n.\nMAIL FROM:<you@example.com>\nlast\n"
    assert message["content"] == expected.replace("\n", "\r\n")


@table("address", ["", "me", "me@", "me@here>", "a b@c", "me@here\r\nRSET", "@", "é@here", "<a@b"])
async def test_what_is_no_address_is_never_sent(address: str) -> None:
    """Nobody adds a command of his own by way of an address."""
    pool = example.make_pool("127.0.0.1", 1)
    for sender, recipient in ((address, YOU), (ME, address)):
        with pytest.raises(ValueError, match="is not an address"):
            await example.Mailer(pool).send(sender, [recipient], b"")


@table(
    "reply, error",
    [
        (b"421 closing", ConnectionAbortedError),
        (b"rubbish", ValueError),
        (b"25", ValueError),
        (b"250-again\r\n" * 100, ValueError),
    ],
)
async def test_only_a_refusal_is_harmless(reply: bytes, error: type[Exception]) -> None:
    """After a reply that ends the session, or that is none, the connection is closed."""

    async def peer(stream: FramedStream) -> None:
        await stream.send(b"220 hello\r\n")
        await stream.receive_line()
        await stream.send(b"250-here\r\n250 SIZE 1000\r\n")
        assert await stream.receive_line(newline=b"\r\n") == b"MAIL FROM:<me@example.com> SIZE=10"
        await stream.send(reply + b"\r\n")
        await stream.receive()

    async with MemoryConnectable(peer) as remote:
        pool: ConnectionPool[Any] = ConnectionPool(
            remote,
            newline=b"\r\n",
            on_connect=example.say_hello,
            on_release=example.reset,
            on_close=example.say_goodbye,
            harmless=(example.SMTPError,),
        )
        async with pool:
            with pytest.raises(error):
                await example.Mailer(pool).send(ME, [YOU], b"hello")
            await until_at_rest(pool)
            assert pool.statistics().closed == {"unclean": 1}


async def test_whatever_dies_every_message_arrives_once_or_fails(
    server: MailServer, seed: int, anyio_backend: tuple[str, Any]
) -> None:
    """While the server is killed and callers give up, no message is lost, doubled or misled."""
    acknowledged: list[str] = []

    async with example.make_pool(*server.remote) as pool:
        mailer = example.Mailer(pool)

        async def ask(number: int) -> None:
            recipients = [f"r{number}@example.com", "nobody@example.com"][: 2 - number % 3 % 2]
            message = b"Subject: %d\n\n" % number + b"and so on\n" * (number % 7 * 100)
            try:
                reply = await mailer.send(f"s{number}@example.com", recipients, message)
            except example.SMTPError:
                if len(recipients) == 1:
                    raise
            else:
                assert reply == f"kept {number}"
                acknowledged.append(str(number))

        await live_through_deaths(pool, server, ask, seed, anyio_backend[0] == "asyncio")
    stored = server.written("message")
    subjects = [message["subject"] for message in stored]
    assert len(set(subjects)) == len(subjects)
    assert set(acknowledged) <= set(subjects)
    for message in stored:
        number = message["subject"]
        assert message["sender"] == f"s{number}@example.com"
        assert message["recipients"] == [f"r{number}@example.com"]
