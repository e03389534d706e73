"""Ctrl-C: what there is so far is told, nothing else, and the exit code says so."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from anyconnpool.command._reasons import CommandError
from anyconnpool.command._run import run
from tests.sockets.servers import Peer, Server

from .programs import echo_server, finish, make_echo, start

#: what a program does whose parent ignores Ctrl-C
_IGNORES_CTRL_C = """\
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
from anyconnpool.command import main
sys.exit(main())
"""

#: a program whose lookups get no answer, on the loops that look up in a thread of Python's: one
#: that sleeps for longer than the test may last, and that nobody waits for
_LOOKS_UP_FOR_EVER = """\
import signal, socket, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
def look_up(*args, **options):
    if not (options.get("flags", 0) or args[-1]) & socket.AI_NUMERICHOST:
        sys.stderr.write("looking up\\n")
        sys.stderr.flush()
        time.sleep(90)
    raise socket.gaierror(socket.EAI_NONAME, "no such name")
socket.getaddrinfo = look_up
from anyconnpool.command import main
sys.exit(main())
"""


class CountedLines:
    """A script that echoes lines, and knows when some have come."""

    def __init__(self, enough: int) -> None:
        self.reached = threading.Event()
        self._missing = enough

    def __call__(self, peer: Peer) -> None:
        while True:
            line = peer.receive_line()
            self._missing -= 1
            if self._missing <= 0:
                self.reached.set()
            peer.send(line + b"\n")


@pytest.mark.parametrize("json_option", [(), ("--json",)], ids=["table", "json"])
def test_a_load_tells_what_there_is(
    backend: str, json_option: tuple[str, ...], tmp_path: Path
) -> None:
    """A load that is interrupted tells its unfinished point, with code 130 and no traceback."""
    lines = CountedLines(5)
    with Server("tcp", tmp_path, lines) as server:
        url = "tcp://{}:{}".format(*server.remote)
        options = json_option or ("--plot", tmp_path / "sizes.svg")
        process = start("load", url, "--duration", 60, "--tasks", 1, "--backend", backend, *options)
        try:
            assert lines.reached.wait(40)
            process.send_signal(signal.SIGINT)
        finally:
            code, output, errors = finish(process)
    assert (code, errors) == (130, "")
    if json_option:
        told = json.loads(output)
        assert told["interrupted"]
        assert [point["max_size"] for point in told["pooled"]] == [1]
        assert told["pooled"][0]["answered"] >= 3
        assert told["unpooled"] is None
    else:
        assert output.startswith("Interrupted: this is what there is so far.\n")
        assert "requests/s" in output
        assert (tmp_path / "sizes.svg").exists()


def test_before_there_is_anything(backend: str, tmp_path: Path) -> None:
    """A load that is interrupted before its first reply says so, and no more."""
    accepted = CountedLines(1)

    def swallow(peer: Peer) -> None:
        peer.receive_line()
        accepted.reached.set()
        peer.receive_line()

    with Server("tcp", tmp_path, swallow) as server:
        url = "tcp://{}:{}".format(*server.remote)
        process = start("load", url, "--backend", backend, "--plot", tmp_path / "sizes.svg")
        try:
            assert accepted.reached.wait(40)
            process.send_signal(signal.SIGINT)
        finally:
            code, output, errors = finish(process)
    assert (code, errors) == (130, "")
    assert output.startswith("Interrupted")
    assert not (tmp_path / "sizes.svg").exists()


def test_a_client_that_waits_for_input(backend: str) -> None:
    """A client that waits for a line of a terminal or a pipe is interrupted at once."""
    with echo_server() as url:
        client = start("echo-client", url, "--backend", backend)
        try:
            make_echo(client, "hi")
            client.send_signal(signal.SIGINT)
            assert client.wait(40) == 130
        finally:
            code, _, errors = finish(client)
    assert (code, errors) == (130, "")


def test_a_server_with_clients(backend: str) -> None:
    """Ctrl-C ends a server cleanly, with code 0, also while clients are connected."""
    server = start("echo-server", "--port", 0, "--backend", backend)
    assert server.stdout is not None
    url = server.stdout.readline().split()[2].rstrip(",")
    client = start("echo-client", url)
    try:
        make_echo(client, "hi")
        server.send_signal(signal.SIGINT)
    finally:
        ended = finish(server)
        finish(client)
    assert ended == (0, "", "")


def test_where_ctrl_c_is_ignored_it_stays_so(backend: str) -> None:
    """A program in the background of a script, where Ctrl-C is ignored, is not ended by it."""
    with echo_server() as url:
        client = start("echo-client", url, "--backend", backend, program=_IGNORES_CTRL_C)
        try:
            make_echo(client, "one")
            client.send_signal(signal.SIGINT)
        finally:
            ended = finish(client, "two\n")
    assert ended == (0, "two\n", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.usefixtures("ctrl_c_is_heard")
def test_a_signal_cancels_the_command(backend: str, number: signal.Signals) -> None:
    """Both signals cancel the command once it can be cancelled, however often they come."""
    ended: list[str] = []

    async def command() -> None:
        try:
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)
            await anyio.sleep_forever()
        finally:
            ended.append("cancelled")

    assert run(backend, command)
    assert ended == ["cancelled"]


@pytest.mark.usefixtures("ctrl_c_is_heard")
def test_a_command_that_ends_by_itself(backend: str) -> None:
    """Without a signal, a command's error leaves as it is, and its end is no interruption."""

    async def fail() -> None:
        raise CommandError("this")

    async def succeed() -> None:
        await anyio.lowlevel.checkpoint()

    assert not run(backend, succeed)
    with pytest.raises(CommandError, match=r"^this$"):
        run(backend, fail)


def test_nothing_to_listen_for(backend: str) -> None:
    """Where both signals are ignored, a command runs all the same."""

    async def succeed() -> None:
        await anyio.lowlevel.checkpoint()

    handlers = {
        number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        assert not run(backend, succeed)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_a_lookup_that_gets_no_answer(loop: str) -> None:
    """Nobody waits for its thread: neither the event loop nor Python's own end."""
    client = start(
        "echo-client", "tcp://host.invalid:1", "hi", "--backend", loop, program=_LOOKS_UP_FOR_EVER
    )
    try:
        assert client.stderr is not None
        assert client.stderr.readline() == "looking up\n"
        client.send_signal(signal.SIGINT)
    finally:
        ended = finish(client)
    assert ended == (130, "", "")
